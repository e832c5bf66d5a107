"""Annotation files of VIA, LabelMe and COCO: every shape against hand-worked or peers' pixels,
every mistake named."""

import base64
import csv
import dataclasses
import io
import json
import logging
import math
import os
import pathlib
import random
import re
import shutil
import time

import numpy as np
import oracle
import pytest
import skimage.draw
from PIL import Image

from mrcnn import annotations, outlines
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


@pytest.mark.parametrize("grid", [None, 1, 0.5])
def test_polygons_of_many_points(monkeypatch, grid):
    """Row by row they are skimage's pixels exactly, corners and edges on pixels included."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(outlines, "MOST_STEPS", 0)
    for _ in range(12):
        points = rng.uniform(-15, 50, (rng.integers(3, 12), 2))
        if grid:
            points = np.rint(points / grid) * grid
            points[1, 1] = points[0, 1]
        for exact in (False, True):
            expected = np.zeros((30, 40), bool)
            x, y = (points - 0.5 * exact).T
            expected[skimage.draw.polygon(y, x, expected.shape)] = True
            mask = annotations.Polygons([points.tolist()], exact).mask(30, 40)
            np.testing.assert_array_equal(mask, expected, str(points))


def test_polygon_of_many_points_takes_no_time():
    """A traced outline: 5,000 points around 3 megapixels took skimage a minute."""
    angles = np.linspace(0, 2 * np.pi, 5000)
    outline = np.stack([1000 + 990 * np.cos(angles), 1000 + 990 * np.sin(angles)], axis=1)
    start = time.monotonic()
    area = annotations.Polygons([outline.tolist()]).mask(2000, 2000).sum()
    assert abs(area - math.pi * 990**2) < 4000 and time.monotonic() - start < 15


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
        ("[1, 2]", "expected annotations .* VIA's .* Received: a list$"),
        ('[{"x": 1}]', r"Received: a list of objects with \['x'\]$"),
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


@pytest.mark.parametrize(
    "data, end",
    [
        ({"x": 1, "annotations": 2, "y": 3}, None),
        (
            {"Images": [], "Annotations": []},
            "COCO's json has 'images', 'annotations', 'categories'",
        ),
        ([{"data": {}, "id": 3}], "Label Studio's json has 'data', 'annotations'"),
        ({"a.jpg1": {"filename": "a.jpg", "shapes": []}}, None),
        ({"categories": {}, "dataset": []}, "Datumaro's json has 'categories', 'items'"),
        ({str(i): i for i in range(1000)}, ""),
    ],
)
def test_an_unknown_json_is_refused_in_few_words(folder, data, end):
    """It was a list of 25 formats: where they are described, and what comes nearest."""
    path = folder / "x.json"
    path.write_text(json.dumps(data))
    with pytest.raises(AnnotationError) as error:
        annotations.read(path)
    text = str(error.value)
    assert len(text) - len(str(path)) < 330 and "docs/custom_dataset.md" in text
    key = str(list(data)[0])
    if isinstance(data, list):
        key = list(data[0])[0]
    assert repr(key) in text
    if end is None:  # two formats are as near
        assert text.count(" json has ") == 2
    elif end:
        assert text.endswith(f"; {end}")
    else:
        assert "json has" not in text


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


def subsets(root, kind):
    """A folder of subsets as an export has it, with an a.jpg in each; the paths of the images."""
    layouts = {
        "roboflow": [
            (f"{name}/_annotations.coco.json", f"{name}/a.jpg") for name in ("train", "valid")
        ],
        "cvat": [
            (f"annotations/instances_{name}.json", f"images/{name}/a.jpg")
            for name in ("Train", "Validation")
        ],
        "coco": [
            (f"annotations/{part}_{name}2017.json", f"{name}2017/a.jpg")
            for name in ("train", "val")
            for part in ("instances", "person_keypoints")
        ],
        "via": [(f"{name}/via_region_data.json", f"{name}/a.jpg") for name in ("train", "val")],
    }
    for number, (json_name, image_name) in enumerate(layouts[kind]):
        for name in (json_name, image_name):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (number, 0, 0)).save(root / image_name)
        if kind == "via":
            data = via([POLYGON] * (number + 1))
        else:
            data = coco([{"segmentation": SQUARE}] * (number // (1 + (kind == "coco")) + 1))
            del data["images"][1]
        write(root / json_name, data)
    return list(dict.fromkeys(image for _, image in layouts[kind]))


@pytest.mark.parametrize("kind", ["roboflow", "cvat", "coco", "via"])
def test_subsets_of_a_folder(tmp_path, kind):
    """They are read together, each with its own a.jpg; instances, not keypoints, of COCO's own."""
    names = subsets(tmp_path, kind)
    found = annotations.read(tmp_path)
    assert [image.name for image in found.images] == names and not found.problems
    assert [image.path for image in found.images] == [str(tmp_path / name) for name in names]
    assert [len(image.regions) for image in found.images] == [1, 2]
    dataset = AnnotatedDataset.of("all", found)
    assert [dataset.load_mask(image_id)[0].shape[-1] for image_id in (0, 1)] == [1, 2]


def test_instances_beside_other_kinds(tmp_path):
    """Datumaro's COCO: a folder with four jsons of one subset was refused."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images" / "default").mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "default" / "a.jpg")
    data = coco([{"segmentation": SQUARE}])
    del data["images"][1]
    for kind in ("instances", "image_info", "panoptic", "stuff", "person_keypoints"):
        write(tmp_path / "annotations" / f"{kind}_default.json", data)
    (image,) = annotations.read(tmp_path).images
    assert image.path == str(tmp_path / "images" / "default" / "a.jpg")
    write(tmp_path / "annotations" / "instances_other.json", data)
    with pytest.raises(AnnotationError, match="Received: .*instances_default.*, .*instances_other"):
        annotations.read(tmp_path)


def test_subsets_with_problems(tmp_path):
    """One without objects is a problem of the others; without a training set there is no whole."""
    subsets(tmp_path, "roboflow")
    path = write(tmp_path / "valid" / "_annotations.coco.json", coco([]))
    found = annotations.read(tmp_path)
    assert [image.name for image in found.images] == ["train/a.jpg"]
    assert len(found.problems) == 1 and found.problems[0].startswith(f"{path}: expected images")
    (tmp_path / "train").rename(tmp_path / "test")
    with pytest.raises(AnnotationError, match="one for each subset, with 'train'.*: test/_annot"):
        annotations.read(tmp_path)


@pytest.mark.parametrize(
    "data, text",
    [
        ([{"image_id": 1, "category_id": 1, "score": 0.5}], "COCO's results"),
        ({"classes": [], "tags": []}, "Supervisely's meta.json|a folder with 1 json files"),
        ({"imgHeight": 5, "imgWidth": 5, "objects": []}, "a json of Cityscapes"),
        ([{"image": "a.jpg", "annotations": []}], "a json of CreateML"),
    ],
)
def test_jsons_of_other_programs(folder, data, text):
    path = write(folder / "x.json", data)
    for place in (path, folder):
        with pytest.raises(AnnotationError, match=f"(?s)x.json: expected .* Received: {text}"):
            annotations.read(place)


def test_folders_of_xml(folder):
    (folder / "annotations.xml").write_text("<annotations/>")
    with pytest.raises(
        AnnotationError, match="1 XML files, none of them CVAT's or of an image .ann"
    ):
        annotations.read(folder)
    with pytest.raises(
        AnnotationError, match="annotations.xml: expected a json.* an XML file with <an"
    ):
        annotations.read(folder / "annotations.xml")


def test_images_elsewhere(folder, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("json") / "via.json", via([POLYGON]))
    with pytest.raises(AnnotationError, match="no file"):
        annotations.read(path)
    assert annotations.read(path, images=folder).images[0].path == str(folder / "a.jpg")


# ---- CVAT ----------------------------------------------------------------------------------------

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><name>t</name></task></meta>
<image id="0" name="sub/a.jpg" width="120" height="80">
  <tag label="day" source="manual"/>
  <polygon label="cat" occluded="1" points="10.00,5.00;20.00,5.00;20.00,15.00;10.00,15.00">
    <attribute name="kind">big</attribute></polygon>
  <box label="dog" xtl="30" ytl="10" xbr="40" ybr="20" rotation="90.0"/>
  <box label="dog" xtl="30.0" ytl="30.0" xbr="44.0" ybr="34.0"/>
  <ellipse label="dog" cx="70" cy="40" rx="10" ry="4" rotation="90"/>
  <mask label="owl" rle="1, 3, 2, 2" left="50" top="60" width="4" height="2"/>
  <polygon label="cat" group_id="3" points="1,1;5,1;5,5;1,5"/>
  <polygon label="cat" group_id="3" points="1,11;5,11;5,15;1,15"/>
  <points label="cat" points="1,1"/>
  <mask label="owl" rle="1, 3" left="50" top="60" width="4" height="2"/>
</image><image id="1" name="z.png" width="120" height="80"></image></annotations>
"""


def test_cvat_for_images(folder):
    """Every shape against pixels that were counted by hand; what has none is a problem."""
    (folder / "images" / "sub").mkdir(parents=True)
    Image.new("RGB", (120, 80)).save(folder / "images" / "sub" / "a.jpg")
    Image.new("RGB", (120, 80)).save(folder / "images" / "z.png")
    (folder / "annotations.xml").write_text(CVAT)
    found = annotations.read(folder, keep_empty=True)
    assert [image.name for image in found.images] == ["sub/a.jpg", "z.png"]
    assert found.classes == ["cat", "dog", "owl"]
    first = found.images[0]
    names = [region.name for region in first.regions]
    assert names == ["cat", "dog", "dog", "dog", "owl", "cat"]
    assert first.regions[0].extra == {"kind": "big", "occluded": True}
    truth = np.zeros((80, 120, 6), bool)
    truth[5:15, 10:20, 0] = truth[10:20, 30:40, 1] = truth[30:34, 30:44, 2] = True
    y, x = np.indices((80, 120)) + 0.5
    truth[..., 3] = ((x - 70) / 4) ** 2 + ((y - 40) / 10) ** 2 <= 1
    truth[60, 51:54, 4] = truth[61, 52:54, 4] = True
    truth[1:5, 1:5, 5] = truth[11:15, 1:5, 5] = True
    np.testing.assert_array_equal(first.masks(), truth)
    points, mask = found.problems
    assert "region 7: " in points and "Received: 'points'" in points
    assert "region 8: " in mask and "run lengths of 2 x 4 pixels. Received: '1, 3'" in mask
    text = "<annotations><track label='x'/></annotations>"
    (folder / "annotations.xml").write_text(text)
    for path in (folder, folder / "annotations.xml"):
        with pytest.raises(AnnotationError, match="images with regions. Received: none that can"):
            annotations.read(path)
    (folder / "annotations.xml").write_text("<annotation><object/></annotation>")
    with pytest.raises(AnnotationError, match="Pascal VOC or the old LabelMe, which `read` reads"):
        annotations.read_cvat(folder / "annotations.xml")


CVAT_VIDEO = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><size>3</size><start_frame>10</start_frame>
<stop_frame>20</stop_frame><frame_filter>step=5</frame_filter><original_size><width>120</width>
<height>80</height></original_size></task></meta>
<track id="0" label="cat" source="manual">
  <box frame="10" keyframe="1" outside="0" occluded="1" xtl="10" ytl="5" xbr="20" ybr="15">
    <attribute name="kind">big</attribute></box>
  <box frame="15" keyframe="0" outside="0" occluded="0" xtl="12" ytl="5" xbr="22" ybr="15"/>
  <box frame="20" keyframe="1" outside="1" occluded="0" xtl="12" ytl="5" xbr="22" ybr="15"/>
</track>
<track id="1" label="dog" group_id="3">
  <polygon frame="15" outside="0" points="30,30;44,30;44,34;30,34"/>
  <polygon frame="20" outside="1" points="30,30;44,30;44,34;30,34"/>
</track>
<track id="2" label="dog" group_id="3">
  <mask frame="15" outside="0" rle="1, 3, 2, 2" left="50" top="60" width="4" height="2"/>
</track></annotations>
"""


def test_cvat_for_videos(folder, caplog):
    """Frames are images; a track is in those where it is not outside, its group one object."""
    (folder / "images").mkdir()
    for number, suffix in ((10, "PNG"), (15, "jpg"), (20, "png")):
        Image.new("RGB", (120, 80)).save(folder / "images" / f"frame_{number:06d}.{suffix}")
    path = folder / "annotations.xml"
    path.write_text(CVAT_VIDEO)
    found = annotations.read(folder, keep_empty=True)
    assert [image.name for image in found.images] == [
        "frame_000010",
        "frame_000015",
        "frame_000020",
    ]
    assert [os.path.basename(image.path) for image in found.images][:2] == [
        "frame_000010.PNG",
        "frame_000015.jpg",
    ]
    first, second, third = found.images
    assert [region.name for region in second.regions] == ["cat", "dog"] and not third.regions
    assert first.regions[0].extra == {"kind": "big", "occluded": True} and not found.problems
    truth = np.zeros((80, 120, 3), bool)
    truth[5:15, 10:20, 0] = truth[5:15, 12:22, 1] = truth[30:34, 30:44, 2] = True
    truth[60, 51:54, 2] = truth[61, 52:54, 2] = True
    np.testing.assert_array_equal(first.masks(), truth[..., :1])
    np.testing.assert_array_equal(second.masks(), truth[..., 1:])
    assert len(annotations.read(path).images) == 2 and "some frames alone" not in caplog.text
    path.write_text(CVAT_VIDEO.replace("step=5", "").replace('frame="20"', 'frame="x"'))
    found = annotations.read(folder)
    assert "2 tracks" not in caplog.text and "1 tracks have shapes of some frames" in caplog.text
    assert len(found.problems) == 2 and "track 0: expected a frame's number" in found.problems[0]


def cvat_task(images, kind="image"):
    """A task of CVAT; images: {name: (labels of its boxes, attributes of the image)}."""
    parts = []
    for name, (labels, attributes) in images.items():
        boxes = "".join(f'<box label="{x}" xtl="3" ytl="2" xbr="9" ybr="8"/>' for x in labels)
        size = f'width="{WIDTH}" height="{HEIGHT}"'
        parts.append(f'<image name="{name}" {size} {attributes}>{boxes}</image>')
    text = "".join(parts)
    if kind == "track":
        box = '<box frame="0" outside="0" xtl="3" ytl="2" xbr="9" ybr="8"/>'
        text = f'<track id="0" label="cat">{box}</track>'
    return f"<annotations><version>1.1</version>{text}</annotations>"


def test_several_tasks_of_cvat(folder, tmp_path_factory):
    """In a folder, or each in its own: it was said that none of the files is CVAT's."""
    (folder / "one.xml").write_text(cvat_task({"a.jpg": (["cat"], "")}))
    (folder / "two.xml").write_text(cvat_task({"b.png": (["dog", "cat"], "")}))
    found = annotations.read(folder)
    assert found.classes == ["cat", "dog"] and not found.problems
    assert {image.name: len(image.regions) for image in found.images} == {"a.jpg": 1, "b.png": 2}
    tasks = tmp_path_factory.mktemp("tasks")
    for number, name in ((1, "one.xml"), (2, "two.xml")):
        (tasks / f"task {number}").mkdir()
        (folder / name).rename(tasks / f"task {number}" / "annotations.xml")
        Image.new("RGB", (WIDTH, HEIGHT)).save(tasks / f"task {number}" / "a.jpg")
        Image.new("RGB", (WIDTH, HEIGHT)).save(tasks / f"task {number}" / "b.png")
    names = [image.name for image in annotations.read(tasks).images]
    assert names == ["task 1/a.jpg", "task 2/b.png"]
    (tasks / "task 2" / "annotations.xml").unlink()
    assert [image.name for image in annotations.read(tasks).images] == ["a.jpg"]


def test_several_videos_of_cvat(tmp_path):
    """Their frames have the same names: those of one would be taken for those of the other."""
    for name in ("one.xml", "two.xml"):
        (tmp_path / name).write_text(cvat_task({}, "track"))
    (tmp_path / "images").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "frame_000000.png")
    with pytest.raises(AnnotationError, match="the xml of one video .*one.xml, .*two.xml"):
        annotations.read(tmp_path)
    assert len(annotations.read(tmp_path / "one.xml").images) == 1


def test_subsets_of_a_project_of_cvat(folder):
    """Images of one name in two subsets, which are folders: both were refused."""
    for subset in ("Train", "Validation"):
        (folder / "images" / subset).mkdir(parents=True)
        shutil.copy(folder / "a.jpg", folder / "images" / subset / "c.jpg")
    images = "".join(
        cvat_task({"c.jpg": (["cat"] * count, f'subset="{subset}"')})[32:-14]
        for subset, count in (("Train", 1), ("Validation", 2))
    )
    (folder / "annotations.xml").write_text(f"<annotations>{images}</annotations>")
    found = annotations.read(folder)
    assert [(image.name, len(image.regions)) for image in found.images] == [
        ("Train/c.jpg", 1),
        ("Validation/c.jpg", 2),
    ]
    assert len({image.path for image in found.images}) == 2 and not found.problems


# ---- XML of one image ----------------------------------------------------------------------------

LABELME_XML = """<annotation><filename>a.jpg</filename><folder>train</folder>
<imagesize><nrows>40</nrows><ncols>60</ncols></imagesize>
<object><name>cat</name><deleted>0</deleted><occluded>yes</occluded><id>0</id>
  <parts><hasparts>2</hasparts><ispartof/></parts><attributes>kind=big, old</attributes>
  <polygon><pt><x>10.00</x><y>5.00</y></pt><pt><x>20</x><y>5</y></pt><pt><x>20</x><y>15</y></pt>
  <pt><x>10</x><y>15</y></pt><username/></polygon></object>
<object><name>dog</name><deleted>1</deleted><id>1</id></object>
<object><name>cat</name><deleted>0</deleted><id>2</id>
  <parts><hasparts/><ispartof>0</ispartof></parts>
  <segm><mask>a_mask_2.png</mask><box><xmin>30</xmin><ymin>20</ymin><xmax>33</xmax><ymax>22</ymax>
  </box></segm></object>
<object><name>owl</name><deleted>0</deleted><id>3</id><attributes>is_crowd=True</attributes>
  <segm><mask>a_mask_3.png</mask><box><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>3</ymax></box>
  </segm></object>
<object><name>owl</name><deleted>0</deleted><id>4</id><segm><mask>gone.png</mask></segm></object>
<object><name>owl</name><deleted>0</deleted><id>5</id></object>
</annotation>"""


@pytest.mark.parametrize("masks", ("Masks/train", "Annotations/train/Masks", "Masks"))
def test_the_old_labelme(tmp_path, masks):
    """CVAT's "LabelMe 3.0", and Datumaro's: polygons, masks of the image or its box. It was
    refused; with Images/ and Masks/ the numbered masks alone would be read."""
    for place in ("Images/train", "Images/val", "Annotations/train", masks):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "Images" / "train" / "a.jpg")
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "Images" / "val" / "a.jpg")
    whole = np.zeros((HEIGHT, WIDTH), np.uint8)
    whole[20:22, 30:33] = 255
    Image.fromarray(whole).save(tmp_path / masks / "a_mask_2.png")
    Image.fromarray(whole[20:22, 30:33]).save(tmp_path / masks / "a_mask_3.png")
    path = tmp_path / "Annotations" / "train" / "a.xml"
    path.write_text(LABELME_XML)
    found = annotations.read(tmp_path)
    (image,) = found.images
    assert image.path == str(tmp_path / "Images" / "train" / "a.jpg")
    truth = np.zeros((HEIGHT, WIDTH, 2), bool)
    truth[5:15, 10:20, 0] = truth[20:22, 30:33, 0] = truth[1:3, 1:4, 1] = True
    np.testing.assert_array_equal(image.masks(), truth)
    assert [(region.name, region.crowd) for region in image.regions] == [
        ("cat", False),
        ("owl", True),
    ]
    assert image.regions[0].extra == {"occluded": True, "kind": "big", "old": True}
    first, second = found.problems
    assert "region 3: expected a mask's file. Received: no 'gone.png'" in first
    assert "region 4: expected a polygon, a mask or a box. Received: ['name'" in second
    assert len(annotations.read(path, images=tmp_path / "Images").images) == 1


def voc_xml(objects, name="a.jpg", size=(HEIGHT, WIDTH)):
    body = "".join(f"<object><name>cat</name>{item}</object>" for item in objects)
    sides = f"<size><width>{size[1]}</width><height>{size[0]}</height></size>"
    return f"<annotation><folder>VOC</folder><filename>{name}</filename>{sides}{body}</annotation>"


def test_xml_of_pascal_voc(folder, caplog):
    """Pixels count from 1. Polygons of supervision are pixels, too; Roboflow's lie between."""
    box = "<bndbox><xmin>11</xmin><ymin>6</ymin><xmax>20</xmax><ymax>15</ymax></bndbox>"
    corners = [(11, 6), (20, 6), (20, 15), (11, 15)]
    whole = "".join(f"<x{i}>{x}</x{i}><y{i}>{y}</y{i}>" for i, (x, y) in enumerate(corners, 1))
    between = re.sub(r"\d+<", lambda found: f"{int(found[0][:-1]) + 0.25}<", whole)
    objects = [box, f"{box}<polygon>{whole}</polygon>", f"{box}<polygon>{between}</polygon>"]
    (folder / "annotations").mkdir()
    (folder / "annotations" / "a.xml").write_text(voc_xml([*objects, "<part/>"]))
    (folder / "annotations" / "b.xml").write_text(voc_xml([box], "b.png", (5, 5)))
    (folder / "annotations" / "c.xml").write_text("<annotation><filename>")
    found = annotations.read(folder)
    (image,) = found.images
    masks = np.moveaxis(image.masks(), -1, 0)
    assert [(mask.sum(), mask[5:15, 10:20].sum()) for mask in masks] == [(100, 100)] * 2 + [
        (81, 81)
    ]
    assert "2 objects are boxes without an outline" in caplog.text
    region, broken, size = found.problems
    assert "c.xml: expected XML" in broken and "(40, 60)" in size and "region 3" in region
    path = folder / "annotations" / "a.xml"
    assert len(annotations.read(path, images=folder).images[0].regions) == 3


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
            {"label": "__ignore__", "points": [[1, 2], [3, 4], [5, 9]]},
            "an object's label. Received: '__ignore__', what is to be ignored",
        ),
        (
            {"label": "_background_", "points": [[1, 2], [3, 4], [5, 9]]},
            "Received: '_background_', the background in LabelMe",
        ),
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


@pytest.mark.parametrize("kind", ("labelme", "coco"))
def test_objects_that_are_there_twice_are_named(folder, caplog, kind):
    """They count twice; one of another class, or whose end alone differs, is another one."""
    longer = [*TRIANGLE, [2, 2]]
    shapes = [("cat", TRIANGLE), ("cat", longer), ("dog", TRIANGLE), ("cat", TRIANGLE)]
    path = folder / "a.json"
    if kind == "labelme":
        write(path, labelme([{"label": name, "points": points} for name, points in shapes]))
    else:
        rows = []
        for number, (name, points) in enumerate(shapes):
            flat = [value for point in points for value in point]
            row = {"image_id": 1, "category_id": len(name + str(name == "dog"))}
            rows.append({**row, "id": number, "segmentation": [flat]})
        numbers = {"cat": len("catFalse"), "dog": len("dogTrue")}
        data = {
            "images": [{"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}],
            "annotations": rows,
            "categories": [{"id": number, "name": name} for name, number in numbers.items()],
        }
        write(path, data)
    assert len(annotations.read(path).images[0].regions) == 4
    assert re.search("1 (objects|annotations) are .*count twice", caplog.text), caplog.text
    assert caplog.text.count("count twice") == 1


def test_images_that_are_there_twice_are_named(folder, caplog):
    """a.jpg and a.png with one label file: one may be trained on and the other validated on."""
    for name in ("a.png", "c.png", "c.jpg"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / name)
    images = [{"id": i, "file_name": name} for i, name in enumerate(("a.jpg", "a.png", "c.png"))]
    items = [
        {"id": i, "image_id": i, "category_id": 1, "iscrowd": 0, "segmentation": SQUARE}
        for i in range(3)
    ]
    images.append({"id": 3, "file_name": "c.jpg"})
    items.append({**items[0], "id": 3, "image_id": 3, "segmentation": [[1, 1, 9, 1, 9, 9]]})
    data = {"images": images, "annotations": items, "categories": [{"id": 1, "name": "cat"}]}
    assert len(annotations.read(write(folder / "labels.json", data)).images) == 4
    (message,) = [text for text in caplog.messages if "there twice" in text]
    assert "1 images are there twice" in message and message.endswith("a.jpg and a.png")


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


@pytest.mark.long
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
    assert len(found.problems) == 1 and str(path) in found.problems[0]
    assert len(caplog.messages) == 1 and re.search(text, caplog.messages[0]), caplog.messages
    assert str(path) in caplog.messages[0] and [
        region.number for region in found.images[0].regions
    ] == [0]


@pytest.mark.parametrize("name", ("_background_", "Background", "BG"))
def test_a_background_without_annotations_is_no_class(folder, caplog, name):
    """labelme2coco writes _background_ as category 0; it was the first class, without an object."""
    categories = [{"id": 0, "name": name}, {"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    item = {"segmentation": SQUARE, "category_id": 1}
    path = write(folder / "x.json", coco([item], categories=categories))
    annotated = annotations.read(path)
    assert annotated.classes == ["cat", "dog"]
    assert [category["id"] for category in annotated.categories] == [1, 2]
    (line,) = caplog.messages
    assert f"the category 0 ({name}) has no annotations and is left out" in line


@pytest.mark.parametrize("name", ("background", "BG"))
def test_a_background_with_objects_is_a_class_and_said(folder, caplog, name):
    categories = [{"id": 1, "name": name}, {"id": 2, "name": "dog"}]
    item = {"segmentation": SQUARE, "category_id": 1}
    path = write(folder / "x.json", coco([item], categories=categories))
    annotated = annotations.read(path)
    assert annotated.classes == [name, "dog"]
    assert f"1 objects are of the class {name!r}, which is trained as any other" in caplog.text
    dataset = annotations.AnnotatedDataset.of("x", annotated)
    assert dataset.class_names == ["BG", name, "dog"]
    assert dataset.load_mask(0)[1].tolist() == [1]


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
                coco([], images=[{"id": 5, "file_name": name} for name in ("a.jpg", "b.png")]),
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


# ---- What people's files are like ----------------------------------------------------------------

RECTANGLE = {"name": "rect", "x": 30, "y": 20, "width": 5, "height": 4}
TRIANGLE = [[1, 1], [9, 1], [9, 9]]


def names_of(found):
    return [image.name for image in found.images]


def regions_of(image):
    """[(class, pixels)] of an image."""
    masks = image.masks()
    return [(region.name, int(masks[..., i].sum())) for i, region in enumerate(image.regions)]


def test_copied_labelme_jsons(folder, caplog):
    """Both name a.jpg; the copy is that of the image of its own name, which was lost."""
    triangle = {"label": "cat", "points": [[5, 5], [25, 5], [25, 25]]}
    square = {"label": "cat", "points": [[5, 5], [15, 5], [15, 15], [5, 15]]}
    write(folder / "a.json", labelme([triangle]))
    write(folder / "b.json", labelme([square]))
    (folder / "b.png").rename(folder / "b.jpg")
    found = annotations.read(folder)
    assert [image.name for image in found.images] == ["a.jpg", "b.jpg"]
    assert regions_of(found.images[1]) == [("cat", 100)]
    assert "1 json files name an image that another one names too" in caplog.text
    (folder / "b.jpg").unlink()  # several jsons of one image are joined, as before
    (image,) = annotations.read(folder).images
    assert len(image.regions) == 2


@pytest.mark.parametrize("kind", ["via", "labelme", "coco"])
@pytest.mark.parametrize(
    "name",
    [r"D:\work\a.jpg", r"..\images\a.jpg", "https://h/x/a.jpg?t=1", "1a2b3c4d-a.jpg", "A.JPG"],
)
def test_images_under_other_names(folder, caplog, kind, name):
    """The image is found, its name stays as it is annotated, one warning says so."""
    shapes = {
        "via": lambda name: via([POLYGON], name=name),
        "labelme": lambda name: labelme([{"label": "cat", "points": TRIANGLE}], name),
        "coco": lambda name: coco(
            [{"segmentation": SQUARE}],
            images=[{"id": 5, "file_name": name, "height": HEIGHT, "width": WIDTH}],
        ),
    }
    path = write(folder / "x.json", shapes[kind](name))
    found = annotations.read(path)
    assert names_of(found) == [name] and found.images[0].path == str(folder / "a.jpg")
    assert not found.problems
    assert [f"{name!r} is {folder / 'a.jpg'}" in text for text in caplog.messages] == [True]
    with pytest.raises(AnnotationError, match="none that can be used.*\n.*expected its file"):
        annotations.read(write(path, shapes[kind]("other.jpg")))


def test_ambiguous_and_many_other_names(folder, caplog):
    """One warning for all; two candidates, and two names of one file, are named and left out."""
    (folder / "sub").mkdir()
    for name in ("sub/a.jpg", "sub/c.jpg"):
        shutil.copy(folder / "a.jpg", folder / name)
    for number in range(20):
        shutil.copy(folder / "a.jpg", folder / f"{number}.jpg")
    data = {}
    for name in (r"D:\a.jpg", r"D:\c.jpg", r"E:\c.jpg", *(f"{i}.JPG" for i in range(20))):
        data.update(via([POLYGON], name=name))
    found = annotations.read(write(folder / "x.json", data))
    assert names_of(found) == [f"{i}.JPG" for i in range(20)] and len(caplog.messages) == 2
    assert "20 images are not there" in caplog.messages[0] and "15 more" in caplog.messages[0]
    assert "3 files, images or regions are left out" in caplog.messages[1]
    assert f"2, {folder / 'a.jpg'}, {folder / 'sub/a.jpg'}" in found.problems[0]
    assert r"also that of 'E:\\c.jpg'" in found.problems[1] and len(found.problems) == 3


@pytest.mark.parametrize("place", ["images/", "images", "http://h/images/", r"D:\x\images"])
def test_via_default_filepath(folder, place):
    (folder / "images").mkdir()
    (folder / "old").mkdir()
    shutil.copy(folder / "a.jpg", folder / "old")
    os.rename(folder / "a.jpg", folder / "images" / "a.jpg")
    settings = {"core": {"default_filepath": place, "filepath": {"": 1}}}
    data = {"_via_settings": settings, "_via_img_metadata": via([POLYGON])}
    found = annotations.read(write(folder / "via.json", data))
    assert found.images[0].path == str(folder / "images" / "a.jpg") and names_of(found) == ["a.jpg"]


def test_labelme_of_renamed_files(folder, caplog):
    """The image beside the json of its name, when the name in it is an older one."""
    write(folder / "a.json", labelme([{"label": "cat", "points": TRIANGLE}], "IMG_0001.jpg"))
    found = annotations.read(folder)
    assert found.images[0].path == str(folder / "a.jpg") and "IMG_0001.jpg" in caplog.text
    write(folder / "b.json", labelme([{"label": "dog", "points": TRIANGLE}], "a.jpg"))
    found = annotations.read(folder)  # now a.jpg is another's
    assert [region.name for region in found.images[0].regions] == ["dog"]
    assert "image 'IMG_0001.jpg': expected its file" in found.problems[0]


DAMAGED = {
    "cut.json": b'{"shapes": [{"label"',
    "empty.json": b"",
    "gb.json": '{"shapes": [], "imagePath": "\u732b\u72d7.jpg"}'.encode("gb2312"),
    "._a.json": b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ",
    "classes.json": b'["cat"]',
    "null.json": b"null",
}


def test_folder_with_damaged_files(folder, caplog):
    """The good files are used, the others named in one warning; pipes and folders are no json."""
    for name, content in DAMAGED.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe.json")
    (folder / "folder.json").mkdir()
    with pytest.raises(AnnotationError, match="a folder with 6 json files, none of these") as error:
        annotations.read(folder)
    assert "._a.json: expected a json file" in str(error.value)
    write(folder / "a.json", labelme([{"label": "cat", "points": TRIANGLE}]))
    write(folder / "B.JSON", labelme([{"label": "cat", "points": TRIANGLE}], "b.png"))
    caplog.clear()
    found = annotations.read(folder)
    assert sorted(names_of(found)) == ["a.jpg", "b.png"] and found.classes == ["cat"]
    assert [text.split(": ")[1] for text in found.problems] == [
        f"file {n}" for n in sorted(DAMAGED)
    ]
    assert len(caplog.messages) == 1 and "6 files, images or regions" in caplog.messages[0]
    assert "6 images or regions left out" in found.summary()


def test_whole_file_beside_others(folder, caplog):
    """Of a folder with VIA's json, what is damaged or LabelMe's is named."""
    write(folder / "via.json", via([POLYGON]))
    write(folder / "config.json", {"x": 1})
    assert annotations.read(folder) == annotations.read_via(folder) and not caplog.messages
    (folder / "cut.json").write_bytes(DAMAGED["cut.json"])
    write(folder / "a.json", labelme([{"label": "cat", "points": TRIANGLE}]))
    assert names_of(annotations.read(folder)) == ["a.jpg"]
    assert "only via.json is read. Beside it are 2" in caplog.messages[0]
    assert annotations.read_labelme(folder).classes == ["cat"]


@pytest.mark.parametrize(
    "empty",
    [
        {"_via_settings": {}, "_via_img_metadata": {}, "_via_attributes": {}},
        {"images": [], "annotations": [], "categories": []},
        {"project": {}, "file": {}, "view": {}, "metadata": {}, "attribute": {}},
    ],
)
def test_empty_project_beside_others(folder, empty):
    """A project that was saved before any image was added doesn't stand for the folder."""
    write(folder / "project.json", empty)
    with pytest.raises(AnnotationError, match=r"project.json: expected images.* json without any"):
        annotations.read(folder)
    write(folder / "a.json", labelme([{"label": "cat", "points": TRIANGLE}]))
    found = annotations.read(folder)
    assert found.classes == ["cat"] and "file project.json: expected" in found.problems[0]
    os.remove(folder / "a.json")
    path = write(folder / "via.json", via([POLYGON]))
    assert annotations.read(folder) == annotations.read_via(path)


@pytest.mark.parametrize("given", [False, True])
def test_json_in_sub_folders(folder, given):
    """Files of one name in several folders are several images."""
    for part in ("train", "val"):
        (folder / "images" / part).mkdir(parents=True)
        (folder / "labels" / part).mkdir(parents=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "images" / part / "a.jpg")
        shape = {"label": part, "points": TRIANGLE}
        write(folder / "labels" / part / "a.json", labelme([shape]))
    images = None
    if given:
        images = folder / "images"
    os.remove(folder / "a.jpg")
    found = annotations.read(folder, images=images)
    assert [image.path for image in found.images] == [
        str(folder / "images" / part / "a.jpg") for part in ("train", "val")
    ]
    assert [image.regions[0].name for image in found.images] == ["train", "val"]
    assert len(set(names_of(found))) == 2


def test_labelme_in_a_folder_and_below(folder, caplog):
    """LabelMe opens a folder with all below it: what lay there was passed over, without a word.
    val/ is a set of its own; copies are no images of their own."""
    (folder / "sub" / "more").mkdir(parents=True)
    (folder / "val").mkdir()
    for place in ("", "sub/", "sub/more/", "val/"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / place / "a.jpg")
        shape = {"label": f"in {place}", "points": TRIANGLE}
        write(folder / place / "a.json", labelme([shape]))
    shutil.copy(folder / "a.json", folder / "sub" / "copy.json")
    write(folder / "sub" / "package.json", {"name": "x"})
    found = annotations.read(folder)
    assert found.classes == ["in", "in sub/", "in sub/more/"] and not found.problems
    assert len({image.path for image in found.images}) == 3
    assert "folders of subsets are not read with the others: val/a.json" in caplog.text
    assert "1 json files in sub-folders are copies" in caplog.text
    assert annotations.read(folder / "val").classes == ["in val/"]


# ---- Supervisely ---------------------------------------------------------------------------------

# Written by the SDK of Supervisely: 3 x 3 pixels without the middle; 3 x 4 with 3.
SLY_RING = (
    "eJzrDPBz5+WS4mJgYOD19HAJAtLMIMwIInOeqf8BUmwBPiGuQPr///9Lb86/C2QxlgT5BTM4PLuRBuTwebo4hlTMSa"
    "44sKHhISMDuxpTYrr03F6gDIOnq5/LOqeEJgDM5ht6"
)
SLY_THREE = (
    "eJzrDPBz5+WS4mJgYOD19HAJAtIsQMzMyAwk+6xsWoEUW4BPiCuQ/v///9Kb8+8CWYwlQX7BDA7PbqQBOXyeLo4hFXOS"
    "PRISEgSAct8YCv+fcLoFlGHwdPVzWeeU0AQAgc0azA=="
)


def supervisely(folder, objects, name="a.jpg", data_set="ds 1"):
    """A project of one data set and image, with two classes in its meta.json."""
    for place in ("ann", "img"):
        (folder / data_set / place).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / data_set / "img" / name)
    size = {"height": HEIGHT, "width": WIDTH}
    data = {"description": "", "tags": [], "size": size, "objects": objects}
    write(folder / data_set / "ann" / f"{name}.json", data)
    classes = [{"title": "rat", "shape": "any"}, {"title": "cat", "shape": "any"}]
    write(folder / "meta.json", {"classes": classes, "tags": []})
    return folder


def figure(kind, exterior=None, interior=(), name="cat", **more):
    return {
        "classTitle": name,
        "geometryType": kind,
        "points": {"exterior": exterior, "interior": list(interior)},
        "tags": [],
        **more,
    }


def bitmap(data, origin=(50, 30), **more):
    return {**figure("bitmap", **more), "bitmap": {"data": data, "origin": list(origin)}}


def test_supervisely(tmp_path):
    """Pixels are those that its SDK draws; it was refused."""
    square = [[3, 2], [12, 2], [12, 10], [3, 10]]
    hole = [[5, 4], [8, 4], [8, 6], [5, 6]]
    objects = [
        figure("polygon", square, [hole]),
        figure("polygon", [[20, 20], [30, 35], [10, 28]], name="rat", tags=[{"name": "old"}]),
        bitmap(SLY_RING),
        bitmap(SLY_THREE, (58, 39)),  # partly outside
        figure("rectangle", [[40, 5], [44, 5]]),
        figure("polygon", [[1, 30], [2, 30], [2, 31]], instance="x", name="rat"),
        bitmap(SLY_RING, (5, 35), instance="x", name="rat"),
        figure("line", [[1, 1], [5, 5]]),
    ]
    annotated = annotations.read(supervisely(tmp_path, objects))
    (image,) = annotated.images
    assert annotated.classes == ["rat", "cat"]
    assert image.path == str(tmp_path / "ds 1" / "img" / "a.jpg")
    masks = np.moveaxis(image.masks(), -1, 0)
    assert [region.name for region in image.regions] == "cat rat cat cat cat rat".split()
    assert image.regions[1].extra == {"old": True}
    assert masks.sum(axis=(1, 2)).tolist() == [78, 138, 8, 1, 5, 3 + 8]
    assert masks[0, 2:11, 3:13].sum() == 78 and not masks[0, 4:7, 5:9].any()
    rows = [1, 3, 5, 7, 9, 10, 13, 15, 16, 15, 13, 10, 8, 7, 4, 2]
    assert masks[1].sum(axis=1)[20:36].tolist() == rows
    assert masks[2, 30:33, 50:53].sum() == 8 and not masks[2, 31, 51]
    assert masks[3, 39, 59]
    assert masks[4, 5, 40:45].all()
    (problem,) = annotated.problems
    assert "region 7: expected a polygon, bitmap or rectangle" in problem and "'line'" in problem
    for place in ("ds 1", "ds 1/ann", "ds 1/ann/a.jpg.json"):
        (alone,) = annotations.read(tmp_path / place).images
        np.testing.assert_array_equal(alone.masks(), image.masks())


def test_supervisely_of_several_data_sets(tmp_path):
    """Images of one name, and data sets within others."""
    square = [figure("polygon", [[3, 2], [12, 2], [12, 10], [3, 10]])]
    places = ["ds 1", "ds 2", "ds 1/datasets/inner"]
    for i, place in enumerate(places):
        supervisely(tmp_path, square * (i + 1), data_set=place)
    annotated = annotations.read(tmp_path)
    counts = {
        os.path.relpath(image.path, tmp_path): len(image.regions) for image in annotated.images
    }
    assert counts == {f"{place}/img/a.jpg": i for i, place in enumerate(places, 1)}


@pytest.mark.parametrize(
    "item, text",
    [
        (figure("polygon", [[1, 1], [5, 5]]), "a polygon of at least 3 points. Received: 2"),
        (figure("rectangle", [[1, 1]]), "a rectangle of 2 points"),
        (figure(None), "a polygon, bitmap or rectangle"),
        (bitmap("@"), "expected a bitmap's data"),
        (bitmap("QUJD"), "a mask as a PNG in base64"),
        (bitmap(SLY_RING, (1,)), "a bitmap's origin, .x, y.. Received: .1."),
        (bitmap(SLY_RING, (99, 99)), "expected a region with a pixel"),
        ({"classTitle": ""}, "expected an object with a classTitle"),
        ([], "expected an object with a classTitle"),
        (figure("polygon", [[1, 1], [5, 5], [1, 5]], [3], tags=7), "a hole as a list of points"),
    ],
)
def test_supervisely_problems(tmp_path, item, text):
    good = figure("rectangle", [[1, 1], [5, 5]])
    (problem,) = annotations.read(supervisely(tmp_path, [good, item])).problems
    assert re.search(f"a.jpg.*region 1: .*{text}", problem)


# ---- V7 ------------------------------------------------------------------------------------------


def v7(items, name="a.jpg", **more):
    slots = [{"type": "image", "slot_name": "0", "width": WIDTH, "height": HEIGHT}]
    return {
        "version": "2.0",
        "schema_ref": "https://darwin-public.s3.eu-west-1.amazonaws.com/darwin_json/2.0/schema.json",
        "item": {"name": name, "path": "/", "slots": slots, **more},
        "annotations": [{"name": "cat", "id": str(i), **item} for i, item in enumerate(items)],
    }


def paths(*boxes):
    return [[{"x": x, "y": y} for x, y in ring_of(*box)[:4]] for box in boxes]


def test_v7(folder):
    """A hole and another part are told by paths alone; masks lie in a layer. It was refused."""
    layer = {
        "dense_rle": [0, 30 * WIDTH + 50, 1, 3, 0, WIDTH - 3, 2, 2, 0, 9 * WIDTH - 52],
        "mask_annotation_ids_mapping": {"2": 1, "3": 2},
        "total_pixels": HEIGHT * WIDTH,
    }
    box = {"bounding_box": {"x": 1, "y": 2, "w": 4, "h": 3}}
    items = [
        {"polygon": {"paths": paths((10, 5, 20, 15), (12, 7, 15, 9), (30, 5, 34, 7))}, **box},
        {"tag": {}},
        {"mask": {"sparse_rle": None}, **box},
        {"mask": {"sparse_rle": None}},
        {"name": "__raster_layer__", "raster_layer": layer},
        box,
        {"ellipse": {"center": {"x": 40, "y": 30}, "radius": {"x": 5, "y": 2}, "angle": 0.0}},
        {"keypoint": {"x": 1, "y": 1}},
        {"mask": {}},
    ]
    (folder / "sub").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "sub" / "c.jpg")
    write(folder / "a.json", v7(items))
    write(folder / "c.json", v7([box], "c.jpg", path="/sub"))
    found = annotations.read(folder)
    first, second = found.images
    assert second.path == str(folder / "sub" / "c.jpg") and len(second.regions) == 1
    truth = np.zeros((HEIGHT, WIDTH, 4), bool)
    truth[5:15, 10:20, 0] = truth[5:7, 30:34, 0] = truth[30, 50:53, 1] = truth[31, 50:52, 2] = True
    truth[7:9, 12:15, 0] = False
    truth[2:5, 1:5, 3] = True
    masks = first.masks()
    np.testing.assert_array_equal(masks[..., :4], truth)
    assert masks.shape[-1] == 5 and abs(masks[..., 4].sum() - np.pi * 10) < 3
    point, mask = found.problems
    assert "expected a polygon, mask, ellipse" in point and "['keypoint']" in point
    assert "expected a raster_layer with the mask. Received: none" in mask


@pytest.mark.parametrize(
    "data, text",
    [
        (v7([{"polygon": {"paths": [[{"x": 1}]]}}]), "region 0: expected a path as a list of poin"),
        (v7([], slots=[1, 2]), "expected an item of one slot. Received: .1, 2."),
        (v7([{"raster_layer": {"dense_rle": [1, 5]}}]), "expected a raster_layer with dense_rle"),
        (v7([{"raster_layer": {"dense_rle": [1]}}]), "expected a raster_layer with dense_rle"),
        (
            v7(
                [
                    {
                        "raster_layer": {
                            "dense_rle": [0, HEIGHT * WIDTH],
                            "mask_annotation_ids_mapping": {"1": [1, 2]},
                        }
                    }
                ]
            ),
            "expected a raster_layer with dense_rle",
        ),
        (v7([{"ellipse": {"center": 1}}]), "expected an ellipse with 'center'"),
    ],
)
def test_v7_problems(folder, data, text):
    write(folder / "a.json", data)
    write(folder / "b.json", v7([{"polygon": {"paths": paths((1, 1, 5, 5))}}], "b.png"))
    (problem,) = annotations.read(folder).problems
    assert re.search(f"file a.json.*{text}", problem)


# ---- QuPath --------------------------------------------------------------------------------------


def feature(coordinates, kind="Polygon", label="Tumor", **properties):
    """A feature as QuPath 0.5 exports it."""
    properties = {"objectType": "annotation", **properties}
    if label is not None:
        properties["classification"] = {"name": label, "color": [200, 0, 0]}
    geometry = {"type": kind, "coordinates": coordinates}
    return {"type": "Feature", "id": "1a", "geometry": geometry, "properties": properties}


def ring_of(x1, y1, x2, y2):
    return [[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]


@pytest.mark.parametrize("form", ("collection", "list"))
@pytest.mark.parametrize("name", ("a.geojson", "a.jpg.geojson", "a.json"))
def test_qupath(folder, form, name):
    """A hole, two parts, half pixels; points and features without a class are named."""
    holed = [ring_of(10, 5, 20, 15), ring_of(12, 7, 15, 9)]
    parts = [[ring_of(30, 5, 34, 7)], [ring_of(40.4, 5.4, 42.6, 7.6), ring_of(41, 6, 42, 7)]]
    features = [
        feature(holed),
        feature(parts, "MultiPolygon", "Stroma", name="left"),
        feature([1, 1], "Point"),
        feature(holed, label=None),
        feature([]),
    ]
    data = features
    if form == "collection":
        data = {"type": "FeatureCollection", "features": features}
    write(folder / name, data)
    write(
        folder / "world.geojson",
        {"type": "FeatureCollection", "features": [], "crs": {"type": "name"}},
    )
    found = annotations.read(folder)
    (image,) = found.images
    truth = np.zeros((HEIGHT, WIDTH, 2), bool)
    truth[5:15, 10:20, 0] = truth[5:7, 30:34, 1] = truth[5:8, 40:43, 1] = True
    truth[7:9, 12:15, 0] = truth[6, 41, 1] = False
    np.testing.assert_array_equal(image.masks(), truth)
    assert found.classes == ["Stroma", "Tumor"] and image.regions[1].extra == {"name": "left"}
    point, without, empty = found.problems
    assert "region 2: expected a Polygon or MultiPolygon" in point and "'Point'" in point
    assert "region 3: expected an object with a classification" in without
    assert "region 4: expected lists of rings" in empty


def test_qupath_without_classes(folder):
    write(folder / "a.geojson", [feature([ring_of(10, 5, 20, 15)], label=None)])
    assert annotations.read(folder).classes == ["object"]
    world = {
        "type": "FeatureCollection",
        "features": [feature([ring_of(1, 1, 2, 2)])],
        "crs": {"type": "name"},
    }
    path = write(folder / "b.json", world)
    with pytest.raises(AnnotationError, match="GeoJSON whose places are none of an image"):
        annotations.read(path)


def test_via_in_a_sub_folder(folder):
    (folder / "train").mkdir()
    os.rename(folder / "a.jpg", folder / "train" / "a.jpg")
    path = write(folder / "train" / "via_export_json.json", via([POLYGON]))
    for images in (None, folder):
        assert annotations.read(folder, images) == annotations.read_via(path)
    write(folder / "via.json", via([POLYGON], name="b.png"))
    assert names_of(annotations.read(folder)) == ["b.png"]
    os.remove(folder / "via.json")
    shutil.copytree(folder / "train", folder / "val")
    assert names_of(annotations.read(folder)) == ["train/a.jpg", "val/a.jpg"]
    (folder / "val").rename(folder / "more")
    with pytest.raises(AnnotationError, match="more/via_export_json.json, train/via_export_json"):
        annotations.read(folder)


def picture(size=(WIDTH, HEIGHT), orientation=1):
    """(pixels, base64) of a PNG of noise."""
    pixels = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    return pixels, base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize("kind", ["labelme", "via 1", "via 3"])
def test_images_in_the_json(folder, kind):
    """An image that is no file comes from the json, several of one json too."""
    pixels, text = picture()
    shape = {"label": "object", "points": TRIANGLE}
    if kind == "labelme":
        for name in ("x", "y"):
            data = {**labelme([shape], f"{name}.jpg"), "imageData": text}
            write(folder / f"{name}.json", data)
        found = annotations.read(folder)
    elif kind == "via 1":
        data = {**via([POLYGON], 1, "x.jpg"), **via([POLYGON], 1, "y.jpg")}
        for entry in data.values():
            entry["base64_img_data"] = "data:image/png;base64," + text
        found = annotations.read(write(folder / "via.json", data))
    else:
        data = via3(
            {"1_a": {"vid": "1", "xy": [2, 1, 2, 3, 4]}, "b": {"vid": "2", "xy": [3, 9, 9, 4]}}
        )
        for file in data["file"].values():
            file.update(fname="none", loc=4, src="data:image/png;base64," + text)
        found = annotations.read(write(folder / "via.json", data))
    assert len(found.images) == 2 and not found.problems
    assert all(image.path.endswith(".json") for image in found.images)
    dataset = AnnotatedDataset.of("x", found)
    for image_id in dataset.image_ids:
        np.testing.assert_array_equal(dataset.load_image(image_id), pixels)
        assert dataset.load_mask(image_id)[0].shape == (HEIGHT, WIDTH, 1)
    for content in ("{}", '{"_via_img_metadata": 3}', None):  # it has changed meanwhile, or is gone
        write(pathlib.Path(found.images[0].path), json.loads(content or "3"))
        if content is None:
            os.remove(found.images[0].path)
        with pytest.raises(ValueError, match="Image 0 can't be read from .*json"):
            dataset.load_image(0)


def test_labelme_image_data_against_the_file(folder):
    """The file counts, unless it has another size than was annotated; damaged data are named."""
    pixels, text = picture()
    data = {**labelme([{"label": "x", "points": TRIANGLE}]), "imageData": text}
    path = write(folder / "a.json", data)
    assert annotations.read(path).images[0].path == str(folder / "a.jpg")
    Image.new("RGB", (2 * WIDTH, HEIGHT)).save(folder / "a.jpg")
    found = annotations.read(path)
    np.testing.assert_array_equal(AnnotatedDataset.of("x", found).load_image(0), pixels)
    for damaged in (text[:20], "?", 3, ["x"], text[1:], picture((9, 9))[1]):
        write(path, {**data, "imageData": damaged})
        with pytest.raises(AnnotationError, match="image in the json: "):
            annotations.read(path)


def test_image_in_the_json_that_was_damaged_since(folder):
    """The json is named, not the file that the image was unpacked to for a moment."""
    text = picture()[1]
    data = labelme([{"label": "x", "points": TRIANGLE}], "x.jpg")
    path = write(folder / "x.json", {**data, "imageData": text})
    embedded = annotations.read(path).images[0].embedded
    for damaged in (text[:40], "?", text[1:]):
        write(path, {**data, "imageData": damaged})
        with pytest.raises(ValueError, match=re.escape(str(path))) as raised:
            embedded.read()
        assert "/image " not in str(raised.value)


def test_turned_image_in_the_json(folder):
    """The annotated size tells whether the stored pixels are meant."""
    pixels, text = picture(orientation=6)
    for size, expected in (((HEIGHT, WIDTH), pixels), ((WIDTH, HEIGHT), np.rot90(pixels, -1))):
        data = labelme([{"label": "x", "points": TRIANGLE}], "x.jpg", size)
        path = write(folder / "x.json", {**data, "imageData": text})
        dataset = AnnotatedDataset.of("x", annotations.read(path))
        np.testing.assert_array_equal(dataset.load_image(0), expected)


def test_one_image_in_several_entries(folder, caplog):
    """The regions of all are put together, the same ones once, also where the keys are equal."""
    path = folder / "via.json"
    one = json.dumps({"filename": "a.jpg", "regions": via([POLYGON])["a.jpg123"]["regions"]})
    path.write_text(f'{{"k": {{"filename": "a.jpg", "regions": []}}, "k": {one}, "k": {{"filename":'
                    ' "a.jpg", "regions": {}}}')  # fmt: skip
    found = annotations.read(path)
    assert [len(image.regions) for image in found.images] == [1] and not caplog.messages
    data = {**via([]), "again": {**via([POLYGON])["a.jpg123"]}}
    data["more"] = {
        "filename": "./a.jpg",
        "regions": via([POLYGON, RECTANGLE])["a.jpg123"]["regions"],
    }
    for keep_empty in (False, True):
        caplog.clear()
        found = annotations.read(write(path, data), keep_empty=keep_empty)
        assert [regions_of(image) for image in found.images] == [[("object", 138), ("object", 20)]]
        assert "1 images are annotated in several places" in caplog.text and not found.problems
        assert "1 that are there twice once: a.jpg" in caplog.text


def test_one_image_of_two_labelme_files(folder):
    other = [[30, 20], [35, 20], [35, 24], [30, 24]]
    write(folder / "a.json", labelme([{"label": "cat", "points": TRIANGLE}]))
    shapes = [{"label": "cat", "points": TRIANGLE}, {"label": "dog", "points": other}]
    write(folder / "a_2.json", labelme(shapes))
    found = annotations.read(folder)
    assert [regions_of(image) for image in found.images] == [[("cat", 36), ("dog", 20)]]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-32"])
def test_encodings(folder, encoding):
    text = json.dumps(via([(POLYGON, {"type": "\u732b"})]), ensure_ascii=False)
    (folder / "via.json").write_bytes(text.encode(encoding))
    assert annotations.read(folder).classes == ["\u732b"]
    os.remove(folder / "via.json")
    text = json.dumps(labelme([{"label": "\u732b", "points": TRIANGLE}]), ensure_ascii=False)
    (folder / "a.json").write_bytes(text.encode(encoding))
    assert annotations.read(folder).classes == ["\u732b"]


@pytest.mark.parametrize(
    "value, name",
    [
        ({"cat": True}, "cat"),
        ({"cat": "true", "dog": "false"}, "cat"),
        ({"cat": True, "dog": ""}, "cat"),
        (["cat"], "cat"),
        (" cat ", "cat"),
        (7, "7"),
        (7.0, "7"),
        (7.5, "7.5"),
        (20231101, "20231101"),
        ("cafe\u0301", "caf\u00e9"),
        *((value, None) for value in ({}, {"cat": False}, None, "", " ", [], ["a", "b"], True)),
        *((value, None) for value in (float("nan"), float("inf"), 10**400, "\ud800", {"a": {}})),
    ],
)
def test_class_values(folder, value, name):
    """What VIA and LabelMe hold where the class belongs; what is none is left out and named."""
    regions = [(RECTANGLE, {"type": "ok"}), (POLYGON, {"type": value})]
    found = annotations.read(write(folder / "via.json", via(regions)))
    shapes = [{"label": "ok", "points": TRIANGLE}, {"label": value, "points": TRIANGLE[::-1]}]
    other = annotations.read(write(folder / "a.json", labelme(shapes)))
    if isinstance(value, (dict, list)):
        assert "region 1: expected a label. Received: " in other.problems[0]
    if value == {"a": {}}:  # not ticked
        name = None
    if name is None:
        assert "region 1: expected one class in the attribute 'type'" in found.problems[0]
        assert found.classes == other.classes == ["ok"]
        found.problems[0].encode()
    else:
        assert found.classes == sorted(["ok", name]) and not found.problems
        if not isinstance(value, (dict, list)):
            assert other.classes == found.classes


def test_attributes_that_are_empty(folder):
    """An attribute without any value is not the class."""
    both = [(POLYGON, {"type": "cat", "note": ""}), (RECTANGLE, {"type": "dog", "note": None})]
    assert annotations.read(write(folder / "via.json", via(both))).classes == ["cat", "dog"]
    neither = [(POLYGON, {"type": "", "note": ""})]
    with pytest.raises(AnnotationError, match="of several name the one"):
        annotations.read(write(folder / "via.json", via(neither)))


def test_settings_and_names_that_look_wrong(folder, caplog):
    """Cat and cat are two classes, VIA's settings change nothing elsewhere: both are said."""
    path = write(folder / "via.json", via([(POLYGON, {"t": "Cat"}), (RECTANGLE, {"t": "cat"})]))
    assert annotations.read(path).classes == ["Cat", "cat"]
    assert "case alone are several classes: 'Cat', 'cat'" in caplog.text
    os.remove(path)
    path = write(folder / "a.json", labelme([{"label": "cat", "points": TRIANGLE}]))
    for source in (path, folder):
        caplog.clear()
        assert annotations.read(source, attribute="t", label="x").classes == ["cat"]
        assert len(caplog.messages) == 2 and "attribute='t' is for VIA alone" in caplog.text


NUMBERS = [None, float("nan"), float("inf"), -float("inf"), 1e12, -1e300, 10**400, "x", [1], True]


@pytest.mark.parametrize("number", NUMBERS)
def test_coordinates_that_are_none(folder, number):
    """Every shape of VIA and LabelMe: left out and named, in no time."""
    shapes = [
        {"name": "polygon", "all_points_x": [1, number, 9], "all_points_y": [1, 2, 9]},
        {"name": "polyline", "all_points_x": [1, 5, 9], "all_points_y": [number, 2, 9]},
        {"name": "rect", "x": number, "y": 1, "width": 5, "height": 6},
        {"name": "rect", "x": 1, "y": 1, "width": 5, "height": number},
        {"name": "circle", "cx": 9, "cy": 9, "r": number},
        {"name": "ellipse", "cx": 9, "cy": number, "rx": 4, "ry": 4, "theta": 0},
        {"name": "ellipse", "cx": 9, "cy": 9, "rx": 4, "ry": 4, "theta": number},
    ]
    found = annotations.read(write(folder / "via.json", via([POLYGON, *shapes])))
    assert regions_of(found.images[0]) == [("object", 138)] and len(found.problems) == len(shapes)
    kinds = ("polygon", "rectangle", "circle", "linestrip", "mask", "oriented_rectangle", None)
    shapes = [
        {"label": "x", "shape_type": kind, "points": [[1, 1], [number, 5], [9, 9]][: 1 + count]}
        for kind, count in zip(kinds, (2, 1, 1, 2, 1, 2, 2))
    ]
    data = labelme([{"label": "ok", "points": TRIANGLE}, *shapes])
    found = annotations.read(write(folder / "a.json", data))
    assert regions_of(found.images[0]) == [("ok", 36)] and len(found.problems) == len(shapes)
    if number in (1e12, -1e300):
        assert all("(beyond 1000000)" in problem for problem in found.problems)


def test_shapes_partly_outside(folder):
    """What lies outside is cut off; numbers may be written as text."""
    shapes = [
        {"name": "rect", "x": -5, "y": -5, "width": 1e5, "height": 10},
        {"name": "circle", "cx": 5, "cy": 5, "r": 1e5},
        {"name": "polygon", "all_points_x": [-9e5, 9e5, 9e5, -9e5], "all_points_y": [-9, -9, 3, 3]},
        {"name": "rect", "x": "5", "y": "5", "width": "4", "height": "2.0"},
    ]
    found = annotations.read(write(folder / "via.json", via(shapes)))
    assert [pixels for _, pixels in regions_of(found.images[0])] == [300, 2400, 240, 8]


def test_many_objects(folder):
    """Each is drawn in its own box, not in the image's 12 megapixels."""
    Image.new("RGB", (4000, 3000)).save(folder / "a.jpg")
    shapes = [
        {"name": "polygon", "all_points_x": [x, x + 9, x], "all_points_y": [y, y, y + 9]}
        for x in range(0, 3000, 60)
        for y in range(0, 1000, 50)
    ]
    start = time.monotonic()
    found = annotations.read(write(folder / "via.json", via([*shapes, RECTANGLE])))
    assert len(found.images[0].regions) == 1001 and time.monotonic() - start < 10
    for region in found.images[0].regions[-2:]:
        y, x, pixels = region.shape.crop(3000, 4000)
        mask = region.shape.mask(3000, 4000)
        assert pixels.size <= 100 and pixels.sum() == mask.sum()
        np.testing.assert_array_equal(mask[y : y + len(pixels), x : x + pixels.shape[1]], pixels)
    image = dataclasses.replace(found.images[0], regions=found.images[0].regions[-2:])
    np.testing.assert_array_equal(image.masks()[..., 1], mask)


def test_files_that_are_no_images(folder, caplog):
    """Pipes, folders, videos and empty files under an image's name: named, nothing waits."""
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "empty.jpg").touch()
    (folder / "film.mts").write_bytes(b"\x47" * 400)
    (folder / "cut.jpg").write_bytes((folder / "a.jpg").read_bytes()[:200])
    names = ("pipe.jpg", "folder.jpg", "empty.jpg", "film.mts", "cut.jpg", "", "\ud800.jpg")
    data = via([POLYGON])
    for name in names:
        data.update(via([POLYGON], name=name))
    found = annotations.read(write(folder / "via.json", data), keep_empty=True)
    assert names_of(found) == ["a.jpg"] and len(found.problems) == len(names)
    assert len(caplog.messages) == 1
    "".join(found.problems).encode()


def test_image_beyond_pillows_limit(folder, monkeypatch):
    """A huge photograph, or a bomb, doesn't end the reading of the others."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("RGB", (9, 9)).save(folder / "b.png")
    rectangle = {"name": "rect", "x": 1, "y": 2, "width": 3, "height": 4}
    data = {**via([rectangle]), **via([rectangle], name="b.png")}
    found = annotations.read(write(folder / "via.json", data))
    assert "b.png" in names_of(found) and len(found.images) + len(found.problems) == 2


def test_huge_images_are_measured_without_their_pixels(folder, monkeypatch):
    """One beyond Pillow's limit takes gigabytes to decode; its header tells its size."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # an error from 200 on
    monkeypatch.setattr(annotations.utils, "read_image", None)
    labels = labelme([{"label": "x", "points": TRIANGLE}], "none.jpg")
    write(folder / "b.json", {**labels, "imageData": picture()[1]})
    for data in (via([POLYGON]), coco([{"segmentation": SQUARE}])):
        (image,) = annotations.read(write(folder / "a.json", data)).images
        assert (image.height, image.width) == (HEIGHT, WIDTH)
    (image,) = annotations.read(folder / "b.json").images
    assert image.embedded and (image.height, image.width) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("suffix", [".tif", ".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", [3, 5, 6, 8])
def test_turned_photographs_of_every_kind(folder, suffix, orientation):
    """Pillow has turned a TIFF already when it tells its size."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"turned{suffix}", exif=exif)
    expected = (HEIGHT, WIDTH)
    if orientation >= 5:
        expected = (WIDTH, HEIGHT)
    path = write(folder / "via.json", via([POLYGON], name=f"turned{suffix}"))
    dataset = AnnotatedDataset.of("x", annotations.read(path))
    assert dataset.load_image(0).shape[:2] == dataset.load_mask(0)[0].shape[:2] == expected


def test_a_photograph_that_was_replaced(folder):
    """One of another size than was annotated is an error, and no training on wrong masks."""
    dataset = AnnotatedDataset.of("x", annotations.read(write(folder / "x.json", via([POLYGON]))))
    assert dataset.load_image(0).shape == (HEIGHT, WIDTH, 3)
    Image.new("RGB", (30, 20)).save(folder / "a.jpg")
    match = "a.jpg .annotated as 'a.jpg'. is 40 x 60 pixels there. Received: 20 x 30$"
    with pytest.raises(ValueError, match=match):
        dataset.load_image(0)
    Image.new("RGB", (HEIGHT, WIDTH)).save(folder / "a.jpg")
    with pytest.raises(ValueError, match="Received: 60 x 40. They lie on their side"):
        dataset.load_image(0)


def test_an_image_in_the_json_that_was_replaced(folder):
    """The same of embedded images."""
    data = labelme([{"label": "x", "points": TRIANGLE}], "x.jpg")
    path = write(folder / "x.json", {**data, "imageData": picture()[1]})
    dataset = AnnotatedDataset.of("x", annotations.read(path))
    write(path, {**data, "imageData": picture((30, 20))[1]})
    with pytest.raises(ValueError, match="x.json .* is 40 x 60 pixels there. Received: 20 x 30$"):
        dataset.load_image(0)


@pytest.mark.parametrize("number", ["1_2", "nan", "", "1,5", True, 1e7, "1e7"])
def test_coordinates_that_are_no_numbers(folder, number):
    """float() reads 1_2 as 12."""
    rectangle = {"name": "rect", "x": number, "y": "2", "width": "3.5", "height": 4}
    with pytest.raises(AnnotationError, match="as numbers.* Received: x: "):
        annotations.read(write(folder / "via.json", via([rectangle])))


def test_folders_far_below_are_not_looked_into(folder, caplog):
    """A home folder would be walked for minutes; what is left out is said."""
    labels = labelme([{"label": "x", "points": TRIANGLE}])
    for place in ("1/2/3", "1/2/3/4"):
        (folder / place).mkdir(parents=True)
        shutil.copy(folder / "a.jpg", folder / place / "a.jpg")
        write(folder / place / "a.json", labels)
    assert names_of(annotations.read(folder)) == ["1/2/3/a.jpg"]
    assert re.search("folders more than 3 below it are not looked into: .*1/2/3/4", caplog.text)


def test_two_images_of_one_key_in_the_json(folder):
    """Each has its own picture."""
    texts = [picture((WIDTH, height))[1] for height in (HEIGHT, 30)]
    entries = [
        {
            "filename": f"{i}.png",
            "regions": via([POLYGON])["a.jpg123"]["regions"],
            "base64_img_data": t,
        }
        for i, t in enumerate(texts)
    ]
    path = folder / "via.json"
    path.write_text("{" + ", ".join(f'"k": {json.dumps(entry)}' for entry in entries) + "}")
    dataset = AnnotatedDataset.of("x", annotations.read(path))
    assert [dataset.load_image(i).shape[0] for i in dataset.image_ids] == [HEIGHT, 30]


def test_images_whose_regions_are_broken(folder):
    """An image with objects that can't be used is no background."""
    path = write(folder / "via.json", {**via([{"name": "point"}]), **via([], name="b.png")})
    assert names_of(annotations.read(path, keep_empty=True)) == ["b.png"]


# ---- Other programs and versions -----------------------------------------------------------------


def via3(metadata, files=("a.jpg", "b.png")):
    """A project of VIA 3 with one view of each file, 1, 2, ..."""
    return {
        "project": {"pid": "__VIA_PROJECT_ID__", "vid_list": ["1", "2"]},
        "config": {},
        "attribute": {
            "1": {"aname": "class", "type": 4, "options": {"0": "cat", "1": "dog"}},
            "2": {"aname": "note", "type": 1, "options": {}},
            "3": {"aname": "box", "type": 2, "options": {"0": "cat", "1": "dog"}},
        },
        "file": {
            str(i): {"fid": i, "fname": name, "type": 2, "loc": 1, "src": name}
            for i, name in enumerate(files, 1)
        },
        "view": {str(i): {"fid_list": [i]} for i in range(1, len(files) + 1)},
        "metadata": metadata,
    }


@pytest.mark.parametrize("attribute, values", [("class", ("0", "1")), ("box", ("0", "1"))])
def test_via3(folder, attribute, values):
    key = {"class": "1", "box": "3"}[attribute]
    cat, dog = ({key: value} for value in values)
    metadata = {
        "a": {"vid": "1", "z": [], "xy": [2, 30, 20, 5, 4], "av": cat},
        "b": {"vid": "1", "xy": [7, 5, 6, 20, 8, 12, 25], "av": dog},
        "c": {"vid": "2", "xy": [3, 20, 15, 9.5], "av": cat},
        "d": {"vid": "2", "xy": [4, 30, 20, 16, 7], "av": cat},
        "e": {"vid": "2", "xy": [6, 5, 6, 20, 8, 12, 25], "av": cat},
        "f": {"vid": "2", "xy": [8, 30, 22, 32, 20, 35, 21, 31, 24], "av": cat},
        "g": {"vid": "2", "xy": [], "z": [1.5], "av": {"2": "of the image"}},
        "h": {"vid": "2", "xy": [1, 5, 5], "av": cat},
        "i": {"vid": "7", "xy": [2, 30, 20, 5, 4], "av": cat},
        "j": {"vid": "2", "xy": [2, 30, 20], "av": cat},
    }
    data = via3(metadata)
    found = annotations.read(write(folder / "via.json", data), attribute=attribute)
    assert found == annotations.read_via(folder / "via.json")
    assert [regions_of(image)[:2] for image in found.images] == [
        [("cat", 20), ("dog", 138)],
        [("cat", 293), ("cat", 351)],
    ]
    assert [pixels for _, pixels in regions_of(found.images[1])[2:]] == [138, 20]
    assert [re.search("region '?([a-z])", text)[1] for text in found.problems] == ["i", "h", "j"]


def test_via3_of_a_video(folder):
    data = via3(
        {"a": {"vid": "1", "xy": [2, 1, 1, 5, 5]}, "b": {"vid": "2", "xy": [2, 1, 1, 5, 5]}}
    )
    data["file"]["1"]["type"] = 4
    found = annotations.read(write(folder / "via.json", data))
    assert names_of(found) == ["b.png"] and "a video or a sound" in found.problems[0]
    data["view"]["2"] = {"fid_list": ["1", "2"]}
    with pytest.raises(AnnotationError, match="a view of one image"):
        annotations.read(write(folder / "via.json", data))
    for name in ("file", "attribute", "view", "metadata"):
        with pytest.raises(AnnotationError, match=f"expected '{name}' of a VIA 3 project"):
            annotations.read(write(folder / "via.json", {**data, name: []}))


@pytest.mark.parametrize("first", ["filename", "#filename"])
def test_via_csv(folder, first):
    shape = json.dumps(RECTANGLE)
    rows = [
        [first, "file_size", "region_count", "region_shape_attributes", "region_attributes"],
        ["a.jpg", "1", "2", shape, '{"type": "cat"}'],
        ["a.jpg", "1", "2", shape[:20], '{"type": "cat"}'],
        ["b.png", "1", "0", "{}", "{}"],
    ]
    path = folder / "via.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    found = annotations.read(path, keep_empty=True)
    assert [regions_of(image) for image in found.images] == [[("cat", 20)], []]
    assert len(found.problems) == 1 and "region 1: " in found.problems[0]
    path.write_text("a,b\n1,2\n")
    with pytest.raises(AnnotationError, match="expected VIA 2's csv with the columns"):
        annotations.read(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("separator", [";", "\t"], ids=["semicolon", "tab"])
def test_via_csv_of_a_spreadsheet(folder, separator, encoding):
    """Saved anew with another separator, in another encoding; found in its folder."""
    rows = [
        ["filename", "region_shape_attributes", "region_attributes"],
        ["a.jpg", json.dumps(RECTANGLE), '{"type": "caf\u00e9"}'],
    ]
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows(rows)
    (folder / "via.csv").write_bytes(text.getvalue().encode(encoding))
    (folder / "other.csv").write_text("a,b\n1,2\n")
    for path in (folder / "via.csv", folder):
        assert regions_of(annotations.read(path).images[0]) == [("caf\u00e9", 20)]


def test_via_entries_in_a_list(folder):
    """Scripts keep the values of VIA's object."""
    path = write(folder / "via.json", list(via([POLYGON], 1).values()))
    assert regions_of(annotations.read(path).images[0]) == [("object", 138)]


def test_shapes_of_other_programs(folder):
    """X-AnyLabeling's rectangles of four corners and turned ones; a label of digits; null kinds."""
    corners = [[10, 5], [20, 5], [20, 15], [10, 15]]
    turned = [[10, 5], [15, 10], [10, 15], [5, 10]]
    shapes = [
        {"label": "a", "shape_type": "rectangle", "points": corners, "score": None},
        {"label": "b", "shape_type": "rectangle", "points": corners[::-1]},
        {"label": "c", "shape_type": "rotation", "points": turned, "direction": 0.78},
        {"label": "d", "shape_type": "rectangle", "points": turned},
        {"label": "e", "shape_type": None, "points": corners, "flags": None},
        {"label": 6, "shape_type": "Polygon", "points": corners, "group_id": [1]},
        {"label": 6, "shape_type": "polygon", "points": turned, "group_id": [1]},
    ]
    path = write(folder / "a.json", {**labelme([]), "shapes": shapes})
    # Middles on the turned square's edge belong to it: 4 (1 + 2 + 3 + 4 + 5).
    pixels = [("a", 100), ("b", 100), ("c", 60), ("d", 60), ("e", 100), ("6", 130)]
    found = annotations.read(path)
    assert regions_of(found.images[0]) == pixels and not found.problems


@pytest.mark.parametrize("size", [(0, 0), (-1, -1), (None, None), ("40", "60"), (40.0, 60.0)])
def test_labelme_sizes(folder, size):
    data = labelme([{"label": "x", "points": TRIANGLE}], size=size)
    assert regions_of(annotations.read(write(folder / "a.json", data)).images[0]) == [("x", 36)]


def test_labelme_without_image_path(folder):
    """Files of older versions and other programs: no imagePath, size or kind of shape."""
    write(folder / "a.json", {"shapes": [{"label": "x", "points": TRIANGLE}], "imagePath": None})
    write(folder / "b.json", {"shapes": [{"label": "x", "points": TRIANGLE}]})
    assert len(annotations.read(folder).images) == 2


def test_isat(folder):
    """Parts of one group are one object; crowds stay crowds."""
    objects = [
        {"category": "dog", "group": 1, "segmentation": TRIANGLE, "iscrowd": False},
        {"category": "dog", "group": 1, "segmentation": [[30, 20], [35, 20], [35, 24], [30, 24]]},
        {"category": "cat", "group": 2, "segmentation": TRIANGLE, "iscrowd": True},
        {"category": "cat", "group": 3, "segmentation": []},
    ]
    info = {
        "description": "ISAT",
        "folder": "D:/x",
        "name": "a.jpg",
        "width": WIDTH,
        "height": HEIGHT,
    }
    found = annotations.read(write(folder / "a.json", {"info": info, "objects": objects}))
    assert regions_of(found.images[0]) == [("dog", 56), ("cat", 36)] and len(found.problems) == 1
    assert AnnotatedDataset.of("x", found).load_mask(0)[1].tolist() == [2, -1]


@pytest.mark.parametrize("name", ["a.json", "b.png.json"])
def test_eiseg(folder, name):
    """Its own files name no image: it is the one with the json's name, one folder up."""
    (folder / "label").mkdir()
    outlines = [{"name": "dog", "labelIdx": 1, "color": [0, 0, 255], "points": TRIANGLE}]
    write(folder / "label" / name, outlines)
    found = annotations.read(folder)
    assert regions_of(found.images[0]) == [("dog", 36)]
    assert found.images[0].path == str(folder / {"a.json": "a.jpg"}.get(name, "b.png"))


@pytest.mark.parametrize("place", ["data/images", "data/JPEGImages", "data/labels/img"])
def test_images_near_the_annotations(folder, place):
    """Annotations in a folder of their own: the images' folder is beside it or in it."""
    (folder / place).mkdir(parents=True)
    (folder / "data" / "labels").mkdir(parents=True, exist_ok=True)
    os.rename(folder / "a.jpg", folder / place / "a.jpg")
    path = write(
        folder / "data" / "labels" / "a.json", labelme([{"label": "x", "points": TRIANGLE}])
    )
    for source in (path, path.parent):
        assert os.path.samefile(annotations.read(source).images[0].path, folder / place / "a.jpg")
    os.remove(path)
    path = write(path.with_name("via.json"), via([POLYGON]))
    for source in (path, path.parent):
        assert os.path.samefile(annotations.read(source).images[0].path, folder / place / "a.jpg")


STRANGE = [
    *(
        None,
        True,
        0,
        -1,
        1e12,
        float("nan"),
        10**400,
        "",
        "x",
        "\ud800",
        "\0",
        [],
        {},
        [[]],
        [None],
    ),
    *({"a": 1}, "../a.jpg", "1e9", "data:image/png;base64,AAAA", "Z" * 3000),
]


def is_usable(path, **options):
    """Reads a damaged file and all its images; False after one error that names the file."""
    try:
        content = annotations.read(path, keep_empty=True, **options)
    except AnnotationError as error:
        assert str(path) in str(error)
        str(error).encode()
        return False
    dataset = AnnotatedDataset.of("x", content)
    for image_id in dataset.image_ids:
        masks = dataset.load_mask(image_id)[0]
        assert dataset.load_image(image_id).shape[:2] == masks.shape[:2]
    "".join([content.summary(), *content.problems]).encode()
    return True


def mutated(value, rng):
    """A copy of a json's value with something strange, missing or doubled in it."""
    draw = rng.random()
    if draw < 0.02 or not isinstance(value, (dict, list)):
        return rng.choice(STRANGE) if draw < 0.05 else value
    if isinstance(value, dict):
        return {
            rng.choice(["x", "filename"]) if rng.random() < 0.01 else key: mutated(entry, rng)
            for key, entry in value.items()
            if rng.random() > 0.02
        }
    kept = [mutated(entry, rng) for entry in value if rng.random() > 0.02]
    return kept + kept[: rng.random() < 0.05]


@pytest.mark.parametrize("kind", ["via", "labelme", "via3"])
def test_damaged_content(folder, kind):
    """Whatever is damaged, and wherever it breaks off: what is left, or one error of the file."""
    rng = random.Random(kind)
    seeds = {
        "via": {
            "_via_settings": {"core": {"default_filepath": "x", "filepath": {"": 1}}},
            "_via_img_metadata": {
                **via([(POLYGON, {"t": {"cat": True}}), (RECTANGLE, {"t": "dog"})]),
                **via(
                    [({"name": "ellipse", "cx": 9, "cy": 9, "rx": 4, "ry": 5}, {"t": 1})],
                    1,
                    "b.png",
                ),
            },
        },
        "labelme": {
            **labelme(
                [
                    {"label": "a", "points": TRIANGLE, "group_id": 1},
                    {
                        "label": "a",
                        "points": [[1, 1], [9, 9]],
                        "shape_type": "circle",
                        "group_id": 1,
                    },
                    {
                        "label": "b",
                        "shape_type": "mask",
                        "points": [[1, 1], [4, 4]],
                        "mask": png(np.eye(4)),
                    },
                ]
            ),
            "imageData": picture()[1],
        },
        "via3": via3({"a": {"vid": "1", "xy": [2, 1, 2, 3, 4], "av": {"1": "0"}}}),
    }
    path = folder / "x.json"
    used = 0
    for _ in range(80):
        content = json.dumps(mutated(seeds[kind], rng)).encode()
        if rng.random() < 0.2:
            content = content[: rng.randrange(len(content))]
        path.write_bytes(content)
        used += is_usable(path)
    assert 8 < used < 80


def test_roboflow_root_category(folder, caplog):
    """The root has the class's name and no annotations; two that have some are one class."""
    categories = [
        {"id": 0, "name": "cat", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "cat"},
        {"id": 2, "name": "dog", "supercategory": "cat"},
    ]
    objects = [{"segmentation": SQUARE, "category_id": 1}]
    path = write(folder / "x.json", coco(objects, categories=categories))
    found = annotations.read(path)
    assert found.classes == ["cat", "dog"] and "one class" not in caplog.text
    objects.append({"segmentation": SQUARE, "category_id": 0})
    found = annotations.read(write(path, coco(objects, categories=categories)))
    assert found.classes == ["cat", "dog"] and len(found.images[0].regions) == 2
    assert "categories of one name are one class: 'cat'" in caplog.text


# ---- Cityscapes ----------------------------------------------------------------------------------


INSTANCES = "_gtFine_instanceIds.png"


def cityscapes(root):
    """Two subsets and the test's dummies: a car, one behind a pole, a crowd, stuff, a caravan."""
    labels = np.full((HEIGHT, WIDTH), 7, np.int32)  # a road
    labels[5:15, 10:20] = 26_000
    labels[5:25, 30:40] = 26_012
    labels[:, 34:36] = 17  # a pole
    labels[30:38, 2:9] = 24  # people
    labels[30:38, 50:55] = 29_001
    labels[30:38, 20:25] = 33_003
    for subset, pixels in (("train", labels), ("val", labels * 0 + 7), ("test", labels * 0)):
        for place in ("gtFine", "leftImg8bit"):
            (root / place / subset / "ulm").mkdir(parents=True)
        stem = f"{subset}/ulm/ulm_000001_000019"
        Image.fromarray(pixels.astype(np.uint16)).save(root / f"gtFine/{stem}{INSTANCES}")
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"gtFine/{stem}_gtFine_labelIds.png")
        write(root / f"gtFine/{stem}_gtFine_polygons.json", {"imgHeight": 1, "objects": []})
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / f"leftImg8bit/{stem}_leftImg8bit.png")
    return labels


def test_cityscapes(tmp_path):
    """Each pixel as it is; groups are crowds; what has no objects, or none that count, is left."""
    labels = cityscapes(tmp_path)
    found = annotations.read(tmp_path)
    assert found.classes == list(annotations.CITYSCAPES_CLASSES.values()) and not found.problems
    (image,) = found.images
    assert image.name == "train/ulm/ulm_000001_000019_leftImg8bit.png"
    told = [(region.name, region.crowd, region.number) for region in image.regions]
    assert told == [
        ("person", True, 24),
        ("car", False, 26_000),
        ("car", False, 26_012),
        ("bicycle", False, 33_003),
    ]
    expected = labels[..., None] == [number for _, _, number in told]
    np.testing.assert_array_equal(image.masks(), expected)
    assert len(annotations.read(tmp_path, keep_empty=True).images) == 2
    for place in ("gtFine", "gtFine/train", "gtFine/train/ulm"):
        (again,) = annotations.read(tmp_path / place).images
        assert (again.name, again.path, len(again.regions)) == (image.name, image.path, 4)
    with pytest.raises(AnnotationError, match="expected images with regions"):
        annotations.read(tmp_path / "gtFine" / "val")
    (tmp_path / "label_colors.txt").write_text("1 2 3 cat")
    for place in (".", "gtFine/train"):
        with pytest.raises(AnnotationError, match="own ids .*label_colors.txt, as CVAT"):
            annotations.read(tmp_path / place)
    (tmp_path / "label_colors.txt").unlink()
    shutil.rmtree(tmp_path / "leftImg8bit" / "train")
    with pytest.raises(AnnotationError, match="ulm_000001_000019_leftImg8bit.png"):
        annotations.read(tmp_path)


# ---- Label images with doubts --------------------------------------------------------------------


def label_images(folder, labels, name="{}.png"):
    """images/a.jpg and b.jpg, and masks/ with label images of them; None for none."""
    (folder / "masks").mkdir()
    (folder / "images").mkdir()
    for letter, values in zip("ab", labels):
        Image.new("RGB", (WIDTH, HEIGHT), (10, 200, 30)).save(folder / "images" / f"{letter}.jpg")
        if values is not None:
            Image.fromarray(values).save(folder / "masks" / name.format(letter))
    return folder


def two_squares():
    """[HEIGHT, WIDTH] uint8 with the objects 1, of 100 pixels, and 2, of 200."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[5:15, 5:15] = 1
    labels[20:30, 30:50] = 2
    return labels


def test_an_image_without_its_label_image_is_said(tmp_path, caplog):
    """It was left out without a word; a label image of zeros is one without objects."""
    path = label_images(tmp_path, [two_squares(), None])
    annotated = annotations.read(path, keep_empty=True)
    assert [image.name for image in annotated.images] == ["images/a.jpg"]
    (line,) = caplog.messages
    assert "1 images have no label image and are left out" in line and "images/b.jpg" in line
    caplog.clear()
    Image.fromarray(two_squares() * 0).save(tmp_path / "masks" / "b.png")
    assert len(annotations.read(path, keep_empty=True).images) == 2 and not caplog.messages


def test_inverted_label_images_are_said(tmp_path, caplog):
    """Their ground was the only object, without a word; one that touches two edges is none."""
    inverted = np.where(two_squares() == 1, 0, 255).astype(np.uint8)
    annotations.read(label_images(tmp_path, [inverted, inverted]))
    assert "2 images have one object along all four edges and 0 within it" in caplog.text
    caplog.clear()
    wide = two_squares()
    wide[20:30] = 2
    Image.fromarray(wide).save(tmp_path / "masks" / "a.png")
    Image.fromarray(wide).save(tmp_path / "masks" / "b.png")
    annotations.read(tmp_path)
    assert not caplog.messages


def test_black_on_a_transparent_ground_is_no_image_without_objects(tmp_path):
    """All its pixels were nothing: both images counted as background."""
    alpha = (two_squares() > 0).astype(np.uint8) * 255
    black = np.dstack([alpha * 0] * 3 + [alpha])
    with pytest.raises(AnnotationError, match="a.png, all black on a transparent ground"):
        annotations.read(label_images(tmp_path, [black, black]), keep_empty=True)


def test_label_images_that_begin_with_mask(tmp_path):
    """They were refused."""
    path = label_images(tmp_path, [two_squares(), two_squares()], "mask_{}.png")
    annotated = annotations.read(path)
    assert [image.name for image in annotated.images] == ["images/a.jpg", "images/b.jpg"]
    areas = [int(mask.sum()) for mask in np.moveaxis(annotated.images[1].masks(), -1, 0)]
    assert areas == [100, 200]


def test_masks_of_other_names_are_said(tmp_path):
    path = label_images(tmp_path, [two_squares(), two_squares()], "picture-of-{}.png")
    text = "masks/picture-of-a.png and images/a.jpg, not a.png or a_0.png"
    with pytest.raises(AnnotationError, match=re.escape(text)):
        annotations.read(path)


def areas_of(image):
    """[(class, pixels)] of an image's objects, in their order."""
    masks = image.masks()
    return [(region.name, int(masks[..., i].sum())) for i, region in enumerate(image.regions)]


def disc(values=(255,)):
    """[HEIGHT, WIDTH] uint8 with a disc of 317 pixels of the first value, and 100 of another."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    drawn = np.where((y - 18) ** 2 + (x - 20) ** 2 <= 100, values[0], 0)
    drawn[28:38, 45:55] = values[-1]
    return drawn.astype(np.uint8)


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("quality", [75, 90, 95, 100])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_black_and_white_that_jpeg_compressed(tmp_path, caplog, quality, suffix, bands):
    """As .jpg it was refused; saved as .png, of quality 90 and more, each gray was an object."""
    label_images(tmp_path, [np.dstack([disc()] * bands).squeeze()] * 2, "{}.png")
    for letter in "ab":
        mask = tmp_path / "masks" / f"{letter}.png"
        Image.open(mask).save(mask.with_suffix(".jpg"), quality=quality)
        mask.unlink()
        if suffix == ".png":
            Image.open(mask.with_suffix(".jpg")).save(mask)
            mask.with_suffix(".jpg").unlink()
    image = annotations.read(tmp_path).images[0]
    assert areas_of(image) == [("object", 417)]
    np.testing.assert_array_equal(image.masks()[..., 0], disc() > 0)
    assert "masks: label images of black and white were compressed" in caplog.text


@pytest.mark.parametrize("quality", [75, 90, 98])
def test_other_numbers_that_jpeg_compressed_are_refused(tmp_path, quality):
    """Saved as .png, of quality 90 and more, each value of the compression was an object."""
    label_images(tmp_path, [disc((80, 160)), disc((80, 160))], "{}.png")
    for letter in "ab":
        mask = tmp_path / "masks" / f"{letter}.png"
        content = io.BytesIO()
        Image.open(mask).save(content, "JPEG", quality=quality)
        Image.open(content).save(mask)
    with pytest.raises(AnnotationError, match="a.png, of whose .* it was smoothed"):
        annotations.read(tmp_path)


def test_few_numbers_are_objects_though_they_are_near_black_and_white(tmp_path):
    numbers = disc((1, 255))
    numbers[2:5, 40:45] = 254
    image = annotations.read(label_images(tmp_path, [numbers, numbers])).images[0]
    assert areas_of(image) == [("object", 317), ("object", 15), ("object", 100)]


def test_small_numbers_beside_white_that_jpeg_compressed_are_refused(tmp_path):
    """White alone was taken for one object, the others for black."""
    path = label_images(tmp_path, [disc((5, 255))] * 2, "{}.png")
    for letter in "ab":
        mask = tmp_path / "masks" / f"{letter}.png"
        Image.open(mask).save(mask.with_suffix(".jpg"), quality=95)
        mask.unlink()
    with pytest.raises(AnnotationError, match="a label image in a format without losses"):
        annotations.read(path)


def test_small_objects_that_touch_in_pairs_are_read(tmp_path):
    """As 0.13.0 did: each is a square of four pixels with another beside it."""
    numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
    places = [(y, x) for y in range(2, HEIGHT - 4, 6) for x in range(2, WIDTH - 6, 8)]
    for i, (y, x) in enumerate(places):
        numbers[y : y + 2, x : x + 2] = 2 * i + 1
        numbers[y : y + 2, x + 2 : x + 4] = 2 * i + 2
    image = annotations.read(label_images(tmp_path, [numbers, numbers], "{}.png")).images[0]
    assert areas_of(image) == [("object", 4)] * (2 * len(places))


def test_a_mask_file_of_an_object_with_traces_of_jpeg(tmp_path):
    """All that is not black was the object, with the traces around it."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "a.png")
    content = io.BytesIO()
    Image.fromarray(disc()).save(content, "JPEG", quality=90)
    Image.open(content).save(tmp_path / "masks" / "a_0.png")
    image = annotations.read(tmp_path).images[0]
    np.testing.assert_array_equal(image.masks()[..., 0], disc() > 0)


def test_whole_numbers_as_floats_are_label_images(tmp_path):
    """ImageJ and CellProfiler write them so; they were refused."""
    path = label_images(tmp_path, [two_squares().astype(np.float32)] * 2, "{}.tif")
    assert areas_of(annotations.read(path).images[1]) == [("object", 100), ("object", 200)]
    Image.fromarray(two_squares() + np.float32(0.5)).save(tmp_path / "masks" / "a.tif")
    (problem,) = annotations.read(path).problems
    assert "a label image of whole numbers or colours. Received: " in problem


@pytest.mark.parametrize("ending", ["", "_0", "/0"])
def test_folders_of_masks_are_classes(tmp_path, caplog, ending):
    """a_0.png in them were of the class "object", without a word; a.png was refused."""
    (tmp_path / "images").mkdir()
    for letter in "ab":
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / f"{letter}.jpg")
    for name, drawn, letters in (("fish", 2, "ab"), ("crab", 1, "a")):
        for letter in letters:
            file = tmp_path / "masks" / name / f"{letter}{ending}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((two_squares() == drawn) * np.uint8(255)).save(file)
    annotated = annotations.read(tmp_path)
    assert annotated.classes == ["crab", "fish"] and not annotated.problems
    objects = {image.name: areas_of(image) for image in annotated.images}
    assert objects == {
        "images/a.jpg": [("crab", 100), ("fish", 200)],
        "images/b.jpg": [("fish", 200)],
    }
    assert "masks: its folders are taken for the classes of the masks in them: crab, fish" in (
        caplog.text
    )
    annotated = annotations.read(tmp_path, label="animal")
    assert [areas_of(image) for image in annotated.images] == [
        [("animal", 100), ("animal", 200)],
        [("animal", 200)],
    ]


@pytest.mark.parametrize(
    "mask_names",
    [
        ("batch1/a.png", "batch2/b.png"),
        ("p01/a_0.png", "p02/b_0.png"),
        ("a_masks/a_0.png", "b_masks/b_0.png"),
        ("cells/x/a.png", "others/b.png"),
    ],
)
def test_folders_of_masks_that_are_parts_of_a_dataset(tmp_path, caplog, mask_names):
    """They were taken for classes; those in deeper folders were left out."""
    (tmp_path / "images").mkdir()
    for letter, name in zip("ab", mask_names):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / f"{letter}.jpg")
        file = tmp_path / "masks" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((two_squares() == 1) * np.uint8(255)).save(file)
    annotated = annotations.read(tmp_path)
    assert [areas_of(image) for image in annotated.images] == [[("object", 100)]] * 2
    assert "taken for the classes" not in caplog.text


def test_numbered_folders_are_classes_where_images_have_masks_in_several(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "a.jpg")
    for number in (1, 2):
        file = tmp_path / "masks" / f"class{number}" / "a.png"
        file.parent.mkdir(parents=True)
        Image.fromarray((two_squares() == number) * np.uint8(255)).save(file)
    (image,) = annotations.read(tmp_path).images
    assert areas_of(image) == [("class1", 100), ("class2", 200)]


def test_a_label_image_belongs_to_the_image_of_its_name_alone(tmp_path):
    """a_img.jpg had that of a.jpg too."""
    for name in ("a.jpg", "a_img.jpg"):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / name)
    (tmp_path / "masks").mkdir()
    Image.fromarray(two_squares()).save(tmp_path / "masks" / "a.png")
    assert [image.name for image in annotations.read(tmp_path).images] == ["images/a.jpg"]


@pytest.mark.parametrize(
    "image_name, mask_name",
    [
        ("PNGImages/FudanPed00001.png", "PedMasks/FudanPed00001_mask.png"),  # Penn-Fudan
        ("JPEGImages/480p/bear/00000.jpg", "Annotations/480p/bear/00000.png"),  # DAVIS
        ("000_img.png", "000_masks.png"),  # Cellpose
        ("images/a.png", "ground_truth/a.png"),
    ],
)
def test_label_images_of_public_datasets(tmp_path, image_name, mask_name):
    """They were refused."""
    for name, picture in (
        (image_name, Image.new("RGB", (WIDTH, HEIGHT))),
        (mask_name, Image.fromarray(two_squares())),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / name)
    (image,) = annotations.read(tmp_path).images
    assert image.name == image_name
    assert areas_of(image) == [("object", 100), ("object", 200)]


@pytest.mark.parametrize("compression", ["tiff_lzw", "zstd", "tiff_adobe_deflate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_label_images_in_compressed_tiffs(tmp_path, compression, dtype):
    """Of LZW, the usual one, "requires the 'imagecodecs' package" was the error."""
    path = label_images(tmp_path, [two_squares()] * 2, "{}.png")
    for letter in "ab":
        (tmp_path / "masks" / f"{letter}.png").unlink()
        picture = Image.fromarray(two_squares().astype(dtype))
        picture.save(tmp_path / "masks" / f"{letter}.tif", compression=compression)
    image = annotations.read(path).images[1]
    assert areas_of(image) == [("object", 100), ("object", 200)]


def test_label_images_in_compressed_tiffs_of_16_bits_where_0_is_white(tmp_path):
    """Each number was 65535 less itself, the ground an object."""
    path = label_images(tmp_path, [two_squares()] * 2, "{}.png")
    for letter in "ab":
        (tmp_path / "masks" / f"{letter}.png").unlink()
        picture = Image.fromarray(two_squares().astype(np.uint16))
        file = tmp_path / "masks" / f"{letter}.tif"
        picture.save(file, compression="tiff_lzw", tiffinfo={262: 0})
    assert areas_of(annotations.read(path).images[0]) == [("object", 100), ("object", 200)]


def test_label_images_of_several_pages_in_compressed_tiffs_are_refused(tmp_path):
    """The first page was taken for all, without a word; without LZW they are refused too."""
    path = label_images(tmp_path, [two_squares()] * 2, "{}.png")
    (tmp_path / "masks" / "a.png").unlink()
    page = Image.fromarray(two_squares())
    file = tmp_path / "masks" / "a.tif"
    page.save(file, compression="tiff_lzw", save_all=True, append_images=[page])
    (problem,) = annotations.read(path).problems
    assert "a label image of one page. Received: " in problem and "a.tif with 2" in problem


def test_label_images_in_tiffs_with_losses(tmp_path):
    path = label_images(tmp_path, [disc(), disc()], "{}.png")
    for letter, values in (("a", (80, 160)), ("b", (255,))):
        (tmp_path / "masks" / f"{letter}.png").unlink()
        picture = Image.fromarray(disc(values))
        picture.save(tmp_path / "masks" / f"{letter}.tif", compression="jpeg")
    annotated = annotations.read(path)
    (problem,) = annotated.problems
    assert "a label image in a format without losses" in problem and "a.tif, a TIFF" in problem
    assert areas_of(annotated.images[0]) == [("object", 417)]


@pytest.mark.parametrize("as_labels", [True, False])
def test_masks_in_tiffs_where_0_is_white(tmp_path, as_labels):
    """As tifffile writes bool, and ImageJ inverted ones: files of an object were the ground."""
    import tifffile

    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "a.png")
    for dtype in (bool, np.uint8):
        file = tmp_path / "masks" / "a_0.tif"
        if as_labels:
            file = tmp_path / "masks" / "a.tif"
        values = ((two_squares() == 1) * 255).astype(dtype)
        tifffile.imwrite(file, values, photometric="miniswhite")
        (image,) = annotations.read(tmp_path).images
        assert areas_of(image) == [("object", 100)]


def cvat_xml(name, end="</annotations>"):
    """CVAT's xml of an image with a square of 400 pixels."""
    points = "5,5;25,5;25,25;5,25"
    polygon = f'<polygon label="cat" points="{points}" z_order="0"/>'
    image = f'<image id="0" name="{name}" width="{WIDTH}" height="{HEIGHT}">{polygon}</image>'
    return f"<annotations><version>1.1</version>{image}{end}"


def test_a_damaged_xml_of_cvat_is_said(folder):
    """Beside others it was passed over without a word; alone, it was none of CVAT's."""
    (folder / "one.xml").write_text(cvat_xml("a.jpg", end=""))
    with pytest.raises(AnnotationError, match="one.xml: expected XML. Received: no element found"):
        annotations.read(folder)
    (folder / "two.xml").write_text(cvat_xml("b.png"))
    annotated = annotations.read(folder)
    (problem,) = annotated.problems
    assert "one.xml: expected XML. Received: no element found" in problem
    assert [areas_of(image) for image in annotated.images] == [[("cat", 400)]]


@pytest.mark.parametrize("kind", ["voc", "masks"])
def test_a_damaged_xml_beside_another_format_is_no_obstacle(tmp_path, kind):
    """The folder was refused for it, or its masks were passed over."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "a.jpg")
    (tmp_path / "old.xml").write_text(cvat_xml("a.jpg", end=""))
    if kind == "voc":
        box = "<xmin>6</xmin><ymin>6</ymin><xmax>25</xmax><ymax>15</ymax>"
        item = f"<object><name>object</name><bndbox>{box}</bndbox></object>"
        xml = f"<annotation><filename>a.jpg</filename>{item}</annotation>"
        (tmp_path / "a.xml").write_text(xml)
    else:
        (tmp_path / "masks").mkdir()
        Image.fromarray((two_squares() == 2) * np.uint8(255)).save(tmp_path / "masks" / "a.png")
    (image,) = annotations.read(tmp_path).images
    assert areas_of(image) == [("object", 200)]


def test_corners_of_pascal_voc_in_the_other_order(folder):
    """The object was left out: "expected a region with a pixel in the image"."""
    box = "<xmin>25</xmin><ymin>6</ymin><xmax>6</xmax><ymax>15</ymax>"
    item = f"<object><name>cat</name><bndbox>{box}</bndbox></object>"
    xml = f"<annotation><filename>a.jpg</filename>{item}</annotation>"
    (folder / "a.xml").write_text(xml)
    (image,) = annotations.read(folder).images
    assert areas_of(image) == [("cat", 200)]


def test_archives_in_a_folder_are_named(folder):
    (folder / "task_1.ZIP").write_bytes(b"PK")
    with pytest.raises(AnnotationError, match="is to be unpacked first: task_1.ZIP"):
        annotations.read(folder)


@pytest.mark.parametrize(
    "name, content, message",
    (
        ("train.csv", "ImageId,EncodedPixels\na.jpg,1 5\n", "EncodedPixels.*run lengths.*COCO's"),
        ("a_seg.npy", "", "arrays of numpy, of which none is read.*--save_png.*a_seg.npy"),
        ("a.jpg.json", '{"metadata": {}, "instances": []}', "SuperAnnotate's own json; export"),
        ("x.json", '{"export_format_version": "1.1", "images": []}', "Hasty's own json; export"),
    ),
)
def test_files_of_other_programs_are_named(folder, name, content, message):
    """The error was of "a folder with 0 json files"."""
    (folder / name).write_text(content)
    with pytest.raises(AnnotationError, match=message):
        annotations.read(folder)


def test_problems_of_geojson_name_the_image(folder):
    """It was "image None"."""
    geometry = {"type": "Polygon", "coordinates": [[[1, 1], [9, 1], [9, 9], [1, 1]]]}
    feature = {"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation"}}
    named = {**feature, "properties": {"classification": {"name": "Tumor"}}}
    collection = {"type": "FeatureCollection", "features": [named, feature]}
    (folder / "a.geojson").write_text(json.dumps(collection))
    (problem,) = annotations.read(folder).problems
    assert "file a.geojson, image 'a.jpg', region 1: expected an object with" in problem
