"""The commands of the samples: options, weights, training in stages, evaluating, detecting.

A sample consists of a config, its datasets and a few lines; the code common to all is here:

    def main(arguments=None):
        parser = commands.parser(__doc__, ("train", "evaluate", "detect"))
        parser.add_argument("--subset", ...)                        # options of this sample
        args = commands.parse(parser, arguments)
        commands.check_paths(args)                                  # missing files fail early
        config = commands.configure(BalloonConfig(), args)          # --set SETTING=VALUE
        if args.command == "train":
            model = commands.load_model("training", config, args)
            commands.train(model, train_set, val_set, [(30, "heads", 1.)], args)
        else:
            model = commands.load_model("inference", commands.inference_config(config), args)
            if args.command == "evaluate":
                commands.evaluate(model, val_set, args)
            else:
                commands.detect(model, val_set.class_names, args)

    if __name__ == "__main__":
        # errors in one line, without a traceback
        commands.run(main)

The command `batch`, for any number of images, takes the config instead of a model. Another command
on images (a colour splash, for example) is `media.process` with its own function, or `detect` with
`paint=`, which also writes the results file. For a sample that generates its images, `generated` is
the whole main. Keras is imported when a model is created.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import io
import itertools
import logging
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mrcnn import batch as batching, data, evaluate as evaluation, files, media, report as reports
from mrcnn.config import changed_settings, plain_setting  # noqa: F401 (re-exported)
from mrcnn.files import atomic
from mrcnn.visualize import sure  # noqa: F401 (re-exported for older scripts)

if TYPE_CHECKING:
    from mrcnn.config import Config
    from mrcnn.model import MaskRCNN
    from mrcnn.reading import Annotations
    from mrcnn.utils import Dataset

logger = logging.getLogger(__name__)

# The project's folder; for an installed package, which has none, the working directory.
ROOT = pathlib.Path(__file__).resolve().parents[1]
if not (ROOT / "samples").is_dir():
    ROOT = pathlib.Path.cwd()
COCO_WEIGHTS = ROOT / "mask_rcnn_coco.h5"
if ROOT == pathlib.Path.cwd() and not (ROOT / "samples").is_dir() and not COCO_WEIGHTS.exists():
    COCO_WEIGHTS = files.cache_folder() / "mask_rcnn_coco.h5"
COCO_CLASSES = 81
# Images that --calibrate takes at most; ranges change little with more, and each is a detection.
CALIBRATION_IMAGES = 64
# Layers whose shape depends on the number of classes.
CLASS_LAYERS = ["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask"]
# Values of --weights that are not checkpoints of a training.
NAMED_WEIGHTS = ("coco", "imagenet", "none")

Stage = tuple[int, str, float]  # last epoch, layers, factor of LEARNING_RATE

# ---- Options -------------------------------------------------------------------------------------


BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def boolean(text: str) -> bool:
    """The value of an option such as --download=True; see `BOOLEANS` for the accepted words."""
    value = BOOLEANS.get(str(text).lower())
    if value is None:
        raise argparse.ArgumentTypeError(f"true or false. Received: {text!r}")
    return value


def add_boolean(parser: argparse.ArgumentParser, name: str, help: str) -> None:
    """Adds an option that is False, True as --name, and also takes --name=True and --name=False."""
    parser.add_argument(
        name, type=boolean, nargs="?", const=True, default=False, metavar="BOOL", help=help
    )


def parser(
    description: str | None,
    names: Sequence[str],
    logs: str | os.PathLike = ROOT / "logs",
    limit: int = 0,
    inputs: str | None = "detect",
    dataset: bool = True,
    epochs: int | None = None,
) -> argparse.ArgumentParser:
    """A parser with the options that all samples have.

    Args:
        description: the sample's docstring.
        names: the sample's commands.
        logs, limit: defaults of --logs and --limit.
        inputs: the command that takes images and videos; None if there is none.
        dataset: False omits --dataset.
        epochs: default of --epochs; None for the last epoch of the last stage.

    Returns:
        argparse.ArgumentParser, to which a sample may add options.
    """
    new_parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    new_parser.add_argument("command", choices=names)
    kinds_of_inputs = {}
    if inputs:
        kinds_of_inputs[inputs] = "images, folders, globs or videos"
    if "batch" in names:
        kinds_of_inputs["batch"] = "images, folders, globs, Parquet files or addresses"
    new_parser.set_defaults(takes_inputs=kinds_of_inputs, image=[], video=[])
    if not kinds_of_inputs:
        new_parser.set_defaults(inputs=[])
    else:
        new_parser.add_argument(
            "inputs",
            nargs="*",
            default=[],
            metavar="INPUT",
            help="; ".join(f"{name}: {kinds}" for name, kinds in kinds_of_inputs.items()),
        )
    if dataset:
        new_parser.add_argument("--dataset", metavar="FOLDER", help="folder of the data")
    _add_folders(new_parser, logs)
    _add_numbers(new_parser, limit, epochs)
    if "evaluate" in names:
        add_report_option(new_parser)
    if inputs:
        _add_input_options(new_parser, inputs)
    if "export" in names:
        _add_export_options(new_parser)
    if "batch" in names:
        _add_batch_options(new_parser)
    new_parser.add_argument(
        "--set",
        nargs="*",
        action="extend",
        default=[],
        metavar="SETTING=VALUE",
        help="settings of the config",
    )
    new_parser.add_argument(
        "--traceback", action="store_true", help="show where in the program an error comes from"
    )
    return new_parser


def _add_folders(new_parser: argparse.ArgumentParser, logs: str | os.PathLike) -> None:
    """Adds the options that name files and folders: --weights, --logs, --output."""
    new_parser.add_argument(
        "--weights",
        "--model",
        dest="weights",
        metavar="WEIGHTS",
        help=(
            "'coco' (downloaded on first use), 'imagenet' (the backbone), 'last' (the newest"
            " checkpoint in --logs; the default except for train), 'none' (random), or the path of"
            " a weight file"
        ),
    )
    new_parser.add_argument(
        "--logs", default=str(logs), metavar="FOLDER", help="checkpoints (default: %(default)s)"
    )
    new_parser.add_argument(
        "--output",
        default="results",
        metavar="FOLDER",
        help="where evaluate and detect write (default: %(default)s)",
    )


def add_report_option(made: argparse.ArgumentParser) -> None:
    """Adds --report; `args.report` is None without the option and "" without a value."""
    made.add_argument(
        "--report",
        nargs="?",
        const="",
        metavar="PATH",
        help="evaluate: write a page of figures, errors and the worst images, to a file *.html or"
        " into a folder (default: report.html in --output)",
    )


def _add_numbers(new_parser: argparse.ArgumentParser, limit: int, epochs: int | None) -> None:
    """Adds the numeric options: --limit, --epochs, --evaluate-every."""
    new_parser.add_argument(
        "--limit",
        type=int,
        default=limit,
        metavar="N",
        help="images to evaluate on, 0 for all (default: %(default)s)",
    )
    new_parser.add_argument(
        "--epochs",
        type=int,
        default=epochs,
        metavar="N",
        help=f"number of the last epoch (default: {epochs or 'that of the last stage'})",
    )
    new_parser.add_argument(
        "--evaluate-every",
        type=int,
        default=0,
        metavar="N",
        help="train: log AP on validation images every N epochs (default: never)",
    )


def _add_export_options(new_parser: argparse.ArgumentParser) -> None:
    """Adds the options of export: --file, and those of `add_export_options`."""
    new_parser.add_argument(
        "--file",
        metavar="PATH",
        help="export: model.onnx, model.xml (OpenVINO), model.tflite (LiteRT), or a folder"
        " (SavedModel)",
    )
    add_export_options(new_parser)


def add_export_options(made: argparse.ArgumentParser) -> None:
    """Adds the options of an exported file: --size, --precision, --calibrate, --batch, --paste."""
    made.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help="export: pixels of the images (default: any; of LiteRT the molded image's)",
    )
    made.add_argument(
        "--precision",
        default="float32",
        help="export: float32, float16 or int8, where the format has it (default: %(default)s)",
    )
    made.add_argument(
        "--calibrate",
        nargs="+",
        metavar="PATH",
        help="export: with --precision=int8 of ONNX and OpenVINO, images, folders or globs of what"
        " the file is for; it computes in int8 over the ranges that"
        f" {CALIBRATION_IMAGES} of them show",
    )
    made.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="export: images at a time (default: any number; of LiteRT 1)",
    )
    made.add_argument(
        "--paste", action="store_true", help="export: masks of the whole image, not of the boxes"
    )


def _add_batch_options(new_parser: argparse.ArgumentParser) -> None:
    """Adds the options of batch: those of `mrcnn.batch`, and --batch-size."""
    batching.add_options(new_parser)
    new_parser.add_argument(
        "--batch-size",
        type=int,
        default=1,
        metavar="N",
        help="batch: images that the network takes together (default: %(default)s)",
    )


def _add_input_options(new_parser: argparse.ArgumentParser, command: str) -> None:
    """Adds --image and --video, as in matterport's scripts; for detect also --tile and --track."""
    for name in ("--image", "--video"):
        new_parser.add_argument(
            name, action="append", default=[], metavar="PATH", help=f"{command}: the same as INPUT"
        )
    if command == "detect":
        add_tile_options(new_parser)
        add_track_option(new_parser)


def add_track_option(made: argparse.ArgumentParser) -> None:
    """Adds --track, for videos."""
    made.add_argument(
        "--track",
        action="store_true",
        help="detect: objects of a video keep a number and a colour from frame to frame; needs pip"
        ' install "mask-rcnn-keras3[tracking]"',
    )


def add_tile_options(made: argparse.ArgumentParser) -> None:
    """Adds --tile and --overlap, for large images."""
    made.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="detect, evaluate: look at large images in tiles of this side; of a TIFF detect reads"
        " only windows, and writes its objects as GeoJSON (default: at once)",
    )
    made.add_argument(
        "--overlap",
        type=int,
        metavar="PIXELS",
        help="detect, evaluate: pixels that tiles share (default: a fifth of --tile)",
    )


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> argparse.Namespace:
    """Parses the options, checks that they are consistent and sets up logging.

    Args:
        parser: of `parser`.
        arguments: list of arguments; None for those of the command line.

    Returns:
        the namespace; `inputs` holds all inputs, those of --image and --video too.

    Raises:
        SystemExit: after a usage message.
    """
    # Intermixed: `detect --weights=last photo.jpg` as well as `detect photo.jpg --weights=last`.
    args = files.parsed(parser, arguments)
    args.inputs = [*args.inputs, *args.image, *args.video]
    if args.command == "train" and not args.weights:
        parser.error("train needs --weights: coco, imagenet, last, none or a path")
    if args.command == "batch" and not args.inputs:
        parser.error(f"batch needs {args.takes_inputs['batch']}: batch photos/ --output=found")
    if args.command in args.takes_inputs and not args.inputs:
        parser.error(
            f"{args.command} needs images, folders, globs or videos: {args.command} photo.jpg"
            " film.mp4"
        )
    if args.command not in args.takes_inputs and args.inputs:
        parser.error(f"{args.command} takes no inputs. Received: {' '.join(args.inputs)}")
    if args.command == "batch" and args.batch_size < 1:
        parser.error(f"--batch-size is 1 or more. Received: {args.batch_size}")
    if args.command == "export" and not args.file:
        parser.error("export needs --file: model.onnx, model.xml, model.tflite or a folder")
    if args.limit < 0:
        parser.error(f"--limit is 0 or more. Received: {args.limit}")
    if args.epochs is not None and args.epochs < 1:
        parser.error(f"--epochs is the number of the last epoch, from 1. Received: {args.epochs}")
    if args.evaluate_every < 0:
        parser.error(f"--evaluate-every is 0 or more. Received: {args.evaluate_every}")
    if getattr(args, "report", None) is not None:
        try:
            report_path(args)
        except ValueError as error:
            parser.error(f"--report: {error}")
    args.weights = args.weights or "last"
    # At every start, TensorFlow's cost model warns of an operation without a known cost.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name in ("coco", "commands", "evaluate", "media"):
        logging.getLogger(f"mrcnn.{name}").setLevel(logging.INFO)
    return args


def check_paths(args: argparse.Namespace) -> None:
    """Checks paths and options early, before data are read and a network is built.

    Args:
        args: of `parse`.

    Raises:
        FileNotFoundError: missing data or inputs; `load_model` checks the weights.
        NotADirectoryError: see `check_output`.
        ValueError, ImportError: invalid options of tiles or tracking, or a missing package.
    """
    if args.command != "batch":  # its output may be in an object store
        check_output(args)
    folder = getattr(args, "dataset", None)
    if folder and not getattr(args, "download", False) and not os.path.exists(folder):
        raise FileNotFoundError(f"No folder {folder}, which --dataset names")
    if args.command not in args.takes_inputs or args.command == "batch":
        return
    for source in args.inputs:
        if "://" not in source:
            media.find_files(source)
    _tiling(args)
    check_tracking(args)


def check_output(args: argparse.Namespace) -> None:
    """NotADirectoryError if --output, or a folder above it, is a file."""
    path = pathlib.Path(args.output)
    for place in (path, *path.parents):
        if place.exists():
            if not place.is_dir():
                raise NotADirectoryError(
                    f"--output is a folder. Received: {path}, {place} is a file"
                )
            return


def check_weights(args: argparse.Namespace, last: bool = True) -> None:
    """Checks --weights before Keras is imported, which takes seconds.

    Args:
        args: weights, logs.
        last: whether to check, for "last", that there is a folder of checkpoints.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: a folder that is no exported model, such as one of checkpoints.
    """
    from mrcnn import runtime

    weights = args.weights
    is_name = weights in (*NAMED_WEIGHTS, "last")
    if not is_name and not os.path.exists(weights):
        raise FileNotFoundError(
            f"No weight file {weights}; there are also 'coco', 'imagenet', 'last' and 'none'"
        )
    if not is_name and os.path.isdir(weights) and not runtime.is_exported(weights):
        raise ValueError(
            f"--weights is a file, or an exported model; --weights=last --logs={weights} takes the"
            f" newest checkpoint in a folder. Received: the folder {weights}"
        )
    if last and weights == "last" and not os.path.isdir(args.logs):
        raise FileNotFoundError(
            f"No folder {args.logs} with a checkpoint of a training; --logs names another one,"
            " --weights a file or 'coco'"
        )


def configure(config: Config, args: argparse.Namespace) -> Config:
    """Applies --set to a config and returns it.

    Raises:
        ValueError: an unknown setting, a value of a wrong type, or one that contradicts others.
    """
    config.override(args.set)
    if args.set:
        config.validate()
    return config


def inference_config(config: Config, **settings: Any) -> Config:
    """A copy of a config for one image at a time, with the given settings changed."""
    config = copy.copy(config)
    for name, value in {"GPU_COUNT": 1, "IMAGES_PER_GPU": 1, **settings}.items():
        setattr(config, name, value)
    return config


def run(main: Callable[[], Any]) -> None:
    """Calls main(); an error in the user's input ends the program with a one-line message.

    The return value of main() is ignored, and doesn't become the exit code. --traceback shows the
    error's traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # The terminal's encoding may lack characters of a file's name.
            stream.reconfigure(errors="backslashreplace")
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except (ValueError, OSError, ImportError, MemoryError) as error:
        if "--traceback" in sys.argv:
            raise
        sys.exit(f"error: {files.in_words(error) or 'not enough memory'}")


# ---- Models --------------------------------------------------------------------------------------


def load_model(mode: str, config: Config, args: argparse.Namespace) -> MaskRCNN:
    """A `MaskRCNN` with the weights that --weights names.

    "coco" loads the released weights; in a training model with other classes, the layers that
    depend on the classes stay random.

    Args:
        mode: "training" or "inference".
        config: the model's config.
        args: of `parse`: weights and logs.

    Raises:
        ValueError: weights that would leave layers of an inference model random; a file that
            doesn't fit.
    """
    if mode == "inference":
        _check_that_heads_are_trained(config, args.weights)
    check_weights(args, last=False)
    path = args.weights
    exclude = None
    if args.weights == "coco":
        path = fetch_coco_weights()
        if config.NUM_CLASSES != COCO_CLASSES:
            exclude = CLASS_LAYERS
    elif args.weights == "last":
        from mrcnn import training

        path = training.find_last(args.logs, config.NAME)
    from mrcnn import model as modellib

    model = modellib.MaskRCNN(mode, config, args.logs)
    if args.weights == "none":
        return model
    if args.weights == "imagenet":
        path = model.get_imagenet_weights()
    logger.info("Loading weights %s", path)
    # Released weights may be those of a deeper backbone: training starts from the common blocks.
    by_name = mode == "training" and args.weights in ("imagenet", "coco")
    model.load_weights(str(path), by_name=by_name, exclude=exclude)
    return model


def fetch_coco_weights() -> str:
    """Downloads the released weights if they are missing. Returns their path.

    Raises:
        OSError: the download fails; the message names the URL and where to put the file.
    """
    from mrcnn import utils

    path = COCO_WEIGHTS
    if not path.exists():
        try:
            utils.download_trained_weights(path)
        except OSError as error:
            if error.errno in files.DISK_FULL:
                raise
            raise OSError(f"{error}, or name another one with --weights") from error
    return str(path)


def _check_that_heads_are_trained(config: Config, weights: str) -> None:
    """ValueError for weights with which an inference model's heads would be random."""
    if weights == "imagenet":
        reason = "They have no heads"
    elif weights == "coco" and config.NUM_CLASSES != COCO_CLASSES:
        reason = f"They know {COCO_CLASSES - 1} classes"
    else:
        return
    raise ValueError(
        f"--weights={weights} can begin a training; to detect {config.NUM_CLASSES - 1}"
        f" classes weights that were trained on them are needed: 'last' or a file. {reason}"
    )


# ---- Names of classes ----------------------------------------------------------------------------


def save_classes(model: MaskRCNN, names: Iterable[str]) -> str:
    """Writes the class names, background first, to classes.json beside a run's checkpoints.

    Training writes those of its dataset itself.

    Returns:
        the path of the file.
    """
    return media.write_json(pathlib.Path(model.log_dir) / "classes.json", list(names))


def warn_of_other_settings(model: MaskRCNN) -> None:
    """Warns if a model's settings differ from the settings.json of its run."""
    from mrcnn import training

    path = pathlib.Path(model.log_dir) / "settings.json"
    if not path.exists():
        return
    stored = files.read_json(path)
    settings = training.settings_to_write(model.config)
    differences = []
    for name in sorted({*stored, *settings}):
        values = [_shown_setting(changed, name) for changed in (stored, settings)]
        if values[0] != values[1]:
            differences.append(f"{name} was {values[0]}, is {values[1]}")
    if differences:
        logger.warning(
            "The run in %s has had other settings: %s. With another --logs a new one begins",
            path.parent,
            "; ".join(differences),
        )


def _shown_setting(changed: dict[str, Any], name: str) -> str:
    """The text of a setting's value, from a dict of the settings that aren't defaults."""
    if name in changed:
        return files.short(changed[name])
    return "the default"


def load_settings(path: str | os.PathLike) -> dict[str, Any]:
    """The settings in a settings.json that `training.describe_run` wrote.

    Raises:
        ValueError: not json, or unknown settings.
    """
    from mrcnn.config import Config, setting_names

    settings = files.read_json(path)
    if not isinstance(settings, dict) or not set(settings) <= setting_names():
        raise ValueError(
            f"{path} has an object of settings and their values. Received: {files.short(settings)}"
        )
    for name, value in settings.items():
        if isinstance(getattr(Config, name), np.ndarray):
            settings[name] = np.array(value)
    return settings


def load_classes(
    config: Config, args: argparse.Namespace, default: Iterable[str] | None = None
) -> list[str]:
    """The class names, background first, from classes.json beside the weights.

    `training.describe_run` writes the file.

    Args:
        config: its NAME selects the runs for --weights=last.
        args: of `parse`: weights and logs.
        default: the names if there is no such file.

    Raises:
        ValueError: there is no such file and no default.
    """
    path = args.weights
    if path == "last":
        from mrcnn import training

        path = training.find_last(args.logs, config.NAME)
    file = pathlib.Path(str(path)).parent / "classes.json"
    if path not in NAMED_WEIGHTS and file.is_file():
        return read_names(file)
    if default is None:
        raise ValueError(
            "Detecting needs the names of the classes, which training writes beside its weights. "
            f"Received: {args.weights}, and no file {file}"
        )
    return list(default)


def read_names(file: pathlib.Path) -> list[str]:
    """The list of names in a classes.json; ValueError for other contents."""
    names = files.read_json(file)
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise ValueError(
            f"{file} has a list of the classes' names, background first. Received:"
            f" {str(names)[:80]}"
        )
    return names


# ---- Commands ------------------------------------------------------------------------------------


def sets(args: argparse.Namespace, setting: str) -> bool:
    """Whether --set of a command names a setting."""
    return any(text.startswith(f"{setting}=") for text in getattr(args, "set", ()))


def train(
    model: MaskRCNN,
    train_set: Dataset,
    val_set: Dataset | None,
    stages: Sequence[Stage],
    args: argparse.Namespace | None = None,
    augmentation: Any = None,
    callbacks: Iterable = (),
) -> None:
    """Trains in stages; stages that the model has already completed are skipped.

    Args:
        model: `MaskRCNN` in training mode.
        train_set, val_set: prepared datasets; val_set may be None.
        stages: [(last epoch, layers, factor of LEARNING_RATE)].
        args: of `parse`: epochs, evaluate_every, limit; None for the defaults.
        augmentation: see `MaskRCNN.train`.
        callbacks: Keras callbacks.

    Raises:
        ValueError: the model has already reached the last epoch.
    """
    args = args or argparse.Namespace(epochs=None, evaluate_every=0, limit=0)
    last_epoch = stages[-1][0]
    if args.epochs is not None:
        last_epoch = args.epochs
    if model.epoch >= last_epoch:
        raise ValueError(
            f"The weights have reached epoch {model.epoch} of {last_epoch}: nothing to train. "
            "--epochs with a higher number goes on"
        )
    if getattr(args, "weights", None) == "last":
        warn_of_other_settings(model)
    final_epoch, final_layers, final_factor = stages[-1]
    if last_epoch > final_epoch:
        stages = [*stages, (last_epoch, final_layers, final_factor)]
    callbacks = list(callbacks)
    if args.evaluate_every and val_set is not None:
        from mrcnn.training import EvaluationCallback

        settings = {}
        is_low = model.config.DETECTION_MIN_CONFIDENCE <= evaluation.LEAST_SCORE
        if not is_low and not sets(args, "DETECTION_MIN_CONFIDENCE"):
            settings["DETECTION_MIN_CONFIDENCE"] = 0.0  # AP counts detections of any score
        callbacks.append(
            EvaluationCallback(
                model, val_set, args.evaluate_every, limit=args.limit, settings=settings
            )
        )
    for end, layers, factor in stages:
        end = min(end, last_epoch)
        if model.epoch < end:
            logger.info("Training %s to epoch %d", layers, end)
            model.train(
                train_set,
                val_set,
                model.config.LEARNING_RATE * factor,
                end,
                layers,
                augmentation=augmentation,
                custom_callbacks=callbacks,
            )


def evaluate(
    model: MaskRCNN, dataset: Dataset, args: argparse.Namespace, report: bool = True
) -> evaluation.Evaluation:
    """Prints and saves the metrics on a dataset's images; resumes an interrupted evaluation.

    Args:
        model: `MaskRCNN` in inference mode.
        dataset: prepared dataset.
        args: of `parse`: output, limit, report; tile and overlap, see `detect`.
        report: False leaves --report to a later call of `write_report`.

    Returns:
        `evaluate.Evaluation`.
    """
    image_ids = dataset.image_ids[: args.limit or None]
    journal = pathlib.Path(args.output) / "evaluation.jsonl"
    tiling = _tiling(args)
    result = evaluation.evaluate(model, dataset, image_ids, resume=journal, **tiling)
    _tell(result, args)
    if report:
        write_report(model, result, dataset, args)
    return result


def _tell(result: evaluation.Evaluation, args: argparse.Namespace, results: bool = True) -> None:
    """Prints an evaluation and saves it into --output; results: with results.json."""
    print(f"\n{result.table()}\n\n{result.summary()}\n")
    if result.unreadable:
        print(
            f"{len(result.unreadable)} of {result.images} images could not be read; their objects"
            " count as missed\n"
        )
    for path in result.save(args.output, results):
        print(path)
    if results:
        _remove_index_of_detections(args.output)


def _remove_index_of_detections(output: str) -> None:
    """Removes images.json of an earlier `mrcnn detect`, whose results.json has been replaced.

    With it the new results would be taken for those of its images.
    """
    from mrcnn import detections

    try:
        index = detections.index_of(output)
    except ValueError:  # damaged, and so no detection's
        return
    written: dict[str, Any] = {"info": {}, "annotations": []}
    if index is not None and written.items() <= index.items():
        path = os.path.join(output, detections.INDEX)
        os.remove(path)
        logger.warning("%s is removed: the detections of its images are replaced", path)


def evaluate_detections(
    rows: list[dict], annotated: Annotations, args: argparse.Namespace
) -> evaluation.Evaluation:
    """Prints and saves the metrics of stored detections.

    Args:
        rows: of `detections.read_rows`.
        annotated: the annotations that they are compared with.
        args: detections, the file of the rows; output, limit, report.

    Raises:
        ValueError: detections of other images or classes, or without a score or a shape.
    """
    from mrcnn import annotations, detections

    dataset = annotations.dataset_of(annotated)
    image_ids = dataset.image_ids[: args.limit or None]
    has_points = bool(rows) and all(row.get("keypoints") for row in rows)
    count = len(getattr(dataset, "keypoint_names", ()))
    keypoints = has_points and count == evaluation.PERSON_KEYPOINTS
    if has_points and count and not keypoints:
        logger.warning(
            "%s: the keypoints are not evaluated; COCO's AP of them is for a person's 17."
            " Received: annotations with %d",
            args.detections,
            count,
        )
    truth = evaluation.ground_truth(dataset, None, keypoints)
    rows = detections.rows_of(rows, args.detections, annotated, truth)
    if args.limit:
        others = set(truth.image_ids.values())
        truth = evaluation.ground_truth(dataset, image_ids, keypoints)
        others -= set(truth.image_ids.values())
        rows = [row for row in rows if row["image_id"] not in others]
    masks = any(row.get("segmentation") for row in rows)
    if rows and not masks:
        logger.warning("%s: detections without masks; boxes alone are compared", args.detections)
    result = evaluation.evaluate_detections(
        dataset, rows, image_ids, masks, truth=truth, keypoints=keypoints
    )
    _tell(result, args, results=False)
    if args.report is not None:
        title = f"{os.path.basename(os.path.abspath(args.detections))}: evaluation"
        print(reports.write(result, dataset, report_path(args), title=title))
    return result


def report_path(args: argparse.Namespace) -> pathlib.Path:
    """The file that --report names; ValueError for an invalid path."""
    return reports.place(args.report or args.output)


def write_report(
    model: MaskRCNN,
    result: evaluation.Evaluation,
    dataset: Dataset,
    args: argparse.Namespace,
    tables: Sequence[reports.Table] = (),
) -> None:
    """Writes the page of --report and prints its path, see `report.write`.

    Args:
        model, dataset: those of the evaluation.
        result: the evaluation.
        args: of `parse`: report, output; without --report nothing is written.
        tables: further tables for the page.
    """
    if getattr(args, "report", None) is None:
        return
    title = f"{getattr(model.config, 'NAME', None) or 'mrcnn'}: evaluation"
    weights = getattr(model, "weights_file", None) or getattr(model, "path", None)
    path = reports.write(
        result,
        dataset,
        report_path(args),
        config=model.config,
        weights=weights or getattr(args, "weights", None),
        title=title,
        tables=tables,
    )
    print(path)


Painter = Callable[[media.Picture, dict], np.ndarray]


def detect(
    model: MaskRCNN,
    class_names: Sequence[str],
    args: argparse.Namespace,
    category_ids: dict[int, int] | None = None,
    paint: Painter | None = None,
) -> media.Processed:
    """Detects on the inputs, writes annotated images and videos, results.json and images.json.

    results.json is a list of COCO results. images.json maps each image_id to its file or frame, so
    that `COCO("images.json").loadRes("results.json")` works; ids are the numbers that are the
    files' names if all have one, otherwise 1, 2, ... Both files are written together at the end: a
    run that is killed, or whose disk is full, leaves those of the previous run. Files that can't be
    read are reported and skipped.

    Args:
        model: `MaskRCNN` in inference mode.
        class_names: names by class id; classes without a name are called by their number.
        args: of `parse`: inputs, output.
        category_ids: {class id: category id of the results}; None for the class ids themselves.
        paint: f(picture, result) -> [H, W, 3] uint8; None for masks, boxes, keypoints and names.

    With `args.track`, each object of a video has a constant number, `track_id` in the results, see
    `neighbours.Tracker`.

    With `args.tile`, images are processed in tiles that share `args.overlap` pixels, see
    `mrcnn.tiles`. A TIFF is then read in windows; instead of an annotated image its objects are
    written as GeoJSON, in world coordinates if the file is georeferenced.

    Returns:
        `media.Processed`.

    Raises:
        ValueError: none of the files can be read; `args.track` without a video.
        ImportError: `args.track` without the package for tracking.
    """
    check_tracking(args)
    run = _DetectRun(model, class_names, args, category_ids, paint)
    sources, tiffs = _split_inputs(args.inputs, run.tiling)
    if sources:
        run.detect_pictures(sources)
    if tiffs:
        run.detect_tiffs(tiffs)
    run.write()
    run.report()
    return run.processed


class _DetectRun:
    """State of a call of `detect`, with the same arguments."""

    def __init__(
        self,
        model: MaskRCNN,
        class_names: Sequence[str],
        args: argparse.Namespace,
        category_ids: dict[int, int] | None,
        paint: Painter | None,
    ):
        self.model = model
        self.class_names = _all_names(class_names, model.config.NUM_CLASSES)
        self.category_ids = category_ids or {i: i for i in range(1, len(self.class_names))}
        self.paint = paint
        self.output = args.output
        self.tiling = _tiling(args)
        self.tracks: _Tracks | None = None
        if getattr(args, "track", False):
            self.tracks = _Tracks()
        self.processed = media.Processed([], [], 0, 0.0)
        self.images: list[dict] = []
        self.results_by_image: list[list[dict]] = []
        self.left_out: collections.Counter = collections.Counter()  # by class id
        self.objects = 0

    def detect_pictures(self, sources: list) -> None:
        """Detects on images and videos that are read whole, and writes annotated ones."""
        self.processed = media.process(
            sources,
            self.output,
            self._detect_batch,
            self.model.config.BATCH_SIZE,
            title="detecting",
            all_bands=data.takes_bands(self.model.config),
        )

    def _detect_batch(self, pictures: list[media.Picture]) -> list[np.ndarray]:
        if self.tracks is None:
            return self._detect_and_paint(pictures)
        with self.tracks.undone_on_errors():
            return self._detect_and_paint(pictures)

    def _detect_and_paint(self, pictures: list[media.Picture]) -> list[np.ndarray]:
        results = _detect(self.model, pictures, self.paint is not None, self.tiling)
        if self.tracks is not None:
            self.tracks.number(pictures, results)
        # Paint before storing any result: an image that fails must not be in the results.
        rows = [evaluation.coco_results(0, result, self.category_ids) for result in results]
        painted = [self._painted(picture, result) for picture, result in zip(pictures, results)]
        self.images.extend(_image_entry(picture) for picture in pictures)
        self.results_by_image.extend(rows)
        for result in results:
            class_ids = np.asarray(result["class_ids"]).tolist()
            self.left_out.update(i for i in class_ids if i not in self.category_ids)
        return painted

    def _painted(self, picture: media.Picture, result: dict) -> np.ndarray:
        if self.paint:
            return self.paint(picture, result)
        return _paint(picture, result, self.class_names)

    def detect_tiffs(self, tiffs: list[pathlib.Path]) -> None:
        """Detects on large TIFFs in windows; those that can't be read are skipped."""
        for tiff, target in zip(tiffs, media.placed_below(tiffs, self.output)):
            target = target.with_name(target.name + ".geojson")
            try:
                entry, result, written = _detect_tiff(
                    self.model, self.class_names, tiff, self.tiling, target
                )
            except (ValueError, OSError) as error:
                if getattr(error, "errno", None) in files.DISK_FULL:
                    raise
                logger.warning("%s is skipped: %s", tiff, error)
                self.processed.skipped.append((tiff, str(error)))
                continue
            self.images.append(entry)
            self.results_by_image.append(evaluation.coco_results(0, result, self.category_ids))
            self.processed.written.append(written)
            self.processed.pictures += 1

    def write(self) -> None:
        """Writes results.json and images.json.

        Raises:
            ValueError: none of the files could be read.
        """
        if not self.processed.pictures:
            first, reason = self.processed.skipped[0]
            raise ValueError(
                f"none of the {len(self.processed.skipped)} files can be read, nothing is written;"
                f" the first, {first}: {reason}"
            )
        rows = []
        for number, image, results in zip(
            _numbers(self.images), self.images, self.results_by_image
        ):
            image["id"] = number
            for row in results:
                row["image_id"] = number
                rows.append(row)
        self.objects = len(rows)
        categories = [
            {"id": category_id, "name": self.class_names[class_id]}
            for class_id, category_id in sorted(self.category_ids.items())
        ]
        index = {
            "info": {},
            "images": self.images,
            "annotations": [],
            "categories": categories,
        }
        output = pathlib.Path(self.output)
        self.processed.written += media.write_jsons(
            {output / "results.json": rows, output / "images.json": index}
        )

    def report(self) -> None:
        """Prints the files written, and warns of objects that results.json lacks."""
        if self.left_out:
            logger.warning(
                "%d objects are in the pictures but not in results.json: category_ids lacks their"
                " class ids %s",
                self.left_out.total(),
                sorted(self.left_out),
            )
        for path in self.processed.written:
            print(path)
        print(
            f"{self.objects} objects on {self.processed.pictures} images,"
            f" {len(self.processed.skipped)} files skipped"
        )


def export(model: MaskRCNN, class_names: Sequence[str], args: argparse.Namespace) -> str:
    """Writes the model to --file, see `MaskRCNN.export`, and prints the path.

    Args:
        model: `MaskRCNN` in inference mode.
        class_names: names by class id; classes without a name are called by their number.
        args: of `parse`: file, size, precision, calibrate, batch, paste.
    """
    names = _all_names(class_names, model.config.NUM_CLASSES)
    options = {name: getattr(args, name) for name in ("size", "batch", "precision", "paste")}
    if getattr(args, "calibrate", None):
        options["calibration"] = _calibration_images(args.calibrate, data.takes_bands(model.config))
    path = model.export(args.file, class_names=names, **options)
    print(path)
    return path


class _CalibrationImages:
    """An iterator over the images of pictures.

    Args:
        pictures: `media.Picture`s.

    Attributes:
        place: the file of the last image, of a video with the frame's index; see
            `quantization.calibrated`.
    """

    def __init__(self, pictures: Iterator[media.Picture]):
        self.place = ""
        self._pictures = pictures

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        picture = next(self._pictures)
        self.place = str(picture.path)
        if picture.frame is not None:
            self.place += f", frame {picture.frame}"
        return picture.image


def _calibration_images(paths: Sequence[str], all_bands: bool = False) -> _CalibrationImages:
    """Up to CALIBRATION_IMAGES images, of files evenly spaced, with a progress bar.

    In place of files that can't be read others are taken, as of a folder with a text beside each
    image. Of videos frames are taken, evenly spaced, too.

    Raises:
        FileNotFoundError: no file, immediately.
    """
    names = media.find_files(list(paths))
    frames = max(1, CALIBRATION_IMAGES // len(names))

    def read(remaining):
        start = time.time()
        count = 0
        while remaining and count < CALIBRATION_IMAGES:
            chosen = _evenly_spaced(remaining, CALIBRATION_IMAGES - count)
            taken = set(chosen)
            remaining = [path for path in remaining if path not in taken]
            pictures = (
                picture for path in chosen for picture in _some_pictures(path, frames, all_bands)
            )
            for picture in itertools.islice(pictures, CALIBRATION_IMAGES - count):
                yield picture
                count += 1
                done = f"calibrating: {count} images, {time.time() - start:.0f} s"
                files.draw_progress(done, count == CALIBRATION_IMAGES)
        if 0 < count < CALIBRATION_IMAGES:
            files.draw_progress(done, True)

    return _CalibrationImages(read(names))


def _some_pictures(path: pathlib.Path, frames: int, all_bands: bool) -> Iterator[media.Picture]:
    """The picture of an image file; of a video `frames` of its pictures, evenly spaced.

    Where the header of a video has no number of frames the first ones are taken.
    """
    total = 0
    with contextlib.suppress(OSError, ValueError):
        if media.is_video(path):
            total, _ = media.video_info(path)
    wanted = list(range(frames))
    if total > frames:
        wanted = _evenly_spaced(range(total), frames)
    for number, picture in enumerate(media.read([path], all_bands=all_bands)):
        if number in wanted:
            yield picture
        if number == wanted[-1]:
            return


def _evenly_spaced(values: Sequence, most: int) -> list:
    """At most so many of the values, in their order."""
    count = min(len(values), most)
    return [values[i * len(values) // count] for i in range(count)]


def batch(config: Config, class_names: Sequence[str], args: argparse.Namespace) -> batching.Summary:
    """Detects on any number of images and writes Parquet files to --output, see `mrcnn.batch`.

    The model is created only if there is work left; with Ray, in each actor.

    Args:
        config: of the model.
        class_names: names by class id; classes without a name are called by their number.
        args: of `parse`: inputs, output, weights, logs, batch_size and the options of `batch`.

    Raises:
        ValueError: weights without heads; random weights, with which a batch can't be resumed.
    """
    config = inference_config(config, IMAGES_PER_GPU=args.batch_size)
    names = _all_names(class_names, config.NUM_CLASSES)
    path = os.path.abspath(_inference_weights(config, args))
    return batching.run_command(batching.Trained(batching.settings_of(config), path), args, names)


def _inference_weights(config: Config, args: argparse.Namespace) -> str:
    """The path of the file that --weights names, for detection."""
    if args.weights == "none":
        raise ValueError("batch needs weights that were trained. Received: --weights=none")
    _check_that_heads_are_trained(config, args.weights)
    if args.weights == "last":
        from mrcnn import training

        return training.find_last(args.logs, config.NAME)
    if args.weights == "coco":
        return fetch_coco_weights()
    return args.weights


def detect_exported(arguments: Sequence[str] | None = None) -> None:
    """`python -m mrcnn.runtime`: `detect` with an exported model, without TensorFlow."""
    from mrcnn import coco, runtime

    parser = argparse.ArgumentParser(
        prog="python -m mrcnn.runtime", description="Detects by an exported model."
    )
    parser.add_argument("model", help=".onnx, .xml or .tflite file, or folder of a SavedModel")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="images, folders, globs, videos")
    parser.add_argument("--output", default="results", metavar="FOLDER")
    batching.add_runtime_options(parser)
    add_tile_options(parser)
    add_track_option(parser)
    parser.add_argument("--traceback", action="store_true")
    args = files.parsed(parser, arguments)
    check_output(args)
    _tiling(args)
    check_tracking(args)
    model: Any = runtime.load(args.model, args.threads, args.device)
    detect(model, model.class_names, args, coco.category_ids_of(model.class_names))


# Masks of larger images are stored as crops of their boxes: 20 masks of 200 megapixels take 4 GB.
LARGE_PICTURE = 25_000_000  # pixels


def _tiling(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `MaskRCNN.detect` for --tile and --overlap; empty without these options."""
    tile = getattr(args, "tile", None)
    overlap = getattr(args, "overlap", None)
    if tile is None and overlap is None:
        return {}
    from mrcnn import tiles

    if tile is None:
        raise ValueError(f"--overlap goes with --tile. Received: --overlap={overlap} alone")
    tile, overlap = tiles.checked(tile, overlap)
    return {"tile": tile, "overlap": overlap}


def _split_inputs(inputs: Sequence, tiling: dict[str, Any]) -> tuple[list, list[pathlib.Path]]:
    """The inputs that are read whole, and with --tile the TIFFs that are read in windows.

    TIFFs that `tiles.TiffImage` does not support are read whole; those with a place in the world
    are among the second all the same, see `tiles.opened`.
    """
    if not tiling:
        return list(inputs), []
    from mrcnn import tiles

    paths = media.find_files(list(inputs))
    tiffs = []
    for path in paths:
        if _is_tiff(path):
            try:
                tiles.TiffImage(path).close()
                tiffs.append(path)
            except (ValueError, OSError) as error:
                logger.warning("%s; it is read as a whole", error)
                if _is_georeferenced(path):
                    tiffs.append(path)
    return [path for path in paths if path not in tiffs], tiffs


def _is_tiff(path: pathlib.Path) -> bool:
    """Whether a file is a TIFF by its content: those of slide scanners are .svs, .ndpi, .scn."""
    from mrcnn import utils

    try:
        return path.is_file() and utils.begins_as_tiff(path)
    except OSError:  # reported when it is read
        return False


def _is_georeferenced(path: pathlib.Path) -> bool:
    """Whether a TIFF that can't be read in windows has a transform to world coordinates."""
    from mrcnn import tiles

    try:
        transform, _ = tiles.georeference(path)
    except (ValueError, OSError):  # reported when it is read
        return False
    return transform is not None


def _detect_tiff(
    model: MaskRCNN,
    class_names: Sequence[str],
    path: pathlib.Path,
    tiling: dict[str, Any],
    target: pathlib.Path,
) -> tuple[dict, dict, str]:
    """Detects on a TIFF in windows and writes its GeoJSON to `target`.

    Returns:
        its entry in images.json, the result, the path of the GeoJSON.
    """
    from mrcnn import tiles

    with tiles.opened(path, data.takes_bands(model.config)) as image:
        result = tiles.detect(model, image, **tiling)
        written = tiles.write_geojson(target, result, class_names, image.transform, image.crs)
        height, width = image.shape[:2]
    return {"file_name": str(path), "height": height, "width": width}, result, written


def _detect(
    model: MaskRCNN,
    pictures: list[media.Picture],
    whole_masks: bool,
    tiling: dict[str, Any] | None = None,
) -> list[dict]:
    """The detections of a model on images.

    Args:
        whole_masks: return masks [H, W, N], however large.
        tiling: see `_tiling`.

    Raises:
        media.PictureError: a size or a number of channels that the settings don't allow.
    """
    images = [picture.image for picture in pictures]
    largest = max(image.shape[0] * image.shape[1] for image in images)
    try:
        if tiling and whole_masks:
            return model.detect(images, masks="dense", **tiling)
        if tiling:
            return model.detect(images, **tiling)
        if largest > LARGE_PICTURE and not whole_masks:
            return model.detect(images, masks="lazy")
        return model.detect(images)
    except ValueError as error:
        raise media.PictureError(str(error)) from error


def _all_names(class_names: Sequence[str], count: int) -> list[str]:
    """Names of all of a model's classes, see `visualize.class_name`; warns of missing ones."""
    from mrcnn import visualize

    name_count = len(class_names)
    if name_count < count:
        logger.warning(
            "There are names for %d of the model's %d classes, background included; the others are"
            " called by their number",
            name_count,
            count,
        )
    return [visualize.class_name(class_names, i) for i in range(max(name_count, count))]


def _image_entry(picture: media.Picture) -> dict:
    """The entry of an image in images.json, without its id, which is added at the end."""
    height, width = picture.image.shape[:2]
    entry = {"file_name": str(picture.path), "height": height, "width": width}
    if picture.frame is not None:
        entry["frame"] = picture.frame
    return entry


def _paint(picture: media.Picture, result: dict, class_names: Sequence[str]) -> np.ndarray:
    """Draws a result into an image.

    In videos colours are by class, as the order of objects changes from frame to frame, or by
    object if the objects are tracked.
    """
    is_frame = picture.frame is not None
    if "track_ids" in result:
        colors, texts = _tracked_look(result, class_names)
        return media.paint(picture.image, result, class_names, colors=colors, texts=texts)
    return media.paint(picture.image, result, class_names, by_class=is_frame)


def check_tracking(args: argparse.Namespace) -> None:
    """Checks, before a network is built, that `detect` can run with --track.

    Raises:
        ValueError: none of the inputs is a video.
        ImportError: a package is missing.
    """
    from mrcnn import neighbours

    if not getattr(args, "track", False):
        return
    if not any(media.is_video(path) for path in media.find_files(list(args.inputs))):
        raise ValueError(
            "--track follows objects from frame to frame of a video. Received: no video"
        )
    neighbours.Tracker()


class _Tracks:
    """Numbers the objects of videos, starting at 1 in each video."""

    def __init__(self) -> None:
        self._path: pathlib.Path | None = None
        self._tracker: Any = None

    def number(self, pictures: Sequence[media.Picture], results: Sequence[dict]) -> None:
        """Adds "track_ids" [N] to the results of frames, which must be in order."""
        from mrcnn import neighbours

        for picture, result in zip(pictures, results):
            if picture.frame is None:
                continue
            if picture.path != self._path:
                self._path = picture.path
                _, rate = media.video_info(picture.path)
                self._tracker = neighbours.Tracker(rate)
            result["track_ids"] = self._tracker.update(result)

    @contextlib.contextmanager
    def undone_on_errors(self) -> Iterator[None]:
        """If the block raises, the tracker is as it was before: its frames come once more."""
        before = (self._path, self._tracker)
        if self._tracker is not None:
            before = (self._path, self._tracker.copy())
        try:
            yield
        except (media.PictureError, MemoryError):
            self._path, self._tracker = before
            raise


def _tracked_look(result: dict, class_names: Sequence[str]) -> tuple[list, list[str]]:
    """Colours and labels of tracked objects; those without a number yet are gray."""
    from mrcnn import visualize

    texts = visualize.label_texts(result["class_ids"], class_names, result["scores"])
    colors = []
    for i, number in enumerate(result["track_ids"].tolist()):
        if number:
            texts[i] = f"#{number} {texts[i]}"
            colors.append(visualize.class_color(number - 1))
        else:
            colors.append((0.7, 0.7, 0.7))
    return colors, texts


def _numbers(images: list[dict]) -> list[int]:
    """Image ids: the numbers that are the files' names, as in COCO, otherwise 1, 2, ..."""
    stems = [pathlib.Path(image["file_name"]).stem for image in images]
    if all(stem.isascii() and stem.isdigit() and len(stem) < 19 for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(images) + 1))


# ---- Samples that generate their images ----------------------------------------------------------

HELD_OUT = 1_000_000  # index of the first image that is never used for training


def prefer_onednn() -> None:
    """Enables oneDNN's kernels in TensorFlow, if it is not imported yet.

    TensorFlow disables them on CPUs without AVX-512. On such a CPU a training step of the shapes
    takes .47 s with them and .64 s without, one of the nuclei (`--small`) 2.97 and 3.58 s of CPU
    time. TF_ENABLE_ONEDNN_OPTS=0 in the environment takes precedence.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def generated(
    description: str | None,
    config_class: type[Config],
    dataset_class: Callable[..., Dataset],
    headline: Callable[[evaluation.Evaluation], str],
    folder: str,
    arguments: Sequence[str] | None = None,
    epochs: int = 20,
    augmentation: Callable[[], Any] | None = None,
) -> None:
    """The main of a sample that generates its images: demo, train, evaluate, detect, export, batch.

    `demo` trains and evaluates. It and `train` resume an interrupted run; the other commands use
    images that are never used for training.

    Args:
        description: the sample's docstring.
        config_class: the sample's `Config` class.
        dataset_class: f(count, first=index) that returns a prepared dataset; the image of an index
            is always the same.
        headline: f(Evaluation) that returns the metrics for the last line.
        folder: default of --output; the default of --logs is its subfolder logs.
        arguments: list of arguments; None for those of the command line.
        epochs: default of --epochs.
        augmentation: f() that returns the `augmentation` of `MaskRCNN.train`.
    """
    new_parser = _generated_parser(description, folder, epochs)
    args = parse(new_parser, arguments)
    check_paths(args)
    prefer_onednn()
    try:
        config = configure(config_class(SEED=args.seed), args)
    except ValueError as error:
        new_parser.error(str(error))  # a wrong --set is a wrong option
    unseen = dataset_class(args.limit, first=HELD_OUT)
    time_note = ""
    if args.command in ("demo", "train"):
        augmenter = augmentation and augmentation()
        seconds = _train_generated(config, dataset_class, unseen, args, augmenter, epochs)
        args.weights = "last"
        time_note = f", trained in {seconds:.0f} s"
    if args.command == "train":
        return
    if args.command == "batch":
        batch(config, unseen.class_names, args)
        return
    model = load_model("inference", inference_config(config, IMAGES_PER_GPU=4), args)
    if args.command == "export":
        export(model, unseen.class_names, args)
        return
    picture = pathlib.Path(args.output) / "detections.png"
    if args.command == "detect":
        print(_draw_sure(model, unseen, picture))
        return
    result = evaluate(model, unseen, args)
    print(_draw_sure(model, unseen, picture))
    print(f"{headline(result)}, on {result.images} images{time_note}")


def _generated_parser(description: str | None, folder: str, epochs: int) -> argparse.ArgumentParser:
    """The parser of `generated`."""
    new_parser = parser(
        description,
        ("demo", "train", "evaluate", "detect", "export", "batch"),
        f"{folder}/logs",
        100,
        None,
        dataset=False,
        epochs=epochs,
    )
    new_parser.set_defaults(output=folder, weights="last")
    new_parser.add_argument(
        "--images", dest="limit", type=int, metavar="N", help="the same as --limit"
    )
    add_run_options(new_parser)
    return new_parser


def add_run_options(made: argparse.ArgumentParser) -> None:
    """Adds the options of `train_on`: --seed, --restart."""
    made.add_argument(
        "--seed", type=int, default=0, help="of weights, images and draws (default: %(default)s)"
    )
    made.add_argument("--restart", action="store_true", help="begin again; --logs is removed")


def _train_generated(
    config: Config,
    dataset_class: Callable[..., Dataset],
    unseen: Dataset,
    args: argparse.Namespace,
    augmentation: Any,
    epochs: int,
) -> float:
    """`train_on` with new images in each step: no image is used twice.

    The images of a step depend on its number alone, so that --epochs with a higher number goes on
    with further ones: `epochs` after `epochs` are drawn from images of their own.
    """
    of_epoch = config.STEPS_PER_EPOCH * config.BATCH_SIZE

    def make_dataset() -> Dataset:
        seed = config.SEED or 0
        parts = -(-args.epochs // epochs)
        dataset = dataset_class(parts * epochs * of_epoch, first=_first_number(seed))
        order = []
        for part, ids in enumerate(np.split(np.asarray(dataset.image_ids), parts)):
            order.append(np.random.default_rng([seed, 1, part]).permutation(ids))
        dataset.training_order = np.concatenate(order)
        return dataset

    return train_on(config, make_dataset, unseen, args, augmentation)


def _first_number(seed: int) -> int:
    """Number of the first image of a seed; none of its first 100,000 is held out."""
    first = 100_000 * seed
    if first >= HELD_OUT:
        first += HELD_OUT
    return first


def train_on(
    config: Config,
    make_dataset: Callable[[], Dataset],
    val_set: Dataset | None,
    args: argparse.Namespace,
    augmentation: Any = None,
) -> float:
    """Trains all layers to --epochs; resumes the run in --logs or starts from random weights.

    Writes beside the checkpoints: seconds.json, the time of all sessions, and losses.json, {name of
    a loss: [its mean over each epoch]}.

    Args:
        config: its SEED also seeds the random weights.
        make_dataset: f() that returns the prepared training set; called only if there are epochs
            left.
        val_set: prepared dataset for --evaluate-every.
        args: of `parse`: weights ("last" to resume), logs, epochs, evaluate_every, limit; and of
            `add_run_options`.
        augmentation: see `MaskRCNN.train`.

    Returns:
        the time of all sessions in seconds.
    """
    import keras

    from mrcnn import training

    if args.restart:
        shutil.rmtree(args.logs, ignore_errors=True)
    if args.weights == "last":
        try:
            training.find_last(args.logs, config.NAME)
        except FileNotFoundError:
            args.weights = "none"
    keras.utils.set_random_seed(config.SEED)
    model = load_model("training", config, args)
    seconds_file = pathlib.Path(model.log_dir) / "seconds.json"
    earlier_seconds = 0.0
    if seconds_file.exists():
        earlier_seconds = files.read_json(seconds_file)
    if model.epoch >= args.epochs:
        warn_of_other_settings(model)
        logger.warning(
            "Nothing is trained: %s has %d epochs, --epochs is %d. --restart begins again",
            model.log_dir,
            model.epoch,
            args.epochs,
        )
        return earlier_seconds
    dataset = make_dataset()
    start = time.monotonic()

    def write_progress(epoch: int, logs: dict | None = None) -> None:
        media.write_json(seconds_file, earlier_seconds + time.monotonic() - start)
        _write_losses(pathlib.Path(model.log_dir) / "losses.json", epoch, logs or {})

    evaluation_set = None
    if args.evaluate_every:
        evaluation_set = val_set
    stages = [(args.epochs, "all", 1.0)]
    callback = keras.callbacks.LambdaCallback(on_epoch_end=write_progress)
    train(model, dataset, evaluation_set, stages, args, augmentation, [callback])
    return earlier_seconds + time.monotonic() - start


def _write_losses(path: pathlib.Path, epoch: int, logs: dict) -> None:
    """Adds an epoch's losses to those of the previous epochs, {name: [values]}.

    Args:
        epoch: counted from 0; values of this and later epochs in the file are replaced.
    """
    losses: dict[str, list[float]] = {}
    if path.exists():
        losses = files.read_json(path)
    for name, value in logs.items():
        if name.endswith("loss"):
            losses[name] = [*losses.get(name, [])[:epoch], float(value)]
    media.write_json(path, losses)


def _draw_sure(model: MaskRCNN, dataset: Dataset, path: pathlib.Path, count: int = 12) -> str:
    """Saves a figure of the detections above .5 on the first images. Returns its path."""
    from mrcnn import figures

    images = [dataset.load_image(i) for i in dataset.image_ids[:count]]
    figure = figures.draw_results(images, model.detect(images), dataset.class_names)
    with atomic(path) as temporary:
        figure.savefig(temporary)
    return str(path)
