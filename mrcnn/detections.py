"""Files of detections in COCO's format (results.json), without the model that made them.

    annotated = annotations.read("labels.json", keep_empty=True)
    dataset = annotations.dataset_of(annotated)
    truth = evaluate.ground_truth(dataset)
    rows = detections.rows_of(detections.read_rows(path), path, annotated, truth)
    result = evaluate.evaluate_detections(dataset, rows, truth=truth)

`mrcnn detect` writes images.json beside results.json: the names of images and classes. Where it is
there, they decide which image and class a detection belongs to; otherwise the ids do, as in
pycocotools. `annotations.read` takes such a pair as annotations, to be corrected in another tool.
"""

import collections
import logging
import os
from typing import Any

from mrcnn import coco, files
from mrcnn.reading import AnnotationError, Annotations

logger = logging.getLogger(__name__)

# What each detection has.
FIELDS = {"image_id", "category_id", "score"}
# The file beside detections with the names of their images and classes.
INDEX = "images.json"


def are_detections(data: Any) -> bool:
    """Whether the content of a json is a list of COCO's results; an empty list is none."""
    return isinstance(data, list) and bool(data) and _is_detection(data[0])


def _is_detection(row: Any) -> bool:
    return isinstance(row, dict) and FIELDS <= row.keys() and _has_ids(row)


def _has_ids(row: dict) -> bool:
    """Whether the ids of a detection's image and class are numbers or text."""
    return all(isinstance(row[name], (int, float, str)) for name in ("image_id", "category_id"))


def read_rows(path: Any) -> list[dict]:
    """The detections of a file; AnnotationError if it is none.

    Args:
        path: a json, a list of COCO's results; or a folder with results.json.
    """
    path = file_of(path)
    try:
        rows = files.read_json(path)
    except (OSError, ValueError) as error:
        raise AnnotationError(f"{path}: expected COCO's results. Received: {error}") from error
    check_rows(rows, path)
    return rows


def check_rows(rows: Any, path: str) -> None:
    """AnnotationError if the content of a file is no list of COCO's results."""
    if not isinstance(rows, list) or not all(map(_is_detection, rows)):
        received = f"a {type(rows).__name__}"
        if isinstance(rows, list):
            received = files.short(next(row for row in rows if not _is_detection(row)))
        raise AnnotationError(
            f"{path}: expected COCO's results, a list of objects with image_id, category_id, score,"
            f" and bbox or segmentation. Received: {received}"
        )


def file_of(path: Any) -> str:
    """The path of the detections' file, which may be named by its folder."""
    if os.path.isdir(path):
        return os.path.join(path, "results.json")
    return os.fspath(path)


def index_of(path: Any) -> dict | None:
    """The content of images.json beside a file of detections; None if there is none."""
    index_path = os.path.join(os.path.dirname(file_of(path)), INDEX)
    if not os.path.isfile(index_path):
        return None
    try:
        index = files.read_json(index_path)
    except ValueError as error:
        raise AnnotationError(f"{index_path}: expected a json. Received: {error}") from error
    if not isinstance(index, dict) or not {"images", "categories"} <= index.keys():
        return None
    for key, name in (("images", "file_name"), ("categories", "name")):
        _check_entries(index[key], name, f"{index_path}: {key}")
    return index


def _check_entries(entries: Any, name: str, place: str) -> None:
    """AnnotationError if something is no list of objects with an id and the text `name`."""
    received = entries
    if isinstance(entries, list):
        for entry in entries:
            received = entry
            if not isinstance(entry, dict) or not isinstance(entry.get(name), str):
                break
            if not isinstance(entry.get("id"), (int, float, str)):
                break
        else:
            return
    raise AnnotationError(
        f"{place} are a list of objects with id and {name}. Received: {files.short(received)};"
        " without the file, detections go by their ids"
    )


def as_annotations(rows: list[dict], index: dict) -> dict:
    """The content of an instances json whose objects are detections."""
    objects = []
    for number, row in enumerate(rows, 1):
        objects.append({**row, "id": number, "iscrowd": 0})
    return {**index, "annotations": objects}


# ---- Against annotations -------------------------------------------------------------------------


def rows_of(rows: list[dict], path: Any, annotated: Annotations, truth: Any) -> list[dict]:
    """Detections with the image and category ids of a `evaluate.Truth`.

    Args:
        rows: of `read_rows`.
        path: their file; images.json beside it has the names of images and classes.
        annotated: the annotations that they are compared with.
        truth: `evaluate.Truth` of the dataset of `annotations.dataset_of`.

    Raises:
        AnnotationError: no image or no class of the detections is annotated; without images.json
            annotations that have no ids.
    """
    path = file_of(path)
    index = index_of(path)
    if index is None:
        if not truth.official:
            raise AnnotationError(
                f"{path}: expected {INDEX} beside it, as `mrcnn detect` writes it, since"
                f" {annotated.path} has no ids of images. Received: none"
            )
        return _with_ids_of(rows, path, annotated, truth)
    image_ids = _ids_by_name(index, annotated, list(truth.image_ids.values()), path)
    # Not by the truth's names, of which a second "BG" or "cat" has a number.
    categories = {name: class_id for class_id, name in enumerate(annotated.classes, 1)}
    if truth.official:
        categories = {}
        for category in annotated.categories:
            categories.setdefault(category["name"], category["id"])
    names = {category["id"]: str(category["name"]) for category in index["categories"]}
    converted = []
    unknown: collections.Counter = collections.Counter()
    for row in rows:
        image_id = image_ids.get(row["image_id"])
        if image_id is None:
            unknown["images that are not annotated"] += 1
        elif names.get(row["category_id"]) not in categories:
            unknown[f"the class {names.get(row['category_id'])!r}"] += 1
        else:
            category_id = categories[names[row["category_id"]]]
            converted.append({**row, "image_id": image_id, "category_id": category_id})
    if unknown:
        reasons = files.several(f"{count} of {reason}" for reason, count in unknown.items())
        text = f"{path}: {unknown.total()} detections are of no image or class of {annotated.path}"
        if not converted:
            raise AnnotationError(f"{text}: {reasons}; its classes are {files.several(categories)}")
        logger.warning("%s and are left out: %s", text, reasons)
    return converted


def _with_ids_of(rows: list[dict], path: str, annotated: Annotations, truth: Any) -> list[dict]:
    """Detections with ids as the truth has them, for `rows_of` without images.json.

    "12" is 12 if that is an id, and an image may be called by the name of its file, with or without
    suffix. Detections of other images are left out with a warning, unless there are no others.
    """
    images = {image["id"]: image for image in truth.data["images"]}
    categories = {category["id"]: category for category in truth.data["categories"]}
    numbers = coco.by_number_of(images), coco.by_number_of(categories)
    names: dict[str, list] = {}
    for image, image_id in zip(annotated.images, truth.image_ids.values()):
        name = _base_name(image.path or image.name)
        for text in {name, os.path.splitext(name)[0]}:
            names.setdefault(text, []).append(image_id)
    converted = []
    unknown: collections.Counter = collections.Counter()
    for row in rows:
        image_id = coco.known_id(row["image_id"], images, numbers[0])
        if image_id is None and len(names.get(row["image_id"], ())) == 1:
            (image_id,) = names[row["image_id"]]
        if image_id is None:
            unknown[row["image_id"]] += 1
            continue
        category_id = coco.known_id(row["category_id"], categories, numbers[1])
        if category_id is None:
            category_id = row["category_id"]
        converted.append({**row, "image_id": image_id, "category_id": category_id})
    if unknown and converted:
        logger.warning(
            "%s: %d detections are of no image of %s and are left out: image_id %s",
            path,
            unknown.total(),
            annotated.path,
            files.several(sorted(unknown, key=str)),
        )
    return converted or rows


def _ids_by_name(index: dict, annotated: Annotations, ids: list, path: str) -> dict:
    """{image id of the detections: id of the annotated image of the same file}.

    The file is that of the same path, or else of the same base name where it is the only one.

    Args:
        index: of `index_of`.
        annotated: the annotations.
        ids: of its images, in their order.
        path: of the detections, for messages.
    """
    by_path = {}
    by_name: dict[str, list] = {}
    for image, image_id in zip(annotated.images, ids):
        if image.path:
            by_path[os.path.realpath(image.path)] = image_id
        by_name.setdefault(_base_name(image.path or image.name), []).append(image_id)
    counts = collections.Counter(_base_name(image["file_name"]) for image in index["images"])
    matched = {}
    for image in index["images"]:
        name = _base_name(image["file_name"])
        image_id = by_path.get(os.path.realpath(image["file_name"]))
        if image_id is None and counts[name] == 1 and len(by_name.get(name, ())) == 1:
            image_id = by_name[name][0]
        if image_id is not None:
            matched[image["id"]] = image_id
    missing = set(ids) - set(matched.values())
    if not matched:
        raise AnnotationError(
            f"{os.path.join(os.path.dirname(path), INDEX)}: expected images of {annotated.path}."
            f" Received: {files.several(sorted(counts), 3)}"
        )
    if missing:
        logger.warning(
            "%s: %d of %d annotated images have no detections and are not in %s beside it; their"
            " objects count as missed",
            path,
            len(missing),
            len(ids),
            INDEX,
        )
    return matched


def _base_name(path: str) -> str:
    """The last part of a path of any system."""
    return str(path).replace("\\", "/").rpartition("/")[2]
