"""Mask R-CNN on COCO, or on any data in COCO's format.

    python samples/coco/coco.py train --dataset=/data/coco --weights=imagenet
        stages to epochs 40, 120, 160
    python samples/coco/coco.py train --dataset=/data/coco --weights=last
        go on where training stopped
    python samples/coco/coco.py evaluate --dataset=/data/coco --weights=coco
        AP on 500 validation images
    python samples/coco/coco.py detect --weights=coco photos/ film.mp4
        pictures, video, results.json
    python samples/coco/coco.py export --weights=coco --file=model.onnx
        a file for other runtimes
    python samples/coco/coco.py batch --weights=coco photos/ --output=found
        any number of images into Parquet files; killed and started again, it goes on

--dataset is a folder with annotations/instances_<subset><year>.json and the photographs in
<subset><year>/, or an export of CVAT, Roboflow, Label Studio and others as it was unpacked;
--download=True fetches what is missing of the official data. Other places: --annotations and
--images.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT_DIR = str(pathlib.Path(__file__).resolve().parents[2])  # the project's folder
sys.path.insert(0, ROOT_DIR)

from mrcnn import commands, evaluate as evaluation  # noqa: E402
from mrcnn.coco import CATEGORIES, CROWDS, CocoDataset, find_json  # noqa: E402
from mrcnn.config import Config  # noqa: E402

if TYPE_CHECKING:
    from mrcnn.model import MaskRCNN
    from mrcnn.utils import Dataset

COCO_MODEL_PATH = str(commands.COCO_WEIGHTS)
DEFAULT_LOGS_DIR = os.path.join(ROOT_DIR, "logs")
DEFAULT_DATASET_YEAR = "2014"


class CocoConfig(Config):
    """The released weights' settings: ResNet-101, 81 classes, 1024 pixels."""

    NAME = "coco"
    IMAGES_PER_GPU = 2
    NUM_CLASSES = 1 + len(CATEGORIES)
    # Of 118,000 photographs so many, spread over all, are read before training starts.
    CHECK_IMAGES = 2000


# ---- Evaluation, as existing code calls it -------------------------------------------------------


def build_coco_results(
    dataset: Dataset,
    image_ids: Sequence[int],
    rois: np.ndarray | None,
    class_ids: np.ndarray,
    scores: np.ndarray,
    masks: np.ndarray,
) -> list[dict]:
    """Results of one detection in COCO's format (matterport: build_coco_results).

    Args:
        dataset: the dataset whose class ids these are.
        image_ids: ids that the results get, each of them all of these.
        rois: [N, (y1, x1, y2, x2)] or None for nothing found; class_ids, scores: [N].
        masks: [H, W, N].

    Returns:
        list of dicts that `COCO.loadRes` takes.
    """
    if rois is None:
        return []
    category_ids = _category_ids(dataset)
    result = {"rois": np.asarray(rois), "class_ids": class_ids, "scores": scores, "masks": masks}
    rows = []
    for image_id in image_ids:
        rows += evaluation.coco_results(image_id, result, category_ids)
    return rows


def evaluate_coco(
    model: MaskRCNN,
    dataset: CocoDataset,
    coco: Any,
    eval_type: str = "bbox",
    limit: int = 0,
    image_ids: Sequence[int] | np.ndarray | None = None,
) -> evaluation.Evaluation:
    """Evaluates on a CocoDataset and prints the figures (matterport: evaluate_coco).

    Args:
        model: `MaskRCNN` in inference mode.
        dataset: prepared `CocoDataset`.
        coco: not needed: the dataset has its json's annotations.
        eval_type: "bbox" or "segm", what to print.
        limit: number of images, 0 for all.
        image_ids: of the dataset; None for all.

    Returns:
        `mrcnn.evaluate.Evaluation`, with both kinds.
    """
    if eval_type not in ("bbox", "segm"):
        raise ValueError(f"eval_type is 'bbox' or 'segm'. Received: {eval_type!r}")
    if image_ids is None:
        image_ids = dataset.image_ids
    result = evaluation.evaluate(model, dataset, image_ids[: limit or None])
    print(result.summary())
    ap = dict(result.kinds())[eval_type]["AP"]
    print(
        f"{evaluation.TITLES[eval_type]} AP {ap:.3f} on {result.images} images"
        f" in {result.seconds:.0f} s"
    )
    return result


# ---- Commands ------------------------------------------------------------------------------------


def load(args: argparse.Namespace, training: bool = False) -> CocoDataset:
    """The dataset that the options ask for: of --annotations, or the year's subset."""
    dataset = CocoDataset()
    options = {"keep_empty": not training, "crowds": args.crowds}
    if args.annotations:
        dataset.load_json(args.annotations, args.images, "coco", **options)
    else:
        year = args.year or _year(args.dataset)
        for subset in _subsets(args, year, training):
            _load_subset(dataset, args, subset, year, training)
    dataset.prepare()
    if training and not dataset.num_images:
        raise ValueError(
            f"{args.annotations or args.dataset} has no image with an object that can be used:"
            " nothing to train on"
        )
    # One that is missing is reported when it is read; without any it is the wrong folder.
    paths = [info["path"] for info in dataset.image_info]
    if paths and not any(path and os.path.exists(path) for path in paths):
        raise FileNotFoundError(
            f"The images are not there, the first is {paths[0]}. "
            "--images names another folder, --download fetches official ones"
        )
    return dataset


def _load_subset(
    dataset: CocoDataset, args: argparse.Namespace, subset: str, year: str, training: bool
) -> None:
    """Adds a subset of a year; a part of 2014's validation set that is not to be had may lack.

    The files of these parts are not COCO's own, and may be gone: training goes on without, and
    "val" is used for evaluation.
    """
    options = {
        "auto_download": args.download,
        "keep_empty": not training,
        "crowds": args.crowds,
    }
    try:
        dataset.load_coco(args.dataset, subset, year, **options)
    except OSError as error:
        is_own = bool(args.subset) or subset in ("train", "val")
        if is_own or os.path.exists(_json(args.dataset, subset, year)):
            raise
        if training:
            print(f"{error}; going on without it", file=sys.stderr)
        else:
            print(f"{error}; val is used instead", file=sys.stderr)
            dataset.load_coco(args.dataset, "val", year, **options)


def _json(folder: str, subset: str, year: str) -> str:
    """The path of a subset's annotations."""
    return os.path.join(folder, "annotations", f"instances_{subset}{year}.json")


def _year(folder: str) -> str:
    """The year that the folder has data of, 2014 before 2017."""
    for year in ("2014", "2017"):
        for subset in ("val", "minival"):
            if os.path.exists(_json(folder, subset, year)):
                return year
    return DEFAULT_DATASET_YEAR


def _subsets(args: argparse.Namespace, year: str, training: bool) -> list[str]:
    """The subsets to train or evaluate on.

    In 2014 the validation set was divided, and its larger part trained on as well.
    """
    if training:
        if _has_part(args, year, "valminusminival"):
            return ["train", "valminusminival"]
        return ["train"]
    if args.subset:
        return [args.subset]
    if _has_part(args, year, "minival"):
        return ["minival"]
    return ["val"]


def _has_part(args: argparse.Namespace, year: str, part: str) -> bool:
    """Whether a part of the validation set is there, or may be downloaded."""
    if year != "2014":
        return False
    return args.download or os.path.exists(_json(args.dataset, part, year))


def main(arguments: Sequence[str] | None = None) -> None:
    names = ("train", "evaluate", "detect", "export", "batch")
    parser = commands.parser(__doc__, names, DEFAULT_LOGS_DIR, limit=500)
    parser.add_argument(
        "--year", help="2014 or 2017 (default: what --dataset has, 2014 before 2017)"
    )
    parser.add_argument(
        "--subset", help="evaluate: val, minival or another one (default: minival, or val)"
    )
    parser.add_argument(
        "--annotations", metavar="JSON", help="any json in COCO's format, instead of --dataset"
    )
    parser.add_argument(
        "--images",
        metavar="FOLDER",
        help="its images (default: the json's folder, or images/ near it)",
    )
    parser.add_argument(
        "--crowds",
        choices=CROWDS,
        default="auto",
        help="annotations with iscrowd 1: objects where a json has no others (auto), never (keep),"
        " or always (objects)",
    )
    commands.add_boolean(parser, "--download", "fetch what is missing of the official data")
    args = commands.parse(parser, arguments)
    if args.command in ("train", "evaluate") and not (args.dataset or args.annotations):
        parser.error(f"{args.command} needs --dataset or --annotations")
    commands.check_paths(args)
    config = commands.configure(CocoConfig(), args)
    if args.command == "train":
        train(config, args)
        return
    dataset = None
    if args.dataset or args.annotations:
        dataset = load(args)
    class_names, category_ids = _classes(dataset, config)
    config = commands.inference_config(config, NUM_CLASSES=len(class_names))
    if args.command == "batch":
        commands.batch(config, class_names, args)
        return
    if args.command == "detect":
        model = commands.load_model("inference", config, args)
        commands.detect(model, class_names, args, category_ids)
        return
    if args.command == "export":
        commands.export(commands.load_model("inference", config, args), class_names, args)
        return
    # COCO's figures count detections of any score.
    if not any(text.startswith("DETECTION_MIN_CONFIDENCE=") for text in args.set):
        config.DETECTION_MIN_CONFIDENCE = 0
    commands.evaluate(commands.load_model("inference", config, args), dataset, args)


def _category_ids(dataset: Dataset) -> dict[int, int]:
    """{class id: category id} of a dataset, without the background."""
    return {i: info["id"] for i, info in enumerate(dataset.class_info) if i}


def _classes(dataset: CocoDataset | None, config: Config) -> tuple[list[str], dict[int, int]]:
    """Names by class id and {class id: category id} of a dataset.

    Without one they are COCO's, or numbers for a model with another number of classes.
    """
    if dataset is not None:
        return dataset.class_names, _category_ids(dataset)
    if config.NUM_CLASSES == 1 + len(CATEGORIES):
        return ["BG", *CATEGORIES.values()], dict(enumerate(CATEGORIES, 1))
    numbers = range(1, config.NUM_CLASSES)
    return ["BG", *(f"class {i}" for i in numbers)], {i: i for i in numbers}


def _has_validation(args: argparse.Namespace) -> bool:
    """Whether there are other images to validate on than those that are trained on."""
    if args.annotations:
        return False
    year = args.year or _year(args.dataset)
    train_json = find_json(args.dataset, "train", year)
    val_json = find_json(args.dataset, "val", year)
    if train_json == pathlib.Path(_json(args.dataset, "train", year)):
        return True  # COCO's own layout: one that lacks is an error
    return val_json != train_json and val_json.exists()


def train(config: Config, args: argparse.Namespace) -> None:
    """Heads, then the upper stages, then all layers, with horizontal flips."""
    from mrcnn.data import import_imgaug

    import_imgaug()
    import imgaug.augmenters

    train_set = load(args, training=True)
    val_set = None
    if _has_validation(args):
        val_set = load(args)
    else:
        print("There is no json for validation; training goes on without it", file=sys.stderr)
    config.NUM_CLASSES = train_set.num_classes
    stages = [(40, "heads", 1.0), (120, "4+", 1.0), (160, "all", 0.1)]
    flips = imgaug.augmenters.Fliplr(0.5)
    model = commands.load_model("training", config, args)
    commands.train(model, train_set, val_set, stages, args, augmentation=flips)


if __name__ == "__main__":
    commands.run(main)
