"""The metric of Kaggle's Data Science Bowl 2018.

At each IoU threshold t of .5, .55, ... .95 an image has the score TP / (TP + FP + FN), where a
nucleus is found if an object overlaps it with an IoU above t; the image's score is the mean over
the thresholds, and the metric the mean over images. A pixel belongs to one object: where
predictions overlap, to that of the highest score.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mrcnn.evaluate import Evaluation
    from mrcnn.utils import Dataset

THRESHOLDS = np.linspace(0.5, 0.95, 10)
KINDS = ("fluorescence", "stained", "bright")


def kind_of(image: np.ndarray) -> str:
    """What kind of microscopy an image [H, W, 3] uint8 is, by its colours.

    Returns:
        "stained": in colour; "bright": gray and bright; "fluorescence": gray and dark.
    """
    pixels = image.astype(np.int16)
    saturation = pixels.max(axis=-1) - pixels.min(axis=-1)
    if saturation.mean() > 2:
        return "stained"
    if pixels.mean() > 127:
        return "bright"
    return "fluorescence"


def label_image(masks: Iterable[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """Objects as one image: 0 where there is none, i + 1 for object i.

    Args:
        masks: each [H, W] bool or uint8; where they overlap the first has the pixel.
        shape: (H, W).

    Returns:
        [H, W] int32.
    """
    labels = np.zeros(tuple(shape), np.int32)
    for number, mask in enumerate(masks, 1):
        labels[(labels == 0) & (mask != 0)] = number
    return labels


def overlaps(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, ...]:
    """Which nuclei and objects share pixels.

    Args:
        truth, predicted: [H, W] int, see `label_image`.

    Returns:
        nuclei, objects, iou: [pairs] numbers in `truth` and `predicted` and their IoU in 0..1.
    """
    if truth.shape != predicted.shape:
        raise ValueError(
            f"Both label images have one shape. Received: {truth.shape} and {predicted.shape}"
        )
    columns = int(predicted.max(initial=0)) + 1
    pairs, common = np.unique(truth.astype(np.int64) * columns + predicted, return_counts=True)
    nuclei = pairs // columns
    objects = pairs % columns
    nucleus_area = np.bincount(nuclei, common)
    object_area = np.bincount(objects, common, columns)
    both = (nuclei > 0) & (objects > 0)
    union = nucleus_area[nuclei] + object_area[objects] - common
    return nuclei[both], objects[both], common[both] / union[both]


def scores(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """The image's score at each of `THRESHOLDS`, [10] in 0..1; 1 where there is no object in both.

    Args:
        truth, predicted: [H, W] int, see `label_image`; numbers without a pixel are no objects.
    """
    _, _, iou = overlaps(truth, predicted)
    count = 0
    for labels in (truth, predicted):
        numbers = np.unique(labels)
        count += int((numbers > 0).sum())
    if not count:
        return np.ones(len(THRESHOLDS))
    # Above an IoU of one half a nucleus and an object can have no second partner: pixels have one
    # owner. At exactly .5 there is none, as the threshold has to be exceeded.
    found = (iou[:, None] > THRESHOLDS).sum(axis=0)
    return found / (count - found)


def evaluate(
    result: Evaluation, dataset: Dataset, min_score: float = 0.5, kinds: Mapping | None = None
) -> dict[str, dict[str, float]]:
    """The metric of an evaluation, over all images and over those of each kind.

    Args:
        result: of `mrcnn.evaluate.evaluate`.
        dataset: its dataset; the images are read for their kind. One that can't be read counts
            under "all" alone.
        min_score: detections below are left out.
        kinds: {the dataset's image id: kind}; None to tell them by `kind_of`.

    Returns:
        {"all" or kind: {"images", "nuclei", "score at .5", "score at .75", "score"}}.
    """
    truth = _by_image(result.truth.data["annotations"])
    found = _by_image(row for row in result.detections if row["score"] >= min_score)
    sizes = {
        image["id"]: (image["height"], image["width"]) for image in result.truth.data["images"]
    }
    unreadable = {image_id for image_id, _ in result.unreadable}
    rows = []
    for image_id, key in result.truth.image_ids.items():
        nuclei = truth[key]
        best_first = sorted(found[key], key=lambda row: -row["score"])
        of_image = scores(
            label_image(_masks(nuclei, sizes[key]), sizes[key]),
            label_image(_masks(best_first, sizes[key]), sizes[key]),
        )
        if image_id in unreadable:
            kind = ""
        elif kinds is None:
            kind = kind_of(dataset.load_image(image_id))
        else:
            kind = kinds[image_id]
        rows.append((kind, len(nuclei), of_image))
    return by_kind(rows)


def by_kind(rows: Sequence[tuple[str, int, np.ndarray]]) -> dict[str, dict[str, float]]:
    """The metric over all images and over those of each kind.

    Args:
        rows: of each image its kind, the number of its nuclei and its `scores`.

    Returns:
        see `evaluate`.
    """
    figures = {"all": _figures(rows)}
    for kind in KINDS:
        of_kind = [row for row in rows if row[0] == kind]
        if of_kind:
            figures[kind] = _figures(of_kind)
    return figures


def _by_image(rows: Iterable[dict]) -> dict[int, list[dict]]:
    """{image id: its annotations or results}, crowds left out."""
    groups: dict[int, list[dict]] = collections.defaultdict(list)
    for row in rows:
        if not row.get("iscrowd"):
            groups[row["image_id"]].append(row)
    return groups


def _masks(rows: Iterable[dict], size: tuple[int, int]) -> Iterable[np.ndarray]:
    """Each row's mask [H, W], one after the other: hundreds at once would take a GB."""
    from mrcnn import masks

    for row in rows:
        yield masks.decode([row], *size)[..., 0]


def _figures(rows: Sequence[tuple[str, int, np.ndarray]]) -> dict[str, float]:
    mean = np.mean([of_image for _, _, of_image in rows], axis=0)
    return {
        "images": len(rows),
        "nuclei": sum(count for _, count, _ in rows),
        "score at .5": float(mean[0]),
        "score at .75": float(mean[5]),
        "score": float(mean.mean()),
    }


def table(figures: dict[str, dict[str, Any]]) -> str:
    """The figures of `evaluate` as lines of text."""
    names = ("images", "nuclei", "score at .5", "score at .75", "score")
    lines = [f"{'':14}" + "".join(f"{name:>14}" for name in names)]
    for kind, row in figures.items():
        cells = [f"{row[name]:14d}" for name in names[:2]]
        cells += [f"{row[name]:14.3f}" for name in names[2:]]
        lines.append(f"{kind:14}" + "".join(cells))
    return "\n".join(lines)
