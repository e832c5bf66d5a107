"""The images of a job, listed one after the other, and their contents.

    for entry in listing.entries(["photos", "s3://bucket/*.jpg", "table.parquet"], Options()):
        ...
    with Manifest.writing(path) as add: ...             # streamed to a Parquet file
    for entry, content in Reader(options).contents(manifest.rows(2000, 3000)): ...

A source is a file, a folder (with its sub-folders), a glob, a Parquet table with a column of paths
or of the images' bytes, or a list of paths (.txt, .csv, .tsv); on this machine or at an address
that `pyarrow.fs` opens. Memory use does not grow with the number of images. Keras and TensorFlow
are not imported.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import glob
import hashlib
import io
import itertools
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mrcnn import files, places, utils

logger = logging.getLogger(__name__)

TABLE_SUFFIXES = (".parquet", ".pq", ".parq")
# Lists of paths: lines of text, or tables whose first line names the columns.
LIST_SUFFIXES = (".txt", ".csv", ".tsv")
# Names of columns of images, in upper or lower case. Where no column is named, the first of those
# that hold the images' bytes is taken, or else the first of those that hold paths.
BYTES_COLUMNS = ("image", "bytes", "image_bytes", "content", "img")
PATH_COLUMNS = (
    *("image", "img", "path", "image_path", "file_path", "filepath", "file_name", "filename"),
    *("file", "uri", "url"),
)
# Names of columns with the names of images, of a table that holds their bytes.
NAME_COLUMNS = ("path", "image_path", "file_path", "file_name", "filename", "key", "image_id", "id")
# Rows of names and paths, and rows of images' bytes, that are held in memory at a time.
ROWS_AT_ONCE = 10_000
IMAGES_AT_ONCE = 16
# Temporary files among which `_Duplicates` divides its digests, so that each fits in memory.
BUCKETS = 64


class Entry(NamedTuple):
    """An image of a job.

    Attributes:
        image: its name in the output, text that can be written as UTF-8.
        place: absolute path or address of its file, or of the table that holds it; "" for none.
        row: its row in the table; -1 for an image with a file of its own.
        stamp: the table's `_stamp_of` when it was listed; -1 for an image with a file of its own.
    """

    image: str
    place: str
    row: int = -1
    stamp: int = -1


@dataclasses.dataclass(frozen=True)
class Options:
    """How Parquet tables are read.

    Attributes:
        column: name of the column of the images, as bytes, as paths or as a struct of both
            (`bytes`, `path`). None: the first of BYTES_COLUMNS or else of PATH_COLUMNS; without
            one, the only column of a type that can hold images.
        name_column: name of the column of their names, of a table of bytes. None: a struct's path,
            or the first of NAME_COLUMNS; without one, the table's name and the row.
        root: the folder that paths in tables are relative to. None: the working directory if the
            first path exists there, otherwise the table's folder.
    """

    column: str | None = None
    name_column: str | None = None
    root: str | None = None


# ---- Listing -------------------------------------------------------------------------------------


def entries(sources: Sequence[str | os.PathLike], options: Options) -> Iterator[Entry]:
    """The images of sources, in an order that is the same in every run while the files are.

    Of a folder these are the files with an image's suffix, or, where it has none, the images of its
    Parquet tables.

    Raises:
        FileNotFoundError: a source does not exist or has no images; the message names it.
        ValueError: a table without a column of images, or with several that could be meant.
    """
    for source in sources:
        yield from _of_source(os.fspath(source), options)


def _of_source(source: str, options: Options) -> Iterator[Entry]:
    """The images of one source."""
    shown = places.without_options(source)
    store, path = places.find(source)
    if store.is_folder(path):
        yield from _of_folder(store, path, shown, options)
        return
    if store.exists(path):
        if path.lower().endswith(LIST_SUFFIXES):
            yield from _of_list(store, path, options)
            return
        paths: Iterator[str] = iter([path])
    elif glob.has_magic(path):
        paths = store.glob(path)
    else:
        raise _no_match(shown)
    count = 0
    for path in paths:
        count += 1
        if _is_table(path):
            yield from _of_table(store, path, options)
        else:
            yield _of_file(store, path)
    if not count:
        raise _no_match(shown)


def _no_match(source: str) -> FileNotFoundError:
    """The error for a source without a file."""
    return FileNotFoundError(f"No file, folder or glob that matches anything. Received: {source}")


def _of_folder(store: Any, folder: str, source: str, options: Options) -> Iterator[Entry]:
    """The images of a folder and its sub-folders."""
    count = 0
    tables = []
    skipped = 0
    first_skipped = ""
    for path in store.walk(folder):
        if _is_table(path):
            tables.append(path)
        elif files.is_image_name(path):
            count += 1
            yield _of_file(store, path)
        else:
            skipped += 1
            first_skipped = first_skipped or path
    if skipped:
        logger.warning(
            "%d files in %s have no image's name and are left out, such as %s; a glob takes all"
            " that match it",
            skipped,
            source,
            first_skipped,
        )
    if count and tables:
        logger.warning(
            "%s has images; its %d Parquet files are left out, such as %s",
            source,
            len(tables),
            tables[0],
        )
    if not count and not tables:
        raise FileNotFoundError(f"No images and no Parquet files in the folder {source}")
    if not count:
        for path in tables:
            yield from _of_table(store, path, options)


def _is_table(path: str) -> bool:
    """Whether a path is a Parquet table's, by its suffix."""
    return path.lower().endswith(TABLE_SUFFIXES)


def _of_file(store: Any, path: str) -> Entry:
    """An image with a file of its own."""
    address = store.address(path)
    return Entry(printable(places.without_options(address)), places.absolute(address))


def printable(text: str) -> str:
    """A name as valid UTF-8: bytes of a file's name that are none are escaped as \\udcxx."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


# ---- Tables --------------------------------------------------------------------------------------


class _Columns(NamedTuple):
    """The columns of a table that are read.

    Attributes:
        images: name of the column of the images.
        holds_bytes: whether it holds the images' bytes; otherwise paths.
        is_struct: whether it has fields `bytes` and `path`.
        names: name of the column of their names, "" for none.
    """

    images: str
    holds_bytes: bool
    is_struct: bool
    names: str


def _open_table(store: Any, path: str) -> Any:
    """A table as a `pyarrow.parquet.ParquetFile`; ValueError, which names it, for another file."""
    parquet = places.import_pyarrow("pyarrow.parquet")
    try:
        return parquet.ParquetFile(store.open(path))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise ValueError(f"{store.address(path)} can't be read as Parquet: {error}") from error


def _columns_of(schema: Any, options: Options, where: str) -> _Columns:
    """The columns that are read of a table.

    Args:
        schema: the table's `pyarrow.Schema`.
        options: see `Options`.
        where: the table's name in errors.

    Raises:
        ValueError: a named column does not exist or holds something else; no column is named, and
            none or several could be meant.
    """
    kinds = {field.name: _kind_of(field.type) for field in schema}
    possible = [name for name, kind in kinds.items() if kind in ("bytes", "paths", "struct")]
    described = ", ".join(f"{field.name} ({field.type})" for field in schema)
    image = options.column
    if image is None:
        image = _image_column(kinds)
    if image is None and not possible:
        raise ValueError(
            f"{where} has no column of bytes, of paths or of structs of both. It has: {described}"
        )
    if image is None:
        raise ValueError(
            f"{where}: say which column has the images' bytes or paths (--column NAME). It has:"
            f" {described}"
        )
    if image not in kinds:
        raise ValueError(f"{where} has no column {image!r}. It has: {described}")
    if image not in possible:
        raise ValueError(
            f"{where}: a column of images holds bytes, paths, or structs with the fields bytes and"
            f" path. Received: {image!r} ({schema.field(image).type})"
        )
    kind = kinds[image]
    names = options.name_column or ""
    if names and names not in kinds:
        raise ValueError(f"{where} has no column {names!r}. It has: {described}")
    if not names and kind == "bytes":
        candidates = [column for column, form in kinds.items() if form in ("paths", "number")]
        names = first_of(NAME_COLUMNS, candidates) or ""
    return _Columns(image, kind != "paths", kind == "struct", names)


def _image_column(kinds: dict[str, str]) -> str | None:
    """The column of the images where none is named; None where it is not clear.

    Args:
        kinds: {column: its `_kind_of`}.
    """
    of_bytes = [name for name, kind in kinds.items() if kind in ("bytes", "struct")]
    of_paths = [name for name, kind in kinds.items() if kind == "paths"]
    usual = first_of(BYTES_COLUMNS, of_bytes) or first_of(PATH_COLUMNS, of_paths)
    if usual is None and len(of_bytes) + len(of_paths) == 1:
        return (of_bytes + of_paths)[0]
    return usual


def first_of(usual: Sequence[str], names: Iterable[str]) -> str | None:
    """The column with the first of the usual names, in upper or lower case; None for none.

    Args:
        usual: names in lower case.
        names: those of the columns.
    """
    by_lower_case: dict[str, str] = {}
    for name in names:
        by_lower_case.setdefault(name.lower(), name)
    return next((by_lower_case[name] for name in usual if name in by_lower_case), None)


def _kind_of(kind: Any) -> str:
    """What a column of a type can hold: "bytes", "paths", "struct", "number", "null" or ""."""
    types = places.import_pyarrow("pyarrow").types
    if types.is_dictionary(kind):
        kind = kind.value_type
    name = str(kind).split("[")[0]
    if name in ("binary", "large_binary", "binary_view", "fixed_size_binary"):
        return "bytes"
    if name in ("string", "large_string", "string_view"):
        return "paths"
    if types.is_integer(kind):
        return "number"
    if types.is_null(kind):
        return "null"
    if types.is_struct(kind):
        fields = {kind.field(i).name: _kind_of(kind.field(i).type) for i in range(kind.num_fields)}
        if fields.get("bytes") in ("bytes", "null"):
            return "struct"
    return ""


def _of_table(store: Any, path: str, options: Options) -> Iterator[Entry]:
    """The images of a Parquet file."""
    address = store.address(path)
    with contextlib.closing(_open_table(store, path)) as table:
        columns = _columns_of(table.schema_arrow, options, address)
        if columns.holds_bytes:
            yield from _of_bytes(table, columns, address, _stamp_of(store, path))
        else:
            yield from _of_paths(table, columns, address, options)


def _stamp_of(store: Any, path: str) -> int:
    """A number that changes with the contents of a Parquet file.

    A digest of the footer, which has the offsets, sizes and extremes of all columns: the file of
    many GB itself is not read.
    """
    size = store.size(path)
    with store.open(path) as file:
        file.seek(max(size - 8, 0))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(size - 8 - length, 0))
        digest = hashlib.blake2b(file.read(length + 8), digest_size=8)
    digest.update(b"%d" % size)
    return int.from_bytes(digest.digest(), "little", signed=True)


def _of_bytes(table: Any, columns: _Columns, address: str, stamp: int) -> Iterator[Entry]:
    """The images of a table of bytes."""
    place = places.absolute(address)
    for row, name in enumerate(_names_in(table, columns)):
        if name is None or name == "":
            name = f"{places.without_options(address)}#{row}"
        yield Entry(printable(str(name)), place, row, stamp)


def _names_in(table: Any, columns: _Columns) -> Iterator[Any]:
    """The name of each row, None for none."""
    column = columns.names
    if not column and columns.is_struct:
        fields = table.schema_arrow.field(columns.images).type
        if fields.get_field_index("path") >= 0:
            column = f"{columns.images}.path"
    if not column:
        yield from itertools.repeat(None, table.metadata.num_rows)
        return
    for batch in table.iter_batches(ROWS_AT_ONCE, columns=[column]):
        values = batch.column(0).to_pylist()
        for value in values:
            if isinstance(value, dict):
                value = value["path"]
            yield value


def _of_paths(table: Any, columns: _Columns, address: str, options: Options) -> Iterator[Entry]:
    """The images of a table of paths."""
    folder = _Folder(options, address)
    row = -1
    wanted = list(dict.fromkeys([columns.images, columns.names or columns.images]))
    for batch in table.iter_batches(ROWS_AT_ONCE, columns=wanted):
        values = batch.column(columns.images).to_pylist()
        names = itertools.repeat(None)
        if columns.names:
            names = batch.column(columns.names).to_pylist()
        for value, name in zip(values, names):
            row += 1
            if name is None or name == "":
                name = places.without_options(value or "")
            image = printable(str(name) or f"{places.without_options(address)}#{row}")
            yield Entry(image, folder.place_of(value or ""))


class _Folder:
    """The folder that the paths of a table or a list are relative to.

    Args:
        options: see `Options.root`.
        table: path or address of the table or list.
    """

    def __init__(self, options: Options, table: str):
        self._root = options.root
        self._table = table

    def place_of(self, path: str) -> str:
        """The absolute path or address of a path; "" for ""."""
        if not path:
            return ""
        if places.is_address(path) or os.path.isabs(path):
            return places.canonical(path)
        if self._root is None:
            self._root = os.getcwd()
            if not os.path.lexists(os.path.join(self._root, path)):
                self._root = places.parent(places.absolute(self._table))
        return places.canonical(places.joined(self._root, path))


# ---- Lists ---------------------------------------------------------------------------------------


def _of_list(store: Any, path: str, options: Options) -> Iterator[Entry]:
    """The images of a list of paths: one a line, or a column of comma-separated values."""
    address = store.address(path)
    where = places.without_options(address)
    folder = _Folder(options, address)
    # Names of files need not be UTF-8.
    with io.TextIOWrapper(
        store.open(path), encoding="utf-8-sig", errors="surrogateescape", newline=""
    ) as file:
        if path.lower().endswith(".txt"):
            lines = (line.strip("\r\n") for line in file)
            pairs: Iterable[tuple[str, str]] = ((line, line) for line in lines)
        else:
            pairs = _of_csv(file, options, where)
        for value, name in pairs:
            if "\0" in value:
                raise ValueError(f"{where}: expected a list of paths in UTF-8. Received: {value!r}")
            if value.strip():
                name = name or value
                yield Entry(printable(places.without_options(name)), folder.place_of(value))


def _of_csv(file: Any, options: Options, where: str) -> Iterator[tuple[str, str]]:
    """(path, name) of the rows of comma-separated, semicolon-separated or tab-separated values.

    The first line has the columns' names. With a single column it may be the first path instead.
    """
    first = file.readline()
    delimiter = max(",;\t", key=first.count)
    names = next(csv.reader([first], delimiter=delimiter), [])
    lines: Iterable[str] = file
    if len(names) == 1 and options.column is None:
        if files.is_image_name(names[0]):
            lines = itertools.chain([first], file)
        column: str | None = names[0]
    else:
        column = options.column or first_of(PATH_COLUMNS, names)
    name_column = options.name_column or column
    if column not in names or name_column not in names:
        raise ValueError(
            f"{where}: its first line has the names of its columns, of which --column says the"
            f" one with the images' paths. Received: {files.several(names)}"
        )
    path_index = names.index(column)
    name_index = names.index(name_column)
    for row in _rows_of(lines, delimiter, where):
        if row and len(row) <= max(path_index, name_index):
            raise ValueError(f"{where}: expected {len(names)} columns in each row. Received: {row}")
        if row:
            yield row[path_index], row[name_index]


def _rows_of(lines: Iterable[str], delimiter: str, where: str) -> Iterator[list[str]]:
    """The rows of separated values; ValueError, which names the file, for malformed ones."""
    try:
        yield from csv.reader(lines, delimiter=delimiter)
    except csv.Error as error:
        raise ValueError(f"{where}: expected rows of text. Received: {error}") from error


# ---- Duplicates ----------------------------------------------------------------------------------


class _Duplicates:
    """Finds the rows that repeat an earlier row's place, in memory that does not grow with them.

    Digests of the places, with the rows' numbers, are appended to BUCKETS temporary files by their
    first byte; at the end these are sorted one after the other.
    """

    KIND = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<i8")])

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._files: list[Any] = []
        self.rows = 0

    def __enter__(self) -> _Duplicates:
        for _ in range(BUCKETS):
            self._files.append(self._stack.enter_context(tempfile.TemporaryFile()))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def add(self, entry: Entry) -> None:
        """Notes the place of the next row."""
        text = os.fsencode(entry.place) or entry.image.encode()
        text += b"\0%d" % entry.row
        digest = hashlib.blake2b(text, digest_size=16).digest()
        record = digest + self.rows.to_bytes(8, "little")
        self._files[digest[0] % BUCKETS].write(record)
        self.rows += 1

    def repeated(self) -> np.ndarray:
        """[n] int64, sorted: the rows whose place an earlier row has."""
        repeats = []
        for file in self._files:
            file.seek(0)
            records = np.frombuffer(file.read(), self.KIND)
            order = np.lexsort((records["row"], records["low"], records["high"]))
            records = records[order]
            same = records["high"][1:] == records["high"][:-1]
            same &= records["low"][1:] == records["low"][:-1]
            repeats.append(records["row"][1:][same])
        return np.sort(np.concatenate(repeats))


# ---- Manifests -----------------------------------------------------------------------------------


def _schema() -> Any:
    """The `pyarrow.Schema` of a manifest."""
    pa = places.import_pyarrow()
    fields = [
        ("image", pa.string()),
        ("place", pa.binary()),  # a path need not be UTF-8
        ("row", pa.int64()),
        ("stamp", pa.int64()),
    ]
    return pa.schema(fields)


def write_manifest(store: Any, path: str, listed: Iterable[Entry]) -> tuple[int, int]:
    """Writes entries to a Parquet file, each place once.

    Args:
        store: `places.LocalFiles` or `places.RemoteFiles`.
        path: of the file, in the store.
        listed: entries, in their order.

    Returns:
        (written, repeated): how many entries were written, and how many were left out because an
        earlier one has the same place.
    """
    with tempfile.TemporaryDirectory() as folder, _Duplicates() as duplicates:
        all_listed = os.path.join(folder, "listed.parquet")
        count = _write_entries(all_listed, _noted(listed, duplicates))
        repeated = duplicates.repeated()
        with store.writing(path) as sink:
            rows = Manifest(places.LOCAL, all_listed).rows(0, count)
            _write_entries(sink, _without(rows, repeated))
    return count - len(repeated), len(repeated)


def _noted(listed: Iterable[Entry], duplicates: _Duplicates) -> Iterator[Entry]:
    """The entries themselves, each of which is added to `duplicates` on the way."""
    for entry in listed:
        duplicates.add(entry)
        yield entry


def _without(listed: Iterator[Entry], rows: np.ndarray) -> Iterator[Entry]:
    """The entries but those in the rows [n], which are sorted."""
    remaining = iter(rows.tolist())
    left_out = next(remaining, None)
    for row, entry in enumerate(listed):
        if row == left_out:
            left_out = next(remaining, None)
        else:
            yield entry


def _write_entries(sink: Any, listed: Iterator[Entry]) -> int:
    """Writes entries to a Parquet file, ROWS_AT_ONCE at a time; returns how many."""
    pa = places.import_pyarrow()
    parquet = places.import_pyarrow("pyarrow.parquet")
    count = 0
    schema = _schema()
    with parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
        while block := list(itertools.islice(listed, ROWS_AT_ONCE)):
            count += len(block)
            columns = {
                "image": [entry.image for entry in block],
                "place": [os.fsencode(entry.place) for entry in block],
                "row": [entry.row for entry in block],
                "stamp": [entry.stamp for entry in block],
            }
            writer.write_table(pa.table(columns, schema=schema), ROWS_AT_ONCE)
    return count


class Manifest:
    """The entries of a job, in a file by `write_manifest`.

    Args:
        store: `places.LocalFiles` or `places.RemoteFiles`.
        path: of the file, in the store.
    """

    def __init__(self, store: Any, path: str):
        self._table = _open_table(store, path)
        metadata = self._table.metadata
        counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._starts = np.append(0, np.cumsum(counts)).astype(np.int64)
        self._group = -1  # number of the row group that was read last
        self._block: Any = None  # its contents

    def __len__(self) -> int:
        return self._table.metadata.num_rows

    def rows(self, start: int, stop: int) -> Iterator[Entry]:
        """The entries with the numbers from `start` on, without `stop`."""
        stop = min(stop, len(self))
        while start < stop:
            group = int(np.searchsorted(self._starts, start, side="right")) - 1
            if group != self._group:
                self._block = self._table.read_row_group(group)
                self._group = group
            begin, end = self._starts[group : group + 2].tolist()
            count = min(stop, end) - start
            yield from _entries_in(self._block.slice(start - begin, count))
            start += count


def _entries_in(block: Any) -> Iterator[Entry]:
    """The entries in a `pyarrow.Table` of the columns of `_schema`."""
    columns = block.to_pydict()
    for image, place, row, stamp in zip(*columns.values()):
        yield Entry(image, os.fsdecode(place), row, stamp)


# ---- Reading -------------------------------------------------------------------------------------


class Reader:
    """Reads the images of entries; in their order, tables are read forward once.

    Args:
        options: those of the listing.

    Attributes:
        all_bands: see `utils.read_image`.
    """

    def __init__(self, options: Options):
        self.options = options
        self.all_bands = False
        self._rows: _Rows | None = None

    def contents(self, listed: Iterable[Entry]) -> Iterator[tuple[Entry, Callable[[], np.ndarray]]]:
        """Each entry with a function that reads its image, which another thread may call.

        Yields:
            (entry, f): f() returns [H, W, 3] uint8, or raises OSError or ValueError where the image
            can't be read.

        Raises:
            ValueError: a table has changed since it was listed.
        """
        for entry in listed:
            yield entry, self._content(entry)

    def _content(self, entry: Entry) -> Callable[[], np.ndarray]:
        """The function that reads an entry's image."""
        if not entry.place:
            return _NoPath(entry.image)
        if entry.row < 0:
            return _File(entry.place, self.all_bands)
        if self._rows is None or self._rows.place != entry.place:
            self._rows = _Rows(entry, self.options)
        value = self._rows.value(entry.row)
        if isinstance(value, dict):
            path = value.get("path")
            value = value["bytes"]
            if not value and path:
                folder = self.options.root or places.parent(entry.place)
                address = places.canonical(places.joined(folder, path))
                return _File(address, self.all_bands)
        return _Bytes(entry.image, value, self.all_bands)


class _Rows:
    """The images of a table of bytes, read forward.

    Args:
        entry: any of its entries.
        options: see `Options`.
    """

    def __init__(self, entry: Entry, options: Options):
        self.place = entry.place
        store, path = places.find(entry.place)
        if _stamp_of(store, path) != entry.stamp:
            raise ValueError(
                f"{entry.place} has changed since the job began, its rows may be others: write the"
                " results of the new one to another folder"
            )
        self._table = _open_table(store, path)
        self._column = _columns_of(self._table.schema_arrow, options, entry.place).images
        counts = [
            self._table.metadata.row_group(i).num_rows for i in range(self._table.num_row_groups)
        ]
        self._ends = np.cumsum(counts)
        self._values: Iterator[Any] = iter(())
        self._next = -1  # row of the next value
        self._end = -1  # first row behind the row group that is being read

    def value(self, row: int) -> Any:
        """The column's value in a row; rows are asked for in ascending order."""
        if not self._next <= row < self._end:
            group = int(np.searchsorted(self._ends, row, side="right"))
            self._end = int(self._ends[group])
            self._next = self._end - self._table.metadata.row_group(group).num_rows
            self._values = self._read(group)
        value: Any = None
        while self._next <= row:
            value = next(self._values)
            self._next += 1
        return value.as_py()

    def _read(self, group: int) -> Iterator[Any]:
        """The values of a row group."""
        batches = self._table.iter_batches(
            IMAGES_AT_ONCE, row_groups=[group], columns=[self._column]
        )
        for batch in batches:
            yield from batch.column(0)


@dataclasses.dataclass
class _File:
    """Reads an image at a path or an address."""

    place: str
    all_bands: bool

    def __call__(self) -> np.ndarray:
        store, path = places.find(self.place)
        if store.is_local:
            return self._read(path)
        name = places.without_options(self.place)
        return image_of(store.read(path), name, self.all_bands)

    def _read(self, path: str) -> np.ndarray:
        if self.all_bands:
            return utils.read_image(path, all_bands=True)
        return utils.read_image(path)


@dataclasses.dataclass
class _Bytes:
    """Reads an image by the bytes of its file."""

    name: str
    content: bytes | None
    all_bands: bool

    def __call__(self) -> np.ndarray:
        if not self.content:
            raise ValueError(f"{self.name}: the table has no bytes in its row")
        return image_of(self.content, self.name, self.all_bands)


@dataclasses.dataclass
class _NoPath:
    """Raises the error of a table's row without a path."""

    name: str

    def __call__(self) -> np.ndarray:
        raise ValueError(f"{self.name}: the table has no path in this row")


def image_of(content: bytes, name: str, all_bands: bool = False) -> np.ndarray:
    """The image [H, W, 3] uint8 by the bytes of its file.

    They are written to a temporary file, since the readers of some formats take nothing else.

    Args:
        content: JPEG, PNG, TIFF or another format that `utils.read_image` reads.
        name: the image's name in errors.
        all_bands: see `utils.read_image`.

    Raises:
        ValueError: it is no image that can be read.
    """
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        try:
            return utils.read_image(file.name, all_bands=all_bands)
        except (OSError, ValueError) as error:
            text = str(error).replace(file.name, name)
            raise ValueError(text) from error
