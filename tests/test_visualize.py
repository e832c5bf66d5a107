"""Pictures: what is drawn where, and whole pictures against references (tests/pictures)."""

import io
import pickle

import numpy as np
import pictures
import pytest
from matplotlib.figure import Figure

from mrcnn import masks as mask_math, utils, visualize

IMAGE = np.zeros((40, 60, 3), np.uint8)
MASKS = np.zeros((40, 60, 1), bool)
MASKS[10:20, 5:25] = True
RESULT = {
    "rois": np.array([[10, 5, 20, 25]]),
    "class_ids": np.array([1]),
    "scores": np.array([0.5]),
    "masks": MASKS,
}


def boxes_of(ax):
    """[(x1, y1, x2, y2)] of the boxes on axes."""
    from matplotlib.collections import PolyCollection

    return [
        (*path.vertices.min(axis=0), *path.vertices.max(axis=0))
        for collection in ax.collections
        if isinstance(collection, PolyCollection)
        for path in collection.get_paths()
    ]


def outlines_of(ax):
    from matplotlib.collections import LineCollection

    return [
        path.vertices
        for collection in ax.collections
        if isinstance(collection, LineCollection)
        for path in collection.get_paths()
    ]


def test_mask_is_painted_inside_only():
    ax = Figure().add_subplot()
    assert visualize.draw_detections(ax, IMAGE, RESULT, ["BG", "cat"]) is ax
    painted = ax.images[0].get_array()
    assert (
        (painted[MASKS[..., 0]].sum(axis=-1) > 0).all()
        and not painted[~MASKS[..., 0]].any()
        and not IMAGE.any()
    )
    assert [text.get_text() for text in ax.texts] == ["cat 0.50"]
    assert boxes_of(ax) == [(5, 10, 25, 20)]


def test_nothing_found_is_said():
    ax = Figure().add_subplot()
    empty = {
        "rois": np.zeros((0, 4)),
        "class_ids": np.zeros(0, int),
        "scores": np.zeros(0),
        "masks": MASKS[..., :0],
    }
    visualize.draw_detections(ax, IMAGE, empty, ["BG"])
    assert ax.texts[0].get_text() == "nothing found"


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"Received: \(1, 4\), \(1,\), \(40, 60, 0\)"):
        visualize.draw_detections(
            Figure().add_subplot(), IMAGE, {**RESULT, "masks": MASKS[..., :0]}, ["BG", "cat"]
        )


def test_colors_are_distinct():
    """Of 20 any two differ by 35 in CIELAB (2 is what an eye can tell), of 100 by 12; always the
    same ones."""
    from skimage.color import rgb2lab

    for count, least in ((20, 35), (100, 12)):
        lab = rgb2lab(np.array(visualize.random_colors(count))[None])[0]
        distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1000 * np.eye(count)
        assert distances.min() > least, distances.min()
    assert (
        visualize.random_colors(3) == visualize.random_colors(20)[:3]
        and len(visualize.random_colors(500)) == 500
    )
    assert max(max(color) for color in visualize.random_colors(50, bright=False)) <= 0.7


@pytest.mark.long
def test_grid(tmp_path):
    from matplotlib.image import imread

    path = visualize.draw_detections_grid(
        [IMAGE] * 3, [RESULT] * 3, ["BG", "cat"], tmp_path / "x.png", cols=2
    )
    picture = imread(path)
    assert (
        picture.shape[0] > 300
        and len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 5
    )


def test_painting_of_bytes_and_of_floats_is_the_same():
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 256, (40, 60, 3)).astype(np.uint8), MASKS[..., 0]
    floats = visualize.apply_mask(image.astype(np.uint32), mask, (0.2, 0.5, 1.0), 0.3)
    np.testing.assert_array_equal(
        visualize.apply_mask(image.copy(), mask, (0.2, 0.5, 1.0), 0.3), floats
    )


# ---- Labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 5])
def test_labels_stay_inside_and_apart(size):
    """At every corner of the image, for boxes beyond it too; and no two lie on one another where
    there is room."""
    figure = Figure(figsize=(size, size), dpi=100)
    ax = figure.add_axes((0, 0, 1, 1))
    visualize.show_image(ax, np.zeros((100, 100, 3), np.uint8))
    boxes = [
        (0, 0, 20, 20),
        (0, 80, 20, 100),
        (80, 80, 100, 100),
        (80, 0, 100, 20),
        (-30, -30, 5, 5),
        (40, 95, 60, 140),
        (50, 40, 70, 60),
        (50, 40, 70, 61),
    ]
    labels = visualize.add_labels(
        ax, boxes, [f"class {i}" for i in range(len(boxes))], (0, 0, 100, 100), size=7
    )
    figure.savefig(io.BytesIO())
    extents = [label.get_window_extent() for label in labels]
    for extent in extents:
        assert (
            extent.x0 >= 0
            and extent.y0 >= 0
            and extent.x1 <= 100 * size
            and extent.y1 <= 100 * size
        )
    if size == 5:
        for i, a in enumerate(extents):
            assert not any(a.overlaps(b) for b in extents[:i])


@pytest.mark.parametrize("ground", [0, 255, 128])
def test_labels_and_lines_are_legible_on_any_ground(ground):
    """White on a dark field, and a rim around each line: both contrast with black, white and
    grey."""
    figure = Figure(figsize=(2, 2), dpi=100)
    ax = figure.add_axes((0, 0, 1, 1))
    visualize.display_instances(
        np.full((100, 100, 3), ground, np.uint8),
        np.array([[30, 10, 90, 90]]),
        None,
        [1],
        ["BG", "name"],
        show_mask=False,
        ax=ax,
    )
    picture = pixels(figure).astype(int)[..., :3]
    box = boxes_of(ax)[0]
    (label,) = [text for text in ax.texts if text.get_text()]
    extent = label.get_window_extent()
    there = picture[
        200 - int(extent.y1) : 200 - int(extent.y0), int(extent.x0) : int(extent.x1)
    ].mean(axis=-1)
    assert there.max() - np.median(there) > 120 and np.median(there) < 150
    edge = picture[:, int(2 * (box[0] + 10) / 1.2) - 6 : int(2 * (box[0] + 10) / 1.2) + 6]
    assert np.ptp(edge[120], axis=0).max() > 100


# ---- matterport's functions ----------------------------------------------------------------------

TWO = np.concatenate([MASKS, np.roll(MASKS, (15, 20), axis=(0, 1))], axis=2)
BOXES = np.array([[10, 5, 20, 25], [25, 25, 35, 45]])
NAMES = ["BG", "cat", "dog"]


@pytest.fixture(autouse=True)
def headless():
    """matterport's functions use pyplot, which keeps its figures."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def test_display_instances():
    ax = visualize.display_instances(IMAGE, BOXES, TWO, [1, 2], NAMES, [0.5, 0.75], title="two")
    assert [text.get_text() for text in ax.texts] == [
        "cat 0.500",
        "dog 0.750",
    ] and ax.get_title() == "two"
    assert boxes_of(ax) == [(5, 10, 25, 20), (25, 25, 45, 35)]
    # The outline runs along the edges of the mask's pixels.
    assert (outlines_of(ax)[0][:, 0].min(), outlines_of(ax)[0][:, 0].max()) == (5, 25)
    assert not IMAGE.any()
    # Rows of zeros are padding, with their masks and texts.
    padded = visualize.display_instances(
        IMAGE, np.r_[BOXES, np.zeros((2, 4), int)], np.dstack([TWO, TWO]), [1, 2, 0, 0], NAMES
    )
    assert boxes_of(padded) == boxes_of(ax) and len(padded.texts) == 2


def test_display_instances_says_when_there_is_nothing():
    """(31) On the picture; and shapes that don't fit are named."""
    ax = visualize.display_instances(IMAGE, np.zeros((0, 4)), np.zeros((40, 60, 0)), [], NAMES)
    assert ax.texts[0].get_text() == "No instances to display"
    with pytest.raises(ValueError, match=r"\(2, 4\), \(40, 60, 2\), \(1,\)"):
        visualize.display_instances(IMAGE, BOXES, TWO, [1], NAMES)


def test_display_differences():
    ax = visualize.display_differences(
        IMAGE,
        BOXES,
        np.array([1, 2]),
        TWO,
        BOXES[::-1],
        np.array([1, 1]),
        np.array([0.9, 0.8]),
        TWO[..., ::-1],
        NAMES,
    )
    assert [text.get_text() for text in ax.texts] == ["0.90 / 1.00 not matched", "0.80 / 1.00"]
    assert len(boxes_of(ax)) == 4


def test_draw_rois_and_boxes():
    masks = np.moveaxis(TWO, -1, 0)
    ax = visualize.draw_rois(IMAGE, BOXES + 1, BOXES, masks, [1, 0], NAMES)
    assert "1 of them positive" in ax.get_title() and len(boxes_of(ax)) == 3
    ax = visualize.draw_boxes(IMAGE, BOXES, BOXES + 1, masks, ["a", "b"], [2, 0])
    assert len(boxes_of(ax)) == 3 and [text.get_text() for text in ax.texts] == ["a", "b"]
    with pytest.raises(ValueError, match="boxes or refined_boxes"):
        visualize.draw_boxes(IMAGE)
    image = visualize.draw_box(IMAGE.copy(), BOXES[0], (9, 9, 9))
    assert image[10, 5:25].all() and image[12, 7:23].sum() == 0


def test_draw_rois_puts_the_targets_masks_into_their_rois():
    """As matterport's inspect_data calls it: masks [N, 28, 28] of `data_generator`."""
    mini = np.zeros((2, 28, 28))
    mini[0, :14] = 1  # the upper half of the RoI
    rois = np.array([[10.4, 5, 20.2, 25], [0, 0, 9, 9]])
    ax = visualize.draw_rois(IMAGE, rois, BOXES, mini, np.array([1, 0]), NAMES)
    painted = ax.images[0].get_array().any(axis=-1)
    assert painted[10:15, 5:25].all() and painted.sum() == 5 * 20


def test_masks_of_boxes_in_either_order():
    """[N, H, W] is documented, [H, W, N] is what matterport's code takes."""
    pictures = []
    for masks in (np.moveaxis(TWO, -1, 0), TWO):
        ax = visualize.draw_boxes(IMAGE, BOXES, masks=masks)
        pictures.append(np.asarray(ax.images[0].get_array()))
    np.testing.assert_array_equal(*pictures)
    assert pictures[0].any()
    with pytest.raises(ValueError, match=r"Received: \(2, 28, 28\)"):
        visualize.draw_boxes(IMAGE, BOXES, masks=np.zeros((2, 28, 28)))


def test_boxes_that_are_not_as_many():
    with pytest.raises(ValueError, match="as many refined boxes as boxes. Received: 1 and 2"):
        visualize.draw_boxes(IMAGE, BOXES, BOXES[:1])
    with pytest.raises(ValueError, match=r"Received: shape \(4,\)"):
        visualize.draw_boxes(IMAGE, BOXES[0])
    ax = visualize.draw_boxes(IMAGE, BOXES, BOXES, visibilities=[0])
    assert len(boxes_of(ax)) == 3  # the second has the default


@pytest.mark.parametrize(
    "box", [(-5, 3, 8, 20), (3, -5, 8, 20), (-9, -9, -5, -5), (30, 50, 60, 80)]
)
def test_draw_box_beyond_the_image(box):
    """The part that is there is that of a box in a larger image; nothing on the other side."""
    larger = visualize.draw_box(np.zeros((140, 160, 3), np.uint8), np.add(box, 50), 9)
    image = visualize.draw_box(IMAGE.copy(), box, 9)
    np.testing.assert_array_equal(image, larger[50:90, 50:110])


def test_empty_masks_of_the_original():
    """Its `load_mask` gives np.empty([0, 0, 0]) of an image without objects."""
    nothing = np.empty([0, 0, 0])
    figure = visualize.display_top_masks(IMAGE, nothing, np.empty([0], np.int32), NAMES)
    assert [ax.get_title() for ax in figure.axes][1:] == ["-"] * 4
    none = (np.zeros((0, 4)), np.zeros(0, int), nothing)
    ax = visualize.display_differences(IMAGE, *none, BOXES, [1, 2], [0.9, 0.8], TWO, NAMES)
    assert [text.get_text() for text in ax.texts] == [
        "0.90 / 0.00 not matched",
        "0.80 / 0.00 not matched",
    ]
    ax = visualize.display_differences(
        IMAGE, BOXES, [1, 2], TWO, *none[:2], np.zeros(0), nothing, NAMES
    )
    assert len(boxes_of(ax)) == 2


def test_top_masks_without_a_pixel_are_left_out():
    masks = TWO.copy()
    masks[..., 0] = False
    figure = visualize.display_top_masks(IMAGE, masks, np.array([1, 2]), NAMES, limit=2)
    assert [ax.get_title() for ax in figure.axes][1:] == ["dog", "-"]


def test_differences_of_encodings_and_lazy_masks():
    """Of results as `detect(tile=)` and `detect(masks="lazy")` give them."""
    codes = mask_math.encode(TWO)
    soft = mask_math.Masks(np.ones((2, 28, 28)), BOXES, IMAGE.shape, 0.5)
    pictures = []
    for masks in (TWO, codes, soft):
        ax = visualize.display_differences(
            IMAGE, BOXES, [1, 2], TWO, BOXES, [1, 2], [0.8, 0.9], masks, NAMES
        )
        assert [text.get_text() for text in ax.texts] == ["0.90 / 1.00", "0.80 / 1.00"]
        pictures.append(np.asarray(ax.images[0].get_array()))
    np.testing.assert_array_equal(pictures[0], pictures[1])
    np.testing.assert_array_equal(pictures[0], pictures[2])
    figure = visualize.display_top_masks(IMAGE, codes, np.array([1, 2]), NAMES)
    assert [ax.get_title() for ax in figure.axes][1:3] == ["cat", "dog"]


def test_the_iou_of_a_match_is_written():
    """Not that with an object of another class that the prediction overlaps more."""
    masks = np.zeros((40, 60, 2), bool)
    masks[:10, :10, 0] = True
    masks[:10, :6, 1] = True  # of class 1, IoU .6
    boxes = utils.extract_bboxes(masks)
    ax = visualize.display_differences(
        IMAGE, boxes, [2, 1], masks, boxes[:1], [1], [0.9], masks[..., :1], NAMES
    )
    assert [text.get_text() for text in ax.texts] == ["0.90 / 0.60"]


def test_scores_behind_a_digit_are_told_apart():
    """ "class 1 0.83" reads as class 10.83 in small letters."""
    texts = visualize.label_texts([1, 2, 3], ["BG", "cat", "type 4"], [0.83, 0.5, 1])
    assert texts == ["cat 0.83", "type 4: 0.50", "class 3: 1.00"]


def test_one_image_is_no_list_of_images():
    with pytest.raises(ValueError, match=r"\[image\]. Received: shape \(40, 60, 3\)"):
        visualize.display_images(IMAGE)
    figure = visualize.display_images(np.moveaxis(TWO, -1, 0), cmap="Blues")
    assert len(figure.axes) == 2


def test_a_notebook_shows_a_picture_once(monkeypatch):
    """Where the call is the last line of its cell, IPython shows its value too."""
    formatters = pytest.importorskip("IPython.core.formatters")
    import matplotlib.pyplot as plt

    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    monkeypatch.setattr(plt, "get_backend", lambda: "inline")
    monkeypatch.setattr(visualize, "_notebook_cell", lambda: 3)
    axes = plt.subplots()[1]
    values = [
        visualize.display_images([IMAGE]),
        visualize.display_instances(IMAGE, BOXES, TWO, [1, 2], NAMES),
        visualize.display_instances(IMAGE, BOXES, TWO, [1, 2], NAMES, ax=axes),
    ]
    assert len(shown) == 2 and pickle.loads(pickle.dumps(values[0])) is not None
    formatter = formatters.DisplayFormatter()
    assert [formatter.format(value) for value in values] == [({}, {})] * 3
    monkeypatch.setattr(visualize, "_notebook_cell", lambda: 4)  # asked for in another cell
    assert all("text/plain" in formatter.format(value)[0] for value in values)


def test_a_table_is_html_in_a_notebook_alone(monkeypatch, capsys):
    """In IPython of a terminal it was the name of an object."""
    display = pytest.importorskip("IPython.display")
    formatters = pytest.importorskip("IPython.core.formatters")
    tables = []
    monkeypatch.setattr(display, "display", tables.append)
    assert visualize.display_table([["a", 1]]) == "a  1"
    assert capsys.readouterr().out == "a  1\n" and not tables
    monkeypatch.setattr(visualize, "_notebook_cell", lambda: 3)
    text = visualize.display_table([["a", 1]])
    assert text == "a  1" and tables[0].data == "<table><tr><td>a</td><td>1</td></tr></table>"
    assert capsys.readouterr().out == ""
    assert formatters.DisplayFormatter().format(text) == ({}, {})


def test_rows_of_a_table_may_be_shorter(capsys):
    text = visualize.display_table([["weights"], ["a", 1, "x"], ["b"]])
    assert text.split("\n") == ["weights", "      a  1  x", "      b"]


def test_images_masks_and_plots():
    figure = visualize.display_images([IMAGE, IMAGE[..., 0]], titles=["a", "b"])
    assert [ax.get_title() for ax in figure.axes] == ["a", "b"]
    figure = visualize.display_top_masks(IMAGE, TWO, np.array([1, 2]), NAMES)
    assert [ax.get_title() for ax in figure.axes] == ["H x W = 40 x 60", "cat", "dog", "-", "-"]
    ax = visualize.plot_precision_recall(0.5, np.array([0, 1, 0]), np.array([0, 0.5, 1]))
    assert "AP@50 = 0.500" in ax.get_title()
    ax = visualize.plot_overlaps([1, 2], [2], [0.9], np.array([[0.7, 0.1]]), NAMES)
    assert [text.get_text() for text in ax.texts] == ["0.700\nwrong", "0.100"]
    ax = visualize.plot_overlaps([1, 2], [], [], np.zeros((0, 2)), NAMES)
    assert [text.get_text() for text in ax.texts] == ["No predictions"] and len(
        ax.get_xticklabels()
    ) == 2


def test_overlaps_with_padding():
    """Of class ids with zeros at the end; the numbers were those of other pairs."""
    overlaps = np.array([[0.1, 0.2, 0.0], [0.3, 0.9, 0.0]])
    ax = visualize.plot_overlaps([1, 2, 0], [2, 2], [0.9, 0.8], overlaps, NAMES)
    assert [text.get_text() for text in ax.texts] == ["0.100", "0.200", "0.300", "0.900\nmatch"]
    with pytest.raises(ValueError, match=r"here 2 x 1. Received: shape \(1, 2\)"):
        visualize.plot_overlaps([1], [2, 2], [0.9, 0.8], overlaps[:1, :2], NAMES)
    with pytest.raises(ValueError, match=r"here 2 x 1. Received: shape \(2,\)"):
        visualize.plot_overlaps([1], [2, 2], [0.9, 0.8], overlaps[:, 0], NAMES)


@pytest.mark.long
def test_tables(capsys, tmp_path):
    from toy import ToyConfig

    from mrcnn import model as modellib

    text = visualize.display_weight_stats(modellib.MaskRCNN("inference", ToyConfig(), tmp_path))
    assert capsys.readouterr().out == text + "\n"
    assert "fpn_c5p5/kernel" in text and "dead" not in text
    names = [line.split()[0] for line in text.splitlines()]
    assert len(set(names)) == len(names)  # three of the RPN were called rpn_model/kernel
    # And those of the heads dense/kernel, dense_1/kernel, conv2d/kernel.
    for name in ("rpn_class_raw", "mrcnn_class_conv1", "mrcnn_bbox_fc", "mrcnn_mask"):
        assert f"{name}/kernel" in names


def test_nothing_is_shown_where_axes_are_given_or_nobody_looks(monkeypatch):
    """And without axes, in a notebook or a window, each of the functions of 2018 shows its figure
    once."""
    import matplotlib.pyplot as plt

    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()))

    def call(**kwargs):
        masks = np.moveaxis(TWO, -1, 0)
        visualize.display_instances(IMAGE, BOXES, TWO, [1, 2], NAMES, **kwargs)
        visualize.display_differences(
            IMAGE, BOXES, [1, 2], TWO, BOXES, [1, 2], [0.9, 0.8], TWO, NAMES, **kwargs
        )
        visualize.draw_boxes(IMAGE, BOXES, **kwargs)
        if not kwargs:
            visualize.draw_rois(IMAGE, BOXES, BOXES, masks, [1, 2], NAMES)
            visualize.display_images([IMAGE])
            visualize.display_top_masks(IMAGE, TWO, [1, 2], NAMES)
            visualize.plot_precision_recall(0.5, [1, 0], [0, 1])
            visualize.plot_overlaps([1], [1], [0.9], [[0.7]], NAMES)

    call()
    assert not shown
    monkeypatch.setattr(plt, "get_backend", lambda: "module://matplotlib_inline.backend_inline")
    call(ax=Figure().add_subplot())
    assert not shown
    call()
    assert len(shown) == 8


@pytest.mark.long
def test_a_hundred_instances():
    """1024 x 1024, with masks, boxes and labels, from the call to the pixels."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:1024, :1024]
    masks = np.zeros((100, 1024, 1024), bool)
    for mask in masks:
        (cy, cx), radius = rng.integers(0, 1024, 2), rng.integers(20, 200)
        mask[:] = (y - cy) ** 2 + (x - cx) ** 2 < radius**2
    masks = masks.transpose(1, 2, 0)
    boxes, ids, scores = utils.extract_bboxes(masks), rng.integers(1, 3, 100), rng.random(100)
    image = rng.integers(0, 256, (1024, 1024, 3)).astype(np.uint8)
    ax = visualize.display_instances(image, boxes, masks, ids, NAMES, scores)
    ax.figure.canvas.draw()
    assert len(ax.texts) == 100


# ---- Pictures against references -----------------------------------------------------------------


def pixels(figure):
    """[H, W, 4] uint8 of a figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def scene():
    """A gradient with four objects, two of them at edges: image, boxes, masks, class ids,
    scores."""
    y, x = np.mgrid[:90, :120]
    image = np.stack([2 * x, 2 * y, 255 - 2 * x], axis=-1).clip(0, 255).astype(np.uint8)
    masks = np.stack(
        [
            (y - cy) ** 2 + (x - cx) ** 2 < r * r
            for cy, cx, r in ((20, 20, 18), (0, 100, 25), (60, 60, 22), (85, 5, 14))
        ],
        axis=-1,
    )
    return (
        image,
        utils.extract_bboxes(masks),
        masks,
        np.array([1, 2, 1, 2]),
        np.array([0.99, 0.5, 0.75, 0.25]),
    )


def drawings():
    """{name: function that returns a figure or axes}, of what this module draws."""
    image, boxes, masks, ids, scores = scene()
    result = {"rois": boxes, "class_ids": ids, "scores": scores, "masks": masks}

    def axes():
        return visualize.new_figure((3.2, 2.4), dpi=50)[1][0]

    return {
        "detections": lambda: visualize.draw_detections(axes(), image, result, NAMES),
        "nothing": lambda: visualize.draw_detections(
            axes(),
            image,
            {**result, "rois": boxes[:0], "class_ids": ids[:0], "masks": masks[..., :0]},
            NAMES,
        ),
        "grid": lambda: visualize.detections_grid(
            [image] * 3, [result] * 3, NAMES, 2, ["a", "b", "c"], 2.0
        ),
        "instances": lambda: visualize.display_instances(
            image, boxes, masks, ids, NAMES, scores, ax=axes()
        ),
        "differences": lambda: visualize.display_differences(
            image,
            boxes,
            ids,
            masks,
            boxes[:3] + 3,
            ids[:3],
            scores[:3],
            np.roll(masks[..., :3], 3, axis=1),
            NAMES,
            ax=axes(),
        ),
        "boxes": lambda: visualize.draw_boxes(
            image,
            boxes,
            boxes + 4,
            np.moveaxis(masks, -1, 0),
            list("abcd"),
            [2, 1, 0, 2],
            ax=axes(),
        ),
        "rois": lambda: (
            np.random.seed(0),
            visualize.draw_rois(image, boxes, boxes + 4, np.moveaxis(masks, -1, 0), ids, NAMES),
        )[1],
        "top_masks": lambda: visualize.display_top_masks(image, masks, ids, NAMES, 2),
        "images": lambda: visualize.display_images(
            [image, image[..., 0]], ["a", "b"], 2, cmap="gray"
        ),
        "precision_recall": lambda: visualize.plot_precision_recall(
            0.6, np.array([1, 1, 0.7, 0.7, 0]), np.array([0, 0.2, 0.5, 0.8, 1])
        ),
        "overlaps": lambda: visualize.plot_overlaps(
            ids, ids[:3], scores, utils.compute_overlaps(boxes[:3] + 3, boxes), NAMES
        ),
    }


@pytest.mark.parametrize("name", drawings())
def test_picture(name):
    pictures.check(name, drawings()[name]())


# ---- Images, names and masks of every kind -------------------------------------------------------

NOISE = (np.arange(40 * 60 * 3) * 7 % 256).astype(np.uint8).reshape(40, 60, 3)
DEEP = np.round(NOISE / 255 * 4095).astype(np.uint16)


def shown(ax):
    """The picture on axes."""
    return np.asarray(ax.images[0].get_array())


@pytest.mark.parametrize(
    "image",
    [
        NOISE.astype(np.float32),
        NOISE.astype(np.int64),
        NOISE / 255,
        NOISE / 127.5 - 1,
        DEEP,
        DEEP.astype(np.float32),
        NOISE.astype(np.uint16) * 257,
        np.dstack([NOISE, NOISE[..., 0]]),
        np.dstack([DEEP, np.full((40, 60), 65535, np.uint16)]),
    ],
)
def test_an_image_of_any_range_is_shown_alike(image):
    """In every drawing function; none of them edits the image."""
    before = image.copy()
    rows = np.moveaxis(TWO, -1, 0)
    results = []
    for given in (NOISE, image):
        np.random.seed(0)
        figure_of_top = visualize.display_top_masks(given, TWO, [1, 2], NAMES)
        figure_of_images = visualize.display_images([given[..., :3]])
        results.append(
            [
                visualize.display_instances(given, BOXES, TWO, [1, 2], NAMES),
                visualize.display_instances(given, BOXES, TWO, [1, 2], NAMES, show_mask=False),
                visualize.draw_detections(Figure().add_subplot(), given, RESULT, NAMES),
                visualize.draw_detections(
                    Figure().add_subplot(), given, {**RESULT, "masks": None}, NAMES
                ),
                visualize.draw_boxes(given, BOXES, masks=rows),
                visualize.draw_rois(given, BOXES, BOXES, rows, np.array([1, 0]), NAMES),
                visualize.display_differences(
                    given,
                    BOXES,
                    np.array([1, 2]),
                    TWO,
                    BOXES,
                    np.array([1, 2]),
                    [0.9, 0.8],
                    TWO,
                    NAMES,
                ),
                visualize.show_image(Figure().add_subplot(), given[..., :3]),
                figure_of_images.axes[0],
                figure_of_top.axes[0],
            ]
        )
    for expected, found in zip(*results):
        np.testing.assert_array_equal(shown(found)[..., :3], shown(expected)[..., :3])
    np.testing.assert_array_equal(image, before)


def test_gray_images_are_shown():
    for gray in (NOISE[..., 0], NOISE[..., :1], NOISE[..., :1] / 255, NOISE[..., :2]):
        ax = visualize.display_instances(gray, BOXES, TWO, [1, 2], NAMES, show_mask=False)
        np.testing.assert_array_equal(shown(ax), np.repeat(NOISE[..., :1], 3, axis=2))


def test_apply_mask_paints_in_the_range_of_the_image():
    mask = MASKS[..., 0]
    color = (0.2, 0.5, 1.0)
    expected = visualize.apply_mask(NOISE.copy(), mask, color).astype(float)
    fractions = visualize.apply_mask(NOISE / 255, mask, color)
    np.testing.assert_allclose(fractions * 255, expected, atol=1)
    deep = visualize.apply_mask(DEEP.copy(), mask, color)
    np.testing.assert_allclose(deep / 4095 * 255, expected, atol=1)
    black = visualize.apply_mask(np.zeros((40, 60, 3)), mask, color)  # 0..255, as ever
    np.testing.assert_allclose(black[12, 10], [25.5, 63.75, 127.5])


@pytest.mark.parametrize("dtype", ["uint8", "uint32", "float32"])
def test_apply_mask_with_alpha(dtype):
    """In the image or in the colour, as plt.cm.jet gives it; but for uint8 it was a ValueError."""
    image = np.full((40, 60, 4), 100, dtype)
    visualize.apply_mask(image, MASKS[..., 0], (1.0, 0.0, 0.5, 1.0))
    assert image[12, 10].astype(int).tolist() == [177, 50, 113, 100]
    assert image[0, 0].tolist() == [100] * 4
    scaled = np.full((40, 60, 4), (100, 100, 100, 4000), "int32")  # alpha has no part in the range
    visualize.apply_mask(scaled, MASKS[..., 0], (1.0, 0.0, 0.5))
    assert scaled[12, 10].tolist() == [177, 50, 113, 4000]


@pytest.mark.parametrize(
    "class_names, expected",
    [
        (["BG", "cat"], ["cat", "class 7"]),
        (None, ["class 1", "class 7"]),
        ([], ["class 1", "class 7"]),
        ({1: "cat", 7: "dog"}, ["cat", "dog"]),
        ({"1": "cat"}, ["cat", "class 7"]),
        (np.array(["BG", "cat"]), ["cat", "class 7"]),
        (("BG", None), ["class 1", "class 7"]),
    ],
)
def test_classes_without_a_name(class_names, expected):
    class_ids = np.array([1.0, 7.0])  # as columns of detections are
    rows = np.moveaxis(TWO, -1, 0)
    ax = visualize.display_instances(IMAGE, BOXES, TWO, class_ids, class_names)
    assert [text.get_text() for text in ax.texts] == expected
    result = {"rois": BOXES, "class_ids": class_ids.astype(int), "scores": None, "masks": TWO}
    ax = visualize.draw_detections(Figure().add_subplot(), IMAGE, result, class_names)
    assert [text.get_text() for text in ax.texts] == expected
    ax = visualize.draw_rois(IMAGE, BOXES, BOXES, rows, class_ids, class_names)
    assert sorted(text.get_text() for text in ax.texts) == sorted(expected)
    figure = visualize.display_top_masks(IMAGE, TWO, class_ids, class_names)
    assert sorted(ax.get_title() for ax in figure.axes[1:3]) == sorted(expected)
    ax = visualize.plot_overlaps(class_ids, class_ids, [0.5], np.eye(2), class_names)
    assert [text.get_text() for text in ax.get_xticklabels()] == expected
    assert [text.get_text() for text in ax.get_yticklabels()] == [
        f"{expected[0]} (0.50)",
        expected[1],
    ]
    visualize.display_differences(
        IMAGE, BOXES, class_ids, TWO, BOXES, class_ids, [0.9, 0.8], TWO, class_names
    )


def test_names_of_crowds_and_mistakes():
    """A negative id took the name from the end of the list."""
    assert visualize.label_texts([-1, 2, -5], NAMES) == ["cat (crowd)", "dog", "class 5 (crowd)"]
    with pytest.raises(ValueError, match="a list of names. Received: 'cat'"):
        visualize.label_texts([1], "cat")
    assert visualize.label_texts([1, 2, 1], NAMES, [0.5, None]) == ["cat 0.50", "dog", "cat"]
    assert visualize.class_color(-3) == visualize.class_color(3) == visualize.random_colors(9)[3]


def test_captions_and_colors_that_are_too_few():
    def texts(**settings):
        ax = visualize.display_instances(IMAGE, BOXES, TWO, [1, 2], NAMES, [0.5, 0.25], **settings)
        return [text.get_text() for text in ax.texts]

    assert texts(captions=["one"]) == ["one", "dog 0.250"]
    assert texts(captions=[]) == ["cat 0.500", "dog 0.250"]
    assert texts(captions=np.array(["one", "two", "three"])) == ["one", "two"]
    assert texts(captions=[None, 7]) == ["7"]
    assert texts(colors=[(1.0, 0, 0)]) == texts(colors=np.ones((2, 3)))
    assert texts(colors=["red"]) == texts(colors=iter(["red", "C0", "blue"]))
    figure = visualize.display_images([IMAGE, IMAGE], titles=["one"])  # the second was left out
    assert [ax.get_title() for ax in figure.axes] == ["one", ""]
    figure = visualize.detections_grid([IMAGE] * 2, [RESULT] * 2, NAMES, titles=["one"])
    assert [ax.get_title() for ax in figure.axes[:2]] == ["one", ""]
    visualize.detections_grid([], [], NAMES)
    truth = {**RESULT, "scores": None}
    assert visualize.sure(truth) == truth
    for class_ids in (None, [1]):
        with pytest.raises(ValueError, match="have one N"):
            visualize.display_instances(IMAGE, BOXES, TWO, class_ids, NAMES)
    ax = visualize.display_instances(IMAGE, BOXES, TWO, np.array([[1], [2]]), NAMES)
    assert [text.get_text() for text in ax.texts] == ["cat", "dog"]
    ax = visualize.draw_boxes(IMAGE, BOXES, captions=["one"])
    assert [text.get_text() for text in ax.texts] == ["one"]


def test_outlines_without_masks_colours():
    """The original draws them with show_mask=False too."""
    ax = visualize.display_instances(IMAGE, BOXES, TWO, [1, 2], NAMES, show_mask=False)
    assert not shown(ax).any()
    outlines = outlines_of(ax)
    painted = outlines_of(visualize.display_instances(IMAGE, BOXES, TWO, [1, 2], NAMES))
    assert len(outlines) == len(painted) == 4  # rims and lines of two
    for a, b in zip(outlines, painted):
        np.testing.assert_array_equal(a, b)
    ax = visualize.display_instances(IMAGE, BOXES, None, [1, 2], NAMES, show_mask=False)
    assert not outlines_of(ax)


def test_masks_of_every_form():
    """Lazy ones and run lengths are drawn as the array is, and never made whole."""
    from mrcnn.masks import Masks, encode

    class Crops(Masks):
        def __array__(self, dtype=None, copy=None):
            raise AssertionError("made whole")

    lazy = Crops(np.ones((2, 28, 28)), BOXES, (40, 60))
    dense = visualize.display_instances(NOISE, BOXES, TWO, [1, 2], NAMES)
    result = {"rois": BOXES, "class_ids": np.array([1, 2]), "scores": np.array([0.9, 0.3])}
    for masks in (lazy, encode(TWO)):
        ax = visualize.display_instances(NOISE, BOXES, masks, [1, 2], NAMES)
        np.testing.assert_array_equal(shown(ax), shown(dense))
        assert len(outlines_of(ax)) == 4
        padded = np.concatenate([BOXES, np.zeros((1, 4), int)])
        if masks is not lazy:
            more = [*masks, masks[0]]
            ax = visualize.display_instances(NOISE, padded, more, [1, 2, 0], NAMES)
            np.testing.assert_array_equal(shown(ax), shown(dense))
        chosen = visualize.sure({**result, "masks": masks})
        ax = visualize.draw_detections(Figure().add_subplot(), NOISE, chosen, NAMES)
        assert [text.get_text() for text in ax.texts] == ["cat 0.90"]
    visualize.display_instances(NOISE, np.zeros((0, 4)), [], [], NAMES)


def test_masks_across_the_image_are_named():
    across = np.zeros((60, 40, 1), bool)
    with pytest.raises(ValueError, match=r"image's \(40, 60\). Received: \(60, 40, 1\).*EXIF"):
        visualize.display_instances(NOISE, BOXES[:1], across, [1], NAMES)
    with pytest.raises(ValueError, match=r"Received: \(40, 50, 1\)$"):
        visualize.paint_masks(NOISE, np.zeros((40, 50, 1), bool), [(1, 0, 0)])


def test_thousands_of_objects_stay_usable(monkeypatch, caplog):
    """Labels beyond a number are left out, with one line: placing them takes the square of it."""
    monkeypatch.setattr(visualize, "MOST_LABELS", 3)
    count = 10
    boxes = np.tile(BOXES[:1], (count, 1))
    ax = Figure().add_subplot()
    with caplog.at_level("WARNING"):
        visualize.display_instances(IMAGE, boxes, None, [1] * count, NAMES, ax=ax)
    assert len(ax.texts) == 3 and len(boxes_of(ax)) == count
    assert caplog.text.count("Of 10 labels the first 3 are written") == 1


@pytest.mark.parametrize(
    "change, text",
    [
        ({"masks": MASKS[..., 0]}, r"masks .H, W, N.. Received: \(1, 4\), \(1,\), \(40, 60\)"),
        ({"masks": np.moveaxis(MASKS, -1, 0)}, r"Received: \(1, 4\), \(1,\), \(1, 40, 60\)"),
        ({"masks": np.repeat(MASKS, 2, -1)}, r"Received: \(1, 4\), \(1,\), \(40, 60, 2\)"),
        ({"masks": MASKS[:20]}, r"with the image's \(40, 60\). Received: \(20, 60, 1\)"),
        ({"rois": [[1, 2, 3, 4, 0.9]]}, r"boxes .N, 4., .* Received: \(1, 5\)"),
        ({"rois": [[1, 2, 3, np.nan]]}, "boxes are finite numbers. Received: .*nan"),
        ({"class_ids": ["cat"]}, "class_ids are whole numbers, .* Received: 'cat'"),
        ({"scores": ["high"]}, "scores are numbers, or None. Received: 'high'"),
    ],
)
def test_results_that_are_none(change, text):
    """On axes and on the picture itself: IndexErrors of numpy before."""
    from mrcnn import media

    result = {**RESULT, **change}
    with pytest.raises(ValueError, match=text):
        media.paint(IMAGE, result, ["BG", "cat"])
    with pytest.raises(ValueError, match=text):
        visualize.draw_detections(Figure().subplots(), IMAGE, result, ["BG", "cat"])


def test_class_ids_in_a_column():
    from mrcnn import media

    column = {**RESULT, "class_ids": RESULT["class_ids"][:, None]}
    painted = [media.paint(IMAGE, result, ["BG", "cat"]) for result in (RESULT, column)]
    np.testing.assert_array_equal(*painted)


@pytest.mark.parametrize("image", [None, "a.jpg", np.zeros((1, 4, 4, 3)), np.array([[None]])])
def test_what_is_no_image(image):
    """Each function says so itself, and a path for an image is shown as it was given."""
    with pytest.raises(ValueError, match="images are .H, W. or .* Received: .* at place 1"):
        visualize.display_images([IMAGE, image])
    with pytest.raises(ValueError, match="paints into an array .H, W, 3."):
        visualize.apply_mask(image, MASKS[..., 0], (1, 0, 0))
    with pytest.raises(ValueError, match="an image is|images are"):
        visualize.display_top_masks(image, MASKS, [1], ["BG", "cat"])
    with pytest.raises(ValueError, match="An image is"):
        visualize.draw_boxes(image, RESULT["rois"])
    if isinstance(image, str):
        with pytest.raises(ValueError, match="one pixel. Received: 'a.jpg'"):
            utils.as_rgb(image)


def test_apply_mask_of_another_size():
    with pytest.raises(ValueError, match=r"image's size, \(40, 60\). Received: \(20, 60\)"):
        visualize.apply_mask(IMAGE.copy(), MASKS[:20, :, 0], (1, 0, 0))


def test_pictures_of_pillow_with_a_palette_are_their_colours(tmp_path):
    """They were the places in the palette, taken for gray, without a word."""
    from PIL import Image

    from mrcnn import media

    colors = np.zeros((8, 8, 3), np.uint8)
    colors[:, 4:] = (204, 51, 0)
    picture = Image.fromarray(colors).convert("P")
    assert np.asarray(picture).max() < 200
    ax = visualize.display_images([picture]).axes[0]
    np.testing.assert_array_equal(ax.images[0].get_array(), colors)
    figure = visualize.display_top_masks(picture, np.zeros((8, 8, 0)), [], NAMES)
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), colors)
    np.testing.assert_array_equal(shown(visualize.draw_boxes(picture, [[1, 1, 3, 3]])), colors)
    np.testing.assert_array_equal(utils.as_bytes(picture), colors)
    np.testing.assert_array_equal(utils.resize_image(picture, mode="none")[0], colors)
    media.write_image(tmp_path / "x.png", picture)
    np.testing.assert_array_equal(utils.read_image(tmp_path / "x.png"), colors)


def test_lab_is_that_of_scikit_image():
    from skimage.color import rgb2lab

    rgb = np.random.default_rng(0).random((200, 3))
    rgb[:50] *= 0.05  # the linear part of sRGB
    np.testing.assert_allclose(visualize._lab(rgb), rgb2lab(rgb[None])[0], atol=1e-9)
