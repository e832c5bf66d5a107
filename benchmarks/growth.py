"""How cost grows with pixels, proposals, instances and classes, one at a time: a table, slopes and
a plot.

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

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402

from benchmarks import timing  # noqa: E402
from benchmarks.numpy_routines import ellipses, random_boxes, soft_masks  # noqa: E402
from mrcnn import data, utils  # noqa: E402
from mrcnn.config import Config  # noqa: E402


def detector(**settings):
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
    image = np.random.default_rng(0).integers(0, 255, (side, side, 3)).astype(np.uint8)
    return lambda: model.detect([image])


def routines():
    """{name: (sizes, f(size) -> function to time)}"""
    rng = np.random.default_rng(0)

    def unmold(count):
        boxes, soft = random_boxes(rng, count), soft_masks(rng, count)
        return lambda: utils.unmold_masks(soft, boxes, (1024, 1024))

    def unmold_pixels(side):
        boxes, soft = (
            random_boxes(rng, 50, (side, side), side // 16, side // 3),
            soft_masks(rng, 50),
        )
        return lambda: utils.unmold_masks(soft, boxes, (side, side))

    def overlaps_masks(count):
        masks = ellipses(random_boxes(rng, count, (256, 256), 8, 80), (256, 256))
        return lambda: utils.compute_overlaps_masks(masks, masks)

    def targets(count):
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
        boxes, ids = random_boxes(rng, count), np.ones(count, np.int32)
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="only those that contain one of these words")
    parser.add_argument("--out", default="growth.png")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rows, curves = [], {}
    for name, (sizes, make) in routines().items():
        if options.names and not any(word in name for word in options.names):
            continue
        seconds = list(
            timing.alternate(
                {size: make(size) for size in sizes}, options.repeats, warmup=2
            ).values()
        )
        amount = np.array(sizes, float) ** (2 if "²" in name else 1)
        half = len(sizes) // 2
        slope = np.polyfit(np.log(amount[half - 1 :]), np.log(seconds[half - 1 :]), 1)[0]
        curves[name] = amount / amount[0], np.array(seconds) / seconds[0]
        rows.append(
            [
                name,
                ", ".join(map(str, sizes)),
                ", ".join(f"{1e3 * s:.1f}" for s in seconds),
                f"{slope:.2f}",
            ]
        )
        print("  ".join(rows[-1]), file=sys.stderr, flush=True)
    print(timing.table(["what grows", "sizes", "ms", "slope"], rows))
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
    figure.savefig(options.out, dpi=120)


if __name__ == "__main__":
    main()
