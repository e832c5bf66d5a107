"""Training: the model with its losses, optimizers, schedules, batches, checkpoints, resuming."""

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
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    visualize,
    weights,
)
from mrcnn.config import Config, changed_settings
from mrcnn.rewrite import register
from mrcnn.utils import Dataset

logger = logging.getLogger(__name__)

TENSORBOARD_HINT = "it, or TensorFlow, is not installed (pip install tensorboard tensorflow)"


def has_tensorboard() -> bool:
    """Whether Keras's TensorBoard callback can be used; it needs TensorFlow on every backend."""
    return all(importlib.util.find_spec(name) for name in ("tensorboard", "tensorflow"))


class BadLossError(ValueError):
    """A loss became NaN or infinite; the message names the images of the batch."""


# ---- Models -------------------------------------------------------------------------------------


@register
class Network(keras.Model):
    """A Keras model whose `.h5` files have the legacy layout that scripts of Keras 2 expect.

    Args:
        sub_models: {name: model} that share this model's layers and have other inputs or outputs,
            such as "boxes", "masks" and "keypoints" of an inference model.
    """

    is_for_inference = True

    def __init__(self, *args: Any, sub_models: Any = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # Names of the layers whose weights came from a file; Keras would wrap a plain set.
        self._loaded_layers = rewrite.Untracked(set())
        # Tracked, they would add this model's layers once more.
        self._sub_models = rewrite.Untracked(dict(sub_models or {}))

    @property
    def sub_models(self) -> dict[str, keras.Model]:
        """{name: model} that share this model's layers."""
        return self._sub_models.value

    @kernels.outside_graphs()
    def save_weights(
        self, filepath: str | os.PathLike, overwrite: bool = True, **kwargs: Any
    ) -> None:
        """Writes the weights: the legacy layout to `.h5`, Keras's to `.weights.h5`.

        Raises:
            FileExistsError: the file exists, and overwrite is False.
        """
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
        """Loads a weight file of any kind, see `weights.load`; returns a `weights.Coverage`."""
        coverage = weights.load(self, filepath, by_name, exclude, skip_mismatch)
        self._loaded_layers.value.update(name.split("/")[0] for name in coverage.loaded)
        if self.is_for_inference:
            self._warn_of_random_layers(filepath)
        return coverage

    def _warn_of_random_layers(self, filepath):
        """Warns of layers after the backbone whose weights were not loaded from any file."""
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
        """Saves the whole model as `.keras`, atomically.

        Keras can't write this graph to an `.h5`: such a file gets the weights alone, in the legacy
        layout, with a warning.
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
    """The training graph; its loss is the weighted sum of the graph's loss outputs plus L2.

    Args:
        args: inputs and outputs, see `keras.Model`; keyword arguments are allowed.
        loss_names: names of the losses, which are the last outputs of the graph in this order.
        loss_weights: {name of a loss: weight}; 1 for losses that are missing.
        weight_decay: L2 factor of every trainable weight but those of normalisation layers.
        decay_kind: see WEIGHT_DECAY_KIND.
        decay_biases: see WEIGHT_DECAY_ON_BIASES.
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
        self.train_function: Callable | None
        self.test_function: Callable | None
        # The devices under JAX, see `strategy`; under TensorFlow Keras keeps them.
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
        """Folds frozen batch norm into the convolutions, which saves memory.

        The outputs of these convolutions then need not be kept for the backward pass.
        """
        if self._folded is None:
            plain = keras.Model(self.inputs, self.outputs)
            folded = rewrite.fold_batch_norm(plain, training=True)
            self._folded = rewrite.Untracked(folded)  # it has this model's own weights
            losses = keras.Model(folded.inputs, folded.outputs[-len(self.loss_names) :])
            self._loss_graph = rewrite.Untracked(losses)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        self._compiled_for = ""  # `take_optimizer` sets it after compiling
        super().compile(*args, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles by the config in a `.keras` file; needed since `compile` is overridden."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def take_optimizer(
        self, optimizer: Any, keep: bool = True, jit_compile: bool | None = None
    ) -> None:
        """Compiles the model with a new optimizer, or resets the present one if it is equal.

        Tracing and compiling a step takes TensorFlow many seconds. Where the same weights are
        trained with the same settings as before, the traced step is kept: the present optimizer is
        reset, and takes the learning rate, a variable of the step, from the new one.

        Args:
            optimizer: not built yet.
            keep: False always compiles.
            jit_compile: whether XLA compiles the steps; None for JAX alone.
        """
        if jit_compile is None:
            jit_compile = kernels.compiles(None)
        key = self._trace_key(optimizer, jit_compile)
        if keep and key == self._compiled_for:
            _reset(self.optimizer, optimizer)
            return
        optimizer.build(self.trainable_variables)
        self.compile(optimizer=optimizer, jit_compile=jit_compile)
        # Under mixed_float16 Keras wraps the optimizer in one with a state of its own.
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        # `_reset` sets the state to zero, which must be how it was initialised.
        if keep and _state_is_zero(self.optimizer):
            self._compiled_for = key

    def _trace_key(self, optimizer, jit_compile):
        """All that a traced step depends on, as text: trained weights, the optimizer's settings."""
        settings = optimizer.get_config()
        settings.pop("name", None)  # Keras numbers the optimizers
        if not isinstance(settings.get("learning_rate"), dict):  # a number, not a schedule
            settings.pop("learning_rate", None)
        trained = [id(variable) for variable in self.trainable_variables]
        losses = [self.loss_factors, self.weight_decay, self.decay_kind, self.names_without_decay]
        return repr([trained, type(optimizer).__name__, settings, losses, jit_compile])

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if self._folded is None or self._loss_graph is None:
            return super().call(inputs, training, mask)
        if self._wants_losses_alone:
            # A model with one output returns a tensor, not a list.
            return keras.tree.flatten(self._loss_graph.value(inputs, training=training))
        return self._folded.value(inputs, training=training)

    @contextlib.contextmanager
    def _losses_alone(self):
        """Within it the model returns its losses alone.

        A step needs nothing else, and the operations of the other outputs are not traced.
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
        """One training step, see `keras.Model`.

        On several TensorFlow devices gradients are averaged over the devices before clipping.
        """
        is_tensorflow = keras.backend.backend() == "tensorflow"
        if is_tensorflow and self.distribute_strategy.num_replicas_in_sync > 1:
            return self._train_step_of_a_replica(*args[0])
        with self._losses_alone():
            return super().train_step(*args)

    def test_step(self, *args: Any) -> dict:
        """The losses of a batch of validation data."""
        with self._losses_alone():
            several = keras.backend.backend() == "tensorflow" and _is_distributed()
            if not several:
                return super().test_step(*args)
            # Keras would multiply the loss by the number of devices.
            inputs = args[0][0]
            loss = self.compute_loss(x=inputs, y_pred=self(inputs, training=False))
            self.metrics[0].update_state(loss)
            return self.get_metrics_result()

    def make_train_function(self, force: bool = False) -> Callable:
        """Keras's, see `_step_function`."""
        if not self._runs_steps_alone():
            return super().make_train_function(force)
        if self.train_function is None or force:
            self.train_function = _step_function(self.train_step, self.distribute_strategy)
        return self.train_function

    def make_test_function(self, force: bool = False) -> Callable:
        """Keras's, see `_step_function`."""
        if not self._runs_steps_alone():
            return super().make_test_function(force)
        if self.test_function is None or force:
            self.test_function = _step_function(self.test_step, self.distribute_strategy)
        return self.test_function

    def _runs_steps_alone(self):
        """Whether a call of Keras's function of a step runs one step, on one TensorFlow device."""
        if keras.backend.backend() != "tensorflow" or self.run_eagerly or self.jit_compile:
            return False
        return self.steps_per_execution == 1 and self.distribute_strategy.num_replicas_in_sync == 1

    def _train_step_of_a_replica(self, inputs):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=inputs, y_pred=self(inputs, training=True))
            scaled_loss = self.optimizer.scale_loss(loss)
        self.metrics[0].update_state(loss)
        gradients = []
        trained = []
        for gradient, weight in zip(
            tape.gradient(scaled_loss, self.trainable_weights), self.trainable_weights
        ):
            if gradient is not None:
                gradients.append(gradient)
                trained.append(weight)
        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce(tf.distribute.ReduceOp.MEAN, gradients)
        optimizer = _updating(self.optimizer)
        if not isinstance(optimizer, FusedUpdates):
            # Keras's own adds up what it gets from each device before it clips.
            if optimizer.global_clipnorm:
                limit = self.optimizer.scale_loss(optimizer.global_clipnorm)
                gradients, _ = tf.clip_by_global_norm(gradients, limit)
            count = self.distribute_strategy.num_replicas_in_sync
            gradients = [gradient / count for gradient in gradients]
        self.optimizer.apply_gradients(zip(gradients, trained))
        self._share_statistics(context)
        return self.get_metrics_result()

    def _share_statistics(self, context):
        """Averages the moving statistics of batch norm over all devices.

        Each device has updated its own by its part of the batch. Otherwise a checkpoint would hold
        those of the first device alone, and two machines would validate with different weights.
        """
        import tensorflow as tf

        statistics = []
        for layer in self._flatten_layers():
            is_norm = isinstance(layer, keras.layers.BatchNormalization)
            if is_norm and layer.trainable and getattr(layer, "train_bn", None) is not False:
                statistics += [layer.moving_mean, layer.moving_variance]
        if not statistics:
            return
        # A single collective operation for all variables.
        means = context.all_reduce(
            tf.distribute.ReduceOp.MEAN, [tf.identity(v.value) for v in statistics]
        )
        for variable, mean in zip(statistics, means):
            variable.assign(mean)

    def regularization(self) -> Any:
        """The L2 term of the loss, a float32 scalar."""
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
        # One product of vectors: a product for each weight would be five operations, counting its
        # gradient.
        return ops.sum(ops.stack(halves) * ops.convert_to_tensor(factors, "float32"))


# ---- Optimizer -----------------------------------------------------------------------------------


@register
class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then a constant rate, step decay, or cosine decay to zero.

    Args:
        peak: learning rate after the warm-up.
        warmup_steps: length of the warm-up, which begins at .001 of the peak.
        total_steps: step at which the cosine reaches zero; None for no cosine.
        drops: steps from each of which on the rate is multiplied by `factor`.
        factor: see `drops`.
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
            progress = ops.clip((step - self.warmup_steps) / steps, 0.0, 1.0)
            rate = 0.5 * (1.0 + ops.cos(math.pi * progress))
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
    """The learning rate of a run of `total_steps` steps.

    Returns:
        `learning_rate`, or a `WarmupSchedule` where the config sets a schedule or a warm-up.
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


def _step_function(step, strategy):
    """The compiled step(batch) on the next batch of an iterator, in a single graph. TensorFlow.

    Keras's own has a graph in a graph, for several steps in a call and for several devices: with
    two graphs to make and to prepare the first step begins a second later. The batch is read
    outside: where there is none, a graph would count a step before it failed.
    """
    import tensorflow as tf

    def none_for_optional(value):
        if isinstance(value, tf.experimental.Optional):  # Keras's adapters wrap what a batch lacks
            return None
        return value

    @tf.autograph.experimental.do_not_convert
    def step_on(batch):
        return strategy.run(step, args=(keras.tree.map_structure(none_for_optional, batch),))

    compiled: dict[str, Callable] = {}

    def function(iterator):
        signature = None
        if isinstance(iterator, tf.data.Iterator):  # others: a generator of `train_on_batch`
            signature = [iterator.element_spec]
        key = repr(signature)
        if key not in compiled:
            compiled[key] = tf.function(step_on, input_signature=signature, reduce_retracing=True)
        return compiled[key](next(iterator))

    return function


def _is_distributed():
    """Whether this code runs in the scope of a `tf.distribute` strategy."""
    import tensorflow as tf

    return tf.distribute.has_strategy()


class FusedUpdates(keras.optimizers.Optimizer):
    """Mixin for a Keras optimizer: updates a variable by one fused TensorFlow operation.

    Keras needs ten, for Adam forty. The results are equal, the graph is smaller, and no temporary
    copies of the variable are made. Under PyTorch Keras itself updates all variables together, see
    `make_optimizer`.
    """

    def _is_fused(self):
        return keras.backend.backend() == "tensorflow"

    def _all_reduce_sum_gradients(self, grads_and_vars):
        # `TrainingModel.train_step` has averaged them over the devices, clipping needs that. Added
        # up here once more they would go over the network twice.
        return list(grads_and_vars)

    def _values(self, learning_rate: Any) -> dict[str, Any]:
        """{argument of the fused operation: scalar} that are the same for all variables."""
        raise NotImplementedError

    def _update(self, gradient: Any, variable: Any, values: dict[str, Any]) -> None:
        """Updates a variable; `values` are those of `_values` in the variable's dtype."""
        raise NotImplementedError

    def _clip_gradients(self, grads):
        if keras.backend.backend() != "tensorflow" or not self.global_clipnorm:
            return super()._clip_gradients(grads)
        import tensorflow as tf

        # As `tf.clip_by_global_norm`, with one operation less for each gradient.
        norm = tf.linalg.global_norm(grads)
        scale = self.global_clipnorm * tf.minimum(1.0 / norm, 1.0 / self.global_clipnorm)
        scale = norm - norm + scale  # NaN where the norm is infinite
        return [gradient * scale for gradient in grads]

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        if not self._is_fused() or _is_distributed():
            super()._backend_update_step(grads, trainable_variables, learning_rate)
            return
        # On one device gradients need no reduction, for which Keras adds an operation and a scope
        # for each variable. The shared values are computed once.
        values = self._values(learning_rate)
        for gradient, variable in zip(grads, trainable_variables):
            self._update_cast(gradient, variable.value, values)

    def _apply_weight_decay(self, variables):
        if not self._is_fused() or _is_distributed() or self.weight_decay is None:
            super()._apply_weight_decay(variables)
            return
        import tensorflow as tf

        # Keras computes the learning rate, of a schedule 20 operations, for each variable anew.
        decay = tf.convert_to_tensor(self.learning_rate) * self.weight_decay
        for variable in variables:
            if self._use_weight_decay(variable):
                value = tf.convert_to_tensor(variable)
                variable.value.assign_sub(value * tf.cast(decay, value.dtype))

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> Any:
        if self._is_fused():
            self._update_cast(gradient, variable, self._values(learning_rate))
        else:
            super().update_step(gradient, variable, learning_rate)

    def _update_cast(self, gradient, variable, values):
        """`_update` with gradient and values cast to the variable's dtype."""
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
    """`FusedUpdates` for Keras's Adam and AdamW."""

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

    Gradients are clipped by their global norm, as by `clipnorm` of Keras 2.0.

    Args:
        config: see OPTIMIZER, GRADIENT_CLIP_NORM, EMA_MOMENTUM, WEIGHT_DECAY.
        learning_rate: a number or a schedule.
        momentum: of "sgd".
    """
    common: dict[str, Any] = {"global_clipnorm": config.GRADIENT_CLIP_NORM or None}
    if callable(config.OPTIMIZER):
        optimizer = config.OPTIMIZER(learning_rate)
        _updating(optimizer).global_clipnorm = common["global_clipnorm"]
        return optimizer
    if config.EMA_MOMENTUM:
        common.update(use_ema=True, ema_momentum=config.EMA_MOMENTUM)
    kinds: dict[str, Any] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}
    if keras.backend.backend() == "torch":  # Keras updates all variables together there
        optimizers = keras.optimizers
        kinds = {"sgd": optimizers.SGD, "adam": optimizers.Adam, "adamw": optimizers.AdamW}
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


def _state_is_zero(optimizer):
    """Whether all of an optimizer's state is zero, as that of most kinds is before training."""
    return not any(np.any(np.asarray(variable)) for variable in _slots(optimizer))


def _reset(optimizer, other):
    """Resets an optimizer's state to zeros and its learning rate to that of another one."""
    for variable in _slots(optimizer):
        variable.assign(np.zeros(variable.shape, variable.dtype))
    if isinstance(optimizer._learning_rate, keras.Variable):
        optimizer.learning_rate = float(other.learning_rate)


def _updating(optimizer):
    """The optimizer that updates weights: under mixed_float16 Keras wraps it in another one."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def uses_averages(network: keras.Model) -> bool:
    """Whether the optimizer keeps running averages of the weights (EMA_MOMENTUM)."""
    return bool(getattr(_updating(network.optimizer), "use_ema", False))


@contextlib.contextmanager
def averaged(network: keras.Model) -> Iterator[None]:
    """Within it the network has the averages of its weights (EMA_MOMENTUM), if there are any.

    Both are copied, where `keras.callbacks.SwapEMAWeights` swaps them by sums and leaves rounding
    errors: evaluating a run must not change its result.
    """
    if not uses_averages(network):
        yield
        return
    optimizer = _updating(network.optimizer)
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
    """Within it new weights are drawn by a seed; the state of `random` is restored afterwards.

    seed: None for weights that differ each time.
    """
    if seed is None:
        yield
        return
    state = random.getstate()
    random.seed(seed)  # Keras draws the seeds of its initializers from this generator
    try:
        yield
    finally:
        random.setstate(state)


def strategy(count: int, jit_compile: bool | None = None) -> Any:
    """The strategy that splits batches over devices: GPUs, or CPUs where there is no GPU.

    With fewer devices than `count` the whole batch goes to one of them, with a warning: losses and
    gradients are the same, a step takes longer. Where the environment describes a cluster, see
    `cluster.find`, the strategy covers the devices of all its machines.

    Args:
        count: GPU_COUNT.
        jit_compile: JIT_COMPILE.

    Returns:
        TensorFlow's `MirroredStrategy` or `MultiWorkerMirroredStrategy`, or, under JAX,
        `keras.distribution.DataParallel`; None for a single device.

    Raises:
        ValueError: several machines, with a backend that can't train on them; several TensorFlow
            devices, with JIT_COMPILE.
    """
    backend = keras.backend.backend()
    machines = cluster.find()
    if jit_compile and backend == "tensorflow" and (count > 1 or machines is not None):
        # XLA can't compile TensorFlow's collective operations.
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


# {backend that splits a batch over devices: its name in messages}
SPLITTING = {"tensorflow": "TensorFlow", "jax": "JAX"}


def _devices_of(backend):
    """Names of a backend's devices: its GPUs, or else its CPUs."""
    if backend == "jax":
        return keras.distribution.list_devices()
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [device.name for device in devices]


@functools.cache
def _mirrored(devices):
    """The `MirroredStrategy` of devices, always the same one.

    Two strategies of the same devices would give their collective operations the same numbers, and
    the second model would hang or fail.
    """
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(list(devices))


# ---- Batches -------------------------------------------------------------------------------------


class BatchStream:
    """The batches of a run in order, prefetched by threads.

    Args:
        batches: `data.TrainingBatches`.
        first: number of the first step.
        workers: number of threads; with 0 there is no prefetching.
        stop: number of the step before which prefetching ends; None for no end.

    Attributes:
        next_step: number of the step whose batch is taken next.
        error: what the dataset raised; None for nothing.
        cause: `__cause__` of the error.
        ids: {step: image ids} of the latest steps.
        first_images: how many images of the next batch are copied to `first_inputs`, once.
        first_inputs: arrays [first_images, ...] of the network's inputs; None before that.
    """

    def __init__(
        self,
        batches: data.TrainingBatches,
        first: int = 0,
        workers: int = 2,
        stop: int | None = None,
    ):
        self.batches = batches
        self.stop = stop
        self.next_step = first
        self.error: Exception | None = None
        self.cause: BaseException | None = None
        self.ids: collections.OrderedDict[int, list] = collections.OrderedDict()
        self._pool = None
        if workers:
            self._pool = concurrent.futures.ThreadPoolExecutor(workers)
        self._prefetched: collections.deque = collections.deque()  # futures
        self.first_images = 0
        self.first_inputs: list[np.ndarray] | None = None
        self._submitted = first
        self._depth = 2 * workers

    def generator(self) -> Iterator[tuple]:
        """The batches as a generator, which `keras.Model.fit` requires of iterators."""
        while True:
            yield self.take()

    def take(self) -> tuple:
        """The next batch, `(inputs,)`.

        The dataset's exception is kept as `error`, with its cause: Keras wraps it in an exception
        of its own and drops the cause.
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
            while len(self._prefetched) < self._depth and self._submitted != self.stop:
                self._prefetched.append(self._pool.submit(self.batches.batch, self._submitted))
                self._submitted += 1
            inputs, ids, _ = self._prefetched.popleft().result()
        if self.first_images:
            self.first_inputs = [array[: self.first_images].copy() for array in inputs]
            self.first_images = 0
        self.ids[self.next_step] = ids
        while len(self.ids) > 64:
            self.ids.popitem(last=False)
        self.next_step += 1
        return (tuple(_transferable(x) for x in inputs),)

    def dataset(self, shapes: Sequence[tuple]) -> Any:
        """The batches as a `tf.data.Dataset` of static batch size. TensorFlow only.

        For a generator Keras assumes an unknown batch size, for which a traced step has an eighth
        more operations, and takes the height and width of the first two batches, where they are
        equal, for those of all.

        Args:
            shapes: those of the network's inputs, with None for unknown sizes; these stay unknown
                where images have several sizes.
        """
        import tensorflow as tf

        first = self.take()
        specs = self._specs_of(first, shapes)

        def batches():
            return itertools.chain([first], self.generator())

        dataset = tf.data.Dataset.from_generator(batches, output_signature=(tuple(specs),))
        return dataset.prefetch(tf.data.AUTOTUNE)

    def specs(self, shapes: Sequence[tuple], parts: int = 1) -> list[Any]:
        """[tf.TensorSpec] of the inputs of a part of a batch. No batch is taken from the stream.

        Args:
            shapes: see `dataset`.
            parts: number of equal parts that a batch is divided into.
        """
        import tensorflow as tf

        inputs, _, _ = self.batches.batch(self.next_step)
        first = (tuple(_transferable(x) for x in inputs),)
        specs = []
        for spec in self._specs_of(first, shapes):
            specs.append(tf.TensorSpec((spec.shape[0] // parts, *spec.shape[1:]), spec.dtype))
        return specs

    def _specs_of(self, first, shapes):
        """[tf.TensorSpec] of the inputs of all batches, by the first one."""
        import tensorflow as tf

        (arrays,) = first
        specs = []
        for array, shape in zip(arrays, shapes):
            spec_shape = array.shape
            if self.batches.config.IMAGE_RESIZE_MODE not in ("square", "crop"):
                spec_shape = (len(array), *shape[1:])
            specs.append(tf.TensorSpec(spec_shape, array.dtype))
        return specs

    def close(self) -> None:
        """Stops the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


class ValidationStream:
    """The validation batches of each epoch, which are the same whether or not a run was resumed.

    Those of an epoch follow those of the epoch before, so that every image is used once before any
    is used again. Given a generator, Keras would take its first two batches in every epoch, leave
    out others that it has read ahead, and take the sizes of these two for those of all.

    Args:
        batches: `data.TrainingBatches`.
        steps: number of batches of an epoch.
        epoch: f() -> number of epochs before the present one.
        workers: see `BatchStream`.

    Attributes:
        error, cause: see `BatchStream`.
    """

    def __init__(
        self,
        batches: data.TrainingBatches,
        steps: int,
        epoch: Callable[[], int],
        workers: int = 2,
    ):
        self.batches = batches
        self.steps = steps
        self.epoch = epoch
        self.workers = workers
        self._stream = BatchStream(batches, 0, 0)

    @property
    def error(self) -> Exception | None:
        """What the dataset raised; None for nothing."""
        return self._stream.error

    @property
    def cause(self) -> BaseException | None:
        """`__cause__` of the error."""
        return self._stream.cause

    def of_epoch(self) -> Iterator[tuple]:
        """The batches of the present epoch, `(inputs,)`."""
        self.close()
        first = self.epoch() * self.steps
        self._stream = stream = BatchStream(self.batches, first, self.workers, first + self.steps)
        for _ in range(self.steps):
            yield stream.take()
        stream.close()

    def generator(self) -> Iterator[tuple]:
        """The batches of the present epoch and of all that follow."""
        while True:
            yield from self.of_epoch()

    def adapter(self, shapes: Sequence[tuple]) -> Any:
        """Keras's data adapter, as `fit(validation_data=)` takes it.

        Args:
            shapes: see `BatchStream.dataset`.
        """
        from keras.src.trainers.data_adapters.generator_data_adapter import GeneratorDataAdapter

        signature = None
        if keras.backend.backend() == "tensorflow":
            first = BatchStream(self.batches, self.epoch() * self.steps, 0)
            signature = (tuple(first.specs(shapes)),)
        # Its constructor would take two batches, with which each pass over the data would begin.
        adapter = GeneratorDataAdapter.__new__(GeneratorDataAdapter)
        adapter.generator = self.of_epoch
        adapter._first_batches = []
        adapter._output_signature = signature
        return adapter

    def close(self) -> None:
        """Stops the threads."""
        self._stream.close()


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
    """An array in a dtype that a training step takes: uint8 for bool, float32 for float64.

    TensorFlow can't split bool tensors over devices.
    """
    if x.dtype == bool:
        return x.view(np.uint8)
    if x.dtype == float:
        return x.astype("float32")
    return x


class DataGenerator(keras.utils.PyDataset):
    """The batches of `data_generator`, `(inputs, outputs)`, by index (the TF2 fork: DataGenerator).

    Args: see `data.data_generator`; `workers` and the like are those of `keras.utils.PyDataset`.
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
        """Begins the next pass, with another order and other random numbers."""
        self.passes += 1


# ---- Files of a run ------------------------------------------------------------------------------


class CheckpointPath(str):
    """A path that also unpacks and indexes as (folder, path).

    matterport's `find_last` returned such a pair before it returned a path.
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
    """A config's NAME as used in the names of folders and files."""
    return (name or "mask_rcnn").lower()


def checkpoint_path(log_dir: str, name: str | None) -> str:
    """Path of a run's checkpoints, with the field {epoch:04d} for `str.format`."""
    return os.path.join(log_dir, f"mask_rcnn_{run_name(name)}_{{epoch:04d}}.h5")


def resume_path(log_dir: str, name: str | None) -> str:
    """Path of a run's resume file: weights, optimizer, epoch, step, seed."""
    return os.path.join(log_dir, f"mask_rcnn_{run_name(name)}_resume.h5")


# The end of a run's folder, after the NAME: its date and time.
RUN_TIME = r"\d{8}T\d{4}"
LENGTH_OF_TIME = len("20180102T0304")


def new_log_dir(
    model_dir: str, name: str | None, start: datetime.datetime, make: bool = True
) -> str:
    """The folder NAME<date>T<time> of a new run, unique to it.

    Where another run has this name and minute, it is the next free minute, so that the patterns of
    matterport's scripts match the name.

    Args:
        model_dir: folder of all runs.
        name: NAME of the config.
        start: when the run began.
        make: create the folder, so that no other process takes it. False returns that of `start`,
            whether or not it exists.
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


def own_log_dir(model_dir: str, name: str | None, folder: str) -> str:
    """The folder in which a run of this NAME in `model_dir` goes on from a checkpoint in `folder`.

    It is `folder` itself if that is one of this NAME in `model_dir`. Else files of another run
    would be overwritten, or written where nothing can be.
    """
    parent, base = os.path.split(folder)
    own = os.path.join(model_dir, f"{run_name(name)}{base[-LENGTH_OF_TIME:]}")
    if base.lower() == os.path.basename(own).lower() and _is_same_folder(parent, model_dir):
        return folder
    return own


def _is_same_folder(one, other):
    return os.path.realpath(one) == os.path.realpath(other)


def parse_checkpoint(path: str | os.PathLike) -> tuple[str, int] | None:
    """(folder, epoch) of a checkpoint or of a run's resume file; None for other files.

    Only a file in a folder name<date>T<time> is one of these.
    """
    if isinstance(path, str):
        path = str.__str__(path)  # a plain str of a `CheckpointPath`, which unpacks as two
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
    """The state in a resume file, see `Run.save`; None where there is no such file.

    Raises:
        ValueError: the state can't be read; names the file.
    """
    try:
        with h5py.File(path, "r") as file:
            return json.loads(file.attrs["mrcnn_run"])
    except (OSError, KeyError):
        return None
    except ValueError as error:
        raise ValueError(f"{path} has no state of a run that can be read: {error}") from error


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
    """Turns an OSError of the block into one that names the file and how to resume."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{path} can't be written: {error}. The files that were written before are as they"
            " were: load find_last() to go on"
        ) from error


def _remove_parts(log_dir, name):
    """Removes the temporary files of a run that was killed while writing."""
    pattern = re.compile(rf"\.mask_rcnn_{re.escape(run_name(name))}_.*\.part\.h5")
    for file in os.listdir(log_dir):
        if pattern.fullmatch(file):
            os.remove(os.path.join(log_dir, file))


def fingerprint(network: keras.Model) -> str:
    """A digest of all weights of a network, in hexadecimal."""
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
    """The newest checkpoint of the runs of this name, or the resume file of a run without one.

    Raises:
        FileNotFoundError: there is none; names the folder, the pattern, and other runs.
    """
    name = run_name(name)
    runs = []
    if os.path.isdir(model_dir):
        pattern = re.escape(name) + RUN_TIME
        runs = [entry for entry in os.listdir(model_dir) if re.fullmatch(pattern, entry)]
    for run in sorted(runs, reverse=True):
        newest = newest_checkpoint(os.path.join(model_dir, run), name)
        if newest is not None:
            return CheckpointPath(newest)
    others = ""
    if names := names_of_runs(model_dir):
        others = f". Received: a folder with runs of the name {files.several(names)}"
    raise FileNotFoundError(
        f"No checkpoint mask_rcnn_{name}_*.h5 in a folder {name}<date>T<time> of"
        f" {model_dir}{others}"
    )


def names_of_runs(model_dir: str | os.PathLike) -> list[str]:
    """The names, see `run_name`, of the runs in a folder that have a checkpoint or a resume file.

    The name of the newest run is the first.
    """
    times: dict[str, str] = {}
    if os.path.isdir(model_dir):
        for entry in os.listdir(model_dir):
            match = re.fullmatch(rf"(.+)({RUN_TIME})", entry)
            folder = os.path.join(model_dir, entry)
            if match and os.path.isdir(folder) and newest_checkpoint(folder, match[1]):
                times[match[1]] = max(match[2], times.get(match[1], ""))
    return sorted(times, key=lambda name: (times[name], name), reverse=True)


def newest_checkpoint(folder: str | os.PathLike, name: str) -> str | None:
    """Path of the checkpoint of the last epoch, or else of the resume file; None for neither.

    Args:
        folder: of one run.
        name: its name, see `run_name`.
    """
    pattern = re.compile(rf"mask_rcnn_{re.escape(name)}_(\d{{4,}})\.h5")
    checkpoints = []
    for file in os.listdir(folder):
        if match := pattern.fullmatch(file):
            checkpoints.append((int(match.group(1)), file))
    if checkpoints:
        _, file = max(checkpoints)
        return os.path.join(folder, file)
    resume = resume_path(os.fspath(folder), name)
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
    """Computes validation losses with the averaged weights, which are the ones that are saved."""

    def on_test_begin(self, logs: dict | None = None) -> None:
        self._weights = contextlib.ExitStack()
        self._weights.enter_context(averaged(self.model))

    def on_test_end(self, logs: dict | None = None) -> None:
        self._weights.close()


class Checkpoints(keras.callbacks.Callback):
    """Writes a checkpoint after each epoch, as matterport does, and the resume file."""

    def __init__(self, run: "Run"):
        super().__init__()
        self.run = run
        self.written = time.monotonic()  # when the resume file was written, in seconds
        self.cost = 0.0  # how many seconds that took

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.run.step += 1
        if self.run.step >= self.run.config.STEPS_PER_EPOCH:
            return  # `on_epoch_end` writes it
        # A large model's file takes seconds: writing is limited to a fifth of the time.
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


# What Keras's callbacks count, which a process that resumes a run has to know.
COUNTS: dict[type[keras.callbacks.Callback], tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: ("best", "wait", "best_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("best", "wait", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: ("best",),
}


class CallbackCounts(keras.callbacks.Callback):
    """Keeps what Keras's callbacks have counted, in callbacks.json, for a run that is taken up.

    Without it EarlyStopping would wait anew, and ModelCheckpoint(save_best_only=True) replace the
    best weights by the first ones. It comes behind them in the list, so that they have counted.

    Args:
        run: the `Run`.
        callbacks: of the user.
    """

    def __init__(self, run: "Run", callbacks: Sequence[Any]):
        super().__init__()
        self.run = run
        self.path = os.path.join(run.owner.log_dir, "callbacks.json")
        self.counting: dict[str, Any] = {}
        for callback in callbacks:
            if any(isinstance(callback, kind) for kind in COUNTS):
                name = f"{type(callback).__name__} {callback.monitor}"
                number = sum(other.startswith(name) for other in self.counting)
                self.counting[f"{name} {number}"] = callback

    def _counts_of(self, callback):
        """{attribute: number} of a callback; what is no number, as of a subclass, is not kept."""
        names = next(names for kind, names in COUNTS.items() if isinstance(callback, kind))
        counts = {}
        for name in names:
            value: Any = getattr(callback, name, None)
            with contextlib.suppress(TypeError, ValueError):
                counts[name] = float(value)
        return counts

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        kept = {name: self._counts_of(callback) for name, callback in self.counting.items()}
        with _writing(self.path):
            media.write_json(self.path, {"epoch": epoch + 1, "callbacks": kept})

    def on_train_begin(self, logs: dict | None = None) -> None:
        if not self.run.is_taken_up:
            return
        kept = self._kept()
        for name, callback in self.counting.items():
            if name in kept:
                self._restore(callback, kept[name])

    def _kept(self):
        """{name of a callback: its counts} of the run's last epoch; empty without a file of it."""
        epoch = self.run.owner.epoch
        try:
            state = files.read_json(self.path)
            if not epoch - 1 <= state["epoch"] <= epoch:
                return {}
            kept = {}
            for name, counts in state["callbacks"].items():
                numbers = {key: value for key, value in counts.items() if value is not None}
                kept[name] = {key: float(value) for key, value in numbers.items()}
        except FileNotFoundError:  # the run of an older version
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning(
                "%s: expected what callbacks have counted. Received: %r. They begin anew",
                self.path,
                error,
            )
            return {}
        return kept

    def _restore(self, callback, counts):
        if getattr(callback, "restore_best_weights", False):
            logger.warning(
                "EarlyStopping(restore_best_weights=True) begins anew, with a best %s of %s before:"
                " the weights of its best epoch were in the memory of the process that ended",
                callback.monitor,
                counts.get("best"),
            )
            return
        for name, value in counts.items():
            if name != "best":
                value = int(value)
            setattr(callback, name, value)


class TrainingPage(keras.callbacks.Callback):
    """Writes training.html after each epoch, see `report.write_training`, and history.json.

    history.json holds the figures of each epoch, to which a resumed run appends. A failure is only
    a warning, which must not stop the training.

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
        self.stream.first_inputs = None  # frees memory, even if drawing fails
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
    def _warning_of(self, subject):
        """Turns any error in the block into a warning, the first time; subject: what is written."""
        try:
            yield
        except Exception as error:
            if not self._has_failed:
                logger.warning("%s can't be written: %s: %s", subject, type(error).__name__, error)
            self._has_failed = True

    def _history(self, epoch, logs):
        """The figures of all epochs so far, with this one; they are written to history.json."""
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
                entry[name] = None  # JSON has no NaN
        history = [row for row in _read_history(path) if row["epoch"] <= epoch]
        history.append(entry)
        media.write_json(path, history)
        return history


def _read_history(path):
    """The entries of a history.json, one for each epoch; [] for a missing or foreign file."""
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

    The logs are `val_bbox_mAP` and `val_mask_mAP`, and `val_keypoint_mAP` with keypoints.

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
    figures in their `logs`. Epochs without an evaluation repeat the latest figures, since Keras's
    ModelCheckpoint would save an epoch without any as the best; before the first evaluation there
    are none.

    Args:
        owner: the `MaskRCNN` that is trained.
        dataset: prepared `Dataset`.
        every: number of epochs from one evaluation to the next.
        limit: the most images to evaluate on; 0 for all.
        pictures: how many images TensorBoard shows with their detections; None for 4, or 0 where it
            is not installed.
        settings: {setting: value} that replace the config's for detection, such as
            {"DETECTION_MIN_CONFIDENCE": 0.}. IMAGE_RESIZE_MODE "crop" is replaced by "square" of
            the larger of IMAGE_MIN_DIM and IMAGE_MAX_DIM, rounded up to a multiple of the strides.

    Raises (before the first epoch):
        ValueError: settings that can't detect; a dataset that can't be evaluated with them.

    Attributes:
        evaluation: the latest `evaluate.Evaluation`.
        last_epoch: number of the run's last epoch, set by `train`; None for that of `fit`.
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
        self.last_epoch: int | None = None
        self._inference: Any = None
        self._writer: Any = None
        self._figures: dict[str, float] = {}

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Checks the settings and the dataset, so that errors come before the first epoch."""
        config = self._detecting_config()
        config.validate()
        evaluate.check(self.dataset, config, self.dataset.image_ids[: self.limit or None])

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        last_epoch = self.last_epoch or self.params["epochs"]
        if (epoch + 1) % self.every == 0 or epoch + 1 >= last_epoch:
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
        """The inference model, built once, with the present weights."""
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
            # Random crops can't be evaluated. IMAGE_MAX_DIM is unused in that mode and may have any
            # value.
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
        """Writes pictures of the detections for TensorBoard."""
        import tensorflow as tf

        if self._writer is None:
            folder = os.path.join(self.owner.log_dir, "validation")
            self._writer = tf.summary.create_file_writer(folder)
        with self._writer.as_default(step=epoch):
            for image_id in image_ids:
                try:
                    image = self.dataset.load_image(image_id)
                except (OSError, ValueError):
                    continue  # the evaluation has reported it
                result = model.detect([image])[0]
                # AP needs the many detections with low scores, which would hide the image.
                result = visualize.sure(result, self.owner.config.DETECTION_MIN_CONFIDENCE)
                painted = media.paint(image, result, self.dataset.class_names)
                tf.summary.image(f"detections/{image_id}", painted[None])
        self._writer.flush()


def _logged_figures(evaluation):
    """{name in the logs: AP} for an evaluation."""
    names = {"bbox": "val_bbox_mAP", "segm": "val_mask_mAP"}
    logged = {}
    for kind, figures in evaluation.kinds():
        logged[names[kind]] = figures["AP"]
    if evaluation.keypoints:
        logged["val_keypoint_mAP"] = evaluation.keypoints["AP"]
    return logged


class StageCallbacks(keras.callbacks.CallbackList):
    """The callbacks of a run that several calls of `fit` make up, as those of one training.

    They see one beginning and one end, and keep what they count and the files they have open.
    A program that patches `fit` and makes a list of its callbacks gets the list of this one.

    Args:
        callbacks: of the first stage, see `begin`.
        network: compiled.
        epochs: number of the run's last epoch.
        verbose: see `keras.Model.fit`.

    Attributes:
        history: the History of all stages.
    """

    def __init__(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        network: keras.Model,
        epochs: int,
        verbose: int,
    ):
        self._has_begun = False
        self._is_last = False
        self._latest: list[np.ndarray] = []
        self.history = keras.callbacks.History()
        super().__init__(
            [*callbacks, self.history],
            add_progbar=bool(verbose),
            model=network,
            epochs=epochs,
            verbose=verbose,
            steps=None,
        )

    def __iter__(self) -> Iterator[keras.callbacks.Callback]:
        return iter([self])

    def begin(self, stream: BatchStream, steps: int, is_last: bool) -> None:
        """Begins a stage, before its call of `fit`.

        Args:
            stream: its batches.
            steps: number of steps of each of its epochs.
            is_last: whether the run ends with it.
        """
        self._is_last = is_last
        for variable, value in zip(self.model.trainable_weights, self._latest):
            variable.assign(value)
        self._latest = []
        for callback in self.callbacks:
            if isinstance(callback, (StopOnBadLoss, TrainingPage)):
                callback.stream = stream
        super().set_params({**self.params, "steps": steps})

    def set_model(self, model: keras.Model) -> None:
        """Takes its model once: TensorBoard begins new files with each."""
        if getattr(self, "_model", None) is None:
            super().set_model(model)

    def set_params(self, params: dict[str, Any]) -> None:
        """Takes its own parameters alone: those of a call of `fit` are of one stage."""
        if getattr(self, "params", None) is None:
            super().set_params(params)

    def on_train_begin(self, logs: dict | None = None) -> None:
        if not self._has_begun:
            self._has_begun = True
            super().on_train_begin(logs)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        if not self._is_last and uses_averages(self.model):
            # `fit` ends with the averages in place of the weights, from which the next goes on.
            self._latest = [np.array(weight) for weight in self.model.trainable_weights]

    def on_train_end(self, logs: dict | None = None) -> None:
        if self._is_last or self.model.stop_training:
            super().on_train_end(logs)


# ---- Arguments of `train` -----------------------------------------------------------------------


# {name that `train(layers=)` takes in place of a regex: its regex}
LAYER_CHOICES = {"heads": r"(mrcnn_.*)|(rpn_.*)|(fpn_.*)", "all": ".*"}
for _first in (3, 4, 5):
    _stages = "|".join(f"(res{stage}.*)|(bn{stage}.*)" for stage in range(_first, 6))
    LAYER_CHOICES[f"{_first}+"] = f"{_stages}|{LAYER_CHOICES['heads']}"


def layer_regex(layers: str, network: keras.Model) -> str:
    """The regex of `train(layers=)`.

    Args:
        layers: a name of LAYER_CHOICES, in any case, or a regex of names of the network's layers.

    Raises:
        ValueError: something else; the message suggests similar names.
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
    """The regex of a name of LAYER_CHOICES; warns where it matches no stage of the backbone."""
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
        ValueError: one is not allowed; the message has a hint where the two may be swapped.
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
    """Whether a value is a finite scalar of Python or numpy."""
    if isinstance(value, (bool, np.bool_, str)) or np.ndim(value) != 0:
        return False
    try:
        return math.isfinite(value)
    except (TypeError, ValueError):
        return False


# Keras's callbacks that only write files.
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
    """One call of `MaskRCNN.train`, which resumes an interrupted run of the same plan.

    Args: see `MaskRCNN.train`; `owner` is the MaskRCNN, `layer_regex` a regex.
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
        self.cluster: Any = cluster.of(self.network)
        self.train_dataset = train_dataset
        self.val_dataset = val_dataset
        self.augmentation = augmentation
        self.callbacks = list(custom_callbacks or [])
        self.no_augmentation_sources = no_augmentation_sources
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.layer_regex = layer_regex
        self.step = 0
        self.is_taken_up = False  # whether it was interrupted before
        self.has_stages = False
        self.stage_callbacks: StageCallbacks | None = None  # of a run with several stages
        self.first_epoch = owner.epoch
        self.checkpoint = ""  # fingerprint of the weights of the last checkpoint
        self.seed = self.config.SEED
        if self.seed is None:
            self.seed = int(np.random.default_rng().integers(2**31))
        if self.cluster is not None:
            self._take_from_chief()
        self.resume_path = resume_path(owner.log_dir, self.config.NAME)
        # What the run goes on from lies beside the checkpoint, which may be in another folder.
        self.state_path = self.resume_path
        folder = getattr(owner, "checkpoint_folder", None)
        if folder and os.path.isfile(resume_path(folder, self.config.NAME)):
            self.state_path = resume_path(folder, self.config.NAME)

    def _take_from_chief(self):
        """Takes the run's folder and seed from the chief: clocks and random seeds differ."""
        message = ""
        if self.cluster.is_chief:  # reading `log_dir` creates the folder of a new run
            message = json.dumps([self.owner.log_dir, self.owner.checkpoint_path, self.seed])
        received = json.loads(cluster.from_chief(self.network, message))
        self.owner.log_dir, self.owner.checkpoint_path, self.seed = received

    def _share(self):
        """This machine's share of a batch, see `data.TrainingBatches`."""
        if self.cluster is None:
            return 0, 1
        return self.cluster.share

    def writes(self) -> bool:
        """Whether this process writes the files; of several machines only the chief does."""
        return self.cluster is None or self.cluster.is_chief

    def plan(self) -> dict[str, Any]:
        """The settings that must be equal for a run to be resumed, as values that JSON can hold."""
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
        """Writes the resume file: weights, optimizer, random generators, epoch, step, seed."""
        self.owner.checkpoint_folder = None  # from now on the run's own folder is gone on from
        if not self.writes():
            return
        if keras.backend.backend() == "jax":
            # Within an epoch the variables are invalid: JAX donates their buffers to the step.
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
        """{group of the resume file: variables} besides the weights."""
        # The variables that are no weights are the states of the layers' random generators.
        weight_ids = {id(variable) for variable in self.network.weights}
        variables = self.network.variables
        generators = [variable for variable in variables if id(variable) not in weight_ids]
        return {"mrcnn_optimizer": self.network.optimizer.variables, "mrcnn_draws": generators}

    def fit(self) -> keras.callbacks.History | None:
        """Trains to the last epoch. Returns the History of all epochs of this call."""
        os.makedirs(self.owner.log_dir, exist_ok=True)
        if self.writes():
            _remove_parts(self.owner.log_dir, self.config.NAME)
        state = self._state_of_these_weights()
        goes_on = state is not None and not self._callbacks_changed_weights()
        goes_on = goes_on and self._is_of_this_plan(state)
        self.checkpoint = fingerprint(self.network)
        if state and goes_on:
            self._resume_from(state)
        self._compile()
        if goes_on:
            weights.load(self.network, self.state_path)
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
        stages = self._stages()
        self.has_stages = len(stages) > 1
        self.stage_callbacks = None
        for last, steps in stages:
            history = self._fit_stage(last, steps)
            if self.stage_callbacks is not None:
                history = self.network.history = self.stage_callbacks.history
            if self.network.stop_training:  # a callback's wish, which holds for the next stage too
                break
        return history

    def _state_of_these_weights(self):
        """The state in the resume file, if this model has the weights of its run and epoch.

        These are the weights of the last checkpoint, of the resume file, or those that `train` left
        in this process. Any others were loaded on purpose and must not be overwritten.
        """
        state = read_state(self.state_path)
        if state is None or self._was_killed_after_checkpoint(state):
            return state
        if state["epoch"] != self.owner.epoch:
            return None
        of_run = {state.get("checkpoint"), state.get("weights"), self.owner.weights_of_run}
        # Older files have no digest of the weights.
        if "weights" not in state or fingerprint(self.network) in of_run:
            return state
        logger.warning(
            "The run in %s, which stopped at epoch %d, step %d, is not taken up: the weights of"
            " this model are not its own, others were loaded. Training goes on from those, with a"
            " new optimizer. To take up the run, load find_last() and nothing after it",
            os.path.dirname(self.state_path),
            state["epoch"] + 1,
            state["step"],
        )
        return None

    def _was_killed_after_checkpoint(self, state):
        """Whether the run was killed between writing an epoch's checkpoint and its resume file.

        Then the network has the checkpoint's weights, and the resume file is of an earlier step:
        the rest of the epoch is trained again from there.
        """
        if state["epoch"] + 1 != self.owner.epoch:
            return False
        path = self.owner.checkpoint_path
        if self.state_path != self.resume_path:
            path = checkpoint_path(os.path.dirname(self.state_path), self.config.NAME)
        path = path.format(epoch=self.owner.epoch)
        try:
            if os.path.getmtime(path) < os.path.getmtime(self.state_path):
                return False
        except OSError:
            return False
        return _has_weights_of(self.network, path)

    def _is_of_this_plan(self, state):
        """Whether the run of this state can be resumed; `epochs` alone may differ from its plan."""
        plan = self.plan()
        differences = []
        for name in sorted({*plan, *state["plan"]} - {"epochs"}):
            before = state["plan"].get(name)
            if before != plan.get(name):
                differences.append(f"{name} {before} is now {plan.get(name)}")
        if differences and state["step"]:
            logger.warning(
                "The run in %s, which stopped in epoch %d at step %d, is not taken up there: %s."
                " Epoch %d begins anew, with a new optimizer",
                os.path.dirname(self.state_path),
                state["epoch"] + 1,
                state["step"],
                ", ".join(differences),
                state["epoch"] + 1,
            )
        return not differences

    def _resume_from(self, state):
        """Sets epoch, step and seed to those at which the run of this state stopped."""
        self.owner.epoch = state["epoch"]
        self.first_epoch = state["first_epoch"]
        self.seed = state["seed"]
        self.step = state["step"]
        self.checkpoint = state.get("checkpoint", "")
        finished = state["epoch"] >= state["plan"]["epochs"]
        self.is_taken_up = not finished
        if finished:
            logger.info(
                "Going on after epoch %d with the optimizer as it was", state["plan"]["epochs"]
            )
            return
        logger.warning(
            "Taking up the run in %s at epoch %d, step %d",
            os.path.dirname(self.state_path),
            self.owner.epoch + 1,
            self.step,
        )

    def _compile(self):
        """Compiles the network; ValueError if `layer_regex` matches no trainable weight."""
        self.owner.set_trainable(self.layer_regex)
        if not self.network.trainable_variables:
            raise ValueError(
                f"layers {self.layer_regex!r} matches no layer with a weight that can train"
            )
        total_steps = (self.epochs - self.first_epoch) * self.config.STEPS_PER_EPOCH
        schedule = make_schedule(self.config, self.learning_rate, total_steps)
        self.owner.compile(schedule, self.config.LEARNING_MOMENTUM)

    def _restore(self, group):
        """Loads a group of `_variables` from the resume file, if all shapes are equal."""
        variables = self._variables()[group]
        with h5py.File(self.state_path, "r") as file:
            arrays = [array[()] for _, array in sorted(file.get(group, {}).items())]
        if [array.shape for array in arrays] != [tuple(v.shape) for v in variables]:
            if arrays:
                logger.warning(
                    "%s of %s is of other variables than this run's and begins anew",
                    group,
                    self.state_path,
                )
            return
        for variable, array in zip(variables, arrays):
            variable.assign(array)

    def _say_what_begins(self):
        """Prints what is trained, before TensorFlow traces the step without any output."""
        count = sum(math.prod(variable.shape) for variable in self.network.trainable_variables)
        print(
            f"Training {count:,} weights from epoch {self.owner.epoch + 1} to {self.epochs},"
            f" learning rate {self.learning_rate:g}, checkpoints in {self.owner.log_dir}",
            flush=True,
        )
        if self.network.train_function is None:
            print("Building the training step, which can take half a minute ...", flush=True)

    def _stages(self):
        """[(last epoch, steps per epoch)] of the calls of `keras.Model.fit` that the run needs.

        An unfinished epoch is one call, all later epochs are another.
        """
        stages = []
        if self.step >= self.config.STEPS_PER_EPOCH:
            # Version 0.4.0 wrote the resume file after the last step of an epoch, too.
            Checkpoints(self).on_epoch_end(self.owner.epoch)
        done = self.owner.epoch
        if self.step:
            done += 1
            stages.append((done, self.config.STEPS_PER_EPOCH - self.step))
        if done < self.epochs:
            stages.append((self.epochs, self.config.STEPS_PER_EPOCH))
        return stages

    def _fit_stage(self, last, steps):
        """Trains to the end of epoch `last` in epochs of `steps` steps; returns the History."""
        stream = self._training_stream()
        streams: list[BatchStream | ValidationStream] = [stream]
        validation: dict[str, Any] = {}
        if self.val_dataset is not None and self.config.VALIDATION_STEPS:
            val_batches = data.TrainingBatches(
                self.val_dataset,
                self.config,
                seed=self.seed,
                repeats=False,
                share=self._share(),
            )
            val_stream = ValidationStream(
                val_batches,
                self.config.VALIDATION_STEPS,
                lambda: self.owner.epoch,
                self.config.WORKERS,
            )
            streams.append(val_stream)
            if cluster.several_devices(self.network):
                validation["validation_data"] = val_stream.generator()
            else:
                validation["validation_data"] = val_stream.adapter(self._input_shapes())
            validation["validation_steps"] = self.config.VALIDATION_STEPS
        callbacks = self._callbacks_of_fit(stream, last, steps)
        # BackupAndRestore leaves here the epoch that it has restored, for this `fit` and all later.
        self.network._initial_epoch = None
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
        """`cluster.fit`, for several devices of this machine or of several."""
        return cluster.fit(
            self.network,
            stream.generator(),
            stream.specs(self._input_shapes(), cluster.devices_here(self.network)),
            self.owner.epoch,
            last,
            steps,
            callbacks,
            **validation,
        )

    def _input_shapes(self):
        """Shapes of the network's inputs, with None for unknown sides."""
        return [tuple(tensor.shape) for tensor in self.network.inputs]

    def _distribution(self):
        """The context of `fit`, in which Keras splits JAX's batches as it placed the weights."""
        if keras.backend.backend() == "jax":
            return self.owner.devices()
        return contextlib.nullcontext()

    def _for_fit(self, stream):
        """A stream in the form that `keras.Model.fit` takes: `tf.data` for TensorFlow alone."""
        if keras.backend.backend() != "tensorflow":
            return stream.generator()
        from keras.src.trainers.data_adapters.tf_dataset_adapter import TFDatasetAdapter

        dataset = stream.dataset(self._input_shapes())
        # Programs that patch `fit` (MLflow's autolog) read a plain dataset to its end for a
        # checksum, and this one is infinite. They leave Keras's adapter alone.
        return TFDatasetAdapter(dataset)

    def _training_stream(self):
        """The training batches from the next step on."""
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

    def _callbacks_of_fit(self, stream, last, steps):
        """What a call of `fit` takes as callbacks, see `_fit_stage`."""
        if not self.has_stages:
            return self._stage_callbacks(stream)
        if self.stage_callbacks is None:
            self.stage_callbacks = StageCallbacks(
                self._stage_callbacks(stream), self.network, self.epochs, int(self.writes())
            )
        self.stage_callbacks.begin(stream, steps, last >= self.epochs)
        return self.stage_callbacks

    def _stage_callbacks(self, stream):
        """The callbacks of the run and of the user, in the order in which they are called.

        Evaluations come first, so that TensorBoard and all other callbacks find their figures.
        Where another machine writes the files, WRITERS are left out; on several machines what gives
        the chief other weights, too.
        """
        evaluations = []
        others = []
        for callback in self.callbacks:
            if isinstance(callback, EvaluationCallback):
                callback.last_epoch = self.epochs
                evaluations.append(callback)
            elif self.cluster is not None and isinstance(
                callback, keras.callbacks.BackupAndRestore
            ):
                logger.warning(
                    "BackupAndRestore is left out on several machines: the chief alone would go"
                    " back to its backup. A run is resumed from find_last() without it"
                )
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
        counts = CallbackCounts(self, others)
        if counts.counting and self.cluster is None:
            callbacks.append(counts)
        if self.writes():
            callbacks.append(TrainingPage(self, stream))
        return callbacks


@contextlib.contextmanager
def _without_retracing_warnings() -> Iterator[None]:
    """Suppresses TensorFlow's warnings of retracing, which stages of other layers need.

    TensorFlow counts the traces of all stages together, as if they were of one function.
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
    """The empty history of a call of `train` whose last epoch is already done."""
    history = keras.callbacks.History()
    history.set_model(network)
    history.on_train_begin()
    return history
