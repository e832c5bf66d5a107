"""Memory that detection keeps: many calls with images of twenty sizes in rotation.

    python benchmarks/memory.py [--calls 500] [--after 50] [--limit 20]

Prints resident memory after --after calls and after --calls; fails where it grew by more than
--limit MB. The network is small, so that 500 calls take a minute: what could leak is per call and
per size, not per weight.
"""

import argparse
import os
import pathlib
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402

from benchmarks import timing  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--after", type=int, default=50)
    parser.add_argument("--limit", type=float, default=20)
    options = parser.parse_args()
    from mrcnn import model as modellib
    from mrcnn.config import Config

    config = Config(
        NAME="memory",
        NUM_CLASSES=4,
        BACKBONE="resnet18",
        IMAGES_PER_GPU=1,
        IMAGE_RESIZE_MODE="none",
        RPN_ANCHOR_SCALES=(8, 16, 32, 64, 128),
        RPN_CHANNELS=64,
        TOP_DOWN_PYRAMID_SIZE=64,
        FPN_CLASSIF_FC_LAYERS_SIZE=128,
        MASK_HEAD_CHANNELS=64,
        POST_NMS_ROIS_INFERENCE=100,
        PRE_NMS_LIMIT=500,
        DETECTION_MIN_CONFIDENCE=0.0,
        DETECTION_MAX_INSTANCES=20,
    )
    model = modellib.MaskRCNN("inference", config, tempfile.mkdtemp())
    rng = np.random.default_rng(0)
    sizes = [(64 * (1 + i % 5), 64 * (2 + i // 5)) for i in range(20)]
    images = [rng.integers(0, 255, (*size, 3)).astype(np.uint8) for size in sizes]
    before = 0.0
    start = time.perf_counter()
    for call in range(1, options.calls + 1):
        model.detect([images[call % len(images)]])
        if call == options.after:
            before = timing.resident_memory()
        if call % 50 == 0:
            seconds = time.perf_counter() - start
            memory = timing.resident_memory()
            print(f"{call} calls: {memory:.1f} MB, {seconds:.0f} s", flush=True)
    grown = timing.resident_memory() - before
    print(
        f"{len(set(sizes))} sizes, {options.calls} calls: {before:.1f} MB after {options.after}, "
        f"{before + grown:.1f} MB at the end, {grown:+.1f} MB"
    )
    if grown > options.limit:
        raise SystemExit(f"memory grew by more than {options.limit} MB")


if __name__ == "__main__":
    main()
