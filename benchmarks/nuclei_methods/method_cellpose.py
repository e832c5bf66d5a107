"""Cellpose 3, its residual U-Net (CPnet) and its model of sizes, from random weights.

Gray images, nuclei scaled to 17 pixels as for its model "nuclei", the defaults of `train_seg`
otherwise (AdamW at .005, 8 crops of 224 pixels in a batch). These count epochs, not minutes, so the
time of a step is measured at a learning rate of 0 before. The rest of the time goes to the model of
sizes, a regression from the network's styles to diameters, which detection begins with.
Version 4 can't be trained from random weights: it begins with those of Segment Anything.
"""

from __future__ import annotations

import os
import tempfile
import time

# Where it would look for models, and make a folder: none is used.
os.environ.setdefault("CELLPOSE_LOCAL_MODELS_PATH", tempfile.gettempdir())

import numpy as np
import torch
import worker
from cellpose import dynamics, models, train as training

DIAMETER = 17.0
GRAY = [0, 0]  # its way to say that images have one channel
BATCH = 8
EPOCHS = 150  # with more than 100 it lowers the learning rate in the last 50
NETWORK_SHARE = 0.85  # of the time; the rest is for the sizes
USED_SHARE = 0.97  # of that, as the speed of steps varies
SIZE_CROP = 512


def gray(image: np.ndarray) -> np.ndarray:
    """[H, W] float32: the mean of the colours."""
    return image.mean(axis=-1, dtype=np.float32)


def fit(job: worker.Job, net: torch.nn.Module, data: tuple, epochs: int, steps: int) -> list:
    """Trains the network for so many epochs of so many steps; returns losses of epochs."""
    images, flows = data
    _, losses, _ = training.train_seg(
        net,
        train_data=list(images),
        train_labels=list(flows),
        channels=GRAY,
        batch_size=BATCH,
        n_epochs=epochs,
        nimg_per_epoch=steps * BATCH,
        save_path=job.folder,
        model_name="network",
    )
    return losses.tolist()


def seconds_of_step(job: worker.Job, net: torch.nn.Module, data: tuple) -> float:
    """Measured on few images, at the learning rate 0 of a first epoch."""
    few = [values[:64] for values in data]
    passed = []
    for steps in (1, 1, 7):
        start = time.perf_counter()
        fit(job, net, few, 1, steps)
        passed.append(time.perf_counter() - start)
    return max(0.01, (passed[2] - passed[1]) / 6)


@torch.no_grad()
def seconds_of_style(net: torch.nn.Module) -> float:
    """For one image of the model of sizes."""
    net.eval()
    inputs = torch.zeros(2, 2, SIZE_CROP, SIZE_CROP)
    net(inputs)
    start = time.perf_counter()
    net(inputs)
    return (time.perf_counter() - start) / 2


def train(job: worker.Job) -> dict:
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    examples = list(job.images("train"))
    images = [gray(image) for _, image, _ in examples]
    net = models.CellposeModel(gpu=False, pretrained_model=None, diam_mean=DIAMETER).net
    flows = dynamics.labels_to_flows([labels for _, _, labels in examples], device=net.device)
    flow_minutes = job.clock.passed / 60
    data = (images, flows)
    step = seconds_of_step(job, net, data)
    left = job.clock.left - (1 - NETWORK_SHARE) * job.clock.minutes * 60
    total = max(1, int(left * USED_SHARE / step))
    epochs = min(EPOCHS, total)
    steps = total // epochs
    losses = None
    try:
        with worker.at_most(left):
            losses = fit(job, net, data, epochs, steps)
    except worker.TimeIsUpError:
        net.save_model(str(job.folder / "models" / "network"))
    number = max(32, int(job.clock.left * 0.9 / seconds_of_style(net)))
    training.train_size(
        net,
        str(job.folder / "models" / "network"),
        train_data=images,
        train_labels=flows,
        channels=GRAY,
        batch_size=BATCH,
        bsize=SIZE_CROP,
        n_epochs=1,
        nimg_per_epoch=min(number, 10 * len(images)),
    )
    return {
        "steps": epochs * steps,
        "ended": losses is not None,
        "losses": losses,
        "minutes of flows": flow_minutes,
        "seconds of a step": step,
        "images for sizes": number,
    }


def predictor(job: worker.Job) -> worker.Predictor:
    torch.set_num_threads(job.threads)
    network = job.folder / "models" / "network"
    if not network.is_file():  # it would download another one
        raise FileNotFoundError(f"No file {network}")
    model = models.CellposeModel(gpu=False, pretrained_model=str(network))
    sizes = models.SizeModel(model, pretrained_size=f"{network}_size.npy")

    def find(image: np.ndarray) -> np.ndarray:
        diameter, _ = sizes.eval(gray(image), channels=GRAY)
        return model.eval(gray(image), channels=GRAY, diameter=diameter)[0]

    return find


if __name__ == "__main__":
    worker.main(train, predictor)
