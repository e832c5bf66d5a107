"""Whole files or none, json, images by their annotated names, downloads, progress on a terminal."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import ntpath
import os
import pathlib
import re
import reprlib
import shutil
import sys
import tempfile
import unicodedata
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

PathLike = str | os.PathLike

# Errors of writing for which the system names no file: a full disk, a quota, a limit on files.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Bytes that a compressed file may always unpack to, and so many times its own size beyond them.
_UNPACKED_BYTES = 1 << 30
_UNPACKED_RATIO = 20


class UnreadableFileError(ValueError):
    """A file that can't be read; the message names it."""


@contextlib.contextmanager
def naming_errors(path: PathLike, kind: str) -> Iterator[None]:
    """Turns whatever reading a damaged file raises into an `UnreadableFileError` that names it.

    Args:
        path: the file that is read in the block.
        kind: what it should be: "a readable HDF5 file".
    """
    try:
        yield
    except UnreadableFileError:
        raise
    except Exception as error:
        # A mutated byte makes the libraries raise almost anything: OSError, KeyError, RuntimeError,
        # UnicodeDecodeError, MemoryError, zlib.error. It is always the file that is to blame.
        message = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableFileError(f"{path} is not {kind}: {message[:300]}") from error


def check_unpacked_size(path: PathLike, unpacked: int) -> None:
    """Raises an `UnreadableFileError` for a file that would fill the memory when it is unpacked.

    Args:
        path: a file with compressed parts.
        unpacked: bytes that they say they hold.
    """
    stored = os.path.getsize(path)
    if unpacked > max(_UNPACKED_BYTES, _UNPACKED_RATIO * stored):
        raise UnreadableFileError(
            f"{path} has {stored / 1e6:.1f} MB and would unpack to {unpacked / 1e9:.1f} GB: it is"
            " damaged, or made to fill the memory"
        )


# Keras tells its own layout of weights by this ending.
KERAS_WEIGHTS = ".weights.h5"


@contextlib.contextmanager
def atomic(path: PathLike) -> Iterator[str]:
    """A temporary path beside `path` that takes its place when the block ends without an error.

    Raises:
        OSError: of a full disk, or a file beyond a limit, it names `path`; what lay there stays.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix
    if path.name.endswith(KERAS_WEIGHTS):
        suffix = KERAS_WEIGHTS
    handle, temporary = tempfile.mkstemp(
        dir=path.parent, prefix="." + path.name, suffix=".part" + suffix
    )
    os.close(handle)
    try:
        with naming_full_disk(path):
            yield temporary
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


@contextlib.contextmanager
def naming_full_disk(path: PathLike) -> Iterator[None]:
    """Lets an OSError of a full disk name the file that is written in the block."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL and error.filename is None:
            # HDF5's own text is of several lines and names the temporary file.
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


@contextlib.contextmanager
def atomic_together(paths: Iterable[PathLike]) -> Iterator[list[str]]:
    """Temporary paths of files that belong together: all take their places at the end, or none."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(atomic(path)) for path in paths]


def at_home(value: Any) -> Any:
    """A path ~/photos as that of the user's folder, lists of them too; other values as they are.

    No shell does this behind an option's equals sign: --dataset=~/photos.
    """
    if isinstance(value, list):
        return [at_home(item) for item in value]
    if isinstance(value, str) and value.startswith("~/") and not os.path.exists(value):
        return os.path.expanduser(value)
    return value


# ---- Text and json -------------------------------------------------------------------------------

# How files begin that lie where others were expected, and what they are.
_BEGINNINGS = (
    (b"version https://git-lfs", "a pointer of Git LFS: `git lfs pull` fetches the file itself"),
    (b"\x1f\x8b", "a gzip file, which is to be unpacked first"),
    (b"PK\x03\x04", "a zip file, which is to be unpacked first"),
    (b"Rar!", "a RAR file, which is to be unpacked first"),
    (b"7z\xbc\xaf", "a 7z file, which is to be unpacked first"),
    (b"%PDF", "a PDF"),
    (b"\x93NUMPY", "an array of numpy"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\xff\xd8\xff", "a JPEG"),
    (b"\x89PNG", "a PNG"),
    (b"SQLite", "an SQLite database"),
)
_SIGNS_BELOW = (
    (4, b"ftyphe", "a HEIC photograph: pip install pillow-heif"),
    (4, b"ftypmif1", "a HEIC photograph: pip install pillow-heif"),
    (4, b"ftypmsf1", "a HEIC photograph: pip install pillow-heif"),
    (4, b"ftypavi", "an AVIF picture, which this version of Pillow can't read"),
    (4, b"ftyp", "a video"),
    (128, b"DICM", "a DICOM file"),
)


# Packages that are called otherwise than the module that is imported.
_PACKAGES = {"skimage": "scikit-image", "PIL": "pillow", "cv2": "opencv-python-headless"}


def in_words(error: BaseException) -> str:
    """An error's text; of a module that isn't there which package has it."""
    text = str(error)
    name = getattr(error, "name", None) or ""
    if not isinstance(error, ImportError) or text != f"No module named {name!r}":
        return text
    package = name.split(".")[0]
    package = _PACKAGES.get(package, package)
    return f"this needs {package}, which isn't installed: pip install {package}"


def what_it_is(path: PathLike) -> str:
    """What a file is that could not be read as something else; see `what_begins_with`."""
    try:
        with open(path, "rb") as file:
            return what_begins_with(file.read(256))
    except OSError:
        return ""


def what_begins_with(beginning: bytes) -> str:
    """What a file is by its first bytes; "" for unknown.

    An empty file, a pointer of Git LFS, a web page, a zip: what lies there instead after a download
    that went wrong.
    """
    if not beginning:
        return "an empty file"
    if not beginning.strip(b"\0"):
        return "a file of zeros, as a broken copy leaves it"
    for signs, kind in _BEGINNINGS:
        if beginning.startswith(signs):
            return kind
    for place, signs, kind in _SIGNS_BELOW:
        if beginning[place:].startswith(signs):
            return kind
    text = beginning.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page, as a server answers in place of a file"
    if b"<svg" in text:
        return "an SVG, a drawing without pixels"
    if text.startswith(b"<"):
        return "an XML file"
    return ""


def read_text(path: PathLike) -> str:
    """A text file's content, of UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises:
        ValueError: no such file, or no such text; the message names it.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
        return content.decode(json.detect_encoding(content))
    except UnicodeDecodeError as error:
        reason = what_it_is(path) or str(error)
    except OSError as error:
        reason = str(error)
    raise ValueError(f"{path}: expected text in UTF-8. Received: {reason}")


def read_json(
    path: PathLike,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """What a json file holds, of UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Args:
        path: the file.
        pairs: makes an object of its pairs (key, value), see `json.loads`; None: a dict.

    Raises:
        FileNotFoundError: no such file. ValueError: no file, or no json; the message names it and
            says where it breaks off, or that it has comments, which json has not.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"No file {path}")
    if not os.path.isfile(path):
        raise ValueError(f"{path}: expected a json file. Received: a folder or a pipe")
    try:
        with open(path, "rb") as file:
            content = file.read()
        return json.loads(content.decode(json.detect_encoding(content)), object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        reason = f"{_why_no_json(error)}{_also(path)}"
    except UnicodeDecodeError as error:
        reason = f"text that is not UTF-8 (save it as such), or no text: {error}{_also(path)}"
    except RecursionError:
        reason = "lists or objects within each other, more than Python reads"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise ValueError(f"{path}: expected a json file. Received: {reason}")


def plain_value(value: Any) -> Any:
    """A number of numpy, or an array, or the runs of pycocotools, for json: its `default`."""
    if isinstance(value, bytes):
        return value.decode()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"json has no {type(value).__name__}")


def _also(path: PathLike) -> str:
    """What a message adds where the first bytes of a file tell what it is."""
    kind = what_it_is(path)
    if kind and kind != "an empty file":  # of which it is said already
        return f". It is {kind}"
    return ""


def _why_no_json(error: json.JSONDecodeError) -> str:
    """What is wrong with a json's text, in the words of who wrote it."""
    text = error.doc
    rest = text[error.pos :].lstrip()
    if not text.strip("\0 \r\n\t"):
        return f"an empty file: {error}"
    if rest.startswith(("//", "/*", "#")):
        return f"a comment, which json has not: {error}"
    if re.match(r",?\s*[}\]]", rest) and text[: error.pos + 1].rstrip("}] \r\n\t").endswith(","):
        return f"a comma before a closing bracket, which json has not: {error}"
    if not rest or error.msg.startswith("Unterminated string"):
        return f"{error}; the file breaks off"
    return str(error)


# ---- Image files by their annotated names --------------------------------------------------------

# Endings of image files. A folder that holds images has other files too: json, text, videos.
IMAGE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".tif", ".tiff", ".webp"),
        *(".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".j2k", ".jpx", ".avif"),
        *(".heic", ".heif", ".ico", ".pcx", ".mpo", ".sgi"),
    )
)
# Names of folders that exports keep images in, beside or above the annotations.
IMAGE_FOLDERS = ("images", "Images", "image", "imgs", "img", "JPEGImages", "photos", "data")
# Folders of photographs within those: subsets, with a year or without one.
SUBSET_FOLDER = re.compile(r"(train|training|val|valid|validation|test|testing)([-_]?set)?[-_]?\d*")
# Folders within each other, below the one that is named, in which a json is looked for; images
# may lie some deeper, in images/train/2024/camera 1.
DEEPEST = 3
DEEPEST_IMAGES = DEEPEST + 2
# Sub-folders whose pictures have the photographs' names and are none.
NO_PHOTOGRAPHS = re.compile(
    r"((instance|semantic|panoptic|binary|object|class|colou?r|alpha|png|gt|train|val|test)[-_ ]?)*"
    r"(masks?|labels?|labelids|annotations?|seg(s|ment(s|ation|ations)?)?|gt(s|fine|coarse)?"
    r"|ground[-_ ]?truths?|trimaps?|mattes?|alphas?|depths?|disparit(y|ies)|panoptic|overlays?)"
    r"([-_ ]?(class|object|maps?|images?|png|raw|vis|visuali[sz]ations?|colou?r|[0-9]+))*"
    r"|previews?|thumb(nail)?s?|heat[-_ ]?maps?|__macosx|@eadir|node_modules|\$recycle\.bin"
)
# What a server puts before the name of an uploaded file: 8 hexadecimal digits (Label Studio), 32 of
# them or a UUID. A date of 8 digits is part of the name.
UPLOAD_PREFIX = re.compile(
    r"(?!(19|20)\d\d[01]\d[0-3]\d[-_])"
    r"([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}|[0-9a-f]{8})[-_](?=.)"
)
# How a file is found, the surest first: see `find_images`.
LITERALLY, SAME_NAME, OTHER_CASE, UPLOADED, OTHER_SUFFIX = range(5)


@dataclasses.dataclass
class FoundImages:
    """Files of annotated names.

    Attributes:
        paths: {name: path}, of files that exist.
        renamed: {name: path}, those of them that are not there literally.
        problems: {name: why it has no path}, "expected ... Received: ...".
        unclear: those of them for which there are files, but not one that is theirs alone.
    """

    paths: dict[str, str]
    renamed: dict[str, str]
    problems: dict[str, str]
    unclear: dict[str, str] = dataclasses.field(default_factory=dict)

    def renamed_text(self, limit: int = 5) -> str:
        """What a warning says of `renamed`; an empty text where there are none."""
        if not self.renamed:
            return ""
        pairs = [f"{name!r} is {path}" for name, path in list(self.renamed.items())[:limit]]
        if len(self.renamed) > limit:
            pairs.append(f"{len(self.renamed) - limit} more")
        text = (
            f"{len(self.renamed)} images are not there under the names that are annotated and were"
            f" found by their base names: {'; '.join(pairs)}"
        )
        return text.encode("utf-8", "backslashreplace").decode()  # a name may be no text


def find_images(
    names: Iterable[str],
    folders: Sequence[PathLike],
    others: Mapping[str, Sequence[str]] | None = None,
) -> FoundImages:
    """The files of images that annotations name; each folder is listed once.

    A name is taken as it stands (with / or \\), from the first folder that has it. Else a file with
    its base name is looked for in the folders and their sub-folders, in this order: the same name;
    in other case or another Unicode form; with the prefix of an upload, or without it; of another
    image format, in the folders themselves and those of photographs. URLs are decoded, and their
    queries are looked into. Of several files that one counts whose folders agree with most of the
    name's. Several that agree equally, and several names that mean one file, are problems. Videos,
    folders and pipes are no images.

    Args:
        names: as they are annotated: paths of any system, or URLs.
        folders: where the images are, the likeliest first.
        others: {name: more names that the file may have}, such as its address.
    """
    names = list(dict.fromkeys(names))
    others = others or {}
    places = dict.fromkeys(os.fspath(folder) for folder in folders)
    listed = [_ImageFolder(folder) for folder in places]
    paths: dict[str, str] = {}
    ranks: dict[str, tuple[int, int]] = {}
    problems: dict[str, str] = {}
    unclear: dict[str, str] = {}
    for name in names:
        spellings = [name, *others.get(name, ())]
        place, path = _literally(spellings, listed)
        if path is not None:
            paths[name] = path
            ranks[name] = (LITERALLY, place)
            continue
        step, agreeing, files = _by_base_name(spellings, listed)
        if len(files) == 1:
            paths[name] = files[0]
            ranks[name] = (step, -agreeing)
        elif files:
            unclear[name] = (
                f"expected one file of that name. Received: {len(files)}, {several(files)}"
            )
        else:
            problems[name] = f"expected its file. Received: {_not_there(name, listed)}"
    unclear.update(_claimed_twice(paths, ranks))
    problems.update(unclear)
    for name in problems:
        paths.pop(name, None)
    renamed = {name: path for name, path in paths.items() if ranks[name][0] != LITERALLY}
    return FoundImages(paths, renamed, problems, unclear)


def find_image(folder: PathLike, name: str) -> str | None:
    """The file of one annotated name in a folder, None without a single one; see `find_images`."""
    return find_images([name], [folder]).paths.get(name)


def is_image_name(name: PathLike) -> bool:
    """Whether a file's name is that of an image; not of a hidden one, such as macOS's ._a.jpg."""
    base = os.path.basename(os.fspath(name))
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in IMAGE_SUFFIXES


class _ImageFolder:
    """The files of a folder; its sub-folders are listed when a name is not there literally."""

    # Names that are asked for one by one; from then on a folder is listed, which is faster.
    FEW = 50

    def __init__(self, folder: str):
        self.folder = folder
        self.exists = os.path.isdir(folder or ".")
        self._asked = 0
        self._listings: dict[str, set[str]] = {}
        self._index: _ImageIndex | None = None

    def literal(self, name: str) -> str | None:
        """The path of a file with that name, None if there is none."""
        for spelled in dict.fromkeys((name, name.replace("\\", "/"))):
            path = os.path.join(self.folder, spelled)
            if self._is_file(path):
                return path
        return None

    def _is_file(self, path: str) -> bool:
        self._asked += 1
        if self._asked <= self.FEW:
            return os.path.isfile(path)
        folder, base = os.path.split(path)
        if folder not in self._listings:
            self._listings[folder] = set(_files_in(folder))
        return base in self._listings[folder]

    def index(self) -> "_ImageIndex":
        """The image files of the folder and its sub-folders."""
        if self._index is None:
            self._index = _ImageIndex(self.folder)
        return self._index


def _files_in(folder: str) -> Iterator[str]:
    """Names of the files that lie in a folder; none where there is no folder."""
    try:
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                if entry.is_file():
                    yield entry.name
    except (OSError, ValueError):  # a name that no folder can have
        return


class _ImageIndex:
    """Image files of a folder and its sub-folders by their base names.

    Each dict is {key: paths relative to the folder}.
    """

    def __init__(self, folder: str):
        self.by_name: dict[str, list[str]] = {}
        self.by_plain: dict[str, list[str]] = {}
        self.by_upload: dict[str, list[str]] = {}
        self.by_original: dict[str, list[str]] = {}
        self.by_stem: dict[str, list[str]] = {}
        for relative in sorted(walk_images(folder)):
            # A zip that was packed on Windows may have left backslashes in the files' names.
            base = ntpath.basename(relative)
            plain = _plain(urllib.parse.unquote(base))  # a download may be named as in its address
            upload = _as_uploaded(plain)
            original = UPLOAD_PREFIX.sub("", upload, count=1)
            self.by_name.setdefault(base, []).append(relative)
            self.by_plain.setdefault(plain, []).append(relative)
            self.by_upload.setdefault(upload, []).append(relative)
            self.by_stem.setdefault(_stem(plain), []).append(relative)
            if original != upload:
                self.by_original.setdefault(original, []).append(relative)

    def find(self, base: str, step: int) -> list[str]:
        """The files that a base name means at a step, `SAME_NAME` to `OTHER_SUFFIX`."""
        if step == SAME_NAME:
            return self.by_name.get(base, [])
        plain = _plain(base)
        if step == OTHER_CASE:
            return self.by_plain.get(plain, [])
        if step == OTHER_SUFFIX:
            return self.by_stem.get(_stem(plain), [])
        upload = _as_uploaded(plain)
        original = UPLOAD_PREFIX.sub("", upload, count=1)
        if original != upload:
            return self.by_upload.get(original, [])
        return self.by_original.get(upload, [])


def walk_images(folder: str) -> Iterator[str]:
    """Paths of the image files of a folder and its sub-folders, relative to it.

    Hidden ones and folders that hold masks are left out, and those more than DEEPEST_IMAGES below.
    Links to folders are followed, once.
    """
    seen = set()
    waiting = [("", 0)]
    while waiting:
        place, depth = waiting.pop()
        try:
            status = os.stat(os.path.join(folder or ".", place))
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(os.path.join(folder or ".", place)) as listing:
                entries = list(listing)
        except OSError:  # a folder that may not be read, or is gone
            continue
        for entry in entries:
            relative = os.path.join(place, entry.name)
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if depth < DEEPEST_IMAGES and not NO_PHOTOGRAPHS.fullmatch(entry.name.lower()):
                    waiting.append((relative, depth + 1))
            elif is_image_name(entry.name) and entry.is_file():
                yield relative


def _plain(base: str) -> str:
    """A base name without its case and its Unicode form (macOS splits letters from accents)."""
    return unicodedata.normalize("NFC", base).casefold()


def _as_uploaded(plain: str) -> str:
    """A name as servers keep it: a space is an underscore, other signs are dropped."""
    return re.sub(r"[^\w.-]", "", plain.replace(" ", "_"))


def _stem(plain: str) -> str:
    """A base name without the ending of an image."""
    stem, suffix = os.path.splitext(plain)
    if suffix in IMAGE_SUFFIXES:
        return stem
    return plain


def _readings(name: str) -> list[str]:
    """The paths that an annotated name may mean: itself, a URL's path, values of its query."""
    if not re.search(r"[%?+#]", name):
        return [name]
    path, _, query = name.partition("?")
    path = path.partition("#")[0]
    texts = [name, path, urllib.parse.unquote(path), urllib.parse.unquote_plus(path)]
    for pair in re.split("[&;]", query):
        value = urllib.parse.unquote_plus(pair.partition("=")[2])
        if _stem(value.lower()) != value.lower():
            texts.append(value)
    return list(dict.fromkeys(texts))


def means_image(name: str) -> bool:
    """Whether an annotated name, a path or an address, is that of an image file."""
    return any(is_image_name(reading) for reading in _readings(name))


def _parts(path: str) -> list[str]:
    """The folders of a path and its base name, each as `_plain`."""
    return [part for part in re.split(r"[/\\]+", _plain(path)) if part not in ("", ".")]


def _literally(
    names: Sequence[str],
    folders: Sequence[_ImageFolder],
) -> tuple[int, str | None]:
    """(place of the name, path) of the first name that is there as it stands; path None: none."""
    for place, name in enumerate(names):
        for folder in folders:
            path = folder.literal(name)
            if path is not None:
                return place, path
    return 0, None


def _by_base_name(
    names: Sequence[str],
    folders: Sequence[_ImageFolder],
) -> tuple[int, int, list[str]]:
    """(step, folders that agree, paths) of the files with the base name; one path if it is clear.

    names: of one image.
    """
    texts = dict.fromkeys(text for name in names for text in _readings(name))
    readings = [(text, ntpath.basename(text.rstrip("/\\ ")).strip()) for text in texts]
    for step in (SAME_NAME, OTHER_CASE, UPLOADED, OTHER_SUFFIX):
        for folder in folders:
            most = -1
            best: list[str] = []
            for text, base in readings:
                files = folder.index().find(base, step)
                if step == OTHER_SUFFIX and _stem(base.lower()) != base.lower():
                    files = [file for file in files if _is_photograph(file, text)]
                if not files:
                    continue
                agreeing, surest = _agreeing(text, files)
                if agreeing > most:
                    most = agreeing
                    best = surest
            if best:
                return step, most, [os.path.join(folder.folder, file) for file in best]
    return OTHER_SUFFIX, 0, []


def _is_photograph(file: str, name: str) -> bool:
    """Whether a file of another image format may be the one that is annotated.

    In a sub-folder, a.png may as well be the label of a.jpg: it counts in folders of photographs,
    and in those that the annotated name has too.
    """
    names = {_plain(folder) for folder in IMAGE_FOLDERS}
    names.update(_parts(name)[:-1])
    return all(folder in names or SUBSET_FOLDER.fullmatch(folder) for folder in _parts(file)[:-1])


def _agreeing(name: str, files: list[str]) -> tuple[int, list[str]]:
    """How many last folders of a name agree with those of the best files, and these files."""
    wanted = _parts(name)[-2::-1]
    counts = []
    for file in files:
        count = 0
        for part, other in zip(wanted, _parts(file)[-2::-1]):
            if part != other:
                break
            count += 1
        counts.append(count)
    most = max(counts)
    return most, [file for file, count in zip(files, counts) if count == most]


def _claimed_twice(
    paths: dict[str, str],
    ranks: dict[str, tuple[int, int]],
) -> dict[str, str]:
    """{name: problem} of names that lead to a file which another name means as surely, or surer.

    cam1/001.jpg and cam2/001.jpg are not both the only 001.jpg that there is.
    """
    claims: dict[str, list[str]] = {}
    for name, path in paths.items():
        claims.setdefault(os.path.normpath(path), []).append(name)
    problems = {}
    for path, names in claims.items():
        spelled = {unicodedata.normalize("NFC", os.path.normpath(_slashed(name))) for name in names}
        if len(spelled) == 1:
            continue
        first = min(ranks[name] for name in names)
        surest = [name for name in names if ranks[name] == first]
        for name in names:
            if ranks[name] == (LITERALLY, 0) or surest == [name]:
                continue
            others = [repr(other) for other in names if other != name]
            problems[name] = (
                f"expected its file. Received: only {path}, which is also that of {several(others)}"
            )
    return problems


def _slashed(name: str) -> str:
    return name.replace("\\", "/")


def _not_there(name: str, folders: Sequence[_ImageFolder]) -> str:
    """Why a name has no file."""
    path = os.path.join(folders[0].folder, _slashed(name))
    try:
        if os.path.exists(path):
            return f"{path}, which is no file"
    except ValueError:  # a name that no system can have
        pass
    text = f"no file {path}"
    if not folders[0].exists:
        text += f"; there is no folder {folders[0].folder}"
    return text


# ---- Words of messages ---------------------------------------------------------------------------


def several(items: Iterable, limit: int = 5) -> str:
    """The first few of some items as text."""
    texts = list(map(str, items))
    text = ", ".join(texts[:limit])
    if len(texts) > limit:
        text += f" and {len(texts) - limit} more"
    return text


# It stops early, where Python's own writes all of a list of millions first.
_repr = reprlib.Repr()
_repr.maxlevel = 5
_repr.maxlist = _repr.maxtuple = _repr.maxdict = 20
_repr.maxstring = _repr.maxother = _repr.maxlong = 200


def short(value: Any) -> str:
    """A value as text of 80 characters at most."""
    text = _repr.repr(value)
    if len(text) > 80:
        text = text[:77] + "..."
    return text


# ---- Progress ------------------------------------------------------------------------------------


def draw_progress(line: str, complete: bool) -> None:
    """Draws a line on stderr, over itself on a terminal; elsewhere only the last one."""
    if sys.stderr.isatty():
        line = "\r" + line
    elif not complete:
        return
    end = ""
    if complete:
        end = "\n"
    print(line, end=end, file=sys.stderr, flush=True)


def show_progress(title: str, done: int, total: int, seconds: float) -> None:
    """Draws a bar with images a second on stderr; off a terminal only at the end."""
    bar = "=" * (30 * done // total)
    speed = done / max(seconds, 1e-9)
    draw_progress(f"{title} [{bar:30}] {done}/{total} images, {speed:.1f} images/s", done == total)


def progress_bar(done: int, total: int | None) -> None:
    """Draws the bytes so far of a download on stderr; `total` may be None."""
    line = f"{done / 1e6:.0f} MB"
    if total:
        bar = "=" * round(30 * done / total)
        line = f"[{bar:.<30}] {done / 1e6:.0f} of {total / 1e6:.0f} MB"
    draw_progress(line, done == total)


# ---- Downloads -----------------------------------------------------------------------------------


# Seconds without an answer, or without more of it, after which a download has failed.
TIMEOUT = 60


def cache_folder() -> pathlib.Path:
    """The folder of what was downloaded: $MRCNN_CACHE, or mrcnn/ in the user's cache folder."""
    named = os.environ.get("MRCNN_CACHE")
    if named:
        return pathlib.Path(named)
    system = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    if system:
        return pathlib.Path(system) / "mrcnn"
    return pathlib.Path.home() / ".cache" / "mrcnn"


def download(
    url: str,
    path: PathLike,
    sha256: str | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> None:
    """Downloads a file; a broken download goes on where it stopped, `path` is complete or absent.

    Args:
        url, path: from and to.
        sha256: hex digest that the file must have, or None.
        progress: f(bytes so far, bytes in all or None), called for every megabyte.

    Raises:
        ValueError: fewer bytes than announced, or another digest; the message says which.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    size, total = _fetch(url, part, progress)
    if total is not None and size != total:
        raise ValueError(f"{url} broke off after {size} of {total} bytes; run again to go on")
    if sha256:
        with open(part, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            part.unlink()
            raise ValueError(
                f"{url} has the SHA-256 {digest}, expected {sha256}; the download was removed"
            )
    shutil.move(part, path)


def _fetch(url, part, progress):
    """Adds what is missing to a partial file. Returns (its size, the announced size or None)."""
    response, start = _request(url, part)
    mode = "wb"
    if start:
        mode = "ab"
    with response, open(part, mode) as out:
        total = None
        if length := response.headers.get("Content-Length"):
            total = start + int(length)
        while True:
            try:
                block = response.read(1 << 20)
            except OSError as error:
                raise ValueError(
                    f"{url} broke off after {out.tell()} bytes; run again to go on"
                ) from error
            if not block:
                return out.tell(), total
            out.write(block)
            if progress:
                progress(out.tell(), total)


def _request(url, part):
    """The server's answer, and the number of bytes after which it goes on."""
    # With HTTP, TLS and e-mail's headers it is a seventh of what `mrcnn.runtime` imports.
    import urllib.error
    import urllib.request

    have = 0
    if part.exists():
        have = part.stat().st_size
    headers = {}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT
        )
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        part.unlink()  # longer than the file: what lies there is not a part of it
        response = urllib.request.urlopen(url, timeout=TIMEOUT)
    if response.status != 206:
        have = 0
    return response, have
