"""Trains the keypoint branch on generated stick figures with COCO's 17 points of a person.

    python samples/keypoints/keypoints.py demo        train, evaluate on unseen images, draw
    python samples/keypoints/keypoints.py train       train, or go on with an interrupted run
    python samples/keypoints/keypoints.py evaluate    keypoint AP of the last checkpoint
    python samples/keypoints/keypoints.py detect      a picture of detections on unseen images

Everything runs on a CPU without a download. See --help for the options.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))  # the project's folder

from mrcnn import commands, keypoints  # noqa: E402
from mrcnn.config import SmallConfig  # noqa: E402
from mrcnn.utils import Dataset  # noqa: E402

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

    from mrcnn.evaluate import Evaluation

SIDE = 128


class FiguresConfig(SmallConfig):
    """A small network that learns the figures within minutes on two CPU cores, from scratch."""

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
    """Images of one or two figures that face the viewer, made when they are asked for.

    Image number n is always the same.

    Args:
        count: images.
        first: number of the first one.
    """

    def __init__(self, count: int, first: int = 0):
        super().__init__()
        self.add_class("figures", 1, "person")
        for number in range(first, first + count):
            self.add_image("figures", number, path=None)
        self.prepare()
        self._last: tuple[int, tuple] | None = None

    def _drawing(self, image_id: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image, masks and keypoints, kept until others are asked for: training takes all three."""
        if self._last is None or self._last[0] != image_id:
            rng = np.random.default_rng(self.image_info[image_id]["id"])
            self._last = (image_id, draw_image(rng))
        return self._last[1]

    def load_image(self, image_id: int) -> np.ndarray:
        """[SIDE, SIDE, 3] uint8."""
        return self._drawing(image_id)[0]

    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """masks [SIDE, SIDE, N] bool of what is visible, class_ids [N] int32."""
        masks = self._drawing(image_id)[1]
        return masks, np.ones(masks.shape[2], np.int32)

    def load_keypoints(self, image_id: int) -> np.ndarray:
        """[N, 17, (y, x, visibility)]; what another figure covers is labelled and hidden."""
        return self._drawing(image_id)[2]


def draw_image(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One or two figures.

    Returns:
        image [SIDE, SIDE, 3] uint8, masks [SIDE, SIDE, N] bool of what is visible, keypoints [N,
        17, (y, x, visibility)].
    """
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (SIDE, SIDE), random_color(rng))
    masks: list[np.ndarray] = []
    figures: list[np.ndarray] = []
    for _ in range(rng.integers(1, 3)):
        height = rng.uniform(60, 110)
        joints = pose(rng) * height
        nearest = [0.5 * height, 0.25 * height]
        farthest = [SIDE - 0.45 * height, SIDE - 0.25 * height]
        joints += rng.uniform(nearest, farthest)
        colors = [random_color(rng) for _ in range(4)]
        draw_figure(ImageDraw.Draw(image), joints, height, colors)
        canvas = Image.new("1", (SIDE, SIDE))
        draw_figure(ImageDraw.Draw(canvas), joints, height, [1] * 4)
        mask = np.array(canvas)
        masks = [other & ~mask for other in masks] + [mask]
        figures.append(joints)
    all_masks = np.stack(masks, axis=-1)
    points = []
    for i, joints in enumerate(figures):
        points.append(with_visibility(joints, all_masks[..., i + 1 :].any(axis=-1)))
    visible = all_masks.any(axis=(0, 1))
    return np.array(image), all_masks[..., visible], np.stack(points)[visible]


def random_color(rng: np.random.Generator) -> tuple[int, ...]:
    """A colour (r, g, b)."""
    return tuple(rng.integers(0, 255, 3).tolist())


def with_visibility(joints: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Joints [17, (y, x)] as keypoints [17, (y, x, visibility)]; zeros for those outside the image.

    Args:
        cover: [SIDE, SIDE] bool, where figures lie on top of this one.
    """
    cells = np.floor(joints).astype(int)
    inside = ((cells >= 0) & (cells < SIDE)).all(axis=1)
    rows, columns = np.clip(cells, 0, SIDE - 1).T
    visibility = np.where(cover[rows, columns], 1, 2)
    return np.where(inside[:, None], np.column_stack([joints, visibility]), 0)


def pose(rng: np.random.Generator) -> np.ndarray:
    """Joints [17, (y, x)] of a figure of height 1 with its hips at the origin.

    It faces the viewer, so that its left is on the right.
    """
    joints = np.zeros((17, 2))
    joints[:5] = [(-0.40, 0), (-0.425, 0.025), (-0.425, -0.025), (-0.41, 0.06), (-0.41, -0.06)]
    for right, side in enumerate((1, -1)):
        arm = rng.uniform(-0.2, 2.5)
        elbow = rng.uniform(-1.2, 1.2)
        leg = rng.uniform(-0.1, 0.7)
        knee = rng.uniform(-0.5, 0.2)
        joints[5 + right] = (-0.29, 0.1 * side)
        joints[7 + right] = joints[5 + right] + limb(0.17, arm, side)
        joints[9 + right] = joints[7 + right] + limb(0.15, arm + elbow, side)
        joints[11 + right] = (0, 0.07 * side)
        joints[13 + right] = joints[11 + right] + limb(0.22, leg, side)
        joints[15 + right] = joints[13 + right] + limb(0.22, leg + knee, side)
    angle = rng.uniform(-0.3, 0.3)
    turn = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    return joints @ np.array(turn)


def limb(length: float, angle: float, side: int) -> np.ndarray:
    """A limb as a step (y, x) from joint to joint; at angle 0 it hangs, then it points to a side.

    Args:
        side: 1 for the right side of the image, -1 for the left.
    """
    return length * np.array([np.cos(angle), side * np.sin(angle)])


def draw_figure(pen: ImageDraw, joints: np.ndarray, height: float, colors: Sequence) -> None:
    """Draws limbs, trunk and head with a face.

    Args:
        pen: Pillow's `ImageDraw`.
        joints: [17, (y, x)].
        height: of the figure, in pixels.
        colors: of limbs, trunk, head and face.
    """
    limbs, trunk, head, face = colors
    width = max(2, round(0.055 * height))
    places = [(float(x), float(y)) for y, x in joints]
    for start, end in keypoints.COCO_SKELETON:
        is_trunk = {start, end} <= {5, 6, 11, 12}
        if min(start, end) >= 5 and not is_trunk:
            pen.line([places[start], places[end]], fill=limbs, width=width)
            draw_dot(pen, places[start], width / 2, limbs)
            draw_dot(pen, places[end], width / 2, limbs)
    pen.polygon([places[i] for i in (5, 6, 12, 11)], fill=trunk)
    x, y = np.mean([places[5], places[6]], axis=0).tolist()
    pen.line([places[0], (x, y)], fill=head, width=width)
    draw_dot(pen, places[0], 0.06 * height, head)
    for ear in (3, 4):
        draw_dot(pen, places[ear], 0.018 * height, head)
    for point in (0, 1, 2):
        draw_dot(pen, places[point], 0.012 * height, face)


def draw_dot(pen: ImageDraw, place: tuple[float, float], radius: float, color: Any) -> None:
    """Draws a filled circle around a place (x, y)."""
    x, y = place
    pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=color)


# ---- Commands ------------------------------------------------------------------------------------


def mirror() -> Any:
    """Half of the images mirrored: left and right points are exchanged with them."""
    from mrcnn.data import import_imgaug

    return import_imgaug().augmenters.Fliplr(0.5)


def headline(result: Evaluation) -> str:
    """The figures of an `Evaluation` that matter here."""
    return (
        f"keypoint AP@.5 {result.keypoints['AP50']:.3f}, keypoint AP {result.keypoints['AP']:.3f}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
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
