"""Annotations of VIA, LabelMe, Label Studio, CVAT, COCO, YOLO, mask files: named regions.

    annotations = read("photos/via_region_data.json")
    dataset = AnnotatedDataset()
    dataset.load("balloon", annotations)
    dataset.prepare()

A file that is no such file raises `AnnotationError`. What is wrong with a single file of many, an
image or a region is left out, listed in `Annotations.problems` and logged once, with file, image,
region, what was expected and received.

Points are (x, y) in pixels of the image as it is shown, a camera's rotation (EXIF) applied, unless
the file says that it was annotated at the size of the stored pixels. numpy only.
"""

import base64
import collections
import csv
import dataclasses
import functools
import io
import json
import logging
import math
import os
import pathlib
import re
import tempfile
import unicodedata
import urllib.parse
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from mrcnn import coco, files, utils
from mrcnn.masks import (
    FARTHEST,
    SegmentationError,
    crop_of_annotation,
    cut_to_pixels,
    decode,
    encode,
    finite_number,
    to_rle,
    unpack_brush,
)

logger = logging.getLogger(__name__)

FORMATS = (
    "a VIA 1.x or 2.x json (project or annotations) or csv, a project of VIA 3, LabelMe's or ISAT's"
    " json files, COCO's instances json, Label Studio's json, CVAT's xml, YOLO's labels with their"
    " data.yaml, a folder of mask files, Cityscapes' gtFine/"
)

# The part of a shape in an image: y and x of its first pixel, and the pixels [h, w] bool.
Crop = tuple[int, int, np.ndarray]


class AnnotationError(ValueError):
    """An annotation file that can't be used; the message names it and what was expected."""

    def __init__(self, text: str):
        super().__init__(_printable(text))


def _printable(text: str) -> str:
    """A text without the half signs that damaged names have, which no terminal or file takes."""
    return text.encode("utf-8", "backslashreplace").decode()


############################################################
#  What a reader returns
############################################################


class Shape(Protocol):
    """What encloses the pixels of an object."""

    def mask(self, height: int, width: int) -> np.ndarray:
        """[height, width] bool; what lies outside the image is cut off."""


class _Drawn:
    """A shape that is drawn inside its own box: an image may have thousands."""

    def crop(self, height: int, width: int) -> Crop:
        """What is drawn in an image of that size; what lies outside is cut off."""
        raise NotImplementedError

    def mask(self, height: int, width: int) -> np.ndarray:
        """[height, width] bool; what lies outside the image is cut off."""
        mask = np.zeros((height, width), bool)
        _draw(self, mask)
        return mask

    def has_pixels(self, height: int, width: int) -> bool:
        """Whether anything is drawn in an image of that size."""
        return bool(self.crop(height, width)[2].any())


def _draw(shape: Shape, mask: np.ndarray) -> None:
    """Draws a shape into the image's mask, [height, width] bool."""
    y1, x1, pixels = crop_of(shape, *mask.shape)
    mask[y1 : y1 + pixels.shape[0], x1 : x1 + pixels.shape[1]] |= pixels


def crop_of(shape: Shape, height: int, width: int) -> Crop:
    """The part of a shape that lies in an image, in a box that may be larger than it needs to be.

    Returns:
        (y, x, pixels): of the first pixel, and [h, w] bool.
    """
    if isinstance(shape, _Drawn):
        return shape.crop(height, width)
    return 0, 0, shape.mask(height, width)  # a class of the caller's own


def _joined_crops(crops: Sequence[Crop]) -> Crop:
    """One crop of several, whose pixels are joined."""
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


@dataclasses.dataclass
class Polygons(_Drawn):
    """Outlines of one object. Its parts are joined.

    Args:
        parts: list of lists of points (x, y).
        exact: a pixel is inside where its middle (x + .5, y + .5) is: the points lie between
            pixels, as LabelMe's do. Otherwise points are pixels, which belong to the object: VIA's,
            as matterport drew them.
    """

    parts: list[list]
    exact: bool = False

    def crop(self, height: int, width: int) -> Crop:
        """What is drawn in an image of that size; what lies outside is cut off."""
        return _joined_crops([self._part(part, height, width) for part in self.parts])

    def _part(self, part: list, height: int, width: int) -> Crop:
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
    """Whether an outline runs along the edges of pixels, as one that was made of a mask does.

    points: [N, (x, y)] from the image's corner; corners: the same, rounded.
    """
    if (np.abs(points - corners) > 1e-6).any():
        return False
    return bool((corners == np.roll(corners, 1, axis=0)).any(axis=1).all())


def _fill_along_pixels(
    corners: np.ndarray, top: int, left: int, bottom: int, right: int
) -> np.ndarray:
    """The pixels in a box inside of an outline along pixels, [rows, columns] bool.

    A pixel is inside where an odd number of upright edges lies to the left of it: what skimage
    draws, as no pixel's middle lies on such an outline, in time of the box alone.
    """
    height = bottom + 1 - top
    width = right + 1 - left
    end = corners.astype(int) - (left, top)
    start = np.roll(end, 1, axis=0)
    upright = start[:, 0] == end[:, 0]
    columns = np.clip(end[upright, 0], 0, width).tolist()
    rows = np.clip(np.sort([start[upright, 1], end[upright, 1]], axis=0), 0, height).T.tolist()
    crossed = np.zeros((height, width + 1), bool)
    for x, (y1, y2) in zip(columns, rows):
        crossed[y1:y2, x] ^= True
    return np.logical_xor.accumulate(crossed[:, :width], axis=1)


# skimage.draw.polygon looks at each point for each pixel of the box: 20 s for an outline of 1,000
# points around 6 megapixels, where `_fill` takes 0.7 s. It takes over from this product on.
MOST_STEPS = 30_000_000


def _box_inside(points: np.ndarray, height: int, width: int) -> tuple[int, int, int, int]:
    """The first and last row and column that a polygon may have pixels in: y1, x1, y2, x2.

    points: [N, (x, y)].
    """
    x1, y1 = np.maximum(points.min(axis=0), 0).astype(int).tolist()
    x2, y2 = np.ceil(points.max(axis=0)).astype(int).tolist()
    return y1, x1, min(y2, height - 1), min(x2, width - 1)


def _fill(points: np.ndarray, top: int, left: int, bottom: int, right: int) -> np.ndarray:
    """The pixels of skimage.draw.polygon in a box, row by row, in time of rows times points.

    A pixel belongs to the polygon where the edges that cross its row, on either side of it, are
    odd in number, or where it is a corner. A pixel beside a crossing is decided by skimage's own
    expression, so that roundings are the same.

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
    """Whether an odd number of edges crosses a row to the right of a pixel; side -1: to its left.

    start, end: [edges, (x, y)]. Returns [width] bool.
    """
    y0 = end[:, 1:] - row
    y1 = start[:, 1:] - row
    crossing = start[:, :1] + (end[:, :1] - start[:, :1]) * (y1 / (y1 - y0)) - left
    near = np.floor(crossing) + (-1, 0, 1, 2)  # [edges, 4], pixels that roundings may decide
    x0 = end[:, :1] - (near + left)
    x1 = start[:, :1] - (near + left)
    distance = (x0 * y1 - x1 * y0) / (y1 - y0)
    if side > 0:
        bounds = np.ceil(crossing)  # the pixels before are left of the edge
        wrong = (distance > 0) != (near < bounds)
    else:
        bounds = np.floor(crossing) + 1  # this and those after are right of it
        wrong = (distance < 0) != (near >= bounds)
    passed = np.bincount(np.clip(bounds[:, 0], 0, width).astype(int), minlength=width + 1)
    count = np.cumsum(passed)[:width]
    if side > 0:
        count = len(start) - count
    wrong &= (near >= 0) & (near < width)
    count += np.bincount(near[wrong].astype(int), minlength=width)
    return count % 2 == 1


@dataclasses.dataclass
class Ellipse(_Drawn):
    """An ellipse about the pixel (x, y); its first radius is turned by `angle` from x towards y.

    Args:
        angle: in radians.
    """

    x: float
    y: float
    radius_x: float
    radius_y: float
    angle: float = 0.0

    def crop(self, height: int, width: int) -> Crop:
        """What is drawn in an image of that size; what lies outside is cut off."""
        reach = max(self.radius_x, self.radius_y)
        rows = _span(self.y, reach, height)
        columns = _span(self.x, reach, width)
        dy = np.arange(rows.start, rows.stop)[:, None] - self.y
        dx = np.arange(columns.start, columns.stop) - self.x
        cos = math.cos(self.angle)
        sin = math.sin(self.angle)
        with np.errstate(over="ignore"):  # of a radius near 0
            along = (dx * cos + dy * sin) / self.radius_x
            across = (dy * cos - dx * sin) / self.radius_y
            return rows.start, columns.start, along**2 + across**2 <= 1


def _span(
    middle: float,
    reach: float,
    side: int,
) -> slice:
    """The pixels of a side of the image that lie within `reach` of the middle."""
    start = min(max(math.floor(middle - reach), 0), side)
    stop = min(max(math.ceil(middle + reach) + 1, start), side)
    return slice(start, stop)


@dataclasses.dataclass
class Rectangle(_Drawn):
    """The pixels from (x1, y1) up to (x2, y2), which lies outside; rounded."""

    x1: float
    y1: float
    x2: float
    y2: float

    def crop(self, height: int, width: int) -> Crop:
        """What is drawn in an image of that size; what lies outside is cut off."""
        corners = np.around([self.y1, self.x1, self.y2, self.x2])
        y1, x1, y2, x2 = np.clip(corners, 0, [height, width, height, width]).astype(int).tolist()
        return y1, x1, np.ones((max(y2 - y1, 0), max(x2 - x1, 0)), bool)


@dataclasses.dataclass(eq=False)
class Bitmap(_Drawn):
    """A mask [h, w] bool whose first pixel lies at (x, y)."""

    pixels: np.ndarray
    x: int = 0
    y: int = 0

    def crop(self, height: int, width: int) -> Crop:
        """What is drawn in an image of that size; what lies outside is cut off."""
        y1 = max(self.y, 0)
        x1 = max(self.x, 0)
        y2 = max(min(self.y + self.pixels.shape[0], height), y1)
        x2 = max(min(self.x + self.pixels.shape[1], width), x1)
        if y2 == y1 or x2 == x1:
            return 0, 0, np.zeros((0, 0), bool)
        return y1, x1, self.pixels[y1 - self.y : y2 - self.y, x1 - self.x : x2 - self.x]


@dataclasses.dataclass
class CocoSegmentation(_Drawn):
    """An annotation of COCO's layout, polygons or run lengths, drawn by pycocotools.

    Its methods raise ValueError where run lengths are of another size than the image.
    """

    annotation: dict

    def crop(self, height: int, width: int) -> Crop:
        """What is drawn in an image of that size."""
        (y1, x1, _, _), pixels = crop_of_annotation(self.annotation, height, width)
        return y1, x1, pixels

    def has_pixels(self, height: int, width: int) -> bool:
        """Whether anything is drawn in an image of that size."""
        from pycocotools import mask as coco_mask

        return bool(coco_mask.area(to_rle(self.annotation, height, width)) > 0)


@dataclasses.dataclass
class Region:
    """One object.

    Attributes:
        name: its class's.
        shape: has a method `mask(height, width)`.
        crowd: whether it is a crowd.
        number: its place or id in the file.
        extra: {name: value} of what else the file says of it, the class aside; None for nothing.
    """

    name: str
    shape: Shape
    crowd: bool = False
    number: Any = None
    extra: dict | None = None


@dataclasses.dataclass
class EmbeddedImage:
    """An image that a json holds itself, in base64, as LabelMe's imageData.

    Args:
        path: the json, which is read anew each time: the images of a folder don't fit in memory.
        place: the keys that lead to the text.
    """

    path: str
    place: tuple

    def content(self) -> bytes:
        """The bytes of the image's file. Raises ValueError, which names the json: none there."""
        value = _load_json(self.path, _all_entries)
        try:
            for key in self.place:
                value = value[key]
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"{self.path} has no image any more at {self.place}") from error
        try:
            return _from_base64(value)
        except ValueError as error:
            raise ValueError(f"{self.path} has no image at {self.place}: {error}") from error

    def read(self, rotate: bool = True, size: tuple[int, int] | None = None) -> np.ndarray:
        """[H, W, 3] uint8; for `rotate` and `size` see `utils.read_image`.

        Raises:
            ValueError: no image, or a part of one. The text names the json.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "image")
            with open(path, "wb") as file:
                file.write(self.content())
            try:
                return utils.read_image(path, rotate=rotate, size=size)
            except (OSError, ValueError) as error:
                text = str(error).replace(path, f"the image in {self.path}")
                raise ValueError(text) from error


def _from_base64(text: Any) -> bytes:
    """What a text in base64 holds, which may be a data: URL. Raises ValueError: no such text."""
    if not isinstance(text, str):
        raise ValueError(f"expected a text in base64. Received: {files.short(text)}")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    return base64.b64decode("".join(text.split()), validate=True)


@dataclasses.dataclass
class AnnotatedImage:
    """A photograph that exists.

    Attributes:
        name: in the annotations.
        path: of its file, or of the json that holds it; "" of one that was read without its file.
        height, width: as it is shown.
        regions: list of `Region`, its objects.
        embedded: where the json holds it; None for an image that is a file.
        extra: COCO: the json's own dict of the image; None otherwise.
    """

    name: str
    path: str
    height: int
    width: int
    regions: list[Region]
    embedded: EmbeddedImage | None = None
    extra: dict | None = None

    def __repr__(self) -> str:
        size = f"{self.height} x {self.width}"
        return f"AnnotatedImage({self.name!r}, {size}, {len(self.regions)} regions)"

    def masks(self) -> np.ndarray:
        """[height, width, regions] bool."""
        shapes = [region.shape for region in self.regions]
        annotations = [shape.annotation for shape in shapes if isinstance(shape, CocoSegmentation)]
        if len(annotations) == len(shapes):
            return decode(annotations, self.height, self.width)
        # Only what is drawn takes memory: the system gives it page by page, when it is written to.
        masks = np.zeros((len(shapes), self.height, self.width), bool)
        for mask, shape in zip(masks, shapes):
            _draw(shape, mask)
        return np.moveaxis(masks, 0, -1)


@dataclasses.dataclass
class Annotations:
    """What files of annotations hold.

    Attributes:
        path: the file or folder.
        images: list of `AnnotatedImage`.
        classes: names, of COCO in the order of their ids, otherwise sorted.
        problems: texts, one for each file, image or region that was left out.
        categories: COCO: the json's own dicts of the classes; empty otherwise.
    """

    path: str
    images: list[AnnotatedImage]
    classes: list[str]
    problems: list[str]
    categories: list[dict] = dataclasses.field(default_factory=list)

    def __repr__(self) -> str:
        regions = sum(len(image.regions) for image in self.images)
        return (
            f"Annotations({self.path!r}, {len(self.images)} images, {regions} regions, "
            f"{len(self.classes)} classes, {len(self.problems)} problems)"
        )

    def summary(self) -> str:
        """A few lines: images, objects of each class, how many problems there were."""
        counts = collections.Counter(
            region.name for image in self.images for region in image.regions
        )
        objects = ", ".join(f"{name} {counts[name]}" for name in self.classes)
        text = f"{self.path}: {len(self.images)} images; objects: {objects}"
        if self.problems:
            text += f"; {len(self.problems)} images or regions left out"
        return text

    def split(self, share: float, seed: int = 0) -> tuple["Annotations", "Annotations"]:
        """Two `Annotations`: about a `share` (0..1) of the images is in the second.

        There is at least one image in each. An image's name decides where it belongs, so that it
        stays there when others are added.

        Raises:
            AnnotationError: there are fewer than 2 images with objects.
        """
        if len(self.images) < 2:
            raise AnnotationError(
                f"{self.path}: a split needs 2 images with objects. Received: {len(self.images)}"
            )
        draws = [zlib.crc32(f"{seed} {image.name}".encode()) / 2**32 for image in self.images]
        bound = min(max(share, min(draws)), sorted(draws)[-2])
        first = []
        second = []
        for image, draw in zip(self.images, draws):
            if draw <= bound:
                second.append(image)
            else:
                first.append(image)
        return dataclasses.replace(self, images=first), dataclasses.replace(self, images=second)


class AnnotatedDataset(utils.Dataset):
    """A `Dataset` of annotations in any of the formats, of one source or several.

    `AnnotatedDataset.of("balloon", annotations)` is one of a single source, prepared.
    """

    @classmethod
    def of(
        cls,
        source: str,
        annotations: Annotations,
        classes: Iterable[str] | None = None,
    ) -> "AnnotatedDataset":
        """A prepared dataset of one source; arguments as for `load`."""
        dataset = cls()
        dataset.load(source, annotations, classes)
        dataset.prepare()
        return dataset

    def load(
        self,
        source: str,
        annotations: Annotations,
        classes: Iterable[str] | None = None,
    ) -> None:
        """Adds classes and images; call `prepare` afterwards.

        Args:
            source: name of the data, without a dot.
            annotations: `Annotations`, see `read`.
            classes: names in the order of their ids 1, 2, ...; None for those of `annotations`.
                Give the training set's to the validation set.

        Raises:
            AnnotationError: a region of another class.
        """
        if classes is None:
            classes = annotations.classes
        classes = list(classes)
        unknown = sorted(_class_names(annotations.images) - set(classes))
        if unknown:
            raise AnnotationError(
                f"{annotations.path}: the classes are {', '.join(classes)}. Received: regions of "
                f"the class {', '.join(map(repr, unknown))}"
            )
        for class_id, name in enumerate(classes, 1):
            self.add_class(source, class_id, name)
        for image in annotations.images:
            self.add_image(
                source,
                image.name,
                image.path,
                width=image.width,
                height=image.height,
                annotation=image,
                names=classes,
            )

    def load_image(self, image_id: int) -> np.ndarray:
        """[H, W, 3] uint8, turned as the camera noted unless the stored pixels are annotated.

        Raises:
            ValueError: a file that can't be read any more, or is of another size than it was.
        """
        info = self.image_info[image_id]
        if "annotation" not in info:
            return super().load_image(image_id)
        annotated = info["annotation"]
        if annotated.embedded:
            image = self._embedded_image(image_id)
        else:
            image = super().load_image(image_id)
        where = f"{info['path']} (annotated as {annotated.name!r})"
        utils.check_image_size(image, (info["height"], info["width"]), where)
        return image

    def _embedded_image(self, image_id: int) -> np.ndarray:
        """An image that the json holds; ValueError if it can't be read any more."""
        info = self.image_info[image_id]
        try:
            return info["annotation"].embedded.read(size=(info["height"], info["width"]))
        except (OSError, TypeError, AttributeError, KeyError, ValueError, SyntaxError) as error:
            raise ValueError(
                f"Image {image_id} can't be read from {info['path']}: {error}"
            ) from error

    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """masks [H, W, N] bool; class_ids [N] int32, negative for crowds."""
        info = self.image_info[image_id]
        if "annotation" not in info:
            return super().load_mask(image_id)
        class_ids = []
        for region in info["annotation"].regions:
            own_id = info["names"].index(region.name) + 1
            class_id = self.map_source_class_id(f"{info['source']}.{own_id}")
            if region.crowd:
                class_id = -class_id
            class_ids.append(class_id)
        return info["annotation"].masks(), np.array(class_ids, np.int32)


def _class_names(images: Iterable[AnnotatedImage]) -> set[str]:
    """Names of the classes of all regions."""
    return {region.name for image in images for region in image.regions}


############################################################
#  Checking
############################################################


class _Problem(ValueError):
    """What is wrong with one image or region; the reader adds the place."""


@dataclasses.dataclass
class _Entry:
    """An image as it is annotated.

    Attributes:
        name: the file's name.
        regions: those that can be used.
        size: (height, width) that the annotation was made for, None if unknown.
        others: more names that the file may have.
        beside: the name of the file that goes with the json by its own name.
        embedded: the image itself, for want of a file.
        extra: what else the file says of it.
        file: its path, where that is known already.
    """

    name: str
    regions: list[Region]
    size: tuple[int, int] | None = None
    others: tuple[str, ...] = ()
    beside: str | None = None
    embedded: EmbeddedImage | None = None
    extra: dict | None = None
    file: str | None = None


class _Reader:
    """Collects problems and images of one source of annotations.

    Args:
        path: the file or folder.
        images: folder that the names of the images start from, or None.
        keep_empty: also images without regions.
        root: the folder in which the file was looked for.
        need_files: leave out an image without a file though its size is known.

    Attributes:
        problems: texts.
        said: more of them, which are logged already.
        twins_are_said: whether objects that are there twice were named by what has read the file.
    """

    def __init__(
        self,
        path: Any,
        images: Any,
        keep_empty: bool,
        root: Any = None,
        need_files: bool = True,
    ):
        self.need_files = need_files
        self.path = os.fspath(path)
        own = self.path
        if not os.path.isdir(own):
            own = os.path.dirname(own)
        self.folders = [own]
        if root is not None:
            self.folders.append(os.fspath(root))
        self.folders += _folders_near(own)
        if images is not None:
            self.folders = [os.fspath(images)]
            if _is_inside(own, images):
                self.folders.append(own)
        self.keep_empty = keep_empty
        self.problems: list[str] = []
        self.read_problems: list[str] = []
        self.entries: list[_Entry] = []
        self.without_regions = 0
        self.twins_are_said = False

    def problem(self, place: str, text: str) -> None:
        """Notes a problem. place: "image x, region 3"."""
        self.problems.append(_printable(f"{self.path}: {place}: {text}"))

    def regions(
        self,
        place: str,
        items: Iterable[tuple[Any, Any]],
        read: Callable[[Any], Region],
    ) -> Iterator[Region]:
        """`read(item)` of each item; those with problems are noted. items: (number, item) pairs."""
        for number, item in items:
            try:
                yield dataclasses.replace(read(item), number=number)
            except _Problem as error:
                self.problem(f"{place}, region {number}", str(error))

    def add(self, entry: _Entry, annotated: bool = True) -> None:
        """Adds an image that has regions, or any with `keep_empty`.

        Args:
            entry: the image.
            annotated: whether the file has regions of it. One whose regions can't be used is no
                background.
        """
        if entry.regions or (self.keep_empty and not annotated):
            self.entries.append(entry)
        else:
            self.without_regions += 1

    def finish(self, classes: list[str] | None = None) -> Annotations:
        """The `Annotations`; AnnotationError if nothing is left."""
        images = self._merged(self._images())
        if not self.twins_are_said:
            self._warn_of_twins(images)
        without = self.without_regions
        if without:
            logger.info("%s: %d images without regions are left out", self.path, without)
        problems = [*self.read_problems, *self.problems]
        if not images:
            raise AnnotationError(
                f"{self.path}: expected images with regions. Received: none that can be used; "
                f"{without} without regions, {len(problems)} problems{_lines(problems)}"
            )
        self._log_problems()
        if classes is None:
            classes = sorted(_class_names(images))
            self._warn_of_like_classes(classes)
        return Annotations(self.path, images, classes, problems)

    def _warn_of_like_classes(self, classes: list[str]) -> None:
        """Names that were typed in upper and lower case are several classes, hardly on purpose."""
        counts = collections.Counter(name.casefold() for name in classes)
        like = [repr(name) for name in classes if counts[name.casefold()] > 1]
        if like:
            logger.warning(
                "%s: classes that differ in upper and lower case alone are several classes: %s",
                self.path,
                files.several(like),
            )

    def _warn_of_twins(self, images: list[AnnotatedImage]) -> None:
        """Says which images have an object twice: each of the two counts."""
        twice = {}
        for image in images:
            count = _twins(image.regions)
            if count:
                twice[image.name] = count
        if twice:
            logger.warning(
                "%s: %d objects are there twice, equal in class and shape, and count twice; images"
                " with such: %s",
                self.path,
                sum(twice.values()),
                files.several(twice),
            )

    def _log_problems(self) -> None:
        """One warning of all problems."""
        if len(self.problems) == 1:
            logger.warning("%s; left out", self.problems[0])
        elif self.problems:
            logger.warning(
                "%s: %d files, images or regions are left out:%s",
                self.path,
                len(self.problems),
                _lines(self.problems),
            )

    def _images(self) -> list[AnnotatedImage]:
        """The images of the entries whose file is found; the others' problems are noted."""
        image_files = self._find()
        images = []
        for entry in self.entries:
            try:
                image = self._image(entry, image_files)
            except _Problem as error:
                self.problem(f"image {entry.name!r}", str(error))
                continue
            image.regions = [region for region in entry.regions if self._is_drawn(region, image)]
            if image.regions or not entry.regions:
                images.append(image)
        return images

    def _find(self) -> files.FoundImages:
        """The files of the entries' names, and one warning of those with another name."""
        others: dict[str, list[str]] = {}
        self._part_copies()
        for entry in self.entries:
            if entry.file is None:
                others.setdefault(entry.name, []).extend(entry.others)
        image_files = files.find_images(list(others), self.folders, others)
        taken = {os.path.normpath(path) for path in image_files.paths.values()}
        for entry in self.entries:
            if entry.name in image_files.paths or entry.beside is None or entry.embedded:
                continue
            path = files.find_images([entry.beside], self.folders).paths.get(entry.beside)
            if path is not None and os.path.normpath(path) not in taken:
                image_files.paths[entry.name] = image_files.renamed[entry.name] = path
        if image_files.renamed:
            logger.warning("%s: %s", self.path, image_files.renamed_text())
        return image_files

    def _part_copies(self) -> None:
        """Gives jsons that name one image those of their own names, where these are there.

        A json that was copied or renamed with its image still names the first one.
        """
        counts = collections.Counter(entry.name for entry in self.entries)
        parted = []
        for entry in self.entries:
            beside = entry.beside
            if counts[entry.name] < 2 or beside is None or beside == entry.name:
                continue
            if any(os.path.isfile(os.path.join(folder, beside)) for folder in self.folders):
                parted.append(f"{entry.name} is {beside}")
                entry.name = beside
        if parted:
            logger.warning(
                "%s: %d json files name an image that another one names too, and are taken for"
                " those of the images with their own names: %s",
                self.path,
                len(parted),
                files.several(parted),
            )

    def _image(self, entry: _Entry, image_files: files.FoundImages) -> AnnotatedImage:
        """The image of an entry, without its regions; _Problem without a file of the right size."""
        problem = image_files.problems.get(entry.name, "")
        path = entry.file or image_files.paths.get(entry.name)
        if path is not None:
            try:
                height, width = _annotated_size(path, path, entry.size)
                return AnnotatedImage(entry.name, path, height, width, [], None, entry.extra)
            except _Problem as error:
                problem = str(error)
        elif entry.size and not entry.embedded and not self.need_files:
            return AnnotatedImage(entry.name, "", *entry.size, [], None, entry.extra)
        if entry.embedded is None:
            raise _Problem(problem)
        path = entry.embedded.path
        try:
            content = io.BytesIO(entry.embedded.content())
            height, width = _annotated_size(content, "the image in the json", entry.size)
        except ValueError as error:
            raise _Problem(f"{problem}; and of the image in the json: {error}") from error
        return AnnotatedImage(entry.name, path, height, width, [], entry.embedded)

    def _is_drawn(self, region: Region, image: AnnotatedImage) -> bool:
        """Whether a region has pixels in its image; notes the problem of one without.

        What trains nothing, or can't be drawn, is said now rather than in the first epoch.
        """
        size = (image.height, image.width)
        try:
            if isinstance(region.shape, _Drawn):
                drawn = region.shape.has_pixels(*size)
            else:
                drawn = bool(region.shape.mask(*size).any())
            if drawn:
                return True
            problem = (
                f"expected a region with a pixel in the image of (height, width) {size}. "
                f"Received: {files.short(region.shape)}"
            )
        except (ValueError, TypeError, KeyError) as error:
            problem = str(error)
        self.problem(f"image {image.name!r}, region {region.number}", problem)
        return False

    def _merged(self, images: list[AnnotatedImage]) -> list[AnnotatedImage]:
        """The images, those of one file as one; a region that is in two entries is taken once."""
        merged: dict[Any, AnnotatedImage] = {}
        known: dict[Any, set] = {}
        several: dict[str, int] = {}
        for image in images:
            key: Any = os.path.normpath(image.path)
            if image.embedded:
                key = (key, image.embedded.place)
            elif not image.path:
                key = ("", image.name)
            first = merged.setdefault(key, image)
            if first is image:
                continue
            if (first.height, first.width) != (image.height, image.width):
                self.problem(
                    f"image {image.name!r}",
                    f"expected one size of {image.path}. Received: entries of"
                    f" {(first.height, first.width)} and {(image.height, image.width)}",
                )
                continue
            if key not in known:
                known[key] = set(map(_identity, first.regions))
            new = [region for region in image.regions if _identity(region) not in known[key]]
            known[key].update(map(_identity, new))
            several[first.name] = several.get(first.name, 0) + len(image.regions) - len(new)
            first.regions = first.regions + new
        if several:
            logger.warning(
                "%s: %d images are annotated in several places; their regions are put together, %d"
                " that are there twice once: %s",
                self.path,
                len(several),
                sum(several.values()),
                files.several(several),
            )
        return list(merged.values())


def _folders_near(folder: str) -> list[str]:
    """The folders of images in a folder of annotations, and beside it."""
    near = []
    for place in (folder, os.path.join(folder, os.pardir)):
        for name in files.IMAGE_FOLDERS:
            path = os.path.normpath(os.path.join(place, name))
            if os.path.isdir(path):
                near.append(path)
    return near


def _is_inside(path: str, folder: Any) -> bool:
    """Whether a path lies in a folder or one of its sub-folders."""
    folder = os.path.join(os.path.abspath(folder), "")
    return os.path.abspath(path).startswith(folder)


def _identity(region: Region) -> tuple:
    """Equal for regions with one class and one shape."""
    shape: Any = region.shape
    if isinstance(shape, CocoSegmentation):
        shape = shape.annotation["segmentation"]
    if isinstance(shape, Bitmap):
        shape = (shape.x, shape.y, shape.pixels.shape, shape.pixels.tobytes())
    return region.name, region.crowd, repr(shape)


def _twins(regions: Sequence[Region]) -> int:
    """How many regions of an image are equal to one before them.

    Whole shapes are compared where a glance at them is equal: they may be many, and long.
    """
    alike: dict[tuple, list[Region]] = {}
    for region in regions:
        alike.setdefault((region.name, region.crowd, _glance(region.shape)), []).append(region)
    count = 0
    for group in alike.values():
        if len(group) > 1:
            count += len(group) - len(set(map(_identity, group)))
    return count


def _glance(shape: Any) -> Any:
    """Something short that is equal for equal shapes."""
    if isinstance(shape, CocoSegmentation):
        return coco.glance(shape.annotation["segmentation"])
    if isinstance(shape, Polygons):
        return tuple(map(len, shape.parts)), repr(shape.parts[0][:2])
    if isinstance(shape, Bitmap):
        return shape.x, shape.y, shape.pixels.shape
    if isinstance(shape, _PngMask):
        return shape.x, shape.y, len(shape.text)
    if isinstance(shape, Union):
        return tuple(map(_glance, shape.shapes))
    return repr(shape)


def _lines(problems: Sequence[str], limit: int = 5) -> str:
    """The first few problems, each on a line of its own."""
    lines = [f"\n  {text}" for text in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"\n  and {len(problems) - limit} more")
    return "".join(lines)


def _annotated_size(
    file: Any,
    name: str,
    size: tuple[int, int] | None,
) -> tuple[int, int]:
    """(height, width) in which an image file's annotations are; _Problem for one of another size.

    Args:
        file: its path, or a file object.
        name: of the image, for messages.
        size: (height, width) that the annotation was made for, None if unknown.
    """
    try:
        shown, stored = utils.image_sizes(file)
    except Exception as error:  # whatever is raised for a damaged file
        raise _Problem(f"expected an image that can be read. Received: {error}") from error
    if size is None or size == shown:
        return shown
    if size == stored:  # annotated by a program that ignores a camera's rotation
        return stored
    raise _Problem(f"annotated at (height, width) {size}. Received: {name} of {shown}")


def _given_size(height: Any, width: Any) -> tuple[int, int] | None:
    """(height, width) as a file gives it; None where it doesn't, or gives 0 or -1 for unknown."""
    height = _number(height)
    width = _number(width)
    if not height or not width or height <= 0 or width <= 0:
        return None
    return int(height), int(width)


_KINDS = {
    dict: "an object {...}",
    list: "a list",
    str: "a text",
    (list, dict): "a list or an object {...}",
}


def _field(
    data: Any,
    name: str,
    kind: Any,
    subject: str,
) -> Any:
    """data[name] of one kind of `_KINDS`, or _Problem."""
    value = None
    if isinstance(data, dict):
        value = data.get(name)
    if isinstance(value, kind):
        return value
    if value is None:
        value = data
    raise _Problem(
        f"expected {subject} with {name!r}, {_KINDS[kind]}. Received: {files.short(value)}"
    )


def _number(value: Any) -> float | None:
    """A coordinate or another number of a shape, also written as text; None for what is none."""
    number = finite_number(value)
    if number is None or abs(number) > FARTHEST:
        return None
    return float(number)


def _beyond(value: Any) -> str:
    """What a message adds to a number that is larger than any image."""
    if isinstance(value, (int, float)) and FARTHEST < abs(value) < math.inf:
        return f" (beyond {FARTHEST:.0f})"
    return ""


def _numbers(
    shape: dict,
    names: tuple[str, ...],
    positive: tuple[str, ...] = (),
) -> list[float]:
    """The numbers `names` of a shape's dict, those in `positive` above 0."""
    numbers = []
    wrong = []
    for name in names:
        value = shape.get(name)
        number = _number(value)
        if number is None or (name in positive and number <= 0):
            wrong.append(f"{name}: {files.short(value)}{_beyond(value)}")
        else:
            numbers.append(number)
    if wrong:
        above = ""
        if positive:
            above = f" ({', '.join(positive)} above 0)"
        raise _Problem(
            f"expected {', '.join(names)} as numbers{above}. Received: {', '.join(wrong)}"
        )
    return numbers


def _points(points: Any, subject: str) -> list[list[float]]:
    """The points [x, y] of a shape."""
    expected = f"expected {subject} as a list of points of two numbers"
    if not isinstance(points, (list, tuple)):
        raise _Problem(f"{expected}. Received: {files.short(points)}")
    read = []
    for point in points:
        pair = _point(point)
        if pair is None:
            beyond = ""
            if isinstance(point, (list, tuple)):
                beyond = next(filter(None, map(_beyond, point)), "")
            raise _Problem(f"{expected}. Received: {files.short(point)}{beyond}")
        read.append(pair)
    return read


def _outline(points: Any, subject: str) -> list[list[float]]:
    """The points [x, y] of a shape, at least 3."""
    read = _points(points, subject)
    if len(read) < 3:
        raise _Problem(f"expected {subject} of at least 3 points. Received: {len(read)}")
    return read


def _point(point: Any) -> list[float] | None:
    """[x, y]; None for what is no point."""
    if not isinstance(point, (list, tuple)) or len(point) != 2:
        return None
    x = _number(point[0])
    y = _number(point[1])
    if x is None or y is None:
        return None
    return [x, y]


def _class_name(value: Any, subject: str) -> str:
    """A class's name: a text, or a number as text; _Problem for another value or none.

    subject: where it stands, "one class in the attribute 'type'".
    """
    name = value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15:
        name = str(value)
        if value == int(value):
            name = str(int(value))  # 7.0 is the class 7
    try:
        if isinstance(name, str):
            name.encode()
            # macOS writes an accent as a sign of its own: one class, not two.
            name = unicodedata.normalize("NFC", name).strip()
            if name:
                return name
    except UnicodeEncodeError:  # half a sign
        pass
    raise _Problem(f"expected {subject}. Received: {files.short(value)}")


def _load_json(
    path: Any,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """What a json file holds; see `files.read_json`."""
    try:
        return files.read_json(path, pairs)
    except FileNotFoundError as error:
        raise AnnotationError(f"No annotation file or folder {path}") from error
    except ValueError as error:
        raise AnnotationError(str(error)) from error


############################################################
#  Any format
############################################################


def read(
    path: Any,
    images: Any = None,
    attribute: str | None = None,
    label: str | None = None,
    keep_empty: bool = False,
    need_files: bool = True,
    crowds: str = "auto",
) -> Annotations:
    """Reads annotations of any of the formats, which is told by the content.

    An image whose file is not there under the annotated name is found by its base name where that
    is clear (see `files.find_images`), with a warning. An image that is annotated in several
    places has the regions of all of them.

    Args:
        path: a json file of VIA, COCO, Label Studio, or LabelMe for one image; or a folder with
            one of the first two, or any number of the last two, in it or, if it has none itself, in
            its sub-folders, up to 3 within each other. Without any json also CVAT's xml, see
            `read_cvat`, YOLO's labels, see `read_yolo`, and mask files, see `read_masks`; or
            Cityscapes' folder, see `read_cityscapes`.
        images: folder that the file names of the images start from; None for the json's own folder,
            or for <name>/ beside annotations/instances_<name>.json.
        attribute: VIA: the region attribute that holds the class; None takes the only one there is.
            Without any attribute every region is of the class "object".
        label: VIA, Label Studio and mask files: name of every region's class, whatever its
            attributes or colours.
        keep_empty: also images without regions, as background.
        need_files: False takes images whose files are not there too, where the annotations say
            their size: to convert them.
        crowds: COCO: what becomes of annotations with iscrowd 1, see `coco.read_annotations`.

    Returns:
        `Annotations`.

    Raises:
        AnnotationError: no such file, another format, or no image that can be used.
    """
    return _read_any(path, images, attribute, label, keep_empty, None, need_files, crowds)


def _images_of_coco(path: str) -> str | None:
    """The folder of the images of a json in COCO's own layout; None for another.

    Of annotations/instances_val2017.json it is val2017/ or images/val2017/ beside annotations/.
    """
    folder, name = os.path.split(os.path.abspath(path))
    stem, suffix = os.path.splitext(name)
    if os.path.basename(folder) != "annotations" or suffix.lower() != ".json":
        return None
    root = os.path.dirname(folder)
    subset = stem.rpartition("_")[2]
    for place in (os.path.join(root, subset), os.path.join(root, "images", subset)):
        if os.path.isdir(place):
            return place
    return None


def _read_any(
    path: Any,
    images: Any = None,
    attribute: str | None = None,
    label: str | None = None,
    keep_empty: bool = False,
    expected: str | None = None,
    need_files: bool = True,
    crowds: str = "auto",
) -> Annotations:
    """Reads a file or a folder, of the expected format if one is named."""
    path = os.fspath(path)
    if path.lower().endswith(YAML_SUFFIXES):
        return read_yolo(path, images, keep_empty)
    if path.lower().endswith(".xml"):
        _warn_of_via_settings(path, attribute, label)
        return read_cvat(path, images, keep_empty, need_files)
    if not os.path.isdir(path):
        if images is None:
            images = _images_of_coco(path)
        return _read_file(
            path, images, attribute, label, keep_empty, expected, None, need_files, crowds
        )
    if expected is None and _cityscapes_in(path):
        _warn_of_via_settings(path, attribute, label)
        return read_cityscapes(path, keep_empty)
    folder = _Folder(path, expected)
    subsets = _subsets(folder.whole, path)
    if subsets:
        folder.warn_of_others()
        parts = [(file, images or _images_of_coco(file)) for file in subsets]
        return _read_together(path, parts, attribute, label, keep_empty, need_files, crowds)
    if len(folder.whole) > 1:
        raise AnnotationError(
            f"{path}: expected one VIA or COCO json in the folder, or one for each subset, with"
            " 'train' in a name or folder; name the file. Received: "
            + ", ".join(os.path.relpath(file, path) for file in folder.whole)
        )
    if folder.whole:
        folder.warn_of_others()
        return _read_file(
            folder.whole[0],
            images,
            attribute,
            label,
            keep_empty,
            root=path,
            need_files=need_files,
            crowds=crowds,
        )
    if folder.tasks and not folder.single:
        _warn_of_via_settings(path, attribute, None)
        return _read_label_studio(path, folder.tasks, images, label, keep_empty, need_files)
    if not folder.single and expected is None:
        cvat = _cvat_in(path)
        if cvat is not None:
            _warn_of_via_settings(path, attribute, label)
            return read_cvat(cvat, images, keep_empty, need_files)
        if is_yolo(path):
            _warn_of_via_settings(path, attribute, label)
            return read_yolo(path, images, keep_empty)
        if _mask_sets(path):
            _warn_of_via_settings(path, attribute, None)
            return read_masks(path, label, keep_empty)
    if not folder.single:
        received = f"a folder with {folder.count} json files, none of these{_xml_in(path)}"
        received += _semantic_in(path)
        raise AnnotationError(
            f"{path}: expected {FORMATS}. Received: {received}{_lines(folder.problems())}"
        )
    _warn_of_via_settings(path, attribute, label)
    for file in folder.tasks:
        folder.useless[file] = "expected a labelme json as the others. Received: Label Studio's"
    return _read_labelme(path, folder.single, images, keep_empty, folder.useless, need_files)


def _subsets(whole: list[str], path: str) -> list[str]:
    """Those of several files of a folder that are its subsets; none where they are something else.

    Each says in its name or folder which subset it is, and one is that to train on: Roboflow's
    train/, valid/ and test/, COCO's own annotations/. Of an image's instances and keypoints the
    instances are read.
    """
    if len(whole) < 2:
        return []
    plain = [pathlib.Path(file) for file in whole]
    instances = [file for file in plain if "instances" in file.stem.lower()]
    for kind in coco.OTHER_KINDS:
        if instances:
            plain = [file for file in plain if kind not in file.stem.lower()]
    if not all(coco.says_a_subset(file, path) for file in plain):
        return []
    if not any(coco.says_a_subset(file, path, "train") for file in plain):
        return []
    return list(map(str, plain))


def _read_together(
    path: str,
    parts: Sequence[tuple[str, Any]],
    attribute: str | None,
    label: str | None,
    keep_empty: bool,
    need_files: bool,
    crowds: str,
) -> Annotations:
    """The images of several files as one; AnnotationError if none can be used.

    Images are named by their paths in the folder, as a.jpg may be in each of its subsets.

    Args:
        path: the folder.
        parts: (file, folder of its images or None) of each.
        attribute, label, keep_empty, need_files, crowds: see `read`.
    """
    subsets: list[Annotations] = []
    problems: list[str] = []
    names = [os.path.relpath(file, path) for file, _ in parts]
    logger.warning(
        "%s: %d subsets are read together: %s", path, len(parts), files.several(names, 10)
    )
    for file, images in parts:
        try:
            part = _read_file(
                file, images, attribute, label, keep_empty, None, path, need_files, crowds
            )
        except AnnotationError as error:
            if len(parts) == 1:
                raise
            logger.warning("%s; left out", error)
            problems.append(str(error))
            continue
        for image in part.images:
            image.name = _name_in(path, file, image)
        subsets.append(part)
        problems += part.problems
    if not subsets:
        raise AnnotationError(
            f"{path}: expected images with regions. Received: {len(parts)} files without"
            f"{_lines(problems)}"
        )
    reader = _Reader(path, None, keep_empty)
    images = reader._merged([image for part in subsets for image in part.images])
    reader._log_problems()
    classes = list(dict.fromkeys(name for part in subsets for name in part.classes))
    categories = subsets[0].categories
    if any(part.categories != categories for part in subsets):
        categories = []
    return Annotations(path, images, classes, [*problems, *reader.problems], categories)


def _name_in(path: str, file: str, image: AnnotatedImage) -> str:
    """The name of an image of a file among those of the other files of a folder."""
    if image.path and not image.embedded and _is_inside(image.path, path):
        return os.path.relpath(image.path, path)
    stem = os.path.splitext(os.path.relpath(file, path))[0]
    return f"{stem}/{image.name}"


def _xml_in(path: str) -> str:
    """What a message adds where a folder has annotations in XML."""
    xml_files = [name for name in sorted(os.listdir(path)) if name.lower().endswith(".xml")]
    for name in ("Annotations", "annotations"):
        folder = os.path.join(path, name)
        if os.path.isdir(folder):
            inside = sorted(os.listdir(folder))
            xml_files += [f"{name}/{file}" for file in inside if file.lower().endswith(".xml")]
    if not xml_files:
        return ""
    return (
        f"; {len(xml_files)} XML files, none of them CVAT's ({files.several(xml_files, 2)}):"
        " export COCO's json in their place"
    )


def _warn_of_via_settings(path: str, attribute: str | None, label: str | None) -> None:
    """Says that `attribute` and `label` change nothing: other formats name the class themselves."""
    for name, value in (("attribute", attribute), ("label", label)):
        if value is not None:
            logger.warning("%s: %s=%r is for VIA alone and changes nothing here", path, name, value)


class _Folder:
    """The json files of a folder, or of its sub-folders if it has no annotations itself.

    Attributes:
        count: how many files there are.
        whole: paths of those of VIA or COCO, which hold all images.
        single: {path: content} of LabelMe's, without the images in them.
        tasks: {path: content} of Label Studio's.
        useless: {path: why it is no annotation}.
        damaged: paths of those among them that are no json.
    """

    def __init__(self, path: str, expected: str | None):
        self.path = path
        self.expected = expected
        self.count = 0
        self.whole: list[str] = []
        self.single: dict[str, Any] = {}
        self.tasks: dict[str, Any] = {}
        self.useless: dict[str, str] = {}
        self.damaged: list[str] = []
        for file in _json_files(path, below=False):
            self._sort(file)
        if not self.has_annotations():
            for file in _json_files(path, below=True):
                self._sort(file)
        if not self.has_annotations() and expected in (None, "via"):
            self.whole = [file for file in _csv_files(path) if _is_via_csv(file)]

    def _sort(self, file: str) -> None:
        """Loads a file and puts it where it belongs."""
        self.count += 1
        try:
            data = _load_json(file)
        except AnnotationError as error:
            self.useless[file] = str(error).removeprefix(f"{file}: ")
            self.damaged.append(file)
            return
        name = _format_of(data)
        if name is None:
            self.useless[file] = f"expected annotations. Received: {_content(data)}"
        elif self.expected not in (None, name, _kind_of(name)):
            self.useless[file] = f"expected a {self.expected} json. Received: a {name} one"
        elif _is_empty(data, name):
            self.useless[file] = (
                f"expected images with regions. Received: a {name} json without any"
            )
        elif name == "labelme":
            # A folder of photographs doesn't fit in memory, least of all as text.
            if isinstance(data, dict) and data.get("imageData"):
                data["imageData"] = True
            self.single[file] = data
        elif name == "labelstudio":
            self.tasks[file] = data
        else:
            self.whole.append(file)

    def has_annotations(self) -> bool:
        """Whether there are files of any of the formats."""
        return bool(self.whole or self.single or self.tasks)

    def problems(self) -> list[str]:
        """A text for each file that is no annotation."""
        return [
            f"{os.path.relpath(file, self.path)}: {reason}" for file, reason in self.useless.items()
        ]

    def warn_of_others(self) -> None:
        """Says what is not read beside the one file that holds all images."""
        beside = [*self.damaged, *self.single, *self.tasks]
        others = [os.path.relpath(file, self.path) for file in beside]
        if others:
            logger.warning(
                "%s: of the folder only %s is read. Beside it are %d json files that are damaged,"
                " LabelMe's or Label Studio's: %s",
                self.path,
                files.several(os.path.relpath(file, self.path) for file in self.whole),
                len(others),
                files.several(others),
            )


def _json_files(path: str, below: bool) -> list[str]:
    """The json files in a folder, or those in its sub-folders up to DEEPEST; sorted."""
    json_files = []
    too_deep = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if len(pathlib.Path(folder).relative_to(path).parts) == files.DEEPEST:
            too_deep += [os.path.join(folder, name) for name in folders]
            folders.clear()
        if below != (folder == path):
            for name in names:
                file = os.path.join(folder, name)
                if name.lower().endswith(".json") and os.path.isfile(file):
                    json_files.append(file)
        if not below:
            break
    if too_deep:
        logger.warning(
            "%s: folders more than %d below it are not looked into: %s",
            path,
            files.DEEPEST,
            files.several(too_deep),
        )
    return sorted(json_files)


def _csv_files(path: str) -> list[str]:
    """The csv files that lie in a folder, sorted."""
    files_in = [os.path.join(path, name) for name in sorted(os.listdir(path))]
    return [file for file in files_in if file.lower().endswith(".csv") and os.path.isfile(file)]


def _is_via_csv(path: str) -> bool:
    """Whether a csv is one of VIA."""
    try:
        return bool(_load_csv(path))
    except AnnotationError:
        return False


def _format_of(data: Any) -> str | None:
    """via, via3, labelme, labelstudio or coco; None for another content."""
    if isinstance(data, dict):
        if isinstance(data.get("shapes"), list) or {"shapes", "imagePath"} <= set(data):
            return "labelme"
        if _is_isat(data):
            return "labelme"
        if "images" in data and "annotations" in data:
            return "coco"
        if "_via_img_metadata" in data:
            return "via"
        if {"project", "file", "metadata", "view"} <= set(data):
            return "via3"
    if _is_eiseg(data):
        return "labelme"
    if _is_label_studio(data):
        return "labelstudio"
    if any(isinstance(entry, dict) and "filename" in entry for entry in _values(data)):
        return "via"
    return None


def _kind_of(name: str) -> str:
    """The reader of a format: VIA's versions have one."""
    if name == "via3":
        return "via"
    return name


def _is_empty(data: Any, name: str) -> bool:
    """Whether a VIA or COCO json has no image, as a project that was saved before any was added."""
    if name == "coco":
        return not data["images"]
    if name == "via3":
        return not data["metadata"]
    return name == "via" and isinstance(data, dict) and data.get("_via_img_metadata") == {}


def _values(data: Any) -> Iterable:
    """The entries of a list or an object."""
    if isinstance(data, dict):
        return data.values()
    if isinstance(data, list):
        return data
    return ()


# What tells jsons of other programs, all the names of one, and what they are.
_FOREIGN = (
    ({"image_id", "category_id", "score"}, "COCO's results, detections without their images"),
    ({"image", "annotations"}, "a json of CreateML or of Segment Anything's data"),
    ({"Labeled Data"}, "Labelbox's own json; export COCO there"),
    ({"data_row"}, "Labelbox's own json; export COCO there"),
    ({"name", "labels"}, "a json of BDD100K or Scalabel; convert it to COCO"),
    ({"objects", "size"}, "Supervisely's own json; export COCO there"),
    ({"classes", "tags"}, "Supervisely's meta.json; export COCO there"),
    (
        {"objects", "imgHeight"},
        "a json of Cityscapes, of which gtFine/..._instanceIds.png are read",
    ),
    ({"items", "categories"}, "Datumaro's own json; convert it to COCO"),
    ({"samples"}, "FiftyOne's own json; export COCODetectionDataset there"),
    ({"type", "features"}, "GeoJSON, whose places are none of an image"),
)


def _content(data: Any) -> str:
    """What a json holds, in a few words."""
    first = data
    if isinstance(data, list) and data:
        first = data[0]
    if isinstance(first, dict):
        for names, kind in _FOREIGN:
            if names <= set(first):
                return kind
    if isinstance(data, dict):
        return f"an object with {files.short(list(data)[:6])}"
    return f"a {type(data).__name__}"


def _read_file(
    path: Any,
    images: Any = None,
    attribute: str | None = None,
    label: str | None = None,
    keep_empty: bool = False,
    expected: str | None = None,
    root: Any = None,
    need_files: bool = True,
    crowds: str = "auto",
) -> Annotations:
    """Reads one file; AnnotationError if it is of another format than the expected one.

    root: the folder in which it was looked for.
    """
    path = os.fspath(path)
    if path.lower().endswith(".csv"):
        data = _load_csv(path)
    else:
        data = _load_json(path)
    name = _format_of(data)
    if expected and name and expected != _kind_of(name):
        raise AnnotationError(f"{path}: expected a {expected} json. Received: a {name} one")
    if name == "via":
        if not path.lower().endswith(".csv"):
            data = _load_json(path, _all_entries)
        return _read_via(_Reader(path, images, keep_empty, root), data, attribute, label)
    if name == "via3":
        return _read_via(_Reader(path, images, keep_empty, root), data, attribute, label)
    if name in ("coco", "labelme"):
        _warn_of_via_settings(path, attribute, label)
    if name == "coco":
        return _read_coco(_Reader(path, images, keep_empty, root, need_files), crowds)
    if name == "labelme":
        return _read_labelme(path, {path: data}, images, keep_empty, None, need_files)
    if name == "labelstudio":
        _warn_of_via_settings(path, attribute, None)
        return _read_label_studio(path, {path: data}, images, label, keep_empty, need_files)
    if isinstance(data, dict) and {"project", "file", "metadata"} <= set(data):
        raise AnnotationError(
            f"{path}: expected {FORMATS}. Received: a part of a project of VIA 3; export it as"
            " COCO's json there"
        )
    raise AnnotationError(f"{path}: expected {FORMATS}. Received: {_content(data)}")


############################################################
#  VIA
############################################################


def read_via(
    path: Any,
    images: Any = None,
    attribute: str | None = None,
    label: str | None = None,
    keep_empty: bool = False,
) -> Annotations:
    """Reads a VIA json, exported annotations or a project, or VIA 2's csv; see `read`.

    Polygons, rectangles, circles and ellipses are regions, a polyline is closed to a polygon; a
    point is reported and left out.
    """
    return _read_any(path, images, attribute, label, keep_empty, expected="via")


@dataclasses.dataclass
class _ViaImage:
    """An image of VIA.

    Attributes:
        name: the file's name.
        items: number and content of each region.
        others: more names that the file may have.
        embedded: the image itself, if the json holds it.
    """

    name: str
    items: list[tuple[Any, Any]]
    others: tuple[str, ...] = ()
    embedded: EmbeddedImage | None = None


def _read_via(
    reader: _Reader,
    data: Any,
    attribute: str | None,
    label: str | None,
) -> Annotations:
    """Reads VIA's json of any version, or what `_load_csv` gives."""
    if _format_of(data) == "via3":
        photos = _via3_images(reader, data)
    else:
        photos = _via_images(reader, data)
    if label is None:
        attribute = _attribute(reader.path, photos, attribute)
        if attribute is None:
            label = "object"  # nothing tells classes apart

    def region(item: Any) -> Region:
        name = label
        if not name:
            name = _via_name(item, attribute)
        shape = _via_shape(_field(item, "shape_attributes", dict, "a region"))
        return Region(name, shape, extra=_other_attributes(item, attribute))

    for photo in photos:
        regions = list(reader.regions(f"image {photo.name!r}", photo.items, region))
        entry = _Entry(photo.name, regions, None, photo.others, embedded=photo.embedded)
        reader.add(entry, annotated=bool(photo.items))
    if label:
        return reader.finish([label])
    return reader.finish()


def _all_entries(pairs: list[tuple[str, Any]]) -> dict:
    """An object of its pairs, with both images of one key, of which json keeps the last alone."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        entries = {}
        for number, (key, value) in enumerate(pairs):
            if key in entries and isinstance(value, dict) and "filename" in value:
                key = f"{key} ({number})"
            entries[key] = value
    return entries


def _via_images(reader: _Reader, data: Any) -> list[_ViaImage]:
    """The images of a VIA 1 or 2 json; those with problems are noted."""
    place: tuple = ()
    entries = data
    if isinstance(data, dict) and "_via_img_metadata" in data:
        place = ("_via_img_metadata",)
        entries = data["_via_img_metadata"]
    if isinstance(entries, list):
        entries = dict(enumerate(entries))
    if not isinstance(entries, dict):
        raise AnnotationError(
            f"{reader.path}: expected '_via_img_metadata' to be an object {{...}}. Received:"
            f" {files.short(entries)}"
        )
    folders = _via_folders(data)
    photos = []
    known: dict[str, list] = {}
    for key, entry in entries.items():
        try:
            photo = _via_image(entry, folders)
            if photo.items and photo.items in known.setdefault(photo.name, []):
                raise _Problem(
                    f"expected one entry for each image. Received: a second one of {photo.name!r}"
                )
            known.setdefault(photo.name, []).append(photo.items)
        except _Problem as error:
            reader.problem(f"image {key!r}", str(error))
            continue
        if entry.get("base64_img_data"):
            photo.embedded = EmbeddedImage(reader.path, (*place, key, "base64_img_data"))
        photos.append(photo)
    return photos


def _via_image(entry: Any, folders: list[str]) -> _ViaImage:
    """The image of an entry of VIA 1 or 2."""
    others = []
    if isinstance(entry, dict) and isinstance(entry.get("fileref"), str) and entry["fileref"]:
        others.append(entry["fileref"])
    if others and not entry.get("filename"):
        name = others[0]
    else:
        name = _field(entry, "filename", str, "an image")
    others += [f"{folder.rstrip('/')}/{name}" for folder in folders]
    regions: Any = []
    if entry.get("regions") is not None:
        regions = _field(entry, "regions", (list, dict), "an image")
    if isinstance(regions, dict):  # 1.x: {"0": region, ...}, 2.x: [region, ...]
        items = list(regions.items())
    else:
        items = list(enumerate(regions))
    return _ViaImage(name, items, tuple(others))


def _via_folders(data: Any) -> list[str]:
    """The folders or addresses that a project of VIA 2 has its images in."""
    settings: Any = data
    for key in ("_via_settings", "core"):
        if not isinstance(settings, dict):
            return []
        settings = settings.get(key)
    if not isinstance(settings, dict):
        return []
    folders = [settings.get("default_filepath")]
    if isinstance(settings.get("filepath"), dict):
        folders += settings["filepath"]
    return [folder for folder in folders if isinstance(folder, str) and folder]


# Numbers of VIA 3's shapes, and how many numbers follow; None: any.
_VIA3_SHAPES = {
    1: ("point", ("cx", "cy")),
    2: ("rect", ("x", "y", "width", "height")),
    3: ("circle", ("cx", "cy", "r")),
    4: ("ellipse", ("cx", "cy", "rx", "ry")),
    5: ("line", None),
    6: ("polyline", None),
    7: ("polygon", None),
    8: ("extreme rectangle", None),
    9: ("extreme circle", None),
}
_VIA3_IMAGE = 2
_VIA3_CHECKBOX = 2


def _via3_images(reader: _Reader, data: dict) -> list[_ViaImage]:
    """The images of a VIA 3 project, their regions as VIA 2 has them."""
    tables: dict[str, dict] = {}
    for name in ("file", "view", "metadata", "attribute"):
        table = data.get(name)
        if not isinstance(table, dict):
            raise AnnotationError(
                f"{reader.path}: expected {name!r} of a VIA 3 project to be an object {{...}}. "
                f"Received: {files.short(table)}"
            )
        tables[name] = table
    photos = {}
    for key, view in tables["view"].items():
        try:
            photos[key] = _via3_image(reader, view, tables["file"])
        except _Problem as error:
            reader.problem(f"view {key!r}", str(error))
    for key, item in tables["metadata"].items():
        xy = None
        if isinstance(item, dict):
            xy = item.get("xy")
        if xy == []:  # of the whole image, or of a part of a video
            continue
        photo = photos.get(str(_field_or_none(item, "vid")))
        if photo is not None:
            photo.items.append((key, _via3_region(item, xy, tables["attribute"])))
        elif str(_field_or_none(item, "vid")) not in tables["view"]:
            reader.problem(f"region {key!r}", f"expected its view. Received: {files.short(item)}")
    return list(photos.values())


def _field_or_none(item: Any, name: str) -> Any:
    if isinstance(item, dict):
        return item.get(name)
    return None


def _via3_image(reader: _Reader, view: Any, table: dict) -> _ViaImage:
    """The image of a view."""
    numbers = _field(view, "fid_list", list, "a view")
    if len(numbers) != 1:
        raise _Problem(f"expected a view of one image. Received: the files {files.short(numbers)}")
    number = str(numbers[0])
    file = table.get(number, {})
    name = _field(file, "fname", str, "a file")
    if str(file.get("type", _VIA3_IMAGE)) != str(_VIA3_IMAGE):
        raise _Problem(f"expected an image. Received: {name!r}, a video or a sound")
    photo = _ViaImage(name, [])
    source = file.get("src")
    if isinstance(source, str) and source.startswith("data:"):
        photo.embedded = EmbeddedImage(reader.path, ("file", number, "src"))
    elif isinstance(source, str) and source:
        photo.others = (source,)
    return photo


def _via3_region(item: dict, xy: Any, table: dict) -> dict:
    """A region as VIA 2 has it."""
    shape: Any = {"name": xy}
    if isinstance(xy, list) and xy and isinstance(xy[0], int) and xy[0] in _VIA3_SHAPES:
        name, fields = _VIA3_SHAPES[xy[0]]
        shape = {"name": name}
        if fields:
            shape.update(zip(fields, xy[1:]))
        else:
            shape.update(all_points_x=xy[1::2], all_points_y=xy[2::2])
    attributes = {}
    values = item.get("av")
    if isinstance(values, dict):
        for key, value in values.items():
            attribute = table.get(key)
            name = _field_or_none(attribute, "aname") or key
            attributes[str(name)] = _via3_value(attribute, value)
    return {"shape_attributes": shape, "region_attributes": attributes}


def _via3_value(attribute: Any, value: Any) -> Any:
    """A region's value of an attribute: of a choice the text, of check boxes {text: True}."""
    options = _field_or_none(attribute, "options")
    if not isinstance(options, dict) or not options:
        return value
    if str(attribute.get("type")) == str(_VIA3_CHECKBOX) and isinstance(value, str):
        return {str(options.get(key, key)): True for key in value.split(",") if key}
    if isinstance(value, (str, int)):
        return options.get(str(value), value)
    return value


_CSV_COLUMNS = ("filename", "region_shape_attributes", "region_attributes")


def _load_csv(path: str) -> dict:
    """What VIA 1 and 2 export as csv, in the layout of their json."""
    if not os.path.exists(path):
        raise AnnotationError(f"No annotation file or folder {path}")
    try:
        text = files.read_text(path)
        # A spreadsheet program saves it with its own separator.
        separator = max(",;\t", key=text.partition("\n")[0].count)
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    except csv.Error as error:
        raise AnnotationError(f"{path}: expected VIA's csv. Received: {error}") from error
    except ValueError as error:
        raise AnnotationError(str(error)) from error
    header = []
    if rows:
        header = [name.strip().lstrip("#") for name in rows[0]]
    if not set(_CSV_COLUMNS) <= set(header):
        raise AnnotationError(
            f"{path}: expected VIA 2's csv with the columns {', '.join(_CSV_COLUMNS)}. Received:"
            f" {files.short(header)}"
        )
    entries: dict[str, dict] = {}
    for row in rows[1:]:
        cells = dict(zip(header, row))
        name = cells.get("filename", "")
        if not name:
            continue
        entry = entries.setdefault(name, {"filename": name, "regions": []})
        shape = _cell(cells.get("region_shape_attributes"))
        if shape != {}:  # an image without regions has one row
            attributes = _cell(cells.get("region_attributes"))
            entry["regions"].append({"shape_attributes": shape, "region_attributes": attributes})
    return entries


def _cell(text: str | None) -> Any:
    """The json in a cell of a csv; the text where it is none."""
    try:
        return json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text


def _attribute(
    path: str,
    photos: list[_ViaImage],
    attribute: str | None,
) -> str | None:
    """The region attribute that holds the class: the one asked for, or the only one there is.

    One that is empty in all regions holds no class.
    """
    values: dict[str, collections.Counter] = {}
    filled = set()
    for photo in photos:
        for _, item in photo.items:
            for key, value in _region_attributes(item).items():
                values.setdefault(key, collections.Counter())[files.short(value)] += 1
                if value not in (None, "", {}, []):
                    filled.add(key)
    known = "none"
    if values:
        known = "; ".join(
            f"{key} ({', '.join(list(counts)[:5])})" for key, counts in values.items()
        )
    if attribute is not None and attribute not in values:
        raise AnnotationError(
            f"{path}: expected the class in a region attribute of the file: {known}. "
            f"Received: {attribute!r}"
        )
    if attribute is not None:
        return attribute
    if len(values) > 1 and len(filled) != 1:
        raise AnnotationError(
            f"{path}: expected one region attribute, the class; of several name the one. "
            f"Received: {known}"
        )
    return next(iter(filled or values), None)


def _region_attributes(item: Any) -> dict:
    """The attributes of a region, none of a broken one."""
    attributes = _field_or_none(item, "region_attributes")
    if not isinstance(attributes, dict):
        return {}
    return attributes


def _other_attributes(item: Any, attribute: str | None) -> dict | None:
    """The attributes of a region that have a value, without that of its class; None for none."""
    attributes = {
        name: value
        for name, value in _region_attributes(item).items()
        if name != attribute and value not in (None, "", {}, [])
    }
    return attributes or None


def _via_name(item: Any, attribute: str | None) -> str:
    """The class of a region."""
    value = _field(item, "region_attributes", dict, "a region").get(attribute)
    if isinstance(value, dict):  # check boxes: {"red": true}
        value = [name for name, checked in value.items() if checked and checked != "false"]
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return _class_name(value, f"one class in the attribute {attribute!r}")


def _via_shape(shape: dict) -> Shape:
    """The shape of a region's shape_attributes."""
    kind = shape.get("name")
    if kind in ("polygon", "polyline"):
        return _via_polygon(shape, f"a {kind}")
    if kind == "rect":
        size = ("width", "height")
        x, y, width, height = _numbers(shape, ("x", "y", *size), positive=size)
        return Rectangle(x, y, x + width, y + height)
    if kind == "extreme rectangle":
        points = _via_points(shape, "a rectangle")
        return Rectangle(*map(min, zip(*points)), *map(max, zip(*points)))
    if kind == "circle":
        x, y, radius = _numbers(shape, ("cx", "cy", "r"), positive=("r",))
        return Ellipse(x, y, radius, radius)
    if kind == "ellipse":
        shape = {"theta": 0.0, **shape}  # it came with 2.0.6; files before are upright
        names = ("cx", "cy", "rx", "ry", "theta")
        x, y, radius_x, radius_y, angle = _numbers(shape, names, positive=("rx", "ry"))
        return Ellipse(x, y, radius_x, radius_y, angle)
    raise _Problem(
        "expected a polygon, rect, circle, ellipse or polyline, which enclose pixels. "
        f"Received: {files.short(kind)}"
    )


def _via_polygon(shape: dict, subject: str) -> Polygons:
    return Polygons([_outline(_via_points(shape, subject), subject)])


def _via_points(shape: dict, subject: str) -> list[list]:
    """The points [x, y] of a shape, as they stand."""
    xs = _field(shape, "all_points_x", list, subject)
    ys = _field(shape, "all_points_y", list, subject)
    if len(xs) != len(ys):
        raise _Problem(
            f"expected as many all_points_x as all_points_y. Received: {len(xs)} and {len(ys)}"
        )
    return [[x, y] for x, y in zip(xs, ys)]


############################################################
#  LabelMe
############################################################


def read_labelme(
    path: Any,
    images: Any = None,
    keep_empty: bool = False,
) -> Annotations:
    """Reads LabelMe's json of one image, or those of a folder; see `read`.

    Polygons, rectangles, circles and masks are regions, a line strip is closed to a polygon; points
    and lines are reported and left out, and so is what is labelled __ignore__ or _background_, as
    LabelMe's own converters do. Shapes with one label and one group_id are the parts of one object.
    An image without a file is taken from the json's imageData.

    Files of programs that write the same layout, such as X-AnyLabeling, ISAT's and EISeg's are read
    too.
    """
    return _read_any(path, images, keep_empty=keep_empty, expected="labelme")


def _read_labelme(
    path: str,
    loaded: dict[str, Any],
    images: Any,
    keep_empty: bool,
    useless: dict[str, str] | None = None,
    need_files: bool = True,
) -> Annotations:
    """loaded: {file: its content}; useless: {file: why it is no annotation}."""
    reader = _Reader(path, images, keep_empty, need_files=need_files)
    start = path
    if not os.path.isdir(path):
        start = os.path.dirname(path)
    for file, reason in (useless or {}).items():
        reader.problem(f"file {os.path.relpath(file, start)}", reason)
    for file, data in loaded.items():
        relative = os.path.relpath(file, start or ".")
        place = f"file {relative}"
        if _is_isat(data):
            data = _labelme_of_isat(data)
        elif _is_eiseg(data):
            data = _labelme_of_eiseg(data)
        shapes: list = []
        try:
            entry = _labelme_entry(file, os.path.dirname(relative), data)
            if data.get("shapes") is not None:
                shapes = _field(data, "shapes", list, "an image")
        except _Problem as error:
            reader.problem(place, str(error))
            continue
        place = f"{place}, image {data.get('imagePath')!r}"
        regions = reader.regions(place, enumerate(shapes), _labelme_region)
        entry.regions = _joined(regions, shapes)
        reader.add(entry, annotated=bool(shapes))
    return reader.finish()


def _labelme_entry(file: str, folder: str, data: dict) -> _Entry:
    """The image of a file, without its regions. folder: the json's, relative to the one read."""
    stem = os.path.splitext(os.path.basename(file))[0]
    name = data.get("imagePath")
    if name is None or name == "":
        name = stem
        if not files.is_image_name(stem):  # some write a.jpg.json
            name = f"{stem}.jpg"
    name = _field({**data, "imagePath": name}, "imagePath", str, "an image")
    beside = stem + os.path.splitext(name)[1]
    entry = _Entry(name, [], _given_size(data.get("imageHeight"), data.get("imageWidth")))
    entry.beside = os.path.join(folder, beside)
    if folder:
        entry.name = os.path.join(folder, name)
        entry.others = (name,)
    if data.get("imageData"):
        entry.embedded = EmbeddedImage(file, ("imageData",))
    return entry


@dataclasses.dataclass
class Union(_Drawn):
    """Several shapes of one object."""

    shapes: list[_Drawn]

    def crop(self, height: int, width: int) -> Crop:
        """What is drawn in an image of that size; what lies outside is cut off."""
        return _joined_crops([shape.crop(height, width) for shape in self.shapes])


def _joined(regions: Iterable[Region], shapes: list[dict]) -> list[Region]:
    """The regions, those of one label and one group_id joined to one; shapes: of the file."""
    groups: dict[Any, list[Region]] = {}
    for region in regions:
        group_id = shapes[region.number].get("group_id")
        key = region.number
        if group_id is not None and group_id != "":
            key = (region.name, repr(group_id))
        groups.setdefault(key, []).append(region)
    objects = []
    for first, *others in groups.values():
        if others:
            parts: Any = [first.shape, *(region.shape for region in others)]
            first = dataclasses.replace(first, shape=Union(parts))
        objects.append(first)
    return objects


# Labels that LabelMe's own converters know as none of a class, and what they are.
_NO_CLASSES = {
    "__ignore__": "what is to be ignored",
    "_background_": "the background",
}
# Shapes whose points are an outline: LabelMe's, then X-AnyLabeling's.
_OUTLINES = ("polygon", "linestrip", "oriented_rectangle", "rotation", "quadrilateral")


def _labelme_region(item: Any) -> Region:
    """The region of an entry of LabelMe's shapes."""
    if _field_or_none(item, "label") is None:
        _field(item, "label", str, "a shape")
    name = _class_name(item["label"], "a label")
    if name in _NO_CLASSES:
        raise _Problem(
            f"expected an object's label. Received: {name!r}, {_NO_CLASSES[name]} in LabelMe"
        )
    crowd = item.get("iscrowd") in (True, 1, "1")
    return Region(name, _labelme_shape(item), crowd, extra=_labelme_extra(item))


def _labelme_extra(item: dict) -> dict | None:
    """The attributes, flags and description of a shape, those with a value; None for none."""
    extra: dict = {}
    for name in ("attributes", "flags"):
        if isinstance(item.get(name), dict):
            extra.update({key: value for key, value in item[name].items() if value})
    if item.get("description"):
        extra["description"] = item["description"]
    return extra or None


def _labelme_shape(item: dict) -> Shape:
    """The shape of an entry of LabelMe's shapes."""
    kind = item.get("shape_type") or "polygon"
    if isinstance(kind, str):
        kind = kind.lower()
    points = item.get("points")
    if kind in _OUTLINES:
        return Polygons([_outline(points, f"a {kind}")], exact=True)
    if kind not in ("rectangle", "circle", "mask"):
        raise _Problem(
            "expected a polygon, rectangle, circle, mask, linestrip or oriented_rectangle, which"
            f" enclose pixels. Received: {files.short(kind)}"
        )
    read = _points(points, f"a {kind} of 2 points")
    if kind == "rectangle" and len(read) in (4, 5):  # X-AnyLabeling's corners
        return _labelme_corners(read)
    if len(read) != 2:
        raise _Problem(
            f"expected a {kind} of 2 points of two numbers. Received: {files.short(points)}"
        )
    if kind == "circle":
        return _labelme_circle(read)
    (x1, y1), (x2, y2) = read
    left = min(x1, x2)
    top = min(y1, y2)
    if kind == "rectangle":
        return Rectangle(left, top, max(x1, x2), max(y1, y2))
    mask = _PngMask(item.get("mask"), round(left), round(top))
    mask.read()
    return mask


def _labelme_corners(points: list) -> Shape:
    """A rectangle of its four corners, in any order; another four-sided figure as it is."""
    xs = [x for x, _ in points]
    ys = [y for _, y in points]
    upright = set(xs) == {min(xs), max(xs)} and set(ys) == {min(ys), max(ys)}
    if upright:
        return Rectangle(min(xs), min(ys), max(xs), max(ys))
    return Polygons([points], exact=True)


def _labelme_circle(points: list) -> Ellipse:
    """A circle of its middle and a point on its rim."""
    (x, y), (rim_x, rim_y) = points
    radius = math.hypot(rim_x - x, rim_y - y)
    if not radius:
        raise _Problem(
            f"expected a circle's middle and a point of its rim. Received: {files.short(points)}"
        )
    return Ellipse(x - 0.5, y - 0.5, radius, radius)


@dataclasses.dataclass
class _PngMask(_Drawn):
    """A mask as a PNG in base64, kept as such: decoded, thousands don't fit in memory.

    Its first pixel lies at (x, y).
    """

    text: Any
    x: int
    y: int

    def read(self) -> np.ndarray:
        """[h, w] bool; _Problem for what is no PNG."""
        from PIL import Image

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(io.BytesIO(_from_base64(self.text))) as image:
                    return np.asarray(image.convert("L")) > 0
        except Exception as error:  # whatever Pillow raises for a damaged file
            raise _Problem(
                f"expected a mask as a PNG in base64. Received: {files.short(self.text)} ({error})"
            ) from error

    def crop(self, height: int, width: int) -> Crop:
        """What is drawn in an image of that size; what lies outside is cut off."""
        return Bitmap(self.read(), self.x, self.y).crop(height, width)


# ---- ISAT and EISeg ------------------------------------------------------------------------------


def _is_isat(data: Any) -> bool:
    """Whether a json is ISAT's of one image."""
    info = _field_or_none(data, "info")
    return isinstance(info, dict) and "name" in info and isinstance(data.get("objects"), list)


def _labelme_of_isat(data: dict) -> dict:
    """ISAT's json in LabelMe's layout."""
    shapes = []
    for item in data["objects"]:
        shape = item
        if isinstance(item, dict):
            shape = {
                "label": item.get("category"),
                "points": item.get("segmentation"),
                "group_id": item.get("group") or None,
                "iscrowd": item.get("iscrowd"),
            }
        shapes.append(shape)
    info = data["info"]
    return {
        "imagePath": info.get("name"),
        "imageHeight": info.get("height"),
        "imageWidth": info.get("width"),
        "shapes": shapes,
    }


def _is_eiseg(data: Any) -> bool:
    """Whether a json is EISeg's own of one image: a list of named outlines."""
    return (
        isinstance(data, list)
        and bool(data)
        and all(isinstance(item, dict) and {"name", "points"} <= set(item) for item in data)
    )


def _labelme_of_eiseg(data: list) -> dict:
    """EISeg's json in LabelMe's layout; the image has the json's name."""
    shapes = [{"label": item["name"], "points": item["points"]} for item in data]
    return {"imagePath": None, "shapes": shapes}


############################################################
#  COCO
############################################################


def read_coco(
    path: Any,
    images: Any = None,
    keep_empty: bool = False,
) -> Annotations:
    """Reads an `instances_*.json` in COCO's layout; see `read`. Crowds are kept as such.

    Categories of one name, as Roboflow writes for the root of its categories, are one class.
    """
    return _read_any(path, images, keep_empty=keep_empty, expected="coco")


def _read_coco(reader: _Reader, crowds: str) -> Annotations:
    try:
        data = coco.read_annotations(reader.path, crowds)
    except ValueError as error:
        raise AnnotationError(str(error)) from error
    reader.read_problems = [_printable(text) for text in data.problems]
    reader.twins_are_said = True
    names = _coco_names(reader.path, data)
    for image_id, image in data.imgs.items():
        items = data.imgToAnns.get(image_id, [])
        regions = []
        for item in items:
            name = names[item["category_id"]]
            crowd = bool(item["iscrowd"])
            regions.append(Region(name, CocoSegmentation(item), crowd, item["id"]))
        size = _given_size(image.get("height"), image.get("width"))
        reader.add(_Entry(image["file_name"], regions, size, extra=image), annotated=bool(items))
    annotated = reader.finish(
        list(dict.fromkeys(names[category_id] for category_id in sorted(names)))
    )
    annotated.categories = [data.cats[category_id] for category_id in sorted(names)]
    return annotated


def _coco_names(path: str, data: Any) -> dict[Any, str]:
    """{category id: name}, of several with one name those that have annotations.

    data: pycocotools.coco.COCO.
    """
    names = {category_id: category["name"] for category_id, category in data.cats.items()}
    counts = collections.Counter(names.values())
    twice = [name for name, count in counts.items() if count > 1]
    if not twice:
        return names
    used = {item["category_id"] for item in data.anns.values()}
    unused = [name for name in twice if not any(names[number] == name for number in used)]
    if unused:
        raise AnnotationError(
            f"{path}: expected each category's name once. Received:"
            f" {files.several(map(repr, unused))} twice"
        )
    kept = {
        category_id: name
        for category_id, name in names.items()
        if category_id in used or name not in twice
    }
    joined = [name for name in twice if list(kept.values()).count(name) > 1]
    if joined:
        logger.warning(
            "%s: categories of one name are one class: %s",
            path,
            files.several(map(repr, joined)),
        )
    return kept


############################################################
#  Label Studio
############################################################


def read_label_studio(
    path: Any,
    images: Any = None,
    label: str | None = None,
    keep_empty: bool = False,
) -> Annotations:
    """Reads Label Studio's own export, JSON or JSON-MIN, or a folder of its tasks; see `read`.

    Polygons, rectangles, ellipses and brush masks are regions; other shapes are reported and left
    out. Of several annotations of a task the one that is marked as ground truth is read, else the
    newest; predictions are not. A task that nobody has annotated is no background: it is left out.
    """
    return _read_any(path, images, None, label, keep_empty, expected="labelstudio")


@dataclasses.dataclass
class _Task:
    """A task of Label Studio.

    Attributes:
        place: what it is called in messages.
        file: the json.
        keys: those that lead to `fields` in it.
        fields: {name: value} of its data, among them the image's address.
        annotations: those of all annotators, each with its "result".
    """

    place: str
    file: str
    keys: tuple
    fields: dict
    annotations: list


def _is_task(data: Any) -> bool:
    """Whether an object is a task of Label Studio, or an annotation as its storages have them."""
    if isinstance(_field_or_none(data, "data"), dict):
        return any(name in data for name in ("annotations", "completions", "predictions"))
    inner = _field_or_none(_field_or_none(data, "task"), "data")
    return isinstance(inner, dict) and isinstance(data.get("result"), list)


def _is_minimal_task(data: Any) -> bool:
    """Whether an object is an annotation of Label Studio's JSON-MIN."""
    return isinstance(data, dict) and {"annotation_id", "annotator"} <= set(data)


def _is_label_studio(data: Any) -> bool:
    """Whether a json is Label Studio's own."""
    if not isinstance(data, list):
        return _is_task(data)
    return any(_is_task(item) or _is_minimal_task(item) for item in data)


def _read_label_studio(
    path: str,
    loaded: dict[str, Any],
    images: Any,
    label: str | None,
    keep_empty: bool,
    need_files: bool = True,
) -> Annotations:
    """loaded: {file: its content}."""
    reader = _Reader(path, images, keep_empty, need_files=need_files)
    waiting = 0
    pages: list[tuple[str, _Entry, list[list]]] = []
    for task in _tasks_of(reader, loaded):
        try:
            annotation = _annotation_of(reader, task)
            if annotation is None:
                waiting += 1
                continue
            regions = _regions_of(_field(annotation, "result", list, "an annotation"))
            for number, entry in enumerate(_pages_of(task)):
                own = [region for region in regions if _page_number(region) == number]
                pages.append((task.place, entry, own))
        except _Problem as error:
            reader.problem(task.place, str(error))
    if waiting:
        logger.warning("%s: %d tasks that nobody has annotated are left out", path, waiting)
    if label is None and not any(_labels(region) for _, _, own in pages for region in own):
        label = "object"  # nothing tells classes apart
    for place, entry, own in pages:
        entry.size = _task_size(reader, entry, own)
        read = functools.partial(_task_region, size=entry.size, label=label)
        numbered = [(region[0].get("id") or i, region) for i, region in enumerate(own)]
        entry.regions = list(reader.regions(f"{place}, image {entry.name!r}", numbered, read))
        reader.add(entry, annotated=bool(own))
    if label is not None:
        return reader.finish([label])
    return reader.finish()


def _tasks_of(reader: _Reader, loaded: dict[str, Any]) -> list[_Task]:
    """The tasks of jsons, the annotations of one put together."""
    tasks: dict[Any, _Task] = {}
    for file, data in loaded.items():
        items: list[tuple[tuple, Any]] = [((), data)]
        if isinstance(data, list):
            items = [((i,), item) for i, item in enumerate(data)]
        for keys, item in items:
            place = f"task {_field_or_none(item, 'id')!r}"
            if _is_minimal_task(item):
                fields = item
                annotations = [{**item, "result": _results_of_minimal(item)}]
            elif _is_task(item) and "data" in item:
                fields = item["data"]
                keys = (*keys, "data")
                annotations = item.get("annotations") or item.get("completions") or []
            elif _is_task(item):
                place = f"task {item['task'].get('id')!r}"
                fields = item["task"]["data"]
                keys = (*keys, "task", "data")
                annotations = [item]
            else:
                reader.problem(place, f"expected a task. Received: {files.short(item)}")
                continue
            task = _Task(place, file, keys, fields, [])
            addresses = tuple(address for address, _ in _addresses(fields))
            task = tasks.setdefault((place, addresses), task)
            if isinstance(annotations, list):
                task.annotations += annotations
    return list(tasks.values())


def _results_of_minimal(item: dict) -> list[dict]:
    """The shapes of an annotation of JSON-MIN, as JSON's results have them."""
    results = []
    for name, values in item.items():
        if not isinstance(values, list):
            continue
        for value in values:
            if _field_or_none(value, "original_width") is not None:
                results.append({**value, "from_name": name, "value": value})
    return results


def _annotation_of(reader: _Reader, task: _Task) -> dict | None:
    """The annotation of a task that is read; None where nobody has annotated it."""
    done = [
        annotation
        for annotation in task.annotations
        if isinstance(annotation, dict)
        and not annotation.get("was_cancelled")
        and not annotation.get("skipped")
    ]
    if not done:
        return None

    def rank(annotation: dict) -> tuple[bool, str]:
        when = annotation.get("updated_at") or annotation.get("created_at") or ""
        return bool(annotation.get("ground_truth")), str(when)

    best = max(map(rank, done))
    chosen = [annotation for annotation in done if rank(annotation) == best][-1]
    if len(done) > 1:
        why = "newest"
        if best[0]:
            why = "ground truth"
        reader.problem(
            task.place,
            f"expected one annotation. Received: {len(done)}, of which the {why} is read",
        )
    return chosen


# Names that the image mostly has among a task's data.
_IMAGE_FIELDS = ("image", "img", "photo", "picture", "images")


def _addresses(fields: dict) -> list[tuple[str, tuple]]:
    """(address, keys that lead to it) of the images of a task's data; of several fields one's."""
    candidates = {}
    for name, value in fields.items():
        pages: list[tuple[Any, tuple]] = [(value, (name,))]
        if isinstance(value, list):
            pages = [(page, (name, i)) for i, page in enumerate(value)]
        if pages and all(_is_address(page) for page, _ in pages):
            candidates[name] = pages
    for name in (*_IMAGE_FIELDS, *candidates):
        if name in candidates:
            return candidates[name]
    for name in _IMAGE_FIELDS:
        if isinstance(fields.get(name), str):  # an address that does not end as an image's name
            return [(fields[name], (name,))]
    return []


def _is_address(value: Any) -> bool:
    """Whether a value of a task's data is an image, or the address of one."""
    if not isinstance(value, str):
        return False
    return value.startswith("data:image/") or files.means_image(value)


def _pages_of(task: _Task) -> list[_Entry]:
    """The images of a task, without their regions."""
    pages = []
    for address, keys in _addresses(task.fields):
        if address.startswith("data:"):
            embedded = EmbeddedImage(task.file, (*task.keys, *keys))
            suffix = re.match(r"data:image/(\w+)", address)
            name = f"{task.place}.{(suffix or ['', 'png'])[1]}"
            pages.append(_Entry(name, [], embedded=embedded))
        else:
            name = _name_of_address(address)
            others = (name.rpartition("/")[2], address)
            pages.append(_Entry(name, [], others=others))
    if not pages:
        raise _Problem(f"expected an image in its data. Received: {files.short(task.fields)}")
    return pages


def _name_of_address(address: str) -> str:
    """The path of an image in Label Studio's upload folder, its local files or a store."""
    name = address
    if "://" in address or address.startswith("/"):
        parts = urllib.parse.urlsplit(address)
        name = urllib.parse.unquote(parts.path)
        local = urllib.parse.parse_qs(parts.query).get("d")
        if local:
            name = local[0]
    name = name.lstrip("/")
    for folder in ("data/upload/", "data/local-files/"):
        name = name.removeprefix(folder)
    return name or address


def _regions_of(results: list) -> list[list]:
    """The results of each region: a shape and its class may be two of one id."""
    regions: dict[Any, list] = {}
    for place, result in enumerate(results):
        key: Any = place
        if not isinstance(result, dict):
            regions[key] = [{"value": result}]
            continue
        value = _field_or_none(result, "value")
        if result.get("id") is not None:
            key = ("id", result["id"], result.get("item_index"))
        elif isinstance(value, dict):
            key = repr([value.get(name) for name in _GEOMETRY])
        regions.setdefault(key, []).append(result)
    return [region for region in regions.values() if _is_region(region)]


# What tells that a result is drawn, and where.
_GEOMETRY = (
    "x y width height rotation radiusX radiusY points vertices rle format imageDataURL".split()
)


def _is_region(region: list) -> bool:
    """Whether results are of something drawn, and no choice or text of the image as a whole."""
    return any(
        not isinstance(result["value"], dict) or not set(result["value"]).isdisjoint(_GEOMETRY)
        for result in region
        if "value" in result
    )


def _page_number(region: list) -> int:
    """Which of a task's images a region is drawn on."""
    number = region[0].get("item_index")
    if isinstance(number, int):
        return number
    return 0


def _labels(region: list) -> list[str | int | float]:
    """The classes of a region, texts or numbers."""
    classes: list = []
    for result in region:
        value = result.get("value")
        if isinstance(value, dict):
            for name, labels in value.items():
                if name.endswith("labels") and isinstance(labels, list):
                    classes += labels
    return list(dict.fromkeys(label for label in classes if isinstance(label, (str, int, float))))


def _task_size(reader: _Reader, entry: _Entry, regions: list[list]) -> tuple[int, int] | None:
    """(height, width) in which an image's regions are; where none says it, its file's."""
    for result in (result for region in regions for result in region):
        size = _given_size(result.get("original_height"), result.get("original_width"))
        if size is not None:
            return size
    others = {entry.name: entry.others}
    path = files.find_images([entry.name], reader.folders, others).paths.get(entry.name)
    try:
        if entry.embedded is not None:
            return utils.image_sizes(io.BytesIO(entry.embedded.content()))[0]
        if path is not None:
            return utils.image_sizes(path)[0]
    except (OSError, ValueError):  # said when the image itself is looked at
        pass
    return None


def _task_region(region: list, size: tuple[int, int] | None, label: str | None) -> Region:
    """A region of its results. size: (height, width) of the image."""
    name = label
    if name is None:
        labels = _labels(region)
        value: Any = labels
        if len(labels) == 1:
            value = labels[0]
        name = _class_name(value, "a region of one label")
    if size is None:
        raise _Problem(
            "expected original_width and original_height, or the image's file, for shapes are"
            f" shares of its sides. Received: {files.short(region[0])}"
        )
    for result in region:
        own = _given_size(result.get("original_height"), result.get("original_width"))
        if own not in (None, size):
            raise _Problem(
                f"expected the size of the image's other regions, {size}. Received: {own}"
            )
    extra = _task_extra(region)
    shape = _task_shape(region, *size)
    if isinstance(shape, CocoSegmentation) and extra:
        shape.annotation["attributes"] = extra
    return Region(name, shape, extra=extra)


def _task_extra(region: list) -> dict | None:
    """What was answered about a region beside its class: choices, texts, numbers."""
    answers = {}
    for result in region:
        value = result.get("value")
        kind = result.get("type")
        if not isinstance(value, dict) or not isinstance(kind, str):
            continue
        if kind.endswith("labels") or kind in _GEOMETRY:
            continue
        answer = value.get(kind)
        if isinstance(answer, list) and len(answer) == 1:
            answer = answer[0]
        if answer not in (None, "", [], {}):
            answers[str(result.get("from_name") or kind)] = answer
    return answers or None


def _task_shape(region: list, height: int, width: int) -> Shape:
    """What a region's results draw, in pixels of the image."""
    shape: Any = None
    for result in region:
        value = result.get("value")
        if isinstance(value, dict) and not set(value).isdisjoint(_GEOMETRY):
            shape = value
            break
    if shape is None:
        raise _Problem(f"expected a shape. Received: {files.short(region[0].get('value'))}")
    if "rle" in shape:
        return _brush(shape["rle"], height, width)
    if "imageDataURL" in shape:
        return _bitmask(shape["imageDataURL"], height, width)
    if "points" in shape:
        points = _outline(shape["points"], "a polygon")
        return Polygons([[[x * width / 100, y * height / 100] for x, y in points]], exact=True)
    if "radiusX" in shape:
        return _task_ellipse(shape, height, width)
    if {"x", "y", "width", "height"} <= set(shape):
        return _task_rectangle(shape, height, width)
    raise _Problem(
        "expected a polygon, a rectangle, an ellipse or a brush mask, which enclose pixels."
        f" Received: {files.short(shape)}"
    )


def _brush(rle: Any, height: int, width: int) -> CocoSegmentation:
    """A brush mask, kept by its run lengths: thousands of masks don't fit in memory."""
    try:
        mask = unpack_brush(rle, height, width)
    except SegmentationError as error:
        raise _Problem(str(error)) from error
    return CocoSegmentation({"segmentation": encode(mask[..., None])[0]})


def _bitmask(text: Any, height: int, width: int) -> CocoSegmentation:
    """A mask that is a picture of the image's size in base64: what is opaque, or not black."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(_from_base64(text))) as image:
            band = "L"
            if "A" in image.getbands() or "transparency" in image.info:
                band = "A"
            mask = np.asarray(image.convert({"L": "L", "A": "RGBA"}[band]).getchannel(band)) > 0
    except Exception as error:  # whatever Pillow raises for a damaged file
        raise _Problem(
            f"expected a mask as a picture in base64. Received: {files.short(text)} ({error})"
        ) from error
    if mask.shape != (height, width):
        raise _Problem(f"expected a mask of {(height, width)} pixels. Received: {mask.shape}")
    return CocoSegmentation({"segmentation": encode(mask[..., None])[0]})


def _task_ellipse(shape: dict, height: int, width: int) -> Ellipse:
    """An ellipse; its radii are shares of the image's width and height."""
    x, y, radius_x, radius_y = _numbers(
        shape, ("x", "y", "radiusX", "radiusY"), positive=("radiusX", "radiusY")
    )
    return Ellipse(
        x * width / 100 - 0.5,
        y * height / 100 - 0.5,
        radius_x * width / 100,
        radius_y * height / 100,
        math.radians(_number(shape.get("rotation")) or 0),
    )


def _task_rectangle(shape: dict, height: int, width: int) -> Shape:
    """A rectangle; one that is turned, about its first corner, is a polygon."""
    values = _numbers(shape, ("x", "y", "width", "height"), positive=("width", "height"))
    x, w = (share * width / 100 for share in values[::2])
    y, h = (share * height / 100 for share in values[1::2])
    angle = math.radians(_number(shape.get("rotation")) or 0)
    if not angle % math.tau:
        return Rectangle(x, y, x + w, y + h)
    cos = math.cos(angle)
    sin = math.sin(angle)
    corners = [(0, 0), (w, 0), (w, h), (0, h)]
    turned = [[x + dx * cos - dy * sin, y + dx * sin + dy * cos] for dx, dy in corners]
    return Polygons([turned], exact=True)


############################################################
#  CVAT
############################################################


def read_cvat(
    path: Any, images: Any = None, keep_empty: bool = False, need_files: bool = True
) -> Annotations:
    """Reads an annotations.xml of CVAT's own formats for images and for videos; see `read`.

    Polygons, boxes, ellipses and masks are regions, a polyline is closed to a polygon; other shapes
    are reported and left out. Shapes with one label and one group_id are the parts of one object,
    as in CVAT's exports as COCO. Of a video each frame is an image, the file frame_000012.png (or
    .jpg) as CVAT writes it; a track's shape is an object of its frame unless it is `outside`.

    Raises:
        AnnotationError: no such file, another xml (of Pascal VOC), or nothing that can be used.
    """
    path = os.fspath(path)
    root = _xml_root(path)
    if not _is_cvat(root):
        raise AnnotationError(
            f"{path}: expected a json, or CVAT's xml. Received: {_what_xml(root)}"
        )
    reader = _Reader(path, images, keep_empty, need_files=need_files)
    for number, element in enumerate(root.iter("image")):
        name = element.get("name")
        if not name:
            reader.problem(f"image {number}", "expected its name. Received: none")
            continue
        shapes = [child for child in element if child.tag != "tag"]  # which is of the whole image
        size = _given_size(element.get("height"), element.get("width"))
        _add_cvat_image(reader, name, size, shapes)
    if root.find("track") is not None:
        _add_cvat_frames(reader, root, keep_empty)
    return reader.finish()


def _add_cvat_image(reader: _Reader, name: str, size: tuple[int, int] | None, shapes: list) -> None:
    """Adds an image with the regions of its elements."""
    entry = _Entry(name, [], size)
    regions = reader.regions(f"image {name!r}", enumerate(shapes), _cvat_region)
    entry.regions = _joined(regions, [_grouped(shape) for shape in shapes])
    reader.add(entry, annotated=bool(shapes))


def _add_cvat_frames(reader: _Reader, root: Any, keep_empty: bool) -> None:
    """Adds the frames of a video: those that tracks have shapes in, and all with `keep_empty`."""
    frames: dict[int, list] = {}
    step = 1
    match = re.search(r"step\s*=\s*([1-9]\d*)", root.findtext(".//frame_filter") or "")
    if match is not None:
        step = int(match[1])
    first, last = (root.findtext(f".//{name}") or "" for name in ("start_frame", "stop_frame"))
    if keep_empty and first.isdecimal() and last.isdecimal():
        frames = {number: [] for number in range(int(first), int(last) + 1, step)}
    with_gaps = []
    for track in root.iter("track"):
        place = f"track {track.get('id')}"
        before = None
        for shape in track:
            number = shape.get("frame") or ""
            if not number.isdecimal():
                reader.problem(place, f"expected a frame's number. Received: {number!r}")
                continue
            shapes = frames.setdefault(int(number), [])
            if before is not None and int(number) > before + step and place not in with_gaps:
                with_gaps.append(place)
            before = None
            if shape.get("outside") != "1":
                before = int(number)
                for name in ("label", "group_id"):
                    if track.get(name) is not None:
                        shape.set(name, track.get(name))
                shapes.append(shape)
    if with_gaps:
        logger.warning(
            "%s: %d tracks have shapes of some frames alone, and the frames between them lack these"
            " objects; CVAT itself writes each frame: %s",
            reader.path,
            len(with_gaps),
            files.several(with_gaps),
        )
    height, width = (root.findtext(f".//original_size/{name}") for name in ("height", "width"))
    for number, shapes in sorted(frames.items()):
        _add_cvat_image(reader, f"frame_{number:06d}", _given_size(height, width), shapes)


def _xml_root(path: str) -> Any:
    """The root element of an XML file; AnnotationError for what is none."""
    import xml.etree.ElementTree

    if not os.path.isfile(path):
        raise AnnotationError(f"No annotation file or folder {path}")
    try:
        return xml.etree.ElementTree.parse(path).getroot()
    except xml.etree.ElementTree.ParseError as error:
        contents = files.what_it_is(path)
        raise AnnotationError(
            f"{path}: expected XML. Received: {error}; it is {contents}"
        ) from error


def _is_cvat(root: Any) -> bool:
    """Whether an XML is CVAT's, for images or for videos."""
    if root.tag != "annotations":
        return False
    return root.find("image") is not None or root.find("track") is not None


def _what_xml(root: Any) -> str:
    """What an XML is that isn't read."""
    if root.tag == "annotation":
        return "an XML file of Pascal VOC or the old LabelMe; export COCO's json in its place"
    return f"an XML file with <{root.tag}> and no image"


def _cvat_in(path: str) -> str | None:
    """The xml of CVAT in a folder; None where there is none, or several."""
    cvat_files = []
    for name in sorted(os.listdir(path)):
        file = os.path.join(path, name)
        if name.lower().endswith(".xml") and os.path.isfile(file):
            try:
                root = _xml_root(file)
            except AnnotationError:
                continue
            if _is_cvat(root):
                cvat_files.append(file)
    if len(cvat_files) == 1:
        return cvat_files[0]
    return None


def _grouped(shape: Any) -> dict:
    """The group of a shape as LabelMe has it; 0 is none."""
    group = shape.get("group_id")
    if group == "0":
        group = None
    return {"group_id": group}


def _cvat_region(shape: Any) -> Region:
    """The region of an element of an image."""
    name = _class_name(shape.get("label"), "a label")
    extra = {item.get("name"): item.text for item in shape.iter("attribute") if item.text}
    if shape.get("occluded") == "1":
        extra["occluded"] = True
    return Region(name, _cvat_shape(shape), extra=extra or None)


def _cvat_shape(shape: Any) -> _Drawn:
    """The shape of an element. Points lie between pixels, angles are clockwise degrees."""
    kind = shape.tag
    angle = math.radians(_number(shape.get("rotation")) or 0)
    if kind in ("polygon", "polyline"):
        points = [point.split(",") for point in (shape.get("points") or "").split(";")]
        return Polygons([_outline(points, f"a {kind}")], exact=True)
    if kind == "box":
        x1, y1, x2, y2 = _numbers(shape, ("xtl", "ytl", "xbr", "ybr"))
        if not angle % math.tau:
            return Rectangle(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
        return Polygons([_turned(corners, (x1 + x2) / 2, (y1 + y2) / 2, angle)], exact=True)
    if kind == "ellipse":
        radii = ("rx", "ry")
        x, y, radius_x, radius_y = _numbers(shape, ("cx", "cy", *radii), positive=radii)
        return Ellipse(x - 0.5, y - 0.5, radius_x, radius_y, angle)
    if kind == "mask":
        return _cvat_mask(shape)
    raise _Problem(
        "expected a polygon, box, ellipse, mask or polyline, which enclose pixels. Received:"
        f" {files.short(kind)}"
    )


def _turned(points: list, x: float, y: float, angle: float) -> list[list[float]]:
    """Points turned about (x, y) from x towards y."""
    cos = math.cos(angle)
    sin = math.sin(angle)
    turned = []
    for px, py in points:
        dx = px - x
        dy = py - y
        turned.append([x + dx * cos - dy * sin, y + dx * sin + dy * cos])
    return turned


def _cvat_mask(shape: Any) -> Bitmap:
    """A mask of its run lengths, row by row in its box, what is outside first."""
    left, top, width, height = map(int, _numbers(shape, ("left", "top", "width", "height")))
    words = (shape.get("rle") or "").replace(",", " ").split()
    runs = [int(word) for word in words if word.isdecimal()]
    if len(runs) < len(words) or sum(runs) != width * height or not runs:
        raise _Problem(
            f"expected rle as run lengths of {height} x {width} pixels. Received:"
            f" {files.short(shape.get('rle'))}"
        )
    inside = np.arange(len(runs)) % 2 == 1
    return Bitmap(np.repeat(inside, runs).reshape(height, width), left, top)


############################################################
#  YOLO
############################################################

YAML_SUFFIXES = (".yaml", ".yml")
# Beyond the image by rounding: YOLO's numbers are shares of its sides.
_ROUNDED = 0.01


def read_yolo(path: Any, images: Any = None, keep_empty: bool = False) -> Annotations:
    """Reads YOLO's text labels: a line for each object, `class x1 y1 x2 y2 ...` in 0..1.

    A line of a class and four numbers is a box, which is taken for the object's shape, with a
    warning; so is the box of a pose, where the data.yaml has `kpt_shape`. The names of the classes
    are those of the data.yaml, of obj.names or classes.txt; where there are none, the classes are
    called by their numbers.

    Args:
        path: the folder, or its data.yaml. Labels lie beside their images, or in labels/... as
            the images in images/...
        images: folder of the images; None for those in the folder.
        keep_empty: also images without objects.

    Returns:
        `Annotations`, the images of all subsets.

    Raises:
        AnnotationError: no labels there, or none that can be used.
    """
    path = os.fspath(path)
    root = path
    if not os.path.isdir(path):
        if not os.path.isfile(path):
            raise AnnotationError(f"No annotation file or folder {path}")
        root = _yolo_root(path)
    names = _yolo_names(path)
    keypoints = _yolo_keypoints(path)
    reader = _Reader(root, images, keep_empty)
    reader.path = path
    place = os.fspath(images or root)
    # Images in a part of the folder have their labels elsewhere in it: train/images, train/labels.
    bases = [place]
    if _is_inside(place, root):
        bases.insert(0, root)
    labels = _label_files(root)
    boxes = 0
    pictures = sorted(files.walk_images(place))
    chosen = _labels_of(pictures, place, bases, labels, path)
    used = set(chosen.values())
    known = [(name, os.path.join(place, name), chosen.get(name)) for name in pictures]
    if images is None:
        known += _yolo_elsewhere(path, root, set(pictures))
        used.update(label for _, _, label in known if label is not None)
    for relative, file, label in known:
        if label is None and not keep_empty:
            continue
        try:
            size = _annotated_size(file, file, None)
        except _Problem as error:
            reader.problem(f"image {relative!r}", str(error))
            continue
        regions: list[Region] = []
        lines: list[str] = []
        if label is not None:
            lines = _label_lines(reader, label)
            spot = f"file {os.path.relpath(label, root)}"
            read = _yolo_reader(names, size, keypoints)
            regions = list(reader.regions(spot, enumerate(lines, 1), read))
            boxes += sum(isinstance(region.shape, Rectangle) for region in regions)
        reader.add(_Entry(relative, regions, size, file=file), annotated=bool(lines))
    if known and not used:
        reader.problem(
            "labels",
            f"expected text files of the images' names. Received: none for any of {len(known)}"
            f" images, {len(labels)} text files",
        )
    if not known:
        gone = _missing_places(path)
        if gone:
            reader.problem("data.yaml", f"expected what it names. Received: nothing at {gone}")
    for label in _unused_labels(labels, used, only_near=images is not None):
        if _looks_like_labels(label):
            reader.problem(
                f"file {os.path.relpath(label, root)}",
                "expected an image of its name in the folder",
            )
    if boxes:
        logger.warning("%s: %d objects are boxes without an outline", path, boxes)
    return reader.finish(names or None)


# Subsets as a data.yaml names them.
_YOLO_SUBSETS = {**coco.SUBSET_WORDS, "test": coco.OTHER_SUBSETS[:2]}


def _yolo_elsewhere(path: str, root: str, taken: set[str]) -> list[tuple[str, str, str | None]]:
    """(name, image, its label file or None) of images that a data.yaml names outside of a folder.

    As YOLO's own programs do it, the labels of .../images/a.jpg are .../labels/a.txt, or beside it.

    Args:
        path: the yaml, or the folder.
        root: the folder whose own images are known.
        taken: their names.
    """
    file = _yaml_of(path)
    if file is None:
        return []
    bases = _bases_of_yaml(file)
    outside: dict[str, str] = {}
    for subset, places in _places_in_yaml(file).items():
        for place in sorted(places):
            for image, below in _images_of_place(_place_of_yaml(place, bases)):
                # A link that lies in the folder is an image of it.
                if not _is_inside(image, os.path.realpath(root)) and image not in outside:
                    outside[image] = f"{subset}/{below}"
    elsewhere: list[tuple[str, str, str | None]] = []
    for image, name in outside.items():
        if name in taken:
            name = image
        taken.add(name)
        elsewhere.append((name, image, _yolo_label_of(image)))
    if elsewhere:
        logger.warning(
            "%s: %d images lie outside of %s, where %s names them: %s",
            path,
            len(elsewhere),
            root,
            os.path.basename(file),
            files.several(image for _, image, _ in elsewhere),
        )
    return elsewhere


def _missing_places(path: str) -> str:
    """Which folders and lists that a data.yaml names aren't there; "" for none."""
    file = _yaml_of(path)
    if file is None:
        return ""
    places = sorted(set().union(*_places_in_yaml(file).values()))
    return files.several(
        place for place in places if not _place_of_yaml(place, _bases_of_yaml(file))
    )


def _yaml_of(path: str) -> str | None:
    """The yaml that a path is, or that of a folder; None where there is none."""
    if os.path.isdir(path):
        return _yaml_in(path)
    return path


def _bases_of_yaml(file: str) -> list[str]:
    """The folders that the places in a data.yaml start from."""
    return list(dict.fromkeys((_yolo_root(file), os.path.dirname(file) or ".")))


def _places_in_yaml(file: str) -> dict[str, set[str]]:
    """{subset: folders and lists of images} that a data.yaml names; AnnotationError for no text."""
    try:
        text = files.read_text(file)
        return {
            key: {place for word in words for place in _yaml_list(text, word)}
            for key, words in _YOLO_SUBSETS.items()
        }
    except ValueError as error:
        raise AnnotationError(f"{file}: {error}") from error


def _images_of_place(place: str) -> list[tuple[str, str]]:
    """(path, name) of the images in a folder, or of those that are there of a list."""
    if os.path.isdir(place):
        return [(os.path.join(place, name), name) for name in sorted(files.walk_images(place))]
    if not os.path.isfile(place):
        return []
    listed = sorted(image for image in _listed_images(place) if os.path.isfile(image))
    return [(image, os.path.basename(image)) for image in listed if files.is_image_name(image)]


def _yolo_label_of(image: str) -> str | None:
    """The label file of an image by YOLO's own rule, None where it isn't there."""
    stem = os.path.splitext(image)[0]
    before, folder, after = stem.rpartition(f"{os.sep}images{os.sep}")
    for label in (f"{before}{os.sep}labels{os.sep}{after}.txt", f"{stem}.txt"):
        if (folder or label.startswith(stem)) and os.path.isfile(label):
            return label
    return None


def _unused_labels(labels: dict[str, str], used: set[str], only_near: bool) -> list[str]:
    """The label files that no image has, sorted.

    Args:
        labels: as of `_label_files`.
        used: the files that images have.
        only_near: only those in folders of used ones: of images in a part of a folder.
    """
    # A folder with a link to it is there by two names.
    real = {os.path.realpath(file) for file in used}
    near = {os.path.dirname(file) for file in used}
    unused = []
    for file in sorted(set(labels.values()) - used):
        if only_near and os.path.dirname(file) not in near:
            continue
        if os.path.realpath(file) not in real:
            unused.append(file)
    return unused


def _yolo_root(path: str) -> str:
    """The folder of the data that a yaml names: its own, or what it has as `path`."""
    own = os.path.dirname(path) or "."
    for line in files.read_text(path).splitlines():
        if re.match(r"path\s*:", line):
            named = _unquoted(_without_comment(line).partition(":")[2].strip())
            for place in (os.path.join(own, named), named):
                if named and os.path.isdir(place) and not _has_labels(own):
                    return os.path.normpath(place)
    return own


def _has_labels(folder: str) -> bool:
    """Whether there is a text file of labels in a folder."""
    return any(_looks_like_labels(label) for label in _label_files(folder).values())


def is_yolo(path: str) -> bool:
    """Whether a folder has YOLO's labels: a data.yaml with names, or text files of such lines."""
    return _yaml_in(path) is not None or _has_labels(path)


def reads_as_yolo(path: str) -> bool:
    """Whether `read` takes a folder for YOLO's: it has labels, and no json of annotations."""
    if not is_yolo(path):
        return False
    folder = _Folder(path, None)
    return not folder.whole and not folder.single


def yolo_subset(annotated: Annotations, path: Any, subset: str) -> list[AnnotatedImage]:
    """The images that a data.yaml names as a subset: by folders, or by text files of paths.

    Args:
        annotated: what `read_yolo` returned.
        path: the folder, or its data.yaml.
        subset: "train" or "val".

    Returns:
        The images; none where there is no yaml, where it does not name the subset, or has one
        place for training and validation, as programs write that insist on both.
    """
    file = _yaml_of(os.fspath(path))
    if file is None:
        return []
    named = _places_in_yaml(file)
    if named["train"] == named["val"]:
        return []
    bases = _bases_of_yaml(file)
    folders: set[str] = set()
    listed: set[str] = set()
    for place in sorted(named[subset]):
        real = _place_of_yaml(place, bases)
        if os.path.isdir(real):
            folders.add(real)
        elif os.path.isfile(real):
            listed |= _listed_images(real)
    chosen = []
    for image in annotated.images:
        # The image itself may be a link out of the folder that it is listed in.
        own = _without_links(image.path)
        if own in listed or any(_is_inside(own, folder) for folder in folders):
            chosen.append(image)
    if named[subset] and not chosen:
        logger.warning(
            "%s: %s names no images that are in the folder: %s",
            file,
            subset,
            files.several(sorted(named[subset])),
        )
    return chosen


def _place_of_yaml(place: str, bases: list[str]) -> str:
    """The real path of what a yaml names, "" where it isn't there.

    Roboflow's yaml says ../train/images of the train/images that lies beside it, which goes before
    what is there by that very path: that of another export, it may be.
    """
    spelled = [place.replace("\\", "/")]
    while spelled[-1].startswith("../"):
        spelled.append(spelled[-1].removeprefix("../"))
    if len(spelled) > 1:
        spelled = [spelled[-1], *spelled[:-1]]
    for plain in spelled:
        for base in bases:
            path = os.path.join(base, plain)
            if plain and os.path.exists(path):
                return os.path.realpath(path)
    return ""


def _listed_images(path: str) -> set[str]:
    """The paths that a text file lists, line by line, relative to its folder."""
    folder = os.path.dirname(path)
    lines = [line.strip() for line in files.read_text(path).splitlines()]
    return {_without_links(os.path.join(folder, line)) for line in lines if line}


def _without_links(path: str) -> str:
    """A file's path with the real one of its folder."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def _yaml_in(folder: str) -> str | None:
    """The yaml file of a folder that names classes, None where there is none.

    AnnotationError where the only one has names that can't be understood.
    """
    unclear = []
    for name in sorted(os.listdir(folder)):
        file = os.path.join(folder, name)
        if name.lower().endswith(YAML_SUFFIXES) and os.path.isfile(file):
            try:
                if _names_of_yaml(file):
                    return file
            except AnnotationError as error:
                unclear.append(error)
    if unclear:  # without its names the classes would be numbers
        raise unclear[0]
    return None


def _names_of_yaml(file: str) -> list[str]:
    """The names of classes in a yaml, see `_yaml_names`; AnnotationError for unclear ones."""
    try:
        return _yaml_names(files.read_text(file))
    except ValueError as error:
        raise AnnotationError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from error


def _label_files(root: str) -> dict[str, str]:
    """{path below the folder, without labels/ and suffix: file} of the text files in a folder.

    Links to folders are followed, DEEPEST within each other, and never into a folder that the link
    itself lies in. A folder with a link to it is there by both names: either may fit the images'.
    """
    label_files = {}
    waiting = [(root, [_device_and_number(root)], 0)]
    while waiting:
        folder, within, links = waiting.pop()
        try:
            with os.scandir(folder or ".") as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:  # a folder that may not be read, or is gone
            continue
        below = []
        for entry in entries:
            path = os.path.join(folder, entry.name)
            if entry.is_dir():
                if not entry.name.startswith("."):
                    own = _device_and_number(path)
                    followed = links + entry.is_symlink()
                    if own not in within and followed <= files.DEEPEST:
                        below.append((path, [*within, own], followed))
            elif _is_label_name(entry.name):
                label_files[_key_of(path, root)] = path
        waiting += reversed(below)
    return label_files


def _is_label_name(name: str) -> bool:
    """Whether a file may hold labels."""
    return name.lower().endswith(".txt") and name.lower() not in ("classes.txt", "readme.txt")


def _device_and_number(path: str) -> tuple[int, int] | None:
    """What is equal for all names of a folder; None for what isn't there."""
    try:
        status = os.stat(path or ".")
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _key_of(file: str, root: str) -> str:
    """What an image and its labels have in common: the path without images/, labels/ and suffix."""
    parts = pathlib.Path(os.path.relpath(file, root)).with_suffix("").parts
    places = ("labels", *(name.lower() for name in files.IMAGE_FOLDERS))
    return "/".join(part for part in parts if part.lower() not in places)


def _label_of(image: str, bases: list[str], labels: dict[str, str]) -> str | None:
    """The label file of an image, None where there is none.

    bases: the folders that its path may start from, the likelier ones first.
    """
    beside = os.path.splitext(image)[0] + ".txt"
    if os.path.isfile(beside):
        return beside
    for base in bases:
        label = labels.get(_key_of(image, base))
        if label is not None:
            return label
    return None


def _labels_of(
    pictures: list[str],
    place: str,
    bases: list[str],
    labels: dict[str, str],
    path: str,
) -> dict[str, str]:
    """{image: its label file}, of those that have one.

    Labels that no image has by its very name are given to images of their folder that have none, by
    the rules of `files.find_images`: A.txt is that of a.jpg, and so are a.jpg.txt and what Label
    Studio calls 1a2b3c4d-a.txt. Such are said in one warning.

    Args:
        pictures: paths of images, relative to the folder `place`.
        bases, labels: as of `_label_of` and `_label_files`.
        path: of the data, for the warning.
    """
    chosen = {}
    for relative in pictures:
        label = _label_of(os.path.join(place, relative), bases, labels)
        if label is not None:
            chosen[relative] = label
    left = {}
    for label in _unused_labels(labels, set(chosen.values()), only_near=False):
        if len(chosen) < len(pictures) and _looks_like_labels(label):
            left[_key_of(label, bases[0])] = label
    if not left:
        return chosen
    endings = sorted({os.path.splitext(name)[1] for name in pictures})
    others = {key: [key + ending for ending in endings] for key in left}
    renamed = {}
    for key, file in files.find_images(list(left), [place], others).paths.items():
        relative = os.path.relpath(file, place)
        folders = {os.path.dirname(_key_of(file, base)).casefold() for base in bases}
        if relative not in chosen and os.path.dirname(key).casefold() in folders:
            renamed[relative] = left[key]
    if renamed:
        pairs = [f"{label} is that of {name}" for name, label in renamed.items()]
        logger.warning(
            "%s: %d label files have other names than their images: %s",
            path,
            len(renamed),
            files.several(pairs),
        )
    return {**chosen, **renamed}


def _looks_like_labels(path: str) -> bool:
    """Whether the first line of a text file is a class and numbers; an empty file is none."""
    try:
        with open(path, "rb") as file:
            beginning = file.read(100_000)
        # The end of what was read may be half a sign.
        text = beginning.decode(json.detect_encoding(beginning), "ignore")
        numbers = [float(word) for word in text.split("\n")[0].split()]
    except (ValueError, OSError):
        return False
    if len(numbers) < 5 or not all(map(math.isfinite, numbers)):
        return False
    # Of a pose's keypoints the third number is 2 where it is visible.
    return numbers[0].is_integer() and max(numbers[1:5]) < 2


def _label_lines(reader: _Reader, path: str) -> list[str]:
    """The lines of a label file that are not empty; none, and a problem, of what is no text."""
    try:
        return [line for line in files.read_text(path).splitlines() if line.strip()]
    except ValueError as error:
        reader.problem("labels", str(error))
        return []


def _yolo_reader(
    names: list[str], size: tuple[int, int], keypoints: int = 0
) -> Callable[[str], Region]:
    """f(line) that returns its `Region`.

    Args:
        names: of the classes; empty where they are numbers.
        size: (height, width) of the image.
        keypoints: how many numbers stand behind each object's box; 0 where there are no keypoints.
    """
    height, width = size

    def read(line: str) -> Region:
        numbers = [finite_number(word) for word in line.split()]
        if None in numbers or len(numbers) < 5:
            raise _Problem(
                "expected a class and the numbers of an outline. Received: " + files.short(line)
            )
        first, *values = map(float, numbers)  # type: ignore[arg-type]
        if keypoints:
            if len(values) not in (4, 4 + keypoints):
                raise _Problem(
                    f"expected a class, a box and the {keypoints} numbers of kpt_shape. Received:"
                    f" {len(values)} numbers behind the class"
                )
            values = values[:4]
        if first < 0 or first != int(first) or (names and first >= len(names)):
            raise _Problem(f"expected a class from 0 to {len(names) - 1}. Received: {first:g}")
        if min(values) < -_ROUNDED or max(values) > 1 + _ROUNDED:
            raise _Problem(
                "expected numbers from 0 to 1, shares of the image's sides. Received: "
                f"{min(values):g} to {max(values):g}"
            )
        name = str(int(first))
        if names:
            name = names[int(first)]
        if len(values) == 4:
            x, y, w, h = values
            corners = ((x - w / 2) * width, (y - h / 2) * height)
            return Region(name, Rectangle(*corners, (x + w / 2) * width, (y + h / 2) * height))
        if len(values) < 6 or len(values) % 2:
            raise _Problem(
                f"expected a class and the x and y of at least 3 points. Received: {len(values)}"
                " numbers behind the class"
            )
        points = [[x * width, y * height] for x, y in zip(values[::2], values[1::2])]
        return Region(name, Polygons([points], exact=True))

    return read


def _yolo_names(path: str) -> list[str]:
    """Names by class number: of the yaml, of obj.names or classes.txt; empty where there are none.

    path: the yaml, or the folder.
    """
    file = _yaml_of(path)
    if file is not None:
        names = _names_of_yaml(file)
        if not names:
            raise AnnotationError(f"{file}: expected the classes' names under 'names'")
        return _distinct(names, file)
    for name in ("obj.names", "classes.txt", "labels/classes.txt"):
        file = os.path.join(path, name)
        if os.path.isfile(file):
            return _distinct(files.read_text(file).rstrip().splitlines(), file)
    logger.warning("%s: no data.yaml or classes.txt names the classes; they are numbers", path)
    return []


def _yolo_keypoints(path: str) -> int:
    """How many numbers the keypoints of an object have by the yaml's kpt_shape; 0 without it."""
    file = _yaml_of(path)
    if file is None:
        return 0
    try:
        shape = _yaml_list(files.read_text(file), "kpt_shape")
    except ValueError as error:
        raise AnnotationError(f"{file}: {error}") from error
    if not shape:
        return 0
    if len(shape) != 2 or not all(text.isdecimal() and int(text) for text in shape):
        raise AnnotationError(
            f"{file}: expected kpt_shape as [keypoints, 2 or 3]. Received: {files.short(shape)}"
        )
    return int(shape[0]) * int(shape[1])


def _distinct(names: list[str], file: str) -> list[str]:
    """The names, without spaces around them; AnnotationError where one is there twice."""
    plain = []
    for number, name in enumerate(names):
        try:
            plain.append(_class_name(name, f"the name of class {number}"))
        except _Problem as error:
            raise AnnotationError(f"{file}: {error}") from error
    twice = [name for name, count in collections.Counter(plain).items() if count > 1]
    if twice:
        raise AnnotationError(
            f"{file}: expected each class's name once. Received: {files.several(twice)} twice"
        )
    return plain


def _yaml_names(text: str) -> list[str]:
    """The list, or the numbered names, under the key `names` of a yaml; empty without it.

    Of yaml's many forms the ones that data files have: [a, b], {0: a, 1: b}, and both of these line
    by line, quoted or not, with comments.
    """
    value, below = _yaml_entry(text, "names")
    if value[:1] in ("[", "{"):
        return _numbered(_yaml_parts(value), value[0] == "{")
    if value:
        raise ValueError(f"expected a list of names. Received: {files.short(value)}")
    if below and all(item.startswith("-") for item in below):
        return _numbered([item[1:].strip() for item in below], False)
    return _numbered(below, True)


def _yaml_list(text: str, key: str) -> list[str]:
    """The texts under a key of a yaml: one, [a, b], or a line of `- a` for each; empty without."""
    value, below = _yaml_entry(text, key)
    if value.startswith("["):
        return _numbered(_yaml_parts(value), False)
    if value and value not in ("~", "null"):
        return [_unquoted(value)]
    return _numbered([item[1:].strip() for item in below if item.startswith("-")], False)


def _yaml_entry(text: str, key: str) -> tuple[str, list[str]]:
    """What stands behind a key of a yaml, to the end of its brackets, and in the lines below it."""
    lines = [_without_comment(line) for line in text.splitlines()]
    pattern = re.compile(rf"""["']?{key}["']?\s*:""")
    start = next((i for i, line in enumerate(lines) if pattern.match(line)), None)
    if start is None:
        return "", []
    value = lines[start].partition(":")[2].strip()
    value = re.sub(r"^[&!]\S*\s*", "", value)  # an anchor or a type
    rest = lines[start + 1 :]
    if value[:1] in ("[", "{"):
        closing = {"[": "]", "{": "}"}[value[0]]
        while rest and not value.endswith(closing):
            value += " " + rest.pop(0).strip()
        if not value.endswith(closing):
            raise ValueError(f"expected {closing!r} at the end of {key}. Received: {value[-40:]}")
        return value, []
    below = []
    for line in rest:
        if not line.strip():
            continue
        if not line.startswith((" ", "\t", "-")):
            break
        below.append(line.strip())
    return value, below


# An item between a yaml's brackets, up to its comma: a number and a colon, and a text. A quote is
# one at its beginning alone: bird's nest has an apostrophe.
_YAML_ITEM = re.compile(
    r"""\s*((?:(?:\d+|"\d+"|'\d+')\s*:\s*)?"""
    r"""(?:"(?:\\.|[^"\\])*"|'(?:\'\'|[^'])*'|[^,]*))\s*(?:,|$)"""
)


def _yaml_parts(value: str) -> list[str]:
    """The items between a yaml's brackets."""
    inside = value[1:-1]
    parts = []
    place = 0
    while place < len(inside):
        match = _YAML_ITEM.match(inside, place)
        if match is None:
            raise ValueError(f"expected items with commas. Received: {files.short(inside)}")
        parts.append(match[1].strip())
        place = match.end()
    return [part for part in parts if part]


def _without_comment(line: str) -> str:
    """A line of yaml without the comment at its end, which no quoted text has."""
    quote = ""
    is_escaped = False
    for place, sign in enumerate(line):
        before = line[:place].rstrip()
        if is_escaped:
            is_escaped = False
        elif quote:
            is_escaped = sign == "\\" and quote == '"'
            if sign == quote:
                quote = ""
        elif sign in "\"'" and (not before or before[-1] in "[{,:" or before.strip() == "-"):
            quote = sign
        elif sign == "#" and (not line[:place] or line[place - 1].isspace()):
            return before
    return line.rstrip()


def _numbered(items: list[str], with_keys: bool) -> list[str]:
    """The names of yaml's items, with keys `0: name` in the order of the numbers."""
    if not with_keys:
        return [_unquoted(item) for item in items]
    names = {}
    for item in items:
        key, colon, value = item.partition(":")
        if not colon or not _unquoted(key.strip()).isdigit():
            raise ValueError(f"expected names as 'number: name'. Received: {files.short(item)}")
        names[int(_unquoted(key.strip()))] = _unquoted(value.strip())
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"expected names of 0 to {len(names) - 1}. Received: {sorted(names)}")
    return [names[number] for number in sorted(names)]


def _unquoted(text: str) -> str:
    """A scalar of yaml as text."""
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            return json.loads(text)
        except ValueError:
            return text[1:-1]
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    return text


############################################################
#  Mask files
############################################################

# The colour that Pascal VOC's palettes have for the rims of objects, which belong to none, and its
# number.
_VOC_RIM = [224, 224, 192]
_VOC_RIM_NUMBER = 255
# What a program adds to an image's name for its label image.
_MASK_ENDINGS = ("", "_masks", "_cp_masks", "_mask", "_label", "_labels", "_seg")
# Folders of label images beside images/, in any case.
_MASK_FOLDERS = (
    "masks",
    "labels",
    "mask",
    "label",
    "segmentationobject",
    "segmentationobjectpng",
    "gt",
)
# How deep below a folder one with mask files is looked for: VOCdevkit/VOC2012/.
_MASKS_BELOW = 2
# Pascal VOC's classes by the numbers in SegmentationClass/.
VOC_CLASSES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike"
    " person pottedplant sheep sofa train tvmonitor"
).split()


def read_masks(path: Any, label: str | None = None, keep_empty: bool = False) -> Annotations:
    """Reads objects that are drawn into image files.

    Either each image has a folder, <id>/images/<id>.png, with a file for each object that is not
    black where the object is (of a JPEG: brighter than half), <id>/masks/*.png, as the Data Science
    Bowl 2018 has them. Or each has one label image: masks/<name>.png (or .tif) for
    images/<name>.jpg, or <name>_masks.png beside it, 0 where nothing is and another number, or
    colour, for each object. Pascal VOC's JPEGImages/ and SegmentationObject/ are such, without the
    rims, also as CVAT and LabelMe write them: an object's class is what most of its pixels have in
    SegmentationClass/, named by labelmap.txt or class_names.txt, else one of Pascal VOC's. Where
    the folder has neither, its sub-folders are looked into, such as train/ and val/.

    Args:
        path: the folder.
        label: the name of every object's class; None for "object", as files of masks name none, or
            for those of SegmentationClass/.
        keep_empty: also images without objects.

    Raises:
        AnnotationError: no such files, or none that can be used.
    """
    path = os.fspath(path)
    reader = _Reader(path, None, keep_empty)
    sets = _mask_sets(path)
    if not sets:
        raise AnnotationError(
            f"{path}: expected <id>/images and <id>/masks, images/ and masks/, or <name>_masks.png"
            " beside <name>.png. Received: a folder without"
        )
    doubts = _LabelDoubts()
    palettes = _Palettes()
    for image, masks, one_each in sets:
        relative = os.path.relpath(image, path)
        regions: list[Region] = []
        classes = None
        try:
            bitmaps: Iterable[tuple[Any, Bitmap]]
            if one_each:
                size = _size_of_masks(image, masks)
                bitmaps = _object_files(reader, relative, masks, size)
            else:
                labels = _read_labels(masks[0])
                size = _size_of_labels(image, masks[0], labels)
                bitmaps = enumerate(_objects_of_labels(labels), 1)
                doubts.look_at(relative, labels)
                if label is None:
                    classes = palettes.classes_of(masks[0], labels.shape)
            for number, bitmap in bitmaps:
                name = label or "object"
                if classes is not None:
                    name = classes.name_of(bitmap)
                regions.append(Region(name, bitmap, number=number))
        except _Problem as error:
            reader.problem(f"image {relative!r}", str(error))
            continue
        if not one_each:
            doubts.count(relative, regions)
        reader.add(_Entry(relative, regions, size), annotated=bool(regions))
    doubts.warn(path)
    used = {region.name for entry in reader.entries for region in entry.regions}
    known = palettes.names or [label or "object"]
    return reader.finish([*known, *sorted(used - set(known))])


# The classes of Cityscapes that have instances and are evaluated, by their ids.
CITYSCAPES_CLASSES = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
_CITYSCAPES_ENDING = "_gtFine_instanceIds.png"
_OTHER_CITYSCAPES = "label_colors.txt"  # what lies beside gtFine/ in exports of other programs


def _cityscapes_in(path: str) -> list[tuple[str, str]]:
    """(image, its file of instances) of Cityscapes' gtFine/ in a folder, or of a part of it."""
    place = os.path.join(path, "gtFine")
    if not os.path.isdir(place):
        place = os.path.abspath(path)
        if "gtFine" not in pathlib.Path(place).parts:
            return []
    pairs = []
    for folder, folders, names in os.walk(place):
        folders.sort()
        for name in sorted(names):
            if name.endswith(_CITYSCAPES_ENDING):
                parts = list(pathlib.Path(os.path.abspath(folder)).parts)
                last = len(parts) - 1 - parts[::-1].index("gtFine")
                parts[last] = "leftImg8bit"
                picture = name.removesuffix(_CITYSCAPES_ENDING) + "_leftImg8bit.png"
                pairs.append((os.path.join(*parts, picture), os.path.join(folder, name)))
    return pairs


def read_cityscapes(path: Any, keep_empty: bool = False) -> Annotations:
    """Reads Cityscapes' gtFine/<subset>/<city>/..._gtFine_instanceIds.png; see `read`.

    A pixel is 1000 times its class's id plus the object's number. One that is the id alone is of a
    group whose objects were not told apart: a crowd. Classes are the eight that are evaluated.

    Args:
        path: the folder with gtFine/ and leftImg8bit/, or gtFine/ or a folder in it.
        keep_empty: also images without objects, but for those of test/, which aren't annotated.

    Raises:
        AnnotationError: no such files, or none that can be used.
    """
    path = os.fspath(path)
    reader = _Reader(path, None, keep_empty)
    sets = _cityscapes_in(path)
    colours = [place / _OTHER_CITYSCAPES for place in pathlib.Path(os.path.abspath(path)).parents]
    for other in (pathlib.Path(path) / _OTHER_CITYSCAPES, *colours):
        if other.is_file():
            raise AnnotationError(
                f"{path}: expected Cityscapes' own ids of classes. Received: {other}, as CVAT and"
                " Datumaro write it, whose ids are others; export COCO's json in its place"
            )
    if not sets:
        raise AnnotationError(
            f"{path}: expected gtFine/ with ...{_CITYSCAPES_ENDING}. Received: a folder without"
        )
    for image, file in sets:
        subset = pathlib.Path(image).parts[-3]
        name = "/".join(pathlib.Path(image).parts[-3:])
        try:
            labels = _read_labels(file)
            size = _size_of_labels(image, file, labels)
        except _Problem as error:
            reader.problem(f"image {name!r}", str(error))
            continue
        regions = _cityscapes_regions(labels)
        unknown = subset == "test"
        reader.add(_Entry(name, regions, size, file=image), annotated=bool(regions) or unknown)
    return reader.finish(list(CITYSCAPES_CLASSES.values()))


def _cityscapes_regions(labels: np.ndarray) -> list[Region]:
    """The objects of an image of instances, [H, W] int."""
    from scipy import ndimage

    regions = []
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        class_id = number
        if number >= 1000:
            class_id = number // 1000
        if box is not None and class_id in CITYSCAPES_CLASSES:
            shape = Bitmap(labels[box] == number, box[1].start, box[0].start)
            name = CITYSCAPES_CLASSES[class_id]
            regions.append(Region(name, shape, crowd=number < 1000, number=number))
    return regions


class _LabelDoubts:
    """The images whose label images may be something else than they are taken for."""

    def __init__(self) -> None:
        self.in_pieces: list[str] = []
        self.without_background: list[str] = []

    def look_at(self, name: str, labels: np.ndarray) -> None:
        """Looks at a label image [H, W]."""
        if labels.size and labels.min() > 0:
            self.without_background.append(name)

    def count(self, name: str, regions: Sequence[Region]) -> None:
        """Counts the pieces of an image's objects."""
        pieces = [_pieces(region.shape) > 1 for region in regions]
        if any(pieces) and 2 * sum(pieces) >= len(pieces):
            self.in_pieces.append(name)

    def warn(self, path: str) -> None:
        """Logs what was seen."""
        if self.in_pieces:
            logger.warning(
                "%s: label images have a number or colour for each object; those of %d images have"
                " most for several pieces, as images of classes have it, and each number is taken"
                " for one object: %s",
                path,
                len(self.in_pieces),
                files.several(self.in_pieces),
            )
        if self.without_background:
            logger.warning(
                "%s: label images have 0, or black, where nothing is; those of %d images have none,"
                " and each number or colour is taken for an object, the background's too: %s",
                path,
                len(self.without_background),
                files.several(self.without_background),
            )


@dataclasses.dataclass
class _ClassImage:
    """The class of each pixel.

    Attributes:
        path: the file.
        codes: [H, W] numbers of the classes or colours; less than 1 where there is none.
        names: {code: name}.
    """

    path: str
    codes: np.ndarray
    names: dict[int, str]

    def name_of(self, bitmap: Bitmap) -> str:
        """The class that most pixels of an object have; _Problem for none."""
        top, left, pixels = bitmap.crop(*self.codes.shape)
        inside = self.codes[top : top + pixels.shape[0], left : left + pixels.shape[1]][pixels]
        codes, counts = np.unique(inside[inside > 0], return_counts=True)
        if not len(codes):
            raise _Problem(
                f"expected a class of each object in {self.path}. Received: none of the"
                f" {len(inside)} pixels from (x, y) {(left, top)} on"
            )
        code = int(codes[counts.argmax()])
        return self.names.get(code, f"class {code}")


class _Palettes:
    """What SegmentationClass/ says beside SegmentationObject/, and how the classes are called.

    Attributes:
        names: of the classes, in the order of their numbers; empty where nothing names them.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._of_folder: dict[str, tuple[dict[int, str], bool]] = {}
        self._said_colours = False

    def classes_of(self, path: str, shape: tuple[int, ...]) -> _ClassImage | None:
        """The classes beside the label image at a path; None where it has no such neighbour."""
        folder, name = os.path.split(path)
        parent, own = os.path.split(folder)
        place = os.path.join(parent, own.replace("Object", "Class"))
        stem = os.path.splitext(name)[0]
        file = os.path.join(place, stem + ".png")
        if place == folder or not os.path.isfile(file):
            return None
        names, are_colours = self._names_in(parent)
        codes, by_colours = _read_class_codes(file, are_colours)
        if by_colours and not self._said_colours:
            self._said_colours = True
            logger.warning(
                "%s has colours of Pascal VOC's palette under other numbers: the classes are those"
                " of the colours, here and in all such files",
                file,
            )
        if codes.shape != shape:
            raise _Problem(f"expected {file} of {shape} pixels. Received: {codes.shape}")
        return _ClassImage(file, codes, names)

    def _names_in(self, folder: str) -> tuple[dict[int, str], bool]:
        """{code: name} of a dataset's classes, and whether the codes are colours."""
        if folder not in self._of_folder:
            self._of_folder[folder] = _class_codes_in(folder)
            for name in self._of_folder[folder][0].values():
                if name not in self.names:
                    self.names.append(name)
        return self._of_folder[folder]


def _class_codes_in(folder: str) -> tuple[dict[int, str], bool]:
    """{code: name} by a folder's labelmap.txt (CVAT's), class_names.txt (LabelMe's), or Pascal
    VOC's own; and whether the codes are colours, 65536 red + 256 green + blue."""
    file = os.path.join(folder, "labelmap.txt")
    if os.path.isfile(file):
        return _colours_of_labelmap(file), True
    file = os.path.join(folder, "class_names.txt")
    if os.path.isfile(file):
        lines = [line.strip() for line in files.read_text(file).splitlines()]
        return {i: name for i, name in enumerate(lines) if i and name}, False
    return dict(enumerate(VOC_CLASSES, 1)), False


def _colours_of_labelmap(file: str) -> dict[int, str]:
    """{colour: name} of a labelmap.txt, `name:red,green,blue:parts:actions`, without background."""
    names = {}
    for line in files.read_text(file).splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r"(.*?):(\d+),(\d+),(\d+)(:.*)?", line)
        if match is None:
            raise AnnotationError(
                f"{file}: expected lines of name:red,green,blue. Received: {files.short(line)}"
            )
        if match[1] != "background":
            red, green, blue = map(int, match.groups()[1:4])
            names[red * 65536 + green * 256 + blue] = _class_name(match[1], "a class's name")
    return names


def _read_class_codes(file: str, are_colours: bool) -> tuple[np.ndarray, bool]:
    """The codes of an image of classes, its colours or its numbers; 0 for the rims of VOC.

    Colours of Pascal VOC's palette tell its numbers, whatever a program that made the file smaller
    has made of the palette.

    Returns:
        [H, W] int64, and whether they are not the numbers in the file, but those of its colours.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            colours = None
            if are_colours or image.mode in ("P", "RGB"):
                parts = np.asarray(image.convert("RGB")).astype(np.int64)
                colours = parts[..., 0] * 65536 + parts[..., 1] * 256 + parts[..., 2]
    except Exception as error:  # whatever Pillow raises for a damaged file
        raise _Problem(f"expected an image of classes. Received: {file}: {error}") from error
    if are_colours and colours is not None:
        return colours, False
    codes = _read_labels(file)
    codes = np.where(codes == _VOC_RIM_NUMBER, 0, codes)
    if colours is None:
        return codes, False
    distinct, places = np.unique(colours, return_inverse=True)
    numbers = _voc_numbers()
    if not all(colour in numbers for colour in distinct.tolist()):
        return codes, False
    of_distinct = np.array([numbers[colour] for colour in distinct.tolist()], np.int64)
    of_colours = of_distinct[places.reshape(colours.shape)]
    of_colours = np.where(of_colours == _VOC_RIM_NUMBER, 0, of_colours)
    return of_colours, not np.array_equal(of_colours, codes)


@functools.cache
def _voc_numbers() -> dict[int, int]:
    """{colour: number} of Pascal VOC's palette, in which the bits of a number, three by three from
    the lowest, are those of red, green and blue from the highest."""
    numbers = {}
    for number in range(256):
        colour = 0
        for place in range(8):
            for band in range(3):
                bit = number >> (3 * place + band) & 1
                colour |= bit << (7 - place) << (8 * (2 - band))
        numbers[colour] = number
    return numbers


def _semantic_in(path: str) -> str:
    """What a message adds where a folder has images of classes, and none of objects."""
    folders = [
        name
        for name in sorted(os.listdir(path))
        if name.lower() in ("segmentationclass", "segmentationclasspng")
    ]
    if not folders:
        return ""
    return (
        f"; {folders[0]}/ tells the class of each pixel, not which object it belongs to: that is in"
        " SegmentationObject/"
    )


def _mask_sets(path: str, below: int = _MASKS_BELOW) -> list[tuple[str, list[str], bool]]:
    """(image, its mask files, whether each is one object) of the images in a folder.

    below: how deep to look into its sub-folders, where it has none itself.
    """
    sets = []
    for entry in sorted(os.listdir(path)):
        folder = os.path.join(path, entry)
        images = _pictures_in(os.path.join(folder, "images"))
        if images and _is_of_one_image(images, os.path.join(folder, "masks"), entry):
            sets.append((images[0], _pictures_in(os.path.join(folder, "masks")), True))
    if sets:
        return sets
    folders = sorted(os.listdir(path), key=lambda name: (name.lower(), name))
    for name in _MASK_FOLDERS:
        for folder in (folder for folder in folders if folder.lower() == name):
            masks = _by_stem(_pictures_in(os.path.join(path, folder)))
            for near in files.IMAGE_FOLDERS:
                sets += _labelled(_pictures_in(os.path.join(path, near)), masks, _MASK_ENDINGS)
                if sets:
                    return sets
    pictures = _pictures_in(path)
    sets = _labelled(pictures, _by_stem(pictures), _MASK_ENDINGS[1:])
    if not sets and below:
        for folder in folders:
            if os.path.isdir(os.path.join(path, folder)) and not folder.startswith("."):
                sets += _mask_sets(os.path.join(path, folder), below - 1)
    return sets


def _is_of_one_image(images: list[str], masks: str, name: str) -> bool:
    """Whether the folder `name` is that of one image with a file for each object."""
    if not os.path.isdir(masks):
        return False
    stem = os.path.splitext(os.path.basename(images[0]))[0]
    return stem == name or (len(images) == 1 and stem not in _by_stem(_pictures_in(masks)))


def _labelled(
    images: list[str], masks: dict[str, str], endings: Sequence[str]
) -> list[tuple[str, list[str], bool]]:
    """The images that have a label image, with it."""
    sets = []
    for image in images:
        stem = os.path.splitext(os.path.basename(image))[0]
        names = [stem + end for end in endings]
        names += [name.casefold() for name in names]
        mask = next((masks[name] for name in names if name in masks), None)
        if mask is not None and mask != image:
            sets.append((image, [mask], False))
    return sets


def _pictures_in(folder: str) -> list[str]:
    """The image files that lie in a folder, sorted; none where there is no folder."""
    if not os.path.isdir(folder):
        return []
    paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    return [
        path
        for path in paths
        if files.is_image_name(path)
        and os.path.isfile(path)
        and not os.path.basename(path).startswith(".")
    ]


def _by_stem(paths: list[str]) -> dict[str, str]:
    """{name without suffix: path}, by the name as it is and in lower case."""
    stems = {os.path.splitext(os.path.basename(path))[0]: path for path in paths}
    return {**{stem.casefold(): path for stem, path in stems.items()}, **stems}


def _object_files(
    reader: _Reader, name: str, paths: list[str], size: tuple[int, int]
) -> Iterator[tuple[str, Bitmap]]:
    """The name and the bitmap of each mask file; those that can't be used are problems."""
    for path in paths:
        short = os.path.basename(path)
        try:
            mask = utils.read_mask(path)
            if mask.shape != size:
                raise _Problem(f"expected a mask of {size} pixels. Received: {mask.shape}")
            yield short, _cut_bitmap(mask)
        except (OSError, ValueError, TypeError, SyntaxError) as error:
            reader.problem(f"image {name!r}, mask {short}", str(error))


def _size_of_masks(image: str, masks: list[str]) -> tuple[int, int]:
    """The size of an image, turned or as it is stored, that its mask files have; or _Problem.

    Masks of a photograph that the camera noted to be turned are of its stored pixels where a
    program made them that ignores that note.
    """
    for mask in masks:
        try:
            return _annotated_size(image, image, utils.image_sizes(mask)[0])
        except Exception:  # a damaged mask, or one of another size, which is said later
            continue
    return _annotated_size(image, image, None)


def _size_of_labels(image: str, path: str, labels: np.ndarray) -> tuple[int, int]:
    """The size of an image, turned or as it is stored, that its label image has; or _Problem."""
    height, width = labels.shape
    try:
        return _annotated_size(image, image, (height, width))
    except _Problem as error:
        raise _Problem(f"label image {path}: {error}") from error


def _objects_of_labels(labels: np.ndarray) -> list[Bitmap]:
    """The objects of a label image [H, W], in the order of their numbers."""
    from scipy import ndimage

    numbers, places = np.unique(labels, return_inverse=True)
    places = places.reshape(labels.shape)
    if not len(numbers) or numbers[0] != 0:
        places = places + 1  # without a pixel of the background
    bitmaps = []
    for number, box in enumerate(ndimage.find_objects(places), 1):
        bitmaps.append(Bitmap(places[box] == number, box[1].start, box[0].start))
    return bitmaps


def _read_labels(path: str) -> np.ndarray:
    """[H, W] int64 of a label image: its numbers, or for each colour one, 0 for black.

    _Problem for what isn't one, or whose numbers aren't whole any more: a photograph's compression
    or soft edges would make an object of each of the values between.
    """
    from PIL import Image

    is_palette = False
    try:
        if path.lower().endswith((".tif", ".tiff")):
            import tifffile

            values = np.squeeze(tifffile.imread(path))
        else:
            with Image.open(path) as image:
                _check_keeps_values(image, path)
                is_palette = image.mode == "P"
                values = np.asarray(image)
                if image.mode in ("LA", "RGBA"):  # where all is transparent there is nothing
                    values = np.where(values[..., -1:] == 0, 0, values)
                if image.mode == "LA":
                    values = values[..., 0]
                palette = image.getpalette() or []
                if is_palette:
                    values = _without_rims(values, palette)
                if is_palette and _is_black_elsewhere(values, palette):
                    _warn_of_black(os.path.dirname(path))
                    values = np.asarray(image.convert("RGB"))
                    values = np.where((values == _VOC_RIM).all(axis=-1, keepdims=True), 0, values)
    except _Problem:
        raise
    except Exception as error:  # whatever the libraries raise for a damaged file
        raise _Problem(f"expected a label image. Received: {path}: {error}") from error
    if values.dtype == np.uint8 and not is_palette:
        _check_edges(values, path)
    if values.ndim == 3 and values.shape[-1] in (3, 4) and values.dtype == np.uint8:
        parts = values[..., :3].astype(np.int64)
        return parts[..., 0] * 65536 + parts[..., 1] * 256 + parts[..., 2]
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise _Problem(
            "expected a label image of whole numbers or colours. Received: "
            f"{path} of the shape {values.shape}, {values.dtype}"
        )
    if values.size and values.min() < 0:
        raise _Problem(
            "expected a label image of numbers from 0, where nothing is, on. Received: "
            f"{path} with {values.min()}"
        )
    return values.astype(np.int64)


def _without_rims(values: np.ndarray, palette: list[int]) -> np.ndarray:
    """The numbers [H, W] of a label image, 0 for the rims of Pascal VOC's palette.

    palette: red, green and blue of each number; a program that makes files smaller may have left
    those that are used alone.
    """
    colours = [tuple(palette[place : place + 3]) for place in range(0, len(palette) - 2, 3)]
    used = [number for number in np.unique(values).tolist() if number < len(colours)]
    known = _voc_numbers()
    of_voc = True
    for number in used:
        red, green, blue = colours[number]
        of_voc = of_voc and red * 65536 + green * 256 + blue in known
    for number in used:
        if colours[number] == tuple(_VOC_RIM) and (of_voc or number == _VOC_RIM_NUMBER):
            values = np.where(values == number, 0, values)
    return values


def _is_black_elsewhere(values: np.ndarray, palette: list[int]) -> bool:
    """Whether a palette has black, for nothing, at another number than 0, as some programs that
    make files smaller leave it: then colours count, not numbers.

    Where number 0, of another colour, has more pixels than black, that is the ground.

    values: [H, W]. palette: red, green and blue of each number.
    """
    colours = np.array(palette, int).reshape(-1, 3)
    if not len(colours) or not colours[0].any():
        return False
    counts = np.bincount(values.ravel(), minlength=len(colours))[: len(colours)]
    return counts[~colours.any(axis=1)].sum() > counts[0]


@functools.cache
def _warn_of_black(folder: str) -> None:
    """Says, once for a folder, that of its label images colours count."""
    logger.warning(
        "%s: palettes of label images have black at another number than 0; black is where nothing"
        " is, and each other colour is an object",
        folder,
    )


def _check_keeps_values(image: Any, path: str) -> None:
    """_Problem for a label image, of Pillow, that is compressed with losses."""
    if utils.is_lossy(image, path):
        raise _Problem(
            f"expected a label image in a format without losses, PNG or TIFF. Received: {path},"
            f" a {image.format} whose numbers or colours its compression has changed"
        )


# A label image of 8 bits has soft edges where so many values, and this share of them, are found
# between others alone.
SOFT_VALUES = 8
SOFT_SHARE = 0.5


def _check_edges(values: np.ndarray, path: str) -> None:
    """_Problem for a label image, [H, W] or [H, W, bands] uint8, whose objects have soft edges.

    Such a value has no pixel among four of its own, and most of its pixels lie between a smaller
    and a larger value. An object of few pixels has the background around it, and nothing else.
    """
    from scipy import ndimage

    bands = np.atleast_3d(values)[..., :3]
    codes = np.zeros(bands.shape[:2], np.int64)
    inner = np.ones(bands.shape[:2], bool)
    between = np.zeros(bands.shape[:2], bool)
    cross = ndimage.generate_binary_structure(2, 1)
    for band in np.moveaxis(bands, -1, 0):
        codes = codes * 256 + band
        least = ndimage.minimum_filter(band, footprint=cross, mode="nearest")
        most = ndimage.maximum_filter(band, footprint=cross, mode="nearest")
        inner &= least == most
        least = ndimage.minimum_filter(band, 3, mode="nearest")
        most = ndimage.maximum_filter(band, 3, mode="nearest")
        between |= (least < band) & (band < most)
    values, places, counts = np.unique(codes, return_inverse=True, return_counts=True)
    places = places.ravel()
    has_inner = np.bincount(places, inner.ravel()) > 0
    share = np.bincount(places, between.ravel()) / counts
    soft = int(np.count_nonzero(~has_inner & (share >= 0.5)))
    if soft >= max(SOFT_VALUES, SOFT_SHARE * len(values)):
        raise _Problem(
            "expected a label image with one number or colour for each object. Received: "
            f"{path}, of whose {len(values)} values {soft} lie along edges, between others: it was"
            " smoothed, or compressed with losses. Objects that are so small can have numbers of"
            " 16 bits"
        )


def _cut_bitmap(mask: np.ndarray) -> Bitmap:
    """A mask [H, W] bool as what is in its box."""
    y, x, inside = cut_to_pixels(mask)
    return Bitmap(inside.copy(), x, y)


def _pieces(shape: Any) -> int:
    """How many pieces a bitmap has."""
    from scipy import ndimage

    return ndimage.label(shape.pixels, np.ones((3, 3)))[1]
