"""The metric of Kaggle's Data Science Bowl 2018, errors by kind, and counts with intervals.

At each IoU threshold t of .5, .55, ... .95 an image has the score TP / (TP + FP + FN), where a
nucleus is found if an object overlaps it with an IoU above t; the image's score is the mean over
the thresholds, and the metric the mean over images. A pixel belongs to one object: where
predictions overlap, to that of the highest score.

`evaluate` gives the figures of an evaluation, `labelled` its images one by one, `errors` what went
wrong on an image, `count_interval` between which numbers the true count of a new image lies.
"""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from mrcnn.evaluate import Evaluation
    from mrcnn.report import Table
    from mrcnn.utils import Dataset

THRESHOLDS = np.linspace(0.5, 0.95, 10)
KINDS = ("fluorescence", "stained", "bright")
# What becomes of a nucleus, and an object that is none; see `Errors`.
ERRORS = ("found", "missed", "merged", "split", "false")


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
    pairs = _pairs(truth, predicted)
    return pairs.nuclei, pairs.objects, pairs.iou


class _Pairs(NamedTuple):
    """Nuclei and objects that share pixels, each [pairs].

    Attributes:
        nuclei, objects: numbers in the label images.
        common, nucleus_areas, object_areas: pixels of both, of the nucleus, of the object.
    """

    nuclei: np.ndarray
    objects: np.ndarray
    common: np.ndarray
    nucleus_areas: np.ndarray
    object_areas: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        """The IoU of each, in 0..1."""
        return self.common / (self.nucleus_areas + self.object_areas - self.common)


def _pairs(truth: np.ndarray, predicted: np.ndarray) -> _Pairs:
    if truth.shape != predicted.shape:
        raise ValueError(
            f"Both label images have one shape. Received: {truth.shape} and {predicted.shape}"
        )
    columns = int(predicted.max(initial=0)) + 1
    codes, common = np.unique(truth.astype(np.int64) * columns + predicted, return_counts=True)
    nuclei = codes // columns
    objects = codes % columns
    nucleus_areas = np.bincount(nuclei, common)[nuclei]
    object_areas = np.bincount(objects, common)[objects]
    both = (nuclei > 0) & (objects > 0)
    return _Pairs(*(x[both] for x in (nuclei, objects, common, nucleus_areas, object_areas)))


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
    matched = (iou[:, None] > THRESHOLDS).sum(axis=0)
    return matched / (count - matched)


class Errors(NamedTuple):
    """What became of the nuclei of an image, and which objects are none: numbers in label images.

    Each nucleus is in one of the first four. An object that is the partner of a found nucleus,
    stands in `merging` or in `pieces` is not false; all others are. found + merged + split + missed
    is the number of nuclei, and of the bowl's metric at an IoU of .5 found is TP, the rest FN.

    Attributes:
        found: nuclei with which an object has an IoU above .5.
        missed: nuclei of none of the other kinds; an object may touch them.
        merged: nuclei of which an object covers more than half, as it does of another nucleus.
        split: nuclei that several objects cover more than half of together, each of these with more
            than half of its own pixels.
        false: objects without such a nucleus.
        merging: objects that cover more than half of several nuclei.
        pieces: objects that split a nucleus.
    """

    found: np.ndarray
    missed: np.ndarray
    merged: np.ndarray
    split: np.ndarray
    false: np.ndarray
    merging: np.ndarray
    pieces: np.ndarray

    @property
    def nuclei(self) -> int:
        """How many nuclei there are."""
        return sum(len(part) for part in (self.found, self.missed, self.merged, self.split))


def errors(truth: np.ndarray, predicted: np.ndarray) -> Errors:
    """Errors of an image by kind.

    Args:
        truth, predicted: [H, W] int, see `label_image`; numbers without a pixel are no objects.
    """
    pairs = _pairs(truth, predicted)
    nuclei = pairs.nuclei
    objects = pairs.objects
    hits = pairs.iou > THRESHOLDS[0]
    matched = nuclei[hits]
    covered = 2 * pairs.common > pairs.nucleus_areas
    merging = _repeated(objects[covered])
    merged = np.setdiff1d(nuclei[covered & np.isin(objects, merging)], matched)

    inside = 2 * pairs.common > pairs.object_areas
    together = np.bincount(nuclei, pairs.common * inside)
    areas = np.bincount(truth.ravel())
    several = _repeated(nuclei[inside])
    split = several[2 * together[several] > areas[several]]
    split = np.setdiff1d(split, np.union1d(matched, merged))
    pieces = objects[inside & np.isin(nuclei, split)]

    explained = functools.reduce(np.union1d, (matched, merged, split))
    blamed = functools.reduce(np.union1d, (objects[hits], merging, pieces))
    return Errors(
        found=np.sort(matched),
        missed=np.setdiff1d(_numbers(truth), explained),
        merged=merged,
        split=split,
        false=np.setdiff1d(_numbers(predicted), blamed),
        merging=merging,
        pieces=np.sort(pieces),
    )


def _numbers(labels: np.ndarray) -> np.ndarray:
    """The numbers of the objects that have a pixel, sorted."""
    return np.flatnonzero(np.bincount(labels.ravel())[1:]) + 1


def _repeated(numbers: np.ndarray) -> np.ndarray:
    """The numbers that stand there more than once, sorted."""
    values, counts = np.unique(numbers, return_counts=True)
    return values[counts > 1]


class Labelled:
    """An image of an evaluation with its nuclei and its detections.

    Args:
        image_id: in the dataset.
        kind: of `KINDS`, "" of an image that can't be read.
        truth, predicted: [H, W] int32, see `label_image`; of detections of at least the least
            score, the best first.
    """

    def __init__(self, image_id: int, kind: str, truth: np.ndarray, predicted: np.ndarray):
        self.image_id = image_id
        self.kind = kind
        self.truth = truth
        self.predicted = predicted

    @functools.cached_property
    def scores(self) -> np.ndarray:
        """`scores` of the image."""
        return scores(self.truth, self.predicted)

    @functools.cached_property
    def errors(self) -> Errors:
        """`errors` of the image."""
        return errors(self.truth, self.predicted)

    @functools.cached_property
    def nuclei(self) -> int:
        """How many nuclei there are."""
        return len(_numbers(self.truth))

    @functools.cached_property
    def counted(self) -> int:
        """How many objects were detected."""
        return len(_numbers(self.predicted))


def labelled(
    result: Evaluation, dataset: Dataset, min_score: float = 0.5, kinds: Mapping | None = None
) -> Iterator[Labelled]:
    """The images of an evaluation, one after the other; arguments as of `evaluate`."""
    truth = _by_image(result.truth.data["annotations"])
    detections = _by_image(row for row in result.detections if row["score"] >= min_score)
    sizes = {
        image["id"]: (image["height"], image["width"]) for image in result.truth.data["images"]
    }
    unreadable = {image_id for image_id, _ in result.unreadable}
    for image_id, key in result.truth.image_ids.items():
        if image_id in unreadable:
            kind = ""
        elif kinds is None:
            kind = kind_of(dataset.load_image(image_id))
        else:
            kind = kinds[image_id]
        best_first = sorted(detections[key], key=lambda row: -row["score"])
        yield Labelled(
            image_id,
            kind,
            label_image(_masks(truth[key], sizes[key]), sizes[key]),
            label_image(_masks(best_first, sizes[key]), sizes[key]),
        )


def evaluate(
    result: Evaluation, dataset: Dataset, min_score: float = 0.5, kinds: Mapping | None = None
) -> dict[str, dict[str, Any]]:
    """The metric of an evaluation, over all images and over those of each kind.

    Args:
        result: of `mrcnn.evaluate.evaluate`.
        dataset: its dataset; the images are read for their kind. One that can't be read counts
            under "all" alone.
        min_score: detections below are left out.
        kinds: {the dataset's image id: kind}; None to tell them by `kind_of`.

    Returns:
        {"all" or kind: {"images", "nuclei", "score at .5", "score at .75", "score", and the number
        of each of `ERRORS`}}.
    """
    rows = []
    for image in labelled(result, dataset, min_score, kinds):
        rows.append((image.kind, image.errors, image.scores))
    return by_kind(rows)


def by_kind(rows: Sequence[tuple[str, Errors, np.ndarray]]) -> dict[str, dict[str, Any]]:
    """The metric over all images and over those of each kind.

    Args:
        rows: of each image its kind, its `errors` and its `scores`.

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


def _figures(rows: Sequence[tuple[str, Errors, np.ndarray]]) -> dict[str, Any]:
    mean = np.mean([of_image for _, _, of_image in rows], axis=0)
    counts = {name: sum(len(getattr(errors, name)) for _, errors, _ in rows) for name in ERRORS}
    return {
        "images": len(rows),
        "nuclei": sum(errors.nuclei for _, errors, _ in rows),
        "score at .5": float(mean[0]),
        "score at .75": float(mean[5]),
        "score": float(mean.mean()),
        **counts,
    }


def table(figures: dict[str, dict[str, Any]]) -> str:
    """The metric of `evaluate` as lines of text."""
    names = ("images", "nuclei", "score at .5", "score at .75", "score")
    lines = [f"{'':14}" + "".join(f"{name:>14}" for name in names)]
    for kind, row in figures.items():
        cells = [f"{row[name]:14d}" for name in names[:2]]
        cells += [f"{row[name]:14.3f}" for name in names[2:]]
        lines.append(f"{kind:14}" + "".join(cells))
    return "\n".join(lines)


def error_table(figures: dict[str, dict[str, Any]]) -> str:
    """The errors of `evaluate` as lines of text, see `Errors`."""
    lines = [f"{'':14}" + "".join(f"{name:>14}" for name in ("nuclei", *ERRORS))]
    for kind, row in figures.items():
        cells = [f"{row[name]:14d}" for name in ("nuclei", *ERRORS)]
        lines.append(f"{kind:14}" + "".join(cells))
    return "\n".join(lines)


def report_tables(figures: dict[str, dict[str, Any]]) -> list[Table]:
    """The figures of `evaluate` as tables of a page, see `mrcnn.report.write`."""
    from mrcnn.report import Table

    names = ("images", "nuclei", "score at .5", "score at .75", "score", *ERRORS)
    rows = [[kind, *(row[name] for name in names)] for kind, row in figures.items()]
    note = (
        "An image's score at an IoU of t is TP / (TP + FP + FN), where a nucleus is found if an"
        " object overlaps it with an IoU above t; score is the mean over .5, .55, … .95. A pixel"
        " belongs to one object. Behind it what became of the nuclei, and objects that are none."
    )
    overall = figures["all"]
    cards = [
        ("bowl's metric", overall["score"]),
        ("bowl's metric at IoU .5", overall["score at .5"]),
    ]
    return [Table("The metric of the Data Science Bowl 2018", ("kind", *names), rows, note, cards)]


def headline(figures: dict[str, dict[str, Any]]) -> str:
    """The figures of `evaluate` that matter most, in one line."""
    row = figures["all"]
    return (
        f"bowl's metric at IoU .5 {row['score at .5']:.3f}, mean of .5 to .95 {row['score']:.3f},"
        f" on {row['images']} images with {row['nuclei']} nuclei"
    )


def examples(images: Sequence[Labelled], most: int = 4) -> list[Labelled]:
    """Images that stand for all: of each kind that of the median score, then the densest others."""
    chosen = []
    for kind in KINDS:
        of_kind = sorted((image for image in images if image.kind == kind), key=_mean_score)
        chosen += of_kind[len(of_kind) // 2 :][:1]
    ids = [image.image_id for image in chosen]
    others = [image for image in images if image.image_id not in ids]
    chosen += sorted(others, key=lambda image: -image.nuclei)
    return chosen[:most]


def worst(images: Iterable[Labelled], most: int = 4) -> list[Labelled]:
    """The images of the lowest score, the worst first."""
    return sorted(images, key=_mean_score)[:most]


def _mean_score(image: Labelled) -> float:
    return float(image.scores.mean())


# ---- Counts --------------------------------------------------------------------------------------


class Interval(NamedTuple):
    """Between which numbers a true count lies, both included."""

    low: float
    high: float


def count_interval(
    counted: Sequence[int], true: Sequence[int], new: int, share: float = 0.8
) -> Interval:
    """Between which numbers the true count of a new image lies, by how far off the known ones were.

    Each known image has a relative error, (true - counted) / (counted + 1). Of the sorted errors as
    many are left out at both ends as `share` allows; the interval is what the outermost of the
    others make of the new count. If the new image is of the same population as the n known ones,
    and none of these had a part in the training, the truth lies inside with a probability of at
    least 1 - 2 k / (n + 1), k = floor((n + 1) (1 - share) / 2), which is at least `share`: the
    probability is over draws of all n + 1 images. It says nothing of images of another kind, nor
    that this one's own nuclei are that uncertain. (Split conformal prediction: Vovk et al. 2005,
    Lei et al. 2018.)

    Args:
        counted, true: [n] counts of known images.
        new: count of the new image.
        share: the least probability, in 0..1.

    Raises:
        ValueError: fewer known images than `share` needs, which are 2 / (1 - share) - 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is between 0 and 1. Received: {share!r}")
    if len(counted) != len(true):
        raise ValueError(
            f"Each image has both counts. Received: {len(counted)} counted and {len(true)} true"
        )
    # Of 24 images and .8 this is 2.5, but .1 has no exact float.
    left_out = math.floor((len(true) + 1) * (1 - share) / 2 + 1e-9)
    if left_out < 1:
        needed = math.ceil(2 / (1 - share) - 1 - 1e-9)
        raise ValueError(
            f"A share of {share} needs {needed} images with known counts. Received: {len(true)}"
        )
    known = np.asarray(counted, float)
    relative = np.sort((np.asarray(true) - known) / (known + 1))
    low = new + relative[left_out - 1] * (new + 1)
    high = new + relative[-left_out] * (new + 1)
    return Interval(max(0.0, float(low)), max(0.0, float(high)))


def count_intervals(images: Sequence[Labelled], share: float = 0.8) -> list[Interval]:
    """Of each image the `count_interval` by all the others."""
    intervals = []
    for image in images:
        others = [other for other in images if other is not image]
        counted = [other.counted for other in others]
        true = [other.nuclei for other in others]
        intervals.append(count_interval(counted, true, image.counted, share))
    return intervals


def count_table(images: Sequence[Labelled], share: float = 0.8) -> str:
    """What counting by detections gives, as lines of text."""
    intervals = count_intervals(images, share)
    lines = [f"{'':14}{'images':>10}{'nuclei':>10}{'counted':>10}{'off by':>10}{'inside':>12}"]
    for kind in ("all", *KINDS):
        rows = [
            (image, interval)
            for image, interval in zip(images, intervals)
            if kind in ("all", image.kind)
        ]
        if rows:
            lines.append(f"{kind:14}" + _count_cells(rows))
    return "\n".join(lines)


def _count_cells(rows: Sequence[tuple[Labelled, Interval]]) -> str:
    true = np.array([image.nuclei for image, _ in rows])
    counted = np.array([image.counted for image, _ in rows])
    inside = sum(interval.low <= image.nuclei <= interval.high for image, interval in rows)
    off = np.abs(counted - true).mean()
    share = f"{inside} of {len(rows)}"
    return f"{len(rows):10d}{true.sum():10d}{counted.sum():10d}{off:10.1f}{share:>12}"
