"""The kernels: the fused form against the reference, and both against numbers worked by hand or public."""
import numpy as np
import pytest
from keras import ops as kops

from mrcnn import ops, utils

RNG = np.random.default_rng(0)


def random_boxes(*shape):
    corners = RNG.uniform(0, 1, (*shape, 2, 2)).astype("float32")
    return np.concatenate([corners.min(axis=-2), corners.max(axis=-2)], axis=-1)


@pytest.mark.parametrize("fused", [True, False])
def test_nms_of_a_public_case(fused):
    """detectron2's three boxes: only the second, the best, stays at .2."""
    boxes = np.array([[285.3538, 185.5758, 1193.5110, 851.4551], [285.1472, 188.7374, 1192.4984, 851.0669],
                      [279.2440, 197.9812, 1189.4746, 849.2019]], "float32")[None, :, [1, 0, 3, 2]]
    scores = np.array([[.6370, .7569, .3966]], "float32")
    indices, kept = ops.non_max_suppression(kops.convert_to_tensor(boxes), kops.convert_to_tensor(scores), 3, .2,
                                            fused=fused)
    assert np.asarray(kept).tolist() == [[True, False, False]] and np.asarray(indices)[0, 0] == 1


@pytest.mark.parametrize("with_classes", [False, True])
@pytest.mark.parametrize("threshold", [.3, .7])
def test_nms_forms_agree(with_classes, threshold):
    boxes, scores = random_boxes(3, 60), RNG.uniform(0, 1, (3, 60)).astype("float32")
    scores[:, ::7] = .5                                             # ties
    valid = RNG.uniform(size=(3, 60)) > .2
    valid[2] = False
    classes = RNG.integers(1, 4, (3, 60)).astype("int32") if with_classes else None
    args = [kops.convert_to_tensor(x) for x in (boxes, scores)]
    results = [ops.non_max_suppression(*args, 20, threshold, kops.convert_to_tensor(valid),
                                       None if classes is None else kops.convert_to_tensor(classes), fused)
               for fused in (True, False)]
    for a, b in zip(*results):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    kept = np.asarray(results[0][1])
    assert kept[:2].any() and not kept[2].any()
    if not with_classes:
        rows = np.flatnonzero(valid[0])
        expected = rows[utils.non_max_suppression(boxes[0][rows], scores[0][rows], threshold)][:20]
        assert set(np.asarray(results[0][0])[0][kept[0]]) == set(expected) or len(set(scores[0][rows])) < len(rows)


@pytest.mark.parametrize("fused", [True, False])
def test_crop_and_resize_of_a_ramp(fused):
    """The public 5 x 5 ramp: corners aligned, not detectron2's aligned (4.5 ...) nor unaligned (7.5 ...) RoIAlign."""
    image = kops.convert_to_tensor(np.arange(25, dtype="float32").reshape(1, 5, 5, 1))
    boxes = kops.convert_to_tensor(np.array([[.25, .25, .5, .5]], "float32"))
    crop = np.asarray(ops.crop_and_resize(image, boxes, kops.convert_to_tensor(np.array([0], "int32")), (4, 4), fused))
    np.testing.assert_allclose(crop[0, 0, :, 0], [6, 6.333333, 6.666667, 7], rtol=1e-5)
    np.testing.assert_allclose(crop[0, 3, :, 0], [11, 11.333333, 11.666667, 12], rtol=1e-5)


def test_pooling_forms_agree():
    """Levels mixed, boxes beyond the image, without area and reversed; values and gradients."""
    import tensorflow as tf
    maps = [RNG.standard_normal((2, side, side, 3)).astype("float32") for side in (16, 8, 4, 2)]
    boxes = np.concatenate([random_boxes(2, 6), np.tile(np.array(
        [[-.2, -.2, .5, .5], [.3, .3, .3, .3], [0, 0, 0, 0], [.8, .8, .2, .2], [0, 0, 1, 1]], "float32"), (2, 1, 1))],
        axis=1)
    levels = RNG.integers(0, 4, (2, 11)).astype("int32")
    results = []
    for fused in (True, False):
        tensors = [tf.convert_to_tensor(x) for x in maps]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            pooled = ops.pyramid_pool(tensors, tf.convert_to_tensor(boxes), tf.convert_to_tensor(levels), (3, 2), fused)
            total = tf.reduce_sum(pooled ** 2)
        results.append([pooled.numpy(), *(tf.convert_to_tensor(g).numpy() for g in tape.gradient(total, tensors))])
    assert results[0][0].shape == (2, 11, 3, 2, 3)
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_no_boxes():
    maps = [np.zeros((1, 4, 4, 5), "float32")] * 4
    for fused in (True, False):
        pooled = ops.pyramid_pool([kops.convert_to_tensor(m) for m in maps], kops.zeros((1, 0, 4)),
                                  kops.zeros((1, 0), "int32"), (7, 7), fused)
        assert tuple(pooled.shape) == (1, 0, 7, 7, 5)


def test_overlaps_of_boxes_without_area():
    boxes = kops.convert_to_tensor(np.array([[0, 0, 1, 1], [.5, .5, .5, .5]], "float32"))
    np.testing.assert_array_equal(np.asarray(ops.overlaps(boxes, boxes)), [[1, 0], [0, 0]])


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("side, cells", [(32, 14), (256, 7), (200, 28)])
def test_boxes_that_end_on_the_edge_are_inside(fused, side, cells):
    """A last sample that rounding puts beyond the edge would be 0: of a map of ones all crops are ones."""
    boxes = random_boxes(1, 500)
    boxes[..., 2:] = 1.
    pooled = ops.pyramid_pool([kops.ones((1, side, side, 1))] * 4, kops.convert_to_tensor(boxes),
                              kops.zeros((1, 500), "int32"), (cells, cells), fused)
    np.testing.assert_allclose(np.asarray(pooled), 1, rtol=1e-6)
