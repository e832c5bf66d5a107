"""Reads YouTube-VIS' json, in which OVIS is published too: masks of the objects of videos."""

import functools
import logging
from collections.abc import Iterator
from typing import Any

from mrcnn import files
from mrcnn.masks import SegmentationError, sound_segmentation
from mrcnn.outlines import CocoSegmentation, Rectangle
from mrcnn.reading import (
    Annotations,
    Entry,
    Problem,
    Reader,
    Region,
    class_name_of,
    field_of,
    field_or_none,
    given_size,
    number_of,
    run_lengths_of,
    values_of,
)

logger = logging.getLogger(__name__)

# Keys of a track that are not the user's own attributes.
_OF_TRACKS = {"id", "video_id", "category_id", "segmentations", "bboxes", "areas", "iscrowd"}


def is_youtube_vis(data: Any) -> bool:
    """Whether a json is YouTube-VIS': videos with the names of their frames, and tracks."""
    if not isinstance(data, dict) or "images" in data:
        return False
    if not isinstance(data.get("annotations"), list):
        return False
    return any(
        isinstance(field_or_none(video, "file_names"), list)
        for video in values_of(data.get("videos"))
    )


def read_youtube_vis(reader: Reader, data: Any) -> Annotations:
    """Reads the videos of a json; each frame is an image, each track an object in some of them.

    Boxes are read only where no track has masks, with a warning. The track's id is kept as an
    attribute, `track_id`.

    Args:
        reader: of the file.
        data: its content.

    Raises:
        AnnotationError: no image can be used.
    """
    names = _names_of(reader, data)
    tracks: dict[Any, list] = {}
    for number, track in enumerate(data["annotations"]):
        video_id = field_or_none(track, "video_id")
        if not isinstance(video_id, (int, str)):
            reader.problem(f"track {number}", f"expected a video_id. Received: {video_id!r}")
            continue
        tracks.setdefault(video_id, []).append(track)
    field = "bboxes"
    if any(_frame_of(track, "segmentations", None) for track in data["annotations"]):
        field = "segmentations"
    boxes = 0
    read_tracks = 0
    for number, video in enumerate(values_of(data["videos"])):
        try:
            frames = field_of(video, "file_names", list, "a video")
        except Problem as error:
            reader.problem(f"video {number}", str(error))
            continue
        size = given_size(video.get("height"), video.get("width"))
        of_video = []
        if isinstance(video.get("id"), (int, str)):
            of_video = tracks.get(video["id"], [])
        read_tracks += len(of_video)
        for frame, name in enumerate(frames):
            if not isinstance(name, str) or not name:
                reader.problem(
                    f"video {number}, frame {frame}",
                    f"expected the name of a file. Received: {files.short(name)}",
                )
                continue
            items = list(_seen(of_video, field, frame))
            read = functools.partial(_region, names=names, field=field, frame=frame, size=size)
            entry = Entry(name, [], size)
            entry.regions = list(reader.regions(f"image {name!r}", items, read))
            if field == "bboxes":
                boxes += len(entry.regions)
            reader.add(entry, annotated=bool(items))
    lost = sum(map(len, tracks.values())) - read_tracks
    if lost > 0:
        reader.problem("tracks", f"expected a video for each. Received: {lost} without; left out")
    if boxes:
        logger.warning(
            "%s: no track has masks; the boxes of %d objects are taken for their shapes",
            reader.path,
            boxes,
        )
    return reader.finish(list(dict.fromkeys(names.values())))


def _names_of(reader: Reader, data: dict) -> dict[Any, str]:
    """{category id: name}, in the order of the ids where they are numbers."""
    names: dict[Any, str] = {}
    for number, category in enumerate(values_of(data.get("categories"))):
        category_id = field_or_none(category, "id")
        try:
            if not isinstance(category_id, (int, str)):
                raise Problem(f"expected an id. Received: {files.short(category)}")
            names[category_id] = class_name_of(category.get("name"), "a category's name")
        except Problem as error:
            reader.problem(f"category {number}", str(error))
    if all(isinstance(category_id, int) for category_id in names):
        return dict(sorted(names.items()))
    return names


def _frame_of(track: Any, field: str, frame: int | None) -> Any:
    """What a track has in a frame, or in any frame: None, where it isn't seen.

    Args:
        track: an item of "annotations".
        field: "segmentations" or "bboxes".
        frame: number of the frame; None for whether there is anything in any.
    """
    values = field_or_none(track, field)
    if not isinstance(values, list):
        return None
    if frame is None:
        return any(values)
    if frame >= len(values):
        return None
    return values[frame] or None


def _seen(tracks: list, field: str, frame: int) -> Iterator[tuple[Any, dict]]:
    """(id or number, track) of the tracks that are seen in a frame."""
    for number, track in enumerate(tracks):
        if _frame_of(track, field, frame) is not None:
            yield track.get("id", number), track


def _region(
    track: dict, names: dict[Any, str], field: str, frame: int, size: tuple[int, int] | None
) -> Region:
    """The object of a track in a frame; the arguments are those of `_frame_of`, names, and size."""
    category_id = track.get("category_id")
    if not isinstance(category_id, (int, str)) or category_id not in names:
        raise Problem(
            f"expected the category_id of one of {len(names)} categories. Received:"
            f" {files.short(category_id)}"
        )
    attributes = {
        key: value
        for key, value in track.items()
        if key not in _OF_TRACKS and isinstance(value, (str, bool, int, float))
    }
    if isinstance(track.get("id"), (int, str)):
        attributes["track_id"] = track["id"]
    value = _frame_of(track, field, frame)
    shape: CocoSegmentation | Rectangle
    if field == "bboxes":
        numbers = [number_of(number) for number in values_of(value)]
        sides = [number for number in numbers if number is not None]
        if len(numbers) != 4 or len(sides) != 4 or sides[2] <= 0 or sides[3] <= 0:
            raise Problem(f"expected a box of x, y, width, height. Received: {files.short(value)}")
        x, y, width, height = sides
        shape = Rectangle(x, y, x + width, y + height)
    elif isinstance(value, dict):
        shape = run_lengths_of(value, size, attributes)
    else:
        shape = _polygons(value, size, attributes)
    crowd = track.get("iscrowd") in (1, True)
    return Region(names[category_id], shape, crowd, extra=attributes or None)


def _polygons(value: Any, size: tuple[int, int] | None, attributes: dict) -> CocoSegmentation:
    """The polygons of COCO in a frame; the arguments are those of `run_lengths_of`."""
    if size is None:
        raise Problem("expected height and width of the video, for polygons. Received: none")
    try:
        polygons, _ = sound_segmentation(value, *size)
    except SegmentationError as error:
        raise Problem(str(error)) from error
    return CocoSegmentation({"segmentation": polygons, "attributes": attributes})
