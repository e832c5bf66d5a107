"""Runs the notebooks and saves their best pictures as small PNGs for the README.

    .venv/bin/python tools/gallery.py                     all notebooks, pictures to docs/gallery
    .venv/bin/python tools/gallery.py --executed FOLDER   also the notebooks with their outputs

A cell whose metadata has "gallery": NAME gives docs/gallery/NAME.png.
"""

import argparse
import base64
import io
import pathlib

import nbformat
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
ORDER = ("train_shapes", "demo", "inspect_data", "inspect_model", "inspect_weights", "paper")


def execute(path, data="shapes", timeout=1800):
    """A notebook with its outputs, run in its own folder on the given data."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = cell.source.replace('DATA = "shapes"', f"DATA = {str(data)!r}")
    NotebookClient(
        notebook,
        timeout=timeout,
        startup_timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    ).execute()
    return notebook


def pictures(notebook):
    """[(cell, PNG bytes)] of a notebook that ran."""
    return [
        (cell, base64.b64decode(output["data"]["image/png"]))
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]


def save(png, path, width=900):
    """Saves a PNG of at most that width with 256 colours, the rare ones of a legend among them."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        image = image.convert("RGB")
        if image.width > width:
            image = image.resize((width, round(image.height * width / image.width)), Image.LANCZOS)
        path.parent.mkdir(parents=True, exist_ok=True)
        image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            path, optimize=True
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=ROOT / "docs" / "gallery",
        help="folder of the pictures",
    )
    parser.add_argument(
        "--executed", type=pathlib.Path, help="folder for the notebooks with their outputs"
    )
    parser.add_argument("--data", default="shapes", help="what DATA is (default: %(default)s)")
    args = parser.parse_args()
    for name in ORDER:
        notebook = execute(NOTEBOOKS / f"{name}.ipynb", args.data)
        if args.executed:
            args.executed.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, args.executed / f"{name}.ipynb")
        for cell, png in pictures(notebook):
            if "gallery" in cell.metadata:
                save(png, args.output / f"{cell.metadata['gallery']}.png")
                print(args.output / f"{cell.metadata['gallery']}.png", flush=True)
        print(name, "done", flush=True)


if __name__ == "__main__":
    main()
