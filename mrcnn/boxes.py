"""Boxes: areas, overlaps, suppression, deltas and frames.

Boxes are `(y1, x1, y2, x2)`. Pixel boxes exclude y2 and x2, so that the height is y2 - y1;
normalised boxes run from 0 to 1 (see `normalize`). Each formula stands here once: `xp` is the array
namespace that it computes in, `numpy` or `keras.ops`; Keras is imported when a tensor is given.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

# An array of numpy, or a tensor of any backend of Keras.
Array = Any

# ---- Areas and overlaps --------------------------------------------------------------------------


def exact(boxes: Array) -> np.ndarray:
    """Boxes [..., 4] as floats: integers become float64, since areas overflow int32."""
    boxes = np.asarray(boxes)
    if boxes.dtype.kind == "f":
        return boxes
    return boxes.astype(np.float64)


def coordinates(boxes: Array) -> tuple[Array, Array, Array, Array]:
    """(y1, x1, y2, x2) of boxes [..., 4], each [...]."""
    if not isinstance(boxes, np.ndarray):
        from keras import ops

        return tuple(ops.unstack(boxes, 4, axis=-1))  # one node of a graph; four slices are forty
    return boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]


def area(boxes: Array) -> Array:
    """Areas [...] of boxes [..., 4]."""
    y1, x1, y2, x2 = coordinates(boxes)
    return (y2 - y1) * (x2 - x1)


def intersection(first: Any, second: Any, xp: Any = np) -> Array:
    """Common area of boxes whose coordinates come first, 4 times [...] each, broadcast."""
    height = xp.minimum(first[2], second[2]) - xp.maximum(first[0], second[0])
    width = xp.minimum(first[3], second[3]) - xp.maximum(first[1], second[1])
    return xp.maximum(height, 0) * xp.maximum(width, 0)


def iou(common: Array, area1: Array, area2: Array, xp: Any = np) -> Array:
    """Intersection over union; 0 where the union is empty, which is no overlap rather than 0/0."""
    union = area1 + area2 - common
    float_type = np.float32
    if xp is np:
        float_type = union.dtype
    return common / xp.maximum(union, float(np.finfo(float_type).tiny))


def pairwise_iou(boxes1: Array, boxes2: Array, xp: Any = np) -> Array:
    """IoU of each box of [..., N, 4] with each of [..., M, 4]: [..., N, M]."""
    boxes1 = boxes1[..., :, None, :]
    boxes2 = boxes2[..., None, :, :]
    common = intersection(coordinates(boxes1), coordinates(boxes2), xp)
    return iou(common, area(boxes1), area(boxes2), xp)


def generalized_iou(boxes1: Array, boxes2: Array, xp: Any = np) -> Array:
    """Generalised IoU [...] of boxes [..., 4], pair by pair (Rezatofighi et al. 2019, 1902.09630).

    The IoU less the share of the box around both that neither covers: from 1, of equal boxes, over
    0 or less, of boxes that only touch, towards -1, the farther apart they are. -1 where the box
    around both has no area. Stretching and moving both changes nothing.
    """
    first = coordinates(boxes1)
    second = coordinates(boxes2)
    common = intersection(first, second, xp)
    union = area(boxes1) + area(boxes2) - common
    height = xp.maximum(first[2], second[2]) - xp.minimum(first[0], second[0])
    width = xp.maximum(first[3], second[3]) - xp.minimum(first[1], second[1])
    around = height * width
    # Where there is no area, a divisor of 1 keeps the gradients finite.
    overlap = common / xp.where(union > 0, union, 1.0)
    covered = union / xp.where(around > 0, around, 1.0)
    return overlap + covered - 1.0


def extract_bboxes(mask: np.ndarray) -> np.ndarray:
    """Tight boxes around masks (matterport: utils.extract_bboxes).

    Args:
        mask: [H, W, N], any dtype; non-zero is foreground.

    Returns:
        [N, (y1, x1, y2, x2)] int32, pixels, y2 and x2 outside; zeros for an empty mask.

    Raises:
        ValueError: masks of another number of axes.
    """
    mask = np.asarray(mask)
    if mask.ndim != 3:
        raise ValueError(f"Expected masks of shape [H, W, N]. Received: {mask.shape}")
    height, width, count = mask.shape
    if 0 in mask.shape:
        return np.zeros((count, 4), np.int32)
    if mask.dtype == bool:
        mask = mask.view(np.uint8)
    one_behind_the_other = mask.strides[2] >= height * width * mask.itemsize
    # Where masks alternate pixel by pixel, this is several times faster than any().
    if mask.dtype.kind in "iu" and not one_behind_the_other:
        rows = _or_along_rows(mask) != 0  # [H, N]
        columns = np.bitwise_or.reduce(mask, axis=0) != 0  # [W, N]
    else:
        rows = mask.any(axis=1)
        columns = mask.any(axis=0)
    y1 = rows.argmax(axis=0)
    x1 = columns.argmax(axis=0)
    y2 = height - rows[::-1].argmax(axis=0)
    x2 = width - columns[::-1].argmax(axis=0)
    boxes = np.stack([y1, x1, y2, x2], axis=1)
    boxes[~rows.any(axis=0)] = 0
    return boxes.astype(np.int32)


def _or_along_rows(mask):
    """Bitwise or of each row of integers [H, W, N]: [H, N].

    By halves, as many rows at a time as stay in the cache: numpy's reduction of a middle axis goes
    N numbers at a time. Ten masks of 1024 x 1024 took it 13 ms, this 1.6.
    """
    height, width, count = mask.shape
    step = max(1, (1 << 20) // (width * count * mask.itemsize))
    parts = []
    for start in range(0, height, step):
        part = mask[start : start + step]
        while part.shape[1] > 1:
            half, odd = divmod(part.shape[1], 2)
            halves = part[:, :half] | part[:, half : 2 * half]
            if odd:
                halves[:, 0] |= part[:, -1]
            part = halves
        parts.append(part[:, 0])
    return np.concatenate(parts)


def compute_iou(
    box: Array, boxes: np.ndarray, box_area: float, boxes_area: np.ndarray
) -> np.ndarray:
    """IoU of one box with many (matterport: utils.compute_iou).

    Args:
        box: (y1, x1, y2, x2).
        boxes: [N, (y1, x1, y2, x2)] in the same frame.
        box_area, boxes_area: their areas, a number and [N], passed in since callers have them.

    Returns:
        [N] float, 0 where both areas are 0.
    """
    common = intersection(exact(box), exact(boxes).T)
    return iou(common, exact(box_area), exact(boxes_area))


def compute_overlaps(boxes1: np.ndarray, boxes2: np.ndarray) -> np.ndarray:
    """IoU of each box with each (matterport: utils.compute_overlaps).

    Args:
        boxes1, boxes2: [N, (y1, x1, y2, x2)] and [M, 4], any frame; integers are safe from
            overflow.

    Returns:
        [N, M] float64, 0 where a pair has no area; may be a view of [M, N].
    """
    boxes1 = exact(boxes1)
    boxes2 = exact(boxes2)
    if len(boxes1) < len(boxes2):
        return compute_overlaps(boxes2, boxes1).T
    if len(boxes1) * len(boxes2) < 2**14:
        # Coordinates first: the arithmetic runs over long rows.
        common = intersection(boxes1.T[:, :, None], boxes2.T[:, None])
        return iou(common, area(boxes1)[:, None], area(boxes2)).astype(np.float64)
    blocks = BoxBlocks(boxes1)
    # A row for each of boxes2: only where boxes meet is memory touched at all.
    overlaps = np.zeros((len(boxes2), *blocks.area.shape))
    for numbers, near, values in blocks.overlaps(boxes2):
        overlaps[numbers, near] = values
    return overlaps.reshape(len(boxes2), -1)[:, : len(boxes1)].T


class BoxBlocks:
    """Many boxes in blocks of neighbours, to find those that overlap one box without testing all.

    Anchors come row by row, so that a block is a short strip of the image. In any other order the
    answers are the same, only slower.

    Attributes:
        count: number of boxes N.
        area: [blocks, SIZE] their areas; the last block is filled with boxes without area.
    """

    SIZE = 64
    # What is computed at once stays in the processor's cache.
    BOXES_AT_ONCE = 64
    PAIRS_AT_ONCE = 512

    def __init__(self, boxes: np.ndarray):
        boxes = exact(boxes)
        self.count = len(boxes)
        self._edges = np.zeros((4, -(-self.count // self.SIZE), self.SIZE), boxes.dtype)
        self._edges.reshape(4, -1)[:, : self.count] = boxes.T
        y1, x1, y2, x2 = self._edges
        self.area = (y2 - y1) * (x2 - x1)
        self._bounds = y1.min(axis=1), x1.min(axis=1), y2.max(axis=1), x2.max(axis=1)
        self._smallest = self.area.min(axis=1)
        self._largest = self.area.max(axis=1)

    def boxes(self, rows: np.ndarray) -> np.ndarray:
        """[K, (y1, x1, y2, x2)] of those numbers."""
        return self._edges.reshape(4, -1)[:, rows].T

    def overlaps(
        self, boxes: np.ndarray, least: float = 0.0
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The IoU of boxes [M, 4] and the blocks that may overlap them, some boxes at a time.

        Args:
            least: blocks whose boxes are too large or too small to reach this IoU are left out.

        Yields:
            numbers [P] of boxes, rising, blocks [P] and IoU [P, SIZE]; all P of a box at once.
        """
        boxes = exact(boxes)
        for start in range(0, len(boxes), self.BOXES_AT_ONCE):
            part = boxes[start : start + self.BOXES_AT_ONCE]
            numbers, blocks = np.nonzero(self._near(part, least))
            ends = np.cumsum(np.bincount(numbers, minlength=len(part)))
            done = 0
            while done < len(numbers):
                # Whole boxes, as many as go in, or one that alone has more.
                end = ends[np.searchsorted(ends, done + self.PAIRS_AT_ONCE, "right") - 1]
                if end <= done:
                    end = ends[np.searchsorted(ends, done, "right")]
                box = part[numbers[done:end]].T[:, :, None]  # [4, P, 1]
                near = blocks[done:end]
                common = intersection(self._edges[:, near], box)
                values = iou(common, self.area[near], area(box.T).T)
                yield start + numbers[done:end], near, values
                done = end

    def _near(self, boxes: np.ndarray, least: float) -> np.ndarray:
        """[M, blocks] bool: which blocks boxes [M, 4] may overlap by an IoU."""
        top, left, bottom, right = self._bounds
        y1, x1, y2, x2 = boxes.T[:, :, None]
        near = (top < y2) & (bottom > y1) & (left < x2) & (right > x1)
        if least:  # an IoU is at most the smaller area over the larger
            areas = area(boxes)[:, None]
            smaller = np.minimum(self._largest, areas)
            larger = np.maximum(self._smallest, areas)
            near &= smaller >= least * (1 - 1e-9) * larger
        return near


def non_max_suppression(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Indices of the boxes that no better box overlaps by more than `threshold`, best first.

    Args:
        boxes: [N, (y1, x1, y2, x2)], any frame.
        scores: [N]; of equal scores the higher index is better (in the graph's layers it is the
            lower).
        threshold: IoU from 0 to 1.

    Returns:
        [K] int32, empty without boxes.

    Raises:
        ValueError: not as many scores as boxes.
    """
    boxes = exact(boxes)
    scores = np.asarray(scores)
    if len(boxes) != len(scores):
        raise ValueError(
            f"Expected a score for each box. Received: {len(boxes)} boxes, {len(scores)} scores"
        )
    if not len(boxes):
        return np.zeros(0, np.int32)
    areas = area(boxes)
    left = np.argsort(scores, kind="stable")[::-1]
    keep = []
    while left.size:
        best = left[0]
        left = left[1:]
        keep.append(best)
        common = intersection(boxes[best], boxes[left].T)
        left = left[iou(common, areas[best], areas[left]) <= threshold]
    return np.array(keep, np.int32)


# ---- Deltas --------------------------------------------------------------------------------------


def apply_deltas(
    boxes: Array, deltas: Array, xp: Any = np, log_size_limit: float | None = None
) -> Array:
    """Boxes [..., 4] moved by deltas [..., (dy, dx, log dh, log dw)]: Faster R-CNN, section 3.1.2.

    The inverse of `deltas_between`.

    Args:
        log_size_limit: bound on log dh and log dw, so that exp can't overflow; None for no bound.
    """
    y1, x1, y2, x2 = coordinates(boxes)
    dy, dx, log_dh, log_dw = coordinates(deltas)
    height = y2 - y1
    width = x2 - x1
    center_y = y1 + 0.5 * height + dy * height
    center_x = x1 + 0.5 * width + dx * width
    if log_size_limit is not None:
        log_dh = xp.minimum(log_dh, log_size_limit)
        log_dw = xp.minimum(log_dw, log_size_limit)
    height = height * xp.exp(log_dh)
    width = width * xp.exp(log_dw)
    y1 = center_y - 0.5 * height
    x1 = center_x - 0.5 * width
    return xp.stack([y1, x1, y1 + height, x1 + width], axis=-1)


def deltas_between(boxes: Array, targets: Array, xp: Any = np) -> Array:
    """Deltas [..., (dy, dx, log dh, log dw)] that move boxes [..., 4] onto their targets.

    Both need positive sizes: a side of 0 gives an infinite or undefined delta.
    """
    y1, x1, y2, x2 = coordinates(boxes)
    target_y1, target_x1, target_y2, target_x2 = coordinates(targets)
    height = y2 - y1
    width = x2 - x1
    target_height = target_y2 - target_y1
    target_width = target_x2 - target_x1
    dy = ((target_y1 + 0.5 * target_height) - (y1 + 0.5 * height)) / height
    dx = ((target_x1 + 0.5 * target_width) - (x1 + 0.5 * width)) / width
    log_dh = xp.log(target_height / height)
    log_dw = xp.log(target_width / width)
    return xp.stack([dy, dx, log_dh, log_dw], axis=-1)


def apply_box_deltas(boxes: np.ndarray, deltas: np.ndarray) -> np.ndarray:
    """Applies box deltas (matterport: utils.apply_box_deltas).

    Args:
        boxes: [N, (y1, x1, y2, x2)], any frame.
        deltas: [N, (dy, dx, log(dh), log(dw))], shifts in units of the box's own size.

    Returns:
        [N, (y1, x1, y2, x2)] float32.
    """
    return apply_deltas(np.asarray(boxes, np.float32), np.asarray(deltas, np.float32))


def box_refinement(box: np.ndarray, gt_box: np.ndarray) -> np.ndarray:
    """Deltas that turn each box into its ground-truth box (matterport: utils.box_refinement).

    Args:
        box, gt_box: [N, (y1, x1, y2, x2)] in one frame, of positive size.

    Returns:
        [N, (dy, dx, log(dh), log(dw))] float32.
    """
    return deltas_between(np.asarray(box, np.float32), np.asarray(gt_box, np.float32))


def clip(boxes: Array, window: Array, xp: Any = np) -> Array:
    """Boxes [..., 4] cut at a window (y1, x1, y2, x2) of broadcastable shape."""
    low = xp.concatenate([window[..., :2], window[..., :2]], axis=-1)
    high = xp.concatenate([window[..., 2:], window[..., 2:]], axis=-1)
    return xp.maximum(xp.minimum(boxes, high), low)


# ---- Frames --------------------------------------------------------------------------------------


def normalize(boxes: Array, size: Array, frame: str = "centers", xp: Any = np) -> Array:
    """Boxes [..., 4] from pixels to normalised coordinates.

    Args:
        size: [..., (height, width)] of the image as floats, one for all boxes or one for each.
        frame: BOX_FRAME. "centers" moves y2 and x2 inside the box and divides by
            (height - 1, width - 1): 0 is the centre of the first pixel, 1 that of the last. "edges"
            divides by (height, width).
    """
    scale, shift = _scale_and_shift(size, frame, xp)
    return (boxes - shift) / scale


def denormalize(boxes: Array, size: Array, frame: str = "centers", xp: Any = np) -> Array:
    """The inverse of `normalize`, not rounded."""
    scale, shift = _scale_and_shift(size, frame, xp)
    return boxes * scale + shift


def in_window(boxes: Array, window: Array, xp: Any = np) -> Array:
    """Boxes [..., 4] in the frame of a window (y1, x1, y2, x2) of broadcastable shape.

    All are normalised. Of a window of one row or one column, which in the frame "centers" has no
    extent, a box has all.
    """
    corner = xp.concatenate([window[..., :2], window[..., :2]], axis=-1)
    extent = xp.concatenate([window[..., 2:], window[..., 2:]], axis=-1) - corner
    is_more = extent > 0
    inside = (boxes - corner) / xp.where(is_more, extent, 1.0)
    return xp.where(is_more, inside, xp.array([0.0, 0.0, 1.0, 1.0], dtype="float32"))


def _scale_and_shift(size, frame, xp):
    size = xp.concatenate([size, size], axis=-1)
    if frame == "edges":
        return size, xp.array([0.0, 0.0, 0.0, 0.0])
    return size - 1.0, xp.array([0.0, 0.0, 1.0, 1.0])


def norm_boxes(boxes: np.ndarray, shape: Sequence[int], frame: str = "centers") -> np.ndarray:
    """Boxes from pixels to normalised coordinates (matterport: utils.norm_boxes).

    (0, 0, height, width) becomes (0, 0, 1, 1): y2 and x2 are moved inside the box, then all is
    divided by (height - 1, width - 1).

    Args:
        boxes: [N, (y1, x1, y2, x2)] in pixels, y2 and x2 outside the box.
        shape: (height, width, ...) of the image, sides of at least 2 pixels.
        frame: BOX_FRAME; "edges" moves nothing and divides by (height, width).

    Returns:
        [N, (y1, x1, y2, x2)] float32.
    """
    size = np.asarray(shape[:2], np.float64)
    return normalize(np.asarray(boxes), size, frame).astype(np.float32)


def denorm_boxes(
    boxes: np.ndarray, shape: Sequence[int], frame: str = "centers", whole: bool = True
) -> np.ndarray:
    """Boxes from normalised coordinates to pixels, the inverse of `norm_boxes`.

    Args:
        boxes: [N, (y1, x1, y2, x2)], normalised.
        shape: (height, width, ...) of the image.
        frame: BOX_FRAME.
        whole: False for float32 boxes that are not rounded.

    Returns:
        [N, (y1, x1, y2, x2)] int32, halves rounded to even, y2 and x2 outside the box.
    """
    size = np.asarray(shape[:2], np.float64)
    pixels: np.ndarray = denormalize(np.asarray(boxes), size, frame)
    if not whole:
        return pixels.astype(np.float32)
    pixels = np.around(pixels)
    return pixels.astype(np.int32)


def visible(boxes: np.ndarray, whole: bool) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of detections as a result has them; those without an area are left out.

    Args:
        boxes: [N, (y1, x1, y2, x2)] in pixels, not rounded.
        whole: round them, halves to even (ROUND_DETECTIONS).

    Returns:
        rows: [n] int, of the boxes that stay.
        boxes: [n, 4] int32, or of the dtype that they had.
    """
    if whole:
        boxes = np.around(boxes).astype(np.int32)
    rows = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
    return rows, boxes[rows]
