"""What every notebook here begins with: data by one variable, and a model that knows it.

    # or "nuclei", or "../shared/data/coco-mini", or any folder of COCO's layout
    dataset, config = start.data("shapes")
    # weights of `make demo`, or of a minute's training
    model = start.model("shapes")

Weights that were trained here lie in ../logs/notebooks (or $MRCNN_NOTEBOOKS) and are used again.
The network of the nuclei is that of $MRCNN_NUCLEI_WEIGHTS, or of `make nuclei`, or trained here in
$MRCNN_NOTEBOOK_STEPS steps. $MRCNN_NOTEBOOK_SET has settings for all of them, such as
"BACKBONE_WIDTH=32"; the weights of `make demo` and `make nuclei`, which may not fit these, are then
left alone.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from mrcnn import commands, media  # noqa: E402
from mrcnn.coco import CocoDataset  # noqa: E402
from samples.nucleus import nucleus  # noqa: E402

if TYPE_CHECKING:
    from keras.callbacks import History

    from mrcnn.config import Config
    from mrcnn.model import MaskRCNN
    from mrcnn.utils import Dataset

FOLDER = pathlib.Path(os.environ.get("MRCNN_NOTEBOOKS", ROOT / "logs" / "notebooks"))
# Steps of the training from scratch: about a minute on two CPU cores.
STEPS = int(os.environ.get("MRCNN_NOTEBOOK_STEPS", 120))
# Unseen images to detect on, at most.
UNSEEN_IMAGES = int(os.environ.get("MRCNN_NOTEBOOK_IMAGES", 100))
NUCLEI_LOGS = ROOT / "nuclei" / "logs"  # where `make nuclei` trains
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


def _is_nuclei(where: str | os.PathLike) -> bool:
    """Whether data are the nuclei of the sample, or a folder as theirs."""
    return where == "nuclei" or (_folder(where) / "instances_train.json").is_file()


def _folder(where: str | os.PathLike) -> pathlib.Path:
    """A folder of data, as it is or from the project's folder on."""
    folder = pathlib.Path(where)
    if not folder.exists():
        folder = ROOT / where
    return folder


def _nuclei(where: str | os.PathLike, subset: str, images: int) -> nucleus.NucleusDataset:
    """A subset of nuclei; of more images than that, some from its beginning to its end."""
    folder = pathlib.Path(nucleus.DATA_DIR)
    if where != "nuclei":
        folder = _folder(where)
    dataset = nucleus.NucleusDataset()
    dataset.load_nucleus(folder, subset)
    stride = -(-len(dataset.image_info) // images)
    dataset.image_info = dataset.image_info[stride - 1 :: stride]
    dataset.prepare()
    return dataset


def _nuclei_config(settings: dict[str, Any]) -> Config:
    """Settings of the small network of the nuclei."""
    kind = nucleus.NucleusSmallConfig
    if settings.get("IMAGES_PER_GPU") == 1:
        kind = nucleus.NucleusSmallInferenceConfig
    return _overridden(kind(**settings), settings)


def _overridden(config: Config, settings: dict[str, Any]) -> Config:
    """A config with the settings of $MRCNN_NOTEBOOK_SET, before which those given go."""
    texts = os.environ.get("MRCNN_NOTEBOOK_SET", "").split()
    config.override([text for text in texts if text.partition("=")[0] not in settings])
    config.validate()
    return config


def data(
    where: str | os.PathLike = "shapes", subset: str = "train", images: int = 200, **settings: Any
) -> tuple[Dataset, Config]:
    """A dataset and the settings of a small network for it.

    Args:
        where: "shapes", generated; "nuclei", or a folder with an instances_train.json of nuclei; or
            a folder in COCO's layout.
        subset: "train" or "val"; of shapes, "val" are images that no training sees.
        images: of shapes, how many; of nuclei, at most.
        settings: of the configuration, such as IMAGE_MAX_DIM=512.

    Returns:
        prepared Dataset, Config.
    """
    if subset == "val":
        images = min(images, UNSEEN_IMAGES)
    if _is_nuclei(where):
        return _nuclei(where, subset, images), _nuclei_config(settings)
    shapes = _shapes()
    if where == "shapes":
        first = 0
        if subset == "val":
            first = commands.HELD_OUT
        config = shapes.ShapesConfig(**{"IMAGES_PER_GPU": 8, **settings})
        return shapes.ShapesDataset(images, first=first), _overridden(config, settings)
    folder = _folder(where)
    years = _years(folder)
    if subset not in years:
        subset = next(iter(years))
    dataset = CocoDataset()
    dataset.load_coco(folder, subset, years[subset], keep_empty=True)
    dataset.prepare()
    values = {**COCO_SETTINGS, "NUM_CLASSES": dataset.num_classes, **settings}
    return dataset, _overridden(shapes.ShapesConfig(**values), settings)


def train(where: str | os.PathLike = "shapes", steps: int = STEPS, epochs: int = 3) -> History:
    """Trains the small network from random weights and keeps the weights. Returns the History."""
    import keras

    from mrcnn import model as modellib

    keras.utils.set_random_seed(0)
    dataset, config = data(where, images=3 * steps * 8, STEPS_PER_EPOCH=max(steps // epochs, 1))
    augmentation = None
    if _is_nuclei(where):
        augmentation = nucleus.small_augmentation()
    network = modellib.MaskRCNN("training", config, FOLDER)
    history = network.train(
        dataset, None, config.LEARNING_RATE, epochs, "all", augmentation=augmentation
    )
    network.save_weights(weights(where))
    media.write_json(_losses(weights(where)), history.history)
    return history


def losses(where: str | os.PathLike = "shapes", epochs: int = 6) -> dict[str, list[float]]:
    """{name: [mean of an epoch]} of the training of the weights that `model` takes.

    Where there are no weights it is trained now, for `epochs` epochs of fewer steps; where nothing
    is known of the training of those that there are, it is {}.
    """
    path = _newest_weights(where)
    if not path.exists():
        train(where, epochs=epochs)
    if not _losses(path).exists():
        return {}
    return json.loads(_losses(path).read_text())


def _losses(path: pathlib.Path) -> pathlib.Path:
    """Where the losses of the training of weights are kept: in a run's folder, or beside them."""
    of_run = path.parent / "losses.json"
    if of_run.exists():
        return of_run
    return path.with_suffix(".json")


def weights(where: str | os.PathLike = "shapes") -> pathlib.Path:
    """Where `train` keeps the weights for that data."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    return FOLDER / f"{pathlib.Path(where).name}.h5"


def model(
    where: str | os.PathLike = "shapes", path: str | os.PathLike | None = None, **settings: Any
) -> MaskRCNN:
    """An inference model: of the weights at `path`, of `make demo`'s or `make nuclei`'s, of
    `train`'s, or trained now.

    Returns:
        MaskRCNN, whose `coverage` says what was loaded.
    """
    from mrcnn import model as modellib

    _, config = data(where, images=1, **{"IMAGES_PER_GPU": 1, **settings})
    path = pathlib.Path(path or _newest_weights(where))
    if not path.exists():
        train(where)
    network = modellib.MaskRCNN("inference", config, FOLDER)
    network.coverage = network.load_weights(path)
    return network


def _newest_weights(where: str | os.PathLike) -> pathlib.Path:
    """The newest weights for that data: of `make demo` or `make nuclei`, or those that `train`
    keeps."""
    if os.environ.get("MRCNN_NOTEBOOK_SET"):
        return weights(where)
    if where == "shapes":
        demo = sorted((ROOT / "demo" / "logs").glob("*/mask_rcnn_shapes_*.h5"))
        if demo:
            return demo[-1]
    if _is_nuclei(where):
        return _nuclei_weights(where)
    return weights(where)


def _nuclei_weights(where: str | os.PathLike) -> pathlib.Path:
    """Those of $MRCNN_NUCLEI_WEIGHTS, of `make nuclei`, or those that `train` keeps."""
    from mrcnn import training

    given = os.environ.get("MRCNN_NUCLEI_WEIGHTS")
    if given and not os.path.exists(given):
        raise FileNotFoundError(f"$MRCNN_NUCLEI_WEIGHTS is a weight file. Received: {given}")
    if given:
        return pathlib.Path(given)
    try:
        return pathlib.Path(training.find_last(NUCLEI_LOGS, nucleus.NucleusSmallConfig.NAME))
    except FileNotFoundError:
        return weights(where)
