"""Exported models in their runtimes, without TensorFlow and Keras.

    from mrcnn import runtime

    model = runtime.load("model.onnx")
    result = model.detect([image])[0]        # rois, class_ids, scores, masks, as MaskRCNN.detect
    print(model.class_names)

    python -m mrcnn.runtime model.onnx photos/ film.mp4 --output=results

This needs numpy and the one package that runs the file: onnxruntime, openvino or ai-edge-litert
(TensorFlow for a SavedModel). `mrcnn.export` writes the files and describes their contents.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import ctypes
import importlib
import io
import json
import logging
import math
import operator
import os
import pathlib
import threading
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from mrcnn import boxes as box_math, data, files, keypoints, masks as mask_math, utils
from mrcnn.config import Config, setting_names

logger = logging.getLogger(__name__)

FORMATS = ("saved_model", "onnx", "openvino", "litert")
# Runtimes try to start any number of threads, even one that ends the process.
MOST_THREADS = 1024
# Key of this package's json in a file's metadata.
METADATA_KEY = "mrcnn"
# OpenVINO's setting of how many values that meet int8 weights are rounded together; 0 for none.
DYNAMIC_QUANTIZATION = "DYNAMIC_QUANTIZATION_GROUP_SIZE"
# ONNX Runtime reads this environment variable once, when it is imported.
NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"
# A SavedModel has no metadata: the name of the file in its assets that holds this json.
ASSET = "mrcnn.json"
# Suffix of METADATA_KEY, for the key of the weights' checksum in an OpenVINO graph.
CHECKSUM = "_weights"
# Outputs of the graph in order.
OUTPUTS = ("boxes", "class_ids", "scores", "masks", "keypoints", "windows")
INPUT = "images"
SUFFIXES = {".onnx": "onnx", ".xml": "openvino", ".tflite": "litert"}
PACKAGES = {
    "saved_model": ("tensorflow", "tensorflow"),
    "onnx": ("onnxruntime", "onnxruntime"),
    "openvino": ("openvino", "openvino"),
    "litert": ("ai_edge_litert.interpreter", "ai-edge-litert"),
}
# Steps that `detect` does before the graph (on the image) or after it (on the result), by the
# setting that requests them: `Model` does them too, any other program has to. A file lists the
# steps that it needs.
AROUND = {
    "IMAGE_PERCENTILES": "the contrast of an image is stretched before it comes to the graph",
    "IMAGE_GAMMA": "what is stretched so is raised to a power",
    "DETECTION_MASK_OVERLAP": "detections that others of their class cover are left out",
}


# ---- Metadata of a file --------------------------------------------------------------------------


class Metadata(NamedTuple):
    """The metadata of an exported file.

    Attributes:
        class_names: by class id, background first.
        settings: {name: value} of the `Config`.
        version: of this package when it wrote the file.
        weights: {"file": path of the loaded weights, or None; "fingerprint": digest of the
            weights}.
        around: {name of a setting: the step outside the graph that it requests}, see `AROUND`.
        calibration: number of images that an int8 file was calibrated with; 0 for other files.
    """

    class_names: list[str]
    settings: dict[str, Any]
    version: str
    weights: dict[str, Any]
    around: dict[str, str]
    calibration: int = 0

    def config(self) -> Config:
        """The settings as a `Config`; functions, such as a custom BACKBONE, are not included."""
        config = Config()
        names = setting_names() & set(self.settings)
        computed = {name for name in names if isinstance(vars(Config)[name], property)}
        for name in names - computed:
            value = self.settings[name]
            if isinstance(getattr(Config, name), np.ndarray):
                value = np.array(value)
            setattr(config, name, value)
        for name in computed:
            # Derived settings stay derived unless they were assigned another value.
            if not np.array_equal(getattr(config, name), self.settings[name]):
                setattr(config, name, self.settings[name])
        return config


class LoadError(ValueError):
    """A file, a device or a number of threads that a runtime does not accept."""


def read_metadata(text: str | None, path: str | os.PathLike) -> Metadata:
    """The metadata in a file's json.

    Raises:
        LoadError: no such json, as in a file of another program or one that was converted further;
            or json of a newer version that requests an unknown step.
    """
    expected = (
        f"{path}: expected a file of mrcnn.export, whose metadata has class names, settings,"
        f" version and weights under {METADATA_KEY!r}."
    )
    if not text:
        raise LoadError(f"{expected} Received: a file without them")
    try:
        fields = json.loads(text)
        metadata = Metadata(**{"around": {}, **{name: fields[name] for name in _REQUIRED}})
        metadata = metadata._replace(
            around=dict(fields.get("around", {})), calibration=int(fields.get("calibration", 0))
        )
        _check_metadata(metadata)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoadError(f"{expected} Received: {text[:80]!r} ({error!r})") from error
    unknown = sorted(set(metadata.around) - set(AROUND))
    if unknown:
        raise LoadError(
            f"{path}: mrcnn {metadata.version} wrote it, and it needs what this version does not do"
            f" around the graph: {', '.join(unknown)}. Known: {', '.join(AROUND)}"
        )
    return metadata


# Required fields of the metadata; files of version 0.4.0 lack the others.
_REQUIRED = ("class_names", "settings", "version", "weights")


def _check_metadata(metadata: Metadata) -> None:
    """ValueError or TypeError for entries of a wrong type, or that contradict each other."""
    for name, kind in (("class_names", list), ("settings", dict), ("weights", dict)):
        value = getattr(metadata, name)
        if not isinstance(value, kind):
            raise TypeError(f"{name} is a {kind.__name__}, not {value!r}"[:80])
    names = len(metadata.class_names)
    count = metadata.settings["NUM_CLASSES"]
    if names != count:
        raise ValueError(f"{names} class names of {count} classes")
    metadata.config()


def format_of(path: str | os.PathLike) -> str:
    """The format by a file's suffix: .onnx, .xml (OpenVINO), .tflite; otherwise a SavedModel."""
    return SUFFIXES.get(pathlib.Path(path).suffix.lower(), "saved_model")


def is_exported(path: str | os.PathLike) -> bool:
    """Whether a path names an exported model or a part of one; a file need not exist."""
    path = pathlib.Path(path)
    if path.suffix.lower() in SUFFIXES or path.name == "saved_model.pb":
        return True
    if path.suffix.lower() == ".bin":
        return path.with_suffix(".xml").is_file()
    return path.is_dir() and (saved_model_in(path) / "saved_model.pb").is_file()


# ---- The runtimes --------------------------------------------------------------------------------
# Each has `metadata`, json or None; `shape`, [B, H, W, C] with None for dynamic sides; and
# `run(images)`, which returns the outputs by name.


class _Onnx:
    """ONNX Runtime."""

    def __init__(self, runtime, path, threads, device):
        options = runtime.SessionOptions()
        if not _is_calibrated(path):
            # Dequantize int8 weights when the file is loaded. By default onnxruntime quantizes the
            # activations too: scores of a toy model changed by .0026 instead of .0009, in twice
            # the time.
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        if threads:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        providers = self._providers(runtime, device)
        self.session = runtime.InferenceSession(str(path), options, providers=providers)
        chosen = self.session.get_providers()
        if providers[0] not in chosen:
            # onnxruntime falls back to the CPU and only logs it.
            raise LoadError(
                f"device {device!r} is known to this onnxruntime and can't be used here, as its log"
                f" says. Received: {', '.join(chosen)}"
            )
        meta = self.session.get_modelmeta().custom_metadata_map
        self.metadata = meta.get(METADATA_KEY)
        self.names = [output.name for output in self.session.get_outputs()]
        self.shape = [_side(side) for side in self.session.get_inputs()[0].shape]

    @staticmethod
    def _providers(runtime, device):
        """The execution providers for a device: its own, then the CPU's for missing operators."""
        available = {
            name.removesuffix("ExecutionProvider").lower(): name
            for name in runtime.get_available_providers()
        }
        name = {"gpu": "cuda"}.get(device.lower(), device.lower())
        if name not in available:
            raise LoadError(
                f"device is one of {', '.join(sorted(available))} in this onnxruntime."
                f" Received: {device!r}"
            )
        return list(dict.fromkeys([available[name], available["cpu"]]))

    def run(self, images):
        return dict(zip(self.names, self.session.run(self.names, {INPUT: images})))


class _OpenVino:
    """OpenVINO, in float32, as the other runtimes compute: its defaults depend on the processor.

    On CPUs with AMX that is bfloat16, and on those with VNNI, what int8 weights are multiplied with
    is rounded to int8, too.
    """

    def __init__(self, runtime, path, threads, device):
        core = runtime.Core()
        available = core.available_devices
        if device.upper() not in [*available, *(name.split(".")[0] for name in available)]:
            raise LoadError(
                f"device is one of {', '.join(available)} in this OpenVINO. Received: {device!r}"
            )
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if DYNAMIC_QUANTIZATION in core.get_property(device.upper(), "SUPPORTED_PROPERTIES"):
            settings[DYNAMIC_QUANTIZATION] = 0
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        network = core.read_model(str(path))
        self.metadata = None
        if network.has_rt_info([METADATA_KEY]):
            self.metadata = str(network.get_rt_info([METADATA_KEY]).astype(str))
        read_metadata(self.metadata, path)  # first, as other programs' files may lack the rest
        self._check_weights(network, pathlib.Path(path).with_suffix(".bin"), path)
        self.shape: list[int | None] = []
        for side in network.inputs[0].partial_shape:
            length = None
            if side.is_static:
                length = _side(side.get_length())
            self.shape.append(length)
        self.compiled = core.compile_model(network, device.upper(), settings)
        self.lock = threading.Lock()

    @staticmethod
    def _check_weights(network, weights, path):
        """LoadError for damaged weights or those of another export, even if their size fits."""
        key = [METADATA_KEY + CHECKSUM]
        if not network.has_rt_info(key):
            return  # written by an older version
        expected = str(network.get_rt_info(key).astype(str))
        if checksum(weights) != expected:
            raise LoadError(
                f"{weights} has other weights than those that were written with {path}: it is of"
                " another export, or damaged. The two files go together"
            )

    def run(self, images):
        with self.lock:  # it has one inference request, which only one thread may use at a time
            outputs = self.compiled(images)
        return {_name_of(output.names): np.array(value) for output, value in outputs.items()}


class _LiteRt:
    """LiteRT, formerly TensorFlow Lite, with its default kernels."""

    def __init__(self, runtime, path, threads, device):
        if device.lower() != "cpu":
            raise LoadError(f"device is cpu for a LiteRT file. Received: {device!r}")
        content = pathlib.Path(path).read_bytes()
        if content[4:8] != b"TFL3":
            raise LoadError(
                f"{path}: expected a LiteRT file. Received: one that begins with {content[:8]!r}"
            )
        self.metadata = _metadata_of_litert(content)
        read_metadata(self.metadata, path)
        # Its default is one thread; that of the other runtimes is one per core.
        threads = threads or _usable_cores()
        self.interpreter = runtime.Interpreter(model_content=content, num_threads=threads)
        self.runner = self.interpreter.get_signature_runner()
        details = self.runner.get_input_details()[INPUT]
        self.shape = [_side(int(side)) for side in details["shape_signature"]]
        self.lock = threading.Lock()

    def run(self, images):
        with self.lock:  # only one thread may use an interpreter at a time
            return self.runner(**{INPUT: images})


class _SavedModel:
    """TensorFlow."""

    def __init__(self, runtime, path, threads, device):
        _check_not_forked(path)
        if threads:
            try:
                runtime.config.threading.set_intra_op_parallelism_threads(threads)
            except RuntimeError as error:
                raise LoadError(
                    f"threads can be set before TensorFlow computes anything. Received: {threads},"
                    f" afterwards: {error}"
                ) from error
        folder = saved_model_in(pathlib.Path(path))
        asset = folder / "assets.extra" / ASSET
        self.metadata = None
        if asset.exists():
            self.metadata = asset.read_text(encoding="utf-8")
        read_metadata(self.metadata, path)
        self.device = self._device(runtime, device)
        self.runtime = runtime
        self.loaded = runtime.saved_model.load(str(folder))
        self.function = self.loaded.signatures["serving_default"]
        shape = self.function.structured_input_signature[1][INPUT].shape
        self.shape = [_side(side) for side in shape]

    @staticmethod
    def _device(runtime, device):
        """TensorFlow's name of a device; LoadError if missing, as TensorFlow would use the CPU."""
        available = [
            entry.name.removeprefix("/device:") for entry in runtime.config.list_logical_devices()
        ]
        if device.upper() not in [*available, *(name.split(":")[0] for name in available)]:
            raise LoadError(
                f"device is one of {', '.join(available)} in this TensorFlow. Received: {device!r}"
            )
        return device.upper()

    def run(self, images):
        with self.runtime.device(self.device):
            outputs = self.function(**{INPUT: self.runtime.constant(images)})
        return {name: value.numpy() for name, value in outputs.items()}


RUNTIMES: dict[str, Callable] = {
    "saved_model": _SavedModel,
    "onnx": _Onnx,
    "openvino": _OpenVino,
    "litert": _LiteRt,
}


def checksum(path: str | os.PathLike) -> str:
    """CRC-32 of a file's bytes, eight hexadecimal digits."""
    value = 0
    with open(path, "rb") as file:
        while part := file.read(2**20):
            value = zlib.crc32(part, value)
    return f"{value:08x}"


def _usable_cores() -> int:
    """Number of cores that this process may use: taskset or Slurm may allow only some."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _side(side: Any) -> int | None:
    """A side of the input; None if it is dynamic."""
    if isinstance(side, int) and side > 0:
        return side
    return None


def _name_of(names: Iterable[str]) -> str:
    """The name among an output's names that is one of `OUTPUTS`."""
    for name in names:
        if name in OUTPUTS:
            return name
    raise ValueError(f"An output is one of {', '.join(OUTPUTS)}. Received: {sorted(names)}")


def saved_model_in(folder: pathlib.Path) -> pathlib.Path:
    """The folder of saved_model.pb: `folder`, or the newest version in a model repository."""
    versions = [path for path in folder.glob("*/saved_model.pb") if path.parent.name.isdigit()]
    if (folder / "saved_model.pb").exists() or not versions:
        return folder
    return max(versions, key=lambda path: int(path.parent.name)).parent


def _is_calibrated(path: str | os.PathLike) -> bool:
    """Whether an ONNX file computes in int8; False for files that can't be read, too."""
    try:
        text = _metadata_of_onnx(path)
        return bool(text) and read_metadata(text, path).calibration > 0
    except (OSError, EOFError, LoadError):  # onnxruntime reports what is wrong with it
        return False


def _metadata_of_onnx(path: str | os.PathLike) -> str | None:
    """The text that an ONNX file stores under `METADATA_KEY`; None if there is none.

    Read without onnxruntime, whose options depend on it: of the fields of the file's protobuf
    message only the metadata (field 14) are read, the network is skipped.

    Raises:
        EOFError: the file is cut, or no protobuf message.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while file.tell() < size:
            field, kind = divmod(_varint(file), 8)
            if kind == 0:
                _varint(file)
                continue
            length = {1: 8, 5: 4}.get(kind)
            if kind == 2:
                length = _varint(file)
            if length is None or file.tell() + length > size:
                raise EOFError(f"{path}: not a whole ONNX file")
            if field != 14:
                file.seek(length, os.SEEK_CUR)
                continue
            entry = io.BytesIO(file.read(length))
            parts = {}
            while entry.tell() < length:
                number = _varint(entry) // 8
                parts[number] = entry.read(_varint(entry))
            if parts.get(1) == METADATA_KEY.encode():
                return parts.get(2, b"").decode("utf-8", "replace")
    return None


def _varint(file: BinaryIO) -> int:
    """The next variable-length integer of a protobuf message; EOFError at its end."""
    value = shift = 0
    while True:
        byte = file.read(1)
        if not byte or shift > 63:
            raise EOFError("a number of a protobuf message is cut")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7


def _metadata_of_litert(content: bytes) -> str | None:
    """The text that a LiteRT file stores under `METADATA_KEY`; None if there is none."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    for i in range(model.MetadataLength()):
        entry = model.Metadata(i)
        if entry.Name() == METADATA_KEY.encode():
            buffer = model.Buffers(entry.Buffer()).DataAsNumpy()
            return bytes(buffer).decode("utf-8")
    return None


# ---- Models --------------------------------------------------------------------------------------


class Fitted(NamedTuple):
    """An image as the graph's input.

    Attributes:
        pixels: [H, W, C] uint8, the input.
        shape: (height, width, C) of the original image.
        window: (y1, x1, y2, x2) of the original image in `pixels`, whole numbers.
    """

    pixels: np.ndarray
    shape: tuple[int, ...]
    window: np.ndarray

    @property
    def size(self) -> tuple[int, ...]:
        """The shape of the input."""
        return self.pixels.shape

    @property
    def is_resized(self) -> bool:
        """Whether the input differs in size from the original image."""
        return self.size != self.shape


class Model:
    """An exported model.

    A file with a fixed size (LiteRT, or an export with size=) takes images of other sizes too: they
    are resized to fit into that size and padded, with a warning. Detections are then only close to
    those of `MaskRCNN.detect`, closest where the size is that of molded images.

    A forked process may use the model: it loads the file itself, when it first detects. With a
    SavedModel it can't; that is a RuntimeError.

    Args:
        backend: one of the runtimes above.
        path: of the model's file.

    Attributes:
        metadata: the file's `Metadata`.
        class_names: names of the classes, background first.
        config: the model's settings.
        shape: (B, H, W, C) of the input, None for dynamic sides.
    """

    def __init__(self, backend: Any, path: str | os.PathLike):
        self.path = os.fspath(path)
        self.metadata = read_metadata(backend.metadata, path)
        self.class_names = self.metadata.class_names
        self.config = self.metadata.config()
        self.shape = tuple(backend.shape)
        if self.shape[0]:
            self.config.BATCH_SIZE = self.shape[0]
        self._backend = backend
        self._text = backend.metadata
        self._loading = threading.Lock()
        self._warned_of_size = False
        self._arguments: tuple = (os.path.abspath(self.path),)  # for `load`

    def __reduce__(self):
        """Copies and unpickled models load the file again."""
        arguments = (self._arguments, self._text, self.shape)
        return _loaded_again, arguments, {"config": self.config}

    def __repr__(self) -> str:
        return f"Model({self.path!r}, {len(self.class_names)} classes)"

    def identity(self) -> dict[str, Any]:
        """Identifies the model in stored results: a digest of its files."""
        from mrcnn import places

        return {"weights": places.digest_of(self._arguments[0])}

    @property
    def _images_per_batch(self) -> int:
        """Number of images in one batch."""
        return self.shape[0] or max(1, int(self.config.BATCH_SIZE))

    def detect(
        self,
        images: Sequence[np.ndarray],
        masks: str | None = None,
        tile: int | None = None,
        overlap: int | None = None,
        verbose: int = 0,
    ) -> list[dict]:
        """The results of `MaskRCNN.detect`; images of one size run in batches of BATCH_SIZE.

        Args:
            images: list of any number of images; [image] for a single one. Values as in
                `data.as_network_input`.
            masks, tile, overlap, verbose: see `MaskRCNN.detect`.

        Returns:
            a list of dicts: rois, class_ids, scores, masks, and keypoints if the model has them.

        Raises:
            ValueError: an image that the model does not accept; the message says which and why.
        """
        if tile is not None or overlap is not None:
            from mrcnn import tiles

            return tiles.detect_each(self, images, tile, overlap, masks)
        masks = masks or "dense"
        mask_math.check_form(masks)
        fitted = []
        for i, image in enumerate(data.images_in(images, "detect")):
            fitted.append(self.as_input(image, f"image {i}"))
        groups: dict[tuple, list[int]] = {}
        for i, entry in enumerate(fitted):
            groups.setdefault(entry.size, []).append(i)
        if verbose:
            print(f"Processing {len(fitted)} images")
        results: list[dict] = [{}] * len(fitted)
        step = self._images_per_batch
        for members in groups.values():
            for start in range(0, len(members), step):
                chunk = members[start : start + step]
                outputs = self.run(np.stack([fitted[i].pixels for i in chunk]))
                for row, i in enumerate(chunk):
                    results[i] = self._result(outputs, row, fitted[i], masks)
        return results

    def detect_many(
        self, items: Iterable, load: Callable | None = None, masks: str = "dense"
    ) -> Iterator[dict]:
        """`detect` for any number of images, as an iterator over the results.

        Consecutive images of one size run in batches of BATCH_SIZE.

        Args:
            items: images, or the items that `load` turns into images, such as paths.
            load: f(item) -> image.
            masks: as in `detect`.

        Raises:
            ValueError: immediately if items can't be iterated over; for an image that the model
                does not accept, after the results of those before it.
        """
        mask_math.check_form(masks)
        data.check_items(items, load)
        return self._detect_each(items, load, masks)

    def _detect_each(self, items, load, masks):
        """The results of `detect_many`; a thread reads and prepares the next images meanwhile."""
        step = self._images_per_batch
        numbered = enumerate(items)
        waiting: collections.deque = collections.deque()

        def prepare(number, item):
            image, where = data.loaded(number, item, load)
            return self.as_input(image, where)

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            while True:
                while len(waiting) < 2 * step:
                    entry = next(numbered, None)
                    if entry is None:
                        break
                    waiting.append(pool.submit(prepare, *entry))
                if not waiting:
                    return
                chunk = data.of_one_size(waiting, step, operator.attrgetter("size"))
                outputs = self.run(np.stack([image.pixels for image in chunk]))
                for row, image in enumerate(chunk):
                    yield self._result(outputs, row, image, masks)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs of the graph by name, see `mrcnn.export`.

        Args:
            images: [B, H, W, C] uint8. B may be smaller than the fixed batch of a file.

        Raises:
            ValueError: a wrong shape or dtype.
        """
        images = np.asarray(images)
        count = len(images)
        batch = self.shape[0]
        expected = (self.shape[1], self.shape[2], self.config.IMAGE_CHANNEL_COUNT)
        fits = images.ndim == 4 and images.size and count <= (batch or count)
        if fits:
            fits = all(side in (None, n) for side, n in zip(expected, images.shape[1:]))
        if not fits or images.dtype != np.uint8:
            raise ValueError(
                f"{self.path} takes uint8 [B, H, W, C] of {(batch, *expected)}, None for any."
                f" Received: {images.dtype} of shape {images.shape}"
            )
        if batch and count < batch:
            images = np.concatenate([images, np.repeat(images[-1:], batch - count, axis=0)])
        outputs = self._running_backend().run(images)
        return {name: value[:count] for name, value in outputs.items()}

    def _running_backend(self):
        """The backend; a forked process loads its own at the first use."""
        with self._loading:
            if self._backend is None:
                backend = _backend_of(*self._arguments)
                _check_same(self._arguments[0], backend, self._text, self.shape)
                self._backend = backend
            return self._backend

    def _leave_backend(self):
        """In a forked process: neither uses nor destroys the backend of the first process.

        Its threads are not in this process: both would wait for them forever, to destroy it even
        when the process ends. One reference that is never given back keeps it from that.
        """
        self._loading = threading.Lock()  # another thread may have held it
        if self._backend is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._backend))
            self._backend = None

    def as_input(self, image: np.ndarray, where: str) -> Fitted:
        """An image as the graph's input, of the size that the file takes.

        Args:
            image: [H, W] or [H, W, C], see `data.as_network_input`.
            where: names the image in errors.

        Raises:
            ValueError: an image that the model does not accept.
        """
        array = data.as_network_input(image, self.config, where)
        if None in self.shape[1:3]:
            data.check_sides(array.shape, self.config, where)
        if not _are_bytes(array):
            raise ValueError(_not_bytes(array, where))
        array = array.astype(np.uint8, copy=False)
        if not array.size:
            raise ValueError(f"An image has pixels. Received: {where} of shape {array.shape}")
        height, width = (side or n for side, n in zip(self.shape[1:3], array.shape))
        if (height, width) == array.shape[:2]:
            return Fitted(array, array.shape, np.array([0, 0, height, width]))
        if not self._warned_of_size:
            self._warned_of_size = True
            logger.warning(
                "%s was exported for images of %d x %d pixels: %s of %d x %d, and any other, is"
                " resized to fit into that and padded. export(size=...) takes another size, and"
                " ONNX and OpenVINO any",
                *(self.path, height, width, where, *array.shape[:2]),
            )
        return _fitted(array, height, width, self.config)

    def _result(self, outputs, row, image, form):
        """The result of `image`, a `Fitted`: row `row` of a batch's outputs."""
        valid = np.flatnonzero(outputs["class_ids"][row] > 0)
        scores = outputs["scores"][row]
        # Not the length of the outputs: ONNX and OpenVINO files give only what they detect.
        data.tell_of_limit(scores[valid], self.config.DETECTION_MAX_INSTANCES)
        inside = exact = in_pixels = outputs["boxes"][row][valid]
        if image.is_resized:
            in_pixels = _in_image(exact, image, self.config.BOX_FRAME)
            inside = np.clip(in_pixels, 0, np.tile(image.shape[:2], 2)).astype(np.float32)
        rows, boxes = box_math.visible(inside, self.config.ROUND_DETECTIONS)
        valid, exact, in_pixels, inside = (x[rows] for x in (valid, exact, in_pixels, inside))
        result = {
            "rois": boxes,
            "class_ids": outputs["class_ids"][row][valid],
            "scores": outputs["scores"][row][valid],
            "masks": None,
        }
        if "keypoints" in outputs:
            maps = outputs["keypoints"][row][valid]
            window = outputs["windows"][row].astype(np.float64)
            frame = self.config.BOX_FRAME
            points = _keypoints(maps, exact, window, image.size, frame)
            if image.is_resized:
                points[..., :2] = _points_in_image(points[..., :2], image)
            result["keypoints"] = points
        if "masks" in outputs:
            soft = outputs["masks"][row][valid]
            if image.is_resized and soft.dtype == np.uint8:
                soft = _unfitted_masks(soft, image)
            elif image.is_resized:
                soft = _resampled_masks(soft, in_pixels, inside)
            lazy = self._placed(soft, boxes, inside, image.shape)
            return self._with_masks(result, lazy, form)
        return result

    def _placed(self, soft, boxes, exact, image_shape):
        """The `masks.Masks` of a mask head's output, or of masks that the graph pasted."""
        if soft.dtype == np.uint8:
            whole = np.tile([0, 0, *image_shape[:2]], (len(soft), 1))
            return mask_math.Masks(soft, whole, image_shape)
        return mask_math.placed(soft, boxes, exact, image_shape, self.config.MASK_PASTE, "lazy")

    def _with_masks(self, result, lazy, form):
        """The result with masks, without the detections that DETECTION_MASK_OVERLAP removes."""
        limit = self.config.DETECTION_MASK_OVERLAP
        if limit < 1:
            remain = lazy.uncovered(result["class_ids"], limit)
            lazy = lazy.only(remain)
            for name, values in result.items():
                if values is not None:
                    result[name] = values[remain]
        result["masks"] = mask_math.in_form(lazy, form)
        return result


# ---- Images of another size than the file's ------------------------------------------------------


def _fitted(array: np.ndarray, height: int, width: int, config: Config) -> Fitted:
    """An image [h, w, C] resized into one of height x width, padded as `detect` pads.

    The graph resizes all its inputs by one scale. The image is resized here so that both scales
    together are that of `detect`, or less if it would not fit; its position is that of `detect`. If
    the file has the molded size, the network's input is the same as in `detect`.
    """
    file_scale = _molding_scale((height, width), config)
    scale = _molding_scale(array.shape, config) / file_scale
    scale = min(scale, height / array.shape[0], width / array.shape[1])
    sides = []
    for side, limit in zip(array.shape, (height, width)):
        new_side = round(side * scale)
        if config.FLOAT_RESIZE and file_scale == 1:
            new_side = math.floor(side * scale)
        sides.append(max(1, min(limit, new_side)))
    rows, columns = sides
    top = left = 0
    if config.IMAGE_RESIZE_MODE in ("square", "pad64"):
        top = (height - rows) // 2
        left = (width - columns) // 2
    pixels = np.zeros((height, width, array.shape[2]), np.uint8)
    if config.FLOAT_RESIZE:  # `detect` pads with 0 after the mean is subtracted
        pixels[:] = np.clip(np.rint(config.MEAN_PIXEL), 0, 255)
    resized = utils.resized(array, rows, columns, config.FLOAT_RESIZE)
    pixels[top : top + rows, left : left + columns] = resized
    return Fitted(pixels, array.shape, np.array([top, left, top + rows, left + columns]))


def _molding_scale(shape: Sequence[int], config: Config) -> float:
    """New size / old size of an image when it is molded."""
    limits = (config.IMAGE_MIN_DIM, config.IMAGE_MAX_DIM, config.IMAGE_MIN_SCALE)
    mode = config.IMAGE_RESIZE_MODE
    return utils.resized_size(shape, *limits, mode, config.FLOAT_RESIZE)[0]


def _in_image(boxes: np.ndarray, image: Fitted, frame: str) -> np.ndarray:
    """Maps boxes [n, 4] in pixels of the graph's input to those of the original image, float32."""
    size = image.pixels.shape
    window = box_math.norm_boxes(image.window, size, frame)
    normalised = box_math.in_window(box_math.norm_boxes(boxes, size, frame), window)
    return box_math.denorm_boxes(normalised, image.shape, frame, whole=False)


def _points_in_image(points: np.ndarray, image: Fitted) -> np.ndarray:
    """Maps points [..., (y, x)] in pixels of the graph's input to those of the original image."""
    corner, end = np.split(image.window.astype(np.float64), 2)
    return (points - corner) * (image.shape[:2] / (end - corner))


def _sampled(array: np.ndarray, at_y: np.ndarray, at_x: np.ndarray) -> np.ndarray:
    """Bilinear samples [h, w, ...] of an array [H, W, ...] at at_y [h], at_x [w]; edges repeat."""
    values = array.astype(np.float32)
    for axis, at in enumerate((at_y, at_x)):
        last = array.shape[axis] - 1
        at = np.clip(at, 0, last)
        low = np.floor(at).astype(int)
        share = (at - low).astype(np.float32)
        share = np.expand_dims(share, tuple(i for i in range(values.ndim) if i != axis))
        above = values.take(np.minimum(low + 1, last), axis)
        values = values.take(low, axis) * (1 - share) + above * share
    return values


def _resampled_masks(soft: np.ndarray, boxes: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Masks [n, h, w] of boxes [n, 4], resampled to parts [n, 4] of these boxes: [n, h, w]."""
    soft = soft.copy()
    cells = np.tile(soft.shape[1:], 2)
    for number in np.flatnonzero((boxes != parts).any(axis=1)):
        corner = np.tile(boxes[number, :2], 2)
        extent = np.tile(boxes[number, 2:] - boxes[number, :2], 2)
        part = (parts[number] - corner) / extent * cells
        coordinates = []
        for axis, count in enumerate(soft.shape[1:]):
            step = (part[axis + 2] - part[axis]) / count
            coordinates.append(part[axis] + (np.arange(count) + 0.5) * step - 0.5)
        soft[number] = _sampled(soft[number], *coordinates)
    return soft


def _unfitted_masks(masks: np.ndarray, image: Fitted) -> np.ndarray:
    """Masks [n, height, width] of the original image, from masks [n, H, W] of the graph's input."""
    corner, end = np.split(image.window, 2)
    rows, columns = (
        first + ((np.arange(side) + 0.5) * (last - first) / side).astype(int)
        for side, first, last in zip(image.shape, corner, end)
    )
    return masks[:, rows][:, :, columns]


def _are_bytes(array: np.ndarray) -> bool:
    """Whether all values, of any dtype, are whole numbers of 0..255 and fit into uint8."""
    if array.dtype.kind in "bu" and array.dtype.itemsize == 1:
        return True
    if not array.size or not (array.min() >= 0 and array.max() <= 255):  # False with NaN
        return False
    return array.dtype.kind != "f" or np.array_equal(array, np.rint(array))


def _not_bytes(array: np.ndarray, where: str) -> str:
    """The error message for an image whose values don't fit into uint8."""
    low = array.min()
    high = array.max()
    hint = "; a model that is trained and exported with IMAGE_PERCENTILES takes any values"
    if low >= 0 and high <= 255:
        hint = "; np.rint(image).astype('uint8')"
    return (
        "An exported model takes images of uint8, or whole numbers of 0..255. Received: "
        f"{where} of dtype {array.dtype}, values {low:g}..{high:g}{hint}"
    )


def _keypoints(maps, boxes, window, image_shape, frame):
    """Keypoints [n, K, (y, x, score)] in pixels of the image, from maps of boxes in its pixels.

    They are decoded at the resolution of the molded image, as in `detect`.
    """
    size = np.asarray(image_shape[:2], np.float64)
    size_in_window = window[2:] - window[:2]
    normalised = box_math.normalize(boxes, np.maximum(size, 2), frame)
    for axis in np.flatnonzero(size == 1):  # a box covers the only pixel
        normalised[:, axis] = 0
        normalised[:, axis + 2] = 1
    molded = box_math.denormalize(normalised, size_in_window, frame) + np.tile(window[:2], 2)
    points = keypoints.decode(maps, molded)
    points[..., :2] = (points[..., :2] - window[:2]) * (size / size_in_window)
    return points


def load(
    path: str | os.PathLike,
    threads: int | None = None,
    device: str = "cpu",
    format: str | None = None,
) -> Model:
    """Loads an exported model into its runtime.

    Args:
        path: the file (.onnx, .xml, .tflite), or the folder of a SavedModel.
        threads: number of threads for one detection; None for the runtime's default.
        device: "cpu", or the runtime's name of another one: "cuda" or "gpu" (ONNX Runtime), "gpu"
            (OpenVINO, TensorFlow).
        format: one of `FORMATS`; None to derive it from the name.

    Raises:
        FileNotFoundError: no such file.
        ImportError: the package that runs the file is not installed; the message names it.
        ValueError: an unknown format or device, a file that `mrcnn.export` did not write, or one
            that is damaged.
        RuntimeError: a SavedModel in a process that was forked from one that has loaded one.
    """
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise ValueError(f"load() takes the path of an exported model. Received: {path!r}")
    if format is None:
        format = format_of(path)
    if format not in FORMATS:
        raise ValueError(f"format is one of {', '.join(FORMATS)}. Received: {format!r}")
    if threads is not None:
        threads = _checked_threads(threads)
    if not isinstance(device, str):
        raise ValueError(f"device is a name such as 'cpu'. Received: {device!r}")
    arguments = (os.path.abspath(path), threads, device, format)
    model = Model(_backend_of(path, threads, device, format), path)
    model._arguments = arguments
    _models.add(model)
    return model


def _backend_of(path, threads, device, format):
    """The runtime with the file of a path; see `load`, whose arguments these are, checked."""
    _check_files(pathlib.Path(path), format)
    module, package = PACKAGES[format]
    try:
        with without_telemetry():
            runtime = importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{path} is run by {package}: pip install {package} ({error})") from error
    _watch_forks()
    try:
        return RUNTIMES[format](runtime, path, threads, device)
    except (LoadError, ImportError, ForkedError):
        raise
    except Exception as error:  # each runtime raises its own errors
        reason = " ".join(str(error).split())[:300]
        raise LoadError(f"{path}: {package} can't load it: {reason}") from error


def _loaded_again(arguments: tuple, text: str, shape: tuple) -> Model:
    """The model of a copy or a pickle; its file must still be the same, see `_check_same`."""
    model = load(*arguments)
    _check_same(arguments[0], model._backend, text, shape)
    return model


def _check_same(path, backend, text, shape):
    """LoadError if a file has been replaced by that of another model since it was loaded first."""
    if (backend.metadata, tuple(backend.shape)) != (text, shape):
        raise LoadError(
            f"{path}: a copy of a model, and a model in a forked process, load its file again."
            " Received: the file of another export, which has replaced it meanwhile"
        )


@contextlib.contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Sets an environment variable inside."""
    old_value = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if old_value is not None:
            os.environ[name] = old_value


def without_telemetry() -> contextlib.AbstractContextManager:
    """Turns off the telemetry of ONNX Runtime while it is imported, if the user has set nothing.

    1.32 has it on by default, as its Privacy.md says: threads that start with the import send data.
    A forked process, which lacks these threads, would wait for them when it ends.
    """
    return environment(NO_TELEMETRY, os.environ.get(NO_TELEMETRY, "1"))


# ---- Forked processes ----------------------------------------------------------------------------


class ForkedError(RuntimeError):
    """A SavedModel in a process that was forked from one that had loaded one."""


# Models of `load`, of which a forked process leaves the backends.
_models: weakref.WeakSet[Model] = weakref.WeakSet()
_is_watching = False  # whether `_leave_backends` is registered
# The id of the first process that loaded a SavedModel.
_tensorflow_process: int | None = None


def _watch_forks() -> None:
    """From the first model on, processes that are forked leave the backends of their parents."""
    global _is_watching
    if not _is_watching and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_leave_backends)
        _is_watching = True


def _leave_backends() -> None:
    for model in list(_models):
        model._leave_backend()


def _check_not_forked(path: str | os.PathLike) -> None:
    """ForkedError where TensorFlow would hang, as it can't start again in a forked process."""
    global _tensorflow_process
    if _tensorflow_process is None:
        _tensorflow_process = os.getpid()
    if _tensorflow_process != os.getpid():
        raise ForkedError(
            f"{path}: this process was forked from one that has loaded a SavedModel, whose threads"
            " it doesn't have: it would hang. Start it by multiprocessing.get_context('spawn'), or"
            " load the first SavedModel in the forked processes. Received: process"
            f" {os.getpid()}, forked from {_tensorflow_process} or a child of it"
        )


def _checked_threads(threads: Any) -> int:
    """The number of threads as an int, of any integer type; ValueError if it is invalid."""
    try:
        number = operator.index(threads)
    except TypeError:
        number = 0
    if not 1 <= number <= MOST_THREADS or isinstance(threads, bool):
        raise ValueError(
            f"threads is a whole number from 1 to {MOST_THREADS}, or None. Received: {threads!r}"
        )
    return number


def _check_files(path: pathlib.Path, format: str) -> None:
    """FileNotFoundError or LoadError if a file that the format needs is missing or wrong."""
    if not path.exists():
        raise FileNotFoundError(f"No file {path}")
    if path.suffix.lower() == ".bin" and path.with_suffix(".xml").is_file():
        raise LoadError(f"{path} has the weights of {path.with_suffix('.xml')}; load that one")
    if path.name == "saved_model.pb":
        raise LoadError(f"{path} is a part of a SavedModel; load its folder {path.parent}")
    if (format == "saved_model") != path.is_dir():
        raise LoadError(
            "An exported model is an .onnx, .xml or .tflite file, or the folder of a SavedModel;"
            f" of another name, load(path, format=...) says which. Received: {path}"
        )
    if format == "saved_model" and not (saved_model_in(path) / "saved_model.pb").is_file():
        raise LoadError(
            f"{path}: expected saved_model.pb in it, or in its folder 1. Received: none"
        )
    if format != "saved_model":
        kind = files.what_it_is(path)
        if kind and not (format == "openvino" and kind == "an XML file"):
            raise LoadError(f"{path}: expected an exported model. Received: {kind}")
    weights = path.with_suffix(".bin")
    if format == "openvino" and not weights.is_file():
        raise FileNotFoundError(f"No file {weights}, which has the weights of {path}")


if __name__ == "__main__":
    from mrcnn import commands

    commands.run(commands.detect_exported)
