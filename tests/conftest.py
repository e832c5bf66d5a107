"""What several tests share: the recorded small network, a toy that detects, and the option --slow.

A network that is shared is left as it was found: what a test changes, it puts back.
"""

import logging
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # two workers share a GPU
# On a GPU: products of 10 bits would hide what 1e-4 is to show.
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")

import parity
import pytest


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")


@pytest.hookimpl(tryfirst=True)  # before -m chooses, and before xdist reads the groups
def pytest_collection_modifyitems(config, items):
    for item in items:
        if "small_weights" in item.fixturenames:  # building the recorded network takes 10 s
            item.add_marker(pytest.mark.heavy)
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))
    if hasattr(config, "workerinput"):
        _arrange(items)


# ---- Two workers ---------------------------------------------------------------------------------

# Seconds of an idle machine, measured with --durations=0, of what takes longest: a test, or the
# heavy or the other tests of a file. These begin first, so that none is left over at the end. What
# is not here counts HEAVY or LIGHT seconds a test; a wrong number costs balance, nothing else.
SECONDS = {
    "recorded": 300,
    "test_notebooks.py heavy": 200,
    "test_training.py::test_learns_from_photographs": 114,
    "test_migrating.py::test_a_script_of_2018": 102,
    "test_migrating.py::test_the_function_of_cvat": 25,  # guessed from CPU seconds
    "test_devices.py heavy": 100,
    "test_shapes.py::test_demo_survives_a_kill": 86,
    "test_paper.py::test_variants_train_and_detect": 50,
    "test_tutorial.py::test_every_command": 56,
    "test_coco_sample.py heavy": 55,
    "test_cluster.py::test_two_processes_are_one_with_two_devices": 150,  # not on an idle machine
    "test_cli.py heavy": 60,
    "test_training.py heavy": 40,
    "test_training.py::test_a_killed_run_ends_as_if_it_had_not_been": 35,
    "test_training.py::test_overfits_one_image": 30,
    "test_training.py::test_every_kind_of_input_trains_and_detects": 20,
    "test_evaluate_coco.py": 17,
    "test_samples.py": 14,
    "test_training.py": 12,
    "test_ops.py": 12,
}
HEAVY = 10.0
LIGHT = 0.08


def _arrange(items):
    """Says which tests stay on one worker, and puts the longest first.

    Tests that share a costly fixture stay together, or both workers would make it.
    """
    groups = {}
    for item in items:
        groups.setdefault(_group(item), []).append(item)
    seconds = {name: _seconds(name, tests) for name, tests in groups.items()}
    items.clear()
    for name in sorted(groups, key=lambda name: -seconds[name]):
        for item in groups[name]:
            item.add_marker(pytest.mark.xdist_group(name))
            items.append(item)


def _group(item):
    """The name of the tests that stay with this one: those of its fixture, of its file, itself."""
    if "small_weights" in item.fixturenames:
        return "recorded"
    file = item.path.name
    if "heavy" not in item.keywords:
        return file
    fixtures = item._fixtureinfo.name2fixturedefs.values()
    if any(definitions[-1].scope == "module" for definitions in fixtures):
        return f"{file} heavy"
    return f"{file}::{item.name}".replace("@", " ")  # xdist parts the group from the test by it


def _seconds(name, tests):
    """How long a group takes, about."""
    if all(_is_skipped(item) for item in tests):
        return 0.0
    if name.split("[")[0] in SECONDS:
        return SECONDS[name.split("[")[0]]
    return sum(HEAVY if "heavy" in item.keywords else LIGHT for item in tests)


def _is_skipped(item):
    """Whether a condition that is known now skips the test, as those of other environments."""
    return any(marker.args[:1] == (True,) for marker in item.iter_markers("skipif"))


# ---- Fixtures ------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _levels_of_loggers():
    """Commands set the levels of the package's loggers; the next test finds them as they were."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("mrcnn")]
    before = {name: logging.getLogger(name).level for name in names}
    yield
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("mrcnn"):
            logging.getLogger(name).setLevel(before.get(name, logging.NOTSET))


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
def toy_detector(tmp_path_factory):
    """An untrained network in inference mode that finds dozens of objects on any image, one image
    at a time: for what doesn't depend on the weights, at a hundredth of the recorded network's
    work."""
    import keras
    from toy import ToyConfig

    from mrcnn import model as modellib

    config = ToyConfig(
        IMAGES_PER_GPU=1,
        IMAGE_MIN_DIM=128,
        IMAGE_MAX_DIM=128,
        POST_NMS_ROIS_INFERENCE=100,
        DETECTION_MAX_INSTANCES=60,
        DETECTION_NMS_THRESHOLD=0.9,
    )
    keras.utils.set_random_seed(0)
    model = modellib.MaskRCNN("inference", config, tmp_path_factory.mktemp("logs"))
    model.keras_model.get_layer("mrcnn_class_logits").layer.bias.assign([-20.0, 0, 0])
    return model


@pytest.fixture(scope="session")
def image():
    """The image of the recorded detections, [H, W, 3] uint8."""
    return parity.read("net_small_shapes0")["image0"]
