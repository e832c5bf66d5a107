"""mrcnn.batch, mrcnn.listing and mrcnn.places with a model without a network.

Most of it needs pyarrow: `make test-ray` runs this file where it is installed.
"""

import os
import pathlib
import random
import socket
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from PIL import Image
from stand_in import CLASSES, Recipe, StandIn

from mrcnn import batch, commands, listing, masks, places, pool

ROOT = pathlib.Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:
    pa = None

needs_pyarrow = pytest.mark.skipif(pa is None, reason="no pyarrow here; make test-ray runs it")
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}"}


# ---- Images whose result is known ----------------------------------------------------------------


def pixels(number):
    """[H, W, 3] uint8 and what the stand-in finds: box, class id, score."""
    rng = np.random.default_rng(number)
    height, width = rng.integers(12, 30, 2).tolist()
    y1, x1 = rng.integers(1, 5, 2).tolist()
    y2, x2 = (rng.integers(6, 12, 2)).tolist()
    channel = number % 3
    value = 100 + number % 150
    image = np.zeros((height, width, 3), np.uint8)
    image[y1:y2, x1:x2, channel] = value
    return image, ([y1, x1, y2, x2], channel + 1, value / 255)


def write(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(number)[0]).save(path)
    return str(path)


def content(number, folder):
    return pathlib.Path(write(folder / f"_{number}.png", number)).read_bytes()


def check(row, number):
    """A row of `batch.results` against what is in the image."""
    _, result, error = row
    image, (box, class_id, score) = pixels(number)
    assert error is None
    assert result["size"] == image.shape[:2]
    assert result["rois"].tolist() == [box]
    assert result["class_ids"].tolist() == [class_id]
    assert result["class_names"] == [CLASSES[class_id]]
    np.testing.assert_allclose(result["scores"], [score], rtol=1e-6)
    found = masks.decompressed(result["masks"][0]["counts"])
    expected = image.any(-1).T.ravel()
    runs = np.repeat(np.arange(len(found)) % 2, found)
    np.testing.assert_array_equal(runs, expected)


def by_name(output):
    rows = list(batch.results(output))
    names = [pathlib.PurePath(row[0]).name for row in rows]
    assert len(set(names)) == len(names), "an image is there twice"
    return dict(zip(names, rows))


def folder_of(folder, count):
    for number in range(count):
        write(folder / f"{number:04d}.png", number)
    return folder


# ---- Whatever is installed -----------------------------------------------------------------------


class Breaks(StandIn):
    """As a device that is lost after so many images."""

    def __init__(self, after, **options):
        super().__init__(**options)
        self.left = after

    def detect(self, images, masks="dense"):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("the device is lost")
        return super().detect(images, masks)


@pytest.mark.parametrize("many", [True, False], ids=["stream", "one by one"])
def test_a_device_that_is_lost_marks_no_image_as_done(many):
    """The images after it had rows with its error, and so were never done."""
    images = [batch._Image(str(number), pixels(number)[0]) for number in range(12)]
    with pytest.raises(RuntimeError, match="the device is lost"):
        list(batch.Rows(Breaks(5, many=many), CLASSES).of(images))
    rows = list(batch.Rows(Breaks(99, many=many), CLASSES).of(images))
    assert [row.get("error") for row in rows] == [None] * 12


def test_the_last_image_may_be_at_fault():
    """Alone in its part, an image that the model has an error with was taken for a lost device."""
    bad = np.full((5, 9, 3), 9, np.uint8)
    rows = batch.Rows(StandIn(), CLASSES)
    images = [batch._Image("a", pixels(1)[0]), batch._Image("b", bad)]
    assert [row.get("error", "")[:12] for row in rows.of(images)] == ["", "RuntimeError"]
    (row,) = rows.of([batch._Image("c", bad)])
    assert row["error"] == "RuntimeError: an image that begins with 9"
    with pytest.raises(RuntimeError, match="begins with 9"):
        list(batch.Rows(StandIn(), CLASSES).of([batch._Image("c", bad)]))


def test_actors_that_die_before_their_model_is_made_are_not_replaced_for_ever():
    """After a part was given up the pool went on starting actors, whatever they died of."""
    nodes = [{"Alive": True, "Resources": {"CPU": 4.0}}]
    ray = types.SimpleNamespace(nodes=lambda: nodes)
    actors = pool._Pool(ray, Recipe(), None, pool.Ray())
    actors.largest = 2
    for _ in range(pool.ATTEMPTS):
        actors._lose(pool._Member(None, is_ready=True, part=5), RuntimeError("out of memory"))
    assert actors.given_up == [5]
    for _ in range(pool.DEATHS + 2 * 2 - 1):
        actors._lose(pool._Member(None), RuntimeError("no GPU"))
    with pytest.raises(ChildProcessError, match="The last: no GPU"):
        actors._lose(pool._Member(None), RuntimeError("no GPU"))


def test_a_store_that_is_lost_marks_no_image_as_done(tmp_path):
    """With rights that had expired all images that were left had rows with that error."""
    photos = folder_of(tmp_path, 8)
    (photos / "0008.png").write_bytes((photos / "0007.png").read_bytes()[:60])
    worker = batch.Worker(Recipe(), types.SimpleNamespace(options=listing.Options()))
    worker._row_maker = batch.Rows(StandIn(), CLASSES)
    entries = list(listing.entries([photos], listing.Options()))
    rows = list(worker._rows(entries))
    assert [bool(row.get("error")) for row in rows] == [False] * 8 + [True]

    def expired(path):
        raise OSError("ACCESS_DENIED")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(listing.utils, "read_image", expired)
        with pytest.raises(OSError, match="can't be read any more: ACCESS_DENIED. Run it again"):
            list(worker._rows(entries[:3]))
    assert not any(row.get("error") for row in worker._rows(entries[:3]))


def test_without_pyarrow_one_error_says_what_to_install(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    write(tmp_path / "a.png", 1)
    with pytest.raises(ImportError, match=r'pip install "mask-rcnn-keras3\[parquet\]"'):
        batch.run(Recipe(), [tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_addresses_and_paths():
    assert places.is_address("s3://bucket/a b.jpg") and not places.is_address("/a/b.jpg")
    assert places.absolute("s3://bucket/a") == "s3://bucket/a"
    assert places.absolute("a") == os.path.abspath("a")
    assert places.joined("s3://b/c?region=x", "d/e.jpg") == "s3://b/c/d/e.jpg?region=x"
    assert places.joined("/data", "a.jpg") == "/data/a.jpg"
    assert places.joined("/data", "/other/a.jpg") == "/other/a.jpg"
    assert places.joined("/data", "gs://b/a.jpg") == "gs://b/a.jpg"
    assert places.without_options("s3://b/c#?d.jpg?region=x") == "s3://b/c#?d.jpg"
    assert places.without_options("/b/c?region=x") == "/b/c?region=x"
    assert places.parent("s3://b/c/d.parquet?region=x") == "s3://b/c?region=x"
    assert places.find("file:///data/a%20b.jpg") == (places.LOCAL, "/data/a b.jpg")
    assert places.find("file://localhost/data/a.jpg") == (places.LOCAL, "/data/a.jpg")
    assert places.canonical("file:///data/a%20b.jpg") == "/data/a b.jpg"
    assert places.canonical("s3://b/c?region=x") == "s3://b/c?region=x"
    # A key with a question mark in it.
    assert places.without_options("s3://b/c?d=1.jpg?region=x") == "s3://b/c?d=1.jpg"


@pytest.mark.parametrize(
    "path, pattern, expected",
    [
        ("a/b.jpg", "a/*.jpg", True),
        ("a/c/b.jpg", "a/*.jpg", False),
        ("a/c/b.jpg", "a/**/*.jpg", True),
        ("a/b.jpg", "a/**/*.jpg", True),
        ("a/.b.jpg", "a/*.jpg", False),
        ("a/b.png", "a/[ab].jp*", False),
        ("a/b", "a/**", True),
    ],
)
def test_globs_of_object_stores(path, pattern, expected):
    assert places._matches(path.split("/"), pattern.split("/")) is expected


def test_folders_are_listed_sorted_with_what_lies_below(tmp_path, caplog):
    names = ["b.jpg", "a.JPG", ".hidden.jpg", "notes.txt", "sub/c.png", ".cache/d.png"]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "sub" / "circle").symlink_to(tmp_path, target_is_directory=True)
    listed = [entry.image for entry in listing.entries([tmp_path], listing.Options())]
    assert listed == [str(tmp_path / name) for name in ("a.JPG", "b.jpg", "sub/c.png")]
    assert "1 files" in caplog.text and "notes.txt" in caplog.text
    pattern = str(tmp_path / "**" / "*.jpg")
    listed = [entry.image for entry in listing.entries([pattern], listing.Options())]
    assert listed == [str(tmp_path / "b.jpg")]  # and not by each turn of the circle
    # Of another batch's folder below the source: its results are no images, others are.
    (tmp_path / "sub" / "_job").mkdir()
    (tmp_path / "sub" / "part-000000.parquet").write_bytes(b"")
    caplog.clear()
    listed = [entry.image for entry in listing.entries([tmp_path], listing.Options())]
    assert len(listed) == 3 and "Parquet files" not in caplog.text
    (tmp_path / "sub" / "_job" / "lock").write_bytes(b"")
    listed = [entry.image for entry in listing.entries([f"{tmp_path}/**"], listing.Options())]
    assert listed == [str(tmp_path / name) for name in ("a.JPG", "b.jpg", "notes.txt", "sub/c.png")]


@pytest.mark.parametrize("name", ["nothing", "no*thing", "empty"])
def test_a_source_that_is_nothing_is_named(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=name.replace("*", r"\*")):
        list(listing.entries([tmp_path / name], listing.Options()))


def test_options_of_the_samples_command(tmp_path, capsys):
    parser = commands.parser("", ("train", "batch"), inputs=None)
    for wrong, message in (
        (["batch"], "batch needs images, folders, globs, Parquet files or addresses"),
        (["train", "--weights=none", "photos"], "train takes no inputs. Received: photos"),
        (["batch", "photos", "--batch-size=0"], "--batch-size is 1 or more"),
    ):
        with pytest.raises(SystemExit):
            commands.parse(parser, wrong)
        assert message in capsys.readouterr().err
    args = commands.parse(parser, ["batch", "a", "--ray=local", "--workers=2:8", "b", "--column=x"])
    assert (args.inputs, args.ray, args.workers, args.column) == (["a", "b"], "local", "2:8", "x")
    with pytest.raises(SystemExit):
        batch.main(["weights.h5", "photos"])
    assert "export the model" in capsys.readouterr().err


def test_digests_follow_the_weights(tmp_path):
    (tmp_path / "m.xml").write_text("graph")
    (tmp_path / "m.bin").write_bytes(b"1")
    before = batch.digest_of(tmp_path / "m.xml")
    assert batch.digest_of(tmp_path / "m.xml") == before
    (tmp_path / "m.bin").write_bytes(b"2")
    assert batch.digest_of(tmp_path / "m.xml") != before
    assert batch.digest_of(tmp_path) != before
    with pytest.raises(FileNotFoundError, match=r"gone\.onnx"):
        batch.Exported(str(tmp_path / "gone.onnx")).identity()


# ---- Jobs ----------------------------------------------------------------------------------------


@needs_pyarrow
@pytest.mark.parametrize("many", [True, False], ids=["stream", "one by one"])
def test_every_image_has_its_row(tmp_path, many):
    photos = folder_of(tmp_path / "photos", 40)
    (photos / "0007.png").write_bytes(b"no image")
    (photos / "0011.png").write_bytes((photos / "0012.png").read_bytes()[:60])
    Image.new("RGB", (9, 5)).save(photos / "0013.png")
    Image.new("RGB", (9, 5), (7, 0, 0)).save(photos / "0014.png")
    Image.new("RGB", (9, 5), (9, 0, 0)).save(photos / "0039.png")
    summary = batch.run(StandIn(many=many), [photos], tmp_path / "out", identity={}, part_size=9)
    assert (summary.images, summary.before, summary.objects, summary.errors) == (40, 0, 35, 4)
    assert "0007.png" in summary.first_error
    rows = list(batch.results(tmp_path / "out"))
    assert [row[0] for row in rows] == [str(photos / f"{n:04d}.png") for n in range(40)]
    for number, row in enumerate(rows):
        if number not in (7, 11, 13, 14, 39):
            check(row, number)
    for number, reason in {7: "0007.png", 11: "0011.png", 14: "begins with 7"}.items():
        assert rows[number][1] is None and reason in rows[number][2]
    assert rows[39][2] == "RuntimeError: an image that begins with 9"
    nothing = rows[13][1]
    assert nothing["rois"].shape == (0, 4) and nothing["masks"] == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_file()) == [
        batch.part_name(part) for part in range(5)
    ]


@needs_pyarrow
def test_columns_are_those_of_the_page(tmp_path):
    write(tmp_path / "a.png", 4)
    (tmp_path / "b.png").write_bytes(b"")
    batch.run(Recipe(), [str(tmp_path / "*.png")], tmp_path / "out")
    table = pq.read_table(tmp_path / "out")
    assert table.num_rows == 2
    assert table.column_names == [
        *("image", "height", "width", "boxes", "class_ids", "class_names", "scores"),
        *("masks", "keypoints", "error"),
    ]
    good, bad = table.to_pylist()
    assert (good["height"], good["width"]) == pixels(4)[0].shape[:2]
    assert isinstance(good["masks"][0], str) and good["keypoints"] is None
    missing = {name for name, value in bad.items() if value is None}
    assert missing == set(table.column_names) - {"image", "error"}


@needs_pyarrow
def test_what_fails_for_every_image_is_an_error_and_no_result(tmp_path):
    for number in range(3):
        path = tmp_path / "photos" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 5), (9, 0, 0)).save(path)
    with pytest.raises(RuntimeError, match="begins with 9"):
        batch.run(Recipe(), [tmp_path / "photos"], tmp_path / "out")
    assert not list((tmp_path / "out").glob("part-*"))


@needs_pyarrow
def test_a_model_that_takes_nothing_is_an_error(tmp_path):
    class Deaf:
        def detect(self, images, masks):
            raise AssertionError

        def detect_many(self, images, masks):
            return iter(())

    write(tmp_path / "a.png", 4)
    with pytest.raises(ValueError, match="took no image"):
        batch.run(Deaf(), [tmp_path / "a.png"], tmp_path / "out", identity={})


@needs_pyarrow
def test_what_is_listed_twice_is_done_once(tmp_path, monkeypatch):
    photos = folder_of(tmp_path / "photos", 20)
    monkeypatch.chdir(tmp_path)
    sources = ["photos/0003.png", photos, "photos/*1.png", f"file://{photos}/0004.png"]
    summary = batch.run(Recipe(), sources, "out", part_size=7)
    assert summary.images == 20
    names = [pathlib.PurePath(row[0]).name for row in batch.results("out")]
    assert names == ["0003.png", *(f"{n:04d}.png" for n in range(20) if n != 3)]


LISTS = {
    "lines": ("l.txt", "\ufeffa b.png\r\n\nü.png\n", {}, ["a b.png", "ü.png"]),
    "csv": ("l.csv", 'id,Path\n7,"a b.png"\n8,ü.png\n', {}, ["a b.png", "ü.png"]),
    "names": ("l.csv", "id;path\n7;a b.png\n8;ü.png\n", {"name_column": "id"}, ["7", "8"]),
    "tabs": ("l.tsv", "x\ty\n1\ta b.png\n2\tü.png\n", {"column": "y"}, ["a b.png", "ü.png"]),
    "no names": ("l.csv", "a b.png\nü.png\n", {}, ["a b.png", "ü.png"]),
}


@needs_pyarrow
@pytest.mark.parametrize("kind", LISTS)
def test_lists_of_paths(tmp_path, kind):
    """Relative to the list's folder, or absolute; the same places."""
    name, text, options, names = LISTS[kind]
    (tmp_path / name).write_text(text, encoding="utf-8")
    listed = list(listing.entries([tmp_path / name], listing.Options(**options)))
    assert [entry.image for entry in listed] == names
    assert [entry.place for entry in listed] == [str(tmp_path / n) for n in ("a b.png", "ü.png")]


@needs_pyarrow
@pytest.mark.parametrize(
    "text, message",
    [
        ("foo,bar\na.png,1\n", ".*--column says the one.*Received: foo, bar"),
        ("id,path\n1,a.png\n2\n", r"expected 2 columns in each row\. Received: \['2'\]"),
        ("", "its first line has the names"),
        ("path\na\0.\0", "expected (a list of paths in UTF-8|rows of text)"),
        (f"id,path\n1,{'a' * 200_000}", "expected rows of text"),
    ],
    ids=["unknown", "short", "empty", "UTF-16", "long"],
)
def test_lists_that_are_none(tmp_path, text, message):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"l\.csv: {message}"):
        list(listing.entries([tmp_path / "l.csv"], listing.Options()))


@needs_pyarrow
def test_results_that_are_not_there(tmp_path, caplog):
    with pytest.raises(FileNotFoundError, match=r"No results of a batch.*nowhere"):
        list(batch.results(tmp_path / "nowhere"))
    photos = folder_of(tmp_path / "photos", 3)
    batch.run(Recipe(), [photos], tmp_path / "out", part_size=1)
    (tmp_path / "out" / batch.part_name(1)).unlink()
    assert len(list(batch.results(tmp_path / "out"))) == 2
    assert "has 2 of 3 parts: its job is not done" in caplog.text
    part = tmp_path / "out" / batch.part_name(2)
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(ValueError, match=rf"{part.name} can't be read as a part of a batch"):
        list(batch.results(tmp_path / "out"))


@needs_pyarrow
def test_names_that_are_no_text(tmp_path):
    folder = os.fsencode(tmp_path / "photos")
    os.mkdir(folder)
    path = os.path.join(folder, b"caf\xe9 #1.png")
    with open(path, "wb") as file:
        file.write(content(5, tmp_path))
    batch.run(Recipe(), [tmp_path / "photos"], tmp_path / "out")
    (row,) = batch.results(tmp_path / "out")
    assert row[0].endswith("caf\\udce9 #1.png")
    check(row, 5)


# ---- Tables --------------------------------------------------------------------------------------


@needs_pyarrow
@pytest.mark.parametrize("kind", ["here", "beside", "root"])
def test_tables_of_paths(tmp_path, monkeypatch, kind):
    folder_of(tmp_path / "photos", 6)
    names = [f"photos/{n:04d}.png" for n in range(6)]
    table = tmp_path / "table.parquet"
    options = {}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    if kind == "here":
        table = elsewhere / "table.parquet"
    elif kind == "beside":
        monkeypatch.chdir(elsewhere)
    else:
        monkeypatch.chdir(elsewhere)
        table = elsewhere / "table.parquet"
        options = {"root": "../photos"}
        names = [name.removeprefix("photos/") for name in names]
    pq.write_table(pa.table({"label": ["x"] * 8, "path": [*names, None, names[2]]}), table)
    batch.run(Recipe(), [table], "out", options=listing.Options(**options))
    rows = list(batch.results("out"))
    assert [row[0] for row in rows] == [*names, f"{table}#6"]
    for number, row in enumerate(rows[:6]):
        check(row, number)
    assert "no path" in rows[6][2]


@needs_pyarrow
@pytest.mark.parametrize("form", ["bytes", "named", "struct", "dictionary"])
def test_tables_of_bytes(tmp_path, form):
    count = 45
    contents = [content(n, tmp_path / "made") for n in range(count)]
    contents[20] = None
    contents[21] = b"no image"
    names = [f"n{n}.png" for n in range(count)]
    columns = {"image": pa.array(contents, pa.binary()), "image_id": list(range(count))}
    expected = [str(n) for n in range(count)]
    options = listing.Options()
    if form == "named":
        columns = {"x": pa.array(contents, pa.large_binary()), "y": names, "z": ["other"] * count}
        options = listing.Options("x", "y")
        expected = names
    elif form == "struct":
        pairs = [{"bytes": value, "path": name} for value, name in zip(contents, names)]
        columns = {"image": pairs, "label": [1] * count}
        expected = names
    elif form == "dictionary":
        columns = {"content": pa.array(contents, pa.binary()).dictionary_encode()}
        expected = [f"{tmp_path / 'tables' / 'a.parquet'}#{n}" for n in range(count)]
    folder = tmp_path / "tables"
    folder.mkdir()
    pq.write_table(pa.table(columns), folder / "a.parquet", row_group_size=13)
    batch.run(Recipe(), [folder], tmp_path / "out", part_size=8, options=options)
    rows = list(batch.results(tmp_path / "out"))
    assert [row[0] for row in rows] == expected
    for number, row in enumerate(rows):
        if number in (20, 21):
            assert row[1] is None and row[2]
        else:
            check(row, number)
    # In another order of the parts, as actors do them: backwards within the table.
    job = batch.prepare(tmp_path / "out", [folder], options, CLASSES, Recipe().identity())
    worker = batch.Worker(Recipe(), job)
    worker.load()
    for part in reversed(range(job.parts)):
        os.remove(job.part_path(part))
        worker.do(part)
    again = list(batch.results(tmp_path / "out"))
    assert [row[0] for row in again] == expected
    check(again[44], 44)


class Bands(StandIn):
    """Finds by the last three of six bands."""

    config = types.SimpleNamespace(IMAGE_CHANNEL_COUNT=6)

    def detect(self, images, masks="dense"):
        assert all(image.shape[2] == 6 for image in images)
        return super().detect([image[..., 3:] for image in images], masks)


@needs_pyarrow
def test_networks_of_many_bands_get_all(tmp_path):
    """Of files, tables and arrays: they were given three of six, and refused each image."""
    tifffile = pytest.importorskip("tifffile")
    image, (_, class_id, _) = pixels(3)
    bands = np.concatenate([np.full_like(image, 7), image], axis=-1)
    path = tmp_path / "in" / "a.tif"
    path.parent.mkdir()
    tifffile.imwrite(path, bands, photometric="minisblack", planarconfig="contig")
    table = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": [path.read_bytes()]}), table)
    batch.run(
        Bands(many=False),
        [path.parent, table],
        tmp_path / "out",
        CLASSES,
        identity={"weights": "x"},
    )
    rows = list(batch.results(tmp_path / "out"))
    assert len(rows) == 2
    for row in rows:
        check(row, 3)
    made = batch.OnColumns(lambda: Bands(many=False), class_names=CLASSES)(
        {"image": np.array([bands])}
    )
    assert made["error"].to_pylist() == [None]
    assert made["class_ids"].to_pylist() == [[class_id]]


@needs_pyarrow
def test_a_struct_without_bytes_has_a_path(tmp_path):
    write(tmp_path / "a.png", 8)
    pairs = [{"bytes": None, "path": "a.png"}, None, {"bytes": b"", "path": "a.png"}]
    pq.write_table(pa.table({"image": pairs}), tmp_path / "t.parquet")
    batch.run(Recipe(), [tmp_path / "t.parquet"], tmp_path / "out")
    good, bad, empty = batch.results(tmp_path / "out")
    check(good, 8)
    check(empty, 8)
    assert bad[1] is None


@needs_pyarrow
def test_columns_that_are_meant(tmp_path):
    """Bytes before text, whatever the case of the names; a name of its own for a path."""
    view = pa.array(["/a.png"], pa.string_view())
    for columns, options, expected in (
        ({"image": ["a cat"], "bytes": [b"x"]}, {}, ("t.parquet#0", "t.parquet", 0)),
        ({"image": ["a cat"], "Bytes": [b"x"], "KEY": ["k"]}, {}, ("k", "t.parquet", 0)),
        ({"content": ["a cat"], "URL": ["/a.png"]}, {}, ("/a.png", "/a.png", -1)),
        ({"path": view}, {}, ("/a.png", "/a.png", -1)),
        ({"x": view, "y": [5]}, {"name_column": "y"}, ("5", "/a.png", -1)),
        ({"url": ["file:///a%20b.png"]}, {}, ("file:///a%20b.png", "/a b.png", -1)),
    ):
        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
        (entry,) = listing.entries([tmp_path / "t.parquet"], listing.Options(**options))
        short = (entry.image, entry.place)
        assert tuple(text.replace(f"{tmp_path}/", "") for text in short) == expected[:2]
        assert entry.row == expected[2]


@needs_pyarrow
@pytest.mark.parametrize(
    "columns, options, message",
    [
        ({"a": ["x"], "b": ["y"]}, {}, r"--column NAME.*a \(string\), b \(string\)"),
        ({"a": ["x"]}, {"column": "c"}, "no column 'c'.*a"),
        ({"a": [1]}, {}, r"no column of bytes, of paths.*a \(int64\)"),
        ({"a": [1.5]}, {"column": "a"}, r"'a' \(double\)"),
        ({"a": [b"x"]}, {"name_column": "c"}, "no column 'c'"),
    ],
    ids=["ambiguous", "missing", "nothing", "numbers", "names"],
)
def test_columns_that_can_not_be_meant(tmp_path, columns, options, message):
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=message) as caught:
        batch.run(
            Recipe(),
            [tmp_path / "t.parquet"],
            tmp_path / "out",
            options=listing.Options(**options),
        )
    assert "t.parquet" in str(caught.value)


@needs_pyarrow
def test_a_table_that_changed_or_is_none(tmp_path):
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1 is how it begins")
    with pytest.raises(ValueError, match=r"t\.parquet can't be read as Parquet"):
        batch.run(Recipe(), [path], tmp_path / "out")
    images = [content(n, tmp_path / "made") for n in range(3)]
    pq.write_table(pa.table({"image": images}), path)
    batch.run(Recipe(), [path], tmp_path / "out", part_size=2)
    pq.write_table(pa.table({"image": [*images, images[0]]}), path)
    os.remove(tmp_path / "out" / batch.part_name(1))
    with pytest.raises(ValueError, match=r"t\.parquet has changed since the job began"):
        batch.run(Recipe(), [path], tmp_path / "out")


# ---- Going on ------------------------------------------------------------------------------------


@needs_pyarrow
def test_a_job_goes_on_with_what_it_listed(tmp_path):
    photos = folder_of(tmp_path / "photos", 30)
    output = tmp_path / "out"
    model = StandIn()
    model.detect_many = None

    def until_the_third_part(images, masks):
        for image in images:
            if model.seen == 25:
                raise KeyboardInterrupt
            yield model.detect([image], masks)[0]

    model.detect_many = until_the_third_part
    with pytest.raises(KeyboardInterrupt):
        batch.run(model, [photos], output, identity={"weights": "1"}, part_size=10)
    first = {path: path.stat().st_mtime_ns for path in output.glob("part-*")}
    assert len(first) == 2
    write(photos / "0000a.png", 99)
    (photos / "0025.png").unlink()
    (output / ".part-000002.parquetxyz.part.parquet").write_bytes(b"half")
    model = StandIn()
    summary = batch.run(model, [photos], output, identity={"weights": "1"})
    assert (summary.images, summary.before, model.seen) == (30, 20, 9)
    assert "20 images were done before" in str(summary)
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in first.items())
    rows = by_name(output)
    assert sorted(rows) == [f"{n:04d}.png" for n in range(30)]
    assert rows["0025.png"][1] is None and "0025.png" in rows["0025.png"][2]
    check(rows["0026.png"], 26)
    assert not list(output.glob(".part*"))
    model = StandIn()
    assert batch.run(model, [photos], output, identity={"weights": "1"}).before == 30
    assert model.seen == 0


@needs_pyarrow
def test_another_job_is_refused_and_says_what_differs(tmp_path):
    photos = folder_of(tmp_path / "photos", 3)
    output = tmp_path / "out"
    settings = batch.Trained({"IMAGE_MIN_DIM": 800, "IMAGES_PER_GPU": 1, "MEAN_PIXEL": 1}, "")
    weights = tmp_path / "w.h5"
    weights.write_bytes(b"1")
    settings.weights = str(weights)

    def run(**changes):
        arguments = {"inputs": [photos], "identity": settings.identity(), "part_size": 2}
        arguments.update(changes)
        return batch.run(Recipe(), output=output, **arguments)

    run()
    settings.settings["IMAGES_PER_GPU"] = 4  # is of no consequence for the results
    assert run(part_size=None).before == 3
    with pytest.raises(ValueError, match=r"inputs was .*photos.*, is .*0001"):
        run(inputs=[photos / "0001.png"])
    with pytest.raises(ValueError, match=r"class_names was .*red.*, is .*violet"):
        run(class_names=["BG", "violet"])
    with pytest.raises(ValueError, match=r"tables\.column was None, is 'x'"):
        run(options=listing.Options("x"))
    with pytest.raises(ValueError, match="parts of 2 images. Received: 5"):
        run(part_size=5)
    settings.settings["IMAGE_MIN_DIM"] = 640
    with pytest.raises(ValueError, match=r"model\.settings\.IMAGE_MIN_DIM was 800, is 640"):
        run(identity=settings.identity())
    weights.write_bytes(b"2")
    with pytest.raises(ValueError, match=r"model\.weights was"):
        run(identity=settings.identity())
    (output / batch.JOB).write_text("{")
    with pytest.raises(ValueError, match=r"job\.json: expected a job"):
        run()
    (output / batch.JOB).unlink()
    with pytest.raises(ValueError, match="files of parts and no"):
        run()


@needs_pyarrow
def test_what_run_refuses(tmp_path):
    for inputs in ("photos", []):
        with pytest.raises(ValueError, match="inputs is a list"):
            batch.run(Recipe(), inputs, tmp_path / "out")
    with pytest.raises(ValueError, match="part_size is 1 or more. Received: 0"):
        batch.run(Recipe(), ["a"], tmp_path / "out", part_size=0)
    with pytest.raises(ValueError, match="identity is what tells"):
        batch.run(StandIn(), ["a"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@needs_pyarrow
def test_sizes_of_parts(tmp_path):
    photos = folder_of(tmp_path / "photos", 33)
    batch.run(Recipe(), [photos], tmp_path / "out")
    counts = [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "out").glob("part-*"))]
    assert counts == [16, 16, 1]


@needs_pyarrow
def test_two_processes_do_not_do_one_job(tmp_path):
    photos = folder_of(tmp_path / "photos", 2)
    with (
        places.LOCAL.locked(f"{tmp_path}/out/{batch.LOCK}"),
        pytest.raises(ValueError, match=f"Another process is writing to {tmp_path}/out"),
    ):
        batch.run(Recipe(), [photos], tmp_path / "out")
    assert batch.run(Recipe(), [photos], tmp_path / "out").images == 2


@needs_pyarrow
@pytest.mark.heavy
def test_killed_at_any_moment_each_image_is_there_once(tmp_path):
    photos = folder_of(tmp_path / "photos", 60)
    output = tmp_path / "out"
    command = [sys.executable, TESTS / "stand_in.py", output, ".02", photos, "--part-size=4"]
    rng = random.Random(3)
    kills = 0
    seen: dict[str, int] = {}
    for _ in range(30):
        process = subprocess.Popen(
            command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        deadline = time.monotonic() + 60
        known = len(list(output.glob("part-*")))
        wanted = known + rng.randint(0, 3)
        while process.poll() is None and time.monotonic() < deadline:
            if len(list(output.glob("part-*"))) >= wanted and (output / batch.JOB).exists():
                break
            time.sleep(0.01)
        time.sleep(rng.random() * 0.1)
        kills += process.poll() is None
        process.kill()
        text = process.communicate()[0].decode()
        assert process.returncode in (0, -9), text
        for path in output.glob("part-*"):
            stamp = path.stat().st_mtime_ns
            assert seen.setdefault(path.name, stamp) == stamp, "finished work was done again"
        if process.returncode == 0:
            break
    assert kills >= 3
    assert process.returncode == 0, text
    rows = by_name(output)
    assert sorted(rows) == [f"{n:04d}.png" for n in range(60)]
    for number in range(60):
        check(rows[f"{number:04d}.png"], number)


@needs_pyarrow
def test_no_tensorflow_and_one_line_of_summary(tmp_path):
    photos = folder_of(tmp_path / "photos", 2)
    code = (
        "import sys, stand_in; stand_in.main(sys.argv[1:]);"
        " found = {'keras', 'tensorflow', 'jax', 'torch', 'ray'} & set(sys.modules);"
        " assert not found, found"
    )
    command = [sys.executable, "-c", code, tmp_path / "out", "0", photos]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 images in ") and "2 objects" in done.stdout


# ---- Other places --------------------------------------------------------------------------------


@needs_pyarrow
def test_places_of_pyarrow(tmp_path, monkeypatch):
    """pyarrow's own local file system stands in for a store: folders, globs, tables, output."""
    from pyarrow import fs

    store = tmp_path / "store"
    store.mkdir()
    system = fs.SubTreeFileSystem(str(store), fs.LocalFileSystem())
    remote = places.RemoteFiles(system, "bucket", "s3://bucket")
    monkeypatch.setitem(places._REMOTES, ("s3://bucket", ""), remote)
    for number in range(5):
        write(store / "bucket" / "photos" / "deep" / f"{number}.png", number)
    write(store / "bucket" / "photos" / "5.png", 5)
    (store / "bucket" / "photos" / "a.txt").write_text("")
    pq.write_table(pa.table({"path": ["photos/deep/0.png"]}), store / "bucket" / "t.parquet")
    assert batch.run(Recipe(), ["s3://bucket/photos"], "s3://bucket/out", part_size=4).images == 6
    rows = by_name("s3://bucket/out")
    assert rows["3.png"][0] == "s3://bucket/photos/deep/3.png"
    for number in range(6):
        check(rows[f"{number}.png"], number)
    assert batch.run(Recipe(), ["s3://bucket/photos"], "s3://bucket/out").before == 6
    sources = ["s3://bucket/photos/**/[2-9].png", "s3://bucket/t.parquet"]
    batch.run(Recipe(), sources, tmp_path / "out")
    rows = by_name(tmp_path / "out")
    assert sorted(rows) == ["0.png", *(f"{n}.png" for n in range(2, 6))]
    check(rows["0.png"], 0)
    missing = ["s3://bucket/photos/gone.png"]
    with pytest.raises(FileNotFoundError, match=missing[0]):
        batch.run(Recipe(), missing, tmp_path / "out2")
    with pytest.raises(ValueError, match="An address is one that pyarrow opens.*nowhere://x"):
        batch.run(Recipe(), ["nowhere://x/y"], tmp_path / "out3")


@pytest.fixture
def bucket(monkeypatch):
    """(a file system, options of an address) of an S3 server here that has a bucket "photos"."""
    pytest.importorskip("moto")
    from pyarrow import fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{opened.getsockname()[1]}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", place.split(":")[1]]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    options = {"endpoint_override": place, "scheme": "http", "region": "us-east-1"}
    system = fs.S3FileSystem(**options, allow_bucket_creation=True)
    deadline = time.monotonic() + 60
    try:
        while True:
            try:
                system.create_dir("photos")
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.2)
        yield system, "?" + "&".join(f"{name}={value}" for name, value in options.items())
    finally:
        server.kill()
        server.wait()


@needs_pyarrow
@pytest.mark.long
def test_s3(bucket, tmp_path):
    """A bucket's images, globs and tables into another of its folders, killed and started again."""
    system, options = bucket
    for number in range(12):
        with system.open_output_stream(f"photos/a/{number % 2}/{number:02d}.png") as file:
            file.write(content(number, tmp_path))
    with system.open_output_stream("photos/a/0/broken.png") as file:
        file.write(b"no image")
    table = pa.table({"image": [content(20, tmp_path), content(21, tmp_path)], "id": ["x", "y"]})
    with system.open_output_stream("photos/t.parquet") as file:
        pq.write_table(table, file)
    output = f"s3://photos/out{options}"
    sources = [f"s3://photos/a/**/*.png{options}", f"s3://photos/t.parquet{options}"]
    command = [sys.executable, TESTS / "stand_in.py", output, ".1", *sources, "--part-size=4"]
    process = subprocess.Popen(
        command, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    first = "photos/out/part-000000.parquet"
    deadline = time.monotonic() + 60
    while system.get_file_info(first).size is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    text = process.communicate()[0].decode()
    assert process.returncode == -9, text
    done = batch.run(Recipe(), sources, output, part_size=4)
    assert done.images == 15 and done.errors == 1 and done.before >= 4
    rows = by_name(output)
    assert len(rows) == 15 and rows["00.png"][0] == "s3://photos/a/0/00.png"
    for number in range(12):
        check(rows[f"{number:02d}.png"], number)
    assert "broken.png" in str(rows["broken.png"][2])
    check(rows["x"], 20)
    check(rows["y"], 21)


# ---- Columns of a pipeline -----------------------------------------------------------------------


def rows_by_name(output):
    """{name of a file: row} of a batch's output."""
    rows = pq.ParquetDataset(sorted(str(path) for path in output.glob("part-*"))).read()
    return {pathlib.Path(row["image"]).name: row for row in rows.to_pylist()}


def columns_of(folder, count=5):
    """{column: array} of images as Ray Data reads them, and the paths of their files."""
    paths = sorted(folder_of(folder, count).iterdir())
    pixels = np.empty(count, object)
    for number, path in enumerate(paths):
        pixels[number] = np.array(Image.open(path))
    return {"image": pixels, "path": np.array([str(p) for p in paths]), "label": np.arange(count)}


@needs_pyarrow
def test_columns_are_what_a_batch_finds(tmp_path):
    """Pixels or bytes of files, with the other columns; names and boxes as in the files of `run`."""
    columns = columns_of(tmp_path / "photos")
    batch.run(Recipe(), [tmp_path / "photos"], tmp_path / "out")
    expected = rows_by_name(tmp_path / "out")
    files = [pathlib.Path(path).read_bytes() for path in columns["path"]]
    detect = batch.OnColumns(Recipe())
    for images in (columns["image"], np.array(files, object)):
        rows = detect({**columns, "image": images}).to_pylist()
        assert [row["label"] for row in rows] == [0, 1, 2, 3, 4]
        for row in rows:
            wanted = expected[pathlib.Path(row["image"]).name]
            assert wanted["scores"] and not wanted["error"]
            assert row == {**row, **wanted, "image": row["path"]}


@needs_pyarrow
def test_columns_that_results_have_too_are_named(tmp_path, caplog):
    on_columns = batch.OnColumns(Recipe())
    columns = {**columns_of(tmp_path), "boxes": [[[1, 2, 3, 4]]] * 5, "height": [1] * 5}
    for _ in range(2):
        table = on_columns(columns)
    assert table.column("boxes").to_pylist()[0] != [[1, 2, 3, 4]]
    assert caplog.text.count("those of the input are left out: boxes\n") == 1


@needs_pyarrow
def test_a_column_that_is_no_image_is_a_row_with_its_error(tmp_path):
    values = np.empty(5, object)
    values[0] = b"no image"
    values[1] = np.zeros((4, 4, 3))
    values[2] = "photo.jpg"
    values[3] = np.eye(4, 5, dtype=np.uint8) * 90
    values[4] = None
    table = batch.OnColumns(Recipe(), images="picture", names="file")(
        {"picture": values, "file": ["a", "b", "c", "d", "e"]}
    )
    rows = table.to_pylist()
    assert [row["error"] is None for row in rows] == [False, False, False, True, False]
    assert rows[1]["error"].endswith("Received: float64 of the shape (4, 4, 3)")
    assert rows[2]["error"].startswith("c: an image is") and "Received: str" in rows[2]["error"]
    assert (rows[3]["image"], rows[3]["height"], rows[3]["width"]) == ("d", 4, 5)


@needs_pyarrow
def test_columns_are_found_in_any_case_of_their_letters(tmp_path):
    """As in tables of `run`: a column "Path" has the names, though it is not spelled "path"."""
    columns = columns_of(tmp_path / "photos")
    capital = {name.capitalize(): values for name, values in columns.items()}
    table = batch.OnColumns(Recipe())(capital)
    assert table.column("image").to_pylist() == columns["path"].tolist()
    assert table.column_names[-2:] == ["Path", "Label"]


@needs_pyarrow
def test_columns_without_names_and_unknown_ones():
    detect = batch.OnColumns(Recipe())
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    assert detect({"image": pixels}).column("image").to_pylist() == [None, None]
    with pytest.raises(ValueError, match="images is 'image' or .*Received: columns 'pixels'"):
        detect({"pixels": pixels})
    with pytest.raises(ValueError, match="names is 'file'. Received: columns 'image'"):
        batch.OnColumns(Recipe(), names="file")({"image": pixels})
    with pytest.raises(ValueError, match="make is a function.*Received: str"):
        batch.OnColumns("model.onnx")


def test_columns_of_objects_are_no_bands():
    """For a network of many bands an array of any type went to the network."""
    with pytest.raises(ValueError, match="n: an image is .* Received: object of the shape"):
        batch._pixels(np.zeros((5, 6, 5), object), "n", True)
    bands = np.zeros((5, 6, 5), np.uint16)
    assert batch._pixels(bands, "n", True) is bands
