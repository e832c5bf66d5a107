"""Which images a job is about, one after the other, and their bytes.

    for entry in listing.entries(["photos", "s3://bucket/*.jpg", "table.parquet"], Options()):
        ...
    with Manifest.writing(path) as add: ...             # streamed to a Parquet file
    for entry, content in Reader(options).contents(manifest.rows(2000, 3000)): ...

A source is a file, a folder (with its sub-folders), a glob, a Parquet table with a column of paths
or of the images' bytes, or a list of paths (.txt, .csv, .tsv); on this machine or at an address
that `pyarrow.fs` opens. Nothing is held in memory that grows with the number of images. Keras and
TensorFlow are not imported.
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
# Lists of paths: lines of text, or tables with a first line of names.
LIST_SUFFIXES = (".txt", ".csv", ".tsv")
# Columns that are taken for the images', the first that there is in any case of its letters, where
# none is named: of those that hold the images first, then of those with paths.
BYTES_COLUMNS = ("image", "bytes", "image_bytes", "content", "img")
PATH_COLUMNS = (
    *("image", "img", "path", "image_path", "file_path", "filepath", "file_name", "filename"),
    *("file", "uri", "url"),
)
# Columns whose text is the name of an image that a table holds itself.
NAME_COLUMNS = ("path", "image_path", "file_path", "file_name", "filename", "key", "image_id", "id")
# Rows that are written, and rows of bytes that are read, at a time.
ROWS_AT_ONCE = 10_000
IMAGES_AT_ONCE = 16
# Files in which places are sorted out that were listed twice.
BUCKETS = 64


class Entry(NamedTuple):
    """An image of a job.

    Attributes:
        image: its name in the output, text that can be written as UTF-8.
        place: absolute path or address of its file, or of the table that holds it; "" for none.
        row: of the table; -1 for an image with a file of its own.
        stamp: of the table when it was listed, see `_stamp_of`; -1.
    """

    image: str
    place: str
    row: int = -1
    stamp: int = -1


@dataclasses.dataclass(frozen=True)
class Options:
    """How Parquet tables are read.

    Attributes:
        column: with the images, as bytes, as paths or as a struct of both (`bytes`, `path`); None:
            the one of IMAGE_COLUMNS that there is, or the only one that can be meant.
        name_column: with their names, of a table of bytes; None: a struct's path or one of
            NAME_COLUMNS, or else the table's name and the row.
        root: the folder that paths in tables are relative to; None: the folder that one works in,
            if the first path is there, or else the table's.
    """

    column: str | None = None
    name_column: str | None = None
    root: str | None = None


# ---- Listing -------------------------------------------------------------------------------------


def entries(sources: Sequence[str | os.PathLike], options: Options) -> Iterator[Entry]:
    """The images of sources, in an order that is the same in every run while nothing changes.

    A folder's are the files with an image's name; where it has none, its Parquet tables count.

    Raises:
        FileNotFoundError: a source is nothing; names it.
        ValueError: a table without a column that can be meant.
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
        raise FileNotFoundError(f"No file, folder or glob that matches anything. Received: {shown}")
    count = 0
    for path in paths:
        count += 1
        if _is_table(path):
            yield from _of_table(store, path, options)
        else:
            yield _of_file(store, path)
    if not count:
        raise FileNotFoundError(f"No file, folder or glob that matches anything. Received: {shown}")


def _of_folder(store: Any, folder: str, source: str, options: Options) -> Iterator[Entry]:
    """The images of a folder and its sub-folders."""
    count = 0
    tables = []
    others = 0
    other = ""
    for path in store.walk(folder):
        if _is_table(path):
            tables.append(path)
        elif files.is_image_name(path):
            count += 1
            yield _of_file(store, path)
        else:
            others += 1
            other = other or path
    if others:
        logger.warning(
            "%d files in %s have no image's name and are left out, such as %s; a glob takes all"
            " that match it",
            others,
            source,
            other,
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
    return path.lower().endswith(TABLE_SUFFIXES)


def _of_file(store: Any, path: str) -> Entry:
    """An image with a file of its own."""
    address = store.address(path)
    return Entry(printable(places.without_options(address)), places.absolute(address))


def printable(text: str) -> str:
    """A name as text that can be written: bytes of it that are no UTF-8 become \\udcxx."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


# ---- Tables --------------------------------------------------------------------------------------


class _Columns(NamedTuple):
    """What of a table is read.

    Attributes:
        images: column of the images.
        holds_bytes: whether it holds the images themselves; otherwise paths.
        is_struct: whether it has fields `bytes` and `path`.
        names: column of their names, "" for none.
    """

    images: str
    holds_bytes: bool
    is_struct: bool
    names: str


def _open_table(store: Any, path: str) -> Any:
    """A `pyarrow.parquet.ParquetFile`.

    Raises:
        ValueError: it is none; names it.
    """
    parquet = places.import_pyarrow("pyarrow.parquet")
    try:
        return parquet.ParquetFile(store.open(path))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise ValueError(f"{store.address(path)} can't be read as Parquet: {error}") from error


def _columns_of(schema: Any, options: Options, where: str) -> _Columns:
    """Which columns of a table are meant.

    Args:
        schema: pyarrow's, of the table.
        options: what was asked for.
        where: names the table in errors.
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
        others = {column: form for column, form in kinds.items() if form in ("paths", "number")}
        names = _first_of(NAME_COLUMNS, others) or ""
    return _Columns(image, kind != "paths", kind == "struct", names)


def _image_column(kinds: dict[str, str]) -> str | None:
    """The column that is meant where none is named; None where it can't be told.

    Args:
        kinds: {column: what it can be}, see `_kind_of`.
    """
    holding = {name: kind for name, kind in kinds.items() if kind in ("bytes", "struct")}
    paths = {name: kind for name, kind in kinds.items() if kind == "paths"}
    known = _first_of(BYTES_COLUMNS, holding) or _first_of(PATH_COLUMNS, paths)
    if known is None and len(holding) + len(paths) == 1:
        return next(iter({**holding, **paths}))
    return known


def _first_of(wanted: Sequence[str], names: Iterable[str]) -> str | None:
    """The first of the wanted names that there is, in any case of its letters."""
    there = {name.lower(): name for name in reversed(list(names))}
    return next((there[name] for name in wanted if name in there), None)


def _kind_of(kind: Any) -> str:
    """What a column can be by its type: "bytes", "paths", "struct", "number", "null" or ""."""
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
    """A number that is another one for other contents of a Parquet file.

    It is a digest of the file's end, which has places, sizes and bounds of all its columns.
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
    """The images that a table holds."""
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
    """The images whose paths a table has."""
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
        options: with `root`; None: the first relative path tells whether it is the folder that one
            works in or the table's.
        table: its path or address.
    """

    def __init__(self, options: Options, table: str):
        self._root = options.root
        self._table = table

    def place_of(self, path: str) -> str:
        """The absolute path or address of one of them; "" for none."""
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
    """The images of a file of paths: one a line, or in a column of a table with names."""
    address = store.address(path)
    where = places.without_options(address)
    folder = _Folder(options, address)
    # Bytes that are no UTF-8 are those of a file's name.
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
    """(path, name) of the rows of a table of text.

    Its first line has the columns' names; with one column alone it may be the first path.
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
        column = options.column or _first_of(PATH_COLUMNS, names)
    name_column = options.name_column or column
    if column not in names or name_column not in names:
        raise ValueError(
            f"{where}: its first line has the names of its columns, of which --column says the"
            f" one with the images' paths. Received: {files.several(names)}"
        )
    place = names.index(column)
    name_place = names.index(name_column)
    for row in _rows_of(lines, delimiter, where):
        if row and len(row) <= max(place, name_place):
            raise ValueError(f"{where}: expected {len(names)} columns in each row. Received: {row}")
        if row:
            yield row[place], row[name_place]


def _rows_of(lines: Iterable[str], delimiter: str, where: str) -> Iterator[list[str]]:
    """The rows of lines of text; ValueError for what is no such table."""
    try:
        yield from csv.reader(lines, delimiter=delimiter)
    except csv.Error as error:
        raise ValueError(f"{where}: expected rows of text. Received: {error}") from error


# ---- Each once -----------------------------------------------------------------------------------


class _Seen:
    """Tells which rows repeat an earlier row's place, with memory that does not grow.

    Digests of the places and their rows go to files by the digest's beginning, which are sorted one
    after the other at the end.
    """

    KIND = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<i8")])

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._files: list[Any] = []
        self.rows = 0

    def __enter__(self) -> _Seen:
        for _ in range(BUCKETS):
            self._files.append(self._stack.enter_context(tempfile.TemporaryFile()))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def add(self, entry: Entry) -> None:
        """The next row."""
        text = os.fsencode(entry.place) or entry.image.encode()
        text += b"\0%d" % entry.row
        digest = hashlib.blake2b(text, digest_size=16).digest()
        record = digest + self.rows.to_bytes(8, "little")
        self._files[digest[0] % BUCKETS].write(record)
        self.rows += 1

    def repeated(self) -> np.ndarray:
        """[n] int64, sorted, the rows that are not the first of their place."""
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
    pa = places.import_pyarrow()
    fields = [
        ("image", pa.string()),
        ("place", pa.binary()),  # a path may be no text
        ("row", pa.int64()),
        ("stamp", pa.int64()),
    ]
    return pa.schema(fields)


def write_manifest(store: Any, path: str, listed: Iterable[Entry]) -> tuple[int, int]:
    """Writes entries to a Parquet file, each place once.

    Args:
        store: `places.LocalFiles` or `places.RemoteFiles`.
        path: where to.
        listed: entries, in their order.

    Returns:
        how many were written, and how many left out because they had come before.
    """
    with tempfile.TemporaryDirectory() as folder, _Seen() as seen:
        first = os.path.join(folder, "listed.parquet")
        count = _write_entries(first, _noted(listed, seen))
        repeated = seen.repeated()
        once: Iterator[Entry] = Manifest(places.LOCAL, first).rows(0, count)
        with store.writing(path) as sink:
            _write_entries(sink, _without(once, repeated))
    return count - len(repeated), len(repeated)


def _noted(listed: Iterable[Entry], seen: _Seen) -> Iterator[Entry]:
    for entry in listed:
        seen.add(entry)
        yield entry


def _without(listed: Iterator[Entry], rows: np.ndarray) -> Iterator[Entry]:
    """Entries without those of some rows, sorted."""
    left_out = iter(rows.tolist())
    following = next(left_out, None)
    for row, entry in enumerate(listed):
        if row == following:
            following = next(left_out, None)
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
    """The entries of a job, in the file of `write_manifest`.

    Args:
        store: what reads it.
        path: of the file.
    """

    def __init__(self, store: Any, path: str):
        self._table = _open_table(store, path)
        metadata = self._table.metadata
        counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._starts = np.append(0, np.cumsum(counts)).astype(np.int64)
        self._group = -1  # that was read last, and what it holds
        self._block: Any = None

    def __len__(self) -> int:
        return self._table.metadata.num_rows

    def rows(self, start: int, stop: int) -> Iterator[Entry]:
        """The entries from number `start` to before `stop`."""
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
    columns = block.to_pydict()
    for image, place, row, stamp in zip(*columns.values()):
        yield Entry(image, os.fsdecode(place), row, stamp)


# ---- Reading -------------------------------------------------------------------------------------


class Reader:
    """The contents of entries: one after the other, so that tables are read forward once.

    Args:
        options: those of the listing.
    """

    def __init__(self, options: Options):
        self.options = options
        self._rows: _Rows | None = None

    def contents(self, listed: Iterable[Entry]) -> Iterator[tuple[Entry, Callable[[], np.ndarray]]]:
        """Each entry with a function that reads its image, which another thread may call.

        It returns [H, W, 3] uint8 and raises OSError or ValueError for what is no image.

        Raises:
            ValueError: a table has changed since it was listed.
        """
        for entry in listed:
            yield entry, self._content(entry)

    def _content(self, entry: Entry) -> Callable[[], np.ndarray]:
        if not entry.place:
            return _NoPath(entry.image)
        if entry.row < 0:
            return _File(entry.place)
        if self._rows is None or self._rows.place != entry.place:
            self._rows = _Rows(entry, self.options)
        value = self._rows.value(entry.row)
        if isinstance(value, dict):
            path = value.get("path")
            value = value["bytes"]
            if not value and path:
                folder = self.options.root or places.parent(entry.place)
                return _File(places.canonical(places.joined(folder, path)))
        return _Bytes(entry.image, value)


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
        self._end = -1  # of the row group that is being read

    def value(self, row: int) -> Any:
        """What the column has in a row."""
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
    """Reads an image of a path or an address."""

    place: str

    def __call__(self) -> np.ndarray:
        store, path = places.find(self.place)
        if store.is_local:
            return utils.read_image(path)
        return image_of(store.read(path), places.without_options(self.place))


@dataclasses.dataclass
class _Bytes:
    """Reads an image of its file's bytes."""

    name: str
    content: bytes | None

    def __call__(self) -> np.ndarray:
        if not self.content:
            raise ValueError(f"{self.name}: the table has no bytes in its row")
        return image_of(self.content, self.name)


@dataclasses.dataclass
class _NoPath:
    """Says that a table's row has no path."""

    name: str

    def __call__(self) -> np.ndarray:
        raise ValueError(f"{self.name}: the table has no path in this row")


def image_of(content: bytes, name: str) -> np.ndarray:
    """The image [H, W, 3] uint8 of a file's bytes.

    By way of a file: some readers take nothing else.

    Raises:
        OSError, ValueError: it is no image; the text has the name.
    """
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        try:
            return utils.read_image(file.name)
        except (OSError, ValueError) as error:
            text = str(error).replace(file.name, name)
            raise ValueError(text) from error
