"""COCO's figures for any `Dataset`, by pycocotools: AP, AR, curves, confusion; evaluations that can
be taken up.

The truth is a dataset's masks. Where `image_info` has "annotations" (dicts as in COCO's json, as
`coco.CocoDataset` and matterport's keep them), it is those themselves, with their own areas, boxes
and ids: the figures then are those of COCOeval on the json.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import pathlib
import time

import numpy as np

from mrcnn import utils
from mrcnn.masks import encode, to_rle
from mrcnn.weights import atomic

logger = logging.getLogger(__name__)

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
CLASS_FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
KEYPOINT_FIGURES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
TITLES = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}


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
    truth: object = None
    unreadable: list = dataclasses.field(default_factory=list)
    keypoints: dict | None = None

    def kinds(self):
        """[(kind, its figures)] that were evaluated."""
        return [
            (kind, figures)
            for kind, figures in (("bbox", self.bbox), ("segm", self.segm))
            if figures
        ]

    def table(self):
        """The figures by class as text, the last row over all classes."""
        kinds = self.kinds() + ([("keypoints", self.keypoints)] if self.keypoints else [])
        columns = [(kind, figure) for kind, _ in kinds for figure in ("AP", "AP50")]
        rows = [
            (name, [figures[f"{kind} {figure}"] for kind, figure in columns])
            for name, figures in self.per_class.items()
        ]
        rows.append(("all", [dict(kinds)[kind][figure] for kind, figure in columns]))
        return _text_table("class", [f"{TITLES[kind]} {figure}" for kind, figure in columns], rows)

    def summary(self):
        """All of COCO's figures as text, a row for boxes and one for masks; keypoints have their
        own figures."""
        text = _text_table(
            "",
            list(FIGURES),
            [
                (TITLES[kind], [figures[figure] for figure in FIGURES])
                for kind, figures in self.kinds()
            ],
        )
        if self.keypoints:
            text += "\n\n" + _text_table(
                "", list(KEYPOINT_FIGURES), [("keypoint", list(self.keypoints.values()))]
            )
        return text

    def save(self, folder):
        """Writes tables, figures, results (which pycocotools loads), curves and pictures. Returns
        their paths.

        table.txt; figures.json with the confusion matrix; results.json; curves.npz, which has "bbox
        precision" and so on; precision_recall.png; confusion.png; and, where the truth was made
        from masks, truth.json: with it `COCO("truth.json").loadRes("results.json")` works.
        """
        folder = pathlib.Path(folder)
        figures = {
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
        contents = {
            "table.txt": f"{self.table()}\n\n{self.summary()}\n",
            "figures.json": json.dumps(_without_nan(figures), indent=1),
            "results.json": json.dumps(self.detections),
        }
        if self.truth is not None and not self.truth.official:
            contents["truth.json"] = json.dumps(self.truth.data)
        for name, text in contents.items():
            with atomic(folder / name) as temporary:
                pathlib.Path(temporary).write_text(text, encoding="utf-8")
        paths = [str(folder / name) for name in contents]
        if self.curves:
            arrays = {
                f"{kind} {name}": array
                for kind, curves in self.curves.items()
                for name, array in curves.items()
            }
            with atomic(folder / "curves.npz") as temporary:
                np.savez_compressed(temporary, **arrays)
            paths.append(str(folder / "curves.npz"))
            for name, plot in (
                ("precision_recall.png", self.plot_precision_recall),
                ("confusion.png", self.plot_confusion),
            ):
                with atomic(folder / name) as temporary:
                    plot().figure.savefig(temporary, dpi=110)
                paths.append(str(folder / name))
        return paths

    def class_names(self):
        """Names of the confusion matrix's rows and columns, background first."""
        return ["background", *self.per_class]

    def plot_precision_recall(self, kind=None, class_name=None, ax=None):
        """Draws precision over recall at each IoU, the mean over the classes or one class.

        Args:
            kind: "bbox" or "segm"; None for masks, or for boxes where there are none.
            class_name: None for the mean over the classes that have objects.
            ax: matplotlib axes; None for a new figure, which is not shown.

        Returns:
            ax.
        """
        kind = kind or self.kinds()[-1][0]
        precision = self.curves[kind]["precision"]
        if class_name is not None:
            precision = precision[:, :, [list(self.per_class).index(class_name)]]
        precision = precision[:, :, ~np.isnan(precision[0, 0])]
        ax = _new_axes((5.2, 4.6)) if ax is None else ax
        for i, iou in enumerate(np.arange(0.5, 1, 0.05)):
            if precision.shape[2]:
                curve = precision[i].mean(axis=1)
                ax.plot(
                    np.linspace(0, 1, 101),
                    curve,
                    color=_shade(i / 9),
                    linewidth=1.3,
                    label=f"IoU {iou:.2f}: AP {curve.mean():.3f}",
                )
        ax.set(
            xlabel="recall",
            ylabel="precision",
            xlim=(0, 1),
            ylim=(0, 1.02),
            title=f"{TITLES[kind]}es, ".replace("maskes", "masks")
            + (class_name or "mean over classes"),
        )
        ax.grid(alpha=0.3)
        if precision.shape[2]:
            ax.legend(fontsize=7)
        return ax

    def plot_confusion(self, ax=None, most=30):
        """Draws the confusion matrix, rows scaled by their sum; of many classes those that are
        confused most.

        Args:
            ax: matplotlib axes; None for a new figure, which is not shown.
            most: classes at most, background besides.

        Returns:
            ax.
        """
        matrix, names = self.confusion, self.class_names()
        used = np.flatnonzero(matrix[1:].sum(axis=1) + matrix[:, 1:].sum(axis=0)) + 1
        wrong = matrix.sum(axis=1) + matrix.sum(axis=0) - 2 * np.diag(matrix)
        chosen = np.sort(used[np.argsort(-wrong[used], kind="stable")][:most])
        rows = np.r_[0, chosen]
        part = matrix[np.ix_(rows, rows)]
        share = part / np.maximum(matrix[rows].sum(axis=1, keepdims=True), 1)
        side = 2.5 + 0.33 * len(rows)
        ax = _new_axes((side, side)) if ax is None else ax
        ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for i, j in np.argwhere(part):
            ax.text(
                j,
                i,
                part[i, j],
                ha="center",
                va="center",
                fontsize=6 if len(rows) > 12 else 8,
                color="white" if share[i, j] > 0.5 else "black",
            )
        labels = [names[i] for i in rows]
        ax.set_xticks(range(len(rows)), labels, rotation=90, fontsize=8)
        ax.set_yticks(range(len(rows)), labels, fontsize=8)
        title = "objects and detections" + (
            f", {len(chosen)} of {len(used)} classes" if len(chosen) < len(used) else ""
        )
        ax.set(xlabel="detected as", ylabel="is", title=title)
        return ax


def _text_table(corner, columns, rows):
    width = max(len(name) for name, _ in [(corner, 0), *rows])
    lines = [f"{corner:{width}}  " + "  ".join(f"{column:>9}" for column in columns)]
    lines += [
        f"{name:{width}}  " + "  ".join(f"{value:>9.3f}" for value in values)
        for name, values in rows
    ]
    return "\n".join(lines)


def _new_axes(size):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="tight")
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def _shade(share):
    """From dark blue to light orange, through what both dark and light paper show."""
    return (0.1 + 0.85 * share, 0.25 + 0.4 * share, 0.65 - 0.45 * share)


def _without_nan(value):
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value


def _coco_boxes(boxes):
    """[N, (y1, x1, y2, x2)] to a list of [x, y, width, height]."""
    boxes = np.asarray(boxes, dtype=float).reshape(-1, 4)
    return np.stack(
        [boxes[:, 1], boxes[:, 0], boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]], axis=1
    ).tolist()


def coco_results(image_id, result, category_ids=None):
    """One image's result of `MaskRCNN.detect` as a list of COCO results.

    Args:
        image_id: the id that the results get.
        result: dict of `detect`.
        category_ids: {class id: category id}, classes that it lacks (those of other sources) are
            left out; None keeps the class ids.
    """
    codes = (
        encode(result["masks"]) if result["masks"] is not None and len(result["scores"]) else None
    )
    rows = []
    for i, box in enumerate(_coco_boxes(result["rois"])):
        class_id = int(result["class_ids"][i])
        if category_ids is not None and class_id not in category_ids:
            continue
        row = {
            "image_id": image_id if isinstance(image_id, str) else int(image_id),
            "category_id": class_id if category_ids is None else category_ids[class_id],
            "bbox": box,
            "score": float(result["scores"][i]),
        }
        if codes:
            row["segmentation"] = codes[i]
        if "keypoints" in result:
            row["keypoints"] = [
                float(value) for y, x, _ in result["keypoints"][i] for value in (x, y, 1)
            ]
        rows.append(row)
    return rows


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

    def coco(self):
        """A new pycocotools COCO object: COCOeval edits the annotations, so that each evaluation
        needs its own."""
        return _coco(
            {**self.data, "annotations": [dict(each) for each in self.data["annotations"]]}
        )


def _coco(data):
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = data
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def ground_truth(dataset, image_ids=None, keypoints=False):
    """The `Truth` of a dataset: its json's own annotations where it keeps them, otherwise its
    masks.

    With `keypoints` those of a json or of `load_keypoints` are part of it.
    """
    image_ids = [
        int(image_id) for image_id in (dataset.image_ids if image_ids is None else image_ids)
    ]
    return _annotated_truth(dataset, image_ids) or _mask_truth(dataset, image_ids, keypoints)


def _annotated_truth(dataset, image_ids):
    """Truth of a dataset that keeps annotations in COCO's format, or None."""
    infos = [dataset.image_info[image_id] for image_id in image_ids]
    fields = {"segmentation", "category_id", "area", "bbox"}
    for info in infos:
        if (
            not isinstance(info.get("annotations"), list)
            or "height" not in info
            or "width" not in info
        ):
            return None
        if not all(
            isinstance(each, dict) and fields <= each.keys() for each in info["annotations"]
        ):
            return None
    sources = {info["source"] for info in infos}
    own = [info["id"] for info in infos]
    if (
        len(sources) != 1
        or len(set(own)) < len(own)
        or not all(isinstance(each, (int, np.integer)) for each in own)
    ):
        return None  # ids of several files may be the same for different images
    (source,) = sources
    categories = {
        index: info for index, info in enumerate(dataset.class_info) if info["source"] == source
    }
    known = {info["id"] for info in categories.values()}
    annotations = [
        {"iscrowd": 0, **each, "image_id": int(info["id"]), "id": number}
        for number, (info, each) in enumerate(
            ((info, each) for info in infos for each in info["annotations"]), 1
        )
    ]
    if not {each["category_id"] for each in annotations} <= known:
        return None
    data = {
        "info": {},
        "annotations": annotations,
        "images": [
            {"id": int(info["id"]), "height": int(info["height"]), "width": int(info["width"])}
            for info in infos
        ],
        "categories": [
            {"id": info["id"], "name": dataset.class_names[index]}
            for index, info in categories.items()
        ],
    }
    return Truth(
        data,
        dict(zip(image_ids, map(int, own))),
        {index: info["id"] for index, info in categories.items()},
        True,
    )


def _mask_truth(dataset, image_ids, keypoints=False):
    """Truth from `load_mask`; class ids below zero become crowds."""
    from pycocotools import mask as coco_mask

    images, annotations = [], []
    for image_id in image_ids:
        masks, class_ids = dataset.load_mask(image_id)
        height, width = (
            masks.shape[:2] if masks.shape[2] else dataset.load_image(image_id).shape[:2]
        )
        images.append({"id": image_id, "height": int(height), "width": int(width)})
        boxes = _coco_boxes(utils.extract_bboxes(masks)) if masks.shape[2] else []
        for box, code, class_id in zip(boxes, encode(masks), class_ids):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "bbox": box,
                    "category_id": abs(int(class_id)),
                    "segmentation": code,
                    "area": float(coco_mask.area(code)),
                    "iscrowd": int(class_id < 0),
                }
            )
        for annotation, points in zip(
            annotations[len(annotations) - len(boxes) :],
            dataset.load_keypoints(image_id) if keypoints else (),
        ):
            annotation["keypoints"] = [
                float(v) for y, x, visibility in points for v in (x, y, visibility)
            ]
            annotation["num_keypoints"] = sum(int(visibility > 0) for *_, visibility in points)
    data = {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(dataset.class_names) if i],
    }
    return Truth(
        data, {i: i for i in image_ids}, {i: i for i in range(1, len(dataset.class_names))}, False
    )


def coco_ground_truth(dataset, image_ids):
    """A pycocotools COCO object of a dataset's truth, see `ground_truth`."""
    return ground_truth(dataset, image_ids).coco()


# ---- Figures -------------------------------------------------------------------------------------


def _cocoeval(truth, detections, kind, sigmas=None):
    """A COCOeval that has run; sigmas: [K] of keypoints, None for COCO's."""
    from pycocotools.cocoeval import COCOeval

    # A row with more than one of these would take its area from the box; COCO takes a mask's or the
    # points' own.
    drop = {"bbox", "segmentation", "keypoints"} - {kind if kind != "segm" else "segmentation"}
    rows = [{key: value for key, value in row.items() if key not in drop} for row in detections]
    coco = truth.coco()
    with contextlib.redirect_stdout(io.StringIO()):
        found = coco.loadRes(rows) if rows else _coco({**truth.data, "annotations": []})
        run = COCOeval(coco, found, kind)
        if sigmas is not None:
            run.params.kpt_oks_sigmas = np.asarray(sigmas, float)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


def _mean(values):
    """Mean of what is known: COCO writes -1 where it has no value. NaN without any."""
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")


def _class_figures(run, column):
    """{figure: value} of `CLASS_FIGURES` for one class of a COCOeval."""
    precision, recall = (
        run.eval["precision"][:, :, column, :, -1],
        run.eval["recall"][:, column, :, -1],
    )
    areas = [_mean(precision[:, :, area]) for area in range(4)]
    return dict(
        zip(
            CLASS_FIGURES,
            [
                areas[0],
                _mean(precision[0, :, 0]),
                _mean(precision[5, :, 0]),
                *areas[1:],
                _mean(recall[:, 0]),
            ],
        )
    )


def confusion_matrix(truth, detections, iou_threshold=0.5, score_threshold=0.5, kind=None):
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
    from pycocotools import mask as coco_mask

    order = {category["id"]: i for i, category in enumerate(truth.data["categories"], 1)}
    matrix = np.zeros((len(order) + 1, len(order) + 1), np.int64)
    kind = kind or (
        "segm" if detections and all("segmentation" in row for row in detections) else "bbox"
    )
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth.data["images"]}
    objects, found = {image_id: [] for image_id in sizes}, {image_id: [] for image_id in sizes}
    for each in truth.data["annotations"]:
        objects[each["image_id"]].append(each)
    for row in detections:
        if row["score"] >= score_threshold:
            found[row["image_id"]].append(row)
    for image_id, size in sizes.items():
        rows, there = sorted(found[image_id], key=lambda row: -row["score"]), objects[image_id]
        crowd = np.array([bool(each["iscrowd"]) for each in there], bool)
        if rows and there:
            if kind == "segm":
                pairs = [[to_rle(each, *size) for each in side] for side in (rows, there)]
            else:
                pairs = [np.array([each["bbox"] for each in side], float) for side in (rows, there)]
            overlaps = np.asarray(coco_mask.iou(*pairs, crowd.astype(np.uint8)))
        else:
            overlaps = np.zeros((len(rows), len(there)))
        free = ~crowd
        for row, overlap in zip(rows, overlaps):
            fits = np.where(free, overlap, -1)
            best = fits.argmax() if fits.size else None
            if best is not None and fits[best] >= iou_threshold:
                free[best] = False
                matrix[order[there[best]["category_id"]], order[row["category_id"]]] += 1
            elif not (overlap[crowd] >= iou_threshold).any():
                matrix[0, order[row["category_id"]]] += 1
        for i in np.flatnonzero(free):
            matrix[order[there[i]["category_id"]], 0] += 1
    return matrix


def _keypoint_figures(dataset, truth, detections):
    """{figure: value} of `KEYPOINT_FIGURES` and {class: {"keypoints AP", "keypoints AP50"}}."""
    sigmas = getattr(dataset, "keypoint_sigmas", None)
    counts = {
        len(each["keypoints"]) // 3 for each in truth.data["annotations"] if each.get("keypoints")
    }
    counts |= {len(row.get("keypoints", ())) // 3 for row in detections}
    if counts - {17 if sigmas is None else len(sigmas)}:
        raise ValueError(
            "keypoints are COCO's 17 unless the dataset has `keypoint_sigmas`, the tolerance of"
            f" each as a share of the object's size. Received: {sorted(counts)} keypoints, sigmas"
            f" {sigmas}"
        )
    # Objects without keypoints are no part of the measure.
    blank = {"keypoints": [0] * 3 * (17 if sigmas is None else len(sigmas)), "num_keypoints": 0}
    annotations = [
        each if each.get("keypoints") else {**each, **blank} for each in truth.data["annotations"]
    ]
    truth = dataclasses.replace(truth, data={**truth.data, "annotations": annotations})
    run = _cocoeval(truth, detections, "keypoints", sigmas)
    precision, names = (
        run.eval["precision"][:, :, :, 0, -1],
        {each["id"]: each["name"] for each in truth.data["categories"]},
    )
    per_class = {
        names[class_id]: {
            "keypoints AP": _mean(precision[:, :, i]),
            "keypoints AP50": _mean(precision[0, :, i]),
        }
        for i, class_id in enumerate(run.params.catIds)
    }
    return {
        figure: float(value) if value >= 0 else float("nan")
        for figure, value in zip(KEYPOINT_FIGURES, run.stats)
    }, per_class


def evaluate_detections(
    dataset, detections, image_ids=None, masks=True, seconds=0.0, truth=None, keypoints=False
):
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
    image_ids = list(dataset.image_ids if image_ids is None else image_ids)
    truth = truth or ground_truth(dataset, image_ids, keypoints)
    strangers = {row["image_id"] for row in detections} - set(truth.image_ids.values())
    if strangers:
        raise ValueError(
            "detections belong to the images that are evaluated. Received: image_id"
            f" {sorted(strangers)[:5]}"
        )
    names = {category["id"]: category["name"] for category in truth.data["categories"]}
    overall, curves, per_class = {"segm": None}, {}, {name: {} for name in names.values()}
    for kind in ("bbox", "segm") if masks else ("bbox",):
        run = _cocoeval(truth, detections, kind)
        overall[kind] = {
            figure: float(value) if value >= 0 else float("nan")
            for figure, value in zip(FIGURES, run.stats)
        }
        for column, class_id in enumerate(run.params.catIds):
            per_class[names[class_id]].update(
                {f"{kind} {figure}": value for figure, value in _class_figures(run, column).items()}
            )
        curves[kind] = {
            name: np.where(array > -1, array, np.nan)
            for name, array in (
                ("precision", run.eval["precision"][:, :, :, 0, -1]),
                ("score", run.eval["scores"][:, :, :, 0, -1]),
                ("recall", run.eval["recall"][:, :, 0, -1]),
            )
        }
    done = Evaluation(
        overall["bbox"],
        overall["segm"],
        per_class,
        len(image_ids),
        detections,
        seconds,
        curves,
        confusion_matrix(truth, detections, kind="segm" if masks and detections else "bbox"),
        truth,
    )
    if keypoints:
        done.keypoints, by_class = _keypoint_figures(dataset, truth, detections)
        for name, figures in by_class.items():
            per_class[name].update(figures)
    return done


# ---- Running a model over a dataset --------------------------------------------------------------


class _Log:
    """Results so far as lines of json, one for each image, so that an interrupted evaluation can go
    on.

    Args:
        path: the file; None keeps nothing.
        key: what the results depend on; a file of another key is begun anew.
    """

    def __init__(self, path, key):
        self.done, self._file = {}, None
        if path is None:
            return
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        end = self._read(path, key) if path.exists() else 0
        self._file = open(path, "r+b" if end else "wb")  # noqa: SIM115  closed by `close`
        # What a killed program wrote of a line is cut off.
        self._file.seek(end)
        self._file.truncate()
        if not end:
            self._line({"mrcnn_evaluation": key})

    def _read(self, path, key):
        end = 0
        with open(path, "rb") as file:
            for line in file:
                try:
                    entry = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    entry = None
                if not isinstance(entry, dict) or not end and entry.get("mrcnn_evaluation") != key:
                    if not end:
                        logger.warning(
                            "%s has results of other weights, settings or classes; it is begun"
                            " anew",
                            path,
                        )
                    break
                if end:
                    self.done[entry["image"]] = entry["results"]
                end += len(line)
        return end

    def _line(self, entry):
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()

    def add(self, name, results):
        self.done[name] = results
        if self._file is not None:
            self._line({"image": name, "results": results})

    def close(self):
        if self._file is not None:
            self._file.close()


def _key(model, dataset):
    """Digest of what detections depend on: weights, settings, classes."""
    digest = hashlib.sha256()
    for variable in getattr(getattr(model, "keras_model", None), "weights", ()):
        digest.update(np.ascontiguousarray(variable))
    settings = {
        name: str(getattr(value, "__name__", value))
        for name, value in model.config.to_dict().items()
        if name not in ("IMAGES_PER_GPU", "GPU_COUNT", "BATCH_SIZE")
    }
    digest.update(json.dumps([settings, dataset.class_info], sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _name(dataset, image_id):
    info = dataset.image_info[image_id]
    return f"{info['source']}.{info['id']}"


def evaluate(model, dataset, image_ids=None, progress=True, resume=None):
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
    image_ids = [
        int(image_id) for image_id in (dataset.image_ids if image_ids is None else image_ids)
    ]
    if not image_ids:
        raise ValueError("an evaluation needs images. Received: none")
    if dataset.num_classes != model.config.NUM_CLASSES:
        raise ValueError(
            f"NUM_CLASSES of the model is the dataset's {dataset.num_classes}, background included."
            f" Received: {model.config.NUM_CLASSES}"
        )
    truth = ground_truth(dataset, image_ids, model.config.USE_KEYPOINTS)
    log = _Log(resume, _key(model, dataset) if resume is not None else None)
    left = [image_id for image_id in image_ids if _name(dataset, image_id) not in log.done]
    if len(left) < len(image_ids):
        logger.info(
            "%d of %d images have results in %s", len(image_ids) - len(left), len(image_ids), resume
        )
    unreadable, start, size = [], time.monotonic(), model.config.BATCH_SIZE
    try:
        for first in range(0, len(left), size):
            chunk, images = left[first : first + size], []
            for image_id in list(chunk):
                try:
                    images.append(dataset.load_image(image_id))
                except (OSError, ValueError) as error:
                    logger.warning("%s; its objects count as missed", error)
                    unreadable.append((image_id, str(error)))
                    chunk.remove(image_id)
            if not log.done and not images and len(unreadable) >= min(len(image_ids), 10):
                raise ValueError(
                    f"none of the first {len(unreadable)} images can be read; the first:"
                    f" {unreadable[0][1]}"
                )
            for image_id, result in zip(chunk, model.detect(images) if images else []):
                log.add(
                    _name(dataset, image_id),
                    coco_results(truth.image_ids[image_id], result, truth.class_ids),
                )
            if progress:
                utils.show_progress(
                    "evaluating", min(first + size, len(left)), len(left), time.monotonic() - start
                )
    finally:
        log.close()
    detections = [
        row for image_id in image_ids for row in log.done.get(_name(dataset, image_id), ())
    ]
    done = evaluate_detections(
        dataset,
        detections,
        image_ids,
        model.config.USE_MASK,
        time.monotonic() - start,
        truth,
        model.config.USE_KEYPOINTS,
    )
    done.unreadable = unreadable
    return done
