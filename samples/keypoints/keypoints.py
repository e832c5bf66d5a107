"""Trains the keypoint branch on generated stick figures with COCO's 17 points of a person.

    python samples/keypoints/keypoints.py demo        train, evaluate on unseen images, draw
    python samples/keypoints/keypoints.py train       train, or go on with an interrupted run
    python samples/keypoints/keypoints.py evaluate    keypoint AP of the last checkpoint
    python samples/keypoints/keypoints.py detect      a picture of detections on unseen images

Everything runs on a CPU without a download. See --help for the options.
"""

import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))  # the project's folder

from mrcnn import commands, keypoints  # noqa: E402
from mrcnn.config import SmallConfig  # noqa: E402
from mrcnn.utils import Dataset  # noqa: E402

SIDE = 128


class FiguresConfig(SmallConfig):
    """A small network that learns the stick figures on two CPU cores within minutes, from random
    weights."""

    NAME = "figures"
    NUM_CLASSES = 1 + 1
    IMAGE_MIN_DIM = IMAGE_MAX_DIM = SIDE
    USE_MASK = False
    USE_KEYPOINTS = True
    KEYPOINT_HEAD_CONVS = 4
    KEYPOINT_HEAD_CHANNELS = 64
    POST_NMS_ROIS_INFERENCE = 100
    MAX_GT_INSTANCES = 4
    DETECTION_MIN_CONFIDENCE = 0.05
    STEPS_PER_EPOCH = 50
    VALIDATION_STEPS = 0
    CHECK_IMAGES = 20
    SEED = 0


class FiguresDataset(Dataset):
    """Images of one or two figures that face the viewer, made when they are asked for; number n is
    always the same.

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
        """(image, masks, keypoints); kept until another one is asked for, since training asks for
        all three in turn."""
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
    """image [SIDE, SIDE, 3] uint8, masks [SIDE, SIDE, N] bool, keypoints [N, 17, (y, x,
    visibility)]."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (SIDE, SIDE), tuple(rng.integers(0, 255, 3).tolist()))
    masks, points = [], []
    for _ in range(rng.integers(1, 3)):
        height = rng.uniform(60, 110)
        joints = pose(rng) * height
        joints += rng.uniform(
            [0.5 * height, 0.25 * height], [SIDE - 0.45 * height, SIDE - 0.25 * height]
        )
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
        covered = masks[..., i + 1 :].any(axis=-1)[tuple(np.clip(cells, 0, SIDE - 1).T)]
        found[i] = np.where(inside[:, None], np.column_stack([joints, np.where(covered, 1, 2)]), 0)
    visible = masks.any(axis=(0, 1))
    return np.array(image), masks[..., visible], found[visible]


def pose(rng):
    """Joints [17, (y, x)] of a figure of height 1 with its hips at the origin; its left is on the
    right."""
    joints = np.zeros((17, 2))
    joints[:5] = np.array(
        [(-0.40, 0), (-0.425, 0.025), (-0.425, -0.025), (-0.41, 0.06), (-0.41, -0.06)]
    )
    for right, side in enumerate((1, -1)):
        arm, bend = rng.uniform(-0.2, 2.5), rng.uniform(-1.2, 1.2)
        leg, knee = rng.uniform(-0.1, 0.7), rng.uniform(-0.5, 0.2)
        shoulder, hip = np.array([-0.29, 0.1 * side]), np.array([0, 0.07 * side])
        joints[5 + right], joints[11 + right] = shoulder, hip
        joints[7 + right] = shoulder + 0.17 * np.array([np.cos(arm), side * np.sin(arm)])
        joints[9 + right] = joints[7 + right] + 0.15 * np.array(
            [np.cos(arm + bend), side * np.sin(arm + bend)]
        )
        joints[13 + right] = hip + 0.22 * np.array([np.cos(leg), side * np.sin(leg)])
        joints[15 + right] = joints[13 + right] + 0.22 * np.array(
            [np.cos(leg + knee), side * np.sin(leg + knee)]
        )
    angle = rng.uniform(-0.3, 0.3)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return joints @ turn


def draw_figure(pen, joints, height, colors):
    """Limbs, trunk and head with a face. pen: PIL's ImageDraw; colors: of limbs, trunk, head and
    face."""
    limbs, trunk, head, face = colors
    width = max(2, round(0.055 * height))
    places = [(float(x), float(y)) for y, x in joints]

    def dot(place, radius, color):
        pen.ellipse(
            [place[0] - radius, place[1] - radius, place[0] + radius, place[1] + radius], fill=color
        )

    for a, b in keypoints.COCO_SKELETON:
        if min(a, b) >= 5 and not {a, b} <= {5, 6, 11, 12}:
            pen.line([places[a], places[b]], fill=limbs, width=width)
            dot(places[a], width / 2, limbs)
            dot(places[b], width / 2, limbs)
    pen.polygon([places[i] for i in (5, 6, 12, 11)], fill=trunk)
    neck = ((places[5][0] + places[6][0]) / 2, (places[5][1] + places[6][1]) / 2)
    pen.line([places[0], neck], fill=head, width=width)
    dot(places[0], 0.06 * height, head)
    for ear in (3, 4):
        dot(places[ear], 0.018 * height, head)
    for point in (0, 1, 2):
        dot(places[point], 0.012 * height, face)


# ---- Commands ------------------------------------------------------------------------------------


def mirror():
    """Half of the images mirrored: left and right points are exchanged with them."""
    from mrcnn.data import import_imgaug

    return import_imgaug().augmenters.Fliplr(0.5)


def headline(result):
    """The figures of an `Evaluation` that matter here."""
    return (
        f"keypoint AP@.5 {result.keypoints['AP50']:.3f}, keypoint AP {result.keypoints['AP']:.3f}"
    )


def main(arguments=None):
    commands.generated(
        __doc__,
        FiguresConfig,
        FiguresDataset,
        headline,
        "demo/keypoints",
        arguments,
        epochs=20,
        augmentation=mirror,
    )


if __name__ == "__main__":
    commands.run(main)
