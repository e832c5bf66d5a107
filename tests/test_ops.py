"""The kernels: the fused form against the reference, and both against numbers worked by hand or
public."""

import numpy as np
import pytest
from keras import ops as kops

from mrcnn import ops, utils

RNG = np.random.default_rng(0)


def random_boxes(*shape):
    corners = RNG.uniform(0, 1, (*shape, 2, 2)).astype("float32")
    return np.concatenate([corners.min(axis=-2), corners.max(axis=-2)], axis=-1)


@pytest.mark.parametrize("rest", [(), (2,), (2, 3)], ids=str)
def test_one_entry_of_each_row(rest):
    """`pick` against indexing, with its gradient, in a graph that knows no batch."""
    import tensorflow as tf

    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 5, 4, *rest)).astype("float32")
    indices = rng.integers(0, 4, (2, 5)).astype("int32")
    rows = np.arange(5)
    expected = np.stack([image[rows, index] for image, index in zip(x, indices)])

    signature = [tf.TensorSpec((None, None, 4, *rest)), tf.TensorSpec((None, None), "int32")]

    @tf.function(input_signature=signature)
    def picked_and_gradient(x, indices):
        with tf.GradientTape() as tape:
            tape.watch(x)
            picked = ops.pick(x, indices)
            total = tf.reduce_sum(picked**2)
        return picked, tape.gradient(total, x)

    picked, gradient = picked_and_gradient(x, indices)
    np.testing.assert_array_equal(picked, expected)
    chosen = np.zeros_like(x)
    for image, index, values in zip(chosen, indices, expected):
        image[rows, index] = 2 * values
    np.testing.assert_array_equal(gradient, chosen)


def test_xla_draws_what_tensorflow_draws():
    """Keras's numbers, which a seed has always given here, with XLA and without it."""
    import keras
    import tensorflow as tf

    drawn = []
    for compiled in (True, False):
        seed = keras.random.SeedGenerator(7)
        draw = tf.function(lambda: ops.uniform((3, 50), seed), jit_compile=compiled)  # noqa: B023
        drawn += [draw().numpy(), draw().numpy()]
    seed = keras.random.SeedGenerator(7)
    expected = [keras.random.uniform((3, 50), seed=seed) for _ in range(2)]
    np.testing.assert_array_equal(drawn, [*expected, *expected])
    assert (drawn[0] != drawn[1]).any()


@pytest.mark.parametrize(
    "backend, jit_compile, part",
    [
        ("torch", True, "JIT_COMPILE needs TensorFlow or JAX. Received: True under PyTorch"),
        ("jax", False, "JIT_COMPILE is None or True under JAX. Received: False"),
        ("tensorflow", None, False),
        ("tensorflow", True, True),
        ("torch", None, False),
        ("torch", False, False),
        ("jax", None, True),
    ],
)
def test_what_xla_compiles(backend, jit_compile, part, monkeypatch):
    monkeypatch.setattr("keras.backend.backend", lambda: backend)
    if isinstance(part, bool):
        assert ops.compiles(jit_compile) is part
    else:
        with pytest.raises(ValueError, match=part):
            ops.compiles(jit_compile)


@pytest.mark.parametrize("fused", [True, False])
def test_nms_of_a_public_case(fused):
    """detectron2's three boxes: only the second, the best, stays at .2."""
    boxes = np.array(
        [
            [285.3538, 185.5758, 1193.5110, 851.4551],
            [285.1472, 188.7374, 1192.4984, 851.0669],
            [279.2440, 197.9812, 1189.4746, 849.2019],
        ],
        "float32",
    )[None, :, [1, 0, 3, 2]]
    scores = np.array([[0.6370, 0.7569, 0.3966]], "float32")
    indices, kept = ops.non_max_suppression(
        kops.convert_to_tensor(boxes), kops.convert_to_tensor(scores), 3, 0.2, fused=fused
    )
    assert np.asarray(kept).tolist() == [[True, False, False]] and np.asarray(indices)[0, 0] == 1


@pytest.mark.parametrize("with_classes", [False, True])
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_nms_forms_agree(with_classes, threshold):
    boxes, scores = random_boxes(3, 60), RNG.uniform(0, 1, (3, 60)).astype("float32")
    scores[:, ::7] = 0.5  # ties
    valid = RNG.uniform(size=(3, 60)) > 0.2
    valid[2] = False
    classes = RNG.integers(1, 4, (3, 60)).astype("int32") if with_classes else None
    args = [kops.convert_to_tensor(x) for x in (boxes, scores)]
    results = [
        ops.non_max_suppression(
            *args,
            20,
            threshold,
            kops.convert_to_tensor(valid),
            None if classes is None else kops.convert_to_tensor(classes),
            fused,
        )
        for fused in (True, False)
    ]
    for a, b in zip(*results):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    kept = np.asarray(results[0][1])
    assert kept[:2].any() and not kept[2].any()
    if not with_classes:
        rows = np.flatnonzero(valid[0])
        expected = rows[utils.non_max_suppression(boxes[0][rows], scores[0][rows], threshold)][:20]
        assert set(np.asarray(results[0][0])[0][kept[0]]) == set(expected) or len(
            set(scores[0][rows])
        ) < len(rows)


@pytest.mark.parametrize("fused", [True, False])
def test_crop_and_resize_of_a_ramp(fused):
    """The public 5 x 5 ramp: corners aligned, not detectron2's aligned (4.5 ...) nor unaligned (7.5
    ...) RoIAlign."""
    image = kops.convert_to_tensor(np.arange(25, dtype="float32").reshape(1, 5, 5, 1))
    boxes = kops.convert_to_tensor(np.array([[0.25, 0.25, 0.5, 0.5]], "float32"))
    crop = np.asarray(
        ops.crop_and_resize(
            image, boxes, kops.convert_to_tensor(np.array([0], "int32")), (4, 4), fused
        )
    )
    np.testing.assert_allclose(crop[0, 0, :, 0], [6, 6.333333, 6.666667, 7], rtol=1e-5)
    np.testing.assert_allclose(crop[0, 3, :, 0], [11, 11.333333, 11.666667, 12], rtol=1e-5)


def test_pooling_forms_agree():
    """Levels mixed, boxes beyond the image, without area and reversed; values and gradients."""
    import tensorflow as tf

    maps = [RNG.standard_normal((2, side, side, 3)).astype("float32") for side in (16, 8, 4, 2)]
    boxes = np.concatenate(
        [
            random_boxes(2, 6),
            np.tile(
                np.array(
                    [
                        [-0.2, -0.2, 0.5, 0.5],
                        [0.3, 0.3, 0.3, 0.3],
                        [0, 0, 0, 0],
                        [0.8, 0.8, 0.2, 0.2],
                        [0, 0, 1, 1],
                    ],
                    "float32",
                ),
                (2, 1, 1),
            ),
        ],
        axis=1,
    )
    levels = RNG.integers(0, 4, (2, 11)).astype("int32")
    results = []
    for fused in (True, False):
        tensors = [tf.convert_to_tensor(x) for x in maps]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            pooled = ops.pyramid_pool(
                tensors, tf.convert_to_tensor(boxes), tf.convert_to_tensor(levels), (3, 2), fused
            )
            total = tf.reduce_sum(pooled**2)
        results.append(
            [
                pooled.numpy(),
                *(tf.convert_to_tensor(g).numpy() for g in tape.gradient(total, tensors)),
            ]
        )
    assert results[0][0].shape == (2, 11, 3, 2, 3)
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_gradient_where_many_boxes_overlap(dtype):
    """Every time that of the form without a kernel: TensorFlow's own on a CPU loses what threads
    add to a cell together."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    corner = 0.3 * rng.random((200, 2))
    corner[:20] -= 0.4  # across the edge, or outside
    boxes = kops.convert_to_tensor(
        np.concatenate([corner, corner + 0.1 + 0.6 * rng.random((200, 2))], axis=1), "float32"
    )
    images = tf.Variable(rng.normal(size=(2, 30, 34, 64)), dtype=dtype)
    of, upstream = (
        tf.constant(rng.integers(0, 2, 200), tf.int32),
        rng.normal(size=(200, 7, 7, 64)).astype("float32"),
    )

    def gradient(fused):
        with tf.GradientTape() as tape:
            crops = ops.crop_and_resize(kops.convert_to_tensor(images), boxes, of, (7, 7), fused)
            total = tf.reduce_sum(tf.cast(crops, "float32") * upstream)
        return tf.cast(tape.gradient(total, images), "float32").numpy()

    expected = gradient(False)
    assert np.abs(expected).max() > 10 and (np.abs(expected).max(axis=(1, 2, 3)) > 10).all()
    # The other form's products are in the images' dtype.
    tolerance = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}[dtype] * np.abs(expected).max()
    for _ in range(3):
        np.testing.assert_allclose(gradient(True), expected, rtol=0, atol=tolerance)


@pytest.mark.long
def test_gradients_let_go_of_their_graph():
    """TensorFlow keeps what a custom gradient refers to: that must not be the model that was thrown
    away."""
    import gc
    import weakref

    import tensorflow as tf

    maps, boxes = np.ones((1, 9, 8, 3), "float32"), np.float32([[0, 0, 1, 1]])

    @tf.function
    def slope(maps):
        with tf.GradientTape() as tape:
            tape.watch(maps)
            total = tf.reduce_sum(
                ops.crop_and_resize(maps, tf.constant(boxes), tf.constant([0]), (7, 7), True)
            )
        return tape.gradient(total, maps)

    np.testing.assert_allclose(slope(tf.constant(maps)).numpy().sum(), 147, rtol=1e-5)
    graph = weakref.ref(slope.get_concrete_function(tf.TensorSpec(maps.shape)).graph)
    assert graph() is not None
    del slope
    gc.collect()
    assert graph() is None


def test_no_boxes():
    maps = [np.zeros((1, 4, 4, 5), "float32")] * 4
    for fused in (True, False):
        pooled = ops.pyramid_pool(
            [kops.convert_to_tensor(m) for m in maps],
            kops.zeros((1, 0, 4)),
            kops.zeros((1, 0), "int32"),
            (7, 7),
            fused,
        )
        assert tuple(pooled.shape) == (1, 0, 7, 7, 5)


def test_overlaps_of_boxes_without_area():
    boxes = kops.convert_to_tensor(np.array([[0, 0, 1, 1], [0.5, 0.5, 0.5, 0.5]], "float32"))
    np.testing.assert_array_equal(np.asarray(ops.overlaps(boxes, boxes)), [[1, 0], [0, 0]])


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("side, cells", [(32, 14), (256, 7), (200, 28)])
def test_boxes_that_end_on_the_edge_are_inside(fused, side, cells):
    """A last sample that rounding puts beyond the edge would be 0: of a map of ones all crops are
    ones."""
    boxes = random_boxes(1, 500)
    boxes[..., 2:] = 1.0
    pooled = ops.pyramid_pool(
        [kops.ones((1, side, side, 1))] * 4,
        kops.convert_to_tensor(boxes),
        kops.zeros((1, 500), "int32"),
        (cells, cells),
        fused,
    )
    np.testing.assert_allclose(np.asarray(pooled), 1, rtol=1e-6)


# ---- RoIAlign and RoIPool ------------------------------------------------------------------------

RAMP = np.arange(25, dtype="float32").reshape(1, 5, 5, 1)


def align(image, box, size, fused=None, **settings):
    """One box (y1, x1, y2, x2) in cells of one map; [h, w]."""
    boxes = kops.convert_to_tensor(np.array([[box]], "float32"))
    pooled = ops.roi_align(
        [kops.convert_to_tensor(image)],
        boxes,
        kops.zeros((1, 1), "int32"),
        size,
        fused=fused,
        **settings,
    )
    return np.asarray(pooled)[0, 0, :, :, 0]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("samples", [0, 1, 2, 3])
def test_roi_align_of_a_ramp(fused, samples):
    """detectron2's 5 x 5 ramp; on a plane any number of samples has the same average."""
    aligned = align(RAMP, (1, 1, 3, 3), (4, 4), fused, samples=samples, aligned=True)
    np.testing.assert_allclose(
        aligned, 4.5 + 0.5 * np.arange(4) + 2.5 * np.arange(4)[:, None], rtol=1e-6
    )
    shifted = align(RAMP, (1, 1, 3, 3), (4, 4), fused, samples=samples, aligned=False)
    np.testing.assert_allclose(
        shifted, 7.5 + 0.5 * np.arange(4) + 2.5 * np.arange(4)[:, None], rtol=1e-6
    )


@pytest.mark.parametrize("fused", [True, False])
def test_roi_align_without_area(fused):
    """detectron2's box without height: zeros and no gradient with adaptive sampling, else known
    values."""
    import tensorflow as tf

    box = (4, 3, 4, 5)
    for aligned, expected in ((True, (20.5, 21.375)), (False, (23.5, 24.0))):
        pooled = align(RAMP, box, (2, 2), fused, samples=2, aligned=aligned)
        np.testing.assert_allclose(pooled[0], expected, rtol=1e-6)
    image = tf.constant(RAMP)
    with tf.GradientTape() as tape:
        tape.watch(image)
        pooled = ops.roi_align(
            [image],
            tf.constant([[box]], tf.float32),
            tf.zeros((1, 1), tf.int32),
            (2, 2),
            0,
            fused=fused,
        )
    assert (
        not pooled.numpy().any()
        and not tape.gradient(pooled, image, unconnected_gradients="zero").numpy().any()
    )


@pytest.mark.parametrize("fused", [True, False])
def test_roi_align_reads_the_edge_up_to_a_cell_outside(fused):
    """One sample a bin, at -1.5, -.5, .5 (aligned): 0, the edge's value, between the first two."""
    column = np.array([10.0, 20, 30, 40], "float32").reshape(1, 4, 1, 1)
    pooled = align(column, (-1.5, 0, 1.5, 1), (3, 1), fused, samples=1)
    np.testing.assert_allclose(pooled[:, 0], [0, 10, 15], rtol=1e-6)
    pooled = align(column, (2.5, 0, 5.5, 1), (3, 1), fused, samples=1)
    np.testing.assert_allclose(pooled[:, 0], [35, 40, 0], rtol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_roi_align_max(fused):
    """The largest of the samples, bin by bin, worked by hand: at 0, .5 | 1, 1.5."""
    row = np.array([3.0, 1, 4, 0], "float32").reshape(1, 1, 4, 1)
    for samples in (2, 0):
        box = (0, 0.25, 1, 2.25) if samples else (0, 0, 1, 2)
        pooled = align(row, box, (1, 2), fused, samples=samples, reduce="max")
        expected = [3, 2.5] if samples else [3, 1]
        np.testing.assert_allclose(pooled[0], expected, rtol=1e-6)


def naive_align(image, box, size, samples, aligned, reduce):
    """RoIAlign of one box in loops over bins and samples, float64."""
    height, width = image.shape[:2]
    y1, x1, y2, x2 = (float(v) - (0.5 if aligned else 0) for v in box)
    h, w = (y2 - y1, x2 - x1) if aligned else (max(y2 - y1, 1), max(x2 - x1, 1))

    def value(y, x):
        if not (-1 <= y <= height and -1 <= x <= width):
            return np.zeros(image.shape[2])
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        y0, x0 = int(y), int(x)
        y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
        return (image[y0, x0] * (1 - x + x0) + image[y0, x1] * (x - x0)) * (1 - y + y0) + (
            image[y1, x0] * (1 - x + x0) + image[y1, x1] * (x - x0)
        ) * (y - y0)

    out = np.zeros((*size, image.shape[2]))
    ny, nx = (samples or int(np.ceil(side / bins)) for side, bins in zip((h, w), size))
    for i in range(size[0]):
        for j in range(size[1]):
            found = [
                value(
                    y1 + (i + (k + 0.5) / ny) * h / size[0], x1 + (j + (m + 0.5) / nx) * w / size[1]
                )
                for k in range(ny)
                for m in range(nx)
            ]
            if found:
                out[i, j] = np.mean(found, axis=0) if reduce == "average" else np.max(found, axis=0)
    return out


@pytest.mark.long
@pytest.mark.parametrize("reduce", ["average", "max"])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("samples", [2, 0])
def test_roi_align_against_loops(samples, aligned, reduce):
    """Boxes on several levels, across the edge, thin and without area; values of both forms and
    gradients."""
    import tensorflow as tf

    maps = [RNG.standard_normal((2, *side, 3)).astype("float32") for side in ((16, 13), (8, 7))]
    boxes = random_boxes(2, 5) * 12 - 1
    boxes[:, 3], boxes[:, 4] = (2, 3, 2.2, 9), (5, 4, 5, 4)
    levels = RNG.integers(0, 2, (2, 5)).astype("int32")
    expected = np.stack(
        [
            [
                naive_align(maps[levels[b, n]][b], boxes[b, n], (3, 2), samples, aligned, reduce)
                for n in range(5)
            ]
            for b in range(2)
        ]
    )
    gradients = []
    for fused in (True, False):
        tensors = [tf.convert_to_tensor(x) for x in maps]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            pooled = ops.roi_align(
                tensors,
                tf.convert_to_tensor(boxes),
                tf.convert_to_tensor(levels),
                (3, 2),
                samples,
                aligned,
                reduce,
                fused,
            )
            total = tf.reduce_sum(pooled**2)
        np.testing.assert_allclose(pooled.numpy(), expected, atol=2e-5)
        gradients.append([tf.convert_to_tensor(g).numpy() for g in tape.gradient(total, tensors)])
    for a, b in zip(*gradients):
        assert np.abs(a).max() > 0
        np.testing.assert_allclose(a, b, atol=1e-4)


def naive_pool(image, box, size):
    """RoIPool of one box in loops; the cells that a bin has, and its maximum."""
    out = np.zeros((*size, image.shape[2]))
    y1, x1, y2, x2 = (int(np.floor(v + 0.5)) for v in box)
    h, w = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
    for i in range(size[0]):
        for j in range(size[1]):
            ys = [
                y
                for y in range(y1 + i * h // size[0], y1 - (-(i + 1) * h // size[0]))
                if 0 <= y < image.shape[0]
            ]
            xs = [
                x
                for x in range(x1 + j * w // size[1], x1 - (-(j + 1) * w // size[1]))
                if 0 <= x < image.shape[1]
            ]
            if ys and xs:
                out[i, j] = image[np.ix_(ys, xs)].max(axis=(0, 1))
    return out


def test_roi_pool_against_loops():
    """Values, and a gradient that reaches the largest cell of each bin alone."""
    import tensorflow as tf

    ramp = ops.roi_pool(
        [kops.convert_to_tensor(RAMP)],
        kops.convert_to_tensor([[[1.0, 1, 3, 3]]]),
        kops.zeros((1, 1), "int32"),
        (2, 2),
    )
    np.testing.assert_array_equal(np.asarray(ramp)[0, 0, :, :, 0], [[12, 13], [17, 18]])
    maps = [RNG.standard_normal((2, *side, 3)).astype("float32") for side in ((16, 13), (8, 7))]
    boxes = random_boxes(2, 6) * 14 - 1
    boxes[:, 3], boxes[:, 4], boxes[:, 5] = (2, 3, 2.2, 9), (5, 4, 5, 4), (30, 30, 40, 40)
    levels = RNG.integers(0, 2, (2, 6)).astype("int32")
    tensors = [tf.convert_to_tensor(x) for x in maps]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        pooled = ops.roi_pool(
            tensors, tf.convert_to_tensor(boxes), tf.convert_to_tensor(levels), (3, 2)
        )
        total = tf.reduce_sum(pooled)
    expected = np.stack(
        [
            [naive_pool(maps[levels[b, n]][b], boxes[b, n], (3, 2)) for n in range(6)]
            for b in range(2)
        ]
    )
    np.testing.assert_allclose(pooled.numpy(), expected, rtol=1e-6)
    assert not expected[:, 5].any() and expected[:, 0].any()
    gradient = sum(tf.convert_to_tensor(g).numpy().sum() for g in tape.gradient(total, tensors))
    assert gradient == np.count_nonzero(expected)


def test_kinds_of_pooling_differ():
    """The last value of the public ramp: crop_and_resize, RoIAlign aligned and unaligned,
    RoIPool."""
    ramp, box = kops.convert_to_tensor(RAMP), kops.convert_to_tensor([[[1.0, 1, 3, 3]]])
    level = kops.zeros((1, 1), "int32")
    pooled = (
        ops.pyramid_pool([ramp], kops.convert_to_tensor([[[0.25, 0.25, 0.5, 0.5]]]), level, (4, 4)),
        ops.roi_align([ramp], box, level, (4, 4)),
        ops.roi_align([ramp], box, level, (4, 4), aligned=False),
        ops.roi_pool([ramp], box, level, (4, 4)),
    )
    assert [round(float(np.asarray(p)[0, 0, 3, 3, 0]), 4) for p in pooled] == [12, 13.5, 16.5, 18]
