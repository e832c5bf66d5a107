"""What holds for any boxes, masks and images: inverses, round trips, bounds."""

import random

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from mrcnn import utils

quick = settings(deadline=None, derandomize=True, max_examples=25)
seeds = st.integers(0, 2**32 - 1)


def pixel_boxes(rng, count, height, width, smallest=1):
    y, x = (
        np.sort(rng.integers(0, side - smallest + 1, (count, 2)), axis=1)
        for side in (height, width)
    )
    return np.stack([y[:, 0], x[:, 0], y[:, 1] + smallest, x[:, 1] + smallest], 1)


def blobs(rng, count, height, width):
    """[H, W, count] filled ellipses of at least 5 pixels across, and their boxes."""
    rows, columns = np.mgrid[:height, :width]
    masks = []
    for y1, x1, y2, x2 in pixel_boxes(rng, count, height, width, 5):
        masks.append(
            ((rows + 0.5 - (y1 + y2) / 2) / (y2 - y1)) ** 2
            + ((columns + 0.5 - (x1 + x2) / 2) / (x2 - x1)) ** 2
            <= 0.25
        )
    masks = np.stack(masks, -1)
    return masks, utils.extract_bboxes(masks)


@pytest.mark.long
@quick
@given(seeds)
def test_box_deltas_invert_refinement(seed):
    rng = np.random.default_rng(seed)
    box, gt = pixel_boxes(rng, 20, 200, 300), pixel_boxes(rng, 20, 200, 300)
    deltas = utils.box_refinement(box, gt)
    np.testing.assert_allclose(utils.apply_box_deltas(box, deltas), gt, atol=2e-3)
    np.testing.assert_allclose(utils.box_refinement(box, box), 0, atol=1e-7)


@quick
@given(seeds, st.integers(2, 3000), st.integers(2, 3000))
def test_norm_and_denorm_are_inverse(seed, height, width):
    boxes = pixel_boxes(np.random.default_rng(seed), 20, height, width)
    normalised = utils.norm_boxes(boxes, (height, width))
    assert normalised.min() >= 0 and normalised.max() <= 1
    np.testing.assert_array_equal(utils.denorm_boxes(normalised, (height, width)), boxes)
    assert utils.norm_boxes([0, 0, height, width], (height, width)).tolist() == [0, 0, 1, 1]


@quick
@given(seeds)
def test_overlaps_are_symmetric_and_bounded(seed):
    rng = np.random.default_rng(seed)
    boxes1, boxes2 = pixel_boxes(rng, 30, 40, 40), pixel_boxes(rng, 9, 40, 40)
    overlaps = utils.compute_overlaps(boxes1, boxes2)
    np.testing.assert_array_equal(overlaps, utils.compute_overlaps(boxes2, boxes1).T)
    assert overlaps.min() >= 0 and overlaps.max() <= 1
    np.testing.assert_array_equal(np.diag(utils.compute_overlaps(boxes1, boxes1)), 1)
    # Full masks overlap as their boxes do.
    masks1, masks2 = (
        utils.unmold_masks(np.ones((len(boxes), 2, 2)), boxes, (40, 40))
        for boxes in (boxes1, boxes2)
    )
    np.testing.assert_array_equal(utils.extract_bboxes(masks1), boxes1)
    np.testing.assert_allclose(utils.compute_overlaps_masks(masks1, masks2), overlaps, rtol=1e-6)


@quick
@given(seeds, st.floats(0, 1))
def test_nms_keeps_a_spread_set(seed, threshold):
    rng = np.random.default_rng(seed)
    boxes, scores = pixel_boxes(rng, 40, 30, 30), rng.random(40)
    kept = utils.non_max_suppression(boxes, scores, threshold)
    overlaps = utils.compute_overlaps(boxes, boxes)
    assert (np.diff(scores[kept]) <= 0).all() and kept[0] == scores.argmax()
    assert (overlaps[np.ix_(kept, kept)] - np.eye(len(kept)) <= threshold).all()
    for dropped in set(range(40)) - set(kept):
        assert any(overlaps[dropped, k] > threshold and scores[k] > scores[dropped] for k in kept)


@quick
@given(seeds, st.sampled_from([28, 56]))
def test_mini_masks_and_back(seed, side):
    """Where the mini-mask has at least as many pixels as the box, only rounding is lost."""
    rng = np.random.default_rng(seed)
    masks, boxes = blobs(rng, 4, 60, 70)
    mini = utils.minimize_mask(boxes, masks, (side, side))
    back = utils.expand_mask(boxes, mini, masks.shape)
    assert back.shape == masks.shape
    overlaps = np.diag(utils.compute_overlaps_masks(masks, back))
    assert overlaps.min() > 0.75 and overlaps.mean() > 0.88
    for i, (y1, x1, y2, x2) in enumerate(boxes):
        outside = back[:, :, i].copy()
        outside[y1:y2, x1:x2] = False
        assert not outside.any()


@quick
@given(seeds)
def test_unmolding_a_crop_gives_the_mask(seed):
    """Pasting a mask at its own size changes nothing."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 30, 2)
    soft = rng.random((height, width)).astype(np.float32)
    y, x = rng.integers(-10, 30, 2)
    canvas = np.zeros((80, 80), bool)
    canvas[y + 20 : y + 20 + height, x + 20 : x + 20 + width] = soft >= 0.5
    pasted = utils.unmold_mask(soft, (y, x, y + height, x + width), (40, 45))
    np.testing.assert_array_equal(pasted, canvas[20:60, 20:65])


@quick
@given(
    seeds,
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from(["square", "pad64", "shorter", "none", "crop"]),
    st.sampled_from([np.uint8, np.float32]),
)
def test_resized_images(seed, height, width, mode, dtype):
    """Size, window, padding, scale and content agree with each other."""
    image = np.random.default_rng(seed).integers(1, 256, (height, width, 2)).astype(dtype)
    before = image.copy()
    new, window, scale, padding, crop = utils.resize_image(
        image, 64, 128, mode=mode, rng=random.Random(seed)
    )
    np.testing.assert_array_equal(image, before)
    assert new.dtype == dtype and new.shape[2] == 2
    y1, x1, y2, x2 = window
    if mode == "crop":
        assert new.shape == (64, 64, 2) and window == (0, 0, 64, 64) and crop[2:] == (64, 64)
        return
    assert crop is None
    assert (y2 - y1, x2 - x1) == tuple(max(1, round(side * scale)) for side in (height, width))
    assert padding == [(y1, new.shape[0] - y2), (x1, new.shape[1] - x2), (0, 0)]
    stride = {"square": 128, "pad64": 64, "shorter": 32, "none": 1}[mode]
    assert all(side % stride == 0 for side in new.shape[:2])
    assert mode == "pad64" or max(y2 - y1, x2 - x1) <= 128
    outside = new.copy()
    outside[y1:y2, x1:x2] = 0
    assert not outside.any()
    inside = new[y1:y2, x1:x2]
    assert inside.min() >= image.min() and inside.max() <= image.max()
    if scale == 1:
        np.testing.assert_array_equal(inside, image)


@quick
@given(seeds, st.sampled_from(["square", "pad64", "shorter", "crop"]))
def test_masks_take_the_images_shape(seed, mode):
    rng = np.random.default_rng(seed)
    masks, _ = blobs(rng, 2, *rng.integers(5, 50, 2))
    new, _, scale, padding, crop = utils.resize_image(
        masks[:, :, :1].astype(np.uint8), 64, 128, mode=mode, rng=rng
    )
    moved = utils.resize_mask(masks, scale, padding, crop)
    assert moved.shape == (*new.shape[:2], 2) and moved.dtype == bool
    if mode != "crop":
        assert moved.any(axis=(0, 1)).all()


@quick
@given(seeds)
def test_ap_is_one_only_for_perfect_predictions(seed):
    rng = np.random.default_rng(seed)
    masks, boxes = blobs(rng, 4, 40, 40)
    ids, scores = rng.integers(1, 3, 4), rng.random(4)
    assert utils.compute_ap(boxes, ids, masks, boxes, ids, scores, masks)[0] == 1
    assert (
        utils.compute_ap(boxes, ids, masks, boxes[:3], ids[:3], scores[:3], masks[..., :3])[0]
        == 0.75
    )
    assert utils.compute_ap(boxes, ids, masks, boxes, ids + 2, scores, masks)[0] == 0
    order = rng.permutation(4)
    shuffled = utils.compute_matches(
        boxes, ids, masks, boxes[order], ids[order], scores[order], masks[..., order]
    )
    for a, b in zip(shuffled, utils.compute_matches(boxes, ids, masks, boxes, ids, scores, masks)):
        np.testing.assert_array_equal(a, b)
