"""The paper's settings: bodies, norms, heads, proposals and detections by level and class, presets,
training of each."""

import keras
import numpy as np
import pytest
from keras import ops
from toy import Rectangles, ToyConfig

from mrcnn import model as modellib, utils
from mrcnn.config import Config, PaperC4Config, PaperConfig

RNG = np.random.default_rng(5)


def boxes(*shape):
    corners = RNG.uniform(0, 1, (*shape, 2, 2)).astype("float32")
    return np.concatenate([corners.min(axis=-2), corners.max(axis=-2)], axis=-1)


def metas(shape, window, classes=3):
    return np.array([[0, *shape, 3, *shape, 3, *window, 1, *([1] * classes)]], "float32")


# ---- Bodies --------------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize(
    "name, parameters",
    [
        ("resnet50", 23_508_032),
        ("resnext50_32x4d", 22_979_904),
        ("resnext101_32x8d", 86_742_336),
        ("resnext101_64x4d", 81_406_272),
    ],
)
def test_parameters_of_bodies(name, parameters):
    """The public classifiers' counts less their last layer of 2,049,000: widths and groups are
    right."""
    image = keras.Input((64, 64, 3))
    style = modellib.Style(modellib.Norm(bias=False), stride_in_1x1=False, padding="symmetric")
    maps = modellib.resnet_graph(image, name, True, style=style)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (32, 32, 64),
        (16, 16, 256),
        (8, 8, 512),
        (4, 4, 1024),
        (2, 2, 2048),
    ]
    model = keras.Model(image, maps[-1])
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == parameters
    grouped = model.get_layer("res4b_branch2b")
    groups = int(name.split("_")[1].split("x")[0]) if "_" in name else 1
    assert grouped.groups == groups and model.get_layer("res4a_branch2b").strides == (2, 2)


@pytest.mark.long
@pytest.mark.parametrize(
    "name, shapes",
    [
        ("resnet18", [(32, 32, 24), (32, 32, 24), (16, 16, 48), (8, 8, 96), (4, 4, 192)]),
        ("resnet50", [(32, 32, 24), (32, 32, 96), (16, 16, 192), (8, 8, 384), (4, 4, 768)]),
    ],
)
def test_narrow_bodies_without_pooling(name, shapes):
    """BACKBONE_WIDTH and BACKBONE_POOL: channels in proportion, half the strides from C2 on."""
    image = keras.Input((64, 64, 3))
    style = modellib.Style(modellib.Norm(bias=False), width=24, pool=False)
    maps = modellib.resnet_graph(image, name, True, style=style)
    assert [tuple(m.shape[1:]) for m in maps] == shapes


@pytest.mark.long
@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d"])
def test_half_the_width_is_a_quarter_of_the_weights(name, short_bodies):
    def convolutions(width):
        image = keras.Input((64, 64, 3))
        style = modellib.Style(modellib.Norm(bias=False), width=width)
        model = keras.Model(image, modellib.resnet_graph(image, name, True, style=style)[-1])
        kernels = [w for w in model.trainable_weights if len(w.shape) == 4]
        return sum(int(np.prod(w.shape)) for w in kernels[1:])  # the first one reads the image

    # Of the stem and the first blocks alike; a group of a ResNeXt has half the channels, too.
    assert convolutions(32) * 4 == convolutions(64)


def test_grouped_convolution_is_one_for_each_group():
    """A ResNeXt block's 3x3 against the convolutions of its groups, one by one."""
    block_in = keras.Input((6, 6, 64))
    style = modellib.Style(modellib.Norm(bias=False), groups=4)
    out = modellib.identity_block(block_in, 3, [16, 16, 64], 2, "b", style=style)
    inner = keras.Model(block_in, out).get_layer("res2b_branch2b")
    x = RNG.normal(size=(1, 6, 6, 16)).astype("float32")
    kernel = np.asarray(inner.kernel)
    parts = [
        ops.conv(x[..., 4 * g : 4 * g + 4], kernel[..., 4 * g : 4 * g + 4], padding="same")
        for g in range(4)
    ]
    np.testing.assert_allclose(
        np.asarray(inner(x)), np.concatenate([np.asarray(p) for p in parts], -1), atol=1e-5
    )


def test_symmetric_padding():
    """A 3x3 window of stride 2 starts one pixel outside: of rows 0..3 it sees -1..1 and 1..3."""
    image = keras.Input((16, 16, 3))
    style = modellib.Style(modellib.Norm(None), stride_in_1x1=False, padding="symmetric")
    model = keras.Model(image, modellib.resnet_stage(image, "resnet18", 3, 2, style))
    conv = model.get_layer("res3a_branch2a")
    same = keras.layers.Conv2D(128, 3, strides=2, padding="valid")
    same.build((None, 18, 18, 3))
    same.set_weights(conv.get_weights())
    x = RNG.normal(size=(1, 16, 16, 3)).astype("float32")
    inner = keras.Model(image, conv.output)
    np.testing.assert_allclose(
        np.asarray(inner(x)),
        np.asarray(same(np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]))),
        atol=1e-5,
    )


def test_norms():
    """Group norm against its definition; frozen batch norm is an affine function that never
    trains."""
    x = RNG.normal(3, 2, (2, 4, 4, 64)).astype("float32")
    (group,) = modellib.Norm("group").layers("g")
    y = np.asarray(group(x)).reshape(2, 16, 32, 2)
    np.testing.assert_allclose(y.mean(axis=(1, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(y.std(axis=(1, 3)), 1, atol=1e-3)
    assert modellib.Norm(None).layers("n") == [] and modellib.Norm(None, bias=False).conv_bias
    (frozen,) = modellib.Norm("frozen", epsilon=0.0).layers("f")
    frozen.build(x.shape)
    frozen.set_weights(
        [np.full(64, v, "float32") for v in (2, 1, 3, 4)]
    )  # gamma, beta, mean, variance
    frozen.trainable = True
    assert frozen.trainable_weights == [] and len(frozen.weights) == 4
    np.testing.assert_allclose(np.asarray(frozen(x, training=True)), (x - 3) / 2 * 2 + 1, atol=1e-5)
    (wrapped,) = modellib.Norm("frozen").layers("f", per_roi=True)
    wrapped(x[:, None])
    wrapped.trainable = True
    assert wrapped.trainable_weights == []


# ---- Proposals and detections --------------------------------------------------------------------


def naive_suppression(boxes_, scores, threshold):
    """Indices that stay, best first."""
    order, keep = list(np.argsort(-scores, kind="stable")), []
    while order:
        best = order.pop(0)
        keep.append(best)
        iou = (
            utils.compute_overlaps(
                boxes_[best : best + 1].astype(float), boxes_[order].astype(float)
            )[0]
            if order
            else []
        )
        order = [i for i, value in zip(order, iou) if value <= threshold]
    return keep


@pytest.mark.parametrize("fused", [True, False])
def test_proposals_by_level(fused):
    """Limits and suppression within each level, short sides out, clipped to the window; sigmoid's
    own order."""
    maps = [np.zeros((1, 4, 5, 1), "float32"), np.zeros((1, 2, 3, 1), "float32")]
    counts = [3 * 20, 3 * 6]
    anchors = boxes(1, sum(counts))
    logits = RNG.normal(0, 2, (1, sum(counts), 2)).astype("float32")
    deltas = RNG.normal(0, 0.1, (1, sum(counts), 4)).astype("float32")
    layer = modellib.ProposalLayer(
        20,
        0.5,
        pre_nms_limit=15,
        bbox_std_dev=(1, 1, 1, 1),
        return_valid=True,
        limit_per_level=True,
        nms_per_level=True,
        min_size=9,
        clip_to_window=True,
        sigmoid=True,
        frame="edges",
        fused=fused,
    )
    proposals, valid = layer([logits, deltas, anchors, metas((80, 100), (0, 0, 60, 90)), *maps])
    refined = np.asarray(modellib.apply_box_deltas_graph(anchors, deltas))[0]
    refined = np.clip(refined, 0, [0.75, 0.9, 0.75, 0.9])
    found = []
    for start, count in ((0, 60), (60, 18)):
        rows = start + np.argsort(-logits[0, start : start + count, 1], kind="stable")[:15]
        sides = (refined[rows, 2:] - refined[rows, :2]) * (80, 100)
        rows = rows[(sides >= 9).all(axis=1)]
        found += [rows[i] for i in naive_suppression(refined[rows], logits[0, rows, 1], 0.5)]
    found = sorted(found, key=lambda i: -logits[0, i, 1])[:20]
    assert np.asarray(valid)[0].sum() == len(found)
    np.testing.assert_allclose(np.asarray(proposals)[0, : len(found)], refined[found], atol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_detections_of_every_class(fused):
    """A RoI gives a detection for each class above the score; of equal scores the earlier RoI comes
    first."""
    rois, probs = boxes(1, 30), RNG.uniform(0, 1, (1, 30, 4)).astype("float32")
    probs[0, ::5] = 0.9  # ties between classes and RoIs
    deltas = RNG.normal(0, 0.5, (1, 30, 4, 4)).astype("float32")
    layer = modellib.DetectionLayer(
        max_instances=25,
        min_confidence=0.4,
        nms_threshold=0.5,
        all_classes=True,
        min_size=4,
        frame="edges",
        fused=fused,
    )
    detections = np.asarray(layer([rois, probs, deltas, metas((80, 100), (0, 0, 60, 90), 4)]))[0]
    found = []
    for class_id in (1, 2, 3):
        moved = np.asarray(
            modellib.apply_box_deltas_graph(
                rois[0], deltas[0, :, class_id] * np.float32([0.1, 0.1, 0.2, 0.2])
            )
        )
        moved = np.clip(moved, 0, [0.75, 0.9, 0.75, 0.9])
        good = (probs[0, :, class_id] >= 0.4) & (
            (moved[:, 2:] - moved[:, :2]) * (80, 100) >= 4
        ).all(axis=1)
        rows = np.flatnonzero(good)
        found += [
            (-probs[0, r, class_id], r, class_id, moved[r])
            for r in rows[naive_suppression(moved[rows], probs[0, rows, class_id], 0.5)]
        ]
    found = sorted(found, key=lambda row: row[:3])
    assert 25 <= len(found)
    expected = np.array([[*box, class_id, -score] for score, _, class_id, box in found[:25]])
    np.testing.assert_allclose(detections, expected, atol=1e-6)
    nothing = np.asarray(layer([rois, probs * 0, deltas, metas((80, 100), (0, 0, 60, 90), 4)]))
    assert nothing.shape == (1, 25, 6) and not nothing.any()


def test_sigmoid_of_the_rpn_is_a_softmax_against_zero():
    rpn = modellib.build_rpn_model(1, 3, 8, 16, convs=2, score="sigmoid")
    logits, probs, deltas = (
        np.asarray(x) for x in rpn(RNG.normal(size=(2, 4, 5, 8)).astype("float32"))
    )
    assert logits.shape == probs.shape == (2, 60, 2) and deltas.shape == (2, 60, 4)
    assert not logits[..., 0].any() and rpn.get_layer("rpn_class_raw").filters == 3
    np.testing.assert_allclose(probs[..., 1], 1 / (1 + np.exp(-logits[..., 1])), rtol=1e-5)
    match = RNG.integers(-1, 2, (2, 60, 1))
    loss = float(modellib.rpn_class_loss_graph(match, logits))
    x, sign = logits[..., 1][match[..., 0] != 0], match[match != 0]
    assert loss == pytest.approx(np.log1p(np.exp(-sign * x)).mean(), rel=1e-5)


def test_rois_of_the_paper():
    """detectron2's draw of 4 at 1:3 from 3 positives and 6 negatives: 1 and 3; one positive alone:
    all others negative.

    With the objects' own boxes as proposals an image whose proposals all miss still has a positive
    one.
    """
    gt = np.array([[[0.1, 0.1, 0.5, 0.5]]], "float32")
    near, far = (
        np.array([0.1, 0.1, 0.5, 0.52], "float32"),
        np.array([0.6, 0.6, 0.9, 0.9], "float32"),
    )
    ids, masks = np.ones((1, 1), "int32"), np.ones((1, 8, 8, 1), "uint8")

    def counts(proposals, size, **settings):
        layer = modellib.DetectionTargetLayer(
            rois_per_image=size, positive_ratio=0.25, mask_shape=(4, 4), **settings
        )
        rois, class_ids, _, _ = layer([np.stack(proposals)[None], ids, gt, masks])
        positive = np.asarray(class_ids)[0] > 0
        return positive.sum(), (np.asarray(rois)[0].any(axis=1) & ~positive).sum()

    assert counts([near] * 3 + [far] * 6, 4, fill=True) == (1, 3)
    assert counts([near] + [far] * 20, 16) == (1, 3) and counts(
        [near] + [far] * 20, 16, fill=True
    ) == (1, 15)
    assert counts([far] * 20, 16, fill=True) == (0, 16)
    assert counts([far] * 20, 16, fill=True, add_objects=True) == (1, 15)


# ---- Masks ---------------------------------------------------------------------------------------


def test_softmax_mask_loss():
    """The multinomial loss by hand: the class's probability on the object, the background's off
    it."""
    pred = np.zeros((1, 2, 1, 2, 3), "float32")
    pred[0, 0, 0] = [[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]
    pred[0, 1] = 1 / 3
    target = np.array([[[[1, 0]], [[1, 1]]]], "float32")
    loss = modellib.mrcnn_mask_loss_graph(target, np.array([[2, 0]]), pred, softmax=True)
    assert float(loss) == pytest.approx(-(np.log(0.5) + np.log(0.6)) / 2, rel=1e-5)
    binary = modellib.mrcnn_mask_loss_graph(target, np.array([[2, 0]]), pred)
    assert float(binary) == pytest.approx(-(np.log(0.5) + np.log(0.9)) / 2, rel=1e-5)


MASK_HEADS = [
    {},
    {"softmax": True},
    {"class_agnostic": True},
    {"softmax": True, "class_agnostic": True},
    {"mlp": (12, 12), "mlp_size": 16},
    {"mlp": (12, 12), "mlp_size": 16, "softmax": True},
]


@pytest.mark.parametrize("settings", MASK_HEADS)
def test_mask_heads(settings):
    """Shapes; softmax adds up to 1; a class-agnostic mask is the same for every class; an MLP sees
    the whole RoI."""
    rois, meta = boxes(2, 3), np.repeat(metas((64, 64), (0, 0, 64, 64)), 2, axis=0)
    maps = [RNG.normal(size=(2, side, side, 4)).astype("float32") for side in (16, 8, 4, 2)]
    head = modellib.MaskHead(6, 3, False, 8, **settings)
    masks = np.asarray(
        head(
            *[
                ops.convert_to_tensor(rois),
                [ops.convert_to_tensor(m) for m in maps],
                ops.convert_to_tensor(meta),
            ]
        )
    )
    assert masks.shape == (2, 3, 12, 12, 3)
    if settings.get("class_agnostic"):
        np.testing.assert_array_equal(masks[..., 1], masks[..., 2])
        if settings.get("softmax"):
            np.testing.assert_allclose(masks[..., 0] + masks[..., 1], 1, rtol=1e-5)
        else:
            np.testing.assert_array_equal(masks[..., 0], masks[..., 1])
    elif settings.get("softmax"):
        np.testing.assert_allclose(masks.sum(axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize("settings", [*MASK_HEADS, {"norm": modellib.Norm("group")}])
def test_mask_loss_of_logits_is_that_of_probabilities(settings):
    """The same loss and gradients of all weights, and the same masks, as without the logits."""
    import tensorflow as tf

    rois = ops.convert_to_tensor(boxes(2, 5))
    meta = ops.convert_to_tensor(np.repeat(metas((64, 64), (0, 0, 64, 64)), 2, axis=0))
    maps = [ops.convert_to_tensor(RNG.normal(size=(2, n, n, 8)), "float32") for n in (16, 8, 4, 2)]
    class_ids = np.array([[1, 2, 1, 0, 0], [2, 0, 0, 0, 0]], "int32")
    target = (RNG.uniform(size=(2, 5, 12, 12)) > 0.6).astype("float32")
    softmax = settings.get("softmax", False)
    head = modellib.MaskHead(6, 3, False, 8, **settings)
    with tf.GradientTape() as tape:
        masks, logits = head.with_logits(rois, maps, meta, ops.convert_to_tensor(class_ids))
        loss = modellib.LossLayer("mrcnn_mask_loss", softmax, mask_logits=True)(
            [target, class_ids, logits]
        )
    weights = [w.value for layer in head.stages for w in layer.trainable_weights]
    with tf.GradientTape() as other_tape:
        expected_masks = head(rois, maps, meta)
        expected = modellib.mrcnn_mask_loss_graph(target, class_ids, expected_masks, softmax)
    np.testing.assert_array_equal(masks, expected_masks)
    assert float(loss) == pytest.approx(float(expected), rel=2e-6)
    gradients = tape.gradient(loss, weights)
    assert len(weights) >= 6
    for found, wanted in zip(gradients, other_tape.gradient(expected, weights)):
        found, wanted = tf.convert_to_tensor(found).numpy(), tf.convert_to_tensor(wanted).numpy()
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max() + 1e-8)


def test_mask_loss_of_logits_by_hand():
    """Also where the probability is 1 or 0 in float32, which has neither this loss nor a slope."""
    import tensorflow as tf

    logits = tf.Variable([[[[0, np.log(3), -30, 100]], [[7, 7, 7, 7]]]])
    target = np.array([[[[1, 1, 1, 0]], [[0, 0, 0, 0]]]], "float32")
    class_ids = np.array([[2, 0]], "int32")
    with tf.GradientTape() as tape:
        loss = modellib.mask_logits_loss_graph(target, class_ids, logits)
    assert float(loss) == pytest.approx((np.log(2) + np.log(4 / 3) + 30 + 100) / 4)
    slopes = tape.gradient(loss, logits).numpy()[0, :, 0]
    np.testing.assert_allclose(slopes, [[-0.125, -0.0625, -0.25, 0.25], [0, 0, 0, 0]], rtol=1e-6)
    assert float(modellib.mask_logits_loss_graph(target, class_ids * 0, logits)) == 0

    pixels = tf.Variable([[[[[50.0, 0, 0], [0, 60, 60 + np.log(3)]]]]])
    target = np.array([[[[1, 1]]]], "float32")
    with tf.GradientTape() as tape:
        loss = modellib.mask_logits_loss_graph(target, class_ids[:, :1], pixels, softmax=True)
    assert float(loss) == pytest.approx((50 + np.log(4 / 3)) / 2)
    slopes = tape.gradient(loss, pixels).numpy()[0, 0, 0]
    np.testing.assert_allclose(slopes, [[0.5, 0, -0.5], [0, 0.125, -0.125]], atol=1e-5)


def test_padded_pasting():
    """A full mask of 1 by 1 in a box of 3 by 3: the pixel of 0 around it grows to the box's own
    size."""
    mask = np.ones((1, 1, 1), "float32")
    plain = utils.unmold_masks(mask, [(3, 3, 6, 6)], (9, 9))[..., 0]
    padded = utils.unmold_masks(mask, [(3, 3, 6, 6)], (9, 9), padded=True)[..., 0]
    # Corners 0 and 9, so 10 pixels for 3 cells, of which the middle one is 1: above .5 from 3.5 to
    # 6.5 less half a pixel.
    assert plain[3:6, 3:6].all() and plain.sum() == 9
    columns = np.maximum(0, 1 - abs((np.arange(9) + 0.5) * 0.3 - 1.5))
    np.testing.assert_array_equal(padded, np.outer(columns, columns) >= 0.5)


# ---- Input ---------------------------------------------------------------------------------------


def test_float_resize():
    """Sides are cut, not rounded, values are not cut, edges are repeated; padding is the mean;
    masks follow."""
    config = PaperConfig(NUM_CLASSES=2, IMAGE_MIN_DIM=33, IMAGE_MAX_DIM=65)
    image = np.zeros((8, 12, 3), np.uint8)
    image[:, :, 0] = np.arange(12) * 20
    from mrcnn import data

    molded, window, scale = data.mold_with_size(image, config)
    assert (
        scale == 33 / 8 and window == (0, 0, 33, 49) and molded.shape == (64, 64, 3)
    )  # 12 * 4.125 = 49.5
    expected = np.interp((np.arange(49) + 0.5) * 12 / 49 - 0.5, np.arange(12), np.arange(12) * 20)
    np.testing.assert_allclose(
        molded[5, :49, 0] + config.MEAN_PIXEL[0], expected, rtol=1e-4, atol=1e-3
    )
    assert not molded[33:].any() and not molded[:, 49:].any()
    masks = utils.resize_mask(
        np.ones((8, 12, 1), bool), scale, [(0, 31), (0, 15), (0, 0)], exact=True
    )
    assert masks.shape == (64, 64, 1) and masks[:33, :49].all() and masks.sum() == 33 * 49


# ---- Presets and training ------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [PaperConfig, PaperC4Config])
def test_presets_are_consistent(preset):
    config = preset(NUM_CLASSES=81)
    config.validate()
    assert (config.TRAIN_ROIS_PER_IMAGE, config.POST_NMS_ROIS_INFERENCE) == (
        (64, 300) if config.BODY == "c4" else (512, 1000)
    )
    assert config.ROI_POSITIVE_RATIO == 0.25 and config.LEARNING_RATE == 0.02
    assert Config(NUM_CLASSES=81).ROI_POOLING == "crop_and_resize"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"ROI_POOLING": "alin"}, "ROI_POOLING is one of"),
        ({"BODY": "c4"}, r"BACKBONE_STRIDES is \[16\]"),
        ({"RPN_NMS_PER_LEVEL": True}, "needs PRE_NMS_PER_LEVEL"),
        ({"FPN_NORM": "layer"}, "FPN_NORM is one of None, batch"),
        ({"ROI_ALIGN_SAMPLES": -1}, "ROI_ALIGN_SAMPLES is a whole number"),
        ({"STD_PIXEL": np.zeros(3)}, "STD_PIXEL has"),
    ],
)
def test_settings_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        Config(NUM_CLASSES=2, **change).validate()


class PaperToy(ToyConfig):
    """The paper's way throughout, at the size of a toy."""

    FLOAT_RESIZE, BOX_FRAME = True, "edges"
    ROI_POOLING, ROI_LEVEL, RPN_SCORE = "align", "floor", "sigmoid"
    PRE_NMS_PER_LEVEL = RPN_NMS_PER_LEVEL = RPN_CLIP_TO_WINDOW = DETECTION_ALL_CLASSES = True
    PRE_NMS_LIMIT_TRAINING, RPN_MIN_SIZE, DETECTION_MIN_SIZE = 100, 1.0, 1.0
    BOX_HEAD_NORM = MASK_HEAD_NORM = None
    ROI_FILL_NEGATIVES = ROI_ADD_GT = True
    ROUND_DETECTIONS, MASK_PASTE, CLASS_LOSS_ON_PADDING = False, "padded", False
    RPN_ANCHOR_ROUNDING = True


C4 = {
    "BODY": "c4",
    "BACKBONE": "resnet18",
    "BACKBONE_WIDTH": 16,
    "BACKBONE_STRIDES": [16],
    "RPN_ANCHOR_SCALES": [(8, 16, 32, 48, 64)],
    "MASK_SHAPE": [14, 14],
    "MASK_POOL_SIZE": 7,
    "MASK_HEAD_CONVS": 0,
    "PRE_NMS_PER_LEVEL": False,
    "RPN_NMS_PER_LEVEL": False,
}
VARIANTS = {
    "paper": {},
    "c4": {**C4, "BACKBONE_NORM": "frozen"},
    "c4, 14 x 14 at stride 2, RoIPool, softmax, agnostic": {
        **C4,
        "C4_HEAD_STRIDE": 2,
        "POOL_SIZE": 14,
        "MASK_POOL_SIZE": 14,
        "ROI_POOLING": "pool",
        "MASK_ACTIVATION": "softmax",
        "CLASS_AGNOSTIC_MASKS": True,
        "CLASS_AGNOSTIC_BOXES": True,
        "RPN_CONVS": 2,
    },
    "group norm, convolutional box head, mlp, max": {
        "FPN_NORM": "group",
        "BOX_HEAD_CONVS": 2,
        "BOX_HEAD_CHANNELS": 32,
        "BOX_HEAD_CONV_NORM": "group",
        "BOX_HEAD_FCS": 1,
        "MASK_HEAD": "mlp",
        "MASK_MLP_SIZE": 32,
        "ROI_ALIGN_REDUCE": "max",
        "ROI_ALIGN_ALIGNED": False,
        "RPN_NMS_PER_LEVEL": False,
    },
}


@pytest.mark.heavy
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if "RoIPool" in name else name
        for name in VARIANTS
    ],
)
def test_variants_train_and_detect(name, tmp_path):
    """Losses fall on two images; the trained weights load into inference, which detects in the
    image's pixels."""
    settings = {"OPTIMIZER": "adam", "STEPS_PER_EPOCH": 6, "VALIDATION_STEPS": 1, **VARIANTS[name]}
    dataset = Rectangles(2)
    model = modellib.MaskRCNN("training", PaperToy(**settings), tmp_path)
    history = model.train(dataset, None, 2e-3, 2, "all")
    first, last = history.history["loss"][0], history.history["loss"][-1]
    assert np.isfinite(last) and last < first
    # Every layer takes part: each trainable weight has moved from where a fresh model of that seed
    # has it.
    path = model.find_last()
    detector = modellib.MaskRCNN("inference", PaperToy(**settings), tmp_path)
    assert not detector.load_weights(path).missing
    result = detector.detect([dataset.load_image(0), np.zeros((50, 60, 3), np.uint8)])[0]
    assert result["rois"].dtype == np.float32 and len(result["scores"]) > 0
    assert result["rois"].min() >= 0 and result["rois"].max() <= 64.001
    assert result["masks"].shape == (64, 64, len(result["scores"]))
    if "c4" in name:
        assert model.keras_model.get_layer("rpn_model").output[0].shape[-1] == 2
        assert len(detector.get_anchors((64, 64, 3))) == 4 * 4 * 15
        names = [layer.name for layer in detector.keras_model.get_layer("res5_head").layers]
        assert "res5a_branch2a" in names and "fpn_p2" not in [
            layer.name for layer in detector.keras_model.layers
        ]


@pytest.mark.heavy
def test_heads_of_the_group_norm_paper_and_giou_in_every_file(tmp_path):
    """4 convolutions and 1 fully connected layer, group norm in both heads, GIoU of boxes: one step
    moves every weight, files of all kinds hold it, and one program of portable kernels detects."""
    import tensorflow as tf

    settings = {
        "BOX_HEAD_CONVS": 4,
        "BOX_HEAD_CHANNELS": 32,
        "BOX_HEAD_FCS": 1,
        "BOX_HEAD_CONV_NORM": "group",
        "BOX_HEAD_NORM": None,
        "MASK_HEAD_CONVS": 4,
        "MASK_HEAD_NORM": "group",
        "BBOX_LOSS": "giou",
        "RPN_BBOX_LOSS": "giou",
        "ROI_ADD_GT": True,  # an untrained RPN may propose no object
        "STEPS_PER_EPOCH": 1,
        "OPTIMIZER": "adam",
    }
    dataset = Rectangles(2)
    model = modellib.MaskRCNN("training", ToyConfig(**settings), tmp_path)
    network = model.keras_model
    before = {weight.path: np.array(weight) for weight in network.trainable_weights}
    history = model.train(dataset, None, 1e-3, 1, "all").history
    assert 0 < history["mrcnn_bbox_loss"][0] < 2 and 0 < history["rpn_bbox_loss"][0] < 2
    assert not [w.path for w in network.trainable_weights if (np.array(w) == before[w.path]).all()]
    names = [layer.name for layer in network.layers if layer.name.startswith("mrcnn_")]
    for name in ("mrcnn_box_conv4", "mrcnn_box_bn4", "mrcnn_class_conv1", "mrcnn_mask_bn4"):
        assert name in names
    assert "mrcnn_class_conv2" not in names and "mrcnn_class_bn1" not in names
    for name in ("mrcnn_box_bn1", "mrcnn_mask_bn1"):
        assert isinstance(network.get_layer(name).layer, modellib.GroupNorm)

    network.save(tmp_path / "whole.keras")
    whole = keras.saving.load_model(tmp_path / "whole.keras")
    logits = whole.get_layer("mrcnn_mask_logits")
    assert logits.weights == [] and logits.last is whole.get_layer("mrcnn_mask")
    for found, wanted in zip(whole.weights, network.weights, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert whole.get_layer("mrcnn_bbox_loss").giou_std_dev == [0.1, 0.1, 0.2, 0.2]

    portable = ToyConfig(**settings, FUSED_KERNELS=False, IMAGES_PER_GPU=1)
    detector = modellib.MaskRCNN("inference", portable, tmp_path)
    for path in (model.find_last(), str(tmp_path / "whole.keras")):
        for weight in detector.keras_model.weights:
            weight.assign(weight * 0)
        coverage = detector.load_weights(path)
        assert not coverage.missing and not coverage.unused
    detector.keras_model.get_layer("mrcnn_class_logits").layer.bias.assign([-9.0, 0, 0])
    image, metas, _ = detector.mold_inputs([dataset.load_image(0)])
    inputs = [image, metas, detector.get_anchors(image[0].shape)[None]]
    inputs = [ops.convert_to_tensor(x, "float32") for x in inputs]
    program = tf.function(
        lambda *x: detector.keras_model(list(x), training=False), jit_compile=True
    )
    (result,) = detector.detect([dataset.load_image(0)])
    detections, *_ = program(*inputs)
    assert len(result["scores"]) > 0
    scores = detections[0, : len(result["scores"]), 5]
    np.testing.assert_allclose(scores, result["scores"], atol=1e-4)
