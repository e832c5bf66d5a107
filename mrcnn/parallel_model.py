"""matterport's `parallel_model`, for scripts that import it.

Training uses `Config.GPU_COUNT` instead.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops, tree


class ParallelModel(keras.Model):
    """A model that splits each batch into `gpu_count` parts, runs them and joins the results.

    `MaskRCNN` does not need it: with `GPU_COUNT` above 1 it trains under
    `tf.distribute.MirroredStrategy`. On TensorFlow each part runs on a GPU of its own if there are
    enough.

    Args:
        keras_model: a functional model whose inputs all have the batch as their first axis; scalar
            outputs (losses) are averaged over the parts.
        gpu_count: number of parts; it must divide the batch size.

    Layers, weights and files are those of the inner model, to which the methods for them are
    delegated.

    Raises:
        ValueError: one of the arguments is not allowed.
    """

    def __init__(self, keras_model: keras.Model, gpu_count: int):
        if not isinstance(gpu_count, (int, np.integer)) or gpu_count < 1:
            raise ValueError(f"gpu_count is a whole number of at least 1. Received: {gpu_count!r}")
        if not isinstance(keras_model, keras.Model):
            raise ValueError(
                "keras_model is a Keras model, such as the attribute of that name of a MaskRCNN."
                f" Received: {type(keras_model).__name__}"
            )
        super().__init__(name=keras_model.name)
        self.inner_model = keras_model
        self.gpu_count = gpu_count

    def __getattribute__(self, attrname):
        if attrname in (
            "load_weights",
            "save_weights",
            "get_layer",
            "summary",
            "layers",
            "inputs",
            "outputs",
        ):
            inner = super().__getattribute__("__dict__").get("inner_model")
            if inner is not None:
                return getattr(inner, attrname)
        return super().__getattribute__(attrname)

    def summary(self, *args: Any, **kwargs: Any) -> Any:
        """Prints the inner model's summary."""
        return self.inner_model.summary(*args, **kwargs)

    def make_parallel(self) -> list[Callable]:
        """[f(inputs) -> outputs] of each part; matterport's method of this name."""
        return [functools.partial(self._run, part) for part in range(self.gpu_count)]

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Runs the parts and joins their outputs.

        Args:
            inputs: those of the inner model: a list, one tensor or a dict.

        Returns:
            a list of outputs; one output where the inner model has a single one.

        Raises:
            ValueError: gpu_count does not divide the batch size.
        """
        batch = tree.flatten(inputs)[0].shape[0]
        if batch is not None and batch % self.gpu_count:
            raise ValueError(
                f"gpu_count {self.gpu_count} divides the batch. Received: a batch of {batch}"
            )
        parts = [function(inputs) for function in self.make_parallel()]
        outputs = [_joined(of_parts) for of_parts in zip(*parts)]
        if len(outputs) == 1:
            return outputs[0]
        return outputs

    def _run(self, part, inputs):
        """The outputs of the inner model for part number `part` of the inputs, a list."""
        size = ops.shape(tree.flatten(inputs)[0])[0] // self.gpu_count
        inputs = tree.map_structure(lambda x: x[part * size : (part + 1) * size], inputs)
        with _device(part, self.gpu_count):
            outputs = self.inner_model(inputs)
        if isinstance(outputs, (list, tuple)):
            return outputs
        return [outputs]


def _joined(outputs):
    """Joins an output of all parts: the mean of scalars, others concatenated along the batch."""
    if len(outputs[0].shape) == 0:
        return ops.mean(ops.stack(outputs), axis=0)
    return ops.concatenate(outputs, axis=0)


def _device(part, count):
    """The scope of a part's GPU, if TensorFlow has one for each of `count` parts."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_logical_devices("GPU")
        if len(gpus) >= count:
            return tf.device(gpus[part].name)
    return contextlib.nullcontext()
