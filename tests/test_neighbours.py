"""`mrcnn.neighbours` where the packages of others are missing; and, run by `make test-neighbours`,
against the real ones in .venv-neighbours."""

import os
import pathlib
import subprocess

import numpy as np
import pytest

from mrcnn import neighbours

ROOT = pathlib.Path(__file__).resolve().parents[1]
PYTHON = os.environ.get("MRCNN_NEIGHBOURS")


@pytest.mark.parametrize("name", ("supervision", "sahi", "trackers"))
def test_a_package_that_is_missing_is_named(monkeypatch, name):
    import sys

    for module in (name, f"{name}.models.base"):
        monkeypatch.setitem(sys.modules, module, None)
    result = {"class_ids": np.array([1]), "rois": np.zeros((1, 4)), "masks": None, "scores": [1]}
    extra = "neighbours"
    if name == "trackers":
        extra = "tracking"
    with pytest.raises(ImportError, match=rf"pip install {name}.*\[{extra}\]"):
        if name == "sahi":
            neighbours.sahi_model(None, ["BG", "a"])
        elif name == "trackers":
            neighbours.Tracker()
        else:
            neighbours.to_supervision(result, ["BG", "a"])


@pytest.mark.skipif(not PYTHON, reason="make test-neighbours runs it")
def test_the_real_packages(tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run(
        [PYTHON, str(ROOT / "tests" / "neighbours_runner.py")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for name in ("supervision", "sahi", "trackers"):
        assert name in done.stdout
