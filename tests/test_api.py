"""Every public name of the original exists where it was, with its arguments."""

import importlib
import inspect
import re

import oracle
import pytest

# Differences on purpose: what differs, and why.
DELIBERATE = {
    "model.BatchNorm.call": (
        "fixed at construction: Keras 3 overrides `training` in a functional model"
    ),
    "visualize.ROOT_DIR": "importing visualize no longer edits sys.path (README 28)",
}


def listed():
    """[(module, name, parameters or None)] of api.txt; a method as Class.method."""
    text = oracle.find_shared("oracle/matterport/api.txt")
    if text is None:
        return []
    found, module, owner, fork = [], None, None, False
    for line in text.read_text().splitlines():
        if match := re.match(r"===== mrcnn\.(\w+)", line):
            module, fork = match.group(1), False
        elif line.startswith("---"):
            fork = True
        elif fork or not line.strip() or line.startswith("#"):
            continue
        elif match := re.match(r"class (\w+)", line):
            owner = match.group(1)
            found.append((module, owner, None))
        elif match := re.match(r"(\s*)(?:@property )?def (\w+)\((.*)\)$", line):
            name = match.group(2) if not match.group(1) else f"{owner}.{match.group(2)}"
            found.append((module, name, None if "@property" in line else match.group(3)))
        elif match := re.match(r"(\s*)(\w+) = ", line):
            found.append(
                (
                    module,
                    match.group(2) if not match.group(1) else f"{owner}.{match.group(2)}",
                    None,
                )
            )
    return found


def lookup(module, name):
    value = importlib.import_module(f"mrcnn.{module}")
    for part in name.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize(
    "module, name, parameters", listed(), ids=lambda value: str(value) if value else ""
)
def test_name_and_signature(module, name, parameters):
    if f"{module}.{name}" in DELIBERATE:
        pytest.skip(DELIBERATE[f"{module}.{name}"])
    value = lookup(module, name)
    if parameters is None:
        return
    namespace = {}
    exec(f"def old({parameters}): pass", namespace)
    old = list(inspect.signature(namespace["old"]).parameters.values())
    new = list(inspect.signature(value).parameters.values())
    for before, now in zip(old, new):
        if before.kind == before.VAR_KEYWORD or now.kind in (now.VAR_KEYWORD, now.VAR_POSITIONAL):
            break  # the rest goes by keyword
        assert now.name == before.name
        # What had to be given may have got a default.
        assert before.default is before.empty or repr(now.default) == repr(before.default), name
    else:
        assert len(new) >= len(old), f"{name} lacks {old[len(new) :]}"
    for extra in new[len(old) :]:
        assert extra.default is not extra.empty or extra.kind in (
            extra.VAR_KEYWORD,
            extra.VAR_POSITIONAL,
        ), extra


def test_the_list_is_read():
    oracle.shared("oracle/matterport/api.txt")
    assert len(listed()) > 150
