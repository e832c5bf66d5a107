"""Weight files: the legacy Keras 2 layout, Keras's own, ImageNet's, downloads.

The legacy layout is that of the released mask_rcnn_coco.h5: a group for each layer, named in the
attribute `layer_names`, with its arrays in the order of `weight_names`; the RPN's layers lie
together in the group of the nested model.
"""

import dataclasses
import logging
import os
import pathlib
import re
import tempfile

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

    def summary(self):
        """One line with the counts."""
        return (
            f"{len(self.loaded)} weights loaded, {len(self.missing)} missing, {len(self.ignored)}"
            f" excluded, {len(self.unused)} unused, {len(self.mismatched)} mismatched"
        )


def layers_of(model):
    """{name: layer} of all layers with weights, those of nested models included."""
    import keras

    found = {}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found.update(layers_of(layer))
        elif layer.weights:
            found[layer.name] = layer
    return found


def _ordered(layer):
    """[(weight's name, variable)] in the order of a legacy file."""
    pairs = [(weight.name, weight) for weight in layer.weights]
    return sorted(pairs, key=lambda pair: ORDER.index(pair[0]) if pair[0] in ORDER else len(ORDER))


def part_of(name):
    """The part of the network that a layer belongs to."""
    return next(
        (part for part, pattern in PARTS.items() if re.fullmatch(pattern, name)), "backbone"
    )


# ---- Legacy files --------------------------------------------------------------------------------


def _text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def read_legacy(path, layer_names=()):
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
    found, names = {}, []
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if not os.path.exists(path):
            raise FileNotFoundError(f"No weight file at {path}") from error
        raise ValueError(f"{path} is not a readable HDF5 file: {error}") from error
    with file:
        root = file["model_weights"] if "model_weights" in file else file
        if "layer_names" not in root.attrs:
            raise ValueError(
                f"{path} is no weight file in the legacy layout: it has no attribute layer_names"
            )
        for group in map(_text, root.attrs["layer_names"]):
            names.append(group)
            for key in map(_text, root[group].attrs.get("weight_names", ())):
                parts = key.split(":")[0].split("/")
                layer = group if group in layer_names or len(parts) < 2 else parts[-2]
                found.setdefault(layer, []).append((parts[-1], np.asarray(root[group][key])))
                names.append(layer)
    return found, names


def load(model, path, by_name=False, exclude=()):
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
    layers, hint = layers_of(model), ""
    if torchvision.is_checkpoint(path):
        found, unknown = torchvision.translate(torchvision.read(path))
        names = list(found)
        found = {
            layer: sorted(arrays.items(), key=lambda pair: ORDER.index(pair[0]))
            for layer, arrays in found.items()
        }
        found.update({key: [("", None)] for key in unknown})
        path = os.fspath(path) if isinstance(path, (str, os.PathLike)) else "The state dict"
        hint = "mrcnn.torchvision.config_of() gives the config that a torchvision checkpoint fits. "
    elif (path := os.fspath(path)).endswith(".weights.h5"):
        if exclude:
            raise ValueError(
                f"exclude goes with legacy files, whose layers have names. Received: {path},"
                f" exclude={exclude!r}"
            )
        return _load_keras(model, path)
    else:
        found, names = read_legacy(path, layers)
    known = {*names, *layers, *(layer.name for layer in model.layers)}
    misspelt = sorted(set(exclude) - known)
    if misspelt:
        raise ValueError(
            f"exclude has names of layers of {path} or of the network. Received: {misspelt}"
        )
    coverage = Coverage([], [], [], [], {})
    assignments = []
    for name in sorted({*layers, *found}):
        arrays = found.get(name, [])
        if name in exclude:
            coverage.ignored += [f"{name}/{key}" for key, _ in arrays]
            continue
        variables = _ordered(layers[name]) if name in layers else []
        for i in range(max(len(variables), len(arrays))):
            if i >= len(arrays):
                coverage.missing.append(f"{name}/{variables[i][0]}")
            elif i >= len(variables):
                coverage.unused.append(f"{name}/{arrays[i][0]}")
            elif tuple(variables[i][1].shape) != arrays[i][1].shape:
                coverage.mismatched[f"{name}/{variables[i][0]}"] = (
                    arrays[i][1].shape,
                    tuple(variables[i][1].shape),
                )
            else:
                coverage.loaded.append(f"{name}/{variables[i][0]}")
                assignments.append((variables[i][1], arrays[i][1]))
    _refuse(coverage, path, by_name, hint)
    for variable, array in assignments:
        variable.assign(array)
    return coverage


def _refuse(coverage, path, by_name, hint):
    problems = [
        f"{name}: {a} in the file, {b} in the network"
        for name, (a, b) in coverage.mismatched.items()
    ]
    problems += [f"{name}: not in the network" for name in coverage.unused]
    loaded = {part_of(name.split("/")[0]) for name in coverage.loaded}
    problems += [
        f"{name}: not in the file"
        for name in coverage.missing
        if not by_name or part_of(name.split("/")[0]) in loaded
    ]
    if problems:
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise ValueError(
            f"{path} doesn't fit the network; nothing was loaded. {hint}Exclude layers that are to"
            " stay as they are; by_name=True allows that the backbone, FPN, RPN or heads are"
            " missing.\n  " + "\n  ".join(problems[:20]) + more
        )
    if coverage.missing:
        logger.warning(
            "%s has no weights for %s: they stay as they are",
            path,
            ", ".join(sorted({part_of(name.split("/")[0]) for name in coverage.missing})),
        )


def write_legacy(model, file):
    """Writes a model's weights into an open h5py file in the legacy layout."""
    import keras

    def entries(layer):
        if isinstance(layer, keras.Model):
            return [entry for inner in layer.layers for entry in entries(inner)]
        return [
            (f"{layer.name}/{name}:0", np.asarray(variable)) for name, variable in _ordered(layer)
        ]

    file.attrs["backend"], file.attrs["keras_version"] = np.bytes_("tensorflow"), np.bytes_("2.0.8")
    file.attrs["layer_names"] = np.array([layer.name for layer in model.layers], "S")
    for layer in model.layers:
        group, arrays = file.create_group(layer.name), entries(layer)
        group.attrs["weight_names"] = (
            np.array([name for name, _ in arrays], "S") if arrays else np.zeros(0, "S1")
        )
        for name, array in arrays:
            group[name] = array


def save(model, path):
    """Saves a model's weights, put in place only when complete; `.weights.h5` is Keras's layout."""
    path = os.fspath(path)
    if path.endswith(".weights.h5"):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with tempfile.TemporaryDirectory(dir=os.path.dirname(path) or ".") as folder:
            temporary = os.path.join(folder, "x.weights.h5")
            _by_name(model).save_weights(temporary)
            os.replace(temporary, path)
        return
    with files.atomic(path) as temporary, h5py.File(temporary, "w") as file:
        write_legacy(model, file)


# ---- Keras's layout ------------------------------------------------------------------------------


def _by_name(model):
    """A model that holds the layers with weights in the order of their names.

    Keras numbers the layers of a file in the order of the graph; the training graph and the
    inference graph have the same layers in another order, and each shall read what the other wrote.
    """
    import keras

    holder = keras.Model()
    holder.parts = [layer for _, layer in sorted(layers_of(model).items())]
    holder.built = True
    return holder


def _load_keras(model, path):
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
    return Coverage(
        [
            f"{name}/{key}"
            for name, layer in sorted(layers_of(model).items())
            for key, _ in _ordered(layer)
        ],
        [],
        [],
        [],
        {},
    )


# ---- ImageNet ------------------------------------------------------------------------------------


def from_application(application, epsilon=1e-3):
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
        match = re.fullmatch(r"conv(\d)_block(\d+)_(\d)_(conv|bn)", layer.name)
        if match:
            stage, block, branch, kind = match.groups()
            branch = "branch1" if branch == "0" else "branch2" + "abc"[int(branch) - 1]
            prefix = "res" if kind == "conv" else "bn"
            name = f"{prefix}{stage}{chr(ord('a') + int(block) - 1)}_{branch}"
        else:
            name = {"conv1_conv": "conv1", "conv1_bn": "bn_conv1"}[layer.name]
        arrays = [np.asarray(variable) for _, variable in _ordered(layer)]
        if "bn" in name:
            arrays[0] = arrays[0] * np.sqrt((arrays[3] + epsilon) / (arrays[3] + layer.epsilon))
        elif name == "conv1":
            arrays[0] = arrays[0][:, :, ::-1]
        found[name] = arrays
    return found


def get_imagenet_weights(backbone, epsilon=1e-3):
    """Path of a legacy file with a backbone's ImageNet weights, made through `keras.applications`
    on first use."""
    import keras

    applications = {"resnet50": "ResNet50", "resnet101": "ResNet101", "resnet152": "ResNet152"}
    if backbone not in applications:
        raise ValueError(
            f"ImageNet weights exist for {', '.join(applications)}. Received: BACKBONE {backbone!r}"
        )
    suffix = "" if epsilon == 1e-3 else f"_epsilon{epsilon:g}"
    path = pathlib.Path.home() / ".keras" / "models" / f"mrcnn_{backbone}_imagenet{suffix}.h5"
    if not path.exists():
        application = getattr(keras.applications, applications[backbone])(
            include_top=False, weights="imagenet"
        )
        with files.atomic(path) as temporary, h5py.File(temporary, "w") as file:
            layers = from_application(application, epsilon)
            file.attrs["layer_names"] = np.array(sorted(layers), "S")
            for name in sorted(layers):
                keys = ORDER[2:] if "bn" in name else ORDER[:2]
                group = file.create_group(name)
                group.attrs["weight_names"] = np.array(
                    [f"{name}/{key}:0" for key in keys[: len(layers[name])]], "S"
                )
                for key, array in zip(keys, layers[name]):
                    group[f"{name}/{key}:0"] = array
    return str(path)
