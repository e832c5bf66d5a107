"""Every public name of the original exists where it was, with its arguments."""

import importlib
import inspect
import pathlib
import re
import types

import numpy as np
import oracle
import pytest
from toy import Rectangles, ToyConfig

from mrcnn import model as modellib

# Differences on purpose: what differs, and why.
DELIBERATE = {
    "model.BatchNorm.call": (
        "fixed at construction: Keras 3 overrides `training` in a functional model"
    ),
    "visualize.ROOT_DIR": "importing visualize no longer edits sys.path (README 28)",
}


def listed():
    """[(module, name, parameters or None)] of api.txt; a method as Class.method."""
    text = oracle.find_shared("oracle/matterport/api.txt")
    if text is None:
        return []
    found, module, owner, fork = [], None, None, False
    for line in text.read_text().splitlines():
        if match := re.match(r"===== mrcnn\.(\w+)", line):
            module, fork = match.group(1), False
        elif line.startswith("---"):
            fork = True
        elif fork or not line.strip() or line.startswith("#"):
            continue
        elif match := re.match(r"class (\w+)", line):
            owner = match.group(1)
            found.append((module, owner, None))
        elif match := re.match(r"(\s*)(?:@property )?def (\w+)\((.*)\)$", line):
            name = match.group(2) if not match.group(1) else f"{owner}.{match.group(2)}"
            found.append((module, name, None if "@property" in line else match.group(3)))
        elif match := re.match(r"(\s*)(\w+) = ", line):
            found.append(
                (
                    module,
                    match.group(2) if not match.group(1) else f"{owner}.{match.group(2)}",
                    None,
                )
            )
    return found


def lookup(module, name):
    value = importlib.import_module(f"mrcnn.{module}")
    for part in name.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize(
    "module, name, parameters", listed(), ids=lambda value: str(value) if value else ""
)
def test_name_and_signature(module, name, parameters):
    if f"{module}.{name}" in DELIBERATE:
        pytest.skip(DELIBERATE[f"{module}.{name}"])
    value = lookup(module, name)
    if parameters is None:
        return
    namespace = {}
    exec(f"def old({parameters}): pass", namespace)
    old = list(inspect.signature(namespace["old"]).parameters.values())
    new = list(inspect.signature(value).parameters.values())
    for before, now in zip(old, new):
        if before.kind == before.VAR_KEYWORD or now.kind in (now.VAR_KEYWORD, now.VAR_POSITIONAL):
            break  # the rest goes by keyword
        assert now.name == before.name
        # What had to be given may have got a default.
        assert before.default is before.empty or repr(now.default) == repr(before.default), name
    else:
        assert len(new) >= len(old), f"{name} lacks {old[len(new) :]}"
    for extra in new[len(old) :]:
        assert extra.default is not extra.empty or extra.kind in (
            extra.VAR_KEYWORD,
            extra.VAR_POSITIONAL,
        ), extra


def test_the_list_is_read():
    oracle.shared("oracle/matterport/api.txt")
    assert len(listed()) > 150


CONFIG = ToyConfig()
ORDER = r"MaskRCNN\(mode, config, model_dir\), in this order. Received: mode = "


@pytest.mark.parametrize(
    "arguments, part",
    [
        (("train", CONFIG, "logs"), "mode is .*did you mean 'training'\\? Received: 'train'"),
        (("Inference", CONFIG, "logs"), "did you mean 'inference'\\? Received: 'Inference'"),
        (("test", CONFIG, "logs"), "mode is 'training' or 'inference'. Received: 'test'"),
        ((None, CONFIG, "logs"), "mode is 'training' or 'inference'. Received: None"),
        ((np.array(["training"] * 2), CONFIG, "logs"), "mode is 'training' or 'inference'"),
        ((CONFIG, "training", "logs"), ORDER + "a ToyConfig, config = 'training'"),
        ((ToyConfig, "training", "logs"), ORDER + "<class 'toy.ToyConfig'>"),
        (("training", "logs", CONFIG), ORDER + "'training', config = 'logs', model_dir = a Toy"),
        (("training", pathlib.Path("logs"), CONFIG), ORDER + "'training', config = PosixPath"),
        (("training", None, "logs"), "config is a Config, or .*Received: None"),
        (("training", {}, "logs"), "config is a Config, or .*Received: {}"),
        (("training", Rectangles(1), "logs"), "config is a Config, or .*Received: Rectangles"),
        (("training", CONFIG, None), "model_dir is the path of a folder. Received: None"),
        (("training", CONFIG, 5), "model_dir is the path of a folder. Received: 5"),
    ],
)
def test_wrong_arguments_of_the_constructor(arguments, part):
    """One line before anything is built."""
    with pytest.raises(ValueError, match=part):
        modellib.MaskRCNN(*arguments)


def as_others_write_it(config):
    """The settings of a config, without those that matterport's package has not."""
    settings = config.to_dict()
    for name in ("HORIZONTAL_FLIP", "STD_PIXEL", "FLOAT_RESIZE", "USE_KEYPOINTS", "BATCH_SIZE"):
        del settings[name]
    return settings


@pytest.mark.parametrize(
    "config",
    [
        ToyConfig,
        as_others_write_it(CONFIG),
        types.SimpleNamespace(**as_others_write_it(CONFIG)),
        type("Settings", (), as_others_write_it(CONFIG)),
    ],
    ids=["class", "dict", "SimpleNamespace", "other class"],
)
def test_functions_take_what_means_a_config(config):
    dataset = Rectangles(2)
    image, meta, class_ids, boxes, masks = modellib.load_image_gt(dataset, config, 0)
    assert len(meta) == 15 and class_ids.tolist() == [1] and masks.shape == (64, 64, 1)
    molded = modellib.mold_image(image, config)
    back = modellib.unmold_image(molded, config)
    np.testing.assert_allclose(back.astype(int), image, atol=1)  # float32, cut off
    shapes = modellib.compute_backbone_shapes(config, (64, 64, 3))
    assert shapes.tolist() == [[16, 16], [8, 8], [4, 4], [2, 2], [1, 1]]
    anchors = np.array([boxes[0], [0, 0, 8, 8]])
    match, _ = modellib.build_rpn_targets((64, 64, 3), anchors, class_ids, boxes, config)
    assert match.tolist() == [1, -1]
    inputs, _ = next(modellib.data_generator(dataset, config, shuffle=False, batch_size=2))
    assert inputs[0].shape == (2, 64, 64, 3)
    layer = modellib.DetectionLayer(config=config)
    assert layer.max_instances == CONFIG.DETECTION_MAX_INSTANCES


@pytest.mark.heavy
def test_a_model_of_a_config_class(tmp_path):
    model = modellib.MaskRCNN("inference", ToyConfig, tmp_path)
    assert isinstance(model.config, ToyConfig) and model.config.BATCH_SIZE == 2
    assert model.detect([Rectangles(1).load_image(0)])[0]["rois"].shape[1] == 4
