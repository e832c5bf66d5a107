"""Drawing of images with boxes, masks and labels, and matterport's functions for notebooks.

Every function returns its axes, figure or image, and works without a display. Coordinates are
pixels of the image, whose pixel (0, 0) covers 0..1; boxes are (y1, x1, y2, x2). Images are
[H, W, 3], gray or with alpha, of any dtype and range: `mrcnn.utils.as_rgb` scales them to 0..255.
Class names are a list or a dict by class id, or None; an id without a name is written as "class 7",
a negative one (a crowd) with "(crowd)". Masks are of any type that `MaskRCNN.detect` returns:
[H, W, N], `mrcnn.masks.Masks` or a list of run-length encodings. Figures of the network's stages
and of datasets are in `mrcnn.figures`.
"""

from __future__ import annotations

import colorsys
import functools
import itertools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mrcnn import files, fonts, masks as mask_math, utils
from mrcnn.utils import as_bytes  # noqa: F401  a name that existing code imports from here

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection, PolyCollection
    from matplotlib.figure import Figure
    from matplotlib.patheffects import AbstractPathEffect
    from matplotlib.text import Text

    from mrcnn.model import MaskRCNN

# ---- Colours -------------------------------------------------------------------------------------


def _lab(rgb: np.ndarray) -> np.ndarray:
    """Colours [N, 3] of sRGB, 0..1, in CIELAB under D65 (IEC 61966-2-1, CIE 15).

    As `skimage.color.rgb2lab`; beside an exported model numpy and Pillow alone are installed.
    """
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz_of_rgb = np.array(
        [
            [0.412453, 0.357580, 0.180423],
            [0.212671, 0.715160, 0.072169],
            [0.019334, 0.119193, 0.950227],
        ]
    )
    xyz = linear @ xyz_of_rgb.T / (0.95047, 1.0, 1.08883)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


@functools.cache
def _palette(bright: bool) -> list[tuple[float, ...]]:
    """400 colours, each as far as possible (in CIELAB) from the ones before it."""
    hues = np.arange(40) / 40
    saturations = (0.45, 0.7, 1.0)
    values = (0.6, 0.8, 1.0)
    candidates = np.array(
        [colorsys.hsv_to_rgb(*hsv) for hsv in itertools.product(hues, saturations, values)]
    )
    lab = _lab(candidates)
    # Starts with a saturated red; green, blue etc. follow from the distances.
    red = np.abs(candidates - (1.0, 0.1, 0.1)).sum(axis=1).argmin()
    order = [int(red)]
    distance = np.full(len(lab), np.inf)
    while len(order) < len(lab):
        distance_to_last = np.linalg.norm(lab - lab[order[-1]], axis=1)
        distance = np.minimum(distance, distance_to_last)
        order.append(int(distance.argmax()))
    colors = candidates[order]
    if not bright:
        colors = colors * 0.7
    return [tuple(color) for color in colors.tolist()]


def random_colors(N: int, bright: bool = True) -> list[tuple[float, ...]]:
    """N distinct colours (r, g, b) in 0..1, always the same (matterport: random_colors)."""
    palette = _palette(bool(bright))
    return [palette[i % len(palette)] for i in range(N)]


def class_color(class_id: int) -> tuple[float, ...]:
    """The colour of a class, independent of other classes; a crowd has its class's."""
    palette = _palette(True)
    return palette[abs(int(class_id)) % len(palette)]


def _complete_colors(colors: Sequence | None, count: int) -> list:
    """A colour for each of `count` objects: `colors`, continued by `random_colors`.

    Args:
        colors: (r, g, b) in 0..1, or matplotlib's names of colours; or None.
    """
    from matplotlib.colors import to_rgb

    completed: list = []
    if colors is not None:
        for color in colors:
            if isinstance(color, str):
                color = to_rgb(color)
            completed.append(color)
    return completed + random_colors(count)[len(completed) :]


def apply_mask(
    image: np.ndarray, mask: np.ndarray, color: Sequence[float], alpha: float = 0.5
) -> np.ndarray:
    """Blends a colour into an image where a mask is set (matterport: apply_mask).

    Args:
        image: [H, W, 3], edited in place; the colour is scaled to its `utils.value_range`. Further
            channels, such as alpha, stay as they are.
        mask: [H, W].
        color: (r, g, b) in 0..1; a fourth value, as of matplotlib's colour maps, is not used.
        alpha: opacity of the colour.

    Returns:
        image.

    Raises:
        ValueError: not an array [H, W, 3], or a mask of another size.
    """
    inside = np.asarray(mask).astype(bool)
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] < 3:
        raise ValueError(
            "apply_mask paints into an array [H, W, 3]; utils.as_rgb makes one of any image. "
            f"Received: {_described(image)}"
        )
    if inside.shape != image.shape[:2]:
        raise ValueError(
            f"a mask has the image's size, {image.shape[:2]}. Received: {inside.shape}"
        )
    if image.dtype != np.uint8:
        rgb = image[..., :3]
        low, high = utils.value_range(rgb)
        painted = alpha * (high - low) * np.asarray(color)[:3] + alpha * low
        blended = rgb[inside] * (1 - alpha) + painted
        rgb[inside] = blended.astype(image.dtype)
        return image
    for channel, intensity in enumerate(color[:3]):
        # The blended value for each of the 256 values.
        table = np.arange(256) * (1 - alpha) + alpha * 255 * intensity
        values = image[..., channel]
        np.copyto(values, table.astype(np.uint8)[values], where=inside)
    return image


def _described(image: Any) -> str:
    """Description of an argument in errors: an array's shape and dtype, or the value."""
    if isinstance(image, np.ndarray):
        return f"shape {image.shape}, {image.dtype}"
    return files.short(image)


# ---- Parts of a drawing --------------------------------------------------------------------------

# Maximum number of labels on an image, and of boxes that are drawn with a rim: the time to place
# labels without overlap grows with the square of their number; 20,000 would take hours.
MOST_LABELS = 500

RIM = (0, 0, 0, 0.45)  # around coloured lines, for contrast with any background


def new_figure(
    size: tuple[float, float], rows: int = 1, columns: int = 1, dpi: float = 110
) -> tuple[Figure, list[Axes]]:
    """A figure outside pyplot, without a display, and a flat list of its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).ravel())


def show_image(
    ax: Axes, image: np.ndarray, title: str = "", margin: float = 0, **kwargs: Any
) -> Axes:
    """Shows an image [H, W, C] or a map [H, W] in pixel coordinates, without ticks.

    Returns:
        the axes.
    """
    from matplotlib.image import PcolorImage

    image = utils.pixels_of(image)
    height, width = image.shape[:2]
    if image.ndim == 3 and not kwargs:
        if image.dtype != np.uint8 or image.shape[2] not in (3, 4):
            image = utils.as_rgb(image)
        # Samples nearest neighbours; imshow computes with floats and is .15 s slower at 1024 x
        # 1024.
        image_artist = PcolorImage(ax, A=image)
        image_artist.set_extent((0, width, height, 0))
        ax.add_image(image_artist)
        ax.set_aspect("equal")
    else:
        ax.imshow(image, extent=(0, width, height, 0), interpolation="nearest", **kwargs)
    # The margin shows what is drawn at or beyond the edge.
    ax.set(xlim=(-margin, width + margin), ylim=(height + margin, -margin))
    fonts.set_title(ax, title)
    ax.set_axis_off()
    return ax


def image_limits(image: np.ndarray) -> tuple[int, ...]:
    """(0, 0, height, width) of an image [H, W, ...], as the limits of its labels."""
    return (0, 0, *np.shape(image)[:2])


def mask_crops(masks: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    """Masks as boxes and crops, without making masks of the whole image.

    Args:
        masks: [H, W, N]; `mrcnn.masks.Masks`; or N run-length encodings {"size", "counts"}.

    Returns:
        boxes [N, (y1, x1, y2, x2)] int around the masks, and N arrays [y2 - y1, x2 - x1].
    """
    if isinstance(masks, mask_math.Masks) or mask_math.are_encodings(masks):
        pairs = list(mask_math.crops_of(masks))
        boxes = np.array([box for box, _ in pairs], int).reshape(-1, 4)
        return boxes, [crop for _, crop in pairs]
    masks = np.asarray(masks)
    boxes = utils.extract_bboxes(masks)
    return boxes, [masks[y1:y2, x1:x2, i] for i, (y1, x1, y2, x2) in enumerate(boxes)]


def _mask_shape(masks: Any) -> tuple[int, ...]:
    """(H, W, N) of masks of any type; (0, 0, 0) for an empty list."""
    if mask_math.are_encodings(masks):
        size: Sequence = (0, 0)
        if len(masks):
            size = masks[0]["size"]
        return (*size, len(masks))
    return tuple(np.shape(masks))


def choose_masks(masks: Any, rows: np.ndarray) -> Any:
    """The masks of some rows, of the same type.

    Args:
        masks: see `mask_crops`.
        rows: indices, or [N] bool.
    """
    rows = np.asarray(rows)
    if rows.dtype == bool:
        rows = np.flatnonzero(rows)
    if isinstance(masks, mask_math.Masks):
        return mask_math.Masks(
            masks.soft[rows], masks.boxes[rows], masks.image_shape, masks.threshold
        )
    if mask_math.are_encodings(masks):
        return [masks[i] for i in rows]
    masks = np.asarray(masks)
    if np.array_equal(rows, np.arange(masks.shape[-1])):
        return masks
    return masks[..., rows]


def paint_masks(
    image: np.ndarray, masks: Any, colors: Sequence, alpha: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Blends masks into a copy of an image.

    Args:
        image: [H, W, 3], or another that `utils.as_rgb` takes.
        masks: masks of N objects, see `mask_crops`.
        colors: [N] of (r, g, b) in 0..1.

    Returns:
        [H, W, 3] uint8, and boxes around the masks [N, (y1, x1, y2, x2)] int.

    Raises:
        ValueError: masks of another size than the image.
    """
    boxes, crops = mask_crops(masks)
    return _paint_crops(image, boxes, crops, _mask_shape(masks), colors, alpha), boxes


def _paint_crops(
    image: np.ndarray,
    boxes: np.ndarray,
    crops: Sequence[np.ndarray],
    mask_shape: Sequence[int],
    colors: Sequence,
    alpha: float,
) -> np.ndarray:
    """`paint_masks` of the boxes and crops of `mask_crops`."""
    painted = utils.as_rgb(image)
    size = painted.shape[:2]
    if len(boxes) and tuple(mask_shape[:2]) != size:
        hint = ""
        if tuple(mask_shape[:2]) == size[::-1]:
            hint = f". {utils.TURNED_HINT}"
        raise ValueError(
            f"masks are [height, width, objects] with the image's {size}. "
            f"Received: {tuple(mask_shape)}{hint}"
        )
    for (y1, x1, y2, x2), crop, color in zip(boxes, crops, colors):
        apply_mask(painted[y1:y2, x1:x2], crop, color, alpha)
    return painted


def _line_with_rim(width: float) -> list[AbstractPathEffect]:
    """Path effects of a line with a dark rim, for contrast with any background."""
    from matplotlib.patheffects import Normal, Stroke

    return [Stroke(linewidth=width + 1.2, foreground=RIM), Normal()]


def outline_masks(
    ax: Axes, masks: Any, boxes: np.ndarray | None, colors: Sequence, width: float = 1.1
) -> LineCollection:
    """Draws the outlines of masks.

    Args:
        masks: masks of N objects, see `mask_crops`.
        boxes: [N, (y1, x1, y2, x2)] int around the masks; None to compute them.
        colors: [N].
        width: line width in points.

    Returns:
        the collection of lines.
    """
    if boxes is None or not isinstance(masks, np.ndarray):
        boxes, crops = mask_crops(masks)
    else:
        crops = [masks[y1:y2, x1:x2, i] for i, (y1, x1, y2, x2) in enumerate(boxes)]
    return _outline_crops(ax, boxes, crops, colors, width)


def _outline_crops(
    ax: Axes,
    boxes: np.ndarray,
    crops: Sequence[np.ndarray],
    colors: Sequence,
    width: float = 1.1,
) -> LineCollection:
    """`outline_masks` of the boxes and crops of `mask_crops`."""
    from contourpy import contour_generator  # matplotlib's own
    from matplotlib.collections import LineCollection

    outlines = []
    outline_colors = []
    for (y1, x1, y2, x2), crop, color in zip(boxes, crops, colors):
        # A border of zeros closes the outlines of masks at the edge.
        bordered = np.zeros((y2 - y1 + 2, x2 - x1 + 2), np.float32)
        bordered[1:-1, 1:-1] = crop
        for points in contour_generator(z=bordered).lines(0.5):
            outlines.append(np.asarray(points) + (x1 - 0.5, y1 - 0.5))
            outline_colors.append(color)
    # Two collections: all rims below all lines.
    rims = LineCollection(outlines, colors=RIM, linewidths=width + 1.2)
    lines = LineCollection(outlines, colors=outline_colors, linewidths=width)
    ax.add_collection(rims, autolim=False)
    ax.add_collection(lines, autolim=False)
    return lines


def add_boxes(
    ax: Axes,
    boxes: np.ndarray | Sequence,
    colors: Any,
    width: float = 1.4,
    style: str = "solid",
    alpha: float = 1.0,
) -> PolyCollection:
    """Draws boxes.

    Args:
        boxes: [N, (y1, x1, y2, x2)], or one box.
        colors: one for each box, or one for all.
        width: line width in points.
        style: matplotlib's line style.

    Returns:
        the collection.
    """
    from matplotlib.collections import PolyCollection

    x_and_y = [1, 0, 3, 0, 3, 2, 1, 2]  # columns of x and y of the four corners
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    corners = boxes[:, x_and_y].reshape(-1, 4, 2)
    path_effects = None
    if len(boxes) <= MOST_LABELS:
        path_effects = _line_with_rim(width)
    collection = PolyCollection(
        list(corners),
        facecolors="none",
        edgecolors=colors,
        linewidths=width,
        linestyles=style,
        alpha=alpha,
        path_effects=path_effects,
    )
    ax.add_collection(collection, autolim=False)
    return collection


def connect_boxes(
    ax: Axes, box: np.ndarray, refined: np.ndarray, color: Any, **kwargs: Any
) -> None:
    """Draws a line from the upper left corner of a box to that of the refined box.

    Args:
        ax: axes that show the image in pixels.
        box, refined: (y1, x1, y2, x2) in pixels.
        color: a colour of matplotlib.
        kwargs: arguments of `matplotlib.axes.Axes.plot`.
    """
    y, x = np.transpose([box[:2], refined[:2]])
    ax.plot(x, y, color=color, **kwargs)


# ---- Labels --------------------------------------------------------------------------------------


def _label_corners(
    box: Sequence[float], limits: Sequence[float], width: float, height: float
) -> list[tuple[float, float]]:
    """Possible lower left corners of a label at a box, in order of preference.

    Args:
        box, limits: (left, bottom, right, top) in pixels of the screen, whose y points up; the
            label stays inside the limits where it fits.
        width, height: size of the label.

    Returns:
        [(x, y)]: above the box and inside at its top, both also at its right end; below it, and
        inside at its bottom.
    """
    left, bottom, right, top = box
    corners = [
        (left, top),
        (left, top - height),
        (right - width, top),
        (right - width, top - height),
        (left, bottom - height),
        (left, bottom),
    ]
    x_min, y_min, x_max, y_max = limits
    clipped = []
    for x, y in corners:
        x = min(max(x, x_min), max(x_max - width, x_min))
        y = max(min(y, y_max - height), y_min)
        clipped.append((x, y))
    return clipped


def _is_free(rectangle: tuple[float, ...], placed: list[tuple[float, ...]]) -> bool:
    """Whether a rectangle (x, y, width, height) overlaps none of those that are placed."""
    x, y, width, height = rectangle
    for other_x, other_y, other_width, other_height in placed:
        overlaps_in_x = x < other_x + other_width and other_x < x + width
        overlaps_in_y = y < other_y + other_height and other_y < y + height
        if overlaps_in_x and overlaps_in_y:
            return False
    return True


@functools.cache
def _label_class() -> type[Text]:
    """The class of labels, made on first use, since matplotlib is imported lazily."""
    from matplotlib.path import Path
    from matplotlib.text import Text
    from matplotlib.transforms import Affine2D

    class Label(Text):
        """A text at a box that stays inside the image and, if possible, avoids other labels.

        Its position depends on the figure's size and is chosen when it is drawn.

        Args:
            box: (y1, x1, y2, x2) in data coordinates.
            limits: (y1, x1, y2, x2) to stay inside.
            placed: list of the rectangles (x, y, width, height) of the labels drawn before, shared
                by all labels of the axes.
            first: whether this is the first of them, which clears the list.
        """

        def __init__(self, box, limits, placed, first, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.box = box
            self.limits = limits
            self.placed = placed
            self.first = first

        def draw(self, renderer):
            if self.get_visible() and self.get_text():
                self._place(renderer)
            super().draw(renderer)

        def _place(self, renderer):
            if self.first:
                self.placed.clear()
            padding = renderer.points_to_pixels(2) + 1
            extent = self.get_window_extent(renderer)
            width = extent.width + 2 * padding
            height = extent.height + 2 * padding
            corners = _label_corners(
                self._on_screen(self.box), self._on_screen(self.limits), width, height
            )
            chosen = corners[0]
            for corner in corners:
                if _is_free((*corner, width, height), self.placed):
                    chosen = corner
                    break
            self.placed.append((*chosen, width, height))
            self._draw_background(renderer, chosen, width, height)
            to_data = self._to_screen().inverted()
            self._x, self._y = to_data.transform((chosen[0] + padding, chosen[1] + padding))

        def _on_screen(self, box):
            """(left, bottom, right, top) of a box, in pixels of the screen."""
            y1, x1, y2, x2 = box
            (left, top), (right, bottom) = self._to_screen().transform([(x1, y1), (x2, y2)])
            return left, bottom, right, top

        def _to_screen(self):
            """matplotlib's transform from data coordinates to the screen."""
            axes: Any = self.axes  # None before the label is added
            return axes.transData

        def _draw_background(self, renderer, corner, width, height):
            """Draws the dark rectangle behind the text."""
            context = renderer.new_gc()
            transform = Affine2D().scale(width, height).translate(*corner)
            renderer.draw_path(context, Path.unit_rectangle(), transform, (0, 0, 0, 0.66))
            context.restore()

    return Label


def add_labels(
    ax: Axes,
    boxes: np.ndarray | Sequence,
    texts: Sequence[str],
    limits: Sequence[float],
    size: float = 8,
) -> list[Text]:
    """Writes a text at each box, white on dark. Returns the labels.

    Args:
        boxes: [N, (y1, x1, y2, x2)].
        texts: [N]; empty ones are left out, and with a warning those after the first MOST_LABELS.
        limits: (y1, x1, y2, x2) that labels stay inside where they fit.
        size: font size in points.
    """
    labels: list[Text] = []
    placed: list[tuple[float, ...]] = []
    label_class: Callable[..., Text] = _label_class()
    omitted = 0
    for box, text in zip(boxes, texts):
        if not text:
            continue
        if len(labels) >= MOST_LABELS:
            omitted += 1
            continue
        label = label_class(
            box,
            limits,
            placed,
            not labels,
            float(box[1]),
            float(box[0]),
            fonts.legible(text),
            color="white",
            fontsize=size,
            va="bottom",
            ha="left",
            parse_math=False,
        )
        ax.add_artist(label)
        label.set_clip_on(False)
        label.set_in_layout(False)
        labels.append(label)
    fonts.set_fonts(labels)
    if omitted:
        logger.warning(
            "Of %d labels the first %d are written (mrcnn.visualize.MOST_LABELS)",
            len(labels) + omitted,
            len(labels),
        )
    return labels


def class_name(class_names: Any, class_id: int) -> str:
    """The name of a class in figures, or "class 7" for one without a name.

    Args:
        class_names: names by class id, a list or a dict, or None.
        class_id: negative for a crowd, whose name gets "(crowd)".

    Raises:
        ValueError: class_names of another type, or a class_id that is not a whole number.
    """
    if isinstance(class_names, (str, bytes)):
        raise ValueError(f"class_names is a list of names. Received: {class_names!r}")
    try:
        number = abs(int(class_id))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"class_ids are whole numbers, whose names class_names has. Received: {class_id!r}"
        ) from error
    name = None
    if isinstance(class_names, Mapping):
        for key in (class_id, number, str(number)):
            if key in class_names:
                name = class_names[key]
                break
    elif class_names is not None and number < len(class_names):
        name = class_names[number]
    if name is None:
        name = f"class {number}"
    if class_id < 0:
        return f"{name} (crowd)"
    return str(name)


def drawn_name(class_names: Any, class_id: int) -> str:
    """`class_name` as it is drawn: "class 7" where no installed font has its characters."""
    name = class_name(class_names, class_id)
    if fonts.can_write(name):
        return fonts.composed(name)
    return class_name(None, class_id)


def label_texts(
    class_ids: np.ndarray | Sequence[int],
    class_names: Any,
    scores: np.ndarray | Sequence[float] | None = None,
    digits: int = 2,
) -> list[str]:
    """Texts of labels: each object's class name, and its score if there is one.

    A class whose name no installed font has is written as "class 7".

    Args:
        class_ids: [N].
        class_names: see `class_name`.
        scores: [N], fewer for the first objects only, or None.
        digits: number of decimal places of scores.
    """
    texts = [drawn_name(class_names, class_id) for class_id in np.ravel(class_ids)]
    if scores is None:
        return texts
    for i, score in enumerate(scores[: len(texts)]):
        if score is None:
            continue
        space = " "
        if texts[i][-1:].isdigit():  # small, "class 1 0.83" looks like 10.83
            space = ": "
        try:
            texts[i] = f"{texts[i]}{space}{float(score):.{digits}f}"
        except (TypeError, ValueError) as error:
            raise ValueError(f"scores are numbers, or None. Received: {score!r}") from error
    return texts


def _captions(captions: Sequence | None, texts: list[str]) -> list[str]:
    """Captions of N objects: `captions`, continued by `texts` [N]."""
    if captions is None:
        return texts
    completed = []
    for caption in captions:
        if caption is None:
            caption = ""
        completed.append(str(caption))
    return completed + texts[len(completed) :]


def _write_in_middle(ax: Axes, text: str) -> None:
    """Writes a text in the middle of the axes."""
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


# ---- Detections ----------------------------------------------------------------------------------


def sure(result: dict, score: float = 0.5) -> dict:
    """A result of `MaskRCNN.detect` without detections below a score, for figures."""
    if result.get("scores") is None:
        return dict(result)  # ground truth
    kept = np.asarray(result["scores"]) >= score
    chosen: dict[str, Any] = {}
    for name, value in result.items():
        if value is None:
            chosen[name] = None
        elif name == "masks":
            chosen[name] = choose_masks(value, kept)
        else:
            chosen[name] = np.asarray(value)[kept]
    return chosen


def check_result(boxes: Any, class_ids: Any, masks: Any, image: Any = None) -> None:
    """Raises a ValueError where a result's arrays have different lengths or wrong shapes.

    Args:
        boxes: [N, (y1, x1, y2, x2)].
        class_ids: [N].
        masks: masks of N objects, see `mask_crops`; or None.
        image: [H, W, ...], the masks' image; None to accept any size.
    """
    mask_shape: tuple[int, ...] | None = None
    is_consistent = np.shape(boxes)[1:] == (4,) or not len(boxes)
    count = len(boxes)
    is_consistent = is_consistent and np.size(class_ids) == count
    if masks is not None:
        mask_shape = _mask_shape(masks)
        is_consistent = is_consistent and len(mask_shape) == 3 and mask_shape[2] == count
    if not is_consistent:
        raise ValueError(
            "a result has as many boxes [N, 4], class ids [N] and masks [H, W, N]. Received: "
            f"{np.shape(boxes)}, {np.shape(class_ids)}, {mask_shape}"
        )
    if not np.isfinite(np.asarray(boxes, float)).all():
        raise ValueError(f"boxes are finite numbers. Received: {files.short(boxes)}")
    if count and image is not None and mask_shape and mask_shape[:2] != np.shape(image)[:2]:
        raise ValueError(
            f"masks are [height, width, objects] with the image's {np.shape(image)[:2]}. Received:"
            f" {mask_shape}"
        )


def keypoint_threshold(result: dict) -> float:
    """The threshold above which keypoints of a result are drawn.

    In ground truth the third value is the visibility, 0 for points that are not labelled; in
    detections, which have scores, it is a logit, without a natural threshold.
    """
    if result.get("scores") is None:
        return 0.0
    return -np.inf


def draw_detections(
    ax: Axes,
    image: np.ndarray,
    result: dict,
    class_names: Any,
    show_scores: bool = True,
    alpha: float = 0.45,
    size: float = 7,
    colors: Sequence | None = None,
) -> Axes:
    """Draws one image with its detections onto matplotlib axes.

    Args:
        ax: axes.
        image: [H, W, 3].
        result: dict of `MaskRCNN.detect`, or of ground truth without "scores"; "masks" and
            "keypoints" are drawn if present.
        class_names: see `class_name`.
        size: font size of the labels in points.
        colors: one for each object, or None.

    Returns:
        ax.
    """
    boxes = result["rois"]
    class_ids = result["class_ids"]
    masks = result.get("masks")
    points = result.get("keypoints")
    check_result(boxes, class_ids, masks)
    colors = _complete_colors(colors, len(boxes))
    if masks is None:
        show_image(ax, utils.as_rgb(image))
    else:
        mask_boxes, crops = mask_crops(masks)
        painted = _paint_crops(image, mask_boxes, crops, _mask_shape(masks), colors, alpha)
        show_image(ax, painted)
        _outline_crops(ax, mask_boxes, crops, colors)
    add_boxes(ax, boxes, colors)
    if points is not None:
        draw_keypoints(ax, points, colors=colors, threshold=keypoint_threshold(result))
    scores = None
    if show_scores:
        scores = result.get("scores")
    texts = label_texts(class_ids, class_names, scores)
    add_labels(ax, boxes, texts, image_limits(image), size)
    if len(boxes) == 0:
        _write_in_middle(ax, "nothing found")
    return ax


def detections_grid(
    images: Sequence[np.ndarray],
    results: Sequence[dict],
    class_names: Any,
    cols: int = 4,
    titles: Sequence[str] | None = None,
    side: float = 3.0,
) -> Figure:
    """A figure with images and their detections side by side.

    Args:
        images: list of [H, W, 3].
        results: results of `detect`, one for each image.
        class_names: see `class_name`.
        cols: number of images in a row.
        titles: one for each image.
        side: width of an image in inches.
    """
    rows = max(1, -(-len(images) // cols))
    titles = _captions(titles, [""] * len(images))
    figure, axes = new_figure((side * cols, 1.07 * side * rows), rows, cols)
    for ax in axes:
        ax.set_axis_off()
    for i, (ax, image, result) in enumerate(zip(axes, images, results)):
        draw_detections(ax, image, result, class_names)
        if titles[i]:
            fonts.set_title(ax, titles[i], 8)
    return figure


def draw_detections_grid(
    images: Sequence[np.ndarray],
    results: Sequence[dict],
    class_names: Any,
    path: str | os.PathLike,
    cols: int = 4,
    titles: Sequence[str] | None = None,
) -> str:
    """Saves `detections_grid`, which has the same arguments, as an image file.

    Returns:
        the path as a string.
    """
    detections_grid(images, results, class_names, cols, titles).savefig(path)
    return str(path)


# ---- Keypoints -----------------------------------------------------------------------------------


def keypoint_skeleton(
    points: np.ndarray, skeleton: Sequence[tuple[int, int]] | None = None
) -> Sequence[tuple[int, int]]:
    """The limbs of keypoints [N, K, 3]: `skeleton`; without it COCO's for K = 17, else none."""
    from mrcnn.keypoints import COCO_NAMES, COCO_SKELETON

    if skeleton is not None:
        return skeleton
    if points.shape[1] == len(COCO_NAMES):
        return COCO_SKELETON
    return ()


def keypoint_limbs(
    shown: np.ndarray, skeleton: Sequence[tuple[int, int]]
) -> list[tuple[int, int, int]]:
    """The limbs whose ends are both shown.

    Args:
        shown: [N, K] bool.
        skeleton: pairs of keypoints.

    Returns:
        [(object, keypoint, keypoint)].
    """
    limbs = []
    for i in range(len(shown)):
        for start, end in skeleton:
            if shown[i, start] and shown[i, end]:
                limbs.append((i, start, end))
    return limbs


def draw_keypoints(
    ax: Axes,
    points: np.ndarray,
    skeleton: Sequence[tuple[int, int]] | None = None,
    colors: Sequence | None = None,
    threshold: float = 0.0,
    size: float = 9,
) -> Axes:
    """Draws keypoints and the limbs between them onto matplotlib axes.

    Args:
        ax: axes that show the image in pixels, as `draw_detections` leaves them.
        points: [N, K, (y, x, score or visibility)].
        skeleton: pairs of keypoints; None for COCO's if there are 17, otherwise no limbs.
        colors: [N] of (r, g, b); None for those of `random_colors`.
        threshold: points whose third value is not above it are left out, with their limbs.
        size: area of a marker in points squared.

    Returns:
        ax.

    Raises:
        ValueError: points of another shape.
    """
    from matplotlib.collections import LineCollection

    points = np.asarray(points, float)
    if points.ndim != 3 or points.shape[-1] != 3:
        raise ValueError(f"keypoints are [N, K, (y, x, score)]. Received: {points.shape}")
    colors = _complete_colors(colors, len(points))
    centers = points[..., 1::-1] + 0.5  # centres of the pixels, (x, y)
    shown = points[..., 2] > threshold
    limbs = keypoint_limbs(shown, keypoint_skeleton(points, skeleton))
    lines = [centers[i, [start, end]] for i, start, end in limbs]
    limb_colors = [colors[i] for i, _, _ in limbs]
    # A dark rim, for contrast with a background of the same colour.
    rims = LineCollection(lines, colors="black", linewidths=2.6, capstyle="round")
    cores = LineCollection(lines, colors=limb_colors, linewidths=1.4, capstyle="round")
    ax.add_collection(rims, autolim=False)
    ax.add_collection(cores, autolim=False)
    x, y = centers[shown].T
    object_indices = np.nonzero(shown)[0]
    ax.scatter(
        x,
        y,
        s=size,
        color=[colors[i] for i in object_indices],
        edgecolors="white",
        linewidths=0.5,
        zorder=3,
    )
    return ax


# ---- matterport's functions: without axes they draw with pyplot ----------------------------------

# matplotlib's non-interactive backends, which only write files.
FILE_BACKENDS = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")


def _pyplot_axes(figsize: tuple[float, float]) -> Axes:
    """The axes of a new pyplot figure."""
    import matplotlib.pyplot as plt

    return plt.subplots(1, figsize=figsize, layout="tight")[1]


def _shown(drawn: Any, new: bool = True) -> Any:
    """Shows new figures in a notebook or a window; does nothing without a display.

    In a notebook the figure is shown once, although the value of a cell's last line is displayed,
    too (matterport's functions return None).

    Args:
        drawn: figure or axes.
        new: False for axes that the caller passed and shows.

    Returns:
        `drawn`.
    """
    import matplotlib.pyplot as plt

    is_interactive = plt.get_backend().lower() not in FILE_BACKENDS
    if new and is_interactive:
        plt.show()
    cell = _notebook_cell()
    if cell is not None and is_interactive:
        drawn._ipython_display_ = functools.partial(_show_in_other_cells, cell)
    return drawn


def _show_in_other_cells(cell: int) -> None:
    """IPython's hook to display a value: does nothing in the cell that has shown it already."""
    if _notebook_cell() != cell:
        raise NotImplementedError  # IPython falls back to its default display


def _notebook_cell() -> int | None:
    """The number of the notebook cell that is running; None outside notebooks."""
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    shell = get_ipython()
    if getattr(shell, "kernel", None) is None:  # IPython in a terminal
        return None
    return shell.execution_count


class _ShownText(str):
    """A text that was shown as a table in a notebook."""

    _ipython_display_: Callable[[], None]


def _label_size(new: bool) -> int:
    """Font size of labels in points, larger in the large figures of this module."""
    if new:
        return 11
    return 8


def display_images(
    images: Sequence[np.ndarray],
    titles: Sequence[str] | None = None,
    cols: int = 4,
    cmap: Any = None,
    norm: Any = None,
    interpolation: str | None = None,
) -> Figure:
    """Shows images side by side (matterport: display_images).

    Args:
        images: list of [H, W] or [H, W, 3], or an array of them.
        titles: one for each image.
        cols: number of images in a row.
        cmap, norm, interpolation: arguments of `plt.imshow`.

    Returns:
        the figure.

    Raises:
        ValueError: not a list of images, such as a single image.
    """
    import matplotlib.pyplot as plt

    if isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[2] in (1, 3, 4):
        raise ValueError(
            "display_images takes a list of images; of one, [image]. Received:"
            f" {_described(images)}"
        )
    titles = _captions(titles, [""] * len(images))
    rows = -(-len(images) // cols)
    figure = plt.figure(figsize=(14, max(14 * rows / cols, 2)), layout="tight")
    for i, (image, title) in enumerate(zip(images, titles)):
        ax = figure.add_subplot(rows, cols, i + 1)
        fonts.set_title(ax, title)
        ax.set_axis_off()
        given = image
        image = utils.pixels_of(image)
        if image.ndim not in (2, 3) or image.dtype.kind not in "buif":
            raise ValueError(
                "images are [H, W] or [H, W, 3] of numbers. Received:"
                f" {_described(given)} at place {i}"
            )
        if image.ndim == 3 and image.shape[2] not in (1, 3, 4):
            image = utils.as_rgb(image)
        elif image.ndim == 3 and image.dtype != np.uint8:
            image = as_bytes(image[..., :3])
        ax.imshow(image, cmap=cmap, norm=norm, interpolation=interpolation)
    return _shown(figure)


def display_instances(
    image: np.ndarray,
    boxes: np.ndarray,
    masks: np.ndarray | None,
    class_ids: np.ndarray,
    class_names: Any,
    scores: np.ndarray | None = None,
    title: str = "",
    figsize: tuple[float, float] = (16, 16),
    ax: Axes | None = None,
    show_mask: bool = True,
    show_bbox: bool = True,
    colors: Sequence | None = None,
    captions: Sequence[str] | None = None,
) -> Axes:
    """Shows an image with its objects (matterport: display_instances).

    Args:
        image: [H, W, 3].
        boxes: [N, (y1, x1, y2, x2)] in pixels.
        masks: masks of N objects, see `mask_crops`; or None.
        class_ids: [N].
        class_names: see `class_name`.
        scores: [N] or None.
        show_mask: paint the masks; their outlines are always drawn.
        ax: axes to draw on; None to show a figure of `figsize` inches.
        colors: [N] of (r, g, b) in 0..1; fewer are continued by `random_colors`.
        captions: [N] texts in place of name and score; fewer are for the first objects.

    Returns:
        the axes.

    Raises:
        ValueError: different numbers of boxes, masks and class ids.
    """
    boxes = np.asarray(boxes)
    count = len(boxes)
    if class_ids is None:
        class_ids = []
    class_ids = np.ravel(class_ids)
    mask_shape: tuple[int, ...] = ()
    if masks is not None:
        mask_shape = _mask_shape(masks)
    masks_fit = masks is None or count == 0 or mask_shape[-1] == count
    if len(class_ids) != count or not masks_fit or (count and boxes.shape != (count, 4)):
        raise ValueError(
            "boxes [N, 4], masks [H, W, N] and class_ids [N] have one N. Received: shapes "
            f"{boxes.shape}, {mask_shape}, {np.shape(class_ids)}"
        )
    captions = _captions(captions, label_texts(class_ids, class_names, scores, 3))
    colors = _complete_colors(colors, count)
    kept = np.flatnonzero(boxes.reshape(-1, 4).any(axis=1))  # zero rows are padding
    kept_colors = [colors[i] for i in kept]
    new = ax is None
    if ax is None:
        ax = _pyplot_axes(figsize)
    painted = utils.as_rgb(image)
    if masks is not None and count:
        mask_boxes, crops = mask_crops(choose_masks(masks, kept))
        if show_mask:
            painted = _paint_crops(painted, mask_boxes, crops, mask_shape, kept_colors, 0.5)
        show_image(ax, painted, title, margin=10)
        # As in the original, outlines are drawn also where masks are not.
        _outline_crops(ax, mask_boxes, crops, kept_colors)
    else:
        show_image(ax, painted, title, margin=10)
    if count == 0:
        _write_in_middle(ax, "No instances to display")
    if show_bbox and len(kept):
        add_boxes(ax, boxes[kept], kept_colors, 2, "dashed")
    kept_captions = [captions[i] for i in kept]
    add_labels(ax, boxes[kept], kept_captions, image_limits(image), _label_size(new))
    return _shown(ax, new)


def display_differences(
    image: np.ndarray,
    gt_box: np.ndarray,
    gt_class_id: np.ndarray,
    gt_mask: np.ndarray,
    pred_box: np.ndarray,
    pred_class_id: np.ndarray,
    pred_score: np.ndarray,
    pred_mask: np.ndarray,
    class_names: Any,
    title: str = "",
    ax: Axes | None = None,
    show_mask: bool = True,
    show_box: bool = True,
    iou_threshold: float = 0.5,
    score_threshold: float = 0.5,
) -> Axes:
    """Shows ground truth in green and predictions in red (matterport: display_differences).

    Each prediction is labelled with its score and its IoU with the matched object; without a match,
    with the object of highest IoU.

    Args: see `utils.compute_matches` and `display_instances`.

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
    # Matches and overlaps are sorted by score, without zero rows.
    gt_box = np.asarray(gt_box).reshape(-1, 4)
    kept = np.flatnonzero(np.any(gt_box, axis=1))
    pred_box = np.asarray(pred_box).reshape(-1, 4)
    order = np.flatnonzero(np.any(pred_box, axis=1))
    pred_score = np.ravel(pred_score)
    order = order[np.argsort(-pred_score[order], kind="stable")]
    pred_score = pred_score[order]
    size = np.shape(image)[:2]
    masks = [_masks_of_rows(gt_mask, kept, size), _masks_of_rows(pred_mask, order, size)]
    gt_box = gt_box[kept]
    pred_box = pred_box[order]
    class_ids = [np.ravel(gt_class_id)[kept], np.ravel(pred_class_id)[order]]
    green = (0.0, 0.9, 0.0)
    red = (1.0, 0.1, 0.1)
    return display_instances(
        image,
        np.concatenate([gt_box, pred_box]),
        np.concatenate(masks, axis=2),
        np.concatenate(class_ids),
        class_names,
        ax=ax,
        show_bbox=show_box,
        show_mask=show_mask,
        colors=[green] * len(gt_box) + [red] * len(pred_box),
        captions=[""] * len(gt_box) + _match_texts(pred_score, overlaps, np.asarray(pred_match)),
        title=title or "Ground truth (green) and predictions (red): score / IoU",
    )


def _masks_of_rows(masks: Any, rows: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Masks [H, W, n] of some rows.

    Args:
        masks: masks of any type, see `mask_crops`; if there are n, they are those of the rows:
            boxes may be padded and masks not.
        rows: [n] indices.
        size: (H, W) of the image, for no rows.
    """
    if not len(rows):
        return np.zeros((*size, 0), bool)
    dense = mask_math.as_dense(masks)
    if dense.shape[2] == len(rows):
        return dense[..., np.argsort(np.argsort(rows))]
    return dense[..., rows]


def _match_texts(scores: np.ndarray, overlaps: np.ndarray, matches: np.ndarray) -> list[str]:
    """Texts of predictions: score and IoU, and "not matched" where it applies.

    Args:
        scores: [P].
        overlaps: [P, G] IoU.
        matches: [P], the matched object's index or -1.
    """
    texts = []
    for score, row, match in zip(scores, overlaps, matches):
        if match < 0:
            texts.append(f"{score:.2f} / {row.max(initial=0):.2f} not matched")
        else:
            texts.append(f"{score:.2f} / {row[int(match)]:.2f}")
    return texts


def draw_rois(
    image: np.ndarray,
    rois: np.ndarray,
    refined_rois: np.ndarray,
    mask: np.ndarray,
    class_ids: np.ndarray,
    class_names: Any,
    limit: int = 10,
) -> Axes:
    """Shows random RoIs before and after refinement (matterport: draw_rois).

    Args:
        image: [H, W, 3].
        rois, refined_rois: [N, (y1, x1, y2, x2)] in pixels; refined ones are drawn for positives
            only.
        mask: [N, h, w], masks inside the RoIs, as from `data_generator(detection_targets=True)`; or
            [N, H, W], masks of the image.
        class_ids: [N]; 0 is background, drawn grey.
        limit: maximum number of RoIs.

    Returns:
        the axes.
    """
    class_ids = np.ravel(class_ids)  # [N, 1] from `data_generator`
    chosen = np.random.choice(len(rois), min(limit, len(rois)), replace=False)
    colors = dict(zip(chosen.tolist(), random_colors(len(chosen))))
    positive = [i for i in colors if class_ids[i] > 0]
    painted = utils.as_rgb(image)
    for i in positive:
        inside = np.asarray(mask[i])
        if inside.shape != painted.shape[:2]:
            box = np.asarray(rois[i]).astype(np.int32).tolist()
            inside = utils.unmold_mask(inside, box, painted.shape)
        apply_mask(painted, inside, colors[i])
    ax = _pyplot_axes((12, 12))
    positives = int(np.sum(np.asarray(class_ids) > 0))
    show_image(ax, painted, f"{len(chosen)} of {len(rois)} RoIs, {positives} of them positive", 10)
    for i, color in colors.items():
        if class_ids[i] > 0:
            add_boxes(ax, rois[i], color, style="dashed")
            add_boxes(ax, refined_rois[i], color)
            connect_boxes(ax, rois[i], refined_rois[i], color)
        else:
            add_boxes(ax, rois[i], "gray", style="dashed")
    boxes = [refined_rois[i] for i in positive]
    texts = [drawn_name(class_names, class_ids[i]) for i in positive]
    add_labels(ax, boxes, texts, image_limits(image), _label_size(True))
    return _shown(ax)


def draw_box(image: np.ndarray, box: Sequence[float], color: Any) -> np.ndarray:
    """Draws the edges of a box into an image [H, W, 3], in place (matterport: draw_box).

    Parts outside the image are left out.
    """
    y1, x1, y2, x2 = (int(side) for side in box)
    for top, left, bottom, right in (
        (y1, x1, y1 + 2, x2),
        (y2, x1, y2 + 2, x2),
        (y1, x1, y2, x1 + 2),
        (y1, x2, y2, x2 + 2),
    ):
        # Negative indices would count from the end.
        image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = color
    return image


def display_top_masks(
    image: np.ndarray,
    mask: np.ndarray,
    class_ids: np.ndarray,
    class_names: Any,
    limit: int = 4,
) -> Figure:
    """Shows an image and the masks of its largest classes (matterport: display_top_masks).

    Args:
        image: [H, W, 3].
        mask: masks of N objects, see `mask_crops`.
        class_ids: [N].
        limit: maximum number of classes; those with most pixels are shown.

    Returns:
        the figure.

    Raises:
        ValueError: arrays of wrong shapes.
    """
    image = utils.pixels_of(image)
    class_ids = np.ravel(class_ids)
    mask = mask_math.as_dense(mask)
    if not mask.size and not len(class_ids):
        mask = np.zeros((*image.shape[:2], 0), bool)
    if image.ndim not in (2, 3) or mask.shape != (*image.shape[:2], len(class_ids)):
        raise ValueError(
            "an image is [H, W, 3], its masks [H, W, N] and class_ids [N]. Received: "
            f"{image.shape}, {mask.shape}, {class_ids.shape}"
        )
    areas = np.zeros(len(class_ids))
    if mask.size:
        areas = np.count_nonzero(mask, axis=(0, 1))
    class_areas = {}
    for class_id in np.unique(class_ids):
        area = areas[class_ids == class_id].sum()
        if area:
            class_areas[class_id] = area
    top = sorted(class_areas, key=class_areas.__getitem__, reverse=True)[:limit]
    images = [image]
    height, width = image.shape[:2]
    titles = [f"H x W = {height} x {width}"]
    for class_id in top:
        # Each object has its own value; where objects overlap, the last one's.
        labels = np.zeros(mask.shape[:2], int)
        for value, i in enumerate(np.flatnonzero(class_ids == class_id), start=1):
            labels[mask[:, :, i].astype(bool)] = value
        images.append(labels)
        titles.append(fonts.plain(drawn_name(class_names, class_id)))
    empty = limit - len(top)
    images += [np.zeros(image.shape[:2], int)] * empty
    titles += ["-"] * empty
    return display_images(images, titles=titles, cols=limit + 1, cmap="Blues_r")


def plot_precision_recall(AP: float, precisions: np.ndarray, recalls: np.ndarray) -> Axes:
    """Plots precision over recall from `utils.compute_ap` (matterport: plot_precision_recall).

    Returns:
        the axes.
    """
    ax = _pyplot_axes((6, 6))
    ax.plot(recalls, precisions)
    ax.set(
        title=f"Precision and recall, AP@50 = {AP:.3f}",
        xlabel="recall",
        ylabel="precision",
        xlim=(0, 1.1),
        ylim=(0, 1.1),
    )
    ax.grid(alpha=0.3)
    return _shown(ax)


def plot_overlaps(
    gt_class_ids: np.ndarray | Sequence[int],
    pred_class_ids: np.ndarray | Sequence[int],
    pred_scores: np.ndarray | Sequence[float],
    overlaps: np.ndarray,
    class_names: Any,
    threshold: float = 0.5,
) -> Axes:
    """Plots the IoU of each prediction with each object (matterport: plot_overlaps).

    Args:
        gt_class_ids: [G].
        pred_class_ids, pred_scores: [P].
        overlaps: [P, G] IoU.
        class_names: see `class_name`.
        threshold: IoU above which a pair counts as a match.

    Class ids of 0, and their rows and columns at the end of `overlaps`, are padding.

    Returns:
        the axes.

    Raises:
        ValueError: overlaps of fewer rows or columns.
    """
    gt_class_ids = [class_id for class_id in gt_class_ids if class_id != 0]
    pred_class_ids = [class_id for class_id in pred_class_ids if class_id != 0]
    rows = len(pred_class_ids)
    columns = len(gt_class_ids)
    overlaps = np.asarray(overlaps, float)
    if not overlaps.size:
        overlaps = np.zeros((rows, columns))
    if overlaps.ndim != 2 or overlaps.shape[0] < rows or overlaps.shape[1] < columns:
        raise ValueError(
            f"overlaps are [predictions, objects], here {rows} x {columns}. "
            f"Received: shape {overlaps.shape}"
        )
    overlaps = overlaps[:rows, :columns]
    ax = _pyplot_axes((max(5, 0.9 * columns), max(4, 0.5 * rows)))
    if overlaps.size:
        ax.imshow(overlaps, interpolation="nearest", cmap="Blues", vmin=0, vmax=1, aspect="auto")
    elif rows:
        _write_in_middle(ax, "No objects")
    else:
        _write_in_middle(ax, "No predictions")
    names = [drawn_name(class_names, class_id) for class_id in pred_class_ids]
    for i, score in enumerate(pred_scores[:rows]):
        names[i] += f" ({score:.2f})"
    fonts.set_names(ax.yaxis, names)
    true_names = [drawn_name(class_names, class_id) for class_id in gt_class_ids]
    fonts.set_names(ax.xaxis, true_names, rotation=90)
    for (i, j), value in np.ndenumerate(overlaps):
        text = f"{value:.3f}"
        if value > threshold and gt_class_ids[j] == pred_class_ids[i]:
            text += "\nmatch"
        elif value > threshold:
            text += "\nwrong"
        color = "black"
        if value > 0.5:
            color = "white"
        ax.text(j, i, text, ha="center", va="center", fontsize=9, color=color)
    ax.set(xlabel="ground truth", ylabel="predictions")
    return _shown(ax)


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray | None = None,
    refined_boxes: np.ndarray | None = None,
    masks: np.ndarray | None = None,
    captions: Sequence[str] | None = None,
    visibilities: Sequence[int] | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Shows boxes, refined boxes, masks and captions (matterport: draw_boxes).

    Args:
        image: [H, W, 3].
        boxes, refined_boxes: [N, (y1, x1, y2, x2)] in pixels; drawn dashed and solid.
        masks: [N, H, W], as in matterport's documentation, or [H, W, N], as in its code.
        captions: [N] texts; fewer are for the first boxes.
        visibilities: [N] of 0 (grey, faint), 1 (dotted) and 2 (bright); missing ones are 2.

    Returns:
        the axes.

    Raises:
        ValueError: neither boxes nor refined boxes, another shape than [N, 4], or different
            numbers.
    """
    box_sets = []
    for box_set in (boxes, refined_boxes):
        if box_set is not None:
            box_sets.append(_boxes_to_draw(box_set))
    if not box_sets:
        raise ValueError("draw_boxes needs boxes or refined_boxes. Received: neither")
    count = len(box_sets[0])
    if len(box_sets[-1]) != count:
        raise ValueError(
            "draw_boxes takes as many refined boxes as boxes. Received:"
            f" {len(box_sets[-1])} and {count}"
        )
    new = ax is None
    if ax is None:
        ax = _pyplot_axes((12, 12))
    colors = random_colors(count)
    painted = utils.as_rgb(image)
    if masks is not None:
        masks = np.asarray(masks)
        if masks.shape == (count, *painted.shape[:2]):
            masks = np.moveaxis(masks, 0, -1)
        painted, mask_boxes = paint_masks(image, masks, colors)
    show_image(ax, painted, title, margin=10)
    if visibilities is None:
        visibilities = []
    visibilities = [*visibilities, *[2] * (count - len(visibilities))]
    labelled = []
    texts = []
    for i in range(count):
        drawn = None
        if boxes is not None and np.any(boxes[i]):
            drawn = boxes[i]
            _draw_box(ax, drawn, colors[i], visibilities[i], refined_boxes is not None)
        if refined_boxes is not None and visibilities[i] > 0:
            refined = np.asarray(refined_boxes[i]).astype(int)
            add_boxes(ax, refined, colors[i], 2)
            if drawn is not None:
                connect_boxes(ax, drawn, refined, colors[i])
            drawn = refined
        if captions is not None and drawn is not None:
            labelled.append(drawn)
            texts.append(_captions(captions, [""] * count)[i])
    if masks is not None:
        outline_masks(ax, masks, mask_boxes, colors)
    add_labels(ax, labelled, texts, image_limits(image), _label_size(new))
    return _shown(ax, new)


def _boxes_to_draw(boxes: Any) -> np.ndarray:
    """Boxes [N, 4] as an array; raises a ValueError for another shape, such as one box."""
    boxes = np.asarray(boxes)
    if len(boxes) and boxes.shape[1:] != (4,):
        raise ValueError(f"boxes are [N, (y1, x1, y2, x2)]. Received: shape {boxes.shape}")
    return boxes


def _draw_box(ax: Axes, box: np.ndarray, color: Any, visibility: int, refined: bool) -> None:
    """Draws a box of `draw_boxes` by its visibility; with `refined`, dashed instead of solid."""
    if visibility == 0:
        add_boxes(ax, box, "gray", 2, "dotted", 0.5)
    elif visibility == 1:
        add_boxes(ax, box, color, 2, "dotted")
    elif refined:
        add_boxes(ax, box, color, 2, "dashed")
    else:
        add_boxes(ax, box, color, 2, "solid")


# ---- Tables --------------------------------------------------------------------------------------


def display_table(table: Sequence[Sequence]) -> str:
    """Shows rows of cells as a table, in a notebook as HTML (matterport: display_table).

    Returns:
        the table as text.
    """
    texts = [[str(cell) for cell in row] for row in table]
    columns = itertools.zip_longest(*texts, fillvalue="")  # rows may differ in length
    widths = [max(len(cell) for cell in column) for column in columns]
    lines = []
    for row in texts:
        lines.append("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths)))
    text = "\n".join(lines)
    cell = _notebook_cell()
    if cell is None:
        print(text)
        return text
    from IPython.display import HTML, display

    display(HTML(_html_table(texts)))
    shown = _ShownText(text)
    shown._ipython_display_ = functools.partial(_show_in_other_cells, cell)
    return shown


def _html_table(texts: list[list[str]]) -> str:
    """Rows of texts as an HTML table."""
    import html

    rows = []
    for row in texts:
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        rows.append(f"<tr>{cells}</tr>")
    return f"<table>{''.join(rows)}</table>"


# Weights that may be constant: biases, and the initial values of batch normalisation.
CONSTANT_WEIGHTS = ("bias", "beta", "gamma", "moving_mean", "moving_variance")
# Larger trained weights are marked, since training has diverged.
LARGEST_WEIGHT = 1000


def display_weight_stats(model: MaskRCNN) -> str:
    """Shows shape, range and standard deviation of each weight (matterport: display_weight_stats).

    Args:
        model: a `MaskRCNN`.

    Returns:
        the table as text.
    """
    table = [["WEIGHT NAME", "SHAPE", "MIN", "MAX", "STD"]]
    for layer in _layers_in(model.keras_model):
        for variable in layer.weights:
            values = np.asarray(variable)
            name = f"{layer.name}/{variable.name}"
            # Other constant weights suggest a layer that was never initialised.
            if values.min() == values.max() and variable.name not in CONSTANT_WEIGHTS:
                name += " *** dead?"
            is_trained = not variable.name.startswith("moving_")
            if is_trained and np.abs(values).max(initial=0) > LARGEST_WEIGHT:
                name += " *** overflow?"
            table.append(
                [
                    name,
                    str(values.shape),
                    f"{values.min():+10.4f}",
                    f"{values.max():+10.4f}",
                    f"{values.std():+10.4f}",
                ]
            )
    return display_table(table)


def _layers_in(network: Any) -> list:
    """The layers of a network, and those of the networks in it, such as the RPN, in their place."""
    layers = []
    for layer in network.layers:
        if hasattr(layer, "layers"):
            layers += _layers_in(layer)
        else:
            layers.append(layer)
    return layers
