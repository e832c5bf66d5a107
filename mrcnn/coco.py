"""Data in COCO's format: reading and checking `instances_*.json`, downloads, a `Dataset` of it.

    dataset = CocoDataset()
    # official: coco/annotations, coco/val2017
    dataset.load_coco("coco", "val", "2017")
    dataset.load_json("mine/labels.json", "mine/photos")           # any other place
    dataset.prepare()

What is wrong with a file is said once, with the file's name and the ids; broken parts are left out
with a warning, and a file that can't be used is an error. Keras and TensorFlow are not imported.
"""

import collections
import contextlib
import gc
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

from mrcnn import files, utils
from mrcnn.masks import (
    BAD_NUMBERS,
    BAD_POLYGON,
    BAD_RUNS,
    NO_SHAPE,
    LabelMaps,
    SegmentationError,
    decode,
    decode_rle,
    finite_number,
    is_plain_polygon,
    sound_segmentation,
    to_rle,
    whole_number,
)

logger = logging.getLogger(__name__)

DEFAULT_YEAR = "2014"
# Where the official data lie. The two parts of the 2014 validation set that papers of that time
# used are not among COCO's own files.
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

# From this size on reading a json takes a second or more.
LARGE_MEGABYTES = 20
OFFICIAL_IMAGES = {"train2014": 82_783, "val2014": 40_504, "train2017": 118_287, "val2017": 5_000}

# What annotations are left out for, besides what is wrong with their masks (see `mrcnn.masks`).
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
# Of COCO's annotations one in a hundred is a crowd; where more than one in so many is, it is said.
MANY_CROWDS = 4
# Up to here all of a file's numbers are shares of its images' sides, 1 and what rounding adds.
LARGEST_SHARE = 1.01
# Detectron2's bbox_mode of COCO's own boxes; others are corners, turned, or shares of the image.
XYWH = 1
# What stands for no supercategory.
NO_SUPERCATEGORY = (None, "", "none")
# What `crowds` may be, see `read_annotations`.
CROWDS = ("auto", "keep", "objects")
# Where images say which file they are, the first that is there.
NAME_FIELDS = ("file_name", "filename", "coco_url", "flickr_url", "url", "path", "name")

# COCO's 80 categories by their ids, which have gaps, as the released weights know them.
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
    """{class id: COCO's category id} of COCO's own classes; None of any others.

    Args:
        class_names: by class id, background first.
    """
    if list(class_names[1:]) != list(CATEGORIES.values()):
        return None
    return dict(enumerate(CATEGORIES, 1))


# ------------------------------------------------------------------------------------------------
#  Reading and checking
# ------------------------------------------------------------------------------------------------


def read_annotations(path: Any, crowds: str = "auto") -> Any:
    """Reads and checks a json of annotations.

    What exports of CVAT, VIA, Roboflow, Label Studio and others have is brought to COCO's form: ids
    as text, lists as objects, flat polygons, areas and boxes that are missing or no numbers (they
    are computed), sizes of -1 (None here, unless run lengths tell them). A category that only
    groups the others, as Roboflow's first, is left out.

    Broken annotations are left out, each kind with one warning that names the file, their number
    and ids: of an image or a category that isn't there, without a segmentation, with polygons or
    run lengths that can't be drawn.

    Args:
        path: a json in the format of COCO's `instances_*.json`.
        crowds: "auto" takes the crowds of a file that has nothing else for objects, with a warning:
            CVAT, pycococreator and others write iscrowd 1 for every run-length mask, and crowds
            train nothing; so it does of a file of V7 or supervision, which have it for every object
            with a hole or in several parts. "keep": what the file says; "objects": no annotation is
            a crowd.

    Where no annotation of a file has a segmentation, as in exports for detectors of boxes, the
    boxes are taken for the shapes, with a warning.

    Returns:
        pycocotools.coco.COCO, with an attribute `problems`: a text for each image, annotation or
        polygon that was left out.

    Raises:
        FileNotFoundError: no such file. ValueError: no json, another format, an id that two images
            or categories have, polygons that are shares of the image's sides.
    """
    from pycocotools.coco import COCO

    if crowds not in CROWDS:
        raise ValueError(f"crowds is one of {', '.join(CROWDS)}. Received: {crowds!r}")
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No annotations at {path}{_others(path)}")
    megabytes = path.stat().st_size / 1e6
    start = time.monotonic()
    _say(f"Reading {path}, {megabytes:.1f} MB", megabytes)
    with _no_collection():
        coco = COCO()
        coco.problems = []
        coco.dataset = _parse(path, coco.problems)
        _take_boxes(coco.dataset["annotations"], path)
        _index(coco, path)
        _check_that_pixels(coco, path)
        _mend_crowds(coco, crowds, path)
        _drop_groups(coco, path)
        _warn_of_twins(coco, path)
    _say(
        f"{len(coco.imgs)} images, {len(coco.anns)} annotations, {len(coco.cats)} categories in "
        f"{time.monotonic() - start:.1f} s",
        megabytes,
    )
    return coco


def _say(text: str, megabytes: float) -> None:
    """Logs what is done; prints it where a large file takes seconds and INFO is not logged."""
    if megabytes < LARGE_MEGABYTES or logger.isEnabledFor(logging.INFO):
        logger.info("%s", text)
    else:
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection while millions of objects are made: that takes a third of the time."""
    collect = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collect:
            gc.enable()


def _others(path: pathlib.Path) -> str:
    """What lies where a json was looked for, for the message that it isn't there."""
    if path.is_dir():
        below = [file.relative_to(path) for file in _jsons_below(path)]
        return f", which is a folder. Its json files: {files.several(below, 10) or 'none'}"
    if not path.parent.is_dir():
        text = f": there is no folder {path.parent}"
        above = path.parent.parent
        below = [file.relative_to(above) for file in _jsons_below(above)]
        if below:
            text += f". {above} has {files.several(below, 10)}"
        return text
    names = sorted(file.name for file in path.parent.glob("*.json"))
    if not names:
        return f". {path.parent} has no json file"
    return f". {path.parent} has {files.several(names, 10)}"


def _leave_out(
    path: pathlib.Path,
    problems: list[str],
    what: str,
    problem: str,
    places: Sequence[Any],
) -> None:
    """Says what is left out: a text for each place into `problems`, and one warning of all.

    Args:
        path: the json.
        problems: of `read_annotations`.
        what, problem: "images", "have no file_name".
        places: their ids, with what else tells them.
    """
    if not places:
        return
    left_out = "are"
    if problem in (BAD_POLYGON, BAD_NUMBERS):
        left_out = "those polygons are"
    logger.warning(
        "%s: %d %s %s and %s left out: %s",
        path,
        len(places),
        what,
        problem,
        left_out,
        files.several(places),
    )
    problems += [f"{path}: {what} that {problem}: {place}" for place in places]


def _parse(path: pathlib.Path, problems: list[str]) -> dict:
    """The json, which has lists of dicts with ids, as an instances json has them.

    problems: gets a text for each entry that is left out.
    """
    try:
        data = files.read_json(path)
    except ValueError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path} is no valid json (cut off or damaged?): {reason}") from error
    wanted = ("images", "annotations", "categories")
    if not isinstance(data, dict) or not all(
        isinstance(data.get(key), (list, dict)) for key in wanted
    ):
        received = f"a {type(data).__name__}"
        if isinstance(data, dict):
            received = f"an object with {files.several(data)}"
        raise ValueError(
            f"{path} has no lists {', '.join(wanted)}, as an instances_*.json has. "
            f"Received: {received}"
        )
    _check_that_instances(data["annotations"], path)
    for key in wanted:
        if isinstance(data[key], dict):  # {id: item}
            data[key] = [_with_id(item, number) for number, item in data[key].items()]
    for key in ("images", "categories"):
        items = [item for item in data[key] if type(item) is dict]
        others = [files.short(item) for item in data[key] if type(item) is not dict]
        _leave_out(path, problems, key, NO_OBJECT, others)
        data[key] = items
        for place, item in enumerate(data[key]):
            if _plain_id(item.get("id")) is None:
                raise ValueError(
                    f"{path}: each of {key} has an id."
                    f" Received: {files.short(item)} at place {place}"
                )
    return data


def _check_that_instances(annotations: Any, path: pathlib.Path) -> None:
    """ValueError for COCO's other jsons, whose annotations hold no masks."""
    first: Any = next(iter(annotations), None)
    if isinstance(annotations, dict):
        first = annotations.get(first)
    if not isinstance(first, dict) or "category_id" in first:
        return
    for field, kind in (("segments_info", "a panoptic json"), ("caption", "one of captions")):
        if field in first:
            raise ValueError(
                f"{path}: expected a json of instances, with masks. Received: {kind}, with"
                f" {field!r} in its annotations; use the instances_*.json of these images"
            )


def _with_id(item: Any, number: str) -> Any:
    """An item of an object {id: item} with its id, if it has none itself."""
    if isinstance(item, dict):
        item.setdefault("id", number)
    return item


def _plain_id(value: Any) -> int | str | None:
    """An id as int where it stands for one, "7" and 7.0 for 7; None for what is no id.

    "007" stays text: it may be another id than "7", and is asked for as it is written.
    """
    number = whole_number(value)
    if isinstance(value, str) and value != str(number):
        return value
    return number


def _take_boxes(annotations: list, path: pathlib.Path) -> None:
    """Makes polygons of boxes where no annotation has a segmentation."""
    if any(isinstance(item, dict) and item.get("segmentation") for item in annotations):
        return
    taken = 0
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
        taken += 1
    if taken:
        logger.warning(
            "%s: no annotation has a segmentation; the boxes of %d are taken for their shapes",
            path,
            taken,
        )


def _check_that_pixels(coco: Any, path: pathlib.Path) -> None:
    """ValueError where all polygons are shares of the image's sides: each would be one pixel."""
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


def _known_id(
    value: Any,
    items: dict[Any, dict],
    by_number: dict[int, Any],
) -> int | str | None:
    """The id of one of some items that a value stands for; None for that of none.

    by_number: see `_by_number`.
    """
    plain = _plain_id(value)
    for candidate in (plain, str(plain)):
        if candidate in items:
            return candidate
    number = whole_number(value)
    if number is None:
        return None
    return by_number.get(number)


def _by_number(items: Iterable[Any]) -> dict[int, Any]:
    """{whole number: the one id that stands for it}: "007" for 7 where no other id is a seven."""
    ids: dict[int, list] = {}
    for item in items:
        number = whole_number(item)
        if number is not None:
            ids.setdefault(number, []).append(item)
    return {number: same[0] for number, same in ids.items() if len(same) == 1}


def _index(coco: Any, path: pathlib.Path) -> None:
    """What `COCO.createIndex` makes, of the annotations that can be used."""
    data = coco.dataset
    coco.imgs = _images_by_id(data, path, coco.problems)
    coco.cats = _by_id(data, "categories", path)
    _check_names(coco.cats, path)
    numbers = _by_number(coco.imgs), _by_number(coco.cats)
    broken: dict[str, list] = {problem: [] for problem in PROBLEMS}
    usable: dict[Any, dict] = {}
    twins = []
    for annotation in data["annotations"]:
        if not _is_plain(annotation, coco.imgs, coco.cats):
            annotation = _mended(annotation, coco, numbers, broken)
            if annotation is None:
                continue
        number = annotation["id"]
        if number is None or number in usable:
            twins.append(annotation)
            continue
        usable[number] = annotation
        _link(coco, annotation)
    _number_twins(coco, usable, twins, broken)
    coco.anns = usable
    data["annotations"] = list(usable.values())
    for problem, places in broken.items():
        _leave_out(path, coco.problems, "annotations", problem, places)


def _link(coco: Any, annotation: dict) -> None:
    """Adds an annotation to the tables of its image and its category."""
    coco.imgToAnns[annotation["image_id"]].append(annotation)
    coco.catToImgs[annotation["category_id"]].append(annotation["image_id"])


def _number_twins(
    coco: Any,
    usable: dict[Any, dict],
    twins: list[dict],
    broken: dict[str, list],
) -> None:
    """Gives annotations without an id, or with that of another one, ids of their own.

    Files that were merged, or count anew in each image, have them; an equal one is left out.
    """
    number = max((key for key in usable if isinstance(key, int)), default=0)
    shared = {twin["id"] for twin in twins} - {None}
    seen = {repr(usable[key]) for key in shared}
    for twin in twins:
        text = repr(twin)
        if twin["id"] is not None and text in seen:
            broken[SAME_ID].append(twin["id"])
            continue
        seen.add(text)
        number += 1
        twin["id"] = number
        usable[number] = twin
        _link(coco, twin)


def _images_by_id(data: dict, path: pathlib.Path, problems: list[str]) -> dict[Any, dict]:
    """{id: image}, each with a file_name and with sides in pixels, or None where not known."""
    images = _by_id(data, "images", path)
    nameless = []
    for image in images.values():
        image["file_name"] = _file_name(image)
        for side in ("height", "width"):
            image[side] = _side(image.get(side))
        if image["file_name"] is None:
            nameless.append(image["id"])
    for number in nameless:
        del images[number]
    data["images"] = list(images.values())
    _leave_out(path, problems, "images", "have no file_name", nameless)
    return images


def _file_name(image: dict) -> str | None:
    """An image's file name, or the last part of an address or path that it has instead."""
    for field in NAME_FIELDS:
        name = image.get(field)
        if isinstance(name, int) and not isinstance(name, bool):
            name = str(name)
        if not isinstance(name, str) or not name.strip():
            continue
        if field.endswith("url"):
            address = urllib.parse.urlsplit(name).path
            name = urllib.parse.unquote(address).rsplit("/", 1)[-1]
        return name
    return None


def _side(value: Any) -> int | None:
    """A side in pixels; None for null, -1 and what else says that it isn't known."""
    side = whole_number(value)
    if side is None or side < 1:
        return None
    return side


def _by_id(data: dict, key: str, path: pathlib.Path) -> dict[Any, dict]:
    """{id: item} of data[key]; ValueError if two different ones have one id.

    The ids are all numbers, or all text where one of them is no number or has zeros before it. What
    is there twice and equal, as in files that were merged, is taken once.
    """
    items: dict[Any, dict] = {}
    repeated = []
    twice = []
    for item in data[key]:
        item["id"] = _plain_id(item["id"])
    if any(isinstance(item["id"], str) for item in data[key]):
        for item in data[key]:
            item["id"] = str(item["id"])
    for item in data[key]:
        known = items.setdefault(item["id"], item)
        if known is not item and known == item:
            repeated.append(item["id"])
        elif known is not item:
            twice.append(f"{item['id']} ({_named(known)}, {_named(item)})")
    if twice:
        raise ValueError(f"{path}: ids of {key} occur more than once: {files.several(twice)}")
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
    """Gives categories their names as text, as the other formats' (`annotations`) are: without
    spaces around them, an accent in one sign with its letter. ValueError for one without.
    """
    lacking = []
    for number, category in categories.items():
        name = category.get("name")
        if name is None or not str(name).strip():
            lacking.append(number)
        category["name"] = unicodedata.normalize("NFC", str(name)).strip()
    if lacking:
        raise ValueError(
            f"{path}: categories have a name. Received: none for id {files.several(lacking)}"
        )


def _is_plain(annotation: Any, images: dict[Any, dict], categories: dict[Any, dict]) -> bool:
    """Whether an annotation is one as COCO has them.

    Quick, since there may be a million; False says that `_mended` has to look.
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
        fits = shape["size"] == [image["height"], image["width"]] and sum(shape["counts"]) == pixels
        return fits and min(shape["counts"]) >= 0 and type(sum(shape["counts"])) is int
    except (KeyError, TypeError, ValueError, OverflowError):
        return False


def _is_measured(annotation: dict) -> bool:
    """Whether an annotation's iscrowd, area and bbox are as COCO has them."""
    crowd = annotation["iscrowd"]
    if type(crowd) is not int or crowd not in (0, 1) or "bbox_mode" in annotation:
        return False
    area = annotation["area"]
    x, y, width, height = annotation["bbox"]
    return 0 <= area < math.inf and width >= 0 and height >= 0 and math.hypot(x, y) < math.inf


def _mended(
    annotation: Any,
    coco: Any,
    numbers: tuple[dict[int, Any], dict[int, Any]],
    broken: dict[str, list],
) -> dict | None:
    """An annotation in COCO's form; None for one that can't be used, which `broken` then names.

    numbers: `_by_number` of the images and of the categories.
    """
    image_numbers, category_numbers = numbers
    if type(annotation) is not dict:
        broken[NO_OBJECT].append(files.short(annotation))
        return None
    number = _plain_id(annotation.get("id"))
    image_id = _known_id(annotation.get("image_id"), coco.imgs, image_numbers)
    if image_id is None:
        broken[NO_IMAGE].append(f"{number} (image {annotation.get('image_id')})")
        return None
    category_id = _category_of(annotation.get("category_id"), coco.cats, category_numbers)
    if category_id is None:
        broken[NO_CATEGORY].append(f"{number} (category {annotation.get('category_id')})")
        return None
    image = coco.imgs[image_id]
    place = f"{number} (image {image_id}"
    try:
        sound, problems = sound_annotation(annotation, *_size_for(annotation, image))
    except SegmentationError as error:
        sound = None
        problems = [error]
    for problem in {item.kind: item for item in problems}.values():
        detail = ")"
        if problem.kind in (BAD_NUMBERS, BAD_RUNS):
            detail = f": {problem})"
        broken[problem.kind].append(place + detail)
    if sound is None:
        return None
    sound.update(id=number, image_id=image_id, category_id=category_id)
    return sound


def _category_of(value: Any, categories: dict[Any, dict], by_number: dict[int, Any]) -> Any:
    """The id of the category that an annotation names by its id or its name; None for no one."""
    number = _known_id(value, categories, by_number)
    if number is not None:
        return number
    if not isinstance(value, str):
        return None
    name = unicodedata.normalize("NFC", value).strip()
    named = [key for key, category in categories.items() if category["name"] == name]
    if len(named) == 1:
        return named[0]
    return None


def _size_for(annotation: dict, image: dict) -> tuple[int | None, int | None]:
    """The size of an annotation's image; one that isn't known is that of its run lengths."""
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
    """An annotation as pycocotools' evaluation takes it.

    Its segmentation is one of `masks.sound_segmentation`, iscrowd 0 or 1; area, bbox and
    num_keypoints are computed where they are missing or no numbers.

    Args:
        annotation: dict, not edited.
        height, width: of its image; None where they aren't known.

    Returns:
        a new dict, and what had to be left out of its segmentation.

    Raises:
        SegmentationError: nothing of it can be drawn.
    """
    from pycocotools import mask as coco_mask

    sound = dict(annotation)
    shape, problems = sound_segmentation(sound.get("segmentation"), height or 0, width or 0)
    sound["segmentation"] = shape
    sound["iscrowd"] = _flag(sound.get("iscrowd"))
    area = _number(sound.get("area"))
    bbox = sound_box(sound.get("bbox"))
    if whole_number(sound.pop("bbox_mode", XYWH)) != XYWH:
        bbox = None
    if area is None or bbox is None:
        if not height or not width:
            height, width = _extent(shape)
        code = to_rle(sound, height, width)
        if area is None:
            area = float(coco_mask.area(code))
        if bbox is None:
            bbox = coco_mask.toBbox(code).tolist()
    sound["area"] = area
    sound["bbox"] = bbox
    points = sound.get("keypoints")
    if isinstance(points, list) and whole_number(sound.get("num_keypoints")) is None:
        sound["num_keypoints"] = sum(bool(visibility) for visibility in points[2::3])
    return sound, problems


def _flag(value: Any) -> int:
    """0 or 1 of what a json has for it: true, "1", 1.0; anything else, such as null, is 0."""
    if isinstance(value, str):
        return int(value.strip().lower() in ("1", "1.0", "true", "yes"))
    return int(isinstance(value, (numbers.Real, np.bool_)) and value == 1)


def _number(value: Any) -> float | None:
    """A number from 0 on, also one that is written as text; None for anything else."""
    number = finite_number(value)
    if number is None or number < 0:
        return None
    return number


def sound_box(value: Any) -> list[float] | None:
    """A box [x, y, width, height] of numbers; None for anything else."""
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
    """(height, width) that polygons take from the corner of their image."""
    height = max(max(polygon[1::2]) for polygon in polygons)
    width = max(max(polygon[::2]) for polygon in polygons)
    return max(math.ceil(height), 1), max(math.ceil(width), 1)


def glance(shape: Any) -> tuple:
    """Something short that is equal for equal segmentations, polygons or run lengths."""
    if isinstance(shape, dict):
        return len(shape["counts"]), repr(shape["counts"][:20])
    return tuple(shape[0][:4]), *map(len, shape)


def _warn_of_twins(coco: Any, path: pathlib.Path) -> None:
    """Says which annotations are equal to another one but for their ids: each of them counts."""
    twins = []
    for annotations in coco.imgToAnns.values():
        alike: dict[tuple, list[dict]] = {}
        for item in annotations:
            key = (item["category_id"], item["iscrowd"], glance(item["segmentation"]))
            first = alike.setdefault(key, [])
            if any(other["segmentation"] == item["segmentation"] for other in first):
                twins.append(item["id"])
            else:
                first.append(item)
    if twins:
        logger.warning(
            "%s: %d annotations are equal to another one of their image in class and shape, and"
            " count twice: %s",
            path,
            len(twins),
            files.several(twins),
        )


def _mend_crowds(coco: Any, crowds: str, path: pathlib.Path) -> None:
    """Makes objects of crowds as `read_annotations` says."""
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
    """Whether an annotation may be a mask of CVAT, each of which has iscrowd 1 there."""
    attributes = annotation.get("attributes")
    return annotation["iscrowd"] == 1 and isinstance(attributes, dict) and "occluded" in attributes


def _drop_groups(coco: Any, path: pathlib.Path) -> None:
    """Leaves out categories that only group others, as the first of Roboflow's exports does.

    What is left out hangs on the categories alone, as far as it can: the files of one dataset,
    train and val, have the same categories but not the same annotations, and a class must have one
    number in all of them. A category that has annotations always stays.
    """
    groups = {}
    for number, category in coco.cats.items():
        if _is_group(number, category, coco.cats) and not coco.catToImgs.get(number):
            groups[number] = category["name"]
    if groups:
        for number in groups:
            del coco.cats[number]
        coco.dataset["categories"] = list(coco.cats.values())
        logger.warning(
            "%s: %d categories have no annotations and only group others; they are left out: %s",
            path,
            len(groups),
            files.several(f"{number} ({name})" for number, name in groups.items()),
        )
    counts = collections.Counter(category["name"] for category in coco.cats.values())
    same = {name: count for name, count in counts.items() if count > 1}
    if same:
        logger.warning(
            "%s: several categories have one name: %s", path, files.several(map(repr, same))
        )


def _is_group(number: Any, category: dict, categories: dict[Any, dict]) -> bool:
    """Whether a category is the root that Roboflow adds, or a top one with the name of a lower one.

    The root has the id 0, the supercategory "none", and is the supercategory of others.
    """
    name = category["name"]
    if not _is_top(category) or name in NO_SUPERCATEGORY:
        return False
    others = [item for item in categories.values() if item is not category]
    if any(item["name"] == name and not _is_top(item) for item in others):
        return True
    is_first = str(number) == "0" and category.get("supercategory") == "none"
    return is_first and any(item.get("supercategory") == name for item in others)


def _is_top(category: dict) -> bool:
    """Whether a category belongs to no other one."""
    return category.get("supercategory") in NO_SUPERCATEGORY


# ------------------------------------------------------------------------------------------------
#  Where exports have their files
# ------------------------------------------------------------------------------------------------

# What stands for a subset in names of files and folders.
SUBSET_WORDS = {"train": ("train", "training"), "val": ("val", "valid", "validation")}
OTHER_SUBSETS = ("test", "testing", "minival", "valminusminival")
# Folders of a dataset that hold nothing but annotations.
ANNOTATION_FOLDERS = ("annotations", "annotation", "labels", "json", "jsons")
# Parts of COCO's own annotations that are no instances.
OTHER_KINDS = ("keypoints", "captions", "panoptic", "stuff", "image_info")


def _official(folder: Any, subset: str, year: str, kind: str = "instances") -> pathlib.Path:
    """The path of a subset's annotations in COCO's own layout."""
    return pathlib.Path(folder) / "annotations" / f"{kind}_{subset}{year}.json"


def find_json(folder: Any, subset: str, year: str, kind: str = "instances") -> pathlib.Path:
    """The json of a subset: in COCO's own layout, or in that of another export.

    Args:
        folder: the dataset's.
        subset, year, kind: see `CocoDataset.load_coco`.

    Returns:
        annotations/<kind>_<subset><year>.json if it is there. Otherwise the one json in COCO's
        format whose name or folder says the subset (instances_Train.json,
        valid/_annotations.coco.json), or the only one, if it says none (instances_default.json).
        The path of COCO's layout if there is none or several.
    """
    official = _official(folder, subset, year, kind)
    if official.exists():
        return official
    candidates = []
    for file in _jsons_below(pathlib.Path(folder)):
        if not any(other in file.stem for other in OTHER_KINDS if other not in kind):
            candidates.append(file)
    words = SUBSET_WORDS.get(subset, (subset,))
    own = [file for file in candidates if not _words(file, folder).isdisjoint(words)]
    if not own:
        dated = {f"{word}{year}" for word in words}
        own = [file for file in candidates if not _words(file, folder).isdisjoint(dated)]
    if not own:
        own = [file for file in candidates if not says_a_subset(file, folder)]
    if len(own) > 1:
        own = [file for file in own if _looks_like_coco(file)]
    if len(own) == 1:
        return own[0]
    return official


def _jsons_below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The json files in a folder and the folders in it, sorted."""
    for place, folders, names in os.walk(folder):
        depth = len(pathlib.Path(place).relative_to(folder).parts)
        if depth == files.DEEPEST:
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(".json") and not name.startswith("."):
                yield pathlib.Path(place) / name


def _words(file: pathlib.Path, folder: Any) -> set[str]:
    """The words in the path of a file, from the dataset's folder on, in lower case."""
    text = file.relative_to(folder).with_suffix("").as_posix().lower()
    return set(re.split(r"[^a-z0-9]+", text))


def says_a_subset(file: pathlib.Path, folder: Any, subset: str | None = None) -> bool:
    """Whether a file in a folder is that of a subset, of any year; None: of any subset."""
    words = {word.rstrip("0123456789") for word in _words(file, folder)}
    if subset is not None:
        return not words.isdisjoint(SUBSET_WORDS[subset])
    return not words.isdisjoint((*itertools.chain(*SUBSET_WORDS.values()), *OTHER_SUBSETS))


def _looks_like_coco(file: pathlib.Path) -> bool:
    """Whether a json has what an instances json has."""
    try:
        data = _parse(file, [])
    except (OSError, ValueError):
        return False
    return bool(data)


def _folder_of(path: pathlib.Path, names: list[str]) -> pathlib.Path:
    """The folder near a json that its file names start from: the first that has one of them."""
    places = []
    subset = re.split(r"[_.-]", path.stem)[-1]  # Train of CVAT's instances_Train.json
    for above in (path.parent, path.parent.parent):
        places.append(above)
        for name in files.IMAGE_FOLDERS:
            places += [above / name, above / name / subset]
        places.append(above / subset)
    for place in places:
        listed = _names_in(place)
        if any(name in listed or _lies_in(place, name) for name in names):
            return place
    if path.parent.name.lower() in ANNOTATION_FOLDERS:
        return path.parent.parent  # somewhere in the dataset, under other names
    return path.parent


def _lies_in(folder: pathlib.Path, name: str) -> bool:
    """Whether a name with folders in it is a file below a folder."""
    name = name.replace("\\", "/")
    return "/" in name and os.path.isfile(os.path.join(folder, name))


# ------------------------------------------------------------------------------------------------
#  Downloads
# ------------------------------------------------------------------------------------------------


def _fetch(url: str, folder: Any, name: str) -> None:
    """Downloads a zip, taking up an earlier try, and unpacks one entry of it into `folder`.

    The entry, a file or a folder, is unpacked beside its place and then moved there: it is complete
    or absent.
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
    """Unpacks a zip, with a bar."""
    start = time.monotonic()
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        for done, member in enumerate(members, 1):
            file.extract(member, folder)
            utils.show_progress("unpacking", done, len(members), time.monotonic() - start)


def _move(source: pathlib.Path, target: pathlib.Path) -> None:
    """Moves a file or folder; a folder that another program has left is filled up."""
    if not (target.is_dir() and source.is_dir()):
        os.replace(source, target)
        return
    for item in source.iterdir():
        os.replace(item, target / item.name)


def download(folder: Any, subset: str, year: str | int = DEFAULT_YEAR) -> None:
    """Downloads the official annotations and images of a subset, as far as they are missing.

    An interrupted download goes on where it stopped; only complete files and folders are put in
    place.

    Args:
        folder: the data's folder.
        subset: train, val, minival, valminusminival.
        year: 2014 or 2017.
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
    """Whether a folder has all images of an official set, or all those of a json."""
    names = _names_in(images)
    # Only where the folder holds fewer files than the official set does the json need to be asked.
    if len(names) >= OFFICIAL_IMAGES[images.name]:
        return True
    return {image["file_name"] for image in _parse(annotations, [])["images"]} <= names


def _names_in(folder: pathlib.Path) -> set[str]:
    """Names of what is in a folder; none where there is no folder."""
    if not folder.is_dir():
        return set()
    return set(os.listdir(folder))


def _images_of(subset: str, year: str) -> str:
    """Name of the folder that has a subset's images."""
    if subset in PARTS_2014:
        subset = "val"
    return f"{subset}{year}"


def _equal_subset(subset: str, year: str) -> str:
    """The name under which a subset has a file: 2017's validation set is the minival of 2014."""
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
    json's own dicts, which `mrcnn.evaluate` takes as the truth).
    """

    # Names of the keypoints, of the last category that has some: a person's in COCO's
    # person_keypoints_*.json.
    keypoint_names: tuple[str, ...] = ()
    _said_empty = False

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
        """Adds a subset that lies in COCO's own layout (matterport: load_coco).

        Args:
            dataset_dir: folder with annotations/instances_<subset><year>.json and
                <subset><year>/*.jpg; those of minival and valminusminival are in val<year>.
            subset: train, val, minival, valminusminival, or what stands in the names of your own
                files.
            year: as it stands in the names; minival of 2017 is val of 2017.
            class_ids: category ids of the json to use; None or an empty list for all.
            class_map: not used (nor is it by the original).
            return_coco: return the pycocotools COCO object.
            auto_download: download what is missing first.
            keep_empty: add the images without annotations too: evaluations need them.
            kind: first part of the json's name; "person_keypoints" for `load_keypoints`.
            crowds: see `read_annotations`.

        Without that json, the layouts of other exports are tried: annotations/instances_train.json
        with images/train, train/_annotations.coco.json beside its images (for val in valid), and a
        single json that is of no subset, such as annotations/instances_default.json or result.json,
        with images/.

        Images that are not in the folder are left out with a warning; where there is none at all,
        they are kept, since annotations can be looked at without them.

        Raises:
            FileNotFoundError: no such json. ValueError: a json that can't be used.
        """
        year = str(year)
        if auto_download:
            self.auto_download(dataset_dir, subset, year)
        subset = _equal_subset(subset, year)
        path = find_json(dataset_dir, subset, year, kind)
        folder = pathlib.Path(dataset_dir)
        own = folder / _images_of(subset, year)
        deeper = folder / "images" / own.name  # where some keep them
        if deeper.is_dir() and not own.is_dir():
            own = deeper
        images: pathlib.Path | None = own
        if path != _official(folder, subset, year, kind) and not own.is_dir():
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
            images: folder that its file names start from; None for the json's own, or the folder
                near it where exports keep their images.
            source: name of the source in the dataset.
            class_ids, keep_empty, return_coco: see `load_coco`.
            crowds: see `read_annotations`.
        """
        path = pathlib.Path(path)
        coco = read_annotations(path, crowds)
        names = [image["file_name"] for image in coco.imgs.values()]
        if images is None:
            images = _folder_of(path, names)
        folder = pathlib.Path(images)
        chosen = _chosen(class_ids, coco, path)
        for class_id in chosen:
            category = coco.cats[class_id]
            with warnings.catch_warnings():
                # `read_annotations` has said which categories have one name.
                warnings.filterwarnings("ignore", message=".* twice, as class")
                self.add_class(source, class_id, category["name"])
            self.keypoint_names = tuple(category.get("keypoints") or self.keypoint_names)
        with _no_collection():
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
        """Adds the images that exist and have annotations; the ids and names of missing ones."""
        found_images = files.find_images(
            (image["file_name"] for image in coco.imgs.values()), [folder]
        )
        if found_images.renamed:
            logger.warning("%s: %s", path, found_images.renamed_text())
        _warn_of_shared_files(found_images.paths, coco.imgs.values(), path)
        paths = found_images.paths or _paths_of_nothing(coco, folder, path, found_images)
        missing: list[str] = []
        unclear: list[str] = []
        sizeless: list[str] = []
        all_classes = len(chosen) == len(coco.cats)
        for image_id, image in coco.imgs.items():
            annotations = coco.imgToAnns.get(image_id, [])
            if not all_classes:
                annotations = [item for item in annotations if item["category_id"] in chosen]
            if not annotations and not keep_empty:
                continue
            name = image["file_name"]
            place = paths.get(name)
            if place is None:
                if name in found_images.unclear:
                    unclear.append(f"{image_id} ({name}: {found_images.unclear[name]})")
                else:
                    missing.append(f"{image_id} ({name})")
                continue
            problem = _complete_size(image, place)
            if problem:
                sizeless.append(f"{image_id} ({name}: {problem})")
                continue
            self.add_image(
                source,
                image_id,
                place,
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
        _warn_of_left_out(path, folder, unclear, sizeless)
        return missing

    def auto_download(self, dataDir: Any, dataType: str, dataYear: str | int) -> None:
        """Downloads what is missing of a subset (matterport: auto_download); see `download`."""
        download(dataDir, dataType, dataYear)

    def image_reference(self, image_id: int) -> str:
        """The image's page on COCO's site; of other sources what the base class says."""
        info = self.image_info[image_id]
        if info["source"] != "coco":
            return super().image_reference(image_id)
        return f"https://cocodataset.org/#explore?id={info['id']}"

    def _where(self, image_id: int) -> str:
        """An image's file, id and json, for messages."""
        info = self.image_info[image_id]
        return f"{info['path']} (id {info['id']} in {info['json']})"

    def load_image(self, image_id: int) -> np.ndarray:
        """[H, W, 3] uint8 of the size that the json gives.

        A camera's rotation (EXIF) is followed unless the json's size is that of the stored pixels.

        Raises:
            ValueError: a file that can't be read, or of another size; names file, id and json.
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
        """Masks of the image's annotations, those without a pixel left out.

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
        """What `load_mask` returns, the masks as `mrcnn.masks.LabelMaps`, which training takes.

        A subclass with a `load_mask` of its own is trained on that, unless it has both.
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
        """Class ids [N] int32 of an image's annotations that have pixels."""
        info = self.image_info[image_id]
        objects = itertools.compress(info["annotations"], has_pixels)
        return np.array([self._class_id(info["source"], item) for item in objects], np.int32)

    def _codes(self, image_id: int) -> list[dict | None]:
        """The compressed encoding of each annotation's mask; None for one without a pixel."""
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
        if empty and not self._said_empty:
            self._said_empty = True
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
        """Keypoints of the same annotations, zeros for those without.

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
        """[K, (y, x, visibility)] of an annotation."""
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
        """An annotation's compressed run-length encoding (matterport: annToRLE)."""
        return to_rle(ann, height, width)

    def annToMask(self, ann: dict, height: int, width: int) -> np.ndarray:
        """An annotation's mask, [height, width] uint8 of 0 and 1 (matterport: annToMask)."""
        return decode([ann], height, width)[..., 0].view(np.uint8)


def _paths_of_nothing(
    coco: Any, folder: pathlib.Path, path: pathlib.Path, found_images: files.FoundImages
) -> dict[str, str]:
    """{name: where an image would be}, with a warning, of a json without a single image's file.

    Annotations are of use by themselves, and reading an image will say that it isn't there.
    """
    reason = f"there is no folder {folder}"
    if folder.is_dir():
        reason = f"none of its images is in {folder}"
    if found_images.unclear:
        name, why = next(iter(found_images.unclear.items()))
        reason += f" under a name that is clear ({name}: {why})"
    logger.warning(
        "%s: %s; only the annotations can be used, not the %d images",
        path,
        reason,
        len(coco.imgs),
    )
    names = (image["file_name"] for image in coco.imgs.values())
    return {name: os.path.join(folder, name) for name in names}


def _complete_size(image: dict, place: str) -> str:
    """Takes an entry's height and width from its file where it has none; why that failed, or ""."""
    if image["height"] and image["width"]:
        return ""
    try:
        image["height"], image["width"] = utils.image_sizes(place)[0]
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def _warn_of_left_out(
    path: pathlib.Path, folder: pathlib.Path, unclear: list[str], sizeless: list[str]
) -> None:
    """Names the images of a json that a dataset does without."""
    if unclear:
        logger.warning(
            "%s: %d images have no file in %s that is theirs alone and are left out: %s",
            path,
            len(unclear),
            folder,
            files.several(unclear),
        )
    if sizeless:
        logger.warning(
            "%s: %d images have no height or width there, can't be read and are left out: %s",
            path,
            len(sizeless),
            files.several(sizeless),
        )


def _warn_of_shared_files(paths: dict[str, str], images: Iterable[dict], path: Any) -> None:
    """Says which files several images of a json are: each has a part of the objects alone."""
    counts = collections.Counter(paths.get(image["file_name"]) for image in images)
    shared = [place for place, count in counts.items() if place is not None and count > 1]
    if shared:
        logger.warning(
            "%s: %d files are those of several images, each with a part of the objects; training"
            " takes the others' for background: %s",
            path,
            len(shared),
            files.several(shared),
        )


def _compressed(annotations: list[dict]) -> list | None:
    """All that run lengths of an image say, where each is compressed text; None for others."""
    texts: list[Any] = []
    for annotation in annotations:
        shape = annotation.get("segmentation")
        if not isinstance(shape, dict) or not isinstance(shape.get("counts"), str):
            return None
        texts += [shape["counts"], repr(shape.get("size"))]
    return texts


def _chosen(class_ids: Iterable[int] | None, coco: Any, path: pathlib.Path) -> list[int]:
    """The ids of the categories to use, sorted; ValueError for one that the json hasn't."""
    wanted = list(coco.cats)
    if class_ids is not None:
        wanted = list(class_ids) or wanted  # none is all, as matterport has it
    chosen = sorted(wanted, key=_order)
    unknown = sorted(set(chosen) - set(coco.cats), key=_order)
    if unknown:
        raise ValueError(
            "class_ids are ids of categories of"
            f" {path}: {files.several(sorted(coco.cats, key=_order), 20)}. "
            f"Received: {files.several(unknown)}"
        )
    return chosen


def _order(number: Any) -> tuple[bool, Any]:
    """Orders ids, numbers before texts."""
    return isinstance(number, str), number
