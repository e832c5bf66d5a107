"""The numpy routines beside the original algorithm's, restated as plain loops (plain.py).

    python benchmarks/numpy_routines.py [NAME ...] [--repeats 5]

Every pair is checked to give the same answer before it is timed. Prints a Markdown table.
"""

import argparse
import concurrent.futures
import pathlib
import sys
from collections.abc import Iterator, Sequence

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import plain, timing  # noqa: E402
from mrcnn import data, utils  # noqa: E402
from mrcnn.config import Config  # noqa: E402

SIDE = 1024


class Photos(utils.Dataset):
    """Two 480 x 640 pictures of smooth noise with ten elliptic objects each, in memory."""

    def __init__(self, count: int = 2, objects: int = 10, shape: tuple[int, int] = (480, 640)):
        super().__init__()
        self.add_class("photos", 1, "thing")
        self.content = []
        for i in range(count):
            rng = np.random.default_rng(i)
            coarse = rng.integers(0, 255, (shape[0] // 20, shape[1] // 20, 3)).astype(np.uint8)
            image = utils.resize(coarse, shape, preserve_range=True).astype(np.uint8)
            self.content.append(
                (image, ellipses(random_boxes(rng, objects, shape, 30, 200), shape))
            )
            self.add_image("photos", i, path=None)
        self.prepare()

    def load_image(self, image_id: int) -> np.ndarray:
        return self.content[image_id][0].copy()

    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        masks = self.content[image_id][1].copy()
        return masks, np.ones(masks.shape[-1], np.int32)


def random_boxes(
    rng: np.random.Generator,
    count: int,
    shape: tuple[int, int] = (SIDE, SIDE),
    smallest: int = 16,
    largest: int = 400,
) -> np.ndarray:
    """[count, 4] int boxes inside an image, sides uniform between two lengths."""
    size = rng.integers(smallest, np.minimum(largest, shape) + 1, (count, 2))
    corner = (rng.random((count, 2)) * (np.array(shape) - size + 1)).astype(int)
    return np.concatenate([corner, corner + size], axis=1)


def ellipses(boxes: np.ndarray, shape: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """[H, W, N] bool masks that fill the boxes' inscribed ellipses."""
    masks = np.zeros((*shape, len(boxes)), bool)
    for i, (y1, x1, y2, x2) in enumerate(boxes):
        y = (np.arange(y1, y2) + 0.5 - (y1 + y2) / 2) / ((y2 - y1) / 2)
        x = (np.arange(x1, x2) + 0.5 - (x1 + x2) / 2) / ((x2 - x1) / 2)
        masks[y1:y2, x1:x2, i] = y[:, None] ** 2 + x**2 <= 1
    return masks


def soft_masks(rng: np.random.Generator, count: int) -> np.ndarray:
    """[count, 28, 28] float32: blobs with a soft edge, as the mask head gives them."""
    grid = (np.arange(28) - 13.5) / 14
    radius = rng.uniform(0.5, 1, (count, 1, 1))
    return (1 / (1 + np.exp(8 * (np.hypot(grid[:, None], grid) - radius)))).astype(np.float32)


def read_once(*arrays: np.ndarray) -> list:
    """Reads arrays, two at once."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda array: array.reshape(-1).view(np.uint64).max(), arrays))


def cases(names: Sequence[str]) -> Iterator[tuple]:
    """Yields name, goal, {"plain": f, "mrcnn": f, "memory": f}, equal(a, b).

    "memory", where it is there, only reads the input or writes the result, once.
    """
    rng = np.random.default_rng(0)

    def wanted(name):
        return not names or any(part in name for part in names)

    def same(a, b):
        return a.shape == b.shape and np.array_equal(a, b)

    def nearly(a, b):
        return a.shape == b.shape and np.mean(a != b) <= 1e-3

    def close(a, b):
        return np.allclose(a, b, rtol=1e-5, atol=1e-6)

    def same_targets(a, b):
        # What the draw leaves alone: how many anchors are objects, and that these are the same.
        return np.array_equal(np.bincount(a[0] + 1), np.bincount(b[0] + 1)) and (
            np.count_nonzero(a[0] == 1) == 128 or close(a[1], b[1])
        )

    boxes = random_boxes(rng, 100)
    soft = soft_masks(rng, 100)
    large = np.array([[0, 0, SIDE, SIDE]] * 100)
    for name, b in (
        ("unmold_masks, 100 at 1024²", boxes),
        ("the same, boxes as large as the image", large),
    ):
        if wanted(name):
            yield (
                name,
                20,
                {
                    "plain": lambda b=b: plain.unmold_masks(soft, b, (SIDE, SIDE)),
                    "mrcnn": lambda b=b: utils.unmold_masks(soft, b, (SIDE, SIDE)),
                    "memory": lambda: np.full((100, SIDE, SIDE), True),
                },
                nearly,
            )
    masks = ellipses(boxes)
    others = ellipses(random_boxes(rng, 100))
    shifted = ellipses(np.clip(boxes + rng.integers(-6, 7, boxes.shape), 0, SIDE))
    tight = utils.extract_bboxes(masks)
    if wanted("minimize_mask, 100 at 1024²"):
        yield (
            "minimize_mask, 100 at 1024²",
            20,
            {
                "plain": lambda: plain.minimize_mask(tight, masks, (56, 56)),
                "mrcnn": lambda: utils.minimize_mask(tight, masks, (56, 56)),
            },
            nearly,
        )
    if wanted("extract_bboxes, 100 at 1024²"):
        yield (
            "extract_bboxes, 100 at 1024²",
            20,
            {
                "plain": lambda: plain.extract_bboxes(masks),
                "mrcnn": lambda: utils.extract_bboxes(masks),
                "memory": lambda: read_once(*np.split(masks, 2)),
            },
            same,
        )
    config = Config(NUM_CLASSES=2, IMAGE_MIN_DIM=800, IMAGE_MAX_DIM=SIDE, IMAGES_PER_GPU=2)
    anchors = utils.generate_pyramid_anchors(
        config.RPN_ANCHOR_SCALES,
        config.RPN_ANCHOR_RATIOS,
        data.compute_backbone_shapes(config, (SIDE, SIDE)),
        config.BACKBONE_STRIDES,
        config.RPN_ANCHOR_STRIDE,
    )
    for count, goal in ((10, 5), (100, 10)):
        name = f"build_rpn_targets, {count} objects"
        if wanted(name):
            gt = boxes[:count]
            ids = np.ones(count, np.int32)
            yield (
                name,
                goal,
                {
                    "plain": lambda gt=gt: plain.build_rpn_targets(anchors, gt, config),
                    "mrcnn": lambda gt=gt, ids=ids: data.build_rpn_targets(
                        (SIDE, SIDE), anchors, ids, gt, config
                    ),
                },
                same_targets,
            )
    if wanted("compute_overlaps, 261,888 × 100"):
        yield (
            "compute_overlaps, 261,888 × 100",
            5,
            {
                "plain": lambda: plain.compute_overlaps(anchors, boxes),
                "mrcnn": lambda: utils.compute_overlaps(anchors, boxes),
            },
            close,
        )
    if wanted("compute_overlaps_masks, 100 × 100 at 1024²"):
        yield (
            "compute_overlaps_masks, 100 × 100 at 1024²",
            20,
            {
                "plain": lambda: plain.compute_overlaps_masks(masks, others),
                "mrcnn": lambda: utils.compute_overlaps_masks(masks, others),
                "memory": lambda: read_once(masks, others),
            },
            close,
        )
    if wanted("compute_ap, 100 × 100 at 1024²"):
        ids = np.ones(100, np.int32)
        scores = rng.permutation(100) / 100
        arguments = tight, ids, masks, utils.extract_bboxes(shifted), ids, scores, shifted
        yield (
            "compute_ap, 100 × 100 at 1024²",
            20,
            {
                "plain": lambda: plain.compute_ap(*arguments),
                "mrcnn": lambda: utils.compute_ap(*arguments)[0],
                "memory": lambda: read_once(masks, shifted),
            },
            close,
        )
    photos = Photos()

    def same_example(a, b):
        return (
            np.abs(a[0].astype(int) - b[0]).max() <= 1
            and np.array_equal(a[2], b[3])
            and nearly(a[3], b[4])
        )

    if wanted("load_image_gt, photo to 1024², 10 objects"):
        yield (
            "load_image_gt, photo to 1024², 10 objects",
            5,
            {
                "plain": lambda: plain.load_image_gt(photos, config, 0),
                "mrcnn": lambda: data.load_image_gt(photos, config, 0, use_mini_mask=True),
            },
            same_example,
        )
    if wanted("batch of 2 at 1024²"):
        batches = data.TrainingBatches(photos, config, shuffle=False, seed=0)
        yield (
            "batch of 2 at 1024²",
            5,
            {
                "plain": lambda: plain.batch(photos, config, anchors, [0, 1]),
                "mrcnn": lambda: batches.batch(0)[0],
            },
            lambda a, b: (
                np.abs(a[0] - b[0]).max() <= 1.001
                and np.array_equal(a[1], b[5])
                and nearly(a[2], b[6])
            ),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="run the cases that contain one of these words")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rows = []
    for name, goal, functions, equal in cases(options.names):
        if not equal(functions["plain"](), functions["mrcnn"]()):
            raise SystemExit(f"{name}: the answers differ")
        # Each runs behind the plain loops, which leave none of its memory in the caches.
        memory = functions.pop("memory", None)
        seconds = timing.alternate(functions, options.repeats)
        if memory:
            seconds["memory"] = timing.alternate(
                {"plain": functions["plain"], "memory": memory}, options.repeats
            )["memory"]
        ratio = seconds["plain"] / seconds["mrcnn"]
        row = [name, f"{1e3 * seconds['plain']:.1f}", f"{1e3 * seconds['mrcnn']:.1f}"]
        if memory:
            row.append(f"{1e3 * seconds['memory']:.1f}")
        else:
            row.append("")
        rows.append([*row, f"{ratio:.1f}×", f"{goal}×"])
        print("  ".join(rows[-1]), file=sys.stderr, flush=True)
    print(
        timing.table(
            ["routine", "plain loops, ms", "mrcnn, ms", "memory alone, ms", "ratio", "goal"], rows
        )
    )


if __name__ == "__main__":
    main()
