"""Drawing of images with boxes, masks and names. Nothing is shown on screen; figures are returned."""
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
