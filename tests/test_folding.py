"""The network that is rewritten for speed gives what the network gives: folded batch norm, forms for CPUs, detected classes."""
import keras
import numpy as np
import pytest
from conftest import small_config
from keras import layers as KL
from parity import read as recorded

from mrcnn import folding, inference


@pytest.fixture(scope="module")
def image():
    return recorded("net_small_shapes0")["image0"]


def run(network, model, image):
    images, metas, _ = model.mold_inputs([image])
    anchors = model.get_anchors(images.shape[1:])[None]
    return [np.asarray(x) for x in network([images, metas.astype("float32"), anchors], training=False)]


def test_folded_batch_norm_is_the_same_network(small_model, image):
    folded = folding.fold_batch_norm(small_model._box_model)
    merged = [layer for layer in folded.layers if isinstance(layer, folding.FoldedConv) and layer.norm]
    assert len(merged) == 53 + 2                                   # ResNet-50's and the box head's
    assert not any(isinstance(getattr(layer, "layer", layer), KL.BatchNormalization) for layer in folded.layers)
    for actual, expected in zip(run(folded, small_model, image), run(small_model._box_model, small_model, image)):
        assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()
    mask_head = folding.fold_batch_norm(small_model._mask_model)
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(1, side, side, 256)).astype("float32") for side in (32, 16, 8, 4)]
    inputs = [np.array([[[.1, .1, .6, .7], [0, 0, 1, 1]]], "float32"), small_model.mold_inputs([image])[1].astype("float32"), *maps]
    actual, expected = (np.asarray(network(inputs, training=False)) for network in (mask_head, small_model._mask_model))
    assert np.abs(actual - expected).max() <= 1e-4


def test_layers_of_a_folded_network_by_device(small_model, image, monkeypatch):
    """Folded kernels where a GPU computes, as in training; on CPUs batch norm is left to the kernels: both are the same."""
    outputs = []
    for on_cpu in (False, True):
        monkeypatch.setattr(folding, "_on_cpu", lambda policy: on_cpu)
        folded = folding.fold_batch_norm(small_model._box_model)
        names = {layer.norm.name for layer in folded.layers if isinstance(layer, folding.CPUConv) and layer.norm}
        assert len(names) == (2 * 16 + 1 + 2 if on_cpu else 0)     # of ResNet-50's blocks two each, its first, the box head's
        assert not any(name.endswith(("branch2c", "branch1")) for name in names)
        outputs.append(run(folded, small_model, image))
    for actual, expected in zip(*outputs):
        assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


def test_wide_kernels_run_by_groups_of_columns_under_onednn(small_model, monkeypatch):
    for onednn in (False, True):
        monkeypatch.setattr(folding, "_runs_onednn", lambda: onednn)
        folded = folding.fold_batch_norm(small_model._box_model)
        rpn = next(layer for layer in folded.layers if isinstance(layer, keras.Model))
        alone = [layer.conv.name for layer in (*folded.layers, *rpn.layers)
                 if isinstance(layer, folding.CPUConv) and not layer.norm]
        assert sorted(alone) == (["fpn_p2", "fpn_p3", "fpn_p4", "fpn_p5", "rpn_conv_shared"] if onednn else [])
    conv = KL.Conv2D(512, 3, strides=2, padding="same", activation="relu")
    x = np.random.default_rng(0).normal(size=(2, 9, 7, 16)).astype("float32")
    conv.build(x.shape)
    conv.bias.assign(np.linspace(-1, 1, 512))
    assert folding.CPUConv.by_groups(conv)
    groups = folding.CPUConv(conv, None)(x)
    assert [group.shape for group in groups] == [(2, 5, 4, 64)] * 8
    np.testing.assert_allclose(np.concatenate(groups, axis=-1), conv(x), atol=1e-6)
    head = KL.Conv2D(6, 1, activation="sigmoid")
    expected = head(conv(x))
    head.bias.assign(np.linspace(-1, 1, 6))
    np.testing.assert_allclose(folding.SumOfGroups(head)(groups), head(conv(x)), atol=1e-6)
    assert np.abs(expected - head(conv(x))).max() > .1


def test_groups_of_a_wide_convolution_are_joined_for_what_needs_them(monkeypatch):
    """A 1x1 convolution takes the groups, a pooling and a second output the map."""
    monkeypatch.setattr(folding, "_runs_onednn", lambda: True)
    x = KL.Input((None, None, 8))
    wide = KL.Conv2D(256, 3, padding="same", activation="relu", name="wide")(x)
    model = keras.Model(x, [KL.Conv2D(5, 1, name="head")(wide), KL.MaxPooling2D()(wide), wide])
    alone = keras.Model(x, model.outputs[0])
    pixels = np.random.default_rng(0).normal(size=(1, 6, 4, 8)).astype("float32")
    for network, joins in ((model, 1), (alone, 0)):
        folded = folding.fold_batch_norm(network)
        assert [type(layer) for layer in folded.layers].count(KL.Concatenate) == joins
        assert "head_sum" in [layer.name for layer in folded.layers]
        for actual, expected in zip(keras.tree.flatten(folded(pixels)), keras.tree.flatten(network(pixels))):
            np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_batch_norm_by_the_cpu_kernels_without_its_optional_parts():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 5, 6, 8)).astype("float32")
    for bias, scale, center in ((True, False, True), (False, True, False)):
        conv, norm = KL.Conv2D(4, 3, use_bias=bias), KL.BatchNormalization(scale=scale, center=center, epsilon=1e-6)
        norm(conv(x))                                              # makes the variables
        for variable in (*conv.weights, *norm.weights):
            variable.assign(rng.uniform(.5, 2, size=variable.shape))
        expected = norm(conv(x), training=False)
        np.testing.assert_allclose(folding.CPUConv(conv, norm)(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_folding_under_mixed_precision(tmp_path, small_model, image, policy):
    """Feature maps are as near to float32's as those of the network that is not folded."""
    from mrcnn import model as modellib
    keras.config.set_dtype_policy(policy)
    try:
        mixed = modellib.MaskRCNN("inference", small_model.config, tmp_path)
        folded = folding.fold_batch_norm(mixed._box_model)
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.keras_model.set_weights(small_model.keras_model.get_weights())
    assert sum(isinstance(layer, folding.FoldedConv) for layer in folded.layers) == 53 + 2
    exact, plain, fast = (run(network, small_model, image)[1:] for network in (small_model._box_model, mixed._box_model, folded))
    assert len(exact) == 4
    for reference, one, other in zip(exact, plain, fast):
        error, allowed = (np.abs(value.astype("float32") - reference).max() for value in (other, one))
        assert 0 < error <= 1.5 * allowed


def test_folding_follows_the_variables(small_model, image):
    """Weights that are loaded or set later are used at once: nothing folded is stored."""
    before = small_model.detect([image])[0]
    gamma = small_model.keras_model.get_layer("bn2a_branch2a").gamma
    old = np.array(gamma)
    try:
        gamma.assign(old * 3)
        changed = small_model.detect([image])[0]
    finally:
        gamma.assign(old)
    assert changed["scores"].shape != before["scores"].shape or np.abs(changed["scores"] - before["scores"]).max() > 1e-3
    np.testing.assert_array_equal(small_model.detect([image])[0]["rois"], before["rois"])


def test_batch_norm_of_the_batch_is_not_folded(tmp_path):
    from mrcnn import model as modellib
    model = modellib.MaskRCNN("inference", small_config(BACKBONE="resnet18", TRAIN_BN=True), tmp_path)
    folded = folding.fold_batch_norm(model._box_model)
    assert not any(layer.norm for layer in folded.layers if isinstance(layer, folding.FoldedConv))
    assert any(isinstance(layer, KL.BatchNormalization) for layer in folded.layers)


@pytest.mark.parametrize("settings", [{}, {"MASK_ACTIVATION": "softmax"}, {"CLASS_AGNOSTIC_MASKS": True},
                                      {"MASK_HEAD": "mlp", "MASK_MLP_SIZE": 16}])
def test_masks_of_the_detected_class_alone(settings, tmp_path):
    """Every kind of mask head gives `detect` the masks that the network has at the detected classes."""
    from mrcnn import model as modellib
    model = modellib.MaskRCNN("inference", small_config(BACKBONE="resnet18", MASK_HEAD_CHANNELS=16, **settings), tmp_path)
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(2, side, side, 256)).astype("float32") for side in (32, 16, 8, 4)]
    boxes = np.sort(rng.random((2, 5, 2, 2)), axis=2).reshape(2, 5, 4).astype("float32")
    metas = np.repeat(model.mold_inputs([np.zeros((128, 128, 3), np.uint8)])[1].astype("float32"), 2, axis=0)
    class_ids = rng.integers(0, model.config.NUM_CLASSES, (2, 5))
    every = np.asarray(model._mask_model([boxes, metas, *maps], training=False))
    chosen = np.take_along_axis(every, class_ids[:, :, None, None, None], axis=-1)[..., 0]
    actual = inference.compiled(model, "masks")(boxes, metas, *maps, class_ids.astype("float32"))
    assert np.ptp(chosen) > .01
    np.testing.assert_allclose(actual, chosen, atol=1e-5)
