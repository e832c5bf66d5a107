"""Pictures and videos: reading what a path, folder or glob names, painting results, writing.

    for picture in media.read("holiday/*.jpg", skipped):          # RGB uint8, one after the other
        ...
    media.process("film.mp4", "out", lambda pictures: [picture.image[::-1] for picture in pictures])

Files that can't be read are reported and skipped. What is written is complete or absent. Keras and
TensorFlow are not imported; videos need OpenCV (`cv2`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import glob
import io
import json
import logging
import os
import pathlib
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from mrcnn import fonts, utils
from mrcnn.files import atomic, atomic_together, naming_full_disk, plain_value, write_bytes
from mrcnn.masks import Masks
from mrcnn.utils import read_image  # noqa: F401 (reading one file is part of this module's offer)

logger = logging.getLogger(__name__)

AnyPath = str | os.PathLike
Source = AnyPath | Sequence  # a path, a glob, or a list of these
Skipped = list[tuple[pathlib.Path, str]]  # file and reason

VIDEO_SUFFIXES = (
    ".mp4",
    ".avi",
    ".mov",
    ".mkv",
    ".webm",
    ".m4v",
    ".mpg",
    ".mpeg",
    ".wmv",
    ".mjpeg",
    # Of cameras, telephones, recorders and discs.
    ".3g2",
    ".3gp",
    ".264",
    ".265",
    ".amv",
    ".asf",
    ".divx",
    ".dv",
    ".f4v",
    ".flv",
    ".h264",
    ".h265",
    ".hevc",
    ".insv",
    ".ivf",
    ".lrv",
    ".m1v",
    ".m2t",
    ".m2ts",
    ".m2v",
    ".mjpg",
    ".mod",
    ".mpe",
    ".mpv",
    ".mts",
    ".mxf",
    ".nut",
    ".ogv",
    ".qt",
    ".rm",
    ".rmvb",
    ".tod",
    ".ts",
    ".vob",
    ".wtv",
    ".xvid",
    ".y4m",
)
# Names that text has too: TypeScript, Qt's translations, Fortran's modules.
_ALSO_OF_TEXT = (".ts", ".mts", ".mod", ".rm", ".dv")
# How files of other names begin that are videos: (place, bytes).
_VIDEO_BEGINNINGS = (
    (0, b"\x1aE\xdf\xa3"),  # Matroska, WebM
    (0, b"FLV\x01"),
    (0, b"OggS"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),  # ASF, WMV
    (0, b"\x00\x00\x01\xba"),  # MPEG program stream
    (0, b"\x00\x00\x01\xb3"),
    (0, b"YUV4MPEG2"),
    (0, b".RMF"),
    (4, b"moov"),  # QuickTime
    (4, b"mdat"),
    (4, b"wide"),
)
# Pictures in the container of MP4, by what follows "ftyp".
_PICTURE_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis", b"crx ")
# Kinds of pictures that are written under their own name; others get ".png" after it.
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
# Frames per second of a video whose header doesn't say.
DEFAULT_RATE = 25.0


@dataclasses.dataclass
class Picture:
    """An image file or a frame of a video.

    Attributes:
        path: pathlib.Path of the file.
        image: [H, W, 3] uint8, RGB.
        frame: number of the frame from 0; None for an image file.
    """

    path: pathlib.Path
    image: np.ndarray
    frame: int | None = None

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        return f"Picture({str(self.path)!r}, {height} x {width}, frame {self.frame})"


class PictureError(ValueError):
    """Raised by a function that `process` calls: a picture can't be processed, it is skipped."""


@dataclasses.dataclass
class Processed:
    """The outcome of `process`.

    Attributes:
        written: paths of the new files.
        skipped: [(path, reason)] of the files that couldn't be read or processed.
        pictures: number of images and frames.
        seconds: time that it took.
    """

    written: list[str]
    skipped: Skipped
    pictures: int
    seconds: float

    def __repr__(self) -> str:
        files = f"{len(self.written)} files written, {len(self.skipped)} skipped"
        return f"Processed({self.pictures} pictures, {files}, {self.seconds:.1f} s)"


# ---- Reading -------------------------------------------------------------------------------------


def find_files(source: Source) -> list[pathlib.Path]:
    """The files that a source names, sorted.

    Args:
        source: path of a file; of a folder, for the files that lie in it (hidden ones and
            sub-folders are left out); a glob such as "photos/**/*.jpg"; or a list of these.

    Returns:
        list of pathlib.Path, not empty, each file once, also where links lead to it on several
        ways. What is no file (a pipe, a link to nothing) is among them; reading it says so.

    Raises:
        FileNotFoundError: nothing there; the message names the source.
    """
    if isinstance(source, (list, tuple)):
        return _each_once([path for part in source for path in find_files(part)])
    source = os.fspath(source)  # type: ignore[arg-type]  # no list any more
    path = pathlib.Path(source)
    if path.is_dir():
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        files = [entry for entry in entries if not os.path.isdir(entry)]
        below = len(entries) - len(files)
        hint = ""
        if below:
            hint = f"; its {below} folders are left out: {path / '**' / '*'} has what is in them"
        if not files:
            raise FileNotFoundError(f"No files in the folder {source}{hint}")
        if below:
            _say_once(f"{source}: {len(files)} files{hint}")
        return files
    if os.path.lexists(path):
        return [path]
    names = glob.glob(source, recursive=True)
    files = sorted(pathlib.Path(name) for name in names if not os.path.isdir(name))
    if not files:
        raise FileNotFoundError(
            f"No file, folder or glob that matches anything. Received: {source}"
        )
    return _each_once(files)


@functools.cache
def _say_once(text: str) -> None:
    """Logs a warning, once in a process: a command looks for its files several times."""
    logger.warning("%s", text)


def _each_once(files: list[pathlib.Path]) -> list[pathlib.Path]:
    """The files in their order without those that came before, maybe through another folder."""
    first: dict[str, pathlib.Path] = {}
    for file in files:
        folder = os.path.realpath(file.parent)
        first.setdefault(os.path.join(folder, file.name), file)
    return list(first.values())


def is_video(path: AnyPath) -> bool:
    """Whether a file is taken for a video: by its name, or by its beginning if that says nothing.

    A GIF or WebP of several frames is one, and so is a PNG that isn't called .png. Text is none,
    whatever its name: ".ts" and ".mts" are TypeScript too.
    """
    suffix = pathlib.Path(path).suffix.lower()
    if suffix in PICTURE_SUFFIXES:
        return False
    if suffix in VIDEO_SUFFIXES:
        return suffix not in _ALSO_OF_TEXT or not _is_text(_beginning(path))
    beginning = _beginning(path)
    return _begins_as_video(beginning) or _animation(path, beginning) is not None


def _animation(path: AnyPath, beginning: bytes) -> tuple[int, float] | None:
    """Frames and frames per second of an animated picture; None for every other file."""
    is_webp = beginning[:4] == b"RIFF" and beginning[8:12] == b"WEBP"
    if not is_webp and not beginning.startswith((b"GIF8", b"\x89PNG")):
        return None
    try:
        status = os.stat(path)
        return _animation_info(os.fspath(path), status.st_mtime_ns, status.st_size)
    except (OSError, ValueError):  # reading it says what is wrong
        return None


@functools.lru_cache(maxsize=64)
def _animation_info(path: str, time_written: int, size: int) -> tuple[int, float] | None:
    """`utils.animation_info` of a file that is asked for several times: it decodes all frames."""
    return utils.animation_info(path)


def _beginning(path: AnyPath, count: int = 1024) -> bytes:
    """The first bytes of a file; none of what can't be read."""
    if not os.path.isfile(path):  # a pipe would wait for a writer
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError:
        return b""


def _is_text(beginning: bytes) -> bool:
    """Whether a file begins as a text does, in any usual encoding."""
    if beginning[:2] in (b"\xff\xfe", b"\xfe\xff"):  # UTF-16
        return True
    control = bytes(range(9)) + bytes(range(14, 32))
    return bool(beginning) and not any(byte in control for byte in beginning)


def _begins_as_video(beginning: bytes) -> bool:
    """Whether a file's first bytes are those of a video."""
    if beginning[4:8] == b"ftyp":
        return beginning[8:12] not in _PICTURE_BRANDS
    if beginning[:4] == b"RIFF":
        return beginning[8:12] == b"AVI "
    for start, length in ((0, 188), (4, 192)):  # packets of MPEG transport streams
        marks = beginning[start : start + 3 * length : length]
        if marks == b"GGG":
            return True
    return any(beginning[at : at + len(mark)] == mark for at, mark in _VIDEO_BEGINNINGS)


def _cv2() -> Any:
    """OpenCV, or an ImportError that says what to install."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError("Videos need OpenCV: pip install opencv-python-headless") from error
    return cv2


@contextlib.contextmanager
def _capture(path: AnyPath) -> Iterator[Any]:
    """OpenCV's reader of a video, released at the end. Raises ValueError: not a video."""
    if os.path.exists(path):  # what is none may be an address or a camera
        mode = os.stat(path).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISDIR(mode):
            raise ValueError("expected a file. Received: a folder or a pipe")
        if not os.access(path, os.R_OK):
            raise PermissionError(f"it may not be read by this user: {path}")
    cv2 = _cv2()
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise ValueError("OpenCV can't read it as a video")
        yield capture
    finally:
        capture.release()


def video_info(path: AnyPath) -> tuple[int, float]:
    """Frames and frames per second of a video, as its header has them.

    Returns:
        (frames, rate); 0 frames where the header doesn't say. Of an animated picture the mean rate:
            each frame of it may have a duration of its own.

    Raises:
        ValueError: the file can't be read as a video.
    """
    animation = _animation(path, _beginning(path))
    if animation is not None:
        return animation
    cv2 = _cv2()
    with _capture(path) as capture:
        frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        rate = capture.get(cv2.CAP_PROP_FPS)
    if not np.isfinite(rate) or rate <= 0:
        rate = DEFAULT_RATE
    return max(frames, 0), rate


def read_video(path: AnyPath) -> Iterator[np.ndarray]:
    """Yields the frames of a video, [H, W, 3] uint8 RGB, turned as its header says.

    Raises:
        ValueError: not a video, or one without a frame that can be read.
    """
    if _animation(path, _beginning(path)) is not None:
        yield from utils.animation_frames(path)
        return
    cv2 = _cv2()
    count = 0
    with _capture(path) as capture:
        promised = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        while True:
            was_read, frame = capture.read()
            if not was_read:
                break
            count += 1
            yield np.ascontiguousarray(frame[..., ::-1])
    if not count:
        raise ValueError("it has no frame that can be read")
    if count < 0.95 * promised - 1:  # headers may be off by a little
        logger.warning("%s ends after %d frames; its header says %d", path, count, promised)


# What Pillow and OpenCV raise for files that are no pictures, or are too large.
_READING_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    SyntaxError,
    EOFError,
    MemoryError,
)


def _pictures(path: pathlib.Path, skipped: Skipped) -> Iterator[Picture]:
    """Yields the pictures of one file; one that can't be read goes to `skipped`."""
    try:
        if is_video(path):
            for frame, image in enumerate(read_video(path)):
                yield Picture(path, image, frame)
        else:
            yield Picture(path, read_image(path))
    except _READING_ERRORS as error:
        _skip(path, error, skipped)


def _skip(path: pathlib.Path, error: Exception, skipped: Skipped) -> None:
    """Reports a file that can't be read."""
    reason = str(error) or type(error).__name__
    logger.warning("%s is skipped: %s", path, reason)
    skipped.append((path, reason))


def read(source: Source, skipped: Skipped | None = None) -> Iterator[Picture]:
    """Yields a `Picture` for each image file and each frame of a video.

    Args:
        source: see `find_files`.
        skipped: list that takes (path, reason) of each file that can't be read; those are also
            logged.

    Raises:
        FileNotFoundError: nothing there.
    """
    if skipped is None:
        skipped = []
    for path in find_files(source):
        yield from _pictures(path, skipped)


# ---- Writing -------------------------------------------------------------------------------------


def write_image(path: AnyPath, image: np.ndarray) -> str:
    """Writes an image as .jpg or .png. Returns the path as a string.

    Args:
        path: where to.
        image: [H, W, 3] or [H, W] uint8, which is written as it is; another shape or range is
            brought to RGB of 0..255 by `utils.as_rgb`.

    Raises:
        ValueError: another suffix, or an image that is none; names the path.
    """
    from PIL import Image

    image = np.asarray(image)
    suffix = pathlib.Path(path).suffix.lower()
    formats = Image.registered_extensions()
    if suffix not in formats:
        raise ValueError(f"A picture is written as .jpg or .png. Received: {path}")
    has_alpha = image.ndim == 3 and image.shape[2] == 4
    is_ready = image.ndim == 2 or image.shape[2:] == (3,)
    is_ready = is_ready or (has_alpha and suffix not in (".jpg", ".jpeg"))
    if image.dtype != np.uint8 or not is_ready:
        try:
            image = utils.as_rgb(image)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    # Pillow, writing a jpeg to a file itself, doesn't notice that a disk is full.
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, formats[suffix], quality=92)
    write_bytes(path, buffer.getbuffer())
    return str(path)


def write_json(path: AnyPath, value: Any) -> str:
    """Writes a value as json. Returns the path as a string."""
    return write_jsons({path: value})[0]


def write_jsons(values: dict[AnyPath, Any]) -> list[str]:
    """Writes values as json, {path: value}, all of them or, of a full disk, none.

    Returns:
        the paths as strings.
    """
    with atomic_together(values) as temporaries:
        for temporary, (path, value) in zip(temporaries, values.items()):
            with naming_full_disk(path), open(temporary, "w", encoding="utf-8") as file:
                json.dump(value, file, default=plain_value)
    return [str(path) for path in values]


class VideoWriter:
    """A video that lies at `path` when the block ends without an error, and not before.

        with VideoWriter("out.mp4", rate=25) as video:
            video.write(image)

    Args:
        path: .mp4 (MPEG-4) or .avi (Motion JPEG).
        rate: frames per second.

    Frames are [H, W, 3] uint8 RGB of one size, or others that `utils.as_rgb` takes. Of those in
    another range than 0..255 the widest one so far (see `utils.value_range`) is kept, so that the
    picture doesn't flicker. An odd side is written with its last row or column twice, since the
    codecs take even sides only.
    """

    CODECS = {".mp4": "mp4v", ".avi": "MJPG"}

    def __init__(self, path: AnyPath, rate: float = DEFAULT_RATE):
        self.path = pathlib.Path(path)
        self.rate = rate
        self.frames = 0
        if self.path.suffix.lower() not in self.CODECS:
            raise ValueError(f"A video is written as {' or '.join(self.CODECS)}. Received: {path}")
        self._stack = contextlib.ExitStack()
        self._writer: Any = None  # OpenCV's, from the first frame on
        self._shape: tuple[int, ...] = ()
        self._limits: tuple[float, float] | None = None  # of frames that are not uint8

    def __enter__(self) -> VideoWriter:
        self._temporary = self._stack.enter_context(atomic(self.path))
        return self

    def write(self, image: np.ndarray) -> None:
        """Appends a frame [H, W, 3] uint8.

        Raises:
            ValueError: the frame has another shape than the first.
        """
        image = self._as_frame(np.asarray(image))
        if self._writer is None:
            self._open(image.shape)
        if image.shape != self._shape:
            raise ValueError(
                f"Frames of {self.path} are of one shape, the first had {self._shape}. "
                f"Received: {image.shape}"
            )
        even = [(0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)]
        padded = np.pad(image, even, mode="edge")
        self._writer.write(padded[..., ::-1].copy())
        self.frames += 1

    def _as_frame(self, image: np.ndarray) -> np.ndarray:
        """An image as [H, W, 3] uint8, in the widest range so far."""
        if image.dtype != np.uint8:
            colors = image
            if image.ndim == 3:
                # Without transparency, which has a range of its own.
                count = 1
                if image.shape[2] > 2:
                    count = 3
                colors = image[..., :count]
            low, high = utils.value_range(colors)
            if self._limits is not None:
                low = min(low, self._limits[0])
                high = max(high, self._limits[1])
            self._limits = (low, high)
            return utils.as_rgb(image, self._limits)
        return utils.as_rgb(image)

    def _open(self, shape: tuple[int, ...]) -> None:
        """Opens the temporary file for frames of a shape (H, W, 3)."""
        cv2 = _cv2()
        self._shape = shape
        height, width = (side + side % 2 for side in shape[:2])
        codec = cv2.VideoWriter_fourcc(*self.CODECS[self.path.suffix.lower()])
        self._writer = cv2.VideoWriter(self._temporary, codec, self.rate, (width, height))
        if not self._writer.isOpened():
            raise OSError(f"OpenCV can't write {self.path} at {width} x {height}")

    def __exit__(self, *error: Any) -> bool | None:
        if self._writer is not None:
            self._writer.release()
        if error[0] is None:
            problem = self._problem()
            if problem is not None:
                self._stack.__exit__(type(problem), problem, None)
                raise problem
        return self._stack.__exit__(*error)

    def _problem(self) -> Exception | None:
        """The problem of a video that was written, as a text; OpenCV reports none."""
        if not self.frames:
            return ValueError(f"{self.path} got no frame")
        try:
            promised, _ = video_info(self._temporary)
        except ValueError:
            promised = 0
        if not promised:  # the number of frames is written at the end
            reason = f"not all {self.frames} frames could be written, the disk may be full"
            return OSError(errno.ENOSPC, reason, str(self.path))
        return None


# ---- Painting ------------------------------------------------------------------------------------


def paint(
    image: np.ndarray,
    result: dict,
    class_names: Any,
    by_class: bool = False,
    alpha: float = 0.45,
    *,
    colors: Sequence | None = None,
    texts: Sequence[str] | None = None,
    boxes: bool = True,
) -> np.ndarray:
    """Paints a result into an image at its full size, in milliseconds.

    Args:
        image: [H, W, 3], or another that `utils.as_rgb` takes.
        result: dict of `MaskRCNN.detect`: masks of any form, boxes, keypoints, names and scores
            are painted.
        class_names: names by class id, a list or a dict; an id without one is "class 7".
        by_class: one colour for each class, which stays from frame to frame; otherwise one for each
            object.
        alpha: share of the colour in a mask.
        colors: [N] of (r, g, b) in 0..1, of each object; None for those that `by_class` says.
        texts: [N] in place of names and scores, "" for none.
        boxes: whether the edges of the boxes are painted.

    Returns:
        [H, W, 3] uint8, a new array.

    Raises:
        ValueError: parts of the result, colours or texts of other numbers of objects.
    """
    from mrcnn import visualize

    painted = utils.as_rgb(image)
    visualize.check_result(result["rois"], result["class_ids"], result.get("masks"), painted)
    rois = np.asarray(result["rois"]).reshape(-1, 4)
    class_ids = np.ravel(result["class_ids"])
    for name, given in (("colors", colors), ("texts", texts)):
        if given is not None and len(given) != len(rois):
            raise ValueError(
                f"{name} has one for each of the {len(rois)} objects. Received: {len(given)}"
            )
    if colors is None and by_class:
        colors = [visualize.class_color(class_id) for class_id in class_ids]
    elif colors is None:
        colors = visualize.random_colors(len(rois))
    masks = result.get("masks")
    if isinstance(masks, (np.ndarray, Masks)):
        _paint_masks(painted, rois, masks, colors, alpha)
    elif masks is not None:
        painted, _ = visualize.paint_masks(painted, masks, colors, alpha)
    painter = _Painter(painted)
    byte_colors = [tuple(int(255 * part) for part in color) for color in colors]
    if result.get("keypoints") is not None:
        threshold = visualize.keypoint_threshold(result)
        painter.add_keypoints(result["keypoints"], threshold, byte_colors)
    if texts is None:
        texts = visualize.label_texts(class_ids, class_names, result.get("scores"))
    for box, color, text in zip(rois, byte_colors, texts):
        if boxes:
            painter.add_box(box, color)
        if text:
            painter.add_label(box, text)
    return np.array(painter.picture)


def _paint_masks(
    painted: np.ndarray,
    boxes: np.ndarray,
    masks: np.ndarray | Masks,
    colors: Sequence,
    alpha: float,
) -> None:
    """Blends masks [H, W, N] into an image in place, inside their boxes: no mask lies outside."""
    from mrcnn import visualize

    if isinstance(masks, Masks):  # one after the other, never whole masks
        for i, color in enumerate(colors):
            (y1, x1, y2, x2), mask = masks.crop(i)
            visualize.apply_mask(painted[y1:y2, x1:x2], mask, color, alpha)
        return
    height, width = painted.shape[:2]
    inside = boxes.clip(0, [height, width, height, width]).astype(int)
    for i, (y1, x1, y2, x2) in enumerate(inside):
        mask = masks[y1:y2, x1:x2, i]
        visualize.apply_mask(painted[y1:y2, x1:x2], mask, colors[i], alpha)


class _Painter:
    """Paints lines and letters, whose sizes follow the picture's, with Pillow.

    Args:
        image: [H, W, 3] uint8; `picture` is a copy of it.
    """

    def __init__(self, image: np.ndarray):
        from PIL import Image, ImageDraw, ImageFont

        self.height, self.width = image.shape[:2]
        self.picture = Image.fromarray(image)
        self.draw = ImageDraw.Draw(self.picture)
        self.size = max(11, min(self.height, self.width) // 40)
        self.font = ImageFont.load_default(self.size)
        self.line_width = max(1, self.size // 8)

    def add_box(self, box: np.ndarray, color: tuple[int, ...]) -> None:
        """Paints the edge of a box (y1, x1, y2, x2), whose y2 and x2 lie outside."""
        y1, x1, y2, x2 = box
        corners = (x1, y1, max(x2 - 1, x1), max(y2 - 1, y1))
        self.draw.rectangle(corners, outline=color, width=self.line_width)

    def add_label(self, box: np.ndarray, text: str) -> None:
        """Writes a text above a box, or inside where there is no room, never beyond the image."""
        y1, x1 = (int(side) for side in box[:2])
        parts = self._parts(fonts.legible(text))
        if len(parts) == 1:
            part, font = parts[0]
            _, _, right, bottom = self.draw.textbbox((0, 0), part, font=font)
        else:
            right = sum(font.getlength(part) for part, font in parts)
            ascent = max(font.getmetrics()[0] for _, font in parts)
            bottom = ascent + max(font.getmetrics()[1] for _, font in parts)
        x = max(0, min(x1, self.width - right - 5))
        y = max(0, min(y1, self.height - bottom - 5))
        if box[0] >= bottom + 5:
            y = y1 - bottom - 5
        self.draw.rectangle((x, y, x + right + 4, y + bottom + 4), fill=(0, 0, 0))
        if len(parts) == 1:
            self.draw.text((x + 2, y + 2), part, fill="white", font=font)
            return
        x += 2
        for part, font in parts:  # on one line
            self.draw.text((x, y + 2 + ascent), part, fill="white", font=font, anchor="ls")
            x += font.getlength(part)

    def _parts(self, text: str) -> list[tuple[str, Any]]:
        """A text in parts, each with the font that has its letters."""
        from PIL import ImageFont

        parts = []
        for part, face in fonts.faces_of(text):
            font = self.font
            if face is not None:
                font = ImageFont.truetype(face[0], self.size, index=face[1])
            parts.append((part, font))
        if len(parts) > 1:
            parts = [(part.replace("\n", " "), font) for part, font in parts]
        return parts

    def add_keypoints(
        self, points: np.ndarray, threshold: float, colors: list[tuple[int, ...]]
    ) -> None:
        """Paints keypoints [N, K, (y, x, score)] above a threshold and the limbs between them."""
        from mrcnn import visualize

        points = np.asarray(points, float)
        pixels = np.floor(points[..., 1::-1]).astype(int)  # (x, y)
        shown = points[..., 2] > threshold
        width = 2 * self.line_width
        skeleton = visualize.keypoint_skeleton(points)
        for i, start, end in visualize.keypoint_limbs(shown, skeleton):
            limb = pixels[i, [start, end]].ravel().tolist()
            self.draw.line(limb, fill="black", width=width + 2)
            self.draw.line(limb, fill=colors[i], width=width)
        for i, k in np.argwhere(shown):
            x, y = pixels[i, k].tolist()
            corners = (x - width, y - width, x + width, y + width)
            self.draw.ellipse(corners, fill=colors[i], outline="white")


# ---- Both ----------------------------------------------------------------------------------------


def placed_below(files: Sequence[pathlib.Path], output: AnyPath) -> list[pathlib.Path]:
    """[path below `output` for each file], named as it is, in the folders that tell them apart."""
    # Without "..", which would lead out of the output.
    absolute = [pathlib.Path(os.path.abspath(path)) for path in files]
    root = os.path.commonpath([path.parent for path in absolute])
    return [pathlib.Path(output) / path.relative_to(root) for path in absolute]


def _targets(files: list[pathlib.Path], output: AnyPath) -> list[pathlib.Path]:
    """[path of the output for each file], in the files' own folders below `output`."""
    absolute = [pathlib.Path(os.path.abspath(path)) for path in files]
    targets: dict[pathlib.Path, None] = {}  # in their order
    for path, target in zip(absolute, placed_below(absolute, output)):
        if is_video(path):
            # "film.mov" and "film.mp4" in one folder stay apart.
            if path.suffix.lower() not in VideoWriter.CODECS:
                target = target.with_name(target.name + ".mp4")
        elif path.suffix.lower() not in PICTURE_SUFFIXES:
            target = target.with_name(target.name + ".png")
        while target in targets:  # "a.tif" and "a.tif.png" in one folder
            target = target.with_name(target.stem + "_" + target.suffix)
        targets[target] = None
    inputs = {os.path.realpath(path) for path in absolute}  # links may lead in circles
    for target in targets:
        if os.path.realpath(target) in inputs:
            raise ValueError(
                f"The output would replace an input file; choose another folder. Received: {output}"
            )
    return list(targets)


@dataclasses.dataclass
class _ImageOutput:
    """An image file; once written, its path stands in a list."""

    path: pathlib.Path
    written: list[str]

    def write(self, image: np.ndarray) -> None:
        self.written.append(write_image(self.path, image))


@dataclasses.dataclass
class _VideoOutput:
    """A video that is opened with its first frame, so that one without frames leaves no file.

    The stack closes it.
    """

    path: pathlib.Path
    rate: float
    stack: contextlib.ExitStack
    writer: VideoWriter | None = None

    def write(self, image: np.ndarray) -> None:
        if self.writer is None:
            self.writer = self.stack.enter_context(VideoWriter(self.path, self.rate))
        self.writer.write(image)


@dataclasses.dataclass
class _Batches:
    """Passes pictures to a function in batches, and what it returns to their outputs.

    Attributes:
        function, batch_size, title: see `process`.
        promised: number of pictures that there are to be.
        skipped: takes (path, reason) of each file that can't be processed.
        start: `time.monotonic` of the beginning.
        done: number of pictures that went through the function.
        waiting: those that did not yet, with their outputs.
    """

    function: Callable[[list[Picture]], Sequence[np.ndarray | None]]
    batch_size: int
    title: str
    promised: int
    skipped: Skipped
    start: float = dataclasses.field(default_factory=time.monotonic)
    done: int = 0
    waiting: list[tuple[Picture, _ImageOutput | _VideoOutput]] = dataclasses.field(
        default_factory=list
    )

    def add(self, picture: Picture, output: _ImageOutput | _VideoOutput) -> None:
        """Adds a picture; a full batch is processed."""
        self.waiting.append((picture, output))
        if len(self.waiting) >= self.batch_size:
            self.finish()

    def finish(self) -> None:
        """Processes what waits."""
        if not self.waiting:
            return
        waiting = list(self.waiting)
        self.waiting.clear()
        self._process(waiting)
        if self.title:
            # A video's header can be wrong about its frames, so the bar never claims to be beyond
            # its end.
            self.show_progress(max(self.promised, self.done + 1))

    def _process(self, waiting: list[tuple[Picture, _ImageOutput | _VideoOutput]]) -> None:
        """Passes pictures to the function and writes what it returns.

        Where the function can't process one of several, or memory doesn't suffice for all at once,
        they go one by one, and one that fails alone is skipped.
        """
        try:
            images = self.function([picture for picture, _ in waiting])
        except (PictureError, MemoryError) as error:
            if len(waiting) == 1:
                if isinstance(error, MemoryError):
                    error = MemoryError(f"not enough memory: {error}")
                _skip(waiting[0][0].path, error, self.skipped)
            else:
                for single in waiting:
                    self._process([single])
            return
        for (_, output), image in zip(waiting, images):
            if image is not None:
                output.write(image)
        self.done += len(waiting)

    def show_progress(self, total: int) -> None:
        """Shows the progress bar."""
        utils.show_progress(self.title, self.done, total, self.seconds())

    def seconds(self) -> float:
        """The time since the beginning."""
        return time.monotonic() - self.start


def process(
    source: Source,
    output: AnyPath,
    function: Callable[[list[Picture]], Sequence[np.ndarray | None]],
    batch_size: int = 1,
    title: str = "",
    rate: float | None = None,
) -> Processed:
    """Passes pictures to a function, writes what it returns: images as images, videos as videos.

    Args:
        source: see `find_files`.
        output: folder; its files are named as those of the source.
        function: f(list of at most `batch_size` Pictures) -> list of [H, W, 3] uint8, of any size
            but one for the frames of a video; None in the list writes nothing for that picture.
            Pictures for which it raises `PictureError` or MemoryError are skipped.
        title: of the progress bar with images per second; "" for none.
        rate: frames per second of videos; None for those of the source.

    Returns:
        Processed.

    Raises:
        FileNotFoundError: nothing there. ValueError: the output would replace an input file.
    """
    files = find_files(source)
    targets = _targets(files, output)
    promised, rates = _count(files)
    written: list[str] = []
    skipped: Skipped = []
    batches = _Batches(function, batch_size, title, promised, skipped)
    for path, target in zip(files, targets):
        if is_video(path):
            batches.finish()
            video_rate = rate or rates.get(path, DEFAULT_RATE)
            written += _process_video(path, target, video_rate, batches, skipped)
        else:
            # A batch may go on over several image files.
            for picture in _pictures(path, skipped):
                batches.add(picture, _ImageOutput(target, written))
    batches.finish()
    if title and batches.done:
        batches.show_progress(batches.done)
    return Processed(written, skipped, batches.done, batches.seconds())


def _process_video(
    path: pathlib.Path,
    target: pathlib.Path,
    rate: float,
    batches: _Batches,
    skipped: Skipped,
) -> list[str]:
    """Processes the frames of one video. Returns the paths of what was written, at most one."""
    with contextlib.ExitStack() as stack:
        video = _VideoOutput(target, rate, stack)
        for picture in _pictures(path, skipped):
            batches.add(picture, video)
        batches.finish()
    if video.writer is None:
        return []
    return [str(target)]


def _count(files: list[pathlib.Path]) -> tuple[int, dict[pathlib.Path, float]]:
    """Number of pictures that files promise, and {video: frames per second}."""
    count = 0
    rates = {}
    for path in files:
        if not is_video(path):
            count += 1
            continue
        try:
            frames, rates[path] = video_info(path)
        except (ValueError, OSError):
            continue  # reported when it is read
        count += frames
    return count, rates
