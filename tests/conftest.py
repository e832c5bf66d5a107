"""What several tests share: the recorded small network, a toy that detects, and the option --slow.

A network that is shared is left as it was found: what a test changes, it puts back.
"""

import functools
import json
import logging
import os
import pathlib
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # two workers share a GPU
# On a GPU: products of 10 bits would hide what 1e-4 is to show.
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")

import parity
import pytest
import quickly

quickly.collect_less()


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
        names = _arrange(items)
        pathlib.Path(config.workerinput["groups"]).write_text(json.dumps(names))


@pytest.hookimpl(tryfirst=True)  # before the fixtures
def pytest_runtest_setup(item):
    """The recorded networks run as a user's do, all others without TensorFlow's optimizing of graphs.

    Each change of it makes TensorFlow prepare all functions anew; the recorded ones stay together.
    """
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None:
        optimizer = tensorflow.config.optimizer
        off = "small_weights" not in item.fixturenames
        if optimizer.get_experimental_options().get("disable_meta_optimizer", False) != off:
            optimizer.set_experimental_options({"disable_meta_optimizer": off})


# ---- Two workers ---------------------------------------------------------------------------------

# Seconds of an idle machine, about, as --durations=0 has them, of what takes longest: a test, or the
# heavy or the other tests of a file. These begin first, so that none is left over at the end. What
# is not here counts HEAVY or LIGHT seconds a test; a wrong number costs balance, nothing else.
SECONDS = {
    "recorded": 240,
    "test_notebooks.py heavy": 120,
    "test_migrating.py::test_a_script_of_2018": 80,
    "test_cluster.py::test_two_processes_are_one_with_two_devices": 55,
    "test_devices.py heavy": 45,
    "test_shapes.py::test_demo_survives_a_kill": 42,
    "test_coco_sample.py heavy": 40,
    "test_migrating.py::test_the_function_of_cvat": 25,  # guessed from CPU seconds
    "test_training.py::test_learns_from_photographs": 35,
    "test_tutorial.py::test_every_command": 34,
    "test_training.py::test_a_killed_run_ends_as_if_it_had_not_been": 32,
    "test_training.py heavy": 30,
    "test_training.py::test_overfits_one_image": 25,
    "test_cli.py::test_train_evaluate_detect_export": 25,
    "test_network.py::test_recorded_large_network": 24,
    "test_paper.py::test_heads_of_the_group_norm_paper_and_giou_in_every_file": 20,
    "test_evaluate_coco.py": 17,
    "test_torchvision.py::test_recordings": 15,
    "test_samples.py": 14,
    "test_training.py::test_every_kind_of_input_trains_and_detects": 13,
    "test_training.py": 12,
    "test_ops.py": 12,
}
HEAVY = 10.0
LIGHT = 0.08

_GROUPS = pytest.StashKey()


def _arrange(items):
    """Puts the longest tests first, and those of a group one after the other.

    Returns:
        {id of a test: name of its group}. Tests that share a costly fixture are one: they stay
        together, or both workers would make it.
    """
    groups = {}
    for item in items:
        groups.setdefault(_group(item), []).append(item)
    seconds = {name: _seconds(name, tests) for name, tests in groups.items()}
    items.clear()
    names = {}
    for name in sorted(groups, key=lambda name: -seconds[name]):
        for item in groups[name]:
            names[item.nodeid] = name
            items.append(item)
    return names


# xdist's own way, a mark whose name it appends to the ids, came to nothing with pytest 9.2: no id
# changed, and each test went to whatever worker was free. tests/test_workers.py notices.


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Tells a worker where to write which tests are a group."""
    if _GROUPS not in node.config.stash:
        node.config.stash[_GROUPS] = tempfile.TemporaryDirectory()
    folder = node.config.stash[_GROUPS].name
    node.workerinput["groups"] = os.path.join(folder, node.workerinput["workerid"])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A group goes to one worker, in the order in which the workers have arranged the tests."""
    from xdist.scheduler import LoadScopeScheduling

    @functools.cache
    def groups():
        written = pathlib.Path(config.stash[_GROUPS].name).glob("gw*")
        return json.loads(next(written).read_text())

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return groups()[nodeid]

    return Groups(config, log)


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
    return f"{file}::{item.name}"


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


@pytest.fixture
def short_bodies(monkeypatch):
    """ResNets of a few blocks, for what doesn't depend on how deep they are."""
    from mrcnn import model as modellib

    monkeypatch.setattr(modellib, "RESNETS", quickly.short_bodies(modellib.RESNETS))


@pytest.fixture(scope="session")
def image():
    """The image of the recorded detections, [H, W, 3] uint8."""
    return parity.read("net_small_shapes0")["image0"]
