"""Detection as it is run: molding, the compiled network, results in the frame of the image, whole folders.

`MaskRCNN.detect` and its relatives are thin methods over this module. The network is that of
`mrcnn.model`, its fixed batch norm folded into the convolutions from the live variables, and compiled
once for every size of image. The mask head runs on rows that hold a detection only, a group at a time.
"""
import collections
import concurrent.futures
import contextlib
import math

import keras
import numpy as np
from keras import layers as KL
from keras import ops

from mrcnn import data, keypoints, utils

# Forms of the masks of a result; see `unmold`.
MASK_FORMS = ("dense", "lazy", "rle")

# Rows that the mask head and the keypoint head take at once: larger groups are no faster and hold more memory.
HEAD_GROUP = 25


# ---- Molding and unmolding ------------------------------------------------------------------------

def mold(image, config, where, min_dim=None):
    """Resizes and normalises one image.

    Args:
        image: [H, W] or [H, W, C], uint8 or float.
        where: names the image in errors.
        min_dim: see `data.mold_with_size`.

    Returns:
        molded [h, w, C] float32, its meta, its window (y1, x1, y2, x2) in pixels.
    """
    image = data.with_channels(np.asarray(image), config, where)
    if config.IMAGE_RESIZE_MODE == "crop":
        raise ValueError("IMAGE_RESIZE_MODE 'crop' takes a random part of an image and is for training; "
                         "detection needs 'square', 'pad64', 'shorter' or 'none'. Received: 'crop'")
    molded, window, scale = data.mold_with_size(image, config, min_dim)
    stride = max(config.BACKBONE_STRIDES)
    if config.IMAGE_RESIZE_MODE == "none" and any(side % stride for side in molded.shape[:2]):
        raise ValueError(f"With IMAGE_RESIZE_MODE 'none' the sides of an image divide by {stride}, the largest "
                         f"of BACKBONE_STRIDES. Received: {where} of shape {image.shape}")
    meta = data.compose_image_meta(0, image.shape, molded.shape, window, scale,
                                   np.zeros([config.NUM_CLASSES], dtype=np.int32))
    return molded, meta, window


def unmold(detections, masks, original_shape, shape, window, config, form="dense"):
    """Detections of one image in the frame of the original.

    Args:
        detections: [N, (y1, x1, y2, x2, class_id, score)], boxes normalised, zero rows at the end.
        masks: [N, h, w, classes], or [N, h, w] of the detected classes, or None.
        original_shape, shape: (H, W, ...) before and after molding.
        window: (y1, x1, y2, x2) of the image in the molded one, in pixels.
        form: "dense", bool [H, W, n]; "lazy", a `Masks`; "rle", a list of COCO's run-length encodings, made
            without a mask of the whole image.

    Returns:
        boxes [n, 4] int32 in pixels (float32 without ROUND_DETECTIONS), class_ids [n] int32, scores [n] float32,
        masks (None for None). Boxes without area are left out.
    """
    if form not in MASK_FORMS:
        raise ValueError(f"masks is one of {', '.join(MASK_FORMS)}. Received: {form!r}")
    keep, boxes, exact = _unmold_boxes(detections, original_shape, shape, window, config)
    class_ids, scores = detections[keep, 4].astype(np.int32), detections[keep, 5]
    if masks is None:
        return boxes, class_ids, scores, None
    masks = masks[keep]
    if masks.ndim == 4:
        masks = masks[np.arange(len(keep)), :, :, class_ids]
    masks, places = utils.pad_masks(masks, exact) if config.MASK_PASTE == "padded" else (masks, np.around(boxes).astype(int))
    lazy = Masks(masks, places, original_shape[:2])
    return boxes, class_ids, scores, {"dense": np.asarray, "lazy": lambda m: m, "rle": Masks.rle}[form](lazy)


def _unmold_boxes(detections, original_shape, shape, window, config):
    """Rows of detections with an area in the original image, their boxes there [n, 4], and these not rounded."""
    n = int(np.argmin(np.append(detections[:, 4] > 0, False)))
    wy1, wx1, wy2, wx2 = utils.norm_boxes(window, shape[:2], config.BOX_FRAME)
    shift, scale = np.array([wy1, wx1, wy1, wx1]), np.array([wy2 - wy1, wx2 - wx1] * 2)
    exact = utils.denorm_boxes((detections[:n, :4] - shift) / scale, original_shape[:2], config.BOX_FRAME, whole=False)
    boxes = np.around(exact).astype(np.int32) if config.ROUND_DETECTIONS else exact
    keep = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
    return keep, boxes[keep], exact[keep]


def unmold_keypoints(detections, maps, original_shape, shape, window, config):
    """Keypoints [n, K, (y, x, score)] of the rows that `unmold` keeps, in the original image, float32.

    Args:
        maps: [N, h, w, K] logits; the others as `unmold`.
    """
    keep, *_ = _unmold_boxes(detections, original_shape, shape, window, config)
    # Neither these boxes nor the points are rounded.
    boxes = utils.denorm_boxes(detections[keep, :4], shape[:2], config.BOX_FRAME, whole=False)
    found = keypoints.decode(maps[keep], boxes)
    window = np.asarray(window, np.float64)
    scale = np.asarray(original_shape[:2]) / (window[2:] - window[:2])
    found[..., :2] = (found[..., :2] - window[:2]) * scale
    return found


def result(parts, row, original_shape, shape, window, config, form="dense"):
    """The dict of image number `row` of a batch, see `MaskRCNN.detect`; parts: what `infer` returns."""
    detections, masks, points = (None if part is None else part[row] for part in parts)
    frames = original_shape, shape, window, config
    found = dict(zip(("rois", "class_ids", "scores", "masks"), unmold(detections, masks, *frames, form)))
    if points is not None:
        found["keypoints"] = unmold_keypoints(detections, points, *frames)
    return found


class Masks:
    """Masks of one image, kept as they left the mask head and put into the image when asked for.

    `np.asarray(masks)`, `masks[...]` and `masks.shape` are those of the bool array [H, W, N].

    Args:
        soft: [N, h, w] float, probabilities inside the boxes.
        boxes: [N, (y1, x1, y2, x2)] int, pixels.
        image_shape: (H, W).
        threshold: foreground from this probability.
    """

    dtype, ndim = np.dtype(bool), 3

    def __init__(self, soft, boxes, image_shape, threshold=.5):
        self.soft, self.boxes, self.threshold = np.asarray(soft), np.asarray(boxes), threshold
        self.image_shape = tuple(int(side) for side in image_shape[:2])

    @property
    def shape(self):
        return (*self.image_shape, len(self.soft))

    def __array__(self, dtype=None, copy=None):
        masks = utils.unmold_masks(self.soft, self.boxes, self.image_shape, self.threshold)
        return masks if dtype is None else masks.astype(dtype, copy=False)

    def __getitem__(self, key):
        key = key if isinstance(key, tuple) else (key,)
        if len(key) in (2, 3) and key[0] is Ellipsis or len(key) == 3 and key[:2] == (slice(None), slice(None)):
            last = key[-1]                                 # only these masks are pasted
            if isinstance(last, (int, np.integer)):
                return utils.unmold_mask(self.soft[last], self.boxes[last], self.image_shape) \
                    if self.threshold == .5 else np.asarray(self[..., [last]])[..., 0]
            return np.asarray(Masks(self.soft[last], self.boxes[last], self.image_shape, self.threshold))
        return np.asarray(self)[key]

    def __len__(self):
        return self.image_shape[0]

    def crop(self, i):
        """Mask number i inside its box: (y1, x1, y2, x2) cut to the image, and [y2 - y1, x2 - x1] bool."""
        return utils.unmold_crop(self.soft[i], self.boxes[i], self.image_shape, self.threshold)

    def rle(self):
        """COCO's compressed run-length encodings: a list of {"size": [H, W], "counts": str}, from the crops."""
        from pycocotools import mask as coco_mask
        if not len(self.soft):
            return []
        runs = [{"size": list(self.image_shape), "counts": run_lengths(*self.crop(i), self.image_shape)}
                for i in range(len(self.soft))]
        return [{"size": [int(side) for side in code["size"]], "counts": code["counts"].decode()}
                for code in coco_mask.frPyObjects(runs, *self.image_shape)]


def run_lengths(box, crop, image_shape):
    """Lengths of the runs of 0 and 1, in turn, of a mask read column by column, from the part in its box.

    Args:
        box: (y1, x1, y2, x2) inside the image.
        crop: [y2 - y1, x2 - x1] bool.
        image_shape: (H, W).

    Returns:
        list of int, the first for 0.
    """
    y1, x1, _, _ = box
    columns = np.zeros((crop.shape[1], crop.shape[0] + 2), np.int8)
    columns[:, 1:-1] = crop.T
    column, row = np.nonzero(np.diff(columns, axis=1))
    edges = (x1 + column) * image_shape[0] + y1 + row      # begin, end, begin, end ...
    # A run that ends at the bottom of a column and begins again on top of the next is one.
    joint = np.flatnonzero(edges[1:] == edges[:-1])
    edges = np.delete(edges, np.concatenate([joint, joint + 1]))
    counts = np.diff(np.concatenate([[0], edges, [image_shape[0] * image_shape[1]]])).tolist()
    return counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts


# ---- The network --------------------------------------------------------------------------------------

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
    """

    GROUP = 64

    def _normalised(self, x):
        conv, (finish, values) = _inner(self.conv), self._finish()
        if not self.by_groups(self.conv):
            return finish(self._convolved(x, ops.convert_to_tensor(conv.kernel)), *values)
        with self._after(x):
            groups = zip(*(ops.split(value, conv.filters // self.GROUP, axis=-1) for value in (conv.kernel, *values)))
        return ops.concatenate([finish(self._convolved(x, kernel), *values) for kernel, *values in groups], axis=-1)

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
    convolutions, replaced, modes = {}, {}, (False,) if training else (None, False)

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

    def call(layer, *args, **kwargs):
        conv, inputs = convolutions.get(id(args[0]), (None, None)) if args else (None, None)
        if conv is not None and _foldable(conv, layer, modes):
            return merged(conv, layer)(inputs)
        if isinstance(layer, keras.Model) and not training:
            layer = replacement(layer.name, lambda: fold_batch_norm(layer))
        if not training and _is_convolution(layer) and _on_cpu(layer.dtype_policy) and CPUConv.by_groups(layer):
            outputs = merged(layer, None)(*args)
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


def infer(model, images, metas, anchors):
    """Runs the network.

    Args:
        model: `MaskRCNN` in inference mode.
        images: [B, h, w, C] float32, molded.
        metas: [B, meta].
        anchors: [A, 4] normalised.

    Returns:
        detections [B, R, 6], masks [B, n, h, w] of the detected classes and keypoints' maps [B, n, h, w, K];
        None in the place of what the model has no head for.
    """
    args = [ops.convert_to_tensor(x, "float32") for x in
            (images, metas, np.broadcast_to(anchors, (len(images), *anchors.shape)))]
    boxes = compiled(model, "boxes")
    heads = [name for name, head in (("masks", model._mask_model), ("keypoints", model._keypoint_model)) if head is not None]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        # The first time, TensorFlow prepares and runs the one while Python traces the others.
        for name in heads:
            if name not in model._functions:
                pool.submit(compiled, model, name)
        detections, *maps = boxes(*args)
    detections = ops.convert_to_numpy(detections)
    count = int((detections[..., 4] > 0).sum(axis=1).max(initial=0))

    def groups(name):
        """The head's outputs of the rows with a detection, a group at a time."""
        for start in range(0, count, HEAD_GROUP):
            rows = detections[:, start:min(start + HEAD_GROUP, count)]
            class_ids = [ops.convert_to_tensor(rows[..., 4])] if name == "masks" else []
            yield ops.convert_to_numpy(compiled(model, name)(ops.convert_to_tensor(rows[..., :4]), args[1], *maps, *class_ids))

    masks = points = None
    if model._mask_model is not None:
        none = np.zeros((len(images), 0, *model.config.MASK_SHAPE), "float32")
        masks = np.concatenate([none, *groups("masks")], axis=1)
    if model._keypoint_model is not None:
        none = np.zeros((len(images), 0, *model._keypoint_model.output.shape[2:]), "float32")
        points = np.concatenate([none, *groups("keypoints")], axis=1)
    return detections, masks, points


def compiled(model, name):
    """One compiled function for every size; batch, height, width and rows are free in it.

    Args:
        name: "boxes", images [B, h, w, C], metas and anchors [B, A, 4] to detections and feature maps; "masks", boxes
            [B, N, 4], metas, feature maps and class ids [B, N] to masks [B, N, h, w]; "keypoints", the same without
            class ids to [B, N, h, w, K].
    """
    with model._lock:
        function = model._functions.pop(name, None)
        if function is None:
            function = _compile({"boxes": lambda: model._box_model, "masks": lambda: of_detected_class(model._mask_model),
                                 "keypoints": lambda: model._keypoint_model}[name]())
        model._functions[name] = function
        while len(model._functions) > 16:
            model._functions.popitem(last=False)
    return function


def _compile(network):
    if keras.backend.backend() != "tensorflow":
        return lambda *args: network(list(args), training=False)
    import tensorflow as tf
    folded = fold_batch_norm(network)
    signature = [tf.TensorSpec(x.shape, x.dtype) for x in folded.inputs]
    function = tf.function(lambda *args: folded(list(args), training=False), input_signature=signature, autograph=False)
    function.get_concrete_function()
    return function


# ---- Detection ------------------------------------------------------------------------------------------

def detect(model, images, masks="dense"):
    """See `MaskRCNN.detect`. Images of one molded size run together, BATCH_SIZE at a time."""
    molded = [mold(image, model.config, f"image {i}") for i, image in enumerate(images)]
    groups = collections.OrderedDict()
    for i, (image, _, _) in enumerate(molded):
        groups.setdefault(image.shape, []).append(i)
    results = [None] * len(images)
    for shape, members in groups.items():
        anchors = model.get_anchors(shape)
        for start in range(0, len(members), model.config.BATCH_SIZE):
            chunk = members[start:start + model.config.BATCH_SIZE]
            parts = infer(model, np.stack([molded[i][0] for i in chunk]), np.stack([molded[i][1] for i in chunk]), anchors)
            for row, i in enumerate(chunk):
                results[i] = result(parts, row, np.shape(images[i]), shape, molded[i][2], model.config, masks)
    return results


def detect_many(model, items, load=None, masks="dense"):
    """See `MaskRCNN.detect_many`: reading and molding run ahead and unmolding behind, beside the network."""
    batch = model.config.BATCH_SIZE

    def prepare(number, item):
        image = item if load is None else load(item)
        return np.shape(image), *mold(image, model.config, f"image {number}")

    numbered, waiting, done = enumerate(items), collections.deque(), collections.deque()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        def refill():
            while len(waiting) < 2 * batch and (item := next(numbered, None)) is not None:
                waiting.append(pool.submit(prepare, *item))

        refill()
        while waiting:
            chunk = [waiting.popleft().result()]
            shape = chunk[0][1].shape
            while waiting and len(chunk) < batch and waiting[0].result()[1].shape == shape:
                chunk.append(waiting.popleft().result())
            refill()
            parts = infer(model, np.stack([c[1] for c in chunk]), np.stack([c[2] for c in chunk]),
                          model.get_anchors(shape))
            for row, (original, _, _, window) in enumerate(chunk):
                done.append(pool.submit(result, parts, row, original, shape, window, model.config, masks))
            while len(done) > 2 * batch:
                yield done.popleft().result()
        while done:
            yield done.popleft().result()
