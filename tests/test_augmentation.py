"""Augmentation in numpy. Images that say by their values which object a pixel shows are the oracle:
after every step a mask has the pixels that show its object, and no others."""

import concurrent.futures
import functools

import numpy as np
import pytest
import scipy.ndimage
from toy import Rectangles, ToyConfig

from mrcnn import augmentation as aug, data, keypoints, utils
from mrcnn.config import Config
from mrcnn.masks import LabelMaps

# Pixels of object k of image i are (i, k, 200), those around them (i, 0, 50).
OBJECTS = [(3, 4, 20, 17), (22, 6, 40, 30), (5, 33, 13, 60), (44, 40, 64, 64), (50, 2, 51, 3)]


def example(number=1, size=(64, 64), objects=OBJECTS):
    """image [H, W, 3] uint8, disjoint masks [H, W, N], class ids, keypoints: each object's upper
    left corner and the last pixel of it."""
    image = np.zeros((*size, 3), np.uint8)
    image[...] = (number, 0, 50)
    masks = np.zeros((*size, len(objects)), bool)
    points = np.zeros((len(objects), 2, 3))
    for k, (y1, x1, y2, x2) in enumerate(objects):
        masks[y1:y2, x1:x2, k] = True
        image[masks[..., k]] = (number, k + 1, 200)
        points[k] = (y1, x1, 2), (y2 - 1, x2 - 1, 2)
    return image, masks, np.arange(len(objects), dtype=np.int32) % 2 + 1, points


def shown(image, masks, repeated=False):
    """(image, object) of each mask; fails where a mask is not all that shows its object.

    Args:
        repeated: an object may be there twice; then the masks together are all that is shown.
    """
    np.testing.assert_array_equal((image[..., 2] == 200).astype(int), masks.sum(axis=2))
    found = []
    for mask in np.moveaxis(masks, -1, 0):
        colours = np.unique(image[mask], axis=0)
        assert len(colours) == 1 and colours[0, 2] == 200
        if not repeated:
            np.testing.assert_array_equal((image == colours[0]).all(axis=-1), mask)
        found.append(tuple(colours[0, :2].tolist()))
    return found


def shuffled_memory(masks):
    """The same masks, one behind the other in memory."""
    return np.ascontiguousarray(masks.transpose(2, 1, 0)).transpose(2, 1, 0)


# ---- Functions of every kind ---------------------------------------------------------------------


def test_a_function_gets_what_it_has_a_parameter_for():
    image, masks, _, points = example()
    seen = []

    def plain(image, masks):
        return image, masks

    def with_points(image, masks, points):
        return image, masks, points + 1

    def drawn(image, masks, rng):
        seen.append(rng)
        return image, masks

    def all_of_it(image, masks, points=None, *, flip_pairs, rng):
        seen.append(flip_pairs)
        return image, masks, points

    rng = np.random.default_rng(0)
    assert aug.call(plain, image, masks, rng=rng) == (image, masks, None)
    assert aug.call(drawn, image, masks, rng=rng) == (image, masks, None) and seen == [rng]
    assert (aug.call(with_points, image, masks, points, rng=rng)[2] == points + 1).all()
    aug.call(all_of_it, image, masks, points, rng=rng, flip_pairs=((0, 1),))
    assert seen == [rng, ((0, 1),)]
    with pytest.raises(ValueError, match=r"f\(image, masks, keypoints, rng\).*image, masks, rng"):
        aug.call(drawn, image, masks, points, rng=rng)
    with pytest.raises(ValueError, match=r"returns \(image, masks\).*Received: ndarray"):
        aug.call(lambda i, m: i, image, masks, rng=rng)


def test_a_function_with_rng_in_training_repeats():
    """The same draws for the same seed, through load_image_gt and batches."""

    def shift(image, masks, rng):
        step = rng.integers(1, 60)
        return np.roll(image, step, axis=1), np.roll(masks, step, axis=1)

    def boxes(seed):
        rng = np.random.default_rng(seed)
        return data.load_image_gt(Rectangles(), ToyConfig(), 1, augmentation=shift, rng=rng)[3]

    np.testing.assert_array_equal(boxes(1), boxes(1))
    assert not np.array_equal(boxes(1), boxes(2))
    batches = data.TrainingBatches(Rectangles(), ToyConfig(), augmentation=shift, seed=5)
    again = data.TrainingBatches(Rectangles(), ToyConfig(), augmentation=shift, seed=5)
    assert all(map(np.array_equal, batches.batch(3)[0], again.batch(3)[0]))


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: aug.Flip(1.5), r"horizontal of Flip is a probability of 0\.\.1. Received: 1.5"),
        (lambda: aug.Sometimes(True, aug.Flip()), "probability of Sometimes.*True"),
        (lambda: aug.Brightness(2, 1), r"of Brightness is \(low, high\), .*at least 0.*\(2, 1\)"),
        (lambda: aug.Stretch(99, 1), r"percentiles of Stretch.*\(99, 1\)"),
        (lambda: aug.Stretch(1, 101), r"percentiles of Stretch .*0\.\.100.*\(1, 101\)"),
        (lambda: aug.Blur(-1, 1), r"of Blur is \(low, high\)"),
        (lambda: aug.Gamma(0.5, float("nan")), "of Gamma"),
        (lambda: aug.Stain(factor="ab"), "factor of Stain"),
        (lambda: aug.Channels(gain=(1, 2, 3)), "gain of Channels"),
        (lambda: aug.SomeOf(3, [aug.Flip()]), "whole numbers up to 1.*Received: 3"),
        (lambda: aug.SomeOf((0, 0.5), [aug.Flip()]), "whole numbers"),
        (lambda: aug.Chain([aug.Flip(), None]), "An augmentation is a function. Received: None"),
    ],
)
def test_wrong_settings_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_imgaug_does_not_stand_in_a_chain():
    class Augmenter:
        def augment_images(self):
            raise NotImplementedError

    with pytest.raises(ValueError, match="imgaug stand by themselves"):
        aug.Chain([Augmenter()])


def test_choices():
    """As many as said, in the order given; each as often."""
    image, masks, _, points = example()
    steps = [lambda i, m, p, k=k: (i + np.uint8(10**k), m, p) for k in range(3)]
    counts = {}
    for seed in range(300):
        some = aug.SomeOf((1, 2), steps)
        new, _, same = some(image * 0, masks, points, rng=np.random.default_rng(seed))
        counts[new[0, 0, 0]] = counts.get(new[0, 0, 0], 0) + 1
        assert same is points
    assert set(counts) == {1, 10, 100, 11, 101, 110}
    assert min(counts.values()) > 25
    rare = aug.Sometimes(0.2, aug.Chain(steps))
    changed = [
        rare(image * 0, masks, points, rng=np.random.default_rng(seed))[0].any()
        for seed in range(300)
    ]
    assert 35 < sum(changed) < 90
    assert "Sometimes(probability=0.2" in repr(rare)
    with pytest.raises(ValueError, match="returns .image, masks, keypoints.*no keypoints"):
        aug.Chain([lambda i, m, p: (i, m)])(image, masks, points)


# ---- Flips and turns -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (64, 80)], ids=str)
def test_flips_and_turns_are_exact(size):
    """Masks show their objects, keypoints the same pixel; each kind comes as often as said."""
    image, masks, _, points = example(size=size)
    step = aug.Chain([aug.Flip(0.5, 0.25), aug.Turn()])
    corners = {}
    for seed in range(50):
        rng = np.random.default_rng(seed)
        new, new_masks, new_points = step(
            image, shuffled_memory(masks), points, rng=rng, flip_pairs=((0, 1),)
        )
        assert new.shape == image.shape
        assert shown(new, new_masks) == [(1, k) for k in range(1, 6)]
        for k, rows in enumerate(new_points):
            for y, x, visibility in rows.astype(int):
                assert new[y, x, 1] == k + 1 and visibility == 2
        mark = (new_masks[50, 2, 4], new_masks[-14, 2, 4], new_masks[50, -3, 4])
        corners[mark] = corners.get(mark, 0) + 1
    assert len(corners) > 2
    np.testing.assert_array_equal(image, example(size=size)[0])


def test_a_mirror_image_exchanges_left_and_right():
    """One flip swaps, two don't; a point that isn't labelled stays zero."""
    image, masks, _, points = example(objects=OBJECTS[:1])
    points[0, 1] = 0
    pairs = ((0, 1),)
    _, _, mirrored = aug.Flip(1)(image, masks, points, flip_pairs=pairs)
    assert mirrored.tolist() == [[[0, 0, 0], [3, 59, 2]]]
    np.testing.assert_array_equal(mirrored, keypoints.mirror(points, 64, pairs))
    _, _, both = aug.Flip(1, 1)(image, masks, points, flip_pairs=pairs)
    assert both.tolist() == [[[60, 59, 2], [0, 0, 0]]]


def test_a_turn_is_anticlockwise():
    image, masks, _, points = example(objects=[(0, 10, 2, 13)])
    turned = set()
    for seed in range(20):
        _, new_masks, new_points = aug.Turn()(image, masks, points, rng=np.random.default_rng(seed))
        y1, x1, y2, x2 = utils.extract_bboxes(new_masks)[0].tolist()
        turned.add((y1, x1, y2, x2, tuple(new_points[0, 0].tolist())))
    assert turned == {
        (0, 10, 2, 13, (0, 10, 2)),
        (51, 0, 54, 2, (53, 0, 2)),
        (62, 51, 64, 54, (63, 53, 2)),
        (10, 62, 13, 64, (10, 63, 2)),
    }


def test_angles_of_a_turn():
    image, masks, _, _ = example(objects=[(0, 10, 2, 13)])
    corners = set()
    for seed in range(12):
        _, new = aug.Turn((90, -180))(image, masks, rng=np.random.default_rng(seed))
        corners.add(tuple(utils.extract_bboxes(new)[0, :2].tolist()))
    assert corners == {(51, 0), (62, 51)}
    for angles in ((), (45,), ("90",)):
        with pytest.raises(ValueError, match="angles of Turn are multiples of 90. Received"):
            aug.Turn(angles)


@pytest.mark.parametrize("size", [(64, 64), (64, 80)], ids=str)
def test_label_maps_are_what_bool_masks_are(size):
    """To the last pixel, masks that overlap among them; a function of one's own gets bool masks."""
    image, masks, _, _ = example(size=size)
    masks = np.concatenate([masks, masks[..., 1:] | masks[..., :-1]], axis=2)
    kinds = []

    def own(image, masks):
        kinds.append(type(masks))
        return image, masks

    steps = [aug.Flip(0.5, 0.5), aug.Turn(), aug.Brightness()]
    for step in (aug.SomeOf(2, steps), aug.Chain([*steps, own]), own):
        for seed in range(8):
            given = LabelMaps.of_masks(masks)
            new, new_maps = data.apply_augmentation(step, image, given, np.random.default_rng(seed))
            expected, expected_masks = data.apply_augmentation(
                step, image, masks, np.random.default_rng(seed)
            )
            assert isinstance(new_maps, LabelMaps) and expected_masks.dtype == bool
            np.testing.assert_array_equal(new, expected)
            np.testing.assert_array_equal(np.asarray(new_maps), expected_masks)
    assert set(kinds) == {np.ndarray}


# ---- Colours -------------------------------------------------------------------------------------


def row(*values, dtype=np.uint8):
    return np.array(values, dtype).reshape(1, -1, 1)


@pytest.mark.parametrize(
    "step, values, expected",
    [
        (aug.Brightness(2, 2), [0, 100, 200], [0, 200, 255]),
        (aug.Contrast(2, 2), [0, 100, 50], [0, 150, 50]),
        (aug.Contrast(0, 0), [0, 100, 50], [50, 50, 50]),
        (aug.Gamma(2, 2), [0, 51, 255], [0, 10, 255]),
        (aug.Channels(0.5, 7), [0, 100, 255], [7, 57, 134]),
        (aug.Noise(0, 0), [3, 4, 255], [3, 4, 255]),
        (aug.Blur(0.1, 0.1), [3, 4, 255], [3, 4, 255]),
    ],
    ids=lambda value: str(value)[:30],
)
def test_colours_by_hand(step, values, expected):
    """Of bytes; floats by the same rule, without cutting; whole numbers cut at their own limits."""
    masks = np.zeros((1, 3, 0), bool)
    image = row(*values)
    new, same = step(image, masks)
    assert new.dtype == np.uint8 and new.ravel().tolist() == expected and same is masks
    assert image.ravel().tolist() == values
    for dtype in (np.uint16, np.float32, np.float64):
        wide = step(row(*values, dtype=dtype), masks)[0]
        assert wide.dtype == dtype
        within = (np.array(expected) < 255) & (np.array(expected) > 0)
        np.testing.assert_allclose(wide.ravel()[within], np.array(expected)[within], atol=0.5)


def test_stretch_makes_bytes_of_any_exposure():
    """Of 10..20 and of 16 times that in 16 bits alike: the extremes become 0 and 255."""
    for dtype, times in ((np.uint8, 1), (np.uint16, 16), (np.float32, 0.01)):
        image = (row(10, 15, 20, dtype=np.float64) * times).astype(dtype)
        new, _ = aug.Stretch(0, 100)(image, np.zeros((1, 3, 0), bool))
        assert new.dtype == np.uint8 and new.ravel().tolist() == [0, 128, 255]


def test_gamma_of_other_ranges():
    """Of values that are not bytes the range is the image's own; a flat image stays."""
    wide = aug.Gamma(2, 2)(row(1000, 2000, 3000, dtype=np.uint16), np.zeros((1, 3, 0), bool))[0]
    assert wide.ravel().tolist() == [1000, 1500, 3000]
    flat = row(7.0, 7.0, dtype=np.float32)
    np.testing.assert_array_equal(aug.Gamma(2, 2)(flat, np.zeros((1, 2, 0), bool))[0], flat)


def test_values_that_are_no_numbers_and_bits():
    """NaN stays where it is and changes no other value; bits stay bits, those from .5 on."""
    image = row(0, 100, 50, np.nan, np.inf, dtype=np.float32)
    masks = np.zeros((1, 5, 0), bool)
    contrast, _ = aug.Contrast(2, 2)(image, masks)
    np.testing.assert_array_equal(contrast.ravel(), [-50, 150, 50, np.nan, np.inf])
    gamma, _ = aug.Gamma(2, 2)(image, masks)
    np.testing.assert_array_equal(gamma.ravel(), [0, 100, 25, np.nan, np.inf])
    bits = row(0, 1, 1, 1, 0, dtype=bool)
    for step in (aug.Noise(0.01, 0.01), aug.Blur(0.4, 0.4), aug.Brightness(0.9, 0.9)):
        assert step(bits, masks)[0].tolist() == bits.tolist(), step


@pytest.mark.parametrize("sigma", [0.5, 1.3, 5.0])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_blur_is_scipys(sigma, channels):
    image = np.random.default_rng(0).integers(0, 256, (40, 23, channels)).astype(np.float32)
    radius = int(np.ceil(3 * sigma))
    expected = scipy.ndimage.gaussian_filter(
        image, (sigma, sigma, 0), mode="nearest", radius=(radius, radius, 0)
    )
    new, _ = aug.Blur(sigma, sigma)(image, np.zeros((40, 23, 0), bool))
    np.testing.assert_allclose(new, expected, atol=1e-3)
    rounded, _ = aug.Blur(sigma, sigma)(image.astype(np.uint8), np.zeros((40, 23, 0), bool))
    assert np.abs(rounded - expected).max() <= 0.501


def test_noise():
    image = np.full((64, 64, 3), 128, np.uint8)
    masks = np.zeros((64, 64, 0), bool)
    gray, _ = aug.Noise(6, 6)(image, masks, rng=np.random.default_rng(0))
    coloured, _ = aug.Noise(6, 6, per_channel=True)(image, masks, rng=np.random.default_rng(0))
    assert 5.7 < gray.std() < 6.3 and 5.7 < coloured.std() < 6.3
    assert np.ptp(gray, axis=2).max() == 0 and np.ptp(coloured, axis=2).mean() > 3


def test_stain():
    """Nothing is changed by 1 and 0; twice the hematoxylin is twice its optical density."""
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    masks = np.zeros((16, 16, 0), bool)
    np.testing.assert_array_equal(aug.Stain(1, 0)(image, masks)[0], image)
    colour = np.array([0.65, 0.70, 0.29]) / np.linalg.norm([0.65, 0.70, 0.29])
    pure = np.rint(256 * np.exp(-0.6 * colour) - 1).astype(np.uint8)
    double = np.rint(256 * np.exp(-1.2 * colour) - 1)
    new, _ = aug.Stain(2, 0)(np.broadcast_to(pure, (16, 16, 3)), masks)
    assert np.abs(new.astype(int) - double).max() <= 1
    assert not np.array_equal(aug.Stain()(image, masks)[0], image)
    with pytest.raises(ValueError, match=r"Stain takes images.*Received: uint8 \(16, 16, 1\)"):
        aug.Stain()(image[..., :1], masks)


# ---- Scale jitter --------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2.0, 0.5, 0.3, 1.7, 1.0])
def test_place_against_the_whole_scaled_image(scale):
    """Scaled in one piece by other code, then cut or padded at the window."""
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3)).astype(np.uint8)
    _, masks, _, points = example(size=(40, 56), objects=[(2, 3, 30, 20), (21, 28, 40, 56)])
    height = round(40 * scale)
    width = round(56 * scale)
    whole = utils.resize(image.astype(float), (height, width), mode="edge", preserve_range=True)
    rows = ((np.arange(height) + 0.5) * 40 / height).astype(int)
    columns = ((np.arange(width) + 0.5) * 56 / width).astype(int)
    whole_masks = masks[rows][:, columns]
    for seed in range(8):
        placed = aug.place(
            image, shuffled_memory(masks), (48, 48), np.random.default_rng(seed), scale, points, 9
        )
        y1, x1, y2, x2 = placed.window
        assert (y2 - y1, x2 - x1) == (min(48, height), min(48, width))
        # The keypoint that tells where the image begins.
        y, x = placed.points[0, 0, :2] - np.array([2, 3]) * (height / 40, width / 56)
        if not placed.points[0, 0, 2]:
            continue
        y = round(y)
        x = round(x)
        assert (y1, x1) == (max(y, 0), max(x, 0))
        part = (slice(y1 - y, y2 - y), slice(x1 - x, x2 - x))
        inside = np.zeros((48, 48), bool)
        inside[y1:y2, x1:x2] = True
        assert (placed.image[~inside] == 9).all() and not placed.masks[~inside].any()
        difference = placed.image[y1:y2, x1:x2] - whole[part]
        assert np.abs(difference).max() <= 0.51
        np.testing.assert_array_equal(placed.masks[y1:y2, x1:x2], whole_masks[part])


def test_scale_jitter_of_one_image():
    """All scales of the range, every place; seeds repeat."""
    image, masks, _, points = example()
    areas = []
    for seed in range(60):
        new, new_masks, new_points = aug.scale_jitter(
            image, masks, np.random.default_rng(seed), (0.5, 2.0), points
        )
        assert new.shape == image.shape and new_masks.shape == masks.shape
        again = aug.scale_jitter(image, masks, np.random.default_rng(seed), (0.5, 2.0))
        assert np.array_equal(again[0], new) and np.array_equal(again[1], new_masks)
        areas.append(new_masks[..., 1].sum() / masks[..., 1].sum())
        for y, x, visibility in new_points.reshape(-1, 3):
            assert visibility == 0 or (-1 < y < 64 and -1 < x < 64)
    assert min(areas) < 0.4 and 2 < max(areas) <= 4.1
    with pytest.raises(ValueError, match="A scale is a positive number. Received: 0"):
        aug.place(image, masks, (9, 9), np.random.default_rng(0), 0)
    with pytest.raises(ValueError, match=r"of one size. Received: \(64, 64, 3\) and \(32, 64, 5\)"):
        aug.scale_jitter(image, masks[:32], np.random.default_rng(0))


# ---- Copy-paste ----------------------------------------------------------------------------------

OTHERS = [(0, 0, 25, 18), (10, 10, 30, 32), (60, 60, 64, 64), (40, 0, 44, 4)]


@pytest.mark.parametrize("behind", [False, True])
def test_pasted_objects_cover_exactly(behind):
    """Pixels, masks and ids agree; the union is that of both; what is covered is gone."""
    image, masks, ids, points = example(1)
    other, other_masks, other_ids, other_points = example(2, objects=OTHERS)
    other_masks[..., 0] &= ~other_masks[..., 1]  # it is drawn below the next one
    if behind:
        masks = shuffled_memory(masks)
        other_masks = shuffled_memory(other_masks)
    gone = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        new, new_masks, new_ids, new_points = aug.copy_paste(
            *(image, masks, ids, other, other_masks, other_ids, rng),
            points=points,
            other_points=other_points,
        )
        found = shown(new, new_masks)
        assert found == sorted(found) and found[-1][0] == 2
        pasted = [k for number, k in found if number == 2]
        kept = [k for number, k in found if number == 1]
        covered = other_masks[..., [k - 1 for k in pasted]].any(axis=2)
        np.testing.assert_array_equal(new_masks.any(axis=2), masks.any(axis=2) | covered)
        assert new_masks.sum(axis=2).max() == 1
        np.testing.assert_array_equal(new[~covered], image[~covered])
        expected = [(masks[..., k] & ~covered).any() for k in range(5)]
        assert kept == [k + 1 for k in range(5) if expected[k]]
        gone += 5 - len(kept)
        assert new_ids.tolist() == [ids[k - 1] for k in kept] + [other_ids[k - 1] for k in pasted]
        rows = np.concatenate([points[np.array(kept) - 1], other_points[np.array(pasted) - 1]])
        np.testing.assert_array_equal(new_points[..., :2], rows[..., :2])
        for (number, k), places in zip(found, new_points.astype(int)):
            for y, x, visibility in places:
                hidden = number == 1 and covered[y, x]
                assert visibility == 2 - hidden, (number, k)
    assert gone  # the first object lies under the other's first
    np.testing.assert_array_equal(image, example(1)[0])


def test_how_many_are_pasted():
    """One to all, evenly; up to the limit; a full image gets none."""
    image, masks, ids, _ = example(1, objects=OBJECTS[:2])
    other, other_masks, other_ids, _ = example(2, objects=OTHERS[1:])

    def pasted(seed, limit):
        rng = np.random.default_rng(seed)
        found = aug.copy_paste(
            *(image, masks, ids, other, other_masks, other_ids, rng), limit=limit
        )
        return sum(number == 2 for number, _ in shown(*found[:2]))

    counts = np.bincount([pasted(seed, None) for seed in range(90)])
    assert counts[0] == 0 and counts[1:].min() > 15
    assert {pasted(seed, 3) for seed in range(20)} == {1}
    assert {pasted(seed, 2) for seed in range(5)} == {pasted(0, 1)} == {0}


def test_crowds_and_nothing():
    """Crowds are covered, and never pasted; no objects on either side are no difference."""
    image, masks, ids, _ = example(1)
    other, other_masks, other_ids, _ = example(2, objects=OTHERS)
    rng = np.random.default_rng(0)
    same = aug.copy_paste(image, masks, ids, other, other_masks, -other_ids, rng)
    np.testing.assert_array_equal(same[0], image)
    np.testing.assert_array_equal(same[1], masks)
    new, new_masks, new_ids = aug.copy_paste(
        *(image, masks, -ids, other, other_masks[..., 1:2], [2], rng)
    )
    assert new_ids.tolist() == [*(-ids), 2]
    assert new_masks[..., :5].sum() == masks.sum() - (masks.any(axis=2) & other_masks[..., 1]).sum()
    none = masks[..., :0]
    for new, new_masks, new_ids in (
        aug.copy_paste(image, none, [], other, none, [], rng),
        aug.copy_paste(image, none, ids[:0], other, none, ids[:0], rng),
    ):
        assert new_masks.shape == (64, 64, 0) and new_ids.shape == (0,)
        assert new_ids.dtype == np.int32
        np.testing.assert_array_equal(new, image)
    empty = example(1, objects=[])[0]
    alone = aug.copy_paste(empty, none, [], other, other_masks[..., 1:2], [2], rng)
    assert alone[2].tolist() == [2] and shown(*alone[:2]) == [(2, 2)]


@pytest.mark.parametrize("size", [(40, 90), (90, 40), (64, 64)], ids=str)
def test_other_sizes_scales_and_mirror_images(size):
    image, masks, ids, _ = example(1)
    other, other_masks, other_ids, other_points = example(2, size, [(3, 3, 30, 30)])
    other_ids[:] = 9
    heights = set()
    upright = set()
    for seed in range(40):
        _, new_masks, new_ids, new_points = aug.copy_paste(
            *(image, masks, ids, other, other_masks, other_ids, np.random.default_rng(seed)),
            scales=(1.0, 1.5),
            flip_share=0.5,
            flip_pairs=((0, 1),),
            points=np.zeros((5, 2, 3)),
            other_points=other_points,
        )
        if 9 not in new_ids:
            continue  # it was cut off
        y1, x1, y2, x2 = utils.extract_bboxes(new_masks[..., -1:])[0]
        heights.add(int(y2 - y1))
        if (new_points[-1, :, 2] == 2).all():
            # Lower left and upper right in the mirror image, where names are exchanged.
            (y, x), (other_y, other_x) = new_points[-1, :, :2]
            upright.add(bool(y < other_y))
            assert abs(x - x1) <= 2 and abs(other_x - x2 + 1) <= 2
            assert abs(min(y, other_y) - y1) <= 2 and abs(max(y, other_y) - y2 + 1) <= 2
    assert len(heights) > 5 and max(heights) <= 41
    assert upright == {True, False}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"other_image": np.zeros((64, 64, 1), np.uint8)}, r"same channels. Received: \[3, 1\]"),
        ({"class_ids": [1]}, r"5 masks and class ids of shape \(1,\)"),
        ({"other_points": np.zeros((4, 2, 3))}, "all images .* have keypoints, or none"),
        ({"points": np.zeros((4, 2, 3))}, "5 masks and keypoints of shape"),
        ({"other_masks": np.zeros((63, 64, 4), bool)}, "of one size"),
        ({"flip_share": 2}, "flip_share is a probability"),
        ({"scales": (2, 1)}, r"scales is \(low, high\)"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_refusals(change, words):
    image, masks, ids, _ = example(1)
    other, other_masks, other_ids, _ = example(2, objects=OTHERS)
    given = dict(
        image=image,
        masks=masks,
        class_ids=ids,
        other_image=other,
        other_masks=other_masks,
        other_class_ids=other_ids,
        rng=np.random.default_rng(0),
    )
    with pytest.raises(ValueError, match=words):
        aug.copy_paste(**{**given, **change})


# ---- Mosaic --------------------------------------------------------------------------------------


def ramp(number, size, objects):
    """An image whose pixels say which pixel of which image they are; and its objects."""
    _, masks, ids, points = example(number, size, objects)
    y, x = np.indices(size)
    return np.stack([y, x, np.full(size, number)], axis=-1).astype(np.int32), masks, ids, points


@pytest.mark.parametrize("fill", [0, (7, 8, 9)], ids=str)
def test_the_mosaics_objects_are_those_of_its_crops(fill):
    """Every pixel tells where it comes from: masks, ids and keypoints are looked up there."""
    examples = [
        ramp(1, (64, 64), OBJECTS),
        ramp(2, (80, 70), OTHERS),
        ramp(3, (64, 64), []),
        ramp(4, (20, 90), [(2, 2, 18, 40), (0, 50, 20, 90)]),
    ]
    images, masks, ids, points = map(list, zip(*examples))
    dropped = 0
    for seed in range(30):
        image, new_masks, new_ids, new_points = aug.mosaic(
            images, masks, ids, np.random.default_rng(seed), points=points, fill=fill
        )
        assert image.shape == (64, 64, 3) and new_masks.any(axis=(0, 1)).all()
        number = image[..., 2]
        padding = (image == np.broadcast_to(fill, 3)).all(axis=-1)
        expected = []
        for k in range(1, 5):
            part = (number == k) & ~padding
            source = image[part]
            if not len(source):
                continue
            ys, xs = np.nonzero(part)
            # A crop at its own scale: one shift for all pixels.
            shift = np.unique(source[:, :2] - np.stack([ys, xs], axis=1), axis=0)
            assert len(shift) == 1
            for i in range(masks[k - 1].shape[2]):
                mask = np.zeros((64, 64), bool)
                mask[part] = masks[k - 1][source[:, 0], source[:, 1], i]
                if not mask.any():
                    dropped += 1
                    continue
                expected.append((mask, ids[k - 1][i]))
                moved = points[k - 1][i, :, :2] - shift[0]
                own = new_points[len(expected) - 1]
                for (y, x), (own_y, own_x, visibility) in zip(moved, own):
                    is_there = 0 <= y < 64 and 0 <= x < 64 and part[int(y), int(x)]
                    assert visibility == 2 * is_there
                    assert (own_y, own_x) == ((y, x) if is_there else (0, 0))
        assert len(expected) == len(new_ids) == new_masks.shape[2]
        for i, (mask, class_id) in enumerate(expected):
            np.testing.assert_array_equal(new_masks[..., i], mask)
            assert new_ids[i] == class_id
    assert dropped


def test_mosaics_sizes_and_refusals():
    image, masks, ids, _ = example()
    four = ([image] * 4, [masks] * 4, [ids] * 4)
    rng = np.random.default_rng(0)
    for shape in ((64, 96), (5, 4), (1, 1)):
        new, new_masks, new_ids = aug.mosaic(*four, rng, shape=shape)
        assert new.shape == (*shape, 3) and new_masks.shape == (*shape, len(new_ids))
    with pytest.raises(ValueError, match=r"4 images with their masks.*Received: \[3, 4, 4, 4\]"):
        aug.mosaic([image] * 3, [masks] * 4, [ids] * 4, rng, points=[None] * 4)
    with pytest.raises(ValueError, match=r"same channels. Received: \[3, 3, 3, 1\]"):
        aug.mosaic([image] * 3 + [image[..., :1]], *four[1:], rng)


# ---- Settings ------------------------------------------------------------------------------------


class Numbered(utils.Dataset):
    """Images of `example`: numbers from 1 on, classes 1 and 2."""

    def __init__(self, count=5, size=(64, 64), sources=("a",), channels=3):
        super().__init__()
        for source in sources:
            for name in ("first", "second"):
                self.add_class(source, name, name)
        self.size = size
        self.channels = channels
        for i in range(count):
            self.add_image(sources[i % len(sources)], i, path=f"{i}.png")
        self.prepare()

    def _example(self, image_id):
        objects = (OBJECTS, OTHERS[1:], [])[image_id % 3]
        return example(image_id + 1, self.size, objects)

    def load_image(self, image_id):
        return np.resize(self._example(image_id)[0], (*self.size, self.channels))

    def load_mask(self, image_id):
        own = self.source_class_ids[self.image_info[image_id]["source"]]
        _, masks, ids, _ = self._example(image_id)
        return masks, ids + own[1] - 1

    def load_keypoints(self, image_id):
        return self._example(image_id)[3]


def settings(**changes):
    fixed = dict(MAX_GT_INSTANCES=30, USE_MINI_MASK=False, NUM_CLASSES=3)
    return ToyConfig(**{**fixed, **changes})


def loaded(dataset, config, image_id=0, seed=0, **arguments):
    rng = np.random.default_rng(seed)
    return data.load_image_gt(dataset, config, image_id, rng=rng, jitter=True, **arguments)


MIXES = [{"COPY_PASTE": 1.0}, {"MOSAIC": 1.0}, {"COPY_PASTE": 0.5, "MOSAIC": 0.5}]


@pytest.mark.parametrize("mix", MIXES, ids=str)
@pytest.mark.parametrize("mode", ["square", "crop", "pad64"])
def test_examples_of_several_images(mix, mode):
    """Masks show their objects and have one; boxes are theirs; the meta is the first image's."""
    config = settings(IMAGE_RESIZE_MODE=mode, IMAGE_MIN_DIM=64, IMAGE_MAX_DIM=64, **mix)
    dataset = Numbered()
    numbers = set()
    for seed in range(12):
        image, meta, ids, boxes, masks = loaded(dataset, config, seed % 5, seed)
        found = shown(image, masks, repeated=True)
        numbers.update(number for number, _ in found)
        assert len(ids) == len(found) and (boxes[:, 2] > 0).all()
        np.testing.assert_array_equal(boxes, utils.extract_bboxes(masks))
        assert meta[0] == seed % 5 and meta[11] == 1
        assert meta[1:7].tolist() == [64, 64, 3] * 2 and meta[7:11].tolist() == [0, 0, 64, 64]
        for class_id, (number, k) in zip(ids, found):
            assert class_id == dataset._example(number - 1)[2][k - 1]
    assert len(numbers) > 2


@pytest.mark.parametrize("mix", [*MIXES, {"SCALE_JITTER": (0.3, 2.0)}], ids=str)
def test_training_draws_validation_does_not(mix):
    dataset = Numbered()
    config = settings(**mix)
    plain = data.load_image_gt(dataset, settings(), 0)
    without = data.load_image_gt(dataset, config, 0, rng=np.random.default_rng(0))
    assert all(map(np.array_equal, plain, without))
    assert any(not np.array_equal(loaded(dataset, config, 0, seed)[0], plain[0]) for seed in (1, 2))


@pytest.mark.parametrize("mini", [False, True])
def test_batches_do_not_depend_on_threads_or_the_first_step(mini):
    """What WORKERS and resuming change."""
    config = settings(
        COPY_PASTE=0.5,
        MOSAIC=0.5,
        SCALE_JITTER=(0.5, 2),
        HORIZONTAL_FLIP=0.5,
        USE_MINI_MASK=mini,
    )
    step = aug.SomeOf((0, 2), [aug.Flip(), aug.Turn(), aug.Noise()])

    def batches():
        return data.TrainingBatches(Numbered(), config, augmentation=step, seed=2, jitter=True)

    one_by_one = batches()
    serial = [one_by_one.batch(number)[0] for number in range(4)]
    for workers in (2, 4):
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            parallel = list(pool.map(batches().batch, [3, 2, 1, 0]))
        for expected, (got, _, _) in zip(serial, parallel[::-1]):
            assert all(map(np.array_equal, expected, got))
    assert all(map(np.array_equal, serial[3], batches().batch(3)[0]))
    assert not np.array_equal(serial[0][0], serial[1][0])
    shape = (28, 28) if mini else (64, 64)
    assert serial[0][6].shape == (2, *shape, 30)


def test_window_and_scale_of_a_jittered_image():
    """Where the window says there is image, elsewhere padding; the scale is that of the objects."""
    dataset = Numbered(3, size=(64, 48))
    config = settings(SCALE_JITTER=(0.4, 1.6), MEAN_PIXEL=np.zeros(3))
    scales = []
    for seed in range(20):
        image, meta, _, boxes, _ = loaded(dataset, config, 0, seed)
        y1, x1, y2, x2 = meta[7:11].astype(int)
        inside = np.zeros((64, 64), bool)
        inside[y1:y2, x1:x2] = True
        np.testing.assert_array_equal(image[..., 0] == 1, inside)
        assert image.shape == (64, 64, 3) and meta[4:7].tolist() == [64, 64, 3]
        scale = meta[11]
        scales.append(scale)
        assert x2 - x1 == min(64, round(48 * scale)) and y2 - y1 == min(64, round(64 * scale))
        whole = (boxes[:, :2] > (y1, x1)).all(axis=1) & (boxes[:, 2:] < (y2, x2)).all(axis=1)
        heights = boxes[whole, 2] - boxes[whole, 0]
        if len(heights):
            known = [17 * scale, 18 * scale, 8 * scale, 20 * scale, scale]
            assert all(min(abs(height - each) for each in known) <= 1 for height in heights)
    assert min(scales) < 0.7 and max(scales) > 1.3


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_padding_is_the_mean_where_it_is_molded_first(dtype):
    """FLOAT_RESIZE: padding is 0 after molding, also where pasted objects lie in it."""

    class Small(Numbered):
        def load_image(self, image_id):
            return super().load_image(image_id).astype(dtype)

    dataset = Small(2, size=(64, 64))
    config = settings(
        FLOAT_RESIZE=True,
        SCALE_JITTER=(0.2, 0.6),
        COPY_PASTE=1.0,
        MOSAIC=0.5,
        MEAN_PIXEL=np.array([3.0, 30.0, 110.0]),
        IMAGES_PER_GPU=4,
    )
    batches = data.TrainingBatches(dataset, config, seed=0, jitter=True)
    grown = 0
    for step in range(4):
        images, metas, _, _, ids, boxes, masks = batches.batch(step)[0]
        for image, meta, own_ids, own_boxes, own_masks in zip(images, metas, ids, boxes, masks):
            y1, x1, y2, x2 = meta[7:11]
            for box in own_boxes[own_ids > 0]:
                assert y1 <= box[0] and x1 <= box[1] and box[2] <= y2 and box[3] <= x2
            empty = np.abs(image).max(axis=-1) == 0
            grown += y2 - y1 > 45
            # Objects are seen in their own colour: blue is 200, less the mean.
            assert not empty[own_masks.any(axis=2)].any()
            assert empty.mean() > 0.1
    assert grown


def test_only_images_that_label_the_same_classes_are_mixed():
    """Of the same source, not one that stays as it is; of the same group."""
    dataset = Numbered(8, sources=("a", "b"))
    config = settings(MOSAIC=1.0, COPY_PASTE=1.0, NUM_CLASSES=5)
    for image_id in range(4):
        for seed in range(4):
            image, meta, ids, _, masks = loaded(dataset, config, image_id, seed)
            numbers = {number - 1 for number, _ in shown(image, masks, repeated=True)}
            assert {number % 2 for number in numbers} <= {image_id % 2}
            assert set(ids) <= set(np.flatnonzero(meta[12:]))
    with pytest.raises(data.DatasetError, match=r"image 0 .*\[0, 1, 2\].*image 1 .*\[0, 3, 4\]"):
        loaded(dataset, config, 0, partners=[1])
    for image_id in (0, 2):
        dataset.image_info[image_id]["mixing_group"] = "bright"
    batches = data.TrainingBatches(dataset, config, seed=0, jitter=True)
    assert batches._partners_of(0).tolist() == [0, 2]
    assert batches._partners_of(6).tolist() == [4, 6]
    assert batches._partners_of(3).tolist() == [1, 3, 5, 7]


def test_sources_without_augmentation_are_not_mixed_in():
    dataset = Numbered(4)
    dataset.source_class_ids["b"] = dataset.source_class_ids["a"]
    dataset.image_info[1]["source"] = dataset.image_info[3]["source"] = "b"
    config = settings(COPY_PASTE=1.0)
    batches = data.TrainingBatches(
        dataset, config, jitter=True, no_augmentation_sources=["b"], shuffle=False
    )
    for step in range(4):
        images, metas, *_ = batches.batch(step)[0]
        for image, meta in zip(images + config.MEAN_PIXEL, metas):
            numbers = set(np.rint(image[..., 0]).astype(int).ravel()) - {0}
            if meta[0] % 2:
                assert numbers == {meta[0] + 1}
            else:
                assert numbers <= {1, 3}
    everything = data.TrainingBatches(dataset, config, jitter=True)
    assert everything._partners_of(0).tolist() == [0, 1, 2, 3]


def test_no_more_objects_than_training_takes():
    """Pasting stops at MAX_GT_INSTANCES: an object in the image without its mask is background."""
    dataset = Numbered(4)
    counts = []
    for limit in (6, 5, 3):
        config = settings(COPY_PASTE=1.0, MAX_GT_INSTANCES=limit)
        for seed in range(10):
            image, _, ids, _, masks = loaded(dataset, config, 0, seed)
            assert len(shown(image, masks)) == len(ids) <= max(limit, 5)
            counts.append((limit, sum(number > 1 for number, _ in shown(image, masks))))
    assert (6, 1) in counts and all(pasted == 0 for limit, pasted in counts if limit < 6)
    config = settings(MOSAIC=1.0, MAX_GT_INSTANCES=2)
    ids = data.TrainingBatches(dataset, config, jitter=True).batch(0)[0][4]
    assert ids.shape == (2, 2)


def test_one_image_alone_is_not_mixed():
    for mix in MIXES:
        plain = data.load_image_gt(Numbered(1), settings(), 0)
        assert all(map(np.array_equal, plain, loaded(Numbered(1), settings(**mix), 0)))


@pytest.mark.parametrize("channels", [1, 5])
def test_other_channel_counts(channels):
    config = settings(
        IMAGE_CHANNEL_COUNT=channels,
        MEAN_PIXEL=np.zeros(channels),
        COPY_PASTE=1.0,
        MOSAIC=1.0,
        SCALE_JITTER=(0.5, 1.5),
    )
    step = aug.Chain(
        [aug.Flip(), aug.Turn(), aug.Channels(), aug.Contrast(), aug.Blur(), aug.Noise()]
    )
    image, _, ids, _, masks = loaded(Numbered(4, channels=channels), config, 0, augmentation=step)
    assert image.shape == (64, 64, channels) and masks.shape[2] == len(ids) > 0


@pytest.mark.parametrize("mix", [*MIXES, {"SCALE_JITTER": (0.5, 2.0)}], ids=str)
def test_keypoints_follow(mix):
    """A point that is labelled lies on its object, or under one that covers it, then hidden."""
    config = settings(
        USE_KEYPOINTS=True, NUM_KEYPOINTS=2, KEYPOINT_FLIP_PAIRS=(), HORIZONTAL_FLIP=0.5, **mix
    )
    dataset = Numbered()
    seen = set()
    for seed in range(15):
        *_, masks, points = loaded(dataset, config, seed % 2, seed)
        assert len(points) == masks.shape[2]
        for mask, places in zip(np.moveaxis(masks, -1, 0), points):
            for y, x, visibility in places:
                seen.add(int(visibility))
                near = mask[max(int(y) - 2, 0) : int(y) + 3, max(int(x) - 2, 0) : int(x) + 3]
                assert visibility < 2 or near.any()
    assert {0, 2} <= seen or mix == {"COPY_PASTE": 1.0} and {1, 2} <= seen


def test_a_partner_that_cannot_be_read_is_named():
    dataset = Numbered(2)
    first = dataset.load_mask

    def load_mask(image_id):
        return {}["x"] if image_id == 1 else first(image_id)

    dataset.load_mask = load_mask
    with pytest.raises(data.DatasetError, match="the masks of image 1 .*can't be read: KeyError"):
        loaded(dataset, settings(COPY_PASTE=1.0), 0)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"COPY_PASTE": 1.5}, r"COPY_PASTE lies in 0\.\.1. Received: 1.5"),
        ({"MOSAIC": "no"}, r"MOSAIC lies in 0\.\.1. Received: 'no'"),
        ({"SCALE_JITTER": (2, 1)}, r"SCALE_JITTER is \(low, high\).*Received: \(2, 1\)"),
        ({"SCALE_JITTER": (0, 1)}, r"SCALE_JITTER is \(low, high\)"),
        ({"SCALE_JITTER": 2.0}, r"SCALE_JITTER is \(low, high\)"),
        (
            {"SCALE_JITTER": (0.1, 2), "IMAGE_RESIZE_MODE": "none"},
            r"SCALE_JITTER needs an IMAGE_RESIZE_MODE that resizes",
        ),
        (
            {"SCALE_JITTER": (0.1, 2), "IMAGE_MIN_DIM_CHOICES": (640, 800)},
            "SCALE_JITTER and IMAGE_MIN_DIM_CHOICES are two ways",
        ),
    ],
    ids=str,
)
def test_settings_are_checked(changes, words):
    with pytest.raises(ValueError, match=words):
        Config(NUM_CLASSES=2, **changes).validate()


def test_settings_that_fit():
    Config(NUM_CLASSES=2, SCALE_JITTER=[0.1, 2], COPY_PASTE=0.5, MOSAIC=1).validate()
    config = Config(NUM_CLASSES=2)
    config.override(["SCALE_JITTER=(.5, 2)", "COPY_PASTE=.5"])
    config.validate()
    assert config.SCALE_JITTER == (0.5, 2)


def test_what_a_partial_has_bound_stays():
    def turn(image, masks, rng, flip_pairs=((0, 1),)):
        return image + rng, masks

    image = np.zeros((2, 2, 3), np.uint8)
    bound = functools.partial(turn, rng=7)
    found, *_ = aug.call(bound, image, np.zeros((2, 2, 0), bool), rng=np.random.default_rng(0))
    assert (found == 7).all()
