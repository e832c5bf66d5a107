"""COCO's panoptic json with its PNGs: the pixels of each object, what is no object, what is broken."""

import json
import random
import shutil

import numpy as np
import pytest
from PIL import Image
from test_annotations import mutated

from mrcnn import annotations, cli, coco
from mrcnn.annotations import AnnotationError

HEIGHT, WIDTH = 40, 60
# A dog, a crowd of dogs, a cat in two pieces, grass; ids that use all three colours.
DOG, DOGS, CAT, GRASS = 4 + 5 * 256 + 6 * 65536, 77, 200 + 256, 1 + 2 * 256 + 3 * 65536
CATEGORIES = [
    {"id": 17, "name": "cat", "supercategory": "animal", "isthing": 1, "color": [0, 0, 9]},
    {"id": 18, "name": "dog", "supercategory": "animal", "isthing": 1, "color": [0, 9, 0]},
    {"id": 119, "name": "grass", "supercategory": "plant", "isthing": 0, "color": [9, 0, 0]},
]


def segment_ids():
    ids = np.zeros((HEIGHT, WIDTH), np.int64)
    ids[20:] = GRASS
    ids[5:15, 5:15] = DOG
    ids[5:10, 30:50] = DOGS
    ids[25:30, 5:10] = CAT
    ids[25:30, 20:30] = CAT
    return ids


def save_ids(path, ids):
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1)
    Image.fromarray(colours.astype(np.uint8)).save(path)


def segments():
    pairs = [(GRASS, 119, 0), (DOG, 18, 0), (DOGS, 18, 1), (CAT, 17, 0)]
    return [
        {"id": number, "category_id": category, "iscrowd": crowd, "bbox": [0, 0, 1, 1], "area": 1}
        for number, category, crowd in pairs
    ]


def write(root, subset="val2017", numbers=(1,), **changes):
    """COCO's layout: annotations/panoptic_<subset>.json and its folder, <subset>/."""
    images = []
    items = []
    for number in numbers:
        name = f"{number:012}"
        images.append({"id": number, "file_name": f"{name}.jpg", "height": HEIGHT, "width": WIDTH})
        items.append({"image_id": number, "file_name": f"{name}.png", "segments_info": segments()})
        save_ids(root / "annotations" / f"panoptic_{subset}" / f"{name}.png", segment_ids())
        (root / subset).mkdir(exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / subset / f"{name}.jpg")
    data = {"images": images, "annotations": items, "categories": CATEGORIES, **changes}
    path = root / "annotations" / f"panoptic_{subset}.json"
    path.write_text(json.dumps(data))
    return path


def expected_masks():
    ids = segment_ids()
    return np.stack([ids == DOG, ids == DOGS, ids == CAT], axis=-1)


@pytest.mark.parametrize("place", ("", "annotations/panoptic_val2017.json"))
def test_panoptic(tmp_path, caplog, place):
    """It was refused. Each object's own pixels; stuff is no class, and that is said."""
    write(tmp_path)
    found = annotations.read(tmp_path / place)
    assert found.classes == ["cat", "dog"] and not found.problems
    (image,) = found.images
    assert image.path == str(tmp_path / "val2017" / "000000000001.jpg")
    expected = [("dog", False), ("dog", True), ("cat", False)]
    assert [(region.name, region.crowd) for region in image.regions] == expected
    np.testing.assert_array_equal(image.masks(), expected_masks())
    assert "1 categories are no objects (isthing 0) and are left out: grass" in caplog.text
    measured = [region.shape.annotation for region in image.regions]
    assert [item["area"] for item in measured] == [100.0, 100.0, 75.0]
    assert measured[2]["bbox"] == [5.0, 25.0, 25.0, 5.0]


def test_panoptic_dataset_of_coco(tmp_path):
    """`CocoDataset` takes it by kind="panoptic", with COCO's own ids of categories."""
    write(tmp_path)
    dataset = coco.CocoDataset()
    dataset.load_coco(tmp_path, "val", "2017", kind="panoptic")
    dataset.prepare()
    assert dataset.class_names == ["BG", "cat", "dog"]
    masks, class_ids = dataset.load_mask(0)
    np.testing.assert_array_equal(masks, expected_masks())
    assert class_ids.tolist() == [2, -2, 1]
    assert [info["id"] for info in dataset.class_info] == [0, 17, 18]


def test_instances_go_before_panoptic(tmp_path):
    write(tmp_path)
    square = [[1, 1, 9, 1, 9, 9, 1, 9]]
    data = {
        "images": [{"id": 1, "file_name": "000000000001.jpg", "height": HEIGHT, "width": WIDTH}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 17, "segmentation": square}],
        "categories": CATEGORIES[:1],
    }
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(data))
    (image,) = annotations.read(tmp_path).images
    assert [region.name for region in image.regions] == ["cat"]


def test_subsets_of_panoptic(tmp_path):
    write(tmp_path, "train2017", (1, 2))
    write(tmp_path, "val2017", (3,))
    args = cli._parse(["train", "--weights=none", f"--dataset={tmp_path}"])
    training, validation = cli._sets(args)
    assert len(training.images) == 2
    assert [image.name for image in validation.images] == ["000000000003.jpg"]


@pytest.mark.parametrize("layout", ("beside", "above", "ids as text", "RGBA"))
def test_layouts_of_panoptic(tmp_path, layout):
    """Cityscapes' and ADE20K's folders, ids as text, PNGs with alpha."""
    path = write(tmp_path)
    masks = tmp_path / "annotations" / "panoptic_val2017"
    if layout == "beside":
        for file in masks.iterdir():
            file.rename(path.parent / file.name)
        masks.rmdir()
    elif layout == "above":
        masks.rename(tmp_path / "panoptic_val2017")
    elif layout == "ids as text":
        data = json.loads(path.read_text())
        data["images"][0]["id"] = "one"
        data["annotations"][0]["image_id"] = "one"
        path.write_text(json.dumps(data))
    else:
        for file in masks.iterdir():
            with Image.open(file) as picture:
                picture.convert("RGBA").save(file)
    (image,) = annotations.read(path).images
    np.testing.assert_array_equal(image.masks(), expected_masks())


def test_broken_panoptic(tmp_path, caplog):
    """An image without its PNG, or of another size, or not annotated is left out: no background."""
    path = write(tmp_path, numbers=(1, 2, 3, 4, 5))
    masks = tmp_path / "annotations" / "panoptic_val2017"
    (masks / "000000000002.png").unlink()
    save_ids(masks / "000000000003.png", segment_ids()[:20])
    data = json.loads(path.read_text())
    del data["annotations"][3]
    data["annotations"][0]["segments_info"].append({"id": 999, "category_id": 18, "iscrowd": 0})
    path.write_text(json.dumps(data))
    found = annotations.read(path, keep_empty=True)
    assert [image.name for image in found.images] == ["000000000001.jpg", "000000000005.jpg"]
    text = "\n".join(found.problems)
    assert len(found.problems) == 4
    assert "image '000000000002.jpg': expected the PNG of its segments. Received: no file " in text
    assert "expected a PNG of (40, 60) pixels. Received: 000000000003.png of (20, 60)" in text
    assert "image '000000000004.jpg': expected its segments. Received: an image that is not" in text
    assert f"{path}: segment 999 (image 1) has no pixel in its PNG" in text
    for image in found.images:
        np.testing.assert_array_equal(image.masks(), expected_masks())
    shutil.rmtree(masks)
    with pytest.raises(AnnotationError, match="expected a json of instances, or the PNG files of"):
        annotations.read(path)


def test_panoptic_json_of_cityscapes(tmp_path):
    """Its images are called ..._gtFine_leftImg8bit.png there, the files ..._leftImg8bit.png."""
    path = write(tmp_path)
    data = json.loads(path.read_text())
    data["images"][0]["file_name"] = "ulm_1_gtFine_leftImg8bit.png"
    path.write_text(json.dumps(data))
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "val2017" / "ulm_1_leftImg8bit.png")
    (image,) = annotations.read(path).images
    assert image.path == str(tmp_path / "val2017" / "ulm_1_leftImg8bit.png")


@pytest.mark.parametrize("fields", ({}, {"isthing": 0}))
def test_panoptic_without_isthing(tmp_path, caplog, fields):
    """Datumaro, and with it CVAT, writes isthing 0 for each category: no image had an object."""
    categories = [{"id": item["id"], "name": item["name"], **fields} for item in CATEGORIES]
    found = annotations.read(write(tmp_path, categories=categories))
    assert found.classes == ["cat", "dog", "grass"] and len(found.images[0].regions) == 4
    assert "no category has 'isthing' 1, as where Datumaro wrote it; all of them are" in caplog.text


@pytest.mark.long
def test_damaged_panoptic(tmp_path):
    path = write(tmp_path, numbers=(1, 2))
    content = json.loads(path.read_text())
    rng = random.Random("panoptic")
    used = 0
    for _ in range(150):
        path.write_text(json.dumps(mutated(content, rng)))
        try:
            found = annotations.read(path, keep_empty=True)
        except AnnotationError as error:
            assert str(path) in str(error)
            continue
        used += 1
        for image in found.images:
            assert image.masks().shape == (HEIGHT, WIDTH, len(image.regions))
    assert 15 < used < 150
