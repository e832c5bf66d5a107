"""samples/coco/coco.py as its users call it: commands, options, functions, mistakes."""

import argparse
import json
import logging
import pathlib
import runpy
import subprocess
import sys

import generated_coco
import numpy as np
import oracle
import pytest
import toy

from mrcnn import commands, media

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "samples" / "coco" / "coco.py"
SMALL = [
    *toy.OPTIONS,
    "STEPS_PER_EPOCH=1",
    "VALIDATION_STEPS=1",
    "IMAGES_PER_GPU=1",
    "WORKERS=1",
    "SEED=0",  # some networks of random weights find background alone
]


@pytest.fixture(scope="module")
def coco():
    """Imported as scripts do: the sample's folder on the path, `import coco`."""
    sys.path.insert(0, str(ROOT / "samples" / "coco"))
    try:
        import coco
    finally:
        sys.path.pop(0)
    assert pathlib.Path(coco.__file__).parent == ROOT / "samples" / "coco"
    return coco


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    generated_coco.write(folder, "train", images=4, first=1)
    generated_coco.write(folder, "val", images=4)
    return folder


def test_categories_are_those_of_the_official_file(coco):
    official = json.loads(
        (oracle.shared("data/coco-mini") / "annotations" / "instances_val2017.json").read_text()
    )
    assert {each["id"]: each["name"] for each in official["categories"]} == coco.CATEGORIES
    assert coco.CocoConfig().NUM_CLASSES == 81 and coco.CocoConfig.NAME == "coco"


@pytest.mark.heavy
def test_train_evaluate_detect(coco, data, short_bodies, tmp_path, capsys):
    """The three commands one after the other; training is taken up; files are complete."""
    logs, out = ["--logs", str(tmp_path / "logs")], ["--output", str(tmp_path / "out")]
    train = ["train", f"--dataset={data}", "--year=2017", "--download=False", *logs, *SMALL]
    coco.main([*train, "--weights=none", "--epochs=1", "--evaluate-every=1", "--limit=2"])
    coco.main([*train, "VALIDATION_STEPS=0", "--model=last", "--epochs=2"])
    (run,) = (tmp_path / "logs").iterdir()
    assert {"mask_rcnn_coco_0001.h5", "mask_rcnn_coco_0002.h5"} <= {
        each.name for each in run.iterdir()
    }

    capsys.readouterr()
    coco.main(
        ["evaluate", f"--dataset={data}", "--limit=3", *logs, *out, *SMALL]
    )  # the year is found
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("bright", "ring", "mask AP50", "ARl", "confusion.png"))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results and {row["category_id"] for row in results} <= {3, 17, 90}
    assert {row["image_id"] for row in results} <= {100, 103, 106}

    photos = data / "val2017"
    with media.VideoWriter(tmp_path / "in" / "film.mp4", 5) as video:
        for _ in range(3):
            video.write(media.read_image(photos / "000000000100.jpg"))
    (tmp_path / "in" / "broken.jpg").write_text("nothing")
    coco.main(
        [
            "detect",
            str(tmp_path / "in"),
            "--image",
            str(photos / "*.jpg"),
            f"--dataset={data}",
            *logs,
            *out,
            *SMALL,
            "DETECTION_MIN_CONFIDENCE=0",
        ]
    )
    captured = capsys.readouterr()
    assert "on 6 images, 1 files skipped" in captured.out and "film.mp4" in captured.out
    written = [
        pathlib.Path(line) for line in captured.out.splitlines() if line.startswith(str(tmp_path))
    ]
    assert len(written) == 6 and all(path.exists() for path in written)
    assert media.video_info(next(path for path in written if path.suffix == ".mp4")) == (3, 5)
    from pycocotools.coco import COCO

    index = COCO(str(tmp_path / "out" / "images.json"))
    loaded = index.loadRes(str(tmp_path / "out" / "results.json"))
    assert len(index.imgs) == 6 and {each["name"] for each in index.cats.values()} == {
        "bright",
        "dark",
        "ring",
    }
    assert {a["image_id"] for a in loaded.anns.values()} <= set(index.imgs)
    assert [each.get("frame") for each in index.dataset["images"]].count(1) == 1
    first = loaded.annToMask(next(iter(loaded.anns.values())))
    assert first.shape == (72, 96)


class Detects:
    """A model that finds the same object on every image."""

    def __init__(self):
        from mrcnn.config import Config

        self.config = Config(NUM_CLASSES=4, IMAGES_PER_GPU=1)

    def detect(self, images):
        mask = np.zeros((*images[0].shape[:2], 1), bool)
        mask[10:30, 10:40] = True
        return [
            {
                "rois": np.array([[10, 10, 30, 40]]),
                "class_ids": np.array([3]),
                "scores": np.array([0.5]),
                "masks": mask,
            }
        ]


def test_functions_of_existing_code(coco, data, capsys):
    dataset = coco.CocoDataset()
    official = dataset.load_coco(str(data), "val", year="2017", return_coco=True)
    dataset.prepare()
    result = Detects().detect([np.zeros((72, 96, 3), np.uint8)])[0]
    rows = coco.build_coco_results(
        dataset, [100], result["rois"], result["class_ids"], result["scores"], result["masks"]
    )
    assert [(row["image_id"], row["category_id"], row["bbox"], row["score"]) for row in rows] == [
        (100, 90, [10, 10, 30, 20], 0.5)
    ]
    assert len(official.loadRes(rows).anns) == 1
    assert coco.build_coco_results(dataset, [100], None, [], [], None) == []
    done = coco.evaluate_coco(Detects(), dataset, official, "segm", limit=2)
    assert done.images == 2 and "mask AP" in capsys.readouterr().out
    assert (
        coco.evaluate_coco(
            Detects(), dataset, official, "bbox", image_ids=dataset.image_ids[:1]
        ).images
        == 1
    )
    with pytest.raises(ValueError, match="Received: 'keypoints'"):
        coco.evaluate_coco(Detects(), dataset, official, "keypoints")


def test_subclasses_work(coco, data):
    """The original's super(self.__class__, self) recursed forever in a subclass (README 28)."""

    class Mine(coco.CocoDataset):
        def load_mask(self, image_id):
            return super().load_mask(image_id)

        def image_reference(self, image_id):
            return super().image_reference(image_id)

    dataset = Mine()
    dataset.load_coco(data, "val", "2017")
    dataset.add_image("other", 1, path="x.png", height=4, width=4)
    dataset.prepare()
    assert dataset.load_mask(0)[0].shape == (72, 96, 4) and dataset.image_reference(0).endswith(
        "id=100"
    )
    assert dataset.load_mask(4)[0].shape == (4, 4, 0) and dataset.image_reference(4) == "x.png"


def test_stages():
    """Each stage trains to its last epoch; what the weights are beyond is left out; --epochs cuts
    or goes on."""

    class Model:
        def __init__(self, epoch):
            self.epoch, self.config, self.calls = epoch, argparse.Namespace(LEARNING_RATE=0.1), []

        def train(self, train_set, val_set, rate, epochs, layers, **kwargs):
            self.calls.append((epochs, layers, round(rate, 4)))
            self.epoch = epochs

    stages = [(40, "heads", 1.0), (120, "4+", 1.0), (160, "all", 0.1)]
    for epoch, last, expected in (
        (0, None, [(40, "heads", 0.1), (120, "4+", 0.1), (160, "all", 0.01)]),
        (40, None, [(120, "4+", 0.1), (160, "all", 0.01)]),
        (7, 30, [(30, "heads", 0.1)]),
        (130, 200, [(160, "all", 0.01), (200, "all", 0.01)]),
    ):
        model = Model(epoch)
        commands.train(
            model, None, None, stages, argparse.Namespace(epochs=last, evaluate_every=0, limit=0)
        )
        assert model.calls == expected
    with pytest.raises(ValueError, match="reached epoch 160 of 160"):
        commands.train(
            Model(160),
            None,
            None,
            stages,
            argparse.Namespace(epochs=None, evaluate_every=0, limit=0),
        )


def test_weights_that_cannot_detect(tmp_path):
    from mrcnn.config import Config

    for weights, text in (("coco", "They know 80 classes"), ("imagenet", "They have no heads")):
        with pytest.raises(ValueError, match=f"detect 3 classes .*{text}"):
            commands.load_model(
                "inference",
                Config(NUM_CLASSES=4),
                argparse.Namespace(weights=weights, logs=tmp_path),
            )


def test_download_is_a_boolean():
    """`type=bool` of the original took "False" for true (README 28)."""
    parser = argparse.ArgumentParser()
    commands.add_boolean(parser, "--download", "")
    for words, value in (
        ([], False),
        (["--download"], True),
        (["--download=True"], True),
        (["--download", "true"], True),
        (["--download=False"], False),
        (["--download", "0"], False),
    ):
        assert parser.parse_args(words).download is value
    with pytest.raises(SystemExit):
        parser.parse_args(["--download=perhaps"])


def test_2014_parts(coco, tmp_path, monkeypatch):
    """Where the divided validation set of 2014 is there, its larger part is trained on; 2017 has
    none."""
    for subset in ("train", "valminusminival", "minival", "val"):
        path = tmp_path / "annotations" / f"instances_{subset}2014.json"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    args = argparse.Namespace(dataset=str(tmp_path), download=False, subset=None)
    assert coco._subsets(args, "2014", True) == ["train", "valminusminival"] and coco._subsets(
        args, "2014", False
    ) == ["minival"]
    assert coco._subsets(args, "2017", True) == ["train"] and coco._subsets(
        args, "2017", False
    ) == ["val"]
    (tmp_path / "annotations" / "instances_valminusminival2014.json").unlink()
    assert coco._subsets(args, "2014", True) == ["train"] and coco._year(tmp_path) == "2014"


def test_2014_parts_that_are_gone(coco, tmp_path, monkeypatch, capsys):
    """Their server is not COCO's: without it training goes on, and validation uses the whole
    set."""
    from mrcnn import coco as rooms

    generated_coco.write(tmp_path, "train", "2014", images=2)
    generated_coco.write(tmp_path, "val", "2014", images=4, first=50)
    monkeypatch.setattr(
        rooms, "PARTS_2014", {part: (tmp_path / "gone.zip").as_uri() for part in rooms.PARTS_2014}
    )
    args = argparse.Namespace(
        dataset=str(tmp_path),
        download=True,
        subset=None,
        annotations=None,
        year="2014",
        crowds="auto",
    )
    assert (
        coco.load(args, training=True).num_images == 2
        and "going on without it" in capsys.readouterr().err
    )
    assert coco.load(args).num_images == 4 and "val is used instead" in capsys.readouterr().err
    args.subset = "minival"
    with pytest.raises(OSError, match="gone.zip can't be downloaded"):
        coco.load(args)


def arguments(folder, **settings):
    """What the command line gives `load`."""
    given = dict(download=False, subset=None, annotations=None, year=None, crowds="auto")
    return argparse.Namespace(**{**given, "dataset": str(folder), "images": None, **settings})


# Where exports have the json and the images of train and, if they have it, val.
LAYOUTS = {
    "COCO": ("annotations/instances_train2014.json", "train2014", "annotations/instances_val2014.json", "val2014"),
    "CVAT, one subset": ("annotations/instances_default.json", "images", None, None),
    "CVAT, images by subset": ("annotations/instances_default.json", "images/default", None, None),
    "CVAT, subsets": ("annotations/instances_Train.json", "images/Train", "annotations/instances_Validation.json", "images/Validation"),
    "Roboflow": ("train/_annotations.coco.json", "train", "valid/_annotations.coco.json", "valid"),
    "Roboflow, train alone": ("train/_annotations.coco.json", "train", None, None),
    "Label Studio": ("result.json", "images", None, None),
    "FiftyOne": ("labels.json", "data", None, None),
    "FiftyOne, splits": ("train/labels.json", "train/data", "validation/labels.json", "validation/data"),
    "labelme2coco": ("train.json", ".", "val.json", "."),
    "LabelMe": ("annotations.json", "JPEGImages", None, None),
    "one more folder": ("export/annotations/instances_default.json", "export/images", None, None),
    "makesense": ("labels_my-project_2023-01-01.json", ".", None, None),
    "images and annotations": ("annotations/train.json", "images/train", "annotations/val.json", "images/val"),
    "years": ("instances_train2014.json", "train2014", "instances_val2014.json", "val2014"),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_exports(coco, layout, tmp_path, caplog):
    """As they were unpacked: the json and the images are found, and without a json for validation
    nothing is validated on what is trained on (issue 19, row 12)."""
    train_json, train_images, val_json, val_images = LAYOUTS[layout]
    folder = tmp_path / "data"
    for target, place, first in ((train_json, train_images, 1), (val_json, val_images, 50)):
        if target is None:
            continue
        made = tmp_path / f"made{first}"
        generated_coco.write(made, "x", "", images=2, first=first)
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).mkdir(parents=True, exist_ok=True)
        (made / "annotations" / "instances_x.json").rename(folder / target)
        for image in (made / "x").iterdir():
            image.rename(folder / place / image.name)
    args = arguments(folder)
    train_set = coco.load(args, training=True)
    assert [info["id"] for info in train_set.image_info] == [1, 4]
    assert train_set.load_image(1).shape == (72, 96, 3) and train_set.load_mask(1)[0].any()
    assert coco._has_validation(args) == (val_json is not None)
    if val_json is not None:
        assert [info["id"] for info in coco.load(args).image_info] == [50, 53]
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    if layout != "COCO":
        given = arguments(folder, annotations=str(folder / train_json))
        assert coco.load(given).num_images == 2


def test_several_jsons_that_may_be_meant(coco, tmp_path):
    """None is guessed."""
    generated_coco.write(tmp_path, "one", "", images=2)
    generated_coco.write(tmp_path, "two", "", images=2)
    with pytest.raises(FileNotFoundError, match="annotations has instances_one.json, instances_tw"):
        coco.load(arguments(tmp_path))


@pytest.mark.heavy
def test_mistakes_are_one_message(data, tmp_path, monkeypatch, capsys):
    """As a program, in this process: each mistake ends it with one message, and nothing else is
    raised; --help is complete."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.jpg").touch()

    def run(*words):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    _, help_text, _ = run("--help")
    assert all(
        word in help_text
        for word in (
            "--dataset",
            "--model",
            "--weights",
            "--year",
            "--limit",
            "--logs",
            "--download",
        )
    )
    for words, message in (
        (["train", f"--dataset={data}"], "train needs --weights"),
        (["evaluate", "--weights=none"], "evaluate needs --dataset or --annotations"),
        (
            ["evaluate", f"--dataset={tmp_path}/no", "--weights=none"],
            f"No folder {tmp_path}/no, which --dataset names",
        ),
        (
            [
                "evaluate",
                f"--annotations={data}/annotations/instances_val2017.json",
                f"--images={tmp_path}",
                "--weights=none",
            ],
            f"The images are not there, the first is {tmp_path}/000000000100.jpg",
        ),
        (["detect", "--weights=none"], "detect needs images"),
        (["detect", "here.jpg", "--set", "BACKBON=resnet18"], "did you mean BACKBONE?"),
    ):
        code, _, said = run(*words)
        if isinstance(code, str):
            said += code  # Python prints it
        assert code and message in said, said


@pytest.mark.heavy
def test_benchmark_of_the_json_runs(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "benchmarks" / "coco_json.py"),
            "--images",
            "50",
            "--annotations",
            "300",
            "--rounds",
            "1",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "ratio" in done.stdout, done.stderr


@pytest.mark.slow
def test_learns_four_photographs_by_heart(tmp_path):
    """mask AP@.5 above .8 on the photographs that it was trained on, or the script ends with an
    error."""
    folder = oracle.shared("data/coco-mini")
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "benchmarks" / "overfit_coco.py"),
            "--dataset",
            str(folder),
            "--output",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "mask AP@.5" in done.stdout.splitlines()[-1], done.stderr[
        -2000:
    ]
