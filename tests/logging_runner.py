"""Trains a tiny network with MLflow's and TensorBoard's own callbacks, in an environment that has them.

    python tests/logging_runner.py

`tests/test_neighbours.py` calls it; a failure is an AssertionError. Nothing leaves the folder in
which it runs: MLflow's store is a file there.
"""

import os
import pathlib

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"

import keras
import mlflow
import mlflow.tensorflow
import numpy as np
import tensorboard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy import Rectangles, ToyConfig

from mrcnn.model import MaskRCNN

HERE = pathlib.Path.cwd()
EPOCHS = 2


def trained(name, callbacks=()):
    """Trains two epochs within a run of MLflow. Returns the run and the history."""
    config = ToyConfig()
    data = Rectangles(4)
    model = MaskRCNN("training", config, str(HERE / name))
    with mlflow.start_run() as run:
        model.train(data, data, config.LEARNING_RATE, EPOCHS, "all", custom_callbacks=callbacks)
    return mlflow.MlflowClient().get_run(run.info.run_id), model.keras_model.history.history


def check_run(run, history):
    """Each loss of each epoch is there, as `train` gives it."""
    client = mlflow.MlflowClient()
    assert {"loss", "val_loss", "mrcnn_mask_loss"} <= set(history)
    for name in history:
        values = {
            each.step: each.value for each in client.get_metric_history(run.info.run_id, name)
        }
        np.testing.assert_allclose([values[i] for i in range(EPOCHS)], history[name], rtol=1e-5)


def check_callback():
    run, history = trained("callback", [mlflow.tensorflow.MlflowCallback()])
    check_run(run, history)


def check_autolog():
    """As a program that calls it once, before training; with the model as an artifact."""
    mlflow.tensorflow.autolog()
    run, history = trained("autolog")
    mlflow.tensorflow.autolog(disable=True)
    check_run(run, history)


def check_tensorboard():
    """One of the user's own, in its own folder, with histograms and a value for each step."""
    own = keras.callbacks.TensorBoard(str(HERE / "curves"), update_freq=1, histogram_freq=1)
    _, history = trained("tensorboard", [own])
    events = EventAccumulator(str(HERE / "curves" / "train"))
    events.Reload()
    tags = events.Tags()
    assert "epoch_loss" in tags["tensors"] and any("kernel" in tag for tag in tags["tensors"])
    # The package's own are in the run's folder, as without it.
    (folder,) = (HERE / "tensorboard").glob("toy*")
    assert list(folder.glob("train/events*"))


if __name__ == "__main__":
    mlflow.set_tracking_uri((HERE / "mlruns").as_uri())
    mlflow.set_experiment("toy")
    check_callback()
    check_autolog()
    print("mlflow", mlflow.__version__)
    check_tensorboard()
    print("tensorboard", tensorboard.__version__)
