"""The kernels of the network: non-maximum suppression and RoI pooling.

Each has a portable form in `keras.ops`, which runs on every backend, compiles under XLA and is the
reference in the tests, and the backend's own, which is faster: TensorFlow's fused kernels, or those
for PyTorch in `mrcnn.torch_kernels`. `fused=None` uses the backend's own where there is one, True
requires it, False uses the portable form.
Boxes are [..., (y1, x1, y2, x2)], normalised so that 0 and 1 are the centres of the outermost
pixels.
"""

import contextlib
import contextvars
import ctypes
import functools
import hashlib
import math
import os
import pathlib
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from mrcnn import boxes as box_math, files

Tensor = Any  # of any Keras backend, symbolic or not


def has_fused_kernels(fused: bool | None = None) -> bool:
    """Whether TensorFlow's kernels are used; raises as `kernels_of`."""
    return kernels_of(fused) == "tensorflow"


def kernels_of(fused: bool | None = None) -> str:
    """Which kernels are used: "tensorflow", "torch", or "portable" for those in keras.ops.

    Raises:
        ValueError: fused=True with a backend that has no kernels of its own.
    """
    backend = keras.backend.backend()
    if fused and backend not in WITH_KERNELS:
        raise ValueError(
            "fused=True needs the TensorFlow or the PyTorch backend; None or False run anywhere. "
            f"Received backend: {backend}"
        )
    if fused is False or backend not in WITH_KERNELS:
        return "portable"
    return backend


def compiles(jit_compile: bool | None) -> bool:
    """Whether XLA compiles training steps and detections, by the setting JIT_COMPILE.

    Raises:
        ValueError: the backend can't compile, or must.
    """
    backend = keras.backend.backend()
    if jit_compile and backend == "torch":
        raise ValueError("JIT_COMPILE needs TensorFlow or JAX. Received: True under PyTorch")
    # Without compilation JAX would dispatch one operation after the other.
    if backend == "jax" and jit_compile is False:
        raise ValueError("JIT_COMPILE is None or True under JAX. Received: False")
    return bool(jit_compile) or backend == "jax"


# Keras backends with kernels of their own.
WITH_KERNELS = ("tensorflow", "torch")


@contextlib.contextmanager
def outside_graphs() -> Iterator[None]:
    """Context manager and decorator: runs eagerly, even inside a graph of a TensorFlow 1 program.

    Such a program has `tf.Graph().as_default()`, a Session, or
    tf.compat.v1.disable_eager_execution().

    Raises:
        ValueError: TensorFlow 1's behaviour is switched on, under which Keras 3 can't build.
        RuntimeError: the process was forked from one that has used a model.
    """
    _check_not_forked()
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    if tf.executing_eagerly():
        yield
        return
    if not tf.compat.v1.resource_variables_enabled():
        raise ValueError(
            "Keras 3 needs TensorFlow 2's behaviour. Received:"
            " tf.compat.v1.disable_v2_behavior(), or disable_resource_variables(): delete the"
            " call from the program. Graphs and Sessions around the model may stay"
        )
    # tf.init_scope would leave a traced function but not a graph, and would stop gradients.
    with tf.__internal__.eager_context.eager_mode():
        yield


# The id of the process that built the first model.
_first_process: int | None = None


def _check_not_forked() -> None:
    """RuntimeError in a forked process: it lacks the backend's threads and would hang."""
    global _first_process
    if _first_process is None:
        _first_process = os.getpid()
    if _first_process != os.getpid() and keras.backend.backend() != "torch":
        raise RuntimeError(
            "This process was forked from one that has built or used a model, whose threads it"
            " doesn't have: it would hang. Start it by multiprocessing.get_context('spawn'), or"
            " build the first model in the forked processes. Received: process"
            f" {os.getpid()}, forked from {_first_process} or a child of it"
        )


@contextlib.contextmanager
def without_gradients() -> Iterator[None]:
    """Context manager and decorator: PyTorch keeps no layer outputs for the backward pass.

    Does nothing on other backends, which compute gradients only where they are requested.
    """
    if keras.backend.backend() != "torch":
        yield
        return
    import torch

    with torch.no_grad():
        yield


def keep_freed_memory() -> None:
    """Makes glibc keep freed blocks of up to 32 MB, once per process.

    By default glibc maps and unmaps each large buffer, which costs page faults in every training
    step: 190,000 for the shapes demo, .87 s instead of .64 s on 2 cores. Larger blocks are still
    mapped: keeping them would fragment the heap, by .18 GB in a step of ResNet-50 at 512². Does
    nothing with other C libraries.
    """
    global _memory_is_kept
    if _memory_is_kept or not sys.platform.startswith("linux"):
        return
    _memory_is_kept = True
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    trim_threshold = -1  # M_TRIM_THRESHOLD
    mmap_threshold = -3  # M_MMAP_THRESHOLD
    arena_max = -8  # M_ARENA_MAX
    # An arena of a thread holds blocks of at most 64 MB; larger ones would always be mapped.
    mallopt(arena_max, 1)
    # 32 MB is glibc's maximum. It must be set, too: setting any threshold ends the adaptation of
    # this one, which would stay at 128 KB.
    mallopt(mmap_threshold, 1 << 25)
    mallopt(trim_threshold, (1 << 31) - 1)


_memory_is_kept = False


@functools.cache
def keep_compiled_programs() -> None:
    """Turns on JAX's persistent compilation cache, in jax/ of `files.cache_folder`; once a process.

    A folder set by the program or by JAX_COMPILATION_CACHE_DIR is left as it is;
    JAX_ENABLE_COMPILATION_CACHE=false turns the cache off. Does nothing on other backends.
    """
    if keras.backend.backend() != "jax":
        return
    import jax

    if jax.config.jax_compilation_cache_dir:
        return
    # Programs for a CPU use its instruction set, and several machines may share a home folder.
    folder = files.cache_folder() / "jax" / _digest_of_processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # By default JAX caches no program that compiles in less than a second; building a model
        # compiles hundreds of these.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _digest_of_processor():
    """A digest, in hexadecimal, of the processor's architecture and instruction set."""
    properties = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        properties += sorted({line for line in lines if line.startswith(("flags", "Features"))})
    return hashlib.sha256("\n".join(properties).encode()).hexdigest()[:16]


def uniform(shape: Any, seed: Any) -> Tensor:
    """Uniform random numbers in [0, 1), the same in TensorFlow with and without XLA.

    Args:
        shape: of the numbers.
        seed: a `keras.random.SeedGenerator`.

    Returns:
        [*shape] float32.
    """
    if keras.backend.backend() != "tensorflow":
        return keras.random.uniform(shape, seed=seed)
    import tensorflow as tf

    # TensorFlow makes the same floats of these bits; XLA's floats use the bits in another order.
    key = tf.cast(tf.math.floormod(seed.next(), tf.int32.max - 1), tf.int32)
    bits = tf.random.stateless_uniform(
        shape, key, minval=None, maxval=None, dtype=tf.int32, alg="philox"
    )
    return tf.cast(bits & 0x7FFFFF, tf.float32) * 2.0**-23


def half_of_squares(x: Tensor) -> Tensor:
    """Half of the sum of the squares of a tensor of any shape, a scalar.

    On TensorFlow it is one operation, and one more for its gradient.
    """
    if not has_fused_kernels():
        return 0.5 * ops.sum(ops.square(x))
    import tensorflow as tf

    return tf.nn.l2_loss(ops.convert_to_tensor(x))


# cuDNN's minimum, by which TensorFlow replaces smaller values.
LEAST_EPSILON = 1.001e-5


def has_fused_batch_norm(epsilon: float) -> bool:
    """Whether `batch_norm` can be used with this backend and epsilon."""
    return has_fused_kernels() and epsilon >= LEAST_EPSILON


def batch_norm(
    x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm with the statistics of the batch. TensorFlow only.

    One fused operation, and one for its gradient: on a CPU half the time of separate operations.

    Args:
        x: [B, H, W, C] float32.
        gamma, beta: [C].
        epsilon: at least LEAST_EPSILON.

    Returns:
        outputs [B, H, W, C]; mean and variance [C] of the B * H * W values.
    """
    import tensorflow as tf

    gamma = ops.convert_to_tensor(gamma)
    beta = ops.convert_to_tensor(beta)
    outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(x, gamma, beta, epsilon=epsilon)
    # The operation returns the unbiased variance: it divides by N - 1, or by 1 where N is 1.
    if x.shape.is_fully_defined():  # a dozen operations less to trace in each layer
        number = math.prod(x.shape[:3])
        return outputs, mean, variance * (max(number - 1, 1) / number)
    count = tf.cast(tf.reduce_prod(tf.shape(x)[:3]), "float32")
    return outputs, mean, variance * (tf.maximum(count - 1.0, 1.0) / count)


# ---- Boxes and rows ------------------------------------------------------------------------------


def overlaps(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU of every pair, 0 for 0 / 0: boxes1 [..., N, 4], boxes2 [..., M, 4] -> [..., N, M]."""
    return box_math.pairwise_iou(boxes1, boxes2, ops)


def take_rows(x: Tensor, indices: Tensor) -> Tensor:
    """Gathers rows of each image: x [B, N, ...], indices [B, K] int -> [B, K, ...].

    On TensorFlow it is one operation, where `take_along_axis` is thirty.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.gather(x, indices, batch_dims=1)
    ones = [1] * (len(x.shape) - 2)
    indices = ops.reshape(indices, (*ops.shape(indices)[:2], *ones))
    return ops.take_along_axis(x, indices, axis=1)


def pick(x: Tensor, indices: Tensor) -> Tensor:
    """Gathers one entry of each row: x [B, N, K, ...], indices [B, N] int -> [B, N, ...].

    It is `take_along_axis` with one index a row, in a fifth of the operations, as is its gradient.

    Args:
        x: K and the axes after it have static sizes.
        indices: in 0..K-1.
    """
    if keras.backend.backend() != "tensorflow":
        ones = [1] * (len(x.shape) - 2)
        index = ops.reshape(indices, (*ops.shape(indices), *ones))
        return ops.take_along_axis(x, index, axis=2)[:, :, 0]
    import tensorflow as tf

    count, *rest = x.shape[2:]
    shape = tf.shape(indices)
    first = count * tf.range(tf.size(indices))
    rows = tf.reshape(tf.cast(indices, "int32"), (-1,)) + first
    picked = tf.gather(tf.reshape(x, (-1, *rest)), rows)
    if rest:
        shape = tf.concat([shape, rest], 0)
    return tf.ensure_shape(tf.reshape(picked, shape), (*indices.shape, *rest))


def fold_rois(x: Tensor) -> Tensor:
    """Folds the axis of RoIs into the batch: [B, N, ...] -> [B * N, ...]."""
    rest = x.shape[2:]
    if None in rest:
        rest = ops.shape(x)[2:]
    return ops.reshape(x, (-1, *rest))


def unfold_rois(y: Tensor, like: Tensor) -> Tensor:
    """The inverse of `fold_rois`: y [B * N, ...] -> [B, N, ...], where `like` is [B, N, ...].

    On TensorFlow each dynamic size costs five operations; `reshape` infers one of them.
    """
    batch, count = like.shape[:2]
    rest = y.shape[1:]
    if None in rest:
        rest = ops.shape(y)[1:]
    if count:
        return ops.reshape(y, (-1, count, *rest))
    if batch:
        return ops.reshape(y, (batch, -1, *rest))
    return ops.reshape(y, (*ops.shape(like)[:2], *rest))


def top_k(x: Tensor, k: Any) -> tuple[Tensor, Tensor]:
    """The k largest values of the last axis in descending order; of equal ones the first.

    Args:
        x: [..., N].
        k: at most N, an int or a scalar.

    Returns:
        values [..., k], and their indices [..., k] int.
    """
    if kernels_of() != "torch" or isinstance(x, keras.KerasTensor):
        return ops.top_k(x, k)
    from mrcnn import torch_kernels

    return torch_kernels.top_k(x, k)


def shortfall(wanted: int, count: Any) -> Any:
    """How many of `wanted` are missing where there are `count`, an int or a scalar tensor.

    For an int it is an int, which sizes must be in programs that JAX compiles.
    """
    if isinstance(count, int):
        return max(wanted - count, 0)
    return ops.maximum(wanted - count, 0)


def mask_rows(x: Tensor, keep: Tensor) -> Tensor:
    """Sets the rows of x [B, N, ...] to zero where keep [B, N] is False."""
    ones = [1] * (len(x.shape) - 2)
    keep = ops.reshape(keep, (*ops.shape(keep), *ones))
    return ops.where(keep, x, ops.zeros_like(x))


# ---- Non-maximum suppression ---------------------------------------------------------------------


def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    count: int,
    iou_threshold: float,
    valid: Tensor | None = None,
    classes: Tensor | None = None,
    fused: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Greedy non-maximum suppression of a batch; of equal scores the lower index wins.

    Args:
        boxes: [B, N, (y1, x1, y2, x2)] float32.
        scores: [B, N] float32, finite.
        count: the most boxes to keep, an int: the size of the output is static.
        iou_threshold: a box is suppressed if its IoU with a better one is above this.
        valid: [B, N] bool, False for boxes to ignore; None for all valid.
        classes: [B, N] int: boxes suppress only boxes of their class; None for a single class.
        fused: see the module.

    Returns:
        indices: [B, count] int32, best first, 0 where `kept` is False.
        kept: [B, count] bool, False for padding.
    """
    if valid is None:
        valid = ops.ones_like(scores, dtype="bool")
    form = kernels_of(fused)
    if form == "portable":
        suppress = _portable_suppression.get()
        return suppress(boxes, scores, count, iou_threshold, valid, classes)
    if form == "torch":
        from mrcnn import torch_kernels

        return torch_kernels.non_max_suppression(
            boxes, scores, count, iou_threshold, valid, classes
        )
    import tensorflow as tf

    def one_image(rows):
        return _nms_of_image(*rows, count=count, iou_threshold=iou_threshold)

    inputs: tuple[Tensor, ...] = (boxes, scores, valid)
    if classes is not None:
        inputs = (*inputs, classes)
    indices, kept = tf.map_fn(one_image, inputs, fn_output_signature=(tf.int32, tf.bool))
    return indices, kept


def _nms_of_image(boxes, scores, valid, classes=None, *, count, iou_threshold):
    """`non_max_suppression` for one image by TensorFlow's kernels."""
    import tensorflow as tf

    rows = tf.cast(tf.where(valid)[:, 0], tf.int32)
    boxes = tf.gather(boxes, rows)
    scores = tf.gather(scores, rows)
    limit = tf.minimum(count, tf.shape(rows)[0])
    if classes is None:
        kept = tf.image.non_max_suppression(boxes, scores, limit, iou_threshold)
    else:
        classes = tf.gather(classes, rows)
        same = tf.cast(classes[:, None] == classes[None, :], boxes.dtype)
        iou = overlaps(boxes, boxes) * same
        kept = tf.image.non_max_suppression_overlaps(iou, scores, limit, iou_threshold)
    kept = tf.gather(rows, kept)
    missing = count - tf.shape(kept)[0]
    indices = tf.pad(kept, [[0, missing]])
    is_kept = tf.range(count) < count - missing
    return tf.ensure_shape(indices, [count]), tf.ensure_shape(is_kept, [count])


def _nms_reference(boxes, scores, count, iou_threshold, valid, classes):
    """`non_max_suppression` in keras.ops: selects the best remaining box `count` times."""
    remaining = ops.where(valid, scores, -float("inf"))  # scores of the remaining boxes
    positions = ops.expand_dims(ops.arange(count, dtype="int32"), 0)
    batch_zeros = ops.cast(ops.zeros_like(scores[:, :1]), "int32")
    indices = positions * 0 + batch_zeros
    kept = indices > 0

    def condition(i, remaining, indices, kept):
        return i < count

    def step(i, remaining, indices, kept):
        best_score, best = ops.top_k(remaining, 1)  # [B, 1]; ties: the first
        best = ops.cast(best, "int32")
        exists = best_score > -float("inf")
        best_box = ops.take_along_axis(boxes, best[..., None], axis=1)  # [B, 1, 4]
        suppressed = overlaps(boxes, best_box)[..., 0] > iou_threshold
        if classes is not None:
            same = classes == ops.take_along_axis(classes, best, axis=1)
            suppressed = ops.logical_and(suppressed, same)
        is_best = ops.arange(ops.shape(boxes)[1], dtype="int32")[None] == best
        remaining = ops.where(ops.logical_or(suppressed, is_best), -float("inf"), remaining)
        filled = ops.logical_and(positions == i, exists)
        indices = ops.where(filled, best, indices)
        kept = ops.logical_or(kept, filled)
        return i + 1, remaining, indices, kept

    _, _, indices, kept = ops.while_loop(condition, step, (0, remaining, indices, kept))
    return indices, kept


# The function that computes the portable form of `non_max_suppression`, see `suppressing_by`.
_portable_suppression: contextvars.ContextVar[Callable] = contextvars.ContextVar(
    "portable_suppression", default=_nms_reference
)


@contextlib.contextmanager
def suppressing_by(function: Callable) -> Iterator[None]:
    """Within it `non_max_suppression` calls a function in place of its portable form.

    Args:
        function: f(boxes, scores, count, iou_threshold, valid, classes), with the arguments and
            results of `non_max_suppression`.
    """
    token = _portable_suppression.set(function)
    try:
        yield
    finally:
        _portable_suppression.reset(token)


# ---- RoI pooling ---------------------------------------------------------------------------------
# Three kinds with different results. Two bins of a box from 1 to 3 on the ramp 0, 1, 2, ... are,
# with
# - crop_and_resize: 1 and 3 or, depending on how boxes are normalised, other points *on* the box's
#   edges (one sample a bin);
# - roi_align: the centres of the bins, 1 and 2 (aligned: cell i covers i - .5 to i + .5) or 1.5 and
#   2.5;
# - roi_pool: the maximum of whole cells, 2 and 3.


def crop_and_resize(
    images: Tensor,
    boxes: Tensor,
    box_indices: Tensor,
    size: Sequence[int],
    fused: bool | None = None,
) -> Tensor:
    """Bilinear crops, one sample per cell, the corner samples on the box's corners; 0 outside.

    This is not the paper's RoIAlign: with boxes normalised by (height - 1, width - 1) the first and
    the last sample of a row lie *on* the box's edges instead of half a cell inside. For a box that
    ends on the image's edge the last sample of TensorFlow's kernel may lie a rounding error beyond
    it (as from 56 cells to 28), and be 0. The mask targets of matterport's package have the same
    zeros, and the losses recorded with it depend on them. The fused form has no gradient with
    respect to the boxes.

    Args:
        images: [B, H, W, C] float.
        boxes: [N, (y1, x1, y2, x2)] float32, normalised.
        box_indices: [N] int32, the image of each box.
        size: (height, width) of the crops.

    Returns:
        [N, height, width, C].
    """
    if has_fused_kernels(fused):
        import tensorflow as tf

        # The kernel returns float32 and does not take bfloat16.
        kernel_input = images
        if images.dtype == tf.bfloat16:
            kernel_input = tf.cast(images, "float32")
        crops = _crop_by_kernel(kernel_input, boxes, box_indices, size)
        if images.dtype.is_floating:
            crops = tf.cast(crops, images.dtype)
        return crops
    maps = _Maps.whole(images, box_indices)
    at_y, at_x = _corner_samples(maps, boxes, size)
    return _bilinear(maps, at_y, at_x, fused=fused)


def _crop_by_kernel(images, boxes, box_indices, size):
    """`tf.image.crop_and_resize` with a gradient that is correct on a CPU, too.

    The gradient is that of the images alone. TensorFlow's own has a race condition on a CPU, where
    threads add to a cell without synchronisation: for 200 overlapping boxes on 2 cores the error is
    a fifth of the largest gradient, and not reproducible. Its GPU kernel adds atomically.
    """
    import tensorflow as tf

    if tf.config.list_logical_devices("GPU"):
        return tf.image.crop_and_resize(images, tf.stop_gradient(boxes), box_indices, size)
    return _crop_function(tuple(size), images.shape[-1], images.dtype)(images, boxes, box_indices)


@functools.cache
def _crop_function(size, channels, dtype):
    """The kernel with its gradient as a `tf.function` without captures.

    TensorFlow never frees what a custom gradient refers to; here that is only this small graph, not
    the graph of the model that calls it.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def crop(images, boxes, box_indices):
        def gradient(upstream):
            maps = _Maps.whole(images, box_indices)
            at_y, at_x = _corner_samples(maps, boxes, size)
            cells, weights = _cells_read(maps, at_y, at_x)
            upstream = tf.reshape(upstream, (-1, channels))
            shape = tf.shape(images)
            summed = _sum_by_cell(upstream, cells, weights, tf.reduce_prod(shape[:3]))
            return tf.cast(tf.reshape(summed, shape), dtype), None, None

        return tf.image.crop_and_resize(images, boxes, box_indices, size), gradient

    signature = [
        tf.TensorSpec((None, None, None, channels), dtype),
        tf.TensorSpec((None, 4), "float32"),
        tf.TensorSpec((None,), "int32"),
    ]
    return tf.function(crop, input_signature=signature, autograph=False)


def _sum_by_cell(values, cells, weights, cell_count):
    """Adds values [samples, C] to the cells that each sample reads, by weights: [cell_count, C].

    cells, weights: see `_cells_read`.
    """
    import tensorflow as tf

    samples = tf.shape(values)[0]
    sample_of_read = tf.repeat(tf.range(samples), 4)
    pairs = tf.stack([sample_of_read, tf.reshape(cells, (-1,))], -1)
    return tf.raw_ops.SparseTensorDenseMatMul(
        a_indices=pairs,
        a_values=tf.reshape(weights, (-1,)),
        b=values,
        adjoint_a=True,
        a_shape=tf.cast(tf.stack([samples, cell_count]), "int64"),
    )


def pyramid_pool(
    feature_maps: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    size: Sequence[int],
    fused: bool | None = None,
) -> Tensor:
    """`crop_and_resize` from the feature map that each box is assigned to.

    Args:
        feature_maps: list of L maps [B, H, W, C], finest first.
        boxes: [B, N, 4] float32, normalised.
        levels: [B, N] int32 in 0..L-1.
        size: (height, width) of the crops.

    Returns:
        [B, N, height, width, C].
    """
    # The last sample of a box that ends on the image's edge may lie a rounding error beyond it and
    # then be 0 instead of the edge's value: such boxes are made to end a little before the edge.
    edge = 1.0 - 2.0**-22
    boxes = ops.where(ops.abs(boxes - 1.0) < 1e-6, edge, boxes)
    if kernels_of(fused) != "portable":

        def crop(maps, rows, images):
            return crop_and_resize(maps, rows, images, size, True)

        return _level_by_level(feature_maps, boxes, levels, size, crop)
    maps = _Maps.of(feature_maps, levels)
    at_y, at_x = _corner_samples(maps, ops.reshape(boxes, (-1, 4)), size)
    return _unfold(_bilinear(maps, at_y, at_x), boxes, feature_maps)


def roi_align(
    feature_maps: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    size: Sequence[int],
    samples: int = 2,
    aligned: bool = True,
    reduce: str = "average",
    fused: bool | None = None,
) -> Tensor:
    """RoIAlign (He et al. 2017, section 3): bilinear samples of each bin, without any rounding.

    A sample up to one cell outside the map has the edge's value, one farther out is 0.

    Args:
        feature_maps: list of L maps [B, H, W, C], finest first.
        boxes: [B, N, 4] float32, in cells of the map that each is assigned to.
        levels: [B, N] int32 in 0..L-1.
        size: (height, width) of the output.
        samples: per bin and axis, so that 2 averages four; 0 for ceil(size of the bin in cells).
        aligned: cell i covers i - .5 to i + .5, and its value lies at its centre. False is the
            convention of the first implementations, in which all samples lie half a cell too far to
            the lower right and boxes are at least a cell high and wide.
        reduce: "average" or "max" of a bin's samples.
        fused: see the module.

    Returns:
        [B, N, height, width, C].
    """
    form = kernels_of(fused)
    if form == "torch":
        from mrcnn import torch_kernels

        if torch_kernels.can_align(feature_maps[0], reduce):

            def align(maps, rows, images):
                return torch_kernels.roi_align(maps, rows, images, size, samples, aligned)

            return _level_by_level(feature_maps, boxes, levels, size, align)
    shift = 0.0
    if aligned:
        shift = 0.5
    rows = ops.reshape(boxes, (-1, 4)) - shift
    start = rows[:, :2]
    extent = rows[:, 2:] - rows[:, :2]
    if not aligned:
        extent = ops.maximum(extent, 1.0)
    if samples == 0:
        maps = _Maps.of(feature_maps, levels)
        pooled = _align_adaptively(maps, start, extent, size, reduce)
        return _unfold(pooled, boxes, feature_maps)
    # A bin is divided into `samples` equal parts a side, with a sample at the centre of each part.
    grid = tuple(samples * side for side in size)
    if form == "torch":
        regions = ops.reshape(ops.concatenate([start, extent], axis=-1), ops.shape(boxes))

        def read(maps, rows, images):
            return _align_by_torch(_Maps.whole(maps, images), rows, size, samples, reduce)

        return _level_by_level(feature_maps, regions, levels, size, read)
    if form == "tensorflow":
        ends = ops.reshape(_outermost_samples(start, extent, grid), ops.shape(boxes))

        def pool(maps, ends, images):
            return _reduce_bins(_sample_by_kernel(maps, ends, images, grid), samples, reduce)

        return _level_by_level(feature_maps, ends, levels, size, pool)
    maps = _Maps.of(feature_maps, levels)
    at_y = _even_samples(start[:, 0], extent[:, 0], grid[0])
    at_x = _even_samples(start[:, 1], extent[:, 1], grid[1])
    sampled = _bilinear(maps, at_y, at_x, border=1.0)
    return _unfold(_reduce_bins(sampled, samples, reduce), boxes, feature_maps)


def _outermost_samples(start, extent, grid):
    """(y1, x1, y2, x2) [N, 4] of the first and the last sample of each box, in cells."""
    step = extent / ops.convert_to_tensor(grid, "float32")
    return ops.concatenate([start + 0.5 * step, start + extent - 0.5 * step], axis=-1)


def _sample_by_kernel(maps, ends, images, grid):
    """A grid of samples of each box, whose outermost ones are `ends` [n, 4]. TensorFlow only."""
    import tensorflow as tf

    # The padding repeats the edge for one cell; beyond it the kernel's samples are 0.
    padded = tf.pad(maps, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")
    last = tf.cast(tf.shape(padded)[1:3] - 1, "float32")
    normalised = (ends + 1.0) / tf.concat([last, last], 0)
    return crop_and_resize(padded, normalised, images, grid, True)


def _align_by_torch(maps, rows, size, samples, reduce):
    """`roi_align` for one level; rows: [n, (y, x, height, width)] in cells. PyTorch only."""
    at_y = _even_samples(rows[:, 0], rows[:, 2], samples * size[0])
    at_x = _even_samples(rows[:, 1], rows[:, 3], samples * size[1])
    if reduce != "average":
        sampled = _bilinear(maps, at_y, at_x, border=1.0, fused=True)
        return _reduce_bins(sampled, samples, reduce)
    from mrcnn import torch_kernels

    # One weighted sum over the cells that all samples of a bin read.
    cells, weights = _cells_read(maps, at_y, at_x, border=1.0)
    cells = _of_bins(cells, size, samples)
    weights = _of_bins(weights, size, samples) / samples**2
    return torch_kernels.sum_of_rows(maps.flat, cells, weights)


def _of_bins(reads, size, samples):
    """Reads by bin: [n, h * samples, w * samples, 2, 2] to [n, h, w, 4 * samples**2]."""
    height, width = size
    reads = ops.reshape(reads, (-1, height, samples, width, samples, 4))
    reads = ops.transpose(reads, (0, 1, 3, 2, 4, 5))
    return ops.reshape(reads, (-1, height, width, 4 * samples**2))


def _even_samples(start, extent, count):
    """Coordinates [N, count] on one axis: the centres of `count` equal parts of each box."""
    centres = ops.arange(count, dtype="float32") + 0.5
    return start[:, None] + centres * (extent[:, None] / count)


def roi_pool(
    feature_maps: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    size: Sequence[int],
) -> Tensor:
    """RoIPool (Girshick 2015): the maximum of each bin, with boxes and bins of whole cells.

    Args:
        feature_maps, boxes, levels, size: see `roi_align`.

    Returns:
        [B, N, height, width, C]; 0 for a bin outside the map.
    """
    maps = _Maps.of(feature_maps, levels)
    rows = ops.cast(ops.floor(ops.reshape(boxes, (-1, 4)) + 0.5), "int32")
    vertical = _whole_bins(rows[:, 0], rows[:, 2], maps.height, size[0])
    horizontal = _whole_bins(rows[:, 1], rows[:, 3], maps.width, size[1])
    # First the cells with the maxima are found. Their values are then read by one gather, the only
    # operation with a gradient.
    best, value = _largest_cells(maps, vertical, horizontal, size)
    channels = maps.flat.shape[-1]
    flat_index = best * channels + ops.arange(channels, dtype="int32")
    pooled = ops.take(ops.reshape(maps.flat, (-1,)), flat_index)
    pooled = ops.where(value > -float("inf"), pooled, ops.zeros_like(pooled))
    return _unfold(pooled, boxes, feature_maps)


class _Bins(NamedTuple):
    """Bins of whole cells on one axis, from `low` to `high` [N, bins] int32, which is excluded."""

    low: Tensor
    high: Tensor

    def most_cells(self):
        """The number of cells of the largest bin, at least 1; a scalar."""
        cells = ops.reshape(self.high - self.low, (-1,))
        return ops.max(ops.concatenate([cells, ops.ones((1,), "int32")]))


def _whole_bins(first, last, length, count):
    """The `_Bins` of boxes from cell `first` to `last` [N] int32, on an axis of `length` [N]."""
    # In integers: in floats floor(i * extent / bins) is sometimes one too small.
    extent = ops.maximum(last - first + 1, 1)[:, None]
    bins = ops.arange(count, dtype="int32")[None]
    low = bins * extent // count
    high = -(-(bins + 1) * extent // count)
    return _Bins(
        low=ops.clip(first[:, None] + low, 0, length[:, None]),
        high=ops.clip(first[:, None] + high, 0, length[:, None]),
    )


def _largest_cells(maps, vertical, horizontal, size):
    """The cell with the maximum of each bin and channel; without a gradient.

    Returns:
        best: [N, h, w, C] int32, rows of `maps.flat`.
        value: [N, h, w, C] float32, the maxima; -inf for a bin without cells.
    """
    most_y = vertical.most_cells()
    most_x = horizontal.most_cells()
    channels = maps.flat.shape[-1]
    features = ops.stop_gradient(maps.flat)

    def condition(i, best, value):
        return i < most_y * most_x

    def step(i, best, value):
        """Compares cell number i of all bins."""
        y = vertical.low + i // most_x
        x = horizontal.low + i % most_x
        inside_y = (y < vertical.high)[:, :, None]
        inside_x = (x < horizontal.high)[:, None, :]
        inside = ops.logical_and(inside_y, inside_x)
        rows = ops.where(inside, maps.rows(y, x), 0)
        candidate = ops.cast(ops.take(features, rows, axis=0), "float32")
        candidate = ops.where(inside[..., None], candidate, -float("inf"))
        larger = candidate > value
        best = ops.where(larger, rows[..., None], best)
        value = ops.where(larger, candidate, value)
        return i + 1, best, value

    value = ops.zeros((ops.shape(vertical.low)[0], *size, channels)) - float("inf")
    best = ops.cast(ops.zeros_like(value), "int32")
    _, best, value = ops.while_loop(condition, step, (0, best, value))
    return best, value


class _Maps(NamedTuple):
    """Concatenated feature maps, and the map of each box; no size depends on the data.

    Attributes:
        flat: [cells, C], the cells of all maps.
        offset: [N] int32, the first cell of each box's map.
        height, width: [N] int32, the size of each box's map in cells.
    """

    flat: Tensor
    offset: Tensor
    height: Tensor
    width: Tensor

    @classmethod
    def whole(cls, images, box_indices):
        """A single map [B, H, W, C]; box_indices: [N] int32, the image of each box."""
        _, height, width, channels = ops.shape(images)
        ones = ops.ones_like(box_indices)
        return cls(
            flat=ops.reshape(images, (-1, channels)),
            offset=box_indices * (height * width),
            height=ones * height,
            width=ones * width,
        )

    @classmethod
    def of(cls, feature_maps, levels):
        """Several maps; feature_maps: list of [B, H, W, C]; levels: [B, N], the map of each box."""
        images = _image_of(levels)
        levels = ops.reshape(levels, (-1,))
        flat = []
        offsets = []
        heights = []
        widths = []
        start = 0
        for maps in feature_maps:
            shape = ops.shape(maps)
            flat.append(ops.reshape(maps, (-1, shape[3])))
            offsets.append(start)
            heights.append(shape[1])
            widths.append(shape[2])
            start = start + shape[0] * shape[1] * shape[2]
        height = ops.take(ops.convert_to_tensor(heights, "int32"), levels)
        width = ops.take(ops.convert_to_tensor(widths, "int32"), levels)
        offset = ops.take(ops.convert_to_tensor(offsets, "int32"), levels) + images * height * width
        return cls(ops.concatenate(flat, 0), offset, height, width)

    def rows(self, y, x):
        """Indices [N, h, w] into `flat` of the cells at rows y [N, h] and columns x [N, w]."""
        offset = self.offset[:, None, None]
        width = self.width[:, None, None]
        return offset + y[:, :, None] * width + x[:, None, :]


def _image_of(levels):
    """The index [B * N] int32 of the image of each box, for levels [B, N]."""
    batch, count = ops.shape(levels)
    images = ops.arange(batch, dtype="int32")[:, None]
    return ops.reshape(ops.broadcast_to(images, (batch, count)), (-1,))


def _unfold(pooled, boxes, feature_maps):
    """[B * N, h, w, C] to [B, N, h, w, C]."""
    shape = (*ops.shape(boxes)[:2], *pooled.shape[1:3], feature_maps[0].shape[-1])
    return ops.reshape(pooled, shape)


def _level_by_level(feature_maps, boxes, levels, size, pool):
    """Pools the boxes of each level by pool(map, boxes [n, 4], images [n]).

    TensorFlow and PyTorch only, since the number of boxes of a level depends on the data.
    """
    images = _image_of(levels)
    levels = ops.reshape(levels, (-1,))
    rows = ops.reshape(boxes, (-1, 4))
    if len(feature_maps) == 1:
        return _unfold(pool(feature_maps[0], rows, images), boxes, feature_maps)
    if kernels_of() == "torch":
        from mrcnn import torch_kernels

        pooled = torch_kernels.level_by_level(feature_maps, rows, levels, images, pool)
        return _unfold(pooled, boxes, feature_maps)
    import tensorflow as tf

    indices = []
    crops = []
    for level, maps in enumerate(feature_maps):
        of_level = tf.cast(tf.where(levels == level)[:, 0], tf.int32)
        indices.append(of_level)
        crops.append(pool(maps, tf.gather(rows, of_level), tf.gather(images, of_level)))
    # The crops are sorted by level; row r of the result is crop number `order[r]`.
    count = tf.shape(rows)[0]
    order = tf.scatter_nd(tf.concat(indices, 0)[:, None], tf.range(count), [count])
    pooled = tf.gather(tf.concat(crops, 0), order)
    return ops.reshape(pooled, (*ops.shape(boxes)[:2], *size, feature_maps[0].shape[-1]))


def _corner_samples(maps, boxes, size):
    """Coordinates of the samples of `crop_and_resize`: y [N, height], x [N, width] in cells.

    Args:
        maps: `_Maps`.
        boxes: [N, 4], normalised.
        size: (height, width) of the crops.
    """
    at_y = _from_edge_to_edge(boxes[:, 0], boxes[:, 2], maps.height, size[0])
    at_x = _from_edge_to_edge(boxes[:, 1], boxes[:, 3], maps.width, size[1])
    return at_y, at_x


def _from_edge_to_edge(low, high, length, count):
    """Coordinates [N, count] on one axis in cells, the first and the last on the box's edges."""
    last = ops.cast(length - 1, "float32")[:, None]
    if count == 1:
        return 0.5 * (low + high)[:, None] * last
    # In the order of TensorFlow's kernel, so that rounding puts the same samples outside the map.
    step = (high - low)[:, None] * last / (count - 1)
    return low[:, None] * last + ops.arange(count, dtype="float32") * step


def cell_patches(feature_maps: Sequence[Tensor], cells: Tensor) -> Tensor:
    """The 3x3 neighbourhoods of cells, with zeros outside the map, as in a "same" convolution.

    Args:
        feature_maps: list of maps [B, H, W, C].
        cells: [B, N] int32, indices of cells, counted map by map and row by row.

    Returns:
        [B, N, 9 * C], the cells of each patch row by row.
    """
    batch = ops.shape(cells)[0]
    channels = feature_maps[0].shape[-1]
    flat = []
    for maps in feature_maps:
        flat.append(ops.reshape(maps, (batch, -1, channels)))
    flat = ops.concatenate(flat, axis=1)
    cells_of_image = ops.shape(flat)[1]
    rows, inside = _rows_of_patches(feature_maps, cells)
    image = ops.arange(batch, dtype="int32")[:, None, None, None]
    rows = ops.where(inside, rows, 0) + image * cells_of_image
    patches = ops.take(ops.reshape(flat, (-1, channels)), ops.reshape(rows, (-1,)), axis=0)
    patches = ops.reshape(patches, (batch, ops.shape(cells)[1], 9, channels))
    patches = ops.where(ops.reshape(inside, (batch, -1, 9, 1)), patches, ops.zeros_like(patches))
    return ops.reshape(patches, (batch, -1, 9 * channels))


def _rows_of_patches(feature_maps, cells):
    """The cells around cells [B, N], and whether they lie in the map; both [B, N, 3, 3]."""
    first, height, width = _map_of_cells(feature_maps, cells)
    shift = ops.arange(3, dtype="int32") - 1
    y = ((cells - first) // width)[..., None, None] + shift[:, None]  # [B, N, 3, 1]
    x = ((cells - first) % width)[..., None, None] + shift  # [B, N, 1, 3]
    inside_y = ops.logical_and(y >= 0, y < height[..., None, None])
    inside_x = ops.logical_and(x >= 0, x < width[..., None, None])
    rows = first[..., None, None] + y * width[..., None, None] + x
    return rows, ops.logical_and(inside_y, inside_x)


def _map_of_cells(feature_maps, cells):
    """First cell, height and width [B, N] of the map in which each of the cells [B, N] lies."""
    start = 0
    first = ops.zeros_like(cells)
    height = ops.zeros_like(cells)
    width = ops.zeros_like(cells)
    for maps in feature_maps:
        _, h, w, _ = ops.shape(maps)
        in_map = cells >= start  # or in a later map, which overwrites the values
        first = ops.where(in_map, ops.cast(start, "int32"), first)
        height = ops.where(in_map, ops.cast(h, "int32"), height)
        width = ops.where(in_map, ops.cast(w, "int32"), width)
        start = start + h * w
    return first, height, width


class _Neighbours(NamedTuple):
    """The cells and weights that samples read on one axis, each [N, n].

    Attributes:
        low, high: int32, the cells on both sides of a sample.
        fraction: float32, the weight of `high`; that of `low` is 1 - fraction.
        inside: bool, whether a sample lies in the map or its border.
    """

    low: Tensor
    high: Tensor
    fraction: Tensor
    inside: Tensor


def _neighbours(at, length, border=0.0):
    """The `_Neighbours` of samples on one axis.

    Args:
        at: [N, n], coordinates in cells.
        length: [N], number of cells of the axis.
        border: see `_bilinear`.
    """
    last = ops.cast(length - 1, "float32")[:, None]
    inside = ops.logical_and(at >= -border, at <= last + border)
    if border:
        at = ops.where(inside, ops.clip(at, 0.0, last), 0.0)
    else:
        at = ops.where(inside, at, 0.0)
    below = ops.floor(at)
    return _Neighbours(
        low=ops.cast(below, "int32"),
        high=ops.cast(ops.minimum(below + 1, last), "int32"),
        fraction=at - below,
        inside=inside,
    )


def _cells_read(maps, at_y, at_x, border=0.0):
    """The four cells that each sample reads, and their bilinear weights.

    Args:
        maps, at_y, at_x, border: see `_bilinear`.

    Returns:
        cells: [N, h, w, 2, 2] int32, rows of `maps.flat`.
        weights: [N, h, w, 2, 2] float32, 0 outside the map.
    """
    vertical = _neighbours(at_y, maps.height, border)
    horizontal = _neighbours(at_x, maps.width, border)
    y = ops.stack([vertical.low, vertical.high], -1)[:, :, None, :, None]
    x = ops.stack([horizontal.low, horizontal.high], -1)[:, None, :, None, :]
    offset = maps.offset[:, None, None, None, None]
    width = maps.width[:, None, None, None, None]
    cells = offset + y * width + x
    weights_y = _weights_of(vertical)[:, :, None, :, None]
    weights_x = _weights_of(horizontal)[:, None, :, None, :]
    return cells, weights_y * weights_x


def _weights_of(neighbours):
    """The linear weights [N, n, 2] of a sample's two neighbours on one axis; 0 outside."""
    weights = ops.stack([1.0 - neighbours.fraction, neighbours.fraction], -1)
    return ops.where(neighbours.inside[..., None], weights, 0.0)


def _bilinear(maps, at_y, at_x, border=0.0, fused=False):
    """Bilinear interpolation of maps.

    Args:
        maps: `_Maps`.
        at_y: [N, h], at_x: [N, w], coordinates of the samples in cells.
        border: for how many cells around the map the edge is repeated; farther out it is 0.
        fused: see the module; only PyTorch has a kernel for this.

    Returns:
        [N, h, w, C].
    """
    if kernels_of(fused) == "torch":
        from mrcnn import torch_kernels

        cells, weights = _cells_read(maps, at_y, at_x, border)
        shape = (*ops.shape(cells)[:3], 4)
        return torch_kernels.sum_of_rows(
            maps.flat, ops.reshape(cells, shape), ops.reshape(weights, shape)
        )
    vertical = _neighbours(at_y, maps.height, border)
    horizontal = _neighbours(at_x, maps.width, border)

    def corner(y, x):
        return ops.take(maps.flat, maps.rows(y, x), axis=0)  # [N, h, w, C]

    dy = ops.cast(vertical.fraction, maps.flat.dtype)[:, :, None, None]
    dx = ops.cast(horizontal.fraction, maps.flat.dtype)[:, None, :, None]
    top_left = corner(vertical.low, horizontal.low)
    top_right = corner(vertical.low, horizontal.high)
    bottom_left = corner(vertical.high, horizontal.low)
    bottom_right = corner(vertical.high, horizontal.high)
    top = top_left * (1 - dx) + top_right * dx
    bottom = bottom_left * (1 - dx) + bottom_right * dx
    inside = ops.logical_and(vertical.inside[:, :, None], horizontal.inside[:, None, :])
    return ops.where(inside[..., None], top * (1 - dy) + bottom * dy, 0.0)


def _reduce_bins(sampled, samples, reduce):
    """Reduces the samples of each bin: [N, h * samples, w * samples, C] to [N, h, w, C]."""
    if samples == 1:
        return sampled
    if reduce == "average":
        return ops.average_pool(sampled, samples, samples, "valid", "channels_last")
    # `max_pool` can't be used: with its gradient in the graph TensorFlow's oneDNN kernels crash the
    # process.
    samples_of_bins = []
    for y in range(samples):
        for x in range(samples):
            samples_of_bins.append(sampled[:, y::samples, x::samples])
    return ops.max(ops.stack(samples_of_bins), axis=0)


def _align_adaptively(maps, start, extent, size, reduce):
    """`roi_align` with as many samples as a bin has cells.

    The loop reads the k-th sample of all bins at once.
    """
    bins = ops.convert_to_tensor(size, "float32")
    counts = ops.maximum(ops.ceil(extent / bins), 0.0)  # [N, 2]
    step = extent / bins / ops.maximum(counts, 1.0)
    vertical = _AdaptiveSamples(start[:, 0], extent[:, 0], step[:, 0], counts[:, 0], size[0])
    horizontal = _AdaptiveSamples(start[:, 1], extent[:, 1], step[:, 1], counts[:, 1], size[1])
    most_y = vertical.most()
    most_x = horizontal.most()
    average = reduce == "average"
    total = ops.zeros((ops.shape(start)[0], *size, maps.flat.shape[-1]))
    if not average:
        total = total - float("inf")

    def condition(i, total):
        return i < most_y * most_x

    def add(i, total):
        y, valid_y = vertical.sample(i // most_x)
        x, valid_x = horizontal.sample(i % most_x)
        valid = ops.logical_and(valid_y, valid_x)[:, None, None, None]
        values = ops.cast(_bilinear(maps, y, x, border=1.0), "float32")
        if average:
            total = total + ops.where(valid, values, 0.0)
        else:
            total = ops.where(valid, ops.maximum(total, values), total)
        return i + 1, total

    _, total = ops.while_loop(condition, add, (0, total))
    if average:
        total = total / ops.maximum(ops.prod(counts, axis=1), 1.0)[:, None, None, None]
    else:
        total = ops.where(total > -float("inf"), total, 0.0)
    return ops.cast(total, maps.flat.dtype)


class _AdaptiveSamples(NamedTuple):
    """Samples on one axis, whose number in a bin depends on the box.

    Attributes:
        start, extent: [N] float32, the boxes in cells.
        step: [N] float32, distance of adjacent samples in cells.
        counts: [N] float32, number of samples of a bin.
        bins: number of bins of a box, an int.
    """

    start: Tensor
    extent: Tensor
    step: Tensor
    counts: Tensor
    bins: int

    def most(self):
        """The largest number of samples of a bin, a scalar."""
        counts = ops.cast(self.counts, "int32")
        return ops.max(ops.concatenate([counts, ops.zeros((1,), "int32")]))

    def sample(self, k):
        """Coordinates [N, bins] of the k-th sample of each bin, and which boxes have one [N]."""
        k = ops.cast(k, "float32")
        bins = ops.arange(self.bins, dtype="float32")
        start_of_bin = self.start[:, None] + bins * (self.extent[:, None] / self.bins)
        return start_of_bin + (k + 0.5) * self.step[:, None], k < self.counts
