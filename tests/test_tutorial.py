"""docs/custom_dataset.md: its commands, as they stand there, one after the other on a generated
folder, with a smaller network; the model that they train must find the objects."""

import functools
import json
import pathlib
import re
import runpy
import shlex
import shutil
import sys

import pytest
from toy import ToyConfig

from mrcnn import commands, config

ROOT = pathlib.Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "custom_dataset.md").read_text(encoding="utf-8")
# The environment that the tests already run in.
ENVIRONMENT = ("tools/venv.sh", ". .venv/bin/activate")
# Of 12 photographs held out, by a network that trains for seconds.
FLOOR = 0.6

TINY = {
    name: getattr(ToyConfig, name)
    for name in (
        "IMAGE_MIN_DIM",
        "IMAGE_MAX_DIM",
        "RPN_ANCHOR_SCALES",
        "RPN_CHANNELS",
        "TOP_DOWN_PYRAMID_SIZE",
        "MASK_HEAD_CHANNELS",
        "FPN_CLASSIF_FC_LAYERS_SIZE",
        "PRE_NMS_LIMIT",
        "POST_NMS_ROIS_TRAINING",
        "POST_NMS_ROIS_INFERENCE",
        "TRAIN_ROIS_PER_IMAGE",
        "RPN_TRAIN_ANCHORS_PER_IMAGE",
        "MAX_GT_INSTANCES",
        "MINI_MASK_SHAPE",
    )
}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, flags=re.S | re.M)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The project in a folder of its own, and every network as small as the tests' toy."""
    for name, value in {
        **TINY,
        "BACKBONE": ToyConfig.__dict__["BACKBONE"],
        "COMPUTE_BACKBONE_SHAPE": ToyConfig.__dict__["COMPUTE_BACKBONE_SHAPE"],
    }.items():
        monkeypatch.setattr(config.Config, name, value)
        if name in vars(config.SmallConfig):
            monkeypatch.setattr(config.SmallConfig, name, value)
    monkeypatch.setattr(config.SmallConfig, "LEARNING_RATE", 3e-3, raising=False)
    monkeypatch.setattr(config.SmallConfig, "IMAGES_PER_GPU", 4)
    for name in ("samples", "tests", "tools"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("recorded", "__pycache__")
        )
    (tmp_path / "mrcnn").symlink_to(ROOT / "mrcnn")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(commands, "parser", functools.partial(commands.parser, logs="logs"))
    return tmp_path


def coco_weights(path):
    """A file in the place of the released one: 81 classes, for the network of `small`."""
    from mrcnn import model as modellib

    modellib.MaskRCNN("inference", config.Config(NAME="coco", NUM_CLASSES=81), "logs").save_weights(
        str(path)
    )


def run(line, extra, monkeypatch):
    """A line `python script ...` or `cp a b`, in this process."""
    words = shlex.split(line, comments=True)
    if words[0] == "cp":
        shutil.copy(*words[1:])
        return
    assert words[0] == "python", line
    monkeypatch.setattr(sys, "argv", [*words[1:], *extra])
    try:
        runpy.run_path(words[1], run_name="__main__")
    except SystemExit as end:
        assert end.code in (None, 0), f"{line}: {end.code}"


@pytest.mark.heavy
def test_every_command(small, monkeypatch, capsys):
    from mrcnn import model as modellib

    coco_weights(small / "coco.h5")
    monkeypatch.setattr(commands, "COCO_WEIGHTS", small / "coco.h5")
    lines = [
        line
        for block in blocks("sh")
        for line in block.splitlines()
        if line.split("#")[0].strip() not in ENVIRONMENT
    ]
    # In small: epochs are short, and from COCO's weights on the steps are left out.
    short = {
        "--weights=none": ["--set", "STEPS_PER_EPOCH=35", "VALIDATION_STEPS=0"],
        "--weights=last": [
            "--set",
            "STEPS_PER_EPOCH=1",
            "VALIDATION_STEPS=0",
            "LEARNING_RATE=1e-6",
        ],
    }
    scripts, asked = [], []

    def note(model, train_set, val_set, learning_rate, epochs, layers, **_):
        asked.append((epochs, layers))
        model.epoch = epochs

    for line in lines:
        with monkeypatch.context() as patch:
            if "--weights=coco" in line:
                patch.setattr(modellib.MaskRCNN, "train", note)
            run(line, next((extra for word, extra in short.items() if word in line), []), patch)
        printed = capsys.readouterr().out
        scripts.append(" ".join(word for word in line.split()[1:3]))
        if "--weights=none" in line:
            expected = re.search(r"^    (photos/via.json: 60 images.*)$", TEXT, flags=re.M)[1]
            assert expected in printed
        if "evaluate" in line:
            figures = json.loads((small / "results" / "figures.json").read_text())
            assert figures["bbox"]["AP50"] > FLOOR and figures["segm"]["AP50"] > FLOOR
            assert "coin" in printed and "leaf" in printed
    assert scripts == [
        "tests/miniature.py photos",
        *["samples/custom.py train"] * 3,
        "samples/custom.py evaluate",
        "samples/custom.py detect",
        "samples/custom.py samples/coins.py",
        "samples/coins.py --help",
    ]
    assert asked == [(20, "heads"), (40, "all")]
    found = json.loads((small / "results" / "results.json").read_text())
    assert found and {row["category_id"] for row in found} <= {1, 2}
    assert all((small / "results" / f"00{i}.jpg").exists() for i in (0, 1))

    (program,) = blocks("python")
    exec(compile(program, "custom_dataset.md", "exec"), {"__name__": "tutorial"})
    assert re.search(r"\(128, 128, \d+\)", capsys.readouterr().out)


def test_every_setting_exists():
    """Names in capitals are settings, files and options are there."""
    known = set(vars(config.Config)) | {"AP", "AP50", "VIA", "LabelMe", "COCO"}
    table = TEXT.split("## 6.")[1]
    names = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", table)) - {"NUM_CLASSES"}
    assert names and names <= known
    for path in re.findall(r"`((?:samples|mrcnn|docs|tools|tests)/[\w/.]+)`", TEXT):
        assert (ROOT / path).exists(), path
