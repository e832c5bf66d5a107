"""Reads YOLO's labels of segmentation and boxes, with a parser for the YAML of their data.yaml."""

import collections
import json
import logging
import math
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from mrcnn import coco, files
from mrcnn.masks import finite_number
from mrcnn.outlines import Polygons, Rectangle
from mrcnn.reading import (
    AnnotatedImage,
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


YAML_SUFFIXES = (".yaml", ".yml")
# How far coordinates may lie outside the image by rounding, as a fraction of its sides.
_ROUNDING = 0.01


def read_yolo(path: Any, images: Any = None, keep_empty: bool = False) -> Annotations:
    """Reads YOLO's text labels: a line `class x1 y1 x2 y2 ...` in 0..1 for each object.

    A line of a class and four numbers is a box, which becomes the object's shape, with a warning;
    so does the box of a pose, if the data.yaml has `kpt_shape` or the numbers show it. The names of
    the classes are taken from the data.yaml, obj.names, classes.txt or darknet.labels; without
    these, classes are named by their numbers.

    Args:
        path: the folder, or its data.yaml. Labels lie beside their images, or in labels/... for
            images in images/...
        images: folder of the images; None for those in the folder.
        keep_empty: also returns images without objects.

    Returns:
        `Annotations` of the images of all subsets.

    Raises:
        AnnotationError: there are no labels, or none can be used.
    """
    path = os.fspath(path)
    root = path
    if not os.path.isdir(path):
        if not os.path.isfile(path):
            raise AnnotationError(f"No annotation file or folder {path}")
        root = _yolo_root(path)
    names = _yolo_names(path)
    keypoints = _yolo_keypoints(path)
    reader = Reader(root, images, keep_empty)
    reader.path = path
    place = os.fspath(images or root)
    # The labels of images in a sub-folder may lie elsewhere: train/images, train/labels.
    bases = [place]
    if is_inside(place, root):
        bases.insert(0, root)
    labels = _label_files(root)
    boxes = 0
    image_names = sorted(files.walk_images(place))
    label_of = _labels_of(image_names, place, bases, labels, path)
    used = set(label_of.values())
    entries = [(name, os.path.join(place, name), label_of.get(name)) for name in image_names]
    if images is None:
        entries += _yolo_elsewhere(path, root, set(image_names))
        used.update(label for _, _, label in entries if label is not None)
    if not keypoints:
        keypoints = _keypoints_shown(path, sorted(label for label in used if label is not None))
    for relative, file, label in entries:
        if label is None and not keep_empty:
            continue
        try:
            size = annotated_size(file, file, None)
        except Problem as error:
            reader.problem(f"image {relative!r}", str(error))
            continue
        regions: list[Region] = []
        lines: list[str] = []
        if label is not None:
            lines = _label_lines(reader, label)
            label_place = f"file {os.path.relpath(label, root)}"
            read_region = _yolo_reader(names, size, keypoints)
            regions = list(reader.regions(label_place, enumerate(lines, 1), read_region))
            boxes += sum(isinstance(region.shape, Rectangle) for region in regions)
        reader.add(Entry(relative, regions, size, file=file), annotated=bool(lines))
    if entries and not used:
        reader.problem(
            "labels",
            f"expected text files of the images' names. Received: none for any of {len(entries)}"
            f" images, {len(labels)} text files",
        )
    if not entries:
        missing = _missing_places(path)
        if missing:
            reader.problem("data.yaml", f"expected what it names. Received: nothing at {missing}")
    for label in _unused_labels(labels, used, only_near=images is not None):
        if _looks_like_labels(label):
            reader.problem(
                f"file {os.path.relpath(label, root)}",
                "expected an image of its name in the folder",
            )
    if boxes:
        logger.warning("%s: %d objects are boxes without an outline", path, boxes)
    return reader.finish(names or None)


# ---- Images and names in a data.yaml -------------------------------------------------------------


# {subset: keys of its images in a data.yaml}.
_YOLO_SUBSETS = {**coco.SUBSET_WORDS, "test": coco.OTHER_SUBSETS[:2]}


def _yolo_elsewhere(path: str, root: str, taken: set[str]) -> list[tuple[str, str, str | None]]:
    """(name, image, its label file or None) of the images outside a folder that a yaml names.

    As in YOLO's own programs, the labels of .../images/a.jpg are .../labels/a.txt, or beside it.

    Args:
        path: the yaml, or the folder.
        root: the folder.
        taken: names of the folder's own images; those of the images are added.
    """
    file = _yaml_of(path)
    if file is None:
        return []
    bases = _bases_of_yaml(file)
    outside: dict[str, str] = {}
    for subset, places in _places_in_yaml(file).items():
        for place in sorted(places):
            for image, below in _images_of_place(_place_of_yaml(place, bases)):
                # A link inside the folder counts as one of its own images.
                if not is_inside(image, os.path.realpath(root)) and image not in outside:
                    outside[image] = f"{subset}/{below}"
    elsewhere: list[tuple[str, str, str | None]] = []
    for image, name in outside.items():
        if name in taken:
            name = image
        taken.add(name)
        elsewhere.append((name, image, _yolo_label_of(image)))
    if elsewhere:
        logger.warning(
            "%s: %d images lie outside of %s, where %s names them: %s",
            path,
            len(elsewhere),
            root,
            os.path.basename(file),
            files.several(image for _, image, _ in elsewhere),
        )
    return elsewhere


def _missing_places(path: str) -> str:
    """The folders and lists in a data.yaml that don't exist, for messages; "" for none."""
    file = _yaml_of(path)
    if file is None:
        return ""
    places = sorted(set().union(*_places_in_yaml(file).values()))
    return files.several(
        place for place in places if not _place_of_yaml(place, _bases_of_yaml(file))
    )


def _yaml_of(path: str) -> str | None:
    """The path if it is a yaml, or the yaml of a folder; None if there is none."""
    if os.path.isdir(path):
        return _yaml_in(path)
    return path


def _bases_of_yaml(file: str) -> list[str]:
    """The folders that paths in a data.yaml may be relative to."""
    return list(dict.fromkeys((_yolo_root(file), os.path.dirname(file) or ".")))


def _places_in_yaml(file: str) -> dict[str, set[str]]:
    """{subset: folders and lists of images} of a data.yaml; AnnotationError if it is no text."""
    try:
        text = files.read_text(file)
        return {
            subset: {place for yaml_key in keys for place in _yaml_list(text, yaml_key)}
            for subset, keys in _YOLO_SUBSETS.items()
        }
    except ValueError as error:
        raise AnnotationError(f"{file}: {error}") from error


def _images_of_place(place: str) -> list[tuple[str, str]]:
    """(path, name) of the images in a folder, or of the existing images in a list."""
    if os.path.isdir(place):
        return [(os.path.join(place, name), name) for name in sorted(files.walk_images(place))]
    if not os.path.isfile(place):
        return []
    listed = sorted(image for image in _listed_images(place) if os.path.isfile(image))
    return [(image, os.path.basename(image)) for image in listed if files.is_image_name(image)]


def _yolo_root(path: str) -> str:
    """The folder of a yaml's data: the one under its key `path`, otherwise the yaml's folder."""
    yaml_folder = os.path.dirname(path) or "."
    for line in _yaml_lines(files.read_text(path)):
        if re.match(r"path\s*:", line):
            target = _unquoted(line.partition(":")[2].strip())
            for place in (os.path.join(yaml_folder, target), target):
                if target and os.path.isdir(place) and not _has_labels(yaml_folder):
                    return os.path.normpath(place)
    return yaml_folder


def is_yolo(path: str) -> bool:
    """Whether a folder is YOLO's: it has a data.yaml with names, or text files of labels."""
    return _yaml_in(path) is not None or _has_labels(path)


def yolo_subset(annotated: Annotations, path: Any, subset: str) -> list[AnnotatedImage]:
    """The images of a subset, which a data.yaml names by folders or by text files of paths.

    Args:
        annotated: what `read_yolo` returned.
        path: the folder, or its data.yaml.
        subset: "train" or "val".

    Returns:
        The images; empty if there is no yaml, or if it does not name the subset or has the same
        places for training and validation, as some programs write since YOLO requires both.
    """
    file = _yaml_of(os.fspath(path))
    if file is None:
        return []
    places = _places_in_yaml(file)
    if places["train"] == places["val"]:
        return []
    bases = _bases_of_yaml(file)
    folders: set[str] = set()
    listed: set[str] = set()
    for place in sorted(places[subset]):
        real_path = _place_of_yaml(place, bases)
        if os.path.isdir(real_path):
            folders.add(real_path)
        elif os.path.isfile(real_path):
            listed |= _listed_images(real_path)
    chosen = []
    for image in annotated.images:
        # The image may be a link to another folder than the one that it is listed in.
        image_path = _without_links(image.path)
        if image_path in listed or any(is_inside(image_path, folder) for folder in folders):
            chosen.append(image)
    if places[subset] and not chosen:
        logger.warning(
            "%s: %s names no images that are in the folder: %s",
            file,
            subset,
            files.several(sorted(places[subset])),
        )
    return chosen


def _place_of_yaml(place: str, bases: list[str]) -> str:
    """The real path of a path in a yaml; "" if it doesn't exist.

    Roboflow's yaml says ../train/images for the train/images beside it. That is tried first: the
    literal path may exist as well and be another export's.
    """
    candidates = [place.replace("\\", "/")]
    while candidates[-1].startswith("../"):
        candidates.append(candidates[-1].removeprefix("../"))
    if len(candidates) > 1:
        candidates = [candidates[-1], *candidates[:-1]]
    for candidate in candidates:
        for base in bases:
            path = os.path.join(base, candidate)
            if candidate and os.path.exists(path):
                return os.path.realpath(path)
    return ""


def _listed_images(path: str) -> set[str]:
    """The paths in the lines of a text file, which are relative to its folder."""
    folder = os.path.dirname(path)
    lines = [line.strip() for line in files.read_text(path).splitlines()]
    return {_without_links(os.path.join(folder, line)) for line in lines if line}


def _without_links(path: str) -> str:
    """A file's path with the real path of its folder; a link to the file itself is kept."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def _yaml_in(folder: str) -> str | None:
    """The yaml file of a folder that names classes; None if there is none.

    AnnotationError if there is none and the names in a yaml can't be parsed.
    """
    errors = []
    for name in sorted(os.listdir(folder)):
        file = os.path.join(folder, name)
        if name.lower().endswith(YAML_SUFFIXES) and os.path.isfile(file):
            try:
                if _names_of_yaml(file):
                    return file
            except AnnotationError as error:
                errors.append(error)
    if errors:  # without its names the classes would be named by numbers
        raise errors[0]
    return None


def _names_of_yaml(file: str) -> list[str]:
    """The names of classes in a yaml, see `_yaml_names`; AnnotationError for invalid ones."""
    try:
        return _yaml_names(files.read_text(file))
    except ValueError as error:
        raise AnnotationError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from error


def _yolo_names(path: str) -> list[str]:
    """Names by class number, from the yaml, obj.names or classes.txt; empty if there are none.

    path: the yaml, or the folder.
    """
    file = _yaml_of(path)
    if file is not None:
        names = _names_of_yaml(file)
        if not names:
            raise AnnotationError(f"{file}: expected the classes' names under 'names'")
        return _distinct(names, file)
    for name in ("obj.names", "classes.txt", "labels/classes.txt", "darknet.labels"):
        file = os.path.join(path, name)
        if os.path.isfile(file):
            return _distinct(files.read_text(file).rstrip().splitlines(), file)
    logger.warning("%s: no data.yaml or classes.txt names the classes; they are numbers", path)
    return []


def _yolo_keypoints(path: str) -> int:
    """Count of the numbers of an object's keypoints by the yaml's kpt_shape; 0 without it."""
    file = _yaml_of(path)
    if file is None:
        return 0
    try:
        shape = _yaml_list(files.read_text(file), "kpt_shape")
    except ValueError as error:
        raise AnnotationError(f"{file}: {error}") from error
    if not shape:
        return 0
    if len(shape) != 2 or not all(text.isdecimal() and int(text) for text in shape):
        raise AnnotationError(
            f"{file}: expected kpt_shape as [keypoints, 2 or 3]. Received: {files.short(shape)}"
        )
    return int(shape[0]) * int(shape[1])


# So many label files, spread over all, show whether objects are poses.
_FILES_OF_POSES = 200
# Of keypoints without visibility this share lies in the boxes before them, and of the boxes a
# quarter, at least 3, have a width and height that is not itself a point in the box.
_POSES_SHARE = 0.9
_POSES_APART = 3


def _keypoints_shown(path: str, labels: list[str]) -> int:
    """Count of the numbers of an object's keypoints where the labels show poses; 0 otherwise.

    Without kpt_shape in a yaml a pose's line, a box and its keypoints, would be a polygon. A
    warning says what is taken for poses.

    path: the yaml, or the folder. labels: paths of label files.
    """
    rows = []
    for label in labels[:: len(labels) // _FILES_OF_POSES + 1]:
        try:
            text = files.read_text(label)
        except (OSError, ValueError):  # reported where the file is read
            continue
        rows += [line.split() for line in text.splitlines() if line.strip()]
    if len({len(row) for row in rows}) != 1:
        return 0
    try:
        values = np.array(rows, float)[:, 1:]
    except ValueError:
        return 0
    for dimensions, are_poses in ((3, _are_visible_points), (2, _are_points_in_boxes)):
        if (values.shape[1] - 4) % dimensions == 0 and values.shape[1] > 4 and are_poses(values):
            logger.warning(
                "%s: the %d numbers behind the class are taken for a box and %d keypoints of %d"
                " numbers: a pose, of which no kpt_shape in a data.yaml tells",
                path,
                values.shape[1],
                (values.shape[1] - 4) // dimensions,
                dimensions,
            )
            return values.shape[1] - 4
    return 0


def _boxes_in_image(values: np.ndarray) -> np.ndarray:
    """Where the first four numbers of lines [N, M] are a box inside the image: [N] bool."""
    centers, sides = values[:, :2], values[:, 2:4]
    is_inside_image = (centers - sides / 2 >= -_ROUNDING) & (centers + sides / 2 <= 1 + _ROUNDING)
    return (is_inside_image & (sides > 0)).all(axis=1)


def _are_visible_points(values: np.ndarray) -> bool:
    """Whether lines [N, 4 + 3 K] are boxes and x, y and a visibility of 0, 1 or 2."""
    points = values[:, 4:].reshape(len(values), -1, 3)
    return bool(np.isin(points[..., 2], (0, 1, 2)).all() and _boxes_in_image(values).all())


def _are_points_in_boxes(values: np.ndarray) -> bool:
    """Whether lines [N, 4 + 2 K] are boxes and points in them; 0 0 is a point that is missing.

    In a polygon the second point is near the others, but a box's width and height is no point.
    """
    points = values[:, 4:].reshape(len(values), -1, 2)
    if points.shape[1] < 2:
        return False
    centers, sides = values[:, None, :2], values[:, None, 2:4]
    is_in_box = (np.abs(points - centers) <= sides / 2 + _ROUNDING).all(axis=2)
    is_pose = (is_in_box | ~points.any(axis=2)).all(axis=1) & _boxes_in_image(values)
    apart = (np.abs(sides - centers) > sides / 2 + _ROUNDING).any(axis=2)[:, 0]
    needed = max(_POSES_APART, len(values) / 4)
    return bool(is_pose.mean() >= _POSES_SHARE and np.count_nonzero(apart & is_pose) >= needed)


def _distinct(names: list[str], file: str) -> list[str]:
    """The names without spaces around them; AnnotationError if one is repeated."""
    stripped = []
    for number, name in enumerate(names):
        try:
            stripped.append(class_name_of(name, f"the name of class {number}"))
        except Problem as error:
            raise AnnotationError(f"{file}: {error}") from error
    repeated = [name for name, count in collections.Counter(stripped).items() if count > 1]
    if repeated:
        raise AnnotationError(
            f"{file}: expected each class's name once. Received: {files.several(repeated)} twice"
        )
    return stripped


# ---- Label files ---------------------------------------------------------------------------------


def _label_files(root: str) -> dict[str, str]:
    """{path in the folder without labels/ and suffix: file} of the text files in a folder.

    Links to folders are followed, up to `files.DEEPEST` in one path, except to a folder that
    contains the link. A folder with a link to it is listed under both names, since either may match
    the images' names.
    """
    label_files = {}
    pending = [(root, [_device_and_number(root)], 0)]
    while pending:
        folder, parents, links = pending.pop()
        try:
            with os.scandir(folder or ".") as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:  # a folder without permission, or one that was removed
            continue
        subfolders = []
        for entry in entries:
            path = os.path.join(folder, entry.name)
            if entry.is_dir():
                if not entry.name.startswith("."):
                    identity = _device_and_number(path)
                    link_count = links + entry.is_symlink()
                    if identity not in parents and link_count <= files.DEEPEST:
                        subfolders.append((path, [*parents, identity], link_count))
            elif _is_label_name(entry.name):
                label_files[_key_of(path, root)] = path
        pending += reversed(subfolders)
    return label_files


def _is_label_name(name: str) -> bool:
    """Whether a file may hold labels."""
    return name.lower().endswith(".txt") and name.lower() not in ("classes.txt", "readme.txt")


def _device_and_number(path: str) -> tuple[int, int] | None:
    """A key that is equal for all names of a folder; None if it doesn't exist."""
    try:
        status = os.stat(path or ".")
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _key_of(file: str, root: str) -> str:
    """The key of an image and its labels: the path without images/, labels/ and suffix."""
    parts = pathlib.Path(os.path.relpath(file, root)).with_suffix("").parts
    places = ("labels", *(name.lower() for name in files.IMAGE_FOLDERS))
    return "/".join(part for part in parts if part.lower() not in places)


def _label_of(image: str, bases: list[str], labels: dict[str, str]) -> str | None:
    """The label file of an image; None if there is none.

    bases: the folders that its path may be relative to, the likelier ones first.
    """
    beside = os.path.splitext(image)[0] + ".txt"
    if os.path.isfile(beside):
        return beside
    for base in bases:
        label = labels.get(_key_of(image, base))
        if label is not None:
            return label
    return None


def _yolo_label_of(image: str) -> str | None:
    """The label file of an image by YOLO's own rule; None if it doesn't exist."""
    stem = os.path.splitext(image)[0]
    before, folder, after = stem.rpartition(f"{os.sep}images{os.sep}")
    for label in (f"{before}{os.sep}labels{os.sep}{after}.txt", f"{stem}.txt"):
        if (folder or label.startswith(stem)) and os.path.isfile(label):
            return label
    return None


def _labels_of(
    image_names: list[str],
    place: str,
    bases: list[str],
    labels: dict[str, str],
    path: str,
) -> dict[str, str]:
    """{image: its label file} of the images that have one.

    Label files without an image of the same name are assigned to images of their folder without
    labels by the rules of `files.find_images`, with one warning: A.txt to a.jpg, and also a.jpg.txt
    and Label Studio's 1a2b3c4d-a.txt.

    Args:
        image_names: paths of the images, relative to the folder `place`.
        place: the folder of the images.
        bases: see `_label_of`.
        labels: from `_label_files`.
        path: path of the data, for the warning.
    """
    chosen = {}
    for relative in image_names:
        label = _label_of(os.path.join(place, relative), bases, labels)
        if label is not None:
            chosen[relative] = label
    unmatched = {}
    for label in _unused_labels(labels, set(chosen.values()), only_near=False):
        if len(chosen) < len(image_names) and _looks_like_labels(label):
            unmatched[_key_of(label, bases[0])] = label
    if not unmatched:
        return chosen
    endings = sorted({os.path.splitext(name)[1] for name in image_names})
    possible_names = {key: [key + ending for ending in endings] for key in unmatched}
    renamed = {}
    for key, file in files.find_images(list(unmatched), [place], possible_names).paths.items():
        relative = os.path.relpath(file, place)
        folders = {os.path.dirname(_key_of(file, base)).casefold() for base in bases}
        if relative not in chosen and os.path.dirname(key).casefold() in folders:
            renamed[relative] = unmatched[key]
    if renamed:
        pairs = [f"{label} is that of {name}" for name, label in renamed.items()]
        logger.warning(
            "%s: %d label files have other names than their images: %s",
            path,
            len(renamed),
            files.several(pairs),
        )
    return {**chosen, **renamed}


def _unused_labels(labels: dict[str, str], used: set[str], only_near: bool) -> list[str]:
    """The label files without an image, sorted.

    Args:
        labels: from `_label_files`.
        used: the label files with an image.
        only_near: only those in folders with a used file, if only some images were searched for.
    """
    # A folder with a link to it has two names.
    used_real = {os.path.realpath(file) for file in used}
    used_folders = {os.path.dirname(file) for file in used}
    unused = []
    for file in sorted(set(labels.values()) - used):
        if only_near and os.path.dirname(file) not in used_folders:
            continue
        if os.path.realpath(file) not in used_real:
            unused.append(file)
    return unused


def _has_labels(folder: str) -> bool:
    """Whether a folder has a text file of labels."""
    return any(_looks_like_labels(label) for label in _label_files(folder).values())


def _looks_like_labels(path: str) -> bool:
    """Whether the first line of a text file is a class and numbers; False for an empty file."""
    try:
        with open(path, "rb") as file:
            beginning = file.read(100_000)
        # The bytes read may end within a character.
        text = beginning.decode(json.detect_encoding(beginning), "ignore")
        numbers = [float(word) for word in text.split("\n")[0].split()]
    except (ValueError, OSError):
        return False
    if len(numbers) < 5 or not all(map(math.isfinite, numbers)):
        return False
    # The third number of a visible keypoint is 2; the first four numbers are the box.
    return numbers[0].is_integer() and max(numbers[1:5]) < 2


# ---- Objects of a label file ---------------------------------------------------------------------


def _label_lines(reader: Reader, path: str) -> list[str]:
    """The non-empty lines of a label file; none, with a problem recorded, if it is no text."""
    try:
        return [line for line in files.read_text(path).splitlines() if line.strip()]
    except ValueError as error:
        reader.problem("labels", str(error))
        return []


def _yolo_reader(
    names: list[str], size: tuple[int, int], keypoints: int = 0
) -> Callable[[str], Region]:
    """A function that returns the `Region` of a line.

    Args:
        names: names of the classes; empty if they are named by numbers.
        size: (height, width) of the image.
        keypoints: count of the numbers after each object's box; 0 without keypoints.
    """
    height, width = size

    def read(line: str) -> Region:
        numbers = [finite_number(word) for word in line.split()]
        if None in numbers or len(numbers) < 5:
            raise Problem(
                "expected a class and the numbers of an outline. Received: " + files.short(line)
            )
        first, *values = map(float, numbers)  # type: ignore[arg-type]
        if keypoints:
            if len(values) not in (4, 4 + keypoints):
                raise Problem(
                    f"expected a class, a box and the {keypoints} numbers of kpt_shape. Received:"
                    f" {len(values)} numbers behind the class"
                )
            values = values[:4]
        if first < 0 or first != int(first) or (names and first >= len(names)):
            raise Problem(f"expected a class from 0 to {len(names) - 1}. Received: {first:g}")
        if min(values) < -_ROUNDING or max(values) > 1 + _ROUNDING:
            raise Problem(
                "expected numbers from 0 to 1, shares of the image's sides. Received: "
                f"{min(values):g} to {max(values):g}"
            )
        name = str(int(first))
        if names:
            name = names[int(first)]
        if len(values) == 4:
            x, y, w, h = values
            corners = ((x - w / 2) * width, (y - h / 2) * height)
            return Region(name, Rectangle(*corners, (x + w / 2) * width, (y + h / 2) * height))
        if len(values) < 6 or len(values) % 2:
            hint = ""
            if len(values) % 2:
                hint = ", of which the last may be a confidence (save_conf=True)"
            raise Problem(
                f"expected a class and the x and y of at least 3 points. Received: {len(values)}"
                f" numbers behind the class{hint}"
            )
        points = [[x * width, y * height] for x, y in zip(values[::2], values[1::2])]
        return Region(name, Polygons([points], exact=True))

    return read


# ---- The subset of YAML in a data.yaml -----------------------------------------------------------


def _yaml_names(text: str) -> list[str]:
    """The list of names, or the numbered names, under the key `names` of a yaml; empty without.

    The forms of yaml that data files use are read: [a, b], {0: a, 1: b}, and both of these line by
    line, quoted or not, with comments.
    """
    value, below = _yaml_entry(text, "names")
    if value[:1] in ("[", "{"):
        return _numbered(_yaml_parts(value), value[0] == "{")
    if value:
        raise ValueError(f"expected a list of names. Received: {files.short(value)}")
    if below and all(item.startswith("-") for item in below):
        return _numbered([item[1:].strip() for item in below], False)
    return _numbered(below, True)


def _yaml_list(text: str, key: str) -> list[str]:
    """The texts under a key of a yaml: a scalar, [a, b], or lines `- a`; empty without the key."""
    value, below = _yaml_entry(text, key)
    if value.startswith("["):
        return _numbered(_yaml_parts(value), False)
    if value and value not in ("~", "null"):
        return [_unquoted(value)]
    return _numbered([item[1:].strip() for item in below if item.startswith("-")], False)


def _yaml_entry(text: str, key: str) -> tuple[str, list[str]]:
    """The value after a key of a yaml, to the end of its brackets, and the lines below it."""
    lines = _yaml_lines(text)
    pattern = re.compile(rf"""["']?{key}["']?\s*:""")
    start = next((i for i, line in enumerate(lines) if pattern.match(line)), None)
    if start is None:
        return "", []
    value = lines[start].partition(":")[2].strip()
    value = re.sub(r"^[&!]\S*\s*", "", value)  # an anchor or a type
    rest = lines[start + 1 :]
    if value[:1] in ("[", "{"):
        closing = {"[": "]", "{": "}"}[value[0]]
        while rest and not value.endswith(closing):
            value += " " + rest.pop(0).strip()
        if not value.endswith(closing):
            raise ValueError(f"expected {closing!r} at the end of {key}. Received: {value[-40:]}")
        return value, []
    below = []
    for line in rest:
        if not line.strip():
            continue
        if not line.startswith((" ", "\t", "-")):
            break
        below.append(line.strip())
    return value, below


# An item between a yaml's brackets, up to its comma: an optional number with a colon, and a text.
# A quotation mark counts only at the beginning of the text: bird's nest has an apostrophe.
_YAML_ITEM = re.compile(
    r"""\s*((?:(?:\d+|"\d+"|'\d+')\s*:\s*)?"""
    r"""(?:"(?:\\.|[^"\\])*"|'(?:\'\'|[^'])*'|[^,]*))\s*(?:,|$)"""
)


def _yaml_parts(value: str) -> list[str]:
    """The items between a yaml's brackets."""
    inside = value[1:-1]
    parts = []
    place = 0
    while place < len(inside):
        match = _YAML_ITEM.match(inside, place)
        if match is None:
            raise ValueError(f"expected items with commas. Received: {files.short(inside)}")
        parts.append(match[1].strip())
        place = match.end()
    return [part for part in parts if part]


# A line of a yaml up to the opening bracket of a list or mapping.
_YAML_BRACKET = re.compile(r"""\s*["']?[\w.-]+["']?\s*:\s*(?:[&!]\S*\s+)?[\[{]""")


# What precedes a scalar of yaml outside of brackets: `- `, `names: `, `- 0: `.
_YAML_START = re.compile(r"\s*(?:-\s+)?(?:[^\s#:]+\s*:\s+)?(?:[&!]\S*\s+)?")


def _yaml_lines(text: str) -> list[str]:
    """The lines of a yaml without comments; a quoted text over several lines becomes one."""
    lines: list[str] = []
    quote = ""
    in_brackets = False
    for line in text.splitlines():
        if quote and line.startswith((" ", "\t")):
            before = lines.pop()
            if quote == '"' and before.endswith("\\"):
                line = before[:-1] + line.lstrip(" \t")
            else:
                line = f"{before} {line.lstrip()}"
        in_brackets = in_brackets or _YAML_BRACKET.match(line) is not None
        line, quote = _without_comment(line, in_brackets)
        if line.endswith(("]", "}")):
            in_brackets = bool(quote)
        lines.append(line)
    return lines


def _without_comment(line: str, in_brackets: bool) -> tuple[str, str]:
    """A line of yaml without the comment at its end, and its unclosed quotation mark, "" for none.

    in_brackets: whether the line belongs to a list or mapping in brackets.
    """
    quote = ""
    is_escaped = False
    for position, character in enumerate(line):
        before = line[:position]
        if is_escaped:
            is_escaped = False
        elif quote:
            is_escaped = character == "\\" and quote == '"'
            if character == quote:
                quote = ""
        elif character in "\"'" and _may_quote(before, in_brackets):
            quote = character
        elif character == "#" and (not before or before[-1] in " \t"):
            return before.rstrip(), ""
    return line.rstrip(), quote


def _may_quote(before: str, in_brackets: bool) -> bool:
    """Whether a quotation mark after this part of a line of yaml begins a quoted text.

    In bird's nest it is an apostrophe.
    """
    if in_brackets:
        stripped = before.rstrip()
        return not stripped or stripped[-1] in "[{,:"
    return _YAML_START.fullmatch(before) is not None


def _numbered(items: list[str], with_keys: bool) -> list[str]:
    """The names of yaml's items; with keys, `0: name`, in the order of the numbers."""
    if not with_keys:
        return [_unquoted(item) for item in items]
    names = {}
    for item in items:
        key, colon, value = item.partition(":")
        if not colon or not _unquoted(key.strip()).isdigit():
            raise ValueError(f"expected names as 'number: name'. Received: {files.short(item)}")
        names[int(_unquoted(key.strip()))] = _unquoted(value.strip())
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"expected names of 0 to {len(names) - 1}. Received: {sorted(names)}")
    return [names[number] for number in sorted(names)]


def _unquoted(text: str) -> str:
    """A scalar of yaml as text."""
    if len(text) > 1 and text[0] == text[-1] == '"':
        return _unescaped(text[1:-1])
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    return text


# Escape sequences in double-quoted texts of yaml, as programs write non-ASCII letters: "Stra\xDFe".
_YAML_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)")
# {letter of an escape sequence: its character}.
_YAML_CHARACTERS = {
    "0": "\0",
    "a": "\a",
    "b": "\b",
    "t": "\t",
    "n": "\n",
    "v": "\v",
    "f": "\f",
    "r": "\r",
    "e": "\x1b",
    " ": " ",
    '"': '"',
    "/": "/",
    "\\": "\\",
    "N": "\x85",
    "_": "\xa0",
    "L": "\u2028",
    "P": "\u2029",
}


def _unescaped(text: str) -> str:
    """A double-quoted text of yaml with its escape sequences replaced.

    The text is unchanged if one of them is invalid, as in a path of Windows.
    """

    def character(match: re.Match) -> str:
        if len(match[1]) > 1:
            return chr(int(match[1][1:], 16))
        return _YAML_CHARACTERS[match[1]]

    try:
        replaced = _YAML_ESCAPE.sub(character, text)
        # Surrogate pairs, as json writes them, become one character.
        return replaced.encode("utf-16", "surrogatepass").decode("utf-16")
    except (KeyError, ValueError):
        return text
