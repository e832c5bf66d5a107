"""Weight files: the legacy Keras 2 layout, Keras's own, ImageNet weights, downloads.

The legacy layout is that of the released mask_rcnn_coco.h5: a group for each layer, listed in the
attribute `layer_names`, with its arrays in the order of `weight_names`; all layers of the RPN are
in the group of the nested model.
"""

import contextlib
import dataclasses
import difflib
import io
import itertools
import logging
import math
import os
import pathlib
import re
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import h5py
import numpy as np

from mrcnn import files, runtime, torchvision_weights
from mrcnn.files import (  # noqa: F401  names that existing code imports from here
    atomic,
    download,
    progress_bar,
)
from mrcnn.utils import download_trained_weights  # noqa: F401

logger = logging.getLogger(__name__)

# The order of a layer's weights in a legacy file.
ORDER = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
# {part of the network: regex of its layers' names}; other layers are the backbone's.
PARTS = {"FPN": r"fpn_.*", "RPN": r"rpn_.*", "heads": r"mrcnn_.*"}

# Backbones with ImageNet weights, and their functions in `keras.applications`.
_APPLICATIONS = {"resnet50": "ResNet50", "resnet101": "ResNet101", "resnet152": "ResNet152"}

# How many problems the error of a file that doesn't fit lists.
_SHOWN_PROBLEMS = 20

# {layer: [(weight's name, array)]}, in the order of a legacy file.
_LayerArrays = dict[str, list[tuple[str, Any]]]


@dataclasses.dataclass
class Coverage:
    """The outcome of loading a file's weights, by name "layer/weight".

    Attributes:
        loaded: weights that were loaded.
        missing: weights of the network that the file lacks.
        ignored: weights of the file that were excluded, or whose layers have no weights in the
            network.
        unused: weights of the file that the network lacks, which by_name skips.
        mismatched: {name: (shape in the file, shape in the network)}, which skip_mismatch skips.
    """

    loaded: list
    missing: list
    ignored: list
    unused: list
    mismatched: dict

    def __repr__(self) -> str:
        # A notebook displays the result of `load_weights`, which would be hundreds of names.
        return f"Coverage({self.summary()})"

    def summary(self) -> str:
        """One line with the counts."""
        return (
            f"{len(self.loaded)} weights loaded, {len(self.missing)} missing, {len(self.ignored)}"
            f" excluded, {len(self.unused)} unused, {len(self.mismatched)} mismatched"
        )


def layers_of(model: Any) -> dict[str, Any]:
    """{name: layer} of all layers with weights, including those of nested models."""
    import keras

    layers = {}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            layers.update(layers_of(layer))
        elif layer.weights:
            layers[layer.name] = layer
    return layers


def ordered_weights(layer: Any) -> list[tuple[str, Any]]:
    """[(weight's name, variable)] in the order of a legacy file."""
    pairs = [(weight.name, weight) for weight in layer.weights]
    return sorted(pairs, key=_legacy_order)


def _legacy_order(pair: tuple[str, Any]) -> int:
    """Sort key of a (weight's name, value) in a legacy layer; names not in ORDER come last."""
    name = pair[0]
    if name in ORDER:
        return ORDER.index(name)
    return len(ORDER)


def part_of(name: str) -> str:
    """The part of the network that a layer belongs to: a key of PARTS, or "backbone"."""
    for part, pattern in PARTS.items():
        if re.fullmatch(pattern, name):
            return part
    return "backbone"


# ---- HDF5 files ----------------------------------------------------------------------------------

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_ZIP_MAGIC = b"PK\x03\x04"
_HDF5 = "a readable HDF5 file"
_KERAS_MEMBER = "model.weights.h5"  # of a `.keras` archive

# (first bytes, description for the error) of files that are mistaken for weight files; they take
# precedence over `files.what_begins_with`.
_FOREIGN = (
    (b"\x80", "it is a pickle, which could run code and is never loaded"),
    (_ZIP_MAGIC, f"it is a zip archive without {_KERAS_MEMBER}"),
)
_EXPORTED = (
    "it is an exported model, which mrcnn.runtime.load runs; load the weights that it was made of"
)


def _check_is_file(path: str) -> None:
    """Raises FileNotFoundError or `UnreadableFileError` unless the path is a file with content."""
    if re.search(r"\.(index|data-\d+-of-\d+)$", path) or os.path.exists(path + ".index"):
        raise files.UnreadableFileError(
            f"{path} is a checkpoint of TensorFlow, which is not read here: save the weights as .h5"
            " where it was made"
        )
    if not os.path.exists(path):
        raise FileNotFoundError(f"No weight file at {path}")
    if os.path.isdir(path):
        if runtime.is_exported(path):
            raise files.UnreadableFileError(f"{path} is no weight file: {_EXPORTED}")
        raise files.UnreadableFileError(f"{path} is a folder; load_weights takes a file")
    if not os.path.isfile(path):
        raise files.UnreadableFileError(f"{path} is no regular file")
    if not os.path.getsize(path):
        raise files.UnreadableFileError(f"{path} is empty (0 bytes)")


def _description_of(head: bytes) -> str:
    """The error's description of a file that is no HDF5, by its first bytes."""
    beginning = head.lstrip().lower()
    for magic, description in _FOREIGN:
        if beginning.startswith(magic.lower()):
            return description
    kind = files.what_begins_with(head)
    if kind and not head.startswith(b"\x89HDF"):  # damaged HDF5, not a file of another kind
        return f"it is {kind}"
    if b"\0" not in head:
        return f"it begins with {head[:40]!r}"
    return "it begins with other bytes than HDF5 files do"


@contextlib.contextmanager
def _opened(path: Any) -> Iterator[tuple[h5py.File, Any]]:
    """Opens the HDF5 file at a path, or inside a `.keras` archive or folder, for reading.

    Yields:
        (file, source): the HDF5 file, and a binary file of its bytes.

    Raises:
        FileNotFoundError, UnreadableFileError: names the path; the latter also replaces the errors
            of the block.
    """
    path = os.fspath(path)
    inner = os.path.join(path, _KERAS_MEMBER)
    if os.path.isfile(inner):  # a whole model that Keras saved with zipped=False
        path = inner
    _check_is_file(path)
    with open(path, "rb") as file:
        head = file.read(200)
    with files.naming_errors(path, _HDF5), contextlib.ExitStack() as stack:
        source: Any = path
        if head.startswith(_ZIP_MAGIC):
            archive = stack.enter_context(zipfile.ZipFile(path))
            if _KERAS_MEMBER in archive.namelist():
                source = stack.enter_context(_member_of_archive(path, archive))
                head = _HDF5_MAGIC
        if not head.startswith(_HDF5_MAGIC) and not h5py.is_hdf5(path):
            kind = _description_of(head)
            if runtime.is_exported(path):
                kind = _EXPORTED
            raise files.UnreadableFileError(f"{path} is not {_HDF5}: {kind}")
        file = stack.enter_context(h5py.File(source, "r"))
        if isinstance(source, str):
            source = stack.enter_context(open(source, "rb"))
        yield file, source


def _has_endless_heap(file: Any) -> bool:
    """Whether the HDF5 library (1.14) would loop forever over a damaged global heap.

    Strings of variable length are stored in global heaps: a signature of 8 bytes, the size, and
    objects (index, 6 bytes, size, content padded to 8 bytes). The library advances by the size that
    an object declares, without checking that it is not zero.
    """
    for offset in _offsets_of(b"GCOL\x01\0\0\0", file):
        file.seek(offset + 8)
        size = _integer(file.read(8))
        heap = file.read(min(max(size - 16, 0), _LARGEST_HEAP))
        position = 0
        while position + 16 <= len(heap):
            step = _integer(heap[position + 8 : position + 16])
            if heap[position : position + 2] != b"\0\0":  # free space has index 0 and no header
                step = 16 + -(-step // 8) * 8
            if step % 2**64 == 0:
                return True
            position += step
    return False


# Bytes. Heaps of names have 4 KB; the description of a whole model is a single string.
_LARGEST_HEAP = 1 << 26


def _offsets_of(signature: bytes, file: Any) -> list[int]:
    """The offsets at which a signature occurs in an open file."""
    offsets = []
    start = 0  # offset of the block in the file
    end = b""  # the last bytes of the block before it
    file.seek(0)
    while block := file.read(1 << 20):
        block = end + block
        position = block.find(signature)
        while position >= 0:
            offsets.append(start + position)
            position = block.find(signature, position + 1)
        end = block[-(len(signature) - 1) :]
        start += len(block) - len(end)
    return offsets


# HDF5's types of header messages, and its class of datatypes of variable length.
_CONTINUATION = 0x10
_ATTRIBUTE = 0x0C
_VARIABLE_LENGTH = 9


def _longest_text(file: Any, address: int, attribute: bytes) -> int:
    """Bytes of the longest text of an attribute, as declared in the object header of its group.

    The HDF5 library allocates this length before it checks that the text exists. Zero where the
    header is not of the usual version 1, or has no such attribute.

    Args:
        file: the binary file.
        address: offset of the group's object header.
        attribute: its name.
    """
    file.seek(address)
    prefix = file.read(16)
    if prefix[:1] != b"\1":
        return 0
    blocks = [(address + 16, _integer(prefix[8:12]))]
    for start, length in blocks:  # continuation messages append to it
        file.seek(start)
        block = file.read(min(length, 1 << 20))
        position = 0
        while position + 8 <= len(block):
            kind = _integer(block[position : position + 2])
            size = _integer(block[position + 2 : position + 4])
            message = block[position + 8 : position + 8 + size]
            if kind == _CONTINUATION and len(blocks) < 100:
                blocks.append((_integer(message[:8]), _integer(message[8:16])))
            if kind == _ATTRIBUTE:
                longest = _longest_in_message(message, attribute)
                if longest:
                    return longest
            position += 8 + size
    return 0


def _longest_in_message(message: bytes, attribute: bytes) -> int:
    """Bytes of the longest text in an attribute message; zero if it is of another attribute."""
    # The version, a byte, and the sizes of name, datatype and dataspace, which follow.
    sizes = [_integer(message[offset : offset + 2]) for offset in (2, 4, 6)]
    start = 8
    if message[:1] == b"\3":
        start = 9  # version 3 has a byte for the name's encoding before it
    name = message[start : start + sizes[0]].rstrip(b"\0")
    if message[:1] == b"\1":
        sizes = [-(-size // 8) * 8 for size in sizes]
    kind = message[start + sizes[0] : start + sizes[0] + 1]
    if name != attribute or _integer(kind) % 16 != _VARIABLE_LENGTH:
        return 0
    # For each text its length (4 bytes), the address of its heap and its index there.
    values = message[start + sum(sizes) :]
    lengths = (_integer(values[offset : offset + 4]) for offset in range(0, len(values), 16))
    return max(lengths, default=0)


def _integer(data: bytes) -> int:
    """The unsigned integer of little-endian bytes."""
    return int.from_bytes(data, "little")


def _member_of_archive(path: str, archive: zipfile.ZipFile) -> Any:
    """The weights in a `.keras` archive, as an open binary file."""
    info = archive.getinfo(_KERAS_MEMBER)
    if info.compress_type == zipfile.ZIP_STORED:  # as Keras writes it
        return archive.open(info)
    files.check_unpacked_size(path, info.file_size)
    return io.BytesIO(archive.read(info))


def _text(value: Any) -> str:
    """A text of an attribute as str; h5py returns bytes or str."""
    if isinstance(value, bytes):
        return value.decode()
    return str(value)


# The most bytes of an attribute, and of a text in it; sound files have at most 64 KB.
_NAMES_BYTES = 1 << 20


class _Reader:
    """Reads groups and arrays of an open HDF5 file, and nothing outside of it.

    Args:
        path: of the file, for errors.
        source: binary file of its bytes.
    """

    def __init__(self, path: Any, source: Any):
        self.path = path
        self.source = source
        self.has_sound_heaps = False  # True once they are checked
        self.unpacked = 0  # bytes of the compressed arrays that were read

    def refusal(self, reason: str) -> files.UnreadableFileError:
        """The error for the file, which names it, with a reason."""
        return files.UnreadableFileError(f"{self.path} can't be read as a weight file: {reason}")

    def member(self, group: h5py.Group, key: str) -> Any:
        """The group or array at "a/b/c". Links are errors, since they can lead to other files."""
        item = group
        for name in filter(None, key.split("/")):
            if not isinstance(item, h5py.Group) or not item.id.links.exists(name.encode()):
                raise self.refusal(f"{group.name} lists {key}, which is not there")
            if item.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
                raise self.refusal(f"{key} in {group.name} is a link, and links are not followed")
            item = item[name]
        return item

    def arrays_below(self, group: h5py.Group) -> dict[str, h5py.Dataset]:
        """{path in the group: array} of a group and its subgroups."""
        arrays = {}
        pending = [("", group)]
        visited = set()  # a damaged group may contain itself
        while pending:
            prefix, current = pending.pop()
            address = h5py.h5o.get_info(current.id).addr
            if address in visited:
                continue
            visited.add(address)
            for name in current:
                member = self.member(current, name)
                if isinstance(member, h5py.Group):
                    pending.append((f"{prefix}{name}/", member))
                else:
                    arrays[prefix + name] = member
        return arrays

    def names(self, group: h5py.Group, attribute: str) -> list[str] | None:
        """The names in an attribute, or in the numbered parts of a long one; None without it."""
        if attribute in group.attrs:
            return self.texts(group, attribute)
        names = []
        for number in itertools.count():
            part = f"{attribute}{number}"
            if part not in group.attrs:
                break
            names += self.texts(group, part)
        return names or None

    def texts(self, group: h5py.Group, attribute: str) -> list[str]:
        """The texts of an attribute, an array or a single one."""
        stored = group.attrs.get_id(attribute)
        if stored.shape is None:
            return []
        size = math.prod(stored.shape) * stored.dtype.itemsize
        if size > _NAMES_BYTES:
            raise self.refusal(f"{attribute} of {group.name} declares {size} bytes")
        if stored.dtype.kind == "O":
            address = h5py.h5o.get_info(group.id).addr
            size = _longest_text(self.source, address, attribute.encode())
            if size > _NAMES_BYTES:
                raise self.refusal(f"a text in {attribute} of {group.name} declares {size} bytes")
            if not self.has_sound_heaps and _has_endless_heap(self.source):
                raise self.refusal("a heap of strings is damaged")
            self.has_sound_heaps = True
        return [_text(name) for name in np.ravel(group.attrs[attribute])]

    def array(self, dataset: Any) -> np.ndarray:
        """The array of a dataset of numbers, all of which must be stored in the file."""
        if not isinstance(dataset, h5py.Dataset):
            raise self.refusal(f"{dataset.name} is no array")
        if dataset.dtype.kind not in "fiu":
            raise self.refusal(f"{dataset.name} holds no numbers but {dataset.dtype}")
        if dataset.is_virtual or dataset.external:
            raise self.refusal(f"{dataset.name} lies in other files, which are not read")
        size = math.prod(dataset.shape) * dataset.dtype.itemsize
        stored = dataset.id.get_storage_size()
        if dataset.id.get_create_plist().get_nfilters() and stored:
            self.unpacked += size
            files.check_unpacked_size(self.path, self.unpacked)
        elif stored < size:
            raise self.refusal(
                f"{dataset.name} of shape {dataset.shape} declares {size} bytes and holds {stored}"
            )
        array = np.asarray(dataset)
        return array.astype(array.dtype.newbyteorder("="), copy=False)


# ---- Legacy files --------------------------------------------------------------------------------


def read_legacy(path: Any, layer_names: Collection[str] = ()) -> tuple[_LayerArrays, list[str]]:
    """The weights in an HDF5 file of the legacy layout or of Keras's.

    Args:
        path: an `.h5`, of weights or of a whole model; a `.weights.h5` or `.keras`.
        layer_names: layers of the network. A group with one of these names holds that layer; in
            other groups (nested and multi-GPU models) the layer follows from each array's name.

    Returns:
        {layer: [(weight's name, array)]}, and the names of all layers of the file, including those
        without weights.

    Raises:
        FileNotFoundError: no such file.
        mrcnn.files.UnreadableFileError: a ValueError that names the file: it is damaged, of another
            kind, has links, or lacks the contents of an array.
    """
    with _opened(path) as (file, source):
        reader = _Reader(path, source)
        root: h5py.Group = file
        if "model_weights" in file:
            root = reader.member(file, "model_weights")
        if reader.names(root, "layer_names") is None:
            for top in _KERAS_GROUPS:
                if top in root:
                    return _read_keras(reader, reader.member(root, top), layer_names)
        arrays, names = _read_groups(reader, root, layer_names)
        if not arrays:
            raise reader.refusal("it holds no weights")
    return arrays, names


def _read_groups(
    reader: _Reader, root: h5py.Group, layer_names: Collection[str]
) -> tuple[_LayerArrays, list[str]]:
    """The weights of a legacy file, see `read_legacy`; without lists of names, of all groups."""
    arrays: _LayerArrays = {}
    names = []
    group_names = reader.names(root, "layer_names")
    if group_names is None:
        group_names = [name for name in root if name not in _NOT_LAYERS]
    for group_name in group_names:
        names.append(group_name)
        group = reader.member(root, group_name)
        if not isinstance(group, h5py.Group):
            continue
        keys = reader.names(group, "weight_names")
        if keys is None:
            keys = sorted(reader.arrays_below(group), key=_key_order)
        paths = [key.split(":")[0].split("/") for key in keys]
        for key, path in zip(keys, paths):
            layer = _layer_of_key(group_name, path, paths, layer_names)
            array = reader.array(reader.member(group, key))
            arrays.setdefault(layer, []).append((path[-1], array))
            names.append(layer)
    return arrays, names


# Groups besides the layers' in files by `model.save` of Keras 2.
_NOT_LAYERS = ("optimizer_weights", "top_level_model_weights")


def _key_order(key: str) -> tuple[str, int]:
    """Sort key of an array's key: by layer, then in the order of a legacy layer."""
    layer, _, weight = key.split(":")[0].rpartition("/")
    return layer, _legacy_order((weight, None))


def _layer_of_key(
    group_name: str, path: list[str], paths: list[list[str]], layer_names: Collection[str]
) -> str:
    """The layer of an array.

    Args:
        group_name: name of the array's group.
        path: the array's key as a list, such as ["conv1", "kernel"].
        paths: those of all arrays of the group.
        layer_names: layers of the network.
    """
    if group_name in layer_names:
        return group_name
    for name in path[:-1]:
        if name in layer_names:
            return name
    if len(path) < 2:
        return group_name
    # A layer's own group may have a name scope in the key ("mrcnn_mask/conv2d_4/kernel"); otherwise
    # the group is a nested model's.
    if path[0] == group_name and len({tuple(other[:-1]) for other in paths}) == 1:
        return group_name
    return path[-2]


# ---- Keras's layout ------------------------------------------------------------------------------

# The group of all layers in a file of Keras 3, and in one of Keras 2.12 or later.
_KERAS_GROUPS = ("layers", "_layer_checkpoint_dependencies")


def _read_keras(
    reader: _Reader, root: h5py.Group, layer_names: Collection[str]
) -> tuple[_LayerArrays, list[str]]:
    """The weights of a file in Keras's layout, see `read_legacy`.

    The names of its groups ("conv2d_3") are numbered in the order of the graph, which differs
    between training and inference; but each group has its layer's name as an attribute.
    """
    names: dict[str, str] = {}  # {path of a group: its layer's name}
    arrays: _LayerArrays = {}
    for path, dataset in sorted(reader.arrays_below(root).items(), key=_variable_order):
        owner, _, _ = path.rpartition("/vars/")
        layers = []  # names of the nested layers, the outermost first
        parts = owner.split("/")
        for length in range(1, len(parts) + 1):
            group_path = "/".join(parts[:length])
            if group_path not in names:
                names[group_path] = _name_of_group(reader, reader.member(root, group_path))
            if names[group_path]:
                layers.append(names[group_path])
        if not layers:
            raise reader.refusal("its layers have no names; save it by Keras 3.15 or later")
        layer = layers[-1]
        if parts[-1] == "layer" and len(layers) > 1:  # TimeDistributed
            layer = layers[-2]
        for name in layers:
            if name in layer_names:
                layer = name
                break
        arrays.setdefault(layer, []).append((path.rpartition("/")[2], reader.array(dataset)))
    if not arrays:
        raise reader.refusal("it holds no weights")
    return arrays, list(arrays)


def _variable_order(item: tuple[str, Any]) -> tuple[str, int]:
    """Sort key of a (path, array), which sorts ".../vars/10" after ".../vars/9"."""
    owner, _, number = item[0].rpartition("/")
    if number.isdecimal():
        return owner, int(number)
    return owner, 0


def _name_of_group(reader: _Reader, group: h5py.Group) -> str:
    """The name of the layer of a group in Keras's layout; "" without one."""
    if "vars" not in group or "name" not in group["vars"].attrs:
        return ""
    return "".join(reader.texts(group["vars"], "name"))


# ---- Loading -------------------------------------------------------------------------------------


class _Source(NamedTuple):
    """The contents of a weight file or of a state dict.

    Attributes:
        arrays: {layer: [(weight's name, array)]}; weights of a state dict that belong to no layer
            are under their own name, with None for the array.
        layer_names: names of its layers, including those without weights.
        title: its path, or another name for messages.
        hint: advice for the error if it doesn't fit the network.
    """

    arrays: _LayerArrays
    layer_names: list[str]
    title: str
    hint: str = ""


def load(
    model: Any,
    path: Any,
    by_name: bool = False,
    exclude: str | Collection[str] | None = (),
    skip_mismatch: bool = False,
) -> Coverage:
    """Loads a weight file into a model.

    Args:
        model: Keras model.
        path: an `.h5` in the legacy layout, of weights or of a whole model; a `.weights.h5` or a
            `.keras` of Keras; a state dict, `.npz` or `.pth` of torchvision, see
            `mrcnn.torchvision`. The contents of a file decide, not its name.
        by_name: allow whole parts (backbone, FPN, RPN, heads) to be missing in the file, and skip
            layers of the file that the network lacks.
        exclude: names of layers to leave as they are, or a single name; implies by_name.
        skip_mismatch: leave layers as they are whose shapes differ or that the file lacks, and skip
            layers that the network lacks, as by_name does.

    Returns:
        Coverage. Warnings name what was skipped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file can't be read, `exclude` is misspelt, weights of the file are unused or
            don't fit, or a part is incomplete in the file. Nothing has been loaded then.
    """
    names = _names_of_layers(exclude)
    layers = layers_of(model)
    source = _read(path, layers)
    excluded = _with_inner_layers(model, names)
    known = {*source.layer_names, *source.arrays, *layers}
    known.update(layer.name for layer in model.layers)
    _check_exclude(names, known, source.title)
    choice = _Choice(excluded, by_name or skip_mismatch or bool(names), skip_mismatch)
    without_weights = {layer.name for layer in model.layers} - set(layers)
    # Forks of matterport's package for TensorFlow 2 store the anchors as a weight.
    without_weights.update(("anchors", "input_anchors"))
    coverage, assignments = _compare(layers, source.arrays, choice, without_weights)
    _check_fit(coverage, source, choice)
    _warn(coverage, source, choice, assignments)
    for variable, array in assignments.values():
        variable.assign(array)
    return coverage


class _Choice(NamedTuple):
    """The options of `load`, with the names in `exclude` resolved."""

    exclude: set[str]
    by_name: bool
    skip_mismatch: bool


def _names_of_layers(exclude: Any) -> list[str]:
    """`exclude` as a list of names; ValueError for other values."""
    if exclude is None:
        return []
    if isinstance(exclude, str):
        return [exclude]
    if isinstance(exclude, Iterable):
        names = list(exclude)
        if all(isinstance(name, str) for name in names):
            return [str(name) for name in names]
    raise ValueError(f"exclude takes names of layers. Received: {exclude!r}")


def _with_inner_layers(model: Any, names: Collection[str]) -> set[str]:
    """The names of layers, with those of all layers in nested models that are among them."""
    import keras

    all_names = set(names)
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            inner = names
            if layer.name in names:
                inner = list(layers_of(layer))
            all_names |= _with_inner_layers(layer, inner)
    return all_names


def _check_exclude(names: Collection[str], known: set[str], title: str) -> None:
    """ValueError for names that no layer has; suggests the closest ones."""
    misspelt = sorted(set(names) - known)
    if not misspelt:
        return
    nearest = set()
    for name in misspelt:
        nearest.update(difflib.get_close_matches(name, sorted(known), n=1))
    hint = ""
    if nearest:
        hint = f". The nearest names: {', '.join(sorted(nearest))}"
    raise ValueError(
        f"exclude has names of layers of {title} or of the network. Received: {misspelt}{hint}"
    )


def _read(path: Any, layers: dict[str, Any]) -> _Source:
    """The contents of a weight file of any kind, or of a state dict."""
    if not isinstance(path, (str, os.PathLike, Mapping)):
        raise ValueError(
            f"load_weights takes the path of a file or a state dict. Received: {path!r}"
        )
    if isinstance(path, Mapping):
        return _torchvision_source(path)
    title = os.fspath(path)
    if torchvision_weights.is_checkpoint(path) and not _is_of_another_kind(title):
        return _torchvision_source(path)
    arrays, layer_names = read_legacy(title, layers)
    return _Source(arrays, layer_names, title)


def _is_of_another_kind(path: str) -> bool:
    """Whether a file with a suffix of state dicts is HDF5, or no weight file at all."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        head = file.read(200).lstrip().lower()
    return head.startswith((_HDF5_MAGIC.lower(), b"version https://git-lfs", b"<"))


def _torchvision_source(checkpoint: Any) -> _Source:
    """A checkpoint of torchvision with the names and the order of this package's layers."""
    translated, unknown = torchvision_weights.translate(torchvision_weights.read(checkpoint))
    arrays: _LayerArrays = {}
    for layer, layer_arrays in translated.items():
        arrays[layer] = sorted(layer_arrays.items(), key=_legacy_order)
    for key in unknown:
        arrays[key] = [("", None)]
    title = "The state dict"
    if isinstance(checkpoint, (str, os.PathLike)):
        title = os.fspath(checkpoint)
    hint = "mrcnn.torchvision.config_of() gives the config that a torchvision checkpoint fits. "
    return _Source(arrays, list(translated), title, hint)


# {name of a weight: (variable, array)}
_Assignments = dict[str, tuple[Any, np.ndarray]]


def _compare(
    layers: dict[str, Any],
    arrays: _LayerArrays,
    choice: _Choice,
    without_weights: set[str],
) -> tuple[Coverage, _Assignments]:
    """Pairs the weights of the network with those of a file.

    Args:
        layers: {name: layer} of the network's layers with weights.
        arrays: of the file.
        choice: the options of `load`.
        without_weights: names of layers without weights; a file's weights for them are ignored.

    Returns:
        Coverage, and the variables with the arrays to assign.
    """
    coverage = Coverage([], [], [], [], {})
    assignments: _Assignments = {}
    for layer in sorted({*layers, *arrays}):
        of_file = arrays.get(layer, [])
        if layer in choice.exclude or layer in without_weights:
            coverage.ignored += [f"{layer}/{weight}" for weight, _ in of_file]
            continue
        of_network = []
        if layer in layers:
            of_network = ordered_weights(layers[layer])
        pairs = _pairs(of_network, of_file)
        differing = _differing_shapes(layer, pairs)
        if choice.skip_mismatch and of_network and of_file and differing:
            coverage.mismatched.update(differing)
            continue
        for in_network, in_file in pairs:
            if in_file is None:
                coverage.missing.append(f"{layer}/{in_network[0]}")
            elif in_network is None:
                coverage.unused.append(f"{layer}/{in_file[0]}")
            elif f"{layer}/{in_network[0]}" in differing:
                name = f"{layer}/{in_network[0]}"
                coverage.mismatched[name] = differing[name]
            else:
                coverage.loaded.append(f"{layer}/{in_network[0]}")
                assignments[f"{layer}/{in_network[0]}"] = (in_network[1], in_file[1])
    return coverage, assignments


def _pairs(of_network: list[tuple[str, Any]], of_file: list[tuple[str, Any]]) -> list[tuple]:
    """[((name, variable) or None, (name, array) or None)] of a layer.

    Weights are paired by name where both sides have names in ORDER, otherwise in their order.
    """
    remaining = dict(of_file)
    have_usual_names = all(name in ORDER for name, _ in (*of_network, *of_file))
    if not have_usual_names or len(remaining) < len(of_file):
        return list(itertools.zip_longest(of_network, of_file))
    pairs: list[tuple] = []
    for name, variable in of_network:
        array = remaining.pop(name, None)
        if array is None:
            pairs.append(((name, variable), None))
        else:
            pairs.append(((name, variable), (name, array)))
    return pairs + [(None, item) for item in remaining.items()]


def _differing_shapes(layer: str, pairs: list[tuple]) -> dict[str, tuple]:
    """{"layer/weight": (shape in the file, shape in the network)} where they differ.

    The shape of a weight that one side lacks is None.
    """
    differing = {}
    for in_network, in_file in pairs:
        file_shape = network_shape = None
        name = (in_network or in_file)[0]
        if in_network is not None:
            network_shape = tuple(in_network[1].shape)
        if in_file is not None and in_file[1] is not None:
            file_shape = in_file[1].shape
        if file_shape != network_shape:
            differing[f"{layer}/{name}"] = (file_shape, network_shape)
    return differing


def _check_fit(coverage: Coverage, source: _Source, choice: _Choice) -> None:
    """ValueError that lists what doesn't fit, unless the options allow it."""
    problems = []
    if not choice.skip_mismatch:
        for name, (in_file, in_network) in coverage.mismatched.items():
            problems.append(f"{name}: {in_file} in the file, {in_network} in the network")
    loaded_layers = {_layer_of_weight(name) for name in coverage.loaded}
    for name in coverage.unused:
        if not choice.by_name or _layer_of_weight(name) in loaded_layers:
            problems.append(f"{name}: not in the network")
    loaded_parts = _parts_of(coverage.loaded)
    for name in coverage.missing:
        is_incomplete = _part_of_weight(name) in loaded_parts and not choice.skip_mismatch
        if not choice.by_name or is_incomplete:
            problems.append(f"{name}: not in the file")
    if not problems and not coverage.loaded and not coverage.ignored:
        raise ValueError(
            f"{source.title} doesn't fit the network; nothing was loaded. {source.hint}"
            f"Not one of its layers is in the network: {files.several(sorted(source.arrays))}"
        )
    if not problems:
        return
    more = ""
    if len(problems) > _SHOWN_PROBLEMS:
        more = f"\n  and {len(problems) - _SHOWN_PROBLEMS} more"
    raise ValueError(
        f"{source.title} doesn't fit the network; nothing was loaded. {source.hint}Exclude layers"
        " that are to stay as they are; by_name=True allows that the backbone, FPN, RPN or heads"
        " are missing and skips layers that the network lacks; skip_mismatch=True loads what fits."
        "\n  " + "\n  ".join(problems[:_SHOWN_PROBLEMS]) + more
    )


def _warn(coverage: Coverage, source: _Source, choice: _Choice, assignments: _Assignments) -> None:
    """Logs what was skipped of the file or the network, and arrays with NaN or infinity."""
    if coverage.missing and not choice.skip_mismatch:
        logger.warning(
            "%s has no weights for %s: they stay as they are",
            source.title,
            ", ".join(sorted(_parts_of(coverage.missing))),
        )
    left = _layers_in([*coverage.mismatched, *coverage.missing])
    if left and choice.skip_mismatch:
        logger.warning(
            "%s doesn't fit %d layers, which stay as they are: %s",
            source.title,
            len(left),
            files.several(left, 10),
        )
    if coverage.unused:
        _warn_of_unused(coverage, source)
    weightless = [name for name in coverage.ignored if _layer_of_weight(name) not in choice.exclude]
    if weightless:
        logger.info(
            "%s has arrays of layers that have no weights here; they are ignored: %s",
            source.title,
            files.several(weightless, 10),
        )
    bad = [name for name, (_, array) in assignments.items() if not _is_finite(array)]
    if bad:
        logger.warning(
            "%s holds NaN or infinite values in %d weights: %s",
            source.title,
            len(bad),
            files.several(bad, 10),
        )


def _warn_of_unused(coverage: Coverage, source: _Source) -> None:
    """Warns of layers of a file that the network lacks."""
    skipped = _layers_in(coverage.unused)
    blocks = []
    for name in skipped:
        match = re.match(r"(?:res|bn)(\d.)_branch", name)
        if match and f"res{match.group(1)}" not in blocks:
            blocks.append(f"res{match.group(1)}")
    text = ""
    if blocks:
        text = (
            f". Among them are {len(blocks)} blocks of a deeper backbone"
            f" ({files.several(sorted(blocks), 40)}): until this one is trained, its features are"
            " not those of the file"
        )
    logger.warning(
        "%s has %d layers that the network lacks; they were skipped: %s%s",
        source.title,
        len(skipped),
        files.several(skipped, 10),
        text,
    )


def _is_finite(array: np.ndarray) -> bool:
    """Whether all numbers are finite."""
    return bool(np.isfinite(array).all())


def _layers_in(names: Iterable[str]) -> list[str]:
    """The unique layers of weights "layer/weight", in their order."""
    return list(dict.fromkeys(_layer_of_weight(name) for name in names))


def _layer_of_weight(name: str) -> str:
    """The layer of a weight "layer/weight"."""
    return name.rpartition("/")[0]


def _part_of_weight(name: str) -> str:
    """The part of the network of a weight "layer/weight"."""
    return part_of(name.split("/")[0])


def _parts_of(names: list[str]) -> set[str]:
    """The parts of the network of weights "layer/weight"."""
    return {_part_of_weight(name) for name in names}


# ---- Saving --------------------------------------------------------------------------------------


def write_legacy(model: Any, file: h5py.File) -> None:
    """Writes a model's weights into an open h5py file in the legacy layout."""
    file.attrs["backend"] = np.bytes_("tensorflow")
    file.attrs["keras_version"] = np.bytes_("2.0.8")
    file.attrs["layer_names"] = np.array([layer.name for layer in model.layers], "S")
    for layer in model.layers:
        group = file.create_group(layer.name)
        entries = list(_entries(layer))
        keys = np.zeros(0, "S1")
        if entries:
            keys = np.array([key for key, _ in entries], "S")
        group.attrs["weight_names"] = keys
        for key, array in entries:
            group[key] = array


def _entries(layer: Any) -> Iterator[tuple[str, np.ndarray]]:
    """(key, array) of a layer's weights as in its legacy group; for a model, of all its layers."""
    import keras

    if isinstance(layer, keras.Model):
        for inner in layer.layers:
            yield from _entries(inner)
        return
    for name, variable in ordered_weights(layer):
        yield f"{layer.name}/{name}:0", np.asarray(variable)


def save(model: Any, path: str | os.PathLike) -> None:
    """Saves a model's weights atomically: `.weights.h5` in Keras's layout, others in the legacy."""
    path = os.fspath(path)
    if path.endswith(files.KERAS_WEIGHTS):
        with files.atomic(path) as temporary:
            _by_name(model).save_weights(temporary)
        return
    with writing(path) as file:
        write_legacy(model, file)


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[h5py.File]:
    """An open HDF5 file that is written to `path`, atomically, if the block ends without an error.

    It is kept in memory until then: on a full disk the HDF5 library crashes with a segmentation
    fault, where Python raises an error.
    """
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        yield file
    with files.atomic(path) as temporary, open(temporary, "wb") as opened:
        opened.write(memory.getbuffer())


# ---- Keras's layout ------------------------------------------------------------------------------


def _by_name(model: Any) -> Any:
    """A model of the layers with weights, in the order of their names.

    Keras numbers the layers in a file in the order of the graph. The training and the inference
    graph have the same layers in different orders, and must be able to read each other's files.
    """
    import keras

    holder = keras.Model()
    holder.parts = [layer for _, layer in sorted(layers_of(model).items())]
    holder.built = True
    return holder


# ---- ImageNet ------------------------------------------------------------------------------------


def from_application(application: Any, epsilon: float = 1e-3) -> dict[str, list[np.ndarray]]:
    """Converts the weights of a `keras.applications` ResNet to this package's backbone.

    The epsilon of its batch norm is 1.001e-5; gamma is scaled to make up for this package's. Its
    first convolution takes BGR, this package's RGB.

    Args:
        application: the `keras.Model`.
        epsilon: BATCH_NORM_EPSILON.

    Returns:
        {layer: [arrays]} in legacy order.
    """
    arrays_by_layer = {}
    for layer in application.layers:
        if not layer.weights:
            continue
        name = _name_of(layer.name)
        arrays = [np.asarray(variable) for _, variable in ordered_weights(layer)]
        if "bn" in name:
            variance = arrays[3]
            scale = np.sqrt((variance + epsilon) / (variance + layer.epsilon))
            arrays[0] = arrays[0] * scale
        elif name == "conv1":
            arrays[0] = arrays[0][:, :, ::-1]
        arrays_by_layer[name] = arrays
    return arrays_by_layer


def _name_of(application_name: str) -> str:
    """This package's name of a layer of `keras.applications`."""
    match = re.fullmatch(r"conv(\d)_block(\d+)_(\d)_(conv|bn)", application_name)
    if not match:
        return {"conv1_conv": "conv1", "conv1_bn": "bn_conv1"}[application_name]
    stage, block, number, kind = match.groups()
    branch = "branch1"
    if number != "0":
        branch = "branch2" + "abc"[int(number) - 1]
    prefix = "bn"
    if kind == "conv":
        prefix = "res"
    block_letter = chr(ord("a") + int(block) - 1)
    return f"{prefix}{stage}{block_letter}_{branch}"


def get_imagenet_weights(backbone: Any, epsilon: float = 1e-3) -> str:
    """Path of a legacy file with a backbone's ImageNet weights.

    It is created from `keras.applications` on first use.

    Raises:
        ValueError: a backbone without such weights.
        OSError: the download fails.
    """
    import keras

    if backbone not in _APPLICATIONS:
        names = ", ".join(_APPLICATIONS)
        raise ValueError(f"ImageNet weights exist for {names}. Received: BACKBONE {backbone!r}")
    suffix = ""
    if epsilon != 1e-3:
        suffix = f"_epsilon{epsilon:g}"
    path = pathlib.Path.home() / ".keras" / "models" / f"mrcnn_{backbone}_imagenet{suffix}.h5"
    if not path.exists():
        build = getattr(keras.applications, _APPLICATIONS[backbone])
        try:
            application = build(include_top=False, weights="imagenet")
        except Exception as error:  # Keras raises no narrower one where a download fails
            raise OSError(
                f"ImageNet weights of {backbone} can't be downloaded ({error}); copy {path.name} to"
                f" {path}, as get_imagenet_weights() makes it where there is a network"
            ) from error
        with writing(path) as file:
            _write_arrays(from_application(application, epsilon), file)
    return str(path)


def _write_arrays(layers: dict[str, list[np.ndarray]], file: h5py.File) -> None:
    """Writes the arrays of `from_application` into an open file in the legacy layout."""
    file.attrs["layer_names"] = np.array(sorted(layers), "S")
    for name, arrays in sorted(layers.items()):
        weights: tuple[str, ...] = ORDER[:2]
        if "bn" in name:
            weights = ORDER[2:]
        keys = [f"{name}/{weight}:0" for weight in weights[: len(arrays)]]
        group = file.create_group(name)
        group.attrs["weight_names"] = np.array(keys, "S")
        for key, array in zip(keys, arrays):
            group[key] = array
