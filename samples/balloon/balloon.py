"""Finds balloons, and makes everything but them gray.

    python samples/balloon/balloon.py train --dataset=balloon --weights=coco
        heads, 30 epochs
    python samples/balloon/balloon.py train --dataset=balloon --weights=last
        go on where training stopped
    python samples/balloon/balloon.py splash --weights=last --image=photo.jpg
        a path or an address
    python samples/balloon/balloon.py splash --weights=last --video=film.mp4
        into --output

--dataset is a folder with train/ and val/, each with photographs and their via_region_data.json of
VIA 1.x or 2.x: polygons, rectangles, circles, ellipses and closed polylines. Every region is a
balloon, unless --attribute names the region attribute that holds the class; then there are as many
classes as it has values in train/.
"""

import contextlib
import datetime
import os
import pathlib
import sys
import tempfile

import numpy as np

ROOT_DIR = str(pathlib.Path(__file__).resolve().parents[2])  # the project's folder
sys.path.insert(0, ROOT_DIR)

from mrcnn import annotations, commands, media  # noqa: E402
from mrcnn.config import Config  # noqa: E402

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

    def load_balloon(self, dataset_dir, subset, attribute=None, classes=None):
        """Adds a subset; call `prepare` afterwards.

        Args:
            dataset_dir: folder with train/ and val/.
            subset: "train" or "val".
            attribute: region attribute that holds the class; None: every region is a balloon.
            classes: names in the order of their ids, with `attribute`; None for those of the file.
        """
        if subset not in ("train", "val"):
            raise ValueError(f"The subset is 'train' or 'val'. Received: {subset!r}")
        path = os.path.join(dataset_dir, subset, "via_region_data.json")
        found = annotations.read_via(
            path, attribute=attribute, label=None if attribute else "balloon"
        )
        self.load("balloon", found, classes)

    load_balloons = load_balloon


def load(dataset_dir, attribute=None):
    """(training set, validation set), prepared, with the training set's classes."""
    train_set, val_set = BalloonDataset(), BalloonDataset()
    train_set.load_balloon(dataset_dir, "train", attribute)
    train_set.prepare()
    val_set.load_balloon(dataset_dir, "val", attribute, train_set.class_names[1:])
    val_set.prepare()
    return train_set, val_set


# ---- Colour splash -------------------------------------------------------------------------------


def color_splash(image, mask):
    """The image in gray except where an object is.

    Args:
        image: [H, W, 3] uint8, RGB.
        mask: [H, W, N].

    Returns:
        [H, W, 3] uint8.
    """
    # How bright a colour is, ITU-R BT.709.
    gray = np.around(np.asarray(image) @ np.array([0.2125, 0.7154, 0.0721])).astype(np.uint8)
    return np.where(np.asarray(mask).any(axis=-1)[..., None], image, gray[..., None]).astype(
        np.uint8
    )


def detect_and_color_splash(model, image_path=None, video_path=None, output="."):
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
    name = os.path.join(output, f"splash_{datetime.datetime.now():%Y%m%dT%H%M%S}")
    suffix = ".png" if video_path is None else ".avi"
    saved, number = name + suffix, 1
    while os.path.exists(saved):
        number += 1
        saved = f"{name}_{number}{suffix}"
    with _local(image_path or video_path) as path:
        if image_path is not None:
            image = media.read_image(path)
            media.write_image(saved, color_splash(image, model.detect([image])[0]["masks"]))
        else:
            with media.VideoWriter(saved, media.video_info(path)[1]) as video:
                for image in media.read_video(path):
                    video.write(color_splash(image, model.detect([image])[0]["masks"]))
    print("Saved to", saved)
    return saved


def _is_address(source):
    return str(source).startswith(("http://", "https://"))


@contextlib.contextmanager
def _local(source):
    """The path of a file, of an address that of a temporary copy."""
    if not _is_address(source):
        if not os.path.exists(source):
            raise FileNotFoundError(f"No file {source}")
        yield source
        return
    import shutil
    import urllib.parse
    import urllib.request

    suffix = pathlib.PurePosixPath(urllib.parse.urlparse(source).path).suffix
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file" + suffix)
        try:
            with urllib.request.urlopen(source, timeout=60) as response, open(path, "wb") as file:
                shutil.copyfileobj(response, file)
        except OSError as error:
            raise OSError(f"{source} can't be downloaded: {error}") from error
        yield path


# ---- Commands ------------------------------------------------------------------------------------


def train(model, train_set, val_set, args=None):
    """The heads alone, 30 epochs or --epochs of `args`: the set is small, and COCO's weights know
    round things."""
    commands.train(model, train_set, val_set, [(30, "heads", 1.0)], args)


def main(arguments=None):
    parser = commands.parser(__doc__, ("train", "splash"), DEFAULT_LOGS_DIR, inputs="splash")
    parser.set_defaults(output=".")
    parser.add_argument(
        "--attribute", metavar="NAME", help="train: the region attribute that holds the class"
    )
    args = commands.parse(parser, arguments)
    config = commands.configure(BalloonConfig(), args)
    if args.command == "train":
        if not args.dataset:
            parser.error("train needs --dataset, the folder with train/ and val/")
        train_set, val_set = load(args.dataset, args.attribute)
        config.NUM_CLASSES = train_set.num_classes
        model = commands.load_model("training", config, args)
        commands.save_classes(model, train_set.class_names)
        return train(model, train_set, val_set, args)
    config.NUM_CLASSES = len(commands.load_classes(config, args, default=("BG", "balloon")))
    model = commands.load_model("inference", commands.inference_config(config), args)
    for source in args.inputs:
        for path in [source] if _is_address(source) else media.find_files(source):
            video = source in args.video or media.is_video(path)
            detect_and_color_splash(
                model, **{"video_path" if video else "image_path": path}, output=args.output
            )


if __name__ == "__main__":
    commands.run(main)
