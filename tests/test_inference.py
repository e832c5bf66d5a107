"""What is around the network in a detection: groups of masks, forms of masks, folders."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mrcnn import inference, utils


def test_one_function_serves_all_sizes_and_groups_of_masks(toy_detector, image, monkeypatch):
    toy_detector.detector.functions.clear()
    whole = toy_detector.detect([image, image[:, :90], image[:50]])
    assert set(toy_detector.detector.functions) == {"boxes", "masks"}
    monkeypatch.setattr(inference, "HEAD_GROUP", 7)
    for a, b in zip(whole, toy_detector.detect([image, image[:, :90], image[:50]])):
        np.testing.assert_array_equal(a["rois"], b["rois"])
        assert a["masks"].shape == b["masks"].shape and np.mean(a["masks"] != b["masks"]) <= 1e-3


def test_forms_of_masks(toy_detector, image):
    dense, lazy, rle = (
        toy_detector.detect([image], masks=form)[0]["masks"] for form in ("dense", "lazy", "rle")
    )
    assert type(dense) is np.ndarray and dense.dtype == bool
    assert (
        lazy.shape == dense.shape
        and lazy.dtype == bool
        and lazy.ndim == 3
        and len(lazy) == len(dense)
    )
    np.testing.assert_array_equal(lazy, dense)
    for key in (3, -1, slice(2, 5), [4, 0], np.arange(dense.shape[2]) % 2 == 0):
        np.testing.assert_array_equal(lazy[..., key], dense[..., key])
        np.testing.assert_array_equal(lazy[:, :, key], dense[:, :, key])
    np.testing.assert_array_equal(lazy[10:20, 5], dense[10:20, 5])
    for i in range(dense.shape[2]):
        (y1, x1, y2, x2), crop = lazy.crop(i)
        full = np.zeros(dense.shape[:2], bool)
        full[y1:y2, x1:x2] = crop
        np.testing.assert_array_equal(full, dense[..., i])
    expected = coco_mask.encode(np.asfortranarray(dense.astype(np.uint8)))
    assert [code["counts"] for code in rle] == [code["counts"].decode() for code in expected]
    with pytest.raises(ValueError, match="Received: .crops."):
        toy_detector.detect([image], masks="crops")


def test_run_lengths_by_hand():
    full = np.ones((2, 3), bool)
    assert inference.run_lengths((0, 0, 2, 3), full, (2, 3)) == [0, 6]
    assert inference.run_lengths((0, 1, 2, 3), full[:, :2], (2, 3)) == [2, 4]
    assert inference.run_lengths((1, 0, 2, 3), full[:1], (2, 3)) == [1, 1, 1, 1, 1, 1]
    assert inference.run_lengths((0, 0, 0, 0), full[:0, :0], (2, 3)) == [6]
    rng = np.random.default_rng(0)
    for share in (0.2, 0.8):
        mask = rng.random((9, 7)) < share
        code = coco_mask.frPyObjects(
            [{"size": [9, 7], "counts": inference.run_lengths((0, 0, 9, 7), mask, (9, 7))}], 9, 7
        )
        assert (
            code[0]["counts"]
            == coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
        )


def test_crops_of_boxes_beyond_the_image():
    soft = np.random.default_rng(0).random((4, 28, 28)).astype("float32")
    boxes = [(-5, 3, 30, 60), (10, 10, 20, 20), (50, 5, 60, 30), (0, 0, 40, 50)]
    masks = inference.Masks(soft, boxes, (40, 50), threshold=0.6)
    dense = utils.unmold_masks(soft, boxes, (40, 50), threshold=0.6)
    np.testing.assert_array_equal(masks, dense)
    np.testing.assert_array_equal(masks[..., 0], dense[..., 0])
    assert masks.crop(2)[0] == (0, 0, 0, 0) and not masks.crop(2)[1].size
    assert [code["counts"] for code in masks.rle()] == [
        code["counts"].decode()
        for code in coco_mask.encode(np.asfortranarray(dense.astype(np.uint8)))
    ]
    assert inference.Masks(soft[:0], np.zeros((0, 4), int), (40, 50)).rle() == []


def test_detect_many_is_detect(toy_detector, image):
    images = [image, image[:90], image[:, :70], image[::-1], image[:90]]
    asked = []

    def load(number):
        asked.append(number)
        return images[number]

    found = list(toy_detector.detect_many(range(5), load=load))
    assert sorted(asked) == list(range(5))
    for a, b in zip(found, toy_detector.detect(images), strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
    assert list(toy_detector.detect_many([])) == []
    with pytest.raises(ValueError, match=r"image 1 of shape \(64, 64, 5\)"):
        list(toy_detector.detect_many([image, np.zeros((64, 64, 5), np.uint8)]))
