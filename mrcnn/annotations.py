"""Annotation files of VIA (1.x, 2.x), LabelMe and COCO's layout: images, named regions, masks.

    annotations = read("photos/via_region_data.json")
    dataset = AnnotatedDataset()
    dataset.load("balloon", annotations)
    dataset.prepare()

A file that is no such file raises `AnnotationError`. What is wrong with a single image or region is
left out, listed in `Annotations.problems` and logged, with file, image, region, what was expected
and received.

Points are (x, y) in pixels of the image as it is shown, a camera's rotation (EXIF) applied, unless
the file says that it was annotated at the size of the stored pixels. numpy only.
"""

import base64
import binascii
import collections
import dataclasses
import io
import json
import logging
import math
import os
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeGuard

import numpy as np

from mrcnn import coco, utils
from mrcnn.masks import decode

logger = logging.getLogger(__name__)

FORMATS = (
    "a VIA 1.x or 2.x json (project or annotations), LabelMe's json files, COCO's instances json"
)


class AnnotationError(ValueError):
    """An annotation file that can't be used; the message names it and what was expected."""


############################################################
#  What a reader returns
############################################################


class Shape(Protocol):
    """What encloses the pixels of an object."""

    def mask(self, height: int, width: int) -> np.ndarray:
        """[height, width] bool; what lies outside the image is cut off."""


@dataclasses.dataclass
class Polygons:
    """Outlines of one object. Its parts are joined.

    Args:
        parts: list of lists of points (x, y).
        exact: a pixel is inside where its middle (x + .5, y + .5) is: the points lie between
            pixels, as LabelMe's do. Otherwise points are pixels, which belong to the object: VIA's,
            as matterport drew them.
    """

    parts: list[list]
    exact: bool = False

    def mask(self, height: int, width: int) -> np.ndarray:
        """[height, width] bool; what lies outside the image is cut off."""
        import skimage.draw

        mask = np.zeros((height, width), bool)
        for part in self.parts:
            points = np.array(part, float)
            if self.exact:
                points = points - 0.5
            rows, columns = skimage.draw.polygon(points[:, 1], points[:, 0], mask.shape)
            mask[rows, columns] = True
        return mask


@dataclasses.dataclass
class Ellipse:
    """An ellipse about the pixel (x, y); its first radius is turned by `angle` from x towards y.

    Args:
        angle: in radians.
    """

    x: float
    y: float
    radius_x: float
    radius_y: float
    angle: float = 0.0

    def mask(self, height: int, width: int) -> np.ndarray:
        """[height, width] bool; what lies outside the image is cut off."""
        reach = max(self.radius_x, self.radius_y)
        rows = _span(self.y, reach, height)
        columns = _span(self.x, reach, width)
        dy = np.arange(height)[rows, None] - self.y
        dx = np.arange(width)[columns] - self.x
        cos = math.cos(self.angle)
        sin = math.sin(self.angle)
        along = (dx * cos + dy * sin) / self.radius_x
        across = (dy * cos - dx * sin) / self.radius_y
        mask = np.zeros((height, width), bool)
        mask[rows, columns] = along**2 + across**2 <= 1
        return mask


def _span(
    middle: float,
    reach: float,
    side: int,
) -> slice:
    """The pixels of a side of the image that lie within `reach` of the middle."""
    start, stop = np.clip([math.floor(middle - reach), math.ceil(middle + reach) + 1], 0, side)
    return slice(start, stop)


@dataclasses.dataclass
class Rectangle:
    """The pixels from (x1, y1) up to (x2, y2), which lies outside; rounded."""

    x1: float
    y1: float
    x2: float
    y2: float

    def mask(self, height: int, width: int) -> np.ndarray:
        """[height, width] bool; what lies outside the image is cut off."""
        corners = np.around([self.y1, self.x1, self.y2, self.x2])
        y1, x1, y2, x2 = np.clip(corners, 0, [height, width, height, width]).astype(int)
        mask = np.zeros((height, width), bool)
        mask[y1:y2, x1:x2] = True
        return mask


@dataclasses.dataclass(eq=False)
class Bitmap:
    """A mask [h, w] bool whose first pixel lies at (x, y)."""

    pixels: np.ndarray
    x: int = 0
    y: int = 0

    def mask(self, height: int, width: int) -> np.ndarray:
        """[height, width] bool; what lies outside the image is cut off."""
        mask = np.zeros((height, width), bool)
        y1 = max(self.y, 0)
        x1 = max(self.x, 0)
        y2 = max(min(self.y + self.pixels.shape[0], height), y1)
        x2 = max(min(self.x + self.pixels.shape[1], width), x1)
        mask[y1:y2, x1:x2] = self.pixels[y1 - self.y : y2 - self.y, x1 - self.x : x2 - self.x]
        return mask


@dataclasses.dataclass
class CocoSegmentation:
    """An annotation of COCO's layout, polygons or run lengths, drawn by pycocotools."""

    annotation: dict

    def mask(self, height: int, width: int) -> np.ndarray:
        """[height, width] bool. ValueError: run lengths of another size."""
        return decode([self.annotation], height, width)[..., 0]


@dataclasses.dataclass
class Region:
    """One object.

    Attributes:
        name: its class's.
        shape: has a method `mask(height, width)`.
        crowd: whether it is a crowd.
        number: its place or id in the file.
    """

    name: str
    shape: Shape
    crowd: bool = False
    number: Any = None


@dataclasses.dataclass
class AnnotatedImage:
    """A photograph that exists.

    Attributes:
        name: in the annotations.
        path: of its file.
        height, width: as it is shown.
        regions: list of `Region`, its objects.
    """

    name: str
    path: str
    height: int
    width: int
    regions: list[Region]

    def __repr__(self) -> str:
        size = f"{self.height} x {self.width}"
        return f"AnnotatedImage({self.name!r}, {size}, {len(self.regions)} regions)"

    def masks(self) -> np.ndarray:
        """[height, width, regions] bool."""
        masks = np.zeros((self.height, self.width, len(self.regions)), bool)
        for i, region in enumerate(self.regions):
            masks[..., i] = region.shape.mask(self.height, self.width)
        return masks


@dataclasses.dataclass
class Annotations:
    """What files of annotations hold.

    Attributes:
        path: the file or folder.
        images: list of `AnnotatedImage`.
        classes: names, of COCO in the order of their ids, otherwise sorted.
        problems: texts, one for each image or region that was left out.
    """

    path: str
    images: list[AnnotatedImage]
    classes: list[str]
    problems: list[str]

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
        """[H, W, 3] uint8, turned as the camera noted unless the stored pixels are annotated."""
        info = self.image_info[image_id]
        image = super().load_image(image_id)
        if "annotation" in info and image.shape[:2] != (info["height"], info["width"]):
            return utils.read_image(info["path"], rotate=False)
        return image

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


class _Reader:
    """Collects problems and images of one source of annotations."""

    def __init__(
        self,
        path: Any,
        images: Any,
        keep_empty: bool,
    ):
        self.path = os.fspath(path)
        if images is not None:
            self.folder = os.fspath(images)
        elif os.path.isdir(path):
            self.folder = self.path
        else:
            self.folder = os.path.dirname(self.path)
        self.keep_empty = keep_empty
        self.problems: list[str] = []
        self.images: list[AnnotatedImage] = []
        self.without_regions = 0

    def problem(self, place: str, text: str) -> None:
        """Notes and logs a problem. place: "image x, region 3"."""
        self.problems.append(f"{self.path}: {place}: {text}")
        logger.warning("%s; left out", self.problems[-1])

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

    def add(
        self,
        name: str,
        regions: list[Region],
        size: tuple | None = None,
    ) -> None:
        """Adds an image whose file exists and that has regions, or any with `keep_empty`.

        Args:
            name: the file's name as annotated, relative to the folder of images.
            size: (height, width) that the annotation was made for, None if unknown.
        """
        if not regions and not self.keep_empty:
            self.without_regions += 1
            return
        path = os.path.join(self.folder, name.replace("\\", "/"))
        try:
            height, width = _annotated_size(path, size)
        except _Problem as error:
            self.problem(f"image {name!r}", str(error))
            return
        drawn = [region for region in regions if self._is_drawn(region, name, height, width)]
        if drawn or self.keep_empty:
            self.images.append(AnnotatedImage(name, path, height, width, drawn))

    def _is_drawn(
        self,
        region: Region,
        name: str,
        height: int,
        width: int,
    ) -> bool:
        """Whether a region has pixels in its image; notes the problem of one without.

        What trains nothing, or can't be drawn, is said now rather than in the first epoch.
        """
        try:
            if region.shape.mask(height, width).any():
                return True
            problem = (
                "expected a region with a pixel in the image of (height, width)"
                f" {(height, width)}. Received: {_short(region.shape)}"
            )
        except (ValueError, TypeError, KeyError) as error:
            problem = str(error)
        self.problem(f"image {name!r}, region {region.number}", problem)
        return False

    def finish(self, classes: list[str] | None = None) -> Annotations:
        """The `Annotations`; AnnotationError if nothing is left."""
        without = self.without_regions
        if without:
            logger.info("%s: %d images without regions are left out", self.path, without)
        if not self.images:
            first = "".join(f"\n  {text}" for text in self.problems[:5])
            raise AnnotationError(
                f"{self.path}: expected images with regions. Received: none that can be used; "
                f"{without} without regions, {len(self.problems)} problems{first}"
            )
        if classes is None:
            classes = sorted(_class_names(self.images))
        return Annotations(self.path, self.images, classes, self.problems)


def _annotated_size(path: str, size: tuple | None) -> tuple[int, int]:
    """(height, width) in which an image file's annotations are; _Problem without such a file.

    Args:
        size: (height, width) that the annotation was made for, None if unknown.
    """
    try:
        shown, stored = _sizes(path)
    except FileNotFoundError as error:
        raise _Problem(f"expected its file. Received: no file {path}") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise _Problem(f"expected an image that can be read. Received: {error}") from error
    if size is None or size == shown:
        return shown
    if size == stored:  # annotated by a program that ignores a camera's rotation
        return stored
    raise _Problem(f"annotated at (height, width) {size}. Received: {path} of {shown}")


def _sizes(path: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of an image file as it is shown, and as it is stored, from its header."""
    return utils.image_sizes(path)


def _short(value: Any) -> str:
    """A value as text of 80 characters at most."""
    text = repr(value)
    if len(text) > 80:
        text = text[:77] + "..."
    return text


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
    what: str,
) -> Any:
    """data[name] of one kind of `_KINDS`, or _Problem."""
    value = None
    if isinstance(data, dict):
        value = data.get(name)
    if isinstance(value, kind):
        return value
    if value is None:
        value = data
    raise _Problem(f"expected {what} with {name!r}, {_KINDS[kind]}. Received: {_short(value)}")


def _is_number(value: Any) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value)


def _numbers(
    shape: dict,
    names: tuple[str, ...],
    positive: tuple[str, ...] = (),
) -> list[float]:
    """The numbers `names` of a shape's dict, those in `positive` above 0."""
    wrong = []
    for name in names:
        value = shape.get(name)
        if not _is_number(value) or (name in positive and value <= 0):
            wrong.append(f"{name}: {_short(value)}")
    if wrong:
        above = ""
        if positive:
            above = f" ({', '.join(positive)} above 0)"
        raise _Problem(
            f"expected {', '.join(names)} as numbers{above}. Received: {', '.join(wrong)}"
        )
    return [float(shape[name]) for name in names]


def _are_points(points: Any) -> bool:
    """Whether this is a list of points of two numbers."""
    return isinstance(points, list) and all(map(_is_point, points))


def _is_point(point: Any) -> bool:
    return isinstance(point, (list, tuple)) and len(point) == 2 and all(map(_is_number, point))


def _outline(points: Any, what: str) -> list:
    """The points, at least 3 of two numbers, as they are."""
    if not _are_points(points):
        raise _Problem(
            f"expected {what} as a list of points of two numbers. Received: {_short(points)}"
        )
    if len(points) < 3:
        raise _Problem(f"expected {what} of at least 3 points. Received: {len(points)}")
    return points


def _load_json(path: Any) -> Any:
    """What a json file holds."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except FileNotFoundError as error:
        raise AnnotationError(f"No annotation file or folder {path}") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AnnotationError(f"{path}: expected a json file. Received: {error}") from error


############################################################
#  Any format
############################################################


def read(
    path: Any,
    images: Any = None,
    attribute: str | None = None,
    label: str | None = None,
    keep_empty: bool = False,
) -> Annotations:
    """Reads annotations of any of the formats, which is told by the content.

    Args:
        path: a json file of VIA or COCO, or of LabelMe for one image; or a folder with one of the
            first or any number of the last.
        images: folder that the file names of the images start from; None for the json's own folder.
        attribute: VIA: the region attribute that holds the class; None takes the only one there is.
            Without any attribute every region is of the class "object".
        label: VIA: name of every region's class, whatever its attributes.
        keep_empty: also images without regions, as background.

    Returns:
        `Annotations`.

    Raises:
        AnnotationError: no such file, another format, or no image that can be used.
    """
    path = os.fspath(path)
    if not os.path.isdir(path):
        return _read_file(path, images, attribute, label, keep_empty)
    files = sorted(pathlib.Path(path).glob("*.json"))
    loaded = {os.fspath(file): _load_json(file) for file in files}
    formats = {file: _format_of(data) for file, data in loaded.items()}
    whole = [file for file, name in formats.items() if name in ("via", "coco")]
    if len(whole) > 1:
        raise AnnotationError(
            f"{path}: expected one VIA or COCO json in the folder; name the file. Received: "
            + ", ".join(os.path.basename(file) for file in whole)
        )
    if whole:
        return _read_file(whole[0], images, attribute, label, keep_empty)
    if "labelme" not in formats.values():
        raise AnnotationError(
            f"{path}: expected {FORMATS}. Received: a folder with {len(files)} json files, none of"
            " these"
        )
    loaded = {file: data for file, data in loaded.items() if formats[file] == "labelme"}
    return _read_labelme(path, loaded, images, keep_empty)


def _format_of(data: Any) -> str | None:
    """via, labelme or coco; None for another content."""
    if not isinstance(data, dict):
        return None
    if "shapes" in data and "imagePath" in data:
        return "labelme"
    if "images" in data and "annotations" in data:
        return "coco"
    if "_via_img_metadata" in data:
        return "via"
    if data and all(isinstance(entry, dict) and "filename" in entry for entry in data.values()):
        return "via"
    return None


def _read_file(
    path: Any,
    images: Any = None,
    attribute: str | None = None,
    label: str | None = None,
    keep_empty: bool = False,
    expected: str | None = None,
) -> Annotations:
    """Reads one file; AnnotationError if it is of another format than the expected one."""
    path = os.fspath(path)
    data = _load_json(path)
    name = _format_of(data)
    if expected and name not in (expected, None):
        raise AnnotationError(f"{path}: expected a {expected} json. Received: a {name} one")
    if name == "via":
        return _read_via(path, data, images, attribute, label, keep_empty)
    if name == "coco":
        return _read_coco(path, images, keep_empty)
    if name == "labelme":
        return _read_labelme(path, {path: data}, images, keep_empty)
    if isinstance(data, dict) and {"project", "file", "metadata"} <= set(data):
        raise AnnotationError(
            f"{path}: expected {FORMATS}. Received: a project of VIA 3; export it as COCO's json"
            " there"
        )
    received = f"a {type(data).__name__}"
    if isinstance(data, dict):
        received = f"an object with {_short(list(data)[:6])}"
    raise AnnotationError(f"{path}: expected {FORMATS}. Received: {received}")


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
    """Reads a VIA 1.x or 2.x json, exported annotations or a 2.x project; see `read`.

    Polygons, rectangles, circles and ellipses are regions, a polyline is closed to a polygon; a
    point is reported and left out.
    """
    return _read_file(path, images, attribute, label, keep_empty, expected="via")


# An image of VIA: the file's name, and number and content of each region.
_ViaImage = tuple[str, list[tuple[Any, Any]]]


def _read_via(
    path: str,
    data: dict,
    images: Any,
    attribute: str | None,
    label: str | None,
    keep_empty: bool,
) -> Annotations:
    reader = _Reader(path, images, keep_empty)
    photos = _via_images(reader, data)
    if label is None:
        attribute = _attribute(path, photos, attribute)
        if attribute is None:
            label = "object"  # nothing tells classes apart

    def region(item: Any) -> Region:
        name = label
        if not name:
            name = _via_name(item, attribute)
        shape = _via_shape(_field(item, "shape_attributes", dict, "a region"))
        return Region(name, shape)

    for name, items in photos:
        reader.add(name, list(reader.regions(f"image {name!r}", items, region)))
    if label:
        return reader.finish([label])
    return reader.finish()


def _via_images(reader: _Reader, data: dict) -> list[_ViaImage]:
    """The images of a VIA json; those with problems are noted."""
    entries = data.get("_via_img_metadata", data)
    if not isinstance(entries, dict):
        raise AnnotationError(
            f"{reader.path}: expected '_via_img_metadata' to be an object {{...}}. Received:"
            f" {_short(entries)}"
        )
    photos: dict[str, list] = {}
    for key, entry in entries.items():
        try:
            name = _field(entry, "filename", str, "an image")
            regions = _field(entry, "regions", (list, dict), "an image")
            if name in photos:
                raise _Problem(
                    f"expected one entry for each image. Received: a second one of {name!r}"
                )
        except _Problem as error:
            reader.problem(f"image {key!r}", str(error))
            continue
        if isinstance(regions, dict):  # 1.x: {"0": region, ...}, 2.x: [region, ...]
            photos[name] = list(regions.items())
        else:
            photos[name] = list(enumerate(regions))
    return list(photos.items())


def _attribute(
    path: str,
    photos: list[_ViaImage],
    attribute: str | None,
) -> str | None:
    """The region attribute that holds the class: the one asked for, or the only one there is."""
    values: dict[str, collections.Counter] = {}
    for _, items in photos:
        for _, item in items:
            for key, value in _region_attributes(item).items():
                values.setdefault(key, collections.Counter())[_short(value)] += 1
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
    if attribute is None and len(values) > 1:
        raise AnnotationError(
            f"{path}: expected one region attribute, the class; of several name the one. "
            f"Received: {known}"
        )
    return attribute or next(iter(values), None)


def _region_attributes(item: Any) -> dict:
    """The attributes of a region, none of a broken one."""
    attributes = None
    if isinstance(item, dict):
        attributes = item.get("region_attributes")
    if not isinstance(attributes, dict):
        return {}
    return attributes


def _via_name(item: Any, attribute: str | None) -> str:
    """The class of a region."""
    value = _field(item, "region_attributes", dict, "a region").get(attribute)
    if isinstance(value, dict):  # check boxes: {"red": true}
        value = [name for name, checked in value.items() if checked]
        if len(value) == 1:
            value = value[0]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise _Problem(
            f"expected one class in the attribute {attribute!r}. Received: {_short(value)}"
        )
    return value.strip()


def _via_shape(shape: dict) -> Shape:
    """The shape of a region's shape_attributes."""
    kind = shape.get("name")
    if kind in ("polygon", "polyline"):
        return _via_polygon(shape, f"a {kind}")
    if kind == "rect":
        size = ("width", "height")
        x, y, width, height = _numbers(shape, ("x", "y", *size), positive=size)
        return Rectangle(x, y, x + width, y + height)
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
        f"Received: {_short(kind)}"
    )


def _via_polygon(shape: dict, what: str) -> Polygons:
    xs = _field(shape, "all_points_x", list, what)
    ys = _field(shape, "all_points_y", list, what)
    if len(xs) != len(ys):
        raise _Problem(
            f"expected as many all_points_x as all_points_y. Received: {len(xs)} and {len(ys)}"
        )
    points = [[x, y] for x, y in zip(xs, ys)]
    return Polygons([_outline(points, what)])


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
    and lines are reported and left out. Shapes with one label and one group_id are the parts of one
    object.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        return read(path, images, keep_empty=keep_empty)
    return _read_file(path, images, keep_empty=keep_empty, expected="labelme")


def _read_labelme(
    path: str,
    loaded: dict,
    images: Any,
    keep_empty: bool,
) -> Annotations:
    """loaded: {file: its content}."""
    reader = _Reader(path, images, keep_empty)
    for file, data in loaded.items():
        place = f"file {os.path.basename(file)}"
        try:
            name = _field(data, "imagePath", str, "an image")
            shapes = _field(data, "shapes", list, "an image")
        except _Problem as error:
            reader.problem(place, str(error))
            continue
        height = data.get("imageHeight")
        width = data.get("imageWidth")
        size = None
        if height is not None and width is not None:
            size = (height, width)
        place = f"{place}, image {name!r}"
        regions = reader.regions(place, enumerate(shapes), _labelme_region)
        reader.add(name, _joined(regions, shapes), size)
    return reader.finish()


@dataclasses.dataclass
class _Union:
    """Several shapes of one object."""

    shapes: list[Shape]

    def mask(self, height: int, width: int) -> np.ndarray:
        """[height, width] bool."""
        return np.any([shape.mask(height, width) for shape in self.shapes], axis=0)


def _joined(regions: Iterable[Region], shapes: list[dict]) -> list[Region]:
    """The regions, those of one label and one group_id joined to one; shapes: of the file."""
    groups: dict[Any, list[Region]] = {}
    for region in regions:
        group_id = shapes[region.number].get("group_id")
        key = region.number
        if group_id is not None:
            key = (region.name, group_id)
        groups.setdefault(key, []).append(region)
    objects = []
    for first, *others in groups.values():
        if others:
            parts = [first.shape, *(region.shape for region in others)]
            first = dataclasses.replace(first, shape=_Union(parts))
        objects.append(first)
    return objects


def _labelme_region(item: Any) -> Region:
    """The region of an entry of LabelMe's shapes."""
    name = _field(item, "label", str, "a shape").strip()
    if not name:
        raise _Problem(f"expected a label. Received: {item['label']!r}")
    kind = item.get("shape_type") or "polygon"
    points = item.get("points")
    if kind in ("polygon", "linestrip", "oriented_rectangle"):
        return Region(name, Polygons([_outline(points, f"a {kind}")], exact=True))
    if kind not in ("rectangle", "circle", "mask"):
        raise _Problem(
            "expected a polygon, rectangle, circle, mask, linestrip or oriented_rectangle, which"
            f" enclose pixels. Received: {_short(kind)}"
        )
    if not _are_points(points) or len(points) != 2:
        raise _Problem(f"expected a {kind} of 2 points of two numbers. Received: {_short(points)}")
    if kind == "circle":
        return Region(name, _labelme_circle(points))
    (x1, y1), (x2, y2) = points
    left = min(x1, x2)
    top = min(y1, y2)
    if kind == "rectangle":
        return Region(name, Rectangle(left, top, max(x1, x2), max(y1, y2)))
    return Region(name, Bitmap(_png(item.get("mask")), round(left), round(top)))


def _labelme_circle(points: list) -> Ellipse:
    """A circle of its middle and a point on its rim."""
    (x, y), (rim_x, rim_y) = points
    radius = math.hypot(rim_x - x, rim_y - y)
    if not radius:
        raise _Problem(
            f"expected a circle's middle and a point of its rim. Received: {_short(points)}"
        )
    return Ellipse(x - 0.5, y - 0.5, radius, radius)


def _png(text: Any) -> np.ndarray:
    """[h, w] bool of a PNG in base64."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
            return np.asarray(image.convert("L")) > 0
    except (TypeError, OSError, SyntaxError, ValueError, binascii.Error) as error:
        raise _Problem(
            f"expected a mask as a PNG in base64. Received: {_short(text)} ({error})"
        ) from error


############################################################
#  COCO
############################################################


def read_coco(
    path: Any,
    images: Any = None,
    keep_empty: bool = False,
) -> Annotations:
    """Reads an `instances_*.json` in COCO's layout; see `read`. Crowds are kept as such."""
    return _read_file(path, images, keep_empty=keep_empty, expected="coco")


def _read_coco(
    path: str,
    images: Any,
    keep_empty: bool,
) -> Annotations:
    try:
        data = coco.read_annotations(path)
    except ValueError as error:
        raise AnnotationError(str(error)) from error
    names = {category_id: category["name"] for category_id, category in data.cats.items()}
    counts = collections.Counter(names.values())
    twice = [repr(name) for name, count in counts.items() if count > 1]
    if twice:
        raise AnnotationError(
            f"{path}: expected each category's name once. Received: {', '.join(twice)} twice"
        )
    reader = _Reader(path, images, keep_empty)
    for image_id, image in data.imgs.items():
        regions = []
        for item in data.imgToAnns.get(image_id, []):
            name = names[item["category_id"]]
            crowd = bool(item["iscrowd"])
            regions.append(Region(name, CocoSegmentation(item), crowd, item["id"]))
        reader.add(image["file_name"], regions, (image["height"], image["width"]))
    return reader.finish([names[category_id] for category_id in sorted(names)])
