"""Masks: mini-masks for training, pasting of predicted masks, label maps, run lengths, overlaps.

The masks of one image are `[height, width, instances]`; boxes are `(y1, x1, y2, x2)` in pixels, y2
and x2 outside the box. A run-length encoding (RLE) is COCO's: {"size": [height, width], "counts":
the lengths of alternating runs of 0 and 1 in column-major order, as a list or in pycocotools'
compressed form}.

`mrcnn/utils.py` has the public names of matterport's too. Keras and TensorFlow are not imported,
and pycocotools only by the functions that need it.
"""

import ast
import concurrent.futures
import itertools
import json
import math
import numbers
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mrcnn import files
from mrcnn.boxes import extract_bboxes, intersection, iou
from mrcnn.config import Config

# Masks of boxes up to this number of pixels are pasted in one step: for small boxes, numpy's calls
# take longer than the pixels.
ONE_GO = 100_000
# Number of masks that are minimized in one step: each takes half a megabyte temporarily.
MINI_AT_ONCE = 200
# Pixels of the crops that are encoded in one step: enough that numpy's calls take little of the
# time, and few enough that not all of many large masks are copied.
RUNS_AT_ONCE = 1 << 22
# pycocotools decodes this many pixels in the time of one character of compressed runs here.
PIXELS_OF_A_CHARACTER = 100

# Forms of the masks of a result, see `placed`.
FORMS = ("dense", "lazy", "rle")

# Masks become label maps if the total area of their boxes is at most this multiple of the image's.
MOST_COVERED = 2

# (y1, x1, y2, x2) in whole pixels.
Box = tuple[int, int, int, int]

# ---- Interpolation -------------------------------------------------------------------------------


class Samples(NamedTuple):
    """Indices and weights of bilinear resizing along one axis, each [..., n_out].

    Attributes:
        low, high: int, indices of the two neighbours.
        low_weight, high_weight: their weights; 0 for a neighbour outside, where values are 0.
    """

    low: np.ndarray
    high: np.ndarray
    low_weight: np.ndarray
    high_weight: np.ndarray

    def part(self, start: int, count: int) -> "Samples":
        """`count` of the samples along the axis, from index `start` on."""
        return Samples(*(values[..., start : start + count] for values in self))


def bilinear_samples(n_in: Any, n_out: int) -> Samples:
    """The `Samples` of resizing with half-pixel centres and zeros outside (skimage's "constant").

    Args:
        n_in: length of the input, an int or [N, 1].
        n_out: length of the output.
    """
    last = n_in - 1
    position = (np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5
    low = np.floor(position).astype(np.int64)
    high = low + 1
    fraction = position - low
    return Samples(
        low=np.clip(low, 0, last),
        high=np.clip(high, 0, last),
        low_weight=np.where(low < 0, 0, 1 - fraction),
        high_weight=np.where(high > last, 0, fraction),
    )


def _padded_neighbours(
    n_in: int,
    n_out: int,
    start: int,
    count: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours and weights of a part of the output for an input padded by one zero on each side.

    Args:
        n_in: length of the input without the zeros.
        n_out: length of the whole output.
        start, count: the part, by index.

    Returns:
        low: [count] int, index of the lower neighbour in the padded input; the upper one follows.
        weight: [count] float32, of the upper neighbour.
    """
    indices = np.arange(start, start + count)
    position = (indices + 0.5) * (n_in / n_out) + 0.5
    low = position.astype(np.int64)
    weight = (position - low).astype(np.float32)
    return low, weight


# ---- Mini-masks ----------------------------------------------------------------------------------


def minimize_mask(
    bbox: np.ndarray,
    mask: Any,
    mini_shape: Sequence[int],
) -> np.ndarray:
    """Crops masks to their boxes and resizes them to one small shape, to save memory in training.

    Args:
        bbox: [N, (y1, x1, y2, x2)] in pixels, of positive area.
        mask: [H, W, N], non-zero is foreground; or `LabelMaps`.
        mini_shape: (height, width) of the result.

    Returns:
        [height, width, N] bool: bilinear interpolation above .5.

    Raises:
        ValueError: a box without pixels in the image.
    """
    if not isinstance(mask, LabelMaps):
        mask = np.asarray(mask)
    height, width = mini_shape[:2]
    if not mask.shape[-1]:
        return np.zeros((height, width, 0), bool)
    edges = np.stack(_edges_inside(np.asarray(bbox), mask.shape))
    mini = np.zeros((mask.shape[-1], height, width), bool)
    for start in range(0, len(mini), MINI_AT_ONCE):
        part = slice(start, start + MINI_AT_ONCE)
        mini[part] = _minimize(edges[:, part], mask[..., part], height, width)
    return mini.transpose(1, 2, 0)


def _minimize(
    edges: np.ndarray,
    mask: Any,
    height: int,
    width: int,
) -> np.ndarray:
    """Mini-masks [n, height, width] bool of masks [H, W, n] or `LabelMaps`.

    edges: [4, n] int, y1, x1, y2, x2 inside the image.
    """
    y1, x1, y2, x2 = edges
    # Only the pixels between which is interpolated are read, of all masks at once.
    vertical = bilinear_samples((y2 - y1)[:, None], height)  # [N, h]
    horizontal = bilinear_samples((x2 - x1)[:, None], width)  # [N, w]
    rows = np.concatenate([vertical.low, vertical.high], axis=1)
    rows += y1[:, None]
    columns = np.concatenate([horizontal.low, horizontal.high], axis=1)
    columns += x1[:, None]
    pixels = _foreground_at(mask, rows, columns)  # [N, 2h, 2w]
    above = pixels[:, :height] * vertical.low_weight[:, :, None]
    below = pixels[:, height:] * vertical.high_weight[:, :, None]
    soft = above + below  # [N, h, 2w]
    left = soft[:, :, :width] * horizontal.low_weight[:, None]
    right = soft[:, :, width:] * horizontal.high_weight[:, None]
    mini = left + right > 0.5  # as rounding half to even
    # skimage clips the result to the input's range: the zeros outside don't darken the border of a
    # crop that is all ones.
    for i in np.flatnonzero(pixels.all(axis=(1, 2))):
        rows_of_box = slice(y1[i], y2[i])
        columns_of_box = slice(x1[i], x2[i])
        if np.all(mask[rows_of_box, columns_of_box, i]):
            mini[i] = True
    return mini


def _edges_inside(boxes: np.ndarray, shape: Sequence[int]) -> list[np.ndarray]:
    """y1, x1, y2, x2, each [N] int, of boxes [N, 4] clipped to an image of shape (H, W, ...)."""
    size = tuple(shape[:2])
    edges = np.clip(boxes[:, :4], 0, np.tile(size, 2)).astype(np.int64)
    y1, x1, y2, x2 = edges.T
    empty = np.flatnonzero((y2 <= y1) | (x2 <= x1))
    if empty.size:
        first = empty[0]
        raise ValueError(
            f"Expected boxes with an area inside the image of {size}. "
            f"Received: box {first} = {boxes[first].tolist()}"
        )
    return [y1, x1, y2, x2]


def _foreground_at(
    masks: Any,
    rows: np.ndarray,
    columns: np.ndarray,
) -> np.ndarray:
    """Pixels [N, R, C] bool of masks [H, W, N] or `LabelMaps`, see `_values_at`."""
    if isinstance(masks, LabelMaps):
        maps = masks.maps.transpose(1, 2, 0)
        labels = _values_at(maps, rows, columns, masks.map_of)
        return labels == masks.label_of[:, None, None]
    return _values_at(masks, rows, columns, np.arange(len(rows))) != 0


def _values_at(
    masks: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    channels: np.ndarray,
) -> np.ndarray:
    """Values [N, R, C] of masks [H, W, K] at rows [N, R], columns [N, C] and channels [N].

    The offsets in memory are computed here: one array of indices is faster than three.
    """
    size = masks.itemsize
    if min(masks.strides) < 0 or any(stride % size for stride in masks.strides):
        masks = np.ascontiguousarray(masks)
    steps = [stride // size for stride in masks.strides]
    last = 0
    for side, step in zip(masks.shape, steps):
        last += (side - 1) * step
    memory = np.lib.stride_tricks.as_strided(masks, (last + 1,), (size,))
    row_step, column_step, channel_step = steps
    row_offsets = rows * row_step
    row_offsets += channel_step * channels[:, None]
    column_offsets = columns * column_step
    return memory[row_offsets[:, :, None] + column_offsets[:, None]]


def expand_mask(
    bbox: np.ndarray,
    mini_mask: np.ndarray,
    image_shape: Sequence[int],
) -> np.ndarray:
    """Resizes mini-masks to their boxes in the image, the inverse of `minimize_mask`.

    Args:
        bbox: [N, (y1, x1, y2, x2)] in pixels; parts outside the image are cut off.
        mini_mask: [h, w, N], non-zero is foreground.
        image_shape: (height, width, ...).

    Returns:
        [height, width, N] bool.
    """
    masks = np.moveaxis(np.asarray(mini_mask) != 0, -1, 0)
    return _paste(masks, bbox, image_shape, 0.5, np.greater)


def mold_mask(mask: np.ndarray, config: Config) -> np.ndarray:
    """An object's mask as a training target of the mask head.

    Args:
        mask: [h, w], the crop of the object's box; non-zero is foreground.
        config: for MASK_SHAPE.

    Returns:
        [*MASK_SHAPE] float32, zeros and ones.
    """
    mask = np.asarray(mask)
    box = np.array([[0, 0, *mask.shape]])
    mini = minimize_mask(box, mask[:, :, None], config.MASK_SHAPE)
    return mini[:, :, 0].astype(np.float32)


# ---- Predicted masks in the image ----------------------------------------------------------------


def unmold_mask(
    mask: np.ndarray,
    bbox: Sequence[int],
    image_shape: Sequence[int],
) -> np.ndarray:
    """Pastes a predicted mask into an image.

    Args:
        mask: [h, w] float, probabilities.
        bbox: (y1, x1, y2, x2) in whole pixels; parts outside the image are cut off.
        image_shape: (height, width, ...).

    Returns:
        [height, width] bool: probability of at least .5.
    """
    masks = np.asarray(mask)[None]
    return unmold_masks(masks, [bbox], image_shape)[:, :, 0]


def unmold_masks(
    masks: np.ndarray,
    boxes: Any,
    image_shape: Sequence[int],
    threshold: float = 0.5,
    padded: bool = False,
) -> np.ndarray:
    """Pastes predicted masks into an image, see `unmold_mask`; only the boxes are processed.

    Args:
        masks: [N, h, w] float, probabilities.
        boxes: [N, (y1, x1, y2, x2)] in whole pixels; parts outside the image are cut off, and a box
            without pixels in the image gives an empty mask.
        image_shape: (height, width, ...).
        threshold: smallest probability of foreground.
        padded: pad masks and grow boxes by `pad_masks`; boxes need not be whole (MASK_PASTE).

    Returns:
        [height, width, N] bool, a view of [N, height, width].
    """
    if padded:
        masks, boxes = pad_masks(masks, boxes)
    return _paste(masks, boxes, image_shape, threshold, np.greater_equal)


def pad_masks(masks: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pads masks by one zero on each side, and grows their boxes accordingly (MASK_PASTE).

    Args:
        masks: [N, h, w].
        boxes: [N, (y1, x1, y2, x2)] in pixels, need not be whole.

    Returns:
        masks: [N, h + 2, w + 2].
        boxes: [N, 4] int64, truncated to whole pixels, those of the lower right edge included.
    """
    masks = np.asarray(masks)
    boxes = np.asarray(boxes, np.float64)[:, :4]
    sides = np.array(masks.shape[1:])
    growth = np.tile((sides + 2) / sides, 2)
    middle = 0.5 * (boxes[:, :2] + boxes[:, 2:])
    middle = np.tile(middle, 2)
    corners = np.trunc(middle + (boxes - middle) * growth).astype(np.int64)
    top_left = corners[:, :2]
    bottom_right = np.maximum(corners[:, 2:], top_left) + 1
    rim = [(0, 0), (1, 1), (1, 1)]
    return np.pad(masks, rim), np.concatenate([top_left, bottom_right], axis=1)


def unmold_crop(
    mask: np.ndarray,
    box: Sequence[int],
    image_shape: Sequence[int],
    threshold: float = 0.5,
) -> tuple[Box, np.ndarray]:
    """The part of `unmold_mask` inside the box, without an array of the whole image.

    Returns:
        box: (y1, x1, y2, x2) of the part inside the image; zeros for a box outside.
        crop: [y2 - y1, x2 - x1] bool.
    """
    inside = _box_inside(box, image_shape)
    y1, x1, y2, x2 = inside
    crop = np.zeros((y2 - y1, x2 - x1), bool)
    if crop.size:
        _resize_into(
            crop,
            np.asarray(mask, np.float32),
            box,
            y1,
            x1,
            threshold,
            np.greater_equal,
        )
    return inside, crop


def _box_inside(box: Sequence[int], image_shape: Sequence[int]) -> Box:
    """The part of a box inside the image; zeros if there is none."""
    height, width = image_shape[:2]
    y1, x1, y2, x2 = (int(edge) for edge in box[:4])
    y1 = max(y1, 0)
    x1 = max(x1, 0)
    y2 = min(y2, int(height))
    x2 = min(x2, int(width))
    if y1 < y2 and x1 < x2:
        return y1, x1, y2, x2
    return 0, 0, 0, 0


def _paste(
    masks: np.ndarray,
    boxes: Any,
    image_shape: Sequence[int],
    threshold: float,
    foreground: Callable,
) -> np.ndarray:
    """Resizes masks [N, h, w] to their boxes [N, 4]: [H, W, N] bool, a view of [N, H, W].

    foreground: `np.greater` or `np.greater_equal`, which compares values with the threshold.
    """
    masks = np.asarray(masks, np.float32)
    if masks.ndim != 3 or len(masks) != len(boxes):
        raise ValueError(
            "Expected a mask for each box. "
            f"Received: masks of shape {masks.shape}, {len(boxes)} boxes"
        )
    height, width = image_shape[:2]
    out = np.zeros((len(masks), int(height), int(width)), bool)
    for mask, box, full in zip(masks, boxes, out):
        y1, x1, y2, x2 = _box_inside(box, image_shape)
        if y1 < y2:
            _resize_into(
                full[y1:y2, x1:x2],
                mask,
                box,
                y1,
                x1,
                threshold,
                foreground,
            )
    return out.transpose(1, 2, 0)


def _resize_into(
    out: np.ndarray,
    mask: np.ndarray,
    box: Sequence[int],
    top: int,
    left: int,
    threshold: float,
    foreground: Callable,
) -> None:
    """Resizes a mask [h, w] float32 to its box and writes the part from (top, left) on to `out`."""
    # skimage clips the result to the input's range: the zeros outside don't darken such a border.
    if foreground(mask.min(), threshold):
        out[:] = True
        return
    y1, x1, y2, x2 = (int(edge) for edge in box[:4])
    height, width = out.shape
    mask_height, mask_width = mask.shape
    low, weight = _padded_neighbours(mask_width, x2 - x1, left - x1, width)
    rows = _stretched_rows(mask, low, weight)  # [h + 2, width]
    low, weight = _padded_neighbours(mask_height, y2 - y1, top - y1, height)
    slopes = rows[1:] - rows[:-1]
    # Not a matrix product: BLAS distributes even a small one over threads, which takes up to ten
    # times as long on a busy machine.
    if out.size <= ONE_GO:
        values = slopes[low]
        values *= weight[:, None]
        values += rows[low]
        foreground(values, threshold, out=out)
    else:
        _fill_strips(out, rows, slopes, low, weight, threshold, foreground)


def _stretched_rows(
    mask: np.ndarray,
    low: np.ndarray,
    weight: np.ndarray,
) -> np.ndarray:
    """A mask [h, w] resized along its rows, with a row of 0 above and below: [h + 2, K].

    low, weight: [K], see `_padded_neighbours`.
    """
    height, width = mask.shape
    padded = np.zeros((height, width + 2), np.float32)
    padded[:, 1:-1] = mask
    slopes = padded[:, 1:] - padded[:, :-1]
    rows = np.zeros((height + 2, len(low)), np.float32)
    inner = rows[1:-1]
    inner[:] = padded[:, low]
    inner += slopes[:, low] * weight
    return rows


def _fill_strips(
    out: np.ndarray,
    rows: np.ndarray,
    slopes: np.ndarray,
    low: np.ndarray,
    weight: np.ndarray,
    threshold: float,
    foreground: Callable,
) -> None:
    """Fills `out` in strips of the rows that lie between the same two rows of the mask.

    Columns in which both of these are background are skipped.

    Args:
        out: [height, width] bool, zeros; edited.
        rows: [h + 2, width], of `_stretched_rows`.
        slopes: [h + 1, width], differences of successive rows.
        low, weight: [height], see `_padded_neighbours`.
        threshold, foreground: see `_paste`.
    """
    height, width = out.shape
    reached = foreground(np.maximum(rows[:-1], rows[1:]), threshold)
    first = reached.argmax(axis=1)
    last = width - reached[:, ::-1].argmax(axis=1)
    changes = 1 + np.flatnonzero(low[1:] != low[:-1])
    bounds = [0, *changes.tolist(), height]
    for start, stop in itertools.pairwise(bounds):
        above = low[start]
        if not reached[above, first[above]]:
            continue
        columns = slice(first[above], last[above])
        strip = weight[start:stop, None] * slopes[above, columns]
        strip += rows[above, columns]
        foreground(strip, threshold, out=out[start:stop, columns])


class Masks:
    """Lazy masks of one image: outputs of the mask head, pasted into the image when accessed.

    `np.asarray(masks)`, `masks[...]` and `masks.shape` are those of the bool array [H, W, N].

    Args:
        soft: [N, h, w] float, probabilities inside the boxes.
        boxes: [N, (y1, x1, y2, x2)] int, in pixels.
        image_shape: (H, W).
        threshold: smallest probability of foreground.
    """

    dtype = np.dtype(bool)
    ndim = 3

    def __init__(
        self,
        soft: np.ndarray,
        boxes: Any,
        image_shape: Sequence[int],
        threshold: float = 0.5,
    ):
        self.soft = np.asarray(soft)
        self.boxes = np.asarray(boxes)
        self.threshold = threshold
        self.image_shape = tuple(int(side) for side in image_shape[:2])

    def __repr__(self) -> str:
        height, width = self.image_shape
        return f"Masks({len(self.soft)} of {height} x {width} pixels)"

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, N)."""
        return (*self.image_shape, len(self.soft))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        masks = unmold_masks(self.soft, self.boxes, self.image_shape, self.threshold)
        if dtype is None:
            return masks
        return masks.astype(dtype, copy=False)

    def __getitem__(self, key: Any) -> np.ndarray:
        if not _chooses_instances(key):
            return np.asarray(self)[key]
        instances = key[-1]  # only these masks are pasted
        if isinstance(instances, (int, np.integer)):
            return self[..., [instances]][..., 0]
        return np.asarray(self.only(instances))

    def __len__(self) -> int:
        return self.image_shape[0]

    def only(self, instances: Any) -> "Masks":
        """Some of the masks; instances: [N] bool, indices, or a slice."""
        return Masks(self.soft[instances], self.boxes[instances], self.image_shape, self.threshold)

    def uncovered(self, class_ids: np.ndarray, limit: float) -> np.ndarray:
        """Selects the masks that earlier masks of their class don't cover.

        A mask that is not selected covers nothing; one without a pixel is selected.

        Args:
            class_ids: [N], in descending order of score.
            limit: largest share of a mask's pixels that may be covered, 0..1.

        Returns:
            [N] bool.
        """
        occupied: dict[int, np.ndarray] = {}
        is_selected = np.ones(len(self.soft), bool)
        for i, class_id in enumerate(np.asarray(class_ids).tolist()):
            (y1, x1, y2, x2), crop = self.crop(i)
            if class_id not in occupied:
                occupied[class_id] = np.zeros(self.image_shape, bool)
            canvas = occupied[class_id][y1:y2, x1:x2]
            covered = np.count_nonzero(canvas & crop)
            is_selected[i] = covered <= limit * np.count_nonzero(crop)
            if is_selected[i]:
                canvas |= crop
        return is_selected

    def crop(self, i: int) -> tuple[Box, np.ndarray]:
        """The mask with index i inside its box.

        Returns:
            box: (y1, x1, y2, x2), clipped to the image.
            crop: [y2 - y1, x2 - x1] bool.
        """
        return unmold_crop(self.soft[i], self.boxes[i], self.image_shape, self.threshold)

    def rle(self) -> list[dict]:
        """COCO's compressed run lengths [{"size": [H, W], "counts": str}], made from the crops."""
        crops = map(self.crop, range(len(self.soft)))
        return encode_crops(crops, self.image_shape)


def check_form(form: str) -> None:
    """ValueError for a form that is not in `FORMS`."""
    if form not in FORMS:
        raise ValueError(f"masks is one of {', '.join(FORMS)}. Received: {form!r}")


def placed(
    masks: np.ndarray,
    boxes: np.ndarray,
    exact_boxes: np.ndarray,
    image_shape: Sequence[int],
    paste: str,
    form: str = "dense",
) -> Any:
    """The masks of a result in one of the forms of `MaskRCNN.detect`.

    Args:
        masks: [N, h, w], probabilities inside the boxes.
        boxes: [N, (y1, x1, y2, x2)] in pixels, as in the result.
        exact_boxes: the same, not rounded.
        image_shape: (H, W, ...).
        paste: MASK_PASTE.
        form: "dense", bool [H, W, N]; "lazy", a `Masks`; "rle", a list of COCO's compressed run
            lengths, made without a mask of the whole image.
    """
    check_form(form)
    if paste == "padded":
        masks, mask_boxes = pad_masks(masks, exact_boxes)
    else:
        mask_boxes = np.around(boxes).astype(int)
    return in_form(Masks(masks, mask_boxes, image_shape[:2]), form)


def in_form(lazy: Masks, form: str) -> Any:
    """Masks in one of `FORMS`, see `placed`."""
    if form == "lazy":
        return lazy
    if form == "rle":
        return lazy.rle()
    return np.asarray(lazy)


def _chooses_instances(key: Any) -> bool:
    """Whether an index is [..., k] or [:, :, k], where k is an int, a slice, or [n] of masks."""
    if not isinstance(key, tuple):
        return False
    *image, instances = key
    if isinstance(instances, (list, np.ndarray)):
        if np.ndim(instances) != 1:
            return False
    elif isinstance(instances, bool) or not isinstance(instances, (int, np.integer, slice)):
        return False
    if len(image) == 1:
        return image[0] is Ellipsis
    return len(image) == 2 and all(map(_is_whole_slice, image))


def _is_whole_slice(key: Any) -> bool:
    """Whether an index is `:`."""
    return isinstance(key, slice) and key == slice(None)


# ---- Label maps ----------------------------------------------------------------------------------


class LabelMaps:
    """Masks of one image, drawn into as few label maps as possible without overlap.

    Cropping, resizing or warping hundreds of small masks then takes the time and memory of one or
    two maps. No pixel is lost: masks that overlap are in different maps, so that transforms by
    nearest neighbour have the same result as for bool arrays.

    `np.asarray(label_maps)`, `label_maps.shape` and indexing are those of the bool array [H, W, N];
    `label_maps[..., k]` of several masks are label maps again.

    Args:
        maps: [K, H, W] of unsigned integers, 0 for background.
        map_of: [N] int, index of the mask's map; -1 for a mask without a pixel.
        label_of: [N] of the dtype of the maps, the value of the mask's pixels in its map.
    """

    dtype = np.dtype(bool)
    ndim = 3

    def __init__(self, maps: np.ndarray, map_of: np.ndarray, label_of: np.ndarray):
        self.maps = maps
        self.map_of = map_of
        self.label_of = label_of

    @classmethod
    def of_masks(cls, masks: np.ndarray) -> "LabelMaps":
        """Label maps of masks [H, W, N], where non-zero is foreground."""
        masks = np.asarray(masks)
        boxes = extract_bboxes(masks)
        return cls.of_crops(zip(boxes, _cut_out(masks, boxes)), masks.shape)

    @classmethod
    def of_crops(
        cls, crops: Iterable[tuple[Sequence[int], np.ndarray]], image_shape: Sequence[int]
    ) -> "LabelMaps":
        """Label maps of masks that are given by the parts in their boxes.

        Args:
            crops: (box, crop) of each mask: (y1, x1, y2, x2) inside the image, and
                [y2 - y1, x2 - x1], where non-zero is foreground.
            image_shape: (H, W, ...).
        """
        parts = list(crops)

        def draw(canvas: np.ndarray, k: int) -> None:
            (y1, x1, y2, x2), crop = parts[k]
            np.copyto(canvas[y1:y2, x1:x2], k + 1, casting="unsafe", where=crop != 0)

        areas = [np.count_nonzero(crop) for _, crop in parts]
        return cls(*_draw_without_overlap(areas, tuple(image_shape[:2]), draw))

    @classmethod
    def of_rle(cls, codes: Sequence[dict | None], height: int, width: int) -> "LabelMaps":
        """Label maps of compressed run lengths, whose sum is the number of the image's pixels.

        Args:
            codes: [{"size", "counts"}]; None for a mask without a pixel.
            height, width: of the image.
        """
        runs = []
        for code in codes:
            if code is None:
                runs.append([height * width])
            else:
                runs.append(decompressed(code["counts"]))

        def draw(canvas: np.ndarray, k: int) -> None:
            pixels = canvas.reshape(-1)
            edges = list(itertools.accumulate(runs[k]))
            for start, stop in zip(edges[::2], edges[1::2]):
                pixels[start:stop] = k + 1

        areas = [sum(lengths[1::2]) for lengths in runs]
        # Run lengths are in column-major order.
        maps, map_of, label_of = _draw_without_overlap(areas, (width, height), draw)
        return cls(maps.transpose(0, 2, 1), map_of, label_of)

    def __repr__(self) -> str:
        height, width, count = self.shape
        return f"LabelMaps({count} of {height} x {width} pixels in {len(self.maps)} maps)"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, N)."""
        height, width = self.maps.shape[1:]
        return height, width, len(self.map_of)

    @property
    def nbytes(self) -> int:
        """Size of the maps in bytes."""
        return self.maps.nbytes

    @property
    def has_pixels(self) -> np.ndarray:
        """[N] bool, False for masks that were empty when the maps were made; see `boxes`."""
        return self.map_of >= 0

    def with_maps(self, maps: np.ndarray) -> "LabelMaps":
        """The same objects in maps [K, h, w] that are a transform of these."""
        return LabelMaps(maps, self.map_of, self.label_of)

    def boxes(self) -> np.ndarray:
        """Tight boxes as by `extract_bboxes`: [N, (y1, x1, y2, x2)] int32, zeros without pixels."""
        from scipy import ndimage

        slices_of_maps = [ndimage.find_objects(labels) for labels in self.maps]
        boxes = np.zeros((len(self.map_of), 4), np.int32)
        for box, map_index, label in zip(boxes, self.map_of.tolist(), self.label_of.tolist()):
            if map_index < 0 or label > len(slices_of_maps[map_index]):
                continue
            slices = slices_of_maps[map_index][label - 1]
            if slices is not None:
                rows, columns = slices
                box[:] = rows.start, columns.start, rows.stop, columns.stop
        return boxes

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        masks = np.zeros(self.shape, bool)
        for i, (y1, x1, y2, x2) in enumerate(self.boxes().tolist()):
            if y1 < y2:
                masks[y1:y2, x1:x2, i] = self[y1:y2, x1:x2, i]
        if dtype is None:
            return masks
        return masks.astype(dtype, copy=False)

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, tuple) or isinstance(key[-1], bool):
            return np.asarray(self)[key]
        *image, instances = key
        if isinstance(instances, (int, np.integer)):
            has_map = self.map_of[instances] >= 0
            if has_map and len(image) == 2 and all(isinstance(part, slice) for part in image):
                labels = self.maps[(self.map_of[instances], *image)]
                return labels == self.label_of[instances]
        elif _chooses_instances(key):
            return LabelMaps(self.maps, self.map_of[instances], self.label_of[instances])
        return np.asarray(self)[key]

    def __len__(self) -> int:
        return self.maps.shape[1]


def compact(masks: np.ndarray) -> "LabelMaps | np.ndarray":
    """Label maps of masks [H, W, N], or the array if many overlap, so that it is smaller."""
    boxes = extract_bboxes(masks)
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.int64)
    if sides.prod(axis=1).sum() > MOST_COVERED * masks.shape[0] * masks.shape[1]:
        return masks
    return LabelMaps.of_crops(zip(boxes, _cut_out(masks, boxes)), masks.shape)


def _draw_without_overlap(
    areas: Sequence[int],
    shape: tuple[int, ...],
    draw: Callable[[np.ndarray, int], None],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws masks into label maps so that none overlaps another in its map.

    Args:
        areas: [N], in pixels.
        shape: (rows, columns) of a map.
        draw: f(map, k) that sets the pixels of the mask with index k to k + 1.

    Returns:
        maps [K, *shape], map_of [N], label_of [N], see `LabelMaps`.
    """
    count = len(areas)
    labels = np.arange(1, count + 1)
    label_of = labels.astype(np.min_scalar_type(count))
    pixels = np.array(areas, np.int64)
    map_of = np.full(count, -1)
    maps: list[np.ndarray] = []
    waiting = np.flatnonzero(pixels)
    while waiting.size:
        canvas = np.zeros(shape, label_of.dtype)
        # Masks with more pixels than the map in total must overlap.
        fitting = np.count_nonzero(np.cumsum(pixels[waiting]) <= canvas.size)
        drawn = waiting[: max(fitting, 1)]
        for k in drawn.tolist():
            draw(canvas, k)
        unbroken = drawn
        if np.count_nonzero(canvas) < pixels[drawn].sum():
            visible = np.bincount(canvas.ravel(), minlength=count + 1)[1:]
            is_unbroken = visible[drawn] == pixels[drawn]
            is_unbroken[-1] = True  # nothing was drawn over it
            unbroken = drawn[is_unbroken]
            kept_labels = np.zeros(count + 1, label_of.dtype)
            kept_labels[labels[unbroken]] = labels[unbroken]
            canvas = kept_labels[canvas]
        map_of[unbroken] = len(maps)
        maps.append(canvas)
        waiting = waiting[map_of[waiting] < 0]
    if not maps:
        return np.zeros((0, *shape), label_of.dtype), map_of, label_of
    return np.stack(maps), map_of, label_of


# ---- Run lengths ---------------------------------------------------------------------------------


def run_lengths(
    box: Sequence[int],
    crop: np.ndarray,
    image_shape: Sequence[int],
) -> list[int]:
    """Run lengths of a mask that is given by the part in its box.

    Args:
        box: (y1, x1, y2, x2) inside the image.
        crop: [y2 - y1, x2 - x1] bool.
        image_shape: (H, W).

    Returns:
        lengths of alternating runs of 0 and 1, beginning with 0, in column-major order.
    """
    counts, _ = _runs_of([(box, crop)], image_shape)
    return counts.tolist()


def _runs_of(
    crops: Sequence[tuple[Sequence[int], np.ndarray]], image_shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """`run_lengths` of several masks, vectorised.

    Returns:
        counts: [runs of all masks] int64, concatenated.
        sizes: [N] int64, the number of runs of each mask.
    """
    height, width = (int(side) for side in image_shape[:2])
    edges, owners = _edges_of(crops, height)
    per_mask = np.bincount(owners, minlength=len(crops))
    # Each mask has an additional edge at 0 and one after the image's last pixel.
    first = np.cumsum(per_mask + 2) - (per_mask + 2)
    last = first + per_mask + 1
    bounds = np.zeros(len(edges) + 2 * len(crops), np.int64)
    bounds[np.arange(len(edges)) + 2 * owners + 1] = edges
    bounds[last] = height * width
    counts = np.diff(bounds)
    # The step from a mask's last edge to the next mask's first is no run; a last run of length 0 is
    # left out.
    is_run = np.ones(len(counts), bool)
    is_run[last[:-1]] = False
    ends_with_empty_run = (per_mask > 0) & (counts[last - 1] == 0)
    is_run[last[ends_with_empty_run] - 1] = False
    return counts[is_run], per_mask + 1 - ends_with_empty_run


def _edges_of(
    crops: Sequence[tuple[Sequence[int], np.ndarray]], height: int
) -> tuple[np.ndarray, np.ndarray]:
    """The edges of masks, where 0 changes to 1 or back.

    Args:
        crops: (box, crop) of each mask, see `run_lengths`.
        height: of the image.

    Returns:
        edges: [E] int64, column-major indices into the image of the first pixel after the edge.
        owners: [E] int64, index of the mask of each edge.
    """
    shapes = np.array([crop.shape for _, crop in crops]).reshape(-1, 2)
    corners = np.array([box[:2] for box, _ in crops], np.int64).reshape(-1, 2)
    # The columns of all crops, with a 0 before the first and a 0 after each.
    lengths = (shapes[:, 0] + 1) * shapes[:, 1]
    starts = 1 + np.cumsum(lengths) - lengths
    pixels = np.zeros(1 + lengths.sum(), bool)
    for (_, crop), start, stop in zip(crops, starts.tolist(), (starts + lengths).tolist()):
        columns = pixels[start:stop].reshape(crop.shape[1], crop.shape[0] + 1)
        columns[:, :-1] = crop.T
    changes = 1 + np.flatnonzero(pixels[1:] != pixels[:-1])
    owners = np.searchsorted(starts, changes, "right") - 1
    column, row = np.divmod(changes - starts[owners], shapes[owners, 0] + 1)
    edges = (corners[owners, 1] + column) * height + corners[owners, 0] + row
    # A run that reaches the bottom of a column continues at the top of the next, without an edge.
    same_place = np.flatnonzero((edges[1:] == edges[:-1]) & (owners[1:] == owners[:-1]))
    is_edge = np.ones(len(edges), bool)
    is_edge[same_place] = False
    is_edge[same_place + 1] = False
    return edges[is_edge], owners[is_edge]


def encode(masks: Any) -> list[dict]:
    """Run-length encodings of masks in the form of COCO's results.

    Args:
        masks: [H, W, N], non-zero is foreground; or `Masks`; or encodings, which are returned.

    Returns:
        N dicts {"size": [H, W], "counts": str}.
    """
    if isinstance(masks, Masks):
        return masks.rle()
    if isinstance(masks, list) and all(isinstance(code, dict) for code in masks):
        return list(masks)
    try:
        from pycocotools import mask as coco_mask
    except ImportError:  # runtimes of exported models don't need pycocotools; numpy is slower
        height, width, count = masks.shape
        whole_image = (0, 0, height, width)
        return encode_crops(
            ((whole_image, masks[:, :, i] != 0) for i in range(count)), (height, width)
        )
    codes = []
    # One by one: the masks of 100 objects on 20 megapixels are not all copied at once.
    for i in range(masks.shape[-1]):
        foreground = np.asfortranarray(masks[:, :, i] != 0)
        codes.append(coco_mask.encode(foreground.view(np.uint8)))
    return [_as_text(code) for code in codes]


def encode_crops(
    crops: Iterable[tuple[Sequence[int], np.ndarray]], image_shape: Sequence[int]
) -> list[dict]:
    """Run-length encodings of masks that are given by the parts in their boxes.

    Args:
        crops: (box, crop) of each mask, see `run_lengths`.
        image_shape: (H, W).

    Returns:
        as `encode`.
    """
    height, width = (int(side) for side in image_shape[:2])
    codes = []
    for group in _groups_of_crops(crops):
        for text in compressed(*_runs_of(group, (height, width))):
            codes.append({"size": [height, width], "counts": text})
    return codes


def _groups_of_crops(
    crops: Iterable[tuple[Sequence[int], np.ndarray]],
) -> Iterator[list[tuple[Sequence[int], np.ndarray]]]:
    """Lists of crops with at most `RUNS_AT_ONCE` pixels in total, or with a single larger one."""
    group: list = []
    pixels = 0
    for box, crop in crops:
        if group and pixels + crop.size > RUNS_AT_ONCE:
            yield group
            group = []
            pixels = 0
        group.append((box, crop))
        pixels += crop.size
    if group:
        yield group


def compressed(counts: np.ndarray, sizes: np.ndarray) -> list[str]:
    """Run lengths in pycocotools' compressed form, the inverse of `decompressed`.

    From the fourth run on, its difference to the run before the previous one is written. A number
    is written in groups of five bits, lowest first, each as the character 48 + bits; a sixth bit,
    32, means that another group follows.

    Args:
        counts: [runs] int, those of several masks, concatenated.
        sizes: [N] int, the number of runs of each mask.

    Returns:
        N texts.
    """
    counts = np.asarray(counts, np.int64)
    sizes = np.asarray(sizes, np.int64)
    stops = np.cumsum(sizes)
    number_in_mask = np.arange(len(counts)) - np.repeat(stops - sizes, sizes)
    remaining = counts.copy()
    later = np.flatnonzero(number_in_mask > 2)
    remaining[later] -= counts[later - 2]
    columns = []
    has_group = np.ones(len(remaining), bool)
    while has_group.any():
        low = remaining & 31
        remaining >>= 5
        # No group follows if only the sign remains, and the highest bit of this group is the sign.
        more = remaining != np.where(low & 16, -1, 0)
        characters = 48 + low + 32 * more
        columns.append(np.where(has_group, characters, 0).astype(np.uint8))
        has_group &= more
    if not columns:
        return [""] * len(sizes)
    table = np.stack(columns, axis=1)
    text = table[table > 0].tobytes().decode("ascii")
    ends = np.cumsum(np.count_nonzero(table, axis=1))
    stops_in_text = np.append(0, ends)[stops].tolist()
    starts_in_text = [0, *stops_in_text[:-1]]
    return [text[start:stop] for start, stop in zip(starts_in_text, stops_in_text)]


def _as_text(code: dict) -> dict:
    """A compressed encoding as JSON can hold it, with text instead of bytes."""
    size = [int(side) for side in code["size"]]
    return {"size": size, "counts": code["counts"].decode()}


def to_rle(
    annotation: dict,
    height: int,
    width: int,
) -> dict:
    """The compressed run-length encoding of an annotation with polygons or either kind of RLE.

    Args:
        annotation: dict of an `instances_*.json`. Polygons that can't be drawn are ignored.
        height, width: of its image.

    Raises:
        SegmentationError: no part can be drawn; names the annotation.
    """
    try:
        shape, _ = sound_segmentation(annotation.get("segmentation"), height, width)
    except SegmentationError as error:
        text = f"annotation {annotation.get('id')}: {error}"
        raise SegmentationError(error.kind, text) from error
    if isinstance(shape, dict) and not isinstance(shape["counts"], list):
        return shape
    from pycocotools import mask as coco_mask

    if isinstance(shape, list):
        return coco_mask.merge(coco_mask.frPyObjects(shape, height, width))
    return coco_mask.frPyObjects(shape, height, width)


def decode(
    annotations: Sequence[dict],
    height: int,
    width: int,
) -> np.ndarray:
    """The masks of annotations, [height, width, N] bool; see `to_rle`."""
    return decode_rle([to_rle(item, height, width) for item in annotations], height, width)


def decode_rle(
    codes: Sequence[dict],
    height: int,
    width: int,
) -> np.ndarray:
    """The masks of compressed encodings, [height, width, N] bool, a view of [N, width, height].

    Of many small masks most of that memory is never written and so is not allocated by the system.
    """
    columns = np.zeros((len(codes), width, height), bool)
    for mask, code in zip(columns, codes):
        dense = _decoded_at_once(code)
        if dense is not None:
            mask[:] = dense.T
            continue
        pixels = mask.reshape(-1)
        edges = list(itertools.accumulate(decompressed(code["counts"])))
        for start, stop in zip(edges[::2], edges[1::2]):
            pixels[start:stop] = True
    return columns.transpose(2, 1, 0)


def _decoded_at_once(code: dict) -> np.ndarray | None:
    """The mask [H, W] of an encoding of many runs by pycocotools; None where numpy is to decode it.

    Few runs numpy decodes sooner; and many more slowly where pycocotools is missing, which runtimes
    of exported models don't need.
    """
    height, width = code["size"]
    if PIXELS_OF_A_CHARACTER * len(code["counts"]) <= height * width:
        return None
    try:
        from pycocotools import mask as coco_mask
    except ImportError:
        return None
    return coco_mask.decode(code).astype(bool)


def as_dense(masks: Any) -> np.ndarray:
    """Masks of any form that `MaskRCNN.detect` gives as one array.

    Args:
        masks: [H, W, N]; `Masks`; or N run-length encodings {"size", "counts"}.

    Returns:
        [H, W, N], bool of encodings, otherwise of the dtype that they have; [0, 0, 0] of an empty
        list.

    Raises:
        ValueError: encodings of several sizes, or what is no [H, W, N].
    """
    if are_encodings(masks):
        if not len(masks):
            return np.zeros((0, 0, 0), bool)
        sizes = sorted({tuple(int(side) for side in code["size"]) for code in masks})
        if len(sizes) > 1:
            raise ValueError(f"Expected masks of one image size. Received: {sizes}")
        return decode([{"segmentation": code} for code in masks], *sizes[0])
    dense = np.asarray(masks)
    if not dense.size and dense.ndim != 3:
        return np.zeros((0, 0, 0), bool)
    if dense.ndim != 3:
        raise ValueError(f"Expected masks of shape [H, W, N]. Received: {dense.shape}")
    return dense


def are_encodings(masks: Any) -> bool:
    """Whether masks are a list of run-length encodings."""
    return isinstance(masks, (list, tuple)) and all(isinstance(code, dict) for code in masks)


def cut_to_pixels(mask: np.ndarray) -> tuple[int, int, np.ndarray]:
    """Crops a mask [H, W] bool to its foreground.

    Returns:
        y, x: first row and column of the crop; 0 for a mask without a pixel.
        crop: [h, w] bool, a view; [0, 0] for a mask without a pixel.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, np.zeros((0, 0), bool)
    y = int(rows[0])
    x = int(columns[0])
    return y, x, mask[y : rows[-1] + 1, x : columns[-1] + 1]


def crop_of_rle(code: dict) -> tuple[Box, np.ndarray]:
    """The tight box of a compressed encoding and the mask in it, without an array of the image.

    Returns:
        box: (y1, x1, y2, x2); zeros for a mask without a pixel.
        crop: [y2 - y1, x2 - x1] bool.
    """
    height, width = map(int, code["size"])
    dense = _decoded_at_once(code)
    if dense is not None:
        y, x, crop = cut_to_pixels(dense)
        return (y, x, y + crop.shape[0], x + crop.shape[1]), crop
    edges = np.cumsum(decompressed(code["counts"]))
    stops = edges[1::2]
    starts = edges[::2][: len(stops)]
    is_run = starts < stops
    starts = starts[is_run]
    stops = stops[is_run]
    if not len(starts):
        return (0, 0, 0, 0), np.zeros((0, 0), bool)
    left = int(starts[0] // height)
    right = int((stops[-1] - 1) // height) + 1
    columns = np.zeros((right - left) * height, bool)
    for start, stop in zip((starts - left * height).tolist(), (stops - left * height).tolist()):
        columns[start:stop] = True
    pixels = columns.reshape(right - left, height).T
    rows = np.flatnonzero(pixels.any(axis=1))
    top = int(rows[0])
    bottom = int(rows[-1]) + 1
    return (top, left, bottom, right), pixels[top:bottom]


def crop_of_annotation(annotation: dict, height: int, width: int) -> tuple[Box, np.ndarray]:
    """The box and crop of an annotation, see `crop_of_rle`; arguments and errors of `to_rle`."""
    return crop_of_rle(to_rle(annotation, height, width))


def crops_of(masks: Any) -> Iterator[tuple[Box, np.ndarray]]:
    """The masks of a result, in any form, as boxes and the pixels in them.

    Args:
        masks: `Masks`; a list of N run-length encodings {"size", "counts"}; or [H, W, N] of any
            dtype, where non-zero is foreground.

    Yields:
        box: (y1, x1, y2, x2) in pixels, y2 and x2 outside; it holds the mask.
        crop: [y2 - y1, x2 - x1] bool.
    """
    if isinstance(masks, Masks):
        for i in range(masks.shape[2]):
            yield masks.crop(i)
    elif isinstance(masks, (list, tuple)):
        for code in masks:
            yield crop_of_annotation({"segmentation": code}, *code["size"])
    else:
        masks = np.asarray(masks)
        for i, (y1, x1, y2, x2) in enumerate(extract_bboxes(masks).tolist()):
            yield (y1, x1, y2, x2), masks[y1:y2, x1:x2, i] != 0


# ---- Annotations of other programs ---------------------------------------------------------------

# Why a segmentation, or a part of it, can't be drawn.
NO_SHAPE = "have no segmentation"
BAD_POLYGON = "have a polygon of less than 3 points or an odd count of numbers"
BAD_NUMBERS = "have a polygon with null, NaN, text or a number that is no place in an image"
BAD_RUNS = "have run lengths that are no mask of their image"

# The largest absolute coordinate of a polygon, and the largest length of its outline, in pixels:
# pycocotools allocates 100 bytes for each pixel of an outline, however long it is.
FARTHEST = 1e6
LONGEST = 5e6
# Text of an integer, or of any number; float() would read 1_2, an id of VIA, as 12.
WHOLE_NUMBER = re.compile(r"[-+]?[0-9]{1,18}(\.0*)?")
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
# A polygon with a norm and a count below these is certainly within the two limits above.
QUICK_NORM = 1e5
QUICK_COUNT = 600


class SegmentationError(ValueError):
    """A segmentation that can't be drawn in its image.

    Attributes:
        kind: `NO_SHAPE`, `BAD_POLYGON`, `BAD_NUMBERS` or `BAD_RUNS`.
    """

    def __init__(self, kind: str, text: str):
        super().__init__(text)
        self.kind = kind


def sound_segmentation(
    shape: Any,
    height: int,
    width: int,
) -> tuple[Any, list[SegmentationError]]:
    """Converts a segmentation of any form found in exports to one that pycocotools takes.

    Polygons may be one flat list of numbers, or lists of points; RLEs may be in a list; numbers may
    be text; lists may be tuples or arrays; rows of 0 and 1 of the image's size are a mask.

    Returns:
        a list of polygons [x1, y1, x2, y2, ...] or an RLE, and the errors of parts left out.

    Raises:
        SegmentationError: no part of it can be drawn.
    """
    if isinstance(shape, str):
        shape = _parsed(shape)
    if isinstance(shape, dict):
        return sound_runs(shape, height, width), []
    if _is_bitmap(shape, height, width):
        return encode(np.asarray(shape, np.uint8)[..., None])[0], []
    polygons = []
    codes = []
    problems = []
    for part in _parts(shape):
        try:
            if isinstance(part, dict):
                codes.append(sound_runs(part, height, width))
            else:
                polygons.append(sound_polygon(part))
        except SegmentationError as error:
            problems.append(error)
    if codes:
        return _union(polygons, codes, height, width), problems
    if polygons:
        return polygons, problems
    if problems:
        raise problems[0]
    raise SegmentationError(NO_SHAPE, f"it has no segmentation. Received: {files.short(shape)}")


def _is_bitmap(shape: Any, height: int, width: int) -> bool:
    """Whether a segmentation is a mask, rows of 0 and 1 of the image's size."""
    if not isinstance(shape, (list, np.ndarray)) or len(shape) != height or height < 2:
        return False
    try:
        pixels = np.asarray(shape, np.float64)
    except (TypeError, ValueError, OverflowError):
        return False
    return pixels.shape == (height, width) and bool(np.isin(pixels, (0, 1)).all())


def _parsed(text: str) -> Any:
    """The value of a segmentation that is JSON inside a text; None for other text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _parts(shape: Any) -> list:
    """The polygons and run lengths of a segmentation."""
    shape = _as_list(shape)
    if not isinstance(shape, list) or not shape:
        return []
    shape = [_as_list(item) for item in shape]
    if not any(isinstance(item, (list, dict)) for item in shape):
        return [shape]  # a flat list, as in VIA's exports
    are_points = all(isinstance(item, list) and len(item) == 2 for item in shape)
    if are_points and len(shape) > 2:
        return [shape]
    return shape


def _as_list(value: Any) -> Any:
    """A tuple or an array as a list; any other value itself."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, tuple):
        return list(value)
    return value


def _union(
    polygons: list[list],
    codes: list[dict],
    height: int,
    width: int,
) -> dict:
    """One RLE of the union of RLEs and polygons."""
    from pycocotools import mask as coco_mask

    shapes: list[Any] = list(codes)
    if polygons:
        shapes.append(polygons)
    rles = [to_rle({"segmentation": item}, height, width) for item in shapes]
    return _as_text(coco_mask.merge(rles))


def is_plain_polygon(polygon: Any) -> bool:
    """Whether a polygon already has COCO's own form and is within the limits.

    A fast check, since there may be millions; the others go through `sound_polygon`.
    """
    if type(polygon) is not list or not 6 <= len(polygon) < QUICK_COUNT or len(polygon) % 2:
        return False
    try:
        return math.hypot(*polygon) < QUICK_NORM
    except (TypeError, OverflowError):
        return False


def sound_polygon(polygon: Any) -> list:
    """Converts a polygon to [x1, y1, x2, y2, ...]; SegmentationError if it can't be drawn."""
    if is_plain_polygon(polygon):
        return polygon
    if not isinstance(polygon, list):
        raise SegmentationError(
            BAD_POLYGON, f"a polygon is a list. Received: {files.short(polygon)}"
        )
    expected = f"a polygon has numbers only. Received: {files.short(polygon)}"
    try:
        coordinates = np.asarray(polygon, np.float64)  # reads numbers as text; null becomes NaN
    except (TypeError, ValueError, OverflowError) as error:
        raise SegmentationError(BAD_NUMBERS, expected) from error
    if any(finite_number(text) is None for text in _texts_in(polygon)):
        raise SegmentationError(BAD_NUMBERS, expected)
    if coordinates.ndim > 1 and coordinates.size == 2 * max(coordinates.shape[:-1]):
        coordinates = coordinates.ravel()  # points, or OpenCV's [points, 1, (x, y)]
    if coordinates.ndim != 1 or coordinates.size < 6 or coordinates.size % 2:
        raise SegmentationError(
            BAD_POLYGON,
            f"a polygon has at least 3 points of two numbers. Received: {files.short(polygon)}",
        )
    points = coordinates.reshape(-1, 2)
    invalid = ~(np.abs(coordinates) <= FARTHEST)  # NaN too
    if invalid.any():
        raise SegmentationError(
            BAD_NUMBERS,
            f"a polygon's numbers are places in the image. Received: {coordinates[invalid][0]}",
        )
    length = np.abs(points - np.roll(points, 1, axis=0)).sum()
    if length > LONGEST:
        raise SegmentationError(
            BAD_NUMBERS,
            f"a polygon's outline is at most {LONGEST:.0f} pixels long. Received: {length:.0f}",
        )
    return coordinates.tolist()


def _texts_in(polygon: list) -> list[str]:
    """The items of a polygon's numbers or points that are text."""
    texts = []
    for item in polygon:
        if isinstance(item, list):
            texts += _texts_in(item)
        elif isinstance(item, str):
            texts.append(item)
    return texts


def sound_runs(
    rle: dict,
    height: int,
    width: int,
) -> dict:
    """Checks an RLE, and converts its numbers to int.

    Returns:
        {"size": [height, width], "counts": list of int, or text}.

    Raises:
        SegmentationError: no RLE; a size other than (height, width), runs that don't add up to it,
            or negative ones. pycocotools would leave a part of such a mask undefined, or write
            beyond its end.
    """
    size = _as_list(rle.get("size"))
    if not isinstance(size, list) or len(size) != 2:
        raise SegmentationError(
            BAD_RUNS, f"run lengths have a size [height, width]. Received: {files.short(size)}"
        )
    sides = tuple(whole_number(side) for side in size)
    if sides != (height, width):
        received = " x ".join(map(files.short, size))
        raise SegmentationError(
            BAD_RUNS,
            f"run lengths have the size of their image, {height} x {width}. Received: {received}",
        )
    counts = _as_list(rle.get("counts"))
    if isinstance(counts, (str, bytes)):
        counts = _unquoted(counts)
        runs: list[int] = decompressed(counts)
    elif isinstance(counts, list):
        counts = runs = _whole_numbers(counts)
    else:
        raise SegmentationError(
            BAD_RUNS, f"counts are a list or compressed text. Received: {files.short(counts)}"
        )
    if min(runs, default=0) < 0:
        raise SegmentationError(BAD_RUNS, f"runs are not negative. Received: {min(runs)}")
    total = sum(runs)
    if total != height * width:
        raise SegmentationError(
            BAD_RUNS, f"runs add up to {height} x {width} pixels. Received: {total}"
        )
    return {"size": [height, width], "counts": counts}


def whole_number(value: Any) -> int | None:
    """The value of 7, 7.0 or "7" as an int; None for anything else."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, str) and WHOLE_NUMBER.fullmatch(value.strip()):
        return int(value.split(".")[0])
    if isinstance(value, (float, np.floating)):
        number = float(value)
        if number.is_integer() and abs(number) < 2**53:
            return int(number)
    return None


def finite_number(value: Any) -> float | None:
    """The value of 1.5 or "1.5" as a number; None for anything else, NaN and infinity included."""
    if isinstance(value, str):
        if not NUMBER.fullmatch(value.strip()):
            return None
        value = float(value)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        return None
    try:
        if math.isfinite(value):
            return value  # type: ignore[return-value]
    except OverflowError:  # an int beyond the range of floats
        pass
    return None


def _whole_numbers(counts: list) -> list[int]:
    """Runs as a list of int; SegmentationError for other numbers."""
    if all(isinstance(run, int) for run in counts):
        return counts
    runs = [whole_number(run) for run in counts]
    if None in runs:
        invalid = counts[runs.index(None)]
        raise SegmentationError(
            BAD_RUNS, f"runs are whole numbers. Received: {files.short(invalid)}"
        )
    return [run for run in runs if run is not None]


def _unquoted(counts: str | bytes) -> str | bytes:
    """Compressed runs without the b'...' of bytes that were written by `repr`."""
    if not isinstance(counts, str) or not counts.startswith(("b'", 'b"')):
        return counts
    try:
        return ast.literal_eval(counts).decode("ascii")
    except (ValueError, SyntaxError, AttributeError):
        return counts


def decompressed(counts: str | bytes) -> list[int]:
    """The run lengths of COCO's compressed form, the inverse of `compressed`.

    A number is written in groups of five bits, lowest first, each as the character 48 + bits; a
    sixth bit, 32, means that another group follows, and bit 16 of the last group is the sign. From
    the fourth on, runs are differences to the run before the previous one.

    Raises:
        SegmentationError: the text has another form.
    """
    text = counts
    if isinstance(text, str):
        text = text.encode("ascii", "backslashreplace")
    runs: list[int] = []
    value = 0
    shift = 0
    for character in text:
        group = character - 48
        if not 0 <= group < 64 or shift > 30:  # pycocotools' runs have 32 bits
            break
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        runs.append(value)
        value = 0
        shift = 0
    else:
        if not shift:
            return runs
    raise SegmentationError(
        BAD_RUNS, f"counts are COCO's compressed text. Received: {files.short(counts)}"
    )


# ---- Label Studio's run lengths ------------------------------------------------------------------

# A brush region is an RGBA image in row-major order whose alpha channel is the mask. It is packed
# into bits in the format of the JavaScript package @thi.ng/rle-pack: 32 bits for the number of
# values, 5 for the width of a value minus one, 4 for each of four widths of run lengths minus one.
# Each run follows: 1 bit for whether one value is repeated or all are listed, 2 for the width of
# its length, the length minus one, and the value or values.
_BANDS = 4
_VALUE_BITS = 8
_LENGTH_BITS = (3, 4, 8, 16)


def pack_brush(mask: np.ndarray) -> list[int]:
    """A mask in the format of Label Studio's brush regions, the inverse of `unpack_brush`.

    Args:
        mask: [H, W], non-zero is foreground.

    Returns:
        bytes, each 0 to 255.

    Raises:
        ValueError: 2^30 pixels or more, which the format can't count.
    """
    values = np.asarray(mask).astype(bool).ravel()
    if len(values) * _BANDS >= 1 << 32:
        raise ValueError(
            f"Label Studio's brush regions have fewer than {1 << 30} pixels. Received:"
            f" {len(values)}"
        )
    begins = np.ones(len(values), bool)
    begins[1:] = values[1:] != values[:-1]
    starts = np.flatnonzero(begins)
    lengths = _BANDS * np.diff(np.append(starts, len(values)))
    longest = 1 << _LENGTH_BITS[-1]
    # A run that is too long is split; all parts but the last have the largest length.
    parts = -(-lengths // longest)
    runs = np.full(int(parts.sum()), longest, np.int64)
    runs[np.cumsum(parts) - 1] = lengths - (parts - 1) * longest
    opacity = 255 * np.repeat(values[starts], parts)
    kinds = np.searchsorted(1 << np.array(_LENGTH_BITS), runs)
    sizes = np.array(_LENGTH_BITS)[kinds]
    words = ((((4 + kinds) << sizes) | (runs - 1)) << _VALUE_BITS) | opacity
    header = [len(values) * _BANDS, _VALUE_BITS - 1, *(size - 1 for size in _LENGTH_BITS)]
    header_sizes = [32, 5, *(4 for _ in _LENGTH_BITS)]
    bits = _bits_of(
        np.append(np.array(header, np.int64), words),
        np.append(header_sizes, 3 + sizes + _VALUE_BITS).astype(np.int64),
    )
    return np.packbits(bits).tolist()


def _bits_of(words: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The concatenated bits of words [n], of sizes [n] in bits: [sum of sizes] uint8."""
    ends = np.cumsum(sizes)
    bits = np.zeros(int(sizes.sum()), np.uint8)
    for bit in range(int(sizes.max())):
        has = sizes > bit
        bits[ends[has] - 1 - bit] = (words[has] >> bit) & 1
    return bits


def unpack_brush(
    rle: Any,
    height: int,
    width: int,
) -> np.ndarray:
    """The mask of a brush region of Label Studio, the inverse of `pack_brush`.

    Args:
        rle: list of bytes, each 0 to 255.
        height, width: of the image.

    Returns:
        [height, width] bool: True where the brush is not fully transparent.

    Raises:
        SegmentationError: no such list, another number of pixels, or a truncated list.
    """
    reader = _BitReader(rle)
    count = reader.take(32)
    if count != height * width * _BANDS:
        raise SegmentationError(
            BAD_RUNS,
            f"expected brush run lengths of {height} x {width} pixels of {_BANDS} values."
            f" Received: {count} values",
        )
    value_bits = reader.take(5) + 1
    if value_bits != _VALUE_BITS:
        raise SegmentationError(
            BAD_RUNS, f"expected brush values of {_VALUE_BITS} bits. Received: {value_bits}"
        )
    sizes = [reader.take(4) + 1 for _ in _LENGTH_BITS]
    opacity = np.zeros(height * width, np.uint8)
    start = 0
    while start < count:
        is_repeated = reader.take(1)
        stop = min(start + reader.take(sizes[reader.take(2)]) + 1, count)
        # The opacity of pixel p is value 4 p + 3.
        pixels = slice(start // _BANDS, stop // _BANDS)
        if is_repeated:
            opacity[pixels] = reader.take(_VALUE_BITS)
        else:
            values = reader.take_bytes(stop - start)
            opacity[pixels] = values[_BANDS - 1 - start % _BANDS :: _BANDS]
        start = stop
    return opacity.reshape(height, width) > 0


class _BitReader:
    """Reads the bits of a list of bytes, highest first; SegmentationError beyond its end."""

    def __init__(self, values: Any):
        try:
            if not isinstance(values, (list, tuple, np.ndarray)):
                raise TypeError("no list")
            self._data = bytes(list(values))
        except (TypeError, ValueError) as error:
            raise SegmentationError(
                BAD_RUNS,
                "expected brush run lengths, a list of numbers from 0 to 255. Received:"
                f" {files.short(values)}",
            ) from error
        self._position = 0  # in bits

    def _step(self, bits: int) -> tuple[int, int]:
        """Advances by some bits. Returns the byte in which they begin, and its bits before them."""
        before = self._position
        self._position += bits
        if self._position > 8 * len(self._data):
            raise SegmentationError(
                BAD_RUNS,
                "expected brush run lengths of the whole image. Received:"
                f" {len(self._data)} bytes, which end before",
            )
        return divmod(before, 8)

    def take(self, bits: int) -> int:
        """The number in the next bits, at most 32."""
        first, used = self._step(bits)
        window = int.from_bytes(self._data[first : first + 5].ljust(5, b"\0"), "big")
        return (window >> (40 - used - bits)) & ((1 << bits) - 1)

    def take_bytes(self, count: int) -> np.ndarray:
        """The next values of 8 bits, [count] uint8."""
        first, used = self._step(8 * count)
        if not used:
            return np.frombuffer(self._data, np.uint8, count, first)
        pairs = np.frombuffer(self._data, np.uint8, count + 1, first).astype(np.uint16)
        return ((pairs[:-1] << used | pairs[1:] >> (8 - used)) & 255).astype(np.uint8)


# ---- Overlaps ------------------------------------------------------------------------------------


def compute_overlaps_masks(masks1: np.ndarray, masks2: np.ndarray) -> np.ndarray:
    """IoU of each pair of masks.

    Args:
        masks1, masks2: [H, W, N] and [H, W, M], foreground above .5; or another form that
            `as_dense` takes.

    Returns:
        [N, M] float32, 0 where both masks are empty.

    Raises:
        ValueError: masks of different image sizes.
    """

    masks1 = _as_bool(masks1)
    masks2 = _as_bool(masks2)
    count1 = masks1.shape[-1]
    count2 = masks2.shape[-1]
    if not count1 or not count2:
        return np.zeros((count1, count2), np.float32)
    if masks1.shape[:2] != masks2.shape[:2]:
        raise ValueError(
            f"Expected masks of one image size. Received: {masks1.shape[:2]} and {masks2.shape[:2]}"
        )
    with concurrent.futures.ThreadPoolExecutor(2) as pool:  # numpy releases the GIL
        first, second = pool.map(_boxes_and_crops, (masks1, masks2))
    boxes1, crops1 = first
    boxes2, crops2 = second
    if crops1[0].dtype != crops2[0].dtype:
        boxes1, crops1 = _unpacked(boxes1, crops1)
        boxes2, crops2 = _unpacked(boxes2, crops2)
    windows = intersection(boxes1.T[:, :, None], boxes2.T[:, None])  # [N, M] cells of a crop
    pixels_of_cell = 1
    if crops1[0].dtype == np.uint8:
        pixels_of_cell = 8
    image_pixels = masks1.shape[0] * masks1.shape[1]
    if pixels_of_cell * windows.sum() <= 10 * image_pixels * (count1 + count2):
        common = _common_pixels(boxes1, crops1, boxes2, crops2, windows > 0)
    else:
        common = _common_pixels_dense(masks1, masks2)
    area1 = np.array([_count_pixels(crop) for crop in crops1], np.float64)
    area2 = np.array([_count_pixels(crop) for crop in crops2], np.float64)
    return iou(common, area1[:, None], area2).astype(np.float32)


def _as_bool(masks: Any) -> np.ndarray:
    """Masks of any form as bool; above .5 is foreground."""
    masks = as_dense(masks)
    if masks.dtype == bool:
        return masks
    return masks > 0.5


def _boxes_and_crops(masks: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Boxes that contain the pixels of masks [H, W, N] bool, and the masks inside them.

    Returns:
        boxes [N, 4] int; crops, a list of [h, w] bool, or of uint8 with eight rows of pixels packed
        as the bits of one: then the unit of y in boxes is such a row.
    """

    if abs(masks.strides[2]) >= abs(masks.strides[1]):  # each mask is contiguous
        boxes = extract_bboxes(masks).astype(np.int64)
        return boxes, list(_cut_out(masks, boxes))
    # The masks are interleaved: packed first, a mask's crop has an eighth of the strided reads.
    bits = _packed(masks)
    boxes = extract_bboxes(bits).astype(np.int64)
    return boxes, [np.ascontiguousarray(crop) for crop in _cut_out(bits, boxes)]


def _cut_out(masks: np.ndarray, boxes: np.ndarray) -> Iterator[np.ndarray]:
    """The part of each mask of [H, W, N] in its box of [N, 4]."""
    for i, (y1, x1, y2, x2) in enumerate(boxes.tolist()):
        yield masks[y1:y2, x1:x2, i]


def _packed(masks: np.ndarray) -> np.ndarray:
    """Masks [H, W, N] bool with eight rows packed as bits of one: [ceil(H / 8), W, N] uint8."""
    height, width, count = masks.shape
    cells = math.ceil(height / 8)
    bits = np.zeros((cells, width, count), np.uint8)
    # 64 rows at a time: numpy's calls are then long enough to run in two threads at once.
    for start in range(0, height, 64):
        rows = masks[start : start + 64].view(np.uint8)
        packed = bits[start // 8 : start // 8 + 8]
        for k in reversed(range(8)):
            np.add(packed, packed, out=packed)
            of_bit = packed[: len(rows[k::8])]
            np.bitwise_or(of_bit, rows[k::8], out=of_bit)
    return bits


def _unpacked(boxes: np.ndarray, crops: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The result of `_boxes_and_crops` in pixels, with crops of bool."""
    if crops[0].dtype == bool:
        return boxes, crops
    unpacked = []
    for crop in crops:
        height, width = crop.shape
        full = np.empty((height, 8, width), bool)
        for k in range(8):
            bit = crop & (1 << k)
            np.not_equal(bit, 0, out=full[:, k])
        unpacked.append(full.reshape(8 * height, width))
    return boxes * (8, 1, 8, 1), unpacked


def _count_pixels(crop: np.ndarray) -> int:
    """Number of foreground pixels of a crop, bool or packed."""
    if crop.dtype == bool:
        return np.count_nonzero(crop)
    return int.from_bytes(crop.tobytes(), "little").bit_count()


def _common_pixels(
    boxes1: np.ndarray,
    crops1: list[np.ndarray],
    boxes2: np.ndarray,
    crops2: list[np.ndarray],
    boxes_overlap: np.ndarray,
) -> np.ndarray:
    """Number of common pixels of masks, [N, M], counted where their boxes overlap.

    boxes_overlap: [N, M] bool.
    """
    first, second = np.nonzero(boxes_overlap)
    corners1 = boxes1[first, :2]
    corners2 = boxes2[second, :2]
    top_left = np.maximum(corners1, corners2)
    bottom_right = np.minimum(boxes1[first, 2:], boxes2[second, 2:])
    window = np.concatenate([top_left, bottom_right], axis=1)
    windows1 = window - np.tile(corners1, 2)
    windows2 = window - np.tile(corners2, 2)
    common = np.zeros(boxes_overlap.shape)
    for i, j, window1, window2 in zip(first, second, windows1.tolist(), windows2.tolist()):
        y1, x1, y2, x2 = window1
        part1 = crops1[i][y1:y2, x1:x2]
        y1, x1, y2, x2 = window2
        part2 = crops2[j][y1:y2, x1:x2]
        common[i, j] = _count_pixels(part1 & part2)
    return common


def _common_pixels_dense(masks1: np.ndarray, masks2: np.ndarray) -> np.ndarray:
    """Number of common pixels of masks, [N, M], by a matrix product: faster for large masks."""
    height, _, count1 = masks1.shape
    count2 = masks2.shape[-1]
    common = np.zeros((count1, count2))
    # 32 rows at a time: whole masks as floats would take four times their memory.
    for start in range(0, height, 32):
        rows = slice(start, start + 32)
        pixels1 = masks1[rows].reshape(-1, count1).astype(np.float32)
        pixels2 = masks2[rows].reshape(-1, count2).astype(np.float32)
        common += pixels1.T @ pixels2
    return common
