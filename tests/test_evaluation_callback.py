"""The callback that evaluates during training: what others find in their logs, TensorBoard, clear
messages."""

import argparse
import importlib.util
import logging
import pathlib

import keras
import numpy as np
import pytest
from toy import Logs, Rectangles, ToyConfig

from mrcnn import commands, data, evaluate, model as modellib, training, utils


# What Keras says of the epoch before the first evaluation.
@pytest.mark.heavy
@pytest.mark.filterwarnings(
    "ignore:(Early stopping conditioned|Can save best model only):UserWarning"
)
def test_figures_reach_the_other_callbacks(tmp_path, caplog):
    """They stand before it in the list and still find its figures, which are those of the
    weights."""
    keras.utils.set_random_seed(0)
    config = ToyConfig(STEPS_PER_EPOCH=2, VALIDATION_STEPS=0, MASK_HEAD_CONVS=4)  # it detects some
    dataset = Rectangles(2)
    logs = Logs()
    model = modellib.MaskRCNN("training", config, tmp_path)
    callback = training.EvaluationCallback(model, dataset, every=2)
    with caplog.at_level(logging.INFO, "mrcnn.training"):
        history = model.train(
            dataset,
            None,
            1e-3,
            9,
            "all",
            custom_callbacks=[
                logs,
                callback,
                keras.callbacks.ModelCheckpoint(
                    str(tmp_path / "best_{epoch}.weights.h5"),
                    "val_mask_mAP",
                    mode="max",
                    save_best_only=True,
                    save_weights_only=True,
                ),
                # AP can't rise by more than 1: no later one is better than the first.
                keras.callbacks.EarlyStopping(
                    "val_bbox_mAP", mode="max", patience=2, min_delta=1.0
                ),
            ],
        )
    names = {"val_bbox_mAP", "val_mask_mAP"}
    assert history.epoch == [0, 1, 2, 3]
    assert [names <= set(of_epoch) for of_epoch in logs.epochs] == [False, True, True, True]
    # An epoch without an evaluation repeats the figures, and is not saved as a better one.
    assert (
        logs.epochs[2]["val_mask_mAP"] == logs.epochs[1]["val_mask_mAP"]
        and len(history.history["val_mask_mAP"]) == 3
    )
    assert (tmp_path / "best_2.weights.h5").exists() and not (
        tmp_path / "best_3.weights.h5"
    ).exists()
    assert logs.epochs[3]["val_mask_mAP"] == callback.evaluation.segm["AP"] >= 0
    assert logs.epochs[3]["val_bbox_mAP"] == callback.evaluation.bbox["AP"] >= 0
    installed = importlib.util.find_spec("tensorboard") is not None
    assert ("pip install tensorboard" in caplog.text) != installed

    inference = modellib.MaskRCNN("inference", config, tmp_path)
    inference.load_weights(model.find_last())
    again = evaluate.evaluate(inference, dataset, progress=False)
    assert (
        again.segm == pytest.approx(callback.evaluation.segm, nan_ok=True)
        and len(again.detections) > 0
    )
    np.testing.assert_allclose(
        [row["score"] for row in again.detections],
        [row["score"] for row in callback.evaluation.detections],
        rtol=1e-5,
    )


def test_mistakes(monkeypatch):
    """Pictures that were asked for without TensorBoard are an error that says how to get it."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "tensorboard" else real(name, *rest),
    )
    with pytest.raises(ImportError, match="pip install tensorboard"):
        training.EvaluationCallback(None, Rectangles(2), pictures=2)
    assert training.EvaluationCallback(None, Rectangles(2)).pictures == 0
    with pytest.raises(ValueError, match="every .* Received: 0"):
        training.EvaluationCallback(None, Rectangles(2), every=0)


@pytest.mark.heavy
def test_tensorboard_shows_figures_and_pictures(tmp_path):
    """What the event files hold, read by TensorBoard itself."""
    pytest.importorskip("tensorboard", reason="TensorBoard is an optional extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = modellib.MaskRCNN(
        "training", ToyConfig(STEPS_PER_EPOCH=1, VALIDATION_STEPS=0), tmp_path
    )
    callback = training.EvaluationCallback(model, Rectangles(3), pictures=2)
    model.train(Rectangles(3), None, 1e-3, 2, "all", custom_callbacks=[callback])
    tags, images = set(), {}
    for path in pathlib.Path(model.log_dir, "validation").glob("events*"):
        events = EventAccumulator(str(path))
        events.Reload()
        tags |= set(events.Tags()["tensors"]) | set(events.Tags()["images"])
        images.update({tag: events.Images(tag) for tag in events.Tags()["images"]})
        for tag in events.Tags()["tensors"]:
            if tag.startswith("detections/"):
                images[tag] = events.Tensors(tag)
    assert {
        "epoch_bbox_mAP",
        "epoch_mask_mAP",
        "detections/0",
        "detections/1",
    } <= tags and "detections/2" not in tags
    assert all(len(each) == 2 for each in images.values())


class Owner:
    """Stands for the `MaskRCNN` that is trained."""

    def __init__(self, **settings):
        self.config = ToyConfig(**settings)


@pytest.mark.parametrize(
    "settings, side",
    [
        (dict(IMAGE_MAX_DIM=100), 128),
        (dict(IMAGE_MAX_DIM=None), 64),
        (dict(IMAGE_MIN_DIM=192, IMAGE_MAX_DIM=100), 192),
        (dict(IMAGE_MAX_DIM=1024), 1024),
    ],
)
def test_crop_mode_evaluates_whole_images(settings, side):
    """IMAGE_MAX_DIM means nothing when crops are trained on; evaluation failed after an epoch."""
    owner = Owner(IMAGE_RESIZE_MODE="crop", **settings)
    owner.config.validate()
    callback = training.EvaluationCallback(owner, Rectangles(2))
    callback.on_train_begin()
    config = callback._detecting_config()
    assert (config.IMAGE_RESIZE_MODE, config.IMAGE_MAX_DIM) == ("square", side)
    assert owner.config.IMAGE_RESIZE_MODE == "crop"


@pytest.mark.parametrize(
    "least, options, expected",
    [(0.7, [], 0.0), (0.05, [], 0.05), (0.7, ["DETECTION_MIN_CONFIDENCE=0.7"], 0.7)],
)
def test_a_commands_evaluations_count_low_scores(least, options, expected):
    """As `mrcnn evaluate` does: the AP of --evaluate-every was that of scores from .7. Pictures keep
    the threshold of the config."""

    class Trained(Owner):
        epoch = 0

        def train(self, *_, custom_callbacks, **__):
            (self.callback,) = custom_callbacks

    model = Trained(DETECTION_MIN_CONFIDENCE=least)
    options = argparse.Namespace(epochs=1, evaluate_every=1, limit=0, set=options)
    commands.train(model, Rectangles(2), Rectangles(2), [(1, "all", 1.0)], options)
    assert model.callback._detecting_config().DETECTION_MIN_CONFIDENCE == expected
    assert model.config.DETECTION_MIN_CONFIDENCE == least


@pytest.mark.parametrize(
    "dataset, settings, message",
    [
        (
            Rectangles(2),
            {"DETECTION_MIN_CONFIDENSE": 0},
            "settings of the config. Received: 'DETEC",
        ),
        (Rectangles(2), {"IMAGE_MAX_DIM": 100}, "IMAGE_MAX_DIM divides by 64"),
        (Rectangles(2), {"USE_KEYPOINTS": True}, "has no load_keypoints"),
        (Rectangles(0), {}, "needs images. Received: none"),
        (utils.Dataset(), {}, "call prepare"),
        (Rectangles(2), {"NUM_CLASSES": 4}, "NUM_CLASSES of the model is the dataset's 3"),
    ],
)
def test_what_ends_an_evaluation_is_said_before_training(dataset, settings, message):
    callback = training.EvaluationCallback(Owner(), dataset, settings=settings)
    with pytest.raises(ValueError, match=message):
        callback.on_train_begin()


def test_sizes_that_detection_refuses_are_not_trained_on():
    """Mode "none" trained on 120 x 160 pixels, which `detect` refuses."""
    config = ToyConfig(IMAGE_RESIZE_MODE="none", USE_MINI_MASK=False)
    data.check_dataset(Rectangles(2, (128, 192, 3)), config)
    dataset = Rectangles(3, (128, 192, 3))
    dataset.image_info[1]["shape"] = (120, 160, 3)
    with pytest.raises(
        ValueError, match=r"(?s)1 problem.*64.*image 1 \(toy/1.png\).*\(120, 160, 3\)"
    ):
        data.check_dataset(dataset, config)
