"""How cost grows with pixels, proposals, instances and classes: a table, slopes and a plot.

    python benchmarks/growth.py [--out growth.png] [--repeats 5]

The network is small (ResNet-18, narrow heads), so that the parts which grow with the other three
are not drowned by the backbone. The slope is that of a straight line through log cost and log size
at the upper half of the sizes: 1 is linear, constant parts make it smaller.
"""

import argparse
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402

from benchmarks import timing  # noqa: E402
from benchmarks.numpy_routines import ellipses, random_boxes, soft_masks  # noqa: E402
from mrcnn import data, utils  # noqa: E402
from mrcnn.config import Config  # noqa: E402


def detector(**settings: Any) -> Callable[[], Any]:
    """f() that detects on one image; every proposal is a candidate, so that nothing ends early."""
    from mrcnn import model as modellib

    side = settings.pop("side", 256)
    config = Config(
        **{
            "NAME": "growth",
            "NUM_CLASSES": 11,
            "BACKBONE": "resnet18",
            "IMAGE_MIN_DIM": side,
            "IMAGE_MAX_DIM": side,
            "IMAGES_PER_GPU": 1,
            "RPN_CHANNELS": 64,
            "TOP_DOWN_PYRAMID_SIZE": 64,
            "RPN_ANCHOR_SCALES": (8, 16, 32, 64, 128),
            "MASK_HEAD_CHANNELS": 64,
            "RPN_NMS_THRESHOLD": 1.0,
            "FPN_CLASSIF_FC_LAYERS_SIZE": 256,
            "POST_NMS_ROIS_INFERENCE": 500,
            "DETECTION_MIN_CONFIDENCE": 0.0,
            "DETECTION_NMS_THRESHOLD": 1.0,
            "DETECTION_MAX_INSTANCES": 50,
            **settings,
        }
    )
    model = modellib.MaskRCNN("inference", config, tempfile.mkdtemp())
    image = timing.noise(side)
    return lambda: model.detect([image])


def routines() -> dict[str, tuple[tuple[int, ...], Callable]]:
    """{name: (sizes, f(size) -> function to time)}."""
    rng = np.random.default_rng(0)

    def unmold(count: int) -> Callable[[], Any]:
        boxes = random_boxes(rng, count)
        soft = soft_masks(rng, count)
        return lambda: utils.unmold_masks(soft, boxes, (1024, 1024))

    def unmold_pixels(side: int) -> Callable[[], Any]:
        boxes = random_boxes(rng, 50, (side, side), side // 16, side // 3)
        soft = soft_masks(rng, 50)
        return lambda: utils.unmold_masks(soft, boxes, (side, side))

    def overlaps_masks(count: int) -> Callable[[], Any]:
        masks = ellipses(random_boxes(rng, count, (256, 256), 8, 80), (256, 256))
        return lambda: utils.compute_overlaps_masks(masks, masks)

    def targets(count: int) -> Callable[[], Any]:
        config = Config(NUM_CLASSES=2, IMAGE_MAX_DIM=1024)
        anchors = utils.BoxBlocks(
            utils.generate_pyramid_anchors(
                config.RPN_ANCHOR_SCALES,
                config.RPN_ANCHOR_RATIOS,
                data.compute_backbone_shapes(config, (1024, 1024)),
                config.BACKBONE_STRIDES,
                1,
            )
        )
        boxes = random_boxes(rng, count)
        ids = np.ones(count, np.int32)
        return lambda: data.build_rpn_targets(None, anchors, ids, boxes, config)

    return {
        "detect: pixels (side²)": ((256, 384, 512, 768), lambda side: detector(side=side)),
        "detect: proposals": (
            (250, 500, 1000, 2000),
            lambda n: detector(POST_NMS_ROIS_INFERENCE=n),
        ),
        "detect: instances": ((12, 25, 50, 100), lambda n: detector(DETECTION_MAX_INSTANCES=n)),
        "detect: classes": ((20, 80, 320, 1280), lambda n: detector(NUM_CLASSES=n)),
        "unmold_masks: pixels (side²)": ((256, 512, 1024, 2048), unmold_pixels),
        "unmold_masks: instances": ((25, 50, 100, 200), unmold),
        "compute_overlaps_masks: N = M (pairs N²)": ((25, 50, 100, 200), overlaps_masks),
        "build_rpn_targets: instances": ((25, 50, 100, 200), targets),
    }


def measure(
    name: str, sizes: tuple[int, ...], make: Callable, repeats: int
) -> tuple[np.ndarray, np.ndarray]:
    """Amounts of work and seconds of a routine; "²" in its name says that sizes are sides."""
    functions = {str(size): make(size) for size in sizes}
    seconds = timing.alternate(functions, repeats, warmup=2)
    amount = np.array(sizes, float)
    if "²" in name:
        amount = amount**2
    return amount, np.array(list(seconds.values()))


def slope(amount: np.ndarray, seconds: np.ndarray) -> float:
    """Slope of a straight line through the logarithms, at the upper half of the sizes."""
    upper = slice(len(amount) // 2 - 1, None)
    return np.polyfit(np.log(amount[upper]), np.log(seconds[upper]), 1)[0]


def plot(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], path: str) -> None:
    """Saves a figure of {name: (amount, cost)}, both relative to the smallest size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for name, (amount, cost) in curves.items():
        axes.plot(amount, cost, marker="o", label=name)
    most = max(amount[-1] for amount, _ in curves.values())
    axes.plot([1, most], [1, most], "k--", label="linear")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="size, relative to the smallest",
        ylabel="cost, relative to the smallest",
    )
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="only those that contain one of these words")
    parser.add_argument("--out", default="growth.png")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rows = []
    curves = {}
    for name, (sizes, make) in routines().items():
        if options.names and not any(word in name for word in options.names):
            continue
        amount, seconds = measure(name, sizes, make, options.repeats)
        curves[name] = (amount / amount[0], seconds / seconds[0])
        size_text = ", ".join(str(size) for size in sizes)
        time_text = ", ".join(f"{1e3 * value:.1f}" for value in seconds)
        rows.append([name, size_text, time_text, f"{slope(amount, seconds):.2f}"])
        print("  ".join(rows[-1]), file=sys.stderr, flush=True)
    print(timing.table(["what grows", "sizes", "ms", "slope"], rows))
    plot(curves, options.out)


if __name__ == "__main__":
    main()
