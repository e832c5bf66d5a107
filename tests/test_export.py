"""Exporting as far as it needs nothing but TensorFlow: molding in the graph, the SavedModel, what
files say, refusals. The other runtimes are in test_runtimes.py."""

import json
import types

import numpy as np
import pytest

from mrcnn import commands, export, inference, masks, runtime
from mrcnn.config import Config

NAMES = ["BG", "bright", "dark"]


def squares(height, width, channels=3, seed=0):
    """Flat squares: of their pixels the cut to whole numbers shows each rounding."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (height // 9 + 1, width // 9 + 1, channels))
    return np.kron(colours, np.ones((9, 9, 1), int))[:height, :width].astype(np.uint8)


# ---- Molding -------------------------------------------------------------------------------------

SIZES = ((128, 192), (90, 201), (300, 260), (64, 64), (477, 333), (160, 128))
FLOATS = dict(
    IMAGE_RESIZE_MODE="shorter",
    FLOAT_RESIZE=True,
    MEAN_PIXEL=np.array([123.675, 116.28, 103.53]),
    STD_PIXEL=np.array([58.395, 57.12, 57.375]),
)


@pytest.mark.parametrize("wide", [True, False], ids=["float64", "float32"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"IMAGE_MIN_SCALE": 2.0},
        {"IMAGE_RESIZE_MODE": "pad64"},
        {"IMAGE_RESIZE_MODE": "shorter"},
        FLOATS,
        {"IMAGE_RESIZE_MODE": "none"},
        {"IMAGE_CHANNEL_COUNT": 1, "MEAN_PIXEL": np.array([100.0])},
    ],
    ids=["square", "min_scale", "pad64", "shorter", "floats", "none", "gray"],
)
def test_molding_in_the_graph(settings, wide):
    """Of free and of fixed sizes; float64 gives numpy's pixels, float32 within 1 of 255."""
    import tensorflow as tf

    config = Config(IMAGE_MIN_DIM=128, IMAGE_MAX_DIM=192, **settings)
    molder = export.Molder(config, wide)
    channels = config.IMAGE_CHANNEL_COUNT
    spec = tf.TensorSpec((None, None, None, channels), tf.uint8)
    free = tf.function(molder, input_signature=[spec], autograph=False)
    largest = 1.001
    if wide or settings is FLOATS:
        largest = 1e-6 * np.max(config.MEAN_PIXEL) * settings.get("FLOAT_RESIZE", 0)
    for size in SIZES:
        if config.IMAGE_RESIZE_MODE == "none" and any(side % 64 for side in size):
            continue
        image = squares(*size, channels)
        expected = inference.mold(image, config, "the image")
        for mold in (free, molder):
            molded, sizes = mold(tf.constant(image[None]))
            assert molded.shape[1:] == expected.image.shape
            assert np.abs(molded.numpy()[0] - expected.image).max() <= largest
            top, left = int(sizes.top), int(sizes.left)
            window = (top, left, top + int(sizes.height), left + int(sizes.width))
            assert window == tuple(int(edge) for edge in expected.window)


def test_anchors_of_free_sizes():
    """Those of a graph that learns the size of the image when it runs are `detect`'s."""
    import tensorflow as tf

    from mrcnn import boxes, data

    config = Config(IMAGE_RESIZE_MODE="pad64", IMAGE_MIN_DIM=128, BOX_FRAME="edges")
    spec = tf.TensorSpec((None, None, None, 3), tf.float32)
    anchors = tf.function(lambda x: export._anchors(x, config), input_signature=[spec])
    for size in ((128, 192), (192, 128)):
        pixels = data.compute_anchors(config, size)
        expected = boxes.norm_boxes(pixels, size, "edges")
        actual = anchors(np.zeros((2, *size, 3), np.float32)).numpy()
        assert actual.shape == (2, *expected.shape)
        np.testing.assert_allclose(actual[1], expected, atol=1e-6)


# ---- A file of TensorFlow's own ------------------------------------------------------------------


@pytest.mark.heavy
def test_saved_model(toy_detector, tmp_path):
    """The layout of TensorFlow Serving; the same detections, of two sizes, two at a time."""
    path = tmp_path / "toy"
    for _ in range(2):  # another one in its place
        assert toy_detector.export(path, class_names=NAMES) == str(path)
    assert sorted(file.name for file in path.iterdir()) == ["1", "config.pbtxt"]
    text = (path / "config.pbtxt").read_text()
    assert 'input [{ name: "images", data_type: TYPE_UINT8, dims: [ -1, -1, 3 ] }]' in text
    assert 'output [{ name: "masks", data_type: TYPE_FP32, dims: [ -1, 28, 28 ] }]' in text
    model = runtime.load(path)
    assert model.class_names == NAMES
    assert model.metadata.weights["file"] is None
    assert model.config.DETECTION_MAX_INSTANCES == toy_detector.config.DETECTION_MAX_INSTANCES
    model.config.BATCH_SIZE = 2
    images = [squares(90, 201), squares(128, 128), squares(90, 201, seed=1)]
    expected = toy_detector.detect(images)
    for actual, result in zip(model.detect(images), expected):
        np.testing.assert_array_equal(actual["class_ids"], result["class_ids"])
        np.testing.assert_allclose(actual["scores"], result["scores"], atol=1e-5)
        assert np.abs(actual["rois"] - result["rois"]).max() <= 1
        assert actual["masks"].shape == result["masks"].shape
    (many,) = model.detect_many(["a path"], load=lambda _: images[1], masks="lazy")
    np.testing.assert_array_equal(many["rois"], model.detect(images[1:2])[0]["rois"])


# ---- The runtime's side, without any -------------------------------------------------------------


def metadata(**settings):
    config = Config(NUM_CLASSES=3, **settings)
    values = {name: value for name, value in config.to_dict().items() if not callable(value)}
    lists = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}
    return json.dumps(
        {"class_names": NAMES, "settings": lists, "version": "0", "weights": {"file": None}}
    )


class Backend:
    """In place of a runtime: two detections of which one has no area once it is rounded, and a row
    that is none."""

    shape = (None, None, None, 3)

    def __init__(self, **settings):
        self.metadata = metadata(**settings)
        self.batches = []

    def run(self, images):
        self.batches.append(images.shape)
        boxes = np.float32([[2.2, 3.4, 10.6, 9.6], [4.1, 4.1, 4.3, 9], [0, 0, 0, 0]])
        masks = np.ones((3, 28, 28), np.float32)
        count = len(images)
        return {
            "boxes": np.tile(boxes, (count, 1, 1)),
            "class_ids": np.tile(np.int32([2, 1, 0]), (count, 1)),
            "scores": np.tile(np.float32([0.9, 0.8, 0]), (count, 1)),
            "masks": np.tile(masks, (count, 1, 1, 1)),
        }


def test_results_are_those_of_detect():
    backend = Backend(IMAGES_PER_GPU=2)
    model = runtime.Model(backend, "model.onnx")
    image = np.zeros((20, 30, 3), np.uint8)
    results = model.detect([image, image[:10], image, image])
    assert backend.batches == [(2, 20, 30, 3), (1, 20, 30, 3), (1, 10, 30, 3)]
    for result in results:
        assert result["rois"].tolist() == [[2, 3, 11, 10]] and result["rois"].dtype == np.int32
        assert result["class_ids"].tolist() == [2]
        np.testing.assert_allclose(result["scores"], [0.9])
    expected = np.zeros((20, 30, 1), bool)
    expected[2:11, 3:10] = True
    np.testing.assert_array_equal(results[0]["masks"], expected)
    lazy = model.detect([image], masks="lazy")[0]["masks"]
    assert isinstance(lazy, masks.Masks)
    assert model.detect([image], masks="rle")[0]["masks"] == masks.encode(expected)
    exact = runtime.Model(Backend(ROUND_DETECTIONS=False), "model.onnx").detect([image])[0]
    assert len(exact["rois"]) == 2 and exact["rois"].dtype == np.float32


def test_a_fixed_batch_is_filled():
    backend = Backend()
    backend.shape = (4, 20, 30, 3)
    model = runtime.Model(backend, "model.onnx")
    image = np.zeros((20, 30, 3), np.uint8)
    assert len(model.detect([image])) == 1 and backend.batches == [(4, 20, 30, 3)]
    with pytest.raises(ValueError, match="exported for images of 20 x 30 .* image 0 of shape .10"):
        model.detect([image[:10]])


@pytest.mark.parametrize(
    "image, part",
    [
        (np.zeros((20, 30, 5), np.uint8), "IMAGE_CHANNEL_COUNT"),
        (np.full((20, 30, 3), 100.5), "image 0 of dtype float64"),
        ("photo.jpg", "image 0 is the path"),
    ],
    ids=["channels", "floats", "path"],
)
def test_images_that_a_runtime_refuses(image, part):
    with pytest.raises(ValueError, match=part):
        runtime.Model(Backend(), "model.onnx").detect([image])


def test_other_ranges_become_bytes():
    """By the rule of `detect`: fractions, bools, gray."""
    model = runtime.Model(Backend(), "model.onnx")
    for image in (np.ones((20, 30)) * 0.5, np.ones((20, 30, 3), bool), np.full((20, 30, 4), 200)):
        assert len(model.detect([image])[0]["rois"]) == 1


@pytest.mark.parametrize(
    "text", [None, "", "no json", "[]", '{"class_names": []}'], ids=lambda text: repr(text)
)
def test_files_of_others_are_refused(text):
    with pytest.raises(ValueError, match="x.onnx: expected a file of mrcnn.export.*Received"):
        runtime.read_metadata(text, "x.onnx")


def test_what_load_refuses(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="No file .*none.onnx"):
        runtime.load(tmp_path / "none.onnx")
    with pytest.raises(ValueError, match="format is one of saved_model, onnx, .* 'pb'"):
        runtime.load(tmp_path, format="pb")
    with pytest.raises(ValueError, match="threads is a whole number from 1"):
        runtime.load(tmp_path, threads=0)
    file = tmp_path / "model.bin"
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="An exported model is an .onnx"):
        runtime.load(file)
    monkeypatch.setitem(runtime.PACKAGES, "onnx", ("no_such_module", "onnxruntime"))
    with pytest.raises(ImportError, match="model.onnx is run by onnxruntime: pip install onnx"):
        runtime.load(file.rename(tmp_path / "model.onnx"))


# ---- Refusals of export --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path, options, part",
    [
        ("m.onnx", {"class_names": ["BG"]}, "each of the 3 classes, background first"),
        ("m.onnx", {"format": "pb"}, "format is one of"),
        ("m.onnx", {"format": "openvino"}, "A path ends in .onnx for onnx, .xml for openvino"),
        (
            "m.onnx",
            {"precision": "float16"},
            "precision of onnx is one of float32. Received: 'float16'",
        ),
        ("m.xml", {"precision": "float16"}, "precision of openvino is one of float32. Received"),
        ("m.onnx", {"size": (128,)}, "size is .height, width. in pixels"),
        ("m.onnx", {"batch": 0}, "batch is a whole number from 1"),
    ],
    ids=["names", "format", "suffix", "precision", "openvino", "size", "batch"],
)
def test_what_export_refuses(toy_detector, tmp_path, monkeypatch, path, options, part):
    monkeypatch.setitem(export.NEEDS, "onnx", {})
    monkeypatch.setitem(export.NEEDS, "openvino", {})
    with pytest.raises(ValueError, match=part):
        toy_detector.export(tmp_path / path, **{"class_names": NAMES, **options})
    assert not list(tmp_path.iterdir())


def test_export_names_the_package_that_is_missing(toy_detector, tmp_path, monkeypatch):
    monkeypatch.setitem(export.NEEDS, "onnx", {"no_such_module": "tf2onnx"})
    with pytest.raises(ImportError, match="export.. to onnx needs tf2onnx: pip install tf2onnx"):
        toy_detector.export(tmp_path / "m.onnx", class_names=NAMES)


@pytest.mark.parametrize(
    "settings, part",
    [
        ({"IMAGE_RESIZE_MODE": "crop"}, "'crop' is for training"),
        ({"TEST_FLIP": True}, "looks at an image once"),
        ({"TEST_SCALES": (64, 128)}, "looks at an image once"),
    ],
    ids=["crop", "flip", "scales"],
)
def test_settings_that_no_graph_holds(settings, part):
    with pytest.raises(ValueError, match=part):
        export._check_config(Config(**settings), None)
    export._check_config(Config(), None)


@pytest.mark.parametrize(
    "name, value, part",
    [
        ("IMAGE_PERCENTILES", (1, 99.8), "takes an image's values as they are: IMAGE_PERCENTILES"),
        ("DETECTION_MASK_OVERLAP", 0.5, "doesn't compare the masks .*DETECTION_MASK_OVERLAP = 1 "),
        ("TEST_FLIP", "turns", "TEST_FLIP = False for an export. Received: 'turns'"),
    ],
)
def test_settings_outside_of_the_graph(toy_detector, tmp_path, monkeypatch, name, value, part):
    """By `export` itself, and nothing is written; settings that a config may lack."""
    monkeypatch.setattr(toy_detector.config, name, value, raising=False)
    with pytest.raises(ValueError, match=part):
        toy_detector.export(tmp_path / "toy", class_names=NAMES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name, value", [("DETECTION_MIN_CONFIDENCE", 0.4321), ("RPN_NMS_THRESHOLD", 0.4321)]
)
def test_settings_changed_after_the_network_was_built(
    toy_detector, tmp_path, monkeypatch, name, value
):
    """`detect` keeps to the old ones."""
    monkeypatch.setattr(toy_detector.config, name, value)
    with pytest.raises(ValueError, match="was built as .* the config has changed.*: 0.4321"):
        toy_detector.export(tmp_path / "toy", class_names=NAMES)
    assert not list(tmp_path.iterdir())


def test_litert_needs_a_size_where_the_mode_has_none():
    config = Config(IMAGE_RESIZE_MODE="pad64")
    with pytest.raises(ValueError, match="takes images of one size"):
        export._checked_size(None, "litert", config)
    assert export._checked_size(None, "litert", Config()) == (1024, 1024)
    assert export._checked_size(None, "onnx", config) is None


def test_maps_of_another_size_need_a_fixed_one():
    def shapes(image_shape):
        return [[image_shape[0] // 5, image_shape[1] // 5]] * 5

    config = Config(BACKBONE=len, COMPUTE_BACKBONE_SHAPE=shapes, IMAGE_RESIZE_MODE="pad64")
    with pytest.raises(ValueError, match="COMPUTE_BACKBONE_SHAPE gives"):
        export._check_config(config, None)
    export._check_config(config, (128, 128))


def test_command(toy_detector, tmp_path, monkeypatch, capsys):
    parser = commands.parser("", ("detect", "export"))
    with pytest.raises(SystemExit):
        commands.parse(parser, ["export"])
    assert "export needs --file" in capsys.readouterr().err
    args = commands.parse(parser, ["export", "--file=m.onnx", "--size", "64", "96"])
    asked = {}

    def fake(path, **options):
        asked.update(options, path=path)
        return path

    model = types.SimpleNamespace(config=toy_detector.config, export=fake)
    assert commands.export(model, NAMES, args) == "m.onnx"
    assert asked["size"] == [64, 96] and asked["class_names"] == NAMES
    assert capsys.readouterr().out == "m.onnx\n"
