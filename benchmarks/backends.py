"""Detection and training under each backend of Keras: CPU seconds of the same work, in turn.

python benchmarks/backends.py [--backends tensorflow,xla,torch,jax] [--parts detect,train]
        [--repeats 5]
    The recorded ResNet-50 of the tests: a detection of 128 x 128 pixels with 100 objects, a step
    of the recorded training batch of two images on all layers. TensorFlow runs in this environment,
    "xla" is TensorFlow with JIT_COMPILE; the others run in .venv-backends, which `make
    test-backends` makes. TensorFlow and PyTorch have one thread: beside other work the CPU seconds
    say more than the clock's, but threads that wait for each other spend some too. JAX has as many
    threads as there are cores.
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
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
PYTHON = ROOT / ".venv-backends" / "bin" / "python"


def measured(work: Callable, repeats: int) -> dict[str, float]:
    """CPU seconds of the first call, and of the median one after it, which also by the clock."""
    began = time.process_time()
    work()
    first = time.process_time() - began
    cpu = []
    clock = []
    for _ in range(repeats):
        began = time.process_time()
        began_by_clock = time.perf_counter()
        work()
        cpu.append(time.process_time() - began)
        clock.append(time.perf_counter() - began_by_clock)
    return {"first": first, "cpu": statistics.median(cpu), "clock": statistics.median(clock)}


def work_of(part: str, folder: pathlib.Path, chosen: dict[str, Any]) -> Callable:
    """A function that detects once, or that takes one training step, with some chosen settings."""
    import parity

    from mrcnn import model as modellib
    from mrcnn.config import Config

    mode = "inference"
    settings: dict[str, Any] = {**parity.settings(), **chosen}
    if part == "train":
        mode = "training"
        settings = {**settings, "IMAGES_PER_GPU": 2, **parity.BATCHES["A"]}
    parity.write_weights("small", folder / "small.h5")
    model = modellib.MaskRCNN(mode, Config(**settings), folder)
    model.load_weights(folder / "small.h5")
    if part == "detect":
        image = parity.read("net_small_shapes0")["image0"]
        return lambda: model.detect([image])
    model.set_trainable(".*", verbose=0)
    model.compile(1e-4, 0.9)
    inputs = tuple(parity.batch_inputs(parity.read("train"), "A"))
    return lambda: model.keras_model.train_on_batch(inputs)


def worker(part: str, repeats: int, chosen: dict[str, Any]) -> None:
    """Prints what one backend needs for one part, as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        work = work_of(part, pathlib.Path(folder), chosen)
        build = time.process_time() - began
        print(json.dumps({"build": build, **measured(work, repeats)}), flush=True)


def run(backend: str, part: str, repeats: int) -> dict[str, float]:
    """The figures of a backend in a process of its own."""
    python = str(PYTHON)
    chosen = {}
    if backend == "xla":
        backend = "tensorflow"
        chosen = {"JIT_COMPILE": True}
    if backend == "tensorflow":
        python = sys.executable
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "-1",
        "OMP_NUM_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
    }
    command = [python, __file__, "--worker", part, "--repeats", str(repeats)]
    command += ["--settings", json.dumps(chosen)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backends", default="tensorflow,xla,torch,jax")
    parser.add_argument("--parts", default="detect,train")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--settings", type=json.loads, default={}, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.repeats, options.settings)
        return
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f}; CPU seconds", flush=True)
    print(f"{'part':8} {'backend':11} {'import, build':>13} {'first':>6} {'next':>6} {'clock':>6}")
    for part in options.parts.split(","):
        for backend in options.backends.split(","):
            costs = run(backend, part, options.repeats)
            figures = [costs[name] for name in ("build", "first", "cpu", "clock")]
            print(
                f"{part:8} {backend:11} {figures[0]:13.1f} {figures[1]:6.1f} {figures[2]:6.2f}"
                f" {figures[3]:6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
