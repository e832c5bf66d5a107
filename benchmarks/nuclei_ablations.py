"""What helps the small network of the nuclei: each setting trained twice with one budget.

    python benchmarks/nuclei_ablations.py --dataset ../shared/data/dsb2018
        trains what is missing and prints the table of all
    python benchmarks/nuclei_ablations.py --dataset ... --only giou mosaic --minutes 30
        some of them; begins no further run after so many minutes

Every row differs from the first one in what it names and sees the same number of crops, from the
same two seeds. Results lie in --folder, one file for each run, and are not made again. Rows of test
time alone take the weights of the first.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from benchmarks import timing  # noqa: E402
from mrcnn import commands, files, media  # noqa: E402
from samples.nucleus import bowl, nucleus  # noqa: E402

SHARED = pathlib.Path(os.environ.get("MRCNN_SHARED", ROOT.parent / "shared"))

_CONVOLUTIONAL_HEAD = {
    "BOX_HEAD_CONVS": 4,
    "BOX_HEAD_FCS": 1,
    "BOX_HEAD_CHANNELS": 64,
    "BOX_HEAD_CONV_NORM": "group",
    "BOX_HEAD_NORM": None,
}

EVERY_IMAGE_ONCE = "every image once"
# name: (settings beside the first one's, what the row says)
TRAINED: dict[str, tuple[dict[str, Any], str]] = {
    "base": ({}, "`nucleus.py train --small`"),
    EVERY_IMAGE_ONCE: ({}, "stained and bright images no more often than the others"),
    "scale jitter": ({"SCALE_JITTER": (0.5, 2.0)}, "large-scale jitter of .5 to 2"),
    "copy-paste": ({"COPY_PASTE": 0.5}, "nuclei of another image pasted over every second one"),
    "mosaic": ({"MOSAIC": 0.5}, "every second example of four images"),
    "giou": ({"BBOX_LOSS": "giou", "RPN_BBOX_LOSS": "giou"}, "GIoU in place of smooth L1"),
    "4conv1fc": (_CONVOLUTIONAL_HEAD, "box head of 4 convolutions with group norm and 1 layer"),
    "unstretched": ({"IMAGE_PERCENTILES": (), "IMAGE_GAMMA": 1.0}, "images as they are"),
    "no gamma": ({"IMAGE_GAMMA": 1.0}, "contrast stretched, without its square root"),
    "no scale jitter": ({"SCALE_JITTER": ()}, "every image in its own scale"),
    "anchors from 8": ({"RPN_ANCHOR_SCALES": (8, 16, 32, 64, 128)}, "larger anchors"),
    "stride 4": (
        {
            "BACKBONE_POOL": True,
            "BACKBONE_STRIDES": (4, 8, 16, 32, 64),
            "RPN_ANCHOR_SCALES": (8, 16, 32, 64, 128),
        },
        "with max pooling: maps from stride 4 on",
    ),
}
# What the rows of TRAINED are evaluated with: one view takes .3 CPU seconds, eight 4.5.
PLAIN: dict[str, Any] = {"TEST_FLIP": False, "TEST_BOX_VOTE": None, "IMAGE_MIN_SCALE": 1.0}
# name: settings of test time beside PLAIN, with the weights of "base"
TESTED: dict[str, tuple[dict[str, Any], str]] = {
    "boxes alone": (
        {"DETECTION_NMS_THRESHOLD": 0.3, "DETECTION_MASK_OVERLAP": 1.0},
        "duplicates told by boxes alone",
    ),
    "larger": ({"IMAGE_MIN_SCALE": 1.25}, "images detected 1.25 times as large"),
    "flips": ({"TEST_FLIP": "both"}, "four views; of an object the surest alone counts"),
    "turns": ({"TEST_FLIP": "turns"}, "eight views"),
    "votes": ({"TEST_FLIP": "turns", "TEST_BOX_VOTE": 0.5}, "eight views that vote"),
    "all": (
        {"TEST_FLIP": "turns", "TEST_BOX_VOTE": 0.5, "IMAGE_MIN_SCALE": 1.25},
        "what `evaluate --small` does",
    ),
}
SEEDS = (0, 1)


def train(name: str, seed: int, options: argparse.Namespace) -> pathlib.Path:
    """Weights of a row; trained unless they are there."""
    folder = options.folder / f"{name}-{seed}".replace(" ", "_")
    weights = folder / "weights.h5"
    if weights.exists():
        return weights
    from mrcnn import model as modellib

    settings = TRAINED[name][0]
    config = nucleus.NucleusSmallConfig(SEED=seed, STEPS_PER_EPOCH=options.steps, **settings)
    logs = folder / "logs"
    model = modellib.MaskRCNN("training", config, str(logs))
    dataset = nucleus.prepared_subset(options.dataset, "train")
    if name != EVERY_IMAGE_ONCE:
        nucleus.repeat_rare_kinds(dataset)
    began = time.monotonic()
    computed = time.process_time()
    model.train(
        dataset, None, config.LEARNING_RATE, 1, "all", augmentation=nucleus.small_augmentation()
    )
    figures = {
        "minutes": (time.monotonic() - began) / 60,
        "cpu_minutes": (time.process_time() - computed) / 60,
    }
    media.write_json(str(folder / "training.json"), figures)
    with files.atomic(str(weights)) as temporary:
        shutil.copyfile(model.find_last(), temporary)
    shutil.rmtree(logs)
    return weights


def evaluate(name: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """The bowl's metric of a row on the validation images; trains what it needs."""
    from mrcnn import evaluate as evaluation, model as modellib

    trained = name
    settings: dict[str, Any] = {}
    if name in TESTED:
        trained = "base"
        settings = TESTED[name][0]
    weights = train(trained, seed, options)
    settings = {**PLAIN, **TRAINED[trained][0], **settings}
    config = nucleus.NucleusSmallInferenceConfig(**settings)
    model = modellib.MaskRCNN("inference", config, str(options.folder))
    model.load_weights(str(weights))
    dataset = nucleus.prepared_subset(options.dataset, "val")
    by_kind = bowl.evaluate(evaluation.evaluate(model, dataset), dataset)
    minutes = json.loads((weights.parent / "training.json").read_text())
    kinds = {kind: row["score at .5"] for kind, row in by_kind.items() if kind != "all"}
    whole = by_kind["all"]
    return {"at .5": whole["score at .5"], "mean": whole["score"], **kinds, **minutes}


def table(results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Rows of the settings, each figure as the mean of its runs and their range.

    Args:
        results: {name: figures of each seed}.
    """
    head = ["setting", "what differs", "at .5", "mean", *bowl.KINDS, "CPU minutes"]
    rows = []
    for name, (_, text) in {**TRAINED, **TESTED}.items():
        runs = results.get(name)
        if not runs:
            continue
        cells = [_of_runs([run[key] for run in runs if key in run]) for key in head[2:-1]]
        minutes = sum(run["cpu_minutes"] for run in runs) / len(runs)
        rows.append([name, text, *cells, f"{minutes:.1f}"])
    return timing.table(head, rows)


def _of_runs(values: Sequence[float]) -> str:
    """ ".764 ± .004": the mean of the runs and half of their range."""
    if not values:
        return "–"
    mean = sum(values) / len(values)
    half = (max(values) - min(values)) / 2
    return f"{mean:.3f} ± {half:.3f}".replace("0.", ".")


def main(arguments: Sequence[str] | None = None) -> None:
    names = [*TRAINED, *TESTED]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=names, help="rows (default: all)")
    parser.add_argument("--steps", type=int, default=300, help="of 8 crops (default: %(default)s)")
    parser.add_argument("--dataset", type=pathlib.Path, default=SHARED / "data" / "dsb2018")
    parser.add_argument("--minutes", type=float, help="begin no further run after so many")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("demo/nuclei"))
    options = parser.parse_args(arguments)
    commands.prefer_onednn()
    began = time.monotonic()
    results: dict[str, list[dict[str, float]]] = {}
    for seed in SEEDS:
        for name in options.only or names:
            path = options.folder / f"{name}-{seed}-{options.steps}.json".replace(" ", "_")
            minutes = (time.monotonic() - began) / 60
            if not path.exists() and (options.minutes is None or minutes < options.minutes):
                media.write_json(str(path), evaluate(name, seed, options))
            if path.exists():
                results.setdefault(name, []).append(json.loads(path.read_text()))
    print(table(results))


if __name__ == "__main__":
    main()
