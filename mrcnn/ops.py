"""The kernels of the network: non-maximum suppression and RoI pooling.

Each has two forms: TensorFlow's fused kernel, the faster one on its CPU and GPU, and a form in
`keras.ops` that runs on every backend, compiles under XLA and is the reference in the tests.
`fused=None` takes the fused one where the backend has it; True and False insist.
Boxes are [..., (y1, x1, y2, x2)], normalised so that 0 and 1 are the centres of the outermost pixels.
"""
import ctypes
import sys

import keras
from keras import ops


def has_fused_kernels(fused=None):
    """Which form runs. Raises ValueError where the fused one is demanded of another backend."""
    tensorflow = keras.backend.backend() == "tensorflow"
    if fused and not tensorflow:
        raise ValueError("fused=True needs the TensorFlow backend; None or False run anywhere. "
                         f"Received backend: {keras.backend.backend()}")
    return tensorflow if fused is None else fused


def keep_freed_memory():
    """Tells glibc to keep freed blocks of up to 4 GB, once per process.

    By default it gives each large buffer back to the system, and every training step pays for the
    page faults of getting it again: 2.0 s a step instead of .9 s in the shapes demo on 2 cores.
    Does nothing on other C libraries.
    """
    global _memory_is_kept
    if _memory_is_kept or not sys.platform.startswith("linux"):
        return
    _memory_is_kept = True
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, mmap_threshold = -1, -3              # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)


_memory_is_kept = False


# ---- Boxes -----------------------------------------------------------------------------------------

def overlaps(boxes1, boxes2):
    """IoU of every pair. boxes1: [..., N, 4], boxes2: [..., M, 4]. Returns [..., N, M]; 0 for 0 / 0."""
    a, b = ops.expand_dims(boxes1, -2), ops.expand_dims(boxes2, -3)
    height = ops.minimum(a[..., 2], b[..., 2]) - ops.maximum(a[..., 0], b[..., 0])
    width = ops.minimum(a[..., 3], b[..., 3]) - ops.maximum(a[..., 1], b[..., 1])
    intersection = ops.maximum(height, 0.) * ops.maximum(width, 0.)
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    union = area_a + area_b - intersection
    return ops.where(union > 0, intersection / ops.where(union > 0, union, 1.), 0.)


# ---- Non-maximum suppression -----------------------------------------------------------------------

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
            kept = tf.image.non_max_suppression_overlaps(overlaps(boxes, boxes) * same, scores, limit,
                                                         iou_threshold)
        kept = tf.gather(rows, kept)
        missing = count - tf.shape(kept)[0]
        return (tf.ensure_shape(tf.pad(kept, [[0, missing]]), [count]),
                tf.ensure_shape(tf.range(count) < count - missing, [count]))

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
        best_score, best = ops.top_k(alive, 1)                             # [B, 1]; ties: the first
        best = ops.cast(best, "int32")
        found = best_score > -float("inf")
        best_box = ops.take_along_axis(boxes, best[..., None], axis=1)     # [B, 1, 4]
        beaten = overlaps(boxes, best_box)[..., 0] > iou_threshold
        if classes is not None:
            beaten = ops.logical_and(beaten, classes == ops.take_along_axis(classes, best, axis=1))
        itself = ops.arange(ops.shape(boxes)[1], dtype="int32")[None] == best
        alive = ops.where(ops.logical_or(beaten, itself), -float("inf"), alive)
        here = positions == i
        return (i + 1, alive, ops.where(ops.logical_and(here, found), best, indices),
                ops.logical_or(kept, ops.logical_and(here, found)))

    _, _, indices, kept = ops.while_loop(lambda i, *_: i < count, step, (0, alive, indices, kept))
    return indices, kept


# ---- RoI pooling -----------------------------------------------------------------------------------

def crop_and_resize(images, boxes, box_indices, size, fused=None):
    """Bilinear crops, one sample per cell, the corner samples on the box's corners; 0 outside.

    This is not the paper's RoIAlign: with boxes normalised by (height - 1, width - 1) the first and
    the last sample of a row lie *on* the box's edges instead of half a cell inside.

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
        return tf.image.crop_and_resize(images, boxes, box_indices, size)
    shape = ops.shape(images)
    flat = ops.reshape(images, (-1, shape[3]))
    ones = ops.ones_like(box_indices)
    return _bilinear(flat, box_indices * (shape[1] * shape[2]), ones * shape[1], ones * shape[2], boxes, size)


def pyramid_pool(feature_maps, boxes, levels, size, fused=None):
    """Crops of the map that each box is assigned to.

    Args:
        feature_maps: list of L maps [B, H, W, C], finest first.
        boxes: [B, N, 4] float32, normalised.
        levels: [B, N] int32 in 0..L-1.
        size: (height, width) of the crops.

    Returns:
        [B, N, height, width, C].
    """
    batch, count = ops.shape(boxes)[0], ops.shape(boxes)[1]
    # The last sample of a box that ends on the image's edge may come out a rounding error beyond it, and
    # then be 0 instead of the edge's value: such boxes end some roundings before it.
    edge = 1. - 2. ** -22
    boxes = ops.where(ops.abs(boxes - 1.) < 1e-6, edge, boxes)
    flat_boxes = ops.reshape(boxes, (-1, 4))
    flat_levels = ops.reshape(levels, (-1,))
    images = ops.reshape(ops.broadcast_to(ops.arange(batch, dtype="int32")[:, None], (batch, count)), (-1,))
    if has_fused_kernels(fused):
        import tensorflow as tf
        rows, crops = [], []
        for level, maps in enumerate(feature_maps):
            here = tf.cast(tf.where(flat_levels == level)[:, 0], tf.int32)
            rows.append(here)
            crops.append(tf.image.crop_and_resize(maps, tf.gather(flat_boxes, here),
                                                  tf.gather(images, here), size))
        # The crops come level by level; row r of the result is crop number `order[r]`.
        order = tf.scatter_nd(tf.concat(rows, 0)[:, None], tf.range(batch * count), [batch * count])
        pooled = tf.gather(tf.concat(crops, 0), order)
    else:
        # One gather from all maps laid end to end: no size depends on the data.
        flat, offsets, heights, widths = [], [], [], []
        start = 0
        for maps in feature_maps:
            shape = ops.shape(maps)
            flat.append(ops.reshape(maps, (-1, shape[3])))
            offsets.append(start)
            heights.append(shape[1])
            widths.append(shape[2])
            start = start + shape[0] * shape[1] * shape[2]
        height = ops.take(ops.convert_to_tensor(heights, "int32"), flat_levels)
        width = ops.take(ops.convert_to_tensor(widths, "int32"), flat_levels)
        offset = ops.take(ops.convert_to_tensor(offsets, "int32"), flat_levels) + images * height * width
        pooled = _bilinear(ops.concatenate(flat, 0), offset, height, width, flat_boxes, size)
    return ops.reshape(pooled, (batch, count, *size, feature_maps[0].shape[-1]))


def _bilinear(flat, offset, height, width, boxes, size):
    """Samples maps that lie end to end in `flat` [rows, C]; offset, height, width: [N] of each box's map."""
    def axis(low, high, length, cells):
        last = ops.cast(length - 1, "float32")[:, None]
        if cells > 1:
            step = ops.arange(cells, dtype="float32") / (cells - 1)
            at = low[:, None] * last + step * ((high - low)[:, None] * last)
        else:
            at = .5 * (low + high)[:, None] * last
        inside = ops.logical_and(at >= 0, at <= last)                      # [N, cells]
        at = ops.where(inside, at, 0.)
        below = ops.floor(at)
        upper = ops.minimum(below + 1, last)
        return ops.cast(below, "int32"), ops.cast(upper, "int32"), at - below, inside

    y0, y1, dy, y_inside = axis(boxes[:, 0], boxes[:, 2], height, size[0])
    x0, x1, dx, x_inside = axis(boxes[:, 1], boxes[:, 3], width, size[1])

    def corner(y, x):
        index = offset[:, None, None] + y[:, :, None] * width[:, None, None] + x[:, None, :]
        return ops.take(flat, index, axis=0)                               # [N, h, w, C]

    dy = ops.cast(dy, flat.dtype)[:, :, None, None]
    dx = ops.cast(dx, flat.dtype)[:, None, :, None]
    top = corner(y0, x0) * (1 - dx) + corner(y0, x1) * dx
    bottom = corner(y1, x0) * (1 - dx) + corner(y1, x1) * dx
    inside = ops.logical_and(y_inside[:, :, None], x_inside[:, None, :])[..., None]
    return ops.where(inside, top * (1 - dy) + bottom * dy, 0.)
