"""The original algorithm's numpy routines as plain loops, which `numpy_routines.py` compares with.

One object, one box, one anchor at a time, with whole-image masks, as the recorded answers in
`tests/recorded` and their README describe them; scikit-image resizes. Only the benchmark uses them.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.transform import resize

from mrcnn.config import Config
from mrcnn.utils import Dataset


def _resize(image: np.ndarray, shape: Sequence[int], preserve_range: bool = False) -> np.ndarray:
    """Bilinear resizing as in scikit-image, zeros beyond the edge."""
    if image.dtype == bool:
        image = image.astype(np.float64)
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


def unmold_mask(mask: np.ndarray, box: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """[H, W] bool: a soft mask resized to its box in an empty image, from .5 on."""
    y1, x1, y2, x2 = box
    full = np.zeros(shape[:2], bool)
    full[y1:y2, x1:x2] = _resize(mask, (y2 - y1, x2 - x1)) >= 0.5
    return full


def unmold_masks(masks: np.ndarray, boxes: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """[H, W, N]: each mask as a whole image, then stacked."""
    return np.stack([unmold_mask(mask, box, shape) for mask, box in zip(masks, boxes)], axis=-1)


def minimize_mask(boxes: np.ndarray, masks: np.ndarray, mini_shape: Sequence[int]) -> np.ndarray:
    """[h, w, N] bool: each box's part of its mask, resized, rounded."""
    mini = np.zeros((*mini_shape, masks.shape[-1]), bool)
    for i, (y1, x1, y2, x2) in enumerate(boxes):
        part = masks[:, :, i].astype(bool)[y1:y2, x1:x2]
        mini[:, :, i] = np.around(_resize(part, mini_shape)).astype(bool)
    return mini


def extract_bboxes(masks: np.ndarray) -> np.ndarray:
    """[N, 4] int32, object by object from the rows and columns that have a pixel."""
    boxes = np.zeros((masks.shape[-1], 4), np.int32)
    for i in range(masks.shape[-1]):
        mask = masks[:, :, i]
        columns = np.flatnonzero(mask.any(axis=0))
        rows = np.flatnonzero(mask.any(axis=1))
        if len(columns):
            boxes[i] = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
    return boxes


# ---- Overlaps ------------------------------------------------------------------------------------


def compute_overlaps(boxes1: np.ndarray, boxes2: np.ndarray) -> np.ndarray:
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


def _flat(masks: np.ndarray) -> np.ndarray:
    """Masks [H, W, N] as [H * W, N] float32 of 0 and 1."""
    return (masks > 0.5).reshape(-1, masks.shape[-1]).astype(np.float32)


def compute_overlaps_masks(masks1: np.ndarray, masks2: np.ndarray) -> np.ndarray:
    """[N, M] IoU by one product of the whole masks as floats."""
    flat1 = _flat(masks1)
    flat2 = _flat(masks2)
    common = flat1.T @ flat2
    return common / (flat1.sum(axis=0)[:, None] + flat2.sum(axis=0)[None] - common)


# ---- Matching ------------------------------------------------------------------------------------


def compute_ap(
    gt_boxes: np.ndarray,
    gt_class_ids: np.ndarray,
    gt_masks: np.ndarray,
    boxes: np.ndarray,
    class_ids: np.ndarray,
    scores: np.ndarray,
    masks: np.ndarray,
    threshold: float = 0.5,
) -> float:
    """Average precision of one image: sorts, matches one by one, sums the envelope."""
    order = np.argsort(scores)[::-1]
    class_ids = class_ids[order]
    overlaps = compute_overlaps_masks(masks[..., order], gt_masks)
    taken = np.zeros(len(gt_boxes), bool)
    matched = np.zeros(len(boxes), bool)
    for i in range(len(boxes)):
        for j in np.argsort(overlaps[i])[::-1]:
            if overlaps[i, j] < threshold:
                break
            if not taken[j] and class_ids[i] == gt_class_ids[j]:
                taken[j] = True
                matched[i] = True
                break
    hits = np.cumsum(matched)
    precision = np.concatenate([[0], hits / (np.arange(len(hits)) + 1), [0]])
    recall = np.concatenate([[0], hits.astype(np.float32) / len(taken), [1]])
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    steps = np.flatnonzero(recall[:-1] != recall[1:]) + 1
    return np.sum((recall[steps] - recall[steps - 1]) * precision[steps])


# ---- Training examples ---------------------------------------------------------------------------


def build_rpn_targets(
    anchors: np.ndarray, gt_boxes: np.ndarray, config: Config
) -> tuple[np.ndarray, np.ndarray]:
    """rpn_match [A], rpn_bbox [n, 4] from the overlaps of every anchor with every object."""
    count = config.RPN_TRAIN_ANCHORS_PER_IMAGE
    match = np.zeros(len(anchors), np.int32)
    deltas = np.zeros((count, 4))
    overlaps = compute_overlaps(anchors, gt_boxes)
    nearest = np.argmax(overlaps, axis=1)
    best = overlaps[np.arange(len(anchors)), nearest]
    match[best < 0.3] = -1
    match[np.argwhere(overlaps == np.max(overlaps, axis=0))[:, 0]] = 1
    match[best >= 0.7] = 1
    _drop_extra(match, 1, count // 2)
    _drop_extra(match, -1, count - np.sum(match == 1))
    for row, i in enumerate(np.where(match == 1)[0]):
        box_size, box_center = _size_and_center(gt_boxes[nearest[i]])
        size, center = _size_and_center(anchors[i])
        deltas[row, :2] = (box_center - center) / size
        deltas[row, 2:] = np.log(box_size / size)
        deltas[row] /= config.RPN_BBOX_STD_DEV
    return match, deltas


def _drop_extra(match: np.ndarray, value: int, limit: int) -> None:
    """Sets a random choice of the anchors with a value to 0, so that `limit` are left."""
    rows = np.where(match == value)[0]
    extra = len(rows) - limit
    if extra > 0:
        match[np.random.choice(rows, extra, replace=False)] = 0


def _size_and_center(box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(height, width) and (y, x) of the centre of a box."""
    size = box[2:] - box[:2]
    return size, box[:2] + 0.5 * size


def load_image_gt(dataset: Dataset, config: Config, image_id: int) -> tuple[np.ndarray, ...]:
    """Image, class ids, boxes and mini-masks of a "square" example."""
    image = dataset.load_image(image_id)
    masks, class_ids = dataset.load_mask(image_id)
    height, width = image.shape[:2]
    side = config.IMAGE_MAX_DIM
    scale = max(1, config.IMAGE_MIN_DIM / min(height, width))
    if round(max(height, width) * scale) > side:
        scale = side / max(height, width)
    new_shape = (round(height * scale), round(width * scale))
    image = _resize(image, new_shape, preserve_range=True).astype(image.dtype)
    masks = ndimage.zoom(masks, zoom=[scale, scale, 1], order=0)
    height, width = image.shape[:2]
    top = (side - height) // 2
    left = (side - width) // 2
    padding = [(top, side - height - top), (left, side - width - left), (0, 0)]
    image = np.pad(image, padding, mode="constant", constant_values=0)
    masks = np.pad(masks, padding, mode="constant", constant_values=0)
    kept = np.sum(masks, axis=(0, 1)) > 0
    masks = masks[:, :, kept]
    boxes = extract_bboxes(masks)
    mini_masks = minimize_mask(boxes, masks, config.MINI_MASK_SHAPE)
    return image, class_ids[kept], boxes, mini_masks


def batch(
    dataset: Dataset, config: Config, anchors: np.ndarray, image_ids: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list]:
    """Molded images, boxes, mini-masks and targets of a training batch, example by example."""
    count = len(image_ids)
    most = config.MAX_GT_INSTANCES
    all_images = np.zeros((count, *config.IMAGE_SHAPE), np.float32)
    all_boxes = np.zeros((count, most, 4), np.int32)
    all_masks = np.zeros((count, *config.MINI_MASK_SHAPE, most), bool)
    targets = []
    for i, image_id in enumerate(image_ids):
        image, _, boxes, masks = load_image_gt(dataset, config, image_id)
        targets.append(build_rpn_targets(anchors, boxes, config))
        all_images[i] = image.astype(np.float32) - config.MEAN_PIXEL
        all_boxes[i, : len(boxes)] = boxes
        all_masks[i, :, :, : len(boxes)] = masks
    return all_images, all_boxes, all_masks, targets
