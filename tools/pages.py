"""Pages of the documentation that are written from the code: settings, API reference, docstrings.

    python tools/pages.py settings      the settings page, to look at

`tools/docs_hooks.py` gives them to mkdocs at each build, so that none can go stale. Everything is
read from the text of the package, which is never imported: no TensorFlow is needed.
"""

import ast
import functools
import importlib.util
import inspect
import pathlib
import re
import sys
import textwrap

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mrcnn"


def _load_manual():
    """The module mrcnn/manual.py, without the package, which needs numpy."""
    specification = importlib.util.spec_from_file_location("manual", PACKAGE / "manual.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules["manual"] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


manual = _load_manual()

# The reference by rooms, in the order in which they are read. A module that stands in none of them
# comes under "Others", so that a new one is never missing.
ROOMS = {
    "The model": ("model", "config", "training", "cluster", "inference"),
    "Data": (
        "utils",
        "boxes",
        "masks",
        "data",
        "augmentation",
        "keypoints",
        "coco",
        "convert",
        "media",
    ),
    "Annotations of other programs": (
        "annotations",
        "reading",
        "outlines",
        "via",
        "labelme",
        "label_studio",
        "cvat",
        "yolo",
        "mask_files",
        "panoptic",
        "labelbox",
        "scalabel",
        "datumaro_json",
        "youtube_vis",
        "createml",
        "open_images",
        "coded_pngs",
        "mots_text",
    ),
    "Results": (
        "evaluate",
        "detections",
        "report",
        "page",
        "visualize",
        "figures",
        "fonts",
        "trace",
        "inspection",
    ),
    "Files and weights": ("weights", "torchvision_weights", "torchvision", "files"),
    "Large images": ("tiles",),
    "Other runtimes": ("export", "quantization", "runtime", "serving"),
    "Millions of images": ("batch", "listing", "places", "pool"),
    "Other programs": ("neighbours",),
    "The command": ("cli", "commands", "completion", "manual"),
    "Inside": ("ops", "torch_kernels", "rewrite", "tta", "parallel_model"),
}
OTHERS = "Others"

SECTIONS = ("Args", "Returns", "Yields", "Raises", "Warns", "Attributes")


# ---- Modules and names ---------------------------------------------------------------------------


def modules():
    """Names of the package's modules, sorted, without `__init__` and `__main__`."""
    return sorted(path.stem for path in PACKAGE.glob("[!_]*.py"))


def rooms():
    """{title: [module]} of all modules that there are."""
    present = modules()
    listed = {title: [name for name in names if name in present] for title, names in ROOMS.items()}
    known = {name for names in listed.values() for name in names}
    listed[OTHERS] = [name for name in present if name not in known]
    return {title: names for title, names in listed.items() if names}


@functools.cache
def documented():
    """Paths such as "mrcnn.ops.overlaps" of what is in the reference: public, with a docstring."""
    paths = set()

    def visit(node, path):
        paths.add(path)
        for child in node.body:
            named = isinstance(child, (ast.FunctionDef, ast.ClassDef)) and child.name[0] != "_"
            if named and ast.get_docstring(child):
                visit(child, f"{path}.{child.name}")

    for name in modules():
        visit(manual.tree(PACKAGE / f"{name}.py"), f"mrcnn.{name}")
    return paths


def resolve(name, place):
    """The path that a name in a docstring means, or None; modules have names that say too little.

    Args:
        name: such as "Style", "ops.roi_align", "MaskRCNN.detect".
        place: path of the object whose docstring it is.
    """
    parts = place.split(".")
    for length in range(len(parts), 0, -1):
        path = ".".join([*parts[:length], name])
        if path in documented() and path.count(".") > 1:
            return path
    ends = [path for path in documented() if path.endswith(f".{name}") and path.count(".") > 1]
    if len(ends) == 1 and (name[0].isupper() or "." in name):
        return ends[0]
    return None


# ---- Docstrings ----------------------------------------------------------------------------------


def docstring_page(text, place):
    """A docstring as Markdown.

    The sections are Google's, with this project's liberties: several names share a line of Args,
    and Returns is prose or lines of `name: text`.

    Args:
        text: the docstring.
        place: path of its object, from which names are looked up.
    """
    lines = inspect.cleandoc(text).splitlines()
    blocks = []
    i = 0
    while i < len(lines):
        title = lines[i][:-1]
        if not lines[i].strip():
            i += 1
        elif lines[i].endswith(":") and title in SECTIONS:
            body, i = _take(lines, i + 1, lambda line: line.startswith(" ") or not line.strip())
            blocks.append(f"**{title}**\n\n{_section(title, body, place)}")
        elif lines[i].startswith("    "):
            body, i = _take(lines, i, lambda line: line.startswith("    ") or not line.strip())
            blocks.append(_code(body))
        else:
            body, i = _take(lines, i, lambda line: line.strip() and not line.startswith("    "))
            blocks.append(_paragraph(body, place))
    return "\n\n".join(blocks)


def _take(lines, start, belongs):
    """The lines from `start` on that belong to a block, and the number of the first that doesn't.

    A title of a section ends a block, too.
    """
    end = start
    while end < len(lines) and belongs(lines[end]):
        if end > start and lines[end].endswith(":") and lines[end][:-1] in SECTIONS:
            break
        end += 1
    return lines[start:end], max(end, start + 1)


def _section(title, body, place):
    body = inspect.cleandoc("\n".join(["", *body])).splitlines()
    items = _items(body)
    if title in ("Returns", "Yields") and not all(names for names, _ in items):
        return _prose(" ".join(line.strip() for line in body), place)
    lines = []
    for names, text in items:
        head = ""
        if names:
            head = ", ".join(f"`{name}`" for name in names) + ": "
        lines.append(f"- {head}{_prose(text, place)}")
    return "\n".join(lines)


def _items(body):
    """[(names, text)] of lines `a, b: text`, whose continuation is indented or has no names."""
    items = []
    for line in body:
        parts = [line]
        if _names(line)[0]:
            parts = re.split(r"; (?=[\w, ]+: )", line)
        for part in parts:
            names, text = _names(part)
            if names or not items:
                items.append((names, text.strip()))
            elif part.strip():
                items[-1] = (items[-1][0], f"{items[-1][1]} {part.strip()}")
    return items


def _names(line):
    """The names before a colon, and what follows; no names where the line continues another."""
    match = re.match(r"((?:\*{0,2}\w+)(?:, \*{0,2}\w+)*):\s+(.*)", line)
    if not match:
        return [], line
    return match[1].split(", "), match[2]


def _code(lines):
    text = inspect.cleandoc("\n".join(["", *lines])).rstrip()
    try:
        ast.parse(text)
        language = "python"
    except SyntaxError:
        language = "text"
    return f"```{language}\n{text}\n```"


def _paragraph(lines, place):
    text = _prose(" ".join(line.strip() for line in lines), place)
    return re.sub(r"(?:^|(?<=\s))(Inputs?|Outputs?):(?=\s)", r"**\1:**", text)


def _prose(text, place):
    """Text with its shapes as code and its names and settings as links."""

    def page_of(part):
        if part[:1] == "`":
            return _link(part[1:-1], place)
        return _plain(part)

    return "".join(map(page_of, re.split(r"(`[^`]+`)", text)))


def _link(name, place):
    if name in settings_by_name():
        return setting_link(name)
    path = resolve(name, place)
    if path and path != place:
        return f"[`{name}`][{path}]"
    return f"`{name}`"


def _plain(text):
    """Text without code: escaped, shapes such as [B, N, 4] as code, settings as links."""

    def page_of(part):
        if part[:1] == "[":
            return f"`{part}`"
        return _with_settings(part)

    return "".join(map(page_of, re.split(r"(\[[^\[\]]*\])", text)))


def _with_settings(text):
    def page_of(word):
        if word in settings_by_name():
            return setting_link(word)
        return _escaped(word)

    return "".join(map(page_of, re.split(r"(\b[A-Z][A-Z0-9_]{2,}\b)", text)))


def _escaped(text):
    return re.sub(r"([*_])", r"\\\1", text).replace("<", "&lt;")


# ---- Settings ------------------------------------------------------------------------------------


def setting_link(name, label=None):
    """A link to a setting, from any page."""
    return f"[`{label or name}`][setting-{name}]"


CONFIG = PACKAGE / "config.py"


def groups():
    """The settings of `Config` in their order, a list of `manual.Group`."""
    return manual.groups(CONFIG)


@functools.cache
def settings_by_name():
    """{setting: default as it is written}; of the derived ones, their docstring."""
    defaults = {name: value for group in groups() for name, value in group.defaults.items()}
    return {**defaults, **derived()}


def derived():
    """{name: docstring} of the values that follow from others."""
    return manual.derived(CONFIG)


@functools.cache
def presets():
    """{preset: (what it derives from, path of its module, node of its class)}, `Config`'s children
    first."""
    classes = {}
    for path in sorted(PACKAGE.glob("*.py"), key=lambda path: (path.stem != "config", path.stem)):
        for node in manual.tree(path).body:
            if (
                isinstance(node, ast.ClassDef)
                and node.bases
                and isinstance(node.bases[0], ast.Name)
            ):
                classes[node.name] = (node.bases[0].id, path, node)
    derived_classes = {}
    count = -1
    while len(derived_classes) > count:
        count = len(derived_classes)
        for name, (base, *rest) in classes.items():
            if base == "Config" or base in derived_classes:
                derived_classes.setdefault(name, (base, *rest))
    return derived_classes


@functools.cache
def preset_values(name):
    """{setting: value as it is written} that a preset itself sets."""
    _, path, node = presets()[name]
    return {
        setting: manual.source(path, value)
        for child in node.body
        for setting, value in manual.assigned(child)
    }


def changes(setting):
    """[(preset, value as it is written)] of the presets that give a setting another value than the
    class that they derive from."""
    value = {"Config": settings_by_name()[setting]}
    changed = []
    for name, (base, *_) in presets().items():
        value[name] = preset_values(name).get(setting, value[base])
        if value[name] != value[base]:
            changed.append((name, value[name]))
    return changed


def settings_page():
    """The settings page as Markdown."""
    introduction = ast.get_docstring(manual.tree(CONFIG))
    parts = [
        "# Settings",
        docstring_page(introduction, "mrcnn.config"),
        "This page is made from `mrcnn/config.py` whenever the documentation is built: the text "
        'is that of the comments there. "Presets" names the classes that set another value; one '
        "that derives from another takes over all that it does not set "
        "([the presets](#presets)).",
    ]
    section = None
    for group in groups():
        if group.section != section:
            section = group.section
            parts.append(f"## {section}")
        parts.append(_group(group))
    parts.append("## Derived values")
    parts.append("They follow the settings until they are assigned to.")
    for name, text in derived().items():
        parts.append(f"{_anchors([name])}\n### `{name}`\n\n{docstring_page(text, 'mrcnn.config')}")
    parts.append(_preset_part())
    return "\n\n".join(parts) + "\n"


def _anchors(names):
    return "\n".join(f"[](){{#setting-{name}}}" for name in names)


def _group(group):
    heading = ", ".join(f"`{name}`" for name in group.defaults)
    parts = [
        f"{_anchors(group.defaults)}\n### {heading}",
        _comment_page(group.text),
        _values(group),
    ]
    return "\n\n".join(part for part in parts if part)


def _values(group):
    """Defaults and the presets' values: a line for one setting, a table for several."""
    cells = {name: _preset_cell(name) for name in group.defaults}
    if len(cells) == 1:
        (name,) = cells
        presets_here = ""
        if cells[name]:
            presets_here = f"; {cells[name]}"
        return f"Default {_cell(group.defaults[name])}{presets_here.replace('<br>', ', ')}"
    titles = ["setting", "default"]
    if any(cells.values()):
        titles.append("presets")
    rows = [
        [f"`{name}`", _cell(default), cells[name]][: len(titles)]
        for name, default in group.defaults.items()
    ]
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value):
    return "`" + re.sub(r"\s+", " ", value).replace("|", "\\|") + "`"


def _preset_cell(setting):
    return "<br>".join(f"{name} {_cell(value)}" for name, value in changes(setting))


def _comment_page(lines):
    """A comment's lines as Markdown; indented ones, `name   text`, are a list."""
    blocks = []
    listed = False
    for line in lines:
        entry = re.match(r" {2,4}(\w+)\s{2,}(\S.*)", line)
        if entry:
            if blocks and not listed:
                blocks.append("")
            blocks.append(f"- `{entry[1]}`: " + _prose(entry[2], "mrcnn.config"))
            listed = True
        elif listed and line.startswith("   "):
            blocks[-1] += " " + _prose(line.strip(), "mrcnn.config")
        else:
            if listed:
                blocks.append("")
            blocks.append(_prose(line.strip(), "mrcnn.config"))
            listed = False
    return "\n".join(blocks).strip()


def _preset_part():
    parts = [
        "## Presets",
        "Classes to pass to `MaskRCNN`, or to derive a configuration from.",
    ]
    for name, (base, path, node) in presets().items():
        body = "\n".join(
            path.read_text(encoding="utf-8").splitlines()[node.lineno - 1 : node.end_lineno]
        )
        title = f"### `{name}`"
        text = docstring_page(ast.get_docstring(node) or "", f"mrcnn.{path.stem}")
        source = f'??? note "{name}({base}), in mrcnn/{path.name}"\n\n'
        source += textwrap.indent(f"```python\n{body}\n```", "    ")
        parts += [part for part in (title, text, source) if part]
    return "\n\n".join(parts)


# ---- Reference -----------------------------------------------------------------------------------


def reference_page(module):
    """The page of a module's API, for mkdocstrings."""
    page = f"[](){{#mrcnn.{module}}}\n# mrcnn.{module}\n\n::: mrcnn.{module}\n"
    if module == "config":
        page += "\nThe settings themselves are on [their own page](../settings.md).\n"
    return page


def reference_index():
    """The first page of the reference: every module with the first sentence of its docstring."""
    parts = [
        "# API reference",
        "Every public name, from the docstrings. Shapes stand in square brackets: `B` images of a "
        "batch, `N` rows, `H` and `W` pixels. Boxes are `(y1, x1, y2, x2)`; y2, x2 lie outside "
        "the box.",
    ]
    for title, names in rooms().items():
        rows = [f"| [mrcnn.{name}]({name}.md) | {_first_sentence(name)} |" for name in names]
        parts.append("\n".join([f"## {title}\n", "| module | what |", "| --- | --- |", *rows]))
    return "\n\n".join(parts) + "\n"


def _first_sentence(module):
    text = ast.get_docstring(manual.tree(PACKAGE / f"{module}.py")) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return _prose(re.split(r"(?<=\.) (?=[A-Z])", paragraph)[0].rstrip(":"), f"mrcnn.{module}")


if __name__ == "__main__":
    if sys.argv[1:] == ["settings"]:
        print(settings_page())
    else:
        print(reference_index())
