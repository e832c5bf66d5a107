"""The documentation's generated pages and its table of contents, without mkdocs: `make docs` builds
the site itself."""

import ast
import importlib
import importlib.util
import pathlib
import re
import sys

import numpy as np
import pytest

import mrcnn
from mrcnn import config

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAV = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
NAV = NAV.partition("\nnot_in_nav:")[0]


def load_tool(name):
    specification = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    # dataclasses look their module up while the class is made.
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


pages = load_tool("pages")


def value(text):
    """What an expression of config.py means there."""
    return eval(text, dict(vars(config)))


def same(a, b):
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


def test_settings_page_has_every_setting():
    assert set(pages.settings_by_name()) == config.setting_names()
    page = pages.settings_page()
    for name in config.setting_names():
        assert page.count(f"[](){{#setting-{name}}}\n") == 1, name
    for group in pages.groups():
        assert group.section, group.defaults


def test_settings_page_has_the_defaults():
    for group in pages.groups():
        for name, text in group.defaults.items():
            assert same(getattr(config.Config, name), value(text)), name


def test_settings_have_an_explanation():
    """A comment above or beside, on the page without its banner and its dashes."""
    silent = {name for group in pages.groups() if not group.text for name in group.defaults}
    assert not silent, "a setting of config.py needs a comment"
    assert "-----" not in pages.settings_page()


def test_presets_are_marked_with_what_they_change():
    for name, (base, path, _) in pages.presets().items():
        module = importlib.import_module(f"mrcnn.{path.stem}")
        preset = getattr(module, name)
        parent = preset.__mro__[1]
        assert parent.__name__ == base
        marked = {s for s in pages.settings_by_name() if name in dict(pages.changes(s))}
        changed = {
            s
            for s in config.setting_names() - set(pages.derived())
            if not same(getattr(preset, s), getattr(parent, s))
        }
        assert marked == changed, name
        for setting in changed:
            assert same(getattr(preset, setting), value(dict(pages.changes(setting))[name]))
    assert {"PaperConfig", "PaperC4Config", "SmallConfig"} <= set(pages.presets())


@pytest.mark.parametrize(
    "text, page",
    [
        ("Adds.\n\nArgs:\n    a, b: of [B, N].\n        More.\n\nReturns:\n    [N] <int>.", None),
        ("Does.\n\n    run this\n\nEnd.", "Does.\n\n```text\nrun this\n```\n\nEnd."),
        (
            "Has two.\n\nReturns:\n    a: one.\n    b: two\n    or three.",
            "Has two.\n\n**Returns**\n\n- `a`: one.\n- `b`: two or three.",
        ),
        ("Input: x. Output: y.", "**Input:** x. **Output:** y."),
        ("See NUM_CLASSES.", "See [`NUM_CLASSES`][setting-NUM_CLASSES]."),
        ("See `MaskRCNN.detect`.", "See [`MaskRCNN.detect`][mrcnn.model.MaskRCNN.detect]."),
        ("The argument `data`.", "The argument `data`."),
    ],
)
def test_docstrings_become_markdown(text, page):
    page = page or (
        "Adds.\n\n**Args**\n\n- `a`, `b`: of `[B, N]`. More.\n\n**Returns**\n\n`[N]` &lt;int>."
    )
    assert pages.docstring_page(text, "mrcnn.utils") == page


def test_no_circle_of_imports():
    """Imports go one way, also those inside functions."""
    assert load_tool("structure").circles_of(ROOT / "mrcnn") == []


def test_every_module_is_in_the_reference():
    listed = [name for names in pages.rooms().values() for name in names]
    assert sorted(listed) == sorted(path.stem for path in (ROOT / "mrcnn").glob("[!_]*.py"))
    assert pages.OTHERS not in pages.rooms(), "a new module needs a place in tools/pages.py: ROOMS"
    index = pages.reference_index()
    for name in listed:
        assert f"({name}.md)" in index
        assert f"::: mrcnn.{name}\n" in pages.reference_page(name)
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        missing = [name for name in listed if f"`mrcnn/{name}.py`" not in text]
        assert not missing, f"{document} says where things are"


def test_every_page_of_the_table_of_contents_exists():
    hooks = (ROOT / "tools" / "docs_hooks.py").read_text(encoding="utf-8")
    included = ast.literal_eval(re.search(r"^INCLUDED = (\{.*?^\})", hooks, re.M | re.S)[1])
    made = {"settings.md", "reference/index.md"}
    names = re.findall(r": ([\w/]+\.md)\b", NAV)
    assert len(names) > 8 and made <= set(names) and set(included) <= set(names)
    for name in names:
        source = included.get(name, f"docs/{name}")
        assert name in made or (ROOT / source).is_file(), name
    for path in (ROOT / "docs").glob("*.md"):
        assert path.name in names, f"{path.name} is not in mkdocs.yml"


def test_changelog_begins_with_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", text, re.M)
    assert versions[0] == mrcnn.__version__
    assert versions == sorted(versions, key=lambda v: [int(n) for n in v.split(".")], reverse=True)
