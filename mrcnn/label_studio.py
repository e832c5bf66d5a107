"""Reads Label Studio's json: polygons, rectangles, ellipses and brush masks."""

import dataclasses
import functools
import io
import logging
import math
import re
import urllib.parse
from typing import Any

import numpy as np

from mrcnn import files, utils
from mrcnn.masks import SegmentationError, encode, unpack_brush
from mrcnn.outlines import CocoSegmentation, Ellipse, Polygons, Rectangle, Shape, rotated
from mrcnn.reading import (
    Annotations,
    EmbeddedImage,
    Entry,
    Problem,
    Reader,
    Region,
    class_name_of,
    field_of,
    field_or_none,
    from_base64,
    given_size,
    number_of,
    numbers_of,
    outline_of,
)

logger = logging.getLogger(__name__)


# ---- Tasks ---------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Task:
    """A task of Label Studio.

    Attributes:
        place: its name in messages.
        file: the json.
        keys: the keys that lead to `fields` in the json.
        fields: {name: value} of its data, including the image's address.
        annotations: the annotations of all annotators, each with its "result".
    """

    place: str
    file: str
    keys: tuple
    fields: dict
    annotations: list


def _is_task(data: Any) -> bool:
    """Whether an object is a task of Label Studio, or an annotation from its target storage."""
    if isinstance(field_or_none(data, "data"), dict):
        return any(name in data for name in ("annotations", "completions", "predictions"))
    inner = field_or_none(field_or_none(data, "task"), "data")
    return isinstance(inner, dict) and isinstance(data.get("result"), list)


def _is_minimal_task(data: Any) -> bool:
    """Whether an object is an annotation of Label Studio's JSON-MIN."""
    return isinstance(data, dict) and {"annotation_id", "annotator"} <= set(data)


def is_label_studio(data: Any) -> bool:
    """Whether a json is Label Studio's own."""
    if not isinstance(data, list):
        return _is_task(data)
    return any(_is_task(item) or _is_minimal_task(item) for item in data)


def read_tasks(
    path: str,
    loaded: dict[str, Any],
    images: Any,
    label: str | None,
    keep_empty: bool,
    need_files: bool = True,
) -> Annotations:
    """Reads the tasks of jsons.

    Args:
        path: the json, or the folder.
        loaded: {file: its content}.
        images, label, keep_empty, need_files: see `annotations.read`.

    Raises:
        AnnotationError: no image can be used.
    """
    reader = Reader(path, images, keep_empty, need_files=need_files)
    unannotated = 0
    pages: list[tuple[str, Entry, list[list]]] = []
    for task in _tasks_of(reader, loaded):
        try:
            annotation = _annotation_of(reader, task)
            if annotation is None:
                unannotated += 1
                continue
            regions = _regions_of(field_of(annotation, "result", list, "an annotation"))
            for number, entry in enumerate(_pages_of(task)):
                page_regions = [region for region in regions if _page_number(region) == number]
                pages.append((task.place, entry, page_regions))
        except Problem as error:
            reader.problem(task.place, str(error))
    if unannotated:
        logger.warning("%s: %d tasks that nobody has annotated are left out", path, unannotated)
    if label is None and not any(
        _labels(region) for _, _, page_regions in pages for region in page_regions
    ):
        label = "object"  # no region has a label
    for place, entry, page_regions in pages:
        entry.size = _task_size(reader, entry, page_regions)
        read_region = functools.partial(_task_region, size=entry.size, label=label)
        numbered = [(region[0].get("id") or i, region) for i, region in enumerate(page_regions)]
        entry.regions = list(
            reader.regions(f"{place}, image {entry.name!r}", numbered, read_region)
        )
        reader.add(entry, annotated=bool(page_regions))
    if label is not None:
        return reader.finish([label])
    return reader.finish()


def _tasks_of(reader: Reader, loaded: dict[str, Any]) -> list[_Task]:
    """The tasks of jsons; the annotations of the same task are joined."""
    tasks: dict[Any, _Task] = {}
    for file, data in loaded.items():
        items: list[tuple[tuple, Any]] = [((), data)]
        if isinstance(data, list):
            items = [((i,), item) for i, item in enumerate(data)]
        for keys, item in items:
            place = f"task {field_or_none(item, 'id')!r}"
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
    """The shapes of a JSON-MIN annotation in the layout of JSON's results."""
    results = []
    for name, values in item.items():
        if not isinstance(values, list):
            continue
        for value in values:
            if field_or_none(value, "original_width") is not None:
                results.append({**value, "from_name": name, "value": value})
    return results


def _annotation_of(reader: Reader, task: _Task) -> dict | None:
    """The annotation of a task that is read; None if nobody has annotated it."""
    submitted = [
        annotation
        for annotation in task.annotations
        if isinstance(annotation, dict)
        and not annotation.get("was_cancelled")
        and not annotation.get("skipped")
    ]
    if not submitted:
        return None

    def rank(annotation: dict) -> tuple[bool, str]:
        time = annotation.get("updated_at") or annotation.get("created_at") or ""
        return bool(annotation.get("ground_truth")), str(time)

    best = max(map(rank, submitted))
    chosen = [annotation for annotation in submitted if rank(annotation) == best][-1]
    if len(submitted) > 1:
        reason = "newest"
        if best[0]:
            reason = "ground truth"
        reader.problem(
            task.place,
            f"expected one annotation. Received: {len(submitted)}, of which the {reason} is read",
        )
    return chosen


# Usual names of the image field in the data of a task.
_IMAGE_FIELDS = ("image", "img", "photo", "picture", "images")


def _addresses(fields: dict) -> list[tuple[str, tuple]]:
    """(address, keys that lead to it) of the images in a task's data, taken from one field."""
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
        if isinstance(fields.get(name), str):  # an address without an image suffix
            return [(fields[name], (name,))]
    return []


def _is_address(value: Any) -> bool:
    """Whether a value in a task's data is an embedded image or the address of one."""
    if not isinstance(value, str):
        return False
    return value.startswith("data:image/") or files.means_image(value)


def _pages_of(task: _Task) -> list[Entry]:
    """The images of a task, without their regions."""
    pages = []
    for address, keys in _addresses(task.fields):
        if address.startswith("data:"):
            embedded = EmbeddedImage(task.file, (*task.keys, *keys))
            suffix = re.match(r"data:image/(\w+)", address)
            name = f"{task.place}.{(suffix or ['', 'png'])[1]}"
            pages.append(Entry(name, [], embedded=embedded))
        else:
            name = _name_of_address(address)
            others = (name.rpartition("/")[2], address)
            pages.append(Entry(name, [], others=others))
    if not pages:
        raise Problem(f"expected an image in its data. Received: {files.short(task.fields)}")
    return pages


def _name_of_address(address: str) -> str:
    """The path of an image below Label Studio's upload folder, its local files or a bucket."""
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


# ---- Regions -------------------------------------------------------------------------------------


def _regions_of(results: list) -> list[list]:
    """The results of each region: its shape and its class may be two results with the same id."""
    regions: dict[Any, list] = {}
    for number, result in enumerate(results):
        key: Any = number
        if not isinstance(result, dict):
            regions[key] = [{"value": result}]
            continue
        value = field_or_none(result, "value")
        if result.get("id") is not None:
            key = ("id", result["id"], result.get("item_index"))
        elif isinstance(value, dict):
            key = repr([value.get(name) for name in _GEOMETRY])
        regions.setdefault(key, []).append(result)
    return [region for region in regions.values() if _is_region(region)]


# Keys of a result's value that are its geometry.
_GEOMETRY = (
    "x y width height rotation radiusX radiusY points vertices rle format imageDataURL".split()
)


def _is_region(region: list) -> bool:
    """Whether results are of a drawn region rather than a choice or text for the whole image."""
    return any(
        not isinstance(result["value"], dict) or not set(result["value"]).isdisjoint(_GEOMETRY)
        for result in region
        if "value" in result
    )


def _page_number(region: list) -> int:
    """The index of a region's image among those of its task."""
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


def _task_size(reader: Reader, entry: Entry, regions: list[list]) -> tuple[int, int] | None:
    """(height, width) from an image's regions, otherwise of its file; None if both are unknown."""
    for result in (result for region in regions for result in region):
        size = given_size(result.get("original_height"), result.get("original_width"))
        if size is not None:
            return size
    others = {entry.name: entry.others}
    path = files.find_images([entry.name], reader.folders, others).paths.get(entry.name)
    try:
        if entry.embedded is not None:
            return utils.image_sizes(io.BytesIO(entry.embedded.content()))[0]
        if path is not None:
            return utils.image_sizes(path)[0]
    except (OSError, ValueError):  # reported when the image itself is read
        pass
    return None


def _task_region(region: list, size: tuple[int, int] | None, label: str | None) -> Region:
    """The `Region` of a region's results. size: (height, width) of the image, None if unknown."""
    name = label
    if name is None:
        labels = _labels(region)
        value: Any = labels
        if len(labels) == 1:
            value = labels[0]
        name = class_name_of(value, "a region of one label")
    if size is None:
        raise Problem(
            "expected original_width and original_height, or the image's file, for shapes are"
            f" shares of its sides. Received: {files.short(region[0])}"
        )
    for result in region:
        result_size = given_size(result.get("original_height"), result.get("original_width"))
        if result_size not in (None, size):
            raise Problem(
                f"expected the size of the image's other regions, {size}. Received: {result_size}"
            )
    extra = _task_extra(region)
    shape = _task_shape(region, *size)
    if isinstance(shape, CocoSegmentation) and extra:
        shape.annotation["attributes"] = extra
    return Region(name, shape, extra=extra)


def _task_extra(region: list) -> dict | None:
    """The answers about a region except its class: choices, texts, numbers; None for none."""
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
    """The shape of a region's results, in pixels of the image."""
    shape: Any = None
    for result in region:
        value = result.get("value")
        if isinstance(value, dict) and not set(value).isdisjoint(_GEOMETRY):
            shape = value
            break
    if shape is None:
        raise Problem(f"expected a shape. Received: {files.short(region[0].get('value'))}")
    if "rle" in shape:
        return _brush(shape["rle"], height, width)
    if "imageDataURL" in shape:
        return _bitmask(shape["imageDataURL"], height, width)
    if "points" in shape:
        points = outline_of(shape["points"], "a polygon")
        return Polygons([[[x * width / 100, y * height / 100] for x, y in points]], exact=True)
    if "radiusX" in shape:
        return _task_ellipse(shape, height, width)
    if {"x", "y", "width", "height"} <= set(shape):
        return _task_rectangle(shape, height, width)
    raise Problem(
        "expected a polygon, a rectangle, an ellipse or a brush mask, which enclose pixels."
        f" Received: {files.short(shape)}"
    )


def _brush(rle: Any, height: int, width: int) -> CocoSegmentation:
    """A brush mask, kept as run lengths: thousands of masks don't fit in memory."""
    try:
        mask = unpack_brush(rle, height, width)
    except SegmentationError as error:
        raise Problem(str(error)) from error
    return CocoSegmentation({"segmentation": encode(mask[..., None])[0]})


def _bitmask(text: Any, height: int, width: int) -> CocoSegmentation:
    """A mask that is an image in base64: its opaque pixels or, without alpha, the non-black."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(from_base64(text))) as image:
            band = "L"
            if "A" in image.getbands() or "transparency" in image.info:
                band = "A"
            mask = np.asarray(image.convert({"L": "L", "A": "RGBA"}[band]).getchannel(band)) > 0
    except Exception as error:  # Pillow raises many types for a damaged file
        raise Problem(
            f"expected a mask as a picture in base64. Received: {files.short(text)} ({error})"
        ) from error
    if mask.shape != (height, width):
        raise Problem(f"expected a mask of {(height, width)} pixels. Received: {mask.shape}")
    return CocoSegmentation({"segmentation": encode(mask[..., None])[0]})


def _task_ellipse(shape: dict, height: int, width: int) -> Ellipse:
    """An ellipse; all values are percentages of the image's width and height."""
    x, y, radius_x, radius_y = numbers_of(
        shape, ("x", "y", "radiusX", "radiusY"), positive=("radiusX", "radiusY")
    )
    return Ellipse(
        x * width / 100 - 0.5,
        y * height / 100 - 0.5,
        radius_x * width / 100,
        radius_y * height / 100,
        math.radians(number_of(shape.get("rotation")) or 0),
    )


def _task_rectangle(shape: dict, height: int, width: int) -> Shape:
    """A rectangle; a polygon if it is rotated, which is around its first corner."""
    values = numbers_of(shape, ("x", "y", "width", "height"), positive=("width", "height"))
    x, w = (percent * width / 100 for percent in values[::2])
    y, h = (percent * height / 100 for percent in values[1::2])
    angle = math.radians(number_of(shape.get("rotation")) or 0)
    if not angle % math.tau:
        return Rectangle(x, y, x + w, y + h)
    corners = [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]
    return Polygons([rotated(corners, x, y, angle)], exact=True)
