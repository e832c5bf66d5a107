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
