"""The network rewritten for speed: layers that compute the same from the same variables.

Fixed batch norm becomes a part of the convolution before it, in training as in detection. For detection, on a CPU
convolutions take the form that its kernels run fastest, and the mask head computes the detected class alone.
Nothing is stored: weights that are loaded or set later are used at once.
"""
import contextlib
import math

import keras
from keras import layers as KL
from keras import ops


class FoldedConv(KL.Layer):
    """A convolution and the fixed batch norm behind it as one convolution, made from the live variables of both.

    Args:
        conv, norm: the two layers, each or none inside `TimeDistributed`.
    """

    def __init__(self, conv, norm, **kwargs):
        # Statistics and kernels are multiplied as they are stored, in float32, whatever the policy computes in.
        super().__init__(autocast=False, **kwargs)
        self.conv, self.norm = conv, norm

    def call(self, inputs):
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
            bias = (conv.bias if conv.use_bias else 0.) - norm.moving_mean
            bias = bias * scale + (norm.beta if norm.center else 0.)
            kernel = conv.kernel * scale
        x = self._convolved(*(ops.cast(each, self.compute_dtype) for each in (x, kernel)))
        return _add_bias(x, ops.cast(bias, self.compute_dtype))

    def _convolved(self, x, kernel):
        conv = _inner(self.conv)
        if tuple(x.shape[1:3]) != conv.kernel_size or conv.padding != "valid":
            return ops.conv(x, kernel, list(conv.strides), conv.padding, conv.data_format, conv.dilation_rate)
        x = ops.matmul(ops.reshape(x, (-1, math.prod(x.shape[1:]))), ops.reshape(kernel, (-1, conv.filters)))
        return ops.reshape(x, (-1, 1, 1, conv.filters))

    @staticmethod
    def _after(inputs):
        """TensorFlow would make the kernels of all layers at the start, and hold them, if nothing told it to wait."""
        if keras.backend.backend() != "tensorflow":
            return contextlib.nullcontext()
        import tensorflow as tf
        # oneDNN makes one operation of a padding and its convolution: what waits for the one may not be read by the other.
        waits_for = inputs.op.inputs[0] if tf.is_symbolic_tensor(inputs) and inputs.op.type == "Pad" else inputs
        return tf.control_dependencies([waits_for])

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(self.conv.compute_output_shape(inputs.shape), self.compute_dtype)


class CPUConv(FoldedConv):
    """The same operation for detection by TensorFlow's CPU kernels in float32.

    These normalise while they convolve, and no kernel is multiplied for it. And oneDNN's take up to half as long again
    for a wide 3x3 kernel as for its columns in groups of 64, whose 0.6 MB stay in a core's cache.

    Args:
        conv, norm: see `FoldedConv`; norm None where no fixed batch norm follows.

    Output: as `FoldedConv`; of a wide kernel the list of its groups [B, h, w, GROUP], see `by_groups`.
    """

    GROUP = 64

    def _normalised(self, x):
        conv, (finish, values) = _inner(self.conv), self._finish()
        if not self.by_groups(self.conv):
            return finish(self._convolved(x, ops.convert_to_tensor(conv.kernel)), *values)
        with self._after(x):
            groups = zip(*(ops.split(value, conv.filters // self.GROUP, axis=-1) for value in (conv.kernel, *values)))
        return [finish(self._convolved(x, kernel), *values) for kernel, *values in groups]

    def compute_output_spec(self, inputs):
        output = super().compute_output_spec(inputs)
        if not self.by_groups(self.conv):
            return output
        return [keras.KerasTensor((*output.shape[:3], self.GROUP), output.dtype)
                for _ in range(self.conv.filters // self.GROUP)]

    def _finish(self):
        """What follows the convolution, as a function of its output and of values for each column; and these values."""
        conv, norm = _inner(self.conv), _inner(self.norm)
        if norm is None:
            return (lambda y, *bias: conv.activation(_add_bias(y, *bias) if bias else y)), [conv.bias] if conv.use_bias else []
        import tensorflow as tf
        mean = norm.moving_mean - conv.bias if conv.use_bias else norm.moving_mean
        gamma = norm.gamma if norm.scale else ops.ones_like(mean)
        beta = norm.beta if norm.center else ops.zeros_like(mean)

        def normalise(y, gamma, beta, mean, variance):
            return tf.raw_ops.FusedBatchNormV3(x=y, scale=gamma, offset=beta, mean=mean, variance=variance,
                                               epsilon=norm.epsilon, is_training=False).y
        return normalise, [ops.convert_to_tensor(value) for value in (gamma, beta, mean, norm.moving_variance)]

    @classmethod
    def by_groups(cls, conv):
        """Whether this convolution of an image is faster so; of 100 RoIs it is not, nor by other kernels than oneDNN's."""
        return (type(conv) is KL.Conv2D and conv.kernel_size == (3, 3) and conv.groups == 1 and conv.filters >= 4 * cls.GROUP
                and conv.filters % cls.GROUP == 0 and _runs_onednn())


class SumOfGroups(KL.Layer):
    """A 1x1 convolution of the groups of a `CPUConv`, which need not become one map: the RPN's largest is of 134 MB at 1024².

    Args:
        conv: the convolution.

    Input: list of [B, h, w, CPUConv.GROUP]. Output: [B, h, w, filters].
    """

    def __init__(self, conv, **kwargs):
        super().__init__(**kwargs)
        self.conv = conv

    def call(self, groups):
        kernels = ops.split(self.conv.kernel, len(groups), axis=2)
        sums = sum(ops.conv(group, kernel, 1, "valid", "channels_last") for group, kernel in zip(groups, kernels))
        return self.conv.activation(_add_bias(sums, self.conv.bias) if self.conv.use_bias else sums)

    def compute_output_spec(self, groups):
        return keras.KerasTensor((*groups[0].shape[:3], self.conv.filters), self.compute_dtype)

    @staticmethod
    def computes(conv):
        """Whether it can take the place of this layer."""
        return type(conv) is KL.Conv2D and conv.kernel_size == conv.strides == (1, 1) and conv.groups == 1


def _runs_onednn():
    """Whether TensorFlow computes by oneDNN's kernels, its choice by the CPU or TF_ENABLE_ONEDNN_OPTS."""
    try:
        from tensorflow.python.util import _pywrap_util_port as port     # no public function says it
        return bool(port.IsMklEnabled())
    except (ImportError, AttributeError):
        return False


def _add_bias(x, bias):
    if keras.backend.backend() != "tensorflow":
        return x + bias
    import tensorflow as tf
    return tf.nn.bias_add(x, bias)                         # which TensorFlow fuses with what is around it


def _inner(layer):
    return getattr(layer, "layer", layer)


def _on_cpu(policy):
    """Whether TensorFlow's CPU kernels compute a layer of that policy in float32."""
    if keras.backend.backend() != "tensorflow" or keras.dtype_policies.get(policy).compute_dtype != "float32":
        return False
    import tensorflow as tf
    return not tf.config.get_visible_devices("GPU")


def _is_convolution(layer):
    return type(layer).__name__ in ("Conv2D", "WholeConv2D") and layer.data_format == "channels_last"


def _foldable(conv, norm, modes):
    conv, norm = _inner(conv), _inner(norm)
    return (isinstance(norm, KL.BatchNormalization) and getattr(norm, "train_bn", None) in modes
            and _is_convolution(conv) and conv.activation is keras.activations.linear and norm.axis in (-1, 3, 4))


def fold_batch_norm(model, training=False):
    """The same model with each convolution and its fixed batch norm as one layer; it shares all weights.

    Args:
        training: only batch norm that is fixed in training too, see `BatchNorm`, is folded, and gradients are those of
            the layers. False: for detection alone; on a CPU, most layers are `CPUConv`, otherwise `FoldedConv`.
    """
    convolutions, groups, replaced, modes = {}, {}, {}, (False,) if training else (None, False)

    def replacement(name, make):
        if name not in replaced:                           # one layer for all calls, as in training the mask head has two
            replaced[name] = make()
        return replaced[name]

    def merged(conv, norm):
        policy, layer = _inner(conv).dtype_policy, conv if norm is None else norm
        # What widens by 1x1 ends a residual block; the sum there becomes a part of a convolution with a bias, not with batch norm.
        widens = _inner(conv).kernel_size == (1, 1) and _inner(conv).filters > _inner(conv).kernel.shape[-2]
        kind = FoldedConv if training or widens or not _on_cpu(policy) else CPUConv
        return replacement(layer.name, lambda: kind(conv, norm, dtype=policy, name=layer.name + "_folded"))

    def joined(outputs):
        """One map of what a `CPUConv` gives in groups; where only `SumOfGroups` follows, it is no part of the new model."""
        if not isinstance(outputs, list):
            return outputs
        whole = KL.Concatenate(dtype=outputs[0].dtype)(outputs)
        groups[id(whole)] = outputs
        kept.append(whole)
        return whole

    def call(layer, *args, **kwargs):
        conv, inputs = convolutions.get(id(args[0]), (None, None)) if args else (None, None)
        if conv is not None and _foldable(conv, layer, modes):
            return joined(merged(conv, layer)(inputs))
        if isinstance(layer, keras.Model) and not training:
            layer = replacement(layer.name, lambda: fold_batch_norm(layer))
        if not training and _is_convolution(layer) and _on_cpu(layer.dtype_policy) and CPUConv.by_groups(layer):
            outputs = joined(merged(layer, None)(*args))
        elif args and id(args[0]) in groups and SumOfGroups.computes(layer):
            sum_of = replacement(layer.name, lambda: SumOfGroups(layer, dtype=layer.dtype_policy, name=layer.name + "_sum"))
            outputs = sum_of(groups[id(args[0])])
        else:
            outputs = layer(*args, **kwargs)
        if isinstance(_inner(layer), KL.Conv2D):
            # Where batch norm follows, this output is not used and is no part of the new model. The tensor is kept
            # so that its id stays its own.
            convolutions[id(outputs)] = layer, args[0]
            kept.append(outputs)
        return outputs

    kept = []
    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)


class DetectedClass(KL.Layer):
    """The last layers of a mask head for the detected classes alone: one of 81 masks to compute, and to copy.

    Args:
        conv: the 1x1 convolution that predicts every class's mask; None where the input is these masks.
        doubling: the transposed convolution before it, of 2x2 kernels and strides, where this layer computes it as well.

    Input: [features [B, N, h, w, C] or masks [B, N, h, w, classes], class_ids [B, N] int32]. Output: [B, N, h, w], with
    `doubling` twice as high and wide.
    """

    def __init__(self, conv=None, doubling=None, **kwargs):
        super().__init__(**kwargs)
        self.conv, self.doubling = conv, doubling

    def call(self, inputs):
        x, class_ids = inputs
        class_ids, shape = ops.cast(class_ids, "int32"), ops.shape(x)
        if self.conv is None:
            return ops.take_along_axis(x, class_ids[:, :, None, None, None], axis=-1)[..., 0]
        if self.doubling is not None:
            # Each cell becomes 2x2 by one product of matrices. What is put in its place is the one mask, not the features.
            kernel = ops.reshape(ops.transpose(self.doubling.kernel, (3, 0, 1, 2)), (x.shape[-1], -1))
            x = ops.matmul(ops.reshape(x, (-1, x.shape[-1])), kernel)
            x = self.doubling.activation(_add_bias(x, ops.tile(self.doubling.bias, [4])))
        kernels = ops.take(ops.transpose(self.conv.kernel[0, 0]), class_ids, axis=0)
        masks = ops.matmul(ops.reshape(x, (*shape[:2], -1, kernels.shape[-1])), kernels[..., None])[..., 0]
        masks = self.conv.activation(masks + ops.take(self.conv.bias, class_ids)[..., None])
        if self.doubling is not None:
            masks = ops.transpose(ops.reshape(masks, (*shape[:4], 2, 2)), (0, 1, 2, 4, 3, 5))
        return ops.reshape(masks, (*shape[:2], *self._sides(shape)))

    def _sides(self, shape):
        return [side if self.doubling is None else 2 * side for side in shape[2:4]]

    def compute_output_spec(self, inputs):
        shape = inputs[0].shape
        return keras.KerasTensor((*shape[:2], *self._sides(shape)), self.compute_dtype)


def of_detected_class(head):
    """A mask head of one more input, class_ids [B, N], that gives their masks [B, N, h, w] alone; it shares all weights."""
    class_ids = KL.Input((None,), name="class_ids")
    conv, x = _last_layer(head.output)
    if type(conv) is not KL.Conv2D or conv.kernel_size != (1, 1) or conv.activation is not keras.activations.sigmoid:
        return keras.Model([*head.inputs, class_ids], DetectedClass(dtype="float32")([head.output, class_ids]))
    doubling, features = _last_layer(x)
    if type(doubling) is KL.Conv2DTranspose and doubling.kernel_size == doubling.strides == (2, 2) and doubling.use_bias:
        x = features
    else:
        doubling = None
    return keras.Model([*head.inputs, class_ids], DetectedClass(conv, doubling, dtype=conv.dtype_policy)([x, class_ids]))


def _last_layer(tensor):
    """The layer, perhaps in `TimeDistributed`, that a tensor comes from and its input; (None, None) for anything else."""
    layer, index, _ = tensor._keras_history
    layer_inputs = layer._inbound_nodes[index].input_tensors
    return (layer.layer, layer_inputs[0]) if hasattr(layer, "layer") else (None, None)
