"""A training step on two logical CPU devices, in a process of its own: devices are set before
TensorFlow starts. A whole run on two is in test_cluster.py, beside two processes."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import oracle
import pytest
import quickly

from mrcnn import training
from mrcnn.config import Config
from mrcnn.parallel_model import ParallelModel

HEAD = f"""
{quickly.HEAD}
sys.path.insert(0, {str(oracle.TESTS)!r})
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from toy import Rectangles, ToyConfig
from mrcnn import data
from mrcnn import model as modellib
"""


STEPS = ("", "_of_own", "_scaled", "_of_own_scaled")
NAMES = ("copies", *(f"{name}{step}" for step in STEPS for name in ("losses", "gradients")))

HALF_BATCHES = """
import keras
keras.utils.set_random_seed(0)
settings = dict(IMAGES_PER_GPU=2, USE_RPN_ROIS=False, WEIGHT_DECAY=1e-3, GRADIENT_CLIP_NORM=.5)
two = modellib.MaskRCNN("training", ToyConfig(GPU_COUNT=2, **settings), "logs")
one = modellib.MaskRCNN("training", ToyConfig(**settings), "logs")
two.keras_model.save_weights("w.h5")
one.load_weights("w.h5")
inputs = list(data.TrainingBatches(Rectangles(4, empty=True), two.config, shuffle=False).batch(0)[0])
# Noise: in areas of one colour a rounding error at a ReLU's kink is that of all their pixels.
inputs[0] = inputs[0] + np.random.default_rng(0).normal(0, 20, inputs[0].shape).astype("float32")
# One RoI on an object in the first image, two in the second, none in the third, and two beside objects:
# each is drawn, whatever the seed.
beside = [[0, 44, 10, 60], [44, 0, 60, 10]]
rois = np.zeros((4, 5, 4), "float32")
for i, objects in enumerate([[(8, 6, 34, 40)], [(8, 6, 34, 40), (36, 22, 62, 60), (9, 7, 34, 40)], [], [(8, 6, 34, 40)]]):
    rois[i, :len(objects) + 2] = [*objects, *beside]
inputs = tuple(x.astype("uint8") if x.dtype == bool else x.astype("float32") if x.dtype == float else x
               for x in (*inputs[:7], rois))
one.compile(.1, .0)
two.compile(.1, .0)
losses, gradients = [], []
for half in (slice(0, 2), slice(2, 4)):
    with tf.GradientTape() as tape:
        outputs = one.keras_model([x[half] for x in inputs], training=True)
        total = one.keras_model.compute_loss(y_pred=outputs)
    losses.append([float(x) for x in (total, *outputs[-5:])])
    gradients.append([tf.convert_to_tensor(g) for g in tape.gradient(total, one.keras_model.trainable_weights)])
assert losses[0] != losses[1]
mean = [(a + b) / 2 for a, b in zip(*gradients)]
norm = float(tf.linalg.global_norm(mean))
assert norm > .5
before = [np.asarray(w) for w in two.keras_model.trainable_weights]
names = ["loss", *two.keras_model.loss_names]
def step(word):
    # TensorFlow writes into arrays of a generator that lie at a multiple of 64, where it divides them.
    own = tuple(x.copy() for x in inputs)
    history = two.keras_model.fit((x for x in [(own,)]), steps_per_epoch=1, verbose=0).history
    print("losses" + word, max(abs(history[name][0] - value) for name, value in zip(names, np.mean(losses, axis=0))))
    print("gradients" + word, max(np.abs((b - np.asarray(w)) / .1 - g * .5 / norm).max()
                                  for b, w, g in zip(before, two.keras_model.trainable_weights, mean)))
step("")
copies = [w.value.values for w in two.keras_model.trainable_weights]
print("copies", max(np.abs(a.numpy() - b.numpy()).max() for a, b in copies))
# An optimizer of the user's own adds up itself what each device has.
two.config.OPTIMIZER = lambda rate: keras.optimizers.SGD(rate)
two.keras_model.load_weights("w.h5")
two.compile(.1, .0)
step("_of_own")
# So Keras wraps each optimizer under mixed_float16: a step did not run, as its state was made in it.
from mrcnn import training
for word, make in (("", lambda rate: training.SGD(rate, momentum=.9)), ("_of_own", keras.optimizers.SGD)):
    two.config.OPTIMIZER = lambda rate: keras.optimizers.LossScaleOptimizer(make(rate))
    two.keras_model.load_weights("w.h5")
    two.compile(.1, .0)
    step(word + "_scaled")
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """{name: number} of what the program prints."""
    folder = tmp_path_factory.mktemp("devices")
    script = folder / "script.py"
    script.write_text(HEAD + HALF_BATCHES)
    done = subprocess.run(
        [sys.executable, script],
        cwd=folder,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "-1",
            "PYTHONPATH": str(oracle.TESTS.parent),
            "TF_CPP_MIN_LOG_LEVEL": "2",
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    words = (line.split() for line in done.stdout.splitlines())
    return {line[0]: float(line[1]) for line in words if line and line[0] in NAMES}


@pytest.mark.heavy
def test_two_devices_give_the_mean_of_two_half_batches(printed):
    """Losses, and the clipped update of one step, with other numbers of positives on each
    device."""
    assert printed["copies"] == 0
    for step in STEPS:
        assert printed["losses" + step] <= 1e-5 and printed["gradients" + step] <= 1e-5, step


def test_xla_is_for_one_device(monkeypatch):
    with pytest.raises(ValueError, match="JIT_COMPILE trains on one device.*: GPU_COUNT = 2"):
        training.strategy(2, True)
    cluster = {"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}}
    task = {"task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps({**cluster, **task}))
    with pytest.raises(ValueError, match="JIT_COMPILE.*Received: 2 machines by TF_CONFIG"):
        training.strategy(1, True)


def test_parallel_model():
    """matterport's wrapper: outputs joined, scalars averaged, files those of the inner model."""
    inputs = keras.Input((3,)), keras.Input((2,))
    joined = keras.layers.Concatenate()(list(inputs))
    inner = keras.Model(
        list(inputs), [keras.layers.Dense(4, name="dense")(joined), keras.ops.mean(joined)]
    )
    parallel = ParallelModel(inner, 2)
    a, b = np.random.default_rng(0).random((4, 3), "float32"), np.ones((4, 2), "float32")
    rows, mean = parallel([a, b])
    expected, expected_mean = inner([a, b])
    np.testing.assert_allclose(np.asarray(rows), np.asarray(expected), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(float(mean), float(expected_mean), rtol=1e-6)
    assert parallel.get_layer("dense") is inner.get_layer("dense")
    with pytest.raises(ValueError, match="batch of 3"):
        parallel([a[:3], b[:3]])


def test_parallel_model_with_one_input():
    """Its height was split, as if it were the batch, and training ended in an error of AutoGraph."""
    pixels = keras.Input((6, 5, 1))
    flat = keras.layers.Flatten()(pixels)
    inner = keras.Model(pixels, keras.layers.Dense(3, activation="softmax", name="out")(flat))
    parallel = ParallelModel(inner, 2)
    images = np.random.default_rng(0).random((4, 6, 5, 1), "float32")
    expected = inner.predict(images, verbose=0)
    probabilities = parallel.predict(images, verbose=0)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-6, atol=1e-6)
    (joined,) = parallel.make_parallel()[1](images)  # the second half
    np.testing.assert_allclose(np.asarray(joined), expected[2:], rtol=1e-6, atol=1e-6)
    parallel.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
    before = inner.get_layer("out").get_weights()[0].copy()
    parallel.fit(images, np.array([0, 1, 2, 0]), verbose=0)
    assert np.any(inner.get_layer("out").get_weights()[0] != before)


@pytest.mark.parametrize("count", [0, -1, "2", 1.5, None])
def test_parallel_model_names_a_wrong_count(count):
    with pytest.raises(ValueError, match="gpu_count is a whole number of at least 1. Received: "):
        ParallelModel(keras.Sequential(), count)


def test_parallel_model_takes_a_keras_model():
    with pytest.raises(ValueError, match="keras_model is a Keras model.*Received: Config"):
        ParallelModel(Config(), 1)
