"""Reading files of every kind, and what is written: pictures and videos, complete or absent."""

import contextlib
import io
import logging
import os
import socket
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from mrcnn import media, utils
from mrcnn.utils import Dataset


def colors(height=24, width=40):
    """A picture whose quarters are red, green, blue and gray: rotations and channel orders show."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = 200, 20, 30
    image[: height // 2, width // 2 :] = 20, 180, 40
    image[height // 2 :, : width // 2] = 10, 40, 220
    image[height // 2 :, width // 2 :] = 128, 128, 128
    return image


def test_reads_every_mode(tmp_path):
    """What each file must give is written by hand, not by Pillow's conversions."""
    rgb = colors()
    gray = np.arange(24 * 40).reshape(24, 40) % 256
    alpha = np.dstack([rgb, np.full((24, 40), 7, np.uint8)])
    cases = {
        "rgb.png": (Image.fromarray(rgb), rgb),
        "rgba.png": (Image.fromarray(alpha), rgb),
        "gray.png": (Image.fromarray(gray.astype(np.uint8)), gray[..., None].repeat(3, 2)),
        "sixteen.png": (
            Image.fromarray((gray * 257).astype(np.uint16)),
            gray[..., None].repeat(3, 2),
        ),
        "float.tif": (
            Image.fromarray((gray / 255).astype(np.float32)),
            gray[..., None].repeat(3, 2),
        ),
        "one.png": (
            Image.fromarray(gray > 100),
            np.where(gray > 100, 255, 0)[..., None].repeat(3, 2),
        ),
        "gray_alpha.png": (
            Image.merge("LA", [Image.fromarray(gray.astype(np.uint8))] * 2),
            gray[..., None].repeat(3, 2),
        ),
        # Without black ink CMYK is the complement.
        "cmyk.tif": (
            Image.fromarray(np.dstack([255 - rgb, np.zeros((24, 40), np.uint8)]), "CMYK"),
            rgb,
        ),
    }
    for name, (image, expected) in cases.items():
        image.save(tmp_path / name)
        read = media.read_image(tmp_path / name)
        assert read.dtype == np.uint8 and read.shape == (24, 40, 3), name
        np.testing.assert_allclose(read.astype(int), expected, atol=1, err_msg=name)
    palette = Image.fromarray(rgb).quantize(8)
    palette.save(tmp_path / "palette.png", transparency=bytes([0, 255] * 4))
    np.testing.assert_allclose(media.read_image(tmp_path / "palette.png").astype(int), rgb, atol=8)


def test_camera_rotation(tmp_path):
    """Every EXIF orientation gives the upright picture; rotate=False what is stored."""
    rgb = colors()
    stored = {
        1: rgb,
        2: rgb[:, ::-1],
        3: rgb[::-1, ::-1],
        4: rgb[::-1],
        5: rgb.transpose(1, 0, 2),
        6: np.rot90(rgb),
        7: np.rot90(rgb, 2).transpose(1, 0, 2),
        8: np.rot90(rgb, -1),
    }
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.png"
        Image.fromarray(np.ascontiguousarray(pixels)).save(path, exif=exif)
        np.testing.assert_array_equal(media.read_image(path), rgb, err_msg=str(orientation))
        np.testing.assert_array_equal(media.read_image(path, rotate=False), pixels)


def test_find_files(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "a.png", ".hidden", "sub/c.png", "[x].png"):
        (tmp_path / name).touch()

    def names(source):
        return [path.name for path in media.find_files(source)]

    assert names(tmp_path) == ["[x].png", "a.png", "b.png"]
    assert names(str(tmp_path / "*.png")) == ["[x].png", "a.png", "b.png"]
    assert names(str(tmp_path / "**" / "c.png")) == ["c.png"]
    assert names(tmp_path / "[x].png") == ["[x].png"]  # a name comes before a pattern
    assert names([tmp_path / "b.png", tmp_path / "sub"]) == ["b.png", "c.png"]
    (tmp_path / "empty").mkdir()
    for source in ("nothing*.png", "empty", "no.png"):
        with pytest.raises(FileNotFoundError, match=source.replace("*", r"\*")):
            media.find_files(tmp_path / source)


def test_addresses_are_named():
    with pytest.raises(FileNotFoundError, match="https://x.org/a.jpg, an address; download it"):
        media.find_files("https://x.org/a.jpg")


def test_folders_that_are_left_out_are_named(tmp_path, caplog):
    for name in ("a.jpg", "below/b.jpg", ".hidden/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in media.find_files(tmp_path)] == ["a.jpg"]
    pattern = tmp_path / "**" / "*"
    assert f"1 files; its 1 folders are left out: {pattern} has what" in caplog.text
    assert len(media.find_files(str(pattern))) == 2
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(
        FileNotFoundError, match="No files in the folder .*; its 1 folders are left"
    ):
        media.find_files(tmp_path)


def broken_files(folder):
    """A text file, a truncated jpeg, an empty file and a video without frames."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(
        buffer, "jpeg"
    )
    (folder / "cut.jpg").write_bytes(buffer.getvalue()[:1500])
    (folder / "notes.txt").write_text("no picture")
    (folder / "empty.png").touch()
    (folder / "broken.mp4").write_bytes(b"no video")
    return {"cut.jpg", "notes.txt", "empty.png", "broken.mp4"}


def test_what_cannot_be_read_is_reported_and_skipped(tmp_path, caplog):
    broken = broken_files(tmp_path)
    media.write_image(tmp_path / "good.png", colors())
    skipped = []
    with caplog.at_level(logging.WARNING):
        pictures = list(media.read(tmp_path, skipped))
    assert [picture.path.name for picture in pictures] == ["good.png"] and pictures[0].frame is None
    assert {path.name for path, _ in skipped} == broken and all(reason for _, reason in skipped)
    assert all(name in caplog.text for name in broken)


def test_dataset_reads_through_the_same_function(tmp_path):
    dataset = Dataset()
    media.write_image(tmp_path / "good.png", colors())
    broken_files(tmp_path)
    for name in ("good.png", "cut.jpg", "absent.png"):
        dataset.add_image("files", name, tmp_path / name)
    dataset.prepare()
    np.testing.assert_array_equal(dataset.load_image(0), colors())
    with pytest.raises(ValueError, match="Image 1 .*cut.jpg.*truncated"):
        dataset.load_image(1)
    with pytest.raises(FileNotFoundError, match="Image 2: no file .*absent.png"):
        dataset.load_image(2)


def test_process_keeps_names_and_batches(tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    for name in ("a/1.png", "b/1.png", "b/2.tif", "b/3.png"):
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colors()).save(path)
    sizes = []

    def invert(pictures):
        sizes.append(len(pictures))
        return [
            None if picture.path.name == "3.png" else 255 - picture.image for picture in pictures
        ]

    done = media.process(str(source / "*" / "*"), output, invert, batch_size=3)
    assert sizes == [3, 1] and done.pictures == 4 and not done.skipped
    assert [str(path) for path in done.written] == [
        str(output / n) for n in ("a/1.png", "b/1.png", "b/2.tif.png")
    ]
    for path in done.written:
        np.testing.assert_array_equal(media.read_image(path), 255 - colors())
    with pytest.raises(ValueError, match="replace an input"):
        media.process(source / "a", source / "a", invert)
    np.testing.assert_array_equal(media.read_image(source / "a" / "1.png"), colors())


def test_video_round_trip(tmp_path):
    """Frames in order, colours right, odd sides, rate kept; a failure leaves no file."""
    pytest.importorskip("cv2")
    source = tmp_path / "film.mp4"
    with media.VideoWriter(source, rate=12) as video:
        for i in range(7):
            frame = np.full((47, 63, 3), (220, 60, 20), np.uint8)
            frame[:, : 9 * i] = 20, 40, 200
            video.write(frame)
    assert media.video_info(source) == (7, 12)
    frames = list(media.read(source))
    assert [picture.frame for picture in frames] == list(range(7)) and frames[0].image.shape == (
        48,
        64,
        3,
    )
    for i, picture in enumerate(frames):
        assert np.abs(picture.image[:, 9 * i + 3 :] - np.array([220.0, 60, 20])).mean() < 12
        if i:
            assert np.abs(picture.image[:, : 9 * i - 3] - np.array([20.0, 40, 200])).mean() < 12
    media.write_image(tmp_path / "still.png", colors())

    def negative(pictures):
        return [255 - picture.image for picture in pictures]

    done = media.process([tmp_path / "still.png", source], tmp_path / "out", negative, batch_size=4)
    assert [p.rsplit("/", 1)[1] for p in done.written] == [
        "still.png",
        "film.mp4",
    ] and done.pictures == 8
    assert media.video_info(done.written[1]) == (7, 12)
    assert (
        np.abs(next(media.read_video(done.written[1]))[:, 10:] - np.array([35.0, 195, 235])).mean()
        < 15
    )

    calls = []

    def fails(pictures):
        calls.append(len(pictures))
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return negative(pictures)

    with pytest.raises(RuntimeError, match="out of memory"):
        media.process(source, tmp_path / "second", fails, batch_size=3)
    assert not list((tmp_path / "second").iterdir())
    nothing = media.process(source, tmp_path / "third", lambda pictures: [None] * len(pictures))
    assert not nothing.written and nothing.pictures == 7


def test_frames_of_one_size(tmp_path):
    pytest.importorskip("cv2")
    with (
        pytest.raises(ValueError, match="Received: .30, 40, 3"),
        media.VideoWriter(tmp_path / "a.mp4") as video,
    ):
        video.write(colors())
        video.write(np.zeros((30, 40, 3), np.uint8))
    with pytest.raises(ValueError, match="no frame"), media.VideoWriter(tmp_path / "a.avi"):
        pass
    with pytest.raises(ValueError, match=r"\.mp4 or \.avi"):
        media.VideoWriter(tmp_path / "a.gif")
    with pytest.raises(ValueError, match="a.png: An image is"):
        media.write_image(tmp_path / "a.png", np.zeros((3, 3, 3, 3)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_pictures_of_any_range_are_written(suffix, tmp_path):
    image = np.full((24, 40, 3), 102, np.uint8)
    image[0, 0] = 255
    alpha = np.full((24, 40, 1), 255, np.uint8)
    for given in (
        image / 255,
        image.astype(np.uint16) * 257,
        np.round(image / 255 * 4095),
        np.dstack([image, alpha]),
        np.dstack([image / 255, alpha]),
        image[..., :1],
        image[..., 0] / 255,
        image > 50,
    ):
        path = media.write_image(tmp_path / ("a" + suffix), given)
        read = media.read_image(path).astype(int)
        expected = 255 if given.dtype == bool else 102
        assert np.abs(read[12:, 20:] - expected).max() <= 1


def test_frames_of_a_video_do_not_flicker(tmp_path):
    """A dim frame of 12 bits after a bright one keeps the range; uint8 is as ever."""
    pytest.importorskip("cv2")
    bright = np.full((32, 48, 3), 4095, np.uint16)
    dim = np.full((32, 48, 3), 900, np.uint16)
    path = tmp_path / "a.avi"
    with media.VideoWriter(path) as video:
        for frame in (bright, dim, bright[..., 0], np.full((32, 48, 3), 56, np.uint8)):
            video.write(frame)
    means = [frame.mean() for frame in media.read_video(path)]
    np.testing.assert_allclose(means, [255, 56, 255, 56], atol=4)


@pytest.mark.parametrize("extra", [(), (1,)])
def test_the_range_of_a_gray_frame_is_that_of_all_its_columns(tmp_path, extra):
    """It was that of the first three, which are black here."""
    pytest.importorskip("cv2")
    frame = np.full((32, 48, *extra), 2000, np.uint16)
    frame[:, :8] = 0
    path = tmp_path / "a.avi"
    with media.VideoWriter(path) as video:
        video.write(frame)
    (read,) = media.read_video(path)
    np.testing.assert_allclose(read[:, 16:].mean(), 2000 / 4095 * 255, atol=4)


def test_paint_of_any_image_and_result(tmp_path):
    from mrcnn.masks import Masks, encode

    image = colors()
    masks = np.zeros((24, 40, 2), bool)
    masks[4:14, 3:13, 0] = masks[10:20, 20:36, 1] = True
    boxes = np.array([[4, 3, 14, 13], [10, 20, 20, 36]])
    result = {"rois": boxes, "class_ids": np.array([1, 7]), "scores": np.ones(2), "masks": masks}
    expected = media.paint(image, result, ["BG", "a"], by_class=True)
    lazy = Masks(np.ones((2, 1, 1)), boxes, (24, 40))
    twelve = np.round(image / 255 * 4095).astype(np.uint16)
    twelve[23, 39] = 4095
    for other in (image / 255, image.astype(float), twelve, np.dstack([image, image[..., :1]])):
        painted = media.paint(other, result, {1: "a"}, by_class=True)
        np.testing.assert_array_equal(painted[:23], expected[:23])
    for form in (lazy, encode(masks)):
        painted = media.paint(image, {**result, "masks": form}, {"1": "a"}, by_class=True)
        np.testing.assert_array_equal(painted, expected)
    for names in (None, [], ["BG"], np.array(["BG"])):
        media.paint(image, {**result, "scores": None}, names)


def test_paint():
    """Masks tint only their pixels, labels stay inside the image, nothing is edited."""
    image = np.full((120, 160, 3), 90, np.uint8)
    masks = np.zeros((120, 160, 2), bool)
    masks[40:80, 20:60, 0], masks[0:30, 130:160, 1] = True, True
    result = {
        "rois": np.array([[40, 20, 80, 60], [0, 130, 30, 160]]),
        "class_ids": np.array([1, 1]),
        "masks": masks,
        "scores": np.array([0.9, 0.8]),
    }
    painted = media.paint(image, result, ["BG", "a long name"])
    assert painted.shape == image.shape and (image == 90).all()
    changed = (painted != 90).any(axis=2)
    assert changed[42:78, 22:58].all() and not changed[82:].any() and not changed[40:80, 62:].any()
    assert (painted[60, 40] != painted[25, 145]).any()  # an object, a colour
    same = media.paint(image, result, ["BG", "thing"], by_class=True)
    assert (same[70, 40] == same[28, 145]).all()
    assert (painted[0:16, 60:] == 255).any()  # the label at the right edge is in the image
    nothing = {
        "rois": np.zeros((0, 4), int),
        "class_ids": np.zeros(0, int),
        "masks": np.zeros((120, 160, 0), bool),
    }
    np.testing.assert_array_equal(media.paint(image, nothing, ["BG"]), image)


def test_paint_keypoints():
    """A labelled point is painted where it is, one that is not labelled isn't; limbs join them."""
    image = np.full((120, 160, 3), 90, np.uint8)
    points = np.zeros((1, 17, 3))
    points[0, 13] = 60, 100, 2  # the left knee
    points[0, 15] = 100, 100, 1  # the left ankle
    points[0, 0] = 20, 20, 0  # a nose that is not labelled
    result = {
        "rois": np.array([[10, 40, 110, 140]]),
        "class_ids": np.array([1]),
        "masks": None,
        "keypoints": points,
    }
    painted = media.paint(image, result, ["BG", "person"])
    changed = (painted != 90).any(axis=2)
    assert changed[58:102, 100].all() and not changed[20, 20]
    assert not changed[58:102, 60:90].any()
    # Of detections the third value is a logit: every point is painted.
    result["scores"] = np.array([0.9])
    points[0, :, 2] = -1
    assert (media.paint(image, result, ["BG", "person"])[60, 100] != 90).any()


# ---- Files that are none, and files that are others ----------------------------------------------


@pytest.fixture
def video(tmp_path):
    """A film of five frames, 64 x 48."""
    pytest.importorskip("cv2")
    path = tmp_path / "films" / "film.mp4"
    with media.VideoWriter(path, rate=10) as writer:
        for i in range(5):
            writer.write(np.full((48, 64, 3), 30 * i, np.uint8))
    return path


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "a camera's raw file"),  # it was "a video"
        (b"FUJIFILMCCD-RAW 0201", "a camera's raw file"),
        (b"8BPS\0\1", "a file of Photoshop"),
        (b"\xff\x0a\x80", "a JPEG XL picture"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
    ],
)
def test_pictures_that_are_not_read_are_named(tmp_path, content, kind):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content + bytes(200))
    with pytest.raises(OSError, match=kind):
        media.read_image(path)


def test_the_preview_in_a_raw_file_is_not_the_photograph(tmp_path):
    """DNG and NEF are TIFFs that begin with a small preview: it was detected on, without a word."""
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "photo.dng"
    with tifffile.TiffWriter(path) as writer:
        writer.write(colors(), photometric="rgb", subfiletype=1, subifds=1)
        writer.write(colors(240, 400), photometric="rgb")
    for read in (media.read_image, utils.image_sizes):
        with pytest.raises(ValueError, match="photo.dng.*raw file.*its preview of 24 x 40 pixels"):
            read(path)
    pyramid = tmp_path / "pyramid.tif"  # whose first image is the large one
    with tifffile.TiffWriter(pyramid) as writer:
        writer.write(colors(240, 400), photometric="rgb", subifds=1)
        writer.write(colors(), photometric="rgb", subfiletype=1)
    assert media.read_image(pyramid).shape == (240, 400, 3)


def with_matrix(source, target, matrix):
    """Writes an MP4 whose header says how it is to be turned, a matrix of nine numbers."""
    content = bytearray(source.read_bytes())
    start = content.find(b"tkhd") + 44
    assert struct.unpack_from(">9i", content, start)[:5] == (1 << 16, 0, 0, 0, 1 << 16)
    struct.pack_into(">9i", content, start, *matrix)
    target.write_bytes(content)


def test_videos_of_phones_are_upright(tmp_path):
    """Held upright, a phone stores what its sensor sees and notes in the header how to turn it."""
    pytest.importorskip("cv2")
    upright = np.zeros((64, 96, 3), np.uint8)
    upright[:32, :48] = 250, 30, 30
    one = 1 << 16
    stored = {  # by the first numbers of the matrix that makes it upright
        (0, one, 0, -one, 0): np.rot90(upright, 1),
        (-one, 0, 0, 0, -one): np.rot90(upright, 2),
        (0, -one, 0, one, 0): np.rot90(upright, 3),
        (-one, 0, 0, 0, one): upright[:, ::-1],  # a selfie, mirrored
        (one, 0, 0, 0, -one): upright[::-1],
        (0, one, 0, one, 0): upright.swapaxes(0, 1),
        (0, -one, 0, -one, 0): np.rot90(upright, 2).swapaxes(0, 1),
        (one, 0, 0, 0, one): upright,
    }
    for matrix, frame in stored.items():
        with media.VideoWriter(tmp_path / "stored.mp4") as video:
            video.write(frame)
        with_matrix(tmp_path / "stored.mp4", tmp_path / "film.mp4", (*matrix, 0, 0, 0, 1 << 30))
        (read,) = media.read_video(tmp_path / "film.mp4")
        assert read.shape == upright.shape
        assert np.abs(read.astype(float) - upright).mean() < 8, matrix


def element(number, content):
    """An element of Matroska: its number, its length in eight bytes, its content."""
    return bytes.fromhex(number) + struct.pack(">Q", len(content) | 1 << 56) + content


def matroska(path, times, codec=b"V_MJPEG"):
    """Writes a video of JPEG pictures, whatever its codec is to be, at `times` (ms)."""
    picture = io.BytesIO()
    Image.fromarray(colors(32, 32)).save(picture, "jpeg")
    info = element("2AD7B1", struct.pack(">I", 1_000_000))
    info += element("4489", struct.pack(">d", times[-1] + 40))
    size = element("B0", b"\x20") + element("BA", b"\x20")
    track = element("D7", b"\1") + element("73C5", b"\1") + element("83", b"\1")
    track += element("86", codec) + element("E0", size)
    content = element("1549A966", info) + element("1654AE6B", element("AE", track))
    for time in times:
        block = element("A3", b"\x81\0\0\x80" + picture.getvalue())
        content += element("1F43B675", element("E7", struct.pack(">I", time)) + block)
    head = element("1A45DFA3", element("4282", b"matroska"))
    path.write_bytes(head + element("18538067", content))


def test_videos_without_a_constant_rate(tmp_path, caplog):
    """Their rate is that of the times of their frames, and nothing is said of missing ones."""
    pytest.importorskip("cv2")
    slower = [*range(0, 400, 40), *range(400, 2401, 200)]
    for name, times in (
        ("constant.mkv", range(0, 1600, 40)),
        ("variable.mkv", slower),
        ("long.mkv", [*slower, *range(2440, 4001, 40)]),
    ):
        matroska(tmp_path / name, times)
        frames, rate = media.video_info(tmp_path / name)
        assert rate == pytest.approx(1000 * (len(times) - 1) / times[-1]), name
        assert frames == len(times), name
        with caplog.at_level(logging.WARNING):
            assert len(list(media.read_video(tmp_path / name))) == len(times)
    assert not caplog.text
    done = media.process(
        tmp_path / "variable.mkv", tmp_path / "out", lambda all: [one.image for one in all]
    )
    frames, rate = media.video_info(done.written[0])
    assert frames / rate == pytest.approx(2.4, abs=0.15)  # as long as it was


@pytest.mark.parametrize("rate", [70.123456, 87.83490566, 119.88011988, 700.1234, 1000])
def test_rates_that_mpeg_4_cannot_count(tmp_path, rate):
    """Its seconds have 65,535 parts at most; three decimals were written, as 1000/70123."""
    pytest.importorskip("cv2")
    with media.VideoWriter(tmp_path / "film.mp4", rate) as video:
        video.write(colors())
    assert media.video_info(tmp_path / "film.mp4")[1] == pytest.approx(rate, rel=1e-3)


def test_a_codec_that_is_not_decoded_is_named(tmp_path):
    """Many builds of OpenCV do not decode AV1; here the frames are none of their codec."""
    pytest.importorskip("cv2")
    matroska(tmp_path / "film.mkv", range(0, 200, 40), b"V_VP8")
    skipped = []
    assert not list(media.read(tmp_path / "film.mkv", skipped))
    assert "'VP80'" in skipped[0][1] and "ffmpeg" in skipped[0][1]


def bomb(width, height):
    """A png of some bytes that says it has so many pixels."""

    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    size = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(100))
    parts = [chunk(b"IHDR", size), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_whatever_lies_in_a_folder_the_good_pictures_are_read(tmp_path, video, caplog):
    """Pipes (also as videos), sockets, links to nothing and in circles, bombs, text: each is named
    once with a reason, nothing hangs or ends the run. Links don't make a picture appear twice."""
    folder = tmp_path / "all"
    folder.mkdir()
    good = ["good.png", "link.png", "new\nline.png", "no_suffix"]
    for name in (good[0], *good[2:]):
        Image.fromarray(colors()).save(folder / name, "png")
    bad = {"cut.mp4", "pipe.jpg", "pipe.mp4", "nothing.jpg", "circle.png", "bomb.png", "socket.png"}
    bad |= {"component.ts", "module.mts", "empty.mp4", "page.jpg", "._good.jpg", "broken.gif"}
    (folder / "cut.mp4").write_bytes(video.read_bytes()[:-200])
    (folder / "bomb.png").write_bytes(bomb(200_000, 200_000))
    (folder / "component.ts").write_text("export const answer: number = 42;\n" * 30)
    (folder / "module.mts").write_bytes("import x from 'y'".encode("utf-16"))
    (folder / "page.jpg").write_text("<html>404</html>")
    (folder / "broken.gif").write_bytes(b"GIF89a" + bytes([255]) * 30)
    (folder / "empty.mp4").touch()
    (folder / "._good.jpg").touch()  # hidden
    (folder / "circle.png").symlink_to("circle.png")
    (folder / "nothing.jpg").symlink_to("not/there.jpg")
    (folder / "link.png").symlink_to("good.png")
    (folder / "itself").symlink_to(".")
    (folder / "sub.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    os.mkfifo(folder / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(folder):
        server.bind("socket.png")

    def dim(pictures):
        return [picture.image // 2 for picture in pictures]

    sources = [folder, str(folder / "**" / "*.png"), folder / "itself" / "good.png"]
    with caplog.at_level(logging.WARNING):
        done = media.process(sources, tmp_path / "out", dim, batch_size=3)
    written = {os.path.relpath(path, tmp_path / "out") for path in done.written}
    assert written == {"good.png", "link.png", "new\nline.png", "no_suffix.png"}
    assert done.pictures == 4
    names = [path.name for path, _ in done.skipped]
    assert sorted(names) == sorted(bad - {"._good.jpg"})
    reasons = {path.name: reason for path, reason in done.skipped}
    assert all(reasons.values()) and "pixels" in reasons["bomb.png"]
    assert "pipe" in reasons["pipe.jpg"] and "pipe" in reasons["pipe.mp4"]


def moving(count=6):
    """Frames on which a square moves by five pixels."""
    frames = np.full((count, 24, 40, 3), 30, np.uint8)
    for number, frame in enumerate(frames):
        frame[4:12, 5 * number : 5 * number + 8] = 220
    return frames


def save_animation(path, frames, kind=None, **options):
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(path, kind, save_all=True, append_images=others, **options)


@pytest.mark.parametrize(
    "name, kind", [("a.gif", "gif"), ("a.webp", "webp"), ("a", "gif"), ("a.apng", "png")]
)
def test_animated_pictures_are_videos(tmp_path, name, kind):
    """Every frame was left out but the first, without a word."""
    frames = moving()
    options = {"lossless": True} if kind == "webp" else {}
    save_animation(tmp_path / name, frames, kind, duration=[50, 150] * 3, **options)
    assert media.is_video(tmp_path / name)
    assert media.video_info(tmp_path / name) == (6, 10)
    pictures = list(media.read(tmp_path / name))
    assert [picture.frame for picture in pictures] == list(range(6))
    np.testing.assert_array_equal([picture.image for picture in pictures], frames)
    done = media.process(tmp_path / name, tmp_path / "out", lambda batch: [p.image for p in batch])
    assert done.written == [str(tmp_path / "out" / f"{name}.mp4")] and done.pictures == 6
    assert media.video_info(done.written[0]) == (6, 10)


def test_a_gif_that_is_cut_off_or_has_one_frame(tmp_path):
    save_animation(tmp_path / "film.gif", moving(), duration=100)
    content = (tmp_path / "film.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(content[: len(content) * 2 // 3])
    frames = list(media.read(tmp_path / "cut.gif"))
    assert 2 <= len(frames) < 6
    Image.fromarray(moving()[0]).save(tmp_path / "one.gif")
    assert not media.is_video(tmp_path / "one.gif")
    (picture,) = media.read(tmp_path / "one.gif")
    np.testing.assert_array_equal(picture.image, moving()[0])


def test_the_first_frame_is_read_with_a_warning(tmp_path, monkeypatch, caplog):
    """Where one image is asked for: by `read_image`, and of what is called .png."""
    monkeypatch.setattr(utils, "_PAGES_WARNED", set())
    save_animation(tmp_path / "a.gif", moving())
    save_animation(tmp_path / "b.png", moving())
    for name in ("a.gif", "b.png"):
        np.testing.assert_array_equal(media.read_image(tmp_path / name), moving()[0])
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'a.gif'} has 6 frames: of such files the first is read"
    ]


@pytest.mark.parametrize(
    "name",
    ["a.3gp", "b.MTS", "c.ts", "d.m2ts", "e.vob", "f.flv", "no_suffix", "g.dat", "h.mp4.part"],
)
def test_videos_of_every_name(tmp_path, video, name):
    """By the name, or by the beginning where that says nothing."""
    path = tmp_path / name
    path.write_bytes(video.read_bytes())
    assert media.is_video(path) and len(list(media.read(path))) == 5
    done = media.process(path, tmp_path / "out", lambda pictures: [p.image for p in pictures])
    assert done.written == [str(tmp_path / "out" / f"{name}.mp4")]


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("a.ts", b"\x47\x40\x11\x10" + bytes(184), True),
        ("a.ts", b"import { x } from './y';", False),
        ("a.mts", b"\xef\xbb\xbf// \xc3\xa4", False),
        ("a.mod", b"MODULE test", False),
        ("a", b"\x47" + bytes(187) + b"\x47" + bytes(187) + b"\x47", True),
        ("a", bytes(4) + (b"\x47" + bytes(191)) * 3, True),
        ("a", b"GG" * 50, False),
        ("a.bin", b"\x1aE\xdf\xa3" + bytes(9), True),
        ("a", b"RIFF\x10\x00\x00\x00AVI LIST", True),
        ("a.webp", b"RIFF\x10\x00\x00\x00WEBPVP8 ", False),
        ("a", b"\x00\x00\x00\x18ftypheic", False),
        ("a.avif", b"\x00\x00\x00\x18ftypavif", False),
        ("a", b"\x00\x00\x00\x18ftypisom", True),
        ("a.jpg", b"\xff\xd8\xff", False),
        ("a", b"", False),
    ],
)
def test_what_is_a_video(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    assert media.is_video(tmp_path / name) is expected


def test_outputs_stay_in_their_folder_and_apart(tmp_path):
    """ ".." in an input leads out of no output; two inputs never share an output."""
    (tmp_path / "a").mkdir()
    for name in ("x.png", "a/y.png", "a/z.tif", "a/z.tif.png"):
        Image.fromarray(colors()).save(tmp_path / name, "png")
    sources = [tmp_path / "a" / ".." / "x.png", tmp_path / "a"]
    done = media.process(sources, tmp_path / "out" / "deep", lambda all: [p.image for p in all])
    written = [os.path.relpath(path, tmp_path / "out" / "deep") for path in done.written]
    assert written == ["x.png", "a/y.png", "a/z.tif.png", "a/z.tif_.png"]
    assert len({os.path.realpath(path) for path in done.written}) == 4


def test_too_little_memory_skips_one_picture(tmp_path):
    """Pictures of its batch go on alone."""
    for name in "abcd":
        Image.fromarray(colors()).save(tmp_path / f"{name}.png")

    def needs_much(pictures):
        if any(picture.path.name == "b.png" for picture in pictures):
            raise MemoryError("20 GB")
        return [picture.image for picture in pictures]

    done = media.process(tmp_path, tmp_path / "out", needs_much, batch_size=4)
    assert [path[-5:] for path in done.written] == ["a.png", "c.png", "d.png"]
    assert done.skipped == [(tmp_path / "b.png", "not enough memory: 20 GB")] and done.pictures == 3


@pytest.mark.long
@pytest.mark.parametrize("kind", ["png", "jpg", "json", "mp4", "avi"])
def test_a_full_disk_leaves_the_last_good_file(tmp_path, kind):
    """A limit on the size of files stands for it: one error that names the file, no remains."""
    if kind in ("mp4", "avi"):
        pytest.importorskip("cv2")
    path = tmp_path / f"a.{kind}"
    code = f"""
import resource, sys
import numpy as np
from mrcnn import media
path = {str(path)!r}
def write(seed):
    noise = np.random.default_rng(seed).integers(0, 255, (200, 300, 3), np.uint8)
    if path.endswith("json"):
        media.write_jsons({{path + ".other.json": [1], path: noise.tolist()}})
    elif path.endswith(("mp4", "avi")):
        with media.VideoWriter(path) as video:
            for i in range(9):
                video.write(np.roll(noise, 99 * i, axis=1))
    else:
        media.write_image(path, noise)
write(0)
before = open(path, "rb").read()
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
try:
    write(1)
except OSError as error:
    assert open(path, "rb").read() == before
    sys.exit("one error: " + str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "one error: [Errno" in done.stderr, done.stderr
    assert str(path) in done.stderr and "Traceback" not in done.stderr
    assert {file.name for file in tmp_path.iterdir()} <= {path.name, path.name + ".other.json"}


def test_painted_in_colours_and_words_of_ones_own():
    image = np.full((60, 80, 3), 50, np.uint8)
    masks = np.zeros((60, 80, 2), bool)
    masks[30:50, 10:30, 0] = masks[30:50, 50:70, 1] = True
    result = {
        "rois": np.array([[30, 10, 50, 30], [30, 50, 50, 70]]),
        "class_ids": np.array([1, 1]),
        "scores": np.array([0.9, 0.8]),
        "masks": masks,
    }
    colors = [(0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
    options = {"alpha": 1.0, "colors": colors, "texts": ["", "x"], "boxes": False}
    painted = media.paint(image, result, None, **options)
    expected = image.copy()
    expected[masks[..., 0]] = (0, 255, 0)
    expected[masks[..., 1]] = (0, 0, 255)
    # Nothing but the masks, and a label above the second.
    np.testing.assert_array_equal(painted[:, :40], expected[:, :40])
    assert (painted[:30, 50:] != expected[:30, 50:]).any()
    edged = media.paint(image, {**result, "masks": None}, None, **{**options, "boxes": True})
    assert edged[30, 10].tolist() == [0, 255, 0] and edged[40, 20].tolist() == [50, 50, 50]
    for name in ("colors", "texts"):
        with pytest.raises(
            ValueError, match=f"{name} has one for each of the 2 objects. Received: 1"
        ):
            media.paint(image, result, None, **{**options, name: options[name][:1]})


def test_what_stands_in_place_of_a_video_is_said(tmp_path):
    """As of images: it was "OpenCV can't read it" alone."""
    for content, kind in ((b"", "an empty file"), (b"<html>", "a web page")):
        path = tmp_path / "film.mp4"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"can't read it as a video. It is {kind}"):
            next(media.read_video(path))
