"""Annotation files of VIA (1.x, 2.x), LabelMe and COCO's layout: read to images with named regions,
and to masks.

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

import numpy as np

from mrcnn import coco, utils

logger = logging.getLogger(__name__)

FORMATS = (
    "a VIA 1.x or 2.x json (project or annotations), LabelMe's json files, COCO's instances json"
)


class AnnotationError(ValueError):
    """An annotation file that can't be used at all; the message names it and what was expected."""


############################################################
#  What a reader returns
############################################################


@dataclasses.dataclass
class Polygons:
    """Outlines of one object. Its parts are joined.

    Args:
        parts: list of lists of points (x, y).
        exact: a pixel is inside where its middle (x + .5, y + .5) is: the points lie between
            pixels, as LabelMe's do. Otherwise points are pixels, which belong to the object: VIA's,
            as matterport drew them.
    """

    parts: list
    exact: bool = False

    def mask(self, height, width):
        """[height, width] bool; what lies outside the image is cut off."""
        import skimage.draw

        mask, shift = np.zeros((height, width), bool), 0.5 if self.exact else 0.0
        for part in map(np.array, self.parts):
            rows, columns = skimage.draw.polygon(
                part[:, 1] - shift, part[:, 0] - shift, (height, width)
            )
            mask[rows, columns] = True
        return mask


@dataclasses.dataclass
class Ellipse:
    """An ellipse about the pixel (x, y), its first radius turned by `angle`, radians, from x
    towards y."""

    x: float
    y: float
    radius_x: float
    radius_y: float
    angle: float = 0.0

    def mask(self, height, width):
        """[height, width] bool; what lies outside the image is cut off."""
        reach = max(self.radius_x, self.radius_y)
        (top, bottom), (left, right) = (
            np.clip([math.floor(v - reach), math.ceil(v + reach) + 1], 0, side)
            for v, side in ((self.y, height), (self.x, width))
        )
        dy, dx = np.mgrid[top:bottom, left:right] - np.array([self.y, self.x]).reshape(2, 1, 1)
        along = (dx * math.cos(self.angle) + dy * math.sin(self.angle)) / self.radius_x
        across = (dy * math.cos(self.angle) - dx * math.sin(self.angle)) / self.radius_y
        mask = np.zeros((height, width), bool)
        mask[top:bottom, left:right] = along**2 + across**2 <= 1
        return mask


@dataclasses.dataclass
class Rectangle:
    """The pixels from (x1, y1) up to (x2, y2), which lies outside; rounded."""

    x1: float
    y1: float
    x2: float
    y2: float

    def mask(self, height, width):
        """[height, width] bool; what lies outside the image is cut off."""
        y1, y2 = (int(np.clip(np.around(y), 0, height)) for y in (self.y1, self.y2))
        x1, x2 = (int(np.clip(np.around(x), 0, width)) for x in (self.x1, self.x2))
        mask = np.zeros((height, width), bool)
        mask[y1:y2, x1:x2] = True
        return mask


@dataclasses.dataclass(eq=False)
class Bitmap:
    """A mask [h, w] bool whose first pixel lies at (x, y)."""

    pixels: np.ndarray
    x: int = 0
    y: int = 0

    def mask(self, height, width):
        """[height, width] bool; what lies outside the image is cut off."""
        mask = np.zeros((height, width), bool)
        y, x = max(self.y, 0), max(self.x, 0)
        part = self.pixels[y - self.y :, x - self.x :][: max(height - y, 0), : max(width - x, 0)]
        mask[y : y + part.shape[0], x : x + part.shape[1]] = part
        return mask


@dataclasses.dataclass
class CocoSegmentation:
    """An annotation of COCO's layout, polygons or run lengths, drawn by pycocotools."""

    annotation: dict

    def mask(self, height, width):
        """[height, width] bool. ValueError: run lengths of another size."""
        return coco.decode([self.annotation], height, width)[..., 0]


@dataclasses.dataclass
class Region:
    """One object: its class's name, its shape (with a `mask(height, width)`), whether it is a
    crowd, its number there."""

    name: str
    shape: object
    crowd: bool = False
    number: object = None


@dataclasses.dataclass
class AnnotatedImage:
    """A photograph that exists: its name in the annotations, its file and size as shown, and its
    objects."""

    name: str
    path: str
    height: int
    width: int
    regions: list

    def masks(self):
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
    images: list
    classes: list
    problems: list

    def summary(self):
        """A few lines: images, objects of each class, how many problems there were."""
        counts = collections.Counter(
            region.name for image in self.images for region in image.regions
        )
        objects = ", ".join(f"{name} {counts[name]}" for name in self.classes)
        return f"{self.path}: {len(self.images)} images; objects: {objects}" + (
            f"; {len(self.problems)} images or regions left out" if self.problems else ""
        )

    def split(self, share, seed=0):
        """Two `Annotations`: the images without and with about a `share` (0..1) of them, at least
        one in each.

        An image's name decides where it belongs, so that it stays there when others are added.
        """
        if len(self.images) < 2:
            raise AnnotationError(
                f"{self.path}: a split needs 2 images with objects. Received: {len(self.images)}"
            )
        draws = [zlib.crc32(f"{seed} {image.name}".encode()) / 2**32 for image in self.images]
        bound = min(max(share, min(draws)), sorted(draws)[-2])
        return tuple(
            dataclasses.replace(
                self,
                images=[
                    image for image, draw in zip(self.images, draws) if (draw <= bound) == second
                ],
            )
            for second in (False, True)
        )


class AnnotatedDataset(utils.Dataset):
    """A `Dataset` of annotations in any of the formats, of one source or several.

    `AnnotatedDataset.of("balloon", annotations)` is one of a single source, prepared.
    """

    @classmethod
    def of(cls, source, annotations, classes=None):
        """A prepared dataset of one source; arguments as for `load`."""
        dataset = cls()
        dataset.load(source, annotations, classes)
        dataset.prepare()
        return dataset

    def load(self, source, annotations, classes=None):
        """Adds classes and images; call `prepare` afterwards.

        Args:
            source: name of the data, without a dot.
            annotations: `Annotations`, see `read`.
            classes: names in the order of their ids 1, 2, ...; None for those of `annotations`.
                Give the training set's to the validation set.

        Raises:
            AnnotationError: a region of another class.
        """
        classes = list(annotations.classes if classes is None else classes)
        unknown = sorted(
            {region.name for image in annotations.images for region in image.regions} - set(classes)
        )
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

    def load_image(self, image_id):
        """[H, W, 3] uint8, a camera's rotation applied unless the annotations are of the stored
        pixels."""
        info, image = self.image_info[image_id], super().load_image(image_id)
        if "annotation" in info and image.shape[:2] != (info["height"], info["width"]):
            return utils.read_image(info["path"], rotate=False)
        return image

    def load_mask(self, image_id):
        """masks [H, W, N] bool; class_ids [N] int32, negative for crowds."""
        info = self.image_info[image_id]
        if "annotation" not in info:
            return super().load_mask(image_id)
        ids = [
            self.map_source_class_id(f"{info['source']}.{info['names'].index(region.name) + 1}")
            * (-1 if region.crowd else 1)
            for region in info["annotation"].regions
        ]
        return info["annotation"].masks(), np.array(ids, np.int32)


############################################################
#  Checking
############################################################


class _Problem(ValueError):
    """What is wrong with one image or region; the reader adds the place."""


class _Reader:
    """Collects problems and images of one source of annotations."""

    def __init__(self, path, images, keep_empty):
        self.path = os.fspath(path)
        own = self.path if os.path.isdir(path) else os.path.dirname(self.path)
        self.folder = own if images is None else os.fspath(images)
        self.keep_empty, self.problems, self.images, self.without = keep_empty, [], [], 0

    def problem(self, place, text):
        """Notes and logs a problem. place: "image x, region 3"."""
        self.problems.append(f"{self.path}: {place}: {text}" if place else f"{self.path}: {text}")
        logger.warning("%s; left out", self.problems[-1])

    def regions(self, place, items, read):
        """`read(item)` of each item; those with problems are noted. items: (number, item) pairs."""
        for number, item in items:
            try:
                yield dataclasses.replace(read(item), number=number)
            except _Problem as error:
                self.problem(f"{place}, region {number}", str(error))

    def add(self, name, regions, size=None):
        """Adds an image whose file exists and that has regions, or any with `keep_empty`.

        Args:
            name: the file's name as annotated, relative to the folder of images.
            size: (height, width) that the annotation was made for, None if unknown.
        """
        if not regions and not self.keep_empty:
            self.without += 1
            return
        path = os.path.join(self.folder, name.replace("\\", "/"))
        try:
            (height, width), stored = _sizes(path)
        except FileNotFoundError:
            self.problem(f"image {name!r}", f"expected its file. Received: no file {path}")
            return
        except (OSError, ValueError, SyntaxError) as error:
            self.problem(
                f"image {name!r}", f"expected an image that can be read. Received: {error}"
            )
            return
        if size == stored:
            height, width = stored  # annotated by a program that ignores a camera's rotation
        if size is not None and size != (height, width):
            self.problem(
                f"image {name!r}",
                f"annotated at (height, width) {size}. Received: {path} of {(height, width)}",
            )
            return
        kept = []
        for region in regions:
            # Drawn once: what trains nothing, or can't be drawn, is said now rather than in the
            # first epoch.
            try:
                if not region.shape.mask(height, width).any():
                    raise ValueError(
                        "expected a region with a pixel in the image of (height, width)"
                        f" {(height, width)}. Received: {_short(region.shape)}"
                    )
                kept.append(region)
            except (ValueError, TypeError, KeyError) as error:
                self.problem(f"image {name!r}, region {region.number}", str(error))
        if kept or self.keep_empty:
            self.images.append(AnnotatedImage(name, path, height, width, kept))

    def finish(self, classes=None):
        """The `Annotations`; AnnotationError if nothing is left."""
        if self.without:
            logger.info("%s: %d images without regions are left out", self.path, self.without)
        if not self.images:
            first = "".join(f"\n  {text}" for text in self.problems[:5])
            raise AnnotationError(
                f"{self.path}: expected images with regions. Received: none that can be used; "
                f"{self.without} without regions, {len(self.problems)} problems{first}"
            )
        if classes is None:
            classes = sorted({region.name for image in self.images for region in image.regions})
        return Annotations(self.path, self.images, classes, self.problems)


def _sizes(path):
    """(height, width) of an image file as it is shown, and as it is stored, from its header."""
    from PIL import Image

    with Image.open(path) as image:
        width, height = image.size
        # EXIF orientations 5 to 8 lie on their side.
        turned = image.getexif().get(0x0112, 1) >= 5
    return (width, height) if turned else (height, width), (height, width)


def _short(value):
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _field(data, name, kind, what):
    """data[name] of one kind, or _Problem."""
    value = data.get(name) if isinstance(data, dict) else None
    if not isinstance(value, kind):
        expected = {dict: "an object {...}", list: "a list", str: "a text"}.get(
            kind, "a list or an object {...}"
        )
        raise _Problem(
            f"expected {what} with {name!r}, {expected}. Received:"
            f" {_short(data if value is None else value)}"
        )
    return value


def _number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _numbers(shape, names, positive=()):
    """The numbers `names` of a shape's dict, those in `positive` above 0."""
    bad = [
        name
        for name in names
        if not _number(shape.get(name)) or name in positive and shape[name] <= 0
    ]
    if bad:
        above = f" ({', '.join(positive)} above 0)" if positive else ""
        raise _Problem(
            f"expected {', '.join(names)} as numbers{above}. Received: "
            + ", ".join(f"{name}: {_short(shape.get(name))}" for name in bad)
        )
    return [float(shape[name]) for name in names]


def _outline(points, what):
    """The points, at least 3 of two numbers, as they are."""
    if not isinstance(points, list) or not all(
        isinstance(p, (list, tuple)) and len(p) == 2 and all(map(_number, p)) for p in points
    ):
        raise _Problem(
            f"expected {what} as a list of points of two numbers. Received: {_short(points)}"
        )
    if len(points) < 3:
        raise _Problem(f"expected {what} of at least 3 points. Received: {len(points)}")
    return points


def _load_json(path):
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


def read(path, images=None, attribute=None, label=None, keep_empty=False):
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


def _format_of(data):
    if isinstance(data, dict):
        if "shapes" in data and "imagePath" in data:
            return "labelme"
        if "images" in data and "annotations" in data:
            return "coco"
        if "_via_img_metadata" in data:
            return "via"
        if data and all(isinstance(entry, dict) and "filename" in entry for entry in data.values()):
            return "via"
    return None


def _read_file(path, images=None, attribute=None, label=None, keep_empty=False, expected=None):
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
    keys = (
        f"an object with {_short(list(data)[:6])}"
        if isinstance(data, dict)
        else f"a {type(data).__name__}"
    )
    raise AnnotationError(f"{path}: expected {FORMATS}. Received: {keys}")


############################################################
#  VIA
############################################################


def read_via(path, images=None, attribute=None, label=None, keep_empty=False):
    """Reads a VIA 1.x or 2.x json, exported annotations or a 2.x project; see `read`.

    Polygons, rectangles, circles and ellipses are regions, a polyline is closed to a polygon; a
    point is reported and left out.
    """
    return _read_file(path, images, attribute, label, keep_empty, expected="via")


def _read_via(path, data, images, attribute, label, keep_empty):
    reader = _Reader(path, images, keep_empty)
    entries = data.get("_via_img_metadata", data)
    if not isinstance(entries, dict):
        raise AnnotationError(
            f"{path}: expected '_via_img_metadata' to be an object {{...}}. Received:"
            f" {_short(entries)}"
        )
    found, seen = [], set()  # (file name, [(number, region)])
    for key, entry in entries.items():
        try:
            name = _field(entry, "filename", str, "an image")
            regions = _field(entry, "regions", (list, dict), "an image")
            if name in seen:
                raise _Problem(
                    f"expected one entry for each image. Received: a second one of {name!r}"
                )
        except _Problem as error:
            reader.problem(f"image {key!r}", str(error))
            continue
        seen.add(name)
        # 1.x: {"0": region, ...}, 2.x: [region, ...]
        found.append(
            (name, list(regions.items() if isinstance(regions, dict) else enumerate(regions)))
        )
    if label is None:
        attribute = _attribute(path, found, attribute)
        label = "object" if attribute is None else None  # nothing tells classes apart

    def region(item):
        return Region(
            label or _via_name(item, attribute),
            _via_shape(_field(item, "shape_attributes", dict, "a region")),
        )

    for name, items in found:
        reader.add(name, list(reader.regions(f"image {name!r}", items, region)))
    return reader.finish([label] if label else None)


def _attribute(path, found, attribute):
    """The region attribute that holds the class: the one asked for, or the only one there is."""
    values = collections.defaultdict(collections.Counter)
    for _, items in found:
        for _, item in items:
            attributes = item.get("region_attributes") if isinstance(item, dict) else None
            for key, value in attributes.items() if isinstance(attributes, dict) else ():
                values[key][_short(value)] += 1
    known = (
        "; ".join(f"{key} ({', '.join(list(counts)[:5])})" for key, counts in values.items())
        or "none"
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


def _via_name(item, attribute):
    attributes = _field(item, "region_attributes", dict, "a region")
    value = attributes.get(attribute)
    if isinstance(value, dict):  # check boxes: {"red": true}
        value = [name for name, checked in value.items() if checked]
        value = value[0] if len(value) == 1 else value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise _Problem(
            f"expected one class in the attribute {attribute!r}. Received: {_short(value)}"
        )
    return value.strip()


def _via_shape(shape):
    kind = shape.get("name")
    if kind in ("polygon", "polyline"):
        xs, ys = (
            _field(shape, name, list, f"a {kind}") for name in ("all_points_x", "all_points_y")
        )
        if len(xs) != len(ys):
            raise _Problem(
                f"expected as many all_points_x as all_points_y. Received: {len(xs)} and {len(ys)}"
            )
        return Polygons([_outline([list(p) for p in zip(xs, ys)], f"a {kind}")])
    if kind == "rect":
        x, y, width, height = _numbers(
            shape, ("x", "y", "width", "height"), positive=("width", "height")
        )
        return Rectangle(x, y, x + width, y + height)
    if kind == "circle":
        x, y, radius = _numbers(shape, ("cx", "cy", "r"), positive=("r",))
        return Ellipse(x, y, radius, radius)
    if kind == "ellipse":
        # theta came with 2.0.6; files before are upright.
        return Ellipse(
            *_numbers(
                {"theta": 0.0, **shape}, ("cx", "cy", "rx", "ry", "theta"), positive=("rx", "ry")
            )
        )
    raise _Problem(
        "expected a polygon, rect, circle, ellipse or polyline, which enclose pixels. "
        f"Received: {_short(kind)}"
    )


############################################################
#  LabelMe
############################################################


def read_labelme(path, images=None, keep_empty=False):
    """Reads LabelMe's json of one image, or those of a folder; see `read`.

    Polygons, rectangles, circles and masks are regions, a line strip is closed to a polygon; points
    and lines are reported and left out. Shapes with one label and one group_id are the parts of one
    object.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        return read(path, images, keep_empty=keep_empty)
    return _read_file(path, images, keep_empty=keep_empty, expected="labelme")


def _read_labelme(path, loaded, images, keep_empty):
    reader = _Reader(path, images, keep_empty)
    for file, data in loaded.items():
        place = f"file {os.path.basename(file)}"
        try:
            name, shapes = (
                _field(data, "imagePath", str, "an image"),
                _field(data, "shapes", list, "an image"),
            )
        except _Problem as error:
            reader.problem(place, str(error))
            continue
        size = data.get("imageHeight"), data.get("imageWidth")
        groups = {}
        for region in reader.regions(
            f"{place}, image {name!r}", enumerate(shapes), _labelme_region
        ):
            group = shapes[region.number].get("group_id")
            groups.setdefault(region.number if group is None else (region.name, group), []).append(
                region
            )
        reader.add(
            name, [_joined(parts) for parts in groups.values()], size if None not in size else None
        )
    return reader.finish()


@dataclasses.dataclass
class _Union:
    """Several shapes of one object."""

    shapes: list

    def mask(self, height, width):
        """[height, width] bool."""
        return np.any([shape.mask(height, width) for shape in self.shapes], axis=0)


def _joined(regions):
    return (
        regions[0]
        if len(regions) == 1
        else dataclasses.replace(regions[0], shape=_Union([r.shape for r in regions]))
    )


def _labelme_region(item):
    name, kind = _field(item, "label", str, "a shape").strip(), item.get("shape_type") or "polygon"
    points = item.get("points")
    if not name:
        raise _Problem(f"expected a label. Received: {item['label']!r}")
    if kind in ("polygon", "linestrip", "oriented_rectangle"):
        return Region(name, Polygons([_outline(points, f"a {kind}")], exact=True))
    if kind not in ("rectangle", "circle", "mask"):
        raise _Problem(
            "expected a polygon, rectangle, circle, mask, linestrip or oriented_rectangle, which"
            f" enclose pixels. Received: {_short(kind)}"
        )
    if not (
        isinstance(points, list)
        and len(points) == 2
        and all(
            isinstance(p, (list, tuple)) and len(p) == 2 and all(map(_number, p)) for p in points
        )
    ):
        raise _Problem(f"expected a {kind} of 2 points of two numbers. Received: {_short(points)}")
    (x1, y1), (x2, y2) = points
    if kind == "circle":  # its middle and a point on its rim
        radius = math.hypot(x2 - x1, y2 - y1)
        if not radius:
            raise _Problem(
                f"expected a circle's middle and a point of its rim. Received: {_short(points)}"
            )
        return Region(name, Ellipse(x1 - 0.5, y1 - 0.5, radius, radius))
    left, top = min(x1, x2), min(y1, y2)
    if kind == "rectangle":
        return Region(name, Rectangle(left, top, max(x1, x2), max(y1, y2)))
    return Region(name, Bitmap(_png(item.get("mask")), round(left), round(top)))


def _png(text):
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


def read_coco(path, images=None, keep_empty=False):
    """Reads an `instances_*.json` in COCO's layout; see `read`. Crowds are kept as such."""
    return _read_file(path, images, keep_empty=keep_empty, expected="coco")


def _read_coco(path, images, keep_empty):
    try:
        data = coco.read_annotations(path)
    except ValueError as error:
        raise AnnotationError(str(error)) from error
    names = {key: category["name"] for key, category in data.cats.items()}
    twice = [name for name, count in collections.Counter(names.values()).items() if count > 1]
    if twice:
        raise AnnotationError(
            f"{path}: expected each category's name once. Received: {', '.join(map(repr, twice))}"
            " twice"
        )
    reader = _Reader(path, images, keep_empty)
    for key, image in data.imgs.items():
        regions = [
            Region(
                names[item["category_id"]],
                CocoSegmentation(item),
                bool(item["iscrowd"]),
                item["id"],
            )
            for item in data.imgToAnns.get(key, [])
        ]
        reader.add(image["file_name"], regions, (image["height"], image["width"]))
    return reader.finish([names[key] for key in sorted(names)])
