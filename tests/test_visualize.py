"""Pictures: what is drawn where."""
import numpy as np
import pytest
from matplotlib.figure import Figure

from mrcnn import visualize

IMAGE = np.zeros((40, 60, 3), np.uint8)
MASKS = np.zeros((40, 60, 1), bool)
MASKS[10:20, 5:25] = True
RESULT = {"rois": np.array([[10, 5, 20, 25]]), "class_ids": np.array([1]), "scores": np.array([.5]), "masks": MASKS}


def test_mask_is_painted_inside_only():
    ax = Figure().add_subplot()
    assert visualize.draw_detections(ax, IMAGE, RESULT, ["BG", "cat"]) is ax
    painted = ax.images[0].get_array()
    assert (painted[MASKS[..., 0]].sum(axis=-1) > 0).all() and not painted[~MASKS[..., 0]].any() and not IMAGE.any()
    assert [text.get_text() for text in ax.texts] == ["cat 0.50"]
    assert ax.patches[0].get_bbox().bounds == (5, 10, 20, 10)


def test_nothing_found_is_said():
    ax = Figure().add_subplot()
    empty = {"rois": np.zeros((0, 4)), "class_ids": np.zeros(0, int), "scores": np.zeros(0), "masks": MASKS[..., :0]}
    visualize.draw_detections(ax, IMAGE, empty, ["BG"])
    assert ax.texts[0].get_text() == "nothing found"


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"Received: 1, 1, \(40, 60, 0\)"):
        visualize.draw_detections(Figure().add_subplot(), IMAGE, {**RESULT, "masks": MASKS[..., :0]}, ["BG", "cat"])


def test_colors_are_distinct():
    colors = np.array(visualize.random_colors(20))
    distances = np.abs(colors[:, None] - colors[None]).sum(axis=-1) + np.eye(20)
    assert distances.min() > .05 and visualize.random_colors(3) == visualize.random_colors(20)[:3]


def test_grid(tmp_path):
    from matplotlib.image import imread
    path = visualize.draw_detections_grid([IMAGE] * 3, [RESULT] * 3, ["BG", "cat"], tmp_path / "x.png", cols=2)
    picture = imread(path)
    assert picture.shape[0] > 300 and len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 5


# ---- matterport's functions -----------------------------------------------------------------------------

@pytest.fixture
def figure(monkeypatch):
    """The figure that a call shows."""
    import matplotlib
    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()))
    yield lambda: shown[-1]
    plt.close("all")


TWO = np.concatenate([MASKS, np.roll(MASKS, (15, 20), axis=(0, 1))], axis=2)
BOXES = np.array([[10, 5, 20, 25], [25, 25, 35, 45]])
NAMES = ["BG", "cat", "dog"]


def test_display_instances(figure):
    visualize.display_instances(IMAGE, BOXES, TWO, [1, 2], NAMES, [.5, .75], title="two")
    ax, = figure().axes
    assert [text.get_text() for text in ax.texts] == ["cat 0.500", "dog 0.750"] and ax.get_title() == "two"
    assert [patch.get_bbox().bounds for patch in ax.patches] == [(5, 10, 20, 10), (25, 25, 20, 10)]
    # The outline runs along the edges of the mask's pixels.
    assert (ax.lines[0].get_xdata().min(), ax.lines[0].get_xdata().max()) == (5, 25)
    assert not IMAGE.any()


def test_display_instances_says_when_there_is_nothing(figure):
    """(31) On the picture; and shapes that don't fit are named."""
    visualize.display_instances(IMAGE, np.zeros((0, 4)), np.zeros((40, 60, 0)), [], NAMES)
    assert figure().axes[0].texts[0].get_text() == "No instances to display"
    with pytest.raises(ValueError, match=r"\(2, 4\), \(40, 60, 2\), \(1,\)"):
        visualize.display_instances(IMAGE, BOXES, TWO, [1], NAMES)


def test_display_differences(figure):
    visualize.display_differences(IMAGE, BOXES, np.array([1, 2]), TWO, BOXES[::-1], np.array([1, 1]), np.array([.9, .8]),
                                  TWO[..., ::-1], NAMES)
    texts = [text.get_text() for text in figure().axes[0].texts]
    assert texts == ["", "", "0.90 / 1.00 not matched", "0.80 / 1.00"]


def test_draw_rois_and_boxes(figure):
    masks = np.moveaxis(TWO, -1, 0)
    visualize.draw_rois(IMAGE, BOXES + 1, BOXES, masks, [1, 0], NAMES)
    assert "1 of them positive" in figure().axes[0].get_title() and len(figure().axes[0].patches) == 3
    visualize.draw_boxes(IMAGE, BOXES, BOXES + 1, masks, ["a", "b"], [2, 0])
    assert len(figure().axes[0].patches) == 3 and len(figure().axes[0].texts) == 2
    with pytest.raises(ValueError, match="boxes or refined_boxes"):
        visualize.draw_boxes(IMAGE)
    image = visualize.draw_box(IMAGE.copy(), BOXES[0], (9, 9, 9))
    assert image[10, 5:25].all() and image[12, 7:23].sum() == 0


def test_images_masks_and_plots(figure):
    visualize.display_images([IMAGE, IMAGE[..., 0]], titles=["a", "b"])
    assert [ax.get_title() for ax in figure().axes] == ["a", "b"]
    visualize.display_top_masks(IMAGE, TWO, np.array([1, 2]), NAMES)
    assert [ax.get_title() for ax in figure().axes] == ["H x W = 40 x 60", "cat", "dog", "-", "-"]
    visualize.plot_precision_recall(.5, np.array([0, 1, 0]), np.array([0, .5, 1]))
    assert "AP@50 = 0.500" in figure().axes[0].get_title()
    visualize.plot_overlaps([1, 2], [2], [.9], np.array([[.7, .1]]), NAMES)
    assert [text.get_text() for text in figure().axes[0].texts] == ["0.700\nwrong", "0.100"]


def test_tables(capsys, monkeypatch, tmp_path):
    import sys
    monkeypatch.setitem(sys.modules, "IPython", None)
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    from toy import ToyConfig

    from mrcnn import model as modellib
    visualize.display_weight_stats(modellib.MaskRCNN("inference", ToyConfig(), tmp_path))
    out = capsys.readouterr().out
    assert "fpn_c5p5/kernel" in out and "dead" not in out
