"""Test-time augmentation: an image is looked at in several sizes and mirrored (paper, appendix B).

`MaskRCNN.detect` comes here where TEST_SCALES or TEST_FLIP is set. As in the paper's code, the
detections of all views are pooled and suppressed once more by class; masks and keypoints are those
of the final boxes, the mean over the views of what the heads give there. The maps of all views of
one image are in memory at once.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from mrcnn import boxes as box_math, inference, keypoints


@dataclasses.dataclass
class View:
    """One look at an image.

    Attributes:
        flip: whether it is mirrored.
        molded: the view as the network takes it.
        metas: [1, meta] as a tensor.
        frame: BOX_FRAME.
        maps: feature maps.
        detections: [N, 6] of the view, normalised.
    """

    flip: bool
    molded: inference.Molded
    metas: Any
    frame: str
    maps: list
    detections: np.ndarray

    def to_image(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [N, 4] normalised in the view to boxes normalised in the image."""
        shift, scale = self._window()
        boxes = (boxes - shift) / scale
        if self.flip:
            return _mirrored(boxes)
        return boxes

    def from_image(self, boxes: np.ndarray) -> np.ndarray:
        """Inverse of `to_image`."""
        shift, scale = self._window()
        if self.flip:
            boxes = _mirrored(boxes)
        return boxes * scale + shift

    def _window(self):
        """Where the image's normalised coordinates begin in the view's, and their size there."""
        shape = self.molded.image.shape[:2]
        window = box_math.norm_boxes(self.molded.window, shape, self.frame)
        return np.tile(window[:2], 2), np.tile(window[2:] - window[:2], 2)


def _mirrored(boxes):
    return np.stack([boxes[:, 0], 1 - boxes[:, 3], boxes[:, 2], 1 - boxes[:, 1]], axis=1)


def detect(model: Any, images: Sequence, masks: str = "dense") -> list[dict]:
    """`MaskRCNN.detect` with the views that the model's TEST_SCALES and TEST_FLIP ask for."""
    results = []
    for i, image in enumerate(images):
        results.append(_detect_one(model.detector, np.asarray(image), f"image {i}", masks))
    return results


def _detect_one(detector, image, where, form):
    config = detector.config
    views = _views(detector, image, where)
    boxes = [view.to_image(view.detections[:, :4].astype(np.float64)) for view in views]
    boxes = np.concatenate(boxes)
    rows = np.concatenate([view.detections[:, 4:] for view in views])
    class_ids = rows[:, 0]
    scores = rows[:, 1]
    kept = _suppress(boxes, class_ids, scores, config.DETECTION_NMS_THRESHOLD)
    kept = kept[: config.DETECTION_MAX_INSTANCES]
    boxes = boxes[kept]
    rows = rows[kept]
    masks = points = None
    if config.USE_MASK:
        masks = _mean(detector, "masks", views, boxes, class_ids=rows[:, 0])[None]
    if config.USE_KEYPOINTS:
        points = _mean(detector, "keypoints", views, boxes, config.KEYPOINT_FLIP_PAIRS)[None]
    # As detections of the first view, which is not mirrored, they go the way of all others.
    first = views[0]
    detections = np.concatenate([first.from_image(boxes), rows], axis=1).astype(np.float32)
    outputs = inference.Outputs(detections[None], masks, points)
    shape = first.molded.image.shape
    return inference.result(outputs, 0, image.shape, shape, first.molded.window, config, form)


def _views(detector, image, where):
    """The views of an image; the first is not mirrored."""
    config = detector.config
    flips = [False]
    if config.TEST_FLIP:
        flips = [False, True]
    views = []
    min_dims = config.TEST_SCALES
    if not len(min_dims):
        min_dims = (config.IMAGE_MIN_DIM,)
    for min_dim in min_dims:
        for flip in flips:
            views.append(_look(detector, image, where, min_dim, flip))
    return views


def _look(detector, image, where, min_dim, flip):
    """Runs the box part of the network on one view of an image."""
    config = detector.config
    if flip:
        image = image[:, ::-1]
    molded = inference.mold(image, config, where, min_dim)
    anchors = detector.get_anchors(molded.image.shape)
    detections, maps, metas = detector.infer_boxes(
        molded.image[None], np.asarray(molded.meta)[None], anchors
    )
    detections = detections[0]
    is_detection = detections[:, 4] > 0
    return View(flip, molded, metas, config.BOX_FRAME, maps, detections[is_detection])


def _suppress(boxes, class_ids, scores, threshold):
    """Rows that stay, best first: of two of a class with a higher IoU only the better one."""
    kept = [np.zeros(0, int)]
    for class_id in np.unique(class_ids):
        rows = np.flatnonzero(class_ids == class_id)
        kept.append(rows[box_math.non_max_suppression(boxes[rows], scores[rows], threshold)])
    kept = np.concatenate(kept)
    return kept[np.argsort(-scores[kept], kind="stable")]


def _mean(detector, name, views, boxes, flip_pairs=(), class_ids=None):
    """Mean over the views of a head's maps in the boxes: [N, h, w, ...]."""
    # A head is not run on no row at all.
    rows = np.zeros((1, max(len(boxes), 1), 4), np.float32)
    if class_ids is not None:
        class_ids = np.resize(class_ids, (1, rows.shape[1]))
    total = 0.0
    for view in views:
        rows[0, : len(boxes)] = view.from_image(boxes)
        maps = detector.infer_head(name, rows, view.metas, view.maps, class_ids)[0, : len(boxes)]
        if view.flip:
            maps = maps[:, :, ::-1]
            if flip_pairs:
                maps = keypoints.swap(maps[..., None], flip_pairs)[..., 0]
        total = total + maps
    return total / len(views)
