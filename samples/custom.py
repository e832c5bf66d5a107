"""Trains Mask R-CNN on your own photographs. Copy this file and change what you like.

    python samples/custom.py train --dataset=photos --weights=coco
        photographs and their VIA, LabelMe or COCO json
    python samples/custom.py evaluate --dataset=photos
        AP on the fifth of them that was held out
    python samples/custom.py detect new/*.jpg
        pictures of what the model finds
    python samples/custom.py export --file=model.onnx
        a file for other runtimes
    python samples/custom.py batch photos --output=found
        any number of images into Parquet files; killed and started again, it goes on

Without a GPU add --small: a small network from random weights, with --weights=none.
docs/custom_dataset.md explains all of it.
"""

import pathlib
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # the project's folder

from mrcnn import annotations, augmentation, commands, config  # noqa: E402


class CustomConfig(config.Config):
    """The settings; NUM_CLASSES follows from the annotations."""

    NAME = "custom"
    STEPS_PER_EPOCH = 100
    VALIDATION_STEPS = 5
    SEED = 0  # the same images, draws and weights in every run
    STAGES = [(20, "heads", 1.0), (40, "all", 0.1)]  # last epoch, layers, factor of LEARNING_RATE


class SmallCustomConfig(CustomConfig, config.SmallConfig):
    """The same with --small."""

    NAME = "custom_small"
    STAGES = [(3, "all", 1.0)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = commands.parser(__doc__, ("train", "evaluate", "detect", "export", "batch"))
    parser.add_argument(
        "--annotations", metavar="JSON", help="the json, where it isn't beside the photographs"
    )
    parser.add_argument(
        "--attribute", metavar="NAME", help="VIA: the region attribute with the class, of several"
    )
    parser.add_argument(
        "--small", action="store_true", help="a small network for a CPU and random weights"
    )
    args = commands.parse(parser, arguments)
    settings = CustomConfig()
    if args.small:
        settings = SmallCustomConfig()
    commands.configure(settings, args)
    if args.command in ("detect", "export", "batch"):
        names = commands.load_classes(settings, args)
        commands.check_paths(args)
        settings.NUM_CLASSES = len(names)
        model = settings  # of which batch makes models where it needs them
        if args.command != "batch":
            model = commands.load_model("inference", commands.inference_config(settings), args)
        getattr(commands, args.command)(model, names, args)
        return
    if not args.dataset:
        parser.error(f"{args.command} needs --dataset, the folder of the photographs")
    commands.check_paths(args)
    photographs = annotations.read(args.annotations or args.dataset, args.dataset, args.attribute)
    print(photographs.summary())
    larger, smaller = photographs.split(0.2)
    train_set = annotations.AnnotatedDataset.of("custom", larger)
    held_out = annotations.AnnotatedDataset.of("custom", smaller)
    settings.NUM_CLASSES = len(train_set.class_names)
    if args.command == "train":
        model = commands.load_model("training", settings, args)
        commands.train(model, train_set, held_out, settings.STAGES, args, augmentation.Flip())
    else:
        settings.DETECTION_MIN_CONFIDENCE = 0.0  # AP counts detections of any score
        model = commands.load_model("inference", commands.inference_config(settings), args)
        commands.evaluate(model, held_out, args)


if __name__ == "__main__":
    commands.run(main)
