"""What several tests share: the recorded small network, and the option --slow."""
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import importlib.util

import numpy as np
import oracle
import pytest


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory):
    """Path of the recorded cases' weights in the released files' layout."""
    spec = importlib.util.spec_from_file_location("make_h5", oracle.RECORDED / "make_h5.py")
    make_h5 = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_h5)
    path = tmp_path_factory.mktemp("weights") / "small.h5"
    make_h5.write("small", path)
    return str(path)


def small_config(**settings):
    """The settings of the recorded networks."""
    from mrcnn.config import Config
    return Config(**{"NAME": "small", "BACKBONE": "resnet50", "NUM_CLASSES": 4, "IMAGE_MIN_DIM": 128,
                     "IMAGE_MAX_DIM": 128, "RPN_ANCHOR_SCALES": (8, 16, 32, 64, 128), "IMAGES_PER_GPU": 1, **settings})


@pytest.fixture(scope="session")
def small_model(small_weights, tmp_path_factory):
    """The recorded inference network."""
    from mrcnn import model as modellib
    model = modellib.MaskRCNN("inference", small_config(), tmp_path_factory.mktemp("logs"))
    model.load_weights(small_weights)
    return model


def recorded(name):
    """{key: array} of one of the carried recordings."""
    with np.load(oracle.RECORDED / f"{name}.npz") as archive:
        return {key: archive[key] for key in archive.files}
