"""Test-time augmentation: an image is looked at in several sizes and mirrored (paper, appendix B).

`MaskRCNN.detect` comes here where TEST_SCALES or TEST_FLIP is set. As in the paper's code, the
detections of all views are pooled and suppressed once more by class; masks and keypoints are those
of the final boxes, the mean over the views of what the heads give there. The maps of all views of
one image are in memory at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from keras import ops

from mrcnn import inference, keypoints, utils

if TYPE_CHECKING:
    from mrcnn.model import MaskRCNN


@dataclasses.dataclass
class View:
    """One look at an image.

    Attributes:
        flip: whether it is mirrored.
        meta: [meta].
        shape: (h, w, C) of the molded view.
        window: (y1, x1, y2, x2) of the image in it.
        frame: BOX_FRAME.
        maps: feature maps.
        detections: [N, 6] of the view, normalised.
    """

    flip: bool
    meta: np.ndarray
    shape: tuple
    window: tuple
    frame: str
    maps: list
    detections: np.ndarray

    def to_image(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [N, 4] normalised in the view to boxes normalised in the image."""
        shift, scale = self._frame()
        boxes = (boxes - shift) / scale
        if self.flip:
            boxes = _mirrored(boxes)
        return boxes

    def from_image(self, boxes: np.ndarray) -> np.ndarray:
        """Inverse of `to_image`."""
        if self.flip:
            boxes = _mirrored(boxes)
        shift, scale = self._frame()
        return boxes * scale + shift

    def _frame(self) -> tuple[np.ndarray, np.ndarray]:
        """Shift and scale [4] of the image's boxes in the view."""
        window = utils.norm_boxes(self.window, self.shape[:2], self.frame)
        start = window[:2]
        end = window[2:]
        return np.tile(start, 2), np.tile(end - start, 2)


def _mirrored(boxes: np.ndarray) -> np.ndarray:
    """Boxes [N, 4], normalised, of the mirror image."""
    y1, x1, y2, x2 = boxes.T
    return np.stack([y1, 1 - x2, y2, 1 - x1], axis=1)


def detect(model: MaskRCNN, images: Sequence[np.ndarray], masks: str = "dense") -> list[dict]:
    """`MaskRCNN.detect` with the views that the model's TEST_SCALES and TEST_FLIP ask for."""
    results = []
    for i, image in enumerate(images):
        results.append(_detect_one(model, np.asarray(image), f"image {i}", masks))
    return results


def _detect_one(model: MaskRCNN, image: np.ndarray, where: str, form: str) -> dict:
    """The result of one image; `where` names it in messages, `form` is that of its masks."""
    config = model.config
    views = _views(model, image, where)
    boxes = np.concatenate([_image_boxes(view) for view in views])
    rows = np.concatenate([view.detections[:, 4:] for view in views])
    class_ids, scores = rows.T
    kept = _suppress(boxes, class_ids, scores, config.DETECTION_NMS_THRESHOLD)
    kept = kept[: config.DETECTION_MAX_INSTANCES]
    boxes = boxes[kept]
    rows = rows[kept]
    # As detections of the first view, which is not mirrored, they go the way of all others.
    first = views[0]
    detections = np.concatenate([first.from_image(boxes), rows], axis=1).astype(np.float32)
    masks = None
    if config.USE_MASK:
        masks = _mean(model, "masks", views, boxes, class_ids=rows[:, 0])[None]
    points = None
    if config.USE_KEYPOINTS:
        flip_pairs = config.KEYPOINT_FLIP_PAIRS
        points = _mean(model, "keypoints", views, boxes, flip_pairs)[None]
    parts = [detections[None], masks, points]
    return inference.result(parts, 0, image.shape, first.shape, first.window, config, form)


def _image_boxes(view: View) -> np.ndarray:
    """The boxes [N, 4] of a view's detections, normalised in the image."""
    return view.to_image(view.detections[:, :4].astype(np.float64))


def _views(model: MaskRCNN, image: np.ndarray, where: str) -> list[View]:
    """All views of an image; the first is not mirrored."""
    config = model.config
    flips = [False]
    if config.TEST_FLIP:
        flips.append(True)
    views = []
    for min_dim in config.TEST_SCALES or (config.IMAGE_MIN_DIM,):
        for flip in flips:
            views.append(_look(model, image, where, min_dim, flip))
    return views


def _look(model: MaskRCNN, image: np.ndarray, where: str, min_dim: int, flip: bool) -> View:
    """Runs the box part of the network on one view of an image."""
    if flip:
        image = image[:, ::-1]
    molded, meta, window = inference.mold(image, model.config, where, min_dim)
    anchors = model.get_anchors(molded.shape)
    inputs = [_tensor(value[None]) for value in (molded, meta, anchors)]
    detections, *maps = inference.compiled(model, "boxes")(*inputs)
    detections = ops.convert_to_numpy(detections)[0]
    detections = detections[detections[:, 4] > 0]
    frame = model.config.BOX_FRAME
    return View(flip, meta, molded.shape, window, frame, maps, detections)


def _tensor(values: np.ndarray, dtype: str = "float32") -> Any:
    """An array as a tensor of Keras."""
    return ops.convert_to_tensor(values, dtype)


def _suppress(
    boxes: np.ndarray, class_ids: np.ndarray, scores: np.ndarray, threshold: float
) -> np.ndarray:
    """Rows that stay, best first: of two of a class with a higher IoU only the better one."""
    kept = [np.zeros(0, int)]
    for class_id in np.unique(class_ids):
        rows = np.flatnonzero(class_ids == class_id)
        chosen = utils.non_max_suppression(boxes[rows], scores[rows], threshold)
        kept.append(rows[chosen])
    all_kept = np.concatenate(kept)
    return all_kept[np.argsort(-scores[all_kept], kind="stable")]


def _mean(
    model: MaskRCNN,
    name: str,
    views: Sequence[View],
    boxes: np.ndarray,
    flip_pairs: Sequence[tuple[int, int]] = (),
    class_ids: np.ndarray | None = None,
) -> np.ndarray:
    """Mean over the views of a head's maps in the boxes: [N, h, w, ...]."""
    head = inference.compiled(model, name)
    count = max(len(boxes), 1)
    rows = np.zeros((1, count, 4), np.float32)
    classes = []
    if class_ids is not None:
        classes.append(_tensor(np.resize(class_ids, (1, count)), "int32"))
    total: Any = 0.0
    for view in views:
        rows[0, : len(boxes)] = view.from_image(boxes)
        outputs = head(_tensor(rows), _tensor(view.meta[None]), *view.maps, *classes)
        maps = ops.convert_to_numpy(outputs)[0, : len(boxes)]
        if view.flip:
            maps = maps[:, :, ::-1]
        if view.flip and flip_pairs:
            maps = keypoints.swap(maps[..., None], flip_pairs)[..., 0]
        total = total + maps
    return total / len(views)
