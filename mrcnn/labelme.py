"""Reads json files of one image each: LabelMe, ISAT, EISeg, Supervisely, V7 (Darwin), QuPath and
Segment Anything (SA-1B).

The other formats are converted to LabelMe's layout first.
"""

import base64
import functools
import math
import ntpath
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from mrcnn import files
from mrcnn.outlines import (
    Bitmap,
    DrawnShape,
    Ellipse,
    EvenOdd,
    PixelOutline,
    Polygons,
    Rectangle,
    Rings,
    Shape,
    cut_bitmap,
)
from mrcnn.reading import (
    Annotations,
    EmbeddedImage,
    Entry,
    PngMask,
    Problem,
    Reader,
    Region,
    class_name_of,
    field_of,
    field_or_none,
    from_base64,
    given_size,
    joined_by_group,
    number_of,
    numbers_of,
    outline_of,
    point_of,
    points_of,
    run_lengths_of,
    values_of,
)


def read_labelme_jsons(
    path: str,
    loaded: dict[str, Any],
    images: Any,
    keep_empty: bool,
    unusable: dict[str, str] | None = None,
    need_files: bool = True,
    classes: Sequence[str] = (),
    label: str | None = None,
) -> Annotations:
    """Reads the jsons of one image or of a folder.

    Args:
        path: the json, or the folder.
        loaded: {file: its content}.
        images, keep_empty, need_files: see `annotations.read`.
        unusable: {file: why it has no annotations}, which are recorded as problems.
        classes: names of the classes in a file of the folder, in their order.
        label: the class of the masks of Segment Anything, which have none; None for "object".

    Raises:
        AnnotationError: no image can be used.
    """
    reader = Reader(path, images, keep_empty, need_files=need_files)
    folder = reader.own_folder
    for file, reason in (unusable or {}).items():
        reader.problem(f"file {os.path.relpath(file, folder)}", reason)
    has_classes = any(map(_has_classes_of_qupath, loaded.values()))
    for file, data in loaded.items():
        relative = os.path.relpath(file, folder or ".")
        place = f"file {relative}"
        shapes: list = []
        try:
            data, read_region = _in_labelmes_layout(data, has_classes, label)
            entry = _labelme_entry(file, os.path.dirname(relative), data)
            if data.get("shapes") is not None:
                shapes = field_of(data, "shapes", list, "an image")
        except Problem as error:
            reader.problem(place, str(error))
            continue
        place = f"{place}, image {(data.get('imagePath') or entry.name)!r}"
        regions = reader.regions(place, enumerate(shapes), read_region)
        entry.regions = joined_by_group(regions, shapes)
        reader.add(entry, annotated=bool(shapes))
    if not classes:
        return reader.finish()
    used = _class_names_of(reader.entries)
    return reader.finish([*classes, *sorted(used - set(classes))])


def _in_labelmes_layout(
    data: Any, has_classes: bool, label: str | None
) -> tuple[dict, Callable[[Any], Region]]:
    """A json of one image in LabelMe's layout, and the function that reads an item of its shapes.

    Problem for an invalid json.

    Args:
        data: the content of the json.
        has_classes: whether any of QuPath's files has classes.
        label: the class of Segment Anything's masks; None for "object".
    """
    if is_isat(data):
        return _labelme_of_isat(data), _labelme_region
    if is_eiseg(data):
        return _labelme_of_eiseg(data), _labelme_region
    if is_supervisely(data):
        return _labelme_of_supervisely(data), _supervisely_region
    if is_v7(data):
        data = _labelme_of_v7(data)
        return data, functools.partial(_v7_region, masks=_masks_of_v7(data))
    if is_qupath(data):
        shapes = {"imagePath": None, "shapes": _features(data)}
        return shapes, functools.partial(_qupath_region, has_classes=has_classes)
    if is_segment_anything(data):
        return _labelme_of_segment_anything(data), functools.partial(_sam_region, label=label)
    return data, _labelme_region


def _class_names_of(entries: Iterable[Entry]) -> set[str]:
    """The names of the classes of all regions."""
    return {region.name for entry in entries for region in entry.regions}


# ---- LabelMe -------------------------------------------------------------------------------------


def labelme_key(data: Any) -> tuple:
    """A key that is equal for jsons with the same image and shapes."""
    name = field_or_none(data, "imagePath")
    content = field_or_none(data, "shapes")
    if content is None:  # another program's file, with other fields
        content = data
    key = zlib.crc32(repr(content).encode("utf-8", "backslashreplace"))
    return ntpath.basename(str(name)), key


def _labelme_entry(file: str, folder: str, data: dict) -> Entry:
    """The image of a json, without its regions. folder: the json's, relative to the folder read."""
    stem = os.path.splitext(os.path.basename(file))[0]
    name = data.get("imagePath")
    if name is None or name == "":
        name = stem
        if not files.is_image_name(stem):  # some programs write a.jpg.json
            name = f"{stem}.jpg"
    name = field_of({**data, "imagePath": name}, "imagePath", str, "an image")
    beside = stem + os.path.splitext(name)[1]
    entry = Entry(name, [], given_size(data.get("imageHeight"), data.get("imageWidth")))
    entry.beside = os.path.join(folder, beside)
    if folder:
        entry.name = os.path.join(folder, name)
        entry.others = (name,)
    if data.get("supervisely") and os.path.basename(folder) == "ann":
        entry.name = os.path.join(os.path.dirname(folder), "img", name)
    if data.get("imageData"):
        entry.embedded = EmbeddedImage(file, ("imageData",))
    return entry


# Labels that LabelMe's own converters do not read as classes, and their meaning.
_NO_CLASSES = {
    "__ignore__": "what is to be ignored",
    "_background_": "the background",
}


# Types of shapes whose points are an outline: LabelMe's, then X-AnyLabeling's.
_OUTLINES = ("polygon", "linestrip", "oriented_rectangle", "rotation", "quadrilateral")


def _labelme_region(item: Any) -> Region:
    """The region of an item of LabelMe's shapes."""
    if field_or_none(item, "label") is None:
        field_of(item, "label", str, "a shape")
    name = class_name_of(item["label"], "a label")
    if name in _NO_CLASSES:
        raise Problem(
            f"expected an object's label. Received: {name!r}, {_NO_CLASSES[name]} in LabelMe"
        )
    crowd = item.get("iscrowd") in (True, 1, "1")
    return Region(name, _labelme_shape(item), crowd, extra=_labelme_extra(item))


def _labelme_extra(item: dict) -> dict | None:
    """The attributes, flags and description of a shape that have a value; None for none."""
    extra: dict = {}
    for name in ("attributes", "flags"):
        if isinstance(item.get(name), dict):
            extra.update({key: value for key, value in item[name].items() if value})
    if item.get("description"):
        extra["description"] = item["description"]
    return extra or None


def _labelme_shape(item: dict) -> Shape:
    """The shape of an item of LabelMe's shapes."""
    kind = item.get("shape_type") or "polygon"
    if isinstance(kind, str):
        kind = kind.lower()
    points = item.get("points")
    if kind in _OUTLINES:
        return Polygons([outline_of(points, f"a {kind}")], exact=True)
    if kind not in ("rectangle", "circle", "mask"):
        raise Problem(
            "expected a polygon, rectangle, circle, mask, linestrip or oriented_rectangle, which"
            f" enclose pixels. Received: {files.short(kind)}"
        )
    corners = points_of(points, f"a {kind} of 2 points")
    if kind == "rectangle" and len(corners) in (4, 5):  # X-AnyLabeling writes all corners
        return _labelme_corners(corners)
    if len(corners) != 2:
        raise Problem(
            f"expected a {kind} of 2 points of two numbers. Received: {files.short(points)}"
        )
    if kind == "circle":
        return _labelme_circle(corners)
    (x1, y1), (x2, y2) = corners
    left = min(x1, x2)
    top = min(y1, y2)
    if kind == "rectangle":
        return Rectangle(left, top, max(x1, x2), max(y1, y2))
    mask = PngMask(item.get("mask"), round(left), round(top))
    mask.read()
    return mask


def _labelme_corners(points: list) -> Shape:
    """The rectangle of four corners in any order; for another quadrilateral its polygon."""
    xs = [x for x, _ in points]
    ys = [y for _, y in points]
    is_aligned = set(xs) == {min(xs), max(xs)} and set(ys) == {min(ys), max(ys)}
    if is_aligned:
        return Rectangle(min(xs), min(ys), max(xs), max(ys))
    return Polygons([points], exact=True)


def _labelme_circle(points: list) -> Ellipse:
    """The circle of its centre and a point on it."""
    (x, y), (rim_x, rim_y) = points
    radius = math.hypot(rim_x - x, rim_y - y)
    if not radius:
        raise Problem(
            f"expected a circle's middle and a point of its rim. Received: {files.short(points)}"
        )
    return Ellipse(x - 0.5, y - 0.5, radius, radius)


# ---- ISAT and EISeg ------------------------------------------------------------------------------


def is_isat(data: Any) -> bool:
    """Whether a json is ISAT's of one image."""
    info = field_or_none(data, "info")
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


def is_eiseg(data: Any) -> bool:
    """Whether a json is EISeg's own of one image, a list of named outlines."""
    return (
        isinstance(data, list)
        and bool(data)
        and all(isinstance(item, dict) and {"name", "points"} <= set(item) for item in data)
    )


def _labelme_of_eiseg(data: list) -> dict:
    """EISeg's json in LabelMe's layout; the image is named by the json."""
    shapes = [{"label": item["name"], "points": item["points"]} for item in data]
    return {"imagePath": None, "shapes": shapes}


# ---- Supervisely ---------------------------------------------------------------------------------


def is_supervisely(data: Any) -> bool:
    """Whether a json is Supervisely's of one image."""
    size = field_or_none(data, "size")
    return isinstance(size, dict) and "height" in size and isinstance(data.get("objects"), list)


def is_supervisely_meta(data: Any) -> bool:
    """Whether a json is the meta.json of a Supervisely project."""
    classes = field_or_none(data, "classes")
    return isinstance(classes, list) and "tags" in data


def classes_of_meta(data: dict) -> list[str]:
    """The names of the classes of a meta.json, without invalid ones."""
    names = []
    for item in data["classes"]:
        try:
            names.append(class_name_of(field_or_none(item, "title"), "a class's title"))
        except Problem:  # its regions are reported one by one
            continue
    return list(dict.fromkeys(names))


def _labelme_of_supervisely(data: dict) -> dict:
    """Supervisely's json with the keys of LabelMe's.

    The image is named by the json, a.jpg.json; figures of the same `instance` are parts of one
    object.
    """
    shapes = []
    for item in data["objects"]:
        shape = item
        if isinstance(item, dict):
            shape = {**item, "group_id": item.get("instance")}
        shapes.append(shape)
    return {
        "imagePath": None,
        "imageHeight": data["size"].get("height"),
        "imageWidth": data["size"].get("width"),
        "shapes": shapes,
        "supervisely": True,
    }


def _supervisely_region(item: Any) -> Region:
    """The region of an item of Supervisely's objects."""
    name = class_name_of(field_or_none(item, "classTitle"), "an object with a classTitle")
    extra = {}
    for tag in values_of(item.get("tags")):
        if isinstance(tag, dict) and tag.get("name"):
            extra[str(tag["name"])] = tag.get("value", True)
    return Region(name, _supervisely_shape(item), extra=extra or None)


def _supervisely_shape(item: dict) -> DrawnShape:
    """The shape of an item of Supervisely's objects.

    Points are pixels; the second corner of a rectangle is its last pixel.
    """
    kind = item.get("geometryType") or item.get("shape")
    if kind is None and isinstance(item.get("bitmap"), dict):
        kind = "bitmap"
    if kind == "bitmap":
        return _supervisely_bitmap(field_of(item, "bitmap", dict, "a bitmap"))
    if kind not in ("polygon", "rectangle"):
        raise Problem(
            "expected a polygon, bitmap or rectangle, which enclose pixels. Received:"
            f" {files.short(kind)}"
        )
    points = field_of(item, "points", dict, f"a {kind}")
    if kind == "polygon":
        holes = [outline_of(hole, "a hole") for hole in values_of(points.get("interior"))]
        return PixelOutline(outline_of(points.get("exterior"), "a polygon"), holes)
    corners = points_of(points.get("exterior"), "a rectangle of 2 points")
    if len(corners) != 2:
        raise Problem(f"expected a rectangle of 2 points. Received: {files.short(corners)}")
    (x1, y1), (x2, y2) = corners
    return Rectangle(min(x1, x2), min(y1, y2), max(x1, x2) + 1, max(y1, y2) + 1)


def _supervisely_bitmap(bitmap: dict) -> PngMask:
    """The mask of a bitmap: a PNG in base64, compressed with zlib except in older files."""
    origin = point_of(bitmap.get("origin"))
    if origin is None:
        raise Problem(
            f"expected a bitmap's origin, [x, y]. Received: {files.short(bitmap.get('origin'))}"
        )
    text = bitmap.get("data")
    try:
        text = base64.b64encode(zlib.decompress(from_base64(text))).decode()
    except zlib.error:
        pass
    except ValueError as error:
        raise Problem(f"expected a bitmap's data. Received: {error}") from error
    mask = PngMask(text, round(origin[0]), round(origin[1]))
    mask.read()
    return mask


# ---- V7 ------------------------------------------------------------------------------------------


def is_v7(data: Any) -> bool:
    """Whether a json is V7's (Darwin 2.0) of one image."""
    item = field_or_none(data, "item")
    return isinstance(item, dict) and "slots" in item and isinstance(data.get("annotations"), list)


def _labelme_of_v7(data: dict) -> dict:
    """V7's json with the keys of LabelMe's, without tags, which are of the whole image."""
    item = data["item"]
    slots = item["slots"]
    slot: Any = None
    if isinstance(slots, list) and slots:
        slot = slots[0]
    name = item.get("name")
    folder = item.get("path")
    if isinstance(name, str) and isinstance(folder, str) and folder.strip("/"):
        name = f"{folder.strip('/')}/{name}"
    shapes = data["annotations"]
    if not isinstance(slots, list) or len(slots) != 1:  # several slots are several views
        raise Problem(f"expected an item of one slot. Received: {files.short(slots)}")
    return {
        "imagePath": name,
        "imageHeight": field_or_none(slot, "height"),
        "imageWidth": field_or_none(slot, "width"),
        "shapes": [shape for shape in shapes if field_or_none(shape, "tag") is None],
    }


def _masks_of_v7(data: dict) -> dict[str, Bitmap]:
    """{id: mask} of the raster layers, which are removed from the shapes; Problem for invalid ones.

    A layer has pairs (label, run length), row by row, and {id of a mask: label}.

    data: V7's json from `_labelme_of_v7`; its "shapes" are changed.
    """
    size = given_size(data["imageHeight"], data["imageWidth"])
    masks = {}
    for shape in data["shapes"]:
        layer = field_or_none(shape, "raster_layer")
        if not isinstance(layer, dict):
            continue
        try:
            runs = np.array(layer.get("dense_rle"), np.int64).reshape(-1, 2)
            labels = np.repeat(runs[:, 0], runs[:, 1]).reshape(size or (0, 0))
            labels_by_id = {
                key: int(label) for key, label in layer["mask_annotation_ids_mapping"].items()
            }
        except (ValueError, TypeError, OverflowError, KeyError, AttributeError) as error:
            raise Problem(
                "expected a raster_layer with dense_rle of the slot's size, and"
                f" mask_annotation_ids_mapping. Received: {files.short(layer)}"
            ) from error
        for mask_id, label in labels_by_id.items():
            masks[mask_id] = cut_bitmap(labels == label)
    data["shapes"] = [
        shape for shape in data["shapes"] if field_or_none(shape, "raster_layer") is None
    ]
    return masks


def _v7_region(item: Any, masks: dict[str, Bitmap]) -> Region:
    """The region of an item of V7's annotations. masks: from `_masks_of_v7`."""
    name = class_name_of(field_or_none(item, "name"), "an annotation's name")
    return Region(name, _v7_shape(item, masks))


def _v7_shape(item: dict, masks: dict[str, Bitmap]) -> DrawnShape:
    """The shape of an item of V7's annotations; a polygon also has a bounding box."""
    if isinstance(item.get("polygon"), dict):
        paths = field_of(item["polygon"], "paths", list, "a polygon")
        return EvenOdd([outline_of(list(map(_xy, values_of(path))), "a path") for path in paths])
    if "mask" in item:
        mask = masks.get(str(item.get("id")))
        if mask is None:
            raise Problem("expected a raster_layer with the mask. Received: none of its id")
        return mask
    if isinstance(item.get("ellipse"), dict):
        ellipse = item["ellipse"]
        x, y = numbers_of(field_of(ellipse, "center", dict, "an ellipse"), ("x", "y"))
        radii = field_of(ellipse, "radius", dict, "an ellipse")
        radius_x, radius_y = numbers_of(radii, ("x", "y"), positive=("x", "y"))
        return Ellipse(x - 0.5, y - 0.5, radius_x, radius_y, number_of(ellipse.get("angle")) or 0)
    kinds = sorted(set(item) & {"keypoint", "line", "skeleton", "cuboid", "eye", "string"})
    if kinds or not isinstance(item.get("bounding_box"), dict):
        raise Problem(
            "expected a polygon, mask, ellipse or bounding_box, which enclose pixels. Received:"
            f" {files.short(kinds or list(item))}"
        )
    x, y, w, h = numbers_of(item["bounding_box"], ("x", "y", "w", "h"), positive=("w", "h"))
    return Rectangle(x, y, x + w, y + h)


def _xy(point: Any) -> Any:
    """[x, y] of a point {"x": ..., "y": ...}; another value unchanged."""
    if not isinstance(point, dict):
        return point
    return [point.get("x"), point.get("y")]


# ---- QuPath --------------------------------------------------------------------------------------


def _features(data: Any) -> list:
    """The features of a GeoJSON, which is a FeatureCollection or a list of features."""
    features = data
    if isinstance(data, dict):
        features = data.get("features")
    if isinstance(features, list):
        return features
    return []


def is_qupath(data: Any) -> bool:
    """Whether a json is QuPath's GeoJSON of one image, with coordinates in pixels."""
    if isinstance(data, dict) and (data.get("type") != "FeatureCollection" or data.get("crs")):
        return False
    for item in _features(data):
        properties = field_or_none(item, "properties")
        if isinstance(properties, dict) and field_or_none(item, "type") == "Feature":
            return not {"objectType", "classification"}.isdisjoint(properties)
    return False


def _qupath_class(item: Any) -> str | None:
    """The class of a feature; None for none."""
    properties = field_or_none(item, "properties")
    classification = field_or_none(properties, "classification")
    name = field_or_none(classification, "name")
    names = field_or_none(classification, "names")
    if name is None and isinstance(names, list) and names:
        name = ": ".join(map(str, names))  # as QuPath shows derived classes
    return name


def _has_classes_of_qupath(data: Any) -> bool:
    """Whether a feature of a json has a class."""
    return is_qupath(data) and any(_qupath_class(item) is not None for item in _features(data))


def _qupath_region(item: Any, has_classes: bool) -> Region:
    """The region of a QuPath feature.

    has_classes: whether any feature has a class; without any, all have the class "object".
    """
    name = "object"
    if has_classes:
        name = class_name_of(_qupath_class(item), "an object with a classification")
    geometry = field_of(item, "geometry", dict, "a feature")
    kind = geometry.get("type")
    polygons = geometry.get("coordinates")
    if kind == "Polygon":
        polygons = [polygons]
    elif kind != "MultiPolygon":
        raise Problem(
            "expected a Polygon or MultiPolygon, which enclose pixels. Received:"
            f" {files.short(kind)}"
        )
    if not isinstance(polygons, list) or not all(
        isinstance(polygon, list) and polygon for polygon in polygons
    ):
        raise Problem(f"expected lists of rings. Received: {files.short(polygons)}")
    rings = [[outline_of(ring, "a ring") for ring in polygon] for polygon in polygons]
    own_name = field_or_none(item.get("properties"), "name")
    extra = None
    if own_name:
        extra = {"name": own_name}
    return Region(name, Rings(rings), extra=extra)


# ---- Segment Anything ----------------------------------------------------------------------------


def is_segment_anything(data: Any) -> bool:
    """Whether a json is one of SA-1B, or the masks that Segment Anything's script writes."""
    if isinstance(data, list):
        return bool(data) and all(
            isinstance(item, dict)
            and {"segmentation", "predicted_iou"} <= set(item)
            and "image_id" not in item
            for item in data
        )
    image = field_or_none(data, "image")
    return (
        isinstance(image, dict)
        and not {"file_name", "image_id"}.isdisjoint(image)
        and isinstance(data.get("annotations"), list)
    )


def _labelme_of_segment_anything(data: Any) -> dict:
    """Segment Anything's json with the keys of LabelMe's; without a name it is the json's own."""
    image: dict = {}
    shapes = data
    if isinstance(data, dict):
        image = data["image"]
        shapes = data["annotations"]
    size = given_size(image.get("height"), image.get("width"))
    for item in shapes:
        sides = field_or_none(field_or_none(item, "segmentation"), "size")
        if size is None and isinstance(sides, list) and len(sides) == 2:
            size = given_size(*sides)
    height, width = size or (None, None)
    return {
        "imagePath": image.get("file_name"),
        "imageHeight": height,
        "imageWidth": width,
        "shapes": [{"mask": item, "size": size} for item in shapes],
    }


def _sam_region(item: dict, label: str | None) -> Region:
    """The region of a mask, run lengths as COCO's. item: the mask, (height, width) of its image."""
    mask = item["mask"]
    scores = {
        name: mask[name]
        for name in ("predicted_iou", "stability_score")
        if field_or_none(mask, name) is not None
    }
    shape = run_lengths_of(field_or_none(mask, "segmentation"), item["size"], scores)
    return Region(label or "object", shape, extra=scores or None)
