"""What every notebook here begins with: data by one variable, and a model that knows it.

    # or "../shared/data/coco-mini", or any folder of COCO's layout
    dataset, config = start.data("shapes")
    # weights of `make demo`, or of a minute's training
    model = start.model("shapes")

Weights that were trained here lie in ../logs/notebooks (or $MRCNN_NOTEBOOKS) and are used again.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from mrcnn import commands  # noqa: E402
from mrcnn.coco import CocoDataset  # noqa: E402

if TYPE_CHECKING:
    from keras.callbacks import History

    from mrcnn.config import Config
    from mrcnn.model import MaskRCNN
    from mrcnn.utils import Dataset

FOLDER = pathlib.Path(os.environ.get("MRCNN_NOTEBOOKS", ROOT / "logs" / "notebooks"))
# Steps of the training from scratch: about a minute on two CPU cores.
STEPS = int(os.environ.get("MRCNN_NOTEBOOK_STEPS", 120))
# Of a small network for photographs in COCO's layout.
COCO_SETTINGS = {
    "NAME": "coco",
    "IMAGE_MIN_DIM": 256,
    "IMAGE_MAX_DIM": 256,
    "RPN_ANCHOR_SCALES": (16, 32, 64, 128, 256),
    "IMAGES_PER_GPU": 2,
    "MAX_GT_INSTANCES": 40,
    "CHECK_IMAGES": 8,
}


def _shapes() -> ModuleType:
    """The module of the sample with generated shapes."""
    spec = importlib.util.spec_from_file_location(
        "shapes", ROOT / "samples" / "shapes" / "shapes.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _years(folder: pathlib.Path) -> dict[str, str]:
    """{subset: year} of a folder in COCO's layout, by its annotation files."""
    years = {}
    for path in sorted((folder / "annotations").glob("instances_*.json")):
        name = path.stem.removeprefix("instances_")
        subset = name.rstrip("0123456789")
        years[subset] = name.removeprefix(subset)
    if not years:
        raise FileNotFoundError(
            f'DATA is "shapes" or a folder with annotations/instances_*.json. Received: {folder}'
        )
    return years


def data(
    where: str | os.PathLike = "shapes", subset: str = "train", images: int = 200, **settings: Any
) -> tuple[Dataset, Config]:
    """A dataset and the settings of a small network for it.

    Args:
        where: "shapes", generated; or a folder in COCO's layout.
        subset: "train" or "val"; of shapes, "val" are images that no training sees.
        images: of shapes, how many.
        settings: of the configuration, such as IMAGE_MAX_DIM=512.

    Returns:
        prepared Dataset, Config.
    """
    shapes = _shapes()
    if where == "shapes":
        first = 0
        if subset == "val":
            first = commands.HELD_OUT
        config = shapes.ShapesConfig(**{"IMAGES_PER_GPU": 8, **settings})
        return shapes.ShapesDataset(images, first=first), config
    folder = pathlib.Path(where)
    if not folder.exists():
        folder = ROOT / where
    years = _years(folder)
    if subset not in years:
        subset = next(iter(years))
    dataset = CocoDataset()
    dataset.load_coco(folder, subset, years[subset], keep_empty=True)
    dataset.prepare()
    values = {**COCO_SETTINGS, "NUM_CLASSES": dataset.num_classes, **settings}
    return dataset, shapes.ShapesConfig(**values)


def train(where: str | os.PathLike = "shapes", steps: int = STEPS, epochs: int = 3) -> History:
    """Trains the small network from random weights and keeps the weights. Returns the History."""
    import keras

    from mrcnn import model as modellib

    keras.utils.set_random_seed(0)
    dataset, config = data(where, images=3 * steps * 8, STEPS_PER_EPOCH=max(steps // epochs, 1))
    network = modellib.MaskRCNN("training", config, FOLDER)
    history = network.train(dataset, None, config.LEARNING_RATE, epochs, "all")
    network.save_weights(weights(where))
    return history


def weights(where: str | os.PathLike = "shapes") -> pathlib.Path:
    """Where `train` keeps the weights for that data."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    return FOLDER / f"{pathlib.Path(where).name}.h5"


def model(
    where: str | os.PathLike = "shapes", path: str | os.PathLike | None = None, **settings: Any
) -> MaskRCNN:
    """An inference model: of the weights at `path`, of `make demo`'s, of `train`'s, or trained now.

    Returns:
        MaskRCNN, whose `coverage` says what was loaded.
    """
    from mrcnn import model as modellib

    _, config = data(where, images=1, **{"IMAGES_PER_GPU": 1, **settings})
    path = path or _newest_weights(where)
    if not pathlib.Path(path).exists():
        train(where)
    network = modellib.MaskRCNN("inference", config, FOLDER)
    network.coverage = network.load_weights(path)
    return network


def _newest_weights(where: str | os.PathLike) -> pathlib.Path:
    """The newest weights for that data: those of `make demo`, or those that `train` keeps."""
    if where == "shapes":
        demo = sorted((ROOT / "demo" / "logs").glob("*/mask_rcnn_shapes_*.h5"))
        if demo:
            return demo[-1]
    return weights(where)
