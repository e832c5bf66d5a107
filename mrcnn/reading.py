"""Annotated images, and the reader that all annotation formats share.

`Reader` finds the files of the images, checks their sizes, collects problems and returns
`Annotations`. The functions after it read single values of json and xml; their errors name what was
expected and received.
"""

import base64
import collections
import dataclasses
import io
import logging
import math
import os
import pathlib
import tempfile
import unicodedata
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from mrcnn import coco, files, utils
from mrcnn.masks import FARTHEST, SegmentationError, decode, finite_number, sound_segmentation
from mrcnn.outlines import (
    Bitmap,
    CocoSegmentation,
    Crop,
    DrawnShape,
    Polygons,
    Shape,
    Union,
    draw_shape,
)

logger = logging.getLogger(__name__)


# Names of the background, in lower case.
BACKGROUNDS = ("background", "_background_", "__background__", "bg")


class AnnotationError(ValueError):
    """An annotation file can't be used; the message names it and what was expected."""

    def __init__(self, text: str):
        super().__init__(printable(text))


def printable(text: str) -> str:
    """A text with lone surrogates escaped, which damaged names have and UTF-8 can't encode."""
    return text.encode("utf-8", "backslashreplace").decode()


# ---- What a reader returns -----------------------------------------------------------------------


@dataclasses.dataclass
class Region:
    """One annotated object.

    Attributes:
        name: name of its class.
        shape: its `Shape`, with a method `mask(height, width)`.
        crowd: whether it is a crowd.
        number: its position or id in the file.
        extra: {name: value} of its other attributes in the file, without the class; None for none.
    """

    name: str
    shape: Shape
    crowd: bool = False
    number: Any = None
    extra: dict | None = None


@dataclasses.dataclass
class EmbeddedImage:
    """An image that is embedded in a json in base64, such as LabelMe's imageData.

    Args:
        path: the json, which is read each time: the images of a folder don't fit in memory.
        place: the keys that lead to the text.
    """

    path: str
    place: tuple

    def content(self) -> bytes:
        """The bytes of the image's file; ValueError, which names the json, if there are none."""
        value = load_json(self.path, all_entries)
        try:
            for key in self.place:
                value = value[key]
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"{self.path} has no image any more at {self.place}") from error
        try:
            return from_base64(value)
        except ValueError as error:
            raise ValueError(f"{self.path} has no image at {self.place}: {error}") from error

    def read(self, rotate: bool = True, size: tuple[int, int] | None = None) -> np.ndarray:
        """[H, W, 3] uint8; for `rotate` and `size` see `utils.read_image`.

        Raises:
            ValueError: there is no image, or it is truncated; the message names the json.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "image")
            with open(path, "wb") as file:
                file.write(self.content())
            try:
                return utils.read_image(path, rotate=rotate, size=size)
            except (OSError, ValueError) as error:
                text = str(error).replace(path, f"the image in {self.path}")
                raise ValueError(text) from error


def from_base64(text: Any) -> bytes:
    """The bytes of a text in base64, which may be a data: URL; ValueError for another value."""
    if not isinstance(text, str):
        raise ValueError(f"expected a text in base64. Received: {files.short(text)}")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    return base64.b64decode("".join(text.split()), validate=True)


@dataclasses.dataclass
class AnnotatedImage:
    """An image with its annotated objects.

    Attributes:
        name: its name in the annotations.
        path: path of its file, or of the json that embeds it; "" if it was read without its file.
        height, width: in pixels, in the frame of its annotations.
        regions: its objects.
        embedded: the embedded image; None for an image with a file.
        extra: COCO: the image's dict in the json; None otherwise.
    """

    name: str
    path: str
    height: int
    width: int
    regions: list[Region]
    embedded: EmbeddedImage | None = None
    extra: dict | None = None

    def __repr__(self) -> str:
        size = f"{self.height} x {self.width}"
        return f"AnnotatedImage({self.name!r}, {size}, {len(self.regions)} regions)"

    def masks(self) -> np.ndarray:
        """[height, width, regions] bool."""
        shapes = [region.shape for region in self.regions]
        annotations = [shape.annotation for shape in shapes if isinstance(shape, CocoSegmentation)]
        if len(annotations) == len(shapes):
            return decode(annotations, self.height, self.width)
        # The operating system allocates zeros page by page when they are written: only what is
        # drawn takes memory.
        masks = np.zeros((len(shapes), self.height, self.width), bool)
        for mask, shape in zip(masks, shapes):
            draw_shape(shape, mask)
        return np.moveaxis(masks, 0, -1)


@dataclasses.dataclass
class Annotations:
    """The annotated images of a file or folder.

    Attributes:
        path: the file or folder.
        images: the images that can be used.
        classes: names of the classes; of COCO in the order of their ids, otherwise sorted.
        problems: a message for each file, image or region that was left out.
        categories: COCO: the dicts of the classes in the json; empty otherwise.
    """

    path: str
    images: list[AnnotatedImage]
    classes: list[str]
    problems: list[str]
    categories: list[dict] = dataclasses.field(default_factory=list)

    def __repr__(self) -> str:
        regions = sum(len(image.regions) for image in self.images)
        return (
            f"Annotations({self.path!r}, {len(self.images)} images, {regions} regions, "
            f"{len(self.classes)} classes, {len(self.problems)} problems)"
        )

    def summary(self) -> str:
        """One line: the number of images, of objects of each class and of problems."""
        counts = collections.Counter(
            region.name for image in self.images for region in image.regions
        )
        objects = ", ".join(f"{name} {counts[name]}" for name in self.classes)
        text = f"{self.path}: {len(self.images)} images; objects: {objects}"
        if self.problems:
            text += f"; {len(self.problems)} images or regions left out"
        return text

    def split(self, share: float, seed: int = 0) -> tuple["Annotations", "Annotations"]:
        """Two `Annotations`: about a `share` (0..1) of the images is in the second.

        Each has at least one image. The part of an image is derived from its name, so that adding
        images does not move others.

        Raises:
            AnnotationError: there are fewer than 2 images.
        """
        if len(self.images) < 2:
            raise AnnotationError(
                f"{self.path}: a split needs 2 images with objects. Received: {len(self.images)}"
            )
        hashes = [zlib.crc32(f"{seed} {image.name}".encode()) / 2**32 for image in self.images]
        bound = min(max(share, min(hashes)), sorted(hashes)[-2])
        first = []
        second = []
        for image, value in zip(self.images, hashes):
            if value <= bound:
                second.append(image)
            else:
                first.append(image)
        return dataclasses.replace(self, images=first), dataclasses.replace(self, images=second)


def class_names_of(images: Iterable[AnnotatedImage]) -> set[str]:
    """The names of the classes of all regions."""
    return {region.name for image in images for region in image.regions}


# ---- Checking images and files -------------------------------------------------------------------


class Problem(ValueError):
    """An image or region can't be used; the reader adds which one it is."""


@dataclasses.dataclass
class Entry:
    """An annotated image before its file is located.

    Attributes:
        name: name of the image file.
        regions: the usable regions.
        size: (height, width) that the annotation was made for, None if unknown.
        others: other names that the image file may have.
        beside: the name of the image file that matches the json's own name.
        embedded: the embedded image, used if there is no file.
        extra: COCO: the image's dict in the json.
        file: path of the image file, if already known.
    """

    name: str
    regions: list[Region]
    size: tuple[int, int] | None = None
    others: tuple[str, ...] = ()
    beside: str | None = None
    embedded: EmbeddedImage | None = None
    extra: dict | None = None
    file: str | None = None


class Reader:
    """Collects the images and problems of one source of annotations.

    Args:
        path: the file or folder.
        images: folder that the names of the images are relative to, or None.
        keep_empty: keep images without regions.
        root: the folder in which the file was searched for.
        need_files: leave out an image without a file even if its size is known.

    Attributes:
        problems: a message for each image or region that is left out; `finish` logs them.
        read_problems: further messages, already logged.
        own_folder: the folder itself, or that of the file.
        folders: the folders in which images are searched for.
        entries: the images that were added.
        without_regions: number of images without usable regions.
        duplicates_are_reported: whether duplicate objects were logged when the file was read.
    """

    def __init__(
        self,
        path: Any,
        images: Any,
        keep_empty: bool,
        root: Any = None,
        need_files: bool = True,
    ):
        self.need_files = need_files
        self.path = os.fspath(path)
        own_folder = self.path
        if not os.path.isdir(own_folder):
            own_folder = os.path.dirname(own_folder)
        self.own_folder = own_folder
        self.folders = [own_folder]
        if root is not None:
            self.folders.append(os.fspath(root))
        self.folders += _folders_near(own_folder)
        if os.path.basename(os.path.abspath(own_folder)).lower() in coco.ANNOTATION_FOLDERS:
            self.folders.append(os.path.normpath(os.path.join(own_folder, os.pardir)))
        if images is not None:
            self.folders = [os.fspath(images)]
            if is_inside(own_folder, images):
                self.folders.append(own_folder)
        self.keep_empty = keep_empty
        self.problems: list[str] = []
        self.read_problems: list[str] = []
        self.entries: list[Entry] = []
        self.without_regions = 0
        self.duplicates_are_reported = False

    def problem(self, place: str, text: str) -> None:
        """Records a problem. place: the image or region, as "image x, region 3"."""
        self.problems.append(printable(f"{self.path}: {place}: {text}"))

    def regions(
        self,
        place: str,
        items: Iterable[tuple[Any, Any]],
        read: Callable[[Any], Region],
    ) -> Iterator[Region]:
        """`read(item)` of each item; problems are recorded. items: pairs (number, item)."""
        for number, item in items:
            try:
                yield dataclasses.replace(read(item), number=number)
            except Problem as error:
                self.problem(f"{place}, region {number}", str(error))

    def add(self, entry: Entry, annotated: bool = True) -> None:
        """Adds an image if it has regions or, with `keep_empty`, is background.

        Args:
            entry: the image.
            annotated: whether the file has regions of it: an image whose regions are all unusable
                is not background.
        """
        if entry.regions or (self.keep_empty and not annotated):
            self.entries.append(entry)
        else:
            self.without_regions += 1

    def finish(self, classes: list[str] | None = None) -> Annotations:
        """The `Annotations`; AnnotationError if no image can be used."""
        images = self.merged(self._images())
        if not self.duplicates_are_reported:
            self._warn_of_duplicates(images)
        self._warn_of_duplicate_images(images)
        without = self.without_regions
        if without:
            logger.info("%s: %d images without regions are left out", self.path, without)
        problems = [*self.read_problems, *self.problems]
        if not images:
            raise AnnotationError(
                f"{self.path}: expected images with regions. Received: none that can be used; "
                f"{without} without regions, {len(problems)} problems{problem_lines(problems)}"
            )
        self.log_problems()
        if classes is None:
            classes = sorted(class_names_of(images))
            self._warn_of_similar_classes(classes)
        self._warn_of_background(images)
        return Annotations(self.path, images, classes, problems)

    def _warn_of_background(self, images: list[AnnotatedImage]) -> None:
        """Warns of objects of a class whose name is that of the background."""
        counts = collections.Counter(
            region.name
            for image in images
            for region in image.regions
            if region.name.lower() in BACKGROUNDS
        )
        for name, count in counts.items():
            logger.warning(
                "%s: %d objects are of the class %r, which is trained as any other; whatever no"
                " object covers is background without it",
                self.path,
                count,
                name,
            )

    def _warn_of_similar_classes(self, classes: list[str]) -> None:
        """Warns of names that differ only in case: several classes, probably by mistake."""
        counts = collections.Counter(name.casefold() for name in classes)
        similar = [repr(name) for name in classes if counts[name.casefold()] > 1]
        if similar:
            logger.warning(
                "%s: classes that differ in upper and lower case alone are several classes: %s",
                self.path,
                files.several(similar),
            )

    def _warn_of_duplicates(self, images: list[AnnotatedImage]) -> None:
        """Warns of images with duplicate objects, which count twice."""
        counts = {}
        for image in images:
            count = _duplicate_count(image.regions)
            if count:
                counts[image.name] = count
        if counts:
            logger.warning(
                "%s: %d objects are there twice, equal in class and shape, and count twice; images"
                " with such: %s",
                self.path,
                sum(counts.values()),
                files.several(counts),
            )

    def _warn_of_duplicate_images(self, images: list[AnnotatedImage]) -> None:
        """Warns of images with equal regions whose names differ only in the suffix.

        Of a.jpg and a.png one may be trained on and the other validated on.
        """
        by_stem: dict[str, list[AnnotatedImage]] = {}
        for image in images:
            stem = os.path.splitext(image.path or image.name)[0]
            by_stem.setdefault(stem.casefold(), []).append(image)
        duplicates = []
        for group in by_stem.values():
            first, *others = group
            size = first.height, first.width
            for other in others:
                if size == (other.height, other.width) and _have_equal_regions(first, other):
                    duplicates.append(f"{first.name} and {os.path.basename(other.name)}")
        if duplicates:
            logger.warning(
                "%s: %d images are there twice, with equal regions under names that differ in their"
                " suffix, and count twice; one may be trained on and the other validated on: %s",
                self.path,
                len(duplicates),
                files.several(duplicates),
            )

    def log_problems(self) -> None:
        """Logs all problems in one warning."""
        if len(self.problems) == 1:
            logger.warning("%s; left out", self.problems[0])
        elif self.problems:
            logger.warning(
                "%s: %d files, images or regions are left out:%s",
                self.path,
                len(self.problems),
                problem_lines(self.problems),
            )

    def _images(self) -> list[AnnotatedImage]:
        """The images of the entries with a usable file; problems are recorded for the others."""
        image_files = self._find_files()
        images = []
        for entry in self.entries:
            try:
                image = self._image(entry, image_files)
            except Problem as error:
                self.problem(f"image {entry.name!r}", str(error))
                continue
            image.regions = [region for region in entry.regions if self._is_drawn(region, image)]
            if image.regions or not entry.regions:
                images.append(image)
        return images

    def _find_files(self) -> files.FoundImages:
        """Finds the files of the entries, with one warning of those with other names."""
        others: dict[str, list[str]] = {}
        self._rename_copies()
        for entry in self.entries:
            if entry.file is None:
                others.setdefault(entry.name, []).extend(entry.others)
        image_files = files.find_images(list(others), self.folders, others)
        taken = {os.path.normpath(path) for path in image_files.paths.values()}
        for entry in self.entries:
            if entry.name in image_files.paths or entry.beside is None or entry.embedded:
                continue
            path = files.find_images([entry.beside], self.folders).paths.get(entry.beside)
            if path is not None and os.path.normpath(path) not in taken:
                image_files.paths[entry.name] = image_files.renamed[entry.name] = path
        if image_files.renamed:
            logger.warning("%s: %s", self.path, image_files.renamed_text())
        return image_files

    def _rename_copies(self) -> None:
        """Gives jsons that name the same image the images of their own names, if they exist.

        A json that was copied or renamed together with its image still names the original image.
        """
        counts = collections.Counter(entry.name for entry in self.entries)
        renamed = []
        for entry in self.entries:
            beside = entry.beside
            if counts[entry.name] < 2 or beside is None or beside == entry.name:
                continue
            if any(os.path.isfile(os.path.join(folder, beside)) for folder in self.folders):
                renamed.append(f"{entry.name} is {beside}")
                entry.name = beside
        if renamed:
            logger.warning(
                "%s: %d json files name an image that another one names too, and are taken for"
                " those of the images with their own names: %s",
                self.path,
                len(renamed),
                files.several(renamed),
            )

    def _image(self, entry: Entry, image_files: files.FoundImages) -> AnnotatedImage:
        """The image of an entry, without its regions; Problem if no file has the right size."""
        problem = image_files.problems.get(entry.name, "")
        path = entry.file or image_files.paths.get(entry.name)
        if path is not None:
            try:
                height, width = annotated_size(path, path, entry.size)
                return AnnotatedImage(entry.name, path, height, width, [], None, entry.extra)
            except Problem as error:
                problem = str(error)
        elif entry.size and not entry.embedded and not self.need_files:
            return AnnotatedImage(entry.name, "", *entry.size, [], None, entry.extra)
        if entry.embedded is None:
            raise Problem(problem)
        path = entry.embedded.path
        try:
            content = io.BytesIO(entry.embedded.content())
            height, width = annotated_size(content, "the image in the json", entry.size)
        except ValueError as error:
            raise Problem(f"{problem}; and of the image in the json: {error}") from error
        return AnnotatedImage(entry.name, path, height, width, [], entry.embedded)

    def _is_drawn(self, region: Region, image: AnnotatedImage) -> bool:
        """Whether a region has pixels in its image; records a problem if it has none.

        Regions that are empty or can't be drawn are reported now rather than in the first epoch.
        """
        size = (image.height, image.width)
        try:
            if isinstance(region.shape, DrawnShape):
                drawn = region.shape.has_pixels(*size)
            else:
                drawn = bool(region.shape.mask(*size).any())
            if drawn:
                return True
            problem = (
                f"expected a region with a pixel in the image of (height, width) {size}. "
                f"Received: {files.short(region.shape)}"
            )
        except (ValueError, TypeError, KeyError) as error:
            problem = str(error)
        self.problem(f"image {image.name!r}, region {region.number}", problem)
        return False

    def merged(self, images: list[AnnotatedImage]) -> list[AnnotatedImage]:
        """The images, entries of the same file joined; a region of two entries is kept once."""
        merged: dict[Any, AnnotatedImage] = {}
        identities: dict[Any, set] = {}
        repeated: dict[str, int] = {}
        for image in images:
            key: Any = os.path.normpath(image.path)
            if image.embedded:
                key = (key, image.embedded.place)
            elif not image.path:
                key = ("", image.name)
            first = merged.setdefault(key, image)
            if first is image:
                continue
            if (first.height, first.width) != (image.height, image.width):
                self.problem(
                    f"image {image.name!r}",
                    f"expected one size of {image.path}. Received: entries of"
                    f" {(first.height, first.width)} and {(image.height, image.width)}",
                )
                continue
            if key not in identities:
                identities[key] = set(map(_identity, first.regions))
            new = [region for region in image.regions if _identity(region) not in identities[key]]
            identities[key].update(map(_identity, new))
            repeated[first.name] = repeated.get(first.name, 0) + len(image.regions) - len(new)
            first.regions = first.regions + new
        if repeated:
            logger.warning(
                "%s: %d images are annotated in several places; their regions are put together, %d"
                " that are there twice once: %s",
                self.path,
                len(repeated),
                sum(repeated.values()),
                files.several(repeated),
            )
        return list(merged.values())


def _folders_near(folder: str) -> list[str]:
    """The folders of images in and beside a folder of annotations."""
    near = []
    for place in (folder, os.path.join(folder, os.pardir)):
        for name in files.IMAGE_FOLDERS:
            path = os.path.normpath(os.path.join(place, name))
            if os.path.isdir(path):
                near.append(path)
    return near


def is_inside(path: str, folder: Any) -> bool:
    """Whether a path is in a folder or one of its sub-folders."""
    folder = os.path.join(os.path.abspath(folder), "")
    return os.path.abspath(path).startswith(folder)


def _identity(region: Region) -> tuple:
    """A key that is equal for regions with the same class and shape."""
    shape: Any = region.shape
    if isinstance(shape, CocoSegmentation):
        shape = shape.annotation["segmentation"]
    if isinstance(shape, Bitmap):
        shape = (shape.x, shape.y, shape.pixels.shape, shape.pixels.tobytes())
    return region.name, region.crowd, repr(shape)


def _have_equal_regions(first: AnnotatedImage, second: AnnotatedImage) -> bool:
    """Whether two images have the same regions, and at least one."""
    if not first.regions or len(first.regions) != len(second.regions):
        return False
    return set(map(_identity, first.regions)) == set(map(_identity, second.regions))


def _duplicate_count(regions: Sequence[Region]) -> int:
    """How many regions of an image are equal to an earlier one.

    Only regions with equal `_quick_key` are compared in full: shapes may be many, and long.
    """
    groups: dict[tuple, list[Region]] = {}
    for region in regions:
        groups.setdefault((region.name, region.crowd, _quick_key(region.shape)), []).append(region)
    count = 0
    for group in groups.values():
        if len(group) > 1:
            count += len(group) - len(set(map(_identity, group)))
    return count


def _quick_key(shape: Any) -> Any:
    """A short key that is equal for equal shapes; other shapes may share it."""
    if isinstance(shape, CocoSegmentation):
        return coco.glance(shape.annotation["segmentation"])
    if isinstance(shape, Polygons):
        return tuple(map(len, shape.parts)), repr(shape.parts[0][:2])
    if isinstance(shape, Bitmap):
        return shape.x, shape.y, shape.pixels.shape
    if isinstance(shape, PngMask):
        return shape.x, shape.y, len(shape.text)
    if isinstance(shape, Union):
        return tuple(map(_quick_key, shape.shapes))
    return repr(shape)


def problem_lines(problems: Sequence[str], limit: int = 5) -> str:
    """The first few problems, each on a line of its own."""
    lines = [f"\n  {text}" for text in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"\n  and {len(problems) - limit} more")
    return "".join(lines)


def annotated_size(
    file: Any,
    name: str,
    size: tuple[int, int] | None,
) -> tuple[int, int]:
    """(height, width) of the frame of an image file's annotations; Problem for another size.

    Args:
        file: path of the image file, or a file object.
        name: name of the image in messages.
        size: (height, width) that the annotation was made for, None if unknown.
    """
    try:
        shown, stored = utils.image_sizes(file)
    except Exception as error:  # the readers raise many types for a damaged file
        raise Problem(f"expected an image that can be read. Received: {error}") from error
    if size is None or size == shown:
        return shown
    if size == stored:  # annotated by a program that ignores the EXIF rotation
        return stored
    raise Problem(f"annotated at (height, width) {size}. Received: {name} of {shown}")


def given_size(height: Any, width: Any) -> tuple[int, int] | None:
    """(height, width) of a file's values; None if a value is missing or not above 0."""
    height = number_of(height)
    width = number_of(width)
    if not height or not width or height <= 0 or width <= 0:
        return None
    return int(height), int(width)


# ---- Values of json and xml ----------------------------------------------------------------------


# How error messages name a type.
_TYPE_NAMES = {
    dict: "an object {...}",
    list: "a list",
    str: "a text",
    (list, dict): "a list or an object {...}",
}


def field_of(
    data: Any,
    name: str,
    kind: Any,
    subject: str,
) -> Any:
    """data[name] of a type of `_TYPE_NAMES`; Problem for another. subject: what data is."""
    value = None
    if isinstance(data, dict):
        value = data.get(name)
    if isinstance(value, kind):
        return value
    if value is None:
        value = data
    raise Problem(
        f"expected {subject} with {name!r}, {_TYPE_NAMES[kind]}. Received: {files.short(value)}"
    )


def number_of(value: Any) -> float | None:
    """A number of a shape, also one written as text; None for others and beyond FARTHEST."""
    number = finite_number(value)
    if number is None or abs(number) > FARTHEST:
        return None
    return float(number)


def _range_note(value: Any) -> str:
    """A note for messages about a number larger than any image; "" for others."""
    if isinstance(value, (int, float)) and FARTHEST < abs(value) < math.inf:
        return f" (beyond {FARTHEST:.0f})"
    return ""


def numbers_of(
    shape: dict,
    names: tuple[str, ...],
    positive: tuple[str, ...] = (),
) -> list[float]:
    """The numbers under `names` in a shape's dict; Problem for others, or `positive` ones <= 0."""
    numbers = []
    wrong = []
    for name in names:
        value = shape.get(name)
        number = number_of(value)
        if number is None or (name in positive and number <= 0):
            wrong.append(f"{name}: {files.short(value)}{_range_note(value)}")
        else:
            numbers.append(number)
    if wrong:
        above = ""
        if positive:
            above = f" ({', '.join(positive)} above 0)"
        raise Problem(
            f"expected {', '.join(names)} as numbers{above}. Received: {', '.join(wrong)}"
        )
    return numbers


def points_of(points: Any, subject: str) -> list[list[float]]:
    """The points [x, y] of a shape; Problem for others. subject: the shape, for messages."""
    expected = f"expected {subject} as a list of points of two numbers"
    if not isinstance(points, (list, tuple)):
        raise Problem(f"{expected}. Received: {files.short(points)}")
    pairs = []
    for point in points:
        pair = point_of(point)
        if pair is None:
            note = ""
            if isinstance(point, (list, tuple)):
                note = next(filter(None, map(_range_note, point)), "")
            raise Problem(f"{expected}. Received: {files.short(point)}{note}")
        pairs.append(pair)
    return pairs


def outline_of(points: Any, subject: str) -> list[list[float]]:
    """The points [x, y] of a shape; Problem for fewer than 3."""
    outline = points_of(points, subject)
    if len(outline) < 3:
        raise Problem(f"expected {subject} of at least 3 points. Received: {len(outline)}")
    return outline


def point_of(point: Any) -> list[float] | None:
    """[x, y] of a point; None for another value."""
    if not isinstance(point, (list, tuple)) or len(point) != 2:
        return None
    x = number_of(point[0])
    y = number_of(point[1])
    if x is None or y is None:
        return None
    return [x, y]


def class_name_of(value: Any, subject: str) -> str:
    """The name of a class: a text, or a number as text; Problem for another value.

    subject: what is expected, for messages, as "one class in the attribute 'type'".
    """
    name = value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15:
        name = str(value)
        if value == int(value):
            name = str(int(value))  # 7.0 is the class 7
    try:
        if isinstance(name, str):
            name.encode()
            # macOS writes accents as combining characters: the name is the same class.
            name = unicodedata.normalize("NFC", name).strip()
            if name:
                return name
    except UnicodeEncodeError:  # a lone surrogate
        pass
    raise Problem(f"expected {subject}. Received: {files.short(value)}")


def load_json(
    path: Any,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """The content of a json file, see `files.read_json`; AnnotationError if it can't be read.

    A file with one json in each line (NDJSON, JSON Lines) is a list of these.
    """
    try:
        return files.read_json(path, pairs)
    except FileNotFoundError as error:
        raise AnnotationError(f"No annotation file or folder {path}") from error
    except ValueError as error:
        return _json_lines(path, error)


def _json_lines(path: Any, error_of_json: ValueError) -> list:
    """The objects in the lines of a file that is no single json; otherwise AnnotationError."""
    try:
        return files.read_json_lines(path)
    except ValueError as error:
        if os.fspath(path).lower().endswith(LINES_SUFFIXES):
            raise AnnotationError(str(error)) from error
    raise AnnotationError(str(error_of_json)) from error_of_json


# ---- Files and entries ---------------------------------------------------------------------------


# Suffixes of files with one json in each line.
LINES_SUFFIXES = (".ndjson", ".jsonl")
# Suffixes of json files that often have other data than annotations.
OTHER_SUFFIXES = (".geojson", *LINES_SUFFIXES)
_JSON_SUFFIXES = (".json", *OTHER_SUFFIXES)


def json_files_in(path: str, below: bool, suffixes: tuple[str, ...] = _JSON_SUFFIXES) -> list[str]:
    """The json files of a folder, sorted.

    Args:
        path: the folder.
        below: files of its sub-folders, down to `files.DEEPEST`, instead of its own.
        suffixes: suffixes of the files, in lower case.
    """
    json_files = []
    too_deep = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        parts = pathlib.Path(folder).relative_to(path).parts
        if len(parts) - parts.count("datasets") >= files.DEEPEST:  # levels that Supervisely adds
            too_deep += [os.path.join(folder, name) for name in folders]
            folders.clear()
        if below != (folder == path):
            for name in names:
                file = os.path.join(folder, name)
                has_suffix = os.path.splitext(name)[1].lower() in suffixes
                if has_suffix and os.path.isfile(file):
                    json_files.append(file)
        if not below:
            break
    if too_deep and suffixes == _JSON_SUFFIXES:
        logger.warning(
            "%s: folders more than %d below it are not looked into: %s",
            path,
            files.DEEPEST,
            files.several(too_deep),
        )
    return sorted(json_files)


def values_of(data: Any) -> Iterable:
    """The values of a list or an object; none of another value."""
    if isinstance(data, dict):
        return data.values()
    if isinstance(data, list):
        return data
    return ()


def all_entries(pairs: list[tuple[str, Any]]) -> dict:
    """A dict of the pairs of a json object that keeps every image of a repeated key."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        entries = {}
        for number, (key, value) in enumerate(pairs):
            if key in entries and isinstance(value, dict) and "filename" in value:
                key = f"{key} ({number})"
            entries[key] = value
    return entries


def field_or_none(item: Any, name: str) -> Any:
    """item[name]; None if there is none or the item is no dict."""
    if isinstance(item, dict):
        return item.get(name)
    return None


# ---- Objects and masks of several formats --------------------------------------------------------


def joined_by_group(regions: Iterable[Region], shapes: list[dict]) -> list[Region]:
    """The regions, those with the same label and group_id joined.

    shapes: the dicts of the file's shapes, which `Region.number` indexes.
    """
    groups: dict[Any, list[Region]] = {}
    for region in regions:
        group_id = shapes[region.number].get("group_id")
        key = region.number
        if group_id is not None and group_id != "":
            key = (region.name, repr(group_id))
        groups.setdefault(key, []).append(region)
    objects = []
    for first, *others in groups.values():
        if others:
            parts: Any = [first.shape, *(region.shape for region in others)]
            first = dataclasses.replace(first, shape=Union(parts))
        objects.append(first)
    return objects


def run_lengths_of(
    value: Any, size: tuple[int, int] | None, attributes: dict | None = None
) -> CocoSegmentation:
    """A mask of run lengths as COCO's {"size", "counts"}; Problem for another value.

    Args:
        value: the run lengths.
        size: (height, width) of the image; None if unknown: that of the run lengths.
        attributes: of the object.
    """
    sides = field_or_none(value, "size")
    if size is None and isinstance(sides, list) and len(sides) == 2:
        size = given_size(*sides)
    if size is None or not isinstance(value, dict):
        raise Problem(f"expected run lengths with size and counts. Received: {files.short(value)}")
    try:
        shape, _ = sound_segmentation(value, *size)
    except SegmentationError as error:
        raise Problem(str(error)) from error
    annotation = {"segmentation": shape}
    if attributes:
        annotation["attributes"] = attributes
    return CocoSegmentation(annotation)


@dataclasses.dataclass
class PngMask(DrawnShape):
    """A mask as a PNG in base64, decoded when drawn: thousands of bitmaps don't fit in memory.

    Its first pixel is at (x, y).
    """

    text: Any
    x: int
    y: int

    def read(self) -> np.ndarray:
        """[h, w] bool; Problem if it can't be decoded."""
        from PIL import Image

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(io.BytesIO(from_base64(self.text))) as image:
                    if "A" in image.getbands() or "transparency" in image.info:
                        return np.asarray(image.convert("RGBA").getchannel("A")) > 0
                    return np.asarray(image.convert("L")) > 0
        except Exception as error:  # Pillow raises many types for a damaged file
            raise Problem(
                f"expected a mask as a PNG in base64. Received: {files.short(self.text)} ({error})"
            ) from error

    def crop(self, height: int, width: int) -> Crop:
        """The part of the mask inside an image of that size."""
        return Bitmap(self.read(), self.x, self.y).crop(height, width)
