"""Every recorded call of the original gives the recorded answer, or stands in DEPARTURES with the
reason."""

import oracle
import pytest

# Cases that are not compared literally. What is right instead, for mrcnn.utils, is in test_utils.py
# (tests name the case), for the others in the tests of data and model.
DEPARTURES = {
    # mrcnn.utils
    "compute_overlaps_zero_area": "the original gives 0/0; boxes without area overlap nothing: 0",
    "overlaps_masks_zero": "the original gives 0/0; empty masks overlap nothing: 0",
    "nms_ties": "equal scores come in another order; the boxes kept are the same",
    "nms_empty": "the original asserts; without boxes nothing is kept",
    "resize_gray2d": "the original crashes on a 2-D image",
    "resize_pad64_min_none": "the original crashes without min_dim, which it documents as optional",
    "resize_square_nomax": "the original crashes without max_dim, which it documents as optional",
    "unmold_mask_outside": "the original crashes on a box beyond the image; here it is cut off",
    "compute_matches_score_41": "the original's score_threshold cuts IoUs",
    "compute_matches_score_42": "the original's score_threshold cuts IoUs",
    "compute_matches_score_43": "the original's score_threshold cuts IoUs",
    "compute_matches_zero_pred_box": "the original shifts boxes against scores and masks",
    "compute_ap_range_array": "the original refuses an array of thresholds",
    # mrcnn.data
    "rpn_targets_outside": "the original makes every anchor without overlap positive",
    "rpn_targets_all_crowd": "the original crashes where all objects are crowds",
    "detection_targets_np": "the original fills all rows with negatives and does not round masks",
    "detection_targets_np_mini": (
        "the original fills all rows with negatives and does not round masks"
    ),
    "data_generator_meta_dtype": "the original cuts the second image's scale to a whole number",
    "data_generator_targets": "the original fills all rows with negatives and does not round masks",
    "data_generator_plain": "a draw: order of images, sampled anchors",
    "data_generator_noshuffle": "a draw: sampled anchors",
    "data_generator_rois": "a draw: order of images, sampled anchors, random RoIs",
    "data_generator_maxgt": "a draw: order of images, kept objects",
    "data_generator_photo": "a draw: sampled anchors",
    "random_rois": "a draw",
    **{
        f"rpn_targets_{kind}_{seed}": "a draw: sampled anchors"
        for kind in ("rand", "few")
        for seed in (70, 71, 72)
    },
    # mrcnn.model
    "loss_class_active_mixed": (
        "the original uses the first image's active classes for the whole batch"
    ),
    "loss_class_nan": "the original gives 0/0 where no predicted class is active",
    "targets_no_gt": "README 5, as the next: without objects, negatives are drawn",
    "targets_no_positive": "the original drops all negatives where there is no positive",
}

# Recorded to show a bug, but the answer is the right one.
RIGHT_ANYWAY = {
    "compute_matches_score_40": "no prediction below the threshold had a match",
    "compute_ap_nogt": "NaN, which is documented here and comes without a division",
}


def photo_cases():
    """Cases with a photograph, which are not carried in the repository."""
    if oracle.find_shared("oracle/matterport/pure.npz") is None:
        return []
    carried, _ = oracle.load("pure_nophoto")
    return [
        name
        for name, case in oracle.load("pure")[0].items()
        if name not in carried and name not in DEPARTURES
    ]


def carried_cases():
    return [
        (recording, name)
        for recording in ("pure_nophoto", "graphs")
        for name, case in oracle.load(recording)[0].items()
        if name not in DEPARTURES
    ]


@pytest.mark.parametrize("recording, name", carried_cases(), ids=lambda value: value)
def test_recorded(recording, name):
    cases, arrays = oracle.load(recording)
    oracle.check(cases[name], arrays)


@pytest.mark.parametrize("name", photo_cases() or [None])
def test_recorded_with_photo(name):
    if name is None:
        oracle.shared("oracle/matterport/pure.npz")
    cases, arrays = oracle.load("pure")
    oracle.check(cases[name], arrays)


def test_departures_are_recorded_cases_and_cover_every_bug():
    cases = {**oracle.load("pure_nophoto")[0], **oracle.load("graphs")[0]}
    photographs = {"data_generator_photo", "data_generator_meta_dtype"}
    assert not {*DEPARTURES, *RIGHT_ANYWAY} - set(cases) - photographs
    bugs = {name for name, case in cases.items() if case.get("note", "").startswith("BUG")}
    assert bugs <= {*DEPARTURES, *RIGHT_ANYWAY}


def test_comparison_notices_differences():
    """The harness itself: a changed value, shape, dtype of a mask or number of results fails."""
    cases, arrays = oracle.load("pure_nophoto")
    case = cases["norm_boxes_rect"]
    right = oracle.run(case, arrays)
    oracle.compare(case, arrays, right)
    for wrong in (right * 1.0001 + 1e-4, right[:-1], right[None]):
        with pytest.raises(AssertionError):
            oracle.compare(case, arrays, wrong)
    case = cases["minimize_100x120_28x28"]
    right = oracle.run(case, arrays)
    oracle.compare(case, arrays, right)
    for wrong in (~right, right.astype("uint8"), right ^ (right[:1] | True)):
        with pytest.raises(AssertionError):
            oracle.compare(case, arrays, wrong)
    case = cases["resize_square_tall"]
    right = oracle.run(case, arrays)
    oracle.compare(case, arrays, right)
    for wrong in (right[:4], (*right[:4], (0, 0, 1, 1)), (*right[:2], 1, *right[3:])):
        with pytest.raises(AssertionError):
            oracle.compare(case, arrays, wrong)


def test_comparison_of_rows_without_order():
    """`rows`: the same rows in another order are equal, other rows are not."""
    cases, arrays = oracle.load("graphs")
    case = cases["target_layer_b2"]
    recorded = [arrays[key] for key in case["outs"]]
    shuffled = [array[:, ::-1] for array in recorded]
    oracle.compare(case, arrays, shuffled)
    with pytest.raises(AssertionError):
        oracle.compare(case, arrays, [shuffled[0], recorded[1], *shuffled[2:]])
