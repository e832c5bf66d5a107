"""Otsu's threshold, the distance transform and a watershed, by scikit-image; nothing is trained.

The threshold's side with fewer pixels that are nuclei is decided by the brightness of the whole
image: on a bright ground nuclei are dark. Blur, a factor of the threshold, the smallest area and
how far maxima of the distance stand out are chosen on training images.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import sys

import numpy as np
import worker
from scipy import ndimage
from skimage import color, filters, measure, morphology, segmentation

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "samples" / "nucleus"))
import bowl  # noqa: E402

CHOICES = {
    "blur": (0.0, 0.5, 1.0),  # pixels
    "factor": (0.5, 0.65, 0.8, 1.0),  # of Otsu's threshold
    "rise": (0.5, 0.75, 1.0, 1.5),  # pixels that a maximum of the distance stands out
    "smallest": (10, 20, 40),  # pixels
}
START = {"blur": 0.5, "factor": 0.8, "rise": 1.0, "smallest": 20}
EVERY = 12  # settings are chosen on each 12th training image


def brightness(image: np.ndarray) -> np.ndarray:
    """[H, W] in 0..1, nuclei bright: inverted where most of the image is bright."""
    gray = color.rgb2gray(image)
    if np.median(gray) > 0.5:
        return 1 - gray
    return gray


def foreground(image: np.ndarray, blur: float, factor: float) -> np.ndarray:
    """[H, W] bool: where nuclei are."""
    gray = filters.gaussian(brightness(image), blur)
    lowest = gray.min()
    if lowest == gray.max():
        return np.zeros(gray.shape, bool)
    # The threshold is measured from the darkest pixel: of a bright one a factor would take all.
    threshold = lowest + factor * (filters.threshold_otsu(gray) - lowest)
    return ndimage.binary_fill_holes(gray > threshold)


def split(mask: np.ndarray, rise: float) -> np.ndarray:
    """Labels [H, W] of a foreground, cut where two maxima of the distance to its rim part."""
    distance = filters.gaussian(ndimage.distance_transform_edt(mask), 1)
    seeds = measure.label(morphology.h_maxima(distance, rise) & mask)
    labels = segmentation.watershed(-distance, seeds, mask=mask)
    # Where a speck has no maximum of that height, it is one object.
    rest = measure.label(mask & (labels == 0))
    labels[rest > 0] = rest[rest > 0] + labels.max()
    return labels


def without_specks(labels: np.ndarray, smallest: float) -> np.ndarray:
    """Labels [H, W] without objects of fewer pixels."""
    area = np.bincount(labels.ravel())
    area[0] = 0
    return np.where(area[labels] >= smallest, labels, 0)


def mean_scores(images: list[worker.Image], grid: list[dict]) -> list[float]:
    """The bowl's mean score of each of these settings over the images."""
    total = np.zeros(len(grid))
    for _, image, truth in images:
        # Settings that differ in the last step alone share what comes before.
        shared: dict[tuple, np.ndarray] = {}
        for i, settings in enumerate(grid):
            key = (settings["blur"], settings["factor"], settings["rise"])
            if key not in shared:
                mask = foreground(image, settings["blur"], settings["factor"])
                shared[key] = split(mask, settings["rise"])
            labels = without_specks(shared[key], settings["smallest"])
            total[i] += bowl.scores(truth, labels).mean()
    return (total / len(images)).tolist()


def train(job: worker.Job) -> dict:
    """Two settings after two others: those with the highest mean score on training images."""
    images = list(itertools.islice(job.images("train"), 0, None, EVERY))
    settings = dict(START)
    best = 0.0
    for names in (("blur", "factor"), ("rise", "smallest")):
        values = itertools.product(*(CHOICES[name] for name in names))
        grid = [{**settings, **dict(zip(names, chosen))} for chosen in values]
        scores = mean_scores(images, grid)
        best = max(scores)
        settings = grid[scores.index(best)]
    (job.folder / "settings.json").write_text(json.dumps(settings))
    return {"settings": settings, "score on training images": best, "images": len(images)}


def predictor(job: worker.Job) -> worker.Predictor:
    settings = json.loads((job.folder / "settings.json").read_text())

    def find(image: np.ndarray) -> np.ndarray:
        mask = foreground(image, settings["blur"], settings["factor"])
        return without_specks(split(mask, settings["rise"]), settings["smallest"])

    return find


if __name__ == "__main__":
    worker.main(train, predictor)
