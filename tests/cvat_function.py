"""What CVAT's serverless function for matterport's Mask R-CNN calls, in its order.

Run by test_migrating. MASK_RCNN_DIR is a folder as the function's container has it: a checkout with
mask_rcnn_coco.h5 in it, which is written where it is missing, of a small network. Requests come on
stdin, {name: {"image": base64, "threshold": number}}; the answers go to answers.json.
"""

import base64
import io
import json
import os
import sys

import numpy as np
import tensorflow as tf
from PIL import Image
from skimage.measure import approximate_polygon, find_contours

tf.compat.v1.disable_eager_execution()

FOLDER = os.path.abspath(os.environ.get("MASK_RCNN_DIR"))
sys.path.append(FOLDER)
sys.path.append(os.path.join(FOLDER, "samples/coco"))

import coco  # noqa: E402

from mrcnn import model as modellib  # noqa: E402

WEIGHTS = os.path.join(FOLDER, "mask_rcnn_coco.h5")


class InferenceConfig(coco.CocoConfig):
    GPU_COUNT = 1
    IMAGES_PER_GPU = 1
    # What the function has not: a network for a test.
    BACKBONE = "resnet18"
    BACKBONE_WIDTH = 16
    IMAGE_MIN_DIM = IMAGE_MAX_DIM = 128
    RPN_ANCHOR_SCALES = (48, 64, 80, 96, 112)
    RPN_CHANNELS = TOP_DOWN_PYRAMID_SIZE = MASK_HEAD_CHANNELS = 16
    FPN_CLASSIF_FC_LAYERS_SIZE = 16
    DETECTION_MIN_CONFIDENCE = 0
    DETECTION_MAX_INSTANCES = 20


def write_weights():
    """Random classes of boxes that are anchors, masks that are round at the corners.

    The mask head's convolutions add up, and see less along the edges.
    """
    import h5py

    model = modellib.MaskRCNN(mode="inference", config=InferenceConfig(), model_dir=FOLDER)
    model.keras_model.save_weights(WEIGHTS)
    values = {
        "rpn_model/rpn_bbox_pred": (0, 0),
        "mrcnn_bbox_fc": (0, 0),
        "mrcnn_mask_conv1": (0, 1),
        "mrcnn_mask_deconv": (1 / 16, 0),
        "mrcnn_mask": (1, -12.8),
    }
    for number in (2, 3, 4):
        values[f"mrcnn_mask_conv{number}"] = (1 / (9 * 16), 0)
    with h5py.File(WEIGHTS, "r+") as file:
        for layer, (kernel, bias) in values.items():
            for name, item in arrays_in(file[layer]):
                if "kernel" in name:
                    item[...] = np.full(item.shape, kernel)
                elif "bias" in name:
                    item[...] = np.full(item.shape, bias)


def arrays_in(group):
    """(name, dataset) of all in an h5 group."""
    for name, item in group.items():
        if hasattr(item, "items"):
            yield from arrays_in(item)
        else:
            yield name, item


class Loader:
    def __init__(self, labels):
        self.config = InferenceConfig()
        self.config.display()
        self.model = modellib.MaskRCNN(mode="inference", config=self.config, model_dir=FOLDER)
        self.model.load_weights(WEIGHTS, by_name=True)
        self.labels = labels

    def infer(self, image, threshold):
        found = self.model.detect([image], verbose=1)[0]
        shapes = []
        for i in range(len(found["rois"])):
            score = found["scores"][i]
            class_id = found["class_ids"][i]
            mask = found["masks"][:, :, i]
            if score < threshold:
                continue
            outline = np.flip(find_contours(mask.astype(np.uint8), 0.5)[0], axis=1)
            outline = approximate_polygon(outline, tolerance=2.5)
            if len(outline) < 6:
                continue
            shape = {"confidence": str(score), "label": self.labels[class_id], "type": "polygon"}
            shapes.append({**shape, "points": outline.ravel().tolist()})
        return shapes


def main():
    labels = {number: f"label {number}" for number in range(81)}  # json's numbers, Python's int
    loader = Loader(labels)
    answers = {}
    for name, data in json.loads(sys.stdin.read()).items():
        buffer = io.BytesIO(base64.b64decode(data["image"].encode("utf-8")))
        image = np.array(Image.open(buffer))
        answers[name] = loader.infer(image, float(data.get("threshold", 0.2)))
    with open("answers.json", "w") as file:
        file.write(json.dumps(answers))


if not os.path.exists(WEIGHTS):
    write_weights()
main()
