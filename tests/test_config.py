"""Settings: defaults of the original, derived values, spelling, cross-checks."""

import re
import subprocess
import sys

import numpy as np
import oracle
import pytest

from mrcnn.config import Config


def recorded_defaults():
    text = (oracle.RECORDED / "api.txt").read_text()
    section = text.split("===== mrcnn.config")[1].split("---")[0]
    return dict(re.findall(r"^    ([A-Z_]+) = (.*)$", section, re.M))


def test_every_setting_of_the_original_has_its_default():
    defaults = recorded_defaults()
    assert len(defaults) == 45
    for name, text in defaults.items():
        expected = eval(text, {"np": np})  # noqa: S307, a recorded constant
        np.testing.assert_equal(
            np.asarray(getattr(Config, name)), np.asarray(expected), err_msg=name
        )
        assert type(getattr(Config, name)) is type(expected), name


def test_derived_values_follow_and_accept_assignment():
    config = Config(IMAGES_PER_GPU=3, GPU_COUNT=2, IMAGE_MAX_DIM=512, NUM_CLASSES=5)
    assert (
        config.BATCH_SIZE == 6
        and config.IMAGE_SHAPE.tolist() == [512, 512, 3]
        and config.IMAGE_META_SIZE == 17
    )
    config.IMAGES_PER_GPU, config.IMAGE_RESIZE_MODE = 1, "crop"
    assert config.BATCH_SIZE == 2 and config.IMAGE_SHAPE.tolist() == [800, 800, 3]
    config.BATCH_SIZE = 1
    assert config.BATCH_SIZE == 1


def test_instances_share_nothing():
    """README 27: mutable defaults are not shared."""
    a, b = Config(), Config()
    a.LOSS_WEIGHTS["mrcnn_mask_loss"] = 5
    a.MEAN_PIXEL[0] = 0
    assert (
        b.LOSS_WEIGHTS["mrcnn_mask_loss"] == 1
        and b.MEAN_PIXEL[0] == 123.7
        and Config.MEAN_PIXEL[0] == 123.7
    )


def test_spelling():
    with pytest.raises(
        TypeError,
        match="no setting LEARNINGRATE; did you mean LEARNING_RATE.*Received: LEARNINGRATE=1",
    ):
        Config(LEARNINGRATE=1)

    class Misspelt(Config):
        DETECTION_MIN_CONFIDENSE = 0.5

    with pytest.warns(UserWarning, match="did you mean DETECTION_MIN_CONFIDENCE"):
        Misspelt()

    class Own(Config):
        MY_FOLDER = "x"

    assert Own(MY_FOLDER="y").MY_FOLDER == "y"


@pytest.mark.parametrize(
    "settings, part",
    [
        (dict(IMAGE_MAX_DIM=1000), "IMAGE_MAX_DIM divides by 64.*Received: 1000"),
        (
            dict(IMAGE_MIN_DIM=100, IMAGE_RESIZE_MODE="pad64"),
            "IMAGE_MIN_DIM divides by 64.*Received: 100",
        ),
        (
            dict(IMAGE_RESIZE_MODE="zoom"),
            "IMAGE_RESIZE_MODE is one of none, square.*Received: 'zoom'",
        ),
        (dict(BACKBONE="resnet51"), "BACKBONE is a function or one of.*Received: 'resnet51'"),
        (dict(BACKBONE=len), "COMPUTE_BACKBONE_SHAPE"),
        (dict(MASK_SHAPE=[56, 56]), r"twice MASK_POOL_SIZE.*\[56, 56\]"),
        (dict(IMAGE_CHANNEL_COUNT=1), "MEAN_PIXEL has a value for each"),
        (dict(RPN_ANCHOR_SCALES=(8, 16)), "RPN_ANCHOR_SCALES has one scale"),
        (dict(NUM_CLASSES=0), "NUM_CLASSES is a whole"),
        (dict(LOSS_WEIGHTS={"mask": 1}), r"LOSS_WEIGHTS.*\['mask'\]"),
        (dict(OPTIMIZER="sdg"), "OPTIMIZER"),
        (dict(ROI_POSITIVE_RATIO=0), "ROI_POSITIVE_RATIO"),
        (dict(IMAGE_MIN_DIM=1088), "at most IMAGE_MAX_DIM"),
        (dict(RPN_ANCHOR_STRIDE=3), "RPN_ANCHOR_STRIDE is 1 or 2"),
        (
            dict(RPN_NEGATIVE_IOU=0.8),
            "RPN_NEGATIVE_IOU is at most RPN_POSITIVE_IOU. Received: 0.8 and 0.7",
        ),
        (dict(ROI_POSITIVE_IOU=50), "ROI_POSITIVE_IOU lies in 0..1.*Received: 50"),
        (dict(CROWD_IOU=0), "CROWD_IOU lies in 0..1"),
    ],
    ids=str,
)
def test_cross_checks(settings, part):
    with pytest.raises(ValueError, match=part):
        Config(**settings).validate()


def test_all_problems_are_listed():
    with pytest.raises(ValueError, match="(?s)IMAGE_MAX_DIM.*BACKBONE"):
        Config(IMAGE_MAX_DIM=1, BACKBONE="x").validate()


def test_command_line_settings():
    config = Config()
    config.override(["IMAGES_PER_GPU=4", "MEAN_PIXEL=[1, 2, 3]", "BACKBONE=resnet50"])
    assert (
        config.IMAGES_PER_GPU == 4
        and config.MEAN_PIXEL.tolist() == [1, 2, 3]
        and config.BACKBONE == "resnet50"
    )
    for wrong, part in (
        ("IMAGE_PER_GPU=1", "did you mean IMAGES_PER_GPU"),
        ("IMAGES_PER_GPU=x", "type int"),
        ("USE_MASK=0", "type bool"),
        ("USE_MASK", "SETTING=value"),
    ):
        with pytest.raises(ValueError, match=part):
            config.override([wrong])


def test_display_names_a_callable_backbone(capsys):
    config = Config(BACKBONE=len)
    config.display()
    assert re.search(r"BACKBONE +len\n", capsys.readouterr().out)


def test_numpy_rooms_import_without_keras():
    code = (
        "import sys, mrcnn.annotations, mrcnn.coco, mrcnn.config, mrcnn.data, mrcnn.evaluate,"
        " mrcnn.boxes, mrcnn.files, mrcnn.masks, mrcnn.media, mrcnn.utils, mrcnn.visualize; print([m for m in ('tensorflow', 'keras',"
        " 'matplotlib', 'imgaug', 'h5py') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
        == "[]"
    )
