"""Drawing: images with boxes, masks and names, and matterport's functions for notebooks.

Every function returns what it drew on and works without a display. What is drawn is in pixels of
the image, whose pixel (0, 0) covers 0..1; boxes are (y1, x1, y2, x2). Pictures of the network's
stages and of datasets are in `mrcnn.figures`.
"""

import colorsys
import functools

import numpy as np

from mrcnn import utils

# ---- Colours -------------------------------------------------------------------------------------


@functools.cache
def _palette(bright):
    """400 colours, each as far as possible (in CIELAB) from the ones before it."""
    from skimage.color import rgb2lab

    candidates = np.array(
        [
            colorsys.hsv_to_rgb(hue / 40, saturation, value)
            for hue in range(40)
            for saturation in (0.45, 0.7, 1.0)
            for value in (0.6, 0.8, 1.0)
        ]
    )
    lab = rgb2lab(candidates[None])[0]
    order, distance = [0], np.full(len(lab), np.inf)
    # The first is a full red; green, blue and so on follow by themselves.
    order[0] = int(np.abs(candidates - (1.0, 0.1, 0.1)).sum(axis=1).argmin())
    while len(order) < len(lab):
        distance = np.minimum(distance, np.linalg.norm(lab - lab[order[-1]], axis=1))
        order.append(int(distance.argmax()))
    return [tuple(float(part) * (1.0 if bright else 0.7) for part in candidates[i]) for i in order]


def random_colors(N, bright=True):
    """N colours as (r, g, b) in 0..1 that differ as much as N can, always the same (matterport:
    random_colors)."""
    palette = _palette(bool(bright))
    return [palette[i % len(palette)] for i in range(N)]


def apply_mask(image, mask, color, alpha=0.5):
    """Blends a colour into an image where mask is set; image [H, W, 3] is edited (matterport:
    apply_mask)."""
    inside = np.asarray(mask).astype(bool)
    if image.dtype != np.uint8:
        image[inside] = (image[inside] * (1 - alpha) + alpha * 255 * np.asarray(color)).astype(
            image.dtype
        )
        return image
    for channel, part in enumerate(color[:3]):
        # What becomes of each of the 256 values.
        table = (np.arange(256) * (1 - alpha) + alpha * 255 * part).astype(np.uint8)
        np.copyto(image[..., channel], table[image[..., channel]], where=inside)
    return image


# ---- What the drawings are made of ---------------------------------------------------------------

RIM = (0, 0, 0, 0.45)  # around coloured lines, so that they are seen on any ground


def new_figure(size, rows=1, columns=1, dpi=110):
    """A figure that no display and no global state knows of, and its axes in a flat list."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).ravel())


def show_image(ax, image, title="", margin=0, **kwargs):
    """Shows an image or a map in pixel coordinates, without ticks. Returns the axes."""
    from matplotlib.image import PcolorImage

    image = np.asarray(image)
    height, width = image.shape[:2]
    if image.dtype == np.uint8 and image.ndim == 3 and not kwargs:
        # Looks up what each pixel of the screen shows; imshow computes with floats, which takes .15
        # s longer at 1024 x 1024.
        picture = PcolorImage(ax, A=image)
        picture.set_extent((0, width, height, 0))
        ax.add_image(picture)
        ax.set_aspect("equal")
    else:
        ax.imshow(image, extent=(0, width, height, 0), interpolation="nearest", **kwargs)
    # A margin, so that what lies on the edge or beyond it is seen.
    ax.set(xlim=(-margin, width + margin), ylim=(height + margin, -margin))
    ax.set_title(title, fontsize=9)
    ax.set_axis_off()
    return ax


def paint_masks(image, masks, colors, alpha=0.5):
    """A uint8 copy of an image [H, W, 3] with masks [H, W, N] blended in, and the masks' boxes [N,
    4]."""
    painted = np.clip(image, 0, 255).astype(np.uint8)
    boxes = utils.extract_bboxes(masks)
    for i, (y1, x1, y2, x2) in enumerate(boxes):
        apply_mask(painted[y1:y2, x1:x2], masks[y1:y2, x1:x2, i], colors[i], alpha)
    return painted, boxes


def _edged(width):
    """A dark rim, so that a coloured line is seen on any ground."""
    from matplotlib.patheffects import Normal, Stroke

    return [Stroke(linewidth=width + 1.2, foreground=RIM), Normal()]


def outline_masks(ax, masks, boxes, colors, width=1.1):
    """Draws the outlines of masks [H, W, N]; boxes [N, 4] int hold each. Returns the collection of
    lines."""
    from contourpy import contour_generator  # matplotlib's own
    from matplotlib.collections import LineCollection

    lines, shades = [], []
    for i, (y1, x1, y2, x2) in enumerate(boxes):
        # With a rim of zeros the outline of a mask at the image's edge is closed too.
        rimmed = np.zeros((y2 - y1 + 2, x2 - x1 + 2), np.float32)
        rimmed[1:-1, 1:-1] = masks[y1:y2, x1:x2, i]
        for points in contour_generator(z=rimmed).lines(0.5):
            lines.append(points + (x1 - 0.5, y1 - 0.5))
            shades.append(colors[i])
    # All rims lie below all lines, which is one call for each.
    ax.add_collection(LineCollection(lines, colors=RIM, linewidths=width + 1.2), autolim=False)
    return ax.add_collection(LineCollection(lines, colors=shades, linewidths=width), autolim=False)


def add_boxes(ax, boxes, colors, width=1.4, style="solid", alpha=1.0):
    """Draws boxes [N, (y1, x1, y2, x2)], colours one for each or one for all. Returns the
    collection."""
    from matplotlib.collections import PolyCollection

    y1, x1, y2, x2 = np.asarray(boxes, float).reshape(-1, 4).T
    corners = np.stack([x1, y1, x2, y1, x2, y2, x1, y2], axis=1).reshape(-1, 4, 2)
    collection = PolyCollection(
        corners,
        facecolors="none",
        edgecolors=colors,
        linewidths=width,
        linestyles=style,
        alpha=alpha,
        path_effects=_edged(width),
    )
    ax.add_collection(collection, autolim=False)
    return collection


@functools.cache
def _label_class():
    from matplotlib.path import Path
    from matplotlib.text import Text
    from matplotlib.transforms import Affine2D

    class Label(Text):
        """A text at a box that keeps inside the image, and off the labels before it where there is
        room.

        Its place depends on the figure's size, so that it is found when it is drawn.
        """

        def __init__(self, box, limits, placed, first, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.box, self.limits, self.placed, self.first = box, limits, placed, first

        def draw(self, renderer):
            if self.get_visible() and self.get_text():
                self._place(renderer)
            super().draw(renderer)

        def _place(self, renderer):
            if self.first:
                self.placed.clear()
            pad = renderer.points_to_pixels(2) + 1
            extent = self.get_window_extent(renderer)
            width, height = extent.width + 2 * pad, extent.height + 2 * pad
            y1, x1, y2, x2 = self.box
            (left, top), (right, bottom) = self.axes.transData.transform([(x1, y1), (x2, y2)])
            (low_x, high_y), (high_x, low_y) = self.axes.transData.transform(
                [(self.limits[1], self.limits[0]), (self.limits[3], self.limits[2])]
            )
            # Above the box, inside at its top, at its right end, below it: the label's lower left
            # corner.
            places = [
                (left, top),
                (left, top - height),
                (right - width, top),
                (right - width, top - height),
                (left, bottom - height),
                (left, bottom),
            ]
            places = [
                (
                    min(max(x, low_x), max(high_x - width, low_x)),
                    max(min(y, high_y - height), low_y),
                )
                for x, y in places
            ]
            chosen = next(
                (place for place in places if not self._hits(place, width, height)), places[0]
            )
            self.placed.append((*chosen, width, height))
            ground = renderer.new_gc()
            renderer.draw_path(
                ground,
                Path.unit_rectangle(),
                Affine2D().scale(width, height).translate(*chosen),
                (0, 0, 0, 0.66),
            )
            ground.restore()
            self._x, self._y = self.axes.transData.inverted().transform(
                (chosen[0] + pad, chosen[1] + pad)
            )

        def _hits(self, place, width, height):
            return any(
                place[0] < x + w
                and x < place[0] + width
                and place[1] < y + h
                and y < place[1] + height
                for x, y, w, h in self.placed
            )

    return Label


def add_labels(ax, boxes, texts, limits, size=8):
    """Writes a text at each box, white on dark, which any ground lets read. Returns the labels.

    Args:
        boxes: [N, (y1, x1, y2, x2)].
        texts: [N]; empty ones are left out.
        limits: (y1, x1, y2, x2) that labels stay in, as far as they fit.
        size: points.
    """
    labels, placed = [], []
    for box, text in zip(boxes, texts):
        if text:
            label = _label_class()(
                box,
                limits,
                placed,
                not labels,
                float(box[1]),
                float(box[0]),
                str(text),
                color="white",
                fontsize=size,
                va="bottom",
                ha="left",
            )
            ax.add_artist(label)
            label.set_clip_on(False)
            label.set_in_layout(False)
            labels.append(label)
    return labels


def _say(ax, text):
    ax.text(
        0.5,
        0.5,
        text,
        transform=ax.transAxes,
        ha="center",
        va="center",
        color="white",
        size=12,
        bbox={"facecolor": "black", "alpha": 0.62, "edgecolor": "none"},
    )


def _captions(class_ids, class_names, scores, digits):
    scores = [None] * len(class_ids) if scores is None else scores
    return [
        str(class_names[class_id]) + ("" if score is None else f" {score:.{digits}f}")
        for class_id, score in zip(class_ids, scores)
    ]


# ---- Detections ----------------------------------------------------------------------------------


def draw_detections(
    ax, image, result, class_names, show_scores=True, alpha=0.45, size=7, colors=None
):
    """Draws one image with its detections onto matplotlib axes.

    Args:
        ax: axes.
        image: [H, W, 3] uint8.
        result: dict of `MaskRCNN.detect`, or of ground truth without "scores".
        class_names: names by class id.
        size: of the labels, in points.
        colors: one for each object, or None.

    Returns:
        ax.
    """
    boxes, class_ids, masks = result["rois"], result["class_ids"], result.get("masks")
    scores = result.get("scores")
    if len(boxes) != len(class_ids) or masks is not None and masks.shape[2] != len(boxes):
        raise ValueError(
            "a result has as many boxes, class ids and masks. Received: "
            f"{len(boxes)}, {len(class_ids)}, {None if masks is None else masks.shape}"
        )
    colors, painted = colors or random_colors(len(boxes)), image
    if masks is not None:
        painted, mask_boxes = paint_masks(image, masks, colors, alpha)
    show_image(ax, painted)
    if masks is not None:
        outline_masks(ax, masks, mask_boxes, colors)
    add_boxes(ax, boxes, colors)
    captions = _captions(class_ids, class_names, scores if show_scores else None, 2)
    if result.get("keypoints") is not None:
        # The score of a keypoint is a logit, with no natural threshold.
        draw_keypoints(
            ax, result["keypoints"], colors=colors, threshold=-np.inf if scores is not None else 0
        )
    add_labels(ax, boxes, captions, (0, 0, *image.shape[:2]), size)
    if len(boxes) == 0:
        _say(ax, "nothing found")
    return ax


def detections_grid(images, results, class_names, cols=4, titles=None, side=3.0):
    """A figure with images and their detections side by side, each `side` inches wide."""
    rows = -(-len(images) // cols)
    figure, axes = new_figure((side * cols, 1.07 * side * rows), rows, cols)
    for ax in axes:
        ax.set_axis_off()
    for i, (ax, image, result) in enumerate(zip(axes, images, results)):
        draw_detections(ax, image, result, class_names)
        if titles:
            ax.set_title(titles[i], fontsize=8)
    return figure


def draw_detections_grid(images, results, class_names, path, cols=4, titles=None):
    """Saves `detections_grid` as a PNG. Returns its path as a string."""
    detections_grid(images, results, class_names, cols, titles).savefig(path)
    return str(path)


def draw_keypoints(ax, points, skeleton=None, colors=None, threshold=0.0, size=9):
    """Draws keypoints and the limbs between them onto matplotlib axes.

    Args:
        ax: axes that show the image in pixels, as `draw_detections` leaves them.
        points: [N, K, (y, x, score or visibility)].
        skeleton: pairs of keypoints; None for COCO's if there are 17, otherwise no limbs.
        colors: [N] of (r, g, b); None for those of `random_colors`.
        threshold: points whose third value is not above it are left out, with their limbs.
        size: of a point, in points squared.

    Returns:
        ax.
    """
    points = np.asarray(points, float)
    if points.ndim != 3 or points.shape[-1] != 3:
        raise ValueError(f"keypoints are [N, K, (y, x, score)]. Received: {points.shape}")
    if skeleton is None:
        from mrcnn.keypoints import COCO_SKELETON

        skeleton = COCO_SKELETON if points.shape[1] == 17 else ()
    from matplotlib.collections import LineCollection

    colors = colors or random_colors(len(points))
    places, shown = (
        points[..., 1::-1] + 0.5,
        points[..., 2] > threshold,
    )  # the middle of the pixel, as (x, y)
    limbs = [
        (i, a, b) for i in range(len(points)) for a, b in skeleton if shown[i, a] and shown[i, b]
    ]
    lines = [places[i, [a, b]] for i, a, b in limbs]
    # A dark rim keeps a limb visible on a ground of its own colour.
    for width, shades in ((2.6, "black"), (1.4, [colors[i] for i, *_ in limbs])):
        ax.add_collection(
            LineCollection(lines, colors=shades, linewidths=width, capstyle="round"), autolim=False
        )
    dots, owners = places[shown], np.nonzero(shown)[0]
    ax.scatter(
        *dots.T,
        s=size,
        color=[colors[i] for i in owners],
        edgecolors="white",
        linewidths=0.5,
        zorder=3,
    )
    return ax


# ---- matterport's functions: without axes they draw with pyplot, and show where somebody looks
# ------------


def _axes(ax, figsize=(16, 16)):
    """(axes, whether they are new)."""
    import matplotlib.pyplot as plt

    return (
        (ax, False)
        if ax is not None
        else (plt.subplots(1, figsize=figsize, layout="tight")[1], True)
    )


def _finish(new):
    """Shows new figures in a notebook or a window; without a display there is nothing to do."""
    import matplotlib.pyplot as plt

    if new and plt.get_backend().lower() not in (
        "agg",
        "cairo",
        "pdf",
        "pgf",
        "ps",
        "svg",
        "template",
    ):
        plt.show()


def display_images(images, titles=None, cols=4, cmap=None, norm=None, interpolation=None):
    """Shows images side by side (matterport: display_images).

    Args:
        images: list of [H, W] or [H, W, 3].
        titles: one for each image.
        cols: images in a row.
        cmap, norm, interpolation: of `plt.imshow`.

    Returns:
        the figure.
    """
    import matplotlib.pyplot as plt

    titles = titles if titles is not None else [""] * len(images)
    rows = -(-len(images) // cols)
    figure = plt.figure(figsize=(14, max(14 * rows / cols, 2)), layout="tight")
    for i, (image, title) in enumerate(zip(images, titles)):
        ax = figure.add_subplot(rows, cols, i + 1)
        ax.set_title(title, fontsize=9)
        ax.set_axis_off()
        image = np.asarray(image)
        ax.imshow(
            image.astype(np.uint8) if image.ndim == 3 else image,
            cmap=cmap,
            norm=norm,
            interpolation=interpolation,
        )
    _finish(True)
    return figure


def display_instances(
    image,
    boxes,
    masks,
    class_ids,
    class_names,
    scores=None,
    title="",
    figsize=(16, 16),
    ax=None,
    show_mask=True,
    show_bbox=True,
    colors=None,
    captions=None,
):
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

    Returns:
        the axes.

    Raises:
        ValueError: boxes, masks and class ids that are not equally many.
    """
    boxes, count = np.asarray(boxes), len(boxes)
    if len(class_ids) != count or (masks is not None and count and np.shape(masks)[-1] != count):
        raise ValueError(
            "boxes [N, 4], masks [H, W, N] and class_ids [N] have one N. Received: shapes "
            f"{boxes.shape}, {np.shape(masks)}, {np.shape(class_ids)}"
        )
    captions = list(captions) if captions else _captions(class_ids, class_names, scores, 3)
    colors = list(colors) if colors else random_colors(count)
    real = np.flatnonzero(boxes.reshape(-1, 4).any(axis=1))  # the others are padding
    ax, new = _axes(ax, figsize)
    painted, masked = (
        np.clip(image, 0, 255).astype(np.uint8),
        show_mask and masks is not None and count,
    )
    if masked:
        masks = np.asarray(masks)
        masks = masks if len(real) == count else masks[..., real]
        painted, mask_boxes = paint_masks(image, masks, [colors[i] for i in real])
    show_image(ax, painted, title, margin=10)
    if count == 0:
        _say(ax, "No instances to display")
    if masked:
        outline_masks(ax, masks, mask_boxes, [colors[i] for i in real])
    if show_bbox and len(real):
        add_boxes(ax, boxes[real], [colors[i] for i in real], 2, "dashed")
    add_labels(
        ax, boxes[real], [captions[i] for i in real], (0, 0, *np.shape(image)[:2]), 11 if new else 8
    )
    _finish(new)
    return ax


def display_differences(
    image,
    gt_box,
    gt_class_id,
    gt_mask,
    pred_box,
    pred_class_id,
    pred_score,
    pred_mask,
    class_names,
    title="",
    ax=None,
    show_mask=True,
    show_box=True,
    iou_threshold=0.5,
    score_threshold=0.5,
):
    """Shows ground truth (green) and predictions (red) with score and IoU (matterport:
    display_differences).

    Args: as `utils.compute_matches`, and `display_instances`.

    Returns:
        the axes.
    """
    _, pred_match, overlaps = utils.compute_matches(
        gt_box,
        gt_class_id,
        gt_mask,
        pred_box,
        pred_class_id,
        pred_score,
        pred_mask,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
    )
    pred_match = np.asarray(pred_match)
    # Matches and overlaps follow the score's order and have no zero rows.
    gt_box, pred_box = np.asarray(gt_box).reshape(-1, 4), np.asarray(pred_box).reshape(-1, 4)
    real = np.any(gt_box, axis=1)
    gt_box, gt_class_id, gt_mask = (
        gt_box[real],
        np.asarray(gt_class_id)[real],
        np.asarray(gt_mask)[..., real],
    )
    order = np.flatnonzero(np.any(pred_box, axis=1))
    order = order[np.argsort(-np.asarray(pred_score)[order], kind="stable")]
    pred_box, pred_class_id = pred_box[order], np.asarray(pred_class_id)[order]
    pred_score, pred_mask = np.asarray(pred_score)[order], np.asarray(pred_mask)[..., order]
    colors = [(0.0, 0.9, 0.0)] * len(gt_box) + [(1.0, 0.1, 0.1)] * len(pred_box)
    captions = [""] * len(gt_box) + [
        f"{pred_score[i]:.2f} / {overlaps[i].max() if overlaps.shape[1] else 0:.2f}"
        + ("" if pred_match[i] > -1 else " not matched")
        for i in range(len(pred_box))
    ]
    return display_instances(
        image,
        np.concatenate([gt_box, pred_box]),
        np.concatenate([gt_mask, pred_mask], axis=2),
        np.concatenate([gt_class_id, pred_class_id]),
        class_names,
        ax=ax,
        show_bbox=show_box,
        show_mask=show_mask,
        colors=colors,
        captions=captions,
        title=title or "Ground truth (green) and predictions (red): score / IoU",
    )


def draw_rois(image, rois, refined_rois, mask, class_ids, class_names, limit=10):
    """Shows a random choice of RoIs, before and after refinement (matterport: draw_rois).

    Args:
        image: [H, W, 3].
        rois, refined_rois: [N, (y1, x1, y2, x2)] in pixels; refined ones of positives only matter.
        mask: [N, H, W], the mask in each refined RoI.
        class_ids: [N]; 0 is background, drawn grey.
        limit: most RoIs to draw.

    Returns:
        the axes.
    """
    ids = np.random.choice(len(rois), min(limit, len(rois)), replace=False)
    ax, _ = _axes(None, (12, 12))
    painted, colors = np.clip(image, 0, 255).astype(np.uint8), random_colors(len(ids))
    for color, i in zip(colors, ids):
        if class_ids[i] > 0:
            apply_mask(painted, mask[i], color)
    positives = int(np.sum(np.asarray(class_ids) > 0))
    show_image(ax, painted, f"{len(ids)} of {len(rois)} RoIs, {positives} of them positive", 10)
    for color, i in zip(colors, ids):
        add_boxes(ax, rois[i], color if class_ids[i] > 0 else "gray", style="dashed")
        if class_ids[i] > 0:
            add_boxes(ax, refined_rois[i], color)
            # A line ties the refined box to the one it came from.
            ax.plot([rois[i][1], refined_rois[i][1]], [rois[i][0], refined_rois[i][0]], color=color)
    positive = [i for i in ids if class_ids[i] > 0]
    add_labels(
        ax,
        [refined_rois[i] for i in positive],
        [class_names[class_ids[i]] for i in positive],
        (0, 0, *np.shape(image)[:2]),
        11,
    )
    _finish(True)
    return ax


def draw_box(image, box, color):
    """Draws the edge of box (y1, x1, y2, x2) into an image [H, W, 3], in place (matterport:
    draw_box)."""
    y1, x1, y2, x2 = (int(side) for side in box)
    image[y1 : y1 + 2, x1:x2] = color
    image[y2 : y2 + 2, x1:x2] = color
    image[y1:y2, x1 : x1 + 2] = color
    image[y1:y2, x2 : x2 + 2] = color
    return image


def display_top_masks(image, mask, class_ids, class_names, limit=4):
    """Shows an image and, for the classes with the largest area, their masks (matterport:
    display_top_masks).

    Args:
        image: [H, W, 3].
        mask: [H, W, N].
        class_ids: [N].
        limit: number of classes.

    Returns:
        the figure.
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
    return display_images(images, titles=titles, cols=limit + 1, cmap="Blues_r")


def plot_precision_recall(AP, precisions, recalls):
    """Plots precision over recall, as `utils.compute_ap` returns them (matterport). Returns the
    axes."""
    ax, _ = _axes(None, (6, 6))
    ax.plot(recalls, precisions)
    ax.set(
        title=f"Precision and recall, AP@50 = {AP:.3f}",
        xlabel="recall",
        ylabel="precision",
        xlim=(0, 1.1),
        ylim=(0, 1.1),
    )
    ax.grid(alpha=0.3)
    _finish(True)
    return ax


def plot_overlaps(gt_class_ids, pred_class_ids, pred_scores, overlaps, class_names, threshold=0.5):
    """Plots the IoU of each prediction with each object (matterport: plot_overlaps).

    Args:
        gt_class_ids: [G].
        pred_class_ids, pred_scores: [P].
        overlaps: [P, G] IoU.
        class_names: names by class id.
        threshold: IoU above which a pair counts as a match.

    Returns:
        the axes.
    """
    gt_class_ids = [class_id for class_id in gt_class_ids if class_id != 0]
    pred_class_ids = [class_id for class_id in pred_class_ids if class_id != 0]
    overlaps = np.asarray(overlaps).reshape(-1, len(gt_class_ids) or 1)[
        : len(pred_class_ids), : len(gt_class_ids)
    ]
    ax, _ = _axes(None, (max(5, 0.9 * len(gt_class_ids)), max(4, 0.5 * len(pred_class_ids))))
    if overlaps.size:
        ax.imshow(overlaps, interpolation="nearest", cmap="Blues", vmin=0, vmax=1, aspect="auto")
    else:
        _say(ax, "No predictions" if not pred_class_ids else "No objects")
    ax.set_yticks(
        range(len(pred_class_ids)),
        [f"{class_names[i]} ({pred_scores[n]:.2f})" for n, i in enumerate(pred_class_ids)],
    )
    ax.set_xticks(range(len(gt_class_ids)), [class_names[i] for i in gt_class_ids], rotation=90)
    for i, row in enumerate(overlaps):
        for j, value in enumerate(row):
            note = (
                ""
                if value <= threshold
                else "\nmatch"
                if gt_class_ids[j] == pred_class_ids[i]
                else "\nwrong"
            )
            ax.text(
                j,
                i,
                f"{value:.3f}{note}",
                ha="center",
                va="center",
                fontsize=9,
                color="white" if value > 0.5 else "black",
            )
    ax.set(xlabel="ground truth", ylabel="predictions")
    _finish(True)
    return ax


def draw_boxes(
    image,
    boxes=None,
    refined_boxes=None,
    masks=None,
    captions=None,
    visibilities=None,
    title="",
    ax=None,
):
    """Shows boxes, refined boxes, masks and captions (matterport: draw_boxes).

    Args:
        image: [H, W, 3].
        boxes, refined_boxes: [N, (y1, x1, y2, x2)] in pixels; drawn dashed and solid.
        masks: [N, H, W].
        captions: [N] texts.
        visibilities: [N] of 0 (grey, faint), 1 (dotted) and 2 (bright; the default).

    Returns:
        the axes.
    """
    first = boxes if boxes is not None else refined_boxes
    if first is None:
        raise ValueError("draw_boxes needs boxes or refined_boxes. Received: neither")
    ax, new = _axes(ax, (12, 12))
    count, painted = len(first), np.clip(image, 0, 255).astype(np.uint8)
    colors = random_colors(count)
    if masks is not None:
        masks = np.moveaxis(np.asarray(masks), 0, -1)
        painted, mask_boxes = paint_masks(image, masks, colors)
    show_image(ax, painted, title, margin=10)
    corners, texts = [], []
    for i in range(count):
        visibility = 2 if visibilities is None else visibilities[i]
        color, style, alpha = {
            0: ("gray", "dotted", 0.5),
            1: (colors[i], "dotted", 1),
            2: (colors[i], "solid", 1),
        }[visibility]
        shown = None
        if boxes is not None and np.any(boxes[i]):
            shown = boxes[i]
            add_boxes(
                ax,
                shown,
                color,
                2,
                "dashed" if refined_boxes is not None and visibility == 2 else style,
                alpha,
            )
        if refined_boxes is not None and visibility > 0:
            refined = np.asarray(refined_boxes[i]).astype(int)
            add_boxes(ax, refined, color, 2)
            if shown is not None:
                ax.plot([shown[1], refined[1]], [shown[0], refined[0]], color=color)
            shown = refined
        if captions is not None and shown is not None:
            corners.append(shown)
            texts.append(captions[i])
    if masks is not None:
        outline_masks(ax, masks, mask_boxes, colors)
    add_labels(ax, corners, texts, (0, 0, *np.shape(image)[:2]), 11 if new else 8)
    _finish(new)
    return ax


def display_table(table):
    """Shows rows of cells as a table, HTML in a notebook, text elsewhere (matterport). Returns the
    text."""
    import html

    widths = [max(len(str(cell)) for cell in column) for column in zip(*table)]
    text = "\n".join(
        "  ".join(f"{cell!s:>{width}}" for cell, width in zip(row, widths)) for row in table
    )
    notebook = False
    try:
        from IPython import get_ipython
        from IPython.display import HTML, display

        notebook = get_ipython() is not None
    except ImportError:
        pass
    if not notebook:
        print(text)
        return text
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in table
    )
    display(HTML(f"<table>{rows}</table>"))
    return text


def display_weight_stats(model):
    """Shows shape, smallest, largest value and standard deviation of each weight (matterport:
    display_weight_stats).

    Args:
        model: a `MaskRCNN`.

    Returns:
        the table as text.
    """
    table = [["WEIGHT NAME", "SHAPE", "MIN", "MAX", "STD"]]
    for layer in model.get_trainable_layers():
        for variable in layer.weights:
            values = np.asarray(variable)
            # Constant weights (other than biases and batch norm's) tell of a layer that was never
            # set.
            dead = values.min() == values.max() and variable.name not in (
                "bias",
                "beta",
                "gamma",
                "moving_mean",
                "moving_variance",
            )
            table.append(
                [
                    f"{layer.name}/{variable.name}" + (" *** dead?" if dead else ""),
                    str(values.shape),
                    f"{values.min():+10.4f}",
                    f"{values.max():+10.4f}",
                    f"{values.std():+10.4f}",
                ]
            )
    return display_table(table)
