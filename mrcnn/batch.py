"""Detection on any number of images, resumed after any interruption; results as Parquet files.

    python -m mrcnn.batch model.onnx photos "s3://bucket/*.jpg" table.parquet --output=detections

    batch.run(batch.Exported("model.onnx"), ["photos"], "detections")
    for image, result, error in batch.results("detections"): ...

The images are listed once, in `_job/inputs.parquet` of the output folder, and divided into parts of
equal size. The rows of a part are one file, part-000000.parquet and so on, which is written
atomically; a part whose file exists is not done again. No other state is kept, so each image is in
the output exactly once, whenever a process was killed. Parts are done in this process, or by actors
of Ray on any number of machines (`mrcnn.pool`), with the same files.

A row has `image`, `height`, `width`; `boxes` [N, (y1, x1, y2, x2)] in pixels, y2 and x2 outside;
`class_ids`, `class_names`, `scores`; `masks`, the counts of COCO's compressed run lengths, whose
size is (height, width); `keypoints`; and `error`, the reason why an image has no results: then the
lists are null, not empty. Requires pyarrow. TensorFlow is imported when a Keras model is made.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mrcnn import __version__, data, files, listing, places
from mrcnn.config import NOT_DETECTING, Config, setting_names, setting_text
from mrcnn.places import digest_of

logger = logging.getLogger(__name__)

# Beside the parts: the job, its images, and the lock of the process that works on it.
JOB = "_job/job.json"
MANIFEST = "_job/inputs.parquet"
LOCK = "_job/lock"
FORMAT = 1  # of job.json
# Without part_size a job has this many parts, of sizes between these two.
PARTS = 100
SMALLEST_PART = 16
LARGEST_PART = 1000
# Images that are read ahead of the model, in two threads.
READ_AHEAD = 4


# ---- Models --------------------------------------------------------------------------------------


@dataclasses.dataclass
class Exported:
    """Makes the model of a file that `MaskRCNN.export` wrote.

    Attributes:
        path: of the file or folder, the same on every machine of the job.
        threads: that one detection may use; None for the runtime's choice.
        device: see `runtime.load`.
    """

    path: str
    threads: int | None = None
    device: str = "cpu"

    def __call__(self) -> Any:
        from mrcnn import runtime

        return runtime.load(self.path, self.threads, self.device)

    def with_threads(self, count: int) -> Exported:
        """A copy with this number of threads; itself where `threads` is set."""
        return _with_threads(self, count)

    def identity(self) -> dict[str, Any]:
        """A digest of the model's files, which distinguishes it from others.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if not os.path.exists(self.path):
            raise FileNotFoundError(f"No file {self.path}")
        return {"weights": digest_of(self.path)}


@dataclasses.dataclass
class Trained:
    """Makes a `MaskRCNN` of a weight file.

    Attributes:
        settings: {name: value} of its `Config`, see `settings_of`.
        weights: path of the file, the same on every machine of the job.
        threads: that one operation may use; None for TensorFlow's choice.
    """

    settings: dict[str, Any]
    weights: str
    threads: int | None = None

    def __call__(self) -> Any:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        if self.threads:
            os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(self.threads))
        from mrcnn import model as modellib

        config = Config()
        for name, value in self.settings.items():
            setattr(config, name, value)
        model = modellib.MaskRCNN("inference", config, os.path.dirname(self.weights))
        model.load_weights(self.weights)
        return model

    def with_threads(self, count: int) -> Trained:
        """A copy with this number of threads; itself where `threads` is set."""
        return _with_threads(self, count)

    def identity(self) -> dict[str, Any]:
        """A digest of the weights, and the settings, which distinguish this model from others."""
        return {"weights": digest_of(self.weights), "settings": _plain(self.settings)}


def _with_threads(make: Any, count: int) -> Any:
    """A copy of an `Exported` or a `Trained`; itself where `threads` is set."""
    if make.threads is not None:
        return make
    return dataclasses.replace(make, threads=count)


def settings_of(config: Config) -> dict[str, Any]:
    """{name: value} of all settings of a config."""
    return {name: getattr(config, name) for name in sorted(setting_names())}


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings on which detections depend, as values that JSON can hold."""
    plain = {}
    for name, value in settings.items():
        if isinstance(value, np.ndarray):
            value = value.tolist()
        elif callable(value):
            value = setting_text(value)
        if name not in NOT_DETECTING:
            plain[name] = value
    return plain


# ---- Jobs ----------------------------------------------------------------------------------------


class Done(NamedTuple):
    """The outcome of a part.

    Attributes:
        part: its number.
        images: how many rows it has.
        objects: how many objects were detected.
        errors: how many rows have an error.
        first_error: the text of the first one; "" for none.
    """

    part: int
    images: int
    objects: int
    errors: int
    first_error: str = ""


@dataclasses.dataclass
class Summary:
    """The outcome of `run`.

    Attributes:
        images: how many the job has.
        before: how many of them were in parts that earlier runs had finished.
        objects: how many objects this run detected.
        errors: how many images of this run have an error.
        first_error: the text of the first one; "" for none.
        seconds: how long this run took.
    """

    images: int = 0
    before: int = 0
    objects: int = 0
    errors: int = 0
    first_error: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        now = self.images - self.before
        text = (
            f"{now} images in {self.seconds:.1f} s: {self.objects} objects, {self.errors} images"
            " with an error"
        )
        if self.before:
            text += f"; {self.before} images were done before"
        return text

    def add(self, done: Done) -> None:
        """Adds the counts of a part."""
        self.objects += done.objects
        self.errors += done.errors
        self.first_error = self.first_error or done.first_error


@dataclasses.dataclass
class Job:
    """A job, as stored in its output folder.

    Attributes:
        output: the folder, an absolute path or an address.
        images: how many there are.
        part_size: images of each part but the last, which may have fewer.
        requested: what must be the same when the job is resumed: inputs, model, tables, classes.
        options: how tables are read.
        class_names: by class id, background first.
        store: the files of this machine or of an object store, see `places.find`.
        folder: the output folder's path in there.
    """

    output: str
    images: int
    part_size: int
    requested: dict[str, Any]
    options: listing.Options
    class_names: list[str]

    def __post_init__(self) -> None:
        self.store, self.folder = places.find(self.output)

    @property
    def worker_class(self) -> type[Worker]:
        """The class whose instances do the parts, with the arguments of `Worker`."""
        return Worker

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return _number_of_parts(self.images, self.part_size)

    def path(self, name: str) -> str:
        """The path of a file in the output folder."""
        return f"{self.folder}/{name}"

    def part_path(self, part: int) -> str:
        """The path of a part's file."""
        return self.path(part_name(part))

    def rows_of(self, part: int) -> tuple[int, int]:
        """(start, stop) of the numbers of a part's images; stop is not included."""
        start = part * self.part_size
        return start, min(start + self.part_size, self.images)

    def finished(self) -> np.ndarray:
        """[parts] bool, which parts have their file."""
        finished = np.zeros(self.parts, bool)
        for name in self.store.names(self.folder):
            part = _part_number(name)
            if part is not None and part < self.parts:
                finished[part] = True
        return finished

    def manifest(self) -> listing.Manifest:
        """The list of its images."""
        return listing.Manifest(self.store, self.path(MANIFEST))


def part_name(part: int) -> str:
    """The name of a part's file."""
    return f"part-{part:06d}.parquet"


def _number_of_parts(images: int, part_size: int) -> int:
    """How many parts a number of images makes, of which the last may have fewer."""
    return -(-images // part_size)


def _part_number(name: str) -> int | None:
    """The number of a part by its file's name; None for another file."""
    number = name.removeprefix("part-").removesuffix(".parquet")
    if number.isascii() and number.isdigit() and part_name(int(number)) == name:
        return int(number)
    return None


def prepare(
    output: str | os.PathLike,
    inputs: Sequence[str | os.PathLike],
    options: listing.Options,
    class_names: Sequence[str],
    identity: dict[str, Any],
    part_size: int | None = None,
) -> Job:
    """The job of an output folder: the one that is stored there, or else a new one.

    Args:
        output, inputs, options, part_size: see `run`.
        class_names: by class id, background first.
        identity: what distinguishes the model from others, as values that JSON can hold.

    Raises:
        ValueError: the folder has another job; the message names what differs.
        FileNotFoundError: an input does not exist.
    """
    output = places.absolute(output)
    if options.root is not None:
        options = dataclasses.replace(options, root=places.absolute(options.root))
    requested = {
        "inputs": [listing.printable(places.absolute(source)) for source in inputs],
        "tables": dataclasses.asdict(options),
        "class_names": list(class_names),
        "model": identity,
    }
    requested = json.loads(json.dumps(requested, default=str))  # as it will be read: no tuples
    store, folder = places.find(output)
    path = f"{folder}/{JOB}"
    if store.exists(path):
        stored = _read_job(store, path)
        _check_same(stored["asked"], requested, output)
        if part_size not in (None, stored["part_size"]):
            raise ValueError(
                f"{output} has a job with parts of {stored['part_size']} images. Received:"
                f" {part_size}"
            )
    else:
        stored = _begin(store, folder, output, inputs, options, requested, part_size)
    return Job(
        output=output,
        images=stored["images"],
        part_size=stored["part_size"],
        requested=requested,
        options=options,
        class_names=list(requested["class_names"]),
    )


def _read_job(store: Any, path: str) -> dict[str, Any]:
    """The contents of a job.json; ValueError for a file that is none."""
    try:
        stored = json.loads(store.read(path))
        if stored["format"] == FORMAT:
            return stored
        reason = f"format {stored['format']}"
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error)
    raise ValueError(f"{path}: expected a job of mrcnn.batch, format {FORMAT}. Received: {reason}")


def _begin(
    store: Any,
    folder: str,
    output: str,
    inputs: Sequence[str | os.PathLike],
    options: listing.Options,
    requested: dict[str, Any],
    part_size: int | None,
) -> dict[str, Any]:
    """Lists the images and then writes job.json, whose contents it returns.

    A process that is killed in between leaves no job.json, and the next one lists them again.
    """
    parts = [name for name in store.names(folder) if _part_number(name) is not None]
    if parts:
        raise ValueError(
            f"{output} has files of parts and no {JOB}: choose an empty folder. Received:"
            f" {files.several(sorted(parts)[:6])}"
        )
    listed = listing.entries(inputs, options)
    count, repeated = listing.write_manifest(store, f"{folder}/{MANIFEST}", listed)
    if not count:
        raise ValueError(f"There is no image in {files.several(inputs)}")
    if repeated:
        logger.warning("%d images were listed more than once and are done once", repeated)
    if not part_size:
        part_size = min(max(-(-count // PARTS), SMALLEST_PART), LARGEST_PART)
    stored = {
        "format": FORMAT,
        "version": __version__,
        "images": count,
        "part_size": part_size,
        "asked": requested,
    }
    store.write(f"{folder}/{JOB}", json.dumps(stored, indent=1).encode())
    return stored


def _check_same(stored: dict, requested: dict, output: str) -> None:
    """ValueError for a job that differs from the one that is stored in the output folder."""
    differences = list(_differences(stored, requested, ""))
    if differences:
        raise ValueError(
            f"{output} has the results of another job; write to another folder, or ask for the"
            f" same: {files.several(differences)}"
        )


def _differences(before: Any, now: Any, name: str) -> Iterator[str]:
    """Texts of the differences between two JSON values, by name."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(set(before) | set(now)):
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    elif before != now:
        yield f"{name} was {files.short(before)}, is {files.short(now)}"


# ---- Rows ----------------------------------------------------------------------------------------


def schema() -> Any:
    """The `pyarrow.Schema` of a part."""
    pa = places.import_pyarrow()
    numbers = pa.list_(pa.float32())
    fields = [
        ("image", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("boxes", pa.list_(numbers)),
        ("class_ids", pa.list_(pa.int32())),
        ("class_names", pa.list_(pa.string())),
        ("scores", numbers),
        ("masks", pa.list_(pa.string())),
        ("keypoints", pa.list_(pa.list_(numbers))),
        ("error", pa.string()),
    ]
    return pa.schema(fields)


@dataclasses.dataclass
class _Image:
    """An image that was read, or could not be.

    Attributes:
        name: its name in the output; None for one without.
        pixels: [H, W, 3] uint8; None for one that can't be read.
        error: why it has no result; "" for one that has.
        failure: what reading it raised; None for nothing.
    """

    name: str | None
    pixels: np.ndarray | None = None
    error: str = ""
    failure: Exception | None = None


def _row(image: _Image, result: dict | None, class_names: Sequence[str]) -> dict[str, Any]:
    """The row of an image, by its result with run lengths, or its error where that is None."""
    row: dict[str, Any] = {"image": image.name}
    if image.pixels is not None:
        row["height"], row["width"] = image.pixels.shape[:2]
    if result is None:
        row["error"] = listing.printable(image.error)
        return row
    class_ids = np.asarray(result["class_ids"]).tolist()
    row["boxes"] = np.asarray(result["rois"], np.float32).reshape(-1, 4).tolist()
    row["class_ids"] = class_ids
    row["class_names"] = [_class_name(class_names, i) for i in class_ids]
    row["scores"] = np.asarray(result["scores"], np.float32).tolist()
    if result.get("masks") is not None:
        row["masks"] = [code["counts"] for code in result["masks"]]
    if result.get("keypoints") is not None:
        row["keypoints"] = np.asarray(result["keypoints"], np.float32).tolist()
    return row


def _class_name(names: Sequence[str], class_id: int) -> str:
    """The name of a class; "class 7" for one without."""
    if class_id < len(names):
        return names[class_id]
    return f"class {class_id}"


def _reason(error: BaseException) -> str:
    """An error as one line of text."""
    text = " ".join(str(error).split()) or "no reason given"
    if isinstance(error, (ValueError, OSError)):
        return text[:500]
    return f"{type(error).__name__}: {text}"[:500]


# ---- Detecting -----------------------------------------------------------------------------------


class Rows:
    """Runs a model on images and makes rows of the results, with the columns of `schema`.

    Args:
        model: has `detect(images, masks=)`; its `detect_many` is preferred where there is one.
        class_names: by class id, background first.
    """

    def __init__(self, model: Any, class_names: Sequence[str]):
        self.model = model
        self.class_names = class_names
        self._detected: np.ndarray | None = None  # pixels of the last image that had a result

    def of(self, images: Iterable[_Image]) -> Iterator[dict]:
        """The rows of images, in their order.

        Raises:
            Exception: what the model raised after its last result, where the reason is none that an
                image gives (ValueError, MemoryError), and it has no result, or no longer one, for
                the last image that had one.
        """
        failures: list[BaseException] = []  # since the last result
        for image, result, error in self._detect(iter(images)):
            if error is not None:
                image.error = _reason(error)
                if not isinstance(error, (ValueError, MemoryError)):
                    failures.append(error)
            if result is not None:
                failures.clear()
                self._detected = image.pixels
            yield _row(image, result, self.class_names)
        # The reason may be a lost device: rows of errors would mark good images as done.
        if failures and not self._still_detects():
            raise failures[0]

    def _still_detects(self) -> bool:
        """Whether the model still has a result for the last image that had one."""
        if self._detected is None:
            return False
        try:
            self.model.detect([self._detected], masks="rle")
        except Exception as error:
            logger.debug("the model fails for an image that had a result: %s", error)
            return False
        return True

    def _detect(
        self, images: Iterator[_Image]
    ) -> Iterator[tuple[_Image, dict | None, BaseException | None]]:
        """Each image with its result, None for one that has none, and the model's error, if any.

        The model gets one stream, so that it can prepare images ahead. Where it raises, the images
        that it has taken and not answered are detected one by one, and a new stream begins.
        """
        stream = _Stream(images)
        while not stream.ended:
            before = stream.count
            try:
                for result in self._detect_many(stream):
                    yield from stream.unreadable()
                    yield stream.waiting.popleft(), result, None
            except Exception as error:
                if stream.count == before and stream.failure is None:
                    raise  # no image was taken: the model itself has failed
                logger.debug("one by one: %s", error)
                for image in stream.drain():
                    yield self._detect_alone(image)
            if stream.failure is not None:
                raise stream.failure
            if not stream.ended and stream.count == before:
                raise ValueError(f"{type(self.model).__name__}.detect_many took no image")
        yield from stream.unreadable()

    def _detect_many(self, stream: _Stream) -> Iterator[dict]:
        """Results of the images of a stream, in their order."""
        if hasattr(self.model, "detect_many"):
            yield from self.model.detect_many(stream.pixels(), masks="rle")
            return
        for pixels in stream.pixels():
            yield self.model.detect([pixels], masks="rle")[0]

    def _detect_alone(self, image: _Image) -> tuple[_Image, dict | None, BaseException | None]:
        """An image with its result, or with the error that the model has with it."""
        if image.pixels is None:
            return image, None, None
        try:
            return image, self.model.detect([image.pixels], masks="rle")[0], None
        except Exception as error:
            return image, None, error


class Worker:
    """Does parts of a job, in this process or as an actor of Ray.

    Args:
        make: f() that makes the model, see `Rows`.
        job: the job.
    """

    def __init__(self, make: Callable[[], Any], job: Job):
        self.make = make
        self.job = job
        self._row_maker: Any = None
        self._manifest: Any = None
        self._readable: Callable[[], Any] | None = None  # reads the last image that could be read
        self._reader = listing.Reader(job.options)

    def load(self) -> None:
        """Makes the model and opens the list of images."""
        places.import_pyarrow("pyarrow.parquet")
        model = self.make()
        self._row_maker = Rows(model, self.job.class_names)
        self._reader.all_bands = data.takes_bands(getattr(model, "config", None))
        self._manifest = self.job.manifest()

    def do(self, part: int) -> Done:
        """Detects on the images of a part and writes its file.

        Raises:
            ValueError: a table of the input has changed.
            OSError: the file can't be written; or no image can be read any more, such as after a
                network or the rights of an object store were lost.
        """
        start, stop = self.job.rows_of(part)
        listed = self._manifest.rows(start, stop)
        rows = list(self._rows(listed))
        if len(rows) != stop - start:
            raise ValueError(
                f"Part {part} has {stop - start} images. Received: {len(rows)} results of the model"
            )
        self._write(part, rows)
        errors = [row["error"] for row in rows if row.get("error") is not None]
        objects = sum(len(row.get("class_ids") or ()) for row in rows)
        return Done(part, len(rows), objects, len(errors), next(iter(errors), ""))

    def _write(self, part: int, rows: list[dict]) -> None:
        """Writes a part's file atomically."""
        pa = places.import_pyarrow()
        parquet = places.import_pyarrow("pyarrow.parquet")
        table = pa.Table.from_pylist(rows, schema())
        buffer = pa.BufferOutputStream()
        parquet.write_table(table, buffer, compression="zstd")
        self.job.store.write(self.job.part_path(part), buffer.getvalue())

    def _rows(self, listed: Iterable[listing.Entry]) -> Iterator[dict]:
        """The rows of entries, in their order."""
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            yield from self._row_maker.of(self._read_ahead(pool, listed))

    def _read_ahead(self, pool: Any, listed: Iterable[listing.Entry]) -> Iterator[_Image]:
        """Images in their order, READ_AHEAD of which are being read in the pool's threads."""
        contents = self._reader.contents(listed)
        waiting: collections.deque = collections.deque()
        failure = None  # of the last image
        while True:
            while len(waiting) < READ_AHEAD:
                item = next(contents, None)
                if item is None:
                    break
                entry, read = item
                waiting.append((pool.submit(_read, entry.image, read), read))
            if not waiting:
                break
            future, read = waiting.popleft()
            image = future.result()
            failure = image.failure
            if failure is None:
                self._readable = read
            yield image
        if isinstance(failure, OSError):
            self._check_reading(failure)

    def _check_reading(self, failure: OSError) -> None:
        """Raises OSError where the last image that could be read can't be read any more.

        Otherwise rows of errors would mark all images that follow as done.
        """
        if self._readable is None:
            return
        try:
            self._readable()
        except OSError as error:
            raise OSError(
                f"Images that were read before can't be read any more: {_reason(error)}. Run it"
                f" again once they can. The last of the part: {_reason(failure)}"
            ) from failure


class OnColumns:
    """Detects on columns of images, as `map_batches` of Ray Data hands them over.

        detections = ray.data.read_images("s3://bucket/photos", include_paths=True).map_batches(
            batch.OnColumns,
            fn_constructor_args=[batch.Exported("model.onnx")],
            batch_size=16,
            concurrency=(1, 8),
        )
        detections.write_parquet("s3://bucket/detections")

    For images that a pipeline already holds. A killed pipeline starts again from its beginning,
    unlike `run`, which resumes.

    Args:
        make: f() that makes the model, see `Rows`.
        images: column of the images: [H, W, 3], [H, W, 1] or [H, W] of uint8, or the bytes of
            files. None: the first of `listing.BYTES_COLUMNS`, in upper or lower case.
        names: column of their names. None: the first of `listing.NAME_COLUMNS`, likewise, if any.
        class_names: by class id, background first; None for those that the model knows.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        images: str | None = None,
        names: str | None = None,
        class_names: Sequence[str] | None = None,
    ):
        if not callable(make):
            raise ValueError(
                "make is a function that makes the model, as batch.Exported(path). Received:"
                f" {type(make).__name__}"
            )
        self.images = images
        self.names = names
        self._warned = False
        model = make()
        if class_names is None:
            class_names = getattr(model, "class_names", ())
        self._all_bands = data.takes_bands(getattr(model, "config", None))
        self._row_maker = Rows(model, class_names)

    def __call__(self, columns: Mapping[str, Any]) -> Any:
        """Detects on a batch.

        Args:
            columns: {name: array of as many values as there are images}.

        Returns:
            A `pyarrow.Table`: the columns of `schema`, then those of the input without the images.

        Raises:
            ValueError: there is no column of that name, or none that holds images.
        """
        pa = places.import_pyarrow()
        image_column = _column_of(columns, self.images, listing.BYTES_COLUMNS, "images")
        if image_column is None:
            raise _no_column("images", listing.BYTES_COLUMNS, columns)
        name_column = _column_of(columns, self.names, listing.NAME_COLUMNS, "names")
        names: Iterable[Any] = itertools.repeat(None)
        if name_column is not None:
            names = columns[name_column]
        images = [
            _image_of_column(*pair, self._all_bands) for pair in zip(columns[image_column], names)
        ]
        table = pa.Table.from_pylist(list(self._row_maker.of(images)), schema())
        replaced = []
        for name, values in columns.items():
            if name == image_column:
                continue
            if name not in table.column_names:
                table = table.append_column(name, pa.array(list(values)))
            elif name not in (name_column, "height", "width"):
                replaced.append(name)
        if replaced and not self._warned:
            self._warned = True
            logger.warning(
                "The results have columns of these names, those of the input are left out: %s",
                ", ".join(replaced),
            )
        return table


def _column_of(
    columns: Mapping[str, Any], name: str | None, usual: Sequence[str], subject: str
) -> str | None:
    """The column that is named, which must exist; without a name the first usual one, or None.

    subject: what the column holds, for the error.
    """
    if name is None:
        return listing.first_of(usual, columns)
    if name not in columns:
        raise _no_column(subject, [name], columns)
    return name


def _no_column(subject: str, allowed: Sequence[str], columns: Mapping[str, Any]) -> ValueError:
    """The error for columns without one that is needed."""
    return ValueError(
        f"The column of the {subject} is {' or '.join(map(repr, allowed))}. Received: columns"
        f" {', '.join(map(repr, columns))}"
    )


def _image_of_column(value: Any, name: Any, all_bands: bool) -> _Image:
    """An image by a column's value, pixels or the bytes of a file; name: None for none."""
    if name is not None:
        name = listing.printable(str(name))
    return _read(name, lambda: _pixels(value, name or "the image", all_bands))


def _pixels(value: Any, name: str, all_bands: bool) -> np.ndarray:
    """The pixels [H, W, 3] uint8 of a column's value; ValueError for a value without.

    all_bands: see `utils.read_image`.
    """
    if isinstance(value, bytes):
        return listing.image_of(value, name, all_bands)
    is_of_bands = isinstance(value, np.ndarray) and value.ndim == 3 and value.shape[-1] > 4
    if all_bands and is_of_bands and value.dtype.kind in "uif":
        return value
    is_image = isinstance(value, np.ndarray) and value.dtype == np.uint8
    if not is_image or value.ndim not in (2, 3):
        received = type(value).__name__
        if isinstance(value, np.ndarray):
            received = f"{value.dtype} of the shape {value.shape}"
        raise ValueError(
            f"{name}: an image is [H, W], [H, W, 1] or [H, W, 3] of uint8, or the bytes of a file."
            f" Received: {received}"
        )
    if value.ndim == 2:
        value = value[..., None]
    if value.shape[-1] == 1:
        value = np.repeat(value, 3, axis=-1)
    return value[..., :3]


class _Stream:
    """Images that a model takes, and which of them have no result yet.

    Attributes:
        waiting: the images that were taken and have no result yet, in their order.
        count: how many were taken.
        ended: whether there are no more.
        failure: what the iterator of images raised; None if nothing.
    """

    def __init__(self, images: Iterator[_Image]):
        self._images = images
        self.waiting: collections.deque[_Image] = collections.deque()
        self.count = 0
        self.ended = False
        self.failure: Exception | None = None

    def pixels(self) -> Iterator[np.ndarray]:
        """The pixels [H, W, 3] uint8 of the images that could be read."""
        while True:
            try:
                image = next(self._images, None)
            except Exception as error:
                self.failure = error
                image = None
            if image is None:
                self.ended = True
                return
            self.count += 1
            self.waiting.append(image)
            if image.pixels is not None:
                yield image.pixels

    def unreadable(self) -> Iterator[tuple[_Image, None, None]]:
        """Removes the waiting images before the first that could be read; yields them."""
        while self.waiting and self.waiting[0].pixels is None:
            yield self.waiting.popleft(), None, None

    def drain(self) -> Iterator[_Image]:
        """Removes all waiting images; yields them."""
        while self.waiting:
            yield self.waiting.popleft()


def _read(name: str | None, content: Callable[[], np.ndarray]) -> _Image:
    """An image with its pixels, or with the reason why it can't be read."""
    try:
        return _Image(name, content())
    except Exception as error:  # decoders raise anything; one bad image must not end the job
        return _Image(name, None, _reason(error), error)


# ---- Running -------------------------------------------------------------------------------------


def run(
    model: Any,
    inputs: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    class_names: Sequence[str] | None = None,
    options: listing.Options | None = None,
    part_size: int | None = None,
    identity: dict[str, Any] | None = None,
    ray: Any = None,
    title: str = "",
) -> Summary:
    """Detects on all images of the inputs and writes Parquet files; resumes an interrupted job.

    Args:
        model: `Exported`, `Trained`, or another function without arguments that makes a model,
            which is called when there is a part to do; or a model, as `MaskRCNN`, `runtime.Model`.
        inputs: files, folders, globs, Parquet tables, as paths or addresses, see `listing`.
        output: the folder, as a path or an address.
        class_names: by class id, background first; None for those that the model knows.
        options: how tables are read.
        part_size: images of a part, which is the most that is lost when a process is killed. None:
            a hundredth of all, from 16 to 1,000; a resumed job keeps its own.
        identity: what distinguishes the model from others, as values that JSON can hold. None:
            `model.identity()`, or the weights and settings of a `MaskRCNN` or `runtime.Model`.
        ray: `pool.Ray` for actors of Ray; then `model` is a function. None for this process.
        title: of the progress bar; "" for none.

    Returns:
        `Summary`.

    Raises:
        ValueError: the output has another job's results (the message names what differs); a model
            without an identity; a table that has changed.
        FileNotFoundError: an input does not exist.
        ImportError: pyarrow, or Ray, is not installed.
        ChildProcessError: the actors of a part died repeatedly; the other parts are done.
    """
    places.import_pyarrow("pyarrow.parquet")
    _check_inputs(inputs, part_size)
    start = time.monotonic()
    if ray is not None and hasattr(model, "detect"):
        raise ValueError(
            "With Ray a model is made in each actor: give batch.Exported(path), batch.Trained(...)"
            f" or another function that makes it. Received: {type(model).__name__}"
        )
    if identity is None:
        identity = _identity_of(model)
    if isinstance(model, Exported) and class_names is None:
        loaded = model()
        class_names = loaded.class_names
        if ray is None:
            model = loaded
    if class_names is None:
        class_names = getattr(model, "class_names", ())
    make = model
    if hasattr(model, "detect"):
        make = _Constant(model)
    store, folder = places.find(places.absolute(output))
    with store.locked(f"{folder}/{LOCK}"):
        store.remove_unfinished(folder, "part-")
        store.remove_unfinished(os.path.dirname(f"{folder}/{JOB}"), "")
        job = prepare(
            output, inputs, options or listing.Options(), class_names, identity, part_size
        )
        summary = _work(make, job, ray, title, start)
    summary.seconds = time.monotonic() - start
    return summary


def _check_inputs(inputs: Any, part_size: int | None) -> None:
    """ValueError for inputs that are no list of sources, or a size below 1."""
    if isinstance(inputs, (str, os.PathLike)):
        raise ValueError(f"inputs is a list of files, folders and globs. Received: {inputs!r}")
    if not inputs:
        raise ValueError("inputs is a list of files, folders and globs. Received: an empty one")
    if part_size is not None and part_size < 1:
        raise ValueError(f"part_size is 1 or more. Received: {part_size}")


@dataclasses.dataclass
class _Constant:
    """A function that returns a model that was made before."""

    model: Any

    def __call__(self) -> Any:
        return self.model


def _identity_of(model: Any) -> dict[str, Any]:
    """The identity of a model, see `run`; ValueError for one without."""
    if hasattr(model, "identity"):
        return model.identity()
    if hasattr(model, "keras_model"):
        from mrcnn import training

        weights = training.fingerprint(model.keras_model)
        return {"weights": weights, "settings": _plain(settings_of(model.config))}
    raise ValueError(
        "identity is what tells the model's results from those of others, such as"
        f" {{'weights': 'version 3'}}. Received: none, and a {type(model).__name__} has none"
    )


def _work(make: Callable, job: Job, ray: Any, title: str, start: float) -> Summary:
    """Does the parts that have no file yet."""
    is_finished = job.finished()
    summary = Summary(job.images)
    for part in np.flatnonzero(is_finished).tolist():
        first, stop = job.rows_of(part)
        summary.before += stop - first
    if is_finished.all():
        return summary
    missing = np.flatnonzero(~is_finished)
    done: Iterator[Done]
    if ray is None:
        done = _in_this_process(make, job, missing)
    else:
        from mrcnn import pool

        done = pool.work(make, job, missing, ray)
    finished = summary.before
    with contextlib.closing(done):  # type: ignore[type-var]  # a generator
        for finished_part in done:
            summary.add(finished_part)
            finished += finished_part.images
            if title:
                files.show_progress(title, finished, job.images, time.monotonic() - start)
    return summary


def _in_this_process(make: Callable, job: Job, parts: np.ndarray) -> Iterator[Done]:
    """Does parts, [n] their numbers, one after the other."""
    worker = Worker(make, job)
    worker.load()
    for part in parts:
        yield worker.do(int(part))


# ---- Results -------------------------------------------------------------------------------------


def results(output: str | os.PathLike) -> Iterator[tuple[str, dict | None, str | None]]:
    """The results in an output folder, in the order of its parts.

    Yields:
        (image, result, error): result as `MaskRCNN.detect(masks="rle")` gives it, with
        `class_names` and `size` (height, width); None for an image with an error.

    Raises:
        FileNotFoundError: there are none. A job that is not finished is warned of.
        ValueError: a part that can't be read; the message names it.
    """
    parquet = places.import_pyarrow("pyarrow.parquet")
    store, folder = places.find(places.absolute(output))
    # Not by name: that of part 1,000,000 has a digit more and sorts before others.
    numbers = map(_part_number, store.names(folder))
    parts = sorted(number for number in numbers if number is not None)
    _check_results(store, folder, output, len(parts))
    for name in map(part_name, parts):
        for row in _rows_of(parquet, store, f"{folder}/{name}"):
            yield row["image"], _result_of(row), row["error"]


def _rows_of(parquet: Any, store: Any, path: str) -> list[dict]:
    """The rows of a part; ValueError, which names it, where it can't be read."""
    try:
        return parquet.ParquetFile(store.open(path)).read().to_pylist()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        address = store.address(path)
        raise ValueError(f"{address} can't be read as a part of a batch: {error}") from error


def _check_results(store: Any, folder: str, output: str | os.PathLike, count: int) -> None:
    """FileNotFoundError for a folder without results, a warning for one without all of them."""
    path = f"{folder}/{JOB}"
    if store.exists(path):
        stored = _read_job(store, path)
        expected = _number_of_parts(stored["images"], stored["part_size"])
        if count < expected:
            logger.warning("%s has %d of %d parts: its job is not done", output, count, expected)
    elif not count:
        raise FileNotFoundError(f"No results of a batch, {part_name(0)} and others, in {output}")


def _result_of(row: dict[str, Any]) -> dict[str, Any] | None:
    """The result in a row, see `results`; None for a row with an error."""
    if row["error"] is not None:
        return None
    size = (row["height"], row["width"])
    result = {
        "rois": np.array(row["boxes"], np.float32).reshape(-1, 4),
        "class_ids": np.array(row["class_ids"], np.int32),
        "class_names": row["class_names"],
        "scores": np.array(row["scores"], np.float32),
        "masks": None,
        "size": size,
    }
    if row["masks"] is not None:
        result["masks"] = [{"size": list(size), "counts": counts} for counts in row["masks"]]
    if row["keypoints"] is not None:
        result["keypoints"] = np.array(row["keypoints"], np.float32)
    return result


# ---- Command -------------------------------------------------------------------------------------


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Adds what a batch reads, and how an exported model runs."""
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="images, folders, globs, Parquet files, lists in .txt or .csv, s3://bucket/photos",
    )
    add_runtime_options(parser)


def add_runtime_options(parser: argparse.ArgumentParser) -> None:
    """Adds how an exported model runs: --threads, --device."""
    parser.add_argument("--threads", type=int, metavar="N", help="of an exported model's detection")
    parser.add_argument(
        "--device", default="cpu", help="of an exported model: cpu or gpu (default: %(default)s)"
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a batch: tables, parts, Ray."""
    group = parser.add_argument_group("batch")
    group.add_argument(
        "--column", metavar="NAME", help="Parquet: the column of the images' bytes or paths"
    )
    group.add_argument(
        "--name-column", metavar="NAME", help="Parquet with bytes: the column of their names"
    )
    group.add_argument(
        "--root", metavar="FOLDER", help="Parquet with paths: the folder that they are relative to"
    )
    group.add_argument(
        "--part-size",
        type=int,
        metavar="N",
        help="images of an output file (default: a hundredth of all, from 16 to 1000)",
    )
    group.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="work by actors of Ray: local (on this machine), auto, or a cluster's address",
    )
    group.add_argument(
        "--workers",
        metavar="MIN:MAX",
        help="Ray: how many actors (default: from 1 to what the cluster has room for)",
    )
    group.add_argument(
        "--cpus", type=float, metavar="N", help="Ray: cores of an actor (default: 4, or 1 of a GPU)"
    )
    group.add_argument(
        "--gpus", type=float, metavar="N", help="Ray: GPUs of an actor (default: 1 where there are)"
    )


def run_command(
    model: Any,
    args: argparse.Namespace,
    class_names: Sequence[str] | None = None,
) -> Summary:
    """Calls `run` with the options of `add_inputs` and `add_options`; prints the summary.

    Raises:
        ValueError: no image of this run has a result; what `run` refuses.
    """
    ray = None
    if args.ray is not None:
        from mrcnn import pool

        ray = pool.Ray(args.ray, pool.limits(args.workers), args.cpus, args.gpus)
    summary = run(
        model,
        args.inputs,
        args.output,
        class_names,
        listing.Options(args.column, args.name_column, args.root),
        args.part_size,
        ray=ray,
        title="detecting",
    )
    print(args.output)
    print(summary)
    now = summary.images - summary.before
    if now and summary.errors == now:
        raise ValueError(
            f"none of the {now} images has a result; the first error: {summary.first_error}"
        )
    return summary


def main(arguments: Sequence[str] | None = None) -> None:
    """Detects on any number of images by an exported model; see `run`."""
    parser = argparse.ArgumentParser(
        prog="python -m mrcnn.batch",
        description="Detects on any number of images by an exported model; writes Parquet files.",
        epilog="Killed and started again, it goes on. docs/scaling.md tells more.",
    )
    parser.add_argument("model", help=".onnx, .xml or .tflite file, or folder of a SavedModel")
    parser.add_argument("--output", default="results", metavar="FOLDER")
    add_inputs(parser)
    add_options(parser)
    parser.add_argument(
        "--traceback", action="store_true", help="show where in the program an error comes from"
    )
    args = files.parsed(parser, arguments)
    if args.model.lower().endswith((".h5", ".keras", ".pth", ".npz")):
        parser.error(
            f"{args.model} has weights without settings: export the model, or use a sample's"
            " command: python samples/coco/coco.py batch --weights=..."
        )
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    model = Exported(os.path.abspath(args.model), args.threads, args.device)
    run_command(model, args)


if __name__ == "__main__":
    # By its name: actors of Ray can't find what lies in __main__.
    from mrcnn import batch, commands

    commands.run(batch.main)
