"""Projects of 2018 run unchanged, and docs/migrating.md says the truth about what was broken."""

import ast
import base64
import functools
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import types

import numpy as np
import pytest
import quickly
from PIL import Image
from toy import Rectangles, ToyConfig

import mrcnn
from mrcnn import data, model as modellib

TESTS = pathlib.Path(__file__).resolve().parent
ROOT = TESTS.parent
PAGE = ROOT / "docs" / "migrating.md"


@pytest.mark.heavy
def test_a_script_of_2018(tmp_path):
    """Training in stages, resuming, evaluation and inspection, found through sys.path, from another
    folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, quickly.__file__, TESTS / "script_of_2018.py", ROOT, tmp_path],
        cwd=tmp_path,
        env={**environment, "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "mAP: " in done.stdout and "finished" in done.stdout


def test_log_prints_the_lines_of_2018(capsys):
    """As in the notebooks' outputs; floats had all their digits, whole numbers none."""
    modellib.log("molded_images", np.array([[-123.7, 151.1]], np.float32))
    modellib.log("mask", np.array([[[False, True]]]))
    modellib.log("bbox", np.zeros((0, 4), np.int32))
    modellib.log("Processing 1 images")
    assert capsys.readouterr().out.splitlines() == [
        "molded_images            shape: (1, 2)                min: -123.70000  max:  151.10001"
        "  float32",
        "mask                     shape: (1, 1, 2)             min:    0.00000  max:    1.00000"
        "  bool",
        "bbox                     shape: (0, 4)                min:             max:             "
        "int32",
        "Processing 1 images",
    ]


@pytest.mark.heavy
def test_verbose_prints_the_lines_of_2018(tmp_path, capsys):
    """`detect` printed the first of them alone, `detect_molded` and `run_graph` none."""
    model = modellib.MaskRCNN("inference", ToyConfig(), tmp_path)
    image = np.full((40, 64, 3), 9, np.uint8)
    molded = [
        "molded_images            shape: (2, 64, 64, 3)        min: -123.70000  max:  -94.90000"
        "  float32",
        "image_metas              shape: (2, 15)               min:    0.00000  max:   64.00000"
        "  float64",
    ]
    model.detect([image, image])
    assert capsys.readouterr().out == ""
    model.detect([image, image], verbose=1)
    lines = capsys.readouterr().out.splitlines()
    line = "image                    shape: (40, 64, 3)           min:    9.00000  max:    9.00000"
    assert lines[:5] == ["Processing 2 images", line + "  uint8", line + "  uint8", *molded]
    anchors = model.get_anchors((64, 64, 3))
    assert lines[5].startswith(f"anchors                  shape: (2, {len(anchors)}, 4)")
    assert len(lines) == 6
    inputs = model.mold_inputs([image, image])
    model.detect_molded(*inputs[:2], verbose=1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Processing 2 images" and lines[3:5] == molded and len(lines) == 6
    model.run_graph([image], [("rpn_bbox", None)])
    line = f"rpn_bbox                 shape: (1, {len(anchors)}, 4)"
    assert capsys.readouterr().out.startswith(line)


def _request(image, threshold):
    """What CVAT sends: a photograph in base64."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    text = base64.b64encode(buffer.getvalue()).decode()
    return {"image": text, "threshold": threshold}


@pytest.mark.heavy
def test_the_function_of_cvat(tmp_path):
    """It runs with nothing but the package replaced; of any kind of picture."""
    folder = tmp_path / "Mask_RCNN"
    folder.mkdir()
    for name in ("mrcnn", "samples"):
        (folder / name).symlink_to(ROOT / name)
    (tmp_path / "work").mkdir()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (150, 200, 4), np.uint8))
    requests = {mode: _request(picture.convert(mode), 0) for mode in ("RGB", "RGBA", "L")}
    requests["sure"] = _request(picture.convert("RGB"), 2)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "cvat_function.py"],
        cwd=tmp_path / "work",
        env={**environment, "MASK_RCNN_DIR": str(folder)},
        input=json.dumps(requests),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = json.loads((tmp_path / "work" / "answers.json").read_text())
    assert answers.pop("sure") == []
    assert answers["RGBA"] == answers["RGB"]
    for shapes in answers.values():
        assert shapes
        for shape in shapes:
            assert shape["type"] == "polygon" and shape["label"].startswith("label ")
            assert 0 <= float(shape["confidence"]) <= 1
            points = np.array(shape["points"]).reshape(-1, 2)
            assert (points >= -1).all() and (points <= (200, 150)).all() and len(points) > 5


SCRIPT_WITH_OLD_NUMPY = """
import sys
import numpy as np
import mrcnn
assert not {"tensorflow", "keras", "imgaug", "skimage", "scipy"} & set(sys.modules)
masks = np.ones((4, 4, 2)).astype(np.bool)
assert masks.dtype == bool
assert (np.int, np.float, np.object, np.str, np.complex) == (int, float, object, str, complex)
import warnings
warnings.simplefilter("ignore")
import imgaug.augmenters as iaa
noise = iaa.FrequencyNoiseAlpha(first=iaa.Add(9))  # asks for np.complex
seen = iaa.SomeOf((0, 2), [iaa.Fliplr(0.5), noise])(image=np.zeros((16, 16, 3), np.uint8))
assert seen.shape == (16, 16, 3)
"""


@pytest.mark.long
def test_numpy_has_what_imgaug_and_old_masks_ask_for():
    """As soon as mrcnn is imported, which imports nothing else for it."""
    subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT_WITH_OLD_NUMPY], cwd=ROOT, check=True
    )


def test_names_that_numpy_has_are_left_alone():
    """numpy 2 has a bool of its own and no sctypes."""
    numpy_2 = types.ModuleType("numpy")
    for name in dir(np):
        if name not in ("int", "float", "complex", "object", "str", "sctypes"):
            setattr(numpy_2, name, getattr(np, name))
    numpy_2.bool = np.bool_
    mrcnn._restore_names_of_numpy(numpy_2)
    assert numpy_2.bool is np.bool_ and numpy_2.float is float
    assert np.int32 in numpy_2.sctypes["int"] and np.float32 in numpy_2.sctypes["float"]


def test_generator_of_the_tf2_fork():
    """`DataGenerator` of the TensorFlow 2 fork: batches by index, each image once in a pass
    (16)."""
    dataset = Rectangles(5)
    generator = modellib.DataGenerator(dataset, ToyConfig(), shuffle=False)
    assert len(generator) == 3
    seen = []
    for i in range(len(generator)):
        inputs, outputs = generator[i]
        assert outputs == [] and len(inputs) == 7 and inputs[0].shape == (2, 64, 64, 3)
        seen += inputs[1][:, 0].astype(int).tolist()
    assert seen == [0, 1, 2, 3, 4, 0]
    np.testing.assert_array_equal(generator[1][0][0], generator[1][0][0])
    assert not np.array_equal(generator[0][0][0], generator[1][0][0])


def test_every_fault_has_its_test():
    """The page's table names a test for each of the 32 faults of the original, and the tests
    exist."""
    rows = re.findall(r"^\| (\d+) \|.*\| (.+?) \|$", PAGE.read_text(), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 33))
    for number, cell in rows:
        names = re.findall(r"`(test_\w+)\.py::(test_\w+)`", cell)
        assert names, f"fault {number} names no test"
        for file, name in names:
            assert name in functions_of(file), f"fault {number}: tests/{file}.py has no {name}"


@functools.cache
def functions_of(file):
    """Names of all functions of a test file."""
    tree = ast.parse((ROOT / "tests" / f"{file}.py").read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def snippets(heading):
    """The code under a heading of the page, its blocks one after the other."""
    section = PAGE.read_text().split(f"### {heading}")[1].split("\n#")[0]
    lines = [line[4:] for line in section.splitlines() if line.startswith("    ") or not line]
    return "\n".join(lines)


@pytest.mark.heavy
def test_a_saved_model_detects_as_the_model_does(tmp_path, monkeypatch):
    """The page's replacement of a frozen graph, as it is written there."""
    import keras
    import tensorflow as tf

    monkeypatch.chdir(tmp_path)
    model = modellib.MaskRCNN("inference", ToyConfig(), tmp_path)
    image = Rectangles(2).load_image(1)
    names = {"keras": keras, "tf": tf, "model": model, "image": image}
    exec(snippets("A SavedModel in place of a frozen graph"), names)
    expected = model.detect([image])[0]
    for name in ("rois", "class_ids", "masks"):
        np.testing.assert_array_equal(names[name], expected[name], err_msg=name)
    np.testing.assert_allclose(names["scores"], expected["scores"], atol=1e-6)


@pytest.mark.heavy
def test_the_layout_of_2017(tmp_path):
    """The paths that the page gives, with a model and a weight file."""
    script = (
        quickly.HEAD
        + f"import os, sys\nROOT = {str(ROOT)!r}\n"
        + snippets("Scripts of 2017: `import model as modellib, utils`")
        + """
class Small(Config):
    NUM_CLASSES = 2
    BACKBONE = "resnet18"
    IMAGE_MIN_DIM = IMAGE_MAX_DIM = 64
    RPN_CHANNELS = TOP_DOWN_PYRAMID_SIZE = FPN_CLASSIF_FC_LAYERS_SIZE = MASK_HEAD_CHANNELS = 16

model = modellib.MaskRCNN(mode="inference", config=Small(), model_dir=".")
assert model.config.NUM_CLASSES == 2 and issubclass(utils.Dataset, object)
model.keras_model.save_weights("x.h5")
model.load_weights("x.h5", by_name=True)
import numpy as np
found = model.detect([np.zeros((64, 64, 3), np.uint8)])[0]
visualize.display_instances(
    np.zeros((64, 64, 3), np.uint8), found["rois"], found["masks"], found["class_ids"], ["BG", "a"])
"""
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**environment, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_settings_of_an_argparse_namespace():
    import argparse

    from mrcnn.config import as_config

    exec(snippets("Settings that are no `Config`"), {"argparse": argparse, "as_config": as_config})


def test_the_names_that_are_taken_are_listed():
    """All modules but those of the original; a user's file over one of them breaks the package."""
    section = PAGE.read_text().split("### Modules of your own")[1].split("\n#")[0]
    listed = set(re.findall(r"`(\w+)`", section)) - {"MaskRCNN", "Config", "Dataset"}
    modules = {path.stem for path in (ROOT / "mrcnn").glob("[!_]*.py")}
    assert listed == modules - {"config", "model", "parallel_model", "utils", "visualize"}


# What the page's table names: gone, and what stands in its place.
GONE = """tf.Session tf.ConfigProto tf.disable_v2_behavior tf.enable_eager_execution
tf.get_default_graph tf.logging tf.set_random_seed tf.gfile tf.contrib K.get_session K.set_session
K.tensorflow_backend K.set_learning_phase K.learning_phase K.function K.mean K.int_shape
keras.engine keras.utils.multi_gpu_model tf.graph_util.convert_variables_to_constants"""
INSTEAD = """tf.config.experimental.set_memory_growth tf.get_logger keras.utils.clear_session
keras.layers.Identity keras.layers.Layer keras.ops.mean K.clear_session"""


def test_the_table_of_calls_is_true():
    import keras
    import tensorflow as tf

    roots = {"tf": tf, "keras": keras, "K": keras.backend}

    def exists(name):
        value = roots[name.split(".")[0]]
        for part in name.split(".")[1:]:
            value = getattr(value, part, None)
        return value is not None

    page = PAGE.read_text()
    for name in GONE.split():
        assert not exists(name), f"{name} is there after all"
        assert name.split(".")[-1] in page, f"{name} is not on the page"
    for name in INSTEAD.split():
        assert exists(name) and name.split(".")[-1] in page, name
    level = tf.get_logger().level
    tf.get_logger().setLevel("ERROR")
    tf.get_logger().setLevel(level)
    x = keras.Input((3,))
    with pytest.raises(ValueError, match="KerasTensor"):
        tf.identity(x, name="out")
    assert keras.layers.Identity(name="out")(x).shape == (None, 3)
    keras.optimizers.SGD(learning_rate=0.01)
    with pytest.raises(ValueError, match="lr"):
        keras.optimizers.SGD(lr=0.01)


@pytest.mark.heavy
def test_heads_losses_leave_the_rpn_alone(tmp_path):
    """(15) Proposals are constants: the heads' losses have no gradient in the RPN's own layers."""
    import tensorflow as tf

    # So many proposals that some are positive.
    config = ToyConfig(PRE_NMS_LIMIT=2000, POST_NMS_ROIS_TRAINING=2000, RPN_NMS_THRESHOLD=0.99)
    network = modellib.MaskRCNN("training", config, tmp_path).keras_model
    inputs = [
        x.astype("uint8") if x.dtype == bool else x.astype("float32") if x.dtype == float else x
        for x in data.TrainingBatches(Rectangles(2), ToyConfig()).batch(0)[0]
    ]
    rpn = network.get_layer("rpn_model").trainable_weights
    with tf.GradientTape(persistent=True) as tape:
        losses = dict(zip(network.loss_names, network(inputs, training=True)[-5:]))
    for name, loss in losses.items():
        assert float(loss) > 0
        reached = [
            g is not None and bool(np.any(g)) for g in tape.gradient(loss, [w.value for w in rpn])
        ]
        assert any(reached) == name.startswith("rpn_"), name


class Failing(Rectangles):
    """Its images can be read once, when they are checked, and image 2 never again."""

    def load_image(self, image_id):
        if image_id == 2:
            raise OSError("the disk is gone")
        return super().load_image(image_id)


@pytest.mark.heavy
@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_fails_in_training_is_named(tmp_path, workers):
    """(16) The first error ends the run and says which image it was."""
    config = ToyConfig(CHECK_IMAGES=0, WORKERS=workers, STEPS_PER_EPOCH=10)
    model = modellib.MaskRCNN("training", config, tmp_path)
    with pytest.raises(
        data.DatasetError, match=r"image 2 \(toy/2.png\) can't be read: OSError: the disk is gone"
    ):
        model.train(Failing(4), None, config.LEARNING_RATE, 1, "heads")


@pytest.mark.heavy
def test_a_size_that_the_strides_do_not_divide_is_named(tmp_path):
    """(23) Mode "none": image, size and what is allowed, before the graph runs."""
    model = modellib.MaskRCNN("inference", ToyConfig(IMAGE_RESIZE_MODE="none"), tmp_path)
    with pytest.raises(ValueError, match=r"64.*Received: image 1 of shape \(70, 64, 3\)"):
        model.detect([np.zeros((64, 128, 3), np.uint8), np.zeros((70, 64, 3), np.uint8)])


@pytest.mark.heavy
def test_padding_proposals_take_no_slot(tmp_path):
    """(26) Zero rows among the proposals are never detections, and masks are made for detections
    only."""
    rois = np.zeros((1, 4, 4), "float32")
    rois[0, 0] = [0.1, 0.1, 0.5, 0.5]
    probs = np.tile(np.array([0.05, 0.95], "float32"), (1, 4, 1))
    deltas, meta = (
        np.zeros((1, 4, 2, 4), "float32"),
        np.array([[0, 64, 64, 3, 64, 64, 3, 0, 0, 64, 64, 1, 1, 1]], "float32"),
    )
    layer = modellib.DetectionLayer(max_instances=4)
    detections = np.asarray(layer([rois, probs, deltas, meta, rois.any(axis=-1)]))
    assert (detections[0, :, 4] > 0).tolist() == [True, False, False, False]

    model = modellib.MaskRCNN("inference", ToyConfig(DETECTION_MIN_CONFIDENCE=1.0), tmp_path)

    def never(*args, **kwargs):
        raise AssertionError("the mask head ran without a detection")

    model.keras_model.get_layer("mrcnn_mask").call = never
    assert model.detect([Rectangles(1).load_image(0)])[0]["masks"].shape == (64, 64, 0)
