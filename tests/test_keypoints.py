"""Keypoints: mirror images, decoding, targets, loss, the branch in both graphs, augmentation."""

import importlib.util
import json
import pathlib

import imgaug.augmenters as iaa
import numpy as np
import oracle
import pytest
import toy
from keras import ops

from mrcnn import coco, data, evaluate, inference, keypoints, model as modellib, visualize

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Points(toy.Rectangles):
    """Rectangles whose corners are keypoints: top left, top right, bottom left, bottom right."""

    def load_keypoints(self, image_id):
        found = []
        for y1, x1, y2, x2, _ in self.image_info[image_id]["objects"]:
            found.append([(y1, x1, 2), (y1, x2 - 1, 2), (y2 - 1, x1, 1), (y2 - 1, x2 - 1, 0)])
        return np.array(found, float).reshape(-1, 4, 3)


class PointsConfig(toy.ToyConfig):
    USE_KEYPOINTS = True
    NUM_KEYPOINTS = 4
    KEYPOINT_FLIP_PAIRS = ((0, 1), (2, 3))
    KEYPOINT_POOL_SIZE = 7
    KEYPOINT_HEAD_CONVS, KEYPOINT_HEAD_CHANNELS = 2, 16


# ---- numpy ---------------------------------------------------------------------------------------


def test_cocos_person():
    assert len(keypoints.COCO_NAMES) == 17 and max(map(max, keypoints.COCO_SKELETON)) == 16
    pairs = keypoints.left_right_pairs(keypoints.COCO_NAMES)
    assert pairs == modellib.config_module.Config.KEYPOINT_FLIP_PAIRS
    # A mirrored limb is a limb.
    partner = {i: i for i in range(17)} | dict(pairs) | {b: a for a, b in pairs}
    limbs = {frozenset(limb) for limb in keypoints.COCO_SKELETON}
    assert {frozenset(partner[i] for i in limb) for limb in limbs} == limbs


def test_mirror_counts_from_the_right_and_swaps():
    points = np.array([[[3.0, 0, 2], [4, 2, 1], [0, 0, 0]]])
    assert keypoints.mirror(points, 10, [(0, 1)]).tolist() == [[[4, 7, 1], [3, 9, 2], [0, 0, 0]]]
    np.testing.assert_array_equal(
        keypoints.mirror(keypoints.mirror(points, 10, [(0, 1)]), 10, [(0, 1)]), points
    )


def test_bicubic_weights_are_those_of_minus_three_quarters():
    """Keys's kernel at a quarter: with a = -.75 the taps are -.10546875, .87890625, .26171875,
    -.03515625."""
    row = keypoints.resize_matrix(6, 12)[5]  # (5 + .5) / 2 - .5 = 2.25
    np.testing.assert_allclose(row, [0, -0.10546875, 0.87890625, 0.26171875, -0.03515625, 0])
    np.testing.assert_allclose(
        keypoints.resize_matrix(6, 12)[0][:2], [-0.03515625 + 0.26171875 + 0.87890625, -0.10546875]
    )
    np.testing.assert_allclose(keypoints.resize_matrix(56, 33).sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(keypoints.resize_matrix(5, 5), np.eye(5), atol=1e-7)


def test_decoding():
    maps = np.zeros((3, 4, 4, 2), np.float32)
    maps[0, 1, 2, 0], maps[0, 3, 0, 1] = 5, 2
    maps[1, 1, 2, 0] = 1
    found = keypoints.decode(maps, np.array([[10, 20, 14, 24], [0, 0, 3.5, 8], [7, 9, 7.2, 9.5]]))
    # A box of the map's size: the centre of the cell, and its logit.
    np.testing.assert_allclose(found[0], [[11.5, 22.5, 5], [13.5, 20.5, 2]], atol=1e-6)
    # ceil(3.5) = 4 rows of 3.5 / 4; of the 8 columns the two beside the cell's centre are equal,
    # the first one counts.
    np.testing.assert_allclose(found[1, 0, :2], [1.5 * 3.5 / 4, 4.5], atol=1e-6)
    # A map without a maximum takes the first position; a box of less than a pixel counts as one.
    np.testing.assert_allclose(found[1, 1], [0.5 * 3.5 / 4, 0.5, 0], atol=1e-6)
    np.testing.assert_allclose(found[2, 0, :2], [7.5, 9.5], atol=1e-6)
    assert keypoints.decode(maps[:0], np.zeros((0, 4))).shape == (0, 2, 3)


def test_decoding_of_torchvisions_recording():
    """Its maps in its boxes give its keypoints and scores; with TensorFlow's kernel (-.5) a quarter
    of them is off."""
    with np.load(oracle.shared("oracle/torchvision/keypointrcnn_resnet50_fpn.npz")) as archive:
        maps = archive["keypoint_logits_slice"].transpose(0, 2, 3, 1)
        boxes, expected, scores = (
            archive[name][: len(maps)] for name in ("boxes", "keypoints", "keypoints_scores")
        )
    resized = np.array([256 / 300, 341 / 400])
    found = keypoints.decode(maps, boxes[:, [1, 0, 3, 2]] * np.tile(resized, 2))
    np.testing.assert_allclose(found[..., :2] / resized, expected[..., [1, 0]], atol=1e-3)
    np.testing.assert_allclose(found[..., 2], scores, rtol=1e-4, atol=1e-4)


# ---- Layers --------------------------------------------------------------------------------------


def test_targets_by_hand():
    """A RoI of 8 x 16 pixels and a map of 4 x 4: cells of 2 x 4 pixels."""
    image = np.zeros((1, 64, 64, 3), "float32")
    pixels = np.array([[[10, 20, 18, 36], [10, 20, 18, 36], [0, 0, 64, 64]]], "float32")
    rois = modellib.norm_boxes_graph(pixels, (64, 64))
    points = np.zeros((1, 2, 7, 3), "float32")
    points[0, 1] = [
        (10, 20, 2),
        (13, 29, 1),
        (18, 36, 2),
        (17.9, 35.9, 2),
        (13, 29, 0),
        (9.9, 25, 2),
        (12, 36.1, 2),
    ]
    layer = modellib.KeypointTargets(4)
    found = np.asarray(layer([rois, np.array([[1, -1, 0]], "int32"), points, image]))
    # The corners, row 1 column 2, and the right and lower edge; not labelled and outside are left
    # out.
    assert found[0, 0].tolist() == [0, 1 * 4 + 2, 15, 15, -1, -1, -1]
    assert (found[0, 1:] == -1).all()


def test_matched_objects_of_the_target_layer():
    proposals = np.array(
        [[[0.5, 0.5, 0.9, 0.9], [0.1, 0.1, 0.5, 0.5], [0.0, 0.6, 0.2, 0.9]]], "float32"
    )
    truth = [
        np.array([[1, 2, 0]], "int32"),
        np.array([[[0.1, 0.1, 0.5, 0.5], [0.5, 0.5, 0.9, 0.9], [0, 0, 0, 0]]], "float32"),
    ]
    layer = modellib.DetectionTargetLayer(
        rois_per_image=4, positive_ratio=0.5, mask_shape=None, seed=0, return_objects=True
    )
    rois, ids, _, objects = (np.asarray(x)[0] for x in layer([proposals, *truth]))
    assert objects[2:].tolist() == [-1, -1] and sorted(objects[:2].tolist()) == [0, 1]
    for roi, class_id, i in zip(rois[:2], ids[:2], objects[:2]):
        assert roi.tolist() == truth[1][0, i].tolist() and class_id == i + 1


def test_uniform_logits_cost_ln_3136():
    target = np.array([[[5, -1], [3135, 0]], [[-1, -1], [7, 7]]], "int32")
    ids = np.array([[1, 2], [1, 0]], "int32")
    logits = np.full((2, 2, 56, 56, 2), 3.0, "float32")
    assert float(modellib.mrcnn_keypoint_loss_graph(target, ids, logits)) == pytest.approx(
        np.log(3136), rel=1e-6
    )
    # Only the kept three count: raise one of them by 2 and the mean falls by what one of three is
    # worth.
    logits[0, 1, 55, 55, 0] += 2
    one = np.log(3135 + np.exp(2)) - 2
    assert float(modellib.mrcnn_keypoint_loss_graph(target, ids, logits)) == pytest.approx(
        (one + 2 * np.log(3136)) / 3, rel=1e-6
    )
    logits[1, 1] = 99 * np.random.default_rng(0).normal(size=logits[1, 1].shape)
    assert float(modellib.mrcnn_keypoint_loss_graph(target[1:], ids[1:], logits[1:])) == 0


def test_upscaling_is_bilinear_with_half_pixel_centres():
    ramp = np.array([0.0, 4, 8], "float32")
    twice = [0, 1, 3, 5, 7, 8]
    image = np.broadcast_to(ramp[None, None, None, :, None], (2, 3, 2, 3, 5))
    found = np.asarray(modellib.UpscaleTwice()(image))
    assert found.shape == (2, 3, 4, 6, 5)
    np.testing.assert_allclose(
        found, np.broadcast_to(np.array(twice)[None, None, None, :, None], found.shape)
    )
    found = np.asarray(modellib.UpscaleTwice()(np.swapaxes(image, 2, 3)))
    np.testing.assert_allclose(found[1, 2, :, 3, 4], twice)


def test_head_against_its_definition():
    """Convolution, 4 x 4 transposed convolution with a padding of 1 as a plain loop, bilinear x
    2."""
    rng = np.random.default_rng(0)
    head = modellib.KeypointHead(3, 2, convs=8, channels=4)
    names = [stage.name for stage in head.stages]
    assert names == [
        "roi_align_keypoint",
        *(f"mrcnn_keypoint_conv{i}" for i in range(1, 9)),
        "mrcnn_keypoint_deconv",
        "mrcnn_keypoint",
    ]
    x = rng.normal(size=(1, 1, 3, 3, 4)).astype("float32")
    deconv = head.stages[-2]
    deconv.build(x.shape)
    kernel, bias = rng.normal(size=(4, 4, 2, 4)).astype("float32"), np.array([0.5, -1], "float32")
    deconv.set_weights([kernel, bias])
    full = np.zeros((8, 8, 2))
    for row in range(3):
        for column in range(3):
            full[2 * row : 2 * row + 4, 2 * column : 2 * column + 4] += (
                kernel @ x[0, 0, row, column]
            )
    expected = full[1:7, 1:7] + bias  # no activation: some are negative
    found = np.asarray(deconv(x))[0, 0]
    assert (expected < 0).any()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert head.stages[-1](deconv(x)).shape == (1, 1, 12, 12, 2)


# ---- The pipeline --------------------------------------------------------------------------------


def test_keypoints_follow_scale_and_padding():
    dataset = Points(2, shape=(64, 80, 3))
    config = PointsConfig(IMAGE_MIN_DIM=128, IMAGE_MAX_DIM=192)
    *_, boxes, masks, points = data.load_image_gt(dataset, config, 1)
    assert masks.shape[-1] == len(points) == 2
    top = (192 - 128) // 2  # 64 x 80 -> 128 x 160, padded to 192 x 192
    left = (192 - 160) // 2
    assert points[0, 0].tolist() == [8 * 2 + top, 6 * 2 + left, 2] == [*boxes[0, :2], 2]
    assert points[0, 3].tolist() == [0, 0, 0]


@pytest.mark.parametrize("flip", ["imgaug", "function", "augment"])
def test_horizontal_flips_swap_left_and_right(flip):
    """The mirrored corner is the other corner: after the swap each name lies at its own corner
    again."""
    dataset = Points(2)
    settings = {
        "augment": {"augment": True},
        "imgaug": {"augmentation": iaa.Fliplr(1.0)},
        "function": {
            "augmentation": lambda image, masks, points: (
                image[:, ::-1],
                masks[:, ::-1],
                keypoints.mirror(points, 64, PointsConfig.KEYPOINT_FLIP_PAIRS),
            )
        },
    }[flip]
    rng = np.random.default_rng(0)  # its first draw says: flip
    *_, boxes, _, points = data.load_image_gt(dataset, PointsConfig(), 1, rng=rng, **settings)
    original = dataset.image_info[1]["objects"][0][:4]
    assert boxes[0].tolist() == [original[0], 64 - original[3], original[2], 64 - original[1]]
    y1, x1, y2, x2 = boxes[0]
    np.testing.assert_allclose(
        points[0], [(y1, x1, 2), (y1, x2 - 1, 2), (0, 0, 0), (y2 - 1, x2 - 1, 1)], atol=1e-6
    )


def test_imgaug_moves_keypoints_with_the_masks():
    """Rotations don't swap; a shift hides the points that leave the image."""
    dataset = Points(2)
    turned = data.load_image_gt(
        dataset, PointsConfig(), 0, augmentation=iaa.Rot90(1, keep_size=False)
    )
    y1, x1, y2, x2 = turned[3][0]
    np.testing.assert_allclose(
        turned[5][0, :3], [(y1, x2 - 1, 2), (y2 - 1, x2 - 1, 2), (y1, x1, 1)], atol=1e-6
    )
    shifted = data.load_image_gt(
        dataset, PointsConfig(), 0, augmentation=iaa.Affine(translate_px={"x": -20})
    )
    assert shifted[5][0].tolist() == [[0, 0, 0], [8, 39 - 20, 2], [0, 0, 0], [0, 0, 0]]


def test_batches_hold_keypoints_in_the_order_of_the_objects():
    inputs, _, _ = data.TrainingBatches(Points(4), PointsConfig(), seed=3).batch(0)
    boxes, points = inputs[5], inputs[7]
    assert points.shape == (2, 5, 4, 3) and points.dtype == np.float32
    for box, found in zip(boxes.reshape(-1, 4), points.reshape(-1, 4, 3)):
        assert found[0, :2].tolist() == box[:2].tolist()


class Bad(Points):
    def load_keypoints(self, image_id):
        return super().load_keypoints(image_id)[:, :3]


def test_refusals():
    with pytest.raises(
        data.DatasetError,
        match=r"2 problem.*\n.*keypoints are \[objects.*\(1, 4, 3\).*Received: \(1, 3, 3\)",
    ):
        data.check_dataset(Bad(2), PointsConfig())
    with pytest.raises(
        data.DatasetError, match="Rectangles has no load_keypoints, which USE_KEYPOINTS needs"
    ):
        data.check_dataset(toy.Rectangles(1), PointsConfig())
    with pytest.raises(
        ValueError, match=r"KEYPOINT_FLIP_PAIRS has pairs of keypoints 0..4.*Received: \(5, 6\)"
    ):
        toy.ToyConfig(USE_KEYPOINTS=True, NUM_KEYPOINTS=5).validate()
    toy.ToyConfig(USE_KEYPOINTS=True, LOSS_WEIGHTS={"mrcnn_keypoint_loss": 2}).validate()


# ---- The whole -----------------------------------------------------------------------------------


def test_the_default_graph_does_not_change(tmp_path):
    plain = modellib.MaskRCNN("training", toy.ToyConfig(), tmp_path).keras_model
    with_points = modellib.MaskRCNN("training", PointsConfig(), tmp_path).keras_model
    assert [x.name for x in plain.inputs] == [
        x.name for x in with_points.inputs if "keypoint" not in x.name
    ]
    assert len(plain.outputs) == 14 and len(with_points.outputs) == 16
    assert plain.loss_names == list(modellib.config_module.LOSS_NAMES)
    assert with_points.loss_names == [*plain.loss_names, "mrcnn_keypoint_loss"]
    assert not any("keypoint" in layer.name for layer in plain.layers)
    added = [
        layer.name for layer in with_points.layers if layer.weights and "keypoint" in layer.name
    ]
    assert added == ["mrcnn_keypoint_conv1", "mrcnn_keypoint_conv2", "mrcnn_keypoint_deconv"]


@pytest.mark.heavy
@pytest.mark.parametrize("masks", [True, False])
def test_training_and_detection(tmp_path, masks):
    """A step moves the branch's weights; results come in the original's pixels, whatever the
    scale."""
    config = PointsConfig(
        USE_MASK=masks,
        STEPS_PER_EPOCH=2,
        VALIDATION_STEPS=0,
        RPN_NMS_THRESHOLD=1.0,
        PRE_NMS_LIMIT=1023,
        POST_NMS_ROIS_TRAINING=1023,
    )  # every anchor: some fit without training
    model = modellib.MaskRCNN("training", config, tmp_path)
    before = [np.asarray(w) for w in model.keras_model.get_layer("mrcnn_keypoint_conv1").weights]
    history = model.train(Points(4), None, 0.01, 1, "heads").history
    assert (
        np.isfinite(history["mrcnn_keypoint_loss"]).all() and history["mrcnn_keypoint_loss"][0] > 1
    )
    for old, new in zip(before, model.keras_model.get_layer("mrcnn_keypoint_conv1").weights):
        assert not np.array_equal(old, np.asarray(new))
    inference = modellib.MaskRCNN("inference", config, tmp_path)
    assert inference.load_weights(model.find_last()).missing == []
    assert len(inference.keras_model.outputs) == (8 if masks else 7)
    inference.keras_model.get_layer("mrcnn_class_logits").layer.bias.assign(
        [-9.0, 0, 0]
    )  # detections, whatever was learned
    image = Points(1).load_image(0)
    large, small = inference.detect([np.repeat(np.repeat(image, 2, 0), 2, 1), image])
    assert (
        small["keypoints"].shape == (len(small["rois"]), 4, 3)
        and small["keypoints"].dtype == np.float32
    )
    assert len(small["rois"]) and (small["masks"] is not None) == masks
    # The maps of the public graph, decoded in the boxes of the detections, are what detect gives.
    molded, meta, _ = inference.mold_inputs([image])
    anchors = inference.get_anchors(molded.shape[1:])[None]
    outputs = inference.keras_model(
        [ops.convert_to_tensor(x, "float32") for x in (molded, meta, anchors)]
    )
    detections, maps = np.asarray(outputs[0])[0], np.asarray(outputs[-1])[0]
    boxes = detections[:, :4] * 63 + np.array([0, 0, 1, 1])
    rows = [
        i
        for i, box in enumerate(np.round(boxes))
        if detections[i, 4] > 0 and box[2] > box[0] and box[3] > box[1]
    ]
    np.testing.assert_allclose(
        keypoints.decode(maps[rows], boxes[rows]), small["keypoints"], atol=1e-3
    )
    # The large image is the small one, each pixel four times.
    np.testing.assert_allclose(
        large["keypoints"][0, :, :2], 2 * small["keypoints"][0, :, :2], atol=0.1
    )


@pytest.mark.parametrize("height, width", [(64, 64), (32, 64), (128, 96)])
def test_keypoints_are_unmolded_like_boxes(height, width):
    detections = np.zeros((3, 6), np.float32)
    window = (
        (0, 0, 64, 64) if height == width else (16, 0, 48, 64) if height < width else (0, 8, 64, 56)
    )
    pixels = np.array([20.0, 16, 36, 40])
    detections[0] = [*(pixels - [0, 0, 1, 1]) / 63, 1, 0.9]
    maps = np.zeros((3, 4, 6, 1), np.float32)
    maps[0, 1, 2, 0] = 1  # cells of 4 x 4 pixels: the centre at (26, 26)
    ((y, x, score),) = inference.unmold_keypoints(
        detections, maps, (height, width, 3), (64, 64, 3), window, PointsConfig()
    )[0]
    scale = height / (window[2] - window[0])
    # Of a cell's 4 columns the middle two are higher, equal but for rounding.
    assert (
        abs(y / scale + window[0] - 26) <= 0.501
        and abs(x / scale + window[1] - 26) <= 0.501
        and score > 0.9
    )


# ---- Evaluation and drawing ----------------------------------------------------------------------


def person(y, x, size=40.0):
    """17 points on a diagonal."""
    steps = np.arange(17) / 16 * size
    return np.column_stack([y + steps, x + steps, np.full(17, 2.0)])


class People(Points):
    """Two images with the rectangles as people; the second image's second person has no point
    labelled."""

    def load_keypoints(self, image_id):
        boxes = [box[:4] for box in self.image_info[image_id]["objects"]]
        return np.array(
            [person(y1, x1, y2 - y1 - 1) * (i == 0) for i, (y1, x1, y2, x2) in enumerate(boxes)]
        )


def detections_of(dataset, shift):
    rows = []
    for image_id in dataset.image_ids:
        masks, class_ids = dataset.load_mask(image_id)
        points = dataset.load_keypoints(image_id) + [0, shift, 0]
        boxes = [box[:4] for box in dataset.image_info[image_id]["objects"]]
        rows += evaluate.coco_results(
            image_id,
            {
                "rois": np.array(boxes),
                "class_ids": class_ids,
                "masks": masks,
                "scores": np.full(len(boxes), 0.9),
                "keypoints": points,
            },
        )
    return rows


def test_keypoint_ap_is_cocos():
    """Object keypoint similarity by hand: exp(-d^2 / (2 area (2 sigma)^2)), averaged; people
    without points don't count."""
    dataset, sigmas = (
        People(2),
        np.array(
            [
                0.026,
                0.025,
                0.025,
                0.035,
                0.035,
                0.079,
                0.079,
                0.072,
                0.072,
                0.062,
                0.062,
                0.107,
                0.107,
                0.087,
                0.087,
                0.089,
                0.089,
            ]
        ),
    )
    area = 26 * 34
    for shift in (0, 2, 4, 8):
        similarity = np.exp(-(shift**2) / (2 * area * (2 * sigmas) ** 2)).mean()
        reached = (np.linspace(0.5, 0.95, 10) <= similarity).mean()
        result = evaluate.evaluate_detections(
            dataset, detections_of(dataset, shift), keypoints=True
        )
        assert result.keypoints["AP"] == pytest.approx(reached, abs=1e-6), (shift, similarity)
        assert result.keypoints["AP50"] == (similarity >= 0.5) and result.bbox[
            "AP"
        ] == pytest.approx(1)
    assert result.per_class["bright"]["keypoints AP"] == result.keypoints["AP"] and np.isnan(
        result.per_class["dark"]["keypoints AP"]
    )
    assert "keypoint AP" in result.table() and "AR75" in result.summary()
    assert evaluate.evaluate_detections(dataset, [], keypoints=True).keypoints["AP"] == 0
    with pytest.raises(
        ValueError, match=r"COCO's 17 unless the dataset has `keypoint_sigmas`.*Received: \[4\]"
    ):
        evaluate.evaluate_detections(Points(2), detections_of(Points(2), 0), keypoints=True)
    four = Points(2)
    four.keypoint_sigmas = [0.1] * 4
    assert evaluate.evaluate_detections(four, detections_of(four, 0), keypoints=True).keypoints[
        "AP"
    ] == pytest.approx(1)


def test_keypoints_of_a_json(tmp_path):
    """The order is that of the masks, an annotation without keypoints has zeros, the figures are
    those of the json."""
    from PIL import Image

    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    points = person(4, 6, 30)
    flat = [float(v) for y, x, visibility in points for v in (x, y, visibility)]
    boxes = [[6, 4, 31, 31], [40, 10, 10, 20], [50, 40, 0, 0]]
    annotations = [
        {
            "id": i + 1,
            "image_id": 5,
            "category_id": 1,
            "bbox": box,
            "area": 900.0,
            "iscrowd": 0,
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        }
        for i, box in enumerate(boxes)
        for x, y, w, h in [box]
    ]
    annotations.insert(0, annotations.pop())  # the one without a pixel comes first
    annotations[1].update(keypoints=flat, num_keypoints=17)
    data_ = {
        "images": [{"id": 5, "file_name": "a.png", "height": 48, "width": 64}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": list(keypoints.COCO_NAMES)}],
    }
    (tmp_path / "people.json").write_text(json.dumps(data_))
    dataset = coco.CocoDataset()
    dataset.load_json(tmp_path / "people.json", tmp_path)
    dataset.prepare()
    assert dataset.keypoint_names == keypoints.COCO_NAMES
    found = dataset.load_keypoints(0)
    assert found.shape == (2, 17, 3) == (dataset.load_mask(0)[0].shape[2], 17, 3)
    np.testing.assert_array_equal(found[0], points)
    assert not found[1].any()
    row = {"image_id": 5, "category_id": 1, "bbox": boxes[0], "score": 0.9, "keypoints": flat}
    result = evaluate.evaluate_detections(dataset, [row], masks=False, keypoints=True)
    assert result.keypoints["AP"] == pytest.approx(1) and result.bbox["AP50"] < 1


def test_drawing():
    """Limbs in the person's colour between the points that are shown; without a skeleton points
    alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = np.stack([person(5, 5, 30), person(5, 25, 30)])
    points[1, 10:, 2] = 0
    pictures = []
    for options in ({}, {"skeleton": ()}, {"threshold": 5}):
        figure = Figure(figsize=(4, 4), dpi=80)
        canvas = FigureCanvasAgg(figure)
        ax = figure.add_axes((0, 0, 1, 1))
        ax.imshow(np.full((64, 64, 3), 255, np.uint8), extent=(0, 64, 64, 0))
        assert (
            visualize.draw_keypoints(ax, points, colors=[(1, 0, 0), (0, 0, 1)], size=30, **options)
            is ax
        )
        canvas.draw()
        pictures.append(np.asarray(canvas.buffer_rgba())[..., :3].astype(int))
    red = [((p[..., 0] > 200) & (p[..., 1] < 60)).sum() for p in pictures]
    blue = [((p[..., 2] > 200) & (p[..., 1] < 60)).sum() for p in pictures]
    assert red[0] > red[1] > 50 and blue[0] > blue[1] > 20 and red[2] == blue[2] == 0
    assert blue[0] < 0.8 * red[0]  # the second has seven points less
    with pytest.raises(ValueError, match=r"\[N, K, \(y, x, score\)\].*Received: \(17, 3\)"):
        visualize.draw_keypoints(ax, points[0])


def test_sample_figures_have_the_points_where_they_are_drawn():
    """Each visible joint lies on its figure's mask, a covered one on another's, and left is on the
    right."""
    spec = importlib.util.spec_from_file_location(
        "figures", ROOT / "samples/keypoints/keypoints.py"
    )
    figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figures)
    dataset, hidden = figures.FiguresDataset(40), 0
    for image_id in dataset.image_ids:
        masks, class_ids = dataset.load_mask(image_id)
        points = dataset.load_keypoints(image_id)
        assert len(points) == len(class_ids) == masks.shape[2] and dataset.load_image(
            image_id
        ).shape == (128, 128, 3)
        for i, places in enumerate(points):
            for y, x, visibility in places:
                if visibility == 2:
                    assert masks[
                        max(int(y) - 1, 0) : int(y) + 3, max(int(x) - 1, 0) : int(x) + 3, i
                    ].any()
                elif visibility == 1:
                    hidden += 1
                    assert masks[int(y), int(x), i + 1 :].any()
            assert places[5, 2] == 0 or places[6, 2] == 0 or places[5, 1] > places[6, 1]
    assert hidden > 10
    again = figures.FiguresDataset(40)
    np.testing.assert_array_equal(again.load_image(7), dataset.load_image(7))
