"""Local files and object stores, by paths and addresses such as s3://bucket/photos.

    store, path = places.find("s3://bucket/photos/a.jpg")
    content = store.read(path)

`LocalFiles` and `RemoteFiles` have the same methods: listing folders without holding them in
memory, reading, and atomic writing. All but local files are accessed through `pyarrow.fs`. Keras
and TensorFlow are not imported.
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
# Options of pyarrow.fs at the end of an address: ?region=eu-west-1&endpoint_override=...
QUERY = re.compile(r"\?[a-z_]+=[^?]*$")
# How many names of a folder are sorted at once. A larger folder is sorted in blocks, to limit the
# memory.
SORTED_NAMES = 100_000
# The folder of a batch job's own files, beside its results.
BOOKS = "_job"
RESULT = re.compile(r"part-[0-9]{6,}\.parquet")
# Seconds to wait between the attempts to read a file of an object store.
PAUSES = (1.0, 4.0)
# Types of file systems in which a file appears only when it is complete; in others it is written
# under a temporary name and renamed.
OBJECT_STORES = ("s3", "gcs", "abfs")


def import_pyarrow(name: str = "pyarrow") -> Any:
    """Imports pyarrow or a submodule of it.

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
    """The absolute path, for use in other processes; an address as it is."""
    text = os.fspath(text)
    if is_address(text):
        return text
    return os.path.abspath(text)


def canonical(text: str) -> str:
    """`absolute`, in which file:// addresses become paths, so that each file has one name."""
    if text[:7].lower() == "file://":
        text = find(text)[1]
    return absolute(text)


def _is_hidden(name: str) -> bool:
    """Whether a file or folder can't be one of images: it is hidden, or BOOKS."""
    return name.startswith(".") or name == BOOKS


def _is_result(name: str, is_output: bool) -> bool:
    """Whether a file is a result of a batch job, which must not be an input of another one.

    Args:
        name: of the file.
        is_output: whether its folder is a subfolder of the source and contains BOOKS.
    """
    return is_output and RESULT.fullmatch(name) is not None


def joined(folder: str, name: str) -> str:
    """The path or address of a name that is relative to a folder; an absolute one as it is."""
    if is_address(name) or os.path.isabs(name):
        return name
    if not is_address(folder):
        return os.path.join(folder, name)
    query = _query_of(folder)
    base = folder[: len(folder) - len(query)]
    return f"{base.rstrip('/')}/{name}{query}"


def parent(text: str) -> str:
    """The folder that contains a path or an address."""
    query = ""
    if is_address(text):
        query = _query_of(text)
    return os.path.dirname(text[: len(text) - len(query)]) + query


def find(text: str | os.PathLike) -> tuple[LocalFiles | RemoteFiles, str]:
    """The files that a path or an address belongs to, and the path among them.

    Raises:
        ValueError: an address of a kind that pyarrow does not know.
        ImportError: an address, where pyarrow is not installed.
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
    """A path, or an address without the options at its end, which may contain secrets."""
    if is_address(text):
        return text[: len(text) - len(_query_of(text))]
    return text


def _query_of(address: str) -> str:
    """The options at the end of an address; "" for none."""
    match = QUERY.search(address)
    if match is None:
        return ""
    return match[0]


_REMOTES: dict[tuple[str, str], RemoteFiles] = {}
_REMOTES_LOCK = threading.Lock()


def _remote(head: str, query: str) -> RemoteFiles:
    """The files of a bucket or host, to which a process connects once.

    Args:
        head: such as s3://bucket.
        query: options at the end of the address.
    """
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
    """Local files, by their paths; see `RemoteFiles`."""

    is_local = True

    def address(self, path: str) -> str:
        """The path as it is."""
        return path

    def is_folder(self, path: str) -> bool:
        """Whether a path is a folder."""
        return os.path.isdir(path)

    def exists(self, path: str) -> bool:
        """Whether the path exists; a broken link exists, too."""
        return os.path.lexists(path)

    def size(self, path: str) -> int:
        """The size of a file in bytes."""
        return os.path.getsize(path)

    def open(self, path: str) -> Any:
        """Opens a file for reading, as a `pyarrow.NativeFile`."""
        return import_pyarrow().OSFile(path, "rb")

    def read(self, path: str) -> bytes:
        """The contents of a file."""
        with open(path, "rb") as file:
            return file.read()

    def names(self, folder: str) -> Iterator[str]:
        """Names of the files and folders in a folder; none where it does not exist."""
        if os.path.isdir(folder):
            with os.scandir(folder) as entries:
                for entry in entries:
                    yield entry.name

    def walk(self, folder: str) -> Iterator[str]:
        """Paths of the files in a folder and its subfolders, without hidden ones and results.

        Sorted within each folder, see SORTED_NAMES. Links to folders are followed, and each folder
        is visited once.

        Raises:
            OSError: a folder can't be listed; names it.
        """
        pending = [folder]
        visited = set()
        while pending:
            current = pending.pop()
            status = os.stat(current)
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            is_output = current != folder and os.path.isdir(os.path.join(current, BOOKS))
            subfolders = []
            with os.scandir(current) as entries:
                visible = (entry for entry in entries if not _is_hidden(entry.name))
                for entry in _sorted_by_blocks(visible, key=lambda entry: entry.name):
                    if entry.is_dir():
                        subfolders.append(entry.path)
                    elif not _is_result(entry.name, is_output):
                        yield entry.path
            pending += sorted(subfolders, reverse=True)

    def glob(self, pattern: str) -> Iterator[str]:
        """Paths of the files that match a pattern, in which "**" matches any folders."""
        paths = _in_each_folder_once(glob.iglob(pattern, recursive=True))
        yield from _sorted_by_blocks(path for path in paths if _is_input(path, pattern))

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[str]:
        """The path of a temporary file that replaces `path` if the block ends without an error.

        It is flushed to the disk before.
        """
        with files.atomic(path) as temporary:
            yield temporary
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())

    def write(self, path: str, content: Any) -> None:
        """Writes a file atomically."""
        with self.writing(path) as temporary, open(temporary, "wb") as file:
            file.write(content)

    def remove_unfinished(self, folder: str, beginning: str) -> None:
        """Removes the temporary files that killed processes left, see `files.atomic`.

        beginning: of the names of the files that they were writing.
        """
        for name in self.names(folder):
            if name.startswith("." + beginning) and ".part." in name:
                with contextlib.suppress(FileNotFoundError):
                    os.remove(os.path.join(folder, name))

    @contextlib.contextmanager
    def locked(self, path: str) -> Iterator[None]:
        """Holds an exclusive lock on a lock file; that of a killed process is released.

        Raises:
            ValueError: another process holds it.
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
        prefix: beginning of all its paths: the bucket.
        head: beginning of all addresses, such as s3://bucket.
        query: the options at the end of addresses.
    """

    is_local = False

    def __init__(self, system: Any, prefix: str = "", head: str = "", query: str = ""):
        self.system = system
        self.prefix = prefix.rstrip("/")
        self.head = head
        self.query = query

    def path_of(self, rest: str) -> str:
        """The path in the file system of the rest of an address, after the bucket."""
        return f"{self.prefix}/{rest}".rstrip("/")

    def address(self, path: str) -> str:
        """The address of a path."""
        return f"{self.head}{path[len(self.prefix) :]}{self.query}"

    def _type(self, path: str) -> Any:
        return self.system.get_file_info(path).type

    def is_folder(self, path: str) -> bool:
        """Whether a path is a folder, or of a prefix of keys."""
        return self._type(path) == import_pyarrow("pyarrow.fs").FileType.Directory

    def exists(self, path: str) -> bool:
        """Whether the path exists."""
        return self._type(path) != import_pyarrow("pyarrow.fs").FileType.NotFound

    def size(self, path: str) -> int:
        """The size of a file in bytes.

        Raises:
            FileNotFoundError: there is no such file.
        """
        info = self.system.get_file_info(path)
        if info.size is None:
            raise FileNotFoundError(f"No file {self.address(path)}")
        return info.size

    def open(self, path: str) -> Any:
        """Opens a file for reading, as a `pyarrow.NativeFile`."""
        return self.system.open_input_file(path)

    def read(self, path: str) -> bytes:
        """The contents of a file. Errors are retried after PAUSES, unless the file is missing.

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
        """The `pyarrow.fs.FileInfo`s in a folder, sorted by name; [] where it does not exist."""
        fs = import_pyarrow("pyarrow.fs")
        selector = fs.FileSelector(folder, allow_not_found=True)
        return sorted(self.system.get_file_info(selector), key=lambda info: info.base_name)

    def names(self, folder: str) -> Iterator[str]:
        """Names of the files and folders in a folder; none where it does not exist."""
        for info in self._list(folder):
            yield info.base_name

    def walk(self, folder: str, deepest: int | None = None) -> Iterator[str]:
        """Paths of the files in a folder and its subfolders, without hidden ones and results.

        Args:
            folder: its path.
            deepest: how many levels of folders are listed, 1 for `folder` alone; None for all.
        """
        pending = [(folder, 1)]
        while pending:
            current, level = pending.pop()
            subfolders = []
            listed = self._list(current)
            names = {info.base_name for info in listed}
            is_output = current != folder and BOOKS in names
            for info in listed:
                if _is_hidden(info.base_name) or _is_result(info.base_name, is_output):
                    continue
                if info.is_file:
                    yield info.path
                elif deepest is None or level < deepest:
                    subfolders.append((info.path, level + 1))
            pending += subfolders[::-1]

    def glob(self, pattern: str) -> Iterator[str]:
        """Paths of the files that match a pattern, in which "**" matches any folders."""
        parts = pattern.split("/")
        fixed = list(itertools.takewhile(lambda part: not glob.has_magic(part), parts))
        magic = parts[len(fixed) :]
        deepest = None
        if "**" not in magic:
            deepest = len(magic)
        for path in self.walk("/".join(fixed), deepest):
            if _matches(path.split("/")[len(fixed) :], magic):
                yield path

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[Any]:
        """An output stream of a file that appears, complete, if the block ends without an error."""
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
        """Writes a file atomically."""
        with self.writing(path) as stream:
            stream.write(content)

    def remove_unfinished(self, folder: str, beginning: str) -> None:
        """Removes the temporary files that killed processes left in a folder, see `writing`.

        beginning: of the names of the files that they were writing.
        """
        for name in self.names(folder):
            if name.startswith("." + beginning) and ".part." in name:
                self.system.delete_file(f"{folder}/{name}")

    @contextlib.contextmanager
    def locked(self, path: str) -> Iterator[None]:
        """Does nothing: object stores have no locks, and two processes would write the same."""
        yield


def _is_input(path: str, pattern: str) -> bool:
    """Whether a match of a glob is a file and, if it has "**", not one that a batch job wrote."""
    if "**" in pattern:
        folder, name = os.path.split(path)
        if BOOKS in folder.split(os.sep):
            return False
        if RESULT.fullmatch(name) and os.path.isdir(os.path.join(folder, BOOKS)):
            return False
    return not os.path.isdir(path)


def _in_each_folder_once(paths: Iterable[str]) -> Iterator[str]:
    """Paths without those in folders that occurred before under another name, through a link.

    A link to a parent folder would otherwise multiply the matches of "**".
    """
    first_names: dict[tuple[int, int], str] = {}  # {device and inode of a folder: its first name}
    is_first: dict[str, bool] = {}  # {name of a folder: whether it is the first one}
    for path in paths:
        folder = os.path.dirname(path)
        if folder not in is_first:
            status = os.stat(folder or ".")
            first_name = first_names.setdefault((status.st_dev, status.st_ino), folder)
            is_first[folder] = first_name == folder
        if is_first[folder]:
            yield path


def _sorted_by_blocks(items: Iterable, key: Any = None) -> Iterator:
    """Items, sorted in blocks of SORTED_NAMES."""
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
    """The SHA-256 digest, in hexadecimal, of a model's file or of the files of its folder.

    OpenVINO's .xml is digested with the .bin of weights beside it.
    """
    digest = hashlib.sha256()
    for file in _files_of_model(os.fspath(path)):
        with open(file, "rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def _files_of_model(path: str) -> list[str]:
    """Paths of the files that a model consists of."""
    if os.path.isdir(path):
        return sorted(LOCAL.walk(path))
    beside = os.path.splitext(path)[0] + ".bin"
    if path.lower().endswith(".xml") and os.path.exists(beside):
        return [path, beside]
    return [path]
