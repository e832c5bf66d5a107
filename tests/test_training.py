"""Runs of training: what is learnt, resuming, bad losses, checkpoints, every kind of input."""

import json
import os

import h5py
import keras
import numpy as np
import oracle
import pytest
from toy import Rectangles, ToyConfig

from mrcnn import data, model as modellib, training
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
    config = ToyConfig(
        STEPS_PER_EPOCH=350,
        IMAGES_PER_GPU=1,
        IMAGE_MIN_DIM=128,
        IMAGE_MAX_DIM=128,
        OPTIMIZER="adam",
        LEARNING_RATE=2e-3,
        LEARNING_RATE_SCHEDULE="cosine",
        DETECTION_MIN_CONFIDENCE=0.7,
        WEIGHT_DECAY=0.0,
    )
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
        dict(MASK_SHAPE=[28, 28], OPTIMIZER="adamw"),
        dict(MASK_SHAPE=[56, 56], MASK_POOL_SIZE=28, TRAIN_BN=None, IMAGE_RESIZE_MODE="shorter"),
        dict(USE_MASK=False, IMAGE_CHANNEL_COUNT=1, MEAN_PIXEL=np.array([100.0])),
        dict(IMAGES_PER_GPU=1, USE_MINI_MASK=False, IMAGE_RESIZE_MODE="none"),
        dict(IMAGES_PER_GPU=3, IMAGE_RESIZE_MODE="pad64"),
        dict(IMAGE_CHANNEL_COUNT=5, MEAN_PIXEL=np.arange(5.0), CLASS_LOSS_ON_PADDING=False),
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


class _Killed(BaseException):
    pass


class _KillAt(keras.callbacks.Callback):
    def __init__(self, run_steps):
        super().__init__()
        self.left = run_steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise _Killed


@pytest.mark.heavy
def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path):
    """Killed in the middle of an epoch: weights, optimizer, schedule and data continue where they
    were."""
    # Momentum, not Adam: that makes whole steps of rounding errors where a gradient is nearly zero.
    settings = dict(
        OPTIMIZER="sgd",
        LEARNING_RATE=1e-2,
        LEARNING_RATE_SCHEDULE="cosine",
        WARMUP_STEPS=2,
        STEPS_PER_EPOCH=4,
        RESUME_SECONDS=0,
    )

    def run(folder, kill=None):
        keras.utils.set_random_seed(1)
        config = ToyConfig(**settings)
        model = modellib.MaskRCNN("training", config, folder)
        model.keras_model.get_layer("proposal_targets")._draw = _first_rows.__get__(
            model.keras_model.get_layer("proposal_targets")
        )
        start = _trainable(model)
        if kill:
            with pytest.raises(_Killed):
                train(config, folder, 2, model=model, custom_callbacks=[_KillAt(kill)])
            # Without the clock's limit on writing every step has its resume file.
            keras.utils.set_random_seed(99)
            model = modellib.MaskRCNN("training", config, folder)
            model.keras_model.get_layer("proposal_targets")._draw = _first_rows.__get__(
                model.keras_model.get_layer("proposal_targets")
            )
            model.load_weights(model.find_last())
        train(config, folder, 2, model=model)
        return start, model

    (first, whole), (_, killed) = run(tmp_path / "whole"), run(tmp_path / "killed", kill=6)
    assert killed.epoch == 2
    assert int(killed.keras_model.optimizer.iterations.numpy()) == 8
    one, other = _trainable(whole), _trainable(killed)
    # Threads add in any order: two uninterrupted runs differ by up to .0034 of the way. Measured
    # without the optimizer's state: .56; with other images in the rest of the run: .054.
    assert np.linalg.norm(one - other) < 0.02 * np.linalg.norm(one - first)


def _trainable(model):
    """A copy of all trainable weights, one after the other."""
    return np.concatenate([np.ravel(w) for w in model.keras_model.trainable_weights])


def _first_rows(self, positive, negative):
    """Stands for the layer's draw: the first rows instead of random ones."""
    from keras import ops

    flags, rows = ops.top_k(
        2 * ops.cast(positive, "int32") + ops.cast(negative, "int32"), self.rois_per_image
    )
    rank = ops.arange(self.rois_per_image)[None]
    is_positive = ops.logical_and(flags == 2, rank < self.positive_rows)
    return rows, is_positive, flags == 1


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
    assert run._take_up() is None


@pytest.mark.heavy
def test_find_last_and_epochs(two_epochs, taken_up):
    model, _, _ = two_epochs
    last = model.find_last()
    folder, file = last
    assert os.path.basename(last) == "mask_rcnn_my toy_0002.h5" and (last[0], last[1]) == (
        folder,
        file,
    )
    assert os.path.samefile(folder, model.log_dir) and os.path.exists(last)
    assert taken_up.epoch == 2
    with pytest.raises(
        ValueError, match="epochs is the number of the last epoch and above 2.*Received: 2"
    ):
        train(ToyConfig(), model.model_dir, 2, model=taken_up)
    with pytest.raises(FileNotFoundError, match="mask_rcnn_my_"):
        modellib.MaskRCNN("training", ToyConfig(NAME="my"), model.model_dir).find_last()


@pytest.mark.parametrize(
    "path, epoch",
    [
        ("mask_rcnn_a b.c_0007.h5", 7),
        ("x/y/mask_rcnn_toy_12345.h5", 12345),
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
        POST_NMS_ROIS_TRAINING=200,
        SEED=0,
        OPTIMIZER="adam",
        LEARNING_RATE=1e-3,
        STEPS_PER_EPOCH=60,
        RESUME_SECONDS=600,  # writing 100 MB takes as long as several steps
        DETECTION_MIN_CONFIDENCE=0.1,
    )
    losses = _StepLosses()
    model, _ = train(config, tmp_path, 1, dataset=dataset, custom_callbacks=[losses])
    rows = losses.steps()
    assert rows.shape == (60, 5)
    ratios = rows[-10:].mean(axis=0) / rows[:10].mean(axis=0)
    assert (ratios <= 0.7).all(), dict(zip(modellib.config_module.LOSS_NAMES, ratios))
    result = detect_with(model, config, dataset.load_image(0))
    assert len(result["scores"]) and result["masks"].shape[:2] == dataset.load_image(0).shape[:2]


class _StepLosses(keras.callbacks.Callback):
    """Losses of single steps, from the running means that Keras reports."""

    def __init__(self):
        super().__init__()
        self.means = []

    def on_train_batch_end(self, batch, logs=None):
        self.means.append([float(logs[name]) for name in modellib.config_module.LOSS_NAMES])

    def steps(self):
        sums = np.array(self.means) * np.arange(1, len(self.means) + 1)[:, None]
        return np.diff(sums, axis=0, prepend=0)
