"""COCO's figures for any `Dataset`, by pycocotools: AP, AR, curves, confusion.

The truth is a dataset's masks. Where `image_info` has "annotations" (dicts as in COCO's json, as
`coco.CocoDataset` and matterport's keep them), it is those themselves, with their own areas, boxes
and ids: the figures then are those of COCOeval on the json. An interrupted evaluation goes on where
it was, see `evaluate`.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import pathlib
import time
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO

import numpy as np

from mrcnn import utils, visualize
from mrcnn.files import atomic
from mrcnn.masks import encode, to_rle
from mrcnn.utils import Dataset

logger = logging.getLogger(__name__)

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
CLASS_FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
KEYPOINT_FIGURES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
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


# ---- Results -------------------------------------------------------------------------------------


@dataclasses.dataclass
class Evaluation:
    """Result of `evaluate`.

    Attributes:
        bbox, segm: {figure: value in 0..1} for each of `FIGURES`, NaN where COCO has none; segm is
            None for a model without masks.
        per_class: {class name: {"bbox AP", "bbox AP50", ... "segm AR100"}}, of `CLASS_FIGURES`.
        images: number of images.
        detections: list of COCO results (dicts) with the ids of the truth.
        seconds: time spent detecting.
        curves: {"bbox", "segm": {"precision": [10 IoUs, 101 recalls, classes], "score": alike, the
            lowest score of each precision, "recall": [10 IoUs, classes]}}, NaN where COCO has none.
        confusion: [classes + 1, classes + 1] int, see `confusion_matrix`.
        truth: a `Truth`.
        keypoints: {figure: value} for each of `KEYPOINT_FIGURES`, by object keypoint similarity;
            None for a model without keypoints.
        unreadable: [(image id, reason)] of images that couldn't be read, whose objects count as
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

    def __repr__(self) -> str:
        figures = [f"{kind} AP {values['AP']:.3f}" for kind, values in self.kinds()]
        counts = [f"{self.images} images", f"{len(self.detections)} detections"]
        if self.unreadable:
            counts.append(f"{len(self.unreadable)} images unreadable")
        return f"Evaluation({', '.join(figures + counts)})"

    def kinds(self) -> list[tuple[str, dict]]:
        """[(kind, its figures)] that were evaluated."""
        kinds = [("bbox", self.bbox)]
        if self.segm:
            kinds.append(("segm", self.segm))
        return [(kind, figures) for kind, figures in kinds if figures]

    def table(self) -> str:
        """The figures by class as text, the last row over all classes."""
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
        """All of COCO's figures as text, a row for each kind; keypoints have their own figures."""
        rows = []
        for kind, figures in self.kinds():
            values = [figures[figure] for figure in FIGURES]
            rows.append((TITLES[kind], values))
        text = _text_table("", FIGURES, rows)
        if self.keypoints:
            row = ("keypoint", list(self.keypoints.values()))
            text += "\n\n" + _text_table("", KEYPOINT_FIGURES, [row])
        return text

    def save(self, folder: Any) -> list[str]:
        """Writes tables, figures, results, curves and pictures. Returns their paths.

        table.txt; figures.json with the confusion matrix; results.json, which pycocotools loads;
        curves.npz, which has "bbox precision" and so on; precision_recall.png; confusion.png; and,
        where the truth was made from masks, truth.json: with it
        `COCO("truth.json").loadRes("results.json")` works.
        """
        folder = pathlib.Path(folder)
        contents = {
            "table.txt": f"{self.table()}\n\n{self.summary()}\n",
            "figures.json": json.dumps(_without_nan(self._figures()), indent=1),
            "results.json": json.dumps(self.detections),
        }
        if self.truth is not None and not self.truth.official:
            contents["truth.json"] = json.dumps(self.truth.data)
        for name, text in contents.items():
            with atomic(folder / name) as temporary:
                pathlib.Path(temporary).write_text(text, encoding="utf-8")
        paths = [str(folder / name) for name in contents]
        if self.curves:
            paths += self._save_curves(folder)
        return paths

    def _figures(self) -> dict:
        """What figures.json holds."""
        figures: dict[str, Any] = {
            "bbox": self.bbox,
            "segm": self.segm,
            "per_class": self.per_class,
            "images": self.images,
            "unreadable": self.unreadable,
        }
        if self.keypoints:
            figures["keypoints"] = self.keypoints
        if self.confusion is not None:
            figures["confusion"] = {
                "classes": self.class_names(),
                "matrix": self.confusion.tolist(),
            }
        return figures

    def _save_curves(self, folder: pathlib.Path) -> list[str]:
        """Writes the curves' numbers and the pictures."""
        arrays = {}
        for kind, curves in self.curves.items():
            for name, array in curves.items():
                arrays[f"{kind} {name}"] = array
        paths = [folder / "curves.npz"]
        with atomic(paths[0]) as temporary:
            np.savez_compressed(temporary, **arrays)
        pictures = {
            "precision_recall.png": self.plot_precision_recall().figure,
            "confusion.png": self.plot_confusion().figure,
        }
        for name, picture in pictures.items():
            with atomic(folder / name) as temporary:
                picture.savefig(temporary, dpi=110)
            paths.append(folder / name)
        return [str(path) for path in paths]

    def class_names(self) -> list[str]:
        """Names of the confusion matrix's rows and columns, background first."""
        return ["background", *self.per_class]

    def plot_precision_recall(
        self,
        kind: str | None = None,
        class_name: str | None = None,
        ax: Any = None,
    ) -> Any:
        """Draws precision over recall at each IoU, the mean over the classes or one class.

        Args:
            kind: "bbox" or "segm"; None for masks, or for boxes where there are none.
            class_name: None for the mean over the classes that have objects.
            ax: matplotlib axes; None for a new figure, which is not shown.

        Returns:
            ax.
        """
        kind = kind or self.kinds()[-1][0]
        precision = self.curves[kind]["precision"]  # [IoUs, recalls, classes]
        if class_name is not None:
            precision = precision[:, :, [list(self.per_class).index(class_name)]]
        precision = precision[:, :, ~np.isnan(precision[0, 0])]
        if ax is None:
            _, (ax,) = visualize.new_figure((5.2, 4.6))
        if precision.shape[2]:
            _plot_curves(ax, precision.mean(axis=2))
            ax.legend(fontsize=7)
        ax.set(
            xlabel="recall",
            ylabel="precision",
            xlim=(0, 1),
            ylim=(0, 1.02),
            title=f"{PLURALS[kind]}, {class_name or 'mean over classes'}",
        )
        ax.grid(alpha=0.3)
        return ax

    def plot_confusion(self, ax: Any = None, most: int = 30) -> Any:
        """Draws the confusion matrix, rows scaled by their sum.

        Args:
            ax: matplotlib axes; None for a new figure, which is not shown.
            most: classes at most, background besides: those that are confused most.

        Returns:
            ax.
        """
        matrix = np.asarray(self.confusion)
        objects = matrix.sum(axis=1)  # of each class; of background the false detections
        detections = matrix.sum(axis=0)
        wrong = objects + detections - 2 * np.diag(matrix)
        used = 1 + np.flatnonzero(objects[1:] + detections[1:])
        most_confused = used[np.argsort(-wrong[used], kind="stable")][:most]
        rows = np.r_[0, np.sort(most_confused)]
        part = matrix[np.ix_(rows, rows)]
        share = part / np.maximum(objects[rows, None], 1)
        if ax is None:
            side = 2.5 + 0.33 * len(rows)
            _, (ax,) = visualize.new_figure((side, side))
        ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
        _write_counts(ax, part, share)
        labels = [self.class_names()[i] for i in rows]
        ax.set_xticks(range(len(rows)), labels, rotation=90, fontsize=8)
        ax.set_yticks(range(len(rows)), labels, fontsize=8)
        title = "objects and detections"
        if len(most_confused) < len(used):
            title += f", {len(most_confused)} of {len(used)} classes"
        ax.set(xlabel="detected as", ylabel="is", title=title)
        return ax


def _plot_curves(ax: Any, precision: np.ndarray) -> None:
    """A line for each of COCO's ten IoUs; precision: [10 IoUs, 101 recalls]."""
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
    """Writes the counts that are not 0 into their cells, light on dark cells."""
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
    """A table of figures; rows: (name, value of each column)."""
    width = max(len(corner), *(len(name) for name, _ in rows))
    heads = "  ".join(f"{column:>9}" for column in columns)
    lines = [f"{corner:{width}}  {heads}"]
    for name, values in rows:
        cells = "  ".join(f"{value:>9.3f}" for value in values)
        lines.append(f"{name:{width}}  {cells}")
    return "\n".join(lines)


def _shade(share: float) -> tuple[float, float, float]:
    """From dark blue to light orange, through what both dark and light paper show."""
    return (0.1 + 0.85 * share, 0.25 + 0.4 * share, 0.65 - 0.45 * share)


def _without_nan(value: Any) -> Any:
    """Figures in which None stands for NaN, which json doesn't have."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, float) and np.isnan(value):
        return None
    return value


def _coco_boxes(boxes: np.ndarray) -> list[list[float]]:
    """[N, (y1, x1, y2, x2)] to a list of [x, y, width, height]."""
    table = np.asarray(boxes, dtype=float).reshape(-1, 4)
    y1, x1, y2, x2 = table.T
    return np.stack([x1, y1, x2 - x1, y2 - y1], axis=1).tolist()


def coco_results(
    image_id: Any,
    result: dict,
    category_ids: dict | None = None,
) -> list[dict]:
    """One image's result of `MaskRCNN.detect` as a list of COCO results.

    Args:
        image_id: the id that the results get.
        result: dict of `detect`.
        category_ids: {class id: category id}, classes that it lacks (those of other sources) are
            left out; None keeps the class ids.
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
        if "keypoints" in result:
            points = np.asarray(result["keypoints"][i], float)
            row["keypoints"] = _coco_points(points[:, :2], np.ones(len(points)))
        rows.append(row)
    return rows


def _coco_points(points: np.ndarray, visibility: np.ndarray) -> list[float]:
    """[K, (y, x)] and visibilities [K] to COCO's [x1, y1, v1, x2, ...]."""
    y, x = points.T
    table = np.stack([x, y, visibility], axis=1)
    return table.astype(float).ravel().tolist()


# ---- Truth ---------------------------------------------------------------------------------------


@dataclasses.dataclass
class Truth:
    """The truth of some images of a dataset in COCO's format.

    Attributes:
        data: a dict as an instances json has it.
        image_ids: {the dataset's image id: id in `data`}.
        class_ids: {the dataset's class id: category id in `data`}.
        official: whether `data` has the annotations of a json with its own ids, or was made from
            masks.
    """

    data: dict
    image_ids: dict
    class_ids: dict
    official: bool

    def __repr__(self) -> str:
        annotations = len(self.data.get("annotations", ()))
        return f"Truth({len(self.image_ids)} images, {annotations} objects)"

    def coco(self) -> Any:
        """A new pycocotools COCO object: COCOeval edits the annotations of the one it is given."""
        annotations = [dict(annotation) for annotation in self.data["annotations"]]
        return _coco({**self.data, "annotations": annotations})


def _coco(data: dict) -> Any:
    """A pycocotools COCO object of an instances json's contents."""
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = data
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _ids(dataset: Dataset, image_ids: Iterable[int] | None) -> list[int]:
    """The image ids that were asked for, or all."""
    if image_ids is None:
        image_ids = dataset.image_ids
    return [int(image_id) for image_id in image_ids]


def ground_truth(
    dataset: Dataset,
    image_ids: Iterable[int] | None = None,
    keypoints: bool = False,
) -> Truth:
    """The `Truth` of a dataset: its json's annotations where it keeps them, or its masks.

    With `keypoints` those of a json or of `load_keypoints` are part of it.
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
    # Ids of several files may be the same for different images.
    if len({info["id"] for info in infos}) < len(infos):
        return False
    if not all(isinstance(info["id"], (int, np.integer)) for info in infos):
        return False
    (source,) = {info["source"] for info in infos}
    known = {info["id"] for info in _categories(dataset, source).values()}
    used = {annotation["category_id"] for info in infos for annotation in info["annotations"]}
    return used <= known


def _is_annotated(info: dict) -> bool:
    """Whether an image's info has its size and annotations in COCO's format."""
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
    """{class id: its info} of a source's classes."""
    classes = enumerate(dataset.class_info)
    return {class_id: info for class_id, info in classes if info["source"] == source}


def _annotated_truth(dataset: Dataset, image_ids: list[int]) -> Truth:
    """Truth of images that keep annotations in COCO's format."""
    infos = [dataset.image_info[image_id] for image_id in image_ids]
    images: list[dict] = []
    annotations: list[dict] = []
    for info in infos:
        own_id = int(info["id"])
        images.append(
            {
                "id": own_id,
                "height": int(info["height"]),
                "width": int(info["width"]),
            }
        )
        for annotation in info["annotations"]:
            number = len(annotations) + 1
            annotations.append(
                {
                    "iscrowd": 0,
                    **annotation,
                    "image_id": own_id,
                    "id": number,
                }
            )
    class_ids = {}
    categories = []
    for class_id, info in _categories(dataset, infos[0]["source"]).items():
        class_ids[class_id] = info["id"]
        categories.append({"id": info["id"], "name": dataset.class_names[class_id]})
    data = {
        "info": {},
        "annotations": annotations,
        "images": images,
        "categories": categories,
    }
    own_ids = [image["id"] for image in images]
    return Truth(data, dict(zip(image_ids, own_ids)), class_ids, official=True)


def _mask_truth(
    dataset: Dataset,
    image_ids: list[int],
    keypoints: bool = False,
) -> Truth:
    """Truth from `load_mask`; class ids below zero become crowds."""
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id in image_ids:
        masks, class_ids = dataset.load_mask(image_id)
        shape = masks.shape
        if not masks.shape[2]:
            shape = dataset.load_image(image_id).shape
        images.append(
            {
                "id": image_id,
                "height": int(shape[0]),
                "width": int(shape[1]),
            }
        )
        objects = _annotations_of(masks, class_ids)
        if keypoints:
            _add_keypoints(objects, dataset.load_keypoints(image_id))
        for annotation in objects:
            number = len(annotations) + 1
            annotations.append(
                {
                    "id": number,
                    "image_id": image_id,
                    **annotation,
                }
            )
    categories = []
    category_ids = {}
    for i, name in enumerate(dataset.class_names[1:], 1):
        categories.append({"id": i, "name": name})
        category_ids[i] = i
    data = {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    return Truth(data, {i: i for i in image_ids}, category_ids, official=False)


def _annotations_of(masks: np.ndarray, class_ids: np.ndarray) -> list[dict]:
    """Annotations of the masks of one image, without ids."""
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


def _add_keypoints(annotations: list[dict], keypoints: np.ndarray) -> None:
    """Gives annotations their keypoints, [N, K, (y, x, visibility)]."""
    for annotation, points in zip(annotations, keypoints):
        points = np.asarray(points)
        visibility = points[:, 2]
        annotation["keypoints"] = _coco_points(points[:, :2], visibility)
        annotation["num_keypoints"] = int(np.count_nonzero(visibility > 0))


def coco_ground_truth(dataset: Dataset, image_ids: Iterable[int] | None) -> Any:
    """A pycocotools COCO object of a dataset's truth, see `ground_truth`."""
    return ground_truth(dataset, image_ids).coco()


# ---- Figures -------------------------------------------------------------------------------------


def _cocoeval(
    truth: Truth,
    detections: list[dict],
    kind: str,
    sigmas: Sequence[float] | None = None,
) -> Any:
    """A COCOeval that has run; sigmas: [K] of keypoints, None for COCO's."""
    from pycocotools.cocoeval import COCOeval

    # A row with more than one of these would take its area from the box; COCO takes a mask's or the
    # points' own.
    shapes = {
        "bbox": "bbox",
        "segm": "segmentation",
        "keypoints": "keypoints",
    }
    others = set(shapes.values()) - {shapes[kind]}
    rows = [_without(row, others) for row in detections]
    coco = truth.coco()
    with contextlib.redirect_stdout(io.StringIO()):
        if rows:
            results = coco.loadRes(rows)
        else:
            results = _coco({**truth.data, "annotations": []})
        run = COCOeval(coco, results, kind)
        if sigmas is not None:
            run.params.kpt_oks_sigmas = np.asarray(sigmas, float)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


def _without(row: dict, keys: set[str]) -> dict:
    """A copy of a row without some of its keys."""
    return {key: value for key, value in row.items() if key not in keys}


def _mean(values: np.ndarray) -> float:
    """Mean of what is known: COCO writes -1 where it has no value. NaN without any."""
    known = values[values > -1]
    if not known.size:
        return float("nan")
    return float(known.mean())


def _overall_figures(run: Any, names: Sequence[str]) -> dict[str, float]:
    """{figure: value} over all classes of a COCOeval, NaN where it writes -1."""
    figures = {}
    for name, value in zip(names, run.stats):
        figures[name] = float(value)
        if value < 0:
            figures[name] = float("nan")
    return figures


def _class_figures(run: Any, column: int) -> dict[str, float]:
    """{figure: value} of `CLASS_FIGURES` for one class of a COCOeval."""
    precision = run.eval["precision"][:, :, column, :, -1]  # [IoUs, recalls, areas]
    recall = run.eval["recall"][:, column, :, -1]  # [IoUs, areas]
    return {
        "AP": _mean(precision[:, :, 0]),
        "AP50": _mean(precision[0, :, 0]),
        "AP75": _mean(precision[5, :, 0]),
        "APs": _mean(precision[:, :, 1]),
        "APm": _mean(precision[:, :, 2]),
        "APl": _mean(precision[:, :, 3]),
        "AR100": _mean(recall[:, 0]),
    }


def _curves(run: Any) -> dict[str, np.ndarray]:
    """The curves of a COCOeval, see `Evaluation`."""
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
    """Which objects are detected as what.

    Detections of at least the score are taken best first; each takes the free object, of whatever
    class, that it overlaps most, from the IoU threshold on. What is left lies in row 0 (detections
    without an object) and column 0 (objects without a detection). Crowds are no objects, and
    detections that lie in one are left out.

    Args:
        truth: a `Truth`.
        detections: COCO results with its ids.
        kind: "segm" or "bbox"; None for masks where all results have them.

    Returns:
        [classes + 1, classes + 1] int: row the object's class, column the detection's, in the order
        of the truth's categories, background first.
    """
    if kind is None:
        kind = "bbox"
        if detections and all("segmentation" in row for row in detections):
            kind = "segm"
    categories = truth.data["categories"]
    column = {category["id"]: i for i, category in enumerate(categories, 1)}
    matrix = np.zeros((len(column) + 1, len(column) + 1), np.int64)
    sure = [row for row in detections if row["score"] >= score_threshold]
    rows_of = _by_image(truth, sure)
    objects_of = _by_image(truth, truth.data["annotations"])
    for image in truth.data["images"]:
        rows = sorted(rows_of[image["id"]], key=_descending_score)
        objects = objects_of[image["id"]]
        overlaps = _overlaps(rows, objects, kind, (image["height"], image["width"]))
        for row, matched in _pairs(rows, objects, overlaps, iou_threshold):
            matrix[_place(matched, column), _place(row, column)] += 1
    return matrix


def _descending_score(row: dict) -> float:
    return -row["score"]


def _place(item: dict | None, column: dict[int, int]) -> int:
    """Row or column of an object's or a detection's class; 0 for None."""
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
    """IoU [rows, objects]; of a crowd the share of the detection that lies in it."""
    from pycocotools import mask as coco_mask

    if not rows or not objects:
        return np.zeros((len(rows), len(objects)))
    crowd = _crowds(objects).astype(np.uint8)
    if kind == "segm":
        codes = [to_rle(row, *size) for row in rows]
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
    """(detection, object) of one image, None for what has no partner; see `confusion_matrix`.

    Args:
        rows: detections, best first.
        overlaps: [rows, objects].
    """
    crowd = _crowds(objects)
    free = ~crowd
    pairs: list[tuple[dict | None, dict | None]] = []
    for row, overlap in zip(rows, overlaps):
        fits = np.flatnonzero(free & (overlap >= iou_threshold))
        if fits.size:
            best = fits[overlap[fits].argmax()]
            free[best] = False
            pairs.append((row, objects[best]))
        elif not (overlap[crowd] >= iou_threshold).any():
            pairs.append((row, None))
    for i in np.flatnonzero(free):
        pairs.append((None, objects[i]))
    return pairs


def _keypoint_figures(
    dataset: Dataset, truth: Truth, detections: list[dict]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """{figure: value} of `KEYPOINT_FIGURES` and {class: {"keypoints AP", "keypoints AP50"}}."""
    sigmas = getattr(dataset, "keypoint_sigmas", None)
    count = 17
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
    # Objects without keypoints are no part of the measure.
    blank = {"keypoints": [0] * 3 * count, "num_keypoints": 0}
    filled = []
    for annotation in annotations:
        if not annotation.get("keypoints"):
            annotation = {**annotation, **blank}
        filled.append(annotation)
    truth = dataclasses.replace(truth, data={**truth.data, "annotations": filled})
    run = _cocoeval(truth, detections, "keypoints", sigmas)
    names = _category_names(truth)
    precision = run.eval["precision"][:, :, :, 0, -1]  # [IoUs, recalls, classes]
    per_class = {}
    for i, category_id in enumerate(run.params.catIds):
        per_class[names[category_id]] = {
            "keypoints AP": _mean(precision[:, :, i]),
            "keypoints AP50": _mean(precision[0, :, i]),
        }
    return _overall_figures(run, KEYPOINT_FIGURES), per_class


def _category_names(truth: Truth) -> dict[int, str]:
    """{category id: name}."""
    return {category["id"]: category["name"] for category in truth.data["categories"]}


def evaluate_detections(
    dataset: Dataset,
    detections: list[dict],
    image_ids: Iterable[int] | None = None,
    masks: bool = True,
    seconds: float = 0.0,
    truth: Truth | None = None,
    keypoints: bool = False,
) -> Evaluation:
    """COCO's figures of stored detections.

    Args:
        dataset: prepared `Dataset`.
        detections: list of COCO results, with the ids of the dataset's json where it keeps
            annotations (see the top of this module), otherwise with the dataset's own image and
            class ids.
        image_ids: of the dataset; None for all.
        masks: evaluate masks as well as boxes.
        truth: `Truth` of these images, if it is at hand.
        keypoints: evaluate keypoints too, with COCO's tolerances or, for other keypoints than a
            person's 17, those of the dataset's attribute `keypoint_sigmas`.

    Returns:
        Evaluation.

    Raises:
        ValueError: detections of images that are not among these.
    """
    ids = _ids(dataset, image_ids)
    truth = truth or ground_truth(dataset, ids, keypoints)
    strangers = {row["image_id"] for row in detections} - set(truth.image_ids.values())
    if strangers:
        raise ValueError(
            "detections belong to the images that are evaluated. Received: image_id"
            f" {sorted(strangers)[:5]}"
        )
    names = _category_names(truth)
    per_class: dict[str, dict[str, float]] = {name: {} for name in names.values()}
    overall = {}
    curves = {}
    kinds = ["bbox"]
    if masks:
        kinds.append("segm")
    for kind in kinds:
        run = _cocoeval(truth, detections, kind)
        overall[kind] = _overall_figures(run, FIGURES)
        curves[kind] = _curves(run)
        for column, category_id in enumerate(run.params.catIds):
            figures = _class_figures(run, column)
            for figure, value in figures.items():
                per_class[names[category_id]][f"{kind} {figure}"] = value
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
    )
    if keypoints:
        evaluation.keypoints, by_class = _keypoint_figures(dataset, truth, detections)
        for name, figures in by_class.items():
            per_class[name].update(figures)
    return evaluation


# ---- Running a model over a dataset --------------------------------------------------------------


class _Log:
    """Results so far as lines of json, one for each image: an interrupted evaluation goes on there.

    Args:
        path: the file; None keeps nothing.
        key: what the results depend on; a file of another key is begun anew.

    Attributes:
        done: {image's name: its COCO results}.
    """

    def __init__(self, path: Any, key: str | None):
        self.done: dict[str, list[dict]] = {}
        self._file: BinaryIO | None = None
        if path is None:
            return
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        end = self._read(path, key)
        self._file = open(path, "r+b")  # noqa: SIM115  closed by `close`
        # What a killed program wrote of a line is cut off.
        self._file.truncate(end)
        self._file.seek(end)
        if not end:
            self._write({"mrcnn_evaluation": key})

    def _read(self, path: pathlib.Path, key: str | None) -> int:
        """Reads the results of a file of the same key; bytes of its whole lines, 0 for another."""
        with open(path, "rb") as file:
            head = file.readline()
            if not head:
                return 0
            entry = _entry(head)
            if entry is None or entry.get("mrcnn_evaluation") != key:
                logger.warning(
                    "%s has results of other weights, settings or classes; it is begun anew", path
                )
                return 0
            end = len(head)
            for line in file:
                entry = _entry(line)
                if entry is None:
                    break
                self.done[entry["image"]] = entry["results"]
                end += len(line)
        return end

    def _write(self, entry: dict) -> None:
        if self._file is not None:
            self._file.write(json.dumps(entry).encode() + b"\n")
            self._file.flush()

    def add(self, name: str, results: list[dict]) -> None:
        """Takes the results of one image."""
        self.done[name] = results
        self._write({"image": name, "results": results})

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()


def _entry(line: bytes) -> dict | None:
    """What a line of a `_Log` holds; None for one that is cut off or none of its lines."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    if not isinstance(entry, dict):
        return None
    return entry


def _key(model: Any, dataset: Dataset) -> str:
    """Digest of what detections depend on: weights, settings, classes."""
    digest = hashlib.sha256()
    for variable in getattr(getattr(model, "keras_model", None), "weights", ()):
        digest.update(np.ascontiguousarray(variable).data)
    settings = {}
    for name, value in model.config.to_dict().items():
        if name not in ("IMAGES_PER_GPU", "GPU_COUNT", "BATCH_SIZE"):
            settings[name] = str(getattr(value, "__name__", value))
    text = json.dumps([settings, dataset.class_info], sort_keys=True, default=str)
    digest.update(text.encode())
    return digest.hexdigest()


def _name(dataset: Dataset, image_id: int) -> str:
    """An image's name in a `_Log`."""
    info = dataset.image_info[image_id]
    return f"{info['source']}.{info['id']}"


def evaluate(
    model: Any,
    dataset: Dataset,
    image_ids: Iterable[int] | None = None,
    progress: bool = True,
    resume: Any = None,
) -> Evaluation:
    """Detects on a dataset's images and returns COCO's figures, an `Evaluation`.

    The masks of a batch are run-length encoded as they come; no more are in memory. An image that
    can't be read is reported, and its objects count as missed.

    Args:
        model: `MaskRCNN` in inference mode.
        dataset: prepared `Dataset`.
        image_ids: None for all.
        progress: draw a bar with images per second on stderr.
        resume: a file that takes the results so far. An evaluation of the same weights, settings
            and classes goes on there, on these or other images.

    Raises:
        ValueError: no images, or none that can be read; classes that the model doesn't have.
    """
    ids = _ids(dataset, image_ids)
    if not ids:
        raise ValueError("an evaluation needs images. Received: none")
    if dataset.num_classes != model.config.NUM_CLASSES:
        raise ValueError(
            f"NUM_CLASSES of the model is the dataset's {dataset.num_classes}, background included."
            f" Received: {model.config.NUM_CLASSES}"
        )
    truth = ground_truth(dataset, ids, model.config.USE_KEYPOINTS)
    key = None
    if resume is not None:
        key = _key(model, dataset)
    log = _Log(resume, key)
    start = time.monotonic()
    try:
        unreadable = _detect(model, dataset, ids, truth, log, resume, progress)
    finally:
        log.close()
    detections = []
    for image_id in ids:
        detections += log.done.get(_name(dataset, image_id), [])
    evaluation = evaluate_detections(
        dataset,
        detections,
        ids,
        masks=model.config.USE_MASK,
        seconds=time.monotonic() - start,
        truth=truth,
        keypoints=model.config.USE_KEYPOINTS,
    )
    evaluation.unreadable = unreadable
    return evaluation


def _detect(
    model: Any,
    dataset: Dataset,
    image_ids: list[int],
    truth: Truth,
    log: _Log,
    resume: Any,
    progress: bool,
) -> list[tuple[int, str]]:
    """Detects on the images that the log has no results of; [(image id, reason)] of unreadable."""
    left = [image_id for image_id in image_ids if _name(dataset, image_id) not in log.done]
    if len(left) < len(image_ids):
        logger.info(
            "%d of %d images have results in %s", len(image_ids) - len(left), len(image_ids), resume
        )
    unreadable: list[tuple[int, str]] = []
    start = time.monotonic()
    size = model.config.BATCH_SIZE
    for first in range(0, len(left), size):
        batch = left[first : first + size]
        images = _readable(dataset, batch, unreadable)
        enough_to_tell = len(unreadable) >= min(len(image_ids), 10)
        if not log.done and not images and enough_to_tell:
            raise ValueError(
                f"none of the first {len(unreadable)} images can be read; the first:"
                f" {unreadable[0][1]}"
            )
        results = []
        if images:
            results = model.detect(list(images.values()))
        for image_id, result in zip(images, results):
            rows = coco_results(truth.image_ids[image_id], result, truth.class_ids)
            log.add(_name(dataset, image_id), rows)
        if progress:
            done = first + len(batch)
            utils.show_progress("evaluating", done, len(left), time.monotonic() - start)
    return unreadable


def _readable(
    dataset: Dataset,
    image_ids: list[int],
    unreadable: list[tuple[int, str]],
) -> dict[int, np.ndarray]:
    """{image id: image} of those that can be read; the others are added to `unreadable`."""
    images = {}
    for image_id in image_ids:
        try:
            images[image_id] = dataset.load_image(image_id)
        except (OSError, ValueError) as error:
            logger.warning("%s; its objects count as missed", error)
            unreadable.append((image_id, str(error)))
    return images
