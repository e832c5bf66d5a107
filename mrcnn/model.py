"""Mask R-CNN (He, Gkioxari, Dollar, Girshick: arXiv 1703.06870) in Keras 3, in the paper's order.

    image -> ResNet -> FPN -> RPN -> proposals -> RoIAlign -> class and box head -> detections
                                                           -> mask head          -> masks
                                                           -> keypoint head      -> keypoints

Boxes are (y1, x1, y2, x2). In the network they are normalised: 0 is the centre of the first pixel,
1 that of the last, or the image's edges (BOX_FRAME); only `norm_boxes_graph` and
`denorm_boxes_graph` know that. Tensors have a batch
axis B, then rows N; padding rows of public outputs are zero.

`class MaskRCNN`, at the end, is what users call. What is not the network lives in the modules
beside this one; the names that code written for matterport's package imports from here are
re-exported.
"""

import contextlib
import dataclasses
import datetime
import logging
import math
import os
import re
import threading
import weakref
from collections import OrderedDict

import keras
import numpy as np
from keras import layers as KL, ops

from mrcnn import (
    config as config_module,
    data,
    folding,
    inference,
    ops as kernels,
    trace as tracing,
    training,
    utils,
    weights,
)
from mrcnn.data import (  # noqa: F401  names that existing code imports from here
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
from mrcnn.training import DataGenerator  # noqa: F401

logger = logging.getLogger(__name__)

register = keras.saving.register_keras_serializable("mrcnn")


def log(text, array=None):
    """Prints a line, with shape, range and dtype of an array (matterport: log)."""
    if array is not None:
        low, high = (array.min(), array.max()) if array.size else ("", "")
        text = f"{text:25}  shape: {array.shape!s:20}  min: {low:10}  max: {high:10}  {array.dtype}"
    print(text)


# ------------------------------------------------------------------------------------------------
#  Building blocks
# ------------------------------------------------------------------------------------------------


@register
class BatchNorm(KL.BatchNormalization):
    """Batch normalisation that holds its own mode (matterport: BatchNorm).

    Batches of detection are small, so that pre-trained statistics usually stay fixed.

    Args:
        train_bn: None follows the model's mode; False always uses the moving statistics (gamma and
            beta still train); True always uses the batch's. As an argument of the layer, since
            Keras overrides `training` in a functional model by the mode of the whole.
    """

    def __init__(self, train_bn=None, **kwargs):
        super().__init__(**kwargs)
        self.train_bn = train_bn

    def call(self, inputs, training=None, mask=None):
        return super().call(
            inputs, training=training if self.train_bn is None else self.train_bn, mask=mask
        )

    def get_config(self):
        return {**super().get_config(), "train_bn": self.train_bn}


@register
class FrozenBatchNorm(BatchNorm):
    """Batch normalisation as a fixed function: neither its statistics nor gamma and beta ever
    train."""

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "train_bn": False})

    def build(self, input_shape):
        super().build(input_shape)
        for weight in self.weights:
            weight.trainable = False

    @property
    def trainable(self):
        return False

    @trainable.setter
    def trainable(self, value):
        pass


@register
class GroupNorm(KL.GroupNormalization):
    """Group normalisation (Wu & He 2018); fewer groups where their number does not divide the
    channels."""

    def build(self, input_shape):
        self.groups = math.gcd(self.groups, input_shape[-1])
        super().build(input_shape)


@dataclasses.dataclass(frozen=True)
class Norm:
    """What follows a convolution.

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
    def of(cls, config, kind):
        """With a Config's values."""
        return cls(
            kind,
            config.TRAIN_BN,
            config.BATCH_NORM_MOMENTUM,
            config.BATCH_NORM_EPSILON,
            config.CONV_BIAS,
        )

    @property
    def conv_bias(self):
        """Whether the convolution before it has a bias."""
        return self.bias or self.kind is None

    def layers(self, name, per_roi=False):
        """The one layer, or none, in a list. per_roi: for [B, N, h, w, C]."""
        values = {"momentum": self.momentum, "epsilon": self.epsilon}
        make = {
            "batch": lambda **k: BatchNorm(self.train_bn, **values, **k),
            "frozen": lambda **k: FrozenBatchNorm(**values, **k),
            "group": lambda **k: GroupNorm(32, epsilon=1e-5, **k),
        }
        return [_layer(make[self.kind], name, per_roi)] if self.kind else []


def _layer(make, name, per_roi):
    """make(name=name), or that layer applied to every RoI under the same name."""
    return TimeDistributed(make(), name=name) if per_roi else make(name=name)


@register
class WholeConv2D(KL.Conv2D):
    """A "valid" convolution that becomes one matrix product where its kernel covers the whole
    input.

    So it is with the box head's 7x7 kernel on 7x7 cells: equal to the fully connected layer of the
    paper, and 50 times faster than a convolution on a CPU.
    """

    def call(self, inputs):
        if tuple(inputs.shape[1:3]) != self.kernel_size:
            return super().call(inputs)
        flat = ops.reshape(inputs, (ops.shape(inputs)[0], math.prod(inputs.shape[1:])))
        outputs = ops.matmul(flat, ops.reshape(self.kernel, (-1, self.filters)))
        outputs = outputs + self.bias if self.use_bias else outputs
        return ops.reshape(outputs, (ops.shape(inputs)[0], 1, 1, self.filters))


@register
class TimeDistributed(KL.TimeDistributed):
    """Applies a layer to every RoI: [B, N, ...] is folded to [B * N, ...] and back.

    Keras's own unrolls a static axis into N calls. Names and weights are the same.
    """

    def call(self, inputs, training=None, mask=None):
        shape = ops.shape(inputs)
        outputs = self.layer(ops.reshape(inputs, (shape[0] * shape[1], *inputs.shape[2:])))
        return ops.reshape(outputs, (shape[0], shape[1], *outputs.shape[1:]))


# ------------------------------------------------------------------------------------------------
#  ResNet (paper, section 3: network architecture)
# ------------------------------------------------------------------------------------------------

# Blocks of the stages 2..5, whether a block is a bottleneck of three convolutions, and the groups
# of its 3x3 convolution and their width in stage 2 (ResNeXt: Xie et al. 2017).
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
        groups: of a bottleneck's 3x3 convolution.
        stride_in_1x1, padding: see STRIDE_IN_1X1, BACKBONE_PADDING.
        per_roi: for RoIs [B, N, h, w, C].
    """

    norm: Norm = Norm()
    groups: int = 1
    stride_in_1x1: bool = True
    padding: str = "same"
    per_roi: bool = False


def _residual_block(x, kernel_size, filters, stage, block, strides, project, style):
    """A block of 2 (basic) or 3 (bottleneck) convolutions; one of the first two has the stride."""
    bottleneck = len(filters) == 3
    kernels_ = [1, kernel_size, 1] if bottleneck else [kernel_size] * 2
    conv, bn = f"res{stage}{block}_branch", f"bn{stage}{block}_branch"
    strided = "2a" if style.stride_in_1x1 or not bottleneck else "2b"

    def conv_bn(x, branch, width, size, strides=1):
        padding = "same"
        if size > 1 and strides not in (1, (1, 1)) and style.padding == "symmetric":
            x = _layer(lambda **k: KL.ZeroPadding2D(size // 2, **k), None, style.per_roi)(x)
            padding = "valid"
        groups = style.groups if bottleneck and size > 1 else 1
        x = _layer(
            lambda **k: KL.Conv2D(
                width,
                size,
                strides=strides,
                padding=padding,
                groups=groups,
                use_bias=style.norm.conv_bias,
                **k,
            ),
            conv + branch,
            style.per_roi,
        )(x)
        for layer in style.norm.layers(bn + branch, style.per_roi):
            x = layer(x)
        return x

    shortcut = conv_bn(x, "1", filters[-1], 1, strides) if project else x
    for branch, width, size in zip(("2a", "2b", "2c"), filters, kernels_):
        x = conv_bn(x, branch, width, size, strides if branch == strided else 1)
        if branch != ("2a", "2b", "2c")[len(filters) - 1]:
            x = KL.Activation("relu")(x)
    return KL.Activation("relu", name=f"res{stage}{block}_out")(KL.Add()([x, shortcut]))


def identity_block(
    input_tensor, kernel_size, filters, stage, block, use_bias=True, train_bn=True, style=None
):
    """Residual block without a projection (matterport: identity_block).

    Args:
        input_tensor: [B, H, W, filters[-1]].
        kernel_size: side of the inner convolution.
        filters: widths of the three convolutions (or of the two of a basic block).
        stage, block: an int and a letter, parts of the layers' names.
        style: a `Style`, in place of use_bias and train_bn.
    """
    return _residual_block(
        input_tensor,
        kernel_size,
        filters,
        stage,
        block,
        1,
        False,
        style or Style(Norm(train_bn=train_bn, bias=use_bias)),
    )


def conv_block(
    input_tensor,
    kernel_size,
    filters,
    stage,
    block,
    strides=(2, 2),
    use_bias=True,
    train_bn=True,
    style=None,
):
    """Residual block with a 1x1 projection in the shortcut (matterport: conv_block)."""
    return _residual_block(
        input_tensor,
        kernel_size,
        filters,
        stage,
        block,
        strides,
        True,
        style or Style(Norm(train_bn=train_bn, bias=use_bias)),
    )


def _architecture(name):
    if name not in RESNETS:
        raise ValueError(f"architecture is one of {', '.join(RESNETS)}. Received: {name!r}")
    return RESNETS[name]


def resnet_stage(x, architecture, stage, strides, style):
    """Stage 2..5 of a ResNet; its first block has the stride."""
    blocks, bottleneck, groups, group_width = _architecture(architecture)
    style = dataclasses.replace(style, groups=groups)
    scale = 2 ** (stage - 2)
    filters = [groups * group_width * scale] * 2 + ([256 * scale] if bottleneck else [])
    for i in range(blocks[stage - 2]):
        block = chr(ord("a") + i)
        if i == 0 and (bottleneck or stage > 2):
            x = conv_block(x, 3, filters, stage, block, strides, style=style)
        else:
            x = identity_block(x, 3, filters, stage, block, style=style)
    return x


def resnet_graph(input_image, architecture, stage5=False, train_bn=True, style=None):
    """The maps C1..C5 of a ResNet at strides 2, 4, 8, 16, 32 (matterport: resnet_graph).

    Args:
        input_image: [B, H, W, channels].
        architecture: one of `RESNETS`.
        stage5: False leaves out C5, whose place holds None.
        train_bn: mode of batch norm, see `BatchNorm`.
        style: a `Style`, in place of train_bn.

    Returns:
        [C1, C2, C3, C4, C5].
    """
    _architecture(architecture)
    style = style or Style(Norm(train_bn=train_bn))
    x = KL.ZeroPadding2D(3)(input_image)
    x = KL.Conv2D(64, 7, strides=2, use_bias=style.norm.conv_bias, name="conv1")(x)
    for layer in style.norm.layers("bn_conv1"):
        x = layer(x)
    x = KL.Activation("relu")(x)
    maps = [x]
    if style.padding == "symmetric":
        x = KL.ZeroPadding2D(1)(x)  # after a ReLU nothing is below 0
    x = KL.MaxPooling2D(3, strides=2, padding="same" if style.padding == "same" else "valid")(x)
    for stage in (2, 3, 4, 5):
        if stage == 5 and not stage5:
            maps.append(None)
            break
        x = resnet_stage(x, architecture, stage, 1 if stage == 2 else 2, style)
        maps.append(x)
    return maps


# ------------------------------------------------------------------------------------------------
#  Feature pyramid network (paper, section 3; Lin et al. 2017)
# ------------------------------------------------------------------------------------------------


def fpn_graph(maps, channels=256, norm=Norm(None)):
    """P2..P6 at strides 4, 8, 16, 32, 64 from C2..C5.

    Each level is the lateral 1x1 of its own map plus the level above, upsampled by nearest
    neighbour; a 3x3 convolution follows. P6, for the RPN alone, is every other pixel of P5.
    """

    def conv(x, size, name):
        x = KL.Conv2D(channels, size, padding="same", use_bias=norm.conv_bias, name=name)(x)
        for layer in norm.layers(name + "_bn"):
            x = layer(x)
        return x

    top_down = conv(maps[-1], 1, "fpn_c5p5")
    sums = {5: top_down}
    for level, lateral in zip((4, 3, 2), reversed(maps[:-1])):
        up = KL.UpSampling2D(2, name=f"fpn_p{level + 1}upsampled")(top_down)
        lateral = conv(lateral, 1, f"fpn_c{level}p{level}")
        up = MatchSize(name=f"fpn_p{level}size")([up, lateral])
        top_down = sums[level] = KL.Add(name=f"fpn_p{level}add")([up, lateral])
    pyramid = [conv(sums[level], 3, f"fpn_p{level}") for level in (2, 3, 4, 5)]
    return pyramid + [KL.MaxPooling2D(1, strides=2, name="fpn_p6")(pyramid[-1])]


@register
class MatchSize(KL.Layer):
    """Cuts the first of two maps to the height and width of the second.

    An odd map is half of the next finer one rounded up, so that its upsampled form is one row or
    column too large. Does nothing where sides divide by the strides.
    """

    def call(self, inputs):
        large, small = inputs
        _, height, width, _ = ops.shape(small)
        return large[:, :height, :width]

    def compute_output_shape(self, input_shape):
        large, small = input_shape
        return (large[0], small[1], small[2], large[3])


# ------------------------------------------------------------------------------------------------
#  Boxes
# ------------------------------------------------------------------------------------------------


def norm_boxes_graph(boxes, shape, frame="centers"):
    """Pixel boxes to normalised ones (matterport: norm_boxes_graph).

    Args:
        boxes: [..., (y1, x1, y2, x2)] in pixels; y2, x2 lie outside the box.
        shape: [..., (height, width)], one for all boxes or one for each.
        frame: BOX_FRAME.
    """
    scale, shift = _frame(shape, frame)
    return (ops.cast(boxes, "float32") - shift) / scale


def denorm_boxes_graph(boxes, shape, frame="centers", whole=True):
    """Normalised boxes to pixel ones (matterport: denorm_boxes_graph).

    Args:
        whole: int32, rounded half to even; False: float32, not rounded.
    """
    scale, shift = _frame(shape, frame)
    boxes = boxes * scale + shift
    return ops.cast(ops.round(boxes), "int32") if whole else boxes


def _frame(shape, frame):
    size = ops.cast(shape, "float32")[..., :2]
    size, one = ops.concatenate([size, size], axis=-1), 1.0 if frame == "centers" else 0.0
    return size - one, ops.convert_to_tensor([0.0, 0.0, one, one])


def apply_box_deltas_graph(boxes, deltas, log_size_limit=None):
    """Moves boxes by (dy, dx, log dh, log dw); any leading axes (matterport:
    apply_box_deltas_graph).

    Args:
        log_size_limit: bound on log dh and log dw, so that exp can't overflow; None for no bound.
    """
    height, width = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    dh, dw = deltas[..., 2], deltas[..., 3]
    if log_size_limit is not None:
        dh, dw = ops.minimum(dh, log_size_limit), ops.minimum(dw, log_size_limit)
    y = boxes[..., 0] + 0.5 * height + deltas[..., 0] * height
    x = boxes[..., 1] + 0.5 * width + deltas[..., 1] * width
    height, width = height * ops.exp(dh), width * ops.exp(dw)
    y1, x1 = y - 0.5 * height, x - 0.5 * width
    return ops.stack([y1, x1, y1 + height, x1 + width], axis=-1)


def clip_boxes_graph(boxes, window):
    """Clips boxes [..., 4] to a window (y1, x1, y2, x2) of broadcastable shape (matterport:
    clip_boxes_graph)."""
    low = ops.concatenate([window[..., :2], window[..., :2]], axis=-1)
    high = ops.concatenate([window[..., 2:], window[..., 2:]], axis=-1)
    return ops.maximum(ops.minimum(boxes, high), low)


def overlaps_graph(boxes1, boxes2):
    """IoU of every pair, [N, 4] and [M, 4] -> [N, M] (matterport: overlaps_graph)."""
    return kernels.overlaps(boxes1, boxes2)


def log2_graph(x):
    """Logarithm to base 2 (matterport: log2_graph)."""
    return ops.log(x) / ops.log(ops.convert_to_tensor(2.0))


def _take_rows(x, indices):
    """x: [B, N, ...], indices: [B, K] -> [B, K, ...]."""
    shape = (*indices.shape, *([1] * (len(x.shape) - 2)))
    indices = ops.reshape(indices, (ops.shape(indices)[0], ops.shape(indices)[1], *shape[2:]))
    return ops.take_along_axis(x, indices, axis=1)


def _mask_rows(x, keep):
    """Sets the rows of x [B, N, ...] to zero where keep [B, N] is False."""
    keep = ops.reshape(keep, (*ops.shape(keep), *([1] * (len(x.shape) - 2))))
    return ops.where(keep, x, ops.zeros_like(x))


@register
class PyramidAnchors(KL.Layer):
    """Anchors of the maps that the batch has, so that images of any size can train.

    Args:
        scales: side of the anchors of each level, in pixels, or a tuple of several.
        ratios: widths by heights.
        strides: pixels of a step of each level.
        anchor_stride: cells between anchors.
        frame: BOX_FRAME.
        rounding: see RPN_ANCHOR_ROUNDING.

    Input: [image [B, H, W, C], P2, ... P6 [B, h, w, C]]. Output: [B, A, 4] normalised, in the order
    level, row, column, ratio.
    """

    def __init__(
        self, scales, ratios, strides, anchor_stride=1, frame="centers", rounding=False, **kwargs
    ):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.scales = [[float(s) for s in np.ravel(scale)] for scale in scales]
        self.ratios, self.strides = list(ratios), list(strides)
        self.anchor_stride, self.frame, self.rounding = anchor_stride, frame, rounding

    def call(self, inputs):
        image, maps = inputs[0], inputs[1:]
        boxes = []
        for scale, stride, level in zip(self.scales, self.strides, maps):
            # The anchors of the first cell, moved to each of the others.
            first = utils.generate_anchors(
                scale, self.ratios, (1, 1), stride, 1, self.rounding
            ).astype("float32")
            rows, columns = (-(-ops.shape(level)[axis] // self.anchor_stride) for axis in (1, 2))
            steps = [
                self.anchor_stride
                * (ops.shape(image)[axis] // ops.shape(level)[axis] if self.rounding else stride)
                for axis in (1, 2)
            ]
            y = ops.cast(ops.arange(rows) * steps[0], "float32")[:, None, None]
            x = ops.cast(ops.arange(columns) * steps[1], "float32")[None, :, None]
            y, x = y + ops.zeros_like(x), x + ops.zeros_like(y)
            shift = ops.stack([y, x, y, x], axis=-1)  # [rows, columns, 1, 4]
            boxes.append(ops.reshape(shift + first, (-1, 4)))
        size = [ops.cast(ops.shape(image)[axis], "float32") for axis in (1, 2)]
        boxes = norm_boxes_graph(ops.concatenate(boxes, axis=0), ops.stack(size), self.frame)
        return boxes[None] + ops.zeros_like(image[:, :1, 0, :1], dtype="float32")[..., :1]

    def compute_output_shape(self, input_shape):
        cells = [
            [None if side is None else -(-side // self.anchor_stride) for side in shape[1:3]]
            for shape in input_shape[1:]
        ]
        known = all(side is not None for cell in cells for side in cell)
        count = (
            sum(len(self.ratios) * len(s) * h * w for s, (h, w) in zip(self.scales, cells))
            if known
            else None
        )
        return (input_shape[0][0], count, 4)

    def get_config(self):
        return {
            **super().get_config(),
            "scales": self.scales,
            "ratios": [float(r) for r in self.ratios],
            "strides": [int(s) for s in self.strides],
            "anchor_stride": self.anchor_stride,
            "frame": self.frame,
            "rounding": self.rounding,
        }


# ------------------------------------------------------------------------------------------------
#  Region proposal network (paper, section 3.1; Ren et al. 2015)
# ------------------------------------------------------------------------------------------------


def rpn_graph(
    feature_map, anchors_per_location, anchor_stride, channels=512, convs=1, score="softmax"
):
    """Objectness and box deltas of every anchor of a map (matterport: rpn_graph).

    Args:
        feature_map: [B, H, W, depth].
        convs: number of shared convolutions; the first one has the stride.
        score: "softmax", or "sigmoid" of one logit: the other one, of "background", is then 0.

    Returns:
        class_logits: [B, H * W * anchors_per_location, 2], index 1 is "object".
        probs: the same after softmax.
        bbox: [B, H * W * anchors_per_location, (dy, dx, log dh, log dw)], divided by
            RPN_BBOX_STD_DEV.
    """
    shared = feature_map
    for i in range(convs):
        shared = KL.Conv2D(
            channels,
            3,
            padding="same",
            activation="relu",
            strides=anchor_stride if i == 0 else 1,
            name=f"rpn_conv_shared{i + 1 if i else ''}",
        )(shared)
    outputs = 2 if score == "softmax" else 1
    x = KL.Conv2D(outputs * anchors_per_location, 1, name="rpn_class_raw")(shared)
    # Scores in bfloat16 would be 1.0 from .998 on, and which box is the best one a matter of
    # chance.
    class_logits = KL.Reshape((-1, outputs), dtype="float32")(x)
    if score == "sigmoid":
        class_logits = ops.pad(class_logits, [[0, 0], [0, 0], [1, 0]])
    probs = KL.Activation("softmax", name="rpn_class_xxx", dtype="float32")(class_logits)
    x = KL.Conv2D(4 * anchors_per_location, 1, name="rpn_bbox_pred")(shared)
    return [class_logits, probs, KL.Reshape((-1, 4), dtype="float32")(x)]


def build_rpn_model(
    anchor_stride, anchors_per_location, depth, channels=512, convs=1, score="softmax"
):
    """The RPN as a model, one set of weights for all levels (matterport: build_rpn_model)."""
    feature_map = KL.Input((None, None, depth), name="input_rpn_feature_map")
    outputs = rpn_graph(feature_map, anchors_per_location, anchor_stride, channels, convs, score)
    return keras.Model(feature_map, outputs, name="rpn_model")


def _anchors_per_cell(config):
    return len(config.RPN_ANCHOR_RATIOS) * np.size(config.RPN_ANCHOR_SCALES[0])


def _at_least(boxes, size, frame, pixels):
    """Which boxes [..., 4] have no side shorter than that; size: [..., (height, width)] of the
    image."""
    boxes = denorm_boxes_graph(boxes, size, frame, whole=False)
    return ops.all(boxes[..., 2:] - boxes[..., :2] >= pixels, axis=-1)


class SampledRPN(KL.Layer):
    """The RPN at the anchors that have a loss, from the 3x3 patches around them.

    Equal to picking them out of the RPN's maps. But the gradient of those, zero almost everywhere,
    costs a fourth of a training step, and here it flows through a few hundred patches.

    Args:
        rpn_model: one 3x3 convolution and two 1x1, see `rpn_graph`; its weights stay its own.
        count: anchors of an image that have a loss, at most.

    Input: [rpn_match [B, A, 1], P2, ... P6]. Output: match [B, count, 1], class_logits [B, count,
    logits of an anchor], bbox [B, count, 4]; the anchors that have a loss in their order, then
    others with match 0.
    """

    def __init__(self, rpn_model, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count
        names = "rpn_conv_shared", "rpn_class_raw", "rpn_bbox_pred"
        self._parts = lambda: [
            rpn_model.get_layer(name) for name in names
        ]  # not tracked as this layer's own

    def call(self, inputs):
        match, maps = inputs[0], inputs[1:]
        shared, *heads = self._parts()
        per_cell = heads[1].filters // 4
        has_loss = ops.cast(match[..., 0] != 0, "float32")
        has_loss = ops.pad(
            has_loss, [[0, 0], [0, ops.maximum(self.count - ops.shape(match)[1], 0)]]
        )
        has_loss, rows = ops.top_k(has_loss, self.count)  # of equals the first
        rows = ops.where(has_loss > 0, ops.cast(rows, "int32"), 0)
        x = kernels.cell_patches(maps, rows // per_cell)
        x = ops.relu(ops.matmul(x, ops.reshape(shared.kernel, (-1, shared.filters))) + shared.bias)
        outputs = []
        for head in heads:
            y = ops.matmul(x, head.kernel[0, 0]) + head.bias
            y = ops.reshape(y, (*ops.shape(rows), per_cell, head.filters // per_cell))
            outputs.append(
                ops.take_along_axis(y, (rows % per_cell)[..., None, None], axis=2)[:, :, 0]
            )
        return (_mask_rows(_take_rows(match, rows), has_loss > 0), *outputs)

    def compute_output_spec(self, inputs):
        _, *heads = self._parts()
        shapes = [1] + [4 * head.filters // heads[1].filters for head in heads]
        return tuple(
            keras.KerasTensor(
                (inputs[0].shape[0], self.count, n), "int32" if i == 0 else self.compute_dtype
            )
            for i, n in enumerate(shapes)
        )


@register
class ProposalLayer(KL.Layer):
    """The best anchors, moved by their deltas, clipped, without duplicates (matterport:
    ProposalLayer).

    The best `pre_nms_limit` of all levels together, or of each; non-maximum suppression; the best
    `proposal_count`. Proposals are constants for the heads: no gradient flows back through their
    coordinates.

    Args:
        proposal_count: proposals of an image.
        nms_threshold: IoU above which the worse of two goes.
        config: a Config that gives the values below; without it they are arguments.
        pre_nms_limit: anchors that take part in the suppression (None with a config: its
            PRE_NMS_LIMIT).
        bbox_std_dev: what deltas were divided by.
        log_size_limit: see `apply_box_deltas_graph`.
        return_valid: also return which rows are proposals, [B, proposal_count] bool.
        limit_per_level, nms_per_level, min_size, clip_to_window: see PRE_NMS_PER_LEVEL,
            RPN_NMS_PER_LEVEL, RPN_MIN_SIZE, RPN_CLIP_TO_WINDOW.
        sigmoid: the first input is logits, whose order is finer than that of their sigmoid.
        anchors_per_cell, anchor_stride: tell a level's anchors.
        frame: BOX_FRAME.
        fused: see `mrcnn.ops`.

    Input: [probs or logits [B, A, 2], bbox [B, A, 4], anchors [B, A, 4] normalised], then
    image_meta [B, meta] for min_size and clip_to_window, then the maps [B, h, w, C] of all levels
    for limit_per_level.
    Output: [B, proposal_count, 4] normalised, zero rows at the end.
    """

    def __init__(
        self,
        proposal_count,
        nms_threshold,
        config=None,
        *,
        pre_nms_limit=None,
        bbox_std_dev=(0.1, 0.1, 0.2, 0.2),
        log_size_limit=math.log(1000 / 16),
        return_valid=False,
        limit_per_level=False,
        nms_per_level=False,
        min_size=0.0,
        clip_to_window=False,
        sigmoid=False,
        anchors_per_cell=3,
        anchor_stride=1,
        frame="centers",
        fused=None,
        **kwargs,
    ):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if config is not None:
            bbox_std_dev, pre_nms_limit = (
                config.RPN_BBOX_STD_DEV,
                pre_nms_limit or config.PRE_NMS_LIMIT,
            )
            log_size_limit, frame, fused = (
                config.BBOX_LOG_SIZE_LIMIT,
                config.BOX_FRAME,
                config.FUSED_KERNELS,
            )
            limit_per_level, nms_per_level = config.PRE_NMS_PER_LEVEL, config.RPN_NMS_PER_LEVEL
            min_size, clip_to_window = config.RPN_MIN_SIZE, config.RPN_CLIP_TO_WINDOW
            sigmoid, anchor_stride = config.RPN_SCORE == "sigmoid", config.RPN_ANCHOR_STRIDE
            anchors_per_cell = _anchors_per_cell(config)
        self.proposal_count, self.nms_threshold, self.pre_nms_limit = (
            proposal_count,
            nms_threshold,
            pre_nms_limit or 6000,
        )
        self.bbox_std_dev = [float(v) for v in bbox_std_dev]
        self.log_size_limit, self.return_valid, self.fused = log_size_limit, return_valid, fused
        self.limit_per_level, self.nms_per_level = limit_per_level, nms_per_level
        self.min_size, self.clip_to_window, self.sigmoid, self.frame = (
            float(min_size),
            clip_to_window,
            sigmoid,
            frame,
        )
        self.anchors_per_cell, self.anchor_stride = anchors_per_cell, anchor_stride

    def stages(self, inputs):
        """The steps by matterport's names: the best anchors, moved, clipped; indices kept and
        whether they count.

        Returns:
            {"pre_nms_anchors", "refined_anchors", "refined_anchors_clipped": [B, limit, 4], best
            first, "rpn_non_max_suppression": [B, proposal_count] int32 into them, "valid": [B,
                proposal_count] bool}.
        """
        scores, deltas, anchors = (ops.stop_gradient(x) for x in inputs[:3])
        scores, best, counts = self._best(scores[:, :, 1], inputs[4:])
        if self.sigmoid:
            scores = ops.sigmoid(scores)
        deltas = _take_rows(deltas, best) * ops.convert_to_tensor(self.bbox_std_dev)
        anchors = _take_rows(anchors, best)
        boxes = apply_box_deltas_graph(anchors, deltas, self.log_size_limit)
        window, valid = ops.convert_to_tensor([0.0, 0.0, 1.0, 1.0]), None
        if self.clip_to_window or self.min_size:
            meta = parse_image_meta_graph(inputs[3])
            size = meta["image_shape"][:, None, :2]
            if self.clip_to_window:
                window = norm_boxes_graph(meta["window"][:, None], size, self.frame)
        clipped = clip_boxes_graph(boxes, window)
        if self.min_size:
            valid = _at_least(clipped, size, self.frame, self.min_size)
        kept, valid = self._suppress(clipped, scores, valid, counts)
        return {
            "pre_nms_anchors": anchors,
            "refined_anchors": boxes,
            "refined_anchors_clipped": clipped,
            "rpn_non_max_suppression": kept,
            "valid": valid,
        }

    def _best(self, scores, maps):
        """The scores [B, K] that take part, the indices of their anchors, and how many of each
        level."""
        sizes = [ops.shape(scores)[1]]
        if self.limit_per_level:
            cells = [
                [-(-ops.shape(level)[axis] // self.anchor_stride) for axis in (1, 2)]
                for level in maps
            ]
            sizes = [self.anchors_per_cell * height * width for height, width in cells]
        found, start, counts = [], 0, []
        for size in sizes:
            fixed = isinstance(size, int)
            counts.append(
                min(self.pre_nms_limit, size) if fixed else ops.minimum(self.pre_nms_limit, size)
            )
            part, best = ops.top_k(scores[:, start : start + size], counts[-1])
            found.append((part, best + start))
            start = start + size
        return (
            *(
                parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=1)
                for parts in zip(*found)
            ),
            counts,
        )

    def _suppress(self, boxes, scores, valid, counts):
        """Indices [B, proposal_count] of the boxes that stay, best first, and which rows are
        any."""
        if not self.nms_per_level:
            return kernels.non_max_suppression(
                boxes, scores, self.proposal_count, self.nms_threshold, valid, fused=self.fused
            )
        found, start = [], 0
        for count in counts:
            part = slice(start, start + count)
            kept, there = kernels.non_max_suppression(
                boxes[:, part],
                scores[:, part],
                self.proposal_count,
                self.nms_threshold,
                None if valid is None else valid[:, part],
                fused=self.fused,
            )
            found.append((kept + start, there))
            start = start + count
        kept, there = (ops.concatenate(parts, axis=1) for parts in zip(*found))
        best, order = ops.top_k(
            ops.where(there, _take_rows(scores, kept), -1.0), self.proposal_count
        )
        return _take_rows(kept, order), best >= 0

    def call(self, inputs):
        stages = self.stages(inputs)
        boxes, kept, valid = (
            stages[name] for name in ("refined_anchors_clipped", "rpn_non_max_suppression", "valid")
        )
        proposals = _mask_rows(_take_rows(boxes, kept), valid)
        return (proposals, valid) if self.return_valid else proposals

    def compute_output_shape(self, input_shape):
        boxes = (input_shape[0][0], self.proposal_count, 4)
        return (boxes, boxes[:2]) if self.return_valid else boxes

    def compute_output_spec(self, inputs):
        boxes = keras.KerasTensor((inputs[0].shape[0], self.proposal_count, 4), "float32")
        return (boxes, keras.KerasTensor(boxes.shape[:2], "bool")) if self.return_valid else boxes

    def get_config(self):
        names = (
            "proposal_count nms_threshold pre_nms_limit bbox_std_dev log_size_limit return_valid"
            " limit_per_level nms_per_level min_size clip_to_window sigmoid anchors_per_cell"
            " anchor_stride frame fused"
        ).split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


# ------------------------------------------------------------------------------------------------
#  RoIAlign (paper, section 3: RoIAlign)
# ------------------------------------------------------------------------------------------------


@register
class PyramidROIAlign(KL.Layer):
    """Features of each RoI from the level of the pyramid that fits its size (matterport:
    PyramidROIAlign).

    The level is 4 + log2(sqrt(h w) / 224) in pixels, made whole and kept in 2..5, so that a RoI of
    224 pixels is read from P4. Of a single map all RoIs are read.

    Args:
        pool_shape: (height, width) of the output.
        fused: see `mrcnn.ops`.
        pooling: "crop_and_resize", no coordinate is rounded, one bilinear sample per cell; "align",
            the paper's RoIAlign; "pool", RoIPool. See ROI_POOLING.
        samples, reduce, aligned: of RoIAlign, see `ops.roi_align`.
        level: "round" (half to even) or "floor".
        strides: pixels of a cell of each map.
        frame: BOX_FRAME.

    Input: [boxes [B, N, 4] normalised, image_meta [B, meta], P2, P3, P4, P5]. Output: [B, N, h, w,
    C].
    """

    def __init__(
        self,
        pool_shape,
        fused=None,
        pooling="crop_and_resize",
        samples=2,
        reduce="average",
        aligned=True,
        level="round",
        strides=(4, 8, 16, 32),
        frame="centers",
        **kwargs,
    ):
        kwargs.setdefault("autocast", False)  # boxes keep float32, features come as they are
        super().__init__(**kwargs)
        if pooling not in config_module.ROI_POOLINGS:
            raise ValueError(
                f"pooling is one of {', '.join(config_module.ROI_POOLINGS)}. Received: {pooling!r}"
            )
        self.pool_shape = tuple(int(side) for side in pool_shape)
        self.fused, self.pooling, self.samples, self.reduce, self.aligned = (
            fused,
            pooling,
            samples,
            reduce,
            aligned,
        )
        self.level, self.strides, self.frame = level, [int(stride) for stride in strides], frame

    @classmethod
    def of(cls, config, side, name):
        """The layer with a Config's values; `side`: of the pooled square."""
        return cls(
            [side, side],
            config.FUSED_KERNELS,
            config.ROI_POOLING,
            config.ROI_ALIGN_SAMPLES,
            config.ROI_ALIGN_REDUCE,
            config.ROI_ALIGN_ALIGNED,
            config.ROI_LEVEL,
            config.BACKBONE_STRIDES[:4],
            config.BOX_FRAME,
            name=name,
        )

    def call(self, inputs):
        boxes, image_meta, feature_maps = ops.stop_gradient(inputs[0]), inputs[1], inputs[2:]
        shape = parse_image_meta_graph(image_meta)["image_shape"]
        levels = (
            self.levels(boxes, shape, self.level) - 2
            if len(feature_maps) > 1
            else ops.zeros_like(boxes[..., 0], dtype="int32")
        )
        if self.pooling != "crop_and_resize":
            # In cells of each box's map.
            strides = ops.take(ops.convert_to_tensor(self.strides, "float32"), levels)
            boxes = (
                denorm_boxes_graph(boxes, shape[:, None, :2], self.frame, whole=False)
                / strides[..., None]
            )
        elif self.frame == "edges":
            # To the frame of the kernel, whose 0 and 1 are the centres of the outermost cells.
            size = shape[:, None, :2]
            boxes = norm_boxes_graph(denorm_boxes_graph(boxes, size, self.frame, whole=False), size)
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

    @staticmethod
    def levels(boxes, image_shape, rule="round"):
        """boxes: [B, N, 4] normalised, image_shape: [B, (h, w, c)]. Returns [B, N] int32 in
        2..5."""
        shape = ops.cast(image_shape, "float32")
        image_area = (shape[:, 0] * shape[:, 1])[:, None]
        area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
        size = ops.sqrt(ops.where(area > 0, area, 1.0)) / (224.0 / ops.sqrt(image_area))
        # A side of 112 or 224 pixels belongs to the upper level, whatever rounding makes of it.
        level = (
            ops.round(log2_graph(size)) if rule == "round" else ops.floor(log2_graph(size) + 1e-6)
        )
        return ops.where(area > 0, ops.clip(4 + ops.cast(level, "int32"), 2, 5), 2)

    def compute_output_shape(self, input_shape):
        return (*input_shape[0][:2], *self.pool_shape, input_shape[2][-1])

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(
            self.compute_output_shape([x.shape for x in inputs]), inputs[2].dtype
        )

    def get_config(self):
        names = "pool_shape fused pooling samples reduce aligned level strides frame".split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


# ------------------------------------------------------------------------------------------------
#  Training targets (paper, section 3.1: training)
# ------------------------------------------------------------------------------------------------


@register
class DetectionTargetLayer(KL.Layer):
    """Draws RoIs and gives each its class, box and mask target (matterport: DetectionTargetLayer).

    A RoI is positive with an IoU >= .5 to an object, negative with less to every object and less
    than .001 to every crowd. At most int(rois_per_image * positive_ratio) positives are drawn, and
    int(P / positive_ratio) - P negatives for the P positives that were found; where there is none,
    as many as leave room for the quota of positives; or negatives fill all rows. Crowds (class id <
    0) are never a target.

    Args:
        config: a Config that gives the values below; without it they are arguments.
        rois_per_image: rows of the output.
        positive_ratio: share of positives; .25 is the paper's 1:3.
        mask_shape: (height, width) of mask targets, or None for no masks.
        mini_mask: the masks are cut to the objects' boxes.
        bbox_std_dev: deltas are divided by these.
        fill, add_objects: see ROI_FILL_NEGATIVES, ROI_ADD_GT.
        seed: of the draw; None differs from run to run.
        fused: see `mrcnn.ops`.
        return_objects: also return which object each RoI was given, [B, R] int32, -1 for none.

    Input: [proposals [B, P, 4] normalised, class_ids [B, G] int, boxes [B, G, 4] normalised,
    masks [B, h, w, G] (left out with mask_shape None)], and at the end, if known, which proposals
    are valid [B, P] bool; without it those that are not zero rows. Objects with class id 0 are
    padding.

    Output: rois [B, R, 4], class_ids [B, R] int32, deltas [B, R, 4] and masks [B, R, h, w] of 0 and
    1; positives first, then negatives, then zero rows.
    """

    POSITIVE_IOU, CROWD_IOU = 0.5, 0.001

    def __init__(
        self,
        config=None,
        *,
        rois_per_image=200,
        positive_ratio=0.33,
        mask_shape=(28, 28),
        mini_mask=True,
        bbox_std_dev=(0.1, 0.1, 0.2, 0.2),
        fill=False,
        add_objects=False,
        seed=None,
        fused=None,
        return_objects=False,
        **kwargs,
    ):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if config is not None:
            rois_per_image, positive_ratio = config.TRAIN_ROIS_PER_IMAGE, config.ROI_POSITIVE_RATIO
            mask_shape = config.MASK_SHAPE if config.USE_MASK else None
            mini_mask, bbox_std_dev = config.USE_MINI_MASK, config.BBOX_STD_DEV
            fill, add_objects = config.ROI_FILL_NEGATIVES, config.ROI_ADD_GT
            seed, fused = config.SEED, config.FUSED_KERNELS
        self.rois_per_image, self.positive_ratio = rois_per_image, float(positive_ratio)
        self.mask_shape = None if mask_shape is None else tuple(int(side) for side in mask_shape)
        self.mini_mask, self.seed, self.fused = mini_mask, seed, fused
        self.fill, self.add_objects, self.return_objects = fill, add_objects, return_objects
        self.bbox_std_dev = [float(v) for v in bbox_std_dev]
        self.random = keras.random.SeedGenerator(seed)

    @property
    def positive_rows(self):
        """Rows that may hold a positive RoI: the first so many."""
        return int(self.rois_per_image * self.positive_ratio)

    def call(self, inputs):
        inputs = [ops.stop_gradient(ops.convert_to_tensor(x)) for x in inputs]
        masks = inputs.pop(3) if self.mask_shape else None
        proposals, class_ids, boxes = inputs[:3]
        valid = inputs[3] if len(inputs) > 3 else ops.any(proposals != 0, axis=-1)
        if self.add_objects:
            proposals = ops.concatenate([proposals, boxes], axis=1)
            valid = ops.concatenate([valid, class_ids > 0], axis=1)
        iou = kernels.overlaps(proposals, boxes)  # [B, P, G]
        object_iou = ops.where(class_ids[:, None] > 0, iou, 0.0)
        best_iou, best = (
            x[..., 0] for x in ops.top_k(object_iou, 1)
        )  # the object of each proposal
        crowd_iou = ops.max(ops.where(class_ids[:, None] < 0, iou, 0.0), axis=-1)
        positive = ops.logical_and(valid, best_iou >= self.POSITIVE_IOU)
        negative = ops.logical_and(valid, best_iou < self.POSITIVE_IOU)
        negative = ops.logical_and(negative, crowd_iou < self.CROWD_IOU)

        rows, is_positive, is_negative = self._draw(positive, negative)
        rois = _mask_rows(_take_rows(proposals, rows), ops.logical_or(is_positive, is_negative))
        best = ops.cast(_take_rows(best, rows), "int32")  # [B, R]
        target_ids = _mask_rows(ops.cast(_take_rows(class_ids, best), "int32"), is_positive)
        target_boxes = _take_rows(boxes, best)
        # Rows without a target compute with a unit box, so that no logarithm of 0 is taken.
        unit = ops.convert_to_tensor([0.0, 0.0, 1.0, 1.0])
        source = ops.where(is_positive[..., None], rois, unit)
        deltas = utils.box_refinement_graph(
            source, ops.where(is_positive[..., None], target_boxes, unit)
        )
        deltas = _mask_rows(deltas / ops.convert_to_tensor(self.bbox_std_dev), is_positive)
        objects = [ops.where(is_positive, best, -1)] if self.return_objects else []
        if masks is None:
            return rois, target_ids, deltas, *objects
        count = self.positive_rows
        targets = self._mask_targets(
            masks, source[:, :count], target_boxes[:, :count], best[:, :count]
        )
        targets = _mask_rows(targets, is_positive[:, :count])
        targets = ops.pad(targets, [[0, 0], [0, self.rois_per_image - count], [0, 0], [0, 0]])
        return rois, target_ids, deltas, targets, *objects

    def _draw(self, positive, negative):
        """Random rows, positives first. Returns rows [B, R], is_positive, is_negative [B, R]
        bool."""
        quota, size = self.positive_rows, self.rois_per_image
        missing = ops.maximum(size - ops.shape(positive)[1], 0)  # fewer proposals than rows
        positive, negative = (ops.pad(x, [[0, 0], [0, missing]]) for x in (positive, negative))
        luck = keras.random.uniform(ops.shape(positive), seed=self.random)
        luck_positive, positive_rows = ops.top_k(ops.where(positive, luck, -1.0), size)
        luck_negative, negative_rows = ops.top_k(ops.where(negative, luck, -1.0), size)
        rank = ops.arange(size, dtype="int32")[None]
        is_positive = ops.logical_and(luck_positive >= 0, rank < quota)
        found = ops.sum(ops.cast(is_positive, "int32"), axis=1, keepdims=True)
        wanted = ops.cast((1.0 / self.positive_ratio) * ops.cast(found, "float32"), "int32") - found
        wanted = size - found if self.fill else ops.where(found > 0, wanted, size - quota)
        is_negative = ops.logical_and(luck_negative >= 0, rank < wanted)
        # Positives, then negatives, then the rest; top_k keeps the order of equals.
        flags = ops.concatenate(
            [2 * ops.cast(is_positive, "int32"), ops.cast(is_negative, "int32")], axis=1
        )
        flags, order = ops.top_k(flags, size)
        rows = _take_rows(ops.concatenate([positive_rows, negative_rows], axis=1), order)
        return ops.where(flags > 0, rows, 0), flags == 2, flags == 1

    def _mask_targets(self, masks, rois, boxes, best):
        """The objects' masks inside the RoIs: [B, h, w, G] -> [B, P, *mask_shape] of 0. and 1."""
        shape = ops.shape(masks)
        count = ops.shape(rois)[1]
        if self.mini_mask:
            masks = ops.cast(
                masks, "float32"
            )  # whole images wait until they are cut: a fourth of the memory
        images = ops.reshape(ops.transpose(masks, (0, 3, 1, 2)), (-1, shape[1], shape[2], 1))
        indices = best + shape[3] * ops.arange(shape[0], dtype="int32")[:, None]
        if self.mini_mask:
            # From the image's frame to that of the object's box, which its mini-mask fills.
            origin = ops.concatenate([boxes[..., :2], boxes[..., :2]], axis=-1)
            size = boxes[..., 2:] - boxes[..., :2]
            size = ops.where(size > 0, size, 1.0)
            rois = (rois - origin) / ops.concatenate([size, size], axis=-1)
        crops = kernels.crop_and_resize(
            ops.cast(images, "float32"),
            ops.reshape(rois, (-1, 4)),
            ops.reshape(indices, (-1,)),
            self.mask_shape,
            self.fused,
        )
        return ops.round(ops.reshape(crops, (shape[0], count, *self.mask_shape)))

    def compute_output_shape(self, input_shape):
        batch, rows = input_shape[0][0], self.rois_per_image
        shapes = [(batch, rows, 4), (batch, rows), (batch, rows, 4)]
        shapes += [(batch, rows, *self.mask_shape)] if self.mask_shape else []
        return shapes + [(batch, rows)] if self.return_objects else shapes

    def compute_output_spec(self, inputs):
        shapes = self.compute_output_shape([x.shape for x in inputs])
        return tuple(
            keras.KerasTensor(shape, "int32" if len(shape) == 2 else "float32") for shape in shapes
        )

    def compute_mask(self, inputs, mask=None):
        return [None] * (3 + bool(self.mask_shape) + self.return_objects)

    def get_config(self):
        names = (
            "rois_per_image positive_ratio mask_shape mini_mask bbox_std_dev fill add_objects seed"
            " fused return_objects"
        ).split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@register
class SplitPositives(KL.Layer):
    """Splits RoIs behind the last row that is positive in some image of the batch; positives come
    first.

    So many rows need the mask head. Their number depends on the data, which XLA and JAX don't
    allow: there it is the most that can be positive.

    Args:
        positive_rows: rows that can be positive.
        fused: see `mrcnn.ops`.

    Input: [class_ids [B, R], rois [B, R, 4], any more [B, R, ...]]. Output: the first n >= 1 rows
    of the RoIs, the others, and the first n of each of the rest.
    """

    def __init__(self, positive_rows, fused=None, **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.positive_rows, self.fused = positive_rows, fused

    def call(self, inputs):
        class_ids, rois, *rest = inputs
        count = self.positive_rows
        if kernels.has_fused_kernels(self.fused):
            found = ops.max(ops.sum(ops.cast(class_ids > 0, "int32"), axis=1))
            count = ops.clip(found, 1, self.positive_rows)
        return (rois[:, :count], rois[:, count:], *(x[:, :count] for x in rest))

    def compute_output_spec(self, inputs):
        _, rois, *rest = inputs
        return tuple(
            keras.KerasTensor((x.shape[0], None, *x.shape[2:]), x.dtype)
            for x in (rois, rois, *rest)
        )

    def get_config(self):
        return {**super().get_config(), "positive_rows": self.positive_rows, "fused": self.fused}


def detection_targets_graph(proposals, gt_class_ids, gt_boxes, gt_masks, config):
    """`DetectionTargetLayer` for one image, without the batch axis (matterport:
    detection_targets_graph)."""
    inputs = [ops.convert_to_tensor(x)[None] for x in (proposals, gt_class_ids, gt_boxes, gt_masks)]
    return [x[0] for x in DetectionTargetLayer(config)(inputs)]


@register
class KeypointTargets(KL.Layer):
    """The position of each keypoint in the map of its RoI (paper, section 5: the one-hot target).

    Args:
        side: of the square map.
        frame: BOX_FRAME.

    Input: [rois [B, R, 4] normalised, objects [B, R] int32 of `DetectionTargetLayer`, keypoints
    [B, G, K, (y, x, visibility)] in pixels, image [B, H, W, C]].
    Output: [B, R, K] int32, row * side + column; -1 where there is nothing to learn: no object, a
    keypoint that is not labelled (visibility 0) or lies outside the RoI.
    """

    def __init__(self, side, frame="centers", **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.side, self.frame = side, frame

    def call(self, inputs):
        rois, objects, points, image = (ops.stop_gradient(ops.convert_to_tensor(x)) for x in inputs)
        size = ops.stack([ops.cast(ops.shape(image)[axis], "float32") for axis in (1, 2)])
        rois = denorm_boxes_graph(rois, size, self.frame, whole=False)[:, :, None]  # [B, R, 1, 4]
        points = ops.cast(_take_rows(points, ops.maximum(objects, 0)), "float32")
        place, low, high = points[..., :2], rois[..., :2], rois[..., 2:]
        cells = ops.floor((place - low) * (self.side / ops.maximum(high - low, 1e-6)))
        # A point on the RoI's lower or right edge belongs to its last cell.
        cells = ops.cast(ops.where(place == high, self.side - 1.0, cells), "int32")
        inside = ops.all(ops.logical_and(cells >= 0, cells < self.side), axis=-1)
        learn = ops.logical_and(
            ops.logical_and(inside, points[..., 2] > 0), objects[..., None] >= 0
        )
        return ops.where(learn, cells[..., 0] * self.side + cells[..., 1], -1)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((*inputs[0].shape[:2], inputs[2].shape[2]), "int32")

    def get_config(self):
        return {**super().get_config(), "side": self.side, "frame": self.frame}


# ------------------------------------------------------------------------------------------------
#  Detections (paper, section 3.1: inference)
# ------------------------------------------------------------------------------------------------


@register
class DetectionLayer(KL.Layer):
    """Final boxes: each RoI's classes, their deltas, suppression by class (matterport:
    DetectionLayer).

    Args:
        config: a Config that gives the values below; without it they are arguments.
        max_instances: rows of the output.
        min_confidence: detections with a lower score are dropped.
        nms_threshold: of two detections of a class with a higher IoU only the better stays.
        bbox_std_dev, log_size_limit: as in `ProposalLayer`.
        all_classes: a detection for every class with a score high enough, not for the best one
            alone.
        min_size: see DETECTION_MIN_SIZE.
        frame: BOX_FRAME.
        fused: see `mrcnn.ops`.

    Input: [rois [B, N, 4] normalised, probs [B, N, classes], deltas [B, N, classes, 4],
    image_meta], and at the end, if known, which RoIs are valid [B, N] bool.
    Output: [B, max_instances, (y1, x1, y2, x2, class_id, score)], boxes normalised, best first,
    zero rows at the end.
    """

    def __init__(
        self,
        config=None,
        *,
        max_instances=100,
        min_confidence=0.7,
        nms_threshold=0.3,
        bbox_std_dev=(0.1, 0.1, 0.2, 0.2),
        log_size_limit=math.log(1000 / 16),
        all_classes=False,
        min_size=0.0,
        frame="centers",
        fused=None,
        **kwargs,
    ):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if config is not None:
            max_instances, min_confidence = (
                config.DETECTION_MAX_INSTANCES,
                config.DETECTION_MIN_CONFIDENCE,
            )
            nms_threshold, bbox_std_dev = config.DETECTION_NMS_THRESHOLD, config.BBOX_STD_DEV
            log_size_limit, frame, fused = (
                config.BBOX_LOG_SIZE_LIMIT,
                config.BOX_FRAME,
                config.FUSED_KERNELS,
            )
            all_classes, min_size = config.DETECTION_ALL_CLASSES, config.DETECTION_MIN_SIZE
        self.max_instances, self.min_confidence, self.nms_threshold = (
            max_instances,
            min_confidence,
            nms_threshold,
        )
        self.bbox_std_dev = [float(v) for v in bbox_std_dev]
        self.log_size_limit, self.frame, self.fused = log_size_limit, frame, fused
        self.all_classes, self.min_size = all_classes, float(min_size)

    def call(self, inputs):
        rois, probs, deltas, image_meta = inputs[:4]
        meta = parse_image_meta_graph(image_meta)
        window = norm_boxes_graph(meta["window"], meta["image_shape"][:, :2], self.frame)
        return self.refine(
            rois, probs, deltas, window, *inputs[4:], image_shape=meta["image_shape"]
        )

    def refine(self, rois, probs, deltas, window, valid=None, image_shape=None):
        """`call` with the window [B, 4] that boxes are clipped to, normalised."""
        if self.all_classes:
            # Axes B, class, N: background is left out, classes are independent of each other.
            scores, deltas = (ops.moveaxis(x[:, :, 1:], 2, 1) for x in (probs, deltas))
            class_ids = (
                ops.ones_like(scores, "int32")
                * (1 + ops.arange(ops.shape(scores)[1], dtype="int32"))[:, None]
            )
        else:
            scores, class_ids = (ops.moveaxis(x, 2, 1) for x in ops.top_k(probs, 1))
            class_ids = ops.cast(class_ids, "int32")
            deltas = ops.moveaxis(
                ops.take_along_axis(deltas, class_ids[:, 0, :, None, None], axis=2), 2, 1
            )
        boxes = apply_box_deltas_graph(
            rois[:, None], deltas * ops.convert_to_tensor(self.bbox_std_dev), self.log_size_limit
        )
        boxes = clip_boxes_graph(boxes, window[:, None, None])
        candidates = ops.logical_and(class_ids > 0, scores >= self.min_confidence)
        if valid is not None:
            candidates = ops.logical_and(candidates, valid[:, None])
        if self.min_size and image_shape is not None:
            candidates = ops.logical_and(
                candidates,
                _at_least(boxes, image_shape[:, None, None, :2], self.frame, self.min_size),
            )
        rows = ops.concatenate(
            [boxes, ops.cast(class_ids, "float32")[..., None], scores[..., None]], axis=-1
        )
        if not self.all_classes:
            kept, found = kernels.non_max_suppression(
                boxes[:, 0],
                scores[:, 0],
                self.max_instances,
                self.nms_threshold,
                candidates[:, 0],
                class_ids[:, 0],
                self.fused,
            )
            return _mask_rows(_take_rows(rows[:, 0], kept), found)
        return self._best_of_classes(rows, candidates)

    def _best_of_classes(self, rows, candidates):
        """Suppression in each class, then the best of all. rows: [B, C, N, 6], candidates: [B, C,
        N]."""
        batch, classes, count = (ops.shape(rows)[i] for i in range(3))
        rows, candidates = ops.reshape(rows, (-1, count, 6)), ops.reshape(candidates, (-1, count))
        kept, found = kernels.non_max_suppression(
            rows[..., :4],
            rows[..., 5],
            self.max_instances,
            self.nms_threshold,
            candidates,
            fused=self.fused,
        )
        rows = ops.reshape(_take_rows(rows, kept), (batch, -1, 6))
        kept, found = ops.reshape(kept, (batch, -1)), ops.reshape(found, (batch, -1))
        # Of equal scores the earlier RoI comes first.
        order = ops.argsort(kept, axis=1)
        rows, found = _take_rows(rows, order), ops.take_along_axis(found, order, axis=1)
        missing = max(0, self.max_instances - rows.shape[1]) if rows.shape[1] else 0
        scores, best = ops.top_k(ops.where(found, rows[..., 5], -1.0), self.max_instances - missing)
        best = ops.pad(best, [[0, 0], [0, missing]])
        scores = ops.pad(scores, [[0, 0], [0, missing]], constant_values=-1.0)
        return _mask_rows(_take_rows(rows, best), scores >= 0)

    def compute_output_shape(self, input_shape):
        return (input_shape[0][0], self.max_instances, 6)

    def get_config(self):
        names = (
            "max_instances min_confidence nms_threshold bbox_std_dev log_size_limit all_classes"
            " min_size frame fused"
        ).split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def refine_detections_graph(rois, probs, deltas, window, config):
    """`DetectionLayer.refine` for one image, without the batch axis (matterport:
    refine_detections_graph)."""
    inputs = [ops.convert_to_tensor(x)[None] for x in (rois, probs, deltas, window)]
    return DetectionLayer(config).refine(*inputs)[0]


# ------------------------------------------------------------------------------------------------
#  Heads (paper, section 3: network architecture)
# ------------------------------------------------------------------------------------------------


def fpn_classifier_graph(
    rois,
    feature_maps,
    image_meta,
    pool_size,
    num_classes,
    train_bn=True,
    fc_layers_size=1024,
    *,
    pooling=None,
    body=None,
    convs=0,
    conv_channels=256,
    conv_norm=Norm(None),
    fcs=2,
    fc_norm=None,
    class_agnostic=False,
):
    """Class and box of each RoI: two fully connected layers (matterport: fpn_classifier_graph).

    Args:
        rois: [B, N, 4] normalised.
        feature_maps: [P2, P3, P4, P5].
        image_meta: [B, meta].
        pool_size: side of the pooled features.
        pooling: a `PyramidROIAlign` to read the RoIs with; None for the original's.
        body: a model of the pooled features [B, N, h, w, C] whose average over h, w then is what
            class and box are read from, in place of the layers below (C4).
        convs, conv_channels, conv_norm: 3x3 convolutions before the fully connected layers.
        fcs, fc_norm: number and norm of the fully connected layers, of fc_layers_size each.
        class_agnostic: one box for all classes.

    Returns:
        logits, probs: [B, N, num_classes].
        deltas: [B, N, num_classes, (dy, dx, log dh, log dw)], divided by BBOX_STD_DEV.
    """
    fc_norm = Norm(train_bn=train_bn) if fc_norm is None else fc_norm
    pooling = pooling or PyramidROIAlign([pool_size, pool_size], name="roi_align_classifier")
    x = pooling([rois, image_meta] + feature_maps)
    for layer in _convolutions("mrcnn_box", convs, conv_channels, conv_norm):
        x = layer(x)
    if body is not None:
        x = body(x)
        x = TimeDistributed(KL.GlobalAveragePooling2D(), name="mrcnn_class_average")(x)
        fcs = 0
    for i in range(1, fcs + 1):
        side = pool_size if i == 1 else 1
        fc = WholeConv2D(fc_layers_size, side, use_bias=fc_norm.conv_bias)
        x = TimeDistributed(fc, name=f"mrcnn_class_conv{i}")(x)
        for layer in fc_norm.layers(f"mrcnn_class_bn{i}", per_roi=True):
            x = layer(x)
        x = KL.Activation("relu")(x)
    rows = rois.shape[1] or -1
    shared = KL.Reshape((rows, math.prod(x.shape[2:])), name="pool_squeeze")(x)

    def in_float32(layer, name):
        layer.dtype_policy = "float32"
        return TimeDistributed(layer, name=name, dtype="float32")

    logits = in_float32(KL.Dense(num_classes), "mrcnn_class_logits")(shared)
    probs = in_float32(KL.Activation("softmax"), "mrcnn_class")(logits)
    x = in_float32(KL.Dense(4 * (1 if class_agnostic else num_classes)), "mrcnn_bbox_fc")(shared)
    if class_agnostic:
        x = ops.tile(x, (1, 1, num_classes))
    deltas = KL.Reshape((rows, num_classes, 4), name="mrcnn_bbox", dtype="float32")(x)
    return logits, probs, deltas


def _convolutions(prefix, count, channels, norm):
    """The layers of `count` 3x3 convolutions of RoIs, each with its norm and a ReLU."""
    layers = []
    for i in range(1, count + 1):
        conv = KL.Conv2D(channels, 3, padding="same", use_bias=norm.conv_bias)
        layers += [
            TimeDistributed(conv, name=f"{prefix}_conv{i}"),
            *norm.layers(f"{prefix}_bn{i}", per_roi=True),
            KL.Activation("relu"),
        ]
    return layers


class MaskHead:
    """The layers of the mask branch, to be applied to several sets of RoIs.

    Four 3x3 convolutions, a transposed one that doubles the size, and a 1x1 to a sigmoid mask for
    each class: classes don't compete for a pixel, the box head has decided among them (paper,
    section 3: L_mask). The paper's ablations are arguments.

    Args:
        pool_size: side of the pooled features.
        channels, convs: width and number of the 3x3 convolutions.
        pooling: a `PyramidROIAlign`; None for the original's.
        norm: of the 3x3 convolutions; None for batch norm of mode train_bn.
        body: a model of the pooled features that comes first (C4).
        mlp: (height, width) of masks that two fully connected layers of mlp_size predict instead;
            None: convolutions.
        softmax: classes and background, class 0, compete for each pixel.
        class_agnostic: one mask for all classes.
    """

    def __init__(
        self,
        pool_size,
        num_classes,
        train_bn=True,
        channels=256,
        *,
        pooling=None,
        norm=None,
        convs=4,
        body=None,
        mlp=None,
        mlp_size=1024,
        softmax=False,
        class_agnostic=False,
    ):
        activation = "softmax" if softmax else "sigmoid"
        outputs = num_classes if not class_agnostic else 2 if softmax else 1
        self.stages = [pooling or PyramidROIAlign([pool_size, pool_size], name="roi_align_mask")]
        self.stages += [body] if body else []
        if mlp:
            self.stages += [TimeDistributed(KL.Flatten())]
            self.stages += [
                TimeDistributed(KL.Dense(mlp_size, activation="relu"), name=f"mrcnn_mask_fc{i}")
                for i in (1, 2)
            ]
            self.stages += [
                TimeDistributed(KL.Dense(math.prod(mlp) * outputs), name="mrcnn_mask_fc3"),
                TimeDistributed(KL.Reshape((*mlp, outputs))),
                KL.Activation(activation, name="mrcnn_mask"),
            ]
        else:
            self.stages += _convolutions(
                "mrcnn_mask", convs, channels, norm or Norm(train_bn=train_bn)
            )
            self.stages += [
                TimeDistributed(
                    KL.Conv2DTranspose(channels, 2, strides=2, activation="relu"),
                    name="mrcnn_mask_deconv",
                ),
                TimeDistributed(KL.Conv2D(outputs, 1, activation=activation), name="mrcnn_mask"),
            ]
        if class_agnostic:
            # The same for every class; with softmax, the background's comes first.
            classes = [0] + [1] * (num_classes - 1) if softmax else [0] * num_classes
            self.stages.append(
                lambda x: ops.take(x, ops.convert_to_tensor(classes, "int32"), axis=-1)
            )

    def __call__(self, rois, feature_maps, image_meta):
        """Masks of rois [B, N, 4]: [B, N, 2 * pool_size, 2 * pool_size, num_classes]."""
        x = [rois, image_meta] + feature_maps
        for stage in self.stages:
            x = stage(x)
        return x


def build_fpn_mask_graph(
    rois, feature_maps, image_meta, pool_size, num_classes, train_bn=True, channels=256
):
    """`MaskHead` applied once (matterport: build_fpn_mask_graph)."""
    return MaskHead(pool_size, num_classes, train_bn, channels)(rois, feature_maps, image_meta)


def res5_head(architecture, depth, pool_size, strides, style):
    """The fifth stage of a ResNet for RoIs [B, N, h, w, depth], as a model: the head of the C4
    body."""
    pooled = KL.Input((None, pool_size, pool_size, depth), name="input_res5")
    style = dataclasses.replace(style, per_roi=True)
    return keras.Model(
        pooled, resnet_stage(pooled, architecture, 5, strides, style), name="res5_head"
    )


class KeypointHead:
    """The layers of the keypoint branch, to be applied to several sets of RoIs (paper, section 5).

    3x3 convolutions, a transposed 4x4 one to a map for each keypoint, and bilinear upscaling:
    logits over the positions of a map four times the pooled size.

    Args:
        pool_size: side of the pooled features.
        convs, channels: number and width of the 3x3 convolutions.
        pooling: a `PyramidROIAlign`; None for the original's.
    """

    def __init__(self, pool_size, num_keypoints, convs=8, channels=512, pooling=None):
        self.stages = [
            pooling or PyramidROIAlign([pool_size, pool_size], name="roi_align_keypoint")
        ]
        self.stages += [
            TimeDistributed(
                KL.Conv2D(
                    channels, 3, padding="same", activation="relu", kernel_initializer="he_normal"
                ),
                name=f"mrcnn_keypoint_conv{i}",
            )
            for i in range(1, convs + 1)
        ]
        self.stages += [
            TimeDistributed(
                KL.Conv2DTranspose(num_keypoints, 4, strides=2, padding="same"),
                name="mrcnn_keypoint_deconv",
            ),
            UpscaleTwice(name="mrcnn_keypoint"),
        ]

    def __call__(self, rois, feature_maps, image_meta):
        """Logits of rois [B, N, 4]: [B, N, 4 * pool_size, 4 * pool_size, num_keypoints]."""
        x = [rois, image_meta] + feature_maps
        for stage in self.stages:
            x = stage(x)
        return x


@register
class UpscaleTwice(KL.Layer):
    """Doubles the sides of maps [B, N, h, w, K] by bilinear interpolation: half-pixel centres,
    clamped edges."""

    def call(self, inputs):
        for axis in (2, 3):
            ahead = [slice(None)] * axis
            first, rest = inputs[(*ahead, slice(0, 1))], inputs[(*ahead, slice(1, None))]
            before = ops.concatenate([first, inputs[(*ahead, slice(0, -1))]], axis=axis)
            after = ops.concatenate([rest, inputs[(*ahead, slice(-1, None))]], axis=axis)
            pairs = ops.stack(
                [0.25 * before + 0.75 * inputs, 0.75 * inputs + 0.25 * after], axis=axis + 1
            )
            shape = list(ops.shape(inputs))
            inputs = ops.reshape(pairs, [*shape[:axis], 2 * shape[axis], *shape[axis + 1 :]])
        return inputs

    def compute_output_shape(self, input_shape):
        return (*input_shape[:2], *(2 * side for side in input_shape[2:4]), input_shape[4])


# ------------------------------------------------------------------------------------------------
#  Losses (paper, section 3: L = L_cls + L_box + L_mask, the RPN's two, and section 5 for keypoints)
# ------------------------------------------------------------------------------------------------
# Each is one mean over what is kept of the whole batch, and 0 where nothing is.


def _mean_where(values, keep):
    """Mean of values [..., K] over the rows that keep [...] marks and over K; 0 without rows."""
    keep = ops.cast(keep, values.dtype)
    per_row = values.shape[-1] if len(values.shape) > len(keep.shape) else 1
    if per_row != 1:
        values = ops.sum(values, axis=-1)
    return ops.sum(values * keep) / ops.maximum(ops.sum(keep) * per_row, 1.0)


def smooth_l1_loss(y_true, y_pred):
    """Smooth L1 of each element, any shape (matterport: smooth_l1_loss)."""
    distance = ops.abs(y_true - y_pred)
    return ops.where(distance < 1.0, 0.5 * distance**2, distance - 0.5)


def _cross_entropy(class_ids, logits):
    """class_ids: [...] int, logits: [..., classes]. Returns [...]."""
    return -ops.take_along_axis(ops.log_softmax(logits, axis=-1), class_ids[..., None], axis=-1)[
        ..., 0
    ]


def rpn_class_loss_graph(rpn_match, rpn_class_logits):
    """Object or not, over the sampled anchors (matterport: rpn_class_loss_graph).

    Args:
        rpn_match: [B, A, 1] int: 1 positive, -1 negative, 0 neutral.
        rpn_class_logits: [B, A, 2].
    """
    match = rpn_match[..., 0]
    loss = _cross_entropy(ops.cast(match == 1, "int32"), rpn_class_logits)
    return _mean_where(loss, match != 0)


def rpn_bbox_loss_graph(config, target_bbox, rpn_match, rpn_bbox):
    """Boxes of the positive anchors (matterport: rpn_bbox_loss_graph).

    Args:
        config: not used.
        target_bbox: [B, n, 4], the deltas of the positive anchors in the order of the anchors.
        rpn_match: [B, A, 1].
        rpn_bbox: [B, A, 4].
    """
    positive = rpn_match[..., 0] == 1
    position = ops.cumsum(ops.cast(positive, "int32"), axis=1) - 1
    position = ops.clip(position, 0, ops.shape(target_bbox)[1] - 1)
    return _mean_where(smooth_l1_loss(_take_rows(target_bbox, position), rpn_bbox), positive)


def mrcnn_class_loss_graph(target_class_ids, pred_class_logits, active_class_ids, valid=None):
    """L_cls: cross-entropy of the RoIs (matterport: mrcnn_class_loss_graph).

    A RoI whose predicted class its image's source does not label is left out.

    Args:
        target_class_ids: [B, N] int, padding rows are 0.
        pred_class_logits: [B, N, classes].
        active_class_ids: [B, classes] of 0 and 1, for each image the classes of its source.
        valid: [B, N] bool, rows that count; None for all, padding included.
    """
    predicted = ops.cast(ops.top_k(pred_class_logits, 1)[1][..., 0], "int32")
    keep = ops.take_along_axis(ops.convert_to_tensor(active_class_ids), predicted, axis=1) > 0
    if valid is not None:
        keep = ops.logical_and(keep, valid)
    return _mean_where(_cross_entropy(ops.cast(target_class_ids, "int32"), pred_class_logits), keep)


def mrcnn_bbox_loss_graph(target_bbox, target_class_ids, pred_bbox):
    """L_box: smooth L1 of the positive RoIs' deltas, of their own class (matterport:
    mrcnn_bbox_loss_graph).

    Args:
        target_bbox: [B, N, 4].
        target_class_ids: [B, N] int.
        pred_bbox: [B, N, classes, 4].
    """
    class_ids = ops.cast(target_class_ids, "int32")
    pred = ops.take_along_axis(pred_bbox, ops.maximum(class_ids, 0)[..., None, None], axis=2)[
        :, :, 0
    ]
    return _mean_where(smooth_l1_loss(target_bbox, pred), class_ids > 0)


def mrcnn_mask_loss_graph(target_masks, target_class_ids, pred_masks, softmax=False):
    """L_mask: mean binary cross-entropy of the positive RoIs' own class's mask (matterport:
    mrcnn_mask_loss_graph).

    Args:
        target_masks: [B, N, h, w] of 0 and 1.
        target_class_ids: [B, N] int.
        pred_masks: [B, N, h, w, classes], probabilities.
        softmax: they add up to 1; off the object the background's, class 0, is to be high
            (multinomial).
    """
    shape = ops.shape(pred_masks)
    classes = pred_masks.shape[-1]
    class_ids = ops.cast(ops.reshape(target_class_ids, (-1,)), "int32")
    by_class = ops.transpose(ops.reshape(pred_masks, (-1, *shape[2:])), (0, 3, 1, 2))
    rows = ops.arange(ops.shape(class_ids)[0], dtype="int32") * classes
    epsilon = 1e-7

    def probability(rows):
        pred = ops.take(ops.reshape(by_class, (-1, shape[2] * shape[3])), rows, axis=0)
        return ops.clip(ops.cast(pred, "float32"), epsilon, 1.0 - epsilon)

    pred = probability(rows + ops.maximum(class_ids, 0))
    absent = probability(rows) if softmax else 1.0 - pred
    target = ops.cast(ops.reshape(target_masks, (-1, shape[2] * shape[3])), "float32")
    loss = -target * ops.log(pred + epsilon) - (1.0 - target) * ops.log(absent + epsilon)
    return _mean_where(ops.mean(loss, axis=-1), class_ids > 0)


def mrcnn_keypoint_loss_graph(target_keypoints, target_class_ids, pred_keypoints):
    """Cross-entropy over the positions of each visible keypoint's map; the mean of those of the
    whole batch.

    Args:
        target_keypoints: [B, N, K] int of `KeypointTargets`; those below 0 are left out.
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
    """One of the losses as a layer of the graph, so that it is an output with a name.

    Args:
        name: of the function.
        softmax_masks: see `mrcnn_mask_loss_graph`.

    Input: the arguments of the function of that name, in order. Output: a scalar, float32.
    """

    def __init__(self, name, softmax_masks=False, **kwargs):
        functions = {
            "rpn_class_loss": rpn_class_loss_graph,
            "rpn_bbox_loss": lambda *x: rpn_bbox_loss_graph(None, *x),
            "mrcnn_class_loss": mrcnn_class_loss_graph,
            "mrcnn_bbox_loss": mrcnn_bbox_loss_graph,
            "mrcnn_mask_loss": lambda *x: mrcnn_mask_loss_graph(*x, softmax=self.softmax_masks),
            "mrcnn_keypoint_loss": mrcnn_keypoint_loss_graph,
        }
        kwargs.setdefault("dtype", "float32")
        super().__init__(name=name, **kwargs)
        if name not in functions:
            raise ValueError(f"name is one of {', '.join(functions)}. Received: {name!r}")
        self.function, self.softmax_masks = functions[name], softmax_masks

    def call(self, inputs):
        return self.function(*inputs)

    def compute_output_shape(self, input_shape):
        return ()

    def get_config(self):
        return {**super().get_config(), "softmax_masks": self.softmax_masks}


class Network(keras.Model):
    """A Keras model whose `.h5` files have the legacy layout, as scripts of Keras 2 expect of
    `keras_model`."""

    def save_weights(self, filepath, overwrite=True, **kwargs):
        """Writes the weights: the legacy layout to `.h5`, Keras's to `.weights.h5`."""
        if not overwrite and os.path.exists(filepath):
            raise FileExistsError(f"{filepath} exists, and overwrite is False")
        weights.save(self, filepath)

    def load_weights(self, filepath, by_name=False, exclude=None, **kwargs):
        """Reads either layout; returns a `weights.Coverage`."""
        return weights.load(self, filepath, by_name=by_name, exclude=exclude or ())


class TrainingModel(Network):
    """The training graph; its loss is the weighted sum of the graph's own losses plus L2.

    Args:
        loss_weights: {name of a loss: weight}; losses without one count 1.
        weight_decay: L2 factor on every trainable weight but those of norms.
        decay_kind, decay_biases: see WEIGHT_DECAY_KIND and WEIGHT_DECAY_ON_BIASES.
        loss_names: of the graph's last outputs, in order.
    """

    def __init__(
        self,
        inputs,
        outputs,
        loss_names=(),
        loss_weights=None,
        weight_decay=0.0,
        decay_kind="mean",
        decay_biases=True,
        **kwargs,
    ):
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self.loss_names, self.weight_decay = list(loss_names), weight_decay
        self.decay_kind, self.undecayed = (
            decay_kind,
            ("gamma", "beta") if decay_biases else ("gamma", "beta", "bias"),
        )
        self.loss_factors = {
            name: float((loss_weights or {}).get(name, 1.0)) for name in loss_names
        }
        self.loss_means = [keras.metrics.Mean(name=name) for name in loss_names]
        self._folded = None

    def fold(self):
        """Folds fixed batch norm from now on: the outputs of convolutions before it need not be
        kept for the gradients."""
        if self._folded is None:
            # Behind a function: Keras would take an attribute that is a model for a layer of this
            # one.
            folded = folding.fold_batch_norm(keras.Model(self.inputs, self.outputs), training=True)
            self._folded = lambda inputs, training: folded(inputs, training=training)

    def call(self, inputs, training=None, mask=None):
        return (
            super().call(inputs, training, mask)
            if self._folded is None
            else self._folded(inputs, training)
        )

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        losses = y_pred[-len(self.loss_names) :]
        total = self.regularization() if self.weight_decay else 0.0
        for name, loss, mean in zip(self.loss_names, losses, self.loss_means):
            mean.update_state(loss)
            total = total + self.loss_factors[name] * loss
        return total

    def train_step(self, *args):
        """One step. On several TensorFlow devices their gradients are averaged before they are
        clipped."""
        if (
            keras.backend.backend() != "tensorflow"
            or self.distribute_strategy.num_replicas_in_sync == 1
        ):
            return super().train_step(*args)
        import tensorflow as tf

        (inputs,) = args[0]
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=inputs, y_pred=self(inputs, training=True))
        self.metrics[0].update_state(loss)
        found = [
            (g, w)
            for g, w in zip(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
            if g is not None
        ]
        gradients = tf.distribute.get_replica_context().all_reduce(
            tf.distribute.ReduceOp.MEAN, [g for g, _ in found]
        )
        if self.optimizer.global_clipnorm:
            gradients, _ = tf.clip_by_global_norm(gradients, self.optimizer.global_clipnorm)
        # The optimizer adds up what it gets from each device, and that is the same from all.
        count = self.distribute_strategy.num_replicas_in_sync
        self.optimizer.apply_gradients([(g / count, w) for g, (_, w) in zip(gradients, found)])
        return self.get_metrics_result()

    def regularization(self):
        """The L2 term, a scalar."""
        terms = [
            kernels.half_of_squares(w)
            * (2 / math.prod(w.shape) if self.decay_kind == "mean" else 1.0)
            for w in self.trainable_weights
            if w.name not in self.undecayed
        ]
        return self.weight_decay * sum(terms) if terms else ops.convert_to_tensor(0.0)


# ------------------------------------------------------------------------------------------------
#  The model
# ------------------------------------------------------------------------------------------------


class MaskRCNN:
    """Mask R-CNN: builds the network, trains it, detects objects (matterport: MaskRCNN).

    Args:
        mode: "training" or "inference".
        config: a `Config`; it is checked.
        model_dir: folder for logs and checkpoints.

    Attributes:
        keras_model: the Keras model. Inference: inputs image, meta, anchors; outputs detections,
            mrcnn_class, mrcnn_bbox, mrcnn_mask, rpn_rois, rpn_class, rpn_bbox, and with
            USE_KEYPOINTS mrcnn_keypoint. Training: see `build`.
        epoch: epochs that the weights have been trained for.
        log_dir, checkpoint_path: where `train` writes.
        anchors: [A, 4], in pixels, of the last `get_anchors`.

    Raises:
        ValueError: an unknown mode, or settings that don't fit together.
    """

    def __init__(self, mode, config, model_dir):
        if mode not in ("training", "inference"):
            raise ValueError(f"mode is 'training' or 'inference'. Received: {mode!r}")
        config.validate()
        kernels.keep_freed_memory()
        self.mode, self.config, self.model_dir = mode, config, os.fspath(model_dir)
        self.epoch = 0
        self._lock = threading.Lock()
        self._functions = OrderedDict()
        self._anchors = OrderedDict()
        self._stages = {}
        self._checked = (
            weakref.WeakSet()
        )  # datasets, so that the next stage of a training starts at once
        self.set_log_dir()
        self._strategy = training.strategy(config.GPU_COUNT) if mode == "training" else None
        with self._devices():
            self.keras_model = self.build(mode, config)
        if mode == "inference":
            inference.compiled(
                self, "boxes"
            )  # a part of building, so that the first detection need not wait for it

    def _devices(self):
        return self._strategy.scope() if self._strategy else contextlib.nullcontext()

    # ---- Building ------------------------------------------------------------------------------

    def build(self, mode, config):
        """Builds the graph (matterport: MaskRCNN.build).

        Training inputs, by name: input_image [B, H, W, C] molded, input_image_meta, input_rpn_match
        [B, A, 1], input_rpn_bbox [B, n, 4], input_gt_class_ids [B, G], input_gt_boxes [B, G, 4] in
        pixels, input_gt_masks [B, h, w, G] (with USE_MASK), input_gt_keypoints [B, G, K, (y, x,
        visibility)] in pixels (with USE_KEYPOINTS), input_roi [B, N, 4] in pixels (without
        USE_RPN_ROIS). Outputs, in order: rpn_class_logits, rpn_class, rpn_bbox, mrcnn_class_logits,
        mrcnn_class, mrcnn_bbox, mrcnn_mask, rpn_rois, output_rois, with USE_KEYPOINTS
        mrcnn_keypoint of the rows that can be positive, and the losses.
        """
        image = KL.Input((None, None, config.IMAGE_CHANNEL_COUNT), name="input_image")
        meta = KL.Input((config.IMAGE_META_SIZE,), name="input_image_meta")
        pyramid, rpn, rpn_model = self._body(image, config)
        if mode == "training":
            return self._training_graph(image, meta, pyramid, rpn, config, rpn_model)
        return self._inference_graph(image, meta, pyramid, rpn, config)

    @staticmethod
    def _body(image, config):
        """Backbone, pyramid and RPN. Returns the maps ([P2..P6], or [C4]) and (logits, probs, bbox)
        of all levels, and the RPN's model."""
        style = MaskRCNN._style(config)
        if callable(config.BACKBONE):
            maps = config.BACKBONE(image, stage5=True, train_bn=config.TRAIN_BN)
        else:
            maps = resnet_graph(image, config.BACKBONE, config.BODY == "fpn", style=style)
        if config.BODY == "fpn":
            pyramid = fpn_graph(
                maps[-4:], config.TOP_DOWN_PYRAMID_SIZE, Norm.of(config, config.FPN_NORM)
            )
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
        levels = zip(*(rpn_model(p) for p in pyramid))
        names = ("rpn_class_logits", "rpn_class", "rpn_bbox")
        rpn = [
            (
                KL.Concatenate(axis=1, name=name, dtype="float32")(list(level))
                if len(level) > 1
                else KL.Identity(name=name, dtype="float32")(level[0])
            )
            for name, level in zip(names, levels)
        ]
        return pyramid, rpn, rpn_model

    @staticmethod
    def _style(config):
        return Style(
            Norm.of(config, config.BACKBONE_NORM),
            stride_in_1x1=config.STRIDE_IN_1X1,
            padding=config.BACKBONE_PADDING,
        )

    @staticmethod
    def _proposals(config, count, limit, rpn, anchors, meta, pyramid):
        """Proposals and which of them are any, from what the RPN says of all levels."""
        logits, probs, bbox = rpn
        layer = ProposalLayer(
            count,
            config.RPN_NMS_THRESHOLD,
            config,
            pre_nms_limit=limit,
            return_valid=True,
            name="ROI",
        )
        extras = (
            [meta, *pyramid]
            if layer.limit_per_level or layer.min_size or layer.clip_to_window
            else []
        )
        return layer([logits if layer.sigmoid else probs, bbox, anchors, *extras])

    @staticmethod
    def _heads(config, maps):
        """The three heads with this configuration's values: f(rois, maps, meta) each, None for one
        not in use."""
        body = (
            None
            if config.BODY == "fpn"
            else res5_head(
                config.BACKBONE,
                maps[0].shape[-1],
                config.POOL_SIZE,
                config.C4_HEAD_STRIDE,
                MaskRCNN._style(config),
            )
        )

        def box_head(rois, maps, meta):
            return fpn_classifier_graph(
                rois,
                maps,
                meta,
                config.POOL_SIZE,
                config.NUM_CLASSES,
                config.TRAIN_BN,
                config.FPN_CLASSIF_FC_LAYERS_SIZE,
                body=body,
                pooling=PyramidROIAlign.of(config, config.POOL_SIZE, "roi_align_classifier"),
                convs=config.BOX_HEAD_CONVS,
                conv_channels=config.BOX_HEAD_CHANNELS,
                conv_norm=Norm.of(config, config.BOX_HEAD_CONV_NORM),
                fcs=config.BOX_HEAD_FCS,
                fc_norm=Norm.of(config, config.BOX_HEAD_NORM),
                class_agnostic=config.CLASS_AGNOSTIC_BOXES,
            )

        mask_head = (
            MaskHead(
                config.MASK_POOL_SIZE,
                config.NUM_CLASSES,
                config.TRAIN_BN,
                config.MASK_HEAD_CHANNELS,
                body=body,
                pooling=PyramidROIAlign.of(config, config.MASK_POOL_SIZE, "roi_align_mask"),
                norm=Norm.of(config, config.MASK_HEAD_NORM),
                convs=config.MASK_HEAD_CONVS,
                mlp=tuple(config.MASK_SHAPE) if config.MASK_HEAD == "mlp" else None,
                mlp_size=config.MASK_MLP_SIZE,
                softmax=config.MASK_ACTIVATION == "softmax",
                class_agnostic=config.CLASS_AGNOSTIC_MASKS,
            )
            if config.USE_MASK
            else None
        )
        keypoint_head = (
            KeypointHead(
                config.KEYPOINT_POOL_SIZE,
                config.NUM_KEYPOINTS,
                config.KEYPOINT_HEAD_CONVS,
                config.KEYPOINT_HEAD_CHANNELS,
                PyramidROIAlign.of(config, config.KEYPOINT_POOL_SIZE, "roi_align_keypoint"),
            )
            if config.USE_KEYPOINTS
            else None
        )
        return box_head, mask_head, keypoint_head

    def _training_graph(self, image, meta, pyramid, rpn, config, rpn_model):
        masks_shape = (
            (*config.MINI_MASK_SHAPE, None) if config.USE_MINI_MASK else (None, None, None)
        )
        match = KL.Input((None, 1), name="input_rpn_match", dtype="int32")
        rpn_target = KL.Input((None, 4), name="input_rpn_bbox")
        class_ids = KL.Input((None,), name="input_gt_class_ids", dtype="int32")
        boxes = KL.Input((None, 4), name="input_gt_boxes")
        inputs = [image, meta, match, rpn_target, class_ids, boxes]
        truth = [
            class_ids,
            NormalizeBoxes(min_pixels=1, frame=config.BOX_FRAME, name="gt_boxes")([boxes, image]),
        ]
        if config.USE_MASK:
            # uint8: a bool tensor can't be split over devices.
            truth.append(KL.Input(masks_shape, name="input_gt_masks", dtype="uint8"))
            inputs.append(truth[-1])
        if config.USE_KEYPOINTS:
            points = KL.Input((None, config.NUM_KEYPOINTS, 3), name="input_gt_keypoints")
            inputs.append(points)
        anchors = PyramidAnchors(
            config.RPN_ANCHOR_SCALES,
            config.RPN_ANCHOR_RATIOS,
            config.BACKBONE_STRIDES,
            config.RPN_ANCHOR_STRIDE,
            config.BOX_FRAME,
            config.RPN_ANCHOR_ROUNDING,
            name="anchors",
        )([image] + pyramid)
        rpn_logits, rpn_class, rpn_bbox = rpn
        rpn_rois, valid = self._proposals(
            config,
            config.POST_NMS_ROIS_TRAINING,
            config.PRE_NMS_LIMIT_TRAINING,
            rpn,
            anchors,
            meta,
            pyramid,
        )
        proposals = rpn_rois
        if not config.USE_RPN_ROIS:
            inputs.append(KL.Input((None, 4), name="input_roi"))
            proposals, valid = NormalizeBoxes(
                return_valid=True, frame=config.BOX_FRAME, name="input_rois"
            )([inputs[-1], image])
        targets = DetectionTargetLayer(
            config, return_objects=config.USE_KEYPOINTS, name="proposal_targets"
        )
        rois, target_ids, target_bbox, *rest = targets([proposals, *truth, valid])

        maps = pyramid[:4]
        box_head, mask_head, keypoint_head = self._heads(config, maps)
        logits, probs, bbox = box_head(rois, maps, meta)
        active = KL.Identity(name="active_class_ids", dtype="float32")(meta[:, 12:])
        class_inputs = [target_ids, logits, active]
        if not config.CLASS_LOSS_ON_PADDING:
            class_inputs.append(ops.any(rois != 0, axis=-1))
        sampled = [match, rpn_logits, rpn_bbox]
        if (config.RPN_ANCHOR_STRIDE, config.RPN_CONVS, config.RPN_SCORE) == (1, 1, "softmax"):
            sampled = SampledRPN(
                rpn_model, config.RPN_TRAIN_ANCHORS_PER_IMAGE, name="sampled_anchors"
            )([match, *pyramid])
        losses = [
            LossLayer("rpn_class_loss")(sampled[:2]),
            LossLayer("rpn_bbox_loss")([rpn_target, sampled[0], sampled[2]]),
            LossLayer("mrcnn_class_loss")(class_inputs),
            LossLayer("mrcnn_bbox_loss")([target_bbox, target_ids, bbox]),
        ]
        outputs = [rpn_logits, rpn_class, rpn_bbox, logits, probs, bbox]
        if config.USE_MASK:
            masks, truth = self._training_masks(
                mask_head, rois, maps, meta, [rest[0], target_ids], targets.positive_rows, config
            )
            losses.append(
                LossLayer("mrcnn_mask_loss", config.MASK_ACTIVATION == "softmax")(
                    [*truth, masks[0]]
                )
            )
            outputs.append(masks[0] if len(masks) == 1 else ops.concatenate(masks, axis=1))
        outputs += [rpn_rois, KL.Identity(name="output_rois", dtype="float32")(rois)]
        if config.USE_KEYPOINTS:
            # Only rows that can be positive have a loss, and the head has no statistics that others
            # would move.
            rows = targets.positive_rows
            outputs.append(keypoint_head(rois[:, :rows], maps, meta))
            positions = KeypointTargets(
                4 * config.KEYPOINT_POOL_SIZE, config.BOX_FRAME, name="keypoint_targets"
            )([rois[:, :rows], rest[-1][:, :rows], points, image])
            losses.append(
                LossLayer("mrcnn_keypoint_loss")([positions, target_ids[:, :rows], outputs[-1]])
            )
        names = [
            loss
            for loss, used in zip(
                (*config_module.LOSS_NAMES, config_module.KEYPOINT_LOSS),
                (True, True, True, True, config.USE_MASK, config.USE_KEYPOINTS),
            )
            if used
        ]
        # AdamW decouples the decay from the loss: the optimizer applies it
        # (training.make_optimizer).
        decay = 0.0 if config.OPTIMIZER == "adamw" else config.WEIGHT_DECAY
        return TrainingModel(
            inputs,
            outputs + losses,
            names,
            config.LOSS_WEIGHTS,
            decay,
            config.WEIGHT_DECAY_KIND,
            config.WEIGHT_DECAY_ON_BIASES,
            name="mask_rcnn",
        )

    @staticmethod
    def _training_masks(mask_head, rois, maps, meta, truth, positive_rows, config):
        """Masks of the RoIs in one or two parts, and the truth [masks, class ids] of the first, the
        one with a loss.

        Only positive rows have a loss. With fixed batch norm the others are a second part, computed
        only if somebody asks for that output; with trained batch norm they would take part in its
        statistics, so that either all rows are one part or those that can't be positive are left at
        zero.
        """
        fixed = config.TRAIN_BN is False
        positives_only = (
            fixed if config.MASK_HEAD_ON_POSITIVES is None else config.MASK_HEAD_ON_POSITIVES
        )
        if not positives_only:
            return [mask_head(rois, maps, meta)], truth
        if fixed:
            cut = SplitPositives(positive_rows, config.FUSED_KERNELS, name="positive_rois")
            first, others, *truth = cut([truth[1], rois, *truth])
            return [mask_head(first, maps, meta), mask_head(others, maps, meta)], truth
        first = mask_head(rois[:, :positive_rows], maps, meta)
        rest = config.TRAIN_ROIS_PER_IMAGE - positive_rows
        return (
            [first, ops.zeros_like(first[:, :1]) + ops.zeros((1, rest, 1, 1, 1))],
            [x[:, :positive_rows] for x in truth],
        )

    def _inference_graph(self, image, meta, pyramid, rpn, config):
        anchors = KL.Input((None, 4), name="input_anchors")
        _, rpn_class, rpn_bbox = rpn
        rois, valid = self._proposals(
            config, config.POST_NMS_ROIS_INFERENCE, None, rpn, anchors, meta, pyramid
        )
        maps = pyramid[:4]
        box_head, mask_head, keypoint_head = self._heads(config, maps)
        _, probs, bbox = box_head(rois, maps, meta)
        detections = DetectionLayer(config, name="mrcnn_detection")(
            [rois, probs, bbox, meta, valid]
        )
        inputs, outputs = [image, meta, anchors], [detections, probs, bbox]
        self._mask_model = self._keypoint_model = None
        # The same layers for any number of rows: `detect` runs them on those that hold a detection.
        boxes, boxes_meta = KL.Input((None, 4)), KL.Input((config.IMAGE_META_SIZE,))
        features = [KL.Input((None, None, level.shape[-1]), dtype=level.dtype) for level in maps]
        if config.USE_MASK:
            outputs.append(mask_head(detections[..., :4], maps, meta))
            self._mask_model = keras.Model(
                [boxes, boxes_meta, *features], mask_head(boxes, features, boxes_meta)
            )
        outputs += [rois, rpn_class, rpn_bbox]
        if config.USE_KEYPOINTS:
            outputs.append(keypoint_head(detections[..., :4], maps, meta))
            self._keypoint_model = keras.Model(
                [boxes, boxes_meta, *features], keypoint_head(boxes, features, boxes_meta)
            )
        self._box_model = keras.Model(inputs, [detections, *maps], name="mask_rcnn_boxes")
        return Network(inputs, outputs, name="mask_rcnn")

    # ---- Files -----------------------------------------------------------------------------------

    def find_last(self):
        """The last checkpoint of this NAME in `model_dir`, a string that also unpacks as (folder,
        file).

        Raises:
            FileNotFoundError: no run, or a run without a checkpoint.
        """
        return training.find_last(self.model_dir, self.config.NAME)

    def load_weights(self, filepath, by_name=False, exclude=None):
        """Loads a weight file and takes up its run (matterport: load_weights).

        Args:
            filepath: a legacy `.h5`, a Keras `.weights.h5`, or a checkpoint of torchvision (a state
                dict of arrays, `.npz` or `.pth`; see `mrcnn.torchvision`).
            by_name: allow that parts of the network are missing in the file.
            exclude: names of layers to leave as they are; implies by_name.

        Returns:
            a `weights.Coverage`: what was loaded, missing, ignored or mismatched.
        """
        coverage = weights.load(
            self.keras_model, filepath, by_name=by_name or bool(exclude), exclude=exclude or ()
        )
        logger.info("%s", coverage.summary())
        self.set_log_dir(filepath if isinstance(filepath, (str, os.PathLike)) else None)
        return coverage

    def save_weights(self, filepath):
        """Saves the weights; `.h5` is the legacy layout, `.weights.h5` Keras's."""
        weights.save(self.keras_model, filepath)

    def get_imagenet_weights(self):
        """Path of a legacy `.h5` of the backbone trained on ImageNet, made on first use (ResNet-50,
        101, 152)."""
        return weights.get_imagenet_weights(self.config.BACKBONE, self.config.BATCH_NORM_EPSILON)

    def set_log_dir(self, model_path=None):
        """Sets `log_dir`, `checkpoint_path` and `epoch`: a new run, or that of a checkpoint.

        Args:
            model_path: a checkpoint; of a name that is none, a new run begins.
        """
        found = training.parse_checkpoint(model_path) if model_path else None
        if found:
            self.log_dir, self.epoch = found
        else:
            now = datetime.datetime.now()
            name = (self.config.NAME or "mask_rcnn").lower()
            self.log_dir, self.epoch = os.path.join(self.model_dir, f"{name}{now:%Y%m%dT%H%M}"), 0
        name = (self.config.NAME or "mask_rcnn").lower()
        self.checkpoint_path = os.path.join(self.log_dir, f"mask_rcnn_{name}_*epoch*.h5").replace(
            "*epoch*", "{epoch:04d}"
        )

    # ---- Training --------------------------------------------------------------------------------

    def compile(self, learning_rate, momentum):
        """Makes a new optimizer for the layers that are trainable now (matterport: compile)."""
        with self._devices():
            optimizer = training.make_optimizer(self.config, learning_rate, momentum)
            optimizer.build(self.keras_model.trainable_variables)
            self.keras_model.fold()
            self.keras_model.compile(optimizer=optimizer, jit_compile=False)

    def set_trainable(self, layer_regex, keras_model=None, indent=0, verbose=1):
        """Makes the layers that the regex matches, whole, trainable and freezes the others.

        Args:
            layer_regex: a regular expression of layer names, such as
                r"(mrcnn_.*)|(rpn_.*)|(fpn_.*)".
            verbose: 1 logs the layers that train.
        """
        for layer in (keras_model or self.keras_model).layers:
            if isinstance(layer, keras.Model):
                self.set_trainable(layer_regex, layer, indent + 4, verbose)
                continue
            if not layer.weights:
                continue
            layer.trainable = bool(re.fullmatch(layer_regex, layer.name))
            inner = getattr(layer, "layer", None)
            if inner is not None:
                inner.trainable = layer.trainable
            if layer.trainable and verbose:
                logger.info("%strain %-20s (%s)", " " * indent, layer.name, type(layer).__name__)

    def train(
        self,
        train_dataset,
        val_dataset,
        learning_rate,
        epochs,
        layers,
        augmentation=None,
        custom_callbacks=None,
        no_augmentation_sources=None,
    ):
        """Trains (matterport: train).

        Both datasets are checked before the first step. A checkpoint follows each epoch; beside it
        lies what resuming in the middle of an epoch needs.

        Args:
            train_dataset, val_dataset: prepared `Dataset`s; val_dataset may be None.
            learning_rate: of this call.
            epochs: number of the last epoch, not a count: after `epochs=20`, `epochs=30` trains 10
                more.
            layers: "heads", "3+", "4+", "5+", "all", or a regex of layer names.
            augmentation: an imgaug augmenter, or f(image, masks) -> (image, masks).
            custom_callbacks: Keras callbacks, called after the checkpoint's.
            no_augmentation_sources: sources of images that are not augmented.

        Returns:
            keras.callbacks.History.

        Raises:
            ValueError: not in training mode, `epochs` already reached, a dataset with problems.
            training.BadLossError: a loss became NaN or infinite.
        """
        if self.mode != "training":
            raise ValueError(
                f"train() needs a model in mode 'training'. Received: mode {self.mode!r}"
            )
        if epochs <= self.epoch:
            raise ValueError(
                f"epochs is the number of the last epoch and above {self.epoch}, the epoch that "
                f"the weights have reached. Received: {epochs}"
            )
        for dataset in (train_dataset, val_dataset):
            if dataset is not None and dataset not in self._checked:
                data.check_dataset(dataset, self.config)
                self._checked.add(dataset)
        run = training.Run(
            self,
            train_dataset,
            val_dataset,
            learning_rate,
            epochs,
            LAYER_CHOICES.get(layers, layers),
            augmentation,
            custom_callbacks,
            no_augmentation_sources,
        )
        return run.fit()

    # ---- Detection -------------------------------------------------------------------------------

    def mold_inputs(self, images):
        """Resizes and normalises images (matterport: mold_inputs).

        Args:
            images: list of [H, W] or [H, W, C] arrays of any sizes, uint8 or float.

        Returns:
            molded_images: [B, h, w, C] float32.
            image_metas: [B, meta]; windows: [B, (y1, x1, y2, x2)] in pixels of the molded image.

        Raises:
            ValueError: an image with other channels than IMAGE_CHANNEL_COUNT, or molded images of
                different sizes (`detect` takes those).
        """
        molded = [
            inference.mold(image, self.config, f"image {i}") for i, image in enumerate(images)
        ]
        shapes = sorted({image.shape for image, _, _ in molded})
        if len(shapes) > 1:
            raise ValueError(
                "Molded images of one batch have one size; IMAGE_RESIZE_MODE "
                f"{self.config.IMAGE_RESIZE_MODE!r} made {shapes}; use detect(), which groups them"
            )
        return tuple(np.stack(part) for part in zip(*molded))

    def unmold_detections(self, detections, mrcnn_mask, original_image_shape, image_shape, window):
        """Detections of one image in the frame of the original (matterport: unmold_detections).

        Args:
            detections: [N, (y1, x1, y2, x2, class_id, score)], boxes normalised, zero rows at the
                end.
            mrcnn_mask: [N, h, w, classes], or [N, h, w] of the detected classes, or None.
            original_image_shape, image_shape: (H, W, C) before and after molding.
            window: (y1, x1, y2, x2) of the image in the molded one, in pixels.

        Returns:
            boxes [n, 4] int32 in pixels (float32 without ROUND_DETECTIONS), class_ids [n] int32,
            scores [n] float32, and masks [H, W, n] bool (None for None). Boxes without area are
            left out.
        """
        return inference.unmold(
            detections, mrcnn_mask, original_image_shape, image_shape, window, self.config
        )

    def detect(self, images, verbose=0, masks="dense"):
        """Detects objects (matterport: detect).

        Args:
            images: list of images of any number, sizes and dtypes, see `mold_inputs`.
            masks: what `masks` of a result is. "dense": bool [H, W, N]; "lazy": an
                `inference.Masks`, which becomes that array, or one mask, or one crop, when asked
                for; "rle": a list of COCO's run-length encodings. The latter two never hold whole
                masks.

        Returns:
            a list of dicts, one for each image: rois [N, (y1, x1, y2, x2)] int32 in pixels,
                class_ids
            [N] int32, scores [N] float32, masks (None with USE_MASK = False); best first. With
            USE_KEYPOINTS also keypoints [N, K, (y, x, score)] float32 in pixels.
        """
        self._check_inference("detect")
        if verbose:
            log(f"Processing {len(images)} images")
        if len(self.config.TEST_SCALES) or self.config.TEST_FLIP:
            from mrcnn import tta

            return tta.detect(self, images, masks)
        return inference.detect(self, images, masks)

    def detect_many(self, images, load=None, masks="dense"):
        """`detect` of any number of images, one result after the other, in order: for folders and
        streams.

        The next images are read and molded while the network runs, and the last ones' masks are
        made.

        Args:
            images: iterable of images, or of what `load` makes an image of, such as paths.
            load: f(item) -> image; it is called in threads.
            masks: as in `detect`.

        Yields:
            the result of each image.
        """
        self._check_inference("detect_many")
        return inference.detect_many(self, images, load, masks)

    def detect_molded(self, molded_images, image_metas, verbose=0):
        """`detect` for molded images (matterport: detect_molded); boxes and masks in the molded
        frame.

        Args:
            molded_images: [B, h, w, C] float32, all of one size.
            image_metas: [B, meta].
        """
        self._check_inference("detect_molded")
        if len({np.shape(image) for image in molded_images}) > 1:
            raise ValueError(
                "Molded images have one size. Received: "
                f"{sorted({np.shape(image) for image in molded_images})}"
            )
        molded_images = np.asarray(molded_images)
        shape = molded_images[0].shape
        parts = inference.infer(
            self, molded_images, np.asarray(image_metas), self.get_anchors(shape)
        )
        window = (0, 0, *shape[:2])
        return [
            inference.result(parts, i, shape, shape, window, self.config)
            for i in range(len(molded_images))
        ]

    def _check_inference(self, name):
        if self.mode != "inference":
            raise ValueError(
                f"{name}() needs a model in mode 'inference'. Received: mode {self.mode!r}"
            )

    def get_anchors(self, image_shape):
        """Anchors of a molded image, normalised [A, 4] float32 (matterport: get_anchors); also sets
        `anchors`."""
        config = self.config
        key = tuple(int(side) for side in image_shape[:2])
        with self._lock:
            found = self._anchors.pop(key, None)
            if found is None:
                pixels = data.compute_anchors(config, image_shape)
                found = pixels, utils.norm_boxes(pixels, key, config.BOX_FRAME)
            self._anchors[key] = found
            while len(self._anchors) > 8:
                self._anchors.popitem(last=False)
        self.anchors, normalised = found
        return normalised.copy()

    # ---- Looking inside --------------------------------------------------------------------------

    def ancestor(self, tensor, name, checked=None):
        """A tensor for `run_graph` by the name that notebooks of 2018 ask for, or None (matterport:
        ancestor).

        Args:
            tensor: not needed here; the whole graph is searched.
            name: a layer's, in TensorFlow 1 spellings too ("mrcnn_class/Reshape:0"); or a stage of
                the proposals: "ROI/pre_nms_anchors:0", "ROI/refined_anchors:0",
                "ROI/refined_anchors_clipped:0", or "ROI/rpn_non_max_suppression:0", [N] int32 of
                the first image.
            checked: not used.
        """
        return tracing.find_tensor(self, name)

    def find_trainable_layer(self, layer):
        """The layer inside a wrapper such as TimeDistributed."""
        return (
            self.find_trainable_layer(layer.layer)
            if isinstance(layer, KL.TimeDistributed)
            else layer
        )

    def get_trainable_layers(self):
        """All layers that have weights."""
        found = (self.find_trainable_layer(layer) for layer in self.keras_model.layers)
        return [layer for layer in found if layer.weights]

    def run_graph(self, images, outputs, image_metas=None):
        """Runs images through parts of the inference graph (matterport: run_graph).

        Args:
            images: list of images; already molded ones if `image_metas` is given.
            outputs: list of (name, tensor); None in place of a tensor takes the layer of that name.
            image_metas: [B, meta].

        Returns:
            OrderedDict {name: array}.

        Raises:
            ValueError: a name that is no layer.
        """
        return tracing.run_graph(self, images, outputs, image_metas)

    def trace(self, image, activations=()):
        """Every stage of one image in numpy and pixels, from anchors to pasted masks: a
        `trace.Trace`.

        Args:
            image: as one of `detect`'s.
            activations: names of layers whose outputs are wanted too.
        """
        return tracing.trace(self, image, activations)


# What `train(layers=)` may be besides a regex.
LAYER_CHOICES = {"heads": r"(mrcnn_.*)|(rpn_.*)|(fpn_.*)", "all": ".*"}
for _first in (3, 4, 5):
    _stages = "|".join(f"(res{stage}.*)|(bn{stage}.*)" for stage in range(_first, 6))
    LAYER_CHOICES[f"{_first}+"] = f"{_stages}|{LAYER_CHOICES['heads']}"


# ------------------------------------------------------------------------------------------------
#  Image meta and small helpers
# ------------------------------------------------------------------------------------------------


def parse_image_meta_graph(meta):
    """The parts of image metas [B, 1 + 3 + 3 + 4 + 1 + classes] (matterport:
    parse_image_meta_graph)."""
    return {
        "image_id": meta[:, 0],
        "original_image_shape": meta[:, 1:4],
        "image_shape": meta[:, 4:7],
        "window": meta[:, 7:11],
        "scale": meta[:, 11],
        "active_class_ids": meta[:, 12:],
    }


def trim_zeros_graph(boxes, name="trim_zeros"):
    """Rows of boxes [N, 4] that are not all zero, and which [N] bool (matterport:
    trim_zeros_graph).

    The network itself marks validity by masks; this is for code that used it. TensorFlow only.
    """
    import tensorflow as tf

    keep = tf.reduce_any(tf.convert_to_tensor(boxes) != 0, axis=1)
    return tf.boolean_mask(boxes, keep, name=name), keep


def batch_pack_graph(x, counts, num_rows):
    """The first counts[i] rows of each x[i], end to end (matterport: batch_pack_graph).

    Args:
        x: [B, N, ...].
        counts: [B] int.
        num_rows: B.
    """
    return ops.concatenate([x[i, : counts[i]] for i in range(num_rows)], axis=0)


@register
class NormalizeBoxes(KL.Layer):
    """Pixel boxes to normalised ones, by the size of the image.

    Args:
        min_pixels: sides of boxes without extent after normalising (those of one pixel) are widened
            to so many pixels about their centre, or an object of one pixel could never be matched.
        return_valid: also return which boxes are not zero rows, [B, N] bool; decided before
            normalising, after which zero rows are no longer zero.
        frame: BOX_FRAME.

    Input: [boxes [B, N, 4] in pixels, image [B, H, W, C]]. Output: [B, N, 4].
    """

    def __init__(self, min_pixels=0, return_valid=False, frame="centers", **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.min_pixels, self.return_valid, self.frame = min_pixels, return_valid, frame

    def call(self, inputs):
        pixels, image = inputs
        size = ops.stack([ops.cast(ops.shape(image)[axis], "float32") for axis in (1, 2)])
        boxes = norm_boxes_graph(pixels, size, self.frame)
        if self.min_pixels:
            half = 0.5 * self.min_pixels / (size - 1.0)
            thin = boxes[..., 2:] - boxes[..., :2] <= 0
            boxes = ops.concatenate(
                [
                    ops.where(thin, boxes[..., :2] - half, boxes[..., :2]),
                    ops.where(thin, boxes[..., 2:] + half, boxes[..., 2:]),
                ],
                axis=-1,
            )
        return (boxes, ops.any(pixels != 0, axis=-1)) if self.return_valid else boxes

    def compute_output_shape(self, input_shape):
        shape = tuple(input_shape[0])
        return (shape, shape[:2]) if self.return_valid else shape

    def compute_output_spec(self, inputs):
        boxes = keras.KerasTensor(inputs[0].shape, "float32")
        return (boxes, keras.KerasTensor(boxes.shape[:2], "bool")) if self.return_valid else boxes

    def get_config(self):
        names = "min_pixels return_valid frame".split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
