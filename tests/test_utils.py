"""mrcnn.utils against numbers worked by hand, other libraries' published test values, and the
original's mistakes. "README n" is the n-th entry of "Broken in the original" of the recordings;
where a recorded case shows the mistake, the test names it.
"""

import ast
import inspect
import logging
import random
import re
import subprocess
import sys

import numpy as np
import oracle
import pytest

from mrcnn import boxes as box_math, files, masks as masks_module, utils, weights
from mrcnn.config import Config


def recorded(name):
    """Arguments and keyword arguments of a recorded case."""
    cases, arrays = oracle.load("pure_nophoto")
    return oracle.arguments(cases[name], arrays)


def yx(boxes):
    """Boxes from (x1, y1, x2, y2), as other libraries write them."""
    return np.asarray(boxes, np.float64)[..., [1, 0, 3, 2]]


def masks_of(shape, *boxes):
    """[H, W, N] bool, full rectangles."""
    masks = np.zeros((*shape, len(boxes)), bool)
    for i, (y1, x1, y2, x2) in enumerate(boxes):
        masks[y1:y2, x1:x2, i] = True
    return masks


# ---- The public names ----------------------------------------------------------------------------


def test_names_parameters_and_defaults_are_the_originals():
    text = (oracle.RECORDED / "api.txt").read_text()
    section = re.search(r"===== mrcnn\.utils.*?\n(.*?)--- ", text, re.S)[1]
    section = re.sub(r"@property ", "", section)
    owner, checked = utils, 0
    for line in section.splitlines():
        if line.startswith("#"):
            continue
        if match := re.match(r"(COCO_MODEL_URL) = (.*)", line):
            assert getattr(utils, match[1]) == ast.literal_eval(match[2])
        elif line.startswith("class Dataset"):
            owner = utils.Dataset
        else:
            if line.startswith("def "):
                owner = utils
            name, parameters = re.match(r"\s*def (\w+)\((.*)\)", line).groups()
            namespace = {}
            exec(f"def f({parameters}): pass", namespace)
            expected = list(inspect.signature(namespace["f"]).parameters.values())
            attribute = inspect.getattr_static(owner, name)
            function = attribute.fget if isinstance(attribute, property) else attribute
            actual = list(inspect.signature(function).parameters.values())
            assert [(p.name, p.default, p.kind) for p in actual[: len(expected)]] == [
                (p.name, p.default, p.kind) for p in expected
            ], name
            assert all(p.default is not p.empty for p in actual[len(expected) :]), name
            checked += 1
    assert checked == section.count("def ") > 30


def test_import_is_light():
    """README 28: importing utils imports TensorFlow."""
    code = (
        "import sys, mrcnn.utils; print(*[m for m in ('keras', 'tensorflow', 'skimage', 'scipy',"
        " 'matplotlib') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=oracle.TESTS.parent, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout.strip()) == (0, ""), result.stderr + result.stdout


# ---- Boxes ---------------------------------------------------------------------------------------


def test_extract_bboxes():
    """Three masks of 4x4, detectron2's test of masks' boxes."""
    masks = np.zeros((4, 4, 3), bool)
    masks[0:4, 1:4, 0] = True
    masks[1, 1, 1] = masks[3, 2, 1] = True
    assert (
        utils.extract_bboxes(masks).tolist()
        == yx([[1, 0, 4, 4], [1, 1, 3, 4], [0, 0, 0, 0]]).tolist()
    )
    assert utils.extract_bboxes(masks).dtype == np.int32
    assert (
        utils.extract_bboxes(masks.astype(np.float32) * 0.1).tolist()
        == utils.extract_bboxes(masks).tolist()
    )
    # [N, H, W] in memory, seen as [H, W, N]
    turned = np.ascontiguousarray(masks.transpose(2, 0, 1)).transpose(1, 2, 0)
    assert utils.extract_bboxes(turned).tolist() == utils.extract_bboxes(masks).tolist()
    assert utils.extract_bboxes(np.zeros((5, 6, 0), bool)).shape == (0, 4)
    with pytest.raises(ValueError, match=r"\[H, W, N\].*\(5, 6\)"):
        utils.extract_bboxes(np.zeros((5, 6)))


def test_overlaps_of_unit_boxes():
    """detectron2's and torchvision's tables."""
    unit = yx([[0, 0, 1, 1]])
    others = yx(
        [
            [0, 0, 1, 1],
            [0, 0, 0.5, 1],
            [0, 0, 1, 0.5],
            [0, 0, 0.5, 0.5],
            [0.5, 0.5, 1, 1],
            [0.5, 0.5, 1.5, 1.5],
        ]
    )
    expected = [1, 0.5, 0.5, 0.25, 0.25, 0.25 / 1.75]
    np.testing.assert_allclose(utils.compute_overlaps(unit, others), [expected], rtol=1e-12)
    np.testing.assert_allclose(utils.compute_overlaps(others, unit)[:, 0], expected, rtol=1e-12)
    np.testing.assert_allclose(
        utils.compute_iou(unit[0], others, 1.0, box_math.area(others)), expected, rtol=1e-12
    )
    boxes = yx([[0, 0, 100, 100], [0, 0, 50, 50], [200, 200, 300, 300], [0, 0, 25, 25]]).astype(
        np.int32
    )
    np.testing.assert_allclose(
        utils.compute_overlaps(boxes, boxes[:3]),
        [[1, 0.25, 0], [0.25, 1, 0], [0, 0, 1], [0.0625, 0.25, 0]],
        rtol=1e-12,
    )


def test_overlaps_of_many_boxes():
    """More boxes than a block holds, in no order, against one pair at a time."""
    rng = np.random.default_rng(0)
    corner, size = rng.uniform(0, 90, (1300, 2)), rng.uniform(1, 30, (1300, 2))
    boxes1 = np.concatenate([corner, corner + size], 1)
    boxes2 = boxes1[rng.permutation(1300)[:7]] + 0.5
    expected = np.zeros((1300, 7))
    for i, a in enumerate(boxes1):
        for j, b in enumerate(boxes2):
            common = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(
                min(a[3], b[3]) - max(a[1], b[1]), 0
            )
            expected[i, j] = common / (
                (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
            )
    np.testing.assert_allclose(utils.compute_overlaps(boxes1, boxes2), expected, rtol=1e-12)
    assert utils.compute_overlaps(boxes1, boxes2[:0]).shape == (1300, 0)


def test_overlaps_of_large_integer_boxes():
    """README 7, compute_overlaps_int32_overflow: areas of int32 boxes overflow."""
    boxes = np.array(
        [[0, 0, 60000, 60000], [0, 0, 60000, 30000], [30000, 0, 90000, 60000]], np.int32
    )
    np.testing.assert_allclose(
        utils.compute_overlaps(boxes[:1], boxes), [[1, 0.5, 1 / 3]], rtol=1e-12
    )
    assert utils.non_max_suppression(boxes, np.array([0.9, 0.8, 0.7]), 0.4).tolist() == [0, 2]


def test_overlaps_of_boxes_without_area():
    """README 7, compute_overlaps_zero_area: 0/0 gives NaN."""
    cases, arrays = oracle.load("pure_nophoto")
    actual = oracle.run(cases["compute_overlaps_zero_area"], arrays)
    np.testing.assert_array_equal(
        actual, np.nan_to_num(arrays["compute_overlaps_zero_area/out0"], nan=0)
    )
    point = np.array([[3, 3, 3, 3]], np.float32)
    assert utils.compute_overlaps(point, point).tolist() == [[0]]
    assert utils.compute_iou(point[0], point, 0.0, np.zeros(1, np.float32)).tolist() == [0]


def test_nms_of_three_close_boxes():
    """detectron2's boxes, areas and overlaps."""
    boxes = yx(
        [
            [285.3538, 185.5758, 1193.5110, 851.4551],
            [285.1472, 188.7374, 1192.4984, 851.0669],
            [279.2440, 197.9812, 1189.4746, 849.2019],
        ]
    )
    assert utils.non_max_suppression(boxes, np.array([0.6370, 0.7569, 0.3966]), 0.2).tolist() == [1]
    np.testing.assert_allclose(
        box_math.area(boxes), [604723.0806, 600965.4666, 592761.0085], rtol=1e-6
    )
    overlaps = utils.compute_overlaps(boxes, boxes)
    np.testing.assert_allclose(overlaps[np.triu_indices(3, 1)], [0.9933, 0.9673, 0.9737], atol=1e-4)
    # Between the overlaps of the best box with the others.
    assert utils.non_max_suppression(boxes, np.array([0.6370, 0.7569, 0.3966]), 0.98).tolist() == [
        1,
        2,
    ]


def test_nms_threshold_is_exceeded_not_reached():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [20, 20, 30, 30]])  # IoU .5
    assert utils.non_max_suppression(boxes, [0.9, 0.8, 0.95], 0.5).tolist() == [2, 0, 1]
    assert utils.non_max_suppression(boxes, [0.9, 0.8, 0.95], 0.499).tolist() == [2, 0]


def test_nms_edges():
    """nms_empty, nms_ties: nothing to keep; of equal scores the higher index is kept."""
    empty = utils.non_max_suppression(np.zeros((0, 4)), np.zeros(0), 0.3)
    assert empty.shape == (0,) and empty.dtype == np.int32
    same = np.tile([[0, 0, 4, 4]], (3, 1))
    assert utils.non_max_suppression(same, np.ones(3), 0.3).tolist() == [2]
    (boxes, scores, threshold), _ = recorded("nms_ties")
    kept = utils.non_max_suppression(boxes, scores, threshold)
    cases, arrays = oracle.load("pure_nophoto")
    np.testing.assert_array_equal(
        np.unique(boxes[kept], axis=0), np.unique(boxes[arrays["nms_ties/out0"]], axis=0)
    )
    with pytest.raises(ValueError, match="3 boxes, 2 scores"):
        utils.non_max_suppression(same, np.ones(2), 0.3)


def test_box_deltas_by_hand():
    """A box of 10 x 20, moved by a tenth of its height and half its width, doubled and halved."""
    box, deltas = [[0, 0, 10, 20]], [[0.1, 0.5, np.log(2), np.log(0.5)]]
    moved = utils.apply_box_deltas(box, deltas)  # centre (6, 20), size 20 x 10
    np.testing.assert_allclose(moved, [[-4, 15, 16, 25]], rtol=1e-6)
    assert moved.dtype == np.float32
    np.testing.assert_allclose(utils.box_refinement(np.array(box), moved), deltas, rtol=1e-6)
    # The bound acts on sizes alone.
    wild = box_math.apply_deltas(
        np.array([[0.0, 0, 10, 10]]), np.array([[0.0, 0, 50, 1]]), np, np.log(4)
    )
    np.testing.assert_allclose(wild, [[-15, 5 - 5 * np.e, 25, 5 + 5 * np.e]])


def test_box_refinement_graph_is_box_refinement():
    from keras import ops

    rng = np.random.default_rng(1)
    box, gt = (
        np.concatenate([c, c + s], 1).astype(np.float32)
        for c, s in ((rng.uniform(0, 9, (5, 2)), rng.uniform(1, 9, (5, 2))) for _ in range(2))
    )
    np.testing.assert_allclose(
        ops.convert_to_numpy(utils.box_refinement_graph(box, gt)),
        utils.box_refinement(box, gt),
        rtol=1e-5,
        atol=1e-6,
    )


def test_norm_boxes_by_hand():
    assert utils.norm_boxes(np.array([[0, 0, 5, 9]]), (5, 9)).tolist() == [[0, 0, 1, 1]]
    normalised = utils.norm_boxes(np.array([[2, 4, 4, 6]]), (5, 9))  # (2, 4, 3, 5) / (4, 8, 4, 8)
    assert normalised.tolist() == [[0.5, 0.5, 0.75, 0.625]] and normalised.dtype == np.float32
    # Halves go to the even side: .625 * 4 = 2.5, .375 * 4 = 1.5; y2, x2 then + 1
    pixels = utils.denorm_boxes(np.array([[0.625, 0.0625, 0.375, 0.1875]]), (5, 9))
    assert pixels.tolist() == [[2, 0, 2, 2]] and pixels.dtype == np.int32


def test_trim_zeros_keeps_rows_that_cancel():
    x = np.array([[0, 0, 0, 0], [0, 0, 0, 2], [-1, 0, 1, 0], [0, 0, 0, 0]])
    assert utils.trim_zeros(x).tolist() == x[1:3].tolist()


# ---- Anchors -------------------------------------------------------------------------------------


# ---- Matching and average precision --------------------------------------------------------------


def scene():
    """Two objects; best prediction fits the first, the next nothing, the last half of the
    second."""
    gt = (0, 0, 10, 10), (20, 20, 30, 30)
    pred = (0, 0, 5, 10), (40, 40, 50, 50), (20, 20, 30, 28)
    gt_boxes, pred_boxes = np.array(gt), np.array(pred)[[2, 0, 1]]
    pred_masks = masks_of((60, 60), *pred)[:, :, [2, 0, 1]]
    return (
        gt_boxes,
        np.array([1, 2]),
        masks_of((60, 60), *gt),
        pred_boxes,
        np.array([2, 1, 1]),
        np.array([0.7, 0.9, 0.8]),
        pred_masks,
    )


def test_matches_by_hand():
    gt_match, pred_match, overlaps = utils.compute_matches(*scene())
    assert gt_match.tolist() == [0, 2] and pred_match.tolist() == [0, -1, 1]
    np.testing.assert_allclose(overlaps, [[0.5, 0], [0, 0], [0, 0.8]], rtol=1e-6)
    # a match has at least the threshold
    assert utils.compute_matches(*scene(), iou_threshold=0.51)[1].tolist() == [-1, -1, 1]
    # of the right class
    gt_boxes, _, *rest = scene()
    assert utils.compute_matches(gt_boxes, np.array([1, 1]), *rest)[1].tolist() == [0, -1, -1]


def test_each_object_is_matched_once_by_the_best_score():
    """The better score takes the object although the other fits better; the other takes the
    next."""
    gt = masks_of((20, 20), (0, 0, 10, 10), (0, 0, 10, 6))
    pred = masks_of((20, 20), (0, 0, 10, 10), (0, 0, 10, 9))
    boxes = utils.extract_bboxes
    ids = np.array([1, 1])
    gt_match, pred_match, _ = utils.compute_matches(
        boxes(gt), ids, gt, boxes(pred), ids, np.array([0.5, 0.9]), pred
    )
    assert pred_match.tolist() == [0, 1] and gt_match.tolist() == [0, 1]


def test_ap_by_hand():
    """Hit, miss, hit of two objects: recall .5 at precision 1, then 1 at 2/3: .5 + .5 * 2/3 =
    .8333."""
    ap, precisions, recalls, overlaps = utils.compute_ap(*scene())
    assert ap == pytest.approx(0.5 + 0.5 * 2 / 3)
    np.testing.assert_allclose(precisions, [1, 1, 2 / 3, 2 / 3, 0])
    np.testing.assert_allclose(recalls, [0, 0.5, 0.5, 1, 1])
    assert overlaps.shape == (3, 2)
    # IoU .5 counts at .5 alone; .8 counts up to .8, ranked third: AP .5 * 1/3.
    above = 0.5 * 1 / 3
    assert utils.compute_ap_range(
        *scene(), iou_thresholds=[0.5, 0.75, 0.85], verbose=0
    ) == pytest.approx((0.5 + 0.5 * 2 / 3 + above + 0) / 3)


def test_ap_range_takes_arrays_and_logs(caplog, capsys):
    """README 6, compute_ap_range_array: an array of thresholds is refused."""
    args, kwargs = recorded("compute_ap_range_array")
    assert isinstance(kwargs["iou_thresholds"], np.ndarray)
    expected = np.mean(
        [utils.compute_ap(*args, iou_threshold=t)[0] for t in kwargs["iou_thresholds"]]
    )
    with caplog.at_level(logging.INFO, logger="mrcnn.utils"):
        assert utils.compute_ap_range(
            *args, iou_thresholds=kwargs["iou_thresholds"]
        ) == pytest.approx(expected)
    assert len(caplog.records) == 3 and capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="at least one"):
        utils.compute_ap_range(*args, iou_thresholds=[])


@pytest.mark.parametrize("seed", [40, 41, 42, 43])
def test_score_threshold_cuts_scores(seed):
    """README 6, compute_matches_score_*: the original cuts IoUs. Predictions below match
    nothing."""
    args, kwargs = recorded(f"compute_matches_score_{seed}")
    gt_boxes, gt_ids, gt_masks, boxes, ids, scores, masks = args
    gt_match, pred_match, overlaps = utils.compute_matches(*args, **kwargs)
    keep = scores >= kwargs["score_threshold"]
    alone = utils.compute_matches(
        gt_boxes, gt_ids, gt_masks, boxes[keep], ids[keep], scores[keep], masks[..., keep]
    )
    count = keep.sum()
    assert 0 < count < len(keep)
    np.testing.assert_array_equal(gt_match, alone[0])
    np.testing.assert_array_equal(pred_match[:count], alone[1])
    assert (pred_match[count:] == -1).all() and len(pred_match) == len(overlaps) == len(keep)


def test_zero_row_among_predictions():
    """README 6, compute_matches_zero_pred_box: it shifts boxes against scores and masks."""
    args, kwargs = recorded("compute_matches_zero_pred_box")
    *gt, boxes, ids, scores, masks = args
    keep = boxes.any(axis=1)
    assert keep.sum() == 9 and keep[-1]
    expected = utils.compute_matches(
        *gt, boxes[keep], ids[keep], scores[keep], masks[..., keep], **kwargs
    )
    for a, b in zip(utils.compute_matches(*args, **kwargs), expected):
        np.testing.assert_array_equal(a, b)


def test_zero_rows_of_ground_truth():
    gt_boxes, gt_ids, gt_masks, *pred = scene()
    padded = (
        np.insert(gt_boxes, 1, 0, axis=0),
        np.insert(gt_ids, 1, 0),
        np.insert(gt_masks, 1, False, axis=2),
    )
    assert utils.compute_matches(*padded, *pred)[0].tolist() == [0, 2]
    # masks of real objects alone
    assert utils.compute_matches(padded[0], padded[1], gt_masks, *pred)[0].tolist() == [0, 2]
    with pytest.raises(ValueError, match="3 boxes.*1"):
        utils.compute_matches(padded[0], padded[1], gt_masks[..., :1], *pred)


def test_one_pixel_box_at_the_origin_is_no_padding():
    """README 4, in pixels: (0, 0, 1, 1) is an object."""
    mask = masks_of((5, 5), (0, 0, 1, 1))
    box = np.array([[0, 0, 1, 1]])
    assert utils.compute_ap(box, [1], mask, box, [1], [0.9], mask)[0] == 1


def test_ap_without_ground_truth_or_predictions():
    """README 6, compute_ap_nogt: divides by zero. AP is NaN, and no warning comes (warnings are
    errors)."""
    gt_boxes, gt_ids, gt_masks, boxes, ids, scores, masks = scene()
    none = np.zeros((0, 4)), np.zeros(0, int), np.zeros((60, 60, 0), bool)
    ap, precisions, recalls, overlaps = utils.compute_ap(*none, boxes, ids, scores, masks)
    assert np.isnan(ap) and not precisions.any() and overlaps.shape == (3, 0)
    assert recalls[[0, -1]].tolist() == [0, 1] and np.isnan(recalls[1:-1]).all()
    assert np.isnan(utils.compute_ap_range(*none, boxes, ids, scores, masks, verbose=0))
    ap, precisions, recalls, overlaps = utils.compute_ap(
        gt_boxes, gt_ids, gt_masks, *none[:2], np.zeros(0), none[2]
    )
    assert (
        ap == 0
        and precisions.tolist() == [0, 0]
        and recalls.tolist() == [0, 1]
        and overlaps.shape == (0, 2)
    )
    assert np.isnan(utils.compute_ap(*none, *none[:2], np.zeros(0), none[2])[0])


def test_recall_by_hand():
    gt = np.array([[0, 0, 10, 10], [20, 20, 30, 30]])
    pred = np.array([[0, 0, 10, 9], [0, 0, 10, 10], [50, 50, 60, 60]])
    recall, ids = utils.compute_recall(pred, gt, 0.5)
    assert recall == 0.5 and ids.tolist() == [0, 1]
    assert np.isnan(utils.compute_recall(pred, gt[:0], 0.5)[0])
    recall, ids = utils.compute_recall(pred[:0], gt, 0.5)
    assert recall == 0 and ids.shape == (0,)


# ---- For existing code ---------------------------------------------------------------------------


def test_batch_slice():
    from keras import ops

    x, y = np.arange(6.0).reshape(3, 2), np.arange(3.0)
    total = utils.batch_slice([x, y], lambda a, b: ops.sum(a) + b, 3)
    np.testing.assert_allclose(ops.convert_to_numpy(total), [1, 6, 11])
    doubled, summed = utils.batch_slice(
        x, lambda a: (a * 2, ops.sum(a)), 2, names=["doubled", "summed"]
    )
    np.testing.assert_allclose(ops.convert_to_numpy(doubled), x[:2] * 2)
    np.testing.assert_allclose(ops.convert_to_numpy(summed), [1, 5])


def test_download_of_the_released_weights(monkeypatch, capsys):
    """From the address that stands in `utils`, also one that was set there."""
    calls = []
    monkeypatch.setattr(files, "download", lambda *args, **kwargs: calls.append((args, kwargs)))
    monkeypatch.setattr(utils, "COCO_MODEL_URL", "https://mirror/coco.h5")
    utils.download_trained_weights("coco.h5", verbose=0)
    weights.download_trained_weights("coco.h5")
    arguments = ("https://mirror/coco.h5", "coco.h5")
    assert calls == [
        (arguments, {"progress": None}),
        (arguments, {"progress": files.progress_bar}),
    ]
    assert "mirror" in capsys.readouterr().err
