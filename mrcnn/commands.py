"""The commands of the samples: options, weights, training in stages, evaluating, detecting.

A sample brings a config, its datasets and a few lines; what all samples do alike is here:

    def main(arguments=None):
        parser = commands.parser(__doc__, ("train", "evaluate", "detect"))
        parser.add_argument("--subset", ...)                        # what only this sample has
        args = commands.parse(parser, arguments)
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
        # errors as one line, without a traceback
        commands.run(main)

Another command on pictures (a colour splash, say) is `media.process` with a function of its own,
and `detect` with `paint=` the same with the results file. Of a sample that makes its images,
`generated` is the whole main. Keras is imported when a model is made.
"""

import argparse
import copy
import json
import logging
import os
import pathlib
import shutil
import sys
import time

import numpy as np

from mrcnn import evaluate as evaluation, media

logger = logging.getLogger(__name__)

# The project's folder; of an installed package, which has none, the folder that one works in.
ROOT = pathlib.Path(__file__).resolve().parents[1]
ROOT = ROOT if (ROOT / "samples").is_dir() else pathlib.Path.cwd()
COCO_WEIGHTS = ROOT / "mask_rcnn_coco.h5"
COCO_CLASSES = 81
# Layers whose shape depends on the classes.
CLASS_LAYERS = ["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask"]


# ---- Options -------------------------------------------------------------------------------------


def boolean(text):
    """The value of an option such as --download, which is true alone and takes true and false after
    "="."""
    value = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(
        str(text).lower()
    )
    if value is None:
        raise argparse.ArgumentTypeError(f"true or false. Received: {text!r}")
    return value


def add_boolean(parser, name, help):
    """Adds an option that is False, True as --name, and also takes --name=True and --name=False."""
    parser.add_argument(
        name, type=boolean, nargs="?", const=True, default=False, metavar="BOOL", help=help
    )


def parser(
    description, names, logs=ROOT / "logs", limit=0, inputs="detect", dataset=True, epochs=None
):
    """A parser with the options that all samples have.

    Args:
        description: the sample's docstring.
        names: its commands.
        logs, limit: defaults.
        inputs: the command that takes images and videos, None if none does.
        dataset: False leaves --dataset out.
        epochs: default of --epochs; None for the last stage's.

    Returns:
        argparse.ArgumentParser, to which a sample may add options.
    """
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("command", choices=names)
    made.set_defaults(
        takes_inputs=inputs, **({} if inputs else {"inputs": [], "image": [], "video": []})
    )
    if inputs:
        made.add_argument(
            "inputs",
            nargs="*",
            default=[],
            metavar="INPUT",
            help=f"{inputs}: images, folders, globs or videos",
        )
    if dataset:
        made.add_argument("--dataset", metavar="FOLDER", help="folder of the data")
    made.add_argument(
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
    made.add_argument(
        "--logs", default=str(logs), metavar="FOLDER", help="checkpoints (default: %(default)s)"
    )
    made.add_argument(
        "--output",
        default="results",
        metavar="FOLDER",
        help="where evaluate and detect write (default: %(default)s)",
    )
    made.add_argument(
        "--limit",
        type=int,
        default=limit,
        metavar="N",
        help="images to evaluate on, 0 for all (default: %(default)s)",
    )
    made.add_argument(
        "--epochs",
        type=int,
        default=epochs,
        metavar="N",
        help=f"number of the last epoch (default: {epochs or 'that of the last stage'})",
    )
    made.add_argument(
        "--evaluate-every",
        type=int,
        default=0,
        metavar="N",
        help="train: log AP on validation images every N epochs (default: never)",
    )
    for name in ("--image", "--video") if inputs else ():
        made.add_argument(
            name, action="append", default=[], metavar="PATH", help=f"{inputs}: the same as INPUT"
        )
    made.add_argument(
        "--set", nargs="*", default=[], metavar="SETTING=VALUE", help="settings of the config"
    )
    made.add_argument(
        "--traceback", action="store_true", help="show where in the program an error comes from"
    )
    return made


def parse(parser, arguments=None):
    """Parses and checks what belongs together; sets up logging. Returns the namespace, `inputs`
    with all inputs.

    Raises:
        SystemExit: with a usage message.
    """
    # Intermixed: `detect --weights=last photo.jpg` as well as `detect photo.jpg --weights=last`.
    args = parser.parse_intermixed_args(arguments)
    args.inputs = [*args.inputs, *args.image, *args.video]
    if args.command == "train" and not args.weights:
        parser.error("train needs --weights: coco, imagenet, last, none or a path")
    if args.command == args.takes_inputs and not args.inputs:
        parser.error(
            f"{args.command} needs images, folders, globs or videos: {args.command} photo.jpg"
            " film.mp4"
        )
    if args.command != args.takes_inputs and args.inputs:
        parser.error(f"{args.command} takes no inputs. Received: {' '.join(args.inputs)}")
    if args.limit < 0:
        parser.error(f"--limit is 0 or more. Received: {args.limit}")
    args.weights = args.weights or "last"
    # TensorFlow's cost model warns of an operation that it can't price, at every start.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name in ("coco", "commands", "evaluate", "media"):
        logging.getLogger(f"mrcnn.{name}").setLevel(logging.INFO)
    return args


def configure(config, args):
    """Applies --set to a config and returns it. ValueError: an unknown setting, or a value of
    another kind."""
    config.override(args.set)
    return config


def inference_config(config, **settings):
    """A copy of a config that detects one image at a time, with other settings changed."""
    config = copy.copy(config)
    for name, value in {"GPU_COUNT": 1, "IMAGES_PER_GPU": 1, **settings}.items():
        setattr(config, name, value)
    return config


def run(main):
    """Calls main(); an error of what the user passed in ends the program with one message, not a
    traceback.

    What main() returns is for those who import it: it does not make the program fail.
    """
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except (ValueError, OSError, ImportError) as error:
        if "--traceback" in sys.argv:
            raise
        sys.exit(f"error: {error}")


# ---- Models --------------------------------------------------------------------------------------


def load_model(mode, config, args):
    """A `MaskRCNN` with the weights that --weights names.

    "coco" loads the released weights; in a training model with other classes the layers that depend
    on them stay random.

    Args:
        mode: "training" or "inference".
        config: its config.
        args: of `parse`: weights and logs.

    Raises:
        ValueError: weights that leave random what an inference model needs; a file that doesn't
            fit.
    """
    fits = args.weights != "coco" or config.NUM_CLASSES == COCO_CLASSES
    if mode == "inference" and (args.weights == "imagenet" or not fits):
        raise ValueError(
            f"--weights={args.weights} can begin a training; to detect {config.NUM_CLASSES - 1}"
            " classes weights that were trained on them are needed: 'last' or a file. "
            + (
                "They have no heads"
                if args.weights == "imagenet"
                else f"They know {COCO_CLASSES - 1} classes"
            )
        )
    from mrcnn import model as modellib, utils

    model = modellib.MaskRCNN(mode, config, args.logs)
    if args.weights == "none":
        return model
    exclude, by_name = None, False
    if args.weights == "coco":
        path = COCO_WEIGHTS
        if not path.exists():
            utils.download_trained_weights(str(path))
        if config.NUM_CLASSES != COCO_CLASSES:
            exclude = CLASS_LAYERS
    elif args.weights == "imagenet":
        path, by_name = model.get_imagenet_weights(), True
    elif args.weights == "last":
        path = model.find_last()
    else:
        path = args.weights
    logger.info("Loading weights %s", path)
    model.load_weights(
        path if isinstance(path, str) else str(path), by_name=by_name, exclude=exclude
    )
    return model


# ---- Names of classes ----------------------------------------------------------------------------


def save_classes(model, names):
    """Writes the class names, background first, beside the checkpoints of a model's run:
    classes.json."""
    return media.write_json(pathlib.Path(model.log_dir) / "classes.json", list(names))


def load_classes(config, args, default=None):
    """The class names, background first, that lie beside the weights, see `save_classes`.

    Args:
        config: its NAME is that of the runs among which --weights=last looks.
        args: of `parse`: weights and logs.
        default: what holds where there are none.

    Raises:
        ValueError: there are none, and no default.
    """
    path = args.weights
    if path == "last":
        from mrcnn import training

        path = training.find_last(args.logs, config.NAME)
    file = pathlib.Path(str(path)).parent / "classes.json"
    if path not in ("coco", "imagenet", "none") and file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    if default is None:
        raise ValueError(
            "Detecting needs the names of the classes, which training writes beside its weights. "
            f"Received: {args.weights}, and no file {file}"
        )
    return list(default)


# ---- Commands ------------------------------------------------------------------------------------


def train(model, train_set, val_set, stages, args=None, augmentation=None, callbacks=()):
    """Trains in stages; those that the weights are beyond are left out.

    Args:
        model: `MaskRCNN` in training mode.
        train_set, val_set: prepared datasets; val_set may be None.
        stages: [(number of the last epoch, layers, factor of LEARNING_RATE)].
        args: of `parse`: epochs, evaluate_every, limit; None for the stages as they are.
        augmentation: see `MaskRCNN.train`.
        callbacks: Keras callbacks.

    Raises:
        ValueError: the weights have reached the last epoch.
    """
    args = args or argparse.Namespace(epochs=None, evaluate_every=0, limit=0)
    last = args.epochs or stages[-1][0]
    if model.epoch >= last:
        raise ValueError(
            f"The weights have reached epoch {model.epoch} of {last}: nothing to train. "
            "--epochs with a higher number goes on"
        )
    if last > stages[-1][0]:
        stages = [*stages, (last, *stages[-1][1:])]
    callbacks = list(callbacks)
    if args.evaluate_every and val_set is not None:
        from mrcnn import training

        callbacks.append(
            training.EvaluationCallback(model, val_set, args.evaluate_every, limit=args.limit)
        )
    for end, layers, factor in stages:
        end = min(end, last)
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


def evaluate(model, dataset, args):
    """Prints and saves the figures on a dataset's images. An interrupted evaluation goes on where
    it was.

    Args:
        model: `MaskRCNN` in inference mode.
        dataset: prepared dataset.
        args: of `parse`: output, limit.

    Returns:
        `evaluate.Evaluation`.
    """
    image_ids = dataset.image_ids[: args.limit or None]
    result = evaluation.evaluate(
        model, dataset, image_ids, resume=pathlib.Path(args.output) / "evaluation.jsonl"
    )
    print(f"\n{result.table()}\n\n{result.summary()}\n")
    if result.unreadable:
        print(
            f"{len(result.unreadable)} of {result.images} images could not be read; their objects"
            " count as missed\n"
        )
    for path in result.save(args.output):
        print(path)
    return result


def detect(model, class_names, args, category_ids=None, paint=None):
    """Detects on the inputs, writes painted pictures and videos, results.json and images.json.

    results.json is a list of COCO results. images.json says which image_id is which file or frame
    (the number in a file's name where all have one, otherwise they are counted), so that
    `COCO("images.json").loadRes("results.json")` works. Files that can't be read are reported and
    skipped.

    Args:
        model: `MaskRCNN` in inference mode.
        class_names: names by class id.
        args: of `parse`: inputs, output.
        category_ids: {class id: category id of the results}; None for the class ids themselves.
        paint: f(picture, result) -> [H, W, 3] uint8; None for masks, boxes and names.

    Returns:
        `media.Processed`.
    """
    category_ids = category_ids or {i: i for i in range(1, len(class_names))}
    images, rows = [], []

    def process(pictures):
        results = model.detect([picture.image for picture in pictures])
        painted = []
        for picture, result in zip(pictures, results):
            height, width = picture.image.shape[:2]
            images.append(
                {"file_name": str(picture.path), "height": height, "width": width}
                | ({} if picture.frame is None else {"frame": picture.frame})
            )
            rows.append(evaluation.coco_results(0, result, category_ids))
            # Colours of a film stay with the class: objects change their order from frame to frame.
            painted.append(
                paint(picture, result)
                if paint
                else media.paint(
                    picture.image, result, class_names, by_class=picture.frame is not None
                )
            )
        return painted

    done = media.process(
        args.inputs, args.output, process, model.config.BATCH_SIZE, title="detecting"
    )
    for number, image, found in zip(_numbers(images), images, rows):
        image["id"] = number
        for row in found:
            row["image_id"] = number
    output = pathlib.Path(args.output)
    categories = [{"id": category_ids[i], "name": class_names[i]} for i in sorted(category_ids)]
    done.written += [
        media.write_json(output / "results.json", [row for found in rows for row in found]),
        media.write_json(
            output / "images.json",
            {"info": {}, "images": images, "annotations": [], "categories": categories},
        ),
    ]
    for path in done.written:
        print(path)
    print(
        f"{sum(map(len, rows))} objects on {done.pictures} images, {len(done.skipped)} files"
        " skipped"
    )
    return done


def _numbers(images):
    """Image ids: the numbers that are the files' names, as in COCO, or 1, 2, ... where they
    aren't."""
    stems = [pathlib.Path(image["file_name"]).stem for image in images]
    if all(stem.isascii() and stem.isdigit() for stem in stems) and len({*map(int, stems)}) == len(
        stems
    ):
        return [int(stem) for stem in stems]
    return (np.arange(len(images)) + 1).tolist()


# ---- Samples that make their images --------------------------------------------------------------

HELD_OUT = 1_000_000  # number of the first image that no run trains on


def generated(
    description,
    config_class,
    dataset_class,
    headline,
    folder,
    arguments=None,
    epochs=20,
    augmentation=None,
):
    """All of a sample that makes its images: demo (train, then evaluate), train, evaluate, detect.

    `demo` and `train` go on with an interrupted run; the others use images that no run trains on.

    Args:
        description: the sample's docstring.
        config_class: its `Config` class.
        dataset_class: f(count, first=number) that returns a prepared dataset; image number n is
            always the same.
        headline: f(Evaluation) that returns the figures of the last line.
        folder: default of --output; its logs/ is that of --logs.
        arguments: None for the command line's.
        epochs: default of --epochs.
        augmentation: f() that returns what `MaskRCNN.train` takes.
    """
    made = parser(
        description,
        ("demo", "train", "evaluate", "detect"),
        f"{folder}/logs",
        100,
        None,
        dataset=False,
        epochs=epochs,
    )
    made.set_defaults(output=folder, weights="last")
    made.add_argument("--images", dest="limit", type=int, metavar="N", help="the same as --limit")
    made.add_argument(
        "--seed", type=int, default=0, help="of weights, images and draws (default: %(default)s)"
    )
    made.add_argument(
        "--restart", action="store_true", help="demo, train: begin again; --logs is removed"
    )
    args = parse(made, arguments)
    # oneDNN's kernels, which TensorFlow leaves off on CPUs without AVX-512, take .47 s a step of
    # such small networks, not .64 s.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    try:
        config = configure(config_class(SEED=args.seed), args)
    except ValueError as error:
        made.error(str(error))  # a wrong --set is a wrong option
    unseen, trained = dataset_class(args.limit, first=HELD_OUT), ""
    if args.command in ("demo", "train"):
        seconds = _train_generated(
            config, dataset_class, unseen, args, augmentation and augmentation()
        )
        args.weights, trained = "last", f", trained in {seconds:.0f} s"
    if args.command == "train":
        return
    model = load_model("inference", inference_config(config, IMAGES_PER_GPU=4), args)
    result = None if args.command == "detect" else evaluate(model, unseen, args)
    print(_draw_sure(model, unseen, pathlib.Path(args.output) / "detections.png"))
    if result:
        print(f"{headline(result)}, on {result.images} images{trained}")


def _train_generated(config, dataset_class, unseen, args, augmentation):
    """Trains to --epochs, on with what is in --logs. Returns the seconds of all sessions."""
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
    clock = pathlib.Path(model.log_dir) / "seconds.json"
    before = json.loads(clock.read_text()) if clock.exists() else 0.0
    if model.epoch >= args.epochs:
        return before
    # Fresh images only: the run never sees one twice.
    dataset = dataset_class(
        args.epochs * config.STEPS_PER_EPOCH * config.BATCH_SIZE, first=config.SEED * 100_000
    )
    start = time.monotonic()
    write = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: clock.write_text(json.dumps(before + time.monotonic() - start))
    )
    train(
        model,
        dataset,
        unseen if args.evaluate_every else None,
        [(args.epochs, "all", 1.0)],
        args,
        augmentation,
        [write],
    )
    return before + time.monotonic() - start


def sure(result, score=0.5):
    """A result of `MaskRCNN.detect` without the detections below a score, for pictures."""
    kept = result["scores"] >= score
    return {
        name: value if value is None else value[..., kept] if name == "masks" else value[kept]
        for name, value in result.items()
    }


def _draw_sure(model, dataset, path, count=12):
    """Saves a picture of the detections above .5 on the first images. Returns its path."""
    from mrcnn import visualize

    images = [dataset.load_image(i) for i in dataset.image_ids[:count]]
    results = [sure(result) for result in model.detect(images)]
    path.parent.mkdir(parents=True, exist_ok=True)
    return visualize.draw_detections_grid(images, results, dataset.class_names, path)
