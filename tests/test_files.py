"""Json of any encoding; images found by names of other systems, servers and programs."""

import gzip
import json
import os
import time
import unicodedata

import pytest

from mrcnn import files

# ---- Json ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_in_any_unicode(tmp_path, encoding):
    path = tmp_path / "a.json"
    value = {"name": "caf\u00e9 \u732b", "number": [1, 2.5, None]}
    path.write_bytes(json.dumps(value, ensure_ascii=False).encode(encoding))
    assert files.read_json(path) == value
    assert files.read_json(path, pairs=list)[0] == ("name", "caf\u00e9 \u732b")


@pytest.mark.parametrize(
    "content, text",
    [
        (b"", "an empty file"),
        (b" \n", "an empty file"),
        (b"\0" * 64, "an empty file"),
        (b'{"a": [1, 2', "line 1 column 12.*breaks off"),
        (b'{"a": "b', "Unterminated string.*breaks off"),
        (b'{"a": 1,}', "a comma before a closing bracket"),
        (b'{"a": [1,\n ]}', "a comma before a closing bracket"),
        (b'// text\n{"a": 1}', "a comment"),
        (b'{"a": 1, /* text */ "b": 2}', "a comment"),
        (b'{"a": 1} # text', "a comment"),
        (b"{'a': 1}", "double quotes"),
        ('{"a": "\u732b\u72d7"}'.encode("gb2312"), "not UTF-8"),
        (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X", ""),
        (b"[" * 100_000, "within each other"),
        (b"1" * 5000, "Exceeds the limit"),
        (b"\x89PNG\r\n\x1a\n", "not UTF-8.* It is a PNG"),
        (gzip.compress(b'{"a": 1}', mtime=0), "not UTF-8.* It is a gzip file"),
        (b"PK\x03\x04abc", "It is a zip file"),
        (b"\n<!DOCTYPE html><p>log in</p>", "It is a web page"),
        (b'<?xml version="1.0"?><annotations>', "It is an XML file"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "It is a pointer of Git LFS"),
    ],
)
def test_what_is_no_json(tmp_path, content, text):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a.json: expected a json file. Received: .*{text}"):
        files.read_json(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_text_in_any_unicode(tmp_path, encoding):
    """PowerShell's `>` and spreadsheets write UTF-16."""
    path = tmp_path / "a.txt"
    path.write_bytes("0 0.5 \u732b\r\n".encode(encoding))
    assert files.read_text(path) == "0 0.5 \u732b\r\n"


def test_what_is_no_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("caf\u00e9 1".encode("latin1"))
    with pytest.raises(ValueError, match="a.txt: expected text in UTF-8. Received: 'utf-8' codec"):
        files.read_text(path)
    path.write_bytes(b"\xff\xd8\xff\xe0 1")
    with pytest.raises(ValueError, match="a.txt: expected text in UTF-8. Received: a JPEG"):
        files.read_text(path)
    with pytest.raises(ValueError, match="b.txt: expected text in UTF-8. Received: .*No such file"):
        files.read_text(tmp_path / "b.txt")


def test_no_json_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="No file .*a.json"):
        files.read_json(tmp_path / "a.json")
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path, tmp_path / "pipe.json"):
        with pytest.raises(ValueError, match="Received: a folder or a pipe"):
            files.read_json(path)


# ---- Images --------------------------------------------------------------------------------------


def photographs(folder, *names):
    """Files of those names, relative to the folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


E_ACUTE = "\u00e9"  # as one letter; macOS writes it as e and an accent


@pytest.mark.parametrize(
    "name, file",
    [
        (r"D:\work\a.jpg", "a.jpg"),
        (r"D:a.jpg", "a.jpg"),
        (r"\\server\share\a.jpg", "a.jpg"),
        (r"..\images\a.jpg", "a.jpg"),
        ("../images/a.jpg", "a.jpg"),
        ("/home/me/a.jpg", "a.jpg"),
        ("file:///C:/work/a.jpg", "a.jpg"),
        ("https://host/x/a.jpg", "a.jpg"),
        ("https://host/x/a.jpg?token=b.c&size=3", "a.jpg"),
        ("https://host/x/a.jpg#top", "a.jpg"),
        ("https://host/o/images%2Fmy%20photo.jpg?alt=media", "my photo.jpg"),
        ("https://host/get?id=7&file=a.jpg", "a.jpg"),
        ("/data/local-files/?d=work%5Cimages%5Ca.jpg", "a.jpg"),
        ("s3://bucket/a.jpg", "a.jpg"),
        ("my%20photo.jpg", "my photo.jpg"),
        ("my photo.jpg", "my%20photo.jpg"),
        ("my+photo.jpg", "my photo.jpg"),
        ("100%.jpg", "100%.jpg"),
        ("1a2b3c4d-a.jpg", "a.jpg"),
        ("/data/upload/3/1a2b3c4d-my_photo_1.jpg", "my photo (1).jpg"),
        ("550e8400-e29b-41d4-a716-446655440000_a.jpg", "a.jpg"),
        ("a.jpg", "1a2b3c4d-a.jpg"),
        ("a.JPG", "a.jpg"),
        ("A.jpg", "a.JPG"),
        ("a.jpg", "a.jpeg"),
        ("a.png", "a.jpg"),
        ("a", "a.jpg"),
        ("frame.001", "frame.001.png"),
        ("a.jpg ", "a.jpg"),
        ("a.jpg", "deep/below/a.jpg"),
        ("caf" + E_ACUTE + ".jpg", unicodedata.normalize("NFD", "caf" + E_ACUTE + ".jpg")),
        (unicodedata.normalize("NFD", "caf" + E_ACUTE + ".jpg"), "caf" + E_ACUTE + ".jpg"),
        ("images/a.jpg", r"images\a.jpg"),  # a zip packed on Windows
    ],
)
def test_other_names(tmp_path, name, file):
    photographs(tmp_path, file, "other.jpg", "other.png", "a.json", "masks/a.jpg", ".a.jpg")
    photographs(tmp_path, "._a.jpg", "a.mp4")
    assert files.find_image(tmp_path, name) == str(tmp_path / file)
    found = files.find_images([name], [tmp_path])
    assert not found.problems
    if name != file:
        assert found.renamed == {name: str(tmp_path / file)}
        assert found.renamed_text().startswith("1 images are not there under the names")
        assert f"{name!r} is {tmp_path / file}" in found.renamed_text()


@pytest.mark.parametrize("name", ["a.jpg", r"sub\b.jpg", "sub/b.jpg", "./a.jpg", "sub/../a.jpg"])
def test_literal_names(tmp_path, name):
    photographs(tmp_path, "a.jpg", "A.jpg", "sub/a.jpg", "sub/b.jpg", "b.jpg")
    found = files.find_images([name], [tmp_path])
    assert os.path.samefile(found.paths[name], tmp_path / name.replace("\\", "/"))
    assert not found.renamed and not found.problems and found.renamed_text() == ""


@pytest.mark.parametrize(
    "name",
    [
        *("b.jpg", "a.json", "20200101-a.jpg", "c (1).jpg", "()", "a\0.jpg", "\ud800.jpg"),
        *("", ".", "..", "sub", "x" * 5000, "http://[", "?", "%", "a.jpg/"),
    ],
)
def test_names_without_a_file(tmp_path, name):
    """Masks, videos, hidden files, other dates and numbers are no file of that name."""
    photographs(tmp_path, "20200102-a.jpg", "masks/b.jpg", "b.json", "b.mp4", ".b.jpg", "c_1.jpg")
    photographs(tmp_path, "sub/!.jpg")
    found = files.find_images([name], [tmp_path])
    assert not found.paths
    assert found.problems[name].startswith("expected its file. Received: ")


@pytest.mark.parametrize(
    "file",
    [
        *("labels/q.png", "label/q.png", "Annotations/q.png", "annotations/q.jpg", "seg/q.png"),
        *("mattes/q.png", "depth/q.png", "png_masks/q.png", "masks_png/q.png", "gtFine/q.png"),
        *("SegmentationClassPNG/q.png", "alpha/q.png", "color_labels/q.png", "overlay/q.jpg"),
        *("semantic-segmentation/q.png", "train_masks/q.jpg", "mask_images/q.png", "masks1/q.png"),
        *("anything/q.png", "train/anything/q.png", "images/x/q.png", "images/labels/q.png"),
    ],
)
def test_labels_are_not_taken_for_photographs(tmp_path, file):
    """q.jpg is missing, and what has its base name is no photograph, or may as well be none."""
    photographs(tmp_path, file)
    assert files.find_image(tmp_path, "q.jpg") is None


@pytest.mark.parametrize(
    "name, file",
    [
        ("q.jpg", "images/train2017/q.png"),
        ("q.jpg", "Images/valid/q.png"),
        ("q.jpg", "train_set/q.png"),
        ("cam1/q.jpg", "cam1/q.png"),
        (r"D:\x\cam1\q.jpg", "data/cam1/q.png"),
        ("q.jpg", "with_mask/q.jpg"),
        ("q", "anything/q.jpg"),
        ("q.jpg", "labeled images/q.jpg"),
        ("q.jpg", "test_images/q.jpg"),
        ("q.jpg", "normal/edges/q.jpg"),
    ],
)
def test_photographs_in_sub_folders(tmp_path, name, file):
    photographs(tmp_path, file, "labels/q.png")
    assert files.find_image(tmp_path, name) == str(tmp_path / file)


def test_folders_without_end(tmp_path):
    """Only so many within each other are looked into."""
    deep = "/".join("abcdefgh"[: files.DEEPEST_IMAGES])
    photographs(tmp_path, f"{deep}/q.jpg", f"{deep}/x/r.jpg")
    found = files.find_images([r"D:\q.jpg", r"D:\r.jpg"], [tmp_path])
    assert list(found.paths.values()) == [str(tmp_path / deep / "q.jpg")]


def test_words_of_messages():
    assert files.several(range(7)) == "0, 1, 2, 3, 4 and 2 more"
    assert files.several(iter("ab"), 2) == "a, b" and files.several([]) == ""
    assert files.short("x" * 10**7).startswith("'xxx") and len(files.short("x" * 10**7)) == 80
    start = time.monotonic()
    assert len(files.short([[1.5] * 100] * 10**6)) == 80
    assert time.monotonic() - start < 5  # the whole text would take 17 s
    assert files.short({"a": [1]}) == "{'a': [1]}"


def test_ambiguous_names(tmp_path):
    """Folders that agree with the name's decide; without them all candidates are named."""
    photographs(
        tmp_path, "x/cam1/0.jpg", "x/cam2/0.jpg", "y/b.jpg", "z/B.JPG", "z/c.jpg", "z/C.jpg"
    )
    names = [r"D:\cam2\0.jpg", "https://h/x/cam1/0.jpg", "0.jpg", r"q\b.jpg", "c.JPG"]
    found = files.find_images(names, [tmp_path])
    assert found.paths == {
        names[0]: str(tmp_path / "x/cam2/0.jpg"),
        names[1]: str(tmp_path / "x/cam1/0.jpg"),
        names[3]: str(tmp_path / "y/b.jpg"),
    }
    for name, one, two in (("0.jpg", "x/cam1/0.jpg", "x/cam2/0.jpg"), ("c.JPG", "z/C", "z/c")):
        assert "expected one file of that name. Received: 2, " in found.problems[name]
        assert str(tmp_path / one) in found.problems[name]
        assert str(tmp_path / two) in found.problems[name]
    assert files.find_image(tmp_path, "0.jpg") is None


def test_names_that_mean_one_file(tmp_path):
    """The surest keeps it; what is only said in other signs is the same name."""
    photographs(tmp_path, "a.jpg", "cam1/b.jpg", "c.jpg")
    names = ["a.jpg", r"D:\a.jpg", r"old\cam1\b.jpg", "cam2/b.jpg", "x/c.jpg", "y/c.jpg"]
    found = files.find_images(names, [tmp_path])
    assert list(found.paths) == ["a.jpg", r"old\cam1\b.jpg"]
    assert f"only {tmp_path / 'a.jpg'}, which is also that of 'a.jpg'" in found.problems[names[1]]
    assert list(found.problems) == [names[1], *names[3:]]
    found = files.find_images([r"x\c.jpg", "x/c.jpg", "./x/c.jpg"], [tmp_path])
    assert set(found.paths.values()) == {str(tmp_path / "c.jpg")} and not found.problems


def test_what_is_no_file(tmp_path):
    """A folder, a pipe and a socket under an image's name are not opened."""
    photographs(tmp_path, "d.jpg/x.txt")
    os.mkfifo(tmp_path / "pipe.jpg")
    found = files.find_images(["d.jpg", "pipe.jpg", "PIPE.jpg"], [tmp_path])
    assert not found.paths
    assert found.problems["pipe.jpg"].endswith(f"{tmp_path / 'pipe.jpg'}, which is no file")
    assert (
        files.find_images(["a.jpg"], [tmp_path / "none"])
        .problems["a.jpg"]
        .endswith(f"there is no folder {tmp_path / 'none'}")
    )


def test_folders_in_turn(tmp_path, monkeypatch):
    """Literally in any folder comes before a base name; the current folder is one too."""
    photographs(tmp_path, "one/A.jpg", "two/a.jpg", "two/b.jpg")
    folders = [tmp_path / "one", tmp_path / "two"]
    found = files.find_images(["a.jpg", "x/b.jpg"], folders)
    assert found.paths == {
        "a.jpg": str(tmp_path / "two/a.jpg"),
        "x/b.jpg": str(tmp_path / "two/b.jpg"),
    }
    monkeypatch.chdir(tmp_path / "two")
    assert files.find_images(["a.jpg", r"D:\b.jpg"], [""]).paths == {
        "a.jpg": "a.jpg",
        r"D:\b.jpg": "b.jpg",
    }


def test_other_spellings(tmp_path):
    """An address or a folder that the annotations name beside the file's name."""
    photographs(tmp_path, "a.jpg", "images/b.jpg", "train/c.jpg", "c.jpg", "d.jpg")
    others = {
        "x": ["https://h/a.jpg?size=3"],
        "b.jpg": ["images/b.jpg"],
        "train/c.jpg": ["c.jpg"],
        "1/d.jpg": ["d.jpg"],
        "2/d.jpg": ["d.jpg"],
    }
    found = files.find_images(list(others), [tmp_path], others)
    assert found.renamed == {"x": str(tmp_path / "a.jpg")}
    assert found.paths["b.jpg"] == str(tmp_path / "images/b.jpg")
    assert found.paths["train/c.jpg"] == str(tmp_path / "train/c.jpg")
    assert list(found.problems) == ["1/d.jpg", "2/d.jpg"]


def test_links_in_a_circle(tmp_path):
    photographs(tmp_path, "sub/a.jpg")
    os.symlink(tmp_path, tmp_path / "sub" / "again")
    assert files.find_image(tmp_path, r"D:\a.jpg") == str(tmp_path / "sub/a.jpg")


def test_many_names(tmp_path):
    """Each folder is listed once: thousands of names of another system in a second."""
    photographs(tmp_path, *(f"{number}.jpg" for number in range(500)))
    names = [rf"D:\work\{number}.JPG" for number in range(5000)]
    start = time.monotonic()
    found = files.find_images(names, [tmp_path])
    assert len(found.paths) == 500 and len(found.problems) == 4500
    assert time.monotonic() - start < 5
    assert "500 images" in found.renamed_text() and len(found.renamed_text()) < 1500
    names = [f"{number}.jpg" for number in range(600)]
    assert list(files.find_images(names, [tmp_path]).paths) == names[:500]


def test_a_missing_package_is_told_by_the_name_it_is_installed_by():
    for module, package in (("no_such.part", "no_such"), ("skimage", "scikit-image")):
        error = ModuleNotFoundError(f"No module named {module!r}", name=module)
        assert files.in_words(error).endswith(f"pip install {package}")
    for error in (ImportError("needs x: pip install x"), ValueError("No module named 'x'")):
        assert files.in_words(error) == str(error)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_first_line(tmp_path, encoding):
    path = tmp_path / "x.csv"
    path.write_bytes("Größe,b\r\nc".encode(encoding))
    assert files.first_line(path) == "Größe,b"


def test_first_line_of_other_files(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "image").write_bytes(bytes([137, 80, 78, 71, 200, 10, 3]))
    assert files.first_line(tmp_path / "empty") == ""
    assert files.first_line(tmp_path) == files.first_line(tmp_path / "missing") == ""
    assert files.first_line(tmp_path / "image").startswith("\ufffdPNG")


def test_several_items_can_be_printed():
    """Half of a pair in a damaged json: the warning with it ended in "--- Logging error ---"."""
    assert files.several(["a", "\ud800", "é"], 2) == "a, \\ud800 and 1 more"
    files.several(["x\udfff"]).encode()


def test_folders_in(tmp_path):
    for name in ("b", "a", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("")
    assert files.folders_in(str(tmp_path)) == ["a", "b"]
    assert (
        files.folders_in(str(tmp_path / "missing")) == files.folders_in(str(tmp_path / "a")) == []
    )
