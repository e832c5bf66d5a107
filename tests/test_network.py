"""The whole network against the recordings of the original: intermediates, detections, losses,
gradients."""

import concurrent.futures
import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import oracle
import parity
import pytest
from conftest import small_config
from parity import read as recorded

from mrcnn import model as modellib, rewrite
from mrcnn.config import Config

pytestmark = pytest.mark.heavy


def close(actual, expected, tolerance=1e-3):
    """The comparison of the recordings' README: relative to the largest value."""
    assert parity.difference(actual, expected) <= tolerance


def check(rows):
    """Every row of `parity` is within what it allows, and there are rows."""
    rows = list(rows)
    beyond = [row for row in rows if not parity.within(row)]
    assert rows and not beyond, beyond


def compare_detections(result, arrays):
    check(parity.detections("detect", result, arrays))


@pytest.fixture
def settings(toy_detector):
    """Sets attributes of the shared toy's detection layer, and puts them back."""
    layer = toy_detector.keras_model.get_layer("mrcnn_detection")
    before = {
        name: getattr(layer, name) for name in ("min_confidence", "nms_threshold", "max_instances")
    }

    def change(**values):
        for name, value in values.items():
            setattr(layer, name, value)
        toy_detector.detector.functions.clear()

    yield change
    change(**before)


@pytest.mark.parametrize("case", ["net_small_shapes0", "net_small_synth"])
def test_recorded_network(small_model, case):
    """Molding, features, RPN, proposals, the heads on the recorded proposals, detections."""
    check(parity.network(case, small_model, recorded(case)))


def arrays_of(case):
    """The recording of a case that may lie in the shared folder alone."""
    if parity.find(case) is None:
        oracle.shared(f"oracle/matterport/{case}.npz")
    return recorded(case)


@pytest.mark.parametrize("case", ["photo", "batch2", "pad64"])
def test_recorded_network_on_other_images(small_model, monkeypatch, case):
    """A photograph, two images at once, one that isn't square: settings that leave the graph as it
    is."""
    name = f"net_small_{case}"
    arrays = arrays_of(name)
    for setting, value in parity.SPECIAL.get(case, {}).items():
        monkeypatch.setattr(small_model.config, setting, value)
    check(parity.network(name, small_model, arrays))


@pytest.mark.parametrize("case", ["fewdets", "nodets"])
def test_recorded_network_with_other_settings(small_weights, tmp_path, case):
    name = f"net_small_{case}"
    arrays = arrays_of(name)
    model = modellib.MaskRCNN("inference", small_config(**parity.SPECIAL.get(case, {})), tmp_path)
    model.load_weights(small_weights)
    check(parity.network(name, model, arrays))


def test_recorded_large_network(tmp_path):
    """ResNet-101, 81 classes, 512 pixels, a photograph."""
    oracle.shared("oracle/matterport/net_big512_photo.npz")
    parity.write_weights("big", tmp_path / "big.h5")
    model = modellib.MaskRCNN("inference", Config(**parity.settings("big", 512)), tmp_path)
    coverage = model.load_weights(tmp_path / "big.h5", by_name=True)
    assert not coverage.missing and not coverage.unused
    check(parity.network("net_big512_photo", model, recorded("net_big512_photo")))


def test_no_detections(toy_detector, settings):
    settings(min_confidence=1.01)
    arrays = recorded("net_small_nodets")
    result = toy_detector.detect([arrays["image0"]])[0]
    assert result["rois"].shape == (0, 4) and result["scores"].shape == (0,)
    assert (
        result["masks"].shape == (*arrays["image0"].shape[:2], 0) and result["masks"].dtype == bool
    )


def test_any_number_of_images_of_any_size(toy_detector):
    """Also more than the batch size, and the same as one at a time."""
    image = recorded("net_small_shapes0")["image0"]
    images = [image, image[:90], image[:, :70, 0], image.astype(np.float32)]
    together = toy_detector.detect(images)
    for image, result in zip(images, together):
        alone = toy_detector.detect([image])[0]
        np.testing.assert_array_equal(result["rois"], alone["rois"])
        assert result["masks"].shape[:2] == image.shape[:2]
        assert np.mean(result["masks"] != alone["masks"]) < 1e-3


def test_threads_detect_what_one_does(toy_detector):
    """(25) Four threads at once, with images of several sizes."""
    image = recorded("net_small_shapes0")["image0"]
    images = [image[:, : 128 - 16 * (i % 3)] for i in range(12)]
    alone = [toy_detector.detect([image])[0] for image in images]
    toy_detector.detector.functions.clear()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: toy_detector.detect([image])[0], images))
    for a, b in zip(alone, together):
        assert all(np.array_equal(a[key], b[key]) for key in a)


def test_detect_names_the_image_that_does_not_fit(toy_detector):
    good = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match=r"image 1 of shape \(64, 64, 5\)"):
        toy_detector.detect([good, np.zeros((64, 64, 5), np.uint8)])


# ---- Training batches ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def build(small_weights, tmp_path_factory):
    """Builds the training network of a recorded batch, with the recorded weights."""

    def make(batch):
        model = modellib.MaskRCNN(
            "training",
            small_config(IMAGES_PER_GPU=2, **parity.BATCHES[batch]),
            tmp_path_factory.mktemp("logs"),
        )
        model.load_weights(small_weights)
        return model

    return make


@pytest.fixture(scope="module")
def model_a(build):
    """Batch A's network. Its weights stay as they are; each test chooses what is trainable."""
    return build("A")


@pytest.fixture(scope="module")
def stepping_model(build):
    """Batch A's network for tests that take steps from the weights of `small_weights`."""
    return build("A")


@pytest.mark.parametrize("batch", parity.BATCHES)
def test_losses(request, build, batch):
    model = request.getfixturevalue("model_a") if batch == "A" else build(batch)
    check(parity.losses(batch, model, recorded("train")))


def test_trainable_counts_and_regularization(model_a):
    check(parity.counts(model_a, recorded("train")))


def test_gradients_of_each_loss(model_a):
    """Norms to .5% of the recorded ones, and zero in just the weights where the recording says
    so."""
    check(parity.gradients(model_a, recorded("train")))


@pytest.mark.parametrize("layers", parity.STEP_BOUNDS)
def test_sgd_steps(stepping_model, small_weights, layers):
    """The losses of four steps as recorded, and the weights moved in three as the recorded ones
    did."""
    stepping_model.load_weights(small_weights)
    check(parity.steps(layers, stepping_model, recorded("train")))


def test_padding_rows_can_be_left_out_of_the_class_loss():
    """Batch B: 5.54 with the padding as background, 3.98 without."""
    arrays = recorded("train")
    ids, logits = arrays["B/target_class_ids"], arrays["B/mrcnn_class_logits"]
    active = np.ones((2, 4), "int32")
    valid = arrays["B/target_rois"].any(axis=-1)
    assert round(float(modellib.mrcnn_class_loss_graph(ids, logits, active)), 2) == 5.54
    assert round(float(modellib.mrcnn_class_loss_graph(ids, logits, active, valid)), 2) == 3.98


def test_resnet50_has_the_features_of_keras_applications():
    """The same weights; an input whose pooling pads alike on all sides."""
    application = keras.applications.ResNet50(
        include_top=False, weights=None, input_shape=(126, 126, 3)
    )
    rng = np.random.default_rng(0)
    for layer in application.layers:
        if layer.name.endswith("_bn"):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    image = keras.Input((126, 126, 3))
    ours = keras.Model(image, modellib.resnet_graph(image, "resnet50", True, False)[-1])
    layers = modellib.weights.layers_of(ours)
    for name, arrays in modellib.weights.from_application(application).items():
        for (_, variable), array in zip(
            modellib.weights.ordered_weights(layers[name]), arrays, strict=True
        ):
            variable.assign(array)
    pixels = rng.standard_normal((1, 126, 126, 3)).astype("float32")
    expected = np.asarray(application(pixels[..., ::-1], training=False))
    close(np.asarray(ours(pixels, training=False)), expected, 1e-4)


@pytest.mark.parametrize(
    "name, environment",
    [
        ("oneDNN", {"TF_ENABLE_ONEDNN_OPTS": "1"}),
        ("Eigen", {"TF_ENABLE_ONEDNN_OPTS": "0"}),
    ],
)
def test_detects_under(name, environment, small_model, small_weights, tmp_path):
    """The recorded network by TensorFlow's two sets of CPU kernels: in a process of its own where
    this one has the others. For other backends see test_backends.py."""
    if name == ("oneDNN" if rewrite._runs_onednn() else "Eigen"):
        arrays = recorded("net_small_shapes0")
        compare_detections(small_model.detect([arrays["image0"]])[0], arrays)
        return
    code = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(oracle.TESTS)!r})
        import conftest
        from mrcnn import model as modellib
        model = modellib.MaskRCNN("inference", conftest.small_config(), {str(tmp_path)!r})
        model.load_weights({small_weights!r})
        import parity
        arrays = parity.read("net_small_shapes0")
        result = model.detect([arrays["image0"]])[0]
        assert all(map(parity.within, parity.detections({name!r}, result, arrays)))
        print("equal")
    """)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.stdout.strip() == "equal", done.stderr[-3000:]


def test_detects_under_xla(small_weights, tmp_path):
    """JIT_COMPILE: the portable kernels, the boxes in one XLA program, the masks in another."""
    arrays = recorded("net_small_fewdets")
    config = small_config(
        JIT_COMPILE=True,
        DETECTION_NMS_THRESHOLD=0.5,
        POST_NMS_ROIS_INFERENCE=200,
        DETECTION_MAX_INSTANCES=20,
    )
    model = modellib.MaskRCNN("inference", config, tmp_path)
    model.load_weights(small_weights)
    images, metas, _ = model.mold_inputs([arrays["image0"]])
    outputs = model.detector.infer(images, metas, model.get_anchors(images.shape[1:]))
    close(outputs.detections, arrays["detections"])
    class_ids = arrays["detections"][0, :, 4].astype(int)
    count = outputs.masks.shape[1]
    assert count == (class_ids > 0).sum() > 0
    rows = np.arange(count)
    close(outputs.masks[0], arrays["mrcnn_mask"][0, rows, :, :, class_ids[:count]], 2e-3)


def test_memory_is_bounded(toy_detector):
    """README 25: caches of compiled functions, anchors and graphs keep a limited number."""
    config = toy_detector.config
    for side in range(64, 64 * 12, 64):
        toy_detector.get_anchors((side, 64, 3))
    for i in range(20):
        toy_detector.run_graph(
            [np.zeros((16, 16, 3), np.uint8)], [("fpn_p5", None), (f"fpn_p{2 + i % 4}", None)]
        )
    assert len(toy_detector._anchors.sizes) <= 8 and len(toy_detector.detector.graphs) <= 16
    assert toy_detector.get_anchors(config.IMAGE_SHAPE).shape == (4092, 4)


def test_run_graph_refuses_unknown_names(toy_detector):
    with pytest.raises(ValueError, match="received: 'fpn_p9'"):
        toy_detector.run_graph([np.zeros((16, 16, 3), np.uint8)], [("fpn_p9", None)])


def test_run_graph_with_one_output(toy_detector):
    """It lost the batch: the value was that of the first image, [A, 4], without a word."""
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (2, 64, 64, 3), "uint8"))
    for name in ("rpn_bbox", "ROI"):
        alone = toy_detector.run_graph(images, [(name, None)])
        together = toy_detector.run_graph(images, [(name, None), ("fpn_p5", None)])
        assert list(alone) == [name] and alone[name].shape[0] == 2
        np.testing.assert_array_equal(alone[name], together[name])


def test_tensor_names_of_2018(small_model):
    """The names that matterport's inspect_model notebook asks `ancestor` for, and layers'
    outputs."""
    model, image = small_model, recorded("net_small_shapes0")["image0"]
    pillar = model.keras_model.get_layer("ROI").output
    assert model.ancestor(pillar, "nothing/of:0") is None
    values = model.run_graph(
        [image],
        [
            ("rpn_class", model.keras_model.get_layer("rpn_class").output),
            ("pre_nms_anchors", model.ancestor(pillar, "ROI/pre_nms_anchors:0")),
            ("refined_anchors", model.ancestor(pillar, "ROI/refined_anchors:0")),
            ("refined_anchors_clipped", model.ancestor(pillar, "ROI/refined_anchors_clipped:0")),
            ("post_nms_anchor_ix", model.ancestor(pillar, "ROI/rpn_non_max_suppression:0")),
            ("proposals", pillar),
        ],
    )
    best = np.argsort(-values["rpn_class"][0, :, 1], kind="stable")
    np.testing.assert_allclose(
        values["pre_nms_anchors"][0, :5], model.get_anchors(image.shape)[best[:5]], atol=1e-6
    )
    np.testing.assert_array_equal(
        np.clip(values["refined_anchors"], 0, 1), values["refined_anchors_clipped"]
    )
    kept = values["post_nms_anchor_ix"]
    count = int(values["proposals"][0].any(axis=1).sum())
    assert kept.ndim == 1 and 100 < count <= len(kept)
    np.testing.assert_array_equal(
        values["refined_anchors_clipped"][0, kept[:count]], values["proposals"][0, :count]
    )
