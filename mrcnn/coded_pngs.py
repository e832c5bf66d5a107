"""Reads PNGs whose values tell both class and object: MOTS, KITTI, ADE20K, BDD100K, Mapillary."""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from mrcnn import files, utils
from mrcnn.mask_files import CITYSCAPES_CLASSES, check_own_ids
from mrcnn.masks import encode_crops
from mrcnn.outlines import CocoSegmentation
from mrcnn.reading import (
    AnnotationError,
    Annotations,
    Entry,
    Problem,
    Reader,
    Region,
    annotated_size,
    class_name_of,
    field_or_none,
    load_json,
    values_of,
)

logger = logging.getLogger(__name__)

# Classes by their numbers in the PNGs.
MOTS_CLASSES = {1: "car", 2: "pedestrian"}
BDD_CLASSES = dict(enumerate("pedestrian rider car truck bus train motorcycle bicycle".split(), 1))
# The largest value of `_ranks_of` for which a table is made, of 8 bytes for each value.
LARGEST_TABLE = 2**24
# Data sets whose other classes are regions without instances, such as roads.
_WITH_REGIONS = ("KITTI", "Mapillary Vistas")
# The class number of regions of MOTS whose objects were not annotated.
MOTS_IGNORED = 10


@dataclasses.dataclass
class _Codes:
    """The values of a PNG.

    Attributes:
        class_ids: [H, W] int64, numbers of the classes; 0 where nothing is.
        numbers: [H, W] int64, the objects' numbers within their class.
        crowd: [H, W] bool, where a crowd is, or an object that is not evaluated.
    """

    class_ids: np.ndarray
    numbers: np.ndarray
    crowd: np.ndarray


@dataclasses.dataclass
class Layout:
    """A dataset of PNGs in a folder.

    Attributes:
        path: the folder.
        name: of the dataset, for messages.
        classes: {number: name}; empty if each PNG has names of its own, see `names_of`.
        pairs: (name of the image, its path or "" if it is missing, its PNG).
        bands: the number of a PNG's colours, 0 for a gray one.
        decode: the `_Codes` of a PNG's values.
        names_of: {number: name} of the classes of a PNG by its path; None for `classes`.
    """

    path: str
    name: str
    classes: dict[int, str]
    pairs: list[tuple[str, str, str]]
    bands: int
    decode: Callable[[np.ndarray], _Codes]
    names_of: Callable[[str], dict[int, str]] | None = None


# ---- Layouts -------------------------------------------------------------------------------------


def layout_in(path: str) -> Layout | None:
    """The dataset of MOTS, KITTI, ADE20K's instances, BDD100K or Mapillary Vistas in a folder.

    None for another. ADE20K itself is searched by `ade20k_in`.
    """
    for find in (_mots_in, _kitti_in, _ade_instances_in, _bdd_in, _vistas_in):
        layout = find(path)
        if layout is not None and layout.pairs:
            return layout
    return None


def _mots_in(path: str) -> Layout | None:
    """KITTI MOTS: instances/ and training/image_02/, with a folder for each video.

    MOTSChallenge, Datumaro and CVAT: instances/ and images/, in folders of subsets or not; the
    last two name their own classes in instances/labels.txt.
    """
    for masks, images in (
        ("instances", "training/image_02"),
        ("../instances", "image_02"),  # training/ itself
        ("instances", "image_02"),
    ):
        if masks != "../instances" or os.path.basename(os.path.abspath(path)) == "training":
            pairs = _pairs(os.path.join(path, images), os.path.join(path, masks))
            pairs = [pair for pair in pairs if "/" in pair[0]]
            if pairs:
                return Layout(path, "MOTS", MOTS_CLASSES, pairs, 0, _decode_mots)
    pairs = []
    classes: dict[int, str] = {}
    for subset in ("", *files.folders_in(path)):
        own_classes, own_pairs = _mots_of_subset(os.path.join(path, subset))
        if own_pairs and classes and own_classes != classes:
            raise AnnotationError(
                f"{path}: expected one list of classes in labels.txt of all subsets. Received:"
                f" {files.short(own_classes)} in {subset}, {files.short(classes)} before"
            )
        if own_pairs:
            classes = own_classes
            pairs += [(os.path.join(subset, name), image, mask) for name, image, mask in own_pairs]
    if not pairs:
        return None
    return Layout(path, "MOTS", classes, pairs, 0, _decode_mots)


def _mots_of_subset(path: str) -> tuple[dict[int, str], list[tuple[str, str, str]]]:
    """The classes and `_pairs` of instances/ and images/ in a folder; none of another layout."""
    masks = os.path.join(path, "instances")
    pairs = _pairs(os.path.join(path, "images"), masks)
    labels = os.path.join(masks, "labels.txt")
    if pairs and os.path.isfile(labels):
        lines = [line.strip() for line in files.read_text(labels).splitlines()]
        return {number: name for number, name in enumerate(lines, 1) if name}, pairs
    # Without names they are MOTSChallenge's, whose videos have folders.
    return {2: MOTS_CLASSES[2]}, [pair for pair in pairs if "/" in pair[0]]


def _kitti_in(path: str) -> Layout | None:
    """KITTI's instances of 2015: instance/ and image_2/, below training/ or not."""
    for root in (path, os.path.join(path, "training")):
        pairs = _pairs(os.path.join(root, "image_2"), os.path.join(root, "instance"))
        if pairs:
            check_own_ids(root, "KITTI's")
            return Layout(path, "KITTI", CITYSCAPES_CLASSES, pairs, 0, _decode_kitti)
    return None


def _ade_instances_in(path: str) -> Layout | None:
    """ADE20K's Scene Parsing instances: annotations_instance/ and images/, with sub-folders."""
    pairs = _pairs(os.path.join(path, "images"), os.path.join(path, "annotations_instance"))
    if not pairs:
        return None
    file = os.path.join(path, "imgCatIds.json")
    if not os.path.isfile(file):
        classes = {number: f"class {number}" for number in range(1, 101)}
        logger.warning(
            "%s: no imgCatIds.json names the 100 classes; they are called by their numbers", path
        )
        return Layout(path, "ADE20K", classes, pairs, 3, _decode_ade_instances)
    classes = {}
    for item in values_of(field_or_none(load_json(file), "categories")):
        number = field_or_none(item, "id")
        if isinstance(number, int):
            try:
                classes[number] = class_name_of(item.get("name"), "a category's name")
            except Problem as error:
                raise AnnotationError(f"{file}: category {number}: {error}") from error
    if not classes:
        raise AnnotationError(f"{file}: expected categories with id and name. Received: none")
    return Layout(path, "ADE20K", classes, pairs, 3, _decode_ade_instances)


def _bdd_in(path: str) -> Layout | None:
    """BDD100K's bitmasks, without its polygons: labels/<task>/bitmasks/ and images/<set>/."""
    for task, images in (("ins_seg", "10k"), ("seg_track_20", "seg_track_20")):
        labels = os.path.join(path, "labels", task)
        if os.path.isdir(os.path.join(labels, "polygons")):
            continue
        pairs = _pairs(os.path.join(path, "images", images), os.path.join(labels, "bitmasks"))
        if pairs:
            return Layout(path, "BDD100K", BDD_CLASSES, pairs, 4, _decode_bdd)
    return None


def _vistas_in(path: str) -> Layout | None:
    """Mapillary Vistas: training/ and validation/ with images/ and <version>/instances/.

    config_<version>.json in the folder names the classes; those without instances are left out.
    One of the two sub-folders may be given as well.
    """
    root, own_name = os.path.split(os.path.abspath(path))
    subsets: tuple[str, ...] = (own_name,)
    if own_name not in ("training", "validation"):
        root = path
        subsets = ("training", "validation")
    for version in ("v2.0", "v1.2"):
        file = os.path.join(root, f"config_{version}.json")
        pairs = []
        for subset in subsets:
            folder = os.path.join(root, subset)
            masks = os.path.join(folder, version, "instances")
            for name, image, mask in _pairs(os.path.join(folder, "images"), masks):
                pairs.append((f"{subset}/{name}", image, mask))
        if pairs and os.path.isfile(file):
            labels = field_or_none(load_json(file), "labels")
            classes = {}
            for number, item in enumerate(values_of(labels), 1):
                if field_or_none(item, "instances"):
                    name = item.get("readable") or item.get("name")
                    classes[number] = class_name_of(name, f"the name of class {number} in {file}")
            if classes:
                return Layout(path, "Mapillary Vistas", classes, pairs, 0, _decode_vistas)
    return None


def ade20k_in(path: str) -> Layout | None:
    """ADE20K's images with ..._seg.png and .json beside them, in a folder or below it."""
    pairs = []
    for folder, folders, names in os.walk(path):
        folders.sort()
        present = set(names)
        for name in sorted(names):
            stem = name.removesuffix("_seg.png")
            if stem == name or f"{stem}.json" not in present:
                continue
            image = os.path.join(folder, f"{stem}.jpg")
            if not _is_of_ade20k(os.path.join(folder, f"{stem}.json")):
                return None
            mask = os.path.join(folder, name)
            if not os.path.isfile(image):
                image = ""
            pairs.append((f"{stem}.jpg", image, mask))  # the names differ in all folders
    if not pairs:
        return None
    return Layout(path, "ADE20K", {}, pairs, 3, _decode_ade20k, _names_of_ade20k)


def _is_of_ade20k(file: str) -> bool:
    """Whether a json has ADE20K's objects of an image."""
    try:
        annotation = field_or_none(load_json(file), "annotation")
    except AnnotationError:
        return False
    return isinstance(field_or_none(annotation, "object"), list)


def _pairs(images: str, masks: str) -> list[tuple[str, str, str]]:
    """(name, image, PNG) of the PNGs in a folder and below, with the image at the same place.

    The name is the image's path in its folder; the image is "" if there is none.
    """
    if not os.path.isdir(images) or not os.path.isdir(masks):
        return []
    by_stem = {}
    for name in files.walk_images(images):
        by_stem[os.path.splitext(name.replace("\\", "/"))[0]] = name.replace("\\", "/")
    pairs = []
    for folder, folders, names in os.walk(masks):
        folders.sort()
        for name in sorted(names):
            if not name.lower().endswith(".png"):
                continue
            mask = os.path.join(folder, name)
            stem = pathlib.PurePath(os.path.relpath(mask, masks)).with_suffix("").as_posix()
            image = ""
            if stem in by_stem:
                image = os.path.join(images, by_stem[stem])
            pairs.append((by_stem.get(stem, f"{stem}.png"), image, mask))
    if not any(image for _, image, _ in pairs):
        return []
    return pairs


# ---- Values of PNGs ------------------------------------------------------------------------------


def _decode_mots(values: np.ndarray) -> _Codes:
    """1000 times the class plus the number; class 10 is a region without annotations."""
    without_class = values[(values > 0) & (values < 1000)]
    if without_class.size:
        raise Problem(
            "expected 1000 times the class plus the object's number. Received:"
            f" {without_class.min()}"
        )
    class_ids = values // 1000
    return _Codes(class_ids, values % 1000, class_ids == MOTS_IGNORED)


def _decode_kitti(values: np.ndarray) -> _Codes:
    """256 times the class plus the number; 0 for objects that were not separated."""
    return _Codes(values // 256, values % 256, values % 256 == 0)


def _decode_vistas(values: np.ndarray) -> _Codes:
    """256 times the class, which counts from 0, plus the number."""
    return _Codes(values // 256 + 1, values % 256, np.zeros(values.shape, bool))


def _decode_ade_instances(values: np.ndarray) -> _Codes:
    """Red is the class, green the number."""
    return _Codes(values[..., 0], values[..., 1], np.zeros(values.shape[:2], bool))


def _decode_ade20k(values: np.ndarray) -> _Codes:
    """Red / 10 * 256 + green is the class, blue the number."""
    class_ids = values[..., 0] // 10 * 256 + values[..., 1]
    return _Codes(class_ids, values[..., 2], np.zeros(values.shape[:2], bool))


def _decode_bdd(values: np.ndarray) -> _Codes:
    """Red is the class, bits 0 and 1 of green ignored and crowd, blue and alpha the number."""
    return _Codes(values[..., 0], values[..., 2] * 256 + values[..., 3], (values[..., 1] & 3) > 0)


def _read_values(path: str, layout: Layout) -> _Codes:
    """The codes of a PNG; Problem for another file, or one of other colours."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            is_lossy = utils.is_lossy(image, path)
            values = np.asarray(image).astype(np.int64)
    except Exception as error:  # Pillow raises many types for a damaged file
        raise Problem(
            f"expected a PNG of classes and objects. Received: {path}: {error}"
        ) from error
    bands = 0
    if values.ndim == 3:
        bands = values.shape[-1]
    if is_lossy or bands != layout.bands:
        raise Problem(
            f"expected a PNG of classes and objects with {layout.bands} colours (0: gray), as"
            f" {layout.name} has it. Received: {path} with {bands}, lossy: {is_lossy}"
        )
    return layout.decode(values)


def _names_of_ade20k(mask: str) -> dict[int, str]:
    """{number: name} of the classes of an image, from the json beside its PNG."""
    file = mask.removesuffix("_seg.png") + ".json"
    try:
        annotation = field_or_none(load_json(file), "annotation")
    except AnnotationError as error:
        raise Problem(str(error)) from error
    names = {}
    for item in values_of(field_or_none(annotation, "object")):
        number = field_or_none(item, "name_ndx")
        if isinstance(number, int):
            names[number] = class_name_of(item.get("name"), f"the name of class {number} in {file}")
    return names


# ---- Reading -------------------------------------------------------------------------------------


def read_coded_pngs(layout: Layout, keep_empty: bool = False) -> Annotations:
    """Reads the objects of a dataset of PNGs.

    Pixels of one class and one number are an object. Crowds, and in MOTS regions whose objects were
    not annotated, are crowds; the latter of each class. ADE20K has regions such as wall and sky as
    objects, too.

    Args:
        layout: from `layout_in` or `ade20k_in`.
        keep_empty: also returns images without objects.

    Raises:
        AnnotationError: no image can be used.
    """
    reader = Reader(layout.path, None, keep_empty)
    unnamed: dict[int, None] = {}
    for name, image, mask in layout.pairs:
        try:
            if not image:
                raise Problem(f"expected the image of {mask}. Received: no file")
            codes = _read_values(mask, layout)
            height, width = codes.class_ids.shape
            size = annotated_size(image, image, (height, width))
            names = layout.classes
            if layout.names_of is not None:
                names = layout.names_of(mask)
            regions = list(_regions_of(codes, names, unnamed))
        except Problem as error:
            reader.problem(f"image {name!r}", str(error))
            continue
        annotated = bool(regions)
        if layout.name not in _WITH_REGIONS:  # an object of an unknown class is no background
            annotated = bool((codes.class_ids > 0).any())
        reader.add(Entry(name, regions, size, file=image), annotated=annotated)
    if unnamed and layout.name not in _WITH_REGIONS:
        logger.warning(
            "%s: pixels of classes that %s does not name are left out: %s",
            layout.path,
            layout.name,
            files.several(sorted(unnamed)),
        )
    if layout.classes:
        return reader.finish(list(dict.fromkeys(layout.classes.values())))
    return reader.finish()


def _regions_of(codes: _Codes, names: dict[int, str], unnamed: dict[int, None]) -> Iterator[Region]:
    """The objects of a PNG. unnamed: numbers of classes without a name; edited."""
    for (class_id, number, is_crowd), segmentation in _objects_in(codes):
        shape = CocoSegmentation({"segmentation": segmentation})
        if class_id in names:
            yield Region(names[class_id], shape, is_crowd, f"{class_id}/{number}")
        elif class_id == MOTS_IGNORED and is_crowd and set(names) <= set(MOTS_CLASSES):
            for name in names.values():
                yield Region(name, shape, True, "ignored")
        else:
            unnamed[class_id] = None


def _objects_in(codes: _Codes) -> Iterator[tuple[tuple[int, int, bool], dict]]:
    """((class, number, whether a crowd), run lengths) of the objects, in the order of these.

    Run lengths, since the bitmaps of a data set of large images don't fit in memory.
    """
    from scipy import ndimage

    count = int(codes.numbers.max(initial=0)) + 1
    joined = (codes.class_ids * count + codes.numbers) * 2 + codes.crowd
    values, places = _ranks_of(joined)
    boxes = ndimage.find_objects(places + 1)
    for rank, (value, (rows, columns)) in enumerate(zip(values.tolist(), boxes, strict=True)):
        code = (value // 2 // count, value // 2 % count, bool(value % 2))
        if code[0]:
            box = (rows.start, columns.start, rows.stop, columns.stop)
            (segmentation,) = encode_crops(
                [(box, places[rows, columns] == rank)], codes.class_ids.shape
            )
            yield code, segmentation


def _ranks_of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values of an array of whole numbers from 0, sorted, and each one's rank.

    As `np.unique` with `return_inverse`; without sorting where the largest value is not too large,
    which takes a tenth of the time.

    Returns:
        [N] int64; int64 of the shape of `values`.
    """
    largest = int(values.max(initial=0))
    if largest > LARGEST_TABLE:
        distinct, ranks = np.unique(values, return_inverse=True)
        return distinct, ranks.reshape(values.shape)
    is_there = np.zeros(largest + 1, bool)
    is_there[values.ravel()] = True
    ranks = np.cumsum(is_there) - 1
    return np.flatnonzero(is_there), ranks[values]
