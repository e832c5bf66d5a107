"""The same work under each backend of Keras; test_backends.py starts it and compares.

KERAS_BACKEND=... python backend_runner.py FOLDER [PART ...]
    Writes FOLDER/BACKEND.h5, the weights that training begins with; FOLDER/BACKEND_trained.h5, those
    after three steps; FOLDER/BACKEND.npz, the detections of the recorded network and the losses.
    Fails where a backend is wrong that needs no other beside it.
"""

import importlib.util
import pathlib
import sys
import time
import zlib

import keras
import numpy as np
import parity
from toy import KillAt, Killed, Rectangles, ToyConfig

from mrcnn import cluster, data, model as modellib, ops as kernels
from mrcnn.config import Config

BACKEND = keras.backend.backend()
STEPS = 3
SETTINGS = {
    "MASK_HEAD_CONVS": 1,
    "WORKERS": 0,
    "STEPS_PER_EPOCH": STEPS,
    "RESUME_SECONDS": 0,
    "OPTIMIZER": "sgd",
    "GRADIENT_CLIP_NORM": 1.0,
}


# ---- Detection -----------------------------------------------------------------------------------


def recorded_model(folder, mode="inference", **settings):
    """A recorded network with its weights."""
    path = folder / f"{BACKEND}_small.h5"  # the backends run at the same time
    parity.write_weights("small", path)
    model = modellib.MaskRCNN(mode, Config(**{**parity.settings(), **settings}), folder)
    model.load_weights(path)
    return model


def detections(folder):
    """What the recorded network finds on the recorded image."""
    model = recorded_model(folder)
    image = parity.read("net_small_shapes0")["image0"]
    found = model.detect([image])[0]
    # A weight that is set after a detection counts in the next.
    convolution = model.keras_model.get_layer("res2a_branch2a")
    convolution.kernel.assign(-np.array(convolution.kernel))
    changed = model.detect([image])[0]["scores"]
    assert changed.shape != found["scores"].shape or np.abs(changed - found["scores"]).max() > 1e-3
    return {f"detected/{name}": found[name] for name in ("rois", "class_ids", "scores", "masks")}


def recorded_losses(folder):
    """The losses of a training batch of the original, as far as they are from the recorded ones."""
    model = recorded_model(folder, "training", IMAGES_PER_GPU=2, **parity.BATCHES["A"])
    rows = list(parity.losses("A", model, parity.read("train")))
    return {"recorded/losses": [row.worst for row in rows if row.quantity.endswith("_loss")]}


# ---- PyTorch's kernels ---------------------------------------------------------------------------


def kernels_under_torch(folder):
    """PyTorch's kernels against those in keras.ops, which the other tests hold to loops."""
    import torch

    rng = np.random.default_rng(0)
    check_top_k(torch)
    for classes in (None, torch.tensor(rng.integers(1, 4, (3, 700)))):
        check_suppression(torch, rng, classes)
    check_that_a_chain_is_undone(torch)
    maps = [rng.normal(size=(2, side, side + 1, 3)).astype("float32") for side in (16, 8)]
    for settings in ({}, {"aligned": False}, {"samples": 1}, {"reduce": "max"}, {"samples": 0}):
        check_pooling(torch, rng, maps, kernels.roi_align, 20.0, settings)
    check_pooling(torch, rng, maps, kernels.pyramid_pool, 1.2, {})
    return {}


def check_top_k(torch):
    """Of equal values the first ones, in their order."""
    values, places = kernels.top_k(torch.tensor([[0.0, 1, 0, 1, 1], [2, 2, 3, 2, 3]]), 4)
    assert places.tolist() == [[1, 3, 4, 0], [2, 4, 0, 1]]
    assert values.tolist() == [[1, 1, 1, 0], [3, 3, 2, 2]]
    assert kernels.top_k(torch.tensor([[1.0, 3, 3]]), 1)[1].tolist() == [[1]]


def check_suppression(torch, rng, classes):
    """The same indices in the same order; with equal scores, boxes that don't take part, none."""
    corners = rng.uniform(0, 0.8, (3, 700, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0, 0.3, (3, 700, 2))], -1)
    scores = rng.integers(0, 40, (3, 700)) / 40
    valid = rng.uniform(size=(3, 700)) > 0.2
    valid[2] = False
    inputs = [torch.tensor(x.astype("float32")) for x in (boxes, scores)]
    for count in (5, 400):
        arguments = (*inputs, count, 0.3, torch.tensor(valid), classes)
        ours = kernels.non_max_suppression(*arguments)
        expected = kernels.non_max_suppression(*arguments, fused=False)
        for a, b in zip(ours, expected, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
        assert ours[1][0].sum() > 4 and not ours[1][2].any()


def check_that_a_chain_is_undone(torch):
    """Each box beats the next one: every other stays, over more than one block."""
    side = torch.arange(600, dtype=torch.float32)
    zero = torch.zeros(600)
    boxes = torch.stack([zero, side, zero + 1, side + 4], -1)[None]
    scores = torch.linspace(1, 0, 600)[None]
    indices, kept = kernels.non_max_suppression(boxes, scores, 600, 0.5)  # the IoU is 3 / 5
    assert indices[0][kept[0]].tolist() == list(range(0, 600, 2))


def check_pooling(torch, rng, maps, pool, most, settings):
    """Values and the gradient of the maps, of boxes inside, across the edge and beyond it."""
    corners = rng.uniform(-0.1 * most, most, (2, 30, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0, 0.5 * most, (2, 30, 2))], -1)
    boxes = torch.tensor(boxes.astype("float32"))
    levels = torch.tensor(rng.integers(0, 2, (2, 30)).astype("int32"))
    upstream = torch.tensor(rng.normal(size=(2, 30, 3, 2, 3)).astype("float32"))
    found = []
    for fused in (None, False):
        tensors = [torch.tensor(each, requires_grad=True) for each in maps]
        pooled = pool(tensors, boxes, levels, (3, 2), fused=fused, **settings)
        (pooled * upstream).sum().backward()
        found.append([pooled.detach(), *(each.grad for each in tensors)])
    assert found[0][0].shape == upstream.shape and found[0][0].abs().max() > 0.5
    for ours, expected in zip(*found, strict=True):
        np.testing.assert_allclose(ours.numpy(), expected.numpy(), atol=2e-5)


# ---- Three steps ---------------------------------------------------------------------------------


def set_weights(network):
    """Weights that a layer's name tells, the same under each backend."""
    for name, variable in parity.variables_of(network).items():
        if not name.endswith("kernel"):
            continue
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        spread = np.sqrt(2 / np.prod(variable.shape[:-1]))
        variable.assign(rng.normal(0, spread, variable.shape).astype("float32"))


def fixed_batch(config):
    """The inputs of a batch in which nothing is left to chance."""
    batches = data.TrainingBatches(Rectangles(2), config, shuffle=False)
    inputs = list(batches.batch(0)[0])[:7]
    # Noise: in areas of one colour a rounding error at a ReLU's kink is that of all their pixels.
    noise = np.random.default_rng(0).normal(0, 20, inputs[0].shape)
    inputs[0] = inputs[0] + noise.astype("float32")
    # On the objects and beside them; each is drawn, whatever the seed. None ends where its object
    # does: there a rounding error decides whether the mask's edge is read.
    rois = np.zeros((2, 5, 4), "float32")
    of_images = ([(9, 7, 33, 39)], [(9, 7, 33, 39), (37, 23, 61, 59)])
    for i, on_objects in enumerate(of_images):
        rois[i, : len(on_objects) + 2] = [*on_objects, (0, 44, 10, 60), (44, 0, 60, 10)]
    as_network_takes_it = []
    for array in (*inputs, rois):
        if array.dtype == bool:
            array = array.astype("uint8")
        if array.dtype == np.float64:
            array = array.astype("float32")
        as_network_takes_it.append(array)
    return tuple(as_network_takes_it)


def three_steps(folder):
    """Losses of three steps of one batch; the weights before and after them go to files."""
    config = ToyConfig(**SETTINGS, USE_RPN_ROIS=False)
    model = modellib.MaskRCNN("training", config, folder)
    network = model.keras_model
    set_weights(network)
    first = folder / f"{BACKEND}.h5"
    model.save_weights(first)
    check_that_a_file_comes_back(model, first)
    model.compile(0.02, 0.9)
    inputs = fixed_batch(config)
    names = ["loss", *network.loss_names]
    losses = []
    for _ in range(STEPS):
        network.reset_metrics()
        logs = network.train_on_batch(inputs, return_dict=True)
        losses.append([float(logs[name]) for name in names])
    if BACKEND == "jax":
        network.jax_state_sync()
    model.save_weights(folder / f"{BACKEND}_trained.h5")
    return {"steps/losses": losses, "steps/names": names}


def check_that_a_file_comes_back(model, path):
    """`.h5` in: other weights become those of the file."""
    kept = [np.array(weight) for weight in model.keras_model.weights]
    for weight in model.keras_model.weights:
        weight.assign(np.full(weight.shape, 0.5, weight.dtype))
    model.load_weights(path)
    for weight, before in zip(model.keras_model.weights, kept, strict=True):
        np.testing.assert_array_equal(np.array(weight), before, err_msg=weight.path)


# ---- A run that is killed ------------------------------------------------------------------------


def run(folder, kill=0, devices=1, machines=1, val_dataset=None):
    """Trains an epoch, killed after `kill` steps and taken up; returns the weights at its end.

    Where images are held out, also the losses on them.
    """
    images = 2 // devices // machines
    config = ToyConfig(**SETTINGS, GPU_COUNT=devices, IMAGES_PER_GPU=images)

    def train(model, *callbacks):
        return model.train(
            Rectangles(4), val_dataset, 0.02, 1, "all", custom_callbacks=[*callbacks]
        )

    model = modellib.MaskRCNN("training", config, folder)
    set_weights(model.keras_model)
    if kill:
        try:
            train(model, KillAt(kill))
        except Killed:
            pass
        if machines > 1:  # the first one has written
            cluster.from_chief(model.keras_model, "killed")
        model = modellib.MaskRCNN("training", config, folder)
        model.load_weights(model.find_last())
    history = train(model)
    assert int(np.array(model.keras_model.optimizer.iterations)) == STEPS
    if BACKEND == "jax":
        placed = model.keras_model.trainable_weights[0].value.sharding
        assert len(placed.device_set) == devices * machines and placed.is_fully_replicated
    weights = [np.array(weight) for weight in model.keras_model.trainable_weights]
    if val_dataset is None:
        return weights
    names = sorted(name for name in history.history if name.startswith("val_"))
    return weights, [history.history[name][0] for name in names]


def resumed(folder):
    """How far a run that was killed in its second step ends from one that was not."""
    whole = run(folder / f"{BACKEND}_whole")
    taken_up = run(folder / f"{BACKEND}_killed", kill=2)
    gaps = [np.abs(a - b).max() for a, b in zip(whole, taken_up, strict=True)]
    return {"resumed/gap": max(gaps)}


# ---- Two devices and two machines of JAX ---------------------------------------------------------


def two_devices(folder):
    """How far a run on two devices ends from one on one; each has half of a batch and all weights.

    Both were killed and taken up: draws and optimizer come back on two devices, too.
    """
    import jax

    assert len(jax.devices()) == 2
    alone, figures = run(folder / "one_device", kill=2, val_dataset=Rectangles(3))
    together = run(folder / "two_devices", kill=2, devices=2)
    gaps = [np.abs(a - b).max() for a, b in zip(alone, together, strict=True)]
    return {"devices/gap": max(gaps), "alone/weights": joined(alone), "alone/figures": figures}


def joined(arrays):
    """All numbers of arrays, one after the other."""
    return np.concatenate([array.ravel() for array in arrays])


def one_of_two(folder):
    """The same as one of two machines, each with half of a batch."""
    machine = cluster.find()
    fresh = modellib.MaskRCNN("training", ToyConfig(SEED=None), folder / "fresh")
    assert cluster.of(fresh.keras_model) == machine
    weights, figures = run(folder / "machines", 2, machines=2, val_dataset=Rectangles(3))
    drawn = joined(map(np.array, fresh.keras_model.trainable_weights))
    return {"drawn": drawn, "weights": joined(weights), "figures": figures}


OF_ALL = (three_steps, resumed, detections)
OF_ONE = {"torch": (kernels_under_torch, recorded_losses), "jax": (two_devices,)}
PARTS = {part.__name__: part for part in (*OF_ALL, *OF_ONE.get(BACKEND, ()))}
# Those that are asked for by name, of a machine of a cluster, which leaves machineNUMBER.npz.
OTHERS = {"one_of_two": one_of_two}


def main(folder, *names):
    """These parts, by default all; the original's losses under PyTorch alone, JAX compiles long."""
    if not names:
        names = list(PARTS)
    found = {}
    for name in names:
        began = time.process_time()
        found.update({**PARTS, **OTHERS}[name](folder))
        print(f"{name}: {time.process_time() - began:.1f} CPU seconds", flush=True)
    if BACKEND != "tensorflow":
        assert importlib.util.find_spec("tensorflow") is None, "TensorFlow is installed"
        assert "tensorflow" not in sys.modules, "TensorFlow was imported"
    machine = cluster.find()
    name = BACKEND
    if machine is not None:
        name = f"machine{machine.number}"
    np.savez(folder / f"{name}.npz", **found)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), *sys.argv[2:])
