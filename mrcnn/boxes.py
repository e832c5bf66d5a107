"""Boxes: areas, overlaps, suppression, deltas and coordinate frames.

Boxes are `(y1, x1, y2, x2)`. Pixel boxes exclude y2 and x2, so that the height is y2 - y1;
normalised boxes run from 0 to 1 (see `normalize`). Each formula is written once, for numpy and for
tensors: `xp` is the array namespace, `numpy` or `keras.ops`; Keras is imported only for tensors.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

# A numpy array, or a tensor of any Keras backend.
Array = Any

# ---- Areas and overlaps --------------------------------------------------------------------------


def exact(boxes: Array) -> np.ndarray:
    """Boxes [..., 4] as floats: integers and float16 become float64, since areas overflow them."""
    boxes = np.asarray(boxes)
    if boxes.dtype in (np.float32, np.float64):
        return boxes
    return boxes.astype(np.float64)


def coordinates(boxes: Array) -> tuple[Array, Array, Array, Array]:
    """(y1, x1, y2, x2) of boxes [..., 4], each [...]."""
    if not isinstance(boxes, np.ndarray):
        from keras import ops

        return tuple(ops.unstack(boxes, 4, axis=-1))  # one graph node; four slices make forty
    return boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]


def area(boxes: Array) -> Array:
    """Areas [...] of boxes [..., 4]."""
    y1, x1, y2, x2 = coordinates(boxes)
    return (y2 - y1) * (x2 - x1)


def intersection(first: Any, second: Any, xp: Any = np) -> Array:
    """Intersection areas of boxes [4, ...], as arrays or as tuples of coordinates; broadcast."""
    height = xp.minimum(first[2], second[2]) - xp.maximum(first[0], second[0])
    width = xp.minimum(first[3], second[3]) - xp.maximum(first[1], second[1])
    return xp.maximum(height, 0) * xp.maximum(width, 0)


def iou(common: Array, area1: Array, area2: Array, xp: Any = np) -> Array:
    """Intersection over union; 0 where the union is empty.

    common: area of the intersection.
    """
    union = area1 + area2 - common
    float_type = np.float32
    if xp is np:
        float_type = union.dtype
    return common / xp.maximum(union, float(np.finfo(float_type).tiny))


def pairwise_iou(boxes1: Array, boxes2: Array, xp: Any = np) -> Array:
    """IoU [..., N, M] of each pair of boxes of [..., N, 4] and [..., M, 4]."""
    boxes1 = boxes1[..., :, None, :]
    boxes2 = boxes2[..., None, :, :]
    common = intersection(coordinates(boxes1), coordinates(boxes2), xp)
    return iou(common, area(boxes1), area(boxes2), xp)


def generalized_iou(boxes1: Array, boxes2: Array, xp: Any = np) -> Array:
    """Elementwise generalised IoU [...] of boxes [..., 4] (Rezatofighi et al. 2019, 1902.09630).

    The IoU minus the share of the enclosing box that neither covers: 1 for equal boxes, 0 or less
    for boxes that only touch, towards -1 the farther apart they are; -1 if the enclosing box has no
    area. Invariant under scaling and translation of both.
    """
    first = coordinates(boxes1)
    second = coordinates(boxes2)
    common = intersection(first, second, xp)
    union = area(boxes1) + area(boxes2) - common
    height = xp.maximum(first[2], second[2]) - xp.minimum(first[0], second[0])
    width = xp.maximum(first[3], second[3]) - xp.minimum(first[1], second[1])
    enclosing = height * width
    # Where the area is 0, a divisor of 1 keeps the gradients finite.
    overlap = common / xp.where(union > 0, union, 1.0)
    covered = union / xp.where(enclosing > 0, enclosing, 1.0)
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
    is_contiguous_by_mask = mask.strides[2] >= height * width * mask.itemsize
    # For masks that are interleaved in memory this is several times faster than any().
    if mask.dtype.kind in "iu" and not is_contiguous_by_mask:
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


def _or_along_rows(mask: np.ndarray) -> np.ndarray:
    """Bitwise or over axis 1 of integers [H, W, N]: [H, N].

    The rows are halved repeatedly, as many of them at a time as fit in the cache. numpy's reduction
    of a middle axis processes only N numbers per call: for ten masks of 1024 x 1024 it takes 13 ms,
    this 1.6 ms.
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
        box_area, boxes_area: their areas, a number and [N].

    Returns:
        [N] float; 0 where both areas are 0.
    """
    common = intersection(exact(box), exact(boxes).T)
    return iou(common, exact(box_area), exact(boxes_area))


def compute_overlaps(boxes1: np.ndarray, boxes2: np.ndarray) -> np.ndarray:
    """IoU of each pair of boxes (matterport: utils.compute_overlaps).

    Args:
        boxes1, boxes2: [N, (y1, x1, y2, x2)] and [M, 4], in one frame; integers don't overflow.

    Returns:
        [N, M] float64, 0 where both boxes have no area; may be a view of [M, N].
    """
    boxes1 = exact(boxes1)
    boxes2 = exact(boxes2)
    if len(boxes1) < len(boxes2):
        return compute_overlaps(boxes2, boxes1).T
    if len(boxes1) * len(boxes2) < 2**14:
        # Coordinates on the first axis: the arithmetic runs over long rows.
        common = intersection(boxes1.T[:, :, None], boxes2.T[:, None])
        return iou(common, area(boxes1)[:, None], area(boxes2)).astype(np.float64)
    blocks = BoxBlocks(boxes1)
    # A row for each of boxes2: memory is written only where boxes may overlap.
    overlaps = np.zeros((len(boxes2), *blocks.area.shape))
    for rows, block_indices, values in blocks.overlaps(boxes2):
        overlaps[rows, block_indices] = values
    return overlaps.reshape(len(boxes2), -1)[:, : len(boxes1)].T


class BoxBlocks:
    """An index of many boxes in blocks, to find those that overlap a box without testing all.

    Anchors are in row-major order, so that a block is a short strip of the image. For any other
    order the results are the same, but slower.

    Attributes:
        count: number of boxes N.
        area: [blocks, SIZE], their areas; the last block is padded with boxes without area.
    """

    SIZE = 64
    # Batches small enough for the processor's cache.
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
        """Boxes [K, (y1, x1, y2, x2)] by their indices [K]."""
        return self._edges.reshape(4, -1)[:, rows].T

    def overlaps(
        self, boxes: np.ndarray, least: float = 0.0
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The IoU of boxes [M, 4] and the blocks that may overlap them, in batches.

        Args:
            least: blocks whose boxes are too large or too small for this IoU are left out.

        Yields:
            for P pairs: ascending indices [P] of boxes, indices [P] of blocks, and IoU [P, SIZE];
            all pairs of a box are in one batch.
        """
        boxes = exact(boxes)
        for start in range(0, len(boxes), self.BOXES_AT_ONCE):
            part = boxes[start : start + self.BOXES_AT_ONCE]
            rows, blocks = np.nonzero(self._may_overlap(part, least))
            ends = np.cumsum(np.bincount(rows, minlength=len(part)))
            done = 0
            while done < len(rows):
                # All pairs of as many boxes as fit, or of a single one that has more.
                end = ends[np.searchsorted(ends, done + self.PAIRS_AT_ONCE, "right") - 1]
                if end <= done:
                    end = ends[np.searchsorted(ends, done, "right")]
                box = part[rows[done:end]].T[:, :, None]  # [4, P, 1]
                block_indices = blocks[done:end]
                common = intersection(self._edges[:, block_indices], box)
                values = iou(common, self.area[block_indices], area(box.T).T)
                yield start + rows[done:end], block_indices, values
                done = end

    def _may_overlap(self, boxes: np.ndarray, least: float) -> np.ndarray:
        """[M, blocks] bool: whether an IoU of `least` with a box in a block is possible."""
        top, left, bottom, right = self._bounds
        y1, x1, y2, x2 = boxes.T[:, :, None]
        may_overlap = (top < y2) & (bottom > y1) & (left < x2) & (right > x1)
        if least:  # the IoU is at most the smaller area divided by the larger one
            areas = area(boxes)[:, None]
            smaller = np.minimum(self._largest, areas)
            larger = np.maximum(self._smallest, areas)
            may_overlap &= smaller >= least * (1 - 1e-9) * larger
        return may_overlap


def non_max_suppression(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Greedy non-maximum suppression.

    Args:
        boxes: [N, (y1, x1, y2, x2)], any frame.
        scores: [N]; among equal scores the box with the higher index is kept (in the graph's layers
            the one with the lower index).
        threshold: boxes that overlap a kept one by a larger IoU are suppressed; 0 to 1.

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
    remaining = np.argsort(scores, kind="stable")[::-1]
    keep = []
    while remaining.size:
        best = remaining[0]
        remaining = remaining[1:]
        keep.append(best)
        common = intersection(boxes[best], boxes[remaining].T)
        remaining = remaining[iou(common, areas[best], areas[remaining]) <= threshold]
    return np.array(keep, np.int32)


# ---- Deltas --------------------------------------------------------------------------------------


def apply_deltas(
    boxes: Array, deltas: Array, xp: Any = np, log_size_limit: float | None = None
) -> Array:
    """Applies deltas [..., (dy, dx, log dh, log dw)] to boxes [..., 4] (Faster R-CNN, 3.1.2).

    The inverse of `deltas_between`.

    Args:
        log_size_limit: upper limit of log dh and log dw, so that exp can't overflow; None for none.
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
    """Deltas [..., (dy, dx, log dh, log dw)] from boxes [..., 4] to their targets.

    Both must have positive sizes: a side of 0 gives an infinite or undefined delta.
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
    """Clips boxes [..., 4] to a window (y1, x1, y2, x2) of broadcastable shape."""
    low = xp.concatenate([window[..., :2], window[..., :2]], axis=-1)
    high = xp.concatenate([window[..., 2:], window[..., 2:]], axis=-1)
    return xp.maximum(xp.minimum(boxes, high), low)


# ---- Frames --------------------------------------------------------------------------------------


def normalize(boxes: Array, size: Array, frame: str = "centers", xp: Any = np) -> Array:
    """Converts boxes [..., 4] from pixels to normalised coordinates.

    Args:
        size: [..., (height, width)] of the image as floats, for all boxes or for each.
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
    """Boxes [..., 4] relative to a window (y1, x1, y2, x2) of broadcastable shape.

    All are normalised. In a window of one row or one column, which has no extent in the frame
    "centers", a box gets the full extent, 0 to 1.
    """
    corner = xp.concatenate([window[..., :2], window[..., :2]], axis=-1)
    extent = xp.concatenate([window[..., 2:], window[..., 2:]], axis=-1) - corner
    has_extent = extent > 0
    inside = (boxes - corner) / xp.where(has_extent, extent, 1.0)
    return xp.where(has_extent, inside, xp.array([0.0, 0.0, 1.0, 1.0], dtype="float32"))


def _scale_and_shift(size: Array, frame: str, xp: Any) -> tuple[Array, Array]:
    """(scale, shift), pixels = normalised * scale + shift, for sizes [..., (height, width)]."""
    size = xp.concatenate([size, size], axis=-1)
    if frame == "edges":
        return size, xp.array([0.0, 0.0, 0.0, 0.0])
    return size - 1.0, xp.array([0.0, 0.0, 1.0, 1.0])


def norm_boxes(boxes: np.ndarray, shape: Sequence[int], frame: str = "centers") -> np.ndarray:
    """Converts boxes from pixels to normalised coordinates (matterport: utils.norm_boxes).

    (0, 0, height, width) becomes (0, 0, 1, 1): y2 and x2 are moved inside the box, then all
    coordinates are divided by (height - 1, width - 1).

    Args:
        boxes: [N, (y1, x1, y2, x2)] in pixels, y2 and x2 outside the box.
        shape: (height, width, ...) of the image, sides of at least 2 pixels.
        frame: BOX_FRAME; "edges" divides by (height, width) without moving y2 and x2.

    Returns:
        [N, (y1, x1, y2, x2)] float32.
    """
    size = np.asarray(shape[:2], np.float64)
    return normalize(np.asarray(boxes), size, frame).astype(np.float32)


def denorm_boxes(
    boxes: np.ndarray, shape: Sequence[int], frame: str = "centers", whole: bool = True
) -> np.ndarray:
    """Converts boxes from normalised coordinates to pixels, the inverse of `norm_boxes`.

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
    """The boxes of detections that have an area, rounded if requested.

    Args:
        boxes: [N, (y1, x1, y2, x2)] in pixels, not rounded.
        whole: round them, halves to even (ROUND_DETECTIONS).

    Returns:
        rows: [n] int, indices of these boxes.
        boxes: [n, 4] int32, or of their own dtype if they are not rounded.
    """
    if whole:
        boxes = np.around(boxes).astype(np.int32)
    rows = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
    return rows, boxes[rows]
