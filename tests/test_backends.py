"""PyTorch and JAX as Keras's backend, where TensorFlow is not installed, against TensorFlow.

`make test-backends` runs these tests: TensorFlow in this environment, the others in
.venv-backends, each in a process of its own, by backend_runner.py.
"""

import json
import os
import socket
import subprocess
import sys

import h5py
import numpy as np
import oracle
import parity
import pytest
from toy import Logs, Rectangles, ToyConfig

from mrcnn import model as modellib

ROOT = oracle.TESTS.parent
PYTHON = ROOT / ".venv-backends" / "bin" / "python"
BACKENDS = ("torch", "jax")

needed = pytest.mark.skipif(
    not os.environ.get("MRCNN_BACKENDS"), reason="make test-backends runs it"
)
pytestmark = [pytest.mark.heavy, needed]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where each backend has left what it found."""
    assert PYTHON.exists(), "make test-backends makes .venv-backends"
    folder = tmp_path_factory.mktemp("backends")
    pythons = {"tensorflow": sys.executable, **dict.fromkeys(BACKENDS, str(PYTHON))}
    finish({name: start(name, python, folder) for name, python in pythons.items()}, folder)
    return folder


def finish(running, folder):
    """Waits for processes, which must end well."""
    for name, process in running.items():
        process.wait()
        said = (folder / f"{name}.log").read_text()
        assert process.returncode == 0, f"{name}:\n{said[-3000:]}"


@pytest.fixture(scope="module")
def machines(folder):
    """The same folder when two machines of JAX, with a CPU each, have trained there, too."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        workers = [f"127.0.0.1:{opened.getsockname()[1]}", "127.0.0.1:1"]
    running = {}
    for number in range(2):
        task = {"type": "worker", "index": number}
        described = json.dumps({"cluster": {"worker": workers}, "task": task})
        name = f"machine{number}"
        running[name] = start(
            "jax", PYTHON, folder, name, "one_of_two", TF_CONFIG=described, XLA_FLAGS=""
        )
    finish(running, folder)
    return folder


def start(backend, python, folder, name="", *parts, **variables):
    """Starts `backend_runner.py`; what it says goes into a file."""
    name = name or backend
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{oracle.TESTS}",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "CUDA_VISIBLE_DEVICES": "-1",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        # The models that are made later find what was compiled for the first one.
        "MRCNN_CACHE": str(folder / "cache"),
        **variables,
    }
    program = [python, oracle.TESTS / "backend_runner.py", folder, *parts]
    with open(folder / f"{name}.log", "w", encoding="utf-8") as log:
        return subprocess.Popen(program, env=environment, stdout=log, stderr=log)


def found_by(folder, backend):
    """{name: array} that a backend has left."""
    with np.load(folder / f"{backend}.npz") as arrays:
        return dict(arrays)


def arrays_of(path):
    """{name: array} of a weight file."""
    arrays = {}

    def note(name, item):
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    with h5py.File(path, "r") as file:
        file.visititems(note)
    return arrays


def test_jax_keeps_what_it_compiled(folder):
    """On disk, for the next process; of one program without JAX's own bookkeeping there is a file."""
    kept = list((folder / "cache" / "jax").glob("*/jit_*"))
    assert len(kept) > 20


@pytest.mark.parametrize("backend", ["tensorflow", *BACKENDS])
def test_recorded_detections(folder, backend):
    """The same ones as the original's: scores to 1e-3, boxes to a pixel, masks to IoU .99."""
    found = found_by(folder, backend)
    result = {key.split("/")[1]: found[key] for key in found if key.startswith("detected/")}
    assert len(result["scores"]) == 100
    rows = list(parity.detections(backend, result, parity.read("net_small_shapes0")))
    assert len(rows) == 4 and not [row for row in rows if not parity.within(row)]


def test_recorded_losses_under_torch(folder):
    """Those of the original's ResNet-50 on a recorded batch, to 1e-4."""
    losses = found_by(folder, "torch")["recorded/losses"]
    assert len(losses) == 5 and losses.max() <= 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
def test_three_steps(folder, backend):
    """Losses to 1e-4 of TensorFlow's and weights to 1e-3; both have moved by more."""
    expected = found_by(folder, "tensorflow")["steps/losses"]
    losses = found_by(folder, backend)["steps/losses"]
    assert expected.shape == (3, 6) and (expected > 1e-3).all()
    assert np.abs(expected[2] / expected[0] - 1).min() > 1e-3
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    first = arrays_of(folder / "tensorflow.h5")
    trained = arrays_of(folder / "tensorflow_trained.h5")
    ours = arrays_of(folder / f"{backend}_trained.h5")
    assert trained.keys() == ours.keys() == first.keys()
    moved = 0
    for name, array in trained.items():
        np.testing.assert_allclose(ours[name], array, atol=1e-3 * max(np.abs(array).max(), 1e-3))
        way = np.abs(array - first[name]).max()
        if way > 0:
            moved += 1
            assert np.abs(ours[name] - array).max() <= 0.02 * way, name
    assert moved >= 30


@pytest.mark.parametrize("backend", BACKENDS)
def test_weight_files_are_the_same(folder, backend):
    """What a backend writes is what TensorFlow writes; each has read its own, see the runner."""
    expected = arrays_of(folder / "tensorflow.h5")
    written = arrays_of(folder / f"{backend}.h5")
    assert len(expected) >= 40 and written.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(written[name], array, err_msg=name)


@pytest.mark.parametrize("backend", ["tensorflow", *BACKENDS])
def test_a_killed_run_goes_on(folder, backend):
    """Weights, optimizer, draws and data go on where they were: it ends as if never killed."""
    assert found_by(folder, backend)["resumed/gap"] <= 1e-6


def test_training_by_xla_under_tensorflow(tmp_path):
    """JIT_COMPILE: the same losses, held-out ones too, and detections as without it, to 1e-4."""
    dataset = Rectangles(4)
    logged = {}
    detected = {}
    for jit_compile in (False, True):
        settings = dict(JIT_COMPILE=jit_compile)
        folder = tmp_path / str(jit_compile)
        model = modellib.MaskRCNN("training", ToyConfig(**settings), folder)
        logs = Logs()
        model.train(dataset, dataset, 1e-2, 1, "all", custom_callbacks=[logs])
        assert model.keras_model.jit_compile is jit_compile
        of_epoch = {name: value for name, value in logs.epochs[-1].items() if "loss" in name}
        logged[jit_compile] = [*logs.steps, of_epoch]
        detector = modellib.MaskRCNN("inference", ToyConfig(**settings, IMAGES_PER_GPU=1), folder)
        detector.load_weights(model.find_last())
        detector.keras_model.get_layer("mrcnn_class_logits").layer.bias.assign([-9.0, 0, 0])
        (detected[jit_compile],) = detector.detect([dataset.load_image(1)])
    assert len(logged[True]) == 4 and "val_loss" in logged[True][-1]  # three steps and an epoch
    for ours, expected in zip(logged[True], logged[False], strict=True):
        assert ours.keys() == expected.keys()
        for name, value in expected.items():
            assert ours[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert logged[True][0]["loss"] > 1.01 * logged[True][2]["loss"]
    np.testing.assert_array_equal(detected[True]["rois"], detected[False]["rois"])
    np.testing.assert_allclose(detected[True]["scores"], detected[False]["scores"], atol=1e-4)
    assert len(detected[True]["scores"]) > 0


def test_two_devices_of_jax(folder):
    """A batch over two devices trains as on one, by `keras.distribution.DataParallel`."""
    assert found_by(folder, "jax")["devices/gap"] <= 1e-5


def test_two_machines_of_jax(machines):
    """Two processes train as one with the whole batch: weights, losses, validation; one writes.

    They were killed and taken up, and without a SEED drew the same weights.
    """
    alone = found_by(machines, "jax")
    first, second = (found_by(machines, f"machine{number}") for number in range(2))
    assert first["drawn"].any()
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array, err_msg=name)
    assert len(alone["alone/figures"]) == 6 and (alone["alone/figures"] > 0).all()
    np.testing.assert_allclose(first["figures"], alone["alone/figures"], rtol=5e-5)
    np.testing.assert_allclose(first["weights"], alone["alone/weights"], atol=1e-5)
    (run,) = (machines / "machines").iterdir()
    names = sorted(path.name for path in run.glob("*.h5"))
    assert names == ["mask_rcnn_toy_0001.h5", "mask_rcnn_toy_resume.h5"], names
    said = [(machines / f"machine{number}.log").read_text() for number in range(2)]
    assert ["checkpoints in" in text for text in said] == [True, False]
