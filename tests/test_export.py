"""Exporting as far as it needs nothing but TensorFlow: molding in the graph, the SavedModel, what
files say, refusals. The other runtimes are in test_runtimes.py."""

import copy
import json
import os
import pathlib
import pickle
import subprocess
import types

import numpy as np
import pytest

from mrcnn import cli, commands, data, export, inference, masks, media, quantization, runtime, utils
from mrcnn.config import Config

NAMES = ["BG", "bright", "dark"]


def squares(height, width, channels=3, seed=0):
    """Flat squares: of their pixels the cut to whole numbers shows each rounding."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (height // 9 + 1, width // 9 + 1, channels))
    return np.kron(colours, np.ones((9, 9, 1), int))[:height, :width].astype(np.uint8)


# ---- Molding -------------------------------------------------------------------------------------

SIZES = ((128, 192), (90, 201), (300, 260), (64, 64), (477, 333), (160, 128), (1, 7), (5, 1))
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
        {"IMAGE_CHANNEL_COUNT": 6, "MEAN_PIXEL": np.arange(6.0)},
    ],
    ids=["square", "min_scale", "pad64", "shorter", "floats", "none", "gray", "bands"],
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
        if config.IMAGE_RESIZE_MODE == "pad64" and min(size) < 9:
            continue  # of one pixel a row it makes a picture of 128 times the width
        image = squares(*size, channels)
        expected = inference.mold(image, config, "the image")
        for mold in (free, molder):
            molded, sizes = mold(tf.constant(image[None]))
            assert molded.shape[1:] == expected.image.shape
            assert np.abs(molded.numpy()[0] - expected.image).max() <= largest
            top, left = int(sizes.top), int(sizes.left)
            window = (top, left, top + int(sizes.height), left + int(sizes.width))
            assert window == tuple(int(edge) for edge in expected.window)


@pytest.mark.parametrize(
    "settings",
    [
        {"IMAGE_RESIZE_MODE": "shorter", "IMAGE_MIN_DIM": 800, "IMAGE_MAX_DIM": 1333},
        {"IMAGE_MIN_DIM": 800, "IMAGE_MAX_DIM": 1024},
        {"IMAGE_MIN_DIM": 0, "IMAGE_MAX_DIM": 1024, "IMAGE_MIN_SCALE": 1.7},
    ],
    ids=["shorter", "square", "min_scale"],
)
def test_sides_of_float_images_in_float32(settings):
    """FLOAT_RESIZE cuts 612 * (1333 / 612) = 1332.99... to 1332; float32 made 1333 of it.

    Of one size in 25 in mode "shorter", of one in 9 in mode "square".
    """
    config = Config(FLOAT_RESIZE=True, **settings)
    widths = np.arange(1, 1900, dtype=np.int32)
    for height in (30, 480, 612, 800, 1080):
        molder = export.Molder(config, wide=False)
        heights = np.full_like(widths, height)
        scale, cut = molder._scale(heights, widths)
        actual = np.transpose([molder._whole(sides, scale, cut) for sides in (heights, widths)])
        limits = (config.IMAGE_MIN_DIM, config.IMAGE_MAX_DIM, config.IMAGE_MIN_SCALE)
        for width, size in zip(widths.tolist(), actual.tolist()):
            exact = utils._scale(height, width, *limits, config.IMAGE_RESIZE_MODE, True)
            assert size == [max(1, int(side * exact)) for side in (height, width)], (height, width)


@pytest.mark.parametrize("paste", ["box", "padded"])
def test_masks_pasted_in_the_graph(paste):
    """As `masks.placed`: edges beyond the image, a box of one pixel, one that is all foreground."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    soft = rng.random((6, 28, 28)).astype(np.float32)
    soft[1] = 0.6
    boxes = [[2.4, 3.5, 30.5, 41.2], [5, 6, 9, 40], [-8.7, -3, 22, 70], [10, 10, 10.6, 10.6]]
    boxes = np.float32([*boxes, [0, 0, 40, 60], [12, 7, 39.9, 8.2]])
    images = np.zeros((1, 40, 60, 3), np.uint8)
    function = tf.function(lambda *args: export._pasted(*args, paste))
    actual = function(soft[None], boxes[None], images).numpy()
    assert actual.dtype == np.uint8 and actual.shape == (1, 6, 40, 60)
    expected = np.asarray(masks.placed(soft, np.around(boxes), boxes, (40, 60), paste, "lazy"))
    assert expected[..., 1].sum() == 4 * 34 or paste == "padded"
    np.testing.assert_array_equal(actual[0].transpose(1, 2, 0).astype(bool), expected)


def test_anchors_of_free_sizes():
    """Those of a graph that learns the size of the image when it runs are `detect`'s."""
    import tensorflow as tf

    from mrcnn import boxes, data
    from mrcnn.model import PyramidAnchors

    config = Config(IMAGE_RESIZE_MODE="pad64", IMAGE_MIN_DIM=128, BOX_FRAME="edges")
    layer = PyramidAnchors.of(config)
    spec = tf.TensorSpec((None, None, None, 3), tf.float32)
    anchors = tf.function(lambda x: export._anchors(x, config, layer), input_signature=[spec])
    for size in ((128, 192), (192, 128)):
        pixels = data.compute_anchors(config, size)
        expected = boxes.norm_boxes(pixels, size, "edges")
        actual = anchors(np.zeros((2, *size, 3), np.float32)).numpy()
        assert actual.shape == (2, *expected.shape)
        np.testing.assert_allclose(actual[1], expected, atol=1e-6)


@pytest.mark.parametrize("paste", [False, True])
def test_outputs_of_mixed_precision_are_float32(paste):
    """Heads that compute in bfloat16, of which Triton has no name, nor numpy a type."""
    import tensorflow as tf

    def boxes_head(inputs, training):
        return [tf.constant([[[0.1, 0.1, 0.9, 0.9, 1, 0.5], [0, 0, 0, 0, 0, 0]]])]

    graph = object.__new__(export.Graph)
    graph.config = Config(IMAGE_MIN_DIM=64, IMAGE_MAX_DIM=64)
    graph.molder = export.Molder(graph.config, wide=True)
    graph.anchors_layer = None
    graph.free_rows = True
    graph.paste = paste
    graph.heads = {
        "boxes": boxes_head,
        "masks": lambda inputs: tf.ones((1, 1, 28, 28), tf.bfloat16),
        "keypoints": lambda inputs: tf.ones((1, 1, 56, 56, 4), tf.bfloat16),
    }
    found = graph(tf.zeros((1, 40, 60, 3), tf.uint8))
    kinds = {name: value.dtype.name for name, value in found.items()}
    masks_kind = kinds.pop("masks")
    assert masks_kind == ("uint8" if paste else "float32")
    assert kinds.pop("class_ids") == "int32" and set(kinds.values()) == {"float32"}


# ---- A file of TensorFlow's own ------------------------------------------------------------------


def check_same_rows(actual, expected):
    """The same detections; of two whose scores are equal but for rounding either may be first.

    A batch of two is computed in another order than one image after the other.
    """
    left = list(range(len(actual["scores"])))
    for box, class_id, score in zip(*(expected[key] for key in ("rois", "class_ids", "scores"))):
        same = [
            i
            for i in left
            if actual["class_ids"][i] == class_id
            and abs(actual["scores"][i] - score) <= 1e-5
            and np.abs(actual["rois"][i] - box).max() <= 1
        ]
        assert same, f"no detection of class {class_id} and score {score} at {box}"
        left.remove(same[0])
    assert not left


# Triton's model_config.proto as far as a config.pbtxt of ours needs it: {message: {field: (number,
# kind, repeated)}}. The numbers and names are those of tritonclient 2.73.
TRITON = {
    "DynamicBatching": {},
    "Tensor": {
        "name": (1, "string", False),
        "data_type": (2, "DataType", False),
        "dims": (4, "int64", True),
    },
    "Output": {
        "name": (1, "string", False),
        "data_type": (2, "DataType", False),
        "dims": (3, "int64", True),
    },
    "ModelConfig": {
        "name": (1, "string", False),
        "platform": (2, "string", False),
        "max_batch_size": (4, "int32", False),
        "input": (5, "Tensor", True),
        "output": (6, "Output", True),
        "default_model_filename": (8, "string", False),
        "dynamic_batching": (11, "DynamicBatching", False),
    },
}
TRITON_TYPES = {"TYPE_INVALID": 0, "TYPE_UINT8": 2, "TYPE_INT32": 8, "TYPE_FP32": 11}


def parsed_by_triton(text):
    """A config.pbtxt as protobuf reads it for Triton; an error for what it has no field for."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

    file = descriptor_pb2.FileDescriptorProto(name="triton.proto", package="triton")
    file.syntax = "proto3"
    kinds = file.enum_type.add(name="DataType")
    for name, number in TRITON_TYPES.items():
        kinds.value.add(name=name, number=number)
    field_kinds = descriptor_pb2.FieldDescriptorProto
    for message, fields in TRITON.items():
        made = file.message_type.add(name=message)
        for name, (number, kind, repeated) in fields.items():
            field = made.field.add(name=name, number=number, label=field_kinds.LABEL_OPTIONAL)
            if repeated:
                field.label = field_kinds.LABEL_REPEATED
            field.type = {
                "string": field_kinds.TYPE_STRING,
                "int32": field_kinds.TYPE_INT32,
                "int64": field_kinds.TYPE_INT64,
                "DataType": field_kinds.TYPE_ENUM,
            }.get(kind, field_kinds.TYPE_MESSAGE)
            if field.type in (field_kinds.TYPE_ENUM, field_kinds.TYPE_MESSAGE):
                field.type_name = f".triton.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    config = message_factory.GetMessageClass(pool.FindMessageTypeByName("triton.ModelConfig"))
    return text_format.Parse(text, config())


def tensors_of(entries):
    """{name: (type as Triton calls it, dims)}."""
    names = {number: name for name, number in TRITON_TYPES.items()}
    return {entry.name: (names[entry.data_type], list(entry.dims)) for entry in entries}


def check_triton(text, folder):
    """A config.pbtxt says what the signature of the SavedModel says, without the batch's side."""
    import tensorflow as tf

    config = parsed_by_triton(text)
    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    (images,) = signature.structured_input_signature[1].values()
    names = {"uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "float32": "TYPE_FP32"}
    pairs = (
        (config.input, {"images": images}),
        (config.output, signature.structured_outputs),
    )
    for entries, specs in pairs:
        expected = {
            name: (names[spec.dtype.name], [side or -1 for side in spec.shape[1:]])
            for name, spec in specs.items()
        }
        assert tensors_of(entries) == expected
    assert config.name == folder.parent.name
    assert config.platform == "tensorflow_savedmodel" and config.max_batch_size == 1
    assert config.HasField("dynamic_batching")
    assert (folder / config.default_model_filename / "saved_model.pb").is_file()


@pytest.mark.parametrize("batch, most", [(None, 4), (2, 0)], ids=["any batch", "a fixed one"])
def test_config_of_triton(batch, most):
    """Of a fixed batch its side is a side of the tensors, and Triton makes no batches.

    Names are escaped: of the folder, which Triton compares with the model's.
    """
    spec = types.SimpleNamespace
    images = spec(shape=(batch, None, 64, 3), dtype=spec(name="uint8"))
    outputs = {
        "boxes": spec(shape=(batch, None, 4), dtype=spec(name="float32")),
        "class_ids": spec(shape=(batch, None), dtype=spec(name="int32")),
        "scores": spec(shape=(batch, None), dtype=spec(name="float32")),
        "masks": spec(shape=(batch, None, 28, 28), dtype=spec(name="float32")),
    }
    function = spec(
        input_signature=[images], get_concrete_function=lambda: spec(structured_outputs=outputs)
    )
    graph = spec(config=Config(IMAGES_PER_GPU=4))
    name = 'cells "new" \\ größer'
    config = parsed_by_triton(export._triton_config(name, graph, function))
    assert config.name == name and config.default_model_filename == "."
    assert config.max_batch_size == most
    assert config.HasField("dynamic_batching") == (batch is None)
    first = [batch] * (batch is not None)
    assert tensors_of(config.input) == {"images": ("TYPE_UINT8", [*first, -1, 64, 3])}
    assert tensors_of(config.output) == {
        "boxes": ("TYPE_FP32", [*first, -1, 4]),
        "class_ids": ("TYPE_INT32", [*first, -1]),
        "scores": ("TYPE_FP32", [*first, -1]),
        "masks": ("TYPE_FP32", [*first, -1, 28, 28]),
    }


def greedy(boxes, scores, count, threshold, least):
    """What OpenVINO's operator does: a box goes at the threshold too. Rows (image, class, box)."""
    rows = []
    for image, by_class in enumerate(scores):
        for number, values in enumerate(by_class):
            left = [i for i in np.argsort(-values, kind="stable") if values[i] > least[0]]
            for _ in range(int(count[0])):
                if not left:
                    break
                best = left.pop(0)
                rows.append((image, number, best))
                iou = utils.compute_overlaps(boxes[image, [best]], boxes[image])[0]
                left = [i for i in left if iou[i] < threshold[0]]
    return np.array(rows, np.int64).reshape(-1, 3)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_suppression_by_an_operator_that_suppresses_at_the_threshold(monkeypatch, threshold):
    """Boxes whose IoU is just the threshold stay: side by side, halves of each other, the same."""
    import tensorflow as tf

    from mrcnn import ops

    monkeypatch.setattr(export, "_not_in_tensorflow", greedy)
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 3, (2, 30, 2)) / 2
    boxes = np.concatenate([corners, corners + rng.integers(1, 3, (2, 30, 2)) / 2], -1)
    boxes = tf.constant(boxes, tf.float32)
    scores = tf.constant(rng.uniform(0, 1, (2, 30)), tf.float32)
    classes = tf.constant(rng.integers(0, 3, (2, 30)), tf.int32)
    arguments = (boxes, scores, 8, threshold, scores >= 0.2, classes)
    indices, kept = export._suppress_by_operator(*arguments, at=True)
    expected, which = ops.non_max_suppression(*arguments, fused=False)
    np.testing.assert_array_equal(kept, which)
    np.testing.assert_array_equal(indices, np.where(which, expected, 0))


def test_constants_are_no_inputs_of_an_onnx_file():
    """tf2onnx lists tensors that were made as the network was built; one that is read is an error."""

    def node(names, inside=None):
        attribute = types.SimpleNamespace(HasField=lambda _: inside is not None, g=inside)
        return types.SimpleNamespace(input=names, attribute=[attribute])

    def graph(*nodes):
        inputs = [types.SimpleNamespace(name=name) for name in ("images", "Less/x:0")]
        return types.SimpleNamespace(node=nodes, input=inputs)

    free = graph(node(["images", "a"]))
    export._remove_constant_inputs(free)
    assert [value.name for value in free.input] == ["images"]
    for read in (graph(node(["Less/x:0"])), graph(node(["a"], graph(node(["Less/x:0"]))))):
        with pytest.raises(ValueError, match="takes images alone. Received: .* Less/x:0"):
            export._remove_constant_inputs(read)


@pytest.mark.heavy
def test_saved_model(toy_detector, tmp_path):
    """The layout of TensorFlow Serving; the same detections, of two sizes, two at a time."""
    path = tmp_path / "toy"
    for _ in range(2):  # another one in its place
        assert toy_detector.export(path, class_names=NAMES) == str(path)
    assert sorted(file.name for file in path.iterdir()) == ["1", "config.pbtxt"]
    check_triton((path / "config.pbtxt").read_text(encoding="utf-8"), path / "1")
    model = runtime.load(path)
    assert model.class_names == NAMES
    assert model.metadata.weights["file"] is None
    assert model.config.DETECTION_MAX_INSTANCES == toy_detector.config.DETECTION_MAX_INSTANCES
    model.config.BATCH_SIZE = 2
    images = [squares(90, 201), squares(128, 128), squares(90, 201, seed=1)]
    expected = toy_detector.detect(images)
    for actual, result in zip(model.detect(images), expected):
        check_same_rows(actual, result)
        assert actual["masks"].shape == result["masks"].shape
    (many,) = model.detect_many(["a path"], load=lambda _: images[1], masks="lazy")
    np.testing.assert_array_equal(many["rois"], model.detect(images[1:2])[0]["rois"])


# ---- The runtime's side, without any -------------------------------------------------------------


def metadata(**settings):
    config = Config(NUM_CLASSES=3, **settings)
    values = {name: value for name, value in config.to_dict().items() if not callable(value)}
    entries = {"class_names": NAMES, "settings": values, "version": "0", "weights": {"file": None}}
    return json.dumps({**entries, "around": export._around(config)}, default=export._plain)


class Backend:
    """In place of a runtime: two detections of which one has no area once it is rounded, and a row
    that is none."""

    shape = (None, None, None, 3)

    def __init__(self, **settings):
        self.metadata = metadata(**settings)
        self.batches = []
        self.seen = []

    def run(self, images):
        self.batches.append(images.shape)
        self.seen.append(images)
        boxes = np.float32([[2.2, 3.4, 10.6, 9.6], [4.1, 4.1, 4.3, 9], [0, 0, 0, 0]])
        masks = np.ones((3, 28, 28), np.float32)
        count = len(images)
        return {
            "boxes": np.tile(boxes, (count, 1, 1)),
            "class_ids": np.tile(np.int32([2, 1, 0]), (count, 1)),
            "scores": np.tile(np.float32([0.9, 0.8, 0]), (count, 1)),
            "masks": np.tile(masks, (count, 1, 1, 1)),
        }


def test_results_are_those_of_detect(capsys):
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
    assert len(model.detect([image], verbose=1)) == 1  # as scripts of 2018 call it
    assert capsys.readouterr().out == "Processing 1 images\n"
    exact = runtime.Model(Backend(ROUND_DETECTIONS=False), "model.onnx").detect([image])[0]
    assert len(exact["rois"]) == 2 and exact["rois"].dtype == np.float32


def test_a_full_list_of_detections_is_that_of_the_setting(monkeypatch, caplog):
    """ONNX and OpenVINO files give the rows that they detect: two are all of them, not the most."""

    class Trimmed(Backend):
        def run(self, images):
            return {name: value[:, :2] for name, value in super().run(images).items()}

    monkeypatch.setattr(data, "_LIMITS_WARNED", set())
    image = np.zeros((20, 30, 3), np.uint8)
    runtime.Model(Trimmed(), "model.onnx").detect([image])
    assert not caplog.records
    runtime.Model(Trimmed(DETECTION_MAX_INSTANCES=2), "model.onnx").detect([image])
    assert "2 detections, as many as DETECTION_MAX_INSTANCES allows" in caplog.text


def test_an_image_of_a_calibration_is_named_by_its_file(tmp_path):
    """As `mrcnn export --calibrate` gives them: arrays, read from files."""
    images = []
    for name, channels in (("good", 3), ("two", 2)):
        images.append(media.Picture(tmp_path / name, np.zeros((20, 30, channels), np.uint8)))
    images[1].frame = 7
    model = runtime.Model(Backend(), "float32.onnx")
    reader = quantization._Calibration(model, commands._CalibrationImages(iter(images)))
    assert reader.get_next()[runtime.INPUT].shape == (1, 20, 30, 3)
    with pytest.raises(ValueError, match=r"calibration: image 1 \(.*two, frame 7\) of shape"):
        reader.get_next()


def test_nothing_detected_is_nothing():
    """A graph has at least one row, of class 0; a result has none."""

    class Nothing(Backend):
        def run(self, images):
            return {name: value[:, 2:] for name, value in super().run(images).items()}

    model = runtime.Model(Nothing(), "model.onnx")
    image = np.zeros((20, 30, 3), np.uint8)
    result = model.detect([image])[0]
    assert result["rois"].shape == (0, 4) and result["masks"].shape == (20, 30, 0)
    assert result["rois"].dtype == np.int32 and result["class_ids"].dtype == np.int32
    assert model.detect([image], masks="rle")[0]["masks"] == []


@pytest.mark.parametrize("frame", ["centers", "edges"])
def test_keypoints_are_those_of_detect(frame):
    """Boxes of the file are in pixels of the image; points are decoded in those of the molded one."""
    from mrcnn import boxes as box_math

    rng = np.random.default_rng(0)
    shape, molded_shape, window = (90, 201, 3), (128, 128, 3), (35, 0, 92, 128)
    corners = rng.uniform([36, 2, 60, 70], [50, 50, 90, 126], (40, 4))
    detections = np.ones((40, 6), np.float32)
    detections[:, :4] = box_math.norm_boxes(corners, molded_shape, frame)
    maps = rng.normal(0, 3, (40, 56, 56, 4)).astype(np.float32)
    config = Config(BOX_FRAME=frame)
    frames = (shape, molded_shape, window, config)
    expected = inference.unmold_keypoints(detections, maps, *frames)
    _, boxes, exact = inference._unmold_boxes(detections, *frames)
    actual = runtime._keypoints(maps, exact, np.float64(window), shape, frame)
    off = np.abs(actual - expected).max(axis=-1) > 0.01  # a side may be 20 pixels, or 20.00001
    assert len(boxes) == 40 and off.mean() < 0.02
    row = runtime._keypoints(
        maps[:1], np.float32([[0, 9, 1, 20]]), np.float64(window), (1, 40), frame
    )
    assert np.isfinite(row).all() and np.all((row[..., 0] >= 0) & (row[..., 0] <= 1))


def test_a_fixed_batch_is_filled():
    backend = Backend()
    backend.shape = (4, 20, 30, 3)
    model = runtime.Model(backend, "model.onnx")
    image = np.zeros((20, 30, 3), np.uint8)
    assert len(model.detect([image])) == 1 and backend.batches == [(4, 20, 30, 3)]


class Finds(Backend):
    """The pixels above 100 are an object; its mask is soft in the files of `run`, or pasted."""

    shape = (1, 40, 60, 3)
    pasted = False

    def run(self, images):
        outputs = super().run(images)
        for row, image in enumerate(images):
            bright = image[..., 0] > 100
            rows, columns = np.nonzero(bright)
            box = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
            outputs["boxes"][row, 0] = box
            outputs["class_ids"][row, 1] = 0
        outputs["masks"][:, :, :14] = 0  # the lower half of a box
        if self.pasted:
            outputs["masks"] = np.repeat((images[:, None, ..., 0] > 100).astype(np.uint8), 3, 1)
        return outputs


@pytest.mark.parametrize("pasted", [False, True])
@pytest.mark.parametrize("shape", [(40, 60), (80, 120), (20, 30), (90, 60), (33, 200), (400, 500)])
def test_a_file_of_one_size_takes_images_of_any(shape, pasted, caplog):
    """They are resized to fit and padded; boxes and masks are of the image that was given."""
    backend = Finds()
    backend.pasted = pasted
    model = runtime.Model(backend, "model.tflite")
    image = np.zeros((*shape, 3), np.uint8)
    height, width = shape
    box = [height // 4, width // 5, 3 * height // 4, width // 2]
    y1, x1, y2, x2 = box
    image[y1:y2, x1:x2] = 200
    result = model.detect([image])[0]
    assert backend.batches == [(1, 40, 60, 3)]
    pixel = max(1, height / 40, width / 60)  # of what the graph has seen
    assert np.abs(result["rois"][0] - box).max() <= pixel
    mask = result["masks"][..., 0]
    assert mask.shape == shape
    expected = np.zeros(shape, bool)
    expected[y1 if pasted else (y1 + y2) // 2 : y2, x1:x2] = True
    assert (mask & expected).sum() / (mask | expected).sum() > 1 - 8 * pixel / min(height, width)
    assert [result["masks"].shape for result in model.detect_many([image, image])] == [
        (*shape, 1)
    ] * 2
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (shape != (40, 60))
    if said:
        assert f"of 40 x 60 pixels: image 0 of {height} x {width}" in said[0]


def test_a_box_in_the_padding_ends_at_the_image():
    """Its mask is the part of the box's that lies in the image."""

    class Below(Backend):
        shape = (1, 40, 60, 3)

        def run(self, images):
            outputs = super().run(images)
            outputs["boxes"][:, 0] = [20, 6, 40, 26]
            outputs["boxes"][:, 1] = [32, 0, 40, 60]  # in the padding alone
            outputs["masks"][:, :, :14] = 0  # the lower half of a box
            return outputs

    model = runtime.Model(Below(BOX_FRAME="edges"), "model.tflite")
    result = model.detect([np.zeros((40, 120, 3), np.uint8)])[0]  # seen as 20 x 60, 10 below
    assert result["rois"].tolist() == [[20, 12, 40, 52]]
    assert not result["masks"].any()  # the upper half
    model = runtime.Model(Below(BOX_FRAME="edges"), "model.tflite")
    result = model.detect([np.zeros((48, 120, 3), np.uint8)])[0]  # seen as 24 x 60, 8 below
    assert result["rois"].tolist()[0] == [24, 12, 48, 52]
    rows = np.flatnonzero(result["masks"][..., 0].any(axis=1))
    assert abs(rows[0] - 44) <= 1 and rows[-1] == 47


@pytest.mark.parametrize(
    "settings, size",
    [
        ({}, (192, 192)),
        ({"IMAGE_MIN_SCALE": 1.5, "BOX_FRAME": "edges"}, (192, 192)),
        ({"FLOAT_RESIZE": True}, (192, 192)),
        ({"IMAGE_RESIZE_MODE": "shorter", "FLOAT_RESIZE": True}, (128, 192)),
        ({"IMAGE_RESIZE_MODE": "none"}, (128, 192)),
    ],
    ids=["square", "min_scale", "floats", "shorter", "none"],
)
def test_a_file_of_the_molded_size_sees_what_detect_sees(settings, size):
    """Of any image that fits: the same scale, place, pixels and padding; and boxes go back alike."""
    config = Config(IMAGE_MIN_DIM=128, IMAGE_MAX_DIM=192, **settings)
    backend = Backend(IMAGE_MIN_DIM=128, IMAGE_MAX_DIM=192, **settings)
    backend.shape = (1, *size, 3)
    model = runtime.Model(backend, "model.tflite")
    for shape in ((60, 80), (100, 150), (127, 189), (30, 190), (90, 60), (400, 600)):
        if config.IMAGE_RESIZE_MODE == "none":
            shape = (64, 128)
        elif size[0] < size[1] and shape[0] > shape[1]:
            continue  # it does not fit
        image = squares(*shape)
        expected = inference.mold(image, config, "the image")
        seen = model.as_input(image, "the image")
        inside = tuple(slice(0, min(sides)) for sides in zip(size, expected.image.shape))
        tolerance = 1e-4 + 0.5 * config.FLOAT_RESIZE
        difference = (seen.pixels - config.MEAN_PIXEL)[inside] - expected.image[inside]
        assert np.abs(difference).max() <= tolerance
        window = np.array(expected.window)
        assert seen.window.tolist() == window.tolist()
        boxes = np.float32([window, window + [3, 4, -5, -6]])
        frames = (image.shape, expected.image.shape, expected.window, config)
        detections = np.ones((2, 6), np.float32)
        detections[:, :4] = export.box_math.norm_boxes(boxes, frames[1], config.BOX_FRAME)
        wanted = inference._unmold_boxes(detections, *frames)[2]
        found = runtime._in_image(boxes, seen, config.BOX_FRAME)
        np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_a_fixed_batch_goes_before_the_setting():
    """samples/serve.py asks for four at a time; of a LiteRT file there is one."""
    backend = Backend()
    backend.shape = (1, 20, 30, 3)
    model = runtime.Model(backend, "model.tflite")
    model.config.BATCH_SIZE = 4
    assert len(model.detect([np.zeros((20, 30, 3), np.uint8)] * 3)) == 3
    assert backend.batches == [(1, 20, 30, 3)] * 3


def test_what_is_computed_follows_its_settings():
    """BATCH_SIZE those of the file, and those that are assigned to its model's config."""
    backend = Backend(IMAGES_PER_GPU=2)
    model = runtime.Model(backend, "model.onnx")
    assert model.config.BATCH_SIZE == 2
    model.config.IMAGES_PER_GPU = 4
    model.detect([np.zeros((20, 30, 3), np.uint8)] * 4)
    assert backend.batches == [(4, 20, 30, 3)]
    assigned = json.loads(metadata())
    assigned["settings"]["BATCH_SIZE"] = 7
    text = json.dumps(assigned)
    assert runtime.read_metadata(text, "model.onnx").config().BATCH_SIZE == 7


def test_detect_many_in_batches():
    """Neighbours of one size together; an image that fails says so after those before it."""
    backend = Backend(IMAGES_PER_GPU=2)
    model = runtime.Model(backend, "model.onnx")
    image = np.zeros((20, 30, 3), np.uint8)
    assert len(list(model.detect_many([image, image, image, image[:10]]))) == 4
    assert backend.batches == [(2, 20, 30, 3), (1, 20, 30, 3), (1, 10, 30, 3)]
    assert list(model.detect_many([])) == [] == model.detect([])
    files = {"a.png": image, "b.png": np.zeros((20, 30, 5), np.uint8)}
    found = model.detect_many(files, load=files.get, masks="rle")
    assert len(next(found)["masks"]) == 1
    with pytest.raises(ValueError, match=r"image 1 \(b.png\) of shape .20, 30, 5"):
        next(found)


@pytest.mark.parametrize(
    "items, options, part",
    [
        ("a.png", {}, "takes a list of images.*Received: the path 'a.png'"),
        ("a.png", {"load": np.load}, "takes a list of images.*Received: the path 'a.png'"),
        (np.zeros((20, 30, 3), np.uint8), {}, "Received: one array of shape"),
        ([], {"masks": "soft"}, "dense, lazy or rle|dense.*lazy.*rle"),
    ],
    ids=["path", "path to load", "image", "masks"],
)
def test_what_detect_many_refuses_at_once(items, options, part):
    with pytest.raises(ValueError, match=part):
        runtime.Model(Backend(), "model.onnx").detect_many(items, **options)


@pytest.mark.parametrize(
    "image, part",
    [
        (np.zeros((20, 30, 5), np.uint8), "IMAGE_CHANNEL_COUNT"),
        (np.full((20, 30, 3), 100.5), "image 0 of dtype float64"),
        (np.zeros((0, 30, 3), np.uint8), "image 0 of shape .0, 30, 3"),
        (np.zeros(30, np.uint8), "a row of an image"),
        ("photo.jpg", "image 0 is the path"),
        (None, "image 0 is None"),
    ],
    ids=["channels", "floats", "empty", "row", "path", "None"],
)
def test_images_that_a_runtime_refuses(image, part):
    with pytest.raises(ValueError, match=part):
        runtime.Model(Backend(), "model.onnx").detect([image])


def test_values_in_units_of_their_own_are_refused():
    """uint8 of them would be others; of fractions within 0..255 the nearest are."""
    backend = Backend(IMAGE_CHANNEL_COUNT=4, MEAN_PIXEL=np.zeros(4))
    backend.shape = (None, None, None, 4)
    model = runtime.Model(backend, "model.onnx")
    for value, part in (
        (4000.0, "4000..4000; a model that is trained and exported with IMAGE_PERC"),
        (-1.0, "-1..-1; a model that is trained"),
        (0.5, "0.5..0.5; np.rint"),
    ):
        with pytest.raises(ValueError, match=f"image 0 of dtype float64, values {part}"):
            model.detect([np.full((20, 30, 4), value)])


@pytest.mark.parametrize(
    "images, part",
    [
        (np.zeros((1, 20, 30, 3), np.float32), "Received: float32 of shape .1, 20, 30, 3"),
        (np.zeros((20, 30, 3), np.uint8), "Received: uint8 of shape .20, 30, 3"),
        (np.zeros((1, 20, 30, 4), np.uint8), "Received: uint8 of shape .1, 20, 30, 4"),
        (np.zeros((3, 20, 30, 3), np.uint8), "uint8 .B, H, W, C. of .2, None, None, 3.*Received"),
        (np.zeros((0, 20, 30, 3), np.uint8), "Received: uint8 of shape .0, 20, 30, 3"),
    ],
    ids=["dtype", "image", "channels", "batch", "none"],
)
def test_batches_that_run_refuses(images, part):
    backend = Backend()
    backend.shape = (2, None, None, 3)
    with pytest.raises(ValueError, match=part):
        runtime.Model(backend, "model.onnx").run(images)


# ---- What is done around the graph ---------------------------------------------------------------


def test_contrast_is_stretched_before_the_graph():
    """IMAGE_PERCENTILES and IMAGE_GAMMA by numpy: of 12 bits and of bytes, as `detect` does it."""
    backend = Backend(IMAGE_PERCENTILES=(1, 99), IMAGE_GAMMA=0.5)
    model = runtime.Model(backend, "model.onnx")
    assert sorted(model.metadata.around) == ["IMAGE_GAMMA", "IMAGE_PERCENTILES"]
    ramp = np.linspace(100, 3000, 600).round().astype(np.uint16).reshape(20, 30)
    for image in (ramp, np.repeat((ramp // 16).astype(np.uint8)[..., None], 4, axis=2)):
        model.detect([image])
        expected = utils.stretched(image[..., :3], (1, 99), 0.5)
        if image.ndim == 2:
            expected = np.repeat(utils.stretched(image, (1, 99), 0.5)[..., None], 3, axis=2)
        np.testing.assert_array_equal(backend.seen[-1][0], expected)


@pytest.mark.parametrize("form", ["dense", "lazy", "rle"])
def test_masks_that_others_cover_are_left_out_after_the_graph(form):
    """DETECTION_MASK_OVERLAP: of two of a class with the same mask the better one stays."""

    class Twins(Backend):
        def run(self, images):
            found = super().run(images)
            found["boxes"][:, 1] = [2, 3, 11, 9]
            found["class_ids"][:, 1] = 2
            return found

    image = np.zeros((20, 30, 3), np.uint8)
    both = runtime.Model(Twins(), "model.onnx").detect([image], masks=form)[0]
    model = runtime.Model(Twins(DETECTION_MASK_OVERLAP=0.6), "model.onnx")
    one = model.detect([image], masks=form)[0]
    assert list(model.metadata.around) == ["DETECTION_MASK_OVERLAP"]
    assert len(both["rois"]) == 2 and one["rois"].tolist() == [[2, 3, 11, 10]]
    np.testing.assert_allclose(one["scores"], [0.9])
    counts = {"dense": lambda x: x.shape[-1], "lazy": lambda x: x.shape[-1], "rle": len}
    assert counts[form](one["masks"]) == 1 and counts[form](both["masks"]) == 2


def test_masks_that_the_graph_has_pasted():
    """uint8 masks of the whole image are taken as they are."""

    class Pasted(Backend):
        def run(self, images):
            found = super().run(images)
            found["masks"] = np.zeros((len(images), 3, 20, 30), np.uint8)
            found["masks"][:, 0, 4:7, 5:9] = 1
            return found

    expected = np.zeros((20, 30, 1), bool)
    expected[4:7, 5:9] = True
    model = runtime.Model(Pasted(), "model.onnx")
    image = np.zeros((20, 30, 3), np.uint8)
    np.testing.assert_array_equal(model.detect([image])[0]["masks"], expected)
    assert model.detect([image], masks="rle")[0]["masks"] == masks.encode(expected)


def test_files_that_ask_for_more_are_refused():
    """Of a newer version: what it does around the graph and this one doesn't know."""
    found = json.loads(metadata())
    found["around"] = {"IMAGE_EQUALISED": "its histogram is flat"}
    with pytest.raises(ValueError, match="x.onnx: mrcnn 0 wrote it, .* IMAGE_EQUALISED. Known: "):
        runtime.read_metadata(json.dumps(found), "x.onnx")
    del found["around"]  # as 0.4.0 wrote it
    assert runtime.read_metadata(json.dumps(found), "x.onnx").around == {}


@pytest.mark.parametrize(
    "name, value",
    [("class_names", "BG"), ("class_names", ["BG"]), ("settings", []), ("weights", None)],
)
def test_metadata_of_another_kind_is_refused(name, value):
    found = {**json.loads(metadata()), name: value}
    with pytest.raises(ValueError, match="x.onnx: expected a file of mrcnn.export.*Received"):
        runtime.read_metadata(json.dumps(found), "x.onnx")


def test_other_ranges_become_bytes():
    """By the rule of `detect`: fractions, bools, gray."""
    model = runtime.Model(Backend(), "model.onnx")
    whole = np.full((20, 30, 3), 200, np.float32)
    others = (np.ones((20, 30)) * 0.5, np.ones((20, 30, 3), bool), np.full((20, 30, 4), 200))
    for image in (whole, *others):
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
    for threads in (0, "2", 1.5, True, 2**40):
        with pytest.raises(ValueError, match="threads is a whole number from 1"):
            runtime.load(tmp_path, threads=threads)
    assert runtime._checked_threads(np.int64(2)) == 2
    with pytest.raises(ValueError, match="device is a name such as 'cpu'. Received: None"):
        runtime.load(tmp_path, device=None)
    with pytest.raises(ValueError, match="takes the path of an exported model. Received: None"):
        runtime.load(None)
    with pytest.raises(ValueError, match="takes the path of an exported model. Received: ''"):
        runtime.load("")
    file = tmp_path / "model.bin"
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="An exported model is an .onnx"):
        runtime.load(file)
    with pytest.raises(ValueError, match="expected saved_model.pb in it"):
        runtime.load(tmp_path)
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ValueError, match="An exported model is an .onnx.*folder.onnx"):
        runtime.load(tmp_path / "folder.onnx")
    (tmp_path / "model.xml").write_text("<net/>")
    with pytest.raises(ValueError, match="model.bin has the weights of .*model.xml; load that"):
        runtime.load(file)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"\x08\1")
    with pytest.raises(ValueError, match="saved_model.pb is a part of a SavedModel; load its"):
        runtime.load(tmp_path / "1" / "saved_model.pb")
    (tmp_path / "lone.xml").write_text("<net/>")
    with pytest.raises(FileNotFoundError, match="lone.bin, which has the weights of .*lone.xml"):
        runtime.load(tmp_path / "lone.xml")
    monkeypatch.setitem(runtime.PACKAGES, "onnx", ("no_such_module", "onnxruntime"))
    for content, kind in (
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
        (b"<!DOCTYPE html><html>", "a web page"),
    ):
        for name in ("broken.onnx", "broken.xml", "broken.tflite"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=f"{name}: expected an exported.*: {kind}"):
                runtime.load(tmp_path / name)
    file.write_bytes(b"\x08\x0a")
    with pytest.raises(ImportError, match="model.onnx is run by onnxruntime: pip install onnx"):
        runtime.load(file.rename(tmp_path / "model.onnx"))


def test_a_loaded_model_goes_to_another_process(tmp_path, monkeypatch):
    """Pickled it is its path, as it was loaded, and its settings; a copy of it too."""
    asked = []

    def fake(module, path, threads, device):
        asked.append((str(path), threads, device))
        return Backend()

    monkeypatch.setitem(runtime.RUNTIMES, "onnx", fake)
    monkeypatch.setitem(runtime.PACKAGES, "onnx", ("math", "math"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.part").write_bytes(b"\x08\x0a")
    model = runtime.load("model.part", 2, "cpu", format="onnx")
    model.config.BATCH_SIZE = 3
    monkeypatch.chdir("/")
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert again.config.BATCH_SIZE == 3 and again._backend is not model._backend
        assert len(again.detect([np.zeros((20, 30, 3), np.uint8)])[0]["rois"]) == 1
    assert asked[1:] == [(str(tmp_path / "model.part"), 2, "cpu")] * 2


def test_cores_are_those_that_a_process_may_use(monkeypatch):
    monkeypatch.setattr(runtime.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(runtime.os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert runtime._usable_cores() == 2
    monkeypatch.delattr(runtime.os, "sched_getaffinity")
    assert runtime._usable_cores() == 64


def test_a_model_is_told_from_others_by_its_files(tmp_path, monkeypatch):
    """Of two files with the same settings; wherever the process works by then."""
    monkeypatch.setitem(runtime.RUNTIMES, "onnx", lambda *_: Backend())
    monkeypatch.setitem(runtime.PACKAGES, "onnx", ("json", "json"))
    monkeypatch.chdir(tmp_path)
    found = []
    for name, content in (("a.onnx", b"1"), ("b.onnx", b"1"), ("c.onnx", b"2")):
        (tmp_path / name).write_bytes(content)
        found.append(runtime.load(name))
    monkeypatch.chdir("/")
    first, same, other = (model.identity() for model in found)
    assert first == same != other


def test_openvino_weights_of_another_export_are_refused(tmp_path):
    """Of as many bytes; a file of a version that wrote no checksum is taken."""
    (tmp_path / "m.bin").write_bytes(b"123456789")
    said = {}
    network = types.SimpleNamespace(
        has_rt_info=lambda key: key[0] in said,
        get_rt_info=lambda key: types.SimpleNamespace(astype=lambda _: said[key[0]]),
    )
    arguments = (network, tmp_path / "m.bin", tmp_path / "m.xml")
    runtime._OpenVino._check_weights(*arguments)
    said["mrcnn_weights"] = "cbf43926"  # what CRC-32 is defined to give of these digits
    runtime._OpenVino._check_weights(*arguments)
    (tmp_path / "m.bin").write_bytes(b"123456788")
    with pytest.raises(ValueError, match="m.bin has other weights than .*m.xml: it is of another"):
        runtime._OpenVino._check_weights(*arguments)


def test_openvino_files_of_any_name(tmp_path, monkeypatch):
    """OpenVINO writes no file whose suffix is not .xml; weights lie beside the graph."""

    def save_model(network, file, compress_to_fp16):
        assert file.suffix == ".xml" and not compress_to_fp16
        file.write_text("<net/>")
        file.with_suffix(".bin").write_bytes(b"weights")

    network = types.SimpleNamespace(set_rt_info=lambda *args: None, get_ordered_ops=list)
    openvino = types.SimpleNamespace(save_model=save_model)
    openvino.convert_model = lambda path, extension: network
    frontend = types.SimpleNamespace(ConversionExtension=lambda *args: None)
    monkeypatch.setattr(export, "_save", lambda *args: None)
    for name in ("MODEL.XML", "a.b.xml", "\u56fe 1.xml"):
        export._write_openvino(tmp_path / name, None, None, "{}", "float32", openvino, frontend)
        assert (tmp_path / name).read_text() == "<net/>"
        assert (tmp_path / name).with_suffix(".bin").read_bytes() == b"weights"
    assert len(list(tmp_path.iterdir())) == 6


def test_a_device_that_is_known_but_absent_is_no_cpu():
    """onnxruntime and TensorFlow would take the CPU instead, without an error."""

    class Session:
        def __init__(self, path, options, providers):
            pass

        def get_providers(self):
            return ["CPUExecutionProvider"]

    class Options:
        def add_session_config_entry(self, name, value):
            pass

    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    module = types.SimpleNamespace(
        InferenceSession=Session,
        SessionOptions=Options,
        get_available_providers=lambda: providers,
    )
    with pytest.raises(ValueError, match="'gpu' is known to this onnxruntime and can't be used"):
        runtime._Onnx(module, "model.onnx", None, "gpu")
    devices = [types.SimpleNamespace(name="/device:CPU:0")]
    tensorflow = types.SimpleNamespace(
        config=types.SimpleNamespace(list_logical_devices=lambda: devices)
    )
    assert runtime._SavedModel._device(tensorflow, "cpu") == "CPU"
    with pytest.raises(ValueError, match="device is one of CPU:0 in this TensorFlow. .*'gpu'"):
        runtime._SavedModel._device(tensorflow, "gpu")


@pytest.mark.heavy
def test_files_of_others_are_refused_by_tensorflow_too(tmp_path):
    """A SavedModel without signatures, with the file that says what it is missing."""
    import tensorflow as tf

    tf.saved_model.save(tf.Module(), str(tmp_path / "other"))
    with pytest.raises(ValueError, match="other: expected a file of mrcnn.export"):
        runtime.load(tmp_path / "other")


# ---- Weights of fewer bits -----------------------------------------------------------------------


def test_weights_of_int8():
    """Each output's largest weight is 127; worked by hand."""
    weights = np.float32([[1, -2, 0], [0.5, 0.01, 0]])
    values, scales = quantization.as_int8(weights, axis=1)
    assert values.dtype == np.int8 and scales.dtype == np.float32
    np.testing.assert_array_equal(values, [[127, -127, 0], [64, 1, 0]])
    np.testing.assert_allclose(scales, [[1 / 127, 2 / 127, 1 / 127]], rtol=1e-6)
    kernel = np.random.default_rng(0).normal(size=(8, 4, 3, 3)).astype(np.float32)
    values, scales = quantization.as_int8(kernel, axis=0)
    assert scales.shape == (8, 1, 1, 1)
    assert np.all(np.abs(values * scales - kernel) <= scales / 2 * 1.0001)


def test_weights_of_float16():
    halves = quantization.as_float16(np.float32([1, -2.5, 65504]))
    assert halves.dtype == np.float16 and halves.tolist() == [1, -2.5, 65504]
    assert quantization.as_float16(np.float32([1, -70000])) is None
    assert quantization.as_float16(np.float32([])).size == 0


# ---- Refusals of export --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path, options, part",
    [
        ("m.onnx", {"class_names": ["BG"]}, "each of the 3 classes, background first"),
        ("m.onnx", {"format": "pb"}, "format is one of"),
        ("m.onnx", {"format": "openvino"}, "A path ends in .onnx for onnx, .xml for openvino"),
        (
            "m.onnx",
            {"precision": "float64"},
            "precision of onnx is one of float32, float16, int8. Received: 'float64'",
        ),
        ("m", {"precision": "int8"}, "precision of saved_model is one of float32. Received"),
        ("m.onnx", {"size": (128,)}, "size is .height, width. in pixels"),
        ("m.onnx", {"size": 128}, "size is .height, width. in pixels"),
        ("m.onnx", {"size": (128, 1.5)}, "size is .height, width. in pixels"),
        ("m.onnx", {"class_names": "BGs"}, "each of the 3 classes, background first"),
        ("m.onxx", {}, "ends in .onnx, .xml .OpenVINO. or .tflite"),
        ("m.h5", {}, "ends in .onnx, .xml .OpenVINO. or .tflite"),
        ("m.onnx", {"batch": 0}, "batch is a whole number from 1"),
        ("m.onnx", {"class_names": dict(enumerate(NAMES))}, "each of the 3 classes.*Received: 0"),
        pytest.param(
            *("m.onnx", {"class_names": set(NAMES)}, "each of the 3 classes, background first"),
            id="class_names is a set",  # its text differs between processes
        ),
        ("m.onnx", {"class_names": [{"id": i} for i in range(3)]}, "each of the 3 classes"),
        (
            "m.onnx",
            {"calibration": []},
            "calibration is for precision='int8' of onnx and openvino. Received: images, and"
            " precision 'float32' of onnx",
        ),
        (
            "m.tflite",
            {"calibration": [], "precision": "int8"},
            "precision 'int8' of litert",
        ),
        (
            "m.onnx",
            {"calibration": "photos", "precision": "int8"},
            r"list of images or of paths of image files. Received: 'photos' \(str\)",
        ),
        (
            "m.xml",
            {"calibration": np.zeros((40, 60, 3), np.uint8), "precision": "int8"},
            r"list of images or of paths of image files. Received: \(40, 60, 3\) \(ndarray\)",
        ),
    ],
    ids=lambda value: str(value),
)
def test_what_export_refuses(toy_detector, tmp_path, monkeypatch, path, options, part):
    monkeypatch.setitem(export.NEEDS, "onnx", {})
    monkeypatch.setitem(export.NEEDS, "openvino", {})
    with pytest.raises(ValueError, match=part):
        toy_detector.export(tmp_path / path, **{"class_names": NAMES, **options})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["", None, 3], ids=repr)
def test_export_needs_a_path(toy_detector, path):
    with pytest.raises(ValueError, match="takes the path of a file or a folder. Received: "):
        toy_detector.export(path, class_names=NAMES)


def test_where_nothing_can_be_written(toy_detector, tmp_path, monkeypatch):
    """It is said before the work; nothing is left."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="m.onnx can't be written: .*file is a file"):
        toy_detector.export(tmp_path / "file" / "sub" / "m.onnx", class_names=NAMES)
    monkeypatch.setattr(os, "access", lambda path, mode: pathlib.Path(path) != tmp_path)
    with pytest.raises(PermissionError, match="m.xml can't be written: no permission to write in"):
        toy_detector.export(tmp_path / "new" / "m.xml", class_names=NAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_lies_in_the_way_of_a_file_stays(toy_detector, tmp_path):
    """A folder where a file is to be, a file where a folder is to be, somebody's folder 1."""
    (tmp_path / "m.tflite").mkdir()
    (tmp_path / "toy").write_text("mine")
    (tmp_path / "photos" / "1").mkdir(parents=True)
    (tmp_path / "photos" / "1" / "a.jpg").write_text("mine")
    (tmp_path / "served" / "2").mkdir(parents=True)
    (tmp_path / "served" / "2" / "saved_model.pb").write_text("mine")
    for name, part in (
        ("m.tflite", "m.tflite is a folder"),
        ("toy", "toy, which is a file"),
        ("photos", "photos: its folder 1 is no SavedModel"),
        ("served", "served has a version 2, which goes before version 1, that an export writes"),
    ):
        with pytest.raises(ValueError, match=part):
            toy_detector.export(tmp_path / name, class_names=NAMES)
    assert (tmp_path / "photos" / "1" / "a.jpg").read_text() == "mine"


def test_size_and_batch_of_numpy(toy_detector):
    size = np.array([96, 128])
    assert export._checked_size(size, "onnx", toy_detector.config) == (96, 128)
    assert export._whole(np.int64(2)) == 2 and export._whole("2") == 0


def test_settings_of_numpy_are_told(toy_detector):
    text = json.dumps(
        {"a": np.float32(0.5), "b": np.arange(2), "c": (np.int64(3),)}, default=export._plain
    )
    assert json.loads(text) == {"a": 0.5, "b": [0, 1], "c": [3]}


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
        ("TEST_SCALES", (64, 128), "TEST_SCALES = \\(\\) for an export. Received: .64, 128"),
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
    with pytest.raises(ValueError, match="config has changed .*Received: .* = 0.4321, and "):
        toy_detector.export(tmp_path / "toy", class_names=NAMES)
    assert not list(tmp_path.iterdir())


@pytest.mark.heavy
@pytest.mark.parametrize("name, value", [("PRE_NMS_LIMIT", 9), ("FPN_CLASSIF_FC_LAYERS_SIZE", 9)])
def test_a_rebuilt_network_is_the_one_that_detects(toy_detector, monkeypatch, name, value):
    """Of settings that one layer holds, and of those that the weights' shapes tell."""
    monkeypatch.setattr(toy_detector.config, name, value)
    with pytest.raises(ValueError, match="config has changed since the network was built"):
        export.Graph(toy_detector, "onnx")


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
    args = commands.parse(
        parser, ["export", "--file=m.onnx", "--size", "64", "96", "--batch=2", "--paste"]
    )
    asked = {}

    def fake(path, **options):
        asked.update(options, path=path)
        return path

    model = types.SimpleNamespace(config=toy_detector.config, export=fake)
    assert commands.export(model, NAMES, args) == "m.onnx"
    assert asked["size"] == [64, 96] and asked["class_names"] == NAMES
    assert asked["batch"] == 2 and asked["paste"] and asked["precision"] == "float32"
    of_samples = dict(asked)
    args = cli._parse(["export", "m.onnx", "--size", "64", "96", "--batch=2", "--paste"])
    commands.export(model, NAMES, args)
    assert asked == of_samples
    assert capsys.readouterr().out == "m.onnx\n" * 2


# ---- The second environment ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "failing, called",
    [("test", ["test"]), ("", ["test", "test-runtimes", "test-backends", "test-ray"])],
)
def test_what_must_hold_ends_at_the_first_failure(tmp_path, failing, called):
    """.ci/run: the tests, then those of the runtimes, of the backends and of Ray."""
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/calls\n[ "$1" != "{failing}" ]\n')
    make.chmod(0o755)
    script = pathlib.Path(__file__).resolve().parents[1] / ".ci" / "run"
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([script], env=environment)
    assert (done.returncode == 0) == (not failing)
    assert (tmp_path / "calls").read_text().split() == called
