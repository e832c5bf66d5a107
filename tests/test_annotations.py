"""Annotation files of VIA, LabelMe and COCO: every shape against hand-worked or peers' pixels,
every mistake named."""

import base64
import dataclasses
import io
import json
import logging
import math
import re

import numpy as np
import oracle
import pytest
import skimage.draw
from PIL import Image

from mrcnn import annotations
from mrcnn.annotations import AnnotatedDataset, AnnotationError

HEIGHT, WIDTH = 40, 60


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "b.png"):
        Image.new("RGB", (WIDTH, HEIGHT), (10, 200, 30)).save(tmp_path / name)
    return tmp_path


def write(path, data):
    path.write_text(json.dumps(data))
    return path


POLYGON = {"name": "polygon", "all_points_x": [5, 20, 12], "all_points_y": [6, 8, 25]}


def via(regions, version=2, name="a.jpg"):
    """One image's VIA json; regions: shapes, or (shape, attributes)."""
    items = [
        {"shape_attributes": shape, "region_attributes": attributes}
        for shape, attributes in (
            region if isinstance(region, tuple) else (region, {}) for region in regions
        )
    ]
    entry = {
        "filename": name,
        "size": 123,
        "file_attributes": {},
        "regions": {str(i): item for i, item in enumerate(items)} if version == 1 else items,
    }
    if version == 1:
        entry.update(fileref="", base64_img_data="")
    return {name + "123": entry}


def via_mask(folder, shape):
    return annotations.read_via(write(folder / "via.json", via([shape]))).images[0].masks()[..., 0]


# ---- VIA -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", (1, 2, "project"))
def test_via_versions(folder, version):
    data = via([(POLYGON, {"type": "red"}), (POLYGON, {"type": "blue"})], 1 if version == 1 else 2)
    if version == "project":
        data = {
            "_via_settings": {},
            "_via_img_metadata": data,
            "_via_attributes": {"region": {"type": {}}, "file": {}},
            "_via_data_format_version": "2.0.10",
            "_via_image_id_list": list(data),
        }
    path = write(folder / "via.json", data)
    found = annotations.read(path)
    assert found == annotations.read_via(path, attribute="type")
    assert found.classes == ["blue", "red"] and not found.problems
    assert [region.name for region in found.images[0].regions] == ["red", "blue"]
    assert (found.images[0].height, found.images[0].width) == (HEIGHT, WIDTH)


def test_via_polygon_is_matterports(folder):
    """Polygon and polyline: the pixels that the original's sample drew, without its IndexError at
    the edge."""
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[skimage.draw.polygon(POLYGON["all_points_y"], POLYGON["all_points_x"])] = True
    assert expected.sum() > 100
    np.testing.assert_array_equal(via_mask(folder, POLYGON), expected)
    np.testing.assert_array_equal(via_mask(folder, {**POLYGON, "name": "polyline"}), expected)
    outside = via_mask(
        folder,
        {"name": "polygon", "all_points_x": [50, 90, 90, 50], "all_points_y": [-5, -5, 9, 9]},
    )
    assert outside.sum() == 10 * 10 and outside[:10, 50:].all()


def test_via_rectangle(folder):
    mask = via_mask(folder, {"name": "rect", "x": 3, "y": 5, "width": 7, "height": 2})
    assert mask.sum() == 14 and mask[5:7, 3:10].all()


def test_via_circle_and_ellipse(folder):
    """Against the inequality at each pixel, and areas against pi a b; theta turns from x towards y,
    as a canvas does."""
    circle = via_mask(folder, {"name": "circle", "cx": 20, "cy": 15, "r": 9.5})
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    np.testing.assert_array_equal(circle, (columns - 20) ** 2 + (rows - 15) ** 2 <= 9.5**2)
    upright = via_mask(folder, {"name": "ellipse", "cx": 30, "cy": 20, "rx": 16, "ry": 7})
    np.testing.assert_array_equal(
        upright,
        via_mask(folder, {"name": "ellipse", "cx": 30, "cy": 20, "rx": 16, "ry": 7, "theta": 0}),
    )
    assert (
        abs(upright.sum() - math.pi * 16 * 7) < 12
        and upright[20, 15:46].all()
        and not upright[28, 30]
    )
    turned = via_mask(
        folder, {"name": "ellipse", "cx": 30, "cy": 20, "rx": 16, "ry": 7, "theta": math.pi / 4}
    )
    assert abs(turned.sum() - math.pi * 16 * 7) < 12
    assert turned[30, 40] and turned[10, 20] and not turned[30, 20] and not turned[10, 40]
    quarter = via_mask(
        folder, {"name": "ellipse", "cx": 30, "cy": 20, "rx": 16, "ry": 7, "theta": math.pi / 2}
    )
    np.testing.assert_array_equal(
        quarter, via_mask(folder, {"name": "ellipse", "cx": 30, "cy": 20, "rx": 7, "ry": 16})
    )
    cut = via_mask(folder, {"name": "circle", "cx": 0, "cy": 0, "r": 5})
    np.testing.assert_array_equal(cut, columns**2 + rows**2 <= 25)


@pytest.mark.parametrize(
    "region, text",
    [
        (
            {"name": "point", "cx": 3, "cy": 4},
            "expected a polygon, rect, circle, ellipse or polyline.* Received: 'point'",
        ),
        ({"name": "star"}, "Received: 'star'"),
        (
            {"name": "polygon", "all_points_x": [1, 2, 3], "all_points_y": [1, 2]},
            "as many .* Received: 3 and 2",
        ),
        (
            {"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1, 2]},
            "at least 3 points. Received: 2",
        ),
        ({"name": "polygon", "all_points_y": [1, 2]}, "'all_points_x', a list. Received"),
        (
            {"name": "polyline", "all_points_x": [1, "x", 3], "all_points_y": [1, 2, 3]},
            "points of two numbers. Received",
        ),
        (
            {"name": "circle", "cx": 3, "cy": None, "r": 4},
            r"cx, cy, r as numbers \(r above 0\). Received: cy: None",
        ),
        ({"name": "circle", "cx": 3, "cy": 4, "r": 0}, "Received: r: 0"),
        ({"name": "rect", "x": 3, "y": 4, "width": -2, "height": 3}, "Received: width: -2"),
        ({"name": "ellipse", "cx": 3, "cy": 4, "rx": 1, "ry": float("nan")}, "Received: ry: nan"),
        (
            {"name": "rect", "x": 100, "y": 4, "width": 2, "height": 3},
            r"a pixel in the image of \(height, width\) \(40, 60\)",
        ),
        ((POLYGON, {"type": ""}), "one class in the attribute 'type'. Received: ''"),
        (
            (POLYGON, {"type": {"red": True, "blue": True}}),
            r"one class .* Received: \['red', 'blue'\]",
        ),
        ((POLYGON, {}), "one class in the attribute 'type'. Received: None"),
    ],
)
def test_via_region_problems(folder, caplog, region, text):
    """One region is left out with file, image and region in the message; the others stay."""
    region = region if isinstance(region, tuple) else (region, {"type": "red"})
    path = write(
        folder / "via.json", via([(POLYGON, {"type": {"red": True, "blue": False}}), region])
    )
    with caplog.at_level(logging.WARNING):
        found = annotations.read_via(path)
    assert len(found.problems) == 1 and len(caplog.records) == 1
    assert re.search(text, found.problems[0]), found.problems
    assert f"{path}: image 'a.jpg', region 1: expected " in found.problems[0]
    assert [r.name for r in found.images[0].regions] == ["red"]


def test_via_attributes(folder):
    """Which attribute is the class: the only one, the one that is named, or none: then all are one
    class."""
    both = {"type": "red", "quality": "good"}
    path = write(folder / "via.json", via([(POLYGON, both)]))
    with pytest.raises(
        AnnotationError, match=r"via.json: expected one region .*type \('red'\); quality \('good'\)"
    ):
        annotations.read_via(path)
    with pytest.raises(AnnotationError, match="Received: 'kind'"):
        annotations.read_via(path, attribute="kind")
    assert annotations.read_via(path, attribute="quality").classes == ["good"]
    assert annotations.read_via(path, label="balloon").classes == ["balloon"]
    assert annotations.read_via(write(path, via([POLYGON]))).classes == ["object"]
    assert annotations.read_via(write(path, via([(POLYGON, {"class": 7})]))).classes == ["7"]


def test_images_without_regions_or_files(folder, caplog):
    data = {**via([POLYGON]), **via([], name="b.png"), **via([POLYGON], name="c.jpg")}
    data["again"] = data["a.jpg123"]
    data["odd"] = {"filename": "a.jpg", "regions": 3}
    path = write(folder / "via.json", data)
    found = annotations.read_via(path)
    assert [image.name for image in found.images] == ["a.jpg"]
    assert len(found.problems) == 3
    for text in (
        "image 'again': expected one entry for each image. Received: a second one of 'a.jpg'",
        "image 'odd': expected an image with 'regions', a list or an object {...}. Received: 3",
        f"image 'c.jpg': expected its file. Received: no file {folder / 'c.jpg'}",
    ):
        assert any(text in problem for problem in found.problems), (text, found.problems)
    assert [image.name for image in annotations.read_via(path, keep_empty=True).images] == [
        "a.jpg",
        "b.png",
    ]
    (folder / "a.jpg").write_bytes(b"no image")
    with pytest.raises(
        AnnotationError, match="none that can be used; 1 without regions, 4 problems"
    ):
        annotations.read_via(path)


def test_rotated_photographs(folder):
    """A camera's rotation is applied to the size, as browsers and `load_image` apply it to the
    pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "a.jpg", exif=exif)
    dataset = AnnotatedDataset()
    dataset.load("via", annotations.read_via(write(folder / "via.json", via([POLYGON]))))
    dataset.prepare()
    assert dataset.load_image(0).shape[:2] == dataset.load_mask(0)[0].shape[:2] == (WIDTH, HEIGHT)


# ---- Files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "expected a json file. Received: Expecting"),
        ("[1, 2]", "expected a VIA 1.x or 2.x json .* Received: a list"),
        ('{"x": 1}', r"Received: an object with \['x'\]"),
        ("{}", r"Received: an object with \[\]"),
        (
            '{"project": {}, "file": {}, "metadata": {}}',
            "a project of VIA 3; export it as COCO's json",
        ),
        ('{"_via_img_metadata": 3}', "expected '_via_img_metadata' to be an object"),
        (
            '{"images": 1, "annotations": [], "categories": []}',
            "has no lists images, annotations, categories",
        ),
    ],
)
def test_files_that_are_no_annotations(folder, text, message):
    path = folder / "x.json"
    path.write_text(text)
    with pytest.raises(AnnotationError, match=message) as error:
        annotations.read(path)
    assert str(path) in str(error.value)


def test_wrong_reader_and_folders(folder):
    with pytest.raises(
        AnnotationError, match="expected .* LabelMe.* Received: a folder with 0 json files"
    ):
        annotations.read(folder)
    with pytest.raises(AnnotationError, match="No annotation file"):
        annotations.read(folder / "none.json")
    path = write(folder / "via.json", via([POLYGON]))
    with pytest.raises(AnnotationError, match="expected a coco json. Received: a via one"):
        annotations.read_coco(path)
    assert annotations.read(folder) == annotations.read_via(path)
    write(folder / "other.json", via([POLYGON]))
    with pytest.raises(
        AnnotationError, match="expected one VIA or COCO json.*Received: other.json, via.json"
    ):
        annotations.read(folder)


def test_images_elsewhere(folder, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("json") / "via.json", via([POLYGON]))
    with pytest.raises(AnnotationError, match="no file"):
        annotations.read(path)
    assert annotations.read(path, images=folder).images[0].path == str(folder / "a.jpg")


# ---- LabelMe -------------------------------------------------------------------------------------


def labelme(shapes, name="a.jpg", size=(HEIGHT, WIDTH)):
    return {
        "version": "5.4.1",
        "flags": {},
        "imagePath": name,
        "imageData": None,
        "imageHeight": size[0],
        "imageWidth": size[1],
        "shapes": [
            {"group_id": None, "shape_type": "polygon", "flags": {}, **shape} for shape in shapes
        ],
    }


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8) * 255).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_labelme_shapes(folder):
    """Points lie between pixels, so that a polygon and a rectangle with the same corners are the
    same pixels."""
    square = [[10, 5], [20, 5], [20, 15], [10, 15]]
    bits = np.eye(4, 6, dtype=bool)
    path = write(
        folder / "a.json",
        labelme(
            [
                {"label": "cat", "points": square},
                {"label": "cat", "shape_type": "rectangle", "points": [[20, 15], [10, 5]]},
                {"label": "dog", "shape_type": "circle", "points": [[30.5, 20.5], [30.5, 28.5]]},
                {
                    "label": "dog",
                    "shape_type": "mask",
                    "points": [[50, 30], [55, 33]],
                    "mask": png(bits),
                },
                {"label": "dog", "shape_type": "linestrip", "points": square},
            ]
        ),
    )
    found = annotations.read(path)
    assert not found.problems and found.classes == ["cat", "dog"]
    masks = found.images[0].masks()
    assert masks[..., 0].sum() == 100 and masks[5:15, 10:20, 0].all()
    np.testing.assert_array_equal(masks[..., 1], masks[..., 0])
    np.testing.assert_array_equal(masks[..., 4], masks[..., 0])
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    np.testing.assert_array_equal(masks[..., 2], (rows - 20) ** 2 + (columns - 30) ** 2 <= 64)
    assert masks[..., 3].sum() == 4 and masks[30:34, 50:56, 3].sum() == 4 and masks[33, 53, 3]


def test_labelme_groups_are_one_object(folder):
    """Two parts with one label and one group_id are one mask; another label or group is another
    object."""
    left, right = [[1, 1], [5, 1], [5, 5], [1, 5]], [[11, 1], [15, 1], [15, 5], [11, 5]]
    write(
        folder / "a.json",
        labelme(
            [
                {"label": "cat", "points": left, "group_id": 1},
                {"label": "dog", "points": left, "group_id": 1},
                {"label": "cat", "points": right, "group_id": 1},
                {"label": "cat", "points": right},
            ]
        ),
    )
    write(folder / "b.json", labelme([{"label": "cat", "points": left}], "b.png"))
    found = annotations.read_labelme(folder)
    assert [image.name for image in found.images] == ["a.jpg", "b.png"]
    masks = found.images[0].masks()
    assert [r.name for r in found.images[0].regions] == ["cat", "dog", "cat"]
    assert masks.sum(axis=(0, 1)).tolist() == [32, 16, 16]


@pytest.mark.parametrize(
    "shape, text",
    [
        (
            {"label": "x", "shape_type": "point", "points": [[1, 2]]},
            "which enclose pixels. Received: 'point'",
        ),
        ({"label": "x", "shape_type": "line", "points": [[1, 2], [3, 4]]}, "Received: 'line'"),
        (
            {"label": "x", "points": [[1, 2], [3, 4]]},
            "expected a polygon of at least 3 points. Received: 2",
        ),
        ({"label": "x", "points": [[1, 2], [3, 4], [5]]}, "list of points of two numbers"),
        ({"label": " ", "points": [[1, 2], [3, 4], [5, 9]]}, "expected a label. Received: ' '"),
        ({"points": [[1, 2], [3, 4], [5, 9]]}, "'label', a text. Received"),
        (
            {"label": "x", "shape_type": "rectangle", "points": [[1, 2]]},
            r"rectangle of 2 points .* Received: \[\[1, 2\]\]",
        ),
        ({"label": "x", "shape_type": "circle", "points": [[1, 2], [1, 2]]}, "a point of its rim"),
        (
            {"label": "x", "shape_type": "mask", "points": [[1, 2], [3, 4]], "mask": "no!"},
            "a PNG in base64. Received: 'no!'",
        ),
        (
            {"label": "x", "shape_type": "mask", "points": [[1, 2], [3, 4]]},
            "a PNG in base64. Received: None",
        ),
    ],
)
def test_labelme_problems(folder, shape, text):
    path = write(
        folder / "a.json", labelme([{"label": "ok", "points": [[1, 1], [9, 1], [9, 9]]}, shape])
    )
    found = annotations.read(path)
    assert len(found.problems) == 1 and re.search(text, found.problems[0]), found.problems
    assert f"{path}: file a.json, image 'a.jpg', region 1: " in found.problems[0]
    assert [r.name for r in found.images[0].regions] == ["ok"]


def test_labelme_of_another_size(folder):
    path = write(
        folder / "a.json",
        labelme([{"label": "x", "points": [[1, 1], [9, 1], [9, 9]]}], size=(80, 120)),
    )
    with pytest.raises(
        AnnotationError, match=r"annotated at .* \(80, 120\). Received: .*a.jpg of \(40, 60\)"
    ):
        annotations.read(path)


# ---- COCO ----------------------------------------------------------------------------------------


def coco(objects, **changes):
    return {
        "images": [
            {"id": 5, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH},
            {"id": 9, "file_name": "b.png", "height": HEIGHT, "width": WIDTH},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"id": i, "image_id": 5, "category_id": 18, "iscrowd": 0, **entry}
            for i, entry in enumerate(objects)
        ],
        **changes,
    }


SQUARE = [[10, 5, 20, 5, 20, 15, 10, 15]]


def test_coco(folder):
    """Polygons, both kinds of run lengths and crowds, against pycocotools' own reading of the
    file."""
    from pycocotools import mask as masks_api
    from pycocotools.coco import COCO

    bits = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    bits[3:9, 30:44] = 1
    packed = masks_api.encode(bits)
    packed["counts"] = packed["counts"].decode()
    column = bits.T.ravel()
    runs = np.diff(
        np.concatenate([[0], np.flatnonzero(np.diff(column)) + 1, [column.size]])
    ).tolist()
    path = write(
        folder / "instances.json",
        coco(
            [
                {"segmentation": SQUARE},
                {"segmentation": SQUARE + [[30.5, 30, 40, 30, 35, 38]], "category_id": 3},
                {"segmentation": packed},
                {"segmentation": {"counts": runs, "size": [HEIGHT, WIDTH]}, "iscrowd": 1},
            ]
        ),
    )
    found = annotations.read(path)
    assert not found.problems and found.classes == ["cat", "dog"]
    dataset = AnnotatedDataset()
    dataset.load("shop", found)
    dataset.prepare()
    masks, class_ids = dataset.load_mask(0)
    assert class_ids.tolist() == [2, 1, 2, -2] and class_ids.dtype == np.int32
    reference = COCO(str(path))
    for i in range(4):
        np.testing.assert_array_equal(
            masks[..., i], reference.annToMask(reference.anns[i]).astype(bool)
        )
    assert (
        masks[..., 2].sum() == masks[..., 3].sum() == 6 * 14 and (masks[..., 2] == (bits > 0)).all()
    )


def test_real_annotations():
    """Every mask of coco-mini, crowds included, is pycocotools' own."""
    from pycocotools.coco import COCO

    folder = oracle.shared("data/coco-mini")
    reference = COCO(str(folder / "annotations" / "instances_val2017.json"))
    found = annotations.read(
        folder / "annotations" / "instances_val2017.json", images=folder / "val2017"
    )
    assert (len(found.images), len(found.classes), found.problems) == (50, 80, [])
    count = 0
    for image in found.images:
        for region, mask in zip(image.regions, np.moveaxis(image.masks(), -1, 0)):
            entry = reference.anns[region.number]
            np.testing.assert_array_equal(mask, reference.annToMask(entry))
            assert (region.name, region.crowd) == (
                reference.cats[entry["category_id"]]["name"],
                bool(entry["iscrowd"]),
            )
            count += 1
    assert count == 353


@pytest.mark.parametrize(
    "change, text",
    [
        (
            {"segmentation": [[1, 2, 3]]},
            "less than 3 points or an odd count of numbers .* left out: 1",
        ),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "odd count"),
        ({"segmentation": []}, r"1 annotations have no segmentation .* left out: 1 \(image 5\)"),
        (
            {"segmentation": SQUARE, "category_id": 77},
            r"category that is not in the file .*: 1 \(category 77\)",
        ),
        (
            {"segmentation": SQUARE, "image_id": 6},
            r"image that is not in the file .*: 1 \(image 6\)",
        ),
        (
            {"segmentation": {"counts": [3], "size": [HEIGHT, WIDTH]}},
            "1 annotations have run lengths .*: 1 .image 5: .* add up to 40 x 60 .*: 3",
        ),
        (
            {"segmentation": {"counts": "abc", "size": [WIDTH, HEIGHT]}},
            "1 .image 5: .* size of their image, 40 x 60. Received: 60 x 40",
        ),
        (
            {"segmentation": [[90, 5, 99, 5, 99, 9]]},
            "image 'a.jpg', region 1: expected a region with a pixel",
        ),
    ],
)
def test_coco_problems(folder, caplog, change, text):
    """One warning names the file and the annotation; the others stay."""
    path = write(folder / "x.json", coco([{"segmentation": SQUARE}, change]))
    with caplog.at_level(logging.WARNING):
        found = annotations.read(path)
    assert len(caplog.messages) == 1 and re.search(text, caplog.messages[0]), caplog.messages
    assert str(path) in caplog.messages[0] and [
        region.number for region in found.images[0].regions
    ] == [0]


def test_coco_problems_of_the_file(folder):
    path = write(
        folder / "x.json", coco([], categories=[{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}])
    )
    with pytest.raises(
        AnnotationError, match="x.json: expected each category's name once. Received: 'cat' twice"
    ):
        annotations.read(path)
    with pytest.raises(AnnotationError, match="x.json: ids of images occur more than once: 5"):
        annotations.read(
            write(
                path,
                coco([], images=[{"id": 5, "file_name": "a.jpg", "height": 1, "width": 1}] * 2),
            )
        )


def test_coco_of_stored_pixels(folder):
    """A json that gives the size before a camera's rotation means the stored pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "a.jpg", exif=exif)
    dataset = AnnotatedDataset()
    dataset.load(
        "coco", annotations.read(write(folder / "x.json", coco([{"segmentation": SQUARE}])))
    )
    dataset.prepare()
    assert dataset.load_image(0).shape[:2] == dataset.load_mask(0)[0].shape[:2] == (HEIGHT, WIDTH)


# ---- Dataset -------------------------------------------------------------------------------------


def test_classes_and_split(folder):
    data = {**via([(POLYGON, {"type": "red"})]), **via([(POLYGON, {"type": "blue"})], name="b.png")}
    found = annotations.read(write(folder / "via.json", data))
    first, second = found.split(0.5)
    assert {image.name for image in first.images + second.images} == {"a.jpg", "b.png"} and len(
        first.images
    ) == 1
    assert (
        found.split(0.0)[1].images and found.split(1.0)[0].images and found.split(0.5)[1] == second
    )
    many = dataclasses.replace(
        found, images=[dataclasses.replace(found.images[0], name=str(i)) for i in range(400)]
    )
    held_out = [image.name for image in many.split(0.2)[1].images]
    fewer = dataclasses.replace(many, images=many.images[:200])
    assert 60 < len(held_out) < 100 and held_out != [
        image.name for image in many.split(0.2, seed=1)[1].images
    ]
    assert [image.name for image in fewer.split(0.2)[1].images] == [
        name for name in held_out if int(name) < 200
    ]
    assert first.classes == second.classes == ["blue", "red"]
    dataset = AnnotatedDataset()
    with pytest.raises(
        AnnotationError, match="the classes are red. Received: regions of the class 'blue'"
    ):
        dataset.load("via", found, classes=["red"])
    dataset.load("via", found, classes=["red", "blue"])
    dataset.prepare()
    assert dataset.class_names == ["BG", "red", "blue"]
    assert [dataset.load_mask(i)[1].tolist() for i in dataset.image_ids] == [[1], [2]]
    assert dataset.image_reference(1) == str(folder / "b.png")


def test_several_sources(folder):
    """The ids of a second source follow those of the first; images added by hand have no masks."""
    found = annotations.read(write(folder / "via.json", via([(POLYGON, {"type": "red"})])))
    dataset = AnnotatedDataset()
    dataset.load("first", found, ["red", "green"])
    dataset.load("second", found)
    dataset.add_image("second", "b", str(folder / "b.png"))
    dataset.prepare()
    assert [dataset.load_mask(i)[1].tolist() for i in dataset.image_ids] == [[1], [3], []]
