"""Settings: defaults of the original, derived values, spelling, cross-checks."""

import argparse
import copy
import dataclasses
import pathlib
import pickle
import re
import subprocess
import sys
import types

import numpy as np
import oracle
import pytest

from mrcnn import utils
from mrcnn.config import Config, PaperC4Config, as_config, setting_names


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

    class Own(Config):
        MY_FOLDER = "x"

    assert Own(MY_FOLDER="y").MY_FOLDER == "y"


@pytest.mark.parametrize(
    "written, meant",
    [
        ("DETECTION_MIN_CONFIDENSE", "DETECTION_MIN_CONFIDENCE"),
        ("NUM_CLASS", "NUM_CLASSES"),
        ("IMAGE_MAX_DIMS", "IMAGE_MAX_DIM"),
        ("IMAGE_CHANNELS", "IMAGE_CHANNEL_COUNT"),
        ("IMAGE_RESIZE", "IMAGE_RESIZE_MODE"),
        ("MIN_CONFIDENCE", "DETECTION_MIN_CONFIDENCE"),
        ("VALIDATION_STPES", "VALIDATION_STEPS"),
        ("num_classes", "NUM_CLASSES"),
        ("BATCHSIZE", "BATCH_SIZE"),
    ],
)
def test_a_misspelt_setting_is_named_with_the_nearest(written, meant):
    """In the class body, and on the instance when the model is built."""
    with pytest.warns(UserWarning, match=rf"Misspelt\.{written} is not.*did you mean {meant}\?$"):
        type("Misspelt", (Config,), {written: 1})()
    config = Config()
    setattr(config, written, 1)
    with pytest.warns(
        UserWarning, match=rf"Config\.{written} is not.*did you mean {meant}\?$"
    ) as said:
        config.validate()
    assert said[0].filename == __file__


def test_own_constants_are_no_misspelt_settings():
    """Warnings are errors here."""
    names = "EPOCHS MODEL_DIR IMAGE_DIR VAL_IMAGE_IDS CLASS_NAMES IMAGE_PADDING MASK_SIZE LR"
    type("Own", (Config,), dict.fromkeys([*names.split(), "threshold", "name"], 1))().validate()


class Early(Config):
    """Assigns before and after the constructor of its base, as scripts do."""

    LOSS_WEIGHTS = {"rpn_class_loss": 2.0}

    def __init__(self, names):
        self.RPN_ANCHOR_RATIOS = [1]
        self.MEAN_PIXEL = np.array([1.0, 2.0, 3.0])
        self.BACKBONE = len
        self.LOSS_WEIGHTS["mrcnn_mask_loss"] = 7.0
        self.NUM_CLASSES = 1 + len(names)
        super().__init__()
        self.BACKBONE_STRIDES = [4, 8, 16, 32, 64]
        self.IMAGES_PER_GPU = 3
        self.MASK_SHAPE[0] = 28


def test_settings_assigned_before_and_after_the_constructor_stay():
    config = Early(["a", "b"])
    assert config.RPN_ANCHOR_RATIOS == [1] and config.MEAN_PIXEL.tolist() == [1, 2, 3]
    assert config.BACKBONE is len
    assert config.LOSS_WEIGHTS == {"rpn_class_loss": 2.0, "mrcnn_mask_loss": 7.0}
    assert (config.NUM_CLASSES, config.IMAGE_META_SIZE, config.BATCH_SIZE) == (3, 15, 3)
    # Neither the class nor another instance has seen the edits.
    assert Early.LOSS_WEIGHTS == {"rpn_class_loss": 2.0}
    assert Early.MASK_SHAPE is Config.MASK_SHAPE
    for twin in (copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert twin.to_dict().keys() == config.to_dict().keys()
        assert twin.RPN_ANCHOR_RATIOS == [1] and twin.BATCH_SIZE == 3
    config.NUM_CLASSES = 5
    config.__init__([1])  # the way of old scripts to compute the derived values again
    assert config.IMAGE_META_SIZE == 14 and config.RPN_ANCHOR_RATIOS == [1]


class Shadowing(Config):
    IMAGES_PER_GPU = 1
    BATCH_SIZE = 32
    IMAGE_SHAPE = (512, 512, 3)
    IMAGE_META_SIZE = 93


def test_derived_values_of_a_class_body_are_computed_all_the_same():
    """As the original did; said once for each that differs."""
    with pytest.warns(UserWarning) as said:
        config = Shadowing(IMAGE_MAX_DIM=512)
    texts = [str(warning.message) for warning in said]
    assert len(texts) == 2, texts  # the shape is what the settings say
    assert {warning.filename for warning in said} == {__file__}
    assert (
        "Shadowing.BATCH_SIZE = 32 is not used: it is IMAGES_PER_GPU * GPU_COUNT, here 1"
        in (texts[0])
    )
    assert "IMAGE_META_SIZE = 93" in texts[1] and "here 13" in texts[1]
    assert config.BATCH_SIZE == 1 and config.IMAGE_SHAPE.tolist() == [512, 512, 3]
    config.IMAGES_PER_GPU = 4
    assert config.BATCH_SIZE == 4 and Shadowing.BATCH_SIZE == 32
    config.BATCH_SIZE = 2
    assert config.BATCH_SIZE == 2 and config.to_dict()["BATCH_SIZE"] == 2

    class Mixed(Shadowing):
        BATCH_SIZE = 1
        IMAGE_META_SIZE = 13
        IMAGE_SHAPE = [1024, 1024, 3]

        def __init__(self):
            self.BATCH_SIZE = 16
            super().__init__()

    with pytest.warns(UserWarning, match="Mixed.BATCH_SIZE = 16 is not used"):
        assert Mixed().BATCH_SIZE == 1


def test_derived_values_of_the_base_class_itself():
    """Scripts that patch the package's own class; the others stay as they are."""

    class Patched(Config):
        BATCH_SIZE = 1  # stands for Config, which all tests share

    class Child(Patched):
        IMAGES_PER_GPU = 3

    with pytest.warns(UserWarning, match="Child.BATCH_SIZE = 1 is not used"):
        assert Child().BATCH_SIZE == 3
    with pytest.warns(UserWarning, match="Patched.BATCH_SIZE = 1 is not used"):
        assert Patched().BATCH_SIZE == 2
    assert Config().BATCH_SIZE == 2 and Config(BATCH_SIZE=5).BATCH_SIZE == 5


class Mixin:
    IMAGE_META_SIZE = 93
    MEAN_PIXEL = [1.0, 2.0, 3.0]


def test_other_ways_to_write_a_config():
    @dataclasses.dataclass
    class AsDataclass(Config):
        NUM_CLASSES: int = 4
        IMAGES_PER_GPU: int = 1

    class WithoutConstructor(Config):
        LOSS_WEIGHTS = {}

        def __init__(self):
            self.LOSS_WEIGHTS["rpn_class_loss"] = 2.0

    class Mixed(Mixin, Config):
        pass

    assert AsDataclass(NUM_CLASSES=7).IMAGE_META_SIZE == 19 and AsDataclass().BATCH_SIZE == 1
    assert WithoutConstructor().BATCH_SIZE == 2 and WithoutConstructor.LOSS_WEIGHTS == {}
    with pytest.warns(UserWarning, match="IMAGE_META_SIZE = 93 is not used: .* here 13"):
        mixed = Mixed()
    assert mixed.IMAGE_META_SIZE == 13 and mixed.MEAN_PIXEL is not Mixin.MEAN_PIXEL
    for config in (AsDataclass(), WithoutConstructor(), mixed):
        config.validate()


@pytest.mark.parametrize("mode", ["square", "shorter"])
def test_a_larger_shorter_edge_is_bounded_by_the_longer_one(mode):
    """IMAGE_MAX_DIM alone is what many configs set: the longer edge becomes 512, as it did."""
    config = Config(IMAGE_MAX_DIM=512, IMAGE_RESIZE_MODE=mode)
    config.validate()
    for shape in ((300, 400, 3), (1200, 900, 3)):
        image, window, scale, _, _ = utils.resize_image(
            np.ones(shape, np.uint8), config.IMAGE_MIN_DIM, config.IMAGE_MAX_DIM, 0, mode
        )
        assert max(window[2] - window[0], window[3] - window[1]) == 512
        assert scale == 512 / max(shape)
        assert image.shape[:2] == ((512, 512) if mode == "square" else image.shape[:2])


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
        (dict(RPN_ANCHOR_STRIDE=3), "RPN_ANCHOR_STRIDE is 1 or 2"),
        (
            dict(RPN_NEGATIVE_IOU=0.8),
            "RPN_NEGATIVE_IOU is at most RPN_POSITIVE_IOU. Received: 0.8 and 0.7",
        ),
        (dict(ROI_POSITIVE_IOU=50), "ROI_POSITIVE_IOU lies in 0..1.*Received: 50"),
        (dict(CROWD_IOU=0), "CROWD_IOU lies in 0..1"),
        (dict(RPN_ANCHOR_SCALES=5), "RPN_ANCHOR_SCALES has sides in pixels.*Received: 5"),
        (dict(RPN_ANCHOR_SCALES=None), "RPN_ANCHOR_SCALES has sides.*Received: None"),
        (dict(RPN_ANCHOR_SCALES=((8, 16), 32, 64, 128, 256)), "as many scales for each level"),
        (dict(RPN_ANCHOR_RATIOS=[]), r"RPN_ANCHOR_RATIOS has positive numbers.*Received: \[\]"),
        (dict(EMA_MOMENTUM="abc"), "EMA_MOMENTUM lies in 0..1, .*or is None. Received: 'abc'"),
        (dict(NUM_CLASSES=2.5), "NUM_CLASSES is a whole number from 1. Received: 2.5"),
        (dict(NUM_CLASSES="3"), "NUM_CLASSES is a whole number from 1. Received: '3'"),
        (dict(LEARNING_RATE="1e-3"), "LEARNING_RATE is above 0. Received: '1e-3'"),
        (dict(LEARNING_RATE=float("nan")), "LEARNING_RATE is above 0. Received: nan"),
        (dict(USE_MASK="False"), "USE_MASK is True or False. Received: 'False'"),
        (dict(TRAIN_BN=[]), r"TRAIN_BN is None, True or False. Received: \[\]"),
        (dict(IMAGE_RESIZE_MODE={}), "IMAGE_RESIZE_MODE is text.*Received: {}"),
        (dict(MINI_MASK_SHAPE=56), r"MINI_MASK_SHAPE is None or \(height, width\).*Received: 56"),
        (dict(MINI_MASK_SHAPE=None), "MINI_MASK_SHAPE is .*with USE_MINI_MASK. Received: None"),
        (dict(LOSS_WEIGHTS=None), "LOSS_WEIGHTS is a dict.*Received: None"),
        (dict(BACKBONE_STRIDES=4), "BACKBONE_STRIDES has whole numbers.*Received: 4"),
        (
            dict(BACKBONE_POOL=False),
            r"BACKBONE_STRIDES is \[2, 4, 8, 16, 32\] with BACKBONE_POOL = False. "
            r"Received: \[4, 8, 16, 32, 64\]",
        ),
        (
            dict(IMAGE_PERCENTILES=(1, 99), MEAN_PIXEL=[0.4, 0.5, 0.5]),
            "IMAGE_PERCENTILES makes values of 0..255.*Received:.*0.4",
        ),
        (dict(IMAGE_PERCENTILES=(99, 1)), r"IMAGE_PERCENTILES is \(low, high\).*Received: \(99, 1"),
        (dict(IMAGE_PERCENTILES=(1, 101)), "IMAGE_PERCENTILES is .*Received: .1, 101"),
        (
            dict(DETECTION_MASK_OVERLAP=0.5, USE_MASK=False),
            "DETECTION_MASK_OVERLAP is 1 without masks.*Received: 0.5",
        ),
        (dict(BACKBONE_WIDTH=0), "BACKBONE_WIDTH is a whole number from 1. Received: 0"),
        (dict(BACKBONE_NORM="group", BACKBONE_WIDTH=48), "divides by the 32 groups.*Received: 48"),
        (
            dict(BACKBONE="resnext50_32x4d", BACKBONE_WIDTH=24),
            "BACKBONE_WIDTH divides by 16 with resnext50_32x4d.*Received: 24",
        ),
        (
            dict(JIT_COMPILE=True, FUSED_KERNELS=True),
            "JIT_COMPILE takes the portable kernels. Received: FUSED_KERNELS = True",
        ),
        (dict(JIT_COMPILE="yes"), "JIT_COMPILE is None, True or False. Received: 'yes'"),
        (dict(BATCH_SIZE=0), "BATCH_SIZE is a whole number from 1. Received: 0"),
        (dict(IMAGE_META_SIZE=93), "IMAGE_META_SIZE is 12 .* here 13. Received: 93"),
        (dict(NAME=5), "NAME is text without a slash, .*Received: 5"),
        (dict(NAME="runs/first"), "NAME is text without a slash, .*Received: 'runs/first'"),
        (dict(IMAGE_MAX_DIM=512, TEST_SCALES=(400,)), "TEST_SCALES needs.*Received: 800 and 512"),
    ],
    ids=str,
)
def test_cross_checks(settings, part):
    with pytest.raises(ValueError, match=part):
        Config(**settings).validate()


JUNK = {
    "text": "abc",
    "nothing": None,
    "list": [],
    "nested": [[[None]]],
    "dict": {"a": None},
    "object": object(),
    "negative": -1,
    "fraction": 2.5,
    "nan": float("nan"),
    "array": np.array([[1, 2], [3, 4]]),
    "words": np.array(["a"]),
    "complex": 1j,
    "bytes": b"x",
}


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("preset", [Config, PaperC4Config])
def test_any_setting_with_any_value_is_right_or_named(preset, junk):
    """Never another error than the one that names the setting, what it may be, what it is."""
    refused = 0
    for name in setting_names():
        config = preset(**{name: JUNK[junk]})
        try:
            config.to_dict()  # as `display`, which scripts call first
            config.validate()
        except ValueError as error:
            assert re.search(rf"\b{name}\b.*Received: ", str(error)), error
            refused += 1
    assert refused > 20


def test_numbers_of_numpy_are_numbers():
    config = Config(
        NUM_CLASSES=np.int64(4),
        IMAGES_PER_GPU=np.array(1),
        LEARNING_RATE=np.float32(0.5),
        USE_MASK=np.bool_(True),
        BACKBONE=np.str_("resnet50"),
        RPN_ANCHOR_SCALES=np.array([8, 16, 32, 64, 128]),
        RPN_ANCHOR_RATIOS=np.array([0.5, 1]),
        BACKBONE_STRIDES=np.array([4, 8, 16, 32, 64]),
        MASK_SHAPE=np.array([28, 28]),
        MINI_MASK_SHAPE=np.array([56, 56]),
        LOSS_WEIGHTS={"rpn_class_loss": np.float32(2)},
        MEAN_PIXEL=117,
        STEPS_PER_EPOCH=115 / 2,
        VALIDATION_STEPS=np.float64(3.0),
        IMAGE_MIN_SCALE=False,
        DETECTION_MIN_CONFIDENCE=None,
    )
    config.validate()
    for name, plain in dict(
        NUM_CLASSES=4,
        IMAGES_PER_GPU=1,
        LEARNING_RATE=0.5,
        USE_MASK=True,
        STEPS_PER_EPOCH=58,  # Keras 2 ran so many
        VALIDATION_STEPS=3,
        IMAGE_MIN_SCALE=0,
        DETECTION_MIN_CONFIDENCE=0.0,
    ).items():
        value = getattr(config, name)
        assert value == plain and type(value) is type(plain), name


def test_what_is_not_used_may_be_missing():
    Config(USE_MINI_MASK=False, MINI_MASK_SHAPE=None).validate()
    Config(IMAGE_RESIZE_MODE="none", IMAGE_MIN_DIM=None, IMAGE_MAX_DIM=None).validate()


class Plain:
    """Settings that derive from nothing."""

    NUM_CLASSES = 4
    RPN_ANCHOR_SCALES = [8, 16, 32, 64, 128]
    BACKBONE = tiny = staticmethod(len)
    MY_FOLDER = "x"


@pytest.mark.parametrize(
    "given",
    [
        Plain,
        Plain(),
        types.SimpleNamespace(NUM_CLASSES=4, RPN_ANCHOR_SCALES=[8, 16, 32, 64, 128], BACKBONE=len),
        argparse.Namespace(
            num_classes=4, rpn_anchor_scales=[8, 16, 32, 64, 128], backbone=len, command="train"
        ),
        {"NUM_CLASSES": 4, "RPN_ANCHOR_SCALES": [8, 16, 32, 64, 128], "backbone": len, 5: 5},
        type("Derived", (Config,), dict(vars(Plain), __dict__={})),
    ],
    ids=["class", "object", "SimpleNamespace", "argparse", "dict", "Config class"],
)
def test_settings_of_other_objects(given):
    config = as_config(given)
    assert isinstance(config, Config) and config.NUM_CLASSES == 4 and config.BACKBONE is len
    assert config.RPN_ANCHOR_SCALES == [8, 16, 32, 64, 128]
    assert config.IMAGE_MAX_DIM == 1024 and config.HORIZONTAL_FLIP == 0 and config.BATCH_SIZE == 2
    assert as_config(config) is config


@pytest.mark.parametrize(
    "given", ["logs", None, 5, pathlib.Path("x"), {}, object(), types.SimpleNamespace(a=1), int]
)
def test_what_holds_no_setting_is_no_config(given):
    with pytest.raises(ValueError, match="config is a Config, or an object with.*Received: "):
        as_config(given)


def test_a_pickled_config_of_the_original():
    """Its derived values lie in the instance; here they are computed."""
    old = Config()
    old.__dict__.update(NUM_CLASSES=4, BATCH_SIZE=8, IMAGE_META_SIZE=93, IMAGE_SHAPE=np.ones(3))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        config = pickle.loads(pickle.dumps(old, protocol))
        config.validate()
        assert (config.NUM_CLASSES, config.BATCH_SIZE, config.IMAGE_META_SIZE) == (4, 2, 16)


def test_a_config_class_that_needs_arguments():
    with pytest.raises(ValueError, match="class Early, which can't be called without arguments"):
        as_config(Early)


def test_misspelt_and_derived_values_of_other_objects_are_said():
    with pytest.warns(UserWarning, match="SimpleNamespace.NUM_CLASS is not.*NUM_CLASSES"):
        as_config(types.SimpleNamespace(NUM_CLASS=4, NAME="x"))
    with pytest.warns(UserWarning, match="BATCH_SIZE = 8 is not used"):
        as_config({"BATCH_SIZE": 8, "NAME": "x"})


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
        " mrcnn.boxes, mrcnn.files, mrcnn.masks, mrcnn.media, mrcnn.runtime, mrcnn.utils, mrcnn.visualize; print([m for m in ('tensorflow', 'keras',"
        " 'matplotlib', 'imgaug', 'h5py') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
        == "[]"
    )


@pytest.mark.parametrize(
    "text, part",
    [
        ("RPN_ANCHOR_SCALES=5", "RPN_ANCHOR_SCALES has sides .* Received: 5"),
        ("RPN_ANCHOR_SCALES={[]:1}", r"RPN_ANCHOR_SCALES has .* Received: '{\[\]:1}'"),
        ("X={[]:1}", "a setting of Config. Received: 'X="),
        ("learning_rate=1", "did you mean LEARNING_RATE[?] Received"),
        ("RPN_ANCHOR=5", "did you mean RPN_ANCHOR_"),
        ("=5", "SETTING=value"),
        ("BATCH_SIZE=4", "BATCH_SIZE can't be set: it is IMAGES_PER_GPU [*] GPU_COUNT"),
        ("EMA_MOMENTUM=abc", "EMA_MOMENTUM lies in 0..1, .*or is None. Received: 'abc'"),
        ("LEARNING_RATE=-1", "LEARNING_RATE is above 0. Received: -1"),
        ("LEARNING_RATE=None", "LEARNING_RATE takes a value of type float"),
        ("MEAN_PIXEL=[[1],[1,2]]", r"MEAN_PIXEL is an array of numbers. Received: \[\[1\]"),
        ("MEAN_PIXEL=" + "[" * 5000, "MEAN_PIXEL has numbers"),
        ("TEST_FLIP=x", "TEST_FLIP is False, True, both or turns. Received: 'x'"),
        ("IMAGES_PER_GPU=True", "IMAGES_PER_GPU takes a value of type int"),
        ("USE_MASK=0", "type bool"),
        ("SEED=1.5", "SEED is None or a whole number"),
    ],
)
def test_what_a_command_line_gets_wrong_is_one_line(text, part):
    """Never a traceback, nor a screen full of brackets."""
    import argparse

    from mrcnn import commands

    with pytest.raises(ValueError, match=part) as error:
        commands.configure(Config(), argparse.Namespace(set=[text]))
    assert "\n" not in str(error.value) and len(str(error.value)) < 350


def test_command_lines_write_values_in_several_ways():
    config = Config()
    config.override(["USE_MASK=false", "TRAIN_BN=None", " LEARNING_RATE = .01", "SEED=None"])
    assert (config.USE_MASK, config.TRAIN_BN, config.LEARNING_RATE) == (False, None, 0.01)
    assert config.SEED is None
