"""Elements of an HTML page in a single file: text, tables, charts, images, a viewer for images.

    body = page.section("figures", "Figures", page.table(["", "AP"], [["mask", 0.412]]))
    page.write("report.html", "Evaluation", body)

The page loads nothing, and its Content-Security-Policy forbids it: images are data URIs, and only
the script with the given digest may run, so that no text can inject another. The page is readable
without the script, follows the system's light or dark theme, and fits a phone. Everything that is
not `Safe` is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mrcnn import files, utils

# Characters that are not allowed in HTML.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")
NOTHING = "–"  # in place of a missing value


class Safe(str):
    """Text that is HTML and is not escaped again."""


def escaped(value: Any) -> Safe:
    """A value as HTML: `Safe` is returned unchanged, floats get three decimals."""
    if isinstance(value, Safe):
        return value
    if isinstance(value, (bool, np.bool_)):
        value = str(bool(value))
    if value is None:
        return Safe(NOTHING)
    if isinstance(value, (float, np.floating)):
        return Safe(number(float(value)))
    return Safe(html.escape(_CONTROLS.sub("\ufffd", str(value))))


def number(value: float, digits: int = 3) -> str:
    """A number as text; a dash for NaN."""
    if math.isnan(value):
        return NOTHING
    return f"{value:.{digits}f}"


def joined(parts: Iterable[Any]) -> Safe:
    """Concatenates parts; those that are not `Safe` are escaped."""
    return Safe("\n".join(escaped(part) for part in parts))


def element(name: str, content: Any = "", **attributes: Any) -> Safe:
    """An HTML element, <name attribute="...">content</name>.

    attributes: `class_` becomes class, `data_x` becomes data-x. One that is None or False is left
    out, one that is True has no value.
    """
    texts = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            texts.append(key)
        elif value is not None and value is not False:
            texts.append(f'{key}="{escaped(value)}"')
    return Safe(f"<{' '.join(texts)}>{escaped(content)}</{name}>")


def breakable(name: str) -> Safe:
    """A name in which a line may break after each underscore."""
    return Safe(escaped(name).replace("_", "_<wbr>"))


def paragraph(content: Any) -> Safe:
    """A paragraph of text."""
    return element("p", content)


def section(name: str, title: str, *parts: Any) -> Safe:
    """A section of the page with a heading; `name` is its id, for links."""
    heading = element("h2", title, id=f"{name}-title")
    return element("section", joined([heading, *parts]), id=name, aria_labelledby=f"{name}-title")


# ---- Tables --------------------------------------------------------------------------------------


class Shaded(NamedTuple):
    """A table cell with a background shade by its share in 0..1."""

    value: Any
    share: float


def table(
    heads: Sequence[Any],
    rows: Iterable[Sequence[Any]],
    caption: str = "",
    sortable: bool = False,
    class_: str | None = None,
) -> Safe:
    """A table; the first cell of each row is its heading, numbers are aligned right.

    Args:
        heads: titles of the columns.
        rows: of text, `Safe`, numbers, `Shaded` or None.
        caption: description, which screen readers read aloud.
        sortable: whether a click on a column's title sorts the rows.
        class_: CSS class.
    """
    rows = list(rows)
    titles = []
    for i, head in enumerate(heads):
        class_name = None
        if any(_is_number(row[i]) for row in rows):
            class_name = "number"
        titles.append(element("th", head, scope="col", class_=class_name))
    columns = joined(titles)
    lines = []
    for title, *values in rows:
        cells = [element("th", element("bdi", title), scope="row")]
        cells += [_cell(value) for value in values]
        lines.append(element("tr", joined(cells)))
    content = joined(
        [
            element("caption", caption),
            element("thead", element("tr", columns)),
            element("tbody", joined(lines)),
        ]
    )
    return scrolling(element("table", content, data_sort=sortable, class_=class_), caption)


def _is_number(value: Any) -> bool:
    """Whether a value is a number, and no bool."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _cell(value: Any) -> Safe:
    """A table cell; a number has its exact value as data-value, for sorting."""
    if isinstance(value, Shaded):
        return element("td", value.value, class_="heat", style=f"--share:{value.share:.3f}")
    if isinstance(value, (float, np.floating)):
        exact = None
        if not math.isnan(value):
            exact = repr(float(value))
        return element("td", value, class_="number", data_value=exact)
    if _is_number(value):
        return element("td", f"{value:,}", class_="number", data_value=int(value))
    return element("td", value)


def scrolling(content: Safe, label: str) -> Safe:
    """A horizontally scrollable container for wide content, also by keyboard."""
    return element(
        "div", content, class_="scroll", tabindex="0", role="region", aria_label=label or "table"
    )


def swatch(color: Sequence[float]) -> Safe:
    """A small square of a colour (r, g, b) in 0..1, for legends."""
    return element("i", "", class_="swatch", style=f"background:{css_color(color)}")


def css_color(color: Sequence[float]) -> str:
    """A colour (r, g, b) in 0..1 in CSS notation, such as "#2f7fd6"."""
    return "#" + "".join(f"{round(255 * float(part)):02x}" for part in color[:3])


# ---- Charts --------------------------------------------------------------------------------------

# Colours of lines, visible on light and on dark pages, and distinguishable with most red-green
# colour blindness.
LINES = ("#2f7fd6", "#e07b1a", "#1f9e77", "#c05fa8", "#8a8f2a", "#d6453d")
# Size and margins of a chart, in units of the SVG.
WIDTH = 380
HEIGHT = 250
LEFT = 46
BOTTOM = 36
TOP = 8
RIGHT = 10
MOST_POINTS = 400  # of a line


def ramp(share: float) -> str:
    """A CSS colour from blue (0) through green to orange (1), visible on light and on dark."""
    return f"hsl({215 - 190 * share:.0f} 75% 48%)"


class Line(NamedTuple):
    """A line of a chart.

    Attributes:
        name: in the legend.
        x, y: [N] numbers; the line has a gap where y is NaN or None.
        color: in CSS notation.
    """

    name: str
    x: Sequence[float]
    y: Sequence[Any]
    color: str


def chart(
    title: str,
    lines: Sequence[Line],
    x_title: str,
    y_title: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    whole: bool = False,
) -> Safe:
    """A line chart as SVG, with a legend below.

    Args:
        title: heading.
        lines: the lines.
        x_title, y_title: titles of the axes.
        x_range, y_range: (low, high) of the axes; None for the range of the data, in y with 0.
        whole: label the x axis only at whole numbers.
    """
    scales = _Scales(
        _range_of([line.x for line in lines], x_range),
        _range_of([line.y for line in lines], y_range, from_zero=True),
    )
    parts = [element("title", title), scales.grid(whole), scales.titles(x_title, y_title)]
    for line in lines:
        parts.append(scales.path(line))
    drawing = element(
        "svg",
        joined(parts),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"{title}: {y_title} over {x_title}",
    )
    names = []
    for line in lines:
        mark = element("i", "", class_="swatch", style=f"background:{line.color}")
        names.append(element("li", Safe(mark + escaped(line.name))))
    legend: Any = ""
    if len(lines) > 1:
        legend = element("ul", joined(names), class_="legend")
    heading = element("figcaption", title)
    return element("figure", joined([heading, drawing, legend]), class_="chart")


def _range_of(
    values: Iterable[Sequence[Any]],
    given: tuple[float, float] | None,
    from_zero: bool = False,
) -> tuple[float, float]:
    """The range (low, high) of an axis, with low < high: `given`, or that of the values."""
    if given is not None:
        return given
    finite = [float(v) for row in values for v in row if _is_finite(v)]
    low = min(finite, default=0.0)
    high = max(finite, default=1.0)
    if from_zero:
        low = min(low, 0.0)
    if not high > low:
        high = low + 1
    if from_zero:
        high += (high - low) / 20  # a margin, so that a point at the maximum is not cut off
    return low, high


def _is_finite(value: Any) -> bool:
    """Whether a value is neither None nor NaN nor infinite."""
    return value is not None and math.isfinite(value)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers for the ticks of an axis, at most `most` + 1."""
    step = 10 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 5, 10):
        if (high - low) / (factor * step) <= most:
            step *= factor
            break
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


class _Scales:
    """Maps values to coordinates of a chart.

    Args:
        x, y: (low, high) of the axes.
    """

    def __init__(self, x: tuple[float, float], y: tuple[float, float]):
        self.x = x
        self.y = y

    def place(self, x: float, y: float) -> tuple[float, float]:
        """(x, y) in units of the SVG."""
        x_share = (x - self.x[0]) / (self.x[1] - self.x[0])
        y_share = (y - self.y[0]) / (self.y[1] - self.y[0])
        width = WIDTH - LEFT - RIGHT
        height = HEIGHT - TOP - BOTTOM
        return LEFT + x_share * width, TOP + (1 - y_share) * height

    def grid(self, whole: bool) -> Safe:
        """Grid lines and tick labels of both axes; whole: only whole numbers for x."""
        parts = []
        for value in ticks(*self.y):
            _, y = self.place(self.x[0], value)
            parts.append(_straight(LEFT, y, WIDTH - RIGHT, y))
            parts.append(_text(LEFT - 5, y + 3.5, f"{value:.6g}", "end"))
        for value in ticks(*self.x):
            if whole and abs(value - round(value)) > 1e-9:
                continue
            x, _ = self.place(value, self.y[0])
            parts.append(_straight(x, TOP, x, HEIGHT - BOTTOM))
            parts.append(_text(x, HEIGHT - BOTTOM + 14, f"{value:.6g}", "middle"))
        return joined(parts)

    def titles(self, x_title: str, y_title: str) -> Safe:
        """The titles of the axes."""
        middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
        rotation = f"rotate(-90 9 {middle:g})"
        return joined(
            [
                _text(LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - 4, x_title, "middle"),
                _text(9, middle, y_title, "middle", transform=rotation),
            ]
        )

    def path(self, line: Line) -> Safe:
        """A line, as polylines between its gaps; a circle for a point without neighbours."""
        pieces: list[list[tuple[float, float]]] = [[]]
        for x, y in _thinned(line):
            if not _is_finite(y):
                pieces.append([])
            else:
                low, high = self.y
                pieces[-1].append(self.place(x, min(max(y, low), high)))
        parts = []
        for piece in pieces:
            coordinates = " ".join(f"{x:.1f},{y:.1f}" for x, y in piece)
            if len(piece) == 1:
                x, y = piece[0]
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{line.color}"/>')
            elif piece:
                parts.append(f'<polyline points="{coordinates}" stroke="{line.color}"/>')
        return Safe("".join(parts))


def _thinned(line: Line) -> list[tuple[float, Any]]:
    """The points of a line; for a long one, every n-th point and the last."""
    points = list(zip(line.x, line.y))
    step = -(-len(points) // MOST_POINTS)
    if step < 2:
        return points
    kept = points[::step]
    if kept[-1] != points[-1]:
        kept.append(points[-1])
    return kept


def _straight(x1: float, y1: float, x2: float, y2: float) -> Safe:
    """A straight SVG line."""
    return Safe(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')


def _text(x: float, y: float, text: str, anchor: str, transform: str | None = None) -> Safe:
    """An SVG text; anchor: "start", "middle" or "end"."""
    return element(
        "text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, transform=transform
    )


def charts(parts: Sequence[Safe]) -> Safe:
    """Charts side by side, as many in a row as fit."""
    return element("div", joined(parts), class_="charts")


def sparkline(values: Sequence[float]) -> Safe:
    """A small curve of values in 0..1 without axes, hidden from screen readers."""
    points = []
    for i, value in enumerate(values):
        points.append(f"{80 * i / max(len(values) - 1, 1):.1f},{22 - 20 * value:.1f}")
    line = Safe(f'<polyline points="{" ".join(points)}" stroke="{LINES[0]}"/>')
    return element("svg", line, viewBox="0 0 80 24", class_="spark", aria_hidden="true")


# ---- Images --------------------------------------------------------------------------------------


def fitting(shape: Sequence[int], side: int, most_zoom: float = 4) -> tuple[int, int]:
    """(height, width) so that the longer side is `side`, enlarged at most `most_zoom` times."""
    factor = min(side / max(shape[:2]), most_zoom)
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes an image [H, W, 3] or [H, W] uint8 to (height, width)."""
    from PIL import Image

    height, width = size
    if image.shape[:2] == (height, width):
        return image
    resampling = Image.Resampling.BICUBIC
    if height < image.shape[0]:
        resampling = Image.Resampling.BOX
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.array(picture.resize((width, height), resampling, reducing_gap=2.0))


def data_uri(image: np.ndarray, quality: int = 85) -> str:
    """An image [H, W, 3] uint8 as a data URI of WebP, or of JPEG if Pillow lacks WebP."""
    from PIL import Image, features

    kind = "jpeg"
    if features.check("webp"):
        kind = "webp"
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, kind, quality=quality)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def picture(uri: str, size: Sequence[int], alt: str, caption: Any = "") -> Safe:
    """An image with an alternative text and a caption below.

    Args:
        uri: of `data_uri`.
        size: (height, width), so that the layout doesn't shift when the image is decoded.
        alt: alternative text.
        caption: "" for none.
    """
    image = element(
        "img",
        src=uri,
        alt=alt,
        height=int(size[0]),
        width=int(size[1]),
        loading="lazy",
        decoding="async",
    )
    image = Safe(image.removesuffix("</img>"))
    caption_element: Any = ""
    if caption:
        caption_element = element("figcaption", caption)
    return element("figure", joined([image, caption_element]))


class Step(NamedTuple):
    """A part of `steps`: its name in the drop-down list, its heading, its content."""

    name: str
    title: Any
    content: Safe


def steps(label: str, parts: Sequence[Step]) -> Safe:
    """A viewer that shows one part at a time, with buttons, arrow keys, a list and swiping.

    Args:
        label: name of the viewer, such as "Worst images".
        parts: shown below each other if the script can't run.
    """
    options = []
    articles = []
    for i, part in enumerate(parts):
        options.append(element("option", f"{i + 1}. {part.name}", value=i))
        heading = element("h3", part.title)
        articles.append(
            element("article", joined([heading, part.content]), id=f"step-{i + 1}", tabindex="-1")
        )
    bar = joined(
        [
            element("button", "‹ Previous", type="button", data_by="-1"),
            element("output", f"1 of {len(parts)}"),
            element("button", "Next ›", type="button", data_by="1"),
            element("select", joined(options), aria_label=f"{label}: go to"),
            element("span", "or the keys ← and →", class_="hint"),
        ]
    )
    content = joined([element("div", bar, class_="bar", hidden=True), *articles])
    return element("div", content, class_="steps", role="group", aria_label=label)


# ---- The page ------------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --card: #f4f5f7; --ink: #1b1f24; --soft: #57606a;
  --edge: #d0d5db; --accent: #0b5fb8; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --card: #1f2429; --ink: #e8eaed;
  --soft: #a3abb4; --edge: #3a424b; --accent: #7db7ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem clamp(.8rem, 3vw, 2.5rem) 4rem; max-width: 84rem;
  background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .6rem; padding-top: .6rem;
  border-top: 1px solid var(--edge); }
h3 { font-size: 1rem; margin: .6rem 0; }
p { max-width: 60rem; margin: .5rem 0; }
a { color: var(--accent); }
nav ul, .legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; padding: 0; margin: .6rem 0;
  list-style: none; }
nav a { display: inline-block; padding: .35rem 0; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.soft, .hint, caption, figcaption { color: var(--soft); font-size: .9rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(7.5rem, 1fr)); gap: .6rem;
  margin: 1rem 0; padding: 0; list-style: none; }
.cards li { background: var(--card); border-radius: .5rem; padding: .6rem .8rem; }
.cards b { display: block; font-size: 1.5rem; line-height: 1.2;
  font-variant-numeric: tabular-nums; }
.cards span { color: var(--soft); font-size: .85rem; }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .2rem 0 .4rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--edge); text-align: left;
  overflow-wrap: break-word; }
td.number, thead th { white-space: nowrap; }
td:not(.number, .heat) { min-width: 8rem; }
th[scope=row] { font-weight: 500; min-width: 6rem; max-width: min(22rem, 50vw); }
th[scope=row], thead th:first-child { position: sticky; left: 0; background: var(--ground); }
td.number, thead th.number { text-align: right; }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 3px solid var(--accent); }
th button::after { content: " ↕"; color: var(--soft); }
th[aria-sort=ascending] button::after { content: " ↑"; color: inherit; }
th[aria-sort=descending] button::after { content: " ↓"; color: inherit; }
td.heat { text-align: center; min-width: 2.4rem; color: var(--ink);
  background: color-mix(in srgb, var(--accent) calc(var(--share) * 45%), var(--ground)); }
table.matrix td, table.matrix th { padding: .2rem .4rem; }
table.matrix thead th { vertical-align: bottom; max-width: 9rem; white-space: normal; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border-radius: .2em;
  border: 1px solid var(--edge); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr));
  gap: 1.2rem; }
figure { margin: 0; }
.chart { background: var(--card); border-radius: .5rem; padding: .7rem; max-width: 34rem; }
.chart svg { display: block; width: 100%; height: auto; }
.chart figcaption { color: var(--ink); font-weight: 600; }
.legend { font-size: .8rem; gap: .1rem .8rem; margin: .3rem 0 0; }
svg text { font-size: 11px; fill: var(--soft); }
svg line { stroke: var(--edge); stroke-width: 1; }
svg polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
svg.spark { width: 80px; height: 24px; display: block; }
.stack { display: flex; height: 1.6rem; border-radius: .4rem; overflow: hidden; margin: .5rem 0;
  border: 1px solid var(--edge); }
.stack i { flex: var(--count) 1 0; min-width: 0; }
.bar { display: flex; flex-wrap: wrap; align-items: center; gap: .6rem; margin: .6rem 0; }
.bar[hidden] { display: none; }
.bar button, .bar select { font: inherit; color: inherit; background: var(--card);
  min-height: 2.75rem; border: 1px solid var(--edge); border-radius: .5rem; padding: .4rem 1rem;
  max-width: 100%; }
.bar button { cursor: pointer; }
.bar output { min-width: 5.5em; text-align: center; font-variant-numeric: tabular-nums; }
@media (pointer: coarse) { .hint { display: none; } }
@media (max-width: 40rem) { .bar select { flex: 1 1 100%; } }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr));
  gap: .8rem; align-items: start; }
.pair img { display: block; width: 100%; height: auto; max-height: 85vh; object-fit: contain;
  background: #000; border-radius: .3rem; }
article:focus { outline: none; }
details { margin: .5rem 0; }
@media print { .bar { display: none; } article[hidden] { display: block; } }
"""

SCRIPT = """
"use strict";
for (const viewer of document.querySelectorAll(".steps")) {
  const articles = [...viewer.querySelectorAll("article")];
  const bar = viewer.querySelector(".bar");
  const choice = bar.querySelector("select");
  const place = bar.querySelector("output");
  let now = 0;
  const show = (wanted) => {
    now = (wanted + articles.length) % articles.length;
    articles.forEach((article, i) => { article.hidden = i !== now; });
    choice.value = String(now);
    place.textContent = `${now + 1} of ${articles.length}`;
  };
  const follow = () => {
    const wanted = articles.findIndex((article) => "#" + article.id === location.hash);
    show(Math.max(wanted, 0));
  };
  for (const button of bar.querySelectorAll("button")) {
    button.addEventListener("click", () => show(now + Number(button.dataset.by)));
  }
  choice.addEventListener("change", () => show(Number(choice.value)));
  addEventListener("hashchange", follow);
  addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.target.closest("select, input, textarea, .scroll")) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) { event.preventDefault(); show(now + by); }
  });
  let start = null;
  viewer.addEventListener("touchstart", (event) => {
    start = null;
    if (event.touches.length === 1 && !event.target.closest(".bar")) start = event.touches[0];
  }, { passive: true });
  viewer.addEventListener("touchend", (event) => {
    if (!start) return;
    const across = event.changedTouches[0].clientX - start.clientX;
    const down = event.changedTouches[0].clientY - start.clientY;
    const isSwipe = Math.abs(across) > 60 && Math.abs(across) > 2 * Math.abs(down);
    if (isSwipe) show(now - Math.sign(across));
  });
  bar.hidden = false;
  follow();
}
for (const table of document.querySelectorAll("table[data-sort]")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  if (body.rows.length < 2) continue;
  heads.forEach((head, column) => {
    if (!head.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "descending" : "ascending");
      const sign = up ? -1 : 1;
      const known = (cell) => cell.dataset.value !== undefined || !cell.matches(".number");
      const compare = (a, b) => {
        if (!known(a) || !known(b)) return known(b) - known(a);
        if (a.dataset.value !== undefined) return sign * (a.dataset.value - b.dataset.value);
        return sign * a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
      };
      const rows = [...body.rows];
      rows.sort((a, b) => compare(a.cells[column], b.cells[column]));
      body.append(...rows);
    });
  });
}
"""


def document(title: str, body: Safe) -> str:
    """The HTML document of a page."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline';"
        f" script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            '<link rel="icon" href="data:,">',
            element("title", title),
            f"<style>{STYLE}</style>",
            "</head>",
            "<body>",
            body,
            f"<script>{SCRIPT}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def contents(parts: Sequence[tuple[str, str]]) -> Safe:
    """A table of contents; parts: [(name, title)] of the sections."""
    links = [element("li", element("a", title, href=f"#{name}")) for name, title in parts]
    return element("nav", element("ul", joined(links)), aria_label="Sections")


def write(path: files.PathLike, title: str, body: Safe) -> str:
    """Writes a page atomically. Returns the path.

    Raises:
        OSError: it can't be written; the message names it.
    """
    content = document(title, body).encode("utf-8", "backslashreplace")
    files.write_bytes(path, content)
    return str(path)


def shown_image(image: np.ndarray, percentiles: Sequence[float] = (), gamma: float = 1.0) -> Any:
    """Converts an image of any kind to [H, W, 3] uint8, with the contrast that the network sees.

    Args:
        image: see `utils.as_rgb`.
        percentiles, gamma: IMAGE_PERCENTILES and IMAGE_GAMMA of the config.
    """
    if len(percentiles):
        image = utils.stretched(image, percentiles, gamma)
    return utils.as_rgb(image)
