"""A project as users of matterport's package wrote them, run by test_migrating: its own settings, dataset,
training in stages, evaluation and a look inside. It takes the folder of the checkout and one to write to.

Nothing in it knows this package: it finds `mrcnn` through sys.path and calls what existed in 2018.
"""
import datetime
import os
import sys

import imgaug
import numpy as np
import skimage.draw

ROOT_DIR, WORK_DIR = (os.path.abspath(argument) for argument in sys.argv[1:3])
sys.path.append(ROOT_DIR)

import mrcnn.model as modellib
from mrcnn import utils, visualize
from mrcnn.config import Config
from mrcnn.model import log
from mrcnn.utils import Dataset, compute_ap, extract_bboxes

MODEL_DIR = os.path.join(WORK_DIR, "logs")


class CellConfig(Config):
    NAME = "cell"
    BACKBONE = "resnet50"
    GPU_COUNT = 1
    IMAGES_PER_GPU = 2
    NUM_CLASSES = 1 + 2
    IMAGE_MIN_DIM = 64
    IMAGE_MAX_DIM = 64
    RPN_ANCHOR_SCALES = (8, 16, 32, 64, 128)
    TRAIN_ROIS_PER_IMAGE = 16
    STEPS_PER_EPOCH = 2
    VALIDATION_STEPS = 1
    DETECTION_MIN_CONFIDENCE = 0
    USE_MINI_MASK = True
    LEARNING_RATE = 0.001
    MY_OWN_CONSTANT = "kept"


class InferenceConfig(CellConfig):
    GPU_COUNT = 1
    IMAGES_PER_GPU = 1


class CellDataset(Dataset):
    def load_cells(self, count, height, width):
        self.add_class("cells", 1, "round")
        self.add_class("cells", 2, "long")
        for i in range(count):
            self.add_image("cells", image_id=i, path=None, width=width, height=height, centre=(20 + 3 * i, 24 + 2 * i))

    def load_image(self, image_id):
        info = self.image_info[image_id]
        image = np.full([info["height"], info["width"], 3], 30, dtype=np.uint8)
        masks, _ = self.load_mask(image_id)
        for i in range(masks.shape[-1]):
            image[masks[:, :, i]] = [200, 120 + 80 * i, 60]
        return image

    def load_mask(self, image_id):
        info = self.image_info[image_id]
        if info["source"] != "cells":
            return super(self.__class__, self).load_mask(image_id)
        masks = np.zeros([info["height"], info["width"], 2], dtype=np.uint8)
        rr, cc = skimage.draw.disk(info["centre"], 11, shape=masks.shape[:2])
        masks[rr, cc, 0] = 1
        rr, cc = skimage.draw.polygon([40, 40, 55, 55], [6, 58, 58, 6], masks.shape[:2])
        masks[rr, cc, 1] = 1
        return masks.astype(bool), np.array([1, 2], dtype=np.int32)

    def image_reference(self, image_id):
        info = self.image_info[image_id]
        if info["source"] == "cells":
            return info["centre"]
        super(self.__class__, self).image_reference(image_id)


config = CellConfig()
config.display()
assert config.MY_OWN_CONSTANT == "kept" and config.BATCH_SIZE == 2

dataset_train, dataset_val = CellDataset(), CellDataset()
for dataset, count in ((dataset_train, 4), (dataset_val, 2)):
    dataset.load_cells(count, 64, 64)
    dataset.prepare()
print("Image Count: {}".format(len(dataset_train.image_ids)))
for i, info in enumerate(dataset_train.class_info):
    print("{:3}. {:50}".format(i, info["name"]))

# ---- Data ------------------------------------------------------------------------------------------
image = dataset_train.load_image(0)
mask, class_ids = dataset_train.load_mask(0)
bbox = extract_bboxes(mask)
log("image", image)
log("bbox", bbox)
visualize.display_top_masks(image, mask, class_ids, dataset_train.class_names)
visualize.display_instances(image, bbox, mask, class_ids, dataset_train.class_names)
image, window, scale, padding, crop = utils.resize_image(
    image, min_dim=config.IMAGE_MIN_DIM, min_scale=config.IMAGE_MIN_SCALE, max_dim=config.IMAGE_MAX_DIM,
    mode=config.IMAGE_RESIZE_MODE)
mask = utils.resize_mask(mask, scale, padding, crop)
image, image_meta, class_ids, bbox, mask = modellib.load_image_gt(
    dataset_train, config, 1, augment=False, use_mini_mask=True)
visualize.display_images([image] + [mask[:, :, i] for i in range(min(mask.shape[-1], 7))])
mask = utils.expand_mask(bbox, mask, image.shape)
image, image_meta, class_ids, bbox, mask = modellib.load_image_gt(
    dataset_train, config, 1, augment=True, augmentation=imgaug.augmenters.Fliplr(0.5), use_mini_mask=False)

backbone_shapes = modellib.compute_backbone_shapes(config, config.IMAGE_SHAPE)
anchors = utils.generate_pyramid_anchors(config.RPN_ANCHOR_SCALES, config.RPN_ANCHOR_RATIOS, backbone_shapes,
                                         config.BACKBONE_STRIDES, config.RPN_ANCHOR_STRIDE)
target_rpn_match, target_rpn_bbox = modellib.build_rpn_targets(image.shape, anchors, class_ids, bbox, config)
positive_anchor_ix = np.where(target_rpn_match[:] == 1)[0]
refined_anchors = utils.apply_box_deltas(
    anchors[positive_anchor_ix], target_rpn_bbox[:len(positive_anchor_ix)] * config.RPN_BBOX_STD_DEV)
visualize.draw_boxes(image, boxes=anchors[positive_anchor_ix], refined_boxes=refined_anchors)
g = modellib.data_generator(dataset_train, config, shuffle=True, random_rois=40, batch_size=2, detection_targets=True)
[normalized_images, image_meta, rpn_match, rpn_bbox, gt_class_ids, gt_boxes, gt_masks, rpn_rois, rois], \
    [mrcnn_class_ids, mrcnn_bbox, mrcnn_mask] = next(g)
sample_image = modellib.unmold_image(normalized_images[0], config)
assert sample_image.dtype == np.uint8

# ---- Training --------------------------------------------------------------------------------------
seen = []


def make_callback():
    from tensorflow import keras

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((epoch, logs["loss"], logs["val_mrcnn_mask_loss"]))
    return Watch()


model = modellib.MaskRCNN(mode="training", config=config, model_dir=MODEL_DIR)
augmentation = imgaug.augmenters.Sometimes(0.5, [
    imgaug.augmenters.Fliplr(0.5), imgaug.augmenters.GaussianBlur(sigma=(0.0, 5.0))])
model.train(dataset_train, dataset_val, learning_rate=config.LEARNING_RATE, epochs=1, layers="heads",
            augmentation=augmentation, custom_callbacks=[make_callback()])
model.train(dataset_train, dataset_val, learning_rate=config.LEARNING_RATE / 10, epochs=2, layers=r"(mrcnn\_.*)")
assert len(seen) == 1 and seen[0][0] == 0 and np.isfinite(seen[0]).all(), seen
assert model.epoch == 2 and os.path.exists(model.checkpoint_path.format(epoch=2))
model_path = os.path.join(MODEL_DIR, "mask_rcnn_cells.h5")
model.keras_model.save_weights(model_path)

# Resuming, by both spellings of find_last.
again = modellib.MaskRCNN(mode="training", config=config, model_dir=MODEL_DIR)
assert again.find_last() == again.find_last()[1]
again.load_weights(again.find_last(), by_name=True)
assert again.epoch == 2 and again.log_dir == model.log_dir
# Fine-tuning for other classes.
again.load_weights(model_path, by_name=True,
                   exclude=["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask"])

# ---- Detection -------------------------------------------------------------------------------------
inference_config = InferenceConfig()
model = modellib.MaskRCNN(mode="inference", config=inference_config, model_dir=MODEL_DIR)
model.load_weights(model_path, by_name=True)
APs = []
for image_id in np.random.choice(dataset_val.image_ids, 2):
    image, image_meta, gt_class_id, gt_bbox, gt_mask = modellib.load_image_gt(
        dataset_val, inference_config, image_id, use_mini_mask=False)
    molded_images = np.expand_dims(modellib.mold_image(image, inference_config), 0)
    results = model.detect([image], verbose=0)
    r = results[0]
    assert r["masks"].shape[:2] == image.shape[:2] and r["masks"].shape[-1] == len(r["rois"])
    AP, precisions, recalls, overlaps = compute_ap(
        gt_bbox, gt_class_id, gt_mask, r["rois"], r["class_ids"], r["scores"], r["masks"])
    APs.append(AP)
    visualize.plot_precision_recall(AP, precisions, recalls)
    visualize.display_instances(image, r["rois"], r["masks"], r["class_ids"], dataset_val.class_names, r["scores"])
    visualize.display_differences(image, gt_bbox, gt_class_id, gt_mask, r["rois"], r["class_ids"], r["scores"],
                                  r["masks"], dataset_val.class_names)
    # A batch as one array, already molded, as some tutorials pass it.
    assert len(model.detect(molded_images)) == 1
    # The Keras model called by hand, as scripts do that write a `detect` of their own.
    batch, metas, windows = model.mold_inputs([image])
    boxes = np.broadcast_to(model.get_anchors(batch[0].shape), (1,) + model.get_anchors(batch[0].shape).shape)
    detections, _, _, masks, _, _, _ = model.keras_model.predict([batch, metas, boxes], verbose=0)
    rois, ids, scores, masks = model.unmold_detections(detections[0], masks[0], image.shape, batch[0].shape, windows[0])
    assert np.array_equal(ids, r["class_ids"]) and np.abs(rois - r["rois"]).max(initial=0) <= 1
    molded = model.detect_molded(batch, metas, verbose=0)[0]
    assert np.array_equal(molded["class_ids"], r["class_ids"])
print("mAP: ", np.mean(APs))

# ---- Inside ----------------------------------------------------------------------------------------
pillar = model.keras_model.get_layer("ROI").output
rpn = model.run_graph([image], [
    ("rpn_class", model.keras_model.get_layer("rpn_class").output),
    ("pre_nms_anchors", model.ancestor(pillar, "ROI/pre_nms_anchors:0")),
    ("refined_anchors", model.ancestor(pillar, "ROI/refined_anchors:0")),
    ("refined_anchors_clipped", model.ancestor(pillar, "ROI/refined_anchors_clipped:0")),
    ("post_nms_anchor_ix", model.ancestor(pillar, "ROI/rpn_non_max_suppression:0")),
    ("proposals", model.keras_model.get_layer("ROI").output)])
mrcnn = model.run_graph([image], [
    ("proposals", model.keras_model.get_layer("ROI").output),
    ("probs", model.keras_model.get_layer("mrcnn_class").output),
    ("deltas", model.keras_model.get_layer("mrcnn_bbox").output),
    ("masks", model.keras_model.get_layer("mrcnn_mask").output),
    ("detections", model.keras_model.get_layer("mrcnn_detection").output)])
activations = model.run_graph([image], [
    ("input_image", model.keras_model.get_layer("input_image").output),
    ("res2c_out", model.keras_model.get_layer("res2c_out").output)])
h, w = config.IMAGE_SHAPE[:2]
proposals = np.around(mrcnn["proposals"][0] * np.array([h, w, h, w])).astype(np.int32)
limit = 5
visualize.draw_boxes(image, refined_boxes=proposals[:limit])
for layer in model.get_trainable_layers()[:3]:
    print(layer.name, [weight.shape for weight in layer.get_weights()])
visualize.display_weight_stats(model)
print("finished", datetime.datetime.now())
