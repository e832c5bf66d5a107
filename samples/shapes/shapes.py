"""Trains Mask R-CNN on generated shapes: squares, circles and triangles that overlap and occlude.

    python samples/shapes/shapes.py demo        train, evaluate on unseen images, draw
    python samples/shapes/shapes.py train       train, or go on with an interrupted run
    python samples/shapes/shapes.py evaluate    AP of the last checkpoint
    python samples/shapes/shapes.py detect      pictures of detections on unseen images

Everything runs on a CPU without a download. See --help for the options.
"""
import argparse
import json
import logging
import os
import pathlib
import shutil
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
# TensorFlow's cost model warns of an operation that it can't price, at every start.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# oneDNN's kernels, which TensorFlow leaves off on CPUs without AVX-512, take .47 s a step of this small network, not .64 s.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from mrcnn.config import SmallConfig  # noqa: E402
from mrcnn.utils import Dataset  # noqa: E402

SIDE, CLASSES = 128, ("square", "circle", "triangle")
HELD_OUT = 1_000_000                 # number of the first image that no run trains on


class ShapesConfig(SmallConfig):
    """A small network that learns the shapes on two CPU cores within minutes, from random weights."""

    NAME = "shapes"
    NUM_CLASSES = 1 + len(CLASSES)
    IMAGE_MIN_DIM = IMAGE_MAX_DIM = SIDE
    MAX_GT_INSTANCES = 8
    DETECTION_MIN_CONFIDENCE = 0.05
    STEPS_PER_EPOCH = 46
    VALIDATION_STEPS = 0
    SEED = 0


class ShapesDataset(Dataset):
    """Images that are made when they are asked for; number n is always the same.

    Args:
        count: images.
        first: number of the first one.
    """

    def __init__(self, count, first=0):
        super().__init__()
        for i, name in enumerate(CLASSES):
            self.add_class("shapes", i + 1, name)
        for number in range(first, first + count):
            rng = np.random.default_rng(number)
            self.add_image("shapes", number, path=None, background=rng.integers(0, 255, 3), shapes=_draw_shapes(rng))
        self.prepare()

    def load_image(self, image_id):
        """[SIDE, SIDE, 3] uint8."""
        info = self.image_info[image_id]
        image = np.full((SIDE, SIDE, 3), info["background"], np.uint8)
        for name, color, y, x, size in info["shapes"]:
            image[_mask(name, y, x, size)] = color
        return image

    def load_mask(self, image_id):
        """masks [SIDE, SIDE, N] bool of what is visible, class_ids [N] int32."""
        shapes = self.image_info[image_id]["shapes"]
        masks = np.stack([_mask(name, y, x, size) for name, _, y, x, size in shapes], axis=-1)
        covered = np.zeros((SIDE, SIDE), bool)
        for i in reversed(range(len(shapes))):             # later shapes lie on top
            masks[..., i] &= ~covered
            covered |= masks[..., i]
        class_ids = np.array([CLASSES.index(name) + 1 for name, *_ in shapes], np.int32)
        visible = masks.any(axis=(0, 1))
        return masks[..., visible], class_ids[visible]

    def image_reference(self, image_id):
        """The shapes of an image, as text."""
        return ", ".join(name for name, *_ in self.image_info[image_id]["shapes"])


def _draw_shapes(rng):
    """1 to 4 tuples (class, colour, centre y, x, half side); none covers most of another."""
    shapes, boxes = [], []
    for _ in range(rng.integers(1, 5)):
        size = int(rng.integers(20, SIDE // 4 + 1))
        y, x = (int(v) for v in rng.integers(20, SIDE - 20, 2))
        box = np.array([y - size, x - size, y + size, x + size])
        # As in the original sample: boxes that overlap by more than 30% are not both kept.
        if any(_iou(box, other) > .3 for other in boxes):
            continue
        boxes.append(box)
        shapes.append((CLASSES[rng.integers(len(CLASSES))], rng.integers(0, 255, 3), y, x, size))
    return shapes


def _iou(a, b):
    height, width = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return height * width / (sum(areas) - height * width)


def _mask(name, y, x, size):
    rows, columns = np.mgrid[:SIDE, :SIDE]
    dy, dx = rows - y, columns - x
    if name == "square":
        return (np.abs(dy) <= size) & (np.abs(dx) <= size)
    if name == "circle":
        return dy ** 2 + dx ** 2 <= size ** 2
    # Equilateral, the tip `size` above the centre.
    half = size / np.sin(np.radians(60))
    return (dy <= size) & (dy >= -size) & (np.abs(dx) <= half * (dy + size) / (2 * size))


# ---- Commands ----------------------------------------------------------------------------------------

def train(config, logs, epochs, restart=False):
    """Trains to the last epoch; takes up an interrupted run. Returns the model and the seconds, of all its sessions."""
    from mrcnn import model as modellib
    model = modellib.MaskRCNN("training", config, logs)
    if not restart:
        try:
            last = model.find_last()
        except FileNotFoundError:
            pass
        else:
            model.load_weights(last)
    clock = pathlib.Path(model.log_dir) / "seconds.json"
    before = json.loads(clock.read_text()) if clock.exists() else 0.
    if model.epoch < epochs:
        # Fresh images only: the run never sees one twice.
        dataset = ShapesDataset(epochs * config.STEPS_PER_EPOCH * config.BATCH_SIZE, first=config.SEED * 100_000)
        start = time.monotonic()
        model.train(dataset, None, config.LEARNING_RATE, epochs, "all", custom_callbacks=[_clock(clock, before, start)])
        before += time.monotonic() - start
    return model, before


def _clock(path, before, start):
    """A callback that keeps the seconds spent, so that a run in several sessions knows its total."""
    import keras

    def write(*_):
        path.write_text(json.dumps(before + time.monotonic() - start))
    return keras.callbacks.LambdaCallback(on_epoch_end=write)


def load(config, logs, weights=None):
    """The inference model with the given weights, or the last ones."""
    from mrcnn import model as modellib
    config.IMAGES_PER_GPU = 4
    model = modellib.MaskRCNN("inference", config, logs)
    model.load_weights(weights or model.find_last())
    return model


def draw(model, dataset, path, count=12):
    """Saves a picture of the detections above .5 on the first images. Returns its path."""
    from mrcnn import visualize
    images = [dataset.load_image(i) for i in dataset.image_ids[:count]]
    results = model.detect(images)
    for result in results:
        sure = result["scores"] >= .5
        result.update(rois=result["rois"][sure], class_ids=result["class_ids"][sure], scores=result["scores"][sure],
                      masks=result["masks"][..., sure])
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    return visualize.draw_detections_grid(images, results, dataset.class_names, path)


def evaluate(model, images, output):
    """AP on unseen images; prints the table, saves it and a picture. Returns the Evaluation."""
    from mrcnn import evaluate as evaluation
    dataset = ShapesDataset(images, first=HELD_OUT)
    result = evaluation.evaluate(model, dataset)
    print("\n" + result.table() + "\n")
    for path in [*result.save(output), draw(model, dataset, pathlib.Path(output) / "detections.png")]:
        print(path)
    return result


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("demo", "train", "evaluate", "detect"))
    parser.add_argument("--logs", default="demo/logs", help="folder of the checkpoints (default: %(default)s)")
    parser.add_argument("--output", default="demo", help="folder of tables and pictures (default: %(default)s)")
    parser.add_argument("--weights", help="weight file for evaluate and detect (default: the last checkpoint)")
    parser.add_argument("--epochs", type=int, default=18, help="number of the last epoch (default: %(default)s)")
    parser.add_argument("--images", type=int, default=100, help="unseen images to evaluate on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, images and draws (default: %(default)s)")
    parser.add_argument("--restart", action="store_true", help="begin again; the old run is removed")
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE", help="settings of ShapesConfig")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    config = ShapesConfig(SEED=args.seed)
    try:
        config.override(args.set)
    except ValueError as error:
        parser.error(str(error))
    if args.restart and os.path.isdir(args.logs):
        shutil.rmtree(args.logs)
    if args.command in ("demo", "train"):
        import keras
        keras.utils.set_random_seed(config.SEED)
        _, seconds = train(config, args.logs, args.epochs, args.restart)
    if args.command == "train":
        return
    model = load(config, args.logs, args.weights)
    if args.command == "detect":
        print(draw(model, ShapesDataset(12, first=HELD_OUT), pathlib.Path(args.output) / "detections.png"))
        return
    result = evaluate(model, args.images, args.output)
    figures = f"mask mAP@.5 {result.segm['AP50']:.3f}, mask AP {result.segm['AP']:.3f}, on {result.images} images"
    print(figures + (f", trained in {seconds:.0f} s" if args.command == "demo" else ""))


if __name__ == "__main__":
    main()
