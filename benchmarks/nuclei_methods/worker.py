"""What the methods of `benchmarks/nuclei.py` share: their command line, data, clock and report.

    PYTHON method_NAME.py train|predict FOLDER --data DATA --minutes 60 --started SECONDS --seed 0

A method is a file with two functions, given to `main`:

    train(job) trains until `job.clock` says so, and leaves in `job.folder` what predicting needs;
        it may return figures of its own, which go into the report
    predictor(job) -> f(image [H, W, 3] uint8) -> labels [H, W] int, 0 for the background

It runs in an environment of its own, so nothing but numpy is imported here, and nothing of mrcnn.
DATA has an image and its objects in each file: DATA/train/<name>.npz and DATA/val/<name>.npz with
`image` and `labels`. What is written: train.json, or labels.npz and predict.json.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import pathlib
import re
import signal
import time
from collections.abc import Callable, Iterator

import numpy as np

Image = tuple[str, np.ndarray, np.ndarray]
Predictor = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass
class Clock:
    """The time that a method may train, from the start of its process: all of it counts.

    Attributes:
        started: time.time() at the start.
        minutes: what it may take.
    """

    started: float
    minutes: float

    @property
    def passed(self) -> float:
        """Seconds since the start."""
        return time.time() - self.started

    @property
    def left(self) -> float:
        """Seconds to the end, 0 after it."""
        return max(0.0, self.minutes * 60 - self.passed)

    @property
    def share(self) -> float:
        """How much of the time is over, 0..1."""
        return min(1.0, self.passed / (self.minutes * 60))


@dataclasses.dataclass
class Job:
    """What a method is asked to do.

    Attributes:
        folder: where its files go.
        data: folder with train/ and val/ of .npz.
        dataset: folder of the original data.
        clock: the time for training.
        threads: threads to compute with.
        seed: of all randomness.
    """

    folder: pathlib.Path
    data: pathlib.Path
    dataset: pathlib.Path
    clock: Clock
    threads: int
    seed: int

    def images(self, subset: str) -> Iterator[Image]:
        """Each (name, image [H, W, 3] uint8, labels [H, W] int32) of "train" or "val"."""
        for path in sorted((self.data / subset).glob("*.npz")):
            with np.load(path) as file:
                yield path.stem, file["image"], file["labels"].astype(np.int32)

    def split(self, every: int) -> tuple[list[Image], list[Image]]:
        """The training images without each `every`th, and these: to choose settings by."""
        images = list(self.images("train"))
        held_out = images[::every]
        del images[::every]
        return images, held_out


def cosine(share: float, peak: float, warmup: float = 0.02) -> float:
    """A learning rate that rises to its peak and falls to 0, after a share 0..1 of the time."""
    falling = peak * 0.5 * (1 + np.cos(np.pi * share))
    return float(falling * min(1.0, share / warmup))


class TimeIsUpError(Exception):
    """What was to be done in a time took longer."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises TimeIsUpError in what takes longer, as soon as Python code runs in it again."""

    def stop(number: int, frame: object) -> None:
        raise TimeIsUpError

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def peak_memory() -> int:
    """Bytes of memory that this process has had at most."""
    status = pathlib.Path("/proc/self/status")
    if status.is_file():
        match = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if match:
            return int(match[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cpu_seconds() -> float:
    """Seconds of computing of this process and of those that it started and that have ended."""
    import resource

    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


def write_report(job: Job, name: str, figures: dict) -> None:
    """Writes a json into the method's folder: whole or not at all."""
    figures = {"cpu_minutes": cpu_seconds() / 60, "peak_bytes": peak_memory(), **figures}
    temporary = job.folder / f"{name}.part"
    temporary.write_text(json.dumps(figures, indent=1))
    temporary.replace(job.folder / name)


def predict(job: Job, predictor: Callable[[Job], Predictor]) -> None:
    """Writes the label images of "val", and the seconds that each took."""
    find = predictor(job)
    images = list(job.images("val"))
    # What is loaded or compiled at the first call belongs to the start.
    find(images[0][1])
    predicted = {}
    seconds = {}
    for name, image, _ in images:
        start = time.perf_counter()
        labels = find(image)
        seconds[name] = time.perf_counter() - start
        predicted[name] = np.asarray(labels).astype(np.int32)
    np.savez_compressed(job.folder / "labels.npz", **predicted)
    write_report(job, "predict.json", {"seconds": seconds})


def parse() -> tuple[str, Job]:
    """The command and the job of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=("train", "predict"))
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--dataset", type=pathlib.Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--started", type=float, help="time.time() when the process was started")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    clock = Clock(options.started or time.time(), options.minutes)
    options.folder.mkdir(parents=True, exist_ok=True)
    job = Job(
        folder=options.folder,
        data=options.data,
        dataset=options.dataset,
        clock=clock,
        threads=options.threads,
        seed=options.seed,
    )
    return options.command, job


def main(train: Callable[[Job], dict | None], predictor: Callable[[Job], Predictor]) -> None:
    """Runs a method's command."""
    command, job = parse()
    if command == "predict":
        predict(job, predictor)
        return
    figures = train(job) or {}
    figures.setdefault("minutes", job.clock.passed / 60)
    write_report(job, "train.json", figures)
