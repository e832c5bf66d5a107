"""Test-time augmentation: detection at several scales, flipped, rotated (paper, appendix B).

`MaskRCNN.detect` uses this module if TEST_SCALES or TEST_FLIP is set. As in the paper's code, the
detections of all views are pooled, followed by another non-maximum suppression by class; masks and
keypoints are the mean over the views of the heads' outputs for the final boxes. The score of a
pooled detection is the highest of all views; with TEST_BOX_VOTE all views contribute. The feature
maps of all views of an image are in memory at once.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mrcnn import boxes as box_math, data, inference, keypoints


class Turn(NamedTuple):
    """One of the eight flips and 90-degree rotations of an image.

    Attributes:
        transpose: whether rows and columns are swapped, before the flips.
        flip_y, flip_x: whether the image is flipped vertically; horizontally.
    """

    transpose: bool = False
    flip_y: bool = False
    flip_x: bool = False

    @property
    def mirrors(self) -> bool:
        """Whether the view is a mirror image, in which a left hand looks like a right one."""
        return sum(self) % 2 == 1

    def of_image(self, image: np.ndarray) -> np.ndarray:
        """The view of an image [H, W, ...]: [H, W, ...], or [W, H, ...] if transposed."""
        if self.transpose:
            image = image.swapaxes(0, 1)
        return np.ascontiguousarray(self._flipped(image))

    def maps_to_image(self, maps: np.ndarray) -> np.ndarray:
        """Maps [N, h, w, ...] of boxes in the view, converted to the image's orientation."""
        maps = self._flipped(np.moveaxis(maps, 0, 2))
        if self.transpose:
            maps = maps.swapaxes(0, 1)
        return np.moveaxis(maps, 2, 0)

    def boxes_to_view(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [N, 4] normalised in the image to boxes normalised in the view."""
        y1, x1, y2, x2 = boxes.T
        if self.transpose:
            y1, x1, y2, x2 = x1, y1, x2, y2
        return self._flipped_boxes(y1, x1, y2, x2)

    def boxes_to_image(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [N, 4] normalised in the view to boxes normalised in the image."""
        y1, x1, y2, x2 = self._flipped_boxes(*boxes.T).T
        if self.transpose:
            y1, x1, y2, x2 = x1, y1, x2, y2
        return np.stack([y1, x1, y2, x2], axis=1)

    def _flipped(self, array):
        """[h, w, ...] flipped."""
        if self.flip_y:
            array = array[::-1]
        if self.flip_x:
            array = array[:, ::-1]
        return array

    def _flipped_boxes(self, y1, x1, y2, x2):
        """Flipped boxes [N, 4], from normalised coordinates, [N] each."""
        if self.flip_y:
            y1, y2 = 1 - y2, 1 - y1
        if self.flip_x:
            x1, x2 = 1 - x2, 1 - x1
        return np.stack([y1, x1, y2, x2], axis=1)


def turns_of(setting: bool | str) -> list[Turn]:
    """The views for a value of TEST_FLIP; the first is the unchanged image."""
    booleans = (False, True)
    if setting == "turns":
        return [Turn(*flags) for flags in itertools.product(booleans, booleans, booleans)]
    if setting == "both":
        return [Turn(False, *flags) for flags in itertools.product(booleans, booleans)]
    if setting:
        return [Turn(), Turn(flip_x=True)]
    return [Turn()]


@dataclasses.dataclass
class View:
    """A view of an image: one scale and one `Turn`.

    Attributes:
        turn: how the image is flipped and rotated.
        molded: the network's input.
        metas: [1, meta], a tensor.
        frame: BOX_FRAME.
        maps: feature maps.
        detections: [N, 6], boxes normalised in the molded view.
    """

    turn: Turn
    molded: inference.Molded
    metas: Any
    frame: str
    maps: list
    detections: np.ndarray

    def to_image(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [N, 4] normalised in the view to boxes normalised in the image."""
        return self.turn.boxes_to_image(box_math.in_window(boxes, self._window()))

    def from_image(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [N, 4] normalised in the image to boxes normalised in the view."""
        window = self._window()
        scale = np.tile(window[2:] - window[:2], 2)
        return self.turn.boxes_to_view(boxes) * scale + np.tile(window[:2], 2)

    def _window(self):
        """(y1, x1, y2, x2) of the image in the molded view, normalised."""
        shape = self.molded.image.shape[:2]
        return box_math.norm_boxes(np.asarray(self.molded.window), shape, self.frame)


def detect(model: Any, images: Sequence, masks: str = "dense") -> list[dict]:
    """`MaskRCNN.detect` with the views of the model's TEST_SCALES and TEST_FLIP."""
    results = []
    for i, image in enumerate(images):
        array = inference.as_array(image, f"image {i}")
        results.append(_detect_one(model.detector, array, f"image {i}", masks))
    return results


def detect_many(
    model: Any, items: Iterable, load: Callable | None = None, masks: str = "dense"
) -> Iterator[dict]:
    """`MaskRCNN.detect_many` with the views of `detect`, one image after the other."""
    data.check_items(items, load)
    return _detect_each(model.detector, items, load, masks)


def _detect_each(detector, items, load, masks):
    for number, item in enumerate(items):
        image, where = data.loaded(number, item, load)
        yield _detect_one(detector, image, where, masks)


def _detect_one(detector, image, where, form):
    config = detector.config
    views = _views(detector, image, where)
    boxes, rows = _pooled(views, config)
    masks = points = None
    if config.USE_MASK:
        masks = _mean(detector, "masks", views, boxes, class_ids=rows[:, 0])[None]
    if config.USE_KEYPOINTS:
        points = _mean(detector, "keypoints", views, boxes, config.KEYPOINT_FLIP_PAIRS)[None]
    # Converted to the usual result as detections in the first view, which is the unchanged image.
    first = views[0]
    detections = np.concatenate([first.from_image(boxes), rows], axis=1).astype(np.float32)
    outputs = inference.Outputs(detections[None], masks, points)
    shape = first.molded.image.shape
    return inference.result(outputs, 0, image.shape, shape, first.molded.window, config, form)


def _views(detector, image, where):
    """The views of an image; the first is the unchanged image at the first scale."""
    config = detector.config
    views = []
    min_dims = config.TEST_SCALES
    if not len(min_dims):
        min_dims = (config.IMAGE_MIN_DIM,)
    for min_dim in min_dims:
        for turn in turns_of(config.TEST_FLIP):
            views.append(_look(detector, image, where, min_dim, turn))
    return views


def _look(detector, image, where, min_dim, turn):
    """Runs the box part of the network on one view of an image."""
    config = detector.config
    molded = inference.mold(turn.of_image(image), config, where, min_dim)
    anchors = detector.get_anchors(molded.image.shape)
    detections, maps, metas = detector.infer_boxes(
        molded.image[None], np.asarray(molded.meta)[None], anchors
    )
    detections = detections[0]
    is_detection = detections[:, 4] > 0
    return View(turn, molded, metas, config.BOX_FRAME, maps, detections[is_detection])


def _pooled(views, config):
    """Pools the detections of all views, by descending score.

    Returns:
        boxes [N, 4] normalised in the image, rows [N, (class id, score)].
    """
    boxes = [view.to_image(view.detections[:, :4].astype(np.float64)) for view in views]
    view_indices = np.repeat(np.arange(len(views)), [len(of_view) for of_view in boxes])
    boxes = np.concatenate(boxes)
    rows = np.concatenate([view.detections[:, 4:] for view in views])
    kept = _suppress(boxes, rows[:, 0], rows[:, 1], config.DETECTION_NMS_THRESHOLD)
    if config.TEST_BOX_VOTE is None:
        kept = kept[: config.DETECTION_MAX_INSTANCES]
        return boxes[kept], rows[kept]
    boxes, rows = _vote(boxes, rows, view_indices, kept, len(views), config.TEST_BOX_VOTE)
    is_sure = rows[:, 1] >= config.DETECTION_MIN_CONFIDENCE
    order = np.argsort(-rows[:, 1], kind="stable")
    order = order[is_sure[order]][: config.DETECTION_MAX_INSTANCES]
    return boxes[order], rows[order]


def _vote(boxes, rows, view_indices, kept, view_count, threshold):
    """Box voting: replaces the kept boxes by a mean over all views.

    Each view's vote for a kept box is its box of the same class with the highest IoU, if that is at
    least the threshold. The new box is the mean of the votes weighted by their scores, the new
    score the sum of the votes' scores divided by the number of views, which lowers the score of an
    object that only one view shows.

    Args:
        boxes: [N, 4] float64 of all views.
        rows: [N, (class id, score)].
        view_indices: [N], index of each box's view.
        kept: indices of the boxes that the suppression kept.
        view_count: number of views.
        threshold: IoU in 0..1.

    Returns:
        boxes [kept, 4], rows [kept, 2], in the order of `kept`.
    """
    voted_boxes = np.zeros((len(kept), 4))
    weights = np.zeros((len(kept), 1))
    for number in range(view_count):
        of_view = np.flatnonzero(view_indices == number)
        if not len(of_view):
            continue
        overlaps = box_math.compute_overlaps(boxes[kept], boxes[of_view])
        overlaps[rows[kept, 0][:, None] != rows[of_view, 0]] = -1
        overlaps[kept[:, None] == of_view] = 1  # even if the box has no area
        best = overlaps.argmax(axis=1)
        votes = overlaps[np.arange(len(kept)), best] >= threshold
        # A score that is rounded to 0 must count as a vote, too.
        scores = (np.maximum(rows[of_view[best], 1], 1e-12) * votes)[:, None]
        voted_boxes += scores * boxes[of_view[best]]
        weights += scores
    voted_rows = rows[kept].copy()
    voted_rows[:, 1:] = weights / view_count
    return voted_boxes / weights, voted_rows


def _suppress(boxes, class_ids, scores, threshold):
    """Non-maximum suppression by class: indices of the kept boxes, by descending score."""
    kept = [np.zeros(0, int)]
    for class_id in np.unique(class_ids):
        rows = np.flatnonzero(class_ids == class_id)
        kept.append(rows[box_math.non_max_suppression(boxes[rows], scores[rows], threshold)])
    kept = np.concatenate(kept)
    return kept[np.argsort(-scores[kept], kind="stable")]


def _mean(detector, name, views, boxes, flip_pairs=(), class_ids=None):
    """Mean over the views of a head's maps for the boxes: [N, h, w, ...]."""
    count = len(boxes)
    # The head needs at least one row.
    rows = np.zeros((1, max(count, 1), 6), np.float32)
    if class_ids is not None:
        rows[0, :count, 4] = class_ids
    total = 0.0
    for view in views:
        rows[0, :count, :4] = view.from_image(boxes)
        groups = list(detector.head_in_groups(name, rows, view.metas, view.maps))
        maps = view.turn.maps_to_image(np.concatenate(groups, axis=1)[0, :count])
        if view.turn.mirrors and flip_pairs:
            maps = keypoints.swap(maps[..., None], flip_pairs)[..., 0]
        total = total + maps
    return total / len(views)
