"""Conversion of annotations: equal masks where the target holds them, every loss counted."""

import json
import os

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mrcnn import annotations, convert, mask_files, outlines
from mrcnn.annotations import AnnotationError, Polygons

HEIGHT, WIDTH = 40, 60


def pictures(folder, *names):
    """Image files, each of one colour."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (10 * number, 200, 30)).save(path)


def ring():
    """A mask [H, W] with a hole, and another piece that touches it at a corner."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:20, 8:30] = True
    mask[9:14, 12:22] = False
    mask[20:24, 30:33] = True
    mask[30:35, 2:5] = True
    return mask


def runs(mask):
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(code["size"]), "counts": code["counts"].decode()}


SQUARE = [10.0, 5.0, 30.0, 5.0, 30.0, 25.0, 10.0, 25.0]


def coco_file(folder):
    """A json with an outline, two pieces, a ring of run lengths with keypoints, and a crowd."""
    pictures(folder, "a.png", "sub/b.png", "empty.png")
    small = [40.0, 30.0, 50.0, 30.0, 45.0, 38.5]
    items = [
        (7, 3, {"segmentation": [SQUARE], "attributes": {"occluded": True}}),
        (7, 9, {"segmentation": [SQUARE, small]}),
        (4, 9, {"segmentation": runs(ring()), "keypoints": [3, 4, 2], "num_keypoints": 1}),
        (4, 3, {"segmentation": runs(ring()), "iscrowd": 1}),
    ]
    rows = []
    for number, (image_id, category_id, item) in enumerate(items, 11):
        rows.append({"id": number, "image_id": image_id, "category_id": category_id, **item})
    size = {"height": HEIGHT, "width": WIDTH}
    data = {
        "images": [
            {"id": 7, "file_name": "a.png", "license": 2, **size},
            {"id": 4, "file_name": "sub/b.png", **size},
            {"id": 5, "file_name": "empty.png", **size},
        ],
        "annotations": rows,
        "categories": [
            {"id": 3, "name": "cat", "supercategory": "animal"},
            {"id": 9, "name": 'it\'s, "odd": #1', "keypoints": ["nose"], "skeleton": []},
        ],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(data))
    return path


def objects(found):
    """{(stem of the image's last name, class): [mask]} in their order, crowds aside."""
    table = {}
    for image in found.images:
        stem = image.name.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0]
        stem = stem.rsplit("_", 1)[-1]
        for region, mask in zip(image.regions, np.moveaxis(image.masks(), -1, 0)):
            if not region.crowd:
                table.setdefault((stem, region.name), []).append(mask)
    return table


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


# ---- Outlines ------------------------------------------------------------------------------------


def test_outlines_by_hand():
    mask = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1]], bool)
    outer, holes = convert.outlines(mask)
    assert not holes and sorted(map(len, outer)) == [4, 6]
    assert set(outer[0]) == {(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)}
    outer, holes = convert.outlines(np.pad(np.zeros((1, 2), bool), 1, constant_values=True))
    assert outer == [[(0, 0), (4, 0), (4, 3), (0, 3)]]
    assert len(holes) == 1 and set(holes[0]) == {(1, 1), (3, 1), (3, 2), (1, 2)}
    assert convert.outlines(np.zeros((3, 4), bool)) == ([], [])
    # Two pixels that touch at a corner are one piece.
    assert len(convert.outlines(np.eye(2, dtype=bool))[0]) == 1


def test_one_outline_fills_the_same_pixels(seed=0):
    """Pieces and holes of any mask, joined, drawn by LabelMe's rule and by pycocotools."""
    rng = np.random.default_rng(seed)
    for _ in range(60):
        height, width = (int(side) for side in rng.integers(1, 12, 2))
        mask = rng.random((height, width)) < rng.choice([0.3, 0.5, 0.7, 0.95])
        mask[0, 0] = True
        outer, holes = convert.outlines(mask)
        assert all(convert._area(loop) > 0 for loop in outer)
        assert sum(map(convert._area, [*outer, *holes])) == mask.sum()
        one = convert.joined([*outer, *holes])
        np.testing.assert_array_equal(Polygons([one], exact=True).mask(height, width), mask)
        flat = [float(value) for point in one for value in point]
        code = coco_mask.merge(coco_mask.frPyObjects([flat], height, width))
        np.testing.assert_array_equal(coco_mask.decode(code).astype(bool), mask)


def test_outlines_along_pixels_are_drawn_as_any(monkeypatch):
    """The quick way of drawing them against skimage's, cut by the image's edges too."""
    rng = np.random.default_rng(1)
    for _ in range(40):
        mask = rng.random((9, 11)) < 0.6
        mask[4, 5] = True
        outer, holes = convert.outlines(mask)
        x, y = rng.integers(-6, 12, 2).tolist()
        loop = convert.joined(convert._moved([*outer, *holes], x, y))
        quick = Polygons([loop], exact=True).mask(12, 13)
        via = Polygons([[(a - 0.5, b - 0.5) for a, b in loop]]).mask(12, 13)
        with monkeypatch.context() as patch:
            patch.setattr(outlines, "_follows_pixels", lambda *given: False)
            np.testing.assert_array_equal(Polygons([loop], exact=True).mask(12, 13), quick)
        np.testing.assert_array_equal(via, quick)


# ---- From COCO to each and back ------------------------------------------------------------------


def test_coco_to_coco_keeps_everything(tmp_path):
    path = coco_file(tmp_path)
    report = convert.convert(path, "coco", tmp_path / "out")
    before = json.loads(path.read_text())
    after = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert [dict(image) for image in after["images"]] == before["images"]
    assert after["categories"] == before["categories"]
    for old, new in zip(before["annotations"], after["annotations"]):
        assert {key: new[key] for key in old} == old
    assert not report.to_dict()["losses"] and "nothing is lost" in report.text()
    assert (report.images, report.objects) == (3, 4)
    with Image.open(tmp_path / "out" / "images" / "sub" / "b.png") as image:
        assert image.getpixel((0, 0)) == (10, 200, 30)


@pytest.mark.parametrize("shapes", convert.SHAPES)
@pytest.mark.parametrize("target", ("coco", "labelme", "via", "yolo"))
def test_masks_are_equal_there_and_back(tmp_path, target, shapes):
    """What is no plain outline comes back as the same pixels; outlines keep their points."""
    path = coco_file(tmp_path)
    truth = objects(annotations.read(path))
    report = convert.convert(path, target, tmp_path / "out", shapes=shapes)
    attribute = None
    if target == "via":
        attribute = "class"
        assert "--attribute=class" in report.text()
    there = annotations.read(tmp_path / "out", attribute=attribute, keep_empty=True)
    assert len(there.images) == 3
    found = objects(there)
    assert found.keys() == truth.keys()
    for key, masks in truth.items():
        for mask, own in zip(masks, found[key], strict=True):
            if key[0] == "b" or shapes == "masks":
                np.testing.assert_array_equal(own, mask)
            else:  # the same points, drawn by each format's own rule
                assert iou(own, mask) > 0.97
    losses = report.to_dict()["losses"]
    assert losses.get(convert.CROWDS, 0) == (target in ("via", "yolo"))
    assert losses.get(convert.KEYPOINTS, 0) == (target != "coco")
    assert losses.get(convert.ATTRIBUTES, 0) == (target == "yolo")
    assert losses.get(convert.HOLES, 0) >= (target in ("via", "yolo") or shapes == "outlines")
    back = convert.convert(tmp_path / "out", "coco", tmp_path / "back", attribute=attribute)
    assert back.objects == 4 - (target in ("via", "yolo"))
    if shapes == "keep":
        rows = json.loads((tmp_path / "back" / "annotations.json").read_text())["annotations"]
        ends = sorted(np.reshape(rows[0]["segmentation"][0], (-1, 2)).tolist())
        np.testing.assert_allclose(ends, sorted(np.reshape(SQUARE, (-1, 2)).tolist()), atol=1e-5)


@pytest.mark.parametrize("target", ("masks", "labels"))
def test_mask_files(tmp_path, target):
    path = coco_file(tmp_path)
    report = convert.convert(path, target, tmp_path / "out")
    found = annotations.read(tmp_path / "out", label="thing", keep_empty=True)
    assert found.classes == ["thing"] and len(found.images) == 3
    truth = objects(annotations.read(path))
    own = objects(found)
    np.testing.assert_array_equal(own["b", "thing"][0], ring())
    square, both = truth["a", "cat"][0], truth["a", 'it\'s, "odd": #1'][0]
    losses = report.to_dict()["losses"]
    assert losses[convert.CLASSES] == 3 and losses[convert.CROWDS] == 1
    np.testing.assert_array_equal(own["a", "thing"][0], square)
    if target == "masks":
        np.testing.assert_array_equal(own["a", "thing"][1], both)
    else:
        np.testing.assert_array_equal(own["a", "thing"][1], both & ~square)
        assert losses[convert.OVERLAPS] == 1
    bottom = tmp_path / "out" / "a" / "images" / "a.png"
    if target == "labels":
        bottom = tmp_path / "out" / "images" / "a.png"
    assert bottom.is_file()


def test_a_small_object_on_a_large_one_keeps_its_pixels(tmp_path):
    path = coco_file(tmp_path)
    data = json.loads(path.read_text())
    small = [12.0, 8.0, 16.0, 8.0, 16.0, 12.0, 12.0, 12.0]
    data["annotations"][1]["segmentation"] = [small]
    path.write_text(json.dumps(data))
    report = convert.convert(path, "labels", tmp_path / "out")
    first, second = np.moveaxis(annotations.read(tmp_path / "out").images[0].masks(), -1, 0)
    assert (first.sum(), second.sum()) == (400 - 16, 16)
    assert report.losses[convert.HIDDEN] == 0 and report.losses[convert.OVERLAPS] == 1


def test_an_object_below_others_is_counted(tmp_path):
    path = coco_file(tmp_path)
    data = json.loads(path.read_text())
    data["annotations"][1]["segmentation"] = [SQUARE]
    path.write_text(json.dumps(data))
    losses = convert.convert(path, "labels", tmp_path / "out").losses
    assert losses[convert.HIDDEN] == 1 and losses[convert.OVERLAPS] == 0


# ---- From the others -----------------------------------------------------------------------------


def via_file(folder):
    """A polygon, a rectangle, a circle and a turned ellipse."""
    pictures(folder, "a.png")
    shapes = [
        {"name": "polygon", "all_points_x": [5, 20, 12], "all_points_y": [6, 8, 25]},
        {"name": "rect", "x": 30, "y": 5, "width": 10, "height": 4},
        {"name": "circle", "cx": 40, "cy": 25, "r": 6},
        {"name": "ellipse", "cx": 20, "cy": 30, "rx": 9, "ry": 4, "theta": 0.5},
    ]
    regions = [{"shape_attributes": shape, "region_attributes": {"k": "x"}} for shape in shapes]
    entry = {"filename": "a.png", "size": 1, "file_attributes": {}, "regions": regions}
    (folder / "via.json").write_text(json.dumps({"a.png1": entry}))
    return folder / "via.json"


@pytest.mark.parametrize("target", convert.FORMATS)
def test_via_shapes(tmp_path, target):
    """Pixels are equal in every format that draws by the middle of a pixel, or holds masks."""
    path = via_file(tmp_path)
    truth = annotations.read(path).images[0].masks()
    report = convert.convert(path, target, tmp_path / "out")
    found = annotations.read(tmp_path / "out", label=None).images[0].masks()
    assert found.shape == truth.shape
    for number in range(4):
        own, mask = found[..., number], truth[..., number]
        if target == "coco" and number == 0:
            assert iou(own, mask) > 0.85  # pycocotools leaves out what VIA's outline itself covers
        elif target == "yolo" and number == 0:
            assert iou(own, mask) > 0.97  # pixels whose middle is a corner: shares are rounded
        elif target == "labels":
            np.testing.assert_array_equal(own, mask & ~truth[..., :number].any(axis=-1))
        else:
            np.testing.assert_array_equal(own, mask)
    drawn = {"via": 0, "labelme": 1, "yolo": 2, "coco": 2, "masks": 0, "labels": 0}
    assert report.losses[convert.ROUND] == drawn[target]


def test_stored_pixels_of_a_turned_photograph(tmp_path):
    """A format without a size would take stored pixels for turned ones."""
    image = Image.new("RGB", (WIDTH, HEIGHT), (1, 2, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    shape = {"label": "x", "points": [[5, 5], [50, 5], [50, 20]], "shape_type": "polygon"}
    data = {"imagePath": "a.jpg", "imageHeight": HEIGHT, "imageWidth": WIDTH, "shapes": [shape]}
    (tmp_path / "a.json").write_text(json.dumps(data))
    truth = annotations.read(tmp_path / "a.json").images[0].masks()
    convert.convert(tmp_path / "a.json", "yolo", tmp_path / "out")
    found = annotations.read(tmp_path / "out").images[0]
    assert found.name.endswith(".png") and (found.height, found.width) == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(found.masks(), truth)


def test_image_in_a_labelme_json(tmp_path):
    import base64
    import io

    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (9, 8, 7)).save(buffer, "PNG")
    shape = {"label": "x", "points": [[5, 5], [50, 5], [50, 20]], "shape_type": "polygon"}
    data = {
        "imagePath": "..\\there\\a.png",
        "imageData": base64.b64encode(buffer.getvalue()).decode(),
        "shapes": [shape],
    }
    (tmp_path / "a.json").write_text(json.dumps(data))
    convert.convert(tmp_path / "a.json", "coco", tmp_path / "out")
    with Image.open(tmp_path / "out" / "images" / "a.png") as image:
        assert image.getpixel((0, 0)) == (9, 8, 7)


# ---- Names, files, mistakes ----------------------------------------------------------------------


def test_names_stay_apart():
    names = ["/data/a.jpg", "b/a.png", "B\\A.png", "../up.png", "https://x.org/c/a.jpg?v=1"]
    images = [annotations.AnnotatedImage(name, "", 1, 1, []) for name in names]
    assert convert.target_names(images) == ["a.jpg", "b/a.png", "B/A_2.png", "up.png", "a_2.jpg"]
    flat = convert.target_names(images, flat=True)
    assert flat == ["a.jpg", "b_a.png", "B_A_2.png", "up.png", "a_2.jpg"]


def test_without_image_files(tmp_path):
    """A size in the json is enough for formats that need no pixels; the others say what they left
    out."""
    path = coco_file(tmp_path)
    for name in ("a.png", "sub/b.png", "empty.png"):
        (tmp_path / name).unlink()
    report = convert.convert(path, "yolo", tmp_path / "yolo")
    assert report.losses[convert.NO_FILE] == 3 and report.objects == 3
    line = (tmp_path / "yolo" / "labels" / "train" / "a.txt").read_text().splitlines()[0]
    x1, y1 = 10 / WIDTH, 5 / HEIGHT
    np.testing.assert_allclose([float(word) for word in line.split()[:3]], [0, x1, y1], atol=1e-9)
    report = convert.convert(path, "masks", tmp_path / "masks")
    assert report.losses[convert.SIZELESS] == 3 and report.images == 0


def test_output_is_not_overwritten(tmp_path):
    path = coco_file(tmp_path)
    with pytest.raises(FileExistsError, match="is not empty"):
        convert.convert(path, "yolo", tmp_path)
    with pytest.raises(FileExistsError, match="there already"):
        convert.convert(path, "coco", path)
    report = convert.convert(path, "labelme", tmp_path, overwrite=True)
    assert report.images == 3 and (tmp_path / "a.json").is_file()
    with pytest.raises(ValueError, match="the format is one of coco, via.*Received: 'voc'"):
        convert.convert(path, "voc", tmp_path / "x")
    with pytest.raises(ValueError, match="shapes is one of keep"):
        convert.convert(path, "coco", tmp_path / "x", shapes="rle")
    with pytest.raises(ValueError, match="tolerance"):
        convert.convert(path, "coco", tmp_path / "x", tolerance=-1)
    with pytest.raises(AnnotationError, match="No annotation file"):
        convert.convert(tmp_path / "none.json", "coco", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_fewer_points(tmp_path):
    """Outlines that may leave their mask by a pixel have fewer points and nearly its pixels."""
    source = tmp_path / "in"
    pictures(source, "images/a.png")
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    disk = (y - 20) ** 2 + (x - 30) ** 2 < 15**2
    (source / "masks").mkdir()
    Image.fromarray(disk.astype(np.uint8)).save(source / "masks" / "a.png")
    counts = []
    for tolerance in (0, 1):
        out = tmp_path / f"out{tolerance}"
        report = convert.convert(source, "yolo", out, tolerance=tolerance)
        assert report.losses[convert.SIMPLER] == tolerance
        counts.append(len((out / "labels" / "train" / "a.txt").read_text().split()))
        own = annotations.read(out).images[0].masks()[..., 0]
        assert iou(own, disk) > (1 - 1e-9, 0.93)[tolerance]
    assert counts[1] < counts[0] / 3


def test_subsets_of_yolo_stay(tmp_path):
    for subset in ("train", "valid"):
        yolo_folder(tmp_path / "in", YAMLS["list"], LINE, f"{subset}/images")
    convert.convert(tmp_path / "in", "yolo", tmp_path / "out")
    yaml = (tmp_path / "out" / "data.yaml").read_text()
    assert yaml.startswith('path: .\ntrain: images/train\nval: images/val\nnames:\n  0: "cat"\n')
    for subset in ("train", "val"):
        assert (tmp_path / "out" / "images" / subset / "a.png").is_file()
        words = (tmp_path / "out" / "labels" / subset / "a.txt").read_text().split()
        np.testing.assert_allclose(np.array(words, float), np.array(LINE.split(), float))


# ---- YOLO ----------------------------------------------------------------------------------------


def yolo_folder(folder, yaml, labels, layout="images/train"):
    pictures(folder, f"{layout}/a.png")
    path = folder / layout.replace("images", "labels") / "a.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(labels)
    if yaml is not None:
        (folder / "data.yaml").write_text(yaml)
    return folder


LINE = "1 .1 .1 .5 .1 .5 .5\n"
YAMLS = {
    "list": "train: ../train/images\nnc: 2\nnames: ['cat', \"it's\"]  # two\n",
    "block": "names:\n- cat\n- 'it''s'\nnc: 2\n",
    "numbered": "path: .\nnames:\n  0: cat  # meows\n  1: it's\n\ntrain: images\n",
    "flow": 'names: {0: cat,\n  1: "it\'s"}\n',
}


@pytest.mark.parametrize("layout", ("images/train", "train/images", "images"))
@pytest.mark.parametrize("form", sorted(YAMLS))
def test_yolo_names(tmp_path, form, layout):
    found = annotations.read(yolo_folder(tmp_path, YAMLS[form], LINE, layout))
    assert found.classes == ["cat", "it's"]
    (region,) = found.images[0].regions
    assert region.name == "it's"
    np.testing.assert_allclose(region.shape.parts[0], [[6, 4], [30, 4], [30, 20]])
    assert len(annotations.read(tmp_path / "data.yaml").images) == 1


@pytest.mark.parametrize("form", ("absolute", "above", "listed", "path"))
def test_yolo_images_that_lie_elsewhere(tmp_path, caplog, form):
    """A data.yaml's folders and lists are read where they are; they were not looked into."""
    far = tmp_path / "far"
    for subset in ("train", "val"):
        yolo_folder(far, None, LINE, f"images/{subset}")
    near = tmp_path / "near" / "own"
    near.mkdir(parents=True)
    (near / "list.txt").write_text("../../far/images/train/a.png\n\ngone.png\n")
    places = {
        "absolute": (f"{far}/images/train", f"{far}/images/val"),
        "above": ("../../far/images/train", "../../far/images/val"),
        "listed": ("list.txt", "../../far/images/val"),
        "path": ("images/train", "images/val"),
    }
    train, val = places[form]
    yaml = f"train: {train}\nval: {val}\nnames: [cat, dog]\n"
    if form == "path":
        yaml = f"path: {far}\n{yaml}"
    (near / "data.yaml").write_text(yaml)
    found = annotations.read(near)
    assert [image.name for image in found.images] == ["train/a.png", "val/a.png"]
    assert [image.regions[0].name for image in found.images] == ["dog", "dog"]
    assert f"2 images lie outside of {near}" in caplog.text
    for subset in ("train", "val"):
        (image,) = annotations.yolo_subset(found, near, subset)
        assert image.path == str(far / "images" / subset / "a.png")
    report = convert.convert(near, "yolo", tmp_path / "out")
    assert report.objects == 2 and (tmp_path / "out" / "labels" / "val" / "a.txt").exists()


def test_yolo_without_the_images_that_it_names(tmp_path):
    (tmp_path / "data.yaml").write_text("train: gone/images\nnames: [cat]\n")
    with pytest.raises(AnnotationError, match="what it names. Received: nothing at gone/images"):
        annotations.read(tmp_path)


def test_outlines_beyond_the_image(tmp_path):
    """YOLO's points were moved to the edge one by one, which is another shape within the image."""
    pictures(tmp_path, "a.png")
    points = [[-20, 20], [20, -20.5], [80, 20], [20, 60]]
    shape = {"label": "cat", "shape_type": "polygon", "points": points}
    data = {"shapes": [shape], "imagePath": "a.png", "imageHeight": HEIGHT, "imageWidth": WIDTH}
    (tmp_path / "a.json").write_text(json.dumps(data))
    truth = annotations.read(tmp_path / "a.json").images[0].masks()
    report = convert.convert(tmp_path / "a.json", "yolo", tmp_path / "out")
    assert report.losses[convert.CUT] == 1
    np.testing.assert_array_equal(annotations.read(tmp_path / "out").images[0].masks(), truth)
    inside = [(0.0, 0.0), (60.0, 40.0), (0.0, 40.0)]
    assert convert.cut_outline(inside, HEIGHT, WIDTH) is inside
    cut = convert.cut_outline([(-10.0, 10.0), (10.0, 10.0), (10.0, 30.0), (-10.0, 30.0)], 40, 60)
    assert cut == [(0.0, 10.0), (10.0, 10.0), (10.0, 30.0), (0.0, 30.0)]


def test_yolo_without_names_and_boxes(tmp_path, caplog):
    found = annotations.read(yolo_folder(tmp_path, None, "3 .5 .5 .2 .5\n"))
    assert found.classes == ["3"] and "no data.yaml or classes.txt" in caplog.text
    assert "1 objects are boxes without an outline" in caplog.text
    assert found.images[0].masks().sum() == 12 * 20
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\n")
    assert annotations.read(tmp_path).images[0].regions[0].name == "d"


@pytest.mark.parametrize(
    "line, text",
    (
        ("2 .1 .1 .5 .1 .5 .5", "a class from 0 to 1. Received: 2"),
        ("0.5 .1 .1 .5 .1 .5 .5", "a class from 0 to 1. Received: 0.5"),
        ("0 10 10 50 10 50 50", "shares of the image's sides. Received: 10 to 50"),
        ("0 .1 .1 .5 .1 .5 .5 .7", "at least 3 points. Received: 7 numbers"),
        ("0 .1 .1 .5", "the numbers of an outline"),
        ("cat .1 .1 .5 .1 .5 .5", "the numbers of an outline"),
        ("0 .1 nan .5 .1 .5 .5", "the numbers of an outline"),
    ),
)
def test_yolo_problems(tmp_path, line, text):
    folder = yolo_folder(tmp_path, YAMLS["list"], LINE + line + "\n")
    (problem,) = annotations.read(folder).problems
    assert text in problem and "labels/train/a.txt, region 2" in problem


def test_yolo_files_that_fit_nothing(tmp_path):
    folder = yolo_folder(tmp_path, YAMLS["list"], LINE)
    (folder / "labels" / "train" / "lost.txt").write_text(LINE)
    (folder / "README.txt").write_text("words")
    (problem,) = annotations.read(folder).problems
    assert "lost.txt" in problem and "an image of its name" in problem
    (folder / "data.yaml").write_text("names: [a, a]\n")
    with pytest.raises(AnnotationError, match="each class's name once. Received: a twice"):
        annotations.read(folder)
    (folder / "data.yaml").write_text("nc: 2\n")
    with pytest.raises(AnnotationError, match="names under 'names'"):
        annotations.read(folder / "data.yaml")


def test_yolo_labels_behind_links(tmp_path):
    """Of a folder elsewhere, and of one that is there by another name; a link upwards ends."""
    folder = yolo_folder(tmp_path / "in", YAMLS["list"], LINE)
    (folder / "labels" / "train").rename(tmp_path / "elsewhere")
    with pytest.raises(AnnotationError, match="names. Received: none for any of 1 images, 0 text"):
        annotations.read(folder)
    (folder / "labels" / "train").symlink_to(tmp_path / "elsewhere")
    (folder / "labels" / "up").symlink_to(folder)
    found = annotations.read(folder, keep_empty=True)
    assert [len(image.regions) for image in found.images] == [1] and not found.problems
    (tmp_path / "elsewhere").rename(folder / "a_first")
    (folder / "labels" / "train").unlink()
    (folder / "labels" / "train").symlink_to(folder / "a_first")
    found = annotations.read(folder, keep_empty=True)
    assert [len(image.regions) for image in found.images] == [1] and not found.problems


def test_yolo_without_any_label(tmp_path):
    folder = yolo_folder(tmp_path, YAMLS["list"], LINE)
    (folder / "labels" / "train" / "a.txt").unlink()
    found = annotations.read(folder, keep_empty=True)
    (problem,) = found.problems
    assert "none for any of 1 images, 0 text files" in problem


@pytest.mark.parametrize("shape", ("[2, 3]", "\n- 2\n- 3"))
def test_yolo_poses_are_boxes(tmp_path, caplog, shape):
    points = " .1 .2 2 .3 .4 0"
    folder = yolo_folder(tmp_path, f"kpt_shape: {shape}\nnames: [cat]\n", "")
    lines = f"0 .5 .5 .2 .5{points}\n0 .5 .5 .2 .5 .1 .2\n"
    (folder / "labels" / "train" / "a.txt").write_text(lines)
    found = annotations.read(folder)
    assert "1 objects are boxes without an outline" in caplog.text
    (region,) = found.images[0].regions
    assert found.images[0].masks().sum() == 12 * 20 and region.name == "cat"
    (problem,) = found.problems
    assert "the 6 numbers of kpt_shape. Received: 6 numbers behind" in problem
    (folder / "data.yaml").write_text("kpt_shape: 17\nnames: [cat]\n")
    with pytest.raises(AnnotationError, match=r"kpt_shape as \[keypoints, 2 or 3\]"):
        annotations.read(folder)


@pytest.mark.parametrize("visibility", ("", " 2"))
@pytest.mark.parametrize("yaml", ("names: [cat]\n", None))
def test_yolo_poses_without_kpt_shape_are_boxes(tmp_path, caplog, visibility, yaml):
    """They were polygons of the centre, the size and the keypoints."""
    lines = [
        f"0 {x} .5 .1 .2 {x} .45{visibility} {x + 0.03} .55{visibility}\n" for x in (0.3, 0.5, 0.7)
    ]
    folder = yolo_folder(tmp_path, yaml, "".join(lines))
    found = annotations.read(folder)
    assert "3 objects are boxes without an outline" in caplog.text
    count = 2 + bool(visibility)
    assert f"taken for a box and 2 keypoints of {count} numbers" in caplog.text
    height, width = found.images[0].height, found.images[0].width
    areas = found.images[0].masks().sum(axis=(0, 1))
    assert areas == pytest.approx(0.1 * 0.2 * height * width, rel=0.2) and not found.problems


@pytest.mark.parametrize("count", (4, 5, 6))
def test_yolo_polygons_of_equal_counts_stay_polygons(tmp_path, caplog, count):
    """Small turned boxes, also of objects in one corner of the image; and the whole image."""
    random = np.random.default_rng(0)
    angles = np.arange(count) * 2 * np.pi / count
    lines = []
    for center in random.uniform(0.06, 0.5, (40, 2)):
        points = center + 0.05 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        lines.append("0 " + " ".join(f"{value:.4f}" for value in points.ravel()) + "\n")
    folder = yolo_folder(tmp_path, "names: [cat]\n", "".join(lines))
    assert len(annotations.read(folder).images[0].regions) == 40
    (folder / "labels" / "train" / "a.txt").write_text("0 1 1 0 1 0 0 1 0 1 1\n" * 4)
    image = annotations.read(folder).images[0]
    assert image.masks().all() and "keypoints" not in caplog.text


def test_yolo_predictions_with_confidences_are_named(tmp_path):
    folder = yolo_folder(tmp_path, "names: [cat]\n", "0 .5 .5 .5 .5 .93\n")
    with pytest.raises(AnnotationError, match=r"5 numbers .* last may be a confidence \(save_conf"):
        annotations.read(folder)


@pytest.mark.parametrize("name", ("A.txt", "a.png.txt", "1a2b3c4d-a.txt", "A.TXT"))
def test_yolo_labels_of_other_names(tmp_path, caplog, name):
    """Of another case, with the image's suffix, with the prefix that Label Studio gives uploads."""
    folder = yolo_folder(tmp_path, YAMLS["list"], LINE)
    pictures(folder, "images/val/b.png")
    labels = folder / "labels" / "train"
    (labels / "a.txt").rename(labels / name)
    (labels / "b.txt").write_text(LINE)  # is not that of the b.png of another folder
    found = annotations.read(folder, keep_empty=True)
    assert [len(image.regions) for image in found.images] == [1, 0]
    assert len(found.problems) == 1 and "labels/train/b.txt: expected an image" in found.problems[0]
    assert f"1 label files have other names than their images: {labels / name}" in caplog.text


def test_yolo_texts_in_utf_16(tmp_path):
    """As PowerShell's > writes them."""
    folder = yolo_folder(tmp_path, None, "")
    (folder / "labels" / "train" / "a.txt").write_bytes((LINE + LINE).encode("utf-16"))
    (folder / "data.yaml").write_bytes(YAMLS["block"].encode("utf-16"))
    (image,) = annotations.read(folder).images
    assert [region.name for region in image.regions] == ["it's", "it's"]


@pytest.mark.parametrize(
    "yaml, text",
    (
        ("names:\n  0: cat\n  2: dog\n", r"names of 0 to 1. Received: \[0, 2\]"),
        ("names: {cat: 0, dog: 1}\n", "names as 'number: name'. Received: 'cat: 0'"),
        ("names: coco.names\n", "a list of names. Received: 'coco.names'"),
        ("names: [cat, dog\nnc: 2\n", "expected ']' at the end of names"),
    ),
)
def test_yolo_names_that_are_unclear(tmp_path, yaml, text):
    """They were numbers, and it was said that no data.yaml is there."""
    folder = yolo_folder(tmp_path, yaml, LINE)
    for path in (folder, folder / "data.yaml"):
        with pytest.raises(AnnotationError, match=rf"data.yaml: .*{text}"):
            annotations.read(path)


@pytest.mark.parametrize(
    "yaml, names",
    (
        ("names: [bird's nest, colt's foot, cat]", ["bird's nest", "colt's foot", "cat"]),
        ("names: {0: it's, 1: 'a, b', 2: \"c: d\"}  # three", ["it's", "a, b", "c: d"]),
        ("names: [it's,  # the first\n  'it''s, too', x#y]", ["it's", "it's, too", "x#y"]),
        (
            "names:\n- bird's  # a comment\n- 'a # b'\n- \"c \\\" # d\"",
            ["bird's", "a # b", 'c " # d'],
        ),
        ("names:\n  0: a's # b's\n  1: c", ["a's", "c"]),
    ),
)
def test_yolo_names_with_apostrophes(tmp_path, yaml, names):
    """As PyYAML reads them; they were put together, or cut in two, and all others moved up."""
    assert annotations.read(yolo_folder(tmp_path, yaml + "\n", LINE)).classes == names


@pytest.mark.parametrize(
    "yaml, names",
    (
        ('names: [person, "Stra\\xDFe", "\\u5973"]', ["person", "Straße", "女"]),
        ('names:\n- "Stra\\xDFe"\n- "\\U0001F600 \\"a\\""', ["Straße", '\U0001f600 "a"']),
        ('names: {0: "\\ud83d\\ude00", 1: a}', ["\U0001f600", "a"]),
        ("names:\n- \"\\xDF \\\n  \\ b\\\n  c\"\n- 'd\n  e'\n- f", ["ß  bc", "d e", "f"]),
        ("names: [\"\\xDF, \\\n  b\", 'c\n  d',\n  e]", ["ß, b", "c d", "e"]),
        ("names:\n- a,\"b\n- c,'d\n- e", ['a,"b', "c,'d", "e"]),
        ('names: ["c:\\data", b]', ["c:\\data", "b"]),
    ),
)
def test_yolo_names_with_escapes(tmp_path, yaml, names):
    """As PyYAML writes and reads them, for supervision, SAHI and Supervisely: the class was called
    Stra\\xDFe."""
    assert annotations.read(yolo_folder(tmp_path, yaml + "\n", LINE)).classes == names


def test_yolo_names_that_are_empty(tmp_path):
    """A line without a name would move the others up."""
    folder = yolo_folder(tmp_path, None, LINE)
    (folder / "classes.txt").write_text("cat\n\ndog\n")
    with pytest.raises(AnnotationError, match="classes.txt: expected the name of class 1"):
        annotations.read(folder)
    (folder / "classes.txt").write_text("cat\ndog\n\n")
    assert annotations.read(folder).classes == ["cat", "dog"]
    (folder / "data.yaml").write_text("names:\n- cat\n- #red\n")
    with pytest.raises(AnnotationError, match="data.yaml: expected the name of class 1"):
        annotations.read(folder)


@pytest.mark.parametrize("yaml", ("'names': [a, b]", '"names":\n- a\n- b', "names: &n [a, b]"))
def test_yolo_names_with_quotes_and_anchors(tmp_path, yaml):
    assert annotations.read(yolo_folder(tmp_path, yaml, LINE)).classes == ["a", "b"]


def test_yolo_image_that_is_broken(tmp_path):
    """It is the problem, not its labels."""
    folder = yolo_folder(tmp_path, YAMLS["list"], LINE)
    (folder / "images" / "train" / "b.png").write_bytes(b"")
    (folder / "labels" / "train" / "b.txt").write_text(LINE)
    (problem,) = annotations.read(folder).problems
    assert "b.png': expected an image that can be read" in problem and "an empty file" in problem


@pytest.mark.parametrize("word", ("nan", "inf", "1e999"))
def test_texts_that_are_no_labels(tmp_path, word):
    """A folder of LabelMe or masks may hold any text."""
    pictures(tmp_path, "a.png")
    (tmp_path / "a.txt").write_text(" ".join([word] * 5))
    with pytest.raises(AnnotationError, match="expected VIA|Received: a folder with 0 json"):
        annotations.read(tmp_path)


def test_yolo_images_of_one_part(tmp_path):
    """Their labels lie beside the folder of images; those of other parts are no problem."""
    folder = yolo_folder(tmp_path, YAMLS["list"], LINE, "train/images")
    yolo_folder(tmp_path, YAMLS["list"], LINE, "val/images")
    (folder / "val" / "images" / "a.png").unlink()
    found = annotations.read(folder, images=folder / "train" / "images", keep_empty=True)
    assert [len(image.regions) for image in found.images] == [1] and not found.problems
    (folder / "labels").mkdir()
    (folder / "train" / "labels" / "a.txt").rename(folder / "labels" / "a.txt")
    found = annotations.read(folder, images=folder / "train" / "images")
    assert len(found.images[0].regions) == 1


# ---- Mask files ----------------------------------------------------------------------------------


def labels_of(folder, values=None, save=None, image="images/a.png", mask="masks/a.png"):
    """A folder with an image and its label image: 7 x 16 pixels of 1, 15 x 2 of 2."""
    pictures(folder, image)
    if values is None:
        values = np.zeros((HEIGHT, WIDTH), np.uint8)
        values[3:10, 4:20] = 1
        values[15:30, 10:12] = 2
    path = folder / mask
    path.parent.mkdir(parents=True, exist_ok=True)
    if save is None:
        Image.fromarray(values).save(path)
    else:
        save(path, values)
    return folder


@pytest.mark.parametrize(
    "image, mask",
    (
        ("images/a.png", "Masks/a.png"),
        ("images/A.JPG", "masks/a.png"),
        ("images/a.png", "masks/a_Mask.png"),
        ("images/a.png", "gt/a.png"),
        ("JPEGImages/a.jpg", "SegmentationObject/a.png"),
        ("train/images/a.png", "train/masks/a.png"),
        ("part one/Images/a.png", "part one/mask/a.png"),
    ),
)
def test_label_images_in_other_folders(tmp_path, image, mask):
    (found,) = annotations.read(labels_of(tmp_path, image=image, mask=mask)).images
    assert found.name == image
    assert found.masks().sum(axis=(0, 1)).tolist() == [7 * 16, 15 * 2]


def object_files(folder, names):
    """Writes a mask file of each name, of the pixels [2 + i, 3 : 9] each."""
    for i, name in enumerate(names):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[2 + i, 3:9] = 255
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)


@pytest.mark.parametrize(
    "form",
    (
        "a_0 a_1 a_10",
        "a_mask_0 a_mask_1 a_mask_2",
        "a-001 a-002 a-003",
        "a/0 a/1 a/2",
        "a/x a/y a/z",
        "a.obj1 a.obj2 a.obj3",
        "A_1 A_2 A_3",
        "a (1)|a (2)|a (3)",
    ),
)
@pytest.mark.parametrize("place", ("", "train/"))
def test_mask_files_with_numbers(tmp_path, form, place):
    """A file for each object, told by a number or a folder: it was refused."""
    pictures(tmp_path, f"images/{place}a.png", f"images/{place}a_b.png", f"images/{place}c.png")
    stems = form.split("|" if "|" in form else " ")
    object_files(tmp_path / "masks", [f"{place}{stem}.png" for stem in stems])
    object_files(tmp_path / "masks", [f"{place}a_b_7.png"])
    found = annotations.read(tmp_path, keep_empty=True)
    first, second, third = found.images
    assert not found.problems and found.classes == ["object"]
    assert [os.path.basename(image.name) for image in found.images] == ["a.png", "a_b.png", "c.png"]
    assert [region.number for region in first.regions] == [
        os.path.basename(f"{stem}.png") for stem in stems
    ]
    assert len(second.regions) == 1 and not third.regions
    for i, mask in enumerate(np.moveaxis(first.masks(), -1, 0)):
        assert mask.sum() == 6 and mask[2 + i, 3:9].all()
    assert len(annotations.read(tmp_path).images) == 2


def test_mask_files_of_no_image(tmp_path):
    """An object that nobody would miss is named."""
    pictures(tmp_path, "images/a.png", "images/a_1.png")
    object_files(tmp_path / "masks", ["a_0.png", "a_1.png", "b_0.png", "a_x.png"])
    found = annotations.read(tmp_path)
    assert [len(image.regions) for image in found.images] == [1, 1]  # a_1.png is that of a_1
    first, second = found.problems
    assert "a_x.png: expected an image of its name" in first and "b_0.png: expected" in second


def test_mask_files_that_may_be_classes(tmp_path, caplog):
    pictures(tmp_path, "images/a.png")
    object_files(tmp_path / "masks", ["a_1.png"])
    Image.fromarray(np.eye(HEIGHT, WIDTH, dtype=np.uint8)[:, ::-1] * 9).save(
        tmp_path / "masks" / "a_2.png"
    )
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[3, 3] = values[9, 9] = 255
    Image.fromarray(values).save(tmp_path / "masks" / "a_1.png")
    assert len(annotations.read(tmp_path).images[0].regions) == 2
    assert "files of a class each have it: images/a.png" in caplog.text


def test_masks_of_v7(tmp_path):
    """darwin-py's instance_mask, whose csv says the classes; images may lie in sub-folders."""
    pictures(tmp_path, "images/a.png", "images/sub/b.png")
    object_files(tmp_path / "masks", ["a_00000.png", "a_00001.png", "b_00000.png"])
    file = tmp_path / "instance_mask_annotations.csv"
    file.write_text(
        "image_id,mask_id,class_name\na,a_00000,Straße\na,a_00001,car\nb,b_00000,car\n", "utf-8"
    )
    found = annotations.read(tmp_path)
    assert found.classes == ["Straße", "car"] and not found.problems
    names = [[region.name for region in image.regions] for image in found.images]
    assert names == [["Straße", "car"], ["car"]]
    assert annotations.read(tmp_path, label="x").classes == ["x"]
    file.write_text("image,mask\n")
    with pytest.raises(AnnotationError, match=r"annotations.csv: .*Received: \['image', 'mask'\]"):
        annotations.read(tmp_path)


@pytest.mark.parametrize(
    "image, mask, file",
    (
        ("train/a.jpg", "train/a_mask.png", "train/_classes.csv"),
        ("images/a.png", "masks/a.png", "class_mapping.csv"),
    ),
)
def test_images_of_classes_are_refused(tmp_path, image, mask, file):
    """Roboflow's and V7's semantic masks: all objects of a class were one."""
    labels_of(tmp_path, image=image, mask=mask)
    (tmp_path / file).write_text("Pixel Value, Class\n0, background\n")
    with pytest.raises(AnnotationError, match=f"images of classes, .*{file} of"):
        annotations.read(tmp_path)


def test_masks_of_sub_folders(tmp_path):
    for subset in ("train", "val"):
        labels_of(tmp_path / subset)
    found = annotations.read(tmp_path)
    assert [image.name for image in found.images] == ["train/images/a.png", "val/images/a.png"]


def test_rims_of_pascal_voc(tmp_path):
    """The number 255 of its palette is the rim of objects, and was an object of its own."""

    def save(path, values, rim=(224, 224, 192)):
        values[3, 4:20] = 255
        picture = Image.fromarray(values)
        picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [9] * 756 + list(rim))
        picture.save(path)

    folder = labels_of(tmp_path / "voc", save=save)
    assert annotations.read(folder).images[0].masks().sum(axis=(0, 1)).tolist() == [96, 30]
    folder = labels_of(tmp_path / "other", save=lambda path, values: save(path, values, (9, 9, 9)))
    assert annotations.read(folder).images[0].masks().sum(axis=(0, 1)).tolist() == [96, 30, 16]


@pytest.mark.parametrize("form", ("voc", "cvat", "labelme"))
def test_classes_of_pascal_voc(tmp_path, form):
    """All objects were of the class "object", whatever SegmentationClass/ says."""

    def save(path, values):
        Image.fromarray(values).convert("P").save(path)

    folder = labels_of(tmp_path / "VOCdevkit" / "VOC2012", None, save, "JPEGImages/a.jpg", _OBJECTS)
    numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
    numbers[3:10, 4:20] = 12
    numbers[3:10, 4:7] = 8  # a few pixels of another class
    numbers[15:30, 10:12] = 8
    numbers[15:16, 10:12] = 255
    (folder / "SegmentationClass").mkdir()
    if form == "cvat":
        colors = np.zeros((256, 3), np.uint8)
        colors[[8, 12, 255]] = [(250, 50, 83), (51, 221, 255), (224, 224, 192)]
        numbers = colors[numbers]
        text = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\n"
        (folder / "labelmap.txt").write_text(text + "dog:51,221,255::\nowl:1,2,3::\n")
    if form == "labelme":
        names = ["_background_", *"abcdefg", "cat", "x", "y", "z", "dog"]
        (folder / "class_names.txt").write_text("\n".join(names))
    Image.fromarray(numbers).save(folder / "SegmentationClass" / "a.png")
    found = annotations.read(tmp_path)
    assert [region.name for region in found.images[0].regions] == ["dog", "cat"]
    expected = {"voc": annotations.VOC_CLASSES, "cvat": ["cat", "dog", "owl"]}
    assert found.classes == expected.get(form, [*"abcdefg", "cat", *"xyz", "dog"])
    assert annotations.read(tmp_path, label="thing").classes == ["thing"]
    (folder / _OBJECTS).unlink()
    with pytest.raises(AnnotationError, match="SegmentationClass/ tells the class of each pixel"):
        annotations.read(folder)


def test_pascal_voc_with_palettes_of_used_colours(tmp_path, caplog):
    """As oxipng leaves them: the rim was an object, and a dog, then number 3, a bird."""

    def save(path, values):  # of the numbers that are used, in any order
        used = [0, *reversed(np.unique(values)[1:].tolist())]
        places = np.zeros(256, np.uint8)
        places[used] = np.arange(len(used))
        colours = {number: code for code, number in mask_files.voc_numbers().items()}
        picture = Image.fromarray(places[values])
        palette = [colours[number] >> shift & 255 for number in used for shift in (16, 8, 0)]
        picture.putpalette(palette)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)

    pictures(tmp_path, "JPEGImages/a.jpg")
    (tmp_path / "ImageSets").mkdir()
    objects = np.zeros((HEIGHT, WIDTH), int)
    objects[3:10, 4:20] = 1
    objects[15:30, 10:12] = 2
    classes = np.where(objects == 1, 12, np.where(objects == 2, 15, 0))
    objects[20:25, 40:50] = classes[20:25, 40:50] = 255
    save(tmp_path / "SegmentationObject" / "a.png", objects)
    save(tmp_path / "SegmentationClass" / "a.png", classes)
    (image,) = annotations.read(tmp_path).images
    found = {region.name: mask for region, mask in zip(image.regions, image.masks().T)}
    assert sorted(found) == ["dog", "person"]
    np.testing.assert_array_equal(found["dog"].T, objects == 1)
    np.testing.assert_array_equal(found["person"].T, objects == 2)
    assert len(caplog.messages) == 1 and "the classes are those of the colours" in caplog.text


_OBJECTS = "SegmentationObject/a.png"
# Number 1 and 2 of Pascal VOC's palette, and what it has for 3.
RED, GREEN, OLIVE = (128, 0, 0), (0, 128, 0), (128, 128, 0)


def voc_like(folder, palettes, names=None, used=(1, 2)):
    """Pascal VOC's folders with an image for each palette, whose two objects have the numbers that
    are used."""
    if names:
        for file, text in names.items():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(text)
    for name, palette in palettes.items():
        pictures(folder, f"JPEGImages/{name}.jpg")
        objects = np.zeros((HEIGHT, WIDTH), np.uint8)
        objects[3:10, 4:20] = 1
        objects[15:30, 10:12] = 2
        classes = np.array([0, *used], np.uint8)[objects]
        for place, values in (("SegmentationObject", objects), ("SegmentationClass", classes)):
            (folder / place).mkdir(exist_ok=True)
            picture = Image.fromarray(values)
            if palette is not None and place == "SegmentationClass":
                picture = picture.convert("P")
                picture.putpalette([part for colour in palette for part in colour])
            picture.save(folder / place / f"{name}.png")
    return folder


def classes_of(folder):
    return [[region.name for region in image.regions] for image in annotations.read(folder).images]


BLACK = (0, 0, 0)
NAMES = {"class_names.txt": "_background_\ncat\ndog\nowl\n"}


def test_own_palettes_with_colours_of_pascal_voc(tmp_path, caplog):
    """What the folder says goes first; then a palette that is the same in all files, with colours
    that are not used, has its own order. All were read by colours."""
    own = [BLACK, GREEN, RED, OLIVE]
    folder = voc_like(tmp_path / "own", {"a": own, "b": own}, NAMES)
    assert classes_of(folder) == [["cat", "dog"]] * 2
    assert "the classes are those of the numbers" in caplog.text
    trimmed = {"a": [BLACK, GREEN, RED], "b": [BLACK, OLIVE, RED]}
    folder = voc_like(tmp_path / "trimmed", trimmed, NAMES)
    assert classes_of(folder) == [["dog", "cat"], ["owl", "cat"]]
    assert "the classes are those of the colours" in caplog.text
    folder = voc_like(tmp_path / "beyond", {"a": [BLACK, (0, 0, 128), RED]}, NAMES)
    assert classes_of(folder) == [["cat", "dog"]]  # number 4 has no name
    folder = voc_like(tmp_path / "open", {"a": [BLACK, GREEN, RED]}, NAMES)
    with pytest.raises(AnnotationError, match="open whether colours or numbers .* labelmap.txt"):
        annotations.read(folder)
    text = "background:0,0,0::\ncat:128,0,0::\ndog:0,128,0::\n"
    (folder / "labelmap.txt").write_text(text)
    assert classes_of(folder) == [["dog", "cat"]]
    folder = voc_like(tmp_path / "numbers", {"a": None}, {"labelmap.txt": text})
    assert classes_of(folder) == [["cat", "dog"]]  # gray: Datumaro without its palette


def test_labelmaps(tmp_path):
    """Datumaro's own has no colours where none were chosen, and was refused; a colour that is not
    in it was a class of an invented name."""
    palette = {"a": [BLACK, RED, GREEN]}
    text = "# label:color_rgb:parts:actions\nbackground:::\ncat:::\ndog:::\n"
    folder = voc_like(tmp_path / "none", palette, {"labelmap.txt": text})
    assert classes_of(folder) == [["cat", "dog"]]
    text = "background:0,0,0::\ncat:128,0,0::\n"
    folder = voc_like(tmp_path / "other", palette, {"labelmap.txt": text})
    with pytest.raises(
        AnnotationError, match=r"colours of .*labelmap.txt. Received: \(0, 128, 0\)"
    ):
        annotations.read(folder)
    text = "background:0,0,0::\ncat:128,0,0::\ndog:::\n"
    folder = voc_like(tmp_path / "mixed", palette, {"labelmap.txt": text})
    with pytest.raises(AnnotationError, match="a colour of each class, or of none. .* of 'dog'"):
        annotations.read(folder)
    (folder / "labelmap.txt").write_bytes(b"cat\xff\x80")
    with pytest.raises(
        AnnotationError, match="names of its classes: .*labelmap.txt: expected text"
    ):
        annotations.read(folder)


@pytest.mark.parametrize(
    "file, text",
    (
        ("class_names.txt", "cat\ndog\n"),
        ("labels.txt", "__ignore__\n_background_\ncat\ndog\n"),
        ("labels.txt", "cat\ndog\n"),
    ),
)
def test_class_names_without_background(tmp_path, file, text):
    """The first name is that of 1: 0 is nothing. It was passed over."""
    folder = voc_like(tmp_path, {"a": [BLACK, RED, GREEN]}, {file: text})
    assert classes_of(folder) == [["cat", "dog"]]
    assert annotations.read(folder).classes == ["cat", "dog"]


def test_classes_without_a_name(tmp_path, caplog):
    """Names of Pascal VOC that nothing asks for, and numbers, are said."""
    folder = voc_like(tmp_path, {"a": None}, used=(1, 30))
    assert classes_of(folder) == [["aeroplane", "class 30"]]
    assert "they are Pascal VOC's: 1 is aeroplane" in caplog.text
    assert "1 classes of its images have no name in Pascal VOC's names" in caplog.text


def test_label_images_that_are_something_else(tmp_path, caplog):
    """Images of classes, and a background that is no 0, are said."""
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[2:8, 2:8] = values[2:8, 20:30] = 1
    values[20:30, 2:8] = values[20:30, 40:50] = 2
    annotations.read(labels_of(tmp_path / "classes", values))
    assert "most for several pieces, as images of classes have it" in caplog.text
    caplog.clear()
    assert len(annotations.read(labels_of(tmp_path / "white", values + 1)).images[0].regions) == 3
    assert "have none, and each number or colour is taken for an object" in caplog.text


def label_files(folder, picture):
    """A folder of one image and its label image, of Pillow; the objects' masks, largest first."""
    (folder / "masks").mkdir(parents=True)
    pictures(folder, "images/a.png")
    picture.save(folder / "masks" / "a.png")
    (image,) = annotations.read(folder).images
    masks = image.masks()
    return masks[..., np.argsort(-masks.sum(axis=(0, 1)))]


def test_label_images_with_other_grounds(tmp_path, caplog):
    """A palette whose black isn't number 0, as oxipng and pngquant write it, where the ground was an
    object, and object 0 was lost; and a ground that is transparent."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[5:15, 5:15] = 1
    labels[20:30, 30:50] = 2
    expected = np.stack([labels == 2, labels == 1], axis=-1)
    colours = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8)
    moved = Image.fromarray(2 - labels)
    moved.putpalette(colours[::-1].ravel().tolist())
    usual = Image.fromarray(labels)
    usual.putpalette(colours.ravel().tolist())
    light = Image.fromarray(labels)  # no black: 0 is nothing
    light.putpalette((colours + 90).ravel().tolist())
    paper = Image.fromarray(labels)  # a black object on white, which is 0
    paper.putpalette([255, 255, 255, 0, 0, 0, 9, 9, 9])
    transparent = np.dstack([colours[labels], 255 * (labels > 0)]).astype(np.uint8)
    transparent[labels == 0, :3] = 255
    gray = np.dstack([labels + 7, 255 * (labels > 0)]).astype(np.uint8)
    kinds = {
        "moved": moved,
        "usual": usual,
        "light": light,
        "paper": paper,
        "RGBA": Image.fromarray(transparent),
        "LA": Image.fromarray(gray, "LA"),
    }
    for name, picture in kinds.items():
        masks = label_files(tmp_path / name, picture)
        np.testing.assert_array_equal(masks, expected, name)
    (warning,) = caplog.messages
    assert "moved" in warning and "black at another number than 0" in warning


def test_label_image_below_zero(tmp_path):
    """The background, -1, was an object."""
    import tifffile

    values = np.full((HEIGHT, WIDTH), -1, np.int32)
    values[3:10, 4:20] = 0
    folder = labels_of(tmp_path, values, tifffile.imwrite, mask="masks/a.tif")
    with pytest.raises(AnnotationError, match="numbers from 0, .*Received: .*a.tif with -1"):
        annotations.read(folder)


def test_label_images_of_several_kinds(tmp_path):
    """Numbers of 16 bits, a palette, colours, beside the image or in masks/."""
    import tifffile

    labels = np.zeros((HEIGHT, WIDTH), np.uint16)
    labels[3:10, 4:20] = 700
    labels[15:30, 10:12] = 3
    truth = np.stack([labels == 3, labels == 700], axis=-1)
    colors = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colors[labels == 3] = (0, 0, 9)
    colors[labels == 700] = (200, 0, 0)
    palette = Image.fromarray((labels // 3).astype(np.uint8))
    palette.putpalette(list(range(255)) * 3)
    for name, save in {
        "sixteen": lambda path: Image.fromarray(labels).save(f"{path}.png"),
        "tiff": lambda path: tifffile.imwrite(f"{path}.tif", labels.astype(np.int32)),
        "colors": lambda path: Image.fromarray(colors).save(f"{path}.png"),
        "palette": lambda path: palette.save(f"{path}.png"),
    }.items():
        folder = tmp_path / name
        pictures(folder, "images/a.png")
        (folder / "masks").mkdir()
        save(folder / "masks" / "a")
        np.testing.assert_array_equal(annotations.read(folder).images[0].masks(), truth)
    beside = tmp_path / "beside"
    pictures(beside, "a.png")
    Image.fromarray(labels).save(beside / "a_cp_masks.png")
    np.testing.assert_array_equal(annotations.read(beside).images[0].masks(), truth)


def test_mask_files_that_are_wrong(tmp_path, caplog):
    pictures(tmp_path, "x/images/x.png", "y/images/y.png")
    for name in ("x", "y"):
        (tmp_path / name / "masks").mkdir()
    Image.fromarray(ring()).save(tmp_path / "x" / "masks" / "1.png")
    Image.new("L", (5, 5), 255).save(tmp_path / "x" / "masks" / "2.png")
    (tmp_path / "x" / "masks" / "3.png").write_text("no image")
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "x" / "masks" / "4.png")
    found = annotations.read(tmp_path)
    assert [len(image.regions) for image in found.images] == [1]
    np.testing.assert_array_equal(found.images[0].masks()[..., 0], ring())
    first, second, third = found.problems
    assert "mask 2.png" in first and "(40, 60) pixels. Received: (5, 5)" in first
    assert "mask 3.png" in second and "4.png" in third
    with pytest.raises(AnnotationError, match="expected <id>/images"):
        annotations.read_masks(tmp_path / "x" / "masks")


def test_black_and_white_label_image_is_named(tmp_path, caplog):
    pictures(tmp_path, "images/a.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(ring()).save(tmp_path / "masks" / "a.png")
    assert len(annotations.read(tmp_path).images[0].regions) == 1
    assert "each number is taken for one object: images/a.png" in caplog.text


def soft_disc():
    """[40, 60] uint8: a disc of radius 12 whose edge is smoothed, as drawing programs do."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    inside = 12.5 - np.hypot(rows - 19.3, columns - 30.2)
    return np.around(255 * np.clip(inside, 0, 1)).astype(np.uint8)


def spots():
    """[40, 60] uint8: objects of one and of two pixels, some side by side."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[1:39:3, 1:58:3].flat[:200] = np.arange(1, 201)
    labels[2:40:6, 1:58:3] = labels[1:39:6, 1:58:3]
    labels[1:39:9, 2:59:9] = 201
    return labels


def label_image(folder, save):
    """A folder with a good label image, b's, and one that `save` writes, of a; what is read."""
    pictures(folder, "images/a.png", "images/b.png")
    (folder / "masks").mkdir()
    Image.fromarray(ring()).save(folder / "masks" / "b.png")
    save(folder / "masks" / "a")
    return annotations.read(folder)


LOSSY = {
    "jpeg": lambda path: Image.fromarray(spots()).save(f"{path}.jpg", quality=95),
    "webp": lambda path: Image.fromarray(spots()).save(f"{path}.webp", quality=95),
    "renamed": lambda path: Image.fromarray(spots()).save(f"{path}.png", "JPEG"),
}


@pytest.mark.parametrize("kind", sorted(LOSSY))
def test_label_images_with_losses_are_left_out(tmp_path, kind):
    """A JPEG of one disc was 56 objects without a word."""
    found = label_image(tmp_path, LOSSY[kind])
    assert [image.name for image in found.images] == ["images/b.png"]
    (problem,) = found.problems
    assert "images/a.png" in problem and "without losses, PNG or TIFF. Received" in problem


@pytest.mark.parametrize("mode", ("L", "RGB", "LA"))
def test_label_images_with_soft_edges_are_left_out(tmp_path, mode):
    disc = Image.fromarray(soft_disc()).convert(mode)
    found = label_image(tmp_path, lambda path: disc.save(f"{path}.png"))
    assert [image.name for image in found.images] == ["images/b.png"]
    (problem,) = found.problems
    assert "one number or colour for each object" in problem and "a.png, of whose" in problem
    hard = Image.fromarray(soft_disc() // 128 * 7).convert(mode)
    found = label_image(tmp_path / "hard", lambda path: hard.save(f"{path}.png"))
    mask = found.images[0].masks()
    np.testing.assert_array_equal(mask[..., 0], soft_disc() >= 128)
    assert mask.shape[2] == 1 and not found.problems


def test_objects_of_a_pixel_have_no_soft_edges(tmp_path):
    truth = [spots() == number for number in range(1, 202)]
    kinds = {
        "png": lambda path: Image.fromarray(spots()).save(f"{path}.png"),
        "webp": lambda path: Image.fromarray(spots()).save(f"{path}.webp", lossless=True),
        "sixteen": lambda path: Image.fromarray(soft_disc().astype(np.uint16)).save(f"{path}.png"),
    }
    for kind, save in kinds.items():
        found = label_image(tmp_path / kind, save)
        assert len(found.images) == 2 and not found.problems
        if kind != "sixteen":
            np.testing.assert_array_equal(found.images[0].masks(), np.stack(truth, axis=-1))


def test_label_image_of_stored_pixels(tmp_path):
    """Of a photograph that its camera turned, a label image of either size is taken."""
    for name, labels in {"stored": ring(), "shown": np.rot90(ring(), -1)}.items():
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True)
        (folder / "masks").mkdir()
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "images" / "a.jpg", exif=exif)
        Image.fromarray(np.ascontiguousarray(labels)).save(folder / "masks" / "a.png")
        (image,) = annotations.read(folder).images
        assert (image.height, image.width) == labels.shape
        np.testing.assert_array_equal(image.masks()[..., 0], labels)
    Image.new("L", (50, 50), 3).save(tmp_path / "shown" / "masks" / "a.png")
    with pytest.raises(AnnotationError, match=r"label image .*a.png: annotated at .*\(50, 50\)"):
        annotations.read(tmp_path / "shown")


def test_mask_files_of_stored_pixels(tmp_path):
    """A file for each object, of a photograph that its camera turned: they were refused."""
    for name, mask in {"stored": ring(), "shown": np.rot90(ring(), -1)}.items():
        folder = tmp_path / name / "a"
        (folder / "images").mkdir(parents=True)
        (folder / "masks").mkdir()
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "images" / "a.jpg", exif=exif)
        (folder / "masks" / "0.png").write_text("no image")
        Image.fromarray(np.ascontiguousarray(mask)).save(folder / "masks" / "1.png")
        found = annotations.read(tmp_path / name)
        np.testing.assert_array_equal(found.images[0].masks()[..., 0], mask)
        dataset = annotations.AnnotatedDataset.of("x", found)
        assert dataset.load_image(0).shape[:2] == mask.shape


def test_masks_of_a_run_before_are_gone(tmp_path):
    path = via_file(tmp_path)
    convert.convert(path, "masks", tmp_path / "out")
    assert len(annotations.read(tmp_path / "out").images[0].regions) == 4
    data = json.loads(path.read_text())
    regions = data["a.png1"]["regions"]
    del regions[0], regions[1:]
    path.write_text(json.dumps(data))
    truth = annotations.read(path).images[0].masks()
    convert.convert(path, "masks", tmp_path / "out", overwrite=True)
    np.testing.assert_array_equal(annotations.read(tmp_path / "out").images[0].masks(), truth)
    assert truth.shape == (HEIGHT, WIDTH, 1) and truth.any()


@pytest.mark.parametrize("kind, lost", [("uint16", 1), ("uint8", 0), ("bands", 1)])
def test_bits_that_a_png_loses_are_counted(tmp_path, kind, lost):
    import tifffile

    pixels = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)
    if kind == "uint8":
        pixels = (pixels // 16).astype(np.uint8)
    if kind == "bands":
        pixels = np.stack([pixels // 16] * 6, axis=-1).astype(np.uint8)
    (tmp_path / "in" / "images").mkdir(parents=True)
    (tmp_path / "in" / "masks").mkdir()
    tifffile.imwrite(tmp_path / "in" / "images" / "a.tif", pixels, photometric="minisblack")
    Image.fromarray(ring()).save(tmp_path / "in" / "masks" / "a.png")
    report = convert.convert(tmp_path / "in", "masks", tmp_path / "out")
    assert report.losses[convert.DEPTH] == lost
    assert ("nothing is lost" in report.text()) == (lost == 0)
    # Where the file itself is copied, nothing is.
    report = convert.convert(tmp_path / "in", "labels", tmp_path / "copied")
    assert report.losses[convert.DEPTH] == 0


@pytest.mark.parametrize("place", ["val2017", "images/val2017"])
def test_a_json_in_cocos_own_layout_finds_its_images(tmp_path, place):
    """annotations/instances_val2017.json, as it is downloaded, without a second argument."""
    pictures(tmp_path / place, "a.png")
    pictures(tmp_path / "train2017", "a.png", "b.png")
    (tmp_path / "annotations").mkdir()
    path = tmp_path / "annotations" / "instances_val2017.json"
    item = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [SQUARE], "iscrowd": 0}
    image = {"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}
    categories = [{"id": 1, "name": "square"}]
    path.write_text(
        json.dumps({"images": [image], "annotations": [item], "categories": categories})
    )
    (found,) = annotations.read(path).images
    assert found.path == str(tmp_path / place / "a.png")
    report = convert.convert(path, "yolo", tmp_path / "out")
    assert report.images == report.objects == 1 and not report.losses[convert.NO_FILE]


def test_what_a_json_loses_is_counted(tmp_path):
    """An annotation that can't be used was a warning, and the report said that nothing is lost."""
    path = coco_file(tmp_path / "data")
    data = json.loads(path.read_text())
    data["annotations"][0]["segmentation"] = []
    data["annotations"][1]["segmentation"][1] = [1, 2]
    path.write_text(json.dumps(data))
    report = convert.convert(path, "coco", tmp_path / "out")
    assert report.objects == 3 and report.losses[convert.UNREAD] == 2
    assert "nothing is lost" not in report.text()


@pytest.mark.parametrize("target", ("coco", "yolo", "via", "labelme", "masks", "labels"))
@pytest.mark.parametrize("name", ("labels/a.png", "masks/a.png", ".hidden/.a.png", "images/a.png"))
def test_what_is_written_is_found_again(tmp_path, target, name):
    """No reader looks for photographs in folders of labels, or for hidden ones."""
    pictures(tmp_path / "in", name)
    size = {"height": HEIGHT, "width": WIDTH}
    data = {
        "images": [{"id": 1, "file_name": name, **size}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [SQUARE]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "in" / "a.json").write_text(json.dumps(data))
    convert.convert(tmp_path / "in" / "a.json", target, tmp_path / "out")
    (image,) = annotations.read(tmp_path / "out").images
    assert image.masks()[6:24, 11:29].all()


def test_output_that_looks_like_a_file(tmp_path):
    """It became a folder of that name."""
    path = coco_file(tmp_path / "in")
    with pytest.raises(ValueError, match="the output of labelme is a folder. Received: .*x.json"):
        convert.convert(path, "labelme", tmp_path / "x.json")


@pytest.mark.parametrize("target", ("via", "labelme", "coco", "yolo"))
def test_classes_without_objects_and_their_order(tmp_path, target):
    """VIA and LabelMe have no list of classes: what is lost is said; it was "nothing is lost"."""
    pictures(tmp_path, "a.png")
    names = ["zebra", "owl", "ant"]
    size = {"height": HEIGHT, "width": WIDTH}
    items = [
        {"id": i, "image_id": 1, "category_id": i, "segmentation": [SQUARE], "iscrowd": 0}
        for i in (1, 3)
    ]
    data = {
        "images": [{"id": 1, "file_name": "a.png", **size}],
        "annotations": items,
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
    }
    (tmp_path / "a.json").write_text(json.dumps(data))
    report = convert.convert(tmp_path / "a.json", target, tmp_path / "out")
    again = annotations.read(tmp_path / "out").classes
    if target in ("coco", "yolo"):
        assert again == names and not report.notes and "nothing is lost" in report.text()
    else:
        assert again == ["ant", "zebra"]
        assert report.to_dict()["losses"] == {convert.EMPTY_CLASSES: 1}
        assert "their ids will be those of the alphabet: ant, zebra" in report.text()


@pytest.mark.parametrize("target", ("labelme", "yolo", "masks", "labels"))
def test_what_remains_of_an_earlier_conversion_is_said(tmp_path, target):
    """An image that the source no longer has kept its annotations in the output, without a word."""
    path = coco_file(tmp_path / "in")
    convert.convert(path, target, tmp_path / "out")
    same = convert.convert(path, target, tmp_path / "out", overwrite=True)
    assert not any("remain" in note for note in same.notes)
    data = json.loads(path.read_text())
    data["images"] = [image for image in data["images"] if image["id"] != 7]
    data["annotations"] = [item for item in data["annotations"] if item["image_id"] != 7]
    path.write_text(json.dumps(data))
    report = convert.convert(path, target, tmp_path / "out", overwrite=True)
    (note,) = [note for note in report.notes if "remain" in note]
    assert "annotation files that were there remain, and are read with the others: " in note
    assert "a.json" in note or "a.txt" in note or "a.png" in note or "a/masks/" in note
