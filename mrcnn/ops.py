"""The kernels of the network: non-maximum suppression and RoI pooling.

Each has two forms: TensorFlow's fused kernel, the faster one on its CPU and GPU, and a form in
`keras.ops` that runs on every backend, compiles under XLA and is the reference in the tests.
`fused=None` takes the fused one where the backend has it; True and False insist.
Boxes are [..., (y1, x1, y2, x2)], normalised so that 0 and 1 are the centres of the outermost
pixels.
"""

import ctypes
import functools
import sys
from typing import Any

import keras
from keras import ops

from mrcnn import boxes as box_math

Tensor = Any  # of any backend of Keras, symbolic or not


def has_fused_kernels(fused=None):
    """Which form runs. Raises ValueError where the fused one is demanded of another backend."""
    tensorflow = keras.backend.backend() == "tensorflow"
    if fused and not tensorflow:
        raise ValueError(
            "fused=True needs the TensorFlow backend; None or False run anywhere. "
            f"Received backend: {keras.backend.backend()}"
        )
    return tensorflow if fused is None else fused


def keep_freed_memory():
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
    trim_threshold, mmap_threshold, arena_max = (
        -1,
        -3,
        -8,
    )  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX
    # A thread's own arena holds blocks of 64 MB at most, and maps every larger one anew.
    mallopt(arena_max, 1)
    # glibc refuses more than 32 MB, and setting any threshold freezes this one, at 128 KB if it was
    # not set.
    mallopt(mmap_threshold, 1 << 25)
    mallopt(trim_threshold, (1 << 31) - 1)


_memory_is_kept = False


def half_of_squares(x):
    """Half of the sum of squares, a scalar; on TensorFlow one operation, and one more for its
    gradient."""
    if not has_fused_kernels():
        return 0.5 * ops.sum(ops.square(x))
    import tensorflow as tf

    return tf.nn.l2_loss(ops.convert_to_tensor(x))


# ---- Boxes and rows
# ---------------------------------------------------------------------------------------


def overlaps(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU of every pair. boxes1: [..., N, 4], boxes2: [..., M, 4]. Returns [..., N, M]; 0 for 0 /
    0."""
    return box_math.pairwise_iou(boxes1, boxes2, ops)


def take_rows(x: Tensor, indices: Tensor) -> Tensor:
    """Rows of each image: x [B, N, ...], indices [B, K] int -> [B, K, ...]."""
    ones = [1] * (len(x.shape) - 2)
    indices = ops.reshape(indices, (*ops.shape(indices)[:2], *ones))
    return ops.take_along_axis(x, indices, axis=1)


def mask_rows(x: Tensor, keep: Tensor) -> Tensor:
    """Sets the rows of x [B, N, ...] to zero where keep [B, N] is False."""
    ones = [1] * (len(x.shape) - 2)
    keep = ops.reshape(keep, (*ops.shape(keep), *ones))
    return ops.where(keep, x, ops.zeros_like(x))


# ---- Non-maximum suppression ---------------------------------------------------------------------


def non_max_suppression(boxes, scores, count, iou_threshold, valid=None, classes=None, fused=None):
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
    if not has_fused_kernels(fused):
        return _nms_reference(boxes, scores, count, iou_threshold, valid, classes)
    import tensorflow as tf

    def one_image(args):
        boxes, scores, valid = args[:3]
        rows = tf.cast(tf.where(valid)[:, 0], tf.int32)
        boxes, scores = tf.gather(boxes, rows), tf.gather(scores, rows)
        limit = tf.minimum(count, tf.shape(rows)[0])
        if classes is None:
            kept = tf.image.non_max_suppression(boxes, scores, limit, iou_threshold)
        else:
            labels = tf.gather(args[3], rows)
            same = tf.cast(labels[:, None] == labels[None, :], boxes.dtype)
            kept = tf.image.non_max_suppression_overlaps(
                overlaps(boxes, boxes) * same, scores, limit, iou_threshold
            )
        kept = tf.gather(rows, kept)
        missing = count - tf.shape(kept)[0]
        return (
            tf.ensure_shape(tf.pad(kept, [[0, missing]]), [count]),
            tf.ensure_shape(tf.range(count) < count - missing, [count]),
        )

    args = (boxes, scores, valid) + (() if classes is None else (classes,))
    indices, kept = tf.map_fn(one_image, args, fn_output_signature=(tf.int32, tf.bool))
    return indices, kept


def _nms_reference(boxes, scores, count, iou_threshold, valid, classes):
    """`non_max_suppression` in keras.ops: `count` times the best box that is left."""
    alive = ops.where(valid, scores, -float("inf"))
    positions = ops.expand_dims(ops.arange(count, dtype="int32"), 0)
    batch_zeros = ops.cast(ops.zeros_like(scores[:, :1]), "int32")
    indices, kept = positions * 0 + batch_zeros, (positions * 0 + batch_zeros) > 0

    def step(i, alive, indices, kept):
        best_score, best = ops.top_k(alive, 1)  # [B, 1]; ties: the first
        best = ops.cast(best, "int32")
        found = best_score > -float("inf")
        best_box = ops.take_along_axis(boxes, best[..., None], axis=1)  # [B, 1, 4]
        beaten = overlaps(boxes, best_box)[..., 0] > iou_threshold
        if classes is not None:
            beaten = ops.logical_and(beaten, classes == ops.take_along_axis(classes, best, axis=1))
        itself = ops.arange(ops.shape(boxes)[1], dtype="int32")[None] == best
        alive = ops.where(ops.logical_or(beaten, itself), -float("inf"), alive)
        here = positions == i
        return (
            i + 1,
            alive,
            ops.where(ops.logical_and(here, found), best, indices),
            ops.logical_or(kept, ops.logical_and(here, found)),
        )

    _, _, indices, kept = ops.while_loop(lambda i, *_: i < count, step, (0, alive, indices, kept))
    return indices, kept


# ---- RoI pooling ---------------------------------------------------------------------------------
# Three kinds that must stay distinguishable. Of a box from 1 to 3 on the ramp 0, 1, 2, ... two bins
# read with
# - crop_and_resize: 1, 3 or, as its boxes are given, other points *on* the box's edges (one sample
# a   bin);
# - roi_align: the bins' middles, 1 and 2 (aligned: cell i covers i - .5 to i + .5) or 1.5 and 2.5;
# - roi_pool: the largest value of whole cells: 2 and 3.


def crop_and_resize(images, boxes, box_indices, size, fused=None):
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
        readable = tf.cast(images, "float32") if images.dtype == tf.bfloat16 else images
        crops = _crop_by_kernel(readable, boxes, box_indices, size)
        return tf.cast(crops, images.dtype) if images.dtype.is_floating else crops
    maps = _Maps.whole(images, box_indices)
    return _bilinear(maps, *_corner_samples(maps, boxes, size))


def _crop_by_kernel(images, boxes, box_indices, size):
    """`tf.image.crop_and_resize` with a gradient, of the images alone, that is right without a GPU
    too.

    On a CPU TensorFlow's own adds to a cell from several threads at once and loses what two of them
    add together: of 200 overlapping boxes on 2 cores a fifth of the largest gradient, another one
    each time. Its GPU kernel adds atomically.
    """
    import tensorflow as tf

    if tf.config.list_logical_devices("GPU"):
        return tf.image.crop_and_resize(images, tf.stop_gradient(boxes), box_indices, size)
    return _crop_function(tuple(size), images.shape[-1], images.dtype)(images, boxes, box_indices)


@functools.cache
def _crop_function(size, channels, dtype):
    """The kernel with its gradient as a function of tensors: TensorFlow keeps what a custom
    gradient refers to forever, and of a function without captures that is its own small graph, not
    the model's that calls it."""
    import tensorflow as tf

    @tf.custom_gradient
    def crop(images, boxes, box_indices):
        def gradient(upstream):
            maps = _Maps.whole(images, box_indices)
            at_y, at_x = _corner_samples(maps, boxes, size)
            (y0, y1, dy, y_inside), (x0, x1, dx, x_inside) = (
                _neighbours(at_y, maps.height),
                _neighbours(at_x, maps.width),
            )
            # [N, h, w, 2, 2]: the four cells that each sample read, and how much of each.
            y, x = (
                tf.stack([y0, y1], -1)[:, :, None, :, None],
                tf.stack([x0, x1], -1)[:, None, :, None, :],
            )
            cells = (
                maps.offset[:, None, None, None, None]
                + y * maps.width[:, None, None, None, None]
                + x
            )
            dy, dx = (
                tf.where(inside[..., None], tf.stack([1.0 - d, d], -1), 0.0)
                for d, inside in ((dy, y_inside), (dx, x_inside))
            )
            shares = dy[:, :, None, :, None] * dx[:, None, :, None, :]
            upstream = tf.reshape(upstream, (-1, channels))
            samples, shape = tf.shape(upstream)[0], tf.shape(images)
            pairs = tf.stack([tf.repeat(tf.range(samples), 4), tf.reshape(cells, (-1,))], -1)
            summed = tf.raw_ops.SparseTensorDenseMatMul(
                a_indices=pairs,
                a_values=tf.reshape(shares, (-1,)),
                b=upstream,
                adjoint_a=True,
                a_shape=tf.cast(tf.stack([samples, tf.reduce_prod(shape[:3])]), "int64"),
            )
            return tf.cast(tf.reshape(summed, shape), dtype), None, None

        return tf.image.crop_and_resize(images, boxes, box_indices, size), gradient

    signature = [
        tf.TensorSpec((None, None, None, channels), dtype),
        tf.TensorSpec((None, 4), "float32"),
        tf.TensorSpec((None,), "int32"),
    ]
    return tf.function(crop, input_signature=signature, autograph=False)


def pyramid_pool(feature_maps, boxes, levels, size, fused=None):
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
    if has_fused_kernels(fused):
        return _level_by_level(
            feature_maps,
            boxes,
            levels,
            size,
            lambda maps, rows, images: crop_and_resize(maps, rows, images, size, True),
        )
    maps = _Maps.of(feature_maps, levels)
    pooled = _bilinear(maps, *_corner_samples(maps, ops.reshape(boxes, (-1, 4)), size))
    return _unfold(pooled, boxes, feature_maps)


def roi_align(
    feature_maps, boxes, levels, size, samples=2, aligned=True, reduce="average", fused=None
):
    """RoIAlign (He et al. 2017, section 3): no coordinate is rounded; bilinear samples inside each
    bin.

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
    rows = ops.reshape(boxes, (-1, 4)) - (0.5 if aligned else 0.0)
    start, extent = rows[:, :2], rows[:, 2:] - rows[:, :2]
    if not aligned:
        extent = ops.maximum(extent, 1.0)
    if samples == 0:
        return _unfold(
            _align_adaptively(_Maps.of(feature_maps, levels), start, extent, size, reduce),
            boxes,
            feature_maps,
        )
    # Row k of a box's samples lies k + .5 of `samples` equal parts of a bin below its upper edge.
    grid = tuple(samples * side for side in size)
    if has_fused_kernels(fused):
        import tensorflow as tf

        step = extent / ops.convert_to_tensor(grid, "float32")
        ends = ops.concatenate([start + 0.5 * step, start + extent - 0.5 * step], axis=-1)

        def pool(maps, ends, images):
            # One more row on each side repeats the edge; beyond it the kernel's samples are 0.
            padded = tf.pad(maps, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")
            last = tf.cast(tf.shape(padded)[1:3] - 1, "float32")
            sampled = crop_and_resize(
                padded, (ends + 1.0) / tf.concat([last, last], 0), images, grid, True
            )
            return _reduce_bins(sampled, samples, reduce)

        return _level_by_level(
            feature_maps, ops.reshape(ends, ops.shape(boxes)), levels, size, pool
        )
    maps = _Maps.of(feature_maps, levels)
    at = [
        start[:, axis, None]
        + (ops.arange(grid[axis], dtype="float32") + 0.5) * (extent[:, axis, None] / grid[axis])
        for axis in (0, 1)
    ]
    return _unfold(
        _reduce_bins(_bilinear(maps, *at, reach=1.0), samples, reduce), boxes, feature_maps
    )


def roi_pool(feature_maps, boxes, levels, size):
    """RoIPool (Girshick 2015): the box and its bins are rounded to whole cells; the largest value
    of each bin.

    Args:
        feature_maps, boxes, levels, size: as for `roi_align`.

    Returns:
        [B, N, height, width, C]; 0 where a bin has no cell of the map.
    """
    maps = _Maps.of(feature_maps, levels)
    rows = ops.floor(ops.reshape(boxes, (-1, 4)) + 0.5)
    lows, highs = [], []
    for axis, length in ((0, maps.height), (1, maps.width)):
        # In whole numbers, as floor(i * extent / bins) in floats is one short now and then.
        start, cells = ops.cast(rows[:, axis], "int32"), size[axis]
        extent = ops.maximum(ops.cast(rows[:, axis + 2], "int32") - start + 1, 1)[:, None]
        bins = ops.arange(cells, dtype="int32")[None]
        for ends, edge in (
            (lows, bins * extent // cells),
            (highs, -(-(bins + 1) * extent // cells)),
        ):
            ends.append(ops.clip(start[:, None] + edge, 0, length[:, None]))
    most = [
        ops.max(ops.concatenate([ops.reshape(high - low, (-1,)), ops.ones((1,), "int32")]))
        for low, high in zip(lows, highs)
    ]
    channels = feature_maps[0].shape[-1]
    features = ops.stop_gradient(maps.flat)

    # Cell by cell, all bins at once: which cell is the largest. The values are then read with one
    # gather, the only part that has a gradient.
    def step(i, best, value):
        y, x = lows[0] + i // most[1], lows[1] + i % most[1]
        inside = ops.logical_and((y < highs[0])[:, :, None], (x < highs[1])[:, None, :])
        rows = (
            maps.offset[:, None, None] + y[:, :, None] * maps.width[:, None, None] + x[:, None, :]
        )
        rows = ops.where(inside, rows, 0)
        here = ops.where(
            inside[..., None], ops.cast(ops.take(features, rows, axis=0), "float32"), -float("inf")
        )
        larger = here > value
        return i + 1, ops.where(larger, rows[..., None], best), ops.where(larger, here, value)

    value = ops.zeros((ops.shape(rows)[0], *size, channels)) - float("inf")
    best = ops.cast(ops.zeros_like(value), "int32")
    _, best, value = ops.while_loop(lambda i, *_: i < most[0] * most[1], step, (0, best, value))
    flat_index = best * channels + ops.arange(channels, dtype="int32")
    pooled = ops.take(ops.reshape(maps.flat, (-1,)), flat_index)
    return _unfold(
        ops.where(value > -float("inf"), pooled, ops.zeros_like(pooled)), boxes, feature_maps
    )


class _Maps:
    """Maps laid end to end, and where each box's map lies: no size depends on the data.

    flat: [cells, C]; offset: [N] its first cell; height, width: [N].
    """

    def __init__(self, flat, offset, height, width):
        self.flat, self.offset, self.height, self.width = flat, offset, height, width

    @classmethod
    def whole(cls, images, box_indices):
        """Images [B, H, W, C] alone; box_indices: [N], the image of each box."""
        _, height, width, channels = ops.shape(images)
        ones = ops.ones_like(box_indices)
        return cls(
            ops.reshape(images, (-1, channels)),
            box_indices * (height * width),
            ones * height,
            ones * width,
        )

    @classmethod
    def of(cls, feature_maps, levels):
        """feature_maps: list of [B, H, W, C]; levels: [B, N]."""
        images, levels = _image_of(levels), ops.reshape(levels, (-1,))
        flat, offsets, heights, widths = [], [], [], []
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


def _image_of(levels):
    """Which image each of the boxes [B, N] belongs to, [B * N] int32."""
    batch, count = ops.shape(levels)
    return ops.reshape(
        ops.broadcast_to(ops.arange(batch, dtype="int32")[:, None], (batch, count)), (-1,)
    )


def _unfold(pooled, boxes, feature_maps):
    """[B * N, h, w, C] to [B, N, h, w, C]."""
    return ops.reshape(
        pooled, (*ops.shape(boxes)[:2], *pooled.shape[1:3], feature_maps[0].shape[-1])
    )


def _level_by_level(feature_maps, boxes, levels, size, pool):
    """Pools the boxes of each level by pool(map, boxes [n, 4], images [n]). TensorFlow only."""
    import tensorflow as tf

    images, levels, rows = (
        _image_of(levels),
        ops.reshape(levels, (-1,)),
        ops.reshape(boxes, (-1, 4)),
    )
    if len(feature_maps) == 1:
        return _unfold(pool(feature_maps[0], rows, images), boxes, feature_maps)
    places, crops = [], []
    for level, maps in enumerate(feature_maps):
        here = tf.cast(tf.where(levels == level)[:, 0], tf.int32)
        places.append(here)
        crops.append(pool(maps, tf.gather(rows, here), tf.gather(images, here)))
    # The crops come level by level; row r of the result is crop number `order[r]`.
    count = tf.shape(rows)[0]
    order = tf.scatter_nd(tf.concat(places, 0)[:, None], tf.range(count), [count])
    pooled = tf.gather(tf.concat(crops, 0), order)
    return ops.reshape(pooled, (*ops.shape(boxes)[:2], *size, feature_maps[0].shape[-1]))


def _corner_samples(maps, boxes, size):
    """Where `crop_and_resize` reads: y [N, height], x [N, width] in cells. boxes: [N, 4]
    normalised."""

    def axis(low, high, length, cells):
        last = ops.cast(length - 1, "float32")[:, None]
        if cells == 1:
            return 0.5 * (low + high)[:, None] * last
        step = ops.arange(cells, dtype="float32") / (cells - 1)
        return low[:, None] * last + step * ((high - low)[:, None] * last)

    return (
        axis(boxes[:, 0], boxes[:, 2], maps.height, size[0]),
        axis(boxes[:, 1], boxes[:, 3], maps.width, size[1]),
    )


def cell_patches(feature_maps, cells):
    """The 3x3 neighbourhoods of cells, zeros outside the map: what a "same" 3x3 convolution sees
    there.

    Args:
        feature_maps: list of maps [B, H, W, C].
        cells: [B, N] int32, numbers of cells, counted map by map, row by row.

    Returns:
        [B, N, 9 * C], rows and columns of the patch in order.
    """
    batch, channels = ops.shape(cells)[0], feature_maps[0].shape[-1]
    flat = ops.concatenate(
        [ops.reshape(maps, (batch, -1, channels)) for maps in feature_maps], axis=1
    )
    total = ops.shape(flat)[1]
    start, first, height, width = (
        0,
        ops.zeros_like(cells),
        ops.zeros_like(cells),
        ops.zeros_like(cells),
    )
    for maps in feature_maps:
        _, h, w, _ = ops.shape(maps)
        here = cells >= start
        first, height, width = (
            ops.where(here, ops.cast(new, "int32"), old)
            for new, old in ((start, first), (h, height), (w, width))
        )
        start = start + h * w
    shift = ops.arange(3, dtype="int32") - 1
    y = ((cells - first) // width)[..., None, None] + shift[:, None]  # [B, N, 3, 1]
    x = ((cells - first) % width)[..., None, None] + shift  # [B, N, 1, 3]
    inside = ops.logical_and(
        ops.logical_and(y >= 0, y < height[..., None, None]),
        ops.logical_and(x >= 0, x < width[..., None, None]),
    )
    rows = first[..., None, None] + y * width[..., None, None] + x
    rows = (
        ops.where(inside, rows, 0) + ops.arange(batch, dtype="int32")[:, None, None, None] * total
    )
    patches = ops.take(ops.reshape(flat, (-1, channels)), ops.reshape(rows, (-1,)), axis=0)
    patches = ops.reshape(patches, (batch, ops.shape(cells)[1], 9, channels))
    patches = ops.where(ops.reshape(inside, (batch, -1, 9, 1)), patches, ops.zeros_like(patches))
    return ops.reshape(patches, (batch, -1, 9 * channels))


def _neighbours(at, length, reach=0.0):
    """The cells around each place of one axis, how far it is past the first, and whether it is
    inside.

    Args:
        at: [N, n], in cells.
        length: [N], cells of the axis.
        reach: see `_bilinear`.
    """
    last = ops.cast(length - 1, "float32")[:, None]
    inside = ops.logical_and(at >= -reach, at <= last + reach)
    at = ops.where(inside, ops.clip(at, 0.0, last) if reach else at, 0.0)
    below = ops.floor(at)
    return (
        ops.cast(below, "int32"),
        ops.cast(ops.minimum(below + 1, last), "int32"),
        at - below,
        inside,
    )


def _bilinear(maps, at_y, at_x, reach=0.0):
    """Values between cells.

    Args:
        at_y: [N, h], at_x: [N, w], in cells.
        reach: cells beyond the edge that repeat it; farther out it is 0.

    Returns:
        [N, h, w, C].
    """
    y0, y1, dy, y_inside = _neighbours(at_y, maps.height, reach)
    x0, x1, dx, x_inside = _neighbours(at_x, maps.width, reach)

    def corner(y, x):
        index = (
            maps.offset[:, None, None] + y[:, :, None] * maps.width[:, None, None] + x[:, None, :]
        )
        return ops.take(maps.flat, index, axis=0)  # [N, h, w, C]

    dy = ops.cast(dy, maps.flat.dtype)[:, :, None, None]
    dx = ops.cast(dx, maps.flat.dtype)[:, None, :, None]
    top = corner(y0, x0) * (1 - dx) + corner(y0, x1) * dx
    bottom = corner(y1, x0) * (1 - dx) + corner(y1, x1) * dx
    inside = ops.logical_and(y_inside[:, :, None], x_inside[:, None, :])[..., None]
    return ops.where(inside, top * (1 - dy) + bottom * dy, 0.0)


def _reduce_bins(sampled, samples, reduce):
    """[N, h * samples, w * samples, C] to [N, h, w, C]."""
    if samples == 1:
        return sampled
    if reduce == "average":
        return ops.average_pool(sampled, samples, samples, "valid", "channels_last")
    # Not by `max_pool`: with its gradient in the graph, TensorFlow's oneDNN kernels end the
    # process.
    return ops.max(
        ops.stack(
            [sampled[:, y::samples, x::samples] for y in range(samples) for x in range(samples)]
        ),
        axis=0,
    )


def _align_adaptively(maps, start, extent, size, reduce):
    """`roi_align` with as many samples as a bin has cells; the k-th of each bin, all bins at
    once."""
    bins = ops.convert_to_tensor(size, "float32")
    counts = ops.maximum(ops.ceil(extent / bins), 0.0)  # [N, 2]
    most = [
        ops.max(ops.concatenate([ops.cast(counts[:, axis], "int32"), ops.zeros((1,), "int32")]))
        for axis in (0, 1)
    ]
    step = extent / bins / ops.maximum(counts, 1.0)

    def sample(axis, k):
        k = ops.cast(k, "float32")
        at = start[:, axis, None] + ops.arange(size[axis], dtype="float32") * (
            extent[:, axis, None] / size[axis]
        )
        return at + (k + 0.5) * step[:, axis, None], k < counts[:, axis]

    def add(i, total):
        (y, there_y), (x, there_x) = sample(0, i // most[1]), sample(1, i % most[1])
        there = ops.logical_and(there_y, there_x)[:, None, None, None]
        here = ops.cast(_bilinear(maps, y, x, reach=1.0), "float32")
        return i + 1, (
            total + ops.where(there, here, 0.0)
            if average
            else ops.where(there, ops.maximum(total, here), total)
        )

    average = reduce == "average"
    total = ops.zeros((ops.shape(start)[0], *size, maps.flat.shape[-1])) - (
        0.0 if average else float("inf")
    )
    _, total = ops.while_loop(lambda i, *_: i < most[0] * most[1], add, (0, total))
    if average:
        total = total / ops.maximum(ops.prod(counts, axis=1), 1.0)[:, None, None, None]
    else:
        total = ops.where(total > -float("inf"), total, 0.0)
    return ops.cast(total, maps.flat.dtype)
