"""What several tests share: the recorded small network, and the option --slow."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # two workers share a GPU
os.environ.setdefault(
    "NVIDIA_TF32_OVERRIDE", "0"
)  # on a GPU: products of 10 bits would hide what 1e-4 is to show

import parity
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
    path = tmp_path_factory.mktemp("weights") / "small.h5"
    parity.write_weights("small", path)
    return str(path)


def small_config(**settings):
    """The settings of the recorded networks."""
    from mrcnn.config import Config

    return Config(**{**parity.settings(), **settings})


@pytest.fixture(scope="session")
def small_model(small_weights, tmp_path_factory):
    """The recorded inference network."""
    from mrcnn import model as modellib

    model = modellib.MaskRCNN("inference", small_config(), tmp_path_factory.mktemp("logs"))
    model.load_weights(small_weights)
    return model


@pytest.fixture(scope="session")
def image():
    """The image of the recorded detections, [H, W, 3] uint8."""
    return parity.read("net_small_shapes0")["image0"]
