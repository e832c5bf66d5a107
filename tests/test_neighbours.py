"""`mrcnn.neighbours` where the packages of others are missing; and, run by `make test-neighbours`,
against the real ones in .venv-neighbours, .venv-platforms and .venv-logging."""

import json
import os
import pathlib
import subprocess
import types

import numpy as np
import pytest
from PIL import Image

from mrcnn import annotations, masks as mask_math, neighbours
from mrcnn.config import Config

ROOT = pathlib.Path(__file__).resolve().parents[1]
# What runs with which environment's Python, and what it tells of.
RUNNERS = {
    "MRCNN_NEIGHBOURS": ("neighbours_runner.py", ("supervision", "sahi", "trackers")),
    "MRCNN_PLATFORMS": ("platforms_runner.py", ("label-studio-sdk", "fiftyone")),
    "MRCNN_LOGGING": ("logging_runner.py", ("mlflow", "tensorboard")),
}


@pytest.mark.parametrize("name", ("supervision", "sahi", "trackers", "fiftyone"))
def test_a_package_that_is_missing_is_named(monkeypatch, name):
    import sys

    for module in (name, f"{name}.models.base"):
        monkeypatch.setitem(sys.modules, module, None)
    result = {"class_ids": np.array([1]), "rois": np.zeros((1, 4)), "masks": None, "scores": [1]}
    extra = "neighbours"
    if name == "trackers":
        extra = "tracking"
    if name == "fiftyone":
        extra = "fiftyone"
    with pytest.raises(ImportError, match=rf"pip install {name}.*\[{extra}\]"):
        if name == "sahi":
            neighbours.sahi_model(None, ["BG", "a"])
        elif name == "trackers":
            neighbours.Tracker()
        elif name == "fiftyone":
            neighbours.to_fiftyone(result, ["BG", "a"])
        else:
            neighbours.to_supervision(result, ["BG", "a"])


@pytest.mark.parametrize("variable", RUNNERS)
def test_the_real_packages(tmp_path, variable):
    python = os.environ.get(variable)
    if not python:
        pytest.skip("make test-neighbours runs it")
    script, names = RUNNERS[variable]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run(
        [python, str(ROOT / "tests" / script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for name in names:
        assert name in done.stdout


def test_shares_of_fiftyone():
    """Of whole pixels, which are multiplied and cut off there, none is lost."""
    for side in (*range(1, 70), 1021, 4000):
        starts = range(0, side, max(1, side // 60))
        for start in starts:
            for stop in (start + 1, (start + 1 + side) // 2, side):
                begin, length = neighbours._shares(start, stop, side)
                assert (int(side * begin), int(side * (begin + length))) == (start, stop)
                assert abs(begin - start / side) < 1e-12 and begin + length < 1 + 1e-12


# ---- Label Studio, which needs no package --------------------------------------------------------

NAMES = ["BG", "große Katze", "dog & 犬"]
SHAPE = (40, 60)


def found(form="dense"):
    """A ring with a pixel apart, a bar on the edge, and a mask without a pixel."""
    masks = np.zeros((*SHAPE, 3), bool)
    masks[5:20, 10:30, 0] = True
    masks[10:15, 15:20, 0] = False
    masks[22, 35, 0] = True
    masks[30:40, 50:60, 1] = True
    result = {
        "rois": np.array([[5, 10, 23, 36], [30, 50, 40, 60], [1, 1, 3, 3]], np.int32),
        "class_ids": np.array([1, 2, 1], np.int32),
        "scores": np.array([0.9, 0.6, 0.3], np.float32),
        "masks": masks,
    }
    if form == "rle":
        result["masks"] = mask_math.encode(masks)
    elif form == "none":
        result["masks"] = None
    return result, masks


EMPTY = {
    "rois": np.zeros((0, 4), np.int32),
    "class_ids": np.zeros(0, np.int32),
    "scores": np.zeros(0, np.float32),
    "masks": np.zeros((*SHAPE, 0), bool),
}


def read_back(folder, prediction):
    """A prediction that somebody has accepted, as annotations."""
    Image.new("RGB", SHAPE[::-1]).save(folder / "a.png")
    task = {"id": 1, "data": {"image": "a.png"}, "annotations": [prediction]}
    (folder / "export.json").write_text(json.dumps([task]))
    return annotations.read(folder / "export.json")


@pytest.mark.parametrize("form", ("dense", "rle"))
@pytest.mark.parametrize("kind", (None, "polygonlabels"))
def test_masks_for_label_studio(tmp_path, form, kind):
    """Read back they are the same pixels; one without a pixel is not there."""
    result, masks = found(form)
    prediction = neighbours.to_label_studio(result, NAMES, kind=kind, tolerance=0)
    assert [region["score"] for region in prediction["result"]] == pytest.approx([0.9, 0.6])
    assert prediction["score"] == pytest.approx(0.75) and "model_version" not in prediction
    assert len({region["id"] for region in prediction["result"]}) == 2
    read = read_back(tmp_path, prediction)
    assert [region.name for region in read.images[0].regions] == NAMES[1:]
    np.testing.assert_array_equal(read.images[0].masks(), masks[..., :2])


def test_lazy_masks_for_label_studio():
    soft = np.ones((1, 28, 28), np.float32)
    result, _ = found()
    result = {name: result[name][1:2] for name in ("rois", "class_ids", "scores")}
    result["masks"] = mask_math.Masks(soft, result["rois"], SHAPE)
    (region,) = neighbours.to_label_studio(result, NAMES)["result"]
    mask = mask_math.unpack_brush(region["value"]["rle"], *SHAPE)
    assert mask.sum() == 100 and mask[30:, 50:].all()


def test_boxes_for_label_studio(tmp_path):
    """Of a network of boxes alone, whose image's size has to be given."""
    result, _ = found("none")
    prediction = neighbours.to_label_studio(result, NAMES, (*SHAPE, 3), model_version="7")
    assert prediction["model_version"] == "7"
    assert {region["type"] for region in prediction["result"]} == {"rectanglelabels"}
    masks = read_back(tmp_path, prediction).images[0].masks()
    assert masks[..., 0].sum() == 18 * 26 and masks[5:23, 10:36, 0].all() and masks.shape[-1] == 3
    assert neighbours.to_label_studio(EMPTY, NAMES) == {"result": [], "score": 0.0}
    assert neighbours.to_label_studio({**EMPTY, "masks": None}, NAMES)["result"] == []


@pytest.mark.parametrize(
    "form, options, text",
    (
        ("none", {}, r"image_shape=\(height, width\) does"),
        ("none", {"kind": "brushlabels"}, "brushlabels need masks"),
        ("dense", {"kind": "masks"}, "kind is one of brushlabels.* Received: 'masks'"),
        ("dense", {"image_shape": (60, 40)}, r"that of the masks, \(40, 60\). Received: \(60, 40"),
    ),
    ids=range(4),
)
def test_what_can_be_no_prediction(form, options, text):
    with pytest.raises(ValueError, match=text):
        neighbours.to_label_studio(found(form)[0], NAMES, **options)


class Sees:
    """Finds the same on every image."""

    def __init__(self, use_mask=True):
        self.config = Config(NUM_CLASSES=3, USE_MASK=use_mask)

    def detect(self, images, masks="dense"):
        assert [image.shape for image in images] == [(*SHAPE, 3)]
        if not self.config.USE_MASK:
            return [found("none")[0]]
        return [found(masks)[0]]


def labeling(tag, labels, value="$image"):
    inner = "".join(f'<Label value="{label}"/>' for label in labels).replace("&", "&amp;")
    return (
        f'<View><Text name="t" value="$t"/><Image name="img" value="{value}"/>'
        f'<{tag} name="tag" toName="img">{inner}</{tag}></View>'
    )


def test_tasks_of_label_studio(tmp_path):
    """The tags say what is drawn; classes without a label are left out; EXIF turns the image."""
    path = tmp_path / "a.jpg"
    image = Image.new("RGB", SHAPE)  # stored upright
    exif = image.getexif()
    exif[274] = 6
    image.save(path, exif=exif)
    task = {"id": 1, "data": {"image": str(path), "t": "x"}}
    for tag in ("BrushLabels", "PolygonLabels", "RectangleLabels"):
        studio = neighbours.LabelStudio(Sees(), NAMES, labeling(tag, NAMES[2:]))
        for predictions in (studio.predict([task]), studio.predict([task, task])[1:]):
            (region,) = predictions[0]["result"]
            assert region["type"] == tag.lower() and region["value"][tag.lower()] == NAMES[2:]
            assert (region["from_name"], region["to_name"]) == ("tag", "img")
            assert (region["original_height"], region["original_width"]) == SHAPE
    boxes_alone = neighbours.LabelStudio(
        Sees(use_mask=False), NAMES, labeling("RectangleLabels", [], "$photo")
    )
    asked = []
    task = {"data": {"photo": "s3://x"}}
    (prediction,) = boxes_alone.predict([task], lambda name: asked.append(name) or str(path))
    assert len(prediction["result"]) == 3 and asked == ["s3://x"]
    with pytest.raises(ValueError, match=r"image's address in data\['photo'\]. Received: {'image'"):
        boxes_alone.predict([{"data": {"image": "a.jpg"}}])


def test_labels_of_label_studio(tmp_path, caplog):
    """A label with an alias is called by it; one that no class has is said; a name may be missing."""
    Image.new("RGB", SHAPE[::-1]).save(tmp_path / "a.png")
    config = labeling("BrushLabels", [NAMES[1], "cow", "class 2"])
    config = config.replace(f'value="{NAMES[1]}"', f'value="{NAMES[1]}" alias="cat"')
    studio = neighbours.LabelStudio(Sees(), {0: "BG", 1: NAMES[1]}, config)
    assert "labels of which the model knows no class: cow" in caplog.text
    (prediction,) = studio.predict([{"data": {"image": str(tmp_path / "a.png")}}])
    labels = [region["value"]["brushlabels"] for region in prediction["result"]]
    assert labels == [["cat"], ["class 2"]]


@pytest.mark.parametrize(
    "use_mask, config, text",
    (
        (True, "<View>", "label_config is Label Studio's, in XML"),
        (True, labeling("Choices", ["a"]), "BrushLabels or PolygonLabels or Rect.* Received: View"),
        (False, labeling("BrushLabels", NAMES[1:]), "has RectangleLabels with an Image"),
        (True, labeling("BrushLabels", ["cow"]), "labels of the model's classes.* Received: cow"),
    ),
    ids=range(4),
)
def test_labeling_configs_that_take_no_prediction(use_mask, config, text):
    with pytest.raises(ValueError, match=text):
        neighbours.LabelStudio(Sees(use_mask), NAMES, config)


def test_a_sample_with_a_damaged_image_is_named(tmp_path, caplog):
    """Of a header that is cut off Pillow says "unpack requires a buffer of 4 bytes"."""

    class Sample(dict):
        field_names = ("found",)

        def __init__(self, path):
            super().__init__(found=types.SimpleNamespace(detections=[box]))
            self.filepath = str(path)

    box = types.SimpleNamespace(
        label="a",
        bounding_box=[0, 0, 0.5, 0.5],
        mask=None,
        get_attribute_value=lambda name, default: default,
    )
    Image.new("RGB", (20, 10)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:20])
    samples = [Sample(tmp_path / "whole.png"), Sample(tmp_path / "cut.png")]
    found = neighbours.from_fiftyone(samples, "found")
    assert [image.name for image in found.images] == ["whole.png"]
    assert len(found.problems) == 1 and "cut.png can't be read as an image" in found.problems[0]
    assert "cut.png" in caplog.text
