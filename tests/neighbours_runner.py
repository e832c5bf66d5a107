"""Runs `mrcnn.neighbours` against the real packages, in an environment that has them and no Keras.

    python tests/neighbours_runner.py

`tests/test_neighbours.py` calls it; a failure is an AssertionError.
"""

import importlib.metadata

import numpy as np
import sahi.predict
import supervision

from mrcnn import masks as mask_math, neighbours
from mrcnn.config import Config

NAMES = ["BG", "even", "odd"]


class Sees:
    """Finds the squares of an image: each colour above 0 is an object."""

    config = Config(NUM_CLASSES=3)

    def detect(self, images, masks="dense"):
        return [self._look(image, masks) for image in images]

    def _look(self, image, form):
        numbers = [number for number in np.unique(image[..., 0]).tolist() if number]
        masks = np.stack([image[..., 0] == number for number in numbers] or [image[..., 0] > 255])
        masks = np.moveaxis(masks[: len(numbers)], 0, -1)
        boxes = mask_math.extract_bboxes(masks)
        if form == "rle":
            masks = mask_math.encode(masks)
        return {
            "rois": boxes.astype(np.int32).reshape(-1, 4),
            "class_ids": np.array([1 + number % 2 for number in numbers], np.int32),
            "scores": np.array([1 - number / 1000 for number in numbers], np.float32),
            "masks": masks,
        }


def scene():
    image = np.zeros((120, 200, 3), np.uint8)
    image[10:30, 15:45] = 10
    image[50:80, 90:130] = 21  # cut by the slices below
    image[100:110, 180:195] = 30
    return image


def check_supervision():
    image = scene()
    for form in ("dense", "rle"):
        (result,) = Sees().detect([image], form)
        found = neighbours.to_supervision(result, NAMES)
        assert isinstance(found, supervision.Detections) and len(found) == 3
        np.testing.assert_array_equal(found.xyxy[1], [90, 50, 130, 80])
        np.testing.assert_array_equal(found.mask[1], image[..., 0] == 21)
        assert found.data["class_name"].tolist() == ["even", "odd", "even"]
        np.testing.assert_allclose(found.confidence, [0.99, 0.979, 0.97], rtol=1e-6)
        assert found.class_id.tolist() == [1, 2, 1]
        assert found.area.tolist() == [600, 1200, 150]
        assert len(found[found.class_id == 1]) == 2
        painted = supervision.MaskAnnotator().annotate(image.copy(), found)
        assert (painted[60, 100] != image[60, 100]).any() and (painted[0, 0] == 0).all()
    empty = Sees().detect([np.zeros((20, 20, 3), np.uint8)])[0]
    assert len(neighbours.to_supervision(empty, NAMES)) == 0
    result["masks"] = None
    assert neighbours.to_supervision(result, NAMES).mask is None


def check_sahi():
    image = scene()
    model = neighbours.sahi_model(Sees(), NAMES)
    assert model.num_categories == 2 and model.category_names == ["even", "odd"]
    plain = sahi.predict.get_prediction(image, model).object_prediction_list
    assert [each.category.name for each in plain] == ["even", "odd", "even"]
    for each, number in zip(plain, (10, 21, 30)):
        np.testing.assert_array_equal(each.mask.bool_mask, image[..., 0] == number)
    sliced = sahi.predict.get_sliced_prediction(
        image,
        model,
        slice_height=64,
        slice_width=100,
        overlap_height_ratio=0.3,
        overlap_width_ratio=0.3,
        postprocess_type="GREEDYNMM",
        postprocess_match_metric="IOS",
        verbose=0,
    ).object_prediction_list
    # SAHI itself may keep a part beside the whole; each object is there with all its pixels.
    for number in (10, 21, 30):
        truth = image[..., 0] == number
        assert any(np.array_equal(each.mask.bool_mask, truth) for each in sliced), number
    assert {(each.category.id, each.category.name) for each in sliced} == {(1, "even"), (2, "odd")}
    picky = neighbours.sahi_model(Sees(), NAMES, confidence_threshold=0.98)
    assert len(sahi.predict.get_prediction(image, picky).object_prediction_list) == 1


def check_tracker():
    """Three squares that move, two of them past each other, in another order in each frame."""
    rng = np.random.default_rng(0)
    tracker = neighbours.Tracker(rate=10)
    empty = {"rois": np.zeros((0, 4)), "scores": np.zeros(0), "class_ids": np.zeros(0, int)}
    assert tracker.update(empty).shape == (0,)
    known = {}
    for frame in range(40):
        corners = [(10, 5 + 5 * frame), (40, 205 - 5 * frame), (80, 100)]
        present = [0, 1, 2]
        if frame in (20, 21):
            present = [0, 1]  # the third is hidden
        if frame == 30:
            present = []
        order = rng.permutation(present).astype(int)
        rois = [[y, x, y + 30, x + 30] for y, x in (corners[i] for i in order)]
        result = {
            "rois": np.array(rois, np.int32).reshape(-1, 4),
            "class_ids": 1 + order,
            "scores": np.full(len(order), 0.9, np.float32),
        }
        numbers = tracker.update(result)
        assert numbers.dtype == np.int32 and numbers.shape == (len(order),)
        for i, number in zip(order.tolist(), numbers.tolist()):
            if frame == 0:
                assert number == 0  # seen for the first time
            else:
                assert known.setdefault(i, number) == number, (frame, i)
    assert sorted(known.values()) == [1, 2, 3]
    # An object that comes anew has a new number; a detection that is not sure begins none.
    result = {
        "rois": np.array([[200, 200, 240, 240], [300, 10, 330, 40]]),
        "class_ids": np.array([1, 1]),
        "scores": np.array([0.8, 0.3]),
    }
    before = tracker.copy()
    assert tracker.update(result).tolist() == [0, 0]
    assert tracker.update(result).tolist() == [4, 0]
    # A copy knows nothing of what the other one has seen since.
    assert before.update(result).tolist() == [0, 0]
    assert before.update(result).tolist() == [4, 0]


if __name__ == "__main__":
    check_supervision()
    print("supervision", supervision.__version__)
    check_sahi()
    print("sahi", sahi.__version__)
    check_tracker()
    print("trackers", importlib.metadata.version("trackers"))
