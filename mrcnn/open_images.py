"""Reads Open Images' segmentations: csv files of masks, a PNG for each object, names of classes."""

import csv
import dataclasses
import io
import logging
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from mrcnn import coco, files, utils
from mrcnn.outlines import Crop, DrawnShape
from mrcnn.reading import (
    AnnotationError,
    Annotations,
    Entry,
    Problem,
    Reader,
    Region,
    class_name_of,
    json_files_in,
)

logger = logging.getLogger(__name__)

# Columns of a csv of masks.
_COLUMNS = ("MaskPath", "ImageID", "LabelName")
# Names of the csv files with the classes' names, and of a subset at a csv's beginning.
_DESCRIPTIONS = re.compile(r"(?i)(.*class-descriptions.*|classes)\.csv")  # FiftyOne's: classes.csv
_SUBSET = re.compile(r"(?i)(?:.*[-_])?(train|validation|val|test)-annotations-object-segm.*\.csv")


@dataclasses.dataclass
class MaskFile(DrawnShape):
    """A mask in a file of its own, read when it is drawn: a dataset may have millions.

    Open Images' masks may be larger or smaller than the image: they are scaled, each pixel taking
    the value at its centre.
    """

    path: str

    def crop(self, height: int, width: int) -> Crop:
        """The mask at the size of the image; Problem if it can't be read, or has other sides."""
        try:
            mask = utils.read_mask(self.path)
        except (OSError, ValueError, TypeError, SyntaxError) as error:
            raise Problem(str(error)) from error
        self._check_sides(mask.shape, (height, width))
        rows = ((np.arange(height) + 0.5) * mask.shape[0] / height).astype(int)
        columns = ((np.arange(width) + 0.5) * mask.shape[1] / width).astype(int)
        return 0, 0, mask[rows[:, None], columns]

    def has_pixels(self, height: int, width: int) -> bool:
        """Whether the file is an image with the sides' ratio; its pixels are not decoded."""
        try:
            shape = utils.image_sizes(self.path)[0]
        except (OSError, ValueError) as error:
            raise Problem(str(error)) from error
        self._check_sides(shape, (height, width))
        return True

    def _check_sides(self, shape: tuple[int, ...], size: tuple[int, int]) -> None:
        """Problem for a mask whose sides' ratio is not that of the image, up to rounding."""
        height, width = shape[:2]
        scale = max(height, width) / max(size)
        if abs(height - scale * size[0]) > 1.5 or abs(width - scale * size[1]) > 1.5:
            raise Problem(
                f"expected a mask with the ratio of the image's sides, {size}. Received:"
                f" {self.path} of {tuple(shape[:2])}"
            )


def open_images_in(path: str) -> list[str]:
    """The csv files of masks in a folder or, if it has none itself, in its sub-folders; sorted."""
    for below in (False, True):
        csv_files = [file for file in json_files_in(path, below, (".csv",)) if _is_of_masks(file)]
        if csv_files:
            return csv_files
    return []


def _is_of_masks(file: str) -> bool:
    """Whether a csv has the columns of Open Images' masks."""
    return set(_COLUMNS) <= {name.strip() for name in files.first_line(file).split(",")}


def is_open_images(path: str) -> bool:
    """Whether a file is a csv of Open Images' masks."""
    return path.lower().endswith(".csv") and os.path.isfile(path) and _is_of_masks(path)


def read_open_images(
    path: str, csv_files: list[str], images: Any, need_files: bool = True
) -> Annotations:
    """Reads the masks that csv files list.

    The masks are found by their names in the folder and those below it, the images by
    <ImageID>.jpg. class-descriptions-*.csv there names the classes; without it they are called by
    their ids, with a warning. Images that are not in a csv are not read: they have no masks, but
    may have objects.

    Args:
        path: the folder, or one of the files.
        csv_files: the files.
        images, need_files: see `annotations.read`.

    Raises:
        AnnotationError: a csv can't be read, or no image can be used.
    """
    reader = Reader(path, images, keep_empty=False, need_files=need_files)
    folder = reader.own_folder
    name = os.path.basename(os.path.abspath(folder)).lower()
    if os.path.isfile(path) and name in coco.ANNOTATION_FOLDERS:
        folder = os.path.dirname(os.path.abspath(folder))
    mask_files, descriptions = _files_below(folder or ".")
    names = _names_of_classes(descriptions)
    entries: dict[str, Entry] = {}
    unnamed: dict[str, None] = {}
    for file in csv_files:
        for number, row in _rows_of(file):
            place = f"{os.path.basename(file)}, row {number}"
            try:
                image_id, region = _region_of(row, mask_files, names)
            except Problem as error:
                reader.problem(place, str(error))
                continue
            if row["LabelName"].strip() not in names:
                unnamed[region.name] = None
            entry = entries.setdefault(image_id, Entry(f"{image_id}.jpg", []))
            entry.regions.append(region)
    for entry in entries.values():
        reader.add(entry)
    if unnamed:
        logger.warning(
            "%s: %d classes have no name in a class-descriptions csv of the folder and are called"
            " by their ids: %s",
            path,
            len(unnamed),
            files.several(unnamed),
        )
    return reader.finish()


def subset_of_csv(file: str) -> str | None:
    """The subset in the name of a csv of masks: train, validation, val or test; None for none."""
    match = _SUBSET.fullmatch(os.path.basename(file))
    if match is None:
        return None
    return match[1].lower()


def _files_below(folder: str) -> tuple[dict[str, str], list[str]]:
    """{name: path} of the PNG files in a folder and below, and the csv files of classes' names."""
    mask_files: dict[str, str] = {}
    descriptions = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(".png"):
                mask_files.setdefault(name, os.path.join(parent, name))
            elif _DESCRIPTIONS.fullmatch(name):
                descriptions.append(os.path.join(parent, name))
    return mask_files, descriptions


def _names_of_classes(descriptions: list[str]) -> dict[str, str]:
    """{id of a class: its name} of csv files with two columns."""
    names = {}
    for file in descriptions:
        try:
            rows = list(csv.reader(io.StringIO(files.read_text(file), newline="")))
        except (ValueError, csv.Error) as error:
            raise AnnotationError(f"{file}: names of classes: {error}") from error
        for row in rows:
            if len(row) >= 2 and row[1].strip() and row[0] != "LabelName":
                names[row[0].strip()] = class_name_of(row[1], "a class's name")
    return names


def _rows_of(file: str) -> Iterator[tuple[int, dict]]:
    """The rows of a csv and their numbers, the first behind the header is 2."""
    try:
        reader = csv.DictReader(io.StringIO(files.read_text(file), newline=""))
        yield from enumerate(reader, 2)
    except (ValueError, csv.Error) as error:
        raise AnnotationError(f"{file}: expected a csv of masks. Received: {error}") from error


def _region_of(row: dict, mask_files: dict[str, str], names: dict[str, str]) -> tuple[str, Region]:
    """The id of the image of a row, and its object; Problem for an invalid row."""
    image_id = (row["ImageID"] or "").strip()
    name = (row["MaskPath"] or "").strip()
    label = (row["LabelName"] or "").strip()
    if not image_id or not name or not label:
        raise Problem(f"expected {', '.join(_COLUMNS)}. Received: {files.short(row)}")
    path = mask_files.get(os.path.basename(name))
    if path is None:
        raise Problem(f"expected the mask of image {image_id}. Received: no file {name}")
    return image_id, Region(names.get(label, label), MaskFile(path), number=row.get("BoxID"))
