"""Pictures of datasets, of the network's stages and of its weights, for the notebooks.

Each function returns a matplotlib figure that no display and no global state knows of. The numbers
come from `mrcnn.inspection` and `mrcnn.trace`; images with objects are drawn by `mrcnn.visualize`.
"""

import numpy as np

from mrcnn import data, inspection, utils, visualize
from mrcnn.visualize import add_boxes, add_labels, new_figure, show_image

BLUE, ORANGE, GREEN, GREY = "#2b6cb0", "#dd6b20", "#2f855a", "#718096"


def _level_colors(levels):
    levels = np.unique(levels)
    return {int(level): color for level, color in zip(levels, visualize.random_colors(len(levels)))}


def _limits(image):
    return (0, 0, *np.shape(image)[:2])


# ---- Training ------------------------------------------------------------------------------------


def plot_history(history):
    """The losses over the epochs: `history` is a Keras History or its dict {name: [values]}."""
    values = getattr(history, "history", history)
    names = [name for name in values if name.endswith("loss") and not name.startswith("val_")]
    figure, axes = new_figure((3.0 * len(names), 2.6), 1, len(names))
    for ax, name in zip(axes, names):
        epochs = np.arange(1, len(values[name]) + 1)
        ax.plot(epochs, values[name], marker="o", color=BLUE, label="training")
        if "val_" + name in values:
            ax.plot(epochs, values["val_" + name], marker="o", color=ORANGE, label="validation")
            ax.legend(fontsize=7)
        ax.set(xlabel="epoch", ylim=(0, None))
        ax.set_xticks(epochs if len(epochs) < 8 else epochs[:: len(epochs) // 6])
        ax.set_title(name, fontsize=9)
        ax.grid(alpha=0.3)
    return figure


# ---- Datasets ------------------------------------------------------------------------------------


def draw_examples(dataset, image_ids, cols=4):
    """Images of a dataset with their masks, boxes and classes; crowds are named so."""
    images, truths, titles = [], [], []
    names = list(dataset.class_names)
    for image_id in image_ids:
        masks, ids = dataset.load_mask(image_id)
        images.append(dataset.load_image(image_id))
        truths.append(
            {"rois": utils.extract_bboxes(masks), "class_ids": np.abs(ids), "masks": masks}
        )
        crowds = int((ids < 0).sum())
        titles.append(
            f"image {image_id}: {len(ids)} objects" + (f", {crowds} crowds" if crowds else "")
        )
    return visualize.detections_grid(images, truths, names, cols, titles)


def draw_mini_masks(example, config, count=4):
    """Objects of an `rpn_example`: cut out, as mini-masks, and put back, with the IoU that is
    left."""
    count = min(count, len(example["boxes"]))
    figure, axes = new_figure((2.0 * max(count, 1), 6.2), 3, max(count, 1))
    for ax in axes:
        ax.set_axis_off()
    for i in range(count):
        chain = inspection.mask_chain(example["masks"][..., i], config)
        y1, x1, y2, x2 = example["boxes"][i]
        show_image(axes[i], example["image"][y1:y2, x1:x2], f"object, {y2 - y1} x {x2 - x1} px")
        show_image(
            axes[count + i], chain[1]["small"], chain[1]["name"], cmap="magma", vmin=0, vmax=1
        )
        back = chain[1]["pasted"][y1:y2, x1:x2].astype(float) + 2 * chain[0]["pasted"][y1:y2, x1:x2]
        show_image(axes[2 * count + i], _difference(back), f"put back, IoU {chain[1]['iou']:.3f}")
    return figure


def _difference(code):
    """[h, w] of 0 nothing, 1 pasted only, 2 object only, 3 both, as an image: orange, blue and grey
    on black."""
    return np.array([(20, 20, 20), (221, 107, 32), (43, 108, 176), (205, 205, 205)], np.uint8)[
        code.astype(int)
    ]


def draw_resizing(image, config):
    """An image before and after it is brought to the network's size."""
    resized, window, scale, padding, crop = utils.resize_image(
        image,
        min_dim=config.IMAGE_MIN_DIM,
        max_dim=config.IMAGE_MAX_DIM,
        min_scale=config.IMAGE_MIN_SCALE,
        mode=config.IMAGE_RESIZE_MODE,
    )
    figure, axes = new_figure((8, 4), 1, 2)
    show_image(axes[0], image, f"as read: {image.shape[0]} x {image.shape[1]}")
    show_image(
        axes[1],
        resized,
        f"{config.IMAGE_RESIZE_MODE}: x {scale:.3g}, {resized.shape[0]} x {resized.shape[1]}",
    )
    add_boxes(axes[1], [window], ORANGE)
    return figure


def plot_classes(survey, most=25):
    """Objects and images of each class, the most frequent ones."""
    rows = survey.classes()[:most][::-1]
    figure, (ax,) = new_figure((6.5, 0.8 + 0.24 * len(rows)))
    places = np.arange(len(rows))
    ax.barh(places + 0.2, [row[1] for row in rows], 0.4, color=BLUE, label="objects")
    ax.barh(places - 0.2, [row[2] for row in rows], 0.4, color=ORANGE, label="images with one")
    ax.set_yticks(places, [row[0] for row in rows], fontsize=8)
    ax.set_title(
        f"{len(survey.boxes)} objects of {len(survey.class_names) - 1} classes"
        + (f", the {most} most frequent" if len(survey.class_names) - 1 > most else ""),
        fontsize=9,
    )
    ax.legend(fontsize=8)
    ax.grid(alpha=0.3, axis="x")
    return figure


def plot_sizes(survey, config):
    """Sizes of the objects against the anchors' scales, and the recall that anchors allow, by
    level."""
    rows = inspection.recall_by_level(survey.boxes, config, survey.molded)
    figure, axes = new_figure((11, 3.4), 1, 2)
    size = np.maximum(survey.boxes[:, 2:] - survey.boxes[:, :2], 1)
    side = np.sqrt(size.prod(axis=1))
    largest = max(side.max(initial=8), np.max(config.RPN_ANCHOR_SCALES))
    edges = np.geomspace(min(4, side.min(initial=4)), largest * 1.1, 30)
    axes[0].hist(side, edges, color=BLUE)
    for (level, scale, *_), y in zip(rows, np.linspace(0.95, 0.75, len(rows))):
        for each in np.ravel(scale) if scale != "" else ():
            axes[0].axvline(each, color=ORANGE, linewidth=1.2)
            axes[0].text(
                each,
                y,
                f" {level}: {each}",
                transform=axes[0].get_xaxis_transform(),
                fontsize=8,
                color=ORANGE,
            )
    axes[0].set(xscale="log", xlabel="side of the box after resizing, px (log)", ylabel="objects")
    axes[0].set_title("objects (blue) and anchor scales (orange)", fontsize=9)
    axes[0].set_xticks(
        [4, 8, 16, 32, 64, 128, 256, 512], ["4", "8", "16", "32", "64", "128", "256", "512"]
    )
    axes[0].set_xlim(edges[0], edges[-1] * 1.5)  # room for the last label
    axes[0].minorticks_off()
    names = [f"{level}\n{count} obj." for level, _, count, *_ in rows]
    places = np.arange(len(rows))
    for k, (share, color, name) in enumerate(
        ((4, BLUE, "share with an anchor of IoU .5"), (5, ORANGE, "share with an anchor of IoU .7"))
    ):
        axes[1].bar(
            places + 0.4 * k - 0.2,
            np.nan_to_num([row[share] for row in rows]),
            0.4,
            color=color,
            label=name,
        )
    axes[1].plot(
        places,
        [row[3] for row in rows],
        "k_",
        markersize=18,
        markeredgewidth=2,
        label="mean best IoU",
    )
    axes[1].set_xticks(places, names, fontsize=8)
    axes[1].set_ylim(0, 1.32)
    axes[1].set_yticks(np.arange(0, 1.1, 0.2))
    axes[1].legend(fontsize=6.5, ncols=3, loc="upper center")
    axes[1].set_title("what anchors can find, by the level that fits best", fontsize=9)
    axes[1].grid(alpha=0.3, axis="y")
    return figure


def draw_anchors(image, config):
    """The anchors of one cell of each level, at the image's middle."""
    shapes = data.compute_backbone_shapes(config, image.shape)
    figure, axes = new_figure((2.5 * len(shapes), 2.9), 1, len(shapes))
    ground = image // 2 + 80
    for ax, scale, stride, cells in zip(
        axes, config.RPN_ANCHOR_SCALES, np.atleast_1d(config.BACKBONE_STRIDES), shapes
    ):
        middle = np.tile(np.asarray(cells) // 2 * stride, 2)
        boxes = utils.generate_anchors(scale, config.RPN_ANCHOR_RATIOS, (1, 1), stride, 1) + middle
        show_image(
            ax,
            ground,
            f"stride {stride}: {cells[0]} x {cells[1]} cells,\nscale {scale}",
            0.1 * image.shape[0],
        )
        add_boxes(ax, boxes, visualize.random_colors(len(boxes)))
        ys, xs = np.meshgrid(
            np.arange(cells[0]) * stride, np.arange(cells[1]) * stride, indexing="ij"
        )
        ax.plot(xs.ravel(), ys.ravel(), ",", color="white")
    return figure


def draw_rpn_targets(example):
    """Which anchors learn what: positive, negative and neutral ones, and where the positives shall
    move."""
    figure, axes = new_figure((12, 4.2), 1, 3)
    image, anchors, match = example["image"], example["anchors"], example["match"]
    dim = (image * 0.6).astype(np.uint8)
    show_image(axes[0], image, f"{len(example['boxes'])} objects", margin=4)
    add_boxes(axes[0], example["boxes"], "white")
    positive = np.flatnonzero(match == 1)
    show_image(
        axes[1], dim, f"{len(positive)} positive anchors (dashed), moved by their targets", margin=4
    )
    add_boxes(axes[1], anchors[positive], ORANGE, 1, "dashed")
    add_boxes(axes[1], example["targets"], "white", 1.2)
    negative = np.flatnonzero(match == -1)
    neutral = example["counts"]["neutral"]
    show_image(
        axes[2],
        dim,
        f"{len(negative)} negative anchors, drawn at random;\n{neutral} without a loss",
        margin=4,
    )
    add_boxes(axes[2], anchors[negative], (0.6, 0.75, 1.0), 0.5)
    return figure


def draw_roi_targets(example, rois, class_names, count=6):
    """The RoIs that train the heads: positives with their class, negatives, and mask targets of
    some positives."""
    import matplotlib.gridspec as gridspec

    positive = np.flatnonzero(rois["class_ids"] > 0)
    figure, first = new_figure((12, 4.4))
    first[0].remove()
    grid = gridspec.GridSpec(2, 4 + -(-count // 2), figure=figure)
    image, counts = (example["image"] * 0.6).astype(np.uint8), rois["counts"]
    left, right = figure.add_subplot(grid[:, :2]), figure.add_subplot(grid[:, 2:4])
    show_image(left, image, f"{counts['positive']} positive RoIs (dashed) and their targets")
    colors = visualize.random_colors(len(class_names))
    own = [colors[i] for i in rois["class_ids"][positive]]
    if len(positive):
        add_boxes(left, rois["rois"][positive], own, 1, "dashed")
        add_boxes(left, rois["refined"][positive], "white", 1.2)
    share = f": 1 to {counts['negative'] / counts['positive']:.1f}" if counts["positive"] else ""
    show_image(right, image, f"{counts['negative']} negative RoIs" + share)
    add_boxes(right, rois["rois"][rois["class_ids"] == 0], (0.6, 0.75, 1.0), 0.6)
    for k, i in enumerate(positive[:count]):
        ax = figure.add_subplot(grid[k % 2, 4 + k // 2])
        show_image(
            ax,
            rois["masks"][i],
            f"target: {class_names[rois['class_ids'][i]]}",
            cmap="magma",
            vmin=0,
            vmax=1,
        )
    return figure


# ---- Stages of one image -------------------------------------------------------------------------


def draw_proposals(stages, count=25):
    """Anchors with the highest scores, moved, clipped, and what non-maximum suppression left."""
    figure, axes = new_figure((13, 3.7), 1, 4)
    top, levels = stages.top[:count], stages.anchor_levels
    colors = _level_colors(levels)
    own = [colors[level] for level in levels[top]]
    dim = (stages.image * 0.7).astype(np.uint8)
    margin = 0.06 * stages.image.shape[0]
    for ax, boxes, title in (
        (axes[0], stages.anchors[top], f"the {len(top)} best of {len(levels)} anchors"),
        (axes[1], stages.refined[:count], "moved by their deltas"),
        (axes[2], stages.clipped[:count], "cut at the image's edge"),
    ):
        show_image(ax, dim, title, margin)
        add_boxes(ax, boxes, own, 1)
    show_image(
        axes[3],
        dim,
        f"the best {min(count, len(stages.proposals))} of {len(stages.proposals)} proposals,\n"
        "after non-maximum suppression",
        margin,
    )
    kept = stages.nms_kept[:count]
    add_boxes(
        axes[3], stages.clipped[kept], [colors[level] for level in levels[stages.top[kept]]], 1
    )
    handles = [
        axes[0].plot([], [], color=color, label=f"P{level}")[0] for level, color in colors.items()
    ]
    axes[0].legend(handles=handles, fontsize=7, loc="lower left", framealpha=0.8)
    return figure


def draw_scores(stages, config):
    """The RPN's score at each cell of each level: the best of the cell's anchors."""
    shapes = data.compute_backbone_shapes(config, stages.image.shape)
    figure, axes = new_figure((2.5 * (len(shapes) + 1), 2.8), 1, len(shapes) + 1)
    show_image(axes[0], stages.image, "image")
    for ax, level, cells in zip(axes[1:], np.unique(stages.anchor_levels), shapes):
        scores = stages.rpn_scores[stages.anchor_levels == level]
        cells = -(-np.asarray(cells) // config.RPN_ANCHOR_STRIDE)
        show_image(
            ax,
            scores.reshape(*cells, -1).max(axis=-1),
            f"P{level}: {cells[0]} x {cells[1]}, at most {scores.max():.2f}",
            cmap="magma",
            vmin=0,
            vmax=1,
        )
    return figure


def draw_levels(stages, count=30):
    """The proposals by the level of the pyramid that the heads read them from; of each level the
    best ones."""
    levels = np.unique(stages.roi_levels)
    figure, axes = new_figure((3.2 * len(levels), 3.5), 1, len(levels))
    for ax, level in zip(axes, levels):
        here = np.flatnonzero(stages.roi_levels == level)
        best = f", the best {count}" if len(here) > count else ""
        show_image(ax, (stages.image * 0.7).astype(np.uint8), f"P{level}: {len(here)} RoIs{best}")
        add_boxes(ax, stages.proposals[here[:count]], visualize.random_colors(1), 0.8)
    return figure


def draw_heads(stages, class_names, count=20):
    """From proposals to detections: the class head's word, the box head's move, and what is
    kept."""
    figure, axes = new_figure((12, 4.3), 1, 3)
    objects = np.flatnonzero(stages.class_ids > 0)
    objects = objects[np.argsort(-stages.scores[objects], kind="stable")][:count]
    colors = visualize.random_colors(len(class_names))
    own = [colors[i] for i in stages.class_ids[objects]]
    dim = (stages.image * 0.7).astype(np.uint8)
    show_image(axes[0], dim, f"the {len(objects)} surest proposals, by class")
    show_image(axes[1], dim, "moved by the deltas of their class")
    if len(objects):
        add_boxes(axes[0], stages.proposals[objects], own, 1, "dashed")
        add_boxes(axes[1], stages.proposals[objects], own, 0.8, "dashed")
        add_boxes(axes[1], stages.refined_rois[objects], own, 1.2)
        for roi, box, color in zip(stages.proposals[objects], stages.refined_rois[objects], own):
            axes[1].plot([roi[1], box[1]], [roi[0], box[0]], color=color, linewidth=0.8)
    show_image(axes[2], dim, f"{len(stages.boxes)} detections after suppression by class")
    if len(stages.boxes):
        add_boxes(axes[2], stages.boxes, [colors[i] for i in stages.detected_ids])
    add_labels(
        axes[2],
        stages.boxes,
        [
            f"{class_names[i]} {score:.2f}"
            for i, score in zip(stages.detected_ids, stages.detection_scores)
        ],
        _limits(stages.image),
        7,
    )
    return figure


def _nothing():
    figure, (ax,) = new_figure((4, 1))
    ax.set_axis_off()
    ax.text(0.5, 0.5, "nothing was detected: train longer", ha="center", va="center")
    return figure


def draw_masks(stages, class_names, count=6):
    """Detections with their masks as the head gives them, and pasted into the image."""
    count = min(count, len(stages.boxes))
    if not count:
        return _nothing()
    figure, axes = new_figure((2.2 * count, 6.6), 3, count)
    for ax in axes:
        ax.set_axis_off()
    for i in range(count):
        y1, x1, y2, x2 = np.clip(
            np.round(stages.boxes[i]), 0, np.tile(stages.image.shape[:2], 2)
        ).astype(int)
        title = f"{class_names[stages.detected_ids[i]]} {stages.detection_scores[i]:.2f}"
        show_image(axes[i], stages.image[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)], title)
        if stages.masks is None:
            continue
        height, width = stages.masks[i].shape
        show_image(
            axes[count + i],
            stages.masks[i],
            f"mask head, {height} x {width}",
            cmap="magma",
            vmin=0,
            vmax=1,
        )
        color = visualize.random_colors(len(class_names))[stages.detected_ids[i]]
        painted, boxes = visualize.paint_masks(stages.image, stages.pasted[..., i : i + 1], [color])
        show_image(axes[2 * count + i], painted, f"pasted, {y2 - y1} x {x2 - x1} px")
        visualize.outline_masks(axes[2 * count + i], stages.pasted[..., i : i + 1], boxes, [color])
    return figure


def draw_activations(activations, count=8):
    """The strongest channels of each activation [h, w, C] of a dict, every row scaled to its
    largest value."""
    figure, axes = new_figure((1.5 * count, 1.75 * len(activations)), len(activations), count)
    for ax in axes:
        ax.set_axis_off()
    for row, (name, values) in enumerate(activations.items()):
        order = np.argsort(-values.std(axis=(0, 1)))[:count]
        for k, channel in enumerate(order):
            show_image(
                axes[row * count + k],
                values[..., channel],
                f"{name}, {channel}" if k == 0 else str(channel),
                cmap="viridis",
            )
    return figure


def draw_comparison(rows, class_names, count=4):
    """The first rows of `inspection.image_scores`: ground truth above, detections below."""
    rows = rows[:count]
    images = [row["image"] for row in rows] * 2
    results = [row["truth"] for row in rows] + [_sure(row["result"]) for row in rows]
    titles = [f"image {row['image_id']}: truth" for row in rows] + [
        f"detected, AP@.5 {row['ap']:.2f}" for row in rows
    ]
    return visualize.detections_grid(images, results, class_names, len(rows), titles)


def _sure(result, least=0.5):
    """A result without the detections below a score."""
    sure = result["scores"] >= least
    return {
        "rois": result["rois"][sure],
        "class_ids": result["class_ids"][sure],
        "scores": result["scores"][sure],
        "masks": None if result["masks"] is None else result["masks"][..., sure],
    }


def draw_results(images, results, class_names, cols=4, least=0.5):
    """Images with the detections of at least a score."""
    return visualize.detections_grid(
        images, [_sure(result, least) for result in results], class_names, cols
    )


# ---- Weights -------------------------------------------------------------------------------------


def plot_weights(rows, kind="kernel", most=40):
    """Histograms of the kernels of `inspection.weight_statistics`, one line a layer; suspicious
    ones are orange."""
    rows = [row for row in rows if row["name"].endswith("/" + kind)][:most]
    columns = 5
    count = -(-len(rows) // columns)
    figure, axes = new_figure((12, 1.15 * count), count, columns)
    for ax in axes:
        ax.set_axis_off()
    for ax, row in zip(axes, rows):
        values = row["values"][np.isfinite(row["values"])]
        limit = max(float(np.abs(values).max(initial=0)), 1e-12)
        low, high = (
            (-limit, limit)
            if kind == "kernel"
            else (values.min(initial=limit), values.max(initial=-limit) + 1e-6)
        )
        ax.hist(values, np.linspace(low, high, 41), color=ORANGE if row["verdict"] else BLUE)
        ax.set_title(
            f"{row['name'].removesuffix('/' + kind)}: {low:.2g} to {high:.2g}", fontsize=7, pad=2
        )
    return figure


def plot_spreads(rows):
    """Spread of each kernel beside that of a fresh one, sqrt(2 / inputs): dead ones lie far below,
    exploding above."""
    rows = [row for row in rows if row["name"].endswith("/kernel")]
    figure, (ax,) = new_figure((12, 3.4))
    fresh = [np.sqrt(2 / max(np.prod(row["shape"][:-1]), 1)) for row in rows]
    parts = [row["part"] for row in rows]
    for part, color in zip(("backbone", "FPN", "RPN", "heads"), (BLUE, GREEN, ORANGE, "#805ad5")):
        places = [i for i, each in enumerate(parts) if each == part]
        ax.plot(
            places, [rows[i]["std"] for i in places], "o", color=color, markersize=4, label=part
        )
    ax.plot(fresh, "_", color=GREY, label="a fresh kernel")
    ax.plot(
        np.multiply(fresh, 10),
        ":",
        color="#e53e3e",
        linewidth=0.8,
        label="ten times that: exploding",
    )
    ax.set(yscale="log", ylabel="standard deviation", xlim=(-1, len(rows)))
    ax.set_xticks(
        range(len(rows)),
        [row["name"].removesuffix("/kernel") for row in rows],
        rotation=90,
        fontsize=6,
    )
    ax.legend(fontsize=7, ncols=6)
    ax.grid(alpha=0.3)
    return figure


# ---- The paper -----------------------------------------------------------------------------------


def draw_poolings(image, box, stride=16, size=7):
    """Where RoIPool, RoIAlign and crop_and_resize read for one box (y1, x1, y2, x2), on a map of
    that stride."""
    figure, axes = new_figure((13, 4.5), 1, 3)
    height, width = image.shape[:2]
    y1, x1, y2, x2 = (float(side) for side in box)
    rows, columns = (np.linspace(low, high, size + 1) for low, high in ((y1, y2), (x1, x2)))
    for ax, kind in zip(axes, inspection.POOLINGS):
        show_image(ax, (image * 0.6).astype(np.uint8), kind)
        for at in np.arange(0, width + 1, stride):
            ax.axvline(at, color="white", alpha=0.25, linewidth=0.5)
        for at in np.arange(0, height + 1, stride):
            ax.axhline(at, color="white", alpha=0.25, linewidth=0.5)
        add_boxes(ax, [box], ORANGE, 2)
        if kind == "RoIPool":
            low = np.floor(np.array([y1, x1]) / stride + 0.5).astype(int)
            extent = np.floor(np.array([y2, x2]) / stride + 0.5).astype(int) - low + 1
            places = np.mgrid[:size, :size].reshape(2, -1).T
            bins = (
                np.hstack([low + places * extent // size, low - -(places + 1) * extent // size])
                * stride
            )
            add_boxes(ax, bins, (0.5, 0.9, 1.0), 0.8)
            continue
        if kind == "RoIAlign":
            y, x = (
                low + (np.arange(2 * size) + 0.5) * (high - low) / (2 * size)
                for low, high in ((y1, y2), (x1, x2))
            )
        else:
            y, x = np.linspace(y1, y2 - 1, size) + 0.5, np.linspace(x1, x2 - 1, size) + 0.5
        for at in rows:
            ax.plot([x1, x2], [at, at], color=ORANGE, linewidth=0.6)
        for at in columns:
            ax.plot([at, at], [y1, y2], color=ORANGE, linewidth=0.6)
        ax.plot(
            *(grid.ravel() for grid in np.meshgrid(x, y)), ".", color=(0.5, 0.9, 1.0), markersize=4
        )
    return figure


def plot_pooling_offsets(rows):
    """The rows of `inspection.pooling_offsets`."""
    figure, (ax,) = new_figure((6.4, 3.2))
    places = np.arange(len(rows))
    for k, (kind, color) in enumerate(zip(inspection.POOLINGS, (ORANGE, BLUE, GREEN))):
        values = [row[1 + k] for row in rows]
        bars = ax.bar(places + 0.27 * (k - 1), values, 0.25, color=color, label=kind)
        ax.bar_label(bars, [f"{value:.2f}" for value in values], fontsize=7)
    ax.set_xticks(places, [f"stride {row[0]}" for row in rows])
    ax.set(ylabel="pixels", ylim=(0, 1.15 * max(max(row[1:]) for row in rows)))
    ax.set_title("how far from a bin's middle its value is read, mean along an axis", fontsize=9)
    ax.legend(fontsize=8)
    ax.grid(alpha=0.3, axis="y")
    return figure


def draw_pooling_masks(rows, pooled, mask):
    """The rows of `inspection.pooling_masks`: what each way makes of one object's mask at each
    stride."""
    figure, axes = new_figure(
        (2.1 * len(rows), 2.25 * len(inspection.POOLINGS)), len(inspection.POOLINGS), len(rows)
    )
    for i, kind in enumerate(inspection.POOLINGS):
        for j, row in enumerate(rows):
            show_image(
                axes[i * len(rows) + j],
                pooled[row[0], kind],
                f"{kind}, stride {row[0]}\nIoU {row[1 + i]:.3f}",
                cmap="magma",
                vmin=0,
                vmax=1,
            )
    return figure


def draw_softmax(detection, title=""):
    """The maps of `inspection.softmax_and_sigmoid`, and the pixels that competition costs."""
    if detection is None:
        return _nothing()
    maps = inspection.softmax_and_sigmoid(detection)
    figure, axes = new_figure((11, 3.1), 1, 4)
    for ax, (name, text) in zip(
        axes,
        (
            ("sigmoid", "sigmoid of the class"),
            ("rivals", "the strongest other class"),
            ("softmax", "softmax over the classes"),
        ),
    ):
        show_image(ax, maps[name], text, cmap="magma", vmin=0, vmax=1)
    code = (maps["sigmoid"] >= 0.5) * 2 + (maps["softmax"] >= 0.5)
    show_image(axes[3], _difference(np.asarray(code)), "from .5 on: grey both,\nblue sigmoid only")
    if title:
        figure.suptitle(title, fontsize=9)
    return figure


def draw_mask_chain(chain, mask):
    """The steps of `inspection.mask_chain`: the small mask above, pasted and compared with the
    object below."""
    figure, axes = new_figure((2.5 * len(chain), 5.3), 2, len(chain))
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    part = (slice(max(ys[0] - 4, 0), ys[-1] + 5), slice(max(xs[0] - 4, 0), xs[-1] + 5))
    for i, step in enumerate(chain):
        show_image(axes[i], step["small"], step["name"], cmap="magma", vmin=0, vmax=1)
        code = step["pasted"][part].astype(int) + 2 * mask[part]
        show_image(axes[len(chain) + i], _difference(code), f"IoU {step['iou']:.3f}")
    return figure


def draw_network(shapes, parameters):
    """The network with the real shapes of `inspection.network_shapes`: backbone, pyramid,
    proposals, heads."""
    from matplotlib.patches import FancyBboxPatch

    figure, (ax,) = new_figure((13, 5.6))
    ax.set(xlim=(0, 13), ylim=(0, 6.2))
    ax.set_axis_off()
    text = {name: " x ".join(map(str, shape)) for name, shape in shapes.items()}
    places = {"input_image": (0.1, 0.3, "image")}
    for i, level in enumerate(range(2, 7)):
        if f"C{level}" in shapes:
            places[f"C{level}"] = (2.2, 0.3 + 1.15 * i, f"C{level}")
        if f"fpn_p{level}" in shapes:
            places[f"fpn_p{level}"] = (4.3, 0.3 + 1.15 * i, f"P{level}")
    places |= {
        "rpn_class": (6.5, 4.1, "RPN scores"),
        "rpn_bbox": (6.5, 3.2, "RPN deltas"),
        "ROI": (6.5, 1.6, "proposals"),
        "roi_align_classifier": (8.7, 4.9, "RoIAlign"),
        "mrcnn_class": (10.9, 5.35, "classes"),
        "mrcnn_bbox": (10.9, 4.45, "boxes"),
        "mrcnn_detection": (10.9, 2.7, "detections"),
        "roi_align_mask": (8.7, 0.8, "RoIAlign"),
        "mrcnn_mask": (10.9, 0.8, "masks"),
    }
    colors = {
        "C": "#bee3f8",
        "f": "#c6f6d5",
        "r": "#feebc8",
        "R": "#feebc8",
        "m": "#e9d8fd",
        "i": "#edf2f7",
    }
    patches, middles = {}, {}
    for name, (x, y, title) in places.items():
        if name in shapes:
            middles[name] = (x + 0.9, y + 0.35)
            patches[name] = ax.text(
                *middles[name],
                f"{title}\n{text[name]}",
                ha="center",
                va="center",
                fontsize=8,
                bbox={
                    "boxstyle": "round,pad=.45",
                    "edgecolor": "#4a5568",
                    "facecolor": "#e2e8f0" if name.startswith("roi_") else colors[name[0]],
                },
                color="black",
            ).get_bbox_patch()
    # Frames around what is read or written together.
    groups = {
        "pyramid": [f"fpn_p{i}" for i in range(2, 7)],
        "rpn": ["rpn_class", "rpn_bbox"],
        "heads": ["mrcnn_class", "mrcnn_bbox"],
    }
    for group, names in groups.items():
        if all(name in middles for name in names):
            (x, bottom), top = (
                np.min([middles[name] for name in names], axis=0),
                max(middles[name][1] for name in names),
            )
            middles[group] = (x, (bottom + top) / 2)
            patches[group] = ax.add_patch(
                FancyBboxPatch(
                    (x - 0.65, bottom - 0.42),
                    1.3,
                    top - bottom + 0.84,
                    zorder=0,
                    boxstyle="round,pad=0.02",
                    facecolor="#f7fafc",
                    edgecolor="#a0aec0",
                )
            )
    links = [(f"C{i}", f"C{i + 1}") for i in range(2, 5)] + [
        (f"C{i}", f"fpn_p{i}") for i in range(2, 6)
    ]
    links += [(f"fpn_p{i + 1}", f"fpn_p{i}") for i in range(2, 5)] + [
        ("fpn_p5", "fpn_p6"),
        ("input_image", "C2"),
    ]
    links += [
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
    for start, end in links:
        if start in middles and end in middles:
            # From a frame an arrow leaves at the height of its goal.
            origin = (middles[start][0], middles[end][1]) if start == "pyramid" else middles[start]
            ax.annotate(
                "",
                middles[end],
                origin,
                zorder=4,
                arrowprops={
                    "arrowstyle": "-|>",
                    "color": "#4a5568",
                    "shrinkA": 1,
                    "shrinkB": 1,
                    "patchA": patches[start],
                    "patchB": patches[end],
                },
            )
    millions = ", ".join(f"{part} {count / 1e6:.2f}" for part, count in parameters.items())
    ax.set_title(
        f"{sum(parameters.values()) / 1e6:.1f} million parameters: {millions}", fontsize=10
    )
    return figure
