"""A model behind HTTP, as far as no server is needed: batches, bodies, answers. The whole of it, in
a real server with a real model, is in test_runtimes.py."""

import asyncio
import errno
import io
import json
import os
import sys
import tempfile
import types

import numpy as np
import pytest
from PIL import Image

from mrcnn import serving
from mrcnn.coco import CATEGORIES
from mrcnn.masks import encode


class Model:
    """Finds in each image one object of class 1, whose score is the image's first pixel."""

    path = "model.onnx"
    class_names = ["BG", "cell"]

    def __init__(self):
        self.config = types.SimpleNamespace(BATCH_SIZE=1)
        self.seen = []

    def detect(self, images, masks):
        assert masks == "lazy" and len(images) <= self.config.BATCH_SIZE
        self.seen.append(len(images))
        scores = [float(image[0, 0, 0]) for image in images]
        if 13.0 in scores:
            raise ValueError("13 is refused")
        if 99.0 in scores:
            raise RuntimeError("of the runtime")
        return [{"scores": np.array([score])} for score in scores]


def picture(value):
    return np.full((2, 2, 3), value, np.uint8)


def detect_all(model, values, most=4, wait=0.01):
    """What a batcher gives for images asked for at once: scores or errors; and the batcher."""

    async def run():
        batcher = serving.Batcher(model, most, wait)
        task = asyncio.create_task(batcher.run())
        asked = (batcher.detect(picture(value)) for value in values)
        found = await asyncio.gather(*asked, return_exceptions=True)
        task.cancel()
        return found, batcher

    found, batcher = asyncio.run(run())
    return [
        entry if isinstance(entry, Exception) else float(entry["scores"][0]) for entry in found
    ], batcher


def test_images_that_come_together_run_together():
    """At most so many at a time; each request gets its own."""
    model = Model()
    found, batcher = detect_all(model, range(10), most=4)
    assert found == list(range(10))
    assert batcher.batches == model.seen == [4, 4, 2]


def test_one_image_that_fails_does_not_disturb_the_others():
    model = Model()
    found, batcher = detect_all(model, [1, 13, 2, 99, 5], most=4)
    assert [found[0], found[2], found[4]] == [1, 2, 5]
    assert isinstance(found[1], ValueError) and isinstance(found[3], RuntimeError)
    assert batcher.batches == [4, 1]
    assert model.seen == [4, 1, 1, 1, 1, 1]


def test_who_has_gone_costs_no_detection():
    model = Model()

    async def run():
        batcher = serving.Batcher(model, 4, 0.05)
        task = asyncio.create_task(batcher.run())
        gone = asyncio.create_task(batcher.detect(picture(1)))
        stays = asyncio.create_task(batcher.detect(picture(2)))
        await asyncio.sleep(0.01)
        gone.cancel()
        result = await stays
        task.cancel()
        return result

    assert asyncio.run(run())["scores"] == [2]
    assert model.seen == [1]


def test_the_first_request_begins_what_nobody_has_begun():
    """An application that is mounted in another one is not told that a server begins; each loop."""
    model = Model()
    batcher = serving.Batcher(model, 4, 0.01)

    async def run():
        asked = (batcher.detect(picture(value)) for value in (1, 2))
        return await asyncio.wait_for(asyncio.gather(*asked), 60)

    for _ in range(2):
        assert [float(result["scores"][0]) for result in asyncio.run(run())] == [1, 2]
    assert model.seen == [2, 2]


# ---- Bodies and answers --------------------------------------------------------------------------


def file_of(pixels, kind="png", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def no_files_left(tmp_path, monkeypatch):
    """Temporary files lie in a folder that is empty in the end."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert not list(tmp_path.iterdir())


def test_image_of_a_body(no_files_left):
    """Of any kind: gray and transparent ones become RGB."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    for kind in ("png", "bmp", "tiff"):
        np.testing.assert_array_equal(serving.image_of(file_of(pixels, kind)), pixels)
    gray = np.repeat(pixels[..., :1], 3, axis=-1)
    np.testing.assert_array_equal(serving.image_of(file_of(pixels[..., 0])), gray)
    opaque = np.dstack([pixels, np.full((5, 7), 255, np.uint8)])
    np.testing.assert_array_equal(serving.image_of(file_of(opaque)), pixels)


def test_a_full_disk_is_no_fault_of_the_image(no_files_left, monkeypatch):
    """It was answered with 400: the body is no image."""

    class Full(io.BytesIO):
        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(handle, mode):
        os.close(handle)
        return Full()

    monkeypatch.setattr(serving.os, "fdopen", opened)
    with pytest.raises(OSError, match="No space left"):
        serving.image_of(file_of(picture(1)))


@pytest.mark.parametrize(
    "body",
    [b"", b"no image", file_of(picture(1))[:40], b"<!DOCTYPE html><html>"],
    ids=["empty", "text", "cut", "page"],
)
def test_bodies_that_are_no_image(no_files_left, body):
    """The message has no path of a temporary file."""
    with pytest.raises(ValueError, match="the body") as caught:
        serving.image_of(body)
    assert not isinstance(caught.value, serving.TooLarge)
    assert tempfile.gettempdir() not in str(caught.value)


def test_a_small_file_of_a_huge_image_is_not_decoded(no_files_left, monkeypatch):
    body = file_of(np.zeros((100, 200), np.uint8))
    monkeypatch.setattr(serving.utils, "read_image", None)
    with pytest.raises(serving.TooLarge, match="at most 19999 pixels. Received: 200 x 100"):
        serving.image_of(body, pixels=19_999)


def test_an_image_of_more_pixels_than_any_is_read_is_too_large_too(no_files_left, monkeypatch):
    monkeypatch.setattr(serving.utils, "MAX_PIXELS", 10_000)
    with pytest.raises(serving.TooLarge, match="at most 9000 pixels: expected at most 10,000"):
        serving.image_of(file_of(np.zeros((100, 200), np.uint8)), pixels=9000)


def test_a_network_of_many_bands_gets_all(no_files_left):
    """It was given three of them, and refused each image."""
    tifffile = pytest.importorskip("tifffile")
    pixels = np.random.default_rng(0).integers(0, 4000, (20, 30, 6)).astype(np.uint16)
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="minisblack", planarconfig="contig")
    body = file.getvalue()
    np.testing.assert_array_equal(serving.image_of(body, all_bands=True), pixels)
    assert serving.image_of(body).shape == (20, 30, 3)


@pytest.mark.parametrize("body", [b"%!PS-Adobe-3.0 EPSF-3.0", b"\xc5\xd0\xd3\xc6" + bytes(30)])
def test_a_program_is_not_run(body, monkeypatch):
    """Pillow would give PostScript to Ghostscript."""
    monkeypatch.setattr(serving.utils, "read_image", None)
    with pytest.raises(ValueError, match="the body is PostScript"):
        serving.image_of(body)


def test_tiffs_without_tifffile(no_files_left, monkeypatch):
    """The packages of the page: what Pillow reads as well is read, of the rest is said why not."""
    monkeypatch.setitem(sys.modules, "tifffile", None)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    np.testing.assert_array_equal(serving.image_of(file_of(pixels, "tiff")), pixels)
    gray = np.repeat(pixels[..., :1], 3, axis=-1)
    np.testing.assert_array_equal(serving.image_of(file_of(pixels[..., 0], "tiff")), gray)
    deep = file_of(pixels[..., 0].astype(np.uint16) * 257, "tiff")
    pages = file_of(pixels, "tiff", save_all=True, append_images=[Image.fromarray(pixels)])
    for body in (deep, pages):
        with pytest.raises(ValueError, match="the body is a TIFF that .*: pip install tifffile"):
            serving.image_of(body)
    with pytest.raises(ValueError, match="the body"):
        serving.image_of(b"II*\x00" + bytes(30))


def test_answers_have_the_ids_of_coco():
    """Of COCO's classes alone: class 12 is category 13."""
    result = {"rois": np.int32([[0, 0, 2, 2]]), "scores": np.float32([1]), "masks": None}
    for names, expected in (
        (["BG", *CATEGORIES.values()], 13),
        (["BG", *list(CATEGORIES.values())[:-1], "bottlebrush"], 12),
    ):
        found = {**result, "class_ids": np.int32([12])}
        answer = serving.answer_of(picture(0), found, names)
        assert answer["annotations"][0]["category_id"] == expected
        assert {"id": expected, "name": "stop sign"} in answer["categories"]
        assert len(answer["categories"]) == 80


def test_answers_are_json_of_coco():
    masks = np.zeros((20, 30, 1), bool)
    masks[2:5, 3:9] = True
    result = {
        "rois": np.int32([[2, 3, 5, 9]]),
        "class_ids": np.int32([2]),
        "scores": np.float32([0.5]),
        "masks": masks,
    }
    answer = serving.answer_of(np.zeros((20, 30, 3), np.uint8), result, ["BG", "a", "b"])
    (code,) = encode(masks)
    assert json.loads(json.dumps(answer)) == {
        "images": [{"id": 1, "height": 20, "width": 30}],
        "annotations": [
            {
                "image_id": 1,
                "category_id": 2,
                "bbox": [3, 2, 6, 3],
                "score": 0.5,
                "segmentation": {"size": [20, 30], "counts": code["counts"]},
            }
        ],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }


@pytest.mark.parametrize(
    "options, part",
    [
        ({"batch": 0}, "batch is a whole number from 1. Received: 0"),
        ({"limit": -1}, "limit is a whole number from 1. Received: -1"),
        ({"pixels": 0}, "pixels is a whole number from 1. Received: 0"),
        ({"wait": -0.1}, "wait is between 0 and 60 seconds. Received: -0.1"),
        ({"wait": float("nan")}, "wait is between 0 and 60 seconds. Received: nan"),
    ],
    ids=str,
)
def test_what_application_refuses(options, part):
    with pytest.raises(ValueError, match=part):
        serving.application(Model(), **options)


def test_application_names_the_package_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    with pytest.raises(ImportError, match="Serving needs starlette: pip install starlette uvicorn"):
        serving.application(Model())
