"""Projects of 2018 run unchanged, and docs/migrating.md says the truth about what was broken."""

import ast
import os
import pathlib
import re
import subprocess
import sys
import types

import numpy as np
import pytest
from toy import Rectangles, ToyConfig

import mrcnn
from mrcnn import data, model as modellib

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "migrating.md"


@pytest.mark.heavy
def test_a_script_of_2018(tmp_path):
    """Training in stages, resuming, evaluation and inspection, found through sys.path, from another
    folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "script_of_2018.py", ROOT, tmp_path],
        cwd=tmp_path,
        env={**environment, "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "mAP: " in done.stdout and "finished" in done.stdout


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
            functions = {
                node.name
                for node in ast.walk(ast.parse((ROOT / "tests" / f"{file}.py").read_text()))
                if isinstance(node, ast.FunctionDef)
            }
            assert name in functions, f"fault {number}: tests/{file}.py has no {name}"


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
