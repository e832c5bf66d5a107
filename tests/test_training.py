"""Runs of training: what is learnt, resuming, bad losses, checkpoints, every kind of input."""

import datetime
import json
import logging
import os
import pathlib
import re
import resource
import subprocess
import sys
import types

import h5py
import keras
import numpy as np
import oracle
import pytest
import quickly
import test_backends
from keras import ops
from toy import BY_HEART, KillAt, Killed, Logs, Rectangles, ToyConfig

from mrcnn import commands, data, files, model as modellib, training
from mrcnn.config import Config
from mrcnn.utils import Dataset


def train(config, logs, epochs=1, dataset=None, model=None, **kwargs):
    model = model or modellib.MaskRCNN("training", config, logs)
    dataset = dataset or Rectangles()
    history = model.train(
        dataset, kwargs.pop("val", None), config.LEARNING_RATE, epochs, "all", **kwargs
    )
    return model, history


def detect_with(model, config, image, never_background=False):
    inference = modellib.MaskRCNN("inference", config, model.model_dir)
    inference.load_weights(model.find_last())
    if never_background:
        bias = inference.keras_model.get_layer("mrcnn_class_logits").layer.bias
        bias.assign([-20.0] + [0.0] * (config.NUM_CLASSES - 1))
    return inference.detect([image])[0]


@pytest.mark.heavy
def test_overfits_one_image(tmp_path):
    """One image, two objects: both found, each mask with an IoU above .9."""
    keras.utils.set_random_seed(0)
    config = ToyConfig(**BY_HEART)
    dataset = Rectangles(2)
    dataset.image_info = dataset.image_info[1:]
    dataset.prepare()
    model, _ = train(config, tmp_path, dataset=dataset)
    result = detect_with(model, config, dataset.load_image(0))
    masks, class_ids = dataset.load_mask(0)
    assert sorted(result["class_ids"]) == sorted(class_ids)
    for mask, class_id in zip(np.moveaxis(masks, -1, 0), class_ids):
        found = result["masks"][..., list(result["class_ids"]).index(class_id)]
        assert (mask & found).sum() / (mask | found).sum() > 0.9


# Settings that don't touch each other share a run: tracing the graphs of a run is what takes time.
@pytest.mark.heavy
@pytest.mark.parametrize(
    "settings",
    [
        dict(
            MASK_SHAPE=[28, 28],
            OPTIMIZER="adamw",
            IMAGE_CHANNEL_COUNT=5,
            MEAN_PIXEL=np.arange(5.0),
            CLASS_LOSS_ON_PADDING=False,
        ),
        dict(MASK_SHAPE=[56, 56], MASK_POOL_SIZE=28, TRAIN_BN=None, IMAGE_RESIZE_MODE="shorter"),
        dict(
            USE_MASK=False,
            IMAGE_CHANNEL_COUNT=1,
            MEAN_PIXEL=np.array([100.0]),
            IMAGES_PER_GPU=3,
            IMAGE_RESIZE_MODE="pad64",
        ),
        dict(IMAGES_PER_GPU=1, USE_MINI_MASK=False, IMAGE_RESIZE_MODE="none"),
    ],
    ids=str,
)
def test_every_kind_of_input_trains_and_detects(tmp_path, settings):
    """Losses are finite, images without objects among them; detections have their shapes."""
    config = ToyConfig(**settings)
    shape = (
        (128, 64, config.IMAGE_CHANNEL_COUNT)
        if config.IMAGE_RESIZE_MODE in ("pad64", "none")
        else (70, 60, config.IMAGE_CHANNEL_COUNT)
    )
    dataset = Rectangles(5, shape, empty=True)
    model, history = train(config, tmp_path, dataset=dataset, val=dataset)
    names = {"loss", *modellib.config_module.LOSS_NAMES[: 5 if config.USE_MASK else 4]}
    assert names <= set(history.history) and {f"val_{name}" for name in names} <= set(
        history.history
    )
    assert np.isfinite(list(history.history.values())).all()
    result = detect_with(model, config, dataset.load_image(0), never_background=True)
    count = len(result["scores"])
    assert count and result["rois"].shape == (count, 4) and result["rois"].dtype == np.int32
    if config.USE_MASK:
        assert result["masks"].shape == (*shape[:2], count) and result["masks"].dtype == bool
    else:
        assert result["masks"] is None


@pytest.mark.heavy
def test_crop_mode_trains_and_is_refused_in_detection(tmp_path):
    config = ToyConfig(IMAGE_RESIZE_MODE="crop")
    dataset = Rectangles(4, (100, 90, 3))
    train(config, tmp_path, dataset=dataset)
    with pytest.raises(ValueError, match="IMAGE_RESIZE_MODE 'crop'"):
        modellib.MaskRCNN("inference", config, tmp_path).detect([dataset.load_image(0)])


UNDER_JAX = """
import sys
sys.path.insert(0, sys.argv[1])
import h5py, keras, numpy as np
from toy import Rectangles, ToyConfig
from mrcnn import model as modellib, training

assert keras.backend.backend() == "jax"
config = ToyConfig(RESUME_SECONDS=0, STEPS_PER_EPOCH=3)
model = modellib.MaskRCNN("training", config, sys.argv[2])
first = [np.asarray(weight) for weight in model.keras_model.trainable_weights]
path = training.resume_path(model.log_dir, config.NAME)
steps = []


class Reads(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        with h5py.File(path, "r") as file:
            bias = file["mrcnn_class_logits"]["mrcnn_class_logits"]["bias:0"][()]
        steps.append((training.read_state(path)["step"], float(np.abs(bias).sum())))


history = model.train(
    Rectangles(4), None, 0.01, 1, "all", custom_callbacks=[Reads()]
).history
assert np.isfinite(history["loss"]).all()
assert [step for step, _ in steps] == [1, 2, 3], steps
sums = [total for _, total in steps]
assert 0 < sums[0] and len(set(sums)) == 3 and np.isfinite(sums).all(), sums
last = [np.asarray(weight) for weight in model.keras_model.trainable_weights]
assert any(np.abs(a - b).max() > 0 for a, b in zip(first, last))
assert int(np.asarray(model.keras_model.optimizer.iterations)) == 3
print("trained")
"""


@pytest.mark.slow  # JAX compiles for 100 CPU seconds
@test_backends.needed
def test_trains_under_jax(tmp_path):
    """With a resume file after each step, which JAX has given the variables' memory away in."""
    done = subprocess.run(
        [test_backends.PYTHON, "-c", UNDER_JAX, str(oracle.TESTS), str(tmp_path)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(test_backends.ROOT),
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "trained"


@pytest.mark.heavy
def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    """Killed in the middle of an epoch: weights, optimizer, schedule, draws and data continue where
    they were, bit for bit, with another number of threads that make the batches."""
    settings = dict(
        OPTIMIZER="sgd",
        LEARNING_RATE=1e-2,
        LEARNING_RATE_SCHEDULE="cosine",
        WARMUP_STEPS=2,
        STEPS_PER_EPOCH=4,
        RESUME_SECONDS=0,
    )

    def run(folder, workers, kill=None):
        config = ToyConfig(WORKERS=workers, **settings)
        model = modellib.MaskRCNN("training", config, folder)
        logs = Logs()
        if kill:
            with pytest.raises(Killed):
                train(config, folder, 2, model=model, custom_callbacks=[KillAt(kill)])
            # Without the clock's limit on writing every step has its resume file.
            keras.utils.set_random_seed(99)
            model = modellib.MaskRCNN("training", config, folder)
            model.load_weights(model.find_last())
        train(config, folder, 2, model=model, custom_callbacks=[logs])
        return model, losses_of(logs.steps[-1])

    (whole, means), (killed, _) = run(tmp_path / "whole", 0), run(tmp_path / "killed", 2, kill=6)
    assert np.isfinite(means).all() and killed.epoch == 2
    assert int(killed.keras_model.optimizer.iterations.numpy()) == 8
    np.testing.assert_array_equal(_trainable(whole), _trainable(killed))

    # Between the first epoch's checkpoint and its resume file: that of a step before is taken, and
    # what followed is done again.
    noted = []

    def save(run):
        noted.append((run.owner.epoch, run.step))
        if noted[-1] == (1, 0) and noted.count((1, 0)) == 1:
            raise Killed
        if run.step != 3:
            write(run)

    write = training.Run.save
    monkeypatch.setattr(training.Run, "save", save)
    cut, _ = run(tmp_path / "cut", 0, kill=99)
    assert noted[0] == (0, 1) and noted.count((1, 0)) == 2 and noted[-1] == (2, 0)
    np.testing.assert_array_equal(_trainable(whole), _trainable(cut))


@pytest.mark.heavy
def test_mixed_float16_resumes_and_averages(tmp_path, caplog):
    """Keras wraps the optimizer to scale the loss. Its state was not resumed, and EMA_MOMENTUM had
    no effect on checkpoints."""
    settings = dict(OPTIMIZER="sgd", EMA_MOMENTUM=0.5, STEPS_PER_EPOCH=3, VALIDATION_STEPS=0)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        config = ToyConfig(IMAGES_PER_GPU=1, **settings)
        whole, _ = train(config, tmp_path / "whole", 2)
        half, _ = train(config, tmp_path / "cut", 1)
        cut = modellib.MaskRCNN("training", config, tmp_path / "cut")
        cut.load_weights(cut.find_last())
        train(config, tmp_path / "cut", 2, model=cut)
    finally:
        keras.config.set_dtype_policy(policy)
    assert "begins anew" not in caplog.text and int(cut.keras_model.optimizer.iterations) > 0
    np.testing.assert_array_equal(_trainable(cut), _trainable(whole))
    with (
        h5py.File(whole.find_last()) as checkpoint,
        h5py.File(training.resume_path(whole.log_dir, config.NAME)) as resume,
    ):
        name = "mrcnn_class_logits/mrcnn_class_logits/bias:0"
        assert np.abs(checkpoint[name][()] - resume[name][()]).max() > 0


def _trainable(model):
    """A copy of all trainable weights, one after the other."""
    return np.concatenate([np.ravel(w) for w in model.keras_model.trainable_weights])


class Counting(Rectangles):
    """Notes which images are read."""

    def __init__(self, count):
        super().__init__(count)
        self.seen = []

    def load_image(self, image_id):
        self.seen.append(image_id)
        return super().load_image(image_id)


SHORT = dict(NAME="My toy", STEPS_PER_EPOCH=1)


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory):
    """A run of two epochs by two calls of `train`: the model, what the resume file said after the
    first, and the images, of nine, that the second one read."""
    config, dataset = ToyConfig(**SHORT), Counting(9)
    model, _ = train(config, tmp_path_factory.mktemp("logs"), dataset=dataset)
    with h5py.File(os.path.join(model.log_dir, "mask_rcnn_my toy_resume.h5")) as file:
        state = json.loads(file.attrs["mrcnn_run"])
    dataset.seen.clear()
    train(config, model.model_dir, 2, dataset=dataset, model=model)
    return model, state, list(dataset.seen)


@pytest.fixture(scope="module")
def taken_up(two_epochs):
    """Another model with the last checkpoint of that run."""
    model = modellib.MaskRCNN("training", ToyConfig(**SHORT), two_epochs[0].model_dir)
    model.load_weights(model.find_last())
    return model


@pytest.mark.heavy
def test_resume_file_has_a_limit_and_a_plan(two_epochs, taken_up):
    """A run with another plan starts from the checkpoint, not from the interrupted one's state."""
    _, state, _ = two_epochs
    assert state["epoch"] == 1 and state["step"] == 0
    run = training.Run(taken_up, Rectangles(), None, 0.5, 3, ".*", None, None, None)
    found = run._state_of_these_weights()
    assert found["epoch"] == 2 and not run._is_of_this_plan(found)
    bias = taken_up.keras_model.get_layer("mrcnn_mask").layer.bias
    before = np.array(bias)
    bias.assign(before + 1e-6)
    assert run._state_of_these_weights() is None  # other weights than the run's
    bias.assign(before)


@pytest.mark.heavy
def test_find_last_and_epochs(two_epochs, taken_up, caplog):
    model, _, _ = two_epochs
    last = model.find_last()
    folder, file = last
    assert os.path.basename(last) == "mask_rcnn_my toy_0002.h5" and (last[0], last[1]) == (
        folder,
        file,
    )
    assert os.path.samefile(folder, model.log_dir) and os.path.exists(last)
    assert taken_up.epoch == 2
    # A finished stage of a script that is run again is skipped, as in the original, and says so.
    with caplog.at_level(logging.INFO, "mrcnn"):
        _, history = train(ToyConfig(), model.model_dir, 2, model=taken_up)
    assert history.epoch == [] and history.history == {} and taken_up.epoch == 2
    assert "reached epoch 2: nothing to train to epoch 2" in caplog.text
    with pytest.raises(FileNotFoundError, match="mask_rcnn_my_"):
        modellib.MaskRCNN("training", ToyConfig(NAME="my"), model.model_dir).find_last()


@pytest.mark.parametrize(
    "path, epoch",
    [
        ("a b.c20261129T1030/mask_rcnn_a b.c_0007.h5", 7),
        ("x/toy20261129T1030/mask_rcnn_toy_12345.h5", 12345),
        ("toy20261129T1030/mask_rcnn_toy.h5", None),
        # Outside a run's folder a number is a part of a name, as for the original.
        ("mask_rcnn_toy_0007.h5", None),
        ("best/mask_rcnn_toy_0007.h5", None),
        ("toy20261129/mask_rcnn_toy_0007.h5", None),
        ("toy20261129T1030_copy/mask_rcnn_toy_0007.h5", None),
        ("20261129T1030/mask_rcnn_toy_0007.h5", None),
        ("mask_rcnn_coco.h5", None),
        ("resnet50.h5", None),
    ],
)
def test_epoch_of_a_checkpoint(path, epoch):
    found = training.parse_checkpoint(path)
    assert (found and found[1]) == epoch
    assert found is None or found[0] == os.path.abspath(os.path.dirname(path))


@pytest.mark.heavy
def test_nan_stops_training_with_the_images_of_the_batch(tmp_path):
    with pytest.raises(
        training.BadLossError, match=r"loss is (nan|inf).*step \d, with the images \[\d, \d\]"
    ):
        train(ToyConfig(LEARNING_RATE=1e30, GRADIENT_CLIP_NORM=None, STEPS_PER_EPOCH=10), tmp_path)


class Broken(Rectangles):
    """Image 0: unreadable; 1: mask of another size; 2: class id out of range; 3: fine."""

    def load_image(self, image_id):
        if image_id == 0:
            raise OSError("truncated")
        return super().load_image(image_id)

    def load_mask(self, image_id):
        masks, class_ids = super().load_mask(image_id)
        return (masks[:-1] if image_id == 1 else masks), (
            class_ids + 7 if image_id == 2 else class_ids
        )


def test_a_broken_dataset_is_refused_with_every_problem(tmp_path):
    with pytest.raises(data.DatasetError) as error:
        train(ToyConfig(), tmp_path, dataset=Broken())
    text = str(error.value)
    for part in (
        "3 problem(s)",
        "image 0 (toy/0.png) can't be read: OSError: truncated",
        "(63, 64, 2) for image 1 (toy/1.png)",
        "1..2",
        "[8] for image 2 (toy/2.png)",
    ):
        assert part in text
    assert not os.listdir(tmp_path)


@pytest.mark.heavy
def test_the_check_can_be_limited_and_is_not_repeated(two_epochs):
    """CHECK_IMAGES 2 reads the first and the last image; a second call of train reads none."""
    dataset = Counting(9)
    data.check_dataset(dataset, ToyConfig(CHECK_IMAGES=2))
    assert sorted(dataset.seen) == [0, 8]
    data.check_dataset(dataset, ToyConfig(CHECK_IMAGES=0))
    data.check_dataset(dataset, ToyConfig())
    assert sorted(dataset.seen[2:]) == list(range(9))
    _, _, read_again = two_epochs
    assert len(read_again) < 9


def test_datasets_without_images_or_classes_are_refused(tmp_path):
    empty = Dataset()
    empty.prepare()
    with pytest.raises(data.DatasetError, match="(?s)no classes.*no images"):
        train(ToyConfig(), tmp_path, dataset=empty)
    with pytest.raises(data.DatasetError, match="not prepared"):
        train(ToyConfig(), tmp_path, dataset=Dataset())
    with pytest.raises(data.DatasetError, match="NUM_CLASSES is 4, the dataset has 3"):
        train(ToyConfig(NUM_CLASSES=4), tmp_path)


@pytest.mark.filterwarnings("ignore:objects")  # of empty masks it is said, too
@pytest.mark.parametrize("kind", ["no objects", "crowds", "empty masks"])
def test_a_dataset_without_an_object_is_refused(tmp_path, kind, caplog):
    """Before the first step where every image is checked, otherwise after a pass."""
    dataset = WithoutObjects(kind)
    with pytest.raises(data.DatasetError, match="none of the 4 images.*class id above 0"):
        train(ToyConfig(), tmp_path, dataset=dataset)
    data.check_dataset(dataset, ToyConfig(), needs_objects=False)
    assert "none of the 4 images" in caplog.text  # of validation images a warning
    config = ToyConfig(CHECK_IMAGES=2)
    data.check_dataset(dataset, config)
    batches = data.TrainingBatches(dataset, config, needs_objects=True)
    stream = training.BatchStream(batches, workers=2)
    with pytest.raises(data.DatasetError, match="none of the 4 images"):
        for _ in range(3):
            stream.take()
    stream.close()


class WithoutObjects(Rectangles):
    def __init__(self, kind):
        super().__init__(4)
        self.kind = kind

    def load_mask(self, image_id):
        masks, class_ids = super().load_mask(image_id)
        if self.kind == "no objects":
            return masks[..., :0], class_ids[:0]
        if self.kind == "crowds":
            return masks, -class_ids
        return masks & False, class_ids


def test_one_object_in_the_last_image_is_enough():
    """Also where a crop cuts the object off the example."""
    dataset = WithoutObjects("no objects")
    whole = Rectangles(4)
    dataset.load_mask = lambda i: (
        whole.load_mask(i) if i == 3 else WithoutObjects.load_mask(dataset, i)
    )
    config = ToyConfig()
    data.check_dataset(dataset, config)

    def cut(image, masks):
        return image, masks & False

    batches = data.TrainingBatches(dataset, config, augmentation=cut, needs_objects=True)
    for step in range(4):
        batches.batch(step)


def test_images_of_a_source_without_a_class_are_named(tmp_path):
    dataset = Rectangles(3)
    dataset.add_image("drone", 17, path="d/17.png", shape=(64, 64, 3), objects=[])
    dataset.prepare()
    for call in (
        lambda: train(ToyConfig(CHECK_IMAGES=0), tmp_path, dataset=dataset),
        lambda: data.load_image_gt(dataset, ToyConfig(), 3),
    ):
        with pytest.raises(data.DatasetError, match=r"image 3 \(d/17.png\).*'drone'.*'toy'"):
            call()


@pytest.mark.parametrize("dataset", ["photos", Rectangles, 0.001, {}, np.zeros(3)], ids=str)
def test_what_is_no_dataset_is_refused(tmp_path, dataset):
    for name in ("train_dataset", "val_dataset"):
        given = {"train_dataset": Rectangles(2), "val_dataset": None, name: dataset}
        with pytest.raises(data.DatasetError, match=f"{name} is a Dataset.*Received: "):
            data.check_dataset(given[name], ToyConfig(), name)


def test_modes_are_checked(toy_detector, tmp_path):
    with pytest.raises(ValueError, match="'training' or 'inference'. Received: 'test'"):
        modellib.MaskRCNN("test", ToyConfig(), tmp_path)
    with pytest.raises(ValueError, match="needs a model in mode 'training'"):
        train(ToyConfig(), tmp_path, model=toy_detector)


def test_batches_do_not_depend_on_the_number_of_threads():
    batches = data.TrainingBatches(Rectangles(5), ToyConfig(), seed=3)
    streams = [training.BatchStream(batches, 2, workers) for workers in (0, 1, 3)]
    for _ in range(4):
        first, *others = [stream.take()[0] for stream in streams]
        for other in others:
            for a, b in zip(first, other):
                np.testing.assert_array_equal(a, b)
    for stream in streams:
        stream.close()


def test_schedule():
    schedule = training.WarmupSchedule(0.1, 10, 110)
    rates = [float(schedule(step)) for step in (0, 5, 10, 60, 110, 200)]
    np.testing.assert_allclose(rates, [1e-4, 0.1 * 0.5005, 0.1, 0.05, 0, 0], atol=1e-6)
    assert (
        training.WarmupSchedule.from_config(schedule.get_config()).get_config()
        == schedule.get_config()
    )


def after_steps(make):
    """Three weights after four steps with gradients that are clipped in some, one after the
    other."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    weights = [keras.Variable(rng.normal(size=shape)) for shape in ((3, 4), (5,), (2, 2, 3))]
    optimizer = make()
    optimizer.build(weights)

    @tf.function
    def step(*gradients):
        optimizer.apply(list(gradients), weights)

    for scale in (0.1, 3.0, 0.01, 1.0):
        step(*[ops.convert_to_tensor(rng.normal(size=w.shape) * scale, "float32") for w in weights])
    return np.concatenate([np.ravel(weight) for weight in weights])


@pytest.mark.parametrize(
    "name, settings",
    [
        ("SGD", dict(momentum=0.9)),
        ("SGD", dict(momentum=0.9, nesterov=True)),
        ("SGD", dict()),
        ("Adam", dict()),
        ("Adam", dict(amsgrad=True)),
        ("AdamW", dict(weight_decay=0.1, use_ema=True, ema_momentum=0.9)),
    ],
    ids=str,
)
def test_fused_updates_are_those_of_keras(name, settings):
    """With clipping, and a learning rate that changes with each step."""

    def make(kind):
        rate = training.WarmupSchedule(0.1, 2, 4)
        return lambda: kind(rate, global_clipnorm=1.0, **settings)

    found = after_steps(make(getattr(training, name)))
    expected = after_steps(make(getattr(keras.optimizers, name)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(found - after_steps(lambda: keras.optimizers.SGD(0.0))).min() > 0


def test_weight_decay_computes_the_learning_rate_once():
    """Keras computes a schedule for each variable anew: that was a fifth of a small network's
    graph, and of the time before its first step."""
    import tensorflow as tf

    weights = [keras.Variable(np.ones(3)) for _ in range(5)]
    rate = training.WarmupSchedule(0.1, 2, 4)
    optimizer = training.AdamW(rate, weight_decay=0.1)
    optimizer.build(weights)
    step = tf.function(lambda *gradients: optimizer.apply(list(gradients), weights))
    graph = step.get_concrete_function(*[tf.TensorSpec(3)] * 5).graph
    kinds = [operation.type for operation in graph.get_operations()]
    assert kinds.count("Cos") == 2  # of the decay, and of the update
    assert kinds.count("ResourceApplyAdam") == kinds.count("AssignSubVariableOp") == 5


def test_batches_of_a_run_have_a_known_size():
    """The dataset that `fit` gets: the stream's batches in order, each size known, but for height
    and width where images have several; the first two have one here, the third another."""
    shapes = [(None, None, None, 3), (None, None), (None, None, 1), (None, None, 4), (None, None)]
    shapes += [(None, None, 4), (None, None, None, None)]

    def dataset(**settings):
        config = ToyConfig(USE_MINI_MASK=False, IMAGES_PER_GPU=1, **settings)
        images = Rectangles(3)
        images.image_info[2]["shape"] = (64, 128, 3)
        batches = data.TrainingBatches(images, config, shuffle=False)
        return training.BatchStream(batches, workers=0).dataset(shapes)

    several = dataset(IMAGE_RESIZE_MODE="none")
    assert several.element_spec[0][0].shape.as_list() == [1, None, None, 3]
    assert several.element_spec[0][4].shape.as_list() == [1, None]
    found = [(int(inputs[1][0, 0]), inputs[0].shape[2]) for (inputs,) in several.take(4)]
    assert found == [(0, 64), (1, 64), (2, 128), (0, 64)]
    one = dataset().element_spec[0]
    side = ToyConfig.IMAGE_MAX_DIM
    assert one[0].shape.as_list() == [1, side, side, 3]
    assert one[6].shape.as_list() == [1, side, side, ToyConfig.MAX_GT_INSTANCES]


class Wide(Rectangles):
    """Six images of two widths. In the order of validation the first two have the same one."""

    ORDER = [1, 4, 3, 0, 2, 5]

    def __init__(self):
        super().__init__(6)
        for image_id in self.ORDER[2:]:
            self.image_info[image_id]["shape"] = (64, 128, 3)


WIDE = dict(IMAGE_RESIZE_MODE="pad64", IMAGES_PER_GPU=1, STEPS_PER_EPOCH=1, VALIDATION_STEPS=3)


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_uses_each_image_once_whatever_was_resumed(workers):
    """Two epochs of three steps are all six images, also for Keras, which would begin each epoch
    with the same two. A run that is resumed goes on with the second half."""
    batches = data.TrainingBatches(Wide(), ToyConfig(**WIDE), seed=0)
    assert [batches.image_ids(step) for step in range(6)] == [[i] for i in Wide.ORDER]
    owner = types.SimpleNamespace(epoch=0)

    def made():
        return training.ValidationStream(batches, 3, lambda: owner.epoch, workers)

    def ids_of(stream):
        return [int(inputs[1][0, 0]) for (inputs,) in stream]

    whole = made()
    shapes = [(None, None, None, 3), (None, None), (None, None, 1), (None, None, 4), (None, None)]
    shapes += [(None, None, 4), (None, None, None, None)]
    dataset = whole.adapter(shapes).get_tf_dataset()
    endless = whole.generator()
    read = []
    for owner.epoch in range(2):
        read.append([ids_of(whole.of_epoch()), ids_of(dataset)])
        read[-1].append([int(next(endless)[0][1][0, 0]) for _ in range(3)])
    assert read == [[Wide.ORDER[:3]] * 3, [Wide.ORDER[3:]] * 3]
    assert ids_of(made().of_epoch()) == Wide.ORDER[3:]
    endless.close()
    whole.close()


@pytest.mark.heavy
def test_validation_on_images_of_several_sizes(tmp_path):
    """The first two batches have one width, the third another: Keras took that of the first two for
    the width of all. All six are read in two epochs, also those that training would repeat. The
    error of an image that can't be read is its own."""
    config = ToyConfig(**WIDE)
    val = Wide()
    val.image_info[1]["repeat_factor"] = 3
    read = set()
    load = val.load_image
    val.load_image = lambda image_id: read.add(int(image_id)) or load(image_id)
    model, history = train(config, tmp_path, 2, dataset=Rectangles(3), val=val)
    losses = history.history["val_loss"]
    assert len(losses) == 2 and np.isfinite(losses).all() and len(read) == 6
    val.load_image = lambda image_id: 1 / 0
    with pytest.raises((ValueError, ZeroDivisionError), match="division|image"):
        train(config, tmp_path, 3, dataset=Rectangles(3), val=val, model=model)


# ---- What train is called with -------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_network():
    """Layers of a few weights with the names of the real ones."""
    names = ("conv1", "res3a_branch2a", "bn5c_branch2c", "fpn_c5p5", "mrcnn_mask")
    inner = keras.Sequential([keras.layers.Dense(2, name="rpn_class_raw")], name="rpn_model")
    layers = [keras.layers.Dense(2, name=name) for name in names]
    return keras.Sequential([keras.Input((2,)), *layers, keras.layers.ReLU(name="relu"), inner])


@pytest.mark.parametrize("layers", ["heads", "3+", "4+", "5+", "all"])
def test_names_of_layers(small_network, layers):
    for written in (layers, layers.upper(), layers.title(), f" {layers}"):
        assert training.layer_regex(written, small_network) == training.LAYER_CHOICES[layers]


def test_stages_that_a_backbone_lacks_are_said(caplog):
    names = ("block_1_expand", "mrcnn_mask")
    layers = [keras.layers.Dense(2, name=name) for name in names]
    network = keras.Sequential([keras.Input((2,)), *layers])
    assert training.layer_regex("4+", network) == training.LAYER_CHOICES["4+"]
    assert "layers '4+' trains the heads alone" in caplog.text


@pytest.mark.parametrize(
    "regex", [r"(mrcnn_.*)|(rpn_.*)", "conv1", ".*", r"res3.*|bn3.*", "(?i)FPN.*"]
)
def test_regexes_of_layers(small_network, regex):
    assert training.layer_regex(regex, small_network) == regex


@pytest.mark.parametrize(
    "layers, part",
    [
        ("head", "near it are 'heads'"),
        ("3", r"near it are .*'3\+'"),
        ("res3", "matches no layer"),
        ("mrcnn_msk", "near it are 'mrcnn_mask'"),
        ("mrcnn_", "matches no layer"),
        ("", "matches no layer"),
        ("heads|al", "matches no layer"),
        ("*", "no regex"),
        ("(mrcnn_.*", "no regex"),
        (3, "Received: 3"),
        (None, "Received: None"),
        (["heads"], r"Received: \['heads'\]"),
    ],
)
def test_layers_that_train_nothing_are_refused(small_network, layers, part):
    with pytest.raises(ValueError, match=rf"'heads', 'all', '3\+'.* regex .*{part}"):
        training.layer_regex(layers, small_network)


@pytest.mark.parametrize(
    "rate, epochs",
    [(0.001, 30), (np.float32(0.5), np.int64(2)), (1, 1), (0, 2), (1e30, 5.0), (np.array(0.1), 3)],
)
def test_numbers_of_train(rate, epochs):
    checked = training.check_numbers(rate, epochs)
    assert checked == (float(rate), int(epochs)) and type(checked[1]) is int


@pytest.mark.parametrize(
    "rate, epochs, part",
    [
        (30, 0.001, "epochs.*Received: 0.001, which looks like a learning rate"),
        (0.001, 0, "whole number from 1. Received: 0"),
        (0.001, -3, "Received: -3"),
        (0.001, 2.5, "Received: 2.5"),
        (0.001, "heads", "Received: 'heads'"),
        (0.001, True, "Received: True"),
        (-0.1, 3, "learning_rate is a number from 0. Received: -0.1"),
        (float("nan"), 3, "learning_rate.*nan"),
        (float("inf"), 3, "learning_rate.*inf"),
        ("0.1", 3, "learning_rate.*'0.1'"),
        (None, None, "learning_rate.*None; epochs.*None"),
        ([0.1], 3, r"learning_rate.*\[0.1\]"),
    ],
)
def test_wrong_numbers_of_train_are_refused(rate, epochs, part):
    with pytest.raises(ValueError, match=part):
        training.check_numbers(rate, epochs)


def test_train_refuses_before_anything_is_read(tmp_path):
    """USE_RPN_ROIS = False, a misspelt `layers`, swapped numbers; nothing is written."""
    dataset = Counting(2)
    model = modellib.MaskRCNN("training", ToyConfig(), tmp_path)
    with pytest.raises(ValueError, match="near it are 'heads'"):
        model.train(dataset, None, 0.1, 1, "head")
    with pytest.raises(ValueError, match="looks like a learning rate"):
        model.train(dataset, None, 20, 0.001, "heads")
    model.config.USE_RPN_ROIS = False
    with pytest.raises(ValueError, match="Received: USE_RPN_ROIS = False"):
        model.train(dataset, None, 0.1, 1, "heads")
    assert dataset.seen == [] and os.listdir(tmp_path) == []


@pytest.mark.parametrize("option", ["--epochs=0", "--epochs=-2", "--evaluate-every=-1"])
def test_counts_of_the_commands_are_checked(option, capsys):
    parser = commands.parser("a sample", ("train",), inputs=None)
    with pytest.raises(SystemExit):
        commands.parse(parser, ["train", "--weights=none", option])
    assert f"Received: {option.split('=')[1]}" in capsys.readouterr().err


# ---- The folder of a run -------------------------------------------------------------------------

# As matterport's set_log_dir reads the path of a checkpoint.
MATTERPORT = r".*[/\\][\w-]+(\d{4})(\d{2})(\d{2})T(\d{2})(\d{2})[/\\]mask\_rcnn\_[\w-]+(\d{4})\.h5"


def test_runs_of_one_minute_have_folders_of_their_own(tmp_path):
    start = datetime.datetime(2026, 11, 29, 23, 59)
    folders = [training.new_log_dir(str(tmp_path), "Toy", start) for _ in range(3)]
    names = [os.path.basename(folder) for folder in folders]
    assert names == ["toy20261129T2359", "toy20261130T0000", "toy20261130T0001"]
    for folder in folders:
        path = training.checkpoint_path(folder, "Toy").format(epoch=7)
        assert training.parse_checkpoint(path) == (folder, 7)
        assert re.match(MATTERPORT, path).group(6) == "0007"
        open(path, "w").close()
    assert training.find_last(str(tmp_path), "Toy") == path  # the one that began last
    other = training.new_log_dir(str(tmp_path), "other", start, make=False)
    assert os.path.basename(other) == "other20261129T2359" and not os.path.exists(other)


@pytest.mark.long
def test_two_models_never_share_a_folder(tmp_path):
    """The folder is made when it is asked for, not by a model that only detects or is only built."""
    models = [modellib.MaskRCNN("training", ToyConfig(), tmp_path) for _ in range(2)]
    assert os.listdir(tmp_path) == []
    first, second = (model.log_dir for model in models)
    assert first != second and models[0].log_dir == first and len(os.listdir(tmp_path)) == 2
    assert os.path.dirname(models[1].checkpoint_path) == second
    models[1].log_dir = tmp_path / "mine"
    assert models[1].checkpoint_path == str(tmp_path / "mine" / "mask_rcnn_toy_{epoch:04d}.h5")
    models[1].set_log_dir()
    assert models[1].log_dir not in (first, second)
    # A callback that was given the folder before the weights were loaded writes where `train` does.
    models[0].set_log_dir("mask_rcnn_coco.h5")
    assert models[0].log_dir == first


def test_a_numbered_file_outside_a_run_begins_a_new_one(tmp_path, caplog):
    model = modellib.MaskRCNN("training", ToyConfig(), tmp_path)
    path = tmp_path / "mask_rcnn_toy_0007.h5"
    model.save_weights(path)
    with caplog.at_level(logging.INFO, "mrcnn"):
        model.load_weights(path)
    assert model.epoch == 0 and re.fullmatch(r"toy\d{8}T\d{4}", os.path.basename(model.log_dir))
    assert "a new run begins at epoch 0" in caplog.text


@pytest.mark.parametrize(
    "folder, own",
    [
        ("logs/toy20180102T0304", "logs/toy20180102T0304"),
        ("logs/Toy20180102T0304", "logs/Toy20180102T0304"),
        ("input/toy20180102T0304", "logs/toy20180102T0304"),  # a read-only copy of the run
        ("logs/coco20180102T0304", "logs/toy20180102T0304"),  # another project's weights
        ("logs/toys20180102T0304", "logs/toy20180102T0304"),
        ("x/coco20180102T0304", "logs/toy20180102T0304"),
    ],
)
def test_where_a_run_goes_on(folder, own):
    assert training.own_log_dir("logs", "TOY", folder) == own


def test_a_run_elsewhere_is_gone_on_from_and_left_as_it_is(tmp_path):
    """As matterport's set_log_dir: NAME<date of the checkpoint's run> in model_dir."""
    config = ToyConfig(STEPS_PER_EPOCH=1)
    first, _ = train(config, tmp_path / "input")
    source = pathlib.Path(first.log_dir)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    model = modellib.MaskRCNN("training", config, tmp_path / "working")
    model.load_weights(first.find_last())
    folder = tmp_path / "working" / source.name
    assert (model.epoch, model.log_dir) == (1, str(folder))
    assert model.checkpoint_path == str(folder / "mask_rcnn_toy_{epoch:04d}.h5")
    train(config, None, 2, model=model)
    # Two steps, the second with the optimizer of the first.
    assert int(model.keras_model.optimizer.iterations) == 2
    train(config, None, 3, model=model)
    assert int(model.keras_model.optimizer.iterations) == 3
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    names = {path.name for path in folder.glob("*.h5")}
    assert names == {f"mask_rcnn_toy_{end}.h5" for end in ("0002", "0003", "resume")}

    other = modellib.MaskRCNN("training", ToyConfig(NAME="other"), tmp_path / "input")
    other.load_weights(first.find_last())
    assert other.epoch == 1
    assert other.log_dir == str(tmp_path / "input" / f"other{source.name[-13:]}")


# ---- What a run goes on from ---------------------------------------------------------------------


class SmallRun:
    """A run of two weights: what lies between the files and the network, without a step."""

    def __init__(self, folder, epochs=5, rate=0.1, layers=".*", **settings):
        layer = keras.layers.Dense(2, name="dense")
        inputs = keras.Input((2,))
        self.network = keras.Model(inputs, layer(inputs))
        config = ToyConfig(STEPS_PER_EPOCH=10, **settings)
        self.owner = types.SimpleNamespace(
            config=config, keras_model=self.network, epoch=2, log_dir=str(folder), weights_of_run=""
        )
        self.owner.set_trainable = lambda regex: None
        self.owner.compile = self.compile
        arguments = (rate, epochs, layers, None, None, None)
        self.run = training.Run(self.owner, Rectangles(2), None, *arguments)
        self.compile()
        self.set_weights(1.0)

    def compile(self, *_):
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        optimizer.build(self.network.trainable_variables)
        self.network.compile(optimizer=optimizer)

    def set_weights(self, value):
        for variable in self.network.weights:
            variable.assign(np.full(variable.shape, value))

    def begin(self):
        """The state that `fit` goes on from, without its stages: (of these weights, of this plan)."""
        self.run._fit_stages = lambda: None
        self.run.fit()
        return self.run


@pytest.fixture
def stopped(tmp_path):
    """A run that stopped in its third epoch; the checkpoint had other weights than it has now."""
    small = SmallRun(tmp_path)
    small.run.checkpoint = training.fingerprint(small.network)
    small.set_weights(2.0)
    small.run.step = 4
    for variable in small.network.optimizer.variables:
        variable.assign(variable + 3)
    small.run.save()
    return tmp_path


def test_a_resumed_epoch_is_no_end_and_a_stop_there_is_one(stopped, monkeypatch):
    """The interrupted epoch is a `fit` of its own. EarlyStopping at its end was forgotten by the
    next one, and an evaluation every five epochs took it for the last epoch."""
    small = SmallRun(stopped)
    small.set_weights(2.0)
    monkeypatch.setattr(training, "has_tensorboard", lambda: False)
    evaluation = training.EvaluationCallback(small.owner, Rectangles(2), every=5)
    evaluated = []
    evaluation._evaluate = evaluated.append
    small.run.callbacks = [evaluation]
    stages = []

    def fit(last, steps):
        stages.append((last, steps))
        small.run._stage_callbacks(training.BatchStream(None, 0, 0))
        evaluation.set_params({"epochs": last})
        evaluation.on_epoch_end(last - 1)
        small.owner.epoch = last
        small.network.stop_training = stops
        return training.nothing_left(small.network)

    small.run._fit_stage = fit
    stops = False
    small.run.fit()
    assert stages == [(3, 6), (5, 10)] and evaluated == [4]
    stages.clear()
    small.owner.epoch = 2
    stops = True
    small.run._fit_stages()
    assert stages == [(3, 6)]


@pytest.mark.parametrize("weights_of", [1.0, 2.0], ids=["checkpoint", "resume file"])
def test_a_stopped_run_is_taken_up(stopped, weights_of, caplog):
    again = SmallRun(stopped)
    again.set_weights(weights_of)
    run = again.begin()
    assert run.step == 4 and "Taking up the run" in caplog.text
    assert int(again.network.optimizer.iterations) == 3
    assert all((np.asarray(weight) == 2).all() for weight in again.network.weights)


def test_a_run_says_at_once_that_it_begins(tmp_path, capsys):
    """Tracing the first step is silent for many seconds, on a terminal and off it."""
    SmallRun(tmp_path).begin()
    said = capsys.readouterr().out
    assert "Training 6 weights from epoch 3 to 5, learning rate 0.1, checkpoints in" in said
    assert "Building the training step" in said


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_dataset_raises_in_training_keeps_its_cause(tmp_path, workers):
    class Raising(Rectangles):
        def load_mask(self, image_id):
            return {}["missing"]

    run = SmallRun(tmp_path, WORKERS=workers).run
    run.train_dataset = Raising(3)
    with pytest.raises(data.DatasetError, match="masks of image .*KeyError: 'missing'") as error:
        run._fit_stage(5, 10)
    assert type(error.value.__cause__) is KeyError


def test_loaded_weights_are_not_overwritten(stopped, caplog):
    """The run was interrupted, then others were loaded: training begins from those."""
    again = SmallRun(stopped)
    again.set_weights(7.0)
    run = again.begin()
    assert run.step == 0 and int(again.network.optimizer.iterations) == 0
    assert all((np.asarray(weight) == 7).all() for weight in again.network.weights)
    assert "is not taken up: the weights of this model are not its own" in caplog.text


def test_what_an_interrupted_train_left_is_its_own(stopped):
    again = SmallRun(stopped)
    again.set_weights(7.0)
    again.owner.weights_of_run = training.fingerprint(again.network)
    assert again.begin().step == 4


def _ends(run, by_callback):
    """A call that ends with its third epoch; a callback may put the weights 7 into the model."""
    run.owner.epoch = 3
    run.step = 0
    run.checkpoint = training.fingerprint(run.network)
    run.network.optimizer.iterations.assign(30)
    run.save()
    if by_callback:
        for variable in run.network.weights:
            variable.assign(np.full(variable.shape, 7.0))


@pytest.mark.parametrize("by_callback", [False, True])
def test_weights_that_a_callback_restored_are_kept(tmp_path, by_callback, caplog):
    """EarlyStopping(restore_best_weights=True): the next call began with those of the last epoch."""
    small = SmallRun(tmp_path)
    small.run._fit_stages = lambda: _ends(small.run, by_callback)
    small.run.fit()
    arguments = (0.1, 9, ".*", None, None, None)
    small.run = training.Run(small.owner, Rectangles(2), None, *arguments)
    with caplog.at_level(logging.INFO, "mrcnn"):
        small.begin()
    expected, iterations = (7, 0) if by_callback else (1, 30)
    assert all((np.asarray(weight) == expected).all() for weight in small.network.weights)
    assert int(small.network.optimizer.iterations) == iterations
    assert ("A callback has changed the weights" in caplog.text) == by_callback


@pytest.mark.parametrize(
    "changed, part",
    [
        (dict(rate=0.2), "learning_rate 0.1 is now 0.2"),
        (dict(layers="dense"), r"layers .* is now dense"),
        (dict(OPTIMIZER="adamw"), "optimizer sgd is now adamw"),
    ],
)
def test_a_run_of_another_plan_is_not_taken_up_and_says_why(stopped, changed, part, caplog):
    run = SmallRun(stopped, **changed).begin()
    assert run.step == 0 and re.search(part, caplog.text)


@pytest.mark.parametrize("epochs, step", [(5, 0), (9, 0), (9, 4)])
def test_more_epochs_keep_the_optimizer(stopped, epochs, step, caplog):
    """Of a finished run and of one in the middle, in this process or another."""
    small = SmallRun(stopped)
    small.owner.epoch = 5 if epochs == 9 and step == 0 else 2
    small.run.step = step
    small.network.optimizer.iterations.assign(50)
    small.run.save()
    again = SmallRun(stopped, epochs=epochs)
    again.owner.epoch = small.owner.epoch
    with caplog.at_level(logging.INFO, "mrcnn"):
        run = again.begin()
    assert run.step == step and int(again.network.optimizer.iterations) == 50
    assert ("Going on after epoch 5 with the optimizer" in caplog.text) == (again.owner.epoch == 5)


def test_an_optimizer_of_other_weights_begins_anew(stopped, caplog):
    with h5py.File(training.resume_path(stopped, "toy"), "r+") as file:
        del file["mrcnn_optimizer/00002"]
    again = SmallRun(stopped)
    assert again.begin().step == 4 and int(again.network.optimizer.iterations) == 0
    assert "begins anew" in caplog.text


@pytest.mark.parametrize("what", ["checkpoint", "resume"])
def test_a_full_disk_leaves_the_last_files(stopped, what):
    """One error with the path and the reason; nothing unfinished lies beside the files."""
    small = SmallRun(stopped)
    small.owner.checkpoint_path = training.checkpoint_path(stopped, "toy")
    callback = training.Checkpoints(small.run)
    callback.on_epoch_end(2)
    before = {path.name: path.read_bytes() for path in stopped.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=rf"mask_rcnn_toy_{what if what == 'resume' else '0004'}"):
            callback.on_epoch_end(3) if what == "checkpoint" else small.run.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in stopped.iterdir()} == before


def test_killed_while_it_wrote(stopped):
    """What is half written is not read, and goes away when the run goes on."""
    path = training.resume_path(stopped, "toy")
    with pytest.raises(Killed), files.atomic(path) as temporary:
        with open(temporary, "wb") as file:
            file.write(b"half of it")
        part = stopped / os.path.basename(temporary)
        # As `kill -9` leaves it: the draw that made its name unique has small letters.
        os.link(part, stopped / f"{part.name[:-9]}X.part.h5")
        raise Killed
    (left,) = stopped.glob(".*.part.h5")
    assert SmallRun(stopped).begin().step == 4 and not left.exists()


# ---- What is traced ------------------------------------------------------------------------------


class Traced(training.TrainingModel):
    """Counts how often its step is traced."""

    traces = 0

    def train_step(self, *args):
        self.traces += 1
        return super().train_step(*args)


def squares():
    """A network whose loss is the mean square of a dense layer's output."""
    inputs = keras.Input((3,))
    first = keras.layers.Dense(2, name="first", kernel_initializer="ones")
    second = keras.layers.Dense(1, name="second", kernel_initializer="ones")
    outputs = second(first(inputs))
    loss = keras.ops.mean(keras.ops.square(outputs))
    return Traced([inputs], [outputs, loss], loss_names=["loss_of_squares"])


def stage(network, rate, layers, momentum=0.9, anew=False, **settings):
    """One stage of two steps. `anew` compiles as if nothing had been traced."""
    for layer in network.layers:
        layer.trainable = layer.name in layers
    config = ToyConfig(**settings)
    optimizer = training.make_optimizer(config, rate, momentum)
    network.take_optimizer(optimizer, keep=not anew)
    batches = ((np.full((2, 3), 0.5, "float32"),) for _ in iter(int, 1))
    network.fit(batches, steps_per_epoch=2, shuffle=False, verbose=0)


STAGES = [
    (0.01, ["second"]),
    (0.001, ["second"]),
    (0.001, ["first", "second"]),
    (0.002, ["first", "second"]),
]


class StepBatches:
    """Batches for `squares` that depend on the number of the step alone."""

    config = types.SimpleNamespace(IMAGE_RESIZE_MODE="square")

    def batch(self, step):
        return [np.full((2, 3), 0.1 + step / 100, "float32")], [step], None


class Events(keras.callbacks.Callback):
    """Notes what it is called for."""

    def __init__(self):
        super().__init__()
        self.events = []
        self.batches = []
        self.models = 0

    def set_model(self, model):
        super().set_model(model)
        self.models += 1

    def on_train_begin(self, logs=None):
        self.events.append("begin")

    def on_train_end(self, logs=None):
        self.events.append("end")

    def on_epoch_begin(self, epoch, logs=None):
        self.events.append((epoch, self.params["epochs"], self.params["steps"]))

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(batch)


def run_of_squares(folder, callbacks, resumes=False, **settings):
    """A run of three epochs of four steps of `squares`; returns its network and its History."""
    folder.mkdir(exist_ok=True)
    network = squares()
    config = ToyConfig(STEPS_PER_EPOCH=4, RESUME_SECONDS=0, WORKERS=0, **settings)
    owner = types.SimpleNamespace(
        config=config, keras_model=network, epoch=0, log_dir=str(folder), weights_of_run=""
    )
    owner.checkpoint_path = training.checkpoint_path(owner.log_dir, config.NAME)
    owner.set_trainable = lambda regex: None
    owner.compile = lambda rate, momentum: network.take_optimizer(
        training.make_optimizer(config, rate, momentum)
    )
    if resumes:
        path = training.resume_path(owner.log_dir, config.NAME)
        owner.epoch = training.read_state(path)["epoch"]
        network.load_weights(path)
    arguments = (0.01, 3, ".*", None, callbacks, None)
    run = training.Run(owner, Rectangles(2), None, *arguments)
    run._training_stream = lambda: training.BatchStream(
        StepBatches(), 4 * owner.epoch + run.step, 0
    )
    try:
        return network, run.fit()
    except Killed:
        run.save()  # these steps are faster than the limit on writing
        raise


@pytest.mark.long
@pytest.mark.parametrize("settings", [{}, dict(EMA_MOMENTUM=0.9)], ids=["latest", "averages"])
def test_callbacks_see_a_resumed_run_as_one_training(tmp_path, monkeypatch, settings):
    """The rest of an epoch and the epochs after it are two calls of `fit`. Callbacks saw two
    trainings: CSVLogger wrote its file twice, EarlyStopping began to count anew."""
    monkeypatch.setattr(training, "has_tensorboard", lambda: False)
    whole, _ = run_of_squares(tmp_path / "whole", [], **settings)
    cut = tmp_path / "cut"
    with pytest.raises(Killed):
        run_of_squares(cut, [KillAt(6)], **settings)
    events = Events()
    table = keras.callbacks.CSVLogger(cut / "rows.csv")
    patience = keras.callbacks.EarlyStopping("loss", patience=9, baseline=-1.0)
    resumed, history = run_of_squares(cut, [events, table, patience], resumes=True, **settings)
    assert events.events == ["begin", (1, 3, 2), (2, 3, 4), "end"]
    assert events.batches == [0, 1, 0, 1, 2, 3]
    rows = (cut / "rows.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "1", "2"]
    assert patience.wait == 2
    assert history.epoch == [1, 2] and len(history.history["loss"]) == 2
    for a, b in zip(resumed.weights, whole.weights):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.long
def test_callbacks_count_on_in_a_resumed_process(tmp_path, monkeypatch, caplog):
    """They began anew: EarlyStopping waited twice as long, and ModelCheckpoint of the best epoch
    replaced it by the first one of the new process."""
    monkeypatch.setattr(training, "has_tensorboard", lambda: False)

    def counting(folder):
        folder.mkdir(exist_ok=True)
        return [
            keras.callbacks.EarlyStopping("loss", patience=9, baseline=-1.0),
            keras.callbacks.ReduceLROnPlateau("loss", patience=9, mode="max"),
            keras.callbacks.ReduceLROnPlateau("loss", patience=9, mode="min"),
            keras.callbacks.ModelCheckpoint(
                folder / "best.weights.h5",
                "loss",
                mode="max",
                save_best_only=True,
                save_weights_only=True,
            ),
        ]

    def counts(callbacks):
        early, slower, other, saved = callbacks
        waits = [early.wait, early.best_epoch, slower.wait, other.wait]
        return waits, [callback.best for callback in (early, slower, other, saved)]

    whole = counting(tmp_path / "whole")
    run_of_squares(tmp_path / "whole", whole)
    cut = tmp_path / "cut"
    with pytest.raises(Killed):
        run_of_squares(cut, [*counting(cut), KillAt(6)])
    again = counting(cut)
    run_of_squares(cut, again, resumes=True)
    assert counts(whole)[0] == counts(again)[0]
    assert counts(whole)[0][0] == 3
    np.testing.assert_allclose(counts(whole)[1], counts(again)[1], rtol=1e-12)
    # The best weights of EarlyStopping were in memory: it says that it begins anew.
    with pytest.raises(Killed):
        callback = keras.callbacks.EarlyStopping("loss", restore_best_weights=True)
        run_of_squares(tmp_path / "third", [callback, KillAt(6)])
    callback = keras.callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True)
    run_of_squares(tmp_path / "third", [callback], resumes=True)
    assert "EarlyStopping(restore_best_weights=True) begins anew" in caplog.text


def counts_of_callbacks(folder, callbacks, is_taken_up=True):
    owner = types.SimpleNamespace(log_dir=str(folder), epoch=1)
    run = types.SimpleNamespace(owner=owner, is_taken_up=is_taken_up)
    return training.CallbackCounts(run, callbacks)


def test_each_callback_has_its_own_counts(tmp_path):
    """Two of one kind and monitor; numpy's numbers, infinity and None; a subclass's own `best`."""

    class Texts(keras.callbacks.ModelCheckpoint):
        best = "epoch 7"

    def made():
        first, second = (keras.callbacks.EarlyStopping("loss", patience=9) for _ in range(2))
        slower = keras.callbacks.ReduceLROnPlateau("loss")
        return first, second, slower, Texts(tmp_path / "a.keras", "loss")

    first, second, slower, texts = made()
    first.best, first.wait, first.best_epoch = np.float32(0.5), 3, 2
    second.best, second.wait, second.best_epoch = None, 4, 0
    slower.best = np.inf
    texts.best = "epoch 8"
    counts_of_callbacks(tmp_path, (first, second, slower, texts)).on_epoch_end(0)
    again = made()
    counts_of_callbacks(tmp_path, again).on_train_begin()
    assert [(c.best, c.wait) for c in again[:3]] == [(0.5, 3), (None, 4), (np.inf, 0)]
    assert again[0].best_epoch == 2 and type(again[0].wait) is int
    assert again[3].best is None  # of Keras's `__init__`


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"epoch": 1, "callbacks": null}',
        '{"epoch": 1, "callbacks": {"EarlyStopping loss 0": 3}}',
        '{"epoch": 1, "callbacks": {"EarlyStopping loss 0": {"wait": "many"}}}',
    ],
)
def test_damaged_counts_of_callbacks_are_said(tmp_path, caplog, text):
    (tmp_path / "callbacks.json").write_text(text)
    callback = keras.callbacks.EarlyStopping("loss")
    callback.on_train_begin()
    counts_of_callbacks(tmp_path, [callback]).on_train_begin()
    assert callback.wait == 0 and callback.best is None
    (line,) = caplog.messages
    assert "callbacks.json: expected what callbacks have counted" in line
    caplog.clear()
    counts_of_callbacks(tmp_path / "older", [callback]).on_train_begin()
    assert not caplog.messages


def test_a_backup_is_of_one_machine(tmp_path, monkeypatch, caplog):
    """The chief alone had its weights and its epoch: machines trained different networks, and
    the others waited for a chief that had ended."""
    monkeypatch.setattr(training, "has_tensorboard", lambda: False)
    kinds = []
    for cluster in (None, types.SimpleNamespace(is_chief=True)):
        run = SmallRun(tmp_path).run
        run.cluster = cluster
        run.callbacks = [keras.callbacks.BackupAndRestore(tmp_path / "backup")]
        callbacks = run._stage_callbacks(training.BatchStream(None, 0, 0))
        kinds.append([type(callback).__name__ for callback in callbacks])
    assert "BackupAndRestore" in kinds[0]
    assert kinds[1] == [name for name in kinds[0] if name != "BackupAndRestore"]
    assert caplog.text.count("BackupAndRestore is left out on several machines") == 1


@pytest.mark.long
def test_a_resumed_run_under_a_program_that_adds_callbacks(tmp_path, monkeypatch):
    """MLflow's autolog makes a list of the callbacks of `fit` and adds its own."""
    monkeypatch.setattr(training, "has_tensorboard", lambda: False)
    plain = Traced.fit
    added = []

    def fit(self, *args, **kwargs):
        added.append(Events())
        kwargs["callbacks"] = [*kwargs["callbacks"], added[-1]]
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(Traced, "fit", fit)
    with pytest.raises(Killed):
        run_of_squares(tmp_path, [KillAt(6)])
    events = Events()
    network, history = run_of_squares(tmp_path, [events], resumes=True)
    assert events.events == ["begin", (1, 3, 2), (2, 3, 4), "end"]
    assert history.epoch == [1, 2] and len(added) == 3
    assert network.history is history and events.models == 1


@pytest.mark.long
def test_a_stop_in_a_resumed_epoch_is_its_end(tmp_path, monkeypatch):
    class Stops(Events):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    monkeypatch.setattr(training, "has_tensorboard", lambda: False)
    with pytest.raises(Killed):
        run_of_squares(tmp_path, [KillAt(6)])
    stops = Stops()
    _, history = run_of_squares(tmp_path, [stops], resumes=True)
    assert stops.events == ["begin", (1, 3, 2), "end"] and history.epoch == [1]


@pytest.mark.long
def test_an_epoch_that_was_restored_is_forgotten(tmp_path, monkeypatch):
    """BackupAndRestore leaves the epoch that it restored in the network, from which `fit` began
    in every later call: the epoch after a resumed one was trained as that one once more."""

    class Restores(Events):
        def on_train_begin(self, logs=None):
            super().on_train_begin(logs)
            self.model._initial_epoch = 1

    monkeypatch.setattr(training, "has_tensorboard", lambda: False)
    with pytest.raises(Killed):
        run_of_squares(tmp_path, [KillAt(6)])
    restores = Restores()
    run_of_squares(tmp_path, [restores], resumes=True)
    assert restores.events == ["begin", (1, 3, 2), (2, 3, 4), "end"]


@pytest.mark.long
@pytest.mark.parametrize("settings", [{}, dict(OPTIMIZER="adamw"), dict(EMA_MOMENTUM=0.9)], ids=str)
def test_a_stage_that_trains_the_same_weights_is_not_traced_again(settings):
    """Two traces for four stages, and the weights are those of a new optimizer for each."""
    kept, anew = squares(), squares()
    for rate, layers in STAGES:
        stage(kept, rate, layers, **settings)
        stage(anew, rate, layers, anew=True, **settings)
    assert (kept.traces, anew.traces) == (2, 4)
    for a, b in zip(kept.weights, anew.weights):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.long
@pytest.mark.parametrize(
    "changed",
    [
        dict(momentum=0.5),
        dict(GRADIENT_CLIP_NORM=0.1),
        dict(OPTIMIZER="adamw"),
        dict(OPTIMIZER=lambda rate: keras.optimizers.SGD(rate)),
        dict(EMA_MOMENTUM=0.9),
    ],
    ids=["momentum", "clipping", "adamw", "a function", "averages"],
)
def test_other_settings_are_traced_again(changed):
    network, expected = squares(), squares()
    both = ["first", "second"]
    stage(network, 0.01, both)
    stage(network, 0.01, both, **changed)
    stage(expected, 0.01, both, anew=True)
    stage(expected, 0.01, both, anew=True, **changed)
    assert network.traces == 2
    for a, b in zip(network.weights, expected.weights):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_a_network_that_the_user_compiles_is_compiled_again():
    network = squares()
    stage(network, 0.01, ["second"])
    network.compile(optimizer=keras.optimizers.SGD(0.5))
    stage(network, 0.01, ["second"])
    assert type(network.optimizer) is training.SGD and network.traces == 2


def test_stages_that_are_traced_are_no_warning(caplog):
    """TensorFlow counts the traces of all stages as if they were of one function."""
    with training._without_retracing_warnings():
        logging.getLogger("tensorflow").warning(
            "5 calls triggered tf.function retracing. It is ..."
        )
        logging.getLogger("tensorflow").warning("something else")
    assert [record.getMessage() for record in caplog.records] == ["something else"]
    assert not logging.getLogger("tensorflow").filters


@pytest.mark.long
def test_seed_of_fresh_weights(tmp_path):
    """SEED alone makes two models alike, and Python's own draws stay as they were."""
    import random

    def build(seed):
        model = modellib.MaskRCNN("inference", ToyConfig(SEED=seed), tmp_path)
        return training.fingerprint(model.keras_model)

    random.seed(5)
    expected = random.random()
    random.seed(5)
    first = build(3)
    assert random.random() == expected
    assert build(3) == first and build(4) != first


# ---- Programs of TensorFlow 1 --------------------------------------------------------------------


@pytest.mark.heavy
def test_detection_inside_a_graph_and_a_session(toy_detector, tmp_path):
    """CVAT's function and web servers of 2018: built, loaded and run in a graph, as outside."""
    import tensorflow as tf

    image = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    expected = toy_detector.detect([image])[0]
    path = tmp_path / "weights.h5"
    toy_detector.save_weights(path)
    graph = tf.Graph()
    with graph.as_default():
        model = modellib.MaskRCNN("inference", toy_detector.config, tmp_path)
        model.load_weights(str(path), by_name=True)
        with tf.compat.v1.Session(graph=graph):
            results = [*model.detect([image]), *toy_detector.detect_many([image] * 2)]
        assert tf.compat.v1.get_default_graph() is graph
    assert len(expected["scores"])
    for result in results:
        np.testing.assert_array_equal(result["rois"], expected["rois"])
        np.testing.assert_allclose(result["scores"], expected["scores"], atol=1e-6)


WITHOUT_EAGER = """
import sys
import tensorflow as tf
getattr(tf.compat.v1, sys.argv[1])()
from toy import Rectangles, ToyConfig
from mrcnn import model as modellib
model = modellib.MaskRCNN("inference", ToyConfig(IMAGES_PER_GPU=1), ".")
model.save_weights("w.h5")
model.load_weights("w.h5", by_name=True)
print("detected", len(model.detect([Rectangles(1).load_image(0)])))
"""


@pytest.mark.heavy
@pytest.mark.parametrize(
    "call, said",
    [
        ("disable_eager_execution", "detected 1"),
        ("disable_v2_behavior", r"ValueError: .*delete the call from the program"),
    ],
)
def test_without_eager_execution(tmp_path, call, said):
    """Detection works, or one line says what to delete."""
    done = subprocess.run(
        [sys.executable, "-c", quickly.HEAD + WITHOUT_EAGER, call],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{oracle.TESTS.parent}:{oracle.TESTS}"},
        capture_output=True,
        text=True,
    )
    assert re.search(said, done.stdout + done.stderr), done.stderr[-2000:]


# ---- Photographs ---------------------------------------------------------------------------------


class TwoPhotographs(Dataset):
    """Two photographs of coco-mini through an ordinary Dataset subclass."""

    def __init__(self, folder):
        super().__init__()
        content = json.loads((folder / "annotations" / "instances_train2017.json").read_text())
        by_image = {}
        for annotation in content["annotations"]:
            by_image.setdefault(annotation["image_id"], []).append(annotation)
        chosen = [
            image
            for image in sorted(content["images"], key=lambda image: image["id"])
            if 2 <= len(by_image.get(image["id"], [])) <= 4
            and not any(a["iscrowd"] for a in by_image[image["id"]])
            and min(a["area"] for a in by_image[image["id"]]) > 3000
        ][:2]
        used = sorted({a["category_id"] for image in chosen for a in by_image[image["id"]]})
        for category in used:
            self.add_class("coco", category, str(category))
        for image in chosen:
            self.add_image(
                "coco",
                image["id"],
                folder / "train2017" / image["file_name"],
                size=(image["height"], image["width"]),
                annotations=by_image[image["id"]],
            )
        self.prepare()
        # Read and drawn once: of photographs that takes as long as a step.
        self.images = [super(TwoPhotographs, self).load_image(i) for i in self.image_ids]
        self.masks = [self.draw_masks(i) for i in self.image_ids]

    def load_image(self, image_id):
        return self.images[image_id].copy()

    def load_mask(self, image_id):
        masks, class_ids = self.masks[image_id]
        return masks.copy(), class_ids.copy()

    def draw_masks(self, image_id):
        from skimage.draw import polygon

        info = self.image_info[image_id]
        masks = np.zeros((*info["size"], len(info["annotations"])), bool)
        for i, annotation in enumerate(info["annotations"]):
            for ring in annotation["segmentation"]:
                rows, columns = polygon(ring[1::2], ring[::2], info["size"])
                masks[rows, columns, i] = True
        return masks, np.array(
            [self.map_source_class_id(f"coco.{a['category_id']}") for a in info["annotations"]]
        )


@pytest.mark.heavy
def test_learns_from_photographs(tmp_path):
    """60 steps on two photographs: the mean of each loss over the last 10 is at most .7 of the
    first 10's."""
    dataset = TwoPhotographs(oracle.shared("data/coco-mini"))
    assert len(dataset.image_ids) == 2
    keras.utils.set_random_seed(0)
    config = Config(
        NAME="photos",
        BACKBONE="resnet18",
        BACKBONE_WIDTH=32,
        NUM_CLASSES=dataset.num_classes,
        IMAGES_PER_GPU=2,
        IMAGE_MIN_DIM=96,
        IMAGE_MAX_DIM=128,
        RPN_ANCHOR_SCALES=(8, 16, 32, 64, 96),
        TRAIN_BN=None,
        BATCH_NORM_MOMENTUM=0.8,
        TOP_DOWN_PYRAMID_SIZE=32,
        RPN_CHANNELS=32,
        MASK_HEAD_CHANNELS=32,
        FPN_CLASSIF_FC_LAYERS_SIZE=128,
        TRAIN_ROIS_PER_IMAGE=32,
        PRE_NMS_LIMIT=1000,
        POST_NMS_ROIS_TRAINING=200,
        MASK_HEAD_CONVS=2,
        SEED=0,
        OPTIMIZER="adam",
        LEARNING_RATE=1e-3,
        STEPS_PER_EPOCH=60,
        DETECTION_MIN_CONFIDENCE=0.1,
    )
    logs = Logs()
    model, _ = train(config, tmp_path, 1, dataset=dataset, custom_callbacks=[logs])
    rows = losses_by_step(logs)
    assert rows.shape == (60, 5)
    ratios = rows[-10:].mean(axis=0) / rows[:10].mean(axis=0)
    assert (ratios <= 0.7).all(), dict(zip(modellib.config_module.LOSS_NAMES, ratios))
    result = detect_with(model, config, dataset.load_image(0))
    assert len(result["scores"]) and result["masks"].shape[:2] == dataset.load_image(0).shape[:2]


def losses_of(logs):
    """[5] losses in the logs of a step, the running means that Keras reports."""
    return [float(logs[name]) for name in modellib.config_module.LOSS_NAMES]


def losses_by_step(logs):
    """[steps, 5] losses of the single steps of the one epoch in `Logs`."""
    means = np.array([losses_of(of_step) for of_step in logs.steps])
    sums = means * np.arange(1, len(means) + 1)[:, None]
    return np.diff(sums, axis=0, prepend=0)


def test_callbacks_of_train():
    """One stands for itself; a class, or what is no callback, is named before the dataset is read."""
    stop = keras.callbacks.EarlyStopping()
    assert training.check_callbacks(None) == [] and training.check_callbacks(stop) == [stop]
    assert training.check_callbacks((stop, stop)) == [stop, stop]
    with pytest.raises(ValueError, match=r"the class EarlyStopping; EarlyStopping\(\) makes"):
        training.check_callbacks([keras.callbacks.EarlyStopping])
    with pytest.raises(ValueError, match="Received: 'val_loss' in the list"):
        training.check_callbacks(["val_loss"])
    for wrong in ("val_loss", 3):
        with pytest.raises(ValueError, match="is a list of Keras callbacks. Received:"):
            training.check_callbacks(wrong)


def _batches(count, outputs=()):
    """As `data_generator` yields them: two inputs, masks among them, and no outputs."""
    for number in range(count):
        yield [np.full((2, 3), number, np.float64), np.ones((2, 1), bool)], list(outputs)


class _Batches(keras.utils.PyDataset):
    """As the TF2 fork's DataGenerator gives them."""

    ended = 0

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return list(_batches(2))[index]

    def on_epoch_end(self):
        self.ended += 1


def test_batches_of_the_original_as_keras_takes_them():
    for batch in (next(training.inputs_alone(_batches(2))), training.inputs_alone(_Batches())[0]):
        ((values, masks),) = batch
        assert values.dtype == np.float32 and masks.dtype == np.uint8 and values.shape == (2, 3)
    arrays = [np.ones(3)]
    assert training.inputs_alone(arrays) is arrays and training.inputs_alone(None) is None
    known = ((np.ones(3),),)
    assert next(training.inputs_alone(batch for batch in [known])) is known
    with pytest.raises(ValueError, match="takes batches .inputs, .* Received: outputs too"):
        next(training.inputs_alone(_batches(1, outputs=[np.ones(2)])))


@pytest.mark.long
def test_fit_takes_the_generators_of_the_original():
    """Keras 3 refuses their [] as outputs: fit, evaluate, and single batches."""
    values = keras.Input((3,))
    masks = keras.Input((1,))
    dense = keras.layers.Dense(1)(values)
    loss = keras.layers.Lambda(lambda x: keras.ops.mean(x**2))(dense * masks)
    model = training.TrainingModel([values, masks], [dense, loss], loss_names=["some_loss"])
    model.compile(optimizer=keras.optimizers.SGD(0.01))
    history = model.fit(_batches(4), steps_per_epoch=2, epochs=2, verbose=0).history
    assert len(history["some_loss"]) == 2
    batches = _Batches()
    history = model.fit(batches, epochs=3, verbose=0, validation_data=_Batches()).history
    assert len(history["val_some_loss"]) == 3 and batches.ended >= 3
    expected = model.evaluate(_Batches(), verbose=0)[0]
    assert model.evaluate(_batches(2), steps=2, verbose=0)[0] == pytest.approx(expected)
    (batch,) = _batches(1)
    assert np.isfinite(model.train_on_batch(*batch)).all()
    assert np.isfinite(model.test_on_batch(*batch)).all()


@pytest.mark.long
@pytest.mark.parametrize("settings", [{}, dict(steps_per_execution=2), dict(run_eagerly=True)])
def test_steps_of_one_graph_are_those_of_keras(settings):
    """The same weights, counts and losses; an epoch ends where data of unknown length does."""
    import tensorflow as tf

    values = keras.Input((3,))
    dense = keras.layers.Dense(1, kernel_initializer="ones")(values)
    loss = keras.layers.Lambda(lambda x: keras.ops.mean(x**2))(dense)
    model = training.TrainingModel([values], [dense, loss], loss_names=["some_loss"])
    model.compile(optimizer=keras.optimizers.SGD(0.01), **settings)
    rows = np.arange(48, dtype=np.float32).reshape(4, 4, 3) / 48

    def batches():
        for batch in rows:
            yield ((batch,),)

    data = tf.data.Dataset.from_generator(batches, output_types=((tf.float32,),))
    data = data.map(lambda batch: ((tf.ensure_shape(batch[0], (4, 3)),),))
    with pytest.warns(UserWarning, match="ran out of data"):
        history = model.fit(data, epochs=2, verbose=0, shuffle=False, validation_data=data)
    losses = history.history
    kernel, bias, expected = np.ones((3, 1)), np.zeros(1), []
    for batch in [*rows, *rows]:
        outputs = batch @ kernel + bias
        expected.append((outputs**2).mean())
        kernel = kernel - 0.01 * (2 * batch.T @ outputs / 4)
        bias = bias - 0.01 * (2 * outputs.mean(0))
    np.testing.assert_allclose(losses["some_loss"], np.reshape(expected, (2, 4)).mean(1), rtol=1e-5)
    last = [((batch @ kernel + bias) ** 2).mean() for batch in rows]
    assert losses["val_some_loss"][1] == pytest.approx(np.mean(last), rel=1e-5)
    np.testing.assert_allclose(model.get_weights()[0], kernel, rtol=1e-5)
    assert int(model.optimizer.iterations) == 8
