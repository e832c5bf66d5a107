"""Statistics of datasets, anchors, masks, pooling and weights, which `mrcnn.figures` draws.

In numpy. Boxes are (y1, x1, y2, x2) in pixels of the molded image; y2, x2 lie outside the box. A
level is the base-2 logarithm of a feature map's stride: P2 has stride 4.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mrcnn import boxes as box_math, data, utils

if TYPE_CHECKING:
    from mrcnn.config import Config
    from mrcnn.model import MaskRCNN
    from mrcnn.trace import Trace
    from mrcnn.utils import Dataset
    from mrcnn.weights import Coverage

# ---- Datasets ------------------------------------------------------------------------------------


@dataclasses.dataclass
class Survey:
    """The objects of a dataset, see `survey`.

    Attributes:
        boxes: [N, 4] float, boxes of the objects after resizing, without crowds.
        areas: [N] float, areas of their masks after resizing, in pixels.
        class_ids, image_ids: [N] int.
        crowds: number of crowds, which are left out.
        shapes: [I, (height, width)] of the images before resizing.
        counts: [I] int, number of objects of each image.
        molded: (height, width) of the largest image after resizing.
        class_names: by class id.
    """

    boxes: np.ndarray
    areas: np.ndarray
    class_ids: np.ndarray
    image_ids: np.ndarray
    crowds: int
    shapes: np.ndarray
    counts: np.ndarray
    molded: tuple[int, ...]
    class_names: list[str]

    def __repr__(self) -> str:
        classes = len(self.class_names) - 1
        return f"Survey({len(self.shapes)} images, {len(self.boxes)} objects, {classes} classes)"

    def summary(self) -> list[list]:
        """Rows [description, value] of a table about images and objects."""
        sides = np.zeros(1)
        if len(self.areas):
            sides = np.sqrt(self.areas)
        return [
            ["images", len(self.shapes)],
            ["of them without objects", int((self.counts == 0).sum())],
            ["objects", len(self.boxes)],
            ["crowds, left out", self.crowds],
            ["objects in an image, most", int(self.counts.max(initial=0))],
            [
                "side of an object after resizing, smallest / median / largest",
                f"{sides.min():.0f} / {np.median(sides):.0f} / {sides.max():.0f} px",
            ],
        ]

    def classes(self) -> list[tuple[str, int, int]]:
        """Rows (name, objects, images with an object), the class with most objects first."""
        rows = []
        for class_id, name in enumerate(self.class_names):
            if class_id == 0:
                continue
            is_class = self.class_ids == class_id
            images = np.unique(self.image_ids[is_class])
            rows.append((name, int(is_class.sum()), len(images)))
        return sorted(rows, key=_objects_of_row, reverse=True)


def _objects_of_row(row: tuple[str, int, int]) -> int:
    """The number of objects of a row of `Survey.classes`."""
    return row[1]


def survey(
    dataset: Dataset, config: Config, image_ids: Sequence[int] | np.ndarray | None = None
) -> Survey:
    """Reads masks and computes the boxes and areas of the objects after resizing by `config`.

    Args:
        dataset: prepared `Dataset`.
        config: for the resize settings.
        image_ids: None for all.

    Returns:
        `Survey`.
    """
    if image_ids is None:
        image_ids = dataset.image_ids
    parts = [_survey_image(dataset, config, image_id) for image_id in image_ids]
    counts = np.array([len(part.boxes) for part in parts])
    height, width = np.max([(0, 0), *(part.molded for part in parts)], axis=0).tolist()
    return Survey(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.areas for part in parts]),
        np.concatenate([part.class_ids for part in parts]),
        np.repeat(np.asarray(image_ids, int), counts),
        sum(part.crowds for part in parts),
        np.array([part.shape for part in parts]),
        counts,
        (height, width),
        list(dataset.class_names),
    )


@dataclasses.dataclass
class _SurveyedImage:
    """The part of a `Survey` of one image; shape: (height, width) before resizing."""

    boxes: np.ndarray
    areas: np.ndarray
    class_ids: np.ndarray
    crowds: int
    shape: tuple[int, ...]
    molded: tuple[int, ...]


def _survey_image(dataset: Dataset, config: Config, image_id: int) -> _SurveyedImage:
    """Reads one image of a survey; crowds and objects without a pixel are left out."""
    masks, class_ids = map(np.asarray, dataset.load_mask(image_id))
    if masks.shape[2]:
        shape = masks.shape[:2]
        kept = np.flatnonzero((class_ids > 0) & masks.any(axis=(0, 1)))
    else:
        shape = dataset.load_image(image_id).shape[:2]
        kept = np.zeros(0, int)
    # Scale and window don't depend on the pixels: one channel of zeros is enough.
    resized, window, scale, _, _ = utils.resize_image(
        np.zeros(shape, np.uint8),
        min_dim=config.IMAGE_MIN_DIM,
        max_dim=config.IMAGE_MAX_DIM,
        min_scale=config.IMAGE_MIN_SCALE,
        mode=config.IMAGE_RESIZE_MODE,
    )
    masks = masks[..., kept]
    boxes = utils.extract_bboxes(masks) * scale + np.tile(window[:2], 2)
    areas = np.count_nonzero(masks, axis=(0, 1)) * scale**2
    return _SurveyedImage(
        boxes.reshape(-1, 4).astype(float),
        areas.astype(float),
        class_ids[kept].astype(int),
        int((class_ids < 0).sum()),
        shape,
        resized.shape[:2],
    )


def true_objects(dataset: Dataset, image_id: int, crowds: bool = False) -> dict:
    """The objects of an image in the form of a result of `MaskRCNN.detect`.

    Args:
        dataset: prepared `Dataset`.
        crowds: include crowds; their class ids are negative.

    Returns:
        {"rois", "class_ids", "scores": None, "masks", "keypoints"}; keypoints [N, K, (y, x,
        visibility)], None if the dataset has none.
    """
    masks, class_ids = map(np.asarray, dataset.load_mask(image_id))
    masks = masks.astype(bool, copy=False)
    points = _load_keypoints(dataset, image_id)
    if not crowds:
        kept = class_ids > 0
        masks = masks[..., kept]
        class_ids = class_ids[kept]
        if points is not None:
            points = points[kept]
    return {
        "rois": utils.extract_bboxes(masks),
        "class_ids": class_ids,
        "scores": None,
        "masks": masks,
        "keypoints": points,
    }


def _load_keypoints(dataset: Dataset, image_id: int) -> np.ndarray | None:
    """The keypoints [N, K, 3] of an image; None if the dataset has none."""
    # A `CocoDataset` of a json without keypoints implements `load_keypoints`, but has no names.
    if getattr(dataset, "keypoint_names", None) == ():
        return None
    try:
        return np.asarray(dataset.load_keypoints(image_id), float)
    except NotImplementedError:
        return None


# ---- Anchors -------------------------------------------------------------------------------------


def anchor_fit(boxes: np.ndarray, config: Config, image_shape: Sequence[int]) -> np.ndarray:
    """The best IoU of the anchors of each level with each box.

    Only the anchors with the nearest centre are compared, since they have the largest IoU.

    Args:
        boxes: [N, 4].
        config: for the anchors' settings.
        image_shape: (height, width, ...) of the molded image.

    Returns:
        [N, levels] float.
    """
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    box_centre = 0.5 * (boxes[:, :2] + boxes[:, 2:])
    strides = np.atleast_1d(config.BACKBONE_STRIDES)
    shapes = data.compute_backbone_shapes(config, image_shape)
    best = []
    for scale, stride, map_shape in zip(config.RPN_ANCHOR_SCALES, strides, shapes):
        step = stride * config.RPN_ANCHOR_STRIDE
        last = -(-np.asarray(map_shape) // config.RPN_ANCHOR_STRIDE) - 1
        anchor_centre = np.clip(np.round(box_centre / step), 0, last) * step  # [N, 2]
        anchor_centre = np.tile(anchor_centre, 2)
        overlaps = []
        for anchor in utils.generate_anchors(scale, config.RPN_ANCHOR_RATIOS, (1, 1), stride, 1):
            intersection = box_math.intersection(boxes.T, (anchor_centre + anchor).T)
            areas = box_math.area(boxes)
            overlaps.append(box_math.iou(intersection, areas, box_math.area(anchor)))
        best.append(np.max(overlaps, axis=0))
    return np.stack(best, axis=1)


def recall_by_level(boxes: np.ndarray, config: Config, image_shape: Sequence[int]) -> list[tuple]:
    """The recall of anchors by level; an object counts for the level with the best IoU.

    Args:
        boxes, config, image_shape: see `anchor_fit`.

    Returns:
        rows (level, anchor scale, objects, mean best IoU, share of objects with an IoU of at least
        .5, at least .7), the last one over all levels; NaN without objects.
    """
    fit = anchor_fit(boxes, config, image_shape)
    best = fit.max(axis=1, initial=0)
    levels = fit.argmax(axis=1)
    rows: list[tuple] = []
    strides = np.atleast_1d(config.BACKBONE_STRIDES)
    for i, (stride, scale) in enumerate(zip(strides, config.RPN_ANCHOR_SCALES)):
        name = f"P{round(np.log2(stride))}"
        rows.append((name, scale, *_recall(best[levels == i])))
    rows.append(("all", "", *_recall(best)))
    return rows


def _recall(best: np.ndarray) -> tuple[int, float, float, float]:
    """The last four columns of `recall_by_level` for objects with these best IoUs [N]."""
    if not len(best):
        return 0, np.nan, np.nan, np.nan
    share_50 = float((best >= 0.5).mean())
    share_70 = float((best >= 0.7).mean())
    return len(best), float(best.mean()), share_50, share_70


# ---- Training examples ---------------------------------------------------------------------------


def rpn_example(dataset: Dataset, config: Config, image_id: int, seed: int = 0) -> dict:
    """The training targets of the RPN for one image.

    Returns:
        dict: image [H, W, C], class_ids, boxes, masks [H, W, N]; anchors [A, 4]; match [A]: 1
        positive, -1 negative, 0 neutral; targets [P, 4], the positive anchors refined by their
        deltas; counts of the three kinds.
    """
    rng = np.random.default_rng(seed)
    image, _, class_ids, boxes, masks = data.load_image_gt(dataset, config, image_id, rng=rng)
    anchors = utils.generate_pyramid_anchors(
        config.RPN_ANCHOR_SCALES,
        config.RPN_ANCHOR_RATIOS,
        data.compute_backbone_shapes(config, image.shape),
        config.BACKBONE_STRIDES,
        config.RPN_ANCHOR_STRIDE,
    )
    match, deltas = data.build_rpn_targets(image.shape, anchors, class_ids, boxes, config, rng=rng)
    positive = np.flatnonzero(match == 1)
    positive_deltas = deltas[: len(positive)] * config.RPN_BBOX_STD_DEV
    return {
        "image": image,
        "class_ids": class_ids,
        "boxes": boxes,
        "masks": masks,
        "anchors": anchors,
        "match": match,
        "targets": utils.apply_box_deltas(anchors[positive], positive_deltas),
        "counts": {
            "positive": len(positive),
            "negative": int((match == -1).sum()),
            "neutral": int((match == 0).sum()),
        },
    }


def roi_example(
    example: dict, config: Config, rois: np.ndarray | None = None, seed: int = 0
) -> dict:
    """The RoIs that train the heads on the image of an `rpn_example`, and their targets.

    Positive ones are sampled with the share ROI_POSITIVE_RATIO, by default a third.

    Args:
        example: of `rpn_example`.
        config: the same as there.
        rois: [P, 4] proposals; None to generate random ones around the objects.
        seed: of the samples.

    Returns:
        dict: rois [R, 4], class_ids [R] (0: negative), refined [R, 4] (positives, refined by their
        target deltas), masks [R, h, w], counts.
    """
    rng = np.random.default_rng(seed)
    if rois is None:
        rois = data.generate_random_rois(
            example["image"].shape,
            8 * config.TRAIN_ROIS_PER_IMAGE,
            example["class_ids"],
            example["boxes"],
            rng=rng,
        )
    masks = example["masks"]
    if config.USE_MINI_MASK:
        masks = utils.minimize_mask(example["boxes"], masks, config.MINI_MASK_SHAPE)
    rois, class_ids, deltas, masks = data.build_detection_targets(
        rois, example["class_ids"], example["boxes"], masks, config, rng=rng
    )
    is_roi = rois.any(axis=1)
    rows = np.arange(len(rois))
    refined = utils.apply_box_deltas(rois, deltas[rows, class_ids] * config.BBOX_STD_DEV)
    positives = int((class_ids > 0).sum())
    return {
        "rois": rois[is_roi],
        "class_ids": class_ids[is_roi],
        "refined": refined[is_roi],
        "masks": masks[rows, :, :, class_ids][is_roi],
        "counts": {"positive": positives, "negative": int(is_roi.sum()) - positives},
    }


# ---- Masks ---------------------------------------------------------------------------------------


def iou_of_masks(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two masks [H, W]; 1 for two empty ones."""
    a = np.asarray(a, bool)
    b = np.asarray(b, bool)
    union = np.count_nonzero(a | b)
    if union == 0:
        return 1.0
    return np.count_nonzero(a & b) / union


def mask_chain(
    mask: np.ndarray, config: Config, side: int = 28, detection: dict | None = None
) -> list[dict]:
    """The encodings of an object's mask in training, and their IoU when pasted back.

    Args:
        mask: [H, W] bool, not empty.
        config: for MINI_MASK_SHAPE.
        side: of the mask head's output, 28 or 56.
        detection: a `best_detection`, or None.

    Returns:
        [{"name", "small": [h, w], "pasted": [H, W] bool, "iou"}] of the object, its mini-mask, the
        target made from the mini-mask, the target made from the object, and the prediction if there
        is one.
    """
    masks = mask[..., None]
    boxes = utils.extract_bboxes(masks)
    box = boxes[0]
    y1, x1, y2, x2 = box
    mini = utils.minimize_mask(boxes, masks, config.MINI_MASK_SHAPE)
    # As in `DetectionTargetLayer`, for a RoI that equals the box but for rounding. For an exactly
    # equal one, TensorFlow's kernel, which matterport uses too, may read 0 in the last row and
    # column.
    target = np.round(crop_and_resize(mini.astype(float), (0, 0, 1, 1), (side, side)))[..., 0]
    target_of_object = utils.minimize_mask(boxes, masks, (side, side))[..., 0]
    height, width = config.MINI_MASK_SHAPE
    mini_title = f"target {side} x {side} of the mini-mask"
    object_title = f"target {side} x {side} of the object"
    expanded = utils.expand_mask(boxes, mini, mask.shape)[..., 0]
    steps = [
        ("object", mask[y1:y2, x1:x2], mask),
        (f"mini-mask {height} x {width}", mini[..., 0], expanded),
        (mini_title, target, utils.unmold_mask(target, box, mask.shape)),
        (object_title, target_of_object, utils.unmold_mask(target_of_object, box, mask.shape)),
    ]
    if detection is not None:
        prediction = detection["prediction"]
        pasted = utils.unmold_mask(prediction, detection["predicted_box"], mask.shape)
        steps.append(("prediction, pasted", prediction, pasted))
    chain = []
    for name, small, pasted in steps:
        small = np.asarray(small, float)
        iou = iou_of_masks(pasted, mask)
        chain.append({"name": name, "small": small, "pasted": pasted, "iou": iou})
    return chain


def mask_losses(
    masks: np.ndarray, config: Config, sides: Sequence[int] = (28, 56)
) -> list[tuple[str, float]]:
    """The mean IoU of each step of `mask_chain` over masks [H, W, N].

    Returns:
        rows (step, IoU), for all sides.
    """
    overlaps: dict[str, list[float]] = {}
    for i in range(masks.shape[2]):
        for side in sides:
            for step in mask_chain(masks[..., i], config, side)[1:]:
                overlaps.setdefault(step["name"], []).append(step["iou"])
    return [(name, float(np.mean(values))) for name, values in overlaps.items()]


def largest(masks: np.ndarray) -> int:
    """Index of the mask [H, W, N] with most pixels."""
    return int(np.count_nonzero(masks, axis=(0, 1)).argmax())


def best_detection(stages: Trace, mask: np.ndarray) -> dict | None:
    """The detection of a `Trace` with the largest IoU with a mask [H, W] in the molded image.

    Returns:
        {"index", "iou", "prediction": [h, w], "predicted_box": whole pixels, "all_masks": [h, w,
        K], "class_id"}; None without detections or without masks.
    """
    if stages.masks is None or stages.all_masks is None or stages.pasted is None:
        return None
    if not len(stages.boxes):
        return None
    overlaps = [iou_of_masks(stages.pasted[..., i], mask) for i in range(len(stages.boxes))]
    i = int(np.argmax(overlaps))
    return {
        "index": i,
        "iou": overlaps[i],
        "prediction": stages.masks[i],
        "all_masks": stages.all_masks[i],
        "predicted_box": np.around(stages.boxes[i]).astype(int),
        "class_id": int(stages.detected_ids[i]),
    }


def softmax_and_sigmoid(detection: dict) -> dict[str, np.ndarray]:
    """The mask of a detection by a softmax over classes and by sigmoids (paper, table 2b).

    Args:
        detection: a `best_detection`, whose masks are sigmoids.

    Returns:
        {"sigmoid", "softmax": [h, w], probability of the class; "rivals": [h, w], the largest
        sigmoid of another class}.
    """
    class_id = detection["class_id"]
    probs = np.clip(np.asarray(detection["all_masks"], float), 1e-7, 1 - 1e-7)
    logits = np.log(probs / (1 - probs))
    # Background competes as well, with the logit 0, at which a sigmoid is .5.
    logits[..., 0] = 0
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    softmax = powers / powers.sum(axis=-1, keepdims=True)
    rivals = np.delete(probs, [0, class_id], axis=-1)
    return {
        "sigmoid": probs[..., class_id],
        "softmax": softmax[..., class_id],
        "rivals": rivals.max(axis=-1, initial=0),
    }


# ---- Pooling -------------------------------------------------------------------------------------

# The three methods of the paper's table 2c for one box, as simple as possible, to read and to
# measure. The network uses those of `mrcnn.ops`.


def bilinear(features: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Features [h, w, C] interpolated at rows y [m] and columns x [n]: [m, n, C]; edges repeat."""
    height, width = features.shape[:2]
    y0, y1, dy = _neighbours(y, height)
    x0, x1, dx = _neighbours(x, width)
    dy = dy[:, None, None]
    dx = dx[None, :, None]
    upper = features[y0]
    lower = features[y1]
    top = upper[:, x0] * (1 - dx) + upper[:, x1] * dx
    bottom = lower[:, x0] * (1 - dx) + lower[:, x1] * dx
    return top * (1 - dy) + bottom * dy


def _neighbours(positions: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the cells before and after positions [m], and the weights of the ones after."""
    positions = np.clip(positions, 0, size - 1)
    before = np.minimum(positions.astype(int), max(size - 2, 0))
    after = np.minimum(before + 1, size - 1)
    return before, after, positions - before


def roi_pool(
    features: np.ndarray,
    box: np.ndarray | Sequence[float],
    size: tuple[int, int],
    reduce: Callable = np.max,
) -> np.ndarray:
    """RoIPool (Girshick 2015): the maximum of each bin; box and bins are rounded to whole cells.

    Args:
        features: [h, w, C].
        box: (y1, x1, y2, x2) in cells of the feature map.
        size: (rows, columns) of the result.
        reduce: np.max, or np.mean to show the effect of rounding alone.

    Returns:
        [*size, C].
    """
    y1, x1, y2, x2 = np.floor(np.asarray(box, float) + 0.5).astype(int)
    rows = _bins(y1, y2, size[0], features.shape[0])
    columns = _bins(x1, x2, size[1], features.shape[1])
    pooled = np.zeros((*size, features.shape[2]))
    for i, row_slice in enumerate(rows):
        for j, column_slice in enumerate(columns):
            cells = features[row_slice, column_slice]
            if cells.size:
                pooled[i, j] = reduce(cells, axis=(0, 1))
    return pooled


def _bins(first: int, last: int, count: int, limit: int) -> list[slice]:
    """RoIPool's bins along an axis with `limit` cells, for the cells from first to last."""
    length = last - first + 1
    bins = []
    for i in range(count):
        start = first + i * length // count
        end = first - -(i + 1) * length // count  # rounded up
        bins.append(slice(np.clip(start, 0, limit), np.clip(end, 0, limit)))
    return bins


def roi_align(
    features: np.ndarray,
    box: np.ndarray | Sequence[float],
    size: tuple[int, int],
    samples: int = 2,
) -> np.ndarray:
    """RoIAlign (He et al. 2017): the mean of samples^2 interpolated values per bin, unrounded.

    Args:
        features, box, size: see `roi_pool`; the value of cell i lies at its centre, i + .5.
        samples: per side of a bin.

    Returns:
        [*size, C] float.
    """
    y1, x1, y2, x2 = np.asarray(box, float) - 0.5
    rows = _bin_centres(y1, y2, size[0] * samples)
    columns = _bin_centres(x1, x2, size[1] * samples)
    values = bilinear(features, rows, columns)
    return values.reshape(size[0], samples, size[1], samples, -1).mean(axis=(1, 3))


def _bin_centres(start: float, end: float, count: int) -> np.ndarray:
    """The centres of `count` equal parts of an interval."""
    return start + (np.arange(count) + 0.5) * (end - start) / count


def crop_and_resize(
    features: np.ndarray, box: np.ndarray | Sequence[float], size: tuple[int, int]
) -> np.ndarray:
    """matterport's pooling: one bilinear value a bin, the first and the last on the box's edges.

    Args:
        features, size: see `roi_pool`.
        box: (y1, x1, y2, x2) normalised: 0 and 1 are the centres of the outermost cells.

    Returns:
        [*size, C] float.
    """
    height, width = features.shape[:2]
    rows = np.linspace(box[0], box[2], size[0]) * (height - 1)
    columns = np.linspace(box[1], box[3], size[1]) * (width - 1)
    return bilinear(features, rows, columns)


POOLINGS = ("RoIPool", "RoIAlign", "crop_and_resize")


def pool(
    kind: str,
    features: np.ndarray,
    box: np.ndarray | Sequence[float],
    stride: int,
    size: tuple[int, int],
) -> np.ndarray:
    """Pools features by one of `POOLINGS`; RoIPool takes the mean of each bin.

    Args:
        kind: one of `POOLINGS`.
        features: [h, w, C], a map of this stride.
        box: (y1, x1, y2, x2) in pixels.
        stride: in pixels.
        size: (rows, columns) of the result.

    Returns:
        [*size, C].
    """
    if kind == "crop_and_resize":
        shape = (features.shape[0] * stride, features.shape[1] * stride)
        normalised = utils.norm_boxes(np.asarray([box]), shape)[0]
        return crop_and_resize(features, normalised, size)
    box = np.asarray(box, float) / stride
    if kind == "RoIPool":
        return roi_pool(features, box, size, np.mean)
    return roi_align(features, box, size)


def pooling_offsets(
    side: int = 512,
    strides: Sequence[int] = (4, 8, 16, 32),
    size: tuple[int, int] = (7, 7),
    boxes: int = 200,
    seed: int = 0,
) -> list[tuple]:
    """The error by rounding in pixels: the distance between a bin's centre and its samples.

    The features are the coordinates of the cells, so that a pooled value is the position of its
    samples. RoIPool takes the mean of each bin here, since the maximum has another effect.

    Args:
        side: of the square image, in pixels.
        strides: of the feature maps.
        size: (rows, columns) of bins.
        boxes: number of random boxes per stride.
        seed: of the boxes.

    Returns:
        rows (stride, then for each of `POOLINGS` the mean distance along an axis in pixels).
    """
    rng = np.random.default_rng(seed)
    rows = []
    for stride in strides:
        positions = (np.arange(side // stride) + 0.5) * stride
        features = np.stack(np.meshgrid(positions, positions, indexing="ij"), axis=-1)
        errors = np.zeros((boxes, len(POOLINGS)))
        for i in range(boxes):
            # Boxes of this level's sizes, sides of 6 to 12 cells, away from the edge.
            extent = rng.uniform(6 * stride, min(12 * stride, side - 4 * stride), 2)
            start = rng.uniform(stride, side - stride - extent)
            end = start + extent
            box = np.concatenate([start, end])
            rows_and_columns = map(_bin_centres, start, end, size)
            centres = np.stack(np.meshgrid(*rows_and_columns, indexing="ij"), axis=-1)
            for k, kind in enumerate(POOLINGS):
                pooled = pool(kind, features, box, stride, size)
                errors[i, k] = np.abs(pooled - centres).mean()
        rows.append((stride, *errors.mean(axis=0).tolist()))
    return rows


def pooling_masks(
    mask: np.ndarray,
    strides: Sequence[int] = (4, 8, 16, 32),
    size: tuple[int, int] = (28, 28),
) -> tuple[list[tuple], dict[tuple[int, str], np.ndarray]]:
    """The error by rounding as IoU: a mask as a feature map of each stride, pooled and pasted back.

    Args:
        mask: [H, W] bool.
        strides: of the feature maps.
        size: (rows, columns) of bins.

    Returns:
        rows (stride, IoU for each of `POOLINGS`), and {(stride, kind): pooled [*size]}.
    """
    box = utils.extract_bboxes(mask[..., None])[0]
    largest = max(strides)
    padded = np.pad(mask, [(0, -side % largest) for side in mask.shape]).astype(float)
    rows = []
    pooled = {}
    for stride in strides:
        height, width = (side // stride for side in padded.shape)
        cells = padded.reshape(height, stride, width, stride).mean(axis=(1, 3))
        overlaps = []
        for kind in POOLINGS:
            small = pool(kind, cells[..., None], box, stride, size)[..., 0]
            pooled[stride, kind] = small
            overlaps.append(iou_of_masks(utils.unmold_mask(small, box, mask.shape), mask))
        rows.append((stride, *overlaps))
    return rows, pooled


# ---- Weights and activations ---------------------------------------------------------------------


def weight_statistics(model: MaskRCNN) -> list[dict]:
    """Statistics of the weights of a `MaskRCNN`, with a verdict on suspicious ones.

    Returns:
        rows {"name", "part", "shape", "values" [n], "std", "largest", "verdict"}; the verdict is ""
        or one of: not finite; constant (a kernel that was never set); N of M filters dead (all
        zero); exploding (a kernel with more than ten times the standard deviation of He's
        initialisation, sqrt(2 / inputs)).
    """
    from mrcnn import weights

    rows = []
    for layer in weights.layers_of(model.keras_model).values():
        for name, variable in weights.ordered_weights(layer):
            values = np.asarray(variable, np.float32)
            rows.append(
                {
                    "name": f"{layer.name}/{name}",
                    "part": weights.part_of(layer.name),
                    "shape": values.shape,
                    "values": values.ravel(),
                    "std": float(values.std()),
                    "largest": float(np.abs(values).max(initial=0)),
                    "verdict": _verdict(name, values),
                }
            )
    return rows


def _verdict(name: str, values: np.ndarray) -> str:
    """The verdict on a weight, see `weight_statistics`."""
    if not np.isfinite(values).all():
        return "not finite"
    if name != "kernel":
        return ""
    if values.min() == values.max():
        return "constant"
    filters = values.reshape(-1, values.shape[-1])
    dead = int((np.abs(filters).max(axis=0) < 1e-8).sum())
    if dead:
        return f"{dead} of {filters.shape[1]} filters dead"
    if values.std() > 10 * np.sqrt(2 / len(filters)):
        return "exploding"
    return ""


def channel_statistics(activation: np.ndarray) -> dict[str, float]:
    """Statistics of an activation [h, w, C]; "dead": how many channels are zero everywhere."""
    flat = np.asarray(activation).reshape(-1, activation.shape[-1])
    return {
        "channels": flat.shape[1],
        "dead": int((flat == 0).all(axis=0).sum()),
        "mean": float(flat.mean()),
        "largest": float(np.abs(flat).max()),
        "zeros": float((flat == 0).mean()),
    }


def relu_layers(model: MaskRCNN) -> list[str]:
    """Names of the last layers of the backbone's stages from C2 on, and of the pyramid's maps."""
    names = [layer.name for layer in model.keras_model.layers]
    pyramid = [name for name in names if re.fullmatch(r"fpn_p\d", name)]
    return [*_stage_ends(names).values(), *pyramid]


def _stage_ends(names: Sequence[str]) -> dict[str, str]:
    """{"C2": name of the stage's last layer, ...}, from the names of all layers in their order."""
    ends = {}
    for name in names:
        match = re.fullmatch(r"res(\d)\w+_out", name)
        if match:
            ends[f"C{match.group(1)}"] = name
    return ends


PARTS = ("backbone", "FPN", "RPN", "heads")


def coverage_table(coverage: Coverage) -> list[tuple]:
    """Counts the weights of a `weights.Coverage` by part of the network.

    Returns:
        rows (part, weights loaded, missing, excluded, mismatched).
    """
    from mrcnn import weights

    parts = []
    for names in (coverage.loaded, coverage.missing, coverage.ignored, coverage.mismatched):
        parts.append([weights.part_of(name.split("/")[0]) for name in names])
    return [(part, *(names.count(part) for names in parts)) for part in PARTS]


# The layers in `network_shapes`, after those of the backbone.
NETWORK_LAYERS = (
    "fpn_p2",
    "fpn_p3",
    "fpn_p4",
    "fpn_p5",
    "fpn_p6",
    "rpn_class",
    "rpn_bbox",
    "ROI",
    "roi_align_classifier",
    "mrcnn_class",
    "mrcnn_bbox",
    "mrcnn_detection",
    "roi_align_mask",
    "mrcnn_mask",
)


def network_shapes(
    model: MaskRCNN, image_shape: Sequence[int]
) -> tuple[dict[str, tuple], dict[str, int]]:
    """The output shapes of an inference network's layers, and its numbers of parameters.

    Args:
        model: `MaskRCNN` in inference mode.
        image_shape: (H, W, C) of the molded image.

    Returns:
        {name: shape without the batch axis}, in order: input_image; C2.. (the last map of each
        stage); fpn_p2..; the layers of the RPN and of the heads; and {part: parameters}.
    """
    import keras

    from mrcnn import weights

    network = model.keras_model
    layers = {layer.name: layer for layer in network.layers}
    outputs = {}
    for stage, name in _stage_ends(list(layers)).items():
        outputs[stage] = _first_output(layers[name])
    for name in NETWORK_LAYERS:
        if name in layers:
            outputs[name] = _first_output(layers[name])
    input_shapes = {
        "input_image": tuple(image_shape),
        "input_image_meta": (model.config.IMAGE_META_SIZE,),
        "input_anchors": (len(model.get_anchors(image_shape)), 4),
    }
    inputs = [keras.KerasTensor((1, *input_shapes[tensor.name])) for tensor in network.inputs]
    # Infers the shapes without computing anything.
    specs = keras.Model(network.inputs, list(outputs.values())).compute_output_spec(inputs)
    shapes = {"input_image": tuple(image_shape)}
    for name, spec in zip(outputs, specs):
        shapes[name] = tuple(spec.shape[1:])
    parameters: dict[str, int] = {}
    for name, layer in weights.layers_of(network).items():
        part = weights.part_of(name)
        parameters[part] = parameters.get(part, 0) + layer.count_params()
    return shapes, parameters


def _first_output(layer: Any) -> Any:
    """The output of a layer, or the first of several."""
    if isinstance(layer.output, (list, tuple)):
        return layer.output[0]
    return layer.output


# ---- Detections ----------------------------------------------------------------------------------


def image_scores(
    model: MaskRCNN, dataset: Dataset, image_ids: Sequence[int] | np.ndarray
) -> list[dict]:
    """The AP of each single image (at IoU .5, by masks or boxes), worst first.

    Returns:
        [{"image_id", "ap", "image", "truth", "result"}]; "truth" has the form of a result of
        `MaskRCNN.detect`. Images without objects, which have no AP, come last.
    """
    rows = []
    for image_id in image_ids:
        image = dataset.load_image(image_id)
        truth = true_objects(dataset, image_id)
        result = model.detect([image])[0]
        masks = result["masks"]
        if masks is None:
            # Without masks, boxes are compared, as masks that fill their boxes.
            boxes = result["rois"]
            masks = utils.unmold_masks(np.ones((len(boxes), 1, 1)), boxes, image.shape)
        ap, *_ = utils.compute_ap(
            truth["rois"],
            truth["class_ids"],
            truth["masks"],
            result["rois"],
            result["class_ids"],
            result["scores"],
            masks,
        )
        rows.append(
            {
                "image_id": int(image_id),
                "ap": float(ap),
                "image": image,
                "truth": truth,
                "result": result,
            }
        )
    return sorted(rows, key=_worst_first)


def _worst_first(row: Mapping) -> tuple[bool, float]:
    """Sort key of `image_scores`: ascending AP, images without one last."""
    return bool(np.isnan(row["ap"])), row["ap"]


def mask_overlaps(row: dict) -> np.ndarray:
    """IoU [detections, objects] of a row of `image_scores`."""
    masks = row["result"]["masks"]
    if masks is None:
        return utils.compute_overlaps(row["result"]["rois"], row["truth"]["rois"])
    return utils.compute_overlaps_masks(masks, row["truth"]["masks"])
