"""mrcnn.utils against numbers worked by hand, other libraries' published test values, and the
original's mistakes. "README n" is the n-th entry of "Broken in the original" of the recordings;
where a recorded case shows the mistake, the test names it.
"""

import ast
import copy
import inspect
import io
import logging
import os
import pickle
import random
import re
import subprocess
import sys
import time
import warnings

import numpy as np
import oracle
import pytest
from PIL import Image

from mrcnn import boxes as box_math, files, utils, weights
from mrcnn.config import Config
from mrcnn.masks import encode


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


def test_overlaps_of_half_precision_boxes():
    """Areas beyond 65,504 became infinite, and overlaps 0."""
    boxes = np.array([[0, 0, 300, 300], [0, 0, 600, 300]], np.float16)
    np.testing.assert_allclose(utils.compute_overlaps(boxes, boxes), [[1, 0.5], [0.5, 1]])
    assert utils.compute_iou(boxes[0], boxes, 90000, np.array([90000, 180000])).tolist() == [1, 0.5]
    kept = utils.non_max_suppression(boxes, np.array([0.9, 0.8]), 0.4)
    assert kept.tolist() == [0]
    assert utils.compute_recall(boxes[:1], boxes, 0.5)[0] == 0.5


@pytest.mark.parametrize("value, count", [(np.int64(1), 1), (1.0, 1), ("1", 0)])
def test_matching_takes_class_ids_of_a_table(value, count):
    """Of dtype object, as a column of pandas."""
    masks = np.ones((4, 4, 1), bool)
    boxes = [[0, 0, 4, 4]]
    class_ids = np.array([value], object)
    arguments = (boxes, class_ids, masks, boxes, [1], np.array([0.9], object), masks)
    if count:
        assert utils.compute_ap(*arguments)[0] == 1
        return
    with pytest.raises(ValueError, match=r"gt_class_ids are numbers. Received: \['1'\]"):
        utils.compute_ap(*arguments)


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


@pytest.mark.parametrize(
    "size, boxes",
    [
        (32, [[-32, -8, 32, 8], [-16, -16, 16, 16], [-8, -32, 8, 32]]),
        (64, [[-64, -16, 64, 16], [-32, -32, 32, 32], [-16, -64, 16, 64]]),
    ],
)
def test_anchors_of_detectron2(size, boxes):
    """Its ratios are h/w, ours w/h: .25, 1, 4 are 4, 1, .25."""
    boxes = yx(boxes)
    expected = np.concatenate([boxes, boxes + [0, 4, 0, 4]])
    np.testing.assert_allclose(
        utils.generate_anchors(size, [4, 1, 0.25], (1, 2), 4, 1), expected, atol=1e-12
    )


def test_anchors_of_torchvision():
    expected = [[x - 5, y - 5, x + 5, y + 5] for y in (0, 5, 10) for x in (0, 5, 10)]
    np.testing.assert_array_equal(utils.generate_anchors(10, [1], (3, 3), 5, 1), yx(expected))


def test_pyramid_anchors_are_the_levels_in_order():
    anchors = utils.generate_pyramid_anchors((8, 16), [0.5, 1, 2], [(3, 2), (1, 1)], [4, 8], 1)
    assert anchors.shape == (3 * 2 * 3 + 3, 4)
    np.testing.assert_array_equal(
        anchors[18:], utils.generate_anchors(16, [0.5, 1, 2], (1, 1), 8, 1)
    )
    # row, column, ratio: the square anchor of row 1, column 0
    np.testing.assert_allclose(anchors[1 * 6 + 0 * 3 + 1], [0, -4, 8, 4])
    with pytest.raises(ValueError, match="1 scales, 2 maps, 2 strides"):
        utils.generate_pyramid_anchors((8,), [1], [(3, 2), (1, 1)], [4, 8], 1)


# ---- Datasets ------------------------------------------------------------------------------------


def two_sources():
    dataset = utils.Dataset()
    dataset.add_class("a", 7, "cat, domestic")
    dataset.add_class("b", 1, "dog")
    dataset.add_class("a", 9, "cow")
    dataset.add_image("b", "x", "x.png", height=4, width=5)
    dataset.add_image("a", 3, "y.png", note="kept")
    dataset.prepare()
    return dataset


def test_dataset_attributes():
    dataset = two_sources()
    assert dataset.class_names == ["BG", "cat", "dog", "cow"]
    assert dataset.class_info[0] == {"source": "", "id": 0, "name": "BG"}
    assert dataset.num_classes == 4 and dataset.class_ids.tolist() == [0, 1, 2, 3]
    assert dataset.num_images == 2 and dataset.image_ids.tolist() == [0, 1]
    assert dataset.class_from_source_map == {".0": 0, "a.7": 1, "b.1": 2, "a.9": 3}
    assert dataset.image_from_source_map == {"b.x": 0, "a.3": 1}
    assert dataset.sources == ["", "a", "b"]
    assert dataset.source_class_ids == {"": [0], "a": [0, 1, 3], "b": [0, 2]}
    assert dataset.image_info[1] == {"id": 3, "source": "a", "path": "y.png", "note": "kept"}
    assert dataset.map_source_class_id("a.9") == 3
    assert dataset.get_source_class_id(3, "a") == 9
    assert dataset.source_image_link(0) == "x.png"
    with pytest.raises(ValueError, match="cow.*'a'.*Received: 'b'"):
        dataset.get_source_class_id(3, "b")


def test_image_reference_returns():
    """README 30: the samples' image_reference forgets `return`."""
    assert two_sources().image_reference(1) == "y.png"


def test_class_names_and_sources_are_checked():
    """README 30: a known id keeps the first name silently; a dot in a source is an assert."""
    dataset = two_sources()
    dataset.add_class("b", 1, "dog")
    assert len(dataset.class_info) == 4
    with pytest.raises(ValueError, match="already named 'dog'.*Received: 'wolf'"):
        dataset.add_class("b", 1, "wolf")
    with pytest.raises(ValueError, match="no dot.*'a.b'"):
        dataset.add_class("a.b", 1, "dog")


def test_a_class_is_known_by_source_and_id():
    dataset = utils.Dataset()
    dataset.add_class("a", 1, "cat")
    dataset.add_class("a", "1", "cat")  # "a.1" as well
    dataset.add_class("a", np.int64(1), "cat")
    dataset.add_class("b", 1, "cat")  # another source's
    assert len(dataset.class_info) == 3
    with pytest.raises(ValueError, match="already named 'cat'. Received: 'dog'"):
        dataset.add_class("a", "1", "dog")
    with pytest.warns(UserWarning, match="'a' has 'cat' twice, as class 1 and as 7: they are two"):
        dataset.add_class("a", 7, "cat")


@pytest.mark.parametrize(
    "arguments, part",
    [
        (("a", "cat", 1), r"add_class\(source, class_id, class_name\).*Received: 'a', 'cat', 1"),
        (("a", 1, None), "the name a text. Received: 'a', 1, None"),
        ((1, 1, "cat"), "no dot and is text. Received: 1"),
        ((None, 1, "cat"), "no dot and is text. Received: None"),
        (("a", [1], "cat"), r"id is a number or a text. Received: \[1\]"),
        (("a", np.array([1, 2]), "cat"), "id is a number or a text"),
        (("a", None, "cat"), "id is a number or a text. Received: None"),
    ],
)
def test_arguments_of_add_class(arguments, part):
    with pytest.raises(ValueError, match=part):
        utils.Dataset().add_class(*arguments)


@pytest.mark.parametrize("name", ["BG", "background", "__background__", "Background"])
def test_a_background_of_ones_own_is_said(name):
    """The classes after it would all be one further than the masks' ids say."""
    dataset = utils.Dataset()
    with pytest.warns(UserWarning, match=f"class 0 of source 'a', '{name}', is class 1 of the"):
        dataset.add_class("a", 0, name)


def test_classes_may_be_counted_from_0():
    dataset = utils.Dataset()
    dataset.add_class("a", 0, "cat")
    dataset.add_class("a", 1, "dog")
    dataset.prepare()
    assert dataset.map_source_class_id("a.0") == 1 and dataset.map_source_class_id("a.1") == 2


@pytest.mark.parametrize("wrong", ["a.8", 1, None, ["a.7"], "b"])
def test_a_class_that_is_not_there_is_named(wrong):
    with pytest.raises(KeyError, match=r"as 'source.id', one of a.7, b.1, a.9. Received: "):
        two_sources().map_source_class_id(wrong)


def test_a_dataset_that_is_not_prepared_says_so():
    dataset = utils.Dataset()
    dataset.add_class("a", 1, "cat")
    dataset.add_image("a", 1, "x.png")
    for name in ("num_classes", "class_names", "class_ids", "num_images", "sources"):
        with pytest.raises(AttributeError, match=rf"Dataset.{name} is there after prepare\(\)"):
            getattr(dataset, name)
        assert not hasattr(dataset, name)
    with pytest.raises(AttributeError, match=r"prepare\(\)"):
        dataset.map_source_class_id("a.1")
    with pytest.warns(UserWarning, match=r"image_ids is empty although there are 1 images: call"):
        assert len(dataset.image_ids) == 0
    dataset.prepare()
    before = {**vars(dataset)}
    dataset.prepare()
    for name, value in vars(dataset).items():
        np.testing.assert_equal(value, before[name])
    with pytest.raises(AttributeError, match="'Dataset' object has no attribute 'masks'"):
        dataset.masks  # noqa: B018
    assert copy.copy(dataset).num_images == 1
    assert copy.deepcopy(dataset).class_names == pickle.loads(pickle.dumps(dataset)).class_names


def test_a_dataset_without_its_bases_constructor_says_so():
    class Own(utils.Dataset):
        def __init__(self):
            self.folder = "x"

    with pytest.raises(
        AttributeError, match=r"Own.class_info is missing: its __init__ calls super"
    ):
        Own().add_class("a", 1, "cat")


@pytest.mark.parametrize("image_id", [np.int64(1), np.uint8(1), np.array(1), True])
def test_image_ids_of_numpy(image_id):
    dataset = two_sources()
    assert dataset.image_reference(image_id) == dataset.source_image_link(image_id) == "y.png"


@pytest.mark.parametrize("image_id", ["1", 1.0, None, 99, [1]])
def test_a_wrong_image_id_is_named(image_id):
    with pytest.raises(ValueError, match="image_id is a whole number below .*Received: "):
        two_sources().image_reference(image_id)
    for function in (two_sources().load_mask, two_sources().load_image):
        with pytest.raises(ValueError, match="image_id is a whole number below .*Received: "):
            function(image_id)


def test_an_image_without_a_path_says_what_to_do():
    dataset = utils.Dataset()
    dataset.add_image("a", 1, None)
    with pytest.raises(ValueError, match="Image 0 has the path None: .*load_image in Dataset"):
        dataset.load_image(0)
    assert dataset.image_reference(0) == "" and dataset.source_image_link(0) is None


@pytest.mark.parametrize("class_id", [9, "1", None, 1.0, -1])
def test_a_wrong_class_id_is_named(class_id):
    with pytest.raises(ValueError, match="class_id is the model's number of a class, below 4"):
        two_sources().get_source_class_id(class_id, "a")
    assert two_sources().get_source_class_id(np.int32(3), "a") == 9


def test_a_dataset_class_is_no_dataset():
    with pytest.raises(AttributeError, match=r"Dataset.image_info .*call Dataset\(\) first"):
        utils.Dataset.image_info  # noqa: B018


def test_default_load_mask_speaks_once(caplog):
    dataset = two_sources()
    with caplog.at_level(logging.WARNING):
        dataset.load_mask(0)
        dataset.load_mask(0)
    assert len(caplog.records) == 1 and "no load_mask: image 0 of source 'b'" in caplog.text

    class Own(type(dataset)):
        def load_mask(self, image_id):
            return super().load_mask(image_id)

    dataset.__class__ = Own
    dataset._warned_no_masks = False
    dataset.load_mask(0)
    assert "Own leaves some images to the load_mask of Dataset: image 0" in caplog.text


def test_default_load_mask_has_the_images_shape(caplog):
    """README 14: [0, 0, 0] instead of [H, W, 0]."""
    dataset = two_sources()
    with caplog.at_level(logging.WARNING):
        masks, class_ids = dataset.load_mask(0)
    assert masks.shape == (4, 5, 0) and masks.dtype == bool
    assert class_ids.shape == (0,) and class_ids.dtype == np.int32
    assert "load_mask" in caplog.text


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1", "I;16"])
def test_load_image_of_any_mode_is_rgb(mode, tmp_path):

    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:, 3:] = 255
    if mode == "I;16":
        image = Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(pixels).convert(mode)
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image.save(path)
    dataset = utils.Dataset()
    dataset.add_image("a", 1, str(path))
    dataset.prepare()
    loaded = dataset.load_image(0)
    assert loaded.dtype == np.uint8
    np.testing.assert_array_equal(loaded, pixels)
    loaded[:] = 0  # the caller's own
    masks, _ = dataset.load_mask(0)
    assert masks.shape == (4, 6, 0)


def test_load_image_applies_the_cameras_rotation(tmp_path):

    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    dataset = utils.Dataset()
    dataset.add_image("a", 1, tmp_path / "a.png")
    np.testing.assert_array_equal(dataset.load_image(0), np.rot90(pixels, -1))


def test_load_image_names_the_file_that_fails(tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    dataset = utils.Dataset()
    dataset.add_image("a", "first", str(tmp_path / "missing.jpg"))
    dataset.add_image("a", "second", str(tmp_path / "text.jpg"))
    dataset.add_image("a", "third", None)
    with pytest.raises(FileNotFoundError, match=r"Image 0.*missing\.jpg"):
        dataset.load_image(0)
    with pytest.raises(ValueError, match=r"Image 1.*text\.jpg"):
        dataset.load_image(1)
    with pytest.raises(ValueError, match="Image 2.*None"):
        dataset.load_image(2)


# ---- Values of images and files of every kind ----------------------------------------------------


def levels(height=16, width=20):
    """[H, W, 3] uint8 with every value from 0 to 255."""
    return (np.arange(height * width * 3) % 256).astype(np.uint8).reshape(height, width, 3)


def deep(image, bits):
    """A uint8 image as a camera of more bits gives it, uint16."""
    return np.round(image / 255 * (2**bits - 1)).astype(np.uint16)


@pytest.mark.parametrize(
    "make",
    [
        lambda image: image,
        lambda image: image.astype(np.int64),
        lambda image: image.astype(np.uint16),
        lambda image: image.astype(np.float32),
        lambda image: image.astype(np.float64) + 0.9,  # cut, as ever; 255.9 is an overshoot
        lambda image: image / 255,
        lambda image: (image / 255).astype(np.float32),
        lambda image: image / 127.5 - 1,
        lambda image: deep(image, 10),
        lambda image: deep(image, 12),
        lambda image: deep(image, 12).astype(np.int16),
        lambda image: deep(image, 12).astype(np.float32),
        lambda image: deep(image, 14),
        lambda image: deep(image, 16),
        lambda image: deep(image, 16).astype(np.int32),
        lambda image: deep(image, 16).astype(np.float64),
        lambda image: (image * (2.0**32 - 1) / 255).astype(np.uint32),
        lambda image: image.astype(np.int16) - 128,
        lambda image: image * 16.0 - 1024,  # Hounsfield units
    ],
)
def test_one_rule_for_ranges_gives_back_the_bytes(make):
    image = levels()
    given = make(image)
    before = given.copy()
    got = utils.as_bytes(given)
    assert got.dtype == np.uint8
    np.testing.assert_allclose(got.astype(int), image, atol=1)
    if given.min() >= 0:
        np.testing.assert_array_equal(got, image)
    got[:] = 0  # a copy
    np.testing.assert_array_equal(given, before)


def test_ranges_at_their_edges():
    def limits(values, dtype):
        return utils.value_range(np.array(values, dtype))

    assert limits([0, 255], np.uint8) == limits([0, 1], np.uint8) == (0, 255)
    assert limits([0, 1], bool) == (0, 1)
    assert limits([0, 255], np.uint16) == (0, 255) and limits([0, 256], np.uint16) == (0, 1023)
    assert limits([1024], np.uint16) == limits([4095], np.uint16) == (0, 4095)
    assert limits([4096], np.uint16) == (0, 2**14 - 1) and limits([2**14], np.uint16) == (0, 65535)
    # What resampling and noise do beyond the range is clipped, and does not change it.
    assert limits([-0.1, 1.2], float) == (0, 1) and limits([-4, 262], float) == (0, 255)
    assert limits([-20, 280], np.int32) == (0, 255) and limits([-9, 4300], float) == (0, 4095)
    # Nothing there, or all black: 0..255.
    assert limits([0, 0], float) == limits([], float) == limits([np.nan], float) == (0, 255)
    assert limits([0, np.inf, np.nan, 0.7, -np.inf], float) == (0, 1)
    np.testing.assert_array_equal(
        utils.as_bytes(np.array([np.nan, np.inf, -np.inf, 0.5, 1.0])), [0, 255, 0, 128, 255]
    )
    # A molded image: mean subtracted, or standardised. Neither is black.
    for molded in (levels() - np.array([123.7, 116.8, 103.9]), (levels() / 255 - 0.45) / 0.226):
        shown = utils.as_bytes(molded).astype(int)
        assert np.ptp(shown) > 127
        correlation = np.corrcoef(shown[..., 0].ravel(), levels()[..., 0].ravel())[0, 1]
        assert correlation > 0.99
    # The same for all frames where it is given.
    np.testing.assert_array_equal(
        utils.as_bytes(np.array([0, 100, 4095], np.uint16), (0, 4095)), [0, 6, 255]
    )
    for bad in (np.array(["a"]), np.array([None]), np.array([1j])):
        with pytest.raises(ValueError, match="array of numbers. Received: dtype"):
            utils.as_bytes(bad)
    with pytest.raises(ValueError, match="low below high"):
        utils.as_bytes(levels(), (4095, 0))


def test_as_rgb_of_every_shape():
    image = levels()
    gray = np.repeat(image[..., :1], 3, axis=2)
    np.testing.assert_array_equal(utils.as_rgb(image[..., 0]), gray)
    np.testing.assert_array_equal(utils.as_rgb(image[..., :1] / 255), gray)
    # Alpha has no say in the range of the colours.
    alpha = np.full((*image.shape[:2], 1), 65535, np.uint16)
    twelve = deep(image, 12)
    np.testing.assert_array_equal(utils.as_rgb(np.dstack([twelve, alpha])), image)
    np.testing.assert_array_equal(utils.as_rgb(np.dstack([twelve[..., :1], alpha])), gray)
    with pytest.raises(ValueError, match=r"channels last.*\(3, 16, 20\); np.moveaxis"):
        utils.as_rgb(np.moveaxis(image, -1, 0))
    for shape in ((), (3,), (0, 4, 3), (1, 4, 4, 3)):
        with pytest.raises(ValueError, match="Received: "):
            utils.as_rgb(np.zeros(shape))


def file_of(path, values, **settings):
    """Writes values as what the name says, with OpenCV (PNG, LZW) or tifffile."""
    if settings or path.suffix != ".png":
        tifffile = pytest.importorskip("tifffile")
        tifffile.imwrite(path, values, **settings)
    else:
        cv2 = pytest.importorskip("cv2")
        if values.ndim == 3:
            values = values[..., [2, 1, 0, *range(3, values.shape[2])]]
        cv2.imwrite(str(path), values)
    return path


RGB_TIFF = {"photometric": "rgb"}
BANDS_TIFF = {"photometric": "minisblack", "planarconfig": "contig"}


@pytest.mark.parametrize(
    "name, make, settings",
    [
        ("gray12.png", lambda image: deep(image[..., 0], 12), {}),
        ("rgb12.png", lambda image: deep(image, 12), {}),
        ("rgb16.png", lambda image: deep(image, 16), {}),
        (
            "rgba10.png",
            lambda image: np.dstack([deep(image, 10), np.full((16, 20), 65535, np.uint16)]),
            {},
        ),
        ("rgb12.tif", lambda image: deep(image, 12), {**RGB_TIFF, "compression": "zlib"}),
        ("gray14.tif", lambda image: deep(image[..., 0], 14), {"photometric": "minisblack"}),
        ("white.tif", lambda image: 65535 - deep(image[..., 0], 16), {"photometric": "miniswhite"}),
        (
            "planar.tif",
            lambda image: np.moveaxis(deep(image, 12), -1, 0),
            {**RGB_TIFF, "planarconfig": "separate"},
        ),
        ("float1.tif", lambda image: (image / 255).astype(np.float32), RGB_TIFF),
        ("float255.tif", lambda image: image.astype(np.float32), RGB_TIFF),
        ("float4095.tif", lambda image: deep(image[..., 0], 12).astype(np.float32), {}),
        ("double.tif", lambda image: image / 255, RGB_TIFF),
        ("signed.tif", lambda image: deep(image[..., 0], 12).astype(np.int16), {}),
        ("four.tif", lambda image: np.dstack([image, image[..., :1]]), BANDS_TIFF),
        ("seven.tif", lambda image: np.dstack([image, image, image])[..., :7], BANDS_TIFF),
        ("plain.tif", lambda image: np.dstack([image, image])[..., :6], {}),  # as rows of pages
        ("imagej.tif", lambda image: np.moveaxis(deep(image, 12), -1, 0), {"imagej": True}),
        ("stack.tif", lambda image: np.stack([image[..., 0]] * 5), {}),  # the first page
    ],
)
def test_files_of_more_than_8_bits_and_many_bands(name, make, settings, tmp_path, caplog):
    image = levels()
    if name == "imagej.tif":
        settings = {**settings, "metadata": {"axes": "CYX"}}
    values = make(image)
    path = file_of(tmp_path / name, values, **settings)
    expected = image
    if values.ndim == 2 or name == "stack.tif":
        expected = np.repeat(image[..., :1], 3, axis=2)
    np.testing.assert_array_equal(utils.read_image(path), expected)
    assert utils.image_sizes(path) == ((16, 20), (16, 20))
    dataset = utils.Dataset()
    dataset.add_image("a", 1, path)
    loaded = dataset.load_image(0)
    if name in ("seven.tif", "plain.tif"):
        np.testing.assert_array_equal(loaded, values)  # all bands, with their own values
    else:
        np.testing.assert_array_equal(loaded, expected)


@pytest.mark.parametrize(
    "shape, settings, count",
    [
        ((5, 16, 20), {}, 5),
        ((4, 16, 20, 3), {"photometric": "rgb"}, 4),
        ((2, 3, 16, 20), {"imagej": True, "metadata": {"axes": "TCYX"}}, 2),
        ((3, 16, 20), {"imagej": True, "metadata": {"axes": "CYX"}}, 1),
        ((3, 16, 20), {"photometric": "minisblack"}, 1),  # bands
        ((16, 20, 8), {"photometric": "minisblack", "planarconfig": "contig"}, 1),
        ((16, 20), {}, 1),
    ],
)
def test_pages_that_are_left_out_are_said(shape, settings, count, tmp_path, monkeypatch, caplog):
    """A stack of images (z, time) was taken for its first without a word, by windows too."""
    from mrcnn import tiles

    values = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    if "photometric" in settings:
        values = values.astype(np.uint8)
    path = file_of(tmp_path / "a.tif", values, **settings)

    def windows(path):
        with tiles.TiffImage(path) as tiff:
            return tiff.shape

    for read in (utils.read_image, windows):
        monkeypatch.setattr(utils, "_PAGES_WARNED", set())
        caplog.clear()
        read(path)
        messages = [record.getMessage() for record in caplog.records]
        said = [message for message in messages if "of such files" in message]
        expected = [f"{path} has {count} pages: of such files the first is read"]
        assert said == expected * (count > 1)


def test_thumbnails_are_no_pages_that_are_left_out(tmp_path, monkeypatch, caplog):
    """As scanners write them: smaller levels, and a picture of the label."""
    tifffile = pytest.importorskip("tifffile")
    monkeypatch.setattr(utils, "_PAGES_WARNED", set())
    image = np.zeros((256, 320, 3), np.uint8)
    with tifffile.TiffWriter(tmp_path / "slide.tif") as file:
        file.write(image, photometric="rgb", subifds=1)
        file.write(image[::2, ::2], photometric="rgb", subfiletype=1)
        file.write(image[:64, :48], photometric="rgb")
    assert utils.read_image(tmp_path / "slide.tif").shape == image.shape
    assert not caplog.records
    for number in range(3):  # three images, written one after the other
        tifffile.imwrite(tmp_path / "three.tif", image[..., 0] + number, append=number > 0)
    utils.read_image(tmp_path / "three.tif")
    assert "has 3 pages" in caplog.text


def test_compressed_tiff_of_16_bits_keeps_them(tmp_path):
    """OpenCV writes LZW, which tifffile can't read by itself and Pillow cuts to 8 bits."""
    cv2 = pytest.importorskip("cv2")
    image = levels()
    cv2.imwrite(str(tmp_path / "a.tif"), deep(image, 12)[..., ::-1])
    np.testing.assert_array_equal(utils.read_image(tmp_path / "a.tif"), image)


def test_16_bits_without_opencv(tmp_path, monkeypatch):
    image = levels()
    file_of(tmp_path / "a.png", deep(image, 12))
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "a.tif"), deep(image, 12)[..., ::-1])
    monkeypatch.setattr(utils, "_read_with_opencv", lambda path: None)
    np.testing.assert_array_equal(utils.read_image(tmp_path / "a.png"), image)
    np.testing.assert_array_equal(utils.read_image(tmp_path / "a.tif"), image)


def test_gray_with_alpha_of_16_bits(tmp_path):
    """A PNG that no library here writes, by hand."""
    import struct
    import zlib

    gray = deep(levels()[..., 0], 12)
    pixels = np.dstack([gray, np.full_like(gray, 65535)]).astype(">u2")

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 20, 16, 16, 4, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    png += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(png)
    np.testing.assert_array_equal(utils.read_image(tmp_path / "a.png")[..., 0], levels()[..., 0])


def test_frames_of_one_camera_can_share_a_range(tmp_path):
    dim = np.full((4, 5), 819, np.uint16)
    file_of(tmp_path / "dim.png", dim)
    dataset = utils.Dataset()
    dataset.add_image("a", 1, tmp_path / "dim.png")
    dataset.add_image("a", 2, tmp_path / "dim.png", value_range=(0, 1638))
    assert (dataset.load_image(0) == 204).all()  # 819 / 1023
    dataset.value_range = (0, 4095)
    assert (dataset.load_image(0) == 51).all()
    assert (dataset.load_image(1) == 128).all()  # 127.5, to the even number


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_annotations_of_stored_pixels_keep_them(orientation, suffix, tmp_path):
    """A loader that measured with skimage.io.imread saw the photograph unturned."""

    stored = levels()
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / ("a" + suffix)
    Image.fromarray(stored).save(path, exif=exif)
    turned = utils.read_image(path)
    np.testing.assert_array_equal(utils.read_image(path, rotate=False), stored)
    dataset = utils.Dataset()
    dataset.add_image("a", 1, path, height=16, width=20)
    dataset.add_image("a", 2, path, height=turned.shape[0], width=turned.shape[1])
    dataset.add_image("a", 3, path, height=None, width="wide")
    with open(path, "rb") as file:
        for given in (path, file, io.BytesIO(path.read_bytes())):
            assert utils.image_sizes(given) == (turned.shape[:2], (16, 20))
    if orientation >= 5:
        np.testing.assert_array_equal(dataset.load_image(0), stored)
        assert turned.shape == (20, 16, 3)
    np.testing.assert_array_equal(dataset.load_image(1), turned)
    np.testing.assert_array_equal(dataset.load_image(2), turned)


def test_what_is_no_image_file(tmp_path, monkeypatch):
    import os

    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path, tmp_path / "pipe.png"):
        for function in (utils.read_image, utils.image_sizes):
            with pytest.raises(ValueError, match="a folder, a pipe or a device"):
                function(path)
    (tmp_path / "a.tif").write_bytes(b"II*\0" + bytes(range(200)))
    with pytest.raises(OSError, match="cannot identify"):
        utils.read_image(tmp_path / "a.tif")
    for content, kind in (
        (b"", "an empty file"),
        (b"<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
        (b"\0\0\0\x1cftypheix" + bytes(20), "a HEIC photograph: pip install pillow-heif"),
        (bytes(128) + b"DICM", "a DICOM file"),
    ):
        (tmp_path / "a.jpg").write_bytes(content)
        for function in (utils.read_image, utils.image_sizes):
            with pytest.raises(OSError, match=f"cannot identify .*a.jpg'. It is {kind}"):
                function(tmp_path / "a.jpg")
    file_of(tmp_path / "large.png", levels())
    tiff = file_of(tmp_path / "large.tif", deep(levels(), 16), **RGB_TIFF)
    monkeypatch.setattr(utils, "MAX_PIXELS", 319)
    for path in (tmp_path / "large.png", tiff):
        for function in (utils.read_image, utils.image_sizes):
            with pytest.raises(ValueError, match=r"at most 319 pixels.*Received: 20 x 16"):
                function(path)


def test_photographs_beyond_pillows_limit(tmp_path, monkeypatch):

    file_of(tmp_path / "a.png", levels())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # an error from 200 on
    np.testing.assert_array_equal(utils.read_image(tmp_path / "a.png"), levels())
    for given in (tmp_path / "a.png", io.BytesIO((tmp_path / "a.png").read_bytes())):
        assert utils.image_sizes(given) == ((16, 20), (16, 20))
    assert Image.MAX_IMAGE_PIXELS == 100
    monkeypatch.setattr(utils, "MAX_PIXELS", 120)
    with pytest.raises(ValueError, match="at most 120 pixels"):
        utils.read_image(tmp_path / "a.png")
    # Strips of a few rows give the same.
    monkeypatch.setattr(utils, "MAX_PIXELS", 10**6)
    monkeypatch.setattr(utils, "STRIP_PIXELS", 50)
    np.testing.assert_array_equal(utils.read_image(tmp_path / "a.png"), levels())


def test_sizes_beside_a_broken_note_of_the_camera(tmp_path, caplog):
    """The size is that of the pixels."""

    for name in ("a.jpg", "a.png"):
        Image.fromarray(levels()).save(tmp_path / name, exif=b"Exif\0\0MM\0*\0\0\xff\xff")
        assert utils.image_sizes(tmp_path / name) == ((16, 20), (16, 20))


@pytest.mark.parametrize("length", (9, 20, 30))
@pytest.mark.parametrize("suffix", (".png", ".jpg", ".bmp", ".gif", ".tif", ".webp"))
def test_a_header_that_is_cut_off_is_of_a_named_file(tmp_path, suffix, length):
    """Pillow, which knows nothing of the name, says "unpack requires a buffer of 4 bytes"."""
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(levels()).save(path)
    path.write_bytes(path.read_bytes()[:length])
    for function in (utils.read_image, utils.image_sizes, utils.read_mask):
        if suffix == ".gif" and length > 9 and function is utils.image_sizes:
            continue  # whose size stands in the first ten bytes
        with pytest.raises((OSError, ValueError), match=re.escape(str(path))):
            function(path)


def test_too_many_pixels_are_of_a_named_file(tmp_path, monkeypatch):
    path = file_of(tmp_path / "large.png", levels())
    monkeypatch.setattr(utils, "MAX_PIXELS", 319)
    with pytest.raises(utils.TooManyPixels, match=r"large.png can't be read.*at most 319 pixels"):
        utils.image_sizes(path)


# ---- Resizing ------------------------------------------------------------------------------------


def ramp(height, width, channels=3):
    return (
        (np.arange(height * width * channels) % 251)
        .reshape(height, width, channels)
        .astype(np.uint8)
    )


@pytest.mark.parametrize(
    "shape, window, new_shape, scale",
    [
        ((480, 640, 3), (0, 0, 800, 1067), (800, 1088, 3), 800 / 480),  # shorter edge 800
        ((1000, 3000, 1), (0, 0, 444, 1333), (448, 1344, 1), 1333 / 3000),  # longer edge 1333
        ((1600, 1600, 1), (0, 0, 800, 800), (800, 800, 1), 0.5),
    ],
)  # scaled down, divides by 32
def test_resize_shorter(shape, window, new_shape, scale):
    """Mask R-CNN, section 3.1, and torchvision's default sizes."""
    image, actual_window, actual_scale, padding, crop = utils.resize_image(
        np.full(shape, 200, np.uint8), min_dim=800, max_dim=1333, mode="shorter"
    )
    assert (image.shape, actual_window, crop) == (new_shape, window, None)
    assert actual_scale == pytest.approx(scale)
    assert padding == [(0, new_shape[0] - window[2]), (0, new_shape[1] - window[3]), (0, 0)]
    assert (image[: window[2], : window[3]] >= 199).all()
    assert not image[window[2] :].any() and not image[:, window[3] :].any()


def test_resize_by_hand():
    """A row 0, 100 doubled: samples at -.25, .25, .75, 1.25 of a row with zeros outside."""
    image = np.array([[[0], [100]]], np.float32)
    resized, window, scale, padding, _ = utils.resize_image(image, min_dim=2, max_dim=4)
    # Vertically a single row between zeros: weight .75 on both rows.
    np.testing.assert_allclose(resized[1:3, :, 0], [[0, 0.75 * 25, 0.75 * 75, 0.75 * 75]] * 2)
    assert (window, scale, padding) == ((1, 0, 3, 4), 2, [(1, 1), (0, 0), (0, 0)])
    # An image of one value keeps it at the rim, where zeros outside would darken it.
    assert np.unique(
        utils.resize_image(np.full((3, 3, 1), 80, np.float32), min_dim=7, max_dim=7)[0]
    ).tolist() == [80]


@pytest.mark.parametrize("shape", [(15, 21, 3), (40, 9, 3), (8, 8, 1), (30, 30, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_fast_resize_is_skimages(shape, dtype):
    image = np.random.default_rng(0).integers(3, 250, shape).astype(dtype)
    for size in ((33, 20), (7, 60), shape[:2]):
        expected = utils.resize(image, size, preserve_range=True).astype(dtype)
        np.testing.assert_allclose(utils._resize_bilinear(image, *size), expected, rtol=1e-6)


def test_resize_of_bool():
    """README 8: current scikit-image refuses to interpolate booleans."""
    mask = np.array([[0, 1], [0, 1]], bool)
    np.testing.assert_allclose(utils.resize(mask, (2, 4)), [[0, 0.25, 0.75, 0.75]] * 2)


@pytest.mark.parametrize(
    "mode, expected", [("square", (75, 75)), ("pad64", (128, 64)), ("none", (75, 33))]
)
def test_resize_without_bounds(mode, expected):
    """README 9, resize_pad64_min_none, resize_square_nomax: None is no bound."""
    image, window, scale, padding, crop = utils.resize_image(ramp(75, 33), mode=mode)
    assert image.shape == (*expected, 3) and scale == 1 and crop is None
    y1, x1, y2, x2 = window
    np.testing.assert_array_equal(image[y1:y2, x1:x2], ramp(75, 33))
    assert (y1, x1) == ((expected[0] - 75) // 2, (expected[1] - 33) // 2)
    assert padding == [(y1, expected[0] - y2), (x1, expected[1] - x2), (0, 0)]
    assert image.sum() == ramp(75, 33).sum()


def test_min_scale_raises_the_scale():
    """Beyond min_dim, but max_dim bounds it in square mode."""
    assert utils.resize_image(ramp(20, 40), min_dim=None, min_scale=2, mode="pad64")[1:3] == (
        (12, 24, 52, 104),
        2,
    )
    assert utils.resize_image(ramp(20, 40), min_dim=30, max_dim=64, min_scale=2)[2] == 64 / 40
    assert utils.resize_image(ramp(20, 40), min_dim=64, min_scale=2, mode="pad64")[2] == 64 / 20


def test_resize_square_without_max_dim():
    image, window, scale, *_ = utils.resize_image(ramp(75, 33), min_dim=64)
    assert scale == 64 / 33 and image.shape == (145, 145, 3) and window == (0, 40, 145, 104)


@pytest.mark.parametrize("mode", ["square", "pad64", "crop", "none", "shorter"])
def test_resize_gray(mode):
    """README 9, resize_gray2d: a 2-D image crashes."""
    gray = ramp(75, 33, 1)
    flat = utils.resize_image(gray[:, :, 0], 64, 128, mode=mode, rng=random.Random(3))
    deep = utils.resize_image(gray, 64, 128, mode=mode, rng=random.Random(3))
    np.testing.assert_array_equal(flat[0], deep[0][:, :, 0])
    assert flat[1:] == deep[1:]


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(mode="crop"), "crop needs min_dim.*None"),
        (dict(mode="shorter", max_dim=64), "shorter needs min_dim.*None"),
        (dict(mode="pad64", min_dim=100), "divides by 64.*100"),
        (dict(mode="zoom"), "none, square, pad64, crop, shorter.*'zoom'"),
    ],
)
def test_resize_refuses(kwargs, message):
    """README 9, resize_crop_none and others: with a message."""
    with pytest.raises(ValueError, match=message):
        utils.resize_image(ramp(75, 33), **kwargs)


def test_resize_refuses_what_is_no_image():
    for shape in ((3,), (0, 4, 3), (1, 2, 3, 4)):
        with pytest.raises(ValueError, match=re.escape(str(shape))):
            utils.resize_image(np.zeros(shape))


def test_crop_is_drawn_from_rng():
    whole = utils.resize_image(ramp(20, 50), min_dim=30, mode="square")[0]
    whole = whole[whole.any(axis=(1, 2))]
    places = set()
    rng = np.random.default_rng(0)
    for _ in range(40):
        image, window, scale, _, (y, x, height, width) = utils.resize_image(
            ramp(20, 50), 30, mode="crop", rng=rng
        )
        assert (window, scale, height, width, y) == ((0, 0, 30, 30), 1.5, 30, 30, 0)
        np.testing.assert_array_equal(image, whole[y : y + 30, x : x + 30])
        places.add(x)
    assert min(places) >= 0 and max(places) <= 45 and len(places) > 15
    seeded = [
        utils.resize_image(ramp(20, 50), 30, mode="crop", rng=np.random.default_rng(5))[4]
        for _ in range(2)
    ]
    assert seeded[0] == seeded[1]
    random.seed(4)
    first = utils.resize_image(ramp(20, 50), 30, mode="crop")[4]
    assert first == utils.resize_image(ramp(20, 50), 30, mode="crop", rng=random.Random(4))[4]


@pytest.mark.parametrize("side, scale", [(10, 1.37), (33, 0.53), (64, 2), (75, 1.6), (7, 3.3)])
def test_resize_mask_is_scipys_zoom(side, scale):
    import scipy.ndimage

    mask = np.random.default_rng(0).integers(0, 2, (side, side + 3, 2)).astype(np.uint8)
    actual = utils.resize_mask(mask, scale, [(0, 0)] * 3)
    assert actual.dtype == np.uint8
    np.testing.assert_array_equal(actual, scipy.ndimage.zoom(mask, [scale, scale, 1], order=0))


def test_resize_mask_keeps_the_last_row():
    """scipy's zoom loses it where its position rounds to just outside, as with 28 rows halved."""
    mask = np.ones((28, 28, 1), bool)
    assert utils.resize_mask(mask, 0.5, [(0, 0)] * 3).all()


def test_masks_follow_their_image():
    """A mask goes where its object goes, in every mode."""
    image = np.zeros((60, 90, 3), np.uint8)
    image[20:50, 30:60] = 255
    mask = image[:, :, :1] > 0
    for mode in ("square", "pad64", "crop", "shorter", "none"):
        resized, _, scale, padding, crop = utils.resize_image(
            image, 64, 128, mode=mode, rng=random.Random(0)
        )
        moved = utils.resize_mask(mask, scale, padding, crop)[:, :, 0]
        expected = resized[:, :, 0] > 127
        assert moved.shape == expected.shape
        assert np.count_nonzero(moved & expected) / np.count_nonzero(moved | expected) > 0.9, mode


# ---- Masks ---------------------------------------------------------------------------------------


def test_paste_of_a_full_mask():
    """torchvision: a full 6x6 mask at x 0, y 2 of a 10x10 image."""
    pasted = utils.unmold_mask(np.ones((6, 6)), (2, 0, 8, 6), (10, 10))
    expected = np.zeros((10, 10), bool)
    expected[2:8, 0:6] = True
    assert pasted.dtype == bool
    np.testing.assert_array_equal(pasted, expected)


def test_paste_has_zeros_outside_the_mask():
    """2x2 to 4x4 samples at -.25, .25, .75, 1.25: the weights of the two rows are (.75, 0), (.75,
    .25), (.25, .75), (0, .75). Only at (1, 1) is .6 * (9 + 3 + 3) / 16 = .5625; (1, 2) is .6 * 13 /
    16 = .4875 and the rim at most .45, which would be .6 if the mask's edge were repeated."""
    pasted = utils.unmold_mask(np.array([[0.6, 0.6], [0.6, 0]]), (0, 0, 4, 4), (4, 4))
    assert np.argwhere(pasted).tolist() == [[1, 1]]
    # But a mask that is foreground everywhere stays so at the rim.
    assert utils.unmold_mask(np.full((2, 2), 0.5), (0, 0, 4, 4), (4, 4)).all()
    assert not utils.unmold_mask(np.full((2, 2), 0.499), (0, 0, 4, 4), (4, 4)).any()


def test_paste_beyond_the_image():
    """README 8, unmold_mask_outside: a box beyond the image crashes. It is the part of a larger
    image."""
    soft = np.random.default_rng(0).random((28, 28))
    for box in ((-7, -20, 30, 25), (10, 30, 60, 90), (-5, -5, 50, 60), (30, 5, 45, 30)):
        shifted = np.array(box) + 100
        large = utils.unmold_mask(soft, shifted, (300, 300))
        np.testing.assert_array_equal(
            utils.unmold_mask(soft, box, (40, 50)), large[100:140, 100:150]
        )
        assert large.any()
    (mask, box, shape), _ = recorded("unmold_mask_outside")
    np.testing.assert_array_equal(
        utils.unmold_mask(mask, box, shape), utils.unmold_mask(mask, box, (60, 60))[:40, :40]
    )
    assert not utils.unmold_masks(soft[None], [(50, 5, 60, 30)], (40, 50)).any()
    assert not utils.unmold_masks(soft[None], [(5, 5, 5, 30)], (40, 50)).any()


def test_unmold_masks_is_unmold_mask_of_each():
    rng = np.random.default_rng(0)
    soft = rng.random((3, 28, 28)).astype(np.float32)
    boxes = np.array([[0, 0, 20, 30], [10, 10, 70, 50], [5, 60, 6, 61]])
    masks = utils.unmold_masks(soft, boxes, (80, 90, 3))
    assert masks.shape == (80, 90, 3) and masks.dtype == bool
    for i in range(3):
        y1, x1, y2, x2 = boxes[i]
        expected = np.zeros((80, 90), bool)
        expected[y1:y2, x1:x2] = utils.resize(soft[i], (y2 - y1, x2 - x1)) >= 0.5
        assert (masks[:, :, i] != expected).sum() <= 1
        np.testing.assert_array_equal(
            utils.unmold_mask(soft[i], boxes[i], (80, 90, 3)), masks[:, :, i]
        )
    assert utils.unmold_masks(np.zeros((0, 28, 28)), np.zeros((0, 4)), (80, 90, 3)).shape == (
        80,
        90,
        0,
    )
    assert utils.unmold_masks(soft, boxes, (80, 90), threshold=0.9).sum() < masks.sum() / 2
    with pytest.raises(ValueError, match=r"\(3, 28, 28\), 2 boxes"):
        utils.unmold_masks(soft, boxes[:2], (80, 90))


def test_minimize_mask_by_hand():
    """Columns 0 0 1 1 to two: the samples lie at .5 and 2.5, between equal pixels."""
    mask = np.zeros((6, 8, 1), bool)
    mask[1:5, 4:6] = True
    assert (
        utils.minimize_mask([[1, 2, 5, 6]], mask, (2, 2))[:, :, 0].tolist() == [[False, True]] * 2
    )
    # 0 1 1 0: both samples are exactly half, which rounds down to even.
    mask = np.zeros((6, 8, 1), bool)
    mask[1:5, 3:5] = True
    assert not utils.minimize_mask([[1, 2, 5, 6]], mask, (2, 2)).any()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.float32])
def test_minimize_mask_takes_any_dtype(dtype):
    """README 8, minimize_uint8: fails on every input with current scikit-image."""
    masks = masks_of((40, 50), (3, 4, 20, 30), (10, 10, 11, 11))
    boxes = utils.extract_bboxes(masks)
    values = masks.astype(dtype) * (1 if dtype is bool else 3)
    mini = utils.minimize_mask(boxes, values, (8, 9))
    assert mini.shape == (8, 9, 2) and mini.dtype == bool and mini.all()


def test_minimize_mask_refuses_empty_boxes():
    masks = masks_of((10, 10), (1, 1, 3, 3), (0, 0, 0, 0))
    with pytest.raises(ValueError, match=r"box 1 = \[0, 0, 0, 0\]"):
        utils.minimize_mask(utils.extract_bboxes(masks), masks, (8, 8))
    assert utils.minimize_mask(np.zeros((0, 4)), masks[:, :, :0], (8, 8)).shape == (8, 8, 0)


def test_expand_mask_of_integers():
    """README 8: uint8 masks get lost, since 1 becomes 1/255."""
    mini = np.zeros((4, 4, 1), bool)
    mini[1:3, 1:3] = True
    expanded = utils.expand_mask([[2, 2, 10, 10]], mini, (12, 12, 3))
    assert expanded[4:8, 4:8].all() and expanded.sum() == 16 and expanded.dtype == bool
    np.testing.assert_array_equal(
        utils.expand_mask([[2, 2, 10, 10]], mini.astype(np.uint8), (12, 12, 3)), expanded
    )


def test_expand_mask_rounds_half_to_even():
    """Two columns to three are sampled at -1/6, 1/2, 7/6: the middle is exactly half."""
    mini = np.array([[1, 0], [1, 0]], bool)[:, :, None]
    assert (
        utils.expand_mask([[0, 0, 2, 3]], mini, (2, 3))[:, :, 0].tolist()
        == [[True, False, False]] * 2
    )


def test_crop_and_paste_keeps_objects():
    """detectron2: a 28x28 crop and paste keeps a mean IoU above .94."""
    y, x = np.mgrid[:200, :200]
    angle = np.arctan2(y - 100, x - 100)
    radius = np.hypot(y - 100, x - 100)
    masks = np.stack([radius < 40 + 5 * k + 12 * np.sin(angle * (k + 1)) for k in range(6)], -1)
    boxes = utils.extract_bboxes(masks)
    back = utils.expand_mask(boxes, utils.minimize_mask(boxes, masks, (28, 28)), (200, 200))
    assert np.diag(utils.compute_overlaps_masks(masks, back)).mean() > 0.94


def test_mold_mask():
    config = Config(MASK_SHAPE=[4, 4])
    mask = np.zeros((8, 8), bool)
    mask[2:6, 2:6] = True
    molded = utils.mold_mask(mask, config)
    assert molded.dtype == np.float32
    assert molded.tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


def test_overlaps_of_masks_by_hand():
    """README 7, overlaps_masks_zero: empty masks give 0/0."""
    masks = masks_of((10, 10), (0, 0, 4, 4), (0, 0, 4, 2), (5, 5, 9, 9), (0, 0, 0, 0))
    overlaps = utils.compute_overlaps_masks(masks, masks)
    assert overlaps.tolist() == [[1, 0.5, 0, 0], [0.5, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert overlaps.dtype == np.float32
    np.testing.assert_array_equal(
        utils.compute_overlaps_masks(masks * 0.6, masks.astype(np.uint8)), overlaps
    )
    assert not utils.compute_overlaps_masks(masks * 0.5, masks).any()
    with pytest.raises(ValueError, match=r"\(10, 10\) and \(9, 10\)"):
        utils.compute_overlaps_masks(masks, masks[1:])
    args, _ = recorded("overlaps_masks_zero")
    assert not utils.compute_overlaps_masks(*args).any()


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


def test_ap_of_every_form_of_masks():
    """Run-length encodings, as of `detect(tile=)`; and none of them."""
    gt_boxes, gt_ids, gt_masks, boxes, ids, scores, masks = scene()
    expected = utils.compute_ap(*scene())
    found = utils.compute_ap(gt_boxes, gt_ids, gt_masks, boxes, ids, scores, encode(masks))
    for a, b in zip(found, expected):
        np.testing.assert_array_equal(a, b)
    found = utils.compute_ap(gt_boxes, gt_ids, encode(gt_masks), boxes, ids, scores, encode(masks))
    assert found[0] == expected[0]
    assert utils.compute_ap(gt_boxes, gt_ids, gt_masks, [], [], [], [])[0] == 0


@pytest.mark.parametrize(
    "place, value, text",
    [
        (0, np.zeros(2), r"gt_boxes are \[N, .*Received: shape \(2,\)"),
        (1, [1], "gt_class_ids of 2 boxes. Received: 1"),
        (1, ["cat", "dog"], "gt_class_ids are numbers"),
        (4, [0.9, 0.8, 0.7], r"pred_class_ids are whole numbers. Received: \[0.9, 0.8, 0.7\]"),
        (5, [0.9, 0.8], "pred_scores of 3 boxes. Received: 2"),
        (5, [0.9, np.nan, 0.7], r"pred_scores are numbers. Received: \[0.9, nan, 0.7\]"),
        (6, np.zeros((28, 28, 3)), r"one image size. Received: \(28, 28\) and \(60, 60\)"),
        (6, np.ones((60, 60)), r"\[H, W, N\]. Received: \(60, 60\)"),
    ],
)
def test_arguments_of_ap_that_do_not_fit(place, value, text):
    """Scores in the place of class ids gave an AP of 0."""
    arguments = list(scene())
    arguments[place] = value
    with pytest.raises(ValueError, match=text):
        utils.compute_ap(*arguments)


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


def test_reading_in_threads_leaves_the_filters_of_warnings(tmp_path):
    """`catch_warnings` in threads left one behind that ignored every warning of the process."""
    import concurrent.futures

    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(path)
    utils.read_image(path)
    before = list(warnings.filters)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(utils.read_image, [path] * 200))
    assert warnings.filters == before


@pytest.mark.long
def test_a_file_that_claims_more_than_it_holds(tmp_path):
    """90 bytes of a PNG that claims 15,000 x 15,000 pixels; a real one of one colour is read."""
    import struct
    import zlib

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", 15_000, 15_000, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    path = tmp_path / "claims.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    with pytest.raises(ValueError, match=r"claims.png.*15000 x 15000 pixels.*bytes, which can't"):
        utils.read_image(path)
    Image.new("L", (8000, 7000)).save(tmp_path / "black.png")
    assert utils.read_image(tmp_path / "black.png").shape == (7000, 8000, 3)


# ---- What is kept in memory ----------------------------------------------------------------------


def test_images_are_kept_until_their_file_changes(tmp_path, monkeypatch):
    """From the second reading on; what is given can be edited; a copy begins with nothing."""
    path = tmp_path / "a.png"
    an_hour_ago = time.time() - 3600

    def write(value):
        Image.fromarray(np.full((8, 9, 3), value, np.uint8)).save(path)
        os.utime(path, (an_hour_ago, an_hour_ago))

    reads = []
    real = utils._read_image
    monkeypatch.setattr(utils, "_read_image", lambda *a, **k: (reads.append(1), real(*a, **k))[1])
    monkeypatch.setattr(utils, "_YOUNG_SECONDS", 0)  # the time of the status can't be set back
    dataset = utils.Dataset()
    dataset.add_image("a", 0, str(path))
    write(10)
    for count in (1, 2, 2, 2):
        image = dataset.load_image(0)
        assert len(reads) == count and np.all(image == 10)
        image[:] = 0
    write(200)
    assert np.all(dataset.load_image(0) == 200) and len(reads) == 3
    dataset.load_image(0)
    dataset.load_image(0)
    assert len(reads) == 4
    again = copy.deepcopy(dataset)
    again.load_image(0)
    assert len(reads) == 5
    dataset.image_info[0]["value_range"] = (0, 400)
    assert np.all(dataset.load_image(0) < 200)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        dataset.load_image(0)


def test_no_more_is_kept_than_fits():
    dataset = utils.Dataset()
    dataset.cache_megabytes = 1
    made = []

    def make():
        made.append(1)
        return np.zeros(400_000, np.uint8)

    for _ in range(3):
        for key in range(4):
            dataset.cached_value(key, "as before", make)
    assert len(made) == 4 + 4 + 2  # two of four are kept
    dataset.cached_value(0, "changed", make)
    dataset.cached_value(3, "as before", make)  # takes the room that became free
    dataset.cached_value(3, "as before", make)
    assert len(made) == 12
    dataset.cache_megabytes = 0
    dataset.cached_value(1, "as before", make)
    assert len(made) == 13


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "I;16"])
def test_masks_of_files_are_what_is_not_black(tmp_path, mode):
    drawn = np.zeros((12, 15), np.uint8)
    drawn[3:7, 2:9] = 255
    picture = Image.fromarray(drawn)
    if mode == "I;16":
        picture = Image.fromarray(drawn.astype(np.uint16) * 200)
    else:
        picture = picture.convert(mode)
    path = tmp_path / "mask.png"
    picture.save(path)
    found = utils.read_mask(path)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, drawn > 0)
    path.write_bytes(b"no image")
    with pytest.raises((OSError, ValueError), match="mask.png"):
        utils.read_mask(path)


def test_transparent_pixels_are_in_no_mask(tmp_path):
    """A cut-out object on nothing: its white ground was the object, too."""
    expected = np.zeros((16, 20), bool)
    expected[3:9, 4:12] = True
    cut_out = np.full((16, 20, 4), 255, np.uint8)
    cut_out[..., 3] = 255 * expected
    whole = Image.fromarray(cut_out)
    whole.save(tmp_path / "rgba.png")
    whole.convert("LA").save(tmp_path / "la.png")
    whole.save(tmp_path / "rgba.webp", lossless=True, exact=True)
    palette = Image.fromarray(expected.astype(np.uint8))
    palette.putpalette([255, 255, 255, 200, 10, 10])
    palette.save(tmp_path / "p.png", transparency=0)
    for name in ("rgba.png", "la.png", "rgba.webp", "p.png"):
        np.testing.assert_array_equal(utils.read_mask(tmp_path / name), expected, name)
    # Opaque everywhere, black is the ground.
    cut_out[..., :3] *= expected[..., None].astype(np.uint8)
    cut_out[..., 3] = 255
    Image.fromarray(cut_out).save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(utils.read_mask(tmp_path / "opaque.png"), expected)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("name, options", [("a.jpg", {"quality": 70}), ("a.webp", {"quality": 60})])
def test_masks_of_jpegs(tmp_path, mode, name, options):
    """What compression leaves around an object was a part of it: half as many pixels again."""
    drawn = np.zeros((40, 60), np.uint8)
    drawn[11:27, 13:41] = 255
    Image.fromarray(drawn).convert(mode).save(tmp_path / name, **options)
    stored = np.asarray(Image.open(tmp_path / name).convert("L"))
    assert (stored > 0).sum() > 460  # of 448
    np.testing.assert_array_equal(utils.read_mask(tmp_path / name), drawn > 0)
    Image.fromarray(drawn * 0).convert(mode).save(tmp_path / name, **options)
    assert not utils.read_mask(tmp_path / name).any()


def test_masks_of_numbers_lose_none(tmp_path):
    """Small and large numbers of objects beside each other are no traces of a compression."""
    numbers = np.zeros((40, 60), np.uint8)
    for i, number in enumerate((1, 9, 100, 245, 255)):
        numbers[5:30, 4 + 11 * i : 13 + 11 * i] = number
    Image.fromarray(numbers).save(tmp_path / "numbers.png")
    np.testing.assert_array_equal(utils.read_mask(tmp_path / "numbers.png"), numbers > 0)


def test_masks_of_an_object_with_an_ignored_rim_keep_the_object(tmp_path):
    """1 and Pascal VOC's 255 were taken for compressed black and white: 255 alone was the mask."""
    numbers = np.zeros((60, 60), np.uint8)
    numbers[10:40, 10:40] = 255
    numbers[14:36, 14:36] = 1
    numbers[50:52, 5:55] = 9  # too thin for an area
    Image.fromarray(numbers).save(tmp_path / "rim.png")
    np.testing.assert_array_equal(utils.read_mask(tmp_path / "rim.png"), numbers > 0)


def test_smooth_edges_of_masks_belong_to_them(tmp_path):
    """Where one of their grays was dark they were halved, else not."""
    y, x = np.mgrid[:60, :60]
    soft = np.clip((20.03 - np.hypot(y - 30, x - 30)) * 255, 0, 255).astype(np.uint8)
    assert (soft[soft > 0] <= 16).any()
    Image.fromarray(soft).save(tmp_path / "soft.png")
    np.testing.assert_array_equal(utils.read_mask(tmp_path / "soft.png"), soft > 0)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize(
    "dtype", [np.uint8, np.uint16, np.int16, np.uint32, np.int32, np.float32, bool]
)
def test_masks_of_numbers_in_tiffs(tmp_path, dtype, photometric):
    """Of more than 8 bits small numbers were lost; where 0 is white some types were refused."""
    import tifffile

    numbers = np.zeros((40, 60), np.int32)
    numbers[5:20, 5:20] = 1
    numbers[25:30, 25:30] = 200
    if np.dtype(dtype).itemsize > 1:
        numbers[32:36, 50:55] = 30000
    tifffile.imwrite(tmp_path / "a.tif", numbers.astype(dtype), photometric=photometric)
    np.testing.assert_array_equal(utils.read_mask(tmp_path / "a.tif"), numbers > 0)


# ---- Contrast ------------------------------------------------------------------------------------


def test_stretched_contrast_by_hand():
    """Of 1..100 the 10th and 90th percentiles are 10 and 90: 255 / 80 for each step between."""
    image = np.arange(1, 101).reshape(10, 10)
    expected = np.clip(np.rint((image - 10) * (255 / 80)), 0, 255)
    for dtype in (np.uint8, np.uint16, np.int32, np.float32):
        result = utils.stretched(image.astype(dtype), (10, 90))
        assert result.dtype == np.uint8
        np.testing.assert_array_equal(result, expected)
    with_nan = np.concatenate([image.ravel().astype(float), [np.nan, np.inf]])
    np.testing.assert_array_equal(utils.stretched(with_nan, (10, 90))[:-2], expected.ravel())


@pytest.mark.parametrize("percentiles", [(0, 100), (1, 99.8), (25, 60.5)])
def test_stretched_bytes_have_numpy_percentiles(percentiles):
    image = np.random.default_rng(0).gamma(2, 10, (37, 41, 3)).clip(0, 255).astype(np.uint8)
    low, high = np.percentile(image, percentiles, method="inverted_cdf")
    wide = image.astype(np.int64)
    expected = np.rint((wide - low) * 255 / (high - low)).clip(0, 255)
    np.testing.assert_array_equal(utils.stretched(image, percentiles), expected)


@pytest.mark.parametrize("value", [0, 7, 255])
def test_an_image_of_one_value_is_not_stretched(value):
    image = np.full((4, 5, 3), value, np.uint8)
    np.testing.assert_array_equal(utils.stretched(image, (1, 99)), image)
    assert (utils.stretched(np.full((4, 5), np.nan), (1, 99)) == 0).all()


def test_gamma_of_stretched_contrast_by_hand():
    """The square root of the shares of 10..110, of every dtype alike; flat ones keep their range."""
    values = np.array([0, 10, 42, 60, 110, 200])
    expected = [0, 0, 144, 180, 255, 255]
    for image in (values.astype(np.uint8), values.astype(np.uint16) * 16, values / 200, values):
        low, high = np.array([10, 110]) * (image.max() / 200)
        assert utils.as_bytes(image, (low, high), 0.5).tolist() == expected, image.dtype
    image = np.repeat(values, [1, 19, 30, 30, 19, 1]).astype(np.uint8)
    assert utils.stretched(image, (10, 99), 0.5)[[5, 30, 60, 99]].tolist() == [0, 144, 180, 255]
    assert (utils.stretched(np.full((4, 5), 51, np.uint8), (1, 99), 2) == 10).all()


def test_gamma_needs_percentiles():
    class Dim(Config):
        NAME = "dim"
        IMAGE_GAMMA = 0.5

    with pytest.raises(ValueError, match="IMAGE_GAMMA is 1 where IMAGE_PERCENTILES is .*0.5"):
        Dim().validate()
    Dim.IMAGE_PERCENTILES = (1, 99)
    Dim().validate()
    Dim.IMAGE_GAMMA = 0
    with pytest.raises(ValueError, match="IMAGE_GAMMA.*Received: 0"):
        Dim().validate()
