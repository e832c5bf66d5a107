"""Pages of evaluations and trainings: what is in them, for any dataset, and that it is one file."""

import argparse
import base64
import html.parser
import io
import json
import pathlib
import re
import types

import numpy as np
import pytest
from PIL import Image
from test_evaluate import Cards, perturbed

from mrcnn import commands, config as configs, evaluate, page, report
from mrcnn.utils import Dataset

EVIL = "<script>alert(1)</script>"


class Parsed(html.parser.HTMLParser):
    """The elements of a page, [(name, attributes)], and its text; tags that don't match fail."""

    EMPTY = ("meta", "link", "img", "wbr")
    DRAWN = ("polyline", "line", "circle")  # which may close themselves

    def __init__(self, path):
        super().__init__()
        self.elements = []
        self.open = []
        self.words = []
        self.scripts = []
        self.source = pathlib.Path(path).read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert tag in self.DRAWN, tag
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.scripts.append(data)
        elif self.open[-1:] != ["style"]:
            self.words.append(data)

    def all(self, tag, **attributes):
        return [
            found
            for name, found in self.elements
            if name == tag and attributes.items() <= found.items()
        ]

    def pictures(self):
        """Its pictures, [H, W, 3] each."""
        found = []
        for attributes in self.all("img"):
            content = base64.b64decode(attributes["src"].partition("base64,")[2])
            found.append(np.array(Image.open(io.BytesIO(content)).convert("RGB")).astype(int))
        return found

    def rows(self, caption):
        """The cells of the table whose caption begins so."""
        start = re.escape(page.escaped(caption))
        part = re.search(rf"<caption>{start}.*?</table>", self.source, re.S)[0]
        rows = re.findall(r"<tr>(.*?)</tr>", part, re.S)
        cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in rows]
        return [[re.sub(r"<[^>]*>", "", cell).strip() for cell in row] for row in cells]


def check(path):
    """A page that asks for nothing, runs nothing but its script, and can be read by all."""
    parsed = Parsed(path)
    assert parsed.scripts == [page.SCRIPT]
    for tag, attributes in parsed.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "data", "srcset"):
            address = attributes.get(name, "data:")
            assert address.startswith(("data:", "#")), address
    assert "url(" not in parsed.source and "@import" not in parsed.source
    (policy,) = parsed.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in policy["content"]
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for link in parsed.all("a"):
        assert link["href"][1:] in ids
    for part in parsed.all("section"):
        assert part["aria-labelledby"] in ids
    for image in parsed.all("img"):
        assert image["alt"] and int(image["width"]) > 0 and int(image["height"]) > 0
    assert parsed.all("html") == [{"lang": "en"}] and len(parsed.all("h1")) == 1
    assert parsed.all("meta", name="viewport")
    return parsed


class Squares(Dataset):
    """Images with the objects that are given: {image id: [(class id, (y1, x1, y2, x2))]}."""

    def __init__(
        self, objects, classes=("cat", "dog"), size=(100, 100), channels=3, dtype=np.uint8
    ):
        super().__init__()
        self.size = size
        self.channels = channels
        self.dtype = dtype
        self.read = []
        for i, name in enumerate(classes, 1):
            self.add_class("squares", i, name)
        for i, rows in objects.items():
            self.add_image("squares", i, path=None, rows=rows)
        self.prepare()

    def load_image(self, image_id):
        self.read.append(image_id)
        image = np.full((*self.size, self.channels), 60, np.float64)
        if self.dtype == np.float32:
            image /= 255
        return image.astype(self.dtype)

    def load_mask(self, image_id):
        rows = self.image_info[image_id]["rows"]
        masks = np.zeros((*self.size, len(rows)), bool)
        for i, (_, (y1, x1, y2, x2)) in enumerate(rows):
            masks[y1:y2, x1:x2, i] = True
        return masks, np.array([class_id for class_id, _ in rows], np.int32)


def detection(image_id, class_id, box, score, size=(100, 100), mask_box=None):
    y1, x1, y2, x2 = mask_box or box
    mask = np.zeros((*size, 1), bool)
    mask[y1:y2, x1:x2] = True
    (row,) = evaluate.coco_results(
        image_id,
        {
            "rois": np.array([box]),
            "class_ids": np.array([class_id]),
            "scores": np.array([score]),
            "masks": mask,
        },
    )
    return row


# An image of each kind of error. Class 1: A, B, C and E; class 2: D and a crowd.
OBJECTS = {
    0: [
        (1, (0, 0, 20, 20)),  # A, found, and found again
        (1, (0, 40, 20, 60)),  # B, its box fits, its mask is a third of it
        (1, (0, 70, 20, 90)),  # C, missed
        (2, (40, 0, 60, 20)),  # D, called class 1
        (1, (40, 40, 60, 60)),  # E, half of it is found: IoU 1/3
        (-2, (70, 0, 100, 60)),  # a crowd
    ],
    1: [(1, (10, 10, 50, 50))],
    2: [],
}
DETECTIONS = [
    detection(0, 1, (0, 0, 20, 20), 0.9),
    detection(0, 1, (0, 0, 20, 18), 0.8),
    detection(0, 1, (0, 40, 20, 60), 0.8, mask_box=(0, 40, 20, 47)),
    detection(0, 1, (40, 0, 60, 20), 0.7),
    detection(0, 1, (40, 50, 60, 70), 0.7),
    detection(0, 1, (62, 80, 90, 99), 0.6),
    detection(0, 2, (75, 5, 95, 30), 0.6),  # in the crowd
    detection(0, 1, (0, 70, 20, 90), 0.4),  # C, but the score is too low
    detection(1, 1, (10, 10, 50, 50), 0.9),
]


# ---- Kinds of errors -----------------------------------------------------------------------------


def test_kinds_of_errors_by_hand():
    truth = evaluate.ground_truth(Squares(OBJECTS))
    first, second, third = evaluate.errors_by_image(truth, DETECTIONS)
    assert first.fates == ["found", "bad mask", "missed", "wrong class", "bad place"]
    assert first.kinds == ["found", "double", "bad mask", "wrong class", "bad place", "false"]
    assert len(first.objects) == 5 and len(first.crowds) == 1
    assert first.counts == {
        "found": 1,
        "missed": 1,
        "double": 1,
        "wrong class": 1,
        "bad mask": 1,
        "bad place": 1,
        "false": 1,
    }
    assert first.score == 1 / 10  # 5 objects, 6 detections, 1 of them the same
    assert (second.kinds, second.fates, second.score) == (["found"], ["found"], 1.0)
    assert (third.kinds, third.fates, third.score) == ([], [], 1.0)


def test_kinds_of_errors_by_boxes_and_scores():
    truth = evaluate.ground_truth(Squares(OBJECTS))
    first, *_ = evaluate.errors_by_image(truth, DETECTIONS, kind="bbox")
    assert first.counts["found"] == 2 and first.counts["bad mask"] == 0  # B's box fits
    first, *_ = evaluate.errors_by_image(truth, DETECTIONS, score_threshold=0.3)
    assert first.fates[2] == "found" and first.counts["missed"] == 0
    first, *_ = evaluate.errors_by_image(truth, DETECTIONS, score_threshold=0.95)
    assert first.fates == ["missed"] * 5 and first.score == 0


def test_errors_stand_for_an_object_each():
    """Two detections on parts of one object, one of them also on the next: both are bad places."""
    objects = {0: [(1, (0, 0, 20, 20)), (1, (0, 22, 20, 42))]}
    rows = [
        detection(0, 1, (0, 0, 20, 9), 0.9),
        detection(0, 1, (0, 5, 20, 27), 0.8),
    ]
    (errors,) = evaluate.errors_by_image(evaluate.ground_truth(Squares(objects)), rows)
    # The second overlaps the first object by 15 / 27, more than half: it finds it.
    assert errors.kinds == ["bad place", "found"]
    # What is left for the other one is the object that it doesn't touch.
    assert errors.fates == ["found", "missed"]


@pytest.mark.parametrize("seed", range(4))
def test_found_is_what_coco_matches(seed):
    """Of all scores together, the found objects are COCOeval's matches at an IoU of .5."""
    from pycocotools.cocoeval import COCOeval

    dataset = Cards(images=8, seed=seed)
    detections = perturbed(dataset, seed + 1)
    truth = evaluate.ground_truth(dataset)
    run = COCOeval(truth.coco(), truth.coco().loadRes(detections), "segm")
    run.evaluate()
    matches = 0
    for cell in run.evalImgs:
        if cell is not None and cell["aRng"] == run.params.areaRng[0]:
            matches += int((~cell["gtIgnore"].astype(bool) & (cell["gtMatches"][0] > 0)).sum())
    found = 0
    for image in evaluate.errors_by_image(truth, detections, score_threshold=0):
        counts = image.counts
        explained = [
            fate for fate in image.fates if fate in ("wrong class", "bad mask", "bad place")
        ]
        assert len(image.objects) == counts["found"] + counts["missed"] + len(explained)
        assert len(image.rows) == sum(counts.values()) - counts["missed"]
        found += counts["found"]
    assert found == matches > 0


# ---- The page of an evaluation -------------------------------------------------------------------


def written(tmp_path, dataset, detections, **options):
    masks = options.pop("masks", True)
    keypoints = options.pop("keypoints", False)
    result = evaluate.evaluate_detections(dataset, detections, masks=masks, keypoints=keypoints)
    path = report.write(result, dataset, tmp_path / "page.html", **options)
    return check(path), result


def test_the_page_says_what_was_found(tmp_path):
    class Changed(configs.Config):
        NAME = "squares"
        NUM_CLASSES = 3
        LEARNING_RATE = 0.5

    table = report.Table("Mine", ["", "b"], [["a", 7]], "A note.", [("my figure", 0.25)])
    weights = tmp_path / "w.h5"
    weights.write_bytes(bytes(2_500_000))
    parsed, result = written(
        tmp_path,
        Squares(OBJECTS),
        DETECTIONS,
        config=Changed(),
        weights=weights,
        title="Cats & dogs",
        tables=[table],
    )
    assert "3 images, 6 objects of 2 classes, 9 detections" in parsed.text
    assert parsed.rows("Errors by kind")[1:3] == [
        ["found", "2", "an object with a detection of its class, IoU .5 or more"],
        ["missed", "1", "an object that no detection stands for"],
    ]
    by_class = parsed.rows("Errors by class")
    assert by_class[0][:5] == ["class", "objects", "detections", "found", "missed"]
    assert by_class[1] == ["cat", "5", "7", "2", "1", "1", "1", "1", "1", "1"]
    assert by_class[2] == ["dog", "1", "0", "0", "0", "0", "0", "0", "0", "0"]
    figures = parsed.rows("COCO's figures")
    assert figures[0][:4] == ["", "AP", "AP50", "AP75"]
    expected = [f"{result.segm[name]:.3f}" for name in ("AP", "AP50", "AP75")]
    assert figures[2][:4] == ["mask", *expected]
    assert (
        parsed.rows("Figures of masks by class")[1][2]
        == f"{result.per_class['cat']['segm AP']:.3f}"
    )
    assert ["LEARNING_RATE", "0.5", "0.001"] in parsed.rows("Settings")
    assert not [row for row in parsed.rows("Settings") if row[0] == "BACKBONE"]
    matrix = parsed.rows("Confusion matrix")
    # C is not counted as detected: its detection has a score of .4. "cat" on the dog D is confused.
    assert matrix[0] == ["object, detected as", "nothing", "cat", "dog"]
    assert matrix[3] == ["dog", "", "1", ""]
    assert f"{weights}, 2.5 MB" in parsed.text and f"mrcnn {evaluate.__version__}" in parsed.text
    assert "Mine A note." in parsed.text and "0.250 my figure" in parsed.text
    assert "Cats & dogs" in parsed.text
    # One image has errors; its truth and what was detected are side by side.
    assert "1 of the 1 images with an error" in parsed.text
    assert len(parsed.all("img")) == 2 and len(parsed.all("article")) == 1
    assert parsed.all("img")[1]["alt"].startswith("image 0. Detected: 1 found, 1 double, 1 wrong")
    assert len(parsed.all("svg", role="img")) == 2


def lossless(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def test_pictures_show_each_object_in_the_colour_of_its_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "data_uri", lossless)
    objects = {0: [(1, (10, 10, 50, 50)), (1, (60, 60, 90, 90))]}
    rows = [detection(0, 1, (10, 10, 50, 50), 0.9), detection(0, 1, (60, 10, 90, 40), 0.9)]
    parsed, _ = written(tmp_path, Squares(objects, ["cat"]), rows, side=400)
    truth, detected = parsed.pictures()
    assert truth.shape == detected.shape == (400, 400, 3)

    def color(picture, y, x):
        distance = {
            name: np.abs(picture[y, x] - 255 * np.array(value)).sum()
            for name, value in report.COLORS.items()
        }
        return min(distance, key=distance.get)

    # The left rims of the objects, 4 pixels of the picture for one of the image.
    assert color(truth, 120, 40) == "found" and color(truth, 300, 240) == "missed"
    assert color(detected, 120, 40) == "found" and color(detected, 300, 40) == "false"
    # Where there is nothing the image is as it was.
    assert (truth[20, 380] == 60).all()


def test_the_worst_come_first_and_no_more_than_wanted(tmp_path, monkeypatch):
    """5 images, of which number i has i of 4 objects found; one has no error."""
    boxes = [(0, 0, 20, 20), (0, 40, 20, 60), (40, 0, 60, 20), (40, 40, 60, 60)]
    dataset = Squares({i: [(1, box) for box in boxes] for i in range(5)}, ["cat"])
    rows = [detection(i, 1, box, 0.9) for i in range(5) for box in boxes[:i]]
    parsed, _ = written(tmp_path, dataset, rows, images=3)
    assert dataset.read == [0, 1, 2]  # one at a time, and no others
    assert "3 of the 4 images with an error" in parsed.text
    headings = re.findall(r"<h3>(image .*?)</h3>", parsed.source)
    assert headings == ["image 0: score 0.00", "image 1: score 0.25", "image 2: score 0.50"]
    assert [part["value"] for part in parsed.all("option")] == ["0", "1", "2"]
    monkeypatch.setattr(report, "MOST_BYTES", 6000)
    small, _ = written(tmp_path, dataset, rows)
    assert 1 <= len(small.all("article")) < 4 and len(small.source) < len(parsed.source)
    none, _ = written(tmp_path, dataset, rows, images=0)
    assert not none.all("img") and "No pictures were asked for" in none.text


def test_text_of_files_and_classes_is_text(tmp_path):
    class Named(Squares):
        def load_image(self, image_id):
            raise OSError(f"{EVIL} & <img src=http://example.org/x>\x00\ud800")

    dataset = Named(OBJECTS, [EVIL, "'\"><img src=x onerror=alert(1)>"])
    for i, info in enumerate(dataset.image_info):
        info["path"] = f"/tmp/{EVIL}\udcff\"'<b>{i}.png"
    table = report.Table(EVIL, [EVIL], [[EVIL]], EVIL, [(EVIL, 0.5)])
    parsed, result = written(
        tmp_path, dataset, DETECTIONS, title=EVIL, tables=[table], weights=f"{EVIL}.h5"
    )
    assert EVIL in parsed.text and "can't be read" in parsed.text
    assert not parsed.all("b", src="x") and not parsed.all("img")
    result.unreadable = [(0, f"{EVIL} is no image")]
    parsed = check(report.write(result, dataset, tmp_path))
    assert f"{EVIL} is no image" in parsed.text and "1 image could not be read" in parsed.text


class Points(Squares):
    keypoint_sigmas = (0.05, 0.05)

    def load_keypoints(self, image_id):
        points = []
        for _, (y1, x1, y2, x2) in self.image_info[image_id]["rows"]:
            points.append([(y1, x1, 2), (y2, x2, 1)])
        return np.array(points, float).reshape(-1, 2, 3)


KINDS = {
    "nothing detected": {"rows": []},
    "no object": {"objects": {0: [], 1: []}, "rows": [detection(0, 1, (5, 5, 20, 20), 0.9)]},
    "neither": {"objects": {0: []}, "rows": []},
    "boxes alone": {"masks": False},
    "one class": {
        "classes": ["cat"],
        "objects": {0: [(1, (0, 0, 20, 20))]},
        "rows": DETECTIONS[1:3],
    },
    "80 classes": {"classes": [f"class {i}" for i in range(80)]},
    "1 channel": {"channels": 1},
    "12 channels": {"channels": 12, "dtype": np.uint16},
    "floats": {"dtype": np.float32},
    "wide": {"size": (100, 1500)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_evaluation_has_a_page(tmp_path, kind):
    given = dict(KINDS[kind])
    size = given.get("size", (100, 100))
    rows = given.pop("rows", DETECTIONS)
    masks = given.pop("masks", True)
    if size != (100, 100):
        rows = [detection(0, 1, (0, 0, 20, 900), 0.9, size)]
    if not masks:
        rows = [{k: v for k, v in row.items() if k != "segmentation"} for row in rows]
    dataset = Squares(given.pop("objects", OBJECTS), **given)
    parsed, result = written(tmp_path, dataset, rows, masks=masks)
    wrong = sum(image.score < 1 for image in result.errors())
    assert len(parsed.pictures()) == 2 * wrong
    for picture in parsed.pictures():
        assert max(picture.shape) <= report.SIDE
    assert ("bad mask" in parsed.text) and ("mask AP" in parsed.text) == masks
    if not result.truth.data["annotations"]:
        assert "There is no object, and so no curve" in parsed.text
    if kind == "80 classes":
        assert len(parsed.rows("Figures of masks by class")) == 81
        assert len(parsed.all("svg", **{"class": "spark"})) == 2


def test_keypoints_have_figures_and_are_drawn(tmp_path):
    objects = {0: [(1, (10, 10, 40, 40)), (1, (60, 60, 90, 90))]}
    row = detection(0, 1, (10, 10, 40, 40), 0.9)
    row["keypoints"] = [10, 10, 1, 40, 40, 1]
    dataset = Points(objects, ["cat"])
    parsed, result = written(tmp_path, dataset, [row], keypoints=True)
    assert parsed.rows("COCO's figures of keypoints")[1][1] == f"{result.keypoints['AP']:.3f}"
    plain, _ = written(tmp_path, Squares(objects, ["cat"]), [row])
    truth, detected = parsed.pictures()
    without, _ = plain.pictures()
    # A point lies on the corner of the missed object, 4 pixels of the picture for one.
    assert np.abs(truth[240, 240] - without[240, 240]).sum() > 60
    assert np.abs(truth[200, 300] - without[200, 300]).max() < 12


# ---- Where it is written -------------------------------------------------------------------------


def test_a_page_is_a_file_or_lies_in_a_folder(tmp_path):
    assert report.place(tmp_path) == tmp_path / "report.html"
    assert report.place(tmp_path / "new" / "x.HTML") == tmp_path / "new" / "x.HTML"
    assert report.place(tmp_path / "new") == tmp_path / "new" / "report.html"
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.html").mkdir()
    for name in ("file", "folder.html"):
        with pytest.raises(ValueError, match=re.escape(str(tmp_path / name))):
            report.place(tmp_path / name)


@pytest.mark.parametrize("name", ("page.pdf", "page.JSON", "page.png"))
def test_a_page_is_no_file_of_another_kind(tmp_path, name):
    """A folder page.pdf/ was made, with report.html in it."""
    with pytest.raises(ValueError, match="a page is a file that ends in .html"):
        report.place(tmp_path / name)
    assert report.place(tmp_path / "results.v2") == tmp_path / "results.v2" / "report.html"


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    dataset = Squares(OBJECTS)
    result = evaluate.evaluate_detections(dataset, DETECTIONS)
    path = report.write(result, dataset, tmp_path / "sub")
    before = pathlib.Path(path).read_bytes()

    def fails(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "write_bytes", fails)
        with pytest.raises(OSError, match="report.html"):
            report.write(result, dataset, tmp_path / "sub")
    assert pathlib.Path(path).read_bytes() == before
    assert [each.name for each in (tmp_path / "sub").iterdir()] == ["report.html"]
    result.truth = None
    with pytest.raises(ValueError, match="truth"):
        report.write(result, dataset, tmp_path)


class Finds:
    """A model that finds what it is given, image by image."""

    def __init__(self, rows):
        class OfSquares(configs.Config):
            NAME = "squares"
            NUM_CLASSES = 3
            DETECTION_MAX_INSTANCES = 100

        self.config = OfSquares()
        self.rows = rows
        self.weights_file = "some.h5"
        self.seen = 0

    def detect(self, images):
        results = []
        for _ in images:
            boxes = np.array([box for _, box in self.rows[self.seen]], int).reshape(-1, 4)
            masks = np.zeros((*images[0].shape[:2], len(boxes)), bool)
            for i, (y1, x1, y2, x2) in enumerate(boxes):
                masks[y1:y2, x1:x2, i] = True
            class_ids = np.array([abs(class_id) for class_id, _ in self.rows[self.seen]], int)
            scores = np.full(len(boxes), 0.9)
            results.append(
                {"rois": boxes, "class_ids": class_ids, "scores": scores, "masks": masks}
            )
            self.seen += 1
        return results


@pytest.mark.long
@pytest.mark.parametrize(
    "given", [None, "", "own.html", "folder"], ids=["no", "yes", "file", "folder"]
)
def test_the_option_of_the_commands(tmp_path, monkeypatch, capsys, given):
    monkeypatch.chdir(tmp_path)
    option = [] if given is None else [f"--report={given}"] if given else ["--report"]
    parser = commands.parser("x", ("train", "evaluate"), inputs=None)
    args = commands.parse(parser, ["evaluate", "--weights=none", *option])
    commands.evaluate(Finds(OBJECTS), Squares(OBJECTS), args)
    names = {"": "results/report.html", "own.html": "own.html", "folder": "folder/report.html"}
    pages = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.html")]
    assert pages == [names[given]] if given is not None else pages == []
    if given is not None:
        assert str(pathlib.Path(names[given])) in capsys.readouterr().out.splitlines()
        parsed = check(names[given])
        assert "squares: evaluation" in parsed.text and "some.h5" in parsed.text


def test_a_wrong_path_is_said_before_anything_is_done(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    parser = commands.parser("x", ("train", "evaluate"), inputs=None)
    with pytest.raises(SystemExit):
        commands.parse(parser, ["evaluate", f"--report={tmp_path / 'file'}"])
    assert "--report: a page is a file that ends in .html" in capsys.readouterr().err
    # Of a namespace of one's own, as scripts made it before there was the option.
    args = argparse.Namespace(output=str(tmp_path), limit=0)
    commands.evaluate(Finds(OBJECTS), Squares(OBJECTS), args)
    assert not list(tmp_path.glob("*.html"))


# ---- The page of a training ----------------------------------------------------------------------

HISTORY = [
    {"epoch": 1, "seconds": 60.0, "learning_rate": 0.001, "loss": 3.5, "rpn_class_loss": 1.25},
    {"epoch": 2, "seconds": 60.0, "learning_rate": 0.001, "loss": None, "rpn_class_loss": 1.0},
    {
        "epoch": 3,
        "seconds": 30.0,
        "learning_rate": 0.0001,
        "loss": 1.5,
        "val_loss": 2.5,
        "rpn_class_loss": 0.5,
        "val_mask_mAP": 0.375,
        "val_bbox_mAP": None,
    },
]


def test_the_page_of_a_training(tmp_path):
    parsed = check(report.write_training(tmp_path, HISTORY, epochs=10, title="cells: training"))
    assert (tmp_path / "training.html").exists()
    assert "Epoch 3 of 10, 2.5 minutes" in parsed.text and "0.375 mask AP" in parsed.text
    charts = [each["aria-label"] for each in parsed.all("svg", role="img")]
    assert [each.partition(":")[0] for each in charts] == [
        "loss",
        "rpn_class_loss",
        "learning rate",
        "AP on validation images",
    ]
    rows = parsed.rows("The latest")
    assert rows[1][:4] == ["3", "30.0", "0.0001", "1.500"] and rows[2][3] == page.NOTHING
    empty = check(report.write_training(tmp_path, []))
    assert "Nothing is known yet" in empty.text


def test_lines_break_where_a_number_is_missing():
    line = page.Line("x", [1, 2, 3, 4], [1.0, float("nan"), 2.0, 1.0], "#123456")
    drawing = page.chart("t", [line], "epoch", "loss", (1, 4), (0, 2), whole=True)
    assert re.findall(r">([0-9.]+)</text>", drawing) == [
        "0",
        "0.5",
        "1",
        "1.5",
        "2",
        "1",
        "2",
        "3",
        "4",
    ]
    assert drawing.count("<circle") == 1 and drawing.count("<polyline") == 1
    points = re.search(r'polyline points="([^"]*)"', drawing)[1].split()
    top = page.TOP
    bottom = page.HEIGHT - page.BOTTOM
    (_, y3), (x4, y4) = [tuple(map(float, point.split(","))) for point in points]
    assert (y3, y4, x4) == (top, (top + bottom) / 2, page.WIDTH - page.RIGHT)
    long = page.Line("x", range(5000), [1.0] * 5000, "red")
    assert page.chart("t", [long], "", "").count(",") < 3 * page.MOST_POINTS


@pytest.mark.parametrize(
    "low, high, expected",
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 7, [0, 2, 4, 6]), (1, 36, [10, 20, 30])],
)
def test_numbers_of_an_axis_are_round(low, high, expected):
    assert page.ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("mini", [True, False], ids=["mini masks", "whole masks"])
def test_the_first_batch_is_drawn_as_the_network_sees_it(mini):
    from mrcnn import data

    class Small(configs.Config):
        NUM_CLASSES = 3
        IMAGE_MIN_DIM = IMAGE_MAX_DIM = 128
        IMAGES_PER_GPU = 2
        MEAN_PIXEL = np.array([100.0, 20.0, 30.0])
        USE_MINI_MASK = mini

    config = Small()
    dataset = Squares({0: [(1, (20, 20, 60, 60)), (2, (70, 70, 100, 90))]})
    inputs, *_ = data.TrainingBatches(dataset, config, seed=1).batch(0)
    samples = report.batch_samples(inputs, config, dataset.class_names, most=1, side=128)
    assert [sample.words for sample in samples] == ["image 0: 2 objects"]
    content = base64.b64decode(samples[0].uri.partition("base64,")[2])
    picture = np.array(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    # 100 pixels became 128; the image's value is 60, not the molded one.
    assert picture.shape == (128, 128, 3) and np.abs(picture[8, 120] - 60).max() < 6
    from mrcnn import visualize

    color = 255 * np.array(visualize.class_color(1))
    inside = 0.28 * color + 0.72 * 60
    assert np.abs(picture[60, 50] - inside).max() < 12


def training_page(folder, first_step=0):
    """A `training.TrainingPage` of a run without a network."""
    from mrcnn import training

    class Small(configs.Config):
        NAME = "squares"
        NUM_CLASSES = 3
        IMAGE_MIN_DIM = IMAGE_MAX_DIM = 64
        IMAGES_PER_GPU = 2

    dataset = Squares({0: OBJECTS[0]})
    run = types.SimpleNamespace(
        owner=types.SimpleNamespace(log_dir=str(folder)),
        config=Small(),
        epochs=4,
        train_dataset=dataset,
    )
    from mrcnn import data

    batches = data.TrainingBatches(dataset, run.config, seed=1)
    stream = training.BatchStream(batches, first_step, workers=0)
    made = training.TrainingPage(run, stream)
    optimizer = types.SimpleNamespace(learning_rate=np.float32(0.25))
    made.set_model(types.SimpleNamespace(optimizer=optimizer))
    return made, stream


def test_training_writes_its_page_and_goes_on_with_it(tmp_path):
    made, stream = training_page(tmp_path)
    stream.take()
    made.on_epoch_begin(0)
    made.on_train_batch_end(0)
    assert stream.first_inputs is None  # drawn: they take no memory any more
    made.on_epoch_end(0, {"loss": 3.0})
    stream.take()
    assert stream.first_inputs is None
    made.on_epoch_end(1, {"loss": float("nan"), "val_mask_mAP": 0.5})
    parsed = check(tmp_path / "training.html")
    assert len(parsed.all("img")) == 2 and "Images of step 1 " in parsed.text
    # Another process takes the run up in epoch 2, which it does anew.
    again, stream = training_page(tmp_path, first_step=7)
    stream.take()
    again.on_train_batch_end(0)
    again.on_epoch_end(1, {"loss": 2.0})
    history = json.loads((tmp_path / "history.json").read_text())
    assert [(row["epoch"], row["loss"]) for row in history] == [(1, 3.0), (2, 2.0)]
    assert history[0]["learning_rate"] == 0.25
    parsed = check(tmp_path / "training.html")
    assert "Epoch 2 of 4" in parsed.text and "Images of step 8 " in parsed.text


def test_a_page_never_ends_a_training(tmp_path, caplog):
    made, stream = training_page(tmp_path / "gone" / "file")
    (tmp_path / "gone").write_text("a file")
    stream.take()
    made.run.config.MEAN_PIXEL = "no numbers"
    made.on_train_batch_end(0)
    for epoch in range(3):
        made.on_epoch_end(epoch, {"loss": 1.0})
    assert len([r for r in caplog.records if "can't be written" in r.message]) == 1
    made, _ = training_page(tmp_path)
    for content in ("no json", '{"a": 1}', '[1, {"epoch": "x"}]'):
        (tmp_path / "history.json").write_text(content)
        made.on_epoch_end(0, {"loss": 1.0})
        assert len(json.loads((tmp_path / "history.json").read_text())) == 1
