"""The network rewritten for speed: layers that compute the same from the same variables.

Fixed batch norm becomes a part of the convolution before it, in training as in detection. For
detection, on a CPU convolutions take the form that its kernels run fastest, and the mask head
computes the detected class alone. Nothing is stored: weights that are loaded or set later are used
at once.
"""

import contextlib
import math

import keras
from keras import layers as KL, ops


class FoldedConv(KL.Layer):
    """A convolution and the fixed batch norm behind it as one convolution, made from the live
    variables of both.

    Args:
        conv, norm: the two layers, each or none inside `TimeDistributed`.
    """

    def __init__(self, conv, norm, **kwargs):
        # Statistics and kernels are multiplied as they are stored, in float32, whatever the policy
        # computes in.
        super().__init__(autocast=False, **kwargs)
        self.conv, self.norm = conv, norm

    def call(self, inputs):
        inputs = ops.cast(inputs, self.compute_dtype)
        if len(inputs.shape) != 5:
            return self._normalised(inputs)
        shape = ops.shape(inputs)
        x = self._normalised(ops.reshape(inputs, (-1, *shape[2:4], inputs.shape[-1])))
        return ops.reshape(x, (*shape[:2], *ops.shape(x)[1:3], x.shape[-1]))

    def _normalised(self, x):
        conv, norm = _inner(self.conv), _inner(self.norm)
        with self._after(x):
            scale = ops.rsqrt(norm.moving_variance + norm.epsilon)
            scale = scale * norm.gamma if norm.scale else scale
            bias = (conv.bias if conv.use_bias else 0.0) - norm.moving_mean
            bias = bias * scale + (norm.beta if norm.center else 0.0)
            kernel = conv.kernel * scale
        x = self._convolved(x, ops.cast(kernel, self.compute_dtype))
        return _add_bias(x, ops.cast(bias, self.compute_dtype))

    def _convolved(self, x, kernel):
        conv, filters = _inner(self.conv), kernel.shape[-1]
        if tuple(x.shape[1:3]) != conv.kernel_size or conv.padding != "valid" or conv.groups > 1:
            return ops.conv(
                x, kernel, list(conv.strides), conv.padding, conv.data_format, conv.dilation_rate
            )
        x = ops.matmul(
            ops.reshape(x, (-1, math.prod(x.shape[1:]))), ops.reshape(kernel, (-1, filters))
        )
        return ops.reshape(x, (-1, 1, 1, filters))

    @staticmethod
    def _after(inputs):
        """TensorFlow would make the kernels of all layers at the start, and hold them, if nothing
        told it to wait."""
        if keras.backend.backend() != "tensorflow":
            return contextlib.nullcontext()
        import tensorflow as tf

        # oneDNN makes one operation of a padding and its convolution: what waits for the one may
        # not be read by the other.
        waits_for = (
            inputs.op.inputs[0]
            if tf.is_symbolic_tensor(inputs) and inputs.op.type == "Pad"
            else inputs
        )
        return tf.control_dependencies([waits_for])

    def compute_output_spec(self, inputs):
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
        conv, (finish, values) = _inner(self.conv), self._finish()
        if not self.by_groups(self.conv):
            return finish(self._convolved(x, ops.convert_to_tensor(conv.kernel)), *values)
        with self._after(x):
            groups = zip(
                *(
                    ops.split(value, conv.filters // self.GROUP, axis=-1)
                    for value in (conv.kernel, *values)
                )
            )
        return [finish(self._convolved(x, kernel), *its_values) for kernel, *its_values in groups]

    def compute_output_spec(self, inputs):
        output = super().compute_output_spec(inputs)
        if not self.by_groups(self.conv):
            return output
        return [
            keras.KerasTensor((*output.shape[:3], self.GROUP), output.dtype)
            for _ in range(self.conv.filters // self.GROUP)
        ]

    def _finish(self):
        """What follows the convolution, as a function of its output and of values for each column;
        and these values."""
        conv, norm = _inner(self.conv), _inner(self.norm)
        if norm is None:
            bias = [conv.bias] if conv.use_bias else []
            return (lambda y, *bias: conv.activation(_add_bias(y, *bias) if bias else y)), bias
        import tensorflow as tf

        mean = norm.moving_mean - conv.bias if conv.use_bias else norm.moving_mean
        gamma = norm.gamma if norm.scale else ops.ones_like(mean)
        beta = norm.beta if norm.center else ops.zeros_like(mean)

        def normalise(y, gamma, beta, mean, variance):
            return tf.raw_ops.FusedBatchNormV3(
                x=y,
                scale=gamma,
                offset=beta,
                mean=mean,
                variance=variance,
                epsilon=norm.epsilon,
                is_training=False,
            ).y

        return normalise, [
            ops.convert_to_tensor(value) for value in (gamma, beta, mean, norm.moving_variance)
        ]

    @classmethod
    def by_groups(cls, conv):
        """Whether this convolution of an image is faster so; of 100 RoIs it is not, nor by other
        kernels than oneDNN's."""
        return (
            _is_convolution(conv)
            and conv.kernel_size == (3, 3)
            and conv.groups == 1
            and conv.activation
            in (
                keras.activations.linear,
                keras.activations.relu,
            )  # each column for itself
            and conv.filters >= 4 * cls.GROUP
            and conv.filters % cls.GROUP == 0
            and _runs_onednn()
        )


class SumOfGroups(KL.Layer):
    """A 1x1 convolution of the groups of a `CPUConv`, which need not become one map: the RPN's
    largest is of 134 MB at 1024².

    Args:
        conv: the convolution.

    Input: list of [B, h, w, CPUConv.GROUP]. Output: [B, h, w, filters].
    """

    def __init__(self, conv, **kwargs):
        super().__init__(**kwargs)
        self.conv = conv

    def call(self, groups):
        kernels = ops.split(self.conv.kernel, len(groups), axis=2)
        sums = sum(
            ops.conv(group, kernel, 1, "valid", "channels_last")
            for group, kernel in zip(groups, kernels)
        )
        return self.conv.activation(_add_bias(sums, self.conv.bias) if self.conv.use_bias else sums)

    def compute_output_spec(self, groups):
        return keras.KerasTensor((*groups[0].shape[:3], self.conv.filters), self.compute_dtype)

    @staticmethod
    def computes(conv):
        """Whether it can take the place of this layer."""
        return (
            _is_convolution(conv)
            and conv.kernel_size == conv.strides == (1, 1)
            and conv.groups == 1
        )


def _runs_onednn():
    """Whether TensorFlow computes by oneDNN's kernels, its choice by the CPU or
    TF_ENABLE_ONEDNN_OPTS."""
    try:
        from tensorflow.python.util import _pywrap_util_port as port  # no public function says it

        return bool(port.IsMklEnabled())
    except (ImportError, AttributeError):
        return False


def _add_bias(x, bias):
    if keras.backend.backend() != "tensorflow":
        return x + bias
    import tensorflow as tf

    return tf.nn.bias_add(x, bias)  # which TensorFlow fuses with what is around it


def _inner(layer):
    return layer.layer if isinstance(layer, KL.TimeDistributed) else layer


def _on_cpu(policy):
    """Whether TensorFlow's CPU kernels compute a layer of that policy in float32."""
    if (
        keras.backend.backend() != "tensorflow"
        or keras.dtype_policies.get(policy).compute_dtype != "float32"
    ):
        return False
    import tensorflow as tf

    return not tf.config.get_visible_devices("GPU")


def _is_convolution(layer):
    """Whether it computes what Keras's layer does, which subclasses need not; `model.WholeConv2D`
    does."""
    return (
        type(layer) is KL.Conv2D or type(layer).__name__ == "WholeConv2D"
    ) and layer.data_format == "channels_last"


def _foldable(conv, norm, modes):
    conv, norm = _inner(conv), _inner(norm)
    return (
        (type(norm) is KL.BatchNormalization or hasattr(norm, "train_bn"))
        and getattr(norm, "train_bn", None) in modes
        and _is_convolution(conv)
        and conv.activation is keras.activations.linear
        and norm.axis in (-1, 3, 4)
    )


def fold_batch_norm(model, training=False):
    """The same functional model with each convolution and its fixed batch norm as one layer; it
    shares all weights.

    Args:
        training: True: only batch norm that is fixed in training (`BatchNorm` of train_bn False),
            and the gradients are those of the layers. False: for detection, in which all but
                train_bn True is fixed; on a CPU most layers are `CPUConv`
            then, wide 3x3 convolutions without batch norm too, and 1x1 convolutions behind these
            `SumOfGroups`.
    """
    # Tensors are known by their ids, and kept, so that these stay their own.
    convolutions, groups, replaced, kept = {}, {}, {}, []
    modes = (False,) if training else (None, False)

    def replacement(make, purpose, *layers):
        """One layer in the place of these for all calls, as in training the mask head has two."""
        key = (purpose, *map(id, layers))
        if key not in replaced:
            replaced[key] = make()
        return replaced[key]

    def merged(conv, *norm):
        policy = _inner(conv).dtype_policy
        # What widens by 1x1 ends a residual block or is its shortcut; the sum there becomes a part
        # of a convolution with a bias, not of one with batch norm.
        widens = (
            _inner(conv).kernel_size == (1, 1)
            and _inner(conv).filters > _inner(conv).kernel.shape[-2]
        )
        kind = FoldedConv if training or widens or not _on_cpu(policy) else CPUConv
        name = "_".join(layer.name for layer in (conv, *norm)) + "_folded"
        return replacement(
            lambda: kind(conv, *norm or [None], dtype=policy, name=name), "merged", conv, *norm
        )

    def joined(outputs, *layers):
        """One map of what a `CPUConv` gives in groups; where only `SumOfGroups` follows, it is no
        part of the new model."""
        if not isinstance(outputs, list):
            return outputs
        name = "_".join(layer.name for layer in layers) + "_joined"
        whole = replacement(
            lambda: KL.Concatenate(dtype=outputs[0].dtype, name=name), "joined", *layers
        )(outputs)
        groups[id(whole)] = outputs
        kept.append(whole)
        return whole

    def call(layer, *args, **kwargs):
        inputs = args[0] if args else kwargs.get("inputs")
        conv, before = convolutions.get(id(inputs), (None, None))
        if conv is not None and _foldable(conv, layer, modes):
            return joined(merged(conv, layer)(before), conv, layer)
        if training:
            outputs = layer(*args, **kwargs)
        elif type(layer) is type(model):
            outputs = replacement(lambda: fold_batch_norm(layer), "model", layer)(*args, **kwargs)
        elif _is_convolution(layer) and _on_cpu(layer.dtype_policy) and CPUConv.by_groups(layer):
            outputs = joined(merged(layer)(inputs), layer)
        elif id(inputs) in groups and SumOfGroups.computes(layer):
            sum_of = replacement(
                lambda: SumOfGroups(layer, dtype=layer.dtype_policy, name=layer.name + "_sum"),
                "sum",
                layer,
            )
            outputs = sum_of(groups[id(inputs)])
        else:
            outputs = layer(*args, **kwargs)
        if _is_convolution(
            _inner(layer)
        ):  # where batch norm follows, this output is no part of the new model
            convolutions[id(outputs)] = layer, inputs
            kept.append(outputs)
        return outputs

    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)


class DetectedClass(KL.Layer):
    """The last layers of a mask head for the detected classes alone: one of 81 masks to compute,
    and to copy.

    Args:
        conv: the 1x1 convolution that predicts every class's mask; None where the input is these
            masks.
        doubling: the transposed convolution before it, of 2x2 kernels and strides, where this layer
            computes it as well.

    Input: [features [B, N, h, w, C] or masks [B, N, h, w, classes], class_ids [B, N] int32].
    Output: [B, N, h, w], with `doubling` twice as high and wide.
    """

    def __init__(self, conv=None, doubling=None, **kwargs):
        super().__init__(**kwargs)
        self.conv, self.doubling = conv, doubling

    def call(self, inputs):
        x, class_ids = inputs
        shape = ops.shape(x)
        if self.conv is None:
            return ops.take_along_axis(x, class_ids[:, :, None, None, None], axis=-1)[..., 0]
        if self.doubling is not None:
            # Each cell becomes 2x2 by one product of matrices; only the finished mask is put in
            # order, not its features.
            kernel = ops.reshape(
                ops.transpose(self.doubling.kernel, (3, 0, 1, 2)), (x.shape[-1], -1)
            )
            x = ops.matmul(ops.reshape(x, (-1, x.shape[-1])), kernel)
            x = _add_bias(x, ops.tile(self.doubling.bias, [4])) if self.doubling.use_bias else x
            x = self.doubling.activation(x)
        kernels = ops.take(ops.transpose(self.conv.kernel[0, 0]), class_ids, axis=0)
        masks = ops.matmul(ops.reshape(x, (*shape[:2], -1, kernels.shape[-1])), kernels[..., None])[
            ..., 0
        ]
        masks = (
            masks + ops.take(self.conv.bias, class_ids)[..., None] if self.conv.use_bias else masks
        )
        masks = self.conv.activation(masks)
        if self.doubling is not None:
            masks = ops.transpose(ops.reshape(masks, (*shape[:4], 2, 2)), (0, 1, 2, 4, 3, 5))
        return ops.reshape(masks, (*shape[:2], *self._sides(shape)))

    def _sides(self, shape):
        return [side if self.doubling is None else 2 * side for side in shape[2:4]]

    def compute_output_spec(self, inputs):
        shape = inputs[0].shape
        return keras.KerasTensor((*shape[:2], *self._sides(shape)), self.compute_dtype)


def of_detected_class(head):
    """A mask head of one more input, class_ids [B, N], that gives their masks [B, N, h, w] alone;
    it shares all weights."""
    class_ids = KL.Input((None,), dtype="int32", name="class_ids")  # bfloat16 has no 257
    conv, x = _last_layer(head.output)
    if (
        type(conv) is not KL.Conv2D
        or conv.kernel_size != (1, 1)
        or conv.activation is not keras.activations.sigmoid
    ):
        return keras.Model(
            [*head.inputs, class_ids], DetectedClass(dtype="float32")([head.output, class_ids])
        )
    doubling, features = _last_layer(x)
    if (
        type(doubling) is KL.Conv2DTranspose
        and doubling.kernel_size == doubling.strides == (2, 2)
        and doubling.data_format == "channels_last"
    ):
        x = features
    else:
        doubling = None
    return keras.Model(
        [*head.inputs, class_ids],
        DetectedClass(conv, doubling, dtype=conv.dtype_policy)([x, class_ids]),
    )


def _last_layer(tensor):
    """The layer inside `TimeDistributed` that a tensor comes from, and its input; (None, None) for
    anything else."""
    layer, index, _ = tensor._keras_history
    if not isinstance(layer, KL.TimeDistributed):
        return None, None
    return layer.layer, layer._inbound_nodes[index].input_tensors[0]
