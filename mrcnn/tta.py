"""Test-time augmentation: an image is looked at in several sizes and mirrored (paper, appendix B).

`MaskRCNN.detect` comes here where TEST_SCALES or TEST_FLIP is set. As in the paper's code, the
detections of all views are pooled and suppressed once more by class; masks and keypoints are those
of the final boxes, the mean over the views of what the heads give there. The maps of all views of
one image are in memory at once.
"""

import dataclasses

import numpy as np
from keras import ops

from mrcnn import inference, keypoints, utils


@dataclasses.dataclass
class View:
    """One look at an image.

    Attributes:
        flip: whether it is mirrored.
        meta: [meta]; shape: (h, w, C) of the molded view; window: (y1, x1, y2, x2) of the image in
            it.
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

    def to_image(self, boxes):
        """Boxes [N, 4] normalised in the view to boxes normalised in the image."""
        shift, scale = self._frame()
        boxes = (boxes - shift) / scale
        return _mirrored(boxes) if self.flip else boxes

    def from_image(self, boxes):
        """Inverse of `to_image`."""
        shift, scale = self._frame()
        return (_mirrored(boxes) if self.flip else boxes) * scale + shift

    def _frame(self):
        window = utils.norm_boxes(self.window, self.shape[:2], self.frame)
        return np.tile(window[:2], 2), np.tile(window[2:] - window[:2], 2)


def _mirrored(boxes):
    return np.stack([boxes[:, 0], 1 - boxes[:, 3], boxes[:, 2], 1 - boxes[:, 1]], axis=1)


def detect(model, images, masks="dense"):
    """`MaskRCNN.detect` with the views that the model's TEST_SCALES and TEST_FLIP ask for."""
    return [
        _detect_one(model, np.asarray(image), f"image {i}", masks) for i, image in enumerate(images)
    ]


def _detect_one(model, image, where, form):
    config = model.config
    views = [
        _look(model, image, where, min_dim, flip)
        for min_dim in config.TEST_SCALES or (config.IMAGE_MIN_DIM,)
        for flip in ((False, True) if config.TEST_FLIP else (False,))
    ]
    boxes = np.concatenate(
        [view.to_image(view.detections[:, :4].astype(np.float64)) for view in views]
    )
    rows = np.concatenate([view.detections[:, 4:] for view in views])
    kept = _suppress(boxes, *rows.T, config.DETECTION_NMS_THRESHOLD)[
        : config.DETECTION_MAX_INSTANCES
    ]
    boxes, rows = boxes[kept], rows[kept]
    masks = points = None
    if config.USE_MASK:
        masks = _mean(model, "masks", views, boxes, class_ids=rows[:, 0])
    if config.USE_KEYPOINTS:
        points = _mean(model, "keypoints", views, boxes, config.KEYPOINT_FLIP_PAIRS)
    # As detections of the first view, which is not mirrored, they go the way of all others.
    first = views[0]
    detections = np.concatenate([first.from_image(boxes), rows], axis=1).astype(np.float32)
    parts = [None if part is None else part[None] for part in (detections, masks, points)]
    return inference.result(parts, 0, image.shape, first.shape, first.window, config, form)


def _look(model, image, where, min_dim, flip):
    """Runs the box part of the network on one view of an image."""
    molded, meta, window = inference.mold(
        image[:, ::-1] if flip else image, model.config, where, min_dim
    )
    anchors = model.get_anchors(molded.shape)
    args = [ops.convert_to_tensor(x[None], "float32") for x in (molded, meta, anchors)]
    detections, *maps = inference.compiled(model, "boxes")(*args)
    detections = ops.convert_to_numpy(detections)[0]
    return View(
        flip,
        meta,
        molded.shape,
        window,
        model.config.BOX_FRAME,
        maps,
        detections[detections[:, 4] > 0],
    )


def _suppress(boxes, class_ids, scores, threshold):
    """Rows that stay, best first: of two of a class with a higher IoU only the better one."""
    kept = [
        rows[utils.non_max_suppression(boxes[rows], scores[rows], threshold)]
        for rows in (np.flatnonzero(class_ids == class_id) for class_id in np.unique(class_ids))
    ]
    kept = np.concatenate([np.zeros(0, int), *kept])
    return kept[np.argsort(-scores[kept], kind="stable")]


def _mean(model, name, views, boxes, flip_pairs=(), class_ids=None):
    """Mean over the views of a head's maps in the boxes: [N, h, w, ...]."""
    rows = np.zeros((1, max(len(boxes), 1), 4), np.float32)
    last = (
        []
        if class_ids is None
        else [ops.convert_to_tensor(np.resize(class_ids, (1, rows.shape[1])), "int32")]
    )
    total = 0.0
    for view in views:
        rows[0, : len(boxes)] = view.from_image(boxes)
        first = [ops.convert_to_tensor(x, "float32") for x in (rows, view.meta[None])]
        maps = ops.convert_to_numpy(inference.compiled(model, name)(*first, *view.maps, *last))[
            0, : len(boxes)
        ]
        if view.flip:
            maps = maps[:, :, ::-1]
            maps = keypoints.swap(maps[..., None], flip_pairs)[..., 0] if flip_pairs else maps
        total = total + maps
    return total / len(views)
