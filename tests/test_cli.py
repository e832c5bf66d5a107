"""The command `mrcnn`: its grammar, its errors and exit codes, what it finds in a dataset's folder."""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image

import mrcnn
from mrcnn import cli, commands, completion, config, media, neighbours, training

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(capsys, *arguments):
    """(exit code, what stood on stdout, on stderr)."""
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder that one works in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(path, size=(60, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 30)).save(path)


def coco_json(path, names, classes=("cat",)):
    """Writes a json of pictures with one square each."""
    square = [[5.0, 5.0, 25.0, 5.0, 25.0, 25.0, 5.0, 25.0]]
    images = []
    items = []
    for number, name in enumerate(names, 1):
        images.append({"id": number, "file_name": name, "height": 40, "width": 60})
        items.append({"id": number, "image_id": number, "category_id": 1, "segmentation": square})
    data = {
        "images": images,
        "annotations": items,
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, 1)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


# ---- Grammar -------------------------------------------------------------------------------------


def test_help_and_version(capsys):
    code, out, _ = run(capsys, "--version")
    assert (code, out) == (0, f"mrcnn {mrcnn.__version__}\n")
    code, out, _ = run(capsys, "--help")
    assert code == 0 and all(f"\n    {name}" in out for name in cli.COMMANDS)
    for name in cli.COMMANDS:
        code, out, _ = run(capsys, name, "--help")
        assert code == 0 and f"mrcnn {name} " in out.partition("examples:")[2], name
        assert "--json" in out


def test_every_option_says_what_it_is():
    for name, parser in cli.build_parser().get_default("parsers").items():
        for action in parser._actions:
            assert action.help or action.choices, (name, action.dest)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("", "the following arguments are required: COMMAND"),
        ("paint", "invalid choice: 'paint'"),
        ("detect", "the following arguments are required: INPUT"),
        ("train --dataset=x", "train needs --weights"),
        ("train --dataset=x --weights=none --epochs=0", "a whole number from 1 on. Received: '0'"),
        ("train --weights=none", "required: --dataset"),
        ("convert a b", "required: --to"),
        ("convert a b --to=voc", "invalid choice: 'voc'"),
        ("convert a b --to=coco --tolerance=-1", "a number of pixels from 0 on. Received: '-1'"),
        ("settings --config=Odd", "Received: Odd"),
        ("settings --config=Config --small", "one of them"),
        ("settings --set NUM_CLASES=3", "did you mean NUM_CLASSES"),
        ("settings ODD", "no setting has 'ODD' in its name"),
        ("completion tcsh", "invalid choice: 'tcsh'"),
        ("batch", "the following arguments are required: INPUT"),
        ("batch a.png --batch-size=0", "a whole number from 1 on. Received: '0'"),
        ("export m.onnx --weights=x.onnx", "x.onnx is exported already"),
        ("evaluate --dataset=x --weights=none --threads=2", "are of an exported model"),
        ("batch a.png --weights=none --device=gpu", "are of an exported model"),
    ],
)
def test_wrong_options_are_one_line(here, capsys, arguments, message):
    code, out, err = run(capsys, *arguments.split())
    assert message in err and err.count("\n") == 1 and out == ""
    assert err.startswith("mrcnn") and ": error: " in err
    assert code == 2
    code, out, _ = run(capsys, *arguments.split(), "--json")
    assert code == 2 and message in json.loads(out)["error"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("detect none.jpg --weights=coco", "Received: none.jpg"),
        ("detect a.png", "No folder logs with a checkpoint"),
        ("detect a.png --output=a.png/b", "--output is a folder. Received: a.png/b, a.png is a"),
        ("evaluate --dataset=none --output=a.png", "Received: a.png, a.png is a file"),
        ("detect a.png --weights=w.h5", "No weight file w.h5"),
        ("batch a.png", "No folder logs with a checkpoint"),
        ("batch a.png --weights=none", "batch needs weights that were trained"),
        ("convert none.json out --to=yolo", "No annotation file or folder none.json"),
        ("inspect none", "No file or folder none"),
        ("train --dataset=none --weights=none", "No annotation file or folder none"),
        ("settings --config=none.py:A", "No file none.py"),
    ],
)
def test_failures_are_one_line(here, capsys, arguments, message):
    picture(here / "a.png")
    code, out, err = run(capsys, *arguments.split())
    assert code == 1 and message in err and err.count("\n") == 1 and out == ""
    code, out, err = run(capsys, *arguments.split(), "--json")
    assert code == 1 and message in json.loads(out)["error"] and err.count("\n") == 1


def test_interrupted(here, capsys, monkeypatch):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "inspect", ("looks", cli._inspect_options, interrupt))
    assert run(capsys, "inspect", "x") == (130, "", "mrcnn inspect: error: interrupted\n")


def test_traceback_on_demand(here):
    with pytest.raises(FileNotFoundError):
        cli.main(["inspect", "none", "--traceback"])


def run_alone(*words):
    """What a process of its own printed, which imports this package."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.long
def test_as_a_program_without_anything_heavy(here):
    """Help, settings, conversion: neither TensorFlow nor what draws is imported; a reader that has
    gone is no error."""
    coco_json(here / "a.json", ["a.png"])
    picture(here / "a.png")
    code = (
        "import sys\nfrom mrcnn import cli\n"
        "for line in ('--help', 'settings NUM_CLASSES', 'convert a.json out --to=yolo',"
        " 'completion fish', 'inspect a.json'):\n"
        "    assert cli.main(line.split()) == 0, line\n"
        "heavy = {'tensorflow', 'keras', 'jax', 'torch', 'matplotlib', 'cv2'} & set(sys.modules)\n"
        "sys.exit(str(sorted(heavy)) * bool(heavy) or 0)"
    )
    run_alone(sys.executable, "-c", code)
    done = run_alone("sh", "-c", f"{sys.executable} -m mrcnn settings | head -n 1")
    assert done.stdout == "---- The run ----\n" and not done.stderr


@pytest.mark.long
def test_keras_is_imported_without_its_plots(here):
    """Keras, the model and detection load nothing that draws plots; both can be imported later."""
    code = (
        "import sys\nfrom mrcnn import cli\ncli._import_keras()\n"
        "from mrcnn import commands, inference, model, training\n"
        "drawing = {'matplotlib', 'cv2', 'IPython'} & set(sys.modules)\n"
        "assert not drawing, drawing\n"
        "import cv2, keras, matplotlib.pyplot\n"
        "assert cv2.imread and matplotlib.pyplot.plot and keras.layers.Dense"
    )
    run_alone(sys.executable, "-c", code)


# ---- Settings, completion, convert, inspect ------------------------------------------------------


def test_settings_are_all_there(capsys):
    code, out, _ = run(capsys, "settings", "--json")
    found = json.loads(out)["settings"]
    derived = {"BATCH_SIZE", "IMAGE_SHAPE", "IMAGE_META_SIZE"}
    assert code == 0 and set(found) == config.setting_names() - derived
    assert all(entry["meaning"] and entry["section"] for entry in found.values())
    assert not any(entry["changed"] for entry in found.values())
    assert found["IMAGE_MAX_DIM"]["value"] == 1024
    _, out, _ = run(capsys, "settings")
    assert all(f"\n{name} = " in out for name in found)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("class Mine(:\n", "SyntaxError: .*line 1"),
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise RuntimeError('mine')\n", "RuntimeError: mine"),
        ("import sys; sys.exit(3)\n", "SystemExit: 3"),
    ],
    ids=["syntax", "import", "raises", "exits"],
)
def test_configs_that_do_not_run(here, capsys, text, reason):
    """What the user's own file raises is one line that names the file."""
    (here / "mine.py").write_text(text)
    code, _, err = run(capsys, "settings", "--config=mine.py")
    assert code == cli.FAILED and err.count("\n") == 1
    assert re.search(f"--config: mine.py can't be run. Received: {reason}", err)


@pytest.mark.parametrize("content", ("LEARNING_RATE = -1", '{"LEARNING_RATE": -1}'))
def test_configs_that_are_wrong(here, capsys, content):
    """`settings` printed them as they were."""
    path = here / "wrong.json"
    if content[0] == "L":
        path = here / "wrong.py"
        base = "from mrcnn.config import Config\n\n\nclass Mine(Config):\n    "
        content = f"{base}{content}\n"
    path.write_text(content)
    code, out, err = run(capsys, "settings", f"--config={path}")
    assert code == cli.USAGE and not out and "LEARNING_RATE is above 0. Received: -1" in err


def test_options_are_checked_before_data_are_read(here, capsys):
    (here / "w.h5").write_bytes(b"")
    for options, reason in (
        ("--weights=v.h5", "No weight file v.h5"),
        ("--weights=none --set STRANGE=1", "setting of Config"),
    ):
        _, _, err = run(capsys, "evaluate", "--dataset=none", *options.split())
        assert reason in err


def test_crowds_as_cvat_writes_masks(here, capsys):
    """Beside outlines each mask has iscrowd 1 there, which is said however few they are."""
    coco_json(here / "a.json", ["a.png"] * 5)
    picture(here / "a.png")
    data = json.loads((here / "a.json").read_text())
    for number, item in enumerate(data["annotations"]):
        item["attributes"] = {"occluded": False}
        item["segmentation"][0][0] += number
    mask = {"size": [40, 60], "counts": [0, 400, 2000]}
    data["annotations"][0].update(iscrowd=1, segmentation=mask)
    (here / "a.json").write_text(json.dumps(data))
    code, out, err = run(capsys, "inspect", "a.json", "--json")
    assert code == 0 and json.loads(out)["inspected"][0]["crowds"] == 1
    code, out, _ = run(capsys, "inspect", "a.json", "--json", "--crowds=objects")
    assert code == 0 and json.loads(out)["inspected"][0]["crowds"] == 0
    run(capsys, "convert", "a.json", "out", "--to=yolo", "--crowds=objects")
    assert len((here / "out/labels/train/a.txt").read_text().splitlines()) == 5


def test_paths_in_the_home_folder(here, capsys, monkeypatch):
    """No shell expands the ~ of --images=~/photos."""
    monkeypatch.setenv("HOME", str(here))
    picture(here / "photos" / "a.jpg")
    coco_json(here / "json" / "a.json", ["a.jpg"])
    code, out, err = run(capsys, "inspect", "~/json/a.json", "--images=~/photos")
    assert code == 0 and "images: 1" in out, err


def test_inputs_behind_two_dashes(here, capsys):
    """They were dropped: of two files one was looked at, of one it was said that none is given."""
    for name in ("-1.png", "a.png"):
        Image.new("RGB", (40, 30)).save(here / name)
    code, out, _ = run(capsys, "inspect", "a.png", "--json", "--", "-1.png", "a.png")
    inspected = json.loads(out)["inspected"]
    assert code == 0
    assert [entry["image"] for entry in inspected] == ["a.png", "./-1.png", "a.png"]
    code, _, err = run(capsys, "inspect", "a.png", "-1.png")
    assert code == 2 and err.startswith(
        "mrcnn inspect: error: a file whose name begins with a dash is ./-1.png. Received: -1.png"
    )
    # The values of --set end there.
    parser = commands.parser("", ("detect",), dataset=False)
    for name in ("-1.png", "--x"):
        args = commands.parse(parser, ["detect", "--set", "A=1", "B=2", "--", name, "a.png"])
        assert args.set == ["A=1", "B=2"] and args.inputs == [f"./{name}", "a.png"]


def test_settings_of_several_set_options_add_up():
    """The samples' parser kept those of the last one alone."""
    words = [
        "train",
        "--weights=none",
        "--set",
        "NAME=a",
        "BATCH_SIZE=1",
        "--epochs=3",
        "--set",
        "SEED=4",
        "--set",
    ]
    parser = commands.parser("", ("train",), dataset=False, inputs=None)
    assert commands.parse(parser, words).set == ["NAME=a", "BATCH_SIZE=1", "SEED=4"]
    assert commands.parse(parser, ["train", "--weights=none"]).set == []


def test_settings_that_a_config_changes(here, capsys):
    (here / "mine.py").write_text(
        "from mrcnn.config import SmallConfig\n\n\nclass CellsConfig(SmallConfig):\n"
        "    NAME = 'cells'\n    NUM_CLASSES = 1 + 1\n"
    )
    for given in ("mine.py", "mine.py:CellsConfig"):
        _, out, _ = run(
            capsys, "settings", f"--config={given}", "--changed", "--json", "--set", "NAME=x"
        )
        found = {name: entry["value"] for name, entry in json.loads(out)["settings"].items()}
        assert found["NUM_CLASSES"] == 2 and found["BACKBONE"] == "resnet18"
        assert found["NAME"] == "x" and "RPN_NMS_THRESHOLD" not in found
    code, _, err = run(capsys, "settings", "--config=mine.py:Odd")
    assert code == 1 and "it has SmallConfig, CellsConfig" in err
    _, out, _ = run(capsys, "settings", "NUM_CLASSES", "--set", "NUM_CLASSES=7")
    assert "NUM_CLASSES = 7    (Config: 1)\n    Classes" in out


@pytest.mark.parametrize(
    "words, expected",
    [
        (["mrcnn", "det"], {"detect"}),
        (["mrcnn", "detect", "--wei"], {"--weights"}),
        (["mrcnn", "detect", "--weights", "=", "co"], {"coco"}),
        (["mrcnn", "detect", "--weights=co"], {"--weights=coco"}),  # as zsh has it
        (["mrcnn", "inspect", "--images=./scr"], {"--images=./script"}),
        (["mrcnn", "convert", "a", "b", "--to", "l"], {"labelme", "labels"}),
        (["mrcnn", "train", "--set", "NUM_"], {"NUM_CLASSES=", "NUM_KEYPOINTS="}),
        (["mrcnn", "completion", ""], {"bash", "zsh", "fish"}),
        (["mrcnn", "settings", "IMAGE_GA"], {"IMAGE_GAMMA"}),
    ],
)
def test_bash_completes(here, capsys, words, expected):
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    _, text, _ = run(capsys, "completion", "bash")
    (here / "script").write_text(text)
    line = " ".join(f'"{word}"' for word in words)
    code = (
        f"source ./script; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _mrcnn;"
        ' printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
    assert set(done.stdout.split()) == expected and not done.stderr


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_a_shell_reads_its_script(here, capsys, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    _, text, _ = run(capsys, "completion", shell)
    (here / "script").write_text(text)
    done = subprocess.run([shell, "-n", "script"], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr


def test_fish_completes(here, capsys):
    if shutil.which("fish") is None:
        pytest.skip("there is no fish")
    _, text, _ = run(capsys, "completion", "fish")
    (here / "script").write_text(text)
    for line, expected in (
        ("mrcnn det", {"detect"}),
        ("mrcnn detect --weights=co", {"--weights=coco"}),
        ("mrcnn convert a b --to lab", {"labelme", "labels"}),
        ("mrcnn settings IMAGE_GA", {"IMAGE_GAMMA"}),
    ):
        code = f"source ./script; complete -C '{line}'"
        done = subprocess.run(["fish", "-c", code], capture_output=True, text=True)
        assert {row.split("\t")[0] for row in done.stdout.splitlines()} == expected


def test_completion_of_the_others(capsys):
    _, text, _ = run(capsys, "completion", "zsh")
    assert text.startswith("autoload -U +X bashcompinit && bashcompinit\n_mrcnn() {")
    _, text, _ = run(capsys, "completion", "fish")
    assert "complete -c mrcnn -f -n __fish_use_subcommand -a detect -d 'find objects" in text
    line = next(x for x in text.splitlines() if " convert'" in x and "-l to" in x)
    assert "-r -f -a 'coco via labelme yolo masks labels' -d 'the format'" in line
    assert text.count("'") % 2 == text.count("\\'") % 2
    with pytest.raises(ValueError, match="one of bash, zsh, fish"):
        completion.script("tcsh", cli.build_parser(), [])


def test_convert_and_inspect(here, capsys):
    coco_json(here / "in" / "a.json", ["a.png", "b.png"])
    for name in ("a.png", "b.png"):
        picture(here / "in" / name)
    code, out, err = run(capsys, "convert", "in/a.json", "out", "--to=labelme", "--json")
    assert code == 0 and not err
    done = json.loads(out)
    assert done["images"] == done["objects"] == 2 and done["losses"] == {}
    assert (here / "out" / "a.json").is_file() and (here / "out" / "b.png").is_file()
    code, out, err = run(capsys, "convert", "in/a.json", "out", "--to=labelme")
    assert code == 1 and "not empty" in err
    code, out, _ = run(capsys, "inspect", "out", "in/b.png", "--draw=1", "--output=drawn", "--json")
    dataset, image = json.loads(out)["inspected"]
    assert dataset["images"] == 2 and dataset["objects"] == {"cat": 2}
    assert dataset["height"] == "40 to 40" and image["width"] == 60
    (drawn,) = dataset["drawn"]
    painted = np.asarray(Image.open(drawn).convert("RGB"))
    assert (painted[10, 10] != (90, 120, 30)).any() and tuple(painted[38, 58]) == (90, 120, 30)


def test_drawings_replace_no_image(here, capsys):
    """The photographs of --output were painted over, without a word."""
    for folder in ("photos", "more"):
        for name in ("a.png", "b.png"):
            picture(here / folder / name)
        coco_json(here / folder / "labels.json", ["a.png", "b.png"])
    before = (here / "photos" / "b.png").read_bytes()
    (here / "link").symlink_to("photos")
    for output in ("photos", "link"):
        code, _, err = run(capsys, "inspect", "photos", "--draw=2", f"--output={output}")
        assert code == 1 and "the drawings would replace 2 images of photos" in err
        assert (here / "photos" / "b.png").read_bytes() == before
    code, out, _ = run(capsys, "inspect", "photos", "more", "--draw=1", "--output=out", "--json")
    drawn = [entry["drawn"] for entry in json.loads(out)["inspected"]]
    assert code == 0 and drawn == [["out/a.png"], ["out/a_2.png"]]
    assert sorted(path.name for path in (here / "out").iterdir()) == ["a.png", "a_2.png"]


def test_inspect_of_xml(here, capsys):
    """CVAT's annotations are no model of OpenVINO, whose files end so too."""
    picture(here / "a.png")
    box = '<box label="cat" xtl="5" ytl="5" xbr="25" ybr="15"/>'
    text = f'<annotations><image name="a.png" width="60" height="40">{box}</image></annotations>'
    (here / "annotations.xml").write_text(text)
    code, out, _ = run(capsys, "inspect", "annotations.xml", "--json")
    assert code == 0 and json.loads(out)["inspected"][0]["objects"] == {"cat": 1}
    code, out, _ = run(capsys, "convert", ".", "out", "--to=labelme")
    assert code == 0 and "nothing is lost" in out


def test_inspect_of_a_truncated_image(here, capsys):
    """Its head tells a size; that it can't be decoded is an error."""
    noise = np.random.default_rng(0).integers(0, 256, (80, 60, 3), np.uint8)
    for name in ("whole.png", "whole.jpg"):
        Image.fromarray(noise).save(here / name)
        content = (here / name).read_bytes()
        broken = here / name.replace("whole", "broken")
        broken.write_bytes(content[: len(content) // 2])
        code, out, err = run(capsys, "inspect", here / name)
        assert code == 0 and "height: 80\nwidth: 60" in out
        code, out, err = run(capsys, "inspect", broken)
        assert code == 1 and str(broken) in err and "truncated" in err and "height" not in out
        broken.write_bytes(content[:20])  # within its header
        code, out, err = run(capsys, "inspect", broken)
        assert code == 1 and str(broken) in err and err.count("\n") == 1 and "height" not in out
        assert "can't be read as an image" in err or "a JPEG whose beginning is cut off" in err


# ---- Datasets ------------------------------------------------------------------------------------


def test_subsets_of_cityscapes(here):
    """gtFine/train to train on, gtFine/val to validate on; test/ has no objects."""
    for subset, name, number in (("train", "a", 26_000), ("val", "b", 26_001), ("test", "c", 0)):
        for place, ending, kind in (
            ("gtFine", "gtFine_instanceIds", np.uint16),
            ("leftImg8bit", "leftImg8bit", np.uint8),
        ):
            path = here / "scapes" / place / subset / "ulm" / f"{name}_{ending}.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(np.full((8, 9), number).astype(kind)).save(path)
    assert sets_of(f"--dataset={here / 'scapes'}") == [
        ["train/ulm/a_leftImg8bit.png"],
        ["val/ulm/b_leftImg8bit.png"],
    ]


def sets_of(*arguments):
    """Names of the images that are trained and validated on."""
    args = cli._parse(["train", "--weights=none", *map(str, arguments)])
    return [sorted(image.name for image in part.images) for part in cli._sets(args)]


@pytest.mark.parametrize("layout", ("coco", "roboflow", "instances", "yolo", "folders", "cvat"))
def test_subsets_of_datasets(here, layout):
    """Training and validation images where each of the tools has them."""
    expected = [["a.png"], ["b.png"]]
    if layout == "coco":
        coco_json(here / "annotations" / "instances_train2017.json", ["a.png"])
        coco_json(here / "annotations" / "instances_val2017.json", ["b.png"])
        picture(here / "train2017" / "a.png")
        picture(here / "val2017" / "b.png")
    elif layout == "roboflow":
        for subset, name in (("train", "a.png"), ("valid", "b.png")):
            coco_json(here / subset / "_annotations.coco.json", [name])
            picture(here / subset / name)
    elif layout == "instances":  # as samples/nucleus/data
        for subset, name in (("train", "a.png"), ("val", "b.png")):
            coco_json(here / f"instances_{subset}.json", [name])
            picture(here / subset / name)
    elif layout == "yolo":
        (here / "data.yaml").write_text("names: [cat]\n")
        for subset, name in (("train", "a"), ("val", "b")):
            picture(here / "images" / subset / f"{name}.png")
            label = here / "labels" / subset / f"{name}.txt"
            label.parent.mkdir(parents=True)
            label.write_text("0 .1 .1 .5 .1 .5 .5\n")
        expected = [["images/train/a.png"], ["images/val/b.png"]]
    elif layout == "cvat":  # Datumaro's
        for subset, name in (("train", "a.png"), ("val", "b.png")):
            box = '<box label="cat" xtl="5" ytl="5" xbr="25" ybr="15"/>'
            text = f'<image name="{name}" width="60" height="40">{box}</image>'
            (here / f"{subset}.xml").write_text(f"<annotations>{text}</annotations>")
            picture(here / "images" / name)
    else:
        for subset, name in (("train", "a"), ("val", "b")):
            picture(here / subset / f"{name}.png")
            shape = {"label": "cat", "points": [[5, 5], [25, 5], [25, 25]]}
            data = {"imagePath": f"{name}.png", "shapes": [shape]}
            (here / subset / f"{name}.json").write_text(json.dumps(data))
    assert sets_of(f"--dataset={here}") == expected


@pytest.mark.parametrize("layout", ("sub-folders", "voc", "voc boxes"))
def test_subsets_of_mask_files(here, layout):
    """images/train and images/val; Pascal VOC's lists of images. A share was held out of all."""
    images, masks, folders = "images", "masks", {"train": "train/", "val": "val/"}
    if layout != "sub-folders":
        images, masks, folders = "JPEGImages", "SegmentationObject", {"train": "", "val": ""}
        lists = here / "ImageSets" / ("Segmentation" if layout == "voc" else "Main")
        lists.mkdir(parents=True)
        (lists / "train.txt").write_text("a\nb 1\n")
        (lists / "val.txt").write_text('"c 2"\n')
    for subset, name in (("train", "a"), ("train", "b 1"), ("val", "c 2")):
        path = here / masks / folders[subset] / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.eye(30, dtype=np.uint8)).save(path)
        picture(here / images / folders[subset] / f"{name}.png", (30, 30))
        if layout == "voc boxes":
            path.unlink()
            box = "<xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
            item = f"<object><name>cat</name><bndbox>{box}</bndbox></object>"
            text = f"<annotation><filename>{name}.png</filename>{item}</annotation>"
            (here / "Annotations").mkdir(exist_ok=True)
            (here / "Annotations" / f"{name}.xml").write_text(text)
    if layout == "voc boxes":
        assert sets_of(f"--dataset={here}") == [["a.png", "b 1.png"], ["c 2.png"]]
        return
    train, val = folders["train"], folders["val"]
    assert sets_of(f"--dataset={here}") == [
        [f"{images}/{train}a.png", f"{images}/{train}b 1.png"],
        [f"{images}/{val}c 2.png"],
    ]


@pytest.mark.parametrize("command", ("train --weights=none", "evaluate --weights=coco"))
def test_one_image_is_no_two_sets(here, capsys, command):
    coco_json(here / "labels.json", ["a.png"])
    picture(here / "a.png")
    code, _, err = run(capsys, *command.split(), f"--dataset={here}")
    assert code == cli.USAGE and "labels.json has one image with objects" in err
    assert "--subset=all takes it whole" in err and err.count("\n") == 1


def test_images_in_both_sets_are_named(here, caplog):
    """Files of a split that was made anew overlap: the figures would be those of training images."""
    for subset, names in (("train", ["a.png", "b.png"]), ("val", ["b.png", "c.png"])):
        coco_json(here / f"{subset}.json", names)
        for name in names:
            picture(here / "images" / name)
    assert sets_of(f"--dataset={here}") == [["a.png", "b.png"], ["b.png", "c.png"]]
    assert "val.json: 1 of 2 images to validate on are trained on too: b.png" in caplog.text


def test_a_class_of_the_validation_set_alone_is_said(here, caplog, monkeypatch):
    """Training was refused. The jsons of VIA and LabelMe have the classes of their objects alone."""
    for subset, names in (("train", ["cat", "dog"]), ("val", ["ant", "cat"])):
        for name in names:
            picture(here / subset / f"{name}.png")
            shape = {"label": name, "points": [[5, 5], [25, 5], [25, 25]], "shape_type": "polygon"}
            content = {"shapes": [shape], "imagePath": f"{name}.png"}
            (here / subset / f"{name}.json").write_text(json.dumps(content))
    datasets = []

    def train(model, train_set, val_set, stages, args):
        datasets.extend((train_set, val_set))

    model = types.SimpleNamespace(find_last=str, log_dir="", epoch=0)
    monkeypatch.setattr(commands, "load_model", lambda *arguments: model)
    monkeypatch.setattr(commands, "train", train)
    assert cli.main(["train", f"--dataset={here}", "--weights=none"]) == 0
    assert [dataset.class_names for dataset in datasets] == [["BG", "cat", "dog", "ant"]] * 2
    assert datasets[1].load_mask(0)[1].tolist() == [3]
    assert "none of their objects will be detected: 'ant'" in caplog.text


def test_without_a_validation_set_a_share_is_held_out(here):
    names = [f"{i}.png" for i in range(20)]
    coco_json(here / "one" / "a.json", names)
    for name in names:
        picture(here / "one" / name)
    larger, smaller = sets_of("--dataset=one")
    assert sorted(larger + smaller) == sorted(names) and 1 <= len(smaller) <= 9
    assert sets_of("--dataset=one/a.json") == [larger, smaller]
    coco_json(here / "two" / "b.json", ["z.png"])
    picture(here / "two" / "z.png")
    assert sets_of("--dataset=one", "--val=two") == [sorted(names), ["z.png"]]


def test_a_validation_set_alone_is_evaluated_whole(here, monkeypatch):
    """All its images, also without one on which to train; --val has those without objects."""
    names = [f"{i}.png" for i in range(5)]
    coco_json(here / "annotations" / "instances_val2017.json", names)
    for name in names:
        picture(here / "val2017" / name)
    assert evaluated(monkeypatch, f"--dataset={here}") == names
    with pytest.raises(cli._UsageError, match="images to train on. Received: a validation set"):
        sets_of(f"--dataset={here}")
    coco_json(here / "annotations" / "instances_train2017.json", ["gone.png"])
    assert evaluated(monkeypatch, f"--dataset={here}") == names
    data = json.loads((here / "annotations" / "instances_val2017.json").read_text())
    data["annotations"] = data["annotations"][:2]
    (here / "val2017" / "some.json").write_text(json.dumps(data))
    assert evaluated(monkeypatch, f"--dataset={here}", "--val=val2017/some.json") == names


def evaluated(monkeypatch, *arguments):
    """Names of the images that `evaluate` takes."""
    from mrcnn import annotations

    class StopError(Exception):
        pass

    def stop(found, names):
        taken.extend(image.name for image in found.images)
        raise StopError

    taken = []
    args = cli._parse(["evaluate", "--weights=none", *map(str, arguments)])
    with monkeypatch.context() as patch, pytest.raises(StopError):
        patch.setattr(cli, "_model_of", lambda args, known: (None, ["BG", "cat"], None))
        patch.setattr(annotations, "dataset_of", stop)
        cli._evaluate(args)
    return sorted(taken)


def yolo_images(here, *names):
    for name in names:
        picture(here / "images" / f"{name}.png")
        label = here / "labels" / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 .1 .1 .5 .1 .5 .5\n")


@pytest.mark.parametrize("form", ("years", "yaml", "list", "roboflow", "both", "darknet"))
def test_subsets_of_yolo(here, form):
    """By the yaml's folders or lists, else by the folders' names; a stray json changes nothing."""
    (here / "notes.json").write_text("{}")
    folder, held_out, lines = {
        "years": ("train2017", "val2017", ""),
        "yaml": ("pool", "holdout", "train: images/pool\nval: [images/holdout]\n"),
        "list": ("pool", "holdout", "path: .\ntrain: images/pool\nval:\n- val.txt\n"),
        "roboflow": ("pool", "holdout", "train: ../images/pool\nval: ../images/holdout\n"),
        # Programs that insist on both name one folder twice: here the names of folders say it.
        "both": ("train", "valid", "train: images\nval: images\n"),
        "darknet": ("obj_train_data", "obj_val_data", ""),
    }[form]
    (here / "data.yaml").write_text(f"{lines}names: [cat]\n")
    (here / "val.txt").write_text("./images/holdout/b.png\nimages/holdout/gone.png\n")
    yolo_images(here, f"{folder}/a", f"{held_out}/b")
    expected = [[f"images/{folder}/a.png"], [f"images/{held_out}/b.png"]]
    assert sets_of(f"--dataset={here}") == expected
    assert sets_of("--dataset=data.yaml") == expected


# ---- Detecting -----------------------------------------------------------------------------------


class Finds:
    """Finds an object of class 13 of COCO's 80 in the corner of every picture."""

    def __init__(self, config):
        self.config = config

    def detect(self, images, masks="dense"):
        results = []
        for image in images:
            mask = np.zeros((*image.shape[:2], 1), bool)
            mask[2:12, 2:12] = True
            results.append(
                {
                    "rois": np.array([[2, 2, 12, 12]]),
                    "class_ids": np.array([12]),
                    "scores": np.array([0.9]),
                    "masks": mask,
                }
            )
        return results


@pytest.fixture
def finds(monkeypatch, here):
    """A model in the place of the network; what it was loaded with."""
    given = []

    def load_model(mode, config, args):
        given.append((mode, config, args.weights))
        return Finds(config)

    monkeypatch.setattr(commands, "load_model", load_model)
    monkeypatch.setattr(commands, "COCO_WEIGHTS", here / "coco.h5")
    (here / "coco.h5").write_bytes(b"")
    return given


def test_detect_with_coco(here, capsys, finds):
    """From a folder with a photograph alone, options before, between and behind the inputs."""
    picture(here / "photo.jpg")
    picture(here / "more" / "b.png")
    code, out, _ = run(capsys, "detect", "photo.jpg", "--weights=coco", "more", "--json")
    done = json.loads(out)
    assert code == 0 and done["pictures"] == done["objects"] == 2 and done["skipped"] == []
    mode, settings, weights = finds[0]
    assert (mode, settings.NUM_CLASSES, settings.NAME) == ("inference", 81, "coco")
    assert settings.BATCH_SIZE == 1 and weights == "coco"
    rows = json.loads((here / "results" / "results.json").read_text())
    assert {row["category_id"] for row in rows} == {13}  # stop sign: 12 of 80, of COCO's ids 13
    index = json.loads((here / "results" / "images.json").read_text())
    assert {"id": 13, "name": "stop sign"} in index["categories"]


def test_detect_with_what_training_left(here, capsys, finds):
    """Classes and settings lie beside the weights; --config and --set go before."""
    picture(here / "a.png")
    run_folder = here / "logs" / "mrcnn20260101T0000"
    run_folder.mkdir(parents=True)
    (run_folder / "mrcnn_0001.h5").write_bytes(b"")
    names = ["BG", *(f"kind {i}" for i in range(1, 14))]
    (run_folder / "classes.json").write_text(json.dumps(names))
    settings = {"NUM_CLASSES": 14, "IMAGE_MAX_DIM": 512, "MEAN_PIXEL": [1, 2, 3]}
    (run_folder / "settings.json").write_text(json.dumps(settings))
    weights = f"--weights={run_folder / 'mrcnn_0001.h5'}"
    code, _, err = run(capsys, "detect", "a.png", weights, "--set", "IMAGE_MIN_DIM=256")
    assert code == 0, err
    used = finds[0][1]
    assert (used.NUM_CLASSES, used.IMAGE_MAX_DIM, used.IMAGE_MIN_DIM) == (14, 512, 256)
    assert used.MEAN_PIXEL.tolist() == [1, 2, 3]
    index = json.loads((here / "results" / "images.json").read_text())
    assert index["categories"][11] == {"id": 12, "name": "kind 12"}
    run(capsys, "detect", "a.png", weights, "--small")
    assert finds[1][1].NUM_CLASSES == 14 and finds[1][1].IMAGE_MAX_DIM == 128
    (run_folder / "settings.json").write_text('{"ODD": 1}')
    code, _, err = run(capsys, "detect", "a.png", weights)
    assert code == 1 and "an object of settings and their values" in err


def test_export_and_tiles_pass_their_options(here, capsys, monkeypatch):
    """What each option says arrives where it is asked for."""
    given = []

    class Model(Finds):
        def export(self, path, **options):
            given.append({"path": path, **options})
            return path

        def detect(self, images, masks="dense", tile=None, overlap=None):
            given.append((tile, overlap, [image.shape for image in images]))
            return super().detect(images)

    monkeypatch.setattr(commands, "load_model", lambda mode, config, args: Model(config))
    monkeypatch.setattr(commands, "COCO_WEIGHTS", here / "coco.h5")
    (here / "coco.h5").write_bytes(b"")
    options = "--weights=coco --size 64 96 --precision=float16 --batch=2 --paste --json"
    code, out, err = run(capsys, "export", "m.onnx", *options.split())
    assert code == 0 and json.loads(out) == {"file": "m.onnx"}, err
    names = given[0].pop("class_names")
    assert len(names) == 81 and names[13 - 1] == "stop sign"
    expected = dict(path="m.onnx", size=[64, 96], precision="float16", batch=2, paste=True)
    assert given.pop() == expected
    picture(here / "a.png")
    (here / "many").mkdir()
    for number in range(3):
        picture(here / "many" / f"{number}.png")
    (here / "many" / "notes.txt").write_text("no image")
    words = "m.onnx --weights=coco --precision=int8 --calibrate many a.png"
    code, _, err = run(capsys, "export", *words.split())
    assert code == 0, err
    images = list(given.pop()["calibration"])
    assert [image.shape for image in images] == [(40, 60, 3)] * 4
    code, _, err = run(capsys, "export", *words.replace("many", "none").split())
    assert code == 1 and "Received: none" in err and not given
    for tiles in ("--tile=32 --overlap=8", "--tile=32"):
        code, _, err = run(capsys, "detect", "a.png", "--weights=coco", *tiles.split())
        assert code == 0, err
    assert given == [(32, 8, [(40, 60, 3)]), (32, 6, [(40, 60, 3)])]
    code, _, err = run(capsys, "detect", "a.png", "--weights=coco", "--overlap=8")
    assert code == 2 and "--overlap goes with --tile" in err


def test_images_of_a_calibration_are_spread_over_what_can_be_read(here, monkeypatch):
    """A text before each image, whose number is its width; a video's frames are its red."""
    from mrcnn import commands, media

    (here / "many").mkdir()
    for number in range(10, 26):
        (here / "many" / f"{number}.json").write_text("{}")
        picture(here / "many" / f"{number}.png", (number, 10))
    monkeypatch.setattr(commands, "CALIBRATION_IMAGES", 16)
    images = list(commands._calibration_images(["many"]))
    assert sorted(image.shape[1] for image in images) == list(range(10, 26))
    monkeypatch.setattr(commands, "CALIBRATION_IMAGES", 4)
    images = list(commands._calibration_images(["many/*.png"]))
    assert [image.shape[1] for image in images] == [10, 14, 18, 22]
    with media.VideoWriter(here / "film.mp4", rate=10) as video:
        for number in range(40):
            video.write(np.full((32, 48, 3), 6 * number, np.uint8))
    images = list(commands._calibration_images(["film.mp4"]))
    reds = [image.mean() for image in images]
    np.testing.assert_allclose(reds, [0, 60, 120, 180], atol=4)
    images = list(commands._calibration_images(["film.mp4", "many/10.png", "many/11.png"]))
    assert [image.shape[1] for image in images] == [48, 10, 11]
    images = commands._calibration_images(["film.mp4", "many/10.png"])
    places = [(image.shape[1], images.place) for image in images]
    expected = [(48, "film.mp4, frame 0"), (48, "film.mp4, frame 20"), (10, "many/10.png")]
    assert places == expected


def test_exported_models_are_known_and_numbered_as_coco(here, monkeypatch, caplog):
    """The folder that an export writes too; an AP without weak detections is said to be too low."""
    from mrcnn import coco, runtime

    for name in ("served/1", "versions/12", "other/1", "flat"):
        (here / name).mkdir(parents=True)
        if name != "other/1":
            (here / name / "saved_model.pb").write_bytes(b"")
    (here / "two.xml").write_bytes(b"")  # of OpenVINO, as "two.bin"
    known = ("served", "served/1", "versions", "flat", "m.onnx", "m.XML", "a/m.tflite", "two.bin")
    assert all(cli._is_exported(path) for path in (*known, "flat/saved_model.pb"))
    others = ("other", "none", "coco", "m.h5", "m.bin", ".")
    assert not any(cli._is_exported(path) for path in others)
    names = ["BG", *coco.CATEGORIES.values()]
    model = types.SimpleNamespace(class_names=names, config=config.Config())
    asked = []
    monkeypatch.setattr(runtime, "load", lambda *args: asked.append(args) or model)
    words = ["a.png", "--weights=served", "--threads=3", "--device=gpu"]
    args = cli._parse(["detect", *words])
    assert cli._inference_model(args)[2] == dict(enumerate(coco.CATEGORIES, 1))
    assert asked == [("served", 3, "gpu")]
    names[1] = "mascot"
    assert cli._inference_model(args)[2] is None
    cli._warn_of_limit(model, args)
    (line,) = caplog.messages
    assert line.startswith("served leaves out detections with scores below 0.7")
    model.config.DETECTION_MIN_CONFIDENCE = 0.0
    cli._warn_of_limit(model, args)
    assert len(caplog.messages) == 1


def test_settings_are_kept_beside_the_weights(here):
    settings = config.SmallConfig(NUM_CLASSES=4, MEAN_PIXEL=np.array([1.0, 2.0, 3.0]))

    training.describe_run(here, settings, ["BG", "a", "b", "c"])
    loaded = config.Config(**commands.load_settings(here / "settings.json"))
    assert json.loads((here / "classes.json").read_text()) == ["BG", "a", "b", "c"]
    for name in config.setting_names():
        assert np.array_equal(getattr(loaded, name), getattr(settings, name)), name


def test_a_run_that_goes_on_with_other_settings_is_said(here, caplog):
    class Model:
        log_dir = str(here)
        config = config.SmallConfig(NUM_CLASSES=4, SEED=1)

    commands.warn_of_other_settings(Model)
    training.describe_run(here, Model.config, ["BG"])
    commands.warn_of_other_settings(Model)
    assert not caplog.messages
    Model.config = config.SmallConfig(NUM_CLASSES=4, SEED=2, BBOX_LOSS="giou")
    commands.warn_of_other_settings(Model)
    (message,) = caplog.messages
    assert str(here) in message and "SEED was 1, is 2" in message
    assert "BBOX_LOSS was the default, is 'giou'" in message


def test_a_sample_with_nothing_left_to_train_says_so(here, caplog, monkeypatch):
    class Model:
        log_dir = str(here)
        config = config.SmallConfig(SEED=0)
        epoch = 17

    monkeypatch.setattr(commands, "load_model", lambda mode, settings, args: Model)
    args = argparse.Namespace(restart=False, weights="none", epochs=11, logs=str(here))
    assert commands.train_on(Model.config, pytest.fail, None, args) == 0
    assert caplog.messages == [
        f"Nothing is trained: {here} has 17 epochs, --epochs is 11. --restart begins again"
    ]


def test_a_folder_of_checkpoints_is_told_how_to_be_named(here, capsys):
    """Before a network is built; an exported model's folder is another matter."""
    (here / "logs" / "run").mkdir(parents=True)
    picture(here / "a.png")
    for command in ("detect a.png", "evaluate --dataset=.", "export m.onnx", "train --dataset=."):
        code, _, err = run(capsys, *command.split(), "--weights=logs")
        assert code == 1 and "--weights=last --logs=logs takes the newest" in err, err


def test_weights_of_others_tell_what_they_can(here):
    import h5py

    with h5py.File(here / "w.h5", "w") as file:
        layers = {"mrcnn_class_logits": (8, 5), "res4w_branch2a": (1, 1, 2, 2)}
        file.attrs["layer_names"] = np.array(sorted(layers), "S")
        for name, shape in layers.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/kernel:0".encode()]
            group[f"{name}/kernel:0"] = np.zeros(shape, "float32")
    found = cli._settings_in_weights(str(here / "w.h5"))
    assert found == {"NUM_CLASSES": 5, "BACKBONE": "resnet101"}


def test_coco_weights_without_a_network(here, capsys, monkeypatch):
    """One line that says where the file may be put."""
    from mrcnn import utils

    monkeypatch.setattr(utils, "COCO_MODEL_URL", "http://127.0.0.1:9/mask_rcnn_coco.h5")
    monkeypatch.setattr(commands, "COCO_WEIGHTS", here / "cache" / "mask_rcnn_coco.h5")
    picture(here / "a.png")
    code, _, err = run(capsys, "detect", "a.png", "--weights=coco")
    last = err.splitlines()[-1]
    assert code == 1 and "http://127.0.0.1:9/mask_rcnn_coco.h5 can't be downloaded" in last
    assert f"put the file at {here / 'cache' / 'mask_rcnn_coco.h5'}" in last
    assert "Traceback" not in err


def test_cache_folder(here, monkeypatch):
    from mrcnn import files

    monkeypatch.delenv("MRCNN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(here))
    assert files.cache_folder() == here / "mrcnn"
    monkeypatch.setenv("MRCNN_CACHE", str(here / "own"))
    assert files.cache_folder() == here / "own"


@pytest.mark.heavy
def test_train_evaluate_detect_export(here, short_bodies, capsys):
    """The commands one after the other, for real; each goes on with what the one before left."""
    import miniature
    import toy

    miniature.photographs(here / "photos", 12)
    code, out, err = run(
        capsys,
        *("train", "--dataset=photos", "--weights=none", "--small", "--epochs=1", "--json"),
        *(*toy.OPTIONS, "STEPS_PER_EPOCH=2", "VALIDATION_STEPS=1"),
    )
    assert code == 0, err
    done = json.loads(out)
    assert done["classes"] == ["coin", "leaf"] and done["epochs"] == 1
    assert pathlib.Path(done["weights"]).is_file()
    training_page = pathlib.Path(done["folder"], "training.html").read_text()
    assert "Epoch 1 of 1" in training_page and training_page.count("<img ") == 4
    assert "learning rate" in training_page and "mrcnn_mask_loss" in training_page
    code, out, err = run(capsys, "evaluate", "--dataset=photos", "--json", "--report")
    assert code == 0, err
    figures = json.loads(out)
    assert figures["report"] == "results/report.html"
    assert done["weights"] in (here / "results" / "report.html").read_text()
    assert figures["images"] >= 1 and 0 <= figures["segm"]["AP"] <= 1
    first = sorted((here / "photos").glob("*.jpg"))[0]
    code, out, err = run(capsys, "detect", first, "--json", "--output=found")
    assert code == 0 and json.loads(out)["pictures"] == 1, err
    code, out, _ = run(capsys, "inspect", done["weights"], "--json")
    assert json.loads(out)["inspected"][0]["num_classes"] == 3


def test_a_video_is_inspected(here, capsys):
    """It was "expected a json file"."""
    pytest.importorskip("cv2")
    from mrcnn import media

    with media.VideoWriter(here / "film.mp4", rate=10) as video:
        for _ in range(5):
            video.write(np.zeros((48, 64, 3), np.uint8))
    code, out, _ = run(capsys, "inspect", here / "film.mp4", "--json")
    assert code == 0
    (entry,) = json.loads(out)["inspected"]
    assert entry == {
        "video": str(here / "film.mp4"),
        "frames": 5,
        "frames per second": 10.0,
        "height": 48,
        "width": 64,
    }
    (here / "cut.mp4").write_bytes((here / "film.mp4").read_bytes()[:100])
    code, _, err = run(capsys, "inspect", here / "cut.mp4")
    assert code == 1 and "video" in err and err.count("\n") == 1


# ---- Runs in --logs ------------------------------------------------------------------------------


def run_of(logs, name, epochs=(1,), time="20261130T1200"):
    """Makes the folder of a run with files for checkpoints."""
    folder = logs / f"{name}{time}"
    folder.mkdir(parents=True)
    for epoch in epochs:
        (folder / f"mask_rcnn_{name}_{epoch:04d}.h5").write_bytes(b"")
    return folder


def last_of(logs, name="mrcnn"):
    return cli._resolve_last(argparse.Namespace(weights="last", logs=str(logs), name=name))


def test_the_last_run_of_another_name(tmp_path, caplog):
    """Runs of a sample in --logs were not found: they are named by it, not by the command."""
    run_of(tmp_path, "shapes", time="20261130T1100")
    folder = run_of(tmp_path, "shapes", (2, 10))
    (tmp_path / "leaves20261130T1300").mkdir()  # without a checkpoint
    path = str(folder / "mask_rcnn_shapes_0010.h5")
    assert last_of(tmp_path) == path and path in caplog.text
    assert last_of(folder) == path
    caplog.clear()
    assert last_of(tmp_path, "Shapes") == path and not caplog.text
    with pytest.raises(FileNotFoundError, match="_leaves_.* the name shapes; --name=shapes takes"):
        last_of(tmp_path, "leaves")
    own = run_of(tmp_path, "mrcnn", time="20251130T1100")
    assert last_of(tmp_path) == str(own / "mask_rcnn_mrcnn_0001.h5") and not caplog.text


def test_runs_of_several_other_names_are_listed(tmp_path):
    run_of(tmp_path, "shapes")
    run_of(tmp_path, "my cells", time="20261130T1300")
    with pytest.raises(FileNotFoundError, match="my cells, shapes; --name='my cells' takes"):
        last_of(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"<time> of \S+$"):
        last_of(tmp_path / "none20261130T1200")


@pytest.mark.parametrize(
    "layers, first_epoch, begins_with",
    [(".*", 0, "all"), (".*", 20, "heads"), ("(mrcnn_.*)|(rpn_.*)|(fpn_.*)", 0, "heads")],
    ids=["from nothing", "after the heads", "heads"],
)
def test_a_run_goes_on_with_the_layers_that_it_began_with(
    tmp_path, layers, first_epoch, begins_with
):
    """`train --weights=none`, then --weights=last: heads alone, on a backbone of random weights."""
    import h5py

    folder = run_of(tmp_path, "mrcnn", (2,))
    state = {"plan": {"layers": layers}, "first_epoch": first_epoch}
    with h5py.File(training.resume_path(str(folder), "mrcnn"), "w") as file:
        file.attrs["mrcnn_run"] = json.dumps(state)
    args = argparse.Namespace(weights="last", logs=str(tmp_path), name="mrcnn", small=False)
    assert cli._stages(args)[0][1] == begins_with
    assert cli._stages(argparse.Namespace(weights="coco", small=False))[0][1] == "heads"
    assert cli._stages(argparse.Namespace(weights="none", small=False)) == [(3, "all", 1.0)]


# ---- Tracking ------------------------------------------------------------------------------------


class CountingTracker:
    """Numbers objects by the frames that it has seen."""

    def __init__(self, rate=30.0, frames=0):
        self.frames = frames

    def copy(self):
        return CountingTracker(frames=self.frames)

    def update(self, result):
        self.frames += 1
        return np.array([self.frames], np.int32)


@pytest.mark.parametrize("fails_at", [0, 2])
def test_frames_that_are_tried_again_are_tracked_once(tmp_path, monkeypatch, fails_at):
    """Where memory was too small for a batch, its frames came one by one after the tracker had
    already seen them."""
    monkeypatch.setattr(neighbours, "Tracker", CountingTracker)
    monkeypatch.setattr(media, "video_info", lambda path: (6, 10.0))
    result = {"rois": np.zeros((1, 4)), "class_ids": np.array([1]), "scores": np.ones(1)}
    monkeypatch.setattr(commands, "_detect", lambda model, all, *_: [dict(result) for _ in all])
    monkeypatch.setattr(commands.evaluation, "coco_results", lambda number, result, ids: [])
    noted = []

    def paint(picture, result):
        if len(pending) == 2 and picture.frame == fails_at + 1:
            raise MemoryError
        noted.append((picture.frame, result["track_ids"].tolist()))
        return picture.image

    settings = types.SimpleNamespace(NUM_CLASSES=2, BATCH_SIZE=2)
    model = types.SimpleNamespace(config=settings)
    args = argparse.Namespace(output=str(tmp_path), track=True, tile=None, overlap=None)
    detection = commands._DetectRun(model, ["BG", "a"], args, None, paint)
    image = np.zeros((4, 4, 3), np.uint8)
    frames = [media.Picture(tmp_path / "a.mp4", image, frame) for frame in range(6)]
    for first in range(0, 6, 2):
        pending = frames[first : first + 2]
        try:
            detection._detect_batch(pending)
        except MemoryError:
            noted = [row for row in noted if row[0] < first]
            for single in frames[first : first + 2]:
                pending = [single]
                detection._detect_batch(pending)
    assert noted == [(frame, [frame + 1]) for frame in range(6)]
