"""Every stage of one image, against the recordings and against what `detect` says."""

import numpy as np
import pytest
from parity import read as recorded
from toy import Rectangles, ToyConfig

from mrcnn import data, model as modellib, trace, utils


@pytest.fixture(scope="module")
def stages(small_model):
    return small_model.trace(
        recorded("net_small_shapes0")["image0"], activations=["fpn_p3", "roi_align_classifier"]
    )


def test_region_proposals(small_model, stages):
    """In pixels: the anchors as utils makes them, the proposals as recorded, each step made of the
    one before."""
    config, arrays = small_model.config, recorded("net_small_shapes0")
    anchors = utils.generate_pyramid_anchors(
        config.RPN_ANCHOR_SCALES,
        config.RPN_ANCHOR_RATIOS,
        data.compute_backbone_shapes(config, (128, 128)),
        config.BACKBONE_STRIDES,
        1,
    )
    np.testing.assert_allclose(stages.anchors, anchors, atol=1e-4)
    assert np.bincount(stages.anchor_levels).tolist() == [0, 0, 3072, 768, 192, 48, 12]
    np.testing.assert_allclose(stages.rpn_scores, arrays["rpn_class"][0, :, 1], atol=1e-4)
    assert np.all(np.diff(stages.rpn_scores[stages.top]) <= 0) and len(set(stages.top)) == len(
        stages.top
    )
    first = stages.top[0]
    moved = utils.apply_box_deltas(
        utils.norm_boxes(stages.anchors[[first]], (128, 128)),
        stages.rpn_deltas[[first]] * config.RPN_BBOX_STD_DEV,
    )
    np.testing.assert_allclose(trace.to_pixels(moved, (128, 128))[0], stages.refined[0], atol=1e-3)
    np.testing.assert_allclose(
        np.clip(stages.refined, 0, 128), stages.clipped, atol=1.01
    )  # the frame ends at 0 and 1
    np.testing.assert_array_equal(stages.clipped[stages.nms_kept], stages.proposals)
    np.testing.assert_array_equal(
        stages.rpn_scores[stages.top][stages.nms_kept], stages.proposal_scores
    )
    overlaps = utils.compute_overlaps(stages.proposals, stages.proposals) - np.eye(
        len(stages.proposals)
    )
    assert overlaps.max() < config.RPN_NMS_THRESHOLD + 0.02
    expected = trace.to_pixels(arrays["proposals"][0], (128, 128))
    iou = utils.compute_overlaps(stages.proposals, expected[expected.any(axis=1)])
    assert np.mean(iou.max(axis=1) > 0.99) > 0.98


def test_levels_follow_the_size(stages):
    """At 128 pixels a RoI of 128 is 4 + log2(128 / 224) -> P3; rounding at sqrt(2) * 56 and so
    on."""
    side = np.sqrt(np.prod(stages.proposals[:, 2:] - stages.proposals[:, :2], axis=1))
    assert set(stages.roi_levels) <= {2, 3, 4, 5} and np.all(stages.roi_levels[side < 75] == 2)
    assert np.all(stages.roi_levels[side > 84] == 3)


def test_detections(small_model, stages):
    """Each detection is the refined box of the proposal that `kept` names, and the result is that
    of `detect`."""
    result = small_model.detect([recorded("net_small_shapes0")["image0"]])[0]
    assert len(stages.kept) == len(result["scores"]) > 0
    for key in ("rois", "class_ids"):
        np.testing.assert_array_equal(stages.result[key], result[key])
    np.testing.assert_allclose(stages.result["scores"], result["scores"], atol=1e-5)
    assert np.mean(stages.result["masks"] != result["masks"]) < 1e-3
    np.testing.assert_allclose(stages.refined_rois[stages.kept], stages.boxes, atol=1e-3)
    np.testing.assert_array_equal(stages.class_ids[stages.kept], stages.detected_ids)
    np.testing.assert_array_equal(stages.scores[stages.kept], stages.detection_scores)
    assert len(set(stages.kept)) == len(stages.kept)
    count = len(stages.kept)
    assert stages.masks.shape == (count, 28, 28) and stages.all_masks.shape == (count, 28, 28, 4)
    np.testing.assert_array_equal(
        stages.masks[0], stages.all_masks[0, :, :, stages.detected_ids[0]]
    )
    assert stages.pasted.shape == (128, 128, count) and stages.pasted.dtype == bool
    assert dict(stages.counts())["detections"] == count


def test_activations_and_image(stages):
    assert stages.activations["fpn_p3"].shape == (16, 16, 256)
    assert stages.activations["roi_align_classifier"].shape[1:] == (7, 7, 256)
    np.testing.assert_array_equal(stages.image, recorded("net_small_shapes0")["image0"])


@pytest.mark.heavy
@pytest.mark.parametrize(
    "settings",
    [
        dict(USE_MASK=False),
        dict(RPN_ANCHOR_STRIDE=2),
        dict(IMAGE_RESIZE_MODE="pad64"),
        dict(DETECTION_MIN_CONFIDENCE=1.0),
    ],
    ids=str,
)
def test_other_settings(settings, tmp_path):
    """Boxes alone, fewer anchors, an image that is not square, nothing detected; in the image's
    frame as in detect."""
    model = modellib.MaskRCNN("inference", ToyConfig(**settings), tmp_path)
    image = Rectangles().load_image(1)[:50]
    stages, result = model.trace(image), model.detect([image])[0]
    np.testing.assert_array_equal(stages.result["rois"], result["rois"])
    assert (stages.masks is None) == (not model.config.USE_MASK)
    assert len(stages.anchors) == len(stages.anchor_levels) == len(stages.rpn_scores)
    np.testing.assert_allclose(stages.refined_rois[stages.kept], stages.boxes, atol=1e-3)
    molded, _, windows = model.mold_inputs([image])
    np.testing.assert_array_equal(stages.window, windows[0])
    assert stages.image.shape == molded[0].shape
    if stages.image.shape == (64, 64, 3):
        y1, x1, y2, x2 = stages.window
        np.testing.assert_array_equal(stages.image[y1:y2, x1:x2], image)


def test_needs_an_inference_model(tmp_path):
    with pytest.raises(ValueError, match="mode 'inference'"):
        modellib.MaskRCNN("training", ToyConfig(), tmp_path).trace(np.zeros((64, 64, 3), np.uint8))
