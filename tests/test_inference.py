"""What is around the network in a detection: groups of masks, forms of masks, folders."""

import os
import pathlib
import warnings

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mrcnn import data, inference, masks, utils
from mrcnn.config import Config


@pytest.mark.long
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
    # An image that fails says so after those before it.
    results = toy_detector.detect_many([image, np.zeros((64, 64, 5), np.uint8)])
    np.testing.assert_array_equal(next(results)["rois"], found[0]["rois"])
    with pytest.raises(ValueError, match=r"image 1 of shape \(64, 64, 5\)"):
        next(results)


# ---- What is given for images --------------------------------------------------------------------


def rows_of(number):
    """Rows of an image: what a loop over it gives."""
    yield from np.zeros((number, 70, 3), np.uint8)


@pytest.mark.parametrize(
    "images, message",
    [
        (np.zeros((60, 70, 3), np.uint8), r"array of shape \(60, 70, 3\); for one image: NAME"),
        (np.zeros((3, 60, 70), np.uint8), r"array of shape \(3, 60, 70\)"),
        (np.zeros((60, 70)), r"array of shape \(60, 70\)"),
        (np.zeros((60, 70, 3)).tolist(), r"image 0 of shape \(70, 3\), which is a row"),
        (list(np.zeros((60, 70, 3))), r"a row of an image"),
        (rows_of(60), r"a row of an image"),
        (Image.new("RGB", (70, 60)), r"one image; NAME\(\[image\]\)"),
        ("photo.jpg", r"the path 'photo.jpg'; read it first"),
        (pathlib.Path("photo.jpg"), r"the path 'photo.jpg'"),
        (None, r"Received: None \(NoneType\)"),
        (5, r"Received: 5 \(int\)"),
        ({"image": 1}, r"\(dict\)"),
        (["a.jpg"], r"image 0 is the path 'a.jpg'; mrcnn.utils.read_image"),
        ([None], r"image 0 is None, which cv2.imread"),
        ([np.zeros((3, 60, 70))], r"\(3, 60, 70\); the channels stand last: np.moveaxis"),
        ([np.zeros((1, 60, 70, 3))], r"\(1, 60, 70, 3\); an image has no batch axis"),
        ([np.zeros((0, 70, 3))], r"image 0 of shape \(0, 70, 3\)"),
        ([np.zeros((60, 70, 2))], r"image 0 of shape \(60, 70, 2\)"),
        ([np.full((60, 70, 3), "a")], r"image 0 of dtype <U1"),
        ([[[1, 2], [3]]], r"image 0: "),
    ],
)
@pytest.mark.parametrize("name", ["detect", "detect_many"])
def test_what_is_no_list_of_images_is_refused_at_once(toy_detector, images, message, name):
    message = message.replace("NAME", name)
    with pytest.raises(ValueError, match=message):
        list(getattr(toy_detector, name)(images))


@pytest.mark.parametrize("frame", ["centers", "edges"])
def test_a_molded_image_of_one_row(frame):
    """Of 3 x 2000 pixels in 128 x 128; divided by no height, its boxes were NaN and left out."""
    from keras import ops

    from mrcnn import boxes as box_math

    window = (63, 0, 64, 128)
    box = box_math.norm_boxes([[63, 32, 64, 64]], (128, 128), frame)[0]
    detections = np.zeros((2, 6), np.float32)
    detections[0] = [*box, 1, 0.5]
    shapes = ((3, 2000, 3), (128, 128, 3))
    found = inference.unmold(detections, None, *shapes, window, Config(BOX_FRAME=frame))
    np.testing.assert_allclose(found[0], [[0, 500, 3, 1000]], atol=8)
    assert found[0][0, 0] == 0 and found[0][0, 2] == 3
    normalised = box_math.norm_boxes(window, (128, 128), frame)
    expected = box_math.in_window(box[None], normalised)
    actual = box_math.in_window(box[None], normalised, ops)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert expected.dtype == np.float32


def test_detect_many_refuses_before_it_is_iterated(toy_detector):
    for images in (np.zeros((60, 70, 3), np.uint8), "photo.jpg", None):
        with pytest.raises(ValueError, match="takes"):
            toy_detector.detect_many(images)
    for items in ("photo.jpg", 3):
        with pytest.raises(ValueError, match="takes"):
            toy_detector.detect_many(items, utils.read_image)
    with pytest.raises(ValueError, match=r"image 1 \(b.jpg\) is None"):
        list(
            toy_detector.detect_many(
                ["a.jpg", "b.jpg"], lambda path: COLORS if "a" in path else None
            )
        )


COLORS = (np.arange(60 * 70 * 3) % 251).astype(np.uint8).reshape(60, 70, 3)


def test_lists_of_every_kind_are_taken(toy_detector):
    import keras

    (expected,) = toy_detector.detect([COLORS])
    ragged = np.empty(2, object)
    ragged[:] = [COLORS, COLORS]
    for images in (
        (COLORS, COLORS),
        np.stack([COLORS, COLORS]),
        keras.ops.convert_to_tensor(np.stack([COLORS, COLORS])),
        ragged,
        (image for image in [COLORS, COLORS]),
        [Image.fromarray(COLORS), Image.fromarray(COLORS).convert("RGBA")],
        [COLORS.tolist(), np.dstack([COLORS, COLORS[..., 0]])],
    ):
        found = toy_detector.detect(images)
        assert len(found) == 2
        for result in found:
            np.testing.assert_array_equal(result["rois"], expected["rois"])
            assert result["masks"].shape[:2] == (60, 70)
    assert toy_detector.detect([]) == toy_detector.detect(np.zeros((0, 60, 70, 3))) == []
    gray = COLORS[..., 0]
    results = toy_detector.detect([gray, gray[..., None], Image.fromarray(gray)])
    for result in results[1:]:
        np.testing.assert_array_equal(result["rois"], results[0]["rois"])


@pytest.mark.parametrize(
    "make",
    [
        lambda image: image / 255,
        lambda image: (image / 255).astype(np.float32),
        lambda image: image / 127.5 - 1,
        lambda image: image.astype(np.uint16) * 257,
        lambda image: np.round(image / 255 * 4095).astype(np.uint16),
        lambda image: np.round(image / 255 * 4095),
    ],
)
def test_an_image_of_any_range_is_detected_in_alike(toy_detector, make):
    image = COLORS.copy()
    image[0, 0] = 0, 255, 255
    expected, found = toy_detector.detect([image, make(image)])
    for key in ("rois", "class_ids", "scores", "masks"):
        np.testing.assert_array_equal(found[key], expected[key])


def test_a_molded_image_is_detected_in_as_what_it_was(toy_detector, caplog):
    """Tutorials of 2018 call `detect(np.expand_dims(mold_image(image, config), 0))`. Where nothing
    was below -64 the mean was subtracted twice without a word, else colours were off by up to 20.
    """
    data._MOLDED_WARNED.clear()
    config = toy_detector.config
    rng = np.random.default_rng(0)
    bright = rng.integers(90, 256, COLORS.shape, np.uint8)
    for image in (COLORS, bright):
        (expected,) = toy_detector.detect([image])
        molded = data.mold_image(image, config)
        for again in (molded, image.astype(np.float32) - config.MEAN_PIXEL):
            (result,) = toy_detector.detect(np.expand_dims(again, 0))
            for key in ("rois", "class_ids", "scores", "masks"):
                np.testing.assert_array_equal(result[key], expected[key])
    assert caplog.text.count("image 0 is molded") == 1
    np.testing.assert_array_equal(data.as_network_input(molded, config, "x"), bright)
    standardised = Config(STD_PIXEL=[58.4, 57.1, 57.4])
    molded = data.mold_image(bright, standardised)
    np.testing.assert_array_equal(data.as_network_input(molded, standardised, "x"), bright)
    for other in (bright / 255, bright - 100.0, bright - 123.7, np.full(bright.shape, np.nan)):
        assert not data._is_molded(other, config)
    whole = Config(MEAN_PIXEL=[124, 117, 104])
    assert not data._is_molded(bright.astype(np.float32), whole)  # may be either
    halves = Config(MEAN_PIXEL=[0.5, 0.5, 0.5])
    assert not data._is_molded(np.full(bright.shape, 0.5), halves)


def test_values_of_the_network_follow_mean_pixel(caplog):
    """Those of 0..255 are left alone, as are those of settings with units of their own."""
    data._RANGES_LOGGED.clear()
    fractions = COLORS / 255
    config = Config()
    for same in (COLORS, COLORS.astype(np.float32), COLORS.astype(int) + 20, COLORS - 3.5):
        assert data.as_network_input(same, config, "x") is same
    with caplog.at_level("INFO"):
        for _ in range(2):
            changed = data.as_network_input(fractions, config, "image 7")
    np.testing.assert_array_equal(changed, COLORS)
    assert caplog.text.count("image 7: values (float64) of 0..1 become 0..255") == 1
    with caplog.at_level("WARNING"):
        data.as_network_input(COLORS - 123.7, config, "molded")
        fractions[0, 0] = np.nan
        assert (data.as_network_input(fractions, config, "x")[0, 0] == 0).all()
    assert "molded: values" in caplog.text and "mean subtracted" in caplog.text
    assert "NaN and infinite values" in caplog.text
    for settings in (
        {"MEAN_PIXEL": [0.5, 0.5, 0.4], "STD_PIXEL": [0.2, 0.2, 0.2]},
        {"MEAN_PIXEL": [900.0, 1000.0, 1100.0]},
        {"MEAN_PIXEL": [0.0, 0.0, 0.0]},
    ):
        own = COLORS * 16.0
        assert data.as_network_input(own, Config(**settings), "x") is own
    depth = np.dstack([COLORS, COLORS[..., :1]]) * 20
    rgbd = Config(IMAGE_CHANNEL_COUNT=4, MEAN_PIXEL=[123.7, 116.8, 103.9, 200])
    assert data.as_network_input(depth, rgbd, "x") is depth


def test_duplicates_are_left_out_by_their_masks(toy_detector, image, monkeypatch):
    """DETECTION_MASK_OVERLAP: the dense masks, taken one after the other, say which remain."""
    whole = toy_detector.detect([image])[0]
    taken = {}
    remain = []
    for i, class_id in enumerate(whole["class_ids"]):
        mask = whole["masks"][..., i]
        canvas = taken.setdefault(class_id, np.zeros_like(mask))
        if (canvas & mask).sum() <= 0.25 * mask.sum():
            remain.append(i)
            canvas |= mask
    assert 1 < len(remain) < len(whole["scores"])
    monkeypatch.setattr(toy_detector.config, "DETECTION_MASK_OVERLAP", 0.25)
    for form in inference.MASK_FORMS:
        found = toy_detector.detect([image], masks=form)[0]
        for name in ("rois", "class_ids", "scores"):
            np.testing.assert_array_equal(found[name], whole[name][remain])
        expected = whole["masks"][..., remain]
        if form == "rle":
            assert found["masks"] == masks.encode(expected)
        else:
            np.testing.assert_array_equal(np.asarray(found["masks"]), expected)
    traced = toy_detector.trace(image).result
    np.testing.assert_array_equal(traced["rois"], whole["rois"][remain])
    np.testing.assert_array_equal(traced["masks"], whole["masks"][..., remain])


def test_training_and_detection_stretch_contrast_alike():
    """IMAGE_PERCENTILES: of 12 bits, dim or inverted in range, one image is one molded image."""
    config = Config(
        NAME="dim",
        NUM_CLASSES=2,
        IMAGE_MIN_DIM=64,
        IMAGE_MAX_DIM=64,
        MEAN_PIXEL=[0.0, 0.0, 0.0],
        IMAGE_PERCENTILES=(1, 99),
    )
    bright = np.random.default_rng(0).integers(0, 200, (64, 64, 3))
    expected = utils.stretched(bright.astype(np.uint8), (1, 99))
    assert expected.min() == 0 and expected.max() == 255

    class OneImage(utils.Dataset):
        def load_image(self, image_id):
            return bright.astype(np.uint16) * 16 + 40

        def load_mask(self, image_id):
            return np.ones((64, 64, 1), bool), np.ones(1, np.int32)

    dataset = OneImage()
    dataset.add_class("x", 1, "thing")
    dataset.add_image("x", 0, "none")
    dataset.prepare()
    trained, *_ = data.load_image_gt(dataset, config, 0)
    np.testing.assert_array_equal(trained, expected)
    for image in (bright.astype(np.uint8), bright / 1000, bright.astype(np.uint16) * 16 + 40):
        molded = inference.mold(image, config, "x").image
        np.testing.assert_array_equal(molded, expected)


def test_detect_molded_checks_its_shapes(toy_detector):
    molded, metas, _ = toy_detector.mold_inputs([COLORS])
    assert len(toy_detector.detect_molded(molded, metas)) == 1
    assert toy_detector.detect_molded(molded[:0], metas[:0]) == []
    for images, meta in ((molded[0], metas[0]), (molded, metas[0]), (molded[0], metas)):
        with pytest.raises(ValueError, match="takes images .B, h, w, C. and a meta for each"):
            toy_detector.detect_molded(images, meta)


def test_images_that_are_not_molded_are_said(toy_detector, monkeypatch, caplog):
    """As notebooks of 2018 pass what `load_image_gt` returns; once for each method."""
    monkeypatch.setattr(data, "_UNMOLDED_WARNED", set())
    molded, metas, _ = toy_detector.mold_inputs([COLORS])
    whole = np.round(molded).astype(np.int32)
    for _ in range(2):
        toy_detector.detect_molded(molded, metas)
        toy_detector.run_graph(molded, [("ROI", None)], image_metas=metas)
        toy_detector.run_graph([COLORS], [("ROI", None)])
    assert not caplog.records
    for _ in range(2):
        toy_detector.detect_molded(whole, metas)
        toy_detector.run_graph(whole, [("ROI", None)], image_metas=metas)
    messages = [record.getMessage() for record in caplog.records]
    assert [message.split("()")[0] for message in messages] == ["detect_molded", "run_graph"]
    assert all("mold_image(image, config)" in message for message in messages)


def test_a_limit_that_may_have_cut_detections_is_said(monkeypatch, caplog):
    """As many as DETECTION_MAX_INSTANCES, all of them sure; once for each limit."""
    monkeypatch.setattr(data, "_LIMITS_WARNED", set())
    detections = np.zeros((1, 4, 6), np.float32)
    detections[0, :, :4] = 0.1, 0.1, 0.6, 0.6
    detections[0, :, 4] = 1
    detections[0, :, 5] = 0.9, 0.8, 0.7, 0.4
    config = Config(NUM_CLASSES=2, DETECTION_MAX_INSTANCES=4)

    def result():
        outputs = inference.Outputs(detections, None, None)
        shape = (64, 64, 3)
        return inference.result(outputs, 0, shape, shape, (0, 0, 64, 64), config)

    assert len(result()["rois"]) == 4 and not caplog.records  # one that is not sure is the last
    detections[0, 3, 4] = 0
    result()
    assert not caplog.records  # there are fewer
    detections[0, 3, 4:] = 1, 0.6
    result()
    result()
    (record,) = caplog.records
    assert "4 detections, as many as DETECTION_MAX_INSTANCES allows, with scores from 0.60" in (
        record.getMessage()
    )


def test_a_forked_process_says_what_to_do(toy_detector, image):
    """It hung: TensorFlow's threads are not there (issue 19). The parent goes on as before."""
    expected = toy_detector.detect([image])[0]["scores"]
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of forks beside threads
        child = os.fork()
    if child == 0:
        said = "no error"
        try:
            toy_detector.detect([image])
        except RuntimeError as error:
            said = str(error)
        finally:
            os.write(write, said.encode())
            os._exit(0)
    os.waitpid(child, 0)
    said = os.read(read, 2000).decode()
    os.close(read)
    os.close(write)
    assert "was forked" in said and "get_context('spawn')" in said
    np.testing.assert_array_equal(toy_detector.detect([image])[0]["scores"], expected)
