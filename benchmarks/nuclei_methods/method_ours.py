"""This package: `samples/nucleus/nucleus.py train --small`, then what its `evaluate` detects.

The command takes epochs, not minutes: the time of a step is measured first, by a training of a few
steps that does not count, and so many steps are asked for as fit. A training that is not over at
the end of the time is stopped, and its last epoch counts.
"""

from __future__ import annotations

import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import worker

ROOT = pathlib.Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "samples" / "nucleus"
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(SAMPLE))

TRIAL_STEPS = 20  # at most, of an epoch of the trial, which has two
STEPS_PER_EPOCH = 66  # at most; a training that is stopped loses an epoch
MIN_EPOCHS = 4
USED_SHARE = 0.95  # of the time that the steps are to take, as their speed varies
MIN_SCORE = 0.5


def start(job: worker.Job, logs: pathlib.Path, epochs: int, steps: int) -> subprocess.Popen:
    """The sample's training, in a process of its own; what it prints goes into a file."""
    command = [sys.executable, str(SAMPLE / "nucleus.py"), "train", "--small"]
    command += [f"--dataset={job.dataset}", "--subset=train", f"--logs={logs}"]
    command += [f"--epochs={epochs}", "--set", f"STEPS_PER_EPOCH={steps}", f"SEED={job.seed}"]
    with open(job.folder / "train.log", "ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def checkpoints(logs: pathlib.Path) -> list[pathlib.Path]:
    """The weight files of the epochs, in the order in which they were written."""
    checkpoints = logs.glob("*/mask_rcnn_*_[0-9][0-9][0-9][0-9]*")
    return sorted(checkpoints, key=lambda path: path.stat().st_mtime)


def finish(process: subprocess.Popen, seconds: float, log: pathlib.Path) -> bool:
    """Waits for a training, at most so long.

    Returns:
        whether it came to its end.
    """
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
        return False
    if code:
        raise RuntimeError(f"The training ended with {code}: {log.read_text()[-500:]}")
    return True


def trial(job: worker.Job) -> tuple[float, float]:
    """Seconds before the first step, and of a step, measured on two short epochs."""
    steps = max(2, min(TRIAL_STEPS, int(job.clock.minutes)))
    logs = job.folder / "trial"
    shutil.rmtree(logs, ignore_errors=True)
    began = time.time()
    finish(start(job, logs, 2, steps), 3600, job.folder / "train.log")
    first, second = [path.stat().st_mtime for path in checkpoints(logs)]
    step = (second - first) / steps
    shutil.rmtree(logs)
    return max(0.0, first - began - steps * step), step


def train(job: worker.Job) -> dict:
    before, step = trial(job)
    seconds = job.clock.minutes * 60
    total = max(1, int((seconds * USED_SHARE - before) / step))
    epochs = min(total, max(MIN_EPOCHS, round(total / STEPS_PER_EPOCH)))
    steps = total // epochs
    logs = job.folder / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    computed = worker.cpu_seconds()
    began = time.time()
    ended = finish(start(job, logs, epochs, steps), seconds, job.folder / "train.log")
    minutes = (time.time() - began) / 60
    done = checkpoints(logs)
    if not done:
        raise RuntimeError(
            f"No epoch of {steps} steps was over in {minutes:.1f} minutes; the trial took"
            f" {before:.0f} s to begin and {step:.1f} s for a step"
        )
    return {
        "minutes": minutes,
        "cpu_minutes": (worker.cpu_seconds() - computed) / 60,
        "peak_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        "steps": int(done[-1].stem[-4:]) * steps,
        "planned steps": epochs * steps,
        "ended": ended,
        "seconds of a step": step,
    }


def predictor(job: worker.Job) -> worker.Predictor:
    import bowl
    import nucleus

    from mrcnn import model as modellib

    config = nucleus.NucleusSmallInferenceConfig()
    # No object below counts; the objects above are the same without them.
    config.DETECTION_MIN_CONFIDENCE = MIN_SCORE
    model = modellib.MaskRCNN("inference", config, str(job.folder / "logs"))
    model.load_weights(model.find_last())

    def find(image: np.ndarray) -> np.ndarray:
        result = model.detect([image])[0]
        best_first = np.argsort(-result["scores"], kind="stable")
        masks = (result["masks"][..., i] for i in best_first)
        return bowl.label_image(masks, image.shape[:2])

    return find


if __name__ == "__main__":
    worker.main(train, predictor)
