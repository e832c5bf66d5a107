"""Image files and videos: reading by path, folder or glob, painting results, writing.

    for picture in media.read("holiday/*.jpg", skipped):          # RGB uint8, one after the other
        ...
    media.process("film.mp4", "out", lambda pictures: [picture.image[::-1] for picture in pictures])

Files that can't be read are reported and skipped. Output files are written atomically. Keras and
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
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from mrcnn import fonts, utils
from mrcnn.files import (
    atomic,
    atomic_together,
    naming_full_disk,
    plain_value,
    what_it_is,
    write_bytes,
)
from mrcnn.masks import Masks
from mrcnn.utils import read_image  # noqa: F401  a name that this module offers

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
    # Formats of cameras, phones, recorders and discs.
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
# Suffixes that text files have, too: TypeScript, Qt's translations, Fortran's modules.
_TEXT_SUFFIXES = (".ts", ".mts", ".mod", ".rm", ".dv")
# Signatures of videos, for files with other suffixes: (offset, bytes).
_VIDEO_SIGNATURES = (
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
# The first boxes of MP4 and QuickTime files.
_QUICKTIME = (b"ftyp", b"moov", b"mdat", b"wide")
# Brands, after "ftyp", of still images in an MP4 container.
_PICTURE_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis", b"crx ")
# Suffixes that output images keep; ".png" is appended to others.
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
# Frames per second of a video whose header has no rate.
DEFAULT_RATE = 25.0


@dataclasses.dataclass
class Picture:
    """An image file or a frame of a video.

    Attributes:
        path: pathlib.Path of the file.
        image: [H, W, 3] uint8, RGB; or [H, W, bands] of any dtype, see `all_bands` of
            `utils.read_image`.
        frame: index of the frame, from 0; None for an image file.
    """

    path: pathlib.Path
    image: np.ndarray
    frame: int | None = None

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        return f"Picture({str(self.path)!r}, {height} x {width}, frame {self.frame})"


class PictureError(ValueError):
    """Raised by the function of `process` for a picture that is to be skipped."""


@dataclasses.dataclass
class Processed:
    """The outcome of `process`.

    Attributes:
        written: paths of the new files.
        skipped: [(path, reason)] of the files that couldn't be read or processed.
        pictures: number of images and frames.
        seconds: duration.
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
        source: path of a file; of a folder, for the files in it (without hidden ones and
            sub-folders); a glob such as "photos/**/*.jpg"; or a list of these.

    Returns:
        list of pathlib.Path, not empty, each file once, also where links give it several paths. It
        may have entries that are not files (a pipe, a broken link), for which reading raises.

    Raises:
        FileNotFoundError: no file; the message names the source.
    """
    if isinstance(source, (list, tuple)):
        return _without_duplicates([path for part in source for path in find_files(part)])
    source = os.fspath(source)  # type: ignore[arg-type]  # not a list here
    path = pathlib.Path(source)
    if path.is_dir():
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        files = [entry for entry in entries if not os.path.isdir(entry)]
        folders = len(entries) - len(files)
        hint = ""
        if folders:
            hint = f"; its {folders} folders are left out: {path / '**' / '*'} has what is in them"
        if not files:
            raise FileNotFoundError(f"No files in the folder {source}{hint}")
        if folders:
            _warn_once(f"{source}: {len(files)} files{hint}")
        return files
    if os.path.lexists(path):
        return [path]
    names = glob.glob(source, recursive=True)
    files = sorted(pathlib.Path(name) for name in names if not os.path.isdir(name))
    if not files:
        hint = ""
        if "://" in source:
            hint = ", an address; download it first (mrcnn batch reads those of object stores)"
        raise FileNotFoundError(
            f"No file, folder or glob that matches anything. Received: {source}{hint}"
        )
    return _without_duplicates(files)


@functools.cache
def _warn_once(text: str) -> None:
    """Logs a warning once per process, since commands search for their files repeatedly."""
    logger.warning("%s", text)


def _without_duplicates(files: list[pathlib.Path]) -> list[pathlib.Path]:
    """The files in order without duplicates, also by another path of their folder."""
    first: dict[str, pathlib.Path] = {}
    for file in files:
        folder = os.path.realpath(file.parent)
        first.setdefault(os.path.join(folder, file.name), file)
    return list(first.values())


def is_video(path: AnyPath) -> bool:
    """Whether a file is a video, by its suffix, or by its signature for other suffixes.

    Animated GIF and WebP files are videos, and so are animated PNG files without the suffix .png.
    Text files are not, whatever their suffix: ".ts" and ".mts" are TypeScript, too.
    """
    suffix = pathlib.Path(path).suffix.lower()
    if suffix in PICTURE_SUFFIXES:
        return False
    if suffix in VIDEO_SUFFIXES:
        return suffix not in _TEXT_SUFFIXES or not _is_text(_beginning(path))
    beginning = _beginning(path)
    return _begins_as_video(beginning) or _animation(path, beginning) is not None


def _animation(path: AnyPath, beginning: bytes) -> tuple[int, float] | None:
    """Number of frames and frames per second of an animated image; None for other files."""
    is_webp = beginning[:4] == b"RIFF" and beginning[8:12] == b"WEBP"
    if not is_webp and not beginning.startswith((b"GIF8", b"\x89PNG")):
        return None
    try:
        status = os.stat(path)
        return _animation_info(os.fspath(path), status.st_mtime_ns, status.st_size)
    except (OSError, ValueError):  # reported when it is read
        return None


@functools.lru_cache(maxsize=64)
def _animation_info(path: str, time_written: int, size: int) -> tuple[int, float] | None:
    """`utils.animation_info`, cached, since it decodes all frames."""
    return utils.animation_info(path)


def _beginning(path: AnyPath, count: int = 1024) -> bytes:
    """The first bytes of a file; b"" if it can't be read."""
    if not os.path.isfile(path):  # reading a pipe would block
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError:
        return b""


def _is_text(beginning: bytes) -> bool:
    """Whether a file's first bytes are text in a usual encoding."""
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
    return any(beginning[start : start + len(mark)] == mark for start, mark in _VIDEO_SIGNATURES)


def _cv2() -> Any:
    """The module cv2; raises an ImportError that names the package to install."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError("Videos need OpenCV: pip install opencv-python-headless") from error
    return cv2


Matrix = tuple[int, int, int, int]  # (a, b, c, d) of x' = a x + c y and y' = b x + d y


def _matrix_of(path: AnyPath) -> Matrix | None:
    """How the header of an MP4 or QuickTime file turns its frames, as a phone's; None if not."""
    if _beginning(path)[4:8] not in _QUICKTIME:
        return None
    for a, b, c, d in _matrices_in(path):
        signs = (_sign(a), _sign(b), _sign(c), _sign(d))
        is_quarter = signs[0] * signs[3] != 0 and not (b or c)
        is_quarter = is_quarter or (signs[1] * signs[2] != 0 and not (a or d))
        if is_quarter and signs != (1, 0, 0, 1):
            return signs
    return None


def _sign(number: int) -> int:
    """-1, 0 or 1."""
    return (number > 0) - (number < 0)


def _matrices_in(path: AnyPath) -> Iterator[Matrix]:
    """The matrices of the tracks of an MP4 or QuickTime file, those of sound too."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while file.tell() + 8 <= size:
            start = file.tell()
            length, kind = struct.unpack(">I4s", file.read(8))
            if kind in (b"moov", b"trak"):
                continue  # with the boxes in it
            if kind == b"tkhd":
                content = file.read(92)
                first = 40 + 12 * (content[:1] == b"\1")  # its version 1 has times of 8 bytes
                if len(content) >= first + 20:
                    a, b, _, c, d = struct.unpack_from(">5i", content, first)
                    yield a, b, c, d
            if length == 1:
                file.seek(start + 8)
                length = int.from_bytes(file.read(8))
            if length < 8:
                return  # to the end of the file
            file.seek(start + length)


def turned(frame: np.ndarray, matrix: Matrix | None) -> np.ndarray:
    """A frame [H, W, ...] turned by quarters and mirrored.

    matrix: its numbers are -1, 0 and 1; None leaves the frame as it is.
    """
    if matrix is None:
        return frame
    a, b, c, d = matrix
    if a == 0:
        frame = frame.swapaxes(0, 1)
    if a + c < 0:
        frame = frame[:, ::-1]
    if b + d < 0:
        frame = frame[::-1]
    return frame


@contextlib.contextmanager
def _capture(path: AnyPath) -> Iterator[Any]:
    """OpenCV's reader of a video, released at the end. Raises ValueError: not a video."""
    if os.path.exists(path):  # others may be URLs or cameras
        mode = os.stat(path).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISDIR(mode):
            raise ValueError("expected a file. Received: a folder or a pipe")
        if not os.access(path, os.R_OK):
            raise PermissionError(f"it may not be read by this user: {path}")
    cv2 = _cv2()
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            kind = what_it_is(path)
            if kind:
                kind = f". It is {kind}"
            raise ValueError(f"OpenCV can't read it as a video{kind}")
        # MP4 and QuickTime are turned by `turned`: not every build of OpenCV does, and it takes a
        # mirrored video for one that is upside down.
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, int(_matrix_of(path) is None))
        yield capture
    finally:
        capture.release()


def video_info(path: AnyPath) -> tuple[int, float]:
    """Number of frames and frames per second of a video, from its header.

    Returns:
        (frames, rate); 0 frames where the header has no number. For animated images and for videos
        of a variable rate, whose frames have durations of their own, the mean rate.

    Raises:
        ValueError: the file can't be read as a video.
    """
    beginning = _beginning(path)
    animation = _animation(path, beginning)
    if animation is not None:
        return animation
    # Headers of MP4 and QuickTime have the number of frames and the mean rate. Those of others may
    # have neither: browsers record WebM files of 30 frames per second that say 1000.
    if beginning[4:8] not in _QUICKTIME and os.path.isfile(path):
        status = os.stat(path)
        measured = _measured_info(os.fspath(path), status.st_mtime_ns, status.st_size)
        if measured is not None:
            return measured
    cv2 = _cv2()
    with _capture(path) as capture:
        return _header_info(cv2, capture)


def _header_info(cv2: Any, capture: Any) -> tuple[int, float]:
    """(frames, rate) in the header of a video; 0 frames and `DEFAULT_RATE` where it has none."""
    frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    rate = capture.get(cv2.CAP_PROP_FPS)
    if not np.isfinite(rate) or rate <= 0:
        rate = DEFAULT_RATE
    return max(frames, 0), rate


# The times of so many frames are compared with the rate in the header.
PROBED_FRAMES = 30


@functools.lru_cache(maxsize=64)
def _measured_info(path: str, time_written: int, size: int) -> tuple[int, float] | None:
    """(frames, rate) by the times of all frames; None where the header's rate is theirs.

    All frames are decoded only where the first ones differ from the header by a tenth.
    """
    cv2 = _cv2()
    with _capture(path) as capture:
        _, rate = _header_info(cv2, capture)
        times = []
        while capture.grab():
            times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
            if len(times) == PROBED_FRAMES and abs(_rate_of(times) / rate - 1) <= 0.1:
                return None
    if len(times) < PROBED_FRAMES and abs(_rate_of(times) / rate - 1) <= 0.1:
        return None
    measured = _rate_of(times)
    if not measured:
        return None
    return len(times), measured


def _rate_of(times: list[float]) -> float:
    """Mean number of frames per second; 0 where the times, in seconds, do not tell it."""
    if len(times) < 2 or times[-1] <= times[0]:
        return 0.0
    return (len(times) - 1) / (times[-1] - times[0])


def read_video(path: AnyPath) -> Iterator[np.ndarray]:
    """Yields the frames of a video, [H, W, 3] uint8 RGB, rotated as in its header.

    Raises:
        ValueError: not a video, or one without a frame that can be read.
    """
    if _animation(path, _beginning(path)) is not None:
        yield from utils.animation_frames(path)
        return
    cv2 = _cv2()
    count = 0
    expected, _ = video_info(path)
    matrix = _matrix_of(path)
    with _capture(path) as capture:
        codec = _codec_of(cv2, capture)
        while True:
            was_read, frame = capture.read()
            if not was_read:
                break
            count += 1
            yield np.ascontiguousarray(turned(frame, matrix)[..., ::-1])
    if not count:
        raise ValueError(
            f"OpenCV decodes none of its frames, which are compressed by {codec}; a program such as"
            " ffmpeg converts it to H.264"
        )
    if count < 0.95 * expected - 1:  # headers may be slightly wrong
        logger.warning("%s ends after %d frames; its header says %d", path, count, expected)


def _codec_of(cv2: Any, capture: Any) -> str:
    """The four letters that name the codec of a video, such as h264 or AV01."""
    letters = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True)
    return repr(letters.decode("ascii", "replace").strip("\0 "))


# Errors of Pillow and OpenCV for files that are not images, or are too large.
_READING_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    SyntaxError,
    EOFError,
    MemoryError,
)


def _pictures(path: pathlib.Path, skipped: Skipped, all_bands: bool = False) -> Iterator[Picture]:
    """Yields the pictures of one file; adds a file that can't be read to `skipped`."""
    try:
        if is_video(path):
            for frame, image in enumerate(read_video(path)):
                yield Picture(path, image, frame)
        else:
            yield Picture(path, read_image(path, all_bands=all_bands))
    except _READING_ERRORS as error:
        _skip(path, error, skipped)


def _skip(path: pathlib.Path, error: Exception, skipped: Skipped) -> None:
    """Logs a file that can't be read or processed and adds it to `skipped`."""
    reason = str(error) or type(error).__name__
    logger.warning("%s is skipped: %s", path, reason)
    skipped.append((path, reason))


def read(
    source: Source, skipped: Skipped | None = None, all_bands: bool = False
) -> Iterator[Picture]:
    """Yields a `Picture` for each image file and each frame of a video.

    Args:
        source: see `find_files`.
        skipped: list to which (path, reason) of each file that can't be read is appended; it is
            also logged.
        all_bands: see `utils.read_image`.

    Raises:
        FileNotFoundError: no file.
    """
    if skipped is None:
        skipped = []
    for path in find_files(source):
        yield from _pictures(path, skipped, all_bands)


# ---- Writing -------------------------------------------------------------------------------------


def write_image(path: AnyPath, image: np.ndarray) -> str:
    """Writes an image as .jpg or .png. Returns the path as a string.

    Args:
        path: path of the file.
        image: [H, W, 3] or [H, W] uint8, written unchanged; other shapes and ranges are converted
            by `utils.as_rgb`.

    Raises:
        ValueError: another suffix, or not an image; the message names the path.
    """
    from PIL import Image

    image = utils.pixels_of(image)
    suffix = pathlib.Path(path).suffix.lower()
    formats = Image.registered_extensions()
    if suffix not in formats:
        raise ValueError(f"A picture is written as .jpg or .png. Received: {path}")
    has_alpha = image.ndim == 3 and image.shape[2] == 4
    is_supported = image.ndim == 2 or image.shape[2:] == (3,)
    is_supported = is_supported or (has_alpha and suffix not in (".jpg", ".jpeg"))
    if image.dtype != np.uint8 or not is_supported:
        try:
            image = utils.as_rgb(image)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    # Pillow raises no error where the disk is full when it writes a JPEG file itself.
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, formats[suffix], quality=92)
    write_bytes(path, buffer.getbuffer())
    return str(path)


def write_json(path: AnyPath, value: Any) -> str:
    """Writes a value as json. Returns the path as a string."""
    return write_jsons({path: value})[0]


def write_jsons(values: dict[AnyPath, Any]) -> list[str]:
    """Writes values as json, {path: value}: all of them, or none where the disk is full.

    Returns:
        the paths as strings.
    """
    with atomic_together(values) as temporaries:
        for temporary, (path, value) in zip(temporaries, values.items()):
            with naming_full_disk(path), open(temporary, "w", encoding="utf-8") as file:
                json.dump(value, file, default=plain_value)
    return [str(path) for path in values]


# The largest number in which MPEG-4 counts the parts of a second.
_MOST_PARTS = 65_535


def _writable_rate(rate: float) -> float:
    """A rate with as few decimals as MPEG-4 needs, where OpenCV would take three."""
    for decimals in (2, 1, 0):
        if rate * 10 ** (decimals + 1) > _MOST_PARTS:
            rate = round(rate, decimals)
    return rate


class VideoWriter:
    """Writes a video, which appears at `path` when the block ends without an error.

        with VideoWriter("out.mp4", rate=25) as video:
            video.write(image)

    Args:
        path: .mp4 (MPEG-4) or .avi (Motion JPEG).
        rate: frames per second.

    Frames are [H, W, 3] uint8 RGB of one size, or other images that `utils.as_rgb` takes. Frames
    that are not uint8 are scaled by the widest `utils.value_range` so far, to avoid flicker. On odd
    sides the last row or column is repeated, since the codecs require even sides.
    """

    CODECS = {".mp4": "mp4v", ".avi": "MJPG"}

    def __init__(self, path: AnyPath, rate: float = DEFAULT_RATE):
        self.path = pathlib.Path(path)
        self.rate = _writable_rate(rate)
        self.frames = 0
        if self.path.suffix.lower() not in self.CODECS:
            raise ValueError(f"A video is written as {' or '.join(self.CODECS)}. Received: {path}")
        self._stack = contextlib.ExitStack()
        self._writer: Any = None  # OpenCV's, opened with the first frame
        self._shape: tuple[int, ...] = ()
        self._limits: tuple[float, float] | None = None  # range of frames that are not uint8

    def __enter__(self) -> VideoWriter:
        self._temporary = self._stack.enter_context(atomic(self.path))
        return self

    def write(self, image: np.ndarray) -> None:
        """Appends a frame [H, W, 3] uint8.

        Raises:
            ValueError: the frame has another shape than the first.
        """
        image = self._as_frame(utils.pixels_of(image))
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
        """An image as [H, W, 3] uint8, scaled by the widest range so far."""
        if image.dtype != np.uint8:
            colors = image
            if image.ndim == 3:
                # Without alpha, which has a range of its own.
                channels = 1
                if image.shape[2] > 2:
                    channels = 3
                colors = image[..., :channels]
            low, high = utils.value_range(colors)
            if self._limits is not None:
                low = min(low, self._limits[0])
                high = max(high, self._limits[1])
            self._limits = (low, high)
            return utils.as_rgb(image, self._limits)
        return utils.as_rgb(image)

    def _open(self, shape: tuple[int, ...]) -> None:
        """Opens the temporary file for frames of shape (H, W, 3)."""
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
        """The error of a video that was not written completely, which OpenCV doesn't raise."""
        if not self.frames:
            return ValueError(f"{self.path} got no frame")
        try:
            stored_frames, _ = video_info(self._temporary)
        except ValueError:
            stored_frames = 0
        if not stored_frames:  # the number of frames is written at the end
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
    """Paints a result into an image at its full size with Pillow, in milliseconds.

    Args:
        image: [H, W, 3], or another image that `utils.as_rgb` takes.
        result: dict of `MaskRCNN.detect`, with masks of any type; boxes, keypoints, names and
            scores are painted, too.
        class_names: names by class id, a list or a dict; an id without one is "class 7".
        by_class: a colour for each class, the same in all frames; otherwise one for each object.
        alpha: opacity of masks.
        colors: [N] of (r, g, b) in 0..1, one for each object; None to follow `by_class`.
        texts: [N] in place of names and scores, "" for none.
        boxes: whether to paint the edges of the boxes.

    Returns:
        [H, W, 3] uint8, a new array.

    Raises:
        ValueError: parts of the result, colours or texts for different numbers of objects.
    """
    from mrcnn import visualize

    painted = utils.as_rgb(image)
    visualize.check_result(result["rois"], result["class_ids"], result.get("masks"), painted)
    rois = np.asarray(result["rois"]).reshape(-1, 4)
    class_ids = np.ravel(result["class_ids"])
    for name, values in (("colors", colors), ("texts", texts)):
        if values is not None and len(values) != len(rois):
            raise ValueError(
                f"{name} has one for each of the {len(rois)} objects. Received: {len(values)}"
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
    """Blends masks [H, W, N] into an image in place, inside their boxes, which contain them."""
    from mrcnn import visualize

    if isinstance(masks, Masks):  # crop by crop, without whole masks
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
    """Paints lines and texts, whose sizes depend on the image's, with Pillow.

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
        """Paints the edges of a box (y1, x1, y2, x2); y2, x2 lie outside the box."""
        y1, x1, y2, x2 = box
        corners = (x1, y1, max(x2 - 1, x1), max(y2 - 1, y1))
        self.draw.rectangle(corners, outline=color, width=self.line_width)

    def add_label(self, box: np.ndarray, text: str) -> None:
        """Writes a text above a box, or inside it where there is no room, within the image."""
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
        for part, font in parts:  # with a common baseline
            self.draw.text((x, y + 2 + ascent), part, fill="white", font=font, anchor="ls")
            x += font.getlength(part)

    def _parts(self, text: str) -> list[tuple[str, Any]]:
        """A text split into parts, each with a font that has its characters."""
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


# ---- Reading and writing -------------------------------------------------------------------------


def placed_below(files: Sequence[pathlib.Path], output: AnyPath) -> list[pathlib.Path]:
    """A path below `output` for each file, relative to the files' common folder."""
    # Without "..", which would lead out of the output folder.
    absolute = [pathlib.Path(os.path.abspath(path)) for path in files]
    root = os.path.commonpath([path.parent for path in absolute])
    return [pathlib.Path(output) / path.relative_to(root) for path in absolute]


def _targets(files: list[pathlib.Path], output: AnyPath) -> list[pathlib.Path]:
    """The output path of each file, see `placed_below`, with the suffix that is written."""
    absolute = [pathlib.Path(os.path.abspath(path)) for path in files]
    targets: dict[pathlib.Path, None] = {}  # an ordered set
    for path, target in zip(absolute, placed_below(absolute, output)):
        if is_video(path):
            # Appended, so that "film.mov" and "film.mp4" in one folder differ.
            if path.suffix.lower() not in VideoWriter.CODECS:
                target = target.with_name(target.name + ".mp4")
        elif path.suffix.lower() not in PICTURE_SUFFIXES:
            target = target.with_name(target.name + ".png")
        while target in targets:  # "a.tif" and "a.tif.png" in one folder
            target = target.with_name(target.stem + "_" + target.suffix)
        targets[target] = None
    inputs = {os.path.realpath(path) for path in absolute}  # without links, which may be circular
    for target in targets:
        if os.path.realpath(target) in inputs:
            raise ValueError(
                f"The output would replace an input file; choose another folder. Received: {output}"
            )
    return list(targets)


@dataclasses.dataclass
class _ImageOutput:
    """An image file; its path is appended to `written` once it is written."""

    path: pathlib.Path
    written: list[str]

    def write(self, image: np.ndarray) -> None:
        self.written.append(write_image(self.path, image))


@dataclasses.dataclass
class _VideoOutput:
    """A video that is opened with its first frame, so that none is made without frames.

    `stack` closes it.
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
    """Passes pictures to a function in batches and writes the results to their outputs.

    Attributes:
        function, batch_size, title: see `process`.
        expected: number of pictures, from the headers of videos.
        skipped: list to which (path, reason) of files that can't be processed are appended.
        start: `time.monotonic()` at the start.
        done: number of pictures that were processed.
        waiting: pictures of the next batch, with their outputs.
    """

    function: Callable[[list[Picture]], Sequence[np.ndarray | None]]
    batch_size: int
    title: str
    expected: int
    skipped: Skipped
    start: float = dataclasses.field(default_factory=time.monotonic)
    done: int = 0
    waiting: list[tuple[Picture, _ImageOutput | _VideoOutput]] = dataclasses.field(
        default_factory=list
    )

    def add(self, picture: Picture, output: _ImageOutput | _VideoOutput) -> None:
        """Adds a picture, and processes the batch once it is full."""
        self.waiting.append((picture, output))
        if len(self.waiting) >= self.batch_size:
            self.finish()

    def finish(self) -> None:
        """Processes the waiting pictures."""
        if not self.waiting:
            return
        waiting = list(self.waiting)
        self.waiting.clear()
        self._process(waiting)
        if self.title:
            # Headers of videos may have wrong numbers of frames: the bar never exceeds its total.
            self.show_progress(max(self.expected, self.done + 1))

    def _process(self, waiting: list[tuple[Picture, _ImageOutput | _VideoOutput]]) -> None:
        """Passes pictures to the function and writes the results.

        If it fails for a batch or runs out of memory, the pictures are passed one by one, and those
        that fail are skipped.
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
        """Time since the start."""
        return time.monotonic() - self.start


def process(
    source: Source,
    output: AnyPath,
    function: Callable[[list[Picture]], Sequence[np.ndarray | None]],
    batch_size: int = 1,
    title: str = "",
    rate: float | None = None,
    all_bands: bool = False,
) -> Processed:
    """Passes pictures to a function and writes the resulting image files and videos.

    Args:
        source: see `find_files`.
        output: folder; its files have the names of those of the source.
        function: f(list of at most `batch_size` Pictures) -> list of [H, W, 3] uint8, of any size,
            but the same for all frames of a video; None writes nothing for that picture. Pictures
            for which it raises `PictureError` or MemoryError are skipped.
        batch_size: maximum number of pictures in a call.
        title: title of the progress bar; "" for no bar.
        rate: frames per second of videos; None for those of the source.
        all_bands: see `utils.read_image`.

    Returns:
        Processed.

    Raises:
        FileNotFoundError: no file in the source.
        ValueError: the output would replace an input file.
    """
    files = find_files(source)
    targets = _targets(files, output)
    expected, rates = _count(files)
    written: list[str] = []
    skipped: Skipped = []
    batches = _Batches(function, batch_size, title, expected, skipped)
    for path, target in zip(files, targets):
        if is_video(path):
            batches.finish()
            video_rate = rate or rates.get(path, DEFAULT_RATE)
            written += _process_video(path, target, video_rate, batches, skipped)
        else:
            # A batch may have several image files.
            for picture in _pictures(path, skipped, all_bands):
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
    """Processes the frames of one video. Returns its output path in a list; [] for no output."""
    with contextlib.ExitStack() as stack:
        video = _VideoOutput(target, rate, stack)
        for picture in _pictures(path, skipped):
            batches.add(picture, video)
        batches.finish()
    if video.writer is None:
        return []
    return [str(target)]


def _count(files: list[pathlib.Path]) -> tuple[int, dict[pathlib.Path, float]]:
    """Number of pictures, from the headers of videos, and {video: frames per second}."""
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
