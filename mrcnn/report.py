"""HTML reports of an evaluation and of a running training, each a single file.

    result = evaluate.evaluate(model, dataset)
    report.write(result, dataset, "report.html", config=model.config, weights=model.weights_file)

The report of an evaluation has the figures, curves, errors by kind, the confusion matrix, the worst
images with ground truth and detections side by side, and the settings; the commands write it with
`--report`. The report of a training has losses, learning rate, AP and the first batch as the
network sees it; it is written into the training's folder after each epoch, see
`training.TrainingPage`. The elements of a page are in `mrcnn.page`.
"""

from __future__ import annotations

import collections
import datetime
import heapq
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mrcnn import __version__, config as configs, evaluate, files, masks, media, page, visualize
from mrcnn.page import Safe, joined

if TYPE_CHECKING:
    from mrcnn.config import Config
    from mrcnn.utils import Dataset

# The largest number of images on a page, and the longer side of each in pixels.
IMAGES = 24
SIDE = 640
# The largest size of all images of a page together, in bytes.
MOST_BYTES = 16_000_000
# With more objects than this, labels are left out, since they would hide the image.
MOST_LABELS = 12
# Classes in the confusion matrix.
MOST_CONFUSED = 30

# Colours of objects and detections, distinguishable with most red-green colour blindness.
COLORS = {
    "found": (0.10, 0.78, 0.50),
    "missed": (1.00, 0.55, 0.10),
    "double": (0.62, 0.50, 0.98),
    "wrong class": (0.93, 0.50, 0.78),
    "bad mask": (0.97, 0.92, 0.35),
    "bad place": (0.20, 0.62, 1.00),
    "false": (0.93, 0.22, 0.25),
    "crowd": (0.60, 0.60, 0.60),
}
MEANINGS = {
    "found": "an object with a detection of its class, IoU .5 or more",
    "missed": "an object that no detection stands for",
    "double": "one more detection of an object that was found",
    "wrong class": "a detection on an object of another class",
    "bad mask": "the detection's box fits an object of its class, its mask doesn't",
    "bad place": "a detection beside an object of its class, or on a part of it, IoU .1 to .5",
    "false": "a detection on nothing of its class",
}


class Table(NamedTuple):
    """An additional table of figures on a page, see `write`.

    Attributes:
        title: heading.
        heads: titles of the columns.
        rows: of text and numbers.
        note: text above the table.
        cards: [(title, number)], shown among the main figures at the top of the page.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    cards: Sequence[tuple[str, float]] = ()


# Suffixes of files, which a folder's name won't end in.
OTHER_SUFFIXES = (".pdf", ".png", ".jpg", ".json", ".md", ".txt", ".xml", ".csv", ".doc", ".docx")


def place(path: files.PathLike, name: str = "report.html") -> pathlib.Path:
    """The path of a page: `path` if it ends in .html, else `name` in the folder `path`.

    Raises:
        ValueError: `path` is a folder with a name that ends in .html, or a file with another name.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() in (".html", ".htm"):
        if path.is_dir():
            raise ValueError(f"a page is a file that ends in .html. Received: {path}, a folder")
        return path
    is_file = path.exists() and not path.is_dir()
    if is_file or (path.suffix.lower() in OTHER_SUFFIXES and not path.exists()):
        raise ValueError(
            f"a page is a file that ends in .html, or {name} in a folder. Received: {path}, a file"
        )
    return path / name


# ---- Evaluation ----------------------------------------------------------------------------------


def write(
    evaluation: evaluate.Evaluation,
    dataset: Dataset,
    path: files.PathLike,
    *,
    config: Config | None = None,
    weights: files.PathLike | None = None,
    title: str = "Evaluation",
    tables: Sequence[Table] = (),
    images: int = IMAGES,
    side: int = SIDE,
    score: float = 0.5,
) -> str:
    """Writes the page of an evaluation, a single self-contained file.

    The images are read again, one at a time. The page shows only the worst ones: at most `images`,
    and fewer if together they would take more than `MOST_BYTES`.

    Args:
        evaluation: of `evaluate.evaluate` or `evaluate.evaluate_detections`.
        dataset: the evaluated dataset.
        path: a file *.html, or a folder, for report.html in it.
        config: of the model, for the settings; its IMAGE_PERCENTILES and IMAGE_GAMMA set the
            contrast of the images.
        weights: path of the weight file.
        title: of the page.
        tables: additional tables.
        images: the largest number of images.
        side: longer side of an image, in pixels.
        score: errors and images show detections with at least this score.

    Returns:
        the path of the file.

    Raises:
        ValueError: a path that is no *.html and no folder; an evaluation without ground truth.
        OSError: the page can't be written.
    """
    path = place(path)
    if evaluation.truth is None:
        raise ValueError("a report needs the evaluation's truth. Received: one without")
    if images < 0 or side < 1:
        raise ValueError(f"images is 0 or more, side 1 or more. Received: {images}, {side}")
    writer = _Report(evaluation, dataset, config, score)
    worst = writer.worst(images)
    parts = [
        ("figures", "Figures", writer.figures(tables)),
        ("errors", "Errors by kind", writer.errors()),
        ("images", "Worst images", writer.pictures(worst, side)),
        ("curves", "Precision and recall", writer.curves()),
        ("classes", "By class and size", writer.classes()),
        ("confusion", "Confusion", writer.confusion()),
        ("settings", "Settings", _settings(config)),
        ("about", "About", writer.about(weights)),
    ]
    head = [page.element("h1", title), writer.summary(), writer.cards(tables)]
    head.append(page.contents([(name, heading) for name, heading, _ in parts]))
    sections = [page.section(*part) for part in parts]
    body = joined([page.element("header", joined(head)), page.element("main", joined(sections))])
    return page.write(path, title, body)


class _Report:
    """The sections of an evaluation's page.

    Args: see `write`.

    Attributes:
        names: {category id: class name}.
        dataset_ids: {image id in the ground truth: image id of the dataset}.
        kind: "segm" if masks were evaluated, else "bbox".
        counts: {category id: {"objects", "detections", "found", ...: number}}, set by `worst`.
        images_with_errors: number of images with an error, set by `worst`.
    """

    def __init__(
        self,
        evaluation: evaluate.Evaluation,
        dataset: Dataset,
        config: Config | None,
        score: float,
    ):
        self.evaluation = evaluation
        self.dataset = dataset
        self.config = config
        self.score = score
        truth = evaluation.truth
        categories = [category["id"] for category in truth.data["categories"]]
        self.names = dict(zip(categories, evaluation.per_class))
        self.dataset_ids = {truth_id: image_id for image_id, truth_id in truth.image_ids.items()}
        self.kind = evaluation.kinds()[-1][0]
        self.counts: dict[Any, collections.Counter] = collections.defaultdict(collections.Counter)
        self.images_with_errors = 0

    def worst(self, most: int) -> list[evaluate.ImageErrors]:
        """The images with the lowest score, of equal ones those with more errors; counts all."""
        errors = self._counted(self.evaluation.errors(self.score))
        # nsmallest(0) would not iterate over the images, and so not count them.
        return heapq.nsmallest(max(most, 1), errors, key=_badness)[:most]

    def _counted(self, images: Iterable[evaluate.ImageErrors]) -> Iterator[evaluate.ImageErrors]:
        """Yields the images with an error; counts all of them."""
        for image in images:
            for item, fate in zip(image.objects, image.fates):
                counts = self.counts[item["category_id"]]
                counts["objects"] += 1
                counts[fate] += fate in ("found", "missed")
            for row, kind in zip(image.rows, image.kinds):
                counts = self.counts[row["category_id"]]
                counts["detections"] += 1
                counts[kind] += kind != "found"
            if image.score < 1:
                self.images_with_errors += 1
                yield image

    def total(self) -> collections.Counter:
        """The sum of the counts over all classes."""
        total: collections.Counter = collections.Counter()
        for counts in self.counts.values():
            total.update(counts)
        return total

    # ---- Header of the page ----

    def summary(self) -> Safe:
        """A line with the numbers of images, objects, classes and detections, and the date."""
        total = self.total()
        now = datetime.datetime.now().astimezone()
        words = (
            f"{_several(self.evaluation.images, 'image')},"
            f" {_several(total['objects'], 'object')} of"
            f" {_several(len(self.names), 'class', 'classes')},"
            f" {_several(len(self.evaluation.detections), 'detection')},"
            f" {total['detections']:,} of them of score {self.score:g} or more."
            f" {now:%Y-%m-%d %H:%M %Z}"
        )
        return page.element("p", words, class_="soft")

    def cards(self, tables: Sequence[Table]) -> Safe:
        """The main figures."""
        figures = dict(self.evaluation.kinds())
        kind_title = evaluate.TITLES[self.kind]
        names = {
            "AP": f"{kind_title} AP",
            "AP50": "AP at IoU .5",
            "AP75": "AP at IoU .75",
            "APs": "AP, small objects",
            "APm": "AP, medium",
            "APl": "AP, large",
        }
        shown = [(names[name], figures[self.kind][name]) for name in names]
        if self.kind != "bbox":
            shown.append(("box AP", figures["bbox"]["AP"]))
        if self.evaluation.keypoints:
            shown.append(("keypoint AP", self.evaluation.keypoints["AP"]))
        for table in tables:
            shown += table.cards
        cards = []
        for title, value in shown:
            words = [page.element("b", page.number(value)), page.element("span", title)]
            cards.append(page.element("li", joined(words)))
        return page.element("ul", joined(cards), class_="cards")

    # ---- Sections ----

    def figures(self, tables: Sequence[Table]) -> Safe:
        """COCO's figures, and the additional tables."""
        evaluation = self.evaluation
        rows = []
        for kind, figures in evaluation.kinds():
            rows += evaluation.figure_rows(kind, figures)
        heads = ["", *evaluation.figure_names("bbox")]
        parts = [page.table(heads, [[title, *values] for title, values in rows], "COCO's figures")]
        if evaluation.keypoints:
            rows = evaluation.figure_rows("keypoints", evaluation.keypoints)
            heads = ["", *evaluation.figure_names("keypoints")]
            lines = [[title, *values] for title, values in rows]
            parts.append(page.table(heads, lines, "COCO's figures of keypoints"))
        parts.append(
            page.paragraph(
                "AP is the mean over the IoU thresholds .5, .55, … .95, over classes; AP50 and AP75"
                " are at one threshold. s, m, l: objects of less than 32², less than 96², and more"
                " pixels. AR: recall, of the best 1, 10, 100 detections of a class on an image."
                f" {page.NOTHING}: there is no such object."
            )
        )
        for table in tables:
            parts.append(page.element("h3", table.title))
            if table.note:
                parts.append(page.paragraph(table.note))
            parts.append(page.table(table.heads, table.rows, table.title))
        return joined(parts)

    def errors(self) -> Safe:
        """The counts of objects and detections by kind of error."""
        total = self.total()
        rows = []
        for name, meaning in MEANINGS.items():
            title = Safe(page.swatch(COLORS[name]) + page.escaped(name))
            rows.append([title, int(total[name]), meaning])
        bar = []
        for name in MEANINGS:
            if total[name]:
                style = f"background:{page.css_color(COLORS[name])};--count:{total[name]}"
                bar.append(page.element("i", "", style=style))
        noun = evaluate.TITLES[self._compared()]
        note = (
            f"Detections of score {self.score:g} or more, compared by their {noun}. Objects found:"
            f" {_share(total['found'], total['objects'])}; detections that find one:"
            f" {_share(total['found'], total['detections'])}."
        )
        parts = [
            page.paragraph(note),
            page.element("div", joined(bar), class_="stack", aria_hidden="true"),
            page.table(["kind", "number", "meaning"], rows, "Errors by kind"),
        ]
        if total["objects"] and not total["detections"]:
            parts.append(
                page.paragraph(
                    f"No detection has a score of {self.score:g}: the network is sure of nothing."
                )
            )
        if len(self.names) > 1:
            parts.append(self._errors_by_class())
        return joined(parts)

    def _compared(self) -> str:
        """The kind that is compared to classify the errors: "segm" or "bbox"."""
        if self.evaluation.segm:
            return "segm"
        return "bbox"

    def _errors_by_class(self) -> Safe:
        """The table of errors by class."""
        rows = []
        for category_id, name in self.names.items():
            counts = self.counts[category_id]
            if counts["objects"] or counts["detections"]:
                kinds = [int(counts[kind]) for kind in MEANINGS]
                rows.append([name, int(counts["objects"]), int(counts["detections"]), *kinds])
        heads = ["class", "objects", "detections", *MEANINGS]
        caption = "Errors by class: of the object where it was missed, else of the detection"
        return page.table(heads, rows, caption, sortable=True)

    def curves(self) -> Safe:
        """Charts of precision over recall at COCO's ten IoUs."""
        drawn = []
        for kind, _ in self.evaluation.kinds():
            if kind not in self.evaluation.curves:
                continue
            precision = self.evaluation.mean_precision(kind)
            if precision is not None:
                drawn.append(_precision_chart(kind, precision))
        if not drawn:
            return page.paragraph("There is no object, and so no curve.")
        note = page.paragraph("The mean over the classes, at each IoU threshold.")
        return joined([note, page.charts(drawn)])

    def classes(self) -> Safe:
        """The figures of each class, and its precision-recall curve at an IoU of .5."""
        evaluation = self.evaluation
        columns = [(name, f"{self.kind} {name}") for name in evaluate.CLASS_FIGURES]
        if self.kind != "bbox":
            columns.append(("box AP", "bbox AP"))
        if evaluation.keypoints:
            columns.append(("keypoint AP", "keypoints AP"))
        rows = []
        for i, (category_id, name) in enumerate(self.names.items()):
            figures = evaluation.per_class[name]
            values = [float(figures.get(key, np.nan)) for _, key in columns]
            rows.append([name, int(self.counts[category_id]["objects"]), *values, self._curve(i)])
        heads = ["class", "objects", *(head for head, _ in columns), "curve"]
        caption = (
            f"Figures of {evaluate.PLURALS[self.kind]} by class and size of the objects; the curve"
            " is precision over recall at an IoU of .5"
        )
        return page.table(heads, rows, caption, sortable=len(rows) > 1)

    def _curve(self, i: int) -> Any:
        """The precision-recall curve of the class with index i; None without objects."""
        if self.kind not in self.evaluation.curves:
            return None
        values = self.evaluation.curves[self.kind]["precision"][0, ::4, i]
        if np.isnan(values).any():
            return None
        return page.sparkline(values.tolist())

    def confusion(self) -> Safe:
        """The confusion matrix of the classes that are confused most."""
        if self.evaluation.confusion is None:
            return page.paragraph("It was not counted.")
        matrix = np.asarray(self.evaluation.confusion)
        indices, used = self.evaluation.most_confused(MOST_CONFUSED)
        names = [self.evaluation.class_names()[i] for i in indices]
        sums = np.maximum(matrix.sum(axis=1), 1)
        rows = []
        for i, name in zip(indices, names):
            cells = []
            for j in indices:
                text: Any = ""
                if matrix[i, j]:
                    text = f"{matrix[i, j]:,}"
                cells.append(page.Shaded(text, matrix[i, j] / sums[i]))
            if i == 0:
                name = "no object"
            rows.append([name, *cells])
        heads = ["object, detected as", "nothing", *names[1:]]
        note = (
            "Rows: what an object is; columns: what it is detected as, with a score of .5 and an"
            " IoU of .5 or more, of whatever class. The ground is the stronger, the larger a share"
            " of the row a number is."
        )
        if len(indices) - 1 < used:
            note += f" The {len(indices) - 1} of {used} classes that are confused most."
        table = page.table(heads, rows, "Confusion matrix", class_="matrix")
        return joined([page.paragraph(note), table])

    def about(self, weights: files.PathLike | None) -> Safe:
        """Version, weights, date and unreadable images."""
        evaluation = self.evaluation
        rows: list[list[Any]] = [
            ["version", f"mrcnn {__version__}"],
            ["weights", _weights_text(weights)],
            ["date", f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}"],
            ["images", f"{evaluation.images:,}"],
            ["detections that count", f"{evaluation.max_detections} of a class on an image"],
        ]
        if evaluation.seconds:
            rows.append(["seconds to detect", f"{evaluation.seconds:.1f}"])
        parts = [page.table(["", ""], rows, "Where the figures come from")]
        if evaluation.unreadable:
            count = len(evaluation.unreadable)
            parts.append(
                page.paragraph(
                    f"{_several(count, 'image')} could not be read; the objects count as missed:"
                )
            )
            reasons = [page.element("li", reason) for _, reason in evaluation.unreadable[:20]]
            parts.append(page.element("ul", joined(reasons)))
        return joined(parts)

    # ---- Images ----

    def pictures(self, worst: Sequence[evaluate.ImageErrors], side: int) -> Safe:
        """The worst images, one at a time, with navigation."""
        if not self.images_with_errors:
            return page.paragraph("There is no image with an error.")
        image_steps: list[page.Step] = []
        size = 0
        for image in worst:
            image_step = self._step(image, side)
            size += len(image_step.content)
            if image_steps and size > MOST_BYTES:
                break
            image_steps.append(image_step)
        if not image_steps:
            return page.paragraph("No pictures were asked for.")
        legend = []
        for name in MEANINGS:
            legend.append(page.element("li", Safe(page.swatch(COLORS[name]) + page.escaped(name))))
        note = (
            f"{len(image_steps)} of the {self.images_with_errors:,} images with an error, the worst"
            " first: those with the lowest score, which is the share of the found objects in all"
            " objects and all other detections."
        )
        return joined(
            [
                page.paragraph(note),
                page.element("ul", joined(legend), class_="legend"),
                page.steps("Worst images", image_steps),
            ]
        )

    def _step(self, image: evaluate.ImageErrors, side: int) -> page.Step:
        """An image with its ground truth and its detections side by side."""
        image_id = self.dataset_ids[image.image_id]
        name = image_name(self.dataset, image_id)
        title = f"{name}: score {image.score:.2f}"
        words = ", ".join(f"{count} {kind}" for kind, count in image.counts.items() if count)
        try:
            shown = self._shown(image_id, side)
        except Exception as error:  # a user's load_image may raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            content = page.paragraph(f"{words}. The image can't be read: {reason[:300]}")
            return page.Step(name, title, content)
        figures = []
        objects = [*image.crowds, *image.objects]
        fates = ["crowd"] * len(image.crowds) + image.fates
        for word, items, kinds in (
            ("Truth", objects, fates),
            ("Detected", image.rows, image.kinds),
        ):
            painted = self._painted(shown, image.size, items, kinds)
            counts = collections.Counter(kinds)
            summary = ", ".join(f"{counts[kind]} {kind}" for kind in COLORS if counts[kind])
            caption = f"{word}: {summary or 'nothing'}"
            uri = page.data_uri(painted)
            figures.append(page.picture(uri, painted.shape, f"{name}. {caption}", caption))
        content = page.element("div", joined(figures), class_="pair")
        return page.Step(name, title, joined([page.paragraph(words), content]))

    def _shown(self, image_id: int, side: int) -> np.ndarray:
        """An image resized for the page, [h, w, 3] uint8; side: its longer side in pixels."""
        percentiles: Sequence[float] = ()
        gamma = 1.0
        if self.config is not None:
            percentiles = self.config.IMAGE_PERCENTILES
            gamma = self.config.IMAGE_GAMMA
        image = page.shown_image(self.dataset.load_image(image_id), percentiles, gamma)
        return page.resized(image, page.fitting(image.shape, side))

    def _painted(
        self,
        shown: np.ndarray,
        size: tuple[int, int],
        items: Sequence[dict],
        kinds: Sequence[str],
    ) -> np.ndarray:
        """A copy of an image with objects or detections in the colours of their kinds.

        Args:
            shown: [h, w, 3] uint8.
            size: (height, width) of the original image, to which the items' coordinates refer.
            items: annotations or COCO results.
            kinds: [N], keys of `COLORS`.
        """
        # Errors are painted over correct items.
        order = sorted(range(len(items)), key=lambda i: kinds[i] != "found")
        items = [items[i] for i in order]
        colors = [COLORS[kinds[i]] for i in order]
        scale = np.array(shown.shape[:2]) / np.maximum(size, 1)
        painted = shown.copy()
        has_mask = [False] * len(items)
        if self.evaluation.segm:
            for i, item in enumerate(items):
                has_mask[i] = _paint_mask(painted, item, size, scale, colors[i])
        texts = self._texts(items)
        for with_mask in (True, False):  # boxes are painted only for items without a mask
            rows = [i for i in range(len(items)) if has_mask[i] == with_mask]
            result = self._scaled([items[i] for i in rows], scale)
            painted = media.paint(
                painted,
                result,
                None,
                colors=[colors[i] for i in rows],
                texts=[texts[i] for i in rows],
                boxes=not with_mask,
            )
        return painted

    def _texts(self, items: Sequence[dict]) -> list[str]:
        """Labels of objects: class, if there are several, and score; "" for many objects."""
        texts = []
        for item in items:
            words = []
            if len(self.names) > 1:
                words.append(self.names[item["category_id"]])
            if "score" in item:
                words.append(f"{item['score']:.2f}")
            text = ""
            if len(items) <= MOST_LABELS:
                text = " ".join(words)
            texts.append(text)
        return texts

    def _scaled(self, items: Sequence[dict], scale: np.ndarray) -> dict:
        """Boxes and keypoints of items, scaled, in the form of a result of `MaskRCNN.detect`."""
        boxes = np.array([item["bbox"] for item in items], float).reshape(-1, 4)
        x, y, width, height = boxes.T
        rois = np.stack([y, x, y + height, x + width], axis=1) * np.tile(scale, 2)
        result: dict[str, Any] = {"rois": rois, "class_ids": [0] * len(items), "scores": None}
        if self.evaluation.keypoints and items:
            counts = [len(item.get("keypoints") or ()) for item in items]
            points = np.zeros((len(items), max(counts) // 3, 3))
            for i, item in enumerate(items):
                numbers = np.array(item.get("keypoints") or (), float).reshape(-1, 3)
                points[i, : len(numbers)] = numbers[:, [1, 0, 2]]
            points[..., :2] *= scale
            result["keypoints"] = points
        return result


def _badness(image: evaluate.ImageErrors) -> tuple[float, int]:
    """Sort key of images, worst first: score, then the number of errors."""
    counts = image.counts
    return image.score, counts.pop("found") - sum(counts.values())


def _several(count: int, singular: str, plural: str = "") -> str:
    """A count with its noun, such as "2 images"; plural: needed if it doesn't just end in s."""
    if count == 1:
        return f"1 {singular}"
    return f"{count:,} {plural or singular + 's'}"


def _share(part: int, total: int) -> str:
    """A share as text, such as "3 of 4 (75%)"."""
    if not total:
        return "none of 0"
    return f"{part:,} of {total:,} ({100 * part / total:.0f}%)"


def _precision_chart(kind: str, precision: np.ndarray) -> Safe:
    """A chart of precision [10 IoUs, 101 recalls] over recall."""
    recalls = np.linspace(0, 1, precision.shape[1]).tolist()
    lines = []
    for i, curve in enumerate(precision):
        name = f"IoU {0.5 + 0.05 * i:.2f}: AP {curve.mean():.3f}"
        lines.append(page.Line(name, recalls, curve.tolist(), page.ramp(i / 9)))
    title = evaluate.PLURALS[kind].capitalize()
    return page.chart(title, lines, "recall", "precision", (0, 1), (0, 1))


def _weights_text(weights: files.PathLike | None) -> str:
    """The path, size and date of a weight file."""
    if weights is None:
        return "not known"
    text = os.fspath(weights)
    try:
        state = os.stat(weights)
    except (OSError, ValueError):  # a name such as "none", or a deleted file
        return str(text)
    date = datetime.datetime.fromtimestamp(state.st_mtime).astimezone()
    return f"{text}, {state.st_size / 1e6:.1f} MB, of {date:%Y-%m-%d %H:%M %Z}"


def image_name(dataset: Dataset, image_id: int) -> str:
    """The name of an image on a page: that of its file, or its id with its reference."""
    info = dataset.image_info[image_id]
    path = info.get("path")
    if isinstance(path, (str, os.PathLike)) and os.fspath(path):
        return os.path.basename(os.fsdecode(path)) or str(path)
    try:
        reference = dataset.image_reference(image_id)
    except Exception:  # a user's image_reference may raise anything
        reference = ""
    words = f"image {image_id}"
    if reference:
        words += f", {files.short(str(reference))}"
    return words


def _settings(config: Config | None) -> Safe:
    """The settings that differ from the defaults."""
    if config is None:
        return page.paragraph("The settings are not known.")
    changed = configs.changed_settings(config)
    if not changed:
        return page.paragraph("All settings are the defaults.")
    rows = []
    for name in changed:
        default = getattr(configs.Config, name)
        values = [_setting_text(getattr(config, name)), _setting_text(default)]
        rows.append([page.breakable(name), *values])
    note = page.paragraph(
        f"What {type(config).__name__} changes: {_several(len(rows), 'setting')}. All others are"
        " the defaults."
    )
    return joined([note, page.table(["setting", "value", "default"], rows, "Settings")])


def _setting_text(value: Any) -> str:
    """The value of a setting as in source code, shortened if it is long."""
    if callable(value):
        return str(getattr(value, "__name__", value))
    text = repr(configs.plain_setting(value))
    if len(text) > 200:
        text = text[:197] + "..."
    return text


# ---- Training ------------------------------------------------------------------------------------

# Images of the first batch on a page, the longer side of each in pixels, and epochs in the table.
BATCH_IMAGES = 4
BATCH_SIDE = 480
LATEST = 20


class Sample(NamedTuple):
    """An image on a page: its data URI, its (height, width), and a description."""

    uri: str
    size: tuple[int, int]
    words: str


def write_training(
    path: files.PathLike,
    history: Sequence[dict[str, Any]],
    *,
    config: Config | None = None,
    samples: Sequence[Sample] = (),
    step: int = 0,
    epochs: int = 0,
    title: str = "Training",
) -> str:
    """Writes the page of a training: losses, learning rate, AP, a batch, the settings.

    Args:
        path: a file *.html, or a folder, for training.html in it.
        history: for each epoch so far {"epoch": its number, from 1; name in Keras's logs: number or
            None}, with "learning_rate" and "seconds" if they are known.
        config: for the settings.
        samples: of `batch_samples`.
        step: number of the step of these samples, from 1.
        epochs: number of the last epoch; 0 if unknown.
        title: of the page.

    Returns:
        the path of the file.

    Raises:
        ValueError, OSError: see `write`.
    """
    path = place(path, "training.html")
    parts = [
        ("losses", "Losses", _loss_charts(history)),
        ("others", "Learning rate, AP and others", _other_charts(history)),
        ("batch", "The first batch", _batch(samples, step)),
        ("epochs", "The latest epochs", _latest(history)),
        ("settings", "Settings", _settings(config)),
    ]
    head = [page.element("h1", title), _progress(history, epochs), _training_cards(history)]
    head.append(page.contents([(name, heading) for name, heading, _ in parts]))
    sections = [page.section(*part) for part in parts]
    body = joined([page.element("header", joined(head)), page.element("main", joined(sections))])
    return page.write(path, title, body)


def _progress(history: Sequence[dict], epochs: int) -> Safe:
    """A line with the number of epochs and the time of a training so far."""
    epoch = 0
    if history:
        epoch = history[-1]["epoch"]
    words = f"Epoch {epoch}"
    if epochs:
        words += f" of {epochs}"
    seconds = sum(row.get("seconds") or 0 for row in history)
    now = datetime.datetime.now().astimezone()
    words += (
        f", {seconds / 60:.1f} minutes of training. Written {now:%Y-%m-%d %H:%M:%S %Z} by mrcnn"
        f" {__version__}, anew after each epoch; reload to see more."
    )
    return page.element("p", words, class_="soft")


def _training_cards(history: Sequence[dict]) -> Safe:
    """The latest values of the main figures."""
    names = {
        "loss": "loss",
        "val_loss": "validation loss",
        "val_mask_mAP": "mask AP",
        "val_bbox_mAP": "box AP",
        "val_keypoint_mAP": "keypoint AP",
    }
    cards = []
    for name, title in names.items():
        value = next((row[name] for row in reversed(history) if row.get(name) is not None), None)
        if value is not None:
            words = [page.element("b", page.number(value)), page.element("span", title)]
            cards.append(page.element("li", joined(words)))
    return page.element("ul", joined(cards), class_="cards")


def _names(history: Sequence[dict]) -> list[str]:
    """The names of the values of all epochs, in their order."""
    names = dict.fromkeys(name for row in history for name in row)
    return [name for name in names if name not in ("epoch", "seconds")]


def _loss_charts(history: Sequence[dict]) -> Safe:
    """A chart for each loss, with training and validation."""
    names = [name for name in _names(history) if name.endswith("loss")]
    losses = list(dict.fromkeys(name.removeprefix("val_") for name in names))
    # Keras's "loss", the sum of all, comes first.
    losses.sort(key=lambda name: name != "loss")
    return _charts_of(history, [(name, [name, f"val_{name}"]) for name in losses])


def _other_charts(history: Sequence[dict]) -> Safe:
    """Charts of the learning rate, of all APs in one, and of each other value."""
    names = [name for name in _names(history) if not name.endswith("loss")]
    precisions = [name for name in names if name.startswith("val_") and name.endswith("_mAP")]
    groups = [("learning rate", ["learning_rate"])]
    if precisions:
        groups.append(("AP on validation images", precisions))
    for name in names:
        if name not in precisions and name != "learning_rate":
            groups.append((name, [name]))
    return _charts_of(history, groups)


def _charts_of(history: Sequence[dict], groups: Sequence[tuple[str, list[str]]]) -> Safe:
    """Charts over the epochs, without lines that have no values; groups: [(title, lines)]."""
    epochs = [row["epoch"] for row in history]
    drawn = []
    for title, names in groups:
        lines = []
        for name, color in zip(names, page.LINES):
            values = [row.get(name) for row in history]
            if any(value is not None for value in values):
                lines.append(page.Line(_line_name(name, title), epochs, values, color))
        if lines:
            x_range = (min(epochs), max(*epochs, min(epochs) + 1))
            drawn.append(page.chart(title, lines, "epoch", "", x_range, whole=True))
    if not drawn:
        return page.paragraph("Nothing is known yet.")
    return page.charts(drawn)


def _line_name(name: str, title: str) -> str:
    """The name of a line in the legend of the chart with this title."""
    if name == title:
        return "training"
    if name == f"val_{title}":
        return "validation"
    return name.removeprefix("val_")


def _latest(history: Sequence[dict]) -> Safe:
    """The table of the values of the latest epochs."""
    names = _names(history)
    rows = []
    for row in reversed(history[-LATEST:]):
        shown: list[Any] = []
        for name in names:
            value = _or_nan(row.get(name))
            if name == "learning_rate":  # needs more than the three decimals of other values
                shown.append(f"{value:.3g}")
            else:
                shown.append(value)
        seconds = page.number(_or_nan(row.get("seconds")), 1)
        rows.append([str(row["epoch"]), seconds, *shown])
    return page.table(["epoch", "seconds", *names], rows, f"The latest {LATEST} epochs at most")


def _or_nan(value: Any) -> float:
    """A value as a float; NaN for None."""
    if value is None:
        return float("nan")
    return float(value)


def _batch(samples: Sequence[Sample], step: int) -> Safe:
    """The images of the first batch."""
    if not samples:
        return page.paragraph("Its pictures are not known.")
    note = (
        f"Images of step {step} as the network sees them: resized, cropped and augmented as the"
        " settings say, the objects' masks in the resolution of the training targets."
    )
    figures = []
    for sample in samples:
        figures.append(page.picture(sample.uri, sample.size, sample.words, sample.words))
    return joined([page.paragraph(note), page.element("div", joined(figures), class_="pair")])


def batch_samples(
    inputs: Sequence[np.ndarray],
    config: Config,
    class_names: Sequence[str],
    most: int = BATCH_IMAGES,
    side: int = BATCH_SIDE,
) -> list[Sample]:
    """The first images of a training step, drawn with boxes, masks, classes and keypoints.

    Args:
        inputs: of `data.TrainingBatches.batch`, or the first rows of each.
        config: with which they were made.
        class_names: by class id.
        most: the largest number of images.
        side: longer side of each, in pixels.

    Returns:
        list of `Sample`, each with a picture [h, w, 3] uint8.
    """
    samples = []
    for i in range(min(most, len(inputs[0]))):
        example = [array[i] for array in inputs]
        painted = _painted_example(example, config, class_names, side)
        count = int(np.count_nonzero(example[4]))
        image_id = int(example[1][0])
        words = f"image {image_id}: {_several(count, 'object')}"
        height, width = painted.shape[:2]
        samples.append(Sample(page.data_uri(painted), (height, width), words))
    return samples


def _painted_example(
    example: Sequence[np.ndarray], config: Config, class_names: Sequence[str], side: int
) -> np.ndarray:
    """Draws a training example: [h, w, 3] uint8; example: its arrays in the order of the inputs."""
    image, _, _, _, class_ids, boxes = example[:6]
    values = np.asarray(image, np.float32) * config.STD_PIXEL + config.MEAN_PIXEL
    shown = page.shown_image(values.astype(np.float32))
    painted = page.resized(shown, page.fitting(shown.shape, side))
    scale = np.array(painted.shape[:2]) / shown.shape[:2]
    object_rows = np.flatnonzero(class_ids)
    class_ids = class_ids[object_rows]
    colors = [visualize.class_color(class_id) for class_id in class_ids]
    if len(class_names) <= 2:
        colors = visualize.random_colors(len(object_rows))
    remaining_inputs = list(example[6:])
    if config.USE_MASK:
        masks_of_objects = remaining_inputs.pop(0)
        for i, color in zip(object_rows, colors):
            y1, x1, y2, x2 = (int(edge) for edge in boxes[i])
            crop = masks_of_objects[..., i] != 0
            if not config.USE_MINI_MASK:
                crop = crop[y1:y2, x1:x2]
            _paint_crop(painted, boxes[i], crop, scale, color)
    result: dict[str, Any] = {
        "rois": boxes[object_rows] * np.tile(scale, 2),
        "class_ids": class_ids,
        "scores": None,
    }
    if config.USE_KEYPOINTS:
        points = np.array(remaining_inputs.pop(0)[object_rows], float)
        points[..., :2] *= scale
        result["keypoints"] = points
    texts = None
    if len(object_rows) > MOST_LABELS or len(class_names) <= 2:
        texts = [""] * len(object_rows)
    return media.paint(painted, result, class_names, colors=colors, texts=texts)


# ---- Painting masks ------------------------------------------------------------------------------


def _paint_mask(
    painted: np.ndarray,
    item: dict,
    size: tuple[int, int],
    scale: np.ndarray,
    color: Sequence[float],
) -> bool:
    """Paints the mask of an annotation or a result; returns False if it has none.

    Args:
        painted: [h, w, 3] uint8; edited.
        item: annotation or COCO result.
        size: (height, width) of the original image.
        scale: (y, x), size of `painted` / size of the original image.
        color: (r, g, b) in 0..1.
    """
    if "segmentation" not in item:
        return False
    try:
        box, crop = masks.crop_of_annotation(item, *size)
    except masks.SegmentationError:
        return False
    return _paint_crop(painted, box, crop, scale, color)


def _paint_crop(
    painted: np.ndarray,
    box: Sequence[float],
    crop: np.ndarray,
    scale: np.ndarray,
    color: Sequence[float],
) -> bool:
    """Tints a mask and draws its outline; returns False for a mask without a pixel.

    Args:
        painted: [h, w, 3] uint8; edited.
        box: (y1, x1, y2, x2) of the mask, in pixels of the original image.
        crop: [h, w] bool of any size, the mask in its box.
        scale, color: see `_paint_mask`.
    """
    if not crop.size or not crop.any():
        return False
    height, width = painted.shape[:2]
    y1, x1 = (int(np.floor(edge * factor)) for edge, factor in zip(box[:2], scale))
    y2, x2 = (int(np.ceil(edge * factor)) for edge, factor in zip(box[2:], scale))
    y2 = max(y2, y1 + 1)
    x2 = max(x2, x1 + 1)
    inside = page.resized(crop.astype(np.uint8) * 255, (y2 - y1, x2 - x1)) > 127
    # Parts outside the image are cut off: boxes of training examples may extend beyond it.
    top = max(-y1, 0)
    left = max(-x1, 0)
    inside = inside[top : height - y1, left : width - x1]
    region = painted[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)]
    visualize.apply_mask(region, inside, color, 0.28)
    visualize.apply_mask(region, _rim(inside, max(1, min(height, width) // 240)), color, 1.0)
    return True


def _rim(mask: np.ndarray, width: int) -> np.ndarray:
    """The pixels of a mask [h, w] within `width` pixels of its edge."""
    inner = np.pad(mask, width)
    for _ in range(width):
        middle = inner[1:-1, 1:-1]
        horizontal_neighbours = inner[1:-1, :-2] & inner[1:-1, 2:]
        inner[1:-1, 1:-1] = middle & horizontal_neighbours & inner[:-2, 1:-1] & inner[2:, 1:-1]
    return mask & ~inner[width:-width, width:-width]
