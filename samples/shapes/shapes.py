"""Trains Mask R-CNN on generated shapes: squares, circles and triangles that overlap and occlude.

    python samples/shapes/shapes.py demo        train, evaluate on unseen images, draw
    python samples/shapes/shapes.py train       train, or go on with an interrupted run
    python samples/shapes/shapes.py evaluate    AP of the last checkpoint
    python samples/shapes/shapes.py detect      pictures of detections on unseen images

Everything runs on a CPU without a download. See --help for the options.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))  # the project's folder

from mrcnn import commands  # noqa: E402
from mrcnn.config import SmallConfig  # noqa: E402
from mrcnn.utils import Dataset  # noqa: E402

if TYPE_CHECKING:
    from mrcnn.evaluate import Evaluation

SIDE = 128
CLASSES = ("square", "circle", "triangle")

Shape = tuple[str, np.ndarray, int, int, int]  # class, colour, centre y, x, half side


class ShapesConfig(SmallConfig):
    """A small network that learns the shapes within minutes on two CPU cores, from scratch."""

    NAME = "shapes"
    NUM_CLASSES = 1 + len(CLASSES)
    IMAGE_MIN_DIM = IMAGE_MAX_DIM = SIDE
    MAX_GT_INSTANCES = 8
    # Half the width learns as fast from so few images, at half the cost.
    BACKBONE_WIDTH = 32
    IMAGES_PER_GPU = 4
    MASK_HEAD_CONVS = 2  # the masks are simple, and the head's convolutions a third of a step
    DETECTION_MIN_CONFIDENCE = 0.05
    # In a run this short both gain what otherwise takes four epochs more.
    BBOX_LOSS = RPN_BBOX_LOSS = "giou"
    LEARNING_RATE = 0.0015
    STEPS_PER_EPOCH = 92
    VALIDATION_STEPS = 0
    CHECK_IMAGES = 100  # they are made, none can be damaged
    SEED = 0


class ShapesDataset(Dataset):
    """Images that are made when they are asked for; number n is always the same.

    Args:
        count: images.
        first: number of the first one.
    """

    def __init__(self, count: int, first: int = 0):
        super().__init__()
        for i, name in enumerate(CLASSES):
            self.add_class("shapes", i + 1, name)
        for number in range(first, first + count):
            rng = np.random.default_rng(number)
            self.add_image(
                "shapes",
                number,
                path=None,
                background=rng.integers(0, 255, 3),
                shapes=_draw_shapes(rng),
            )
        self.prepare()

    def load_image(self, image_id: int) -> np.ndarray:
        """[SIDE, SIDE, 3] uint8."""
        info = self.image_info[image_id]
        image = np.full((SIDE, SIDE, 3), info["background"], np.uint8)
        for name, color, y, x, size in info["shapes"]:
            image[_mask(name, y, x, size)] = color
        return image

    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """masks [SIDE, SIDE, N] bool of what is visible, class_ids [N] int32."""
        shapes = self.image_info[image_id]["shapes"]
        masks = np.stack([_mask(name, y, x, size) for name, _, y, x, size in shapes], axis=-1)
        covered = np.zeros((SIDE, SIDE), bool)
        for i in reversed(range(len(shapes))):  # later shapes lie on top
            masks[..., i] &= ~covered
            covered |= masks[..., i]
        class_ids = np.array([CLASSES.index(name) + 1 for name, *_ in shapes], np.int32)
        visible = masks.any(axis=(0, 1))
        return masks[..., visible], class_ids[visible]

    def image_reference(self, image_id: int) -> str:
        """The shapes of an image, as text."""
        return ", ".join(name for name, *_ in self.image_info[image_id]["shapes"])


def _draw_shapes(rng: np.random.Generator) -> list[Shape]:
    """1 to 4 shapes; none covers most of another."""
    shapes: list[Shape] = []
    boxes: list[np.ndarray] = []
    for _ in range(rng.integers(1, 5)):
        size = int(rng.integers(20, SIDE // 4 + 1))
        y, x = rng.integers(20, SIDE - 20, 2).tolist()
        box = np.array([y - size, x - size, y + size, x + size])
        # As in the original sample: boxes that overlap by more than 30% are not both kept.
        if any(_iou(box, other) > 0.3 for other in boxes):
            continue
        name = CLASSES[rng.integers(len(CLASSES))]
        color = rng.integers(0, 255, 3)
        boxes.append(box)
        shapes.append((name, color, y, x, size))
    return shapes


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two boxes (y1, x1, y2, x2)."""
    common = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    intersection = np.maximum(common, 0).prod()
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - intersection
    return intersection / union


def _mask(name: str, y: int, x: int, size: int) -> np.ndarray:
    """[SIDE, SIDE] bool of a shape, were it alone."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    dy = rows - y
    dx = columns - x
    if name == "square":
        return (np.abs(dy) <= size) & (np.abs(dx) <= size)
    if name == "circle":
        return dy**2 + dx**2 <= size**2
    # Equilateral, the tip `size` above the centre.
    half = size / np.sin(np.radians(60))
    return (dy <= size) & (dy >= -size) & (np.abs(dx) <= half * (dy + size) / (2 * size))


# ---- Commands ------------------------------------------------------------------------------------


def headline(result: Evaluation) -> str:
    """The figures of an `Evaluation` that matter here."""
    return f"mask mAP@.5 {result.segm['AP50']:.3f}, mask AP {result.segm['AP']:.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    commands.generated(__doc__, ShapesConfig, ShapesDataset, headline, "demo", arguments, epochs=13)


if __name__ == "__main__":
    commands.run(main)
