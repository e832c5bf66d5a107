"""Seconds from a fresh process to the first detections: import, build, weights, `detect`.

python benchmarks/startup.py [--backbone resnet50] [--side 1024]
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import timing  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--side", type=int, default=1024)
    options = parser.parse_args()
    for name in ("mrcnn", "mrcnn.config", "mrcnn.utils", "mrcnn.data", "mrcnn.evaluate"):
        code = (
            f"import time; t = time.perf_counter(); import {name}; print(time.perf_counter() - t)"
        )
        output = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env=timing.compiled(),
        ).stdout
        print(f"import {name:16} {float(output):.3f} s")
    marks = [("start", time.perf_counter())]

    def mark(name: str) -> None:
        marks.append((name, time.perf_counter()))
        print(f"{name:23} {marks[-1][1] - marks[-2][1]:.2f} s", flush=True)

    from mrcnn import model as modellib

    mark("import mrcnn.model")
    config = timing.network_config(options.backbone, options.side)
    with tempfile.TemporaryDirectory() as folder:
        model = modellib.MaskRCNN("inference", config, folder)
        mark("build")
        model.save_weights(os.path.join(folder, "weights.h5"))
        marks.append(("", time.perf_counter()))
        model.load_weights(os.path.join(folder, "weights.h5"))
        mark("load weights (.h5)")
        image = timing.noise(options.side)
        model.detect([image])
        mark("first detect")
        model.detect([image])
        mark("second detect")
        model.detect([image[: options.side // 2]])
        mark("detect, another size")


if __name__ == "__main__":
    main()
