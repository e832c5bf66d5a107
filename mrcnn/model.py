"""Mask R-CNN (He, Gkioxari, Dollar, Girshick: arXiv 1703.06870) in Keras 3, in the paper's order.

    image -> ResNet -> FPN -> RPN -> proposals -> RoIAlign -> class and box head -> detections
                                                           -> mask head          -> masks
                                                           -> keypoint head      -> keypoints

Boxes are (y1, x1, y2, x2). In the network they are normalised: 0 is the centre of the first pixel,
1 that of the last, or the image's edges (BOX_FRAME); only `norm_boxes_graph` and
`denorm_boxes_graph` know that. Tensors have a batch axis B, then rows N; padding rows of public
outputs are zero.

`class MaskRCNN`, at the end, is the public interface. Code that is not the network is in the other
modules; the names that code written for matterport's package imports from here are re-exported.
"""

import contextlib
import dataclasses
import datetime
import difflib
import functools
import logging
import math
import os
import re
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers as KL, ops

from mrcnn import (
    boxes as box_math,
    cluster,
    config as config_module,
    data,
    inference,
    ops as kernels,
    rewrite,
    trace as tracing,
    training,
    utils,
    weights,
)
from mrcnn.config import Config, as_config
from mrcnn.data import (  # noqa: F401  names that existing code imports from here
    META,
    build_detection_targets,
    build_rpn_targets,
    compose_image_meta,
    compute_backbone_shapes,
    data_generator,
    generate_random_rois,
    load_image_gt,
    mold_image,
    parse_image_meta,
    unmold_image,
)
from mrcnn.ops import mask_rows, take_rows
from mrcnn.rewrite import MaskLogits, SampledRPN, SplitPositives, register
from mrcnn.training import LAYER_CHOICES, DataGenerator, Network, TrainingModel  # noqa: F401

logger = logging.getLogger(__name__)

Tensor = Any  # of any backend of Keras, symbolic or not


def log(text: str, array: np.ndarray | None = None) -> None:
    """Prints a line of text, with an array's shape, range and dtype (matterport: log)."""
    if array is not None:
        low = high = ""
        if array.size:
            low = f"{float(array.min()):.5f}"
            high = f"{float(array.max()):.5f}"
        text = f"{text:25}shape: {array.shape!s:20}  min: {low:>10}  max: {high:>10}  {array.dtype}"
    print(text)


# ------------------------------------------------------------------------------------------------
#  Image meta and small layers
# ------------------------------------------------------------------------------------------------


def parse_image_meta_graph(meta: Tensor) -> dict[str, Tensor]:
    """The parts of image metas [B, 12 + classes] by name (matterport: parse_image_meta_graph)."""
    return {name: meta[:, columns] for name, columns in META.items()}


def trim_zeros_graph(boxes: Tensor, name: str = "trim_zeros") -> tuple[Tensor, Tensor]:
    """Rows of boxes [N, 4] that are not all zero, and their mask (matterport: trim_zeros_graph).

    Not used by the network, which carries masks of validity; for existing code. TensorFlow only.
    """
    import tensorflow as tf

    keep = tf.reduce_any(tf.convert_to_tensor(boxes) != 0, axis=1)
    return tf.boolean_mask(boxes, keep, name=name), keep


def batch_pack_graph(x: Tensor, counts: Tensor, num_rows: int) -> Tensor:
    """The first counts[i] rows of each x[i], concatenated (matterport: batch_pack_graph).

    Args:
        x: [B, N, ...].
        counts: [B] int.
        num_rows: B.
    """
    return ops.concatenate([x[i, : counts[i]] for i in range(num_rows)], axis=0)


def image_size(image: Tensor) -> Tensor:
    """Height and width, [2] float32, of a batch of images [B, H, W, C]."""
    _, height, width, _ = ops.shape(image)
    return ops.stack([ops.cast(height, "float32"), ops.cast(width, "float32")])


class ValuesLayer(KL.Layer):
    """Base of layers whose constructor arguments are attributes and entries of `get_config`.

    Args:
        values: {name: value} of the subclass's arguments.
        config: None, or a `Config` whose values (see `values_of`) replace those in `values`, as in
            the original's constructors.
    """

    def __init__(self, values: dict[str, Any], config: Config | None = None, **kwargs: Any):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if config is not None:
            values = {**values, **self.values_of(as_config(config))}
        self._value_names = tuple(values)
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                value = value.tolist()
            setattr(self, name, value)

    @classmethod
    def values_of(cls, config: Config) -> dict[str, Any]:
        """The arguments that follow from a Config."""
        raise NotImplementedError(f"{cls.__name__} takes nothing from a Config")

    @classmethod
    def of(cls, config: Config, **arguments: Any) -> "ValuesLayer":
        """The layer with a Config's values; `arguments` take precedence over these."""
        return cls(**{**cls.values_of(config), **arguments})

    @property
    def values(self) -> dict[str, Any]:
        """{name: value} of the constructor's arguments."""
        return {name: getattr(self, name) for name in self._value_names}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.values}


# ------------------------------------------------------------------------------------------------
#  Building blocks
# ------------------------------------------------------------------------------------------------


@register
@rewrite.computes_batch_norm
class BatchNorm(KL.BatchNormalization):
    """Batch normalisation with a mode of its own (matterport: BatchNorm).

    Batches for detection are small, so pre-trained statistics usually stay fixed. Where the batch's
    statistics are used, TensorFlow computes them and the output in one fused operation.

    Args:
        train_bn: None follows the model's mode; False always uses the moving statistics (gamma and
            beta still train); True always uses the batch's. An argument of the layer because in a
            functional model Keras overrides `training` by the whole model's mode.
    """

    def __init__(self, train_bn: bool | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.train_bn = train_bn

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if self.train_bn is not None:
            training = self.train_bn
        if training and mask is None and self._is_fused(inputs):
            return self._normalised_by_batch(inputs)
        return super().call(inputs, training=training, mask=mask)

    def _is_fused(self, inputs):
        """Whether the fused operation computes the same as Keras's several ones."""
        plain = self.trainable and self.scale and self.center and not getattr(self, "renorm", False)
        if not plain or self.axis not in (-1, 3) or len(inputs.shape) != 4:
            return False
        if keras.backend.standardize_dtype(inputs.dtype) != "float32":
            return False
        return self.compute_dtype == "float32" and kernels.has_fused_batch_norm(self.epsilon)

    def _normalised_by_batch(self, inputs):
        """Normalises by the batch's statistics and updates the moving ones."""
        outputs, mean, variance = kernels.batch_norm(inputs, self.gamma, self.beta, self.epsilon)
        for moving, of_batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + of_batch * (1.0 - self.momentum))
        return outputs

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "train_bn": self.train_bn}


@register
@rewrite.computes_batch_norm
class FrozenBatchNorm(BatchNorm):
    """Batch normalisation as a fixed function: neither statistics nor gamma and beta ever train."""

    def __init__(self, **kwargs: Any):
        super().__init__(**{**kwargs, "train_bn": False})

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        for weight in self.weights:
            weight.trainable = False

    @property
    def trainable(self) -> bool:
        return False

    @trainable.setter
    def trainable(self, value: Any) -> None:
        """Ignored: Keras sets it on every layer when a whole model becomes trainable."""


@register
class GroupNorm(KL.GroupNormalization):
    """Group normalisation (Wu & He 2018).

    With fewer groups, gcd(groups, channels), where their number does not divide the channels.
    """

    def build(self, input_shape: Any) -> None:
        self.groups = math.gcd(self.groups, input_shape[-1])  # type: ignore[has-type]
        super().build(input_shape)


@dataclasses.dataclass(frozen=True)
class Norm:
    """The normalisation that follows a convolution.

    Attributes:
        kind: "batch", "frozen", "group" or None, see BACKBONE_NORM.
        train_bn: see `BatchNorm`.
        momentum, epsilon: of batch norm.
        bias: whether convolutions have a bias although a norm follows them.
    """

    kind: str | None = "batch"
    train_bn: bool | None = True
    momentum: float = 0.99
    epsilon: float = 1e-3
    bias: bool = True

    @classmethod
    def of(cls, config: Config, kind: str | None) -> "Norm":
        """Made with a Config's values."""
        return cls(
            kind=kind,
            train_bn=config.TRAIN_BN,
            momentum=config.BATCH_NORM_MOMENTUM,
            epsilon=config.BATCH_NORM_EPSILON,
            bias=config.CONV_BIAS,
        )

    @property
    def conv_bias(self) -> bool:
        """Whether the convolution before it has a bias."""
        return self.bias or self.kind is None

    def layers(self, name: str, per_roi: bool = False) -> list:
        """A list of the layer, empty for no norm. per_roi: for inputs [B, N, h, w, C]."""
        if self.kind is None:
            return []
        return [named(self._make, name, per_roi)]

    def _make(self, **kwargs):
        if self.kind == "group":
            return GroupNorm(32, epsilon=1e-5, **kwargs)
        kwargs.update(momentum=self.momentum, epsilon=self.epsilon)
        if self.kind == "frozen":
            return FrozenBatchNorm(**kwargs)
        return BatchNorm(self.train_bn, **kwargs)


def named(make: Callable, name: str | None, per_roi: bool) -> KL.Layer:
    """make(name=name); with per_roi, that layer applied to every RoI, under the same name."""
    if per_roi:
        return TimeDistributed(make(), name=name)
    return make(name=name)


def chain(x: Tensor, layers: Iterable) -> Tensor:
    """Applies layers to a tensor [B, ...], one after the other."""
    for layer in layers:
        x = layer(x)
    return x


@register
@rewrite.computes_conv2d
class WholeConv2D(KL.Conv2D):
    """A "valid" convolution, computed as one matrix product where its kernel covers the input.

    The box head's 7x7 kernel on 7x7 cells does: it is the paper's fully connected layer, and 50
    times faster on a CPU than as a convolution.
    """

    def call(self, inputs: Any) -> Any:
        if tuple(inputs.shape[1:3]) != self.kernel_size:
            return super().call(inputs)
        batch = ops.shape(inputs)[0]
        flat = ops.reshape(inputs, (batch, math.prod(inputs.shape[1:])))
        outputs = ops.matmul(flat, ops.reshape(self.kernel, (-1, self.filters)))
        if self.use_bias:
            outputs = outputs + self.bias
        return ops.reshape(outputs, (batch, 1, 1, self.filters))


@register
class TimeDistributed(KL.TimeDistributed):
    """Applies a layer to every RoI: [B, N, ...] is folded to [B * N, ...] and back.

    Keras's own layer unrolls a static axis into N calls. Names and weights are the same.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        outputs = self.layer(kernels.fold_rois(inputs))
        return kernels.unfold_rois(outputs, inputs)

    @classmethod
    def from_config(cls, config: Any, custom_objects: Any = None) -> "TimeDistributed":
        # Keras's own method removes "layer" from the caller's dict.
        return super().from_config(dict(config), custom_objects)


# ------------------------------------------------------------------------------------------------
#  ResNet (paper, section 3: network architecture)
# ------------------------------------------------------------------------------------------------


# Number of blocks in stages 2..5, whether blocks are bottlenecks of three convolutions, and the
# number of groups of their 3x3 convolution and a group's width in stage 2 (ResNeXt: Xie et al.
# 2017).
RESNETS = {
    "resnet18": ((2, 2, 2, 2), False, 1, 64),
    "resnet34": ((3, 4, 6, 3), False, 1, 64),
    "resnet50": ((3, 4, 6, 3), True, 1, 64),
    "resnet101": ((3, 4, 23, 3), True, 1, 64),
    "resnet152": ((3, 8, 36, 3), True, 1, 64),
    "resnext50_32x4d": ((3, 4, 6, 3), True, 32, 4),
    "resnext101_32x8d": ((3, 4, 23, 3), True, 32, 8),
    "resnext101_64x4d": ((3, 4, 23, 3), True, 64, 4),
}


@dataclasses.dataclass(frozen=True)
class Style:
    """How the blocks of a ResNet are made.

    Attributes:
        norm: a `Norm`.
        groups: number of groups of a bottleneck's 3x3 convolution.
        stride_in_1x1, padding, width, pool: see STRIDE_IN_1X1, BACKBONE_PADDING, BACKBONE_WIDTH,
            BACKBONE_POOL.
        per_roi: whether inputs are RoIs [B, N, h, w, C].
    """

    norm: Norm = Norm()
    groups: int = 1
    stride_in_1x1: bool = True
    padding: str = "same"
    width: int = 64
    pool: bool = True
    per_roi: bool = False

    @classmethod
    def of(cls, config: Config) -> "Style":
        """Made with a Config's values."""
        norm = Norm.of(config, config.BACKBONE_NORM)
        return cls(
            norm=norm,
            stride_in_1x1=config.STRIDE_IN_1X1,
            padding=config.BACKBONE_PADDING,
            width=config.BACKBONE_WIDTH,
            pool=config.BACKBONE_POOL,
        )


def _conv_and_norm(x, name, width, size, strides, groups, style):
    """A convolution and its norm; `name` "2a_branch1" makes res2a_branch1 and bn2a_branch1."""
    padding = "same"
    if size > 1 and strides not in (1, (1, 1)) and style.padding == "symmetric":
        x = named(lambda **kwargs: KL.ZeroPadding2D(size // 2, **kwargs), None, style.per_roi)(x)
        padding = "valid"

    def convolution(**kwargs):
        return KL.Conv2D(
            width,
            size,
            strides=strides,
            padding=padding,
            groups=groups,
            use_bias=style.norm.conv_bias,
            **kwargs,
        )

    x = named(convolution, "res" + name, style.per_roi)(x)
    return chain(x, style.norm.layers("bn" + name, style.per_roi))


def _residual_block(x, kernel_size, filters, stage, block, strides, project, style):
    """A block of 2 (basic) or 3 (bottleneck) convolutions; the first or second has the stride."""
    branches = ("2a", "2b", "2c")[: len(filters)]
    bottleneck = len(filters) == 3
    sizes = [kernel_size, kernel_size]
    if bottleneck:
        sizes = [1, kernel_size, 1]
    strided_branch = "2a"
    if bottleneck and not style.stride_in_1x1:
        strided_branch = "2b"
    name = f"{stage}{block}_branch"
    shortcut = x
    if project:
        shortcut = _conv_and_norm(x, name + "1", filters[-1], 1, strides, 1, style)
    for branch, width, size in zip(branches, filters, sizes):
        branch_strides = 1
        if branch == strided_branch:
            branch_strides = strides
        groups = 1
        if bottleneck and size > 1:
            groups = style.groups
        x = _conv_and_norm(x, name + branch, width, size, branch_strides, groups, style)
        if branch != branches[-1]:
            x = KL.Activation("relu")(x)
    x = KL.Add()([x, shortcut])
    return KL.Activation("relu", name=f"res{stage}{block}_out")(x)


def identity_block(
    input_tensor: Tensor,
    kernel_size: int,
    filters: Sequence[int],
    stage: int,
    block: str,
    use_bias: bool = True,
    train_bn: bool | None = True,
    style: Style | None = None,
) -> Tensor:
    """Residual block without a projection (matterport: identity_block).

    Args:
        input_tensor: [B, H, W, filters[-1]].
        kernel_size: side of the inner convolution.
        filters: widths of the three convolutions (or of the two of a basic block).
        stage, block: an int and a letter, parts of the layers' names.
        style: a `Style`; takes precedence over use_bias and train_bn.
    """
    style = style or Style(Norm(train_bn=train_bn, bias=use_bias))
    return _residual_block(input_tensor, kernel_size, filters, stage, block, 1, False, style)


def conv_block(
    input_tensor: Tensor,
    kernel_size: int,
    filters: Sequence[int],
    stage: int,
    block: str,
    strides: Any = (2, 2),
    use_bias: bool = True,
    train_bn: bool | None = True,
    style: Style | None = None,
) -> Tensor:
    """Residual block with a 1x1 projection in the shortcut (matterport: conv_block)."""
    style = style or Style(Norm(train_bn=train_bn, bias=use_bias))
    return _residual_block(input_tensor, kernel_size, filters, stage, block, strides, True, style)


def _architecture(name):
    if name not in RESNETS:
        raise ValueError(f"architecture is one of {', '.join(RESNETS)}. Received: {name!r}")
    return RESNETS[name]


def resnet_stage(x: Tensor, architecture: str, stage: int, strides: Any, style: Style) -> Tensor:
    """A stage of a ResNet; the stride is in its first block.

    Args:
        x: [B, H, W, C].
        architecture: one of `RESNETS`.
        stage: 2 to 5.
        strides: strides of the first block.
        style: a `Style`.

    Returns:
        [B, H / strides, W / strides, channels].
    """
    blocks, bottleneck, groups, group_width = _architecture(architecture)
    style = dataclasses.replace(style, groups=groups)
    scale = 2 ** (stage - 2)
    filters = [groups * group_width * scale * style.width // 64] * 2
    if bottleneck:
        filters.append(4 * style.width * scale)
    for i in range(blocks[stage - 2]):
        block = chr(ord("a") + i)
        if i == 0 and (bottleneck or stage > 2):
            x = conv_block(x, 3, filters, stage, block, strides, style=style)
        else:
            x = identity_block(x, 3, filters, stage, block, style=style)
    return x


def resnet_graph(
    input_image: Tensor,
    architecture: str,
    stage5: bool = False,
    train_bn: bool | None = True,
    style: Style | None = None,
) -> list:
    """The maps C1..C5 of a ResNet at strides 2, 4, 8, 16, 32 (matterport: resnet_graph).

    Without max pooling (`Style.pool`) C2 to C5 have half these strides.

    Args:
        input_image: [B, H, W, channels].
        architecture: one of `RESNETS`.
        stage5: False leaves out C5, which is then None.
        train_bn: mode of batch norm, see `BatchNorm`.
        style: a `Style`; takes precedence over train_bn.

    Returns:
        [C1, C2, C3, C4, C5].
    """
    _architecture(architecture)
    style = style or Style(Norm(train_bn=train_bn))
    x = KL.ZeroPadding2D(3)(input_image)
    x = KL.Conv2D(style.width, 7, strides=2, use_bias=style.norm.conv_bias, name="conv1")(x)
    x = chain(x, style.norm.layers("bn_conv1"))
    c1 = KL.Activation("relu")(x)
    x = c1
    if style.pool:
        x = _pooled(x, style.padding)
    c2 = resnet_stage(x, architecture, 2, 1, style)
    c3 = resnet_stage(c2, architecture, 3, 2, style)
    c4 = resnet_stage(c3, architecture, 4, 2, style)
    c5 = None
    if stage5:
        c5 = resnet_stage(c4, architecture, 5, 2, style)
    return [c1, c2, c3, c4, c5]


def _pooled(x, padding):
    """Max pooling of 3x3 windows at stride 2."""
    if padding == "symmetric":
        x = KL.ZeroPadding2D(1)(x)  # after a ReLU nothing is below 0
    if padding != "same":
        padding = "valid"
    return KL.MaxPooling2D(3, strides=2, padding=padding)(x)


# ------------------------------------------------------------------------------------------------
#  Feature pyramid network (paper, section 3; Lin et al. 2017)
# ------------------------------------------------------------------------------------------------


def fpn_graph(maps: Sequence, channels: int = 256, norm: Norm = Norm(None)) -> list:
    """P2..P6 at strides 4, 8, 16, 32, 64 from C2..C5.

    Each level is a lateral 1x1 convolution of its own map plus the level above, upsampled by
    nearest neighbour; a 3x3 convolution follows. P6, used by the RPN only, is every second pixel of
    P5.
    """

    def conv(x, size, name):
        convolution = KL.Conv2D(channels, size, padding="same", use_bias=norm.conv_bias, name=name)
        return chain(convolution(x), norm.layers(name + "_bn"))

    top_down = conv(maps[-1], 1, "fpn_c5p5")
    sums = {5: top_down}
    for level, bottom_up in zip((4, 3, 2), reversed(maps[:-1])):
        up = DoubledMap(name=f"fpn_p{level + 1}upsampled")(top_down)
        lateral = conv(bottom_up, 1, f"fpn_c{level}p{level}")
        up = MatchSize(name=f"fpn_p{level}size")([up, lateral])
        top_down = KL.Add(name=f"fpn_p{level}add")([up, lateral])
        sums[level] = top_down
    pyramid = [conv(sums[level], 3, f"fpn_p{level}") for level in (2, 3, 4, 5)]
    p6 = KL.MaxPooling2D(1, strides=2, name="fpn_p6")(pyramid[-1])
    return [*pyramid, p6]


@register
class DoubledMap(KL.Layer):
    """Nearest-neighbour upsampling of maps [B, H, W, C] by 2.

    Same as Keras's `UpSampling2D`, with a third of its operations, forward and backward.
    """

    def call(self, inputs: Any) -> Any:
        _, height, width, channels = ops.shape(inputs)
        columns = ops.concatenate([inputs, inputs], axis=3)  # each column twice
        columns = ops.reshape(columns, (-1, height, 2 * width, channels))
        rows = ops.concatenate([columns, columns], axis=2)  # each row twice
        return ops.reshape(rows, (-1, 2 * height, 2 * width, channels))

    def compute_output_shape(self, input_shape: Any) -> Any:
        batch, *sides, channels = input_shape
        doubled = [side and 2 * side for side in sides]
        return (batch, *doubled, channels)


@register
class MatchSize(KL.Layer):
    """Cuts the first of two maps to the height and width of the second.

    Where a map's side is odd, the next coarser map has half of it rounded up, and is one row or
    column too large once upsampled. Does nothing where sides are multiples of the strides.
    """

    def call(self, inputs: Any) -> Any:
        large, small = inputs
        _, height, width, _ = ops.shape(small)
        return large[:, :height, :width]

    def compute_output_shape(self, input_shape: Any) -> Any:
        large, small = input_shape
        return (large[0], small[1], small[2], large[3])


# ------------------------------------------------------------------------------------------------
#  Boxes (the arithmetic is in mrcnn.boxes)
# ------------------------------------------------------------------------------------------------


def norm_boxes_graph(boxes: Tensor, shape: Tensor, frame: str = "centers") -> Tensor:
    """Pixel boxes to normalised ones (matterport: norm_boxes_graph).

    Args:
        boxes: [..., (y1, x1, y2, x2)] in pixels; y2, x2 lie outside the box.
        shape: [..., (height, width)], broadcast against the boxes.
        frame: BOX_FRAME.
    """
    size = ops.cast(shape, "float32")[..., :2]
    return box_math.normalize(ops.cast(boxes, "float32"), size, frame, ops)


def denorm_boxes_graph(
    boxes: Tensor, shape: Tensor, frame: str = "centers", whole: bool = True
) -> Tensor:
    """Normalised boxes to pixel ones (matterport: denorm_boxes_graph).

    Args:
        whole: True for int32, rounded half to even; False for float32, not rounded.
    """
    size = ops.cast(shape, "float32")[..., :2]
    boxes = box_math.denormalize(boxes, size, frame, ops)
    if whole:
        return ops.cast(ops.round(boxes), "int32")
    return boxes


def apply_box_deltas_graph(
    boxes: Tensor, deltas: Tensor, log_size_limit: float | None = None
) -> Tensor:
    """Moves boxes by (dy, dx, log dh, log dw) (matterport: apply_box_deltas_graph).

    Args:
        boxes, deltas: [..., 4], any leading axes.
        log_size_limit: bound on log dh and log dw, so that exp can't overflow; None for no bound.
    """
    return box_math.apply_deltas(boxes, deltas, ops, log_size_limit)


def clip_boxes_graph(boxes: Tensor, window: Tensor) -> Tensor:
    """Boxes [..., 4] clipped to a window (y1, x1, y2, x2) (matterport: clip_boxes_graph)."""
    return box_math.clip(boxes, window, ops)


def overlaps_graph(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU of every pair, [N, 4] and [M, 4] -> [N, M] (matterport: overlaps_graph)."""
    return kernels.overlaps(boxes1, boxes2)


def log2_graph(x: Tensor) -> Tensor:
    """Logarithm to base 2 (matterport: log2_graph)."""
    return ops.log(x) / ops.log(ops.convert_to_tensor(2.0))


def _has_min_sides(boxes, size, frame, pixels):
    """Mask of boxes [..., 4] with no side below `pixels`; size: the image's [..., (h, w)]."""
    boxes = denorm_boxes_graph(boxes, size, frame, whole=False)
    return ops.all(boxes[..., 2:] - boxes[..., :2] >= pixels, axis=-1)


@register
class NormalizeBoxes(ValuesLayer):
    """Pixel boxes to normalised ones, by the size of the image.

    Args:
        min_pixels: sides that are zero after normalising (those of one pixel) are widened to this
            number of pixels about their centre; otherwise objects of one pixel could never be
            matched.
        return_valid: also return a mask of the boxes that are not zero rows, [B, N] bool, taken
            before normalising, which makes zero rows non-zero.
        frame: BOX_FRAME.

    Input: [boxes [B, N, 4] in pixels, image [B, H, W, C]]. Output: [B, N, 4].
    """

    def __init__(
        self, min_pixels: int = 0, return_valid: bool = False, frame: str = "centers", **kwargs: Any
    ):
        values = {"min_pixels": min_pixels, "return_valid": return_valid, "frame": frame}
        super().__init__(values, **kwargs)

    def call(self, inputs: Any) -> Any:
        pixels, image = inputs
        size = image_size(image)
        boxes = norm_boxes_graph(pixels, size, self.frame)
        if self.min_pixels:
            boxes = self._widened(boxes, 0.5 * self.min_pixels / (size - 1.0))
        if self.return_valid:
            return boxes, ops.any(pixels != 0, axis=-1)
        return boxes

    @staticmethod
    def _widened(boxes, half):
        """Boxes whose sides of length 0 are extended by `half` in both directions."""
        low = boxes[..., :2]
        high = boxes[..., 2:]
        is_empty = high - low <= 0
        low = ops.where(is_empty, low - half, low)
        high = ops.where(is_empty, high + half, high)
        return ops.concatenate([low, high], axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        shape = tuple(input_shape[0])
        if self.return_valid:
            return shape, shape[:2]
        return shape

    def compute_output_spec(self, inputs: Any) -> Any:
        boxes = keras.KerasTensor(inputs[0].shape, "float32")
        if self.return_valid:
            return boxes, keras.KerasTensor(boxes.shape[:2], "bool")
        return boxes


# ------------------------------------------------------------------------------------------------
#  Region proposal network (paper, section 3.1; Ren et al. 2015)
# ------------------------------------------------------------------------------------------------


def _anchors_per_cell(config):
    return len(config.RPN_ANCHOR_RATIOS) * np.size(config.RPN_ANCHOR_SCALES[0])


@register
class PyramidAnchors(ValuesLayer):
    """Anchors from the sizes of the batch's feature maps, so that images of any size can train.

    Args:
        scales: for each level, the side of its anchors in pixels, or a tuple of several.
        ratios: width / height of the anchors.
        strides: stride of each level, in pixels.
        anchor_stride: distance of neighbouring anchors, in cells.
        frame: BOX_FRAME.
        rounding: see RPN_ANCHOR_ROUNDING.

    Input: [image [B, H, W, C], P2, ... P6 [B, h, w, C]]. Output: [B, A, 4] normalised, in the order
    level, row, column, ratio.
    """

    def __init__(
        self,
        scales: Sequence,
        ratios: Sequence[float],
        strides: Sequence[int],
        anchor_stride: int = 1,
        frame: str = "centers",
        rounding: bool = False,
        **kwargs: Any,
    ):
        values = {
            "scales": [[float(side) for side in np.ravel(scale)] for scale in scales],
            "ratios": [float(ratio) for ratio in ratios],
            "strides": [int(stride) for stride in strides],
            "anchor_stride": anchor_stride,
            "frame": frame,
            "rounding": rounding,
        }
        super().__init__(values, **kwargs)

    @classmethod
    def values_of(cls, config: Config) -> dict[str, Any]:
        return {
            "scales": config.RPN_ANCHOR_SCALES,
            "ratios": config.RPN_ANCHOR_RATIOS,
            "strides": config.BACKBONE_STRIDES,
            "anchor_stride": config.RPN_ANCHOR_STRIDE,
            "frame": config.BOX_FRAME,
            "rounding": config.RPN_ANCHOR_ROUNDING,
        }

    def call(self, inputs: Any) -> Any:
        image = inputs[0]
        xp = ops
        if not any(None in x.shape[1:3] for x in inputs):
            xp = np  # static sizes: the anchors are a constant of the graph
        sizes = [ops.shape(x)[1:3] for x in inputs]
        boxes = []
        for level in zip(self.scales, self.strides, sizes[1:]):
            boxes.append(self._of_level(sizes[0], *level, xp))
        pixels = ops.convert_to_tensor(xp.concatenate(boxes, axis=0), "float32")
        normalised = norm_boxes_graph(pixels, image_size(image), self.frame)
        per_image = ops.zeros_like(image[:, :1, 0, :1], dtype="float32")  # [B, 1, 1]
        return normalised[None] + per_image

    def _of_level(self, image_sides, scale, stride, sides, xp):
        """Anchors [a, 4] of one map in pixels: the first cell's, shifted to every cell."""
        first = utils.generate_anchors(scale, self.ratios, (1, 1), stride, 1, self.rounding)
        offsets = []
        for image_side, cells in zip(image_sides, sides):
            pixels = stride
            if self.rounding:
                pixels = image_side // cells
            count = -(-cells // self.anchor_stride)
            offsets.append(xp.arange(count) * (self.anchor_stride * pixels))
        y = xp.array(offsets[0], dtype="float32")[:, None, None]
        x = xp.array(offsets[1], dtype="float32")[None, :, None]
        y = y + xp.zeros_like(x)
        x = x + xp.zeros_like(y)
        shift = xp.stack([y, x, y, x], axis=-1)  # [rows, columns, 1, 4]
        return xp.reshape(shift + first.astype("float32"), (-1, 4))

    def compute_output_shape(self, input_shape: Any) -> Any:
        count = 0
        for scale, shape in zip(self.scales, input_shape[1:]):
            if None in shape[1:3]:
                return (input_shape[0][0], None, 4)
            rows, columns = (-(-side // self.anchor_stride) for side in shape[1:3])
            count += rows * columns * len(scale) * len(self.ratios)
        return (input_shape[0][0], count, 4)


def rpn_graph(
    feature_map: Tensor,
    anchors_per_location: int,
    anchor_stride: int,
    channels: int = 512,
    convs: int = 1,
    score: str = "softmax",
) -> list:
    """Objectness and box deltas of every anchor of a map (matterport: rpn_graph).

    Args:
        feature_map: [B, H, W, depth].
        convs: number of shared convolutions; the first one has the stride.
        score: "softmax", or "sigmoid" of one logit, with a constant 0 as the background's logit.

    Returns:
        class_logits: [B, H * W * anchors_per_location, 2], index 1 is "object".
        probs: their softmax.
        bbox: [B, H * W * anchors_per_location, (dy, dx, log dh, log dw)], divided by
            RPN_BBOX_STD_DEV.
    """
    shared = feature_map
    for i in range(convs):
        name = "rpn_conv_shared"
        strides = anchor_stride
        if i > 0:
            name = f"rpn_conv_shared{i + 1}"
            strides = 1
        shared = KL.Conv2D(
            channels, 3, padding="same", activation="relu", strides=strides, name=name
        )(shared)
    logits_per_anchor = 2
    if score == "sigmoid":
        logits_per_anchor = 1
    x = KL.Conv2D(logits_per_anchor * anchors_per_location, 1, name="rpn_class_raw")(shared)
    # In bfloat16 all scores from .998 on would be 1.0, and the order of the best boxes arbitrary.
    class_logits = KL.Reshape((-1, logits_per_anchor), dtype="float32")(x)
    if score == "sigmoid":
        class_logits = ops.pad(class_logits, [[0, 0], [0, 0], [1, 0]])
    probs = KL.Activation("softmax", name="rpn_class_xxx", dtype="float32")(class_logits)
    x = KL.Conv2D(4 * anchors_per_location, 1, name="rpn_bbox_pred")(shared)
    bbox = KL.Reshape((-1, 4), dtype="float32")(x)
    return [class_logits, probs, bbox]


def build_rpn_model(
    anchor_stride: int,
    anchors_per_location: int,
    depth: int,
    channels: int = 512,
    convs: int = 1,
    score: str = "softmax",
) -> keras.Model:
    """The RPN as a model, whose weights all levels share (matterport: build_rpn_model)."""
    feature_map = KL.Input((None, None, depth), name="input_rpn_feature_map")
    outputs = rpn_graph(feature_map, anchors_per_location, anchor_stride, channels, convs, score)
    return keras.Model(feature_map, outputs, name="rpn_model")


@register
class ProposalLayer(ValuesLayer):
    """Refines, clips and suppresses the best anchors to proposals (matterport: ProposalLayer).

    Takes the best `pre_nms_limit` anchors of all levels together, or of each level, applies
    non-maximum suppression and keeps the best `proposal_count`. No gradient flows back through the
    coordinates of proposals.

    Args:
        proposal_count: number of proposals per image.
        nms_threshold: IoU above which the box with the lower score is suppressed.
        config: a Config that gives the values below; without it they are arguments.
        pre_nms_limit: number of anchors before suppression (None with a config: its
            PRE_NMS_LIMIT).
        bbox_std_dev: what the deltas are divided by.
        log_size_limit: see `apply_box_deltas_graph`.
        return_valid: also return a mask of the rows that are proposals, [B, proposal_count] bool.
        limit_per_level, nms_per_level, min_size, clip_to_window: see PRE_NMS_PER_LEVEL,
            RPN_NMS_PER_LEVEL, RPN_MIN_SIZE, RPN_CLIP_TO_WINDOW.
        sigmoid: whether the first input is logits, whose order stays exact where their sigmoids
            round to the same value.
        anchors_per_cell, anchor_stride: give the number of anchors of a level.
        frame: BOX_FRAME.
        fused: see `mrcnn.ops`.

    Input: [probs or logits [B, A, 2], bbox [B, A, 4], anchors [B, A, 4] normalised], followed by
    image_meta [B, meta] where min_size or clip_to_window needs it and by the maps [B, h, w, C] of
    all levels where limit_per_level does.
    Output: [B, proposal_count, 4] normalised, zero rows at the end.
    """

    def __init__(
        self,
        proposal_count: int,
        nms_threshold: float,
        config: Config | None = None,
        *,
        pre_nms_limit: int | None = None,
        bbox_std_dev: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
        log_size_limit: float = math.log(1000 / 16),
        return_valid: bool = False,
        limit_per_level: bool = False,
        nms_per_level: bool = False,
        min_size: float = 0.0,
        clip_to_window: bool = False,
        sigmoid: bool = False,
        anchors_per_cell: int = 3,
        anchor_stride: int = 1,
        frame: str = "centers",
        fused: bool | None = None,
        **kwargs: Any,
    ):
        values = {
            "proposal_count": proposal_count,
            "nms_threshold": nms_threshold,
            "pre_nms_limit": 6000,
            "bbox_std_dev": [float(value) for value in bbox_std_dev],
            "log_size_limit": log_size_limit,
            "return_valid": return_valid,
            "limit_per_level": limit_per_level,
            "nms_per_level": nms_per_level,
            "min_size": float(min_size),
            "clip_to_window": clip_to_window,
            "sigmoid": sigmoid,
            "anchors_per_cell": anchors_per_cell,
            "anchor_stride": anchor_stride,
            "frame": frame,
            "fused": fused,
        }
        super().__init__(values, config, **kwargs)
        if pre_nms_limit:
            self.pre_nms_limit = pre_nms_limit

    @classmethod
    def values_of(cls, config: Config) -> dict[str, Any]:
        return {
            "pre_nms_limit": config.PRE_NMS_LIMIT,
            "bbox_std_dev": [float(value) for value in config.RPN_BBOX_STD_DEV],
            "log_size_limit": config.BBOX_LOG_SIZE_LIMIT,
            "limit_per_level": config.PRE_NMS_PER_LEVEL,
            "nms_per_level": config.RPN_NMS_PER_LEVEL,
            "min_size": float(config.RPN_MIN_SIZE),
            "clip_to_window": config.RPN_CLIP_TO_WINDOW,
            "sigmoid": config.RPN_SCORE == "sigmoid",
            "anchors_per_cell": _anchors_per_cell(config),
            "anchor_stride": config.RPN_ANCHOR_STRIDE,
            "frame": config.BOX_FRAME,
            "fused": config.takes_fused_kernels(),
        }

    def stages(self, inputs: Sequence) -> dict[str, Tensor]:
        """The intermediate results by matterport's names, from anchors to kept proposals.

        Returns:
            {"pre_nms_indices": [B, limit] int32, indices of the best anchors, best first;
            "pre_nms_anchors", "refined_anchors", "refined_anchors_clipped": [B, limit, 4], these
            anchors as they are, with their deltas applied, and clipped; "rpn_non_max_suppression":
            [B, proposal_count] int32, the rows of these that are kept; "valid":
            [B, proposal_count] bool, False for padding}.
        """
        scores, deltas, anchors = (ops.stop_gradient(x) for x in inputs[:3])
        scores, best, counts = self._best(scores[:, :, 1], inputs[4:])
        if self.sigmoid:
            scores = ops.sigmoid(scores)
        deltas = take_rows(deltas, best) * ops.convert_to_tensor(self.bbox_std_dev)
        anchors = take_rows(anchors, best)
        boxes = apply_box_deltas_graph(anchors, deltas, self.log_size_limit)
        window = ops.convert_to_tensor([0.0, 0.0, 1.0, 1.0])
        large_enough = None
        if self.clip_to_window or self.min_size:
            meta = parse_image_meta_graph(inputs[3])
            size = meta["image_shape"][:, None, :2]
        if self.clip_to_window:
            window = norm_boxes_graph(meta["window"][:, None], size, self.frame)
        clipped = clip_boxes_graph(boxes, window)
        if self.min_size:
            large_enough = _has_min_sides(clipped, size, self.frame, self.min_size)
        kept, valid = self._suppress(clipped, scores, large_enough, counts)
        return {
            "pre_nms_indices": best,
            "pre_nms_anchors": anchors,
            "refined_anchors": boxes,
            "refined_anchors_clipped": clipped,
            "rpn_non_max_suppression": kept,
            "valid": valid,
        }

    def _best(self, scores, maps):
        """The best scores [B, K], their anchors' indices [B, K], and the number of each level."""
        sizes = [ops.shape(scores)[1]]
        if self.limit_per_level:
            sizes = [self._anchors_of(level) for level in maps]
        start = 0
        best_scores = []
        indices = []
        counts = []
        for size in sizes:
            if isinstance(size, int):
                count = min(self.pre_nms_limit, size)
            else:
                count = ops.minimum(self.pre_nms_limit, size)
            level_scores, level_best = kernels.top_k(scores[:, start : start + size], count)
            best_scores.append(level_scores)
            indices.append(level_best + start)
            counts.append(count)
            start = start + size
        if len(sizes) == 1:
            return best_scores[0], indices[0], counts
        return ops.concatenate(best_scores, axis=1), ops.concatenate(indices, axis=1), counts

    def _anchors_of(self, level):
        """Number of anchors of a map."""
        _, height, width, _ = ops.shape(level)
        rows = -(-height // self.anchor_stride)
        columns = -(-width // self.anchor_stride)
        return self.anchors_per_cell * rows * columns

    def _suppress(self, boxes, scores, valid, counts):
        """Indices [B, proposal_count] of the kept boxes, best first, and a mask of valid rows."""
        if not self.nms_per_level:
            return self._suppress_together(boxes, scores, valid)
        start = 0
        kept = []
        kept_valid = []
        for count in counts:
            level = slice(start, start + count)
            level_valid = None
            if valid is not None:
                level_valid = valid[:, level]
            rows, rows_valid = self._suppress_together(
                boxes[:, level], scores[:, level], level_valid
            )
            kept.append(rows + start)
            kept_valid.append(rows_valid)
            start = start + count
        kept = ops.concatenate(kept, axis=1)
        kept_valid = ops.concatenate(kept_valid, axis=1)
        kept_scores = ops.where(kept_valid, take_rows(scores, kept), -1.0)
        best, order = kernels.top_k(kept_scores, self.proposal_count)
        return take_rows(kept, order), best >= 0

    def _suppress_together(self, boxes, scores, valid):
        return kernels.non_max_suppression(
            boxes, scores, self.proposal_count, self.nms_threshold, valid, fused=self.fused
        )

    def call(self, inputs: Any) -> Any:
        stages = self.stages(inputs)
        kept = take_rows(stages["refined_anchors_clipped"], stages["rpn_non_max_suppression"])
        proposals = mask_rows(kept, stages["valid"])
        if self.return_valid:
            return proposals, stages["valid"]
        return proposals

    def compute_output_shape(self, input_shape: Any) -> Any:
        boxes = (input_shape[0][0], self.proposal_count, 4)
        if self.return_valid:
            return boxes, boxes[:2]
        return boxes

    def compute_output_spec(self, inputs: Any) -> Any:
        boxes = keras.KerasTensor((inputs[0].shape[0], self.proposal_count, 4), "float32")
        if self.return_valid:
            return boxes, keras.KerasTensor(boxes.shape[:2], "bool")
        return boxes


# ------------------------------------------------------------------------------------------------
#  RoIAlign (paper, section 3: RoIAlign)
# ------------------------------------------------------------------------------------------------


@register
class PyramidROIAlign(ValuesLayer):
    """Features of each RoI from the level that fits its size (matterport: PyramidROIAlign).

    The level is 4 + log2(sqrt(h w) / 224), h and w in pixels, rounded and clipped to 2..5, so that
    a RoI of 224 pixels is read from P4. A single map serves all RoIs.

    Args:
        pool_shape: (height, width) of the output.
        fused: see `mrcnn.ops`.
        pooling: "crop_and_resize", one bilinear sample per cell at unrounded coordinates; "align",
            the paper's RoIAlign; "pool", RoIPool. See ROI_POOLING.
        samples, reduce, aligned: settings of RoIAlign, see `ops.roi_align`.
        level: rounding of the level, "round" (half to even) or "floor".
        strides: stride of each map, in pixels.
        frame: BOX_FRAME.

    Input: [boxes [B, N, 4] normalised, image_meta [B, meta], P2, P3, P4, P5]. Output: [B, N, h, w,
    C].
    """

    def __init__(
        self,
        pool_shape: Sequence[int],
        fused: bool | None = None,
        pooling: str = "crop_and_resize",
        samples: int = 2,
        reduce: str = "average",
        aligned: bool = True,
        level: str = "round",
        strides: Sequence[int] = (4, 8, 16, 32),
        frame: str = "centers",
        **kwargs: Any,
    ):
        if pooling not in config_module.ROI_POOLINGS:
            raise ValueError(
                f"pooling is one of {', '.join(config_module.ROI_POOLINGS)}. Received: {pooling!r}"
            )
        values = {
            "pool_shape": tuple(int(side) for side in pool_shape),
            "fused": fused,
            "pooling": pooling,
            "samples": samples,
            "reduce": reduce,
            "aligned": aligned,
            "level": level,
            "strides": [int(stride) for stride in strides],
            "frame": frame,
        }
        # No autocast: boxes stay float32, features keep their dtype.
        kwargs = {"autocast": False, "dtype": None, **kwargs}
        super().__init__(values, **kwargs)

    @classmethod
    def values_of(cls, config: Config) -> dict[str, Any]:
        return {
            "fused": config.takes_fused_kernels(),
            "pooling": config.ROI_POOLING,
            "samples": config.ROI_ALIGN_SAMPLES,
            "reduce": config.ROI_ALIGN_REDUCE,
            "aligned": config.ROI_ALIGN_ALIGNED,
            "level": config.ROI_LEVEL,
            "strides": config.BACKBONE_STRIDES[:4],
            "frame": config.BOX_FRAME,
        }

    def call(self, inputs: Any) -> Any:
        boxes = ops.stop_gradient(inputs[0])
        feature_maps = inputs[2:]
        shape = parse_image_meta_graph(inputs[1])["image_shape"]
        if len(feature_maps) > 1:
            levels = self.levels(boxes, shape, self.level) - 2
        else:
            levels = ops.zeros_like(boxes[..., 0], dtype="int32")
        boxes = self._in_kernel_frame(boxes, shape[:, None, :2], levels)
        if self.pooling == "align":
            return kernels.roi_align(
                feature_maps,
                boxes,
                levels,
                self.pool_shape,
                self.samples,
                self.aligned,
                self.reduce,
                self.fused,
            )
        if self.pooling == "pool":
            return kernels.roi_pool(feature_maps, boxes, levels, self.pool_shape)
        return kernels.pyramid_pool(feature_maps, boxes, levels, self.pool_shape, self.fused)

    def _in_kernel_frame(self, boxes, size, levels):
        """Boxes in the frame that the kernel takes.

        For `roi_align` and `roi_pool`, cells of each box's map; for `pyramid_pool`, normalised so
        that 0 and 1 are the centres of the outermost cells.
        """
        if self.pooling != "crop_and_resize":
            strides = ops.take(ops.convert_to_tensor(self.strides, "float32"), levels)
            pixels = denorm_boxes_graph(boxes, size, self.frame, whole=False)
            return pixels / strides[..., None]
        if self.frame == "edges":
            return norm_boxes_graph(denorm_boxes_graph(boxes, size, "edges", whole=False), size)
        return boxes

    @staticmethod
    def levels(boxes: Tensor, image_shape: Tensor, rule: str = "round") -> Tensor:
        """The level of each RoI, [B, N] int32 in 2..5.

        Args:
            boxes: [B, N, 4] normalised.
            image_shape: [B, (h, w, c)].
            rule: see ROI_LEVEL.
        """
        shape = ops.cast(image_shape, "float32")
        image_area = (shape[:, 0] * shape[:, 1])[:, None]
        area = box_math.area(boxes)
        size = ops.sqrt(ops.where(area > 0, area, 1.0)) / (224.0 / ops.sqrt(image_area))
        if rule == "round":
            level = ops.round(log2_graph(size))
        else:
            # Sides of exactly 112 or 224 pixels belong to the upper level despite rounding errors.
            level = ops.floor(log2_graph(size) + 1e-6)
        level = ops.clip(4 + ops.cast(level, "int32"), 2, 5)
        return ops.where(area > 0, level, 2)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (*input_shape[0][:2], *self.pool_shape, input_shape[2][-1])

    def compute_output_spec(self, inputs: Any) -> Any:
        shape = self.compute_output_shape([x.shape for x in inputs])
        return keras.KerasTensor(shape, inputs[2].dtype)


# ------------------------------------------------------------------------------------------------
#  Heads (paper, section 3: network architecture)
# ------------------------------------------------------------------------------------------------


def _convolutions(prefix, count, channels, norm):
    """The layers of `count` 3x3 convolutions of RoIs, each followed by its norm and a ReLU."""
    layers = []
    for i in range(1, count + 1):
        conv = KL.Conv2D(channels, 3, padding="same", use_bias=norm.conv_bias)
        layers.append(TimeDistributed(conv, name=f"{prefix}_conv{i}"))
        layers += norm.layers(f"{prefix}_bn{i}", per_roi=True)
        layers.append(KL.Activation("relu"))
    return layers


class BoxHead:
    """The layers of the class and box branch: two fully connected ones, then the two outputs.

    Args:
        pool_size: side of the pooled features.
        num_classes: background included.
        train_bn: mode of batch norm where fc_norm is None.
        fc_size, fcs, fc_norm: width, number and norm of the fully connected layers.
        pooling: the `PyramidROIAlign` that pools the RoIs; None for the original's.
        body: a model applied to the pooled features [B, N, h, w, C] and averaged over h, w, in
            place of the fully connected layers (C4); None for those.
        convs, conv_channels, conv_norm: number, width and norm of 3x3 convolutions before the fully
            connected layers.
        class_agnostic: predict one box for all classes.
    """

    def __init__(
        self,
        pool_size: int,
        num_classes: int,
        train_bn: bool | None = True,
        fc_size: int = 1024,
        *,
        pooling: PyramidROIAlign | None = None,
        body: keras.Model | None = None,
        convs: int = 0,
        conv_channels: int = 256,
        conv_norm: Norm = Norm(None),
        fcs: int = 2,
        fc_norm: Norm | None = None,
        class_agnostic: bool = False,
    ):
        self.num_classes = num_classes
        self.class_agnostic = class_agnostic
        self.stages = [pooling or PyramidROIAlign([pool_size] * 2, name="roi_align_classifier")]
        self.stages += _convolutions("mrcnn_box", convs, conv_channels, conv_norm)
        if body is not None:
            average = KL.GlobalAveragePooling2D()
            self.stages += [body, TimeDistributed(average, name="mrcnn_class_average")]
        else:
            self.stages += self._fully_connected(
                pool_size, fcs, fc_size, fc_norm or Norm(train_bn=train_bn)
            )

    @classmethod
    def of(cls, config: Config, body: keras.Model | None = None) -> "BoxHead":
        """Made with a Config's values; body: see `res5_head`."""
        side = config.POOL_SIZE
        return cls(
            side,
            config.NUM_CLASSES,
            config.TRAIN_BN,
            config.FPN_CLASSIF_FC_LAYERS_SIZE,
            pooling=PyramidROIAlign.of(
                config, pool_shape=(side, side), name="roi_align_classifier"
            ),
            body=body,
            convs=config.BOX_HEAD_CONVS,
            conv_channels=config.BOX_HEAD_CHANNELS,
            conv_norm=Norm.of(config, config.BOX_HEAD_CONV_NORM),
            fcs=config.BOX_HEAD_FCS,
            fc_norm=Norm.of(config, config.BOX_HEAD_NORM),
            class_agnostic=config.CLASS_AGNOSTIC_BOXES,
        )

    @staticmethod
    def _fully_connected(pool_size, count, size, norm):
        layers = []
        side = pool_size
        for i in range(1, count + 1):
            fc = WholeConv2D(size, side, use_bias=norm.conv_bias)
            layers.append(TimeDistributed(fc, name=f"mrcnn_class_conv{i}"))
            layers += norm.layers(f"mrcnn_class_bn{i}", per_roi=True)
            layers.append(KL.Activation("relu"))
            side = 1
        return layers

    def __call__(
        self, rois: Tensor, feature_maps: Sequence, image_meta: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Class and box of rois [B, N, 4].

        Returns:
            logits, probs: [B, N, num_classes] float32.
            deltas: [B, N, num_classes, (dy, dx, log dh, log dw)] float32, divided by BBOX_STD_DEV.
        """
        x = chain([rois, image_meta, *feature_maps], self.stages)
        rows = rois.shape[1] or -1
        shared = KL.Reshape((rows, math.prod(x.shape[2:])), name="pool_squeeze")(x)
        logits = self._in_float32(KL.Dense, self.num_classes, "mrcnn_class_logits")(shared)
        probs = self._in_float32(KL.Activation, "softmax", "mrcnn_class")(logits)
        boxes = self.num_classes
        if self.class_agnostic:
            boxes = 1
        x = self._in_float32(KL.Dense, 4 * boxes, "mrcnn_bbox_fc")(shared)
        if self.class_agnostic:
            x = ops.tile(x, (1, 1, self.num_classes))
        deltas = KL.Reshape((rows, self.num_classes, 4), name="mrcnn_bbox", dtype="float32")(x)
        return logits, probs, deltas

    @staticmethod
    def _in_float32(kind, argument, name):
        return TimeDistributed(kind(argument, dtype="float32"), name=name, dtype="float32")


def fpn_classifier_graph(
    rois: Tensor,
    feature_maps: Sequence,
    image_meta: Tensor,
    pool_size: int,
    num_classes: int,
    train_bn: bool | None = True,
    fc_layers_size: int = 1024,
    **arguments: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """`BoxHead(..., **arguments)` applied once (matterport: fpn_classifier_graph)."""
    head = BoxHead(pool_size, num_classes, train_bn, fc_layers_size, **arguments)
    return head(rois, feature_maps, image_meta)


class MaskHead:
    """The layers of the mask branch, to be applied to several sets of RoIs.

    Four 3x3 convolutions, a transposed one that doubles the size, and a 1x1 to a sigmoid mask for
    each class: classes don't compete for a pixel, since the box head decides between them (paper,
    section 3: L_mask). The paper's ablations are arguments.

    Args:
        pool_size: side of the pooled features.
        num_classes: background included.
        train_bn: mode of batch norm where norm is None.
        channels, convs: width and number of the 3x3 convolutions.
        pooling: a `PyramidROIAlign`; None for the original's.
        norm: norm of the 3x3 convolutions.
        body: a model applied to the pooled features first (C4).
        mlp: (height, width) of the masks, predicted by two fully connected layers of mlp_size
            instead of convolutions; None for convolutions.
        softmax: classes and background, class 0, compete for each pixel.
        class_agnostic: predict one mask for all classes.
    """

    def __init__(
        self,
        pool_size: int,
        num_classes: int,
        train_bn: bool | None = True,
        channels: int = 256,
        *,
        pooling: PyramidROIAlign | None = None,
        norm: Norm | None = None,
        convs: int = 4,
        body: keras.Model | None = None,
        mlp: Sequence[int] | None = None,
        mlp_size: int = 1024,
        softmax: bool = False,
        class_agnostic: bool = False,
    ):
        self.num_classes = num_classes
        self.softmax = softmax
        self.class_agnostic = class_agnostic
        self.stages = [pooling or PyramidROIAlign([pool_size] * 2, name="roi_align_mask")]
        if body is not None:
            self.stages.append(body)
        if mlp:
            self.stages += self._fully_connected(mlp, mlp_size)
        else:
            norm = norm or Norm(train_bn=train_bn)
            self.stages += _convolutions("mrcnn_mask", convs, channels, norm)
            self.stages += self._upsampling(channels)

    @classmethod
    def of(cls, config: Config, body: keras.Model | None = None) -> "MaskHead":
        """Made with a Config's values; body: see `res5_head`."""
        side = config.MASK_POOL_SIZE
        mlp = None
        if config.MASK_HEAD == "mlp":
            mlp = tuple(config.MASK_SHAPE)
        return cls(
            side,
            config.NUM_CLASSES,
            config.TRAIN_BN,
            config.MASK_HEAD_CHANNELS,
            pooling=PyramidROIAlign.of(config, pool_shape=(side, side), name="roi_align_mask"),
            norm=Norm.of(config, config.MASK_HEAD_NORM),
            convs=config.MASK_HEAD_CONVS,
            body=body,
            mlp=mlp,
            mlp_size=config.MASK_MLP_SIZE,
            softmax=config.MASK_ACTIVATION == "softmax",
            class_agnostic=config.CLASS_AGNOSTIC_MASKS,
        )

    @property
    def activation(self) -> str:
        """The activation that makes probabilities: "softmax" or "sigmoid"."""
        if self.softmax:
            return "softmax"
        return "sigmoid"

    @property
    def outputs(self) -> int:
        """Number of masks that the last layer predicts for a RoI."""
        if not self.class_agnostic:
            return self.num_classes
        if self.softmax:
            return 2
        return 1

    def _fully_connected(self, shape, size):
        layers = [TimeDistributed(KL.Flatten())]
        for i in (1, 2):
            fc = KL.Dense(size, activation="relu")
            layers.append(TimeDistributed(fc, name=f"mrcnn_mask_fc{i}"))
        last = KL.Dense(math.prod(shape) * self.outputs)
        layers.append(TimeDistributed(last, name="mrcnn_mask_fc3"))
        layers.append(TimeDistributed(KL.Reshape((*shape, self.outputs))))
        layers.append(KL.Activation(self.activation, name="mrcnn_mask"))
        return layers

    def _upsampling(self, channels):
        doubling = KL.Conv2DTranspose(channels, 2, strides=2, activation="relu")
        last = KL.Conv2D(self.outputs, 1, activation=self.activation)
        return [
            TimeDistributed(doubling, name="mrcnn_mask_deconv"),
            TimeDistributed(last, name="mrcnn_mask"),
        ]

    def __call__(self, rois: Tensor, feature_maps: Sequence, image_meta: Tensor) -> Tensor:
        """Masks of rois [B, N, 4]: [B, N, 2 * pool_size, 2 * pool_size, num_classes]."""
        return self._of_classes(chain([rois, image_meta, *feature_maps], self.stages))

    def with_logits(
        self, rois: Tensor, feature_maps: Sequence, image_meta: Tensor, class_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Masks of rois [B, N, 4] as `__call__` returns them, and the logits for L_mask.

        Args:
            class_ids: [B, N] int32.

        Returns:
            masks; logits [B, N, h, w] of these classes, or with softmax [B, N, h, w, outputs].
        """
        last = self.stages[-1]
        features = chain([rois, image_meta, *feature_maps], self.stages[:-1])
        masks = self._of_classes(last(features))
        channels = ops.clip(class_ids, 0, self.outputs - 1)
        if isinstance(last, TimeDistributed):
            layer = MaskLogits(
                last, self.softmax, dtype=last.layer.dtype_policy, name="mrcnn_mask_logits"
            )
            logits = layer([features, channels])
        elif self.softmax:
            logits = features
        else:
            channels = channels[:, :, None, None, None]
            logits = ops.take_along_axis(features, channels, axis=-1)[..., 0]
        return masks, logits

    def _of_classes(self, masks):
        """The last layer's masks, [..., outputs], as one for each class, [..., classes]."""
        if not self.class_agnostic:
            return masks
        # All classes share a mask; with softmax, channel 0 is the background's.
        channels = [0] * self.num_classes
        if self.softmax:
            channels = [0] + [1] * (self.num_classes - 1)
        return ops.take(masks, ops.convert_to_tensor(channels, "int32"), axis=-1)


def build_fpn_mask_graph(
    rois: Tensor,
    feature_maps: Sequence,
    image_meta: Tensor,
    pool_size: int,
    num_classes: int,
    train_bn: bool | None = True,
    channels: int = 256,
) -> Tensor:
    """`MaskHead` applied once (matterport: build_fpn_mask_graph)."""
    return MaskHead(pool_size, num_classes, train_bn, channels)(rois, feature_maps, image_meta)


def res5_head(
    architecture: Any, depth: int, pool_size: int, strides: int, style: Style
) -> keras.Model:
    """The fifth stage of a ResNet as a model of RoIs [B, N, h, w, depth]: the head of C4."""
    pooled = KL.Input((None, pool_size, pool_size, depth), name="input_res5")
    style = dataclasses.replace(style, per_roi=True)
    features = resnet_stage(pooled, architecture, 5, strides, style)
    return keras.Model(pooled, features, name="res5_head")


class KeypointHead:
    """The layers of the keypoint branch, to be applied to several sets of RoIs (paper, section 5).

    3x3 convolutions, a transposed 4x4 one with a channel for each keypoint, and bilinear
    upsampling: logits over the positions of a map with four times the pooled size.

    Args:
        pool_size: side of the pooled features.
        num_keypoints: K, the number of keypoints.
        convs, channels: number and width of the 3x3 convolutions.
        pooling: a `PyramidROIAlign`; None for the original's.
    """

    def __init__(
        self,
        pool_size: int,
        num_keypoints: int,
        convs: int = 8,
        channels: int = 512,
        pooling: PyramidROIAlign | None = None,
    ):
        self.stages = [pooling or PyramidROIAlign([pool_size] * 2, name="roi_align_keypoint")]
        for i in range(1, convs + 1):
            conv = KL.Conv2D(
                channels, 3, padding="same", activation="relu", kernel_initializer="he_normal"
            )
            self.stages.append(TimeDistributed(conv, name=f"mrcnn_keypoint_conv{i}"))
        doubling = KL.Conv2DTranspose(num_keypoints, 4, strides=2, padding="same")
        self.stages.append(TimeDistributed(doubling, name="mrcnn_keypoint_deconv"))
        self.stages.append(UpscaleTwice(name="mrcnn_keypoint"))

    @classmethod
    def of(cls, config: Config) -> "KeypointHead":
        """Made with a Config's values."""
        side = config.KEYPOINT_POOL_SIZE
        return cls(
            side,
            config.NUM_KEYPOINTS,
            config.KEYPOINT_HEAD_CONVS,
            config.KEYPOINT_HEAD_CHANNELS,
            PyramidROIAlign.of(config, pool_shape=(side, side), name="roi_align_keypoint"),
        )

    def __call__(self, rois: Tensor, feature_maps: Sequence, image_meta: Tensor) -> Tensor:
        """Logits of rois [B, N, 4]: [B, N, 4 * pool_size, 4 * pool_size, num_keypoints]."""
        return chain([rois, image_meta, *feature_maps], self.stages)


@register
class UpscaleTwice(KL.Layer):
    """Doubles the sides of maps [B, N, h, w, K] by bilinear interpolation.

    Half-pixel centres, clamped edges.
    """

    def call(self, inputs: Any) -> Any:
        return self._doubled(self._doubled(inputs, 2), 3)

    @staticmethod
    def _doubled(x, axis):
        leading = (slice(None),) * axis
        first = x[(*leading, slice(0, 1))]
        last = x[(*leading, slice(-1, None))]
        before = ops.concatenate([first, x[(*leading, slice(0, -1))]], axis=axis)
        after = ops.concatenate([x[(*leading, slice(1, None))], last], axis=axis)
        pairs = ops.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis=axis + 1)
        shape = list(ops.shape(x))
        shape[axis] = 2 * shape[axis]
        return ops.reshape(pairs, shape)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (*input_shape[:2], *(2 * side for side in input_shape[2:4]), input_shape[4])


# ------------------------------------------------------------------------------------------------
#  Detections (paper, section 3.1: inference)
# ------------------------------------------------------------------------------------------------


@register
class DetectionLayer(ValuesLayer):
    """Detections from classified RoIs, by suppression per class (matterport: DetectionLayer).

    Args:
        config: a Config that gives the values below; without it they are arguments.
        max_instances: number of rows of the output.
        min_confidence: detections with a lower score are dropped.
        nms_threshold: IoU above which the detection with the lower score is suppressed.
        bbox_std_dev, log_size_limit: as in `ProposalLayer`.
        all_classes: a RoI may become a detection of every class with a sufficient score, not only
            of its best class.
        min_size: see DETECTION_MIN_SIZE.
        frame: BOX_FRAME.
        fused: see `mrcnn.ops`.

    Input: [rois [B, N, 4] normalised, probs [B, N, classes], deltas [B, N, classes, 4],
    image_meta], optionally followed by a mask of valid RoIs [B, N] bool.
    Output: [B, max_instances, (y1, x1, y2, x2, class_id, score)], boxes normalised, best first,
    zero rows at the end.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        max_instances: int = 100,
        min_confidence: float = 0.7,
        nms_threshold: float = 0.3,
        bbox_std_dev: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
        log_size_limit: float = math.log(1000 / 16),
        all_classes: bool = False,
        min_size: float = 0.0,
        frame: str = "centers",
        fused: bool | None = None,
        **kwargs: Any,
    ):
        values = {
            "max_instances": max_instances,
            "min_confidence": min_confidence,
            "nms_threshold": nms_threshold,
            "bbox_std_dev": [float(value) for value in bbox_std_dev],
            "log_size_limit": log_size_limit,
            "all_classes": all_classes,
            "min_size": float(min_size),
            "frame": frame,
            "fused": fused,
        }
        super().__init__(values, config, **kwargs)

    @classmethod
    def values_of(cls, config: Config) -> dict[str, Any]:
        min_confidence = config.DETECTION_MIN_CONFIDENCE
        if config_module.has_several_views(config) and config.TEST_BOX_VOTE is not None:
            min_confidence = min_confidence / 2  # the threshold applies to the mean over all views
        return {
            "max_instances": config.DETECTION_MAX_INSTANCES,
            "min_confidence": min_confidence,
            "nms_threshold": config.DETECTION_NMS_THRESHOLD,
            "bbox_std_dev": [float(value) for value in config.BBOX_STD_DEV],
            "log_size_limit": config.BBOX_LOG_SIZE_LIMIT,
            "all_classes": config.DETECTION_ALL_CLASSES,
            "min_size": float(config.DETECTION_MIN_SIZE),
            "frame": config.BOX_FRAME,
            "fused": config.takes_fused_kernels(),
        }

    def call(self, inputs: Any) -> Any:
        return self._suppressed(*self._candidates(inputs))[0]

    def stages(self, inputs: Sequence) -> dict[str, Tensor]:
        """The intermediate results from RoIs to detections.

        Returns:
            {"class_ids": [B, N] int32 and "scores": [B, N], the best class of each RoI;
            "refined_rois": [B, N, 4], with the deltas of that class applied, clipped; "detections":
            the layer's output; "kept": [B, max_instances] int32, the RoI of each detection}.
        """
        rois, probs, deltas, image_meta = inputs[:4]
        window, _ = self._window(image_meta)
        scores, class_ids, own_deltas = self._of_best_class(probs, deltas)
        boxes = self._refined(rois, own_deltas, window)
        detections, kept = self._suppressed(*self._candidates(inputs))
        return {
            "class_ids": class_ids[:, 0],
            "scores": scores[:, 0],
            "refined_rois": boxes[:, 0],
            "detections": detections,
            "kept": kept,
        }

    def refine(
        self,
        rois: Tensor,
        probs: Tensor,
        deltas: Tensor,
        window: Tensor,
        valid: Tensor | None = None,
        image_shape: Tensor | None = None,
    ) -> Tensor:
        """`call` with a given normalised window [B, 4], to which boxes are clipped."""
        rows, candidates = self._rows(rois, probs, deltas, window, valid, image_shape)
        return self._suppressed(rows, candidates)[0]

    def _window(self, image_meta):
        """The normalised window [B, 4], and the shape [B, 3] of the image."""
        meta = parse_image_meta_graph(image_meta)
        shape = meta["image_shape"]
        return norm_boxes_graph(meta["window"], shape[:, :2], self.frame), shape

    def _candidates(self, inputs):
        rois, probs, deltas, image_meta, *valid = inputs
        window, shape = self._window(image_meta)
        if not valid:
            valid = [None]
        return self._rows(rois, probs, deltas, window, valid[0], shape)

    def _rows(self, rois, probs, deltas, window, valid, image_shape):
        """Boxes, class ids and scores [B, C, N, 6], and a mask of candidates [B, C, N].

        C: number of foreground classes, or 1 for the best class.
        """
        if self.all_classes:
            scores, class_ids, deltas = self._of_all_classes(probs, deltas)
        else:
            scores, class_ids, deltas = self._of_best_class(probs, deltas)
        boxes = self._refined(rois, deltas, window)
        candidates = ops.logical_and(class_ids > 0, scores >= self.min_confidence)
        if valid is not None:
            candidates = ops.logical_and(candidates, valid[:, None])
        if self.min_size and image_shape is not None:
            size = image_shape[:, None, None, :2]
            large_enough = _has_min_sides(boxes, size, self.frame, self.min_size)
            candidates = ops.logical_and(candidates, large_enough)
        class_ids = ops.cast(class_ids, "float32")[..., None]
        return ops.concatenate([boxes, class_ids, scores[..., None]], axis=-1), candidates

    @staticmethod
    def _of_best_class(probs, deltas):
        """Scores, class ids [B, 1, N] and deltas [B, 1, N, 4] of each RoI's best class."""
        scores, class_ids = (ops.moveaxis(x, 2, 1) for x in kernels.top_k(probs, 1))
        class_ids = ops.cast(class_ids, "int32")
        deltas = ops.take_along_axis(deltas, class_ids[:, 0, :, None, None], axis=2)
        return scores, class_ids, ops.moveaxis(deltas, 2, 1)

    @staticmethod
    def _of_all_classes(probs, deltas):
        """Scores, class ids [B, C, N] and deltas [B, C, N, 4] of all foreground classes."""
        scores = ops.moveaxis(probs[:, :, 1:], 2, 1)
        deltas = ops.moveaxis(deltas[:, :, 1:], 2, 1)
        foreground_ids = 1 + ops.arange(ops.shape(scores)[1], dtype="int32")
        class_ids = ops.ones_like(scores, "int32") * foreground_ids[:, None]
        return scores, class_ids, deltas

    def _refined(self, rois, deltas, window):
        """RoIs [B, N, 4] with deltas [B, C, N, 4] applied, clipped to the window [B, 4]."""
        deltas = deltas * ops.convert_to_tensor(self.bbox_std_dev)
        boxes = apply_box_deltas_graph(rois[:, None], deltas, self.log_size_limit)
        return clip_boxes_graph(boxes, window[:, None, None])

    def _suppressed(self, rows, candidates):
        """Detections [B, max_instances, 6], and the index of each one's RoI."""
        if self.all_classes:
            return self._best_of_classes(rows, candidates)
        rows = rows[:, 0]
        kept, valid = kernels.non_max_suppression(
            rows[..., :4],
            rows[..., 5],
            self.max_instances,
            self.nms_threshold,
            candidates[:, 0],
            ops.cast(rows[..., 4], "int32"),
            self.fused,
        )
        return mask_rows(take_rows(rows, kept), valid), kept

    def _best_of_classes(self, rows, candidates):
        """`_suppressed` within each class, then the best of all classes."""
        batch, _, count, _ = ops.shape(rows)
        rows = ops.reshape(rows, (-1, count, 6))
        candidates = ops.reshape(candidates, (-1, count))
        kept, valid = kernels.non_max_suppression(
            rows[..., :4],
            rows[..., 5],
            self.max_instances,
            self.nms_threshold,
            candidates,
            fused=self.fused,
        )
        rows = ops.reshape(take_rows(rows, kept), (batch, -1, 6))
        kept = ops.reshape(kept, (batch, -1))
        valid = ops.reshape(valid, (batch, -1))
        # Sorted by RoI, so that ties in score go to the RoI with the lower index.
        order = ops.argsort(kept, axis=1)
        rows = take_rows(rows, order)
        kept = ops.take_along_axis(kept, order, axis=1)
        valid = ops.take_along_axis(valid, order, axis=1)
        missing = 0
        if rows.shape[1]:
            missing = max(0, self.max_instances - rows.shape[1])
        scores = ops.where(valid, rows[..., 5], -1.0)
        scores, best = kernels.top_k(scores, self.max_instances - missing)
        best = ops.pad(best, [[0, 0], [0, missing]])
        scores = ops.pad(scores, [[0, 0], [0, missing]], constant_values=-1.0)
        return mask_rows(take_rows(rows, best), scores >= 0), take_rows(kept, best)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0][0], self.max_instances, 6)


def refine_detections_graph(
    rois: Tensor, probs: Tensor, deltas: Tensor, window: Tensor, config: Config
) -> Tensor:
    """`DetectionLayer.refine` for one image, without the batch axis.

    (matterport: refine_detections_graph)
    """
    inputs = [ops.convert_to_tensor(x)[None] for x in (rois, probs, deltas, window)]
    return DetectionLayer.of(config).refine(*inputs)[0]


# ------------------------------------------------------------------------------------------------
#  Training targets (paper, section 3.1: training)
# ------------------------------------------------------------------------------------------------


@register
class DetectionTargetLayer(ValuesLayer):
    """Samples RoIs and their class, box and mask targets (matterport: DetectionTargetLayer).

    A RoI is positive with an IoU >= positive_iou to an object, negative with less to every object
    and less than crowd_iou to every crowd. At most int(rois_per_image * positive_ratio) positives
    are sampled, with int(P / positive_ratio) - P negatives for P sampled positives; for none, as
    many as leave the quota of positives free. With `fill`, negatives take all remaining rows.
    Crowds (class id < 0) are never targets.

    Args:
        config: a Config that gives the values below; without it they are arguments.
        rois_per_image: number of rows of the output.
        positive_ratio: share of positives; .25 is the paper's 1:3.
        mask_shape: (height, width) of mask targets, or None for no masks.
        mini_mask: whether masks are cropped to the objects' boxes.
        positive_iou, crowd_iou: see ROI_POSITIVE_IOU and CROWD_IOU.
        bbox_std_dev: deltas are divided by these.
        fill, add_objects: see ROI_FILL_NEGATIVES, ROI_ADD_GT.
        seed: seed of the sampling; None for another one in every run.
        fused: see `mrcnn.ops`.
        return_objects: also return the index of each RoI's object, [B, R] int32, -1 for none.

    Input: [proposals [B, P, 4] normalised, class_ids [B, G] int, boxes [B, G, 4] normalised,
    masks [B, h, w, G] (left out with mask_shape None)], optionally followed by a mask of valid
    proposals [B, P] bool; without it, those that are not zero rows are valid. Objects with class
    id 0 are padding.

    Output: rois [B, R, 4], class_ids [B, R] int32, deltas [B, R, 4] and masks [B, R, h, w] of 0 and
    1; positives first, then negatives, then zero rows.
    """

    mask_shape: Any

    def __init__(
        self,
        config: Config | None = None,
        *,
        rois_per_image: int = 200,
        positive_ratio: float = 0.33,
        mask_shape: Sequence[int] | None = (28, 28),
        mini_mask: bool = True,
        positive_iou: float = 0.5,
        crowd_iou: float = 0.001,
        bbox_std_dev: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
        fill: bool = False,
        add_objects: bool = False,
        seed: int | None = None,
        fused: bool | None = None,
        return_objects: bool = False,
        **kwargs: Any,
    ):
        values = {
            "rois_per_image": rois_per_image,
            "positive_ratio": float(positive_ratio),
            "mask_shape": mask_shape,
            "mini_mask": mini_mask,
            "positive_iou": positive_iou,
            "crowd_iou": crowd_iou,
            "bbox_std_dev": [float(value) for value in bbox_std_dev],
            "fill": fill,
            "add_objects": add_objects,
            "seed": seed,
            "fused": fused,
            "return_objects": return_objects,
        }
        super().__init__(values, config, **kwargs)
        if self.mask_shape is not None:
            self.mask_shape = tuple(int(side) for side in self.mask_shape)
        self.random = keras.random.SeedGenerator(self.seed)

    @classmethod
    def values_of(cls, config: Config) -> dict[str, Any]:
        mask_shape = None
        if config.USE_MASK:
            mask_shape = config.MASK_SHAPE
        return {
            "rois_per_image": config.TRAIN_ROIS_PER_IMAGE,
            "positive_ratio": float(config.ROI_POSITIVE_RATIO),
            "mask_shape": mask_shape,
            "mini_mask": config.USE_MINI_MASK,
            "positive_iou": config.ROI_POSITIVE_IOU,
            "crowd_iou": config.CROWD_IOU,
            "bbox_std_dev": [float(value) for value in config.BBOX_STD_DEV],
            "fill": config.ROI_FILL_NEGATIVES,
            "add_objects": config.ROI_ADD_GT,
            "seed": config.SEED,
            "fused": config.takes_fused_kernels(),
        }

    @property
    def positive_rows(self) -> int:
        """Number of leading rows that may hold a positive RoI."""
        return int(self.rois_per_image * self.positive_ratio)

    def call(self, inputs: Any) -> Any:
        inputs = [ops.stop_gradient(ops.convert_to_tensor(x)) for x in inputs]
        masks = None
        if self.mask_shape:
            masks = inputs.pop(3)
        proposals, class_ids, boxes = inputs[:3]
        if len(inputs) > 3:
            valid = inputs[3]
        else:
            valid = ops.any(proposals != 0, axis=-1)
        if self.add_objects:
            proposals = ops.concatenate([proposals, boxes], axis=1)
            valid = ops.concatenate([valid, class_ids > 0], axis=1)
        positive, negative, objects = self._label(proposals, valid, class_ids, boxes)
        rows, is_positive, is_negative = self._draw(positive, negative)

        is_drawn = ops.logical_or(is_positive, is_negative)
        rois = mask_rows(take_rows(proposals, rows), is_drawn)
        objects = ops.cast(take_rows(objects, rows), "int32")  # [B, R]
        target_ids = ops.cast(take_rows(class_ids, objects), "int32")
        outputs = [rois, mask_rows(target_ids, is_positive)]
        # Rows without a target use a unit box, which avoids a logarithm of 0.
        unit = ops.convert_to_tensor([0.0, 0.0, 1.0, 1.0])
        object_boxes = take_rows(boxes, objects)
        sources = ops.where(is_positive[..., None], rois, unit)
        targets = ops.where(is_positive[..., None], object_boxes, unit)
        deltas = utils.box_refinement_graph(sources, targets)
        deltas = deltas / ops.convert_to_tensor(self.bbox_std_dev)
        outputs.append(mask_rows(deltas, is_positive))
        if masks is not None:
            count = self.positive_rows
            target_masks = self._mask_targets(
                masks, sources[:, :count], object_boxes[:, :count], objects[:, :count]
            )
            target_masks = mask_rows(target_masks, is_positive[:, :count])
            rest = self.rois_per_image - count
            outputs.append(ops.pad(target_masks, [[0, 0], [0, rest], [0, 0], [0, 0]]))
        if self.return_objects:
            outputs.append(ops.where(is_positive, objects, -1))
        return tuple(outputs)

    def _label(self, proposals, valid, class_ids, boxes):
        """Masks of positive and negative proposals, and their best objects' indices, all [B, P]."""
        iou = kernels.overlaps(proposals, boxes)  # [B, P, G]
        object_iou = ops.where(class_ids[:, None] > 0, iou, 0.0)
        best_iou, objects = (x[..., 0] for x in kernels.top_k(object_iou, 1))
        crowd_iou = ops.max(ops.where(class_ids[:, None] < 0, iou, 0.0), axis=-1)
        positive = ops.logical_and(valid, best_iou >= self.positive_iou)
        negative = ops.logical_and(valid, best_iou < self.positive_iou)
        negative = ops.logical_and(negative, crowd_iou < self.crowd_iou)
        return positive, negative, objects

    def _draw(self, positive, negative):
        """Random rows [B, R], positives first, with masks of positives and negatives [B, R]."""
        quota = self.positive_rows
        size = self.rois_per_image
        missing = kernels.shortfall(size, ops.shape(positive)[1])  # fewer proposals than rows
        positive = ops.pad(positive, [[0, 0], [0, missing]])
        negative = ops.pad(negative, [[0, 0], [0, missing]])
        # The rows of the highest random priority are sampled; those of priority -1 never are.
        priority = kernels.uniform(ops.shape(positive), self.random)
        positive_priority, positive_rows = kernels.top_k(ops.where(positive, priority, -1.0), size)
        negative_priority, negative_rows = kernels.top_k(ops.where(negative, priority, -1.0), size)
        rank = ops.arange(size, dtype="int32")[None]
        is_positive = ops.logical_and(positive_priority >= 0, rank < quota)
        drawn = ops.sum(ops.cast(is_positive, "int32"), axis=1, keepdims=True)
        negative_quota = self._negatives_for(drawn)
        is_negative = ops.logical_and(negative_priority >= 0, rank < negative_quota)
        # Positives, then negatives, then the rest; top_k is stable.
        flags = [2 * ops.cast(is_positive, "int32"), ops.cast(is_negative, "int32")]
        flags, order = kernels.top_k(ops.concatenate(flags, axis=1), size)
        rows = take_rows(ops.concatenate([positive_rows, negative_rows], axis=1), order)
        return ops.where(flags > 0, rows, 0), flags == 2, flags == 1

    def _negatives_for(self, positives):
        """Number of negatives to sample for a number of positives, [B, 1] int32."""
        if self.fill:
            return self.rois_per_image - positives
        total = (1.0 / self.positive_ratio) * ops.cast(positives, "float32")
        without_positives = self.rois_per_image - self.positive_rows
        return ops.where(positives > 0, ops.cast(total, "int32") - positives, without_positives)

    def _mask_targets(self, masks, rois, boxes, objects):
        """The objects' masks inside the RoIs: [B, h, w, G] -> [B, P, *mask_shape] of 0. and 1."""
        batch, height, width, per_image = ops.shape(masks)
        count = ops.shape(rois)[1]
        if self.mini_mask:
            # Masks of whole images are cast only below, once transposed: a fourth of the memory.
            masks = ops.cast(masks, "float32")
            rois = self._in_boxes(rois, boxes)
        images = ops.reshape(ops.transpose(masks, (0, 3, 1, 2)), (-1, height, width, 1))
        indices = objects + per_image * ops.arange(batch, dtype="int32")[:, None]
        crops = kernels.crop_and_resize(
            ops.cast(images, "float32"),
            ops.reshape(rois, (-1, 4)),
            ops.reshape(indices, (-1,)),
            self.mask_shape,
            self.fused,
        )
        return ops.round(ops.reshape(crops, (batch, count, *self.mask_shape)))

    @staticmethod
    def _in_boxes(rois, boxes):
        """RoIs in the frame of the object's box, which its mini-mask covers."""
        origin = ops.concatenate([boxes[..., :2], boxes[..., :2]], axis=-1)
        size = boxes[..., 2:] - boxes[..., :2]
        size = ops.where(size > 0, size, 1.0)
        return (rois - origin) / ops.concatenate([size, size], axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        batch = input_shape[0][0]
        rows = self.rois_per_image
        shapes = [(batch, rows, 4), (batch, rows), (batch, rows, 4)]
        if self.mask_shape:
            shapes.append((batch, rows, *self.mask_shape))
        if self.return_objects:
            shapes.append((batch, rows))
        return shapes

    def compute_output_spec(self, inputs: Any) -> Any:
        specs = []
        for shape in self.compute_output_shape([x.shape for x in inputs]):
            dtype = "float32"
            if len(shape) == 2:
                dtype = "int32"
            specs.append(keras.KerasTensor(shape, dtype))
        return tuple(specs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return [None] * (3 + bool(self.mask_shape) + self.return_objects)


def detection_targets_graph(
    proposals: Tensor, gt_class_ids: Tensor, gt_boxes: Tensor, gt_masks: Tensor, config: Config
) -> list:
    """`DetectionTargetLayer` for one image, without the batch axis.

    (matterport: detection_targets_graph)
    """
    inputs = (proposals, gt_class_ids, gt_boxes, gt_masks)
    outputs = DetectionTargetLayer.of(config)([ops.convert_to_tensor(x)[None] for x in inputs])
    return [x[0] for x in outputs]


@register
class KeypointTargets(ValuesLayer):
    """The position of each keypoint in the map of its RoI (paper, section 5: the one-hot target).

    Args:
        side: side of the square map, in cells.
        frame: BOX_FRAME.

    Input: [rois [B, R, 4] normalised, objects [B, R] int32 of `DetectionTargetLayer`, keypoints
    [B, G, K, (y, x, visibility)] in pixels, image [B, H, W, C]].
    Output: [B, R, K] int32, row * side + column; -1 without a target: no object, or a keypoint
    that is not labelled (visibility 0) or lies outside the RoI.
    """

    def __init__(self, side: int, frame: str = "centers", **kwargs: Any):
        super().__init__({"side": side, "frame": frame}, **kwargs)

    def call(self, inputs: Any) -> Any:
        rois, objects, points, image = (ops.stop_gradient(ops.convert_to_tensor(x)) for x in inputs)
        rois = denorm_boxes_graph(rois, image_size(image), self.frame, whole=False)
        low = rois[:, :, None, :2]  # [B, R, 1, 2]
        high = rois[:, :, None, 2:]
        points = ops.cast(take_rows(points, ops.maximum(objects, 0)), "float32")
        positions = points[..., :2]
        cells = ops.floor((positions - low) * (self.side / ops.maximum(high - low, 1e-6)))
        # A point on the RoI's lower or right edge belongs to its last cell.
        cells = ops.cast(ops.where(positions == high, self.side - 1.0, cells), "int32")
        inside = ops.all(ops.logical_and(cells >= 0, cells < self.side), axis=-1)
        labelled = ops.logical_and(points[..., 2] > 0, objects[..., None] >= 0)
        has_target = ops.logical_and(inside, labelled)
        return ops.where(has_target, cells[..., 0] * self.side + cells[..., 1], -1)

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor((*inputs[0].shape[:2], inputs[2].shape[2]), "int32")


# ------------------------------------------------------------------------------------------------
#  Losses (paper, section 3: L = L_cls + L_box + L_mask, the RPN's two, and section 5 for keypoints)
# ------------------------------------------------------------------------------------------------


# Each is one mean over the rows that count in the whole batch, and 0 without any.


def _mean_where(values, keep):
    """Mean of values [..., K] over the rows of the mask keep [...] and over K; 0 without rows."""
    keep = ops.cast(keep, values.dtype)
    per_row = 1
    if len(values.shape) > len(keep.shape):
        per_row = values.shape[-1]
    if per_row != 1:
        values = ops.sum(values, axis=-1)
    return ops.sum(values * keep) / ops.maximum(ops.sum(keep) * per_row, 1.0)


def smooth_l1_loss(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Smooth L1 of each element, any shape (matterport: smooth_l1_loss)."""
    distance = ops.abs(y_true - y_pred)
    return ops.where(distance < 1.0, 0.5 * distance**2, distance - 0.5)


# Keeps exp in the GIoU from overflowing. It is higher than BBOX_LOG_SIZE_LIMIT, since sizes beyond
# a bound have no gradient.
GIOU_LOG_SIZE_LIMIT = 20.0


def giou_loss(y_true: Tensor, y_pred: Tensor, std_dev: Sequence[float]) -> Tensor:
    """1 - generalised IoU of the boxes that deltas encode: 0 for equal boxes, up to 2 far apart.

    GIoU is invariant where both boxes are translated and scaled alike, so deltas are decoded from a
    unit square, without the RoI or anchor that they belong to.

    Args:
        y_true, y_pred: [..., (dy, dx, log dh, log dw)], divided by std_dev.
        std_dev: four numbers, see BBOX_STD_DEV.

    Returns:
        [...]: one value for each box.
    """
    unit = ops.convert_to_tensor([0.0, 0.0, 1.0, 1.0])
    std_dev = ops.convert_to_tensor(list(std_dev), "float32")
    boxes = []
    for deltas in (y_true, y_pred):
        deltas = ops.cast(deltas, "float32") * std_dev
        boxes.append(box_math.apply_deltas(unit, deltas, ops, GIOU_LOG_SIZE_LIMIT))
    return 1.0 - box_math.generalized_iou(boxes[0], boxes[1], ops)


def _cross_entropy(class_ids, logits):
    """class_ids: [...] int, logits: [..., classes]. Returns [...]."""
    symbolic = any(isinstance(tensor, keras.KerasTensor) for tensor in (class_ids, logits))
    if keras.backend.backend() == "tensorflow" and not symbolic:
        return _fused_cross_entropy(class_ids, logits)
    return -ops.take_along_axis(ops.log_softmax(logits, axis=-1), class_ids[..., None], axis=-1)[
        ..., 0
    ]


def _fused_cross_entropy(class_ids, logits):
    """`_cross_entropy` by one kernel that also computes the gradient. TensorFlow only."""
    import tensorflow as tf

    # The kernel is undefined for ids below 0; callers leave out the losses of these rows.
    class_ids = tf.maximum(tf.convert_to_tensor(class_ids), 0)
    logits = tf.convert_to_tensor(logits)
    losses, _ = tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(
        features=tf.reshape(logits, (-1, logits.shape[-1])), labels=tf.reshape(class_ids, (-1,))
    )
    return tf.reshape(losses, tf.shape(class_ids))


def rpn_class_loss_graph(rpn_match: Tensor, rpn_class_logits: Tensor) -> Tensor:
    """Cross-entropy of objectness of the sampled anchors (matterport: rpn_class_loss_graph).

    Args:
        rpn_match: [B, A, 1] int: 1 positive, -1 negative, 0 neutral.
        rpn_class_logits: [B, A, 2].
    """
    match = rpn_match[..., 0]
    loss = _cross_entropy(ops.cast(match == 1, "int32"), rpn_class_logits)
    return _mean_where(loss, match != 0)


def rpn_bbox_loss_graph(
    config: Config | None,
    target_bbox: Tensor,
    rpn_match: Tensor,
    rpn_bbox: Tensor,
    distance: Callable = smooth_l1_loss,
) -> Tensor:
    """Smooth L1 of the positive anchors' deltas (matterport: rpn_bbox_loss_graph).

    Args:
        config: not used; kept for compatibility.
        target_bbox: [B, n, 4], the deltas of the positive anchors in the order of the anchors.
        rpn_match: [B, A, 1].
        rpn_bbox: [B, A, 4].
        distance: f(targets [..., 4], predictions [..., 4]) -> loss [..., 4] or [...].
    """
    positive = rpn_match[..., 0] == 1
    position = ops.cumsum(ops.cast(positive, "int32"), axis=1) - 1
    position = ops.clip(position, 0, ops.shape(target_bbox)[1] - 1)
    return _mean_where(distance(take_rows(target_bbox, position), rpn_bbox), positive)


def mrcnn_class_loss_graph(
    target_class_ids: Tensor,
    pred_class_logits: Tensor,
    active_class_ids: Tensor,
    valid: Tensor | None = None,
) -> Tensor:
    """L_cls: cross-entropy of the RoIs (matterport: mrcnn_class_loss_graph).

    RoIs whose predicted class is not labelled in their image's source are left out.

    Args:
        target_class_ids: [B, N] int, padding rows are 0.
        pred_class_logits: [B, N, classes].
        active_class_ids: [B, classes], 1 for the classes of an image's source, otherwise 0.
        valid: [B, N] bool, mask of the rows that count; None for all, including padding.
    """
    predicted = ops.cast(kernels.top_k(pred_class_logits, 1)[1][..., 0], "int32")
    keep = take_rows(ops.convert_to_tensor(active_class_ids), predicted) > 0
    if valid is not None:
        keep = ops.logical_and(keep, valid)
    return _mean_where(_cross_entropy(ops.cast(target_class_ids, "int32"), pred_class_logits), keep)


def mrcnn_bbox_loss_graph(
    target_bbox: Tensor,
    target_class_ids: Tensor,
    pred_bbox: Tensor,
    distance: Callable = smooth_l1_loss,
) -> Tensor:
    """L_box: smooth L1 of the positive RoIs' deltas for their target class.

    (matterport: mrcnn_bbox_loss_graph)

    Args:
        target_bbox: [B, N, 4].
        target_class_ids: [B, N] int.
        pred_bbox: [B, N, classes, 4].
        distance: f(targets [B, N, 4], predictions [B, N, 4]) -> loss [B, N, 4] or [B, N].
    """
    class_ids = ops.cast(target_class_ids, "int32")
    pred = kernels.pick(ops.convert_to_tensor(pred_bbox), ops.maximum(class_ids, 0))
    return _mean_where(distance(target_bbox, pred), class_ids > 0)


def mrcnn_mask_loss_graph(
    target_masks: Tensor, target_class_ids: Tensor, pred_masks: Tensor, softmax: bool = False
) -> Tensor:
    """L_mask: mean binary cross-entropy of the positive RoIs' masks for their target class.

    (matterport: mrcnn_mask_loss_graph)

    Args:
        target_masks: [B, N, h, w] of 0 and 1.
        target_class_ids: [B, N] int.
        pred_masks: [B, N, h, w, classes], probabilities.
        softmax: multinomial loss: probabilities of a pixel add up to 1, and outside the object the
            target is the background, class 0.
    """
    classes = pred_masks.shape[-1]
    batch, rows_of_image, height, width = ops.shape(pred_masks)[:4]
    class_ids = ops.cast(ops.reshape(target_class_ids, (-1,)), "int32")
    by_class = ops.reshape(pred_masks, (batch * rows_of_image, height, width, classes))
    by_class = ops.reshape(ops.transpose(by_class, (0, 3, 1, 2)), (-1, height * width))
    first_mask = ops.arange(ops.shape(class_ids)[0], dtype="int32") * classes
    epsilon = 1e-7

    def probability(rows):
        pred = ops.cast(ops.take(by_class, rows, axis=0), "float32")
        return ops.clip(pred, epsilon, 1.0 - epsilon)

    foreground = probability(first_mask + ops.maximum(class_ids, 0))
    background = 1.0 - foreground
    if softmax:
        background = probability(first_mask)
    target = ops.cast(ops.reshape(target_masks, (-1, height * width)), "float32")
    loss = -target * ops.log(foreground + epsilon)
    loss = loss - (1.0 - target) * ops.log(background + epsilon)
    return _mean_where(ops.mean(loss, axis=-1), class_ids > 0)


def mask_logits_loss_graph(
    target_masks: Tensor, target_class_ids: Tensor, logits: Tensor, softmax: bool = False
) -> Tensor:
    """L_mask from logits, with gradients also where probabilities saturate at 0 or 1.

    Otherwise the same as `mrcnn_mask_loss_graph`, which clips probabilities to [1e-7, 1 - 1e-7].

    Args:
        target_masks: [B, N, h, w] of 0 and 1.
        target_class_ids: [B, N] int.
        logits: [B, N, h, w] of each RoI's class; with softmax [B, N, h, w, classes], or
            [B, N, h, w, 2] for background and a foreground mask that all classes share.
        softmax: multinomial loss: outside the object the target is the background, class 0.
    """
    target = ops.cast(target_masks, "float32")
    logits = ops.cast(logits, "float32")
    if softmax:
        class_ids = ops.clip(ops.cast(target_class_ids, "int32"), 0, logits.shape[-1] - 1)
        pixel_classes = ops.where(target > 0.5, class_ids[..., None, None], 0)
        loss = _cross_entropy(pixel_classes, logits)
    else:
        loss = ops.binary_crossentropy(target, logits, from_logits=True)
    return _mean_where(ops.mean(loss, axis=(-2, -1)), target_class_ids > 0)


def mrcnn_keypoint_loss_graph(
    target_keypoints: Tensor, target_class_ids: Tensor, pred_keypoints: Tensor
) -> Tensor:
    """Cross-entropy over the positions of each labelled keypoint's map, mean over the batch.

    Args:
        target_keypoints: [B, N, K] int, output of `KeypointTargets`; values below 0 are left out.
        target_class_ids: [B, N] int.
        pred_keypoints: [B, N, h, w, K] logits.
    """
    shape = ops.shape(pred_keypoints)
    logits = ops.reshape(
        pred_keypoints, (*shape[:2], pred_keypoints.shape[2] * pred_keypoints.shape[3], shape[4])
    )
    logits = ops.cast(ops.transpose(logits, (0, 1, 3, 2)), "float32")
    keep = ops.logical_and(target_keypoints >= 0, target_class_ids[..., None] > 0)
    return _mean_where(_cross_entropy(ops.maximum(target_keypoints, 0), logits), keep)


@register
class LossLayer(KL.Layer):
    """A loss as a layer of the graph, so that it is a named output.

    Args:
        name: key of the loss in FUNCTIONS.
        softmax_masks: `softmax` of `mrcnn_mask_loss_graph`.
        giou_std_dev: for a box loss, `std_dev` of `giou_loss`, which replaces smooth L1; None for
            smooth L1.
        mask_logits: compute "mrcnn_mask_loss" from logits, by `mask_logits_loss_graph`.

    Input: the arguments of that function, in order. Output: a scalar, float32.
    """

    FUNCTIONS: dict[str, Callable] = {
        "rpn_class_loss": rpn_class_loss_graph,
        "rpn_bbox_loss": rpn_bbox_loss_graph,
        "mrcnn_class_loss": mrcnn_class_loss_graph,
        "mrcnn_bbox_loss": mrcnn_bbox_loss_graph,
        "mrcnn_mask_loss": mrcnn_mask_loss_graph,
        "mrcnn_keypoint_loss": mrcnn_keypoint_loss_graph,
    }

    def __init__(
        self,
        name: str,
        softmax_masks: bool = False,
        giou_std_dev: Sequence[float] | None = None,
        mask_logits: bool = False,
        **kwargs: Any,
    ):
        if name not in self.FUNCTIONS:
            raise ValueError(f"name is one of {', '.join(self.FUNCTIONS)}. Received: {name!r}")
        kwargs.setdefault("dtype", "float32")
        super().__init__(name=name, **kwargs)
        self.softmax_masks = softmax_masks
        self.mask_logits = mask_logits
        self.giou_std_dev = giou_std_dev
        if giou_std_dev is not None:
            self.giou_std_dev = [float(value) for value in giou_std_dev]

    def call(self, inputs: Any) -> Any:
        function = self.FUNCTIONS[self.name]
        options: dict[str, Any] = {}
        if self.giou_std_dev is not None:
            options["distance"] = functools.partial(giou_loss, std_dev=self.giou_std_dev)
        if self.name == "rpn_bbox_loss":
            return function(None, *inputs, **options)
        if self.name == "mrcnn_mask_loss":
            options["softmax"] = self.softmax_masks
            if self.mask_logits:
                function = mask_logits_loss_graph
        return function(*inputs, **options)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return ()

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "softmax_masks": self.softmax_masks,
            "giou_std_dev": self.giou_std_dev,
            "mask_logits": self.mask_logits,
        }


# ------------------------------------------------------------------------------------------------
#  The graphs
# ------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Body:
    """Outputs of backbone, pyramid and RPN.

    Attributes:
        pyramid: [P2..P6], or [C4].
        rpn_model: see `build_rpn_model`.
        rpn_logits, rpn_probs, rpn_bbox: its outputs, concatenated over all levels.
    """

    pyramid: list
    rpn_model: keras.Model
    rpn_logits: Tensor
    rpn_probs: Tensor
    rpn_bbox: Tensor

    @property
    def maps(self) -> list:
        """The maps that the heads read: [P2..P5], or [C4]."""
        return self.pyramid[:4]


def body_graph(image: Tensor, config: Config) -> Body:
    """Backbone, pyramid and RPN of images [B, H, W, C]."""
    if callable(config.BACKBONE):
        maps = config.BACKBONE(image, stage5=True, train_bn=config.TRAIN_BN)
    else:
        stage5 = config.BODY == "fpn"
        maps = resnet_graph(image, config.BACKBONE, stage5, style=Style.of(config))
    if config.BODY == "fpn":
        norm = Norm.of(config, config.FPN_NORM)
        pyramid = fpn_graph(maps[-4:], config.TOP_DOWN_PYRAMID_SIZE, norm)
    else:
        pyramid = [maps[3]]
    rpn_model = build_rpn_model(
        config.RPN_ANCHOR_STRIDE,
        _anchors_per_cell(config),
        pyramid[0].shape[-1],
        config.RPN_CHANNELS,
        config.RPN_CONVS,
        config.RPN_SCORE,
    )
    logits, probs, bbox = zip(*[rpn_model(level) for level in pyramid])
    return Body(
        pyramid=pyramid,
        rpn_model=rpn_model,
        rpn_logits=_joined_levels(logits, "rpn_class_logits"),
        rpn_probs=_joined_levels(probs, "rpn_class"),
        rpn_bbox=_joined_levels(bbox, "rpn_bbox"),
    )


def _joined_levels(levels, name):
    """An output of the RPN, concatenated over levels to [B, A, ...] by a layer of that name."""
    if len(levels) == 1:
        return KL.Identity(name=name, dtype="float32")(levels[0])
    return KL.Concatenate(axis=1, name=name, dtype="float32")(list(levels))


def proposals_graph(
    config: Config, count: int, limit: int | None, body: Body, anchors: Tensor, meta: Tensor
) -> tuple[Tensor, Tensor]:
    """Proposals [B, count, 4], and a mask of the rows that are not padding [B, count].

    Args:
        limit: number of anchors before suppression; None for the config's PRE_NMS_LIMIT.
    """
    layer = ProposalLayer.of(
        config,
        proposal_count=count,
        nms_threshold=config.RPN_NMS_THRESHOLD,
        pre_nms_limit=limit or config.PRE_NMS_LIMIT,
        return_valid=True,
        name="ROI",
    )
    scores = body.rpn_probs
    if layer.sigmoid:
        scores = body.rpn_logits
    inputs = [scores, body.rpn_bbox, anchors]
    if layer.limit_per_level or layer.min_size or layer.clip_to_window:
        inputs += [meta, *body.pyramid]
    return layer(inputs)


@dataclasses.dataclass
class Heads:
    """The heads of a configuration, called as head(rois, maps, meta); None for an unused one."""

    box: BoxHead
    mask: MaskHead | None
    keypoint: KeypointHead | None

    @classmethod
    def of(cls, config: Config, depth: int) -> "Heads":
        """Made with a Config's values; depth: number of channels of the feature maps."""
        body = None
        if config.BODY == "c4":
            body = res5_head(
                config.BACKBONE, depth, config.POOL_SIZE, config.C4_HEAD_STRIDE, Style.of(config)
            )
        mask = None
        if config.USE_MASK:
            mask = MaskHead.of(config, body)
        keypoint = None
        if config.USE_KEYPOINTS:
            keypoint = KeypointHead.of(config)
        # Last: initial weights depend on the order in which layers are made, and the measured runs
        # were trained with this one.
        box = BoxHead.of(config, body)
        return cls(box, mask, keypoint)


def training_inputs(config: Config) -> dict[str, Tensor]:
    """The inputs of the training graph by name, in the order of `data.TrainingBatches.batch`."""
    inputs = {
        "input_image": KL.Input((None, None, config.IMAGE_CHANNEL_COUNT), name="input_image"),
        "input_image_meta": KL.Input((config.IMAGE_META_SIZE,), name="input_image_meta"),
        "input_rpn_match": KL.Input((None, 1), name="input_rpn_match", dtype="int32"),
        "input_rpn_bbox": KL.Input((None, 4), name="input_rpn_bbox"),
        "input_gt_class_ids": KL.Input((None,), name="input_gt_class_ids", dtype="int32"),
        "input_gt_boxes": KL.Input((None, 4), name="input_gt_boxes"),
    }
    if config.USE_MASK:
        shape: tuple = (None, None, None)
        if config.USE_MINI_MASK:
            shape = (*config.MINI_MASK_SHAPE, None)
        # uint8: a bool tensor can't be split over devices.
        inputs["input_gt_masks"] = KL.Input(shape, name="input_gt_masks", dtype="uint8")
    if config.USE_KEYPOINTS:
        shape = (None, config.NUM_KEYPOINTS, 3)
        inputs["input_gt_keypoints"] = KL.Input(shape, name="input_gt_keypoints")
    if not config.USE_RPN_ROIS:
        inputs["input_roi"] = KL.Input((None, 4), name="input_roi")
    return inputs


@dataclasses.dataclass
class Targets:
    """The RoIs that train the heads and their targets, see `DetectionTargetLayer`.

    Attributes:
        positive_rows: number of leading rows that may hold a positive RoI.
        masks: None without USE_MASK.
        objects: None without USE_KEYPOINTS.
    """

    rois: Tensor
    class_ids: Tensor
    bbox: Tensor
    masks: Tensor
    objects: Tensor
    positive_rows: int


def targets_graph(
    config: Config, inputs: dict[str, Tensor], proposals: Tensor, valid: Tensor
) -> Targets:
    """RoIs drawn from the proposals, with their targets.

    Args:
        config: the `Config`.
        inputs: {name: tensor} of the training inputs.
        proposals: [B, N, 4] normalised.
        valid: [B, N] bool, mask of the rows that are proposals.
    """
    image = inputs["input_image"]
    if not config.USE_RPN_ROIS:
        normalize_rois = NormalizeBoxes(
            return_valid=True, frame=config.BOX_FRAME, name="input_rois"
        )
        proposals, valid = normalize_rois([inputs["input_roi"], image])
    normalize = NormalizeBoxes(min_pixels=1, frame=config.BOX_FRAME, name="gt_boxes")
    truth = [inputs["input_gt_class_ids"], normalize([inputs["input_gt_boxes"], image])]
    if config.USE_MASK:
        truth.append(inputs["input_gt_masks"])
    layer = DetectionTargetLayer.of(
        config, return_objects=config.USE_KEYPOINTS, name="proposal_targets"
    )
    rois, class_ids, bbox, *others = layer([proposals, *truth, valid])
    masks = objects = None
    if config.USE_MASK:
        masks = others.pop(0)
    if config.USE_KEYPOINTS:
        objects = others.pop(0)
    return Targets(rois, class_ids, bbox, masks, objects, layer.positive_rows)


def rpn_losses(config: Config, inputs: dict[str, Tensor], body: Body) -> dict[str, Tensor]:
    """The RPN's two losses by name."""
    match = inputs["input_rpn_match"]
    logits = body.rpn_logits
    bbox = body.rpn_bbox
    head_settings = (config.RPN_ANCHOR_STRIDE, config.RPN_CONVS, config.RPN_SCORE)
    if head_settings == (1, 1, "softmax"):  # the original's, all that SampledRPN can rebuild
        count = config.RPN_TRAIN_ANCHORS_PER_IMAGE
        sampled = SampledRPN(body.rpn_model, count, name="sampled_anchors")
        match, logits, bbox = sampled([match, *body.pyramid])
    bbox_inputs = [inputs["input_rpn_bbox"], match, bbox]
    bbox_loss = _bbox_loss("rpn_bbox_loss", config.RPN_BBOX_LOSS, config.RPN_BBOX_STD_DEV)
    return {
        "rpn_class_loss": LossLayer("rpn_class_loss")([match, logits]),
        "rpn_bbox_loss": bbox_loss(bbox_inputs),
    }


def _bbox_loss(name, kind, std_dev):
    """The layer of a box loss; kind: see BBOX_LOSS."""
    if kind == "giou":
        return LossLayer(name, giou_std_dev=std_dev)
    return LossLayer(name)


def box_losses(
    config: Config, meta: Tensor, targets: Targets, logits: Tensor, bbox: Tensor
) -> dict[str, Tensor]:
    """The losses of the class and box head, {name: scalar}.

    Args:
        config: the `Config`.
        meta: image metas [B, meta].
        targets: from `targets_graph`.
        logits: [B, R, classes].
        bbox: [B, R, classes, 4] deltas.
    """
    active = parse_image_meta_graph(meta)["active_class_ids"]
    active = KL.Identity(name="active_class_ids", dtype="float32")(active)
    class_inputs = [targets.class_ids, logits, active]
    if not config.CLASS_LOSS_ON_PADDING:
        class_inputs.append(ops.any(targets.rois != 0, axis=-1))
    bbox_inputs = [targets.bbox, targets.class_ids, bbox]
    bbox_loss = _bbox_loss("mrcnn_bbox_loss", config.BBOX_LOSS, config.BBOX_STD_DEV)
    return {
        "mrcnn_class_loss": LossLayer("mrcnn_class_loss")(class_inputs),
        "mrcnn_bbox_loss": bbox_loss(bbox_inputs),
    }


def training_masks_graph(
    config: Config, head: MaskHead, targets: Targets, maps: Sequence, meta: Tensor
) -> tuple[Tensor, Tensor]:
    """Masks of all RoIs [B, R, h, w, classes], and their loss, a scalar.

    Only positive rows have a loss. With fixed batch norm the other rows are computed separately,
    and only if that output is requested. With trained batch norm they would contribute to its
    statistics: either all rows are computed together, or those that can't be positive are zeros.
    """
    softmax = config.MASK_ACTIVATION == "softmax"
    loss = LossLayer("mrcnn_mask_loss", softmax, mask_logits=True)
    fixed = config.TRAIN_BN is False
    positives_only = config.MASK_HEAD_ON_POSITIVES
    if positives_only is None:
        positives_only = fixed
    if not positives_only:
        masks, logits = head.with_logits(targets.rois, maps, meta, targets.class_ids)
        return masks, loss([targets.masks, targets.class_ids, logits])
    if fixed:
        split = SplitPositives(
            targets.positive_rows, config.takes_fused_kernels(), name="positive_rois"
        )
        positives, others, target_masks, class_ids = split(
            [targets.class_ids, targets.rois, targets.masks, targets.class_ids]
        )
        masks, logits = head.with_logits(positives, maps, meta, class_ids)
        other_masks = head(others, maps, meta)
        mask_loss = loss([target_masks, class_ids, logits])
        return ops.concatenate([masks, other_masks], axis=1), mask_loss
    rows = targets.positive_rows
    class_ids = targets.class_ids[:, :rows]
    masks, logits = head.with_logits(targets.rois[:, :rows], maps, meta, class_ids)
    mask_loss = loss([targets.masks[:, :rows], class_ids, logits])
    zeros = ops.zeros((1, config.TRAIN_ROIS_PER_IMAGE - rows, 1, 1, 1))
    return ops.concatenate([masks, ops.zeros_like(masks[:, :1]) + zeros], axis=1), mask_loss


def training_keypoints_graph(
    config: Config,
    head: KeypointHead,
    targets: Targets,
    inputs: dict[str, Tensor],
    maps: Sequence,
) -> tuple[Tensor, Tensor]:
    """Keypoint logits of the RoIs that can be positive, and their loss.

    The other rows have no loss, and this head no batch statistics to which they would contribute.
    """
    rows = targets.positive_rows
    rois = targets.rois[:, :rows]
    keypoints = head(rois, maps, inputs["input_image_meta"])
    side = 4 * config.KEYPOINT_POOL_SIZE
    positions = KeypointTargets(side, config.BOX_FRAME, name="keypoint_targets")(
        [rois, targets.objects[:, :rows], inputs["input_gt_keypoints"], inputs["input_image"]]
    )
    loss = LossLayer("mrcnn_keypoint_loss")
    return keypoints, loss([positions, targets.class_ids[:, :rows], keypoints])


def training_graph(config: Config) -> TrainingModel:
    """The model that is trained; its inputs and outputs are listed at `MaskRCNN.build`."""
    inputs = training_inputs(config)
    image = inputs["input_image"]
    meta = inputs["input_image_meta"]
    body = body_graph(image, config)
    anchors = PyramidAnchors.of(config, name="anchors")([image, *body.pyramid])
    count = config.POST_NMS_ROIS_TRAINING
    limit = config.PRE_NMS_LIMIT_TRAINING
    rpn_rois, valid = proposals_graph(config, count, limit, body, anchors, meta)
    targets = targets_graph(config, inputs, rpn_rois, valid)
    heads = Heads.of(config, body.maps[0].shape[-1])
    logits, probs, bbox = heads.box(targets.rois, body.maps, meta)
    losses = box_losses(config, meta, targets, logits, bbox)
    losses = {**rpn_losses(config, inputs, body), **losses}
    outputs = [body.rpn_logits, body.rpn_probs, body.rpn_bbox, logits, probs, bbox]
    if heads.mask is not None:
        masks, loss = training_masks_graph(config, heads.mask, targets, body.maps, meta)
        outputs.append(masks)
        losses["mrcnn_mask_loss"] = loss
    output_rois = KL.Identity(name="output_rois", dtype="float32")(targets.rois)
    outputs += [rpn_rois, output_rois]
    if heads.keypoint is not None:
        keypoints, loss = training_keypoints_graph(
            config, heads.keypoint, targets, inputs, body.maps
        )
        outputs.append(keypoints)
        losses["mrcnn_keypoint_loss"] = loss
    weight_decay = config.WEIGHT_DECAY
    if config.OPTIMIZER == "adamw":
        # Its decay is decoupled from the loss: the optimizer applies it (training.make_optimizer).
        weight_decay = 0.0
    return TrainingModel(
        list(inputs.values()),
        [*outputs, *losses.values()],
        loss_names=list(losses),
        loss_weights=config.LOSS_WEIGHTS,
        weight_decay=weight_decay,
        decay_kind=config.WEIGHT_DECAY_KIND,
        decay_biases=config.WEIGHT_DECAY_ON_BIASES,
        name="mask_rcnn",
    )


def inference_graph(config: Config) -> Network:
    """The inference model, with the sub-models that `inference.Detector` runs."""
    image = KL.Input((None, None, config.IMAGE_CHANNEL_COUNT), name="input_image")
    meta = KL.Input((config.IMAGE_META_SIZE,), name="input_image_meta")
    body = body_graph(image, config)
    anchors = KL.Input((None, 4), name="input_anchors")
    count = config.POST_NMS_ROIS_INFERENCE
    rois, valid = proposals_graph(config, count, None, body, anchors, meta)
    heads = Heads.of(config, body.maps[0].shape[-1])
    _, probs, bbox = heads.box(rois, body.maps, meta)
    layer = DetectionLayer.of(config, name="mrcnn_detection")
    detections = layer([rois, probs, bbox, meta, valid])
    inputs = [image, meta, anchors]
    boxes = keras.Model(inputs, [detections, *body.maps], name="mask_rcnn_boxes")
    sub_models = {"boxes": boxes}
    outputs = [detections, probs, bbox]
    if heads.mask is not None:
        outputs.append(heads.mask(detections[..., :4], body.maps, meta))
        sub_models["masks"] = _head_model(config, heads.mask, body.maps)
    outputs += [rois, body.rpn_probs, body.rpn_bbox]
    if heads.keypoint is not None:
        outputs.append(heads.keypoint(detections[..., :4], body.maps, meta))
        sub_models["keypoints"] = _head_model(config, heads.keypoint, body.maps)
    return Network(inputs, outputs, sub_models=sub_models, name="mask_rcnn")


def _head_model(config, head, maps):
    """A head's layers as a model of any number of boxes: `detect` runs it without padding rows."""
    boxes = KL.Input((None, 4))
    meta = KL.Input((config.IMAGE_META_SIZE,))
    features = [KL.Input((None, None, level.shape[-1]), dtype=level.dtype) for level in maps]
    return keras.Model([boxes, meta, *features], head(boxes, features, meta))


# ------------------------------------------------------------------------------------------------
#  The model
# ------------------------------------------------------------------------------------------------


MODES = ("training", "inference")


def _check_arguments(mode: Any, config: Any, model_dir: Any) -> None:
    """Raises a ValueError for invalid arguments of `MaskRCNN`, or ones in another order."""
    swapped = isinstance(config, (str, os.PathLike)) or _is_config(mode) or _is_config(model_dir)
    if swapped:
        raise ValueError(
            "The arguments are MaskRCNN(mode, config, model_dir), in this order. Received: mode ="
            f" {_described(mode)}, config = {_described(config)}, model_dir ="
            f" {_described(model_dir)}"
        )
    if not isinstance(mode, str) or mode not in MODES:
        close = difflib.get_close_matches(str(mode).lower(), MODES, n=1, cutoff=0.5)
        hint = "."
        if close:
            hint = f"; did you mean {close[0]!r}?"
        raise ValueError(f"mode is 'training' or 'inference'{hint} Received: {mode!r}")
    if not isinstance(model_dir, (str, bytes, os.PathLike)):
        raise ValueError(f"model_dir is the path of a folder. Received: {model_dir!r}")


def _is_config(value: Any) -> bool:
    return isinstance(value, Config) or (isinstance(value, type) and issubclass(value, Config))


def _described(value: Any) -> str:
    """Text of an argument in an error message."""
    if isinstance(value, Config):
        return f"a {type(value).__name__}"
    return repr(value)


class MaskRCNN:
    """Mask R-CNN: builds the network, trains it, detects objects (matterport: MaskRCNN).

    The first instance in a process makes the C library keep freed memory, see
    `ops.keep_freed_memory`.

    Args:
        mode: "training" or "inference".
        config: a `Config`, which is validated; also its class, or another object with settings,
            see `mrcnn.config.as_config`.
        model_dir: folder for logs and checkpoints.

    Attributes:
        keras_model: the Keras model. Inference: inputs image, meta, anchors; outputs detections,
            mrcnn_class, mrcnn_bbox, mrcnn_mask, rpn_rois, rpn_class, rpn_bbox, and with
            USE_KEYPOINTS mrcnn_keypoint. Training: see `build`.
        epoch: number of epochs that the weights have been trained for.
        log_dir, checkpoint_path: where `train` writes. In mode "training" the folder of a new run
            is made when one of them is first read; no other run shares it.
        checkpoint_folder: the folder of the run that the loaded checkpoint is of, or None.
        weights_of_run: `training.fingerprint` of the weights at the end of the last `train`.
        weights_of_callbacks: the same where one of its callbacks changed them then; otherwise "".
        weights_file: path of the last `load_weights`; None before it, or for weights not from a
            file.
        anchors: [A, 4] in pixels, set by the last `get_anchors`.

    Raises:
        ValueError: an unknown mode, arguments in another order, or settings that don't fit
            together.
    """

    @kernels.outside_graphs()
    def __init__(self, mode: str, config: Config, model_dir: str | os.PathLike):
        _check_arguments(mode, config, model_dir)
        config = as_config(config)
        config.validate()
        kernels.compiles(config.JIT_COMPILE)  # raises where the backend can't
        kernels.keep_freed_memory()
        kernels.keep_compiled_programs()
        self.mode = mode
        self.config = config
        self.model_dir = os.fsdecode(model_dir)
        self.epoch = 0
        self._anchors = inference.AnchorTable(config)
        # Datasets that were checked, so that the next stage of training need not check them again.
        self._checked: weakref.WeakSet = weakref.WeakSet()
        self.weights_of_run = ""
        self.weights_of_callbacks = ""
        self.weights_file: str | None = None
        self.set_log_dir()
        self._strategy = None
        if mode == "training":
            self._strategy = training.strategy(config.GPU_COUNT, config.JIT_COMPILE)
        seed = cluster.common_seed(self._strategy, config.SEED)
        with self.devices(), training.seeded(seed):
            self.keras_model = self.build(mode, config)
        self.detector: Any = None  # an `inference.Detector` in mode "inference"
        if mode == "inference":
            self.detector = inference.Detector(self.keras_model, config, self.get_anchors)
            # Built here, so that the first detection need not wait for it.
            self.detector.function("boxes")

    def devices(self) -> Any:
        """A context that places new variables and optimizers on the training devices."""
        if self._strategy is None:
            return contextlib.nullcontext()
        return self._strategy.scope()

    def check_mode(self, mode: str, name: str) -> None:
        """Raises a ValueError unless the model is in `mode`, which method `name` needs."""
        if self.mode != mode:
            raise ValueError(
                f"{name}() needs a model in mode {mode!r}. Received: mode {self.mode!r}"
            )

    def build(self, mode: str, config: Config) -> Network:
        """Builds the graph (matterport: MaskRCNN.build).

        Inference: inputs image, meta, anchors; outputs see `keras_model`.

        Training inputs, by name: input_image [B, H, W, C] molded, input_image_meta, input_rpn_match
        [B, A, 1], input_rpn_bbox [B, n, 4], input_gt_class_ids [B, G], input_gt_boxes [B, G, 4] in
        pixels, input_gt_masks [B, h, w, G] (with USE_MASK), input_gt_keypoints [B, G, K, (y, x,
        visibility)] in pixels (with USE_KEYPOINTS), input_roi [B, N, 4] in pixels (without
        USE_RPN_ROIS). Outputs, in order: rpn_class_logits, rpn_class, rpn_bbox, mrcnn_class_logits,
        mrcnn_class, mrcnn_bbox, mrcnn_mask, rpn_rois, output_rois, with USE_KEYPOINTS
        mrcnn_keypoint of the rows that can be positive, and the losses.
        """
        config = as_config(config)
        if mode == "training":
            return training_graph(config)
        return inference_graph(config)

    # ---- Files -----------------------------------------------------------------------------------

    def find_last(self) -> training.CheckpointPath:
        """The last checkpoint of this NAME in `model_dir`; it also unpacks as (folder, file).

        Raises:
            FileNotFoundError: no run, or a run without a checkpoint.
        """
        return training.find_last(self.model_dir, self.config.NAME)

    @kernels.outside_graphs()
    def load_weights(
        self,
        filepath: Any,
        by_name: bool = False,
        exclude: str | Sequence[str] | None = None,
        skip_mismatch: bool = False,
    ) -> weights.Coverage:
        """Loads a weight file and continues its run (matterport: load_weights).

        Args:
            filepath: a legacy `.h5`; a `.weights.h5` or a whole `.keras` of Keras, of a training or
                an inference model; a checkpoint of torchvision (a state dict of arrays, `.npz` or
                `.pth`; see `mrcnn.torchvision`).
            by_name: allow layers of the network that the file lacks, and skip layers of the file
                that the network lacks.
            exclude: names of layers, or one name, that are not loaded; implies by_name.
            skip_mismatch: don't load layers that the file lacks or has in another shape.

        Returns:
            a `weights.Coverage`: what was loaded, missing, ignored or mismatched. Warnings name
            what was skipped, and in an inference model the heads that stay random.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that can't be read or doesn't fit; nothing has been loaded then.
        """
        network = self.keras_model
        if isinstance(network, Network):
            coverage = network.load_weights(filepath, by_name, exclude, skip_mismatch)
        else:  # another model, assigned to keras_model by a script
            coverage = weights.load(network, filepath, by_name, exclude, skip_mismatch)
        logger.info("%s", coverage.summary())
        self.weights_file = None
        if isinstance(filepath, (str, os.PathLike)):
            self.weights_file = os.fspath(filepath)
            self.set_log_dir(filepath)
        else:
            self.set_log_dir()
        return coverage

    @kernels.outside_graphs()
    def save_weights(self, filepath: str | os.PathLike) -> None:
        """Saves the weights; `.h5` is the legacy layout, `.weights.h5` Keras's."""
        weights.save(self.keras_model, filepath)

    @kernels.outside_graphs()
    def export(
        self,
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
        """Writes the model as a file of another runtime; see `mrcnn.export` for its contents.

        `mrcnn.runtime.load(path).detect(images)` gives what `detect` gives, without TensorFlow.

        Args:
            path: model.onnx, model.xml (OpenVINO), model.tflite (LiteRT), or a folder, for a
                SavedModel in the layout of TensorFlow Serving and Triton.
            format: "onnx", "openvino", "litert" or "saved_model"; None for the
                path's suffix.
            class_names: names of all classes, background first.
            size: (height, width) of the images, in pixels; None for any. A LiteRT file has a fixed
                size: None is then the side of the molded image.
            batch: batch size; None for any (in a LiteRT file, for 1).
            precision: dtype of the stored weights: "float32"; "float16" or "int8" (not for a
                SavedModel).
            paste: True for masks of whole images, each as large as the image; False for
                probabilities inside the boxes, which `mrcnn.runtime` pastes.
            calibration: with precision "int8" of ONNX and OpenVINO: images, or paths of image
                files, like those that the file is for, 20 to 100 of them. Convolutions then compute
                in int8 over the ranges of values that these images cause; without them only the
                weights are int8.

        Returns:
            the path.

        Raises:
            ValueError: an option that the format or the model does not have; names are missing.
            ImportError: a package that writes the format is not installed; it is named.
        """
        from mrcnn import export

        return export.export(
            self,
            path,
            format,
            class_names=class_names,
            size=size,
            batch=batch,
            precision=precision,
            paste=paste,
            calibration=calibration,
        )

    @kernels.outside_graphs()
    def get_imagenet_weights(self) -> str:
        """Path of a legacy `.h5` with the backbone's ImageNet weights, made on first use.

        For ResNet-50, 101 and 152 only.
        """
        return weights.get_imagenet_weights(self.config.BACKBONE, self.config.BATCH_NORM_EPSILON)

    def set_log_dir(self, model_path: str | os.PathLike | None = None) -> None:
        """Sets `log_dir`, `checkpoint_path` and `epoch`: a new run, or that of a checkpoint.

        Args:
            model_path: a checkpoint in the folder name<date>T<time> of its run; any other file
                begins a new run at epoch 0. A run of another NAME, or outside `model_dir`, is left
                as it is: `log_dir` is then the folder NAME<date>T<time> of `model_dir`, with the
                date of that run, as in matterport's.
        """
        checkpoint = None
        if model_path:
            checkpoint = training.parse_checkpoint(model_path)
            if checkpoint is None and re.search(r"_\d{4,}\.h5$", os.fspath(model_path)):
                logger.info(
                    "%s lies in no folder name<date>T<time> of a run: a new run begins at epoch 0",
                    os.fspath(model_path),
                )
        self._began = datetime.datetime.now()
        self._log_dir: str | None = None
        if model_path:
            self._log_dir = self._empty_log_dir()
        self.epoch = 0
        self.checkpoint_folder: str | None = None
        if checkpoint is not None:
            self.checkpoint_folder, self.epoch = checkpoint
            self._log_dir = training.own_log_dir(
                self.model_dir, self.config.NAME, self.checkpoint_folder
            )
        self._checkpoint_path: str | None = None

    def _empty_log_dir(self):
        """The folder that `log_dir` made for this run, if it is still empty; otherwise None.

        It is kept for scripts that pass `log_dir` to a callback before they load weights.
        """
        folder = getattr(self, "_made_log_dir", None)
        if folder is not None and os.path.isdir(folder) and not os.listdir(folder):
            return folder
        return None

    @property
    def log_dir(self) -> str:
        """The folder that `train` writes into."""
        if self._log_dir is None:
            is_training = self.mode == "training"
            self._log_dir = training.new_log_dir(
                self.model_dir, self.config.NAME, self._began, make=is_training
            )
            if is_training:
                self._made_log_dir = self._log_dir
        return self._log_dir

    @log_dir.setter
    def log_dir(self, folder: str | os.PathLike) -> None:
        self._log_dir = os.fspath(folder)

    @property
    def checkpoint_path(self) -> str:
        """Path of the checkpoints, with {epoch:04d} for the epoch."""
        return self._checkpoint_path or training.checkpoint_path(self.log_dir, self.config.NAME)

    @checkpoint_path.setter
    def checkpoint_path(self, path: str | os.PathLike) -> None:
        self._checkpoint_path = os.fspath(path)

    # ---- Training --------------------------------------------------------------------------------

    @kernels.outside_graphs()
    def compile(self, learning_rate: Any, momentum: float) -> None:
        """Makes an optimizer for the layers that are trainable now (matterport: compile).

        Where it differs from the last one by its learning rate only, compiled functions are kept.
        """
        with self.devices():
            optimizer = training.make_optimizer(self.config, learning_rate, momentum)
            self.keras_model.fold()
            # What a user's optimizer depends on is unknown.
            keep = not callable(self.config.OPTIMIZER)
            jit_compile = kernels.compiles(self.config.JIT_COMPILE)
            self.keras_model.take_optimizer(optimizer, keep, jit_compile)

    def set_trainable(
        self,
        layer_regex: str,
        keras_model: keras.Model | None = None,
        indent: int = 0,
        verbose: int = 1,
    ) -> None:
        """Makes layers whose full name matches the regex trainable and freezes the others.

        Args:
            layer_regex: a regular expression of layer names, such as
                r"(mrcnn_.*)|(rpn_.*)|(fpn_.*)", or a name that `train(layers=)` takes.
            verbose: 1 logs the trainable layers.
        """
        layer_regex = LAYER_CHOICES.get(layer_regex, layer_regex)
        if keras_model is None and not any(
            re.fullmatch(layer_regex, name) for name in weights.layers_of(self.keras_model)
        ):
            logger.warning("set_trainable(%r) matches no layer: none is trainable", layer_regex)
        for layer in (keras_model or self.keras_model).layers:
            if isinstance(layer, keras.Model):
                self.set_trainable(layer_regex, layer, indent + 4, verbose)
                continue
            if not layer.weights:
                continue
            layer.trainable = bool(re.fullmatch(layer_regex, layer.name))
            rewrite.inner(layer).trainable = layer.trainable
            if layer.trainable and verbose:
                logger.info("%strain %-20s (%s)", " " * indent, layer.name, type(layer).__name__)

    @kernels.outside_graphs()
    def train(
        self,
        train_dataset: utils.Dataset,
        val_dataset: utils.Dataset | None,
        learning_rate: float,
        epochs: int,
        layers: str,
        augmentation: Any = None,
        custom_callbacks: Sequence | None = None,
        no_augmentation_sources: str | Sequence[str] | None = None,
    ) -> keras.callbacks.History:
        """Trains the network (matterport: train).

        Each dataset is checked once, before the first step; later changes to it are not checked
        again. A checkpoint is written after each epoch, with the state that resuming needs beside
        it. An interrupted call resumes where it stopped when it is repeated with its run's weights,
        `find_last()`, loaded; with the same learning rate and layers the optimizer's state is
        restored, too, also for a higher `epochs`. Where other weights were loaded, training starts
        from those, with a warning.

        Args:
            train_dataset, val_dataset: prepared `Dataset`s; val_dataset may be None.
            learning_rate: learning rate of this call, see LEARNING_RATE_SCHEDULE.
            epochs: number of the last epoch, not a count: after `epochs=20`, `epochs=30` trains 10
                more. If the weights have reached it, nothing is trained and a warning logged, so
                that a script of several stages can be run again.
            layers: "heads", "3+", "4+", "5+", "all", or a regex of layer names.
            augmentation: an imgaug augmenter, an object of `mrcnn.augmentation`, or a function
                f(image, masks) -> (image, masks); see `data.apply_augmentation`.
            custom_callbacks: Keras callbacks, or one, called after the checkpoint callback.
            no_augmentation_sources: sources, or one, whose images are not augmented.

        Returns:
            keras.callbacks.History.

        Raises:
            ValueError: not in training mode, USE_RPN_ROIS = False, an argument of a wrong type,
                `layers` that match no layer, a dataset with problems.
            training.BadLossError: a loss became NaN or infinite.
        """
        self.check_mode("training", "train")
        if not self.config.USE_RPN_ROIS:
            raise ValueError(
                "train() draws its RoIs from the RPN's proposals. Received: USE_RPN_ROIS = False,"
                " for which keras_model.fit takes the batches of"
                " data_generator(random_rois=...)"
            )
        learning_rate, epochs = training.check_numbers(learning_rate, epochs)
        layer_regex = training.layer_regex(layers, self.keras_model)
        custom_callbacks = training.check_callbacks(custom_callbacks)
        data.check_augmentation(augmentation)
        if epochs <= self.epoch:
            logger.warning(
                "The weights have reached epoch %d: nothing to train to epoch %d (epochs is the"
                " number of the last epoch; set_log_dir() begins a new run)",
                self.epoch,
                epochs,
            )
            return training.nothing_left(self.keras_model)
        if train_dataset not in self._checked:
            data.check_dataset(train_dataset, self.config, "train_dataset")
            self._checked.add(train_dataset)
        if val_dataset is not None and val_dataset not in self._checked:
            data.check_dataset(val_dataset, self.config, "val_dataset", needs_objects=False)
            self._checked.add(val_dataset)
        run = training.Run(
            self,
            train_dataset,
            val_dataset,
            learning_rate,
            epochs,
            layer_regex,
            augmentation,
            custom_callbacks,
            no_augmentation_sources,
        )
        return run.fit()

    # ---- Detection -------------------------------------------------------------------------------

    def mold_inputs(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Resizes and normalises images (matterport: mold_inputs).

        Args:
            images: list of [H, W] or [H, W, C] arrays of any sizes, or an array [N, H, W, C];
                uint8, or numbers of another range, see `data.as_network_input`.

        Returns:
            molded_images: [B, h, w, C] float32.
            image_metas: [B, meta]; windows: [B, (y1, x1, y2, x2)] in pixels of the molded image.

        Raises:
            ValueError: an image whose channels are not IMAGE_CHANNEL_COUNT, or molded images of
                different sizes (which `detect` accepts).
        """
        molded = []
        for i, image in enumerate(inference.images_in(images, "mold_inputs")):
            molded.append(inference.mold(image, self.config, f"image {i}"))
        shapes = sorted({inputs.image.shape for inputs in molded})
        if len(shapes) > 1:
            raise ValueError(
                "Molded images of one batch have one size; IMAGE_RESIZE_MODE"
                f" {self.config.IMAGE_RESIZE_MODE!r} made {shapes}; use detect(), which groups them"
            )
        return tuple(np.stack(part) for part in zip(*molded))

    def unmold_detections(
        self,
        detections: np.ndarray,
        mrcnn_mask: np.ndarray | None,
        original_image_shape: Sequence[int],
        image_shape: Sequence[int],
        window: Sequence[int],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
        """Detections of one image in the original image's frame (matterport: unmold_detections).

        Args:
            detections: [N, (y1, x1, y2, x2, class_id, score)], boxes normalised, zero rows at the
                end.
            mrcnn_mask: [N, h, w, classes], or [N, h, w] of the detected classes, or None.
            original_image_shape, image_shape: (H, W, C) before and after molding.
            window: (y1, x1, y2, x2) of the image inside the molded one, in pixels.

        Returns:
            boxes [n, 4] int32 in pixels (float32 without ROUND_DETECTIONS), class_ids [n] int32,
            scores [n] float32, and masks [H, W, n] bool (None for None). Boxes without area are
            left out.
        """
        return inference.unmold(
            detections, mrcnn_mask, original_image_shape, image_shape, window, self.config
        )

    @kernels.outside_graphs()
    def detect(
        self,
        images: Sequence[np.ndarray],
        verbose: int = 0,
        masks: str | None = None,
        tile: int | None = None,
        overlap: int | None = None,
    ) -> list[dict]:
        """Detects objects (matterport: detect).

        Args:
            images: list of any number of images of any sizes and dtypes, see `mold_inputs`;
                [image] for one image.
            masks: type of a result's `masks`. "dense": bool [H, W, N]; "lazy": an
                `inference.Masks`, which makes that array, one mask or one crop on demand; "rle": a
                list of COCO's run-length encodings. The latter two never hold whole masks. None:
                "rle" with `tile`, otherwise "dense".
            tile: for large images, the side in pixels of tiles that are detected one by one;
                objects on seams are merged by their masks, see `mrcnn.tiles`. None: no tiles.
            overlap: overlap of neighbouring tiles in pixels; None for a fifth of a tile.
            verbose: 1 prints shapes and ranges of the images and, where all are molded to one size,
                of what the network gets.

        Returns:
            a list of dicts, one for each image: rois [N, (y1, x1, y2, x2)] int32 in pixels,
            class_ids [N] int32, scores [N] float32, masks (None with USE_MASK = False); best first.
            With USE_KEYPOINTS also keypoints [N, K, (y, x, score)] float32 in pixels.
        """
        self.check_mode("inference", "detect")
        if tile is not None or overlap is not None:
            from mrcnn import tiles

            return tiles.detect_each(self, images, tile, overlap, masks)
        masks = masks or "dense"
        images = inference.images_in(images, "detect")
        if verbose:
            self._print_inputs(images)
        if config_module.has_several_views(self.config):
            from mrcnn import tta

            return tta.detect(self, images, masks)
        return self.detector.detect(images, masks)

    def _print_inputs(self, images: Sequence) -> None:
        """Prints what `detect` received and what it makes of it, by the lines of matterport's."""
        log(f"Processing {len(images)} images")
        molded = []
        for i, image in enumerate(images):
            log("image", data.as_array(image, f"image {i}"))
            molded.append(inference.mold(image, self.config, f"image {i}"))
        if len({inputs.image.shape for inputs in molded}) == 1:
            molded_images, metas, _ = (np.stack(part) for part in zip(*molded))
            self._print_molded(molded_images, metas)

    def _print_molded(self, molded_images: np.ndarray, metas: np.ndarray) -> None:
        """Prints the inputs of the network."""
        log("molded_images", molded_images)
        log("image_metas", metas)
        anchors = self.get_anchors(molded_images.shape[1:])
        log("anchors", np.broadcast_to(anchors, (len(molded_images), *anchors.shape)))

    def detect_many(
        self, images: Iterable, load: Callable | None = None, masks: str = "dense"
    ) -> Iterator[dict]:
        """`detect` for folders and streams: yields one result after the other.

        While the network runs, the next images are read and molded and the masks of the last ones
        are made.

        Args:
            images: iterable of images, or of items that `load` turns into images, such as paths.
            load: f(item) -> image, called in threads.
            masks: as in `detect`.

        Yields:
            the result of each image.

        Raises:
            ValueError: at once where `images` is not iterable; after the results before it for an
                image that can't be used.
        """
        self.check_mode("inference", "detect_many")
        if config_module.has_several_views(self.config):
            from mrcnn import tta

            return tta.detect_many(self, images, load, masks)
        return self.detector.detect_many(images, load, masks)

    @kernels.outside_graphs()
    def detect_molded(
        self, molded_images: np.ndarray, image_metas: np.ndarray, verbose: int = 0
    ) -> list[dict]:
        """`detect` for molded images, in the molded frame (matterport: detect_molded).

        Args:
            molded_images: [B, h, w, C] float32, all of one size. Integers are used unchanged, with
                a warning that they are not molded.
            image_metas: [B, meta].
            verbose: 1 prints the shapes and ranges of these.

        Raises:
            ValueError: images of different sizes, or not one meta for each image.
        """
        self.check_mode("inference", "detect_molded")
        shapes = {np.shape(image) for image in molded_images}
        if len(shapes) > 1:
            raise ValueError(f"Molded images have one size. Received: {sorted(shapes)}")
        molded_images = np.asarray(molded_images)
        if molded_images.ndim != 4 or np.shape(image_metas)[:-1] != (len(molded_images),):
            raise ValueError(
                "detect_molded() takes images [B, h, w, C] and a meta for each, as mold_inputs "
                f"gives them. Received: shapes {molded_images.shape} and {np.shape(image_metas)}"
            )
        if not len(molded_images):
            return []
        data.tell_of_unmolded(molded_images, self.config, "detect_molded")
        if verbose:
            log(f"Processing {len(molded_images)} images")
            for image in molded_images:
                log("image", image)
            self._print_molded(molded_images, np.asarray(image_metas))
        shape = molded_images[0].shape
        outputs = self.detector.infer(
            molded_images, np.asarray(image_metas), self.get_anchors(shape)
        )
        window = (0, 0, *shape[:2])
        results = []
        for i in range(len(molded_images)):
            results.append(inference.result(outputs, i, shape, shape, window, self.config))
        return results

    def get_anchors(self, image_shape: Sequence[int]) -> np.ndarray:
        """Anchors of a molded image, normalised [A, 4] float32; also sets `anchors`.

        (matterport: get_anchors)
        """
        self.anchors, normalised = self._anchors.of(image_shape)
        return normalised.copy()

    def anchors_layer(self) -> PyramidAnchors:
        """A layer of the same anchors, for graphs that take images of any size (`mrcnn.export`)."""
        return PyramidAnchors.of(self.config)

    # ---- Looking inside --------------------------------------------------------------------------

    def ancestor(self, tensor: Tensor, name: str, checked: Any = None) -> Tensor | None:
        """A tensor by its name in notebooks of 2018, or None (matterport: ancestor).

        Args:
            tensor: not used; the whole graph is searched.
            name: a layer's, also as in TensorFlow 1 ("mrcnn_class/Reshape:0"); or a stage of the
                proposals: "ROI/pre_nms_anchors:0", "ROI/refined_anchors:0",
                "ROI/refined_anchors_clipped:0", or "ROI/rpn_non_max_suppression:0", [N] int32 of
                the first image.
            checked: not used.
        """
        return tracing.find_tensor(self, name)

    def find_trainable_layer(self, layer: KL.Layer) -> KL.Layer:
        """The layer inside a wrapper such as TimeDistributed (matterport: find_trainable_layer)."""
        return rewrite.inner(layer)

    def get_trainable_layers(self) -> list:
        """All layers that have weights (matterport: get_trainable_layers)."""
        layers = [self.find_trainable_layer(layer) for layer in self.keras_model.layers]
        return [layer for layer in layers if layer.weights]

    @kernels.outside_graphs()
    def run_graph(
        self,
        images: Any,
        outputs: Sequence[tuple[str, Tensor | None]],
        image_metas: np.ndarray | None = None,
    ) -> OrderedDict:
        """Runs images through parts of the inference graph (matterport: run_graph).

        It prints the shape and the range of each output, as matterport's does.

        Args:
            images: list of images; already molded ones if `image_metas` is given.
            outputs: list of (name, tensor); None as the tensor stands for the layer of that name.
            image_metas: [B, meta].

        Returns:
            OrderedDict {name: array}.

        Raises:
            ValueError: a name that is not a layer's.
        """
        arrays = tracing.run_graph(self, images, outputs, image_metas)
        for name, array in arrays.items():
            log(name, array)
        return arrays

    @kernels.outside_graphs()
    def trace(self, image: np.ndarray, activations: Sequence[str] = ()) -> tracing.Trace:
        """Every stage of one image, from anchors to pasted masks, as arrays in pixels.

        Args:
            image: [H, W, C], as `detect` takes it.
            activations: names of layers whose outputs are returned as well.
        """
        return tracing.trace(self, image, activations)
