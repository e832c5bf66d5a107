"""COCO's figures for any `Dataset`, by pycocotools."""
import contextlib
import dataclasses
import io
import json
import os
import pathlib
import time

import numpy as np

from mrcnn import utils

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclasses.dataclass
class Evaluation:
    """Result of `evaluate`.

    Attributes:
        bbox, segm: {figure: value in 0..1} for each of `FIGURES`, NaN where COCO has none; segm is None
            for a model without masks.
        per_class: {class name: {"bbox AP", "bbox AP50", "segm AP", "segm AP50"}}.
        images: number of images.
        detections: list of COCO results (dicts).
        seconds: time spent detecting.
    """

    bbox: dict
    segm: dict | None
    per_class: dict
    images: int
    detections: list
    seconds: float

    def table(self):
        """The figures by class as text, the last row over all classes."""
        kinds = ["bbox"] + (["segm"] if self.segm else [])
        columns = [f"{kind} {figure}" for kind in kinds for figure in ("AP", "AP50")]
        rows = [("class", columns)]
        everything = {f"{kind} {figure}": getattr(self, kind)[figure] for kind in kinds for figure in ("AP", "AP50")}
        for name, figures in [*self.per_class.items(), ("all", everything)]:
            rows.append((name, [f"{figures[column]:.3f}" for column in columns]))
        width = max(len(name) for name, _ in rows)
        titles = {"segm": "mask", "bbox": "box"}
        lines = []
        for name, cells in rows:
            cells = [" ".join(titles.get(word, word) for word in cell.split()) for cell in cells]
            lines.append(f"{name:{width}}  " + "  ".join(f"{cell:>9}" for cell in cells))
        return "\n".join(lines)

    def save(self, folder):
        """Writes table.txt, figures.json and results.json (which pycocotools loads). Returns their paths."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        figures = {"bbox": self.bbox, "segm": self.segm, "per_class": self.per_class, "images": self.images}
        contents = {"table.txt": self.table() + "\n", "figures.json": json.dumps(_without_nan(figures), indent=1),
                    "results.json": json.dumps(self.detections)}
        for name, text in contents.items():
            temporary = folder / f".{name}.part"
            temporary.write_text(text)
            os.replace(temporary, folder / name)
        return [str(folder / name) for name in contents]


def _without_nan(value):
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value


def encode(masks):
    """[H, W, N] bool to a list of N run-length encodings, as COCO's results have them."""
    from pycocotools import mask as coco_mask
    codes = coco_mask.encode(np.asfortranarray(masks.astype(np.uint8)))
    return [{"size": [int(side) for side in code["size"]], "counts": code["counts"].decode()} for code in codes]


def _coco_boxes(boxes):
    """[N, (y1, x1, y2, x2)] to a list of [x, y, width, height]."""
    boxes = np.asarray(boxes, dtype=float).reshape(-1, 4)
    return np.stack([boxes[:, 1], boxes[:, 0], boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]], axis=1).tolist()


def coco_ground_truth(dataset, image_ids):
    """A pycocotools COCO object of a dataset's masks; class ids below zero become crowds."""
    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO
    images, annotations = [], []
    for image_id in image_ids:
        masks, class_ids = dataset.load_mask(image_id)
        height, width = masks.shape[:2] if masks.shape[2] else dataset.load_image(image_id).shape[:2]
        images.append({"id": int(image_id), "height": int(height), "width": int(width)})
        boxes = _coco_boxes(utils.extract_bboxes(masks)) if masks.shape[2] else []
        for box, code, class_id in zip(boxes, encode(masks) if masks.shape[2] else [], class_ids):
            annotations.append({"id": len(annotations) + 1, "image_id": int(image_id), "bbox": box,
                                "category_id": abs(int(class_id)), "segmentation": code,
                                "area": float(coco_mask.area(code)), "iscrowd": int(class_id < 0)})
    coco = COCO()
    coco.dataset = {"info": {}, "images": images, "annotations": annotations,
                    "categories": [{"id": i, "name": name} for i, name in enumerate(dataset.class_names) if i]}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def coco_results(image_id, result):
    """One image's result of `MaskRCNN.detect` as a list of COCO results."""
    codes = encode(result["masks"]) if result["masks"] is not None and len(result["scores"]) else None
    rows = []
    for i, box in enumerate(_coco_boxes(result["rois"])):
        row = {"image_id": int(image_id), "category_id": int(result["class_ids"][i]), "bbox": box,
               "score": float(result["scores"][i])}
        if codes:
            row["segmentation"] = codes[i]
        rows.append(row)
    return rows


def evaluate_detections(dataset, detections, image_ids=None, masks=True, seconds=0.):
    """COCO's figures of stored detections.

    Args:
        dataset: prepared `Dataset`.
        detections: list of COCO results with the dataset's image and class ids.
        masks: evaluate masks as well as boxes.

    Returns:
        Evaluation.
    """
    from pycocotools.cocoeval import COCOeval
    image_ids = list(dataset.image_ids if image_ids is None else image_ids)
    truth = coco_ground_truth(dataset, image_ids)
    kinds = ("bbox", "segm") if masks else ("bbox",)
    overall, per_class = {"segm": None}, {name: {} for name in dataset.class_names[1:]}
    for kind in kinds:
        if not detections or not truth.dataset["annotations"]:
            value = 0. if truth.dataset["annotations"] else float("nan")
            overall[kind] = {figure: value for figure in FIGURES}
            for figures in per_class.values():
                figures.update({f"{kind} AP": value, f"{kind} AP50": value})
            continue
        with contextlib.redirect_stdout(io.StringIO()):
            # A row with both would take its area from the box; COCO takes a mask's own.
            drop = "bbox" if kind == "segm" else "segmentation"
            rows = [{key: value for key, value in row.items() if key != drop} for row in detections]
            evaluation = COCOeval(truth, truth.loadRes(rows), kind)
            evaluation.params.imgIds = [int(image_id) for image_id in image_ids]
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        overall[kind] = {figure: float(value) if value >= 0 else float("nan")
                         for figure, value in zip(FIGURES, evaluation.stats)}
        precision = evaluation.eval["precision"][:, :, :, 0, -1]           # [IoU, recall, class]
        for column, class_id in enumerate(evaluation.params.catIds):
            figures = per_class[dataset.class_names[class_id]]
            for name, values in ((f"{kind} AP", precision[:, :, column]), (f"{kind} AP50", precision[0, :, column])):
                known = values[values > -1]
                figures[name] = float(known.mean()) if known.size else float("nan")
    return Evaluation(overall["bbox"], overall["segm"], per_class, len(image_ids), detections, seconds)


def evaluate(model, dataset, image_ids=None, progress=True):
    """Detects on a dataset's images and returns COCO's figures, an `Evaluation`.

    Args:
        model: `MaskRCNN` in inference mode.
        dataset: prepared `Dataset`.
        image_ids: None for all.
        progress: draw a bar with images per second on stderr.
    """
    image_ids = list(dataset.image_ids if image_ids is None else image_ids)
    detections, start = [], time.monotonic()
    size = model.config.BATCH_SIZE
    for first in range(0, len(image_ids), size):
        chunk = image_ids[first:first + size]
        results = model.detect([dataset.load_image(image_id) for image_id in chunk])
        for image_id, result in zip(chunk, results):
            detections += coco_results(image_id, result)
        if progress:
            utils.show_progress("evaluating", first + len(chunk), len(image_ids), time.monotonic() - start)
    return evaluate_detections(dataset, detections, image_ids, model.config.USE_MASK, time.monotonic() - start)
