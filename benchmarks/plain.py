"""The original algorithm's numpy routines restated as plain loops: what `numpy_routines.py`
compares with.

One object, one box, one anchor at a time, with whole-image masks, as the recorded answers in
`tests/recorded` and their README describe them; scikit-image resizes. Only the benchmark uses them.
"""

import numpy as np
from scipy import ndimage
from skimage.transform import resize


def _resize(image, shape, preserve_range=False):
    image = image.astype(np.float64) if image.dtype == bool else image
    return resize(
        image,
        shape,
        order=1,
        mode="constant",
        cval=0,
        clip=True,
        preserve_range=preserve_range,
        anti_aliasing=False,
    )


# ---- Masks ---------------------------------------------------------------------------------------


def unmold_mask(mask, box, shape):
    """[H, W] bool: a soft mask resized to its box in an empty image, from .5 on."""
    y1, x1, y2, x2 = box
    full = np.zeros(shape[:2], bool)
    full[y1:y2, x1:x2] = _resize(mask, (y2 - y1, x2 - x1)) >= 0.5
    return full


def unmold_masks(masks, boxes, shape):
    """[H, W, N]: each mask as a whole image, then stacked."""
    return np.stack([unmold_mask(mask, box, shape) for mask, box in zip(masks, boxes)], axis=-1)


def minimize_mask(boxes, masks, mini_shape):
    """[h, w, N] bool: each box's part of its mask, resized, rounded."""
    mini = np.zeros((*mini_shape, masks.shape[-1]), bool)
    for i, (y1, x1, y2, x2) in enumerate(boxes):
        mini[:, :, i] = np.around(
            _resize(masks[:, :, i].astype(bool)[y1:y2, x1:x2], mini_shape)
        ).astype(bool)
    return mini


def extract_bboxes(masks):
    """[N, 4] int32, object by object from the rows and columns that have a pixel."""
    boxes = np.zeros((masks.shape[-1], 4), np.int32)
    for i in range(masks.shape[-1]):
        mask = masks[:, :, i]
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        if len(columns):
            boxes[i] = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
    return boxes


# ---- Overlaps ------------------------------------------------------------------------------------


def compute_overlaps(boxes1, boxes2):
    """[N, M] IoU, one box of the second set at a time against all of the first."""
    area1 = (boxes1[:, 2] - boxes1[:, 0]) * (boxes1[:, 3] - boxes1[:, 1])
    area2 = (boxes2[:, 2] - boxes2[:, 0]) * (boxes2[:, 3] - boxes2[:, 1])
    overlaps = np.zeros((len(boxes1), len(boxes2)))
    for j, box in enumerate(boxes2):
        height = np.minimum(box[2], boxes1[:, 2]) - np.maximum(box[0], boxes1[:, 0])
        width = np.minimum(box[3], boxes1[:, 3]) - np.maximum(box[1], boxes1[:, 1])
        common = np.maximum(height, 0) * np.maximum(width, 0)
        overlaps[:, j] = common / (area1 + area2[j] - common)
    return overlaps


def compute_overlaps_masks(masks1, masks2):
    """[N, M] IoU by one product of the whole masks as floats."""
    flat1, flat2 = (
        (masks > 0.5).reshape(-1, masks.shape[-1]).astype(np.float32) for masks in (masks1, masks2)
    )
    common = flat1.T @ flat2
    return common / (flat1.sum(axis=0)[:, None] + flat2.sum(axis=0)[None] - common)


# ---- Matching ------------------------------------------------------------------------------------


def compute_ap(gt_boxes, gt_class_ids, gt_masks, boxes, class_ids, scores, masks, threshold=0.5):
    """Average precision of one image: sorts, matches prediction by prediction, sums the
    envelope."""
    order = np.argsort(scores)[::-1]
    class_ids, masks = class_ids[order], masks[..., order]
    overlaps = compute_overlaps_masks(masks, gt_masks)
    taken, hit = -np.ones(len(gt_boxes)), -np.ones(len(boxes))
    for i in range(len(boxes)):
        for j in np.argsort(overlaps[i])[::-1]:
            if overlaps[i, j] < threshold:
                break
            if taken[j] < 0 and class_ids[i] == gt_class_ids[j]:
                taken[j], hit[i] = i, j
                break
    precision = np.cumsum(hit > -1) / (np.arange(len(hit)) + 1)
    recall = np.cumsum(hit > -1).astype(np.float32) / len(taken)
    precision, recall = np.concatenate([[0], precision, [0]]), np.concatenate([[0], recall, [1]])
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    steps = np.flatnonzero(recall[:-1] != recall[1:]) + 1
    return np.sum((recall[steps] - recall[steps - 1]) * precision[steps])


# ---- Training examples ---------------------------------------------------------------------------


def build_rpn_targets(anchors, gt_boxes, config):
    """rpn_match [A], rpn_bbox [n, 4] from the overlaps of every anchor with every object."""
    size = config.RPN_TRAIN_ANCHORS_PER_IMAGE
    match, deltas = np.zeros(len(anchors), np.int32), np.zeros((size, 4))
    overlaps = compute_overlaps(anchors, gt_boxes)
    nearest = np.argmax(overlaps, axis=1)
    best = overlaps[np.arange(len(anchors)), nearest]
    match[best < 0.3] = -1
    match[np.argwhere(overlaps == np.max(overlaps, axis=0))[:, 0]] = 1
    match[best >= 0.7] = 1
    for value, limit in ((1, size // 2), (-1, None)):
        rows = np.where(match == value)[0]
        extra = len(rows) - (limit if limit is not None else size - np.sum(match == 1))
        if extra > 0:
            match[np.random.choice(rows, extra, replace=False)] = 0
    for row, (i, anchor) in enumerate(zip(np.where(match == 1)[0], anchors[match == 1])):
        box = gt_boxes[nearest[i]]
        box_size, box_center = box[2:] - box[:2], box[:2] + 0.5 * (box[2:] - box[:2])
        size_, center = anchor[2:] - anchor[:2], anchor[:2] + 0.5 * (anchor[2:] - anchor[:2])
        deltas[row] = [*((box_center - center) / size_), *np.log(box_size / size_)]
        deltas[row] /= config.RPN_BBOX_STD_DEV
    return match, deltas


def load_image_gt(dataset, config, image_id):
    """Image, class ids, boxes and mini-masks of a "square" example."""
    image = dataset.load_image(image_id)
    masks, class_ids = dataset.load_mask(image_id)
    height, width = image.shape[:2]
    scale = max(1, config.IMAGE_MIN_DIM / min(height, width))
    if round(max(height, width) * scale) > config.IMAGE_MAX_DIM:
        scale = config.IMAGE_MAX_DIM / max(height, width)
    image = _resize(
        image, (round(height * scale), round(width * scale)), preserve_range=True
    ).astype(image.dtype)
    height, width = image.shape[:2]
    top, left = (config.IMAGE_MAX_DIM - height) // 2, (config.IMAGE_MAX_DIM - width) // 2
    padding = [
        (top, config.IMAGE_MAX_DIM - height - top),
        (left, config.IMAGE_MAX_DIM - width - left),
        (0, 0),
    ]
    image = np.pad(image, padding, mode="constant", constant_values=0)
    masks = np.pad(
        ndimage.zoom(masks, zoom=[scale, scale, 1], order=0),
        padding,
        mode="constant",
        constant_values=0,
    )
    kept = np.sum(masks, axis=(0, 1)) > 0
    masks, class_ids = masks[:, :, kept], class_ids[kept]
    boxes = extract_bboxes(masks)
    return image, class_ids, boxes, minimize_mask(boxes, masks, config.MINI_MASK_SHAPE)


def batch(dataset, config, anchors, image_ids):
    """Molded images and targets of a training batch, example by example."""
    images = np.zeros((len(image_ids), *config.IMAGE_SHAPE), np.float32)
    boxes_ = np.zeros((len(image_ids), config.MAX_GT_INSTANCES, 4), np.int32)
    masks_ = np.zeros((len(image_ids), *config.MINI_MASK_SHAPE, config.MAX_GT_INSTANCES), bool)
    targets = []
    for i, image_id in enumerate(image_ids):
        image, class_ids, boxes, masks = load_image_gt(dataset, config, image_id)
        targets.append(build_rpn_targets(anchors, boxes, config))
        images[i] = image.astype(np.float32) - config.MEAN_PIXEL
        boxes_[i, : len(boxes)], masks_[i, :, :, : len(boxes)] = boxes, masks
    return images, boxes_, masks_, targets
