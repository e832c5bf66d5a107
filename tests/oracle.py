"""Recorded answers of the original: loading a case, running it here, comparing.

Where they come from and what a case is: `tests/recorded/README.md`. Used as

    cases, arrays = oracle.load("pure_nophoto")
    oracle.check(cases["norm_boxes_sq"], arrays)
"""

import functools
import importlib
import json
import os
import pathlib
import random

import numpy as np
import pytest

from mrcnn import utils
from mrcnn.config import Config

TESTS = pathlib.Path(__file__).resolve().parent
RECORDED = TESTS / "recorded"


def find_shared(path=""):
    """The file or folder of recordings that are not carried in the repository, or None."""
    roots = [os.environ.get("MRCNN_SHARED"), TESTS.parent.parent / "shared", "/work/shared"]
    for root in roots:
        if root and (pathlib.Path(root) / path).exists():
            return pathlib.Path(root) / path
    return None


def shared(path=""):
    """`find_shared`, or the test is skipped."""
    found = find_shared(path)
    if found is None:
        pytest.skip(
            f"{path or 'the shared folder'} is not here: set MRCNN_SHARED to the folder of"
            " recordings"
        )
    return found


@functools.cache
def load(name):
    """Cases and arrays of one recording.

    Args:
        name: "pure_nophoto" or "graphs", which the repository carries, or "pure".

    Returns:
        {case's name: case}, {key: array}.
    """
    folder = (
        RECORDED
        if (RECORDED / f"{name}.npz").exists()
        else shared(f"oracle/matterport/{name}.npz").parent
    )
    cases = json.loads((folder / f"{name}_cases.json").read_text())
    with np.load(folder / f"{name}.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    return {case["case"]: case for case in cases}, arrays


# ---- Running -------------------------------------------------------------------------------------


class RecordedDataset(utils.Dataset):
    """The images, masks and class ids under one name of a recording; every class is active."""

    def __init__(self, name, arrays):
        super().__init__()
        self._recorded = {
            key[len(name) + 1 :]: value
            for key, value in arrays.items()
            if key.startswith(name + "/")
        }
        for class_id in range(1, int(self._recorded["num_classes"])):
            self.add_class("recorded", class_id, f"class {class_id}")
        for index in range(int(self._recorded["count"])):
            self.add_image("recorded", index, path=None)
        self.prepare()

    def load_image(self, image_id):
        return self._recorded[f"image{image_id}"].copy()

    def load_mask(self, image_id):
        return (
            self._recorded[f"mask{image_id}"].copy(),
            self._recorded[f"class_ids{image_id}"].copy(),
        )


def decode(value, arrays):
    """The Python value of an argument as it is written in a case."""
    if isinstance(value, list):
        return [decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((kind, content),) = value.items()
        if kind == "npz":
            return arrays[content].copy()
        if kind == "npa":
            return np.array(content)
        if kind == "tuple":
            return tuple(decode(content, arrays))
        if kind == "config":
            return type("RecordedConfig", (Config,), decode(dict(content), arrays))()
        if kind == "dataset":
            return RecordedDataset(content, arrays)
    return {key: decode(item, arrays) for key, item in value.items()}


def _map_arrays(value, function):
    if isinstance(value, (list, tuple)):
        return type(value)(_map_arrays(item, function) for item in value)
    if isinstance(value, dict):
        return {key: _map_arrays(item, function) for key, item in value.items()}
    return function(value)


def arguments(case, arrays):
    """args, kwargs of a case."""
    return decode(case["args"], arrays), {
        key: decode(item, arrays) for key, item in case["kwargs"].items()
    }


def function_of(case):
    module, name = case["func"].rsplit(".", 1)
    return getattr(importlib.import_module(f"mrcnn.{module}"), name)


def run(case, arrays):
    """What this project returns for a case, tensors as numpy arrays; a generator's batches as a
    list."""
    args, kwargs = arguments(case, arrays)
    function = function_of(case)
    if "layer_init" in case:
        function = function(
            **{key: decode(item, arrays) for key, item in case["layer_init"].items()}
        )
    if case.get("graph"):
        from keras import ops

        args, kwargs = _map_arrays(
            (args, kwargs),
            lambda value: ops.convert_to_tensor(value) if isinstance(value, np.ndarray) else value,
        )
    if "py_seed" in case:
        random.seed(case["py_seed"])
    if "np_seed" in case:
        np.random.seed(case["np_seed"])
    result = function(*args, **kwargs)
    if "take" in case:
        batches = iter(result)
        return [next(batches) for _ in range(case["take"])]
    if case.get("graph"):
        result = _map_arrays(
            result, lambda value: value if value is None else ops.convert_to_numpy(value)
        )
    return result


# ---- Comparing -----------------------------------------------------------------------------------


def outputs(case, result):
    """[(key or None, value)]: the parts of `result` that the case's outputs name, in their order.

    A key ends in `out`, then the path to the value: `out3.1` is result[3][1], `outscale`
    result["scale"].
    """
    pairs, top = [], -1
    for key in case["outs"]:
        if key is None:
            top += 1
            pairs.append((None, result[top]))
            continue
        path = key.rsplit("/", 1)[1].removeprefix("out").split(".")
        value = result
        if isinstance(result, (tuple, list, dict)):
            for step in path:
                value = value[int(step) if step.isdigit() else step]
            top = int(path[0]) if path[0].isdigit() else top
        pairs.append((key, value))
    return pairs


def _sort_rows(group, axis):
    """Arrays whose rows along `axis` belong together, sorted by the first array's rows."""
    if axis:
        parts = [_sort_rows([array[i] for array in group], axis - 1) for i in range(len(group[0]))]
        return [np.stack(column) for column in zip(*parts)]
    keys = np.round(group[0].astype(np.float64), 5)
    order = np.lexsort(keys.reshape(len(keys), -1).T[::-1])
    return [array[order] for array in group]


def compare(case, arrays, result):
    """Asserts that `result` is what was recorded, to the case's tolerance."""
    if isinstance(result, (tuple, list)) and "take" not in case:
        tops = {
            key.rsplit("/", 1)[1].split(".")[0] if key else i for i, key in enumerate(case["outs"])
        }
        assert len(result) == len(tops), f"{len(result)} results, recorded {len(tops)}"
    pairs = outputs(case, result)
    for key, value in pairs:
        assert (key is None) == (value is None), f"{key}: {value}"
    keys = [key for key, _ in pairs if key]
    actual = [np.asarray(value) for key, value in pairs if key]
    expected = [arrays[key] for key in keys]
    for key, a, b in zip(keys, actual, expected):
        assert a.shape == b.shape, f"{key}: shape {a.shape}, recorded {b.shape}"
    if "rows" in case:
        actual, expected = (_sort_rows(group, case["rows"]) for group in (actual, expected))
    for key, a, b in zip(keys, actual, expected):
        if b.dtype == bool:
            assert a.dtype == bool, f"{key}: {a.dtype}, recorded bool"
            assert b.size == 0 or np.mean(a != b) <= 1e-3, (
                f"{key}: {np.mean(a != b):.2%} of pixels differ"
            )
        else:
            np.testing.assert_allclose(
                a.astype(np.float64),
                b.astype(np.float64),
                rtol=case.get("rtol", 1e-5),
                atol=case.get("atol", 0),
                err_msg=key,
            )


def check(case, arrays):
    """Runs a case and compares; where the original raised, something must raise."""
    if "raises" in case:
        with pytest.raises(Exception):  # noqa: B017  of whatever kind the original raised
            run(case, arrays)
    else:
        compare(case, arrays, run(case, arrays))
