"""Reads Labelbox's exports: NDJSON or JSON of data rows, and the JSON before 2022."""

import dataclasses
import functools
import logging
from collections.abc import Iterable
from typing import Any

from mrcnn import coco, files
from mrcnn.outlines import CocoSegmentation, Polygons, Rectangle, Shape
from mrcnn.reading import (
    Annotations,
    Entry,
    PngMask,
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


@dataclasses.dataclass
class _Row:
    """A data row, which is an image.

    Attributes:
        place: its name in messages.
        names: names that its file may have, most likely first.
        size: (height, width) in the export; None if it has none.
        labels: a list of objects for each label of an annotator, the one to read last.
    """

    place: str
    names: list[str]
    size: tuple[int, int] | None
    labels: list[list]


def is_labelbox(data: Any) -> bool:
    """Whether a json, or the lines of an NDJSON, are Labelbox's export."""
    if isinstance(data, dict):
        data = [data]
    if not isinstance(data, list):
        return False
    return any(_is_row(item) or _is_old_row(item) for item in data)


def _is_row(item: Any) -> bool:
    """Whether an item is a data row of the exports since 2022."""
    return isinstance(field_or_none(item, "data_row"), dict) and "projects" in item


def _is_old_row(item: Any) -> bool:
    """Whether an item is a row of the JSON before."""
    return isinstance(item, dict) and {"Labeled Data", "Label"} <= set(item)


def read_labelbox(reader: Reader, data: Any) -> Annotations:
    """Reads the rows of an export.

    Polygons and boxes become regions, and masks that the file has itself. Masks that are an address
    at Labelbox are reported, since they can't be had without a key. Of several labels of a row the
    newest is read, which is reported; rows without any label, or whose labels were skipped, are
    left out: they are not background.

    Args:
        reader: of the file.
        data: its content, a list or a single row.

    Raises:
        AnnotationError: no image can be used.
    """
    if isinstance(data, dict):
        data = [data]
    unlabelled = 0
    for number, item in enumerate(data, 1):
        try:
            row = _row_of(item, number)
        except Problem as error:
            reader.problem(f"row {number}", str(error))
            continue
        if not row.labels:
            unlabelled += 1
            continue
        place = f"{row.place}, image {row.names[0]!r}"
        if len(row.labels) > 1:
            reader.problem(
                place,
                f"expected one label. Received: {len(row.labels)}, of which the newest is read",
            )
        objects = row.labels[-1]
        entry = Entry(row.names[0], [], row.size, tuple(row.names[1:]))
        entry.regions = list(
            reader.regions(place, enumerate(objects), functools.partial(_region, size=row.size))
        )
        reader.add(entry, annotated=bool(objects))
    if unlabelled:
        logger.warning("%s: %d rows without a label are left out", reader.path, unlabelled)
    return reader.finish()


def _row_of(item: Any, number: int) -> _Row:
    """The data row of an item of either form; Problem for another item, or one without a name."""
    if _is_row(item):
        fields = item["data_row"]
        values = [fields.get(name) for name in ("external_id", "global_key", "row_data")]
        attributes = field_or_none(item, "media_attributes")
        size = given_size(field_or_none(attributes, "height"), field_or_none(attributes, "width"))
        row_id = fields.get("id")
        labels = [label for project in values_of(item["projects"]) for label in _labels_of(project)]
        chosen = [_objects_of(label) for label in sorted(labels, key=_time_of)]
    elif _is_old_row(item):
        values = [item.get(name) for name in ("External ID", "Labeled Data")]
        size = given_size(item.get("Media Height"), item.get("Media Width"))
        row_id = item.get("DataRow ID") or item.get("ID")
        chosen = []
        if item.get("Label") and not item.get("Skipped"):
            chosen = [field_of(item["Label"], "objects", list, "a label")]
    else:
        raise Problem(f"expected a row of Labelbox. Received: {files.short(item)}")
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    if not texts:
        raise Problem(f"expected the name or address of an image. Received: {files.short(values)}")
    names: list[str] = []
    for text in texts:
        name = text
        if "://" in text:
            name = coco.name_of_address(text)
        names += [name, text]
    return _Row(f"row {number} ({row_id})", list(dict.fromkeys(names)), size, chosen)


def _labels_of(project: Any) -> list[dict]:
    """The labels of a row in a project, without those that were skipped."""
    labels = []
    for label in values_of(field_or_none(project, "labels")):
        details = [field_or_none(label, name) for name in ("label_details", "performance_details")]
        if isinstance(label, dict) and not any(
            field_or_none(detail, "skipped") for detail in details
        ):
            labels.append(label)
    return labels


def _time_of(label: dict) -> str:
    """When a label was last changed, or made; "" if that is not known."""
    details = field_or_none(label, "label_details")
    return str(field_or_none(details, "updated_at") or field_or_none(details, "created_at") or "")


def _objects_of(label: dict) -> list:
    """The objects of a label; Problem for one of a video."""
    annotations = field_of(label, "annotations", dict, "a label")
    if "frames" in annotations:
        raise Problem("expected the label of an image. Received: frames, the label of a video")
    if annotations.get("objects") is None:
        return []
    return field_of(annotations, "objects", list, "a label's annotations")


def _region(item: Any, size: tuple[int, int] | None) -> Region:
    """The region of an object. size: (height, width) of the image; None if unknown."""
    value = None
    for field in ("name", "title", "value"):
        value = value or field_or_none(item, field)
    name = class_name_of(value, "an object with a name")
    extra = _answers(item.get("classifications"))
    shape = _shape_of(item, size)
    if isinstance(shape, CocoSegmentation) and extra:
        shape.annotation["attributes"] = extra
    return Region(name, shape, extra=extra or None)


def _answers(classifications: Any) -> dict:
    """{name: answer} of an object's classifications: a text, or a list of texts."""
    answers: dict = {}
    for item in values_of(classifications):
        name = field_or_none(item, "name") or field_or_none(item, "title")
        if not isinstance(item, dict) or not isinstance(name, str):
            continue
        for field in ("radio_answer", "text_answer", "answer"):
            answer = field_or_none(item, field)
            if isinstance(answer, dict):
                answer = answer.get("name") or answer.get("title") or answer.get("content")
            if isinstance(answer, str) and answer:
                answers[name] = answer
        several = _names_in(values_of(item.get("checklist_answers") or item.get("answers")))
        if several:
            answers[name] = several
    return answers


def _names_in(answers: Iterable) -> list[str]:
    """The names of the answers of a checklist."""
    names = [field_or_none(item, "name") or field_or_none(item, "title") for item in answers]
    return [name for name in names if isinstance(name, str)]


def _shape_of(item: dict, size: tuple[int, int] | None) -> Shape:
    """The shape of an object, in pixels of the image."""
    if item.get("polygon") is not None:
        points = [
            [field_or_none(point, "x"), field_or_none(point, "y")]
            for point in values_of(item["polygon"])
        ]
        return Polygons([outline_of(points, "a polygon")], exact=True)
    for field in ("bounding_box", "bbox"):
        if isinstance(item.get(field), dict):
            left, top, width, height = numbers_of(
                item[field], ("left", "top", "width", "height"), positive=("width", "height")
            )
            return Rectangle(left, top, left + width, top + height)
    mask = item.get("mask") or item.get("composite_mask")
    if isinstance(mask, dict) and mask.get("png"):
        png = PngMask(mask["png"], 0, 0)
        pixels = png.read()
        if size not in (None, pixels.shape):
            raise Problem(f"expected a mask of {size} pixels. Received: {pixels.shape}")
        return png
    if isinstance(mask, dict) and "counts" in mask:
        return run_lengths_of(mask, size)
    address = field_or_none(mask, "url") or item.get("instanceURI")
    if address:
        raise Problem(
            "expected a polygon, a box or a mask that the file has itself. Received: a mask at"
            f" {files.short(address)}, which only Labelbox hands out, with your key"
        )
    raise Problem(
        "expected a polygon, a box or a mask, which enclose pixels. Received: "
        + files.short(item.get("annotation_kind") or item)
    )
