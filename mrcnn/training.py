"""Training: the model with its losses, optimizer, schedule, batches, checkpoints and resuming."""

import collections
import concurrent.futures
import contextlib
import copy
import datetime
import difflib
import functools
import hashlib
import importlib.util
import itertools
import json
import logging
import math
import os
import pathlib
import random
import re
import time
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import h5py
import keras
import numpy as np
from keras import ops

from mrcnn import (
    cluster,
    data,
    evaluate,
    files,
    media,
    ops as kernels,
    report,
    rewrite,
    weights,
)
from mrcnn.config import Config, changed_settings
from mrcnn.rewrite import register
from mrcnn.utils import Dataset

logger = logging.getLogger(__name__)

TENSORBOARD_HINT = "it, or TensorFlow, is not installed (pip install tensorboard tensorflow)"


def has_tensorboard() -> bool:
    """Whether curves can be written; Keras writes them by TensorFlow under every backend."""
    return all(importlib.util.find_spec(name) for name in ("tensorboard", "tensorflow"))


class BadLossError(ValueError):
    """A loss became NaN or infinite; the message names the images of the batch."""


# ---- Models -------------------------------------------------------------------------------------


@register
class Network(keras.Model):
    """A Keras model whose `.h5` files have the legacy layout, as scripts of Keras 2 expect it.

    Args:
        sub_models: {name: model} of the same layers for other inputs or outputs, such as "boxes",
            "masks" and "keypoints" of an inference model.
    """

    is_for_inference = True

    def __init__(self, *args: Any, sub_models: Any = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # Names of those that got weights of a file; Keras would make a set of its own kind of it.
        self._loaded_layers = rewrite.Untracked(set())
        # Their layers are those of this one.
        self._sub_models = rewrite.Untracked(dict(sub_models or {}))

    @property
    def sub_models(self) -> dict[str, keras.Model]:
        """The models of the same layers, by name."""
        return self._sub_models.value

    @kernels.outside_graphs()
    def save_weights(
        self, filepath: str | os.PathLike, overwrite: bool = True, **kwargs: Any
    ) -> None:
        """Writes the weights: the legacy layout to `.h5`, Keras's to `.weights.h5`."""
        if not overwrite and os.path.exists(filepath):
            raise FileExistsError(f"{filepath} exists, and overwrite is False")
        weights.save(self, filepath)

    @kernels.outside_graphs()
    def load_weights(
        self,
        filepath: str | os.PathLike,
        by_name: bool = False,
        exclude: str | Sequence[str] | None = None,
        skip_mismatch: bool = False,
    ) -> weights.Coverage:
        """Reads any weight file, see `weights.load`; returns a `weights.Coverage`."""
        coverage = weights.load(self, filepath, by_name, exclude, skip_mismatch)
        self._loaded_layers.value.update(name.split("/")[0] for name in coverage.loaded)
        if self.is_for_inference:
            self._warn_of_random_layers(filepath)
        return coverage

    def _warn_of_random_layers(self, filepath):
        """A warning of the layers behind the backbone that no file has given weights."""
        random = []
        for name in weights.layers_of(self):
            if name not in self._loaded_layers.value and weights.part_of(name) != "backbone":
                random.append(name)
        file = "the state dict"
        if isinstance(filepath, (str, os.PathLike)):
            file = os.fspath(filepath)
        if random:
            logger.warning(
                "After %s is loaded, %d layers of this inference model still have random weights,"
                " so that its detections mean nothing: %s",
                file,
                len(random),
                ", ".join(random),
            )

    def save(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
        """Saves the whole model as `.keras`, put in place only when complete.

        Keras can't write this graph to an `.h5`: such a file gets the weights, in the legacy
        layout, and a warning says so.
        """
        path = str(filepath)
        if path.endswith((".h5", ".hdf5")):
            logger.warning(
                "%s gets the weights alone, for load_weights: the whole model goes into .keras",
                path,
            )
            self.save_weights(filepath, overwrite)
            return
        if not path.endswith(".keras") or not overwrite or kwargs:
            super().save(filepath, overwrite=overwrite, **kwargs)
            return
        with files.atomic(path) as temporary:
            super().save(temporary)


@register
class TrainingModel(Network):
    """The training graph; its loss is the weighted sum of the graph's own losses plus L2.

    Args:
        args: inputs and outputs, see `keras.Model`; they may go by name.
        loss_names: of the graph's last outputs, in order.
        loss_weights: {name of a loss: weight}; losses without one count 1.
        weight_decay: L2 factor on every trainable weight but those of norms.
        decay_kind, decay_biases: see WEIGHT_DECAY_KIND and WEIGHT_DECAY_ON_BIASES.
    """

    is_for_inference = False

    def __init__(
        self,
        *args: Any,
        loss_names: Sequence = (),
        loss_weights: Any = None,
        weight_decay: float = 0.0,
        decay_kind: str = "mean",
        decay_biases: bool = True,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.loss_names = list(loss_names)
        self.weight_decay = weight_decay
        self.decay_kind = decay_kind
        self.names_without_decay: tuple[str, ...] = ("gamma", "beta")
        if not decay_biases:
            self.names_without_decay = ("gamma", "beta", "bias")
        loss_weights = loss_weights or {}
        self.loss_factors = {name: float(loss_weights.get(name, 1.0)) for name in loss_names}
        self.loss_means = [keras.metrics.Mean(name=name) for name in loss_names]
        self._folded: rewrite.Untracked | None = None
        self._loss_graph: rewrite.Untracked | None = None
        self._wants_losses_alone = False
        self._compiled_for = ""
        # JAX's devices, see `strategy`; TensorFlow notes its own.
        self.made_in = rewrite.Untracked(keras.distribution.distribution())

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "loss_names": list(self.loss_names),
            "loss_weights": dict(self.loss_factors),
            "weight_decay": self.weight_decay,
            "decay_kind": self.decay_kind,
            "decay_biases": "bias" not in self.names_without_decay,
        }

    def fold(self) -> None:
        """Folds fixed batch norm from now on.

        The outputs of convolutions before it need not be kept for the gradients then.
        """
        if self._folded is None:
            plain = keras.Model(self.inputs, self.outputs)
            folded = rewrite.fold_batch_norm(plain, training=True)
            self._folded = rewrite.Untracked(folded)  # it is this model in another form
            losses = keras.Model(folded.inputs, folded.outputs[-len(self.loss_names) :])
            self._loss_graph = rewrite.Untracked(losses)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        self._compiled_for = ""  # `take_optimizer` says it, after its own call
        super().compile(*args, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles as a `.keras` file says, which Keras leaves to whoever overrides `compile`."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def take_optimizer(
        self, optimizer: Any, keep: bool = True, jit_compile: bool | None = None
    ) -> None:
        """Trains with an optimizer from now on, one that has no state yet.

        Tracing and compiling a step takes TensorFlow many seconds. Where the same weights are
        trained with the same settings as before, what was traced is kept: the learning rate is a
        variable in it, and the old optimizer begins anew in the place of the one that is given.

        Args:
            optimizer: not built yet.
            keep: False makes everything anew.
            jit_compile: whether XLA compiles the steps; None where the backend needs it.
        """
        if jit_compile is None:
            jit_compile = kernels.compiles(None)
        wanted = self._what_is_traced(optimizer, jit_compile)
        if keep and wanted == self._compiled_for:
            _begin_anew(self.optimizer, optimizer)
            return
        optimizer.build(self.trainable_variables)
        self.compile(optimizer=optimizer, jit_compile=jit_compile)
        # Of another kind of state it is not known how it began.
        if keep and _begins_with_zeros(self.optimizer):
            self._compiled_for = wanted

    def _what_is_traced(self, optimizer, jit_compile):
        """What a traced step depends on, as text: trained weights, settings of the optimizer."""
        settings = optimizer.get_config()
        settings.pop("name", None)  # each has another one
        if not isinstance(settings["learning_rate"], dict):  # a number, not a schedule
            del settings["learning_rate"]
        trained = [id(variable) for variable in self.trainable_variables]
        losses = [self.loss_factors, self.weight_decay, self.decay_kind, self.names_without_decay]
        return repr([trained, type(optimizer).__name__, settings, losses, jit_compile])

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if self._folded is None or self._loss_graph is None:
            return super().call(inputs, training, mask)
        if self._wants_losses_alone:
            # Of a single loss Keras makes no list.
            return keras.tree.flatten(self._loss_graph.value(inputs, training=training))
        return self._folded.value(inputs, training=training)

    @contextlib.contextmanager
    def _losses_alone(self):
        """Within it the model gives its losses alone.

        A step needs no more, and what only other outputs need is not traced.
        """
        self._wants_losses_alone = True
        try:
            yield
        finally:
            self._wants_losses_alone = False

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool | None = True,
    ) -> Any:
        losses = y_pred[-len(self.loss_names) :]
        total = 0.0
        if self.weight_decay:
            total = self.regularization()
        for name, loss, mean in zip(self.loss_names, losses, self.loss_means):
            mean.update_state(loss)
            total = total + self.loss_factors[name] * loss
        return total

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Keras's, which also takes what `data_generator` and `DataGenerator` yield."""
        if "validation_data" in kwargs:
            kwargs["validation_data"] = inputs_alone(kwargs["validation_data"])
        if isinstance(x, types.GeneratorType):  # Keras can't shuffle, and would warn of it
            kwargs["shuffle"] = False
        return super().fit(inputs_alone(x), *args, **kwargs)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Keras's, which also takes what `data_generator` and `DataGenerator` yield."""
        return super().evaluate(inputs_alone(x), *args, **kwargs)

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Keras's; the outputs [] of a batch of `data_generator` are none."""
        return super().train_on_batch(x, _outputs_or_none(y), *args, **kwargs)

    def test_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Keras's; the outputs [] of a batch of `data_generator` are none."""
        return super().test_on_batch(x, _outputs_or_none(y), *args, **kwargs)

    def train_step(self, *args: Any) -> dict:
        """One step.

        On several TensorFlow devices their gradients are averaged before they are clipped.
        """
        is_tensorflow = keras.backend.backend() == "tensorflow"
        if is_tensorflow and self.distribute_strategy.num_replicas_in_sync > 1:
            return self._train_step_of_a_replica(*args[0])
        with self._losses_alone():
            return super().train_step(*args)

    def test_step(self, *args: Any) -> dict:
        """The losses of a batch."""
        with self._losses_alone():
            several = keras.backend.backend() == "tensorflow" and _is_distributed()
            if not several:
                return super().test_step(*args)
            # Keras multiplies the loss by the number of devices, as if each had its share of it.
            inputs = args[0][0]
            loss = self.compute_loss(x=inputs, y_pred=self(inputs, training=False))
            self.metrics[0].update_state(loss)
            return self.get_metrics_result()

    def _train_step_of_a_replica(self, inputs):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=inputs, y_pred=self(inputs, training=True))
        self.metrics[0].update_state(loss)
        gradients = []
        trained = []
        for gradient, weight in zip(
            tape.gradient(loss, self.trainable_weights), self.trainable_weights
        ):
            if gradient is not None:
                gradients.append(gradient)
                trained.append(weight)
        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce(tf.distribute.ReduceOp.MEAN, gradients)
        if not isinstance(self.optimizer, FusedUpdates):
            # Keras's own adds up what it gets from each device before it clips.
            if self.optimizer.global_clipnorm:
                gradients, _ = tf.clip_by_global_norm(gradients, self.optimizer.global_clipnorm)
            count = self.distribute_strategy.num_replicas_in_sync
            gradients = [gradient / count for gradient in gradients]
        self.optimizer.apply_gradients(zip(gradients, trained))
        self._share_statistics(context)
        return self.get_metrics_result()

    def _share_statistics(self, context):
        """Gives each device the mean of all devices' moving statistics of batch norm.

        Each has moved its own by its part of the batch. Left so, a checkpoint would hold those of
        the first device alone, and two machines would validate with different weights.
        """
        import tensorflow as tf

        moved = []
        for layer in self._flatten_layers():
            is_norm = isinstance(layer, keras.layers.BatchNormalization)
            if is_norm and layer.trainable and getattr(layer, "train_bn", None) is not False:
                moved += [layer.moving_mean, layer.moving_variance]
        if not moved:
            return
        # One exchange for all of them.
        means = context.all_reduce(
            tf.distribute.ReduceOp.MEAN, [tf.identity(v.value) for v in moved]
        )
        for variable, mean in zip(moved, means):
            variable.assign(mean)

    def regularization(self) -> Any:
        """The L2 term, a scalar."""
        halves = []
        factors = []
        for weight in self.trainable_weights:
            if weight.name in self.names_without_decay:
                continue
            factor = 1.0
            if self.decay_kind == "mean":
                factor = 2 / math.prod(weight.shape)
            halves.append(kernels.half_of_squares(weight))
            factors.append(self.weight_decay * factor)
        if not halves:
            return ops.convert_to_tensor(0.0)
        # One product for all weights: of each its own would be five operations with its gradient.
        return ops.sum(ops.stack(halves) * ops.convert_to_tensor(factors, "float32"))


# ---- Optimizer -----------------------------------------------------------------------------------


@register
class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then constant, falling in steps, or a half cosine down to zero.

    Args:
        peak: learning rate after the warm-up.
        warmup_steps: steps from .001 of the peak to the peak.
        total_steps: step at which a cosine arrives at zero; None for none.
        drops: steps from which on the rate is multiplied by `factor` once more.
    """

    def __init__(
        self,
        peak: Any,
        warmup_steps: int = 0,
        total_steps: Any = None,
        drops: Sequence = (),
        factor: float = 0.1,
    ):
        self.peak = peak
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        self.drops = [int(step) for step in drops]
        self.factor = factor

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        rate = ops.ones_like(step)
        if self.total_steps is not None:
            steps = max(self.total_steps - self.warmup_steps, 1)
            share = ops.clip((step - self.warmup_steps) / steps, 0.0, 1.0)
            rate = 0.5 * (1.0 + ops.cos(math.pi * share))
        for drop in self.drops:
            rate = ops.where(step >= drop, rate * self.factor, rate)
        if self.warmup_steps:
            warming = 0.001 + 0.999 * step / self.warmup_steps
            rate = ops.where(step < self.warmup_steps, warming, rate)
        return self.peak * rate

    def get_config(self) -> dict[str, Any]:
        names = "peak warmup_steps total_steps drops factor".split()
        return {name: getattr(self, name) for name in names}


def make_schedule(config: Config, learning_rate: float, total_steps: int) -> float | WarmupSchedule:
    """The learning rate of a run of so many steps.

    Returns:
        the number, or a `WarmupSchedule` where the config asks for one.
    """
    kind = config.LEARNING_RATE_SCHEDULE
    if kind == "constant" and not config.WARMUP_STEPS:
        return learning_rate
    end_of_cosine = None
    if kind == "cosine":
        end_of_cosine = total_steps
    drops: Sequence[int] = ()
    if kind == "step":
        drops = config.LEARNING_RATE_STEPS
    return WarmupSchedule(
        learning_rate, config.WARMUP_STEPS, end_of_cosine, drops, config.LEARNING_RATE_FACTOR
    )


def _is_distributed():
    """Whether the operations are made for several TensorFlow devices."""
    import tensorflow as tf

    return tf.distribute.has_strategy()


class FusedUpdates(keras.optimizers.Optimizer):
    """Before a Keras optimizer: its update by one TensorFlow operation for each variable.

    In place of ten, or of Adam's forty. The same numbers, a smaller graph, no copies of the
    variable on the way. Under PyTorch Keras itself updates all variables together, see
    `make_optimizer`.
    """

    def _is_fused(self):
        return keras.backend.backend() == "tensorflow"

    def _all_reduce_sum_gradients(self, grads_and_vars):
        # `TrainingModel.train_step` has averaged them over the devices, clipping needs that. Added
        # up here once more they would go over the network twice.
        return list(grads_and_vars)

    def _values(self, learning_rate: Any) -> dict[str, Any]:
        """Arguments of the operation that all variables share."""
        raise NotImplementedError

    def _update(self, gradient: Any, variable: Any, values: dict[str, Any]) -> None:
        """Updates a variable; `values` are of its dtype."""
        raise NotImplementedError

    def _clip_gradients(self, grads):
        if keras.backend.backend() != "tensorflow" or not self.global_clipnorm:
            return super()._clip_gradients(grads)
        import tensorflow as tf

        # `tf.clip_by_global_norm` by the same operations, less one for each gradient.
        norm = tf.linalg.global_norm(grads)
        scale = self.global_clipnorm * tf.minimum(1.0 / norm, 1.0 / self.global_clipnorm)
        scale = norm - norm + scale  # not a number where the norm is infinite
        return [gradient * scale for gradient in grads]

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        if not self._is_fused() or _is_distributed():
            super()._backend_update_step(grads, trainable_variables, learning_rate)
            return
        # On one device there is nothing to add up, for which Keras has an operation and a scope
        # for each variable; and what they share is computed once.
        values = self._values(learning_rate)
        for gradient, variable in zip(grads, trainable_variables):
            self._update_by(gradient, variable.value, values)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> Any:
        if self._is_fused():
            self._update_by(gradient, variable, self._values(learning_rate))
        else:
            super().update_step(gradient, variable, learning_rate)

    def _update_by(self, gradient, variable, values):
        import tensorflow as tf

        cast = {name: tf.cast(value, variable.dtype) for name, value in values.items()}
        gradient = tf.cast(tf.convert_to_tensor(gradient), variable.dtype)
        self._update(gradient, variable, cast)


@register
class SGD(FusedUpdates, keras.optimizers.SGD):
    """Keras's SGD, see `FusedUpdates`."""

    def _is_fused(self):
        return super()._is_fused() and self.momentum != 0

    def _values(self, learning_rate):
        import tensorflow as tf

        return {"lr": tf.convert_to_tensor(learning_rate), "momentum": tf.constant(self.momentum)}

    def _update(self, gradient, variable, values):
        import tensorflow as tf

        velocity = self.momentums[self._get_variable_index(variable)].value
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=velocity.handle,
            grad=gradient,
            use_nesterov=self.nesterov,
            **values,
        )


class FusedAdam(FusedUpdates):
    """`FusedUpdates` of Keras's Adam and AdamW."""

    def _is_fused(self):
        return super()._is_fused() and not self.amsgrad

    def _values(self, learning_rate):
        import tensorflow as tf

        step = tf.cast(tf.convert_to_tensor(self.iterations) + 1, "float32")
        return {
            "lr": tf.convert_to_tensor(learning_rate),
            "beta1": tf.constant(self.beta_1),
            "beta2": tf.constant(self.beta_2),
            "beta1_power": tf.pow(self.beta_1, step),
            "beta2_power": tf.pow(self.beta_2, step),
            "epsilon": tf.constant(self.epsilon),
        }

    def _update(self, gradient, variable, values):
        import tensorflow as tf

        index = self._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            grad=gradient,
            **values,
        )


@register
class Adam(FusedAdam, keras.optimizers.Adam):
    """Keras's Adam, see `FusedUpdates`."""


@register
class AdamW(FusedAdam, keras.optimizers.AdamW):
    """Keras's AdamW, see `FusedUpdates`."""


def make_optimizer(config: Config, learning_rate: Any, momentum: float) -> Any:
    """The optimizer of a config.

    Gradients are clipped by the norm of all together (Keras 2.0's clipnorm).

    Args:
        learning_rate: a number or a schedule.
        momentum: of "sgd".
    """
    common: dict[str, Any] = {"global_clipnorm": config.GRADIENT_CLIP_NORM or None}
    if callable(config.OPTIMIZER):
        optimizer = config.OPTIMIZER(learning_rate)
        optimizer.global_clipnorm = common["global_clipnorm"]
        return optimizer
    if config.EMA_MOMENTUM:
        common.update(use_ema=True, ema_momentum=config.EMA_MOMENTUM)
    kinds: dict[str, Any] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}
    if keras.backend.backend() == "torch":  # there Keras updates all variables together by itself
        of_keras = keras.optimizers
        kinds = {"sgd": of_keras.SGD, "adam": of_keras.Adam, "adamw": of_keras.AdamW}
    kind = kinds[config.OPTIMIZER]
    if config.OPTIMIZER == "sgd":
        return kind(learning_rate, momentum=momentum, **common)
    if config.OPTIMIZER == "adam":
        return kind(learning_rate, **common)
    optimizer = kind(learning_rate, weight_decay=config.WEIGHT_DECAY, **common)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    return optimizer


def _slots(optimizer):
    """The variables of an optimizer's state, without its learning rate."""
    rate = optimizer._learning_rate
    return [variable for variable in optimizer.variables if variable is not rate]


def _begins_with_zeros(optimizer):
    """Whether all of an optimizer's state is zero, as it is before the first step of most kinds."""
    return not any(np.any(np.asarray(variable)) for variable in _slots(optimizer))


def _begin_anew(optimizer, like):
    """Puts an optimizer back to its first step, with the learning rate of another one."""
    for variable in _slots(optimizer):
        variable.assign(np.zeros(variable.shape, variable.dtype))
    if isinstance(optimizer._learning_rate, keras.Variable):
        optimizer.learning_rate = float(like.learning_rate)


def uses_averages(network: keras.Model) -> bool:
    """Whether the optimizer keeps running averages of the weights (EMA_MOMENTUM)."""
    return bool(getattr(network.optimizer, "use_ema", False))


@contextlib.contextmanager
def averaged(network: keras.Model) -> Iterator[None]:
    """The network with the running averages in place of its latest weights, if there are any.

    Copied there and back, not swapped by sums as `keras.callbacks.SwapEMAWeights` does, which
    leaves rounding errors: a run that was looked at ends as one that was not.
    """
    if not uses_averages(network):
        yield
        return
    optimizer = network.optimizer
    variables = optimizer._trainable_variables
    latest = [np.array(variable) for variable in variables]
    for variable, average in zip(variables, optimizer._model_variables_moving_average):
        variable.assign(average)
    try:
        yield
    finally:
        for variable, value in zip(variables, latest):
            variable.assign(value)


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draws fresh weights from a seed; afterwards Python's own generator is as it was before."""
    if seed is None:
        yield
        return
    state = random.getstate()
    random.seed(seed)  # Keras takes the seeds of its initializers from there
    try:
        yield
    finally:
        random.setstate(state)


def strategy(count: int, jit_compile: bool | None = None) -> Any:
    """Splits a batch over `count` devices, in its `scope()`; None for a single one.

    TensorFlow's `MirroredStrategy` or, under JAX, `keras.distribution.DataParallel`. GPUs, or CPUs
    where there is no GPU. With fewer devices than asked for, the whole batch goes to one of them,
    which gives the same losses and gradients but takes longer, and a warning says so. On one of
    several machines, see `cluster.find`, it is one over the devices of all.

    Args:
        count: GPU_COUNT.
        jit_compile: JIT_COMPILE.

    Raises:
        ValueError: several machines, and a backend that trains on one alone; or several devices of
            TensorFlow, and JIT_COMPILE.
    """
    backend = keras.backend.backend()
    machines = cluster.find()
    if jit_compile and backend == "tensorflow" and (count > 1 or machines is not None):
        # XLA has no form of TensorFlow's exchange of gradients.
        received = f"GPU_COUNT = {count}"
        if machines is not None:
            received = f"{len(machines.workers)} machines by {machines.by}"
        raise ValueError(
            "JIT_COMPILE trains on one device under TensorFlow, under JAX on any number. Received:"
            f" {received}"
        )
    if machines is not None and backend not in SPLITTING:
        raise ValueError(
            f"{machines.by} describes {len(machines.workers)} machines that train together, which"
            f" TensorFlow and JAX do. Received: the backend {backend}; {cluster.VARIABLE}=none in"
            " the environment trains on each of them alone"
        )
    if machines is not None and backend == "jax":
        return cluster.mesh(machines, count)
    if machines is not None:
        return cluster.strategy(machines, count)
    if count == 1:
        return None
    if backend not in SPLITTING:
        logger.warning(
            "GPU_COUNT %d: with the backend %s the batch is not split over devices", count, backend
        )
        return None
    devices = _devices_of(backend)
    if len(devices) < count:
        logger.warning(
            "GPU_COUNT is %d and %s sees %d: the batch is not split over devices",
            count,
            SPLITTING[backend],
            len(devices),
        )
        return None
    if backend == "jax":
        return keras.distribution.DataParallel(devices=devices[:count], auto_shard_dataset=False)
    return _mirrored(tuple(devices[:count]))


# Backends that split a batch over devices, and their names.
SPLITTING = {"tensorflow": "TensorFlow", "jax": "JAX"}


def _devices_of(backend):
    """Names of a backend's devices."""
    if backend == "jax":
        return keras.distribution.list_devices()
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [device.name for device in devices]


@functools.cache
def _mirrored(devices):
    # One for each set of devices: two of them number their exchanges alike, and the second model
    # hangs or fails.
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(list(devices))


# ---- Batches -------------------------------------------------------------------------------------


class BatchStream:
    """The batches of a run in order, made by threads ahead of the step that needs them.

    Args:
        batches: `data.TrainingBatches`.
        first: number of the first step.
        workers: threads; 0 makes each batch when it is asked for.
    """

    def __init__(self, batches: data.TrainingBatches, first: int = 0, workers: int = 2):
        self.batches = batches
        self.next_step = first
        self.error: Exception | None = None
        self.cause: BaseException | None = None
        # {step: image ids} of the latest steps.
        self.ids: collections.OrderedDict[int, list] = collections.OrderedDict()
        self._pool = None
        if workers:
            self._pool = concurrent.futures.ThreadPoolExecutor(workers)
        self._ahead: collections.deque = collections.deque()
        # Inputs of the first images of the first step, for `TrainingPage`, which asks for them.
        self.first_images = 0
        self.first_inputs: list[np.ndarray] | None = None
        self._submitted = first
        self._depth = 2 * workers

    def generator(self) -> Iterator[tuple]:
        """The batches as a generator, the kind of iterator that `fit` takes."""
        while True:
            yield self.take()

    def take(self) -> tuple:
        """The next batch, `(inputs,)`.

        What a dataset raises is kept as `error`, and its cause: Keras wraps the one in one of its
        own and drops the other.
        """
        try:
            return self._take()
        except Exception as error:
            self.error = error
            self.cause = error.__cause__
            raise

    def _take(self):
        if self._pool is None:
            inputs, ids, _ = self.batches.batch(self.next_step)
        else:
            while len(self._ahead) < self._depth:
                self._ahead.append(self._pool.submit(self.batches.batch, self._submitted))
                self._submitted += 1
            inputs, ids, _ = self._ahead.popleft().result()
        if self.first_images:
            self.first_inputs = [array[: self.first_images].copy() for array in inputs]
            self.first_images = 0
        self.ids[self.next_step] = ids
        while len(self.ids) > 64:
            self.ids.popitem(last=False)
        self.next_step += 1
        return (tuple(_transferable(x) for x in inputs),)

    def dataset(self, shapes: Sequence[tuple]) -> Any:
        """The batches as a `tf.data.Dataset` that knows their size. TensorFlow only.

        Of a generator Keras leaves the size of a batch open, and a step that is traced for any has
        an eighth more operations. It also takes the height and width that the first two batches
        share for those of all.

        Args:
            shapes: those of the network's inputs, None where a side is open; it stays so where
                images have several sizes.
        """
        import tensorflow as tf

        first = self.take()
        specs = self._specs_of(first, shapes)

        def batches():
            return itertools.chain([first], self.generator())

        dataset = tf.data.Dataset.from_generator(batches, output_signature=(tuple(specs),))
        return dataset.prefetch(tf.data.AUTOTUNE)

    def specs(self, shapes: Sequence[tuple], parts: int = 1) -> list[Any]:
        """[tf.TensorSpec] of the inputs of a part of a batch; the batch that tells is not taken.

        Args:
            shapes: as of `dataset`.
            parts: into how many equal ones a batch is divided.
        """
        import tensorflow as tf

        inputs, _, _ = self.batches.batch(self.next_step)
        first = (tuple(_transferable(x) for x in inputs),)
        specs = []
        for spec in self._specs_of(first, shapes):
            specs.append(tf.TensorSpec((spec.shape[0] // parts, *spec.shape[1:]), spec.dtype))
        return specs

    def _specs_of(self, first, shapes):
        """[tf.TensorSpec] of the inputs of batches like this one."""
        import tensorflow as tf

        (arrays,) = first
        specs = []
        for array, shape in zip(arrays, shapes):
            sides = array.shape
            if self.batches.config.IMAGE_RESIZE_MODE not in ("square", "crop"):
                sides = (len(array), *shape[1:])
            specs.append(tf.TensorSpec(sides, array.dtype))
        return specs

    def close(self) -> None:
        """Stops the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def inputs_alone(batches: Any) -> Any:
    """Batches of (inputs, []), as the original's generators yield them, as Keras 3 takes them.

    Args:
        batches: a generator or a `keras.utils.PyDataset`; anything else is returned as it is.

    Returns:
        the same of (inputs,).
    """
    if isinstance(batches, keras.utils.PyDataset) and not isinstance(batches, _InputsAlone):
        return _InputsAlone(batches)
    if isinstance(batches, types.GeneratorType):
        return _each_without_outputs(batches)
    return batches


def _each_without_outputs(batches):
    # Of iterators Keras takes generators alone.
    for batch in batches:
        yield _without_outputs(batch)


class _InputsAlone(keras.utils.PyDataset):
    """The batches of another one, see `inputs_alone`."""

    def __init__(self, batches: keras.utils.PyDataset):
        super().__init__(batches.workers, batches.use_multiprocessing, batches.max_queue_size)
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return _without_outputs(self.batches[index])

    def on_epoch_begin(self) -> None:
        self.batches.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self.batches.on_epoch_end()


def _without_outputs(batch):
    """(inputs,) of a batch (inputs, []); another one as it is."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        return batch
    inputs, outputs = batch
    if not isinstance(inputs, (tuple, list)):
        return batch
    if _outputs_or_none(outputs) is not None:
        raise ValueError(
            "The losses are a part of the network, which takes batches (inputs, []). Received:"
            " outputs too, such as of data_generator(detection_targets=True), which are to be"
            " looked at"
        )
    return (tuple(_transferable(np.asarray(part)) for part in inputs),)


def _outputs_or_none(outputs):
    """None for no outputs, [] among them."""
    if isinstance(outputs, (tuple, list)) and not len(outputs):
        return None
    return outputs


def _transferable(x):
    """An array as a training step takes it.

    A bool tensor can't be split over devices: masks travel as uint8.
    """
    if x.dtype == bool:
        return x.view(np.uint8)
    if x.dtype == float:
        return x.astype("float32")
    return x


class DataGenerator(keras.utils.PyDataset):
    """The batches of one pass by index, `(inputs, outputs)` (the TF2 fork: DataGenerator).

    They are as `data_generator` yields them.

    Args: as `data.data_generator`; `workers` and the like go to `keras.utils.PyDataset`.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: Config,
        shuffle: bool = True,
        augmentation: Any = None,
        random_rois: int = 0,
        detection_targets: bool = False,
        *,
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.batches = data.TrainingBatches(
            dataset,
            config,
            shuffle=shuffle,
            augmentation=augmentation,
            seed=seed,
            random_rois=random_rois,
            detection_targets=detection_targets,
        )
        self.passes = 0

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, idx):
        return self.batches.pair(self.passes * len(self) + idx)

    def on_epoch_end(self) -> None:
        """The next pass has another order and other draws."""
        self.passes += 1


# ---- Files of a run ------------------------------------------------------------------------------


class CheckpointPath(str):
    """A path that also unpacks and indexes as (folder, file).

    `find_last` has returned both at different times.
    """

    def _pair(self):
        text = str.__str__(self)
        return os.path.dirname(text), text

    def __iter__(self):
        return iter(self._pair())

    def __getitem__(self, key):
        if isinstance(key, int):
            return self._pair()[key]
        return str.__getitem__(self, key)


def run_name(name: str | None) -> str:
    """A config's NAME as it stands in the names of folders and files."""
    return (name or "mask_rcnn").lower()


def checkpoint_path(log_dir: str, name: str | None) -> str:
    """Path of a run's checkpoints, with {epoch:04d} to be filled in."""
    return os.path.join(log_dir, f"mask_rcnn_{run_name(name)}_{{epoch:04d}}.h5")


def resume_path(log_dir: str, name: str | None) -> str:
    """Path of a run's resume file: weights, optimizer, epoch, step, seed."""
    return os.path.join(log_dir, f"mask_rcnn_{run_name(name)}_resume.h5")


# The end of a run's folder, after the NAME: its date and time.
RUN_TIME = r"\d{8}T\d{4}"


def new_log_dir(
    model_dir: str, name: str | None, start: datetime.datetime, make: bool = True
) -> str:
    """The folder NAME<date>T<time> of a new run; no other run has it.

    Where another run of this name has taken the minute, it is the next free one, which the
    patterns of matterport's scripts read as well.

    Args:
        start: when the run began.
        make: makes the folder, so that no other process takes it. False gives that of `start`.
    """
    while True:
        folder = os.path.join(model_dir, f"{run_name(name)}{start:%Y%m%dT%H%M}")
        if not make:
            return folder
        try:
            os.makedirs(folder)
        except FileExistsError:
            start += datetime.timedelta(minutes=1)
        else:
            return folder


def parse_checkpoint(path: str | os.PathLike) -> tuple[str, int] | None:
    """(folder, epoch) of a checkpoint or of a run's resume file, None for other files.

    Such a file lies in a folder name<date>T<time>; elsewhere it is a weight file like any other.
    """
    if isinstance(path, str):
        path = str.__str__(path)  # a `CheckpointPath` unpacks as two
    folder, name = os.path.split(os.path.abspath(os.fspath(path)))
    if not re.fullmatch(rf".+{RUN_TIME}", os.path.basename(folder)):
        return None
    match = re.fullmatch(r"mask_rcnn_.+_(\d{4,})\.h5", name)
    if match:
        return folder, int(match.group(1))
    if re.fullmatch(r"mask_rcnn_.+_resume\.h5", name):
        state = read_state(path)
        if state is not None:
            return folder, int(state["epoch"])
    return None


def read_state(path: str | os.PathLike) -> dict[str, Any] | None:
    """What a resume file says of its run, see `Run.save`; None where there is no such file."""
    try:
        with h5py.File(path, "r") as file:
            return json.loads(file.attrs["mrcnn_run"])
    except (OSError, KeyError):
        return None
    except ValueError as error:
        raise ValueError(f"{path} has no state of a run that can be read: {error}") from error


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
    """One clear error where a file of a run can't be written; the file before it is as it was."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{path} can't be written: {error}. The files that were written before are as they"
            " were: load find_last() to go on"
        ) from error


def _remove_parts(log_dir, name):
    """Removes the unfinished files of a run that was killed while it wrote."""
    pattern = re.compile(rf"\.mask_rcnn_{re.escape(run_name(name))}_.*\.part\.h5")
    for file in os.listdir(log_dir):
        if pattern.fullmatch(file):
            os.remove(os.path.join(log_dir, file))


def fingerprint(network: keras.Model) -> str:
    """A text that is another one for other weights."""
    digest = hashlib.blake2b(digest_size=16)
    for _, layer in sorted(weights.layers_of(network).items()):
        for variable in sorted(layer.weights, key=lambda variable: variable.path):
            digest.update(np.ascontiguousarray(variable).tobytes())
    return digest.hexdigest()


def _has_weights_of(network: keras.Model, path: str | os.PathLike) -> bool:
    """Whether the weights of a network are those of a file, bit for bit."""
    arrays, _ = weights.read_legacy(path)
    for name, layer in weights.layers_of(network).items():
        own = sorted(np.asarray(variable).tobytes() for variable in layer.weights)
        if own != sorted(array.tobytes() for _, array in arrays.get(name, [])):
            return False
    return True


def find_last(model_dir: str, name: str | None) -> CheckpointPath:
    """The newest checkpoint of the runs of this name; the resume file of a run that has none yet.

    Raises:
        FileNotFoundError: names the folder and what was looked for.
    """
    name = run_name(name)
    runs = []
    if os.path.isdir(model_dir):
        pattern = re.escape(name) + RUN_TIME
        runs = [entry for entry in os.listdir(model_dir) if re.fullmatch(pattern, entry)]
    for run in sorted(runs, reverse=True):
        newest = _newest_checkpoint(os.path.join(model_dir, run), name)
        if newest is not None:
            return CheckpointPath(newest)
    raise FileNotFoundError(
        f"No checkpoint mask_rcnn_{name}_*.h5 in a folder {name}<date>T<time> of {model_dir}"
    )


def _newest_checkpoint(folder, name):
    """Path of the checkpoint of the highest epoch, or of the resume file; None for neither."""
    pattern = re.compile(rf"mask_rcnn_{re.escape(name)}_(\d{{4,}})\.h5")
    checkpoints = []
    for file in os.listdir(folder):
        if match := pattern.fullmatch(file):
            checkpoints.append((int(match.group(1)), file))
    if checkpoints:
        _, file = max(checkpoints)
        return os.path.join(folder, file)
    resume = resume_path(folder, name)
    if os.path.exists(resume):
        return resume
    return None


# ---- Callbacks -----------------------------------------------------------------------------------


class StopOnBadLoss(keras.callbacks.Callback):
    """Raises BadLossError with the image ids of the batch when a loss is NaN or infinite."""

    def __init__(self, stream: BatchStream):
        super().__init__()
        self.stream = stream
        self.step = stream.next_step

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        bad = []
        for name, loss in (logs or {}).items():
            value = float(loss)
            if not math.isfinite(value):
                bad.append(f"{name} is {value}")
        if bad:
            raise BadLossError(
                f"{', '.join(bad)} at step"
                f" {self.step}, with the images {self.stream.ids.get(self.step)}; training stopped"
                " and this step was not saved. Look at these images, or lower the learning rate"
            )
        self.step += 1


class AverageInValidation(keras.callbacks.Callback):
    """Validation losses are those of the averaged weights, the ones that are saved."""

    def on_test_begin(self, logs: dict | None = None) -> None:
        self._weights = contextlib.ExitStack()
        self._weights.enter_context(averaged(self.model))

    def on_test_end(self, logs: dict | None = None) -> None:
        self._weights.close()


class Checkpoints(keras.callbacks.Callback):
    """Writes the original's checkpoint after each epoch and, beside it, what resuming needs."""

    def __init__(self, run: "Run"):
        super().__init__()
        self.run = run
        self.written = time.monotonic()
        self.cost = 0.0

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.run.step += 1
        if self.run.step >= self.run.config.STEPS_PER_EPOCH:
            return  # the epoch's end writes
        # A large model's file takes seconds: at most a fifth of the time goes into writing.
        if time.monotonic() - self.written > max(self.run.config.RESUME_SECONDS, 4 * self.cost):
            self._write_resume()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        owner = self.run.owner
        owner.epoch = epoch + 1
        self.run.step = 0
        if not self.run.writes():
            return
        path = owner.checkpoint_path.format(epoch=epoch + 1)
        with averaged(self.run.network), _writing(path):
            weights.save(self.run.network, path)
            self.run.checkpoint = fingerprint(self.run.network)
        self._write_resume()

    def _write_resume(self):
        start = time.monotonic()
        self.run.save()
        self.written = time.monotonic()
        self.cost = self.written - start


class TrainingPage(keras.callbacks.Callback):
    """Writes training.html after each epoch, see `report.write_training`, and history.json.

    history.json holds what the page shows of each epoch; a run that goes on goes on there. What
    fails is a warning: a page is no reason to end a training.

    Args:
        run: the `Run`.
        stream: its `BatchStream`, for the pictures of the first batch.
    """

    def __init__(self, run: "Run", stream: BatchStream):
        super().__init__()
        self.run = run
        self.stream = stream
        stream.first_images = report.BATCH_IMAGES
        self.step = stream.next_step + 1
        self.samples: list[report.Sample] = []
        self._start = time.monotonic()
        self._has_failed = False

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._start = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self.stream.first_inputs is None:
            return
        inputs = self.stream.first_inputs
        self.stream.first_inputs = None  # drawn or not: they take memory
        with self._warning_of("the pictures of the first batch"):
            names = list(self.run.train_dataset.class_names)
            self.samples = report.batch_samples(inputs, self.run.config, names)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        with self._warning_of("training.html"):
            history = self._history(epoch, logs or {})
            report.write_training(
                os.path.join(self.run.owner.log_dir, "training.html"),
                history,
                config=self.run.config,
                samples=self.samples,
                step=self.step,
                epochs=self.run.epochs,
                title=f"{self.run.config.NAME or 'mrcnn'}: training",
            )

    @contextlib.contextmanager
    def _warning_of(self, what):
        """Turns any error in the block into a warning, the first time."""
        try:
            yield
        except Exception as error:
            if not self._has_failed:
                logger.warning("%s can't be written: %s: %s", what, type(error).__name__, error)
            self._has_failed = True

    def _history(self, epoch, logs):
        """What is known of all epochs, this one among them; it is written to history.json."""
        path = os.path.join(self.run.owner.log_dir, "history.json")
        entry = {
            "epoch": epoch + 1,
            "seconds": time.monotonic() - self._start,
            "learning_rate": float(np.asarray(self.model.optimizer.learning_rate)),
        }
        for name, value in logs.items():
            if np.ndim(value) == 0:
                entry[name] = float(value)
        for name, value in entry.items():
            if not math.isfinite(value):
                entry[name] = None  # json has no NaN
        history = [row for row in _read_history(path) if row["epoch"] <= epoch]
        history.append(entry)
        media.write_json(path, history)
        return history


def _read_history(path):
    """The epochs in a history.json; none where there is no such file, or another one."""
    if not os.path.exists(path):
        return []
    try:
        rows = files.read_json(path)
    except ValueError as error:
        logger.warning("%s; the history of the run begins anew", error)
        return []
    if not isinstance(rows, list):
        return []
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("epoch"), int)]


class EvaluationCallback(keras.callbacks.Callback):
    """Evaluates every n epochs and after the last one, and logs COCO's AP.

    The figures are `val_bbox_mAP` and `val_mask_mAP`, and `val_keypoint_mAP` with keypoints.

        model.train(..., custom_callbacks=[
            training.EvaluationCallback(model, val_set, every=5),
            keras.callbacks.ModelCheckpoint(
                "best.weights.h5",
                "val_mask_mAP",
                mode="max",
                save_best_only=True,
                save_weights_only=True,
            ),
        ])

    `train` calls it before TensorBoard and the other callbacks of its list, which then find the
    figures in their `logs`. Epochs without an evaluation repeat the latest figures (without any,
    Keras's ModelCheckpoint would save them as the best); before the first evaluation there are
    none.

    Args:
        owner: the `MaskRCNN` that is trained.
        dataset: prepared `Dataset`.
        every: epochs from one evaluation to the next.
        limit: images at most, 0 for all.
        pictures: images whose predictions TensorBoard shows; None for 4, or none where it is not
            installed.
        settings: {setting: value} of the config that detects, such as {"DETECTION_MIN_CONFIDENCE":
            0.}. With IMAGE_RESIZE_MODE "crop" it detects on whole images, in mode "square" of the
            larger of IMAGE_MIN_DIM and IMAGE_MAX_DIM, rounded up to the strides.

    Raises (before the first epoch):
        ValueError: settings that can't detect; a dataset that can't be evaluated with them.

    Attributes:
        evaluation: the latest `evaluate.Evaluation`.
    """

    def __init__(
        self,
        owner: Any,
        dataset: Dataset,
        every: int = 1,
        limit: int = 0,
        pictures: int | None = None,
        settings: dict[str, Any] | None = None,
    ):
        super().__init__()
        if every < 1:
            raise ValueError(f"every is a whole number from 1. Received: {every!r}")
        installed = has_tensorboard()
        if pictures and not installed:
            raise ImportError(f"Pictures need TensorBoard: {TENSORBOARD_HINT}")
        if pictures is None:
            pictures = 0
            if installed:
                pictures = 4
        self.owner = owner
        self.dataset = dataset
        self.every = every
        self.limit = limit
        self.pictures = pictures
        self.settings = dict(settings or {})
        self.evaluation: evaluate.Evaluation | None = None
        self._inference: Any = None
        self._writer: Any = None
        self._figures: dict[str, float] = {}

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Finds before the first epoch what would end the evaluation after it."""
        config = self._detecting_config()
        config.validate()
        evaluate.check(self.dataset, config, self.dataset.image_ids[: self.limit or None])

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if (epoch + 1) % self.every == 0 or epoch + 1 >= self.params["epochs"]:
            self._evaluate(epoch)
        if logs is not None:
            logs.update(self._figures)

    def _evaluate(self, epoch):
        model = self._detector()
        image_ids = self.dataset.image_ids[: self.limit or None]
        self.evaluation = evaluate.evaluate(model, self.dataset, image_ids)
        self._figures = _logged_figures(self.evaluation)
        text = ", ".join(f"{name} {ap:.4f}" for name, ap in self._figures.items())
        logger.info("epoch %d: %s", epoch + 1, text)
        machines = cluster.of(self.owner.keras_model)
        if self.pictures and (machines is None or machines.is_chief):
            self._show(model, image_ids[: self.pictures], epoch)

    def _detector(self):
        """The inference model with the weights of now; built once."""
        if self._inference is None:
            config = self._detecting_config()
            self._inference = type(self.owner)("inference", config, self.owner.model_dir)
        trained = weights.layers_of(self.owner.keras_model)
        with averaged(self.owner.keras_model):
            for name, layer in weights.layers_of(self._inference.keras_model).items():
                for variable, value in zip(layer.weights, trained[name].weights):
                    variable.assign(value)
        return self._inference

    def _detecting_config(self):
        """The owner's config for one device, with `settings`."""
        config = copy.copy(self.owner.config)
        if config.IMAGE_RESIZE_MODE == "crop":
            # A random part can't be evaluated. IMAGE_MAX_DIM means nothing in that mode, so it may
            # be any number.
            config.IMAGE_RESIZE_MODE = "square"
            stride = max(config.BACKBONE_STRIDES)
            side = max(config.IMAGE_MIN_DIM, config.IMAGE_MAX_DIM or 0)
            config.IMAGE_MAX_DIM = -(-side // stride) * stride
        config.GPU_COUNT = 1
        for name, value in self.settings.items():
            if not hasattr(config, name):
                raise ValueError(f"settings has settings of the config. Received: {name!r}")
            setattr(config, name, value)
        return config

    def _show(self, model, image_ids, epoch):
        import tensorflow as tf

        if self._writer is None:
            folder = os.path.join(self.owner.log_dir, "validation")
            self._writer = tf.summary.create_file_writer(folder)
        with self._writer.as_default(step=epoch):
            for image_id in image_ids:
                try:
                    image = self.dataset.load_image(image_id)
                except (OSError, ValueError):
                    continue  # the evaluation has said so
                painted = media.paint(image, model.detect([image])[0], self.dataset.class_names)
                tf.summary.image(f"detections/{image_id}", painted[None])
        self._writer.flush()


def _logged_figures(evaluation):
    """{name in the logs: AP} of an evaluation."""
    names = {"bbox": "val_bbox_mAP", "segm": "val_mask_mAP"}
    logged = {}
    for kind, figures in evaluation.kinds():
        logged[names[kind]] = figures["AP"]
    if evaluation.keypoints:
        logged["val_keypoint_mAP"] = evaluation.keypoints["AP"]
    return logged


# ---- What `train` is called with ----------------------------------------------------------------


# What `train(layers=)` may be besides a regex.
LAYER_CHOICES = {"heads": r"(mrcnn_.*)|(rpn_.*)|(fpn_.*)", "all": ".*"}
for _first in (3, 4, 5):
    _stages = "|".join(f"(res{stage}.*)|(bn{stage}.*)" for stage in range(_first, 6))
    LAYER_CHOICES[f"{_first}+"] = f"{_stages}|{LAYER_CHOICES['heads']}"


def layer_regex(layers: str, network: keras.Model) -> str:
    """The regex of `train(layers=)`.

    Args:
        layers: a name of LAYER_CHOICES, in any case, or a regex of names of the network's layers.

    Raises:
        ValueError: something else; the message says what is nearest.
    """
    allowed = f"layers is {', '.join(map(repr, LAYER_CHOICES))} or a regex of layer names"
    if not isinstance(layers, str):
        raise ValueError(f"{allowed}. Received: {layers!r}")
    names = list(weights.layers_of(network))
    if layers in LAYER_CHOICES:
        return _regex_of_choice(layers, names)
    try:
        matched = [name for name in names if re.fullmatch(layers, name)]
    except re.error as error:
        raise ValueError(f"{allowed}. Received: {layers!r}, no regex: {error}") from error
    if matched:
        return layers
    choice = layers.strip().lower()
    if choice in LAYER_CHOICES:
        return _regex_of_choice(choice, names)
    hint = ""
    if nearest := difflib.get_close_matches(choice, [*LAYER_CHOICES, *names], 3, 0.5):
        hint = f"; near it are {', '.join(map(repr, nearest))}"
    raise ValueError(f"{allowed}. Received: {layers!r}, which matches no layer with weights{hint}")


def _regex_of_choice(choice, names):
    """The regex of a name of LAYER_CHOICES; a warning where it takes no stage of the backbone."""
    regex = LAYER_CHOICES[choice]
    if choice.endswith("+"):
        heads = LAYER_CHOICES["heads"]
        stages = [name for name in names if re.fullmatch(regex, name)]
        if all(re.fullmatch(heads, name) for name in stages):
            logger.warning(
                "layers %r trains the heads alone: no layer of this backbone is named res%s... or"
                " bn%s...; a regex of its names takes more",
                choice,
                choice[0],
                choice[0],
            )
    return regex


def check_numbers(learning_rate: Any, epochs: Any) -> tuple[float, int]:
    """The learning rate and the last epoch of `train` as a float and an int.

    Raises:
        ValueError: one that is no such number, or the two are swapped.
    """
    problems = []
    if not _is_number(learning_rate) or not 0 <= learning_rate < math.inf:
        problems.append(f"learning_rate is a number from 0. Received: {learning_rate!r}")
    if not _is_number(epochs) or epochs != int(epochs) or epochs < 1:
        problems.append(
            f"epochs is the number of the last epoch, a whole number from 1. Received: {epochs!r}"
        )
    if problems:
        hint = ""
        if _is_number(epochs) and 0 < epochs < 1:
            hint = ", which looks like a learning rate"
        raise ValueError(
            "; ".join(problems)
            + f"{hint}. The arguments are train(train_dataset, val_dataset, learning_rate, epochs,"
            " layers)"
        )
    return float(learning_rate), int(epochs)


def check_callbacks(callbacks: Any) -> list:
    """The callbacks of `train(custom_callbacks=)` as a list, of one callback that one.

    Raises:
        ValueError: what is no callback, such as its class.
    """
    if callbacks is None:
        return []
    if hasattr(callbacks, "set_model"):
        callbacks = [callbacks]
    expected = "custom_callbacks is a list of Keras callbacks"
    if isinstance(callbacks, str) or not isinstance(callbacks, Iterable):
        raise ValueError(f"{expected}. Received: {files.short(callbacks)}")
    callbacks = list(callbacks)
    for callback in callbacks:
        if isinstance(callback, type):
            raise ValueError(
                f"{expected}. Received: the class {callback.__name__}; {callback.__name__}() makes"
                " a callback"
            )
        if not hasattr(callback, "set_model"):
            raise ValueError(f"{expected}. Received: {files.short(callback)} in the list")
    return callbacks


def _is_number(value):
    """Whether a value is one finite number, of Python or of numpy."""
    if isinstance(value, (bool, np.bool_, str)) or np.ndim(value) != 0:
        return False
    try:
        return math.isfinite(value)
    except (TypeError, ValueError):
        return False


# Callbacks that write, and do nothing else.
WRITERS = (
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.CSVLogger,
    keras.callbacks.TensorBoard,
    keras.callbacks.BackupAndRestore,
)


# ---- A run ---------------------------------------------------------------------------------------


def settings_to_write(config: Config) -> dict[str, Any]:
    """{setting: value} of those that are no defaults, as JSON can hold them.

    Functions, such as a BACKBONE of one's own, can't be written and are left out.
    """
    changed = changed_settings(config)
    return {name: value for name, value in changed.items() if not callable(value)}


def describe_run(folder: str | os.PathLike, config: Config, class_names: Sequence[str]) -> None:
    """Writes settings.json and classes.json beside a run's checkpoints, for `mrcnn detect`.

    Args:
        folder: `MaskRCNN.log_dir`.
        config: the run's, see `settings_to_write`.
        class_names: background first.
    """
    folder = pathlib.Path(folder)
    contents: dict[str | os.PathLike, Any] = {
        folder / "settings.json": settings_to_write(config),
        folder / "classes.json": [str(name) for name in class_names],
    }
    media.write_jsons(contents)


class Run:
    """One call of `MaskRCNN.train`: takes up an interrupted one of the same plan where it stopped.

    Args: as `MaskRCNN.train`, with `owner` the MaskRCNN and `layer_regex` a regex.
    """

    def __init__(
        self,
        owner: Any,
        train_dataset: Dataset,
        val_dataset: Dataset | None,
        learning_rate: float,
        epochs: int,
        layer_regex: str,
        augmentation: Any,
        custom_callbacks: Sequence[keras.callbacks.Callback] | None,
        no_augmentation_sources: str | Sequence[str] | None,
    ):
        self.owner = owner
        self.config = owner.config
        self.network = owner.keras_model
        self.cluster = cluster.of(self.network)
        self.train_dataset = train_dataset
        self.val_dataset = val_dataset
        self.augmentation = augmentation
        self.callbacks = list(custom_callbacks or [])
        self.no_augmentation_sources = no_augmentation_sources
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.layer_regex = layer_regex
        self.step = 0
        self.first_epoch = owner.epoch
        self.checkpoint = ""  # fingerprint of the weights of the last checkpoint
        self.seed = self.config.SEED
        if self.seed is None:
            self.seed = int(np.random.default_rng().integers(2**31))
        if self.cluster is not None:
            self._take_from_chief()
        self.resume_path = resume_path(owner.log_dir, self.config.NAME)

    def _take_from_chief(self):
        """The folder and the seed of the chief, whose clock and whose draw may be others."""
        message = ""
        if self.cluster.is_chief:  # reading it makes the folder of a new run
            message = json.dumps([self.owner.log_dir, self.owner.checkpoint_path, self.seed])
        received = json.loads(cluster.from_chief(self.network, message))
        self.owner.log_dir, self.owner.checkpoint_path, self.seed = received

    def _share(self):
        """This machine's share of a batch, see `data.TrainingBatches`."""
        if self.cluster is None:
            return 0, 1
        return self.cluster.share

    def writes(self) -> bool:
        """Whether this process writes files: not where another machine's does."""
        return self.cluster is None or self.cluster.is_chief

    def plan(self) -> dict[str, Any]:
        """What must be equal for a run to go on, as JSON has it."""
        plan = {
            "epochs": self.epochs,
            "layers": self.layer_regex,
            "learning_rate": float(self.learning_rate),
            "steps_per_epoch": self.config.STEPS_PER_EPOCH,
            "batch_size": self.config.BATCH_SIZE * self._share()[1],
            "optimizer": getattr(self.config.OPTIMIZER, "__name__", self.config.OPTIMIZER),
        }
        if self.config.EMA_MOMENTUM:
            plan["ema_momentum"] = self.config.EMA_MOMENTUM
        return plan

    def save(self) -> None:
        """Writes the resume file: weights, optimizer, draws, epoch, step, seed."""
        if not self.writes():
            return
        if keras.backend.backend() == "jax":
            # Within an epoch the variables are empty: their values went into the compiled step.
            self.network.jax_state_sync()
        state = {
            "epoch": self.owner.epoch,
            "step": self.step,
            "seed": self.seed,
            "first_epoch": self.first_epoch,
            "plan": self.plan(),
            "checkpoint": self.checkpoint,
            "weights": fingerprint(self.network),
        }
        with _writing(self.resume_path), weights.writing(self.resume_path) as file:
            weights.write_legacy(self.network, file)
            file.attrs["mrcnn_run"] = json.dumps(state)
            for name, variables in self._variables().items():
                group = file.create_group(name)
                for i, variable in enumerate(variables):
                    group[f"{i:05d}"] = np.asarray(variable)

    def _variables(self):
        """{group of the resume file: variables} that are no weights."""
        # What is left beside the weights are the states of the layers' random generators.
        of_layers = {id(variable) for variable in self.network.weights}
        variables = self.network.variables
        draws = [variable for variable in variables if id(variable) not in of_layers]
        return {"mrcnn_optimizer": self.network.optimizer.variables, "mrcnn_draws": draws}

    def fit(self) -> keras.callbacks.History | None:
        """Trains to the end. Returns keras.callbacks.History of all epochs of this call."""
        os.makedirs(self.owner.log_dir, exist_ok=True)
        if self.writes():
            _remove_parts(self.owner.log_dir, self.config.NAME)
        state = self._state_of_these_weights()
        goes_on = state is not None and not self._callbacks_changed_weights()
        goes_on = goes_on and self._is_of_this_plan(state)
        self.checkpoint = fingerprint(self.network)
        if state and goes_on:
            self._go_on_from(state)
        self._compile()
        if goes_on:
            weights.load(self.network, self.resume_path)
            self._restore("mrcnn_optimizer")
        if state:
            self._restore("mrcnn_draws")
        if self.cluster is not None:
            begins = [self.owner.epoch, self.step, self.seed, self.plan(), bool(goes_on)]
            cluster.check_agreement(self.network, "What training goes on from", begins)
        if self.writes():
            describe_run(self.owner.log_dir, self.config, self.train_dataset.class_names)
            self._say_what_begins()
        has_ended = False
        try:
            history = self._fit_stages()
            has_ended = True
            return history
        finally:
            # What `fit` leaves is this run's too: a next call goes on from its resume file. Under
            # JAX the weights of an interrupted epoch are gone.
            if keras.backend.backend() != "jax" or has_ended:
                self._note_weights(has_ended)

    def _note_weights(self, has_ended):
        """Notes the weights that `fit` left, and whether a callback has put them there."""
        left = fingerprint(self.network)
        self.owner.weights_of_run = left
        self.owner.weights_of_callbacks = ""
        state = read_state(self.resume_path)
        if has_ended and state and left not in (state.get("checkpoint"), state.get("weights")):
            self.owner.weights_of_callbacks = left

    def _callbacks_changed_weights(self):
        """Whether the last call's callbacks have put other weights in the place of its last ones.

        So does EarlyStopping(restore_best_weights=True); they are not overwritten.
        """
        changed = getattr(self.owner, "weights_of_callbacks", "")
        if not changed or changed != fingerprint(self.network):
            return False
        logger.info(
            "A callback has changed the weights that epoch %d ended with: training goes on from"
            " what it left, with a new optimizer",
            self.owner.epoch,
        )
        return True

    def _fit_stages(self):
        history = None
        for last, steps in self._stages():
            if last <= self.owner.epoch:
                continue
            if history is not None and self.config.EMA_MOMENTUM:
                # `fit` ends with the averages in place of the weights; the run goes on from the
                # latest ones.
                weights.load(self.network, self.resume_path)
            history = _join(history, self._fit_stage(last, steps))
        return history

    def _state_of_these_weights(self):
        """What the resume file says, if this model has the weights of its run and epoch.

        They are those of the last checkpoint, those of the resume file, or what `train` left in
        this process. Others were loaded on purpose, and are not overwritten.
        """
        state = read_state(self.resume_path)
        if state is None or self._ended_before_it_was_noted(state):
            return state
        if state["epoch"] != self.owner.epoch:
            return None
        known = {state.get("checkpoint"), state.get("weights"), self.owner.weights_of_run}
        # Older files don't say what weights their run had.
        if "weights" not in state or fingerprint(self.network) in known:
            return state
        logger.warning(
            "The run in %s, which stopped at epoch %d, step %d, is not taken up: the weights of"
            " this model are not its own, others were loaded. Training goes on from those, with a"
            " new optimizer. To take up the run, load find_last() and nothing after it",
            self.owner.log_dir,
            state["epoch"] + 1,
            state["step"],
        )
        return None

    def _ended_before_it_was_noted(self, state):
        """Whether the run was killed between an epoch's checkpoint and its resume file.

        The weights are the checkpoint's then, and the resume file, with the optimizer, is that of a
        step before it: from there the end of the epoch is done again.
        """
        if state["epoch"] + 1 != self.owner.epoch:
            return False
        path = self.owner.checkpoint_path.format(epoch=self.owner.epoch)
        try:
            if os.path.getmtime(path) < os.path.getmtime(self.resume_path):
                return False
        except OSError:
            return False
        return _has_weights_of(self.network, path)

    def _is_of_this_plan(self, state):
        """Whether the run of this state goes on, which it does with other `epochs` too."""
        plan = self.plan()
        others = []
        for name in sorted({*plan, *state["plan"]} - {"epochs"}):
            before = state["plan"].get(name)
            if before != plan.get(name):
                others.append(f"{name} {before} is now {plan.get(name)}")
        if others and state["step"]:
            logger.warning(
                "The run in %s, which stopped in epoch %d at step %d, is not taken up there: %s."
                " Epoch %d begins anew, with a new optimizer",
                self.owner.log_dir,
                state["epoch"] + 1,
                state["step"],
                ", ".join(others),
                state["epoch"] + 1,
            )
        return not others

    def _go_on_from(self, state):
        """Goes on at the step at which the run of this state stopped."""
        self.owner.epoch = state["epoch"]
        self.first_epoch = state["first_epoch"]
        self.seed = state["seed"]
        self.step = state["step"]
        self.checkpoint = state.get("checkpoint", "")
        finished = state["epoch"] >= state["plan"]["epochs"]
        if finished:
            logger.info(
                "Going on after epoch %d with the optimizer as it was", state["plan"]["epochs"]
            )
            return
        logger.warning(
            "Taking up the run in %s at epoch %d, step %d",
            self.owner.log_dir,
            self.owner.epoch + 1,
            self.step,
        )

    def _compile(self):
        self.owner.set_trainable(self.layer_regex)
        if not self.network.trainable_variables:
            raise ValueError(
                f"layers {self.layer_regex!r} matches no layer with a weight that can train"
            )
        total_steps = (self.epochs - self.first_epoch) * self.config.STEPS_PER_EPOCH
        schedule = make_schedule(self.config, self.learning_rate, total_steps)
        self.owner.compile(schedule, self.config.LEARNING_MOMENTUM)

    def _restore(self, group):
        """Takes the values of a group of `_variables` from the resume file, if they fit."""
        variables = self._variables()[group]
        with h5py.File(self.resume_path, "r") as file:
            arrays = [array[()] for _, array in sorted(file.get(group, {}).items())]
        if [array.shape for array in arrays] != [tuple(v.shape) for v in variables]:
            if arrays:
                logger.warning(
                    "%s of %s is of other variables than this run's and begins anew",
                    group,
                    self.resume_path,
                )
            return
        for variable, array in zip(variables, arrays):
            variable.assign(array)

    def _say_what_begins(self):
        """One line before the long silence in which TensorFlow traces a step."""
        count = sum(math.prod(variable.shape) for variable in self.network.trainable_variables)
        print(
            f"Training {count:,} weights from epoch {self.owner.epoch + 1} to {self.epochs},"
            f" learning rate {self.learning_rate:g}, checkpoints in {self.owner.log_dir}",
            flush=True,
        )
        if self.network.train_function is None:
            print("Building the training step, which can take half a minute ...", flush=True)

    def _stages(self):
        """(last epoch, steps of an epoch) of each call of `fit` that the run takes.

        An epoch that was begun is finished first; the rest follows in one call.
        """
        stages = []
        if self.step >= self.config.STEPS_PER_EPOCH:
            # A resume file of 0.4.0, written after the last step of an epoch.
            Checkpoints(self).on_epoch_end(self.owner.epoch)
        if self.step:
            stages.append((self.owner.epoch + 1, self.config.STEPS_PER_EPOCH - self.step))
        stages.append((self.epochs, self.config.STEPS_PER_EPOCH))
        return stages

    def _fit_stage(self, last, steps):
        """Trains to the end of epoch `last` in epochs of so many steps."""
        stream = self._training_stream()
        streams = [stream]
        validation = {}
        if self.val_dataset is not None and self.config.VALIDATION_STEPS:
            val_batches = data.TrainingBatches(
                self.val_dataset, self.config, seed=self.seed, share=self._share()
            )
            val_stream = BatchStream(val_batches, 0, self.config.WORKERS)
            streams.append(val_stream)
            validation["validation_data"] = val_stream.generator()
            validation["validation_steps"] = self.config.VALIDATION_STEPS
        callbacks = self._stage_callbacks(stream)
        try:
            if cluster.several_devices(self.network):
                return self._fit_on_devices(stream, last, steps, callbacks, validation)
            options = {}
            if not self.writes():
                options["verbose"] = 0
            lost = cluster.naming_the_lost(self.network)
            with lost, self._distribution(), _without_retracing_warnings():
                return self.network.fit(
                    self._for_fit(stream),
                    initial_epoch=self.owner.epoch,
                    epochs=last,
                    steps_per_epoch=steps,
                    callbacks=callbacks,
                    shuffle=False,
                    **validation,
                    **options,
                )
        except Exception:
            for failed in streams:
                if failed.error is not None:
                    raise failed.error from failed.cause
            raise
        finally:
            for used in streams:
                used.close()

    def _fit_on_devices(self, stream, last, steps, callbacks, validation):
        """`fit` on several devices, of this machine or of several."""
        return cluster.fit(
            self.network,
            stream.generator(),
            stream.specs(
                [tuple(tensor.shape) for tensor in self.network.inputs],
                cluster.devices_here(self.network),
            ),
            self.owner.epoch,
            last,
            steps,
            callbacks,
            **validation,
        )

    def _distribution(self):
        """What `fit` runs in: Keras splits JAX's batches there as it has placed the weights."""
        if keras.backend.backend() == "jax":
            return self.owner.devices()
        return contextlib.nullcontext()

    def _for_fit(self, stream):
        """A stream as `fit` takes it."""
        # Other backends have no `tf.data`, and take what Python yields.
        if keras.backend.backend() != "tensorflow":
            return stream.generator()
        from keras.src.trainers.data_adapters.tf_dataset_adapter import TFDatasetAdapter

        dataset = stream.dataset([tuple(tensor.shape) for tensor in self.network.inputs])
        # In Keras's own wrapper: programs that watch `fit` (MLflow's autolog) read a bare dataset
        # to its end for a checksum, and this one has none.
        return TFDatasetAdapter(dataset)

    def _training_stream(self):
        """The batches from the next step on."""
        batches = data.TrainingBatches(
            self.train_dataset,
            self.config,
            augmentation=self.augmentation,
            seed=self.seed,
            no_augmentation_sources=self.no_augmentation_sources,
            jitter=True,
            needs_objects=True,
            share=self._share(),
        )
        first = self.owner.epoch * self.config.STEPS_PER_EPOCH + self.step
        return BatchStream(batches, first, self.config.WORKERS)

    def _stage_callbacks(self, stream):
        """Those of the run and of the user, in the order in which they are called.

        Evaluations come first, so that TensorBoard and every other callback find their figures.
        Where another machine writes, Keras's callbacks that do nothing else are left out.
        """
        evaluations = []
        others = []
        for callback in self.callbacks:
            if isinstance(callback, EvaluationCallback):
                evaluations.append(callback)
            elif self.writes() or not isinstance(callback, WRITERS):
                others.append(callback)
        callbacks = [StopOnBadLoss(stream), Checkpoints(self)]
        if uses_averages(self.network):
            callbacks.append(AverageInValidation())
        callbacks.extend(evaluations)
        if not self.writes():
            pass
        elif has_tensorboard():
            callbacks.append(keras.callbacks.TensorBoard(self.owner.log_dir))
        else:
            logger.info("No curves are written for TensorBoard: %s", TENSORBOARD_HINT)
        callbacks.extend(others)
        if self.writes():
            callbacks.append(TrainingPage(self, stream))
        return callbacks


@contextlib.contextmanager
def _without_retracing_warnings() -> Iterator[None]:
    """Keeps TensorFlow from warning of what stages that train other layers have to trace.

    It counts the traces of all stages together, as if they were of one function.
    """

    def is_another(record):
        return "triggered tf.function retracing" not in record.getMessage()

    tensorflow_logger = logging.getLogger("tensorflow")
    tensorflow_logger.addFilter(is_another)
    try:
        yield
    finally:
        tensorflow_logger.removeFilter(is_another)


def nothing_left(network: keras.Model) -> keras.callbacks.History:
    """The history of a call of `train` without an epoch."""
    history = keras.callbacks.History()
    history.set_model(network)
    history.on_train_begin()
    return history


def _join(history, part):
    """The history of two calls of `fit`, one after the other."""
    if history is None:
        return part
    history.epoch += part.epoch
    for name, values in part.history.items():
        history.history.setdefault(name, []).extend(values)
    return history
