"""Reads Datumaro's own json, as CVAT exports it, too: annotations/<subset>.json, images/."""

import functools
import math
from typing import Any

from mrcnn import files
from mrcnn.outlines import CocoSegmentation, Ellipse, Polygons, Rectangle, Shape, rotated
from mrcnn.reading import (
    BACKGROUNDS,
    Annotations,
    Entry,
    Problem,
    Reader,
    Region,
    class_name_of,
    field_of,
    field_or_none,
    given_size,
    joined_by_group,
    number_of,
    outline_of,
    run_lengths_of,
    values_of,
)

# Types of annotations that are of the whole image.
_OF_IMAGE = ("label", "caption", "hash_key")
# Types that are outlines or masks; a box of one group with them is the box of the same object.
_OUTLINED = ("polygon", "polyline", "mask", "ellipse")


def is_datumaro(data: Any) -> bool:
    """Whether a json is Datumaro's."""
    categories = field_or_none(data, "categories")
    return isinstance(categories, dict) and isinstance(data.get("items"), list)


def read_datumaro(reader: Reader, data: dict) -> Annotations:
    """Reads the items of a json; each is an image.

    Polygons, masks, ellipses and boxes become regions; a polyline is closed to a polygon.
    Annotations of one label and one group are the parts of an object; a box in a group with an
    outline is left out, for it is that object's. The classes are those of the json, in its order.

    Args:
        reader: of the file.
        data: its content.

    Raises:
        AnnotationError: no image can be used.
    """
    labels = _labels_of(data)
    for number, item in enumerate(data["items"]):
        try:
            entry = _entry_of(item)
            items = field_of(item, "annotations", list, "an item")
        except Problem as error:
            reader.problem(f"item {number}", str(error))
            continue
        items = [
            annotation for annotation in items if field_or_none(annotation, "type") not in _OF_IMAGE
        ]
        read_region = functools.partial(_region, labels=labels, size=entry.size)
        numbered = [pair for pair in enumerate(items) if not _is_box_of_another(pair[1], items)]
        regions = reader.regions(f"image {entry.name!r}", numbered, read_region)
        entry.regions = joined_by_group(regions, [_grouped(annotation) for annotation in items])
        reader.add(entry, annotated=bool(items))
    used = {region.name for entry in reader.entries for region in entry.regions}
    names = [name for name in labels if name in used or name.lower() not in BACKGROUNDS]
    return reader.finish(list(dict.fromkeys(names)))


def _labels_of(data: dict) -> list[str]:
    """The names of the classes by label_id, "" for an invalid one."""
    names = []
    for item in values_of(field_or_none(data["categories"].get("label"), "labels")):
        try:
            names.append(class_name_of(field_or_none(item, "name"), "a label's name"))
        except Problem:  # its annotations are reported one by one
            names.append("")
    return names


def _entry_of(item: Any) -> Entry:
    """The image of an item, without its regions; Problem for an item without a name."""
    item_id = field_or_none(item, "id")
    size = None
    paths = []
    for field in ("image", "media"):
        media = field_or_none(item, field)
        path = field_or_none(media, "path")
        if isinstance(path, str) and path:
            paths.append(path)
        sides = field_or_none(media, "size")
        if size is None and isinstance(sides, list) and len(sides) >= 2:
            size = given_size(*sides[:2])
    names = list(dict.fromkeys([*paths, *filter(lambda value: isinstance(value, str), [item_id])]))
    if not names or not names[0]:
        raise Problem(f"expected an item with an id. Received: {files.short(item)}")
    return Entry(names[0], [], size, tuple(names[1:]))


def _group_of(annotation: Any) -> int:
    """The number of an annotation's group; 0 for none."""
    return int(number_of(field_or_none(annotation, "group")) or 0)


def _is_box_of_another(annotation: Any, items: list) -> bool:
    """Whether an annotation is the box of an object that another one outlines."""
    group = _group_of(annotation)
    if field_or_none(annotation, "type") != "bbox" or not group:
        return False
    return any(
        _group_of(item) == group
        and field_or_none(item, "type") in _OUTLINED
        and item.get("label_id") == annotation.get("label_id")
        for item in items
    )


def _grouped(annotation: Any) -> dict:
    """The group of an annotation as `joined_by_group` takes it."""
    return {"group_id": _group_of(annotation) or None}


def _region(item: Any, labels: list[str], size: tuple[int, int] | None) -> Region:
    """The region of an annotation.

    Args:
        item: the annotation.
        labels: names of the classes by label_id.
        size: (height, width) of the image; None if unknown.
    """
    label_id = field_or_none(item, "label_id")
    name = ""
    if isinstance(label_id, int) and 0 <= label_id < len(labels):
        name = labels[label_id]
    if not name:
        raise Problem(
            f"expected the label_id of one of {len(labels)} labels. Received:"
            f" {files.short(label_id)}"
        )
    attributes = item.get("attributes")
    if not isinstance(attributes, dict):
        attributes = {}
    crowd = attributes.get("is_crowd") in (True, 1)
    extra = {
        key: value
        for key, value in attributes.items()
        if key not in ("is_crowd", "rotation") and value not in (None, False, "", [], {})
    }
    shape = _shape_of(item, attributes, size)
    if isinstance(shape, CocoSegmentation) and extra:
        shape.annotation["attributes"] = extra
    return Region(name, shape, crowd, extra=extra or None)


def _shape_of(item: dict, attributes: dict, size: tuple[int, int] | None) -> Shape:
    """The shape of an annotation, in pixels of the image."""
    kind = item.get("type")
    if kind in ("polygon", "polyline"):
        return Polygons([outline_of(_pairs(item.get("points")), f"a {kind}")], exact=True)
    if kind == "mask":
        return run_lengths_of(item.get("rle"), size)
    if kind == "ellipse":
        x1, y1, x2, y2 = _four(item.get("points"), "an ellipse's points x1, y1, x2, y2")
        if x1 == x2 or y1 == y2:
            raise Problem(f"expected an ellipse with an area. Received: {item.get('points')}")
        return Ellipse((x1 + x2) / 2 - 0.5, (y1 + y2) / 2 - 0.5, abs(x2 - x1) / 2, abs(y2 - y1) / 2)
    if kind == "bbox":
        x, y, width, height = _four(item.get("bbox"), "a bbox of x, y, width, height")
        angle = math.radians(number_of(attributes.get("rotation")) or 0)
        if angle % math.tau:
            corners = [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]
            middle = (x + width / 2, y + height / 2)
            return Polygons([rotated(corners, *middle, angle)], exact=True)
        return Rectangle(x, y, x + width, y + height)
    raise Problem(
        "expected a polygon, a mask, an ellipse or a box, which enclose pixels. Received:"
        f" {files.short(kind)}"
    )


def _pairs(values: Any) -> Any:
    """The points [x, y] of a flat list of numbers; another value as it is."""
    if not isinstance(values, list):
        return values
    return [list(pair) for pair in zip(values[::2], values[1::2], strict=False)]


def _four(values: Any, subject: str) -> list[float]:
    """Four numbers; Problem for another value. subject: the values, for messages."""
    numbers = []
    if isinstance(values, list):
        numbers = [number for number in map(number_of, values) if number is not None]
    if not isinstance(values, list) or len(values) != 4 or len(numbers) != 4:
        raise Problem(f"expected {subject}. Received: {files.short(values)}")
    return numbers
