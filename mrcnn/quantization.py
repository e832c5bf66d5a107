"""Exported models in fewer bits: float16 and int8 weights, and calibrated int8 activations.

`mrcnn.export` calls these functions. Without calibration only the weights of convolutions and
matrix products are stored in fewer bits; they are converted to float32 before they are used.

With calibration ("post-training static quantization") int8 convolutions and matrix products are
computed in integers too: images show which range each of their inputs has, and it is divided into
256 steps. Anchors, boxes, suppression and RoIAlign stay float32, and so do the layers whose outputs
become scores and boxes.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from mrcnn import data, runtime, utils

# ---- Weights -------------------------------------------------------------------------------------
# Only weights of convolutions and matrix products are stored in fewer bits; activations and all
# other constants stay float32: anchors in float16 would shift boxes by a quarter of a pixel.

# {operator whose second input is weights: axis of its outputs in them}, for ONNX and OpenVINO.
WEIGHTS_OF_ONNX = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
WEIGHTS_OF_OPENVINO = {"Convolution": 0, "ConvolutionBackpropData": 1, "MatMul": 1}


def as_int8(weights: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8 quantization per output channel: int8 values and their scales.

    Args:
        weights: float32.
        axis: of the outputs, each of which has its own scale.

    Returns:
        int8 in -127..127 of the weights' shape; float32 scales, of length 1 along all other axes.
    """
    others = tuple(i for i in range(weights.ndim) if i != axis)
    largest = np.abs(weights).max(axis=others, keepdims=True)
    scales = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(127)
    return np.rint(weights / scales).astype(np.int8), scales


def as_float16(weights: np.ndarray) -> np.ndarray | None:
    """Weights as float16; None if one of them exceeds its range."""
    if np.abs(weights).max(initial=0) > np.finfo(np.float16).max:
        return None
    return weights.astype(np.float16)


def shrink_onnx(network: Any, precision: str, onnx: Any) -> None:
    """Stores the weights of an ONNX model in fewer bits; its first nodes convert them to float32.

    Runtimes run these nodes once, when they load the model, or for each image.
    """
    arrays = {entry.name: entry for entry in network.graph.initializer}
    converted: dict[str, str] = {}  # {name of the weights: name of the converted ones}
    nodes = []
    for node in network.graph.node:
        axis = _axis_of_onnx(node)
        if axis is None or node.input[1] not in arrays:
            continue
        name = node.input[1]
        if name not in converted:
            weights = onnx.numpy_helper.to_array(arrays[name])
            if weights.dtype != np.float32 or weights.ndim < 2:
                continue
            stored, added = _small_initializers(name, weights, axis, precision, onnx)
            if not stored:
                continue
            network.graph.initializer.extend(stored)
            nodes.append(added)
            converted[name] = added.output[0]
        node.input[1] = converted[name]
    for node in reversed(nodes):
        network.graph.node.insert(0, node)
    used = {name for node in network.graph.node for name in node.input}
    for i in reversed(range(len(network.graph.initializer))):
        if network.graph.initializer[i].name in converted.keys() - used:
            del network.graph.initializer[i]


def _axis_of_onnx(node):
    """The axis of the outputs in a node's weights; None for a node without weights."""
    axis = WEIGHTS_OF_ONNX.get(node.op_type)
    if axis is None or len(node.input) < 2:
        return None
    if any(entry.name == "transB" and entry.i for entry in node.attribute):
        return 0
    return axis


def _small_initializers(name, weights, axis, precision, onnx):
    """Initializers with the weights in fewer bits, and the node that converts them to float32."""
    stored = f"{name}/{precision}"
    output = f"{name}/float32"
    if precision == "float16":
        halves = as_float16(weights)
        if halves is None:
            return [], None
        node = onnx.helper.make_node("Cast", [stored], [output], to=onnx.TensorProto.FLOAT)
        return [onnx.numpy_helper.from_array(halves, stored)], node
    values, scales = as_int8(weights, axis)
    names = [stored, f"{name}/scales", f"{name}/zeros"]
    arrays = [values, scales.ravel(), np.zeros(scales.size, np.int8)]
    node = onnx.helper.make_node("DequantizeLinear", names, [output], axis=axis)
    return [onnx.numpy_helper.from_array(*pair) for pair in zip(arrays, names)], node


def shrink_openvino(network: Any, precision: str, openvino: Any) -> None:
    """Stores the weights of an OpenVINO model in fewer bits; its graph converts them to float32."""
    operations = openvino.opset13
    converted: dict[str, Any] = {}
    for node in network.get_ordered_ops():
        axis = WEIGHTS_OF_OPENVINO.get(node.get_type_name())
        if axis is None:
            continue
        source = node.input_value(1).get_node()
        name = source.get_friendly_name()
        if name not in converted:
            if source.get_type_name() != "Constant":
                continue
            weights = source.data
            if weights.dtype != np.float32 or weights.ndim < 2:
                continue
            if node.get_type_name() == "MatMul" and node.get_attributes()["transpose_b"]:
                axis = 0
            small = _small_constant(weights, axis, precision, operations)
            if small is None:
                continue
            converted[name] = small
        node.input(1).replace_source_output(converted[name].output(0))


def _small_constant(weights, axis, precision, operations):
    """The node that converts small weights to float32; None if float16 can't hold them."""
    if precision == "float16":
        halves = as_float16(weights)
        if halves is None:
            return None
        return operations.convert(operations.constant(halves), "f32")
    values, scales = as_int8(weights, axis)
    floats = operations.convert(operations.constant(values), "f32")
    return operations.multiply(floats, operations.constant(scales))


# ---- Calibrated activations ----------------------------------------------------------------------

# Layers whose outputs become scores and boxes: rounding there moves detections most, and they are a
# small part of the arithmetic.
PREDICTORS = (
    "rpn_class_raw",
    "rpn_bbox_pred",
    "mrcnn_class_logits",
    "mrcnn_bbox_fc",
    "mrcnn_keypoint_deconv",
)


class _Calibration:
    """Images as the input of a float32 file, one by one, for onnxruntime's calibration.

    Args:
        model: the file.
        images: see `calibrated`.

    Attributes:
        count: number of images so far.
        has_detections: whether any of them had a detection.
    """

    def __init__(self, model: runtime.Model, images: Iterable):
        self.model = model
        self.count = 0
        self.has_detections = False
        self._images = self._read(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next image as {name of the input: [B, H, W, C] uint8}; None after the last one."""
        batch = next(self._images, None)
        if batch is None:
            self._check_detections()
            return None
        if not self.has_detections:
            self.has_detections = bool(np.any(self.model.run(batch)["class_ids"] > 0))
        return {runtime.INPUT: batch}

    def _check_detections(self):
        """ValueError if the ranges in the heads, which see detections, are unknown."""
        if not self.has_detections:
            raise ValueError(
                "calibration takes images on which the model detects something, such as those that"
                f" it is for. Received: {self.count} images, without a detection"
            )

    def _read(self, images):
        for number, item in enumerate(images):
            load = None
            if isinstance(item, (str, os.PathLike)):
                load = utils.read_image
            image, where = data.loaded(number, item, load)
            if getattr(images, "place", None):
                where = f"image {number} ({images.place})"
            pixels = self.model.as_input(image, f"calibration: {where}").pixels
            self.count += 1
            yield np.stack([pixels] * (self.model.shape[0] or 1))


def calibrated(file: pathlib.Path, images: Iterable, tool: Any, onnx: Any) -> tuple[Any, int]:
    """A float32 ONNX file with convolutions and matrix products in int8, by ONNX Runtime's tool.

    Weights have a scale for each output channel and 7 bits, because the instructions of processors
    without VNNI overflow with 8; activations have 8 bits over the range that the images show.

    Args:
        file: written by `mrcnn.export`; temporary files are written beside it.
        images: arrays as for `MaskRCNN.detect`, or paths of image files. An iterator of arrays
            may have an attribute `place` that names its last one in errors.
        tool: the module onnxruntime.quantization.

    Returns:
        an onnx.ModelProto in ONNX Runtime's QDQ form, without metadata; the number of images.

    Raises:
        ValueError: no image, one that the model does not accept, or no detection on any of them.
    """
    prepared = file.with_name("prepared.onnx")
    target = file.with_name("calibrated.onnx")
    # Symbolic shapes need one more package, and ranges need no shapes.
    tool.quant_pre_process(file, prepared, skip_symbolic_shape=True)
    reader = _Calibration(runtime.load(file), images)
    tool.quantize_static(
        prepared,
        target,
        reader,
        quant_format=tool.QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        activation_type=tool.QuantType.QUInt8,
        weight_type=tool.QuantType.QInt8,
        nodes_to_quantize=_computed_in_int8(onnx.load(prepared), onnx),
    )
    network = onnx.load(target)
    del network.metadata_props[:]
    return network, reader.count


def _computed_in_int8(network, onnx):
    """Names of the nodes of an ONNX model that calibration makes int8: those with weights."""
    arrays = {entry.name: entry for entry in network.graph.initializer}
    names = []
    for node in network.graph.node:
        if _axis_of_onnx(node) is None or node.input[1] not in arrays:
            continue
        weights = arrays[node.input[1]]
        if weights.data_type != onnx.TensorProto.FLOAT or len(weights.dims) < 2:
            continue
        if not any(part.startswith(PREDICTORS) for part in node.name.split("/")):
            names.append(node.name)
    return names
