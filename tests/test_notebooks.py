"""The notebooks run as they are, hold calls and text only, and are kept without outputs."""

import ast
import importlib.util
import itertools
import os
import pathlib
import re

import nbformat
import oracle
import pytest
import quickly

ROOT = pathlib.Path(__file__).resolve().parents[1]
OF_SHAPES = ("train_shapes", "demo", "inspect_data", "inspect_model", "inspect_weights", "paper")
NAMES = (*OF_SHAPES, "nuclei")


# A step takes a tenth of what it does otherwise, a detection half.
SETTINGS = (
    "IMAGES_PER_GPU=2 IMAGE_MIN_DIM=128 IMAGE_MAX_DIM=128 POST_NMS_ROIS_INFERENCE=100"
    " DETECTION_MAX_INSTANCES=50 MASK_HEAD_CONVS=1 BACKBONE_WIDTH=16 TEST_FLIP=False"
)


# IPython's %reset looks for garbage after each name, two seconds in all.
FORGET = """
for _name in [name for name in globals() if not name.startswith("_")]:
    if _name not in ("In", "Out", "get_ipython", "exit", "quit", "open"):
        del globals()[_name]
"""


@pytest.fixture(scope="module")
def gallery():
    spec = importlib.util.spec_from_file_location("gallery", ROOT / "tools" / "gallery.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The first notebook to need them trains, a few steps only; the others use them."""
    patch = pytest.MonkeyPatch()
    startup = tmp_path_factory.mktemp("ipython") / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "quickly.py").write_text(quickly.HEAD)
    patch.setenv("IPYTHONDIR", str(startup.parents[1]))
    patch.setenv("MRCNN_NOTEBOOK_STEPS", "9")
    patch.setenv("MRCNN_NOTEBOOK_IMAGES", "12")
    patch.setenv("MRCNN_NOTEBOOK_SET", SETTINGS)
    patch.setenv("MRCNN_NOTEBOOKS", str(tmp_path_factory.mktemp("notebooks")))
    patch.delenv("MRCNN_NUCLEI_WEIGHTS", raising=False)
    patch.setenv(
        "PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    )
    yield
    patch.undo()


def code_cells(name):
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_all_are_tested():
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_calls_and_text_only(name):
    """No functions, classes or loops of statements; no outputs; the data by one variable."""
    cells = code_cells(name)
    assert cells and all(not cell.outputs and cell.execution_count is None for cell in cells)
    tree = ast.parse("\n".join(cell.source.replace("%matplotlib inline", "") for cell in cells))
    forbidden = (
        ast.FunctionDef,
        ast.ClassDef,
        ast.Lambda,
        ast.For,
        ast.While,
        ast.If,
        ast.Try,
        ast.With,
    )
    assert not [node for node in ast.walk(tree) if isinstance(node, forbidden)]
    assigned = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DATA"
    ]
    assert len(assigned) == 1 and ast.literal_eval(assigned[0].value) == {"nuclei": "nuclei"}.get(
        name, "shapes"
    )


def check(gallery, notebook):
    """What a notebook that ran must show."""
    pictures = gallery.pictures(notebook)
    assert len(pictures) >= 3
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    errors = [output for output in outputs if output.output_type == "error"]
    assert not errors, "\n".join(errors[0].traceback)
    # Warnings on stderr are what a reader would see.
    text = "".join(output.get("text", "") for output in outputs)
    assert "Warning" not in text, text
    named = [cell.metadata["gallery"] for cell in notebook.cells if "gallery" in cell.metadata]
    assert len(named) == sum("gallery" in cell.metadata for cell, _ in pictures)


@pytest.fixture(scope="module")
def executed(gallery, weights, tmp_path_factory):
    """{name: notebook with its outputs}, run one after the other by one kernel.

    TensorFlow is imported once. Each begins with the namespace of a new kernel, and goes on after
    an error, which is the test's of that notebook to report.
    """
    joined = nbformat.v4.new_notebook()
    lengths = []
    for name in NAMES:
        cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
        cells.append(nbformat.v4.new_code_cell(FORGET))
        for number, cell in enumerate(cells):
            cell.id = f"{name}-{number}"
            cell.metadata["tags"] = ["raises-exception"]
        joined.cells += cells
        lengths.append(len(cells))
    path = tmp_path_factory.mktemp("joined") / "joined.ipynb"
    nbformat.write(joined, path)
    cells = iter(gallery.execute(path).cells)
    return {
        name: nbformat.v4.new_notebook(cells=list(itertools.islice(cells, length)))
        for name, length in zip(NAMES, lengths, strict=True)
    }


@pytest.mark.heavy
@pytest.mark.parametrize("name", NAMES)
def test_runs(name, gallery, executed):
    check(gallery, executed[name])


# inspect_data needs no network; the others take minutes with that of the photographs.
@pytest.mark.heavy
@pytest.mark.parametrize(
    "name",
    [
        name if name == "inspect_data" else pytest.param(name, marks=pytest.mark.slow)
        for name in OF_SHAPES
    ],
)
def test_runs_on_photographs(name, gallery, weights):
    data = oracle.shared("data/coco-mini").resolve()
    check(gallery, gallery.execute(ROOT / "notebooks" / f"{name}.ipynb", data))


def test_gallery_is_small(gallery):
    """The README shows a picture of each cell that is named for it; all together are below 1.5
    MB."""
    named = {
        cell.metadata["gallery"]
        for name in NAMES
        for cell in code_cells(name)
        if "gallery" in cell.metadata
    }
    files = list((ROOT / "docs" / "gallery").glob("*.png"))
    shown = set(
        re.findall(r"docs/gallery/(\w+)\.png", (ROOT / "README.md").read_text(encoding="utf-8"))
    )
    assert {path.stem for path in files} == named == shown and sum(
        path.stat().st_size for path in files
    ) < 1.5e6
