"""Reads annotations of the VGG Image Annotator: json and csv of versions 1 and 2, projects of 3."""

import collections
import csv
import dataclasses
import io
import json
import os
from typing import Any

from mrcnn import files
from mrcnn.outlines import Ellipse, Polygons, Rectangle, Shape
from mrcnn.reading import (
    AnnotationError,
    Annotations,
    EmbeddedImage,
    Entry,
    Problem,
    Reader,
    Region,
    class_name_of,
    field_of,
    field_or_none,
    numbers_of,
    outline_of,
)


@dataclasses.dataclass
class _ViaImage:
    """An image of VIA.

    Attributes:
        name: name of the image file.
        items: a pair (number, content) for each region.
        others: other names that the image file may have.
        embedded: the image, if it is embedded in the json.
    """

    name: str
    items: list[tuple[Any, Any]]
    others: tuple[str, ...] = ()
    embedded: EmbeddedImage | None = None


def read_via_content(
    reader: Reader,
    data: Any,
    attribute: str | None,
    label: str | None,
) -> Annotations:
    """Reads VIA's json of any version, or the content of a csv from `load_csv`."""
    if is_via3(data):
        images = _via3_images(reader, data)
    else:
        images = _via_images(reader, data)
    if label is None:
        attribute = _attribute(reader.path, images, attribute)
        if attribute is None:
            label = "object"  # no attribute distinguishes classes

    def region(item: Any) -> Region:
        name = label
        if not name:
            name = _via_name(item, attribute)
        shape = _via_shape(field_of(item, "shape_attributes", dict, "a region"))
        return Region(name, shape, extra=_other_attributes(item, attribute))

    for image in images:
        regions = list(reader.regions(f"image {image.name!r}", image.items, region))
        entry = Entry(image.name, regions, None, image.others, embedded=image.embedded)
        reader.add(entry, annotated=bool(image.items))
    if label:
        return reader.finish([label])
    return reader.finish()


def _via_images(reader: Reader, data: Any) -> list[_ViaImage]:
    """The images of a VIA 1 or 2 json; problems are recorded."""
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
    images = []
    items_by_name: dict[str, list] = {}
    for key, entry in entries.items():
        try:
            image = _via_image(entry, folders)
            if image.items and image.items in items_by_name.setdefault(image.name, []):
                raise Problem(
                    f"expected one entry for each image. Received: a second one of {image.name!r}"
                )
            items_by_name.setdefault(image.name, []).append(image.items)
        except Problem as error:
            reader.problem(f"image {key!r}", str(error))
            continue
        if entry.get("base64_img_data"):
            image.embedded = EmbeddedImage(reader.path, (*place, key, "base64_img_data"))
        images.append(image)
    return images


def _via_image(entry: Any, folders: list[str]) -> _ViaImage:
    """The image of an entry of VIA 1 or 2."""
    others = []
    if isinstance(entry, dict) and isinstance(entry.get("fileref"), str) and entry["fileref"]:
        others.append(entry["fileref"])
    if others and not entry.get("filename"):
        name = others[0]
    else:
        name = field_of(entry, "filename", str, "an image")
    others += [f"{folder.rstrip('/')}/{name}" for folder in folders]
    regions: Any = []
    if entry.get("regions") is not None:
        regions = field_of(entry, "regions", (list, dict), "an image")
    if isinstance(regions, dict):  # 1.x: {"0": region, ...}, 2.x: [region, ...]
        items = list(regions.items())
    else:
        items = list(enumerate(regions))
    return _ViaImage(name, items, tuple(others))


def _via_folders(data: Any) -> list[str]:
    """The folders or addresses of the images of a VIA 2 project."""
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


# ---- Projects of VIA 3 ---------------------------------------------------------------------------


# {VIA 3's number of a shape: (VIA 2's name, fields of the numbers that follow)}; None for points.
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


# VIA 3's numbers of types: of a file that is an image, of an attribute that is check boxes.
_VIA3_IMAGE = 2
_VIA3_CHECKBOX = 2


def is_via3(data: Any) -> bool:
    """Whether a json's content is a project of VIA 3."""
    return isinstance(data, dict) and {"project", "file", "metadata", "view"} <= set(data)


def _via3_images(reader: Reader, data: dict) -> list[_ViaImage]:
    """The images of a VIA 3 project, with regions in VIA 2's layout; problems are recorded."""
    tables: dict[str, dict] = {}
    for name in ("file", "view", "metadata", "attribute"):
        table = data.get(name)
        if not isinstance(table, dict):
            raise AnnotationError(
                f"{reader.path}: expected {name!r} of a VIA 3 project to be an object {{...}}. "
                f"Received: {files.short(table)}"
            )
        tables[name] = table
    images = {}
    for key, view in tables["view"].items():
        try:
            images[key] = _via3_image(reader, view, tables["file"])
        except Problem as error:
            reader.problem(f"view {key!r}", str(error))
    for key, item in tables["metadata"].items():
        xy = None
        if isinstance(item, dict):
            xy = item.get("xy")
        if xy == []:  # metadata of the whole image, or of a segment of a video
            continue
        image = images.get(str(field_or_none(item, "vid")))
        if image is not None:
            image.items.append((key, _via3_region(item, xy, tables["attribute"])))
        elif str(field_or_none(item, "vid")) not in tables["view"]:
            reader.problem(f"region {key!r}", f"expected its view. Received: {files.short(item)}")
    return list(images.values())


def _via3_image(reader: Reader, view: Any, files_by_id: dict) -> _ViaImage:
    """The image of a view. files_by_id: {id: file}, the project's files."""
    file_ids = field_of(view, "fid_list", list, "a view")
    if len(file_ids) != 1:
        raise Problem(f"expected a view of one image. Received: the files {files.short(file_ids)}")
    file_id = str(file_ids[0])
    file = files_by_id.get(file_id, {})
    name = field_of(file, "fname", str, "a file")
    if str(file.get("type", _VIA3_IMAGE)) != str(_VIA3_IMAGE):
        raise Problem(f"expected an image. Received: {name!r}, a video or a sound")
    image = _ViaImage(name, [])
    source = file.get("src")
    if isinstance(source, str) and source.startswith("data:"):
        image.embedded = EmbeddedImage(reader.path, ("file", file_id, "src"))
    elif isinstance(source, str) and source:
        image.others = (source,)
    return image


def _via3_region(item: dict, xy: Any, table: dict) -> dict:
    """A region in VIA 2's layout. table: the project's attributes by id."""
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
            name = field_or_none(attribute, "aname") or key
            attributes[str(name)] = _via3_value(attribute, value)
    return {"shape_attributes": shape, "region_attributes": attributes}


def _via3_value(attribute: Any, value: Any) -> Any:
    """A region's value of an attribute: the text of a choice, {text: True} of check boxes."""
    options = field_or_none(attribute, "options")
    if not isinstance(options, dict) or not options:
        return value
    if str(attribute.get("type")) == str(_VIA3_CHECKBOX) and isinstance(value, str):
        return {str(options.get(key, key)): True for key in value.split(",") if key}
    if isinstance(value, (str, int)):
        return options.get(str(value), value)
    return value


# ---- csv -----------------------------------------------------------------------------------------


_CSV_COLUMNS = ("filename", "region_shape_attributes", "region_attributes")


def load_csv(path: str) -> dict:
    """The content of VIA's csv in the layout of its json; AnnotationError for another csv."""
    if not os.path.exists(path):
        raise AnnotationError(f"No annotation file or folder {path}")
    try:
        text = files.read_text(path)
        # Spreadsheet programs save csv with a separator of their own.
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
        if shape != {}:  # an image without regions has one row with {}
            attributes = _cell(cells.get("region_attributes"))
            entry["regions"].append({"shape_attributes": shape, "region_attributes": attributes})
    return entries


def _cell(text: str | None) -> Any:
    """The json in a cell of a csv; its text if that is no json."""
    try:
        return json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text


# ---- Regions -------------------------------------------------------------------------------------


def _attribute(
    path: str,
    images: list[_ViaImage],
    attribute: str | None,
) -> str | None:
    """The region attribute that holds the class: the requested one, or the only one there is.

    Of several attributes, those that are empty in all regions are not considered.
    """
    values: dict[str, collections.Counter] = {}
    filled = set()
    for image in images:
        for _, item in image.items:
            for key, value in _region_attributes(item).items():
                values.setdefault(key, collections.Counter())[files.short(value)] += 1
                if value not in (None, "", {}, []):
                    filled.add(key)
    described = "none"
    if values:
        described = "; ".join(
            f"{key} ({', '.join(list(counts)[:5])})" for key, counts in values.items()
        )
    if attribute is not None and attribute not in values:
        raise AnnotationError(
            f"{path}: expected the class in a region attribute of the file: {described}. "
            f"Received: {attribute!r}"
        )
    if attribute is not None:
        return attribute
    if len(values) > 1 and len(filled) != 1:
        raise AnnotationError(
            f"{path}: expected one region attribute, the class; of several name the one. "
            f"Received: {described}"
        )
    return next(iter(filled or values), None)


def _region_attributes(item: Any) -> dict:
    """The attributes of a region; empty for an invalid one."""
    attributes = field_or_none(item, "region_attributes")
    if not isinstance(attributes, dict):
        return {}
    return attributes


def _other_attributes(item: Any, attribute: str | None) -> dict | None:
    """The attributes of a region with a value, except its class; None for none."""
    attributes = {
        name: value
        for name, value in _region_attributes(item).items()
        if name != attribute and value not in (None, "", {}, [])
    }
    return attributes or None


def _via_name(item: Any, attribute: str | None) -> str:
    """The class of a region."""
    value = field_of(item, "region_attributes", dict, "a region").get(attribute)
    if isinstance(value, dict):  # check boxes: {"red": true}
        value = [name for name, checked in value.items() if checked and checked != "false"]
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return class_name_of(value, f"one class in the attribute {attribute!r}")


def _via_shape(shape: dict) -> Shape:
    """The shape of a region's shape_attributes."""
    kind = shape.get("name")
    if kind in ("polygon", "polyline"):
        return _via_polygon(shape, f"a {kind}")
    if kind == "rect":
        size = ("width", "height")
        x, y, width, height = numbers_of(shape, ("x", "y", *size), positive=size)
        return Rectangle(x, y, x + width, y + height)
    if kind == "extreme rectangle":
        points = _via_points(shape, "a rectangle")
        return Rectangle(*map(min, zip(*points)), *map(max, zip(*points)))
    if kind == "circle":
        x, y, radius = numbers_of(shape, ("cx", "cy", "r"), positive=("r",))
        return Ellipse(x, y, radius, radius)
    if kind == "ellipse":
        shape = {"theta": 0.0, **shape}  # since 2.0.6; earlier ellipses are not rotated
        names = ("cx", "cy", "rx", "ry", "theta")
        x, y, radius_x, radius_y, angle = numbers_of(shape, names, positive=("rx", "ry"))
        return Ellipse(x, y, radius_x, radius_y, angle)
    raise Problem(
        "expected a polygon, rect, circle, ellipse or polyline, which enclose pixels. "
        f"Received: {files.short(kind)}"
    )


def _via_polygon(shape: dict, subject: str) -> Polygons:
    """The polygon of a polygon's or polyline's shape_attributes."""
    return Polygons([outline_of(_via_points(shape, subject), subject)])


def _via_points(shape: dict, subject: str) -> list[list]:
    """The points [x, y] of a shape, unchecked."""
    xs = field_of(shape, "all_points_x", list, subject)
    ys = field_of(shape, "all_points_y", list, subject)
    if len(xs) != len(ys):
        raise Problem(
            f"expected as many all_points_x as all_points_y. Received: {len(xs)} and {len(ys)}"
        )
    return [[x, y] for x, y in zip(xs, ys)]
