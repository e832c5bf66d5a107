"""The shapes sample: its images, and its commands run as a user runs them."""

import importlib.util
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import quickly
import toy

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "samples" / "shapes" / "shapes.py"
# Two commands, one after the other, without a second import of TensorFlow.
DEMO_AND_EVALUATE = f"""
{quickly.HEAD}
import runpy
arguments = sys.argv[1:]
for command in ("demo", "evaluate"):
    sys.argv = [{str(SCRIPT)!r}, command, *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
SMALL = [*toy.OPTIONS, "IMAGES_PER_GPU=2", "STEPS_PER_EPOCH=12", "RESUME_SECONDS=0"]


@pytest.fixture(scope="module")
def shapes():
    spec = importlib.util.spec_from_file_location("shapes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*arguments, **kwargs):
    return subprocess.run(
        [sys.executable, quickly.__file__, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        **kwargs,
    )


@pytest.mark.long
def test_images(shapes):
    """Number n is always the same; masks are what is visible, each pixel of one colour, at most one
    mask a pixel."""
    dataset, same = shapes.ShapesDataset(40, first=7), shapes.ShapesDataset(5, first=12)
    np.testing.assert_array_equal(dataset.load_image(5), same.load_image(0))
    classes, occluded = set(), 0
    for image_id in dataset.image_ids:
        image, (masks, ids) = dataset.load_image(image_id), dataset.load_mask(image_id)
        assert image.shape == (128, 128, 3) and image.dtype == np.uint8 and 1 <= len(ids) <= 4
        assert masks.sum(axis=2).max() <= 1
        for i in range(len(ids)):
            assert len(np.unique(image[masks[..., i]], axis=0)) == 1
        assert len(np.unique(image[~masks.any(axis=2)], axis=0)) == 1
        classes |= set(ids.tolist())
        occluded += len(dataset.image_info[image_id]["shapes"]) > 1
    assert classes == {1, 2, 3} and occluded > 10
    assert len({dataset.load_image(i).tobytes() for i in dataset.image_ids}) == 40


@pytest.mark.heavy
def test_demo_survives_a_kill(tmp_path):
    """Killed in the middle of an epoch and started again it goes on, and ends with its table and
    its line."""
    arguments = [
        "demo",
        "--logs",
        tmp_path / "logs",
        "--output",
        tmp_path / "out",
        "--epochs",
        2,
        "--images",
        3,
        *SMALL,
    ]
    first = subprocess.Popen(
        [sys.executable, quickly.__file__, str(SCRIPT), *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 900
    while (
        not list(tmp_path.glob("logs/*/*resume.h5"))
        and time.monotonic() < end
        and first.poll() is None
    ):
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL and list(tmp_path.glob("logs/*/*resume.h5"))
    assert not list(tmp_path.glob("logs/*/*0002.h5"))
    second = subprocess.run(
        [sys.executable, "-c", DEMO_AND_EVALUATE, *map(str, arguments[1:])],
        capture_output=True,
        text=True,
    )
    assert second.returncode == 0, second.stderr[-3000:]
    taken_up = re.search(r"Taking up the run in .* at epoch (\d), step (\d+)", second.stderr)
    assert taken_up and (int(taken_up[1]), int(taken_up[2])) > (1, 0)
    for name in (
        "loss",
        "rpn_class_loss",
        "rpn_bbox_loss",
        "mrcnn_class_loss",
        "mrcnn_bbox_loss",
        "mrcnn_mask_loss",
    ):
        assert f"{name}: " in second.stdout
    lines = second.stdout.strip().splitlines()
    (headline,) = [line for line in lines if ", trained in " in line]
    assert re.fullmatch(
        r"mask mAP@.5 \d\.\d{3}, mask AP \d\.\d{3}, on 3 images, trained in \d+ s", headline
    )
    paths = [line for line in lines if line.startswith(str(tmp_path / "out"))]
    assert {os.path.basename(path) for path in paths} == {
        "table.txt",
        "figures.json",
        "results.json",
        "truth.json",
        "curves.npz",
        "precision_recall.png",
        "confusion.png",
        "detections.png",
    }
    assert all(os.path.getsize(path) for path in paths)
    table = (tmp_path / "out" / "table.txt").read_text()
    assert all(name in table for name in ("square", "circle", "triangle", "all"))

    # What was trained is what `evaluate` finds.
    assert lines[-1] == headline.split(", trained")[0]


def test_mistakes_are_named():
    wrong = run("train", "--set", "STEPS_PER_EPOC=1")
    assert (
        wrong.returncode == 2
        and "did you mean STEPS_PER_EPOCH" in wrong.stderr
        and "Traceback" not in wrong.stderr
    )


def test_environment_script_says_what_is_missing(tmp_path):
    script = ROOT / "tools" / "venv.sh"
    done = subprocess.run(
        [str(script)],
        env={**os.environ, "PYTHON": "/nowhere/python"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "/nowhere/python does not run" in done.stderr
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\necho 3.9\n")
    old.chmod(0o755)
    done = subprocess.run(
        [str(script)], env={**os.environ, "PYTHON": str(old)}, capture_output=True, text=True
    )
    assert done.returncode == 1 and "3.11, 3.12 or 3.13 is needed. Received" in done.stderr
