"""Figures of datasets, of the network's stages and of its weights, for the notebooks.

Each function returns a matplotlib figure outside pyplot, without a display. The numbers come from
`mrcnn.inspection` and `mrcnn.trace`; images with objects are drawn by `mrcnn.visualize`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mrcnn import data, fonts, inspection, utils, visualize
from mrcnn.visualize import add_boxes, add_labels, connect_boxes, new_figure, show_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    from mrcnn.config import Config
    from mrcnn.inspection import Survey
    from mrcnn.trace import Trace
    from mrcnn.utils import Dataset

BLUE = "#2b6cb0"
ORANGE = "#dd6b20"
GREEN = "#2f855a"
GREY = "#718096"
PURPLE = "#805ad5"
RED = "#e53e3e"
LIGHT_BLUE = (0.6, 0.75, 1.0)
CYAN = (0.5, 0.9, 1.0)

# Colours of pixels in neither mask, in the pasted one only, in the object's only, in both.
COMPARISON_COLORS = (
    (20, 20, 20),
    (221, 107, 32),
    (43, 108, 176),
    (205, 205, 205),
)


def _empty_grid(
    rows: int, columns: int, width: float, height: float
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of a size in inches and its axes by row and column, without ticks and frames."""
    figure, axes = new_figure((width, height), rows, columns)
    for ax in axes:
        ax.set_axis_off()
    by_row = [axes[start : start + columns] for start in range(0, len(axes), columns)]
    return figure, by_row


def _level_colors(levels: np.ndarray) -> dict[int, tuple[float, ...]]:
    """{level: colour} of the levels that are present."""
    present = np.unique(levels).tolist()
    return dict(zip(present, visualize.random_colors(len(present))))


def _darkened(image: np.ndarray, share: float) -> np.ndarray:
    """An image with its brightness times `share`, [H, W, 3] uint8, as a background for lines."""
    return (utils.as_rgb(image) * share).astype(np.uint8)


def _show_map(ax: Axes, values: np.ndarray, title: str) -> None:
    """Shows values [h, w] of 0..1 as a heat map."""
    show_image(ax, values, title, cmap="magma", vmin=0, vmax=1)


def _compared(pasted: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Two masks [h, w] as an image: grey where both are set, orange and blue where one is."""
    code = np.add(pasted, np.multiply(mask, 2), dtype=int)
    return np.array(COMPARISON_COLORS, np.uint8)[code]


# ---- Training ------------------------------------------------------------------------------------


def plot_history(history: Any) -> Figure:
    """The losses over the epochs, from a Keras History or its dict {name: [values]}."""
    values = getattr(history, "history", history)
    names = [name for name in values if name.endswith("loss") and not name.startswith("val_")]
    if not names:
        return _nothing("nothing is known of the losses")
    figure, axes = new_figure((3.0 * len(names), 2.6), 1, len(names))
    for ax, name in zip(axes, names):
        epochs = np.arange(1, len(values[name]) + 1)
        ax.plot(epochs, values[name], marker="o", color=BLUE, label="training")
        if "val_" + name in values:
            ax.plot(epochs, values["val_" + name], marker="o", color=ORANGE, label="validation")
            ax.legend(fontsize=7)
        ax.set(xlabel="epoch", ylim=(0, None))
        step = max(len(epochs) // 6, 1)
        if len(epochs) < 8:
            step = 1
        ax.set_xticks(epochs[::step])
        ax.set_title(name, fontsize=9)
        ax.grid(alpha=0.3)
    return figure


# ---- Datasets ------------------------------------------------------------------------------------


def draw_examples(dataset: Dataset, image_ids: Sequence[int], cols: int = 4) -> Figure:
    """Images of a dataset with masks, boxes, classes and keypoints; titles count the crowds."""
    images = []
    truths = []
    titles = []
    for image_id in image_ids:
        truth = inspection.true_objects(dataset, image_id, crowds=True)
        class_ids = truth["class_ids"]
        crowds = int((class_ids < 0).sum())
        title = f"image {image_id}: {len(class_ids)} objects"
        if crowds:
            title += f", {crowds} crowds"
        images.append(dataset.load_image(image_id))
        truths.append({**truth, "class_ids": np.abs(class_ids)})
        titles.append(title)
    return visualize.detections_grid(images, truths, list(dataset.class_names), cols, titles)


def draw_mini_masks(example: dict, config: Config, count: int = 4) -> Figure:
    """Objects of an `rpn_example`, their mini-masks, and these pasted, with their IoU."""
    count = min(count, len(example["boxes"]))
    columns = max(count, 1)
    figure, (above, middle, below) = _empty_grid(3, columns, 2.0 * columns, 6.2)
    for i in range(count):
        whole, mini, *_ = inspection.mask_chain(example["masks"][..., i], config)
        y1, x1, y2, x2 = example["boxes"][i]
        image = example["image"][y1:y2, x1:x2]
        compared = _compared(mini["pasted"], whole["pasted"])[y1:y2, x1:x2]
        show_image(above[i], image, f"object, {y2 - y1} x {x2 - x1} px")
        _show_map(middle[i], mini["small"], mini["name"])
        show_image(below[i], compared, f"put back, IoU {mini['iou']:.3f}")
    return figure


def draw_resizing(image: np.ndarray, config: Config) -> Figure:
    """An image [H, W, 3] before and after it is resized for the network."""
    mode = config.IMAGE_RESIZE_MODE
    image = utils.as_rgb(image)
    resized, window, scale, _, _ = utils.resize_image(
        image,
        min_dim=config.IMAGE_MIN_DIM,
        max_dim=config.IMAGE_MAX_DIM,
        min_scale=config.IMAGE_MIN_SCALE,
        mode=mode,
    )
    height, width = image.shape[:2]
    new_height, new_width = resized.shape[:2]
    figure, (before, after) = new_figure((8, 4), 1, 2)
    show_image(before, image, f"as read: {height} x {width}")
    show_image(after, resized, f"{mode}: x {scale:.3g}, {new_height} x {new_width}")
    add_boxes(after, [window], ORANGE)
    return figure


def plot_classes(survey: Survey, most: int = 25) -> Figure:
    """Numbers of objects and images of the `most` most frequent classes."""
    rows = survey.classes()[:most][::-1]
    class_names = list(survey.class_names)
    names = [visualize.drawn_name(class_names, class_names.index(name)) for name, _, _ in rows]
    objects = [count for _, count, _ in rows]
    images = [count for _, _, count in rows]
    classes = len(survey.class_names) - 1
    title = f"{len(survey.boxes)} objects of {classes} classes"
    if classes > most:
        title += f", the {most} most frequent"
    figure, (ax,) = new_figure((6.5, 0.8 + 0.24 * len(rows)))
    positions = np.arange(len(rows))
    ax.barh(positions + 0.2, objects, 0.4, color=BLUE, label="objects")
    ax.barh(positions - 0.2, images, 0.4, color=ORANGE, label="images with one")
    fonts.set_names(ax.yaxis, names, fontsize=8)
    ax.set_title(title, fontsize=9)
    ax.legend(fontsize=8)
    ax.grid(alpha=0.3, axis="x")
    return figure


def plot_sizes(survey: Survey, config: Config) -> Figure:
    """Sizes of objects compared with anchor scales, and the recall that anchors allow."""
    rows = inspection.recall_by_level(survey.boxes, config, survey.molded)
    figure, (left, right) = new_figure((11, 3.4), 1, 2)
    _plot_sides(left, survey, config, rows)
    _plot_recall(right, rows)
    return figure


def _plot_sides(ax: Axes, survey: Survey, config: Config, rows: Sequence[tuple]) -> None:
    """A histogram of the boxes' sides, with lines at the anchor scales."""
    size = np.maximum(survey.boxes[:, 2:] - survey.boxes[:, :2], 1)
    side = np.sqrt(size.prod(axis=1))
    largest = max(side.max(initial=8), np.max(config.RPN_ANCHOR_SCALES))
    edges = np.geomspace(min(4, side.min(initial=4)), largest * 1.1, 30)
    ax.hist(side, edges.tolist(), color=BLUE)
    to_axis = ax.get_xaxis_transform()
    heights = np.linspace(0.95, 0.75, len(rows))
    for (level, level_scales, *_), y in zip(rows, heights):
        if level == "all":
            continue
        for scale in np.ravel(level_scales):
            ax.axvline(scale, color=ORANGE, linewidth=1.2)
            text = f" {level}: {scale}"
            ax.text(scale, y, text, transform=to_axis, fontsize=8, color=ORANGE)
    ax.set(xscale="log", xlabel="side of the box after resizing, px (log)", ylabel="objects")
    ax.set_title("objects (blue) and anchor scales (orange)", fontsize=9)
    ticks = [4, 8, 16, 32, 64, 128, 256, 512]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.set_xlim(edges[0], edges[-1] * 1.5)  # room for the last label
    ax.minorticks_off()


def _plot_recall(ax: Axes, rows: Sequence[tuple]) -> None:
    """The rows of `inspection.recall_by_level` as bars and markers."""
    positions = np.arange(len(rows))
    names = [f"{level}\n{count} obj." for level, _, count, *_ in rows]
    means = [mean for _, _, _, mean, _, _ in rows]
    shares_50 = np.nan_to_num([share for *_, share, _ in rows])
    shares_70 = np.nan_to_num([share for *_, share in rows])
    ax.bar(positions - 0.2, shares_50, 0.4, color=BLUE, label="share with an anchor of IoU .5")
    ax.bar(positions + 0.2, shares_70, 0.4, color=ORANGE, label="share with an anchor of IoU .7")
    ax.plot(positions, means, "k_", markersize=18, markeredgewidth=2, label="mean best IoU")
    ax.set_xticks(positions, names, fontsize=8)
    ax.set_ylim(0, 1.32)
    ax.set_yticks(np.arange(0, 1.1, 0.2))
    ax.legend(fontsize=6.5, ncols=3, loc="upper center")
    ax.set_title("what anchors can find, by the level that fits best", fontsize=9)
    ax.grid(alpha=0.3, axis="y")


def draw_anchors(image: np.ndarray, config: Config) -> Figure:
    """The anchors of one cell of each level, at the centre of an image [H, W, 3]."""
    shapes = data.compute_backbone_shapes(config, image.shape)
    strides = np.atleast_1d(config.BACKBONE_STRIDES)
    figure, axes = new_figure((2.5 * len(shapes), 2.9), 1, len(shapes))
    background = utils.as_rgb(image) // 2 + 80
    margin = 0.1 * image.shape[0]
    for ax, scale, stride, cells in zip(axes, config.RPN_ANCHOR_SCALES, strides, shapes):
        rows, columns = cells
        center = np.array([rows // 2, columns // 2]) * stride
        anchors = utils.generate_anchors(scale, config.RPN_ANCHOR_RATIOS, (1, 1), stride, 1)
        boxes = anchors + np.tile(center, 2)
        title = f"stride {stride}: {rows} x {columns} cells,\nscale {scale}"
        show_image(ax, background, title, margin)
        add_boxes(ax, boxes, visualize.random_colors(len(boxes)))
        x, y = np.meshgrid(np.arange(columns), np.arange(rows)) * np.array(stride)
        ax.plot(x.ravel(), y.ravel(), ",", color="white")
    return figure


def draw_rpn_targets(example: dict) -> Figure:
    """Positive and negative anchors, the number of neutral ones, and the positives' targets."""
    figure, (left, middle, right) = new_figure((12, 4.2), 1, 3)
    image = example["image"]
    anchors = example["anchors"]
    counts = example["counts"]
    dark = _darkened(image, 0.6)
    show_image(left, image, f"{len(example['boxes'])} objects", margin=4)
    add_boxes(left, example["boxes"], "white")
    title = f"{counts['positive']} positive anchors (dashed), moved by their targets"
    show_image(middle, dark, title, margin=4)
    add_boxes(middle, anchors[example["match"] == 1], ORANGE, 1, "dashed")
    add_boxes(middle, example["targets"], "white", 1.2)
    title = (
        f"{counts['negative']} negative anchors, drawn at random;\n"
        f"{counts['neutral']} without a loss"
    )
    show_image(right, dark, title, margin=4)
    add_boxes(right, anchors[example["match"] == -1], LIGHT_BLUE, 0.5)
    return figure


def draw_roi_targets(example: dict, rois: dict, class_names: Any, count: int = 6) -> Figure:
    """Positive and negative RoIs that train the heads, and mask targets of some positives."""
    from matplotlib.gridspec import GridSpec

    positive = np.flatnonzero(rois["class_ids"] > 0)
    negative = np.flatnonzero(rois["class_ids"] == 0)
    counts = rois["counts"]
    figure, first = new_figure((12, 4.4))
    first[0].remove()
    grid = GridSpec(2, 4 + -(-count // 2), figure=figure)
    left = figure.add_subplot(grid[:, :2])
    right = figure.add_subplot(grid[:, 2:4])
    dark = _darkened(example["image"], 0.6)
    show_image(left, dark, f"{counts['positive']} positive RoIs (dashed) and their targets")
    if len(positive):
        roi_colors = [visualize.class_color(i) for i in rois["class_ids"][positive]]
        add_boxes(left, rois["rois"][positive], roi_colors, 1, "dashed")
        add_boxes(left, rois["refined"][positive], "white", 1.2)
    title = f"{counts['negative']} negative RoIs"
    if counts["positive"]:
        title += f": 1 to {counts['negative'] / counts['positive']:.1f}"
    show_image(right, dark, title)
    add_boxes(right, rois["rois"][negative], LIGHT_BLUE, 0.6)
    for k, i in enumerate(positive[:count]):
        column, row = divmod(k, 2)
        ax = figure.add_subplot(grid[row, 4 + column])
        name = fonts.plain(visualize.drawn_name(class_names, rois["class_ids"][i]))
        _show_map(ax, rois["masks"][i], f"target: {name}")
    return figure


# ---- Stages of one image -------------------------------------------------------------------------


def draw_proposals(stages: Trace, count: int = 25) -> Figure:
    """The anchors of highest score, refined, clipped, and after non-maximum suppression."""
    figure, axes = new_figure((13, 3.7), 1, 4)
    levels = stages.anchor_levels
    top = stages.top[:count]
    kept = stages.nms_kept[:count]
    proposals = len(stages.proposals)
    kept_title = (
        f"the best {min(count, proposals)} of {proposals} proposals,\nafter non-maximum suppression"
    )
    panels = [
        (stages.anchors[top], top, f"the {len(top)} best of {len(levels)} anchors"),
        (stages.refined[:count], top, "moved by their deltas"),
        (stages.clipped[:count], top, "cut at the image's edge"),
        (stages.clipped[kept], stages.top[kept], kept_title),
    ]
    dark = _darkened(stages.image, 0.7)
    margin = 0.06 * stages.image.shape[0]
    colors = _level_colors(levels)
    for ax, (boxes, anchor_ids, title) in zip(axes, panels):
        show_image(ax, dark, title, margin)
        add_boxes(ax, boxes, [colors[level] for level in levels[anchor_ids]], 1)
    handles = []
    for level, color in colors.items():
        handles += axes[0].plot([], [], color=color, label=f"P{level}")
    axes[0].legend(handles=handles, fontsize=7, loc="lower left", framealpha=0.8)
    return figure


def draw_scores(stages: Trace, config: Config) -> Figure:
    """The RPN's scores of each level: at each cell, the highest of its anchors."""
    shapes = data.compute_backbone_shapes(config, stages.image.shape)
    columns = 1 + len(shapes)
    figure, axes = new_figure((2.5 * columns, 2.8), 1, columns)
    show_image(axes[0], stages.image, "image")
    levels = np.unique(stages.anchor_levels)
    for ax, level, cells in zip(axes[1:], levels, shapes):
        scores = stages.rpn_scores[stages.anchor_levels == level]
        height, width = -(-np.asarray(cells) // config.RPN_ANCHOR_STRIDE)
        best = scores.reshape(height, width, -1).max(axis=-1)
        _show_map(ax, best, f"P{level}: {height} x {width}, at most {scores.max():.2f}")
    return figure


def draw_levels(stages: Trace, count: int = 30) -> Figure:
    """The best proposals of each pyramid level that the heads read."""
    levels = np.unique(stages.roi_levels)
    figure, axes = new_figure((3.2 * len(levels), 3.5), 1, len(levels))
    dark = _darkened(stages.image, 0.7)
    for ax, level in zip(axes, levels):
        rois = stages.proposals[stages.roi_levels == level]
        title = f"P{level}: {len(rois)} RoIs"
        if len(rois) > count:
            title += f", the best {count}"
        show_image(ax, dark, title)
        add_boxes(ax, rois[:count], visualize.random_colors(1), 0.8)
    return figure


def draw_heads(stages: Trace, class_names: Any, count: int = 20) -> Figure:
    """From proposals to detections: classes, refined boxes, and detections after suppression."""
    figure, (left, middle, right) = new_figure((12, 4.3), 1, 3)
    objects = np.flatnonzero(stages.class_ids > 0)
    objects = objects[np.argsort(-stages.scores[objects], kind="stable")][:count]
    rois = stages.proposals[objects]
    refined = stages.refined_rois[objects]
    colors = [visualize.class_color(i) for i in stages.class_ids[objects]]
    dark = _darkened(stages.image, 0.7)
    show_image(left, dark, f"the {len(objects)} surest proposals, by class")
    show_image(middle, dark, "moved by the deltas of their class")
    if len(objects):
        add_boxes(left, rois, colors, 1, "dashed")
        add_boxes(middle, rois, colors, 0.8, "dashed")
        add_boxes(middle, refined, colors, 1.2)
        for roi, box, color in zip(rois, refined, colors):
            connect_boxes(middle, roi, box, color, linewidth=0.8)
    show_image(right, dark, f"{len(stages.boxes)} detections after suppression by class")
    if len(stages.boxes):
        add_boxes(right, stages.boxes, [visualize.class_color(i) for i in stages.detected_ids])
    texts = visualize.label_texts(stages.detected_ids, class_names, stages.detection_scores)
    add_labels(right, stages.boxes, texts, visualize.image_limits(stages.image), 7)
    return figure


def _nothing(text: str = "nothing was detected: train longer") -> Figure:
    """A figure with a text in place of a drawing, such as for no detection."""
    figure, (ax,) = new_figure((4, 1))
    ax.set_axis_off()
    ax.text(0.5, 0.5, text, ha="center", va="center")
    return figure


def draw_masks(stages: Trace, class_names: Any, count: int = 6) -> Figure:
    """Detections with their masks, as outputs of the head and pasted into the image."""
    count = min(count, len(stages.boxes))
    if not count:
        return _nothing()
    figure, (above, middle, below) = _empty_grid(3, count, 2.2 * count, 6.6)
    texts = visualize.label_texts(stages.detected_ids, class_names, stages.detection_scores)
    limits = np.tile(stages.image.shape[:2], 2)
    for i in range(count):
        y1, x1, y2, x2 = np.clip(np.round(stages.boxes[i]), 0, limits).astype(int)
        bottom = max(y2, y1 + 1)  # at least one row and column
        right = max(x2, x1 + 1)
        show_image(above[i], stages.image[y1:bottom, x1:right], texts[i])
        if stages.masks is None or stages.pasted is None:
            continue
        mask = stages.masks[i]
        height, width = mask.shape
        _show_map(middle[i], mask, f"mask head, {height} x {width}")
        colors = [visualize.class_color(stages.detected_ids[i])]
        pasted = stages.pasted[..., i : i + 1]
        painted, boxes = visualize.paint_masks(stages.image, pasted, colors)
        show_image(below[i], painted, f"pasted, {y2 - y1} x {x2 - x1} px")
        visualize.outline_masks(below[i], pasted, boxes, colors)
    return figure


def draw_activations(activations: Mapping[str, np.ndarray], count: int = 8) -> Figure:
    """The channels of highest deviation of activations {name: [h, w, C]}, one row each."""
    rows = len(activations)
    figure, axes = _empty_grid(rows, count, 1.5 * count, 1.75 * rows)
    for row, (name, values) in zip(axes, activations.items()):
        order = np.argsort(-values.std(axis=(0, 1)))[:count]
        titles = [str(channel) for channel in order]
        titles[0] = f"{name}, {titles[0]}"
        for ax, channel, title in zip(row, order, titles):
            show_image(ax, values[..., channel], title, cmap="viridis")
    return figure


def draw_comparison(rows: Sequence[dict], class_names: Any, count: int = 4) -> Figure:
    """The first rows of `inspection.image_scores`: ground truth above, detections below."""
    rows = rows[:count]
    images = [row["image"] for row in rows]
    truths = [row["truth"] for row in rows]
    results = [visualize.sure(row["result"]) for row in rows]
    titles = [f"image {row['image_id']}: truth" for row in rows]
    titles += [f"detected, AP@.5 {row['ap']:.2f}" for row in rows]
    return visualize.detections_grid(
        images + images, truths + results, class_names, len(rows), titles
    )


def draw_results(
    images: Sequence[np.ndarray],
    results: Sequence[dict],
    class_names: Any,
    cols: int = 4,
    least: float = 0.5,
) -> Figure:
    """Images with their detections, side by side.

    Args:
        images: list of [H, W, 3] uint8.
        results: results of `detect`, one for each image.
        class_names: see `visualize.class_name`.
        cols: number of images in a row.
        least: minimum score of the detections that are drawn.
    """
    chosen = [visualize.sure(result, least) for result in results]
    return visualize.detections_grid(images, chosen, class_names, cols)


# ---- Weights -------------------------------------------------------------------------------------


def plot_weights(rows: Sequence[dict], kind: str = "kernel", most: int = 40) -> Figure:
    """Histograms of kernels from `inspection.weight_statistics`; suspicious ones are orange."""
    rows = [row for row in rows if row["name"].endswith("/" + kind)][:most]
    columns = 5
    count = -(-len(rows) // columns)
    figure, axes = _empty_grid(count, columns, 12, 1.15 * count)
    for ax, row in zip(itertools.chain(*axes), rows):
        values = row["values"][np.isfinite(row["values"])]
        low, high = _value_range(values, kind)
        color = BLUE
        if row["verdict"]:
            color = ORANGE
        edges = np.linspace(low, high, 41)
        ax.hist(values, edges.tolist(), color=color)
        name = row["name"].removesuffix("/" + kind)
        ax.set_title(f"{name}: {low:.2g} to {high:.2g}", fontsize=7, pad=2)
    return figure


def _value_range(values: np.ndarray, kind: str) -> tuple[float, float]:
    """Limits of the histogram of weights, symmetric for kernels."""
    limit = max(float(np.abs(values).max(initial=0)), 1e-12)
    if kind == "kernel":
        return -limit, limit
    return values.min(initial=limit), values.max(initial=-limit) + 1e-6


def plot_spreads(rows: Sequence[dict]) -> Figure:
    """Standard deviation of each kernel and of an initial one, sqrt(2 / inputs).

    Those of dead kernels are far below it, those of exploding ones above.
    """
    rows = [row for row in rows if row["name"].endswith("/kernel")]
    figure, (ax,) = new_figure((12, 3.4))
    part_colors = {"backbone": BLUE, "FPN": GREEN, "RPN": ORANGE, "heads": PURPLE}
    for part, color in part_colors.items():
        indices = [i for i, row in enumerate(rows) if row["part"] == part]
        spreads = [rows[i]["std"] for i in indices]
        ax.plot(indices, spreads, "o", color=color, markersize=4, label=part)
    inputs = [np.prod(row["shape"][:-1]) for row in rows]
    initial = np.sqrt(2 / np.maximum(inputs, 1))
    exploding = "ten times that: exploding"
    ax.plot(initial, "_", color=GREY, label="a fresh kernel")
    ax.plot(10 * initial, ":", color=RED, linewidth=0.8, label=exploding)
    ax.set(yscale="log", ylabel="standard deviation", xlim=(-1, len(rows)))
    names = [row["name"].removesuffix("/kernel") for row in rows]
    ax.set_xticks(range(len(rows)), names, rotation=90, fontsize=6)
    ax.legend(fontsize=7, ncols=6)
    ax.grid(alpha=0.3)
    return figure


# ---- The paper -----------------------------------------------------------------------------------


def draw_poolings(
    image: np.ndarray, box: Sequence[float], stride: int = 16, size: int = 7
) -> Figure:
    """Bins and sampling points of RoIPool, RoIAlign and crop_and_resize for one box.

    Args:
        image: [H, W, 3].
        box: (y1, x1, y2, x2) in pixels.
        stride: stride of the feature map.
        size: number of bins along each side.
    """
    figure, axes = new_figure((13, 4.5), 1, 3)
    for ax, kind in zip(axes, inspection.POOLINGS):
        show_image(ax, _darkened(image, 0.6), kind)
        _draw_cells(ax, image.shape, stride)
        add_boxes(ax, [box], ORANGE, 2)
        if kind == "RoIPool":
            add_boxes(ax, _rounded_bins(box, stride, size), CYAN, 0.8)
        else:
            _draw_bins(ax, box, size)
            x, y = np.meshgrid(*_sample_positions(kind, box, size))
            ax.plot(x.ravel(), y.ravel(), ".", color=CYAN, markersize=4)
    return figure


def _draw_cells(ax: Axes, shape: Sequence[int], stride: int) -> None:
    """Draws the edges of a map's cells over an image of shape (H, W, ...)."""
    height, width = shape[:2]
    for x in range(0, width + 1, stride):
        ax.axvline(x, color="white", alpha=0.25, linewidth=0.5)
    for y in range(0, height + 1, stride):
        ax.axhline(y, color="white", alpha=0.25, linewidth=0.5)


def _draw_bins(ax: Axes, box: Sequence[float], size: int) -> None:
    """Draws the edges of a box's bins, which are not rounded."""
    y1, x1, y2, x2 = box
    for y in np.linspace(y1, y2, size + 1):
        ax.plot([x1, x2], [y, y], color=ORANGE, linewidth=0.6)
    for x in np.linspace(x1, x2, size + 1):
        ax.plot([x, x], [y1, y2], color=ORANGE, linewidth=0.6)


def _rounded_bins(box: Sequence[float], stride: int, size: int) -> np.ndarray:
    """RoIPool's bins [size * size, (y1, x1, y2, x2)] in pixels: whole cells, with overlaps."""
    corners = np.asarray(box, float).reshape(2, 2) / stride
    first, last = np.floor(corners + 0.5).astype(int)
    extent = last - first + 1
    bins = np.mgrid[:size, :size].reshape(2, -1).T  # [size * size, (row, column)]
    starts = first + bins * extent // size
    ends = first - -(bins + 1) * extent // size
    return np.hstack([starts, ends]) * stride


def _sample_positions(kind: str, box: Sequence[float], size: int) -> tuple[np.ndarray, np.ndarray]:
    """The x and y of the points that RoIAlign or crop_and_resize sample, in pixels."""
    y1, x1, y2, x2 = (float(side) for side in box)
    if kind == "RoIAlign":
        fractions = (np.arange(2 * size) + 0.5) / (2 * size)
        return x1 + fractions * (x2 - x1), y1 + fractions * (y2 - y1)
    x = np.linspace(x1, x2 - 1, size) + 0.5
    y = np.linspace(y1, y2 - 1, size) + 0.5
    return x, y


def plot_pooling_offsets(rows: Sequence[tuple]) -> Figure:
    """Bars of the rows of `inspection.pooling_offsets`."""
    strides = [stride for stride, *_ in rows]
    offsets = np.array([values for _, *values in rows])  # [strides, poolings]
    positions = np.arange(len(rows))
    figure, (ax,) = new_figure((6.4, 3.2))
    colors = (ORANGE, BLUE, GREEN)
    for k, kind in enumerate(inspection.POOLINGS):
        values = offsets[:, k]
        shift = 0.27 * (k - 1)
        bars = ax.bar(positions + shift, values, 0.25, color=colors[k], label=kind)
        ax.bar_label(bars, [f"{value:.2f}" for value in values], fontsize=7)
    ax.set_xticks(positions, [f"stride {stride}" for stride in strides])
    ax.set(ylabel="pixels", ylim=(0, 1.15 * offsets.max()))
    ax.set_title("how far from a bin's middle its value is read, mean along an axis", fontsize=9)
    ax.legend(fontsize=8)
    ax.grid(alpha=0.3, axis="y")
    return figure


def draw_pooling_masks(
    rows: Sequence[tuple], pooled: Mapping[tuple, np.ndarray], mask: np.ndarray
) -> Figure:
    """Draws a mask as pooled by each method at each stride.

    Args:
        rows, pooled: results of `inspection.pooling_masks`.
        mask: [H, W] bool, its argument.
    """
    kinds = inspection.POOLINGS
    columns = len(rows)
    figure, axes = _empty_grid(len(kinds), columns, 2.1 * columns, 2.25 * len(kinds))
    for i, kind in enumerate(kinds):
        for ax, (stride, *overlaps) in zip(axes[i], rows):
            title = f"{kind}, stride {stride}\nIoU {overlaps[i]:.3f}"
            _show_map(ax, pooled[stride, kind], title)
    return figure


def draw_softmax(detection: dict | None, title: str = "") -> Figure:
    """The maps of `inspection.softmax_and_sigmoid`, and the pixels that softmax loses."""
    if detection is None:
        return _nothing()
    maps = inspection.softmax_and_sigmoid(detection)
    figure, axes = new_figure((11, 3.1), 1, 4)
    _show_map(axes[0], maps["sigmoid"], "sigmoid of the class")
    _show_map(axes[1], maps["rivals"], "the strongest other class")
    _show_map(axes[2], maps["softmax"], "softmax over the classes")
    compared = _compared(maps["softmax"] >= 0.5, maps["sigmoid"] >= 0.5)
    show_image(axes[3], compared, "from .5 on: grey both,\nblue sigmoid only")
    if title:
        figure.suptitle(title, fontsize=9)
    return figure


def draw_mask_chain(chain: Sequence[dict], mask: np.ndarray) -> Figure:
    """Draws a mask at each step: the small masks, and their pasted forms beside the original.

    Args:
        chain: result of `inspection.mask_chain`.
        mask: [H, W] bool, its argument.
    """
    figure, (above, below) = _empty_grid(2, len(chain), 2.5 * len(chain), 5.3)
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    top = max(rows[0] - 4, 0)
    left = max(columns[0] - 4, 0)
    bottom = rows[-1] + 5
    right = columns[-1] + 5
    for small_ax, pasted_ax, step in zip(above, below, chain):
        _show_map(small_ax, step["small"], step["name"])
        compared = _compared(step["pasted"], mask)[top:bottom, left:right]
        show_image(pasted_ax, compared, f"IoU {step['iou']:.3f}")
    return figure


# ---- The network as a diagram --------------------------------------------------------------------

# (x, y) of the centre of each stage, and its title.
NETWORK_STAGES = {
    "input_image": (1.0, 0.65, "image"),
    "C2": (3.1, 0.65, "C2"),
    "C3": (3.1, 1.8, "C3"),
    "C4": (3.1, 2.95, "C4"),
    "C5": (3.1, 4.1, "C5"),
    "fpn_p2": (5.2, 0.65, "P2"),
    "fpn_p3": (5.2, 1.8, "P3"),
    "fpn_p4": (5.2, 2.95, "P4"),
    "fpn_p5": (5.2, 4.1, "P5"),
    "fpn_p6": (5.2, 5.25, "P6"),
    "rpn_class": (7.4, 4.45, "RPN scores"),
    "rpn_bbox": (7.4, 3.55, "RPN deltas"),
    "ROI": (7.4, 1.95, "proposals"),
    "roi_align_classifier": (9.6, 5.25, "RoIAlign"),
    "mrcnn_class": (11.8, 5.7, "classes"),
    "mrcnn_bbox": (11.8, 4.8, "boxes"),
    "mrcnn_detection": (11.8, 3.05, "detections"),
    "roi_align_mask": (9.6, 1.15, "RoIAlign"),
    "mrcnn_mask": (11.8, 1.15, "masks"),
}
# Background colours by the prefix of a stage's name.
STAGE_COLORS = {
    "C": "#bee3f8",
    "fpn": "#c6f6d5",
    "rpn": "#feebc8",
    "ROI": "#feebc8",
    "roi_align": "#e2e8f0",
    "mrcnn": "#e9d8fd",
    "input": "#edf2f7",
}
# Frames around stages that share an arrow.
NETWORK_GROUPS = {
    "pyramid": ["fpn_p2", "fpn_p3", "fpn_p4", "fpn_p5", "fpn_p6"],
    "rpn": ["rpn_class", "rpn_bbox"],
    "heads": ["mrcnn_class", "mrcnn_bbox"],
}
NETWORK_LINKS = [
    ("input_image", "C2"),
    ("C2", "C3"),
    ("C3", "C4"),
    ("C4", "C5"),
    ("C2", "fpn_p2"),
    ("C3", "fpn_p3"),
    ("C4", "fpn_p4"),
    ("C5", "fpn_p5"),
    ("fpn_p3", "fpn_p2"),
    ("fpn_p4", "fpn_p3"),
    ("fpn_p5", "fpn_p4"),
    ("fpn_p5", "fpn_p6"),
    ("pyramid", "rpn"),
    ("rpn", "ROI"),
    ("pyramid", "roi_align_classifier"),
    ("ROI", "roi_align_classifier"),
    ("roi_align_classifier", "heads"),
    ("heads", "mrcnn_detection"),
    ("mrcnn_detection", "roi_align_mask"),
    ("pyramid", "roi_align_mask"),
    ("roi_align_mask", "mrcnn_mask"),
]


class _Diagram:
    """Boxes with texts, frames around them and arrows between them.

    Attributes:
        ax: the axes.
        centers: {name: (x, y)} of the boxes and frames.
        patches: {name: patch} of their outlines, at which arrows end.
    """

    def __init__(self, ax: Axes):
        self.ax = ax
        self.centers: dict[str, tuple[float, float]] = {}
        self.patches: dict[str, Patch | None] = {}

    def add_stage(self, name: str, text: str, x: float, y: float, color: str) -> None:
        """Adds a box with a centred text."""
        style = {"boxstyle": "round,pad=.45", "edgecolor": "#4a5568", "facecolor": color}
        label = self.ax.text(
            x, y, text, ha="center", va="center", fontsize=8, bbox=style, color="black"
        )
        self.centers[name] = (x, y)
        self.patches[name] = label.get_bbox_patch()

    def add_frame(self, name: str, stages: Sequence[str]) -> None:
        """Adds a frame around stages of one column."""
        from matplotlib.patches import FancyBboxPatch

        x, bottom = np.min([self.centers[stage] for stage in stages], axis=0)
        _, top = np.max([self.centers[stage] for stage in stages], axis=0)
        frame = FancyBboxPatch(
            (x - 0.65, bottom - 0.42),
            1.3,
            top - bottom + 0.84,
            zorder=0,
            boxstyle="round,pad=0.02",
            facecolor="#f7fafc",
            edgecolor="#a0aec0",
        )
        self.centers[name] = (x, (bottom + top) / 2)
        self.patches[name] = self.ax.add_patch(frame)

    def add_arrow(self, start: str, end: str, level: bool) -> None:
        """Adds an arrow between two boxes or frames; a level one starts at its target's height."""
        x, y = self.centers[start]
        if level:
            y = self.centers[end][1]
        style = {
            "arrowstyle": "-|>",
            "color": "#4a5568",
            "shrinkA": 1,
            "shrinkB": 1,
            "patchA": self.patches[start],
            "patchB": self.patches[end],
        }
        self.ax.annotate("", self.centers[end], (x, y), zorder=4, arrowprops=style)


def _stage_color(name: str) -> str:
    """The background colour of a stage in the diagram."""
    matching = [color for prefix, color in STAGE_COLORS.items() if name.startswith(prefix)]
    return matching[0]


def draw_network(shapes: Mapping[str, Sequence[int]], parameters: Mapping[str, int]) -> Figure:
    """The network as a diagram with the shapes from `inspection.network_shapes`.

    Args:
        shapes: {name of a stage: its shape}.
        parameters: {part of the network: number of its parameters}.
    """
    figure, (ax,) = new_figure((13, 5.6))
    ax.set(xlim=(0, 13), ylim=(0, 6.2))
    ax.set_axis_off()
    diagram = _Diagram(ax)
    for name, (x, y, title) in NETWORK_STAGES.items():
        if name in shapes:
            shape = " x ".join(str(side) for side in shapes[name])
            diagram.add_stage(name, f"{title}\n{shape}", x, y, _stage_color(name))
    for group, stages in NETWORK_GROUPS.items():
        if diagram.centers.keys() >= set(stages):
            diagram.add_frame(group, stages)
    for start, end in NETWORK_LINKS:
        if start in diagram.centers and end in diagram.centers:
            diagram.add_arrow(start, end, level=start == "pyramid")
    total = sum(parameters.values()) / 1e6
    parts = ", ".join(f"{part} {count / 1e6:.2f}" for part, count in parameters.items())
    ax.set_title(f"{total:.1f} million parameters: {parts}", fontsize=10)
    return figure
