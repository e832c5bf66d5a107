"""Shortcuts of training give the same losses and gradients; mixed precision; what importing
costs."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops
from toy import Rectangles, ToyConfig

from mrcnn import data, model as modellib, ops as kernels


def training_batch(config, **dataset):
    inputs, _, _ = data.TrainingBatches(Rectangles(**dataset), config, shuffle=False, seed=0).batch(
        0
    )
    return [
        ops.convert_to_tensor(
            np.asarray(
                x, "float32" if x.dtype == np.float64 else "uint8" if x.dtype == bool else x.dtype
            )
        )
        for x in inputs
    ]


# ---- The RPN's gradient at sampled anchors -------------------------------------------------------


def test_patches_of_cells_are_what_a_convolution_sees():
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(2, h, w, 5)).astype("float32") for h, w in ((4, 6), (2, 3), (1, 2))]
    kernel = rng.normal(size=(3, 3, 5, 7)).astype("float32")
    expected = np.concatenate(
        [np.asarray(ops.conv(m, kernel, padding="same")).reshape(2, -1, 7) for m in maps], axis=1
    )
    cells = np.stack([rng.permutation(32), rng.permutation(32)]).astype("int32")
    patches = np.asarray(
        kernels.cell_patches([ops.convert_to_tensor(m) for m in maps], ops.convert_to_tensor(cells))
    )
    np.testing.assert_allclose(
        patches @ kernel.reshape(-1, 7),
        np.take_along_axis(expected, cells[..., None], axis=1),
        atol=1e-5,
    )


@pytest.mark.heavy
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"IMAGE_MIN_DIM": 128, "IMAGE_MAX_DIM": 128, "RPN_ANCHOR_RATIOS": [0.5, 1]},
        {"RPN_TRAIN_ANCHORS_PER_IMAGE": 2000},
    ],
)
def test_sampled_anchors_have_the_losses_and_gradients_of_all(tmp_path, settings):
    """Also where there are fewer anchors than rows for them."""
    import tensorflow as tf

    config = ToyConfig(**settings)
    network = modellib.MaskRCNN("training", config, tmp_path).keras_model
    batch = training_batch(config)
    with tf.GradientTape(persistent=True) as tape:
        outputs = network(batch, training=True)
        losses = dict(zip(network.loss_names, outputs[-5:]))
        dense = {
            "rpn_class_loss": modellib.rpn_class_loss_graph(batch[2], outputs[0]),
            "rpn_bbox_loss": modellib.rpn_bbox_loss_graph(None, batch[3], batch[2], outputs[2]),
        }
    for name, expected in dense.items():
        assert float(expected) > 0.01
        np.testing.assert_allclose(float(losses[name]), float(expected), rtol=1e-5)
        weights = [w for w in network.trainable_weights if not w.path.startswith("mrcnn_")]
        compared = 0
        for weight, a, b in zip(
            weights,
            *(tape.gradient(loss, [w.value for w in weights]) for loss in (losses[name], expected)),
        ):
            assert (a is None) == (b is None), weight.path
            if b is not None and np.abs(b).max() > 0:
                assert np.abs(np.asarray(a) - np.asarray(b)).max() <= 1e-4 * np.abs(b).max(), (
                    weight.path
                )
                compared += 1
        assert compared >= 16


def test_other_rpns_keep_the_gradient_of_their_maps(tmp_path):
    network = modellib.MaskRCNN("training", ToyConfig(RPN_ANCHOR_STRIDE=2), tmp_path).keras_model
    assert "sampled_anchors" not in [layer.name for layer in network.layers]


# ---- Batch norm folded into the convolutions before it -------------------------------------------


def losses_and_gradients(network, batch):
    """Values of the five losses, and the gradients of their sum, a list of (path of the weight,
    gradient); the same RoIs at every call."""
    import tensorflow as tf

    drawn = network.get_layer("proposal_targets").random.state
    drawn.assign(np.zeros(drawn.shape))
    with tf.GradientTape() as tape:
        losses = network(batch, training=True)[-5:]
        total = sum(losses)
    weights = network.trainable_weights
    gradients = tape.gradient(total, [w.value for w in weights])
    return [float(loss) for loss in losses], [
        (w.path, gradient) for w, gradient in zip(weights, gradients)
    ]


def differing_gradients(found, expected):
    """Paths of the weights whose gradients differ by more than 1e-4 of the largest value."""
    different = []
    for (path, value), (_, other) in zip(expected, found, strict=True):
        assert (other is None) == (value is None), path
        if value is not None:
            value = np.asarray(value)
            gap = np.abs(np.asarray(other) - value).max()
            if gap > 1e-4 * np.abs(value).max() + 1e-7:
                different.append(path)
    return different


@pytest.mark.heavy
def test_folded_batch_norm_has_the_same_losses_and_gradients(tmp_path):
    """In the body, behind the box head's convolution that is a product of matrices, and in the mask
    head."""
    keras.utils.set_random_seed(4)
    config = ToyConfig(BACKBONE="resnet18", TRAIN_BN=False, USE_RPN_ROIS=False)
    plain, folded = (modellib.MaskRCNN("training", config, tmp_path).keras_model for _ in range(2))
    folded.fold()
    batch, rng = training_batch(config), np.random.default_rng(1)
    boxes = np.asarray(batch[5])  # RoIs on objects, near them, and elsewhere
    rois = np.concatenate(
        [boxes, np.where(boxes > 0, boxes + 2, 0), np.full_like(boxes, [2, 40, 12, 60])], axis=1
    )
    batch.append(ops.convert_to_tensor(rois, "float32"))
    norms = [
        layer
        for layer in plain._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert len(norms) > 20
    # Threads add in any order, and where an activation lies at a ReLU's kink such a rounding error
    # decides about its whole gradient. Then other weights tell; a wrong fold fails with all.
    for _ in range(3):
        for norm in norms:
            for weight in norm.weights:
                weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        folded.set_weights(plain.get_weights())
        losses, gradients = losses_and_gradients(plain, batch)
        folded_losses, folded_gradients = losses_and_gradients(folded, batch)
        assert min(losses) > 0.01
        np.testing.assert_allclose(folded_losses, losses, rtol=1e-4)
        assert len([g for _, g in gradients if g is not None]) > 100
        different = differing_gradients(folded_gradients, gradients)
        if not different:
            break
    assert not different


# ---- Mixed precision -----------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(tmp_path, policy):
    """Losses are finite and close to float32's, weights get finite gradients; boxes stay float32;
    detection runs."""
    import tensorflow as tf

    config = ToyConfig()
    plain = modellib.MaskRCNN("training", config, tmp_path).keras_model
    keras.mixed_precision.set_global_policy(policy)
    try:
        network = modellib.MaskRCNN("training", config, tmp_path).keras_model
        detector = modellib.MaskRCNN("inference", config, tmp_path)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    path = str(tmp_path / "weights.h5")
    plain.save_weights(path)
    network.load_weights(path)
    detector.load_weights(path)
    batch = training_batch(config)
    with tf.GradientTape() as tape:
        outputs = network(batch, training=True)
        total = sum(ops.cast(loss, "float32") for loss in outputs[-5:])
    expected = plain(batch, training=True)
    for name, loss, reference in zip(network.loss_names, outputs[-5:], expected[-5:]):
        assert np.isfinite(float(loss)), name
        if name.startswith("rpn"):  # the heads draw other RoIs
            np.testing.assert_allclose(float(loss), float(reference), rtol=0.05, atol=1e-3)
    gradients = tape.gradient(total, [w.value for w in network.trainable_weights])
    assert all(np.isfinite(np.asarray(g, "float32")).all() for g in gradients if g is not None)
    # Scores and boxes decide what is best: in bfloat16, where .998 is 1, AP fell from .840 to .816.
    assert {x.dtype for x in (*outputs[:6], *outputs[7:9])} == {tf.float32} and outputs[
        6
    ].dtype == policy.removeprefix("mixed_")
    result = detector.detect([Rectangles().load_image(0)])[0]
    assert result["masks"].shape[2] == len(result["scores"]) and np.isfinite(result["scores"]).all()


# ---- Importing -----------------------------------------------------------------------------------


def test_numpy_rooms_import_without_tensorflow_and_mrcnn_at_once():
    code = (
        "import sys, numpy; before = set(sys.modules); import mrcnn; added = set(sys.modules) - before\n"
        "assert added == {'mrcnn'}, added\n"
        "from mrcnn import utils, config, data, evaluate\n"
        "loaded = {'tensorflow', 'keras', 'torch', 'jax'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sampled_rpn_is_made_again_from_its_config():
    """With another RPN of the same weights it says the same; its weights are never its own."""
    rpn = modellib.build_rpn_model(1, 3, 8, 16)
    layer = modellib.SampledRPN(rpn, 5, name="sampled")
    again = modellib.SampledRPN.from_config(layer.get_config())
    assert again.get_config() == layer.get_config() and again.rpn_model is not rpn
    again.rpn_model.set_weights(rpn.get_weights())
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, 4, 4, 8)).astype("float32")
    match = rng.integers(-1, 2, (2, 48, 1)).astype("int32")
    for actual, expected in zip(again([match, features]), layer([match, features])):
        np.testing.assert_array_equal(actual, expected)
    assert layer.weights == again.weights == []
