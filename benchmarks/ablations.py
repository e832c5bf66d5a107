"""The paper's ablations on the generated shapes, each trained with the same budget, in a table.

    python benchmarks/ablations.py
        trains what is missing, writes docs/ablations.md
    python benchmarks/ablations.py --minutes 7
        begins no further setting after so many minutes; call it again
    python benchmarks/ablations.py --only softmax
        one setting

Every setting differs from the first one in what its row names. All see the same images in the same
order, as often, from the same seed; results lie in --folder, one file each, and are not made again.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "samples" / "shapes")]
# As in `commands.generated`: faster steps of so small a network, where TensorFlow doesn't choose
# oneDNN by itself.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import shapes  # noqa: E402

from mrcnn import commands  # noqa: E402

# name: (settings beside the first one's, what the row says, the paper's figure)
SETTINGS = {
    "base": (
        {},
        "FPN, FCN mask head, class-specific sigmoid masks, RoIAlign with averaged samples",
        "33.6 (R50-FPN, table 2e)",
    ),
    "softmax": (
        {"MASK_ACTIVATION": "softmax"},
        "softmax across the classes instead of a sigmoid for each",
        "24.8 against 30.3 (R50-C4, table 2b)",
    ),
    "agnostic": (
        {"CLASS_AGNOSTIC_MASKS": True},
        "one mask for all classes instead of one for each",
        "29.7 against 30.3 (R50-C4, section 4.1)",
    ),
    "align_max": (
        {"ROI_ALIGN_REDUCE": "max"},
        "RoIAlign with the maximum of the samples",
        "30.2 against 30.3 (R50-C4, table 2c)",
    ),
    "pool": (
        {"ROI_POOLING": "pool"},
        "RoIPool instead of RoIAlign",
        "26.9 against 30.3 (R50-C4, table 2c)",
    ),
    "crop_and_resize": (
        {"ROI_POOLING": "crop_and_resize"},
        "crop_and_resize (matterport's) instead of RoIAlign",
        "not in the paper",
    ),
    "mlp": (
        {"MASK_HEAD": "mlp", "MASK_MLP_SIZE": 256},
        "two fully connected layers as mask head instead of convolutions",
        "31.5 against 33.6 (R50-FPN, table 2e)",
    ),
    "c4": (
        {
            "BODY": "c4",
            "BACKBONE_STRIDES": [16],
            "RPN_ANCHOR_SCALES": [(8, 16, 32, 64, 128)],
            "POOL_SIZE": 7,
            "MASK_POOL_SIZE": 7,
            "C4_HEAD_STRIDE": 1,
            "MASK_SHAPE": [14, 14],
            "MASK_HEAD_CONVS": 0,
            "TRAIN_ROIS_PER_IMAGE": 16,
        },
        "C4 instead of FPN: one map at stride 16, the ResNet's fifth stage as head, half the RoIs",
        "30.3 against 33.6 (R50, table 2a)",
    ),
    "no_mask": (
        {"USE_MASK": False},
        "without the mask branch: Faster R-CNN",
        "box 37.3 against 38.2 (R101-FPN, table 3)",
    ),
}


def run(name: str, steps: int, images: int, seed: int) -> dict[str, float]:
    """Trains and evaluates one setting. Returns a dict of figures."""
    import keras

    from mrcnn import evaluate, model as modellib

    settings = {"ROI_POOLING": "align", "MASK_HEAD_CONVS": 4, **SETTINGS[name][0]}
    config = shapes.ShapesConfig(
        SEED=seed, STEPS_PER_EPOCH=steps, RESUME_SECONDS=10_000, CHECK_IMAGES=10, **settings
    )
    keras.utils.set_random_seed(seed)
    logs = tempfile.mkdtemp()
    try:
        model = modellib.MaskRCNN("training", config, logs)
        dataset = shapes.ShapesDataset(steps * config.BATCH_SIZE, first=seed * 100_000)
        start = time.monotonic()
        model.train(dataset, None, config.LEARNING_RATE, 1, "all")
        seconds = time.monotonic() - start
        inference = modellib.MaskRCNN(
            "inference", commands.inference_config(config, IMAGES_PER_GPU=4), logs
        )
        inference.load_weights(model.find_last())
        result = evaluate.evaluate(
            inference, shapes.ShapesDataset(images, first=commands.HELD_OUT), progress=False
        )
    finally:
        shutil.rmtree(logs)
    figures = {"box AP": result.bbox["AP"], "box AP50": result.bbox["AP50"], "seconds": seconds}
    if result.segm:
        figures |= {
            "mask AP": result.segm["AP"],
            "mask AP50": result.segm["AP50"],
            "mask AP75": result.segm["AP75"],
        }
    return figures


def table(results: dict[str, dict], budget: dict[str, int]) -> str:
    """docs/ablations.md as text.

    Args:
        results: {name: figures}.
        budget: {"steps", "images", "seed"}.
    """
    lines = [
        "# Ablations",
        "",
        (
            "The paper's ablations as settings of this project, trained on the generated shapes of"
            f" `samples/shapes` from random weights, all with the same budget: {budget['steps']}"
            f" steps of 8 fresh images, seed {budget['seed']}, evaluated on {budget['images']}"
            " unseen images. Written by"
        ),
        "",
        "    python benchmarks/ablations.py",
        "",
        (
            f"on {platform.machine()}, {os.cpu_count()} CPU cores. AP in percent, by pycocotools."
            " The last column has the paper's own figures on COCO (arXiv 1703.06870v3): mask AP,"
            " of the row's choice against that of the choice it replaces, and in which network."
            " Shapes of 40 to 64 pixels after a few hundred steps are no COCO: the table proves"
            " that each setting trains. It is no proof of an effect: box AP, which a mask's"
            " setting hardly touches, moves by points, too. Rows trained at different times may"
            " come from machines of different speed."
        ),
        "",
        (
            "| setting | what differs from the first row | mask AP | AP50 | AP75 | box AP |"
            " training | paper |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, (settings, text, paper) in SETTINGS.items():
        if name not in results:
            continue
        figures = results[name]
        cells = []
        for key in ("mask AP", "mask AP50", "mask AP75", "box AP"):
            cell = "–"
            if key in figures:
                cell = f"{100 * figures[key]:.1f}"
            cells.append(cell)
        shown = ", ".join(f"`{key} = {value!r}`" for key, value in list(settings.items())[:1])
        lines.append(
            f"| {shown or '`ROI_POOLING = ' + repr('align') + '`'} | {text} | "
            + " | ".join(cells)
            + f" | {figures['seconds']:.0f} s | {paper} |"
        )
    missing = [name for name in SETTINGS if name not in results]
    if missing:
        lines += ["", f"Not trained yet: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="*", choices=list(SETTINGS), help="settings to train (default: all)"
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=200,
        help="training steps of each setting (default: %(default)s)",
    )
    parser.add_argument(
        "--images",
        type=int,
        default=100,
        help="unseen images to evaluate on (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of weights, images and draws (default: %(default)s)"
    )
    parser.add_argument(
        "--minutes", type=float, help="begin no further setting after so many minutes"
    )
    parser.add_argument(
        "--folder", default="demo/ablations", help="results of each setting (default: %(default)s)"
    )
    parser.add_argument(
        "--output",
        default=str(ROOT / "docs" / "ablations.md"),
        help="the table (default: %(default)s)",
    )
    args = parser.parse_args(arguments)
    budget = {"steps": args.steps, "images": args.images, "seed": args.seed}
    folder = pathlib.Path(args.folder)
    start = time.monotonic()
    results = {}
    folder.mkdir(parents=True, exist_ok=True)
    for name in SETTINGS:
        path = folder / f"{name}-{args.steps}-{args.images}-{args.seed}.json"
        late = args.minutes is not None and time.monotonic() - start > 60 * args.minutes
        if not path.exists() and not late and name in (args.only or SETTINGS):
            figures = run(name, **budget)
            path.with_suffix(".part").write_text(json.dumps(figures))
            path.with_suffix(".part").replace(path)
            print(name, {key: round(value, 3) for key, value in figures.items()}, flush=True)
        if path.exists():
            results[name] = json.loads(path.read_text())
    pathlib.Path(args.output).write_text(table(results, budget))
    print(table(results, budget))


if __name__ == "__main__":
    main()
