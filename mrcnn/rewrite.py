"""The network rewritten for speed: layers that compute the same from the same variables.

In detection and in training, fixed batch norm becomes a part of the convolution before it. For
detection on a CPU or by PyTorch, convolutions take the form that its kernels run fastest, and the
mask head computes the detected class alone. In training, the RPN's loss reads the sampled anchors
alone, the mask head the positive RoIs, and the masks' loss the logits of the true class. Weights
that are loaded or set later are used at once: nothing is stored, but what PyTorch's detection has
prepared, which is made anew where a weight has changed.
"""

import contextlib
import functools
import importlib
import math
from typing import Any

import keras
from keras import layers as KL, ops

from mrcnn import ops as kernels

# Classes of layers that compute what Keras's own does, which a subclass need not: only these are
# rewritten.
CONVOLUTIONS = {KL.Conv2D}
BATCH_NORMS = {KL.BatchNormalization}

register = keras.saving.register_keras_serializable("mrcnn")


def computes_conv2d(cls: type) -> type:
    """Class decorator: a subclass of `Conv2D` that computes the same."""
    CONVOLUTIONS.add(cls)
    return cls


def computes_batch_norm(cls: type) -> type:
    """Class decorator: a subclass of `BatchNormalization` that computes the same."""
    BATCH_NORMS.add(cls)
    return cls


class Untracked:
    """Holds layers whose variables belong to another layer or model.

    Keras takes a layer that is an attribute for a part of the layer that has the attribute, and
    would list its variables twice: in files, in the number of parameters, in the L2 term.
    """

    def __init__(self, value: Any):
        self.value = value


def inner(layer: Any) -> Any:
    """The layer inside `TimeDistributed`, or the layer itself."""
    if isinstance(layer, KL.TimeDistributed):
        return layer.layer
    return layer


# ---- Convolution and batch norm as one -----------------------------------------------------------


class FoldedConv(KL.Layer):
    """A convolution and the fixed batch norm behind it as one, from the live variables of both.

    Args:
        conv, norm: the two layers, each or none inside `TimeDistributed`.
    """

    def __init__(self, conv: Any, norm: Any, **kwargs: Any):
        # Statistics and kernels are multiplied as they are stored, in float32, whatever the policy
        # computes in.
        super().__init__(autocast=False, **kwargs)
        self.conv = conv
        self.norm = norm

    def call(self, inputs: Any) -> Any:
        inputs = ops.cast(inputs, self.compute_dtype)
        if len(inputs.shape) != 5:
            return self._normalised(inputs)
        return kernels.unfold_rois(self._normalised(kernels.fold_rois(inputs)), inputs)

    def _normalised(self, x):
        with self._after(x):
            kernel, bias = self._kernel_and_bias()
        x = self._convolved(x, ops.cast(kernel, self.compute_dtype))
        return _add_bias(x, ops.cast(bias, self.compute_dtype))

    def _kernel_and_bias(self):
        """Those of the one convolution, as they are stored."""
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

    def _is_whole(self, x):
        """Whether the kernel covers the input, so that one product of matrices does it."""
        conv = inner(self.conv)
        covers_all = tuple(x.shape[1:3]) == conv.kernel_size
        return covers_all and conv.padding == "valid" and conv.groups == 1

    def _convolved(self, x, kernel):
        conv = inner(self.conv)
        filters = kernel.shape[-1]
        if not self._is_whole(x):
            return ops.conv(
                x, kernel, list(conv.strides), conv.padding, conv.data_format, conv.dilation_rate
            )
        x = ops.reshape(x, (-1, math.prod(x.shape[1:])))
        x = ops.matmul(x, ops.reshape(kernel, (-1, filters)))
        return ops.reshape(x, (-1, 1, 1, filters))

    @staticmethod
    def _after(inputs):
        """A scope whose operations wait for `inputs`.

        TensorFlow would make the kernels of all layers at the start, and hold them, if nothing told
        it to wait.
        """
        if keras.backend.backend() != "tensorflow":
            return contextlib.nullcontext()
        import tensorflow as tf

        # oneDNN makes one operation of a padding and its convolution: what waits for the one may
        # not be read by the other.
        if tf.is_symbolic_tensor(inputs) and inputs.op.type == "Pad":
            inputs = inputs.op.inputs[0]
        return tf.control_dependencies([inputs])

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor(self.conv.compute_output_shape(inputs.shape), self.compute_dtype)


class CPUConv(FoldedConv):
    """The same operation for detection by TensorFlow's CPU kernels in float32.

    TensorFlow fuses `FusedBatchNormV3` into the convolution before it, so that no kernel has to be
    multiplied by its scale. And oneDNN's kernels take up to half as long again for a wide 3x3
    kernel as for its columns in groups of 64.

    Args:
        conv, norm: see `FoldedConv`; norm None where no fixed batch norm follows.

    Output: as `FoldedConv`; of a wide kernel the list of its groups [B, h, w, GROUP], see
    `by_groups`.
    """

    GROUP = 64

    def _normalised(self, x):
        conv = inner(self.conv)
        finish, values = self._finish()
        if not self.by_groups(self.conv):
            return finish(self._convolved(x, ops.convert_to_tensor(conv.kernel)), *values)
        count = conv.filters // self.GROUP
        with self._after(x):
            split = [ops.split(value, count, axis=-1) for value in (conv.kernel, *values)]
        outputs = []
        for kernel, *group_values in zip(*split):
            outputs.append(finish(self._convolved(x, kernel), *group_values))
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
            return self._activate(conv)

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
    def _activate(conv):
        """`_finish` of a convolution without batch norm."""
        if not conv.use_bias:
            return conv.activation, []

        def add_bias_and_activate(y, bias):
            return conv.activation(_add_bias(y, bias))

        return add_bias_and_activate, [conv.bias]

    @classmethod
    def by_groups(cls, conv: Any) -> bool:
        """Whether this convolution of an image is faster in groups.

        Of 100 RoIs it is not, nor by other kernels than oneDNN's.
        """
        if not _is_convolution(conv) or conv.kernel_size != (3, 3) or conv.groups != 1:
            return False
        # Functions of each column for itself.
        if conv.activation not in (keras.activations.linear, keras.activations.relu):
            return False
        wide = conv.filters >= 4 * cls.GROUP and conv.filters % cls.GROUP == 0
        return wide and _runs_onednn()


class PreparedConv(FoldedConv):
    """The same operation for detection by PyTorch, with the kernel as it is read there.

    Keras turns each kernel into PyTorch's order of axes in each call, which takes longer than a
    convolution of a small map: here that is done once, with the product by batch norm's scale. Made
    anew where a variable was assigned or trained since. It holds the kernels a second time.

    Args:
        conv, norm: see `FoldedConv`; norm None where no fixed batch norm follows.
    """

    def __init__(self, conv: Any, norm: Any, **kwargs: Any):
        super().__init__(conv, norm, **kwargs)
        # What was prepared last: (states of the variables, kernel, bias).
        self._prepared = Untracked(None)

    def _normalised(self, x):
        kernel, bias = self._prepare(self._is_whole(x))
        y = self._convolved(x, kernel)
        if bias is not None:
            y.add_(bias)
        if self.norm is None:
            y = inner(self.conv).activation(y)
        return y

    def _prepare(self, whole):
        """Kernel, or the matrix of a whole one, and bias or None, in the dtype that is computed."""
        from mrcnn import torch_kernels

        state = [whole, *map(torch_kernels.state_of, self._variables())]
        prepared = self._prepared.value
        if prepared is None or not _are_same(prepared[0], state):
            kernel, bias = self._kernel_and_bias()
            kernel = ops.cast(kernel, self.compute_dtype)
            if not whole:
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
    """Whether two states of variables, see `torch_kernels.state_of`, are of the same values."""
    if before[0] != now[0]:
        return False
    for (tensor, version), (other, other_version) in zip(before[1:], now[1:], strict=True):
        if tensor is not other or version != other_version:
            return False
    return True


class SumOfGroups(KL.Layer):
    """A 1x1 convolution of the groups of a `CPUConv`, which need not become one map.

    The RPN's largest map is of 134 MB at 1024².

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
        """Whether it can take the place of this layer."""
        return (
            _is_convolution(conv)
            and conv.kernel_size == conv.strides == (1, 1)
            and conv.groups == 1
        )


def _runs_onednn():
    """Whether TensorFlow computes by oneDNN (its choice, or TF_ENABLE_ONEDNN_OPTS)."""
    try:
        # No public function says it.
        from tensorflow.python.util import _pywrap_util_port as port

        return bool(port.IsMklEnabled())
    except (ImportError, AttributeError):
        return False


def _fuses_batch_norm():
    """Whether a convolution with batch norm is as fast as one with a bias.

    By oneDNN without AVX-512, which is on where a program asks for it, it takes 10 to 30 times as
    long.
    """
    return _has_avx512() or not _runs_onednn()


@functools.cache
def _has_avx512():
    """Whether the processor has AVX-512; False where numpy can't tell."""
    try:
        # numpy has no public function for it.
        module = importlib.import_module("numpy._core._multiarray_umath")
    except ImportError:
        return False
    return bool(getattr(module, "__cpu_features__", {}).get("AVX512F"))


def _add_bias(x, bias):
    if keras.backend.backend() != "tensorflow":
        return x + bias
    import tensorflow as tf

    return tf.nn.bias_add(x, bias)  # TensorFlow fuses it with what is around it


def _on_cpu(policy):
    """Whether TensorFlow's CPU kernels compute a layer of that policy in float32."""
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
    """The same functional model with each convolution and its fixed batch norm as one layer.

    It shares all weights.

    Args:
        training: True: only batch norm that is fixed in training (`BatchNorm` of train_bn False),
            and the gradients are those of the layers. False: for detection, in which all but
                train_bn
            True is fixed; on a CPU most layers are `CPUConv` then, wide 3x3 convolutions without
            batch norm too, and 1x1 convolutions behind these `SumOfGroups`. By PyTorch all
            convolutions are `PreparedConv` then.
    """
    rewriter = Rewriter(type(model), training)
    return keras.models.clone_model(
        model, clone_function=lambda layer: layer, call_function=rewriter.call
    )


class Rewriter:
    """Calls the layers of a functional model in their order, some by what computes the same.

    Tensors are known by their ids; each is kept, so that its id stays its own.

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
        self._convolutions: dict = {}  # id of a convolution's output: (the layer, its input)
        self._groups: dict = {}  # id of a joined map: the groups it was joined of
        self._made: dict = {}  # (purpose, ids of layers): the layer in their place
        self._kept_tensors: list = []

    def call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        """The outputs of a layer, by the layer or by what takes its place."""
        inputs = kwargs.get("inputs")
        if args:
            inputs = args[0]
        conv, conv_inputs = self._convolutions.get(id(inputs), (None, None))
        if conv is not None and self._is_foldable(conv, layer):
            outputs = self._merged(conv, layer)(conv_inputs)
            return self._joined(outputs, conv, layer)
        outputs = self._outputs_of(layer, inputs, args, kwargs)
        if _is_convolution(inner(layer)):
            # Where batch norm follows, this output is no part of the new model.
            self._convolutions[id(outputs)] = (layer, inputs)
            self._kept_tensors.append(outputs)
        return outputs

    def _outputs_of(self, layer, inputs, args, kwargs):
        """The outputs of a layer that is not folded into a convolution."""
        if self.training:
            return layer(*args, **kwargs)
        if type(layer) is self.model_type:
            nested = self._once("model", [layer], lambda: fold_batch_norm(layer))
            return nested(*args, **kwargs)
        if _is_convolution(inner(layer)) and keras.backend.backend() == "torch":
            return self._merged(layer)(inputs)
        on_cpu = _is_convolution(layer) and _on_cpu(layer.dtype_policy)
        if on_cpu and CPUConv.by_groups(layer):
            return self._joined(self._merged(layer)(inputs), layer)
        if id(inputs) in self._groups and SumOfGroups.computes(layer):
            total = self._once("sum", [layer], lambda: self._sum_of_groups(layer))
            return total(self._groups[id(inputs)])
        return layer(*args, **kwargs)

    def _is_foldable(self, conv, norm):
        conv = inner(conv)
        norm = inner(norm)
        if type(norm) not in BATCH_NORMS or norm.axis not in (-1, 3, 4):
            return False
        if getattr(norm, "train_bn", None) not in self.fixed_modes:
            return False
        return _is_convolution(conv) and conv.activation is keras.activations.linear

    def _once(self, purpose, layers, make):
        """One layer in the place of these for all calls, as in training the mask head has two."""
        key = (purpose, *map(id, layers))
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _merged(self, conv, norm=None):
        """One layer for a convolution and what follows it."""
        layers = [conv]
        if norm is not None:
            layers.append(norm)
        return self._once("merged", layers, lambda: self._merge(conv, norm))

    def _merge(self, conv, norm):
        policy = inner(conv).dtype_policy
        # What widens by 1x1 ends a residual block or is its shortcut; the sum there becomes a part
        # of a convolution with a bias, not of one with batch norm.
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

    def _joined(self, outputs, *layers):
        """One map of what a `CPUConv` gives in groups.

        Where only `SumOfGroups` follows, it is no part of the new model.
        """
        if not isinstance(outputs, list):
            return outputs
        name = "_".join(layer.name for layer in layers) + "_joined"
        dtype = outputs[0].dtype
        join = self._once("joined", layers, lambda: KL.Concatenate(dtype=dtype, name=name))
        whole = join(outputs)
        self._groups[id(whole)] = outputs
        self._kept_tensors.append(whole)
        return whole


# ---- The mask of the detected class --------------------------------------------------------------


class DetectedClass(KL.Layer):
    """The last layers of a mask head for the detected classes alone: one of 81 masks to compute.

    Args:
        conv: the 1x1 convolution that predicts every class's mask; None where the input is these
            masks.
        doubling: the transposed convolution before it, of 2x2 kernels and strides, where this layer
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
            x = self._doubled(x)
        kernels_ = ops.take(ops.transpose(self.conv.kernel[0, 0]), class_ids, axis=0)
        pixels = ops.reshape(x, (*shape[:2], -1, kernels_.shape[-1]))
        masks = ops.matmul(pixels, kernels_[..., None])[..., 0]
        if self.conv.use_bias:
            masks = masks + ops.take(self.conv.bias, class_ids)[..., None]
        masks = self.conv.activation(masks)
        if self.doubling is not None:
            masks = ops.reshape(masks, (*shape[:4], 2, 2))
            masks = ops.transpose(masks, (0, 1, 2, 4, 3, 5))
        return ops.reshape(masks, (*shape[:2], *self._sides(shape)))

    def _doubled(self, x):
        """Each cell becomes 2x2 by one product of matrices: [cells, 4 * C].

        Only the finished mask is put in order, not its features.
        """
        kernel = ops.transpose(self.doubling.kernel, (3, 0, 1, 2))
        channels = x.shape[-1]
        x = ops.reshape(x, (-1, channels))
        x = ops.matmul(x, ops.reshape(kernel, (channels, -1)))
        if self.doubling.use_bias:
            x = _add_bias(x, ops.tile(self.doubling.bias, [4]))
        return self.doubling.activation(x)

    def _sides(self, shape):
        if self.doubling is None:
            return shape[2:4]
        return [2 * side for side in shape[2:4]]

    def compute_output_spec(self, inputs: Any) -> Any:
        shape = inputs[0].shape
        return keras.KerasTensor((*shape[:2], *self._sides(shape)), self.compute_dtype)


def of_detected_class(head: Any) -> Any:
    """A mask head that gives the masks [B, N, h, w] of the detected classes alone.

    It has one more input, class_ids [B, N], and shares all weights.
    """
    # int32, as bfloat16 has no 257.
    class_ids = KL.Input((None,), dtype="int32", name="class_ids")
    inputs = [*head.inputs, class_ids]
    conv, features = _last_layer(head.output)
    if not _predicts_sigmoid_masks(conv):
        return keras.Model(inputs, DetectedClass(dtype="float32")([head.output, class_ids]))
    doubling, doubling_inputs = _last_layer(features)
    if _doubles(doubling):
        features = doubling_inputs
    else:
        doubling = None
    last = DetectedClass(conv, doubling, dtype=conv.dtype_policy)
    return keras.Model(inputs, last([features, class_ids]))


def _predicts_sigmoid_masks(layer):
    """Whether it is a 1x1 convolution with a sigmoid, each class for itself."""
    return (
        type(layer) is KL.Conv2D
        and layer.kernel_size == (1, 1)
        and layer.activation is keras.activations.sigmoid
    )


def _doubles(layer):
    """Whether it is a transposed convolution that makes 2x2 of each cell for itself."""
    return (
        type(layer) is KL.Conv2DTranspose
        and layer.kernel_size == layer.strides == (2, 2)
        and layer.data_format == "channels_last"
    )


def _last_layer(tensor):
    """The layer inside `TimeDistributed` that made a tensor, and its input; or None, None."""
    layer, index, _ = tensor._keras_history
    if not isinstance(layer, KL.TimeDistributed):
        return None, None
    return layer.layer, layer._inbound_nodes[index].input_tensors[0]


# ---- Training ------------------------------------------------------------------------------------


@register
class SampledRPN(KL.Layer):
    """The RPN at the anchors that have a loss, from the 3x3 patches around them.

    Equal to picking them out of the RPN's maps. But the gradient of those, zero almost everywhere,
    costs a fourth of a training step, and here it flows through a few hundred patches.

    Args:
        rpn_model: one 3x3 convolution and two 1x1, see `model.rpn_graph`; its weights stay its own.
        count: anchors of an image that have a loss, at most.

    Input: [rpn_match [B, A, 1], P2, ... P6]. Output: match [B, count, 1], class_logits [B, count,
    logits of an anchor], bbox [B, count, 4]; the anchors that have a loss in their order, then
    others with match 0.
    """

    def __init__(self, rpn_model: Any, count: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.count = count
        self._rpn = Untracked(rpn_model)  # the training graph has it as a layer of its own

    @property
    def rpn_model(self) -> Any:
        """The model whose layers are applied."""
        return self._rpn.value

    def _heads(self):
        return [self.rpn_model.get_layer(name) for name in ("rpn_class_raw", "rpn_bbox_pred")]

    def call(self, inputs: Any) -> Any:
        match = inputs[0]
        maps = inputs[1:]
        shared = self.rpn_model.get_layer("rpn_conv_shared")
        heads = self._heads()
        per_cell = heads[1].filters // 4
        rows, has_loss = self._rows_with_a_loss(match)
        x = kernels.cell_patches(maps, rows // per_cell)
        x = ops.matmul(x, ops.reshape(shared.kernel, (-1, shared.filters)))
        x = ops.relu(x + shared.bias)
        outputs = []
        for head in heads:
            y = ops.matmul(x, head.kernel[0, 0]) + head.bias
            y = ops.reshape(y, (*ops.shape(rows), per_cell, head.filters // per_cell))
            outputs.append(kernels.pick(y, rows % per_cell))
        match = kernels.mask_rows(kernels.take_rows(match, rows), has_loss)
        return (match, *outputs)

    def _rows_with_a_loss(self, match):
        """Anchors [B, count] int32 that have a loss, in their order, and which rows hold one."""
        has_loss = ops.cast(match[..., 0] != 0, "float32")
        missing = kernels.shortfall(self.count, ops.shape(match)[1])
        has_loss = ops.pad(has_loss, [[0, 0], [0, missing]])
        has_loss, rows = kernels.top_k(has_loss, self.count)  # of equals the first
        rows = ops.where(has_loss > 0, ops.cast(rows, "int32"), 0)
        return rows, has_loss > 0

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
        # Inside a whole model Keras gives the RPN that it has made, not another one.
        rpn_model = keras.saving.deserialize_keras_object(config["rpn_model"])
        return cls(**{**config, "rpn_model": rpn_model})


@register
class SplitPositives(KL.Layer):
    """Splits RoIs behind the last row that is positive in some image of the batch.

    Positives come first, so that so many rows need the mask head. Their number depends on the data,
    which XLA and JAX don't allow: there it is the most that can be positive.

    Args:
        positive_rows: rows that can be positive.
        fused: see `mrcnn.ops`.

    Input: [class_ids [B, R], rois [B, R, 4], any more [B, R, ...]]. Output: the first n >= 1 rows
    of the RoIs, the others, and the first n of each of the rest.
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
    """What a mask head's last layer gives before its activation, for the loss.

    A probability that rounds to 0 or 1 has no gradient, its logit has. Only the true class's mask
    has a loss, so that with 80 classes 79 are not computed at all.

    Args:
        last: a 1x1 convolution of RoIs inside `TimeDistributed`; its weights stay its own.
        all_classes: give all its masks, for classes that compete.

    Input: [features [B, N, h, w, C], number of a mask [B, N] int32]. Output: [B, N, h, w], or with
    all_classes [B, N, h, w, masks].
    """

    def __init__(self, last: Any, all_classes: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.all_classes = all_classes
        self._last = Untracked(last)  # the training graph has it as a layer of its own

    @property
    def last(self) -> Any:
        """The layer whose weights are applied."""
        return self._last.value

    def build(self, input_shape: Any) -> None:
        if not self.last.built:
            self.last.build(input_shape[0])

    def call(self, inputs: Any) -> Any:
        features, numbers = inputs
        conv = inner(self.last)
        shape = ops.shape(features)
        pixels = ops.reshape(features, (*shape[:2], -1, features.shape[-1]))
        if self.all_classes:
            logits = ops.matmul(pixels, conv.kernel[0, 0]) + conv.bias
            return ops.reshape(logits, (*shape[:4], conv.filters))
        kernels_ = ops.take(ops.transpose(conv.kernel[0, 0]), numbers, axis=0)
        logits = ops.matmul(pixels, kernels_[..., None])[..., 0]
        logits = logits + ops.take(conv.bias, numbers)[..., None]
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
        # As of `SampledRPN`: inside a whole model it is the layer that is there already.
        last = keras.saving.deserialize_keras_object(config["last"])
        return cls(**{**config, "last": last})
