"""Converts annotations from one format to another and counts every loss.

    report = convert("photos/via_region_data.json", "coco", "converted")
    print(report.text())

`write` writes what `annotations.read` returns. An outline keeps its points where the target takes
outlines, shifted by half a pixel where the two formats have different origins. A mask, by run
lengths or as a file, stays one where the target holds masks (COCO, LabelMe, mask files); elsewhere
it becomes an outline along the edges of its pixels, which encloses the same pixels: its pieces and
holes are joined by bridges of no width. What a target can't hold is left out and counted in
`Report.losses`. Keras and TensorFlow are not imported.
"""

import base64
import collections
import dataclasses
import io
import json
import logging
import math
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from mrcnn import annotations, files, utils
from mrcnn.annotations import (
    AnnotatedImage,
    Annotations,
    CocoSegmentation,
    Ellipse,
    Polygons,
    Rectangle,
    Region,
)
from mrcnn.masks import cut_to_pixels, encode_crops, sound_segmentation, to_rle

logger = logging.getLogger(__name__)

FORMATS = ("coco", "via", "labelme", "yolo", "masks", "labels")
# How outlines and masks are converted, see `write`.
SHAPES = ("keep", "masks", "outlines")

# Losses, as `Report.losses` names them.
CROWDS = "crowds are left out: the format has none"
HOLES = "objects with holes are outlines that a bridge of no width opens"
PIECES = "objects of several pieces are one outline, with bridges of no width"
REDRAWN = "objects became outlines along the edges of their pixels"
DRAWN = "objects were outlines and became masks"
ROUND = "circles and ellipses are drawn: the format has none"
CUT = "outlines were cut at the image's edge: the format has nothing beyond it"
SIMPLER = "outlines along pixels were simplified"
KEYPOINTS = "objects had keypoints"
ATTRIBUTES = "objects had attributes"
CLASSES = "objects have lost their class: the format names none"
OVERLAPS = "objects share pixels with smaller ones, which these keep"
HIDDEN = "objects are left out: others have all their pixels"
EMPTY_CLASSES = "classes without objects are lost: the format has no list of classes"
UNREAD = "files, images or regions can't be used and are left out"
NO_FILE = "images have no file there; their annotations alone are written"
SIZELESS = "images are left out: the format needs their files"
DEPTH = "images of more than 8 bits, or four bands, became RGB of 8 bits"

# How many objects a label image of 16 bits can number.
MOST_LABELS = 65_535
# Fields of an annotation that COCO defines; all others are attributes.
_COCO_FIELDS = frozenset(
    "id image_id category_id segmentation area bbox iscrowd attributes keypoints num_keypoints"
    " bbox_mode".split()
)

Loop = list[tuple[float, float]]  # an outline's points (x, y)


# ---- Conversion ----------------------------------------------------------------------------------


@dataclasses.dataclass
class Report:
    """What a conversion has written and lost.

    Attributes:
        format: one of `FORMATS`.
        output: path of the folder, or of the file.
        written: paths of the annotation files.
        images, objects: how many were written.
        losses: {kind: how many}; the kinds are this module's constants, CROWDS to DEPTH.
        notes: what a reader of the files needs to know.
    """

    format: str
    output: str
    written: list[str] = dataclasses.field(default_factory=list)
    images: int = 0
    objects: int = 0
    losses: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    notes: list[str] = dataclasses.field(default_factory=list)

    def text(self) -> str:
        """Lines for people: what was written, each kind of loss, the notes."""
        lines = [f"{self.output}: {self.images} images, {self.objects} objects as {self.format}"]
        lines += [f"  {count} {kind}" for kind, count in self.losses.items() if count]
        if len(lines) == 1:
            lines.append("  nothing is lost")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """The attributes for a program, as values that JSON can hold."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["losses"] = {kind: count for kind, count in self.losses.items() if count}
        return values


def convert(
    source: Any,
    target: str,
    output: Any,
    images: Any = None,
    attribute: str | None = None,
    label: str | None = None,
    shapes: str = "keep",
    tolerance: float = 0.0,
    copy_images: bool = True,
    overwrite: bool = False,
    crowds: str = "auto",
) -> Report:
    """Reads annotations of any format and writes them in another.

    Args:
        source, images, attribute, label, crowds: see `annotations.read`.
        target, output, shapes, tolerance, copy_images, overwrite: see `write`.

    Returns:
        `Report`.

    Raises:
        AnnotationError: the annotations can't be read.
        ValueError, OSError: see `write`.
    """
    check_options(target, shapes, tolerance)
    _check_output(target, output, overwrite)
    annotated = annotations.read(
        source, images, attribute, label, keep_empty=True, need_files=False, crowds=crowds
    )
    return write(annotated, target, output, shapes, tolerance, copy_images, overwrite)


def check_options(target: str, shapes: str = "keep", tolerance: float = 0.0) -> None:
    """Checks arguments of `write`.

    Raises:
        ValueError: one that is not allowed.
    """
    if target not in FORMATS:
        raise ValueError(f"the format is one of {', '.join(FORMATS)}. Received: {target!r}")
    if shapes not in SHAPES:
        raise ValueError(f"shapes is one of {', '.join(SHAPES)}. Received: {shapes!r}")
    if not (isinstance(tolerance, (int, float)) and 0 <= tolerance < math.inf):
        raise ValueError(f"tolerance is a number of pixels from 0 on. Received: {tolerance!r}")


def _check_output(target: str, output: Any, overwrite: bool) -> None:
    """Raises the errors of `write` that concern its output, before anything is read."""
    path = pathlib.Path(output)
    if path.suffix.lower() == ".json" and not _is_json(target, path):
        raise ValueError(f"the output of {target} is a folder. Received: {path}")
    if overwrite:
        return
    if _is_json(target, path):
        if path.exists():
            raise FileExistsError(f"{path} is there already; overwrite replaces it")
    elif path.is_dir() and any(path.iterdir()):
        raise FileExistsError(f"the folder {path} is not empty; overwrite writes into it")
    elif path.exists() and not path.is_dir():
        raise FileExistsError(f"the output of {target} is a folder. Received: the file {path}")


def _is_json(target: str, path: pathlib.Path) -> bool:
    """Whether the output is a json file, not a folder."""
    return target in ("coco", "via") and path.suffix.lower() == ".json"


def write(
    annotated: Annotations,
    target: str,
    output: Any,
    shapes: str = "keep",
    tolerance: float = 0.0,
    copy_images: bool = True,
    overwrite: bool = False,
) -> Report:
    """Writes annotations in one of `FORMATS`.

    coco: annotations.json and images/. via: via_region_data.json beside the images. labelme: a
    json beside each image. yolo: data.yaml, images/<subset> and labels/<subset>. masks: the Data
    Science Bowl's <id>/images/<id>.png and <id>/masks/*.png. labels: images/ and label images of 16
    bits in masks/.

    Args:
        annotated: of `annotations.read`.
        target: the format.
        output: a folder; of coco and via also a .json, then images are copied beside it.
        shapes: "keep" keeps points, and masks where the format holds them; "masks" draws every
            object, so that another reader sees the same pixels; "outlines" writes no masks.
        tolerance: by how many pixels the outline of a mask may deviate from it, to have fewer
            points; 0 for an exact one.
        copy_images: copy the image files; otherwise names are as they were annotated.
        overwrite: write into a folder that is not empty, replace files.

    Returns:
        `Report`.

    Raises:
        ValueError: an argument that is not allowed; more objects than the format can hold.
        FileExistsError: the output exists, and `overwrite` is False.
        OSError: a file can't be read or written.
    """
    check_options(target, shapes, tolerance)
    _check_output(target, output, overwrite)
    report = Report(target, os.fspath(output))
    report.losses[UNREAD] += len(annotated.problems)
    writer = _WRITERS[target](
        annotated, pathlib.Path(output), report, shapes, tolerance, copy_images
    )
    before = _annotation_files(target, output)
    writer.write()
    after = _annotation_files(target, output)
    remaining = [name for name, state in before.items() if after.get(name) == state]
    if remaining:
        report.notes.append(
            f"{len(remaining)} annotation files that were there remain, and are read with the"
            f" others: {files.several(remaining)}"
        )
    if target in ("via", "labelme"):
        _report_classes(annotated, report)
    return report


# The annotation files of the formats that have some for each image.
_FILES_OF_IMAGES = {
    "labelme": "**/*.json",
    "yolo": "labels/**/*.txt",
    "masks": "*/masks/*.png",
    "labels": "masks/**/*.png",
}


def _annotation_files(target: str, output: Any) -> dict[str, tuple[int, int]]:
    """{path below a folder: its state} of the annotation files of single images."""
    states = {}
    if target in _FILES_OF_IMAGES:
        for path in sorted(pathlib.Path(output).glob(_FILES_OF_IMAGES[target])):
            state = path.stat()
            states[path.relative_to(output).as_posix()] = (state.st_ino, state.st_mtime_ns)
    return states


def _report_classes(annotated: Annotations, report: Report) -> None:
    """Reports how the list of classes changes in a format that names the objects' classes alone."""
    used = {region.name for image in annotated.images for region in image.regions}
    report.losses[EMPTY_CLASSES] += len(set(annotated.classes) - used)
    classes = [name for name in annotated.classes if name in used]
    if classes != sorted(classes):
        report.notes.append(
            "classes have no order in the format, their ids will be those of the alphabet:"
            f" {files.several(sorted(classes), 20)}"
        )


# ---- Names and images ----------------------------------------------------------------------------


def _plain_name(name: str) -> str:
    """An image's name as a relative path with slashes, which stays below the output folder.

    name: as annotated; it may be an address, a path of Windows, absolute, or have "..".
    """
    name = name.replace("\\", "/").split("?")[0]
    is_absolute = name.startswith("/") or re.match(r"[A-Za-z]:|[a-z]+://", name) is not None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if is_absolute or ".." in parts or not parts:
        parts = parts[-1:] or ["image"]
    # Readers would not look for images in folders of masks or hidden ones, and the target has a
    # folder images/ of its own.
    folders = [part.lstrip(".") for part in parts[:-1] if part.lower() != "images"]
    folders = [
        part for part in folders if part and not files.NO_PHOTOGRAPHS.fullmatch(part.lower())
    ]
    return "/".join([*folders, parts[-1].lstrip(".") or "image"])


def target_names(images: Sequence[AnnotatedImage], flat: bool = False) -> list[str]:
    """A file name for each image: a relative path with the suffix of its file, of unique stem.

    flat: without folders, a/b.jpg as a_b.jpg.
    """
    names: list[str] = []
    taken: set[str] = set()
    for image in images:
        plain = _plain_name(image.name)
        if flat:
            plain = plain.replace("/", "_")
        name = pathlib.PurePosixPath(plain)
        suffix = name.suffix
        if image.path and not image.embedded:
            suffix = pathlib.Path(image.path).suffix
        stem = str(name.with_suffix(""))
        number = 1
        unique = stem
        while unique.casefold() in taken:
            number += 1
            unique = f"{stem}_{number}"
        taken.add(unique.casefold())
        names.append(unique + (suffix or ".png"))
    return names


def _copy_image(
    image: AnnotatedImage, path: pathlib.Path, losses: collections.Counter
) -> pathlib.Path:
    """Copies an image's file to a path.

    An image whose annotations refer to its stored orientation, not to the one in its EXIF data, is
    written as a PNG of the stored pixels instead: readers of formats without sizes would turn it.

    Returns:
        the path, in that case with the suffix .png.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if image.embedded:
        files.write_bytes(path, image.embedded.content())
        return path
    upright_size, _ = utils.image_sizes(image.path)
    if upright_size != (image.height, image.width):
        return _write_png(image, path, losses)
    if path.exists() and os.path.samefile(path, image.path):
        return path
    with files.atomic(path) as temporary:
        shutil.copyfile(image.path, temporary)
    return path


def _write_png(
    image: AnnotatedImage, path: pathlib.Path, losses: collections.Counter
) -> pathlib.Path:
    """Writes an image's pixels as a PNG of 8 bits. Returns the path, with the suffix .png."""
    from mrcnn import media

    path = path.with_suffix(".png")
    size = (image.height, image.width)
    if image.embedded:
        pixels = image.embedded.read(size=size)
        source: Any = io.BytesIO(image.embedded.content())
    else:
        pixels = utils.read_image(image.path, size=size)
        source = image.path
    losses[DEPTH] += not utils.fits_rgb(source)
    media.write_image(path, pixels)
    return path


# ---- Outlines of masks ---------------------------------------------------------------------------


def outlines(mask: np.ndarray) -> tuple[list[Loop], list[Loop]]:
    """The outlines of a mask along the edges of its pixels: closed loops of whole corners (x, y).

    Pieces are 8-connected. A polygon is exact where a pixel belongs to it if its centre is inside,
    as LabelMe's, YOLO's and COCO's are drawn.

    Args:
        mask: [h, w] bool.

    Returns:
        outer: the loops around the pieces, with the pixels on their right hand.
        holes: the loops around the holes, likewise. The first point of a loop is not repeated at
            its end.
    """
    padded = np.pad(np.asarray(mask, bool), 1).view(np.int8)
    across = padded[1:, 1:-1] - padded[:-1, 1:-1]  # [h + 1, w]: 1 on top of a pixel, -1 below
    along = padded[1:-1, 1:] - padded[1:-1, :-1]  # [h, w + 1]: 1 left of a pixel, -1 right
    # The pixels lie on the right hand: on top of them from left to right, right of them downwards.
    vertical = {}
    for x, y1, y2, sign in _segments(along.T):
        start = y2
        stop = y1
        if sign < 0:
            start = y1
            stop = y2
        vertical[x, start, stop > start] = stop
    horizontal = {}
    for y, x1, x2, sign in _segments(across):
        start = x2
        stop = x1
        if sign > 0:
            start = x1
            stop = x2
        horizontal[start, y, stop > start] = stop
    outer = []
    holes = []
    while horizontal:
        loop = _take_loop(horizontal, vertical)
        if _area(loop) > 0:
            outer.append(loop)
        else:
            holes.append(loop)
    return outer, holes


def _segments(changes: np.ndarray) -> list[tuple[int, int, int, int]]:
    """The runs of equal changes, not 0, along the rows of an array.

    Args:
        changes: [rows, n] of -1, 0 and 1.

    Returns:
        list of (row, start, stop, sign).
    """
    padded = np.pad(changes, ((0, 0), (1, 1)))
    begins = (padded[:, 1:-1] != 0) & (padded[:, 1:-1] != padded[:, :-2])
    ends = (padded[:, 1:-1] != 0) & (padded[:, 1:-1] != padded[:, 2:])
    lines, first = np.nonzero(begins)
    last = np.nonzero(ends)[1] + 1
    signs = changes[lines, first]
    return list(zip(lines.tolist(), first.tolist(), last.tolist(), signs.tolist()))


def _take_loop(horizontal: dict, vertical: dict) -> Loop:
    """Removes the segments of one closed loop, and returns its corners.

    Args:
        horizontal: {(x, y, whether x increases): x at the end}, by the segment's start.
        vertical: {(x, y, whether y increases): y at the end}.
    """
    start = next(iter(horizontal))
    x, y, increases = start
    loop: Loop = []
    while True:
        loop.append((x, y))
        x = horizontal.pop((x, y, increases))
        loop.append((x, y))
        # Where two pixels touch at a corner, the loop turns left and encloses both.
        turned = not increases
        if (x, y, turned) not in vertical:
            turned = increases
        y = vertical.pop((x, y, turned))
        increases = turned
        if (x, y, increases) not in horizontal and (x, y, increases) != start:
            increases = not increases
        if (x, y, increases) == start:
            return loop


def _area(loop: Sequence[tuple[float, float]]) -> float:
    """The signed area of a loop (shoelace formula): positive where its inside is on the right."""
    points = np.array(loop, float)
    x, y = points.T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2)


def joined(loops: Sequence[Loop]) -> Loop:
    """Joins loops to one by bridges of no width, which are passed there and back.

    The bridges run along the edges of pixels, so that the centre of none lies on them.
    """
    result = list(loops[0])
    for loop in loops[1:]:
        i, j = _nearest(result, loop)
        x1, y1 = result[i]
        x2, y2 = loop[j]
        corner = (x2, y1)
        around = [*loop[j:], *loop[: j + 1]]
        path = [corner, *around, corner, (x1, y1)]
        result[i + 1 : i + 1] = path
    return result


def outline(mask: np.ndarray, tolerance: float = 0.0) -> Loop:
    """One outline of a mask, with bridges to its other pieces and its holes.

    Args:
        mask: [h, w] bool, with at least one pixel.
        tolerance: by how many pixels the outline may deviate from the mask; 0 for an exact one.
    """
    outer, holes = outlines(mask)
    loops = [*outer, *holes]
    if tolerance:
        loops = [_simplified(loop, tolerance) for loop in loops]
    return joined(loops)


def cut_outline(loop: Loop, height: float, width: float) -> Loop:
    """Clips an outline to an image (Sutherland and Hodgman's algorithm).

    Args:
        loop: points (x, y) in pixels.
        height, width: of the image.

    Returns:
        the clipped outline, or `loop` itself where it lies inside.
    """
    points = np.array(loop, float)
    if (points >= 0).all() and (points <= (width, height)).all():
        return loop
    for axis, side, bound in ((0, 1, 0), (1, 1, 0), (0, -1, width), (1, -1, height)):
        inside = side * (points[:, axis] - bound)  # 0 on the edge, less than that beyond it
        kept = []
        for i, point in enumerate(points):
            previous = points[i - 1]
            if inside[i] * inside[i - 1] < 0:
                share = inside[i - 1] / (inside[i - 1] - inside[i])
                crossing = previous + share * (point - previous)
                crossing[axis] = bound
                kept.append(crossing)
            if inside[i] >= 0:
                kept.append(point)
        points = np.array(kept).reshape(-1, 2)
    return [(x, y) for x, y in points.tolist()]


def _nearest(first: Loop, second: Loop) -> tuple[int, int]:
    """Indices of a point of each loop that are close to each other, if not the closest pair.

    From any point of the second to the closest of the first, and twice on: all pairs of two long
    outlines would be millions.
    """
    a = np.array(first)
    b = np.array(second)
    i = int(np.abs(a - b[0]).sum(axis=1).argmin())
    j = int(np.abs(b - a[i]).sum(axis=1).argmin())
    i = int(np.abs(a - b[j]).sum(axis=1).argmin())
    return i, j


def _simplified(loop: Loop, tolerance: float) -> Loop:
    """A loop with fewer points (Douglas and Peucker), nowhere farther off than the tolerance."""
    import skimage.measure

    closed = np.array([*loop, loop[0]], float)
    simple = skimage.measure.approximate_polygon(closed, tolerance)[:-1]
    if len(simple) < 3:
        return loop
    return [(x, y) for x, y in simple.tolist()]


# ---- Objects -------------------------------------------------------------------------------------


def _crop_of(region: Region, image: AnnotatedImage) -> tuple[int, int, np.ndarray]:
    """(y, x, pixels) of an object: its first row and column, and [h, w] bool in its tight box."""
    top, left, pixels = annotations.crop_of(region.shape, image.height, image.width)
    y, x, inside = cut_to_pixels(pixels)
    return top + y, left + x, inside


def _points_of(shape: Any, height: int, width: int) -> list[Loop] | None:
    """The outlines of a shape, in pixels from the image's corner; None for a shape without."""
    if isinstance(shape, Polygons):
        shift = 0.5  # VIA's points are the centres of pixels
        if shape.exact:
            shift = 0.0
        return [[(x + shift, y + shift) for x, y in part] for part in _floats(shape.parts)]
    if isinstance(shape, Rectangle):
        x1, y1, x2, y2 = map(float, (shape.x1, shape.y1, shape.x2, shape.y2))
        return [[(x1, y1), (x2, y1), (x2, y2), (x1, y2)]]
    if isinstance(shape, annotations.Union):
        loops = []
        for part in shape.shapes:
            points = _points_of(part, height, width)
            if points is None:
                return None
            loops += points
        return loops
    if isinstance(shape, CocoSegmentation):
        sound, _ = sound_segmentation(shape.annotation.get("segmentation"), height, width)
        if isinstance(sound, list):
            return [list(zip(part[::2], part[1::2])) for part in sound]
    return None


def _floats(parts: Iterable[Iterable]) -> list[Loop]:
    """Points as floats; in a json they may be texts."""
    return [[(float(x), float(y)) for x, y in part] for part in parts]


def _attributes_of(region: Region) -> dict:
    """{name: value} of an object's attributes besides its class, mask and keypoints."""
    shape = region.shape
    if not isinstance(shape, CocoSegmentation):
        return region.extra or {}
    attributes = {}
    for name, value in shape.annotation.items():
        if name not in _COCO_FIELDS and value not in (None, "", [], {}):
            attributes[name] = value
    own = shape.annotation.get("attributes")
    if isinstance(own, dict):
        attributes.update(own)
    return attributes


def _keypoints_of(region: Region) -> list | None:
    """COCO's keypoints of an object, x, y, visibility in turn; None where it has none."""
    if not isinstance(region.shape, CocoSegmentation):
        return None
    points = region.shape.annotation.get("keypoints")
    if isinstance(points, list) and any(points[2::3]):
        return points
    return None


def _rounded(value: float) -> float | int:
    """A coordinate for a json: an int where it is whole, otherwise rounded to six decimals."""
    value = round(float(value), 6)
    if value == int(value):
        return int(value)
    return value


# ---- Writers -------------------------------------------------------------------------------------


class _Writer:
    """Writes one format; a subclass has `write`.

    Args:
        annotated, output, report, shapes, tolerance, copy_images: see `write`.
    """

    # Whether the files of all images lie in one folder.
    FLAT = False

    def __init__(
        self,
        annotated: Annotations,
        output: pathlib.Path,
        report: Report,
        shapes: str,
        tolerance: float,
        copy_images: bool,
    ):
        self.annotated = annotated
        self.output = output
        self.folder = output
        if _is_json(report.format, output):
            self.folder = output.parent
        self.report = report
        self.losses = report.losses
        self.shapes = shapes
        self.tolerance = tolerance
        self.copy_images = copy_images
        self.names = target_names(annotated.images, self.FLAT)

    def write(self) -> None:
        """Writes all files."""
        raise NotImplementedError

    def count(self, image: AnnotatedImage, regions: Sequence[Region]) -> None:
        """Counts an image and its objects as written."""
        self.report.images += 1
        self.report.objects += len(regions)

    def write_json(self, path: pathlib.Path, value: Any) -> None:
        """Writes a json, whole or not at all."""
        with files.atomic(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            json.dump(value, file, default=files.plain_value)
        self.report.written.append(str(path))

    def write_bytes(self, path: pathlib.Path, content: bytes) -> None:
        """Writes a file, whole or not at all."""
        files.write_bytes(path, content)
        self.report.written.append(str(path))

    def put_image(self, image: AnnotatedImage, path: pathlib.Path) -> pathlib.Path:
        """Copies an image's file if it has one and `copy_images` is set. Returns its path."""
        if not self.copy_images:
            return path
        if not image.path:
            self.losses[NO_FILE] += 1
            return path
        return _copy_image(image, path, self.losses)

    def without_crowds(self, image: AnnotatedImage) -> list[Region]:
        """An image's objects without crowds, which are counted as lost."""
        regions = [region for region in image.regions if not region.crowd]
        self.losses[CROWDS] += len(image.regions) - len(regions)
        return regions

    def count_lost(self, region: Region, attributes: bool = True) -> None:
        """Counts what most formats can't hold of an object: its keypoints, its attributes."""
        if _keypoints_of(region):
            self.losses[KEYPOINTS] += 1
        if attributes and _attributes_of(region):
            self.losses[ATTRIBUTES] += 1

    def traced(self, region: Region, image: AnnotatedImage) -> tuple[list[Loop], list[Loop]]:
        """The outer loops and holes of an object's pixels, see `outlines`, in image coordinates."""
        if isinstance(region.shape, Ellipse):
            self.losses[ROUND] += 1
        else:
            self.losses[REDRAWN] += 1
        top, left, pixels = _crop_of(region, image)
        outer, holes = outlines(pixels)
        if self.tolerance:
            self.losses[SIMPLER] += 1
            outer = [_simplified(loop, self.tolerance) for loop in outer]
            holes = [_simplified(loop, self.tolerance) for loop in holes]
        return _moved(outer, left, top), _moved(holes, left, top)

    def single_outline(self, region: Region, image: AnnotatedImage) -> Loop:
        """An object as one outline, for formats that hold no more."""
        points = None
        if self.shapes != "masks":
            points = _points_of(region.shape, image.height, image.width)
        if points is not None and len(points) == 1:
            return points[0]
        outer, holes = self.traced(region, image)
        self.losses[PIECES] += len(outer) > 1
        self.losses[HOLES] += bool(holes)
        return joined([*outer, *holes])


def _moved(loops: list[Loop], x: float, y: float) -> list[Loop]:
    """Loops moved by x and y."""
    return [[(px + x, py + y) for px, py in loop] for loop in loops]


class _CocoWriter(_Writer):
    """annotations.json and images/."""

    def write(self) -> None:
        path = self.output
        images_folder = self.folder
        if not _is_json("coco", self.output):
            path = self.output / "annotations.json"
            images_folder = self.output / "images"
        categories, numbers = self.categories()
        image_ids = self.image_ids()
        entries = []
        items: list[dict] = []
        keep_ids = _are_ids([region.number for region in self.regions()])
        for image, name, image_id in zip(self.annotated.images, self.names, image_ids):
            entry = {**(image.extra or {}), "id": image_id}
            if self.copy_images:
                placed = self.put_image(image, images_folder / name)
                entry["file_name"] = placed.relative_to(images_folder).as_posix()
            else:
                entry["file_name"] = image.name
            entry["height"] = image.height
            entry["width"] = image.width
            entries.append(entry)
            for region in image.regions:
                number = len(items) + 1
                if keep_ids:
                    number = region.number
                item = self.item(region, image)
                item.update(id=number, image_id=image_id, category_id=numbers[region.name])
                items.append(item)
            self.count(image, image.regions)
        data = {"info": {}, "images": entries, "annotations": items, "categories": categories}
        self.write_json(path, data)

    def regions(self) -> list[Region]:
        """All objects."""
        return [region for image in self.annotated.images for region in image.regions]

    def image_ids(self) -> list[Any]:
        """The ids of the json that was read where they are sound, otherwise 1, 2, ..."""
        own = [(image.extra or {}).get("id") for image in self.annotated.images]
        if _are_ids(own):
            return own
        return list(range(1, len(own) + 1))

    def categories(self) -> tuple[list[dict], dict[str, Any]]:
        """The categories and {name: id}: those of the json that was read, or else new ones."""
        own = self.annotated.categories
        if own and {item["name"] for item in own} >= set(self.annotated.classes):
            numbers = {item["name"]: item["id"] for item in reversed(own)}
            return own, numbers
        numbers = {name: number for number, name in enumerate(self.annotated.classes, 1)}
        return [{"id": number, "name": name} for name, number in numbers.items()], numbers

    def item(self, region: Region, image: AnnotatedImage) -> dict:
        """An annotation, without its ids."""
        item: dict[str, Any] = {}
        shape = region.shape
        if isinstance(shape, CocoSegmentation):
            item = {key: value for key, value in shape.annotation.items() if key != "attributes"}
        attributes = _attributes_of(region)
        attributes = {key: value for key, value in attributes.items() if key not in item}
        if attributes:
            item["attributes"] = attributes
        item["iscrowd"] = int(region.crowd)
        segmentation = self.segmentation(region, image)
        item["segmentation"] = segmentation
        if "area" not in item or "bbox" not in item:
            item.update(_measures(segmentation, image.height, image.width))
        return item

    def segmentation(self, region: Region, image: AnnotatedImage) -> Any:
        """The value of "segmentation": polygons or run lengths."""
        size = (image.height, image.width)
        points = _points_of(region.shape, *size)
        if self.shapes == "masks" or (points is None and self.shapes == "keep"):
            self.losses[DRAWN] += points is not None
            self.losses[ROUND] += isinstance(region.shape, Ellipse)
            return self.runs(region, image)
        if points is None:
            outer, holes = self.traced(region, image)
            points = outer
            if holes:
                self.losses[HOLES] += 1
                points = [joined([*outer, *holes])]
        return [[_rounded(value) for point in part for value in point] for part in points]

    def runs(self, region: Region, image: AnnotatedImage) -> dict:
        """An object's run lengths: those of the json that was read, or else new ones."""
        shape = region.shape
        if isinstance(shape, CocoSegmentation) and isinstance(
            shape.annotation["segmentation"], dict
        ):
            return shape.annotation["segmentation"]
        top, left, pixels = _crop_of(region, image)
        box = (top, left, top + pixels.shape[0], left + pixels.shape[1])
        return encode_crops([(box, pixels)], (image.height, image.width))[0]


def _are_ids(values: Sequence[Any]) -> bool:
    """Whether values are ids as COCO's: integers, all different."""
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return False
    return len(set(values)) == len(values)


def _measures(segmentation: Any, height: int, width: int) -> dict:
    """The area and the box [x, y, width, height] of a segmentation, as COCO's json has them."""
    from pycocotools import mask as coco_mask

    code = to_rle({"segmentation": segmentation}, height, width)
    box = [_rounded(side) for side in coco_mask.toBbox(code).tolist()]
    return {"area": float(coco_mask.area(code)), "bbox": box}


class _ViaWriter(_Writer):
    """via_region_data.json beside the images, as VIA 2 exports annotations."""

    ATTRIBUTE = "class"

    def write(self) -> None:
        path = self.output
        if not _is_json("via", self.output):
            path = self.output / "via_region_data.json"
        entries = {}
        for image, name in zip(self.annotated.images, self.names):
            if self.copy_images:
                placed = self.put_image(image, self.folder / name)
                name = placed.relative_to(self.folder).as_posix()
            else:
                name = image.name
            regions = self.without_crowds(image)
            size = -1
            if image.path and not image.embedded:
                size = os.path.getsize(image.path)
            entries[f"{name}{size}"] = {
                "filename": name,
                "size": size,
                "regions": [self.region(region, image) for region in regions],
                "file_attributes": {},
            }
            self.count(image, regions)
        self.write_json(path, entries)

    def region(self, region: Region, image: AnnotatedImage) -> dict:
        """A region with its class and attributes."""
        self.count_lost(region, attributes=False)
        attributes = {
            name: value for name, value in _attributes_of(region).items() if name != self.ATTRIBUTE
        }
        if attributes and not self.report.notes:
            self.report.notes.append(
                f"regions have several attributes: the class is in {self.ATTRIBUTE!r}"
                f" (--attribute={self.ATTRIBUTE})"
            )
        return {
            "shape_attributes": self.shape(region, image),
            "region_attributes": {self.ATTRIBUTE: region.name, **attributes},
        }

    def shape(self, region: Region, image: AnnotatedImage) -> dict:
        """A shape as VIA's shape_attributes; its points are centres of pixels, half a pixel off."""
        shape = region.shape
        if self.shapes != "masks" and isinstance(shape, Rectangle):
            return {
                "name": "rect",
                "x": _rounded(shape.x1),
                "y": _rounded(shape.y1),
                "width": _rounded(shape.x2 - shape.x1),
                "height": _rounded(shape.y2 - shape.y1),
            }
        if self.shapes != "masks" and isinstance(shape, Ellipse):
            return self.ellipse(shape)
        loop = self.single_outline(region, image)
        return {
            "name": "polygon",
            "all_points_x": [_rounded(x - 0.5) for x, _ in loop],
            "all_points_y": [_rounded(y - 0.5) for _, y in loop],
        }

    def ellipse(self, shape: Ellipse) -> dict:
        """A circle or an ellipse as VIA's shape_attributes."""
        centre = {"cx": shape.x, "cy": shape.y}
        if _is_circle(shape):
            return {"name": "circle", **centre, "r": shape.radius_x}
        radii = {"rx": shape.radius_x, "ry": shape.radius_y}
        return {"name": "ellipse", **centre, **radii, "theta": shape.angle}


class _LabelmeWriter(_Writer):
    """A json beside each image."""

    FLAT = True
    VERSION = "5.5.0"

    def write(self) -> None:
        for image, name in zip(self.annotated.images, self.names):
            path = self.output / name
            image_path = path.name
            if self.copy_images:
                image_path = self.put_image(image, path).name
            elif image.path and not image.embedded:
                image_path = os.path.relpath(image.path, path.parent)
            shapes: list[dict] = []
            for number, region in enumerate(image.regions, 1):
                shapes += self.shapes_of(region, image, number)
            data: dict[str, Any] = {
                "version": self.VERSION,
                "flags": {},
                "shapes": shapes,
                "imagePath": image_path.replace("\\", "/"),
                "imageData": None,
                "imageHeight": image.height,
                "imageWidth": image.width,
            }
            self.write_json(path.with_suffix(".json"), data)
            self.count(image, image.regions)

    def shapes_of(self, region: Region, image: AnnotatedImage, number: int) -> list[dict]:
        """The shapes of an object; where they are several, `number` is their group_id."""
        self.count_lost(region, attributes=False)
        forms = self.forms(region, image)
        attributes = _attributes_of(region)
        shapes = []
        for form in forms:
            shape = {"label": region.name, "group_id": None, "flags": {}, **form}
            if len(forms) > 1:
                shape["group_id"] = number
            if region.crowd:
                shape["iscrowd"] = 1
            if attributes:
                shape["attributes"] = attributes
            shapes.append(shape)
        return shapes

    def forms(self, region: Region, image: AnnotatedImage) -> list[dict]:
        """The shape_type and points of an object's outlines, or of its mask."""
        shape = region.shape
        if self.shapes != "masks" and isinstance(shape, Rectangle):
            corners = [[shape.x1, shape.y1], [shape.x2, shape.y2]]
            return [_form("rectangle", corners)]
        if self.shapes != "masks" and isinstance(shape, Ellipse) and _is_circle(shape):
            x = shape.x + 0.5
            y = shape.y + 0.5
            return [_form("circle", [[x, y], [x + shape.radius_x, y]])]
        points = _points_of(shape, image.height, image.width)
        if points is not None and self.shapes != "masks":
            return [_form("polygon", part) for part in points]
        if self.shapes == "outlines":
            outer, holes = self.traced(region, image)
            if not holes:
                return [_form("polygon", part) for part in outer]
            self.losses[HOLES] += 1
            return [_form("polygon", joined([*outer, *holes]))]
        self.losses[DRAWN] += points is not None
        self.losses[ROUND] += isinstance(shape, Ellipse)
        top, left, pixels = _crop_of(region, image)
        bottom = top + pixels.shape[0] - 1
        right = left + pixels.shape[1] - 1
        form = _form("mask", [[left, top], [right, bottom]])
        return [{**form, "mask": base64.b64encode(_png(pixels)).decode()}]


def _form(kind: str, points: Sequence) -> dict:
    """LabelMe's shape_type and points."""
    rounded = [[_rounded(x), _rounded(y)] for x, y in points]
    return {"shape_type": kind, "points": rounded}


def _is_circle(shape: Ellipse) -> bool:
    """Whether an ellipse is a circle."""
    return shape.radius_x == shape.radius_y


def _png(pixels: np.ndarray) -> bytes:
    """A mask [h, w] bool as a PNG of 0 and 255; a label image [h, w] uint16 as it is."""
    from PIL import Image

    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


class _YoloWriter(_Writer):
    """data.yaml, images/<subset> and labels/<subset>; the subset is train where a name has none."""

    # Folders that begin names of the source, and the subsets that they are.
    SUBSETS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
    # Number of folders below images/<subset>/ that readers look into.
    DEEPEST = files.DEEPEST_IMAGES - 2

    def write(self) -> None:
        numbers = {name: number for number, name in enumerate(self.annotated.classes)}
        images = self.output / "images"
        labels = self.output / "labels"
        used = set()
        for image, name in zip(self.annotated.images, self.places()):
            used.add(name.partition("/")[0])
            placed = self.put_image(image, images / name).relative_to(images)
            regions = self.without_crowds(image)
            lines = []
            for region in regions:
                self.count_lost(region)
                loop = self.cut(self.single_outline(region, image), image)
                lines.append(f"{numbers[region.name]} {_shares(loop, image)}\n")
            self.write_bytes(labels / placed.with_suffix(".txt"), "".join(lines).encode())
            self.count(image, regions)
        names = "".join(
            f"  {number}: {json.dumps(name, ensure_ascii=False)}\n"
            for name, number in numbers.items()
        )
        folders = {subset: f"images/{subset}" for subset in sorted(used)}
        for subset in ("train", "val"):  # Ultralytics refuses a data.yaml without both
            folders.setdefault(subset, next(iter(folders.values()), "images/train"))
        subsets = "".join(f"{subset}: {folder}\n" for subset, folder in folders.items())
        data = f"path: .\n{subsets}names:\n{names}"
        self.write_bytes(self.output / "data.yaml", data.encode())

    def places(self) -> list[str]:
        """The images' paths below images/: a subset, at most `DEEPEST` folders, a unique stem."""
        places: list[str] = []
        taken: set[str] = set()
        for name in self.names:
            first, slash, rest = name.partition("/")
            subset = "train"
            if slash and first.lower() in self.SUBSETS:
                subset = self.SUBSETS[first.lower()]
                name = rest
            *folders, base = name.split("/")
            base = "_".join([*folders[self.DEEPEST :], base])
            path = pathlib.PurePosixPath(subset, *folders[: self.DEEPEST], base)
            unique = path
            number = 1
            while str(unique.with_suffix("")).casefold() in taken:
                number += 1
                unique = path.with_stem(f"{path.stem}_{number}")
            taken.add(str(unique.with_suffix("")).casefold())
            places.append(str(unique))
        return places

    def cut(self, loop: Loop, image: AnnotatedImage) -> Loop:
        """An outline clipped to the image; readers refuse coordinates outside of 0..1."""
        clipped = cut_outline(loop, image.height, image.width)
        self.losses[CUT] += clipped is not loop
        return clipped


def _shares(loop: Loop, image: AnnotatedImage) -> str:
    """Points as "x y x y ..." in 0..1 of the image's sides, exact to 1e-5 pixels or better."""
    coordinates = []
    for x, y in loop:
        coordinates.append(f"{x / image.width:.10g}")
        coordinates.append(f"{y / image.height:.10g}")
    return " ".join(coordinates)


class _MasksWriter(_Writer):
    """The Data Science Bowl's folders: <id>/images/<id>.png and <id>/masks/*.png."""

    FLAT = True

    def write(self) -> None:
        one_class = self.has_one_class()
        for image, name in zip(self.annotated.images, self.names):
            image_id = pathlib.PurePosixPath(name).stem
            folder = self.output / image_id
            if not image.path:
                self.losses[SIZELESS] += 1
                continue
            if self.copy_images:
                self.write_image(image, folder / "images" / f"{image_id}.png")
            regions = self.without_crowds(image)
            self.write_masks(image, regions, folder / "masks")
            if not one_class:
                self.losses[CLASSES] += len(regions)
            self.count(image, regions)

    def write_image(self, image: AnnotatedImage, path: pathlib.Path) -> None:
        """Copies an image that is a PNG, and writes another one as a PNG."""
        if image.path.lower().endswith(".png") and not image.embedded:
            _copy_image(image, path, self.losses)
        else:
            _write_png(image, path, self.losses)

    def write_masks(
        self, image: AnnotatedImage, regions: Sequence[Region], folder: pathlib.Path
    ) -> None:
        """Writes the files 00001.png, ... of an image's masks."""
        folder.mkdir(parents=True, exist_ok=True)
        names = set()
        for number, region in enumerate(regions, 1):
            self.count_lost(region)
            mask = np.zeros((image.height, image.width), bool)
            top, left, pixels = _crop_of(region, image)
            mask[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
            path = folder / f"{number:05}.png"
            self.write_bytes(path, _png(mask))
            names.add(path.name)
        # An earlier run may have written more objects: they would be read as this image's.
        for path in folder.glob("*.png"):
            if path.name not in names:
                path.unlink()

    def has_one_class(self) -> bool:
        """Whether there is one class, of which only the name is lost; a note then has it."""
        classes = self.annotated.classes
        if len(classes) == 1:
            self.report.notes.append(f"files of masks name no class: it is {classes[0]!r}")
        return len(classes) == 1


class _LabelsWriter(_MasksWriter):
    """images/ and label images of 16 bits in masks/."""

    def write(self) -> None:
        one_class = self.has_one_class()
        for image, name in zip(self.annotated.images, self.names):
            if not image.path:
                self.losses[SIZELESS] += 1
                continue
            placed = self.put_image(image, self.output / "images" / name)
            relative = placed.relative_to(self.output / "images")
            regions = self.without_crowds(image)
            if len(regions) > MOST_LABELS:
                raise ValueError(
                    f"a label image has {MOST_LABELS} objects at most. Received: {len(regions)} of"
                    f" {image.name}"
                )
            labels = self.labels_of(image, regions)
            path = self.output / "masks" / relative.with_suffix(".png")
            self.write_bytes(path, _png(labels))
            if not one_class:
                self.losses[CLASSES] += len(regions)
            self.count(image, regions)

    def labels_of(self, image: AnnotatedImage, regions: Sequence[Region]) -> np.ndarray:
        """[H, W] uint16: the number of each pixel's object, 0 for none; the smallest of several."""
        labels = np.zeros((image.height, image.width), np.uint16)
        crops = [_crop_of(region, image) for region in regions]
        areas = [np.count_nonzero(pixels) for _, _, pixels in crops]
        for number in sorted(range(len(crops)), key=areas.__getitem__):
            self.count_lost(regions[number])
            top, left, pixels = crops[number]
            window = labels[top : top + pixels.shape[0], left : left + pixels.shape[1]]
            free = pixels & (window == 0)
            window[free] = number + 1
            if not free.any():
                self.losses[HIDDEN] += 1
            elif np.count_nonzero(free) < areas[number]:
                self.losses[OVERLAPS] += 1
        return labels


_WRITERS: dict[str, Callable[..., _Writer]] = {
    "coco": _CocoWriter,
    "via": _ViaWriter,
    "labelme": _LabelmeWriter,
    "yolo": _YoloWriter,
    "masks": _MasksWriter,
    "labels": _LabelsWriter,
}
