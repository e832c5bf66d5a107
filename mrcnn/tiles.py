"""Detection on large images, tile by tile; objects that span several tiles are merged by mask.

    result = model.detect([image], tile=1024, overlap=256)[0]       # masks are run lengths
    with tiles.TiffImage("scene.tif") as image:                      # windows of a file
        result = tiles.detect(model, image, tile=1024)
        tiles.write_geojson("scene.geojson", result, names, image.transform)

An object that several tiles show is detected once. Two detections of overlapping tiles belong to
one object if their masks match in the overlap of the tiles (IoU of at least .5), or if one of them
is cut off by its tile and lies mostly inside the other there. If one of the tiles contains the
whole object, its detection is kept; otherwise the masks are joined. Where tiles only touch (an
overlap of 0), two masks that reach the seam are joined if half of the shorter one's pixels there
are beside the other.

Masks are stored as runs, never as arrays of the image's size: memory and time grow with the pixels
that are processed and the objects that are detected. numpy only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mrcnn import data, files, masks as mask_math, utils

logger = logging.getLogger(__name__)

# Overlap of tiles by default, as a share of a tile's side.
OVERLAP = 0.2
# Within the overlap of two tiles: IoU from which two masks belong to one object, and the share of a
# cut-off mask that must lie inside the other one.
SAME = 0.5
# An object nearer to its tile's edge than this counts as cut off, in pixels and as a share of its
# side: masks of 28 x 28 are not more accurate.
CUT_PIXELS = 2
CUT_SHARE = 1 / 16

# Share of a mask that may lie outside a tile that contains the whole object.
OUTSIDE = 0.02

# From this share of a tile's side on, an overlap is mostly the same pixels again: a warning tells
# how long an image takes that has more than MANY_TILES, and one of more than MOST_TILES is refused.
LARGE_OVERLAP = 0.75
MANY_TILES = 500
MOST_TILES = 100_000

Window = tuple[int, int, int, int]  # y1, x1, y2, x2


# ---- Positions of the tiles ----------------------------------------------------------------------


def positions(side: int, tile: int, overlap: int) -> list[int]:
    """First pixels of the tiles along one side; all have the full size, the last ends at the edge.

    Args:
        side: length of the image's side in pixels.
        tile, overlap: pixels of a tile, and those that it shares with the next one.
    """
    if side <= tile:
        return [0]
    count = math.ceil((side - overlap) / (tile - overlap))
    begins = [number * (tile - overlap) for number in range(count - 1)]
    return [*begins, side - tile]


def windows(shape: Sequence[int], tile: int, overlap: int | None = None) -> list[Window]:
    """The windows (y1, x1, y2, x2) of all tiles of an image (H, W, ...), row by row.

    Raises:
        ValueError: an invalid tile or overlap; an overlap that makes more than MOST_TILES.
    """
    tile, overlap = checked(tile, overlap)
    height, width = (int(side) for side in shape[:2])
    if overlap > LARGE_OVERLAP * tile:
        count = math.prod(len(positions(side, tile, overlap)) for side in (height, width))
        if count > MOST_TILES:
            raise ValueError(
                f"an image of {height} x {width} pixels has {count:,} tiles of {tile} pixels with"
                f" an overlap of {overlap}; at most {MOST_TILES:,} with one above"
                f" {math.floor(LARGE_OVERLAP * tile)}. A fifth, {round(OVERLAP * tile)}, is usual"
            )
    boxes = []
    for y in positions(height, tile, overlap):
        for x in positions(width, tile, overlap):
            boxes.append((y, x, min(y + tile, height), min(x + tile, width)))
    return boxes


def checked(tile: Any, overlap: Any = None) -> tuple[int, int]:
    """A tile's side and the overlap in pixels; ValueError if they are invalid."""
    if not isinstance(tile, (int, np.integer)) or isinstance(tile, bool) or tile < 1:
        raise ValueError(f"tile is the pixels of a tile's side, from 1. Received: {tile!r}")
    if overlap is None:
        overlap = round(OVERLAP * tile)
    is_number = isinstance(overlap, (int, np.integer)) and not isinstance(overlap, bool)
    if not is_number or not 0 <= overlap < tile:
        raise ValueError(
            f"overlap is the pixels that tiles share, from 0 to {tile - 1}. Received: {overlap!r}"
        )
    return int(tile), int(overlap)


# ---- Masks as runs -------------------------------------------------------------------------------


class Runs(NamedTuple):
    """A mask as runs of pixels in an image of a given height, column by column.

    Attributes:
        starts, stops: [R] int64, x * height + y of the first pixel of each run and of the pixel
            after its last, in ascending order. No run continues in the next column.
    """

    starts: np.ndarray
    stops: np.ndarray

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int((self.stops - self.starts).sum())


NONE = Runs(np.zeros(0, np.int64), np.zeros(0, np.int64))


def runs_of(crop: np.ndarray, y: int, x: int, height: int) -> Runs:
    """The runs of a mask [h, w] bool whose top left pixel is (y, x) of an image."""
    rows, columns = crop.shape
    # One zero before the first column and one below each column, so that no run spans two.
    pixels = np.zeros(1 + columns * (rows + 1), bool)
    pixels[1:].reshape(columns, rows + 1)[:, :rows] = crop.T
    changes = np.flatnonzero(pixels[1:] != pixels[:-1])
    column, row = np.divmod(changes, rows + 1)
    places = (column + x) * height + row + y
    return Runs(places[::2], places[1::2])


def clipped(runs: Runs, window: Window, height: int) -> Runs:
    """The part of a mask that lies in a window."""
    y1, x1, y2, x2 = window
    first = int(np.searchsorted(runs.stops, x1 * height, "right"))
    last = int(np.searchsorted(runs.starts, x2 * height, "left"))
    starts = runs.starts[first:last]
    stops = runs.stops[first:last]
    column = starts // height * height
    starts = np.maximum(starts, column + y1)
    stops = np.minimum(stops, column + y2)
    inside = starts < stops
    return Runs(starts[inside], stops[inside])


def common(a: Runs, b: Runs) -> int:
    """Number of pixels that two masks share."""
    if not len(a.starts) or not len(b.starts):
        return 0
    before = np.append(0, np.cumsum(b.stops - b.starts))

    def covered(places):
        """Number of pixels of `b` before each position."""
        number = np.searchsorted(b.starts, places, "right")
        last = np.maximum(number - 1, 0)
        beyond = np.maximum(b.stops[last] - places, 0)
        return before[number] - np.where(number > 0, beyond, 0)

    return int((covered(a.stops) - covered(a.starts)).sum())


def union(parts: Sequence[Runs], height: int) -> Runs:
    """The union of several masks."""
    if len(parts) == 1:
        return parts[0]
    starts = np.concatenate([part.starts for part in parts])
    stops = np.concatenate([part.stops for part in parts])
    order = np.argsort(starts, kind="stable")
    starts = starts[order]
    reach = np.maximum.accumulate(stops[order])
    # A run begins where no earlier run reaches; at the top of a column also where one ends there.
    begins = np.ones(len(starts), bool)
    begins[1:] = starts[1:] > reach[:-1]
    begins[1:] |= (starts[1:] == reach[:-1]) & (starts[1:] % height == 0)
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(starts)) - 1
    return Runs(starts[first], reach[last])


def box_of(runs: Runs, height: int) -> Window:
    """The box (y1, x1, y2, x2) of a mask; zeros if it is empty."""
    if not len(runs.starts):
        return 0, 0, 0, 0
    column = runs.starts // height
    y1 = int((runs.starts - column * height).min())
    y2 = int((runs.stops - column * height).max())
    return y1, int(column[0]), y2, int(column[-1]) + 1


def encoded(masks: Sequence[Runs], shape: Sequence[int]) -> list[dict]:
    """COCO's compressed run-length encodings of masks in an image (H, W, ...)."""
    height, width = (int(side) for side in shape[:2])
    codes = []
    for runs in masks:
        # COCO's runs continue in the next column: join those that touch there.
        apart = np.ones(len(runs.starts), bool)
        apart[1:] = runs.starts[1:] != runs.stops[:-1]
        ends = np.append(apart[1:], True)[: len(runs.stops)]
        edges = np.empty(2 * np.count_nonzero(apart) + 2, np.int64)
        edges[0] = 0
        edges[1:-1:2] = runs.starts[apart]
        edges[2:-1:2] = runs.stops[ends]
        edges[-1] = height * width
        counts = np.diff(edges)
        if len(counts) > 1 and counts[-1] == 0:
            counts = counts[:-1]
        (text,) = mask_math.compressed(counts, np.array([len(counts)]))
        codes.append({"size": [height, width], "counts": text})
    return codes


# ---- Detections of a tile ------------------------------------------------------------------------


@dataclasses.dataclass(eq=False)
class Detection:
    """A detection in one tile, in pixels of the whole image.

    Attributes:
        class_id, score: as detected.
        roi: (y1, x1, y2, x2), the detected box.
        runs: the mask.
        box: (y1, x1, y2, x2), the mask's box.
        is_cut: whether the mask reaches an edge of its tile inside the image.
        window: (y1, x1, y2, x2) of the tile.
        keypoints: [K, (y, x, score)]; None for a model without keypoints.
    """

    class_id: int
    score: float
    roi: np.ndarray
    runs: Runs
    box: Window
    is_cut: bool
    window: Window
    keypoints: np.ndarray | None = None


def detections_in(result: dict, window: Window, shape: Sequence[int]) -> list[Detection]:
    """The detections of a tile, in pixels of the whole image.

    Args:
        result: of `detect` for the tile.
        window: (y1, x1, y2, x2) of the tile in the image.
        shape: (H, W, ...) of the image.
    """
    y, x, bottom, right = window
    height = int(shape[0])
    offset = np.array([y, x, y, x])
    points = result.get("keypoints")
    detections = []
    for number, (box, crop) in enumerate(mask_math.crops_of(result["masks"])):
        runs = runs_of(crop, y + box[0], x + box[1], height)
        mask_box = box_of(runs, height)
        own_points = None
        if points is not None:
            own_points = points[number] + [y, x, 0]
        detections.append(
            Detection(
                int(result["class_ids"][number]),
                float(result["scores"][number]),
                np.asarray(result["rois"][number]) + offset,
                runs,
                mask_box,
                _is_cut(mask_box, window, shape),
                window,
                own_points,
            )
        )
    return detections


def _is_cut(box: Window, window: Window, shape: Sequence[int]) -> bool:
    """Whether a box reaches an edge of its tile that is not an edge of the image."""
    for axis in (0, 1):
        margin = max(CUT_PIXELS, CUT_SHARE * (box[axis + 2] - box[axis]))
        if window[axis] > 0 and box[axis] - window[axis] < margin:
            return True
        if window[axis + 2] < shape[axis] and window[axis + 2] - box[axis + 2] < margin:
            return True
    return False


# ---- Merging -------------------------------------------------------------------------------------


class Merger:
    """Collects detections tile by tile and merges those of one object.

    Args:
        shape: (H, W, ...) of the image.
    """

    def __init__(self, shape: Sequence[int]):
        self.shape = tuple(int(side) for side in shape[:2])
        self.detections: list[Detection] = []
        self._parents: list[int] = []
        # (window, indices of its detections) of the tiles that later ones may still overlap.
        self._tiles: list[tuple[Window, list[int]]] = []

    def add(self, window: Window, detections: Sequence[Detection]) -> None:
        """Adds a tile's detections. Tiles must be added row by row."""
        first = len(self.detections)
        self.detections += detections
        numbers = list(range(first, len(self.detections)))
        self._parents += numbers
        self._tiles = [tile for tile in self._tiles if tile[0][2] >= window[0]]
        for other, earlier in self._tiles:
            both = _intersection(window, other)
            if both is not None:
                self._link(numbers, earlier, both)
                continue
            for axis in (0, 1):
                if _touch(other, window, axis) and not self._is_shown(other, window, axis):
                    self._link_at_seam(numbers, earlier, axis, window[axis])
        self._tiles.append((window, numbers))

    def _link(self, numbers: list[int], earlier: list[int], both: Window) -> None:
        """Joins the detections of two tiles that match in the tiles' overlap, the window `both`."""
        new_parts = self._parts(numbers, both)
        earlier_parts = self._parts(earlier, both)
        overlaps = []
        has_partner = set()
        for a, part, area in new_parts:
            for b, other, other_area in earlier_parts:
                if self.detections[a].class_id != self.detections[b].class_id:
                    continue
                if _intersection(self.detections[a].box, self.detections[b].box) is None:
                    continue
                shared = common(part, other)
                if not shared:
                    continue
                overlaps.append((a, b, shared / area, shared / other_area))
                if shared >= SAME * (area + other_area - shared):
                    self._join(a, b)
                    has_partner |= {a, b}
        for a, b, inside, other_inside in overlaps:
            is_part = inside >= SAME and self.detections[a].is_cut and a not in has_partner
            has_part = other_inside >= SAME and self.detections[b].is_cut and b not in has_partner
            if is_part or has_part:
                self._join(a, b)

    def _is_shown(self, first: Window, second: Window, axis: int) -> bool:
        """Whether a tile shows both sides of the seam between two that touch: it decides there.

        Where tiles overlap by half, each touches the one after the next; of an image of two tiles'
        side the last one touches the first.
        """
        seam = second[axis]
        begin = max(first[1 - axis], second[1 - axis])
        end = min(first[3 - axis], second[3 - axis])
        for tile, _ in self._tiles:
            is_beside = tile[1 - axis] < end and tile[3 - axis] > begin
            if is_beside and tile[axis] < seam < tile[axis + 2]:
                return True
        return False

    def _link_at_seam(self, numbers: list[int], earlier: list[int], axis: int, seam: int) -> None:
        """Joins the detections of two tiles that touch, where their masks do so along the seam.

        Args:
            numbers, earlier: the detections behind and before the seam.
            axis: 0 for a seam between rows, 1 between columns.
            seam: the first row, or column, behind the seam.
        """
        behind = self._at_seam(numbers, axis, seam, seam + CUT_PIXELS)
        before = self._at_seam(earlier, axis, seam - CUT_PIXELS, seam)
        for a, places in behind:
            for b, others in before:
                if self.detections[a].class_id != self.detections[b].class_id:
                    continue
                shared = len(np.intersect1d(places, others, assume_unique=True))
                if shared >= SAME * min(len(places), len(others)):
                    self._join(a, b)

    def _at_seam(
        self, numbers: list[int], axis: int, first: int, last: int
    ) -> list[tuple[int, np.ndarray]]:
        """(index, places along the seam) of masks with pixels in rows, or columns, first to last.

        The last one lies outside; places are columns, or rows, that have such pixels.
        """
        height, width = self.shape
        strip = (first, 0, last, width)
        if axis:
            strip = (0, first, height, last)
        lines = []
        for number, part, _ in self._parts(numbers, strip):
            if axis:
                rows = np.arange(height)
                begins = np.sort(part.starts % height)
                ends = np.sort(part.stops - part.starts // height * height)
                covers = np.searchsorted(begins, rows, "right") > np.searchsorted(
                    ends, rows, "right"
                )
                lines.append((number, rows[covers]))
            else:
                lines.append((number, np.unique(part.starts // height)))
        return lines

    def _parts(self, numbers: list[int], both: Window) -> list[tuple[int, Runs, int]]:
        """(index, runs, pixels) of the parts of masks in a window, without empty ones."""
        parts = []
        for number in numbers:
            if _intersection(self.detections[number].box, both) is not None:
                part = clipped(self.detections[number].runs, both, self.shape[0])
                if len(part.starts):
                    parts.append((number, part, part.area))
        return parts

    def _root(self, number: int) -> int:
        """Index of the first detection of the same object."""
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number

    def _join(self, a: int, b: int) -> None:
        first, second = sorted((self._root(a), self._root(b)))
        self._parents[second] = first

    def objects(self) -> list[Detection]:
        """The detections of all tiles, one for each object, by descending score."""
        groups: dict[int, list[Detection]] = {}
        for number, detection in enumerate(self.detections):
            groups.setdefault(self._root(number), []).append(detection)
        merged = [self._merged(group) for group in groups.values()]
        return sorted(merged, key=lambda detection: -detection.score)

    def _merged(self, group: list[Detection]) -> Detection:
        """The detections of one object, merged into one."""
        best = max(group, key=lambda detection: detection.score)
        if len(group) == 1:
            return best
        runs = union([detection.runs for detection in group], self.shape[0])
        whole = [
            detection
            for detection in group
            if not detection.is_cut and self._shows(detection, runs)
        ]
        if whole:
            return max(whole, key=lambda detection: detection.score)
        rois = np.array([detection.roi for detection in group])
        roi = np.concatenate([rois[:, :2].min(axis=0), rois[:, 2:].max(axis=0)])
        box = box_of(runs, self.shape[0])
        return dataclasses.replace(best, roi=roi, runs=runs, box=box)

    def _shows(self, detection: Detection, runs: Runs) -> bool:
        """Whether a detection's tile contains a whole mask, which may have pieces elsewhere."""
        inside = clipped(runs, detection.window, self.shape[0]).area
        return runs.area - inside <= OUTSIDE * runs.area


def _intersection(a: Window, b: Window) -> Window | None:
    """The intersection of two windows; None where it is empty."""
    y1 = max(a[0], b[0])
    x1 = max(a[1], b[1])
    y2 = min(a[2], b[2])
    x2 = min(a[3], b[3])
    if y1 >= y2 or x1 >= x2:
        return None
    return y1, x1, y2, x2


def _touch(first: Window, second: Window, axis: int) -> bool:
    """Whether a window ends where another begins, and they share a part of that line.

    axis: 0 for a line between rows, 1 between columns.
    """
    other = 1 - axis
    is_beside = min(first[other + 2], second[other + 2]) > max(first[other], second[other])
    return first[axis + 2] == second[axis] and is_beside


# ---- Detecting -----------------------------------------------------------------------------------


def detect(
    model: Any,
    image: Any,
    tile: int = 1024,
    overlap: int | None = None,
    masks: str = "rle",
) -> dict:
    """`MaskRCNN.detect` of one large image, in tiles that run in batches of BATCH_SIZE.

    The range of values other than 0..255 is computed from the whole image, not from each tile, and
    so is stretched contrast (IMAGE_PERCENTILES); that of a file from windows spread over it.

    Args:
        model: has `detect(images, masks=)` and `config.BATCH_SIZE`: a `MaskRCNN`, or a
            `runtime.Model`.
        image: [H, W, C]; or an object with `shape` and `window(y1, x1, y2, x2)`, which returns that
            part of the image, such as a `TiffImage`.
        tile: side of a tile in pixels. Tiles of IMAGE_MAX_DIM are not resized.
        overlap: pixels that neighbouring tiles share; None for a fifth of a tile. Any object up to
            this size lies whole in one of the tiles. Without any overlap, the halves of an object
            are joined if they lie side by side along the seam.
        masks: "rle", a list of COCO's run-length encodings, which needs no array of the image's
            size; or "dense", bool [H, W, N].

    Returns:
        the dict of `MaskRCNN.detect`, by descending score. For an image that fits into one tile,
        the result of `detect`.

    Raises:
        ValueError: an invalid tile, overlap or form of masks; a model without masks.
    """
    tile, overlap = checked(tile, overlap)
    if masks not in ("rle", "dense"):
        raise ValueError(f"masks of tiles is 'rle' or 'dense'. Received: {masks!r}")
    if not hasattr(image, "window"):
        image = ArrayImage(image)
    shape = tuple(int(side) for side in image.shape)
    tile_windows = windows(shape, tile, overlap)
    if isinstance(image, TiffImage):
        image.measure()
    if len(tile_windows) == 1:
        return model.detect([image.window(*tile_windows[0])], masks=masks)[0]
    merger = Merger(shape)
    empty: dict[str, np.ndarray] = {}
    batch_size = int(model.config.BATCH_SIZE)
    one_range: Any = contextlib.nullcontext
    if hasattr(model.config, "MEAN_PIXEL"):
        sample = _sample(image, getattr(model.config, "IMAGE_CHANNEL_COUNT", 3))
        one_range = functools.partial(data.parts_of, sample, model.config)
    began = time.monotonic()
    for start in range(0, len(tile_windows), batch_size):
        chunk = tile_windows[start : start + batch_size]
        if start == batch_size:  # the first batch may have compiled the network
            began = time.monotonic()
        if start == 2 * batch_size:
            seconds = (time.monotonic() - began) * (len(tile_windows) / batch_size - 2)
            _warn_of_overlap(tile, overlap, len(tile_windows), seconds)
        with one_range():
            results = model.detect([image.window(*window) for window in chunk], masks="lazy")
        for window, result in zip(chunk, results):
            if result.get("masks") is None:
                raise ValueError("tiles are merged by masks; the model has USE_MASK = False")
            merger.add(window, detections_in(result, window, shape))
            for name in ("rois", "keypoints"):
                if result.get(name) is not None:
                    empty[name] = result[name][:0]
    return _result(merger.objects(), shape, masks, empty)


def _warn_of_overlap(tile: int, overlap: int, count: int, seconds: float) -> None:
    """Warns of a large overlap that makes many tiles; seconds: that they will take."""
    if overlap <= LARGE_OVERLAP * tile or count <= MANY_TILES:
        return
    logger.warning(
        "an overlap of %d in tiles of %d pixels makes %d tiles of this image, about %.0f s; a pixel"
        " is looked at %.0f times, with an overlap of %d twice at most along each side",
        overlap,
        tile,
        count,
        seconds,
        (tile / (tile - overlap)) ** 2,
        round(OVERLAP * tile),
    )


# Side in pixels of the windows from which the range of values is computed, and their number along
# each side of the image.
PROBE = 256
PROBES = 4
# Side in pixels of the square of as many pixels as the windows in which a whole file is measured.
BLOCK = 1024


def _sample(image: Any, channels: int) -> np.ndarray:
    """Values of an image: the array of an `ArrayImage`, else those of windows spread over it.

    channels: IMAGE_CHANNEL_COUNT. An alpha channel, which the network doesn't get, is left out.
    """
    if isinstance(image, ArrayImage):
        return _without_alpha(image.array, channels)
    height, width = image.shape[:2]
    parts = []
    for y1, x1, y2, x2 in _probes(height, width):
        parts.append(np.ravel(_without_alpha(image.window(y1, x1, y2, x2), channels)))
    return np.concatenate(parts)


def _without_alpha(array: np.ndarray, channels: int) -> np.ndarray:
    """An image [H, W, 4] of a network of 3 channels as [H, W, 3], see `data.with_channels`."""
    if channels == 3 and array.ndim == 3 and array.shape[2] == 4:
        return array[..., :3]
    return array


def _probes(height: int, width: int) -> Iterator[Window]:
    """Windows spread over an image."""
    for y in np.linspace(0, max(height - PROBE, 0), PROBES).astype(int).tolist():
        for x in np.linspace(0, max(width - PROBE, 0), PROBES).astype(int).tolist():
            yield y, x, min(y + PROBE, height), min(x + PROBE, width)


def detect_each(
    model: Any,
    images: Any,
    tile: int | None,
    overlap: int | None = None,
    masks: str | None = None,
) -> list[dict]:
    """`detect` for each image of a list; None for masks is "rle".

    Raises:
        ValueError: an overlap without a tile; images that are not a list; see `detect`.
    """
    if tile is None:
        raise ValueError(f"overlap goes with tile. Received: overlap={overlap!r} alone")
    data.check_is_list(images, "detect")
    return [detect(model, image, tile, overlap, masks or "rle") for image in images]


def _result(
    objects: list[Detection], shape: Sequence[int], masks: str, empty: dict[str, np.ndarray]
) -> dict:
    """The dict of `detect`.

    Args:
        empty: "rois" [0, 4] of no object, whose dtype depends on ROUND_DETECTIONS; "keypoints"
            [0, K, 3], which a model without keypoints lacks.
    """
    codes = encoded([detection.runs for detection in objects], shape)
    result: dict[str, Any] = {
        "rois": np.array(
            [detection.roi for detection in objects], np.asarray(empty["rois"]).dtype
        ).reshape(-1, 4),
        "class_ids": np.array([detection.class_id for detection in objects], np.int32),
        "scores": np.array([detection.score for detection in objects], np.float32),
        "masks": codes,
    }
    if masks == "dense":
        result["masks"] = mask_math.decode_rle(codes, *shape[:2])
    if "keypoints" in empty:
        points = [detection.keypoints for detection in objects]
        shape_of_points = empty["keypoints"].shape[1:]
        result["keypoints"] = np.array(points, np.float32).reshape(-1, *shape_of_points)
    return result


# ---- Images that are read in parts ---------------------------------------------------------------


class ArrayImage:
    """An array [H, W, C], or [H, W], whose windows are views of it."""

    def __init__(self, image: Any):
        self.array = data.as_array(image, "the image")
        if self.array.ndim not in (2, 3):
            raise ValueError(f"an image is [H, W, C] or [H, W]. Received: {self.array.shape}")
        self.shape = self.array.shape

    def window(self, y1: int, x1: int, y2: int, x2: int) -> np.ndarray:
        """The part [y2 - y1, x2 - x1, ...] of rows y1 to y2 - 1 and columns x1 to x2 - 1."""
        return self.array[y1:y2, x1:x2]


@contextlib.contextmanager
def _naming_tiff(path: str) -> Iterator[None]:
    """Turns any error of tifffile for a damaged file into a ValueError that names the file."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # it raises almost anything
        if isinstance(error, (ValueError, OSError)) and path in str(error):
            raise
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} can't be read as a TIFF: {reason}") from error


class TiffImage:
    """A TIFF that is read in windows: GeoTIFF, OME-TIFF, tiled or in strips, compressed or not.

    Only the tiles or strips that a window needs are decoded. Values of more than 8 bits are scaled
    to 0..255 by one range for the whole file: `limits`, or `utils.value_range` of windows spread
    over the image; after `measure`, which reads the whole file once, of all values. A context
    manager; `close` closes the file.

    Args:
        path: the file.
        limits: (low, high) that become 0 and 255.
        all_bands: see `utils.read_image`.

    Attributes:
        shape: (H, W, 3), or with `all_bands` (H, W, bands) of an image of more than four bands.
        transform: (a, b, c, d, e, f) of x' = a x + b y + c and y' = d x + e y + f, from pixels
            (their corners) to world coordinates; None if the file has none.
        crs: the coordinate system, such as "EPSG:32633"; None if the file names none.
        nodata: the value of pixels without data, which are black and have no part in the range.

    Raises:
        ImportError: tifffile is missing.
        ValueError, OSError: not a TIFF that can be read in windows: one with a palette, rotated,
            or in a compression for which tifffile needs imagecodecs (LZW, JPEG).
    """

    def __init__(
        self, path: Any, limits: tuple[float, float] | None = None, all_bands: bool = False
    ):
        try:
            import tifffile
        except ImportError as error:
            raise ImportError(f"{path} is read by tifffile: pip install tifffile") from error
        self.path = os.fspath(path)
        self._all_bands = all_bands
        if not os.path.isfile(path):
            raise FileNotFoundError(f"No file {path}")
        try:
            self._file = tifffile.TiffFile(path)
        except Exception as error:  # whatever tifffile raises for a broken file
            raise ValueError(f"{path}: expected a TIFF. Received: {error}") from error
        try:
            with _naming_tiff(self.path):
                self._read_head(limits)
        except BaseException:
            self._file.close()
            raise

    def _read_head(self, limits: tuple[float, float] | None) -> None:
        """Reads shape, transform, coordinate system and range of values; checks the pages."""
        self._pages = self._bands_of()
        pages_of_one = len(self._pages)
        series = self._file.series[0]
        if series.axes == "QYX" and utils.pages_are_bands(series):
            pages_of_one = series.shape[0]
        elif pages_of_one > 1:
            pages_of_one = len(utils.channels_of_stack(series))
        utils.warn_of_pages(utils.images_in_tiff(self._file, pages_of_one), "pages", self.path)
        page = self._pages[0]
        self._check(page)
        bands = sum(int(page.samplesperpixel) for page in self._pages)
        self._is_raw = self._all_bands and bands > 4
        if not self._is_raw:
            bands = 3
        self.shape = (int(page.imagelength), int(page.imagewidth), bands)
        self.transform, self.crs = _georeference_of(page, self.path)
        self.nodata = utils.nodata_of(page)
        self.limits = limits
        self._is_estimated = limits is None and page.dtype != np.uint8 and not self._is_raw
        if self._is_estimated:
            self.limits = self._range(_probes(*self.shape[:2]))

    def __enter__(self) -> TiffImage:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _bands_of(self) -> list:
        """The pages of the image: one, or one for each of up to three channels.

        For a stack (z, time), the pages of its first image.
        """
        pages: list = [self._file.pages[0]]
        series = self._file.series[0]
        if series.axes == "QYX" and utils.pages_are_bands(series):  # the file doesn't name its axes
            if series.shape[0] not in (3, 4):
                raise ValueError(
                    f"{self.path}: expected pages that are bands. Received: {series.shape[0]} pages"
                    f" that are rows of an image of {series.shape[2]} bands"
                )
            pages = list(series.pages)[:3]
        if pages[0].samplesperpixel == 1 and "C" in series.axes[:-2] and len(series.pages) > 1:
            all_pages = list(series.pages)
            numbers = utils.channels_of_stack(series)
            if not numbers and series.shape[series.axes.index("C")] > 1:
                raise ValueError(
                    f"{self.path}: expected a page for each of {series.axes[:-2]}"
                    f" {series.shape[:-2]}. Received: {len(all_pages)} pages"
                )
            if not self._all_bands or len(numbers) <= 4:
                numbers = numbers[:3]
            pages = [all_pages[number] for number in numbers] or pages
            if any(page is None for page in pages):
                raise ValueError(
                    f"{self.path}: expected {len(pages)} channels. Received: one without"
                )
        for number, page in enumerate(pages):
            pages[number] = getattr(page, "aspage", lambda page=page: page)()
        if any(page.dtype is None for page in pages):
            raise ValueError(f"{self.path}: tifffile can't decode it")
        return pages

    def _check(self, page: Any) -> None:
        """ValueError for a file that can't be read in windows, or isn't gray or RGB.

        Its compression may need a package, which tifffile's error names.
        """
        kind_of_page = page.tags.valueof(254)
        has_others = page.tags.valueof(330) is not None
        utils.check_is_no_preview(kind_of_page, has_others, page.imagewidth, page.imagelength)
        kind = getattr(page.photometric, "name", str(page.photometric))
        # The JPEG decoder converts YCbCr to RGB; other YCbCr files aren't converted.
        is_jpeg = getattr(page.compression, "name", "") == "JPEG"
        if kind not in ("MINISBLACK", "RGB") and not (kind == "YCBCR" and is_jpeg):
            raise ValueError(f"{self.path}: expected gray or RGB. Received: a TIFF of {kind}")
        if int(page.tags.valueof("Orientation", 1)) != 1:
            raise ValueError(f"{self.path}: expected a TIFF that isn't turned (Orientation 1)")
        try:
            _window_of_page(page, (0, 0, 1, 1))
        except Exception as error:  # each decoder has its own errors
            raise ValueError(f"{self.path}: its windows can't be decoded: {error}") from error

    def measure(self) -> None:
        """Takes the range of all values instead of an estimate, as `utils.read_image` does.

        Raises:
            ValueError: a part of the file is damaged or missing.
        """
        if self._is_estimated:
            self.limits = self._range(_blocks(self._pages[0]))
            self._is_estimated = False

    def _range(self, places: Iterable[Window]) -> tuple[float, float]:
        """(low, high) of the values in some windows."""
        extremes = []
        for place in places:
            values = self.values(*place)
            if values.shape[-1] == 2:
                values = values[..., :1]  # gray and alpha: `utils.as_rgb` uses gray only
            if self.nodata is not None:
                values = values[values != self.nodata]
            if values.dtype.kind == "f":
                values = values[np.isfinite(values)]
            if values.size:
                extremes += [values.min(), values.max()]
        return utils.value_range(np.array(extremes, self._pages[0].dtype))

    def values(self, y1: int, x1: int, y2: int, x2: int) -> np.ndarray:
        """[y2 - y1, x2 - x1, bands] in the file's dtype, unscaled, at most three or `all_bands`.

        Raises:
            ValueError: a part of the file is damaged or missing.
        """
        with _naming_tiff(self.path):
            parts = [_window_of_page(page, (y1, x1, y2, x2)) for page in self._pages]
        values = np.concatenate(parts, axis=-1)
        if self._is_raw:
            return values
        values = values[..., :3]
        if len(parts) == 2:
            return utils.with_third_channel(values)
        return values

    def window(self, y1: int, x1: int, y2: int, x2: int) -> np.ndarray:
        """[y2 - y1, x2 - x1, 3] uint8, RGB; with `all_bands` also `values`, see `shape`."""
        values = self.values(y1, x1, y2, x2)
        if self._is_raw:
            return values
        if values.dtype == np.uint8 and values.shape[-1] == 3:
            return values
        if self.nodata is not None and self.limits is not None:
            values = np.where(values == self.nodata, values.dtype.type(self.limits[0]), values)
        return utils.as_rgb(values, self.limits)


def _window_of_page(page: Any, window: Window) -> np.ndarray:
    """[h, w, samples] of a page; only the tiles or strips in the window are decoded."""
    y1, x1, y2, x2 = window
    out = np.zeros((y2 - y1, x2 - x1, page.samplesperpixel), page.dtype)
    handle = page.parent.filehandle
    tables = page.jpegtables
    for number in _segments_in(page, window):
        if not page.databytecounts[number]:
            continue  # a sparse file: this tile was never written
        handle.seek(page.dataoffsets[number])
        content = handle.read(page.databytecounts[number])
        decoded, place, _ = page.decode(content, number, jpegtables=tables)
        if decoded is None:
            continue
        sample, _, top, left, first = place
        block = decoded[0]  # [rows, columns, samples]
        last = first + block.shape[2]
        if page.planarconfig == 2:
            first = sample
            last = sample + 1
        _put(out[..., first:last], block, top - y1, left - x1)
    return out


def _put(out: np.ndarray, block: np.ndarray, y: int, x: int) -> None:
    """Writes a block into an array with its top left pixel at (y, x), clipped to the array."""
    top = max(y, 0)
    left = max(x, 0)
    bottom = min(y + block.shape[0], out.shape[0])
    right = min(x + block.shape[1], out.shape[1])
    if top < bottom and left < right:
        out[top:bottom, left:right] = block[top - y : bottom - y, left - x : right - x]


def _segment_size(page: Any) -> tuple[int, int]:
    """(height, width) of the tiles or strips of a page."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    height = page.imagelength
    return min(page.rowsperstrip or height, height), page.imagewidth


def _blocks(page: Any) -> Iterator[Window]:
    """Windows that cover a page, each of whole tiles or strips, about BLOCK^2 pixels."""
    height, width = page.imagelength, page.imagewidth
    segment_height, segment_width = _segment_size(page)
    x_step = max(1, BLOCK // segment_width) * segment_width
    y_step = max(1, BLOCK**2 // x_step // segment_height) * segment_height
    for y in range(0, height, y_step):
        for x in range(0, width, x_step):
            yield y, x, min(y + y_step, height), min(x + x_step, width)


def _segments_in(page: Any, window: Window) -> Iterator[int]:
    """Indices of the tiles or strips of a page that a window overlaps, in all planes."""
    y1, x1, y2, x2 = window
    height = page.imagelength
    segment_height, segment_width = _segment_size(page)
    across = -(-page.imagewidth // segment_width)
    down = -(-height // segment_height)
    planes = 1
    if page.planarconfig == 2:
        planes = page.samplesperpixel
    for plane in range(planes):
        for row in range(y1 // segment_height, -(-y2 // segment_height)):
            for column in range(x1 // segment_width, -(-x2 // segment_width)):
                yield (plane * down + row) * across + column


class WholeTiff(ArrayImage):
    """A TIFF of which windows can't be read, see `TiffImage`: read whole, with its transform.

    Args:
        path: the file.
        all_bands: see `utils.read_image`.

    Attributes:
        transform, crs: see `TiffImage`.
    """

    def __init__(self, path: Any, all_bands: bool = False):
        super().__init__(utils.read_image(path, rotate=False, all_bands=all_bands))
        self.transform, self.crs = georeference(path)


@contextlib.contextmanager
def opened(path: Any, all_bands: bool = False) -> Iterator[TiffImage | WholeTiff]:
    """A TIFF, in windows where they can be read; for `all_bands` see `utils.read_image`."""
    try:
        image = TiffImage(path, all_bands=all_bands)
    except (ValueError, OSError):
        yield WholeTiff(path, all_bands)
        return
    with image:
        yield image


def georeference(path: Any) -> tuple[tuple[float, ...] | None, str | None]:
    """Transform and coordinate system of any TIFF, see `TiffImage`; None for what it lacks."""
    import tifffile

    with _naming_tiff(os.fspath(path)), tifffile.TiffFile(path) as file:
        return _georeference_of(file.pages[0], os.fspath(path))


def _georeference_of(page: Any, path: str) -> tuple[tuple[float, ...] | None, str | None]:
    """`georeference` of an open page."""
    transform = _transform_of(page) or _transform_in_world_file(path)
    if transform is None and (page.tags.valueof(33922) or page.tags.valueof(50844)):
        logger.warning(
            "%s has ground control points or polynomials in place of a transform, so that its"
            " GeoJSON is in pixels; gdalwarp makes an image with a transform of it",
            path,
        )
    return transform, _crs_of(page)


def _transform_in_world_file(path: str) -> tuple[float, ...] | None:
    """The transform in the world file beside an image, a.tfw beside a.tif; None without one."""
    stem, suffix = os.path.splitext(path)
    for name in (f"{stem}.tfw", f"{path}w", f"{stem}.wld"):
        for place in (name, stem + name[len(stem) :].upper()):
            if not os.path.isfile(place):
                continue
            try:
                lines = files.read_text(place).replace(",", ".").split()
                a, d, b, e, x, y = map(float, lines[:6])
            except ValueError:
                logger.warning("%s: expected six numbers. It is left out", place)
                continue
            # It has the centre of the first pixel.
            return a, b, x - (a + b) / 2, d, e, y - (d + e) / 2
    return None


def _transform_of(page: Any) -> tuple[float, ...] | None:
    """The transform in a GeoTIFF's tags, see `TiffImage`."""
    matrix = page.tags.valueof(34264)  # ModelTransformation
    if matrix is not None and len(matrix) == 16:
        a, b, _, c, d, e, _, f = map(float, matrix[:8])
        transform = (a, b, c, d, e, f)
    else:
        scale = page.tags.valueof(33550)  # ModelPixelScale
        tie = page.tags.valueof(33922)  # ModelTiepoint: pixel (i, j, k), world (x, y, z)
        if scale is None or tie is None or len(scale) < 2 or len(tie) < 6:
            return None
        i, j, _, x, y, _ = map(float, tie[:6])
        across, down = map(float, scale[:2])
        transform = (across, 0.0, x - i * across, 0.0, -down, y + j * down)
    if _geo_key(page, 1025) == 2:  # GTRasterType: coordinates of pixels' centres
        a, b, c, d, e, f = transform
        transform = (a, b, c - (a + b) / 2, d, e, f - (d + e) / 2)
    return transform


def _geo_key(page: Any, key: int) -> int | None:
    """A value of a GeoTIFF's key directory; None if it is missing."""
    directory = page.tags.valueof(34735)  # GeoKeyDirectory: rows of key, location, count, value
    if directory is None:
        return None
    for number in range(4, len(directory) - 3, 4):
        if directory[number] == key and directory[number + 1] == 0:
            return int(directory[number + 3])
    return None


def _crs_of(page: Any) -> str | None:
    """The coordinate system of a GeoTIFF, "EPSG:..."; None if it has no EPSG code.

    A projection without a code (32767) may lie on a geographic system with one, in whose degrees
    its coordinates are not.
    """
    number = _geo_key(page, 3072)  # projected
    if number is None and _geo_key(page, 1024) != 1:  # GTModelType: not projected
        number = _geo_key(page, 2048)  # geographic
    if number is not None and 0 < number < 32767:
        return f"EPSG:{number}"
    return None


# ---- GeoJSON -------------------------------------------------------------------------------------


def geojson(
    result: dict,
    class_names: Sequence[str],
    transform: Sequence[float] | None = None,
    crs: str | None = None,
) -> dict:
    """A result as GeoJSON: a feature for each object, its outline as a (multi)polygon with holes.

    The outlines follow the edges of the masks' pixels.

    Args:
        result: of `detect`, with masks as run-length encodings.
        class_names: by class id.
        transform: from pixels to world coordinates, see `TiffImage`; None for pixels, y downwards.
        crs: name of the coordinate system, written as the member "crs", which GDAL, QGIS and others
            read; RFC 7946 itself allows only longitude and latitude.
    """
    from mrcnn import visualize

    features = []
    for number, code in enumerate(result["masks"]):
        class_id = int(result["class_ids"][number])
        properties = {
            "class_id": class_id,
            "class": visualize.class_name(class_names, class_id),
            "score": round(float(result["scores"][number]), 6),
        }
        geometry = _geometry(code, transform)
        features.append({"type": "Feature", "properties": properties, "geometry": geometry})
    collection: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if crs is not None and transform is not None:
        name = f"urn:ogc:def:crs:{crs.replace(':', '::')}"
        if crs == "EPSG:4326":
            # The same with longitude first, as the coordinates here are; EPSG has latitude first.
            name = "urn:ogc:def:crs:OGC:1.3:CRS84"
        collection["crs"] = {"type": "name", "properties": {"name": name}}
    return collection


def _geometry(code: dict, transform: Sequence[float] | None) -> dict | None:
    """A mask as a GeoJSON geometry; None if it is empty."""
    from mrcnn import convert

    (y, x, _, _), pixels = mask_math.crop_of_rle(code)
    outer, holes = convert.outlines(pixels)
    if not outer:
        return None
    polygons = [[_ring(loop, y, x, transform)] for loop in outer]
    for hole in holes:
        piece = _piece_around(hole, outer)
        polygons[piece].append(_ring(hole, y, x, transform))
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


def _piece_around(hole: list, outer: list[list]) -> int:
    """Index of the smallest outer outline that contains a hole."""
    import skimage.measure

    if len(outer) == 1:
        return 0
    # A pixel of the hole: the one below its highest, leftmost corner.
    x, y = min(hole, key=lambda point: (point[1], point[0]))
    inside = []
    for number, loop in enumerate(outer):
        points = np.array(loop, float)
        if skimage.measure.points_in_poly([[x + 0.5, y + 0.5]], points)[0]:
            size = np.ptp(points, axis=0).prod()
            inside.append((size, number))
    return min(inside)[1]


def _ring(loop: list, y: int, x: int, transform: Sequence[float] | None) -> list[list[float]]:
    """A closed ring in world coordinates, whose last point repeats the first.

    RFC 7946: outlines run counterclockwise, holes clockwise. A transform that mirrors the image,
    such as one whose y points up, therefore reverses the loop.
    """
    closed = [*loop, loop[0]]
    if transform is not None and transform[0] * transform[4] < transform[1] * transform[3]:
        closed.reverse()
    ring = []
    for px, py in closed:
        px += x
        py += y
        if transform is None:
            ring.append([float(px), float(py)])
        else:
            a, b, c, d, e, f = transform
            ring.append([a * px + b * py + c, d * px + e * py + f])
    return ring


def write_geojson(
    path: Any,
    result: dict,
    class_names: Sequence[str],
    transform: Sequence[float] | None = None,
    crs: str | None = None,
) -> str:
    """Writes a result as GeoJSON, see `geojson`. Returns the path."""
    content = geojson(result, class_names, transform, crs)
    with files.atomic(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file)
    return str(path)
