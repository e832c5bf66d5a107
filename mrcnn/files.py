"""Atomic writing, JSON, image files by their annotated names, downloads, progress bars."""

import argparse
import contextlib
import dataclasses
import errno
import gc
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

# Errors of writing that name no file: a full disk, an exceeded quota, a file above the size limit.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# A compressed file may unpack to this many bytes, or to this multiple of its size if that is more.
_UNPACKED_BYTES = 1 << 30
_UNPACKED_RATIO = 20


class UnreadableFileError(ValueError):
    """A file that can't be read; the message names it."""


@contextlib.contextmanager
def naming_errors(path: PathLike, kind: str) -> Iterator[None]:
    """Converts any exception of the block to an `UnreadableFileError` that names the file.

    Args:
        path: the file that is read in the block.
        kind: the expected kind of file, such as "a readable HDF5 file".
    """
    try:
        yield
    except UnreadableFileError:
        raise
    except Exception as error:
        # For a damaged file the libraries raise almost anything: OSError, KeyError, RuntimeError,
        # UnicodeDecodeError, MemoryError, zlib.error.
        message = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableFileError(f"{path} is not {kind}: {message[:300]}") from error


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Pauses garbage collection: with millions of new objects it takes a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def check_unpacked_size(path: PathLike, unpacked: int) -> None:
    """Raises an `UnreadableFileError` for a file that would unpack to an implausible size.

    Args:
        path: a file with compressed parts.
        unpacked: their size when unpacked, as stored in the file, in bytes.
    """
    stored = os.path.getsize(path)
    if unpacked > max(_UNPACKED_BYTES, _UNPACKED_RATIO * stored):
        raise UnreadableFileError(
            f"{path} has {stored / 1e6:.1f} MB and would unpack to {unpacked / 1e9:.1f} GB: it is"
            " damaged, or made to fill the memory"
        )


# By this suffix Keras recognises its own format of weights.
KERAS_WEIGHTS = ".weights.h5"


@contextlib.contextmanager
def atomic(path: PathLike) -> Iterator[str]:
    """Yields a temporary path, which replaces `path` if the block ends without an error.

    Raises:
        OSError: for a full disk or a file above a size limit, it names `path`. An existing file
            stays.
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


def write_bytes(path: PathLike, content: Any) -> None:
    """Writes a file, whole or not at all.

    Args:
        path: of the file; its folder is made.
        content: bytes, or another buffer of bytes.

    Raises:
        OSError: see `atomic`.
    """
    with atomic(path) as temporary:
        pathlib.Path(temporary).write_bytes(content)


@contextlib.contextmanager
def naming_full_disk(path: PathLike) -> Iterator[None]:
    """Adds the name of the file that is written in the block to an OSError of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL and error.filename is None:
            # HDF5's own message has several lines and the name of the temporary file.
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


@contextlib.contextmanager
def atomic_together(paths: Iterable[PathLike]) -> Iterator[list[str]]:
    """Yields temporary paths of files that belong together, which replace all paths or none."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(atomic(path)) for path in paths]


def at_home(value: Any) -> Any:
    """Expands ~/ in a path or in a list of them; other values are returned unchanged.

    Shells don't expand it after an option's equals sign: --dataset=~/photos.
    """
    if isinstance(value, list):
        return [at_home(item) for item in value]
    if isinstance(value, str) and value.startswith("~/") and not os.path.exists(value):
        return os.path.expanduser(value)
    return value


class _EndOfOptions(argparse.Action):
    """An option without a value that does nothing but end the values of the option before it."""

    def __call__(self, *arguments: Any) -> None:
        """Called by the parser."""


def parsed(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> argparse.Namespace:
    """Parses a command line whose inputs may come before, between and after the options.

    What follows "--" are inputs, whatever they begin with: `detect -- -1.jpg`. (Python's own parser
    drops it where inputs and options are mixed.) ~/ is expanded, see `at_home`.

    Args:
        parser: of the command; it may get a hidden option.
        arguments: list of arguments; None for those of the command line.
    """
    if arguments is None:
        arguments = sys.argv[1:]
    before = list(arguments)
    behind: list[str] = []
    if "--" in before:
        place = before.index("--")
        behind = [_end_of_options(parser), *map(_as_input, before[place + 1 :])]
        before = before[:place]
    for name in before:
        if name.startswith("-") and "." in name and os.path.lexists(name):
            parser.error(f"a file whose name begins with a dash is ./{name}. Received: {name}")
    args = parser.parse_intermixed_args([*before, *behind])
    for key, value in vars(args).items():
        setattr(args, key, at_home(value))
    return args


def _end_of_options(parser: argparse.ArgumentParser) -> str:
    """A hidden option of a parser, which ends the values of the one before it."""
    option = "--end-of-options"
    with contextlib.suppress(argparse.ArgumentError):  # it has it already
        parser.add_argument(
            option,
            action=_EndOfOptions,
            nargs=0,
            dest=argparse.SUPPRESS,
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )
    return option


def _as_input(name: str) -> str:
    """A file name as a parser doesn't take it for an option."""
    if name.startswith("-"):
        return os.path.join(os.curdir, name)
    return name


# ---- Text and JSON -------------------------------------------------------------------------------

RAW = "a camera's raw file, to be developed as JPEG, PNG or TIFF first"

# First bytes of files that are found in place of others, and what they are.
_SIGNATURES = (
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
    (b"8BPS", "a file of Photoshop, to be saved as TIFF, PNG or JPEG there"),
    (b"\xff\x0a", "a JPEG XL picture: Pillow can't read it; convert it to PNG or JPEG"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture: Pillow can't read it; convert it to PNG or JPEG"),
    (b"#?RADIANCE", "a picture of Radiance (HDR), to be saved as TIFF, PNG or JPEG"),
    (b"\x76\x2f\x31\x01", "an OpenEXR picture, to be saved as TIFF, PNG or JPEG"),
    (b"FUJIFILMCCD-RAW", RAW),
    (b"IIU\0", RAW),  # Panasonic
    (b"IIRO", RAW),  # Olympus
    (b"IIRS", RAW),
    (b"MMOR", RAW),
)
# The same at an offset in bytes.
_SIGNATURES_AT_OFFSETS = (
    (4, b"ftyphe", "a HEIC photograph: pip install pillow-heif"),
    (4, b"ftypmif1", "a HEIC photograph: pip install pillow-heif"),
    (4, b"ftypmsf1", "a HEIC photograph: pip install pillow-heif"),
    (4, b"ftypavi", "an AVIF picture, which this version of Pillow can't read"),
    (4, b"ftypcrx", RAW),  # Canon's CR3
    (4, b"ftyp", "a video"),
    (128, b"DICM", "a DICOM file"),
)


# Packages by the names of their modules, where these differ.
_PACKAGES = {"skimage": "scikit-image", "PIL": "pillow", "cv2": "opencv-python-headless"}


def in_words(error: BaseException) -> str:
    """An error's text; for a missing module, a text with the package to install."""
    text = str(error)
    name = getattr(error, "name", None) or ""
    if not isinstance(error, ImportError) or text != f"No module named {name!r}":
        return text
    package = name.split(".")[0]
    package = _PACKAGES.get(package, package)
    return f"this needs {package}, which isn't installed: pip install {package}"


def what_it_is(path: PathLike) -> str:
    """What a file is that can't be read as the expected kind, see `what_begins_with`."""
    try:
        with open(path, "rb") as file:
            return what_begins_with(file.read(256))
    except OSError:
        return ""


def what_begins_with(beginning: bytes) -> str:
    """The kind of a file by its first bytes, in words; "" where it is unknown.

    Detects what a failed download or copy leaves: an empty file, a Git LFS pointer, a web page, a
    zip.
    """
    if not beginning:
        return "an empty file"
    if not beginning.strip(b"\0"):
        return "a file of zeros, as a broken copy leaves it"
    for signature, kind in _SIGNATURES:
        if beginning.startswith(signature):
            return kind
    for offset, signature, kind in _SIGNATURES_AT_OFFSETS:
        if beginning[offset:].startswith(signature):
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
    """The content of a text file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises:
        ValueError: no such file, or no text in these encodings; the message names it.
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


# A first line that is longer is cut there.
LONGEST_FIRST_LINE = 100_000


def first_line(path: PathLike) -> str:
    """The first line of a text file, see `read_text`, without what ends it; "" if it has none.

    A file that can't be read, or is no text, has none.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(LONGEST_FIRST_LINE)
        text = start.decode(json.detect_encoding(start), errors="replace")
    except OSError:
        return ""
    return text.partition("\n")[0].rstrip("\r")


def read_json(
    path: PathLike,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """The content of a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Args:
        path: the file.
        pairs: makes an object from its pairs (key, value), see `object_pairs_hook` of `json.loads`;
            None for a dict.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no regular file, or invalid JSON; the message names it and the reason, such as
            its position, a truncated file or comments.
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


def read_json_lines(path: PathLike) -> list[dict]:
    """The objects {...} of a file with one JSON in each line (NDJSON, JSON Lines).

    Raises:
        ValueError: a line is no JSON object, or there is none; the message names file and line.
    """
    values = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path}: expected one json in each line. Received: line {number}: {error}"
            ) from error
        if not isinstance(value, dict):
            raise ValueError(
                f"{path}: expected an object {{...}} in each line. Received: line {number}:"
                f" {short(value)}"
            )
        values.append(value)
    if not values:
        raise ValueError(f"{path}: expected one json in each line. Received: none")
    return values


def plain_value(value: Any) -> Any:
    """A number of numpy, or an array, or the runs of pycocotools, for json: its `default`.

    Raises:
        TypeError: a value of another type.
    """
    if isinstance(value, bytes):
        return value.decode()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"json has no {type(value).__name__}")


def _also(path: PathLike) -> str:
    """The end of a message with the kind of the file, if its first bytes show it, or ""."""
    kind = what_it_is(path)
    if kind and kind != "an empty file":  # the message has that already
        return f". It is {kind}"
    return ""


def _why_no_json(error: json.JSONDecodeError) -> str:
    """The reason why a text is no JSON, with common mistakes explained."""
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

# Suffixes of image files; folders of images have other files too: json, text, videos.
IMAGE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".tif", ".tiff", ".webp"),
        *(".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".j2k", ".jpx", ".avif"),
        *(".heic", ".heif", ".ico", ".pcx", ".mpo", ".sgi"),
    )
)
# Names of the folders of images in exports, beside or above the annotations.
IMAGE_FOLDERS = (
    *("images", "Images", "image", "imgs", "img", "JPEGImages", "PNGImages", "photos", "data"),
)
# Subfolders of these with photographs: subsets, with a year or without.
SUBSET_FOLDER = re.compile(r"(train|training|val|valid|validation|test|testing)([-_]?set)?[-_]?\d*")
# Depth of subfolders in which a json is searched; images may be deeper, as in
# images/train/2024/camera 1.
DEEPEST = 3
DEEPEST_IMAGES = DEEPEST + 2
# Subfolders of masks, previews and the like, which have the names of the photographs.
NO_PHOTOGRAPHS = re.compile(
    r"((instance|semantic|panoptic|binary|object|class|colou?r|alpha|png|gt|train|val|test)[-_ ]?)*"
    r"(masks?|labels?|labelids|annotations?|seg(s|ment(s|ation|ations)?)?|gt(s|fine|coarse)?"
    r"|ground[-_ ]?truths?|trimaps?|mattes?|alphas?|depths?|disparit(y|ies)|panoptic|overlays?)"
    r"([-_ ]?(class|object|maps?|images?|png|raw|vis|visuali[sz]ations?|colou?r|[0-9]+))*"
    r"|previews?|thumb(nail)?s?|heat[-_ ]?maps?|__macosx|@eadir|node_modules|\$recycle\.bin"
)
# Prefixes that servers add to the names of uploaded files: 8 hexadecimal digits (Label Studio), 32
# of them, or a UUID. A date of 8 digits is part of the name.
UPLOAD_PREFIX = re.compile(
    r"(?!(19|20)\d\d[01]\d[0-3]\d[-_])"
    r"([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}|[0-9a-f]{8})[-_](?=.)"
)
# Ways in which a file can match, best first, see `find_images`.
LITERALLY, SAME_NAME, OTHER_CASE, UPLOADED, OTHER_SUFFIX = range(5)


@dataclasses.dataclass
class FoundImages:
    """The result of `find_images`.

    Attributes:
        paths: {name: path} of the files that were found.
        renamed: {name: path}, the part of `paths` whose files have another name or folder.
        problems: {name: why it has no path}, "expected ... Received: ...".
        unclear: the part of `problems` with several possible files, or one that others match too.
    """

    paths: dict[str, str]
    renamed: dict[str, str]
    problems: dict[str, str]
    unclear: dict[str, str] = dataclasses.field(default_factory=dict)

    def renamed_text(self, limit: int = 5) -> str:
        """The text of a warning about `renamed`; "" if there are none."""
        if not self.renamed:
            return ""
        pairs = [f"{name!r} is {path}" for name, path in list(self.renamed.items())[:limit]]
        if len(self.renamed) > limit:
            pairs.append(f"{len(self.renamed) - limit} more")
        text = (
            f"{len(self.renamed)} images are not there under the names that are annotated and were"
            f" found by their base names: {'; '.join(pairs)}"
        )
        return text.encode("utf-8", "backslashreplace").decode()  # names need not be UTF-8


def find_images(
    names: Iterable[str],
    folders: Sequence[PathLike],
    others: Mapping[str, Sequence[str]] | None = None,
) -> FoundImages:
    """Finds the image files that annotations name; each folder is listed once.

    A file with exactly the given name (with / or \\) is used, from the first folder that has one.
    Otherwise the base name is searched in the folders and their subfolders, in this order: the same
    name; in other case or another Unicode form; with or without an upload prefix; with the suffix
    of another image format, in the folders themselves and in those of photographs. URLs are
    decoded, and the values of their queries are tried too. Of several files, the one that has most
    of the name's last folders is used. Several files that have as many, and several names that
    match one file, are problems. Videos, folders and pipes are ignored.

    Args:
        names: as in the annotations: paths of any system, or URLs.
        folders: folders of the images, most likely first.
        others: {name: further names that the file may have}, such as its address.
    """
    names = list(dict.fromkeys(names))
    others = others or {}
    distinct_folders = dict.fromkeys(os.fspath(folder) for folder in folders)
    image_folders = [_ImageFolder(folder) for folder in distinct_folders]
    paths: dict[str, str] = {}
    ranks: dict[str, tuple[int, int]] = {}
    problems: dict[str, str] = {}
    unclear: dict[str, str] = {}
    for name in names:
        spellings = [name, *others.get(name, ())]
        index, path = _exact_match(spellings, image_folders)
        if path is not None:
            paths[name] = path
            ranks[name] = (LITERALLY, index)
            continue
        step, common_folders, files = _by_base_name(spellings, image_folders)
        if len(files) == 1:
            paths[name] = files[0]
            ranks[name] = (step, -common_folders)
        elif files:
            unclear[name] = (
                f"expected one file of that name. Received: {len(files)}, {several(files)}"
            )
        else:
            problems[name] = f"expected its file. Received: {_not_there(name, image_folders)}"
    unclear.update(_claimed_twice(paths, ranks))
    problems.update(unclear)
    for name in problems:
        paths.pop(name, None)
    renamed = {name: path for name, path in paths.items() if ranks[name][0] != LITERALLY}
    return FoundImages(paths, renamed, problems, unclear)


def find_image(folder: PathLike, name: str) -> str | None:
    """The file of an annotated name in a folder; None without exactly one, see `find_images`."""
    return find_images([name], [folder]).paths.get(name)


def is_image_name(name: PathLike) -> bool:
    """Whether a file name has the suffix of an image, and is not hidden, like macOS's ._a.jpg."""
    base = os.path.basename(os.fspath(name))
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in IMAGE_SUFFIXES


class _ImageFolder:
    """The files of a folder; its subfolders are listed when the first name needs a search."""

    # The number of names that are looked up singly; for further ones a folder is listed, which is
    # faster.
    FEW = 50

    def __init__(self, folder: str):
        self.folder = folder
        self.exists = os.path.isdir(folder or ".")
        self._lookups = 0
        self._listings: dict[str, set[str]] = {}
        self._index: _ImageIndex | None = None

    def literal(self, name: str) -> str | None:
        """The path of the file with exactly this name; None if there is none."""
        for spelled in dict.fromkeys((name, name.replace("\\", "/"))):
            path = os.path.join(self.folder, spelled)
            if self._is_file(path):
                return path
        return None

    def _is_file(self, path: str) -> bool:
        """Whether there is a file, by the system or by the listing of its folder."""
        self._lookups += 1
        if self._lookups <= self.FEW:
            return os.path.isfile(path)
        folder, base = os.path.split(path)
        if folder not in self._listings:
            self._listings[folder] = set(_files_in(folder))
        return base in self._listings[folder]

    def index(self) -> "_ImageIndex":
        """The image files of the folder and its subfolders."""
        if self._index is None:
            self._index = _ImageIndex(self.folder)
        return self._index


def _files_in(folder: str) -> Iterator[str]:
    """The names of the files in a folder; none if there is no such folder."""
    try:
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                if entry.is_file():
                    yield entry.name
    except (OSError, ValueError):  # no folder, or an invalid name
        return


class _ImageIndex:
    """The image files of a folder and its subfolders by their base names.

    Attributes:
        by_name: {base name: paths relative to the folder}.
        by_plain: the same by `_plain` of it.
        by_upload: by `_as_uploaded` of that.
        by_original: by that without an upload prefix, for names that have one.
        by_stem: by `_stem` of the plain name.
    """

    def __init__(self, folder: str):
        self.by_name: dict[str, list[str]] = {}
        self.by_plain: dict[str, list[str]] = {}
        self.by_upload: dict[str, list[str]] = {}
        self.by_original: dict[str, list[str]] = {}
        self.by_stem: dict[str, list[str]] = {}
        for relative in sorted(walk_images(folder)):
            # Files from a zip made on Windows may have backslashes in their names.
            base = ntpath.basename(relative)
            plain = _plain(urllib.parse.unquote(base))  # downloads may keep a URL's %20
            upload = _as_uploaded(plain)
            original = UPLOAD_PREFIX.sub("", upload, count=1)
            self.by_name.setdefault(base, []).append(relative)
            self.by_plain.setdefault(plain, []).append(relative)
            self.by_upload.setdefault(upload, []).append(relative)
            self.by_stem.setdefault(_stem(plain), []).append(relative)
            if original != upload:
                self.by_original.setdefault(original, []).append(relative)

    def find(self, base: str, step: int) -> list[str]:
        """The files that match a base name at a step, `SAME_NAME` to `OTHER_SUFFIX`."""
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


def folders_in(folder: str) -> list[str]:
    """Names of the folders in a folder, sorted, without hidden ones; none if it is not there."""
    if not os.path.isdir(folder):
        return []
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir()]
    return sorted(name for name in names if not name.startswith("."))


def walk_images(folder: str) -> Iterator[str]:
    """Paths of the image files of a folder and its subfolders, relative to it.

    Hidden files and folders, folders of masks, and those more than DEEPEST_IMAGES levels deep are
    left out. Links to folders are followed, but each folder is visited once.
    """
    seen = set()
    waiting = [("", 0)]
    while waiting:
        subfolder, depth = waiting.pop()
        try:
            status = os.stat(os.path.join(folder or ".", subfolder))
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(os.path.join(folder or ".", subfolder)) as listing:
                entries = list(listing)
        except OSError:  # no permission, or deleted in the meantime
            continue
        for entry in entries:
            relative = os.path.join(subfolder, entry.name)
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if depth < DEEPEST_IMAGES and not NO_PHOTOGRAPHS.fullmatch(entry.name.lower()):
                    waiting.append((relative, depth + 1))
            elif is_image_name(entry.name) and entry.is_file():
                yield relative


def _plain(base: str) -> str:
    """A base name in lower case and Unicode's form NFC (macOS splits letters from accents)."""
    return unicodedata.normalize("NFC", base).casefold()


def _as_uploaded(plain: str) -> str:
    """A name as servers store it: with underscores for spaces, without other special characters."""
    return re.sub(r"[^\w.-]", "", plain.replace(" ", "_"))


def _stem(plain: str) -> str:
    """A base name without the suffix of an image."""
    stem, suffix = os.path.splitext(plain)
    if suffix in IMAGE_SUFFIXES:
        return stem
    return plain


def _readings(name: str) -> list[str]:
    """Possible paths of an annotated name: itself, a URL's path, values in its query."""
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
    """Whether an annotated name, a path or a URL, is that of an image file."""
    return any(is_image_name(reading) for reading in _readings(name))


def _parts(path: str) -> list[str]:
    """The folders of a path and its base name, each as `_plain`."""
    return [part for part in re.split(r"[/\\]+", _plain(path)) if part not in ("", ".")]


def _exact_match(
    names: Sequence[str],
    folders: Sequence[_ImageFolder],
) -> tuple[int, str | None]:
    """(index of the name, path) of the first name with an exact match; (0, None) for none."""
    for index, name in enumerate(names):
        for folder in folders:
            path = folder.literal(name)
            if path is not None:
                return index, path
    return 0, None


def _by_base_name(
    names: Sequence[str],
    folders: Sequence[_ImageFolder],
) -> tuple[int, int, list[str]]:
    """Searches the files with the base name of an image.

    names: of one image.

    Returns:
        (step, number of common folders, paths); a single path if the match is unique.
    """
    texts = dict.fromkeys(text for name in names for text in _readings(name))
    readings = [(text, ntpath.basename(text.rstrip("/\\ ")).strip()) for text in texts]
    for step in (SAME_NAME, OTHER_CASE, UPLOADED, OTHER_SUFFIX):
        for folder in folders:
            most_common = -1
            best: list[str] = []
            for text, base in readings:
                files = folder.index().find(base, step)
                if step == OTHER_SUFFIX and _stem(base.lower()) != base.lower():
                    files = [file for file in files if _is_photograph(file, text)]
                if not files:
                    continue
                common_folders, best_in_folder = _with_most_common_folders(text, files)
                if common_folders > most_common:
                    most_common = common_folders
                    best = best_in_folder
            if best:
                return step, most_common, [os.path.join(folder.folder, file) for file in best]
    return OTHER_SUFFIX, 0, []


def _is_photograph(file: str, name: str) -> bool:
    """Whether a file with another suffix may be the annotated image.

    In a subfolder, a.png may also be the label of a.jpg: it is accepted only in folders of
    photographs, and in folders that are in the annotated name.
    """
    names = {_plain(folder) for folder in IMAGE_FOLDERS}
    names.update(_parts(name)[:-1])
    return all(folder in names or SUBSET_FOLDER.fullmatch(folder) for folder in _parts(file)[:-1])


def _with_most_common_folders(name: str, files: list[str]) -> tuple[int, list[str]]:
    """The largest number of last folders that a file has in common with a name, and these files."""
    folders = _parts(name)[-2::-1]
    counts = []
    for file in files:
        count = 0
        for part, other in zip(folders, _parts(file)[-2::-1]):
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
    """{name: problem} of names whose file another name matches equally well or better.

    A single 001.jpg can't be both cam1/001.jpg and cam2/001.jpg.
    """
    claims: dict[str, list[str]] = {}
    for name, path in paths.items():
        claims.setdefault(os.path.normpath(path), []).append(name)
    problems = {}
    for path, names in claims.items():
        distinct = {
            unicodedata.normalize("NFC", os.path.normpath(_slashed(name))) for name in names
        }
        if len(distinct) == 1:
            continue
        best_rank = min(ranks[name] for name in names)
        best_names = [name for name in names if ranks[name] == best_rank]
        for name in names:
            if ranks[name] == (LITERALLY, 0) or best_names == [name]:
                continue
            others = [repr(other) for other in names if other != name]
            problems[name] = (
                f"expected its file. Received: only {path}, which is also that of {several(others)}"
            )
    return problems


def _slashed(name: str) -> str:
    """A path with slashes instead of backslashes."""
    return name.replace("\\", "/")


def _not_there(name: str, folders: Sequence[_ImageFolder]) -> str:
    """The reason why a name has no file, for messages."""
    if not folders:
        return f"no file {_slashed(name)}, and no folder of the images (images=, --images)"
    path = os.path.join(folders[0].folder, _slashed(name))
    try:
        if os.path.exists(path):
            return f"{path}, which is no file"
    except ValueError:  # an invalid name
        pass
    text = f"no file {path}"
    if not folders[0].exists:
        text += f"; there is no folder {folders[0].folder}"
    return text


# ---- Texts of messages ---------------------------------------------------------------------------


def several(items: Iterable, limit: int = 5) -> str:
    """The first `limit` items as text, with the number of further ones.

    Half of a character pair, as a damaged json may have it, is escaped: no file or terminal in
    UTF-8 takes it.
    """
    texts = list(map(str, items))
    text = ", ".join(texts[:limit]).encode("utf-8", "backslashreplace").decode("utf-8")
    if len(texts) > limit:
        text += f" and {len(texts) - limit} more"
    return text


# Unlike repr, it doesn't format all of a list of millions.
_repr = reprlib.Repr()
_repr.maxlevel = 5
_repr.maxlist = _repr.maxtuple = _repr.maxdict = 20
_repr.maxstring = _repr.maxother = _repr.maxlong = 200


def short(value: Any) -> str:
    """A value as text of at most 80 characters."""
    text = _repr.repr(value)
    if len(text) > 80:
        text = text[:77] + "..."
    return text


# ---- Progress ------------------------------------------------------------------------------------


def draw_progress(line: str, complete: bool) -> None:
    """Writes a line to stderr, on a terminal over the previous one; elsewhere only the last one."""
    if sys.stderr.isatty():
        line = "\r" + line
    elif not complete:
        return
    end = ""
    if complete:
        end = "\n"
    print(line, end=end, file=sys.stderr, flush=True)


def show_progress(title: str, done: int, total: int, seconds: float) -> None:
    """Draws a progress bar with images per second on stderr, see `draw_progress`."""
    bar = "=" * (30 * done // total)
    speed = done / max(seconds, 1e-9)
    draw_progress(f"{title} [{bar:30}] {done}/{total} images, {speed:.1f} images/s", done == total)


def progress_bar(done: int, total: int | None) -> None:
    """Draws the progress of a download in bytes on stderr; total: None if unknown."""
    line = f"{done / 1e6:.0f} MB"
    if total:
        bar = "=" * round(30 * done / total)
        line = f"[{bar:.<30}] {done / 1e6:.0f} of {total / 1e6:.0f} MB"
    draw_progress(line, done == total)


# ---- Downloads -----------------------------------------------------------------------------------


# Seconds without data after which a download fails.
TIMEOUT = 60


def cache_folder() -> pathlib.Path:
    """The folder of downloads: $MRCNN_CACHE, or mrcnn/ in the user's cache folder."""
    configured = os.environ.get("MRCNN_CACHE")
    if configured:
        return pathlib.Path(configured)
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
    """Downloads a file; resumes an interrupted download, and writes `path` atomically.

    Args:
        url, path: source and target.
        sha256: expected digest in hexadecimal, or None.
        progress: f(bytes so far, total bytes or None), called for every megabyte.

    Raises:
        ValueError: fewer bytes than announced, or another digest; the message has the numbers.
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


def _fetch(
    url: str, part: pathlib.Path, progress: Callable[[int, int | None], None] | None
) -> tuple[int, int | None]:
    """Completes a partial file. Returns (its size, the announced size or None)."""
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


def _request(url: str, part: pathlib.Path) -> tuple[Any, int]:
    """The server's response for the rest of a partial file, and the offset where it starts."""
    # With HTTP, TLS and e-mail's headers it is a seventh of what `mrcnn.runtime` imports.
    import urllib.error
    import urllib.request

    offset = 0
    if part.exists():
        offset = part.stat().st_size
    headers = {}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT
        )
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        part.unlink()  # it is longer than the file, and so no part of it
        response = urllib.request.urlopen(url, timeout=TIMEOUT)
    if response.status != 206:
        offset = 0
    return response, offset
