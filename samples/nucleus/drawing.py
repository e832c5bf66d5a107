"""Pictures of nuclei: the data by kind, augmentations, detections beside the truth, errors, counts.

Each function returns a matplotlib figure that no display knows of, as those of `mrcnn.figures`.
Dark images are shown brightened, but for those of augmentations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mrcnn import augmentation as aug, figures, visualize
from mrcnn.masks import LabelMaps
from samples.nucleus import bowl

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mrcnn.utils import Dataset
    from samples.nucleus.bowl import Labelled

KIND_COLORS = {
    "fluorescence": figures.BLUE,
    "stained": figures.PURPLE,
    "bright": figures.ORANGE,
}
GREEN = "#3ddc3d"
RED = "#ff4040"
YELLOW = "#ffd200"
VIOLET = "#d070ff"
SKY = "#40c0ff"
# Of nuclei, and of objects.
ERROR_COLORS = {
    "found": GREEN,
    "missed": YELLOW,
    "merged": VIOLET,
    "split": SKY,
    "false": RED,
}


# ---- Data ----------------------------------------------------------------------------------------


class Survey(NamedTuple):
    """The nuclei of a dataset's images.

    Attributes:
        image_ids: [images] ids in the dataset.
        kinds: [images] of `bowl.KINDS`.
        diameters: [images] of arrays [nuclei], pixels of the circle with the nucleus's area.
        shares: [images] of the image's pixels that are nuclei, in 0..1.
    """

    image_ids: list[int]
    kinds: list[str]
    diameters: list[np.ndarray]
    shares: list[float]

    def of_kind(self, kind: str) -> list[int]:
        """The places of a kind's images in the lists."""
        return [i for i, other in enumerate(self.kinds) if other == kind]

    def typical(self) -> list[int]:
        """Of each kind the id of the image with the median number of nuclei."""
        ids = []
        for kind in bowl.KINDS:
            places = sorted(self.of_kind(kind), key=lambda i: len(self.diameters[i]))
            ids += [self.image_ids[i] for i in places[len(places) // 2 :][:1]]
        return ids

    def densest(self, kind: str, count: int) -> list[int]:
        """Ids of the images of a kind with the most nuclei; of all, where none is of it."""
        places = self.of_kind(kind) or range(len(self.kinds))
        places = sorted(places, key=lambda i: -len(self.diameters[i]))
        return [self.image_ids[i] for i in places[:count]]

    def table(self) -> str:
        """A line of text for each kind."""
        heads = ("images", "nuclei", "an image", "diameter", "5% below", "5% above", "covered")
        lines = [f"{'':14}" + "".join(f"{name:>10}" for name in heads)]
        for kind in bowl.KINDS:
            rows = self.of_kind(kind)
            if rows:
                lines.append(f"{kind:14}" + self._cells(rows))
        return "\n".join(lines)

    def _cells(self, rows: Sequence[int]) -> str:
        counts = [len(self.diameters[i]) for i in rows]
        diameters = np.concatenate([self.diameters[i] for i in rows])
        low, middle, high = np.percentile(diameters, (5, 50, 95))
        covered = np.mean([self.shares[i] for i in rows])
        numbers = f"{len(rows):10d}{sum(counts):10d}{np.median(counts):10.0f}"
        return f"{numbers}{middle:10.1f}{low:10.1f}{high:10.1f}{covered:10.0%}"


def survey(dataset: Dataset) -> Survey:
    """The sizes and the density of the nuclei of a dataset; its images are read for their kind."""
    survey = Survey([], [], [], [])
    for image_id in dataset.image_ids:
        maps, _ = dataset.load_label_maps(image_id)
        areas = _areas(maps)
        survey.image_ids.append(int(image_id))
        survey.kinds.append(bowl.kind_of(dataset.load_image(image_id)))
        survey.diameters.append(2 * np.sqrt(areas / np.pi))
        survey.shares.append(float((maps.maps > 0).any(axis=0).mean()))
    return survey


def _areas(maps: LabelMaps) -> np.ndarray:
    """[N] pixels of each mask that has one."""
    counts = [np.bincount(labels.ravel()) for labels in maps.maps]
    rows = np.flatnonzero(maps.has_pixels)
    return np.array([counts[maps.map_of[i]][maps.label_of[i]] for i in rows], int)


def draw_kinds(dataset: Dataset, survey: Survey, columns: int = 4) -> Figure:
    """A row for each kind: images with few to many nuclei, their outlines drawn."""
    kinds = [kind for kind in bowl.KINDS if kind in survey.kinds]
    size = (2.6 * columns, 2.8 * len(kinds))
    figure, axes = visualize.new_figure(size, len(kinds), columns)
    for ax in axes:
        ax.set_axis_off()
    for row, kind in enumerate(kinds):
        places = sorted(survey.of_kind(kind), key=lambda i: len(survey.diameters[i]))
        shown = np.linspace(0, len(places) - 1, min(columns, len(places))).astype(int)
        for ax, i in zip(axes[row * columns :], shown):
            place = places[i]
            image_id = survey.image_ids[place]
            masks, _ = dataset.load_mask(image_id)
            title = f"{kind}, {_nuclei(masks.shape[-1])}"
            _show_outlined(ax, _brightened(dataset.load_image(image_id)), masks, YELLOW, title)
    return figure


def _brightened(image: np.ndarray) -> np.ndarray:
    """A copy of an image in which one of 500 pixels is white; 8 times brighter at most."""
    factor = min(255 / max(np.percentile(image, 99.8), 1), 8)
    return np.minimum(image * factor, 255).astype(np.uint8)


def _nuclei(count: int) -> str:
    """A number of nuclei in words."""
    if count == 1:
        return "1 nucleus"
    return f"{count} nuclei"


def _show_outlined(
    ax: Axes, image: np.ndarray, masks: np.ndarray, color: Any, title: str = ""
) -> None:
    """An image with the outlines of masks [H, W, N], in one colour or [N]."""
    visualize.show_image(ax, image, title)
    colors = color
    if isinstance(color, str):
        colors = [color] * masks.shape[-1]
    visualize.outline_masks(ax, masks, None, colors, width=0.8)


def plot_sizes(survey: Survey) -> Figure:
    """Diameters, numbers on an image and covered shares, by kind."""
    figure, axes = visualize.new_figure((10.5, 2.8), 1, 3)
    diameters, numbers, shares = axes
    edges = np.arange(0, 62, 2.0)
    for kind in bowl.KINDS:
        rows = survey.of_kind(kind)
        if not rows:
            continue
        sizes = np.concatenate([survey.diameters[i] for i in rows])
        shown = np.minimum(sizes, edges[-1] - 1)
        weights = np.full(len(sizes), 1 / max(len(sizes), 1))
        style = {"histtype": "step", "color": KIND_COLORS[kind], "linewidth": 1.5, "label": kind}
        diameters.hist(shown, edges, weights=weights, **style)
        counts = [len(survey.diameters[i]) for i in rows]
        covered = [survey.shares[i] for i in rows]
        medians = [float(np.median(survey.diameters[i])) for i in rows]
        dots = {"color": KIND_COLORS[kind], "s": 14, "alpha": 0.7}
        numbers.scatter(medians, counts, **dots)
        shares.scatter(counts, covered, **dots)
    diameters.set(xlabel="diameter, pixels (the last bin: more)", ylabel="share of the nuclei")
    diameters.legend(fontsize=7)
    numbers.set(xlabel="median diameter, pixels", ylabel="nuclei on the image", yscale="log")
    shares.set(xlabel="nuclei on the image", ylabel="share of pixels", xscale="log")
    for ax in axes:
        ax.grid(alpha=0.3)
    return figure


# ---- Augmentation --------------------------------------------------------------------------------


class _Example(NamedTuple):
    """A part of an image [H, W, 3] with its masks [H, W, N] bool."""

    image: np.ndarray
    masks: np.ndarray


def _example(dataset: Dataset, image_id: int, side: int) -> _Example:
    """The top left of an image, at most `side` pixels square, with the nuclei that it shows."""
    image = dataset.load_image(image_id)
    masks, _ = dataset.load_mask(image_id)
    side = min(side, *image.shape[:2])
    part = masks[:side, :side]
    return _Example(image[:side, :side], part[..., part.any(axis=(0, 1))])


def draw_augmentations(
    dataset: Dataset,
    image_ids: Sequence[int],
    steps: Mapping[str, Callable],
    side: int = 160,
    seed: int = 0,
) -> Figure:
    """Images before and after each augmentation, with the masks' outlines; a row for each image.

    Args:
        steps: {title: function as of `mrcnn.augmentation`}.
        side: of the part that is shown, pixels.
        seed: of the draws.
    """
    columns = 1 + len(steps)
    rows = len(image_ids)
    figure, axes = visualize.new_figure((1.45 * columns, 1.65 * rows), rows, columns)
    for row, image_id in enumerate(image_ids):
        before = _example(dataset, image_id, side)
        shown = {"before": before}
        for title, step in steps.items():
            rng = np.random.default_rng(seed)
            image, masks, _ = aug.call(step, *before, rng=rng)
            shown[title] = _Example(image, masks)
        for ax, (title, after) in zip(axes[row * columns :], shown.items()):
            _show_outlined(ax, *after, YELLOW, title)
    return figure


def draw_mixing(
    dataset: Dataset, image_ids: Sequence[int], fill: Any = 0, side: int = 256, seed: int = 0
) -> Figure:
    """One image; smaller and larger; objects of another pasted over it; a mosaic with three others.

    Args:
        image_ids: four, of one kind; fewer are taken again.
        fill: value around what is smaller, a number or one for each channel.
        side: of the part that is shown, pixels.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    parts = [_example(dataset, image_id, side) for image_id in np.resize(image_ids, 4).tolist()]
    ids = [np.ones(part.masks.shape[-1], int) for part in parts]
    first = parts[0]
    shown = {"before": first}
    for title, scale in (("SCALE_JITTER, .6", 0.6), ("SCALE_JITTER, 1.8", 1.8)):
        placed = aug.place(*first, first.image.shape, rng, scale, fill=fill)
        visible = placed.masks.any(axis=(0, 1))
        shown[title] = _Example(placed.image, placed.masks[..., visible])
    pasted = aug.copy_paste(*first, ids[0], *parts[1], ids[1], rng)
    shown["COPY_PASTE"] = _Example(*pasted[:2])
    images = [part.image for part in parts]
    mosaic = aug.mosaic(images, [part.masks for part in parts], ids, rng)
    shown["MOSAIC"] = _Example(*mosaic[:2])
    figure, axes = visualize.new_figure((2.4 * len(shown), 2.6), 1, len(shown))
    for ax, (title, part) in zip(axes, shown.items()):
        _show_outlined(ax, *part, YELLOW, title)
    return figure


# ---- Detections beside the truth -----------------------------------------------------------------


def draw_beside(images: Sequence[Labelled], dataset: Dataset) -> Figure:
    """Images of an evaluation: above the truth, below the detections, coloured by `bowl.errors`."""
    columns = len(images)
    figure, axes = visualize.new_figure((2.9 * columns, 6.3), 2, columns)
    for above, below, image in zip(axes, axes[columns:], images):
        picture = _brightened(dataset.load_image(image.image_id))
        title = f"image {image.image_id}, {image.kind}: {_nuclei(image.nuclei)}"
        masks, numbers = _masks_of(image.truth)
        _show_outlined(above, picture, masks, _nucleus_colors(image, numbers), title)
        title = f"{image.counted} detected, score {image.scores.mean():.2f}"
        masks, numbers = _masks_of(image.predicted)
        _show_outlined(below, picture, masks, _object_colors(image, numbers), title)
    _add_legend(figure)
    return figure


def _masks_of(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """masks [H, W, N] bool of a label image [H, W], and their numbers [N]."""
    numbers = np.unique(labels[labels > 0])
    return labels[..., None] == numbers, numbers


def _nucleus_colors(image: Labelled, numbers: np.ndarray) -> list[str]:
    fates = {"missed": image.errors.missed, "merged": image.errors.merged}
    fates["split"] = image.errors.split
    return _colors(fates, numbers)


def _object_colors(image: Labelled, numbers: np.ndarray) -> list[str]:
    fates = {"false": image.errors.false, "merged": image.errors.merging}
    fates["split"] = image.errors.pieces
    return _colors(fates, numbers)


def _colors(fates: Mapping[str, np.ndarray], numbers: np.ndarray) -> list[str]:
    """[N] the colour of each number: of the first that has it, else of what is found."""
    colors = []
    for number in numbers:
        of_number = [name for name, members in fates.items() if number in members]
        colors.append(ERROR_COLORS[[*of_number, "found"][0]])
    return colors


def _add_legend(figure: Figure) -> None:
    """A line at the bottom that says what the colours of `ERROR_COLORS` mean."""
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=color, linewidth=3) for color in ERROR_COLORS.values()]
    figure.legend(lines, list(ERROR_COLORS), loc="outside lower center", ncols=5, fontsize=8)


# ---- Errors --------------------------------------------------------------------------------------


def plot_errors(images: Sequence[Labelled]) -> Figure:
    """What becomes of the nuclei, by kind of image and by size; false objects beside them."""
    figure, (by_kind, by_size) = visualize.new_figure((10.5, 3.2), 1, 2)
    kinds = [kind for kind in bowl.KINDS if any(image.kind == kind for image in images)]
    columns = []
    for kind in kinds:
        of_kind = [image for image in images if image.kind == kind]
        columns.append(_counted(of_kind))
    titles = [f"{kind}\n{_nuclei(sum(column[:4]))}" for kind, column in zip(kinds, columns)]
    _stack(by_kind, columns, titles)
    edges = np.array([0, 10, 15, 20, 30, np.inf])
    columns = [_counted(images, *pair) for pair in zip(edges[:-1], edges[1:])]
    titles = [f"{low:.0f} to {high:.0f}" for low, high in zip(edges[:-2], edges[1:-1])]
    titles.append(f"from {edges[-2]:.0f}")
    titles = [f"{title}\n{_nuclei(sum(column[:4]))}" for title, column in zip(titles, columns)]
    _stack(by_size, columns, titles)
    by_kind.set(ylabel="for each nucleus")
    by_size.set(xlabel="diameter, pixels")
    by_size.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _counted(images: Sequence[Labelled], low: float = 0, high: float = np.inf) -> list[int]:
    """How many nuclei of a diameter from low to below high were found, missed, merged, split; and
    how many objects of it are false."""
    counts = []
    for name in bowl.ERRORS:
        total = 0
        for image in images:
            labels = image.truth
            if name == "false":
                labels = image.predicted
            diameters = 2 * np.sqrt(np.bincount(labels.ravel()) / np.pi)
            chosen = diameters[getattr(image.errors, name)]
            total += int(((chosen >= low) & (chosen < high)).sum())
        counts.append(total)
    return counts


def _stack(ax: Axes, columns: Sequence[Sequence[int]], titles: Sequence[str]) -> None:
    """Bars of 1 for the nuclei of each column, and beside it one of the false objects."""
    nuclei = np.maximum([sum(column[:4]) for column in columns], 1)
    places = np.arange(len(columns))
    bottom = np.zeros(len(columns))
    top = 1.0
    for i, name in enumerate(bowl.ERRORS):
        heights = np.array([column[i] for column in columns]) / nuclei
        style = {"color": ERROR_COLORS[name], "label": name, "edgecolor": "white"}
        if name == "false":
            ax.bar(places + 0.3, heights, 0.2, **style)
            top = max(top, *heights)
        else:
            ax.bar(places - 0.1, heights, 0.5, bottom=bottom, **style)
            bottom = bottom + heights
    ax.set_xticks(places, titles, fontsize=7)
    ax.set_ylim(0, 1.05 * top)


CLOSE_UP = 64  # pixels


def draw_errors(images: Sequence[Labelled], dataset: Dataset, columns: int = 5) -> Figure:
    """A row for each kind of error: the largest of it on several images.

    Yellow is the truth, blue what was detected; the cross marks the nucleus, or the false object.
    """
    kinds = bowl.ERRORS[1:]
    figure, axes = visualize.new_figure((1.9 * columns, 2.1 * len(kinds)), len(kinds), columns)
    for ax in axes:
        ax.set_axis_off()
    for row, name in enumerate(kinds):
        ofs = [image for image in images if len(getattr(image.errors, name))]
        axes[row * columns].set_title(f"{name}: none", fontsize=9)
        shown = np.linspace(0, len(ofs) - 1, min(columns, len(ofs))).astype(int)
        for ax, i in zip(axes[row * columns :], shown):
            _draw_error(ax, ofs[i], dataset, name)
    return figure


def _draw_error(ax: Axes, image: Labelled, dataset: Dataset, name: str) -> None:
    """The surroundings of the largest nucleus, or object, of a kind of error."""
    labels = image.truth
    if name == "false":
        labels = image.predicted
    numbers = getattr(image.errors, name)
    number = numbers[np.argmax(np.bincount(labels.ravel())[numbers])]
    rows, columns = np.nonzero(labels == number)
    middle = np.array([rows.mean(), columns.mean()])
    corner = np.clip(middle - CLOSE_UP / 2, 0, np.maximum(np.array(labels.shape) - CLOSE_UP, 0))
    y, x = corner.astype(int)
    window = (slice(y, y + CLOSE_UP), slice(x, x + CLOSE_UP))
    picture = _brightened(dataset.load_image(image.image_id))
    visualize.show_image(ax, picture[window], name)
    for labels, color, width in ((image.truth, YELLOW, 1.6), (image.predicted, SKY, 0.9)):
        masks, _ = _masks_of(labels[window])
        visualize.outline_masks(ax, masks, None, [color] * masks.shape[-1], width)
    ax.plot(middle[1] - x, middle[0] - y, "+", color=RED, markersize=8)


# ---- Counts --------------------------------------------------------------------------------------


def plot_counts(images: Sequence[Labelled], share: float = 0.8) -> Figure:
    """True against counted nuclei, an image a point; its interval of `bowl.count_intervals`."""
    figure, (ax,) = visualize.new_figure((5.2, 4.2))
    intervals = bowl.count_intervals(images, share)
    for image, interval in zip(images, intervals):
        style = {"color": KIND_COLORS.get(image.kind, figures.GREY)}
        ax.vlines(image.counted, interval.low, interval.high, alpha=0.4, **style)
        ax.plot(image.counted, image.nuclei, "o", markersize=4, **style)
    most = max(max(image.counted, image.nuclei) for image in images) + 1
    ax.plot([0, most], [0, most], color=figures.GREY, linewidth=0.8, linestyle="--")
    for kind in bowl.KINDS:
        ax.plot([], [], "o", color=KIND_COLORS[kind], label=kind)
    ax.set(xlabel="counted", ylabel="true (point) and interval (line)")
    ax.set(xscale="symlog", yscale="symlog")
    ax.legend(fontsize=7)
    ax.grid(alpha=0.3)
    return figure
