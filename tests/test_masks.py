"""Lazy masks, run lengths and overlaps of masks, against numpy's own indexing and counting."""

import sys

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mrcnn import coco, evaluate, inference, masks, utils


def soft_masks(count, seed=0):
    """[count, 28, 28] probabilities and boxes that partly lie outside an image of 40 x 50."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(-8, 30, (count, 2))
    boxes = np.concatenate([corners, corners + rng.integers(1, 30, (count, 2))], axis=1)
    return rng.random((count, 28, 28)).astype("float32"), boxes


def one_behind_the_other(array):
    """The masks [H, W, N] as a view of [N, H, W] in memory."""
    return np.ascontiguousarray(array.transpose(2, 0, 1)).transpose(1, 2, 0)


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_lazy_masks_are_indexed_as_the_array(threshold):
    lazy = masks.Masks(*soft_masks(6), (40, 50), threshold)
    dense = np.asarray(lazy)
    rows = np.array([1, 2])
    keys = [
        3,
        (slice(3, 9), 4),
        (Ellipsis, -1),
        (Ellipsis, 5, 2),  # not mask 2
        (Ellipsis, None),
        (Ellipsis, True),
        (slice(None), slice(None), np.int64(2)),
        (slice(None), slice(None), [1, 2]),
        (slice(None), slice(None), (0, 1)),
        (slice(None), slice(None), np.arange(6) % 2 == 0),
        (rows, rows, 0),
    ]
    for key in keys:
        np.testing.assert_array_equal(lazy[key], dense[key], err_msg=str(key))


def test_one_encoding_from_crops_and_from_whole_masks():
    lazy = masks.Masks(*soft_masks(6), (40, 50))
    dense = np.asarray(lazy)
    codes = masks.encode(np.ascontiguousarray(dense))
    assert lazy.rle() == masks.encode(lazy) == codes
    assert [code["size"] for code in codes] == [[40, 50]] * 6
    annotations = [{"segmentation": code} for code in codes]
    np.testing.assert_array_equal(masks.decode(annotations, 40, 50), dense)
    assert masks.encode(dense[..., :0]) == masks.encode_crops([], (40, 50)) == []


def test_encodings_without_pycocotools(monkeypatch):
    """Where exported models run: the same codes, of full, empty and other masks, and of none."""
    found = np.random.default_rng(0).random((7, 5, 4)) < (0.0, 0.3, 0.7, 1.1)
    expected = masks.encode(found)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    assert masks.encode(found) == expected
    assert masks.encode(found.astype(np.uint8) * 7) == expected
    assert masks.encode(np.zeros((7, 5, 0), bool)) == []


def test_decoding_without_pycocotools(monkeypatch):
    """Masks of so many runs that pycocotools decodes them where it is there."""
    noise = np.random.default_rng(0).random((30, 40, 3)) < [0.5, 0.02, 0.9]
    codes = masks.encode(noise)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    np.testing.assert_array_equal(masks.decode_rle(codes, 30, 40), noise)
    crops = list(masks.crops_of(codes))
    for i, (box, crop) in enumerate(crops):
        y1, x1, y2, x2 = box
        assert crop.sum() == noise[..., i].sum()
        np.testing.assert_array_equal(crop, noise[y1:y2, x1:x2, i])


def test_crops_encoded_together_as_pycocotools_encodes_each(monkeypatch):
    """Of all sizes, in groups or alone: none, full, at each edge of the image, single pixels."""
    rng = np.random.default_rng(0)
    height, width = 23, 31
    crops = [
        ((0, 0, 0, 0), np.zeros((0, 0), bool)),
        ((0, 0, height, width), np.ones((23, 31), bool)),
    ]
    for _ in range(200):
        y1, y2 = np.sort(rng.choice(height + 1, 2, replace=False))
        x1, x2 = np.sort(rng.choice(width + 1, 2, replace=False))
        crop = rng.random((y2 - y1, x2 - x1)) < rng.choice([0, 0.1, 0.5, 0.9, 1])
        crops.append(((y1, x1, y2, x2), crop))
    expected = []
    for (y1, x1, y2, x2), crop in crops:
        whole = np.zeros((height, width), np.uint8, order="F")
        whole[y1:y2, x1:x2] = crop
        code = coco_mask.encode(whole)
        expected.append({"size": [height, width], "counts": code["counts"].decode()})
        runs = masks.run_lengths((y1, x1, y2, x2), crop, (height, width))
        assert runs == masks.decompressed(code["counts"])
    assert masks.encode_crops(iter(crops), (height, width)) == expected
    monkeypatch.setattr(masks, "RUNS_AT_ONCE", 500)
    assert masks.encode_crops(iter(crops), (height, width)) == expected


def test_compressed_numbers_of_every_length():
    """Against pycocotools: up to 31 bits, falling and rising, masks without and with few runs."""
    runs = [[2**bits + shift for bits in range(2, 26) for shift in (-1, 0, 1)], [7], [0, 9], []]
    runs.append(runs[0][::-1])
    runs.append([5, 2**30, 6, 2**29, 5, 1])
    texts = masks.compressed(np.concatenate(runs).astype(int), [len(each) for each in runs])
    for counts, text in zip(runs, texts):
        code = coco_mask.frPyObjects([{"size": [1, sum(counts)], "counts": counts}], 1, sum(counts))
        assert text == code[0]["counts"].decode()
        assert masks.decompressed(text) == counts


def test_names_that_existing_code_imports_from_elsewhere():
    assert inference.Masks is masks.Masks and inference.run_lengths is masks.run_lengths
    assert coco.to_rle is masks.to_rle and coco.decode is masks.decode
    assert evaluate.encode is masks.encode
    names = "minimize_mask expand_mask mold_mask unmold_mask unmold_masks pad_masks unmold_crop"
    for name in (*names.split(), "compute_overlaps_masks"):
        assert getattr(utils, name) is getattr(masks, name)


def test_overlaps_both_ways():
    """Counted in the boxes' common part or by a matrix product: the same numbers."""
    rng = np.random.default_rng(0)
    masks1 = rng.random((50, 40, 30)) < 0.5
    masks2 = rng.random((50, 40, 23)) < 0.3
    masks1[:30, :, :20] = False
    masks2[:, 10:, 4:] = False
    common = (masks1[..., :, None] & masks2[..., None, :]).sum(axis=(0, 1))
    counts1 = masks1.sum(axis=(0, 1))
    union = counts1[:, None] + masks2.sum(axis=(0, 1)) - common
    np.testing.assert_array_equal(masks._common_pixels_dense(masks1, masks2), common)
    for first, second in (
        (masks1, masks2),
        (one_behind_the_other(masks1), masks2),
        (one_behind_the_other(masks1), one_behind_the_other(masks2)),
    ):
        boxes1, crops1 = masks._boxes_and_crops(first)
        boxes2, crops2 = masks._boxes_and_crops(second)
        if crops1[0].dtype == crops2[0].dtype:
            counted = masks._common_pixels(boxes1, crops1, boxes2, crops2, common > 0)
            np.testing.assert_array_equal(counted, common)
            assert [masks._count_pixels(crop) for crop in crops1] == counts1.tolist()
        boxes1, crops1 = masks._unpacked(boxes1, crops1)
        boxes2, crops2 = masks._unpacked(boxes2, crops2)
        counted = masks._common_pixels(boxes1, crops1, boxes2, crops2, common > 0)
        np.testing.assert_array_equal(counted, common)
        assert [masks._count_pixels(crop) for crop in crops1] == counts1.tolist()
        overlaps = utils.compute_overlaps_masks(first, second)
        np.testing.assert_allclose(overlaps, common / union, rtol=1e-6)


@pytest.mark.parametrize(
    "size, settings",
    [
        ((40, 50), {"min_dim": 64, "max_dim": 128, "mode": "square"}),
        ((40, 50), {"min_dim": 20, "max_dim": 128, "mode": "square"}),
        ((130, 90), {"min_dim": 64, "max_dim": 64, "mode": "square"}),
        ((40, 50), {"min_dim": 64, "max_dim": 128, "mode": "pad64"}),
        ((90, 150), {"min_dim": 64, "max_dim": 64, "mode": "crop"}),
        ((90, 150), {"min_dim": 64, "max_dim": 128, "min_scale": 1.5, "mode": "crop"}),
        ((64, 128), {"mode": "none"}),
    ],
)
@pytest.mark.parametrize("exact", [False, True])
def test_masks_one_behind_the_other_are_treated_alike(size, settings, exact):
    """Resized, boxed and minimized, they are what masks are that alternate pixel by pixel."""
    rng = np.random.default_rng(0)
    plain = np.zeros((*size, 450), bool)
    for i in range(449):  # the last one is empty
        y, x = rng.integers(0, size)
        height, width = rng.integers(1, 30, 2)
        part = plain[y : y + height, x : x + width, i]
        part[:] = rng.random(part.shape) < 0.7
    image = np.zeros((*size, 3), np.uint8)
    _, _, scale, padding, crop = utils.resize_image(
        image, rng=np.random.default_rng(1), exact=exact, **settings
    )
    resized = utils.resize_mask(plain, scale, padding, crop, exact)
    ours = utils.resize_mask(one_behind_the_other(plain), scale, padding, crop, exact)
    np.testing.assert_array_equal(ours, resized)
    assert ours.dtype == bool
    boxes = utils.extract_bboxes(resized)
    np.testing.assert_array_equal(utils.extract_bboxes(ours), boxes)
    full = boxes[:, 2] > 0
    expected = utils.minimize_mask(boxes[full], resized[..., full], (14, 28))
    found = utils.minimize_mask(boxes[full], ours[..., full], (14, 28))
    np.testing.assert_array_equal(found, expected)
    alone = utils.minimize_mask(boxes[full][300:301], resized[..., full][..., 300:301], (14, 28))
    np.testing.assert_array_equal(found[..., 300:301], alone)


def test_compressed_runs_are_pycocotools_own():
    """Against its decoder, for masks of any size, empty and full ones too."""
    from pycocotools import mask as coco_mask

    rng = np.random.default_rng(0)
    for share in (0, 0.02, 0.5, 1) * 10:
        height, width = rng.integers(1, 60, 2).tolist()
        mask = rng.random((height, width)) < share
        code = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
        runs = masks.decompressed(code["counts"])
        assert sum(runs) == height * width and min(runs) >= 0
        shapes = [code, {"size": [height, width], "counts": runs}]
        found = masks.decode([{"segmentation": shape} for shape in shapes], height, width)
        np.testing.assert_array_equal(found[..., 0], mask)
        np.testing.assert_array_equal(found[..., 1], mask)


@pytest.mark.parametrize("text", ["1", "ab", "0", "Z\x7f", "üü", "oooooooooooo0", "0" * 9 + "P"])
def test_compressed_runs_that_break_off_or_are_none(text):
    try:
        runs = masks.decompressed(text)
    except masks.SegmentationError as error:
        assert error.kind == masks.BAD_RUNS and "COCO's compressed text" in str(error)
        return
    assert text in ("1", "0") and runs == [int(text)]


def test_a_union_of_run_lengths_and_polygons():
    """A list may hold both; the masks are joined."""
    square = {"segmentation": [[2, 2, 6, 2, 6, 6, 2, 6]]}
    plain = masks.decode([square], 12, 10)
    code = masks.encode(np.roll(plain, 4, axis=0))[0]
    both = {"segmentation": [*square["segmentation"], code, {"size": [1, 1], "counts": [1]}]}
    np.testing.assert_array_equal(masks.decode([both], 12, 10), plain | np.roll(plain, 4, axis=0))


# ---- Label maps ----------------------------------------------------------------------------------


def heap_of_masks(count=12, height=40, width=52, seed=0):
    """[H, W, N] bool: rectangles with holes that overlap, the third without a pixel."""
    rng = np.random.default_rng(seed)
    dense = np.zeros((height, width, count), bool)
    for k in range(count):
        y, x = rng.integers(0, height - 14), rng.integers(0, width - 14)
        dense[y : y + 14, x : x + 14, k] = rng.random((14, 14)) < 0.7
    dense[..., 2] = False
    return dense


@pytest.mark.parametrize("count", [0, 1, 12, 260])
def test_label_maps_hold_masks_that_share_pixels(count):
    dense = heap_of_masks(max(count, 3))[..., :count]
    codes = [code if m.any() else None for code, m in zip(masks.encode(dense), dense.T)]
    boxes = utils.extract_bboxes(dense)
    crops = [
        (box, dense[box[0] : box[2], box[1] : box[3], k]) for k, box in enumerate(boxes.tolist())
    ]
    for maps in (
        masks.LabelMaps.of_masks(dense),
        masks.LabelMaps.of_masks(one_behind_the_other(dense)),
        masks.LabelMaps.of_rle(codes, 40, 52),
        masks.LabelMaps.of_crops(crops, (40, 52)),
    ):
        assert maps.shape == dense.shape and len(maps.maps) <= count
        np.testing.assert_array_equal(maps, dense)
        np.testing.assert_array_equal(maps.boxes(), boxes)
        np.testing.assert_array_equal(maps.has_pixels, dense.any(axis=(0, 1)))
        # Each label of a map is one mask's: no pixel of any is lost.
        for k in np.flatnonzero(maps.has_pixels):
            assert np.sum(maps.maps[maps.map_of[k]] == maps.label_of[k]) == dense[..., k].sum()


def test_masks_apart_lie_in_one_map():
    dense = np.zeros((20, 20, 4), bool)
    for k, (y, x) in enumerate([(0, 0), (0, 10), (10, 0), (10, 10)]):
        dense[y : y + 10, x : x + 10, k] = True
    assert masks.LabelMaps.of_masks(dense).maps.shape == (1, 20, 20)


def test_label_maps_are_indexed_cut_and_resized_as_the_array():
    dense = heap_of_masks()
    maps = masks.LabelMaps.of_masks(dense)
    for key in (
        np.s_[3:9, 4:30, 5],
        np.s_[..., 5, 2],
        np.s_[..., -1],
        np.s_[..., [4, 0]],
        np.s_[:, :, 3:7],
        np.s_[..., np.arange(12) % 2 == 0],
        np.s_[7],
        np.s_[2:4, 5],
    ):
        np.testing.assert_array_equal(maps[key], dense[key], err_msg=str(key))
    for scale, padding, crop, exact in (
        (1, [(0, 0)] * 3, (5, 6, 20, 20), False),
        (1.5, [(0, 0)] * 3, (15, 6, 30, 30), False),
        (0.7, [(3, 2), (0, 5), (0, 0)], None, False),
        (1.3, [(3, 2), (0, 5), (0, 0)], None, True),
    ):
        expected = utils.resize_mask(dense, scale, padding, crop, exact)
        resized = utils.resize_mask(maps, scale, padding, crop, exact)
        np.testing.assert_array_equal(resized, expected)
        boxes = utils.extract_bboxes(expected)
        np.testing.assert_array_equal(resized.boxes(), boxes)
        keep = boxes[:, 2] > 0
        np.testing.assert_array_equal(
            utils.minimize_mask(boxes[keep], resized[..., keep], (9, 11)),
            utils.minimize_mask(boxes[keep], expected[..., keep], (9, 11)),
        )


# ---- Overlaps ------------------------------------------------------------------------------------


def test_masks_that_better_ones_cover_are_left_out():
    """Of [10, 10] squares: 40%, 60% and wholly covered by the first; a covered one covers nothing."""
    boxes = [(0, 0, 10, 10), (0, 6, 10, 16), (4, 0, 14, 10), (0, 0, 5, 5), (9, 0, 19, 10)]
    lazy = masks.Masks(np.ones((5, 28, 28), np.float32), boxes, (20, 20))
    one_class = np.ones(5, int)
    # The third is 60% under the first; the last lies 50% under the third, 10% under the first.
    assert lazy.uncovered(one_class, 0.5).tolist() == [True, True, False, False, True]
    assert lazy.uncovered(one_class, 0.6).tolist() == [True, True, True, False, True]
    assert lazy.uncovered(one_class, 0.4).tolist() == [True, True, False, False, True]
    assert lazy.uncovered(one_class, 0.39).tolist() == [True, False, False, False, True]
    assert lazy.uncovered(one_class, 1.0).all()
    of_two = np.array([1, 2, 2, 1, 2])
    assert lazy.uncovered(of_two, 0.5).tolist() == [True, True, True, False, True]
    assert lazy.only([0, 2]).boxes.tolist() == [[0, 0, 10, 10], [4, 0, 14, 10]]


def test_masks_that_overlap_much_stay_an_array():
    """Boxes that cover the image more than twice, and fewer of them."""
    dense = np.random.default_rng(0).random((30, 40, 9)) > 0.5
    assert masks.compact(dense) is dense
    few = masks.compact(dense[..., :2])
    assert isinstance(few, masks.LabelMaps)
    np.testing.assert_array_equal(few, dense[..., :2])
    nothing = masks.LabelMaps.of_masks(np.zeros((5, 6, 2), bool))
    assert nothing[0:2, 0:2, 1].tolist() == [[False, False], [False, False]]


def test_crops_of_every_form():
    """Boxes and pixels are those of the masks, by whole arrays, run lengths, and lazily."""
    rng = np.random.default_rng(0)
    whole = np.zeros((30, 40, 4), bool)
    for i, (y1, x1, y2, x2) in enumerate([(2, 3, 12, 20), (0, 0, 30, 40), (5, 39, 6, 40)]):
        whole[y1:y2, x1:x2, i] = rng.random((y2 - y1, x2 - x1)) < 0.7
    whole[5, 39, 2] = True  # the last mask has no pixel
    lazy = masks.Masks(*soft_masks(4), (30, 40))
    uncompressed = [
        {"size": [30, 40], "counts": masks.decompressed(code["counts"])}
        for code in masks.encode(whole)
    ]
    forms = [
        (whole, whole),
        (whole * np.uint8(255), whole),
        (whole * 0.25, whole),
        (masks.encode(whole), whole),
        (uncompressed, whole),
        (lazy, np.asarray(lazy)),
    ]
    for form, expected in forms:
        pairs = list(masks.crops_of(form))
        assert len(pairs) == 4
        for i, ((y1, x1, y2, x2), crop) in enumerate(pairs):
            drawn = np.zeros((30, 40), bool)
            drawn[y1:y2, x1:x2] = crop
            assert crop.dtype == bool
            np.testing.assert_array_equal(drawn, expected[..., i])


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [(6, 7), (300, 500)])
def test_crop_of_run_lengths(size, share):
    """Few runs in a large image, and many in a small one, which is decoded as a whole."""
    mask = np.zeros(size, bool)
    window = mask[1:5, 2:6]
    window[:] = np.random.default_rng(0).random(window.shape) < share
    (code,) = masks.encode(mask[..., None])
    (y1, x1, y2, x2), crop = masks.crop_of_rle(code)
    assert (y1, x1, y2, x2) == tuple(utils.extract_bboxes(mask[..., None])[0])
    assert crop.dtype == bool
    np.testing.assert_array_equal(crop, mask[y1:y2, x1:x2])
