"""Large images in tiles: AP beside that of small images, memory, and time by megapixel.

    python benchmarks/tiles.py [--sides 2500 5000 10000] [--tile 1024] [--overlap 204]

The image of the largest side has 5,000 known objects, ellipses of 20 to 130 pixels and some of
1,000, and is drawn window by window. What is measured is the merging, not a network: the detector
reads the objects off the window, and gives them as a network does, masks of 28 x 28 in boxes that
are off by up to 2% of a side, nothing of which less than 30 pixels are to be seen. The small images
are windows of the same drawing of which no edge cuts an object off.

It prints for each side: objects, how many were found, were found twice, or are cut (IoU below .5),
AP (mean over IoU .5 to .95), seconds of the processor by megapixel, and the most memory that the
process has had. Fails where AP differs by more than .01, an object is there twice, or 3 GB are not
enough.
"""

import argparse
import pathlib
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from scipy import ndimage  # noqa: E402

from mrcnn import masks as mask_math, tiles  # noqa: E402
from mrcnn.config import Config  # noqa: E402

CELL = 140  # pixels of the square that an object has for itself
BLOCK = 8  # cells of a side of a block; one in so many holds a single object:
BIG = 40
THRESHOLDS = np.linspace(0.5, 0.95, 10)
# Goals.
AP_GOAL = 0.01
MEMORY_GOAL = 3.0  # GB


class Ellipse(NamedTuple):
    """An object: its middle, radii and angle, in pixels and radians."""

    y: float
    x: float
    radius_y: float
    radius_x: float
    angle: float

    @property
    def reach(self) -> float:
        """The most that it reaches from its middle."""
        return max(self.radius_y, self.radius_x)


class Drawing:
    """Ellipses on black; red and green say the number of the object.

    Args:
        side: of the image.
        seed: of the objects.
    """

    def __init__(self, side: int, seed: int = 0):
        self.shape = (side, side, 3)
        rng = np.random.default_rng(seed)
        self.objects: list[Ellipse] = []
        self.at: dict[tuple[int, int], int] = {}  # cell: number of its object, from 1
        cells = side // CELL
        for block_y in range(0, cells, BLOCK):
            for block_x in range(0, cells, BLOCK):
                fits = max(block_y, block_x) + BLOCK <= cells
                is_big = fits and rng.integers(BIG) == 0
                self._fill(rng, block_y, block_x, cells, is_big)

    def _fill(self, rng: np.random.Generator, top: int, left: int, cells: int, big: bool) -> None:
        """Puts objects into the cells of a block."""
        if big:
            radii = rng.uniform(300, 520, 2)
            middle = ((top + BLOCK / 2) * CELL, (left + BLOCK / 2) * CELL)
            self.objects.append(Ellipse(*middle, *radii, rng.uniform(0, np.pi)))
            for y in range(top, top + BLOCK):
                for x in range(left, left + BLOCK):
                    self.at[y, x] = len(self.objects)
            return
        for y in range(top, min(top + BLOCK, cells)):
            for x in range(left, min(left + BLOCK, cells)):
                radii = rng.uniform(10, 65, 2)
                room = CELL / 2 - radii.max()
                middle = np.array([y + 0.5, x + 0.5]) * CELL + rng.uniform(-room, room, 2)
                self.objects.append(Ellipse(*middle, *radii, rng.uniform(0, np.pi)))
                self.at[y, x] = len(self.objects)

    def numbers_in(self, window: tiles.Window) -> list[int]:
        """Numbers of the objects whose cells a window meets."""
        y1, x1, y2, x2 = window
        numbers = set()
        for y in range(y1 // CELL, y2 // CELL + 1):
            for x in range(x1 // CELL, x2 // CELL + 1):
                numbers.add(self.at.get((y, x), 0))
        return sorted(numbers - {0})

    def crop(self, number: int) -> tuple[int, int, np.ndarray]:
        """y and x of the first pixel of an object's box, and its pixels [h, w] bool."""
        ellipse = self.objects[number - 1]
        top = max(int(ellipse.y - ellipse.reach), 0)
        left = max(int(ellipse.x - ellipse.reach), 0)
        y, x = np.ogrid[
            top : int(ellipse.y + ellipse.reach) + 2, left : int(ellipse.x + ellipse.reach) + 2
        ]
        dy = y - ellipse.y
        dx = x - ellipse.x
        along = dx * np.cos(ellipse.angle) + dy * np.sin(ellipse.angle)
        across = dy * np.cos(ellipse.angle) - dx * np.sin(ellipse.angle)
        inside = (along / ellipse.radius_x) ** 2 + (across / ellipse.radius_y) ** 2 <= 1
        return top, left, inside

    def window(self, y1: int, x1: int, y2: int, x2: int) -> np.ndarray:
        """[y2 - y1, x2 - x1, 3] uint8."""
        labels = np.zeros((y2 - y1, x2 - x1), np.uint16)
        for number in self.numbers_in((y1, x1, y2, x2)):
            top, left, pixels = self.crop(number)
            rows = slice(max(top - y1, 0), max(top + pixels.shape[0] - y1, 0))
            columns = slice(max(left - x1, 0), max(left + pixels.shape[1] - x1, 0))
            part = labels[rows, columns]
            inside = pixels[max(y1 - top, 0) :, max(x1 - left, 0) :][
                : part.shape[0], : part.shape[1]
            ]
            part[inside] = number
        image = np.zeros((*labels.shape, 3), np.uint8)
        image[..., 0] = labels // 256
        image[..., 1] = labels % 256
        return image

    def runs(self, number: int) -> tiles.Runs:
        """The mask of an object."""
        top, left, pixels = self.crop(number)
        height, width = self.shape[:2]
        return tiles.runs_of(pixels[: height - top, : width - left], top, left, height)


class Reader:
    """Gives the objects of a window as a network would.

    Args:
        seed: of the errors of boxes and of the scores.
    """

    LEAST = 30  # pixels to be seen
    ERROR = 0.02  # of a side of a box

    def __init__(self, seed: int = 0):
        self.config = Config(IMAGES_PER_GPU=4, NUM_CLASSES=2)
        self.rng = np.random.default_rng(seed)

    def detect(self, images: Sequence[np.ndarray], masks: str = "lazy") -> list[dict]:
        """As `MaskRCNN.detect`."""
        return [self._look(image) for image in images]

    def _look(self, image: np.ndarray) -> dict:
        labels = image[..., 0].astype(np.int32) * 256 + image[..., 1]
        boxes = []
        soft = []
        for number, place in enumerate(ndimage.find_objects(labels), 1):
            if place is None:
                continue
            pixels = labels[place] == number
            if pixels.sum() < self.LEAST:
                continue
            y, x = place
            box = np.array([y.start, x.start, y.stop, x.stop], float)
            sides = np.tile(box[2:] - box[:2], 2)
            boxes.append(np.around(box + self.rng.uniform(-self.ERROR, self.ERROR, 4) * sides))
            gray = Image.fromarray(pixels.astype(np.uint8) * 255)
            soft.append(np.asarray(gray.resize((28, 28), Image.Resampling.BOX)) / 255.0)
        rois = np.array(boxes, np.int32).reshape(-1, 4)
        shape = np.array(image.shape[:2] * 2)
        rois = np.clip(rois, 0, shape)
        return {
            "rois": rois,
            "class_ids": np.ones(len(rois), np.int32),
            "scores": self.rng.uniform(0.5, 1, len(rois)).astype(np.float32),
            "masks": mask_math.Masks(np.array(soft).reshape(-1, 28, 28), rois, image.shape),
        }


# ---- Figures -------------------------------------------------------------------------------------


def pairs(drawing: Drawing, result: dict) -> Iterator[tuple[int, int, float]]:
    """(detection, object, IoU) of those that share pixels."""
    height = drawing.shape[0]
    for i, code in enumerate(result["masks"]):
        box, crop = mask_math.crop_of_rle(code)
        runs = tiles.runs_of(crop, box[0], box[1], height)
        for number in drawing.numbers_in(box):
            truth = drawing.runs(number)
            shared = tiles.common(runs, truth)
            if shared:
                yield i, number, shared / (runs.area + truth.area - shared)


def average_precision(
    matches: Sequence[tuple[int, int, float]], scores: np.ndarray, count: int
) -> float:
    """AP over THRESHOLDS of pairs (detection, object, IoU); count: of all objects."""
    by_detection: dict[int, list] = {}
    for i, number, iou in matches:
        by_detection.setdefault(i, []).append((iou, number))
    figures = []
    for threshold in THRESHOLDS:
        taken: set[int] = set()
        hits = []
        for i in np.argsort(-scores, kind="stable").tolist():
            free = [pair for pair in by_detection.get(i, []) if pair[1] not in taken]
            best = max(free, default=(0.0, 0))
            hits.append(best[0] >= threshold)
            if hits[-1]:
                taken.add(best[1])
        right = np.cumsum(hits)
        precision = right / np.arange(1, len(hits) + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        figures.append(float((envelope * hits).sum() / count))
    return float(np.mean(figures))


def small_images(drawing: Drawing, tile: int) -> float:
    """AP on images of a tile's side or less that hold their objects whole: blocks of cells."""
    matches = []
    scores: list[float] = []
    reader = Reader()
    blocks = tile // CELL
    count = 0
    for y in range(0, drawing.shape[0] // CELL - blocks, blocks):
        for x in range(0, drawing.shape[1] // CELL - blocks, blocks):
            window = (y * CELL, x * CELL, (y + blocks) * CELL, (x + blocks) * CELL)
            numbers = drawing.numbers_in((*window[:2], window[2] - 1, window[3] - 1))
            if any(drawing.objects[number - 1].reach > CELL for number in numbers):
                continue
            (result,) = reader.detect([drawing.window(*window)])
            merger = tiles.Merger(drawing.shape)
            merger.add(window, tiles.detections_in(result, window, drawing.shape))
            objects = merger.objects()
            codes = tiles.encoded([detection.runs for detection in objects], drawing.shape)
            own = pairs(drawing, {"masks": codes})
            matches += [(i + len(scores), number, iou) for i, number, iou in own]
            scores += [detection.score for detection in objects]
            count += len(numbers)
    return average_precision(matches, np.array(scores), count)


def measure(side: int, tile: int, overlap: int | None) -> dict[str, float]:
    """Detects on the drawing of a side; its figures."""
    drawing = Drawing(side)
    start = time.process_time()
    result = tiles.detect(Reader(), drawing, tile, overlap)
    seconds = time.process_time() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    matches = list(pairs(drawing, result))
    best = dict.fromkeys(range(1, len(drawing.objects) + 1), 0.0)
    times = dict.fromkeys(best, 0)
    for _, number, iou in matches:
        best[number] = max(best[number], iou)
        times[number] += iou > 0.3
    return {
        "objects": len(drawing.objects),
        "detections": len(result["masks"]),
        "twice": sum(count > 1 for count in times.values()),
        "cut": sum(iou < 0.5 for iou in best.values()),
        "AP": average_precision(matches, result["scores"], len(drawing.objects)),
        "s a megapixel": seconds / side**2 * 1e6,
        "GB": memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", type=int, nargs="+", default=[2500, 5000, 10000])
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--overlap", type=int)
    args = parser.parse_args()
    small = small_images(Drawing(min(args.sides[-1], 5000), seed=1), args.tile)
    print(f"AP on small images {small:.4f}", flush=True)
    failed = []
    for side in args.sides:
        figures = measure(side, args.tile, args.overlap)
        words = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        print(f"{side} x {side}: {words}", flush=True)
        if abs(figures["AP"] - small) > AP_GOAL:
            failed.append(f"AP at {side}")
        if figures["twice"]:
            failed.append(f"objects twice at {side}")
        if figures["GB"] > MEMORY_GOAL:
            failed.append(f"memory at {side}")
    if failed:
        sys.exit("missed: " + ", ".join(failed))


if __name__ == "__main__":
    main()
