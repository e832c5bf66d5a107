"""Every layer: config round trip, symbolic, eager and compiled call, a batch of three; JAX in a
subprocess."""

import os
import subprocess
import textwrap

import keras
import numpy as np
import pytest
import test_backends
from keras import layers as KL, ops

from mrcnn import boxes as box_math, model as modellib, ops as kernels

RNG = np.random.default_rng(0)


def uniform(*shape):
    return RNG.uniform(0, 1, shape).astype("float32")


def boxes(*shape):
    corners = uniform(*shape, 2, 2)
    return np.concatenate([corners.min(axis=-2), corners.max(axis=-2)], axis=-1)


def metas(batch):
    return np.tile(
        np.array([0, 64, 64, 3, 64, 64, 3, 0, 0, 64, 64, 1, 1, 1, 1], "float32"), (batch, 1)
    )


CASES = {
    "ProposalLayer": (
        lambda: modellib.ProposalLayer(9, 0.7, return_valid=True),
        lambda b: [uniform(b, 30, 2), uniform(b, 30, 4), boxes(b, 30)],
    ),
    "PyramidAnchors": (
        lambda: modellib.PyramidAnchors((8, 16), (0.5, 1), (4, 8), 2),
        lambda b: [uniform(b, 30, 32, 3), uniform(b, 8, 8, 2), uniform(b, 4, 4, 2)],
    ),
    "PyramidROIAlign": (
        lambda: modellib.PyramidROIAlign((3, 2)),
        lambda b: [boxes(b, 5), metas(b)] + [uniform(b, s, s, 4) for s in (16, 8, 4, 2)],
    ),
    "PyramidROIAlign, RoIAlign": (
        lambda: modellib.PyramidROIAlign(
            (3, 2), pooling="align", level="floor", strides=(4, 8, 16, 32), frame="edges"
        ),
        lambda b: [boxes(b, 5), metas(b)] + [uniform(b, s, s, 4) for s in (16, 8, 4, 2)],
    ),
    "PyramidROIAlign, adaptive": (
        lambda: modellib.PyramidROIAlign((3, 2), pooling="align", samples=0, reduce="max"),
        lambda b: [boxes(b, 5), metas(b)] + [uniform(b, s, s, 4) for s in (16, 8, 4, 2)],
    ),
    "PyramidROIAlign, RoIPool": (
        lambda: modellib.PyramidROIAlign((3, 2), pooling="pool"),
        lambda b: [boxes(b, 5), metas(b)] + [uniform(b, s, s, 4) for s in (16, 8, 4, 2)],
    ),
    "DetectionTargetLayer": (
        lambda: modellib.DetectionTargetLayer(rois_per_image=8, mask_shape=(6, 6), seed=0),
        lambda b: [
            boxes(b, 20),
            np.tile(np.array([[1, 2, -1, 0]], "int32"), (b, 1)),
            boxes(b, 4),
            (uniform(b, 10, 10, 4) > 0.5).astype("uint8"),
        ],
    ),
    "DetectionLayer": (
        lambda: modellib.DetectionLayer(max_instances=7, min_confidence=0.1),
        lambda b: [boxes(b, 20), uniform(b, 20, 3), uniform(b, 20, 3, 4), metas(b)],
    ),
    "NormalizeBoxes": (
        lambda: modellib.NormalizeBoxes(1, True),
        lambda b: [boxes(b, 4) * 20, uniform(b, 20, 30, 3)],
    ),
    "DoubledMap": (lambda: modellib.DoubledMap(), lambda b: uniform(b, 3, 4, 5)),
    "MatchSize": (
        lambda: modellib.MatchSize(),
        lambda b: [uniform(b, 6, 8, 2), uniform(b, 5, 7, 2)],
    ),
    "BatchNorm": (lambda: modellib.BatchNorm(False), lambda b: uniform(b, 4, 4, 3)),
    "WholeConv2D": (lambda: modellib.WholeConv2D(5, 4), lambda b: uniform(b, 4, 4, 3)),
    "TimeDistributed": (
        lambda: modellib.TimeDistributed(keras.layers.Conv2D(4, 3)),
        lambda b: uniform(b, 5, 6, 6, 2),
    ),
    "KeypointTargets": (
        lambda: modellib.KeypointTargets(6),
        lambda b: [
            boxes(b, 5),
            RNG.integers(-1, 3, (b, 5)).astype("int32"),
            uniform(b, 3, 4, 3) * 20,
            uniform(b, 20, 30, 3),
        ],
    ),
    "UpscaleTwice": (lambda: modellib.UpscaleTwice(), lambda b: uniform(b, 2, 3, 4, 5)),
    "LossLayer": (
        lambda: modellib.LossLayer("mrcnn_bbox_loss"),
        lambda b: [
            uniform(b, 6, 4),
            RNG.integers(0, 3, (b, 6)).astype("int32"),
            uniform(b, 6, 3, 4),
        ],
    ),
    "FrozenBatchNorm": (lambda: modellib.FrozenBatchNorm(), lambda b: uniform(b, 4, 4, 3)),
    "GroupNorm": (lambda: modellib.GroupNorm(32), lambda b: uniform(b, 4, 4, 6)),
    "MaskLogits": (
        lambda: modellib.MaskLogits(modellib.TimeDistributed(KL.Conv2D(3, 1))),
        lambda b: [uniform(b, 5, 6, 6, 2), RNG.integers(0, 3, (b, 5)).astype("int32")],
    ),
}


def flat(value):
    return [np.asarray(x) for x in (value if isinstance(value, (list, tuple)) else [value])]


@pytest.mark.parametrize("name", CASES)
def test_layer(name):
    import tensorflow as tf

    make, inputs_of = CASES[name]
    inputs = inputs_of(3)
    layer = make()
    eager = flat(layer(inputs))
    config = layer.get_config()
    assert type(layer).from_config(config).get_config() == config
    # The symbolic call announces what the eager one gives.
    tensors = keras.tree.map_structure(lambda x: keras.KerasTensor(x.shape, str(x.dtype)), inputs)
    symbolic = make()(tensors)
    for announced, array in zip(
        symbolic if isinstance(symbolic, (list, tuple)) else [symbolic], eager, strict=True
    ):
        assert tuple(announced.shape) == array.shape
        assert keras.backend.standardize_dtype(announced.dtype) == str(array.dtype)
    compiled = flat(tf.function(lambda x: layer(x))(inputs))
    for a, b in zip(compiled, eager, strict=True):
        assert a.shape == b.shape
        if name != "DetectionTargetLayer":  # it draws
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "name", [name for name in CASES if name.startswith(("Prop", "PyramidR", "DetectionLayer"))]
)
def test_portable_kernels_under_xla(name):
    """The keras.ops form compiles under XLA and gives what the fused kernels give."""
    import tensorflow as tf

    make, inputs_of = CASES[name]
    inputs, layer = inputs_of(3), make()
    expected = flat(layer(inputs))
    layer.fused = False
    for a, b in zip(
        flat(tf.function(lambda x: layer(x), jit_compile=True)(inputs)), expected, strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.heavy
@test_backends.needed
def test_layers_under_jax(tmp_path):
    """In a process of its own with JAX as the backend: the same values, compiled by jax.jit."""
    names = (
        "ProposalLayer",
        "PyramidROIAlign",
        "PyramidROIAlign, RoIAlign",
        "PyramidROIAlign, adaptive",
        "PyramidROIAlign, RoIPool",
        "DetectionLayer",
        "PyramidAnchors",
        "NormalizeBoxes",
        "KeypointTargets",
    )
    arrays = {}
    for name in names:
        make, inputs_of = CASES[name]
        inputs = inputs_of(2)
        arrays.update({f"{name}/in{i}": x for i, x in enumerate(inputs)})
        arrays.update({f"{name}/out{i}": x for i, x in enumerate(flat(make()(inputs)))})
    np.savez(tmp_path / "arrays.npz", **arrays)
    code = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        import jax, numpy as np, test_layers
        arrays = np.load({str(tmp_path / "arrays.npz")!r})
        for name in {names!r}:
            inputs = [arrays[key] for key in arrays.files if key.startswith(name + "/in")]
            outputs = jax.jit(lambda *x: test_layers.CASES[name][0]()(list(x)))(*inputs)
            for i, value in enumerate(outputs if isinstance(outputs, (list, tuple)) else [outputs]):
                np.testing.assert_allclose(np.asarray(value), arrays[f"{{name}}/out{{i}}"], rtol=1e-4, atol=1e-5)
        print("equal")
    """)
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = str(test_backends.ROOT)
    done = subprocess.run(
        [test_backends.PYTHON, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "equal", done.stderr[-3000:]


def test_doubled_map_is_keras_upsampling():
    """Each cell twice in both directions, also of maps whose sides are not known."""
    import tensorflow as tf

    x = uniform(2, 3, 4, 5)
    expected = np.asarray(keras.layers.UpSampling2D(2)(x))
    layer = modellib.DoubledMap()
    np.testing.assert_array_equal(layer(x), expected)
    np.testing.assert_array_equal(expected, np.repeat(np.repeat(x, 2, axis=1), 2, axis=2))
    anything = tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, 5))])
    np.testing.assert_array_equal(anything(x), expected)
    assert layer.compute_output_shape((None, None, 4, 5)) == (None, None, 8, 5)


# ---- Sampling of RoIs ----------------------------------------------------------------------------


def sample(size, ratio, positives, negatives, class_id=1):
    """(positive, negative) counts that the layer draws where so many are to be had."""
    hit, miss = [0.1, 0.1, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9]
    proposals = np.array([[hit] * positives + [miss] * negatives], "float32")
    layer = modellib.DetectionTargetLayer(
        rois_per_image=size, positive_ratio=ratio, mask_shape=None, seed=0
    )
    rois, ids, _ = layer(
        [proposals, np.array([[class_id, 0]], "int32"), np.array([[hit, miss]], "float32")]
    )
    rois, ids = np.asarray(rois)[0], np.asarray(ids)[0]
    return int((ids > 0).sum()), int((rois.any(axis=1) & (ids == 0)).sum())


@pytest.mark.parametrize(
    "size, ratio, available, taken",
    [
        (200, 0.33, (300, 300), (66, 134)),
        (200, 0.33, (30, 300), (30, 60)),
        (200, 0.33, (10, 5), (10, 5)),
        (200, 0.25, (300, 300), (50, 150)),
        (200, 0.25, (20, 300), (20, 60)),
        (512, 0.25, (600, 600), (128, 384)),
        (200, 0.33, (0, 300), (0, 134)),
        (4, 0.25, (3, 6), (1, 3)),
    ],
)
def test_counts_of_sampled_rois(size, ratio, available, taken):
    """.33 is two negatives to a positive, .25 the paper's 1:3; without positives the negatives stay
    (README 5)."""
    assert sample(size, ratio, *available) == taken


@pytest.mark.parametrize("fused, count", [(None, 3), (False, 5)])
def test_positives_are_split_off(fused, count):
    """The most positives of an image decide; at least one row, and without fused kernels what can
    be positive."""
    layer = modellib.SplitPositives(5, fused)
    ids = np.array([[2, 1, 1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]], "int32")
    rois, masks = uniform(2, 8, 4), uniform(2, 8, 3, 3)
    first, others, first_masks, first_ids = map(np.asarray, layer([ids, rois, masks, ids]))
    np.testing.assert_array_equal(first, rois[:, :count])
    np.testing.assert_array_equal(others, rois[:, count:])
    np.testing.assert_array_equal(first_masks, masks[:, :count])
    np.testing.assert_array_equal(first_ids, ids[:, :count])
    none = layer([ids * 0, rois])
    assert none[0].shape[1] == (1 if fused is None else 5)
    assert (
        modellib.SplitPositives.from_config(layer.get_config()).get_config() == layer.get_config()
    )


def test_crowds_are_neither_positive_nor_negative():
    assert sample(10, 0.5, 5, 0, class_id=-1) == (0, 0)


def test_draw_is_random_and_seeded():
    proposals = np.random.default_rng(0).uniform(0.6, 0.9, (1, 50, 4)).astype("float32")
    proposals[..., 2:] += 0.1
    truth = [np.array([[1]], "int32"), np.array([[[0.1, 0.1, 0.5, 0.5]]], "float32")]

    def draw(seed):
        layer = modellib.DetectionTargetLayer(rois_per_image=6, mask_shape=None, seed=seed)
        return [np.asarray(layer([proposals, *truth])[0]) for _ in range(2)]

    (a, b), (c, d) = draw(1), draw(1)
    assert np.array_equal(a, c) and np.array_equal(b, d) and not np.array_equal(a, b)


def test_a_true_zero_box_stays_with_its_validity():
    """README 4: a box at (0, 0) is not padding where its validity says so."""
    deltas, probs = (
        np.zeros((1, 2, 2, 4), "float32"),
        np.array([[[0.1, 0.9], [0.2, 0.8]]], "float32"),
    )
    rois = np.array([[[0, 0, 1, 1], [0, 0, 0, 0]]], "float32")
    layer = modellib.DetectionLayer(max_instances=3)
    found = np.asarray(layer([rois, probs, deltas, metas(1)[:, :14], np.array([[True, False]])]))
    assert found[0, 0].tolist() == pytest.approx([0, 0, 1, 1, 1, 0.9]) and not found[0, 1:].any()


def test_one_pixel_object_gets_an_area():
    """README 4: normalised it has none, so it could never be matched."""
    image = np.zeros((1, 64, 64, 3), "float32")
    pixels = np.array([[[10, 20, 11, 21], [0, 0, 64, 64]]], "float32")
    small, whole = np.asarray(modellib.NormalizeBoxes(1)([pixels, image]))[0]
    np.testing.assert_allclose(small, np.array([9.5, 19.5, 10.5, 20.5]) / 63, rtol=1e-5)
    np.testing.assert_allclose(whole, [0, 0, 1, 1])


# ---- Losses that were wrong ----------------------------------------------------------------------


def test_class_loss_uses_each_images_own_active_classes():
    """loss_class_active_mixed (README 1): the second image's RoI counts by the second image's
    classes."""
    ids = np.array([[1], [2]], "int32")
    logits = np.array([[[0, 3, 0]], [[0, 0, 3]]], "float32")
    active = np.array([[1, 1, 0], [1, 0, 1]], "int32")
    expected = float(np.log(2 + np.exp(3)) - 3)
    assert float(modellib.mrcnn_class_loss_graph(ids, logits, active)) == pytest.approx(
        expected, rel=1e-5
    )
    wrong = np.array([[1, 1, 0], [1, 1, 0]], "int32")
    swapped = float(modellib.mrcnn_class_loss_graph(np.array([[1], [1]]), logits, wrong))
    assert swapped == pytest.approx(expected, rel=1e-5)  # only the first RoI counts


def test_losses_without_anything_are_zero():
    """loss_class_nan (README 1), and images without objects."""
    ids, logits = np.zeros((1, 2), "int32"), np.array([[[0, 3.0], [0, 3.0]]], "float32")
    assert float(modellib.mrcnn_class_loss_graph(ids, logits, np.array([[1, 0]]))) == 0
    assert float(modellib.mrcnn_bbox_loss_graph(uniform(1, 2, 4), ids, uniform(1, 2, 2, 4))) == 0
    assert (
        float(modellib.mrcnn_mask_loss_graph(uniform(1, 2, 3, 3), ids, uniform(1, 2, 3, 3, 2))) == 0
    )


def test_untrained_mask_loss_is_ln_2():
    ids, target = np.array([[1, 0]], "int32"), (uniform(1, 2, 4, 4) > 0.5).astype("float32")
    loss = modellib.mrcnn_mask_loss_graph(target, ids, np.full((1, 2, 4, 4, 3), 0.5, "float32"))
    assert float(loss) == pytest.approx(0.693147, abs=1e-5)


# Pairs of boxes, and their generalised IoU by hand: IoU - (around - union) / around.
GIOUS = [
    ([0, 0, 2, 2], [0, 0, 2, 2], 1),
    ([0, 0, 2, 2], [1, 1, 3, 3], 1 / 7 - 2 / 9),
    ([0, 0, 4, 4], [1, 1, 3, 3], 1 / 4),
    ([0, 0, 1, 1], [0, 1, 1, 2], 0),
    ([0, 0, 1, 1], [0, 2, 1, 3], -1 / 3),
    ([0, 0, 1, 1], [9, 9, 10, 10], -98 / 100),
    ([0, 0, 4, 4], [1, 1, 1, 1], 0),  # a point inside a box: no overlap, all around is covered
    ([1, 1, 1, 1], [1, 1, 1, 1], -1),
    ([1, 1, 1, 5], [1, 3, 1, 9], -1),
]


@pytest.mark.parametrize("xp", [np, ops], ids=["numpy", "ops"])
def test_generalized_iou_by_hand(xp):
    first, second, expected = (np.array(column, "float32") for column in zip(*GIOUS))
    for a, b in ((first, second), (second, first)):
        if xp is ops:
            a, b = ops.convert_to_tensor(a), ops.convert_to_tensor(b)
        np.testing.assert_allclose(box_math.generalized_iou(a, b, xp), expected, atol=1e-6)


STD_DEV = (0.1, 0.1, 0.2, 0.2)
# What a box does from its target in units of the RoI, and the loss by hand.
MOVES = [
    ((0, 0, 0, 0), 0),
    ((1, 0, 0, 0), 1),  # they touch
    ((0, 2, 0, 0), 4 / 3),
    ((0.5, 0, 0, 0), 2 / 3),
    ((0, 0, np.log(2), 0), 1 / 2),
    ((0, 0, np.log(2), np.log(2)), 3 / 4),
    ((1, 1, 0, 0), 1 + 2 / 4),
]


def test_giou_loss_by_hand():
    """Of deltas divided by their standard deviation; the mean is over positive RoIs or anchors."""
    moves, expected = (np.array(column, "float32") for column in zip(*MOVES))
    deltas = moves / np.array(STD_DEV, "float32")
    losses = np.asarray(modellib.giou_loss(np.zeros_like(deltas), deltas, STD_DEV))
    np.testing.assert_allclose(losses, expected, atol=1e-6)

    # Of each class another box; the last row is background.
    class_ids = np.array([[1, 2, 0]], "int32")
    pred = np.full((1, 3, 3, 4), 50, "float32")
    pred[0, 0, 1] = deltas[1]
    pred[0, 1, 2] = deltas[4]
    layer = modellib.LossLayer("mrcnn_bbox_loss", giou_std_dev=np.array(STD_DEV))
    assert float(layer([np.zeros((1, 3, 4), "float32"), class_ids, pred])) == pytest.approx(0.75)
    assert float(layer([np.zeros((1, 3, 4), "float32"), class_ids * 0, pred])) == 0

    match = np.array([[[0], [1], [-1], [1]]], "int32")
    anchors = np.stack([deltas[2], deltas[1], deltas[2], deltas[4]])[None]
    layer = modellib.LossLayer("rpn_bbox_loss", giou_std_dev=STD_DEV)
    assert float(layer([np.zeros((1, 2, 4), "float32"), match, anchors])) == pytest.approx(0.75)
    config = layer.get_config()
    assert modellib.LossLayer.from_config(config).get_config() == config


def test_giou_loss_is_that_of_the_decoded_boxes():
    """Whatever the RoI is: the deltas alone say how boxes overlap."""
    rng = np.random.default_rng(5)
    corner = rng.uniform(0, 500, (40, 2))
    rois = np.concatenate([corner, corner + rng.uniform(3, 300, (40, 2))], axis=1)
    deltas = rng.normal(0, 1.5, (2, 40, 4)).astype("float32")
    found, wanted = (box_math.apply_deltas(rois, d * np.array(STD_DEV)) for d in deltas)
    expected = 1 - box_math.generalized_iou(found, wanted)
    assert expected.min() < 0.35 and expected.max() > 0.6
    np.testing.assert_allclose(modellib.giou_loss(*deltas, STD_DEV), expected, atol=1e-5)


def test_gradients_of_giou_are_finite():
    """Also of boxes without area, larger than float32, far away, and of rows that don't count."""
    import tensorflow as tf

    wild = [[0, 0, -900, 0], [0, 0, -900, -900], [0, 0, 900, 900], [1e6, -1e6, 0, 0], [0, 0, 0, 0]]
    target = np.zeros((1, 5, 4), "float32")
    for ids in ([1, 1, 1, 1, 1], [0, 0, 0, 0, 1]):
        pred = tf.Variable(np.array(wild, "float32")[None, :, None])
        with tf.GradientTape() as tape:
            loss = modellib.LossLayer("mrcnn_bbox_loss", giou_std_dev=STD_DEV)(
                [target, np.array([ids], "int32"), ops.tile(pred, (1, 1, 2, 1))]
            )
        assert np.isfinite(float(loss))
        assert np.isfinite(tape.gradient(loss, pred)).all()


def test_gradients_of_giou_are_its_slopes():
    """Also without any overlap, where the IoU itself has none."""
    import tensorflow as tf

    rng = np.random.default_rng(3)
    deltas = rng.normal(0, 3, (30, 4))
    deltas[::3, 0] += 25
    target = np.zeros((30, 4))

    def numpy_loss(deltas):
        unit = np.array([0.0, 0, 1, 1])
        wanted, found = (box_math.apply_deltas(unit, d * STD_DEV) for d in (target, deltas))
        return 1 - box_math.generalized_iou(wanted, found)

    slopes = []
    for step in 1e-6 * np.eye(4):
        slopes.append((numpy_loss(deltas + step) - numpy_loss(deltas - step)) / 2e-6)
    slopes = np.stack(slopes, axis=1)
    pred = tf.Variable(deltas, dtype="float32")
    with tf.GradientTape() as tape:
        loss = ops.sum(modellib.giou_loss(target, pred, STD_DEV))
    np.testing.assert_allclose(tape.gradient(loss, pred), slopes, atol=1e-5)
    assert (numpy_loss(deltas)[::3] > 1).all() and (slopes[::3, 0] > 0).all()


def test_batch_norm_holds_its_mode_inside_a_model():
    """Keras overrides `training` by the whole model's mode; the layer's own argument must win."""
    inputs = keras.Input((4,))
    pixels = np.random.default_rng(0).normal(5, 1, (8, 4)).astype("float32")
    for mode, moves in ((False, False), (True, True), (None, True)):
        layer = modellib.BatchNorm(mode)
        model = keras.Model(inputs, layer(inputs))
        model(pixels, training=True)
        assert bool(np.abs(np.asarray(layer.moving_mean)).max() > 0) == moves
    assert ops.is_tensor(model(pixels))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (1, 1, 1, 6)], ids=str)
def test_batch_norm_in_one_operation_is_that_of_keras(shape, known, monkeypatch):
    """Outputs, gradients and kept statistics, at first and after two batches; of one value too.

    known: whether the graph knows the shape.
    """
    import tensorflow as tf

    uses = []
    fused = kernels.batch_norm
    monkeypatch.setattr(kernels, "batch_norm", lambda *args: uses.append(1) or fused(*args))
    results = []
    for make in (
        lambda: modellib.BatchNorm(True, momentum=0.9),
        lambda: KL.BatchNormalization(momentum=0.9),
    ):
        layer = make()
        layer.build(shape)
        layer.gamma.assign(np.linspace(0.5, 2, 6))
        layer.beta.assign(np.linspace(-1, 1, 6))
        rng = np.random.default_rng(0)
        signature = [tf.TensorSpec(shape)]
        if not known:
            signature = [tf.TensorSpec([None, None, None, 6])]
        run = tf.function(lambda x, layer=layer: layer(x, training=True), signature)
        for _ in range(2):
            x = tf.constant(rng.normal(3, 2, shape), "float32")
            upstream = rng.normal(size=shape).astype("float32")
            with tf.GradientTape() as tape:
                tape.watch(x)
                outputs = run(x)
                total = ops.sum(outputs * upstream)
            gradients = tape.gradient(total, [x, layer.gamma.value, layer.beta.value])
        results.append([outputs, *gradients, layer.moving_mean, layer.moving_variance])
    assert len(uses) == 1  # traced once
    for one, other in zip(*results):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-4, atol=1e-5)


def test_batch_norm_is_left_to_keras_where_the_operation_differs():
    """A smaller epsilon, vectors, layers without gamma, in bfloat16, or frozen."""
    pixels = uniform(2, 3, 3, 4)
    frozen = modellib.BatchNorm(True)
    frozen.trainable = False
    others = [
        (modellib.BatchNorm(True, epsilon=1e-6), pixels),
        (modellib.BatchNorm(True), pixels[0, 0]),
        (modellib.BatchNorm(True, scale=False), pixels),
        (modellib.BatchNorm(True, dtype="mixed_bfloat16"), pixels),
        (frozen, pixels),
    ]
    for layer, inputs in others:
        assert not layer._is_fused(ops.convert_to_tensor(inputs))
        assert np.all(np.isfinite(np.asarray(layer(inputs), "float32")))
    assert modellib.BatchNorm(True)._is_fused(ops.convert_to_tensor(pixels))


def test_level_of_a_roi():
    """FPN's rule at the seams: 224 pixels belong to P4; "floor" keeps 223 on P3, "round" moves up
    at 158.4."""
    sides = np.array([10, 55, 57, 111, 112, 157, 160, 223, 224, 447, 448, 5000], "float32")
    rois = np.stack([sides * 0, sides * 0, sides / 600, sides / 800], axis=-1)[None]
    levels = {
        rule: (
            np.asarray(
                modellib.PyramidROIAlign.levels(
                    ops.convert_to_tensor(rois), np.array([[600, 800, 3]]), rule
                )
            )[0].tolist()
        )
        for rule in ("round", "floor")
    }
    assert levels["floor"] == [2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5]
    assert levels["round"] == [2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5]


def test_box_frames():
    """A box in pixels comes back from either frame; "edges" divides plainly."""
    pixels = np.array([[0, 0, 480, 640], [10, 20, 30, 60]], "float32")
    for frame, expected in (
        ("centers", [10 / 479, 20 / 639, 29 / 479, 59 / 639]),
        ("edges", [10 / 480, 20 / 640, 30 / 480, 60 / 640]),
    ):
        normal = modellib.norm_boxes_graph(pixels, (480, 640), frame)
        np.testing.assert_allclose(np.asarray(normal), [[0, 0, 1, 1], expected], rtol=1e-6)
        np.testing.assert_allclose(
            np.asarray(normal), modellib.utils.norm_boxes(pixels, (480, 640), frame), rtol=1e-6
        )
        np.testing.assert_array_equal(
            np.asarray(modellib.denorm_boxes_graph(normal, (480, 640), frame)), pixels
        )
        np.testing.assert_array_equal(
            modellib.utils.denorm_boxes(np.asarray(normal), (480, 640), frame), pixels
        )
