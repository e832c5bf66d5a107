"""Runs the notebooks and saves their best pictures as small PNGs for the README.

    .venv/bin/python tools/gallery.py                     all notebooks, pictures to docs/gallery
    .venv/bin/python tools/gallery.py --executed FOLDER   also the notebooks with their outputs

A cell whose metadata has "gallery": NAME gives docs/gallery/NAME.png.
"""

import argparse
import base64
import io
import os
import pathlib

import nbformat
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
ORDER = (
    "train_shapes",
    "demo",
    "inspect_data",
    "inspect_model",
    "inspect_weights",
    "paper",
    "nuclei",
)


def execute(
    path: str | os.PathLike, data: str | os.PathLike = "shapes", timeout: float = 1800
) -> nbformat.NotebookNode:
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


def pictures(notebook: nbformat.NotebookNode) -> list[tuple[nbformat.NotebookNode, bytes]]:
    """[(cell, PNG bytes)] of a notebook that ran."""
    images = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            png = output.get("data", {}).get("image/png")
            if png is not None:
                images.append((cell, base64.b64decode(png)))
    return images


def save(png: bytes, path: pathlib.Path, width: int = 900) -> None:
    """Saves a PNG of at most that width with 256 colours, the rare ones of a legend among them."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        image = image.convert("RGB")
        if image.width > width:
            height = round(image.height * width / image.width)
            image = image.resize((width, height), Image.LANCZOS)
        path.parent.mkdir(parents=True, exist_ok=True)
        method = Image.Quantize.MAXCOVERAGE
        small = image.quantize(256, method, dither=Image.Dither.NONE)
        small.save(path, optimize=True)


def main() -> None:
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
                path = args.output / f"{cell.metadata['gallery']}.png"
                save(png, path)
                print(path, flush=True)
        print(name, "done", flush=True)


if __name__ == "__main__":
    main()
