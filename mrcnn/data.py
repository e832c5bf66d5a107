"""From an image of a dataset to a training example: molding, image meta, targets, batches. numpy
only.

Boxes are (y1, x1, y2, x2) in pixels of the molded image; y2, x2 lie outside the box. Class ids
below zero are crowds: groups of objects that are neither a target nor background.
"""

import concurrent.futures
import copy
import logging
import math
import random
import time
import warnings

import numpy as np

from mrcnn import boxes as box_math, keypoints, utils

logger = logging.getLogger(__name__)


class DatasetError(ValueError):
    """A dataset that can't be trained on; the message lists every problem."""


# ---- Image meta and molding ----------------------------------------------------------------------


def compose_image_meta(
    image_id, original_image_shape, image_shape, window, scale, active_class_ids
):
    """One vector with what the network needs to know of an image (matterport: compose_image_meta).

    Args:
        image_id: int.
        original_image_shape, image_shape: (H, W, C) before and after molding.
        window: (y1, x1, y2, x2) of the image inside the padding, pixels.
        scale: factor from the original to the molded image.
        active_class_ids: [classes] of 0 and 1: classes that the image's source labels.
    """
    return np.array(
        [image_id, *original_image_shape, *image_shape, *window, scale, *active_class_ids]
    )


# Where the parts of an image meta lie.
META = {
    "image_id": 0,
    "original_image_shape": slice(1, 4),
    "image_shape": slice(4, 7),
    "window": slice(7, 11),
    "scale": 11,
    "active_class_ids": slice(12, None),
}


def parse_image_meta(meta: np.ndarray) -> dict[str, np.ndarray]:
    """The parts of metas [B, 12 + classes] by name (matterport: parse_image_meta)."""
    parts = {name: meta[:, place].astype(np.int32) for name, place in META.items()}
    parts["scale"] = meta[:, META["scale"]].astype(np.float32)
    return parts


def mold_image(images, config):
    """Pixels minus MEAN_PIXEL, divided by STD_PIXEL, float32; [..., H, W, C] (matterport:
    mold_image)."""
    # Row by row, or each operation would run over three values.
    images = np.ascontiguousarray(images)
    rows = images.reshape(*images.shape[:-2], -1)
    mean, std = (
        np.tile(np.broadcast_to(np.float64(value), images.shape[-1:]), images.shape[-2])
        for value in (config.MEAN_PIXEL, config.STD_PIXEL)
    )
    molded = np.subtract(rows, mean, out=np.empty(rows.shape, np.float32), casting="same_kind")
    if np.any(std != 1):
        molded /= std.astype(np.float32)
    return molded.reshape(images.shape)


def unmold_image(normalized_images, config):
    """Inverse of `mold_image`, uint8 by cutting off (matterport: unmold_image)."""
    return (normalized_images * config.STD_PIXEL + config.MEAN_PIXEL).astype(np.uint8)


def mold_with_size(image, config, min_dim=None):
    """Resizes and molds an image for detection.

    Args:
        image: [H, W, C].
        min_dim: in place of IMAGE_MIN_DIM; IMAGE_MAX_DIM grows alike.

    Returns:
        molded [h, w, C] float32, window (y1, x1, y2, x2) in its pixels, scale.
    """
    max_dim, stride = config.IMAGE_MAX_DIM, max(config.BACKBONE_STRIDES)
    if min_dim not in (None, config.IMAGE_MIN_DIM):
        max_dim = round(max_dim * min_dim / config.IMAGE_MIN_DIM)
        max_dim = (
            -(-max_dim // stride) * stride if config.IMAGE_RESIZE_MODE == "square" else max_dim
        )
    size = {
        "min_dim": min_dim or config.IMAGE_MIN_DIM,
        "max_dim": max_dim,
        "min_scale": config.IMAGE_MIN_SCALE,
        "mode": config.IMAGE_RESIZE_MODE,
    }
    if config.FLOAT_RESIZE:
        molded, window, scale, _, _ = utils.resize_image(
            mold_image(image, config).astype(np.float32), exact=True, **size
        )
        return molded, window, scale
    molded, window, scale, _, _ = utils.resize_image(image, **size)
    return mold_image(molded, config).astype(np.float32), window, scale


def compute_anchors(config, image_shape):
    """Anchors [A, (y1, x1, y2, x2)] of a molded image, in pixels, float64."""
    return utils.generate_pyramid_anchors(
        config.RPN_ANCHOR_SCALES,
        config.RPN_ANCHOR_RATIOS,
        compute_backbone_shapes(config, image_shape),
        config.BACKBONE_STRIDES,
        config.RPN_ANCHOR_STRIDE,
        image_shape if config.RPN_ANCHOR_ROUNDING else None,
    )


def compute_backbone_shapes(config, image_shape):
    """[5, (height, width)] of P2..P6 for an image (matterport: compute_backbone_shapes)."""
    if callable(config.BACKBONE):
        return np.asarray(config.COMPUTE_BACKBONE_SHAPE(image_shape))
    return np.array(
        [
            [math.ceil(image_shape[0] / stride), math.ceil(image_shape[1] / stride)]
            for stride in config.BACKBONE_STRIDES
        ]
    )


def with_channels(image, config, where):
    """An image with the number of channels that the network takes.

    Args:
        image: [H, W] or [H, W, C].
        where: names the image in the error.

    Returns:
        [H, W, IMAGE_CHANNEL_COUNT]; gray is repeated and the alpha of RGBA dropped where 3 are
        asked for.
    """
    wanted = config.IMAGE_CHANNEL_COUNT
    shaped = image[..., None] if image.ndim == 2 else image
    if shaped.ndim == 3 and shaped.size:
        if shaped.shape[2] == wanted:
            return shaped
        if wanted == 3 and shaped.shape[2] == 1:
            return np.repeat(shaped, 3, axis=2)
        if wanted == 3 and shaped.shape[2] == 4:
            return shaped[..., :3]
    raise ValueError(
        f"An image is [height, width, {wanted}] (IMAGE_CHANNEL_COUNT). "
        f"Received: {where} of shape {image.shape}"
    )


# ---- Augmentation --------------------------------------------------------------------------------


def import_imgaug():
    """imgaug, which asks numpy for names that newer versions lack."""
    if "bool" not in np.__dict__:
        np.bool = bool
    if "sctypes" not in np.__dict__:
        np.sctypes = {
            "int": [np.int8, np.int16, np.int32, np.int64],
            "others": [bool, object, bytes, str, np.void],
            "uint": [np.uint8, np.uint16, np.uint32, np.uint64],
            "float": [np.float16, np.float32, np.float64],
            "complex": [np.complex64, np.complex128],
        }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import imgaug
    return imgaug


def apply_augmentation(augmentation, image, masks, rng, points=None, flip_pairs=()):
    """The one seam to augmentation: image, masks and keypoints in, the same out.

    Args:
        augmentation: an imgaug augmenter (a copy seeded from `rng` is used; geometric operations
            move image and masks alike, the others leave masks alone), or a function
            f(image, masks) -> (image, masks), with keypoints
            f(image, masks, keypoints) -> (image, masks, keypoints).
        image: [H, W, C]; masks: [H, W, N] bool.
        rng: numpy Generator.
        points: keypoints [N, K, (y, x, visibility)] or None.
        flip_pairs: what an imgaug augmenter that gives a mirror image exchanges; a function does so
            itself.

    Returns:
        image, masks and, if they were given, keypoints; those that left the image are not visible.

    Raises:
        ValueError: the result has another size.
    """
    if hasattr(augmentation, "augment_images"):
        import_imgaug()
        from imgaug.augmentables.segmaps import SegmentationMapsOnImage

        augmenter = copy.deepcopy(augmentation)
        augmenter.seed_(int(rng.integers(2**31)), deterministic_too=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # imgaug is unmaintained and speaks of its own past
            parts = {"image": image}
            if masks.shape[-1]:
                parts["segmentation_maps"] = SegmentationMapsOnImage(masks, image.shape)
            if points is not None:
                parts["keypoints"] = _imgaug_points(points, image.shape)
            parts = dict(zip(parts, augmenter(**parts) if len(parts) > 1 else [augmenter(**parts)]))
        new_image = parts["image"]
        new_masks = parts["segmentation_maps"].arr > 0 if masks.shape[-1] else masks
        new_points = (
            None if points is None else _points_of_imgaug(parts["keypoints"], points, flip_pairs)
        )
    elif callable(augmentation):
        new_image, new_masks, *rest = augmentation(
            image, masks, *([] if points is None else [points])
        )
        new_points = rest[0] if rest else None
    else:
        raise ValueError(
            "augmentation is an imgaug augmenter or a function f(image, masks). "
            f"Received: {augmentation!r}"
        )
    if new_image.shape != image.shape or new_masks.shape != masks.shape:
        raise ValueError(
            f"Augmentation keeps the size of image {image.shape} and masks {masks.shape}. "
            f"Received: {new_image.shape} and {new_masks.shape}"
        )
    if points is None:
        return new_image, new_masks.astype(bool)
    if np.shape(new_points) != points.shape:
        raise ValueError(
            f"Augmentation keeps the shape of keypoints {points.shape}. Received:"
            f" {np.shape(new_points)}"
        )
    return new_image, new_masks.astype(bool), _hide_outside(np.asarray(new_points), image.shape)


def _hide_outside(points, shape):
    """Keypoints [N, K, 3] of an image [H, W, ...]: zero where they are not labelled or lie
    outside."""
    inside = ((points[..., :2] > -1) & (points[..., :2] < shape[:2])).all(axis=-1) & (
        points[..., 2] > 0
    )
    return np.where(inside[..., None], points, 0)


# Points whose order around their centre tells whether the image was mirrored; (y, x) in shares of
# the image.
_MARKERS = np.array([(0.4, 0.4), (0.4, 0.6), (0.6, 0.4)])


def _imgaug_points(points, shape):
    """Keypoints and the markers in imgaug's frame, where the centre of a pixel is at .5."""
    from imgaug.augmentables.kps import Keypoint, KeypointsOnImage

    places = np.concatenate([points[..., :2].reshape(-1, 2), _MARKERS * shape[:2]]) + 0.5
    return KeypointsOnImage([Keypoint(x=x, y=y) for y, x in places], shape)


def _points_of_imgaug(moved, points, flip_pairs):
    places = np.array([(point.y, point.x) for point in moved.keypoints]) - 0.5
    origin, right, down = places[-3:]
    new = points.astype(np.float64)
    new[..., :2] = places[:-3].reshape(new[..., :2].shape)
    mirrored = np.linalg.det([down - origin, right - origin]) < 0
    return keypoints.swap(new, flip_pairs) if mirrored else new


# ---- One example ---------------------------------------------------------------------------------


def _where(dataset, image_id):
    path = dataset.image_info[image_id].get("path")
    return f"image {image_id}" + (f" ({path})" if path else "")


def _load(dataset, config, image_id):
    """image [H, W, C], masks [H, W, N] bool, class_ids [N] int32 of one image, checked; and its
    keypoints

    [N, K, 3] float, None without USE_KEYPOINTS.
    """
    where = _where(dataset, image_id)
    try:
        image = np.asarray(dataset.load_image(image_id))
    except Exception as error:
        raise DatasetError(f"{where} can't be read: {type(error).__name__}: {error}") from error
    image = with_channels(image, config, where)
    try:
        masks, class_ids = dataset.load_mask(image_id)
    except Exception as error:
        raise DatasetError(
            f"the masks of {where} can't be read: {type(error).__name__}: {error}"
        ) from error
    masks, class_ids = np.asarray(masks), np.asarray(class_ids)
    if masks.ndim != 3 or masks.shape[:2] != image.shape[:2] and masks.shape[2]:
        raise DatasetError(
            f"masks are [height, width, objects] with the image's {image.shape[:2]}. "
            f"Received: {masks.shape} for {where}"
        )
    if len(class_ids) != masks.shape[2]:
        raise DatasetError(
            f"each mask has a class id. Received: {masks.shape[2]} masks and {len(class_ids)} "
            f"class ids for {where}"
        )
    if class_ids.size and not np.all(class_ids == np.floor(class_ids)):
        raise DatasetError(
            f"class ids are whole numbers. Received: {class_ids.tolist()} for {where}"
        )
    class_ids = class_ids.astype(np.int32)
    bad = class_ids[(np.abs(class_ids) >= config.NUM_CLASSES) | (class_ids == 0)]
    if bad.size:
        raise DatasetError(
            f"class ids lie in 1..{config.NUM_CLASSES - 1} (NUM_CLASSES - 1; negative for crowds). "
            f"Received: {sorted(set(bad.tolist()))} for {where}"
        )
    if masks.shape[2] == 0:
        masks = np.zeros((*image.shape[:2], 0), bool)
    points = (
        _load_keypoints(dataset, config, image_id, len(class_ids)) if config.USE_KEYPOINTS else None
    )
    return image, masks.astype(bool, copy=False), class_ids, points


def _load_keypoints(dataset, config, image_id, count):
    where = _where(dataset, image_id)
    try:
        points = np.asarray(dataset.load_keypoints(image_id), np.float64)
    except Exception as error:
        raise DatasetError(
            f"the keypoints of {where} can't be read: {type(error).__name__}: {error}"
        ) from error
    if count == 0 and points.size == 0:
        return np.zeros((0, config.NUM_KEYPOINTS, 3))
    if points.shape != (count, config.NUM_KEYPOINTS, 3):
        raise DatasetError(
            "keypoints are [objects, NUM_KEYPOINTS, (y, x, visibility)], here "
            f"{(count, config.NUM_KEYPOINTS, 3)}. Received: {points.shape} for {where}"
        )
    if not np.isfinite(points).all() or not np.isin(points[..., 2], (0, 1, 2)).all():
        raise DatasetError(
            "the visibility of a keypoint is 0, 1 or 2, and its place a number. Received: others"
            f" for {where}"
        )
    return points


def _mirror(image, masks, points, config):
    """image, masks [H, W, N] and keypoints [N, K, 3] or None of the mirror image."""
    if points is not None:
        points = keypoints.mirror(points, image.shape[1], config.KEYPOINT_FLIP_PAIRS)
    return np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(masks[:, ::-1]), points


def load_image_gt(
    dataset,
    config,
    image_id,
    augment=False,
    augmentation=None,
    use_mini_mask=False,
    *,
    rng=None,
    jitter=False,
):
    """Image and ground truth of one example (matterport: load_image_gt).

    Args:
        dataset: prepared `Dataset`.
        augment: the original's old flag: a horizontal flip, every other time.
        augmentation: see `apply_augmentation`.
        use_mini_mask: masks cut to their boxes and resized to MINI_MASK_SHAPE.
        rng: numpy Generator of the draws; None uses the `random` module's, as the original does.
        jitter: draw the shorter edge from IMAGE_MIN_DIM_CHOICES and mirror HORIZONTAL_FLIP of the
            images, as training does.

    Returns:
        image: [H, W, C], not molded.
        image_meta: see `compose_image_meta`.
        class_ids: [N] int32.
        boxes: [N, 4] int32.
        masks: [H, W, N] bool, or [h, w, N] with use_mini_mask. Objects without a pixel are left
            out.
        keypoints: [N, K, (y, x, visibility)] float64; only with USE_KEYPOINTS, otherwise five
            things are returned.

    Raises:
        DatasetError: names the image and what is wrong with it.
    """
    image, masks, class_ids, points = _load(dataset, config, image_id)
    original_shape = image.shape
    empty = (
        np.flatnonzero(~np.bitwise_or.reduce(masks, axis=0).any(axis=0)) if masks.shape[2] else []
    )
    if len(empty):
        warnings.warn(
            f"objects {[int(i) for i in empty]} of {_where(dataset, image_id)} have an empty mask"
            " and are left out",
            stacklevel=2,
        )
    min_dim = config.IMAGE_MIN_DIM
    if jitter and (len(config.IMAGE_MIN_DIM_CHOICES) or config.HORIZONTAL_FLIP):
        rng = np.random.default_rng(random.getrandbits(64)) if rng is None else rng
        min_dim = (
            int(rng.choice(config.IMAGE_MIN_DIM_CHOICES))
            if len(config.IMAGE_MIN_DIM_CHOICES)
            else min_dim
        )
        if rng.random() < config.HORIZONTAL_FLIP:
            image, masks, points = _mirror(image, masks, points, config)
    image, window, scale, padding, crop = utils.resize_image(
        image,
        min_dim=min_dim,
        min_scale=config.IMAGE_MIN_SCALE,
        max_dim=config.IMAGE_MAX_DIM,
        mode=config.IMAGE_RESIZE_MODE,
        rng=rng,
        exact=config.FLOAT_RESIZE,
    )
    masks = (
        utils.resize_mask(masks, scale, padding, crop, exact=config.FLOAT_RESIZE)
        if masks.shape[2]
        else np.zeros((*image.shape[:2], 0), bool)
    )
    if points is not None:
        # The corner of the scaled image that is now the origin.
        origin = (
            np.array(crop[:2]) if crop is not None else -np.array([padding[0][0], padding[1][0]])
        )
        visible = points[..., 2:]
        points = np.concatenate([points[..., :2] * scale - origin, visible], axis=-1)
        points = _hide_outside(points, image.shape)
    if augment:
        logger.warning("load_image_gt(augment=True) is outdated; use augmentation")
        if random.randint(0, 1) if rng is None else rng.integers(2):
            image, masks, points = _mirror(image, masks, points, config)
    if augmentation is not None:
        rng = np.random.default_rng(random.getrandbits(64)) if rng is None else rng
        image, masks, *rest = apply_augmentation(
            augmentation, image, masks, rng, points, config.KEYPOINT_FLIP_PAIRS
        )
        points = rest[0] if rest else None
    boxes = utils.extract_bboxes(masks)
    keep = boxes[:, 2] > 0
    if not keep.all():
        masks, class_ids, boxes = masks[..., keep], class_ids[keep], boxes[keep]
        points = None if points is None else points[keep]
    active = np.zeros([dataset.num_classes], dtype=np.int32)
    active[dataset.source_class_ids[dataset.image_info[image_id]["source"]]] = 1
    if use_mini_mask:
        masks = (
            utils.minimize_mask(boxes, masks, config.MINI_MASK_SHAPE)
            if masks.shape[2]
            else np.zeros((*config.MINI_MASK_SHAPE, 0), bool)
        )
    meta = compose_image_meta(image_id, original_shape, image.shape, window, scale, active)
    example = (image, meta, class_ids, boxes, masks)
    return example if points is None else (*example, points)


# ---- Targets -------------------------------------------------------------------------------------


def build_rpn_targets(image_shape, anchors, gt_class_ids, gt_boxes, config, *, rng=None):
    """Which anchors are objects, and their box deltas (Ren et al. 2015; matterport:
    build_rpn_targets).

    Negative below an IoU of .3 to every object and .001 to every crowd; then positive from .7 and
    where no other anchor fits an object better. Of these RPN_TRAIN_ANCHORS_PER_IMAGE are kept, at
    most half of them positive.

    Args:
        image_shape: not used.
        anchors: [A, 4] in pixels, or `utils.BoxBlocks` of them, which many images may share.
        gt_class_ids: [N] int; gt_boxes: [N, 4].
        rng: numpy Generator or RandomState of the draw; None for numpy's global one.

    Returns:
        rpn_match: [A] int32, 1 positive, -1 negative, 0 neutral.
        rpn_bbox: [RPN_TRAIN_ANCHORS_PER_IMAGE, 4], (dy, dx, log dh, log dw) / RPN_BBOX_STD_DEV of
            the positive anchors in the order of the anchors, then zeros.
    """
    # Drawing few of many without repetition is slow in the old generators.
    rng = np.random.default_rng(np.random.randint(2**31)) if rng is None else rng
    size = config.RPN_TRAIN_ANCHORS_PER_IMAGE
    blocks = (
        anchors
        if isinstance(anchors, utils.BoxBlocks)
        else utils.BoxBlocks(np.asarray(anchors, np.float64))
    )
    gt_boxes, objects = (
        np.asarray(gt_boxes, np.float64).reshape(-1, 4),
        np.asarray(gt_class_ids) >= 0,
    )
    match = np.full(blocks.area.size, -1, np.int32)

    def anchors_of(box, least):
        """Anchors that may have the IoU `least` with a box, and their IoU."""
        ((near, iou),) = blocks.overlaps(box[None], least)
        return (near[:, None] * blocks.SIZE + np.arange(blocks.SIZE)).ravel(), iou.ravel()

    for box in gt_boxes[~objects]:
        rows, iou = anchors_of(box, 0)
        match[rows[iou >= config.CROWD_IOU]] = 0
    positive = []
    for box in gt_boxes[objects]:
        rows, iou = anchors_of(box, config.RPN_NEGATIVE_IOU)
        most = iou.max(initial=0)
        if most < config.RPN_NEGATIVE_IOU:  # then its best anchor may be any
            rows, iou = anchors_of(box, 0)
            most = iou.max(initial=0)
        match[rows[iou >= config.RPN_NEGATIVE_IOU]] = 0
        if most > 0:
            positive.append(rows[iou >= min(most, config.RPN_POSITIVE_IOU)])
    if positive:
        match[np.concatenate(positive)] = 1
    match = match[: blocks.count]
    for value, limit in ((1, size // 2), (-1, None)):
        rows = np.flatnonzero(match == value)
        limit = size - np.count_nonzero(match == 1) if limit is None else limit
        if len(rows) > limit:
            keep = rng.choice(rows, limit, replace=False)
            match[rows] = 0
            match[keep] = value
    deltas = np.zeros((size, 4))
    rows = np.flatnonzero(match == 1)
    if len(rows):
        chosen = blocks.boxes(rows)
        best = gt_boxes[objects][utils.compute_overlaps(chosen, gt_boxes[objects]).argmax(axis=1)]
        deltas[: len(rows)] = box_math.deltas_between(chosen, best) / config.RPN_BBOX_STD_DEV
    return match, deltas


def build_detection_targets(rpn_rois, gt_class_ids, gt_boxes, gt_masks, config, *, rng=None):
    """Targets of the heads in numpy, to look at them (matterport: build_detection_targets).

    The rule is that of `model.DetectionTargetLayer`.

    Args:
        rpn_rois: [P, 4] in pixels; gt_class_ids: [N]; gt_boxes: [N, 4]; gt_masks: [H, W, N] or
            mini-masks.

    Returns:
        rois [R, 4], class_ids [R] int32, deltas [R, classes, 4] and masks [R, h, w, classes] with
        the targets in the place of the object's class; positives first, zero rows at the end.
    """
    rng = np.random if rng is None else rng
    size, ratio = config.TRAIN_ROIS_PER_IMAGE, config.ROI_POSITIVE_RATIO
    rpn_rois, gt_boxes, gt_class_ids = (
        np.asarray(rpn_rois),
        np.asarray(gt_boxes),
        np.asarray(gt_class_ids),
    )
    if config.ROI_ADD_GT and len(gt_boxes):
        rpn_rois = np.concatenate([rpn_rois, gt_boxes[gt_class_ids > 0]])
    iou = (
        utils.compute_overlaps(rpn_rois, gt_boxes)
        if len(gt_boxes)
        else np.zeros((len(rpn_rois), 0))
    )
    object_iou = np.where(gt_class_ids > 0, iou, 0)
    best = object_iou.argmax(axis=1) if len(gt_boxes) else np.zeros(len(rpn_rois), int)
    best_iou = object_iou.max(axis=1, initial=0)
    crowd_iou = np.where(gt_class_ids < 0, iou, 0).max(axis=1, initial=0)
    real = rpn_rois.any(axis=1)
    positive = np.flatnonzero(real & (best_iou >= config.ROI_POSITIVE_IOU))
    negative = np.flatnonzero(
        real & (best_iou < config.ROI_POSITIVE_IOU) & (crowd_iou < config.CROWD_IOU)
    )
    quota = int(size * ratio)
    positive = rng.permutation(positive)[:quota]
    wanted = int(len(positive) / ratio) - len(positive) if len(positive) else size - quota
    wanted = size - len(positive) if config.ROI_FILL_NEGATIVES else wanted
    rows = np.concatenate([positive, rng.permutation(negative)[:wanted]]).astype(int)

    rois = np.zeros((size, 4), rpn_rois.dtype)
    rois[: len(rows)] = rpn_rois[rows]
    class_ids = np.zeros(size, np.int32)
    deltas = np.zeros((size, config.NUM_CLASSES, 4), np.float32)
    masks = np.zeros((size, *config.MASK_SHAPE, config.NUM_CLASSES), np.float32)
    for i, row in enumerate(positive):
        obj = best[row]
        class_ids[i] = class_id = gt_class_ids[obj]
        roi, box = rpn_rois[row].astype(np.float64), gt_boxes[obj]
        deltas[i, class_id] = (
            box_math.deltas_between(roi[None], box[None].astype(np.float64))[0]
            / config.BBOX_STD_DEV
        )
        mask = gt_masks[..., obj]
        if config.USE_MINI_MASK:
            full = np.zeros(np.maximum(box[2:], np.ceil(roi[2:]).astype(int)), bool)
            y1, x1, y2, x2 = (int(v) for v in box)
            full[y1:y2, x1:x2] = utils.resize(mask.astype(float), (y2 - y1, x2 - x1)) >= 0.5
            mask = full
        y1, x1, y2, x2 = (int(v) for v in np.round(roi))
        crop = mask[y1:y2, x1:x2]
        if crop.size:
            masks[i, :, :, class_id] = np.round(
                utils.resize(crop.astype(float), tuple(config.MASK_SHAPE))
            )
    return rois, class_ids, deltas, masks


def generate_random_rois(image_shape, count, gt_class_ids, gt_boxes, *, rng=None):
    """RoIs to train the heads without an RPN: 90% near objects, the rest anywhere (matterport:
    generate_random_rois).

    Returns:
        [count, 4] int32 in pixels, each inside the image and at least one pixel wide and high.
    """
    rng = np.random if rng is None else rng
    height, width = image_shape[:2]
    per_box = int(0.9 * count / len(gt_boxes)) if len(gt_boxes) else 0
    areas = []
    for y1, x1, y2, x2 in np.asarray(gt_boxes).reshape(-1, 4):
        h, w = y2 - y1, x2 - x1
        areas += [
            (max(y1 - h, 0), max(x1 - w, 0), min(y2 + h, height), min(x2 + w, width))
        ] * per_box
    areas += [(0, 0, height, width)] * (count - len(areas))
    low, high = np.array(areas)[:, :2], np.array(areas)[:, 2:]
    corners = (
        low[:, None] + rng.random_sample((count, 2, 2)) * (high - low)[:, None]
        if hasattr(rng, "random_sample")
        else low[:, None] + rng.random((count, 2, 2)) * (high - low)[:, None]
    )
    first = np.minimum(np.floor(corners.min(axis=1)).astype(np.int32), high - 1)
    last = np.maximum(np.ceil(corners.max(axis=1)).astype(np.int32), first + 1)
    return np.concatenate([first, last], axis=1).astype(np.int32)


# ---- Batches -------------------------------------------------------------------------------------


class TrainingBatches:
    """Batch number `step` of an endless run over a dataset; the same for the same seed.

    Each image comes once in a pass, in an order drawn for the pass; passes need not end with a
    batch. Each example draws from a generator of its own, seeded by (seed, number of the example),
    so that threads may make batches in any order.

    Args:
        dataset, config: as for `load_image_gt`.
        shuffle: False keeps the dataset's order.
        augment, augmentation, jitter: see `load_image_gt`.
        no_augmentation_sources: sources of images that are left as they are.
        seed: int.
        batch_size: None for the config's.
        random_rois: RoIs of an image to add to the inputs, 0 for none.
        detection_targets: with random_rois, return their targets as well.
    """

    def __init__(
        self,
        dataset,
        config,
        *,
        shuffle=True,
        augment=False,
        augmentation=None,
        no_augmentation_sources=None,
        seed=0,
        batch_size=None,
        random_rois=0,
        detection_targets=False,
        jitter=False,
    ):
        self.dataset, self.config, self.shuffle, self.seed = dataset, config, shuffle, seed
        self.augment, self.augmentation, self.jitter = augment, augmentation, jitter
        self.no_augmentation_sources = set(no_augmentation_sources or ())
        self.batch_size = batch_size or config.BATCH_SIZE
        self.random_rois, self.detection_targets = random_rois, detection_targets
        self._said_too_many = False
        self._anchors = {}
        if len(dataset.image_ids) == 0:
            raise DatasetError(
                "a dataset to train on has images. Received: one without, or not prepared()"
            )

    def __len__(self):
        """Batches that a pass takes, the last one shared with the next pass."""
        return math.ceil(len(self.dataset.image_ids) / self.batch_size)

    def image_ids(self, step):
        """The image ids of a batch, in order."""
        return [self._image_id(step * self.batch_size + i) for i in range(self.batch_size)]

    def _image_id(self, number):
        ids = np.asarray(self.dataset.image_ids)
        turn, place = divmod(number, len(ids))
        if self.shuffle:
            ids = np.random.default_rng([self.seed, 1, turn]).permutation(ids)
        return int(ids[place])

    def anchors(self, shape):
        """Those of a molded image, [A, 4] in pixels, as `utils.BoxBlocks`."""
        key = tuple(shape[:2])
        if key not in self._anchors:
            config = self.config
            if len(self._anchors) > 8:
                self._anchors.clear()
            self._anchors[key] = utils.BoxBlocks(compute_anchors(config, shape))
        return self._anchors[key]

    def batch(self, step):
        """The inputs of a training step.

        Returns:
            inputs: images [B, H, W, C] float32 molded, metas [B, meta] float64, rpn_match [B, A, 1]
                int32, rpn_bbox [B, n, 4], class_ids [B, G] int32, boxes [B, G, 4] int32, with
                USE_MASK masks [B, h, w, G] bool; with USE_KEYPOINTS keypoints [B, G, K, 3] float32;
                with random_rois rois [B, R, 4] int32.
            image_ids: list.
            targets: with detection_targets the arrays of `build_detection_targets`, else [].
        """
        numbers = range(step * self.batch_size, (step + 1) * self.batch_size)
        rngs = [np.random.default_rng([self.seed, 2, number]) for number in numbers]
        ids = self.image_ids(step)
        examples = [self._example(image_id, rng) for image_id, rng in zip(ids, rngs)]
        config, (b, g) = self.config, (self.batch_size, self.config.MAX_GT_INSTANCES)
        # Images of different sizes are padded on the right and at the bottom to the largest.
        shape = np.max([example[0].shape for example in examples], axis=0)
        anchors = self.anchors(shape)
        images = np.zeros((b, *shape), np.float32)
        metas = np.zeros((b, len(examples[0][1])), np.float64)
        match = np.zeros((b, anchors.count, 1), np.int32)
        deltas = np.zeros((b, config.RPN_TRAIN_ANCHORS_PER_IMAGE, 4))
        class_ids, boxes = np.zeros((b, g), np.int32), np.zeros((b, g, 4), np.int32)
        mask_shape = tuple(config.MINI_MASK_SHAPE) if config.USE_MINI_MASK else tuple(shape[:2])
        masks = np.zeros((b, *mask_shape, g), bool)
        points = (
            [np.zeros((b, g, config.NUM_KEYPOINTS, 3), np.float32)] if config.USE_KEYPOINTS else []
        )
        rois, targets = [], []
        for i, (example, rng) in enumerate(zip(examples, rngs)):
            image, meta, ids_, boxes_, masks_, *points_ = example
            images[i, : image.shape[0], : image.shape[1]] = image
            metas[i] = meta
            metas[i, META["image_shape"]][:2] = shape[:2]
            match[i, :, 0], deltas[i] = build_rpn_targets(
                shape, anchors, ids_, boxes_, config, rng=rng
            )
            class_ids[i, : len(ids_)], boxes[i, : len(ids_)] = ids_, boxes_
            masks[i, : masks_.shape[0], : masks_.shape[1], : len(ids_)] = masks_
            for into, values in zip(points, points_):
                into[i, : len(ids_)] = values
            if self.random_rois:
                rois.append(generate_random_rois(shape, self.random_rois, ids_, boxes_, rng=rng))
                if self.detection_targets:
                    targets.append(
                        build_detection_targets(rois[-1], ids_, boxes_, masks_, config, rng=rng)
                    )
        images = mold_image(images, config).astype(np.float32)
        if config.FLOAT_RESIZE:  # padding is 0 after molding
            for image, meta in zip(images, metas):
                y1, x1, y2, x2 = meta[META["window"]].astype(int)
                image[:y1], image[y2:], image[:, :x1], image[:, x2:] = 0, 0, 0, 0
        inputs = [images, metas, match, deltas, class_ids, boxes]
        inputs += [masks] if config.USE_MASK else []
        inputs += points
        inputs += [np.stack(rois)] if rois else []
        return inputs, ids, [np.stack(part) for part in zip(*targets)]

    def pair(self, step):
        """`batch` as the original yields it: inputs, and [] or [rois' class ids [B, R, 1], deltas,
        masks]."""
        inputs, _, targets = self.batch(step)
        if not targets:
            return inputs, []
        rois, class_ids, deltas, masks = targets
        return [*inputs, rois], [class_ids[..., None], deltas, masks]

    def _example(self, image_id, rng):
        plain = self.dataset.image_info[image_id]["source"] in self.no_augmentation_sources
        image, meta, class_ids, boxes, masks, *points = load_image_gt(
            self.dataset,
            self.config,
            image_id,
            augment=self.augment and not plain,
            augmentation=None if plain else self.augmentation,
            use_mini_mask=self.config.USE_MINI_MASK,
            rng=rng,
            jitter=self.jitter and not plain,
        )
        limit = self.config.MAX_GT_INSTANCES
        if len(class_ids) > limit:
            if not self._said_too_many:
                self._said_too_many = True
                logger.warning(
                    "%s has %d objects; a random %d of them are used (MAX_GT_INSTANCES). The same"
                    " goes for other images with more",
                    _where(self.dataset, image_id),
                    len(class_ids),
                    limit,
                )
            keep = rng.choice(len(class_ids), limit, replace=False)
            class_ids, boxes, masks = class_ids[keep], boxes[keep], masks[..., keep]
            points = [values[keep] for values in points]
        return image, meta, class_ids, boxes, masks, *points


def data_generator(
    dataset,
    config,
    shuffle=True,
    augment=False,
    augmentation=None,
    random_rois=0,
    batch_size=1,
    detection_targets=False,
    no_augmentation_sources=None,
    seed=None,
):
    """Endless `(inputs, outputs)` as in the original (matterport: data_generator); see
    `TrainingBatches.batch`.

    Yields:
        inputs, and [] or with detection_targets [rois' class ids [B, R, 1], deltas, masks].
    """
    if seed is None:
        seed = config.SEED if config.SEED is not None else int(np.random.randint(2**31))
    batches = TrainingBatches(
        dataset,
        config,
        shuffle=shuffle,
        augment=augment,
        augmentation=augmentation,
        no_augmentation_sources=no_augmentation_sources,
        seed=seed,
        batch_size=batch_size,
        random_rois=random_rois,
        detection_targets=detection_targets,
    )
    step = 0
    while True:
        yield batches.pair(step)
        step += 1


# ---- Checking ------------------------------------------------------------------------------------


def check_dataset(dataset, config):
    """Reads every image and mask before training starts, or CHECK_IMAGES of them spread over the
    dataset.

    Raises:
        DatasetError: lists every problem with the image's id and path: unreadable images, masks of
            another size, class ids out of range; or that there are no images, no classes, or a
            number of classes that NUM_CLASSES contradicts.
    """
    if not hasattr(dataset, "num_classes"):
        raise DatasetError(
            "the dataset is not prepared: call prepare() after adding classes and images"
        )
    problems = []
    if dataset.num_classes < 2:
        problems.append("no classes: call add_class() before prepare()")
    elif dataset.num_classes != config.NUM_CLASSES:
        problems.append(
            f"NUM_CLASSES is {config.NUM_CLASSES}, the dataset has {dataset.num_classes} with the "
            f"background: {', '.join(dataset.class_names[:20])}"
        )
    if len(dataset.image_ids) == 0:
        problems.append("no images: call add_image() before prepare()")
    if not problems:
        problems = list(_image_problems(dataset, config))
    if problems:
        raise DatasetError(
            f"The dataset has {len(problems)} problem(s), training does not start:\n  "
            + "\n  ".join(problems)
        )


def _image_problems(dataset, config):
    image_ids = np.asarray(dataset.image_ids)
    if config.CHECK_IMAGES is not None and config.CHECK_IMAGES < len(image_ids):
        image_ids = image_ids[np.linspace(0, len(image_ids) - 1, config.CHECK_IMAGES).astype(int)]

    def problem(image_id):
        try:
            _load(dataset, config, image_id)
        except ValueError as error:
            return str(error)

    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(max(config.WORKERS, 1)) as pool:
        for done, text in enumerate(pool.map(problem, image_ids), 1):
            # A check of a second or two needs no bar.
            if (seconds := time.monotonic() - start) > 2 and (
                done % 20 == 0 or done == len(image_ids)
            ):
                utils.show_progress("checking", done, len(image_ids), seconds)
            if text:
                yield text
