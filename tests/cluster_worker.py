"""A script of one of several machines, for test_cluster.py: trains the toy and writes what came out.

python cluster_worker.py FOLDER NAME DEVICES [EPOCHS [SLEEP]]
    FOLDER/NAME.npz gets the weights and the losses of the epochs; DEVICES above 1 are logical
    CPUs of one process; SLEEP seconds follow each step, whose number is appended to FOLDER/steps
"""

import pathlib
import sys
import time

import quickly

quickly.go()


def main(folder, name, devices, epochs=2, sleep=0.0):
    import tensorflow as tf

    devices = int(devices)
    if devices > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration()] * devices
        tf.config.set_logical_device_configuration(cpu, parts)
    import keras
    import numpy as np
    from toy import Logs, Rectangles, ToyConfig

    from mrcnn import model as modellib

    folder = pathlib.Path(folder)
    config = ToyConfig(
        GPU_COUNT=devices,
        IMAGES_PER_GPU=1,
        TRAIN_BN=None,
        STEPS_PER_EPOCH=5,
        VALIDATION_STEPS=2,
        WEIGHT_DECAY=1e-3,
        GRADIENT_CLIP_NORM=0.5,
        LEARNING_RATE_SCHEDULE="cosine",
        RESUME_SECONDS=0.0,
        ROI_POSITIVE_IOU=0.2,  # so that the heads' losses are not all 0
        WORKERS=0,
    )
    model = modellib.MaskRCNN("training", config, folder / "logs")
    if float(sleep):
        try:
            model.load_weights(model.find_last())
        except FileNotFoundError:
            pass
    else:
        model.load_weights(folder / "first.weights.h5")

    class SlowLogs(Logs):
        """Notes each step in a file as well, and then sleeps."""

        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            if float(sleep):
                with open(folder / f"steps_{name}", "a") as file:
                    file.write(f"{model.epoch} {batch}\n")
                time.sleep(float(sleep))

    logs = SlowLogs()
    history = model.train(
        Rectangles(40),
        Rectangles(6),
        0.05,
        epochs=int(epochs),
        layers="all",
        custom_callbacks=[logs, keras.callbacks.CSVLogger(folder / f"{name}.csv")],
    )
    arrays = {f"w{i:03d}": np.asarray(w) for i, w in enumerate(model.keras_model.weights)}
    names = sorted(history.history)
    table = np.array([history.history[column] for column in names])
    losses = [[of_step[column] for column in sorted(of_step)] for of_step in logs.steps]
    np.savez(folder / f"{name}.npz", losses=losses, history=table, names=names, **arrays)
    print("log_dir", model.log_dir)
    if devices > 1:
        print("again", *take_up(model, config))


def take_up(trained, config):
    """The epoch at which another model takes up a run, and for how many images another detects."""
    from toy import Rectangles

    from mrcnn import model as modellib

    again = modellib.MaskRCNN("training", config, trained.model_dir)
    again.load_weights(trained.find_last())
    inference = modellib.MaskRCNN("inference", config, trained.model_dir)
    inference.load_weights(trained.find_last())
    image = Rectangles(1).load_image(0)
    return again.epoch, len(inference.detect([image] * 3))


if __name__ == "__main__":
    main(*sys.argv[1:])
