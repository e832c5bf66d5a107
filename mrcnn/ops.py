"""The kernels of the network: non-maximum suppression and RoI pooling.

Each has a form in `keras.ops` that runs on every backend, compiles under XLA and is the reference
in the tests, and the backend's own, the faster one on its CPU and GPU: TensorFlow's fused kernels,
or PyTorch's, which are in `mrcnn.torch_kernels`. `fused=None` takes the backend's own where there
is one; True and False insist.
Boxes are [..., (y1, x1, y2, x2)], normalised so that 0 and 1 are the centres of the outermost
pixels.
"""

import contextlib
import contextvars
import ctypes
import functools
import hashlib
import os
import pathlib
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from mrcnn import boxes as box_math, files

Tensor = Any  # of any backend of Keras, symbolic or not


def has_fused_kernels(fused: bool | None = None) -> bool:
    """Whether TensorFlow's kernels run. Raises ValueError where a backend without any is to."""
    return kernels_of(fused) == "tensorflow"


def kernels_of(fused: bool | None = None) -> str:
    """Whose kernels run: "tensorflow", "torch", or "portable" for those in keras.ops.

    Raises:
        ValueError: fused=True, and the backend has none of its own.
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
        ValueError: the backend can't, or can't do without.
    """
    backend = keras.backend.backend()
    if jit_compile and backend == "torch":
        raise ValueError("JIT_COMPILE needs TensorFlow or JAX. Received: True under PyTorch")
    # What isn't compiled JAX runs one operation after the other.
    if backend == "jax" and jit_compile is False:
        raise ValueError("JIT_COMPILE is None or True under JAX. Received: False")
    return bool(jit_compile) or backend == "jax"


# Backends of Keras with kernels of their own.
WITH_KERNELS = ("tensorflow", "torch")


@contextlib.contextmanager
def outside_graphs() -> Iterator[None]:
    """Runs a block or a function eagerly, also where a program of 2018 has a graph around it.

    That is `tf.Graph().as_default()`, a Session, or tf.compat.v1.disable_eager_execution().

    Raises:
        ValueError: TensorFlow 1's behaviour was asked for, which Keras 3 can't build with.
        RuntimeError: the process was forked from one that has used a model.
    """
    _check_that_threads_are_here()
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
    # tf.init_scope would leave a function that is traced, but no graph, and stop gradients.
    with tf.__internal__.eager_context.eager_mode():
        yield


# The process that built the first model.
_process: int | None = None


def _check_that_threads_are_here() -> None:
    """A RuntimeError in a child of fork: the backend's threads are its parent's, it would hang."""
    global _process
    if _process is None:
        _process = os.getpid()
    if _process != os.getpid() and keras.backend.backend() != "torch":
        raise RuntimeError(
            "This process was forked from one that has built or used a model, whose threads it"
            " doesn't have: it would hang. Start it by multiprocessing.get_context('spawn'), or"
            " build the first model in the forked processes. Received: process"
            f" {os.getpid()}, forked from {_process} or a child of it"
        )


@contextlib.contextmanager
def without_gradients() -> Iterator[None]:
    """Within it, nothing is kept that only gradients need. PyTorch would keep each layer's output.

    Around a function as well; the other backends ask for gradients where they want some.
    """
    if keras.backend.backend() != "torch":
        yield
        return
    import torch

    with torch.no_grad():
        yield


def keep_freed_memory() -> None:
    """Tells glibc to keep freed blocks of up to 32 MB, once per process.

    By default it maps each large buffer anew and gives it back, and every training step pays for
    the page faults of touching it: 190,000 a step of the shapes demo, .87 s instead of .64 s on 2
    cores. Larger blocks are mapped: kept ones leave gaps, .18 GB of them in a step of ResNet-50 at
    512². Does nothing on other C libraries.
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
    # A thread's own arena holds blocks of 64 MB at most, and maps every larger one anew.
    mallopt(arena_max, 1)
    # glibc refuses more than 32 MB, and setting any threshold freezes this one, at 128 KB if it was
    # not set.
    mallopt(mmap_threshold, 1 << 25)
    mallopt(trim_threshold, (1 << 31) - 1)


_memory_is_kept = False


@functools.cache
def keep_compiled_programs() -> None:
    """Lets JAX keep on disk what it compiles, for the next process; once per process.

    In jax/ of `files.cache_folder`. A folder that the program or JAX_COMPILATION_CACHE_DIR names
    stays; JAX_ENABLE_COMPILATION_CACHE=false turns it off. Does nothing under other backends.
    """
    if keras.backend.backend() != "jax":
        return
    import jax

    if jax.config.jax_compilation_cache_dir:
        return
    # Programs for a CPU are of its instructions, and a home may be that of several machines.
    folder = files.cache_folder() / "jax" / _digest_of_processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # By default programs of less than a second are not kept; building has hundreds of them.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _digest_of_processor():
    """A text that differs between processors with other instructions."""
    described = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        described += sorted({line for line in lines if line.startswith(("flags", "Features"))})
    return hashlib.sha256("\n".join(described).encode()).hexdigest()[:16]


def uniform(shape: Any, seed: Any) -> Tensor:
    """Random numbers from 0 to 1, which XLA draws as well as TensorFlow without it.

    Args:
        shape: of the numbers.
        seed: a `keras.random.SeedGenerator`.
    """
    if keras.backend.backend() != "tensorflow":
        return keras.random.uniform(shape, seed=seed)
    import tensorflow as tf

    # TensorFlow makes the same floats of the same bits, which XLA has in another order.
    key = tf.cast(tf.math.floormod(seed.next(), tf.int32.max - 1), tf.int32)
    bits = tf.random.stateless_uniform(
        shape, key, minval=None, maxval=None, dtype=tf.int32, alg="philox"
    )
    return tf.cast(bits & 0x7FFFFF, tf.float32) * 2.0**-23


def half_of_squares(x: Tensor) -> Tensor:
    """Half of the sum of squares, a scalar.

    On TensorFlow it is one operation, and one more for its gradient.
    """
    if not has_fused_kernels():
        return 0.5 * ops.sum(ops.square(x))
    import tensorflow as tf

    return tf.nn.l2_loss(ops.convert_to_tensor(x))


# What cuDNN allows at least; TensorFlow takes it in the place of anything smaller.
LEAST_EPSILON = 1.001e-5


def has_fused_batch_norm(epsilon: float) -> bool:
    """Whether `batch_norm` can be used, and with this epsilon."""
    return has_fused_kernels() and epsilon >= LEAST_EPSILON


def batch_norm(
    x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm by the statistics of the batch. TensorFlow only.

    One operation, and one for its gradient: on a CPU half the time of the same in parts.

    Args:
        x: [B, H, W, C] float32.
        gamma, beta: [C].
        epsilon: from LEAST_EPSILON on.

    Returns:
        outputs [B, H, W, C]; mean and variance [C] of the B * H * W values.
    """
    import tensorflow as tf

    gamma = ops.convert_to_tensor(gamma)
    beta = ops.convert_to_tensor(beta)
    outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(x, gamma, beta, epsilon=epsilon)
    # The operation gives the sum of squares by N - 1, and by 1 where N is 1.
    count = tf.cast(tf.reduce_prod(tf.shape(x)[:3]), "float32")
    return outputs, mean, variance * (tf.maximum(count - 1.0, 1.0) / count)


# ---- Boxes and rows ------------------------------------------------------------------------------


def overlaps(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU of every pair, 0 for 0 / 0: boxes1 [..., N, 4], boxes2 [..., M, 4] -> [..., N, M]."""
    return box_math.pairwise_iou(boxes1, boxes2, ops)


def take_rows(x: Tensor, indices: Tensor) -> Tensor:
    """Rows of each image: x [B, N, ...], indices [B, K] int -> [B, K, ...].

    On TensorFlow it is one operation, where `take_along_axis` is thirty.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.gather(x, indices, batch_dims=1)
    ones = [1] * (len(x.shape) - 2)
    indices = ops.reshape(indices, (*ops.shape(indices)[:2], *ones))
    return ops.take_along_axis(x, indices, axis=1)


def pick(x: Tensor, indices: Tensor) -> Tensor:
    """One of the entries of each row: x [B, N, K, ...], indices [B, N] int -> [B, N, ...].

    As `take_along_axis` of one index, at a fifth of the operations and of those of the gradient.

    Args:
        x: K and what follows are known sizes.
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
    """RoIs of all images in one row: [B, N, ...] -> [B * N, ...]."""
    rest = x.shape[2:]
    if None in rest:
        rest = ops.shape(x)[2:]
    return ops.reshape(x, (-1, *rest))


def unfold_rois(y: Tensor, like: Tensor) -> Tensor:
    """The inverse of `fold_rois`: y [B * N, ...] -> [B, N, ...], as `like` [B, N, ...] has it.

    On TensorFlow each size that is not known is five operations; one of them follows from the rest.
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
    """The k largest of the last axis, largest first, and their places; of equals the first.

    Args:
        x: [..., N].
        k: at most N, an int or a scalar.

    Returns:
        [..., k] values, and int places.
    """
    if kernels_of() != "torch" or isinstance(x, keras.KerasTensor):
        return ops.top_k(x, k)
    from mrcnn import torch_kernels

    return torch_kernels.top_k(x, k)


def shortfall(wanted: int, count: Any) -> Any:
    """How many of `wanted` are missing where there are `count`, an int or a scalar.

    Of an int an int: in a program that JAX compiles, a scalar would be no size.
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
        count: boxes to keep at most, an int; the size of the output is static.
        iou_threshold: a box goes when its IoU with a better one is above this.
        valid: [B, N] bool; boxes that take part, None for all.
        classes: [B, N] int; only boxes of one class suppress each other, None for one class.
        fused: see the module.

    Returns:
        indices: [B, count] int32, best first, 0 where not kept.
        kept: [B, count] bool.
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
    """`non_max_suppression` of one image by TensorFlow's kernels."""
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
    """`non_max_suppression` in keras.ops: `count` times the best box that is left."""
    alive = ops.where(valid, scores, -float("inf"))
    positions = ops.expand_dims(ops.arange(count, dtype="int32"), 0)
    batch_zeros = ops.cast(ops.zeros_like(scores[:, :1]), "int32")
    indices = positions * 0 + batch_zeros
    kept = indices > 0

    def goes_on(i, alive, indices, kept):
        return i < count

    def step(i, alive, indices, kept):
        best_score, best = ops.top_k(alive, 1)  # [B, 1]; ties: the first
        best = ops.cast(best, "int32")
        is_left = best_score > -float("inf")
        best_box = ops.take_along_axis(boxes, best[..., None], axis=1)  # [B, 1, 4]
        beaten = overlaps(boxes, best_box)[..., 0] > iou_threshold
        if classes is not None:
            same = classes == ops.take_along_axis(classes, best, axis=1)
            beaten = ops.logical_and(beaten, same)
        itself = ops.arange(ops.shape(boxes)[1], dtype="int32")[None] == best
        alive = ops.where(ops.logical_or(beaten, itself), -float("inf"), alive)
        filled = ops.logical_and(positions == i, is_left)
        indices = ops.where(filled, best, indices)
        kept = ops.logical_or(kept, filled)
        return i + 1, alive, indices, kept

    _, _, indices, kept = ops.while_loop(goes_on, step, (0, alive, indices, kept))
    return indices, kept


# What computes the portable form of `non_max_suppression` in this context.
_portable_suppression: contextvars.ContextVar[Callable] = contextvars.ContextVar(
    "portable_suppression", default=_nms_reference
)


@contextlib.contextmanager
def suppressing_by(function: Callable) -> Iterator[None]:
    """Graphs that are traced inside have that function for the portable form of suppression.

    Args:
        function: f(boxes, scores, count, iou_threshold, valid, classes), see `non_max_suppression`.
    """
    token = _portable_suppression.set(function)
    try:
        yield
    finally:
        _portable_suppression.reset(token)


# ---- RoI pooling ---------------------------------------------------------------------------------
# Three kinds that must stay distinguishable. Of a box from 1 to 3 on the ramp 0, 1, 2, ... two bins
# read with
# - crop_and_resize: 1, 3 or, as its boxes are given, other points *on* the box's edges (one sample
#   a bin);
# - roi_align: the bins' middles, 1 and 2 (aligned: cell i covers i - .5 to i + .5) or 1.5 and 2.5;
# - roi_pool: the largest value of whole cells: 2 and 3.


def crop_and_resize(
    images: Tensor,
    boxes: Tensor,
    box_indices: Tensor,
    size: Sequence[int],
    fused: bool | None = None,
) -> Tensor:
    """Bilinear crops, one sample per cell, the corner samples on the box's corners; 0 outside.

    This is not the paper's RoIAlign: with boxes normalised by (height - 1, width - 1) the first and
    the last sample of a row lie *on* the box's edges instead of half a cell inside. Of a box that
    ends on the image's edge TensorFlow's kernel may come out a rounding beyond it with the last one
    (as from 56 cells to 28), and be 0 there. Mask targets are so in matterport's package too, and
    the losses recorded of it ask for it. The fused form has no gradient of the boxes.

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

        # The kernel answers in float32 and does not take bfloat16.
        readable = images
        if images.dtype == tf.bfloat16:
            readable = tf.cast(images, "float32")
        crops = _crop_by_kernel(readable, boxes, box_indices, size)
        if images.dtype.is_floating:
            crops = tf.cast(crops, images.dtype)
        return crops
    maps = _Maps.whole(images, box_indices)
    at_y, at_x = _corner_samples(maps, boxes, size)
    return _bilinear(maps, at_y, at_x, fused=fused)


def _crop_by_kernel(images, boxes, box_indices, size):
    """`tf.image.crop_and_resize` with a gradient that is right without a GPU too.

    The gradient is of the images alone. On a CPU TensorFlow's own adds to a cell from several
    threads at once and loses what two of them add together: of 200 overlapping boxes on 2 cores a
    fifth of the largest gradient, another one each time. Its GPU kernel adds atomically.
    """
    import tensorflow as tf

    if tf.config.list_logical_devices("GPU"):
        return tf.image.crop_and_resize(images, tf.stop_gradient(boxes), box_indices, size)
    return _crop_function(tuple(size), images.shape[-1], images.dtype)(images, boxes, box_indices)


@functools.cache
def _crop_function(size, channels, dtype):
    """The kernel with its gradient as a function of tensors.

    TensorFlow keeps what a custom gradient refers to forever, and of a function without captures
    that is its own small graph, not the model's that calls it.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def crop(images, boxes, box_indices):
        def gradient(upstream):
            maps = _Maps.whole(images, box_indices)
            at_y, at_x = _corner_samples(maps, boxes, size)
            cells, shares = _cells_read(maps, at_y, at_x)
            upstream = tf.reshape(upstream, (-1, channels))
            shape = tf.shape(images)
            summed = _sum_by_cell(upstream, cells, shares, tf.reduce_prod(shape[:3]))
            return tf.cast(tf.reshape(summed, shape), dtype), None, None

        return tf.image.crop_and_resize(images, boxes, box_indices, size), gradient

    signature = [
        tf.TensorSpec((None, None, None, channels), dtype),
        tf.TensorSpec((None, 4), "float32"),
        tf.TensorSpec((None,), "int32"),
    ]
    return tf.function(crop, input_signature=signature, autograph=False)


def _sum_by_cell(values, cells, shares, cell_count):
    """Adds values [samples, C] to the cells that each sample reads, [cell_count, C]."""
    import tensorflow as tf

    samples = tf.shape(values)[0]
    sample_of_read = tf.repeat(tf.range(samples), 4)
    pairs = tf.stack([sample_of_read, tf.reshape(cells, (-1,))], -1)
    return tf.raw_ops.SparseTensorDenseMatMul(
        a_indices=pairs,
        a_values=tf.reshape(shares, (-1,)),
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
    """`crop_and_resize` of the map that each box is assigned to.

    Args:
        feature_maps: list of L maps [B, H, W, C], finest first.
        boxes: [B, N, 4] float32, normalised.
        levels: [B, N] int32 in 0..L-1.
        size: (height, width) of the crops.

    Returns:
        [B, N, height, width, C].
    """
    # The last sample of a box that ends on the image's edge may come out a rounding error beyond
    # it, and then be 0 instead of the edge's value: such boxes end some roundings before it.
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
    """RoIAlign (He et al. 2017, section 3): nothing is rounded, each bin has bilinear samples.

    A sample up to one cell outside the map reads the edge, one farther out is 0.

    Args:
        feature_maps: list of L maps [B, H, W, C], finest first.
        boxes: [B, N, 4] float32, in cells of the map that each is assigned to.
        levels: [B, N] int32 in 0..L-1.
        size: (height, width) of the output.
        samples: per bin and axis, so that 2 averages four; 0 for ceil(size of the bin in cells).
        aligned: cell i covers i - .5 to i + .5, its value lies in its middle. False is the first
            implementations' convention, in which everything is read half a cell too far to the
            lower right and boxes are at least a cell high and wide.
        reduce: "average" or "max" of a bin's samples.

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
    # Row k of a box's samples lies k + .5 of `samples` equal parts of a bin below its upper edge.
    grid = tuple(samples * side for side in size)
    if form == "torch":
        places = ops.reshape(ops.concatenate([start, extent], axis=-1), ops.shape(boxes))

        def read(maps, rows, images):
            return _align_by_torch(_Maps.whole(maps, images), rows, size, samples, reduce)

        return _level_by_level(feature_maps, places, levels, size, read)
    if form == "tensorflow":
        ends = ops.reshape(_outermost_samples(start, extent, grid), ops.shape(boxes))

        def pool(maps, ends, images):
            return _reduce_bins(_sample_by_kernel(maps, ends, images, grid), samples, reduce)

        return _level_by_level(feature_maps, ends, levels, size, pool)
    maps = _Maps.of(feature_maps, levels)
    at_y = _even_samples(start[:, 0], extent[:, 0], grid[0])
    at_x = _even_samples(start[:, 1], extent[:, 1], grid[1])
    sampled = _bilinear(maps, at_y, at_x, reach=1.0)
    return _unfold(_reduce_bins(sampled, samples, reduce), boxes, feature_maps)


def _outermost_samples(start, extent, grid):
    """(y1, x1, y2, x2) [N, 4] of the first and the last of each box's samples, in cells."""
    step = extent / ops.convert_to_tensor(grid, "float32")
    return ops.concatenate([start + 0.5 * step, start + extent - 0.5 * step], axis=-1)


def _sample_by_kernel(maps, ends, images, grid):
    """Samples between the outermost ones `ends` [n, 4]. TensorFlow only."""
    import tensorflow as tf

    # One more row on each side repeats the edge; beyond it the kernel's samples are 0.
    padded = tf.pad(maps, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")
    last = tf.cast(tf.shape(padded)[1:3] - 1, "float32")
    normalised = (ends + 1.0) / tf.concat([last, last], 0)
    return crop_and_resize(padded, normalised, images, grid, True)


def _align_by_torch(maps, rows, size, samples, reduce):
    """`roi_align` of one level; rows: [n, (y, x, height, width)] in cells. PyTorch only."""
    at_y = _even_samples(rows[:, 0], rows[:, 2], samples * size[0])
    at_x = _even_samples(rows[:, 1], rows[:, 3], samples * size[1])
    if reduce != "average":
        sampled = _bilinear(maps, at_y, at_x, reach=1.0, fused=True)
        return _reduce_bins(sampled, samples, reduce)
    from mrcnn import torch_kernels

    # What all samples of a bin read is added up at once.
    cells, shares = _cells_read(maps, at_y, at_x, reach=1.0)
    cells = _of_bins(cells, size, samples)
    shares = _of_bins(shares, size, samples) / samples**2
    return torch_kernels.sum_of_rows(maps.flat, cells, shares)


def _of_bins(reads, size, samples):
    """What each bin reads: [n, h * samples, w * samples, 2, 2] to [n, h, w, 4 * samples**2]."""
    height, width = size
    reads = ops.reshape(reads, (-1, height, samples, width, samples, 4))
    reads = ops.transpose(reads, (0, 1, 3, 2, 4, 5))
    return ops.reshape(reads, (-1, height, width, 4 * samples**2))


def _even_samples(start, extent, count):
    """Places [N, count] on one axis, in the middles of `count` equal parts of each box."""
    middles = ops.arange(count, dtype="float32") + 0.5
    return start[:, None] + middles * (extent[:, None] / count)


def roi_pool(
    feature_maps: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    size: Sequence[int],
) -> Tensor:
    """RoIPool (Girshick 2015): the largest value of each bin.

    The box and its bins are rounded to whole cells.

    Args:
        feature_maps, boxes, levels, size: as for `roi_align`.

    Returns:
        [B, N, height, width, C]; 0 where a bin has no cell of the map.
    """
    maps = _Maps.of(feature_maps, levels)
    rows = ops.cast(ops.floor(ops.reshape(boxes, (-1, 4)) + 0.5), "int32")
    vertical = _whole_bins(rows[:, 0], rows[:, 2], maps.height, size[0])
    horizontal = _whole_bins(rows[:, 1], rows[:, 3], maps.width, size[1])
    # Which cell is the largest is found first. The values are then read with one gather, the only
    # part that has a gradient.
    best, value = _largest_cells(maps, vertical, horizontal, size)
    channels = maps.flat.shape[-1]
    flat_index = best * channels + ops.arange(channels, dtype="int32")
    pooled = ops.take(ops.reshape(maps.flat, (-1,)), flat_index)
    pooled = ops.where(value > -float("inf"), pooled, ops.zeros_like(pooled))
    return _unfold(pooled, boxes, feature_maps)


class _Bins(NamedTuple):
    """Bins of whole cells on one axis, [N, bins] int32: from `low` on, before `high`."""

    low: Tensor
    high: Tensor

    def most_cells(self):
        """Cells of the largest bin, a scalar of at least 1."""
        cells = ops.reshape(self.high - self.low, (-1,))
        return ops.max(ops.concatenate([cells, ops.ones((1,), "int32")]))


def _whole_bins(first, last, length, count):
    """The `_Bins` of boxes from cell `first` to `last` [N] int32, on an axis of `length` [N]."""
    # In whole numbers, as floor(i * extent / bins) in floats is one short now and then.
    extent = ops.maximum(last - first + 1, 1)[:, None]
    bins = ops.arange(count, dtype="int32")[None]
    low = bins * extent // count
    high = -(-(bins + 1) * extent // count)
    return _Bins(
        low=ops.clip(first[:, None] + low, 0, length[:, None]),
        high=ops.clip(first[:, None] + high, 0, length[:, None]),
    )


def _largest_cells(maps, vertical, horizontal, size):
    """The cell of each bin that has the largest value, for each channel; without a gradient.

    Returns:
        best: [N, h, w, C] int32, row of `maps.flat`.
        value: [N, h, w, C] float32, its value; -inf for a bin without cells.
    """
    most_y = vertical.most_cells()
    most_x = horizontal.most_cells()
    channels = maps.flat.shape[-1]
    features = ops.stop_gradient(maps.flat)

    def goes_on(i, best, value):
        return i < most_y * most_x

    def step(i, best, value):
        """Cell number i of all bins at once."""
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
    _, best, value = ops.while_loop(goes_on, step, (0, best, value))
    return best, value


class _Maps(NamedTuple):
    """Maps laid end to end, and where each box's map lies: no size depends on the data.

    Attributes:
        flat: [cells, C].
        offset: [N] its first cell.
        height, width: [N].
    """

    flat: Tensor
    offset: Tensor
    height: Tensor
    width: Tensor

    @classmethod
    def whole(cls, images, box_indices):
        """Images [B, H, W, C] alone; box_indices: [N], the image of each box."""
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
        """feature_maps: list of [B, H, W, C]; levels: [B, N]."""
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
        """Rows of `flat` [N, h, w] of the cells in rows y [N, h] and columns x [N, w]."""
        offset = self.offset[:, None, None]
        width = self.width[:, None, None]
        return offset + y[:, :, None] * width + x[:, None, :]


def _image_of(levels):
    """Which image each of the boxes [B, N] belongs to, [B * N] int32."""
    batch, count = ops.shape(levels)
    images = ops.arange(batch, dtype="int32")[:, None]
    return ops.reshape(ops.broadcast_to(images, (batch, count)), (-1,))


def _unfold(pooled, boxes, feature_maps):
    """[B * N, h, w, C] to [B, N, h, w, C]."""
    shape = (*ops.shape(boxes)[:2], *pooled.shape[1:3], feature_maps[0].shape[-1])
    return ops.reshape(pooled, shape)


def _level_by_level(feature_maps, boxes, levels, size, pool):
    """Pools the boxes of each level by pool(map, boxes [n, 4], images [n]).

    How many there are depends on the data: TensorFlow and PyTorch only.
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

    places = []
    crops = []
    for level, maps in enumerate(feature_maps):
        rows_of_level = tf.cast(tf.where(levels == level)[:, 0], tf.int32)
        places.append(rows_of_level)
        crops.append(pool(maps, tf.gather(rows, rows_of_level), tf.gather(images, rows_of_level)))
    # The crops come level by level; row r of the result is crop number `order[r]`.
    count = tf.shape(rows)[0]
    order = tf.scatter_nd(tf.concat(places, 0)[:, None], tf.range(count), [count])
    pooled = tf.gather(tf.concat(crops, 0), order)
    return ops.reshape(pooled, (*ops.shape(boxes)[:2], *size, feature_maps[0].shape[-1]))


def _corner_samples(maps, boxes, size):
    """Where `crop_and_resize` reads: y [N, height], x [N, width] in cells.

    Args:
        boxes: [N, 4], normalised.
    """
    at_y = _from_edge_to_edge(boxes[:, 0], boxes[:, 2], maps.height, size[0])
    at_x = _from_edge_to_edge(boxes[:, 1], boxes[:, 3], maps.width, size[1])
    return at_y, at_x


def _from_edge_to_edge(low, high, length, count):
    """Places [N, count] on one axis in cells, the first and the last on the box's edges."""
    last = ops.cast(length - 1, "float32")[:, None]
    if count == 1:
        return 0.5 * (low + high)[:, None] * last
    # In the order of TensorFlow's kernel, so that the same samples come out beyond the edge.
    step = (high - low)[:, None] * last / (count - 1)
    return low[:, None] * last + ops.arange(count, dtype="float32") * step


def cell_patches(feature_maps: Sequence[Tensor], cells: Tensor) -> Tensor:
    """The 3x3 neighbourhoods of cells: what a "same" 3x3 convolution sees there.

    Outside the map are zeros.

    Args:
        feature_maps: list of maps [B, H, W, C].
        cells: [B, N] int32, numbers of cells, counted map by map, row by row.

    Returns:
        [B, N, 9 * C], rows and columns of the patch in order.
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
    """Numbers of the cells around cells [B, N], and which lie in the map, both [B, N, 3, 3]."""
    first, height, width = _map_of_cells(feature_maps, cells)
    shift = ops.arange(3, dtype="int32") - 1
    y = ((cells - first) // width)[..., None, None] + shift[:, None]  # [B, N, 3, 1]
    x = ((cells - first) % width)[..., None, None] + shift  # [B, N, 1, 3]
    inside_y = ops.logical_and(y >= 0, y < height[..., None, None])
    inside_x = ops.logical_and(x >= 0, x < width[..., None, None])
    rows = first[..., None, None] + y * width[..., None, None] + x
    return rows, ops.logical_and(inside_y, inside_x)


def _map_of_cells(feature_maps, cells):
    """First cell, height and width of the map that each of the cells [B, N] lies in, [B, N]."""
    start = 0
    first = ops.zeros_like(cells)
    height = ops.zeros_like(cells)
    width = ops.zeros_like(cells)
    for maps in feature_maps:
        _, h, w, _ = ops.shape(maps)
        reached = cells >= start
        first = ops.where(reached, ops.cast(start, "int32"), first)
        height = ops.where(reached, ops.cast(h, "int32"), height)
        width = ops.where(reached, ops.cast(w, "int32"), width)
        start = start + h * w
    return first, height, width


class _Neighbours(NamedTuple):
    """What samples read on one axis, each [N, n].

    Attributes:
        low, high: int32, the cells around each.
        share: float32, how far it is past the lower one.
        inside: bool.
    """

    low: Tensor
    high: Tensor
    share: Tensor
    inside: Tensor


def _neighbours(at, length, reach=0.0):
    """The `_Neighbours` of places on one axis.

    Args:
        at: [N, n], in cells.
        length: [N], cells of the axis.
        reach: see `_bilinear`.
    """
    last = ops.cast(length - 1, "float32")[:, None]
    inside = ops.logical_and(at >= -reach, at <= last + reach)
    if reach:
        at = ops.where(inside, ops.clip(at, 0.0, last), 0.0)
    else:
        at = ops.where(inside, at, 0.0)
    below = ops.floor(at)
    return _Neighbours(
        low=ops.cast(below, "int32"),
        high=ops.cast(ops.minimum(below + 1, last), "int32"),
        share=at - below,
        inside=inside,
    )


def _cells_read(maps, at_y, at_x, reach=0.0):
    """The four cells that each sample reads, and how much of each.

    Args:
        at_y, at_x, reach: see `_bilinear`.

    Returns:
        cells: [N, h, w, 2, 2] int32, rows of `maps.flat`.
        shares: [N, h, w, 2, 2] float32, 0 outside the map.
    """
    vertical = _neighbours(at_y, maps.height, reach)
    horizontal = _neighbours(at_x, maps.width, reach)
    y = ops.stack([vertical.low, vertical.high], -1)[:, :, None, :, None]
    x = ops.stack([horizontal.low, horizontal.high], -1)[:, None, :, None, :]
    offset = maps.offset[:, None, None, None, None]
    width = maps.width[:, None, None, None, None]
    cells = offset + y * width + x
    share_y = _shares_of(vertical)[:, :, None, :, None]
    share_x = _shares_of(horizontal)[:, None, :, None, :]
    return cells, share_y * share_x


def _shares_of(neighbours):
    """How much a sample takes of its two neighbours on one axis, [N, n, 2]; 0 outside."""
    shares = ops.stack([1.0 - neighbours.share, neighbours.share], -1)
    return ops.where(neighbours.inside[..., None], shares, 0.0)


def _bilinear(maps, at_y, at_x, reach=0.0, fused=False):
    """Values between cells.

    Args:
        at_y: [N, h], at_x: [N, w], in cells.
        reach: cells beyond the edge that repeat it; farther out it is 0.
        fused: see the module; of the backends' own kernels there is only PyTorch's.

    Returns:
        [N, h, w, C].
    """
    if kernels_of(fused) == "torch":
        from mrcnn import torch_kernels

        cells, shares = _cells_read(maps, at_y, at_x, reach)
        flat = (*ops.shape(cells)[:3], 4)
        return torch_kernels.sum_of_rows(
            maps.flat, ops.reshape(cells, flat), ops.reshape(shares, flat)
        )
    vertical = _neighbours(at_y, maps.height, reach)
    horizontal = _neighbours(at_x, maps.width, reach)

    def corner(y, x):
        return ops.take(maps.flat, maps.rows(y, x), axis=0)  # [N, h, w, C]

    dy = ops.cast(vertical.share, maps.flat.dtype)[:, :, None, None]
    dx = ops.cast(horizontal.share, maps.flat.dtype)[:, None, :, None]
    top_left = corner(vertical.low, horizontal.low)
    top_right = corner(vertical.low, horizontal.high)
    bottom_left = corner(vertical.high, horizontal.low)
    bottom_right = corner(vertical.high, horizontal.high)
    top = top_left * (1 - dx) + top_right * dx
    bottom = bottom_left * (1 - dx) + bottom_right * dx
    inside = ops.logical_and(vertical.inside[:, :, None], horizontal.inside[:, None, :])
    return ops.where(inside[..., None], top * (1 - dy) + bottom * dy, 0.0)


def _reduce_bins(sampled, samples, reduce):
    """[N, h * samples, w * samples, C] to [N, h, w, C]."""
    if samples == 1:
        return sampled
    if reduce == "average":
        return ops.average_pool(sampled, samples, samples, "valid", "channels_last")
    # Not by `max_pool`: with its gradient in the graph, TensorFlow's oneDNN kernels end the
    # process.
    samples_of_bins = []
    for y in range(samples):
        for x in range(samples):
            samples_of_bins.append(sampled[:, y::samples, x::samples])
    return ops.max(ops.stack(samples_of_bins), axis=0)


def _align_adaptively(maps, start, extent, size, reduce):
    """`roi_align` with as many samples as a bin has cells.

    The k-th sample of each bin is read of all bins at once.
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

    def goes_on(i, total):
        return i < most_y * most_x

    def add(i, total):
        y, valid_y = vertical.sample(i // most_x)
        x, valid_x = horizontal.sample(i % most_x)
        valid = ops.logical_and(valid_y, valid_x)[:, None, None, None]
        values = ops.cast(_bilinear(maps, y, x, reach=1.0), "float32")
        if average:
            total = total + ops.where(valid, values, 0.0)
        else:
            total = ops.where(valid, ops.maximum(total, values), total)
        return i + 1, total

    _, total = ops.while_loop(goes_on, add, (0, total))
    if average:
        total = total / ops.maximum(ops.prod(counts, axis=1), 1.0)[:, None, None, None]
    else:
        total = ops.where(total > -float("inf"), total, 0.0)
    return ops.cast(total, maps.flat.dtype)


class _AdaptiveSamples(NamedTuple):
    """Samples on one axis, as many in each bin of a box as the box asks for.

    Attributes:
        start, extent: [N] float32, the boxes in cells.
        step: [N] float32, from one sample to the next.
        counts: [N] float32, samples of a bin.
        bins: bins of a box, an int.
    """

    start: Tensor
    extent: Tensor
    step: Tensor
    counts: Tensor
    bins: int

    def most(self):
        """The most samples of a bin, a scalar."""
        counts = ops.cast(self.counts, "int32")
        return ops.max(ops.concatenate([counts, ops.zeros((1,), "int32")]))

    def sample(self, k):
        """Where the k-th sample of each bin lies [N, bins], and which boxes have one [N]."""
        k = ops.cast(k, "float32")
        bins = ops.arange(self.bins, dtype="float32")
        start_of_bin = self.start[:, None] + bins * (self.extent[:, None] / self.bins)
        return start_of_bin + (k + 0.5) * self.step[:, None], k < self.counts
