"""Files of detections without their model: as annotations, and against annotations by a command."""

import json
import os
import types

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn import annotations, cli, commands, config, detections, evaluate
from mrcnn.annotations import AnnotationError

HEIGHT = 40
WIDTH = 60


def square(x, y, side):
    """The polygon of a square."""
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with photos/a.png, b.png and c.png, in which one works."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in "abc":
        Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path


def labels(path, shift=0):
    """COCO's json of a cat and a dog on each photograph; ids from 11 on."""
    images = []
    items = []
    for number, name in enumerate("abc", 11):
        images.append({"id": number, "file_name": f"{name}.png", "height": HEIGHT, "width": WIDTH})
        for category, x in ((7, 5), (9, 30)):
            items.append(
                {
                    "id": len(items) + 1,
                    "image_id": number,
                    "category_id": category,
                    "segmentation": square(x + shift, 10, 12),
                    "area": 144,
                    "bbox": [x + shift, 10, 12, 12],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]
    return write(path, {"images": images, "annotations": items, "categories": categories})


def results(folder, names=("photos/c.png", "photos/a.png"), classes=("dog", "cat")):
    """What `mrcnn detect` writes: both objects of each image, its own ids, and painted copies."""
    rows = []
    images = []
    for number, name in enumerate(names, 1):
        images.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
        for category, x in ((1, 30), (2, 5)):
            row = {"image_id": number, "category_id": category, "score": 0.9}
            rows.append({**row, "segmentation": square(x, 10, 12), "bbox": [x, 10, 12, 12]})
        if name.endswith(".png"):
            folder.mkdir(exist_ok=True)
            Image.new("RGB", (WIDTH, HEIGHT), (255, 0, 0)).save(folder / os.path.basename(name))
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
    index = {"info": {}, "images": images, "annotations": [], "categories": categories}
    write(folder / "images.json", index)
    return write(folder / "results.json", rows)


def run(capsys, *arguments):
    """(exit code, what --json printed or the error, the words)."""
    code = cli.main([*map(str, arguments), "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out), captured.err


# ---- As annotations ------------------------------------------------------------------------------


def test_detections_are_annotations_of_the_images_that_were_detected_on(here, caplog):
    """Not of the painted copies beside the results; an image without a detection is empty."""
    path = results(here / "results", ("photos/c.png", "photos/a.png"))
    rows = json.loads(path.read_text())[:2]
    path.write_text(json.dumps(rows))
    annotated = annotations.read("results/results.json", keep_empty=True)
    assert annotated.classes == ["dog", "cat"]
    assert [image.path for image in annotated.images] == ["photos/c.png", "photos/a.png"]
    first, second = annotated.images
    assert [region.name for region in first.regions] == ["dog", "cat"] and not second.regions
    expected = np.zeros((HEIGHT, WIDTH, 2), bool)
    expected[10:22, 30:42, 0] = expected[10:22, 5:17, 1] = True
    np.testing.assert_array_equal(first.masks(), expected)
    assert "2 detections are read as annotated objects" in caplog.text


def test_detections_whose_images_are_elsewhere(here, monkeypatch):
    path = results(here / "results")
    (here / "other").mkdir()
    monkeypatch.chdir(here / "other")
    with pytest.raises(AnnotationError, match="no folder of the images .images=, --images."):
        annotations.read(path)
    annotated = annotations.read(path, images=here / "photos")
    assert [image.path for image in annotated.images] == [
        str(here / "photos" / "c.png"),
        str(here / "photos" / "a.png"),
    ]


def test_frames_of_a_video_are_no_images(here):
    path = results(here / "results", ("film.mp4", "photos/a.png"))
    index = json.loads((here / "results" / "images.json").read_text())
    index["images"][0]["frame"] = 0
    write(here / "results" / "images.json", index)
    annotated = annotations.read(path)
    assert [image.path for image in annotated.images] == ["photos/a.png"]
    assert "image 'film.mp4', frame 0" in annotated.problems[0]


def test_detections_without_their_images_are_refused(here):
    path = results(here / "results")
    (here / "results" / "images.json").unlink()
    with pytest.raises(AnnotationError, match="detections, without images.json beside them"):
        annotations.read(path)


@pytest.mark.parametrize("row", (5, {"image_id": 1, "category_id": 1}))
def test_a_row_that_is_no_detection_is_named(here, row):
    path = results(here / "results")
    write(path, [*json.loads(path.read_text()), row])
    with pytest.raises(AnnotationError, match="results.json: expected COCO's results, a list of"):
        annotations.read(path)


# ---- Against annotations -------------------------------------------------------------------------


def test_figures_are_those_of_pycocotools(here, capsys):
    """By the ids of the json, with boxes that are not those of the masks; the images not needed."""
    path = labels(here / "elsewhere" / "labels.json")
    rng = np.random.default_rng(0)
    rows = []
    for item in json.loads(path.read_text())["annotations"]:
        for _ in range(3):
            x, y = np.array(item["bbox"][:2]) + rng.integers(-4, 5, 2)
            rows.append(
                {
                    "image_id": item["image_id"],
                    "category_id": item["category_id"],
                    "segmentation": square(int(x), int(y), 12),
                    "bbox": [float(x), float(y), 12.0, 12.0],
                    "score": float(rng.random()),
                }
            )
    given = write(here / "given.json", rows)
    code, done, _ = run(
        capsys, "evaluate", f"--dataset={path}", f"--detections={given}", "--output=out"
    )
    assert code == 0 and done["images"] == 3
    truth = COCO(str(path))
    for kind in ("bbox", "segm"):
        peer = COCOeval(truth, truth.loadRes([dict(row) for row in rows]), kind)
        peer.evaluate()
        peer.accumulate()
        peer.summarize()
        figures = done["coco"][kind]
        for name, value in zip(("AP", "AP50", "AP75"), peer.stats):
            assert figures[name] == pytest.approx(value, abs=1e-12) and 0 < value < 1
        for name, value in zip(("AR1", "AR10", "AR100"), peer.stats[6:9]):
            assert figures[name] == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("kind", ("coco", "via"))
@pytest.mark.parametrize("name", ("cat", "BG"))
def test_what_detect_wrote_goes_by_names(here, capsys, caplog, kind, name):
    """Its ids of images and classes are others than those of the annotations."""
    path = labels(here / "photos" / "labels.json")
    path.write_text(path.read_text().replace('"cat"', f'"{name}"'))
    if kind == "via":
        annotated = annotations.read(path)
        path.unlink()
        entries = {}
        for image in annotated.images:
            regions = []
            for region, x in zip(image.regions, (5, 30)):
                shape = {"name": "rect", "x": x, "y": 10, "width": 12, "height": 12}
                attributes = {"class": region.name}
                regions.append({"shape_attributes": shape, "region_attributes": attributes})
            entries[image.name] = {"filename": image.name, "regions": regions}
        path = write(here / "photos" / "via.json", entries)
    results(here / "results", classes=("dog", name))
    code, done, err = run(
        capsys, "evaluate", f"--dataset={path}", "--detections=results", "--output=out", "--report"
    )
    assert code == 0, err
    # Of three images two were detected on, without a fault: recall is 2 of 3.
    assert done["images"] == 3 and done["segm"]["AR1"] == pytest.approx(2 / 3)
    assert done["bbox"]["AR1"] == pytest.approx(2 / 3)
    assert "1 of 3 annotated images have no detections and are not in images.json" in caplog.text
    assert os.path.isfile(done["report"])


def test_the_detections_stay_as_they_are(here, capsys):
    """Also in the folder that evaluate writes into by default."""
    path = labels(here / "photos" / "labels.json")
    results(here / "results")
    before = {file: (here / "results" / file).read_bytes() for file in os.listdir("results")}
    options = ("evaluate", f"--dataset={path}", "--detections=results/results.json")
    first = run(capsys, *options)[1]
    assert {file: (here / "results" / file).read_bytes() for file in before} == before
    assert run(capsys, *options)[1] == first


def test_an_evaluation_over_a_detection_leaves_no_other_index(here, caplog):
    """`mrcnn detect` and then `mrcnn evaluate` of other images, both into results/."""
    path = labels(here / "photos" / "labels.json")
    results(here / "results")
    dataset = annotations.dataset_of(annotations.read(path))
    result = evaluate.evaluate_detections(dataset, [], masks=False)
    commands._tell(result, types.SimpleNamespace(output="results"))
    assert not os.path.exists("results/images.json")
    assert "images.json is removed: the detections of its images are replaced" in caplog.text
    # Another file of that name is the user's own.
    write(here / "results" / "images.json", {"images": [], "categories": []})
    commands._tell(result, types.SimpleNamespace(output="results"))
    assert os.path.exists("results/images.json")


def test_detections_of_other_images_and_classes(here, capsys, caplog):
    path = labels(here / "photos" / "labels.json")
    options = ("evaluate", f"--dataset={path}", "--output=out")
    results(here / "results", ("x.png", "photos/a.png"), ("dog", "bird"))
    assert run(capsys, *options, "--detections=results")[0] == 0
    assert "3 detections are of no image or class" in caplog.text
    assert "2 of images that are not annotated, 1 of the class 'bird'" in caplog.text
    results(here / "results", ("x.png", "y.png"))
    code, done, _ = run(capsys, *options, "--detections=results")
    assert code == 1 and "expected images of " in done["error"] and "x.png" in done["error"]
    results(here / "results", classes=("fish", "bird"))
    code, done, _ = run(capsys, *options, "--detections=results")
    assert code == 1 and "its classes are cat, dog" in done["error"]


@pytest.mark.parametrize(
    "rows, text",
    [
        ({"images": []}, "a list of objects with image_id, category_id, score, and bbox or"),
        ([{"image_id": 11, "category_id": 7}], "Received: {'category_id': 7, 'image_id': 11}"),
        (
            [{"image_id": 5, "category_id": 7, "score": 1, "bbox": [1, 2, 3, 4]}],
            "detections belong to the images that are evaluated. Received: image_id [5]",
        ),
        ([{"image_id": 11, "category_id": 7, "score": 1}], "each detection has a bbox"),
    ],
)
def test_what_is_no_detection_is_said(here, capsys, rows, text):
    path = labels(here / "photos" / "labels.json")
    given = write(here / "given.json", rows)
    code, done, _ = run(capsys, "evaluate", f"--dataset={path}", f"--detections={given}")
    assert code == 1 and text in done["error"], done


@pytest.mark.parametrize("option", ("--weights=coco", "--small", "--set=SEED=1", "--tile=64"))
def test_options_of_a_model_are_refused(here, capsys, option):
    path = labels(here / "photos" / "labels.json")
    options = ("evaluate", f"--dataset={path}", "--detections=x.json", option)
    code, done, _ = run(capsys, *options)
    assert code == 2 and "is of a model; --detections has its results already" in done["error"]


def test_boxes_alone_and_a_limit(here, capsys, caplog):
    path = labels(here / "photos" / "labels.json")
    rows = [
        {"image_id": image_id, "category_id": 7, "score": 0.5, "bbox": [5, 10, 12, 12]}
        for image_id in (11, 12, 13)
    ]
    given = write(here / "given.json", rows)
    options = ("evaluate", f"--dataset={path}", f"--detections={given}", "--output=out")
    code, done, _ = run(capsys, *options, "--limit=2")
    assert code == 0 and done["images"] == 2 and done["segm"] is None
    assert done["bbox"]["AP"] == pytest.approx(0.5)  # every cat, no dog
    assert "boxes alone are compared" in caplog.text


def rows_of_labels(path):
    """Each annotated object as a detection."""
    names = ("image_id", "category_id", "segmentation", "bbox")
    rows = json.loads(path.read_text())["annotations"]
    return [{**{name: row[name] for name in names}, "score": 0.5} for row in rows]


def test_uncompressed_runs_are_masks(here, capsys):
    """A square at (5, 10) of 12 pixels in columns of 40: 12 runs, the first from 5 * 40 + 10 on."""
    path = labels(here / "photos" / "labels.json")
    rows = rows_of_labels(path)
    for row in rows:
        x = row["bbox"][0]
        counts = [x * HEIGHT + 10, *[12, 28] * 11, 12]
        counts.append(HEIGHT * WIDTH - sum(counts))
        row["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts}
        del row["bbox"]
    given = write(here / "given.json", rows)
    options = ("evaluate", f"--dataset={path}", f"--detections={given}", "--output=out")
    code, done, _ = run(capsys, *options)
    assert code == 0 and done["segm"]["AP"] == pytest.approx(1)
    assert done["bbox"]["AP"] == pytest.approx(1)


@pytest.mark.parametrize("form", (str, float, "abc", "abc.png"))
def test_ids_in_other_forms(here, capsys, form):
    """As text, as the json's own may be, or names of the images' files."""
    path = labels(here / "photos" / "labels.json")
    rows = rows_of_labels(path)
    for row in rows:
        if isinstance(form, str):
            row["image_id"] = "abc"[row["image_id"] - 11] + form[3:]
        else:
            row["image_id"] = form(row["image_id"])
            row["category_id"] = form(row["category_id"])
    given = write(here / "given.json", rows)
    options = ("evaluate", f"--dataset={path}", f"--detections={given}", "--output=out")
    code, done, _ = run(capsys, *options)
    assert code == 0 and done["images"] == 3 and done["segm"]["AP"] == pytest.approx(1)


def test_detections_of_all_images_and_a_part_of_the_annotations(here, capsys, caplog):
    path = labels(here / "photos" / "labels.json")
    given = write(here / "given.json", rows_of_labels(path))
    options = ("evaluate", f"--dataset={path}", f"--detections={given}", "--output=out")
    code, done, _ = run(capsys, *options, "--subset=val")
    assert code == 0 and done["images"] == 1 and done["segm"]["AP"] == pytest.approx(1)
    assert "4 detections are of no image of" in caplog.text
    assert "left out: image_id 12, 13" in caplog.text


@pytest.mark.parametrize(
    "change, text",
    [
        ({"bbox": [float("nan"), 1, 2, 3]}, "finite numbers. Received: [nan, 1, 2, 3], detection"),
        ({"bbox": [1, 2, 3]}, "Received: [1, 2, 3], detection 0, of image 11"),
        ({"bbox": []}, "Received: [], detection 0, of image 11"),
        ({"bbox": ["5", "10", "12", "12"]}, "Received: ['5', '10', '12', '12'], detection 0"),
        ({"keypoints": [1, 2, float("nan")]}, "Received: [1, 2, nan], detection 0, of image 11"),
        ({"keypoints": ["1", "2", "3"]}, "a list x, y, score, x, ... of finite numbers"),
        ({"keypoints": [1, 2]}, "Received: [1, 2], detection 0, of image 11"),
        ({"image_id": [11]}, "expected COCO's results"),
        ({"category_id": None}, "expected COCO's results"),
        ({"segmentation": {"counts": [2400]}}, "[40, 60]. Received: None, detection 0, of image"),
        (
            {"segmentation": {"size": [40, 60], "counts": [3, 4]}},
            "runs add up to 40 x 60 pixels. Received: 7, detection 0, of image 11",
        ),
        (
            {"segmentation": {"size": [40, 60], "counts": "34"}},
            "runs add up to 40 x 60 pixels. Received: 7, a detection of image 11",
        ),
    ],
)
def test_a_detection_that_is_none_is_named(here, capsys, change, text):
    path = labels(here / "photos" / "labels.json")
    rows = rows_of_labels(path)
    rows[0].update(change)
    given = write(here / "given.json", rows)
    options = ("evaluate", f"--dataset={path}", f"--detections={given}", "--output=out")
    code, done, _ = run(capsys, *options)
    assert code == 1 and text in done["error"], done


def test_keypoints_other_than_a_persons(here, capsys, caplog):
    """Boxes and masks are evaluated all the same."""
    path = labels(here / "photos" / "labels.json")
    rows = [{**row, "keypoints": [6, 11, 2, 9, 14, 2]} for row in rows_of_labels(path)]
    content = json.loads(path.read_text())
    for category in content["categories"]:
        category["keypoints"] = ["head", "tail"]
    for item in content["annotations"]:
        item.update(keypoints=[6, 11, 2, 9, 14, 2], num_keypoints=2)
    write(path, content)
    given = write(here / "given.json", rows)
    options = ("evaluate", f"--dataset={path}", f"--detections={given}", "--output=out")
    code, done, _ = run(capsys, *options)
    assert code == 0 and done["bbox"]["AP"] == pytest.approx(1) and "keypoints" not in done
    assert "the keypoints are not evaluated" in caplog.text
    assert "Received: annotations with 2" in caplog.text


@pytest.mark.parametrize(
    "index, text",
    [
        ({"images": None, "categories": []}, "images are a list of objects with id and file_name"),
        ({"images": [{"id": 1}], "categories": []}, "id and file_name. Received: {'id': 1}"),
        ({"images": [], "categories": [{"id": 7}]}, "categories are a list of objects with id and"),
    ],
)
def test_a_damaged_index_is_named(here, capsys, index, text):
    path = labels(here / "photos" / "labels.json")
    given = results(here / "results")
    write(here / "results" / "images.json", index)
    code, done, _ = run(capsys, "evaluate", f"--dataset={path}", f"--detections={given}")
    assert code == 1 and text in done["error"], done


def test_annotations_without_ids_need_names(here):
    path = labels(here / "photos" / "labels.json")
    annotated = annotations.read(path)
    annotated.categories = []
    truth = evaluate.ground_truth(annotations.dataset_of(annotated))
    with pytest.raises(AnnotationError, match="expected images.json beside it"):
        detections.rows_of([], here / "given.json", annotated, truth)


# ---- A model on a json of COCO -------------------------------------------------------------------


class Finds:
    """Finds three squares on every picture, one of them of a class that the json lacks."""

    def __init__(self, settings):
        self.config = settings

    def detect(self, images, masks="dense"):
        found = np.zeros((HEIGHT, WIDTH, 3), bool)
        found[10:22, 5:17, 0] = found[10:22, 33:45, 1] = found[0:5, 0:5, 2] = True
        return [
            {
                "rois": np.array([[10, 5, 22, 17], [10, 33, 22, 45], [0, 0, 5, 5]]),
                "class_ids": np.array([3, 1, 2]),
                "scores": np.array([0.9, 0.8, 0.7]),
                "masks": found,
            }
            for _ in images
        ]


@pytest.mark.parametrize("twice", [False, True], ids=["", "a category's name twice"])
def test_a_model_has_the_figures_of_pycocotools(here, capsys, monkeypatch, twice):
    """Boxes and areas are the json's, not those of its masks; the model's classes have another
    order. Of two categories of one name a model has one class: masks decide, as they did."""
    path = labels(here / "photos" / "labels.json")
    data = json.loads(path.read_text())
    for number, item in enumerate(data["annotations"]):
        item["bbox"] = [item["bbox"][0] + 0.4 * number, 10.3, 9.5, 11.2]
        item["area"] = 40000.0
    if twice:
        data["categories"].append({"id": 12, "name": "cat"})
        data["annotations"][0]["category_id"] = 12
    write(path, data)
    names = ["BG", "dog", "bird", "cat"]
    finds = Finds(config.Config(NUM_CLASSES=4))
    monkeypatch.setattr(cli, "_model_of", lambda args, info: (finds, names, None))
    monkeypatch.setattr(cli, "_info_of_weights", lambda args: (None, names, None))
    code, done, err = run(
        capsys, "evaluate", f"--dataset={path}", "--weights=coco", "--subset=all", "--output=out"
    )
    assert code == 0, err
    if twice:
        assert done["bbox"]["APs"] == pytest.approx(done["segm"]["APs"])
        return
    truth = COCO(str(path))
    for kind in ("bbox", "segm"):
        theirs = COCOeval(truth, truth.loadRes("out/results.json"), kind)
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
        ours = [done[kind][name] for name in ("AP", "AP50", "AP75", "APl")]
        expected = theirs.stats[[0, 1, 2, 5]]
        np.testing.assert_allclose(ours, expected, atol=1e-9)
    assert 0 < done["bbox"]["AP"] < done["bbox"]["AP50"] and done["segm"]["AP75"] < 1
