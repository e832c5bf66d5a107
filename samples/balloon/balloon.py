"""Finds balloons, and makes everything but them gray.

    python samples/balloon/balloon.py train --dataset=balloon --weights=coco
        heads, 30 epochs
    python samples/balloon/balloon.py train --dataset=balloon --weights=last
        go on where training stopped
    python samples/balloon/balloon.py splash --weights=last --image=photo.jpg
        a path or an address
    python samples/balloon/balloon.py splash --weights=last --video=film.mp4
        into --output

--dataset is a folder with train/ and val/, each with photographs and their via_region_data.json, or
one VIA json of another name: polygons, rectangles, circles, ellipses and closed polylines. Every
region is a balloon, unless --attribute names the region attribute that holds the class; then there
are as many classes as it has values in train/.
"""

import argparse
import contextlib
import datetime
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

ROOT_DIR = str(pathlib.Path(__file__).resolve().parents[2])  # the project's folder
sys.path.insert(0, ROOT_DIR)

from mrcnn import annotations, commands, files, media, utils  # noqa: E402
from mrcnn.config import Config  # noqa: E402

if TYPE_CHECKING:
    from mrcnn.model import MaskRCNN
    from mrcnn.utils import Dataset

COCO_WEIGHTS_PATH = str(commands.COCO_WEIGHTS)
DEFAULT_LOGS_DIR = os.path.join(ROOT_DIR, "logs")


class BalloonConfig(Config):
    """ResNet-101 from COCO's weights, two photographs a batch."""

    NAME = "balloon"
    IMAGES_PER_GPU = 2
    NUM_CLASSES = 1 + 1
    STEPS_PER_EPOCH = 100
    # Rather miss a balloon than colour what is none.
    DETECTION_MIN_CONFIDENCE = 0.9


class BalloonDataset(annotations.AnnotatedDataset):
    """Photographs with the regions of VIA's json."""

    def load_balloon(
        self,
        dataset_dir: str | os.PathLike,
        subset: str,
        attribute: str | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        """Adds a subset; call `prepare` afterwards.

        Args:
            dataset_dir: folder with train/ and val/.
            subset: "train" or "val".
            attribute: region attribute that holds the class; None: every region is a balloon.
            classes: names in the order of their ids, with `attribute`; None for those of the file.
        """
        if subset not in ("train", "val"):
            raise ValueError(f"The subset is 'train' or 'val'. Received: {subset!r}")
        folder = pathlib.Path(dataset_dir, subset)
        path = folder / "via_region_data.json"
        if not path.exists() and any(folder.glob("*.json")):
            path = folder  # VIA 2 calls it via_export_json.json or via_project_<date>.json
        if attribute:
            regions = annotations.read_via(path, attribute=attribute)
        else:
            regions = annotations.read_via(path, attribute=attribute, label="balloon")
        self.load("balloon", regions, classes)

    load_balloons = load_balloon


def load(
    dataset_dir: str | os.PathLike, attribute: str | None = None
) -> tuple[BalloonDataset, BalloonDataset]:
    """(training set, validation set), prepared, with the training set's classes."""
    train_set = BalloonDataset()
    train_set.load_balloon(dataset_dir, "train", attribute)
    train_set.prepare()
    val_set = BalloonDataset()
    val_set.load_balloon(dataset_dir, "val", attribute, train_set.class_names[1:])
    val_set.prepare()
    return train_set, val_set


# ---- Colour splash -------------------------------------------------------------------------------


def color_splash(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image in gray except where an object is.

    Args:
        image: [H, W, 3] uint8, RGB, or another that `utils.as_rgb` takes.
        mask: [H, W, N].

    Returns:
        [H, W, 3] uint8.
    """
    image = utils.as_rgb(image)
    brightness = np.array([0.2125, 0.7154, 0.0721])  # of red, green and blue, ITU-R BT.709
    gray = np.around(image @ brightness)[..., None]
    inside = np.asarray(mask).any(axis=-1, keepdims=True)
    return np.where(inside, image, gray).astype(np.uint8)


def detect_and_color_splash(
    model: "MaskRCNN",
    image_path: str | os.PathLike | None = None,
    video_path: str | os.PathLike | None = None,
    output: str | os.PathLike = ".",
) -> str:
    """Writes the colour splash of an image, or of each frame of a video.

    Args:
        model: `MaskRCNN` in inference mode.
        image_path, video_path: path or http address, one of the two.
        output: folder.

    Returns:
        path of the new file, splash_<date>T<time>.png or .avi, numbered where there is one already.
    """
    if (image_path is None) == (video_path is None):
        raise ValueError(
            f"Expected an image or a video. Received: {image_path!r} and {video_path!r}"
        )
    if image_path is not None:
        saved = _free_name(output, ".png")
        with _local(image_path) as path:
            media.write_image(saved, _splash(model, media.read_image(path)))
    else:
        saved = _free_name(output, ".avi")
        with _local(video_path) as path:
            _, rate = media.video_info(path)
            with media.VideoWriter(saved, rate) as video:
                for image in media.read_video(path):
                    video.write(_splash(model, image))
    print("Saved to", saved)
    return saved


def _splash(model: "MaskRCNN", image: np.ndarray) -> np.ndarray:
    """The colour splash of what the model detects."""
    result = model.detect([image])[0]
    return color_splash(image, result["masks"])


def _free_name(folder: str | os.PathLike, suffix: str) -> str:
    """A path with the time in it, numbered where there is such a file already."""
    name = os.path.join(folder, f"splash_{datetime.datetime.now():%Y%m%dT%H%M%S}")
    path = name + suffix
    number = 1
    while os.path.exists(path):
        number += 1
        path = f"{name}_{number}{suffix}"
    return path


def _is_address(source: str | os.PathLike | None) -> bool:
    """Whether a source is an address of the web, not a path."""
    return str(source).startswith(("http://", "https://"))


@contextlib.contextmanager
def _local(source: str | os.PathLike | None) -> Iterator[str | os.PathLike]:
    """The path of a file, of an address that of a temporary copy."""
    if source is None or not _is_address(source):
        if source is None or not os.path.exists(source):
            raise FileNotFoundError(f"No file {source}")
        yield source
        return
    address = str(source)
    import urllib.parse

    suffix = pathlib.PurePosixPath(urllib.parse.urlparse(address).path).suffix
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file" + suffix)
        try:
            files.download(address, path)
        except (OSError, ValueError) as error:
            raise OSError(f"{source} can't be downloaded: {error}") from error
        yield path


# ---- Commands ------------------------------------------------------------------------------------


def train(
    model: "MaskRCNN",
    train_set: "Dataset",
    val_set: "Dataset | None",
    args: argparse.Namespace | None = None,
) -> None:
    """Trains the heads alone, 30 epochs or --epochs of `args`.

    The set is small, and COCO's weights know round things.
    """
    commands.train(model, train_set, val_set, [(30, "heads", 1.0)], args)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = commands.parser(__doc__, ("train", "splash"), DEFAULT_LOGS_DIR, inputs="splash")
    parser.set_defaults(output=".")
    parser.add_argument(
        "--attribute", metavar="NAME", help="train: the region attribute that holds the class"
    )
    args = commands.parse(parser, arguments)
    if args.command == "train" and not args.dataset:
        parser.error("train needs --dataset, the folder with train/ and val/")
    commands.check_paths(args)
    config = commands.configure(BalloonConfig(), args)
    if args.command == "train":
        train_set, val_set = load(args.dataset, args.attribute)
        config.NUM_CLASSES = train_set.num_classes
        model = commands.load_model("training", config, args)
        train(model, train_set, val_set, args)
        return
    config.NUM_CLASSES = len(commands.load_classes(config, args, default=("BG", "balloon")))
    model = commands.load_model("inference", commands.inference_config(config), args)
    splash(model, args)


def splash(model: "MaskRCNN", args: argparse.Namespace) -> None:
    """Writes the splash of each input; those that can't be read are named and skipped.

    Args:
        model: `MaskRCNN` in inference mode.
        args: of `commands.parse`: inputs, video, output.

    Raises:
        ValueError, OSError: the only input can't be read, or none can.
    """
    inputs = []
    for source in args.inputs:
        paths = [source]
        if not _is_address(source):
            paths = media.find_files(source)
        inputs += [(path, source in args.video or media.is_video(path)) for path in paths]
    failed = 0
    for path, is_video in inputs:
        kind = {"image_path": path}
        if is_video:
            kind = {"video_path": path}
        try:
            detect_and_color_splash(model, output=args.output, **kind)
        except (ValueError, OSError, SyntaxError, MemoryError) as error:
            if getattr(error, "errno", None) in files.DISK_FULL:
                raise
            failed += 1
            print(f"{path} is skipped: {error}", file=sys.stderr)
            if failed == len(inputs):
                raise ValueError(f"none of the inputs can be read, {path}: {error}") from error


if __name__ == "__main__":
    commands.run(main)
