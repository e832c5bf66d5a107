"""Reads CreateML's json of boxes, also as Roboflow, RectLabel and MakeML export it."""

import logging
from typing import Any

from mrcnn import files
from mrcnn.outlines import Rectangle
from mrcnn.reading import (
    Annotations,
    Entry,
    Problem,
    Reader,
    Region,
    class_name_of,
    field_or_none,
    numbers_of,
    values_of,
)

logger = logging.getLogger(__name__)

# Keys under which programs write the name of an image, and its annotations.
_NAMES = ("image", "imagefilename", "imageFilename", "image_filename")
_LISTS = ("annotations", "annotation")


def is_createml(data: Any) -> bool:
    """Whether a json is CreateML's: a list of images, of which one has an object with a box."""
    if not isinstance(data, list):
        return False
    return any(
        _name_of(item) and isinstance(field_or_none(annotation, "coordinates"), dict)
        for item in data
        for annotation in _annotations_of(item)
    )


def read_createml(reader: Reader, data: Any) -> Annotations:
    """Reads the images of a json; the boxes are taken for the objects' shapes, with a warning.

    Args:
        reader: of the file.
        data: its content.

    Raises:
        AnnotationError: no image can be used.
    """
    boxes = 0
    for number, item in enumerate(data):
        name = _name_of(item)
        if not name:
            reader.problem(
                f"item {number}", f"expected the name of an image. Received: {files.short(item)}"
            )
            continue
        annotations = _annotations_of(item)
        entry = Entry(name, [])
        entry.regions = list(reader.regions(f"image {name!r}", enumerate(annotations), _region))
        boxes += len(entry.regions)
        reader.add(entry, annotated=bool(annotations))
    if boxes:
        logger.warning(
            "%s: CreateML has no outlines; the boxes of %d objects are taken for their shapes",
            reader.path,
            boxes,
        )
    return reader.finish()


def _name_of(item: Any) -> str:
    """The name of an image's file; "" without one."""
    for key in _NAMES:
        name = field_or_none(item, key)
        if isinstance(name, str) and name.strip():
            return name
    return ""


def _annotations_of(item: Any) -> list:
    """The annotations of an image; none if it has no list."""
    for key in _LISTS:
        annotations = field_or_none(item, key)
        if isinstance(annotations, list):
            return list(values_of(annotations))
    return []


def _region(item: Any) -> Region:
    """The region of an annotation; x and y are the middle of its box, in pixels."""
    name = class_name_of(field_or_none(item, "label"), "a label")
    coordinates = field_or_none(item, "coordinates")
    if not isinstance(coordinates, dict):
        raise Problem(f"expected coordinates of a box. Received: {files.short(item)}")
    x, y, width, height = numbers_of(
        coordinates, ("x", "y", "width", "height"), positive=("width", "height")
    )
    if max(x, y, width, height) <= 1:
        raise Problem(
            "expected a box in pixels. Received: one in parts of the image,"
            f" {files.short(coordinates)}"
        )
    return Region(name, Rectangle(x - width / 2, y - height / 2, x + width / 2, y + height / 2))
