"""COCO's metrics for any `Dataset`, by pycocotools: AP, AR, curves, confusion matrix.

The ground truth is a dataset's masks. Where `image_info` has "annotations" (dicts as in COCO's
json, as in `coco.CocoDataset` and matterport's), it is these annotations, with their own areas,
boxes and ids: the figures are then those of COCOeval on the json. An interrupted evaluation can be
resumed, see `evaluate`.

How many detections count. COCO's own figures count the best 100 detections of a class on an image,
20 of keypoints: with 150 objects on an image, all of them found, its AP is .66. The figures here
(`Evaluation.bbox`, `segm`, `keypoints`, `per_class`, `curves`) count as many as the model may
return, DETECTION_MAX_INSTANCES, and never fewer than COCO's. COCO's own figures are in
`Evaluation.coco`; they are the same where that setting is COCO's number or less.
"""

import collections
import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import math
import os
import pathlib
import time
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from mrcnn import __version__, files, fonts, utils, visualize
from mrcnn.coco import sound_annotation, sound_box
from mrcnn.config import NOT_DETECTING, Config, setting_text
from mrcnn.files import atomic_together, naming_full_disk, plain_value, several
from mrcnn.masks import NO_SHAPE, SegmentationError, encode, to_rle
from mrcnn.utils import Dataset

logger = logging.getLogger(__name__)

# Keypoints of a person, for which COCO has tolerances.
PERSON_KEYPOINTS = 17

# AR1, AR10 and AR100 count the best 1, 10 and 100 detections, whatever the other figures count.
FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
CLASS_FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
KEYPOINT_FIGURES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
# The number of detections of a class on an image that COCO's own figures count, best first.
COCO_LIMITS = {
    "bbox": 100,
    "segm": 100,
    "keypoints": 20,
}
TITLES = {
    "bbox": "box",
    "segm": "mask",
    "keypoints": "keypoint",
}
PLURALS = {
    "bbox": "boxes",
    "segm": "masks",
    "keypoints": "keypoints",
}
# AP counts detections of any score. Leaving out those below this one changes it little, and is what
# the authors of Mask R-CNN do.
LEAST_SCORE = 0.05


# ---- Results -------------------------------------------------------------------------------------


@dataclasses.dataclass
class Evaluation:
    """Result of `evaluate`.

    Attributes:
        bbox, segm: {figure: value in 0..1} for each of `FIGURES`, NaN where COCO has none; segm is
            None for a model without masks. All but AR1, AR10 and AR100 count `max_detections`
            detections; where that is more than 100, say 400, there is "AR400" too.
        per_class: {class name: {"bbox AP", "bbox AP50", ... "segm AR100"}}, `CLASS_FIGURES` of each
            kind, which count `max_detections` likewise.
        images: number of images.
        detections: list of COCO results (dicts) with the image and category ids of `truth`.
        seconds: duration of the detection.
        curves: {"bbox", "segm": {"precision": [10 IoUs, 101 recalls, classes], "score": the same
            shape, the lowest score of each precision, "recall": [10 IoUs, classes]}}, NaN where
            COCO has no value.
        confusion: [classes + 1, classes + 1] int, see `confusion_matrix`.
        truth: the ground truth, a `Truth`.
        keypoints: {figure: value} for each of `KEYPOINT_FIGURES`, by object keypoint similarity;
            None for a model without keypoints. They count `max_detections`.
        max_detections: how many detections of a class on an image count, best first; for a kind of
            which COCO counts more (`COCO_LIMITS`), COCO's number.
        coco: {"bbox", "segm", "keypoints": {figure: value}} of the evaluated kinds, COCO's own
            figures, which count 100 detections, 20 of keypoints.
        unreadable: [(image id, reason)] of images that could not be read, whose objects count as
            missed.
    """

    bbox: dict
    segm: dict | None
    per_class: dict
    images: int
    detections: list
    seconds: float
    curves: dict = dataclasses.field(default_factory=dict)
    confusion: np.ndarray | None = None
    truth: Any = None
    unreadable: list = dataclasses.field(default_factory=list)
    keypoints: dict | None = None
    max_detections: int = 100
    coco: dict = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        figures = [f"{kind} AP {values['AP']:.3f}" for kind, values in self.kinds()]
        counts = [f"{self.images} images", f"{len(self.detections)} detections"]
        if self.unreadable:
            counts.append(f"{len(self.unreadable)} images unreadable")
        return f"Evaluation({', '.join(figures + counts)})"

    def kinds(self) -> list[tuple[str, dict]]:
        """[(kind, {figure: value})] of boxes and, where they were evaluated, masks."""
        kinds = [("bbox", self.bbox)]
        if self.segm:
            kinds.append(("segm", self.segm))
        return [(kind, figures) for kind, figures in kinds if figures]

    def table(self) -> str:
        """AP and AP50 as a text table, a row for each class and one for all of them."""
        overall = dict(self.kinds())
        if self.keypoints:
            overall["keypoints"] = self.keypoints
        columns = [(kind, figure) for kind in overall for figure in ("AP", "AP50")]
        rows = []
        for name, figures in self.per_class.items():
            values = [figures[f"{kind} {figure}"] for kind, figure in columns]
            rows.append((name, values))
        values = [overall[kind][figure] for kind, figure in columns]
        rows.append(("all", values))
        heads = [f"{TITLES[kind]} {figure}" for kind, figure in columns]
        return _text_table("class", heads, rows)

    def summary(self) -> str:
        """All figures as a text table, a row for each kind; keypoints have a table of their own.

        Where `max_detections` is above COCO's number, COCO's own figures follow in a row of theirs.
        """
        rows = []
        for kind, figures in self.kinds():
            rows += self.figure_rows(kind, figures)
        text = _text_table("", self.figure_names("bbox"), rows)
        if self.keypoints:
            rows = self.figure_rows("keypoints", self.keypoints)
            text += "\n\n" + _text_table("", KEYPOINT_FIGURES, rows)
        return text

    def figure_names(self, kind: str) -> list[str]:
        """Names of the figures of a kind: "bbox", "segm" or "keypoints"."""
        if kind == "keypoints":
            return list(KEYPOINT_FIGURES)
        columns = list(FIGURES)
        if self.max_detections > COCO_LIMITS["bbox"]:
            columns.insert(columns.index("AR100") + 1, f"AR{self.max_detections}")
        return columns

    def figure_rows(self, kind: str, figures: dict) -> list[tuple[str, list[float]]]:
        """[(title, values of `figure_names`)] of a kind.

        Where `max_detections` is above COCO's number, COCO's own figures are a second row.
        """
        columns = self.figure_names(kind)
        rows = [(TITLES[kind], [figures[name] for name in columns])]
        limit = COCO_LIMITS[kind]
        if self.max_detections > limit and kind in self.coco:
            coco_values = [self.coco[kind].get(name, float("nan")) for name in columns]
            title = f"{TITLES[kind]}, best {self.max_detections} count"
            rows = [(title, rows[0][1]), (f"{TITLES[kind]}, COCO's best {limit}", coco_values)]
        return rows

    def save(self, folder: Any, results: bool = True) -> list[str]:
        """Writes tables, figures, results, curves and plots. Returns their paths.

        Args:
            folder: where to.
            results: False leaves out results.json, for detections that are in a file already.

        table.txt; figures.json, with the attributes "bbox", "segm", "keypoints", "per_class",
        "max_detections", "coco", "images" and "unreadable", and "confusion": {"classes", "matrix"};
        results.json, which pycocotools loads; curves.npz, which has "bbox precision" and so on;
        precision_recall.png; confusion.png; and, where the ground truth was made from masks,
        truth.json: with it `COCO("truth.json").loadRes("results.json")` works. All files are
        replaced together: if the disk is full, those of the previous evaluation stay.

        Raises:
            OSError: the disk is full.
        """
        folder = pathlib.Path(folder)
        contents = {
            "table.txt": f"{self.table()}\n\n{self.summary()}\n",
            "figures.json": json.dumps(_without_nan(self._figures()), indent=1),
        }
        if results:
            contents["results.json"] = json.dumps(self.detections, default=plain_value)
        if self.truth is not None and not self.truth.official:
            contents["truth.json"] = json.dumps(self.truth.data, default=plain_value)
        names = [*contents]
        if self.curves:
            names += ["curves.npz", "precision_recall.png", "confusion.png"]
        paths = [str(folder / name) for name in names]
        with atomic_together(paths) as temporaries:
            for path, temporary, text in zip(paths, temporaries, contents.values()):
                with naming_full_disk(path):
                    pathlib.Path(temporary).write_text(text, encoding="utf-8")
            if self.curves:
                with naming_full_disk(folder / "curves.npz"):
                    self._save_curves(*temporaries[len(contents) :])
        return paths

    def _figures(self) -> dict:
        """The contents of figures.json."""
        figures: dict[str, Any] = {
            "bbox": self.bbox,
            "segm": self.segm,
            "per_class": self.per_class,
            "images": self.images,
            "unreadable": self.unreadable,
            "max_detections": self.max_detections,
            "coco": self.coco,
        }
        if self.keypoints:
            figures["keypoints"] = self.keypoints
        if self.confusion is not None:
            figures["confusion"] = {
                "classes": self.class_names(),
                "matrix": self.confusion.tolist(),
            }
        return figures

    def _save_curves(self, numbers: str, precision_recall: str, confusion: str) -> None:
        """Writes the arrays of the curves and both plots to these paths."""
        arrays = {}
        for kind, curves in self.curves.items():
            for name, array in curves.items():
                arrays[f"{kind} {name}"] = array
        np.savez_compressed(numbers, **arrays)
        self.plot_precision_recall().figure.savefig(precision_recall, dpi=110)
        self.plot_confusion().figure.savefig(confusion, dpi=110)

    def class_names(self) -> list[str]:
        """Names of the confusion matrix's rows and columns, background first."""
        return ["background", *self.per_class]

    def mean_precision(self, kind: str, class_name: str | None = None) -> np.ndarray | None:
        """The precision of one class, or its mean over the classes that have objects.

        Returns:
            [10 IoUs, 101 recalls] in 0..1; None if there are no objects.
        """
        precision = self.curves[kind]["precision"]  # [IoUs, recalls, classes]
        if class_name is not None:
            precision = precision[:, :, [list(self.per_class).index(class_name)]]
        precision = precision[:, :, ~np.isnan(precision[0, 0])]
        if not precision.shape[2]:
            return None
        return precision.mean(axis=2)

    def plot_precision_recall(
        self,
        kind: str | None = None,
        class_name: str | None = None,
        ax: Any = None,
    ) -> Any:
        """Draws precision over recall at each IoU, of one class or as the mean over classes.

        Args:
            kind: "bbox" or "segm"; None for masks if they were evaluated, else boxes.
            class_name: None for the mean over the classes that have objects.
            ax: matplotlib axes; None for a new figure, which is not shown.

        Returns:
            ax.
        """
        kind = kind or self.kinds()[-1][0]
        precision = self.mean_precision(kind, class_name)
        if ax is None:
            _, (ax,) = visualize.new_figure((5.2, 4.6))
        if precision is not None:
            _plot_curves(ax, precision)
            ax.legend(fontsize=7)
        ax.set(
            xlabel="recall",
            ylabel="precision",
            xlim=(0, 1),
            ylim=(0, 1.02),
        )
        name = "mean over classes"
        if class_name is not None:
            names = self.class_names()
            name = fonts.plain(visualize.drawn_name(names, names.index(class_name)))
        fonts.set_title(ax, f"{PLURALS[kind]}, {name}", None)
        ax.grid(alpha=0.3)
        return ax

    def most_confused(self, most: int) -> tuple[np.ndarray, int]:
        """The rows of the confusion matrix for the classes that are confused most.

        Returns:
            rows: indices in ascending order: background (0) and at most `most` classes.
            used: number of classes with an object or a detection.
        """
        matrix = np.asarray(self.confusion)
        objects = matrix.sum(axis=1)  # of each class; for background, the false detections
        detections = matrix.sum(axis=0)
        errors = objects + detections - 2 * np.diag(matrix)
        used = 1 + np.flatnonzero(objects[1:] + detections[1:])
        most_confused = used[np.argsort(-errors[used], kind="stable")][:most]
        return np.r_[0, np.sort(most_confused)], len(used)

    def errors(self, score_threshold: float = 0.5) -> "Iterator[ImageErrors]":
        """The errors of each image, see `errors_by_image`.

        Masks are compared if they were evaluated, else boxes.
        """
        kind = "bbox"
        if self.segm:
            kind = "segm"
        return errors_by_image(
            self.truth, self.detections, score_threshold=score_threshold, kind=kind
        )

    def plot_confusion(self, ax: Any = None, most: int = 30) -> Any:
        """Draws the confusion matrix, shaded by the share of each row.

        Args:
            ax: matplotlib axes; None for a new figure, which is not shown.
            most: the largest number of classes beside background; those confused most are drawn.

        Returns:
            ax.
        """
        matrix = np.asarray(self.confusion)
        rows, used = self.most_confused(most)
        part = matrix[np.ix_(rows, rows)]
        share = part / np.maximum(matrix.sum(axis=1)[rows, None], 1)
        if ax is None:
            side = 2.5 + 0.33 * len(rows)
            _, (ax,) = visualize.new_figure((side, side))
        ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
        _write_counts(ax, part, share)
        labels = [visualize.drawn_name(self.class_names(), i) for i in rows]
        fonts.set_names(ax.xaxis, labels, rotation=90, fontsize=8)
        fonts.set_names(ax.yaxis, labels, fontsize=8)
        title = "objects and detections"
        if len(rows) - 1 < used:
            title += f", {len(rows) - 1} of {used} classes"
        ax.set(xlabel="detected as", ylabel="is", title=title)
        return ax


def _plot_curves(ax: Any, precision: np.ndarray) -> None:
    """Draws a line for each of COCO's ten IoUs; precision: [10 IoUs, 101 recalls]."""
    for i, curve in enumerate(precision):
        iou = 0.5 + 0.05 * i
        ax.plot(
            np.linspace(0, 1, 101),
            curve,
            color=_shade(i / 9),
            linewidth=1.3,
            label=f"IoU {iou:.2f}: AP {curve.mean():.3f}",
        )


def _write_counts(
    ax: Any,
    counts: np.ndarray,
    share: np.ndarray,
) -> None:
    """Writes the counts other than 0 into their cells, in white where the cell is dark."""
    size = 8
    if len(counts) > 12:
        size = 6
    for i, j in np.argwhere(counts):
        color = "black"
        if share[i, j] > 0.5:
            color = "white"
        ax.text(
            j,
            i,
            counts[i, j],
            ha="center",
            va="center",
            fontsize=size,
            color=color,
        )


def _text_table(
    corner: str,
    columns: Sequence[str],
    rows: list[tuple[str, list[float]]],
) -> str:
    """A table of figures as text; rows: [(name, value of each column)]."""
    width = max(len(corner), *(len(name) for name, _ in rows))
    heads = "  ".join(f"{column:>9}" for column in columns)
    lines = [f"{corner:{width}}  {heads}"]
    for name, values in rows:
        cells = "  ".join(f"{value:>9.3f}" for value in values)
        lines.append(f"{name:{width}}  {cells}")
    return "\n".join(lines)


def _shade(share: float) -> tuple[float, float, float]:
    """RGB in 0..1 from dark blue (0) to light orange (1), visible on dark and on white pages."""
    return (0.1 + 0.85 * share, 0.25 + 0.4 * share, 0.65 - 0.45 * share)


def _without_nan(value: Any) -> Any:
    """A copy with None in place of NaN, which JSON doesn't have."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, float) and np.isnan(value):
        return None
    return value


def _coco_boxes(boxes: np.ndarray) -> list[list[float]]:
    """Converts [N, (y1, x1, y2, x2)] to a list of [x, y, width, height]."""
    table = np.asarray(boxes, dtype=float).reshape(-1, 4)
    y1, x1, y2, x2 = table.T
    return np.stack([x1, y1, x2 - x1, y2 - y1], axis=1).tolist()


def coco_results(
    image_id: Any,
    result: dict,
    category_ids: dict | None = None,
) -> list[dict]:
    """Converts the result of `MaskRCNN.detect` for one image to a list of COCO results.

    Args:
        image_id: the "image_id" of the results.
        result: dict of `detect`; "track_ids" [N] of `neighbours.Tracker` become "track_id".
        category_ids: {class id: category id}; detections of other classes (those of other sources)
            are left out. None keeps the class ids.
    """
    if not isinstance(image_id, str):
        image_id = int(image_id)
    codes: list[dict] = []
    if result["masks"] is not None and len(result["scores"]):
        codes = encode(result["masks"])
    rows = []
    for i, box in enumerate(_coco_boxes(result["rois"])):
        category_id = int(result["class_ids"][i])
        if category_ids is not None:
            if category_id not in category_ids:
                continue
            category_id = category_ids[category_id]
        row = {
            "image_id": image_id,
            "category_id": category_id,
            "bbox": box,
            "score": float(result["scores"][i]),
        }
        if codes:
            row["segmentation"] = codes[i]
        if "track_ids" in result and result["track_ids"][i]:
            row["track_id"] = int(result["track_ids"][i])
        if "keypoints" in result:
            points = np.asarray(result["keypoints"][i], float)
            row["keypoints"] = _coco_points(points[:, :2], np.ones(len(points)))
        rows.append(row)
    return rows


def _coco_points(points: np.ndarray, visibility: np.ndarray) -> list[float]:
    """Converts [K, (y, x)] and visibilities [K] to COCO's [x1, y1, v1, x2, ...]."""
    y, x = points.T
    table = np.stack([x, y, visibility], axis=1)
    return table.astype(float).ravel().tolist()


# ---- Ground truth --------------------------------------------------------------------------------


@dataclasses.dataclass
class Truth:
    """The ground truth of some images of a dataset, in COCO's format.

    Attributes:
        data: dict in the format of COCO's instances json.
        image_ids: {the dataset's image id: image id in `data`}.
        class_ids: {the dataset's class id: category id in `data`}.
        official: True if `data` has the annotations of a json with its own image and category ids,
            False if it was made from masks. Annotation ids count from 1 in both.
    """

    data: dict
    image_ids: dict
    class_ids: dict
    official: bool

    def __repr__(self) -> str:
        annotations = len(self.data.get("annotations", ()))
        return f"Truth({len(self.image_ids)} images, {annotations} objects)"

    def coco(self) -> Any:
        """A new pycocotools COCO object with copies of the annotations, which COCOeval edits."""
        annotations = [dict(annotation) for annotation in self.data["annotations"]]
        return _coco({**self.data, "annotations": annotations})


def _coco(data: dict) -> Any:
    """A pycocotools COCO object with the contents of an instances json."""
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = data
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _ids(dataset: Dataset, image_ids: Iterable[int] | None) -> list[int]:
    """The requested image ids without duplicates; those of all images for None."""
    if image_ids is None:
        image_ids = dataset.image_ids
    return list(dict.fromkeys(int(image_id) for image_id in image_ids))


def ground_truth(
    dataset: Dataset,
    image_ids: Iterable[int] | None = None,
    keypoints: bool = False,
) -> Truth:
    """The `Truth` of a dataset, from the annotations in its `image_info` or else from its masks.

    keypoints: include those of `load_keypoints`; annotations always keep theirs.
    """
    ids = _ids(dataset, image_ids)
    if _has_annotations(dataset, ids):
        return _annotated_truth(dataset, ids)
    return _mask_truth(dataset, ids, keypoints)


def _has_annotations(dataset: Dataset, image_ids: list[int]) -> bool:
    """Whether the images are of one json in COCO's format, with its annotations and ids."""
    infos = [dataset.image_info[image_id] for image_id in image_ids]
    if not all(_is_annotated(info) for info in infos):
        return False
    if len({info["source"] for info in infos}) != 1:
        return False
    # Several json files may use the same id for different images.
    if len({info["id"] for info in infos}) < len(infos):
        return False
    if not all(isinstance(info["id"], (int, np.integer)) for info in infos):
        return False
    (source,) = {info["source"] for info in infos}
    category_ids = {info["id"] for info in _categories(dataset, source).values()}
    used = {annotation["category_id"] for info in infos for annotation in info["annotations"]}
    return used <= category_ids


def _is_annotated(info: dict) -> bool:
    """Whether an image's info has the size and annotations in COCO's format."""
    if "height" not in info or "width" not in info:
        return False
    if not isinstance(info.get("annotations"), list):
        return False
    fields = {"segmentation", "category_id", "area", "bbox"}
    return all(
        isinstance(annotation, dict) and fields <= annotation.keys()
        for annotation in info["annotations"]
    )


def _categories(dataset: Dataset, source: str) -> dict[int, dict]:
    """{class id: class info} of the classes of a source."""
    classes = enumerate(dataset.class_info)
    return {class_id: info for class_id, info in classes if info["source"] == source}


def _annotated_truth(dataset: Dataset, image_ids: list[int]) -> Truth:
    """`Truth` of images whose info has annotations in COCO's format.

    Images and categories keep the ids of the json. Annotation ids count from 1, since they need not
    be unique where a source has several files.
    """
    infos = [dataset.image_info[image_id] for image_id in image_ids]
    images: list[dict] = []
    annotations: list[dict] = []
    unusable: list[str] = []
    for info in infos:
        json_id = int(info["id"])
        images.append(
            {
                "id": json_id,
                "height": int(info["height"]),
                "width": int(info["width"]),
            }
        )
        for annotation in info["annotations"]:
            size = (images[-1]["height"], images[-1]["width"])
            usable, problems = _usable_annotation(annotation, *size)
            annotation_name = f"{annotation.get('id')} (image {json_id}"
            unusable += [f"{annotation_name}: {problem})" for problem in problems]
            if usable is not None:
                usable.update(image_id=json_id, id=len(annotations) + 1)
                annotations.append(usable)
    if unusable:
        logger.warning(
            "%d segmentations can't be drawn and are left out of the truth, the first: %s",
            len(unusable),
            several(unusable),
        )
    class_ids = {}
    categories = []
    names = _unique_names(dataset)
    for class_id, info in _categories(dataset, infos[0]["source"]).items():
        class_ids[class_id] = info["id"]
        categories.append({"id": info["id"], "name": names[class_id]})
    data = {
        "info": {},
        "annotations": annotations,
        "images": images,
        "categories": categories,
    }
    json_ids = [image["id"] for image in images]
    return Truth(data, dict(zip(image_ids, json_ids)), class_ids, official=True)


def _unique_names(dataset: Dataset) -> list[str]:
    """Class names by class id; a name that occurred before gets the class id: "cat (2)".

    They are the keys of the figures by class.
    """
    names = []
    for class_id, name in enumerate(dataset.class_names):
        if name in names:
            name = f"{name} ({class_id})"
        names.append(name)
    return names


def _usable_annotation(
    annotation: dict, height: int, width: int
) -> tuple[dict | None, list[SegmentationError]]:
    """An annotation in the form that COCOeval takes, or None, and problems of parts left out.

    A box without a segmentation, as in datasets for box detection, becomes a rectangular polygon.
    """
    try:
        return sound_annotation(annotation, height, width)
    except SegmentationError as error:
        bbox = sound_box(annotation.get("bbox"))
        if error.kind != NO_SHAPE or bbox is None:
            return None, [error]
    x, y, box_width, box_height = bbox
    corners = [x, y, x + box_width, y, x + box_width, y + box_height, x, y + box_height]
    usable, _ = sound_annotation({**annotation, "segmentation": [corners]}, height, width)
    return usable, []


def _mask_truth(
    dataset: Dataset,
    image_ids: list[int],
    keypoints: bool = False,
) -> Truth:
    """`Truth` made from `load_mask`; objects with class ids below zero become crowds.

    Objects without a pixel are left out, as in training.

    Raises:
        ValueError: class ids that are not those of the dataset, or not one for each mask.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id in image_ids:
        loaded_masks, loaded_ids = dataset.load_mask(image_id)
        masks = np.asarray(loaded_masks)
        class_ids = np.asarray(loaded_ids)
        shape: Sequence[int] = masks.shape
        if not masks.shape[2]:
            shape = _shape(dataset, image_id)
        images.append(
            {
                "id": image_id,
                "height": int(shape[0]),
                "width": int(shape[1]),
            }
        )
        if len(class_ids) != masks.shape[2]:
            raise ValueError(
                f"each mask has a class id. Received: {masks.shape[2]} masks and {len(class_ids)}"
                f" class ids for image {image_id}"
            )
        objects = _annotations_of(masks, class_ids)
        if keypoints:
            _add_keypoints(objects, dataset.load_keypoints(image_id))
        objects = [annotation for annotation in objects if annotation["area"]]
        _check_categories(objects, dataset, image_id)
        for annotation in objects:
            annotation_id = len(annotations) + 1
            annotations.append(
                {
                    "id": annotation_id,
                    "image_id": image_id,
                    **annotation,
                }
            )
    categories = []
    category_ids = {}
    for i, name in enumerate(_unique_names(dataset)[1:], 1):
        categories.append({"id": i, "name": name})
        category_ids[i] = i
    data = {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    return Truth(data, {i: i for i in image_ids}, category_ids, official=False)


def _shape(dataset: Dataset, image_id: int) -> Sequence[int]:
    """(height, width, ...) of an image without objects; (0, 0) of one that can't be read."""
    info = dataset.image_info[image_id]
    if info.get("height") and info.get("width"):
        return info["height"], info["width"]
    try:
        return dataset.load_image(image_id).shape
    except (OSError, ValueError):
        return 0, 0  # nothing will be detected on it; the evaluation reports why


def _annotations_of(masks: np.ndarray, class_ids: np.ndarray) -> list[dict]:
    """Annotations of one image's masks [H, W, N] and class ids [N], without ids."""
    from pycocotools import mask as coco_mask

    if not masks.shape[2]:
        return []
    boxes = _coco_boxes(utils.extract_bboxes(masks))
    annotations = []
    for box, code, class_id in zip(boxes, encode(masks), class_ids):
        annotations.append(
            {
                "bbox": box,
                "category_id": abs(int(class_id)),
                "segmentation": code,
                "area": float(coco_mask.area(code)),
                "iscrowd": int(class_id < 0),
            }
        )
    return annotations


def _check_categories(annotations: list[dict], dataset: Dataset, image_id: int) -> None:
    """Raises a ValueError for annotations of a class that the dataset lacks, or of background."""
    largest = len(dataset.class_info) - 1
    ids = {annotation["category_id"] for annotation in annotations}
    unknown = sorted(class_id for class_id in ids if not 1 <= class_id <= largest)
    if unknown:
        raise ValueError(
            f"class ids lie in 1..{largest} (negative for crowds). Received: {unknown} for image"
            f" {image_id} ({dataset.image_info[image_id].get('path')})"
        )


def _add_keypoints(annotations: list[dict], keypoints: np.ndarray) -> None:
    """Adds keypoints [N, K, (y, x, visibility)] to N annotations."""
    for annotation, points in zip(annotations, keypoints):
        points = np.asarray(points)
        visibility = points[:, 2]
        annotation["keypoints"] = _coco_points(points[:, :2], visibility)
        annotation["num_keypoints"] = int(np.count_nonzero(visibility > 0))


def coco_ground_truth(dataset: Dataset, image_ids: Iterable[int] | None) -> Any:
    """A pycocotools COCO object of a dataset's ground truth, see `ground_truth`."""
    return ground_truth(dataset, image_ids).coco()


# ---- Figures -------------------------------------------------------------------------------------


def _cocoeval(
    truth: Truth,
    detections: list[dict],
    kind: str,
    limit: int,
    sigmas: Sequence[float] | None = None,
) -> Any:
    """A COCOeval after `evaluate` and `accumulate`.

    Args:
        limit: how many detections of a class on an image count, at least COCO's own number.
        sigmas: [K] of the keypoints; None for COCO's.
    """
    # Of a row with several of these, `loadRes` would take the area of the box; COCO's is that of
    # the mask or of the keypoints' extent.
    shapes = {
        "bbox": "bbox",
        "segm": "segmentation",
        "keypoints": "keypoints",
    }
    other_keys = set(shapes.values()) - {shapes[kind]}
    rows = [_without(row, other_keys) for row in detections]
    coco = truth.coco()
    with contextlib.redirect_stdout(io.StringIO()):
        if rows:
            results = coco.loadRes(rows)
        else:
            results = _coco({**truth.data, "annotations": []})
        run = _evaluator()(coco, results, kind)
        # Matching is greedy, best detection first: figures at one limit don't depend on the others.
        run.params.maxDets = sorted({*run.params.maxDets, limit})
        if sigmas is not None:
            run.params.kpt_oks_sigmas = np.asarray(sigmas, float)
        run.evaluate()
        run.accumulate()
    return run


def _evaluator() -> Any:
    """A subclass of COCOeval that matches a detection only with objects that it overlaps.

    COCOeval loops over all objects for each detection, IoU and area range, which takes minutes for
    an image with 20,000 objects. The results are the same.
    """
    from pycocotools.cocoeval import COCOeval

    class Evaluator(COCOeval):
        def evaluateImg(
            self, imgId: Any, catId: Any, aRng: Sequence[float], maxDet: int
        ) -> dict | None:
            objects = self._gts[imgId, catId]
            rows = self._dts[imgId, catId]
            if not objects and not rows:
                return None
            ignored = np.array([_is_ignored(item, aRng) for item in objects], bool)
            order = np.argsort(ignored, kind="stable")  # objects that count come first
            objects = [objects[i] for i in order]
            ignored = ignored[order]
            best = np.argsort([-row["score"] for row in rows], kind="stable")[:maxDet]
            rows = [rows[i] for i in best]
            shape = (len(self.params.iouThrs), len(rows))
            object_matches = np.zeros((shape[0], len(objects)))
            row_matches = np.zeros(shape)
            row_ignored = np.zeros(shape, bool)
            overlaps = self.ious[imgId, catId]
            if len(overlaps):
                overlaps = overlaps[:, order]
                crowd = _crowds(objects)
                for i, k, j in _matches(overlaps[: len(rows)], ignored, crowd, self.params.iouThrs):
                    row_matches[i, k] = objects[j]["id"]
                    object_matches[i, j] = rows[k]["id"]
                    row_ignored[i, k] = ignored[j]
            is_outside = np.array([not aRng[0] <= row["area"] <= aRng[1] for row in rows], bool)
            return {
                "image_id": imgId,
                "category_id": catId,
                "aRng": aRng,
                "maxDet": maxDet,
                "dtIds": [row["id"] for row in rows],
                "gtIds": [item["id"] for item in objects],
                "dtMatches": row_matches,
                "gtMatches": object_matches,
                "dtScores": [row["score"] for row in rows],
                "gtIgnore": ignored.astype(int),
                "dtIgnore": row_ignored | ((row_matches == 0) & is_outside),
            }

    return Evaluator


def _is_ignored(item: dict, area_range: Sequence[float]) -> bool:
    """Whether COCOeval ignores an object in the figures of a range of areas, in pixels."""
    return bool(item["ignore"]) or not area_range[0] <= item["area"] <= area_range[1]


def _matches(
    overlaps: np.ndarray,
    ignored: np.ndarray,
    crowd: np.ndarray,
    thresholds: Sequence[float],
) -> Iterator[tuple[int, int, int]]:
    """COCOeval's matches on an image.

    Each detection, best first, is matched with the unmatched object that it overlaps most; among
    equal overlaps with the last one, and with an ignored object only if no other reaches the
    threshold. A crowd can be matched any number of times.

    Args:
        overlaps: [detections, objects] IoU, ignored objects last.
        ignored, crowd: [objects] bool.
        thresholds: of the IoU.

    Yields:
        (threshold, detection, object), as indices.
    """
    lowest_threshold = min(*thresholds, 1 - 1e-10)
    overlapping = [np.flatnonzero(row >= lowest_threshold) for row in overlaps]
    for i, threshold in enumerate(thresholds):
        is_matched = np.zeros(len(ignored), bool)
        for k, candidates in enumerate(overlapping):
            candidates = candidates[overlaps[k, candidates] >= min(threshold, 1 - 1e-10)]
            candidates = candidates[~is_matched[candidates] | crowd[candidates]]
            not_ignored = candidates[~ignored[candidates]]
            if not_ignored.size:
                candidates = not_ignored
            if not candidates.size:
                continue
            values = overlaps[k, candidates]
            j = int(candidates[np.flatnonzero(values == values.max())[-1]])
            is_matched[j] = True
            yield i, k, j


def _without(row: dict, keys: set[str]) -> dict:
    """A copy of a row without some of its keys."""
    return {key: value for key, value in row.items() if key not in keys}


def _mean(values: np.ndarray) -> float:
    """Mean of the values, without -1, which is COCO's for "undefined"; NaN if all are -1."""
    defined = values[values > -1]
    if not defined.size:
        return float("nan")
    return float(defined.mean())


# Each figure is a mean over: (recall (True) or precision, IoU or None for all ten, COCO's area).
_MEASURES: dict[str, tuple[bool, float | None, str]] = {
    "AP": (False, None, "all"),
    "AP50": (False, 0.5, "all"),
    "AP75": (False, 0.75, "all"),
    "APs": (False, None, "small"),
    "APm": (False, None, "medium"),
    "APl": (False, None, "large"),
    "AR": (True, None, "all"),
    "AR50": (True, 0.5, "all"),
    "AR75": (True, 0.75, "all"),
    "ARs": (True, None, "small"),
    "ARm": (True, None, "medium"),
    "ARl": (True, None, "large"),
}
_RECALLS_AT = {"AR1": 1, "AR10": 10, "AR100": 100}


def _figure(run: Any, name: str, limit: int, column: int | None = None) -> float:
    """A figure of a COCOeval; NaN where COCO has none.

    Args:
        name: one of `FIGURES` or `KEYPOINT_FIGURES`.
        limit: how many detections count; AR1, AR10 and AR100 have limits of their own.
        column: index of a class; None for the mean over all.
    """
    if name in _RECALLS_AT:
        limit = _RECALLS_AT[name]
        name = "AR"
    is_recall, iou, area = _MEASURES[name]
    params = run.params
    if is_recall:
        values = run.eval["recall"]  # [IoUs, classes, areas, limits]
    else:
        values = run.eval["precision"]  # [IoUs, recalls, classes, areas, limits]
    values = values[..., params.areaRngLbl.index(area), params.maxDets.index(limit)]
    if iou is not None:
        values = values[np.isclose(params.iouThrs, iou)]
    if column is not None:
        values = values[..., column]
    return _mean(values)


def _overall_figures(run: Any, names: Sequence[str], limit: int) -> dict[str, float]:
    """{figure: value} of a COCOeval over all classes."""
    return {name: _figure(run, name, limit) for name in names}


def _class_figures(run: Any, column: int, limit: int) -> dict[str, float]:
    """{figure: value} of a COCOeval for each of `CLASS_FIGURES`; column: index of the class."""
    return {name: _figure(run, name, limit, column) for name in CLASS_FIGURES}


def _counted_limit(kind: str, max_detections: int) -> int:
    """How many detections of a class on an image count for a kind, at least COCO's number."""
    return max(max_detections, COCO_LIMITS[kind])


def _curves(run: Any) -> dict[str, np.ndarray]:
    """The curves of a COCOeval over all areas, see `Evaluation.curves`."""
    curves = {
        "precision": run.eval["precision"][:, :, :, 0, -1],
        "score": run.eval["scores"][:, :, :, 0, -1],
        "recall": run.eval["recall"][:, :, 0, -1],
    }
    for name, array in curves.items():
        curves[name] = np.where(array > -1, array, np.nan)
    return curves


def confusion_matrix(
    truth: Truth,
    detections: list[dict],
    iou_threshold: float = 0.5,
    score_threshold: float = 0.5,
    kind: str | None = None,
) -> np.ndarray:
    """The confusion matrix of objects and detections.

    Detections with at least `score_threshold` are matched in descending order of score, each with
    the unmatched object, of any class, that it overlaps most and by at least `iou_threshold`.
    Unmatched detections count in row 0, unmatched objects in column 0. Crowds don't count as
    objects, and unmatched detections that overlap one by as much are left out.

    Args:
        truth: a `Truth`.
        detections: COCO results with the ids of `truth`.
        iou_threshold: smallest IoU of a match.
        score_threshold: smallest score of a detection that counts.
        kind: "segm" or "bbox"; None for masks if all results have them, else boxes.

    Returns:
        [classes + 1, classes + 1] int: row the object's class, column the detection's, in the order
        of the categories of `truth`, background first.
    """
    kind = kind or _compared_kind(detections)
    categories = truth.data["categories"]
    column = {category["id"]: i for i, category in enumerate(categories, 1)}
    matrix = np.zeros((len(column) + 1, len(column) + 1), np.int64)
    confident = [row for row in detections if row["score"] >= score_threshold]
    rows_of = _by_image(truth, confident)
    objects_of = _by_image(truth, truth.data["annotations"])
    for image in truth.data["images"]:
        rows = sorted(rows_of[image["id"]], key=_descending_score)
        objects = objects_of[image["id"]]
        overlaps = _overlaps(rows, objects, kind, (image["height"], image["width"]))
        for row, matched in _pairs(rows, objects, overlaps, iou_threshold):
            matrix[_row_or_column(matched, column), _row_or_column(row, column)] += 1
    return matrix


def _compared_kind(detections: list[dict]) -> str:
    """The kind that is compared with the objects: "segm" if all detections have masks."""
    if detections and all("segmentation" in row for row in detections):
        return "segm"
    return "bbox"


def _descending_score(row: dict) -> float:
    """Sort key of results, best first."""
    return -row["score"]


def _row_or_column(item: dict | None, column: dict[int, int]) -> int:
    """Row or column of the class of an object or a detection; 0, background, for None."""
    if item is None:
        return 0
    return column[item["category_id"]]


def _by_image(truth: Truth, items: list[dict]) -> dict[int, list[dict]]:
    """{image id: its annotations or results}."""
    groups: dict[int, list[dict]] = {}
    for image in truth.data["images"]:
        groups[image["id"]] = []
    for item in items:
        groups[item["image_id"]].append(item)
    return groups


def _overlaps(
    rows: list[dict],
    objects: list[dict],
    kind: str,
    size: tuple[int, int],
) -> np.ndarray:
    """IoU [rows, objects] of detections and objects; for a crowd, intersection over detection."""
    from pycocotools import mask as coco_mask

    if not rows or not objects:
        return np.zeros((len(rows), len(objects)))
    crowd = _crowds(objects).astype(np.uint8)
    if kind == "segm":
        codes = []
        for row in rows:
            codes.append(_encoded(row, size, f"a detection of image {row.get('image_id')}"))
        truth_codes = [to_rle(item, *size) for item in objects]
        return np.asarray(coco_mask.iou(codes, truth_codes, crowd))
    boxes = np.array([row["bbox"] for row in rows], float)
    truth_boxes = np.array([item["bbox"] for item in objects], float)
    return np.asarray(coco_mask.iou(boxes, truth_boxes, crowd))


def _crowds(objects: list[dict]) -> np.ndarray:
    """Which annotations are crowds, [objects] bool."""
    return np.array([bool(item["iscrowd"]) for item in objects], bool)


def _pairs(
    rows: list[dict],
    objects: list[dict],
    overlaps: np.ndarray,
    iou_threshold: float,
) -> list[tuple[dict | None, dict | None]]:
    """[(detection, object)] of one image, None in place of a missing partner.

    Args:
        rows: detections, best first.
        objects: annotations, crowds included.
        overlaps: [rows, objects], see `_overlaps`.
        iou_threshold: see `confusion_matrix`.
    """
    crowd = _crowds(objects)
    is_free = ~crowd
    pairs: list[tuple[dict | None, dict | None]] = []
    for row, overlap in zip(rows, overlaps):
        candidates = np.flatnonzero(is_free & (overlap >= iou_threshold))
        if candidates.size:
            best = candidates[overlap[candidates].argmax()]
            is_free[best] = False
            pairs.append((row, objects[best]))
        elif not (overlap[crowd] >= iou_threshold).any():
            pairs.append((row, None))
    for i in np.flatnonzero(is_free):
        pairs.append((None, objects[i]))
    return pairs


# ---- Errors by kind ------------------------------------------------------------------------------


# The kinds of a detection that finds no object, see `errors_by_image`.
ERRORS = ("double", "wrong class", "bad mask", "bad place", "false")


@dataclasses.dataclass
class ImageErrors:
    """The objects and detections of an image, classified by `errors_by_image`.

    Attributes:
        image_id: as in the ground truth.
        size: (height, width) in pixels.
        objects: annotations, without crowds.
        fates: for each object "found", "missed", or the kind of the detection that is attributed to
            it: "wrong class", "bad mask" or "bad place".
        rows: COCO results with at least the threshold's score, best first, without those that are
            matched with a crowd.
        kinds: for each of `rows` "found" or one of `ERRORS`.
        crowds: annotations.
    """

    image_id: Any
    size: tuple[int, int]
    objects: list[dict]
    fates: list[str]
    rows: list[dict]
    kinds: list[str]
    crowds: list[dict]

    @property
    def counts(self) -> dict[str, int]:
        """{"found", "missed" (objects), and each of `ERRORS` (detections): number}."""
        kinds = collections.Counter(self.kinds)
        counts = {"found": kinds["found"], "missed": self.fates.count("missed")}
        for name in ERRORS:
            counts[name] = kinds[name]
        return counts

    @property
    def score(self) -> float:
        """TP / (TP + FP + FN); 1 where there is neither an object nor a detection."""
        hits = self.kinds.count("found")
        count = len(self.objects) + len(self.rows) - hits
        if not count:
            return 1.0
        return hits / count


def errors_by_image(
    truth: Truth,
    detections: list[dict],
    iou_threshold: float = 0.5,
    score_threshold: float = 0.5,
    kind: str | None = None,
    least_iou: float = 0.1,
) -> Iterator[ImageErrors]:
    """Classifies the objects and detections of each image.

    Detections with at least `score_threshold` are matched with objects of their class as in COCO's
    figures: best first, each finds the unmatched object that it overlaps most and by at least
    `iou_threshold`. Any other detection is of the first kind that applies:

    - "double": it overlaps, by at least `iou_threshold`, an object of its class that was found.
    - "wrong class": it overlaps an object of another class by as much.
    - "bad mask": its box overlaps that of an object of its class by as much (masks only).
    - "bad place": it overlaps an object of its class by at least `least_iou`.
    - "false": none of these.

    An object that is not found is "missed", unless a detection of kind "wrong class", "bad mask" or
    "bad place" is attributed to it: each of these, best first, is attributed to the object that it
    overlaps most among the remaining ones. Crowds don't count as objects, and detections of their
    class that are matched with one are left out. (The kinds resemble those of TIDE, arXiv
    2008.08115.)

    Args:
        truth, detections, iou_threshold, score_threshold, kind: see `confusion_matrix`.
        least_iou: smallest IoU at which a detection is related to an object at all.
    """
    kind = kind or _compared_kind(detections)
    confident = [row for row in detections if row["score"] >= score_threshold]
    rows_of = _by_image(truth, confident)
    objects_of = _by_image(truth, truth.data["annotations"])
    for image in truth.data["images"]:
        size = (image["height"], image["width"])
        rows = sorted(rows_of[image["id"]], key=_descending_score)
        classifier = _ErrorClassifier(
            rows, objects_of[image["id"]], kind, size, iou_threshold, least_iou
        )
        yield classifier.errors(image["id"])


class _ErrorClassifier:
    """Classifies the detections and objects of one image, see `errors_by_image`.

    Args:
        rows: detections, best first.
        objects: annotations, crowds included.
        kind: "segm" or "bbox".
        size: (height, width) in pixels.
        iou_threshold, least_iou: see `errors_by_image`.
    """

    def __init__(
        self,
        rows: list[dict],
        objects: list[dict],
        kind: str,
        size: tuple[int, int],
        iou_threshold: float,
        least_iou: float,
    ):
        self.rows = rows
        self.objects = objects
        self.size = size
        self.crowd = _crowds(objects)
        self.overlaps = _overlaps(rows, objects, kind, size)
        row_classes = np.array([row["category_id"] for row in rows], int)
        classes = np.array([item["category_id"] for item in objects], int)
        self.same_class = row_classes[:, None] == classes
        overlapping = self.overlaps >= iou_threshold
        # {kind of error: [rows, objects] bool, the objects by which a detection is of that kind}
        self.related = {
            "double": overlapping & self.same_class,
            "wrong class": overlapping & ~self.same_class,
        }
        if kind == "segm":
            boxes = _overlaps(rows, objects, "bbox", size)
            self.related["bad mask"] = (boxes >= iou_threshold) & self.same_class
        self.related["bad place"] = (self.overlaps >= least_iou) & self.same_class
        same_class_overlaps = np.where(self.same_class, self.overlaps, 0)
        # {index of the detection: index of the object}
        self.matched = {
            k: j
            for _, k, j in _matches(same_class_overlaps, self.crowd, self.crowd, [iou_threshold])
        }

    def errors(self, image_id: Any) -> ImageErrors:
        """The `ImageErrors` of the image."""
        indices = [k for k in range(len(self.rows)) if not self._lies_in_crowd(k)]
        kinds = {k: self._kind(k) for k in indices}
        fates = self._fates(kinds)
        not_crowd = np.flatnonzero(~self.crowd)
        return ImageErrors(
            image_id,
            self.size,
            [self.objects[j] for j in not_crowd],
            [fates[j] for j in not_crowd],
            [self.rows[k] for k in indices],
            [kinds[k] for k in indices],
            [self.objects[j] for j in np.flatnonzero(self.crowd)],
        )

    def _lies_in_crowd(self, k: int) -> bool:
        """Whether a detection is matched with a crowd."""
        return k in self.matched and bool(self.crowd[self.matched[k]])

    def _kind(self, k: int) -> str:
        """The kind of a detection."""
        if k in self.matched:
            return "found"
        for name, related in self.related.items():
            if (related[k] & ~self.crowd).any():
                return name
        return "false"

    def _fates(self, kinds: dict[int, str]) -> list[str]:
        """The fate of each object, see `ImageErrors`; kinds: {index of a detection: its kind}."""
        fates = ["missed"] * len(self.objects)
        remaining = ~self.crowd
        for j in self.matched.values():
            fates[j] = "found"
            remaining[j] = False
        for k, name in kinds.items():
            if name not in ("wrong class", "bad mask", "bad place"):
                continue
            related = np.flatnonzero(self.related[name][k] & remaining)
            if related.size:
                j = related[self.overlaps[k, related].argmax()]
                fates[j] = name
                remaining[j] = False
        return fates


# ---- Keypoints, and all figures together ---------------------------------------------------------


def _keypoint_figures(
    dataset: Dataset, truth: Truth, detections: list[dict], max_detections: int
) -> tuple[dict[str, float], dict[str, float], dict[str, dict[str, float]]]:
    """The figures of keypoints.

    Returns:
        {figure: value} of `KEYPOINT_FIGURES`; the same with COCO's limit; and {class name:
        {"keypoints AP", "keypoints AP50"}}.

    Raises:
        ValueError: another number of keypoints than of sigmas.
    """
    sigmas = getattr(dataset, "keypoint_sigmas", None)
    count = PERSON_KEYPOINTS
    if sigmas is not None:
        count = len(sigmas)
    annotations = truth.data["annotations"]
    labelled = [item for item in (*annotations, *detections) if item.get("keypoints")]
    counts = {len(item["keypoints"]) // 3 for item in labelled}
    if any(not row.get("keypoints") for row in detections):
        counts.add(0)
    if counts - {count}:
        raise ValueError(
            "keypoints are COCO's 17 unless the dataset has `keypoint_sigmas`, the tolerance of"
            f" each as a share of the object's size. Received: {sorted(counts)} keypoints, sigmas"
            f" {sigmas}"
        )
    # COCOeval ignores objects without visible keypoints, but fails where the key is missing.
    blank = {"keypoints": [0] * 3 * count, "num_keypoints": 0}
    filled = []
    for annotation in annotations:
        if not annotation.get("keypoints"):
            annotation = {**annotation, **blank}
        filled.append(annotation)
    truth = dataclasses.replace(truth, data={**truth.data, "annotations": filled})
    limit = _counted_limit("keypoints", max_detections)
    run = _cocoeval(truth, detections, "keypoints", limit, sigmas)
    names = _category_names(truth)
    per_class = {}
    for column, category_id in enumerate(run.params.catIds):
        per_class[names[category_id]] = {
            "keypoints AP": _figure(run, "AP", limit, column),
            "keypoints AP50": _figure(run, "AP50", limit, column),
        }
    figures = _overall_figures(run, KEYPOINT_FIGURES, limit)
    coco_figures = _overall_figures(run, KEYPOINT_FIGURES, COCO_LIMITS["keypoints"])
    return figures, coco_figures, per_class


def _category_names(truth: Truth) -> dict[int, str]:
    """{category id: name}; a repeated name gets a number: cat (2)."""
    names: dict[int, str] = {}
    for category in truth.data["categories"]:
        name = category["name"]
        number = 1
        while name in names.values():
            number += 1
            name = f"{category['name']} ({number})"
        names[category["id"]] = name
    return names


def evaluate_detections(
    dataset: Dataset,
    detections: list[dict],
    image_ids: Iterable[int] | None = None,
    masks: bool = True,
    seconds: float = 0.0,
    truth: Truth | None = None,
    keypoints: bool = False,
    max_detections: int | None = None,
) -> Evaluation:
    """COCO's figures of stored detections.

    Args:
        dataset: prepared `Dataset`.
        detections: list of COCO results, with the ids of the dataset's json if its `image_info` has
            annotations (see the top of this module), otherwise with the dataset's own image and
            class ids.
        image_ids: of the dataset; None for all.
        masks: evaluate masks as well as boxes.
        seconds: duration of the detection, for `Evaluation.seconds`.
        truth: `Truth` of these images; None to make it.
        keypoints: evaluate keypoints too, with COCO's sigmas or, for other keypoints than a
            person's 17, the dataset's attribute `keypoint_sigmas`.
        max_detections: how many detections of a class on an image count, best first:
            DETECTION_MAX_INSTANCES of the model that made them; None for all of them. Where it is
            below COCO's number, COCO's is used.

    Returns:
        `Evaluation`.

    Detections of categories that the dataset lacks are left out, with a warning, as those of a
    detector of 80 classes on a dataset of some of them. A box that is missing is that of the mask
    or of the keypoints, as pycocotools has it; polygons become run lengths.

    Raises:
        ValueError: detections of images that are not evaluated, or of none of the categories; one
            that is no COCO result, or lacks a score, a box or, with `masks`, a segmentation of its
            image's size.
    """
    ids = _ids(dataset, image_ids)
    truth = truth or ground_truth(dataset, ids, keypoints)
    detections = _sound_results(truth, detections, masks)
    if max_detections is None:
        max_detections = _most_on_an_image(detections)
    per_class: dict[str, dict[str, float]] = {name: {} for name in _category_names(truth).values()}
    overall = {}
    coco_figures = {}
    curves = {}
    kinds = ["bbox"]
    if masks:
        kinds.append("segm")
    for kind in kinds:
        limit = _counted_limit(kind, max_detections)
        run = _cocoeval(truth, detections, kind, limit)
        overall[kind] = _overall_figures(run, FIGURES, limit)
        coco_figures[kind] = _overall_figures(run, FIGURES, COCO_LIMITS[kind])
        if limit > COCO_LIMITS[kind]:
            overall[kind][f"AR{limit}"] = _figure(run, "AR", limit)
        curves[kind] = _curves(run)
        _add_class_figures(per_class, run, truth, kind, limit)
    confusion_kind = "bbox"
    if masks and detections:
        confusion_kind = "segm"
    evaluation = Evaluation(
        bbox=overall["bbox"],
        segm=overall.get("segm"),
        per_class=per_class,
        images=len(ids),
        detections=detections,
        seconds=seconds,
        curves=curves,
        confusion=confusion_matrix(truth, detections, kind=confusion_kind),
        truth=truth,
        max_detections=max_detections,
        coco=coco_figures,
    )
    if keypoints:
        evaluation.keypoints, coco_figures["keypoints"], by_class = _keypoint_figures(
            dataset, truth, detections, max_detections
        )
        for name, figures in by_class.items():
            per_class[name].update(figures)
    return evaluation


def _sound_results(truth: Truth, detections: list[dict], masks: bool) -> list[dict]:
    """Detections as COCOeval takes them, see `evaluate_detections`; those that are sound as is."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth.data["images"]}
    category_ids = {category["id"] for category in truth.data["categories"]}
    rows = []
    left_out: collections.Counter = collections.Counter()
    with_objects = {item["image_id"] for item in truth.data["annotations"]}
    for number, row in enumerate(detections):
        if not isinstance(row, dict) or not {"image_id", "category_id", "score"} <= row.keys():
            raise ValueError(
                "detections are COCO results, dicts with image_id, category_id, score and bbox or"
                f" segmentation. Received: detection {number}, {files.short(row)}"
            )
        if not all(isinstance(row[key], Hashable) for key in ("image_id", "category_id")):
            raise ValueError(
                "the ids of a detection are numbers or text. Received: detection"
                f" {number}, {files.short(row)}"
            )
        if row["image_id"] not in sizes:
            unknown = {row["image_id"] for row in detections if row["image_id"] not in sizes}
            raise ValueError(
                "detections belong to the images that are evaluated. Received: image_id"
                f" {sorted(unknown, key=str)[:5]}"
            )
        if row["category_id"] in category_ids:
            name = f"detection {number}, of image {row['image_id']}"
            size = sizes[row["image_id"]]
            rows.append(_sound_result(row, size, masks, name))
            code = rows[-1].get("segmentation", {})
            if masks and row["image_id"] in with_objects and tuple(code["size"]) != size:
                raise ValueError(
                    f"the size of a mask is its image's, {list(size)}. Received: {code['size']},"
                    f" {name}"
                )
        else:
            left_out[row["category_id"]] += 1
    if not left_out:
        return rows
    reason = (
        f"the dataset has the category ids {several(sorted(category_ids))}. Received: category_id"
        f" {several(sorted(left_out, key=str))}"
    )
    if not rows:
        raise ValueError(reason)
    logger.warning("%d detections are left out: %s", left_out.total(), reason)
    return rows


def _sound_result(row: dict, size: tuple[int, int], masks: bool, name: str) -> dict:
    """A COCO result with a box and, with masks, an encoding; itself if it has them.

    Args:
        size: (height, width) of its image; (0, 0) where that can't be read.
        masks: whether it needs a mask.
        name: for errors.
    """
    from pycocotools import mask as coco_mask

    score = row["score"]
    if not isinstance(score, (int, float, np.number)) or not np.isfinite(score):
        raise ValueError(f"the score of a detection is a number. Received: {score!r}, {name}")
    code = row.get("segmentation")
    if (isinstance(code, list) and code) or _is_to_be_encoded(code):
        code = _encoded(row, size, name)
        row = {**row, "segmentation": code}
    if masks and not isinstance(code, dict):
        raise ValueError(
            f"each detection has a segmentation, or masks=False. Received: {name}, with"
            f" {', '.join(sorted(row))}"
        )
    box = row.get("bbox")
    if box is not None and not _is_box(box):
        raise ValueError(
            "the bbox of a detection is [x, y, width, height], finite numbers. Received:"
            f" {files.short(box)}, {name}"
        )
    if row.get("keypoints") is not None and not _are_points(row["keypoints"]):
        raise ValueError(
            "the keypoints of a detection are a list x, y, score, x, ... of finite numbers."
            f" Received: {files.short(row['keypoints'])}, {name}"
        )
    if box is not None:
        return row
    if isinstance(code, dict):
        return {**row, "bbox": coco_mask.toBbox(code).tolist()}
    if not row.get("keypoints"):
        raise ValueError(f"each detection has a bbox. Received: {name}, {files.short(row)}")
    x = row["keypoints"][0::3]
    y = row["keypoints"][1::3]
    return {**row, "bbox": [min(x), min(y), max(x) - min(x), max(y) - min(y)]}


def _is_to_be_encoded(code: Any) -> bool:
    """Whether a segmentation is run lengths other than COCO's compressed ones."""
    if not isinstance(code, dict):
        return False
    return "size" not in code or not isinstance(code.get("counts"), (str, bytes))


def _encoded(row: dict, size: tuple[int, int], name: str) -> dict:
    """The compressed run lengths of a result's polygons or runs; arguments of `_sound_result`.

    Raises:
        ValueError: no such segmentation; the message has the name.
    """
    code = row.get("segmentation")
    if isinstance(code, dict):
        given = code.get("size")
        if not isinstance(given, (list, tuple)) or len(given) != 2:
            raise ValueError(
                f"the size of a mask is its image's, {list(size)}. Received: {given}, {name}"
            )
        size = tuple(given)
    try:
        return to_rle(row, *size)
    except SegmentationError as error:
        raise ValueError(f"{error.__cause__ or error}, {name}") from error


def _is_box(box: Any) -> bool:
    """Whether something is four finite numbers."""
    try:
        x, y, width, height = box
        return math.isfinite(x + y + width + height)
    except (TypeError, ValueError):
        return False


def _are_points(points: Any) -> bool:
    """Whether something is a list of three finite numbers for each point."""
    try:
        values = np.asarray(points)
    except ValueError:  # lists of several lengths
        return False
    if not values.size:
        return values.ndim == 1
    is_list = values.ndim == 1 and values.size % 3 == 0
    return is_list and values.dtype.kind in "iuf" and bool(np.isfinite(values).all())


def _add_class_figures(
    per_class: dict[str, dict[str, float]], run: Any, truth: Truth, kind: str, limit: int
) -> None:
    """Adds the figures of a kind, "bbox" or "segm", to {class name: {figure: value}}."""
    names = _category_names(truth)
    for column, category_id in enumerate(run.params.catIds):
        for figure, value in _class_figures(run, column, limit).items():
            per_class[names[category_id]][f"{kind} {figure}"] = value


def _most_on_an_image(detections: list[dict]) -> int:
    """The largest number of detections of one class on one image."""
    counts = collections.Counter((row["image_id"], row["category_id"]) for row in detections)
    return max(counts.values(), default=0)


# ---- Running a model over a dataset --------------------------------------------------------------


class _Log:
    """The results so far as lines of JSON, one per image, to resume an interrupted evaluation.

    Args:
        path: the file; None to write nothing.
        key: see `_key`; a file with another key is overwritten.

    Attributes:
        done: {`_image_key` of an image: its COCO results}.

    Raises:
        ValueError: the file exists and is no such log.
    """

    HEAD = b'{"mrcnn_evaluation": '

    def __init__(self, path: Any, key: str | None):
        self.done: dict[str, list[dict]] = {}
        self._file: io.FileIO | None = None
        if path is None:
            return
        self._path = pathlib.Path(path)
        if self._path.exists() and not self._path.is_file():
            raise ValueError(f"resume is a file. Received: {path}, a folder, a pipe or a device")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch()
        self._end = self._read(key)
        # Unbuffered: results are handed to the system at once, so a killed program loses none.
        self._file = open(self._path, "r+b", buffering=0)  # noqa: SIM115  closed by `close`
        # Removes the incomplete line of a killed program.
        self._file.truncate(self._end)
        if not self._end:
            self._write({"mrcnn_evaluation": key})

    def _read(self, key: str | None) -> int:
        """Reads the results if the file has the same key.

        Returns:
            the length of the complete lines in bytes; 0 for a file with another key.
        """
        with open(self._path, "rb") as file:
            head = file.readline()
            if not head.startswith(self.HEAD) and not self.HEAD.startswith(head):
                raise ValueError(
                    f"{self._path} is no file of an evaluation that was interrupted; it is left as"
                    " it is. Name another one"
                )
            entry = _entry(head)
            if entry is None:
                return 0
            if entry.get("mrcnn_evaluation") != key:
                logger.warning(
                    "%s has results of other weights, settings or classes, or tiles; it is begun"
                    " anew",
                    self._path,
                )
                return 0
            end = len(head)
            for line in file:
                entry = _entry(line)
                if entry is None or not {"image", "results"} <= entry.keys():
                    break
                self.done[entry["image"]] = entry["results"]
                end += len(line)
        return end

    def _write(self, entry: dict) -> None:
        """Appends a line; OSError, which names the file, if the disk is full: no part remains."""
        if self._file is None:
            return
        line = json.dumps(entry).encode() + b"\n"
        self._file.seek(self._end)
        remaining = memoryview(line)
        try:
            while remaining:
                remaining = remaining[self._file.write(remaining) :]
        except OSError as error:
            self._file.truncate(self._end)
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self._end += len(line)

    def add(self, key: str, results: list[dict]) -> None:
        """Adds the results of an image; key: its `_image_key`."""
        self.done[key] = results
        self._write({"image": key, "results": results})

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()


def _entry(line: bytes) -> dict | None:
    """The contents of a line of a `_Log`; None for an incomplete or another line."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    if not isinstance(entry, dict):
        return None
    return entry


def _key(model: Any, dataset: Dataset, truth: Truth, tiling: dict[str, int]) -> str:
    """Digest of all that detections depend on: version, weights, settings, classes, tiles."""
    digest = hashlib.sha256()
    for variable in getattr(getattr(model, "keras_model", None), "weights", ()):
        values = np.ascontiguousarray(variable)
        name = getattr(variable, "path", getattr(variable, "name", ""))
        digest.update(f"{name} {values.shape} {values.dtype}".encode())
        digest.update(values.tobytes())
    if hasattr(model, "identity"):  # an exported one, whose weights lie in its file
        digest.update(json.dumps(model.identity(), sort_keys=True).encode())
    settings = {}
    for name, value in model.config.to_dict().items():
        if name not in NOT_DETECTING:
            settings[name] = setting_text(value)
    classes = [dataset.class_info, sorted(truth.class_ids.items())]
    parts = [__version__, settings, classes]
    if tiling:
        parts.append(tiling)
    text = json.dumps(parts, sort_keys=True, default=str)
    digest.update(text.encode())
    return digest.hexdigest()


def _image_key(dataset: Dataset, image_id: int, image: np.ndarray) -> str:
    """Digest of an image's id, its pixels, and its file's path, size and time if it has one.

    The id alone is not enough: another dataset may use it for another image.
    """
    info = dataset.image_info[image_id]
    pixels = np.ascontiguousarray(image)
    text = f"{info['source']}.{info['id']} {pixels.shape} {pixels.dtype}"
    digest = hashlib.sha256(text.encode(errors="surrogatepass"))
    digest.update(pixels.tobytes())
    path = info.get("path")
    if isinstance(path, (str, os.PathLike)):
        try:
            state = os.stat(path)
            digest.update(f"{state.st_size} {state.st_mtime_ns}".encode())
        except (OSError, ValueError):
            pass  # the path of a dataset that generates its images need not exist
        digest.update(os.fsencode(os.path.realpath(path)))
    return digest.hexdigest()


def check(dataset: Dataset, config: Config, image_ids: Iterable[int] | None = None) -> None:
    """Checks a dataset before an evaluation, the masks and keypoints of its first image included.

    Args:
        dataset: prepared `Dataset`.
        config: the `Config` of the model.
        image_ids: None for all.

    Raises:
        ValueError: a dataset that is not prepared; no images; other classes than the model's; a
            first image whose masks or keypoints can't be read.
    """
    ids = _checked_ids(dataset, config, image_ids)
    try:
        ground_truth(dataset, ids[:1], config.USE_KEYPOINTS)
    except NotImplementedError as error:
        raise ValueError(str(error)) from error


def _checked_ids(dataset: Dataset, config: Config, image_ids: Iterable[int] | None) -> list[int]:
    """The image ids of an evaluation; ValueError for a dataset that doesn't match the config."""
    if not hasattr(dataset, "num_classes"):
        raise ValueError(
            "an evaluation needs a prepared dataset: call prepare() after adding classes and images"
        )
    ids = _ids(dataset, image_ids)
    unknown = [image_id for image_id in ids if not 0 <= image_id < len(dataset.image_info)]
    if unknown:
        raise ValueError(
            f"image ids are 0 to {len(dataset.image_info) - 1} (num_images - 1). Received:"
            f" {unknown[:5]}"
        )
    if not ids:
        raise ValueError("an evaluation needs images. Received: none")
    if dataset.num_classes != config.NUM_CLASSES:
        raise ValueError(
            f"NUM_CLASSES of the model is the dataset's {dataset.num_classes}, background included."
            f" Received: {config.NUM_CLASSES}"
        )
    return ids


def evaluate(
    model: Any,
    dataset: Dataset,
    image_ids: Iterable[int] | None = None,
    progress: bool = True,
    resume: Any = None,
    tile: int | None = None,
    overlap: int | None = None,
) -> Evaluation:
    """Detects on a dataset's images and returns COCO's figures, an `Evaluation`.

    Masks are run-length encoded after each batch, so memory holds those of one batch. An image that
    can't be read is logged, and its objects count as missed.

    Args:
        model: `MaskRCNN` in inference mode.
        dataset: prepared `Dataset`.
        image_ids: None for all.
        progress: draw a bar with images per second on stderr.
        resume: path of a file for the results so far; a program that is killed loses those of one
            batch at most. A later evaluation with the same weights, settings and classes takes
            from it the results of every image whose id and pixels, as `load_image` returns them,
            are unchanged, and the path, size and time of its file, if it has one. So every image is
            read again, but not detected on again. The ground truth is not stored.
        tile, overlap: for large images, see `MaskRCNN.detect`. DETECTION_MAX_INSTANCES is then the
            limit of a tile; an image may have more detections, all of which count.

    Raises:
        ValueError: no images, or none that can be read; classes that the model doesn't have;
            `resume` is another kind of file; an invalid tile, or tiles for a model without masks.
        OSError: `resume` can't be written (a full disk); its contents stay.
    """
    tiling = _tiling(model, tile, overlap)
    ids = _checked_ids(dataset, model.config, image_ids)
    _tell_of_least_score(model)
    truth = ground_truth(dataset, ids, model.config.USE_KEYPOINTS)
    key = None
    if resume is not None:
        key = _key(model, dataset, truth, tiling)
    log = _Log(resume, key)
    start = time.monotonic()
    try:
        results, unreadable = _detect(model, dataset, ids, truth, log, progress, tiling)
    finally:
        log.close()
    detections = []
    for image_id in ids:
        for row in results.get(image_id, []):
            detections.append({**row, "image_id": truth.image_ids[image_id]})
    limit = model.config.DETECTION_MAX_INSTANCES
    if tiling:
        limit = max(limit, _most_on_an_image(detections))
    evaluation = evaluate_detections(
        dataset,
        detections,
        ids,
        masks=model.config.USE_MASK,
        seconds=time.monotonic() - start,
        truth=truth,
        keypoints=model.config.USE_KEYPOINTS,
        max_detections=limit,
    )
    evaluation.unreadable = unreadable
    return evaluation


_LEAST_SCORES_WARNED: set[float] = set()


def _tell_of_least_score(model: Any) -> None:
    """Warns once that a model leaves out detections that AP counts, see `LEAST_SCORE`."""
    least = getattr(model.config, "DETECTION_MIN_CONFIDENCE", 0)
    if least <= LEAST_SCORE or least in _LEAST_SCORES_WARNED or not hasattr(model, "keras_model"):
        return
    _LEAST_SCORES_WARNED.add(least)
    logger.warning(
        "the model leaves out detections with scores below %g (DETECTION_MIN_CONFIDENCE), so that"
        " AP is lower than that of all of them; 0 is for an evaluation",
        least,
    )


def _tiling(model: Any, tile: int | None, overlap: int | None) -> dict[str, int]:
    """The arguments of `MaskRCNN.detect` for tiles, {} without; ValueError for invalid ones."""
    if tile is None and overlap is None:
        return {}
    from mrcnn import tiles

    if tile is None:
        raise ValueError(f"overlap goes with tile. Received: overlap={overlap!r} alone")
    tile, overlap = tiles.checked(tile, overlap)
    if not model.config.USE_MASK:
        raise ValueError("objects on seams of tiles are merged by their masks: USE_MASK = True")
    return {"tile": tile, "overlap": overlap}


def _detect(
    model: Any,
    dataset: Dataset,
    image_ids: list[int],
    truth: Truth,
    log: _Log,
    progress: bool,
    tiling: dict[str, int],
) -> tuple[dict[int, list[dict]], list[tuple[int, str]]]:
    """Detects on the images that have no results in the log. tiling: see `_tiling`.

    Returns:
        {image id: COCO results}, and [(image id, reason)] of the images that can't be read.
    """
    results: dict[int, list[dict]] = {}
    unreadable: list[tuple[int, str]] = []
    waiting: list[tuple[int, str, np.ndarray]] = []  # (image id, key, image)
    reused = 0
    start = time.monotonic()

    def detect(batch: list[tuple[int, str, np.ndarray]]) -> None:
        try:
            batch_results = model.detect([image for _, _, image in batch], **tiling)
        except (ValueError, MemoryError) as error:
            # Some image has a size or a number of channels that the settings don't allow.
            if len(batch) == 1:
                reason = f"image {batch[0][0]} ({dataset.image_reference(batch[0][0])}): {error}"
                _report(batch[0][0], reason, unreadable)
            else:
                for single in batch:
                    detect([single])
            return
        for (image_id, key, _), result in zip(batch, batch_results):
            rows = coco_results(truth.image_ids[image_id], result, truth.class_ids)
            log.add(key, rows)
            results[image_id] = rows

    sizes = _sizes_of_masks(truth)
    for done, image_id in enumerate(image_ids, 1):
        image = _readable(dataset, image_id, sizes.get(image_id), unreadable)
        if image is not None:
            key = _image_key(dataset, image_id, image)
            if key in log.done:
                results[image_id] = log.done[key]
                reused += 1
            else:
                waiting.append((image_id, key, image))
        if len(waiting) == model.config.BATCH_SIZE or (waiting and done == len(image_ids)):
            detect(waiting)
            waiting.clear()
        if len(unreadable) == done >= min(len(image_ids), 10):
            raise ValueError(
                f"none of the first {done} images can be read; the first: {unreadable[0][1]}"
            )
        if progress and not waiting:
            utils.show_progress("evaluating", done, len(image_ids), time.monotonic() - start)
    if reused:
        logger.info("%d of %d images had their results already", reused, len(image_ids))
    return results, unreadable


def _sizes_of_masks(truth: Truth) -> dict[int, tuple[int, int]]:
    """{the dataset's image id: (height, width) of its objects' masks}."""
    with_objects = {item["image_id"] for item in truth.data["annotations"]}
    sizes = {}
    for image_id, image in zip(truth.image_ids, truth.data["images"]):
        if image["id"] in with_objects:
            sizes[image_id] = (image["height"], image["width"])
    return sizes


def _readable(
    dataset: Dataset,
    image_id: int,
    size: tuple[int, int] | None,
    unreadable: list[tuple[int, str]],
) -> np.ndarray | None:
    """The image [H, W, channels]; None for one that can't be read, which joins `unreadable`.

    size: (height, width) of its masks, which the image must have too; None for any.
    """
    try:
        image = dataset.load_image(image_id)
    except (OSError, ValueError) as error:
        _report(image_id, str(error) or f"image {image_id}: {type(error).__name__}", unreadable)
        return None
    except Exception as error:  # a user's load_image may raise anything: cv2.imread(p)[..., ::-1]
        name = f"image {image_id} ({dataset.image_reference(image_id)})"
        _report(image_id, f"{name}: {type(error).__name__}: {error}", unreadable)
        return None
    if image is None:
        name = f"image {image_id} ({dataset.image_reference(image_id)})"
        reason = "load_image gave None, as cv2.imread does for a file that it can't read"
        _report(image_id, f"{name}: {reason}", unreadable)
    elif size not in (None, np.shape(image)[:2]):
        name = f"image {image_id} ({dataset.image_reference(image_id)})"
        reason = f"its masks have the size {size}, load_image gave {np.shape(image)[:2]}"
        _report(image_id, f"{name}: {reason}", unreadable)
        return None
    return image


def _report(image_id: int, reason: str, unreadable: list[tuple[int, str]]) -> None:
    """Logs why an image has no detections, and adds it to `unreadable`."""
    logger.warning("%s; its objects count as missed", reason)
    unreadable.append((image_id, reason))
