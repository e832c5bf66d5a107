"""Runs a program as Python does, with less to prepare: for tests of programs with toy networks.

    python tests/quickly.py SCRIPT ARGUMENT ...

HEAD is the same for the beginning of a program that is given as text. Nothing is imported for it:
TensorFlow, `mrcnn.config` and `mrcnn.model` are changed as soon as the program itself imports them.
"""

import gc
import importlib.abc
import importlib.util
import pathlib
import runpy
import sys

HEAD = f"""
import sys
sys.path.insert(0, {str(pathlib.Path(__file__).resolve().parent)!r})
import quickly
quickly.go()
del sys.path[0]
"""

# For settings that a program leaves as they are.
SMALL = {
    "BACKBONE_WIDTH": 16,
    "TOP_DOWN_PYRAMID_SIZE": 32,
    "RPN_CHANNELS": 32,
    "FPN_CLASSIF_FC_LAYERS_SIZE": 64,
    "MASK_HEAD_CHANNELS": 32,
    "MASK_HEAD_CONVS": 1,
    "PRE_NMS_LIMIT": 1000,
    "POST_NMS_ROIS_TRAINING": 200,
    "POST_NMS_ROIS_INFERENCE": 100,
}


def small_networks(config):
    """Fewer channels and proposals, by the defaults of `Config`."""
    for name, value in SMALL.items():
        setattr(config.Config, name, value)


def without_graph_optimizer(tensorflow):
    """A sixth of what the first step of a toy takes is the optimizing of its graph."""
    tensorflow.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def shorten_bodies(model):
    """ResNets with a single block in each of the stages 3 to 5: it is layers that take time."""
    model.RESNETS.update(short_bodies(model.RESNETS))


def short_bodies(resnets):
    """`RESNETS` of `mrcnn.model`, shortened."""
    return {name: ((blocks[0], 1, 1, 1), *rest) for name, (blocks, *rest) in resnets.items()}


def collect_less():
    """What Python looks for garbage in is a sixth of importing TensorFlow."""
    gc.set_threshold(100_000, 20, 100)


class _AsSoonAs(importlib.abc.MetaPathFinder):
    """Calls a function with a module right after that has been imported."""

    def __init__(self, name, change):
        self.name = name
        self.change = change

    def find_spec(self, name, path, target=None):
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_change(module):
            execute(module)
            self.change(module)

        spec.loader.exec_module = execute_and_change
        return spec


def go():
    """Changes what this process imports from now on."""
    collect_less()
    sys.meta_path.insert(0, _AsSoonAs("tensorflow", without_graph_optimizer))
    sys.meta_path.insert(0, _AsSoonAs("mrcnn.config", small_networks))
    sys.meta_path.insert(0, _AsSoonAs("mrcnn.model", shorten_bodies))


if __name__ == "__main__":
    go()
    del sys.argv[0]
    sys.path[0] = str(pathlib.Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
