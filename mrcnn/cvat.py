"""Reads annotations in XML: CVAT's images and videos, the old LabelMe's, Pascal VOC's."""

import functools
import json
import logging
import math
import ntpath
import os
import pathlib
import re
from typing import Any

import numpy as np

from mrcnn import coco, files, utils
from mrcnn.outlines import (
    Bitmap,
    DrawnShape,
    Ellipse,
    PixelOutline,
    Polygons,
    Rectangle,
    cut_bitmap,
    rotated,
)
from mrcnn.reading import (
    AnnotationError,
    Annotations,
    Entry,
    Problem,
    Reader,
    Region,
    class_name_of,
    given_size,
    joined_by_group,
    json_files_in,
    number_of,
    numbers_of,
    outline_of,
)

logger = logging.getLogger(__name__)


# ---- CVAT ----------------------------------------------------------------------------------------


def read_cvat_xml(
    path: str, images: Any, keep_empty: bool, need_files: bool, folder: Any = None
) -> Annotations:
    """Reads a file of CVAT, see `annotations.read_cvat`.

    folder: the folder in which the file was searched for, None for its own.
    """
    root = xml_root(path)
    if not _is_cvat(root):
        raise AnnotationError(
            f"{path}: expected a json, or CVAT's xml. Received: {_kind_of_xml(root)}"
        )
    reader = Reader(path, images, keep_empty, folder, need_files)
    for number, element in enumerate(root.iter("image")):
        name = element.get("name")
        if not name:
            reader.problem(f"image {number}", "expected its name. Received: none")
            continue
        shapes = [child for child in element if child.tag != "tag"]  # tags are of the whole image
        size = given_size(element.get("height"), element.get("width"))
        others: tuple[str, ...] = ()
        if element.get("subset"):  # a folder below a project's images
            others = (name,)
            name = f"{element.get('subset')}/{name}"
        _add_cvat_image(reader, name, size, shapes, others)
    if root.find("track") is not None:
        _add_cvat_frames(reader, root, keep_empty)
    return reader.finish()


def _add_cvat_image(
    reader: Reader,
    name: str,
    size: tuple[int, int] | None,
    shapes: list,
    others: tuple[str, ...] = (),
) -> None:
    """Adds an image with the regions of its elements. others: other names that it may have."""
    entry = Entry(name, [], size, others)
    regions = reader.regions(f"image {name!r}", enumerate(shapes), _cvat_region)
    entry.regions = joined_by_group(regions, [_grouped(shape) for shape in shapes])
    reader.add(entry, annotated=bool(shapes))


def _add_cvat_frames(reader: Reader, root: Any, keep_empty: bool) -> None:
    """Adds the frames of a video: those with shapes of tracks, or all with `keep_empty`."""
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
        previous = None
        for shape in track:
            number = shape.get("frame") or ""
            if not number.isdecimal():
                reader.problem(place, f"expected a frame's number. Received: {number!r}")
                continue
            shapes = frames.setdefault(int(number), [])
            if previous is not None and int(number) > previous + step and place not in with_gaps:
                with_gaps.append(place)
            previous = None
            if shape.get("outside") != "1":
                previous = int(number)
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
        _add_cvat_image(reader, f"frame_{number:06d}", given_size(height, width), shapes)


def xml_root(path: str) -> Any:
    """The root element of an XML file; AnnotationError if it can't be parsed."""
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


def _kind_of_xml(root: Any) -> str:
    """What kind of XML a file is, for messages, if it isn't CVAT's."""
    if root.tag == "annotation":
        return "an XML file of Pascal VOC or the old LabelMe, which `read` reads"
    return f"an XML file with <{root.tag}> and no image"


def _begins_with(file: str, tag: str) -> bool:
    """Whether an XML file has an element of this tag in its first bytes."""
    with open(file, "rb") as opened:
        beginning = opened.read(4096)
    text = beginning.decode(json.detect_encoding(beginning), "ignore")
    return re.search(rf"<{tag}[\s>/]", text) is not None


def cvat_files_in(path: str, below: bool, damaged_alone: bool = False) -> list[str]:
    """CVAT's xml files in a folder or, with `below`, in its sub-folders; sorted.

    A file that begins as CVAT's and is damaged is one of them, but not without a sound one, unless
    `damaged_alone`: beside annotations of another format it may be anything.
    """
    cvat_files = []
    has_sound = damaged_alone
    for file in json_files_in(path, below, (".xml",)):
        try:
            if _begins_with(file, "annotations") and _is_cvat(xml_root(file)):
                cvat_files.append(file)
                has_sound = True
        except AnnotationError:
            cvat_files.append(file)
        except OSError:
            continue
    if not has_sound:
        return []
    return cvat_files


def is_of_video(file: str) -> bool:
    """Whether CVAT's xml file is of a video; False for a damaged one."""
    try:
        return xml_root(file).find("track") is not None
    except AnnotationError:
        return False


def _grouped(shape: Any) -> dict:
    """The group of a shape in LabelMe's layout; CVAT's 0 is none."""
    group = shape.get("group_id")
    if group == "0":
        group = None
    return {"group_id": group}


def _cvat_region(shape: Any) -> Region:
    """The region of an element of an image."""
    name = class_name_of(shape.get("label"), "a label")
    extra = {item.get("name"): item.text for item in shape.iter("attribute") if item.text}
    if shape.get("occluded") == "1":
        extra["occluded"] = True
    return Region(name, _cvat_shape(shape), extra=extra or None)


def _cvat_shape(shape: Any) -> DrawnShape:
    """The shape of an element. Points are continuous coordinates, angles clockwise in degrees."""
    kind = shape.tag
    angle = math.radians(number_of(shape.get("rotation")) or 0)
    if kind in ("polygon", "polyline"):
        points = [point.split(",") for point in (shape.get("points") or "").split(";")]
        return Polygons([outline_of(points, f"a {kind}")], exact=True)
    if kind == "box":
        x1, y1, x2, y2 = numbers_of(shape, ("xtl", "ytl", "xbr", "ybr"))
        if not angle % math.tau:
            return Rectangle(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
        return Polygons([rotated(corners, (x1 + x2) / 2, (y1 + y2) / 2, angle)], exact=True)
    if kind == "ellipse":
        radii = ("rx", "ry")
        x, y, radius_x, radius_y = numbers_of(shape, ("cx", "cy", *radii), positive=radii)
        return Ellipse(x - 0.5, y - 0.5, radius_x, radius_y, angle)
    if kind == "mask":
        return _cvat_mask(shape)
    raise Problem(
        "expected a polygon, box, ellipse, mask or polyline, which enclose pixels. Received:"
        f" {files.short(kind)}"
    )


def _cvat_mask(shape: Any) -> Bitmap:
    """The mask of run lengths, row by row in its box, beginning with background."""
    left, top, width, height = map(int, numbers_of(shape, ("left", "top", "width", "height")))
    words = (shape.get("rle") or "").replace(",", " ").split()
    runs = [int(word) for word in words if word.isdecimal()]
    if len(runs) < len(words) or sum(runs) != width * height or not runs:
        raise Problem(
            f"expected rle as run lengths of {height} x {width} pixels. Received:"
            f" {files.short(shape.get('rle'))}"
        )
    is_object = np.arange(len(runs)) % 2 == 1
    return Bitmap(np.repeat(is_object, runs).reshape(height, width), left, top)


# ---- XML of one image: the old LabelMe, Pascal VOC -----------------------------------------------


def xml_files_in(path: str) -> list[str]:
    """The xml files in a folder or, if it has none, in its sub-folders; sorted."""
    return json_files_in(path, False, (".xml",)) or json_files_in(path, True, (".xml",))


def is_of_one_image_xml(file: str) -> bool:
    """Whether a file is an XML of the old LabelMe or of Pascal VOC."""
    return os.path.isfile(file) and _begins_with(file, "annotation")


def has_shapes(xml_files: list[str]) -> bool:
    """Whether XML files are the old LabelMe's, which refer to mask files; checks the first 5."""
    for file in xml_files[:5]:
        try:
            root = xml_root(file)
        except AnnotationError:
            continue
        if root.find("imagesize") is not None or root.find("object/segm") is not None:
            return True
    return False


def read_image_xmls(
    path: str, xml_files: list[str], images: Any, keep_empty: bool, need_files: bool
) -> Annotations:
    """Reads XML files of one image each: the old LabelMe's, CVAT's "LabelMe 3.0", Pascal VOC's.

    Objects of Pascal VOC without a polygon become boxes, with a warning.

    Args:
        path: the file, or the folder of the files.
        xml_files: paths of the files.
        images, keep_empty, need_files: see `annotations.read`.

    Raises:
        AnnotationError: no image can be used.
    """
    reader = Reader(path, images, keep_empty, need_files=need_files)
    base_folder = reader.own_folder
    boxes = 0
    for file in xml_files:
        relative = os.path.relpath(file, base_folder or ".")
        try:
            root = xml_root(file)
        except AnnotationError as error:
            reader.problem(f"file {relative}", str(error).removeprefix(f"{file}: "))
            continue
        entry = _xml_entry(relative, root)
        objects = [item for item in root.findall("object") if item.findtext("deleted") != "1"]
        read_region = functools.partial(
            _xml_region, file=file, base_folder=base_folder, size=entry.size
        )
        place = f"file {relative}, image {entry.name!r}"
        regions = list(reader.regions(place, enumerate(objects), read_region))
        boxes += sum(isinstance(region.shape, Rectangle) for region in regions)
        entry.regions = joined_by_group(regions, [_xml_group(item) for item in objects])
        reader.add(entry, annotated=bool(objects))
    if boxes:
        logger.warning("%s: %d objects are boxes without an outline", path, boxes)
    return reader.finish()


def _xml_entry(relative: str, root: Any) -> Entry:
    """The image of a file, without its regions. relative: the file's path in the folder read."""
    folders = list(pathlib.PurePath(relative).parts[:-1])
    if folders and folders[0].lower() in coco.ANNOTATION_FOLDERS:
        del folders[0]
    stem = os.path.splitext(os.path.basename(relative))[0]
    original = (root.findtext("filename") or "").strip()
    base = ntpath.basename(original) or stem
    if not files.is_image_name(base):
        base += ".jpg"
    height = root.findtext("imagesize/nrows") or root.findtext("size/height")
    width = root.findtext("imagesize/ncols") or root.findtext("size/width")
    entry = Entry(os.path.join(*folders, base), [], given_size(height, width))
    entry.beside = os.path.join(*folders, stem + os.path.splitext(base)[1])
    others = [base, original]
    folder = (root.findtext("folder") or "").strip()
    if folder and original:
        others.append(f"{folder}/{original}")
    entry.others = tuple(name for name in others if name and name != entry.name)
    return entry


def _xml_group(item: Any) -> dict:
    """The group of an object in LabelMe's layout: the id of its main part; None without parts."""
    group = None
    if (item.findtext("parts/hasparts") or "").strip():
        group = item.findtext("id")
    if (item.findtext("parts/ispartof") or "").strip():
        group = (item.findtext("parts/ispartof") or "").strip()
    return {"group_id": group}


def _xml_region(item: Any, file: str, base_folder: str, size: tuple[int, int] | None) -> Region:
    """The region of an object element.

    file, base_folder: the XML and the folder that is read; size: (height, width) of the image,
    None if unknown.
    """
    name = class_name_of(item.findtext("name"), "an object's name")
    extra: dict[str, Any] = {}
    for flag in ("occluded", "truncated", "difficult"):
        if (item.findtext(flag) or "").strip() in ("1", "yes"):
            extra[flag] = True
    crowd = False
    for part in (item.findtext("attributes") or "").split(","):
        key, _, value = (text.strip() for text in part.partition("="))
        if key in ("is_crowd", "iscrowd"):
            crowd = value in ("True", "1")
        elif key:
            extra[key] = value or True
    shape = _xml_shape(item, file, base_folder, size)
    return Region(name, shape, crowd, extra=extra or None)


def _xml_shape(item: Any, file: str, base_folder: str, size: tuple[int, int] | None) -> DrawnShape:
    """The shape of an object element: LabelMe's polygon or mask, VOC's polygon or box."""
    polygon = item.find("polygon")
    if polygon is not None and polygon.find("pt") is not None:
        points = [[pt.findtext("x"), pt.findtext("y")] for pt in polygon.iter("pt")]
        return Polygons([outline_of(points, "a polygon")], exact=True)
    if polygon is not None and polygon.find("x1") is not None:
        return _voc_polygon(polygon)
    if item.find("segm/mask") is not None:
        return _xml_mask(item.find("segm"), file, base_folder, size)
    box = item.find("bndbox")
    if box is None:
        kinds = [child.tag for child in item]
        raise Problem(f"expected a polygon, a mask or a box. Received: {files.short(kinds)}")
    values = {child.tag: child.text for child in box}
    x1, y1, x2, y2 = numbers_of(values, ("xmin", "ymin", "xmax", "ymax"))
    left, right = sorted((x1, x2))
    top, bottom = sorted((y1, y2))
    return Rectangle(left - 1, top - 1, right, bottom)  # Pascal VOC counts pixels from 1


def _voc_polygon(polygon: Any) -> DrawnShape:
    """A polygon x1, y1, x2, ... that supervision and Roboflow write to Pascal VOC's XML.

    Whole numbers are pixels, counted from 1; others are continuous coordinates.
    """
    values = {child.tag: child.text for child in polygon}
    points = []
    number = 1
    while f"x{number}" in values:
        points.append([values[f"x{number}"], values.get(f"y{number}")])
        number += 1
    outline = outline_of(points, "a polygon")
    if all(value == round(value) for point in outline for value in point):
        return PixelOutline([[x - 1, y - 1] for x, y in outline])
    return Polygons([outline], exact=True)


def _xml_mask(segment: Any, file: str, base_folder: str, size: tuple[int, int] | None) -> Bitmap:
    """A mask of the old LabelMe, a file with the size of the image or of the object's box."""
    name = (segment.findtext("mask") or "").strip().replace("\\", "/")
    folder, _ = os.path.split(file)
    mirrored = re.sub(r"(?i)\bannotations\b", "Masks", os.path.relpath(folder, base_folder or "."))
    places = [os.path.join(place, "Masks") for place in (folder, base_folder)]
    places = [os.path.join(base_folder, mirrored), *places, folder]
    candidates = [
        os.path.join(place, part) for place in places for part in (name, ntpath.basename(name))
    ]
    path = next((place for place in candidates if name and os.path.isfile(place)), None)
    if path is None:
        raise Problem(f"expected a mask's file. Received: no {name!r} in {files.several(places)}")
    try:
        mask = utils.read_mask(path)
    except (OSError, ValueError, TypeError, SyntaxError) as error:
        raise Problem(str(error)) from error
    if size is None or mask.shape == size:
        return cut_bitmap(mask)
    values = {child.tag: child.text for child in segment.iter()}
    x1, y1, x2, y2 = numbers_of(values, ("xmin", "ymin", "xmax", "ymax"))
    if mask.shape != (round(y2) - round(y1), round(x2) - round(x1)):
        raise Problem(f"expected {path} of {size} pixels. Received: {mask.shape}")
    return Bitmap(mask, round(x1), round(y1))
