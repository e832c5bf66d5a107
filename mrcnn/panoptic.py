"""Reads COCO's panoptic annotations: a json, and a PNG of each image whose colours are segments.

The objects ("things") become annotations as an `instances_*.json` has them; `coco.read_annotations`
calls `to_instances`. Regions without instances ("stuff") are left out.
"""

import logging
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from mrcnn import files, utils
from mrcnn.masks import encode, whole_number

logger = logging.getLogger(__name__)

# Progress is shown for files with more images: 1,000 PNGs of 640 x 480 take about a minute.
MANY_IMAGES = 1000


def is_panoptic(annotations: Any) -> bool:
    """Whether the annotations of a json, a list or an object, are panoptic: one for each image."""
    if isinstance(annotations, dict):
        annotations = list(annotations.values())
    return (
        isinstance(annotations, list)
        and bool(annotations)
        and isinstance(annotations[0], dict)
        and "segments_info" in annotations[0]
    )


def to_instances(data: dict, path: pathlib.Path, problems: list[str]) -> None:
    """Converts a panoptic json to one of instances, in place.

    The categories keep those with isthing 1. The annotations become one for each segment of these,
    with run lengths of its pixels in the PNG; crowds stay crowds. An image whose PNG is missing, or
    that the file does not annotate, is left out: it is not background.

    Args:
        data: with the lists "images", "categories" and "annotations"; edited.
        path: the json.
        problems: a text for each image or segment that is left out is appended.

    Raises:
        ValueError: no PNG of the file exists; it names the folders that were searched.
    """
    data["categories"] = _with_instances(data["categories"], path)
    category_ids = {str(category["id"]): category["id"] for category in data["categories"]}
    items = {
        str(item["image_id"]): item
        for item in data["annotations"]
        if isinstance(item, dict) and "image_id" in item
    }
    folder = _folder_of_segments(path, list(items.values()))
    annotations: list[dict] = []
    images = []
    left_out = []
    start = time.monotonic()
    for number, image in enumerate(data["images"], 1):
        name = image.get("file_name", image["id"])
        try:
            annotations += _objects_of(items.get(str(image["id"])), image, folder, category_ids)
            images.append(image)
        except ValueError as error:
            left_out.append(f"{path}: image {name!r}: {error}")
        if len(data["images"]) > MANY_IMAGES:
            done = time.monotonic() - start
            files.show_progress("reading segments", number, len(data["images"]), done)
    if left_out:
        logger.warning(
            "%s: %d images are left out: %s", path, len(left_out), files.several(left_out)
        )
        problems += left_out
    annotations = _with_pixels(annotations, path, problems)
    for number, annotation in enumerate(annotations, 1):
        del annotation["segment_id"]
        annotation["id"] = number
    data["images"] = images
    data["annotations"] = annotations


def _with_instances(categories: list[dict], path: pathlib.Path) -> list[dict]:
    """The categories that have instances: those with isthing 1, or all if none has it."""
    countable = [category for category in categories if whole_number(category.get("isthing")) == 1]
    if not countable:
        logger.warning(
            "%s: no category has 'isthing' 1, as where Datumaro wrote it; all of them are taken for"
            " objects",
            path,
        )
        return categories
    without = [str(category.get("name")) for category in categories if category not in countable]
    if without:
        logger.warning(
            "%s: %d categories are no objects (isthing 0) and are left out: %s",
            path,
            len(without),
            files.several(without),
        )
    return countable


def _folder_of_segments(path: pathlib.Path, items: list[dict]) -> pathlib.Path:
    """The folder of the PNGs: that of the json's name, beside it or above, or the json's own."""
    names = [item["file_name"] for item in items if isinstance(item.get("file_name"), str)]
    candidates = []
    for parent in (path.parent, path.parent.parent):
        candidates += [parent / path.stem, parent, parent / "panoptic", parent / "masks"]
    for candidate in candidates:
        if any((candidate / name).is_file() for name in names):
            return candidate
    searched = files.several(map(str, candidates), len(candidates))
    raise ValueError(
        f"{path}: expected a json of instances, or the PNG files of its segments in the folder of"
        f" its name. Received: a panoptic json, and of its PNG files ({files.several(names, 1)})"
        f" none in {searched}"
    )


def _objects_of(
    item: dict | None, image: dict, folder: pathlib.Path, category_ids: dict[str, Any]
) -> Iterator[dict]:
    """Annotations of an image's objects, without ids; the segmentation is None without a pixel.

    Raises:
        ValueError: the image has no annotation, or its PNG can't be used.
    """
    if item is None:
        raise ValueError("expected its segments. Received: an image that is not annotated")
    segments = item.get("segments_info")
    if not isinstance(segments, list):
        raise ValueError(f"expected a list segments_info. Received: {files.short(segments)}")
    name = item.get("file_name")
    if not isinstance(name, str):
        raise ValueError(f"expected the file_name of its PNG. Received: {files.short(name)}")
    ids = _read_ids(os.path.join(folder, name))
    size = (whole_number(image.get("height")), whole_number(image.get("width")))
    if None in size:
        image["height"], image["width"] = ids.shape
    elif ids.shape != size:
        raise ValueError(f"expected a PNG of {size} pixels. Received: {name} of {ids.shape}")
    return _objects_in(ids, segments, image["id"], category_ids)


def _objects_in(
    ids: np.ndarray, segments: list, image_id: Any, category_ids: dict[str, Any]
) -> Iterator[dict]:
    """The annotations of segments whose category is of `category_ids`; ids: [H, W] int32."""
    from pycocotools import mask as coco_mask

    for segment in segments:
        if not isinstance(segment, dict):
            continue
        category_id = category_ids.get(str(segment.get("category_id")))
        segment_id = whole_number(segment.get("id"))
        if category_id is None or segment_id is None:
            continue
        mask = ids == segment_id
        shape = None
        box = [0.0, 0.0, 0.0, 0.0]
        if mask.any():
            (shape,) = encode(mask[..., None])
            box = coco_mask.toBbox(shape).tolist()
        yield {
            "image_id": image_id,
            "category_id": category_id,
            "iscrowd": segment.get("iscrowd", 0),
            "segmentation": shape,
            "area": float(np.count_nonzero(mask)),
            "bbox": box,
            "segment_id": segment_id,
        }


def _read_ids(file: str) -> np.ndarray:
    """The segments' ids [H, W] int32 of a PNG: red + 256 green + 65536 blue, or its gray values."""
    from PIL import Image

    if not os.path.isfile(file):
        raise ValueError(f"expected the PNG of its segments. Received: no file {file}")
    try:
        with Image.open(file) as image:
            is_lossy = utils.is_lossy(image, file)
            if image.mode in ("L", "I", "I;16"):
                ids = np.asarray(image).astype(np.int32)
            else:  # the bytes red, green, blue and alpha of a pixel are one number
                numbers = np.asarray(image.convert("RGBA")).view("<i4")
                ids = numbers[..., 0] & 0xFFFFFF
    except Exception as error:  # Pillow raises many types for a damaged file
        raise ValueError(f"expected the PNG of its segments. Received: {file}: {error}") from error
    if is_lossy:
        raise ValueError(
            f"expected the PNG of its segments. Received: {file}, whose compression has changed"
            " the colours"
        )
    return np.asfortranarray(ids)  # the order in which run lengths are taken


def _with_pixels(annotations: list[dict], path: pathlib.Path, problems: list[str]) -> list[dict]:
    """The annotations that have pixels; the others are reported."""
    missing = [
        f"{annotation['segment_id']} (image {annotation['image_id']})"
        for annotation in annotations
        if annotation["segmentation"] is None
    ]
    if missing:
        logger.warning(
            "%s: %d segments have no pixel in their PNG and are left out: %s",
            path,
            len(missing),
            files.several(missing),
        )
        problems += [f"{path}: segment {entry} has no pixel in its PNG" for entry in missing]
    return [annotation for annotation in annotations if annotation["segmentation"] is not None]
