"""Examples, targets and batches; each thing that the original did wrong is named by its number in
the README of the recordings."""

import concurrent.futures
import copy
import logging
import warnings

import numpy as np
import oracle
import pytest
from toy import Rectangles, ToyConfig

from mrcnn import data, utils
from mrcnn.config import Config
from mrcnn.masks import LabelMaps


def recorded_args(name):
    cases, arrays = oracle.load("pure_nophoto")
    return cases[name], arrays, oracle.arguments(cases[name], arrays)[0]


@pytest.mark.parametrize("kind", ["rand", "few"])
@pytest.mark.parametrize("seed", [70, 71, 72])
def test_rpn_targets_that_depend_on_a_draw(kind, seed):
    """Counts as recorded, and drawn from the matches without a limit."""
    case, arrays, (shape, anchors, ids, boxes, config) = recorded_args(f"rpn_targets_{kind}_{seed}")
    match, deltas = data.build_rpn_targets(
        shape, anchors, ids, boxes, config, rng=np.random.default_rng(0)
    )
    old = arrays[case["outs"][0]]
    for value in (1, -1):
        assert (match == value).sum() == (old == value).sum()
    config.RPN_TRAIN_ANCHORS_PER_IMAGE = 8192
    everything, all_deltas = data.build_rpn_targets(shape, anchors, ids, boxes, config)
    assert (match[match != 0] == everything[match != 0]).all()
    rank = np.cumsum(everything == 1) - 1
    rows = np.flatnonzero(match == 1)
    np.testing.assert_allclose(deltas[: len(rows)], all_deltas[rank[rows]])
    assert not deltas[len(rows) :].any()


def test_rpn_targets_of_an_object_that_touches_no_anchor():
    """rpn_targets_outside (3): it makes no anchor positive; the others are as without it."""
    _, _, (shape, anchors, ids, boxes, config) = recorded_args("rpn_targets_outside")
    iou = utils.compute_overlaps(anchors.astype(float), boxes.astype(float))
    assert (iou.max(axis=0) == 0).any()
    match, _ = data.build_rpn_targets(shape, anchors, ids, boxes, config)
    inside = iou.max(axis=0) > 0
    without, _ = data.build_rpn_targets(shape, anchors, ids[inside], boxes[inside], config)
    np.testing.assert_array_equal(match, without)


def test_rpn_targets_with_crowds_alone_and_with_nothing():
    """rpn_targets_all_crowd (3): no positive; near the crowd nothing is negative."""
    _, _, (shape, anchors, ids, boxes, config) = recorded_args("rpn_targets_all_crowd")
    config.RPN_TRAIN_ANCHORS_PER_IMAGE = 8192
    match, deltas = data.build_rpn_targets(shape, anchors, ids, boxes, config)
    crowd = utils.compute_overlaps(anchors.astype(float), boxes.astype(float)).max(axis=1) >= 0.001
    assert (ids < 0).all() and crowd.any() and not (match == 1).any() and not deltas.any()
    np.testing.assert_array_equal(match == -1, ~crowd)
    match, _ = data.build_rpn_targets(shape, anchors, ids[:0], boxes[:0], config)
    assert (match == -1).all()


def test_rpn_targets_of_detectron2s_matches():
    """Below .3 negative, from .7 positive, between neutral, an object's best anchor always
    positive."""
    config = ToyConfig(RPN_TRAIN_ANCHORS_PER_IMAGE=100)
    box = np.array([[0, 0, 10, 10]])
    anchors = np.array([[0, 0, 10, 8.0], [0, 0, 10, 5], [0, 0, 10, 2], [0, 0, 10, 6.9]])
    assert data.build_rpn_targets(None, anchors, [1], box, config)[0].tolist() == [1, 0, -1, 0]
    assert data.build_rpn_targets(None, anchors[1:], [1], box, config)[0].tolist() == [0, -1, 1]
    tied = np.array([[0, 0, 10, 5.0], [0, 5, 10, 10]])
    assert data.build_rpn_targets(None, tied, [1], box, config)[0].tolist() == [1, 1]


@pytest.mark.parametrize(
    "available, taken",
    [
        ((100, 100), (100, 100)),
        ((200, 100), (128, 100)),
        ((100, 200), (100, 156)),
        ((200, 200), (128, 128)),
    ],
)
def test_counts_of_sampled_anchors(available, taken):
    anchors = np.array([[0, 0, 10, 10.0]] * available[0] + [[50, 50, 60, 60.0]] * available[1])
    config = ToyConfig(RPN_TRAIN_ANCHORS_PER_IMAGE=256)
    match, _ = data.build_rpn_targets(None, anchors, [1], np.array([[0, 0, 10, 10]]), config)
    assert ((match == 1).sum(), (match == -1).sum()) == taken


@pytest.mark.parametrize("name", ["detection_targets_np", "detection_targets_np_mini"])
def test_detection_targets_follow_the_layers_rule(name):
    """(13): exactly .5 is positive, int(P / ratio) - P negatives, rounded masks; positives as
    recorded."""
    case, arrays, args = recorded_args(name)
    rois, ids, deltas, masks = data.build_detection_targets(*args, rng=np.random.default_rng(0))
    old_rois, old_ids, old_deltas, _ = (arrays[key] for key in case["outs"])
    positive = int((ids > 0).sum())
    config = args[-1]
    assert 0 < positive <= int(config.TRAIN_ROIS_PER_IMAGE * config.ROI_POSITIVE_RATIO)
    assert rois.any(axis=1).sum() <= int(positive / config.ROI_POSITIVE_RATIO)
    assert (
        set(np.unique(masks)) <= {0.0, 1.0}
        and not ids[positive:].any()
        and not deltas[positive:].any()
    )
    compared = 0
    for i in range(positive):
        for j in np.flatnonzero((old_rois == rois[i]).all(axis=1) & (old_ids > 0)):
            np.testing.assert_allclose(
                deltas[i, ids[i]], old_deltas[j, old_ids[j]], rtol=1e-4, atol=1e-5
            )
            compared += 1
    assert compared


def test_random_rois():
    case, arrays, args = recorded_args("random_rois")
    rois = data.generate_random_rois(*args, rng=np.random.default_rng(0))
    (height, width), boxes = args[0][:2], args[3]
    assert rois.shape == arrays[case["outs"][0]].shape and rois.dtype == np.int32
    assert (
        (rois[:, :2] >= 0).all()
        and (rois[:, 2:] <= [height, width]).all()
        and (rois[:, :2] < rois[:, 2:]).all()
    )
    y1, x1, y2, x2 = boxes[0]
    per_box = int(0.9 * 200 / len(boxes))
    near = rois[:per_box]
    assert (near[:, 0] >= max(y1 - (y2 - y1), 0)).all() and (
        near[:, 3] <= min(x2 + x2 - x1, width)
    ).all()


# ---- Batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "data_generator_plain",
        "data_generator_noshuffle",
        "data_generator_rois",
        "data_generator_targets",
        "data_generator_maxgt",
    ],
)
def test_generator_yields_what_was_recorded(name):
    """Number, shapes and dtypes of the arrays; the values depend on draws. The metas are floats
    (2)."""
    cases, arrays = oracle.load("pure_nophoto")
    result = oracle.run(cases[name], arrays)
    for key, value in oracle.outputs(cases[name], result):
        assert value.shape == arrays[key].shape, key
        meta = key.endswith(("out0.0.1", "out1.0.1"))
        assert value.dtype == (np.float64 if meta else arrays[key].dtype), key
    if name == "data_generator_noshuffle":
        for key in ("out0.0.0", "out0.0.4", "out0.0.5", "out0.0.6"):
            step = [value for k, value in oracle.outputs(cases[name], result) if k.endswith(key)][0]
            np.testing.assert_allclose(step, arrays[f"{name}/{key}"], rtol=1e-5)


def test_scale_is_not_cut_to_an_integer():
    """data_generator_meta_dtype (2): the first image's scale is whole, the second's is not."""
    dataset = Rectangles(2)
    dataset.image_info[1]["shape"] = (100, 80, 3)
    metas = data.TrainingBatches(dataset, ToyConfig(), shuffle=False).batch(0)[0][1]
    assert metas[0, 11] == 1 and metas[1, 11] == 0.64


@pytest.mark.parametrize("shuffle", [False, True])
def test_each_image_once_in_a_pass(shuffle):
    """(16) Also where the batch does not divide the number of images."""
    batches = data.TrainingBatches(Rectangles(5), ToyConfig(), shuffle=shuffle, seed=1)
    ids = np.concatenate([batches.image_ids(step) for step in range(5)]).reshape(2, 5)
    assert (np.sort(ids, axis=1) == np.arange(5)).all()
    assert (ids == np.arange(5)).all() != shuffle


def test_repeat_factor_of_rare_images():
    """An epoch has an image as often as its repeat_factor says, over two machines too."""
    dataset = Rectangles(4)
    dataset.image_info[2]["repeat_factor"] = 3
    batches = data.TrainingBatches(dataset, ToyConfig(), shuffle=True, seed=1)
    assert batches.batch_size == 2 and len(batches) == 3
    for epoch in range(2):
        ids = np.concatenate([batches.image_ids(3 * epoch + step) for step in range(3)])
        assert np.bincount(ids).tolist() == [1, 1, 3, 1], epoch
    shares = [data.TrainingBatches(dataset, ToyConfig(), share=(i, 2)) for i in range(2)]
    ids = np.concatenate([share.image_ids(step) for step in range(3) for share in shares])
    assert np.bincount(ids).tolist() == [2, 2, 6, 2]
    evaluated = data.TrainingBatches(Rectangles(4), ToyConfig(), shuffle=False)
    assert len(evaluated) == 2  # what has no factor is there once
    validation = data.TrainingBatches(dataset, ToyConfig(), repeats=False)
    ids = np.concatenate([validation.image_ids(step) for step in range(2)])
    assert np.bincount(ids).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("factor", [0, -1, 1.5, True, "2", None])
def test_repeat_factor_is_a_whole_number(factor):
    dataset = Rectangles(2)
    dataset.image_info[1]["repeat_factor"] = factor
    with pytest.raises(data.DatasetError, match=r"repeat_factor .* from 1 on. Received: .* image"):
        data.TrainingBatches(dataset, ToyConfig())


def test_threads_don_t_share_a_random_state():
    """(17) Each example has draws of its own, the same in any order and number of threads."""

    def noise(image, masks):
        return image, masks

    batches = data.TrainingBatches(
        Rectangles(4), ToyConfig(IMAGE_RESIZE_MODE="square"), augmentation=noise, seed=2
    )
    serial = [batches.batch(step)[0] for step in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        parallel = list(pool.map(lambda step: batches.batch(step)[0], [3, 2, 1, 0]))[::-1]
    for a, b in zip(serial, parallel):
        for x, y in zip(a, b):
            np.testing.assert_array_equal(x, y)
    again = data.TrainingBatches(Rectangles(4), ToyConfig(), seed=3).batch(0)[0]
    assert any(not np.array_equal(x, y) for x, y in zip(serial[0], again))


def test_images_of_different_sizes_share_a_batch():
    """Padded on the right and below, with the mean like all padding; anchors fit the common
    shape."""
    dataset = Rectangles(2, (64, 64, 3))
    dataset.image_info[1]["shape"] = (128, 64, 3)
    config = ToyConfig(IMAGE_RESIZE_MODE="none", USE_MINI_MASK=False)
    images, metas, match, _, ids, boxes, masks = data.TrainingBatches(
        dataset, config, shuffle=False
    ).batch(0)[0]
    assert images.shape == (2, 128, 64, 3) and masks.shape == (2, 128, 64, 5)
    np.testing.assert_allclose(
        images[0, 64:], np.broadcast_to(-config.MEAN_PIXEL, (64, 64, 3)), rtol=1e-5
    )
    assert metas[0, 4:7].tolist() == [128, 64, 3] and match.shape[1] == 3 * (
        32 * 16 + 16 * 8 + 8 * 4 + 4 * 2 + 2
    )
    image, _, _, alone, mask = data.load_image_gt(dataset, config, 0)
    np.testing.assert_array_equal(boxes[0, : len(alone)], alone)
    np.testing.assert_array_equal(masks[0, :64, :, : len(alone)], mask)


def test_images_without_objects_stay():
    """(3, 14)"""
    inputs = data.TrainingBatches(
        Rectangles(3, empty=True), ToyConfig(IMAGES_PER_GPU=3), shuffle=False
    ).batch(0)[0]
    assert not inputs[4][2].any() and (inputs[2][2] <= 0).all() and (inputs[2][2] == -1).any()


def test_too_many_objects_are_said_once(caplog):
    """(11)"""
    batches = data.TrainingBatches(Rectangles(4), ToyConfig(MAX_GT_INSTANCES=1), shuffle=False)
    with caplog.at_level(logging.WARNING, "mrcnn.data"):
        ids = [batches.batch(step)[0][4] for step in (0, 1)]
    assert np.shape(ids) == (2, 2, 1) and np.all(ids)
    assert caplog.text.count("MAX_GT_INSTANCES") == 1 and "toy/1.png" in caplog.text


class Wrong(Rectangles):
    def load_mask(self, image_id):
        masks, ids = super().load_mask(image_id)
        return self.change(masks, ids)


@pytest.mark.parametrize(
    "change, part",
    [
        (lambda m, i: (m, i + 0.5), r"whole numbers. Received: \[1.5\]"),
        (lambda m, i: (m, i[:-1]), "1 masks and 0 class ids"),
        (lambda m, i: (m[..., 0], i), r"\(64, 64\)"),
        (lambda m, i: (m, i * 0), r"Received: \[0\]"),
        (lambda m, i: (m, i * 0 + 3), r"1..2 .*Received: \[3\]"),
        (lambda m, i: (m, i * 0 - 3), r"1..2 .*Received: \[-3\]"),
        (lambda m, i: (m, np.array([2**40])), r"1..2 .*Received: \[1099511627776\]"),
        (lambda m, i: (m, [float("nan")]), r"whole numbers. Received: \[nan\]"),
        (lambda m, i: (m, [{"id": 1}]), r"one whole number.*Received: \[{'id': 1}\]"),
        (lambda m, i: (m, {"id": 1}), r"one whole number.*Received: {'id': 1}"),
        (lambda m, i: (m, ["bright"]), r"\['bright'\].*place in dataset.class_names"),
        (lambda m, i: (m, ["1"]), r"one whole number.*Received: \['1'\]"),
        (lambda m, i: (m, [None]), r"one whole number.*Received: \[None\]"),
        (lambda m, i: (m, None), "1 masks and 0 class ids"),
        (lambda m, i: (m, 1), r"one whole number.*Received: 1 for.*\[class_id\]"),
        (lambda m, i: (m, i[:, None]), r"Received: \[\[1\]\].*class_ids.ravel\(\)"),
        (lambda m, i: (m, i[None]), r"class_ids.ravel\(\)"),
        (lambda m, i: (m, [[1], [1, 2]]), "class ids are one array"),
        (lambda m, i: (np.moveaxis(m, -1, 0), i), r"\(1, 64, 64\).*the objects come last"),
        (lambda m, i: ([m[..., 0]], i), "the objects come last"),
        (lambda m, i: ([m[..., 0], m[:9, :, 0]], [1, 1]), "masks are one array"),
        (lambda m, i: (m[:, :32], i), r"\(64, 64\). Received: \(64, 32, 1\)"),
        (lambda m, i: (m[None], i), r"Received: \(1, 64, 64, 1\)"),
        (lambda m, i: (i, m), "masks first, then the class ids"),
        (lambda m, i: (m.astype(float) * np.nan, i), "0 and 1. Received: values such as nan"),
        (lambda m, i: (m - 0.5, i), "0 and 1. Received: values such as -0.5"),
        (lambda m, i: (m.astype(str), i), "masks are bool or 0 and 1"),
        (lambda m, i: (None, i), r"\[height, width, objects\]"),
        (lambda m, i: (m, i, i), r"load_mask returns masks.*a tuple of 3"),
        (lambda m, i: m, r"load_mask returns masks.*an array of shape \(64, 64, 1\)"),
        (lambda m, i: None, "load_mask returns masks.*None"),
        (lambda m, i: {}["x"], "the masks of .* can't be read: KeyError: 'x'"),
    ],
)
def test_bad_masks_name_the_image(change, part):
    """(12)"""
    dataset = Wrong(1)
    dataset.change = change
    with pytest.raises(data.DatasetError, match=part) as error:
        data.load_image_gt(dataset, ToyConfig(), 0)
    assert "image 0 (toy/0.png)" in str(error.value)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        batches = data.TrainingBatches(dataset, ToyConfig())
        with pytest.raises(data.DatasetError, match=part):
            list(pool.map(batches.batch, range(4)))


@pytest.mark.parametrize(
    "change",
    [
        lambda m, i: (m.astype(np.uint8) * 255, i.astype(np.uint8)),
        lambda m, i: (m.astype(float), i.astype(float)),
        lambda m, i: (m.tolist(), i.tolist()),
        lambda m, i: [m, tuple(i)],
        lambda m, i: (np.asfortranarray(m), i.astype(np.int64)),
    ],
)
@pytest.mark.parametrize("image_id", [0, 1])
def test_masks_and_class_ids_of_other_kinds_are_the_same(change, image_id):
    dataset = Wrong()
    dataset.change = change
    expected = data.load_image_gt(Rectangles(), ToyConfig(), image_id)
    for a, b in zip(data.load_image_gt(dataset, ToyConfig(), image_id), expected):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


@pytest.mark.parametrize(
    "nothing",
    [
        ([], []),
        (np.zeros((64, 64, 0)), np.zeros(0)),
        (np.empty([0, 0, 0]), np.empty([0])),
        (np.zeros((64, 64, 0), bool), None),
        (np.array([]), np.zeros((0, 1))),
    ],
    ids=str,
)
def test_an_image_without_objects_in_every_form(nothing):
    dataset = Wrong()
    dataset.change = lambda m, i: nothing
    _, _, class_ids, boxes, masks = data.load_image_gt(dataset, ToyConfig(), 0)
    assert class_ids.shape == (0,) and class_ids.dtype == np.int32
    assert boxes.shape == (0, 4) and masks.shape == (64, 64, 0) and masks.dtype == bool


def test_masks_between_0_and_1_are_said_once(caplog):
    """As in the original every pixel above 0 counts; that of the edges of a resized mask, too."""
    dataset = Wrong()
    dataset.change = lambda m, i: (m * np.linspace(0.1, 0.9, 64)[:, None, None], i)
    for image_id in (0, 1):
        masks = data.load_image_gt(dataset, ToyConfig(), image_id)[4]
        np.testing.assert_array_equal(masks, Rectangles().load_mask(image_id)[0])
    assert caplog.text.count("floats between 0 and 1") == 1 and "toy/0.png" in caplog.text


def test_masks_of_a_jpeg_are_said_once(caplog):
    """Whole numbers with several values in one object; one value each, any, is as good as 1."""
    dataset = Wrong()
    dataset.change = lambda m, i: (m * np.arange(1, m.shape[2] + 1, dtype=np.uint8), i)
    data.load_image_gt(dataset, ToyConfig(), 1)
    assert not caplog.text
    dataset = Wrong()
    noise = np.full((64, 64, 1), 3, np.uint8)  # around an object of 250
    noise[::2] = 0
    dataset.change = lambda m, i: (np.maximum(noise, m * np.uint8(250)), i)
    for image_id in (0, 1):
        data.load_image_gt(dataset, ToyConfig(), image_id)
    assert caplog.text.count("2 values besides 0, from 3 to 250 in object 0") == 1
    assert "masks > 127" in caplog.text


@pytest.mark.parametrize("part", ["load_image", "load_mask"])
def test_what_a_dataset_raises_is_the_cause(part):
    class Raising(Rectangles):
        pass

    def fail(self, image_id):
        return {}["missing"]

    setattr(Raising, part, fail)
    with pytest.raises(data.DatasetError, match="image 1 .*KeyError: 'missing'") as error:
        data.load_image_gt(Raising(), ToyConfig(), 1)
    assert type(error.value.__cause__) is KeyError
    assert error.value.__cause__.__traceback__ is not None


def test_what_an_augmentation_raises_stays_what_it_is():
    """With a note that names the image."""

    def augmentation(image, masks):
        return {}["missing"]

    with pytest.raises(KeyError, match="missing") as error:
        data.load_image_gt(Rectangles(), ToyConfig(), 1, augmentation=augmentation)
    assert error.value.__notes__ == ["in the augmentation of image 1 (toy/1.png)"]


def test_an_unprepared_dataset_is_said():
    class Unprepared(Rectangles):
        def prepare(self, class_map=None):
            pass

    for call in (
        lambda: data.load_image_gt(Unprepared(), ToyConfig(), 0),
        lambda: next(data.data_generator(Unprepared(), ToyConfig())),
        lambda: data.check_dataset(Unprepared(), ToyConfig()),
    ):
        with pytest.raises(data.DatasetError, match=r"not prepared: call prepare\(\)"):
            call()


def test_images_added_after_prepare_are_said(caplog):
    dataset = Rectangles(2)
    dataset.add_image("toy", 9, path="toy/9.png", shape=(64, 64, 3), objects=[])
    data.check_dataset(dataset, ToyConfig())
    assert "1 images that were added after prepare()" in caplog.text


@pytest.mark.parametrize("image_id", [4, -1, "0", 1.0])
def test_an_image_id_that_is_none(image_id):
    with pytest.raises(data.DatasetError, match=r"0\.\.3.*Received: "):
        data.load_image_gt(Rectangles(4), ToyConfig(), image_id)


@pytest.mark.parametrize("image", [None, "photo.jpg", np.array([["a"]]), [[1, 2], [3]]], ids=str)
def test_what_is_no_image_is_named(image):
    dataset = Rectangles()
    dataset.load_image = lambda image_id: image
    with pytest.raises(ValueError, match=r"image 0 \(toy/0.png\)"):
        data.load_image_gt(dataset, ToyConfig(), 0)


def test_empty_masks_are_dropped_with_a_warning():
    dataset = Wrong()
    dataset.change = lambda m, i: (np.concatenate([m, m[..., :1] & False], axis=2), np.append(i, 2))
    with pytest.warns(
        UserWarning, match=r"objects \[1\] of image 0 \(toy/0.png\) have an empty mask"
    ):
        assert len(data.load_image_gt(dataset, ToyConfig(), 0)[2]) == 1


@pytest.mark.parametrize(
    "shape, channels, result",
    [
        ((8, 9), 3, (8, 9, 3)),
        ((8, 9, 4), 3, (8, 9, 3)),
        ((8, 9), 1, (8, 9, 1)),
        ((8, 9, 5), 5, (8, 9, 5)),
        ((8, 9, 2), 3, None),
        ((8,), 3, None),
    ],
)
def test_channels(shape, channels, result):
    """(9, 23)"""
    config = ToyConfig(IMAGE_CHANNEL_COUNT=channels, MEAN_PIXEL=np.zeros(channels))
    if result:
        assert data.with_channels(np.zeros(shape), config, "x").shape == result
    else:
        with pytest.raises(ValueError, match=r"IMAGE_CHANNEL_COUNT.*Received: x of shape"):
            data.with_channels(np.zeros(shape), config, "x")


def test_gray_that_was_read_as_rgb_is_one_channel():
    """As every reader of files gives it; colours are refused."""
    config = ToyConfig(IMAGE_CHANNEL_COUNT=1, MEAN_PIXEL=np.zeros(1))
    gray = np.arange(72, dtype=np.uint8).reshape(8, 9, 1)
    rgb = np.repeat(gray, 3, axis=2)
    np.testing.assert_array_equal(data.with_channels(rgb, config, "x"), gray)
    rgb[3, 4, 2] += 1
    with pytest.raises(ValueError, match="x of shape .8, 9, 3., in colours: np.mean"):
        data.with_channels(rgb, config, "x")


# ---- Augmentation --------------------------------------------------------------------------------


def augmenters():
    data.import_imgaug()
    import imgaug.augmenters as iaa

    geometric = {
        "Fliplr": iaa.Fliplr(1.0),
        "Flipud": iaa.Flipud(1.0),
        "Affine": iaa.Affine(rotate=30, translate_px=5),
        "Rot90": iaa.Rot90(1),
        "Crop": iaa.Crop(px=6),
        "Pad": iaa.Pad(px=6),
        "CropAndPad": iaa.CropAndPad(percent=(-0.1, 0.1)),
        "Elastic": iaa.ElasticTransformation(alpha=20.0, sigma=5.0),
        "Piecewise": iaa.PiecewiseAffine(scale=0.05),
        "Perspective": iaa.PerspectiveTransform(scale=0.1),
        "ShearX": iaa.ShearX(20),
        "ScaleY": iaa.ScaleY(1.3),
        "Sequential": iaa.Sequential([iaa.Fliplr(1.0), iaa.Affine(scale=0.8)]),
        "OneOf": iaa.OneOf([iaa.Rot90(1), iaa.Rot90(3)]),
        "Sometimes": iaa.Sometimes(1.0, iaa.Flipud(1.0)),
    }
    pixels = {
        "Multiply": iaa.Multiply(0.5),
        "Blur": iaa.GaussianBlur(2.0),
        "Add": iaa.Add(40),
        "Invert": iaa.Invert(1.0),
        "Noise": iaa.AdditiveGaussianNoise(scale=20),
    }
    return geometric, pixels


@pytest.mark.parametrize("name", list(augmenters()[0]))
def test_geometric_augmenters_move_image_and_masks_alike(name):
    """(10) The image shows the mask: bright inside, dark outside, before and after."""
    mask = np.zeros((64, 64, 1), bool)
    mask[10:40, 5:30] = True
    image = np.where(mask, 220, 20).astype(np.uint8).repeat(3, axis=2)
    moved, masks = data.apply_augmentation(
        augmenters()[0][name], image, mask, np.random.default_rng(1)
    )
    assert masks.dtype == bool and masks.shape == mask.shape and masks.any()
    assert np.mean(masks != mask) > 0.01, "nothing moved"
    assert np.mean((moved[..., :1] > 120) != masks) < 0.03


@pytest.mark.parametrize("name", list(augmenters()[1]))
def test_pixel_augmenters_leave_masks_alone(name):
    image, masks = np.full((32, 32, 3), 90, np.uint8), np.zeros((32, 32, 2), bool)
    masks[:9, :, 0] = masks[9:, 5:, 1] = True
    image[:9] = 30
    changed, after = data.apply_augmentation(
        augmenters()[1][name], image, masks, np.random.default_rng(0)
    )
    assert not np.array_equal(changed, image)
    np.testing.assert_array_equal(after, masks)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int32, np.uint16])
def test_imgaug_of_values_of_any_dtype(dtype):
    """What it makes of bytes, in the dtype that was given: floats became thousands, or inverted
    far below 0, and most whole numbers were refused."""
    import imgaug.augmenters as iaa

    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    masks = np.ones((32, 32, 1), bool)
    for augmentation in (
        iaa.Invert(1.0),
        iaa.GammaContrast(1.5),
        iaa.LinearContrast(1.5),
        iaa.Multiply(1.3),
        iaa.Sharpen(0.5),
        iaa.AddToHueAndSaturation(20),
        iaa.Affine(rotate=20),
    ):
        expected, _ = data.apply_augmentation(augmentation, image, masks, np.random.default_rng(1))
        found, _ = data.apply_augmentation(
            augmentation, image.astype(dtype), masks, np.random.default_rng(1)
        )
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == dtype


def test_imgaug_of_fractions_and_bands_is_left_to_it():
    import imgaug.augmenters as iaa

    masks = np.ones((8, 8, 1), bool)
    fractions = np.full((8, 8, 3), 0.3, np.float32)
    bands = np.full((8, 8, 5), 7.25, np.float32)
    for image in (fractions, bands):
        found, _ = data.apply_augmentation(
            iaa.Multiply(2.0), image, masks, np.random.default_rng(1)
        )
        np.testing.assert_allclose(found, image * 2)


def imgaug_of_masks(augmentation, image, masks, seed):
    """What imgaug itself makes of an image and of bool maps, one for each object."""
    from imgaug.augmentables.segmaps import SegmentationMapsOnImage

    augmenter = copy.deepcopy(augmentation)
    drawn = int(np.random.default_rng(seed).integers(2**31))
    augmenter.seed_(drawn, deterministic_too=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        maps = SegmentationMapsOnImage(masks, image.shape)
        new_image, new_maps = augmenter(image=image, segmentation_maps=maps)
    return new_image, new_maps.arr > 0


def value_augmenters():
    """Augmenters that look at the values of maps, mix them, or are not imgaug's."""
    import imgaug.augmenters as iaa

    class Own(iaa.Fliplr):
        def _augment_batch_(self, batch, **rest):
            for maps in batch.segmentation_maps:
                maps.arr = 1 - maps.arr
            return super()._augment_batch_(batch, **rest)

    def first_alone(maps, *_):
        for each in maps:
            each.arr = (each.arr == 1).astype(np.int32)
        return maps

    return {
        "Own": Own(1.0),
        "Lambda": iaa.Sequential([iaa.Lambda(func_segmentation_maps=first_alone)]),
        "Blend": iaa.BlendAlphaSimplexNoise(iaa.Affine(translate_px=5)),
        "KeepSize": iaa.KeepSizeByResize(iaa.CropToFixedSize(40, 40)),
    }


def more_geometric():
    import imgaug.augmenters as iaa

    return {
        "Jigsaw": iaa.Jigsaw(nb_rows=4, nb_cols=4),
        "Polar": iaa.WithPolarWarping(iaa.CropAndPad(percent=(-0.1, 0.1))),
        "Wrap": iaa.Affine(rotate=20, mode="symmetric"),
        "Skimage": iaa.Affine(rotate=20, backend="skimage"),
        "Dropout": iaa.TotalDropout(1.0),
        "Blur": iaa.SomeOf((1, 2), [iaa.GaussianBlur(1.0), iaa.Fliplr(0.5), iaa.MaxPooling(2)]),
    }


@pytest.mark.parametrize(
    "name", [*augmenters()[0], *augmenters()[1], *value_augmenters(), *more_geometric()]
)
def test_masks_are_augmented_as_if_each_had_a_map(name):
    """Bit for bit what imgaug makes of a bool map for each of many masks that share pixels."""
    count = {"Piecewise": 30}.get(name, 260)
    geometric, pixels = augmenters()
    augmentation = {**geometric, **pixels, **value_augmenters(), **more_geometric()}[name]
    rng = np.random.default_rng(3)
    image = rng.integers(0, 255, (64, 64, 3)).astype(np.uint8)
    masks = np.zeros((64, 64, count), bool)
    for k in range(count):
        y, x = rng.integers(0, 54, 2)
        masks[y : y + 10, x : x + 10, k] = rng.random((10, 10)) < 0.8
    expected_image, expected = imgaug_of_masks(augmentation, image, masks, 7)
    for given in (masks, LabelMaps.of_masks(masks)):
        new_image, found = data.apply_augmentation(
            augmentation, image, given, np.random.default_rng(7)
        )
        assert type(found) is type(given)
        np.testing.assert_array_equal(new_image, expected_image)
        np.testing.assert_array_equal(found, expected)


def test_augmentation_is_drawn_for_each_example_and_repeats():
    import imgaug.augmenters as iaa

    augmentation = iaa.Affine(translate_px=(-12, 12))
    image, masks = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 1), bool)
    masks[20:40, 20:40] = True
    results = [
        data.apply_augmentation(augmentation, image, masks, np.random.default_rng(seed))[1]
        for seed in (1, 2, 1)
    ]
    assert np.array_equal(results[0], results[2]) and not np.array_equal(results[0], results[1])


def test_any_function_augments_and_sizes_are_kept():
    config = ToyConfig()
    plain = data.load_image_gt(Rectangles(), config, 1)
    image, _, _, boxes, masks = data.load_image_gt(
        Rectangles(), config, 1, augmentation=lambda i, m: (i[:, ::-1], m[:, ::-1])
    )
    np.testing.assert_array_equal(image, plain[0][:, ::-1])
    np.testing.assert_array_equal(boxes[:, 1], 64 - plain[3][:, 3])
    with pytest.raises(ValueError, match=r"keeps the size.*Received: \(32, 64, 3\)"):
        data.load_image_gt(Rectangles(), config, 1, augmentation=lambda i, m: (i[::2], m[::2]))


@pytest.mark.parametrize(
    "augmentation, text",
    [
        ([lambda i, m: (i, m)], r"imgaug.augmenters.Sequential\(list\)"),
        ("fliplr", "Received: 'fliplr'"),
        (dict, r"an object of this class does, dict\(...\)"),
        (0.5, "Received: 0.5"),
    ],
)
def test_what_is_no_augmentation(augmentation, text):
    with pytest.raises(ValueError, match=text):
        data.check_augmentation(augmentation)
    with pytest.raises(ValueError, match=text):
        data.load_image_gt(Rectangles(), ToyConfig(), 0, augmentation=augmentation)


def test_augmentation_in_the_place_of_the_tf2_fork(caplog):
    """load_image_gt(dataset, config, image_id, augmentation): it was taken for `augment`, and half
    of the images were mirrored."""
    import imgaug.augmenters as iaa

    expected = data.load_image_gt(Rectangles(), ToyConfig(), 1, augmentation=iaa.Flipud(1.0))
    for augmentation in (iaa.Flipud(1.0), lambda i, m: (i[::-1], m[::-1])):
        found = data.load_image_gt(Rectangles(), ToyConfig(), 1, augmentation)
        for a, b in zip(found, expected):
            np.testing.assert_array_equal(a, b)
    assert "outdated" not in caplog.text


@pytest.mark.parametrize("sources", ["toy", ["toy"], ("toy", "other"), {"toy"}])
def test_sources_without_augmentation_by_name(sources, caplog):
    """One name is no list of letters, and one that no image has is said."""
    batches = data.TrainingBatches(
        Rectangles(2),
        ToyConfig(),
        augmentation=lambda i, m: (i * 0, m),
        shuffle=False,
        no_augmentation_sources=sources,
    )
    assert np.ptp(batches.batch(0)[0][0]) > 0
    assert ("no image is of 'other'; the images' sources are 'toy'" in caplog.text) == (
        "other" in sources
    )


def test_sources_without_augmentation():
    batches = data.TrainingBatches(
        Rectangles(2),
        ToyConfig(),
        augmentation=lambda i, m: (i * 0, m),
        shuffle=False,
        no_augmentation_sources=["toy"],
    )
    assert np.ptp(batches.batch(0)[0][0]) > 0


def test_masks_that_lie_across_the_photograph_are_named(tmp_path):
    """Masks of the stored pixels beside a photograph that is turned: the error says what to do."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "phone.jpg", exif=exif)

    class Phone(utils.Dataset):
        def load_mask(self, image_id):
            masks = np.zeros((40, 60, 1), bool)
            masks[5:20, 5:40] = True
            return masks, np.array([1], np.int32)

    dataset = Phone()
    dataset.add_class("a", 1, "thing")
    dataset.add_image("a", "first", tmp_path / "phone.jpg")
    dataset.prepare()
    with pytest.raises(data.DatasetError, match=r"image 0 .*phone.jpg.*EXIF.*height=, width="):
        data.load_image_gt(dataset, ToyConfig(), 0)
    dataset.image_info[0].update(height=40, width=60)
    assert data.load_image_gt(dataset, ToyConfig(), 0)[0].shape == (64, 64, 3)


class OnlyOne(Rectangles):
    """Images of which one, or none, has an object; the others are empty, or have a crowd."""

    def __init__(self, count, which=None, crowds=False):
        super().__init__(count)
        self.which = which
        self.crowds = crowds
        self.seen = []

    def load_mask(self, image_id):
        self.seen.append(int(image_id))
        found, class_ids = super().load_mask(image_id)
        if image_id == self.which:
            return found, class_ids
        if self.crowds:
            return found, -np.abs(class_ids)
        return found[..., :0], class_ids[:0]


@pytest.mark.parametrize("crowds", [False, True])
def test_a_dataset_without_an_object_is_refused(crowds, caplog):
    """It trained on nothing, with losses of 0 (issue 19, row 4)."""
    empty = OnlyOne(5, crowds=crowds)
    words = (
        r"none of the 5 images, from image 0 \(toy/0.png\) on, has an object to learn from.*crowds"
    )
    with pytest.raises(data.DatasetError, match=words):
        data.check_dataset(empty, ToyConfig())
    assert not caplog.records
    data.check_dataset(empty, ToyConfig(), needs_objects=False)
    assert "none of the 5 images" in caplog.text
    data.check_dataset(OnlyOne(5, which=2), ToyConfig())


@pytest.mark.parametrize("crowds", [False, True])
def test_a_pass_without_an_object_ends_training(crowds):
    """Where the check read a part of the images alone, the first pass tells."""
    empty = OnlyOne(3, crowds=crowds)
    data.check_dataset(empty, ToyConfig(CHECK_IMAGES=2))
    batches = data.TrainingBatches(empty, ToyConfig(), batch_size=1, needs_objects=True)
    for step in range(2):
        batches.batch(step)
    with pytest.raises(data.DatasetError, match="none of the 3 images"):
        batches.batch(2)
    batches = data.TrainingBatches(
        OnlyOne(3, which=1), ToyConfig(), batch_size=1, needs_objects=True
    )
    for step in range(8):
        batches.batch(step)


@pytest.mark.parametrize("check", [0, None])
def test_an_image_source_without_a_class_is_named(check):
    """At the check before training, and where an example is made; it was a KeyError in step 1."""
    dataset = Rectangles(2)
    dataset.add_image("tyo", 7, path="a.png", shape=(64, 64, 3), objects=[])
    dataset.prepare()
    part = r"such as image 2 \(a.png\) are of the source 'tyo', and no class is: add_class\('tyo'"
    config = ToyConfig(CHECK_IMAGES=check)
    with pytest.raises(data.DatasetError, match=part):
        data.load_image_gt(dataset, config, 2)
    if check is None:
        with pytest.raises(data.DatasetError, match=part):
            data.check_dataset(dataset, config)


@pytest.mark.parametrize("image_id", [9, "1", None, 1.5])
def test_a_wrong_image_id_is_named(image_id):
    with pytest.raises(data.DatasetError, match="whole numbers in 0..1. Received"):
        data.load_image_gt(Rectangles(2), ToyConfig(), image_id)


def test_images_after_prepare_are_said(caplog):
    dataset = Rectangles(2)
    dataset.add_image("toy", 2, path="a.png", shape=(64, 64, 3), objects=[])
    data.check_dataset(dataset, ToyConfig())
    assert "1 images that were added after prepare() are not used" in caplog.text
    caplog.clear()
    dataset.prepare()
    data.check_dataset(dataset, ToyConfig())
    assert not caplog.records


def test_mode_none_names_an_image_that_was_not_checked():
    """CHECK_IMAGES 0 trained at a size that detect refuses."""
    config = ToyConfig(IMAGE_RESIZE_MODE="none", CHECK_IMAGES=0)
    batches = data.TrainingBatches(Rectangles(2, (120, 160, 3)), config)
    with pytest.raises(ValueError, match=r"'none'.* divide by 64.*image \d .*\(120, 160, 3\)"):
        batches.batch(0)


# ---- Masks that overlap much ---------------------------------------------------------------------


class Overlapping(utils.Dataset):
    """Large masks of noise, twenty on an image, with keypoints in them."""

    def load_image(self, image_id):
        return np.random.default_rng(1).integers(0, 255, (60, 80, 3)).astype(np.uint8)

    def load_mask(self, image_id):
        masks = np.random.default_rng(0).random((60, 80, 20)) > 0.5
        masks[..., 7] = False
        return masks, np.arange(20) % 2 + 1


@pytest.mark.parametrize("augmentation", [None, "Fliplr", "Affine", "function"])
@pytest.mark.parametrize("mini", [False, True])
def test_masks_that_overlap_much_give_the_examples_of_label_maps(monkeypatch, augmentation, mini):
    from mrcnn import augmentation as aug, masks as mask_math

    dataset = Overlapping()
    for number in (1, 2):
        dataset.add_class("x", number, f"thing {number}")
    dataset.add_image("x", 0, "none")
    dataset.prepare()
    config = Config(
        NUM_CLASSES=3, IMAGE_MIN_DIM=64, IMAGE_MAX_DIM=128, HORIZONTAL_FLIP=0.9, NAME="x"
    )
    augmenter = augmentation
    if augmentation == "function":
        augmenter = aug.Turn()
    elif augmentation:
        augmenter = getattr(data.import_imgaug().augmenters, augmentation)(
            **{"Fliplr": {"p": 1.0}, "Affine": {"rotate": 20}}[augmentation]
        )

    def example():
        with pytest.warns(UserWarning, match=r"objects \[7\] of .* have an empty mask"):
            return data.load_image_gt(
                dataset,
                config,
                0,
                augmentation=augmenter,
                use_mini_mask=mini,
                rng=np.random.default_rng(3),
                jitter=True,
            )

    found = example()
    monkeypatch.setattr(mask_math, "MOST_COVERED", np.inf)
    for ours, theirs in zip(found, example(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    assert found[4].shape[-1] == 19


def test_unmold_image_gives_the_pixels_back():
    """Each of the 256 values, as the original: of float64 exactly, of float32, whose sums end just
    below whole numbers, some of them lower by 1."""
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    config = Config()
    molded = data.mold_image(image, config)
    assert molded.dtype == np.float32
    lower = image - data.unmold_image(molded, config).astype(int)
    assert set(np.unique(lower)) == {0, 1}
    exact = image - np.asarray(config.MEAN_PIXEL, np.float64)
    np.testing.assert_array_equal(data.unmold_image(exact, config), image)
    beyond = data.unmold_image(np.full((1, 1, 3), 200.0), config)
    assert beyond.tolist() == [[[255, 255, 255]]]  # and not 323.7 - 256


def test_class_ids_of_a_table():
    """Of dtype object, as a column of pandas: whole numbers are taken, others named as ever."""
    dataset = Wrong(1)
    dataset.change = lambda m, i: (m, i.astype(object))
    _, _, class_ids, _, _ = data.load_image_gt(dataset, ToyConfig(), 0)
    assert class_ids.tolist() == [1] and class_ids.dtype == np.int32
    dataset.change = lambda m, i: (m, np.array([1.5], object))
    with pytest.raises(data.DatasetError, match=r"whole numbers. Received: \[1.5\]"):
        data.load_image_gt(dataset, ToyConfig(), 0)


@pytest.mark.parametrize("mode", ["P", "L", "RGBA", "CMYK", "1", "I;16"])
def test_load_image_may_return_a_picture_of_pillow(mode):
    """Of a palette its places were taken for gray values, without a word."""
    from PIL import Image

    rgb = np.zeros((64, 64, 3), np.uint8)
    rgb[:, 32:] = (204, 204, 204)
    pictures = {"I;16": Image.fromarray(rgb[..., 0].astype(np.uint16) * 257)}
    picture = pictures.get(mode) or Image.fromarray(rgb).convert(mode)
    dataset = Rectangles(1)
    dataset.load_image = lambda image_id: picture
    image, *_ = data.load_image_gt(dataset, ToyConfig(), 0)
    light = {"1": 255}.get(mode, 204)  # dithered, so that the first pixels alone are known
    assert image[0, 0].tolist() == [0, 0, 0] and abs(int(image[0, 32, 0]) - light) <= 1
    assert np.ptp(image[0, 32].astype(int)) <= 1
    np.testing.assert_array_equal(data.as_array(picture, "image 0").shape[:2], (64, 64))
    drawn = utils.as_rgb(picture)
    assert drawn[0, 0].tolist() == [0, 0, 0] and abs(int(drawn[0, 32, 0]) - light) <= 1


def test_load_image_without_a_return_is_named():
    dataset = Rectangles(1)
    dataset.load_image = lambda image_id: None
    with pytest.raises(data.DatasetError, match="Received: None for image 0.*cv2.imread"):
        data.load_image_gt(dataset, ToyConfig(), 0)


class WithNothing(Rectangles):
    """As Kaggle's datasets of 2018 have it: an image without objects has one of class 0."""

    def load_mask(self, image_id):
        if image_id % 2 == 0:
            return np.zeros((64, 64, 1), bool), np.zeros((1,), np.int32)
        masks, class_ids = super().load_mask(image_id)
        return np.concatenate([masks, masks[..., :1] & False], 2), [*class_ids, 0]


def test_an_object_of_class_0_without_a_pixel_is_none():
    """They were refused: "class ids lie in 1..2"; matterport's load_image_gt leaves them out."""
    dataset = WithNothing(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "have an empty mask and are left out"
        data.check_dataset(dataset, ToyConfig())
        _, _, class_ids, boxes, masks = data.load_image_gt(dataset, ToyConfig(), 0)
        assert class_ids.shape == (0,) and boxes.shape == (0, 4) and masks.shape == (64, 64, 0)
        _, _, class_ids, _, masks = data.load_image_gt(dataset, ToyConfig(), 1)
    assert class_ids.tolist() == [1, 2] and masks.shape == (64, 64, 2)


def test_class_ids_of_the_source_are_told_apart():
    """What to write: load_mask gives the model's ids, and not those of add_class."""
    dataset = Wrong(1)
    dataset.class_info[1]["id"] = 17
    dataset.prepare()
    dataset.change = lambda m, i: (m, [17])
    part = r"Received: \[17\] for image 0 .*map_source_class_id\('toy.17'\) gives 1"
    with pytest.raises(data.DatasetError, match=part):
        data.load_image_gt(dataset, ToyConfig(), 0)
    dataset.change = lambda m, i: (m, [18])
    with pytest.raises(data.DatasetError, match=r"Received: \[18\] for image 0 \(toy/0.png\)$"):
        data.load_image_gt(dataset, ToyConfig(), 0)
