"""Reads objects from mask files: one file an object, label images, Pascal VOC, Cityscapes."""

import collections
import csv
import dataclasses
import functools
import io
import itertools
import logging
import os
import pathlib
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from mrcnn import files, utils
from mrcnn.outlines import Bitmap, cut_bitmap
from mrcnn.reading import (
    BACKGROUNDS,
    AnnotationError,
    Annotations,
    Entry,
    Problem,
    Reader,
    Region,
    annotated_size,
    class_name_of,
    is_inside,
)

logger = logging.getLogger(__name__)


# The colour and number in Pascal VOC's palette of the rims of objects, which belong to no object.
_VOC_RIM = [224, 224, 192]
_VOC_RIM_NUMBER = 255
# Beginnings of a label image's name, before the image's: mask_a.png of a.jpg.
_MASK_BEGINNINGS = ("mask_", "masks_", "label_", "labels_", "seg_")
# Endings that programs add to an image's name for its label image.
_MASK_ENDINGS = (
    "",
    "_masks",
    "_cp_masks",
    "_mask",
    "_label",
    "_labels",
    "_seg",
    "_instance",
    "_instances",
    "_label_ground-truth_instance",
)

# Folders of label images beside images/, in upper or lower case.
_MASK_FOLDERS = (
    "masks",
    "labels",
    "mask",
    "label",
    "segmentationobject",
    "segmentationobjectpng",
    "gt",
    "ground_truth",
    "groundtruth",
    "instance_masks",
    "pedmasks",
)
# A folder of label images beside JPEGImages/ alone, as DAVIS and YouTube-VOS have it: elsewhere
# such a folder may hold images of classes.
_MASKS_OF_VIDEOS = "annotations"
# Endings of an image's name that its label image has not: 000_img.png and 000_masks.png.
_IMAGE_ENDINGS = ("_img", "_image")

# How deep below a folder its dataset is searched for: VOCdevkit/VOC2012/.
_MASKS_BELOW = 2

# Pascal VOC's classes in the order of their numbers in SegmentationClass/, from 1.
VOC_CLASSES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike"
    " person pottedplant sheep sofa train tvmonitor"
).split()


def read_masks(path: Any, label: str | None = None, keep_empty: bool = False) -> Annotations:
    """Reads objects from mask files or label images.

    A mask file has one object, where it is not black (a JPEG: brighter than half). The files of an
    image lie in its folder, <id>/images/<id>.png and <id>/masks/*.png, as in the Data Science Bowl
    2018; or all lie together, masks/<name>_0.png or masks/<name>/0.png for images/<name>.jpg.

    A label image has all objects: 0 is background, and each object has another number or colour.
    It is masks/<name>.png (or .tif) for images/<name>.jpg, or <name>_masks.png beside the image.
    Several folders in masks/, none of an image's name, are classes: masks/<class>/<name>.png, or
    <name>_0.png and so on.

    Pascal VOC's JPEGImages/ and SegmentationObject/, which CVAT and LabelMe write too, are read
    without the rims: an object's class is that of most of its pixels in SegmentationClass/, named
    by labelmap.txt or class_names.txt, otherwise by Pascal VOC.

    If the folder has neither, its sub-folders are searched, such as train/ and val/.

    Args:
        path: the folder.
        label: the class of every object; None for those of SegmentationClass/ or of V7's
            instance_mask_annotations.csv, otherwise "object", since masks name no classes.
        keep_empty: also returns images without objects.

    Raises:
        AnnotationError: there are no such files, or none can be used.
    """
    path = os.fspath(path)
    reader = Reader(path, None, keep_empty)
    sets, unused = mask_sets(path)
    if not sets:
        raise AnnotationError(
            f"{path}: expected <id>/images and <id>/masks, images/ and masks/, or <name>_masks.png"
            " beside <name>.png. Received: a folder without"
        )
    doubts = _LabelDoubts()
    palettes = _Palettes()
    for item in sets:
        if not item.one_each:
            _check_is_instances(item.masks[0], path)
    for item in sets:
        relative = os.path.relpath(item.image, path)
        regions: list[Region] = []
        try:
            if item.one_each:
                size = _size_of_masks(item.image, item.masks)
                for file, bitmap in _object_files(reader, relative, item.masks, size):
                    name = label or item.names.get(file, "object")
                    regions.append(Region(name, bitmap, number=os.path.basename(file)))
            else:
                for file in item.masks:
                    labels = _read_labels(file)
                    size = _size_of_labels(item.image, file, labels)
                    doubts.check_background(relative, labels)
                    classes = None
                    if label is None:
                        classes = palettes.classes_of(file, labels.shape)
                    for bitmap in _objects_of_labels(labels):
                        name = label or item.names.get(file, "object")
                        if classes is not None:
                            name = classes.name_of(bitmap)
                        regions.append(Region(name, bitmap, number=len(regions) + 1))
        except Problem as error:
            reader.problem(f"image {relative!r}", str(error))
            continue
        if item.by_number or not item.one_each:
            doubts.check_pieces(relative, regions, item.one_each)
        annotated = bool(regions) or (item.one_each and bool(item.masks))
        reader.add(Entry(relative, regions, size), annotated=annotated)
    _warn_of_unlabelled(path, sets)
    for file in unused:
        reader.problem(
            f"file {os.path.relpath(file, path)}", "expected an image of its name in the folder"
        )
    doubts.warn(path)
    palettes.warn()
    used = {region.name for entry in reader.entries for region in entry.regions}
    classes_in_order = palettes.names
    if not classes_in_order and (label or "object" in used or not used):
        classes_in_order = [label or "object"]
    return reader.finish([*classes_in_order, *sorted(used - set(classes_in_order))])


def _warn_of_unlabelled(path: str, sets: "list[_MaskSet]") -> None:
    """Warns of images beside those of `sets` that have no label image, and so are left out.

    Of Pascal VOC it is known that only some images have one.
    """
    labelled = [item for item in sets if not item.one_each]
    if not labelled or any(_split_at_objects(item.masks[0])[1] for item in labelled):
        return
    known = {name for item in sets for name in (item.image, *item.masks)}
    unlabelled = []
    for folder in dict.fromkeys(os.path.dirname(item.image) for item in labelled):
        for picture in _pictures_in(folder):
            if picture not in known:
                unlabelled.append(os.path.relpath(picture, path))
    if unlabelled:
        logger.warning(
            "%s: %d images have no label image and are left out; one of zeros says that nothing is"
            " on an image: %s",
            path,
            len(unlabelled),
            files.several(unlabelled),
        )


# ---- Cityscapes ----------------------------------------------------------------------------------


# The classes of Cityscapes that have instances and are evaluated, by their ids.
CITYSCAPES_CLASSES = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}

_CITYSCAPES_ENDING = "_gtFine_instanceIds.png"
# A file beside the folders of Cityscapes and KITTI in exports of other programs.
_OTHER_CITYSCAPES = "label_colors.txt"


def cityscapes_in(path: str) -> list[tuple[str, str]]:
    """(image, its file of instances) below Cityscapes' gtFine/, or below a folder in it."""
    place = os.path.join(path, "gtFine")
    if not os.path.isdir(place):
        place = os.path.abspath(path)
        if "gtFine" not in pathlib.Path(place).parts:
            return []
    pairs = []
    for folder, folders, names in os.walk(place):
        folders.sort()
        for name in sorted(names):
            if name.endswith(_CITYSCAPES_ENDING):
                parts = list(pathlib.Path(os.path.abspath(folder)).parts)
                last = len(parts) - 1 - parts[::-1].index("gtFine")
                parts[last] = "leftImg8bit"
                picture = name.removesuffix(_CITYSCAPES_ENDING) + "_leftImg8bit.png"
                pairs.append((os.path.join(*parts, picture), os.path.join(folder, name)))
    return pairs


def read_cityscapes(path: Any, keep_empty: bool = False) -> Annotations:
    """Reads Cityscapes' gtFine/<subset>/<city>/..._gtFine_instanceIds.png; see `read`.

    A pixel's value is 1000 times the id of its class plus the object's number. The id alone marks a
    group of objects that were not separated, a crowd. Only the eight evaluated classes are read.

    Args:
        path: the folder with gtFine/ and leftImg8bit/, or gtFine/ or a folder in it.
        keep_empty: also returns images without objects, except those of test/, which aren't
            annotated.

    Raises:
        AnnotationError: there are no such files, or none can be used.
    """
    path = os.fspath(path)
    reader = Reader(path, None, keep_empty)
    sets = cityscapes_in(path)
    check_own_ids(path, "Cityscapes'")
    if not sets:
        raise AnnotationError(
            f"{path}: expected gtFine/ with ...{_CITYSCAPES_ENDING}. Received: a folder without"
        )
    for image, file in sets:
        subset = pathlib.Path(image).parts[-3]
        name = "/".join(pathlib.Path(image).parts[-3:])
        try:
            labels = _read_labels(file)
            size = _size_of_labels(image, file, labels)
        except Problem as error:
            reader.problem(f"image {name!r}", str(error))
            continue
        regions = _cityscapes_regions(labels)
        is_unannotated = subset == "test"
        reader.add(
            Entry(name, regions, size, file=image), annotated=bool(regions) or is_unannotated
        )
    return reader.finish(list(CITYSCAPES_CLASSES.values()))


def check_own_ids(path: str, name: str) -> None:
    """AnnotationError for a data set of Cityscapes' layout, or KITTI's, by another program.

    Args:
        path: a folder of the data set.
        name: of the layout.
    """
    place = pathlib.Path(os.path.abspath(path))
    for folder in (pathlib.Path(path), *place.parents):
        other = folder / _OTHER_CITYSCAPES
        if other.is_file():
            raise AnnotationError(
                f"{path}: expected {name} own ids of classes. Received: {other}, as CVAT and"
                " Datumaro write it, whose ids are others; export COCO's json in its place"
            )


def _cityscapes_regions(labels: np.ndarray) -> list[Region]:
    """The objects of an image of instances, [H, W] int."""
    from scipy import ndimage

    regions = []
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        class_id = number
        if number >= 1000:
            class_id = number // 1000
        if box is not None and class_id in CITYSCAPES_CLASSES:
            shape = Bitmap(labels[box] == number, box[1].start, box[0].start)
            name = CITYSCAPES_CLASSES[class_id]
            regions.append(Region(name, shape, crowd=number < 1000, number=number))
    return regions


# ---- Checks of label images ----------------------------------------------------------------------


# {file beside semantic label images: the program that writes it}.
_SEMANTIC_FILES = {
    "_classes.csv": "Roboflow",
    "class_mapping.csv": "V7",
    "label_colors.txt": "CVAT (CamVid)",
    "obj_class_to_machine_color.json": "Supervisely",
}


def _check_is_instances(mask: str, path: str) -> None:
    """AnnotationError for a semantic label image, in which all objects of a class would be one.

    It is detected by the files in its folder and the folders above, up to `path`.
    """
    if _split_at_objects(mask)[1]:
        return
    folder = os.path.dirname(mask)
    while True:
        for name, program in _SEMANTIC_FILES.items():
            file = os.path.join(folder, name)
            if os.path.isfile(file):
                raise AnnotationError(
                    f"{path}: expected label images with a number or colour for each object."
                    f" Received: images of classes, {mask} and others, as {file} of {program}"
                    " says; export COCO's json, or masks of instances, in their place"
                )
        if not is_inside(folder, path):
            return
        folder = os.path.dirname(folder)


class _LabelDoubts:
    """The images whose mask files are probably not what they are read as; `warn` logs them."""

    def __init__(self) -> None:
        self.in_pieces: dict[bool, list[str]] = {False: [], True: []}
        self.without_background: list[str] = []
        self.inverted: list[str] = []

    def check_background(self, name: str, labels: np.ndarray) -> None:
        """Checks a label image [H, W] for background."""
        if not labels.size:
            return
        if labels.min() > 0:
            self.without_background.append(name)
            return
        rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
        if rim.min() > 0 and rim.min() == rim.max():
            self.inverted.append(name)

    def check_pieces(self, name: str, regions: Sequence[Region], one_each: bool) -> None:
        """Checks the objects of an image. one_each: whether each object has its own file."""
        pieces = [_pieces(region.shape) > 1 for region in regions]
        if any(pieces) and 2 * sum(pieces) >= len(pieces):
            self.in_pieces[one_each].append(name)

    def warn(self, path: str) -> None:
        """Logs a warning for each kind of doubt."""
        if self.in_pieces[False]:
            logger.warning(
                "%s: label images have a number or colour for each object; those of %d images have"
                " most for several pieces, as images of classes have it, and each number is taken"
                " for one object: %s",
                path,
                len(self.in_pieces[False]),
                files.several(self.in_pieces[False]),
            )
        if self.in_pieces[True]:
            logger.warning(
                "%s: mask files with numbers are an object each; most of those of %d images have"
                " several pieces, as files of a class each have it: %s",
                path,
                len(self.in_pieces[True]),
                files.several(self.in_pieces[True]),
            )
        if self.without_background:
            logger.warning(
                "%s: label images have 0, or black, where nothing is; those of %d images have none,"
                " and each number or colour is taken for an object, the background's too: %s",
                path,
                len(self.without_background),
                files.several(self.without_background),
            )
        if self.inverted:
            logger.warning(
                "%s: label images have 0, or black, where nothing is; those of %d images have one"
                " object along all four edges and 0 within it, as inverted ones have it: %s",
                path,
                len(self.inverted),
                files.several(self.inverted),
            )


# ---- Semantic label images -----------------------------------------------------------------------


@dataclasses.dataclass
class _ClassNames:
    """The names of the classes of a dataset.

    Attributes:
        by_number: {number: name}.
        by_colour: {65536 red + 256 green + blue: name}; empty if no file gives colours.
        file: the file with the names; "" if there is none and they are Pascal VOC's.
    """

    by_number: dict[int, str]
    by_colour: dict[int, str]
    file: str = ""


@dataclasses.dataclass
class _ClassImage:
    """The class of each pixel.

    Attributes:
        path: the file.
        codes: [H, W] int64, numbers of the classes or their colours; below 1 for no class.
        names: {code: name}.
        unnamed: codes of objects that have no name; `name_of` adds them.
    """

    path: str
    codes: np.ndarray
    names: dict[int, str]
    unnamed: set[int]

    def name_of(self, bitmap: Bitmap) -> str:
        """The class of most pixels of an object; Problem if no pixel has one."""
        top, left, pixels = bitmap.crop(*self.codes.shape)
        inside = self.codes[top : top + pixels.shape[0], left : left + pixels.shape[1]][pixels]
        codes, counts = np.unique(inside[inside > 0], return_counts=True)
        if not len(codes):
            raise Problem(
                f"expected a class of each object in {self.path}. Received: none of the"
                f" {len(inside)} pixels from (x, y) {(left, top)} on"
            )
        code = int(codes[counts.argmax()])
        if code not in self.names:
            self.unnamed.add(code)
        return self.names.get(code, f"class {code}")


class _Palettes:
    """The classes in SegmentationClass/ beside SegmentationObject/, and their names.

    Attributes:
        names: names of the classes, in the order of their numbers; empty before any is read.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._of_folder: dict[str, _ClassNames] = {}
        self._colours_are_classes: dict[str, bool] = {}
        self._unnamed: dict[str, set[int]] = {}

    def classes_of(self, path: str, shape: tuple[int, ...]) -> _ClassImage | None:
        """The classes of the label image at a path; None if there is no image of them."""
        parent, objects_folder, below = _split_at_objects(path)
        place = os.path.join(parent, objects_folder.replace("Object", "Class"))
        file = os.path.join(place, below + ".png")
        if not objects_folder or not os.path.isfile(file):
            return None
        class_names = self._names_in(parent)
        codes, names = self._codes_of(place, file, class_names)
        if codes.shape != shape:
            raise Problem(f"expected {file} of {shape} pixels. Received: {codes.shape}")
        return _ClassImage(file, codes, names, self._unnamed.setdefault(parent, set()))

    def _codes_of(
        self, place: str, file: str, class_names: _ClassNames
    ) -> tuple[np.ndarray, dict[int, str]]:
        """The codes [H, W] int64 of an image of classes in a folder `place`, and {code: name}."""
        colours, numbers = _read_class_image(file)
        if class_names.by_colour:
            return _codes_by_labelmap(file, colours, numbers, class_names)
        of_colours = _voc_numbers_of(colours)
        if numbers is None:
            if of_colours is None:
                of_colours = colours
            return of_colours, class_names.by_number
        if of_colours is None or np.array_equal(numbers, of_colours):
            return numbers, class_names.by_number
        if place not in self._colours_are_classes:
            self._colours_are_classes[place] = _colours_are_classes(place, class_names)
        if self._colours_are_classes[place]:
            return of_colours, class_names.by_number
        return numbers, class_names.by_number

    def _names_in(self, folder: str) -> _ClassNames:
        """The names of a dataset's classes, read once for each folder."""
        if folder not in self._of_folder:
            try:
                class_names = _class_names_in(folder)
            except AnnotationError:
                raise
            except ValueError as error:
                raise AnnotationError(f"{folder}: names of its classes: {error}") from error
            self._of_folder[folder] = class_names
            for name in class_names.by_number.values():
                if name not in self.names:
                    self.names.append(name)
            if not class_names.file and not os.path.isdir(os.path.join(folder, "ImageSets")):
                logger.warning(
                    "%s: no labelmap.txt or class_names.txt names the classes; they are Pascal"
                    " VOC's: 1 is %s",
                    folder,
                    VOC_CLASSES[0],
                )
        return self._of_folder[folder]

    def warn(self) -> None:
        """Logs the classes without a name."""
        for folder, codes in self._unnamed.items():
            if codes:
                source = self._of_folder[folder].file or "Pascal VOC's names"
                logger.warning(
                    "%s: %d classes of its images have no name in %s and are called by numbers: %s."
                    " A class_names.txt there, or a labelmap.txt, names them",
                    folder,
                    len(codes),
                    source,
                    files.several(sorted(codes)),
                )


def _split_at_objects(path: str) -> tuple[str, str, str]:
    """Splits the path of a label image in a folder SegmentationObject.

    Returns:
        The dataset's folder, the name of its folder SegmentationObject, and the path in it without
        suffix; all "" for another path.
    """
    folder, name = os.path.split(os.path.splitext(path)[0])
    for _ in range(files.DEEPEST_IMAGES + 1):
        folder, parent = os.path.split(folder)
        if parent.startswith("SegmentationObject"):
            return folder, parent, name
        name = os.path.join(parent, name)
    return "", "", ""


def _class_names_in(folder: str) -> _ClassNames:
    """The names of classes in a folder's labelmap.txt (CVAT's), class_names.txt or labels.txt
    (LabelMe's), otherwise Pascal VOC's.
    """
    file = os.path.join(folder, "labelmap.txt")
    if os.path.isfile(file):
        return _names_of_labelmap(file)
    for name in ("class_names.txt", "labels.txt"):
        file = os.path.join(folder, name)
        if os.path.isfile(file):
            lines = [line.strip() for line in files.read_text(file).splitlines()]
            if lines and lines[0] == "__ignore__":
                del lines[0]
            if lines and lines[0].lower() not in BACKGROUNDS:
                lines.insert(0, "")  # 0 is always the background
            names = {i: name for i, name in enumerate(lines) if i and name}
            return _ClassNames(names, {}, file)
    return _ClassNames(dict(enumerate(VOC_CLASSES, 1)), {})


def _names_of_labelmap(file: str) -> _ClassNames:
    """The names in a labelmap.txt, `name:red,green,blue:parts:actions`, without the background.

    If no line has a colour, the colours are those of Pascal VOC's palette.
    """
    names: list[str] = []
    colours: list[int | None] = []
    for line in files.read_text(file).splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r"(.*?):(?:(\d+),(\d+),(\d+))?(?::.*)?", line)
        if match is None:
            raise AnnotationError(
                f"{file}: expected lines of name:red,green,blue. Received: {files.short(line)}"
            )
        names.append(class_name_of(match[1], "a class's name"))
        colour = None
        if match[2]:
            red, green, blue = map(int, match.groups()[1:4])
            colour = red * 65536 + green * 256 + blue
        colours.append(colour)
    if not any(colour is not None for colour in colours):
        colours = list(list(voc_numbers())[: len(names)])
    uncoloured = [name for name, colour in zip(names, colours) if colour is None]
    if uncoloured:
        raise AnnotationError(
            f"{file}: expected a colour of each class, or of none. Received: none of"
            f" {files.several(map(repr, uncoloured))}"
        )
    by_number = {}
    by_colour = {}
    for number, (name, colour) in enumerate(zip(names, colours)):
        if name.lower() not in BACKGROUNDS:
            by_number[number] = name
            by_colour[colour or 0] = name
    return _ClassNames(by_number, by_colour, file)


def _read_class_image(file: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The colours of an image of classes, and its numbers, with Pascal VOC's rims as 0.

    Returns:
        colours: [H, W] int64, 65536 red + 256 green + blue.
        numbers: [H, W] int64; None for an image that has colours only.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            has_numbers = image.mode not in ("RGB", "RGBA", "CMYK", "YCbCr")
            parts = np.asarray(image.convert("RGB")).astype(np.int64)
    except Exception as error:  # Pillow raises many types for a damaged file
        raise Problem(f"expected an image of classes. Received: {file}: {error}") from error
    colours = parts[..., 0] * 65536 + parts[..., 1] * 256 + parts[..., 2]
    if not has_numbers:
        return colours, None
    numbers = _read_labels(file)
    return colours, np.where(numbers == _VOC_RIM_NUMBER, 0, numbers)


def _codes_by_labelmap(
    file: str, colours: np.ndarray, numbers: np.ndarray | None, class_names: _ClassNames
) -> tuple[np.ndarray, dict[int, str]]:
    """The codes of an image of classes, and {code: name}; Problem if the labelmap lacks them.

    The codes are its colours if the labelmap has all of them, otherwise its numbers, in the
    labelmap's order.

    colours, numbers: from `_read_class_image`.
    """
    distinct = set(np.unique(colours).tolist()) - {0, _code_of(_VOC_RIM)}
    if distinct <= set(class_names.by_colour):
        return colours, class_names.by_colour
    if numbers is not None and set(np.unique(numbers).tolist()) - {0} <= set(class_names.by_number):
        return numbers, class_names.by_number
    missing = min(distinct - set(class_names.by_colour))
    parts = missing >> 16, missing >> 8 & 255, missing & 255
    raise Problem(f"expected colours of {class_names.file}. Received: {parts} in {file}")


def _code_of(colour: Sequence[int]) -> int:
    """65536 red + 256 green + blue."""
    return colour[0] * 65536 + colour[1] * 256 + colour[2]


def _voc_numbers_of(colours: np.ndarray) -> np.ndarray | None:
    """The numbers of colours in Pascal VOC's palette, with its rims as 0; None if it lacks one.

    colours: [H, W] int64, from `_read_class_image`. Returns [H, W] int64.
    """
    numbers = voc_numbers()
    distinct, places = np.unique(colours, return_inverse=True)
    if not all(colour in numbers for colour in distinct.tolist()):
        return None
    of_distinct = np.array([numbers[colour] for colour in distinct.tolist()], np.int64)
    of_colours = of_distinct[places.reshape(colours.shape)]
    return np.where(of_colours == _VOC_RIM_NUMBER, 0, of_colours)


def _colours_are_classes(place: str, names: _ClassNames) -> bool:
    """Whether the classes of a folder's images are their colours; otherwise they are the numbers.

    The images have palettes with Pascal VOC's colours under other numbers. Programs that make files
    smaller keep only the used colours, in an order that differs from file to file: the colours are
    the classes. A palette with unused colours is a different one: the numbers are the classes.

    Raises:
        AnnotationError: neither case is clear.
    """
    from PIL import Image

    palettes = set()
    has_unused = False
    unlisted = False
    for file in _pictures_below(place).values():
        try:
            with Image.open(file) as image:
                if image.mode != "P":
                    continue
                palette = tuple(image.getpalette() or [])
                used = np.unique(np.asarray(image)).tolist()
            colours, numbers = _read_class_image(file)
        except Exception:  # a damaged file, reported when it is read
            continue
        of_colours = _voc_numbers_of(colours)
        if of_colours is None or numbers is None or np.array_equal(of_colours, numbers):
            continue
        palettes.add(palette)
        has_unused = has_unused or len(palette) > 3 * len(used)
        unlisted = unlisted or not set(np.unique(of_colours).tolist()) - {0} <= set(names.by_number)
    if unlisted or (has_unused and len(palettes) == 1):
        by_colours = False
    elif not has_unused and (len(palettes) > 1 or not names.file):
        by_colours = True
    else:
        raise AnnotationError(
            f"{place}: expected palettes that are Pascal VOC's. Received: its colours under other"
            " numbers, and it is open whether colours or numbers tell the classes; a labelmap.txt"
            " beside the folder, with lines of name:red,green,blue, says the colours"
        )
    reading = "numbers, as the palette has colours that are not used, or that are no class's"
    if by_colours:
        reading = "colours, as where a program made the files smaller"
    logger.warning(
        "%s has palettes with Pascal VOC's colours under other numbers: the classes are those of"
        " the %s",
        place,
        reading,
    )
    return by_colours


@functools.cache
def voc_numbers() -> dict[int, int]:
    """{colour: number} of Pascal VOC's palette.

    The bits of a number, in groups of three from the lowest, are the bits of red, green and blue
    from the highest. A colour is 65536 red + 256 green + blue.
    """
    numbers = {}
    for number in range(256):
        colour = 0
        for place in range(8):
            for band in range(3):
                bit = number >> (3 * place + band) & 1
                colour |= bit << (7 - place) << (8 * (2 - band))
        numbers[colour] = number
    return numbers


def semantic_hint(path: str) -> str:
    """The end of an error message about a folder whose masks can't be used; "" for others.

    They are images of classes, or have other names than the images.
    """
    folders = [
        name
        for name in sorted(os.listdir(path))
        if name.lower() in ("segmentationclass", "segmentationclasspng")
    ]
    if not folders:
        return _hint_of_names(path)
    return (
        f"; {folders[0]}/ tells the class of each pixel, not which object it belongs to: that is in"
        " SegmentationObject/"
    )


def _hint_of_names(path: str) -> str:
    """The end of an error message about masks with other names than the images; "" for others."""
    folders = {name.lower(): name for name in sorted(os.listdir(path))}
    masks = next((folders[name] for name in _MASK_FOLDERS if name in folders), None)
    if masks is None:
        return ""
    pictures = sorted(_pictures_below(os.path.join(path, masks)))
    for image_folder in files.IMAGE_FOLDERS:
        images = sorted(_pictures_below(os.path.join(path, image_folder)))
        if images and pictures:
            return (
                f"; the masks have other names than the images: {masks}/{pictures[0]} and"
                f" {image_folder}/{images[0]}, not {os.path.splitext(images[0])[0]}.png or"
                f" {os.path.splitext(images[0])[0]}_0.png"
            )
    return ""


# ---- Finding the mask files of images ------------------------------------------------------------


@dataclasses.dataclass
class _MaskSet:
    """An image and its mask files.

    Attributes:
        image: path of the image.
        masks: paths of its mask files, or of its label image, or of that of each class.
        one_each: whether each mask file is one object.
        by_number: whether the mask files were assigned to the image by a number after its name, or
            by a folder of its name.
        names: {mask: its class} of the masks with a known class.
    """

    image: str
    masks: list[str]
    one_each: bool
    by_number: bool = False
    names: dict[str, str] = dataclasses.field(default_factory=dict)


def mask_sets(path: str, below: int = _MASKS_BELOW) -> tuple[list[_MaskSet], list[str]]:
    """The images in a folder that have mask files, and the mask files without an image.

    below: how deep sub-folders are searched if the folder has none itself.
    """
    sets = []
    for entry in sorted(os.listdir(path)):
        folder = os.path.join(path, entry)
        images = _pictures_in(os.path.join(folder, "images"))
        if images and _is_of_one_image(images, os.path.join(folder, "masks"), entry):
            masks = _pictures_in(os.path.join(folder, "masks"))
            sets.append(_MaskSet(images[0], masks, one_each=True))
    if sets:
        return sets, []
    folders = sorted(os.listdir(path), key=lambda name: (name.lower(), name))
    for name in (*_MASK_FOLDERS, _MASKS_OF_VIDEOS):
        image_folders: Sequence[str] = files.IMAGE_FOLDERS
        if name == _MASKS_OF_VIDEOS:
            image_folders = ("JPEGImages",)
        for folder in (folder for folder in folders if folder.lower() == name):
            masks_below = _pictures_below(os.path.join(path, folder))
            for image_folder in image_folders:
                images_below = _pictures_below(os.path.join(path, image_folder))
                if images_below and masks_below:
                    folder_path = os.path.join(path, folder)
                    sets, unused = _masks_of_images(images_below, masks_below, folder_path)
                    if sets:
                        _name_by_csv(sets, os.path.join(path, _V7_CLASSES))
                        return sets, unused
    pictures = {os.path.basename(file): file for file in _pictures_in(path)}
    sets = _labelled(pictures, _by_stem(pictures), _MASK_ENDINGS[1:])
    unused = []
    if not sets and below:
        for folder in folders:
            if os.path.isdir(os.path.join(path, folder)) and not folder.startswith("."):
                sets_below, unused_below = mask_sets(os.path.join(path, folder), below - 1)
                sets += sets_below
                unused += unused_below
    return sets, unused


def _pictures_below(folder: str) -> dict[str, str]:
    """{path below a folder: path} of its image files, sorted; empty if there is no folder."""
    if not os.path.isdir(folder):
        return {}
    return {name: os.path.join(folder, name) for name in sorted(files.walk_images(folder))}


# An image's name followed by an object's number: a_1, a_mask_1, a (1), a-obj-001.
_OBJECT_NUMBER = re.compile(
    r"(.+?)[ _.-]+(?:(?:masks?|obj|objects?|inst|instances?|labels?|seg|segments?)[ _.-]*)?"
    r"\(?(\d+)\)?"
)


def _masks_of_images(
    images: dict[str, str], masks: dict[str, str], folder: str
) -> tuple[list[_MaskSet], list[str]]:
    """The images that have mask files in another folder, and the mask files without an image.

    An image a.jpg has either the label image a.png or a file for each object: a_0.png and so on, or
    the files of a folder a/.

    Args:
        images, masks: from `_pictures_below`. If one has no sub-folders, base names are compared.
        folder: that of the masks.
    """
    plain, unused = _masks_by_name(images, masks)
    classes = _class_folders(images, masks)
    if classes:
        sets, unused_of_classes = _masks_of_classes(images, masks)
        is_complete = len(unused_of_classes) <= len(unused)
        if sets and is_complete and not _are_parts(classes, sets):
            _tell_of_class_folders(folder, tuple(classes))
            return sets, unused_of_classes
    return plain, unused


def _masks_by_name(
    images: dict[str, str], masks: dict[str, str]
) -> tuple[list[_MaskSet], list[str]]:
    """As `_masks_of_images`, where folders are no classes."""
    if not any(map(os.path.dirname, masks)):
        images = _by_base_name(images)
    elif not any(map(os.path.dirname, images)):
        masks = _by_base_name(masks, _by_stem(images))
    sets = _labelled(images, _by_stem(masks), _MASK_ENDINGS)
    labelled = {item.image for item in sets}
    used = {mask for item in sets for mask in item.masks}
    stems = _by_stem(images)
    numbered: dict[str, list[tuple[list, str]]] = {}
    for name, mask in masks.items():
        owner = _owner_of_mask(os.path.splitext(name)[0], stems)
        if mask not in used and owner is not None and owner not in labelled:
            numbered.setdefault(owner, []).append((_natural_key(name), mask))
            used.add(mask)
    if numbered:
        for image in images.values():
            if image not in labelled:
                object_masks = [mask for _, mask in sorted(numbered.get(image, []))]
                sets.append(_MaskSet(image, object_masks, one_each=True, by_number=True))
    return sets, sorted(set(masks.values()) - used)


def _class_folders(images: dict[str, str], masks: dict[str, str]) -> list[str]:
    """The folders of masks that are classes: several, none of an image's name, of flat images.

    images, masks: from `_pictures_below`.
    """
    if any(map(os.path.dirname, images)) or not all(map(os.path.dirname, masks)):
        return []
    folders = list(dict.fromkeys(name.split(os.sep)[0] for name in masks))
    stems = _by_stem(images)
    for name in folders:
        names = {name, *(name.removesuffix(ending) for ending in _MASK_ENDINGS)}
        is_of_image = any(stem in stems or stem.casefold() in stems for stem in names)
        if is_of_image or name.isdigit() or files.SUBSET_FOLDER.fullmatch(name.lower()):
            return []
    if len(folders) < 2:
        return []
    return folders


def _are_parts(folders: list[str], sets: list[_MaskSet]) -> bool:
    """Whether folders are parts of a dataset, batch1/ and batch2/, and not classes.

    Their names differ in digits alone, and no image has masks in several.

    Args:
        folders: their names.
        sets: from `_masks_of_classes`.
    """
    if len({re.sub(r"\d+", "0", name) for name in folders}) > 1:
        return False
    return not any(len(set(item.names.values())) > 1 for item in sets)


def _masks_of_classes(
    images: dict[str, str], masks: dict[str, str]
) -> tuple[list[_MaskSet], list[str]]:
    """As `_masks_of_images`, of masks in a folder for each class."""
    by_class: dict[str, dict[str, str]] = {}
    for name, mask in masks.items():
        class_name, _, rest = name.partition(os.sep)
        by_class.setdefault(class_name, {})[rest] = mask
    stems = _by_stem(images)
    label_images: dict[str, dict[str, str]] = {}
    object_files: dict[str, dict[str, str]] = {}
    used = set()
    for class_name, files_of_class in by_class.items():
        for item in _labelled(images, _by_stem(files_of_class), _MASK_ENDINGS):
            label_images.setdefault(item.image, {})[item.masks[0]] = class_name
            used.add(item.masks[0])
        for name in sorted(files_of_class, key=_natural_key):
            mask = files_of_class[name]
            owner = _owner_of_mask(os.path.splitext(name)[0], stems)
            if mask not in used and owner is not None:
                object_files.setdefault(owner, {})[mask] = class_name
                used.add(mask)
    sets = []
    for image in images.values():
        names = {**label_images.get(image, {}), **object_files.get(image, {})}
        one_each = image in object_files or (bool(object_files) and not names)
        if names or one_each:
            sets.append(_MaskSet(image, list(names), one_each, by_number=one_each, names=names))
    return sets, sorted(set(masks.values()) - used)


@functools.cache
def _tell_of_class_folders(folder: str, names: tuple[str, ...]) -> None:
    """Warns, once for each folder of masks, that the folders in it are taken for classes."""
    logger.warning(
        "%s: its folders are taken for the classes of the masks in them: %s; --label=object makes"
        " them one class",
        folder,
        files.several(names),
    )


def _by_base_name(pictures: dict[str, str], kept_folders: Collection[str] = ()) -> dict[str, str]:
    """{name: path} of pictures in sub-folders, named by their base names where these are unique.

    kept_folders: sub-folders that are kept in a picture's name, since each belongs to one image.
    """
    counts = collections.Counter(map(os.path.basename, pictures))
    named = {}
    for name, path in pictures.items():
        folder, base = os.path.split(name)
        if counts[base] == 1 and folder not in kept_folders:
            name = base
        named[name] = path
    return named


def _owner_of_mask(stem: str, images: dict[str, str]) -> str | None:
    """The image that a mask file belongs to by its name; None for none.

    stem: the mask's path below its folder, without suffix. images: from `_by_stem`.
    """
    candidates = []
    match = _OBJECT_NUMBER.fullmatch(stem)
    if match is not None:
        candidates.append(match[1])
    if os.path.dirname(stem):
        candidates.append(os.path.dirname(stem))
    for name in candidates:
        owner = images.get(name) or images.get(name.casefold())
        if owner is not None:
            return owner
    return None


def _natural_key(name: str) -> list:
    """A key that sorts names by the values of their numbers: a_2 before a_10."""
    parts: list[Any] = re.split(r"(\d+)", name)
    parts[1::2] = map(int, parts[1::2])
    return parts


# V7's file with the classes of masks, beside their folder.
_V7_CLASSES = "instance_mask_annotations.csv"


def _name_by_csv(sets: list[_MaskSet], file: str) -> None:
    """Sets the classes of masks from V7's csv, if it exists."""
    if not os.path.isfile(file):
        return
    try:
        rows = csv.DictReader(io.StringIO(files.read_text(file), newline=""))
        columns = list(rows.fieldnames or ())
        if not {"mask_id", "class_name"} <= set(columns):
            raise Problem(
                f"expected V7's columns mask_id and class_name. Received: {files.short(columns)}"
            )
        classes = {row["mask_id"]: row["class_name"] for row in rows if row["class_name"]}
        for item in sets:
            for mask in item.masks:
                stem = os.path.splitext(os.path.basename(mask))[0]
                if stem in classes:
                    item.names[mask] = class_name_of(classes[stem], f"the class of {stem}")
    except (ValueError, csv.Error) as error:
        raise AnnotationError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from error


def _is_of_one_image(images: list[str], masks: str, name: str) -> bool:
    """Whether the folder `name` has one image with a file for each object."""
    if not os.path.isdir(masks):
        return False
    stem = os.path.splitext(os.path.basename(images[0]))[0]
    return stem == name or (len(images) == 1 and stem not in _by_stem(_pictures_below(masks)))


def _labelled(
    images: dict[str, str], masks: dict[str, str], endings: Sequence[str]
) -> list[_MaskSet]:
    """The images that have a label image, and that.

    Args:
        images: {path below their folder: path}.
        masks: from `_by_stem`.
        endings: endings of a label image's name, after the image's.
    """
    sets = []
    stems = _by_stem(images)
    for name, image in images.items():
        stem = os.path.splitext(name)[0]
        names = [stem + end for end in endings]
        for ending in _IMAGE_ENDINGS:
            short = stem[: -len(ending)]
            if stem.lower().endswith(ending) and short not in stems:
                names += [short + end for end in endings]
        folder, base = os.path.split(stem)
        names += [os.path.join(folder, begin + base) for begin in _MASK_BEGINNINGS]
        names += [name.casefold() for name in names]
        mask = next((masks[name] for name in names if name in masks), None)
        if mask is not None and mask != image:
            sets.append(_MaskSet(image, [mask], one_each=False))
    return sets


def _pictures_in(folder: str) -> list[str]:
    """The image files directly in a folder, sorted; empty if there is no folder."""
    if not os.path.isdir(folder):
        return []
    paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    return [
        path
        for path in paths
        if files.is_image_name(path)
        and os.path.isfile(path)
        and not os.path.basename(path).startswith(".")
    ]


def _by_stem(pictures: dict[str, str]) -> dict[str, str]:
    """{name without suffix: path}, with the names as they are and in lower case.

    pictures: {path below their folder: path}.
    """
    stems = {os.path.splitext(name)[0]: path for name, path in pictures.items()}
    return {**{stem.casefold(): path for stem, path in stems.items()}, **stems}


# ---- Pixels of mask files ------------------------------------------------------------------------


def _object_files(
    reader: Reader, name: str, paths: list[str], size: tuple[int, int]
) -> Iterator[tuple[str, Bitmap]]:
    """The path and the bitmap of each mask file; problems are recorded for unusable ones."""
    for path in paths:
        try:
            mask = utils.read_mask(path)
            if mask.shape != size:
                raise Problem(f"expected a mask of {size} pixels. Received: {mask.shape}")
            yield path, cut_bitmap(mask)
        except (OSError, ValueError, TypeError, SyntaxError) as error:
            reader.problem(f"image {name!r}, mask {os.path.basename(path)}", str(error))


def _size_of_masks(image: str, masks: list[str]) -> tuple[int, int]:
    """(height, width) of an image in the frame of its mask files, see `annotated_size`; or Problem.

    Masks of a photograph with an EXIF rotation have the size of its stored pixels if they were made
    by a program that ignores the rotation.
    """
    for mask in masks:
        try:
            return annotated_size(image, image, utils.image_sizes(mask)[0])
        except Exception:  # a damaged mask or one of another size, reported later
            continue
    return annotated_size(image, image, None)


def _size_of_labels(image: str, path: str, labels: np.ndarray) -> tuple[int, int]:
    """(height, width) of an image in the frame of its label image; or Problem."""
    height, width = labels.shape
    try:
        return annotated_size(image, image, (height, width))
    except Problem as error:
        raise Problem(f"label image {path}: {error}") from error


def _objects_of_labels(labels: np.ndarray) -> list[Bitmap]:
    """The objects of a label image [H, W] int64, in the order of their numbers."""
    from scipy import ndimage

    numbers, places = np.unique(labels, return_inverse=True)
    places = places.reshape(labels.shape)
    if not len(numbers) or numbers[0] != 0:
        places = places + 1  # there is no background
    bitmaps = []
    for number, box in enumerate(ndimage.find_objects(places), 1):
        bitmaps.append(Bitmap(places[box] == number, box[1].start, box[0].start))
    return bitmaps


def _read_labels(path: str) -> np.ndarray:
    """The numbers [H, W] int64 of a label image, or one for each of its colours, 0 for black.

    Problem for another image, or one whose values lossy compression or smoothing has changed: each
    intermediate value would become an object.
    """
    from PIL import Image

    is_palette = False
    try:
        if path.lower().endswith((".tif", ".tiff")):
            values = _values_in_tiff(path)
        else:
            with Image.open(path) as image:
                if utils.is_lossy(image, path):
                    return _labels_of_lossy(image, path)
                is_palette = image.mode == "P"
                values = np.asarray(image)
                if image.mode in ("LA", "RGBA"):  # transparent is background
                    is_clear = values[..., -1:] == 0
                    values = np.where(is_clear, 0, values)
                    if is_clear.any() and not is_clear.all() and not values[..., :-1].any():
                        raise Problem(
                            "expected objects in other colours than black, which is nothing."
                            f" Received: {path}, all black on a transparent ground"
                        )
                if image.mode == "LA":
                    values = values[..., 0]
                palette = image.getpalette() or []
                if is_palette:
                    values = _without_rims(values, palette)
                if is_palette and _is_background_renumbered(values, palette):
                    _warn_of_black(os.path.dirname(path))
                    values = np.asarray(image.convert("RGB"))
                    values = np.where((values == _VOC_RIM).all(axis=-1, keepdims=True), 0, values)
    except Problem:
        raise
    except Exception as error:  # the libraries raise many types for a damaged file
        raise Problem(f"expected a label image. Received: {path}: {error}") from error
    if values.dtype == np.uint8 and not is_palette:
        soft = _soft_values(values)
        if soft is not None:
            both = None
            if utils.has_traces(values):
                both = utils.black_and_white(values)
            if both is None:
                raise Problem(
                    "expected a label image with one number or colour for each object. Received: "
                    f"{path}, {soft}: it was smoothed, or compressed with losses. Objects that are"
                    " so small can have numbers of 16 bits"
                )
            _warn_of_two_values(os.path.dirname(path))
            return both.astype(np.int64)
    if values.ndim == 3 and values.shape[-1] in (3, 4) and values.dtype == np.uint8:
        parts = values[..., :3].astype(np.int64)
        return parts[..., 0] * 65536 + parts[..., 1] * 256 + parts[..., 2]
    if values.ndim == 2 and values.dtype.kind == "f" and _are_whole(values):
        values = values.astype(np.int64)  # ImageJ and CellProfiler write numbers as floats
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise Problem(
            "expected a label image of whole numbers or colours. Received: "
            f"{path} of the shape {values.shape}, {values.dtype}"
        )
    if values.size and values.min() < 0:
        raise Problem(
            "expected a label image of numbers from 0, where nothing is, on. Received: "
            f"{path} with {values.min()}"
        )
    return values.astype(np.int64)


def _values_in_tiff(path: str) -> np.ndarray:
    """The values of a TIFF as they are stored.

    tifffile reads LZW and other compressions with the package imagecodecs alone; Pillow reads them.
    """
    import tifffile
    from PIL import Image

    try:
        return np.squeeze(tifffile.imread(path))
    except Exception as error:  # the libraries raise many types
        try:
            with Image.open(path) as image:
                frames = getattr(image, "n_frames", 1)
                if frames > 1:
                    raise Problem(
                        f"expected a label image of one page. Received: {path} with {frames}"
                    )
                if utils.is_lossy(image, path):
                    return _labels_of_lossy(image, path)
                values = np.asarray(image)
                # Pillow inverts these alone.
                is_inverted = image.mode in ("1", "L") and utils.shows_zero_white(image)
        except Problem:
            raise
        except Exception:
            raise error from None
    if is_inverted and values.dtype == bool:
        return ~values
    if is_inverted:
        return 255 - values
    return values


def _without_rims(values: np.ndarray, palette: list[int]) -> np.ndarray:
    """The numbers [H, W] of a label image, with the rims of Pascal VOC's palette as 0.

    palette: red, green and blue of each number; programs that make files smaller keep only those
    that are used.
    """
    colours = [tuple(palette[place : place + 3]) for place in range(0, len(palette) - 2, 3)]
    used = [number for number in np.unique(values).tolist() if number < len(colours)]
    numbers_by_colour = voc_numbers()
    is_voc = True
    for number in used:
        red, green, blue = colours[number]
        is_voc = is_voc and red * 65536 + green * 256 + blue in numbers_by_colour
    for number in used:
        if colours[number] == tuple(_VOC_RIM) and (is_voc or number == _VOC_RIM_NUMBER):
            values = np.where(values == number, 0, values)
    return values


def _is_background_renumbered(values: np.ndarray, palette: list[int]) -> bool:
    """Whether the background is black and black has another number than 0 in the palette.

    Some programs that make files smaller write such palettes: colours count then, not numbers. If
    number 0, of another colour, has at least as many pixels as black, it is the background.

    values: [H, W]. palette: red, green and blue of each number.
    """
    colours = np.array(palette, int).reshape(-1, 3)
    if not len(colours) or not colours[0].any():
        return False
    counts = np.bincount(values.ravel(), minlength=len(colours))[: len(colours)]
    return counts[~colours.any(axis=1)].sum() > counts[0]


@functools.cache
def _warn_of_black(folder: str) -> None:
    """Warns, once for each folder, that colours count in its label images."""
    logger.warning(
        "%s: palettes of label images have black at another number than 0; black is where nothing"
        " is, and each other colour is an object",
        folder,
    )


def _are_whole(values: np.ndarray) -> bool:
    """Whether floats are whole numbers that a float64 can tell apart."""
    return bool((np.abs(values) < 2**53).all() and (values == np.floor(values)).all())


def _labels_of_lossy(image: Any, path: str) -> np.ndarray:
    """The numbers [H, W] int64 of a label image, a `PIL.Image.Image`, that has lost values.

    One of black and white is that of one object; Problem for another one.
    """
    both = utils.black_and_white(np.asarray(image.convert("RGB")))
    if both is None:
        raise Problem(
            f"expected a label image in a format without losses, PNG or TIFF. Received: {path},"
            f" a {image.format} whose numbers or colours its compression has changed"
        )
    _warn_of_two_values(os.path.dirname(path))
    return both.astype(np.int64)


@functools.cache
def _warn_of_two_values(folder: str) -> None:
    """Warns, once for each folder, that gray edges of its label images are halved."""
    logger.warning(
        "%s: label images of black and white were compressed with losses; what is"
        " brighter than half is taken for one object",
        folder,
    )


# A label image of 8 bits has soft edges if at least this many of its values, and this share of all
# its values, occur only between others.
SOFT_VALUES = 8
SOFT_SHARE = 0.5


def _soft_values(values: np.ndarray) -> str | None:
    """What is soft at the edges of a label image, [H, W] or [H, W, bands] uint8; None for nothing.

    A value of a soft edge has no pixel whose four neighbours equal it, and at least half of its
    pixels have both a smaller and a larger neighbour, or three values around them and no square of
    four pixels. A small object has only background around it, or such squares. Black and white that
    were compressed hardly have few such values.
    """
    from scipy import ndimage

    bands = np.atleast_3d(values)[..., :3]
    if (bands == bands[..., :1]).all():
        bands = bands[..., :1]  # gray
    height, width = bands.shape[:2]
    codes = np.zeros((height, width), np.int64)
    inner = np.ones((height, width), bool)
    between = np.zeros((height, width), bool)
    among_three = np.zeros((height, width), bool)
    cross = ndimage.generate_binary_structure(2, 1)
    for band in np.moveaxis(bands, -1, 0):
        codes = codes * 256 + band
        least = ndimage.minimum_filter(band, footprint=cross, mode="nearest")
        most = ndimage.maximum_filter(band, footprint=cross, mode="nearest")
        inner &= least == most
        least = ndimage.minimum_filter(band, 3, mode="nearest")
        most = ndimage.maximum_filter(band, 3, mode="nearest")
        between |= (least < band) & (band < most)
        around = np.pad(band, 1, mode="edge")
        for y, x in itertools.product(range(3), range(3)):
            neighbour = around[y : y + height, x : x + width]
            among_three |= (least < neighbour) & (neighbour < most)
    between |= among_three & ~_in_squares(codes)
    values, places, counts = np.unique(codes, return_inverse=True, return_counts=True)
    places = places.ravel()
    has_inner = np.bincount(places, inner.ravel()) > 0
    share = np.bincount(places, between.ravel()) / counts
    is_soft = ~has_inner & (share >= 0.5)
    soft = int(np.count_nonzero(is_soft))
    if soft >= max(SOFT_VALUES, SOFT_SHARE * len(values)):
        return f"of whose {len(values)} values {soft} lie along edges, between others"
    if bands.shape[-1] == 1 and _is_hard_compressed(values, has_inner):
        return f"with values beside black and white such as {values[1]} and {values[-2]}"
    return None


def _in_squares(codes: np.ndarray) -> np.ndarray:
    """Where an image [H, W] of numbers from 0 on has squares of four equal pixels, [H, W] bool."""
    from scipy import ndimage

    least = ndimage.minimum_filter(codes, 2, mode="constant", cval=-1)
    most = ndimage.maximum_filter(codes, 2, mode="constant", cval=-1)
    return ndimage.maximum_filter(least == most, 2, origin=-1, mode="constant")


def _is_hard_compressed(values: np.ndarray, has_inner: np.ndarray) -> bool:
    """Whether values are 0, 255, and what compression makes of them.

    Args:
        values: [N] int64, the values of a gray image, sorted.
        has_inner: [N] bool, whether a pixel's four neighbours equal it.
    """
    if len(values) < 4 or values[0] != 0 or values[-1] != 255:
        return False
    has_both = values[1] <= utils.CHANGED_BY_LOSSES and values[-2] >= 255 - utils.CHANGED_BY_LOSSES
    return bool(has_both and has_inner[0] and has_inner[-1] and not has_inner[1:-1].any())


def _pieces(shape: Any) -> int:
    """The number of connected pieces of a bitmap."""
    from scipy import ndimage

    return ndimage.label(shape.pixels, np.ones((3, 3)))[1]
