"""CocoDataset on generated data in COCO's layout and on coco-mini: annotations, files, what is
wrong, downloads."""

import copy
import http.server
import json
import logging
import re
import threading
import zipfile

import generated_coco
import numpy as np
import oracle
import pytest

from mrcnn import coco, data as data_room, evaluate, masks, utils
from mrcnn.config import Config


@pytest.fixture
def folder(tmp_path):
    generated_coco.write(tmp_path / "data")
    return tmp_path / "data"


def load(folder, subset="val", year="2017", **kwargs):
    dataset = coco.CocoDataset()
    dataset.load_coco(folder, subset, year, **kwargs)
    dataset.prepare()
    return dataset


def edit(folder, change, name="instances_val2017.json"):
    """Changes the json by a function of its contents."""
    path = folder / "annotations" / name
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_categories_images_and_references(folder):
    dataset = load(folder)
    assert dataset.num_images == 7  # the image without annotations is left out
    assert dataset.class_names == ["BG", "bright", "dark", "ring"]
    assert dataset.class_from_source_map == {".0": 0, "coco.3": 1, "coco.17": 2, "coco.90": 3}
    assert dataset.get_source_class_id(3, "coco") == 90
    assert load(folder, keep_empty=True).num_images == 8
    # Attributes that scripts read (README 18).
    assert dataset.sources == ["", "coco"] and dataset.source_class_ids == {
        "": [0],
        "coco": [0, 1, 2, 3],
    }
    assert dataset.image_from_source_map["coco.103"] == 1 and dataset.image_info[1]["id"] == 103
    assert {"id", "source", "path", "width", "height", "annotations"} <= dataset.image_info[
        0
    ].keys()
    # The original forgot the return of one branch (README 30).
    assert dataset.image_reference(0) == "https://cocodataset.org/#explore?id=100"
    dataset.add_image("other", 5, path="other/5.png")
    dataset.prepare()
    assert dataset.image_reference(7) == "other/5.png"


def test_some_classes(folder):
    dataset = load(folder, class_ids=[90, 3])
    assert dataset.class_names == ["BG", "bright", "ring"]
    assert {a["category_id"] for info in dataset.image_info for a in info["annotations"]} == {3, 90}
    with pytest.raises(ValueError, match="3, 17, 90. Received: 1, 4"):
        load(folder, class_ids=[4, 1])
    for every in ([], (), np.array([], int), iter([])):  # as matterport's `if not class_ids`
        assert load(folder, class_ids=every).num_classes == 4


def test_masks_of_every_kind(folder):
    """Polygons, runs as numbers and as text, crowds: against masks drawn by hand."""
    dataset = load(folder, keep_empty=True)
    data = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    for image_id, info in enumerate(dataset.image_info):
        expected = [a for a in data["annotations"] if a["image_id"] == info["id"]]
        masks, class_ids = dataset.load_mask(image_id)
        assert (
            masks.dtype == bool
            and masks.shape == (72, 96, len(expected))
            and class_ids.dtype == np.int32
        )
        assert class_ids.tolist() == [
            {3: 1, 17: 2, 90: 3}[a["category_id"]] * (-1 if a["iscrowd"] else 1) for a in expected
        ]
        if not expected:
            continue
        x, y, w, h = np.array(expected[0]["segmentation"][0])[[0, 1, 2, 5]] * [1, 1, 1, 1]
        box = np.zeros((72, 96), bool)
        box[y:h, x:w], box[60:68, 4:12] = True, True
        np.testing.assert_array_equal(masks[..., 0], box)
        assert masks[8:40, :, 1].sum() == 32 * 20 == masks[..., 1].sum()
        np.testing.assert_array_equal(masks[..., 2], generated_coco._ring(54, 60, 14))
        if len(expected) == 4:
            assert masks[50:, 80:, 3].all() and masks[..., 3].sum() == 22 * 16
        mask = dataset.annToMask(expected[1], 72, 96)
        assert mask.dtype == np.uint8 and (mask == masks[..., 1]).all()
        assert set(dataset.annToRLE(expected[0], 72, 96)) == {"size", "counts"}


def test_files_of_every_kind(folder):
    """Gray, CMYK, palette, RGBA and turned files all show their objects where the masks are."""
    dataset = load(folder)
    for image_id in dataset.image_ids:
        image, (masks, _) = dataset.load_image(image_id), dataset.load_mask(image_id)
        assert image.shape == (72, 96, 3) and image.dtype == np.uint8
        assert (
            np.abs(image[masks[..., 0]].mean() - 235) < 8
            and np.abs(image[masks[..., 1]].mean() - 15) < 8
        ), image_id


def test_several_files_in_one_dataset(folder):
    generated_coco.write(folder, "train", images=3, first=500)
    dataset = coco.CocoDataset()
    dataset.load_coco(folder, "train", 2017)
    loaded = dataset.load_coco(folder, "val", 2017, return_coco=True)
    dataset.prepare()
    assert (
        dataset.num_images == 10 and dataset.num_classes == 4 and sorted(loaded.cats) == [3, 17, 90]
    )


def test_any_json(folder):
    (folder / "val2017").rename(folder / "photos")
    dataset = coco.CocoDataset()
    dataset.load_json(
        folder / "annotations" / "instances_val2017.json", folder / "photos", source="mine"
    )
    dataset.prepare()
    assert dataset.num_images == 7 and dataset.map_source_class_id("mine.90") == 3
    assert dataset.image_reference(0) == str(folder / "photos" / "000000000100.jpg")
    assert dataset.load_mask(0)[0].shape == (72, 96, 4)


def test_minival(folder):
    """2017 has no minival file: it is the validation set (README 29)."""
    assert load(folder, "minival").num_images == 7
    with pytest.raises(ValueError, match="valminusminival is a part of 2014"):
        load(folder, "valminusminival")
    (folder / "annotations" / "instances_val2017.json").rename(
        folder / "annotations" / "instances_minival2014.json"
    )
    (folder / "val2017").rename(folder / "val2014")
    assert load(folder, "minival", 2014).num_images == 7


# ---- What is wrong with the data -----------------------------------------------------------------


def test_missing_folders(folder, caplog):
    with pytest.raises(
        FileNotFoundError, match="instances_val2014.json. .*annotations has instances_val2017.json"
    ):
        load(folder, year="2014")
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        load(folder / "nowhere")
    (folder / "val2017").rename(folder / "elsewhere")
    with caplog.at_level(logging.WARNING):
        dataset = load(folder)
    assert (
        len(caplog.records) == 1
        and f"there is no folder {folder / 'val2017'}; only the annotations" in caplog.text
    )
    # They are of use without the photographs; reading one of those is an error that names it.
    assert dataset.num_images == 7 and dataset.load_mask(0)[0].shape == (72, 96, 4)
    with pytest.raises(FileNotFoundError, match="Image 0: no file .*val2017/000000000100.jpg"):
        dataset.load_image(0)


def test_missing_images(folder, caplog):
    (folder / "val2017" / "000000000103.jpg").unlink()
    with caplog.at_level(logging.WARNING):
        assert load(folder).num_images == 6
    assert len(caplog.records) == 1
    assert (
        "instances_val2017.json: 1 images are not in" in caplog.text
        and "103 (000000000103.jpg)" in caplog.text
    )
    for path in (folder / "val2017").iterdir():
        path.unlink()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert load(folder).num_images == 7
    assert (
        "instances_val2017.json: none of its images is in" in caplog.text
        and len(caplog.records) == 1
    )


def test_images_whose_file_is_not_clear(folder, caplog):
    """They are not said to be missing: the files are named."""
    photos = folder / "val2017"
    for name in ("x", "y"):
        (photos / name).mkdir()
    original = photos / "000000000103.jpg"
    (photos / "x" / original.name).write_bytes(original.read_bytes())
    original.rename(photos / "y" / original.name)
    assert load(folder).num_images == 6
    assert "1 images have no file in " in caplog.text and "are not in" not in caplog.text
    assert re.search("103 .000000000103.jpg: .*Received: 2, .*/x/.*, .*/y/", caplog.text)


def break_reference(data):
    data["annotations"][0]["image_id"] = 4711


def break_category(data):
    data["annotations"][0]["category_id"] = 4


def break_polygon(data):
    data["annotations"][0]["segmentation"].append([1, 2, 3])


def break_polygons(data):
    data["annotations"][0]["segmentation"] = [[1, 2, 3]]


def break_odd(data):
    data["annotations"][0]["segmentation"][0].append(5)


def break_shape(data):
    del data["annotations"][0]["segmentation"]


def break_twin(data):
    data["annotations"].append(copy.deepcopy(data["annotations"][0]))


@pytest.mark.parametrize(
    "change, text, left",
    [
        (
            break_reference,
            (
                "1 annotations belong to an image that is not in the file and are left out: 5"
                " (image 4711)"
            ),
            3,
        ),
        (
            break_category,
            (
                "1 annotations belong to a category that is not in the file and are left out: 5"
                " (category 4)"
            ),
            3,
        ),
        (
            break_polygon,
            (
                "1 annotations have a polygon of less than 3 points or an odd count of numbers and"
                " those polygons are left out: 5 (image 100)"
            ),
            4,
        ),
        (
            break_polygons,
            (
                "polygon of less than 3 points or an odd count of numbers and those polygons are"
                " left out: 5 (image 100)"
            ),
            3,
        ),
        (
            break_odd,
            (
                "polygon of less than 3 points or an odd count of numbers and those polygons are"
                " left out: 5 (image 100)"
            ),
            4,
        ),
        (break_shape, "1 annotations have no segmentation and are left out: 5 (image 100)", 3),
        (break_twin, "1 annotations have an id that another one has and are left out: 5", 4),
    ],
)
def test_broken_annotations_are_named_once(folder, caplog, change, text, left):
    edit(folder, change)
    with caplog.at_level(logging.WARNING):
        dataset = load(folder)
    assert (
        len(caplog.records) == 1 and text in caplog.text and "instances_val2017.json" in caplog.text
    )
    assert len(dataset.image_info[0]["annotations"]) == dataset.load_mask(0)[0].shape[2] == left


def test_broken_json(folder):
    path = folder / "annotations" / "instances_val2017.json"
    text = path.read_text()
    cases = [
        (text[:-300], "instances_val2017.json is no valid json .cut off or damaged"),
        ("[]", "no lists images, annotations, categories.*Received: a list"),
        ('{"images": []}', "Received: an object with images"),
        (
            text.replace('"id": 100, ', "", 1),
            "each of images has an id. Received: .*000000000100.jpg.* at place 0",
        ),
        (text.replace('"name": "dark"', '"name": null'), "categories have a name.* none for id 17"),
        (text.replace('"id": 103, ', '"id": 100, ', 1), "ids of images occur more than once: 100"),
    ]
    for content, message in cases:
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            load(folder)


@pytest.mark.parametrize(
    "size, counts, text",
    [
        ([96, 72], None, "have the size of their image, 72 x 96. Received: 96 x 72"),
        (None, None, "run lengths have a size .height, width.. Received: None"),
        ([72, 96], [4000, 2911], "runs add up to 72 x 96 pixels. Received: 6911"),
        ([72, 96], [4000, 100, 2812, 7000], "runs add up to 72 x 96 pixels. Received: 13912"),
        ([72, 96], [4000, -100, 3012], "runs are not negative. Received: -100"),
        ([72, 96], [4000, None], "runs are whole numbers. Received: None"),
        ([72, 96], [4000.5, 2911.5], "runs are whole numbers. Received: 4000.5"),
        ([72, 96], None, "counts are a list or compressed text. Received: None"),
        ([72, 96], {}, "counts are a list or compressed text. Received: {}"),
        ([72, 96], "0f3", "runs add up to 72 x 96 pixels. Received: "),
        ([72, 96], "o", "counts are COCO's compressed text. Received: 'o'"),
        ([72, 96], "ünd 3 4", "counts are COCO's compressed text. Received"),
        ([72, 96], "", "runs add up to 72 x 96 pixels. Received: 0"),
    ],
)
def test_run_lengths_that_are_no_mask(folder, caplog, size, counts, text):
    """They are named and left out; the masks after them are not shifted (issue 19, row 3)."""
    expected = load(folder).load_mask(0)[0][..., [0, 2, 3]]

    def change(data):
        data["annotations"][1]["segmentation"] = {"size": size, "counts": counts}

    edit(folder, change)
    with caplog.at_level(logging.WARNING):
        dataset = load(folder)
    (record,) = caplog.records
    assert re.search(
        f"instances_val2017.json: 1 annotations have run lengths that are no mask of their image and"
        f" are left out: 12 .image 100: .*{text}",
        record.getMessage(),
    )
    np.testing.assert_array_equal(dataset.load_mask(0)[0], expected)
    with pytest.raises(masks.SegmentationError, match=f"annotation 12: .*{text}"):
        dataset.annToMask({"id": 12, "segmentation": {"size": size, "counts": counts}}, 72, 96)


def test_run_lengths_as_programs_write_them(folder, caplog):
    """Floats, text, bytes shown by Python, a list with one RLE: the mask is the same."""
    data = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    plain = data["annotations"][1]["segmentation"]
    compressed = data["annotations"][2]["segmentation"]
    shapes = [
        {"size": [72.0, "96"], "counts": [float(run) for run in plain["counts"]]},
        {**plain, "counts": [str(run) for run in plain["counts"]]},
        {**compressed, "counts": str(compressed["counts"].encode())},
        [compressed],
        json.dumps(compressed),
    ]
    dataset = load(folder)
    for shape, which in zip(shapes, (1, 1, 2, 2, 2)):

        def change(data, shape=shape):
            data["annotations"][1]["segmentation"] = shape

        edit(folder, change)
        mask = load(folder).load_mask(0)[0][..., 1]
        np.testing.assert_array_equal(mask, dataset.load_mask(0)[0][..., which])
    assert not caplog.records


# ---- What other programs write -------------------------------------------------------------------


def each(change):
    """A change of a json that changes each of its annotations."""

    def apply(data):
        for annotation in data["annotations"]:
            change(annotation)

    return apply


def polygons(change):
    """A change of each annotation that has polygons."""

    def apply(annotation):
        if isinstance(annotation["segmentation"], list):
            annotation["segmentation"] = change(annotation["segmentation"])

    return each(apply)


def ids_as(kind):
    """All ids, and what refers to them, as another kind."""

    def apply(data):
        for key in ("images", "annotations", "categories"):
            for item in data[key]:
                for name in {"id", "image_id", "category_id"} & item.keys():
                    item[name] = kind(item[name])

    return apply


def references_as(kind):
    return each(lambda item: item.update({k: kind(item[k]) for k in ("image_id", "category_id")}))


def by_id(data):
    for key in ("images", "annotations", "categories"):
        data[key] = {str(item.pop("id")): item for item in data[key]}


def of_images(**values):
    """A change of fields of the images; None takes one away."""

    def apply(data):
        for image in data["images"]:
            for name, value in values.items():
                image[name] = value(image) if callable(value) else value

    return apply


def address(data):
    for image in data["images"]:
        image["coco_url"] = f"http://images.org/val/{image.pop('file_name')}?size=full"


def path_of_another_machine(form):
    return of_images(file_name=lambda image: form.format(image["file_name"]))


def via_3(data):
    """As VIA 3 exports: text ids, no sizes, flat polygons, no areas."""
    ids_as(str)(data)
    of_images(width=-1, height=-1)(data)
    polygons(lambda shape: shape[0])(data)
    each(lambda item: item.update(area=None))(data)


def roboflow(data):
    """Its first category groups the others, with the name of one of them."""
    data["categories"].insert(0, {"id": 0, "name": "bright", "supercategory": "none"})
    for category in data["categories"][1:]:
        category["supercategory"] = "bright"


FORMS = {
    "flat polygons": polygons(lambda shape: shape[0]),
    "polygons of points": polygons(lambda shape: [np.reshape(p, (-1, 2)).tolist() for p in shape]),
    "a list of points": polygons(lambda shape: np.reshape(shape[0], (-1, 2)).tolist()),
    "numbers as text": polygons(lambda shape: [list(map(str, part)) for part in shape]),
    "a polygon as text": polygons(json.dumps),
    "text ids": ids_as(str),
    "padded text ids": ids_as("{:012d}".format),
    "float ids": ids_as(float),
    "ids as text in annotations": references_as(str),
    "ids that are no numbers": ids_as("a{:03d}".format),
    "ids with an underscore": ids_as("1_{:03d}".format),
    "lists as objects": by_id,
    "no ids": each(lambda item: item.pop("id")),
    "ids null": each(lambda item: item.update(id=None)),
    "categories by name": each(
        lambda item: item.update(category_id=generated_coco.CATEGORIES[item["category_id"]])
    ),
    "iscrowd as a boolean": each(lambda item: item.update(iscrowd=bool(item["iscrowd"]))),
    "iscrowd as text": each(lambda item: item.update(iscrowd=str(item["iscrowd"]))),
    "no numbers": each(lambda item: item.update(area=None, bbox=[])),
    "area and bbox as text": each(lambda item: item.update(area=str(item["area"]), bbox="")),
    "nothing but shapes": each(lambda item: [item.pop(name) for name in ("area", "bbox")]),
    "NaN and Infinity": each(lambda item: item.update(area=float("inf"), bbox=[float("nan")] * 4)),
    "corners": each(
        lambda item: item.update(
            bbox=[*item["bbox"][:2], *np.add(item["bbox"][:2], item["bbox"][2:]).tolist()],
            bbox_mode=0,
        )
    ),
    "bitmaps": lambda data: [
        item.update(segmentation=masks.decode([item], 72, 96)[..., 0].astype(int).tolist())
        for item in data["annotations"]
    ],
    "sizes of -1": of_images(width=-1, height=-1),
    "sizes null": of_images(width=None, height=None),
    "sizes as text": of_images(width="96", height="72.0"),
    "addresses": address,
    "file_name null": of_images(path=lambda image: image["file_name"], file_name=None),
    "Windows": path_of_another_machine("D:\\photos\\{}"),
    "Label Studio": path_of_another_machine("images\\1\\{}"),
    "absolute": path_of_another_machine("/home/you/photos/{}"),
    "upwards": path_of_another_machine("..\\images\\{}"),
    "a URL": path_of_another_machine("https://host/data/{}?X-Amz=1"),
    "VIA 3": via_3,
    "Roboflow": roboflow,
    "keypoints null": lambda data: data["categories"][0].update(keypoints=None),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_other_programs(folder, caplog, form):
    """Masks, classes and the truth of an evaluation are those of COCO's own form (issue 19)."""
    expected = load(folder)
    part = "a list of points" if "flat" in form or form == "VIA 3" else form
    if part == "a list of points":  # an object of one part
        edit(folder, polygons(lambda shape: shape[:1]))
        expected = load(folder)
    edit(folder, FORMS[form])
    dataset = load(folder)
    assert dataset.class_names == expected.class_names
    assert dataset.num_images == expected.num_images
    for image_id in dataset.image_ids:
        info = dataset.image_info[image_id]
        assert (info["height"], info["width"]) == (72, 96)
        assert info["path"] == expected.image_info[image_id]["path"]
        assert dataset.load_image(image_id).shape == (72, 96, 3)
        for ours, theirs in zip(dataset.load_mask(image_id), expected.load_mask(image_id)):
            np.testing.assert_array_equal(ours, theirs)
    truth = evaluate.ground_truth(dataset).data["annotations"]
    for ours, theirs in zip(truth, evaluate.ground_truth(expected).data["annotations"]):
        assert ours["iscrowd"] == theirs["iscrowd"]
        assert abs(ours["area"] - theirs["area"]) <= max(70, theirs["area"] / 10)
        np.testing.assert_allclose(ours["bbox"], theirs["bbox"], atol=60 if "VIA" in form else 1)
    said = form == "Roboflow" or "found by their base names" in caplog.text
    assert len(caplog.records) == int(said)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings(folder, encoding):
    path = folder / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text().replace('"dark"', '"темно"'), encoding=encoding)
    assert load(folder).class_names == ["BG", "bright", "темно", "ring"]


@pytest.mark.parametrize(
    "number", [None, float("nan"), float("-inf"), 1e12, -1e12, 10**400, "x", [1, 2], {}]
)
def test_polygons_that_are_no_place_in_an_image(folder, caplog, number):
    """They took all memory; now they are named and left out, the object's others stay (row 2)."""
    far = load(folder).load_mask(0)[0]
    edit(folder, lambda data: data["annotations"][0]["segmentation"][0].__setitem__(2, number))
    dataset = load(folder)
    (record,) = caplog.records
    assert re.search(
        "1 annotations have a polygon with null, NaN, text or a number that is no place in an image"
        " and those polygons are left out: 5 .image 100: a polygon.* Received: ",
        record.getMessage(),
    )
    found = dataset.load_mask(0)[0]
    np.testing.assert_array_equal(found[..., 1:], far[..., 1:])
    assert found[60:68, 4:12, 0].all() and found[..., 0].sum() == 64
    with pytest.raises(masks.SegmentationError, match="annotation 9: a polygon"):
        dataset.annToMask({"id": 9, "segmentation": [[0, 0, number, 9, 9, 9]]}, 72, 96)


@pytest.mark.parametrize("text", ["1_2", "nan", "1e", "", "0x10", "1,5"])
def test_text_that_is_no_number(folder, caplog, text):
    """float() reads 1_2 as 12."""

    def change(data):
        data["annotations"][1].update(
            segmentation=[[text, 2, "20", "2.0", 2e1, 20]], area=text, bbox=[text, 2, 3, 4]
        )

    edit(folder, change)
    load(folder)
    assert "1 annotations have a polygon with null, NaN, text" in caplog.text
    assert coco.sound_box([text, 2, 3, 4]) is None and coco.sound_box(["1", 2, "3.5", 4e0])


def test_an_outline_without_end_is_left_out(caplog, folder):
    """pycocotools takes memory by the length of an outline."""
    zigzag = [99_999, 0, -99_999, 9] * 100
    edit(folder, lambda data: data["annotations"][0].update(segmentation=[zigzag]))
    assert len(load(folder).image_info[0]["annotations"]) == 3
    assert "outline is at most 5000000 pixels long" in caplog.text


def test_many_objects_on_one_image(folder):
    """Masks of 20,000 objects took 6 GB to make; most of their memory is never touched (row 2)."""
    import resource

    def change(data):
        del data["annotations"][1:]
        for number in range(4_000):
            x = number % 390
            y = number // 390
            outline = [x, y, x + 3, y, x + 3, y + 3, x, y + 3]
            item = {"id": 100 + number, "segmentation": [outline], "area": 9, "bbox": [x, y, 3, 3]}
            data["annotations"].append({**data["annotations"][0], **item})
        data["images"][0].update(width=400, height=200)

    edit(folder, change)
    dataset = load(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found, class_ids = dataset.load_mask(0)
    assert found.shape == (200, 400, 4_001) and len(class_ids) == 4_001
    assert found[0, :3, 1].all() and found[..., 5].sum() == 9
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # kB, of 320,000


@pytest.mark.parametrize(
    "crowds, expected",
    [("auto", [1, 2, 3, 2]), ("keep", [-1, -2, -3, -2]), ("objects", [1, 2, 3, 2])],
)
def test_a_file_of_nothing_but_crowds(folder, caplog, crowds, expected):
    """CVAT and pycococreator write iscrowd 1 for run lengths: training trained nothing (row 4)."""
    edit(folder, each(lambda item: item.update(iscrowd=1)))
    dataset = load(folder, crowds=crowds)
    assert dataset.load_mask(0)[1].tolist() == expected
    if crowds == "auto":
        (record,) = caplog.records
        assert "all 25 annotations are crowds (iscrowd 1)" in record.getMessage()
        return
    assert not caplog.records


def test_crowds_beside_objects(folder, caplog):
    """They stay crowds, and many of them are said."""
    edit(folder, each(lambda item: item.update(iscrowd=int(type(item["segmentation"]) is dict))))
    assert load(folder).load_mask(0)[1].tolist() == [1, -2, -3, -2]
    assert "18 of 25 annotations are crowds (iscrowd 1), which train nothing" in caplog.text
    assert load(folder, crowds="objects").load_mask(0)[1].tolist() == [1, 2, 3, 2]
    with pytest.raises(ValueError, match="crowds is one of auto, keep, objects. Received: 'all'"):
        load(folder, crowds="all")


@pytest.mark.parametrize("writer", ("V7", "supervision", "unknown"))
def test_holes_that_are_crowds(tmp_path, caplog, writer):
    """V7 and supervision write iscrowd 1 for what has a hole: it trained nothing, without a word."""
    supercategory = {"supervision": "common-objects"}.get(writer, "root")
    annotations = [
        {
            "id": number,
            "image_id": 1,
            "category_id": 1,
            "iscrowd": 0,
            "segmentation": [[1, 1, 10, 1, 10, 10, 1, 10 + number]],
        }
        for number in range(1, 7)
    ]
    ring = {"size": [40, 60], "counts": [100, 50, 10, 50, 2190]}
    annotations.append({**annotations[0], "id": 7, "iscrowd": 1, "segmentation": ring})
    data = {
        "info": {"description": "Exported from Darwin" if writer == "V7" else ""},
        "images": [{"id": 1, "file_name": "a.jpg", "width": 60, "height": 40}],
        "categories": [{"id": 1, "name": "cup", "supercategory": supercategory}],
        "annotations": annotations,
    }
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(data))
    is_crowd = int(writer == "unknown")
    assert coco.read_annotations(path).anns[7]["iscrowd"] == is_crowd
    (message,) = caplog.messages
    assert "1 of 7 annotations are crowds (iscrowd 1)" in message
    if is_crowd:
        assert "which train nothing" in message and "--crowds=objects" in message
    else:
        assert f"as {writer} writes objects with a hole" in message
    assert coco.read_annotations(path, "keep").anns[7]["iscrowd"] == 1
    annotations[0]["segmentation"] *= 2  # a file that has other means for parts
    path.write_text(json.dumps(data))
    assert coco.read_annotations(path).anns[7]["iscrowd"] == is_crowd
    assert sum("which train nothing" in text for text in caplog.messages) == is_crowd


def test_categories_that_group_others(folder, caplog):
    """Roboflow's first category is no class; one that has annotations is (row 14)."""

    def group(data):
        data["categories"].insert(0, {"id": 0, "name": "shapes", "supercategory": "none"})
        for category in data["categories"][1:]:
            category["supercategory"] = "shapes"
        data["categories"].append({"id": 5, "name": "unseen", "supercategory": "none"})

    edit(folder, group)
    assert load(folder).class_names == ["BG", "bright", "unseen", "dark", "ring"]
    assert "1 categories have no annotations and only group others" in caplog.text
    assert "are left out: 0 (shapes)" in caplog.text
    edit(folder, lambda data: data["annotations"][0].update(category_id=0))
    assert load(folder).class_names == ["BG", "shapes", "bright", "unseen", "dark", "ring"]


@pytest.mark.parametrize(
    "first",
    [
        {"id": 1, "name": "vehicle", "supercategory": "none"},
        {"id": 0, "name": "vehicle", "supercategory": "road"},
        {"id": 0, "name": "vehicle", "supercategory": ""},
        {"id": 0, "name": "vehicle"},
        {"id": 1, "name": "vehicle", "supercategory": None},
    ],
)
def test_classes_are_those_of_each_split(folder, first, caplog):
    """A category without an object in one file has objects in another: it stays in both."""

    def with_vehicle(data):
        data["categories"].insert(0, first)
        for category in data["categories"][1:]:
            category["supercategory"] = "vehicle"

    edit(folder, with_vehicle)
    assert load(folder).class_names == ["BG", "vehicle", "bright", "dark", "ring"]
    assert not caplog.records


def test_a_root_with_the_name_of_a_class_without_objects(folder):
    """It is left out whether the class has annotations in this file or not."""
    edit(folder, roboflow)
    assert load(folder).class_names == ["BG", "bright", "dark", "ring"]

    def without_bright(data):
        data["annotations"] = [item for item in data["annotations"] if item["category_id"] != 3]

    edit(folder, without_bright)
    assert load(folder).class_names == ["BG", "bright", "dark", "ring"]


def test_text_ids_with_zeros_are_ids_of_their_own(folder, caplog):
    """ "001" and "1" are two images, "000139" is given back as it is written."""

    def padded(data):
        data["images"][0]["id"] = "001"
        data["images"][1]["id"] = "1"
        for annotation in data["annotations"]:
            new = {100: "001", 103: "1"}
            annotation["image_id"] = new.get(annotation["image_id"], annotation["image_id"])

    expected = load(folder)
    edit(folder, padded)
    dataset = load(folder)
    assert not caplog.records
    assert [info["id"] for info in dataset.image_info][:3] == ["001", "1", "106"]
    assert dataset.image_from_source_map["coco.001"] == 0
    for ours, theirs in zip(dataset.image_info, expected.image_info):
        assert len(ours["annotations"]) == len(theirs["annotations"])


@pytest.mark.parametrize("reference", [int, str, "{:012d}".format, float])
@pytest.mark.parametrize("kind", [int, str, "{:06d}".format])
def test_references_to_ids_written_otherwise(folder, caplog, kind, reference):
    """Numbers, texts and texts with zeros refer to each other where one id alone is meant."""
    edit(folder, ids_as(kind))
    edit(folder, references_as(lambda value: reference(int(value))))
    dataset = load(folder)
    assert not caplog.records and dataset.class_names == ["BG", "bright", "dark", "ring"]
    assert sum(len(info["annotations"]) for info in dataset.image_info) == 25
    expected = kind(100)
    if kind is str:
        expected = 100
    assert dataset.image_info[0]["id"] == expected


def test_classes_of_one_name(folder, caplog, tmp_path):
    """Both have annotations: they stay two classes, and are told apart in tables."""
    edit(folder, lambda data: data["categories"][1].update(name="bright"))
    dataset = load(folder)
    assert "several categories have one name: 'bright'" in caplog.text
    ours = evaluate.evaluate_detections(dataset, [])
    assert list(ours.per_class) == ["bright", "bright (2)", "ring"]
    assert ours.save(tmp_path)


def test_ids_that_count_anew_in_each_image(folder, caplog):
    """Merged files have them; only an equal annotation is left out."""

    def count_anew(data):
        data["annotations"].append(copy.deepcopy(data["annotations"][3]))
        for number, annotation in enumerate(data["annotations"]):
            annotation["id"] = number % 3 if number < 25 else 0

    edit(folder, count_anew)
    assert sum(len(info["annotations"]) for info in load(folder).image_info) == 25
    assert (
        len(caplog.records) == 1 and "1 annotations have an id that another one has" in caplog.text
    )


def test_images_without_a_name_or_a_size(folder, caplog):
    """They are named and left out; the others are used."""

    def change(data):
        data["images"][0]["file_name"] = None
        data["images"][1].update(height=-1)
        data["images"].append(None)
        del data["annotations"][5:7]  # run lengths tell a size

    edit(folder, change)
    (folder / "val2017" / "000000000103.jpg").write_text("no image")
    assert [info["id"] for info in load(folder).image_info] == [106, 109, 112, 115, 118]
    assert "1 images have no file_name and are left out: 100" in caplog.text
    assert re.search("1 images have no height or width there.* left out: 103 .0000", caplog.text)
    assert "1 images are no objects {...} and are left out: None" in caplog.text


def test_sizes_of_photographs_that_the_json_does_not_tell(folder, caplog, monkeypatch):
    """Of one beyond Pillow's limit, of a turned TIFF, and beside a broken note of the camera."""
    from PIL import Image

    def change(data):
        names = ["large.png", "turned.tif", "note.jpg"]
        data["annotations"] = data["annotations"][:0]
        for image, name in zip(data["images"], names):
            image.update(width=-1, height=-1, file_name=name)
            shape = [[2, 2, 20, 2, 20, 20]]
            item = {"image_id": image["id"], "category_id": 3, "segmentation": shape}
            data["annotations"].append(item)

    edit(folder, change)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("RGB", (30, 20))
    picture.save(folder / "val2017" / "turned.tif", exif=exif)
    picture.save(folder / "val2017" / "note.jpg", exif=b"Exif\0\0MM\0*\0\0\xff\xff")
    Image.new("RGB", (60, 40)).save(folder / "val2017" / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # an error from 2000 on
    dataset = load(folder)
    sizes = [(info["height"], info["width"]) for info in dataset.image_info]
    assert sizes == [(40, 60), (30, 20), (20, 30)]
    for image_id, size in enumerate(sizes):
        assert dataset.load_image(image_id).shape[:2] == size
    assert "left out:" not in caplog.text


def test_run_lengths_tell_a_size_that_is_not_known(folder, caplog):
    """As long as the images aren't there either."""
    edit(folder, of_images(width=-1, height=-1))
    (folder / "val2017").rename(folder / "elsewhere")
    dataset = load(folder)
    assert dataset.num_images == 7 and dataset.load_mask(0)[0].shape == (72, 96, 4)


def test_outlines_outside_the_image_are_said_once(folder, caplog):
    """Such as polygons in shares of the image."""

    def change(data):
        for annotation in data["annotations"]:
            if annotation["category_id"] == 3:
                annotation["segmentation"] = [[0.1, 0.1, 0.4, 0.1, 0.4, 0.4]]

    edit(folder, change)
    dataset = load(folder)
    for image_id in (0, 1, 0):
        assert 1 not in dataset.load_mask(image_id)[1]
    (record,) = caplog.records
    assert "(id 100 in " in record.getMessage()
    assert "1 annotations have no pixel in the image and are left out: 5" in record.getMessage()


def test_where_other_jsons_are(folder):
    """The message lists them, where none can be meant or a folder is given."""
    path = folder / "annotations" / "instances_val2017.json"
    (folder / "deeper").mkdir()
    path.rename(folder / "deeper" / "instances_test.json")
    path.parent.rmdir()
    with pytest.raises(
        FileNotFoundError, match="no folder .*annotations. .* has deeper/instances_t"
    ):
        load(folder)
    with pytest.raises(
        FileNotFoundError, match="is a folder. Its json files: deeper/instances_tes"
    ):
        coco.CocoDataset().load_json(folder, folder)


def test_a_file_without_a_shape(folder, caplog):
    edit(folder, each(lambda item: item.update(segmentation=[], bbox=[])))
    assert load(folder).num_images == 0
    assert "25 annotations have no segmentation and are left out" in caplog.text
    assert "none of its 8 images has an annotation that can be used" in caplog.text


@pytest.mark.parametrize("nothing", [[], None, {}, "absent"], ids=str)
def test_a_file_of_boxes_alone(folder, caplog, nothing):
    """As YOLO's boxes they are taken for the shapes, in a file without any shape."""

    def change(item):
        item.update(segmentation=nothing, bbox=[10, 20, 30.0, "15"])
        if nothing == "absent":
            del item["segmentation"]

    edit(folder, each(change))
    dataset = load(folder)
    masks, _ = dataset.load_mask(0)
    assert masks[20:35, 10:40].all() and masks.sum() == 15 * 30 * masks.shape[2] > 0
    assert "no annotation has a segmentation; the boxes of 25 are taken" in caplog.text


@pytest.mark.parametrize("levels", [1, 2])
def test_points_within_lists(folder, levels):
    """cv2.findContours gives [points, 1, (x, y)], and its list of contours is dumped as it is."""
    points = np.array([[10, 20], [40, 20], [40, 35], [10, 35]])
    shape = [points.reshape((-1, 1, 2), order="C").tolist(), points[None].tolist()][levels - 1]
    edit(folder, each(lambda item: item.update(segmentation=[shape])))
    masks, _ = load(folder).load_mask(0)
    assert masks[20:35, 10:40].all() and masks.sum() == 15 * 30 * masks.shape[2] > 0


def test_shares_instead_of_pixels(folder):
    """Each object would be one pixel in the corner, without a word."""

    def share(item):
        item["segmentation"] = [[0.1, 0.1, 0.9, 0.1, 0.9, 1.0]]

    edit(folder, each(share))
    with pytest.raises(ValueError, match="val2017.json: polygons are in pixels. Received: none be"):
        load(folder)


@pytest.mark.parametrize(
    "field, text", [("segments_info", "a panoptic json"), ("caption", "one of captions")]
)
def test_other_jsons_of_coco(folder, field, text):
    edit(folder, lambda data: data.update(annotations=[{"image_id": 100, field: []}]))
    with pytest.raises(ValueError, match=f"expected a json of instances.* Received: {text}"):
        load(folder)


def test_what_is_there_twice(folder, caplog):
    """Equal images and categories, as in merged files, count once; an id of two is refused."""

    def merge(data):
        for key in ("images", "categories"):
            data[key] += copy.deepcopy(data[key][:1])

    expected = load(folder)
    edit(folder, merge)
    dataset = load(folder)
    assert [info["path"] for info in dataset.image_info] == [
        info["path"] for info in expected.image_info
    ]
    assert dataset.class_names == expected.class_names
    assert "1 images are there twice and are taken once: 100" in caplog.text
    edit(folder, lambda data: data["categories"][-1].update(name="other"))
    with pytest.raises(ValueError, match=r"categories occur more than once: 3 \('bright', 'other"):
        load(folder)


def test_names_of_categories_are_plain(folder):
    """As in the other formats: without spaces around them, an accent in one sign."""

    def rename(data):
        data["categories"][0]["name"] = " cafe\u0301 "
        data["annotations"][0]["category_id"] = "cafe\u0301"

    expected = load(folder)
    edit(folder, rename)
    dataset = load(folder)
    assert dataset.class_names[1] == "caf\u00e9"
    assert dataset.load_mask(0)[1].tolist() == expected.load_mask(0)[1].tolist()


def test_one_file_of_several_images(folder, caplog):
    """Each image would teach that the other's objects are background: it is said."""

    def rename(data):
        data["images"][1]["file_name"] = data["images"][0]["file_name"]

    edit(folder, rename)
    load(folder)
    assert "1 files are those of several images" in caplog.text
    assert "000000000100.jpg" in caplog.text


def test_images_beside_the_folder_of_annotations(folder, caplog):
    """Names that are not there literally are looked for in the dataset, as in the other reader."""
    path = folder / "annotations" / "instances_val2017.json"
    data = json.loads(path.read_text())
    for image in data["images"]:
        image["file_name"] = "job_7/" + image["file_name"]
    path.write_text(json.dumps(data))
    dataset = coco.CocoDataset()
    dataset.load_json(path)
    assert dataset.image_info[0]["path"] == str(folder / "val2017" / "000000000100.jpg")
    assert len(dataset.image_info) == 7 and "found by their base names" in caplog.text


def test_broken_photographs(folder):
    path = folder / "val2017" / "000000000100.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(
        ValueError, match="000000000100.jpg .id 100 in .*instances_val2017.json.*truncated"
    ):
        load(folder).load_image(0)

    # Training doesn't start, and names it.
    with pytest.raises(
        data_room.DatasetError, match="has 1 problem.*\n.*000000000100.jpg .id 100 in .*json"
    ):
        data_room.check_dataset(load(folder), Config(NUM_CLASSES=4))

    def taller(data):
        data["images"][1]["height"] = 80

    edit(folder, taller)
    with pytest.raises(
        ValueError,
        match="000000000103.jpg .id 103 in .* is 80 x 96 pixels there. Received: 72 x 96",
    ):
        load(folder).load_image(1)


def test_base_class_without_masks(caplog):
    """The original's base class gave [0, 0, 0] (README 14)."""
    dataset = coco.CocoDataset()
    dataset.add_image("other", 1, path=None, height=5, width=6)
    dataset.prepare()
    masks, class_ids = dataset.load_mask(0)
    assert masks.shape == (5, 6, 0) and class_ids.shape == (0,)


# ---- Downloads -----------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A local server of COCO's paths whose answers can break off; yields (files, limits,
    requests)."""
    files, limits, requests = {}, {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append((self.path, self.headers.get("Range")))
            body = files.get(self.path)
            if body is None:
                return self.send_error(404)
            start = (
                int(self.headers["Range"].split("=")[1].rstrip("-"))
                if "Range" in self.headers
                else 0
            )
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            self.wfile.write(body[start:][: limits.pop(self.path, None)])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(coco, "ADDRESS", f"http://127.0.0.1:{running.server_port}")
        monkeypatch.setattr(coco, "PARTS_2014", {"minival": f"{coco.ADDRESS}/mini.json.zip?dl=1"})
        yield files, limits, requests
        running.shutdown()
        thread.join()


def zipped(folder, *names):
    path = folder.parent / "made.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            for each in (
                sorted((folder / name).rglob("*")) if (folder / name).is_dir() else [folder / name]
            ):
                archive.write(
                    each, each.relative_to(folder if (folder / name).is_dir() else each.parent)
                )
    return path.read_bytes()


def test_download_breaks_off_and_goes_on(folder, tmp_path, server):
    files, limits, requests = server
    files["/annotations/annotations_trainval2017.zip"] = zipped(folder, "annotations")
    files["/zips/val2017.zip"] = zipped(folder, "val2017")
    there = tmp_path / "new"
    limits["/zips/val2017.zip"] = 5000
    with pytest.raises(ValueError, match="broke off after 5000"):
        load(there, auto_download=True)
    # No empty folder that a later run would take for the images (README 29).
    assert (
        not (there / "val2017").exists()
        and (there / "annotations" / "instances_val2017.json").exists()
    )
    requests.clear()
    (there / ".val2017.unpacking" / "val2017").mkdir(parents=True)  # killed while it was unpacking
    assert load(there, auto_download=True).num_images == 7
    assert requests == [("/zips/val2017.zip", "bytes=5000-")]
    requests.clear()
    assert load(there, auto_download=True).num_images == 7 and not requests
    assert sorted(each.name for each in there.iterdir()) == ["annotations", "val2017"]
    # A half-full folder of another program is filled up.
    (there / "val2017" / "000000000103.jpg").unlink()
    assert load(there, auto_download=True).num_images == 7


def test_download_of_a_broken_zip(folder, tmp_path, server):
    files, _, _ = server
    files["/annotations/annotations_trainval2017.zip"] = b"no zip"
    with pytest.raises(OSError, match="annotations_trainval2014.zip can't be downloaded: .*404"):
        load(tmp_path / "new", "val", 2014, auto_download=True)
    with pytest.raises(ValueError, match="no whole zip file and was removed, run again"):
        load(tmp_path / "new", auto_download=True)
    assert not list((tmp_path / "new").iterdir())


def test_download_of_minival(folder, tmp_path, server):
    files, _, _ = server
    (folder / "annotations" / "instances_val2017.json").rename(
        folder / "annotations" / "instances_minival2014.json"
    )
    (folder / "val2017").rename(folder / "val2014")
    files["/mini.json.zip?dl=1"] = zipped(folder, "annotations/instances_minival2014.json")
    files["/zips/val2014.zip"] = zipped(folder, "val2014")
    assert load(tmp_path / "new", "minival", 2014, auto_download=True).num_images == 7
    with pytest.raises(ValueError, match="Received: 'test', '2017'"):
        load(tmp_path / "new", "test", auto_download=True)


# ---- Real photographs ----------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(
    "subset, images, annotated, crowds", [("train", 100, 98, 6), ("val", 50, 50, 3)]
)
def test_coco_mini(subset, images, annotated, crowds):
    """Counts of the shared README; masks by pycocotools' own annToMask; every photograph has the
    json's size."""
    folder = oracle.shared("data/coco-mini")
    dataset = load(folder, subset, keep_empty=True)
    assert dataset.num_images == images and dataset.num_classes == 81
    assert load(folder, subset).num_images == annotated
    official = coco.read_annotations(folder / "annotations" / f"instances_{subset}2017.json")
    negative = 0
    for image_id in dataset.image_ids:
        info = dataset.image_info[image_id]
        masks, class_ids = dataset.load_mask(image_id)
        assert dataset.load_image(image_id).shape == (info["height"], info["width"], 3)
        negative += (class_ids < 0).sum()
        expected = [official.annToMask(a) for a in official.imgToAnns[info["id"]]]
        assert masks.shape[2] == len(expected)
        for i, mask in enumerate(expected):
            assert (masks[..., i] == mask).all()
    assert negative == crowds


def test_says_what_it_reads(folder, caplog, capsys, monkeypatch):
    """In the log; large files without any setting of logging too."""
    with caplog.at_level(logging.INFO, "mrcnn.coco"):
        load(folder)
    assert (
        "instances_val2017.json, 0.0 MB" in caplog.text
        and "8 images, 25 annotations, 3 categories in" in caplog.text
    )
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(coco, "LARGE_MEGABYTES", 0)
    load(folder)
    assert "Reading" in capsys.readouterr().err


def test_show_progress_is_not_drawn_on_files(capsys):
    utils.show_progress("x", 1, 2, 1.0)
    assert capsys.readouterr().err == ""


# ---- Ids and boxes as other converters write them ------------------------------------------------


@pytest.mark.parametrize("count", (1, 2), ids=["stem", "name"])
def test_annotations_that_name_their_image(folder, caplog, count):
    """They were of no image in the file, so that the images counted as empty."""
    before = load(folder, keep_empty=True)

    def change(data):
        names = {image["id"]: image["file_name"] for image in data["images"]}
        for item in data["annotations"]:
            item["image_id"] = ".".join(names[item["image_id"]].split(".")[:count])
        for image in data["images"]:
            image["id"] += 1000  # a number that is no name

    edit(folder, change)
    after = load(folder, keep_empty=True)
    assert not caplog.messages
    for image_id in range(before.num_images):
        for a, b in zip(before.load_mask(image_id), after.load_mask(image_id)):
            np.testing.assert_array_equal(a, b)


def squares(path, boxes, outlines):
    """Writes a json of an image of 100 x 200 for each (x, y, width, height), in `boxes` as given.

    outlines: (x, y, width, height) of the polygons, None for none.
    """
    images = []
    items = []
    for number, box in enumerate(boxes, 1):
        images.append({"id": number, "file_name": f"{number}.png", "height": 100, "width": 200})
        item = {"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "bbox": box}
        if outlines is not None:
            x, y, width, height = outlines[number - 1]
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            item["segmentation"] = [corners]
        items.append(item)
    categories = [{"id": 1, "name": "cat"}]
    path.write_text(json.dumps({"images": images, "annotations": items, "categories": categories}))
    return path


def test_boxes_that_are_corners_of_the_polygons(tmp_path, caplog):
    """They were taken for [x, y, width, height]: box AP of a perfect detector was 0."""
    outlines = [[20, 30, 50, 20], [150, 60, 40, 30]]
    corners = [[20, 30, 70, 50], [150, 60, 190.4, 90]]
    path = squares(tmp_path / "x.json", corners, outlines)
    read = coco.read_annotations(path)
    assert [item["bbox"] for item in read.anns.values()] == outlines
    (line,) = caplog.messages
    assert "the boxes are corners [x1, y1, x2, y2] of the polygons" in line
    caplog.clear()
    # A box from the image's corner is the same in both forms.
    outlines.append([0, 0, 30, 30])
    path = squares(tmp_path / "y.json", [*corners, [0, 0, 30, 30]], outlines)
    boxes = [item["bbox"] for item in coco.read_annotations(path).anns.values()]
    assert boxes == outlines
    caplog.clear()
    # One that is not that of its polygon by either is as it stands.
    path = squares(tmp_path / "z.json", [corners[0], [3, 3, 4, 4]], outlines[:2])
    boxes = [item["bbox"] for item in coco.read_annotations(path).anns.values()]
    assert boxes == [corners[0], [3, 3, 4, 4]] and not caplog.messages


def runs_of(values):
    """Run lengths, beginning with zeros, of values of 0 and 1."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return [0] * int(values[0]) + np.diff(edges).tolist()


@pytest.mark.parametrize("order", ["C", "F"])
def test_run_lengths_that_follow_the_rows(tmp_path, caplog, order):
    """Of masks flattened without order="F" they were other masks, without a word."""
    drawn = np.zeros((3, 40, 60), np.uint8)
    drawn[0, 5:15, 10:30] = 1
    drawn[0, 8:11, 12:16] = 0
    drawn[1, 10:20, :] = 1
    drawn[1, 0:3, 0] = 1
    drawn[2, 0:2, 0:2] = 1  # its box is the same in both orders
    boxes = [[10, 5, 20, 10], [0, 0, 60, 20], [0, 0, 2, 2]]
    items = []
    for number, (mask, box) in enumerate(zip(drawn, boxes), 1):
        shape = {"size": [40, 60], "counts": runs_of(mask.ravel(order))}
        item = {"id": number, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": box}
        items.append({**item, "segmentation": shape, "area": int(mask.sum())})
    data = {
        "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}],
        "annotations": items,
        "categories": [{"id": 1, "name": "cat"}],
    }
    path = tmp_path / "x.json"
    path.write_text(json.dumps(data))
    read = coco.read_annotations(path)
    for mask, item in zip(drawn, read.anns.values()):
        np.testing.assert_array_equal(read.annToMask(item), mask)
    assert any("follow the rows" in line for line in caplog.messages) == (order == "C")


def test_boxes_that_may_be_corners(tmp_path, caplog):
    corners = [[20, 30, 70, 50], [150, 60, 190, 90], [120, 60, 190, 90]]
    coco.read_annotations(squares(tmp_path / "x.json", corners, None))
    assert "2 of 3 boxes reach beyond their image as COCO's [x, y, width, height]" in caplog.text
    caplog.clear()
    coco.read_annotations(squares(tmp_path / "y.json", [[20, 30, 70, 50], [5, 5, 9, 9]], None))
    assert "beyond" not in caplog.text
