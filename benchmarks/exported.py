"""Exported models beside `detect`: cold start, seconds a detection, memory, size of the file.

python benchmarks/exported.py [--side 512] [--backbone resnet50] [--files model.onnx model.xml ...]

`make test-runtimes` makes .venv-runtimes, in which the files are run; TensorFlow and the SavedModel
run in .venv. Weights are random and every threshold is open: 100 detections on each image. A cold
start is from the process's start to the first detection, files in the disk's cache. Each row is a
process of its own; CPU seconds are those that it used, whatever else the machine did meanwhile.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import timing  # noqa: E402

RUNTIMES = ROOT / ".venv-runtimes" / "bin" / "python"
HERE = "weights.h5"  # `detect` by TensorFlow
FILES = (HERE, "saved_model", "model.onnx", "model.xml", "model.tflite")


def network(options: argparse.Namespace):
    """The model that is compared, with random weights."""
    from mrcnn import model as modellib

    config = timing.network_config(options.backbone, options.side, SEED=0)
    return modellib.MaskRCNN("inference", config, options.folder)


def write_files(options: argparse.Namespace) -> None:
    """Exports the model, and says what that took."""
    model = network(options)
    model.save_weights(os.path.join(options.folder, HERE))
    names = ["BG", *(str(i) for i in range(1, 81))]
    for file in options.files:
        if file == HERE:
            continue
        start = time.process_time()
        model.export(os.path.join(options.folder, file), class_names=names)
        print(f"{file} written in {time.process_time() - start:.0f} s of CPU", flush=True)


def run_child(options: argparse.Namespace) -> None:
    """One row: loads, detects, prints figures as json. Runs in the file's own environment."""
    path = os.path.join(options.folder, options.child)
    if options.child == HERE:
        model = network(options)
        model.load_weights(path)
    else:
        from mrcnn import runtime

        model = runtime.load(path)
    image = timing.noise(options.side)
    found = model.detect([image])[0]
    print(json.dumps({"first": time.time(), "cpu": time.process_time()}), flush=True)
    seconds = []
    cpu = time.process_time()
    for _ in range(options.repeats):
        start = time.perf_counter()
        model.detect([image])
        seconds.append(time.perf_counter() - start)
    figures = {
        "seconds": statistics.median(seconds),
        "cpu": (time.process_time() - cpu) / options.repeats,
        "memory": timing.peak_memory(),
        "detections": len(found["scores"]),
    }
    print(json.dumps(figures), flush=True)


def size_of(path: pathlib.Path) -> float:
    """MB of a file, with OpenVINO's weights beside it, or of a folder."""
    files = [path]
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file()]
    elif path.suffix == ".xml":
        files.append(path.with_suffix(".bin"))
    return sum(file.stat().st_size for file in files) / 1e6


def measure(options: argparse.Namespace, file: str) -> list[str]:
    """A row of the table."""
    python = str(RUNTIMES)
    if file in (HERE, "saved_model"):
        python = sys.executable
    words = [python, __file__, "--child", file, "--folder", options.folder]
    words += ["--side", str(options.side), "--backbone", options.backbone]
    words += ["--repeats", str(options.repeats)]
    start = time.time()
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{file}: {done.stderr[-2000:]}")
    first, later = (json.loads(line) for line in done.stdout.splitlines()[-2:])
    return [
        file,
        f"{size_of(pathlib.Path(options.folder) / file):.0f}",
        f"{first['first'] - start:.2f}",
        f"{first['cpu']:.2f}",
        f"{later['seconds']:.3f}",
        f"{later['cpu']:.3f}",
        f"{later['memory']:.2f}",
        str(later["detections"]),
    ]


HEADER = [
    "file",
    "MB",
    "cold start, s",
    "CPU s",
    "a detection, s",
    "CPU s",
    "peak GB",
    "detections",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--files", nargs="+", choices=FILES, default=FILES)
    parser.add_argument("--folder", help="where the files lie or are put; a temporary one if none")
    parser.add_argument("--measure", action="store_true", help="files are in --folder already")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        options.folder = options.folder or folder
        os.makedirs(options.folder, exist_ok=True)
        if not options.measure:
            write_files(options)
        print(timing.table(HEADER, [measure(options, file) for file in options.files]))


if __name__ == "__main__":
    main()
