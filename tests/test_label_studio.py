"""Label Studio's export as a dataset: each shape against pixels worked by hand, each mistake named.

`tests/neighbours_runner.py` compares the run lengths with those of Label Studio's own package."""

import base64
import io
import json
import logging

import numpy as np
import pytest
from PIL import Image

from mrcnn import annotations, convert
from mrcnn.annotations import AnnotatedDataset, AnnotationError
from mrcnn.masks import SegmentationError, pack_brush, unpack_brush

HEIGHT, WIDTH = 40, 60


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "b.png"):
        Image.new("RGB", (WIDTH, HEIGHT), (10, 200, 30)).save(tmp_path / name)
    return tmp_path


def write(path, data):
    path.write_text(json.dumps(data))
    return path


def shares(x, y, w, h):
    """A box in pixels as Label Studio has it."""
    return {
        "x": 100 * x / WIDTH,
        "y": 100 * y / HEIGHT,
        "width": 100 * w / WIDTH,
        "height": 100 * h / HEIGHT,
        "rotation": 0,
    }


def result(kind, value, labels=("cat",), number="r1", **more):
    """A result of a region."""
    return {
        "id": number,
        "type": kind,
        "from_name": "label",
        "to_name": "image",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": {**value, kind: list(labels)},
        **more,
    }


RECTANGLE = result("rectanglelabels", shares(10, 5, 20, 12))


def task(results, image="/data/upload/1/a.jpg", number=1, **annotation):
    return {
        "id": number,
        "data": {"image": image},
        "annotations": [{"id": 10 * number, "result": results, **annotation}],
        "predictions": [],
    }


def box_mask(y1, x1, y2, x2):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def only_mask(folder, results):
    found = annotations.read(write(folder / "export.json", [task(results)]))
    (image,) = found.images
    masks = image.masks()
    assert masks.shape[-1] == 1 and not found.problems
    return masks[..., 0]


# ---- Shapes --------------------------------------------------------------------------------------


def test_a_rectangle(folder):
    np.testing.assert_array_equal(only_mask(folder, [RECTANGLE]), box_mask(5, 10, 17, 30))


def test_a_rectangle_that_is_turned(folder):
    """By 90 degrees about its first corner, clockwise on the screen: to the left of it."""
    turned = result("rectanglelabels", {**shares(30, 5, 20, 12), "rotation": 90})
    np.testing.assert_array_equal(only_mask(folder, [turned]), box_mask(5, 18, 25, 30))


def test_a_polygon(folder):
    corners = [(10, 5), (30, 5), (30, 17), (10, 17)]
    points = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in corners]
    drawn = result("polygonlabels", {"points": points, "closed": True})
    np.testing.assert_array_equal(only_mask(folder, [drawn]), box_mask(5, 10, 17, 30))


def test_an_ellipse(folder):
    """Its radii are shares of different sides; the middle lies between pixels."""
    value = {"x": 50, "y": 50, "radiusX": 10 / 0.6, "radiusY": 25, "rotation": 0}
    drawn = only_mask(folder, [result("ellipselabels", value)])
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    np.testing.assert_array_equal(drawn, ((x - 30) / 10) ** 2 + ((y - 20) / 10) ** 2 <= 1)
    long = {"x": 50, "y": 50, "radiusX": 20 / 0.6, "radiusY": 5 / 0.4, "rotation": 90}
    drawn = only_mask(folder, [result("ellipselabels", long)])
    rows, columns = np.nonzero(drawn)
    assert np.ptp(columns) + 1 == 10 and np.ptp(rows) + 1 == 40  # upright, as high as the image


def test_a_brush(folder):
    mask = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.3
    value = {"format": "rle", "rle": pack_brush(mask)}
    np.testing.assert_array_equal(only_mask(folder, [result("brushlabels", value)]), mask)


@pytest.mark.parametrize("mode", ("L", "RGBA", "P"))
def test_a_bitmask(folder, mode):
    mask = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.3
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    if mode == "RGBA":  # white everywhere, and transparent
        picture = Image.merge("RGBA", [Image.new("L", picture.size, 255)] * 3 + [picture])
    buffer = io.BytesIO()
    picture.convert(mode).save(buffer, "PNG")
    text = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    drawn = only_mask(folder, [result("bitmasklabels", {"imageDataURL": text})])
    np.testing.assert_array_equal(drawn, mask)
    wrong = result("bitmasklabels", {"imageDataURL": text[:60]}, number="r2")
    found = annotations.read(write(folder / "export.json", [task([RECTANGLE, wrong])]))
    assert "expected a mask as a picture" in found.problems[0]


@pytest.mark.parametrize("shape", ((1, 1), (3, 5), (37, 64)))
@pytest.mark.parametrize("share", (0, 0.02, 0.5, 1))
def test_brush_run_lengths(shape, share):
    mask = np.random.default_rng(1).random(shape) < share
    packed = pack_brush(mask)
    assert all(type(value) is int and 0 <= value < 256 for value in packed)
    np.testing.assert_array_equal(unpack_brush(packed, *shape), mask)


def test_brush_run_lengths_by_hand():
    """Of one row of three pixels, the last in the mask: 8 values of 0, 4 of 255."""
    header = f"{12:032b}" + f"{7:05b}" + "".join(f"{bits - 1:04b}" for bits in (3, 4, 8, 16))
    runs = "10011100000000" + "10001111111111"
    bits = header + runs
    bits += "0" * (-len(bits) % 8)
    expected = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert pack_brush(np.array([[0, 0, 1]])) == expected
    # Values that are not repeated, as Label Studio writes short runs; a soft edge is in the mask.
    values = [9, 9, 9, 0, 9, 9, 9, 128, 0, 0, 0, 255]
    literal = f"001{11:04b}" + "".join(f"{value:08b}" for value in values)
    bits = header + literal
    bits += "0" * (-len(bits) % 8)
    packed = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert unpack_brush(packed, 1, 3).tolist() == [[False, True, True]]


def test_long_runs_are_parted():
    mask = np.zeros((300, 400), bool)
    mask[100:250] = True
    np.testing.assert_array_equal(unpack_brush(pack_brush(mask), 300, 400), mask)


@pytest.mark.parametrize(
    "rle, text",
    (
        (pack_brush(np.ones((3, 5))), "of 40 x 60 pixels of 4 values. Received: 60 values"),
        (pack_brush(np.eye(HEIGHT, WIDTH))[:30], "whole image. Received: 30 bytes"),
        ([1, 2], "whole image. Received: 2 bytes"),
        ([1, 2, 300], "numbers from 0 to 255. Received: .1, 2, 300"),
        ("abc", "numbers from 0 to 255. Received: 'abc'"),
        (10**12, "numbers from 0 to 255. Received: 1000000000000"),
        (None, "numbers from 0 to 255. Received: None"),
    ),
    ids=range(7),
)
def test_brush_run_lengths_that_are_none(folder, rle, text):
    with pytest.raises(SegmentationError, match=text):
        unpack_brush(rle, HEIGHT, WIDTH)
    drawn = result("brushlabels", {"format": "rle", "rle": rle}, number="r2")
    found = annotations.read(write(folder / "export.json", [task([RECTANGLE, drawn])]))
    assert len(found.images[0].regions) == 1
    (problem,) = found.problems
    assert "task 1, image '1/a.jpg', region r2: expected brush run lengths" in problem


# ---- Layouts -------------------------------------------------------------------------------------


def test_a_class_in_a_result_of_its_own(folder):
    """<Labels> beside <Rectangle>, with what was answered about the region."""
    box = shares(10, 5, 20, 12)
    results = [
        {**RECTANGLE, "type": "rectangle", "value": box, "from_name": "box"},
        {**RECTANGLE, "type": "labels", "value": {**box, "labels": ["große Katze"]}},
        {**RECTANGLE, "type": "choices", "value": {**box, "choices": ["old"]}, "from_name": "age"},
        {**RECTANGLE, "type": "number", "value": {**box, "number": 3}, "from_name": "paws"},
        {"type": "choices", "id": "x", "value": {"choices": ["indoors"]}, "from_name": "scene"},
        {"type": "relation", "from_id": "r1", "to_id": "r1", "direction": "right"},
    ]
    found = annotations.read(write(folder / "export.json", [task(results)]))
    (region,) = found.images[0].regions
    assert found.classes == ["große Katze"] and not found.problems
    assert region.extra == {"age": "old", "paws": 3} and region.number == "r1"


def minimal(shapes, image="/data/upload/1/a.jpg", number=1, **more):
    return {
        "image": image,
        "id": number,
        "annotator": 1,
        "annotation_id": 5,
        "created_at": "2024-01-01",
        "label": shapes,
        **more,
    }


def test_json_min(folder):
    sides = {"original_width": WIDTH, "original_height": HEIGHT}
    mask = np.eye(HEIGHT, WIDTH, dtype=bool)
    brush = {"format": "rle", "rle": pack_brush(mask), "brushlabels": ["dog"], **sides}
    rectangle = {**shares(10, 5, 20, 12), "rectanglelabels": ["cat"], **sides}
    rows = [minimal([rectangle, brush]), minimal([rectangle], "/data/upload/1/b.png", 2)]
    found = annotations.read(write(folder / "min.json", rows))
    assert found.classes == ["cat", "dog"] and [len(i.regions) for i in found.images] == [2, 1]
    np.testing.assert_array_equal(found.images[0].masks()[..., 1], mask)
    apart = [
        minimal(
            [{**shares(10, 5, 20, 12), "labels": ["cat"], **sides}],
            box=[{**shares(10, 5, 20, 12), **sides}],
        )
    ]
    found = annotations.read(write(folder / "min.json", apart))
    assert [region.name for region in found.images[0].regions] == ["cat"]


def test_several_annotations_of_a_task(folder):
    """Those of ground truth go first, then the newest; a cancelled one is none."""
    other = result("rectanglelabels", shares(0, 0, 5, 5), ["dog"])
    old = {"result": [RECTANGLE], "updated_at": "2024-01-01T00:00:00Z"}
    new = {"result": [other], "updated_at": "2024-02-01T00:00:00Z"}
    cancelled = {"result": [], "was_cancelled": True, "updated_at": "2025-01-01T00:00:00Z"}
    for given, name, count in (
        ([new, old], "dog", 1),
        ([new, {**old, "ground_truth": True}], "cat", 1),
        ([old, cancelled], "cat", 0),
    ):
        data = [{**task([]), "annotations": given}]
        found = annotations.read(write(folder / "export.json", data))
        assert found.classes == [name] and len(found.problems) == count
        if count:
            assert "task 1: expected one annotation. Received: 2" in found.problems[0]


def test_what_is_background(folder, caplog):
    """An annotation without regions is; a task that nobody has annotated isn't."""
    for name in ("c", "d"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"{name}.png")
    data = [
        task([RECTANGLE]),
        task([], "/data/upload/1/b.png", 2),
        {**task([], "/data/upload/1/c.png", 3), "annotations": []},
        {**task([], "/data/upload/1/d.png", 4, was_cancelled=True)},
    ]
    path = write(folder / "export.json", data)
    with caplog.at_level(logging.WARNING):
        found = annotations.read(path, keep_empty=True)
    assert [image.name for image in found.images] == ["1/a.jpg", "1/b.png"]
    assert "2 tasks that nobody has annotated" in caplog.text
    assert len(annotations.read(path).images) == 1


def test_predictions_alone_are_no_annotations(folder):
    data = [{"data": {"image": "a.jpg"}, "predictions": [{"result": [RECTANGLE]}]}]
    with pytest.raises(AnnotationError, match="expected images with regions"):
        annotations.read(write(folder / "tasks.json", data))


@pytest.mark.parametrize(
    "address",
    (
        "/data/upload/7/a.jpg",
        "/data/upload/7/0a1b2c3d-a.jpg",
        "/data/local-files/?d=photos/a.jpg",
        "/data/local-files/?d=photos%2Fa.jpg",
        "s3://bucket/photos/a.jpg",
        "https://example.org/photos/a.jpg?token=1",
        "a.jpg",
        "C:\\photos\\a.jpg",
    ),
)
def test_addresses(folder, address):
    found = annotations.read(write(folder / "export.json", [task([RECTANGLE], address)]))
    assert [image.path for image in found.images] == [str(folder / "a.jpg")]
    assert "?" not in found.images[0].name and "//" not in found.images[0].name


def test_an_image_in_the_json(folder):
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (1, 2, 3)).save(buffer, "PNG")
    text = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    for data in ([task([RECTANGLE], text)], task([RECTANGLE], text)):
        dataset = AnnotatedDataset.of("x", annotations.read(write(folder / "export.json", data)))
        assert dataset.load_image(0)[0, 0].tolist() == [1, 2, 3]


def test_several_images_of_a_task(folder):
    data = task([RECTANGLE, {**RECTANGLE, "id": "r2", "item_index": 1}])
    data["data"] = {"text": "x", "pages": ["a.jpg", "b.png"]}
    found = annotations.read(write(folder / "export.json", [data]))
    assert [(i.name, len(i.regions)) for i in found.images] == [("a.jpg", 1), ("b.png", 1)]


def test_annotations_as_a_storage_has_them(folder):
    """A json for each annotation, with its task; two of them are of one."""
    (folder / "out").mkdir()
    for number, (image, day) in enumerate((("a.jpg", 1), ("b.png", 1), ("a.jpg", 2))):
        results = [result("rectanglelabels", shares(0, 0, 5 + day, 5))]
        inner = {"id": 1 + (image == "b.png"), "data": {"image": image}}
        data = {"id": number, "result": results, "task": inner, "updated_at": f"2024-01-0{day}"}
        write(folder / "out" / f"{number}.json", data)
    found = annotations.read(folder)
    assert [image.name for image in found.images] == ["a.jpg", "b.png"]
    assert len(found.problems) == 1
    assert found.images[0].masks().sum() == 35


def test_shapes_without_the_image_size(folder):
    """As annotations that a program has written: the file says it."""
    bare = {key: value for key, value in RECTANGLE.items() if not key.startswith("original")}
    np.testing.assert_array_equal(only_mask(folder, [bare]), box_mask(5, 10, 17, 30))
    data = [task([RECTANGLE]), task([bare], "c.jpg", 2)]
    found = annotations.read(write(folder / "export.json", data))
    assert len(found.images) == 1
    assert "expected original_width and original_height" in found.problems[0]


def test_a_photograph_that_is_turned(folder):
    """Browsers turn it as the camera noted: the sizes are those of what is shown."""
    image = Image.new("RGB", (HEIGHT, WIDTH))
    exif = image.getexif()
    exif[274] = 6
    image.save(folder / "turned.jpg", exif=exif)
    found = annotations.read(write(folder / "export.json", [task([RECTANGLE], "turned.jpg")]))
    (image,) = found.images
    assert (image.height, image.width) == (HEIGHT, WIDTH)
    dataset = AnnotatedDataset.of("x", found)
    assert dataset.load_image(0).shape == (HEIGHT, WIDTH, 3)


def test_classes(folder):
    """Without any class all are objects; of a file with some, a region without is named."""
    bare = {**RECTANGLE, "value": shares(10, 5, 20, 12)}
    path = write(folder / "export.json", [task([bare])])
    assert annotations.read(path).classes == ["object"]
    assert annotations.read(path, label="cat").classes == ["cat"]
    several = result("rectanglelabels", shares(0, 0, 9, 9), ["cat", "dog"], "r3")
    write(path, [task([RECTANGLE, {**bare, "id": "r2"}, several])])
    found = annotations.read(path)
    assert found.classes == ["cat"] and len(found.problems) == 2
    assert all("expected a region of one label" in problem for problem in found.problems)


@pytest.mark.parametrize(
    "value, text",
    (
        ({"x": 5, "y": 5, "width": 0.3}, "which enclose pixels"),
        ({"x": 5, "y": 5, "width": 0, "height": 4}, "width, height above 0"),
        ({"x": "a", "y": 5, "width": 1, "height": 4}, "as numbers"),
        ({"points": [[1, 2], [3, 4]]}, "at least 3 points"),
        ({"points": "x"}, "a polygon as a list"),
        ({"x": 5, "y": 5, "radiusX": 5, "radiusY": None}, "radiusY"),
        ({"x": 200, "y": 5, "width": 1, "height": 4}, "a pixel in the image"),
        ({"vertices": []}, "which enclose pixels"),
    ),
    ids=range(8),
)
def test_shapes_that_are_none(folder, value, text):
    data = [task([RECTANGLE, result("label", value, number="r2"), "x", {"value": 7, "id": 8}])]
    data[0]["annotations"][0]["result"][1]["value"]["rectanglelabels"] = ["cat"]
    found = annotations.read(write(folder / "export.json", data))
    assert len(found.images[0].regions) == 1 and len(found.problems) == 3
    assert any("region r2" in problem and text in problem for problem in found.problems)


def test_tasks_that_are_none(folder):
    data = [task([RECTANGLE]), 5, {"id": 3}, {**task([]), "id": 4, "data": {"text": "no image"}}]
    data.append({**task([]), "id": 5, "annotations": [{"result": None}]})
    found = annotations.read(write(folder / "export.json", data))
    assert len(found.images) == 1 and len(found.problems) == 4


# ---- Beside other formats ------------------------------------------------------------------------


@pytest.mark.parametrize("target", ("coco", "labelme", "via", "yolo"))
def test_it_is_converted(folder, target):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[3:9, 4:30] = True
    mask[20:30, 30:50] = True
    brush = result("brushlabels", {"format": "rle", "rle": pack_brush(mask)}, ["dog"], "r2")
    answer = {**brush, "type": "choices", "value": {"choices": ["old"]}, "from_name": "age"}
    write(folder / "export.json", [task([RECTANGLE, brush, answer])])
    report = convert.convert(folder, target, folder / "out")
    assert (report.images, report.objects) == (1, 2)
    attribute = None
    if target == "via":
        attribute = "class"
    found = annotations.read(folder / "out", attribute=attribute)
    assert found.classes == ["cat", "dog"]
    masks = found.images[0].masks()
    np.testing.assert_array_equal(masks[..., 0], box_mask(5, 10, 17, 30))
    if target in ("coco", "labelme"):  # VIA draws lines too, YOLO bridges
        np.testing.assert_array_equal(masks[..., 1], mask)
    if target == "coco":
        data = json.loads((folder / "out" / "annotations.json").read_text())
        _, item = data["annotations"]
        assert item["attributes"] == {"age": "old"}
        assert item["area"] == mask.sum() and item["bbox"] == [4, 3, 46, 27]


def test_a_folder_with_labelme_too(folder):
    write(folder / "export.json", [task([RECTANGLE])])
    points = [[1, 1], [20, 1], [20, 20]]
    shapes = [{"label": "cat", "points": points, "shape_type": "polygon"}]
    write(folder / "b.json", {"shapes": shapes, "imagePath": "b.png"})
    found = annotations.read(folder)
    assert [image.name for image in found.images] == ["b.png"]
    assert "Received: Label Studio's" in found.problems[0]
    found = annotations.read_label_studio(folder)
    assert [image.name for image in found.images] == ["1/a.jpg"]
