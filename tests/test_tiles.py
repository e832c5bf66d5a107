"""Large images in tiles: known objects, each found once with its own pixels, in bounded memory."""

import argparse
import json
import math
import tracemalloc

import numpy as np
import pytest
import tifffile
from PIL import Image
from pycocotools import mask as coco_mask
from scipy import ndimage

from mrcnn import commands, data, evaluate, masks as mask_math, tiles, utils
from mrcnn.config import Config


class Sees:
    """Finds what is drawn: an image's red and green say the number of the object, 0 for none.

    Args:
        least: pixels of an object below which nothing is found.
        noise: f(mask, number) that returns another mask.
        classes: an object's number to its class id.
    """

    def __init__(self, least=1, noise=None, classes=lambda number: 1 + number % 2):
        self.config = Config(IMAGES_PER_GPU=2, NUM_CLASSES=3)
        self.least, self.noise, self.classes = least, noise, classes
        self.batches = []

    def detect(self, images, masks=None, tile=None, overlap=None):
        if tile is not None:
            return tiles.detect_each(self, images, tile, overlap, masks)
        self.batches.append([image.shape for image in images])
        return [self._look(image, masks) for image in images]

    def _look(self, image, form):
        labels = image[..., 0].astype(np.int32) * 256 + image[..., 1]
        numbers = []
        masks = []
        for number, box in enumerate(ndimage.find_objects(labels), 1):
            if box is None:
                continue
            mask = np.zeros(labels.shape, bool)
            mask[box] = labels[box] == number
            if self.noise:
                mask = self.noise(mask, number)
            if mask.sum() >= self.least:
                numbers.append(number)
                masks.append(mask)
        height = len(labels)
        boxes = [tiles.box_of(tiles.runs_of(mask, 0, 0, height), height) for mask in masks]
        stacked = np.moveaxis(np.array(masks, bool).reshape(-1, *labels.shape), 0, -1)
        return {
            "rois": np.array(boxes, np.int32).reshape(-1, 4),
            "class_ids": np.array(list(map(self.classes, numbers)), np.int32),
            "scores": np.array([1 - number / 1e4 for number in numbers], np.float32),
            "masks": mask_math.encode(stacked) if form == "rle" else stacked,
        }


def drawn(labels):
    """[H, W, 3] uint8 of an image of numbers."""
    image = np.zeros((*labels.shape, 3), np.uint8)
    image[..., 0], image[..., 1] = labels // 256, labels % 256
    return image


def scene(shape, seed, count):
    """An image of numbers: disks, bars, horseshoes, rings with a disk inside, all apart or touching."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, int)
    y, x = np.mgrid[: shape[0], : shape[1]]
    number = 0
    for _ in range(count):
        cy, cx, radius = rng.integers(0, shape[0]), rng.integers(0, shape[1]), rng.integers(3, 45)
        away = np.hypot(y - cy, x - cx)
        kind = rng.integers(4)
        pixels = away < radius
        if kind == 1:
            pixels = (abs(y - cy) < 3) & (abs(x - cx) < 2 * radius)
        elif kind == 2:
            pixels &= (away > radius / 2) & ((y < cy) | (abs(x - cx) > radius / 2))
        elif kind == 3:
            pixels &= away > radius / 2
        if radius < 8:
            pixels = away < radius
        if (labels[pixels] == 0).all():
            number += 1
            labels[pixels] = number
            if kind == 3 and radius > 15:  # of the same class as the ring
                number += 2
                labels[away < radius / 4] = number
    return labels


def check(result, labels, least_iou=1.0):
    """Each object is there once, with its class and its pixels."""
    numbers = [number for number in np.unique(labels) if number]
    seen = [round((1 - score) * 1e4) for score in result["scores"].astype(float)]
    assert sorted(seen) == numbers
    assert result["scores"].tolist() == sorted(result["scores"].tolist(), reverse=True)
    for number, code, roi, class_id in zip(
        seen, result["masks"], result["rois"], result["class_ids"]
    ):
        mask = coco_mask.decode(code).astype(bool)
        truth = labels == number
        assert (mask & truth).sum() >= least_iou * (mask | truth).sum(), number
        if least_iou == 1:
            assert tuple(roi) == tiles.box_of(tiles.runs_of(truth, 0, 0, len(truth)), len(truth))
        assert class_id == 1 + number % 2


# ---- Where tiles lie, runs -----------------------------------------------------------------------


def test_positions_by_hand():
    assert tiles.positions(100, 100, 20) == [0]
    assert tiles.positions(30, 100, 20) == [0]
    assert tiles.positions(101, 100, 20) == [0, 1]
    assert tiles.positions(260, 100, 20) == [0, 80, 160]
    assert tiles.positions(300, 100, 0) == [0, 100, 200]
    assert tiles.windows((50, 120, 3), 60, 10) == [
        (0, 0, 50, 60),
        (0, 50, 50, 110),
        (0, 60, 50, 120),
    ]
    for side in range(1, 400, 7):
        begins = tiles.positions(side, 64, 16)
        assert begins == sorted(begins) and begins[-1] + 64 >= side
        steps = np.diff(begins)
        assert (steps <= 48).all() and (steps > 0).all()


def test_runs_against_arrays():
    """Clipping, sharing, joining and encoding of random masks."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        height, width = (int(side) for side in rng.integers(1, 14, 2))
        masks = rng.random((3, height, width)) < rng.choice([0.1, 0.5, 0.9])
        runs = [tiles.runs_of(mask, 0, 0, height) for mask in masks]
        assert [each.area for each in runs] == masks.sum(axis=(1, 2)).tolist()
        for code, mask in zip(tiles.encoded(runs, (height, width)), masks):
            expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            assert code == {"size": [height, width], "counts": expected["counts"].decode()}
        assert tiles.common(runs[0], runs[1]) == (masks[0] & masks[1]).sum()
        (joined,) = tiles.encoded([tiles.union(runs, height)], (height, width))
        np.testing.assert_array_equal(coco_mask.decode(joined), masks.any(axis=0))
        y1, x1 = (int(n) for n in rng.integers(0, (height, width)))
        y2, x2 = int(rng.integers(y1, height)) + 1, int(rng.integers(x1, width)) + 1
        part = tiles.clipped(runs[0], (y1, x1, y2, x2), height)
        alone = np.zeros((height, width), bool)
        alone[y1:y2, x1:x2] = masks[0, y1:y2, x1:x2]
        (code,) = tiles.encoded([part], (height, width))
        np.testing.assert_array_equal(coco_mask.decode(code), alone)
        box, crop = mask_math.crop_of_rle(code)
        whole = np.zeros((height, width), bool)
        whole[box[0] : box[2], box[1] : box[3]] = crop
        np.testing.assert_array_equal(whole, alone)
    assert tiles.common(tiles.NONE, runs[0]) == 0 and tiles.box_of(tiles.NONE, 5) == (0, 0, 0, 0)


# ---- Objects on seams ----------------------------------------------------------------------------


@pytest.mark.parametrize("overlap", (0, 16, 40, None))
@pytest.mark.parametrize("seed", range(3))
def test_each_object_once_with_its_pixels(seed, overlap):
    """Whatever its shape and however many tiles it lies in."""
    labels = scene((300, 410), seed, 60)
    model = Sees()
    result = tiles.detect(model, drawn(labels), 64, overlap)
    check(result, labels)
    assert max(map(len, model.batches)) == 2 and len(labels) > 64


def test_an_object_as_large_as_the_image():
    labels = np.ones((200, 300), int)
    labels[50:150, 50:250] = 0
    labels[90:110, 90:110] = 3  # of the same class, inside
    check(tiles.detect(Sees(), drawn(labels), 64, 8), labels)


def test_without_an_overlap_halves_are_joined_along_the_seam():
    """Tiles of 100 with an overlap of 0: bars over a seam, one over four tiles, and neighbours."""
    labels = np.zeros((300, 300), int)
    labels[20:40, 60:140] = 1  # over a seam between columns
    labels[60:140, 20:40] = 2  # over a seam between rows
    labels[70:230, 150:260] = 3  # over six tiles
    labels[80:100, 60:80] = 5  # ends at the seam; beside it, of the same class, begins another
    labels[100:120, 74:94] = 7
    check(tiles.detect(Sees(), drawn(labels), tile=100, overlap=0), labels)


def test_a_large_overlap_says_how_long_it_takes_or_is_refused(caplog):
    labels = np.zeros((160, 160), int)
    labels[70:90, 70:90] = 1
    check(tiles.detect(Sees(), drawn(labels), tile=64, overlap=60), labels)
    (line,) = caplog.messages
    assert "60 in tiles of 64 pixels makes 625 tiles of this image, about" in line
    assert "a pixel is looked at 256 times, with an overlap of 13" in line
    caplog.clear()
    check(tiles.detect(Sees(), drawn(labels), tile=64, overlap=48), labels)
    assert not caplog.messages
    with pytest.raises(ValueError, match="8,862,529 tiles of 1024 pixels with an overlap of 1023"):
        tiles.windows((4000, 4000, 3), 1024, 1023)
    # As many tiles for the sake of the image's size are no mistake.
    assert len(tiles.windows((32_000, 32_000), 64, 0)) == 250_000


def test_neighbours_of_one_class_stay_apart():
    """Squares that touch, cut by every seam."""
    y, x = np.mgrid[:200, :200]
    labels = 1 + 2 * (y // 20 * 10 + x // 20)
    check(tiles.detect(Sees(), drawn(labels), 64, 16), labels)


@pytest.mark.parametrize("side, overlap", [(200, 20), (300, 50), (300, 75)])
def test_neighbours_stay_apart_where_another_tile_shows_both(side, overlap):
    """Tiles of 100 that begin where another ends, while one between them shows both squares."""
    labels = np.zeros((side, side), int)
    labels[40:60, 80:100] = 1
    labels[40:60, 100:120] = 3
    labels[80:100, 20:40] = 5
    labels[100:120, 20:40] = 7
    check(tiles.detect(Sees(), drawn(labels), tile=100, overlap=overlap), labels)


@pytest.mark.parametrize("seed", range(2))
def test_masks_that_are_not_exact(seed):
    """Edges that differ from tile to tile, and slivers that nobody sees."""
    rng = np.random.default_rng(seed)

    def noise(mask, number):
        if rng.random() < 0.5:
            return ndimage.binary_dilation(mask)
        return ndimage.binary_erosion(mask, border_value=1)

    y, x = np.mgrid[:300, :300]
    labels = np.zeros((300, 300), int)
    for number, (cy, cx) in enumerate(np.ndindex(6, 6), 1):
        labels[np.hypot(y - 25 - 50 * cy, x - 25 - 50 * cx) < 20] = number
    result = tiles.detect(Sees(least=15, noise=noise), drawn(labels), 128, 32)
    check(result, labels, 0.75)


def test_no_objects_and_other_classes():
    result = tiles.detect(Sees(), np.zeros((150, 150, 3), np.uint8), 64)
    assert result["rois"].shape == (0, 4) and result["masks"] == []
    assert result["scores"].dtype == np.float32 and result["class_ids"].dtype == np.int32
    dense = tiles.detect(Sees(), np.zeros((150, 150, 3), np.uint8), 64, masks="dense")
    assert dense["masks"].shape == (150, 150, 0)


def test_one_tile_is_plain_detection():
    labels = scene((60, 64), 5, 10)
    model = Sees()
    plain = model.detect([drawn(labels)], masks="rle")[0]
    tiled = model.detect([drawn(labels)], tile=64)[0]
    assert tiled.keys() == plain.keys() and tiled["masks"] == plain["masks"]
    for name in ("rois", "class_ids", "scores"):
        np.testing.assert_array_equal(tiled[name], plain[name])
    dense = model.detect([drawn(labels)], tile=32, masks="dense")[0]["masks"]
    assert dense.shape == (60, 64, len(plain["scores"]))


def test_keypoints_move_with_their_object():
    class Points(Sees):
        def _look(self, image, form):
            result = super()._look(image, form)
            rois = result["rois"]
            middle = (rois[:, :2] + rois[:, 2:]) / 2
            result["keypoints"] = np.insert(middle, 2, 3.0, axis=1)[:, None]
            return result

    labels = np.zeros((100, 150), int)
    labels[70:76, 100:110] = 7
    result = tiles.detect(Points(), drawn(labels), 64, 32)
    np.testing.assert_array_equal(result["keypoints"], [[[73, 105, 3]]])
    nothing = tiles.detect(Points(), drawn(labels * 0), 64, 32)
    assert nothing["keypoints"].shape == (0, 1, 3) and nothing["keypoints"].dtype == np.float32


def test_boxes_that_are_not_rounded_stay_so():
    """Those of ROUND_DETECTIONS = False were cut to whole pixels where there were several tiles."""

    class Exact(Sees):
        def _look(self, image, form):
            result = super()._look(image, form)
            return {**result, "rois": (result["rois"] + 0.75).astype(np.float32)}

    labels = np.zeros((100, 150), int)
    labels[70:76, 100:110] = 7
    result = tiles.detect(Exact(), drawn(labels), 64, 32)
    np.testing.assert_array_equal(result["rois"], [[70.75, 100.75, 76.75, 110.75]])
    nothing = tiles.detect(Exact(), drawn(labels * 0), 64, 32)
    assert result["rois"].dtype == nothing["rois"].dtype == np.float32


@pytest.mark.parametrize(
    "options, message",
    [
        ({"tile": 0}, "tile is the pixels of a tile's side, from 1. Received: 0"),
        ({"tile": 64.5}, "Received: 64.5"),
        ({"tile": 64, "overlap": 64}, "from 0 to 63. Received: 64"),
        ({"tile": 64, "overlap": -1}, "from 0 to 63. Received: -1"),
        ({"overlap": 3}, "overlap goes with tile. Received: overlap=3 alone"),
        ({"tile": 64, "masks": "lazy"}, "masks of tiles is 'rle' or 'dense'. Received: 'lazy'"),
    ],
)
def test_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        tiles.detect_each(Sees(), [np.zeros((100, 100, 3), np.uint8)], **{"tile": None, **options})
    with pytest.raises(ValueError, match="takes a list of images"):
        tiles.detect_each(Sees(), np.zeros((100, 100, 3), np.uint8), 64)


class Drawing:
    """An image of `side` pixels that is nowhere in memory: a disk in each square of 150."""

    def __init__(self, side):
        self.shape = (side, side, 3)

    def window(self, y1, x1, y2, x2):
        y, x = np.ogrid[y1:y2, x1:x2]
        inside = (y % 150 - 75) ** 2 + (x % 150 - 75) ** 2 < 900
        number = 1 + y // 150 * (self.shape[1] // 150) + x // 150
        return drawn(number * inside)


@pytest.mark.long
def test_memory_is_that_of_a_tile():
    """400 objects on 9 megapixels: less than one mask of the image takes."""
    tracemalloc.start()
    result = tiles.detect(Sees(), Drawing(3000), 260, 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(result["masks"]) == 400
    assert peak < 9e6
    y, x = np.ogrid[:100, :100]
    disk = (y - 50) ** 2 + (x - 50) ** 2 < 900
    rng = np.random.default_rng(0)
    for number in rng.integers(0, 400, 40).tolist():
        (top, left, _, _), crop = mask_math.crop_of_rle(result["masks"][number])
        np.testing.assert_array_equal(crop, disk[21:80, 21:80])
        assert (top % 150, left % 150) == (46, 46)


# ---- TIFFs and GeoJSON ---------------------------------------------------------------------------


def colours(height=150, width=230, dtype=np.uint8, bands=3):
    rng = np.random.default_rng(3)
    return rng.integers(0, 256, (height, width, bands)).astype(dtype)


TIFFS = {
    "tiled": dict(tile=(64, 32), photometric="rgb"),
    "strips": dict(rowsperstrip=17, photometric="rgb"),
    "packed": dict(tile=(64, 64), photometric="rgb", compression="zlib", predictor=True),
    "planes": dict(tile=(64, 64), photometric="rgb", planarconfig="separate"),
    "big": dict(rowsperstrip=40, photometric="rgb", bigtiff=True, byteorder=">"),
}


@pytest.mark.parametrize("kind", sorted(TIFFS))
def test_windows_of_tiffs(tmp_path, kind):
    pixels = colours()
    stored = pixels
    if kind == "planes":
        stored = np.moveaxis(pixels, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", stored, **TIFFS[kind])
    with tiles.TiffImage(tmp_path / "a.tif") as image:
        assert image.shape == (150, 230, 3) and image.transform is None and image.crs is None
        for window in ((0, 0, 150, 230), (3, 5, 4, 6), (60, 30, 130, 229), (149, 229, 150, 230)):
            y1, x1, y2, x2 = window
            np.testing.assert_array_equal(image.window(*window), pixels[y1:y2, x1:x2])


def test_only_what_a_window_needs_is_decoded(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", colours(640, 640), tile=(64, 64), photometric="rgb")
    with tiles.TiffImage(tmp_path / "a.tif") as image:
        page = image._pages[0]
        assert sorted(tiles._segments_in(page, (64, 0, 129, 64))) == [10, 20]
        assert len(list(tiles._segments_in(page, (0, 0, 640, 640)))) == 100


def test_microscopy(tmp_path):
    """OME-TIFF of three channels of 16 bits, each a page; gray of 16 bits in one range."""
    channels = np.moveaxis(colours(100, 120, np.uint16), -1, 0) * 16
    tifffile.imwrite(
        tmp_path / "a.ome.tif", channels, metadata={"axes": "CYX"}, photometric="minisblack"
    )
    with tiles.TiffImage(tmp_path / "a.ome.tif") as image:
        window = image.window(10, 20, 60, 90)
        assert image.limits == (0, 4095)
    np.testing.assert_array_equal(
        window, np.around(np.moveaxis(channels, 0, -1)[10:60, 20:90] * (255 / 4095))
    )
    tifffile.imwrite(tmp_path / "b.tif", channels[0])
    with tiles.TiffImage(tmp_path / "b.tif", limits=(0, 16320)) as image:
        gray = image.window(0, 0, 100, 120)
    np.testing.assert_array_equal(gray[..., 0], np.around(channels[0] * (255 / 16320)))
    np.testing.assert_array_equal(gray[..., 2], gray[..., 0])


@pytest.mark.parametrize("axes", ("CZYX", "ZCYX", "TCZYX", "CYX"))
def test_channels_of_a_stack(tmp_path, axes):
    """The three channels of its first image, whatever the order; once CZYX gave slices of one."""
    sizes = {"T": 2, "C": 4, "Z": 5, "Y": 20, "X": 30}
    shape = [sizes[axis] for axis in axes]
    planes = np.zeros(shape, np.uint8)
    for place in np.ndindex(*shape[:-2]):
        number = dict(zip(axes, place))
        planes[place] = 100 * number.get("T", 0) + 20 * number["C"] + number.get("Z", 0) + 1
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, planes, metadata={"axes": axes}, photometric="minisblack")
    with tiles.TiffImage(path) as image:
        assert image.shape == (20, 30, 3)
        assert image.window(2, 3, 4, 5).reshape(-1, 3).tolist() == [[1, 21, 41]] * 4
    assert utils.image_sizes(path) == ((20, 30), (20, 30))
    whole = utils.read_image(path)  # it was the first channel alone, in gray
    assert whole.shape == (20, 30, 3) and (whole == [1, 21, 41]).all()


@pytest.mark.parametrize(
    ("axes", "shape"), [("CYX", (2, 20, 30)), ("ZCYX", (3, 2, 20, 30)), ("CZYX", (2, 3, 20, 30))]
)
def test_two_channels_are_red_and_green(tmp_path, axes, shape):
    """Of two dyes the second was taken for transparency: the image was the first in gray."""
    planes = np.zeros(shape, np.uint16)
    np.moveaxis(planes, axes.index("C"), 0)[0] = 700
    np.moveaxis(planes, axes.index("C"), 0)[1] = 1000
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, planes, metadata={"axes": axes}, photometric="minisblack")
    expected = np.full((20, 30, 3), (np.around(700 * 255 / 1023), np.around(1000 * 255 / 1023), 0))
    np.testing.assert_array_equal(utils.read_image(path), expected)
    with tiles.TiffImage(path) as image:
        np.testing.assert_array_equal(image.window(2, 3, 20, 30), expected[2:, 3:])


def test_signed_bytes(tmp_path):
    """Pillow takes -5 for 251."""
    path = tmp_path / "a.tif"
    values = np.arange(-100, 100, dtype=np.int8).reshape(10, 20)
    tifffile.imwrite(path, values)
    limits = utils.value_range(values)
    assert limits == (-100, 156)
    np.testing.assert_array_equal(utils.read_image(path)[..., 0], utils.as_bytes(values, limits))


def test_alpha_has_no_part_in_the_range(tmp_path):
    pixels = np.full((40, 50, 2), 65535, np.uint16)
    pixels[..., 0] = np.arange(2000).reshape(40, 50) % 1000
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig")
    with tiles.TiffImage(path) as image:
        assert image.limits == (0, 1023)
        window = image.window(0, 0, 40, 50)
    np.testing.assert_array_equal(window[..., 1], np.around(pixels[..., 0] * (255 / 1023)))


@pytest.mark.parametrize("dtype", (np.uint8, np.uint16))
def test_pages_that_are_bands(tmp_path, dtype):
    """An array [3, H, W] that was written as it is: the windows were gray, the whole in colours."""
    path = tmp_path / "a.tif"
    pixels = colours(40, 50, dtype)
    tifffile.imwrite(path, np.moveaxis(pixels, -1, 0), photometric="minisblack")
    with tiles.TiffImage(path) as image:
        assert image.shape == (40, 50, 3)
        np.testing.assert_array_equal(image.window(3, 4, 40, 50), utils.read_image(path)[3:, 4:])
        assert np.ptp(image.window(0, 0, 40, 50).astype(int), axis=-1).max() > 0


def test_damaged_tiffs_are_named(tmp_path):
    """tifffile says "corrupted strip cannot be reshaped", or raises a KeyError, without a name."""
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "scene.tif"
    tifffile.imwrite(path, np.zeros((40, 30, 3), np.uint8), photometric="rgb", rowsperstrip=8)
    content = path.read_bytes()
    path.write_bytes(content[:-1500])  # the first strips are there
    with tiles.TiffImage(path) as image:
        assert image.window(0, 0, 8, 8).shape == (8, 8, 3)
        with pytest.raises(ValueError, match=r"scene.tif can't be read as a TIFF: .*corrupted"):
            image.window(30, 0, 40, 8)
    path.write_bytes(content.replace(b'"shape": [40', b'"shape": [4x'))
    with pytest.raises(ValueError, match=r"scene.tif can't be read as a TIFF: .*description"):
        tiles.TiffImage(path)


def test_windows_that_would_be_of_another_image(tmp_path):
    """[H, W, 5] written as it is has a page for each row; YCbCr without JPEG has other colours."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, colours(40, 50, bands=5), photometric="minisblack")
    with pytest.raises(
        ValueError, match="bands. Received: 40 pages that are rows of an image of 5"
    ):
        tiles.TiffImage(path)
    Image.fromarray(colours(40, 50)).convert("YCbCr").save(path)
    with pytest.raises(ValueError, match="expected gray or RGB. Received: a TIFF of YCBCR"):
        tiles.TiffImage(path)


@pytest.mark.parametrize("kind", ("palette", "turned", "white", "cut"))
def test_tiffs_that_are_read_as_a_whole(tmp_path, kind):
    """Values that mean other colours are refused; the command reads such a file with its colours."""
    labels = scene((100, 130), 2, 9)
    path = tmp_path / "in" / "a.tif"
    path.parent.mkdir()
    if kind == "palette":
        table = np.zeros((3, 256), np.uint16)
        table[0], table[1] = np.arange(256) // 256 * 257, np.arange(256) * 257
        tifffile.imwrite(path, labels.astype(np.uint8), photometric="palette", colormap=table)
    elif kind == "turned":
        turned = np.ascontiguousarray(drawn(labels)[::-1, ::-1])
        tifffile.imwrite(path, turned, photometric="rgb", extratags=[(274, "H", 1, 3, False)])
    elif kind == "white":
        tifffile.imwrite(path, 255 - labels.astype(np.uint8), photometric="miniswhite")
    else:
        tifffile.imwrite(path, drawn(labels), photometric="rgb", tile=(64, 64), compression="zlib")
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="a.tif"):
        tiles.TiffImage(path)
    args = argparse.Namespace(
        inputs=[str(path.parent)], output=str(tmp_path / "out"), tile=64, overlap=16
    )
    if kind == "cut":
        with pytest.raises(ValueError, match="none of the 1 files can be read"):
            commands.detect(Sees(), ["BG", "even", "odd"], args)
        return
    commands.detect(Sees(), ["BG", "even", "odd"], args)
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(rows) == len(np.unique(labels)) - 1
    assert not list((tmp_path / "out").glob("*.geojson"))


def geo_tiff(path, pixels, raster_type=1):
    """A GeoTIFF of UTM zone 33, pixels of half a metre."""
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, raster_type, 3072, 0, 1, 32633)
    tags = [
        (33550, "d", 3, (0.5, 0.5, 0.0), False),
        (33922, "d", 6, (0.0, 0.0, 0.0, 500000.0, 5000000.0, 0.0), False),
        (34735, "H", len(keys), keys, False),
    ]
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(64, 64), extratags=tags)


def test_transforms(tmp_path):
    pixels = colours(64, 64)
    geo_tiff(tmp_path / "a.tif", pixels)
    with tiles.TiffImage(tmp_path / "a.tif") as image:
        assert image.transform == (0.5, 0, 500000, 0, -0.5, 5000000) and image.crs == "EPSG:32633"
    geo_tiff(tmp_path / "b.tif", pixels, raster_type=2)
    with tiles.TiffImage(tmp_path / "b.tif") as image:
        assert image.transform == (0.5, 0, 499999.75, 0, -0.5, 5000000.25)
    matrix = (0, -2.0, 0, 7, 3.0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1)
    tags = [(34264, "d", 16, matrix, False)]
    tifffile.imwrite(tmp_path / "c.tif", pixels, photometric="rgb", extratags=tags)
    with tiles.TiffImage(tmp_path / "c.tif") as image:
        assert image.transform == (0, -2, 7, 3, 0, 8) and image.crs is None


def test_a_projection_without_a_code_is_not_that_of_its_degrees(tmp_path):
    """Its metres were said to be longitudes and latitudes, EPSG:4326."""
    for keys, crs in (
        ((1024, 1, 2048, 4326, 3072, 32767), None),
        ((1024, 1, 2048, 4326), None),
        ((1024, 2, 2048, 4258), "EPSG:4258"),
        ((2048, 4326), "EPSG:4326"),
        ((1024, 1, 2048, 4326, 3072, 25832), "EPSG:25832"),
    ):
        directory = [1, 1, 0, len(keys) // 2]
        for key, value in zip(keys[::2], keys[1::2]):
            directory += [key, 0, 1, value]
        tags = [(34735, "H", len(directory), directory, False)]
        tifffile.imwrite(tmp_path / "a.tif", colours(8, 8), photometric="rgb", extratags=tags)
        with tiles.TiffImage(tmp_path / "a.tif") as image:
            assert image.crs == crs, keys


def test_longitude_and_latitude_are_named_in_their_order():
    """EPSG:4326 has the latitude first; the coordinates of GeoJSON have the longitude first."""
    result = {"masks": [], "class_ids": [], "scores": []}
    written = tiles.geojson(result, ["BG"], (1e-5, 0, 13.0, 0, -1e-5, 52.0), "EPSG:4326")
    assert written["crs"]["properties"]["name"] == "urn:ogc:def:crs:OGC:1.3:CRS84"


@pytest.mark.parametrize("name", ["a.tfw", "a.TFW", "a.tifw", "a.wld"])
def test_world_files(tmp_path, name):
    """The usual companion of aerial images; it has the centre of the first pixel."""
    tifffile.imwrite(tmp_path / "a.tif", colours(8, 8), photometric="rgb")
    (tmp_path / name).write_text("0.5\n0.0\n0.0\n-0.5\n500000.25\n4999999.75\n")
    with tiles.TiffImage(tmp_path / "a.tif") as image:
        assert image.transform == (0.5, 0, 500000, 0, -0.5, 5000000)
    (tmp_path / name).write_text("0.5\n0.1\n0.2\n-0.5\n100.35\n199.8\n")
    assert tiles.georeference(tmp_path / "a.tif")[0] == pytest.approx(
        (0.5, 0.2, 100, 0.1, -0.5, 200)
    )
    geo_tiff(tmp_path / "a.tif", colours(64, 64))  # a transform of its own goes first
    assert tiles.georeference(tmp_path / "a.tif")[0][2] == 500000


def test_a_world_file_of_other_content(tmp_path, caplog):
    tifffile.imwrite(tmp_path / "a.tif", colours(8, 8), photometric="rgb")
    (tmp_path / "a.tfw").write_text("north")
    assert tiles.georeference(tmp_path / "a.tif") == (None, None)
    assert "a.tfw: expected six numbers" in caplog.text


def test_control_points_are_no_transform(tmp_path, caplog):
    points = (0.0, 0, 0, 13, 52, 0, 8, 0, 0, 14, 52, 0, 0, 8, 0, 13, 51, 0)
    tags = [(33922, "d", len(points), points, False)]
    tifffile.imwrite(tmp_path / "a.tif", colours(8, 8), photometric="rgb", extratags=tags)
    with tiles.TiffImage(tmp_path / "a.tif") as image:
        assert image.transform is None
    assert "control points" in caplog.text and "gdalwarp" in caplog.text


@pytest.mark.parametrize(
    ("dtype", "nodata", "scale", "limits"),
    [
        (np.int16, "-32768", 10, (0, 4095)),
        (np.uint16, "65535", 10, (0, 4095)),
        (np.float32, "-9999", 10, (0, 4095)),
        (np.float32, "-3.4028234663852886e+38", 10, (0, 4095)),
        (np.float32, "nan", 10, (0, 4095)),
        (np.uint16, "0", 10, (0, 4095)),
        (np.int16, "-32768", -10, (-2550, -2550 + 4096)),
    ],
)
@pytest.mark.parametrize("bands", [3, 6])
def test_pixels_without_data_have_no_part_in_the_range(
    tmp_path, dtype, nodata, scale, limits, bands
):
    """A black border of a satellite's scene; one of -32768 made all others white."""
    values = np.resize(np.arange(256), (100, 120, bands)).astype(dtype) * dtype(scale)
    values[:20] = np.array(float(nodata)).astype(dtype)
    text = nodata.encode()
    tags = [(42113, "s", len(text) + 1, text, False)]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, photometric="rgb", extratags=tags)
    expected = utils.as_bytes(values[..., :3], limits)
    expected[:20] = 0
    if scale < 0:
        expected[:20] = utils.as_bytes(np.array([limits[0]]), limits)[0]
    np.testing.assert_array_equal(utils.read_image(path), expected)
    with tiles.TiffImage(path) as image:
        assert image.limits == limits
        np.testing.assert_array_equal(image.window(10, 20, 60, 90), expected[10:60, 20:90])
    if bands > 4:
        kept = utils.read_image(path, all_bands=True)
        np.testing.assert_array_equal(kept, values)


def test_geojson_by_hand():
    """A square with a hole, and two pieces, in the coordinates of the world."""
    masks = np.zeros((20, 30, 2), bool)
    masks[4:10, 6:12, 0] = True
    masks[6:8, 8:9, 0] = False
    masks[0:2, 0:2, 1] = masks[10:12, 20:24, 1] = True
    result = {
        "masks": mask_math.encode(masks),
        "class_ids": np.array([1, 2]),
        "scores": np.array([0.5, 0.25]),
    }
    found = tiles.geojson(result, ["BG", "roof"], (0.5, 0, 100, 0, -0.5, 200), "EPSG:32633")
    assert found["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    first, second = found["features"]
    assert first["properties"] == {"class_id": 1, "class": "roof", "score": 0.5}
    assert second["properties"]["class"] == "class 2"
    ring, hole = first["geometry"]["coordinates"]
    assert ring[0] == ring[-1] and hole[0] == hole[-1]
    assert signed_area(ring) == 9 and signed_area(hole) == -0.5  # RFC 7946: outlines turn left
    assert {tuple(point) for point in ring} == {(103, 198), (106, 198), (106, 195), (103, 195)}
    assert {tuple(point) for point in hole} == {(104, 197), (104.5, 197), (104.5, 196), (104, 196)}
    assert second["geometry"]["type"] == "MultiPolygon"
    assert [len(rings) for rings in second["geometry"]["coordinates"]] == [1, 1]
    pixels = tiles.geojson(result, ["BG", "roof"])
    assert "crs" not in pixels
    ring, hole = pixels["features"][0]["geometry"]["coordinates"]
    assert [6.0, 4.0] in ring and signed_area(ring) == 36 and signed_area(hole) == -2


def signed_area(ring):
    x, y = np.transpose(ring)
    return np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) / 2


def test_the_command_on_pictures_and_tiffs(tmp_path, capsys):
    labels = scene((150, 210), 1, 25)
    (tmp_path / "in").mkdir()
    Image.fromarray(drawn(labels)).save(tmp_path / "in" / "a.png")
    geo_tiff(tmp_path / "in" / "b.tif", drawn(labels))
    (tmp_path / "in" / "c.tif").write_bytes(b"no tiff")
    args = argparse.Namespace(
        inputs=[str(tmp_path / "in")], output=str(tmp_path / "out"), tile=64, overlap=None
    )
    done = commands.detect(Sees(), ["BG", "even", "odd"], args)
    count = len(np.unique(labels)) - 1
    assert done.pictures == 2 and [path.name for path, _ in done.skipped] == ["c.tif"]
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    index = json.loads((tmp_path / "out" / "images.json").read_text())
    assert len(rows) == 2 * count and [image["id"] for image in index["images"]] == [1, 2]
    areas = sorted(coco_mask.area(row["segmentation"]) for row in rows if row["image_id"] == 2)
    assert areas == sorted(np.bincount(labels.ravel())[1:][np.bincount(labels.ravel())[1:] > 0])
    found = json.loads((tmp_path / "out" / "b.tif.geojson").read_text())
    assert len(found["features"]) == count
    xs = [
        point[0]
        for feature in found["features"]
        if feature["geometry"]["type"] == "Polygon"
        for point in feature["geometry"]["coordinates"][0]
    ]
    assert 500000 <= min(xs) and max(xs) <= 500000 + 105
    assert (tmp_path / "out" / "a.png").is_file()
    args.overlap, args.tile = 5, None
    with pytest.raises(ValueError, match="--overlap goes with --tile"):
        commands.detect(Sees(), ["BG", "even", "odd"], args)


def test_what_is_read_whole_has_its_place_in_the_world(tmp_path):
    """LZW needs a package of its own to be read in windows: such a file had no GeoJSON."""
    labels = scene((100, 130), 2, 9)
    path = tmp_path / "in" / "a.tif"
    path.parent.mkdir()
    tifffile.imwrite(path, 255 - labels.astype(np.uint8), photometric="miniswhite")
    (path.parent / "a.tfw").write_text("2 0 0 -2 1001 1999")
    with pytest.raises(ValueError, match="MINISWHITE"):
        tiles.TiffImage(path)
    args = argparse.Namespace(inputs=[str(path)], output=str(tmp_path / "out"), tile=64, overlap=16)
    done = commands.detect(Sees(), ["BG", "even", "odd"], args)
    assert str(tmp_path / "out" / "a.tif.geojson") in done.written
    content = json.loads((tmp_path / "out" / "a.tif.geojson").read_text())
    assert len(content["features"]) == len(np.unique(labels)) - 1
    ys, xs = np.nonzero(labels)
    corners = []
    for feature in content["features"]:
        for ring in np.array(feature["geometry"]["coordinates"], float):
            corners += [ring.min(0), ring.max(0)]
    low, high = np.min(corners, 0), np.max(corners, 0)
    assert low.tolist() == [1000 + 2 * xs.min(), 2000 - 2 * (ys.max() + 1)]
    assert high.tolist() == [1000 + 2 * (xs.max() + 1), 2000 - 2 * ys.min()]


def test_slides_are_tiffs(tmp_path):
    """Those of scanners have suffixes of their own: they were read whole, or refused as too large."""
    labels = scene((100, 130), 2, 9)
    path = tmp_path / "in" / "slide.svs"
    path.parent.mkdir()
    tifffile.imwrite(path, drawn(labels), photometric="rgb", tile=(64, 64))
    args = argparse.Namespace(inputs=[str(path)], output=str(tmp_path / "out"), tile=64, overlap=16)
    done = commands.detect(Sees(), ["BG", "even", "odd"], args)
    target = tmp_path / "out" / "slide.svs.geojson"
    assert done.written[0] == str(target)
    assert len(json.loads(target.read_text())["features"]) == len(np.unique(labels)) - 1


def test_tiffs_of_one_name_stay_apart(tmp_path):
    counts = {}
    for number, folder in enumerate(("x", "y/z")):
        labels = scene((100, 130), number, 5 + 20 * number)
        (tmp_path / "in" / folder).mkdir(parents=True)
        geo_tiff(tmp_path / "in" / folder / "b.tif", drawn(labels))
        counts[folder] = len(np.unique(labels)) - 1
    inputs = [str(tmp_path / "in" / folder) for folder in counts]
    args = argparse.Namespace(inputs=inputs, output=str(tmp_path / "out"), tile=64, overlap=None)
    done = commands.detect(Sees(), ["BG", "even", "odd"], args)
    for folder, count in counts.items():
        path = tmp_path / "out" / folder / "b.tif.geojson"
        assert str(path) in done.written
        assert len(json.loads(path.read_text())["features"]) == count
    assert len(set(counts.values())) == 2


@pytest.mark.heavy
def test_of_a_network(tmp_path):
    """`MaskRCNN.detect(tile=)` is plain detection of an image of one tile, and finds objects of a
    larger one where they are."""
    from toy import Rectangles, ToyConfig

    from mrcnn import model as modellib

    model = modellib.MaskRCNN("inference", ToyConfig(DETECTION_MIN_CONFIDENCE=0.0), str(tmp_path))
    image = Rectangles(2).load_image(1)
    plain = model.detect([image], masks="rle")[0]
    tiled = model.detect([image], tile=64)[0]
    assert tiled["masks"] == plain["masks"]
    np.testing.assert_array_equal(tiled["rois"], plain["rois"])
    large = np.zeros((120, 130, 3), np.uint8)
    large[:64, :64] = image
    found = model.detect([large], tile=64, overlap=16)[0]
    assert len(found["masks"]) == len(found["rois"]) == len(found["scores"])
    assert all(code["size"] == [120, 130] for code in found["masks"])
    assert math.isfinite(found["scores"].sum())


# ---- Range of values -----------------------------------------------------------------------------


class Keeps:
    """Finds nothing, and keeps what the network would see of each tile."""

    def __init__(self, **settings):
        self.config = Config(NUM_CLASSES=2, IMAGES_PER_GPU=1, **settings)
        self.seen = []

    def detect(self, images, masks=None):
        self.seen += [data.as_network_input(image, self.config, "a tile") for image in images]
        nothing = np.zeros((*images[0].shape[:2], 0), bool)
        return [
            {
                "rois": np.zeros((0, 4), np.int32),
                "class_ids": np.zeros(0, np.int32),
                "scores": np.zeros(0, np.float32),
                "masks": nothing,
            }
        ] * len(images)


@pytest.mark.parametrize("kind", ["12 bits", "fractions", "bytes", "alpha", "tiff"])
@pytest.mark.parametrize("settings", [{}, {"IMAGE_PERCENTILES": (1, 99), "IMAGE_GAMMA": 0.5}])
def test_tiles_have_the_range_of_the_whole_image(kind, settings, tmp_path):
    """The left half is dark, the right one bright: alone, a dark tile would become a bright one."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 40, (64, 256, 3)).astype(np.uint8)
    image[:, 128:] = rng.integers(150, 250, (64, 128, 3))
    if kind in ("12 bits", "alpha", "tiff"):
        image = image.astype(np.uint16) * 16
    if kind == "alpha":  # the network gets none, and the range is not that of the opacity
        image = np.concatenate([image, np.full((64, 256, 1), 65535, np.uint16)], axis=-1)
    if kind == "fractions":
        image = image / np.float32(250)
    model = Keeps(**settings)
    whole = data.as_network_input(image, model.config, "the whole")
    if kind == "tiff":
        tifffile.imwrite(tmp_path / "a.tif", image, tile=(32, 32), photometric="rgb")
        with tiles.TiffImage(tmp_path / "a.tif") as file:
            whole = data.as_network_input(file.window(0, 0, 64, 256), model.config, "the whole")
            tiles.detect(model, file, 64, 0)
    else:
        tiles.detect(model, image, 64, 0)
    assert len(model.seen) == 4
    np.testing.assert_array_equal(np.concatenate(model.seen, axis=1), whole)
    assert model.seen[0].mean() < 110 < model.seen[3].mean()
    # What comes after is by itself again.
    alone = data.as_network_input(image[:, :64], model.config, "alone")
    assert settings == {} or alone.max() == 255


@pytest.mark.parametrize("kind", ["tiled", "strips", "fractions"])
@pytest.mark.parametrize("tile", [700, 2000])
def test_a_file_has_the_range_of_all_its_values(kind, tile, tmp_path):
    """A bright pixel between the windows of which the range was estimated was made 255, as all
    above 1023: a file was another image than `read_image` gives of it, also in a single tile."""
    image = np.random.default_rng(0).integers(0, 1000, (1300, 1500)).astype(np.uint16)
    image[300, 1460] = 60000
    layout = {"tile": (256, 128)}
    if kind == "strips":
        layout = {"rowsperstrip": 40}
    if kind == "fractions":
        image = image.astype(np.float32) / 100
        image[0, 0] = np.nan
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, **layout)
    model = Keeps()
    with tiles.TiffImage(path) as file:
        tiles.detect(model, file, tile, 0)
    expected = utils.read_image(path)
    assert expected[300, 1460, 0] > 2 * np.sort(expected[..., 0].ravel())[-2]
    np.testing.assert_array_equal(model.seen[0], expected[:tile, :tile])
    np.testing.assert_array_equal(model.seen[-1], expected[-tile:, -tile:])


class Bands(Sees):
    """Finds by the last two of seven bands what `Sees` finds by the first two."""

    def __init__(self):
        super().__init__()
        self.config = Config(NUM_CLASSES=3, IMAGE_CHANNEL_COUNT=7, MEAN_PIXEL=np.zeros(7))

    def _look(self, image, form):
        assert image.shape[2] == 7 and image.dtype == np.uint16
        return super()._look(image[..., 5:], form)


@pytest.mark.parametrize("form", ["contig", "separate", "pages"])
@pytest.mark.parametrize("tile", [None, 64])
def test_networks_of_many_bands_take_their_files(form, tile, tmp_path):
    """The command read three of seven bands, which such a network refuses; training has all."""
    labels = scene((100, 130), 2, 9)
    bands = np.full((100, 130, 7), 3000, np.uint16)
    bands[..., 5:] = drawn(labels)[..., :2]
    layout = {"photometric": "minisblack", "planarconfig": form}
    if form != "contig":
        bands = np.moveaxis(bands, -1, 0)
    if form == "pages":
        layout = {"photometric": "minisblack", "ome": True, "metadata": {"axes": "CYX"}}
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "a.tif", bands, **layout)
    args = argparse.Namespace(
        inputs=[str(tmp_path / "in")], output=str(tmp_path / "out"), tile=tile, overlap=None
    )
    done = commands.detect(Bands(), ["BG", "even", "odd"], args)
    assert done.pictures == 1 and not done.skipped
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    areas = sorted(coco_mask.area(row["segmentation"]) for row in rows)
    assert areas == sorted(count for count in np.bincount(labels.ravel())[1:] if count)


class Scenes(utils.Dataset):
    """Images of numbers with their objects."""

    def __init__(self, labels):
        super().__init__()
        self.add_class("scenes", 1, "even")
        self.add_class("scenes", 2, "odd")
        self.labels = labels
        for i, _ in enumerate(labels):
            self.add_image("scenes", i, path=None)
        self.prepare()

    def load_image(self, image_id):
        return drawn(self.labels[image_id])

    def load_mask(self, image_id):
        labels = self.labels[image_id]
        numbers = [number for number in np.unique(labels).tolist() if number]
        masks = np.stack([labels == number for number in numbers], axis=-1)
        return masks, np.array([1 + number % 2 for number in numbers], np.int32)


def test_an_evaluation_in_tiles(tmp_path):
    """Its AP is that of one look; a journal of the one is not taken for the other's."""
    dataset = Scenes([scene((150, 260), 1, 40), scene((60, 80), 2, 10)])
    model = Sees()
    model.config.DETECTION_MAX_INSTANCES = 5
    journal = tmp_path / "evaluation.jsonl"
    results = {}
    for tile in (None, 128, 128):
        model.batches.clear()
        result = evaluate.evaluate(model, dataset, progress=False, resume=journal, tile=tile)
        results.setdefault(tile, []).append((result, list(model.batches)))
    (whole, looks), (tiled, tiles_seen), (again, none) = [*results[None], *results[128]]
    assert looks == [[(150, 260, 3), (60, 80, 3)]] and not none
    assert {shape[:2] for batch in tiles_seen for shape in batch} >= {(128, 128), (60, 80)}
    # All objects of a class on an image count, though a tile has a limit.
    most = np.bincount(np.unique(dataset.labels[0])[1:] % 2).max()
    assert whole.max_detections == 5 and tiled.max_detections == most > 5
    assert tiled.segm["AP"] == tiled.bbox["AP"] == again.segm["AP"] == 1


@pytest.mark.parametrize(
    "settings, options, text",
    (
        ({}, {"tile": 0}, "tile is the pixels .* Received: 0"),
        ({}, {"overlap": 3}, "overlap goes with tile. Received: overlap=3 alone"),
        ({"USE_MASK": False}, {"tile": 64}, "merged by their masks: USE_MASK = True"),
    ),
    ids=range(3),
)
def test_evaluations_in_tiles_that_can_be_none(settings, options, text):
    model = Sees()
    for name, value in settings.items():
        setattr(model.config, name, value)
    with pytest.raises(ValueError, match=text):
        evaluate.evaluate(model, Scenes([scene((60, 80), 2, 10)]), progress=False, **options)


def test_the_range_of_wide_strips_is_measured_in_little_memory(tmp_path):
    """Windows were 1024 rows of whatever width."""
    values = np.zeros((1100, 20000), np.uint16)
    values[700, 15000] = 5000
    tifffile.imwrite(tmp_path / "wide.tif", values, rowsperstrip=1)
    with tiles.TiffImage(tmp_path / "wide.tif") as image:
        tracemalloc.start()
        image.measure()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert image.limits == (0, 16383)
    assert peak < 0.3 * values.nbytes
