"""Weight files: the legacy layout both ways, what is refused, downloads from a server that
misbehaves."""

import hashlib
import http.server
import threading

import h5py
import numpy as np
import pytest
from conftest import small_config
from toy import ToyConfig

from mrcnn import model as modellib, weights


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
