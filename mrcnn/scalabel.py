"""Reads Scalabel's json, in which BDD100K is published: polygons and run lengths of frames."""

import functools
import logging
from typing import Any

import numpy as np

from mrcnn import coco, files
from mrcnn.outlines import Polygons, Rectangle
from mrcnn.reading import (
    Annotations,
    Entry,
    Problem,
    Reader,
    Region,
    class_name_of,
    field_of,
    field_or_none,
    given_size,
    numbers_of,
    outline_of,
    run_lengths_of,
    values_of,
)

logger = logging.getLogger(__name__)

# Points of a Bezier curve that are drawn between its ends: within 0.1 pixels for arcs of 100.
CURVE_POINTS = 15
# Labels with one of these attributes are not evaluated in BDD100K.
_CROWD_ATTRIBUTES = ("crowd", "ignored", "ignore")


def is_scalabel(data: Any) -> bool:
    """Whether a json is Scalabel's: a list of frames, or an object with such a list."""
    frames = data
    if isinstance(data, dict):
        frames = data.get("frames")
    if not isinstance(frames, list):
        return False
    return any(
        isinstance(frame, dict)
        and isinstance(frame.get("name"), str)
        and ("labels" in frame or "videoName" in frame)
        for frame in frames
    )


def read_scalabel(reader: Reader, data: Any) -> Annotations:
    """Reads the frames of a json; each is an image.

    The closed polygons of a label are the parts of one object; Bezier curves are drawn. Boxes are
    read only where no label has a polygon or run lengths, with a warning. Labels that are crowds,
    or to be ignored, are crowds.

    Args:
        reader: of the file.
        data: its content.

    Raises:
        AnnotationError: no image can be used.
    """
    config: Any = None
    frames = data
    if isinstance(data, dict):
        frames = data["frames"]
        config = data.get("config")
    common_size = None
    for field in ("imageSize", "image_size"):
        common_size = common_size or _size_of(field_or_none(config, field))
    has_shapes = any(map(_has_shape, (label for frame in frames for label in _labels_of(frame))))
    boxes = 0
    without_labels = []
    for number, frame in enumerate(frames):
        try:
            name = field_of(frame, "name", str, "a frame")
        except Problem as error:
            reader.problem(f"frame {number}", str(error))
            continue
        labels = _labels_of(frame)
        if not isinstance(frame.get("labels"), list):
            without_labels.append(name)
        size = _size_of(frame.get("size")) or common_size
        entry = Entry(name, [], size, _other_names(frame))
        read_region = functools.partial(_region, size=size, boxes=not has_shapes)
        entry.regions = list(reader.regions(f"image {name!r}", enumerate(labels), read_region))
        boxes += len(entry.regions)
        reader.add(entry, annotated=bool(labels))
    if not has_shapes and boxes:
        logger.warning(
            "%s: no label has a polygon; the boxes of %d are taken for their shapes",
            reader.path,
            boxes,
        )
    if without_labels and reader.keep_empty:
        logger.warning(
            "%s: %d frames have no list of labels and are taken for images without objects: %s",
            reader.path,
            len(without_labels),
            files.several(without_labels),
        )
    classes = _classes_of(field_or_none(config, "categories"))
    if not classes:
        return reader.finish()
    used = {region.name for entry in reader.entries for region in entry.regions}
    return reader.finish([*classes, *sorted(used - set(classes))])


def _labels_of(frame: Any) -> list:
    """The labels of a frame; none if it has no list."""
    labels = field_or_none(frame, "labels")
    if isinstance(labels, list):
        return labels
    return []


def _other_names(frame: dict) -> tuple[str, ...]:
    """Other names of a frame's file: in its video's folder, and its address."""
    names = []
    video = frame.get("videoName") or frame.get("video_name")
    if isinstance(video, str) and video:
        names.append(f"{video}/{frame['name']}")
    if isinstance(frame.get("url"), str) and frame["url"]:
        names += [frame["url"], coco.name_of_address(frame["url"])]
    return tuple(names)


def _size_of(value: Any) -> tuple[int, int] | None:
    """(height, width) of an object with these; None for another value."""
    return given_size(field_or_none(value, "height"), field_or_none(value, "width"))


def _classes_of(categories: Any) -> list[str]:
    """The names of the categories of a config, those of lowest level; empty without any."""
    names: list[str] = []
    for category in values_of(categories):
        below = _classes_of(field_or_none(category, "subcategories"))
        name = category
        if isinstance(category, dict):
            name = category.get("name")
        if below:
            names += below
        elif isinstance(name, str) and name.strip():
            names.append(class_name_of(name, "a category's name"))
    return list(dict.fromkeys(names))


def _has_shape(label: Any) -> bool:
    """Whether a label has a polygon or run lengths."""
    return bool(field_or_none(label, "poly2d") or field_or_none(label, "rle"))


def _region(item: Any, size: tuple[int, int] | None, boxes: bool) -> Region:
    """The region of a label.

    Args:
        item: the label.
        size: (height, width) of its image; None if unknown.
        boxes: whether its box is taken for its shape.
    """
    name = class_name_of(field_or_none(item, "category"), "a label with a category")
    attributes = item.get("attributes")
    if not isinstance(attributes, dict):
        attributes = {}
    crowd = any(attributes.get(key) in (True, 1) for key in _CROWD_ATTRIBUTES)
    extra = {
        key: value
        for key, value in attributes.items()
        if key not in _CROWD_ATTRIBUTES and value not in (None, False, "", "none")
    }
    shape: Any = None
    if isinstance(item.get("rle"), dict):
        shape = run_lengths_of(item["rle"], size, extra)
    elif item.get("poly2d"):
        shape = _polygons(item["poly2d"])
    elif boxes and isinstance(item.get("box2d"), dict):
        x1, y1, x2, y2 = numbers_of(item["box2d"], ("x1", "y1", "x2", "y2"))
        shape = Rectangle(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
    if shape is None:
        received = sorted(key for key, value in item.items() if value not in (None, [], {}))
        raise Problem(
            "expected poly2d or rle, an outline or run lengths. Received: a label with "
            + ", ".join(map(str, received))
        )
    return Region(name, shape, crowd, extra=extra or None)


def _polygons(poly2d: Any) -> Polygons:
    """The closed outlines of a label; Problem if there is none, such as of a lane."""
    parts = []
    open_lines = 0
    if isinstance(poly2d, list) and isinstance(poly2d[0], list):
        # The form of 2018: points [x, y, type] of one outline.
        poly2d = [
            {
                "vertices": [point[:2] for point in poly2d],
                "types": "".join(str(point[2]) for point in poly2d if len(point) > 2),
                "closed": True,
            }
        ]
    for part in values_of(poly2d):
        if field_or_none(part, "closed") is False:
            open_lines += 1
            continue
        vertices = outline_of(field_or_none(part, "vertices"), "a polygon")
        parts.append(_with_curves(vertices, part.get("types")))
    if not parts:
        raise Problem(f"expected a closed outline. Received: {open_lines} open lines")
    return Polygons(parts, exact=True)


def _with_curves(vertices: list[list[float]], types: Any) -> list[list[float]]:
    """The points of an outline, its cubic Bezier curves drawn.

    types: a letter for each vertex: L is a corner; two of C are control points of a curve from the
    vertex before to the vertex behind them, of any type. The first vertex is a corner, as Scalabel
    draws it. Problem for other letters.
    """
    if types in (None, ""):
        return vertices
    if not isinstance(types, str) or len(types) != len(vertices) or set(types) - {"L", "C"}:
        raise Problem(
            f"expected types of L and C, one for each of {len(vertices)} vertices. Received:"
            f" {files.short(types)}"
        )
    points = [vertices[0]]
    number = 1
    while number < len(vertices):
        if types[number] == "L":
            points.append(vertices[number])
            number += 1
            continue
        controls = vertices[number : number + 3]
        if len(controls) < 2:
            raise Problem(f"expected two control points of a curve. Received: {types!r}")
        if len(controls) == 2:  # the curve closes the outline
            controls.append(vertices[0])
        points += _curve(points[-1], *controls)
        number += 3
    return points


def _curve(
    start: list[float], control1: list[float], control2: list[float], end: list[float]
) -> list[list[float]]:
    """Points of a cubic Bezier curve behind its start, up to its end."""
    t = np.linspace(0, 1, CURVE_POINTS + 2)[1:, None]
    s = 1 - t
    corners = np.array([start, control1, control2, end], float)
    weights = np.hstack([s**3, 3 * s**2 * t, 3 * s * t**2, t**3])
    return (weights @ corners).tolist()
