"""Shapes of annotated objects, and how they are drawn into masks: polygons, ellipses, bitmaps.

Points are (x, y) in pixels. A shape's `mask` is [height, width] bool; its `crop` is the part inside
the image, in its own box.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mrcnn.masks import crop_of_annotation, cut_to_pixels, to_rle

# The part of a shape inside an image: y and x of its first pixel, and the pixels [h, w] bool.
Crop = tuple[int, int, np.ndarray]


# ---- Masks and crops -----------------------------------------------------------------------------


class Shape(Protocol):
    """The outline or mask of an object."""

    def mask(self, height: int, width: int) -> np.ndarray:
        """[height, width] bool: the part inside the image."""


class DrawnShape:
    """A shape that is drawn in its own box only, since an image may have thousands."""

    def crop(self, height: int, width: int) -> Crop:
        """The part of the shape inside an image of that size."""
        raise NotImplementedError

    def mask(self, height: int, width: int) -> np.ndarray:
        """[height, width] bool: the part inside the image."""
        mask = np.zeros((height, width), bool)
        draw_shape(self, mask)
        return mask

    def has_pixels(self, height: int, width: int) -> bool:
        """Whether the shape has a pixel in an image of that size."""
        return bool(self.crop(height, width)[2].any())


def draw_shape(shape: Shape, mask: np.ndarray) -> None:
    """Draws a shape into a mask of the image, [height, width] bool, in place."""
    y1, x1, pixels = crop_of(shape, *mask.shape)
    mask[y1 : y1 + pixels.shape[0], x1 : x1 + pixels.shape[1]] |= pixels


def crop_of(shape: Shape, height: int, width: int) -> Crop:
    """The part of a shape inside an image, in a box that may be larger than needed.

    Returns:
        (y, x, pixels): y and x of the first pixel, and the pixels [h, w] bool.
    """
    if isinstance(shape, DrawnShape):
        return shape.crop(height, width)
    return 0, 0, shape.mask(height, width)  # the caller's own implementation of `Shape`


def _joined_crops(crops: Sequence[Crop]) -> Crop:
    """The union of several crops as one crop."""
    crops = [crop for crop in crops if crop[2].size]
    if not crops:
        return 0, 0, np.zeros((0, 0), bool)
    top = min(y1 for y1, _, _ in crops)
    left = min(x1 for _, x1, _ in crops)
    bottom = max(y1 + pixels.shape[0] for y1, _, pixels in crops)
    right = max(x1 + pixels.shape[1] for _, x1, pixels in crops)
    joined = np.zeros((bottom - top, right - left), bool)
    for y1, x1, pixels in crops:
        rows = slice(y1 - top, y1 - top + pixels.shape[0])
        columns = slice(x1 - left, x1 - left + pixels.shape[1])
        joined[rows, columns] |= pixels
    return top, left, joined


def _without(crop: Crop, holes: Sequence[Crop]) -> Crop:
    """A crop without the pixels of other crops."""
    top, left, pixels = crop
    pixels = pixels.copy()
    bottom = top + pixels.shape[0]
    right = left + pixels.shape[1]
    for y, x, hole in holes:
        rows = slice(max(y, top), min(y + hole.shape[0], bottom))
        columns = slice(max(x, left), min(x + hole.shape[1], right))
        if rows.start < rows.stop and columns.start < columns.stop:
            inside = hole[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
            pixels[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left][
                inside
            ] = False
    return top, left, pixels


def rotated(points: Sequence, x: float, y: float, angle: float) -> list[list[float]]:
    """Points [x, y] rotated around (x, y) by `angle`, in radians from x towards y."""
    cos = math.cos(angle)
    sin = math.sin(angle)
    moved = []
    for px, py in points:
        dx = px - x
        dy = py - y
        moved.append([x + dx * cos - dy * sin, y + dx * sin + dy * cos])
    return moved


# ---- Polygons ------------------------------------------------------------------------------------


@dataclasses.dataclass
class Polygons(DrawnShape):
    """Outlines of one object, whose parts are joined.

    Args:
        parts: list of lists of points (x, y).
        exact: True for points in continuous coordinates, such as LabelMe's: a pixel is inside if
            its centre (x + .5, y + .5) is. False for points that are pixels and belong to the
            object: VIA's, as matterport draws them.
    """

    parts: list[list]
    exact: bool = False

    def crop(self, height: int, width: int) -> Crop:
        """The part of the shape inside an image of that size."""
        return _joined_crops([self._part(part, height, width) for part in self.parts])

    def _part(self, part: list, height: int, width: int) -> Crop:
        """The part of one outline inside an image of that size."""
        import skimage.draw

        points = np.array(part, float)
        if self.exact:
            points = points - 0.5
        top, left, bottom, right = _box_inside(points, height, width)
        if top > bottom or left > right:
            return 0, 0, np.zeros((0, 0), bool)
        corners = np.rint(points + 0.5)
        if _follows_pixels(points + 0.5, corners):
            return top, left, _fill_along_pixels(corners, top, left, bottom, right)
        if len(points) * (bottom + 1 - top) * (right + 1 - left) > MOST_STEPS:
            return top, left, _fill(points, top, left, bottom, right)
        pixels = np.zeros((bottom + 1 - top, right + 1 - left), bool)
        rows, columns = skimage.draw.polygon(points[:, 1], points[:, 0], (height, width))
        pixels[rows - top, columns - left] = True
        return top, left, pixels


def _follows_pixels(points: np.ndarray, corners: np.ndarray) -> bool:
    """Whether an outline runs along the edges of pixels, as one that was made from a mask does.

    points: [N, (x, y)], in which (0, 0) is the image's corner; corners: the same, rounded.
    """
    if (np.abs(points - corners) > 1e-6).any():
        return False
    return bool((corners == np.roll(corners, 1, axis=0)).any(axis=1).all())


def _fill_along_pixels(
    corners: np.ndarray, top: int, left: int, bottom: int, right: int
) -> np.ndarray:
    """The pixels in a box that an outline along pixel edges encloses, [rows, columns] bool.

    A pixel is inside if an odd number of vertical edges lies to its left. That equals what skimage
    draws, since no pixel's centre lies on such an outline; the time depends on the box alone.
    """
    height = bottom + 1 - top
    width = right + 1 - left
    end = corners.astype(int) - (left, top)
    start = np.roll(end, 1, axis=0)
    vertical = start[:, 0] == end[:, 0]
    columns = np.clip(end[vertical, 0], 0, width).tolist()
    rows = np.clip(np.sort([start[vertical, 1], end[vertical, 1]], axis=0), 0, height).T.tolist()
    has_edge = np.zeros((height, width + 1), bool)
    for x, (y1, y2) in zip(columns, rows):
        has_edge[y1:y2, x] ^= True
    return np.logical_xor.accumulate(has_edge[:, :width], axis=1)


# Above this product of points and pixels of the box `_fill` is used. skimage.draw.polygon visits
# each point for each pixel: 20 s for 1,000 points around 6 megapixels, where `_fill` takes 0.7 s.
MOST_STEPS = 30_000_000


def _box_inside(points: np.ndarray, height: int, width: int) -> tuple[int, int, int, int]:
    """The first and last row and column that a polygon may have pixels in: y1, x1, y2, x2.

    points: [N, (x, y)].
    """
    x1, y1 = np.maximum(points.min(axis=0), 0).astype(int).tolist()
    x2, y2 = np.ceil(points.max(axis=0)).astype(int).tolist()
    return y1, x1, min(y2, height - 1), min(x2, width - 1)


def _fill(points: np.ndarray, top: int, left: int, bottom: int, right: int) -> np.ndarray:
    """The pixels of skimage.draw.polygon in a box, row by row, in O(rows * points).

    A pixel belongs to the polygon if the number of edges that cross its row on either side of it is
    odd, or if it is a corner. Pixels beside a crossing are decided by skimage's own expression, so
    that rounding is the same.

    Args:
        points: [N, (x, y)].
        top, left, bottom, right: first and last row and column.

    Returns:
        [rows, columns] bool.
    """
    end = points
    start = np.roll(points, 1, axis=0)
    pixels = np.zeros((bottom + 1 - top, right + 1 - left), bool)
    for row, line in enumerate(pixels, top):
        for side in (1, -1):
            above = side * end[:, 1] > side * row
            crosses = above != (side * start[:, 1] > side * row)
            if crosses.any():
                line |= _is_odd(start[crosses], end[crosses], row, left, len(line), side)
    corners = np.rint(points).astype(int)
    is_pixel = (np.abs(points - corners) < 1e-12).all(axis=1)
    inside = is_pixel & (corners >= (left, top)).all(axis=1)
    inside &= (corners <= (right, bottom)).all(axis=1)
    pixels[corners[inside, 1] - top, corners[inside, 0] - left] = True
    return pixels


def _is_odd(
    start: np.ndarray,
    end: np.ndarray,
    row: int,
    left: int,
    width: int,
    side: int,
) -> np.ndarray:
    """Whether an odd number of edges crosses a row right of each pixel; with side -1, left of it.

    start, end: [edges, (x, y)]. Returns [width] bool.
    """
    y0 = end[:, 1:] - row
    y1 = start[:, 1:] - row
    crossing = start[:, :1] + (end[:, :1] - start[:, :1]) * (y1 / (y1 - y0)) - left
    near = np.floor(crossing) + (-1, 0, 1, 2)  # [edges, 4], pixels that rounding may decide
    x0 = end[:, :1] - (near + left)
    x1 = start[:, :1] - (near + left)
    distance = (x0 * y1 - x1 * y0) / (y1 - y0)
    if side > 0:
        bounds = np.ceil(crossing)  # pixels before it are left of the edge
        wrong = (distance > 0) != (near < bounds)
    else:
        bounds = np.floor(crossing) + 1  # pixels from it on are right of the edge
        wrong = (distance < 0) != (near >= bounds)
    passed = np.bincount(np.clip(bounds[:, 0], 0, width).astype(int), minlength=width + 1)
    count = np.cumsum(passed)[:width]
    if side > 0:
        count = len(start) - count
    wrong &= (near >= 0) & (near < width)
    count += np.bincount(near[wrong].astype(int), minlength=width)
    return count % 2 == 1


# ---- Other shapes --------------------------------------------------------------------------------


@dataclasses.dataclass
class Ellipse(DrawnShape):
    """An ellipse around the pixel (x, y).

    Args:
        x, y: the centre.
        radius_x, radius_y: the radii, in pixels.
        angle: rotation from x towards y, in radians.
    """

    x: float
    y: float
    radius_x: float
    radius_y: float
    angle: float = 0.0

    def crop(self, height: int, width: int) -> Crop:
        """The part of the shape inside an image of that size."""
        reach = max(self.radius_x, self.radius_y)
        rows = _span(self.y, reach, height)
        columns = _span(self.x, reach, width)
        dy = np.arange(rows.start, rows.stop)[:, None] - self.y
        dx = np.arange(columns.start, columns.stop) - self.x
        cos = math.cos(self.angle)
        sin = math.sin(self.angle)
        with np.errstate(over="ignore"):  # a radius near 0
            along = (dx * cos + dy * sin) / self.radius_x
            across = (dy * cos - dx * sin) / self.radius_y
            return rows.start, columns.start, along**2 + across**2 <= 1


def _span(
    centre: float,
    reach: float,
    side: int,
) -> slice:
    """The pixels within `reach` of the centre, along a side of the image of `side` pixels."""
    start = min(max(math.floor(centre - reach), 0), side)
    stop = min(max(math.ceil(centre + reach) + 1, start), side)
    return slice(start, stop)


@dataclasses.dataclass
class Rectangle(DrawnShape):
    """The pixels from (x1, y1) up to (x2, y2), which is excluded; coordinates are rounded."""

    x1: float
    y1: float
    x2: float
    y2: float

    def crop(self, height: int, width: int) -> Crop:
        """The part of the shape inside an image of that size."""
        corners = np.around([self.y1, self.x1, self.y2, self.x2])
        y1, x1, y2, x2 = np.clip(corners, 0, [height, width, height, width]).astype(int).tolist()
        return y1, x1, np.ones((max(y2 - y1, 0), max(x2 - x1, 0)), bool)


@dataclasses.dataclass(eq=False)
class Bitmap(DrawnShape):
    """A mask [h, w] bool whose first pixel is at (x, y)."""

    pixels: np.ndarray
    x: int = 0
    y: int = 0

    def crop(self, height: int, width: int) -> Crop:
        """The part of the shape inside an image of that size."""
        y1 = max(self.y, 0)
        x1 = max(self.x, 0)
        y2 = max(min(self.y + self.pixels.shape[0], height), y1)
        x2 = max(min(self.x + self.pixels.shape[1], width), x1)
        if y2 == y1 or x2 == x1:
            return 0, 0, np.zeros((0, 0), bool)
        return y1, x1, self.pixels[y1 - self.y : y2 - self.y, x1 - self.x : x2 - self.x]


@dataclasses.dataclass
class PixelOutline(DrawnShape):
    """An outline whose points are pixels, such as Supervisely's.

    Pixels on its lines belong to the object; those on the lines of holes and inside them don't.

    Args:
        points: list of points (x, y); they are rounded.
        holes: list of lists of points.
    """

    points: list
    holes: list[list] = dataclasses.field(default_factory=list)

    def crop(self, height: int, width: int) -> Crop:
        """The part of the shape inside an image of that size."""
        outer = self._filled(self.points, height, width)
        return _without(outer, [self._filled(hole, height, width) for hole in self.holes])

    @staticmethod
    def _filled(points: list, height: int, width: int) -> Crop:
        """The pixels inside an outline and on its lines."""
        import skimage.draw

        rounded = np.rint(np.array(points, float)).astype(int)
        top, left, bottom, right = _box_inside(rounded, height, width)
        if top > bottom or left > right:
            return 0, 0, np.zeros((0, 0), bool)
        lines = np.zeros((bottom + 1 - top, right + 1 - left), bool)
        for (x1, y1), (x2, y2) in zip(rounded.tolist(), np.roll(rounded, -1, axis=0).tolist()):
            if max(abs(x2 - x1), abs(y2 - y1)) > FARTHEST_LINE:
                continue  # far outside the image; the pixels inside the outline are drawn anyway
            rows, columns = skimage.draw.line(y1, x1, y2, x2)
            in_box = (rows >= top) & (rows <= bottom) & (columns >= left) & (columns <= right)
            lines[rows[in_box] - top, columns[in_box] - left] = True
        interior = Polygons([rounded.tolist()]).crop(height, width)
        return _joined_crops([interior, (top, left, lines)])


@dataclasses.dataclass
class Rings(DrawnShape):
    """Polygons of one object with holes, such as GeoJSON's; points are continuous coordinates.

    Args:
        polygons: for each polygon a list of rings, its outline first and then its holes; a ring is
            a list of points (x, y).
    """

    polygons: list[list[list]]

    def crop(self, height: int, width: int) -> Crop:
        """The part of the shape inside an image of that size."""
        crops = []
        for rings in self.polygons:
            outer, *holes = (Polygons([ring], exact=True).crop(height, width) for ring in rings)
            crops.append(_without(outer, holes))
        return _joined_crops(crops)


@dataclasses.dataclass
class EvenOdd(DrawnShape):
    """Paths of one object, filled by the even-odd rule, such as V7's.

    A path inside another one is a hole, one beside it another part. Points are continuous
    coordinates.

    Args:
        paths: list of lists of points (x, y).
    """

    paths: list[list]

    def crop(self, height: int, width: int) -> Crop:
        """The part of the shape inside an image of that size."""
        crops = [Polygons([path], exact=True).crop(height, width) for path in self.paths]
        top, left, joined = _joined_crops(crops)
        pixels = np.zeros_like(joined)
        for y, x, interior in crops:
            if interior.size:
                rows = slice(y - top, y - top + interior.shape[0])
                pixels[rows, x - left : x - left + interior.shape[1]] ^= interior
        return top, left, pixels


# Longest line of an outline that is drawn, in pixels: longer than a side of any image.
FARTHEST_LINE = 1_000_000


@dataclasses.dataclass
class CocoSegmentation(DrawnShape):
    """An annotation in COCO's layout, polygons or run lengths, drawn by pycocotools.

    Its methods raise ValueError if run lengths have another size than the image.
    """

    annotation: dict

    def crop(self, height: int, width: int) -> Crop:
        """The part of the shape inside an image of that size."""
        (y1, x1, _, _), pixels = crop_of_annotation(self.annotation, height, width)
        return y1, x1, pixels

    def has_pixels(self, height: int, width: int) -> bool:
        """Whether the shape has a pixel in an image of that size."""
        from pycocotools import mask as coco_mask

        return bool(coco_mask.area(to_rle(self.annotation, height, width)) > 0)


@dataclasses.dataclass
class Union(DrawnShape):
    """The union of several shapes of one object."""

    shapes: list[DrawnShape]

    def crop(self, height: int, width: int) -> Crop:
        """The part of the shape inside an image of that size."""
        return _joined_crops([shape.crop(height, width) for shape in self.shapes])


def cut_bitmap(mask: np.ndarray) -> Bitmap:
    """A mask [H, W] bool, cut to the box of its pixels."""
    y, x, inside = cut_to_pixels(mask)
    return Bitmap(inside.copy(), x, y)
