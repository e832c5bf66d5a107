"""The fast path of detection gives what the network gives: folded batch norm, groups of masks, forms of masks, folders."""
import keras
import numpy as np
import pytest
from conftest import small_config
from keras import layers as KL
from parity import read as recorded
from pycocotools import mask as coco_mask

from mrcnn import inference, utils


@pytest.fixture(scope="module")
def image():
    return recorded("net_small_shapes0")["image0"]


def run(network, model, image):
    images, metas, _ = model.mold_inputs([image])
    anchors = model.get_anchors(images.shape[1:])[None]
    return [np.asarray(x) for x in network([images, metas.astype("float32"), anchors], training=False)]


def test_folded_batch_norm_is_the_same_network(small_model, image):
    folded = inference.fold_batch_norm(small_model._box_model)
    merged = [layer for layer in folded.layers if isinstance(layer, inference.FoldedConv) and layer.norm]
    assert len(merged) == 53 + 2                                   # ResNet-50's and the box head's
    assert not any(isinstance(getattr(layer, "layer", layer), KL.BatchNormalization) for layer in folded.layers)
    for actual, expected in zip(run(folded, small_model, image), run(small_model._box_model, small_model, image)):
        assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()
    mask_head = inference.fold_batch_norm(small_model._mask_model)
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(1, side, side, 256)).astype("float32") for side in (32, 16, 8, 4)]
    inputs = [np.array([[[.1, .1, .6, .7], [0, 0, 1, 1]]], "float32"), small_model.mold_inputs([image])[1].astype("float32"), *maps]
    actual, expected = (np.asarray(network(inputs, training=False)) for network in (mask_head, small_model._mask_model))
    assert np.abs(actual - expected).max() <= 1e-4


def test_layers_of_a_folded_network_by_device(small_model, image, monkeypatch):
    """Folded kernels where a GPU computes, as in training; on CPUs batch norm is left to the kernels: both are the same."""
    outputs = []
    for on_cpu in (False, True):
        monkeypatch.setattr(inference, "_on_cpu", lambda policy: on_cpu)
        folded = inference.fold_batch_norm(small_model._box_model)
        names = {layer.norm.name for layer in folded.layers if isinstance(layer, inference.CPUConv) and layer.norm}
        assert len(names) == (2 * 16 + 1 + 2 if on_cpu else 0)     # of ResNet-50's blocks two each, its first, the box head's
        assert not any(name.endswith(("branch2c", "branch1")) for name in names)
        outputs.append(run(folded, small_model, image))
    for actual, expected in zip(*outputs):
        assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


def test_wide_kernels_run_by_groups_of_columns_under_onednn(small_model, monkeypatch):
    for onednn in (False, True):
        monkeypatch.setattr(inference, "_runs_onednn", lambda: onednn)
        folded = inference.fold_batch_norm(small_model._box_model)
        rpn = next(layer for layer in folded.layers if isinstance(layer, keras.Model))
        alone = [layer.conv.name for layer in (*folded.layers, *rpn.layers)
                 if isinstance(layer, inference.CPUConv) and not layer.norm]
        assert sorted(alone) == (["fpn_p2", "fpn_p3", "fpn_p4", "fpn_p5", "rpn_conv_shared"] if onednn else [])
    conv = KL.Conv2D(512, 3, strides=2, padding="same", activation="relu")
    x = np.random.default_rng(0).normal(size=(2, 9, 7, 16)).astype("float32")
    conv.build(x.shape)
    conv.bias.assign(np.linspace(-1, 1, 512))
    assert inference.CPUConv.by_groups(conv)
    np.testing.assert_allclose(inference.CPUConv(conv, None)(x), conv(x), atol=1e-6)


def test_batch_norm_by_the_cpu_kernels_without_its_optional_parts():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 5, 6, 8)).astype("float32")
    for bias, scale, center in ((True, False, True), (False, True, False)):
        conv, norm = KL.Conv2D(4, 3, use_bias=bias), KL.BatchNormalization(scale=scale, center=center, epsilon=1e-6)
        norm(conv(x))                                              # makes the variables
        for variable in (*conv.weights, *norm.weights):
            variable.assign(rng.uniform(.5, 2, size=variable.shape))
        expected = norm(conv(x), training=False)
        np.testing.assert_allclose(inference.CPUConv(conv, norm)(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_folding_under_mixed_precision(tmp_path, small_model, image, policy):
    """Feature maps are as near to float32's as those of the network that is not folded."""
    from mrcnn import model as modellib
    keras.config.set_dtype_policy(policy)
    try:
        mixed = modellib.MaskRCNN("inference", small_model.config, tmp_path)
        folded = inference.fold_batch_norm(mixed._box_model)
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.keras_model.set_weights(small_model.keras_model.get_weights())
    assert sum(isinstance(layer, inference.FoldedConv) for layer in folded.layers) == 53 + 2
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
    folded = inference.fold_batch_norm(model._box_model)
    assert not any(layer.norm for layer in folded.layers if isinstance(layer, inference.FoldedConv))
    assert any(isinstance(layer, KL.BatchNormalization) for layer in folded.layers)


def test_one_function_serves_all_sizes_and_groups_of_masks(small_model, image, monkeypatch):
    small_model._functions.clear()
    whole = small_model.detect([image, image[:, :90], image[:50]])
    assert set(small_model._functions) == {"boxes", "masks"}
    monkeypatch.setattr(inference, "HEAD_GROUP", 7)
    for a, b in zip(whole, small_model.detect([image, image[:, :90], image[:50]])):
        np.testing.assert_array_equal(a["rois"], b["rois"])
        assert a["masks"].shape == b["masks"].shape and np.mean(a["masks"] != b["masks"]) <= 1e-3


def test_forms_of_masks(small_model, image):
    dense, lazy, rle = (small_model.detect([image], masks=form)[0]["masks"] for form in ("dense", "lazy", "rle"))
    assert type(dense) is np.ndarray and dense.dtype == bool
    assert lazy.shape == dense.shape and lazy.dtype == bool and lazy.ndim == 3 and len(lazy) == len(dense)
    np.testing.assert_array_equal(lazy, dense)
    for key in (3, -1, slice(2, 5), [4, 0], np.arange(dense.shape[2]) % 2 == 0):
        np.testing.assert_array_equal(lazy[..., key], dense[..., key])
        np.testing.assert_array_equal(lazy[:, :, key], dense[:, :, key])
    np.testing.assert_array_equal(lazy[10:20, 5], dense[10:20, 5])
    for i in range(dense.shape[2]):
        (y1, x1, y2, x2), crop = lazy.crop(i)
        full = np.zeros(dense.shape[:2], bool)
        full[y1:y2, x1:x2] = crop
        np.testing.assert_array_equal(full, dense[..., i])
    expected = coco_mask.encode(np.asfortranarray(dense.astype(np.uint8)))
    assert [code["counts"] for code in rle] == [code["counts"].decode() for code in expected]
    with pytest.raises(ValueError, match="Received: .crops."):
        small_model.detect([image], masks="crops")


def test_run_lengths_by_hand():
    full = np.ones((2, 3), bool)
    assert inference.run_lengths((0, 0, 2, 3), full, (2, 3)) == [0, 6]
    assert inference.run_lengths((0, 1, 2, 3), full[:, :2], (2, 3)) == [2, 4]
    assert inference.run_lengths((1, 0, 2, 3), full[:1], (2, 3)) == [1, 1, 1, 1, 1, 1]
    assert inference.run_lengths((0, 0, 0, 0), full[:0, :0], (2, 3)) == [6]
    rng = np.random.default_rng(0)
    for share in (.2, .8):
        mask = rng.random((9, 7)) < share
        code = coco_mask.frPyObjects([{"size": [9, 7], "counts": inference.run_lengths((0, 0, 9, 7), mask, (9, 7))}], 9, 7)
        assert code[0]["counts"] == coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]


def test_crops_of_boxes_beyond_the_image():
    soft = np.random.default_rng(0).random((4, 28, 28)).astype("float32")
    boxes = [(-5, 3, 30, 60), (10, 10, 20, 20), (50, 5, 60, 30), (0, 0, 40, 50)]
    masks = inference.Masks(soft, boxes, (40, 50), threshold=.6)
    dense = utils.unmold_masks(soft, boxes, (40, 50), threshold=.6)
    np.testing.assert_array_equal(masks, dense)
    np.testing.assert_array_equal(masks[..., 0], dense[..., 0])
    assert masks.crop(2)[0] == (0, 0, 0, 0) and not masks.crop(2)[1].size
    assert [code["counts"] for code in masks.rle()] == [
        code["counts"].decode() for code in coco_mask.encode(np.asfortranarray(dense.astype(np.uint8)))]
    assert inference.Masks(soft[:0], np.zeros((0, 4), int), (40, 50)).rle() == []


def test_detect_many_is_detect(small_model, image):
    images = [image, image[:90], image[:, :70], image[::-1], image[:90]]
    asked = []

    def load(number):
        asked.append(number)
        return images[number]
    found = list(small_model.detect_many(range(5), load=load))
    assert sorted(asked) == list(range(5))
    for a, b in zip(found, small_model.detect(images), strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
    assert list(small_model.detect_many([])) == []
    with pytest.raises(ValueError, match=r"image 1 of shape \(64, 64, 5\)"):
        list(small_model.detect_many([image, np.zeros((64, 64, 5), np.uint8)]))


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
