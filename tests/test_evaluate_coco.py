"""evaluate on annotations in COCO's format, against COCOeval run on the json file itself;
evaluations that go on."""

import contextlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import weakref

import generated_coco
import numpy as np
import oracle
import pytest
from PIL import Image

from mrcnn import coco, evaluate, masks, media
from mrcnn.config import Config
from mrcnn.utils import Dataset


def perturbed(path, seed=0):
    """Detections from the annotations of a json: shifted, dropped, duplicated, mislabelled, crowds
    too."""
    from pycocotools import mask as coco_mask

    official = coco.read_annotations(path)
    rng, rows, categories = np.random.default_rng(seed), [], sorted(official.cats)
    for annotation in official.anns.values():
        image = official.imgs[annotation["image_id"]]
        mask = coco.decode([annotation], image["height"], image["width"])[..., 0]
        for _ in range(rng.choice([0, 1, 1, 1, 2])):  # dropped and duplicated
            shifted = np.roll(mask, rng.integers(-6, 7, 2) * (rng.uniform() < 0.6), axis=(0, 1))
            code = coco_mask.encode(np.asfortranarray(shifted.astype(np.uint8)))
            wrong = rng.uniform() < 0.15
            rows.append(
                {
                    "image_id": image["id"],
                    "score": float(np.round(rng.uniform(), 2)),
                    "category_id": int(rng.choice(categories))
                    if wrong
                    else annotation["category_id"],
                    "bbox": [float(v) for v in coco_mask.toBbox(code)],
                    "segmentation": {"size": list(code["size"]), "counts": code["counts"].decode()},
                }
            )
    return rows


def cocoeval(path, rows, kind, image_ids=None):
    """A COCOeval run by pycocotools' own means alone, on the file."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        drop = "bbox" if kind == "segm" else "segmentation"
        run = COCOeval(
            truth,
            truth.loadRes([{k: v for k, v in row.items() if k != drop} for row in rows]),
            kind,
        )
        if image_ids is not None:
            run.params.imgIds = image_ids
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


def assert_equal(ours, run, kind):
    figures = getattr(ours, kind)
    for figure, value in zip(evaluate.FIGURES, run.stats):
        assert np.isnan(figures[figure]) if value < 0 else abs(figures[figure] - value) < 1e-6, (
            kind,
            figure,
        )
    for column, name in enumerate(ours.per_class):
        for figure, rows in (("AP", slice(None)), ("AP50", [0]), ("AP75", [5])):
            values = run.eval["precision"][rows, :, column, 0, -1]
            value = ours.per_class[name][f"{kind} {figure}"]
            assert np.isnan(value) if values.max() < 0 else abs(value - values.mean()) < 1e-6, (
                name,
                figure,
            )
        recall = run.eval["recall"][:, column, 0, -1]
        value = ours.per_class[name][f"{kind} AR100"]
        assert np.isnan(value) if recall.max() < 0 else abs(value - recall.mean()) < 1e-6


def load(path, images, keep_empty=True):
    dataset = coco.CocoDataset()
    dataset.load_json(path, images, "coco", keep_empty=keep_empty)
    dataset.prepare()
    return dataset


@pytest.mark.long
@pytest.mark.parametrize("where", ["generated", "val2017"])
def test_all_figures_are_those_of_cocoeval_on_the_file(where, tmp_path):
    if where == "generated":
        generated_coco.write(tmp_path, images=16)
        folder, where = tmp_path, "val2017"
    else:
        folder = oracle.shared("data/coco-mini")
    path = folder / "annotations" / f"instances_{where}.json"
    dataset, rows = load(path, folder / where), perturbed(path)
    # Reading a mask before does not change the truth, nor does an evaluation the dataset.
    dataset.load_mask(0)
    before = json.dumps([info["annotations"] for info in dataset.image_info])
    ours = evaluate.evaluate_detections(dataset, rows)
    assert json.dumps([info["annotations"] for info in dataset.image_info]) == before
    assert ours.truth.official and any(a["iscrowd"] for a in ours.truth.data["annotations"])
    for kind in ("bbox", "segm"):
        run = cocoeval(path, rows, kind)
        assert 0.1 < run.stats[0] < 0.9
        assert_equal(ours, run, kind)
    # A part of the images, as --limit takes it.
    some = dataset.image_ids[3:9]
    names = [int(dataset.image_info[i]["id"]) for i in some]
    rows = [row for row in rows if row["image_id"] in names]
    assert_equal(
        evaluate.evaluate_detections(dataset, rows, some),
        cocoeval(path, rows, "segm", names),
        "segm",
    )


class OldStyle(Dataset):
    """As a project of 2018 keeps its annotations: pycocotools' dicts in image_info, masks from
    annToMask."""

    def load(self, path):
        from pycocotools.coco import COCO

        with contextlib.redirect_stdout(io.StringIO()):
            self.coco = COCO(str(path))
        for number in sorted(self.coco.getCatIds()):
            self.add_class("mine", number, self.coco.cats[number]["name"])
        for number in self.coco.getImgIds():
            info = self.coco.imgs[number]
            self.add_image(
                "mine",
                number,
                path=None,
                height=info["height"],
                width=info["width"],
                annotations=self.coco.loadAnns(self.coco.getAnnIds(imgIds=[number], iscrowd=None)),
            )
        self.prepare()

    def load_mask(self, image_id):
        raise AssertionError("the annotations are the truth, not masks made from them")


def test_any_dataset_that_keeps_annotations(tmp_path):
    generated_coco.write(tmp_path)
    path = tmp_path / "annotations" / "instances_val2017.json"
    dataset, rows = OldStyle(), perturbed(path)
    dataset.load(path)
    for kind in ("bbox", "segm"):
        assert_equal(evaluate.evaluate_detections(dataset, rows), cocoeval(path, rows, kind), kind)


def test_masks_are_the_truth_of_other_datasets(tmp_path):
    """The same data through load_mask: masks, boxes and areas are whole pixels; figures of exact
    detections are 1."""
    generated_coco.write(tmp_path)
    path = tmp_path / "annotations" / "instances_val2017.json"
    dataset = load(path, tmp_path / "val2017")
    for info in dataset.image_info:
        info["kept"] = info.pop("annotations")
    dataset.load_mask = lambda image_id: masks[image_id]
    masks = {
        i: (
            coco.decode(info["kept"], 72, 96),
            np.array(
                [
                    {3: 1, 17: 2, 90: 3}[a["category_id"]] * (-1 if a["iscrowd"] else 1)
                    for a in info["kept"]
                ],
                np.int32,
            ),
        )
        for i, info in enumerate(dataset.image_info)
    }
    rows = []
    for image_id, (mask, class_ids) in masks.items():
        keep = class_ids > 0
        from mrcnn.utils import extract_bboxes

        rows += evaluate.coco_results(
            image_id,
            {
                "rois": extract_bboxes(mask)[keep],
                "class_ids": class_ids[keep],
                "scores": np.ones(keep.sum()),
                "masks": mask[..., keep],
            },
        )
    result = evaluate.evaluate_detections(dataset, rows)
    assert not result.truth.official and result.segm["AP"] == result.bbox["AP"] == pytest.approx(1)
    paths = {path.rsplit("/", 1)[1]: path for path in result.save(tmp_path / "out")}
    run = cocoeval(
        paths["truth.json"], json.loads(pathlib.Path(paths["results.json"]).read_text()), "segm"
    )
    assert run.stats[0] == pytest.approx(1)


# ---- Confusion and curves ------------------------------------------------------------------------


class Squares(Dataset):
    """One image of 100 x 100: an a, a b, another a, and a crowd of b."""

    def __init__(self):
        super().__init__()
        self.add_class("squares", 1, "a")
        self.add_class("squares", 2, "b")
        self.add_image("squares", 0, path=None)
        self.prepare()

    def load_mask(self, image_id):
        masks = np.zeros((100, 100, 4), bool)
        masks[0:20, 0:20, 0] = masks[0:20, 50:70, 1] = masks[50:70, 0:20, 2] = masks[
            60:, 60:, 3
        ] = True
        return masks, np.array([1, 2, 1, -2], np.int32)


def square(y, x, class_id, score):
    mask = np.zeros((100, 100, 1), bool)
    mask[y : y + 20, x : x + 20] = True
    return evaluate.coco_results(
        0,
        {
            "rois": [[y, x, y + 20, x + 20]],
            "class_ids": [class_id],
            "scores": [score],
            "masks": mask,
        },
    )[0]


def test_confusion_by_hand():
    rows = [
        square(0, 2, 1, 0.9),  # the first a
        square(0, 0, 1, 0.8),  # the same again: nothing is left there
        square(1, 50, 1, 0.7),  # b taken for a
        square(30, 30, 2, 0.6),  # nothing there
        square(70, 70, 2, 0.95),  # in the crowd: left out
        square(50, 0, 1, 0.4),
    ]  # below the score: the second a is missed
    truth = evaluate.ground_truth(Squares())
    expected = [
        [0, 1, 1],  # background: taken for a, for b
        [1, 1, 0],  # a: missed, right, taken for b
        [0, 1, 0],
    ]
    for kind in ("bbox", "segm"):
        assert evaluate.confusion_matrix(truth, rows, kind=kind).tolist() == expected
    assert evaluate.confusion_matrix(truth, rows, score_threshold=0.3)[1].tolist() == [0, 2, 0]
    assert evaluate.confusion_matrix(truth, []).tolist() == [[0, 0, 0], [2, 0, 0], [1, 0, 0]]


def test_curves_are_what_ap_is_the_mean_of():
    rows = [
        square(0, 2, 1, 0.9),
        square(30, 30, 1, 0.8),
        square(50, 1, 1, 0.7),
        square(0, 50, 2, 0.6),
    ]
    result = evaluate.evaluate_detections(Squares(), rows)
    curves = result.curves["segm"]
    assert curves["precision"].shape == curves["score"].shape == (10, 101, 2) and curves[
        "recall"
    ].shape == (10, 2)
    assert curves["precision"].mean() == pytest.approx(result.segm["AP"])
    assert curves["recall"].mean() == pytest.approx(result.segm["AR100"])
    # Class a at IoU .5: found, wrong, found. Up to recall 1/2 precision is 1, then 2/3.
    np.testing.assert_allclose(curves["precision"][0, :, 0], [1.0] * 51 + [2 / 3] * 50)
    np.testing.assert_allclose(curves["score"][0, :, 0], [0.9] * 51 + [0.7] * 50)
    ax = result.plot_precision_recall("segm", "a")
    line = ax.get_lines()[0]
    np.testing.assert_allclose(line.get_ydata(), curves["precision"][0, :, 0])
    assert "a" in ax.get_title()
    given = ax.figure.add_subplot()
    assert result.plot_confusion(ax=given) is given
    assert [label.get_text() for label in given.get_yticklabels()] == ["background", "a", "b"]


def test_figures_without_truth_and_without_detections():
    class Nothing(Squares):
        def load_mask(self, image_id):
            return np.zeros((100, 100, 0), bool), np.zeros(0, np.int32)

        def load_image(self, image_id):
            return np.zeros((100, 100, 3), np.uint8)

    result = evaluate.evaluate_detections(Nothing(), [square(0, 0, 1, 0.9)])
    assert np.isnan(result.segm["AP"]) and result.confusion[0].tolist() == [0, 1, 0]
    result.plot_precision_recall(), result.plot_confusion()
    empty = evaluate.evaluate_detections(Squares(), [])
    assert empty.segm["AP"] == empty.bbox["AR100"] == empty.per_class["a"]["segm AP"] == 0
    assert "nan" not in empty.table() and "0.000" in empty.summary()
    with pytest.raises(ValueError, match="Received: image_id .7."):
        evaluate.evaluate_detections(Squares(), [{**square(0, 0, 1, 0.9), "image_id": 7}])


def test_results_of_other_programs(caplog):
    """Without boxes, as in COCO's own format of masks, or with polygons, they have the figures of
    whole ones; those of further categories are left out with a warning."""
    rows = [square(0, 0, 1, 0.9), square(1, 10, 2, 0.8)]
    whole = evaluate.evaluate_detections(Squares(), rows)
    polygons = []
    for row in rows:
        x, y, width, height = row["bbox"]
        outline = [x, y, x + width, y, x + width, y + height, x, y + height]
        polygons.append({**row, "segmentation": [outline]})
    boxless = [{key: row[key] for key in row if key != "bbox"} for row in polygons]
    for others in (polygons, boxless):
        figures = evaluate.evaluate_detections(Squares(), others)
        np.testing.assert_equal([figures.bbox, figures.segm], [whole.bbox, whole.segm])
        assert [row["bbox"] for row in figures.detections] == [row["bbox"] for row in rows]
    assert not caplog.records
    further = evaluate.evaluate_detections(Squares(), [*rows, {**rows[0], "category_id": 90}])
    np.testing.assert_equal(further.segm, whole.segm)
    assert len(further.detections) == 2
    assert re.search(
        r"1 detections are left out: .* ids 1, 2\. Received: category_id 90", caplog.text
    )


def test_images_of_another_size_than_their_masks(caplog):
    """The evaluation ended with an error after all images were detected on."""

    class Other(Squares):
        def __init__(self):
            super().__init__()
            self.add_image("squares", 1, path=None)
            self.prepare()

        def load_image(self, image_id):
            return np.zeros((100 + 50 * image_id, 100, 3), np.uint8)

    class Model:
        config = Config(NUM_CLASSES=3)

        def detect(self, images):
            mask = np.zeros((*images[0].shape[:2], 1), bool)
            mask[:20, :20] = True
            result = {"rois": np.array([[0, 0, 20, 20]]), "class_ids": [1], "scores": [0.9]}
            return [{**result, "masks": mask} for _ in images]

    Model.config.IMAGES_PER_GPU = 1
    Model.keras_model = None
    for _ in range(2):
        result = evaluate.evaluate(Model(), Other(), progress=False)
    # Matterport's default threshold of .7 is not COCO's AP, which is said once.
    text = "leaves out detections with scores below 0.7 (DETECTION_MIN_CONFIDENCE)"
    assert caplog.text.count(text) == 1
    assert len(result.detections) == 1
    assert result.unreadable[0][0] == 1 and len(result.unreadable) == 1
    assert "masks have the size (100, 100), load_image gave (150, 100)" in caplog.text


@pytest.mark.parametrize(
    "change, text",
    [
        ({"category_id": 90}, r"category ids 1, 2. Received: category_id 90"),
        ({"score": float("nan")}, r"score .* a number. Received: nan, detection 0, of image 0"),
        ({"score": "0.9"}, "Received: '0.9', detection 0"),
        ({"score": ...}, "are COCO results, .* Received: detection 0"),
        (
            {"segmentation": {"size": [50, 100], "counts": "0"}},
            r"\[100, 100\]. Received: \[50, 100\]",
        ),
        ({"segmentation": ...}, "segmentation, or masks=False. Received: detection 0, of image 0"),
        ({"image_id": "0"}, r"Received: image_id \['0'\]"),
    ],
    ids=["category", "nan", "text", "no score", "another size", "no mask", "image"],
)
def test_results_that_are_none(change, text):
    row = {**square(0, 0, 1, 0.9), **change}
    row = {key: value for key, value in row.items() if value is not ...}
    with pytest.raises(ValueError, match=text):
        evaluate.evaluate_detections(Squares(), [row])
    with pytest.raises(ValueError, match="has a bbox. Received: detection 0"):
        bare = {"image_id": 0, "category_id": 1, "score": 0.5}
        evaluate.evaluate_detections(Squares(), [bare], masks=False)


# ---- Running a model -----------------------------------------------------------------------------


class Model:
    """Detects the bright object of the generated images; may fail at some image."""

    def __init__(self, fails_at=None, threshold=200):
        from mrcnn.config import Config

        self.config = Config(NUM_CLASSES=4, IMAGES_PER_GPU=2)
        self.seen, self.fails_at, self.alive = 0, fails_at, []
        self.config.DETECTION_MIN_CONFIDENCE = threshold / 1000

    def detect(self, images):
        results = []
        for image in images:
            if self.seen == self.fails_at:
                raise KeyboardInterrupt
            self.seen += 1
            # At most the masks of the batch before are still there.
            self.alive = [each for each in self.alive if each() is not None]
            assert len(self.alive) <= 2
            mask = (image.mean(axis=2) > 215)[..., None]
            self.alive.append(weakref.ref(mask))
            rows, columns = (
                np.flatnonzero(mask.any(axis=(1, 2))),
                np.flatnonzero(mask.any(axis=(0, 2))),
            )
            found = len(rows) > 0
            box = (
                [[rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]]
                if found
                else np.zeros((0, 4))
            )
            results.append(
                {
                    "rois": np.array(box),
                    "class_ids": np.array([1] * found),
                    "scores": np.array([0.9] * found),
                    "masks": mask[..., : int(found)],
                }
            )
        return results


@pytest.fixture
def dataset(tmp_path):
    generated_coco.write(tmp_path / "data")
    return load(
        tmp_path / "data" / "annotations" / "instances_val2017.json", tmp_path / "data" / "val2017"
    )


def test_evaluates_photographs_with_their_own_ids(dataset, tmp_path):
    result = evaluate.evaluate(Model(), dataset, progress=False)
    assert (
        result.per_class["bright"]["segm AP50"] > 0.9 and result.per_class["dark"]["segm AP"] == 0
    )
    assert {row["image_id"] for row in result.detections} <= {100 + 3 * i for i in range(8)}
    assert {row["category_id"] for row in result.detections} == {3}
    paths = {path.rsplit("/", 1)[1]: path for path in result.save(tmp_path / "out")}
    assert "truth.json" not in paths
    run = cocoeval(
        tmp_path / "data" / "annotations" / "instances_val2017.json",
        json.loads(pathlib.Path(paths["results.json"]).read_text()),
        "segm",
    )
    assert abs(run.stats[0] - result.segm["AP"]) < 1e-6
    saved = json.loads(pathlib.Path(paths["figures.json"]).read_text())
    assert saved["segm"]["AP"] == pytest.approx(result.segm["AP"])
    assert saved["confusion"]["classes"] == ["background", "bright", "dark", "ring"]
    with np.load(paths["curves.npz"]) as curves:
        np.testing.assert_array_equal(curves["segm precision"], result.curves["segm"]["precision"])
    assert (
        media.read_image(paths["precision_recall.png"]).shape[1] > 300
        and media.read_image(paths["confusion.png"]).shape[1] > 100
    )


def test_an_interrupted_evaluation_goes_on(dataset, tmp_path, caplog):
    log, whole = (
        tmp_path / "log" / "evaluation.jsonl",
        evaluate.evaluate(Model(), dataset, progress=False),
    )
    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate(Model(fails_at=5), dataset, progress=False, resume=log)
    with open(log, "a") as file:
        file.write('{"image": "coco.112", "resu')  # killed in the middle of a line
    second = Model()
    result = evaluate.evaluate(second, dataset, progress=False, resume=log)
    assert second.seen == 4  # two whole batches of two were kept
    assert result.detections == whole.detections and result.segm == pytest.approx(
        whole.segm, nan_ok=True
    )
    third = Model()
    assert (
        evaluate.evaluate(third, dataset, progress=False, resume=log).detections == whole.detections
        and third.seen == 0
    )
    # Other settings: nothing of it is used.
    other = Model(threshold=300)
    evaluate.evaluate(other, dataset, dataset.image_ids[:3], progress=False, resume=log)
    assert other.seen == 3 and "other weights, settings or classes, or tiles" in caplog.text
    more = Model(threshold=300)
    evaluate.evaluate(more, dataset, progress=False, resume=log)
    assert more.seen == 5  # a larger --limit goes on too


def test_results_of_another_exported_file_are_not_taken(dataset, tmp_path):
    """Settings and classes are the same, and weights lie in the file: of the next epoch, or int8."""
    log = tmp_path / "evaluation.jsonl"
    seen = []
    for weights in ("one", "one", "two", "one"):
        model = Model()
        model.identity = lambda weights=weights: {"weights": weights}
        evaluate.evaluate(model, dataset, dataset.image_ids[:3], progress=False, resume=log)
        seen.append(model.seen)
    assert seen == [3, 0, 3, 3]


@pytest.mark.long
def test_results_are_known_by_pixels_path_size_and_time(tmp_path):
    """Two datasets of the same names and ids, one output: the second is looked at, and the first's
    results are still there. A replaced image is looked at again, whatever its size and time."""
    log = tmp_path / "evaluation.jsonl"
    datasets = []
    for name, seed in (("one", 0), ("two", 1)):
        generated_coco.write(tmp_path / name, seed=seed)
        path = tmp_path / name / "annotations" / "instances_val2017.json"
        datasets.append(load(path, tmp_path / name / "val2017"))

    def seen(dataset, **settings):
        model = Model(**settings)
        result = evaluate.evaluate(model, dataset, progress=False, resume=log)
        fresh = evaluate.evaluate(Model(**settings), dataset, progress=False)
        assert result.detections == fresh.detections
        return model.seen

    one, two = datasets
    assert [info["id"] for info in one.image_info] == [info["id"] for info in two.image_info]
    assert [seen(one), seen(two), seen(one), seen(two)] == [8, 8, 0, 0]
    first, second = (pathlib.Path(one.image_info[i]["path"]) for i in (0, 1))
    state = second.stat()
    second.write_bytes(first.read_bytes())  # the same path
    assert seen(one) == 1
    os.utime(second, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert seen(one) == 1  # another time
    second.write_bytes(first.read_bytes())
    os.utime(second, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert seen(one) == 0
    # Others of the same size and time.
    third = pathlib.Path(one.image_info[2]["path"])
    pixels = media.read_image(third)
    bitmap = third.with_suffix(".bmp")
    one.image_info[2]["path"] = bitmap
    for image, expected in ((pixels, 1), (pixels[::-1], 1), (pixels[::-1], 0)):
        Image.fromarray(np.ascontiguousarray(image)).save(bitmap)
        os.utime(bitmap, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert seen(one) == expected


class Made(Dataset):
    """Images that are made, no files: gray with a bright square."""

    def __init__(self, shift=0, count=3, path=None):
        super().__init__()
        for class_id, name in enumerate("abc", 1):
            self.add_class("made", class_id, name)
        for i in range(count):
            self.add_image("made", i, path=path)
        self.shift = shift
        self.prepare()

    def load_image(self, image_id):
        image = np.full((40, 40, 3), 90, np.uint8)
        image[5 + image_id + self.shift : 25, 5:25] = 255
        return image

    def load_mask(self, image_id):
        return (self.load_image(image_id)[..., :1] == 255), np.array([1], np.int32)


@pytest.mark.parametrize("path", [None, "not/there.png", 7])
def test_images_without_files_are_known_by_their_pixels(tmp_path, path):
    log = tmp_path / "log.jsonl"
    model = Model()
    evaluate.evaluate(model, Made(path=path), progress=False, resume=log)
    assert model.seen == 3
    again, other = Model(), Model()
    # Others of the dataset, in another place.
    evaluate.evaluate(again, Made(path=path, count=5), [4, 1, 1], progress=False, resume=log)
    assert again.seen == 1
    result = evaluate.evaluate(other, Made(4, path=path), progress=False, resume=log)
    assert other.seen == 3 and result.segm["AP"] == 1


def test_whatever_changes_detections_begins_anew(tmp_path):
    log = tmp_path / "log.jsonl"

    def function(kernel):
        return lambda shape: kernel

    def seen(classes=(), **settings):
        dataset = Made()
        for name in classes:
            dataset.class_info[1]["name"] = name
        model = Model()
        for name, value in settings.items():
            setattr(model.config, name, value)
        model.keras_model = settings.pop("keras_model", None)
        evaluate.evaluate(model, dataset, progress=False, resume=log)
        return model.seen

    class Network:
        def __init__(self, *arrays):
            self.weights = arrays

    zeros = np.zeros((2, 3), np.float32)
    for settings in (
        {},
        {"DETECTION_NMS_THRESHOLD": 0.9},
        {"MEAN_PIXEL": np.arange(3000.0)},
        {"MEAN_PIXEL": np.arange(3000.0) + (np.arange(3000) == 1500)},
        {"TEST_FLIP": True},
        {"keras_model": Network(zeros)},
        {"keras_model": Network(zeros + 1)},
        {"keras_model": Network(zeros.T)},
        {"classes": ["another"]},
    ):
        assert seen(**settings) == 3, settings
        assert seen(**settings, IMAGES_PER_GPU=1, WORKERS=5) == 0, settings


def test_what_can_be_no_journal_and_ids_of_no_image(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ValueError, match="resume is a file"):
            evaluate.evaluate(Model(), Made(), progress=False, resume=path)
    for ids in ([3], [0, -1]):
        with pytest.raises(ValueError, match="image ids are 0 to 2"):
            evaluate.evaluate(Model(), Made(), ids, progress=False)


def test_a_file_of_something_else_is_left_as_it_is(tmp_path):
    path = tmp_path / "results.json"
    path.write_text('[{"image_id": 1}]')
    with pytest.raises(ValueError, match="results.json is no file of an evaluation"):
        evaluate.evaluate(Model(), Made(), progress=False, resume=path)
    assert path.read_text() == '[{"image_id": 1}]'


@pytest.mark.parametrize("cut", [1, 5, 30, 94, 95, 96, 200, -1, -2, -200])
def test_killed_at_any_byte(tmp_path, cut):
    """What is whole is kept, each image is once in the file and in the result."""
    log = tmp_path / "log.jsonl"
    whole = evaluate.evaluate(Model(), Made(), progress=False, resume=log)
    content = log.read_bytes()
    log.write_bytes(content[:cut])
    again = evaluate.evaluate(Model(), Made(), progress=False, resume=log)
    assert again.detections == whole.detections and log.read_bytes() == content


@pytest.mark.long
def test_a_full_disk_leaves_whole_lines(tmp_path):
    """A limit on the size of files stands for it: one error that names the file, and all before
    it is kept."""
    code = f"""
import resource, sys
sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
import test_evaluate_coco as test
from mrcnn import evaluate
log = {str(tmp_path / "log.jsonl")!r}
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    evaluate.evaluate(test.Model(), test.Made(count=8), progress=False, resume=log)
except OSError as error:
    sys.exit(str(error))
"""
    limit = 700
    done = subprocess.run(
        [sys.executable, "-c", code, str(limit)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "File too large: " in done.stderr
    assert "log.jsonl" in done.stderr and "Traceback" not in done.stderr
    content = (tmp_path / "log.jsonl").read_bytes()
    assert 200 < len(content) <= limit and content.endswith(b"\n")
    model = Model()
    evaluate.evaluate(model, Made(count=8), progress=False, resume=tmp_path / "log.jsonl")
    assert model.seen == 8 - (content.count(b"\n") - 1) < 8


def test_photographs_that_cannot_be_read(dataset, tmp_path, caplog):
    path = tmp_path / "data" / "val2017" / "000000000103.jpg"
    path.write_bytes(path.read_bytes()[:-300])
    result = evaluate.evaluate(Model(), dataset, progress=False)
    assert [image_id for image_id, _ in result.unreadable] == [1] and result.images == 8
    assert "000000000103.jpg (id 103 in" in caplog.text and "objects count as missed" in caplog.text
    with pytest.raises(
        ValueError, match="none of the first 1 images can be read; the first: .*000000000103.jpg"
    ):
        evaluate.evaluate(Model(), dataset, [1], progress=False)
    for each in (tmp_path / "data" / "val2017").iterdir():
        each.write_text("")
    with pytest.raises(ValueError, match="none of the first 8 images can be read"):
        evaluate.evaluate(Model(), dataset, progress=False)
    with pytest.raises(ValueError, match="needs images"):
        evaluate.evaluate(Model(), dataset, [], progress=False)
    model = Model()
    model.config.NUM_CLASSES = 81
    with pytest.raises(
        ValueError, match="NUM_CLASSES of the model is the dataset's 4.*Received: 81"
    ):
        evaluate.evaluate(model, dataset)


def test_images_that_the_settings_do_not_take(caplog):
    """One of another size is named by its own id, and the others of its batch go on."""

    class Picky(Model):
        def detect(self, images):
            for i, image in enumerate(images):
                if image[6, 6, 0] < 200:
                    raise ValueError(f"the sides divide by 64. Received: image {i}")
            return super().detect(images)

    result = evaluate.evaluate(Picky(), Made(), progress=False)
    assert [image_id for image_id, _ in result.unreadable] == [2]
    assert len(result.detections) == 2 and "image 2 (): the sides divide by 64" in caplog.text
    with pytest.raises(ValueError, match="none of the first 1 images .* the sides divide by 64"):
        evaluate.evaluate(Picky(), Made(), [2], progress=False)


def test_progress_bar(dataset, capsys):
    evaluate.evaluate(Model(), dataset)
    assert "evaluating [==============================] 8/8 images" in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(4))
def test_matching_is_that_of_cocoeval(seed):
    """Equal overlaps, ignored objects and crowds, whatever the limit of detections."""
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(seed)
    images = [{"id": 1, "height": 60, "width": 60}, {"id": 2, "height": 60, "width": 60}]
    annotations = []
    rows = []
    for image_id in (1, 1, 1, 2):
        for number in range(30):
            x, y = rng.integers(0, 3, 2).tolist()
            w, h = rng.integers(4, 60, 2).tolist()
            shape = {"image_id": image_id, "category_id": 1 + number % 2, "bbox": [x, y, w, h]}
            crowd = int(rng.random() < 0.2)
            annotations.append({**shape, "area": w * h, "iscrowd": crowd, "segmentation": [[]]})
            x, y = (np.array([x, y]) + rng.integers(0, 2, 2)).tolist()
            score = float(rng.integers(0, 5)) / 5
            rows.append({**shape, "bbox": [x, y, w, h], "score": score})
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    data = {"images": images, "annotations": annotations, "categories": categories, "info": {}}
    runs = []
    for evaluator in (COCOeval, evaluate._evaluator()):
        with contextlib.redirect_stdout(io.StringIO()):
            truth = evaluate._coco(json.loads(json.dumps(data)))
            run = evaluator(truth, truth.loadRes(json.loads(json.dumps(rows))), "bbox")
            run.params.maxDets = [1, 10, 40]
            run.evaluate()
        runs.append(run.evalImgs)
    matched = 0
    for expected, ours in zip(*runs):
        assert expected.keys() == ours.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(value, ours[key], err_msg=key)
        matched += np.count_nonzero(expected["dtMatches"])
    assert matched > 500


class Boxes(Dataset):
    """Annotations of a user's own dataset, as they are."""

    def load_mask(self, image_id):
        raise AssertionError("the annotations are the truth")


def own_dataset(*annotations):
    dataset = Boxes()
    dataset.add_class("mine", 3, "cell")
    with pytest.warns(UserWarning, match="'cell' twice"):
        dataset.add_class("mine", 4, "cell")
    dataset.add_image("mine", 7, "7.png", width=50, height=40, annotations=list(annotations))
    dataset.prepare()
    return dataset


SQUARE = {
    "id": 1,
    "category_id": 3,
    "segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]],
    "area": 400,
    "bbox": [10, 10, 20, 20],
    "iscrowd": 0,
}
FOUND = {
    "image_id": 7,
    "category_id": 3,
    "score": 0.9,
    "bbox": [10, 10, 20, 20],
    "segmentation": masks.encode(masks.decode([SQUARE], 40, 50))[0],
}


@pytest.mark.parametrize("field", ["area", "bbox", "iscrowd", "id"])
@pytest.mark.parametrize("value", [None, [], "", "x", float("nan"), -1, {}, [[1, 2, 3, 4]]])
def test_fields_that_are_no_numbers(field, value):
    """They are computed from the outline before anything is detected, and AP is 1 (row 18)."""
    before = {**SQUARE, field: value}
    dataset = own_dataset(before)
    given = json.dumps(before)
    ours = evaluate.evaluate_detections(dataset, [FOUND])
    figures = (ours.bbox["AP"], ours.segm["AP"], ours.segm["APs"])
    assert figures == pytest.approx((1, 1, 1))
    assert json.dumps(dataset.image_info[0]["annotations"][0]) == given
    (annotation,) = ours.truth.data["annotations"]
    assert annotation["area"] == 400 and annotation["bbox"] == [10, 10, 20, 20]


def test_outlines_that_cannot_be_drawn_are_left_out_of_the_truth(caplog):
    shapes = [
        [[1, 1, 2, float("nan"), 3, 3]],
        [[1, 1, 2, 1e12, 3, 3]],
        {"size": [40, 50], "counts": [5, 5]},
        {"size": [50, 40], "counts": "0"},
        None,
    ]
    bad = [{**SQUARE, "segmentation": shape} for shape in shapes[:4]]
    boxed = {**SQUARE, "segmentation": [], "category_id": 4}
    nothing = {**SQUARE, "segmentation": None, "bbox": None}
    ours = evaluate.evaluate_detections(own_dataset(*bad, SQUARE, boxed, nothing), [FOUND])
    assert ours.per_class["cell"]["segm AP"] == pytest.approx(1)
    assert ours.per_class["cell (2)"]["segm AP"] == 0
    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith("5 segmentations can't be drawn and are left out of the truth")
    assert "1 (image 7: a polygon" in text and "Received: 1000000000000.0" in text


def test_annotations_that_hold_numpy():
    """As a dataset of one's own may keep them."""
    code = {"size": np.array([40, 50]), "counts": FOUND["segmentation"]["counts"].encode()}
    runs = np.array(masks.decompressed(code["counts"]), np.uint32)
    polygon = np.array(SQUARE["segmentation"][0], np.float32)
    shapes = (code, {**code, "counts": runs}, [polygon], polygon.reshape(1, -1), (tuple(polygon),))
    for shape in shapes:
        own = {"segmentation": shape, "area": np.float32(400), "iscrowd": np.bool_(False)}
        dataset = own_dataset({**SQUARE, **own, "bbox": np.array(SQUARE["bbox"])})
        ours = evaluate.evaluate_detections(dataset, [FOUND])
        assert (ours.bbox["AP"], ours.segm["AP"]) == pytest.approx((1, 1))


def test_classes_of_one_name_are_told_apart(tmp_path):
    """Figures by class are kept by name; saving raised an IndexError (row 14)."""
    dataset = own_dataset(SQUARE, {**SQUARE, "category_id": 4})
    ours = evaluate.evaluate_detections(dataset, [FOUND])
    assert list(ours.per_class) == ["cell", "cell (2)"]
    assert len(ours.class_names()) == 3 == len(ours.confusion)
    assert ours.save(tmp_path)


def test_many_objects_on_one_image():
    """2,000 objects and 100 detections in seconds: COCOeval's own loops take ten times as long."""
    annotations = []
    rows = []
    for number in range(2000):
        x = 5 * (number % 50)
        y = 5 * (number // 50)
        outline = [x, y, x + 4, y, x + 4, y + 4, x, y + 4]
        annotations.append(
            {**SQUARE, "bbox": [x, y, 4, 4], "area": 16, "segmentation": [outline], "id": number}
        )
    dataset = own_dataset(*annotations)
    dataset.image_info[0].update(height=200, width=250)
    for annotation in annotations[:100]:
        code = masks.to_rle(annotation, 200, 250)
        code = {**code, "counts": code["counts"].decode()}
        rows.append({**FOUND, "bbox": annotation["bbox"], "segmentation": code})
    start = time.monotonic()
    ours = evaluate.evaluate_detections(dataset, rows)
    assert time.monotonic() - start < 5
    assert ours.bbox["AR100"] == ours.segm["AR100"] == 0.05


@pytest.mark.parametrize(
    "fault, text",
    [
        (lambda: None, "load_image gave None, as cv2.imread does"),
        (
            lambda: dict().get("image")[..., ::-1],
            "TypeError: 'NoneType' object is not subscriptable",
        ),
        (lambda: {}["missing"], "KeyError: 'missing'"),
    ],
    ids=["None", "None sliced", "a key"],
)
def test_whatever_load_image_does_is_said(fault, text, caplog):
    """An image that is None counted as missed without a word; other errors ended the evaluation."""

    class Faulty(Made):
        def load_image(self, image_id):
            if image_id == 1 and not self.truth:
                return fault()
            return super().load_image(image_id)

        def load_mask(self, image_id):
            self.truth = True
            try:
                return super().load_mask(image_id)
            finally:
                self.truth = False

        truth = False

    result = evaluate.evaluate(Model(), Faulty(), progress=False)
    assert [image_id for image_id, _ in result.unreadable] == [1]
    assert "image 1 (" in caplog.text and text in caplog.text
