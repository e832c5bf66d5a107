"""Pictures against references, with tolerance; MRCNN_PICTURES=new makes them anew.

A reference is the picture brought to about 64 columns by averaging, as a PNG of a few KB: another
FreeType or another release of matplotlib moves edges by a fraction of a pixel, which the averages
hardly show; a missing box, a mask elsewhere or another colour do.
"""

import os
import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "pictures"
COLUMNS = 64
# Of 255: the mean over the picture, and the largest of any cell.
MEAN, LARGEST = 4, 90


def thumbnail(figure):
    """[rows, about COLUMNS, 3] float of a figure, each cell the mean of its pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3].astype(float)
    step = max(round(picture.shape[1] / COLUMNS), 1)
    rows, columns = picture.shape[0] // step, picture.shape[1] // step
    return (
        picture[: rows * step, : columns * step]
        .reshape(rows, step, columns, step, 3)
        .mean(axis=(1, 3))
    )


def compare(picture, reference):
    """Raises AssertionError where a thumbnail is not its reference."""
    assert picture.shape == reference.shape, (picture.shape, reference.shape)
    difference = np.abs(picture - reference)
    assert difference.mean() < MEAN and difference.max() < LARGEST, (
        difference.mean(),
        difference.max(),
    )


def check(name, drawn):
    """Compares a figure, or the figure of axes, with the reference of that name; MRCNN_PICTURES=new
    writes it."""
    from PIL import Image

    picture, path = thumbnail(getattr(drawn, "figure", drawn)), FOLDER / f"{name}.png"
    if os.environ.get("MRCNN_PICTURES") == "new":
        FOLDER.mkdir(exist_ok=True)
        Image.fromarray(np.round(picture).astype(np.uint8)).save(path, optimize=True)
    with Image.open(path) as reference:
        compare(picture, np.asarray(reference.convert("RGB"), float))
