"""Drawing of images with boxes, masks and names: figures to save, and matterport's functions for notebooks."""
import colorsys

import numpy as np


def random_colors(N, bright=True):
    """N distinct colours as (r, g, b) in 0..1, always the same (matterport: random_colors)."""
    # Steps of the golden ratio keep any number of hues apart.
    return [colorsys.hsv_to_rgb((.02 + .61803399 * i) % 1, .75, 1.0 if bright else .7) for i in range(N)]


def apply_mask(image, mask, color, alpha=0.5):
    """Blends a colour into an image where mask is set; image [H, W, 3] is edited (matterport: apply_mask)."""
    inside = np.asarray(mask).astype(bool)
    image[inside] = (image[inside] * (1 - alpha) + alpha * 255 * np.asarray(color)).astype(image.dtype)
    return image


def draw_detections(ax, image, result, class_names, show_scores=True, alpha=0.45):
    """Draws one image with its detections onto matplotlib axes.

    Args:
        ax: axes.
        image: [H, W, 3] uint8.
        result: dict of `MaskRCNN.detect`, or of ground truth without "scores".
        class_names: names by class id.

    Returns:
        ax.
    """
    boxes, class_ids, masks = result["rois"], result["class_ids"], result.get("masks")
    scores = result.get("scores")
    if len(boxes) != len(class_ids) or masks is not None and masks.shape[2] != len(boxes):
        raise ValueError("a result has as many boxes, class ids and masks. Received: "
                         f"{len(boxes)}, {len(class_ids)}, {None if masks is None else masks.shape}")
    painted = image.astype(np.uint8).copy()
    colors = random_colors(len(boxes))
    if masks is not None:
        for i in range(len(boxes)):
            apply_mask(painted, masks[:, :, i], colors[i], alpha)
    height, width = image.shape[:2]
    ax.imshow(painted, extent=(0, width, height, 0), interpolation="nearest")
    for i, (y1, x1, y2, x2) in enumerate(boxes):
        ax.add_patch(_rectangle(x1, y1, x2 - x1, y2 - y1, colors[i]))
        text = str(class_names[class_ids[i]]) + (f" {scores[i]:.2f}" if show_scores and scores is not None else "")
        # Inside the box at its top, so that no label leaves the image.
        ax.text(min(x1 + .01 * width, .8 * width), max(y1, 0) + .01 * height, text, color="white", fontsize=7, va="top",
                bbox={"facecolor": "black", "alpha": .6, "pad": 1, "linewidth": 0}, clip_on=True)
    if len(boxes) == 0:
        ax.text(.5, .5, "nothing found", transform=ax.transAxes, ha="center", color="white",
                bbox={"facecolor": "black", "alpha": .6, "linewidth": 0})
    ax.set_axis_off()
    return ax


def _rectangle(x, y, width, height, color):
    from matplotlib.patches import Rectangle
    return Rectangle((x, y), width, height, fill=False, linewidth=1.2, edgecolor=color)


def draw_detections_grid(images, results, class_names, path, cols=4, titles=None):
    """Saves a PNG with images and their detections side by side. Returns its path as a string."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    rows = -(-len(images) // cols)
    figure = Figure(figsize=(3 * cols, 3.2 * rows), dpi=110, layout="tight")
    FigureCanvasAgg(figure)
    for i, (image, result) in enumerate(zip(images, results)):
        ax = figure.add_subplot(rows, cols, i + 1)
        draw_detections(ax, image, result, class_names)
        if titles:
            ax.set_title(titles[i], fontsize=8)
    figure.savefig(path)
    return str(path)


# ---- matterport's functions: they draw with pyplot, for notebooks --------------------------------------

def _axes(ax, figsize=(16, 16)):
    """(axes, whether they are new and `plt.show` is due)."""
    import matplotlib.pyplot as plt
    return (ax, False) if ax is not None else (plt.subplots(1, figsize=figsize)[1], True)


def _finish(new):
    import matplotlib.pyplot as plt
    if new:
        plt.show()


def _paint(ax, image, title):
    """Shows an image in pixel coordinates, whose pixel (0, 0) covers 0..1."""
    height, width = image.shape[:2]
    ax.imshow(image.astype(np.uint8), extent=(0, width, height, 0))
    # A margin, so that what lies on the edge or beyond it is seen.
    ax.set(xlim=(-10, width + 10), ylim=(height + 10, -10), title=title)
    ax.set_axis_off()


def _outline(ax, mask, color):
    from skimage.measure import find_contours
    # With a rim of zeros the outline of a mask at the image's edge is closed too.
    for points in find_contours(np.pad(np.asarray(mask, float), 1), .5):
        ax.plot(points[:, 1] - .5, points[:, 0] - .5, color=color, linewidth=1)


def _caption(ax, x, y, text, **kwargs):
    ax.text(x, y, text, color="white", size=11, va="top",
            bbox={"facecolor": "black", "alpha": .5, "pad": 2, "edgecolor": "none"}, **kwargs)


def display_images(images, titles=None, cols=4, cmap=None, norm=None, interpolation=None):
    """Shows images side by side (matterport: display_images).

    Args:
        images: list of [H, W] or [H, W, 3].
        titles: one for each image.
        cols: images in a row.
        cmap, norm, interpolation: of `plt.imshow`.
    """
    import matplotlib.pyplot as plt
    titles = titles if titles is not None else [""] * len(images)
    rows = -(-len(images) // cols)
    figure = plt.figure(figsize=(14, 14 * rows // cols or 4))
    for i, (image, title) in enumerate(zip(images, titles)):
        ax = figure.add_subplot(rows, cols, i + 1)
        ax.set_title(title, fontsize=9)
        ax.set_axis_off()
        image = np.asarray(image)
        ax.imshow(image.astype(np.uint8) if image.ndim == 3 else image, cmap=cmap, norm=norm, interpolation=interpolation)
    plt.show()


def display_instances(image, boxes, masks, class_ids, class_names, scores=None, title="", figsize=(16, 16), ax=None,
                      show_mask=True, show_bbox=True, colors=None, captions=None):
    """Shows an image with its objects (matterport: display_instances).

    Args:
        image: [H, W, 3], 0..255.
        boxes: [N, (y1, x1, y2, x2)] in pixels.
        masks: [H, W, N], or None with show_mask=False.
        class_ids: [N].
        class_names: names by class id.
        scores: [N] or None.
        ax: axes to draw on; without it a figure of `figsize` inches is shown.
        colors: [N] of (r, g, b) in 0..1.
        captions: [N] texts in place of name and score.

    Raises:
        ValueError: boxes, masks and class ids that are not equally many.
    """
    boxes, count = np.asarray(boxes), len(boxes)
    if len(class_ids) != count or (masks is not None and count and np.shape(masks)[-1] != count):
        raise ValueError("boxes [N, 4], masks [H, W, N] and class_ids [N] have one N. Received: shapes "
                         f"{boxes.shape}, {np.shape(masks)}, {np.shape(class_ids)}")
    ax, new = _axes(ax, figsize)
    colors = colors or random_colors(count)
    painted = np.asarray(image).astype(np.uint32).copy()
    if show_mask and masks is not None:
        for i in range(count):
            apply_mask(painted, masks[:, :, i], colors[i])
    _paint(ax, painted, title)
    if count == 0:
        ax.text(.5, .5, "No instances to display", transform=ax.transAxes, ha="center", color="white", size=14,
                bbox={"facecolor": "black", "alpha": .6})
    for i, (y1, x1, y2, x2) in enumerate(boxes):
        if not np.any(boxes[i]):
            continue                        # zero padding
        if show_bbox:
            patch = _rectangle(x1, y1, x2 - x1, y2 - y1, colors[i])
            patch.set(alpha=.7, linestyle="dashed", linewidth=2)
            ax.add_patch(patch)
        if show_mask and masks is not None:
            _outline(ax, masks[:, :, i], colors[i])
        text = captions[i] if captions else class_names[class_ids[i]] + (
            f" {scores[i]:.3f}" if scores is not None and scores[i] is not None else "")
        _caption(ax, x1, y1 + 1, text)
    _finish(new)


def display_differences(image, gt_box, gt_class_id, gt_mask, pred_box, pred_class_id, pred_score, pred_mask,
                        class_names, title="", ax=None, show_mask=True, show_box=True, iou_threshold=0.5,
                        score_threshold=0.5):
    """Shows ground truth (green) and predictions (red) with score and IoU (matterport: display_differences).

    Args: as `utils.compute_matches`, and `display_instances`.
    """
    from mrcnn import utils
    _, pred_match, overlaps = utils.compute_matches(
        gt_box, gt_class_id, gt_mask, pred_box, pred_class_id, pred_score, pred_mask,
        iou_threshold=iou_threshold, score_threshold=score_threshold)
    pred_match = np.asarray(pred_match)
    # Matches and overlaps follow the score's order and have no zero rows.
    gt_box, pred_box = np.asarray(gt_box).reshape(-1, 4), np.asarray(pred_box).reshape(-1, 4)
    real = np.any(gt_box, axis=1)
    gt_box, gt_class_id, gt_mask = gt_box[real], np.asarray(gt_class_id)[real], np.asarray(gt_mask)[..., real]
    order = np.flatnonzero(np.any(pred_box, axis=1))
    order = order[np.argsort(-np.asarray(pred_score)[order], kind="stable")]
    pred_box, pred_class_id = pred_box[order], np.asarray(pred_class_id)[order]
    pred_score, pred_mask = np.asarray(pred_score)[order], np.asarray(pred_mask)[..., order]
    colors = [(0., 1., 0., .8)] * len(gt_box) + [(1., 0., 0., 1.)] * len(pred_box)
    captions = [""] * len(gt_box) + [
        f"{pred_score[i]:.2f} / {overlaps[i].max() if overlaps.shape[1] else 0:.2f}"
        + ("" if pred_match[i] > -1 else " not matched") for i in range(len(pred_box))]
    display_instances(image, np.concatenate([gt_box, pred_box]),
                      np.concatenate([gt_mask, pred_mask], axis=2), np.concatenate([gt_class_id, pred_class_id]),
                      class_names, ax=ax, show_bbox=show_box, show_mask=show_mask, colors=[c[:3] for c in colors],
                      captions=captions, title=title or "Ground truth (green) and predictions (red): score / IoU")


def draw_rois(image, rois, refined_rois, mask, class_ids, class_names, limit=10):
    """Shows a random choice of RoIs, before and after refinement (matterport: draw_rois).

    Args:
        image: [H, W, 3].
        rois, refined_rois: [N, (y1, x1, y2, x2)] in pixels; refined ones of positives only matter.
        mask: [N, H, W], the mask in each refined RoI.
        class_ids: [N]; 0 is background, drawn grey.
        limit: most RoIs to draw.
    """
    ids = np.random.choice(len(rois), min(limit, len(rois)), replace=False)
    ax, _ = _axes(None, (12, 12))
    painted, colors = np.asarray(image).astype(np.uint32).copy(), random_colors(len(ids))
    for color, i in zip(colors, ids):
        if class_ids[i] > 0:
            apply_mask(painted, mask[i], color)
    _paint(ax, painted, f"{len(ids)} of {len(rois)} RoIs, {int(np.sum(np.asarray(class_ids) > 0))} of them positive")
    for color, i in zip(colors, ids):
        positive = class_ids[i] > 0
        y1, x1, y2, x2 = rois[i]
        patch = _rectangle(x1, y1, x2 - x1, y2 - y1, color if positive else "gray")
        patch.set_linestyle("dashed")
        ax.add_patch(patch)
        if positive:
            ry1, rx1, ry2, rx2 = refined_rois[i]
            ax.add_patch(_rectangle(rx1, ry1, rx2 - rx1, ry2 - ry1, color))
            # A line ties the refined box to the one it came from.
            ax.plot([x1, rx1], [y1, ry1], color=color)
            _caption(ax, rx1, ry1 + 1, class_names[class_ids[i]])
    _finish(True)


def draw_box(image, box, color):
    """Draws the edge of box (y1, x1, y2, x2) into an image [H, W, 3], in place (matterport: draw_box)."""
    y1, x1, y2, x2 = (int(side) for side in box)
    image[y1:y1 + 2, x1:x2] = color
    image[y2:y2 + 2, x1:x2] = color
    image[y1:y2, x1:x1 + 2] = color
    image[y1:y2, x2:x2 + 2] = color
    return image


def display_top_masks(image, mask, class_ids, class_names, limit=4):
    """Shows an image and, for the classes with the largest area, their masks (matterport: display_top_masks).

    Args:
        image: [H, W, 3].
        mask: [H, W, N].
        class_ids: [N].
        limit: number of classes.
    """
    class_ids = np.asarray(class_ids)
    mask = np.asarray(mask)
    areas = mask.reshape(-1, mask.shape[-1]).sum(axis=0) if mask.size else np.zeros(len(class_ids))
    unique = np.unique(class_ids)
    top = sorted(unique, key=lambda class_id: -areas[class_ids == class_id].sum())[:limit]
    images, titles = [image], [f"H x W = {image.shape[0]} x {image.shape[1]}"]
    for class_id in top:
        # Each object has a value of its own; where two overlap, the later one is seen.
        picture = np.zeros(mask.shape[:2], int)
        for value, i in enumerate(np.flatnonzero(class_ids == class_id), start=1):
            picture[mask[:, :, i].astype(bool)] = value
        images.append(picture)
        titles.append(class_names[class_id])
    images += [np.zeros(image.shape[:2], int)] * (limit - len(top))
    titles += ["-"] * (limit - len(top))
    display_images(images, titles=titles, cols=limit + 1, cmap="Blues_r")


def plot_precision_recall(AP, precisions, recalls):
    """Plots precision over recall, as `utils.compute_ap` returns them (matterport: plot_precision_recall)."""
    ax, _ = _axes(None, (6, 6))
    ax.plot(recalls, precisions)
    ax.set(title=f"Precision and recall, AP@50 = {AP:.3f}", xlabel="recall", ylabel="precision", xlim=(0, 1.1), ylim=(0, 1.1))
    _finish(True)


def plot_overlaps(gt_class_ids, pred_class_ids, pred_scores, overlaps, class_names, threshold=0.5):
    """Plots the IoU of each prediction with each object (matterport: plot_overlaps).

    Args:
        gt_class_ids: [G].
        pred_class_ids, pred_scores: [P].
        overlaps: [P, G] IoU.
        class_names: names by class id.
        threshold: IoU above which a pair counts as a match.
    """
    gt_class_ids = [class_id for class_id in gt_class_ids if class_id != 0]
    pred_class_ids = [class_id for class_id in pred_class_ids if class_id != 0]
    overlaps = np.asarray(overlaps).reshape(-1, len(gt_class_ids) or 1)[:len(pred_class_ids), :len(gt_class_ids)]
    ax, _ = _axes(None, (max(5, .9 * len(gt_class_ids)), max(4, .5 * len(pred_class_ids))))
    ax.imshow(overlaps, interpolation="nearest", cmap="Blues", vmin=0, vmax=1, aspect="auto")
    ax.set_yticks(range(len(pred_class_ids)), [f"{class_names[i]} ({pred_scores[n]:.2f})" for n, i in enumerate(pred_class_ids)])
    ax.set_xticks(range(len(gt_class_ids)), [class_names[i] for i in gt_class_ids], rotation=90)
    for i, row in enumerate(overlaps):
        for j, value in enumerate(row):
            note = "" if value <= threshold else "\nmatch" if gt_class_ids[j] == pred_class_ids[i] else "\nwrong"
            ax.text(j, i, f"{value:.3f}{note}", ha="center", va="center", fontsize=9, color="white" if value > .5 else "black")
    ax.set(xlabel="ground truth", ylabel="predictions")
    ax.figure.tight_layout()
    _finish(True)


def draw_boxes(image, boxes=None, refined_boxes=None, masks=None, captions=None, visibilities=None, title="", ax=None):
    """Shows boxes, refined boxes, masks and captions (matterport: draw_boxes).

    Args:
        image: [H, W, 3].
        boxes, refined_boxes: [N, (y1, x1, y2, x2)] in pixels; drawn dashed and solid.
        masks: [N, H, W].
        captions: [N] texts.
        visibilities: [N] of 0 (grey, faint), 1 (dotted) and 2 (bright; the default).
    """
    first = boxes if boxes is not None else refined_boxes
    if first is None:
        raise ValueError("draw_boxes needs boxes or refined_boxes. Received: neither")
    ax, new = _axes(ax, (12, 12))
    count, painted = len(first), np.asarray(image).astype(np.uint32).copy()
    colors = random_colors(count)
    if masks is not None:
        for i in range(count):
            apply_mask(painted, masks[i], colors[i])
    _paint(ax, painted, title)
    for i in range(count):
        visibility = 2 if visibilities is None else visibilities[i]
        color, style, alpha = {0: ("gray", "dotted", .5), 1: (colors[i], "dotted", 1), 2: (colors[i], "solid", 1)}[visibility]
        corner = None
        if boxes is not None and np.any(boxes[i]):
            y1, x1, y2, x2 = boxes[i]
            patch = _rectangle(x1, y1, x2 - x1, y2 - y1, color)
            patch.set(alpha=alpha, linestyle="dashed" if refined_boxes is not None and visibility == 2 else style, linewidth=2)
            ax.add_patch(patch)
            corner = (x1, y1)
        if refined_boxes is not None and visibility > 0:
            ry1, rx1, ry2, rx2 = np.asarray(refined_boxes[i]).astype(int)
            patch = _rectangle(rx1, ry1, rx2 - rx1, ry2 - ry1, color)
            patch.set_linewidth(2)
            ax.add_patch(patch)
            if corner:
                ax.plot([corner[0], rx1], [corner[1], ry1], color=color)
            corner = (rx1, ry1)
        if captions is not None and corner:
            _caption(ax, *corner, captions[i])
        if masks is not None:
            _outline(ax, masks[i], color)
    _finish(new)


def display_table(table):
    """Shows rows of cells as a table: HTML in a notebook, text elsewhere (matterport: display_table)."""
    import html
    try:
        from IPython.display import HTML, display
    except ImportError:
        for row in table:
            print("  ".join(f"{cell!s:>12}" for cell in row))
        return
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in table)
    display(HTML(f"<table>{rows}</table>"))


def display_weight_stats(model):
    """Shows shape, smallest, largest value and standard deviation of each weight (matterport: display_weight_stats).

    Args:
        model: a `MaskRCNN`.
    """
    table = [["WEIGHT NAME", "SHAPE", "MIN", "MAX", "STD"]]
    for layer in model.get_trainable_layers():
        for variable in layer.weights:
            values = np.asarray(variable)
            # Constant weights (other than biases and batch norm's) tell of a layer that was never set.
            dead = values.min() == values.max() and variable.name not in ("bias", "beta", "gamma", "moving_mean", "moving_variance")
            table.append([f"{layer.name}/{variable.name}" + (" *** dead?" if dead else ""), str(values.shape),
                          f"{values.min():+10.4f}", f"{values.max():+10.4f}", f"{values.std():+10.4f}"])
    display_table(table)
