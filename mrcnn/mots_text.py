"""Reads the text files of MOTS: a line for each object of a frame, with its run lengths."""

import dataclasses
import os
from typing import Any

from mrcnn import files
from mrcnn.coded_pngs import MOTS_CLASSES, MOTS_IGNORED
from mrcnn.masks import whole_number
from mrcnn.reading import (
    AnnotationError,
    Annotations,
    Entry,
    Problem,
    Reader,
    Region,
    run_lengths_of,
)

# The columns of a line.
_COLUMNS = "frame, object, class, height, width and run lengths"


@dataclasses.dataclass
class Video:
    """A video of MOTS.

    Attributes:
        name: of its folder.
        text: path of its text file.
        images: folder of its frames, which are named by their numbers.
        classes: {number: name}.
    """

    name: str
    text: str
    images: str
    classes: dict[int, str]


def mots_videos_in(path: str) -> list[Video]:
    """The videos with text files in a folder of MOTS.

    KITTI MOTS has instances_txt/0000.txt and training/image_02/0000/, MOTS20 of MOTChallenge
    <video>/gt/gt.txt and <video>/img1/, below train/ or not. training/ and train/ may be given
    themselves. Empty for another folder.
    """
    videos = []
    root, own_name = os.path.split(os.path.abspath(path))
    if own_name != "training":
        root = path
    texts = os.path.join(root, "instances_txt")
    for images in ("training/image_02", "image_02"):
        folder = os.path.join(root, images)
        if os.path.isdir(texts) and os.path.isdir(folder):
            for name in sorted(os.listdir(texts)):
                stem, suffix = os.path.splitext(name)
                if suffix == ".txt" and os.path.isdir(os.path.join(folder, stem)):
                    text = os.path.join(texts, name)
                    videos.append(Video(stem, text, os.path.join(folder, stem), MOTS_CLASSES))
    pedestrian = {2: MOTS_CLASSES[2]}
    for root in (path, os.path.join(path, "train")):
        for name in ("", *files.folders_in(root)):
            folder = os.path.join(root, name)
            text = os.path.join(folder, "gt", "gt.txt")
            if os.path.isfile(text) and os.path.isdir(os.path.join(folder, "img1")):
                name = name or os.path.basename(os.path.abspath(folder))
                videos.append(Video(name, text, os.path.join(folder, "img1"), pedestrian))
    return [video for video in videos if _has_run_lengths(video.text)]


def _has_run_lengths(text: str) -> bool:
    """Whether a file's first line has MOTS' columns; MOT's, of boxes, has commas."""
    parts = files.first_line(text).split(" ")
    return len(parts) == 6 and all(part.isdecimal() for part in parts[:5])


def read_mots_text(path: str, videos: list[Video], keep_empty: bool = False) -> Annotations:
    """Reads the objects of videos; each frame is an image.

    Regions whose objects were not annotated, of class 10, are crowds of each class.

    Args:
        path: the folder.
        videos: from `mots_videos_in`.
        keep_empty: also returns frames without objects.

    Raises:
        AnnotationError: a file can't be read, or no image can be used.
    """
    reader = Reader(path, None, keep_empty)
    classes: dict[int, str] = {}
    for video in videos:
        classes.update(video.classes)
        frames = _frames_of(video)
        entries = {
            number: Entry(f"{video.name}/{name}", [], file=os.path.join(video.images, name))
            for number, name in frames.items()
        }
        is_annotated = set()
        try:
            lines = files.read_text(video.text).splitlines()
        except ValueError as error:
            raise AnnotationError(str(error)) from error
        for row, line in enumerate(lines, 1):
            try:
                number, regions = _regions_of(line, video)
                if number not in entries:
                    raise Problem(f"expected an image of frame {number}. Received: none")
            except Problem as error:
                reader.problem(f"{os.path.relpath(video.text, path)}, line {row}", str(error))
                continue
            is_annotated.add(number)
            entries[number].regions += regions
        for number, entry in sorted(entries.items()):
            reader.add(entry, annotated=number in is_annotated)
    return reader.finish(list(classes.values()))


def _frames_of(video: Video) -> dict[int, str]:
    """{number of a frame: name of its image}."""
    frames = {}
    for name in sorted(os.listdir(video.images)):
        stem = os.path.splitext(name)[0]
        if files.is_image_name(name) and stem.isdecimal():
            frames[int(stem)] = name
    return frames


def _regions_of(line: str, video: Video) -> tuple[int, list[Region]]:
    """The number of the frame of a line, and its object; a region to ignore is several crowds."""
    parts: list[Any] = line.strip().split(" ")
    numbers = [whole_number(part) for part in parts[:5]]
    if len(parts) != 6 or None in numbers:
        raise Problem(f"expected {_COLUMNS}. Received: {files.short(line)}")
    frame, object_id, class_id, height, width = map(int, parts[:5])
    is_ignored = class_id == MOTS_IGNORED
    if class_id not in video.classes and not is_ignored:
        raise Problem(
            f"expected a class of {', '.join(map(str, video.classes))}, or {MOTS_IGNORED}."
            f" Received: {class_id}"
        )
    shape = run_lengths_of({"size": [height, width], "counts": parts[5]}, (height, width))
    names = list(video.classes.values())
    if not is_ignored:
        names = [video.classes[class_id]]
    return frame, [Region(name, shape, is_ignored, object_id) for name in names]
