"""Exported models in their real runtimes, against `detect`: the same set, scores to 1e-3, boxes to
1 px, mask IoU .99.

`make test-runtimes` runs these tests, `make test-runtimes ARGS=--slow` the ResNet-50 too. They
export here, with the packages of .venv-runtimes behind this environment's own, and detect in
.venv-runtimes, which has no TensorFlow.
"""

import asyncio
import concurrent.futures
import copy
import inspect
import io
import json
import os
import pathlib
import re
import runpy
import shlex
import shutil
import socket
import subprocess
import sys
import time
import types
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image
from toy import BY_HEART, Rectangles, ToyConfig

import mrcnn
from mrcnn import cli, model as modellib, runtime
from mrcnn.config import Config, PaperC4Config

ROOT = pathlib.Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv-runtimes" / "bin" / "python"
WANTED = os.environ.get("MRCNN_RUNTIMES")

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(not WANTED, reason="make test-runtimes runs it"),
    # tf2onnx, onnx and OpenVINO warn of what others are about to remove.
    pytest.mark.filterwarnings("default"),
]

FILES = ("model.onnx", "model.xml", "model.tflite")


@pytest.fixture(scope="session", autouse=True)
def _packages():
    """What writes the files, behind this environment's own packages.

    Not of the module: two workers share the tests that have no fixture of the module.
    """
    assert PYTHON.exists(), "make test-runtimes makes .venv-runtimes"
    folder = folder_of_packages()
    sys.path.append(folder)
    yield
    sys.path.remove(folder)


def folder_of_packages():
    (folder,) = (PYTHON.parents[1] / "lib").glob("python*/site-packages")
    return str(folder)


def names_of(config):
    return ["BG", *(f"class {i}" for i in range(1, config.NUM_CLASSES))]


def picture(height, width, seed=0):
    """Squares of one colour each, and noise."""
    rng = np.random.default_rng(seed)
    squares = rng.integers(0, 256, (height // 9 + 1, width // 9 + 1, 3))
    pixels = np.kron(squares, np.ones((9, 9, 1), int))[:height, :width]
    return np.clip(pixels + rng.normal(0, 8, pixels.shape), 0, 255).astype(np.uint8)


def detect_elsewhere(folder, images, jobs):
    """{file: results} of files of the folder in the environment without TensorFlow.

    Args:
        images: {name: image}.
        jobs: {file: names of images}.
    """
    np.savez(folder / "images.npz", **images)
    (folder / "job.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [PYTHON, ROOT / "tests" / "runtime_runner.py", folder],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {file: read(folder / f"{file}.npz", names, images) for file, names in jobs.items()}


def read(path, names, images):
    """The results that the runner wrote."""
    results = []
    with np.load(path) as archive:
        for i in range(len(names)):
            keys = [key for key in archive.files if key.startswith(f"{i}/")]
            result = {key.split("/")[1]: archive[key] for key in keys}
            if "masks" in result:
                count = int(result.pop("count"))
                bits = np.unpackbits(result["masks"], axis=-1, count=count)
                result["masks"] = bits.astype(bool)
                result["rle"] = json.loads(str(result["rle"]))
            results.append(result)
    return results


def check_same(actual, expected, masks_too=True):
    """The same detections, in whatever order equal scores have."""
    assert len(actual["scores"]) == len(expected["scores"])
    if not len(expected["scores"]):
        return
    order = pair_up(actual, expected)
    np.testing.assert_array_equal(actual["class_ids"][order], expected["class_ids"])
    np.testing.assert_allclose(actual["scores"][order], expected["scores"], atol=1e-3)
    assert np.abs(actual["rois"][order].astype(float) - expected["rois"]).max() <= 1
    if masks_too and expected["masks"] is not None:
        masks = actual["masks"][..., order]
        common = (masks & expected["masks"]).sum((0, 1))
        union = (masks | expected["masks"]).sum((0, 1))
        assert np.all(common >= 0.99 * union)
    if "keypoints" in expected:
        places = actual["keypoints"][order]
        np.testing.assert_allclose(places[..., 2], expected["keypoints"][..., 2], atol=1e-3)


def pair_up(actual, expected):
    """For each expected detection the row of the nearest one of its class that is left."""
    left = list(range(len(actual["scores"])))
    order = []
    for box, class_id, score in zip(expected["rois"], expected["class_ids"], expected["scores"]):
        far = [
            np.abs(actual["rois"][i].astype(float) - box).max()
            + 100 * abs(float(actual["scores"][i]) - float(score))
            + 1e6 * (actual["class_ids"][i] != class_id)
            for i in left
        ]
        order.append(left.pop(int(np.argmin(far))))
    return order


def export_all(model, folder, files=FILES, size=None, **options):
    """Writes a model in each format, the LiteRT file for images of a size, two at a time."""
    for file in files:
        fixed = {}
        if file.endswith(".tflite"):
            fixed = {"size": size, "batch": 2}
        names = names_of(model.config)
        model.export(folder / file, class_names=names, **fixed, **options)


def check_files(model, folder, images, files=FILES, size=None, noisy=()):
    """Detects in each runtime and compares; a LiteRT file sees images of its size alone.

    Args:
        noisy: (file, image) of which the masks are not compared.
    """
    shapes = {name: image.shape[:2] for name, image in images.items()}
    jobs = {}
    for file in files:
        jobs[file] = list(images)
        if file.endswith(".tflite"):
            jobs[file] = [name for name, shape in shapes.items() if shape == size]
            assert len(jobs[file]) > 1
    found = detect_elsewhere(folder, images, jobs)
    expected = dict(zip(images, model.detect(list(images.values()))))
    for file, results in found.items():
        for name, result in zip(jobs[file], results):
            check_same(result, expected[name], (file, name) not in noisy)
    return found, expected


@pytest.fixture(scope="module")
def toy_files(toy_detector, tmp_path_factory):
    """A folder with the toy in every format, the LiteRT file for 128 x 128 pixels."""
    folder = tmp_path_factory.mktemp("toy, in a folder with a comma")
    export_all(toy_detector, folder, size=(128, 128))
    return folder


def test_toy_in_every_runtime(toy_detector, toy_files, monkeypatch):
    """Two sizes, batches of two, the largest number of detections, run lengths."""
    images = {
        "as molded": picture(128, 128),
        "as molded too": picture(128, 128, 4),
        "wide": picture(90, 201, 1),
        "wide too": picture(90, 201, 2),
        "large": picture(300, 260, 3),
        "line": picture(1, 40, 5),
    }
    monkeypatch.setattr(toy_detector.config, "BATCH_SIZE", 2)
    found, expected = check_files(toy_detector, toy_files, images, size=(128, 128))
    most = toy_detector.config.DETECTION_MAX_INSTANCES
    for name in ("as molded", "large"):
        assert len(expected[name]["scores"]) == most
    codes = toy_detector.detect([images["wide"]], masks="rle")[0]["masks"]
    areas = [sum(mask_of(code)) for code in codes]
    of_onnx = [sum(mask_of(code)) for code in found["model.onnx"][2]["rle"]]
    np.testing.assert_allclose(sorted(of_onnx), sorted(areas), atol=2)


# Loads the files that it is given and says what came of each.
LOAD = """
import pathlib, sys
from mrcnn import runtime
for path in map(pathlib.Path, sys.argv[1:]):
    try:
        runtime.load(path)
    except ValueError as error:
        print(path.parent.name, "refused", str(path) in str(error), "\\n" in str(error))
    else:
        print(path.parent.name, "loaded")
"""


@pytest.mark.parametrize("file", ["model.onnx", "model.bin", "model.tflite"])
def test_files_that_are_cut_are_refused(toy_files, tmp_path, file):
    """At any place: an error of one line that names the file, not a crash and no results."""
    content = (toy_files / file).read_bytes()
    size = len(content)
    paths = []
    for cut in (0, 8, 100, size // 3, size * 2 // 3, size - 1000, size - 1):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / file).write_bytes(content[:cut])
        paths.append(folder / file)
        if file == "model.bin":
            paths[-1] = folder / "model.xml"
            paths[-1].write_bytes((toy_files / "model.xml").read_bytes())
    done = subprocess.run(
        [PYTHON, "-c", LOAD, *paths],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = [f"{path.parent.name} refused True False" for path in paths]
    assert done.stdout.splitlines() == expected


def test_weights_of_another_export_are_refused(toy_detector, toy_files, tmp_path):
    """model.bin of a network with other weights has as many bytes, and OpenVINO takes it."""
    bias = toy_detector.keras_model.get_layer("mrcnn_class_logits").layer.bias
    before = np.array(bias)
    bias.assign(before + 1)
    try:
        toy_detector.export(tmp_path / "model.xml", class_names=names_of(toy_detector.config))
    finally:
        bias.assign(before)
    runtime.load(tmp_path / "model.xml")
    assert (tmp_path / "model.bin").stat().st_size == (toy_files / "model.bin").stat().st_size
    shutil.copy(toy_files / "model.bin", tmp_path)
    with pytest.raises(ValueError, match="model.bin has other weights than .*model.xml"):
        runtime.load(tmp_path / "model.xml")


# Detects, forks, detects in the child and in its child; each ends as a program does. The parent
# kills a child that does not end. Given a second file, the child's is replaced by it.
FORK = """
import os, pathlib, shutil, signal, sys, time
import numpy as np
from mrcnn import runtime

def in_a_fork(function):
    sys.stdout.flush()
    child = os.fork()
    if not child:
        function()
        sys.exit(7)
    last = time.monotonic() + 240
    while time.monotonic() < last:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return print("ended", os.waitstatus_to_exitcode(status), flush=True)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print("hung", flush=True)

def detect():
    try:
        scores = model.detect([image])[0]["scores"]
    except (ValueError, RuntimeError) as error:
        print(type(error).__name__, error)
    else:
        print("same", np.allclose(scores, expected, atol=1e-6))

def detect_twice():
    detect()
    in_a_fork(detect)

file = pathlib.Path(sys.argv[1])
image = np.random.default_rng(0).integers(0, 255, (128, 128, 3)).astype(np.uint8)
model = runtime.load(file)
in_a_fork(lambda: None)
expected = model.detect([image])[0]["scores"]
in_a_fork(detect_twice)
detect()
if sys.argv[2:]:
    shutil.copy(sys.argv[2], file)
    in_a_fork(detect)
"""


def run_forking(python, *paths):
    """The lines that `FORK` prints."""
    done = subprocess.run(
        [python, "-c", FORK, *paths],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


@pytest.mark.parametrize("file", FILES)
def test_forked_processes(toy_files, file):
    """They hung at their end, in ONNX Runtime and OpenVINO."""
    lines = run_forking(PYTHON, toy_files / file)
    assert lines == ["ended 7", "same True", "same True", "ended 7", "ended 7", "same True"]


def test_a_forked_process_refuses_another_file(toy_detector, toy_files, tmp_path):
    """Of another export, it would detect by weights that its parent does not have."""
    shutil.copy(toy_files / "model.onnx", tmp_path)
    names = ["BG", *(f"other {i}" for i in range(1, toy_detector.config.NUM_CLASSES))]
    toy_detector.export(tmp_path / "other.onnx", class_names=names)
    lines = run_forking(PYTHON, tmp_path / "model.onnx", tmp_path / "other.onnx")
    assert lines[5] == "same True" and lines[7] == "ended 7"
    assert "LoadError" in lines[6] and "model.onnx: a copy of a model" in lines[6]
    assert "Received: the file of another export" in lines[6]
    model = runtime.load(tmp_path / "model.onnx")
    shutil.copy(toy_files / "model.onnx", tmp_path)
    with pytest.raises(ValueError, match="model.onnx: a copy of a model"):
        copy.copy(model)


def test_a_forked_process_refuses_a_saved_model(toy_detector, tmp_path):
    toy_detector.export(tmp_path / "toy", class_names=names_of(toy_detector.config))
    lines = run_forking(sys.executable, tmp_path / "toy")
    assert [line.split()[0] for line in lines] == [
        *("ended", "ForkedError", "ForkedError", "ended", "ended", "same")
    ]
    assert "get_context('spawn')" in lines[1] and str(tmp_path / "toy") in lines[1]


# Imports ONNX Runtime by a model, and says what it has made of its own telemetry.
TELEMETRY = """
import os, sys
from mrcnn import runtime
before = len(os.listdir("/proc/self/task"))
runtime.load(sys.argv[1], threads=1)
print(len(os.listdir("/proc/self/task")) - before, "ORT_DISABLE_TELEMETRY" in os.environ)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads of /proc")
def test_onnxruntime_reports_nothing(toy_files, tmp_path):
    """Its threads that send data, and its files in the home folder, are not made."""
    environment = {key: value for key, value in os.environ.items() if key != "CI"}
    environment.update(PYTHONPATH=str(ROOT), HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    done = subprocess.run(
        [PYTHON, "-c", TELEMETRY, toy_files / "model.onnx"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["0", "False"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", FILES)
def test_devices_that_are_not_here(toy_files, file):
    with pytest.raises(ValueError, match="device is .*(cpu|CPU).* Received: 'abacus'"):
        runtime.load(toy_files / file, device="abacus")


def test_an_image_of_another_size_is_fitted(toy_files, caplog):
    """The detections of the file for the image with its padding, and a warning."""
    model = runtime.load(toy_files / "model.tflite", threads=1)
    image = picture(90, 128)
    padded = np.zeros((128, 128, 3), np.uint8)
    padded[19:109] = image  # in the middle, as `detect` has it
    expected, found = model.detect([padded, image])
    assert "model.tflite was exported for images of 128 x 128" in caplog.text
    inside = (expected["rois"][:, 0] >= 19) & (expected["rois"][:, 2] <= 109)
    assert inside.any() and found["masks"].shape[:2] == (90, 128)
    rois = found["rois"].tolist()
    assert all(box in rois for box in (expected["rois"][inside] - [19, 0, 19, 0]).tolist())
    assert found["rois"][:, 2].max() <= 90


# `python -m mrcnn.runtime` with the packages of a folder behind, and neither of two.
NO_TENSORFLOW = """
import runpy, sys
for name in ("tensorflow", "keras"):
    sys.modules[name] = None
sys.path.append(sys.argv.pop(1))
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def run_runtime(words):
    """Output and errors of `python -m MODULE ...`, in a process without TensorFlow."""
    assert words[0] in ("mrcnn", "mrcnn.runtime")
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error::RuntimeWarning",
            "-c",
            NO_TENSORFLOW,
            folder_of_packages(),
            *words,
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def test_pictures_and_films_without_tensorflow(toy_detector, toy_files, tmp_path):
    """The command: painted files, results.json as of `detect`; a broken file is told and skipped."""
    from mrcnn import media

    pixels = picture(60, 80)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    with media.VideoWriter(tmp_path / "film.mp4", rate=5) as film:
        for seed in range(2):
            film.write(picture(64, 96, seed))
    inputs = [tmp_path / name for name in ("photo.png", "broken.png", "film.mp4")]
    words = ["mrcnn.runtime", toy_files / "model.onnx", *inputs]
    done = run_runtime([*words, f"--output={tmp_path / 'out'}", "--threads=1"])
    assert "broken.png" in done.stderr and "3 images, 1 files skipped" in done.stdout
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"photo.png", "film.mp4", "results.json", "images.json"}
    index = json.loads((tmp_path / "out" / "images.json").read_text())
    assert [entry["name"] for entry in index["categories"]] == ["class 1", "class 2"]
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    found = sorted(row["score"] for row in rows if row["image_id"] == index["images"][0]["id"])
    expected = sorted(toy_detector.detect([pixels])[0]["scores"].tolist())
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("tiles", [[], ["--tile=64"]], ids=["whole", "tiles"])
def test_the_command_with_a_runtime_and_pillow_alone(toy_files, tmp_path, tiles):
    """Without scikit-image, SciPy and pycocotools: the files that are written with them."""
    Image.fromarray(picture(96, 200)).save(tmp_path / "photo.png")
    words = ["detect", "photo.png", f"--weights={toy_files / 'model.onnx'}", *tiles]
    done = subprocess.run(
        [PYTHON, "-m", "mrcnn", *words, "--output=few"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    words[1] = str(tmp_path / "photo.png")
    run_runtime(["mrcnn", *words, f"--output={tmp_path / 'all'}"])
    few = json.loads((tmp_path / "few" / "results.json").read_text())
    assert len(few) > 3 and few == json.loads((tmp_path / "all" / "results.json").read_text())
    painted = [np.asarray(Image.open(tmp_path / name / "photo.png")) for name in ("few", "all")]
    np.testing.assert_array_equal(*painted)
    assert (painted[0] != picture(96, 200)).any()


def mask_of(code):
    from mrcnn.masks import decompressed

    return decompressed(code["counts"])[1::2]


def test_onnx_has_standard_operators_alone(toy_files):
    """And suppression is ONNX's own: no loop."""
    import onnx

    network = onnx.load(toy_files / "model.onnx")
    onnx.checker.check_model(network, full_check=True)
    operators = {node.op_type for node in network.graph.node}
    assert "NonMaxSuppression" in operators and "Loop" not in operators
    assert {opset.domain for opset in network.opset_import} <= {"", "ai.onnx.ml"}
    for tensor in (*network.graph.input, *network.graph.output):  # Triton may make batches
        sides = tensor.type.tensor_type.shape.dim
        assert len(sides) >= 2 and not sides[0].HasField("dim_value"), tensor.name


def test_openvino_suppresses_without_a_loop(toy_files):
    """By its own operator: a loop was nine tenths of a toy's detection."""
    text = (toy_files / "model.xml").read_text(encoding="utf-8")
    assert 'type="NonMaxSuppression"' in text
    assert 'type="Loop"' not in text and 'type="TensorIterator"' not in text


def test_openvino_selects_the_best_anchors_without_its_stable_sort(toy_files):
    """A stable TopK of 6000 from 261,888 was nine tenths of a ResNet-50's time at 1024 pixels."""
    text = (toy_files / "model.xml").read_text(encoding="utf-8")
    attributes = re.findall(r'type="TopK".*?<data ([^>]*)/>', text, flags=re.S)
    assert sum('stable="false"' in values for values in attributes) >= 2, attributes


@pytest.mark.parametrize(
    "shape, count",
    [
        ((1, 5000), 600),
        ((3, 700), 600),
        ((2, 600), 600),
        ((2, 40), 600),
        ((4, 3, 100), 20),
        ((90,), 40),
    ],
)
def test_largest_values_in_openvino_are_those_of_tensorflow(tmp_path, shape, count):
    """With many equal values, at the limit too: in order, and of equals the first."""
    import openvino
    import tensorflow as tf

    from mrcnn import export

    def largest(values):
        best, places = tf.math.top_k(values, tf.minimum(count, tf.shape(values)[-1]))
        return {"best": best * 2.0, "places": places + 1}

    spec = tf.TensorSpec([None] * len(shape), tf.float32)
    function = tf.function(largest, input_signature=[spec])
    network = openvino.convert_model(function.get_concrete_function())
    export._replace_top_k(network, openvino)
    compiled = openvino.Core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    rng = np.random.default_rng(0)
    for number in (1, 5, 50, 10**6):  # different values
        values = (rng.integers(-number, number, shape) / np.float32(number)).astype(np.float32)
        outputs = compiled(values)
        for name, expected in largest(tf.constant(values)).items():
            np.testing.assert_array_equal(outputs[name], expected, err_msg=name)


def test_masks_of_no_class_in_onnx(tmp_path):
    """CLASS_AGNOSTIC_MASKS: its indices were an input of the file, which none could run then."""
    import keras

    settings = {name: getattr(ToyConfig, name) for name in TINY}
    config = Config(**settings, NUM_CLASSES=3, IMAGES_PER_GPU=1, CLASS_AGNOSTIC_MASKS=True)
    keras.utils.set_random_seed(0)
    model = spread(modellib.MaskRCNN("inference", config, tmp_path))
    export_all(model, tmp_path, files=("model.onnx",))
    check_files(model, tmp_path, {"one": picture(64, 64)}, files=("model.onnx",))


@pytest.mark.slow  # writing the ONNX file takes more than 8 GB
def test_recorded_network(small_model, image, tmp_path):
    """The ResNet-50 whose outputs were recorded of the original.

    Its masks are noise. Where OpenVINO resizes an image, a pixel may be off by 1 of 255, which moves
    11 of 200 boxes by a pixel and some pixels of 24 masks below an IoU of .99; these are left out.
    """
    size = image.shape[:2]
    images = {
        "recorded": image,
        "recorded's size": picture(*size),  # a LiteRT file takes no other
        "wide": picture(90, 201),
        "wide too": picture(90, 201, 1),
    }
    export_all(small_model, tmp_path, size=size)
    noisy = [("model.xml", "wide"), ("model.xml", "wide too")]
    found, expected = check_files(small_model, tmp_path, images, size=size, noisy=noisy)
    assert len(expected["recorded"]["scores"]) == small_model.config.DETECTION_MAX_INSTANCES


# Of a file's size with float32; the toy's anchors and graph, which stay, are a large part of it.
SHARES = [
    ("model.onnx", "float16", 0.75),
    ("model.onnx", "int8", 0.6),
    ("model.bin", "float16", 0.6),
    ("model.bin", "int8", 0.4),
    ("model.tflite", "float16", 0.75),
    ("model.tflite", "int8", 0.6),
]


@pytest.mark.parametrize("file, precision, share", SHARES, ids=str)
def test_weights_of_fewer_bits(toy_detector, toy_files, tmp_path, file, precision, share):
    """Smaller by so much, and still about the same scores.

    Of two boxes with nearly the same score the other one may suppress its neighbour: of the ten
    best scores eight are there again.
    """
    names = names_of(toy_detector.config)
    exported = pathlib.Path(file.replace(".bin", ".xml"))
    toy_detector.export(tmp_path / exported, class_names=names, precision=precision)
    sizes = {}
    scores = {}
    for kind, folder in (("float32", toy_files), (precision, tmp_path)):
        sizes[kind] = (folder / file).stat().st_size
        scores[kind] = runtime.load(folder / exported).detect([picture(128, 128)])[0]["scores"]
    assert sizes[precision] < share * sizes["float32"]
    largest = {"float16": 2e-3, "int8": 0.05}[precision]
    assert not np.array_equal(scores[precision], scores["float32"])
    for some, others in (("float32", precision), (precision, "float32")):
        gaps = np.abs(scores[some][:10, None] - scores[others]).min(axis=1)
        assert np.sum(gaps <= largest) >= 8, (some, gaps)


def test_weights_of_int8_are_float32_as_onnxruntime_computes(toy_detector, toy_files, tmp_path):
    """What they multiply is not made int8, as is its own choice: OpenVINO gives the same scores."""
    names = names_of(toy_detector.config)
    found = []
    for file in ("model.onnx", "model.xml"):
        toy_detector.export(tmp_path / file, class_names=names, precision="int8")
        found.append(runtime.load(tmp_path / file).detect([picture(128, 128)])[0])
    check_same(*found)


def spread(model):
    """Scores of random weights lie so close that rounding decides which come first: apart, then."""
    layer = model.keras_model.get_layer("mrcnn_class_logits").layer
    layer.kernel.assign(layer.kernel * 20.0)
    return model


SMALL_HEADS = dict(
    BACKBONE="resnet18",
    BACKBONE_WIDTH=16,
    IMAGES_PER_GPU=1,
    RPN_CHANNELS=32,
    FPN_CLASSIF_FC_LAYERS_SIZE=64,
    POST_NMS_ROIS_INFERENCE=60,
    DETECTION_MAX_INSTANCES=20,
)


KEYPOINTS = dict(
    USE_KEYPOINTS=True,
    NUM_KEYPOINTS=4,
    KEYPOINT_FLIP_PAIRS=(),
    KEYPOINT_HEAD_CONVS=1,
    KEYPOINT_HEAD_CHANNELS=16,
)


def raise_background(model, images):
    """Until one image has no detection and another the largest number."""
    bias = model.keras_model.get_layer("mrcnn_class_logits").layer.bias
    most = model.config.DETECTION_MAX_INSTANCES
    before = np.array(bias)
    for more in np.arange(-8, 24, 0.5):
        bias.assign(before + np.float32(more) * np.eye(1, len(before), dtype=np.float32)[0])
        counts = [len(result["scores"]) for result in model.detect(images)]
        if min(counts) == 0 and max(counts) == most:
            return
    raise AssertionError("no such background")


@pytest.mark.parametrize(
    "preset, settings, paste",
    [
        pytest.param("TorchvisionConfig", {}, False, id="v1"),
        pytest.param(
            *("TorchvisionV2Config", KEYPOINTS, True),
            id="v2 with keypoints and pasted masks",
            marks=pytest.mark.slow,  # 100 s
        ),
    ],
)
def test_torchvision_graphs(tmp_path, preset, settings, paste):
    """Sizes free to the end, float resizing, RoIAlign, edges, all classes, padded masks, points.

    Two sizes, an image without detections, one with the largest number.
    """
    import keras

    from mrcnn import torchvision

    config = getattr(torchvision, preset)(
        **{**SMALL_HEADS, "DETECTION_MAX_INSTANCES": 6},
        **settings,
        NUM_CLASSES=4,
        IMAGE_MIN_DIM=96,
        IMAGE_MAX_DIM=160,
        RPN_ANCHOR_SCALES=(8, 16, 32, 64, 128),
        TOP_DOWN_PYRAMID_SIZE=32,
        MASK_HEAD_CHANNELS=32,
    )
    keras.utils.set_random_seed(0)
    model = spread(modellib.MaskRCNN("inference", config, tmp_path))
    images = {
        "one": picture(72, 96),
        "too": picture(72, 96, 2),
        "flat": np.full((72, 96, 3), 110, np.uint8),
        "other": picture(150, 110, 1),
        "other too": np.full((150, 110, 3), 200, np.uint8),
    }
    raise_background(model, list(images.values()))
    export_all(model, tmp_path, size=(72, 96), paste=paste)
    _, expected = check_files(model, tmp_path, images, size=(72, 96))
    counts = {len(result["scores"]) for result in expected.values()}
    assert {0, 6} <= counts
    if settings:
        assert max(len(result["keypoints"]) for result in expected.values()) == 6
        assert expected["one"]["keypoints"].shape[1:] == (4, 3)


# ---- A network that was trained ------------------------------------------------------------------


def trained_on_rectangles(folder):
    """A toy in inference mode that knows one image by heart, as `test_overfits_one_image` has it."""
    import keras

    keras.utils.set_random_seed(0)
    config = ToyConfig(**BY_HEART)
    dataset = Rectangles(2)
    dataset.image_info = dataset.image_info[1:]
    dataset.prepare()
    training = modellib.MaskRCNN("training", config, folder)
    training.train(dataset, None, config.LEARNING_RATE, 1, "all")
    model = modellib.MaskRCNN("inference", config, folder)
    model.load_weights(training.find_last())
    return model, dataset


def test_trained_network(tmp_path):
    """Sure detections, of weights that were trained: of the image it knows, and of others."""
    model, dataset = trained_on_rectangles(tmp_path)
    known = dataset.load_image(0)
    images = {
        "known": known,
        "darker": known - np.uint8(9),
        "moved": np.roll(known, (1, 2), axis=(0, 1)),
        "cut": known[:, 2:],
        "cut too": known[:, :-2],
    }
    export_all(model, tmp_path, size=known.shape[:2])
    _, expected = check_files(model, tmp_path, images, size=known.shape[:2])
    _, class_ids = dataset.load_mask(0)
    assert sorted(expected["known"]["class_ids"]) == sorted(class_ids)
    assert min(expected["known"]["scores"]) > 0.7


def test_calibrated_files(tmp_path, capsys):
    """Of a trained network: the same objects, computed in int8, in both runtimes.

    Their float32 files give the scores of `detect` to 1e-3, these to .05; the file says with how
    many images it was calibrated.
    """
    model, dataset = trained_on_rectangles(tmp_path)
    known = dataset.load_image(0)
    images = [known, known - np.uint8(9), np.roll(known, (1, 2), axis=(0, 1))]
    Image.fromarray(known).save(tmp_path / "known.png")
    calibration = [*images[1:], tmp_path / "known.png"]
    options = dict(class_names=names_of(model.config), precision="int8")
    expected = model.detect(images)
    folder = tmp_path / "calibrated, by three"
    for file in ("model.onnx", "model.xml"):
        path = folder / file
        model.export(path, calibration=iter(calibration), **options)
        exported = runtime.load(path)
        assert exported.metadata.calibration == 3
        for result, exact in zip(exported.detect(images), expected):
            order = pair_up(result, exact)
            np.testing.assert_array_equal(result["class_ids"][order], exact["class_ids"])
            differences = np.abs(result["scores"][order] - exact["scores"])
            assert 1e-6 < differences.max() < 0.05
            moved = np.abs(result["rois"][order] - exact["rois"])
            assert moved.max() <= 2
            # What a side that moved by a pixel adds or takes is not the masks' own difference.
            heights, widths = (exact["rois"][:, 2:] - exact["rois"][:, :2]).T
            of_sides = (moved * np.stack([widths, heights, widths, heights], axis=-1)).sum(-1)
            common = (result["masks"][..., order] & exact["masks"]).sum((0, 1))
            union = (result["masks"][..., order] | exact["masks"]).sum((0, 1))
            assert np.all((common >= 0.9 * union) | (common >= 0.98 * (union - of_sides)))
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["model.bin", "model.onnx", "model.xml"]
    assert cli.main(["inspect", str(folder / "model.onnx")]) == 0
    assert "int8, calibrated with 3 images" in capsys.readouterr().out
    check_computes_in_int8(folder / "model.onnx")


def check_computes_in_int8(path):
    """onnxruntime itself lists what it runs; the layers of scores and boxes stay float32."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path.with_name("optimized.model"))
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(options.optimized_model_filepath).graph.node
    floats = [node.name for node in nodes if node.op_type in ("Conv", "MatMul", "Gemm")]
    integers = [node.name for node in nodes if node.op_type.startswith(("QLinear", "QGemm"))]
    for layer in ("rpn_class_raw", "rpn_bbox_pred", "mrcnn_class_logits", "mrcnn_bbox_fc"):
        assert any(layer in name for name in floats), floats
        assert not any(layer in name for name in integers), integers
    for layer in ("res2a", "fpn_p2", "rpn_conv_shared", "mrcnn_class_conv1", "mrcnn_mask_conv1"):
        assert any(layer in name for name in integers), integers


def test_what_calibration_refuses(toy_detector, tmp_path):
    """No image, none with a detection, one that the model doesn't take; no file is left."""
    import keras

    options = dict(class_names=names_of(toy_detector.config), precision="int8")
    keras.utils.set_random_seed(0)
    blind = modellib.MaskRCNN("inference", toy_detector.config, tmp_path / "logs")
    blind.keras_model.get_layer("mrcnn_class_logits").layer.bias.assign([40.0, 0, 0])
    image = picture(128, 128)
    for model, images, part in (
        (toy_detector, [], "model detects something.*Received: 0 images, without a detection"),
        (blind, [image, image], "Received: 2 images, without a detection"),
        (
            toy_detector,
            [image, image[..., :2]],
            r"Received: calibration: image 1 of shape \(128, 128, 2\)",
        ),
        (toy_detector, [tmp_path / "none.jpg"], r"none.jpg"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=part):
            model.export(tmp_path / "model.onnx", calibration=images, **options)
    assert not [path for path in tmp_path.iterdir() if path.name != "logs"]


@pytest.mark.slow
def test_network_of_the_demo(tmp_path):
    """Its last checkpoint, if `make demo` was run here, on images that it has not seen."""
    from mrcnn import commands, training
    from samples.shapes import shapes

    logs = ROOT / "demo" / "logs"
    if not logs.is_dir():
        pytest.skip("make demo writes what is exported here")
    config = commands.inference_config(shapes.ShapesConfig(), IMAGES_PER_GPU=2)
    model = modellib.MaskRCNN("inference", config, tmp_path)
    model.load_weights(training.find_last(logs, config.NAME))
    unseen = shapes.ShapesDataset(8, first=commands.HELD_OUT)
    images = {str(i): unseen.load_image(i) for i in range(8)}
    images["nothing"] = np.full((shapes.SIDE, shapes.SIDE, 3), 90, np.uint8)
    images["cut"] = images["0"][:90, :120]
    export_all(model, tmp_path, size=(shapes.SIDE, shapes.SIDE))
    _, expected = check_files(model, tmp_path, images, size=(shapes.SIDE, shapes.SIDE))
    assert sum(max(expected[str(i)]["scores"], default=0) > 0.9 for i in range(8)) >= 6


def test_c4_without_masks_of_one_channel(tmp_path):
    """One image without detections beside one with them; gray of two and of three dimensions."""
    import keras

    config = PaperC4Config(
        **SMALL_HEADS,
        NUM_CLASSES=2,
        IMAGE_MIN_DIM=64,
        IMAGE_MAX_DIM=128,
        IMAGE_RESIZE_MODE="pad64",
        IMAGE_CHANNEL_COUNT=1,
        MEAN_PIXEL=np.array([100.0]),
        RPN_ANCHOR_SCALES=[(8, 16, 32)],
        DETECTION_MIN_CONFIDENCE=0.0,
        USE_MASK=False,
    )
    keras.utils.set_random_seed(0)
    model = modellib.MaskRCNN("inference", config, tmp_path)
    images = {
        "none": picture(64, 100)[..., :1],
        "some": np.full((64, 100), 128, np.uint8),
        "other size": np.full((90, 70), 120, np.uint8),
    }
    export_all(model, tmp_path, size=(64, 100))
    _, expected = check_files(model, tmp_path, images, size=(64, 100))
    counts = {name: len(result["scores"]) for name, result in expected.items()}
    assert counts["none"] == 0 < min(counts["some"], counts["other size"])
    assert expected["some"]["masks"] is None


# ---- docs/deploying.md ---------------------------------------------------------------------------


def blocks(language):
    text = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.S | re.M)


def indented():
    """The page's commands that are not run as they stand: of the server."""
    text = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]


def test_packages_of_the_page_are_those_of_the_tests():
    pinned = (ROOT / "requirements" / "runtimes.txt").read_text().splitlines()
    names = {line.split("==")[0] for line in pinned if "==" in line}
    (line,) = (line for line in indented() if line.startswith("pip install"))
    assert set(line.split("#")[0].split()[2:]) <= names
    (line,) = (line for line in indented() if line.startswith("curl"))
    assert line == "curl --data-binary @photo.jpg http://localhost:8000/detect"


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A folder to work in, COCO's weights of a toy, photographs."""
    from mrcnn import commands

    for name in TINY:
        monkeypatch.setattr(Config, name, ToyConfig.__dict__[name])
    network = modellib.MaskRCNN("inference", Config(NAME="coco", NUM_CLASSES=81), tmp_path)
    network.save_weights(tmp_path / "coco.h5")
    monkeypatch.setattr(commands, "COCO_WEIGHTS", tmp_path / "coco.h5")
    monkeypatch.setattr(commands, "ROOT", ROOT)
    monkeypatch.chdir(tmp_path)
    for i in range(2):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(picture(60, 80, i)).save(tmp_path / "photos" / f"{i}.jpg")
    return tmp_path


TINY = (
    "BACKBONE",
    "COMPUTE_BACKBONE_SHAPE",
    "IMAGE_MIN_DIM",
    "IMAGE_MAX_DIM",
    "RPN_ANCHOR_SCALES",
    "RPN_CHANNELS",
    "TOP_DOWN_PYRAMID_SIZE",
    "MASK_HEAD_CHANNELS",
    "FPN_CLASSIF_FC_LAYERS_SIZE",
    "PRE_NMS_LIMIT",
    "POST_NMS_ROIS_INFERENCE",
    "DETECTION_MAX_INSTANCES",
    "DETECTION_MIN_CONFIDENCE",
)


def test_every_command_of_the_page(small, monkeypatch):
    """Exports of each kind, the same names in each, and detection on photographs."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) == 6
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "python", line
        if words[1] == "-m":
            run_runtime(words[2:])
            continue
        monkeypatch.setattr(sys, "argv", words[1:])
        runpy.run_path(str(ROOT / words[1]), run_name="__main__")
    for name in ("model.onnx", "model.xml", "model.tflite", "coco"):
        model = runtime.load(pathlib.Path("exported") / name)
        assert model.class_names[1] == "person" and len(model.class_names) == 81
        assert model.metadata.weights["file"] == str(small / "coco.h5")
    assert model.metadata.version == mrcnn.__version__
    assert runtime.load("exported/fast.onnx").metadata.calibration == len(
        list(small.glob("photos/*"))
    )
    assert {path.name for path in (small / "results").iterdir()} >= {"0.jpg", "results.json"}
    (example,) = [block for block in blocks("python") if "runtime.load" in block]
    known = {"image": picture(60, 80)}
    exec(example, known)
    assert len(known["names"]) == len(known["result"]["scores"])


def test_the_example_of_the_page_exports(small, monkeypatch):
    """Up to the writing, which the commands do."""
    (small / "coco.h5").rename(small / "mask_rcnn_coco.h5")
    signature = inspect.signature(modellib.MaskRCNN.export)
    asked = []
    monkeypatch.setattr(modellib.MaskRCNN, "export", lambda *args, **kw: asked.append((args, kw)))
    (example,) = [block for block in blocks("python") if "class_names=" in block]
    config = Config(NAME="coco", NUM_CLASSES=81)
    names = types.SimpleNamespace(class_names=names_of(config))
    exec(example, {"config": config, "dataset": names, "modellib": modellib})
    ((args, keywords),) = asked
    given = signature.bind(*args, **keywords).arguments
    assert given["path"] == "model.onnx" and len(given["class_names"]) == 81


def test_a_file_of_another_program_is_refused(tmp_path):
    """One that a runtime reads, without metadata; and one that none can read."""
    from onnx import TensorProto, helper, save_model

    value = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1])
    node = helper.make_node("Identity", ["images"], ["boxes"])
    output = helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1])
    graph = helper.make_graph([node], "other", [value], [output])
    opset = helper.make_opsetid("", 17)
    save_model(helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "a.onnx")
    with pytest.raises(ValueError, match="a.onnx: expected a file of mrcnn.export"):
        runtime.load(tmp_path / "a.onnx")
    import tensorflow as tf

    double = tf.function(lambda x: 2 * x, input_signature=[tf.TensorSpec((1,))])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([double.get_concrete_function()])
    (tmp_path / "a.tflite").write_bytes(converter.convert())
    with pytest.raises(ValueError, match="a.tflite: expected a file of mrcnn.export"):
        runtime.load(tmp_path / "a.tflite")
    (tmp_path / "a.onnx").rename(tmp_path / "c.tflite")
    with pytest.raises(ValueError, match="c.tflite: expected a LiteRT file. Received: one that"):
        runtime.load(tmp_path / "c.tflite")
    (tmp_path / "c.tflite").rename(tmp_path / "a.onnx")
    (tmp_path / "b.bin").write_bytes(b"")
    for name in ("b.onnx", "b.xml", "b.tflite"):
        (tmp_path / name).write_bytes(b"this is no model")
        with pytest.raises(ValueError, match=name):
            runtime.load(tmp_path / name)
    with pytest.raises(ValueError, match="device is one of .*cpu.* Received: 'abacus'"):
        runtime.load(tmp_path / "a.onnx", device="abacus")


# ---- Serving -------------------------------------------------------------------------------------


# Runs a script as if only the packages that the page names, and those that they need, were there.
FOUR_PACKAGES = """
import runpy, sys
for name in ("ai_edge_litert", "openvino", "onnx", "tf2onnx", "requests", "tqdm", "ml_dtypes"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def server(toy_files):
    """The address of samples/serve.py on the exported toy; bodies of at most 100 kB."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (line,) = (line for line in indented() if "serve.py" in line)
    python, script, file, _ = shlex.split(line)
    assert python == "python" and file.endswith(".onnx")
    words = [PYTHON, "-c", FOUR_PACKAGES, ROOT / script, toy_files / "model.onnx", f"--port={port}"]
    words += ["--limit=100000", "--wait=0.05", "--threads=1", "--pixels=1000000"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE)
    address = f"http://127.0.0.1:{port}"
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError(process.stderr.read().decode()[-2000:])
        try:
            ask(f"{address}/batches")
            break
        except urllib.error.URLError:
            time.sleep(0.1)
    yield address
    process.terminate()
    process.wait()
    process.stderr.close()


def ask(address, body=None):
    """Status and json of an answer."""
    try:
        with urllib.request.urlopen(address, body, timeout=120) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl here")
def test_curl_of_the_page(server, tmp_path):
    Image.fromarray(picture(60, 80)).save(tmp_path / "photo.jpg")
    (line,) = (line for line in indented() if line.startswith("curl"))
    words = shlex.split(line.replace("http://localhost:8000", server))
    assert words[0] == "curl" and server in words[-1]
    done = subprocess.run([*words, "--silent"], cwd=tmp_path, capture_output=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["images"] == [{"id": 1, "height": 60, "width": 80}] and answer["annotations"]


def test_server(server, toy_detector):
    """32 clients at once, among them one with a broken image and two with too much."""
    pictures = [picture(60, 80, i) for i in range(4)]
    bodies = []
    for pixels in pictures:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "png")
        bodies.append(file.getvalue())
    sent = [bodies[i % 4] for i in range(32)]
    sent[5] = bodies[0][: len(bodies[0]) // 2]
    sent[9] = bytes(900_000)
    black = io.BytesIO()
    Image.new("L", (2000, 1000)).save(black, "png")  # a small file
    sent[13] = black.getvalue()
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda body: ask(f"{server}/detect", body), sent))
    statuses = [status for status, _ in answers]
    assert statuses == [{5: 400, 9: 413, 13: 413}.get(i, 200) for i in range(32)]
    assert "can't be read as an image" in answers[5][1]["error"]
    assert "at most 100000 bytes" in answers[9][1]["error"]
    assert "at most 1000000 pixels. Received: 2000 x 1000" in answers[13][1]["error"]
    expected = toy_detector.detect(pictures)
    for i, (status, answer) in enumerate(answers):
        if status == 200:
            found = sorted(row["score"] for row in answer["annotations"])
            np.testing.assert_allclose(found, sorted(expected[i % 4]["scores"]), atol=1e-3)
            assert answer["images"] == [{"id": 1, "height": 60, "width": 80}]
            assert answer["annotations"][0]["segmentation"]["size"] == [60, 80]
    assert max(ask(f"{server}/batches")[1]["batches"]) > 1


def answer_of(application, body):
    """Status and json of an application's answer to POST /detect, in this process."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(message):
        sent.append(message)

    async def main():
        scope = {"type": "http", "method": "POST", "path": "/detect", "root_path": ""}
        scope.update(query_string=b"", headers=[(b"content-type", b"image/png")])
        async with application.router.lifespan_context(application):
            await application(scope, receive, send)

    asyncio.run(main())
    content = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(content)


def test_saved_model_by_evaluate_detect_and_the_server(toy_detector, tmp_path, capsys, monkeypatch):
    """The figures, results and answers that `detect` of the network has."""
    from mrcnn import annotations, cli, evaluate, serving

    monkeypatch.chdir(tmp_path)
    names = names_of(toy_detector.config)
    toy_detector.export("toy", class_names=names)
    (tmp_path / "photos").mkdir()
    truth = {"images": [], "annotations": []}
    truth["categories"] = [{"id": i, "name": name} for i, name in enumerate(names) if i]
    for number in range(3):
        pixels = picture(96 + 10 * number, 128, number)
        name = f"{number}.png"
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
        height, width = pixels.shape[:2]
        entry = {"id": number + 1, "file_name": name, "height": height, "width": width}
        truth["images"].append(entry)
        result = toy_detector.detect([pixels], masks="rle")[0]
        for i in range(0, len(result["rois"]), 3):  # the others are wrong
            y1, x1, y2, x2 = (int(edge) for edge in result["rois"][i])
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": number + 1,
                    "category_id": int(result["class_ids"][i]),
                    "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                    "area": (y2 - y1) * (x2 - x1),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "iscrowd": 0,
                }
            )
    (tmp_path / "photos" / "coco.json").write_text(json.dumps(truth))
    dataset = annotations.AnnotatedDataset.of("photos", annotations.read(tmp_path / "photos"))
    expected = evaluate.evaluate(toy_detector, dataset, progress=False)
    words = ["evaluate", "--weights=toy", "--dataset=photos", "--subset=all", "--json"]
    assert cli.main(words) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["images"] == 3 and 0.01 < expected.bbox["AP"] < 0.99
    for kind in ("bbox", "segm"):
        for name in ("AP", "AP50", "AR100"):
            assert figures[kind][name] == pytest.approx(getattr(expected, kind)[name], abs=1e-4)

    scores = toy_detector.detect([dataset.load_image(0)])[0]["scores"]
    assert cli.main(["detect", "--weights=toy", "photos/0.png", "--output=out", "--json"]) == 0
    capsys.readouterr()
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["score"] for row in rows] == pytest.approx(scores.tolist(), abs=1e-5)

    application = serving.application(runtime.load("toy"))
    status, answer = answer_of(application, (tmp_path / "photos" / "0.png").read_bytes())
    assert status == 200 and answer["images"] == [{"id": 1, "height": 96, "width": 128}]
    received = [row["score"] for row in answer["annotations"]]
    assert received == pytest.approx(scores.tolist(), abs=1e-5)


class Failing:
    """A model whose runtime fails at images of one pixel."""

    path = "model.onnx"
    class_names = ["BG", "cell"]

    def __init__(self):
        self.config = types.SimpleNamespace(BATCH_SIZE=1)

    def detect(self, images, masks):
        if any(image.size == 3 for image in images):
            raise RuntimeError("out of memory")
        none = np.zeros((0, 4), np.int32)
        result = {"rois": none, "class_ids": none[:, 0], "scores": none[:, 0], "masks": None}
        return [result for _ in images]


def test_answers_of_the_application():
    """A form, nothing at all, a model that fails, who is gone, a body in many parts."""
    from mrcnn import serving

    bodies = []
    for side in (1, 2):
        file = io.BytesIO()
        Image.new("RGB", (side, side)).save(file, "png")
        bodies.append(file.getvalue())
    tiny, small = bodies

    async def answer(application, parts, kind=b"image/png", method="POST"):
        """Status and json of what is answered; None of what is not for who is gone."""
        events = [{"type": "http.request", "body": part, "more_body": True} for part in parts[:-1]]
        events += [{"type": "http.request", "body": parts[-1]}]
        if parts[-1] is None:
            events[-1] = {"type": "http.disconnect"}
        scope = {"type": "http", "method": method, "path": "/detect", "root_path": ""}
        scope.update(query_string=b"", headers=[(b"content-type", kind)])
        sent = []

        async def receive():
            return events.pop(0)

        async def send(message):
            sent.append(message)

        await application(scope, receive, send)
        body = b"".join(message.get("body", b"") for message in sent)
        return sent[0]["status"], body.decode()

    async def main():
        application = serving.application(Failing(), limit=1000)
        async with application.router.lifespan_context(application):
            asked = [
                answer(application, [small]),
                answer(application, [tiny]),
                answer(application, [small[:10], b"", small[10:]]),
                answer(application, [small], kind=b"multipart/form-data; boundary=x"),
                answer(application, [b""]),
                answer(application, [small[:10], None]),
                answer(application, [bytes(600)] * 2),
                answer(application, [bytes(600)] * 40),
                answer(application, [small], method="GET"),
            ]
            return await asyncio.gather(*asked)

    found = asyncio.run(main())
    assert [status for status, _ in found] == [200, 500, 200, 400, 400, 400, 413, 413, 405]
    assert found[0] == found[2] and json.loads(found[0][1])["annotations"] == []
    assert json.loads(found[1][1]) == {"error": "RuntimeError: out of memory"}
    assert "not a form: curl --data-binary @FILE" in json.loads(found[3][1])["error"]
    assert "the body" in json.loads(found[4][1])["error"] and found[5][1] == ""
    assert json.loads(found[6][1]) == {"error": "A body has at most 1000 bytes"}
