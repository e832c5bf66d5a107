"""The network that is rewritten for speed gives what the network gives: folded batch norm, forms
for CPUs, detected classes."""

import keras
import numpy as np
import pytest
from conftest import small_config
from keras import layers as KL

from mrcnn import rewrite


def run(network, model, image):
    images, metas, _ = model.mold_inputs([image])
    anchors = model.get_anchors(images.shape[1:])[None]
    return [
        np.asarray(x) for x in network([images, metas.astype("float32"), anchors], training=False)
    ]


def test_folded_batch_norm_is_the_same_network(small_model, image):
    folded = rewrite.fold_batch_norm(small_model.keras_model.sub_models["boxes"])
    merged = [
        layer for layer in folded.layers if isinstance(layer, rewrite.FoldedConv) and layer.norm
    ]
    assert len(merged) == 53 + 2  # ResNet-50's and the box head's
    assert not any(
        isinstance(getattr(layer, "layer", layer), KL.BatchNormalization) for layer in folded.layers
    )
    for actual, expected in zip(
        run(folded, small_model, image),
        run(small_model.keras_model.sub_models["boxes"], small_model, image),
    ):
        assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()
    mask_head = rewrite.fold_batch_norm(small_model.keras_model.sub_models["masks"])
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(1, side, side, 256)).astype("float32") for side in (32, 16, 8, 4)]
    inputs = [
        np.array([[[0.1, 0.1, 0.6, 0.7], [0, 0, 1, 1]]], "float32"),
        small_model.mold_inputs([image])[1].astype("float32"),
        *maps,
    ]
    actual, expected = (
        np.asarray(network(inputs, training=False))
        for network in (mask_head, small_model.keras_model.sub_models["masks"])
    )
    assert np.abs(actual - expected).max() <= 1e-4


def test_layers_of_a_folded_network_by_device(small_model, image, monkeypatch):
    """Folded kernels where a GPU computes, as in training; on CPUs batch norm is left to the
    kernels: both are the same."""
    outputs = []
    for on_cpu in (False, True):
        monkeypatch.setattr(rewrite, "_on_cpu", lambda policy, on_cpu=on_cpu: on_cpu)
        folded = rewrite.fold_batch_norm(small_model.keras_model.sub_models["boxes"])
        names = {
            layer.norm.name
            for layer in folded.layers
            if isinstance(layer, rewrite.CPUConv) and layer.norm
        }
        assert len(names) == (
            2 * 16 + 1 + 2 if on_cpu else 0
        )  # of ResNet-50's blocks two each, its first, the box head's
        assert not any(name.endswith(("branch2c", "branch1")) for name in names)
        outputs.append(run(folded, small_model, image))
    for actual, expected in zip(*outputs):
        assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


def test_wide_kernels_run_by_groups_of_columns_under_onednn(small_model, monkeypatch):
    for onednn in (False, True):
        monkeypatch.setattr(rewrite, "_runs_onednn", lambda onednn=onednn: onednn)
        folded = rewrite.fold_batch_norm(small_model.keras_model.sub_models["boxes"])
        rpn = next(layer for layer in folded.layers if isinstance(layer, keras.Model))
        alone = [
            layer.conv.name
            for layer in (*folded.layers, *rpn.layers)
            if isinstance(layer, rewrite.CPUConv) and not layer.norm
        ]
        assert sorted(alone) == (
            ["fpn_p2", "fpn_p3", "fpn_p4", "fpn_p5", "rpn_conv_shared"] if onednn else []
        )
    conv = KL.Conv2D(512, 3, strides=2, padding="same", activation="relu")
    x = np.random.default_rng(0).normal(size=(2, 9, 7, 16)).astype("float32")
    conv.build(x.shape)
    conv.bias.assign(np.linspace(-1, 1, 512))
    assert rewrite.CPUConv.by_groups(conv)
    groups = rewrite.CPUConv(conv, None)(x)
    assert [group.shape for group in groups] == [(2, 5, 4, 64)] * 8
    np.testing.assert_allclose(np.concatenate(groups, axis=-1), conv(x), atol=1e-6)
    head = KL.Conv2D(6, 1, activation="sigmoid")
    expected = head(conv(x))
    head.bias.assign(np.linspace(-1, 1, 6))
    np.testing.assert_allclose(rewrite.SumOfGroups(head)(groups), head(conv(x)), atol=1e-6)
    assert np.abs(expected - head(conv(x))).max() > 0.1


def test_groups_of_a_wide_convolution_are_joined_for_what_needs_them(monkeypatch):
    """A 1x1 convolution takes the groups, a pooling and a second output the map."""
    monkeypatch.setattr(rewrite, "_runs_onednn", lambda: True)
    x = KL.Input((None, None, 8))
    wide = KL.Conv2D(256, 3, padding="same", activation="relu", name="wide")(x)
    model = keras.Model(x, [KL.Conv2D(5, 1, name="head")(wide), KL.MaxPooling2D()(wide), wide])
    alone = keras.Model(x, model.outputs[0])
    pixels = np.random.default_rng(0).normal(size=(1, 6, 4, 8)).astype("float32")
    for network, joins in ((model, 1), (alone, 0)):
        folded = rewrite.fold_batch_norm(network)
        assert [type(layer) for layer in folded.layers].count(KL.Concatenate) == joins
        assert "head_sum" in [layer.name for layer in folded.layers]
        for actual, expected in zip(
            keras.tree.flatten(folded(pixels)), keras.tree.flatten(network(pixels))
        ):
            np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_batch_norm_by_the_cpu_kernels_without_its_optional_parts():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 5, 6, 8)).astype("float32")
    for bias, scale, center in ((True, False, True), (False, True, False)):
        conv, norm = (
            KL.Conv2D(4, 3, use_bias=bias),
            KL.BatchNormalization(scale=scale, center=center, epsilon=1e-6),
        )
        norm(conv(x))  # makes the variables
        for variable in (*conv.weights, *norm.weights):
            variable.assign(rng.uniform(0.5, 2, size=variable.shape))
        expected = norm(conv(x), training=False)
        np.testing.assert_allclose(rewrite.CPUConv(conv, norm)(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_folding_under_mixed_precision(tmp_path, small_model, image, policy):
    """Feature maps are as near to float32's as those of the network that is not folded."""
    from mrcnn import model as modellib

    keras.config.set_dtype_policy(policy)
    try:
        mixed = modellib.MaskRCNN("inference", small_model.config, tmp_path)
        folded = rewrite.fold_batch_norm(mixed.keras_model.sub_models["boxes"])
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.keras_model.set_weights(small_model.keras_model.get_weights())
    assert sum(isinstance(layer, rewrite.FoldedConv) for layer in folded.layers) == 53 + 2
    exact, plain, fast = (
        run(network, small_model, image)[1:]
        for network in (
            small_model.keras_model.sub_models["boxes"],
            mixed.keras_model.sub_models["boxes"],
            folded,
        )
    )
    assert len(exact) == 4
    for reference, one, other in zip(exact, plain, fast):
        error, allowed = (
            np.abs(value.astype("float32") - reference).max() for value in (other, one)
        )
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
    assert (
        changed["scores"].shape != before["scores"].shape
        or np.abs(changed["scores"] - before["scores"]).max() > 1e-3
    )
    np.testing.assert_array_equal(small_model.detect([image])[0]["rois"], before["rois"])


@pytest.mark.heavy
def test_batch_norm_of_the_batch_is_not_folded(tmp_path):
    from mrcnn import model as modellib

    model = modellib.MaskRCNN(
        "inference", small_config(BACKBONE="resnet18", BACKBONE_WIDTH=16, TRAIN_BN=True), tmp_path
    )
    folded = rewrite.fold_batch_norm(model.keras_model.sub_models["boxes"])
    assert not any(layer.norm for layer in folded.layers if isinstance(layer, rewrite.FoldedConv))
    assert any(isinstance(layer, KL.BatchNormalization) for layer in folded.layers)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"MASK_ACTIVATION": "softmax"},
        {"CLASS_AGNOSTIC_MASKS": True},
        {"MASK_HEAD": "mlp", "MASK_MLP_SIZE": 16},
    ],
)
def test_masks_of_the_detected_class_alone(settings, tmp_path):
    """Every kind of mask head gives `detect` the masks that the network has at the detected
    classes."""
    from mrcnn import model as modellib

    model = modellib.MaskRCNN(
        "inference",
        small_config(BACKBONE="resnet18", BACKBONE_WIDTH=16, MASK_HEAD_CHANNELS=16, **settings),
        tmp_path,
    )
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(2, side, side, 256)).astype("float32") for side in (32, 16, 8, 4)]
    boxes = np.sort(rng.random((2, 5, 2, 2)), axis=2).reshape(2, 5, 4).astype("float32")
    metas = np.repeat(
        model.mold_inputs([np.zeros((128, 128, 3), np.uint8)])[1].astype("float32"), 2, axis=0
    )
    class_ids = rng.integers(0, model.config.NUM_CLASSES, (2, 5))
    every = np.asarray(model.keras_model.sub_models["masks"]([boxes, metas, *maps], training=False))
    chosen = np.take_along_axis(every, class_ids[:, :, None, None, None], axis=-1)[..., 0]
    actual = model.detector.function("masks")(boxes, metas, *maps, class_ids.astype("int32"))
    assert np.ptp(chosen) > 0.01
    np.testing.assert_allclose(actual, chosen, atol=1e-5)


def _same(network, training=False, tolerance=1e-4, shape=(2, 7, 5, 8)):
    rng = np.random.default_rng(0)
    for variable in network.variables:
        if variable.dtype == "float32":
            variable.assign(
                rng.uniform(0.5, 1.5, variable.shape)
                * (1 if "variance" in variable.name else rng.choice([-1, 1]))
            )
    x = rng.normal(size=shape).astype("float32")
    outputs = [
        keras.tree.flatten(each(x))
        for each in (rewrite.fold_batch_norm(network, training), network)
    ]
    for actual, expected in zip(*outputs, strict=True):
        expected = np.asarray(expected).astype("float32")
        assert (
            np.abs(np.asarray(actual).astype("float32") - expected).max()
            <= tolerance * np.abs(expected).max()
        )


class _Doubled(keras.Model):
    """Not what a model of its layers computes."""

    def call(self, x):
        return 2 * super().call(x)


class _Clipped(KL.BatchNormalization):
    def call(self, inputs, training=None, mask=None):
        return keras.ops.clip(super().call(inputs, training=training, mask=mask), -0.1, 0.1)


def _networks(x):
    """What a function as BACKBONE may build, by what once went wrong or may."""

    def conv(filters=256, side=3, **settings):
        return KL.Conv2D(filters, side, padding="same", **settings)

    wide, norm, inner = conv(), KL.BatchNormalization(), KL.Input((None, None, 8))
    both = keras.Model(inner, conv(5, 1)(conv(activation="relu")(inner)))
    yield (
        "a stage that is Sequential",
        keras.Sequential([KL.Conv2D(4, 3), KL.BatchNormalization(), KL.ReLU()])(x),
    )
    yield "a model inside, called twice", [both(x), both(x + 1)]
    yield "a model with a call of its own", _Doubled(inner, conv(5, 1)(inner))(x)
    yield (
        "names that Keras would choose",
        KL.Concatenate(name="concatenate")([KL.ReLU()(conv()(x)), x]),
    )
    yield "softmax over the channels", conv(5, 1)(conv(activation="softmax")(x))
    yield "an activation with weights", conv(activation=KL.PReLU(shared_axes=[1, 2]))(x)
    yield "one batch norm behind two", [norm(conv(16, 3)(x)), norm(conv(16, 1)(x))]
    yield (
        "one convolution before two, and twice",
        [KL.BatchNormalization()(wide(x)), KL.BatchNormalization()(wide(x)), wide(x + 1)],
    )
    yield (
        "groups of channels",
        KL.BatchNormalization()(conv(16, 1, groups=4)(KL.GlobalAveragePooling2D(keepdims=True)(x))),
    )
    yield (
        "a kernel as large as the map",
        KL.Conv2D(256, 3, activation="relu")(KL.Reshape((3, 3, 8))(x[:, :3, :3])),
    )
    yield "a batch norm of one's own", _Clipped()(conv(16)(x))
    yield "inputs by name", conv(5, 1)(inputs=conv(activation="relu")(inputs=x))
    yield (
        "strides and dilation",
        [conv(6, 1, strides=2)(conv()(x)), conv(dilation_rate=2, use_bias=False)(x)],
    )


def test_batch_norm_is_a_bias_for_onednn_without_avx512(monkeypatch):
    """oneDNN takes 10 to 30 times as long for a convolution that batch norm is a part of there."""
    x = KL.Input((None, None, 8))
    y = KL.BatchNormalization(name="norm")(KL.Conv2D(16, 3, name="conv")(x))
    for onednn in (False, True):
        for avx512 in (False, True):
            monkeypatch.setattr(rewrite, "_runs_onednn", lambda onednn=onednn: onednn)
            monkeypatch.setattr(rewrite, "_has_avx512", lambda avx512=avx512: avx512)
            kind = type(rewrite.fold_batch_norm(keras.Model(x, y)).layers[-1])
            if onednn and not avx512:
                assert kind is rewrite.FoldedConv
            elif rewrite._on_cpu(keras.DTypePolicy("float32")):
                assert kind is rewrite.CPUConv


@pytest.mark.long
@pytest.mark.parametrize("training, avx512", [(False, True), (True, True), (False, False)])
def test_any_network_is_the_same_when_folded(training, avx512, monkeypatch):
    monkeypatch.setattr(rewrite, "_runs_onednn", lambda: True)
    monkeypatch.setattr(rewrite, "_has_avx512", lambda: avx512)
    x = KL.Input((7, 5, 8))
    for what, outputs in _networks(x):
        try:
            _same(keras.Model(x, outputs), training)
        except Exception as error:
            raise AssertionError(what) from error


def test_convolution_in_float32_of_features_in_bfloat16(monkeypatch):
    monkeypatch.setattr(rewrite, "_runs_onednn", lambda: True)
    x = KL.Input((7, 5, 8))
    y = KL.Conv2D(8, 3, dtype="mixed_bfloat16")(x)
    outputs = [KL.BatchNormalization()(KL.Conv2D(16, 3)(y)), KL.Conv2D(256, 3)(y)]
    _same(keras.Model(x, outputs), tolerance=2e-2)


@pytest.mark.parametrize("use_bias", [True, False])
def test_more_classes_than_bfloat16_can_count(use_bias):
    from mrcnn import model as modellib

    x = KL.Input((None, 4, 4, 16))
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        doubling = modellib.TimeDistributed(
            KL.Conv2DTranspose(16, 2, strides=2, activation="relu", use_bias=use_bias)
        )
        head = keras.Model(
            x,
            modellib.TimeDistributed(KL.Conv2D(300, 1, activation="sigmoid", use_bias=use_bias))(
                doubling(x)
            ),
        )
        chosen = rewrite.of_detected_class(head)
    finally:
        keras.config.set_dtype_policy("float32")
    rng = np.random.default_rng(0)
    features, class_ids = (
        rng.normal(size=(1, 4, 4, 4, 16)).astype("float32"),
        np.array([[5, 257, 259, 299]]),
    )
    every = np.asarray(head(features)).astype("float32")
    expected = np.take_along_axis(every, class_ids[:, :, None, None, None], axis=-1)[..., 0]
    actual = np.asarray(chosen([features, class_ids])).astype("float32")
    assert np.abs(actual - expected).max() < 0.01
    assert (
        np.abs(
            actual
            - np.take_along_axis(every, class_ids[:, ::-1, None, None, None], axis=-1)[..., 0]
        ).max()
        > 0.05
    )


@pytest.mark.heavy
def test_body_c4_of_odd_pooled_size_at_stride_2(tmp_path):
    """7 x 7 cells become 4 x 4 in the fifth stage, and masks of 8 x 8."""
    from mrcnn import model as modellib

    settings = dict(
        BACKBONE="resnet18",
        BACKBONE_WIDTH=16,
        BODY="c4",
        C4_HEAD_STRIDE=2,
        BACKBONE_STRIDES=[16],
        RPN_ANCHOR_SCALES=((32, 64, 128),),
        MASK_POOL_SIZE=7,
        DETECTION_MIN_CONFIDENCE=0.0,
    )
    with pytest.raises(ValueError, match=r"MASK_SHAPE .*\[8, 8\].*Received: \[7, 7\]"):
        modellib.MaskRCNN("inference", small_config(MASK_SHAPE=[7, 7], **settings), tmp_path)
    keras.utils.set_random_seed(0)  # one network in twenty finds background alone
    model = modellib.MaskRCNN("inference", small_config(MASK_SHAPE=[8, 8], **settings), tmp_path)
    result = model.detect(
        [np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)]
    )[0]
    assert len(result["scores"]) and result["masks"].shape == (64, 64, len(result["scores"]))
    assert model.keras_model.sub_models["masks"].output.shape[2:4] == (8, 8)
