"""Figures against COCOeval, run directly on annotations in COCO's format."""

import contextlib
import io
import json

import numpy as np
import oracle
import pytest

from mrcnn import evaluate
from mrcnn.utils import Dataset


class Cards(Dataset):
    """Images with rectangles of three classes, some of them crowds."""

    def __init__(self, images=6, crowds=True, seed=0):
        super().__init__()
        for i in (1, 2, 3):
            self.add_class("cards", i, f"card {i}")
        rng = np.random.default_rng(seed)
        for i in range(images):
            corners = np.sort(rng.integers(0, 100, (4, 2, 2)), axis=1)
            boxes = [(y1, x1, y2 + 3, x2 + 3) for (y1, x1), (y2, x2) in corners]
            ids = rng.integers(1, 4, 4) * np.where(crowds & (rng.uniform(size=4) < 0.25), -1, 1)
            self.add_image("cards", i, path=None, boxes=boxes, ids=ids)
        self.prepare()

    def load_image(self, image_id):
        return np.zeros((110, 110, 3), np.uint8)

    def load_mask(self, image_id):
        info = self.image_info[image_id]
        masks = np.zeros((110, 110, 4), bool)
        for i, (y1, x1, y2, x2) in enumerate(info["boxes"]):
            masks[y1:y2, x1:x2, i] = True
        return masks, info["ids"]


def perturbed(dataset, seed=1):
    """Detections made from the truth: shifted, dropped, duplicated, mislabelled."""
    rng, detections = np.random.default_rng(seed), []
    for image_id in dataset.image_ids:
        masks, ids = dataset.load_mask(image_id)
        for i, class_id in enumerate(np.abs(ids)):
            for _ in range(rng.integers(0, 3)):
                mask = np.roll(masks[..., i], rng.integers(-4, 5, 2), axis=(0, 1))
                label = int(class_id if rng.uniform() < 0.8 else rng.integers(1, 4))
                ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
                box = np.array([[ys[0], xs[0], ys[-1] + 1, xs[-1] + 1]])
                detections += evaluate.coco_results(
                    image_id,
                    {
                        "rois": box,
                        "class_ids": np.array([label]),
                        "scores": rng.uniform(size=1),
                        "masks": mask[..., None],
                    },
                )
    return detections


def direct(annotations, detections, kind, image_ids):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = annotations
        coco.createIndex()
        rows = [
            {k: v for k, v in row.items() if k != ("bbox" if kind == "segm" else "segmentation")}
            for row in detections
        ]
        run = COCOeval(coco, coco.loadRes(rows), kind)
        run.params.imgIds = image_ids
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats


def test_agrees_with_cocoeval():
    """The annotations are written here by hand, as polygons, not by the code under test."""
    dataset = Cards()
    annotations = {
        "info": {},
        "images": [{"id": i, "height": 110, "width": 110} for i in range(6)],
        "annotations": [],
        "categories": [{"id": i, "name": f"card {i}"} for i in (1, 2, 3)],
    }
    from pycocotools import mask as coco_mask

    for info in dataset.image_info:
        for (y1, x1, y2, x2), class_id in zip(info["boxes"], info["ids"]):
            mask = np.zeros((110, 110), np.uint8, order="F")
            mask[y1:y2, x1:x2] = 1
            code = coco_mask.encode(mask)
            annotations["annotations"].append(
                {
                    "id": len(annotations["annotations"]) + 1,
                    "image_id": info["id"],
                    "category_id": int(abs(class_id)),
                    "bbox": [int(x1), int(y1), int(x2 - x1), int(y2 - y1)],
                    "area": int((y2 - y1) * (x2 - x1)),
                    "iscrowd": int(class_id < 0),
                    "segmentation": {"size": [110, 110], "counts": code["counts"].decode()},
                }
            )
    assert any(a["iscrowd"] for a in annotations["annotations"])
    detections = perturbed(dataset)
    result = evaluate.evaluate_detections(dataset, detections)
    for kind, figures in (("bbox", result.bbox), ("segm", result.segm)):
        expected = direct(annotations, detections, kind, list(range(6)))
        assert 0 < expected[0] < 1
        for figure, value in zip(evaluate.FIGURES, expected):
            assert (
                np.isnan(figures[figure]) if value < 0 else abs(figures[figure] - value) < 1e-6
            ), figure
        per_class = [result.per_class[f"card {i}"][f"{kind} AP"] for i in (1, 2, 3)]
        assert abs(np.mean(per_class) - expected[0]) < 1e-6


class Coco(Dataset):
    """coco-mini's validation images, masks by pycocotools."""

    def __init__(self, folder):
        from pycocotools.coco import COCO

        super().__init__()
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco = COCO(str(folder / "annotations" / "instances_val2017.json"))
        for category in self.coco.loadCats(self.coco.getCatIds()):
            self.add_class("coco", category["id"], category["name"])
        for image in self.coco.loadImgs(sorted(self.coco.getImgIds())):
            self.add_image("coco", image["id"], path=None, size=(image["height"], image["width"]))
        self.prepare()

    def load_mask(self, image_id):
        info = self.image_info[image_id]
        annotations = self.coco.loadAnns(self.coco.getAnnIds(imgIds=info["id"]))
        masks = np.zeros((*info["size"], len(annotations)), bool)
        for i, annotation in enumerate(annotations):
            masks[..., i] = self.coco.annToMask(annotation)
        ids = [
            self.map_source_class_id(f"coco.{a['category_id']}") * (-1 if a["iscrowd"] else 1)
            for a in annotations
        ]
        return masks, np.array(ids, np.int32)

    def load_image(self, image_id):
        return np.zeros((*self.image_info[image_id]["size"], 3), np.uint8)


@pytest.mark.long
def test_masks_of_real_annotations_agree_with_cocoeval_on_the_official_file():
    """Truth as detections, every second one shifted: figures of masks equal those on the json
    itself."""
    folder = oracle.shared("data/coco-mini")
    dataset = Coco(folder)
    detections = []
    rng = np.random.default_rng(0)
    for image_id in dataset.image_ids[:20]:
        masks, ids = dataset.load_mask(image_id)
        for i in range(len(ids)):
            mask = np.roll(masks[..., i], 5 * (i % 2), axis=1)
            detections.append(
                {
                    "image_id": int(image_id),
                    "category_id": int(abs(ids[i])),
                    "score": float(rng.uniform()),
                    "segmentation": evaluate.encode(mask[..., None])[0],
                    "bbox": [0.0, 0.0, 1.0, 1.0],
                }
            )
    ours = evaluate.evaluate_detections(dataset, detections, dataset.image_ids[:20]).segm
    official = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    names = {i: dataset.image_info[i]["id"] for i in dataset.image_ids}
    rows = [
        {
            **row,
            "image_id": names[row["image_id"]],
            "category_id": int(dataset.get_source_class_id(row["category_id"], "coco")),
        }
        for row in detections
    ]
    expected = direct(official, rows, "segm", [names[i] for i in dataset.image_ids[:20]])
    # The json's areas are the polygons', ours the masks': only the figures by size may differ.
    for figure, value in zip(evaluate.FIGURES, expected):
        if figure[-1] not in "sml":
            assert abs(ours[figure] - value) < 1e-6, figure


def test_perfect_none_and_nothing():
    dataset = Cards(3, crowds=False)
    perfect = []
    for image_id in dataset.image_ids:
        masks, ids = dataset.load_mask(image_id)
        perfect += evaluate.coco_results(
            image_id,
            {
                "rois": np.array(dataset.image_info[image_id]["boxes"]),
                "class_ids": ids,
                "scores": np.ones(4),
                "masks": masks,
            },
        )
    result = evaluate.evaluate_detections(dataset, perfect)
    assert result.bbox["AP"] == result.segm["AP"] == pytest.approx(1)
    assert evaluate.evaluate_detections(dataset, []).segm["AP"] == 0
    boxes_only = evaluate.evaluate_detections(dataset, perfect, masks=False)
    assert boxes_only.segm is None and "mask" not in boxes_only.table()


def test_files(tmp_path):
    dataset = Cards(2)
    result = evaluate.evaluate_detections(dataset, perturbed(dataset))
    paths = result.save(tmp_path / "new")
    assert [p.rsplit("/", 1)[1] for p in paths] == [
        "table.txt",
        "figures.json",
        "results.json",
        "truth.json",
        "curves.npz",
        "precision_recall.png",
        "confusion.png",
    ]
    assert json.loads((tmp_path / "new" / "results.json").read_text()) == result.detections
    table = result.table().splitlines()
    assert table[0].split() == "class box AP box AP50 mask AP mask AP50".split() and table[
        -1
    ].startswith("all")


def test_truth_of_masks_knows_every_class_whatever_the_last_image_holds():
    """Detections of a class that the last image lacks count, and the journal of a run is json."""

    class Squares(Dataset):
        def load_mask(self, image_id):
            masks = np.zeros((20, 20, 1), bool)
            masks[2:12, 3:13] = True
            return masks, np.array([2 - image_id], np.int32)  # the last one is of class 1

    dataset = Squares()
    for class_id, name in ((1, "a"), (2, "b"), (3, "c")):
        dataset.add_class("squares", class_id, name)
    for i in range(2):
        dataset.add_image("squares", i, None)
    dataset.prepare()
    truth = evaluate.ground_truth(dataset, [0, 1])
    assert truth.class_ids == {1: 1, 2: 2, 3: 3}
    assert all(type(value) is int for value in truth.class_ids.values())
    rows = []
    for image_id in (0, 1):
        masks, class_ids = dataset.load_mask(image_id)
        result = {
            "rois": np.array([[2, 3, 12, 13]]),
            "class_ids": class_ids,
            "scores": np.array([0.9]),
            "masks": masks,
        }
        rows += evaluate.coco_results(image_id, result, truth.class_ids)
    assert [row["category_id"] for row in json.loads(json.dumps(rows))] == [2, 1]


# ---- How many detections count -------------------------------------------------------------------


class Crowded(Dataset):
    """One image with `count` objects of one class in rows of 20, 6 x 6 pixels each."""

    def __init__(self, count):
        super().__init__()
        self.add_class("cells", 1, "cell")
        self.add_image("cells", 0, path=None)
        self.count = count
        self.prepare()

    def load_image(self, image_id):
        return np.zeros((60, 140, 3), np.uint8)

    def boxes(self):
        corners = [(7 * (i // 20), 7 * (i % 20)) for i in range(self.count)]
        return np.array([(y, x, y + 6, x + 6) for y, x in corners])

    def load_mask(self, image_id):
        masks = np.zeros((60, 140, self.count), bool)
        for i, (y1, x1, y2, x2) in enumerate(self.boxes()):
            masks[y1:y2, x1:x2, i] = True
        return masks, np.ones(self.count, np.int32)

    def load_keypoints(self, image_id):
        points = np.full((self.count, 17, 3), 2.0)
        points[..., :2] = self.boxes()[:, None, :2] + np.arange(17)[None, :, None] / 5
        return points


class FindsAll:
    """A model that finds every object of a `Crowded` exactly."""

    def __init__(self, dataset, limit=100, keypoints=False, masks=True):
        from mrcnn.config import Config

        self.config = Config(
            NUM_CLASSES=2,
            DETECTION_MAX_INSTANCES=limit,
            USE_KEYPOINTS=keypoints,
            USE_MASK=masks,
            IMAGES_PER_GPU=1,
        )
        self.dataset = dataset

    def detect(self, images):
        masks, class_ids = self.dataset.load_mask(0)
        result = {
            "rois": self.dataset.boxes(),
            "class_ids": class_ids,
            "scores": np.linspace(1, 0.5, len(class_ids)),
            "masks": masks,
        }
        if self.config.USE_KEYPOINTS:
            result["keypoints"] = self.dataset.load_keypoints(0)
        return [result]


def test_as_many_detections_count_as_the_model_may_give(tmp_path):
    """150 objects, all found. COCO's limit of 100 gives a recall of 2/3 and, of its 101 recalls, 67
    with precision 1: AP 67/101. With DETECTION_MAX_INSTANCES = 400 AP is 1, and COCO's is named."""
    dataset = Crowded(150)
    result = evaluate.evaluate(FindsAll(dataset, 400), dataset, progress=False)
    assert result.max_detections == 400
    for kind, figures in result.kinds():
        assert figures["AP"] == figures["APs"] == figures["AR400"] == figures["ARs"] == 1
        assert figures["AR100"] == pytest.approx(2 / 3) and figures["AR10"] == pytest.approx(1 / 15)
        own = result.coco[kind]
        assert own["AP"] == pytest.approx(67 / 101) and own["AR100"] == pytest.approx(2 / 3)
        assert list(own) == list(evaluate.FIGURES)
        assert result.per_class["cell"][f"{kind} AP"] == 1
        assert result.curves[kind]["precision"].mean() == 1
    rows = result.summary().splitlines()
    assert rows[0].split()[6:10] == ["AR1", "AR10", "AR100", "AR400"]
    assert [row.split("  ")[0] for row in rows[1:]] == [
        "box, best 400 count",
        "box, COCO's best 100",
        "mask, best 400 count",
        "mask, COCO's best 100",
    ]
    stats = direct(result.truth.data, result.detections, "bbox", [0])
    for name, value in zip(evaluate.FIGURES, stats):
        assert np.isnan(own[name]) if value < 0 else own[name] == pytest.approx(value)
    result.curves = {}  # their pictures are no matter here
    result.save(tmp_path)
    saved = json.loads((tmp_path / "figures.json").read_text())
    assert saved["segm"]["AP"] == 1 and saved["max_detections"] == 400
    assert saved["coco"]["segm"]["AP"] == pytest.approx(67 / 101)
    # Stored detections: all that are given count, unless a limit is named.
    rows = result.detections
    assert evaluate.evaluate_detections(dataset, rows, masks=False).bbox["AP"] == 1
    limited = evaluate.evaluate_detections(dataset, rows, masks=False, max_detections=100)
    assert limited.bbox["AP"] == pytest.approx(67 / 101) and "AR400" not in limited.bbox


def test_with_the_default_limit_figures_are_cocos_alone():
    dataset = Crowded(110)
    result = evaluate.evaluate(FindsAll(dataset, masks=False), dataset, progress=False)
    assert list(result.bbox) == list(evaluate.FIGURES)
    assert result.coco["bbox"] == pytest.approx(result.bbox, nan_ok=True)
    assert result.bbox["AP"] < 0.95 and "COCO" not in result.summary()
    few = evaluate.evaluate(FindsAll(dataset, 5, masks=False), dataset, progress=False)
    assert few.bbox == pytest.approx(result.bbox, nan_ok=True)


def test_keypoints_count_as_many_as_boxes(monkeypatch):
    """30 people, all found: COCO's limit of 20 gives AR 2/3."""
    dataset = Crowded(30)
    result = evaluate.evaluate(FindsAll(dataset, 100, True), dataset, progress=False)
    assert result.keypoints["AR"] == 1 and result.coco["keypoints"]["AR"] == pytest.approx(2 / 3)
    assert result.per_class["cell"]["keypoints AP"] == 1
    assert "keypoint, COCO's best 20" in result.summary() and "box, COCO" not in result.summary()
    stats = direct(result.truth.data, result.detections, "keypoints", [0])
    own = list(result.coco["keypoints"].values())
    known = stats > -1
    np.testing.assert_allclose(np.array(own)[known], stats[known])
    assert np.isnan(np.array(own)[~known]).all()


def test_classes_of_one_name_stay_apart():
    """Two sources have a class of the same name: each has its own row and its own figures."""
    dataset = Cards(4, crowds=False)
    dataset.class_info[2]["name"] = dataset.class_info[3]["name"] = "card 1"
    dataset.prepare()
    rows = []
    for image_id in dataset.image_ids:
        masks, ids = dataset.load_mask(image_id)
        result = {
            "rois": np.array(dataset.image_info[image_id]["boxes"]),
            "class_ids": np.where(ids == 2, 1, ids),  # 2 is taken for 1
            "scores": np.ones(4),
            "masks": masks,
        }
        rows += evaluate.coco_results(image_id, result)
    result = evaluate.evaluate_detections(dataset, rows)
    assert list(result.per_class) == ["card 1", "card 1 (2)", "card 1 (3)"]
    figures = [figures["segm AP50"] for figures in result.per_class.values()]
    assert figures[1] == 0 and figures[2] == 1 and 0 < figures[0] < 1
    assert len(result.class_names()) == len(result.confusion) == 4
    result.plot_confusion()


class Blank(Dataset):
    """One image of 8 x 8 with the masks and class ids that are given."""

    def __init__(self, masks, class_ids):
        super().__init__()
        self.add_class("blank", 1, "a")
        self.add_class("blank", 2, "b")
        self.add_image("blank", 0, "x.png", height=8, width=8)
        self.objects = masks, class_ids
        self.prepare()

    def load_mask(self, image_id):
        return self.objects


def test_objects_without_a_pixel_are_no_truth():
    """Training leaves them out; here each was an object that no detection finds."""
    masks = np.zeros((8, 8, 3), np.uint8)
    masks[2:4, 2:4, 0] = 255
    truth = evaluate.ground_truth(Blank(masks, [1, 2, 0]), None)
    assert [(a["category_id"], a["area"]) for a in truth.data["annotations"]] == [(1, 4.0)]
    listed = evaluate.ground_truth(Blank(masks.tolist(), (2, 2, 2)), None)
    assert [a["category_id"] for a in listed.data["annotations"]] == [2]


@pytest.mark.parametrize(
    "class_ids, part",
    [
        ([7, 1], r"1..2 \(negative for crowds\). Received: \[7\] for image 0 \(x.png\)"),
        ([0, 1], r"Received: \[0\] for image 0"),
        ([1], "Received: 2 masks and 1 class ids for image 0"),
    ],
)
def test_class_ids_of_the_truth_are_checked(class_ids, part):
    """Objects of classes that there are not were left out of the figures, without a word."""
    with pytest.raises(ValueError, match=part):
        evaluate.ground_truth(Blank(np.ones((8, 8, 2), bool), class_ids), None)
