"""Files as other programs and data sets have them: the exact pixels and class of each object, and
the same file through every command."""

import base64
import csv
import io
import json
import logging
import os
import random
import shutil

import numpy as np
import pytest
from PIL import Image
from test_annotations import is_usable, mutated

from mrcnn import annotations, cli, coded_pngs, convert
from mrcnn.annotations import AnnotatedDataset, AnnotationError
from mrcnn.masks import encode

HEIGHT, WIDTH = 40, 60
CAT, DOG, HOLE = (5, 6, 15, 26), (20, 3, 50, 13), (8, 9, 12, 20)  # x1, y1, x2, y2


def box_mask(x1, y1, x2, y2):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y1:y2, x1:x2] = True
    return mask


CAT_MASK = box_mask(*CAT)
DOG_MASK = box_mask(*DOG)
RING_MASK = CAT_MASK & ~box_mask(*HOLE)


def corners(x1, y1, x2, y2):
    return [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]


def flat(box):
    return [value for point in corners(*box) for value in point]


def runs(mask):
    return encode(mask[..., None])[0]


def picture(path, size=(WIDTH, HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10, 200, 30)).save(path)


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".ndjson":
        path.write_text("".join(json.dumps(item) + "\n" for item in data))
    else:
        path.write_text(json.dumps(data))
    return path


def png(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


# ---- Writers: each makes images a and b of two subsets, where the format has some ---------------


def roboflow(root, subsets=("train", "valid")):
    """Segmentation as Roboflow exports COCO: the class 0 is the project, and has no objects."""
    categories = [
        {"id": 0, "name": "animals", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "animals"},
        {"id": 2, "name": "dog", "supercategory": "animals"},
    ]
    for subset, name in zip(subsets, "ab"):
        file = f"{name}_jpg.rf.0123456789abcdef.jpg"
        items = [
            {
                "id": i,
                "image_id": 0,
                "category_id": i + 1,
                "segmentation": [flat(box)],
                "iscrowd": 0,
            }
            for i, box in enumerate((CAT, DOG))
        ]
        image = {"id": 0, "license": 1, "file_name": file, "height": HEIGHT, "width": WIDTH}
        data = {"info": {}, "images": [image], "annotations": items, "categories": categories}
        write(root / subset / "_annotations.coco.json", data)
        picture(root / subset / file)


def lvis(root):
    """Images without file_name, annotations without iscrowd, images of val in train2017."""
    categories = [
        {"id": i, "name": name, "synset": f"{name}.n.01", "frequency": "f", "synonyms": [name]}
        for i, name in enumerate(("cat", "dog"), 1)
    ]
    for number, subset in enumerate(("train", "val"), 1):
        image = {
            "id": number,
            "coco_url": f"http://images.cocodataset.org/train2017/{number:012}.jpg",
            "flickr_url": f"http://farm4.staticflickr.com/{number}_z.jpg",
            "height": HEIGHT,
            "width": WIDTH,
            "neg_category_ids": [],
            "not_exhaustive_category_ids": [2],
        }
        items = [
            {"id": i, "image_id": number, "category_id": i, "segmentation": [flat(box)]}
            for i, box in enumerate((CAT, DOG), 1)
        ]
        data = {"images": [image], "annotations": items, "categories": categories}
        write(root / "annotations" / f"lvis_v1_{subset}.json", data)
        picture(root / "train2017" / f"{number:012}.jpg")


def labelbox_row(name, objects, **more):
    label = {
        "label_kind": "Default",
        "label_details": {"created_at": "2024-01-02T00:00:00.000+00:00"},
        "annotations": {"objects": objects, "classifications": [], "relationships": []},
    }
    row = {
        "data_row": {"id": f"cl{name}", "external_id": name, "row_data": f"https://x.y/{name}?k=1"},
        "media_attributes": {"height": HEIGHT, "width": WIDTH, "asset_type": "image"},
        "projects": {"p1": {"name": "pets", "labels": [label]}},
    }
    row.update(more)
    return row


def labelbox_objects():
    points = [{"x": x, "y": y} for x, y in corners(*CAT)]
    x1, y1, x2, y2 = DOG
    box = {"top": y1, "left": x1, "height": y2 - y1, "width": x2 - x1}
    return [
        {"name": "cat", "value": "cat", "annotation_kind": "ImagePolygon", "polygon": points},
        {"name": "dog", "annotation_kind": "ImageBoundingBox", "bounding_box": box},
    ]


def labelbox(root):
    rows = [labelbox_row(f"{name}.jpg", labelbox_objects()) for name in "ab"]
    write(root / "export.ndjson", rows)
    for name in "ab":
        picture(root / f"{name}.jpg")


def labelbox_old(root):
    """The JSON before 2022, with title and bbox."""
    objects = []
    for item in labelbox_objects():
        item = {**item, "title": item["name"], "value": "x"}
        del item["name"], item["annotation_kind"]
        item["bbox"] = item.pop("bounding_box", None)
        objects.append(item)
    rows = [
        {
            "ID": f"ck{name}",
            "Labeled Data": f"https://storage.labelbox.com/{name}.jpg",
            "Label": {"objects": objects, "classifications": []},
            "External ID": f"{name}.jpg",
            "Skipped": False,
        }
        for name in "ab"
    ]
    write(root / "export.json", rows)
    for name in "ab":
        picture(root / f"{name}.jpg")


def segment_anything(root):
    for number, name in enumerate("ab"):
        items = [
            {
                "id": i,
                "segmentation": runs(mask),
                "bbox": [0, 0, 1, 1],
                "area": int(mask.sum()),
                "predicted_iou": 0.9,
                "stability_score": 0.95,
                "crop_box": [0, 0, WIDTH, HEIGHT],
                "point_coords": [[1.0, 2.0]],
            }
            for i, mask in enumerate((CAT_MASK, DOG_MASK))
        ]
        image = {"image_id": number, "file_name": f"sa_{name}.jpg"}
        image.update(height=HEIGHT, width=WIDTH)
        write(root / f"sa_{name}.json", {"image": image, "annotations": items})
        picture(root / f"sa_{name}.jpg")


def bdd_label(category, box, **attributes):
    outline = {"vertices": corners(*box), "types": "LLLL", "closed": True}
    return {"id": category, "category": category, "attributes": attributes, "poly2d": [outline]}


def bdd(root):
    for subset, name in (("train", "a"), ("val", "b")):
        labels = [bdd_label("cat", CAT, occluded=True), bdd_label("dog", DOG)]
        frames = [{"name": f"{name}.jpg", "labels": labels}]
        write(root / "labels" / "ins_seg" / "polygons" / f"ins_seg_{subset}.json", frames)
        write(root / "labels" / "sem_seg" / "polygons" / f"sem_seg_{subset}.json", frames)
        picture(root / "images" / "10k" / subset / f"{name}.jpg")


def datumaro(root):
    labels = [{"name": name, "parent": "", "attributes": []} for name in ("cat", "dog")]
    for subset, name in (("train", "a"), ("val", "b")):
        items = [
            {"id": 0, "type": "polygon", "label_id": 0, "group": 0, "points": flat(CAT)},
            {"id": 1, "type": "mask", "label_id": 1, "group": 0, "rle": runs(DOG_MASK)},
            {"id": 2, "type": "label", "label_id": 1, "group": 0},
        ]
        image = {"path": f"{name}.jpg", "size": [HEIGHT, WIDTH]}
        item = {"id": name, "annotations": items, "attr": {"frame": 0}, "image": image}
        categories = {"label": {"labels": labels, "attributes": ["occluded"]}}
        data = {"info": {}, "categories": categories, "items": [item]}
        write(root / "annotations" / f"{subset}.json", data)
        picture(root / "images" / subset / f"{name}.jpg")


def open_images(root, scale=2):
    """Masks have other sides than the images."""
    fields = ["MaskPath", "ImageID", "LabelName", "BoxID", "BoxXMin", "BoxXMax", "BoxYMin"]
    for subset, name in (("train", "a"), ("validation", "b")):
        text = io.StringIO()
        rows = csv.writer(text)
        rows.writerow([*fields, "BoxYMax", "PredictedIoU", "Clicks"])
        for label, mask in (("01yrx", CAT_MASK), ("0bt9lr", DOG_MASK)):
            file = f"{name}_m{label}_{subset}.png"
            rows.writerow([file, name, f"/m/{label}", "1f", 0.1, 0.2, 0.3, 0.4, 0.8, "0.1 0.2 1"])
            large = mask.repeat(scale, axis=0).repeat(scale, axis=1)
            png(root / "masks" / subset / file, large)
        (root / f"{subset}-annotations-object-segmentation.csv").write_text(text.getvalue())
        picture(root / "images" / subset / f"{name}.jpg")
    (root / "class-descriptions-boxable.csv").write_text("/m/01yrx,cat\n/m/0bt9lr,dog\n")


def coded(cat, dog, dtype=np.uint16):
    values = np.zeros((HEIGHT, WIDTH, *np.shape(cat)), dtype)
    values[CAT_MASK] = cat
    values[DOG_MASK] = dog
    return values


def panoptic(root):
    categories = [
        {"id": i, "name": name, "isthing": int(name != "sky")}
        for i, name in enumerate(("cat", "dog", "sky"), 1)
    ]
    for number, subset in enumerate(("train2017", "val2017"), 1):
        ids = np.full((HEIGHT, WIDTH), 70_000)
        ids[CAT_MASK] = 300
        ids[DOG_MASK] = 200_000
        colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1)
        png(root / "annotations" / f"panoptic_{subset}" / f"{number}.png", colours.astype(np.uint8))
        segments = [
            {"id": number_of_segment, "category_id": i, "iscrowd": 0, "area": 1, "bbox": [0] * 4}
            for i, number_of_segment in enumerate((300, 200_000, 70_000), 1)
        ]
        image = {"id": number, "file_name": f"{number}.jpg", "height": HEIGHT, "width": WIDTH}
        item = {"image_id": number, "file_name": f"{number}.png", "segments_info": segments}
        data = {"images": [image], "annotations": [item], "categories": categories}
        write(root / "annotations" / f"panoptic_{subset}.json", data)
        picture(root / subset / f"{number}.jpg")


def kitti_mots(root):
    for number in range(2):
        png(root / "instances" / "0000" / f"{number:06}.png", coded(1005, 2003))
        picture(root / "training" / "image_02" / "0000" / f"{number:06}.png")


def bdd_bitmasks(root):
    for subset, name in (("train", "a"), ("val", "b")):
        values = coded((3, 8, 1, 4), (1, 0, 0, 9), np.uint8)
        png(root / "labels" / "ins_seg" / "bitmasks" / subset / f"{name}.png", values)
        picture(root / "images" / "10k" / subset / f"{name}.jpg")


def ade20k(root):
    place = root / "images" / "ADE" / "training" / "urban" / "street"
    for name in "ab":
        stem = f"ADE_train_{name}"
        objects = [
            {"id": i, "name": label, "name_ndx": number, "parts": {"part_level": 0}}
            for i, (label, number) in enumerate((("cat", 3 * 256 + 20), ("dog", 7)))
        ]
        png(place / f"{stem}_seg.png", coded((30, 20, 1), (0, 7, 2), np.uint8))
        write(place / f"{stem}.json", {"annotation": {"filename": "x.jpg", "object": objects}})
        picture(place / f"{stem}.jpg")


def youtube_vis(root):
    for subset, name in (("train", "a"), ("valid", "b")):
        frame = f"video/{name}.jpg"
        video = {"id": 7, "width": WIDTH, "height": HEIGHT, "length": 1, "file_names": [frame]}
        tracks = [
            {"id": 1, "video_id": 7, "category_id": 1, "segmentations": [runs(CAT_MASK)]},
            {"id": 2, "video_id": 7, "category_id": 2, "segmentations": [[flat(DOG)]]},
        ]
        categories = [{"id": 2, "name": "dog"}, {"id": 1, "name": "cat"}]
        data = {"info": {}, "videos": [video], "annotations": tracks, "categories": categories}
        write(root / subset / "instances.json", data)
        picture(root / subset / "JPEGImages" / frame)


def createml(root):
    for subset, name in (("train", "a"), ("valid", "b")):
        annotations_of_image = []
        for label, (x1, y1, x2, y2) in (("cat", CAT), ("dog", DOG)):
            sides = {"width": x2 - x1, "height": y2 - y1}
            middle = {"x": (x1 + x2) / 2, "y": (y1 + y2) / 2}
            annotations_of_image.append({"label": label, "coordinates": {**middle, **sides}})
        item = {"image": f"{name}.jpg", "annotations": annotations_of_image}
        write(root / subset / "_annotations.createml.json", [item])
        picture(root / subset / f"{name}.jpg")


# {format: (its writer, names of the classes of CAT and DOG, whether it has subsets)}
FORMATS = {
    "roboflow": (roboflow, ("cat", "dog"), True),
    "lvis": (lvis, ("cat", "dog"), True),
    "panoptic": (panoptic, ("cat", "dog"), True),
    "labelbox": (labelbox, ("cat", "dog"), False),
    "labelbox before 2022": (labelbox_old, ("cat", "dog"), False),
    "segment anything": (segment_anything, ("object", "object"), False),
    "bdd100k": (bdd, ("cat", "dog"), True),
    "datumaro": (datumaro, ("cat", "dog"), True),
    "open images": (open_images, ("cat", "dog"), True),
    "kitti mots": (kitti_mots, ("car", "pedestrian"), False),
    "bdd100k's bitmasks": (bdd_bitmasks, ("car", "pedestrian"), True),
    "ade20k": (ade20k, ("cat", "dog"), False),
    "youtube-vis": (youtube_vis, ("cat", "dog"), True),
    "createml": (createml, ("cat", "dog"), True),
}


@pytest.fixture(params=FORMATS)
def source(request, tmp_path):
    """(folder of a format, names of its two classes, whether it has subsets)."""
    writer, names, has_subsets = FORMATS[request.param]
    writer(tmp_path / "data")
    return tmp_path / "data", names, has_subsets


def objects_of(image):
    """The (class, crowd, mask as bytes) of an image's objects, sorted."""
    masks = image.masks()
    return sorted(
        (region.name, region.crowd, masks[..., i].tobytes())
        for i, region in enumerate(image.regions)
    )


def expected_objects(names):
    return sorted((name, False, mask.tobytes()) for name, mask in zip(names, (CAT_MASK, DOG_MASK)))


# ---- Every format through every command ----------------------------------------------------------


def test_exact_pixels_and_classes(source):
    """Each was refused, or read wrongly: ADE20K's images as background, without a word."""
    folder, names, _ = source
    found = annotations.read(folder)
    assert len(found.images) == 2 and not found.problems
    assert set(names) <= set(found.classes)
    for image in found.images:
        assert objects_of(image) == expected_objects(names)
    dataset = AnnotatedDataset.of("x", found)
    masks, class_ids = dataset.load_mask(0)
    assert masks.shape == (HEIGHT, WIDTH, 2)
    assert sorted(dataset.class_names[class_id] for class_id in class_ids) == sorted(names)
    assert dataset.load_image(0).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("target", convert.FORMATS)
def test_conversion(source, tmp_path, target):
    folder, names, _ = source
    report = convert.convert(folder, target, tmp_path / "out")
    assert report.images == 2 and report.objects == 4
    attribute = None
    if target == "via":  # some have further attributes
        attribute = "class"
    again = annotations.read(tmp_path / "out", attribute=attribute)
    if target in ("masks", "labels"):  # they have no classes
        names = ("object", "object")
    assert len(again.images) == 2
    for image in again.images:
        assert objects_of(image) == expected_objects(names)


def test_inspect(source, tmp_path, capsys):
    folder, names, _ = source
    arguments = ["inspect", str(folder), "--json", "--draw=1", f"--output={tmp_path / 'drawn'}"]
    assert cli.main(arguments) == 0
    (entry,) = json.loads(capsys.readouterr().out)["inspected"]
    assert entry["images"] == 2 and entry["without objects"] == 0 and not entry["problems"]
    assert sum(entry["objects"].values()) == 4 and len(entry["drawn"]) == 1
    assert all(entry["objects"][name] == 4 / len(set(names)) for name in names)


def test_sets_to_train_and_to_validate(source):
    folder, names, has_subsets = source
    args = cli._parse(["train", "--weights=none", f"--dataset={folder}"])
    training, validation = cli._sets(args)
    assert len(training.images) == len(validation.images) == 1
    assert training.images[0].path != validation.images[0].path
    for found in (training, validation):
        assert objects_of(found.images[0]) == expected_objects(names)
    if has_subsets:  # a is trained on, b is validated on
        names_of_files = [os.path.basename(item.images[0].path) for item in (training, validation)]
        assert [name.lstrip("0")[0] for name in names_of_files] in (["a", "b"], ["1", "2"])


@pytest.mark.long
@pytest.mark.parametrize(
    "kind",
    (
        *("lvis", "labelbox", "labelbox before 2022", "segment anything", "bdd100k", "datumaro"),
        *("youtube-vis", "createml"),
    ),
)
def test_damaged_content(tmp_path, kind):
    """Whatever is damaged, and wherever it breaks off: what is left, or one error of the file."""
    FORMATS[kind][0](tmp_path)
    path = next(path for path in sorted(tmp_path.rglob("*")) if path.suffix in (".json", ".ndjson"))
    text = path.read_text()
    if path.suffix == ".ndjson":
        content = list(map(json.loads, text.splitlines()))
    else:
        content = json.loads(text)
    rng = random.Random(kind)
    used = 0
    for _ in range(150):
        data = mutated(content, rng)
        if path.suffix == ".ndjson" and isinstance(data, list) and data:
            write(path, data)
        else:
            path.write_text(json.dumps(data))
        if rng.random() < 0.1:
            damaged = path.read_bytes()
            path.write_bytes(damaged[: rng.randrange(len(damaged))])
        used += is_usable(path, root=tmp_path)
    assert 15 < used < 150


def test_jsons_of_subsets_far_from_their_images(tmp_path):
    """`train` on a folder found the json of its subset, but not the images in another branch."""
    bdd(tmp_path)
    shutil.rmtree(tmp_path / "labels" / "sem_seg")
    args = cli._parse(["train", "--weights=none", f"--dataset={tmp_path}"])
    names = [[os.path.basename(image.path) for image in part.images] for part in cli._sets(args)]
    assert names == [["a.jpg"], ["b.jpg"]]


# ---- Roboflow and LVIS ---------------------------------------------------------------------------


def test_roboflow_has_no_class_of_its_project(tmp_path, caplog):
    roboflow(tmp_path)
    for place in ("", "train", "valid/_annotations.coco.json"):
        assert annotations.read(tmp_path / place).classes == ["cat", "dog"]
    assert "categories have no annotations and only group others; they are left out: 0 (ani" in (
        caplog.text
    )


@pytest.mark.parametrize("place", ("annotations", "."))
def test_lvis_without_file_names(tmp_path, caplog, place):
    """The json by itself: its images were not found. What its figures mean is said."""
    lvis(tmp_path)
    for path in (tmp_path / "annotations").iterdir():
        path.rename(tmp_path / place / path.name)
    found = annotations.read(tmp_path / place / "lvis_v1_val.json")
    assert [image.path for image in found.images] == [
        str(tmp_path / "train2017" / "000000000002.jpg")
    ]
    assert found.classes == ["cat", "dog"]
    assert "of 1 images only some classes are annotated, as in LVIS" in caplog.text


def test_lvis_of_2014s_names(tmp_path):
    """Version 0.5 names the images as COCO did in 2014; they lie in train2017/."""
    lvis(tmp_path)
    path = tmp_path / "annotations" / "lvis_v1_val.json"
    data = json.loads(path.read_text())
    data["images"][0]["file_name"] = "COCO_val2014_000000000002.jpg"
    (image,) = annotations.read(write(path, data)).images
    assert image.path.endswith("train2017/000000000002.jpg")


# ---- Labelbox ------------------------------------------------------------------------------------


def png_text(mask):
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_labelbox_shapes_and_answers(tmp_path):
    picture(tmp_path / "a.jpg")
    cat = labelbox_objects()[0]
    radio = {"name": "fur", "radio_answer": {"name": "long", "value": "long"}}
    checks = {"name": "seen", "checklist_answers": [{"name": "tail"}, {"name": "ear"}]}
    text = {"name": "note", "text_answer": {"content": "asleep"}}
    cat["classifications"] = [radio, checks, text]
    items = [
        cat,
        {"name": "ring", "mask": {"png": png_text(RING_MASK)}},
        {"name": "ring", "mask": runs(RING_MASK)},
        {"name": "far", "mask": {"url": "https://api.labelbox.com/api/v1/tasks/1/masks/2"}},
        {"name": "far", "composite_mask": {"url": "https://x", "color_rgb": [1, 2, 3]}},
        {"name": "nose", "annotation_kind": "ImagePoint", "point": {"x": 1, "y": 2}},
    ]
    path = write(tmp_path / "export.ndjson", [labelbox_row("a.jpg", items)])
    found = annotations.read(path)
    masks = found.images[0].masks()
    np.testing.assert_array_equal(masks, np.stack([CAT_MASK, RING_MASK, RING_MASK], axis=-1))
    assert found.images[0].regions[0].extra == {
        "fur": "long",
        "seen": ["tail", "ear"],
        "note": "asleep",
    }
    assert len(found.problems) == 3
    assert (
        "a mask at 'https://api.labelbox.com/api/v1/tasks/1/masks/2', which only Label"
        in (found.problems[0])
    )
    assert "'https://x'" in found.problems[1]
    assert "which enclose pixels. Received: 'ImagePoint'" in found.problems[2]


def test_labels_of_labelbox(tmp_path, caplog):
    """The newest label; rows without, or skipped, are no background; an empty one is."""
    for name in "abcd":
        picture(tmp_path / f"{name}.jpg")
    cat, dog = labelbox_objects()
    newer = labelbox_row("a.jpg", [dog])["projects"]["p1"]["labels"][0]
    newer["label_details"] = {"created_at": "2024-01-03T00:00:00.000+00:00"}
    several = labelbox_row("a.jpg", [cat])
    several["projects"]["p1"]["labels"].insert(0, newer)
    skipped = labelbox_row("c.jpg", [cat])
    skipped["projects"]["p1"]["labels"][0]["performance_details"] = {"skipped": True}
    rows = [several, labelbox_row("b.jpg", []), skipped]
    rows.append(labelbox_row("d.jpg", [], projects={"p1": {"labels": []}}))
    path = write(tmp_path / "x.ndjson", rows)
    found = annotations.read(path, keep_empty=True)
    assert [image.name for image in found.images] == ["a.jpg", "b.jpg"]
    assert [region.name for region in found.images[0].regions] == ["dog"]
    assert "expected one label. Received: 2, of which the newest is read" in found.problems[0]
    assert "2 rows without a label are left out" in caplog.text
    path.rename(tmp_path / "x.json")  # lines in a .json, as some save them
    assert len(annotations.read(tmp_path / "x.json", keep_empty=True).images) == 2


def test_subsets_of_labelbox(tmp_path):
    for subset, name in (("train", "a.jpg"), ("val", "b.jpg")):
        write(tmp_path / f"{subset}.ndjson", [labelbox_row(name, labelbox_objects())])
        picture(tmp_path / "images" / name)
    args = cli._parse(["train", "--weights=none", f"--dataset={tmp_path}"])
    names = [[image.name for image in part.images] for part in cli._sets(args)]
    assert names == [["a.jpg"], ["b.jpg"]]


def test_video_of_labelbox(tmp_path):
    row = labelbox_row("a.mp4", [])
    row["projects"]["p1"]["labels"][0]["annotations"] = {"frames": {"1": {}}}
    path = write(tmp_path / "x.ndjson", [row])
    with pytest.raises(AnnotationError, match="Received: frames, the label of a video"):
        annotations.read(path)


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"data_row": {}}\n{"data_row": ', "line 2: Expecting value"),
        ("[1]\n[2]\n", r"expected an object \{...\} in each line. Received: line 1"),
        ("\n\n", "expected one json in each line. Received: none"),
    ],
)
def test_damaged_lines(tmp_path, text, message):
    path = tmp_path / "x.ndjson"
    path.write_text(text)
    with pytest.raises(AnnotationError, match=f"x.ndjson: .*{message}"):
        annotations.read(path)
    with pytest.raises(AnnotationError, match=f"(?s)x.ndjson: .*{message}"):
        annotations.read(tmp_path)


# ---- Segment Anything ----------------------------------------------------------------------------


def test_segment_anything_label_and_scores(tmp_path):
    segment_anything(tmp_path)
    found = annotations.read(tmp_path, label="cell")
    assert found.classes == ["cell"]
    assert found.images[0].regions[0].extra == {"predicted_iou": 0.9, "stability_score": 0.95}
    assert annotations.read(tmp_path / "sa_a.json").classes == ["object"]


def test_masks_of_segment_anythings_script(tmp_path):
    """A list of masks, named by the image."""
    segment_anything(tmp_path)
    data = json.loads((tmp_path / "sa_a.json").read_text())
    write(tmp_path / "sa_a.json", data["annotations"])
    (image,) = annotations.read(tmp_path / "sa_a.json").images
    assert objects_of(image) == expected_objects(("object", "object"))


def test_segment_anything_problems(tmp_path):
    segment_anything(tmp_path)
    path = tmp_path / "sa_a.json"
    data = json.loads(path.read_text())
    data["annotations"][0]["segmentation"]["size"] = [9, 9]
    data["annotations"].append(5)
    found = annotations.read(write(path, data))
    assert len(found.images[0].regions) == 1 and len(found.problems) == 2
    assert "the size of their image, 40 x 60. Received: 9 x 9" in found.problems[0]
    assert "region 2: expected run lengths with size and counts" in found.problems[1]
    np.testing.assert_array_equal(found.images[0].masks()[..., 0], DOG_MASK)


def test_jsons_of_other_programs_below_are_no_copies(tmp_path, caplog):
    """ISAT's and others' in a sub-folder were left out as copies of any one above them."""
    for place, box in (("a.jpg", CAT), ("sub/b.jpg", DOG)):
        info = {"name": place.split("/")[-1], "width": WIDTH, "height": HEIGHT, "depth": 3}
        item = {"category": "cat", "group": 1, "segmentation": corners(*box)}
        picture(tmp_path / place)
        write((tmp_path / place).with_suffix(".json"), {"info": info, "objects": [item]})
    found = annotations.read(tmp_path)
    assert [image.name for image in found.images] == ["a.jpg", "sub/b.jpg"]
    assert "copies" not in caplog.text


# ---- Scalabel and BDD100K ------------------------------------------------------------------------


def scalabel(root, labels, **more):
    picture(root / "a.jpg")
    data = {"frames": [{"name": "a.jpg", "labels": labels}], "config": {}, **more}
    return write(root / "x.json", data)


def test_parts_crowds_and_run_lengths_of_scalabel(tmp_path):
    parts = bdd_label("dog", CAT)
    parts["poly2d"] += bdd_label("dog", DOG)["poly2d"]
    labels = [
        parts,
        {"id": 2, "category": "cat", "rle": runs(RING_MASK)},
        bdd_label("cat", DOG, crowd=True),
        bdd_label("cat", DOG, ignored=True, occluded=True),
    ]
    config = {
        "imageSize": {"width": WIDTH, "height": HEIGHT},
        "categories": [{"name": "pet", "subcategories": [{"name": "dog"}, {"name": "cat"}]}],
    }
    found = annotations.read(scalabel(tmp_path, labels, config=config))
    assert found.classes == ["dog", "cat"] and not found.problems
    (image,) = found.images
    expected = [CAT_MASK | DOG_MASK, RING_MASK, DOG_MASK, DOG_MASK]
    np.testing.assert_array_equal(image.masks(), np.stack(expected, axis=-1))
    assert [region.crowd for region in image.regions] == [False, False, True, True]
    assert image.regions[3].extra == {"occluded": True}


def test_frames_of_scalabel_without_labels(tmp_path, caplog):
    frames = [{"name": "a.jpg", "labels": [bdd_label("cat", CAT)]}, {"name": "b.jpg"}]
    for name in "ab":
        picture(tmp_path / f"{name}.jpg")
    path = write(tmp_path / "x.json", frames)
    assert len(annotations.read(path).images) == 1 and "no list of labels" not in caplog.text
    assert len(annotations.read(path, keep_empty=True).images) == 2
    assert "1 frames have no list of labels and are taken for images without" in caplog.text


@pytest.mark.parametrize("types", ("LCCLCCLCCLCC", "LCCCCCCCCCCC"))
def test_curves_of_scalabel(tmp_path, types):
    """A circle of four Bezier curves; the ends of curves are L, or C as of BDD100K's lanes."""
    k = 0.5522847 * 15
    quarter = [(15, 0), (15, k), (k, 15), (0, 15), (-k, 15), (-15, k)]
    half = [*quarter, (-15, 0), (-15, -k), (-k, -15), (0, -15), (k, -15), (15, -k)]
    vertices = [[30 + x, 20 + y] for x, y in half]
    if types == "LCCCCCCCCCCC":
        vertices = vertices[:12]
    label = {"id": 1, "category": "ball"}
    label["poly2d"] = [{"vertices": vertices, "types": types, "closed": True}]
    (image,) = annotations.read(scalabel(tmp_path, [label])).images
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    distance = np.hypot(x - 30, y - 20)
    mask = image.masks()[..., 0]
    assert mask[distance < 14.8].all() and not mask[distance > 15.1].any()


def test_what_has_no_area_in_scalabel(tmp_path, caplog):
    lane = bdd_label("lane", CAT)
    lane["poly2d"][0]["closed"] = False
    box = {"id": 3, "category": "car", "box2d": dict(zip(("x1", "y1", "x2", "y2"), DOG))}
    curve = bdd_label("dog", CAT)
    curve["poly2d"][0]["types"] = "LLLX"
    found = annotations.read(scalabel(tmp_path, [bdd_label("cat", CAT), lane, box, curve]))
    assert [region.name for region in found.images[0].regions] == ["cat"]
    assert "expected a closed outline. Received: 1 open lines" in found.problems[0]
    assert "Received: a label with box2d, category, id" in found.problems[1]
    assert "expected types of L and C, one for each of 4 vertices. Rec" in found.problems[2]
    assert len(found.problems) == 3
    found = annotations.read(scalabel(tmp_path, [box]))
    assert objects_of(found.images[0]) == [("car", False, DOG_MASK.tobytes())]
    assert "no label has a polygon; the boxes of 1 are taken for their shapes" in caplog.text


def test_points_of_2018(tmp_path):
    label = {"id": 1, "category": "cat", "poly2d": [[*point, "L"] for point in corners(*CAT)]}
    (image,) = annotations.read(scalabel(tmp_path, [label])).images
    np.testing.assert_array_equal(image.masks()[..., 0], CAT_MASK)


def test_videos_of_scalabel(tmp_path):
    """A json for each video, with frames of one name in folders of the videos."""
    for video, box in (("v1", CAT), ("v2", DOG)):
        frame = {"name": "1.jpg", "videoName": video, "labels": [bdd_label("cat", box)]}
        write(tmp_path / f"{video}.json", [frame])
        picture(tmp_path / "images" / video / "1.jpg")
    found = annotations.read(tmp_path)
    assert [image.name for image in found.images] == ["images/v1/1.jpg", "images/v2/1.jpg"]
    for image, mask in zip(found.images, (CAT_MASK, DOG_MASK)):
        assert objects_of(image) == [("cat", False, mask.tobytes())]


# ---- Datumaro ------------------------------------------------------------------------------------


def datumaro_json(root, items, labels=("cat", "dog"), **more):
    picture(root / "images" / "default" / "a.jpg")
    image = {"path": "a.jpg", "size": [HEIGHT, WIDTH]}
    item = {"id": "a", "annotations": items, "image": image, **more}
    categories = {"label": {"labels": [{"name": name} for name in labels]}}
    path = root / "annotations" / "default.json"
    return write(path, {"info": {}, "categories": categories, "items": [item]})


def test_groups_of_datumaro(tmp_path):
    """Parts of a group are one object, its box is no other; groups of two labels are two objects."""
    x1, y1, x2, y2 = DOG
    items = [
        {"type": "polygon", "label_id": 0, "group": 1, "points": flat(CAT)},
        {"type": "mask", "label_id": 0, "group": 1, "rle": runs(DOG_MASK)},
        {"type": "bbox", "label_id": 0, "group": 1, "bbox": [0, 0, 30, 30]},
        {"type": "bbox", "label_id": 1, "group": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]},
        {"type": "polygon", "label_id": 1, "group": 0, "points": flat(CAT)},
        {"type": "polygon", "label_id": 1, "group": 0, "points": flat(DOG)},
    ]
    items[4]["attributes"] = {"is_crowd": True}
    items[5]["attributes"] = {"is_crowd": False, "occluded": True}
    found = annotations.read(datumaro_json(tmp_path, items))
    (image,) = found.images
    expected = [CAT_MASK | DOG_MASK, DOG_MASK, CAT_MASK, DOG_MASK]
    np.testing.assert_array_equal(image.masks(), np.stack(expected, axis=-1))
    assert [(region.name, region.crowd) for region in image.regions] == [
        ("cat", False),
        ("dog", False),
        ("dog", True),
        ("dog", False),
    ]
    assert image.regions[3].extra == {"occluded": True} and not found.problems


def test_shapes_of_datumaro(tmp_path):
    """An ellipse in its box, a box that is turned by a right angle around its middle."""
    turned = {"type": "bbox", "label_id": 0, "bbox": [20, 10, 20, 10], "group": 0}
    turned["attributes"] = {"rotation": 90.0}
    ellipse = {"type": "ellipse", "label_id": 1, "points": [10, 5, 50, 35], "group": 0}
    point = {"type": "points", "label_id": 1, "points": [1, 2], "group": 0}
    unknown = {"type": "polygon", "label_id": 7, "points": flat(CAT), "group": 0}
    found = annotations.read(datumaro_json(tmp_path, [turned, ellipse, point, unknown]))
    masks = found.images[0].masks()
    np.testing.assert_array_equal(masks[..., 0], box_mask(25, 5, 35, 25))
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    np.testing.assert_array_equal(masks[..., 1], ((x - 30) / 20) ** 2 + ((y - 20) / 15) ** 2 <= 1)
    assert "which enclose pixels. Received: 'points'" in found.problems[0]
    assert "expected the label_id of one of 2 labels. Received: 7" in found.problems[1]


def test_a_box_of_datumaro_turns_clockwise(tmp_path):
    """By 30 degrees, from x towards y, as in CVAT: by -30 it would cover other pixels."""
    item = {"type": "bbox", "label_id": 0, "bbox": [20, 15, 20, 10], "group": 0}
    item["attributes"] = {"rotation": 30.0}
    (image,) = annotations.read(datumaro_json(tmp_path, [item])).images
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    # Along its sides, from its middle (30, 20).
    along = (x - 30) * np.cos(np.pi / 6) + (y - 20) * np.sin(np.pi / 6)
    across = (y - 20) * np.cos(np.pi / 6) - (x - 30) * np.sin(np.pi / 6)
    inside = np.maximum(np.abs(along) / 10, np.abs(across) / 5)
    mask = image.masks()[..., 0]
    assert mask[inside < 0.95].all() and not mask[inside > 1.05].any()


def test_background_of_datumaro_is_no_class(tmp_path):
    items = [{"type": "polygon", "label_id": 2, "group": 0, "points": flat(CAT)}]
    labels = ("background", "cat", "dog")
    found = annotations.read(datumaro_json(tmp_path, items, labels))
    assert found.classes == ["cat", "dog"]
    assert objects_of(found.images[0]) == [("dog", False, CAT_MASK.tobytes())]


def test_frames_of_datumaro_without_size(tmp_path):
    """CVAT's frames of a video: the image by the item's id."""
    items = [{"type": "polygon", "label_id": 0, "group": 0, "points": flat(CAT)}]
    path = datumaro_json(tmp_path, items, image=None)
    (image,) = annotations.read(path).images
    assert image.path == str(tmp_path / "images" / "default" / "a.jpg")
    assert objects_of(image) == [("cat", False, CAT_MASK.tobytes())]


# ---- Open Images ---------------------------------------------------------------------------------


def test_masks_of_other_sides(tmp_path):
    """Smaller masks are enlarged."""
    open_images(tmp_path, scale=1)
    for path in (tmp_path / "images").rglob("*.jpg"):
        picture(path, (2 * WIDTH, 2 * HEIGHT))
    found = annotations.read(tmp_path)
    assert len(found.images) == 2
    for image in found.images:
        expected = np.stack([CAT_MASK, DOG_MASK], axis=-1).repeat(2, axis=0).repeat(2, axis=1)
        np.testing.assert_array_equal(image.masks(), expected)


def test_open_images_problems(tmp_path, caplog):
    """Other ratios, missing files and names are said; what is left is read."""
    open_images(tmp_path)
    png(tmp_path / "masks" / "train" / "a_m01yrx_train.png", np.ones((30, 30), bool))
    (tmp_path / "masks" / "validation" / "b_m01yrx_validation.png").unlink()
    (tmp_path / "class-descriptions-boxable.csv").unlink()
    found = annotations.read(tmp_path)
    assert found.classes == ["/m/0bt9lr"]
    assert "2 classes have no name in a class-descriptions csv" in caplog.text
    text = "\n".join(found.problems)
    assert "expected the mask of image b. Received: no file b_m01yrx_validation.png" in text
    assert "the ratio of the image's sides, (40, 60). Received" in text and len(found.problems) == 2
    assert len(found.images) == 2
    for image in found.images:
        assert objects_of(image) == [("/m/0bt9lr", False, DOG_MASK.tobytes())]


def test_open_images_as_fiftyone_has_them(tmp_path):
    """data/, labels/segmentations.csv with labels/masks/<digit>/, metadata/classes.csv."""
    open_images(tmp_path / "source")
    root = tmp_path / "validation"
    for file, place in (
        ("validation-annotations-object-segmentation.csv", "labels/segmentations.csv"),
        ("class-descriptions-boxable.csv", "metadata/classes.csv"),
        ("images/validation/b.jpg", "data/b.jpg"),
        ("masks/validation/b_m01yrx_validation.png", "labels/masks/B/b_m01yrx_validation.png"),
        ("masks/validation/b_m0bt9lr_validation.png", "labels/masks/B/b_m0bt9lr_validation.png"),
    ):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / file).rename(root / place)
    for path in (root, root / "labels" / "segmentations.csv"):
        (image,) = annotations.read(path).images
        assert objects_of(image) == expected_objects(("cat", "dog"))


# ---- PNGs whose values tell class and object -----------------------------------------------------


def test_regions_that_mots_does_not_annotate(tmp_path):
    """10000 is a crowd of every class, as the evaluation of MOTS ignores what is in it."""
    values = coded(1005, 1006)
    values[30:] = 10000
    png(tmp_path / "instances" / "0002" / "000001.png", values)
    picture(tmp_path / "training" / "image_02" / "0002" / "000001.png")
    (image,) = annotations.read(tmp_path).images
    ignored = box_mask(0, 30, WIDTH, HEIGHT).tobytes()
    assert objects_of(image) == sorted(
        [
            ("car", False, CAT_MASK.tobytes()),
            ("car", False, DOG_MASK.tobytes()),
            ("car", True, ignored),
            ("pedestrian", True, ignored),
        ]
    )


@pytest.mark.parametrize("place", ("", "train"))
def test_mots_challenge(tmp_path, place):
    """Pedestrians alone; folders with a video each; an image that is missing is named."""
    root = tmp_path / "train"
    for number in (1, 2):
        png(root / "instances" / "0002" / f"{number:06}.png", coded(2001, 2002))
    picture(root / "images" / "0002" / "000001.jpg")
    found = annotations.read(tmp_path / place)
    assert found.classes == ["pedestrian"]
    (image,) = found.images
    assert objects_of(image) == expected_objects(("pedestrian", "pedestrian"))
    assert len(found.problems) == 1
    assert "0002/000002.png': expected the image of" in found.problems[0]


def test_kitti(tmp_path):
    """Objects of Cityscapes' classes; 0 within a class was not separated; a road is none."""
    values = coded(26 * 256 + 1, 24 * 256)
    values[30:] = 7 * 256
    png(tmp_path / "training" / "instance" / "000000_10.png", values)
    picture(tmp_path / "training" / "image_2" / "000000_10.png")
    for place in (tmp_path, tmp_path / "training"):
        found = annotations.read(place)
        assert found.classes == list(annotations.CITYSCAPES_CLASSES.values())
        assert objects_of(found.images[0]) == [
            ("car", False, CAT_MASK.tobytes()),
            ("person", True, DOG_MASK.tobytes()),
        ]


@pytest.mark.parametrize("largest", (0, coded_pngs.LARGEST_TABLE))
def test_large_numbers_of_objects(tmp_path, monkeypatch, largest):
    """With a table of the values and by sorting them; kept as run lengths, not as pixels."""
    monkeypatch.setattr(coded_pngs, "LARGEST_TABLE", largest)
    values = coded((3, 0, 255, 255), (8, 0, 0, 1), np.uint8)
    png(tmp_path / "labels" / "ins_seg" / "bitmasks" / "train" / "a.png", values)
    picture(tmp_path / "images" / "10k" / "train" / "a.jpg")
    (image,) = annotations.read(tmp_path).images
    assert objects_of(image) == expected_objects(("car", "bicycle"))
    assert [region.number for region in image.regions] == ["3/65535", "8/1"]
    assert all(isinstance(region.shape, annotations.CocoSegmentation) for region in image.regions)


def test_kitti_of_other_programs(tmp_path):
    """Datumaro has ids of its own in KITTI's folders."""
    png(tmp_path / "train" / "instance" / "a.png", coded(256 + 1, 256 + 2))
    picture(tmp_path / "train" / "image_2" / "a.png")
    (tmp_path / "label_colors.txt").write_text(" cat\n dog\n")
    with pytest.raises(AnnotationError, match="KITTI's own ids of classes. Received: .*label_col"):
        annotations.read(tmp_path / "train")


def test_mots_of_other_programs(tmp_path):
    """Datumaro and CVAT: a folder of each subset, with labels.txt that names the classes from 1."""
    for subset, name in (("train", "a"), ("val", "sub/b")):
        png(tmp_path / subset / "instances" / f"{name}.png", coded(1007, 2003))
        picture(tmp_path / subset / "images" / f"{name}.jpg")
        (tmp_path / subset / "instances" / "labels.txt").write_text("cat\ndog")
    found = annotations.read(tmp_path)
    assert found.classes == ["cat", "dog"]
    assert [image.name for image in found.images] == ["train/a.jpg", "val/sub/b.jpg"]
    for image in found.images:
        assert objects_of(image) == expected_objects(("cat", "dog"))
    args = cli._parse(["train", "--weights=none", f"--dataset={tmp_path}"])
    assert [part.images[0].name for part in cli._sets(args)] == ["a.jpg", "sub/b.jpg"]
    (tmp_path / "val" / "instances" / "labels.txt").write_text("dog\ncat")
    with pytest.raises(AnnotationError, match="one list of classes in labels.txt of all subsets"):
        annotations.read(tmp_path)


@pytest.mark.parametrize("layout", ("KITTI", "MOTS20", "MOTS20/train"))
def test_text_files_of_mots(tmp_path, layout):
    """Run lengths of each object of a frame; class 10 is a crowd of every class."""
    classes = ("car", "pedestrian")
    text = tmp_path / "instances_txt" / "0005.txt"
    images = tmp_path / "training" / "image_02" / "0005"
    if layout != "KITTI":
        classes = ("pedestrian", "pedestrian")
        text = tmp_path / "train" / "MOTS20-05" / "gt" / "gt.txt"
        images = tmp_path / "train" / "MOTS20-05" / "img1"
    numbers = [("car", "pedestrian").index(name) + 1 for name in classes]
    lines = [
        f"{frame} {1000 * number + i} {number} {HEIGHT} {WIDTH} {runs(mask)['counts']}"
        for frame in (1, 2)
        for i, (number, mask) in enumerate(zip(numbers, (CAT_MASK, DOG_MASK)))
    ]
    lines.append(f"2 10000 10 {HEIGHT} {WIDTH} {runs(RING_MASK)['counts']}")
    lines += [f"9 1 {numbers[0]} {HEIGHT} {WIDTH} {runs(CAT_MASK)['counts']}", "2 1 7 1 1 0", "x"]
    text.parent.mkdir(parents=True)
    text.write_text("\n".join(lines) + "\n")
    for frame in (1, 2, 3):
        picture(images / f"{frame:06}.jpg")
    path = tmp_path
    if layout == "MOTS20/train":
        path = tmp_path / "train"
    found = annotations.read(path, keep_empty=True)
    assert found.classes == list(dict.fromkeys(classes))
    first, second, third = found.images
    assert objects_of(first) == expected_objects(classes) and not third.regions
    crowds = [(name, True, RING_MASK.tobytes()) for name in found.classes]
    assert objects_of(second) == sorted(expected_objects(classes) + crowds)
    assert "expected an image of frame 9. Received: none" in found.problems[0]
    assert "expected a class of" in found.problems[1] and len(found.problems) == 3
    args = cli._parse(["train", "--weights=none", f"--dataset={path}"])
    assert [len(part.images) for part in cli._sets(args)] == [1, 1]


def test_boxes_of_mot_are_not_read_as_masks(tmp_path):
    picture(tmp_path / "MOT17-02" / "img1" / "000001.jpg")
    (tmp_path / "MOT17-02" / "gt").mkdir()
    (tmp_path / "MOT17-02" / "gt" / "gt.txt").write_text("1,1,912,484,97,109,0,7,1\n")
    with pytest.raises(AnnotationError, match="a folder with 0 json files, none of these"):
        annotations.read(tmp_path)


def test_mapillary_vistas(tmp_path):
    """Class 0 is one, too; a class without instances is none."""
    labels = [
        {"name": "animal--bird", "readable": "Bird", "instances": True},
        {"name": "void", "readable": "Void", "instances": False},
        {"name": "object--vehicle--car", "readable": "Car", "instances": True},
    ]
    write(tmp_path / "config_v2.0.json", {"labels": labels, "version": "2.0"})
    values = coded(1, 2 * 256 + 3)
    values[~CAT_MASK & ~DOG_MASK] = 256
    for subset in ("training", "validation"):
        png(tmp_path / subset / "v2.0" / "instances" / f"{subset}.png", values)
        picture(tmp_path / subset / "images" / f"{subset}.jpg")
    found = annotations.read(tmp_path)
    assert found.classes == ["Bird", "Car"] and not found.problems
    for image in found.images:
        assert objects_of(image) == expected_objects(("Bird", "Car"))
    args = cli._parse(["train", "--weights=none", f"--dataset={tmp_path}"])
    assert [part.images[0].name for part in cli._sets(args)] == [
        "training/training.jpg",
        "validation/validation.jpg",
    ]


def test_instances_of_scene_parsing(tmp_path, caplog):
    """ADE20K's annotations_instance/: red the class, green the object."""
    png(
        tmp_path / "annotations_instance" / "training" / "a.png",
        coded((10, 1, 0), (10, 2, 0), np.uint8),
    )
    picture(tmp_path / "images" / "training" / "a.jpg")
    (image,) = annotations.read(tmp_path).images
    assert objects_of(image) == expected_objects(("class 10", "class 10"))
    assert "no imgCatIds.json names the 100 classes" in caplog.text
    write(tmp_path / "imgCatIds.json", {"categories": [{"id": 10, "name": "windowpane"}]})
    found = annotations.read(tmp_path)
    assert found.classes == ["windowpane"] and found.images[0].regions[0].name == "windowpane"


def test_flags_of_bdds_bitmasks(tmp_path):
    """Occluded and truncated are objects, crowd and ignored are crowds; polygons go first."""
    values = coded((3, 0b1100, 0, 1), (3, 0b0010, 0, 2), np.uint8)
    values[30:] = (4, 0b0001, 1, 1)
    png(tmp_path / "labels" / "ins_seg" / "bitmasks" / "train" / "a.png", values)
    picture(tmp_path / "images" / "10k" / "train" / "a.jpg")
    (image,) = annotations.read(tmp_path).images
    assert [(region.name, region.crowd) for region in image.regions] == [
        ("car", False),
        ("car", True),
        ("truck", True),
    ]
    expected = [CAT_MASK, DOG_MASK, box_mask(0, 30, WIDTH, HEIGHT)]
    np.testing.assert_array_equal(image.masks(), np.stack(expected, axis=-1))
    write(
        tmp_path / "labels" / "ins_seg" / "polygons" / "ins_seg_train.json",
        [{"name": "a.jpg", "labels": [bdd_label("cat", CAT)]}],
    )
    assert annotations.read(tmp_path).classes == ["cat"]


def test_label_images_of_other_programs_are_no_background(tmp_path):
    """In MOTS' folders: plain numbers of objects, which are no classes; a class that it has not."""
    picture(tmp_path / "images" / "0002" / "000001.jpg")
    for values, text in ((coded(1, 2), "Received: 1"), (coded(3001, 4001), "0 problems")):
        png(tmp_path / "instances" / "0002" / "000001.png", values)
        with pytest.raises(AnnotationError, match=f"(?s)images with regions.*{text}"):
            annotations.read(tmp_path, keep_empty=True)


def test_other_pngs_are_refused(tmp_path, caplog):
    """A color image is no PNG of MOTS."""
    picture(tmp_path / "instances" / "0002" / "000001.png")
    picture(tmp_path / "training" / "image_02" / "0002" / "000001.png")
    with caplog.at_level(logging.ERROR), pytest.raises(AnnotationError, match="expected a PNG of"):
        annotations.read(tmp_path)


# ---- Converted files -----------------------------------------------------------------------------


@pytest.mark.parametrize("target", convert.FORMATS)
def test_names_of_many_folders(tmp_path, target):
    """YOLO's files of images that lie deep could not be read again; val/a and validation/a were one
    file, the second over the first."""
    names = ["a/b/c/d/e/x.jpg", "a/b/c/d_e_x.jpg", "val/a.jpg", "validation/a.jpg"]
    items = []
    images = []
    for number, (name, box) in enumerate(zip(names, (CAT, DOG, CAT, DOG))):
        picture(tmp_path / "source" / name)
        images.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
        item = {"id": number, "image_id": number, "category_id": 1, "segmentation": [flat(box)]}
        items.append(item)
    data = {"images": images, "annotations": items, "categories": [{"id": 1, "name": "cat"}]}
    write(tmp_path / "source" / "x.json", data)
    report = convert.convert(tmp_path / "source", target, tmp_path / "out")
    assert report.images == 4
    found = annotations.read(tmp_path / "out")
    masks = sorted(mask for image in found.images for _, _, mask in objects_of(image))
    assert masks == sorted([CAT_MASK.tobytes(), DOG_MASK.tobytes()] * 2)


def vis_json(root, tracks, **more):
    """Two videos whose frames have the same names, the second without a size."""
    videos = []
    for number, sides in ((1, {"width": WIDTH, "height": HEIGHT}), (2, {})):
        names = [f"v{number}/{frame:05}.jpg" for frame in range(3)]
        videos.append({"id": number, "file_names": names, **sides})
        for name in names:
            picture(root / "JPEGImages" / name)
    categories = [{"id": 0, "name": "cat"}, {"id": 5, "name": "dog"}, {"id": 9, "name": "cow"}]
    data = {"videos": videos, "annotations": tracks, "categories": categories, **more}
    return write(root / "instances.json", data)


def track(number, video_id, category_id, **fields):
    return {"id": number, "video_id": video_id, "category_id": category_id, **fields}


def test_objects_of_youtube_vis_vanish_and_return(tmp_path):
    cat, dog = runs(CAT_MASK), runs(DOG_MASK)
    tracks = [
        track(
            11, 1, 0, segmentations=[cat, None, cat], bboxes=[[5, 6, 10, 20]] * 3, occlusion="no"
        ),
        track(12, 1, 5, segmentations=[None, dog], iscrowd=1),
        track(13, 2, 5, segmentations=[None, None, dog]),
    ]
    found = annotations.read(vis_json(tmp_path, tracks), keep_empty=True)
    assert found.classes == ["cat", "dog", "cow"] and not found.problems
    seen = {}
    for image in found.images:
        assert image.path == str(tmp_path / "JPEGImages" / image.name)
        seen[image.name] = objects_of(image)
    cat_object = ("cat", False, CAT_MASK.tobytes())
    assert seen == {
        "v1/00000.jpg": [cat_object],
        "v1/00001.jpg": [("dog", True, DOG_MASK.tobytes())],
        "v1/00002.jpg": [cat_object],
        "v2/00000.jpg": [],
        "v2/00001.jpg": [],
        "v2/00002.jpg": [("dog", False, DOG_MASK.tobytes())],
    }
    (region,) = found.images[0].regions
    assert region.extra == {"track_id": 11, "occlusion": "no"}
    convert.convert(tmp_path / "instances.json", "coco", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert sorted(item["attributes"]["track_id"] for item in written["annotations"]) == [
        *(11, 11, 12, 13)
    ]


def test_tracks_of_boxes_alone(tmp_path, caplog):
    tracks = [track(1, 1, 0, bboxes=[None, [5, 6, 10, 20]]), track(2, 1, 5, bboxes=[[1, 2, 0, 4]])]
    found = annotations.read(vis_json(tmp_path, tracks))
    (image,) = found.images
    assert image.name == "v1/00001.jpg"
    assert objects_of(image) == [("cat", False, CAT_MASK.tobytes())]
    assert "the boxes of 1 objects are taken for their shapes" in caplog.text
    (problem,) = found.problems
    assert "'v1/00000.jpg', region 2: expected a box" in problem


def test_problems_of_youtube_vis(tmp_path):
    cat = runs(CAT_MASK)
    tracks = [
        track(1, 1, 0, segmentations=[cat]),
        track(2, 1, 4, segmentations=[cat]),
        track(3, 8, 0, segmentations=[cat]),
        track(4, 2, 0, segmentations=[[flat(CAT)]]),
    ]
    found = annotations.read(vis_json(tmp_path, tracks))
    assert [image.name for image in found.images] == ["v1/00000.jpg"]
    texts = "\n".join(found.problems)
    assert "region 2: expected the category_id of one of 3 categories. Received: 4" in texts
    assert "expected a video for each. Received: 1 without" in texts
    assert "'v2/00000.jpg', region 4: expected height and width of the video" in texts
    data = {"videos": [{"id": 1, "file_names": ["a.jpg"]}], "categories": []}
    with pytest.raises(AnnotationError, match=r"videos \(YouTube-VIS\) without annotations"):
        annotations.read(write(tmp_path / "valid.json", data))


def test_createml_of_other_programs(tmp_path, caplog):
    """Other names of the fields; images without objects; parts of the image are no pixels."""
    box = {"x": 15.5, "y": 10.5, "width": 21, "height": 9}
    items = [
        {"imagefilename": "a.jpg", "annotation": [{"label": "cat", "coordinates": box}]},
        {"image": "b.jpg", "annotations": []},
        {
            "image": "c.jpg",
            "annotations": [
                {"label": "cat", "coordinates": {"x": 0.5, "y": 0.5, "width": 0.2, "height": 0.1}},
                {"label": "cat", "coordinates": {**box, "width": 0}},
                {"label": "dog", "coordinates": box},
            ],
        },
    ]
    for name in "abc":
        picture(tmp_path / f"{name}.jpg")
    path = write(tmp_path / "boxes.json", items)
    found = annotations.read(path, keep_empty=True)
    expected = box_mask(5, 6, 26, 15)
    assert [(image.name, objects_of(image)) for image in found.images] == [
        ("a.jpg", [("cat", False, expected.tobytes())]),
        ("b.jpg", []),
        ("c.jpg", [("dog", False, expected.tobytes())]),
    ]
    assert "the boxes of 2 objects are taken for their shapes" in caplog.text
    assert "in parts of the image" in found.problems[0] and "above 0" in found.problems[1]


@pytest.mark.parametrize(
    "damage",
    (
        {"segmentation": None, "bbox": None},
        {"segmentation": [[1, 1, 5, 5]]},
        {"segmentation": {"size": [20, 60], "counts": [246, 20, 934]}},
        {"category_id": 9},
    ),
)
def test_images_whose_annotations_are_all_left_out_are_no_background(tmp_path, damage):
    """COCO's were: detections on them counted as false. Other formats have left them out."""
    item = {"image_id": 1, "category_id": 1, "segmentation": [flat(CAT)], "iscrowd": 0}
    images = []
    for number in (1, 2, 3):
        picture(tmp_path / f"{number}.jpg")
        sides = {"height": HEIGHT, "width": WIDTH}
        images.append({"id": number, "file_name": f"{number}.jpg", **sides})
    items = [{**item, "id": 1}, {**item, "id": 2, "image_id": 2, **damage}]
    data = {"images": images, "annotations": items, "categories": [{"id": 1, "name": "cat"}]}
    found = annotations.read(write(tmp_path / "a.json", data), keep_empty=True)
    assert [image.name for image in found.images] == ["1.jpg", "3.jpg"]
    assert len(found.problems) == 1


def test_the_results_of_detect_are_no_images_without_objects(tmp_path, caplog):
    """images.json has the images, results.json the detections: these were lost without a word."""
    picture(tmp_path / "a.jpg")
    image = {"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}
    data = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    write(tmp_path / "images.json", data)
    annotations.read(tmp_path, keep_empty=True)
    assert "results.json" not in caplog.text
    row = {"image_id": 1, "category_id": 1, "score": 0.9, "segmentation": runs(CAT_MASK)}
    write(tmp_path / "results.json", [row])
    annotations.read(tmp_path, keep_empty=True)
    assert "results.json are not read as such" in caplog.text
