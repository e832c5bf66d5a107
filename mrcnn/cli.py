"""The command `mrcnn`: train, evaluate, detect, batch, export, inspect, convert, and more.

    mrcnn train --dataset=photos --weights=coco
    mrcnn evaluate --dataset=photos
    mrcnn detect photo.jpg --weights=coco
    mrcnn convert photos/via.json converted --to=coco

See the `--help` of each command. The samples are programs for one dataset each, based on the same
`mrcnn.commands`; this command takes any dataset. An error is one line on stderr; with --json the
outcome, or {"error": ...}, is printed as one json to stdout. Exit codes: 0, 1 for a failed job, 2
for wrong options, 130 for an interrupted job. Keras is imported when a network is built.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import importlib.util
import io
import itertools
import json
import logging
import os
import pathlib
import re
import shlex
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import mrcnn
from mrcnn import completion, files

if TYPE_CHECKING:
    from mrcnn.annotations import Annotations
    from mrcnn.config import Config

logger = logging.getLogger(__name__)

FAILED = 1
USAGE = 2
INTERRUPTED = 130
# Exit code that a shell reports for SIGPIPE, as in `mrcnn settings | head`.
BROKEN_PIPE = 141

# Commands that show progress; the others print the same as --json has.
JOBS = ("train", "evaluate", "detect", "batch", "export")
# Share of the images that is held out if a dataset has no validation set.
SHARE = 0.2
# NAME of the runs of `mrcnn train`, if --name gives no other.
RUN_NAME = "mrcnn"
PRESETS = ("Config", "SmallConfig", "PaperConfig", "PaperC4Config")
CROWDS = ("auto", "keep", "objects")
CONVERSIONS = ("coco", "via", "labelme", "yolo", "masks", "labels")
# Years that COCO's file names may contain.
YEARS = ("", "2017", "2014")


# ---- Options -------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """A parser that raises `_ParseError`: errors are one line, and with --json also one json."""

    def error(self, message: str) -> NoReturn:
        raise _ParseError(f"{message} ({self.prog} --help)", self.prog)


class _ParseError(Exception):
    """An error in a command line, with the command's name."""


def _add_common(parser: argparse.ArgumentParser) -> None:
    """Adds the options of all commands."""
    parser.add_argument("--json", action="store_true", help="print what was done as one json")
    parser.add_argument(
        "--traceback", action="store_true", help="show where in the program an error comes from"
    )


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds --config, --small and --set."""
    parser.add_argument(
        "--config",
        metavar="CONFIG",
        help=f"settings to begin with: {', '.join(PRESETS)}, or FILE.py:CLASS, or a settings.json"
        " (default: those beside the weights, else Config)",
    )
    parser.add_argument(
        "--small", action="store_true", help="the same as --config=SmallConfig: for a CPU"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="SETTING=VALUE",
        help="settings to change; mrcnn settings lists them",
    )


def _add_model(parser: argparse.ArgumentParser, weights: str) -> None:
    """Adds the options that select a network: settings, weights, folder and name of the runs."""
    _add_settings(parser)
    parser.add_argument(
        "--weights", "--model", dest="weights", default="last", metavar="WEIGHTS", help=weights
    )
    parser.add_argument(
        "--logs", default="logs", metavar="FOLDER", help="checkpoints (default: %(default)s)"
    )
    parser.add_argument(
        "--name",
        default=RUN_NAME,
        metavar="NAME",
        help="of the runs in --logs, among which 'last' is looked for (default: %(default)s)",
    )


def _add_reading(parser: argparse.ArgumentParser) -> None:
    """Adds the options for reading annotations."""
    parser.add_argument("--images", metavar="FOLDER", help="where the images are, if not there")
    parser.add_argument(
        "--attribute", metavar="NAME", help="VIA: the region attribute of the class"
    )
    parser.add_argument(
        "--label", metavar="NAME", help="VIA, mask files, SA-1B: the class of every object"
    )
    parser.add_argument(
        "--crowds",
        choices=CROWDS,
        default="auto",
        help="COCO: annotations with iscrowd 1: objects where a json has no others, or V7 or"
        " supervision wrote it (auto), never (keep), or always (objects), as CVAT means them"
        " (default: %(default)s)",
    )


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    """Adds the options that select a dataset."""
    parser.add_argument(
        "--dataset",
        required=True,
        metavar="PATH",
        help="a folder or file of annotations: COCO, VIA, LabelMe, Label Studio, Labelbox, CVAT,"
        " Datumaro, YOLO, mask files, Supervisely, QuPath, Cityscapes, BDD100K, Open Images, Pascal"
        " VOC and others; with subsets as their tools make them (train/ and val/,"
        " instances_train.json, images/train, ...)",
    )
    _add_reading(parser)
    parser.add_argument(
        "--val",
        metavar="PATH",
        help="another folder or file to validate on (default: the dataset's own validation set, or"
        f" a share of {SHARE} that is held out)",
    )


def _add_limit(parser: argparse.ArgumentParser) -> None:
    """Adds --limit."""
    parser.add_argument(
        "--limit",
        type=_count,
        default=0,
        metavar="N",
        help="images to evaluate on (default: all)",
    )


def _count(text: str) -> int:
    """Converts an option's text to an integer of at least 0."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"a whole number from 0 on. Received: {text!r}")
    return int(text)


def _from_one(text: str) -> int:
    """Converts an option's text to an integer of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 on. Received: {text!r}")
    return int(text)


def _tolerance(text: str) -> float:
    """Converts an option's text to a finite number of pixels of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"a number of pixels from 0 on. Received: {text!r}")
    return value


WEIGHTS = (
    "'coco' (the released weights, downloaded once), 'imagenet' (the backbone), 'last' (the newest"
    " checkpoint in --logs), 'none' (random), or a weight file"
)
EXPORTED = (
    "; or an exported model: .onnx, .xml, .tflite, or the folder of a SavedModel (default: last)"
)


def _train_options(parser: argparse.ArgumentParser) -> None:
    _add_dataset(parser)
    _add_model(parser, WEIGHTS)
    parser.set_defaults(weights=None)
    parser.add_argument(
        "--epochs",
        type=_from_one,
        metavar="N",
        help="number of the last epoch (default: 40, the heads alone up to 20; all layers and 3"
        " epochs with --small)",
    )
    parser.add_argument(
        "--evaluate-every",
        type=_count,
        default=0,
        metavar="N",
        help="log AP on validation images every N epochs (default: never)",
    )
    _add_limit(parser)


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    from mrcnn import batch, commands

    _add_dataset(parser)
    _add_model(parser, WEIGHTS + "; or an exported model (default: last)")
    batch.add_runtime_options(parser)
    parser.add_argument(
        "--detections",
        metavar="FILE",
        help="no model: the detections of a results.json in COCO's format, of any program; where"
        " images.json lies beside it, as `mrcnn detect` writes it, images and classes go by their"
        " names, else by their ids",
    )
    parser.add_argument(
        "--subset",
        choices=("val", "train", "all"),
        help="of the dataset's images (default: val; all with --detections, where the dataset has"
        " no validation set of its own)",
    )
    _add_limit(parser)
    _add_output(parser)
    commands.add_tile_options(parser)
    commands.add_report_option(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    """Adds --output."""
    parser.add_argument(
        "--output", default="results", metavar="FOLDER", help="where to (default: %(default)s)"
    )


def _detect_options(parser: argparse.ArgumentParser) -> None:
    from mrcnn import batch, commands

    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="images, folders, globs or videos"
    )
    _add_model(parser, WEIGHTS + EXPORTED)
    batch.add_runtime_options(parser)
    _add_output(parser)
    commands.add_tile_options(parser)
    commands.add_track_option(parser)


def _export_options(parser: argparse.ArgumentParser) -> None:
    from mrcnn import commands

    parser.add_argument(
        "file",
        metavar="FILE",
        help="model.onnx, model.xml (OpenVINO), model.tflite (LiteRT), or a folder (SavedModel)",
    )
    _add_model(parser, WEIGHTS + " (default: last)")
    commands.add_export_options(parser)


def _batch_options(parser: argparse.ArgumentParser) -> None:
    from mrcnn import batch

    batch.add_inputs(parser)
    _add_model(parser, WEIGHTS + EXPORTED)
    _add_output(parser)
    parser.add_argument(
        "--batch-size",
        type=_from_one,
        default=1,
        metavar="N",
        help="images that the network takes together (default: %(default)s)",
    )
    batch.add_options(parser)


def _inspect_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="annotations (files or folders), images, videos, weight files, exported models",
    )
    _add_reading(parser)
    parser.add_argument(
        "--draw",
        type=_count,
        default=0,
        metavar="N",
        help="paint the objects of the first N images into --output",
    )
    _add_output(parser)


def _convert_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="a file or folder of annotations")
    parser.add_argument("output", metavar="OUTPUT", help="a folder; of coco and via also a .json")
    parser.add_argument("--to", required=True, choices=CONVERSIONS, help="the format")
    _add_reading(parser)
    parser.add_argument(
        "--shapes",
        choices=("keep", "masks", "outlines"),
        default="keep",
        help="keep outlines and masks where the format holds them; draw everything; or have no"
        " masks (default: %(default)s)",
    )
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        default=0.0,
        metavar="PIXELS",
        help="by which an outline may leave the mask that it is made of (default: 0)",
    )
    parser.add_argument(
        "--no-copy", dest="copy", action="store_false", help="leave the images where they are"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="write into a folder that is not empty"
    )


def _settings_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="settings, or parts of their names (default: all)"
    )
    _add_settings(parser)
    parser.add_argument(
        "--changed", action="store_true", help="only those that differ from Config's own"
    )


def _completion_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=completion.SHELLS)


# ---- Settings and weights ------------------------------------------------------------------------


def _base_config(args: argparse.Namespace, fallback: pathlib.Path | None = None) -> Config:
    """The config of --config or --small; without them that of `fallback`, or `Config`.

    fallback: path of a settings.json.
    """
    from mrcnn import commands, config as configs

    if args.small and args.config:
        raise _UsageError("--small and --config name two configs; one of them")
    if args.small:
        return configs.SmallConfig()
    if args.config is None:
        if fallback is not None:
            return configs.Config(**commands.load_settings(fallback))
        return configs.Config()
    if args.config in PRESETS:
        return getattr(configs, args.config)()
    path, colon, name = args.config.rpartition(":")
    if args.config.endswith((".py", ".json")):
        path = args.config
        name = ""
    if path.endswith(".json"):
        return configs.Config(**commands.load_settings(path))
    if path.endswith(".py"):
        return _config_of_file(path, name)
    raise _UsageError(
        f"--config is {', '.join(PRESETS)}, FILE.py:CLASS or a settings.json."
        f" Received: {args.config}"
    )


def _config_of_file(path: str, name: str) -> Config:
    """An instance of a config class in a Python file; without a name, of the only one."""
    from mrcnn.config import Config

    if not os.path.isfile(path):
        raise FileNotFoundError(f"No file {path}")
    specification = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
    if specification is None or specification.loader is None:
        raise ValueError(f"{path} can't be imported")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    sys.path.insert(0, str(pathlib.Path(path).resolve().parent))
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's file may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"--config: {path} can't be run. Received: {reason}") from error
    configs = {}
    for key, value in vars(module).items():
        is_config = isinstance(value, type) and issubclass(value, Config)
        if is_config and value.__module__ == module.__name__:
            configs[key] = value
    if name:
        configs = {key: value for key, value in configs.items() if key == name}
    if len(configs) != 1:
        names_of_classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise ValueError(
            f"--config names a class of {path} that derives from Config, FILE.py:CLASS."
            f" Received: {name or 'none'}; it has {', '.join(names_of_classes) or 'no class'}"
        )
    return next(iter(configs.values()))()


def _with_changes(config: Config, args: argparse.Namespace) -> Config:
    """The config with --set applied, validated; errors are usage errors if options caused them."""
    from mrcnn import commands

    try:
        commands.configure(config, args)
        config.validate()
        return config
    except ValueError as error:
        if args.set or args.config:
            raise _UsageError(str(error)) from error
        raise


class _UsageError(Exception):
    """Options that contradict each other, or have invalid values."""


def _is_exported(path: str) -> bool:
    """Whether a path is that of an exported model."""
    from mrcnn import runtime

    return runtime.is_exported(path)


def _import_keras() -> None:
    """Imports Keras without what its own plots need, a fifth of the seconds of its import.

    In a process of the command nobody calls these plots; in a script they stay as they are. Nor
    does the garbage collector look at the million objects of the imports, then or later: a tenth of
    the seconds to the first step of a training.
    """
    if "keras" in sys.modules:
        return
    hidden: dict[str, Any] = {
        name: None for name in ("matplotlib", "cv2", "IPython") if name not in sys.modules
    }
    sys.modules.update(hidden)
    try:
        with files.no_collection():
            importlib.import_module("keras")
    finally:
        for name in hidden:
            del sys.modules[name]
    gc.freeze()


def _resolve_last(args: argparse.Namespace) -> str:
    """The weights for `commands.load_model`, with 'last' replaced by its path.

    Without --name, the runs in --logs may have another name than this command gives, if all have
    the same; and --logs may be the folder of one run.
    """
    if args.weights != "last":
        return args.weights
    _import_keras()
    from mrcnn import training

    try:
        return str(training.find_last(args.logs, args.name))
    except FileNotFoundError as error:
        path: str | None = None
        names = training.names_of_runs(args.logs)
        folder = pathlib.Path(args.logs).resolve()
        run = re.fullmatch(rf"(.+){training.RUN_TIME}", folder.name)
        is_unnamed = args.name == RUN_NAME
        if is_unnamed and len(names) == 1:
            path = training.find_last(args.logs, names[0])
        elif is_unnamed and not names and run is not None and folder.is_dir():
            path = training.newest_checkpoint(folder, run[1])
        if path is None and names:
            raise FileNotFoundError(
                f"{error}; --name={shlex.quote(names[0])} takes the newest of that name"
            ) from error
        if path is None:
            raise
        logger.warning("%s has no run named %s; taken is %s", args.logs, args.name, path)
        return str(path)


# A config, its classes and {class id: COCO's category id} or None.
_WeightsInfo = tuple["Config", list[str], "dict[int, int] | None"]


def _inference_model(args: argparse.Namespace) -> tuple[Any, list[str], dict[int, int] | None]:
    """A model for detection, its classes and {class id: COCO's category id} or None."""
    return _model_of(args, _info_of_weights(args))


def _info_of_weights(args: argparse.Namespace) -> _WeightsInfo | None:
    """The `_WeightsInfo` of --weights; None for an exported model.

    Raises for wrong options, before data are read and networks are built.
    """
    from mrcnn import commands

    commands.check_weights(args)
    if _is_exported(args.weights):
        _refuse_settings(args)
        return None
    _refuse_runtime_options(args)
    return _settings_of_weights(args)


def _model_of(
    args: argparse.Namespace, info: _WeightsInfo | None
) -> tuple[Any, list[str], dict[int, int] | None]:
    """`_inference_model` for the result of `_info_of_weights`."""
    from mrcnn import coco, commands, runtime

    if info is None:
        model = runtime.load(args.weights, args.threads, args.device)
        return model, model.class_names, coco.category_ids_of(model.class_names)
    config, names, category_ids = info
    if args.weights == "coco":
        commands.fetch_coco_weights()  # before Keras is imported, so that errors come early
    _import_keras()
    network = commands.load_model("inference", commands.inference_config(config), args)
    return network, names, category_ids


def _settings_of_weights(args: argparse.Namespace) -> _WeightsInfo:
    """The config for --weights, their classes and {class id: COCO's category id} or None.

    Settings and classes are in files beside the weights that `mrcnn train` writes. For other weight
    files they are derived from the layers, as far as possible. Replaces "last" in `args.weights` by
    a path.
    """
    from mrcnn import coco, commands

    weights = _resolve_last(args)
    if weights == "coco":
        config = _base_config(args)
        config.NAME = "coco"
        config.NUM_CLASSES = commands.COCO_CLASSES
    else:
        config = _config_beside(weights, args)
    config = _with_changes(config, args)
    args.weights = weights
    names: Sequence[str] = ["BG", *(f"class {i}" for i in range(1, config.NUM_CLASSES))]
    if config.NUM_CLASSES == commands.COCO_CLASSES:
        names = ["BG", *coco.CATEGORIES.values()]
    class_names = commands.load_classes(config, args, default=names)
    return config, class_names, coco.category_ids_of(class_names)


def _refuse_settings(args: argparse.Namespace) -> None:
    """Usage error for options of settings: an exported model contains its settings."""
    if args.set or args.config or args.small:
        raise _UsageError(
            f"{args.weights} has its settings in itself; --config, --small and --set don't go"
            " with it"
        )


def _refuse_runtime_options(args: argparse.Namespace) -> None:
    """Usage error for --threads and --device, which have no effect with a weight file."""
    if getattr(args, "threads", None) is not None or getattr(args, "device", "cpu") != "cpu":
        raise _UsageError(
            "--threads and --device are of an exported model; TensorFlow takes"
            " TF_NUM_INTRAOP_THREADS and CUDA_VISIBLE_DEVICES from the environment. Received:"
            f" weights {args.weights}"
        )


def _config_beside(weights: str, args: argparse.Namespace) -> Config:
    """The config of a weight file: from the options, the files beside it or its layers."""
    beside = pathlib.Path(weights).parent / "settings.json"
    if args.config or args.small:
        config = _base_config(args)
        from mrcnn import commands

        classes = pathlib.Path(weights).parent / "classes.json"
        if classes.is_file():
            config.NUM_CLASSES = len(commands.read_names(classes))
        return config
    if weights not in ("none", "imagenet") and beside.is_file():
        return _base_config(args, beside)
    config = _base_config(args)
    if weights.lower().endswith((".h5", ".keras")):
        for name, value in _settings_in_weights(weights).items():
            setattr(config, name, value)
    return config


def _settings_in_weights(path: str) -> dict[str, Any]:
    """NUM_CLASSES and BACKBONE, as far as the layers in a weight file show them."""
    from mrcnn import weights

    layers, _ = weights.read_legacy(path)
    settings: dict[str, Any] = {}
    for _, array in layers.get("mrcnn_class_logits", []):
        settings["NUM_CLASSES"] = int(array.shape[-1])
    blocks = {name[4:].split("_")[0] for name in layers if name.startswith("res4")}
    for backbone, last in (("resnet152", "z9"), ("resnet101", "w"), ("resnet50", "f")):
        if last in blocks:
            settings["BACKBONE"] = backbone
            break
    return settings


# ---- Datasets ------------------------------------------------------------------------------------


def _sets(args: argparse.Namespace) -> tuple[Annotations, Annotations]:
    """The training and the validation set: the dataset's own, or parts of it."""
    training = _read_subset(args, "train")
    validation = _own_validation_set(args)
    if training is None:
        training = _read(args, args.dataset)
        if validation is not None and not args.val:
            training = _without(training, validation, args)
    if validation is not None:
        _warn_of_shared_images(training, validation)
        return training, validation
    if len(training.images) < 2:
        raise _UsageError(
            f"{training.path} has one image with objects, of which no share can be held out; --val"
            " names another set, evaluate --subset=all takes it whole"
        )
    return training.split(SHARE)


def _warn_of_shared_images(training: Annotations, validation: Annotations) -> None:
    """Warns of images that are in both sets, which make the validation metrics too high."""
    training_paths = {
        os.path.realpath(image.path) for image in training.images if not image.embedded
    }
    shared = [
        image.name for image in validation.images if os.path.realpath(image.path) in training_paths
    ]
    if shared:
        logger.warning(
            "%s: %d of %d images to validate on are trained on too: %s",
            validation.path,
            len(shared),
            len(validation.images),
            files.several(shared),
        )


def _own_validation_set(args: argparse.Namespace) -> Annotations | None:
    """The set of --val, or the dataset's own validation set; None if there is none."""
    if args.val:
        return _read(args, args.val, keep_empty=True)
    return _read_subset(args, "val")


def _without(
    training: Annotations, validation: Annotations, args: argparse.Namespace
) -> Annotations:
    """The images of a dataset without those of its validation set."""
    import dataclasses

    held_out = {os.path.realpath(image.path) for image in validation.images}
    images = [image for image in training.images if os.path.realpath(image.path) not in held_out]
    if not images:
        raise _UsageError(
            f"{args.dataset}: expected images to train on. Received: a validation set alone"
        )
    return dataclasses.replace(training, images=images)


def _read(
    args: argparse.Namespace,
    path: Any,
    images: Any = None,
    keep_empty: bool = False,
    root: Any = None,
) -> Annotations:
    """The annotations at a path, read with the options of `_add_reading`.

    images, keep_empty, root: see `annotations.read`. Where detections are evaluated, nothing but a
    report needs the files of the images.
    """
    from mrcnn import annotations

    images = args.images or images
    need_files = getattr(args, "detections", None) is None or args.report is not None
    return annotations.read(
        path,
        images,
        args.attribute,
        args.label,
        keep_empty,
        need_files,
        crowds=args.crowds,
        root=root,
    )


def _read_subset(args: argparse.Namespace, subset: str) -> Annotations | None:
    """The images of a subset ("train", "val") of --dataset; None if it has no such subset.

    Tried in this order: a json with the subset in its own name or its folder's; for YOLO, the
    images of that subset in data.yaml, or in a folder with its name; a folder with its name; Open
    Images' csv of masks; CVAT's train.xml or val.xml, or Pascal VOC's list; images in a folder with
    its name within images/.
    """
    from mrcnn import annotations, coco, files, open_images

    folder = pathlib.Path(args.dataset)
    keep_empty = subset == "val"
    if folder.suffix.lower() in annotations.YAML_SUFFIXES:
        return _of_subset(_read(args, folder, None, keep_empty), folder, subset)
    if not folder.is_dir():
        return None
    for kind, year in itertools.product(("instances", "panoptic"), YEARS):
        path = coco.find_json(folder, subset, year, kind)
        if path.is_file() and coco.says_a_subset(path, folder, subset):
            images = _images_of(folder, path, subset, year)
            return _read(args, path, images, keep_empty, root=folder)
    if annotations.reads_as_yolo(str(folder)):
        return _of_subset(_read(args, folder, None, keep_empty), folder, subset)
    for place in (folder, folder / "gtFine"):  # Cityscapes
        for word in coco.SUBSET_WORDS[subset]:
            if (place / word).is_dir():
                return _read(args, place / word, None, keep_empty)
    words = coco.SUBSET_WORDS[subset]
    for file in open_images.open_images_in(str(folder)):
        if open_images.subset_of_csv(file) in words:
            return _read(args, file, None, keep_empty)
    for word in words:
        task = folder / f"{word}.xml"
        if task.is_file():
            return _read(args, task, None, keep_empty)
        for kind in ("Segmentation", "Main"):
            listing = folder / "ImageSets" / kind / f"{word}.txt"
            if listing.is_file():
                return _listed(_read(args, folder, None, keep_empty), listing)
    for images_folder in files.IMAGE_FOLDERS:
        names = []
        if (folder / images_folder).is_dir():
            names = [
                place.name.lower() for place in (folder / images_folder).iterdir() if place.is_dir()
            ]
        if not set(words).isdisjoint(names):
            return _of_subset(_read(args, folder, None, keep_empty), folder, subset)
    return None


def _listed(annotated: Annotations, listing: pathlib.Path) -> Annotations | None:
    """The images in a list of Pascal VOC; None if there are none.

    The list has their paths below JPEGImages/, without suffix.
    """
    import dataclasses

    from mrcnn import files

    names = {line.strip().strip('"') for line in files.read_text(listing).splitlines()}
    images = []
    for image in annotated.images:
        parts = pathlib.PurePosixPath(image.name.replace("\\", "/")).with_suffix("").parts
        if not names.isdisjoint(("/".join(parts), "/".join(parts[1:]))):
            images.append(image)
    if not images:
        return None
    return dataclasses.replace(annotated, images=images)


def _images_of(
    folder: pathlib.Path, path: pathlib.Path, subset: str, year: str
) -> pathlib.Path | None:
    """The folder of a json's images in COCO's own layout; None for another layout."""
    if path.parent not in (folder, folder / "annotations"):
        return None
    for place in (folder / f"{subset}{year}", folder / "images" / f"{subset}{year}"):
        if place.is_dir():
            return place
    return None


def _of_subset(annotated: Annotations, path: pathlib.Path, subset: str) -> Annotations | None:
    """The images of a subset, by data.yaml (YOLO) or by the names of folders; None without any."""
    import dataclasses

    from mrcnn import annotations, coco

    images = annotations.yolo_subset(annotated, path, subset)
    if not images:
        words = set(coco.SUBSET_WORDS[subset])
        for image in annotated.images:
            folders = image.name.replace("\\", "/").lower().split("/")[:-1]
            # Darknet's folders are obj_train_data and obj_val_data.
            plain = [name.removeprefix("obj_").removesuffix("_data") for name in folders]
            if not words.isdisjoint(name.rstrip("0123456789") for name in plain):
                images.append(image)
    if not images:
        return None
    return dataclasses.replace(annotated, images=images)


# ---- Commands ------------------------------------------------------------------------------------


def _stages(args: argparse.Namespace) -> list[tuple[int, str, float]]:
    """The stages of `commands.train`; of a run that goes on, those that it began with."""
    stages = [(20, "heads", 1.0), (40, "all", 0.1)]
    from_nothing = [(3, "all", 1.0)]
    if args.small or args.weights == "none":
        return from_nothing
    if args.weights == "last":
        _import_keras()
        from mrcnn import training

        folder = os.path.dirname(str(training.find_last(args.logs, args.name)))
        state = training.read_state(training.resume_path(folder, args.name))
        # With trained weights all layers are trained after the heads were.
        if state and state["plan"]["layers"] == ".*" and state["first_epoch"] < stages[0][0]:
            return from_nothing
    return stages


def _classes_of(training: Annotations, validation: Annotations) -> list[str]:
    """The classes of both sets: those of the training set, then others, which are warned of."""
    from mrcnn import reading

    used = reading.class_names_of(validation.images)
    others = sorted(used.difference(training.classes))
    if others:
        logger.warning(
            "%s: classes that no image to train on has, so that none of their objects will be"
            " detected: %s",
            validation.path,
            files.several(map(repr, others)),
        )
    return [*training.classes, *others]


def _train(args: argparse.Namespace) -> dict[str, Any]:
    from mrcnn import annotations, commands

    if not args.weights:
        raise _UsageError("train needs --weights: coco, imagenet, last, none or a file")
    commands.check_weights(args)
    config = _base_config(args)
    config.NAME = args.name
    if not config.HORIZONTAL_FLIP:
        config.HORIZONTAL_FLIP = 0.5
    _with_changes(config, args)
    training, validation = _sets(args)
    print(training.summary())
    print(f"{len(validation.images)} images to validate on")
    classes = _classes_of(training, validation)
    train_set = annotations.AnnotatedDataset.of("mrcnn", training, classes)
    val_set = annotations.AnnotatedDataset.of("mrcnn", validation, train_set.class_names[1:])
    config.NUM_CLASSES = len(train_set.class_names)
    stages = _stages(args)
    _import_keras()
    model = commands.load_model("training", config, args)
    commands.train(model, train_set, val_set, stages, args)
    return {
        "weights": str(model.find_last()),
        "folder": model.log_dir,
        "epochs": model.epoch,
        "classes": train_set.class_names[1:],
        "images": train_set.num_images,
    }


def _evaluate(args: argparse.Namespace) -> dict[str, Any]:
    from mrcnn import annotations, commands

    _check_tiles(args)
    commands.check_output(args)
    if args.report is not None:
        try:
            commands.report_path(args)
        except ValueError as error:
            raise _UsageError(f"--report: {error}") from error
    if args.detections is not None:
        return _evaluate_detections(args)
    if not commands.sets(args, "DETECTION_MIN_CONFIDENCE") and not _is_exported(args.weights):
        args.set.append("DETECTION_MIN_CONFIDENCE=0.0")  # AP counts detections of any score
    info = _info_of_weights(args)
    annotated = _to_evaluate(args)
    model, names, _ = _model_of(args, info)
    if info is None:
        _warn_of_limit(model, args)
    dataset = annotations.dataset_of(annotated, names[1:])
    return _evaluated(commands.evaluate(model, dataset, args), args)


def _to_evaluate(args: argparse.Namespace) -> Annotations:
    """The images of --subset."""
    if args.subset == "all":
        return _read(args, args.dataset, keep_empty=True)
    if args.subset == "train":
        return _sets(args)[0]
    own = _own_validation_set(args)
    if own is None and args.detections is not None and args.subset is None:
        return _read(args, args.dataset, keep_empty=True)
    return own or _sets(args)[1]


def _evaluate_detections(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluates the file of --detections."""
    from mrcnn import commands, detections

    given = {
        "--weights": args.weights != "last",
        "--config": args.config,
        "--small": args.small,
        "--set": args.set,
        "--tile": args.tile,
        "--threads": args.threads,
    }
    for option, value in given.items():
        if value:
            raise _UsageError(f"{option} is of a model; --detections has its results already")
    rows = detections.read_rows(args.detections)
    annotated = _to_evaluate(args)
    return _evaluated(commands.evaluate_detections(rows, annotated, args), args)


def _evaluated(result: Any, args: argparse.Namespace) -> dict[str, Any]:
    """What --json prints of an `Evaluation` that is saved in --output."""
    from mrcnn import commands

    figures = json.loads((pathlib.Path(args.output) / "figures.json").read_text(encoding="utf-8"))
    done = {"output": args.output, "images": result.images, **figures}
    if args.report is not None:
        done["report"] = str(commands.report_path(args))
    return done


def _warn_of_limit(model: Any, args: argparse.Namespace) -> None:
    """Warns if an exported model omits detections with low scores, which AP needs."""
    min_score = model.config.DETECTION_MIN_CONFIDENCE
    if min_score > 0:
        logger.warning(
            "%s leaves out detections with scores below %g (its DETECTION_MIN_CONFIDENCE), so that"
            " AP is too low; for an evaluation: mrcnn export --set DETECTION_MIN_CONFIDENCE=0",
            args.weights,
            min_score,
        )


def _check_tiles(args: argparse.Namespace) -> None:
    """Usage error for an invalid --tile or --overlap."""
    if args.tile is not None and args.tile < 1:
        raise _UsageError(f"--tile is a number of pixels from 1 on. Received: {args.tile}")
    if args.overlap is not None and (args.tile is None or not 0 <= args.overlap < args.tile):
        raise _UsageError(
            "--overlap goes with --tile, is 0 or more and less than it. Received: --overlap"
            f" {args.overlap}, --tile {args.tile}"
        )


def _detect(args: argparse.Namespace) -> dict[str, Any]:
    from mrcnn import commands, media

    _check_tiles(args)
    commands.check_output(args)
    for source in args.inputs:
        media.find_files(source)
    commands.check_tracking(args)
    model, names, category_ids = _inference_model(args)
    done = commands.detect(model, names, args, category_ids)
    rows = json.loads((pathlib.Path(args.output) / "results.json").read_text(encoding="utf-8"))
    return {
        "output": args.output,
        "written": done.written,
        "pictures": done.pictures,
        "objects": len(rows),
        "skipped": [{"file": str(path), "reason": reason} for path, reason in done.skipped],
    }


def _batch(args: argparse.Namespace) -> dict[str, Any]:
    import dataclasses

    from mrcnn import batch, commands

    commands.check_weights(args)
    if _is_exported(args.weights):
        _refuse_settings(args)
        if args.batch_size > 1:
            raise _UsageError(f"{args.weights} has its batch size in itself; without --batch-size")
        summary = batch.run_command(
            batch.Exported(os.path.abspath(args.weights), args.threads, args.device), args
        )
    else:
        _refuse_runtime_options(args)
        config, names, _ = _settings_of_weights(args)
        summary = commands.batch(config, names, args)
    return {"output": args.output, **dataclasses.asdict(summary)}


def _export(args: argparse.Namespace) -> dict[str, Any]:
    from mrcnn import commands

    if _is_exported(args.weights):
        raise _UsageError(f"{args.weights} is exported already")
    model, names, _ = _inference_model(args)
    return {"file": commands.export(model, names, args)}


def _inspect(args: argparse.Namespace) -> dict[str, Any]:
    drawn: set[str] = set()
    entries = [_inspected(path, args, drawn) for path in args.paths]
    for entry in entries:
        for key, value in entry.items():
            if isinstance(value, dict):
                value = ", ".join(f"{name} {count}" for name, count in value.items())
            elif isinstance(value, list):
                value = "".join(f"\n  {part}" for part in value)
            print(f"{key}: {value}")
        print()
    return {"inspected": entries}


def _inspected(path: str, args: argparse.Namespace, drawn: set[str]) -> dict[str, Any]:
    """A file or folder as `mrcnn inspect --json` describes it.

    drawn: paths of the drawings of this call; edited.
    """
    from mrcnn import media

    if not os.path.exists(path):
        raise FileNotFoundError(f"No file or folder {path}")
    if _is_exported(path) and not _is_xml_of_annotations(path):
        return _inspected_model(path)
    if path.lower().endswith((".h5", ".keras", ".hdf5")):
        return _inspected_weights(path)
    if os.path.isfile(path) and files.is_image_name(path):
        return _inspected_image(path)
    if pathlib.Path(path).suffix.lower() in media.VIDEO_SUFFIXES and media.is_video(path):
        return _inspected_video(path)
    return _inspected_dataset(path, args, drawn)


def _is_xml_of_annotations(path: str) -> bool:
    """Whether a file is an xml of CVAT or Pascal VOC, and not an OpenVINO model."""
    if not path.lower().endswith(".xml") or not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return b"<annotation" in file.read(1000)


def _inspected_model(path: str) -> dict[str, Any]:
    from mrcnn import runtime

    model = runtime.load(path)
    metadata = model.metadata
    entry = {
        "exported model": path,
        "classes": model.class_names[1:],
        "input": "x".join(str(side or "any") for side in model.shape),
        "version": metadata.version,
        "weights": dict(metadata.weights),
    }
    if metadata.calibration:
        entry["computes in"] = f"int8, calibrated with {metadata.calibration} images"
    return entry


def _inspected_weights(path: str) -> dict[str, Any]:
    from mrcnn import weights

    layers, names = weights.read_legacy(path)
    count = sum(int(array.size) for arrays in layers.values() for _, array in arrays)
    return {
        "weights": path,
        "layers": f"{len(layers)} with weights, of {len(names)}",
        "parameters": count,
        **{key.lower(): value for key, value in _settings_in_weights(path).items()},
    }


def _inspected_image(path: str) -> dict[str, Any]:
    """The image's size; ValueError for a damaged image."""
    from mrcnn import utils

    shown, stored = utils.image_sizes(path)
    if shown[0] * shown[1] <= utils.MAX_PIXELS:  # larger ones can only be read in tiles
        utils.read_image(path)
    entry = {"image": path, "height": shown[0], "width": shown[1]}
    if shown != stored:
        entry["note"] = "the camera noted that it is to be turned"
    return entry


def _inspected_video(path: str) -> dict[str, Any]:
    """The video's frames; ValueError for one that can't be read."""
    from mrcnn import media

    try:
        frames, rate = media.video_info(path)
        height, width = next(media.read_video(path)).shape[:2]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return {
        "video": path,
        "frames": frames or "not in its header",
        "frames per second": round(rate, 3),
        "height": height,
        "width": width,
    }


def _inspected_dataset(path: str, args: argparse.Namespace, drawn: set[str]) -> dict[str, Any]:
    import collections

    import numpy as np

    annotated = _read(args, path, keep_empty=True)
    objects: collections.Counter = collections.Counter(dict.fromkeys(annotated.classes, 0))
    crowds = 0
    for image in annotated.images:
        objects.update(region.name for region in image.regions)
        crowds += sum(region.crowd for region in image.regions)
    sides = np.array([(image.height, image.width) for image in annotated.images])
    entry = {
        "annotations": path,
        "images": len(annotated.images),
        "without objects": sum(not image.regions for image in annotated.images),
        "height": f"{sides[:, 0].min()} to {sides[:, 0].max()}",
        "width": f"{sides[:, 1].min()} to {sides[:, 1].max()}",
        "objects": dict(objects),
        "crowds": crowds,
        "problems": annotated.problems,
    }
    if args.draw:
        entry["drawn"] = _drawn(annotated, args, drawn)
    return entry


def _drawn(annotated: Annotations, args: argparse.Namespace, drawn: set[str]) -> list[str]:
    """Draws the objects of the first images. Returns the paths of the drawings.

    drawn: paths of the drawings of this call, which are not replaced; edited.

    Raises:
        ValueError: a drawing would replace an image of the dataset.
    """
    import dataclasses

    import numpy as np

    from mrcnn import annotations, convert, inspection, media

    selected = dataclasses.replace(annotated, images=annotated.images[: args.draw])
    dataset = annotations.AnnotatedDataset.of("mrcnn", selected)
    paths = []
    for name in convert.target_names(selected.images, flat=True):
        plain = pathlib.Path(args.output) / pathlib.Path(name).with_suffix(".png")
        path = plain
        number = 1
        while str(path) in drawn:
            number += 1
            path = plain.with_stem(f"{plain.stem}_{number}")
        drawn.add(str(path))
        paths.append(path)
    inputs = {os.path.realpath(image.path) for image in annotated.images}
    replaced = [str(path) for path in paths if os.path.realpath(path) in inputs]
    if replaced:
        raise ValueError(
            f"the drawings would replace {len(replaced)} images of {annotated.path}"
            f" ({files.several(replaced)}); choose another --output. Received: {args.output}"
        )
    for image_id, path in zip(dataset.image_ids, paths):
        truth = inspection.true_objects(dataset, image_id)
        truth["scores"] = None
        picture = media.paint(dataset.load_image(image_id), truth, dataset.class_names)
        media.write_image(path, np.asarray(picture))
    return list(map(str, paths))


def _convert(args: argparse.Namespace) -> dict[str, Any]:
    from mrcnn import convert

    report = convert.convert(
        args.source,
        args.to,
        args.output,
        args.images,
        args.attribute,
        args.label,
        args.shapes,
        args.tolerance,
        args.copy,
        args.overwrite,
        args.crowds,
    )
    print(report.text())
    return report.to_dict()


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """Prints settings with their meaning, and which of them a config changes."""
    from mrcnn import commands, config as configs, manual

    config = _with_changes(_base_config(args), args)
    changed = commands.changed_settings(config)
    groups = manual.groups(pathlib.Path(configs.__file__))
    requested = [name.upper() for name in args.names]
    all_names = [name for group in groups for name in group.defaults]
    for part in requested:
        if not any(part in name for name in all_names):
            raise _UsageError(f"no setting has {part!r} in its name (mrcnn settings lists all)")
    entries = {}
    section = ""
    for group in groups:
        names = [name for name in group.defaults if _is_requested(name, requested)]
        if args.changed:
            names = [name for name in names if name in changed]
        if not names:
            continue
        if group.section != section:
            section = group.section
            print(f"---- {section} ----\n")
        meaning = _paragraphs(group.text)
        for name in names:
            value = _shown(getattr(config, name))
            default = group.defaults[name]
            line = f"{name} = {value}"
            if name in changed:
                line += f"    (Config: {' '.join(default.split())})"
            print(line)
            entries[name] = {
                "value": commands.plain_setting(getattr(config, name)),
                "default": " ".join(default.split()),
                "changed": name in changed,
                "section": group.section,
                "meaning": "\n".join(meaning),
            }
        print("\n".join(map(_filled, meaning)) + "\n")
    return {"config": type(config).__name__, "settings": entries}


def _paragraphs(lines: Sequence[str]) -> list[str]:
    """A comment as paragraphs; indented lines stay separate."""
    paragraphs: list[str] = []
    for line in lines:
        if line.startswith(" ") or not paragraphs or paragraphs[-1].startswith(" "):
            paragraphs.append(line)
        else:
            paragraphs[-1] += " " + line.strip()
    return paragraphs


def _filled(paragraph: str) -> str:
    """A paragraph wrapped at 84 columns and indented by four; list items aren't wrapped."""
    if not paragraph.startswith(" "):
        paragraph = textwrap.fill(paragraph, 84)
    return textwrap.indent(paragraph, "    ")


def _is_requested(name: str, requested: Sequence[str]) -> bool:
    """Whether a setting was requested, by its name or by a part of it; True for no request."""
    if name in requested:
        return True
    parts = [part for part in requested if part not in _setting_names()]
    return not requested or any(part in name for part in parts)


def _setting_names() -> set[str]:
    from mrcnn.config import setting_names

    return setting_names()


def _shown(value: Any) -> str:
    """A setting's value as text."""
    if callable(value):
        return getattr(value, "__name__", repr(value))
    if hasattr(value, "tolist"):
        return repr(value.tolist())
    return repr(value)


def _completion(args: argparse.Namespace) -> dict[str, Any]:
    from mrcnn import config as configs

    text = completion.script(args.shell, build_parser(), sorted(configs.setting_names()))
    print(text, end="")
    return {"shell": args.shell, "script": text}


COMMANDS: dict[str, tuple[str, Callable, Callable]] = {
    "train": ("train on your own images", _train_options, _train),
    "evaluate": ("COCO's figures on a dataset", _evaluate_options, _evaluate),
    "detect": ("find objects on images and videos", _detect_options, _detect),
    "batch": ("find objects on millions of images, into Parquet files", _batch_options, _batch),
    "export": ("write a model for another runtime", _export_options, _export),
    "inspect": ("what a dataset, image or weight file holds", _inspect_options, _inspect),
    "convert": ("annotations from one format to another", _convert_options, _convert),
    "settings": ("every setting with its meaning", _settings_options, _settings),
    "completion": ("a script that completes these commands", _completion_options, _completion),
}
EXAMPLES = {
    "train": "mrcnn train --dataset=photos --weights=coco\n"
    "mrcnn train --dataset=photos --weights=none --small",
    "evaluate": "mrcnn evaluate --dataset=photos\n"
    "mrcnn evaluate --dataset=/data/coco --weights=coco --limit=500\n"
    "mrcnn evaluate --dataset=photos --report\n"
    "mrcnn evaluate --dataset=labels.json --detections=results.json\n"
    "mrcnn evaluate --dataset=scenes --tile=1024",
    "detect": 'mrcnn detect photo.jpg --weights=coco\nmrcnn detect photos/ "more/*.jpg" film.mp4\n'
    "mrcnn detect scene.tif --tile=1024 --overlap=256",
    "batch": "mrcnn batch photos/ --weights=coco --output=found\n"
    "mrcnn batch s3://bucket/photos --weights=model.onnx --output=s3://bucket/found",
    "export": "mrcnn export model.onnx --weights=coco",
    "inspect": "mrcnn inspect photos --draw=5\nmrcnn inspect mask_rcnn_coco.h5",
    "convert": "mrcnn convert photos/via_region_data.json out --to=coco",
    "settings": "mrcnn settings RPN\nmrcnn settings --config=PaperConfig --changed",
    "completion": 'eval "$(mrcnn completion bash)"          (in ~/.bashrc)\n'
    'eval "$(mrcnn completion zsh)"           (in ~/.zshrc, behind compinit)\n'
    "mrcnn completion fish > ~/.config/fish/completions/mrcnn.fish",
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command, with a subparser for each of `COMMANDS`."""
    parser = _Parser(
        prog="mrcnn",
        description="Mask R-CNN: objects of an image, each with its class, box and mask.",
        epilog="mrcnn COMMAND --help tells the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"mrcnn {mrcnn.__version__}")
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (help_text, _, _) in COMMANDS.items():
        _fill(parsers.add_parser(name, help=help_text), name)
    parser.set_defaults(parsers=parsers.choices)
    return parser


def _fill(parser: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    """Adds description, examples and options to a command's parser."""
    help_text, add_options, _ = COMMANDS[name]
    parser.description = f"{help_text[0].upper()}{help_text[1:]}."
    parser.epilog = "examples:\n" + textwrap.indent(EXAMPLES[name], "  ")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_options(parser)
    _add_common(parser)
    return parser


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses a command line; raises `_ParseError` for wrong options and SystemExit after --help.

    Inputs may come before, between and after the options, which argparse only supports for a parser
    without subparsers.
    """
    if arguments and arguments[0] in COMMANDS:
        parser = _fill(_Parser(prog=f"mrcnn {arguments[0]}"), arguments[0])
        args = files.parsed(parser, arguments[1:])
        args.command = arguments[0]
        return args
    return build_parser().parse_args(arguments)


def _set_up() -> None:
    """Sets up logging as in the samples, and streams that can print any file name."""
    # At every start, TensorFlow's cost model warns of an operation without a known cost.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name in ("commands", "evaluate", "media"):
        logging.getLogger(f"mrcnn.{name}").setLevel(logging.INFO)


def _run(args: argparse.Namespace) -> None:
    """Runs a command; with --json its output goes to stderr and its result to stdout."""
    run = COMMANDS[args.command][2]
    if not args.json:
        run(args)
        return
    output: Any = sys.stderr
    if args.command not in JOBS:
        output = io.StringIO()  # they print the same as the json has
    with contextlib.redirect_stdout(output):
        result = run(args)
    print(json.dumps(result, default=str))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command `mrcnn`.

    Args:
        arguments: list of arguments; None for those of the command line.

    Returns:
        the exit code: 0, 1 for a failed job, 2 for wrong options, 130 for an interrupted job.
    """
    if arguments is None:
        arguments = sys.argv[1:]
    try:
        args = _parse(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    except _ParseError as error:
        message, program = error.args
        return _fail(program, message, USAGE, "--json" in arguments)
    _set_up()
    program = f"mrcnn {args.command}"
    try:
        _run(args)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        return _fail(program, "interrupted", INTERRUPTED, args.json)
    except BrokenPipeError:
        # Discard the rest of the buffer, which has no reader either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except _UsageError as error:
        return _fail(program, str(error), USAGE, args.json)
    except (ValueError, OSError, ImportError, MemoryError) as error:
        if args.traceback:
            raise
        return _fail(program, files.in_words(error) or "not enough memory", FAILED, args.json)


def _fail(program: str, message: str, code: int, as_json: bool) -> int:
    """Prints in one line why a command failed. Returns the exit code."""
    line = " ".join(message.split())
    if as_json:
        print(json.dumps({"error": line}))
    print(f"{program}: error: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
