"""Seconds from the start of `mrcnn train` of a small network to its first step.

python benchmarks/first_step.py [--repeats 3] [--before FOLDER]
"""

import argparse
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import skimage.draw
import skimage.io

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import timing  # noqa: E402

SIDE = 128
STEPS = 4  # after the first, for the seconds of a step


def write_images(folder: pathlib.Path, count: int = 40) -> None:
    """Writes images of three squares each, annotated as YOLO-seg."""
    rng = np.random.default_rng(0)
    images = folder / "images" / "train"
    labels = folder / "labels" / "train"
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for number in range(count):
        image = rng.integers(0, 80, (SIDE, SIDE, 3), np.uint8)
        lines = []
        for _ in range(3):
            center = rng.integers(20, SIDE - 20, 2)
            half = rng.integers(8, 20)
            corners = center + half * np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]])
            image[skimage.draw.polygon(*corners.T)] = rng.integers(120, 255, 3)
            values = (corners[:, ::-1] / SIDE).ravel()
            lines.append("0 " + " ".join(f"{value:.4f}" for value in values))
        skimage.io.imsave(images / f"{number}.png", image, check_contrast=False)
        (labels / f"{number}.txt").write_text("\n".join(lines))
    (folder / "data.yaml").write_text("train: images/train\nnames: [square]\n")


def measure(checkout: pathlib.Path, folder: pathlib.Path) -> tuple[float, float]:
    """Seconds from the process's start to the end of its first step, and of one later step."""
    words = [sys.executable, "-m", "mrcnn.cli", "train", "--small", "--weights=none"]
    words += [f"--dataset={folder / 'squares'}", f"--logs={folder / 'logs'}"]
    start = time.perf_counter()
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=checkout,
        env=timing.compiled(),
        bufsize=0,
    ) as process:
        assert process.stdout is not None
        output = b""
        ends: dict[int, float] = {}
        while len(ends) <= STEPS:
            text = process.stdout.read(1 << 16)
            if not text:
                raise SystemExit(f"error: {checkout}: {output.decode()[-2000:]}")
            output += text
            # The progress bar shows "3/1000" after the third step.
            for step in re.findall(rb"\b(\d+)/1000\b", output):
                ends.setdefault(int(step), time.perf_counter() - start)
        process.kill()
    first, *later = sorted(ends)
    return ends[first], (ends[later[-1]] - ends[first]) / (later[-1] - first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--before", type=pathlib.Path, help="another checkout, in turn with this")
    options = parser.parse_args()
    checkouts = {"here": ROOT}
    if options.before:
        checkouts["before"] = options.before.resolve()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as text:
        folder = pathlib.Path(text)
        write_images(folder / "squares")
        for turn in range(options.repeats + 1):
            for name, checkout in checkouts.items():
                measured = measure(checkout, folder)
                if turn:  # the first compiles the modules
                    seconds[name].append(measured)
                    print(f"{name:6} first step ends after {measured[0]:.2f} s", flush=True)
    rows = []
    for name, measured in seconds.items():
        end, step = (statistics.median(values) for values in zip(*measured))
        rows.append([name, f"{end - step:.2f}", f"{end:.2f}", f"{step:.2f}"])
    print(timing.table(["checkout", "first step begins, s", "it ends, s", "a step, s"], rows))


if __name__ == "__main__":
    main()
