"""A dataset and a network so small that a test can train: rectangles on 64 x 64 images."""

import keras
import numpy as np
from keras import layers as KL

from mrcnn.config import Config
from mrcnn.utils import Dataset


def tiny_backbone(image, stage5=True, train_bn=None):
    """Five maps at strides 2 to 32, one convolution each, without batch norm."""
    maps = []
    x = image / 64.0
    for stage, width in enumerate((16, 24, 32, 48, 64), 1):
        name = f"res{stage}a"
        x = KL.Conv2D(width, 3, strides=2, padding="same", activation="relu", name=name)(x)
        maps.append(x)
    return maps


def backbone_shape(image_shape):
    """[5, 2] sizes (height, width) of the pyramid's maps, by `COMPUTE_BACKBONE_SHAPE`."""
    height, width = image_shape[:2]
    return np.array([[-(-height // stride), -(-width // stride)] for stride in (4, 8, 16, 32, 64)])


class ToyConfig(Config):
    """Settings of a network that is built in a second and trained in a few."""

    NAME = "toy"
    BACKBONE = tiny_backbone
    COMPUTE_BACKBONE_SHAPE = backbone_shape
    NUM_CLASSES = 3
    IMAGES_PER_GPU = 2
    IMAGE_MIN_DIM = IMAGE_MAX_DIM = 64
    RPN_ANCHOR_SCALES = (8, 16, 32, 48, 64)
    RPN_CHANNELS = TOP_DOWN_PYRAMID_SIZE = MASK_HEAD_CHANNELS = 32
    FPN_CLASSIF_FC_LAYERS_SIZE = 64
    MASK_HEAD_CONVS = 1
    PRE_NMS_LIMIT = 200
    POST_NMS_ROIS_TRAINING = POST_NMS_ROIS_INFERENCE = 50
    TRAIN_ROIS_PER_IMAGE = 16
    RPN_TRAIN_ANCHORS_PER_IMAGE = 64
    MAX_GT_INSTANCES = 5
    DETECTION_MAX_INSTANCES = 10
    DETECTION_MIN_CONFIDENCE = 0.0
    MINI_MASK_SHAPE = (28, 28)
    STEPS_PER_EPOCH = 3
    VALIDATION_STEPS = 1
    WORKERS = 1
    SEED = 0


# Settings by which a toy overfits one image in 350 steps.
BY_HEART = dict(
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

# Options by which a sample builds a network about as small. No option can pass `tiny_backbone`.
OPTIONS = [
    "--set",
    "BACKBONE=resnet18",
    "BACKBONE_WIDTH=16",
    "IMAGE_MIN_DIM=64",
    "IMAGE_MAX_DIM=64",
    "RPN_ANCHOR_SCALES=(8,16,32,48,64)",
    "RPN_CHANNELS=16",
    "TOP_DOWN_PYRAMID_SIZE=16",
    "FPN_CLASSIF_FC_LAYERS_SIZE=16",
    "MASK_HEAD_CHANNELS=16",
    "MASK_HEAD_CONVS=1",
    "POST_NMS_ROIS_TRAINING=30",
    "POST_NMS_ROIS_INFERENCE=30",
    "TRAIN_ROIS_PER_IMAGE=8",
    "DETECTION_MAX_INSTANCES=5",
]


class Rectangles(Dataset):
    """Gray images with a bright rectangle of class 1, every other one with a dark one of class 2.

    Args:
        count: how many images.
        shape: (height, width, channels).
        empty: whether every third image has no object.
    """

    OBJECTS = ((8, 6, 34, 40, 1), (36, 22, 62, 60, 2))  # (y1, x1, y2, x2, class id)
    BRIGHTNESS = {1: 240, 2: 10}

    def __init__(self, count=4, shape=(64, 64, 3), empty=False):
        super().__init__()
        self.add_class("toy", 1, "bright")
        self.add_class("toy", 2, "dark")
        for i in range(count):
            objects = self.OBJECTS[: 1 + i % 2]
            if empty and i % 3 == 2:
                objects = ()
            self.add_image("toy", i, path=f"toy/{i}.png", shape=shape, objects=objects)
        self.prepare()

    def load_image(self, image_id):
        info = self.image_info[image_id]
        image = np.full(info["shape"], 110 + image_id, np.uint8)
        for y1, x1, y2, x2, class_id in info["objects"]:
            image[y1:y2, x1:x2] = self.BRIGHTNESS[class_id]
        return image

    def load_mask(self, image_id):
        info = self.image_info[image_id]
        masks = np.zeros((*info["shape"][:2], len(info["objects"])), bool)
        for i, (y1, x1, y2, x2, _) in enumerate(info["objects"]):
            masks[y1:y2, x1:x2, i] = True
        return masks, np.array([class_id for *_, class_id in info["objects"]], np.int32)


class Logs(keras.callbacks.Callback):
    """Keeps what a training logs, as any callback of a user's gets it.

    Attributes:
        steps: {name: value} of each training step; losses are means over the epoch so far.
        epochs: {name: value} of each epoch.
    """

    def __init__(self):
        super().__init__()
        self.steps = []
        self.epochs = []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(dict(logs))

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(dict(logs))


class Killed(BaseException):
    """Stands for the end of the process; no `except Exception` catches it."""


class KillAt(keras.callbacks.Callback):
    """Raises `Killed` after a number of steps."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise Killed
