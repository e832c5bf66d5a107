"""Runs `mrcnn.neighbours` and the readers against Label Studio's and FiftyOne's real packages.

    python tests/platforms_runner.py

In an environment that has them and no Keras; `tests/test_neighbours.py` calls it. A failure is an
AssertionError. Of FiftyOne the part that needs its database is left out where that doesn't start.
"""

import json
import pathlib
import platform

import fiftyone
import label_studio_sdk
import numpy as np
from label_studio_sdk.converter import brush
from label_studio_sdk.label_interface import LabelInterface
from PIL import Image

from mrcnn import annotations, neighbours
from mrcnn.config import Config
from mrcnn.masks import encode, pack_brush, unpack_brush

# With a blank and letters beyond ASCII.
NAMES = ["BG", "große Katze", "dog & 犬"]
SHAPE = (40, 60)


def found(form="dense"):
    """Two objects: a ring with a pixel apart, and a bar on the edge."""
    masks = np.zeros((*SHAPE, 2), bool)
    masks[5:20, 10:30, 0] = True
    masks[10:15, 15:20, 0] = False
    masks[22, 35, 0] = True
    masks[30:40, 50:60, 1] = True
    result = {
        "rois": np.array([[5, 10, 23, 36], [30, 50, 40, 60]], np.int32),
        "class_ids": np.array([1, 2], np.int32),
        "scores": np.array([0.9, 0.7], np.float32),
        "masks": masks,
    }
    if form == "rle":
        result["masks"] = encode(masks)
    elif form == "none":
        result["masks"] = None
    return result, masks


EMPTY = {
    "rois": np.zeros((0, 4), np.int32),
    "class_ids": np.zeros(0, np.int32),
    "scores": np.zeros(0, np.float32),
    "masks": np.zeros((*SHAPE, 0), bool),
}


class Sees:
    """Finds the same on every image."""

    config = Config(NUM_CLASSES=3)

    def detect(self, images, masks="dense"):
        assert [image.shape[:2] for image in images] == [SHAPE]
        return [found(masks)[0]]


# ---- Label Studio --------------------------------------------------------------------------------


def check_run_lengths():
    """Both ways against Label Studio's own code, whose run lengths have values that don't repeat."""
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (7, 5), (33, 48), (150, 170)):
        for share in (0, 0.03, 0.5, 1):
            mask = rng.random(shape) < share
            flat = np.asarray(brush.decode_rle(pack_brush(mask)))
            np.testing.assert_array_equal(flat.reshape(*shape, 4)[..., 3], 255 * mask)
            theirs = brush.mask2rle(mask.astype(np.uint8) * 255)
            np.testing.assert_array_equal(unpack_brush(theirs, *shape), mask)
    soft = rng.integers(0, 2, (20, 30, 4)) * rng.integers(1, 256, (20, 30, 4))
    packed = brush.encode_rle(soft.ravel().astype(np.uint8))
    np.testing.assert_array_equal(unpack_brush(packed, 20, 30), soft[..., 3] > 0)


def config(tag, labels=NAMES[1:], value="$image"):
    inner = "".join(f'<Label value="{label}"/>' for label in labels).replace("&", "&amp;")
    return (
        f'<View><Image name="img" value="{value}"/><{tag} name="tag" toName="img">{inner}'
        f"</{tag}></View>"
    )


def check_predictions(folder):
    """They are valid by Label Studio's own check; read back as annotations they are the masks."""
    path = folder / "photo.png"
    Image.new("RGB", SHAPE[::-1]).save(path)
    for tag in ("BrushLabels", "PolygonLabels", "RectangleLabels"):
        studio = neighbours.LabelStudio(Sees(), NAMES, config(tag), tolerance=0)
        tasks = [{"id": 1, "data": {"image": str(path)}}]
        (prediction,) = studio.predict(tasks)
        interface = LabelInterface(config(tag))
        assert interface.validate_prediction(prediction, return_errors=True) == []
        assert abs(prediction["score"] - 0.8) < 1e-6
        json.dumps(prediction)
        export = [{**tasks[0], "annotations": [prediction], "predictions": []}]
        (folder / "export.json").write_text(json.dumps(export))
        read = annotations.read(folder / "export.json")
        assert [region.name for region in read.images[0].regions] == NAMES[1:]
        _, masks = found()
        if tag == "RectangleLabels":
            masks = np.zeros((*SHAPE, 2), bool)
            masks[5:23, 10:36, 0] = True
            masks[30:40, 50:60, 1] = True
        np.testing.assert_array_equal(read.images[0].masks(), masks)
    # One label of the two, and an address that has to be asked for.
    studio = neighbours.LabelStudio(Sees(), NAMES, config("BrushLabels", NAMES[2:], "$photo"))
    asked = []
    task = {"data": {"photo": "s3://a/b.png"}}
    (prediction,) = studio.predict([task], lambda address: asked.append(address) or str(path))
    assert asked == ["s3://a/b.png"] and len(prediction["result"]) == 1
    nothing = neighbours.to_label_studio(EMPTY, NAMES)
    assert nothing == {"result": [], "score": 0.0}


# ---- FiftyOne ------------------------------------------------------------------------------------


def check_labels():
    """Labels need no database; their masks are drawn where the objects are, by FiftyOne's code."""
    for form in ("dense", "rle"):
        result, masks = found(form)
        detections = neighbours.to_fiftyone(result, NAMES).detections
        assert [each.label for each in detections] == NAMES[1:]
        for i, each in enumerate(detections):
            drawn = each.to_segmentation(frame_size=SHAPE[::-1], target=255).mask
            np.testing.assert_array_equal(drawn > 0, masks[..., i])
            assert isinstance(each.confidence, float)
    assert neighbours.to_fiftyone(EMPTY, NAMES).detections == []
    boxes = neighbours.to_fiftyone(found("none")[0], NAMES, (*SHAPE, 3)).detections
    assert boxes[1].mask is None
    np.testing.assert_allclose(boxes[1].bounding_box, [50 / 60, 30 / 40, 10 / 60, 10 / 40])
    try:
        neighbours.to_fiftyone(found("none")[0], NAMES)
    except ValueError as error:
        assert "image_shape=(height, width)" in str(error)
    else:
        raise AssertionError("a size out of nothing")


def samples_of(folder):
    """Samples of the objects, without a dataset."""
    samples = []
    for name in ("a", "b", "c"):
        path = folder / f"{name}.png"
        Image.new("RGB", SHAPE[::-1]).save(path)
        samples.append(fiftyone.Sample(filepath=str(path)))
    samples[0]["truth"] = neighbours.to_fiftyone(found()[0], NAMES)
    samples[1]["truth"] = fiftyone.Detections(detections=[])
    samples[2]["truth"] = None
    return samples


def check_samples(folder):
    """What went there comes back, also from a dataset and from outlines."""
    samples = samples_of(folder)
    check_read(samples)
    square = fiftyone.Polyline(
        label="x", points=[[(0.5, 0.5), (1, 0.5), (1, 1), (0.5, 1)]], closed=True, filled=True
    )
    samples[0]["truth"] = fiftyone.Polylines(polylines=[square])
    read = neighbours.from_fiftyone(samples, "truth")
    expected = np.zeros(SHAPE, bool)
    expected[20:, 30:] = True
    np.testing.assert_array_equal(read.images[0].masks()[..., 0], expected)
    # A mask of another size than its box, and what is no object.
    small = fiftyone.Detection(label="x", bounding_box=[0, 0, 0.5, 0.5], mask=np.eye(2, dtype=bool))
    none = fiftyone.Detection(bounding_box=[0, 0, 0.5, 0.5])
    outside = fiftyone.Detection(label="x", bounding_box=[2, 2, 0.5, 0.5])
    samples[0]["truth"] = fiftyone.Detections(detections=[small, none, outside])
    read = neighbours.from_fiftyone(samples, "truth")
    assert len(read.problems) == 2 and len(read.images[0].regions) == 1
    expected = np.zeros(SHAPE, bool)
    expected[:10, :15] = expected[10:20, 15:30] = True
    np.testing.assert_array_equal(read.images[0].masks()[..., 0], expected)


def check_read(samples):
    read = neighbours.from_fiftyone(samples, "truth", keep_empty=True)
    assert [image.name for image in read.images] == ["a.png", "b.png"]
    assert read.classes == sorted(NAMES[1:]) and not read.problems
    np.testing.assert_array_equal(read.images[0].masks(), found()[1])
    dataset = annotations.AnnotatedDataset.of("fiftyone", read)
    assert dataset.load_image(0).shape == (*SHAPE, 3)


def check_dataset(folder):
    """The same with FiftyOne's database. Returns whether that has started."""
    try:
        dataset = fiftyone.Dataset()
    except Exception as error:  # whatever it raises where mongod can't run
        if platform.system() == "Linux" and platform.machine() == "x86_64":
            raise
        print("FiftyOne's database doesn't start:", type(error).__name__, str(error)[:200])
        return False
    dataset.add_samples(samples_of(folder))
    check_read(dataset)
    check_read(dataset.view())
    check_evaluation(dataset)
    dataset.delete()
    return True


def check_evaluation(dataset):
    """FiftyOne's own evaluation finds the objects again, and not those that lie elsewhere."""
    result, masks = found()
    right = neighbours.to_fiftyone(result, NAMES)
    moved = {**result, "rois": result["rois"] - [0, 10, 0, 10], "masks": np.roll(masks, -10, 1)}
    for sample in dataset:
        sample["right"] = fiftyone.Detections(detections=[])
        sample["moved"] = fiftyone.Detections(detections=[])
        if sample.filepath.endswith("a.png"):
            sample["right"] = right
            sample["moved"] = neighbours.to_fiftyone(moved, NAMES)
        sample.save()
    for field, expected in (("right", (2, 0, 0)), ("moved", (0, 2, 2))):
        dataset.evaluate_detections(field, gt_field="truth", eval_key=field, use_masks=True)
        counts = [dataset.sum(f"{field}_{kind}") for kind in ("tp", "fp", "fn")]
        assert tuple(counts) == expected, (field, counts)


if __name__ == "__main__":
    here = pathlib.Path.cwd()
    check_run_lengths()
    check_predictions(here)
    print("label-studio-sdk", label_studio_sdk.__version__)
    check_labels()
    check_samples(here)
    print("fiftyone", fiftyone.__version__, "database:", check_dataset(here))
