"""Numbers of datasets, anchors, masks, pooling and weights, against brute force, hand-worked and
public values."""

import subprocess
import sys

import numpy as np
import pytest
from keras import ops
from toy import Rectangles, ToyConfig

from mrcnn import data, inspection, model as modellib, ops as kernels, utils
from mrcnn.config import Config


def test_imports_without_keras():
    code = (
        "import sys, mrcnn.inspection; print('keras' in sys.modules or 'tensorflow' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
        == "False"
    )


# ---- Datasets and anchors ------------------------------------------------------------------------


def test_masks_of_bytes_and_lists_of_ids():
    """Areas of masks of 0 and 255 were 255 times too large, a list of class ids a TypeError."""

    class Bytes(Rectangles):
        def load_mask(self, image_id):
            masks, class_ids = super().load_mask(image_id)
            return masks * np.uint8(255), class_ids.tolist()

    config = ToyConfig()
    areas = inspection.survey(Bytes(2), config).areas
    assert areas.tolist() == inspection.survey(Rectangles(2), config).areas.tolist()
    truth = inspection.true_objects(Bytes(2), 1)
    assert truth["class_ids"].tolist() == [1, 2] and truth["masks"].dtype == bool
    np.testing.assert_array_equal(truth["rois"], [(8, 6, 34, 40), (36, 22, 62, 60)])


def test_survey():
    """Twice the size: boxes and areas follow; an image without objects counts."""
    dataset = Rectangles(3, empty=True)
    found = inspection.survey(dataset, ToyConfig(IMAGE_MIN_DIM=128, IMAGE_MAX_DIM=128))
    np.testing.assert_array_equal(
        found.boxes, 2.0 * np.array([(8, 6, 34, 40), (8, 6, 34, 40), (36, 22, 62, 60)])
    )
    assert found.areas.tolist() == [4 * 26 * 34, 4 * 26 * 34, 4 * 26 * 38]
    assert (
        found.counts.tolist() == [1, 2, 0]
        and found.image_ids.tolist() == [0, 1, 1]
        and found.molded == (128, 128)
    )
    assert found.classes() == [("bright", 2, 2), ("dark", 1, 1)]
    assert found.summary()[1] == ["of them without objects", 1]


@pytest.mark.parametrize(
    "settings, shape",
    [
        ({}, (64, 64)),
        ({"RPN_ANCHOR_STRIDE": 2}, (64, 128)),
        ({"RPN_ANCHOR_RATIOS": [0.3, 1, 2, 4]}, (128, 64)),
    ],
)
def test_anchor_fit_is_that_of_all_anchors(settings, shape):
    config, rng = ToyConfig(**settings), np.random.default_rng(0)
    corners = rng.uniform(-5, max(shape), (60, 2))
    boxes = np.hstack([corners, corners + rng.uniform(1, 60, (60, 2))])
    fit = inspection.anchor_fit(boxes, config, shape)
    for i, (scale, stride, cells) in enumerate(
        zip(
            config.RPN_ANCHOR_SCALES,
            config.BACKBONE_STRIDES,
            data.compute_backbone_shapes(config, shape),
        )
    ):
        anchors = utils.generate_anchors(
            scale, config.RPN_ANCHOR_RATIOS, cells, stride, config.RPN_ANCHOR_STRIDE
        )
        np.testing.assert_allclose(
            fit[:, i], utils.compute_overlaps(boxes, anchors).max(axis=1), atol=1e-12
        )


def test_recall_by_level():
    """An anchor's own box is found at its level; one of half its area has IoU .5; levels without
    objects say so."""
    config = ToyConfig()
    own = np.array([[24 - 4, 24 - 4, 24 + 4, 24 + 4], [32 - 16, 32 - 16, 32 + 16, 32]], float)
    rows = inspection.recall_by_level(own, config, (64, 64))
    assert [row[0] for row in rows] == ["P2", "P3", "P4", "P5", "P6", "all"]
    assert rows[0][2:] == (1, 1.0, 1.0, 1.0) and np.isnan(rows[4][3])
    assert rows[-1][2] == 2 and rows[-1][4] == 1.0


def test_examples():
    """Anchors: positives lie on objects, and their targets are the objects. RoIs: drawn in the
    ratio that is set."""
    config = ToyConfig(ROI_POSITIVE_RATIO=0.25, TRAIN_ROIS_PER_IMAGE=32)
    example = inspection.rpn_example(Rectangles(), config, 1)
    counts = example["counts"]
    assert (
        sum(counts.values()) == len(example["anchors"])
        and counts["positive"] + counts["negative"] == 64
    )
    iou = utils.compute_overlaps(example["targets"], example["boxes"])
    assert len(iou) == counts["positive"] > 0 and np.all(iou.max(axis=1) > 0.999)
    rois = inspection.roi_example(example, config)
    assert rois["counts"] == {"positive": 8, "negative": 24}
    positive = rois["class_ids"] > 0
    assert np.all(
        utils.compute_overlaps(rois["refined"][positive], example["boxes"]).max(axis=1) > 0.99
    )
    assert np.all(
        utils.compute_overlaps(rois["rois"][~positive], example["boxes"]).max(axis=1) < 0.5
    )


# ---- Masks ---------------------------------------------------------------------------------------


def disc(radius=60, side=160):
    y, x = np.mgrid[:side, :side]
    return (y - side // 2) ** 2 + (x - side // 2) ** 2 < radius**2


def test_mask_chain():
    """Nothing is lost of a rectangle; of a disc less at 56 than at 28, which keep .94 as COCO's
    objects do."""
    mask = np.zeros((90, 90), bool)
    mask[10:71, 20:60] = True
    assert [step["iou"] for step in inspection.mask_chain(mask, Config())] == [1.0] * 4
    small, large = (inspection.mask_chain(disc(), Config(), side) for side in (28, 56))
    assert small[0]["iou"] == 1 and small[0]["small"].shape == (119, 119)
    assert 0.94 < small[3]["iou"] < large[3]["iou"] < 1 and 0.94 < small[2]["iou"] < large[2]["iou"]
    assert small[2]["small"].shape == (28, 28) and small[2]["pasted"].shape == (160, 160)
    rows = dict(
        inspection.mask_losses(np.stack([disc(), mask_of_size(mask, 160)], axis=-1), Config())
    )
    assert rows["target 28 x 28 of the object"] == pytest.approx((small[3]["iou"] + 1) / 2)


@pytest.mark.parametrize(
    "fused, side, end, lost",
    [
        (True, 28, 1 - 2**-22, 0),
        (False, 28, 1 - 2**-22, 0),
        (True, 56, 1.0, 0),
        (False, 56, 1.0, 0),
        (True, 28, 1.0, 12),
        (False, 28, 1.0, 12),
    ],
)
def test_the_chains_target_is_that_of_training(fused, side, end, lost):
    """All cells are those of the network's own kernel, of a RoI that ends with the object. At
    exactly the end TensorFlow's last sample of 56 cells to 28 falls a rounding beyond it and is 0:
    12 cells, of the last row and column, are lost, and by the portable kernel the same ones.
    """
    steps = inspection.mask_chain(disc(), Config(), side)
    mini = ops.convert_to_tensor(steps[1]["small"][None, ..., None].astype("float32"))
    crops = kernels.crop_and_resize(
        mini,
        ops.convert_to_tensor([[0.0, 0.0, end, end]]),
        ops.zeros(1, "int32"),
        (side, side),
        fused,
    )
    differ = np.round(np.asarray(crops))[0, ..., 0] != steps[2]["small"]
    assert differ.sum() == lost and not differ[:-1, :-1].any()


def mask_of_size(mask, side):
    return np.pad(mask, [(0, side - mask.shape[0]), (0, side - mask.shape[1])])


def test_softmax_loses_what_a_rival_wants():
    """Logits 0 for the background, 2 and 1 for the classes: softmax gives e^2 / (1 + e^2 + e),
    sigmoid its own."""
    logits = np.zeros((1, 2, 3))
    logits[0, 0] = -9, 2, 1  # the network's own channel of the background is not used
    logits[0, 1] = 0, 0.2, -50
    detection = {"all_masks": 1 / (1 + np.exp(-logits)), "class_id": 1}
    maps = inspection.softmax_and_sigmoid(detection)
    e = np.e
    np.testing.assert_allclose(maps["softmax"][0, 0], e**2 / (1 + e**2 + e))
    np.testing.assert_allclose(maps["sigmoid"][0], 1 / (1 + np.exp(-np.array([2, 0.2]))))
    # Without a rival the two agree.
    np.testing.assert_allclose(maps["softmax"][0, 1], maps["sigmoid"][0, 1], rtol=1e-6)
    np.testing.assert_allclose(maps["rivals"][0, 0], 1 / (1 + np.exp(-1)))


# ---- Pooling -------------------------------------------------------------------------------------


def test_poolings_have_the_public_values():
    """detectron2's 5 x 5 ramp and what its RoIAlign and matterport's crop_and_resize make of it;
    RoIPool by hand."""
    ramp = np.arange(25.0).reshape(5, 5, 1)
    expected = np.array(
        [[4.5, 5, 5.5, 6], [7, 7.5, 8, 8.5], [9.5, 10, 10.5, 11], [12, 12.5, 13, 13.5]]
    )
    np.testing.assert_allclose(inspection.roi_align(ramp, (1, 1, 3, 3), (4, 4))[..., 0], expected)
    crop = inspection.crop_and_resize(ramp, (0.25, 0.25, 0.5, 0.5), (4, 4))[..., 0]
    np.testing.assert_allclose(
        crop[[0, -1]], [[6, 6 + 1 / 3, 6 + 2 / 3, 7], [11, 11 + 1 / 3, 11 + 2 / 3, 12]]
    )
    # Cells 1 to 3, in bins of the cells 1-2 and 2-3.
    np.testing.assert_array_equal(
        inspection.roi_pool(ramp, (1.2, 0.9, 3.4, 2.6), (2, 2))[..., 0], [[12, 13], [17, 18]]
    )
    assert inspection.roi_pool(ramp, (8, 8, 9, 9), (2, 2)).max() == 0


def test_what_rounding_costs():
    """RoIAlign reads the bins' middles exactly; RoIPool is off by a share of the stride, so that it
    grows with it."""
    rows = inspection.pooling_offsets(boxes=40)
    strides, pool, align, _ = map(np.array, zip(*rows))
    np.testing.assert_allclose(align, 0, atol=1e-9)
    assert np.all(np.diff(pool) > 0) and np.all((pool / strides > 0.2) & (pool / strides < 1))
    rows, pooled = inspection.pooling_masks(disc())
    for stride, pool, align, _ in rows:
        assert align > 0.94 or stride == 32
        assert pool < align
    assert pooled[4, "RoIPool"].shape == (28, 28)


# ---- Weights and models --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy_model(tmp_path_factory):
    return modellib.MaskRCNN("inference", ToyConfig(), tmp_path_factory.mktemp("logs"))


@pytest.mark.long
def test_weight_statistics(tmp_path):
    """A fresh network has nothing suspicious; each fault is named where it is."""
    model = modellib.MaskRCNN("inference", ToyConfig(), tmp_path)
    assert not [row["name"] for row in inspection.weight_statistics(model) if row["verdict"]]
    faults = {
        "fpn_c5p5": (lambda w: 0 * w, "constant"),
        "fpn_p2": (lambda w: 500 * w, "exploding"),
        "res2a": (lambda w: w * (np.arange(24) != 3), "1 of 24 filters dead"),
        "mrcnn_mask": (lambda w: w * np.nan, "not finite"),
    }
    for name, (change, _) in faults.items():
        layer = model.keras_model.get_layer(name)
        weight = layer.weights[0]
        weight.assign(change(np.asarray(weight)))
    found = {
        row["name"]: row["verdict"] for row in inspection.weight_statistics(model) if row["verdict"]
    }
    assert found == {f"{name}/kernel": verdict for name, (_, verdict) in faults.items()}


@pytest.mark.long
def test_coverage_table(toy_model, tmp_path):
    toy_model.save_weights(tmp_path / "toy.h5")
    coverage = toy_model.load_weights(tmp_path / "toy.h5", exclude=["mrcnn_mask"])
    rows = {row[0]: row[1:] for row in inspection.coverage_table(coverage)}
    assert (
        rows["RPN"] == (6, 0, 0, 0) and rows["heads"][2] == 2 and rows["backbone"] == (10, 0, 0, 0)
    )


def test_network_shapes(toy_model):
    shapes, parameters = inspection.network_shapes(toy_model, (64, 128, 3))
    assert shapes["fpn_p2"] == (16, 32, 32) and shapes["fpn_p6"] == (1, 2, 32)
    assert (
        shapes["ROI"] == (50, 4)
        and shapes["mrcnn_class"] == (50, 3)
        and shapes["mrcnn_mask"] == (10, 28, 28, 3)
    )
    assert sum(parameters.values()) == toy_model.keras_model.count_params()


def test_channels():
    activation = np.zeros((4, 4, 3))
    activation[1, 2, 0] = 8
    assert inspection.channel_statistics(activation) == {
        "channels": 3,
        "dead": 2,
        "mean": 8 / 48,
        "largest": 8,
        "zeros": 47 / 48,
    }


def test_worst_images_come_first(toy_model, monkeypatch):
    """AP 0 for nothing found, 1 for the truth itself; an image without objects has none and comes
    last."""
    dataset = Rectangles(3, empty=True)
    nothing = {
        "rois": np.zeros((0, 4), int),
        "class_ids": np.zeros(0, int),
        "scores": np.zeros(0),
        "masks": np.zeros((64, 64, 0), bool),
    }
    masks, ids = dataset.load_mask(1)
    truth = {
        "rois": utils.extract_bboxes(masks),
        "class_ids": ids,
        "scores": np.ones(2),
        "masks": masks,
    }
    answers = iter([nothing, truth, nothing])
    monkeypatch.setattr(toy_model, "detect", lambda images: [next(answers)])
    rows = inspection.image_scores(toy_model, dataset, dataset.image_ids)
    assert [row["image_id"] for row in rows] == [0, 1, 2] and [row["ap"] for row in rows[:2]] == [
        0,
        1,
    ]
    assert np.isnan(rows[2]["ap"])
    np.testing.assert_array_equal(inspection.mask_overlaps(rows[1]), np.eye(2))


def test_best_detection(toy_model):
    stages = toy_model.trace(Rectangles().load_image(0))
    detection = inspection.best_detection(stages, stages.pasted[..., 0])
    if len(stages.boxes):
        assert detection["iou"] >= inspection.iou_of_masks(
            stages.pasted[..., 0], stages.pasted[..., 0]
        )
        assert detection["prediction"].shape == (28, 28)
    stages.boxes = stages.boxes[:0]
    assert inspection.best_detection(stages, np.ones((64, 64), bool)) is None


def test_what_a_notebook_shows_of_results_is_one_line():
    """A cell that ends with `model.load_weights(...)` printed 17,000 characters."""
    import pathlib

    from mrcnn import annotations, evaluate, masks, media, weights

    names = [f"layer_{i}/kernel" for i in range(1000)]
    shapes = dict.fromkeys(names, ((1, 2), (3, 4)))
    coverage = weights.Coverage(names, names[:3], [], names, shapes)
    assert repr(coverage) == (
        "Coverage(1000 weights loaded, 3 missing, 0 excluded, 1000 unused, 1000 mismatched)"
    )
    found = [{"image_id": i, "segmentation": "x" * 1000} for i in range(1000)]
    truth = evaluate.Truth({"annotations": found}, dict(enumerate(names)), {}, True)
    figures = {"AP": 0.25, "AP50": 0.5}
    regions = [annotations.Region("cat", annotations.Polygons([np.zeros((500, 2))]))] * 100
    image = annotations.AnnotatedImage("a.jpg", "a.jpg", 40, 60, regions)
    rows = np.zeros((1000, 4))
    shown = [
        (coverage, "1000 mismatched"),
        (
            evaluate.Evaluation(figures, figures, {}, 1000, found, 1.0, truth=truth),
            "bbox AP 0.250, segm AP 0.250, 1000 images, 1000 detections",
        ),
        (truth, "1000 images, 1000 objects"),
        (image, "'a.jpg', 40 x 60, 100 regions"),
        (
            annotations.Annotations("x", [image] * 100, names, names),
            "100 images, 10000 regions, 1000 classes",
        ),
        (
            inspection.Survey(*[rows] * 4, 0, rows, rows, (1, 1), names),
            "1000 images, 1000 objects, 999 classes",
        ),
        (masks.Masks(np.ones((7, 28, 28)), rows[:7], (40, 60)), "7 of 40 x 60 pixels"),
        (media.Processed(names, [], 1000, 12.0), "1000 pictures, 1000 files written"),
        (media.Picture(pathlib.Path("a.jpg"), np.zeros((40, 60, 3))), "'a.jpg', 40 x 60"),
        (utils.Dataset(), "Dataset(0 images, 0 classes)"),
    ]
    for value, part in shown:
        assert part in repr(value) and len(repr(value)) < 200
