"""Weight files: the legacy Keras 2 layout, Keras's own, ImageNet's, downloads.

The legacy layout is that of the released mask_rcnn_coco.h5: a group for each layer, named in the
attribute `layer_names`, with its arrays in the order of `weight_names`; the RPN's layers lie
together in the group of the nested model.
"""

import dataclasses
import itertools
import logging
import os
import pathlib
import re
import tempfile
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import h5py
import numpy as np

from mrcnn import files, torchvision
from mrcnn.files import (  # noqa: F401  names that existing code imports from here
    atomic,
    download,
    progress_bar,
)
from mrcnn.utils import download_trained_weights  # noqa: F401

logger = logging.getLogger(__name__)

# The order of a layer's weights in a legacy file.
ORDER = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
PARTS = {"FPN": r"fpn_.*", "RPN": r"rpn_.*", "heads": r"mrcnn_.*"}

# Backbones with ImageNet weights, and their functions in `keras.applications`.
_APPLICATIONS = {"resnet50": "ResNet50", "resnet101": "ResNet101", "resnet152": "ResNet152"}

# Problems that the message of a file that doesn't fit shows.
_SHOWN_PROBLEMS = 20

# {layer: [(weight's name, array)]}, in the order of a legacy file.
_LayerArrays = dict[str, list[tuple[str, Any]]]


@dataclasses.dataclass
class Coverage:
    """What became of a file's weights, by name "layer/weight".

    Attributes:
        loaded: names.
        missing: names of the network that the file lacks.
        ignored: names of the file that were excluded.
        unused: names of the file that the network lacks.
        mismatched: {name: (shape in the file, shape in the network)}.
    """

    loaded: list
    missing: list
    ignored: list
    unused: list
    mismatched: dict

    def __repr__(self) -> str:
        # A notebook shows what `load_weights` returns: hundreds of names otherwise.
        return f"Coverage({self.summary()})"

    def summary(self) -> str:
        """One line with the counts."""
        return (
            f"{len(self.loaded)} weights loaded, {len(self.missing)} missing, {len(self.ignored)}"
            f" excluded, {len(self.unused)} unused, {len(self.mismatched)} mismatched"
        )


def layers_of(model: Any) -> dict[str, Any]:
    """{name: layer} of all layers with weights, those of nested models included."""
    import keras

    found = {}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found.update(layers_of(layer))
        elif layer.weights:
            found[layer.name] = layer
    return found


def _ordered(layer: Any) -> list[tuple[str, Any]]:
    """[(weight's name, variable)] in the order of a legacy file."""
    pairs = [(weight.name, weight) for weight in layer.weights]
    return sorted(pairs, key=_place_in_order)


def _place_in_order(pair: tuple[str, Any]) -> int:
    """Where a (weight's name, value) stands in a legacy layer; names without a place come last."""
    name = pair[0]
    if name in ORDER:
        return ORDER.index(name)
    return len(ORDER)


def part_of(name: str) -> str:
    """The part of the network that a layer belongs to."""
    for part, pattern in PARTS.items():
        if re.fullmatch(pattern, name):
            return part
    return "backbone"


# ---- Legacy files --------------------------------------------------------------------------------


def _text(value: Any) -> str:
    """Text of an attribute, which h5py gives as bytes or as str."""
    if isinstance(value, bytes):
        return value.decode()
    return str(value)


def read_legacy(path: Any, layer_names: Collection[str] = ()) -> tuple[_LayerArrays, list[str]]:
    """The weights of a legacy file.

    Args:
        path: an `.h5`, of weights or of a whole model.
        layer_names: layers of the network. A group of one of these names holds that layer; in other
            groups (nested and multi-GPU models) the name of each array tells its layer.

    Returns:
        {layer: [(weight's name, array)]}, and the names of all layers of the file, those without
        weights too.

    Raises:
        ValueError: not such a file.
    """
    found: _LayerArrays = {}
    names = []
    with _open(path) as file:
        root = file
        if "model_weights" in file:
            root = file["model_weights"]
        if "layer_names" not in root.attrs:
            raise ValueError(
                f"{path} is no weight file in the legacy layout: it has no attribute layer_names"
            )
        for group_name in map(_text, root.attrs["layer_names"]):
            names.append(group_name)
            group = root[group_name]
            for key in map(_text, group.attrs.get("weight_names", ())):
                parts = key.split(":")[0].split("/")
                layer = group_name
                if group_name not in layer_names and len(parts) >= 2:
                    layer = parts[-2]
                array = np.asarray(group[key])
                found.setdefault(layer, []).append((parts[-1], array))
                names.append(layer)
    return found, names


def _open(path: Any) -> h5py.File:
    """A weight file, open for reading."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if not os.path.exists(path):
            raise FileNotFoundError(f"No weight file at {path}") from error
        raise ValueError(f"{path} is not a readable HDF5 file: {error}") from error


# ---- Loading -------------------------------------------------------------------------------------


class _Source(NamedTuple):
    """What was read of a legacy file or of a state dict.

    Attributes:
        arrays: {layer: [(weight's name, array)]}; weights that no layer has stand under their own
            name, without an array.
        layer_names: names of its layers, those without weights too.
        title: its path, or what it is called in messages.
        hint: what to say if it doesn't fit the network.
    """

    arrays: _LayerArrays
    layer_names: list[str]
    title: str
    hint: str = ""


def load(
    model: Any,
    path: Any,
    by_name: bool = False,
    exclude: Collection[str] = (),
) -> Coverage:
    """Loads a weight file into a model.

    Args:
        model: Keras model.
        path: `.weights.h5` for Keras's layout; a state dict, `.npz` or `.pth` of torchvision, see
            `mrcnn.torchvision`; otherwise a legacy file.
        by_name: allow that whole parts (backbone, FPN, RPN, heads) are missing in the file.
        exclude: names of layers to leave as they are.

    Returns:
        Coverage.

    Raises:
        ValueError: a misspelt `exclude`, weights of the file that are unused or don't fit, a part
            that is only half in the file. Nothing has been loaded then.
    """
    layers = layers_of(model)
    if torchvision.is_checkpoint(path):
        source = _torchvision_source(path)
    else:
        path = os.fspath(path)
        if path.endswith(".weights.h5"):
            if exclude:
                raise ValueError(
                    f"exclude goes with legacy files, whose layers have names. Received: {path},"
                    f" exclude={exclude!r}"
                )
            return _load_keras(model, path)
        arrays, layer_names = read_legacy(path, layers)
        source = _Source(arrays, layer_names, path)
    known = {*source.layer_names, *layers}
    known.update(layer.name for layer in model.layers)
    misspelt = sorted(set(exclude) - known)
    if misspelt:
        raise ValueError(
            f"exclude has names of layers of {source.title} or of the network. Received: {misspelt}"
        )
    coverage, assignments = _compare(layers, source.arrays, exclude)
    _refuse(coverage, source.title, by_name, source.hint)
    for variable, array in assignments:
        variable.assign(array)
    return coverage


def _torchvision_source(checkpoint: Any) -> _Source:
    """A checkpoint of torchvision in the names and the order of this package's layers."""
    translated, unknown = torchvision.translate(torchvision.read(checkpoint))
    arrays: _LayerArrays = {}
    for layer, of_layer in translated.items():
        arrays[layer] = sorted(of_layer.items(), key=_place_in_order)
    for key in unknown:
        arrays[key] = [("", None)]
    title = "The state dict"
    if isinstance(checkpoint, (str, os.PathLike)):
        title = os.fspath(checkpoint)
    hint = "mrcnn.torchvision.config_of() gives the config that a torchvision checkpoint fits. "
    return _Source(arrays, list(translated), title, hint)


def _compare(
    layers: dict[str, Any],
    arrays: _LayerArrays,
    exclude: Collection[str],
) -> tuple[Coverage, list[tuple[Any, np.ndarray]]]:
    """Pairs the weights of the network with those of a file, in their order.

    Returns:
        Coverage, and [(variable, array)] of those that fit.
    """
    coverage = Coverage([], [], [], [], {})
    assignments = []
    for layer in sorted({*layers, *arrays}):
        of_file = arrays.get(layer, [])
        if layer in exclude:
            coverage.ignored += [f"{layer}/{weight}" for weight, _ in of_file]
            continue
        of_network = []
        if layer in layers:
            of_network = _ordered(layers[layer])
        for wanted, given in itertools.zip_longest(of_network, of_file):
            if given is None:
                coverage.missing.append(f"{layer}/{wanted[0]}")
                continue
            if wanted is None:
                coverage.unused.append(f"{layer}/{given[0]}")
                continue
            weight, variable = wanted
            array = given[1]
            shape = tuple(variable.shape)
            if shape != array.shape:
                coverage.mismatched[f"{layer}/{weight}"] = (array.shape, shape)
            else:
                coverage.loaded.append(f"{layer}/{weight}")
                assignments.append((variable, array))
    return coverage, assignments


def _refuse(
    coverage: Coverage,
    title: str,
    by_name: bool,
    hint: str,
) -> None:
    """An error that lists what doesn't fit, or a warning of whole parts that are missing."""
    problems = []
    for name, (in_file, in_network) in coverage.mismatched.items():
        problems.append(f"{name}: {in_file} in the file, {in_network} in the network")
    for name in coverage.unused:
        problems.append(f"{name}: not in the network")
    loaded_parts = _parts_of(coverage.loaded)
    for name in coverage.missing:
        if not by_name or _part_of_weight(name) in loaded_parts:
            problems.append(f"{name}: not in the file")
    if problems:
        more = ""
        if len(problems) > _SHOWN_PROBLEMS:
            more = f"\n  and {len(problems) - _SHOWN_PROBLEMS} more"
        raise ValueError(
            f"{title} doesn't fit the network; nothing was loaded. {hint}Exclude layers that are to"
            " stay as they are; by_name=True allows that the backbone, FPN, RPN or heads are"
            " missing.\n  " + "\n  ".join(problems[:_SHOWN_PROBLEMS]) + more
        )
    if coverage.missing:
        logger.warning(
            "%s has no weights for %s: they stay as they are",
            title,
            ", ".join(sorted(_parts_of(coverage.missing))),
        )


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
    """(key, array) of a layer's weights as its legacy group holds them; of a model, of all."""
    import keras

    if isinstance(layer, keras.Model):
        for inner in layer.layers:
            yield from _entries(inner)
        return
    for name, variable in _ordered(layer):
        yield f"{layer.name}/{name}:0", np.asarray(variable)


def save(model: Any, path: str | os.PathLike) -> None:
    """Saves a model's weights, put in place only when complete; `.weights.h5` is Keras's layout."""
    path = os.fspath(path)
    if path.endswith(".weights.h5"):
        folder = os.path.dirname(path) or "."
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary_folder:
            temporary = os.path.join(temporary_folder, "x.weights.h5")
            _by_name(model).save_weights(temporary)
            os.replace(temporary, path)
        return
    with files.atomic(path) as temporary, h5py.File(temporary, "w") as file:
        write_legacy(model, file)


# ---- Keras's layout ------------------------------------------------------------------------------


def _by_name(model: Any) -> Any:
    """A model that holds the layers with weights in the order of their names.

    Keras numbers the layers of a file in the order of the graph; the training graph and the
    inference graph have the same layers in another order, and each shall read what the other wrote.
    """
    import keras

    holder = keras.Model()
    holder.parts = [layer for _, layer in sorted(layers_of(model).items())]
    holder.built = True
    return holder


def _load_keras(model: Any, path: str) -> Coverage:
    """Loads a file in Keras's layout, all of it or nothing."""
    if not os.path.exists(path):
        raise FileNotFoundError(f"No weight file at {path}")
    holder = _by_name(model)
    before = [np.asarray(variable) for variable in holder.weights]
    try:
        holder.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        for variable, array in zip(holder.weights, before):
            variable.assign(array)
        raise ValueError(f"{path} doesn't fit the network; nothing was loaded: {error}") from error
    loaded = []
    for name, layer in sorted(layers_of(model).items()):
        for weight, _ in _ordered(layer):
            loaded.append(f"{name}/{weight}")
    return Coverage(loaded, [], [], [], {})


# ---- ImageNet ------------------------------------------------------------------------------------


def from_application(application: Any, epsilon: float = 1e-3) -> dict[str, list[np.ndarray]]:
    """Weights of a `keras.applications` ResNet for this package's backbone.

    Its batch norm has an epsilon of 1.001e-5, ours another one (BATCH_NORM_EPSILON): the difference
    goes into gamma. Its first convolution takes BGR, ours RGB.

    Returns:
        {layer: [arrays]} in legacy order.
    """
    found = {}
    for layer in application.layers:
        if not layer.weights:
            continue
        name = _name_of(layer.name)
        arrays = [np.asarray(variable) for _, variable in _ordered(layer)]
        if "bn" in name:
            variance = arrays[3]
            scale = np.sqrt((variance + epsilon) / (variance + layer.epsilon))
            arrays[0] = arrays[0] * scale
        elif name == "conv1":
            arrays[0] = arrays[0][:, :, ::-1]
        found[name] = arrays
    return found


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

    It is made through `keras.applications` on first use.
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
        application = build(include_top=False, weights="imagenet")
        with files.atomic(path) as temporary, h5py.File(temporary, "w") as file:
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
