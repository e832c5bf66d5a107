"""Weight files: the legacy layout both ways, what is refused, downloads from a server that
misbehaves."""

import argparse
import hashlib
import http.server
import io
import logging
import os
import threading
import zipfile

import h5py
import keras
import numpy as np
import pytest
from conftest import small_config
from keras import layers as KL
from mutations import mutate
from toy import ToyConfig

from mrcnn import (
    commands,
    files,
    model as modellib,
    torchvision,
    training as training_room,
    weights,
)


def toy(tmp_path, **settings):
    return modellib.MaskRCNN("inference", ToyConfig(**settings), tmp_path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A toy and the legacy file of its weights; both stay as they are."""
    folder = tmp_path_factory.mktemp("toy")
    model = toy(folder)
    model.save_weights(folder / "x.h5")
    return model, folder / "x.h5"


def test_legacy_file_has_the_layers_of_a_released_one(small_model, small_weights, tmp_path):
    """What is written has, layer by layer, the names, shapes and values that were read."""
    path = tmp_path / "again.h5"
    small_model.save_weights(path)
    a, _ = weights.read_legacy(small_weights)
    b, _ = weights.read_legacy(path)
    assert set(a) == set(b)
    for layer in a:
        for (name, x), (other, y) in zip(a[layer], b[layer], strict=True):
            assert name == other
            np.testing.assert_array_equal(x, y)
    with h5py.File(path) as file, h5py.File(small_weights) as old:
        assert {"rpn_model", "conv1"} <= set(file)
        np.testing.assert_array_equal(
            file["rpn_model"].attrs["weight_names"], old["rpn_model"].attrs["weight_names"]
        )


@pytest.mark.parametrize("name", ["x.h5", "x.weights.h5"])
def test_round_trip(saved, tmp_path, name):
    (first, _), second = saved, toy(tmp_path)
    first.save_weights(str(tmp_path / name))
    assert not [p for p in tmp_path.iterdir() if "part" in p.name]
    second.load_weights(str(tmp_path / name))
    for a, b in zip(first.keras_model.weights, second.keras_model.weights):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.heavy
def test_whole_models_and_wrapped_models(saved, tmp_path):
    """A `model_weights` group, and the layers inside one nested model as multi-GPU training saves
    them."""
    found, _ = weights.read_legacy(saved[1])
    with h5py.File(tmp_path / "wrapped.h5", "w") as file:
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = ["mask_rcnn"]
        group = root.create_group("mask_rcnn")
        names = [f"{layer}/{name}:0" for layer in found for name, _ in found[layer]]
        group.attrs["weight_names"] = names
        for layer in found:
            for name, array in found[layer]:
                group[f"{layer}/{name}:0"] = array
    coverage = toy(tmp_path).load_weights(tmp_path / "wrapped.h5")
    assert len(coverage.loaded) == len(names) and not coverage.missing


@pytest.mark.heavy
def test_another_number_of_classes(saved, tmp_path):
    """(18) Refused with the shapes, and loaded with the four heads excluded, mrcnn_bbox among
    them."""
    _, path = saved
    model = toy(tmp_path, NUM_CLASSES=5)
    before = [np.asarray(w) for w in model.keras_model.weights]
    with pytest.raises(
        ValueError,
        match=(
            r"nothing was loaded(?s:.*)mrcnn_class_logits/kernel: \(64, 3\) in the file, \(64, 5\)"
        ),
    ):
        model.load_weights(path, by_name=True)
    for a, b in zip(before, model.keras_model.weights):
        np.testing.assert_array_equal(a, np.asarray(b))
    heads = ["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask"]
    coverage = model.load_weights(path, by_name=True, exclude=heads)
    assert len(coverage.ignored) == 6 and not coverage.mismatched


def test_wrong_files_are_refused(saved, tmp_path, small_weights):
    """(18) A wrong backbone, a misspelt exclude, no weights at all."""
    model, _ = saved
    with pytest.raises(ValueError, match="small.h5 doesn't fit the network; nothing was loaded"):
        model.load_weights(small_weights, by_name=True)
    with pytest.raises(ValueError, match=r"Received: \['mrcnn_bbox_fcc'\]"):
        model.load_weights(small_weights, exclude=["mrcnn_bbox_fcc"])
    with pytest.raises(FileNotFoundError, match="missing.h5"):
        model.load_weights(tmp_path / "missing.h5")
    (tmp_path / "text.h5").write_text("x")
    with pytest.raises(ValueError, match="text.h5 is not a readable HDF5"):
        model.load_weights(tmp_path / "text.h5")


def test_a_file_with_a_backbone_alone(tmp_path, small_weights):
    found, _ = weights.read_legacy(small_weights)
    backbone = [name for name in found if weights.part_of(name) == "backbone"]
    for count, names in (("whole", backbone), ("half", backbone[:50])):
        with h5py.File(tmp_path / f"{count}.h5", "w") as file:
            file.attrs["layer_names"] = names
            for name in names:
                group = file.create_group(name)
                group.attrs["weight_names"] = [f"{name}/{key}:0" for key, _ in found[name]]
                for key, array in found[name]:
                    group[f"{name}/{key}:0"] = array
    model = modellib.MaskRCNN("inference", small_config(), tmp_path)
    coverage = model.load_weights(tmp_path / "whole.h5", by_name=True)
    assert {weights.part_of(name.split("/")[0]) for name in coverage.missing} == {
        "FPN",
        "RPN",
        "heads",
    }
    with pytest.raises(ValueError, match="not in the file"):
        model.load_weights(tmp_path / "half.h5", by_name=True)
    with pytest.raises(ValueError, match="not in the file"):
        model.load_weights(tmp_path / "whole.h5")


# ---- Files of other programs ---------------------------------------------------------------------


def little_model(classes=3):
    """A Keras model with a plain layer, a norm, a nested model and a layer for each RoI."""
    inner_input = keras.Input((4, 4, 2), name="map")
    inner = keras.Model(
        inner_input, KL.Conv2D(2, 1, name="rpn_conv_shared")(inner_input), name="rpn_model"
    )
    image = keras.Input((4, 4, 2), name="image")
    x = KL.BatchNormalization(name="bn_conv1")(KL.Conv2D(2, 1, name="conv1")(image))
    x = KL.TimeDistributed(KL.Dense(classes), name="mrcnn_class_logits")(inner(x))
    return training_room.Network(image, KL.Activation("relu", name="anchors")(x))


LITTLE = {
    "conv1": {"kernel": (1, 1, 2, 2), "bias": (2,)},
    "bn_conv1": {"gamma": (2,), "beta": (2,), "moving_mean": (2,), "moving_variance": (2,)},
    "rpn_conv_shared": {"kernel": (1, 1, 2, 2), "bias": (2,)},
    "mrcnn_class_logits": {"kernel": (2, 3), "bias": (3,)},
}


def little_arrays():
    """{layer: {weight: array}} of the little model, each array with values of its own."""
    rng = np.random.default_rng(0)
    return {
        layer: {name: rng.random(shape).astype("float32") for name, shape in shapes.items()}
        for layer, shapes in LITTLE.items()
    }


def write_little(target, key="{layer}/{weight}:0", inner="{layer}/{weight}:0", extra=(), **options):
    """Writes the little model's arrays into a file in the legacy layout.

    Args:
        target: path, open file or group.
        key, inner: how arrays are called, those of the nested model otherwise.
        extra: [(layer, key, array)] of further layers.
        options: layer_names, weight_names: False to leave the attribute out; order: of weights.
    """
    arrays = little_arrays()
    entries = []
    for layer, of_layer in arrays.items():
        group, form = ("rpn_model", inner) if layer == "rpn_conv_shared" else (layer, key)
        for weight in options.get("order", weights.ORDER):
            if weight in of_layer:
                entries.append((group, form.format(layer=layer, weight=weight), of_layer[weight]))
    entries += list(extra)
    if isinstance(target, (str, os.PathLike)):
        with h5py.File(target, "w") as file:
            write_entries(file, entries, **options)
    else:
        write_entries(target, entries, **options)


def write_entries(root, entries, layer_names=True, weight_names=True, parts=1, **_):
    groups = list(dict.fromkeys(group for group, _, _ in entries))
    names = ["image", *groups, "ROI"]
    if layer_names and parts == 1:
        root.attrs["layer_names"] = np.array(names, "S")
    elif layer_names:
        for part, some in enumerate(np.array_split(np.array(names, "S"), parts)):
            root.attrs[f"layer_names{part}"] = some
    for name in names:
        group = root.create_group(name)
        mine = [(key, array) for owner, key, array in entries if owner == name]
        for key, array in mine:
            group[key] = array
        if weight_names:
            group.attrs["weight_names"] = np.array([key for key, _ in mine] or np.zeros(0), "S")


def assert_loaded(model, but=()):
    layers = weights.layers_of(model)
    for layer, of_layer in little_arrays().items():
        for name, variable in weights.ordered_weights(layers[layer]):
            equal = np.array_equal(np.asarray(variable), of_layer[name])
            assert equal == (layer not in but), (layer, name)


ANCHORS = np.zeros((261888, 4), "float32")


@pytest.mark.parametrize(
    "options",
    [
        dict(extra=[("anchors", "anchors/Variable:0", ANCHORS)]),
        dict(extra=[("anchors", "Variable:0", ANCHORS)]),
        dict(extra=[("anchors", "anchors/anchors/Variable:0", ANCHORS[None])]),
        dict(key="{layer}/{layer}/{weight}:0", inner="rpn_model/{layer}/{weight}:0"),
        dict(key="{layer}/{weight}", inner="{layer}/{layer}/{weight}"),
        dict(key="{layer}/dense_7/{weight}:0"),
        dict(key="{layer}_1/{weight}_1:0"),
        dict(key="{weight}:0"),
        dict(key="mask_rcnn/{layer}/{weight}:0", inner="mask_rcnn/rpn_model/{layer}/{weight}:0"),
        dict(layer_names=False),
        dict(weight_names=False),
        dict(layer_names=False, weight_names=False),
        dict(parts=3),
        dict(order=sorted(weights.ORDER)),
    ],
    ids=str,
)
@pytest.mark.parametrize("whole", [False, True])
def test_files_of_the_forks(tmp_path, options, whole):
    """Issue 19, row 9: an `anchors` variable, names as TensorFlow 2 makes them, lists of names that
    are missing or in parts, `model.save` with the optimizer's state."""
    if options.get("key", "").endswith("_1:0") and "order" in options:
        pytest.skip("without names the order tells")
    with h5py.File(tmp_path / "fork.h5", "w") as file:
        root = file
        if whole:
            root = file.create_group("model_weights")
            file.attrs["model_config"] = b"{}"
            file.create_group("optimizer_weights")["training/SGD/conv1/kernel/momentum:0"] = [1.0]
            root.create_group("top_level_model_weights")
        write_little(root, **options)
    model = little_model()
    coverage = model.load_weights(tmp_path / "fork.h5")
    assert_loaded(model)
    assert not coverage.missing and not coverage.unused
    assert len(coverage.ignored) == len(options.get("extra", ()))


def test_weights_without_a_layer_are_an_info_or_an_error(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write_little(tmp_path / "a.h5", extra=[("anchors", "anchors/Variable:0", ANCHORS)])
    little_model().load_weights(tmp_path / "a.h5")
    assert [r.levelname for r in caplog.records] == ["INFO"] and "anchors/Variable" in caplog.text
    write_little(tmp_path / "b.h5", extra=[("other", "other/kernel:0", np.ones(2))])
    with pytest.raises(ValueError, match="other/kernel: not in the network"):
        little_model().load_weights(tmp_path / "b.h5")
    bias = [("conv1", "conv1/gamma:0", np.ones(2))]
    write_little(tmp_path / "c.h5", extra=bias)
    with pytest.raises(ValueError, match="conv1/gamma: not in the network"):
        little_model().load_weights(tmp_path / "c.h5", by_name=True)


def deeper(layer_count=17):
    """What a ResNet-101 has and a ResNet-50 lacks: res4g to res4w."""
    extra = []
    for i in range(layer_count):
        block = f"4{chr(ord('g') + i)}_branch2a"
        extra.append((f"res{block}", f"res{block}/kernel:0", np.ones((1, 1, 2, 2))))
        extra.append((f"bn{block}", f"bn{block}/gamma:0", np.ones(2)))
    return extra


@pytest.mark.parametrize("options", [{"by_name": True}, {"exclude": ["mrcnn_class_logits"]}])
def test_blocks_that_a_smaller_backbone_lacks_are_skipped(tmp_path, caplog, options):
    """Issue 19, row 8: the released COCO file for BACKBONE = "resnet50"."""
    write_little(tmp_path / "coco.h5", extra=deeper())
    with pytest.raises(ValueError, match="bn4g_branch2a/gamma: not in the network"):
        little_model().load_weights(tmp_path / "coco.h5")
    model = little_model()
    caplog.clear()
    coverage = model.load_weights(tmp_path / "coco.h5", **options)
    assert_loaded(model, but=options.get("exclude", ()))
    assert len(coverage.unused) == 34
    skipped = [r.getMessage() for r in caplog.records if "skipped" in r.getMessage()]
    assert len(skipped) == 1 and "coco.h5 has 34 layers that the network lacks" in skipped[0]
    assert "17 blocks of a deeper backbone (res4g, res4h" in skipped[0] and "res4w" in skipped[0]


def test_weights_coco_begins_a_training_of_a_smaller_backbone(saved, tmp_path, monkeypatch, caplog):
    """Issue 19, row 8: `--weights=coco`, with COCO's classes and with others; to detect, such a
    network is refused."""
    model, path = saved
    (tmp_path / "coco.h5").write_bytes(path.read_bytes())
    with h5py.File(tmp_path / "coco.h5", "a") as file:
        names = [*file.attrs["layer_names"], b"res4g_branch2a"]
        file.attrs["layer_names"] = np.array(names, "S")
        group = file.create_group("res4g_branch2a")
        group.attrs["weight_names"] = [b"res4g_branch2a/kernel:0"]
        group["res4g_branch2a/kernel:0"] = np.ones((1, 1, 2, 2), "float32")
    monkeypatch.setattr(commands, "COCO_WEIGHTS", tmp_path / "coco.h5")
    monkeypatch.setattr(modellib, "MaskRCNN", lambda mode, config, logs: model)
    args = argparse.Namespace(weights="coco", logs=tmp_path)
    for classes in (3, 81):
        monkeypatch.setattr(commands, "COCO_CLASSES", classes)
        caplog.clear()
        commands.load_model("training", ToyConfig(), args)
        assert "1 blocks of a deeper backbone (res4g)" in caplog.text
    monkeypatch.setattr(commands, "COCO_CLASSES", 3)
    with pytest.raises(ValueError, match="res4g_branch2a/kernel: not in the network"):
        commands.load_model("inference", ToyConfig(), args)


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8", ">f8", "<i4"])
def test_numbers_of_other_types(tmp_path, dtype):
    write_little(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "a") as file:
        del file["conv1/conv1/bias:0"]
        file["conv1/conv1/bias:0"] = np.array([1, 2], dtype)
    model = little_model()
    model.load_weights(tmp_path / "x.h5")
    np.testing.assert_array_equal(np.asarray(model.get_layer("conv1").bias), [1, 2])


def test_a_file_of_which_nothing_fits_is_refused(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        write_entries(file, deeper())
    for options in ({"by_name": True}, {"skip_mismatch": True}):
        with pytest.raises(
            ValueError, match="other.h5 doesn't fit the network; nothing was loaded"
        ):
            little_model().load_weights(tmp_path / "other.h5", **options)


@pytest.mark.long
def test_exclude_takes_one_name_and_names_the_nearest(tmp_path):
    """Issue 19, row 7: a text is one name and not its letters."""
    write_little(tmp_path / "x.h5")
    for name in ("mrcnn_class_logits", "rpn_model"):
        for exclude in (name, [name], {name}, np.array([name])):
            model = little_model()
            coverage = model.load_weights(tmp_path / "x.h5", exclude=exclude)
            assert len(coverage.ignored) == 2 and not coverage.missing
            assert_loaded(model, but=["rpn_conv_shared" if name == "rpn_model" else name])
    with pytest.raises(ValueError, match=r"\['mrcnn_clas_logit'\].*nearest.*mrcnn_class_logits"):
        little_model().load_weights(tmp_path / "x.h5", exclude="mrcnn_clas_logit")
    for exclude in (3, [3], [None], True):
        with pytest.raises(ValueError, match="exclude takes names of layers"):
            little_model().load_weights(tmp_path / "x.h5", exclude=exclude)
    with pytest.raises(TypeError, match="skip_mismatches"):
        little_model().load_weights(tmp_path / "x.h5", skip_mismatches=True)
    for path in (None, 3, ["x.h5"]):
        with pytest.raises(ValueError, match="path of a file"):
            little_model().load_weights(path)


def test_skip_mismatch_leaves_whole_layers_as_they_are(tmp_path, caplog):
    """As in Keras: the layer is skipped with a warning, its bias that would fit too."""
    write_little(tmp_path / "x.h5", extra=[("fc", "fc/kernel:0", np.ones(2))])
    with pytest.raises(ValueError, match="mrcnn_class_logits/kernel"):
        little_model(5).load_weights(tmp_path / "x.h5")
    model = little_model(5)
    caplog.clear()
    coverage = model.load_weights(tmp_path / "x.h5", skip_mismatch=True)
    assert coverage.mismatched == {
        "mrcnn_class_logits/kernel": ((2, 3), (2, 5)),
        "mrcnn_class_logits/bias": ((3,), (5,)),
    }
    assert len(coverage.loaded) == 8 and coverage.unused == ["fc/kernel"]
    assert "doesn't fit 1 layers, which stay as they are: mrcnn_class_logits" in caplog.text
    assert "random weights" in caplog.text
    # One array of another shape: the other one of the layer stays too.
    arrays = little_arrays()
    with h5py.File(tmp_path / "x.h5", "a") as file:
        del file["conv1/conv1/kernel:0"]
        file["conv1/conv1/kernel:0"] = np.ones((3, 3, 2, 2))
    model = little_model()
    coverage = model.load_weights(tmp_path / "x.h5", skip_mismatch=True)
    assert set(coverage.mismatched) == {"conv1/kernel"}
    assert not np.array_equal(np.asarray(model.get_layer("conv1").bias), arrays["conv1"]["bias"])


def test_random_heads_of_an_inference_model_are_named(tmp_path, caplog):
    """Issue 19, row 7; a second file that brings them ends it, and training is no reason."""
    write_little(tmp_path / "x.h5")
    model = little_model()
    model.load_weights(tmp_path / "x.h5", exclude="mrcnn_class_logits")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "x.h5" in record.message and "random weights" in record.message
    assert record.message.endswith(": mrcnn_class_logits")
    caplog.clear()
    model.load_weights(tmp_path / "x.h5")
    model.load_weights(tmp_path / "x.h5", exclude="mrcnn_class_logits")
    model.is_for_inference = False
    little = little_model()
    little.is_for_inference = False
    little.load_weights(tmp_path / "x.h5", exclude="mrcnn_class_logits")
    assert not caplog.records


def test_weights_that_are_no_numbers_are_named(tmp_path, caplog):
    write_little(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "a") as file:
        file["conv1/conv1/kernel:0"][0, 0, 0, 0] = np.nan
        file["bn_conv1/bn_conv1/moving_variance:0"][0] = np.inf
    little_model().load_weights(tmp_path / "x.h5")
    assert "x.h5 holds NaN or infinite values in 2 weights: bn_conv1/moving_variance" in caplog.text


# ---- Keras's files -------------------------------------------------------------------------------


@pytest.mark.heavy
def test_whole_models_of_keras(saved, tmp_path, caplog):
    """Issue 19, row 10: what ModelCheckpoint writes of either model is read into both, and by
    Keras."""
    training = modellib.MaskRCNN("training", ToyConfig(), tmp_path)
    training.load_weights(saved[1])
    training.compile(0.01, 0.9)
    inference = toy(tmp_path)
    expected = {name: np.asarray(w) for name, w in named_weights(training.keras_model)}
    for mode, model in (("training", training), ("inference", saved[0])):
        for name in ("best.keras", "best.weights.h5", "best.h5"):
            path = str(tmp_path / f"{mode}_{name}")
            callback = keras.callbacks.ModelCheckpoint(
                path,
                monitor="val_loss",
                mode="min",
                save_best_only=True,
                save_weights_only=".weights." in name,
            )
            callback.set_model(model.keras_model)
            callback.on_epoch_end(0, {"val_loss": 1.0})
            for other in (training, inference):
                for variable in other.keras_model.weights:
                    variable.assign(variable * 0)
                coverage = other.load_weights(path)
                assert not coverage.missing and not coverage.unused
                for key, weight in named_weights(other.keras_model):
                    np.testing.assert_array_equal(np.asarray(weight), expected[key])
        whole = keras.saving.load_model(tmp_path / f"{mode}_best.keras")
        assert type(whole) is type(model.keras_model)
        for key, weight in named_weights(whole):
            np.testing.assert_array_equal(np.asarray(weight), expected[key])
        assert whole.output_shape == model.keras_model.output_shape
        with pytest.raises(ValueError, match=r"best\.h5"):
            keras.saving.load_model(tmp_path / f"{mode}_best.h5")
    assert whole.sub_models == {}
    whole = keras.saving.load_model(tmp_path / "training_best.keras")
    assert type(whole.optimizer) is training_room.SGD
    for name in ("loss_names", "loss_factors", "weight_decay", "decay_kind", "names_without_decay"):
        assert getattr(whole, name) == getattr(training.keras_model, name)
    assert not [name for name in os.listdir(tmp_path) if "part" in name]
    # Another number of classes.
    other = toy(tmp_path, NUM_CLASSES=5)
    for name in ("training_best.keras", "inference_best.weights.h5"):
        with pytest.raises(ValueError, match=r"mrcnn_class_logits/kernel: \(64, 3\) in the file"):
            other.load_weights(tmp_path / name)
        coverage = other.load_weights(tmp_path / name, skip_mismatch=True)
        assert len(coverage.mismatched) == 6
        heads = ["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask"]
        assert len(other.load_weights(tmp_path / name, exclude=heads).ignored) == 6
    # An archive that was packed again, and a folder.
    with zipfile.ZipFile(tmp_path / "training_best.keras") as archive:
        archive.extractall(tmp_path / "folder")
        with zipfile.ZipFile(tmp_path / "again.keras", "w", zipfile.ZIP_DEFLATED) as again:
            for name in archive.namelist():
                again.writestr(name, archive.read(name))
    for name in ("again.keras", "folder"):
        assert not inference.load_weights(tmp_path / name).missing


def named_weights(model):
    """[("layer/weight", variable)] of a model."""
    return [
        (f"{layer}/{name}", variable)
        for layer, of_layer in weights.layers_of(model).items()
        for name, variable in weights.ordered_weights(of_layer)
    ]


# ---- Files that are no weight files --------------------------------------------------------------


def soft_link(file):
    del file["conv1"]["conv1"]
    file["conv1"]["conv1"] = h5py.SoftLink("/nowhere")


def soft_link_to_an_array(file):
    del file["conv1/conv1/kernel:0"]
    file["conv1/conv1/kernel:0"] = h5py.SoftLink("/rpn_model/rpn_conv_shared/kernel:0")


def external_link(file):
    del file["conv1"]
    file["conv1"] = h5py.ExternalLink("other.h5", "/conv1")


def external_root(file):
    file["model_weights"] = h5py.ExternalLink("other.h5", "/")


def replaced(**arguments):
    def change(file):
        del file["conv1/conv1/kernel:0"]
        file["conv1/conv1"].create_dataset("kernel:0", **arguments)

    return change


def virtual(file):
    layout = h5py.VirtualLayout((1, 1, 2, 2), "float32")
    layout[...] = h5py.VirtualSource("other.h5", "conv1/conv1/kernel:0", (1, 1, 2, 2))
    del file["conv1/conv1/kernel:0"]
    file["conv1/conv1"].create_virtual_dataset("kernel:0", layout)


def without_a_group(file):
    del file["conv1"]


def without_an_array(file):
    del file["conv1/conv1/bias:0"]


def array_as_group(file):
    del file["conv1/conv1/bias:0"]
    file["conv1/conv1"].create_group("bias:0")


def without_layers(file):
    for name in [*file, *file.attrs]:
        (file if name in file else file.attrs).pop(name)


HUGE = 10**12
BAD_LEGACY = [
    (soft_link, "conv1/kernel:0 in /conv1 is a link"),
    (soft_link_to_an_array, "is a link, and links are not followed"),
    (external_link, "conv1 in / is a link"),
    (external_root, "model_weights in / is a link"),
    (virtual, "lies in other files"),
    (replaced(shape=4, dtype="f4", external="other.h5"), "lies in other files"),
    (replaced(shape=HUGE, dtype="f4"), "declares 4000000000000 bytes and holds 0"),
    (replaced(shape=(1, 1, 2, 2), dtype="f4"), "declares 16 bytes and holds 0"),
    (replaced(shape=HUGE, dtype="f4", chunks=(4,), compression="gzip"), "and holds 0"),
    (replaced(data=["a"]), "holds no numbers"),
    (replaced(data=np.void(b"abc")), "holds no numbers"),
    (without_a_group, "/ lists conv1, which is not there"),
    (without_an_array, "/conv1 lists conv1/bias:0, which is not there"),
    (array_as_group, "is no array"),
    (without_layers, "holds no weights"),
]


@pytest.mark.parametrize("change, message", BAD_LEGACY)
def test_legacy_files_that_lead_out_of_themselves(tmp_path, change, message):
    """Issue 19, row 18: links and arrays of other files are never read, nothing is allocated that
    isn't there; the error names the file."""
    write_little(tmp_path / "other.h5")
    write_little(tmp_path / "bad.h5")
    with h5py.File(tmp_path / "bad.h5", "a") as file:
        change(file)
    with pytest.raises(files.UnreadableFileError, match=message) as caught:
        little_model().load_weights(tmp_path / "bad.h5", by_name=True)
    assert str(tmp_path / "bad.h5") in str(caught.value)


def test_an_array_that_unpacks_to_all_memory(tmp_path):
    write_little(tmp_path / "bad.h5")
    with h5py.File(tmp_path / "bad.h5", "a") as file:
        replaced(shape=HUGE, dtype="f4", chunks=(1000,), compression="gzip")(file)
        file["conv1/conv1/kernel:0"][0] = 1
    with pytest.raises(ValueError, match=r"bad.h5 has 0.0 MB and would unpack to 4000.0 GB"):
        weights.read_legacy(tmp_path / "bad.h5")


def npz_bytes(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy_of_a_huge_array():
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)}
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("roi_heads.box_predictor.cls_score.bias.npy", header.getvalue() + b"1234")
    return buffer.getvalue()


HTML = b"\n<!DOCTYPE html>\n<html><body>Quota exceeded</body></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 257557808\n"
HEADS = {"roi_heads.box_predictor.cls_score.bias": np.array([None])}


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("x.h5", b"", "is empty"),
        ("x.h5", HTML, "it is a web page"),
        ("x.h5", LFS, "git lfs pull"),
        ("x.h5", b"epoch,loss\n1,2\n", "begins with b'epoch,loss"),
        ("x.h5", b"\x1f\x8b\x08\0", "it is a gzip file"),
        ("x.h5", b"\x80\x04\x95cos\nsystem\n", "a pickle"),
        ("x.h5", npz_bytes(a=np.ones(2)), "zip archive without model.weights.h5"),
        ("x.weights.h5", b"\0" * 100, "is not a readable HDF5 file"),
        ("x.keras", LFS, "git lfs pull"),
        ("x.keras", b"PK\x03\x04" + bytes(30), "is not a readable HDF5 file"),
        ("x.ckpt", b"\1\2\3\0", "is not a readable HDF5 file"),
        ("x.ckpt.index", b"\1\2\3\0", "checkpoint of TensorFlow"),
        ("x.ckpt.data-00000-of-00001", b"\1\2\3\0", "checkpoint of TensorFlow"),
        ("x.onnx", b"\x08\x08\x12\0", "it is an exported model, which mrcnn.runtime.load runs"),
        ("x.tflite", b"\x1c\0\0\0TFL3", "it is an exported model, which mrcnn.runtime.load"),
        ("1/saved_model.pb", b"\x08\1\0", "it is an exported model, which mrcnn.runtime.load"),
        ("x.npz", b"", "is empty"),
        ("x.npz", npz_bytes(), "holds no arrays"),
        ("x.npz", HTML, "it is a web page"),
        ("x.pth", HTML, "it is a web page"),
        ("x.pth", LFS, "git lfs pull"),
        ("x.npz", b"epoch,loss", "is not a readable npz file"),
        ("x.npz", npz_bytes(a=np.ones(2)), "has the key"),
        ("x.npz", npz_bytes(**HEADS), "pickled objects"),
        ("x.npz", npy_of_a_huge_array(), "declares 4000000000000 bytes and holds 4"),
        ("x.npz", npz_bytes(a=np.ones(2))[:-40], "is not a readable npz file"),
        ("x.pth", b"", "is empty"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_files_of_another_kind(tmp_path, name, content, message):
    """Issue 19, row 18: one error, which names the file."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        little_model().load_weights(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["X.H5", "x.weights.h5", "x.keras", "x.npz", "x.pth", "x", "x.hdf5", "x.onnx"]
)
def test_what_a_file_holds_decides_and_not_its_name(tmp_path, name):
    write_little(tmp_path / name)
    model = little_model()
    assert not model.load_weights(tmp_path / name).missing
    assert_loaded(model)


def test_folders_and_prefixes_of_checkpoints(tmp_path):
    for name in ("logs", "logs.h5", "logs.npz", "logs.pth"):
        (tmp_path / name).mkdir()
        with pytest.raises(ValueError, match=f"{name} is (a folder|no file)"):
            little_model().load_weights(tmp_path / name)
    (tmp_path / "model.ckpt.index").write_bytes(b"\0")
    with pytest.raises(ValueError, match=r"model.ckpt is a checkpoint of TensorFlow"):
        little_model().load_weights(tmp_path / "model.ckpt")
    for name in ("missing.h5", "missing.npz", "missing.keras"):
        with pytest.raises(FileNotFoundError, match=name):
            little_model().load_weights(tmp_path / name)


def test_files_that_broke_off(tmp_path):
    for name, write in (("x.h5", write_little), ("x.weights.h5", little_model().save_weights)):
        path = tmp_path / name
        write(path)
        content = path.read_bytes()
        for size in range(1, len(content), len(content) // 20):
            path.write_bytes(content[:size])
            with pytest.raises(ValueError, match=name):
                weights.read_legacy(path)


@pytest.mark.parametrize("damage", ["endless heap", "endless text"])
@pytest.mark.parametrize("layout", ["h5", "weights.h5"])
def test_damage_on_which_hdf5_would_hang(tmp_path, layout, damage):
    """A heap whose objects have no size; a text of 4 GB: names of any length, as h5py 3 stores
    them."""
    path = tmp_path / f"x.{layout}"
    if layout == "h5":
        write_little(path)
        with h5py.File(path, "a") as file:
            file.attrs["layer_names"] = [name.decode() for name in file.attrs["layer_names"]]
    else:
        little_model().save_weights(path)
    weights.read_legacy(path)
    content = bytearray(path.read_bytes())
    heap = content.find(b"GCOL")
    if damage == "endless heap":
        content[heap + 16 : heap + 200] = bytes(184)
    else:
        place = heap.to_bytes(8, "little")
        for name in ("layer_names", "image", "ROI", "rpn_model", *LITTLE):
            told = len(name).to_bytes(4, "little") + place
            content = content.replace(told, b"\xff" * 4 + place)
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match="x.*(heap of strings is damaged|declares 4294967295 bytes)"
    ):
        weights.read_legacy(path)


def seed_file(kind, folder):
    """Bytes of a small file that mutations start from."""
    path = folder / f"seed.{kind}"
    if kind == "npz":
        return npz_bytes(a=np.ones((3, 4)), b=np.ones(5, "float32"))
    if kind == "h5":
        write_little(path)
    elif kind == "hdf5":  # names of any length, as h5py 3 stores them
        write_little(path)
        with h5py.File(path, "a") as file:
            file.attrs["layer_names"] = [name.decode() for name in file.attrs["layer_names"]]
    else:
        little_model().save(path)
    return path.read_bytes()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["h5", "hdf5", "keras", "npz"])
def test_mutated_files(tmp_path, kind):
    """200 of each: they are read, or the error names them."""
    content = seed_file(kind, tmp_path)
    read = torchvision.read_npz if kind == "npz" else weights.read_legacy
    path = str(tmp_path / f"mutated.{kind}")
    refused = 0
    for seed in range(200):
        with open(path, "wb") as file:
            file.write(mutate(content, np.random.default_rng(seed)))
        try:
            read(path)
        except files.UnreadableFileError as error:
            assert path in str(error)
            refused += 1
    assert refused > 50


def test_mutations_are_the_same_for_a_seed():
    data = bytes(range(256)) * 20
    one, two, other = (mutate(data, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one == two and one != data and one != other
    for seed in range(50):
        mutate(b"", np.random.default_rng(seed))
        mutate(b"x", np.random.default_rng(seed))


# ---- Downloads -----------------------------------------------------------------------------------

CONTENT = np.random.default_rng(0).bytes(300_000)


class Server(http.server.BaseHTTPRequestHandler):
    """/cut sends half of what it announces, the rest on the next request with a range; /less
    announces too little."""

    def do_GET(self):
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        if start >= len(CONTENT):
            self.send_response(416)
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header(
            "Content-Length", "1000" if self.path == "/less" else str(len(CONTENT) - start)
        )
        self.end_headers()
        cut = self.path == "/cut" and not start
        self.wfile.write(CONTENT[start:150_000] if cut else CONTENT[start:])

    def log_message(self, *args):
        pass


@pytest.fixture
def url():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_download(url, tmp_path):
    seen = []
    weights.download(
        url + "/whole",
        tmp_path / "x",
        hashlib.sha256(CONTENT).hexdigest(),
        lambda *a: seen.append(a),
    )
    assert (tmp_path / "x").read_bytes() == CONTENT and seen[-1] == (300_000, 300_000)


def test_a_broken_download_goes_on(url, tmp_path):
    """(29) No half file in place; the second call fetches only the rest."""
    with pytest.raises(ValueError, match="broke off after 150000"):
        weights.download(url + "/cut", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    weights.download(url + "/cut", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_wrong_bytes_are_refused(url, tmp_path):
    with pytest.raises(ValueError, match="SHA-256"):
        weights.download(url + "/whole", tmp_path / "x", "0" * 64)
    assert not list(tmp_path.iterdir())


def test_a_server_that_announces_too_little(url, tmp_path):
    """What was announced arrives, and the digest tells that it isn't the file."""
    with pytest.raises(ValueError, match="SHA-256"):
        weights.download(url + "/less", tmp_path / "x", hashlib.sha256(CONTENT).hexdigest())
    assert not list(tmp_path.iterdir())


def test_released_weights_are_downloaded_with_a_progress_bar(url, tmp_path, monkeypatch, capsys):
    from mrcnn import utils

    monkeypatch.setattr(utils, "COCO_MODEL_URL", url + "/whole")
    utils.download_trained_weights(str(tmp_path / "coco.h5"))
    assert (tmp_path / "coco.h5").read_bytes() == CONTENT
    shown = capsys.readouterr().err
    assert "coco.h5" in shown and shown.endswith("[" + "=" * 30 + "] 0 of 0 MB\n")
    utils.download_trained_weights(str(tmp_path / "again.h5"), verbose=0)
    assert not capsys.readouterr().err


def test_without_a_network_weights_are_named(tmp_path, monkeypatch):
    """It was "<urlopen error ...>" without a file, and an `Exception` of Keras, with a traceback."""
    import keras

    from mrcnn import utils

    monkeypatch.setattr(utils, "COCO_MODEL_URL", "http://127.0.0.1:9/mask_rcnn_coco.h5")
    with pytest.raises(OSError, match="mask_rcnn_coco.h5 can't be downloaded .*put the file at.*x"):
        utils.download_trained_weights(tmp_path / "x.h5", verbose=0)

    def broken(include_top, weights):
        raise Exception("URL fetch failure on https://...: None")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(keras.applications, "ResNet50", broken)
    with pytest.raises(OSError, match="ImageNet weights of resnet50 can't be.*URL fetch failure"):
        weights.get_imagenet_weights("resnet50")


@pytest.mark.heavy
def test_keras_model_writes_and_reads_legacy_files(tmp_path):
    """`model.keras_model.save_weights("x.h5")`, as scripts do by hand, in both modes."""
    training = modellib.MaskRCNN("training", ToyConfig(), tmp_path)
    training.keras_model.save_weights(str(tmp_path / "x.h5"))
    inference = toy(tmp_path)
    coverage = inference.keras_model.load_weights(str(tmp_path / "x.h5"), by_name=True)
    assert not coverage.missing and not coverage.unused
    inference.keras_model.save_weights(str(tmp_path / "y.weights.h5"))
    training.load_weights(str(tmp_path / "y.weights.h5"))
    with pytest.raises(FileExistsError, match="x.h5"):
        inference.keras_model.save_weights(str(tmp_path / "x.h5"), overwrite=False)
    coverage = training.load_weights(str(tmp_path / "y.weights.h5"), exclude=["mrcnn_mask"])
    assert len(coverage.ignored) == 2 and not coverage.missing
    # The two graphs have the same layers in another order.
    ours, theirs = (weights.layers_of(model.keras_model) for model in (training, inference))
    assert set(ours) == set(theirs)
    for name in ours:
        for a, b in zip(ours[name].weights, theirs[name].weights, strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.heavy
def test_imagenet_weights_come_through_keras_applications(tmp_path, monkeypatch):
    """The file has the whole backbone and nothing else; the download itself is replaced by random
    weights."""
    import keras

    monkeypatch.setenv("HOME", str(tmp_path))
    made = keras.applications.ResNet50
    monkeypatch.setattr(
        keras.applications,
        "ResNet50",
        lambda include_top, weights: made(include_top=include_top, weights=None),
    )
    model = modellib.MaskRCNN("training", small_config(), tmp_path)
    path = model.get_imagenet_weights()
    assert path.startswith(str(tmp_path))
    coverage = model.load_weights(path, by_name=True)
    assert {weights.part_of(name.split("/")[0]) for name in coverage.missing} == {
        "FPN",
        "RPN",
        "heads",
    }
    assert len(coverage.loaded) == 53 * 6
    with pytest.raises(ValueError, match="'resnet18'"):
        weights.get_imagenet_weights("resnet18")
