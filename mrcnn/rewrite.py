"""Faster, equivalent forms of the network, which share its variables.

In detection and in training, frozen batch norm is folded into the convolution before it. For
detection on a CPU or with PyTorch, convolutions have the form that its kernels run fastest, and the
mask head computes the mask of the detected class alone. In training, the RPN's loss reads the
sampled anchors alone, the mask head runs on positive RoIs, and the mask loss reads the logits of
the true class. Weights that are loaded or set later take effect at once: no results are cached,
except those of `PreparedConv`, which are recomputed where a weight has changed.
"""

import contextlib
import functools
import importlib
import math
from typing import Any

import keras
from keras import layers as KL, ops

from mrcnn import ops as kernels

# Classes of layers that compute the same as Keras's own. Only these are rewritten, since another
# subclass may compute something else.
CONVOLUTIONS = {KL.Conv2D}
BATCH_NORMS = {KL.BatchNormalization}

register = keras.saving.register_keras_serializable("mrcnn")


def computes_conv2d(cls: type) -> type:
    """Class decorator that declares that a subclass of `Conv2D` computes the same."""
    CONVOLUTIONS.add(cls)
    return cls


def computes_batch_norm(cls: type) -> type:
    """Class decorator that declares that a subclass of `BatchNormalization` computes the same."""
    BATCH_NORMS.add(cls)
    return cls


class Untracked:
    """Hides a value from Keras: layers whose variables belong to another layer or model.

    Keras tracks a layer that is an attribute of another one as its sublayer, and would list its
    variables twice: in files, in the number of parameters, in the L2 term.
    """

    def __init__(self, value: Any):
        self.value = value


def inner(layer: Any) -> Any:
    """The layer inside `TimeDistributed`, or the layer itself."""
    if isinstance(layer, KL.TimeDistributed):
        return layer.layer
    return layer


# ---- Folded convolutions -------------------------------------------------------------------------


class FoldedConv(KL.Layer):
    """A convolution with the frozen batch norm after it, from the current variables of both.

    Args:
        conv, norm: the two layers, either both inside `TimeDistributed` or neither.
    """

    def __init__(self, conv: Any, norm: Any, **kwargs: Any):
        # Kernels are multiplied by the statistics in float32, in which both are stored, under every
        # dtype policy.
        super().__init__(autocast=False, **kwargs)
        self.conv = conv
        self.norm = norm

    def call(self, inputs: Any) -> Any:
        inputs = ops.cast(inputs, self.compute_dtype)
        if len(inputs.shape) != 5:
            return self._compute(inputs)
        return kernels.unfold_rois(self._compute(kernels.fold_rois(inputs)), inputs)

    def _compute(self, x):
        """The output for x [B, H, W, C]."""
        with self._after(x):
            kernel, bias = self._kernel_and_bias()
        x = self._convolve(x, ops.cast(kernel, self.compute_dtype))
        return _add_bias(x, ops.cast(bias, self.compute_dtype))

    def _kernel_and_bias(self):
        """The folded kernel [h, w, in, out] and bias [out], in the dtype of the variables."""
        conv = inner(self.conv)
        norm = inner(self.norm)
        scale = ops.rsqrt(norm.moving_variance + norm.epsilon)
        if norm.scale:
            scale = scale * norm.gamma
        bias = -norm.moving_mean
        if conv.use_bias:
            bias = conv.bias + bias
        bias = bias * scale
        if norm.center:
            bias = bias + norm.beta
        return conv.kernel * scale, bias

    def _covers_input(self, x):
        """Whether the kernel covers the whole input, so that a matrix product is enough."""
        conv = inner(self.conv)
        has_same_size = tuple(x.shape[1:3]) == conv.kernel_size
        return has_same_size and conv.padding == "valid" and conv.groups == 1

    def _convolve(self, x, kernel):
        """The convolution of x [B, H, W, C] with a kernel, by a matrix product where possible."""
        conv = inner(self.conv)
        filters = kernel.shape[-1]
        if not self._covers_input(x):
            return ops.conv(
                x, kernel, list(conv.strides), conv.padding, conv.data_format, conv.dilation_rate
            )
        x = ops.reshape(x, (-1, math.prod(x.shape[1:])))
        x = ops.matmul(x, ops.reshape(kernel, (-1, filters)))
        return ops.reshape(x, (-1, 1, 1, filters))

    @staticmethod
    def _after(inputs):
        """A scope whose operations run after `inputs` is computed.

        Otherwise TensorFlow would compute the folded kernels of all layers at the start and hold
        them in memory.
        """
        if keras.backend.backend() != "tensorflow":
            return contextlib.nullcontext()
        import tensorflow as tf

        # oneDNN fuses a padding with its convolution: the kernel must not depend on the padding.
        if tf.is_symbolic_tensor(inputs) and inputs.op.type == "Pad":
            inputs = inputs.op.inputs[0]
        return tf.control_dependencies([inputs])

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor(self.conv.compute_output_shape(inputs.shape), self.compute_dtype)


class CPUConv(FoldedConv):
    """`FoldedConv` for detection with TensorFlow's CPU kernels in float32.

    TensorFlow fuses `FusedBatchNormV3` into the convolution before it, so that the kernel need not
    be multiplied by its scale. Besides, oneDNN takes up to one and a half times as long for a wide
    3x3 convolution as for its filters in groups of 64.

    Args:
        conv, norm: see `FoldedConv`; norm None where no frozen batch norm follows.

    Output: see `FoldedConv`; for a wide convolution the list of its groups [B, h, w, GROUP], see
    `by_groups`.
    """

    GROUP = 64

    def _compute(self, x):
        conv = inner(self.conv)
        finish, values = self._finish()
        if not self.by_groups(self.conv):
            return finish(self._convolve(x, ops.convert_to_tensor(conv.kernel)), *values)
        count = conv.filters // self.GROUP
        with self._after(x):
            split = [ops.split(value, count, axis=-1) for value in (conv.kernel, *values)]
        outputs = []
        for kernel, *group_values in zip(*split):
            outputs.append(finish(self._convolve(x, kernel), *group_values))
        return outputs

    def compute_output_spec(self, inputs: Any) -> Any:
        output = super().compute_output_spec(inputs)
        if not self.by_groups(self.conv):
            return output
        shape = (*output.shape[:3], self.GROUP)
        count = self.conv.filters // self.GROUP
        return [keras.KerasTensor(shape, output.dtype) for _ in range(count)]

    def _finish(self):
        """The operation after the convolution, f(its output, *values), and its values by column."""
        conv = inner(self.conv)
        norm = inner(self.norm)
        if norm is None:
            return self._bias_and_activation(conv)

        import tensorflow as tf

        mean = norm.moving_mean
        if conv.use_bias:
            mean = mean - conv.bias
        gamma = ops.ones_like(mean)
        if norm.scale:
            gamma = norm.gamma
        beta = ops.zeros_like(mean)
        if norm.center:
            beta = norm.beta

        def normalise(y, gamma, beta, mean, variance):
            fused = tf.raw_ops.FusedBatchNormV3(
                x=y,
                scale=gamma,
                offset=beta,
                mean=mean,
                variance=variance,
                epsilon=norm.epsilon,
                is_training=False,
            )
            return fused.y

        values = (gamma, beta, mean, norm.moving_variance)
        return normalise, [ops.convert_to_tensor(value) for value in values]

    @staticmethod
    def _bias_and_activation(conv):
        """`_finish` for a convolution without batch norm."""
        if not conv.use_bias:
            return conv.activation, []

        def add_bias_and_activate(y, bias):
            return conv.activation(_add_bias(y, bias))

        return add_bias_and_activate, [conv.bias]

    @classmethod
    def by_groups(cls, conv: Any) -> bool:
        """Whether this convolution of whole images is faster in groups of filters.

        It is not for 100 RoIs, nor with other kernels than oneDNN's.
        """
        if not _is_convolution(conv) or conv.kernel_size != (3, 3) or conv.groups != 1:
            return False
        # Activations that work on each filter separately.
        if conv.activation not in (keras.activations.linear, keras.activations.relu):
            return False
        wide = conv.filters >= 4 * cls.GROUP and conv.filters % cls.GROUP == 0
        return wide and _runs_onednn()


class PreparedConv(FoldedConv):
    """`FoldedConv` for detection with PyTorch, with a cached kernel in PyTorch's memory layout.

    Keras transposes each kernel to PyTorch's order of axes in each call, which takes longer than
    the convolution of a small map. Here that and the folding are done once, and again where a
    variable was assigned or trained since. The cache holds the kernels a second time.

    Args:
        conv, norm: see `FoldedConv`; norm None where no frozen batch norm follows.
    """

    def __init__(self, conv: Any, norm: Any, **kwargs: Any):
        super().__init__(conv, norm, **kwargs)
        # The cache: (states of the variables, kernel, bias).
        self._prepared = Untracked(None)

    def _compute(self, x):
        kernel, bias = self._prepare(self._covers_input(x))
        y = self._convolve(x, kernel)
        if bias is not None:
            y.add_(bias)
        if self.norm is None:
            y = inner(self.conv).activation(y)
        return y

    def _prepare(self, as_matrix):
        """The kernel, and the bias or None, in the compute dtype.

        as_matrix: whether a matrix product uses the kernel, see `_convolve`.
        """
        from mrcnn import torch_kernels

        state = [as_matrix, *map(torch_kernels.state_of, self._variables())]
        prepared = self._prepared.value
        if prepared is None or not _are_same(prepared[0], state):
            kernel, bias = self._kernel_and_bias()
            kernel = ops.cast(kernel, self.compute_dtype)
            if not as_matrix:
                kernel = torch_kernels.as_read(kernel)
            if bias is not None:
                bias = ops.cast(bias, self.compute_dtype)
            prepared = (state, kernel, bias)
            self._prepared.value = prepared
        return prepared[1:]

    def _kernel_and_bias(self):
        conv = inner(self.conv)
        if self.norm is not None:
            return super()._kernel_and_bias()
        bias = None
        if conv.use_bias:
            bias = ops.convert_to_tensor(conv.bias)
        return ops.convert_to_tensor(conv.kernel), bias

    def _variables(self):
        """The variables that kernel and bias are computed from."""
        conv = inner(self.conv)
        values = [conv.kernel]
        if conv.use_bias:
            values.append(conv.bias)
        if self.norm is not None:
            norm = inner(self.norm)
            values += [norm.moving_mean, norm.moving_variance]
            values += [value for value in (norm.gamma, norm.beta) if value is not None]
        return values


def _are_same(before, now):
    """Whether two states of `PreparedConv` are equal, see `torch_kernels.state_of`."""
    if before[0] != now[0]:
        return False
    for (tensor, version), (other, other_version) in zip(before[1:], now[1:], strict=True):
        if tensor is not other or version != other_version:
            return False
    return True


class SumOfGroups(KL.Layer):
    """A 1x1 convolution of the groups of a `CPUConv`, which need not be concatenated.

    The RPN's largest map has 134 MB at 1024².

    Args:
        conv: the convolution.

    Input: list of [B, h, w, CPUConv.GROUP]. Output: [B, h, w, filters].
    """

    def __init__(self, conv: Any, **kwargs: Any):
        super().__init__(**kwargs)
        self.conv = conv

    def call(self, groups: Any) -> Any:
        parts = ops.split(self.conv.kernel, len(groups), axis=2)
        total = 0
        for group, kernel in zip(groups, parts):
            total = total + ops.conv(group, kernel, 1, "valid", "channels_last")
        if self.conv.use_bias:
            total = _add_bias(total, self.conv.bias)
        return self.conv.activation(total)

    def compute_output_spec(self, groups: Any) -> Any:
        return keras.KerasTensor((*groups[0].shape[:3], self.conv.filters), self.compute_dtype)

    @staticmethod
    def computes(conv: Any) -> bool:
        """Whether a `SumOfGroups` can replace this layer."""
        return (
            _is_convolution(conv)
            and conv.kernel_size == conv.strides == (1, 1)
            and conv.groups == 1
        )


def _runs_onednn():
    """Whether TensorFlow uses oneDNN (by default, or by TF_ENABLE_ONEDNN_OPTS)."""
    try:
        # There is no public function.
        from tensorflow.python.util import _pywrap_util_port as port

        return bool(port.IsMklEnabled())
    except (ImportError, AttributeError):
        return False


def _fuses_batch_norm():
    """Whether a convolution with fused batch norm is as fast as one with a bias.

    With oneDNN on a processor without AVX-512, where oneDNN is off by default, it takes 10 to 30
    times as long.
    """
    return _has_avx512() or not _runs_onednn()


@functools.cache
def _has_avx512():
    """Whether the processor has AVX-512; False where numpy does not report it."""
    try:
        # There is no public function.
        module = importlib.import_module("numpy._core._multiarray_umath")
    except ImportError:
        return False
    return bool(getattr(module, "__cpu_features__", {}).get("AVX512F"))


def _add_bias(x, bias):
    if keras.backend.backend() != "tensorflow":
        return x + bias
    import tensorflow as tf

    return tf.nn.bias_add(x, bias)  # TensorFlow fuses it with convolution and activation


def _on_cpu(policy):
    """Whether a layer with this dtype policy runs on TensorFlow's CPU kernels in float32."""
    if keras.backend.backend() != "tensorflow":
        return False
    if keras.dtype_policies.get(policy).compute_dtype != "float32":
        return False
    import tensorflow as tf

    return not tf.config.get_visible_devices("GPU")


def _is_convolution(layer):
    return type(layer) in CONVOLUTIONS and layer.data_format == "channels_last"


# ---- Rewriting a model ---------------------------------------------------------------------------


def fold_batch_norm(model: Any, training: bool = False) -> Any:
    """An equivalent functional model with each convolution and its frozen batch norm as one layer.

    It shares all weights.

    Args:
        model: the functional model.
        training: True: fold only batch norm that is frozen in training (`BatchNorm` of train_bn
            False); the gradients are those of the original layers. False: for detection, in which
            all batch norm is frozen but that of train_bn True. On a CPU most layers are then
            `CPUConv`, also wide 3x3 convolutions without batch norm, and 1x1 convolutions after
            these are `SumOfGroups`; with PyTorch all convolutions are `PreparedConv`.
    """
    rewriter = Rewriter(type(model), training)
    return keras.models.clone_model(
        model, clone_function=lambda layer: layer, call_function=rewriter.call
    )


class Rewriter:
    """Calls the layers of a functional model in their order, or the layers that replace them.

    Tensors are looked up by their ids, and are kept so that no id is used again.

    Args:
        model_type: class of the model; nested models of this class are rewritten too.
        training: see `fold_batch_norm`.
    """

    def __init__(self, model_type: type, training: bool):
        self.model_type = model_type
        self.training = training
        self.fixed_modes: tuple = (False,)
        if not training:
            self.fixed_modes = (None, False)
        self._convolutions: dict = {}  # {id of a convolution's output: (the layer, its input)}
        self._groups: dict = {}  # {id of a concatenated map: the groups it consists of}
        self._replacements: dict = {}  # {(purpose, ids of layers): the layer that replaces them}
        self._kept_tensors: list = []

    def call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        """The outputs of a layer, or of the layer that replaces it."""
        inputs = kwargs.get("inputs")
        if args:
            inputs = args[0]
        conv, conv_inputs = self._convolutions.get(id(inputs), (None, None))
        if conv is not None and self._is_foldable(conv, layer):
            outputs = self._folded(conv, layer)(conv_inputs)
            return self._concatenated(outputs, conv, layer)
        outputs = self._outputs_of(layer, inputs, args, kwargs)
        if _is_convolution(inner(layer)):
            # If batch norm is folded into it, this output is not used in the new model.
            self._convolutions[id(outputs)] = (layer, inputs)
            self._kept_tensors.append(outputs)
        return outputs

    def _outputs_of(self, layer, inputs, args, kwargs):
        """The outputs of a layer that is not folded into a convolution."""
        if self.training:
            return layer(*args, **kwargs)
        if type(layer) is self.model_type:
            nested = self._replacement("model", [layer], lambda: fold_batch_norm(layer))
            return nested(*args, **kwargs)
        if _is_convolution(inner(layer)) and keras.backend.backend() == "torch":
            return self._folded(layer)(inputs)
        on_cpu = _is_convolution(layer) and _on_cpu(layer.dtype_policy)
        if on_cpu and CPUConv.by_groups(layer):
            return self._concatenated(self._folded(layer)(inputs), layer)
        if id(inputs) in self._groups and SumOfGroups.computes(layer):
            total = self._replacement("sum", [layer], lambda: self._sum_of_groups(layer))
            return total(self._groups[id(inputs)])
        return layer(*args, **kwargs)

    def _is_foldable(self, conv, norm):
        """Whether `norm` is a frozen batch norm that can be folded into the convolution."""
        conv = inner(conv)
        norm = inner(norm)
        if type(norm) not in BATCH_NORMS or norm.axis not in (-1, 3, 4):
            return False
        if getattr(norm, "train_bn", None) not in self.fixed_modes:
            return False
        return _is_convolution(conv) and conv.activation is keras.activations.linear

    def _replacement(self, purpose, layers, make):
        """The layer that replaces `layers`, which is made by make() in the first of their calls.

        Layers may be called several times, as the mask head is in training.
        """
        key = (purpose, *map(id, layers))
        if key not in self._replacements:
            self._replacements[key] = make()
        return self._replacements[key]

    def _folded(self, conv, norm=None):
        """The layer that replaces a convolution and the batch norm after it, if any."""
        layers = [conv]
        if norm is not None:
            layers.append(norm)
        return self._replacement("folded", layers, lambda: self._fold(conv, norm))

    def _fold(self, conv, norm):
        """Makes the layer of `_folded`."""
        policy = inner(conv).dtype_policy
        # A 1x1 convolution that increases the channels is the last of a residual block or its
        # shortcut. TensorFlow fuses the addition after it if it has a bias, not with batch norm.
        kernel_size = inner(conv).kernel_size
        widens = kernel_size == (1, 1) and inner(conv).filters > inner(conv).kernel.shape[-2]
        is_bias_faster = widens or not _fuses_batch_norm()
        kind = CPUConv
        if self.training or not _on_cpu(policy) or (norm is not None and is_bias_faster):
            kind = FoldedConv
        if keras.backend.backend() == "torch" and not self.training:
            kind = PreparedConv
        name = f"{conv.name}_folded"
        if norm is not None:
            name = f"{conv.name}_{norm.name}_folded"
        return kind(conv, norm, dtype=policy, name=name)

    @staticmethod
    def _sum_of_groups(layer):
        return SumOfGroups(layer, dtype=layer.dtype_policy, name=layer.name + "_sum")

    def _concatenated(self, outputs, *layers):
        """The map [B, h, w, C] of the groups that a `CPUConv` returns; other outputs as they are.

        Where only `SumOfGroups` follows, the new model does not contain the concatenation.
        """
        if not isinstance(outputs, list):
            return outputs
        name = "_".join(layer.name for layer in layers) + "_joined"
        dtype = outputs[0].dtype
        concatenate = self._replacement(
            "concatenated", layers, lambda: KL.Concatenate(dtype=dtype, name=name)
        )
        concatenated = concatenate(outputs)
        self._groups[id(concatenated)] = outputs
        self._kept_tensors.append(concatenated)
        return concatenated


# ---- The mask of the detected class --------------------------------------------------------------


class DetectedClass(KL.Layer):
    """The last layers of a mask head for the detected classes alone, such as one mask of 81.

    Args:
        conv: the 1x1 convolution that predicts the masks of all classes; None where the input is
            these masks.
        doubling: the transposed convolution before it, with 2x2 kernels and strides, if this layer
            computes it as well.

    Input: [features [B, N, h, w, C] or masks [B, N, h, w, classes], class_ids [B, N] int32].
    Output: [B, N, h, w], with `doubling` twice as high and wide.
    """

    def __init__(self, conv: Any = None, doubling: Any = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.conv = conv
        self.doubling = doubling

    def call(self, inputs: Any) -> Any:
        x, class_ids = inputs
        if self.conv is None:
            indices = class_ids[:, :, None, None, None]
            return ops.take_along_axis(x, indices, axis=-1)[..., 0]
        shape = ops.shape(x)
        if self.doubling is not None:
            x = self._upsampled(x)
        class_kernels = ops.take(ops.transpose(self.conv.kernel[0, 0]), class_ids, axis=0)
        pixels = ops.reshape(x, (*shape[:2], -1, class_kernels.shape[-1]))
        masks = ops.matmul(pixels, class_kernels[..., None])[..., 0]
        if self.conv.use_bias:
            masks = masks + ops.take(self.conv.bias, class_ids)[..., None]
        masks = self.conv.activation(masks)
        if self.doubling is not None:
            masks = ops.reshape(masks, (*shape[:4], 2, 2))
            masks = ops.transpose(masks, (0, 1, 2, 4, 3, 5))
        return ops.reshape(masks, (*shape[:2], *self._output_size(shape)))

    def _upsampled(self, x):
        """The transposed convolution as a matrix product, with 2x2 outputs a cell: [cells, 4 * C].

        `call` rearranges the pixels of the final mask only, not those of its features.
        """
        kernel = ops.transpose(self.doubling.kernel, (3, 0, 1, 2))
        channels = x.shape[-1]
        x = ops.reshape(x, (-1, channels))
        x = ops.matmul(x, ops.reshape(kernel, (channels, -1)))
        if self.doubling.use_bias:
            x = _add_bias(x, ops.tile(self.doubling.bias, [4]))
        return self.doubling.activation(x)

    def _output_size(self, shape):
        """(height, width) of the masks for features of a shape."""
        if self.doubling is None:
            return shape[2:4]
        return [2 * side for side in shape[2:4]]

    def compute_output_spec(self, inputs: Any) -> Any:
        shape = inputs[0].shape
        return keras.KerasTensor((*shape[:2], *self._output_size(shape)), self.compute_dtype)


def of_detected_class(head: Any) -> Any:
    """A mask head that computes the masks [B, N, h, w] of the detected classes alone.

    It has one more input, class_ids [B, N] int32, and shares all weights.
    """
    # int32, since bfloat16 can't represent 257.
    class_ids = KL.Input((None,), dtype="int32", name="class_ids")
    inputs = [*head.inputs, class_ids]
    conv, features = _last_layer(head.output)
    if not _predicts_sigmoid_masks(conv):
        return keras.Model(inputs, DetectedClass(dtype="float32")([head.output, class_ids]))
    doubling, doubling_inputs = _last_layer(features)
    if _is_upsampling(doubling):
        features = doubling_inputs
    else:
        doubling = None
    last = DetectedClass(conv, doubling, dtype=conv.dtype_policy)
    return keras.Model(inputs, last([features, class_ids]))


def _predicts_sigmoid_masks(layer):
    """Whether a layer is a 1x1 convolution with a sigmoid, in which classes are independent."""
    return (
        type(layer) is KL.Conv2D
        and layer.kernel_size == (1, 1)
        and layer.activation is keras.activations.sigmoid
    )


def _is_upsampling(layer):
    """Whether a layer is a transposed convolution that maps each cell to 2x2, without overlap."""
    return (
        type(layer) is KL.Conv2DTranspose
        and layer.kernel_size == layer.strides == (2, 2)
        and layer.data_format == "channels_last"
    )


def _last_layer(tensor):
    """(layer, its input) of the layer inside `TimeDistributed` that made a tensor; (None, None)."""
    layer, index, _ = tensor._keras_history
    if not isinstance(layer, KL.TimeDistributed):
        return None, None
    return layer.layer, layer._inbound_nodes[index].input_tensors[0]


# ---- Training ------------------------------------------------------------------------------------


@register
class SampledRPN(KL.Layer):
    """The RPN's outputs for the sampled anchors, computed from the 3x3 patches around them.

    The outputs equal those gathered from the RPN's maps. But the gradient of whole maps, zero
    almost everywhere, costs a fourth of a training step; here it flows through a few hundred
    patches.

    Args:
        rpn_model: a 3x3 convolution and two 1x1 ones, see `model.rpn_graph`; its weights are not
            weights of this layer.
        count: the most sampled anchors of an image.

    Input: [rpn_match [B, A, 1], P2, ... P6]; anchors with a match other than 0 are sampled.
    Output: match [B, count, 1], class_logits [B, count, logits of an anchor], bbox [B, count, 4];
    first the sampled anchors in their order, then padding with match 0.
    """

    def __init__(self, rpn_model: Any, count: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.count = count
        self._rpn = Untracked(rpn_model)  # it is a layer of the training graph itself

    @property
    def rpn_model(self) -> Any:
        """The model whose layers are applied."""
        return self._rpn.value

    def _heads(self):
        """The two 1x1 convolutions, of class logits and of box deltas."""
        return [self.rpn_model.get_layer(name) for name in ("rpn_class_raw", "rpn_bbox_pred")]

    def call(self, inputs: Any) -> Any:
        match = inputs[0]
        maps = inputs[1:]
        shared = self.rpn_model.get_layer("rpn_conv_shared")
        heads = self._heads()
        anchors_per_cell = heads[1].filters // 4
        anchors, is_sampled = self._sampled_anchors(match)
        x = kernels.cell_patches(maps, anchors // anchors_per_cell)
        x = ops.matmul(x, ops.reshape(shared.kernel, (-1, shared.filters)))
        x = ops.relu(x + shared.bias)
        outputs = []
        for head in heads:
            y = ops.matmul(x, head.kernel[0, 0]) + head.bias
            anchor_channels = head.filters // anchors_per_cell
            y = ops.reshape(y, (*ops.shape(anchors), anchors_per_cell, anchor_channels))
            outputs.append(kernels.pick(y, anchors % anchors_per_cell))
        match = kernels.mask_rows(kernels.take_rows(match, anchors), is_sampled)
        return (match, *outputs)

    def _sampled_anchors(self, match):
        """Indices of the sampled anchors, int32, and False for padding; both [B, count]."""
        is_sampled = ops.cast(match[..., 0] != 0, "float32")
        missing = kernels.shortfall(self.count, ops.shape(match)[1])
        is_sampled = ops.pad(is_sampled, [[0, 0], [0, missing]])
        is_sampled, anchors = kernels.top_k(is_sampled, self.count)  # of equals the first
        anchors = ops.where(is_sampled > 0, ops.cast(anchors, "int32"), 0)
        return anchors, is_sampled > 0

    def compute_output_spec(self, inputs: Any) -> Any:
        batch = inputs[0].shape[0]
        logits, bbox = self._heads()
        match = keras.KerasTensor((batch, self.count, 1), "int32")
        outputs = [match]
        for size in (4 * logits.filters // bbox.filters, 4):
            outputs.append(keras.KerasTensor((batch, self.count, size), self.compute_dtype))
        return tuple(outputs)

    def get_config(self) -> dict[str, Any]:
        rpn_model = keras.saving.serialize_keras_object(self.rpn_model)
        return {**super().get_config(), "rpn_model": rpn_model, "count": self.count}

    @classmethod
    def from_config(cls, config: Any) -> Any:
        # When a whole model is loaded, Keras returns its RPN here, not a copy.
        rpn_model = keras.saving.deserialize_keras_object(config["rpn_model"])
        return cls(**{**config, "rpn_model": rpn_model})


@register
class SplitPositives(KL.Layer):
    """Splits RoIs after the last row n that is positive in any image of the batch.

    Positive RoIs come first, so that only the first n rows need the mask head. n depends on the
    data, which XLA and JAX don't allow: there it is `positive_rows`.

    Args:
        positive_rows: the most rows that can be positive.
        fused: see `mrcnn.ops`.

    Input: [class_ids [B, R], rois [B, R, 4], further tensors [B, R, ...]]. Output: the first n >= 1
    rows of the RoIs, the other rows, and the first n rows of each further tensor.
    """

    def __init__(self, positive_rows: int, fused: bool | None = None, **kwargs: Any):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.positive_rows = positive_rows
        self.fused = fused

    def call(self, inputs: Any) -> Any:
        class_ids, rois, *rest = inputs
        count = self.positive_rows
        if kernels.kernels_of(self.fused) != "portable":
            most = ops.max(ops.sum(ops.cast(class_ids > 0, "int32"), axis=1))
            count = ops.clip(most, 1, self.positive_rows)
        return (rois[:, :count], rois[:, count:], *[x[:, :count] for x in rest])

    def compute_output_spec(self, inputs: Any) -> Any:
        _, rois, *rest = inputs
        outputs = []
        for x in (rois, rois, *rest):
            outputs.append(keras.KerasTensor((x.shape[0], None, *x.shape[2:]), x.dtype))
        return tuple(outputs)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "positive_rows": self.positive_rows,
            "fused": self.fused,
        }


@register
class MaskLogits(KL.Layer):
    """The logits of a mask head's last layer, for the loss.

    A probability that rounds to 0 or 1 has no gradient, its logit has one. Only the true class's
    mask has a loss, so that the other classes' masks are not computed, 79 of COCO's 80.

    Args:
        last: a 1x1 convolution of RoIs inside `TimeDistributed`; its weights are not weights of
            this layer.
        all_classes: compute all masks, for classes that compete (softmax).

    Input: [features [B, N, h, w, C], indices of masks [B, N] int32]. Output: [B, N, h, w], or with
    all_classes [B, N, h, w, masks].
    """

    def __init__(self, last: Any, all_classes: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.all_classes = all_classes
        self._last = Untracked(last)  # it is a layer of the training graph itself

    @property
    def last(self) -> Any:
        """The layer whose weights are applied."""
        return self._last.value

    def build(self, input_shape: Any) -> None:
        if not self.last.built:
            self.last.build(input_shape[0])

    def call(self, inputs: Any) -> Any:
        features, indices = inputs
        conv = inner(self.last)
        shape = ops.shape(features)
        pixels = ops.reshape(features, (*shape[:2], -1, features.shape[-1]))
        if self.all_classes:
            logits = ops.matmul(pixels, conv.kernel[0, 0]) + conv.bias
            return ops.reshape(logits, (*shape[:4], conv.filters))
        mask_kernels = ops.take(ops.transpose(conv.kernel[0, 0]), indices, axis=0)
        logits = ops.matmul(pixels, mask_kernels[..., None])[..., 0]
        logits = logits + ops.take(conv.bias, indices)[..., None]
        return ops.reshape(logits, shape[:4])

    def compute_output_spec(self, inputs: Any) -> Any:
        shape = inputs[0].shape[:4]
        if self.all_classes:
            shape = (*shape, inner(self.last).filters)
        return keras.KerasTensor(shape, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        last = keras.saving.serialize_keras_object(self.last)
        return {**super().get_config(), "last": last, "all_classes": self.all_classes}

    @classmethod
    def from_config(cls, config: Any) -> Any:
        # As in `SampledRPN`, when a whole model is loaded this is its own layer.
        last = keras.saving.deserialize_keras_object(config["last"])
        return cls(**{**config, "last": last})
