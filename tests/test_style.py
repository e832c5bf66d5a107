"""What is checked without running the code."""

import ast
import importlib.util
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Names that say nothing of a value.
EMPTY_NAMES = {"each", "found", "it", "luck", "said", "stuff", "thing", "things", "told", "what"}


@pytest.mark.heavy
def test_types():
    """A test, so that it takes its turn beside the others: alone it leaves a core idle."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def structure():
    """tools/structure.py"""
    spec = importlib.util.spec_from_file_location("structure", ROOT / "tools" / "structure.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def local_names(tree):
    """The names of the arguments and variables of all functions."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    for function in ast.walk(tree):
        if isinstance(function, functions):
            for node in ast.walk(function):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    yield node.id
                elif isinstance(node, ast.arg):
                    yield node.arg


@pytest.mark.long
@pytest.mark.parametrize("folder", ["mrcnn", "samples", "benchmarks", "tools"])
def test_structure(structure, folder):
    """No conditional expression, no name that says nothing, no private name of another module."""
    wrong = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        lines = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.IfExp)]
        wrong += [f"{path}:{line}: a conditional expression" for line in lines]
        wrong += [f"{path}: the name {name}" for name in EMPTY_NAMES & {*local_names(tree)}]
        wrong += [f"{path}: {name}" for name in structure.foreign_private_names(path, "mrcnn")]
    assert not wrong


@pytest.mark.long
def test_public_functions_are_annotated(structure):
    without = []
    for path in sorted((ROOT / "mrcnn").glob("*.py")):
        functions = structure.functions_of(ast.parse(path.read_text(encoding="utf-8")))
        without += [
            f"{path.stem}.{name}"
            for name, _, is_public, is_annotated in functions
            if is_public and not is_annotated
        ]
    assert not without


def test_structure_names_what_is_wrong(structure, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "from mrcnn import data as source, masks\nfrom mrcnn.files import _plain, short\n"
        "value = source._mixed(masks.encode(), value._own, masks.__name__)\n"
    )
    assert structure.foreign_private_names(path, "mrcnn") == ["data._mixed", "files._plain"]
