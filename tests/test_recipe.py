"""The paper's recipe: schedules, weight decay, averaged weights, scale jitter, flips, test-time
augmentation."""

import types

import keras
import numpy as np
import pytest
import toy
from test_keypoints import Points, PointsConfig

from mrcnn import (
    boxes as box_math,
    data,
    inference,
    masks as mask_math,
    model as modellib,
    training,
    tta,
    weights,
)
from mrcnn.config import Config, PaperC4Config, PaperConfig

# ---- Learning rate -------------------------------------------------------------------------------


def test_the_papers_schedule():
    """.02, a thousand steps of warm-up from a thousandth, a tenth of it from 120,000 on, at 160,000
    the end."""
    config = Config(
        LEARNING_RATE_SCHEDULE="step", LEARNING_RATE_STEPS=(120_000, 160_000), WARMUP_STEPS=1000
    )
    rate = training.make_schedule(config, 0.02, 180_000)
    steps = [0, 500, 1000, 119_999, 120_000, 159_999, 160_000, 179_999]
    np.testing.assert_allclose(
        [float(rate(step)) for step in steps],
        [0.00002, 0.02 * 0.5005, 0.02, 0.02, 0.002, 0.002, 0.0002, 0.0002],
        rtol=1e-5,
    )
    copy = training.WarmupSchedule.from_config(rate.get_config())
    assert float(copy(160_000)) == float(rate(160_000))
    optimizer = training.make_optimizer(config, rate, 0.9)
    assert isinstance(optimizer, keras.optimizers.SGD) and optimizer.momentum == 0.9
    assert float(optimizer.learning_rate) == pytest.approx(0.00002)


def test_cosine_and_constant():
    rate = training.make_schedule(
        Config(LEARNING_RATE_SCHEDULE="cosine", WARMUP_STEPS=10), 1.0, 110
    )
    np.testing.assert_allclose(
        [float(rate(step)) for step in (10, 35, 60, 85, 110)],
        [1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5, 0],
        atol=1e-6,
    )
    assert training.make_schedule(Config(), 0.5, 100) == 0.5


def test_the_papers_presets():
    """16 images, 1,000 steps of warm-up to .02, a tenth from 120,000; flips; decay 1e-4 of the sum,
    kernels alone."""
    for preset in (PaperConfig, PaperC4Config):
        config = preset(NUM_CLASSES=81)
        config.validate()
        rate = training.make_schedule(config, config.LEARNING_RATE, 160_000)
        np.testing.assert_allclose(
            [float(rate(step)) for step in (1000, 119_999, 120_000)], [0.02, 0.02, 0.002], rtol=1e-5
        )
        assert (
            (
                config.HORIZONTAL_FLIP,
                config.WEIGHT_DECAY,
                config.WEIGHT_DECAY_KIND,
                config.LEARNING_MOMENTUM,
            )
            == (0.5, 1e-4, "sum", 0.9)
            and not config.WEIGHT_DECAY_ON_BIASES
            and config.OPTIMIZER == "sgd"
        )


# ---- Weight decay --------------------------------------------------------------------------------


def decay_model(**settings):
    inputs = keras.Input((2,))
    x = modellib.BatchNorm()(keras.layers.Dense(3)(inputs))
    x = keras.layers.GroupNormalization(3)(x)
    model = modellib.TrainingModel(
        inputs, [keras.ops.sum(x)], loss_names=["a_loss"], weight_decay=0.1, **settings
    )
    kernel, bias = model.layers[1].weights
    kernel.assign(np.arange(6.0).reshape(2, 3))
    bias.assign([1.0, 2, 4])
    return model


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, 0.1 * (55 / 6 + 21 / 3)),
        ({"decay_biases": False}, 0.1 * 55 / 6),
        ({"decay_kind": "sum"}, 0.05 * (55 + 21)),
        ({"decay_kind": "sum", "decay_biases": False}, 0.05 * 55),
    ],
)
def test_weight_decay_by_hand(settings, expected):
    """Kernel 0..5: squares sum to 55; bias 1, 2, 4: to 21; neither norm counts, though gamma is
    1."""
    assert float(decay_model(**settings).regularization()) == pytest.approx(expected, rel=1e-6)


def test_weight_decay_of_the_sum_is_sgds():
    """Its gradient is decay times weight, so that plain SGD shrinks a weight by rate x decay."""
    import tensorflow as tf

    model = decay_model(decay_kind="sum", decay_biases=False)
    kernel, bias = model.layers[1].weights
    with tf.GradientTape() as tape:
        loss = model.regularization()
    gradients = tape.gradient(loss, [kernel.value, bias.value])
    np.testing.assert_allclose(gradients[0], 0.1 * np.asarray(kernel), rtol=1e-6)
    assert gradients[1] is None


@pytest.mark.parametrize("momentum, nesterov", [(0.9, False), (0.9, True), (0.0, False)])
def test_sgd_is_keras_sgd(momentum, nesterov):
    """Three steps at a falling rate, of a matrix and of rows that a lookup gives a sparse gradient;
    the state too."""
    import tensorflow as tf

    rng, ends = np.random.default_rng(0), []
    start, slopes = rng.normal(size=(4, 3)), rng.normal(size=(3, 4, 3)).astype("float32")
    for kind in (keras.optimizers.SGD, training.SGD):
        rate = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
        optimizer = kind(rate, momentum=momentum, nesterov=nesterov, global_clipnorm=1.0)
        variables = [keras.Variable(start, dtype="float32") for _ in range(2)]
        for slope in slopes:
            rows = tf.IndexedSlices(
                tf.constant(slope[:2]), tf.constant([3, 1]), tf.constant([4, 3])
            )
            gradients = [tf.constant(slope), rows]
            optimizer.apply_gradients(zip(gradients, variables))
        ends.append([np.asarray(v) for v in (*variables, *optimizer.variables)])
    for expected, found in zip(*ends):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert np.abs(ends[0][0] - start).max() > 0.01
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert type(copy) is training.SGD and copy.get_config() == optimizer.get_config()


def test_adamw_leaves_norms_and_biases_out():
    optimizer = training.make_optimizer(
        Config(OPTIMIZER="adamw", WEIGHT_DECAY=0.5, LEARNING_RATE=0.1), 0.1, 0.9
    )
    dense, norm = keras.layers.Dense(2), keras.layers.BatchNormalization()
    norm(dense(np.ones((1, 2))))
    variables = [*dense.trainable_variables, *norm.trainable_variables]
    for variable in variables:
        variable.assign(np.ones(variable.shape))
    optimizer.build(variables)
    optimizer.apply_gradients(
        [(np.zeros(variable.shape, "float32"), variable) for variable in variables]
    )
    moved = {variable.name: float(np.asarray(variable).ravel()[0]) for variable in variables}
    assert moved == {"kernel": pytest.approx(0.95), "bias": 1.0, "gamma": 1.0, "beta": 1.0}


# ---- Averaged weights ----------------------------------------------------------------------------


def test_averages_by_hand():
    """Rate 1, gradient -1: the weight is 1, 2, 3 after each step; its average 1, 1.5, 2.25 with a
    momentum of .5."""
    optimizer = training.make_optimizer(Config(EMA_MOMENTUM=0.5), 1.0, 0.0)
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((1,)), layer])
    model.compile(optimizer, loss="mse")
    optimizer.build(model.trainable_variables)
    for weight, average in ((1, 1), (2, 1.5), (3, 2.25)):
        optimizer.apply_gradients([(-np.ones((1, 1), "float32"), layer.kernel)])
        with training.averaged(model):
            assert float(layer.kernel[0, 0]) == average
        assert float(layer.kernel[0, 0]) == weight


@pytest.mark.heavy
def test_the_averages_are_what_is_saved_and_left(tmp_path):
    """The checkpoint, the model after `train` and the validation have the averages; a resumed run
    ends alike."""
    config = toy.ToyConfig(EMA_MOMENTUM=0.9, STEPS_PER_EPOCH=2, CHECK_IMAGES=0)
    dataset, seen = toy.Rectangles(4), []
    model = modellib.MaskRCNN("training", config, tmp_path)
    kernel = model.keras_model.get_layer("fpn_p2").kernel
    at_end = keras.callbacks.LambdaCallback(
        on_test_batch_end=lambda *_, **__: seen.append(np.array(kernel)),
        on_epoch_end=lambda *_, **__: seen.append(np.array(kernel)),
    )
    model.train(dataset, dataset, 0.05, 1, "heads", custom_callbacks=[at_end])
    in_validation, latest = seen
    average = np.array(
        model.keras_model.optimizer._model_variables_moving_average[
            [v.path for v in model.keras_model.optimizer._trainable_variables].index(kernel.path)
        ]
    )
    assert not np.array_equal(in_validation, latest)
    np.testing.assert_array_equal(in_validation, average)
    np.testing.assert_array_equal(np.array(kernel), average)
    checkpoint = model.find_last()
    kernel.assign(0 * latest)
    weights.load(model.keras_model, checkpoint)
    np.testing.assert_array_equal(np.array(kernel), average)
    # What resuming starts from is the latest weight.
    weights.load(model.keras_model, checkpoint.replace("_0001.h5", "_resume.h5"))
    np.testing.assert_array_equal(np.array(kernel), latest)


# ---- Jitter and flips ----------------------------------------------------------------------------


@pytest.mark.long
def test_scale_jitter_and_flips():
    """Each choice comes with the same share; boxes follow; batches of different sizes are padded to
    the largest."""
    dataset = Points(2, shape=(48, 64, 3))
    config = PointsConfig(
        IMAGE_RESIZE_MODE="shorter",
        IMAGE_MIN_DIM=96,
        IMAGE_MAX_DIM=200,
        HORIZONTAL_FLIP=0.5,
        IMAGE_MIN_DIM_CHOICES=(48, 96, 144),
    )
    config.validate()
    found = {}
    for seed in range(300):
        image, meta, _, boxes, _, points = data.load_image_gt(
            dataset, config, 0, rng=np.random.default_rng(seed), jitter=True
        )
        scale = meta[11]
        mirrored = bool(points[0, 0, 1] / scale != 6)
        found[scale, mirrored] = found.get((scale, mirrored), 0) + 1
        y1, x1, y2, x2 = (24, 64 - 40, 34, 64 - 6) if mirrored else (8, 6, 34, 40)
        assert abs(boxes[0, 1] - x1 * scale) <= 1 and abs(boxes[0, 3] - x2 * scale) <= 1
        # The top left corner has its name in the mirror image too.
        assert points[0, 0].tolist() == [8 * scale, (x1 if not mirrored else x1) * scale, 2]
        assert tuple(meta[7:11]) == (0, 0, 48 * scale, 64 * scale)
    assert sorted(found) == [(s, m) for s in (1, 2, 3) for m in (False, True)]
    assert all(30 <= count <= 70 for count in found.values())
    batches = data.TrainingBatches(dataset, config, seed=0, jitter=True)
    shapes = set()
    for step in range(6):
        images, metas = batches.batch(step)[0][:2]
        largest = metas[:, 9:11].max(axis=0)
        assert images.shape[1:3] == tuple(-(-largest // 32).astype(int) * 32)
        assert (metas[:, 4:6] == images.shape[1:3]).all()
        shapes.add(images.shape[1])
        for image, meta in zip(images, metas):
            np.testing.assert_allclose(
                image[int(meta[9]) :, :],
                np.broadcast_to(-config.MEAN_PIXEL, image[int(meta[9]) :].shape),
                rtol=1e-6,
            )
    assert len(shapes) > 1
    # Neither validation nor images of a source that is not augmented are touched.
    plain = data.TrainingBatches(dataset, config, seed=0)
    none = data.TrainingBatches(
        dataset, config, seed=0, jitter=True, no_augmentation_sources=["toy"]
    )
    for step in range(3):
        assert (plain.batch(step)[0][1][:, 11] == 2).all() and (
            none.batch(step)[0][1][:, 11] == 2
        ).all()


def test_defaults_draw_nothing():
    """The order of draws of earlier versions stays: with the defaults the same examples, jitter or
    not."""
    dataset, config = toy.Rectangles(4), toy.ToyConfig()
    for a, b in zip(
        data.TrainingBatches(dataset, config, seed=1).batch(1)[0],
        data.TrainingBatches(dataset, config, seed=1, jitter=True).batch(1)[0],
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "settings, part",
    [
        (dict(LEARNING_RATE_SCHEDULE="step"), "needs LEARNING_RATE_STEPS"),
        (dict(LEARNING_RATE_STEPS=(9, 3)), r"rising numbers.*Received: \(9, 3\)"),
        (dict(EMA_MOMENTUM=1.0), "EMA_MOMENTUM lies in"),
        (dict(EMA_MOMENTUM=0.9, OPTIMIZER=len), "takes `use_ema` itself"),
        (dict(WEIGHT_DECAY_KIND="l2"), "one of mean, sum"),
        (dict(HORIZONTAL_FLIP=2), "HORIZONTAL_FLIP lies"),
        (dict(IMAGE_MIN_DIM_CHOICES=(640, 2000)), "at most IMAGE_MAX_DIM = 1024"),
        (dict(TEST_SCALES=(100,), IMAGE_RESIZE_MODE="none"), "needs an IMAGE_RESIZE_MODE"),
        (dict(IMAGE_MIN_DIM_CHOICES=(0.5,)), "whole numbers of pixels"),
        (
            dict(IMAGE_MIN_DIM=640, IMAGE_MIN_DIM_CHOICES=(650,), IMAGE_RESIZE_MODE="pad64"),
            "divide by 64",
        ),
    ],
    ids=str,
)
def test_cross_checks(settings, part):
    with pytest.raises(ValueError, match=part):
        Config(**settings).validate()


# ---- Test-time augmentation ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    model = modellib.MaskRCNN(
        "inference", PointsConfig(DETECTION_NMS_THRESHOLD=0.3), tmp_path_factory.mktemp("logs")
    )
    model.keras_model.get_layer("mrcnn_class_logits").layer.bias.assign([-9.0, 0, 0])
    return model


def same(a, b, atol=1e-3):
    np.testing.assert_array_equal(a["rois"], b["rois"])
    np.testing.assert_array_equal(a["class_ids"], b["class_ids"])
    np.testing.assert_allclose(a["scores"], b["scores"], atol=1e-5)
    assert (a["masks"] != b["masks"]).mean() < 1e-3
    np.testing.assert_allclose(a["keypoints"], b["keypoints"], atol=atol)


@pytest.mark.long
def test_one_plain_view_is_detect_itself(detector):
    image = Points(1, shape=(60, 80, 3)).load_image(0)
    (plain,) = detector.detect([image])
    (view,) = tta.detect(detector, [image])
    assert len(plain["rois"]) > 2
    same(plain, view)


def test_flips_make_the_mirror_image_equal(detector):
    """With both views the result of a mirrored image is the mirrored result, left and right
    exchanged."""
    rng = np.random.default_rng(0)
    image = np.repeat(np.repeat(rng.integers(0, 255, (16, 16, 3), np.uint8), 4, 0), 4, 1)
    detector.config.TEST_FLIP = True
    try:
        (a,) = detector.detect([image])
        (b,) = detector.detect([np.ascontiguousarray(image[:, ::-1])])
    finally:
        detector.config.TEST_FLIP = False
    assert len(a["rois"]) > 2
    pairs = [
        (i, int(np.argmin(np.abs(b["rois"] - [y1, 64 - x2, y2, 64 - x1]).sum(axis=1))))
        for i, (y1, x1, y2, x2) in enumerate(a["rois"])
    ]
    for i, j in pairs[:3]:
        y1, x1, y2, x2 = a["rois"][i]
        np.testing.assert_allclose(b["rois"][j], [y1, 64 - x2, y2, 64 - x1], atol=1)
        assert a["scores"][i] == pytest.approx(b["scores"][j], abs=1e-5)
        assert (a["masks"][:, ::-1, i] != b["masks"][..., j]).mean() < 0.03
        swapped = a["keypoints"][i][[1, 0, 3, 2]]
        np.testing.assert_allclose(b["keypoints"][j][:, 2], swapped[:, 2], atol=1e-3)


def test_views_of_several_scales(detector):
    """Boxes of every scale lie in the image's own pixels; the longer edge's bound grows with the
    shorter's."""
    image = Points(1).load_image(0)
    _, _, window = inference.mold(image, detector.config, "", 128)
    assert window == (0, 0, 128, 128)
    view = tta._look(detector.detector, image, "", 128, tta.Turn(flip_x=True))
    boxes = np.array([[0.1, 0.2, 0.4, 0.8], [0, 0, 1, 1]])
    np.testing.assert_allclose(view.to_image(view.from_image(boxes)), boxes, atol=1e-12)
    np.testing.assert_allclose(
        view.from_image(boxes), [[0.1, 0.2, 0.4, 0.8], [0, 0, 1, 1]], atol=1e-12
    )
    assert view.from_image(np.array([[0.1, 0.2, 0.4, 0.7]]))[0] == pytest.approx(
        [0.1, 0.3, 0.4, 0.8]
    )
    detector.config.TEST_SCALES = (64, 128)
    try:
        (result,) = detector.detect([image])
    finally:
        detector.config.TEST_SCALES = ()
    assert (
        0 < len(result["rois"]) <= 10
        and result["rois"].max() <= 64
        and (np.diff(result["scores"]) <= 0).all()
    )


def test_the_eight_turns():
    """All there are; boxes and maps go with the image and come back; which change left and
    right."""
    image = np.arange(15).reshape(3, 5)
    turns = tta.turns_of("turns")
    turned = [np.rot90(image, k) for k in range(4)]
    mirrored = [np.rot90(image[:, ::-1], k) for k in range(4)]
    found = {str(turn.of_image(image)): turn for turn in turns}
    assert set(found) == {str(each) for each in turned + mirrored}
    assert {str(each) for each in mirrored} == {t for t, turn in found.items() if turn.mirrors}
    box = np.array([[0, 1 / 5, 2 / 3, 1 / 5 * 4]])
    for turn in turns:
        view = turn.of_image(image)
        y1, x1, y2, x2 = np.around(turn.boxes_to_view(box)[0] * np.tile(view.shape, 2)).astype(int)
        assert set(view[y1:y2, x1:x2].ravel()) == {1, 2, 3, 6, 7, 8}
        np.testing.assert_allclose(turn.boxes_to_image(turn.boxes_to_view(box)), box)
        maps = np.stack([view, view + 1])
        np.testing.assert_array_equal(turn.maps_to_image(maps), np.stack([image, image + 1]))
    for setting, count in ((False, 1), (True, 2), ("both", 4), ("turns", 8)):
        assert tta.turns_of(setting)[0] == tta.Turn()
        assert len(set(tta.turns_of(setting))) == count
    assert tta.turns_of(True)[1].of_image(image)[0].tolist() == [4, 3, 2, 1, 0]
    assert not any(turn.transpose for turn in tta.turns_of("both"))


class BlocksDetector(inference.Detector):
    """Finds blocks of one colour, of two classes, and says of each which pixels are marked."""

    def infer_boxes(self, images, metas, anchors):
        (image,) = images
        colours = np.rint(image[..., 0] * 256 + image[..., 2]).astype(int)
        rows = []
        for colour in np.unique(colours[colours > 0]):
            box = box_math.extract_bboxes((colours == colour)[..., None])
            box = box_math.norm_boxes(box, image.shape, self.config.BOX_FRAME)[0]
            rows.append([*box, 1 + colour % 2, 1 - colour / 1e4])
        return np.array([rows], np.float32), [image[..., 1]], metas

    def infer_head(self, name, boxes, metas, maps, class_ids=None):
        assert boxes.shape[1] <= inference.HEAD_GROUP
        (marked,) = maps
        masks = []
        for box in boxes[0]:
            y1, x1, y2, x2 = box_math.denorm_boxes(box, marked.shape, self.config.BOX_FRAME)
            rows = np.floor(y1 + (np.arange(28) + 0.5) * (y2 - y1) / 28).astype(int)
            columns = np.floor(x1 + (np.arange(28) + 0.5) * (x2 - x1) / 28).astype(int)
            masks.append(marked[np.ix_(rows, columns)])
        return np.array([masks], np.float32)


def blocks():
    """An image of 161 x 147 with 400 blocks, each but its upper right quarter marked, and what they
    are: boxes, class ids and masks, best first."""
    image = np.zeros((161, 147, 3), np.uint8)
    boxes, class_ids, masks = [], [], []
    for row in range(20):
        for column in range(20):
            y, x = 8 * row + 1, 7 * column + 1
            height, width = 4 + row % 4, 4 + column % 3
            image[y : y + height, x : x + width] = (row, 0, column + 1)
            mask = np.zeros((161, 147), bool)
            mask[y : y + height, x : x + width] = True
            mask[y : y + height // 2, x + width // 2 : x + width] = False
            image[mask, 1] = 1
            boxes.append((y, x, y + height, x + width))
            class_ids.append(1 + (row * 256 + column + 1) % 2)
            masks.append(mask)
    return image, np.array(boxes), np.array(class_ids), np.stack(masks, axis=-1)


def test_views_vote_on_boxes_and_scores():
    """The mean of the views' boxes by their scores; a view without the object counts 0."""
    boxes = np.array(
        [
            [0.0, 0.0, 0.4, 0.4],  # the object, as the first view has it
            [0.5, 0.5, 0.9, 0.9],  # seen by the first view alone
            [0.0, 0.0, 0.4, 0.5],  # the object, as the second has it
            [0.0, 0.0, 0.4, 0.4],  # of another class
        ]
    )
    rows = np.array([[1, 0.9], [1, 0.8], [1, 0.3], [2, 0.6]], np.float32)
    voted, result = tta._vote(boxes, rows, np.array([0, 0, 1, 1]), np.array([0, 1, 3]), 2, 0.5)
    np.testing.assert_allclose(voted, [[0, 0, 0.4, 0.425], boxes[1], boxes[3]], atol=1e-6)
    np.testing.assert_allclose(result, [[1, 0.6], [1, 0.4], [2, 0.3]], atol=1e-6)
    # An IoU of .8 is not enough for .9: a box has its own view's vote alone.
    voted, result = tta._vote(boxes, rows, np.array([0, 0, 1, 1]), np.array([0]), 2, 0.9)
    np.testing.assert_allclose(voted, boxes[:1])
    np.testing.assert_allclose(result, [[1, 0.45]])
    none = tta._vote(boxes[:0], rows[:0], np.zeros(0, int), np.zeros(0, int), 2, 0.5)
    assert none[0].shape == (0, 4) and none[1].shape == (0, 2)


def test_views_vote_from_half_of_the_least_confidence_on():
    """An object of which one view is surer than the limit and the other less so is found."""
    settings = {"NUM_CLASSES": 2, "DETECTION_MIN_CONFIDENCE": 0.5}
    for flip, vote, expected in ((True, 0.5, 0.25), (True, None, 0.5), (False, 0.5, 0.5)):
        config = Config(TEST_FLIP=flip, TEST_BOX_VOTE=vote, **settings)
        layer = modellib.DetectionLayer.of(config)
        assert layer.get_config()["min_confidence"] == expected


def test_a_voted_score_below_the_least_is_none(detector, monkeypatch):
    image = Points(1, shape=(60, 80, 3)).load_image(0)
    monkeypatch.setattr(detector.config, "TEST_FLIP", True)
    (pooled,) = detector.detect([image])
    monkeypatch.setattr(detector.config, "TEST_BOX_VOTE", 0.5)
    (voted,) = detector.detect([image])
    assert voted["scores"].max() <= pooled["scores"].max() and np.all(np.diff(voted["scores"]) <= 0)
    least = np.sort(voted["scores"])[len(voted["scores"]) // 2]
    monkeypatch.setattr(detector.config, "DETECTION_MIN_CONFIDENCE", float(least))
    (sure,) = detector.detect([image])
    assert 0 < len(sure["scores"]) <= len(voted["scores"]) and sure["scores"].min() >= least


@pytest.mark.long
@pytest.mark.parametrize(
    "flip, views, frame, form, vote",
    [
        (False, 1, "centers", "rle", None),
        (True, 2, "centers", "lazy", None),
        ("both", 4, "centers", "dense", 0.5),
        ("turns", 8, "centers", "rle", None),
        ("turns", 8, "edges", "lazy", 0.5),
    ],
)
def test_views_of_many_objects_on_an_image_of_odd_sides(flip, views, frame, form, vote):
    """A network that sees every view alike gives the same 400 objects, in every form of masks."""
    config = Config(
        NUM_CLASSES=3,
        IMAGE_MIN_DIM=64,
        IMAGE_MAX_DIM=192,
        MEAN_PIXEL=np.zeros(3),
        DETECTION_MAX_INSTANCES=400,
        DETECTION_MIN_CONFIDENCE=0,
        TEST_FLIP=flip,
        TEST_BOX_VOTE=vote,
        BOX_FRAME=frame,
    )
    config.validate()
    network = types.SimpleNamespace(sub_models={"masks": None})
    shapes = []
    detector = BlocksDetector(network, config, lambda shape: shapes.append(shape))
    model = types.SimpleNamespace(detector=detector)
    image, boxes, class_ids, masks = blocks()
    (result,) = tta.detect(model, [image], form)
    assert len(shapes) == views
    np.testing.assert_array_equal(result["rois"], boxes)
    np.testing.assert_array_equal(result["class_ids"], class_ids)
    found = result["masks"]
    if form == "rle":
        found = mask_math.decode_rle(found, 161, 147)
    np.testing.assert_array_equal(np.asarray(found), masks)


def test_detect_many_has_the_same_views(detector, monkeypatch):
    image = Points(1, shape=(60, 80, 3)).load_image(0)
    monkeypatch.setattr(detector.config, "TEST_FLIP", True)
    (view,) = detector.detect_many([image])
    (expected,) = detector.detect([image])
    same(expected, view)
    with pytest.raises(ValueError, match="takes a list of images"):
        detector.detect_many("a.png")
    with pytest.raises(ValueError, match=r"image 1 \(b.png\) is None"):
        list(detector.detect_many(["a.png", "b.png"], {"a.png": image, "b.png": None}.get))


def test_flips_by_name():
    config = Config(NUM_CLASSES=2)
    for text, value in (("both", "both"), ("turns", "turns"), ("False", False), ("True", True)):
        config.override([f"TEST_FLIP={text}"])
        config.validate()
        assert config.TEST_FLIP == value
    with pytest.raises(ValueError, match="TEST_FLIP is False, True, both or turns.*'up'"):
        Config(NUM_CLASSES=2, TEST_FLIP="up").validate()
    with pytest.raises(ValueError, match="BBOX_LOSS is one of smooth_l1, giou. Received: 'l1'"):
        Config(NUM_CLASSES=2, BBOX_LOSS="l1").validate()
