"""Data in COCO's format: reading and checking `instances_*.json`, downloads, a `Dataset`.

    dataset = CocoDataset()
    # official: coco/annotations, coco/val2017
    dataset.load_coco("coco", "val", "2017")
    dataset.load_json("mine/labels.json", "mine/photos")           # any other json
    dataset.prepare()

Each kind of problem is reported once per file, with the file's name and the ids: invalid entries
are left out with a warning, a file that can't be used is an error. Keras and TensorFlow are not
imported.
"""

import collections
import itertools
import logging
import math
import numbers
import os
import pathlib
import re
import shutil
import sys
import time
import unicodedata
import urllib.parse
import warnings
import zipfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from mrcnn import files, panoptic, utils
from mrcnn.masks import (
    BAD_NUMBERS,
    BAD_POLYGON,
    BAD_RUNS,
    FARTHEST,
    NO_SHAPE,
    LabelMaps,
    SegmentationError,
    decode,
    decode_rle,
    encode,
    finite_number,
    is_plain_polygon,
    sound_segmentation,
    to_rle,
    whole_number,
)

logger = logging.getLogger(__name__)

DEFAULT_YEAR = "2014"
# Addresses of the official data. COCO's own files lack the two parts of the 2014 validation set
# that papers of that time used.
ADDRESS = "http://images.cocodataset.org"
PARTS_2014 = {
    "minival": (
        "https://dl.dropboxusercontent.com/s/o43o90bna78omob/instances_minival2014.json.zip?dl=1"
    ),
    "valminusminival": (
        "https://dl.dropboxusercontent.com/s/s3tw5zcg7395368/"
        "instances_valminusminival2014.json.zip?dl=1"
    ),
}

# A json of this size or more takes at least a second to read.
LARGE_MEGABYTES = 20
OFFICIAL_IMAGES = {"train2014": 82_783, "val2014": 40_504, "train2017": 118_287, "val2017": 5_000}

# Why annotations are left out, beside the problems with their masks (see `mrcnn.masks`).
NO_OBJECT = "are no objects {...}"
NO_IMAGE = "belong to an image that is not in the file"
NO_CATEGORY = "belong to a category that is not in the file"
SAME_ID = "have an id that another one has"
PROBLEMS = (
    NO_OBJECT,
    NO_IMAGE,
    NO_CATEGORY,
    NO_SHAPE,
    BAD_POLYGON,
    BAD_NUMBERS,
    BAD_RUNS,
    SAME_ID,
)
# A warning is given if more than one annotation in this many is a crowd; in COCO it is one in 100.
MANY_CROWDS = 4
# If no coordinate of a file is larger, all are relative to the image's sides: 1, and for rounding.
LARGEST_SHARE = 1.01
# Detectron2's bbox_mode of COCO's boxes; others are corners, rotated or relative to the image.
XYWH = 1
# Values of "supercategory" that mean none.
NO_SUPERCATEGORY = (None, "", "none")
# The values of `crowds`, see `read_annotations`.
CROWDS = ("auto", "keep", "objects")
# Fields of an image that may have its file name; the first one with a name is used.
NAME_FIELDS = ("file_name", "filename", "coco_url", "flickr_url", "url", "path", "name")

# COCO's 80 categories by id, with gaps, in the order of the released weights' classes.
CATEGORIES = {
    1: "person",
    2: "bicycle",
    3: "car",
    4: "motorcycle",
    5: "airplane",
    6: "bus",
    7: "train",
    8: "truck",
    9: "boat",
    10: "traffic light",
    11: "fire hydrant",
    13: "stop sign",
    14: "parking meter",
    15: "bench",
    16: "bird",
    17: "cat",
    18: "dog",
    19: "horse",
    20: "sheep",
    21: "cow",
    22: "elephant",
    23: "bear",
    24: "zebra",
    25: "giraffe",
    27: "backpack",
    28: "umbrella",
    31: "handbag",
    32: "tie",
    33: "suitcase",
    34: "frisbee",
    35: "skis",
    36: "snowboard",
    37: "sports ball",
    38: "kite",
    39: "baseball bat",
    40: "baseball glove",
    41: "skateboard",
    42: "surfboard",
    43: "tennis racket",
    44: "bottle",
    46: "wine glass",
    47: "cup",
    48: "fork",
    49: "knife",
    50: "spoon",
    51: "bowl",
    52: "banana",
    53: "apple",
    54: "sandwich",
    55: "orange",
    56: "broccoli",
    57: "carrot",
    58: "hot dog",
    59: "pizza",
    60: "donut",
    61: "cake",
    62: "chair",
    63: "couch",
    64: "potted plant",
    65: "bed",
    67: "dining table",
    70: "toilet",
    72: "tv",
    73: "laptop",
    74: "mouse",
    75: "remote",
    76: "keyboard",
    77: "cell phone",
    78: "microwave",
    79: "oven",
    80: "toaster",
    81: "sink",
    82: "refrigerator",
    84: "book",
    85: "clock",
    86: "vase",
    87: "scissors",
    88: "teddy bear",
    89: "hair drier",
    90: "toothbrush",
}


def category_ids_of(class_names: Sequence[str]) -> dict[int, int] | None:
    """{class id: COCO's category id} if the classes are COCO's own 80, else None.

    Args:
        class_names: by class id, background first.
    """
    if list(class_names[1:]) != list(CATEGORIES.values()):
        return None
    return dict(enumerate(CATEGORIES, 1))


# ------------------------------------------------------------------------------------------------
#  Reading and checking
# ------------------------------------------------------------------------------------------------


def read_annotations(path: Any, crowds: str = "auto", content: dict | None = None) -> Any:
    """Reads and checks a json of annotations.

    The variants that CVAT, VIA, Roboflow, Label Studio and others write are converted to COCO's
    form: ids as text, objects instead of lists, flat polygons, areas and boxes that are missing or
    no numbers (they are computed), sizes of -1 (None here, unless run lengths have them). A
    category that only groups the others, like Roboflow's first, is left out.

    Invalid annotations are left out, each kind with one warning that has the file, their number
    and ids: their image or category is not in the file, or they have no segmentation, or polygons
    or run lengths that can't be drawn.

    If no annotation has a segmentation, as in exports for box detectors, the boxes are used as
    shapes, with a warning.

    A panoptic json is read with the PNGs of its segments, see `panoptic.to_instances`.

    Args:
        path: a json in the format of COCO's `instances_*.json`.
        crowds: "auto": if all annotations are crowds, they are used as objects, with a warning,
            since CVAT, pycococreator and others write iscrowd 1 for every run-length mask, and
            crowds train nothing; likewise in a file of V7 or supervision, which write it for every
            object with a hole or in several parts. "keep": as in the file. "objects": no annotation
            is a crowd.
        content: the json's content, edited; None to read it.

    Returns:
        pycocotools.coco.COCO, with the attributes `problems`, a text for each image, annotation or
        polygon that was left out, and `incomplete`, the ids of the images that lack an annotation
        for this reason.

    Raises:
        FileNotFoundError: no such file.
        ValueError: invalid JSON, another format, two images or categories with one id, or polygons
            in relative coordinates.
    """
    from pycocotools.coco import COCO

    if crowds not in CROWDS:
        raise ValueError(f"crowds is one of {', '.join(CROWDS)}. Received: {crowds!r}")
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No annotations at {path}{_nearby_jsons(path)}")
    megabytes = path.stat().st_size / 1e6
    start = time.monotonic()
    _say(f"Reading {path}, {megabytes:.1f} MB", megabytes)
    with files.no_collection():
        coco = COCO()
        coco.problems = []
        coco.incomplete = set()
        coco.dataset = _parse(path, coco.problems, content)
        if panoptic.is_panoptic(coco.dataset["annotations"]):
            panoptic.to_instances(coco.dataset, path, coco.problems)
        _warn_of_partial_annotation(coco.dataset["images"], path)
        _drop_corners(coco.dataset, path)
        _turn_runs_of_rows(coco.dataset["annotations"], path)
        _boxes_to_polygons(coco.dataset["annotations"], path)
        _index(coco, path)
        _check_that_pixels(coco, path)
        _convert_crowds(coco, crowds, path)
        _drop_groups(coco, path)
        _warn_of_duplicates(coco, path)
    _say(
        f"{len(coco.imgs)} images, {len(coco.anns)} annotations, {len(coco.cats)} categories in "
        f"{time.monotonic() - start:.1f} s",
        megabytes,
    )
    return coco


def _say(text: str, megabytes: float) -> None:
    """Logs progress; prints it if the file is large and INFO is not logged."""
    if megabytes < LARGE_MEGABYTES or logger.isEnabledFor(logging.INFO):
        logger.info("%s", text)
    else:
        print(text, file=sys.stderr, flush=True)


def _nearby_jsons(path: pathlib.Path) -> str:
    """The json files near a path without a file, as the end of an error message."""
    if path.is_dir():
        nearby = [file.relative_to(path) for file in _jsons_below(path)]
        return f", which is a folder. Its json files: {files.several(nearby, 10) or 'none'}"
    if not path.parent.is_dir():
        text = f": there is no folder {path.parent}"
        grandparent = path.parent.parent
        nearby = [file.relative_to(grandparent) for file in _jsons_below(grandparent)]
        if nearby:
            text += f". {grandparent} has {files.several(nearby, 10)}"
        return text
    names = sorted(file.name for file in path.parent.glob("*.json"))
    if not names:
        return f". {path.parent} has no json file"
    return f". {path.parent} has {files.several(names, 10)}"


def _leave_out(
    path: pathlib.Path,
    problems: list[str],
    subject: str,
    problem: str,
    entries: Sequence[Any],
) -> None:
    """Reports entries that are left out: a text for each in `problems`, and one warning.

    Args:
        path: the json.
        problems: see `read_annotations`; edited.
        subject, problem: such as "images", "have no file_name".
        entries: their ids, with further information.
    """
    if not entries:
        return
    left_out = "are"
    if problem in (BAD_POLYGON, BAD_NUMBERS):
        left_out = "those polygons are"
    logger.warning(
        "%s: %d %s %s and %s left out: %s",
        path,
        len(entries),
        subject,
        problem,
        left_out,
        files.several(entries),
    )
    problems += [f"{path}: {subject} that {problem}: {entry}" for entry in entries]


def _parse(path: pathlib.Path, problems: list[str], content: dict | None = None) -> dict:
    """Reads the json and makes "images", "annotations" and "categories" lists of dicts with ids.

    Args:
        path: of the json.
        problems: a text for each entry that is left out is appended.
        content: of the json, edited; None to read it.

    Raises:
        ValueError: invalid JSON, another format, or an image or a category without an id.
    """
    data: Any = content
    if data is None:
        try:
            data = files.read_json(path)
        except ValueError as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise ValueError(f"{path} is no valid json (cut off or damaged?): {reason}") from error
    required = ("images", "annotations", "categories")
    if not isinstance(data, dict) or not all(
        isinstance(data.get(key), (list, dict)) for key in required
    ):
        received = f"a {type(data).__name__}"
        if isinstance(data, dict):
            received = f"an object with {files.several(data)}"
        raise ValueError(
            f"{path} has no lists {', '.join(required)}, as an instances_*.json has. "
            f"Received: {received}"
        )
    _check_that_instances(data["annotations"], path)
    for key in required:
        if isinstance(data[key], dict):  # {id: item}
            data[key] = [_with_id(item, number) for number, item in data[key].items()]
    for key in ("images", "categories"):
        items = [item for item in data[key] if type(item) is dict]
        invalid = [files.short(item) for item in data[key] if type(item) is not dict]
        _leave_out(path, problems, key, NO_OBJECT, invalid)
        data[key] = items
        for index, item in enumerate(data[key]):
            if _plain_id(item.get("id")) is None:
                raise ValueError(
                    f"{path}: each of {key} has an id."
                    f" Received: {files.short(item)} at place {index}"
                )
    return data


def _check_that_instances(annotations: Any, path: pathlib.Path) -> None:
    """ValueError for COCO's json of captions, whose annotations have no masks."""
    first: Any = next(iter(annotations), None)
    if isinstance(annotations, dict):
        first = annotations.get(first)
    if not isinstance(first, dict) or "category_id" in first:
        return
    if "caption" in first:
        raise ValueError(
            f"{path}: expected a json of instances, with masks. Received: one of captions, with"
            " 'caption' in its annotations; use the instances_*.json of these images"
        )


def _warn_of_partial_annotation(images: list[dict], path: pathlib.Path) -> None:
    """Warns of LVIS, which annotates in each image a part of the classes alone."""
    fields = ("neg_category_ids", "not_exhaustive_category_ids")
    partial = sum(not set(fields).isdisjoint(image) for image in images)
    if partial:
        logger.warning(
            "%s: of %d images only some classes are annotated, as in LVIS (%s); objects of the"
            " others count as background in training and as false detections in AP, which is"
            " lower than LVIS's own",
            path,
            partial,
            ", ".join(fields),
        )


def _with_id(item: Any, number: str) -> Any:
    """The item of an object {number: item}; a dict without an "id" gets the number."""
    if isinstance(item, dict):
        item.setdefault("id", number)
    return item


def _plain_id(value: Any) -> int | str | None:
    """An id as an int if possible ("7" and 7.0 become 7), else as text; None for no valid id.

    "007" stays text: it may be another id than "7".
    """
    number = whole_number(value)
    if isinstance(value, str) and value != str(number):
        return value
    return number


# How many annotations with polygons, and how many in all, tell whether a file's boxes are corners.
_SAMPLED_OUTLINES = 200
_SAMPLED_BOXES = 10_000
# Rounding of boxes, in pixels.
_BOX_ROUNDING = 2


def _drop_corners(data: dict, path: pathlib.Path) -> None:
    """Drops boxes that are corners [x1, y1, x2, y2]; they are computed from the polygons then.

    Some converters write them in place of [x, y, width, height]: the polygons tell. Where there are
    none, a warning is given if boxes reach beyond their images and don't as corners.
    """
    outlined = []
    boxes = []
    annotations = data["annotations"]
    for item in annotations:
        box = None
        if isinstance(item, dict) and "bbox_mode" not in item:
            box = sound_box(item.get("bbox"))
        if box is None:
            continue
        boxes.append((item.get("image_id"), box))
        shape = item.get("segmentation")
        if isinstance(shape, list) and shape and all(map(is_plain_polygon, shape)):
            outlined.append((shape, box))
        if len(outlined) == _SAMPLED_OUTLINES or len(boxes) == _SAMPLED_BOXES:
            break
    if outlined:
        # A box from the corner of its image is the same in both forms.
        telling = [(shape, box) for shape, box in outlined if box[0] + box[1] > _BOX_ROUNDING]
        if telling and all(_are_corners(shape, box) for shape, box in telling):
            logger.warning(
                "%s: the boxes are corners [x1, y1, x2, y2] of the polygons, not COCO's [x, y,"
                " width, height]; those of the polygons are taken",
                path,
            )
            for item in annotations:
                if isinstance(item, dict):
                    item.pop("bbox", None)
        return
    sizes = {}
    for image in data["images"]:
        sizes[str(image["id"])] = (_side(image.get("width")), _side(image.get("height")))
    beyond = 0
    for image_id, (x, y, width, height) in boxes:
        right, bottom = sizes.get(str(image_id), (None, None))
        if not right or not bottom:
            return
        if not x < width <= right + _BOX_ROUNDING or not y < height <= bottom + _BOX_ROUNDING:
            return
        beyond += x + width > right + _BOX_ROUNDING or y + height > bottom + _BOX_ROUNDING
    if 4 * beyond > len(boxes):
        logger.warning(
            "%s: %d of %d boxes reach beyond their image as COCO's [x, y, width, height], and all"
            " would be within as corners [x1, y1, x2, y2]; they are taken as COCO's",
            path,
            beyond,
            len(boxes),
        )


def _are_corners(polygons: list[list[float]], box: list[float]) -> bool:
    """Whether a box fits polygons as corners, and not as [x, y, width, height]."""
    left = min(min(polygon[::2]) for polygon in polygons)
    top = min(min(polygon[1::2]) for polygon in polygons)
    right = max(max(polygon[::2]) for polygon in polygons)
    bottom = max(max(polygon[1::2]) for polygon in polygons)
    x, y, width, height = box

    def is_near(*corners: float) -> bool:
        pairs = zip(corners, (left, top, right, bottom))
        return all(abs(value - expected) <= _BOX_ROUNDING for value, expected in pairs)

    return is_near(x, y, width, height) and not is_near(x, y, x + width, y + height)


def _turn_runs_of_rows(annotations: list, path: pathlib.Path) -> None:
    """Turns run lengths that follow the rows into COCO's, which follow the columns.

    Scripts that flatten a mask of numpy without order="F" write them: the boxes tell, as long as
    they were not computed from such runs.
    """
    telling = 0
    unclear = 0
    for item in annotations:
        runs = _plain_runs(item)
        box = None
        if runs is not None and "bbox_mode" not in item:
            box = sound_box(item.get("bbox"))
        if runs is None or box is None or not box[2] or not box[3]:
            continue
        counts, height, width = runs
        left, right, top, bottom = _extent_of_runs(counts, height)
        first_row, last_row, first_column, last_column = _extent_of_runs(counts, width)
        x, y, box_width, box_height = box
        edges = np.array([x, x + box_width, y, y + box_height])
        fits = np.abs(edges - [left, right, top, bottom]).max() <= _BOX_ROUNDING
        by_rows = [first_column, last_column, first_row, last_row]
        fits_by_rows = np.abs(edges - by_rows).max() <= _BOX_ROUNDING
        if fits and not fits_by_rows:
            return
        telling += fits_by_rows and not fits
        unclear += not fits and not fits_by_rows
        if telling + unclear == _SAMPLED_OUTLINES:
            break
    if telling <= unclear:
        return
    for item in annotations:
        runs = _plain_runs(item)
        if runs is not None:
            counts, height, width = runs
            mask = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)
            item["segmentation"]["counts"] = encode(mask[..., None])[0]["counts"]
    logger.warning(
        "%s: the run lengths follow the rows of their images, as the boxes show, not the columns"
        " as COCO's; they are taken so",
        path,
    )


def _plain_runs(item: Any) -> tuple[list[int], int, int] | None:
    """The uncompressed run lengths of an annotation, and the height and width of their image.

    None for another annotation, and for runs without a pixel or that don't add up.
    """
    if not isinstance(item, dict) or not isinstance(item.get("segmentation"), dict):
        return None
    counts = item["segmentation"].get("counts")
    size = item["segmentation"].get("size")
    if not isinstance(counts, list) or not isinstance(size, list) or len(size) != 2:
        return None
    if not all(type(number) is int and number >= 0 for number in (*size, *counts)):
        return None
    height, width = size
    if sum(counts) != height * width or not sum(counts[1::2]):
        return None
    return counts, height, width


def _extent_of_runs(counts: list[int], side: int) -> tuple[int, int, int, int]:
    """The first line with a pixel and that after the last, and so within lines, of run lengths.

    Args:
        counts: run lengths with at least one pixel.
        side: pixels of a line: the image's height where lines are columns.
    """
    edges = np.cumsum(counts, dtype=np.int64)
    has_pixels = np.array(counts[1::2]) > 0
    starts = edges[:-1:2][has_pixels]
    lasts = edges[1::2][has_pixels] - 1
    first_line = int(starts[0] // side)
    last_line = int(lasts[-1] // side)
    within_first = 0
    within_last = side - 1
    if (starts // side == lasts // side).all():  # else a run has the end of a line and a beginning
        within_first = int((starts % side).min())
        within_last = int((lasts % side).max())
    return first_line, last_line + 1, within_first, within_last + 1


def _boxes_to_polygons(annotations: list, path: pathlib.Path) -> None:
    """Converts boxes to rectangular polygons if no annotation has a segmentation."""
    if any(isinstance(item, dict) and item.get("segmentation") for item in annotations):
        return
    converted = 0
    for item in annotations:
        box = None
        if isinstance(item, dict) and whole_number(item.get("bbox_mode", XYWH)) == XYWH:
            box = sound_box(item.get("bbox"))
        if box is None or not box[2] or not box[3]:
            continue
        x, y, width, height = box
        right = x + width
        bottom = y + height
        item["segmentation"] = [[x, y, right, y, right, bottom, x, bottom]]
        converted += 1
    if converted:
        logger.warning(
            "%s: no annotation has a segmentation; the boxes of %d are taken for their shapes",
            path,
            converted,
        )


def _check_that_pixels(coco: Any, path: pathlib.Path) -> None:
    """ValueError if all polygons have relative coordinates: each would be a single pixel."""
    for annotation in coco.anns.values():
        shape = annotation["segmentation"]
        if not isinstance(shape, list) or max(map(max, shape)) > LARGEST_SHARE:
            return
    if coco.anns:
        first = next(iter(coco.anns.values()))
        raise ValueError(
            f"{path}: polygons are in pixels. Received: none beyond {LARGEST_SHARE:g}, as shares of"
            f" the images' sides have it; annotation {first['id']} is"
            f" {files.short(first['segmentation'])}"
        )


def known_id(
    value: Any,
    items: dict[Any, dict],
    by_number: dict[int, Any],
) -> int | str | None:
    """The id in `items` that a value refers to; None if there is none.

    by_number: `by_number_of` of the items.
    """
    plain = _plain_id(value)
    for candidate in (plain, str(plain)):
        if candidate in items:
            return candidate
    number = whole_number(value)
    if number is None:
        return None
    return by_number.get(number)


def by_number_of(all_ids: Iterable[Any]) -> dict[int, Any]:
    """{whole number: id}: "007" for 7, unless several ids have the same number."""
    ids: dict[int, list] = {}
    for item in all_ids:
        number = whole_number(item)
        if number is not None:
            ids.setdefault(number, []).append(item)
    return {number: matches[0] for number, matches in ids.items() if len(matches) == 1}


def _index(coco: Any, path: pathlib.Path) -> None:
    """Does the work of `COCO.createIndex` for the annotations that can be used."""
    data = coco.dataset
    coco.imgs = _images_by_id(data, path, coco.problems)
    coco.cats = _by_id(data, "categories", path)
    _check_names(coco.cats, path)
    numbers = by_number_of(coco.imgs), by_number_of(coco.cats)
    left_out: dict[str, list] = {problem: [] for problem in PROBLEMS}
    usable: dict[Any, dict] = {}
    without_unique_id = []
    for annotation in data["annotations"]:
        if not _is_plain(annotation, coco.imgs, coco.cats):
            annotation = _converted(annotation, coco, numbers, left_out)
            if annotation is None:
                continue
        annotation_id = annotation["id"]
        if annotation_id is None or annotation_id in usable:
            without_unique_id.append(annotation)
            continue
        usable[annotation_id] = annotation
        _link(coco, annotation)
    _assign_new_ids(coco, usable, without_unique_id, left_out)
    coco.anns = usable
    data["annotations"] = list(usable.values())
    for problem, entries in left_out.items():
        _leave_out(path, coco.problems, "annotations", problem, entries)


def _link(coco: Any, annotation: dict) -> None:
    """Adds an annotation to the indices by image and by category."""
    coco.imgToAnns[annotation["image_id"]].append(annotation)
    coco.catToImgs[annotation["category_id"]].append(annotation["image_id"])


def _assign_new_ids(
    coco: Any,
    usable: dict[Any, dict],
    duplicates: list[dict],
    left_out: dict[str, list],
) -> None:
    """Assigns new ids to annotations without an id, or with the id of another one.

    Merged files have such annotations, and files that number those of each image from 1. One that
    equals an earlier annotation is left out.

    Args:
        usable: {id: annotation} of the other annotations; edited.
        duplicates: the annotations that get an id.
        left_out: {problem: entries}; edited.
    """
    new_id = max((key for key in usable if isinstance(key, int)), default=0)
    duplicated_ids = {annotation["id"] for annotation in duplicates} - {None}
    seen = {repr(usable[key]) for key in duplicated_ids}
    for annotation in duplicates:
        text = repr(annotation)
        if annotation["id"] is not None and text in seen:
            left_out[SAME_ID].append(annotation["id"])
            continue
        seen.add(text)
        new_id += 1
        annotation["id"] = new_id
        usable[new_id] = annotation
        _link(coco, annotation)


def _images_by_id(data: dict, path: pathlib.Path, problems: list[str]) -> dict[Any, dict]:
    """{id: image}, each with a file_name, and with height and width in pixels or None."""
    images = _by_id(data, "images", path)
    nameless = []
    for image in images.values():
        image["file_name"] = _file_name(image)
        for side in ("height", "width"):
            image[side] = _side(image.get(side))
        if image["file_name"] is None:
            nameless.append(image["id"])
    for image_id in nameless:
        del images[image_id]
    data["images"] = list(images.values())
    _leave_out(path, problems, "images", "have no file_name", nameless)
    return images


def _file_name(image: dict) -> str | None:
    """An image's file name, or the last part of its URL, or its path; None without any."""
    for field in NAME_FIELDS:
        name = image.get(field)
        if isinstance(name, int) and not isinstance(name, bool):
            name = str(name)
        if not isinstance(name, str) or not name.strip():
            continue
        if field.endswith("url"):
            name = name_of_address(name)
        return name
    return None


def name_of_address(address: str) -> str:
    """The last part of the path of a URL, decoded: the name of the file there."""
    path = urllib.parse.urlsplit(address).path
    return urllib.parse.unquote(path).rsplit("/", 1)[-1]


# Names of COCO's images until 2014 are those of 2017 with this prefix.
_PREFIX_2014 = re.compile(r"COCO_(train|val|test)2014_")


def other_names(image: dict) -> tuple[str, ...]:
    """Names that the file of an image may have beside its file_name, most likely first.

    They are those of its addresses, with and without the folder, such as train2017/ in LVIS's
    coco_url, and in the form of 2017.
    """
    names = []
    for field in NAME_FIELDS:
        if field.endswith("url") and isinstance(image.get(field), str):
            parts = urllib.parse.unquote(urllib.parse.urlsplit(image[field]).path).split("/")
            names += ["/".join(parts[-2:]), parts[-1]]
    name = str(image["file_name"])
    names.append(_PREFIX_2014.sub("", name, count=1))
    # The panoptic json of Cityscapes' scripts names the images after its labels.
    names.append(name.replace("_gtFine_leftImg8bit.", "_leftImg8bit."))
    return tuple(other for other in dict.fromkeys(names) if other not in ("", name))


def _side(value: Any) -> int | None:
    """A height or width in pixels; None for null, -1 and other values for "unknown"."""
    side = whole_number(value)
    if side is None or not 1 <= side <= FARTHEST:
        return None
    return side


def _by_id(data: dict, key: str, path: pathlib.Path) -> dict[Any, dict]:
    """{id: item} of data[key]; ValueError if different items have the same id.

    All ids become text if one of them is no number or has leading zeros. Equal items with the same
    id, as in merged files, are used once.
    """
    items: dict[Any, dict] = {}
    repeated = []
    conflicts = []
    for item in data[key]:
        item["id"] = _plain_id(item["id"])
    if any(isinstance(item["id"], str) for item in data[key]):
        for item in data[key]:
            item["id"] = str(item["id"])
    for item in data[key]:
        first = items.setdefault(item["id"], item)
        if first is not item and first == item:
            repeated.append(item["id"])
        elif first is not item:
            conflicts.append(f"{item['id']} ({_named(first)}, {_named(item)})")
    if conflicts:
        raise ValueError(f"{path}: ids of {key} occur more than once: {files.several(conflicts)}")
    if repeated:
        logger.warning(
            "%s: %d %s are there twice and are taken once: %s",
            path,
            len(repeated),
            key,
            files.several(repeated),
        )
        data[key] = list(items.values())
    return items


def _named(item: dict) -> str:
    """The name of an image or a category, for messages."""
    return files.short(item.get("file_name", item.get("name")))


def _check_names(categories: dict[Any, dict], path: pathlib.Path) -> None:
    """Normalises the names of categories, as `annotations` does for other formats.

    Each becomes text in Unicode's form NFC, without surrounding spaces. ValueError for a category
    without a name.
    """
    nameless = []
    for category_id, category in categories.items():
        name = category.get("name")
        if name is None or not str(name).strip():
            nameless.append(category_id)
        category["name"] = unicodedata.normalize("NFC", str(name)).strip()
    if nameless:
        raise ValueError(
            f"{path}: categories have a name. Received: none for id {files.several(nameless)}"
        )


def _is_plain(annotation: Any, images: dict[Any, dict], categories: dict[Any, dict]) -> bool:
    """Whether an annotation already has COCO's own form.

    A fast check, since there may be a million; the others go through `_converted`.
    """
    try:
        image = images[annotation["image_id"]]
        if annotation["category_id"] not in categories:
            return False
        for key in ("id", "image_id", "category_id"):
            if type(annotation[key]) not in (int, str):
                return False
        if not _is_measured(annotation):
            return False
        shape = annotation["segmentation"]
        if type(shape) is list:
            may_be_polygons = 0 < len(shape) != image["height"]
            return may_be_polygons and all(map(is_plain_polygon, shape))
        if type(shape["counts"]) is not list:
            return False
        pixels = image["height"] * image["width"]
        covers_image = (
            shape["size"] == [image["height"], image["width"]] and sum(shape["counts"]) == pixels
        )
        return covers_image and min(shape["counts"]) >= 0 and type(sum(shape["counts"])) is int
    except (KeyError, TypeError, ValueError, OverflowError):
        return False


def _is_measured(annotation: dict) -> bool:
    """Whether an annotation's iscrowd, area and bbox have COCO's own form."""
    crowd = annotation["iscrowd"]
    if type(crowd) is not int or crowd not in (0, 1) or "bbox_mode" in annotation:
        return False
    area = annotation["area"]
    x, y, width, height = annotation["bbox"]
    return 0 <= area < math.inf and width >= 0 and height >= 0 and math.hypot(x, y) < math.inf


def _converted(
    annotation: Any,
    coco: Any,
    numbers: tuple[dict[int, Any], dict[int, Any]],
    left_out: dict[str, list],
) -> dict | None:
    """An annotation in COCO's form; None for one that can't be used.

    Args:
        annotation: an entry of the json.
        coco: with `imgs` and `cats`.
        numbers: `by_number_of` of the images and of the categories.
        left_out: {problem: entries}; edited.
    """
    image_numbers, category_numbers = numbers
    if type(annotation) is not dict:
        left_out[NO_OBJECT].append(files.short(annotation))
        return None
    annotation_id = _plain_id(annotation.get("id"))
    image_id = known_id(annotation.get("image_id"), coco.imgs, image_numbers)
    if image_id is None:
        image_id = _image_of_name(annotation.get("image_id"), coco)
    if image_id is None:
        left_out[NO_IMAGE].append(f"{annotation_id} (image {annotation.get('image_id')})")
        return None
    category_id = _category_of(annotation.get("category_id"), coco.cats, category_numbers)
    if category_id is None:
        coco.incomplete.add(image_id)
        left_out[NO_CATEGORY].append(f"{annotation_id} (category {annotation.get('category_id')})")
        return None
    image = coco.imgs[image_id]
    entry = f"{annotation_id} (image {image_id}"
    try:
        converted, problems = sound_annotation(annotation, *_size_for(annotation, image))
    except SegmentationError as error:
        converted = None
        problems = [error]
    for problem in {item.kind: item for item in problems}.values():
        detail = ")"
        if problem.kind in (BAD_NUMBERS, BAD_RUNS):
            detail = f": {problem})"
        left_out[problem.kind].append(entry + detail)
    if converted is None:
        coco.incomplete.add(image_id)
        return None
    converted.update(id=annotation_id, image_id=image_id, category_id=category_id)
    return converted


def _image_of_name(value: Any, coco: Any) -> Any:
    """The id of the image that an annotation names by its file, with or without suffix; else None.

    Several images of that name are none.
    """
    if not hasattr(coco, "ids_by_name"):
        ids: dict[str, set] = {}
        for image_id, image in coco.imgs.items():
            name = image["file_name"]
            for text in (name, os.path.splitext(name)[0]):
                ids.setdefault(text, set()).add(image_id)
        coco.ids_by_name = {text: min(same) for text, same in ids.items() if len(same) == 1}
    if not isinstance(value, str):
        return None
    return coco.ids_by_name.get(value)


def _category_of(value: Any, categories: dict[Any, dict], by_number: dict[int, Any]) -> Any:
    """The id of an annotation's category, which it names by id or by name; None if unknown."""
    category_id = known_id(value, categories, by_number)
    if category_id is not None:
        return category_id
    if not isinstance(value, str):
        return None
    name = unicodedata.normalize("NFC", value).strip()
    matching = [key for key, category in categories.items() if category["name"] == name]
    if len(matching) == 1:
        return matching[0]
    return None


def _size_for(annotation: dict, image: dict) -> tuple[int | None, int | None]:
    """(height, width) of an annotation's image; if unknown, set to those of its run lengths."""
    shape = annotation.get("segmentation")
    if image["height"] and image["width"]:
        return image["height"], image["width"]
    if isinstance(shape, dict) and isinstance(shape.get("size"), list):
        sides = [_side(side) for side in shape["size"]]
        if len(sides) == 2 and all(sides):
            image["height"], image["width"] = sides
    return image["height"], image["width"]


def sound_annotation(
    annotation: dict,
    height: int | None,
    width: int | None,
) -> tuple[dict, list[SegmentationError]]:
    """Converts an annotation to the form that pycocotools' COCOeval takes.

    Its segmentation is converted by `masks.sound_segmentation`, iscrowd becomes 0 or 1; area, bbox
    and num_keypoints are computed if they are missing or no numbers.

    Args:
        annotation: dict, not edited.
        height, width: of its image in pixels; None if unknown.

    Returns:
        a new dict, and the problems of the parts of its segmentation that were left out.

    Raises:
        SegmentationError: no part of it can be drawn.
    """
    from pycocotools import mask as coco_mask

    converted = dict(annotation)
    shape, problems = sound_segmentation(converted.get("segmentation"), height or 0, width or 0)
    converted["segmentation"] = shape
    converted["iscrowd"] = _flag(converted.get("iscrowd"))
    area = _number(converted.get("area"))
    bbox = sound_box(converted.get("bbox"))
    if whole_number(converted.pop("bbox_mode", XYWH)) != XYWH:
        bbox = None
    if area is None or bbox is None:
        if not height or not width:
            height, width = _extent(shape)
        code = to_rle(converted, height, width)
        if area is None:
            area = float(coco_mask.area(code))
        if bbox is None:
            bbox = coco_mask.toBbox(code).tolist()
    converted["area"] = area
    converted["bbox"] = bbox
    points = converted.get("keypoints")
    if isinstance(points, list) and whole_number(converted.get("num_keypoints")) is None:
        converted["num_keypoints"] = sum(bool(visibility) for visibility in points[2::3])
    return converted, problems


def _flag(value: Any) -> int:
    """1 for true, 1, 1.0, "1", "true" or "yes"; 0 for anything else, such as null."""
    if isinstance(value, str):
        return int(value.strip().lower() in ("1", "1.0", "true", "yes"))
    return int(isinstance(value, (numbers.Real, np.bool_)) and value == 1)


def _number(value: Any) -> float | None:
    """A number of at least 0, which may be given as text; None for anything else."""
    number = finite_number(value)
    if number is None or number < 0:
        return None
    return number


def sound_box(value: Any) -> list[float] | None:
    """A box [x, y, width, height] of finite numbers; None for anything else."""
    if not isinstance(value, (list, tuple, np.ndarray)) or len(value) != 4:
        return None
    box = [finite_number(number) for number in value]
    if None in box:
        return None
    x, y, width, height = map(float, box)  # type: ignore[arg-type]
    if math.isfinite(x + y + width + height) and width >= 0 and height >= 0:
        return [x, y, width, height]
    return None


def _extent(polygons: list[list[float]]) -> tuple[int, int]:
    """(height, width) in pixels of the smallest image that contains polygons."""
    height = max(max(polygon[1::2]) for polygon in polygons)
    width = max(max(polygon[::2]) for polygon in polygons)
    return max(math.ceil(height), 1), max(math.ceil(width), 1)


def glance(shape: Any) -> tuple:
    """A short key of a segmentation (polygons or run lengths), the same for equal ones."""
    if isinstance(shape, dict):
        return len(shape["counts"]), repr(shape["counts"][:20])
    return tuple(shape[0][:4]), *map(len, shape)


def _warn_of_duplicates(coco: Any, path: pathlib.Path) -> None:
    """Warns of annotations with the category and shape of another one; each of them counts."""
    duplicates = []
    for annotations in coco.imgToAnns.values():
        by_key: dict[tuple, list[dict]] = {}
        for item in annotations:
            key = (item["category_id"], item["iscrowd"], glance(item["segmentation"]))
            same_key = by_key.setdefault(key, [])
            if any(other["segmentation"] == item["segmentation"] for other in same_key):
                duplicates.append(item["id"])
            else:
                same_key.append(item)
    if duplicates:
        logger.warning(
            "%s: %d annotations are equal to another one of their image in class and shape, and"
            " count twice: %s",
            path,
            len(duplicates),
            files.several(duplicates),
        )


def _convert_crowds(coco: Any, crowds: str, path: pathlib.Path) -> None:
    """Converts crowds to objects, see `read_annotations`."""
    total = len(coco.anns)
    count = sum(annotation["iscrowd"] for annotation in coco.anns.values())
    if not count or crowds == "keep":
        return
    if crowds == "auto" and count < total:
        writer = _writer_without_crowds(coco.dataset)
        if writer is None:
            if _may_be_objects(coco.anns.values()):
                logger.warning(
                    "%s: %d of %d annotations are crowds (iscrowd 1), which train nothing. Where"
                    " they are objects, as CVAT and others write them, load the file with"
                    ' crowds="objects" (--crowds=objects)',
                    path,
                    count,
                    total,
                )
            return
        logger.warning(
            "%s: %d of %d annotations are crowds (iscrowd 1), as %s writes objects with a hole or"
            ' in several parts; they are used as objects. crowds="keep" leaves them crowds',
            path,
            count,
            total,
            writer,
        )
    for annotation in coco.anns.values():
        annotation["iscrowd"] = 0
    if crowds == "auto" and count == total:
        logger.warning(
            "%s: all %d annotations are crowds (iscrowd 1), as CVAT and pycococreator write them"
            ' for run lengths; they are used as objects. crowds="keep" leaves them crowds',
            path,
            total,
        )


def _writer_without_crowds(data: dict) -> str | None:
    """The program that wrote a file, of those that call what has a hole or several parts a crowd;
    None for others."""
    info = data.get("info")
    if isinstance(info, dict) and info.get("description") == "Exported from Darwin":
        return "V7"
    if {category.get("supercategory") for category in data["categories"]} == {"common-objects"}:
        return "supervision"
    return None


def _may_be_objects(annotations: Collection[dict]) -> bool:
    """Whether a file's crowds may be objects: they are many, CVAT's, or all else is one polygon, as
    where a program has no other way to write a hole."""
    crowds = [annotation for annotation in annotations if annotation["iscrowd"]]
    if len(crowds) > len(annotations) // MANY_CROWDS or any(map(_is_crowd_of_cvat, crowds)):
        return True
    return all(
        isinstance(annotation["segmentation"], list) and len(annotation["segmentation"]) == 1
        for annotation in annotations
        if not annotation["iscrowd"]
    )


def _is_crowd_of_cvat(annotation: dict) -> bool:
    """Whether an annotation may be a mask from CVAT, which writes iscrowd 1 for every mask."""
    attributes = annotation.get("attributes")
    return annotation["iscrowd"] == 1 and isinstance(attributes, dict) and "occluded" in attributes


def _drop_groups(coco: Any, path: pathlib.Path) -> None:
    """Leaves out categories that only group others, like the first one of Roboflow's exports.

    A category with annotations always stays. Otherwise the categories alone decide: the files of
    one dataset, train and val, have different annotations, but must give the same class ids.
    """
    groups = {}
    for category_id, category in coco.cats.items():
        if _is_group(category_id, category, coco.cats) and not coco.catToImgs.get(category_id):
            groups[category_id] = category["name"]
    if groups:
        for category_id in groups:
            del coco.cats[category_id]
        coco.dataset["categories"] = list(coco.cats.values())
        logger.warning(
            "%s: %d categories have no annotations and only group others; they are left out: %s",
            path,
            len(groups),
            files.several(f"{category_id} ({name})" for category_id, name in groups.items()),
        )
    counts = collections.Counter(category["name"] for category in coco.cats.values())
    repeated = {name: count for name, count in counts.items() if count > 1}
    if repeated:
        logger.warning(
            "%s: several categories have one name: %s", path, files.several(map(repr, repeated))
        )


def _is_group(category_id: Any, category: dict, categories: dict[Any, dict]) -> bool:
    """Whether a category is Roboflow's root, or a top-level one with the name of a lower one.

    The root has the id 0 and the supercategory "none", and is the supercategory of others.
    """
    name = category["name"]
    if not _is_top(category) or name in NO_SUPERCATEGORY:
        return False
    others = [item for item in categories.values() if item is not category]
    if any(item["name"] == name and not _is_top(item) for item in others):
        return True
    is_first = str(category_id) == "0" and category.get("supercategory") == "none"
    return is_first and any(item.get("supercategory") == name for item in others)


def _is_top(category: dict) -> bool:
    """Whether a category has no supercategory."""
    return category.get("supercategory") in NO_SUPERCATEGORY


# ------------------------------------------------------------------------------------------------
#  Layouts of exports
# ------------------------------------------------------------------------------------------------

# Names of the subsets in the names of files and folders.
SUBSET_WORDS = {"train": ("train", "training"), "val": ("val", "valid", "validation")}
OTHER_SUBSETS = ("test", "testing", "minival", "valminusminival")
# Names of folders that have only annotations.
ANNOTATION_FOLDERS = ("annotations", "annotation", "labels", "json", "jsons")
# COCO's other kinds of annotations.
OTHER_KINDS = ("keypoints", "captions", "panoptic", "stuff", "image_info")


def _official(folder: Any, subset: str, year: str, kind: str = "instances") -> pathlib.Path:
    """The path of a subset's annotations in COCO's own layout."""
    return pathlib.Path(folder) / "annotations" / f"{kind}_{subset}{year}.json"


def find_json(folder: Any, subset: str, year: str, kind: str = "instances") -> pathlib.Path:
    """The path of a subset's json, in COCO's own layout or in that of another export.

    Args:
        folder: of the dataset.
        subset, year, kind: see `CocoDataset.load_coco`.

    Returns:
        annotations/<kind>_<subset><year>.json if it exists. Otherwise the only json in COCO's
        format with the subset in its name or folder (instances_Train.json,
        valid/_annotations.coco.json), or else the only one without any subset in its path
        (instances_default.json). The path of COCO's layout if none or several match.
    """
    official = _official(folder, subset, year, kind)
    if official.exists():
        return official
    candidates = []
    for file in _jsons_below(pathlib.Path(folder)):
        if not any(other in file.stem for other in OTHER_KINDS if other not in kind):
            candidates.append(file)
    words = SUBSET_WORDS.get(subset, (subset,))
    matching = [file for file in candidates if not _words(file, folder).isdisjoint(words)]
    if not matching:
        words_with_year = {f"{word}{year}" for word in words}
        matching = [
            file for file in candidates if not _words(file, folder).isdisjoint(words_with_year)
        ]
    if not matching:
        matching = [file for file in candidates if not says_a_subset(file, folder)]
    of_instances = [file for file in matching if file.stem.startswith("ins_seg")]
    if len(of_instances) == 1:  # BDD100K, which has other tasks beside it
        return of_instances[0]
    if len(matching) > 1:
        matching = [file for file in matching if _looks_like_coco(file)]
    if len(matching) == 1:
        return matching[0]
    return official


def _jsons_below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The json files in a folder and its subfolders, sorted, down to `files.DEEPEST` levels."""
    for parent, folders, names in os.walk(folder):
        depth = len(pathlib.Path(parent).relative_to(folder).parts)
        if depth == files.DEEPEST:
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith((".json", ".ndjson")) and not name.startswith("."):
                yield pathlib.Path(parent) / name


def _words(file: pathlib.Path, folder: Any) -> set[str]:
    """The words in the path of a file, relative to the dataset's folder, in lower case."""
    text = file.relative_to(folder).with_suffix("").as_posix().lower()
    return set(re.split(r"[^a-z0-9]+", text))


def says_a_subset(file: pathlib.Path, folder: Any, subset: str | None = None) -> bool:
    """Whether a file's path in a folder names a subset, with any year; None: any subset."""
    words = {word.rstrip("0123456789") for word in _words(file, folder)}
    if subset is not None:
        return not words.isdisjoint(SUBSET_WORDS[subset])
    return not words.isdisjoint((*itertools.chain(*SUBSET_WORDS.values()), *OTHER_SUBSETS))


def _looks_like_coco(file: pathlib.Path) -> bool:
    """Whether a json has the format of an instances json."""
    try:
        data = _parse(file, [])
    except (OSError, ValueError):
        return False
    return bool(data) and not panoptic.is_panoptic(data["annotations"])


def _folder_of(path: pathlib.Path, names: list[str]) -> pathlib.Path:
    """The folder near a json that its file names are relative to: the first with such a file."""
    candidates = []
    subset = re.split(r"[_.-]", path.stem)[-1]  # Train of CVAT's instances_Train.json
    for parent in (path.parent, path.parent.parent):
        candidates.append(parent)
        for name in files.IMAGE_FOLDERS:
            candidates += [parent / name, parent / name / subset]
        candidates.append(parent / subset)
    for candidate in candidates:
        listed = _names_in(candidate)
        if any(name in listed or _lies_in(candidate, name) for name in names):
            return candidate
    if path.parent.name.lower() in ANNOTATION_FOLDERS:
        return path.parent.parent  # the images are somewhere in the dataset
    return path.parent


def _lies_in(folder: pathlib.Path, name: str) -> bool:
    """Whether a name with folders in it, relative to a folder, is that of a file."""
    name = name.replace("\\", "/")
    return "/" in name and os.path.isfile(os.path.join(folder, name))


# ------------------------------------------------------------------------------------------------
#  Downloads
# ------------------------------------------------------------------------------------------------


def _fetch(url: str, folder: Any, name: str) -> None:
    """Downloads a zip, resuming an earlier try, and unpacks one entry of it into `folder`.

    The entry, a file or a folder, is unpacked to a temporary folder and then moved, so that it is
    never incomplete.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / pathlib.PurePosixPath(url.split("?")[0]).name
    if not archive.exists():
        print(f"Downloading {url} to {archive}", file=sys.stderr)
        try:
            files.download(url, archive, progress=files.progress_bar)
        except OSError as error:
            raise OSError(f"{url} can't be downloaded: {error}") from error
    print(f"Unpacking {archive}", file=sys.stderr)
    unpacked = folder / f".{archive.stem}.unpacking"
    shutil.rmtree(unpacked, ignore_errors=True)  # of a run that was killed
    try:
        _unpack(archive, unpacked)
        if not (unpacked / name).exists():
            entries = files.several(sorted(os.listdir(unpacked)))
            raise ValueError(f"{url} has an entry {name}. Received: {entries}")
        _move(unpacked / name, folder / name)
    except (zipfile.BadZipFile, EOFError) as error:
        archive.unlink()
        raise ValueError(
            f"{url} is no whole zip file and was removed, run again: {error}"
        ) from error
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    archive.unlink()


def _unpack(archive: pathlib.Path, folder: pathlib.Path) -> None:
    """Unpacks a zip, with a progress bar."""
    start = time.monotonic()
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        for done, member in enumerate(members, 1):
            file.extract(member, folder)
            utils.show_progress("unpacking", done, len(members), time.monotonic() - start)


def _move(source: pathlib.Path, target: pathlib.Path) -> None:
    """Moves a file or folder; if the target is a folder, the contents are moved into it."""
    if not (target.is_dir() and source.is_dir()):
        os.replace(source, target)
        return
    for item in source.iterdir():
        os.replace(item, target / item.name)


def download(folder: Any, subset: str, year: str | int = DEFAULT_YEAR) -> None:
    """Downloads the official annotations and images of a subset if they are missing.

    An interrupted download is resumed; only complete files and folders are put in place.

    Args:
        folder: of the dataset.
        subset: train, val, minival, valminusminival.
        year: 2014 or 2017.

    Raises:
        ValueError: another subset or year.
        OSError: a download failed.
    """
    folder = pathlib.Path(folder)
    year = str(year)
    if year not in ("2014", "2017") or subset not in ("train", "val", *PARTS_2014):
        raise ValueError(
            "COCO offers train and val of 2014 and 2017, minival and valminusminival of 2014. "
            f"Received: {subset!r}, {year!r}"
        )
    subset = _equal_subset(subset, year)
    path = folder / "annotations" / f"instances_{subset}{year}.json"
    if not path.exists() and subset in PARTS_2014:
        _fetch(PARTS_2014[subset], path.parent, path.name)
    elif not path.exists():
        _fetch(f"{ADDRESS}/annotations/annotations_trainval{year}.zip", folder, "annotations")
    images = _images_of(subset, year)
    if not _is_complete(folder / images, path):
        _fetch(f"{ADDRESS}/zips/{images}.zip", folder, images)


def _is_complete(images: pathlib.Path, annotations: pathlib.Path) -> bool:
    """Whether a folder has all images of an official set, or of a json of a part of it."""
    names = _names_in(images)
    # The large json is read only if the folder has fewer files than the official set.
    if len(names) >= OFFICIAL_IMAGES[images.name]:
        return True
    return {image["file_name"] for image in _parse(annotations, [])["images"]} <= names


def _names_in(folder: pathlib.Path) -> set[str]:
    """The names in a folder; none if there is no such folder."""
    if not folder.is_dir():
        return set()
    return set(os.listdir(folder))


def _images_of(subset: str, year: str) -> str:
    """The name of the folder with a subset's images."""
    if subset in PARTS_2014:
        subset = "val"
    return f"{subset}{year}"


def _equal_subset(subset: str, year: str) -> str:
    """A subset's name in COCO's file names: the minival of 2017 is its validation set, "val"."""
    if year == "2017" and subset == "minival":
        return "val"
    if year == "2017" and subset == "valminusminival":
        raise ValueError(
            "valminusminival is a part of 2014's validation set; the training set of 2017 contains"
            " it. Received: 'valminusminival' of 2017"
        )
    return subset


# ------------------------------------------------------------------------------------------------
#  The dataset
# ------------------------------------------------------------------------------------------------


class CocoDataset(utils.Dataset):
    """Images with annotations in COCO's format.

    `load_coco` and `load_json` may be called several times.

    In `image_info` each image has, besides id, source and path: width, height, annotations (the
    dicts of the json, which `mrcnn.evaluate` uses as the ground truth).
    """

    # Names of the keypoints of the last category that has some: of a person in COCO's
    # person_keypoints_*.json.
    keypoint_names: tuple[str, ...] = ()
    _has_warned_of_empty = False

    def load_coco(
        self,
        dataset_dir: Any,
        subset: str,
        year: str | int = DEFAULT_YEAR,
        class_ids: Iterable[int] | None = None,
        class_map: Any = None,
        return_coco: bool = False,
        auto_download: bool = False,
        keep_empty: bool = False,
        kind: str = "instances",
        crowds: str = "auto",
    ) -> Any:
        """Adds a subset in COCO's own layout (matterport: load_coco).

        Without annotations/instances_<subset><year>.json, the layouts of other exports are tried:
        annotations/instances_train.json with images/train, train/_annotations.coco.json beside its
        images (val in valid), and a single json without a subset in its name, such as
        annotations/instances_default.json or result.json, with images/.

        Images that are not in the folder are left out with a warning; if none is there, all are
        kept, since annotations can be inspected without images.

        Args:
            dataset_dir: folder with annotations/instances_<subset><year>.json and
                <subset><year>/*.jpg; those of minival and valminusminival are in val<year>.
            subset: train, val, minival, valminusminival, or the subset in the names of your own
                files.
            year: as in the names; minival of 2017 is val of 2017.
            class_ids: category ids of the json to use; None or an empty list for all.
            class_map: not used (nor is it by the original).
            return_coco: return the pycocotools COCO object.
            auto_download: download missing files first.
            keep_empty: add images without annotations too, which evaluations need.
            kind: first part of the json's name; "person_keypoints" for `load_keypoints`.
            crowds: see `read_annotations`.

        Returns:
            the pycocotools COCO object if `return_coco`, else None.

        Raises:
            FileNotFoundError: no such json.
            ValueError: a json that can't be used.
        """
        year = str(year)
        if auto_download:
            self.auto_download(dataset_dir, subset, year)
        subset = _equal_subset(subset, year)
        path = find_json(dataset_dir, subset, year, kind)
        folder = pathlib.Path(dataset_dir)
        official_images = folder / _images_of(subset, year)
        nested_images = folder / "images" / official_images.name  # a common variant
        if nested_images.is_dir() and not official_images.is_dir():
            official_images = nested_images
        images: pathlib.Path | None = official_images
        if path != _official(folder, subset, year, kind) and not official_images.is_dir():
            logger.info("%s is taken for %s of %s", path, subset, folder)
            images = None
        return self.load_json(
            path,
            images,
            "coco",
            class_ids=class_ids,
            keep_empty=keep_empty,
            return_coco=return_coco,
            crowds=crowds,
        )

    def load_json(
        self,
        path: Any,
        images: Any = None,
        source: str = "json",
        class_ids: Iterable[int] | None = None,
        keep_empty: bool = False,
        return_coco: bool = False,
        crowds: str = "auto",
    ) -> Any:
        """Adds the images of any json in COCO's format.

        Args:
            path: the json.
            images: folder that its file names are relative to; None to look for it near the json,
                as exports have it.
            source: name of the source in the dataset.
            class_ids, keep_empty, return_coco: see `load_coco`.
            crowds: see `read_annotations`.

        Returns:
            see `load_coco`.
        """
        path = pathlib.Path(path)
        coco = read_annotations(path, crowds)
        names = [image["file_name"] for image in coco.imgs.values()]
        if images is None:
            images = _folder_of(path, names)
        folder = pathlib.Path(images)
        chosen = _chosen_ids(class_ids, coco, path)
        for class_id in chosen:
            category = coco.cats[class_id]
            with warnings.catch_warnings():
                # `read_annotations` has already warned of categories with the same name.
                warnings.filterwarnings("ignore", message=".* twice, as class")
                self.add_class(source, class_id, category["name"])
            self.keypoint_names = tuple(category.get("keypoints") or self.keypoint_names)
        with files.no_collection():
            missing = self._add_images(coco, folder, path, source, set(chosen), keep_empty)
        if missing:
            logger.warning(
                "%s: %d images are not in %s and are left out: %s",
                path,
                len(missing),
                folder,
                files.several(missing),
            )
        if return_coco:
            return coco
        return None

    def _add_images(
        self,
        coco: Any,
        folder: pathlib.Path,
        path: pathlib.Path,
        source: str,
        chosen: set[int],
        keep_empty: bool,
    ) -> list[str]:
        """Adds the images that exist and have annotations.

        Returns:
            texts with the ids and names of the missing images.
        """
        found_images = files.find_images(
            (image["file_name"] for image in coco.imgs.values()), [folder]
        )
        if found_images.renamed:
            logger.warning("%s: %s", path, found_images.renamed_text())
        _warn_of_shared_files(found_images.paths, coco.imgs.values(), path)
        paths = found_images.paths or _paths_without_files(coco, folder, path, found_images)
        missing: list[str] = []
        ambiguous: list[str] = []
        sizeless: list[str] = []
        all_classes = len(chosen) == len(coco.cats)
        for image_id, image in coco.imgs.items():
            annotations = coco.imgToAnns.get(image_id, [])
            if not all_classes:
                annotations = [item for item in annotations if item["category_id"] in chosen]
            if not annotations and not keep_empty:
                continue
            name = image["file_name"]
            file = paths.get(name)
            if file is None:
                if name in found_images.unclear:
                    ambiguous.append(f"{image_id} ({name}: {found_images.unclear[name]})")
                else:
                    missing.append(f"{image_id} ({name})")
                continue
            problem = _complete_size(image, file)
            if problem:
                sizeless.append(f"{image_id} ({name}: {problem})")
                continue
            self.add_image(
                source,
                image_id,
                file,
                width=image["width"],
                height=image["height"],
                annotations=annotations,
                json=str(path),
            )
        if coco.imgs and not keep_empty and not any(map(coco.imgToAnns.get, coco.imgs)):
            logger.warning(
                "%s: none of its %d images has an annotation that can be used; none is added",
                path,
                len(coco.imgs),
            )
        _warn_of_left_out(path, folder, ambiguous, sizeless)
        return missing

    def auto_download(self, dataDir: Any, dataType: str, dataYear: str | int) -> None:
        """Downloads missing files of a subset (matterport: auto_download); see `download`."""
        download(dataDir, dataType, dataYear)

    def image_reference(self, image_id: int) -> str:
        """The image's page on COCO's site; for other sources, that of the base class."""
        info = self.image_info[image_id]
        if info["source"] != "coco":
            return super().image_reference(image_id)
        return f"https://cocodataset.org/#explore?id={info['id']}"

    def _where(self, image_id: int) -> str:
        """An image's file, id and json, for messages."""
        info = self.image_info[image_id]
        return f"{info['path']} (id {info['id']} in {info['json']})"

    def load_image(self, image_id: int) -> np.ndarray:
        """[H, W, 3] uint8, of the size in the json.

        EXIF rotation is applied unless the json has the size of the unrotated pixels.

        Raises:
            ValueError: the file can't be read or has another size; names file, id and json.
        """
        info = self.image_info[image_id]
        if "json" not in info:
            return super().load_image(image_id)
        try:
            image = super().load_image(image_id)
        except ValueError as error:
            raise ValueError(f"{self._where(image_id)}: {error}") from error
        utils.check_image_size(image, (info["height"], info["width"]), self._where(image_id))
        return image

    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """The masks of the image's annotations, without those that have no pixel.

        Returns:
            masks: [H, W, N] bool.
            class_ids: [N] int32, negative for crowds.
        """
        info = self.image_info[image_id]
        if "json" not in info:
            return super().load_mask(image_id)
        codes = self._codes(image_id)
        has_pixels = [code is not None for code in codes]
        masks = decode_rle([code for code in codes if code], info["height"], info["width"])
        return masks, self._class_ids(image_id, has_pixels)

    def load_label_maps(self, image_id: int) -> tuple[LabelMaps, np.ndarray]:
        """Like `load_mask`, with the masks as `mrcnn.masks.LabelMaps`, which training uses.

        A subclass that overrides only `load_mask` is trained on its `load_mask`.
        """
        info = self.image_info[image_id]
        if "json" not in info:
            masks, class_ids = super().load_mask(image_id)
            return LabelMaps.of_masks(masks), class_ids
        height = info["height"]
        width = info["width"]

        def draw() -> LabelMaps:
            return LabelMaps.of_rle(self._codes(image_id), height, width)

        texts = _compressed(info["annotations"])
        if texts is None:
            maps = draw()
        else:
            maps = self.cached_value(("masks", image_id), (height, width, texts), draw)
        return maps[..., maps.has_pixels], self._class_ids(image_id, maps.has_pixels)

    def _class_ids(self, image_id: int, has_pixels: Sequence[bool] | np.ndarray) -> np.ndarray:
        """Class ids [N] int32 of the annotations that have pixels; has_pixels: for each of all."""
        info = self.image_info[image_id]
        objects = itertools.compress(info["annotations"], has_pixels)
        return np.array([self._class_id(info["source"], item) for item in objects], np.int32)

    def _codes(self, image_id: int) -> list[dict | None]:
        """The compressed run lengths of each annotation's mask; None for one without a pixel."""
        from pycocotools import mask as coco_mask

        info = self.image_info[image_id]
        codes: list[dict | None] = []
        empty = []
        for annotation in info["annotations"]:
            try:
                code = to_rle(annotation, info["height"], info["width"])
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(
                    f"The annotations of {self._where(image_id)} can't be read: {error}"
                ) from error
            if coco_mask.area(code):
                codes.append(code)
            else:
                codes.append(None)
                empty.append(annotation.get("id"))
        if empty and not self._has_warned_of_empty:
            self._has_warned_of_empty = True
            logger.warning(
                "%s: %d annotations have no pixel in the image and are left out: %s. The same goes"
                " for other images",
                self._where(image_id),
                len(empty),
                files.several(empty),
            )
        return codes

    def _class_id(self, source: str, annotation: dict) -> int:
        """The dataset's class id of an annotation, negative for a crowd."""
        class_id = self.map_source_class_id(f"{source}.{annotation['category_id']}")
        if annotation["iscrowd"]:
            return -class_id
        return class_id

    def load_keypoints(self, image_id: int) -> np.ndarray:
        """The keypoints of the annotations of `load_mask`, zeros for those without.

        Returns:
            [N, K, (y, x, visibility)] float64.
        """
        info = self.image_info[image_id]
        if "json" not in info:
            return super().load_keypoints(image_id)
        annotations = info["annotations"]
        points = np.zeros((len(annotations), len(self.keypoint_names), 3))
        for row, annotation in zip(points, annotations):
            row[:] = self._points(annotation, image_id)
        keep = [code is not None for code in self._codes(image_id)]
        return points[keep]

    def _points(self, annotation: dict, image_id: int) -> np.ndarray:
        """The keypoints [K, (y, x, visibility)] of an annotation."""
        count = len(self.keypoint_names)
        values = annotation.get("keypoints") or [0] * 3 * count
        if not count or len(values) != 3 * count:
            raise ValueError(
                f"{self._where(image_id)}: keypoints are x, y, visibility of the {count} that"
                f" the categories name. Received: {len(values)} numbers in annotation"
                f" {annotation['id']}"
            )
        return np.reshape(np.asarray(values, float), (count, 3))[:, [1, 0, 2]]

    def annToRLE(self, ann: dict, height: int, width: int) -> dict:
        """The compressed run-length encoding of an annotation (matterport: annToRLE)."""
        return to_rle(ann, height, width)

    def annToMask(self, ann: dict, height: int, width: int) -> np.ndarray:
        """The mask of an annotation, [height, width] uint8 of 0 and 1 (matterport: annToMask)."""
        return decode([ann], height, width)[..., 0].view(np.uint8)


def _paths_without_files(
    coco: Any, folder: pathlib.Path, path: pathlib.Path, found_images: files.FoundImages
) -> dict[str, str]:
    """{file name: expected path} of a json of which no image exists, with a warning.

    The annotations can be used without images; reading an image raises an error.
    """
    reason = f"there is no folder {folder}"
    if folder.is_dir():
        reason = f"none of its images is in {folder}"
    if found_images.unclear:
        name, problem = next(iter(found_images.unclear.items()))
        reason += f" under a name that is clear ({name}: {problem})"
    logger.warning(
        "%s: %s; only the annotations can be used, not the %d images",
        path,
        reason,
        len(coco.imgs),
    )
    names = (image["file_name"] for image in coco.imgs.values())
    return {name: os.path.join(folder, name) for name in names}


def _complete_size(image: dict, file: str) -> str:
    """Sets a missing height and width from the image's file; returns why that failed, or ""."""
    if image["height"] and image["width"]:
        return ""
    try:
        image["height"], image["width"] = utils.image_sizes(file)[0]
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def _warn_of_left_out(
    path: pathlib.Path, folder: pathlib.Path, ambiguous: list[str], sizeless: list[str]
) -> None:
    """Warns of images that are left out.

    ambiguous, sizeless: texts for images with several possible files, or without a size.
    """
    if ambiguous:
        logger.warning(
            "%s: %d images have no file in %s that is theirs alone and are left out: %s",
            path,
            len(ambiguous),
            folder,
            files.several(ambiguous),
        )
    if sizeless:
        logger.warning(
            "%s: %d images have no height or width there, can't be read and are left out: %s",
            path,
            len(sizeless),
            files.several(sizeless),
        )


def _warn_of_shared_files(paths: dict[str, str], images: Iterable[dict], path: Any) -> None:
    """Warns of files that several images of a json share, each with only a part of the objects."""
    counts = collections.Counter(paths.get(image["file_name"]) for image in images)
    shared = [file for file, count in counts.items() if file is not None and count > 1]
    if shared:
        logger.warning(
            "%s: %d files are those of several images, each with a part of the objects; training"
            " takes the others' for background: %s",
            path,
            len(shared),
            files.several(shared),
        )


def _compressed(annotations: list[dict]) -> list | None:
    """Counts and sizes of an image's segmentations if all are compressed run lengths, else None."""
    texts: list[Any] = []
    for annotation in annotations:
        shape = annotation.get("segmentation")
        if not isinstance(shape, dict) or not isinstance(shape.get("counts"), str):
            return None
        texts += [shape["counts"], repr(shape.get("size"))]
    return texts


def _chosen_ids(class_ids: Iterable[int] | None, coco: Any, path: pathlib.Path) -> list[int]:
    """The ids of the categories to use, sorted; ValueError for ids that are not in the json."""
    requested = list(coco.cats)
    if class_ids is not None:
        requested = list(class_ids) or requested  # an empty list means all, as in matterport's
    chosen = sorted(requested, key=_order)
    unknown = sorted(set(chosen) - set(coco.cats), key=_order)
    if unknown:
        raise ValueError(
            "class_ids are ids of categories of"
            f" {path}: {files.several(sorted(coco.cats, key=_order), 20)}. "
            f"Received: {files.several(unknown)}"
        )
    return chosen


def _order(item_id: Any) -> tuple[bool, Any]:
    """Sort key of ids: numbers before texts."""
    return isinstance(item_id, str), item_id
