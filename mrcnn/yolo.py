"""YOLO's labels of segmentation and boxes, and as much of YAML as their data.yaml needs."""

import collections
import json
import logging
import math
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

from mrcnn import coco, files
from mrcnn.masks import (
    finite_number,
)
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


# Beyond the image by rounding: YOLO's numbers are shares of its sides.
_ROUNDED = 0.01


def read_yolo(path: Any, images: Any = None, keep_empty: bool = False) -> Annotations:
    """Reads YOLO's text labels: a line for each object, `class x1 y1 x2 y2 ...` in 0..1.

    A line of a class and four numbers is a box, which is taken for the object's shape, with a
    warning; so is the box of a pose, where the data.yaml has `kpt_shape`. The names of the classes
    are those of the data.yaml, of obj.names, classes.txt or darknet.labels; where there are none,
    the classes are called by their numbers.

    Args:
        path: the folder, or its data.yaml. Labels lie beside their images, or in labels/... as
            the images in images/...
        images: folder of the images; None for those in the folder.
        keep_empty: also images without objects.

    Returns:
        `Annotations`, the images of all subsets.

    Raises:
        AnnotationError: no labels there, or none that can be used.
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
    # Images in a part of the folder have their labels elsewhere in it: train/images, train/labels.
    bases = [place]
    if is_inside(place, root):
        bases.insert(0, root)
    labels = _label_files(root)
    boxes = 0
    pictures = sorted(files.walk_images(place))
    chosen = _labels_of(pictures, place, bases, labels, path)
    used = set(chosen.values())
    known = [(name, os.path.join(place, name), chosen.get(name)) for name in pictures]
    if images is None:
        known += _yolo_elsewhere(path, root, set(pictures))
        used.update(label for _, _, label in known if label is not None)
    for relative, file, label in known:
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
            spot = f"file {os.path.relpath(label, root)}"
            read = _yolo_reader(names, size, keypoints)
            regions = list(reader.regions(spot, enumerate(lines, 1), read))
            boxes += sum(isinstance(region.shape, Rectangle) for region in regions)
        reader.add(Entry(relative, regions, size, file=file), annotated=bool(lines))
    if known and not used:
        reader.problem(
            "labels",
            f"expected text files of the images' names. Received: none for any of {len(known)}"
            f" images, {len(labels)} text files",
        )
    if not known:
        gone = _missing_places(path)
        if gone:
            reader.problem("data.yaml", f"expected what it names. Received: nothing at {gone}")
    for label in _unused_labels(labels, used, only_near=images is not None):
        if _looks_like_labels(label):
            reader.problem(
                f"file {os.path.relpath(label, root)}",
                "expected an image of its name in the folder",
            )
    if boxes:
        logger.warning("%s: %d objects are boxes without an outline", path, boxes)
    return reader.finish(names or None)


# Subsets as a data.yaml names them.
_YOLO_SUBSETS = {**coco.SUBSET_WORDS, "test": coco.OTHER_SUBSETS[:2]}


def _yolo_elsewhere(path: str, root: str, taken: set[str]) -> list[tuple[str, str, str | None]]:
    """(name, image, its label file or None) of images that a data.yaml names outside of a folder.

    As YOLO's own programs do it, the labels of .../images/a.jpg are .../labels/a.txt, or beside it.

    Args:
        path: the yaml, or the folder.
        root: the folder whose own images are known.
        taken: their names.
    """
    file = _yaml_of(path)
    if file is None:
        return []
    bases = _bases_of_yaml(file)
    outside: dict[str, str] = {}
    for subset, places in _places_in_yaml(file).items():
        for place in sorted(places):
            for image, below in _images_of_place(_place_of_yaml(place, bases)):
                # A link that lies in the folder is an image of it.
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
    """Which folders and lists that a data.yaml names aren't there; "" for none."""
    file = _yaml_of(path)
    if file is None:
        return ""
    places = sorted(set().union(*_places_in_yaml(file).values()))
    return files.several(
        place for place in places if not _place_of_yaml(place, _bases_of_yaml(file))
    )


def _yaml_of(path: str) -> str | None:
    """The yaml that a path is, or that of a folder; None where there is none."""
    if os.path.isdir(path):
        return _yaml_in(path)
    return path


def _bases_of_yaml(file: str) -> list[str]:
    """The folders that the places in a data.yaml start from."""
    return list(dict.fromkeys((_yolo_root(file), os.path.dirname(file) or ".")))


def _places_in_yaml(file: str) -> dict[str, set[str]]:
    """{subset: folders and lists of images} that a data.yaml names; AnnotationError for no text."""
    try:
        text = files.read_text(file)
        return {
            key: {place for word in words for place in _yaml_list(text, word)}
            for key, words in _YOLO_SUBSETS.items()
        }
    except ValueError as error:
        raise AnnotationError(f"{file}: {error}") from error


def _images_of_place(place: str) -> list[tuple[str, str]]:
    """(path, name) of the images in a folder, or of those that are there of a list."""
    if os.path.isdir(place):
        return [(os.path.join(place, name), name) for name in sorted(files.walk_images(place))]
    if not os.path.isfile(place):
        return []
    listed = sorted(image for image in _listed_images(place) if os.path.isfile(image))
    return [(image, os.path.basename(image)) for image in listed if files.is_image_name(image)]


def _yolo_label_of(image: str) -> str | None:
    """The label file of an image by YOLO's own rule, None where it isn't there."""
    stem = os.path.splitext(image)[0]
    before, folder, after = stem.rpartition(f"{os.sep}images{os.sep}")
    for label in (f"{before}{os.sep}labels{os.sep}{after}.txt", f"{stem}.txt"):
        if (folder or label.startswith(stem)) and os.path.isfile(label):
            return label
    return None


def _unused_labels(labels: dict[str, str], used: set[str], only_near: bool) -> list[str]:
    """The label files that no image has, sorted.

    Args:
        labels: as of `_label_files`.
        used: the files that images have.
        only_near: only those in folders of used ones: of images in a part of a folder.
    """
    # A folder with a link to it is there by two names.
    real = {os.path.realpath(file) for file in used}
    near = {os.path.dirname(file) for file in used}
    unused = []
    for file in sorted(set(labels.values()) - used):
        if only_near and os.path.dirname(file) not in near:
            continue
        if os.path.realpath(file) not in real:
            unused.append(file)
    return unused


def _yolo_root(path: str) -> str:
    """The folder of the data that a yaml names: its own, or what it has as `path`."""
    own = os.path.dirname(path) or "."
    for line in _yaml_lines(files.read_text(path)):
        if re.match(r"path\s*:", line):
            named = _unquoted(line.partition(":")[2].strip())
            for place in (os.path.join(own, named), named):
                if named and os.path.isdir(place) and not _has_labels(own):
                    return os.path.normpath(place)
    return own


def _has_labels(folder: str) -> bool:
    """Whether there is a text file of labels in a folder."""
    return any(_looks_like_labels(label) for label in _label_files(folder).values())


def is_yolo(path: str) -> bool:
    """Whether a folder has YOLO's labels: a data.yaml with names, or text files of such lines."""
    return _yaml_in(path) is not None or _has_labels(path)


def yolo_subset(annotated: Annotations, path: Any, subset: str) -> list[AnnotatedImage]:
    """The images that a data.yaml names as a subset: by folders, or by text files of paths.

    Args:
        annotated: what `read_yolo` returned.
        path: the folder, or its data.yaml.
        subset: "train" or "val".

    Returns:
        The images; none where there is no yaml, where it does not name the subset, or has one
        place for training and validation, as programs write that insist on both.
    """
    file = _yaml_of(os.fspath(path))
    if file is None:
        return []
    named = _places_in_yaml(file)
    if named["train"] == named["val"]:
        return []
    bases = _bases_of_yaml(file)
    folders: set[str] = set()
    listed: set[str] = set()
    for place in sorted(named[subset]):
        real = _place_of_yaml(place, bases)
        if os.path.isdir(real):
            folders.add(real)
        elif os.path.isfile(real):
            listed |= _listed_images(real)
    chosen = []
    for image in annotated.images:
        # The image itself may be a link out of the folder that it is listed in.
        own = _without_links(image.path)
        if own in listed or any(is_inside(own, folder) for folder in folders):
            chosen.append(image)
    if named[subset] and not chosen:
        logger.warning(
            "%s: %s names no images that are in the folder: %s",
            file,
            subset,
            files.several(sorted(named[subset])),
        )
    return chosen


def _place_of_yaml(place: str, bases: list[str]) -> str:
    """The real path of what a yaml names, "" where it isn't there.

    Roboflow's yaml says ../train/images of the train/images that lies beside it, which goes before
    what is there by that very path: that of another export, it may be.
    """
    spelled = [place.replace("\\", "/")]
    while spelled[-1].startswith("../"):
        spelled.append(spelled[-1].removeprefix("../"))
    if len(spelled) > 1:
        spelled = [spelled[-1], *spelled[:-1]]
    for plain in spelled:
        for base in bases:
            path = os.path.join(base, plain)
            if plain and os.path.exists(path):
                return os.path.realpath(path)
    return ""


def _listed_images(path: str) -> set[str]:
    """The paths that a text file lists, line by line, relative to its folder."""
    folder = os.path.dirname(path)
    lines = [line.strip() for line in files.read_text(path).splitlines()]
    return {_without_links(os.path.join(folder, line)) for line in lines if line}


def _without_links(path: str) -> str:
    """A file's path with the real one of its folder."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def _yaml_in(folder: str) -> str | None:
    """The yaml file of a folder that names classes, None where there is none.

    AnnotationError where the only one has names that can't be understood.
    """
    unclear = []
    for name in sorted(os.listdir(folder)):
        file = os.path.join(folder, name)
        if name.lower().endswith(YAML_SUFFIXES) and os.path.isfile(file):
            try:
                if _names_of_yaml(file):
                    return file
            except AnnotationError as error:
                unclear.append(error)
    if unclear:  # without its names the classes would be numbers
        raise unclear[0]
    return None


def _names_of_yaml(file: str) -> list[str]:
    """The names of classes in a yaml, see `_yaml_names`; AnnotationError for unclear ones."""
    try:
        return _yaml_names(files.read_text(file))
    except ValueError as error:
        raise AnnotationError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from error


def _label_files(root: str) -> dict[str, str]:
    """{path below the folder, without labels/ and suffix: file} of the text files in a folder.

    Links to folders are followed, DEEPEST within each other, and never into a folder that the link
    itself lies in. A folder with a link to it is there by both names: either may fit the images'.
    """
    label_files = {}
    waiting = [(root, [_device_and_number(root)], 0)]
    while waiting:
        folder, within, links = waiting.pop()
        try:
            with os.scandir(folder or ".") as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:  # a folder that may not be read, or is gone
            continue
        below = []
        for entry in entries:
            path = os.path.join(folder, entry.name)
            if entry.is_dir():
                if not entry.name.startswith("."):
                    own = _device_and_number(path)
                    followed = links + entry.is_symlink()
                    if own not in within and followed <= files.DEEPEST:
                        below.append((path, [*within, own], followed))
            elif _is_label_name(entry.name):
                label_files[_key_of(path, root)] = path
        waiting += reversed(below)
    return label_files


def _is_label_name(name: str) -> bool:
    """Whether a file may hold labels."""
    return name.lower().endswith(".txt") and name.lower() not in ("classes.txt", "readme.txt")


def _device_and_number(path: str) -> tuple[int, int] | None:
    """What is equal for all names of a folder; None for what isn't there."""
    try:
        status = os.stat(path or ".")
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _key_of(file: str, root: str) -> str:
    """What an image and its labels have in common: the path without images/, labels/ and suffix."""
    parts = pathlib.Path(os.path.relpath(file, root)).with_suffix("").parts
    places = ("labels", *(name.lower() for name in files.IMAGE_FOLDERS))
    return "/".join(part for part in parts if part.lower() not in places)


def _label_of(image: str, bases: list[str], labels: dict[str, str]) -> str | None:
    """The label file of an image, None where there is none.

    bases: the folders that its path may start from, the likelier ones first.
    """
    beside = os.path.splitext(image)[0] + ".txt"
    if os.path.isfile(beside):
        return beside
    for base in bases:
        label = labels.get(_key_of(image, base))
        if label is not None:
            return label
    return None


def _labels_of(
    pictures: list[str],
    place: str,
    bases: list[str],
    labels: dict[str, str],
    path: str,
) -> dict[str, str]:
    """{image: its label file}, of those that have one.

    Labels that no image has by its very name are given to images of their folder that have none, by
    the rules of `files.find_images`: A.txt is that of a.jpg, and so are a.jpg.txt and what Label
    Studio calls 1a2b3c4d-a.txt. Such are said in one warning.

    Args:
        pictures: paths of images, relative to the folder `place`.
        bases, labels: as of `_label_of` and `_label_files`.
        path: of the data, for the warning.
    """
    chosen = {}
    for relative in pictures:
        label = _label_of(os.path.join(place, relative), bases, labels)
        if label is not None:
            chosen[relative] = label
    left = {}
    for label in _unused_labels(labels, set(chosen.values()), only_near=False):
        if len(chosen) < len(pictures) and _looks_like_labels(label):
            left[_key_of(label, bases[0])] = label
    if not left:
        return chosen
    endings = sorted({os.path.splitext(name)[1] for name in pictures})
    others = {key: [key + ending for ending in endings] for key in left}
    renamed = {}
    for key, file in files.find_images(list(left), [place], others).paths.items():
        relative = os.path.relpath(file, place)
        folders = {os.path.dirname(_key_of(file, base)).casefold() for base in bases}
        if relative not in chosen and os.path.dirname(key).casefold() in folders:
            renamed[relative] = left[key]
    if renamed:
        pairs = [f"{label} is that of {name}" for name, label in renamed.items()]
        logger.warning(
            "%s: %d label files have other names than their images: %s",
            path,
            len(renamed),
            files.several(pairs),
        )
    return {**chosen, **renamed}


def _looks_like_labels(path: str) -> bool:
    """Whether the first line of a text file is a class and numbers; an empty file is none."""
    try:
        with open(path, "rb") as file:
            beginning = file.read(100_000)
        # The end of what was read may be half a sign.
        text = beginning.decode(json.detect_encoding(beginning), "ignore")
        numbers = [float(word) for word in text.split("\n")[0].split()]
    except (ValueError, OSError):
        return False
    if len(numbers) < 5 or not all(map(math.isfinite, numbers)):
        return False
    # Of a pose's keypoints the third number is 2 where it is visible.
    return numbers[0].is_integer() and max(numbers[1:5]) < 2


def _label_lines(reader: Reader, path: str) -> list[str]:
    """The lines of a label file that are not empty; none, and a problem, of what is no text."""
    try:
        return [line for line in files.read_text(path).splitlines() if line.strip()]
    except ValueError as error:
        reader.problem("labels", str(error))
        return []


def _yolo_reader(
    names: list[str], size: tuple[int, int], keypoints: int = 0
) -> Callable[[str], Region]:
    """f(line) that returns its `Region`.

    Args:
        names: of the classes; empty where they are numbers.
        size: (height, width) of the image.
        keypoints: how many numbers stand behind each object's box; 0 where there are no keypoints.
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
        if min(values) < -_ROUNDED or max(values) > 1 + _ROUNDED:
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
            raise Problem(
                f"expected a class and the x and y of at least 3 points. Received: {len(values)}"
                " numbers behind the class"
            )
        points = [[x * width, y * height] for x, y in zip(values[::2], values[1::2])]
        return Region(name, Polygons([points], exact=True))

    return read


def _yolo_names(path: str) -> list[str]:
    """Names by class number: of the yaml, of obj.names or classes.txt; empty where there are none.

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
    """How many numbers the keypoints of an object have by the yaml's kpt_shape; 0 without it."""
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


def _distinct(names: list[str], file: str) -> list[str]:
    """The names, without spaces around them; AnnotationError where one is there twice."""
    plain = []
    for number, name in enumerate(names):
        try:
            plain.append(class_name_of(name, f"the name of class {number}"))
        except Problem as error:
            raise AnnotationError(f"{file}: {error}") from error
    twice = [name for name, count in collections.Counter(plain).items() if count > 1]
    if twice:
        raise AnnotationError(
            f"{file}: expected each class's name once. Received: {files.several(twice)} twice"
        )
    return plain


# ---- As much of YAML as a data.yaml needs --------------------------------------------------------


def _yaml_names(text: str) -> list[str]:
    """The list, or the numbered names, under the key `names` of a yaml; empty without it.

    Of yaml's many forms the ones that data files have: [a, b], {0: a, 1: b}, and both of these line
    by line, quoted or not, with comments.
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
    """The texts under a key of a yaml: one, [a, b], or a line of `- a` for each; empty without."""
    value, below = _yaml_entry(text, key)
    if value.startswith("["):
        return _numbered(_yaml_parts(value), False)
    if value and value not in ("~", "null"):
        return [_unquoted(value)]
    return _numbered([item[1:].strip() for item in below if item.startswith("-")], False)


def _yaml_entry(text: str, key: str) -> tuple[str, list[str]]:
    """What stands behind a key of a yaml, to the end of its brackets, and in the lines below it."""
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


# An item between a yaml's brackets, up to its comma: a number and a colon, and a text. A quote is
# one at its beginning alone: bird's nest has an apostrophe.
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


# Where the brackets of a list or of named values begin in a yaml.
_YAML_BRACKET = re.compile(r"""\s*["']?[\w.-]+["']?\s*:\s*(?:[&!]\S*\s+)?[\[{]""")


# What stands before a text of yaml outside of brackets: `- `, `names: `, `- 0: `.
_YAML_START = re.compile(r"\s*(?:-\s+)?(?:[^\s#:]+\s*:\s+)?(?:[&!]\S*\s+)?")


def _yaml_lines(text: str) -> list[str]:
    """The lines of a yaml without comments; a quoted text that goes on in the next is one line."""
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
    """A line of yaml without the comment at its end, which no quoted text has; and the quotation
    mark of a text that has no end in it, "" where there is none.

    in_brackets: whether it is of a list or of named values in brackets.
    """
    quote = ""
    is_escaped = False
    for place, sign in enumerate(line):
        before = line[:place]
        if is_escaped:
            is_escaped = False
        elif quote:
            is_escaped = sign == "\\" and quote == '"'
            if sign == quote:
                quote = ""
        elif sign in "\"'" and _may_quote(before, in_brackets):
            quote = sign
        elif sign == "#" and (not before or before[-1] in " \t"):
            return before.rstrip(), ""
    return line.rstrip(), quote


def _may_quote(before: str, in_brackets: bool) -> bool:
    """Whether a quotation mark behind a part of a line of yaml begins a text: bird's nest has an
    apostrophe."""
    if in_brackets:
        plain = before.rstrip()
        return not plain or plain[-1] in "[{,:"
    return _YAML_START.fullmatch(before) is not None


def _numbered(items: list[str], with_keys: bool) -> list[str]:
    """The names of yaml's items, with keys `0: name` in the order of the numbers."""
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


# What stands for signs in a text of yaml in double quotes, which programs write for letters that
# are not ASCII: "Stra\xDFe".
_YAML_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)")


_YAML_SIGNS = {
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
    """What a text of yaml in double quotes says; as it is where it has what is none of its signs,
    as a path of Windows."""

    def sign(match: re.Match) -> str:
        if len(match[1]) > 1:
            return chr(int(match[1][1:], 16))
        return _YAML_SIGNS[match[1]]

    try:
        plain = _YAML_ESCAPE.sub(sign, text)
        # Two halves of one sign, as json has them.
        return plain.encode("utf-16", "surrogatepass").decode("utf-16")
    except (KeyError, ValueError):
        return text
