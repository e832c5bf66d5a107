"""Trains the keypoint branch on generated stick figures with COCO's 17 points of a person.

    python samples/keypoints/keypoints.py demo        train, evaluate on unseen images, draw
    python samples/keypoints/keypoints.py train       train, or go on with an interrupted run
    python samples/keypoints/keypoints.py evaluate    keypoint AP of the last checkpoint
    python samples/keypoints/keypoints.py detect      a picture of detections on unseen images

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

from mrcnn import keypoints  # noqa: E402
from mrcnn.config import Config  # noqa: E402
from mrcnn.utils import Dataset  # noqa: E402

SIDE = 128
HELD_OUT = 1_000_000                 # number of the first image that no run trains on


class FiguresConfig(Config):
    """A small network that learns the stick figures on two CPU cores within minutes, from random weights."""

    NAME = "figures"
    BACKBONE = "resnet18"
    NUM_CLASSES = 1 + 1
    IMAGES_PER_GPU = 8
    IMAGE_MIN_DIM = IMAGE_MAX_DIM = SIDE
    RPN_ANCHOR_SCALES = (8, 16, 32, 64, 128)
    RPN_CHANNELS = 64
    TOP_DOWN_PYRAMID_SIZE = 64
    FPN_CLASSIF_FC_LAYERS_SIZE = 256
    USE_MASK = False
    USE_KEYPOINTS = True
    KEYPOINT_HEAD_CONVS = 4
    KEYPOINT_HEAD_CHANNELS = 64
    # Training from scratch needs the batch's statistics, and soon.
    TRAIN_BN = None
    BATCH_NORM_MOMENTUM = 0.95
    POST_NMS_ROIS_TRAINING = 200
    POST_NMS_ROIS_INFERENCE = 100
    PRE_NMS_LIMIT = 1000
    TRAIN_ROIS_PER_IMAGE = 32
    ROI_POSITIVE_RATIO = 0.25
    CLASS_LOSS_ON_PADDING = False
    MAX_GT_INSTANCES = 4
    DETECTION_MIN_CONFIDENCE = 0.05
    OPTIMIZER = "adamw"
    LEARNING_RATE = 1e-3
    LEARNING_RATE_SCHEDULE = "cosine"
    WARMUP_STEPS = 50
    STEPS_PER_EPOCH = 50
    VALIDATION_STEPS = 0
    SEED = 0


class FiguresDataset(Dataset):
    """Images of one or two figures that face the viewer, made when they are asked for; number n is always the same.

    Args:
        count: images.
        first: number of the first one.
    """

    def __init__(self, count, first=0):
        super().__init__()
        self.add_class("figures", 1, "person")
        for number in range(first, first + count):
            self.add_image("figures", number, path=None)
        self.prepare()
        self._last = None, None

    def _drawing(self, image_id):
        """(image, masks, keypoints); kept until another one is asked for, since training asks for all three in turn."""
        number, drawing = self._last
        if number != image_id:
            drawing = draw_image(np.random.default_rng(self.image_info[image_id]["id"]))
            self._last = image_id, drawing
        return drawing

    def load_image(self, image_id):
        """[SIDE, SIDE, 3] uint8."""
        return self._drawing(image_id)[0]

    def load_mask(self, image_id):
        """masks [SIDE, SIDE, N] bool of what is visible, class_ids [N] int32."""
        masks = self._drawing(image_id)[1]
        return masks, np.ones(masks.shape[2], np.int32)

    def load_keypoints(self, image_id):
        """[N, 17, (y, x, visibility)]; what another figure covers is labelled and hidden."""
        return self._drawing(image_id)[2]


def draw_image(rng):
    """image [SIDE, SIDE, 3] uint8, masks [SIDE, SIDE, N] bool, keypoints [N, 17, (y, x, visibility)]."""
    from PIL import Image, ImageDraw
    image = Image.new("RGB", (SIDE, SIDE), tuple(rng.integers(0, 255, 3).tolist()))
    masks, points = [], []
    for _ in range(rng.integers(1, 3)):
        height = rng.uniform(60, 110)
        joints = pose(rng) * height
        joints += rng.uniform([.5 * height, .25 * height], [SIDE - .45 * height, SIDE - .25 * height])
        mask = Image.new("1", (SIDE, SIDE))
        colors = [tuple(rng.integers(0, 255, 3).tolist()) for _ in range(4)]
        draw_figure(ImageDraw.Draw(image), joints, height, colors)
        draw_figure(ImageDraw.Draw(mask), joints, height, [1] * 4)
        mask = np.array(mask)
        masks = [other & ~mask for other in masks] + [mask]
        points.append(joints)
    masks = np.stack(masks, axis=-1)
    found = np.zeros((len(points), 17, 3))
    for i, joints in enumerate(points):
        cells = np.floor(joints).astype(int)
        inside = ((cells >= 0) & (cells < SIDE)).all(axis=1)
        covered = masks[..., i + 1:].any(axis=-1)[tuple(np.clip(cells, 0, SIDE - 1).T)]
        found[i] = np.where(inside[:, None], np.column_stack([joints, np.where(covered, 1, 2)]), 0)
    visible = masks.any(axis=(0, 1))
    return np.array(image), masks[..., visible], found[visible]


def pose(rng):
    """Joints [17, (y, x)] of a figure of height 1 with its hips at the origin; its left is on the right."""
    joints = np.zeros((17, 2))
    joints[:5] = np.array([(-.40, 0), (-.425, .025), (-.425, -.025), (-.41, .06), (-.41, -.06)])
    for right, side in enumerate((1, -1)):
        arm, bend = rng.uniform(-.2, 2.5), rng.uniform(-1.2, 1.2)
        leg, knee = rng.uniform(-.1, .7), rng.uniform(-.5, .2)
        shoulder, hip = np.array([-.29, .1 * side]), np.array([0, .07 * side])
        joints[5 + right], joints[11 + right] = shoulder, hip
        joints[7 + right] = shoulder + .17 * np.array([np.cos(arm), side * np.sin(arm)])
        joints[9 + right] = joints[7 + right] + .15 * np.array([np.cos(arm + bend), side * np.sin(arm + bend)])
        joints[13 + right] = hip + .22 * np.array([np.cos(leg), side * np.sin(leg)])
        joints[15 + right] = joints[13 + right] + .22 * np.array([np.cos(leg + knee), side * np.sin(leg + knee)])
    angle = rng.uniform(-.3, .3)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return joints @ turn


def draw_figure(pen, joints, height, colors):
    """Limbs, trunk and head with a face. pen: PIL's ImageDraw; colors: of limbs, trunk, head and face."""
    limbs, trunk, head, face = colors
    width = max(2, round(.055 * height))
    places = [(float(x), float(y)) for y, x in joints]

    def dot(place, radius, color):
        pen.ellipse([place[0] - radius, place[1] - radius, place[0] + radius, place[1] + radius], fill=color)
    for a, b in keypoints.COCO_SKELETON:
        if min(a, b) >= 5 and not {a, b} <= {5, 6, 11, 12}:
            pen.line([places[a], places[b]], fill=limbs, width=width)
            dot(places[a], width / 2, limbs)
            dot(places[b], width / 2, limbs)
    pen.polygon([places[i] for i in (5, 6, 12, 11)], fill=trunk)
    neck = ((places[5][0] + places[6][0]) / 2, (places[5][1] + places[6][1]) / 2)
    pen.line([places[0], neck], fill=head, width=width)
    dot(places[0], .06 * height, head)
    for ear in (3, 4):
        dot(places[ear], .018 * height, head)
    for point in (0, 1, 2):
        dot(places[point], .012 * height, face)


# ---- Commands ----------------------------------------------------------------------------------------

def train(config, logs, epochs, restart=False):
    """Trains to the last epoch; takes up an interrupted run. Returns the model and the seconds, of all its sessions."""
    import imgaug.augmenters as iaa
    import keras

    from mrcnn import model as modellib
    if restart and os.path.isdir(logs):
        shutil.rmtree(logs)
    keras.utils.set_random_seed(config.SEED)
    model = modellib.MaskRCNN("training", config, logs)
    try:
        model.load_weights(model.find_last())
    except FileNotFoundError:
        pass
    clock = pathlib.Path(model.log_dir) / "seconds.json"
    before, start = json.loads(clock.read_text()) if clock.exists() else 0., time.monotonic()
    if model.epoch < epochs:
        # Fresh images only, half of them mirrored: left and right are exchanged with them.
        dataset = FiguresDataset(epochs * config.STEPS_PER_EPOCH * config.BATCH_SIZE, first=config.SEED * 100_000)
        config.CHECK_IMAGES = 20
        write = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda *_: clock.write_text(json.dumps(before + time.monotonic() - start)))
        model.train(dataset, None, config.LEARNING_RATE, epochs, "all", augmentation=iaa.Fliplr(.5), custom_callbacks=[write])
        before += time.monotonic() - start
    return model, before


def load(config, logs, weights=None):
    """The inference model with the given weights, or the last ones."""
    from mrcnn import model as modellib
    config.IMAGES_PER_GPU = 4
    model = modellib.MaskRCNN("inference", config, logs)
    model.load_weights(weights or model.find_last())
    return model


def draw(model, path, count=12):
    """Saves a picture of the figures found with a score above .5 on the first unseen images. Returns its path."""
    from mrcnn import visualize
    dataset = FiguresDataset(count, first=HELD_OUT)
    images = [dataset.load_image(i) for i in dataset.image_ids]
    results = model.detect(images)
    for result in results:
        sure = result["scores"] >= .5
        result.update({name: result[name][sure] for name in ("rois", "class_ids", "scores", "keypoints")})
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    return visualize.draw_detections_grid(images, results, dataset.class_names, path)


def evaluate(model, images, output):
    """Keypoint and box AP on unseen images; prints and saves them with a picture. Returns the Evaluation."""
    from mrcnn import evaluate as evaluation
    result = evaluation.evaluate(model, FiguresDataset(images, first=HELD_OUT))
    print("\n" + result.summary() + "\n")
    for path in [*result.save(output), draw(model, pathlib.Path(output) / "detections.png")]:
        print(path)
    return result


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("demo", "train", "evaluate", "detect"))
    parser.add_argument("--logs", default="demo/keypoints/logs", help="folder of the checkpoints (default: %(default)s)")
    parser.add_argument("--output", default="demo/keypoints", help="folder of tables and pictures (default: %(default)s)")
    parser.add_argument("--weights", help="weight file for evaluate and detect (default: the last checkpoint)")
    parser.add_argument("--epochs", type=int, default=20, help="number of the last epoch (default: %(default)s)")
    parser.add_argument("--images", type=int, default=100, help="unseen images to evaluate on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, images and draws (default: %(default)s)")
    parser.add_argument("--restart", action="store_true", help="begin again; the old run is removed")
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE", help="settings of FiguresConfig")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    config = FiguresConfig(SEED=args.seed)
    try:
        config.override(args.set)
    except ValueError as error:
        parser.error(str(error))
    if args.command in ("demo", "train"):
        _, seconds = train(config, args.logs, args.epochs, args.restart)
    if args.command == "train":
        return
    model = load(config, args.logs, args.weights)
    if args.command == "detect":
        print(draw(model, pathlib.Path(args.output) / "detections.png"))
        return
    result = evaluate(model, args.images, args.output)
    figures = (f"keypoint AP@.5 {result.keypoints['AP50']:.3f}, keypoint AP {result.keypoints['AP']:.3f}, "
               f"on {result.images} images")
    print(figures + (f", trained in {seconds:.0f} s" if args.command == "demo" else ""))


if __name__ == "__main__":
    main()
