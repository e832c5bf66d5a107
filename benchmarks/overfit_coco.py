"""Learns four real photographs by heart: the whole path from COCO's json to mask AP.

    python benchmarks/overfit_coco.py --dataset ../shared/data/coco-mini

Takes minutes on two CPU cores. Trains from random weights on the first four photographs of the
training list that have 2 to 8 objects, evaluates on the same ones by `mrcnn.evaluate` and draws
them. Ends with an error where mask AP@.5 is not above .8.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from mrcnn.coco import CocoDataset  # noqa: E402
from mrcnn.config import Config  # noqa: E402


class FourConfig(Config):
    """A small network on 128 pixels, all 81 classes."""

    NAME = "four"
    BACKBONE = "resnet18"
    NUM_CLASSES = 81
    IMAGES_PER_GPU = 4
    IMAGE_MIN_DIM = IMAGE_MAX_DIM = 128
    RPN_ANCHOR_SCALES = (8, 16, 32, 64, 128)
    RPN_CHANNELS = TOP_DOWN_PYRAMID_SIZE = MASK_HEAD_CHANNELS = 64
    FPN_CLASSIF_FC_LAYERS_SIZE = 256
    MASK_HEAD_ON_POSITIVES = True
    TRAIN_BN = None
    BATCH_NORM_MOMENTUM = 0.9
    PRE_NMS_LIMIT = 1000
    POST_NMS_ROIS_TRAINING = 200
    POST_NMS_ROIS_INFERENCE = 200
    TRAIN_ROIS_PER_IMAGE = 48
    ROI_POSITIVE_RATIO = 0.25
    CLASS_LOSS_ON_PADDING = False
    MAX_GT_INSTANCES = 8
    DETECTION_MIN_CONFIDENCE = 0.05
    # One photograph has a laptop before another: their boxes share 70%.
    DETECTION_NMS_THRESHOLD = 0.75
    OPTIMIZER = "adamw"
    LEARNING_RATE = 1e-3
    LEARNING_RATE_SCHEDULE = "cosine"
    WARMUP_STEPS = 30
    STEPS_PER_EPOCH = 40
    VALIDATION_STEPS = 0
    SEED = 0


def four_photographs(folder: str, year: str = "2017") -> CocoDataset:
    """The first four of the training list with 2 to 8 objects."""
    dataset = CocoDataset()
    dataset.load_coco(folder, "train", year)
    few = [info for info in dataset.image_info if 2 <= len(info["annotations"]) <= 8]
    dataset.image_info = few[:4]
    dataset.prepare()
    return dataset


def clock_callback(path: pathlib.Path) -> Any:
    """A callback that keeps the seconds of training in a file, over all sessions of a run."""
    import keras

    start = time.monotonic()
    before = 0.0
    if path.exists():
        before = json.loads(path.read_text())

    def write(*_: Any, **__: Any) -> None:
        path.write_text(json.dumps(before + time.monotonic() - start))

    return keras.callbacks.LambdaCallback(on_train_batch_end=write, on_train_end=write)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default=str(ROOT.parent / "shared" / "data" / "coco-mini"))
    parser.add_argument("--epochs", type=int, default=4, help="of 40 steps (default: %(default)s)")
    parser.add_argument(
        "--logs",
        help="folder of the run: an interrupted one goes on there (default: a temporary one)",
    )
    parser.add_argument("--output", help="folder of tables and pictures (default: a temporary one)")
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE")
    args = parser.parse_args()
    import keras

    from mrcnn import commands, evaluate, media, model as modellib

    dataset = four_photographs(args.dataset)
    config = FourConfig()
    config.override(args.set)
    keras.utils.set_random_seed(config.SEED)
    output = pathlib.Path(args.output or tempfile.mkdtemp())
    logs = args.logs or tempfile.mkdtemp()
    model = modellib.MaskRCNN("training", config, logs)
    try:
        model.load_weights(model.find_last())
    except FileNotFoundError:
        pass  # a new run
    clock = pathlib.Path(logs) / "seconds.json"
    if model.epoch < args.epochs:
        history = model.train(
            dataset,
            None,
            config.LEARNING_RATE,
            args.epochs,
            "all",
            custom_callbacks=[clock_callback(clock)],
        )
        print("loss by epoch:", " ".join(f"{value:.2f}" for value in history.history["loss"]))
    seconds = json.loads(clock.read_text())
    inference = modellib.MaskRCNN("inference", config, logs)
    inference.load_weights(model.find_last())
    result = evaluate.evaluate(inference, dataset)
    for image_id in dataset.image_ids:
        image = dataset.load_image(image_id)
        result_of_image = commands.sure(inference.detect([image])[0])
        painted = media.paint(image, result_of_image, dataset.class_names)
        media.write_image(output / f"{dataset.image_info[image_id]['id']}.png", painted)
    present = {
        name: figures
        for name, figures in result.per_class.items()
        if figures["segm AP"] == figures["segm AP"]
    }
    result.per_class = present
    print(f"\n{result.table()}\n\n{result.summary()}\n\npictures in {output}")
    print(
        f"mask AP@.5 {result.segm['AP50']:.3f}, mask AP {result.segm['AP']:.3f}, box AP"
        f" {result.bbox['AP']:.3f}, on {result.images} photographs, trained in {seconds:.0f} s"
    )
    if not result.segm["AP50"] > 0.8:
        sys.exit("error: mask AP@.5 is expected above .8")


if __name__ == "__main__":
    main()
