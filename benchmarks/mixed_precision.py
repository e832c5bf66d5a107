"""AP of a trained model in float32, mixed_bfloat16 and mixed_float16, on the same shapes.

    make demo; python benchmarks/mixed_precision.py [--weights PATH] [--images 100]

Ends with an error where an AP under mixed precision is more than 1% away from float32's.
"""

import argparse
import os
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "samples" / "shapes")]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import shapes  # noqa: E402

from benchmarks import timing  # noqa: E402
from mrcnn import commands  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", help="weight file (default: the last checkpoint of demo/logs)")
    parser.add_argument("--images", type=int, default=100)
    options = parser.parse_args()
    import keras

    from mrcnn import evaluate, model as modellib, training

    weights = options.weights or training.find_last("demo/logs", shapes.ShapesConfig.NAME)
    dataset = shapes.ShapesDataset(options.images, first=commands.HELD_OUT)
    figures = {}
    for policy in ("float32", "mixed_bfloat16", "mixed_float16"):
        keras.mixed_precision.set_global_policy(policy)
        model = modellib.MaskRCNN(
            "inference", shapes.ShapesConfig(IMAGES_PER_GPU=4), tempfile.mkdtemp()
        )
        model.load_weights(weights)
        result = evaluate.evaluate(model, dataset, progress=False)
        figures[policy] = (
            result.bbox["AP"],
            result.bbox["AP50"],
            result.segm["AP"],
            result.segm["AP50"],
        )
    print(
        timing.table(
            ["policy", "box AP", "box AP50", "mask AP", "mask AP50"],
            [[policy, *(f"{value:.4f}" for value in row)] for policy, row in figures.items()],
        )
    )
    worst = max(
        abs(value / plain - 1)
        for row in figures.values()
        for value, plain in zip(row, figures["float32"])
    )
    print(f"largest difference from float32: {worst:.2%}")
    if worst > 0.01:
        sys.exit("error: more than 1%")


if __name__ == "__main__":
    main()
