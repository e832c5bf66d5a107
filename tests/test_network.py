"""The whole network against the recordings of the original: intermediates, detections, losses, gradients."""
import concurrent.futures
import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import oracle
import pytest
from conftest import recorded, small_config

from mrcnn import model as modellib
from mrcnn import utils
from mrcnn.config import Config


def close(actual, expected, tolerance=1e-3):
    """The comparison of the recordings' README: relative to the largest value."""
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


@pytest.fixture
def settings(small_model):
    """Sets attributes of the shared model's detection layer, and puts them back."""
    layer = small_model.keras_model.get_layer("mrcnn_detection")
    before = {name: getattr(layer, name) for name in ("min_confidence", "nms_threshold", "max_instances")}

    def change(**values):
        for name, value in values.items():
            setattr(layer, name, value)
        small_model._functions.clear()
    yield change
    change(**before)


def test_intermediates(small_model):
    arrays = recorded("net_small_shapes0")
    names = {name: name for name in ("rpn_class", "rpn_bbox", "res2c_out", "res3d_out", "res4f_out", "res5c_out",
                                     "fpn_p2", "fpn_p3", "fpn_p4", "fpn_p5", "fpn_p6")}
    values = small_model.run_graph([arrays["image0"]], [(name, None) for name in [*names, "ROI"]])
    for name in names:
        close(values[name], arrays[name], 1e-4)
    iou = utils.compute_overlaps(values["ROI"][0].astype(float), arrays["proposals"][0].astype(float))
    assert np.mean(iou.max(axis=0) > .999) >= .98


def test_molding_and_anchors(small_model):
    arrays = recorded("net_small_synth")
    images, metas, windows = small_model.mold_inputs([arrays["image0"]])
    assert np.array_equal(np.round(images[0] + small_model.config.MEAN_PIXEL).astype(np.uint8),
                          arrays["molded_plus_mean_uint8"][0])
    np.testing.assert_allclose(metas, arrays["image_metas"])
    np.testing.assert_array_equal(windows, arrays["windows"])
    np.testing.assert_allclose(small_model.get_anchors(images.shape[1:]), arrays["anchors"].reshape(-1, 4), atol=1e-6)


def compare_detections(result, arrays):
    """The same set: class, score within 1e-3, box within 1 px, mask IoU >= .99."""
    count = len(arrays["detect0_scores"])
    assert len(result["scores"]) == count
    assert result["masks"].shape == tuple(arrays["detect0_masks_shape"]) and result["masks"].dtype == bool
    shape = tuple(arrays["detect0_masks_shape"])
    masks = np.unpackbits(arrays["detect0_masks_packed"])[:np.prod(shape)].reshape(shape).astype(bool)
    order = np.argsort(-result["scores"], kind="stable")
    free = set(range(count))
    for i in order:
        same = [j for j in free if arrays["detect0_class_ids"][j] == result["class_ids"][i]
                and abs(arrays["detect0_scores"][j] - result["scores"][i]) <= 1e-3
                and np.abs(arrays["detect0_rois"][j] - result["rois"][i]).max() <= 1]
        assert same, f"detection {i} was not recorded"
        both = [(masks[..., j] & result["masks"][..., i]).sum() for j in same]
        either = [(masks[..., j] | result["masks"][..., i]).sum() for j in same]
        iou = [1. if not b else a / b for a, b in zip(both, either)]
        assert max(iou) >= .99
        free.remove(same[int(np.argmax(iou))])


@pytest.mark.parametrize("case", ["shapes0", "synth"])
def test_detections(small_model, case):
    arrays = recorded(f"net_small_{case}")
    compare_detections(small_model.detect([arrays["image0"]])[0], arrays)


@pytest.mark.parametrize("case", ["photo"])
def test_detections_of_the_large_network(tmp_path, case):
    """ResNet-101, 81 classes, 512 pixels, a photograph."""
    import importlib.util
    folder = oracle.shared(f"oracle/matterport/net_big512_{case}.npz").parent
    spec = importlib.util.spec_from_file_location("make_big", folder / "make_h5.py")
    make_h5 = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_h5)
    make_h5.write("big", tmp_path / "big.h5")
    with np.load(folder / f"net_big512_{case}.npz") as archive:
        arrays = dict(archive)
    model = modellib.MaskRCNN("inference", Config(NAME="big", NUM_CLASSES=81, IMAGES_PER_GPU=1, IMAGE_MIN_DIM=512,
                                                  IMAGE_MAX_DIM=512), tmp_path)
    coverage = model.load_weights(tmp_path / "big.h5", by_name=True)
    assert not coverage.missing and not coverage.unused
    values = model.run_graph([arrays["image0"]], [("rpn_class", None), ("ROI", None)])
    close(values["rpn_class"], arrays["rpn_class"])
    iou = utils.compute_overlaps(values["ROI"][0].astype(float), arrays["proposals"][0].astype(float))
    assert np.mean(iou.max(axis=0) > .999) >= .95
    compare_detections(model.detect([arrays["image0"]])[0], arrays)


def test_no_detections(small_model, settings):
    settings(min_confidence=1.01)
    arrays = recorded("net_small_nodets")
    result = small_model.detect([arrays["image0"]])[0]
    assert result["rois"].shape == (0, 4) and result["scores"].shape == (0,)
    assert result["masks"].shape == (*arrays["image0"].shape[:2], 0) and result["masks"].dtype == bool


@pytest.mark.parametrize("case", ["photo", "batch2", "pad64"])
def test_detections_of_cases_with_photographs(small_model, small_weights, tmp_path, case):
    with np.load(oracle.shared(f"oracle/matterport/net_small_{case}.npz")) as archive:
        arrays = dict(archive)
    model = small_model
    if case == "pad64":
        model = modellib.MaskRCNN("inference", small_config(IMAGE_RESIZE_MODE="pad64"), tmp_path)
        model.load_weights(small_weights)
    images = [arrays[key] for key in ("image0", "image1") if key in arrays]
    results = model.detect(images)
    compare_detections(results[0], arrays)
    if len(images) > 1:
        compare_detections(results[1], {key.replace("detect1", "detect0"): value for key, value in arrays.items()
                                        if "detect0" not in key})


def test_any_number_of_images_of_any_size(small_model):
    """Also more than the batch size, and the same as one at a time."""
    image = recorded("net_small_shapes0")["image0"]
    images = [image, image[:90], image[:, :70, 0], image.astype(np.float32)]
    together = small_model.detect(images)
    for image, result in zip(images, together):
        alone = small_model.detect([image])[0]
        np.testing.assert_array_equal(result["rois"], alone["rois"])
        assert result["masks"].shape[:2] == image.shape[:2]
        assert np.mean(result["masks"] != alone["masks"]) < 1e-3


def test_threads_detect_what_one_does(small_model):
    """(25) Four threads at once, with images of several sizes."""
    image = recorded("net_small_shapes0")["image0"]
    images = [image[:, :128 - 16 * (i % 3)] for i in range(12)]
    alone = [small_model.detect([image])[0] for image in images]
    small_model._functions.clear()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: small_model.detect([image])[0], images))
    for a, b in zip(alone, together):
        assert all(np.array_equal(a[key], b[key]) for key in a)


def test_detect_names_the_image_that_does_not_fit(small_model):
    good = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match=r"image 1 of shape \(64, 64, 5\)"):
        small_model.detect([good, np.zeros((64, 64, 5), np.uint8)])


# ---- Training batches --------------------------------------------------------------------------------

BATCHES = {"A": dict(USE_RPN_ROIS=False, TRAIN_ROIS_PER_IMAGE=32),
           "B": dict(TRAIN_ROIS_PER_IMAGE=128, ROI_POSITIVE_RATIO=.05, POST_NMS_ROIS_TRAINING=64),
           "A_train_bn": dict(USE_RPN_ROIS=False, TRAIN_ROIS_PER_IMAGE=32, TRAIN_BN=True)}


@pytest.fixture(scope="module")
def training_model(small_weights, tmp_path_factory):
    def make(batch):
        model = modellib.MaskRCNN("training", small_config(IMAGES_PER_GPU=2, **BATCHES[batch]),
                                  tmp_path_factory.mktemp("logs"))
        model.load_weights(small_weights)
        return model
    return make


def batch_inputs(arrays, batch):
    names = ["images", "image_metas", "rpn_match", "rpn_bbox_target", "gt_class_ids", "gt_boxes", "gt_masks"]
    inputs = [arrays[f"{batch[0]}/in/{name}"] for name in names + (["rois"] if batch[0] == "A" else [])]
    return [x.astype("uint8") if x.dtype == bool else x.astype("float32") if x.dtype == np.int64 else x for x in inputs]


@pytest.mark.parametrize("batch", BATCHES)
def test_losses(training_model, batch):
    arrays = recorded("train")
    model = training_model(batch).keras_model
    outputs = model(batch_inputs(arrays, batch), training=False)
    for name, loss in zip(model.loss_names, outputs[-5:]):
        np.testing.assert_allclose(float(loss), arrays[f"{batch}/{name}"], rtol=1e-4, err_msg=name)
    if batch == "A":
        close(np.asarray(outputs[0]), arrays["A/rpn_class_logits"])
        masks = np.asarray(outputs[6])
        # The RoIs are drawn in another order: compare each with the recorded one of the same box.
        rois, old = np.asarray(outputs[8]), arrays["A/output_rois"]
        for image in range(2):
            for i, roi in enumerate(rois[image]):
                j = np.abs(old[image] - roi).max(axis=1).argmin()
                if roi.any():
                    assert np.abs(masks[image, i] - arrays["A/mrcnn_mask"][image, j]).max() < 1e-3


def test_trainable_counts_and_regularization(training_model):
    arrays = recorded("train")
    model = training_model("A")
    for layers, regex in modellib.LAYER_CHOICES.items():
        model.set_trainable(regex)
        weights = model.keras_model.trainable_weights
        if layers != "all":
            count = [len(weights), sum(int(np.prod(w.shape)) for w in weights)]
            assert count == arrays[f"A/trainable_count_{layers}"].tolist()
        np.testing.assert_allclose(float(model.keras_model.regularization()), arrays[f"A/regularization_{layers}"],
                                   rtol=1e-5)


def test_gradients_of_each_loss(training_model):
    """Norms to .5% of the recorded ones, and zero in just the weights where the recording says so."""
    import tensorflow as tf
    arrays = recorded("train")
    model = training_model("A")
    model.set_trainable(".*")
    network, inputs = model.keras_model, batch_inputs(arrays, "A")
    variables = {f"{layer.name}/{name}": variable for layer in modellib.weights.layers_of(network).values()
                 for name, variable in modellib.weights._ordered(layer) if variable.trainable}
    names = [str(name).split(":")[0] for name in arrays["A/grad_names"]]
    assert set(names) == set(variables)
    with tf.GradientTape(persistent=True) as tape:
        losses = network(inputs, training=False)[-5:]
    for row, (name, loss) in enumerate(zip(arrays["A/grad_loss_names"], losses)):
        gradients = tape.gradient(loss, [variables[key].value for key in names])
        norms = np.array([0. if g is None else float(tf.norm(tf.convert_to_tensor(g))) for g in gradients])
        expected = arrays["A/grad_norms_per_loss"][row]
        assert np.array_equal(norms > 1e-12, expected > 1e-12), name
        np.testing.assert_allclose(norms, expected, rtol=5e-3, atol=5e-5 * expected.max(), err_msg=str(name))


@pytest.mark.parametrize("layers, tolerances", [("heads", [1e-3] * 4), ("all", [1e-3, 1e-3, .02, .05])])
def test_sgd_steps(training_model, layers, tolerances):
    """The losses of four steps as recorded, and the biases after three moved as the recorded ones did.

    Rounding grows with every step through all layers: weights that differ by 1e-6 have gradients that
    differ by up to 9% (the recordings' README), so the later steps of "all" are compared more loosely.
    """
    arrays = recorded("train")
    model = training_model("A")
    model.set_trainable(modellib.LAYER_CHOICES[layers])
    model.compile(float(arrays[f"A/steps_{layers}_lr"]), .9)
    network, inputs = model.keras_model, tuple(batch_inputs(arrays, "A"))
    found = modellib.weights.layers_of(network)
    variables = {f"{layer}/{name}:0": variable for layer in found for name, variable in modellib.weights._ordered(found[layer])}
    prefix = f"A/steps_{layers}_final/"
    before = {key: np.asarray(variables[key[len(prefix):]]) for key in arrays if key.startswith(prefix)}
    for step, tolerance in enumerate(tolerances):
        if step == 3:
            moved = [np.abs(np.asarray(variables[key[len(prefix):]]) - arrays[key]).max()
                     / np.abs(arrays[key] - before[key]).max() for key in before]
            assert len(moved) > 20 and np.median(moved) < (.01 if layers == "heads" else .05) and max(moved) < .3
        network.reset_metrics()
        logs = network.train_on_batch(inputs, return_dict=True)
        losses = [float(logs[name]) for name in (*network.loss_names, "loss")]
        np.testing.assert_allclose(losses, arrays[f"A/steps_{layers}_losses"][step], rtol=tolerance)


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
    application = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(126, 126, 3))
    rng = np.random.default_rng(0)
    for layer in application.layers:
        if layer.name.endswith("_bn"):
            layer.set_weights([rng.uniform(.5, 1.5, w.shape) for w in layer.get_weights()])
    image = keras.Input((126, 126, 3))
    ours = keras.Model(image, modellib.resnet_graph(image, "resnet50", True, False)[-1])
    layers = modellib.weights.layers_of(ours)
    for name, arrays in modellib.weights.from_application(application).items():
        for (_, variable), array in zip(modellib.weights._ordered(layers[name]), arrays, strict=True):
            variable.assign(array)
    pixels = rng.standard_normal((1, 126, 126, 3)).astype("float32")
    expected = np.asarray(application(pixels[..., ::-1], training=False))
    close(np.asarray(ours(pixels, training=False)), expected, 1e-4)


def test_detects_under_jax(small_model, small_weights, tmp_path):
    """The recorded network with JAX as the backend, in a process of its own."""
    pytest.importorskip("jax")
    code = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(oracle.TESTS)!r})
        import conftest
        from mrcnn import model as modellib
        model = modellib.MaskRCNN("inference", conftest.small_config(), {str(tmp_path)!r})
        model.load_weights({small_weights!r})
        arrays = conftest.recorded("net_small_shapes0")
        import test_network
        test_network.compare_detections(model.detect([arrays["image0"]])[0], arrays)
        print("equal")
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"})
    assert done.stdout.strip() == "equal", done.stderr[-3000:]


def test_detects_under_xla(small_weights, tmp_path):
    """The portable kernels: the whole inference graph in one XLA program."""
    import tensorflow as tf
    arrays = recorded("net_small_fewdets")
    config = small_config(FUSED_KERNELS=False, DETECTION_NMS_THRESHOLD=.5, POST_NMS_ROIS_INFERENCE=200,
                          DETECTION_MAX_INSTANCES=20)
    model = modellib.MaskRCNN("inference", config, tmp_path)
    model.load_weights(small_weights)
    images, metas, _ = model.mold_inputs([arrays["image0"]])
    anchors = model.get_anchors(images.shape[1:])[None]
    network = tf.function(lambda *x: model.keras_model(list(x), training=False), jit_compile=True)
    outputs = [x.numpy() for x in network(images, metas.astype("float32"), anchors)]
    close(outputs[0], arrays["detections"])
    close(outputs[3], arrays["mrcnn_mask"], 2e-3)


def test_few_detections(small_weights, tmp_path):
    arrays = recorded("net_small_fewdets")
    model = modellib.MaskRCNN("inference", small_config(DETECTION_NMS_THRESHOLD=.5, POST_NMS_ROIS_INFERENCE=200,
                                                        DETECTION_MAX_INSTANCES=20), tmp_path)
    model.load_weights(small_weights)
    compare_detections(model.detect([arrays["image0"]])[0], arrays)


def test_memory_is_bounded(small_model):
    """README 25: caches of compiled functions, anchors and graphs keep a limited number."""
    config = small_model.config
    for side in range(64, 64 * 12, 64):
        small_model.get_anchors((side, 64, 3))
    for i in range(20):
        small_model.run_graph([np.zeros((16, 16, 3), np.uint8)], [("fpn_p5", None), (f"fpn_p{2 + i % 4}", None)])
    assert len(small_model._anchors) <= 8 and len(small_model._functions) <= 16
    assert small_model.get_anchors(config.IMAGE_SHAPE).shape == (4092, 4)


def test_run_graph_refuses_unknown_names(small_model):
    with pytest.raises(ValueError, match="received: 'fpn_p9'"):
        small_model.run_graph([np.zeros((16, 16, 3), np.uint8)], [("fpn_p9", None)])


def test_tensor_names_of_2018(small_model):
    """The names that matterport's inspect_model notebook asks `ancestor` for, and layers' outputs."""
    model, image = small_model, recorded("net_small_shapes0")["image0"]
    pillar = model.keras_model.get_layer("ROI").output
    assert model.ancestor(pillar, "nothing/of:0") is None
    values = model.run_graph([image], [
        ("rpn_class", model.keras_model.get_layer("rpn_class").output),
        ("pre_nms_anchors", model.ancestor(pillar, "ROI/pre_nms_anchors:0")),
        ("refined_anchors", model.ancestor(pillar, "ROI/refined_anchors:0")),
        ("refined_anchors_clipped", model.ancestor(pillar, "ROI/refined_anchors_clipped:0")),
        ("post_nms_anchor_ix", model.ancestor(pillar, "ROI/rpn_non_max_suppression:0")),
        ("proposals", pillar)])
    best = np.argsort(-values["rpn_class"][0, :, 1], kind="stable")
    np.testing.assert_allclose(values["pre_nms_anchors"][0, :5], model.get_anchors(image.shape)[best[:5]], atol=1e-6)
    np.testing.assert_array_equal(np.clip(values["refined_anchors"], 0, 1), values["refined_anchors_clipped"])
    kept = values["post_nms_anchor_ix"]
    count = int(values["proposals"][0].any(axis=1).sum())
    assert kept.ndim == 1 and 100 < count <= len(kept)
    np.testing.assert_array_equal(values["refined_anchors_clipped"][0, kept[:count]], values["proposals"][0, :count])
