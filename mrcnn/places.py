"""Files of this machine and of object stores, by paths and addresses such as s3://bucket/photos.

    files, path = places.find("s3://bucket/photos/a.jpg")
    content = files.read(path)

`LocalFiles` and `RemoteFiles` have the same methods: listing folders without holding them in
memory, reading, and writing whole files or none. Other places than this machine's are reached
through `pyarrow.fs`. Keras and TensorFlow are not imported.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import hashlib
import importlib
import itertools
import logging
import os
import re
import threading
import time
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import Any

from mrcnn import files

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

ADDRESS = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://([^/?]*)/?")
# Options of pyarrow.fs behind an address: ?region=eu-west-1&endpoint_override=...
QUERY = re.compile(r"\?[a-z_]+=[^?]*$")
# Names of a folder that are sorted together: of a larger one, block by block, in memory that stays.
SORTED_NAMES = 100_000
# The folder in which a batch keeps its books, beside its results.
BOOKS = "_job"
RESULT = re.compile(r"part-[0-9]{6,}\.parquet")
# Seconds between the tries to read a file of an object store.
PAUSES = (1.0, 4.0)
# Object stores show a file when all of it is there; elsewhere it is renamed when it is written.
OBJECT_STORES = ("s3", "gcs", "abfs")


def import_pyarrow(name: str = "pyarrow") -> Any:
    """A module of pyarrow.

    Raises:
        ImportError: it is not installed; says what to install.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            'Parquet files and object stores need pyarrow: pip install "mask-rcnn-keras3[parquet]"'
            f" ({error})"
        ) from error


def is_address(text: str) -> bool:
    """Whether a text is an address such as s3://bucket/a.jpg; other texts are paths."""
    return ADDRESS.match(text) is not None


def absolute(text: str | os.PathLike) -> str:
    """A path as an absolute one, which holds in every process; an address as it is."""
    text = os.fspath(text)
    if is_address(text):
        return text
    return os.path.abspath(text)


def canonical(text: str) -> str:
    """`absolute`, with one text for a file of this machine: file:// addresses become paths."""
    if text[:7].lower() == "file://":
        text = find(text)[1]
    return absolute(text)


def _is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's images: hidden, or a job's own folder."""
    return name.startswith(".") or name == BOOKS


def _is_result(name: str, holds_books: bool) -> bool:
    """Whether a file of a folder is one of a batch's results, which are no input of another batch.

    Args:
        name: of the file.
        holds_books: whether its folder is one below the source and has BOOKS.
    """
    return holds_books and RESULT.fullmatch(name) is not None


def joined(folder: str, name: str) -> str:
    """The place of a name that is relative to a folder; a name that is absolute stays."""
    if is_address(name) or os.path.isabs(name):
        return name
    if not is_address(folder):
        return os.path.join(folder, name)
    query = _query_of(folder)
    base = folder[: len(folder) - len(query)]
    return f"{base.rstrip('/')}/{name}{query}"


def parent(text: str) -> str:
    """The folder of a path or an address."""
    query = ""
    if is_address(text):
        query = _query_of(text)
    return os.path.dirname(text[: len(text) - len(query)]) + query


def find(text: str | os.PathLike) -> tuple[LocalFiles | RemoteFiles, str]:
    """What reads and writes a path or an address, and the path that it takes.

    Raises:
        ValueError: an address of a kind that pyarrow does not know.
        ImportError: an address, and no pyarrow.
    """
    text = os.fspath(text)
    match = ADDRESS.match(text)
    if match is None:
        return LOCAL, text
    if match[1].lower() == "file":
        path = text[len("file://") :]
        return LOCAL, urllib.parse.unquote(path.removeprefix("localhost"))
    query = _query_of(text)
    head = f"{match[1]}://{match[2]}"
    remote = _remote(head, query)
    rest = text[match.end() : len(text) - len(query)]
    return remote, remote.path_of(rest)


def without_options(text: str) -> str:
    """A path, or an address without the options behind it, which may hold keys."""
    if is_address(text):
        return text[: len(text) - len(_query_of(text))]
    return text


def _query_of(address: str) -> str:
    """The options at the end of an address, "" where there are none."""
    match = QUERY.search(address)
    if match is None:
        return ""
    return match[0]


_REMOTES: dict[tuple[str, str], RemoteFiles] = {}
_REMOTES_LOCK = threading.Lock()


def _remote(head: str, query: str) -> RemoteFiles:
    """The files of a bucket or host; connected once in a process."""
    with _REMOTES_LOCK:
        if (head, query) not in _REMOTES:
            fs = import_pyarrow("pyarrow.fs")
            try:
                system, prefix = fs.FileSystem.from_uri(head + query)
            except (ValueError, OSError) as error:
                raise ValueError(
                    "An address is one that pyarrow opens: s3://, gs://, abfs://, hdfs:// or"
                    f" file://. Received: {head} ({error})"
                ) from error
            _REMOTES[head, query] = RemoteFiles(system, prefix, head, query)
        return _REMOTES[head, query]


class LocalFiles:
    """Files of this machine, by their paths."""

    is_local = True

    def address(self, path: str) -> str:
        """The path itself."""
        return path

    def is_folder(self, path: str) -> bool:
        """Whether a path is that of a folder."""
        return os.path.isdir(path)

    def exists(self, path: str) -> bool:
        """Whether something lies there, were it a broken link."""
        return os.path.lexists(path)

    def size(self, path: str) -> int:
        """Bytes of a file."""
        return os.path.getsize(path)

    def open(self, path: str) -> Any:
        """A file that pyarrow reads."""
        return import_pyarrow().OSFile(path, "rb")

    def read(self, path: str) -> bytes:
        """All of a file."""
        with open(path, "rb") as file:
            return file.read()

    def names(self, folder: str) -> Iterator[str]:
        """Names of the files in a folder; none where there is no folder."""
        if os.path.isdir(folder):
            with os.scandir(folder) as entries:
                for entry in entries:
                    yield entry.name

    def walk(self, folder: str) -> Iterator[str]:
        """Paths of the files in a folder and its sub-folders, without hidden ones.

        Sorted within each folder, see SORTED_NAMES. Links to folders are followed, once.

        Raises:
            OSError: a folder that can't be listed; names it.
        """
        waiting = [folder]
        seen = set()
        while waiting:
            current = waiting.pop()
            status = os.stat(current)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            holds_books = current != folder and os.path.isdir(os.path.join(current, BOOKS))
            below = []
            with os.scandir(current) as entries:
                visible = (entry for entry in entries if not _is_hidden(entry.name))
                for entry in _sorted_by_blocks(visible, key=lambda entry: entry.name):
                    if entry.is_dir():
                        below.append(entry.path)
                    elif not _is_result(entry.name, holds_books):
                        yield entry.path
            waiting += sorted(below, reverse=True)

    def glob(self, pattern: str) -> Iterator[str]:
        """Paths of the files that match a pattern, "**" for folders within each other."""
        paths = _in_each_folder_once(glob.iglob(pattern, recursive=True))
        yield from _sorted_by_blocks(path for path in paths if _is_meant(path, pattern))

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[str]:
        """The path of a file that takes its place, on the disk, when the block ends well."""
        with files.atomic(path) as temporary:
            yield temporary
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())

    def write(self, path: str, content: Any) -> None:
        """Writes a file, wholly or not at all."""
        with self.writing(path) as temporary, open(temporary, "wb") as file:
            file.write(content)

    def remove_unfinished(self, folder: str, beginning: str) -> None:
        """Removes what killed writers of files with that beginning left, see `files.atomic`."""
        for name in self.names(folder):
            if name.startswith("." + beginning) and ".part." in name:
                with contextlib.suppress(FileNotFoundError):
                    os.remove(os.path.join(folder, name))

    @contextlib.contextmanager
    def locked(self, path: str) -> Iterator[None]:
        """Holds a lock file, which no other process has meanwhile; a killed one's is free.

        Raises:
            ValueError: another process has it.
        """
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            if fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise ValueError(
                        f"Another process is writing to {os.path.dirname(os.path.dirname(path))}:"
                        " wait for its end, or choose another folder"
                    ) from error
                except OSError as error:  # some network file systems have no locks
                    logger.debug("%s is not locked: %s", path, error)
            yield


LOCAL = LocalFiles()


class RemoteFiles:
    """Files of a `pyarrow.fs.FileSystem`.

    Args:
        system: the file system.
        prefix: what its paths begin with: the bucket.
        head: what addresses begin with: s3://bucket.
        query: the options at their end.
    """

    is_local = False

    def __init__(self, system: Any, prefix: str = "", head: str = "", query: str = ""):
        self.system = system
        self.prefix = prefix.rstrip("/")
        self.head = head
        self.query = query

    def path_of(self, rest: str) -> str:
        """The path of what follows the bucket in an address."""
        return f"{self.prefix}/{rest}".rstrip("/")

    def address(self, path: str) -> str:
        """The address of a path."""
        return f"{self.head}{path[len(self.prefix) :]}{self.query}"

    def _type(self, path: str) -> Any:
        return self.system.get_file_info(path).type

    def is_folder(self, path: str) -> bool:
        """Whether a path is that of a folder, or of a prefix of keys."""
        return self._type(path) == import_pyarrow("pyarrow.fs").FileType.Directory

    def exists(self, path: str) -> bool:
        """Whether something lies there."""
        return self._type(path) != import_pyarrow("pyarrow.fs").FileType.NotFound

    def size(self, path: str) -> int:
        """Bytes of a file."""
        info = self.system.get_file_info(path)
        if info.size is None:
            raise FileNotFoundError(f"No file {self.address(path)}")
        return info.size

    def open(self, path: str) -> Any:
        """A file that pyarrow reads."""
        return self.system.open_input_file(path)

    def read(self, path: str) -> bytes:
        """All of a file; tried again after PAUSES where it is not simply missing.

        Raises:
            OSError: it can't be read.
        """
        for pause in PAUSES:
            try:
                return self._read_once(path)
            except FileNotFoundError:
                raise
            except OSError:
                time.sleep(pause)
        return self._read_once(path)

    def _read_once(self, path: str) -> bytes:
        with self.system.open_input_file(path) as file:
            return file.read()

    def _list(self, folder: str) -> list[Any]:
        fs = import_pyarrow("pyarrow.fs")
        selector = fs.FileSelector(folder, allow_not_found=True)
        return sorted(self.system.get_file_info(selector), key=lambda info: info.base_name)

    def names(self, folder: str) -> Iterator[str]:
        """Names of the files in a folder; none where there is no folder."""
        for info in self._list(folder):
            yield info.base_name

    def walk(self, folder: str, deepest: int | None = None) -> Iterator[str]:
        """Paths of the files in a folder and its sub-folders, without hidden ones.

        Args:
            folder: its path.
            deepest: how many levels of folders to go into; None for all.
        """
        waiting = [(folder, 1)]
        while waiting:
            current, level = waiting.pop()
            below = []
            listed = self._list(current)
            names = {info.base_name for info in listed}
            holds_books = current != folder and BOOKS in names
            for info in listed:
                if _is_hidden(info.base_name) or _is_result(info.base_name, holds_books):
                    continue
                if info.is_file:
                    yield info.path
                elif deepest is None or level < deepest:
                    below.append((info.path, level + 1))
            waiting += below[::-1]

    def glob(self, pattern: str) -> Iterator[str]:
        """Paths of the files that match a pattern, "**" for folders within each other."""
        parts = pattern.split("/")
        fixed = list(itertools.takewhile(lambda part: not glob.has_magic(part), parts))
        wanted = parts[len(fixed) :]
        deepest = None
        if "**" not in wanted:
            deepest = len(wanted)
        for path in self.walk("/".join(fixed), deepest):
            if _matches(path.split("/")[len(fixed) :], wanted):
                yield path

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[Any]:
        """A stream, of which a whole file is there when the block ends well."""
        target = path
        if self.system.type_name not in OBJECT_STORES:
            folder, _, name = path.rpartition("/")
            self.system.create_dir(folder, recursive=True)
            target = f"{folder}/.{name}.{os.getpid()}.part.parquet"
        with self.system.open_output_stream(target) as stream:
            yield stream
        if target != path:
            self.system.move(target, path)

    def write(self, path: str, content: Any) -> None:
        """Writes a file, wholly or not at all."""
        with self.writing(path) as stream:
            stream.write(content)

    def remove_unfinished(self, folder: str, beginning: str) -> None:
        """Removes what killed writers of files with that beginning left in a folder."""
        for name in self.names(folder):
            if name.startswith("." + beginning) and ".part." in name:
                self.system.delete_file(f"{folder}/{name}")

    @contextlib.contextmanager
    def locked(self, path: str) -> Iterator[None]:
        """Object stores have no locks: what two processes write there is the same."""
        yield


def _is_meant(path: str, pattern: str) -> bool:
    """Whether what a glob matches is a file and, of "**", nothing that a batch wrote."""
    if "**" in pattern:
        folder, name = os.path.split(path)
        if BOOKS in folder.split(os.sep):
            return False
        if RESULT.fullmatch(name) and os.path.isdir(os.path.join(folder, BOOKS)):
            return False
    return not os.path.isdir(path)


def _in_each_folder_once(paths: Iterable[str]) -> Iterator[str]:
    """Paths without those in a folder that was met by another way before, through a link.

    A link to a folder above it would otherwise multiply all that a "**" finds.
    """
    names: dict[tuple[int, int], str] = {}
    known: dict[str, bool] = {}
    for path in paths:
        folder = os.path.dirname(path)
        if folder not in known:
            status = os.stat(folder or ".")
            known[folder] = names.setdefault((status.st_dev, status.st_ino), folder) == folder
        if known[folder]:
            yield path


def _sorted_by_blocks(items: Iterable, key: Any = None) -> Iterator:
    """Items, sorted SORTED_NAMES at a time."""
    iterator = iter(items)
    while block := list(itertools.islice(iterator, SORTED_NAMES)):
        block.sort(key=key)
        yield from block


def _matches(parts: list[str], pattern: list[str]) -> bool:
    """Whether the parts of a path match those of a glob."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        rest_matches = _matches(parts, pattern[1:])
        return rest_matches or (bool(parts) and _matches(parts[1:], pattern))
    if not parts or parts[0].startswith(".") or not fnmatch.fnmatchcase(parts[0], pattern[0]):
        return False
    return _matches(parts[1:], pattern[1:])


# ---- Models --------------------------------------------------------------------------------------


def digest_of(path: str | os.PathLike) -> str:
    """A digest of a file, with the weights that lie beside an OpenVINO one, or of a folder."""
    digest = hashlib.sha256()
    for file in _files_of_model(os.fspath(path)):
        with open(file, "rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def _files_of_model(path: str) -> list[str]:
    if os.path.isdir(path):
        return sorted(LOCAL.walk(path))
    beside = os.path.splitext(path)[0] + ".bin"
    if path.lower().endswith(".xml") and os.path.exists(beside):
        return [path, beside]
    return [path]
