"""The nucleus sample on COCO's json, the bowl's metric, and its figures by kind of image."""

import concurrent.futures
import importlib.util
import json
import pathlib
import sys

import numpy as np
import oracle
import pytest
from PIL import Image

from mrcnn import data, evaluate, masks

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "samples" / "nucleus"


def load(name):
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bowl():
    return load("bowl")


@pytest.fixture(scope="module")
def nucleus():
    return load("nucleus")


def labels(*boxes, shape=(20, 40)):
    image = np.zeros(shape, np.int32)
    for number, (y1, x1, y2, x2) in enumerate(boxes, 1):
        image[y1:y2, x1:x2] = number
    return image


def test_scores_by_hand(bowl):
    """Two nuclei: one found exactly, one with an IoU of .6, one object of nothing."""
    truth = labels((0, 0, 10, 10), (0, 20, 10, 30))
    predicted = labels((0, 0, 10, 10), (0, 20, 6, 30), (15, 0, 20, 5))
    np.testing.assert_allclose(bowl.scores(truth, predicted), [2 / 3, 2 / 3] + [1 / 4] * 8)
    assert bowl.scores(truth, truth).tolist() == [1] * 10
    assert bowl.scores(truth * 0, truth * 0).tolist() == [1] * 10
    assert bowl.scores(truth, truth * 0).tolist() == [0] * 10
    assert bowl.scores(truth * 0, predicted).tolist() == [0] * 10
    with pytest.raises(ValueError, match=r"one shape. Received: \(20, 40\) and \(20, 39\)"):
        bowl.scores(truth, predicted[:, 1:])


def test_an_iou_of_exactly_one_half_is_not_found(bowl):
    """Nor is it twice: a nucleus in two equal halves is one miss and two false objects."""
    truth = labels((0, 0, 10, 10))
    halves = labels((0, 0, 5, 10), (5, 0, 10, 10))
    assert bowl.scores(truth, halves).tolist() == [0] * 10
    assert bowl.scores(truth, labels((0, 0, 5, 10))).tolist() == [0] * 10


def test_a_pixel_belongs_to_the_first(bowl):
    masks = np.zeros((2, 4, 6), bool)
    masks[0, :, :4] = True
    masks[1, :, 2:] = True
    expected = np.array([[1, 1, 1, 1, 2, 2]] * 4)
    np.testing.assert_array_equal(bowl.label_image(masks, (4, 6)), expected)
    # One without a pixel left is no object.
    scores = bowl.scores(expected, bowl.label_image([*masks, masks[0]], (4, 6)))
    assert scores.tolist() == [1] * 10


def test_kinds(bowl):
    gray = np.full((8, 8, 3), 30, np.uint8)
    pink = np.array([230, 180, 220], np.uint8) + np.zeros((8, 8, 3), np.uint8)
    assert [bowl.kind_of(x) for x in (gray, 255 - gray, pink)] == [
        "fluorescence",
        "bright",
        "stained",
    ]


@pytest.fixture
def coco_folder(tmp_path):
    """A dark image with two nuclei, a pink one with one, a dark one without any."""

    images, annotations = [], []
    (tmp_path / "odd").mkdir()
    colors = [(20, 20, 20), (230, 180, 220), (20, 20, 20)]
    for number, color in enumerate(colors, 1):
        picture = np.zeros((30, 40, 3), np.uint8) + np.array(color, np.uint8)
        name = f"{number}.png"
        images.append({"id": number, "file_name": name, "width": 40, "height": 30})
        for left in (2, 20)[: [2, 1, 0][number - 1]]:
            mask = np.zeros((30, 40), np.uint8)
            mask[5:15, left : left + 10] = 1
            picture[mask > 0] = 120
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 4,
                    "iscrowd": 0,
                    "area": 100,
                    "bbox": [left, 5, 10, 10],
                    "segmentation": {
                        "size": [30, 40],
                        "counts": masks.encode(mask[..., None])[0]["counts"],
                    },
                }
            )
        Image.fromarray(picture).save(tmp_path / "odd" / name)
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 4, "name": "nucleus"}],
    }
    for annotation in annotations:
        counts = annotation["segmentation"]["counts"]
        if isinstance(counts, bytes):
            annotation["segmentation"]["counts"] = counts.decode()
    (tmp_path / "instances_odd.json").write_text(json.dumps(content))
    return tmp_path


def test_reads_coco(nucleus, coco_folder):
    dataset = nucleus.NucleusDataset()
    dataset.load_nucleus(coco_folder, "odd")
    dataset.prepare()
    assert dataset.class_names == ["BG", "nucleus"]
    assert [len(dataset.load_mask(i)[1]) for i in dataset.image_ids] == [2, 1, 0]
    masks, class_ids = dataset.load_mask(0)
    assert masks[5:15, 2:12, 0].all() and masks.sum() == 200 and class_ids.tolist() == [1, 1]
    assert dataset.load_image(1).shape == (30, 40, 3)


def test_figures_by_kind(nucleus, bowl, coco_folder):
    """All found but one of the dark image's two, which an object of low score would have been."""
    dataset = nucleus.NucleusDataset()
    dataset.load_nucleus(coco_folder, "odd")
    dataset.prepare()
    rows = []
    for i in dataset.image_ids:
        info = dataset.image_info[i]
        for place, item in enumerate(info["annotations"]):
            score = 0.4 if place == 1 else 0.9
            row = {key: item[key] for key in ("image_id", "category_id", "bbox", "segmentation")}
            rows.append({**row, "score": score})
    truth = evaluate.ground_truth(dataset, dataset.image_ids)
    result = evaluate.evaluate_detections(dataset, rows, dataset.image_ids, truth=truth)
    figures = bowl.evaluate(result, dataset)
    assert set(figures) == {"all", "fluorescence", "stained"}
    assert figures["fluorescence"]["score"] == 0.75  # of .5 and, without objects, 1
    assert figures["stained"]["score"] == 1
    assert figures["all"]["score at .5"] == pytest.approx(2.5 / 3)
    assert figures["all"]["images"] == 3 and figures["all"]["nuclei"] == 3
    assert bowl.evaluate(result, dataset, min_score=0.3)["all"]["score"] == 1
    result.unreadable = [(1, "truncated")]
    figures_without = bowl.evaluate(result, dataset)
    assert "stained" not in figures_without and figures_without["all"] == figures["all"]
    text = bowl.table(figures)
    assert "fluorescence" in text and "0.750" in text


def test_real_images(nucleus, bowl):
    """The counts and kinds of the shared README."""
    dataset = nucleus.NucleusDataset()
    folder = oracle.shared("data/dsb2018")
    dataset.load_nucleus(folder, "val")
    dataset.prepare()
    kinds = [bowl.kind_of(dataset.load_image(i)) for i in dataset.image_ids]
    assert [kinds.count(kind) for kind in bowl.KINDS] == [60, 7, 1]
    assert sum(len(info["annotations"]) for info in dataset.image_info) == 3374
    content = json.loads((folder / "instances_val.json").read_text())
    by_name = {image["file_name"]: image["kind"] for image in content["images"]}
    names = [pathlib.Path(info["path"]).name for info in dataset.image_info]
    assert kinds == [by_name[name] for name in names]


def test_command_line(nucleus, coco_folder, capsys):
    with pytest.raises(SystemExit):
        nucleus.main(["evaluate", f"--dataset={coco_folder}", "--subset=other"])
    said = capsys.readouterr().err
    assert "invalid choice: 'other'" in said and "instances_<subset>.json" in said
    arguments = ["train", "--small", "--dataset=x"]
    assert nucleus._with_random_weights(arguments)[-1] == "--weights=none"
    assert nucleus._with_random_weights([*arguments, "--weights=last"])[-1] == "--weights=last"
    assert nucleus._with_random_weights(["train"]) == ["train"]


def test_training_takes_label_maps(nucleus, coco_folder):
    """The same masks as load_mask; an edited annotation counts at once; so does a subclass's own
    load_mask."""
    dataset = nucleus.NucleusDataset()
    dataset.load_nucleus(coco_folder, "odd")
    dataset.prepare()
    for _ in range(3):
        maps, class_ids = dataset.load_label_maps(0)
        expected, expected_ids = dataset.load_mask(0)
        np.testing.assert_array_equal(maps, expected)
        assert class_ids.tolist() == expected_ids.tolist() == [1, 1]
    annotations = dataset.image_info[0]["annotations"]
    annotations[1]["segmentation"] = {"size": [30, 40], "counts": [1200]}
    assert dataset.load_label_maps(0)[1].tolist() == [1]
    annotations[0]["segmentation"] = masks.encode(np.ones((30, 40, 1), bool))[0]
    assert np.asarray(dataset.load_label_maps(0)[0]).all()

    class Turned(nucleus.NucleusDataset):
        def load_mask(self, image_id):
            found, class_ids = super().load_mask(image_id)
            return ~found, class_ids

    config = nucleus.NucleusSmallConfig(IMAGE_RESIZE_MODE="pad64", IMAGE_MIN_DIM=0)
    own = Turned()
    own.load_nucleus(coco_folder, "odd")
    own.prepare()
    for image_id in (0, 1):
        given = np.asarray(data.load_image_gt(own, config, image_id)[4])
        y, x = 17, 12  # where the padding ends
        np.testing.assert_array_equal(given[y : y + 30, x : x + 40], own.load_mask(image_id)[0])


def test_batches_of_threads_are_those_of_one(nucleus):
    """With masks and images that are kept after their second reading, and the augmentation."""
    folder = pathlib.Path(nucleus.__file__).parent / "data"
    config = nucleus.NucleusSmallConfig(IMAGES_PER_GPU=4)

    def batches():
        dataset = nucleus.NucleusDataset()
        dataset.load_nucleus(folder, "val")
        dataset.prepare()
        return data.TrainingBatches(dataset, config, augmentation=nucleus.augmentation(), seed=3)

    steps = range(14)  # 24 images, twice and a bit
    one = batches()
    expected = [one.batch(step)[0] for step in steps]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(batches().batch, steps))
    for (inputs, _, _), others in zip(found, expected):
        for array, other in zip(inputs, others, strict=True):
            np.testing.assert_array_equal(array, other)
