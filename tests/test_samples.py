"""The balloon, nucleus and custom samples: data, hand-worked results, and their commands on
generated folders."""

import argparse
import copy
import functools
import http.server
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading

import miniature
import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
SAMPLES = {
    "balloon": ROOT / "samples/balloon/balloon.py",
    "nucleus": ROOT / "samples/nucleus/nucleus.py",
    "custom": ROOT / "samples/custom.py",
    "shapes": ROOT / "samples/shapes/shapes.py",
    "keypoints": ROOT / "samples/keypoints/keypoints.py",
}


def sample(name):
    spec = importlib.util.spec_from_file_location(name, SAMPLES[name])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def balloon():
    return sample("balloon")


@pytest.fixture
def nucleus():
    return sample("nucleus")


@pytest.fixture
def custom():
    return sample("custom")


def tiny(**settings):
    """A config class with which a sample's commands run in seconds; it need not learn."""
    from toy import ToyConfig

    return type(
        "Tiny",
        (ToyConfig,),
        {
            "STEPS_PER_EPOCH": 2,
            "VALIDATION_STEPS": 1,
            "IMAGES_PER_GPU": 1,
            "DETECTION_MIN_CONFIDENCE": 0.0,
            **settings,
        },
    )


class Finds:
    """Stands for a model: what it finds is given."""

    def __init__(self, *masks, scores=None):
        self.masks, self.scores, self.seen = np.stack(masks, axis=-1), scores, []

    def detect(self, images):
        self.seen += images
        count = self.masks.shape[-1]
        return [
            {
                "rois": np.zeros((count, 4), int),
                "class_ids": np.ones(count, int),
                "masks": self.masks,
                "scores": np.ones(count) if self.scores is None else self.scores,
            }
            for _ in images
        ]


def trained(monkeypatch, tmp_path, side=128):
    """Puts a model in the place of the real one that notes how it is made and what its `train` is
    asked for, and finds two squares that share a half. Returns the list of notes."""
    from mrcnn import commands

    calls, masks = [], np.zeros((2, side, side), bool)
    masks[0, 5:15, 5:15] = masks[1, 5:15, 10:20] = True

    class Model(Finds):
        def __init__(self, config):
            super().__init__(*masks, scores=np.array([0.9, 0.8]))
            self.config, self.epoch, self.log_dir = config, 0, str(tmp_path / "run")

        def train(self, train_set, val_set, learning_rate, epochs, layers, **_):
            calls.append((train_set, val_set, learning_rate, epochs, layers))
            self.epoch = epochs

    def load_model(mode, config, args):
        calls.append((mode, config, args.weights))
        return Model(config)

    monkeypatch.setattr(commands, "load_model", load_model)
    return calls


# ---- As scripts of 2018 use them -----------------------------------------------------------------


def test_import_does_nothing(tmp_path):
    """sys.path tricks of old scripts work; nothing is written, printed or parsed, and Keras is not
    imported."""
    code = f"""
import os, sys
ROOT_DIR = {str(ROOT)!r}
sys.path.append(ROOT_DIR)
from mrcnn.config import Config
for name in ("balloon", "nucleus"):
    sys.path.append(os.path.join(ROOT_DIR, "samples/" + name))
import balloon, nucleus
sys.path.append(os.path.join(ROOT_DIR, "samples"))
import custom
assert issubclass(balloon.BalloonConfig, Config) and issubclass(nucleus.NucleusInferenceConfig, nucleus.NucleusConfig)
for module in (balloon, nucleus):
    assert module.ROOT_DIR == ROOT_DIR and module.DEFAULT_LOGS_DIR == os.path.join(ROOT_DIR, "logs")
    assert module.COCO_WEIGHTS_PATH == os.path.join(ROOT_DIR, "mask_rcnn_coco.h5")
assert nucleus.RESULTS_DIR.rstrip("/") == os.path.join(ROOT_DIR, "results/nucleus")
assert not {{"keras", "tensorflow", "matplotlib", "imgaug"}} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "--nonsense"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


def scripts_with_weights():
    """Not serve.py: it takes an exported model, and needs a server's packages."""
    scripts = [path for path in (ROOT / "samples").rglob("*.py") if path.stem != "serve"]
    return sorted(path for path in scripts if "def main(" in path.read_text())


@pytest.mark.long
@pytest.mark.parametrize("script", scripts_with_weights(), ids=lambda path: path.stem)
def test_scripts_find_the_package_of_their_checkout(script, tmp_path):
    """In a checkout that nobody installed: run from another folder, and imported by its name as in
    2018."""
    for name in ("mrcnn", "samples"):
        shutil.copytree(
            ROOT / name, tmp_path / "checkout" / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    script = tmp_path / "checkout" / script.relative_to(ROOT)
    done = subprocess.run(
        [sys.executable, "-I", str(script), "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0 and "--weights" in done.stdout and not done.stderr, done.stderr
    code = (
        f"import sys; sys.path.append({str(script.parent)!r}); import {script.stem} as sample;"
        " sample.main; print(sys.modules['mrcnn'].__path__[0])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(tmp_path / "checkout" / "mrcnn"), done.stderr


def test_a_copy_elsewhere_uses_the_installed_package(tmp_path):
    """Checkpoints then go to the folder that one works in, not beside the package."""
    shutil.copytree(
        ROOT / "mrcnn", tmp_path / "site" / "mrcnn", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / "project" / "mine").mkdir(parents=True)
    script = shutil.copy(ROOT / "samples" / "custom.py", tmp_path / "project" / "mine" / "coins.py")
    done = subprocess.run(
        [sys.executable, script, "--help"],
        cwd=tmp_path / "project",
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site"), "COLUMNS": "200"},
    )
    assert f"checkpoints (default: {tmp_path / 'project' / 'logs'})" in done.stdout, (
        done.stdout + done.stderr
    )


def test_run_ends_a_program():
    """Well, whatever main() returns, and with one message for what the user did wrong; faults of
    the program are raised."""
    from mrcnn import commands

    def wrong():
        raise FileNotFoundError("No folder x")

    def fault():
        raise KeyError("x")

    assert commands.run(lambda: ["a result"]) is None
    with pytest.raises(SystemExit) as end:
        commands.run(wrong)
    assert end.value.code == "error: No folder x"
    with pytest.raises(KeyError):
        commands.run(fault)


@pytest.mark.parametrize(
    "name, words",
    [
        (
            "balloon",
            (
                "{train,splash} --dataset --weights --logs --image --video --attribute coco"
                " imagenet last INPUT"
            ),
        ),
        (
            "nucleus",
            (
                "{demo,train,evaluate,detect,batch} --dataset --subset --small --weights --logs --seed"
                " --restart stage1_train stage1_test coco imagenet last"
            ),
        ),
        (
            "custom",
            (
                "{train,evaluate,detect,export,batch} --dataset --annotations --attribute --weights --logs"
                " --small --set"
            ),
        ),
        (
            "shapes",
            (
                "{demo,train,evaluate,detect,export,batch} --weights --logs --output --epochs --images --seed"
                " --restart --set"
            ),
        ),
        (
            "keypoints",
            (
                "{demo,train,evaluate,detect,export,batch} --weights --logs --output --epochs --images --seed"
                " --restart --set"
            ),
        ),
    ],
)
def test_help(name, words, capsys):
    """--help names every command and option, and each option says what it is."""
    with pytest.raises(SystemExit) as end:
        sample(name).main(["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and all(word in text for word in words.split()), text
    parser_lines = [line for line in text.splitlines() if line.startswith("  --")]
    assert len(parser_lines) > 8


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("balloon", "train --weights=none", "train needs --dataset"),
        ("balloon", "train --dataset=x", "train needs --weights"),
        ("balloon", "splash --weights=last", "splash needs images"),
        ("nucleus", "train --weights=none --dataset=x", "train needs --subset"),
        ("nucleus", "detect --subset=val", "detect needs --dataset"),
        ("nucleus", "detect --subset=odd", "invalid choice: 'odd'"),
        ("custom", "train --weights=none", "train needs --dataset"),
        ("custom", "detect", "detect needs images"),
    ],
)
def test_usage_errors(name, arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        sample(name).main(arguments.split())
    assert end.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        (
            "balloon",
            "splash . --weights=none --output=a.txt",
            "--output is a folder. Received: a.t",
        ),
        ("balloon", "splash none.jpg --weights=none", "Received: none.jpg"),
        ("nucleus", "evaluate --subset=val --dataset=none --weights=none", "No folder none"),
        ("nucleus", "evaluate --subset=val --dataset=. --weights=none", "No folder .*stage1_train"),
        ("custom", "detect none.jpg --weights=w.h5", "Received: none.jpg"),
        ("custom", "detect . --weights=w.h5 --overlap=3", "goes with --tile"),
        ("custom", "train --weights=none --dataset=none", "No folder none"),
        ("custom", "detect . --logs=none", "No checkpoint .* of none"),
    ],
)
def test_what_is_not_there_is_said_before_a_network_is_built(
    name, arguments, message, tmp_path, monkeypatch
):
    from mrcnn import commands

    monkeypatch.chdir(tmp_path)
    for file, text in (("a.txt", ""), ("w.h5", ""), ("classes.json", '["BG", "cat"]')):
        (tmp_path / file).write_text(text)
    monkeypatch.setattr(commands, "load_model", lambda *_: pytest.fail("a network is built"))
    with pytest.raises((OSError, ValueError), match=message):
        sample(name).main(arguments.split())


def test_options_and_inputs_in_any_order(tmp_path):
    """`detect --weights=last photo.jpg` is what everybody types; argparse alone refuses it."""
    from mrcnn import commands

    parser = commands.parser("x", ("train", "splash"), inputs="splash")
    for arguments in (
        "splash --weights=w a b",
        "splash a --weights=w b",
        "splash a b --weights=w",
        "--weights=w splash a b",
        "splash --weights=w --image=a --video=b",
    ):
        assert commands.parse(parser, arguments.split()).inputs == ["a", "b"], arguments
    with pytest.raises(SystemExit):
        commands.parse(parser, ["train", "--weights=none", "a"])
    assert (
        commands.parse(commands.parser("x", ("train", "detect"), inputs=None), ["detect"]).inputs
        == []
    )


# ---- Balloon -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", (1, 2))
def test_balloon_dataset(balloon, tmp_path, version):
    """Both versions of VIA's json; masks are the drawn pixels; images without regions are left
    out."""
    folder = miniature.balloons(tmp_path, version=version)
    path = folder / "train" / "via_region_data.json"
    data = json.loads(path.read_text())
    data["empty"] = {"filename": "empty.jpg", "regions": {} if version == 1 else []}
    path.write_text(json.dumps(data))
    dataset = balloon.BalloonDataset()
    dataset.load_balloons(str(folder), "train")
    dataset.prepare()
    assert dataset.class_names == ["BG", "balloon"] and dataset.num_images == 6
    info = dataset.image_info[2]
    assert (info["source"], info["id"], info["width"], info["height"]) == (
        "balloon",
        "002.jpg",
        128,
        128,
    )
    assert dataset.image_reference(2) == str(folder / "train" / "002.jpg")
    shapes = [region["shape_attributes"] for region in miniature.regions(data, "002.jpg")]
    masks, class_ids = dataset.load_mask(2)
    assert masks.dtype == bool and class_ids.tolist() == [1] * len(shapes) and len(shapes) > 0
    for shape, mask in zip(shapes, np.moveaxis(masks, -1, 0)):
        np.testing.assert_array_equal(mask, miniature.pixels(shape, 128))
    with pytest.raises(ValueError, match="'train' or 'val'. Received: 'test'"):
        balloon.BalloonDataset().load_balloon(folder, "test")
    with pytest.raises(ValueError, match="No annotation file or folder .*via_region_data.json"):
        balloon.BalloonDataset().load_balloon(folder / "nowhere", "val")


def test_balloon_json_of_another_name(balloon, tmp_path):
    """VIA 2 names its export by itself; of two json files none is guessed."""
    folder = miniature.balloons(tmp_path)
    expected = balloon.BalloonDataset()
    expected.load_balloon(folder, "train")
    path = folder / "train" / "via_region_data.json"
    path.rename(path.with_name("via_export_json.json"))
    dataset = balloon.BalloonDataset()
    dataset.load_balloon(folder, "train")
    assert [i["path"] for i in dataset.image_info] == [i["path"] for i in expected.image_info]
    shutil.copy(path.with_name("via_export_json.json"), path.with_name("b.json"))
    with pytest.raises(ValueError, match="Received: b.json, via_export_json.json"):
        dataset.load_balloon(folder, "train")


def test_balloon_classes(balloon, tmp_path):
    """Several classes by a region attribute; the validation set has the training set's, in its
    order."""
    folder = miniature.balloons(
        tmp_path, count=(8, 4), names=("kite", "balloon"), attribute="type", version=2
    )
    train_set, val_set = balloon.load(folder, "type")
    assert train_set.class_names == val_set.class_names == ["BG", "balloon", "kite"]
    assert {i for k in train_set.image_ids for i in train_set.load_mask(k)[1]} == {1, 2}
    one, _ = balloon.load(folder)
    assert one.class_names == ["BG", "balloon"]
    path = folder / "val" / "via_region_data.json"
    path.write_text(path.read_text().replace('"kite"', '"blimp"'))
    with pytest.raises(
        ValueError, match="the classes are balloon, kite. Received: .* class 'blimp'"
    ):
        balloon.load(folder, "type")


def test_balloon_subclass(balloon, tmp_path):
    """README 28, 30: a subclass's image_reference and load_mask of another source don't recurse
    forever."""

    class Mine(balloon.BalloonDataset):
        pass

    dataset = Mine()
    dataset.load_balloon(miniature.balloons(tmp_path), "val")
    Image.new("RGB", (8, 6)).save(tmp_path / "x.png")
    dataset.add_image("other", "x", str(tmp_path / "x.png"))
    dataset.prepare()
    last = dataset.num_images - 1
    assert dataset.image_reference(last) == str(tmp_path / "x.png") and dataset.load_mask(last)[
        0
    ].shape == (6, 8, 0)


def test_color_splash(balloon):
    """Hand-worked: (100, 0, 200) is 21.25 + 14.42 = 35.67; gray stays; objects keep their
    colour."""
    image = np.zeros((2, 3, 3), np.uint8)
    image[:] = (100, 0, 200)
    image[1, 2] = (77, 77, 77)
    mask = np.zeros((2, 3, 2), bool)
    mask[0, 0, 0] = mask[0, 0, 1] = mask[0, 1, 1] = True
    expected = [[[100, 0, 200], [100, 0, 200], [36] * 3], [[36] * 3, [36] * 3, [77] * 3]]
    before = image.copy()
    np.testing.assert_array_equal(balloon.color_splash(image, mask), expected)
    np.testing.assert_array_equal(balloon.color_splash(image, mask[..., :0])[0, 0], [36] * 3)
    np.testing.assert_array_equal(image, before)
    assert balloon.color_splash(image, mask).dtype == np.uint8


def test_splash_of_image_and_address(balloon, tmp_path):
    """The picture of a path and of an http address; what is missing is named."""
    image, mask = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), bool)
    image[..., 0], mask[:10] = 200, True
    Image.fromarray(image).save(tmp_path / "in.png")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        for source in (str(tmp_path / "in.png"), address + "/in.png?size=big"):
            model = Finds(mask)
            path = balloon.detect_and_color_splash(
                model, image_path=source, output=str(tmp_path / "out")
            )
            assert os.path.basename(path).startswith("splash_") and path.endswith(".png")
            np.testing.assert_array_equal(
                np.asarray(Image.open(path)), balloon.color_splash(image, mask[..., None])
            )
            np.testing.assert_array_equal(model.seen[0], image)
        with pytest.raises(OSError, match="/none.png can't be downloaded: HTTP Error 404"):
            balloon.detect_and_color_splash(
                Finds(mask), image_path=address + "/none.png", output=str(tmp_path)
            )
        assert (
            len(list((tmp_path / "out").iterdir())) == 2
        )  # within one second, neither replaces the other
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    with pytest.raises(FileNotFoundError, match="No file .*none.jpg"):
        balloon.detect_and_color_splash(
            Finds(mask), image_path=str(tmp_path / "none.jpg"), output=str(tmp_path)
        )
    with pytest.raises(ValueError, match="an image or a video. Received: None and None"):
        balloon.detect_and_color_splash(Finds(mask))


def test_splash_of_video(balloon, tmp_path):
    """Each frame is splashed: as many frames as before, gray outside the mask and coloured
    inside."""
    from mrcnn import media

    frame, mask = np.zeros((32, 48, 3), np.uint8), np.zeros((32, 48), bool)
    frame[:] = (200, 30, 40)
    mask[:, :24] = True
    with media.VideoWriter(tmp_path / "in.avi", 12) as video:
        for _ in range(5):
            video.write(frame)
    path = balloon.detect_and_color_splash(
        Finds(mask), video_path=str(tmp_path / "in.avi"), output=str(tmp_path / "out")
    )
    assert path.endswith(".avi") and media.video_info(path) == (5, 12.0)
    for image in media.read_video(path):
        assert image.shape == frame.shape
        gray, colored = image[:, 28:].astype(int), image[:, :20].astype(int)
        assert np.ptp(gray, axis=-1).max() < 25 and (colored[..., 0] - colored[..., 1]).min() > 120


@pytest.mark.slow
def test_balloon_commands_for_real(balloon, tmp_path, monkeypatch, capsys):
    """train with classes by attribute, then splash with the last weights, which bring the number of
    classes."""
    monkeypatch.setattr(balloon, "BalloonConfig", tiny(NAME="balloon"))
    folder = miniature.balloons(
        tmp_path / "data", count=(8, 2), names=("balloon", "kite"), attribute="type", version=2
    )
    logs = f"--logs={tmp_path / 'logs'}"
    balloon.main(
        ["train", f"--dataset={folder}", "--weights=none", logs, "--attribute=type", "--epochs=1"]
    )
    (run,) = (tmp_path / "logs").iterdir()
    assert (run / "mask_rcnn_balloon_0001.h5").exists()
    assert json.loads((run / "classes.json").read_text()) == ["BG", "balloon", "kite"]
    balloon.main(
        [
            "splash",
            "--weights=last",
            f"--image={folder / 'val' / '*.jpg'}",
            logs,
            f"--output={tmp_path / 'out'}",
        ]
    )
    saved = [
        line.split("Saved to ")[1]
        for line in capsys.readouterr().out.splitlines()
        if "Saved to" in line
    ]
    assert len(set(saved)) == 2 and all(
        np.asarray(Image.open(path)).shape == (128, 128, 3) for path in saved
    )


def test_balloon_commands(balloon, tmp_path, monkeypatch, capsys):
    """The settings, stages and files of each command, with a model that only notes what it is asked
    for."""
    from mrcnn import training

    folder = miniature.balloons(
        tmp_path / "data", count=(8, 2), names=("balloon", "kite"), attribute="type", version=2
    )
    calls, logs = trained(monkeypatch, tmp_path), f"--logs={tmp_path / 'logs'}"
    balloon.main(["train", f"--dataset={folder}", "--weights=coco", logs, "--attribute=type"])
    (mode, config, weights), (train_set, val_set, rate, epochs, layers) = calls
    assert (mode, weights, config.NUM_CLASSES, config.BATCH_SIZE) == ("training", "coco", 3, 2)
    assert (train_set.num_images, val_set.num_images, rate, epochs, layers) == (
        8,
        2,
        config.LEARNING_RATE,
        30,
        "heads",
    )
    assert train_set.class_names == ["BG", "balloon", "kite"]
    (tmp_path / "run").mkdir(exist_ok=True)
    training.describe_run(tmp_path / "run", config, train_set.class_names)
    calls.clear()
    weights = str(tmp_path / "run" / "mask_rcnn_balloon_0030.h5")
    balloon.main(
        [
            "splash",
            f"--weights={weights}",
            f"--image={folder / 'val' / '*.jpg'}",
            logs,
            f"--output={tmp_path / 'out'}",
        ]
    )
    ((mode, config, _),) = calls
    assert (mode, config.NUM_CLASSES, config.BATCH_SIZE, config.DETECTION_MIN_CONFIDENCE) == (
        "inference",
        3,
        1,
        0.9,
    )
    saved = [
        line.split("Saved to ")[1]
        for line in capsys.readouterr().out.splitlines()
        if "Saved to" in line
    ]
    assert len(set(saved)) == 2 and all(
        np.asarray(Image.open(path)).shape == (128, 128, 3) for path in saved
    )


# ---- Nucleus -------------------------------------------------------------------------------------


def test_rle(nucleus):
    """Hand-worked, columns first from 1; decoding is the inverse; what can't be is refused."""
    mask = np.array([[0, 1, 0], [1, 1, 0]], bool)
    assert nucleus.rle_encode(mask) == "2 3"
    assert nucleus.rle_encode(np.array([[1, 0], [0, 1]])) == "1 1 4 1"
    assert nucleus.rle_encode(np.zeros((3, 2), bool)) == ""
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (7, 3), (20, 31)):
        for share in (0.0, 0.3, 0.9, 1.0):
            mask = rng.random(shape) < share
            decoded = nucleus.rle_decode(nucleus.rle_encode(mask), shape)
            assert decoded.dtype == bool
            np.testing.assert_array_equal(decoded, mask)
    with pytest.raises(ValueError, match=r"\[height, width\]. Received: \(2, 3, 1\)"):
        nucleus.rle_encode(np.zeros((2, 3, 1)))
    for rle, message in (
        ("5 3", r"1\.\.6 for the shape \(2, 3\). Received: 5 3"),
        ("0 1", "Received: 0 1"),
        ("1 2 3", "pairs of start and length. Received: 3 numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            nucleus.rle_decode(rle, (2, 3))


def test_overlaps_belong_to_the_highest_score(nucleus):
    """README 30: the original gives them to the lowest. Lines come best first, hidden objects have
    none."""
    masks = np.zeros((1, 6, 4), bool)
    masks[0, 0:3, 0] = masks[0, 1:5, 1] = masks[0, 4:6, 2] = masks[0, 2:4, 3] = True
    lines = nucleus.mask_to_rle("abc", masks, np.array([0.5, 0.9, 0.7, 0.1])).split("\n")
    assert lines == ["abc, 2 4", "abc, 6 1", "abc, 1 1"]
    assert nucleus.mask_to_rle("abc", masks, np.ones(4)).split("\n") == [
        "abc, 1 3",
        "abc, 4 2",
        "abc, 6 1",
    ]
    assert (
        nucleus.mask_to_rle("abc", masks[..., :0], [])
        == nucleus.mask_to_rle("abc", masks[..., :1] & False, [1])
        == "abc,"
    )
    with pytest.raises(ValueError, match=r"N scores. Received: \(1, 6, 4\) and 1 scores"):
        nucleus.mask_to_rle("abc", masks, [1.0])


def test_nucleus_dataset(nucleus, tmp_path):
    """Gray, transparent and coloured files; subsets; masks; images without masks; mistakes are
    named."""
    ids = miniature.nuclei(tmp_path)
    miniature.nuclei(tmp_path, count=1, subset="stage1_test", seed=9)
    dataset = nucleus.NucleusDataset()
    dataset.load_nucleus(str(tmp_path), "stage1_train")
    dataset.prepare()
    assert (
        dataset.class_names == ["BG", "nucleus"]
        and [info["id"] for info in dataset.image_info] == ids
    )
    for image_id in dataset.image_ids:
        image, (masks, class_ids) = dataset.load_image(image_id), dataset.load_mask(image_id)
        assert image.shape == (96, 96, 3) and image.dtype == np.uint8
        assert (
            masks.dtype == bool
            and masks.shape == (96, 96, len(class_ids))
            and set(class_ids) == {1}
        )
        assert len(class_ids) > 3 and masks.sum(axis=-1).max() == 1
        brightness = image.astype(float).mean(axis=-1)
        inside, outside = (
            brightness[masks.any(axis=-1)].mean(),
            brightness[~masks.any(axis=-1)].mean(),
        )
        assert (inside < outside - 50) if image_id % 2 else (inside > outside + 50)
    assert dataset.image_reference(1) == ids[1]

    def names(subset):
        part = nucleus.NucleusDataset()
        part.load_nucleus(tmp_path, subset)
        return [info["id"] for info in part.image_info]

    assert names("val") == ids[:1] and names("train") == ids[1:]
    known = nucleus.VAL_IMAGE_IDS[3]
    (tmp_path / "stage1_train" / ids[2]).rename(tmp_path / "stage1_train" / known)
    assert (
        len(set(nucleus.VAL_IMAGE_IDS)) == 25
        and names("val") == [known]
        and known not in names("train")
    )
    test = nucleus.NucleusDataset()
    test.load_nucleus(tmp_path, "stage1_test")
    test.prepare()
    assert [part.shape for part in test.load_mask(0)] == [(96, 96, 0), (0,)]
    with pytest.raises(ValueError, match="one of train, val, stage1_train, .*Received: 'test'"):
        test.load_nucleus(tmp_path, "test")
    with pytest.raises(FileNotFoundError, match="No folder .*stage2_test"):
        test.load_nucleus(tmp_path, "stage2_test")
    folder = tmp_path / "stage1_train" / ids[0] / "masks"
    Image.new("L", (5, 4)).save(folder / "zz.png")
    with pytest.raises(
        ValueError, match=r"one size, here \(96, 96\). Received: \(4, 5\) in .*zz.png"
    ):
        dataset.load_mask(0)
    (folder / "zz.png").write_bytes(b"no")
    with pytest.raises(ValueError, match="The mask .*zz.png can't be read"):
        dataset.load_mask(0)


@pytest.mark.parametrize("name", ["augmentation", "small_augmentation"])
def test_nucleus_augmentation(name, nucleus, tmp_path):
    """Flips and turns move image and masks alike; the same seed gives the same picture; draws
    differ."""
    from mrcnn import data

    miniature.nuclei(tmp_path, count=1)
    dataset = nucleus.NucleusDataset()
    dataset.load_nucleus(tmp_path, "stage1_train")
    dataset.prepare()
    image, (masks, _) = dataset.load_image(0), dataset.load_mask(0)
    augmentation, seen = getattr(nucleus, name)(), set()
    for seed in range(12):
        new_image, new_masks = data.apply_augmentation(
            augmentation, image, masks, np.random.default_rng(seed)
        )
        again, _ = data.apply_augmentation(augmentation, image, masks, np.random.default_rng(seed))
        np.testing.assert_array_equal(new_image, again)
        seen.add(new_image.tobytes())
        # Turning by 90 degrees cuts nothing of a square.
        assert abs(int(new_masks.sum()) - int(masks.sum())) < 0.05 * masks.sum()
        bright = new_image.mean(axis=-1)
        assert bright[new_masks.any(axis=-1)].mean() > bright[~new_masks.any(axis=-1)].mean() + 20
    assert len(seen) > 6


@pytest.mark.slow
def test_nucleus_commands_for_real(nucleus, tmp_path, monkeypatch):
    """train, then detect with the last weights: the csv has disjoint runs of each image, and there
    are pictures."""
    small = tiny(NAME="nucleus", NUM_CLASSES=2, DETECTION_MAX_INSTANCES=30, MAX_GT_INSTANCES=50)
    monkeypatch.setattr(nucleus, "NucleusConfig", small)
    monkeypatch.setattr(nucleus, "NucleusInferenceConfig", small)
    miniature.nuclei(tmp_path / "data", count=3)
    ids = miniature.nuclei(tmp_path / "data", count=2, subset="stage1_test", seed=5)
    common = [f"--dataset={tmp_path / 'data'}", f"--logs={tmp_path / 'logs'}"]
    nucleus.main(["train", "--subset=train", "--weights=none", "--epochs=1", *common])
    nucleus.main(
        [
            "detect",
            "--subset=stage1_test",
            "--weights=last",
            f"--output={tmp_path / 'out'}",
            *common,
        ]
    )
    (folder,) = (tmp_path / "out").iterdir()
    assert sorted(path.name for path in folder.glob("*.png")) == sorted(
        f"{name}.png" for name in ids
    )
    header, *lines = (folder / "submit.csv").read_text().splitlines()
    assert header == "ImageId,EncodedPixels" and {line.split(",")[0] for line in lines} == set(ids)
    for name in ids:
        masks = [
            nucleus.rle_decode(line.split(",")[1], (96, 96))
            for line in lines
            if line.startswith(name)
        ]
        assert np.sum(masks, axis=0).max() <= 1


def test_nucleus_commands(nucleus, tmp_path, monkeypatch):
    """The settings, stages and files of each command, with a model that finds the same two nuclei
    everywhere."""
    from mrcnn import commands

    miniature.nuclei(tmp_path / "data", count=3)
    ids = miniature.nuclei(tmp_path / "data", count=2, subset="stage1_test", seed=5)
    calls, common = (
        trained(monkeypatch, tmp_path, 96),
        [f"--dataset={tmp_path / 'data'}", "--weights=last"],
    )
    nucleus.main(["train", "--subset=train", *common])
    (mode, config, _), *stages = calls
    assert (mode, config.IMAGE_RESIZE_MODE, config.BATCH_SIZE, config.STEPS_PER_EPOCH) == (
        "training",
        "crop",
        6,
        105,
    )
    assert [(epochs, layers) for *_, epochs, layers in stages] == [(20, "heads"), (40, "all")]
    assert [dataset.num_images for dataset in stages[0][:2]] == [2, 1]
    # As scripts call it.
    model = commands.load_model("training", config, argparse.Namespace(weights="none"))
    nucleus.train(model, str(tmp_path / "data"), "stage1_train")
    assert [(epochs, layers) for *_, epochs, layers in calls[-2:]] == [(20, "heads"), (40, "all")]
    calls.clear()
    nucleus.main(["detect", "--subset=stage1_test", f"--output={tmp_path / 'out'}", *common])
    ((mode, config, _),) = calls
    assert (mode, config.IMAGE_RESIZE_MODE, config.BATCH_SIZE, config.RPN_NMS_THRESHOLD) == (
        "inference",
        "pad64",
        1,
        0.7,
    )
    config.validate()
    (folder,) = (tmp_path / "out").iterdir()
    assert sorted(path.name for path in folder.glob("*.png")) == sorted(
        f"{name}.png" for name in ids
    )
    header, *lines = (folder / "submit.csv").read_text().splitlines()
    assert (
        header == "ImageId,EncodedPixels"
        and [line.split(", ")[0] for line in lines] == [ids[0]] * 2 + [ids[1]] * 2
    )
    first, second = (nucleus.rle_decode(line.split(",")[1], (96, 96)) for line in lines[:2])
    assert first.sum() == 100 and second.sum() == 50 and not (first & second).any()


def test_outlines(nucleus):
    mask = np.zeros((9, 9, 1), bool)
    mask[2:7, 2:7] = True
    picture = nucleus.outlined(np.zeros((9, 9, 3), np.uint8), mask)
    drawn = picture.any(axis=-1)
    assert drawn.sum() == 16 and not drawn[3:6, 3:6].any() and not drawn[~mask[..., 0]].any()


# ---- Custom --------------------------------------------------------------------------------------


def test_custom_is_short():
    """A template that one reads in a minute."""
    lines = [
        line
        for line in SAMPLES["custom"].read_text().split('"""', 2)[2].splitlines()
        if line.strip()
    ]
    assert len(lines) <= 60


@pytest.mark.parametrize("layout", ("via", "labelme", "coco"))
def test_layouts_of_one_folder(tmp_path, layout):
    """The same photographs annotated in three ways give the same objects (polygons for ellipses:
    IoU > .9)."""
    from mrcnn import annotations

    path = miniature.photographs(tmp_path, 3, layout=layout)
    dataset = annotations.AnnotatedDataset.of("custom", annotations.read(path, tmp_path))
    assert dataset.class_names == ["BG", "coin", "leaf"]
    via = miniature.photographs(tmp_path / "via", 3)
    expected = annotations.AnnotatedDataset.of("custom", annotations.read(via))
    for image_id in dataset.image_ids:
        (masks, class_ids), (truth, true_ids) = (
            dataset.load_mask(image_id),
            expected.load_mask(image_id),
        )
        assert class_ids.tolist() == true_ids.tolist()
        assert ((masks & truth).sum(axis=(0, 1)) > 0.9 * (masks | truth).sum(axis=(0, 1))).all()


def test_detect_without_class_names(custom, tmp_path):
    """Weights of unknown classes: said in one sentence."""
    (tmp_path / "w.h5").write_bytes(b"")
    with pytest.raises(
        ValueError, match="names of the classes, which training writes .* no file .*classes.json"
    ):
        custom.main(["detect", "x.jpg", f"--weights={tmp_path / 'w.h5'}"])


# ---- detect and evaluate as they end -------------------------------------------------------------


class Detects:
    """Finds an object of a given class in the upper left corner of every picture; stops at one."""

    def __init__(self, class_id=1, stops_at=None, num_classes=3):
        from mrcnn.config import Config

        self.config = Config(NUM_CLASSES=num_classes, IMAGES_PER_GPU=2)
        self.class_id, self.stops_at, self.seen, self.forms = class_id, stops_at, 0, []

    def detect(self, images, masks="dense"):
        from mrcnn.masks import Masks

        results = []
        self.forms.append(masks)
        for image in images:
            if self.seen == self.stops_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.seen += 1
            boxes = np.array([[2, 2, 12, 12]])
            found = Masks(np.ones((1, 28, 28)), boxes, image.shape)
            results.append(
                {
                    "rois": boxes,
                    "class_ids": np.array([self.class_id]),
                    "scores": np.array([0.9]),
                    "masks": found if masks == "lazy" else np.asarray(found),
                }
            )
        return results


def folder_of(tmp_path, count=6):
    for i in range(count):
        path = tmp_path / "in" / f"picture_{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((20, 30, 3), 40 * i, np.uint8)).save(path)
    return argparse.Namespace(inputs=[str(tmp_path / "in")], output=str(tmp_path / "out"), limit=0)


def film(path, frames, rate):
    """A video of two squares that lie in the lower and the upper half."""
    from mrcnn import media

    with media.VideoWriter(path, rate) as video:
        for _ in range(frames):
            video.write(np.full((64, 96, 3), 100, np.uint8))
    return str(path)


def test_detect_keeps_the_numbers_of_a_video(tmp_path, monkeypatch):
    """Objects come in another order in each frame; in results.json and in colour they are the same.
    A photograph has none, each video begins anew, and knows its rate."""
    from mrcnn import commands, media, neighbours

    made = []

    class ByPlace:
        def __init__(self, rate=0.0):
            made.append(rate)
            self.frame = 0

        def copy(self):
            return copy.copy(self)

        def update(self, result):
            self.frame += 1
            if self.frame == 1:
                return np.zeros(len(result["rois"]), np.int32)
            return np.array([1 + (y1 > 30) for y1, *_ in result["rois"]], np.int32)

    class Two(Detects):
        def detect(self, images, masks="dense"):
            results = []
            for image in images:
                self.seen += 1
                boxes = np.array([[5, 5, 25, 25], [40, 60, 60, 80]])[:: (-1) ** self.seen]
                found = np.zeros((*image.shape[:2], 2), bool)
                for i, (y1, x1, y2, x2) in enumerate(boxes):
                    found[y1:y2, x1:x2, i] = True
                scores = np.array([0.9, 0.8])
                class_ids = np.array([1, 1])
                results.append(
                    {"rois": boxes, "class_ids": class_ids, "scores": scores, "masks": found}
                )
            return results

    monkeypatch.setattr(neighbours, "Tracker", ByPlace)
    Image.fromarray(np.full((64, 96, 3), 100, np.uint8)).save(tmp_path / "a.png")
    inputs = [
        film(tmp_path / "b.avi", 5, 12),
        str(tmp_path / "a.png"),
        film(tmp_path / "c.avi", 3, 25),
    ]
    output = tmp_path / "out"
    args = argparse.Namespace(inputs=inputs, output=str(output), track=True)
    done = commands.detect(Two(), ["BG", "a", "b"], args)
    assert done.pictures == 9 and made[1:] == [12.0, 25.0]
    rows = json.loads((output / "results.json").read_text())
    images = json.loads((output / "images.json").read_text())["images"]
    numbers = {}
    for image in images:
        of_image = [row for row in rows if row["image_id"] == image["id"]]
        found = {row["bbox"][1]: row.get("track_id") for row in of_image}
        numbers[os.path.basename(image["file_name"]), image.get("frame")] = found
    for place, found in numbers.items():
        if place[1] in (None, 0):
            assert found == {5: None, 40: None}, place
        else:
            assert found == {5: 1, 40: 2}, place
    frames = [frame.astype(int) for frame in media.read_video(output / "b.avi")]
    for y, x in ((20, 20), (55, 75)):
        values = [frame[y, x] for frame in frames[1:]]
        assert np.ptp(values, axis=0).max() < 25  # of one colour, as a video keeps it
    assert np.abs(frames[2][20, 20] - frames[2][55, 75]).max() > 60
    args.inputs = [str(tmp_path / "a.png")]
    with pytest.raises(ValueError, match="Received: no video"):
        commands.detect(Two(), ["BG", "a"], args)


def test_detect_names_classes_that_have_no_name(tmp_path, caplog):
    """In pictures and results: nothing is lost, and one warning says it."""
    from mrcnn import commands

    args = folder_of(tmp_path, 3)
    done = commands.detect(Detects(class_id=3, num_classes=5), ["BG", "a"], args)
    assert done.pictures == 3
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    index = json.loads((tmp_path / "out" / "images.json").read_text())
    assert [row["category_id"] for row in rows] == [3] * 3
    names = {row["id"]: row["name"] for row in index["categories"]}
    assert names == {1: "a", 2: "class 2", 3: "class 3", 4: "class 4"}
    assert caplog.text.count("names for 2 of the model's 5 classes") == 1
    # Without a category an object can't be a result; that is said.
    commands.detect(Detects(class_id=2), ["BG", "a", "b"], args, {1: 7})
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == []
    assert "3 objects are in the pictures but not in results.json" in caplog.text


def test_detect_keeps_the_results_before_where_nothing_can_be_read(tmp_path):
    from mrcnn import commands

    args = folder_of(tmp_path, 2)
    commands.detect(Detects(), ["BG", "a", "b"], args)
    before = (tmp_path / "out" / "results.json").read_bytes()
    for path in (tmp_path / "in").iterdir():
        path.write_text("no picture")
    with pytest.raises(ValueError, match="none of the 2 files can be read.*picture_0.png: cannot"):
        commands.detect(Detects(), ["BG", "a", "b"], args)
    assert (tmp_path / "out" / "results.json").read_bytes() == before


def test_detect_skips_what_the_settings_do_not_take(tmp_path, caplog):
    from mrcnn import commands

    args = folder_of(tmp_path, 3)

    class Picky(Detects):
        def detect(self, images, masks="dense"):
            if any(image[0, 0, 0] == 40 for image in images):
                raise ValueError("the sides divide by 64")
            return super().detect(images, masks)

    done = commands.detect(Picky(), ["BG", "a", "b"], args)
    assert [path.name for path, _ in done.skipped] == ["picture_1.png"] and done.pictures == 2
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())) == 2
    assert "picture_1.png is skipped: the sides divide by 64" in caplog.text
    args.inputs = [str(tmp_path / "in" / "picture_1.png")]
    with pytest.raises(ValueError, match="none of the 1 files .*the sides divide by 64"):
        commands.detect(Picky(), ["BG", "a", "b"], args)


def test_large_pictures_never_have_whole_masks(tmp_path, monkeypatch):
    """The same results and pictures; a painter of one's own gets whole masks."""
    from mrcnn import commands, media

    args = folder_of(tmp_path, 2)
    outputs = []
    for limit in (10_000, 100):
        monkeypatch.setattr(commands, "LARGE_PICTURE", limit)
        model = Detects()
        commands.detect(model, ["BG", "a", "b"], args)
        picture = media.read_image(tmp_path / "out" / "picture_1.png")
        outputs.append((model.forms, (tmp_path / "out" / "results.json").read_text(), picture))
    assert [forms for forms, _, _ in outputs] == [["dense"], ["lazy"]]
    assert outputs[0][1] == outputs[1][1]
    np.testing.assert_array_equal(outputs[0][2], outputs[1][2])
    model = Detects()
    commands.detect(model, ["BG", "a", "b"], args, paint=lambda picture, result: picture.image)
    assert model.forms == ["dense"]


def corners(count):
    """A dataset of gray images, each with an object in its upper left corner."""
    from mrcnn.utils import Dataset

    class Corners(Dataset):
        def load_image(self, image_id):
            return np.full((20, 30, 3), 40 * image_id, np.uint8)

        def load_mask(self, image_id):
            masks = np.zeros((20, 30, 1), bool)
            masks[2:12, 2:12] = True
            return masks, np.array([1], np.int32)

    dataset = Corners()
    dataset.add_class("corners", 1, "a")
    dataset.add_class("corners", 2, "b")
    for i in range(count):
        dataset.add_image("corners", i, None)
    dataset.prepare()
    return dataset


ENDS = """
import argparse, resource, sys
sys.path.insert(0, {tests!r})
import test_samples as test
from mrcnn import commands
args = argparse.Namespace(inputs=[{folder!r}], output={output!r}, limit=0)
stops_at, limit = eval(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
def main():
    model = test.Detects(stops_at=stops_at)
    if sys.argv[1] == "detect":
        commands.detect(model, ["BG", "a", "b"], args)
    else:
        result = commands.evaluate(model, test.corners(6), args)
        assert len(result.detections) == 6
    print("seen", model.seen)
commands.run(main)
"""


@pytest.mark.long
@pytest.mark.parametrize("command", ["detect", "evaluate"])
def test_killed_or_out_of_space_and_run_again(tmp_path, command):
    """kill -9 in the middle: run again, each image is in the result once, and evaluate goes on. A
    full disk: exit code 1, one line that names the file, the results before as they were."""
    args = folder_of(tmp_path)
    output = pathlib.Path(args.output)
    code = ENDS.format(
        tests=str(pathlib.Path(__file__).parent), folder=args.inputs[0], output=args.output
    )

    def run(stops_at=None, limit=None):
        arguments = [sys.executable, "-c", code, command, f"({stops_at}, {limit})"]
        return subprocess.run(arguments, capture_output=True, text=True)

    assert run(stops_at=4).returncode == -signal.SIGKILL
    assert not (output / "results.json").exists()
    again = run()
    assert again.returncode == 0, again.stderr
    assert ("seen 2" if command == "evaluate" else "seen 6") in again.stdout
    rows = json.loads((output / "results.json").read_text())
    assert len({row["image_id"] for row in rows}) == len(rows) == 6
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    full = run(limit=500)
    assert full.returncode == 1
    assert full.stderr.count("error: ") == 1 and "Traceback" not in full.stderr
    assert "error: [Errno 27] File too large: '" + str(output) in full.stderr
    after = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert set(after) == set(before)
    assert all(after[path] == before[path] for path in before if path.suffix == ".json")


def test_one_bad_photograph_does_not_end_a_splash(balloon, tmp_path, capsys):
    mask = np.zeros((20, 30), bool)
    args = folder_of(tmp_path, 2)
    args.video = []
    (tmp_path / "in" / "cut.png").write_bytes(b"no picture")
    balloon.splash(Finds(mask), args)
    out = capsys.readouterr()
    assert out.out.count("Saved to") == 2 and "cut.png is skipped: cannot identify" in out.err
    args.inputs = [str(tmp_path / "in" / "cut.png")]
    with pytest.raises(ValueError, match="none of the inputs can be read.*cut.png"):
        balloon.splash(Finds(mask), args)


def test_one_bad_photograph_does_not_end_a_submission(nucleus, tmp_path, capsys):
    ids = miniature.nuclei(tmp_path / "data", count=3, subset="stage1_test", seed=5)
    path = tmp_path / "data" / "stage1_test" / ids[1] / "images" / f"{ids[1]}.png"
    path.write_bytes(b"no picture")
    mask = np.zeros((96, 96), bool)
    mask[5:15, 5:15] = True
    saved = nucleus.detect(Finds(mask), tmp_path / "data", "stage1_test", tmp_path / "out")
    lines = pathlib.Path(saved).read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == ids and lines[1] == f"{ids[1]},"
    assert ids[1] in capsys.readouterr().err


def test_numbers_of_options(capsys):
    from mrcnn import commands

    parser = commands.parser("x", ("train", "evaluate"), inputs=None)
    for option in ("--epochs=0", "--epochs=-1", "--evaluate-every=-1", "--limit=-1", "--epochs=x"):
        with pytest.raises(SystemExit) as end:
            commands.parse(parser, ["train", "--weights=none", option])
        assert end.value.code == 2 and "--" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", '{"a": 1}', "[]", "[1, 2]", '"BG"'])
def test_names_of_classes_that_are_none(tmp_path, content):
    from mrcnn import commands
    from mrcnn.config import Config

    (tmp_path / "classes.json").write_text(content)
    args = argparse.Namespace(weights=str(tmp_path / "w.h5"), logs=None)
    with pytest.raises(ValueError, match="classes.json(: expected a json| has a list)"):
        commands.load_classes(Config(), args)


@pytest.mark.long
def test_custom_evaluates_a_second_dataset_of_the_same_names(custom, tmp_path, monkeypatch):
    """It looked at no image and printed the first one's AP."""
    from mrcnn import commands

    looked_at = []

    def load_model(mode, config, args):
        model = Detects(num_classes=config.NUM_CLASSES)
        looked_at.append(model)
        return model

    monkeypatch.setattr(commands, "load_model", load_model)
    for name, seed in (("one", 0), ("two", 1)):
        miniature.photographs(tmp_path / name, 10, seed=seed)
    results = {}
    for name in ("one", "two", "one", "two"):
        output = tmp_path / "out"
        custom.main(["evaluate", f"--dataset={tmp_path / name}", f"--output={output}"])
        rows = json.loads((output / "truth.json").read_text())["annotations"]
        assert results.setdefault(name, rows) == rows
    assert results["one"] != results["two"]
    assert [model.seen for model in looked_at] == [2, 2, 0, 0]


# ---- Images that are made ------------------------------------------------------------------------


def order_of(monkeypatch, epochs, seed=0):
    """The numbers of the images of a training of so many epochs, in the order of its steps; its
    command makes 3 epochs of 2 steps of 2 images by default."""
    from mrcnn import commands, data, utils

    class Made(utils.Dataset):
        def __init__(self, count, first=0):
            super().__init__()
            self.add_class("made", 1, "a")
            for number in range(first, first + count):
                self.add_image("made", number, path=None)
            self.prepare()

    datasets = []
    monkeypatch.setattr(commands, "train_on", lambda config, make, *_: datasets.append(make()))
    config = tiny(STEPS_PER_EPOCH=2, IMAGES_PER_GPU=2, SEED=seed)()
    args = argparse.Namespace(epochs=epochs)
    commands._train_generated(config, Made, None, args, None, 3)
    batches = data.TrainingBatches(datasets[0], config, seed=seed)
    ids = [i for step in range(2 * epochs) for i in batches.image_ids(step)]
    return [datasets[0].image_info[i]["id"] for i in ids]


def test_more_epochs_of_made_images_only_add_images(monkeypatch):
    """With another --epochs all images were put into another order: a run that went on with more
    had some of them twice and others never."""
    orders = {epochs: order_of(monkeypatch, epochs) for epochs in (1, 3, 4, 7)}
    for epochs, numbers in orders.items():
        assert len(set(numbers)) == 4 * epochs
        assert numbers == orders[7][: 4 * epochs]
    # Those of the default number of epochs are as they always were.
    expected = np.random.default_rng([0, 1, 0]).permutation(12)
    assert orders[3] == expected.tolist()
    assert sorted(orders[7][12:24]) == list(range(12, 24))


@pytest.mark.parametrize("seed, first", [(0, 0), (9, 900_000), (10, 2_000_000), (11, 2_100_000)])
def test_made_images_of_a_seed_are_not_held_out(monkeypatch, seed, first):
    """Seed 10 trained on the images that it was evaluated on."""
    assert sorted(order_of(monkeypatch, 3, seed)) == list(range(first, first + 12))
