"""Training on several machines: one process beside two on loopback, each a machine of a cluster.

    python benchmarks/machines.py [--backbone resnet18] [--side 128] [--steps 10] [--repeats 3]
                                  [--folder FOLDER]

Each process trains a network of random weights on rectangles, one image a step, with one thread, by
TensorFlow's strategy for several machines where there are two. Counted are the steps after the
first three: images a second, CPU seconds of all processes an image, and what goes through loopback
beside the bytes of the gradients (what other programs send there is counted, too). With --folder
each run's figures are kept there, and what was done is not done again.
"""

import argparse
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benchmarks import timing  # noqa: E402

WARMUP = 3


def through_loopback() -> int:
    """Bytes that loopback has sent."""
    lines = pathlib.Path("/proc/net/dev").read_text().splitlines()
    (line,) = [line for line in lines if line.strip().startswith("lo:")]
    return int(line.split(":")[1].split()[8])


# ---- A machine -----------------------------------------------------------------------------------


def worker(options: argparse.Namespace) -> None:
    """Trains as one machine; prints its figures as JSON."""
    import keras
    from toy import Rectangles

    from mrcnn import model as modellib

    steps = options.steps
    config = timing.network_config(
        options.backbone,
        options.side,
        NUM_CLASSES=3,
        STEPS_PER_EPOCH=WARMUP + steps,
        RESUME_SECONDS=1e6,
        WORKERS=1,
    )
    figures: dict[str, float] = {}

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch + 1 not in (WARMUP, WARMUP + steps):
                return
            now = {
                "seconds": time.perf_counter(),
                "cpu": time.process_time(),
                "sent": through_loopback(),
            }
            for name, value in now.items():
                figures[name] = value - figures.get(name, 0)

    with tempfile.TemporaryDirectory() as folder:
        model = modellib.MaskRCNN("training", config, folder)
        images = Rectangles(16, (options.side, options.side, 3))
        model.train(images, None, 1e-4, 1, "all", custom_callbacks=[Clock()])
    figures["weights"] = sum(
        int(weight.numpy().size) for weight in model.keras_model.trainable_weights
    )
    print(json.dumps(figures), flush=True)


# ---- All of them ---------------------------------------------------------------------------------


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def run(count: int, options: argparse.Namespace) -> dict[str, float]:
    """The figures of so many machines.

    Raises:
        RuntimeError: one of them failed; says what it said.
    """
    workers = [f"127.0.0.1:{free_port()}" for _ in range(count)]
    processes = []
    for number in range(count):
        described = {
            "cluster": {"worker": workers},
            "task": {"type": "worker", "index": number},
        }
        environment = {
            **os.environ,
            "TF_CONFIG": json.dumps(described),
            "KERAS_BACKEND": "tensorflow",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "TF_NUM_INTRAOP_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "-1",
        }
        environment.pop("MRCNN_CLUSTER", None)
        command = [sys.executable, __file__, "--worker", "--backbone", options.backbone]
        command += ["--side", str(options.side), "--steps", str(options.steps)]
        processes.append(
            subprocess.Popen(
                command,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    texts = [process.communicate()[0] for process in processes]
    for process, text in zip(processes, texts):
        if process.returncode:
            raise RuntimeError(f"A machine of {count} failed: {text[-2000:]}")
    figures = [json.loads(text.splitlines()[-1]) for text in texts]
    images = count * options.steps
    return {
        "speed": images / max(of_process["seconds"] for of_process in figures),
        "cpu": sum(of_process["cpu"] for of_process in figures) / images,
        "sent": figures[0]["sent"] / options.steps,
        "gradients": 4 * figures[0]["weights"],
    }


def measured(options: argparse.Namespace) -> dict[int, list[dict]]:
    """{machines: figures of each run}, in turn."""
    names = ("backbone", "side", "steps")
    key = "_".join(str(getattr(options, name)) for name in names)
    runs_by_count: dict[int, list[dict]] = {1: [], 2: []}
    for turn in range(options.repeats):
        for count, runs in runs_by_count.items():
            path = options.folder / f"{key}_{count}_{turn}.json"
            if not path.exists():
                path.write_text(json.dumps(run(count, options)))
            runs.append(json.loads(path.read_text()))
    return runs_by_count


def report(options: argparse.Namespace) -> None:
    """Prints medians."""
    options.folder.mkdir(parents=True, exist_ok=True)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    rows = []
    for count, runs in measured(options).items():
        middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        rows.append(
            [
                str(count),
                f"{middle['speed']:.2f}",
                f"{middle['cpu']:.2f}",
                f"{middle['sent'] / 1e6:.0f}",
                f"{middle['gradients'] / 1e6:.0f}",
            ]
        )
    head = ["machines", "images/s", "CPU seconds an image"]
    print(timing.table([*head, "MB through loopback a step", "MB of gradients"], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=pathlib.Path, help="where figures are kept")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options)
    elif options.folder is None:
        with tempfile.TemporaryDirectory() as folder:
            options.folder = pathlib.Path(folder)
            report(options)
    else:
        report(options)


if __name__ == "__main__":
    main()
