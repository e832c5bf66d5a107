"""Trained models as files for other runtimes: SavedModel, ONNX, OpenVINO, LiteRT.

    model.export("model.onnx", class_names=dataset.class_names)
    python samples/coco/coco.py export --weights=coco --file=model.onnx

An exported graph takes unprocessed images, [B, H, W, C] uint8, and returns boxes in pixels of these
images: resizing, mean subtraction, image meta and anchors are part of it. Its outputs, by
descending score:

    boxes      [B, N, (y1, x1, y2, x2)] float32, pixels, not rounded
    class_ids  [B, N] int32, 0 in rows without a detection
    scores     [B, N] float32
    masks      [B, N, h, w] float32, probabilities inside the box (with USE_MASK); with paste=True
               [B, N, H, W] uint8, 1 at the object's pixels in the image
    keypoints  [B, N, h, w, K] float32, logits inside the box (with USE_KEYPOINTS)
    windows    [B, (y1, x1, y2, x2)] float32, the image in the molded one (with USE_KEYPOINTS)

N is the largest number of detections among the images of the batch, at least 1; in a LiteRT file it
is always DETECTION_MAX_INSTANCES. `mrcnn.runtime` runs these files without TensorFlow. The metadata
of each file holds class names, settings, version and weights.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import json
import logging
import operator
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mrcnn import __version__, boxes as box_math, data, files, ops as kernels, quantization, rewrite
from mrcnn.config import Config, setting_names
from mrcnn.files import atomic, write_bytes
from mrcnn.runtime import (
    AROUND,
    ASSET,
    CHECKSUM,
    FORMATS,
    INPUT,
    METADATA_KEY,
    SUFFIXES,
    checksum,
    environment,
    format_of,
    without_telemetry,
)

if TYPE_CHECKING:
    from mrcnn.model import MaskRCNN

logger = logging.getLogger(__name__)

Tensor = Any

# ONNX opset: the oldest with all operators that are used, for old runtimes.
OPSET = 17
# {module: package} that each format needs in addition to TensorFlow.
NEEDS: dict[str, dict[str, str]] = {
    "saved_model": {},
    "onnx": {"tf2onnx": "tf2onnx", "onnx": "onnx"},
    "openvino": {"openvino": "openvino", "openvino.frontend": "openvino"},
    "litert": {},
}
# {module: package} that calibration needs, whichever format is written.
NEEDS_OF_CALIBRATION = {
    **NEEDS["onnx"],
    "onnxruntime": "onnxruntime",
    "onnxruntime.quantization": "onnxruntime",
}
# Sides of square images, in pixels, for which COMPUTE_BACKBONE_SHAPE is checked.
PROBED_SIDES = (256, 320, 416)


# ---- Molding in the graph ------------------------------------------------------------------------


class Sizes(NamedTuple):
    """Position of an image in the molded one; ints, or int32 scalar tensors.

    Attributes:
        height, width: size of the resized image.
        top, bottom, left, right: padding in pixels.
        scale: new size / old size.
    """

    height: Tensor
    width: Tensor
    top: Tensor
    bottom: Tensor
    left: Tensor
    right: Tensor
    scale: Tensor


class Molder:
    """`inference.mold` as a part of the graph.

    Args:
        config: the settings.
        wide: compute pixels and sizes in float64, as numpy does in `inference.mold`. OpenVINO
            computes everything in float32 and LiteRT lacks float64 operations: there a pixel may
            be off by 1 of 255, as float32 can't distinguish 99.99999 from 100.
    """

    # Added to float32 pixels before the fraction is cut off: above the rounding error of a sum of
    # integers times weights, below the distance to the next value that such a sum can have.
    ROUNDING = 2.0**-12
    # Factor for float32 sides, above the error of a quotient and a product: 480 * (800 / 480) is
    # below 800 in float32, but not in float64.
    ROUNDING_OF_SIDES = 1 + 2.0**-22
    # Largest side of an image in the table of `_cut_off`.
    KNOWN_SIDES = 8192

    def __init__(self, config: Config, wide: bool):
        import tensorflow as tf

        self.config = config
        self.wide = wide
        self.mode = config.IMAGE_RESIZE_MODE
        self.float_type = tf.float32
        if wide:
            self.float_type = tf.float64

    def __call__(self, images: Tensor) -> tuple[Tensor, Sizes]:
        """Molded images [B, h, w, C] float32 of images [B, H, W, C] uint8, and their `Sizes`."""
        import tensorflow as tf

        sizes = self._sizes(images)
        padding = [[0, 0], [sizes.top, sizes.bottom], [sizes.left, sizes.right], [0, 0]]
        is_resized = self.mode != "none" and not isinstance(sizes.scale, int)
        if self.config.FLOAT_RESIZE:
            molded = self._normalised(images)
            if is_resized:
                molded = self._interpolated(molded, sizes)
            molded = tf.pad(molded, padding)
        else:
            pixels = tf.cast(images, self.float_type)
            if is_resized:
                pixels = self._resized(pixels, sizes)
            molded = self._normalised(tf.pad(pixels, padding))
        if self.mode == "square":
            side = self.config.IMAGE_MAX_DIM
            molded = tf.ensure_shape(molded, [images.shape[0], side, side, images.shape[-1]])
        return molded, sizes

    # ---- Sizes ---------------------------------------------------------------------------------

    def _sizes(self, images):
        import tensorflow as tf

        if images.shape[1:3].is_fully_defined():
            return self._known_sizes(*images.shape[1:3])
        shape = tf.shape(images)
        height = shape[1]
        width = shape[2]
        if self.mode == "none":
            return Sizes(height, width, 0, 0, 0, 0, 1)
        scale, cut = self._scale(height, width)
        new_height = self._whole(height, scale, cut)
        new_width = self._whole(width, scale, cut)
        if self.mode == "square":
            down = self.config.IMAGE_MAX_DIM - new_height
            right = self.config.IMAGE_MAX_DIM - new_width
        else:
            stride = 32
            if self.mode == "pad64":
                stride = 64
            # Not -new_height % stride: tf2onnx converts that to a remainder that is negative.
            down = (stride - new_height % stride) % stride
            right = (stride - new_width % stride) % stride
        if self.mode == "shorter":
            return Sizes(new_height, new_width, 0, down, 0, right, scale)
        top = down // 2
        left = right // 2
        return Sizes(new_height, new_width, top, down - top, left, right - left, scale)

    def _known_sizes(self, height, width):
        """The `Sizes` of a static size, from the code of `detect`, run on an empty image."""
        empty = np.zeros((height, width, self.config.IMAGE_CHANNEL_COUNT), np.uint8)
        molded, window, scale = data.mold_with_size(empty, self.config)
        y1, x1, y2, x2 = (int(edge) for edge in window)
        bottom, right = np.subtract(molded.shape[:2], (y2, x2)).tolist()
        if scale != 1:
            scale = float(scale)
        return Sizes(y2 - y1, x2 - x1, y1, bottom, x1, right, scale)

    def _scale(self, height, width):
        """`utils._scale` of int32 scalars; and the side of `_cut_off` that must lose a pixel."""
        import tensorflow as tf

        config = self.config
        shorter = tf.cast(tf.minimum(height, width), self.float_type)
        longer = tf.cast(tf.maximum(height, width), self.float_type)
        scale = tf.ones_like(shorter)
        cut = tf.zeros_like(height)
        if config.IMAGE_MIN_DIM:
            scale = config.IMAGE_MIN_DIM / shorter
            cut = self._cut_off(tf.minimum(height, width), config.IMAGE_MIN_DIM)
            if self.mode != "shorter":
                cut = tf.where(scale > 1, cut, 0)
                scale = tf.maximum(tf.ones_like(scale), scale)
        if config.IMAGE_MIN_SCALE:
            min_scale = tf.constant(config.IMAGE_MIN_SCALE, self.float_type)
            cut = tf.where(min_scale > scale, 0, cut)
            scale = tf.maximum(scale, min_scale)
        if self.mode in ("square", "shorter"):
            max_dim = tf.constant(config.IMAGE_MAX_DIM, self.float_type)
            scaled = longer * scale
            if not config.FLOAT_RESIZE:
                scaled = tf.round(scaled)
            elif not self.wide:
                scaled = scaled / self.ROUNDING_OF_SIDES
            longer_cut = self._cut_off(tf.maximum(height, width), config.IMAGE_MAX_DIM)
            cut = tf.where(scaled > max_dim, longer_cut, cut)
            scale = tf.where(scaled > max_dim, max_dim / longer, scale)
        return scale, cut

    def _cut_off(self, side, new_side):
        """`side`, int32, if `side * (new_side / side)` is below new_side in float64, otherwise 0.

        For example 612 and 1333: the product, cut to whole pixels, is 1332, but not in float32.
        """
        import tensorflow as tf

        if self.wide or not self.config.FLOAT_RESIZE:
            return tf.zeros_like(side)
        sides = np.arange(1, self.KNOWN_SIDES + 1)
        table = np.zeros(self.KNOWN_SIDES + 2, np.int32)
        table[1:-1] = sides * (new_side / sides) < new_side
        return side * tf.gather(table, tf.minimum(side, self.KNOWN_SIDES + 1))

    def _whole(self, side, scale, cut):
        """A side of the resized image, int32; one less if the side equals `cut`."""
        import tensorflow as tf

        scaled = tf.cast(side, self.float_type) * scale
        if not self.config.FLOAT_RESIZE:
            scaled = tf.round(scaled)
        elif self.wide:
            scaled = tf.floor(scaled)
        else:
            scaled = tf.floor(scaled * self.ROUNDING_OF_SIDES)
        whole = tf.cast(scaled, tf.int32) - tf.cast(side == cut, tf.int32)
        return tf.maximum(1, whole)

    # ---- Pixels --------------------------------------------------------------------------------

    def _neighbours(self, n_in, n_out):
        """Indices low, high [n_out] int32, and the fraction [n_out] of the way from low to high.

        The positions of `masks.bilinear_samples`, not clipped to the image.
        """
        import tensorflow as tf

        if isinstance(n_out, int):
            position = (np.arange(n_out) + 0.5) * (int(n_in) / n_out) - 0.5
            low = np.floor(position)
            fraction = tf.constant(position - low, self.float_type)
            low = tf.constant(low, tf.int32)
        elif self.wide:
            places = tf.cast(tf.range(n_out), tf.float64) + 0.5
            position = places * (tf.cast(n_in, tf.float64) / tf.cast(n_out, tf.float64)) - 0.5
            floor = tf.floor(position)
            fraction = position - floor
            low = tf.cast(floor, tf.int32)
        else:
            # Integer arithmetic, as float32 has too few digits for a position such as 1000.3.
            # Positions are shifted by one pixel so that none is negative: runtimes differ in the
            # remainders of negative numbers.
            halves = (2 * tf.range(n_out) + 1) * n_in + n_out
            above = halves // (2 * n_out)
            rest = halves - above * (2 * n_out)
            low = above - 1
            fraction = tf.cast(rest, tf.float32) / tf.cast(2 * n_out, tf.float32)
        return low, low + 1, fraction

    @staticmethod
    def _side(images, axis):
        """The side of images along an axis: an int if it is static, otherwise an int32 scalar."""
        import tensorflow as tf

        return images.shape[axis] or tf.shape(images)[axis]

    def _weights(self, low, high, fraction, n_in, axis):
        """Indices along an axis, clipped to the image, and their weights, 0 for those outside."""
        import tensorflow as tf

        zero = tf.zeros_like(fraction)
        low_weight = tf.where(low < 0, zero, 1 - fraction)
        high_weight = tf.where(high > n_in - 1, zero, fraction)
        along = [1] * axis + [-1] + [1] * (3 - axis)
        return (
            tf.maximum(low, 0),
            tf.minimum(high, n_in - 1),
            tf.reshape(low_weight, along),
            tf.reshape(high_weight, along),
        )

    def _resized(self, pixels, sizes):
        """`utils.resize_image` without padding, for pixels [B, H, W, C] that are whole numbers.

        The sums have the same order as there, so that float64 cuts 99.99999 to 99 in both; each
        product has one weight, along its axis.
        """
        import tensorflow as tf

        height = self._side(pixels, 1)
        width = self._side(pixels, 2)
        low, high, fraction = self._neighbours(height, sizes.height)
        y_low, y_high, y_low_weight, y_high_weight = self._weights(low, high, fraction, height, 1)
        low, high, fraction = self._neighbours(width, sizes.width)
        x_low, x_high, x_low_weight, x_high_weight = self._weights(low, high, fraction, width, 2)
        darkest = tf.reduce_min(pixels, axis=(1, 2, 3), keepdims=True)
        brightest = tf.reduce_max(pixels, axis=(1, 2, 3), keepdims=True)
        above = tf.gather(pixels, y_low, axis=1) * y_low_weight
        below = tf.gather(pixels, y_high, axis=1) * y_high_weight
        # Stacked, as TensorFlow would rewrite a * weight + b * weight to (a + b) * weight.
        both = tf.stack([above, below])
        left = tf.gather(both, x_low, axis=3) * x_low_weight
        right = tf.gather(both, x_high, axis=3) * x_high_weight
        total = left[0] + right[0] + left[1] + right[1]
        total = tf.minimum(tf.maximum(total, darkest), brightest)
        if not self.wide:
            total = total + self.ROUNDING
        return tf.floor(total)

    def _interpolated(self, molded, sizes):
        """`utils.resize_image` with exact=True for normalised images [B, H, W, C] float32."""
        import tensorflow as tf

        for axis, n_out in ((1, sizes.height), (2, sizes.width)):
            n_in = self._side(molded, axis)
            low, high, fraction = self._neighbours(n_in, n_out)
            # Outside the image, the edge is repeated.
            fraction = tf.where(low < 0, tf.zeros_like(fraction), fraction)
            weight = tf.reshape(tf.cast(fraction, tf.float32), [1] * axis + [-1] + [1] * (3 - axis))
            first = tf.gather(molded, tf.maximum(low, 0), axis=axis)
            second = tf.gather(molded, tf.clip_by_value(high, 0, n_in - 1), axis=axis)
            molded = first + weight * (second - first)
        return molded

    def _normalised(self, images):
        """`data.mold_image`: pixels minus mean, divided by the standard deviation, float32."""
        import tensorflow as tf

        channels = images.shape[-1]
        mean = np.broadcast_to(np.asarray(self.config.MEAN_PIXEL, np.float64), (channels,))
        std = np.broadcast_to(np.asarray(self.config.STD_PIXEL, np.float64), (channels,))
        pixels = tf.cast(images, self.float_type)
        molded = tf.cast(pixels - tf.constant(mean, self.float_type), tf.float32)
        if np.any(std != 1):
            molded = molded / tf.constant(std, tf.float32)
        return molded


def _metas(images, molded, sizes, config):
    """`data.compose_image_meta` of the images, [B, meta] float32, and their windows [B, 4]."""
    import tensorflow as tf

    def numbers(*values):
        return tf.stack([tf.cast(value, tf.float32) for value in values])

    before = tf.shape(images)
    after = tf.shape(molded)
    channels = images.shape[-1]
    window = numbers(sizes.top, sizes.left, sizes.top + sizes.height, sizes.left + sizes.width)
    meta = tf.concat(
        [
            numbers(0, before[1], before[2], channels, after[1], after[2], channels),
            window,
            numbers(sizes.scale),
            tf.zeros([config.NUM_CLASSES], tf.float32),
        ],
        axis=0,
    )
    zeros = tf.zeros([before[0], 1], tf.float32)
    return meta[None] + zeros, window[None] + zeros


def _anchors(molded, config, layer):
    """Normalised anchors [B, A, 4]: if the molded size is static, a constant as in `detect`.

    Args:
        layer: `MaskRCNN.anchors_layer` of the config, for a dynamic size.
    """
    import tensorflow as tf

    shape = molded.shape[1:3]
    if shape.is_fully_defined():
        size = tuple(shape)
        pixels = data.compute_anchors(config, size)
        anchors = tf.constant(box_math.norm_boxes(pixels, size, config.BOX_FRAME), tf.float32)
        return anchors[None] + tf.zeros([tf.shape(molded)[0], 1, 1])
    # The layer uses only the shapes of its maps: every n-th pixel has the same.
    levels = [molded[:, ::stride, ::stride, :1] for stride in config.BACKBONE_STRIDES]
    return layer([molded, *levels])


def _check_backbone_shape(config):
    """ValueError for a COMPUTE_BACKBONE_SHAPE that a graph with dynamic sizes can't follow."""
    if not callable(config.BACKBONE) or config.IMAGE_RESIZE_MODE == "square":
        return
    for side in PROBED_SIDES:
        expected = [[-(-side // stride)] * 2 for stride in config.BACKBONE_STRIDES]
        received = data.compute_backbone_shapes(config, (side, side, 3)).tolist()
        if received != expected:
            raise ValueError(
                "An export whose images are molded to different sizes needs maps of side / stride,"
                " rounded up. Received: COMPUTE_BACKBONE_SHAPE gives"
                f" {received} for {side} pixels, not {expected}; IMAGE_RESIZE_MODE 'square' or a"
                " fixed size= will do"
            )


# ---- The graph -----------------------------------------------------------------------------------


class Graph:
    """Detection from images to outputs, as a function of tensors.

    Args:
        model: a `MaskRCNN` in inference mode.
        format: one of `runtime.FORMATS`. A SavedModel uses TensorFlow's fused kernels, the others
            operations that every runtime has; LiteRT needs static shapes.
        paste: return masks of the whole image.
    """

    def __init__(self, model: MaskRCNN, format: str, paste: bool = False):
        fused = format == "saved_model"
        self.paste = paste
        self.config = copy.copy(model.config)
        self.free_rows = format != "litert"
        self.anchors_layer = model.anchors_layer()
        self.molder = Molder(self.config, wide=format in ("saved_model", "onnx"))
        network = model.keras_model
        if not fused:
            self.config.FUSED_KERNELS = False
            network = _rebuilt(model, self.config)
        self.network = network
        heads = dict(network.sub_models)
        if "masks" in heads:
            heads["masks"] = rewrite.of_detected_class(heads["masks"])
        if fused:
            heads = {name: rewrite.fold_batch_norm(head) for name, head in heads.items()}
        self.heads = heads

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Outputs by name, see the module's docstring; images: [B, H, W, C] uint8."""
        import tensorflow as tf

        config = self.config
        molded, sizes = self.molder(images)
        metas, windows = _metas(images, molded, sizes, config)
        anchors = _anchors(molded, config, self.anchors_layer)
        detections, *maps = self.heads["boxes"]([molded, metas, anchors], training=False)
        if self.free_rows:
            counts = tf.reduce_sum(tf.cast(detections[..., 4] > 0, tf.int32), axis=1)
            detections = detections[:, : tf.maximum(1, tf.reduce_max(counts))]
        class_ids = tf.cast(detections[..., 4], tf.int32)
        boxes = detections[..., :4]
        in_pixels = _boxes_in_pixels(boxes, images, molded, windows, config)
        outputs = {
            "boxes": tf.where(class_ids[..., None] > 0, in_pixels, 0.0),
            "class_ids": class_ids,
            "scores": detections[..., 5],
        }
        if "masks" in self.heads:
            soft = self.heads["masks"]([boxes, metas, *maps, class_ids])
            soft = tf.cast(soft, tf.float32)  # mixed precision computes them in 16 bits
            if self.paste:
                soft = _pasted(soft, outputs["boxes"], images, config.MASK_PASTE)
            outputs["masks"] = soft
        if "keypoints" in self.heads:
            points = self.heads["keypoints"]([boxes, metas, *maps])
            outputs["keypoints"] = tf.cast(points, tf.float32)
            outputs["windows"] = windows
        return {name: tf.identity(value, name=name) for name, value in outputs.items()}

    def function(self, size: Sequence[int] | None, batch: int | None) -> Any:
        """A `tf.function` for images of size (H, W) in batches of `batch`; None for any."""
        import tensorflow as tf

        height, width = size or (None, None)
        channels = self.config.IMAGE_CHANNEL_COUNT
        spec = tf.TensorSpec((batch, height, width, channels), tf.uint8, name="images")
        return tf.function(self, input_signature=[spec], autograph=False)


def _boxes_in_pixels(boxes, images, molded, windows, config):
    """Maps boxes [B, N, 4], normalised in the molded image, to pixels of the original image."""
    import tensorflow as tf
    from keras import ops

    frame = config.BOX_FRAME
    molded_size, size = (tf.cast(tf.shape(x)[1:3], tf.float32) for x in (molded, images))
    window = box_math.normalize(windows, molded_size, frame, ops)[:, None]
    boxes = box_math.in_window(boxes, window, ops)
    return box_math.denormalize(boxes, size, frame, ops)


def _pasted(soft, boxes, images, paste):
    """`masks.placed` as a part of the graph: masks of the whole image [B, N, H, W] uint8.

    Args:
        soft: [B, N, h, w] probabilities.
        boxes: [B, N, 4] in pixels, not rounded; boxes of zeros get an empty mask.
        paste: MASK_PASTE.
    """
    import tensorflow as tf

    if paste == "padded":
        soft, places = _padded(soft, boxes)
    else:
        places = tf.round(boxes)
        # The zeros outside lower the values at the border, but a mask that is foreground everywhere
        # must stay so: with 4 in all its cells, a quarter at the corners is enough.
        lowest = tf.reduce_min(soft, axis=(2, 3), keepdims=True)
        soft = tf.where(lowest >= 0.5, tf.fill(tf.shape(soft), 4.0), soft)
    height, width = soft.shape[2:]
    sides = tf.shape(images)
    rows = _reading_weights(places[..., 0], places[..., 2], height, sides[1])
    columns = _reading_weights(places[..., 1], places[..., 3], width, sides[2])
    values = tf.matmul(tf.matmul(rows, soft), columns, transpose_b=True)
    return tf.cast(values >= 0.5, tf.uint8)


def _padded(soft, boxes):
    """`masks.pad_masks` for tensors: masks [B, N, h + 2, w + 2] and whole boxes [B, N, 4]."""
    import tensorflow as tf

    sides = np.array(soft.shape[2:], np.float32)
    middle = tf.tile(0.5 * (boxes[..., :2] + boxes[..., 2:]), [1, 1, 2])
    corners = middle + (boxes - middle) * np.tile((sides + 2) / sides, 2)
    corners = tf.cast(tf.cast(corners, tf.int32), tf.float32)  # towards 0, as in `pad_masks`
    first = corners[..., :2]
    last = tf.maximum(corners[..., 2:], first) + 1
    return tf.pad(soft, [[0, 0], [0, 0], [1, 1], [1, 1]]), tf.concat([first, last], axis=-1)


def _reading_weights(start, stop, count, side):
    """Bilinear weights [B, N, side, count] of the mask's `count` samples for each pixel of an axis.

    The samples cover start..stop; values outside are 0, and so are the weights of pixels there.

    Args:
        start, stop: [B, N] float32, whole numbers, the box's edges along the axis.
        count: the mask's side.
        side: the image's side in pixels.
    """
    import tensorflow as tf

    pixels = tf.cast(tf.range(side), tf.float32)
    start = start[..., None]
    stop = stop[..., None]
    inside = tf.cast((pixels >= start) & (pixels < stop), tf.float32)
    position = (pixels - start + 0.5) * (count / tf.maximum(stop - start, 1.0)) - 0.5
    distance = tf.abs(position[..., None] - tf.constant(np.arange(count), tf.float32))
    return tf.maximum(1.0 - distance, 0.0) * inside[..., None]


def _rebuilt(model, config):
    """The network of a config, with the weights of a `MaskRCNN`."""
    network = model.keras_model
    with _float32():
        rebuilt = model.build("inference", config)
    try:
        rebuilt.set_weights(network.get_weights())
    except ValueError as error:
        raise ValueError(f"{CHANGED}. Received: {error}") from error
    for expected, built in zip(_layers_of_values(rebuilt), _layers_of_values(network)):
        _check_values(built, expected.values)
    return rebuilt


CHANGED = "The config has changed since the network was built; make a MaskRCNN of the changed one"


def _layers_of_values(network):
    """The layers that have `values`, their settings, see `model.ValuesLayer`."""
    return [layer for layer in network.layers if hasattr(layer, "values")]


def _check_values(layer, expected):
    """ValueError for a layer whose values differ from those of the current config."""
    for name, value in expected.items():
        built = getattr(layer, name)
        if name != "fused" and built != value:
            raise ValueError(
                f"{CHANGED}. Received: {name} = {value!r}, and {layer.name} has {built!r}"
            )


@contextlib.contextmanager
def _float32() -> Iterator[None]:
    """Layers that are created inside compute in float32, whatever the global dtype policy is."""
    import keras

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


# ---- Suppression by an operator of ONNX and OpenVINO ---------------------------------------------

# Type of the placeholder's node in TensorFlow's graph, by which converters recognise it.
PLACE_OF_NMS = "PyFuncStateless"


def _suppress_by_operator(boxes, scores, count, iou_threshold, valid, classes, at=False):
    """`ops.non_max_suppression` with the operator NonMaxSuppression of ONNX or OpenVINO.

    A numpy function is the operator's placeholder until tf2onnx or OpenVINO's converter replaces
    it. Its result is only used as the set of boxes that are kept: their order, also for equal
    scores, is that of `top_k`. The portable form is a loop, which would take half of a detection's
    time in OpenVINO.

    Args:
        at: whether the operator also suppresses boxes at the threshold, not only above it, as
            OpenVINO's does.
    """
    import tensorflow as tf

    shape = tf.shape(scores)
    by_class = tf.where(valid, scores, -1.0)[:, None]  # [B, C, N]
    if classes is not None:
        numbers = tf.range(tf.reduce_max(classes) + 1)[None, :, None]
        by_class = tf.where(classes[:, None] == numbers, by_class, -1.0)
    threshold = np.array([iou_threshold], np.float32)
    if at:
        above = np.nextafter(threshold, np.float32(np.inf))
        threshold = np.maximum(above, np.finfo(np.float32).tiny)  # denormals count as 0
    limits = (np.array([count], np.int64), threshold, np.array([-0.5], np.float32))
    rows = tf.numpy_function(
        _not_in_tensorflow, [boxes, by_class, *limits], tf.int64, stateful=False
    )
    rows = tf.cast(tf.ensure_shape(rows, [None, 3]), tf.int32)
    flat_indices = rows[:, 0] * shape[1] + rows[:, 2]
    ones = tf.ones_like(flat_indices, tf.float32)
    kept = tf.scatter_nd(flat_indices[:, None], ones, [shape[0] * shape[1]])
    kept_scores = tf.where(tf.reshape(kept, shape) > 0, scores, -1.0)
    available = tf.minimum(count, shape[1])
    best_scores, best = tf.math.top_k(kept_scores, available)
    missing = [[0, 0], [0, count - available]]
    is_kept = tf.pad(best_scores, missing, constant_values=-1.0) >= 0
    indices = tf.where(is_kept, tf.pad(best, missing), 0)
    return tf.ensure_shape(indices, [None, count]), tf.ensure_shape(is_kept, [None, count])


def _not_in_tensorflow(*_):
    raise RuntimeError("This graph is for ONNX or OpenVINO: TensorFlow has no such operator")


def _as_onnx_suppression(context, node, name, args):
    """Replaces the placeholder's node by ONNX's operator; called by tf2onnx."""
    inputs = list(node.input)
    outputs = list(node.output)
    context.remove_node(node.name)
    context.make_node(
        "NonMaxSuppression",
        inputs,
        outputs=outputs,
        name=name,
        shapes=[[-1, 3]],
        dtypes=[INT64_OF_ONNX],
    )


# onnx.TensorProto.INT64
INT64_OF_ONNX = 7


def _suppression_of_openvino(openvino: Any, frontend: Any) -> Any:
    """The extension of `openvino.convert_model` that replaces the placeholder by its operator."""

    def convert(node):
        suppression = openvino.opset13.non_max_suppression(
            *(node.get_input(i) for i in range(5)),
            box_encoding="corner",
            sort_result_descending=False,
            output_type="i64",
        )
        return [suppression.output(0)]

    return frontend.ConversionExtension(PLACE_OF_NMS, convert)


# ---- The largest values in OpenVINO --------------------------------------------------------------

# Up to so many values OpenVINO's own stable TopK is left as it is.
FEW = 16


def _replace_top_k(network: Any, openvino: Any) -> None:
    """Replaces each TopK of many values of an OpenVINO model by a faster form, as stable as it is.

    OpenVINO's stable TopK of k from n values takes k * n steps: for the 6000 best of 261,888
    anchors more time than the rest of a ResNet-50. Its unstable one is quick but takes any of equal
    values, so it only tells the lowest of the k. All values above that, and the first of those
    equal to it, are what a stable one selects; these alone are sorted stably.
    """
    for node in network.get_ordered_ops():
        if node.get_type_name() != "TopK":
            continue
        source = node.input_value(1).get_node()
        is_small = source.get_type_name() == "Constant" and int(source.data) <= FEW
        wanted = {"mode": "max", "sort": "value", "stable": True, "index_element_type": "i32"}
        attributes = node.get_attributes()
        if is_small or any(attributes[name] != value for name, value in wanted.items()):
            continue
        consumers = [output.get_target_inputs() for output in node.outputs()]
        replaced = _fast_top_k(node.input_value(0), node.input_value(1), openvino)
        for inputs, output in zip(consumers, replaced):
            for consumer in inputs:
                consumer.replace_source_output(output)


def _fast_top_k(values, count, openvino):
    """Values and indices [..., k] of the `count` largest of values [..., n], sorted stably."""
    operations = openvino.opset13
    top_k = openvino.opset11.topk

    def constant(value):
        return operations.constant(np.int32(value))

    k = operations.convert(count, "i32")
    in_row = operations.reshape(k, constant([1]), False)
    shape = operations.shape_of(values, "i32")
    length = operations.gather(shape, constant([-1]), constant(0))
    rows = operations.reshape(values, operations.concat([constant([-1]), length], 0), False)
    best = top_k(rows, k, -1, "max", "value", "i32", False).output(0)
    lowest = operations.reduce_min(best, constant(-1), True)
    is_above = operations.greater(rows, lowest)
    is_equal = operations.equal(rows, lowest)
    above = operations.reduce_sum(operations.convert(is_above, "i32"), constant(-1), True)
    rank = operations.cum_sum(operations.convert(is_equal, "i32"), constant(-1))
    is_first = operations.less_equal(rank, operations.subtract(k, above))
    is_taken = operations.logical_or(is_above, operations.logical_and(is_equal, is_first))
    columns = operations.gather(operations.non_zero(is_taken, "i32"), constant(1), constant(0))
    size = operations.concat([constant([-1]), in_row], 0)
    indices = operations.reshape(columns, size, False)
    taken = operations.gather_elements(rows, indices, 1)
    ordered = top_k(taken, k, -1, "max", "value", "i32", True)
    indices = operations.gather_elements(indices, ordered.output(1), 1)
    leading = operations.slice(shape, constant([0]), constant([-1]), constant([1]))
    size = operations.concat([leading, in_row], 0)
    return [
        operations.reshape(result, size, False).output(0)
        for result in (ordered.output(0), indices.output(0))
    ]


# ---- Files ---------------------------------------------------------------------------------------


def export(
    model: MaskRCNN,
    path: str | os.PathLike,
    format: str | None = None,
    *,
    class_names: Sequence[str] | None = None,
    size: Sequence[int] | None = None,
    batch: int | None = None,
    precision: str = "float32",
    paste: bool = False,
    calibration: Iterable | None = None,
) -> str:
    """Writes a model as a file for another runtime, see `MaskRCNN.export`."""
    model.check_mode("inference", "export")
    format = _checked_format(path, format)
    path = pathlib.Path(path)
    _check_place(path, format)
    _check_folder(path)
    fixed_size = _checked_size(size, format, model.config)
    if format == "litert" and batch is None:
        batch = 1
    if batch is not None and _whole(batch) < 1:
        raise ValueError(f"batch is a whole number from 1, or None. Received: {batch!r}")
    _check_precision(format, precision)
    _check_calibration(format, precision, calibration)
    _check_config(model.config, fixed_size)
    if paste and not model.config.USE_MASK:
        raise ValueError("paste is for the masks of a model. Received: True and USE_MASK = False")
    _check_unchanged(model.keras_model, model.config)
    modules = _import(NEEDS[format], format)
    metadata = _metadata(model, class_names)
    text = json.dumps(metadata, default=_plain)
    graph = Graph(model, format, paste)
    function = graph.function(fixed_size, batch)
    logger.info("Writing %s as %s", path, format)
    if calibration is None:
        WRITERS[format](path, graph, function, text, precision, *modules)
    else:
        _write_calibrated(path, format, function, text, calibration, *modules)
    for name, meaning in metadata["around"].items():
        logger.warning(
            "%s: %s (%s). mrcnn.runtime does so; another program that runs the file has to",
            path,
            meaning,
            name,
        )
    return str(path)


def _checked_format(path, format):
    """The requested format; None: the one that the path's suffix stands for."""
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise ValueError(f"export() takes the path of a file or a folder. Received: {path!r}")
    by_suffix = format_of(path)
    if format is None:
        suffix = pathlib.Path(path).suffix
        if suffix[1:2].isalpha() and suffix.lower() not in SUFFIXES:
            # Probably a typing error, which would create a folder with that name.
            raise ValueError(
                "A path ends in .onnx, .xml (OpenVINO) or .tflite (LiteRT), or is a folder for a"
                f" SavedModel; with such a name give format='saved_model'. Received:"
                f" {os.fspath(path)!r}"
            )
        return by_suffix
    if format not in FORMATS:
        raise ValueError(f"format is one of {', '.join(FORMATS)}. Received: {format!r}")
    if format != by_suffix:
        raise ValueError(
            "A path ends in .onnx for onnx, .xml for openvino, .tflite for litert, and is a folder"
            f" for saved_model. Received: {os.fspath(path)!r} and format {format!r}"
        )
    return format


def _checked_size(size, format, config):
    """(H, W) of the images; None if the size is dynamic."""
    if size is None:
        if format != "litert":
            return None
        if config.IMAGE_RESIZE_MODE != "square":
            raise ValueError(
                "A LiteRT file takes images of one size: export(..., size=(height, width))."
                f" Received: none, and IMAGE_RESIZE_MODE {config.IMAGE_RESIZE_MODE!r} has none"
            )
        return (config.IMAGE_MAX_DIM, config.IMAGE_MAX_DIM)
    sides: tuple[int, ...] = ()
    if not isinstance(size, str) and np.ndim(size) == 1:
        sides = tuple(_whole(side) for side in size)
    if len(sides) != 2 or min(sides) < 1:
        raise ValueError(f"size is (height, width) in pixels. Received: {size!r}")
    data.check_sides(sides, config, "size")
    return sides


def _whole(value: Any) -> int:
    """The value as an int if it is of any integer type, otherwise 0."""
    try:
        return operator.index(value)
    except TypeError:
        return 0


def _check_folder(path):
    """OSError if nothing can be written at a path: now, not after minutes of work."""
    folder = path.absolute()
    while not folder.is_dir():
        folder = folder.parent
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{path} can't be written: {folder} is a file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} can't be written: no permission to write in {folder}")


def _check_place(path, format):
    """ValueError if a file, or a folder with other content, is in the way of the export."""
    if format != "saved_model":
        if path.is_dir():
            raise ValueError(f"{path} is a folder. Received: it as the file of format {format!r}")
        return
    if path.exists() and not path.is_dir():
        raise ValueError(f"A SavedModel is a folder. Received: {path}, which is a file")
    versions = [entry.parent.name for entry in path.glob("*/saved_model.pb")]
    newest = max((int(name) for name in versions if name.isdecimal()), default=1)
    if newest > 1:
        raise ValueError(
            f"{path} has a version {newest}, which goes before version 1, that an export writes;"
            " another path"
        )
    version = path / "1"
    if version.exists() and not (version / "saved_model.pb").is_file():
        raise ValueError(
            f"{path}: its folder 1 is no SavedModel, which an export would replace; another path"
            " leaves it as it is"
        )


# Data types in which weights can be stored, by format.
PRECISIONS: dict[str, tuple[str, ...]] = {
    "saved_model": ("float32",),
    "onnx": ("float32", "float16", "int8"),
    "openvino": ("float32", "float16", "int8"),
    "litert": ("float32", "float16", "int8"),
}


def _check_precision(format, precision):
    if precision not in PRECISIONS[format]:
        raise ValueError(
            f"precision of {format} is one of {', '.join(PRECISIONS[format])}. Received:"
            f" {precision!r}"
        )


def _check_calibration(format, precision, images):
    """ValueError if images can't calibrate a file; ImportError without the package for it."""
    if images is None:
        return
    if precision != "int8" or format not in ("onnx", "openvino"):
        raise ValueError(
            "calibration is for precision='int8' of onnx and openvino. Received: images, and"
            f" precision {precision!r} of {format}"
        )
    is_list = isinstance(images, Iterable) and not isinstance(images, (str, bytes, Mapping, Set))
    if not is_list or len(getattr(images, "shape", (0,) * 4)) not in (1, 4):
        raise ValueError(
            "calibration is a list of images or of paths of image files. Received:"
            f" {getattr(images, 'shape', files.short(images))} ({type(images).__name__})"
        )
    _import(NEEDS_OF_CALIBRATION, "onnx")


# Settings of `detect` that neither a graph nor `mrcnn.runtime` supports: (the only allowed value,
# the reason).
OUTSIDE: dict[str, tuple[Any, str]] = {
    "TEST_SCALES": ((), "An exported graph looks at an image once"),
    "TEST_FLIP": (False, "An exported graph looks at an image once"),
}
# Values that need no step around the graph, see `runtime.AROUND`.
NOTHING_AROUND: dict[str, Any] = {
    "IMAGE_PERCENTILES": (),
    "IMAGE_GAMMA": 1,
    "DETECTION_MASK_OVERLAP": 1,
}


def _around(config):
    """{name: meaning} of the settings that need a step around the graph."""
    needed = {}
    for name, meaning in AROUND.items():
        value = getattr(config, name)
        if isinstance(NOTHING_AROUND[name], tuple):
            value = tuple(value)
        if name == "DETECTION_MASK_OVERLAP" and not config.USE_MASK:
            continue
        if value != NOTHING_AROUND[name]:
            needed[name] = meaning
    return needed


def _check_config(config, size):
    """ValueError for a config whose detection can't be exported."""
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "export() needs Keras's TensorFlow backend. Received backend:"
            f" {keras.backend.backend()}"
        )
    if config.IMAGE_RESIZE_MODE == "crop":
        raise ValueError(
            "IMAGE_RESIZE_MODE 'crop' is for training; an export needs 'square', 'pad64',"
            " 'shorter' or 'none'. Received: 'crop'"
        )
    for name, (allowed, reason) in OUTSIDE.items():
        value = getattr(config, name, allowed)
        if isinstance(allowed, tuple):
            value = tuple(value)
        if value != allowed:
            raise ValueError(f"{reason}: {name} = {allowed!r} for an export. Received: {value!r}")
    if size is None:
        _check_backbone_shape(config)


def _check_unchanged(network, config):
    """ValueError for settings that were changed after the network was built.

    `detect` still uses the old values; the file would use the new ones, or have wrong metadata.
    """
    expected = {
        "ROI": {
            "proposal_count": config.POST_NMS_ROIS_INFERENCE,
            "nms_threshold": config.RPN_NMS_THRESHOLD,
        },
        "mrcnn_detection": {},
    }
    for name, values in expected.items():
        layer = network.get_layer(name)
        _check_values(layer, {**layer.values_of(config), **values})


def _import(needed, format):
    """The modules of {module: package}; `format` is the extra that has their packages."""
    modules = []
    for module, package in needed.items():
        try:
            with without_telemetry():
                modules.append(importlib.import_module(module))
        except ImportError as error:
            raise ImportError(
                f"export() to {format} needs {package}: pip install {package}, or"
                f' "mask-rcnn-keras3[{format}]" ({error})'
            ) from error
    return modules


def _metadata(model, class_names):
    """The metadata of a file, see `runtime.Metadata`, as a dict for JSON."""
    from mrcnn import training

    count = model.config.NUM_CLASSES
    names = []
    # A set has no order, and a mapping may have another than that of the class ids.
    if isinstance(class_names, Iterable) and not isinstance(class_names, (str, Mapping, Set)):
        names = [str(name) for name in class_names if isinstance(name, (str, int, np.integer))]
    if len(names) != count:
        raise ValueError(
            f"class_names has a name for each of the {count} classes, background first, such as a"
            f" dataset's class_names. Received: {len(names)} ({class_names!r:.60})"
        )
    settings = {}
    for name in sorted(setting_names()):
        value = getattr(model.config, name)
        if not callable(value):
            settings[name] = value
    return {
        "class_names": names,
        "settings": settings,
        "version": __version__,
        "weights": {
            "file": model.weights_file,
            "fingerprint": training.fingerprint(model.keras_model),
        },
        "around": _around(model.config),
    }


def _plain(value: Any) -> Any:
    """A numpy value as Python's, any other one that JSON doesn't support as text."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return str(value)


@contextlib.contextmanager
def _folder_beside(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary folder on the disk of `path`, so that complete files can be moved there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        yield pathlib.Path(folder)


# ---- Writers -------------------------------------------------------------------------------------


def _write_onnx(path, graph, function, text, precision, tf2onnx, onnx):
    network = _onnx_network(function, tf2onnx, _suppress_by_operator)
    if precision != "float32":
        quantization.shrink_onnx(network, precision, onnx)
    _save_onnx(path, network, text, onnx)


def _onnx_network(function: Any, tf2onnx: Any, suppress: Callable) -> Any:
    """A `tf.function` as an onnx.ModelProto; `suppress` replaces `ops.non_max_suppression`."""
    from keras.src.export.tf2onnx_lib import patch_tf2onnx

    # tf2onnx uses names that numpy 2 removed; Keras has a patch for its own export.
    patch_tf2onnx()
    handlers: dict[str, tuple[Any, list]] = {PLACE_OF_NMS: (_as_onnx_suppression, [])}
    with _quiet("tf2onnx"), _without_copies(), kernels.suppressing_by(suppress):
        network, _ = tf2onnx.convert.from_function(
            function,
            input_signature=function.input_signature,
            opset=OPSET,
            custom_op_handlers=handlers,
        )
    _remove_constant_inputs(network.graph)
    return network


def _save_onnx(path: pathlib.Path, network: Any, text: str, onnx: Any) -> None:
    """Writes an onnx.ModelProto with our metadata."""
    entry = network.metadata_props.add()
    entry.key = METADATA_KEY
    entry.value = text
    network.producer_name = "mrcnn"
    network.producer_version = __version__
    with atomic(path) as temporary:
        onnx.save_model(network, temporary)


def _remove_constant_inputs(graph: Any) -> None:
    """Removes all inputs of an ONNX graph except the images.

    tf2onnx also lists tensors that were created with the network, such as the indices of
    CLASS_AGNOSTIC_MASKS, as inputs, though they are constants of the graph.

    Raises:
        ValueError: a node reads such an input; the message names it.
    """
    read = _names_read(graph)
    for value in [value for value in graph.input if value.name != INPUT]:
        if value.name in read:
            raise ValueError(
                f"An ONNX file takes images alone. Received: a network with the input {value.name}"
            )
        graph.input.remove(value)


def _names_read(graph: Any) -> set[str]:
    """Names of the values that the nodes of an ONNX graph and its subgraphs read."""
    names = set()
    for node in graph.node:
        names.update(node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                names |= _names_read(attribute.g)
    return names


@contextlib.contextmanager
def _without_copies() -> Iterator[None]:
    """Keeps tf2onnx from copying the weights again and again, inside.

    It would copy the graph with its weights before each of 36 steps, to undo one that fails. With
    this environment variable set, to any value, it doesn't, and takes half as long; a step that
    fails is then an error.

    After each step it would also write every node into protobufs that never free memory, 6 GB for a
    ResNet-50. The protobufs of constants aren't needed: their values are read from their `Node`.
    """
    from tf2onnx.graph import Graph

    def update_proto(graph, external_tensor_storage=None):
        for node in graph.get_nodes():
            if not node.is_const():
                node.update_proto(external_tensor_storage)

    update_all = Graph.update_proto
    Graph.update_proto = update_proto
    try:
        with environment("TF2ONNX_CATCH_ERRORS", "FALSE"):
            yield
    finally:
        Graph.update_proto = update_all


def _without_telemetry_of_openvino() -> contextlib.AbstractContextManager:
    """Turns off the telemetry of OpenVINO's converter, inside.

    It sends data without consent, from forks of this process, except in continuous integration,
    which it recognises by this environment variable.
    """
    return environment("CI", "true")


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Limits a logger to errors, inside."""
    target_logger = logging.getLogger(name)
    level = target_logger.level
    target_logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        target_logger.setLevel(level)


def _write_calibrated(path, format, function, text, images, *modules):
    """Writes a file that computes in int8, see `quantization`; OpenVINO's is made from ONNX."""
    tf2onnx, onnx, _, tool = _import(NEEDS_OF_CALIBRATION, "onnx")
    # OpenVINO's operator takes the place of ONNX's.
    suppress = functools.partial(_suppress_by_operator, at=format == "openvino")
    with _folder_beside(path) as folder:
        floats = folder / "float32.onnx"
        _save_onnx(floats, _onnx_network(function, tf2onnx, suppress), text, onnx)
        network, count = quantization.calibrated(floats, images, tool, onnx)
        text = json.dumps({**json.loads(text), "calibration": count})
        if format == "onnx":
            _save_onnx(path, network, text, onnx)
            return
        integers = folder / "int8.onnx"
        onnx.save_model(network, integers)
        openvino, _ = modules
        with _without_telemetry_of_openvino():
            converted = _converted(integers, openvino)
        _save_openvino(path, folder, converted, text, openvino)


def _write_openvino(path, graph, function, text, precision, openvino, frontend):
    with _folder_beside(path) as folder:
        suppress = functools.partial(_suppress_by_operator, at=True)
        with kernels.suppressing_by(suppress):
            _save(folder / "saved", graph, function)
        extension = _suppression_of_openvino(openvino, frontend)
        with _without_telemetry_of_openvino():
            network = _converted(folder / "saved", openvino, extension=[extension])
        if precision != "float32":
            quantization.shrink_openvino(network, precision, openvino)
        _save_openvino(path, folder, network, text, openvino)


def _converted(path: pathlib.Path, openvino: Any, **options: Any) -> Any:
    """A file or folder as an openvino.Model, also where a comma is in its path.

    OpenVINO's converter takes that for the end of a first path.
    """
    if "," not in str(path):
        return openvino.convert_model(path, **options)
    with tempfile.TemporaryDirectory() as elsewhere:
        copied = pathlib.Path(elsewhere, path.name)
        if path.is_dir():
            shutil.copytree(path, copied)
        else:
            shutil.copy(path, copied)
        return openvino.convert_model(copied, **options)


def _save_openvino(
    path: pathlib.Path, folder: pathlib.Path, network: Any, text: str, openvino: Any
) -> None:
    """Writes an openvino.Model with our metadata and a fast TopK; `folder` takes it first."""
    _replace_top_k(network, openvino)
    network.set_rt_info(text, [METADATA_KEY])
    file = folder / "model.xml"  # OpenVINO accepts no other suffix, such as .XML
    try:
        openvino.save_model(network, file, compress_to_fp16=False)
        # Without a checksum, a graph would run with the weights of another export of the same
        # size.
        network.set_rt_info(checksum(file.with_suffix(".bin")), [METADATA_KEY + CHECKSUM])
        openvino.save_model(network, file, compress_to_fp16=False)
    except RuntimeError as error:  # OpenVINO's error for a full disk
        raise OSError(f"{path} can't be written: {error}; is the disk full?") from error
    # The graph comes last, as it can't be read without its weights.
    os.replace(file.with_suffix(".bin"), path.with_suffix(".bin"))
    os.replace(file, path)


def _write_litert(path, graph, function, text, precision):
    import tensorflow as tf

    with _folder_beside(path) as folder:
        _save(folder, graph, function)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        content = converter.convert()
    write_bytes(path, _with_metadata(content, text))


def _with_metadata(content, text):
    """The content of a LiteRT file with our metadata added."""
    import flatbuffers
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(text.encode("utf-8"), np.uint8)
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name = METADATA_KEY
    entry.buffer = len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _save(folder, graph, function):
    """Writes a SavedModel with the function as its signature."""
    import tensorflow as tf

    module = tf.Module()
    # Variables that the function reads must belong to the saved module.
    module.variables_of_network = [variable.value for variable in graph.network.variables]
    module.serve = function
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(folder), {"serving_default": function}, options)


def _write_saved_model(path, graph, function, text, precision):
    with _folder_beside(path) as folder:
        version = folder / "1"
        _save(version, graph, function)
        extra = version / "assets.extra"
        extra.mkdir()
        (extra / ASSET).write_text(text, encoding="utf-8")
        config_text = _triton_config(path.resolve().name, graph, function)
        (folder / "config.pbtxt").write_text(config_text, encoding="utf-8")
        path.mkdir(exist_ok=True)
        for entry in (version, folder / "config.pbtxt"):
            _replace(entry, path / entry.name)


def _replace(source, target):
    """Moves a file or a folder to a path, replacing what is there."""
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(source, target)


# Triton's names of tensor types.
TRITON_TYPES = {"uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "float32": "TYPE_FP32"}


def _triton_config(name, graph, function):
    """Text of config.pbtxt, a `ModelConfig`, which describes inputs and outputs to Triton."""
    concrete = function.get_concrete_function()
    images = function.input_signature[0]
    max_batch_size = 0  # no batching by Triton: shapes include the batch
    if images.shape[0] is None:
        max_batch_size = max(1, int(graph.config.BATCH_SIZE))
    lines = [
        f"name: {json.dumps(name, ensure_ascii=False)}",
        'platform: "tensorflow_savedmodel"',
        # The version's folder itself, as TensorFlow Serving expects.
        'default_model_filename: "."',
        f"max_batch_size: {max_batch_size}",
    ]
    if max_batch_size:
        lines.append("dynamic_batching {}")
    for kind, tensors in (("input", {"images": images}), ("output", concrete.structured_outputs)):
        for key, tensor in sorted(tensors.items()):
            shape = tensor.shape
            if max_batch_size:
                shape = shape[1:]
            sides = ", ".join(str(side or -1) for side in shape)
            data_type = TRITON_TYPES[tensor.dtype.name]
            lines.append(f'{kind} [{{ name: "{key}", data_type: {data_type}, dims: [ {sides} ] }}]')
    return "\n".join(lines) + "\n"


WRITERS: dict[str, Any] = {
    "saved_model": _write_saved_model,
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "litert": _write_litert,
}
