"""Pictures and videos in and out: reading what a path, folder or glob names, painting results,
writing.

    for picture in media.read("holiday/*.jpg", skipped):          # RGB uint8, one after the other
        ...
    media.process("film.mp4", "out", lambda pictures: [picture.image[::-1] for picture in pictures])

Files that can't be read are reported and skipped. What is written is complete or absent. Keras and
TensorFlow are not imported; videos need OpenCV (`cv2`).
"""

import contextlib
import dataclasses
import glob
import json
import logging
import os
import pathlib
import time

import numpy as np

from mrcnn import utils
from mrcnn.utils import read_image  # noqa: F401 (reading one file is part of this module's offer)
from mrcnn.weights import atomic

logger = logging.getLogger(__name__)

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
)
# Kinds of pictures that are written under their own name; others get ".png" after it.
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")


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


@dataclasses.dataclass
class Processed:
    """What `process` did.

    Attributes:
        written: paths of the new files.
        skipped: [(path, reason)] of the files that couldn't be read.
        pictures: number of images and frames.
        seconds: time that it took.
    """

    written: list
    skipped: list
    pictures: int
    seconds: float


# ---- Reading -------------------------------------------------------------------------------------


def find_files(source):
    """The files that a source names, sorted.

    Args:
        source: path of a file; of a folder, for the files that lie in it (hidden ones and
            sub-folders are left out); a glob such as "photos/**/*.jpg"; or a list of these.

    Returns:
        list of pathlib.Path, not empty.

    Raises:
        FileNotFoundError: nothing there; the message names the source.
    """
    if isinstance(source, (list, tuple)):
        return [path for each in source for path in find_files(each)]
    source = os.fspath(source)
    path = pathlib.Path(source)
    if path.is_dir():
        found = sorted(
            each for each in path.iterdir() if each.is_file() and not each.name.startswith(".")
        )
        if not found:
            raise FileNotFoundError(f"No files in the folder {source}")
    elif path.exists():
        found = [path]
    else:
        found = sorted(
            pathlib.Path(name) for name in glob.glob(source, recursive=True) if os.path.isfile(name)
        )
        if not found:
            raise FileNotFoundError(
                f"No file, folder or glob that matches anything. Received: {source}"
            )
    return found


def is_video(path):
    """Whether a file is taken for a video, by its name."""
    return pathlib.Path(path).suffix.lower() in VIDEO_SUFFIXES


def _cv2():
    try:
        import cv2
    except ImportError as error:
        raise ImportError("Videos need OpenCV: pip install opencv-python-headless") from error
    return cv2


@contextlib.contextmanager
def _capture(path):
    cv2 = _cv2()
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise ValueError("OpenCV can't read it as a video")
        yield capture
    finally:
        capture.release()


def video_info(path):
    """(frames, frames per second) of a video as its header has them; 0 frames where it doesn't say.

    Raises:
        ValueError: the file can't be read as a video.
    """
    cv2 = _cv2()
    with _capture(path) as capture:
        frames, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    return max(int(frames), 0), rate if np.isfinite(rate) and rate > 0 else 25.0


def read_video(path):
    """Yields the frames of a video, [H, W, 3] uint8 RGB, turned as its header says.

    Raises:
        ValueError: not a video, or one without a frame that can be read.
    """
    cv2 = _cv2()
    with _capture(path) as capture:
        count, promised = 0, capture.get(cv2.CAP_PROP_FRAME_COUNT)
        while True:
            good, frame = capture.read()
            if not good:
                break
            count += 1
            yield np.ascontiguousarray(frame[..., ::-1])
    if not count:
        raise ValueError("it has no frame that can be read")
    if count < 0.95 * promised - 1:  # headers may be off by a little
        logger.warning("%s ends after %d frames; its header says %d", path, count, promised)


def _pictures(path, skipped):
    """Yields the pictures of one file; one that can't be read goes to `skipped`."""
    try:
        if is_video(path):
            for frame, image in enumerate(read_video(path)):
                yield Picture(path, image, frame)
        else:
            yield Picture(path, read_image(path))
    # What Pillow and OpenCV raise for files that are no pictures.
    except (OSError, ValueError, TypeError, AttributeError, SyntaxError, EOFError) as error:
        reason = str(error) or type(error).__name__
        logger.warning("%s is skipped: %s", path, reason)
        skipped.append((path, reason))


def read(source, skipped=None):
    """Yields a `Picture` for each image file and each frame of a video.

    Args:
        source: see `find_files`.
        skipped: list that takes (path, reason) of each file that can't be read; those are also
            logged.

    Raises:
        FileNotFoundError: nothing there.
    """
    skipped = [] if skipped is None else skipped
    for path in find_files(source):
        yield from _pictures(path, skipped)


# ---- Writing -------------------------------------------------------------------------------------


def write_image(path, image):
    """Writes [H, W, 3] or [H, W] uint8 as .jpg or .png. Returns the path as a string."""
    from PIL import Image

    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise ValueError(
            f"A picture is [H, W, 3] or [H, W] uint8. Received: {image.shape} {image.dtype} for"
            f" {path}"
        )
    with atomic(path) as temporary:
        Image.fromarray(image).save(temporary, quality=92)
    return str(path)


def write_json(path, value):
    """Writes a value as json. Returns the path as a string."""
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file)
    return str(path)


class VideoWriter:
    """A video that lies at `path` when the block ends without an error, and not before.

        with VideoWriter("out.mp4", rate=25) as video:
            video.write(image)

    Args:
        path: .mp4 (MPEG-4) or .avi (Motion JPEG).
        rate: frames per second.

    Frames are [H, W, 3] uint8 RGB of one size; an odd side is written with its last row or column
    twice, since the codecs take even sides only.
    """

    CODECS = {".mp4": "mp4v", ".avi": "MJPG"}

    def __init__(self, path, rate=25.0):
        self.path, self.rate, self.frames = pathlib.Path(path), rate, 0
        if self.path.suffix.lower() not in self.CODECS:
            raise ValueError(f"A video is written as {' or '.join(self.CODECS)}. Received: {path}")
        self._stack, self._writer, self._shape = contextlib.ExitStack(), None, None

    def __enter__(self):
        self._temporary = self._stack.enter_context(atomic(self.path))
        return self

    def write(self, image):
        """Appends a frame."""
        cv2 = _cv2()
        image = np.asarray(image)
        if self._writer is None:
            self._shape = image.shape
            height, width = (side + side % 2 for side in image.shape[:2])
            codec = cv2.VideoWriter_fourcc(*self.CODECS[self.path.suffix.lower()])
            self._writer = cv2.VideoWriter(self._temporary, codec, self.rate, (width, height))
            if not self._writer.isOpened():
                raise OSError(f"OpenCV can't write {self.path} at {width} x {height}")
        if image.dtype != np.uint8 or image.shape != self._shape or image.ndim != 3:
            raise ValueError(
                f"Frames of {self.path} are uint8 of one shape, the first had {self._shape}. "
                f"Received: {image.shape} {image.dtype}"
            )
        even = [(0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)]
        self._writer.write(np.pad(image, even, mode="edge")[..., ::-1].copy())
        self.frames += 1

    def __exit__(self, *error):
        if self._writer is not None:
            self._writer.release()
        if error[0] is None and not self.frames:
            error = (ValueError, ValueError(f"{self.path} got no frame"), None)
            self._stack.__exit__(*error)
            raise error[1]
        return self._stack.__exit__(*error)


# ---- Painting ------------------------------------------------------------------------------------


def paint(image, result, class_names, by_class=False, alpha=0.45):
    """Paints a result into an image at its full size, in milliseconds: masks, boxes, names and
    scores.

    Args:
        image: [H, W, 3] uint8.
        result: dict of `MaskRCNN.detect`.
        class_names: names by class id.
        by_class: one colour for each class, which stays from frame to frame; otherwise one for each
            object.

    Returns:
        [H, W, 3] uint8, a new array.
    """
    from PIL import Image, ImageDraw, ImageFont

    from mrcnn import visualize

    boxes, class_ids = np.asarray(result["rois"]).reshape(-1, 4), result["class_ids"]
    masks, scores = result.get("masks"), result.get("scores")
    painted = np.array(image, np.uint8)
    height, width = painted.shape[:2]
    colors = visualize.random_colors(len(class_names) if by_class else len(boxes))
    colors = [colors[class_id] for class_id in class_ids] if by_class else colors
    for i, (y1, x1, y2, x2) in enumerate(boxes.clip(0, [height, width] * 2).astype(int)):
        if masks is not None:
            # Only the box is touched: nothing of the mask lies outside.
            visualize.apply_mask(painted[y1:y2, x1:x2], masks[y1:y2, x1:x2, i], colors[i], alpha)
    picture = Image.fromarray(painted)
    draw, size = ImageDraw.Draw(picture), max(11, min(height, width) // 40)
    font, line = ImageFont.load_default(size), max(1, size // 8)
    for i, (y1, x1, y2, x2) in enumerate(boxes):
        color = tuple(int(255 * part) for part in colors[i])
        draw.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=color, width=line)
        text = str(class_names[class_ids[i]]) + ("" if scores is None else f" {scores[i]:.2f}")
        # Above the box, or inside it where there is no room; never beyond the image.
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        x = max(0, min(int(x1), width - right - 5))
        y = int(y1) - bottom - 5 if y1 >= bottom + 5 else max(0, min(int(y1), height - bottom - 5))
        draw.rectangle((x, y, x + right + 4, y + bottom + 4), fill=(0, 0, 0))
        draw.text((x + 2, y + 2), text, fill="white", font=font)
    return np.array(picture)


# ---- Both ----------------------------------------------------------------------------------------


def _targets(files, output):
    """[path of the output for each file], in the files' own folders below `output`."""
    absolute = [path.absolute() for path in files]
    root = os.path.commonpath([path.parent for path in absolute])
    targets = []
    for path in absolute:
        target = pathlib.Path(output) / path.relative_to(root)
        if is_video(path):
            # "film.mov" and "film.mp4" in one folder stay apart.
            if path.suffix.lower() not in VideoWriter.CODECS:
                target = target.with_name(target.name + ".mp4")
        elif path.suffix.lower() not in PICTURE_SUFFIXES:
            target = target.with_name(target.name + ".png")
        targets.append(target)
    inputs = {path.resolve() for path in absolute}
    for target in targets:
        if target.resolve() in inputs:
            raise ValueError(
                f"The output would replace an input file; choose another folder. Received: {output}"
            )
    return targets


def process(source, output, function, batch_size=1, title="", rate=None):
    """Reads pictures, passes them to a function, writes what it returns: images as images, videos
    as videos.

    Args:
        source: see `find_files`.
        output: folder; its files are named as those of the source.
        function: f(list of at most `batch_size` Pictures) -> list of [H, W, 3] uint8, of any size
            but one for the frames of a video; None in the list writes nothing for that picture.
        title: of the progress bar with images per second; "" for none.
        rate: frames per second of videos; None for those of the source.

    Returns:
        Processed.

    Raises:
        FileNotFoundError: nothing there. ValueError: the output would replace an input file.
    """
    files = find_files(source)
    targets = _targets(files, output)
    skipped, written, done, start = [], [], 0, time.monotonic()
    frames, rates = _count(files)

    def finish(batch, write):
        nonlocal done
        for (_, target), image in zip(
            batch, function([picture for picture, _ in batch]) if batch else []
        ):
            if image is not None:
                write(target, image)
        done += len(batch)
        if title and batch:
            # A video's header can be wrong about its frames, so the bar never claims to be beyond
            # its end.
            utils.show_progress(title, done, max(frames, done + 1), time.monotonic() - start)
        batch.clear()

    def write_file(target, image):
        written.append(write_image(target, image))

    batch = []  # of image files: it goes on over several
    for path, target in zip(files, targets):
        if not is_video(path):
            batch += [(picture, target) for picture in _pictures(path, skipped)]
            if len(batch) >= batch_size:
                finish(batch, write_file)
            continue
        finish(batch, write_file)
        with contextlib.ExitStack() as stack:
            video = []

            frame_rate = rate or rates.get(path, 25.0)

            def write_frame(target, image, video=video, stack=stack, frame_rate=frame_rate):
                if not video:
                    video.append(stack.enter_context(VideoWriter(target, frame_rate)))
                video[0].write(image)

            for picture in _pictures(path, skipped):
                batch.append((picture, target))
                if len(batch) >= batch_size:
                    finish(batch, write_frame)
            finish(batch, write_frame)
        written += [str(each.path) for each in video]
    finish(batch, write_file)
    if title and done:
        utils.show_progress(title, done, done, time.monotonic() - start)
    return Processed(written, skipped, done, time.monotonic() - start)


def _count(files):
    """Number of pictures that files promise, and {video: frames per second}."""
    count, rates = 0, {}
    for path in files:
        if is_video(path):
            try:
                frames, rates[path] = video_info(path)
            except ValueError:
                continue  # reported when it is read
            count += frames
        else:
            count += 1
    return count, rates
