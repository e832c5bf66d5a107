"""Exported models beside `detect`: cold start, seconds, images/s, memory, a server; and AP.

    make test-runtimes                        # once: makes .venv-runtimes
    python benchmarks/exported.py             # ResNet-50 at 512 and 1024 pixels, and the server
    make demo && python benchmarks/exported.py ap   # AP of the demo's network in each file

In .venv-runtimes the files are run; TensorFlow and the SavedModel run in .venv. Weights of the
first are random and every threshold is open: 100 detections on each image. A cold start is from the
process's start to the first detection, files in the disk's cache. Each row is a process of its own;
CPU seconds are those that it used, whatever else the machine did meanwhile.
"""

import argparse
import concurrent.futures
import contextlib
import io
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from benchmarks import timing  # noqa: E402

RUNTIMES = ROOT / ".venv-runtimes" / "bin" / "python"
HERE = "weights.h5"  # `detect` by TensorFlow
CALIBRATED = ("int8/model.onnx", "int8/model.xml")  # convolutions and matrix products in int8
FILES = (HERE, "saved_model", "model.onnx", "model.xml", "model.tflite", *CALIBRATED)
TOGETHER = 4  # images at a time of "images/s"; a LiteRT file takes one


# ---- The files -----------------------------------------------------------------------------------


def network(options: argparse.Namespace):
    """The model that is compared, with random weights."""
    from mrcnn import model as modellib

    config = timing.network_config(options.backbone, options.side, SEED=0)
    return modellib.MaskRCNN("inference", config, options.folder)


def add_writers() -> None:
    """What writes the files, and runs them here, behind this environment's own packages."""
    folders = list((RUNTIMES.parents[1] / "lib").glob("python*/site-packages"))
    if not folders:
        raise SystemExit("error: no .venv-runtimes here; make test-runtimes makes it")
    sys.path.append(str(folders[0]))


def write_file(options: argparse.Namespace) -> None:
    """Writes one of the files; in a process of its own, as ONNX's takes gigabytes."""
    add_writers()
    path = os.path.join(options.folder, options.child)
    model = network(options)
    if options.child == HERE:
        model.save_weights(path)
        return
    names = ["BG", *(str(i) for i in range(1, 81))]
    fewer_bits = {}
    if options.child in CALIBRATED:
        # Of random weights any image shows the ranges.
        fewer_bits = {"precision": "int8", "calibration": [timing.noise(options.side)]}
    model.export(path, class_names=names, **fewer_bits)


def size_of(path: pathlib.Path) -> float:
    """MB of a file, with OpenVINO's weights beside it, or of a folder."""
    files = [path]
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file()]
    elif path.suffix == ".xml":
        files.append(path.with_suffix(".bin"))
    return sum(file.stat().st_size for file in files) / 1e6


# ---- Speed ---------------------------------------------------------------------------------------


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
    result = model.detect([image])[0]
    print(json.dumps({"first": time.time(), "cpu": time.process_time()}), flush=True)
    costs = [timing.cost(lambda: model.detect([image])) for _ in range(options.repeats)]
    figures = {"memory": timing.peak_memory(), "detections": len(result["scores"])}
    if costs:
        seconds = timing.median(costs)
        figures.update(seconds=seconds.wall, cpu=seconds.cpu)
        model.config.BATCH_SIZE = TOGETHER
        model.detect([image] * TOGETHER)  # runtimes prepare for another size of the batch
        several = [timing.cost(lambda: model.detect([image] * TOGETHER)) for _ in costs[:3]]
        figures["rate"] = TOGETHER / timing.median(several).wall
    print(json.dumps(figures), flush=True)


def words_of(options: argparse.Namespace, mode: str, file: str, repeats: int = 0) -> list[str]:
    """The arguments of a child."""
    words = [__file__, mode, "--child", file, "--folder", options.folder]
    words += ["--side", str(options.side), "--backbone", options.backbone]
    return [*words, "--repeats", str(repeats)]


def run(python: str, words: list[str], file: str) -> list[dict]:
    """What a child prints, {} of each of its last two lines."""
    done = subprocess.run(
        [python, *words], capture_output=True, text=True, cwd=ROOT, env=timing.compiled()
    )
    if done.returncode:
        raise SystemExit(f"error: {file}: {done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def measure(options: argparse.Namespace, file: str) -> list[str]:
    """A row of the table."""
    python = str(RUNTIMES)
    if file in (HERE, "saved_model"):
        python = sys.executable
    cold = []
    for turn in range(options.starts):
        repeats = 0
        if turn == options.starts - 1:
            repeats = options.repeats
        start = time.time()
        first, later = run(python, words_of(options, "speed", file, repeats), file)
        cold.append((first["first"] - start, first["cpu"]))
    wall, cpu = (statistics.median(values) for values in zip(*cold))
    return [
        str(options.side),
        file,
        f"{size_of(pathlib.Path(options.folder) / file):.0f}",
        f"{wall:.2f}",
        f"{cpu:.2f}",
        f"{later['seconds']:.3f}",
        f"{later['cpu']:.3f}",
        f"{later['rate']:.2f}",
        f"{later['memory']:.2f}",
        str(later["detections"]),
    ]


HEADER = [
    "side",
    "file",
    "MB",
    "cold start, s",
    "CPU s",
    "a detection, s",
    "CPU s",
    "images/s",
    "peak GB",
    "detections",
]


def speed(options: argparse.Namespace) -> None:
    """The table of each side, then the server on the ONNX file of the first one."""
    rows = []
    for number, side in enumerate(options.sides):
        options.side = side
        with tempfile.TemporaryDirectory() as folder:
            options.folder = folder
            if options.keep:
                options.folder = os.path.join(options.keep, str(side))
            os.makedirs(options.folder, exist_ok=True)
            for file in options.files:
                if os.path.exists(os.path.join(options.folder, file)):
                    continue
                start = time.perf_counter()
                run(sys.executable, words_of(options, "write", file), file)
                print(f"{side}: {file} written in {time.perf_counter() - start:.0f} s", flush=True)
            rows += [measure(options, file) for file in options.files]
            if number == 0 and "model.onnx" in options.files and options.requests:
                served = serve(options)
    print(timing.table(HEADER, rows))
    if "model.onnx" in options.files and options.requests:
        print(f"\nsamples/serve.py on model.onnx of {options.sides[0]} pixels, jpg files:\n")
        print(timing.table(SERVED, served))


# ---- A server ------------------------------------------------------------------------------------

SERVED = ["clients", "requests", "requests/s", "median, s", "95%, s", "99%, s", "largest, s"]


@contextlib.contextmanager
def server(options: argparse.Namespace) -> Iterator[str]:
    """The address of samples/serve.py while it runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = ROOT / "samples" / "serve.py"
    words = [str(RUNTIMES), str(script), os.path.join(options.folder, "model.onnx")]
    process = subprocess.Popen([*words, f"--port={port}"])
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            if process.poll() is not None:
                raise SystemExit("error: samples/serve.py has ended")
            try:
                urllib.request.urlopen(f"{address}/batches", timeout=60).close()
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


def serve(options: argparse.Namespace) -> list[list[str]]:
    """A row for each number of clients that ask at once."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(timing.noise(options.side)).save(file, "jpeg")
    body = file.getvalue()
    rows = []
    with server(options) as address:

        def ask(_: int) -> float:
            start = time.perf_counter()
            urllib.request.urlopen(f"{address}/detect", body, timeout=600).read()
            return time.perf_counter() - start

        ask(0)
        for clients in (1, 8, 32):
            count = max(options.requests, clients)
            start = time.perf_counter()
            with concurrent.futures.ThreadPoolExecutor(clients) as pool:
                seconds = list(pool.map(ask, range(count)))
            rate = count / (time.perf_counter() - start)
            shares = np.percentile(seconds, [50, 95, 99, 100])
            row = [str(clients), str(count), f"{rate:.2f}", *(f"{value:.2f}" for value in shares)]
            rows.append(row)
    return rows


# ---- AP ------------------------------------------------------------------------------------------

# Files by name and precision of their weights.
PRECISIONS = [
    (file, precision)
    for file in ("model.onnx", "model.xml", "model.tflite")
    for precision in ("float32", "float16", "int8", "int8, calibrated")
    if (file, precision) != ("model.tflite", "int8, calibrated")
]
CALIBRATION_IMAGES = 24  # of those that the network was trained on


def ap(options: argparse.Namespace) -> None:
    """AP of the demo's network on images that it has not seen, by `detect` and by each file."""
    add_writers()
    from mrcnn import commands, evaluate, runtime
    from samples.shapes import shapes

    words = ["evaluate", f"--weights={options.weights}", f"--logs={options.logs}"]
    args = commands.parse(commands.parser("", ("evaluate",), dataset=False, inputs=None), words)
    config = commands.inference_config(shapes.ShapesConfig(), IMAGES_PER_GPU=4)
    model = commands.load_model("inference", config, args)
    unseen = shapes.ShapesDataset(options.images, first=commands.HELD_OUT)
    rows = []

    def add(name, precision, size, detecting):
        result = evaluate.evaluate(detecting, unseen, progress=False)
        figures = [result.bbox["AP"], result.segm["AP"], result.segm["AP50"]]
        row = [name, precision, f"{size:.2f}", *(f"{value:.4f}" for value in figures)]
        rows.append(row)
        print(" ".join(row), flush=True)

    add("detect", "float32", size_of(pathlib.Path(model.weights_file)), model)
    with tempfile.TemporaryDirectory() as folder:
        for file, precision in PRECISIONS:
            path = pathlib.Path(folder) / precision / file
            fewer_bits = {"precision": precision.split(",")[0]}
            if precision.endswith("calibrated"):
                seen = shapes.ShapesDataset(CALIBRATION_IMAGES)
                fewer_bits["calibration"] = map(seen.load_image, range(CALIBRATION_IMAGES))
            model.export(path, class_names=unseen.class_names, **fewer_bits)
            add(file, precision, size_of(path), runtime.load(path))
    header = ["file", "weights", "MB", "box AP", "mask AP", "mask AP50"]
    print(f"\n{options.images} images\n\n{timing.table(header, rows)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="?", default="speed", choices=("speed", "ap", "write"))
    parser.add_argument("--sides", nargs="+", type=int, default=[512, 1024], help="pixels")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--repeats", type=int, default=5, help="detections that are timed")
    parser.add_argument("--starts", type=int, default=3, help="cold starts, of which the median")
    parser.add_argument("--requests", type=int, default=64, help="to the server; 0: no server")
    parser.add_argument("--files", nargs="+", choices=FILES, default=FILES)
    parser.add_argument("--keep", metavar="FOLDER", help="files stay there, and are used again")
    parser.add_argument("--weights", default="last", help="ap: a file, or last of --logs")
    parser.add_argument("--logs", default=str(ROOT / "demo" / "logs"), help="ap: of make demo")
    parser.add_argument("--images", type=int, default=200, help="ap")
    for name in ("--child", "--folder", "--side"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        options.side = int(options.side)
    if options.what == "write":
        write_file(options)
    elif options.child:
        run_child(options)
    elif options.what == "ap":
        ap(options)
    else:
        speed(options)


if __name__ == "__main__":
    main()
