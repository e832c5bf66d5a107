"""mrcnn.batch with a real network, and the samples' command. `make test-ray` runs it.

It needs TensorFlow and pyarrow: of the latter's environment, MRCNN_RAY, the packages are taken
behind this one's own.
"""

import json
import os
import pathlib
import sys

import numpy as np
import pytest
from toy import ToyConfig

from mrcnn import batch, commands, media, model as modellib

WANTED = os.environ.get("MRCNN_RAY")

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(not WANTED, reason="make test-ray runs it"),
]
NAMES = ["BG", "square", "circle"]


@pytest.fixture(scope="module", autouse=True)
def _packages():
    """pyarrow, behind this environment's own packages."""
    (folder,) = (pathlib.Path(WANTED).absolute() / "lib").glob("python*/site-packages")
    sys.path.append(str(folder))
    yield
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Path of a file of random weights, as the newest checkpoint of a run."""
    folder = tmp_path_factory.mktemp("logs")
    model = modellib.MaskRCNN("inference", ToyConfig(), folder)
    run = folder / "toy20260101T0000"
    run.mkdir()
    path = run / "mask_rcnn_toy_0001.h5"
    model.keras_model.save_weights(str(path).replace(".h5", ".weights.h5"))
    path.with_suffix(".weights.h5").rename(path)
    return str(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Files of noise of three sizes, one of which is none."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(7):
        size = [(64, 64), (50, 80), (64, 64), (90, 30)][number % 4]
        pixels = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        media.write_image(folder / f"{number}.png", pixels)
    (folder / "5.png").write_bytes(b"none")
    return folder


def check_rows(output, photos, model):
    """The rows of an output against what the model detects on each image."""
    rows = list(batch.results(output))
    assert [pathlib.Path(row[0]).name for row in rows] == [f"{n}.png" for n in range(7)]
    for number, (path, result, error) in enumerate(rows):
        if number == 5:
            assert result is None and "5.png" in error
            continue
        expected = model.detect([media.read_image(path)], masks="rle")[0]
        assert error is None and len(expected["rois"])
        np.testing.assert_array_equal(result["rois"], expected["rois"])
        np.testing.assert_array_equal(result["class_ids"], expected["class_ids"])
        assert result["class_names"] == [NAMES[i] for i in expected["class_ids"]]
        np.testing.assert_allclose(result["scores"], expected["scores"], atol=1e-5)
        assert result["masks"] == expected["masks"]


def test_rows_are_what_detect_gives(weights, photos, tmp_path):
    trained = batch.Trained(batch.settings_of(ToyConfig()), weights)
    assert batch.run(trained, [photos], tmp_path / "a", NAMES).errors == 1
    model = trained()
    check_rows(tmp_path / "a", photos, model)
    # A model that is there, and what tells it from another.
    assert batch.run(model, [photos], tmp_path / "b", NAMES, part_size=2).errors == 1
    check_rows(tmp_path / "b", photos, model)
    assert batch.run(model, [photos], tmp_path / "b", NAMES).before == 7
    layer = model.keras_model.get_layer("fpn_c5p5")
    layer.set_weights([value + 1 for value in layer.get_weights()])
    with pytest.raises(ValueError, match=r"model\.weights was"):
        batch.run(model, [photos], tmp_path / "b", NAMES)


def test_command_of_the_samples(weights, photos, tmp_path, capsys):
    parser = commands.parser("", ("detect", "batch"), logs=pathlib.Path(weights).parents[1])
    output = tmp_path / "found"
    arguments = ["batch", str(photos), f"--output={output}", "--batch-size=2", "--part-size=3"]
    commands.batch(ToyConfig(), NAMES, commands.parse(parser, arguments))  # the newest weights
    assert "7 images in" in capsys.readouterr().out
    check_rows(output, photos, batch.Trained(batch.settings_of(ToyConfig()), weights)())
    commands.batch(ToyConfig(), NAMES, commands.parse(parser, arguments))
    assert "7 images were done before" in capsys.readouterr().out
    for wrong in ("none", "imagenet"):
        args = commands.parse(parser, [*arguments, f"--weights={wrong}"])
        with pytest.raises(ValueError, match=f"--weights={wrong}"):
            commands.batch(ToyConfig(), NAMES, args)
    args = commands.parse(parser, ["batch", str(photos / "5.png"), f"--output={tmp_path / 'x'}"])
    with pytest.raises(ValueError, match=r"none of the 1 images has a result.*5\.png"):
        commands.batch(ToyConfig(), NAMES, args)


def test_a_saved_model_by_the_command(weights, photos, tmp_path, capsys):
    """The rows of the network that it was exported from; without --batch-size, which it has."""
    from mrcnn import cli

    network = batch.Trained(batch.settings_of(ToyConfig()), weights)()
    network.export(tmp_path / "toy", class_names=NAMES)
    words = ["batch", str(photos), f"--weights={tmp_path / 'toy'}", f"--output={tmp_path / 'out'}"]
    assert cli.main([*words, "--part-size=3", "--json"]) == 0, capsys.readouterr().err
    assert json.loads(capsys.readouterr().out)["errors"] == 1
    check_rows(tmp_path / "out", photos, network)
