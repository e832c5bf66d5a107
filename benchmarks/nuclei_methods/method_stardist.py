"""StarDist in two dimensions, from random weights: star-convex polygons around nuclei.

Its settings are those of its versatile models (U-Net of depth 3, 32 rays on a grid of 2, patches of
256 pixels, 8 in a batch, Adam at .0003) with three channels; the learning rate falls with a cosine
instead of waiting 40 epochs for a plateau, which the time has no room for. As it is meant to be
used, the weights with the lowest loss on held-out images are taken, and both thresholds of
detection are chosen on these; they are every 20th training image.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import worker
from csbdeep.utils import normalize
from stardist import fill_label_holes
from stardist.models import Config2D, StarDist2D

NAME = "stardist"
EVERY = 20
PATCH = 256
LEARNING_RATE = 3e-4
STEPS_PER_EPOCH = 100
TRAINING_SHARE = 0.95  # of the time; what is left is for the thresholds


class Timed(tf.keras.callbacks.Callback):
    """Sets the learning rate by the clock and ends the training with it."""

    def __init__(self, clock: worker.Clock) -> None:
        super().__init__()
        self.clock = clock
        self.steps = 0

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        share = min(1.0, self.clock.share / TRAINING_SHARE)
        self.model.optimizer.learning_rate.assign(worker.cosine(share, LEARNING_RATE))

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.steps += 1
        if self.clock.share >= TRAINING_SHARE:
            self.model.stop_training = True


def prepared(image: np.ndarray) -> np.ndarray:
    """[H, W, 3] float32, about 0..1 from the 1st to the 99.8th percentile of each channel."""
    return normalize(image, 1, 99.8, axis=(0, 1))


def padded(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At least as large as a patch."""
    widths = [(0, max(0, PATCH - side)) for side in labels.shape]
    return np.pad(image, [*widths, (0, 0)]), np.pad(labels, widths)


def augment(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flips and turns, brightness and contrast, noise, as StarDist's examples have them."""
    turns = np.random.randint(4)
    image = np.rot90(image, turns)
    labels = np.rot90(labels, turns)
    if np.random.rand() < 0.5:
        image = np.flip(image, 0)
        labels = np.flip(labels, 0)
    image = image * np.random.uniform(0.6, 2) + np.random.uniform(-0.2, 0.2)
    noise = 0.02 * np.random.uniform(0, 1)
    return image + np.random.normal(0, noise, image.shape), labels


def ready(images: list[worker.Image]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The images and their labels as StarDist trains on them."""
    pairs = []
    for _, image, labels in images:
        pairs.append(padded(prepared(image), fill_label_holes(labels)))
    return [image for image, _ in pairs], [labels for _, labels in pairs]


def train(job: worker.Job) -> dict:
    tf.keras.utils.set_random_seed(job.seed)
    images, held_out = job.split(EVERY)
    config = Config2D(
        n_rays=32,
        grid=(2, 2),
        n_channel_in=3,
        train_patch_size=(PATCH, PATCH),
        train_batch_size=8,
        train_learning_rate=LEARNING_RATE,
        train_reduce_lr=None,
        train_tensorboard=False,
    )
    model = StarDist2D(config, NAME, str(job.folder))
    model.prepare_for_training()
    timed = Timed(job.clock)
    model.callbacks.append(timed)
    validation = ready(held_out)
    history = model.train(
        *ready(images),
        validation_data=validation,
        augmenter=augment,
        seed=job.seed,
        epochs=100_000,
        steps_per_epoch=STEPS_PER_EPOCH,
    )
    chosen = True
    try:
        with worker.at_most(job.clock.left):
            model.optimize_thresholds(*validation)
    except worker.TimeIsUpError:  # those that it has by default stay
        chosen = False
    return {
        "steps": timed.steps,
        "thresholds chosen": chosen,
        "validation losses": [float(value) for value in history.history["val_loss"]],
        "thresholds": {name: float(value) for name, value in model.thresholds._asdict().items()},
    }


def predictor(job: worker.Job) -> worker.Predictor:
    model = StarDist2D(None, NAME, str(job.folder))
    return lambda image: model.predict_instances(prepared(image))[0]


if __name__ == "__main__":
    worker.main(train, predictor)
