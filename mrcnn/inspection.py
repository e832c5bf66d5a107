"""Numbers about datasets, anchors, masks, pooling and weights: what the notebooks show,
`mrcnn.figures` draws.

numpy only. Boxes are (y1, x1, y2, x2) in pixels of the molded image; y2, x2 lie outside the box. A
level is the base-2 logarithm of its map's stride: P2 has stride 4.
"""

import dataclasses
import re

import numpy as np

from mrcnn import data, utils

# ---- Datasets ------------------------------------------------------------------------------------


@dataclasses.dataclass
class Survey:
    """The objects of a dataset, see `survey`.

    Attributes:
        boxes: [N, 4] float, where the objects lie after resizing; crowds are left out.
        areas: [N] float, pixels of their masks after resizing.
        class_ids, image_ids: [N] int.
        crowds: how many were left out.
        shapes: [I, (height, width)] of the images before resizing.
        counts: [I] int, objects of each image.
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
    molded: tuple
    class_names: list

    def summary(self):
        """Rows of a table: images, objects, and what is between."""
        side = np.sqrt(self.areas) if len(self.areas) else np.zeros(1)
        return [
            ["images", len(self.shapes)],
            ["of them without objects", int((self.counts == 0).sum())],
            ["objects", len(self.boxes)],
            ["crowds, left out", self.crowds],
            ["objects in an image, most", int(self.counts.max(initial=0))],
            [
                "side of an object after resizing, smallest / median / largest",
                f"{side.min():.0f} / {np.median(side):.0f} / {side.max():.0f} px",
            ],
        ]

    def classes(self):
        """Rows (name, objects, images that have one), the class with most objects first."""
        rows = [
            (
                name,
                int((self.class_ids == i).sum()),
                len(set(self.image_ids[self.class_ids == i].tolist())),
            )
            for i, name in enumerate(self.class_names)
            if i
        ]
        return sorted(rows, key=lambda row: -row[1])


def survey(dataset, config, image_ids=None):
    """Reads images and masks and says where their objects lie once `config` has resized them.

    Args:
        dataset: prepared `Dataset`.
        image_ids: None for all.

    Returns:
        Survey.
    """
    boxes, areas, class_ids, owners, shapes, counts, crowds, molded = (
        [],
        [],
        [],
        [],
        [],
        [],
        0,
        (0, 0),
    )
    for image_id in dataset.image_ids if image_ids is None else image_ids:
        masks, ids = dataset.load_mask(image_id)
        shape = masks.shape[:2] if masks.shape[2] else dataset.load_image(image_id).shape[:2]
        # One channel is enough to learn scale and place.
        resized, window, scale, _, _ = utils.resize_image(
            np.zeros(shape, np.uint8),
            min_dim=config.IMAGE_MIN_DIM,
            max_dim=config.IMAGE_MAX_DIM,
            min_scale=config.IMAGE_MIN_SCALE,
            mode=config.IMAGE_RESIZE_MODE,
        )
        real = (
            np.flatnonzero((np.asarray(ids) > 0) & masks.any(axis=(0, 1)))
            if masks.shape[2]
            else np.zeros(0, int)
        )
        crowds += int((np.asarray(ids) < 0).sum())
        boxes.append(utils.extract_bboxes(masks[..., real]) * scale + np.tile(window[:2], 2))
        areas.append(masks[..., real].sum(axis=(0, 1)) * scale**2)
        class_ids.append(np.asarray(ids)[real])
        owners.append(np.full(len(real), image_id))
        shapes.append(shape)
        counts.append(len(real))
        molded = tuple(np.maximum(molded, resized.shape))
    return Survey(
        np.concatenate(boxes).reshape(-1, 4).astype(float),
        np.concatenate(areas).astype(float),
        np.concatenate(class_ids).astype(int),
        np.concatenate(owners).astype(int),
        crowds,
        np.array(shapes),
        np.array(counts),
        tuple(int(side) for side in molded),
        list(dataset.class_names),
    )


# ---- Anchors -------------------------------------------------------------------------------------


def anchor_fit(boxes, config, image_shape):
    """The best IoU that anchors of each level have with each box.

    The best anchor of a size is the one whose centre is nearest, so that only that is looked at.

    Args:
        boxes: [N, 4].
        image_shape: (height, width, ...) of the molded image.

    Returns:
        [N, levels] float.
    """
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    middle = 0.5 * (boxes[:, :2] + boxes[:, 2:])
    best = []
    for scale, stride, cells in zip(
        config.RPN_ANCHOR_SCALES,
        np.atleast_1d(config.BACKBONE_STRIDES),
        data.compute_backbone_shapes(config, image_shape),
    ):
        step = stride * config.RPN_ANCHOR_STRIDE
        last = -(-np.asarray(cells) // config.RPN_ANCHOR_STRIDE) - 1
        centre = np.clip(np.round(middle / step), 0, last) * step  # [N, 2]
        first = utils.generate_anchors(scale, config.RPN_ANCHOR_RATIOS, (1, 1), stride, 1)
        iou = [
            utils._iou(
                utils._intersection(boxes.T, (np.tile(centre, 2) + anchor).T),
                utils._box_area(boxes),
                utils._box_area(anchor),
            )
            for anchor in first
        ]
        best.append(np.max(iou, axis=0))
    return np.stack(best, axis=1)


def recall_by_level(boxes, config, image_shape):
    """How well the anchors can find objects; an object counts for the level that fits it best.

    Returns:
        rows (level, anchor scale, objects, mean best IoU, share from .5, share from .7), the last
        over all levels; NaN where there is no object.
    """
    fit = anchor_fit(boxes, config, image_shape)
    best, level = fit.max(axis=1, initial=0), fit.argmax(axis=1) if len(fit) else np.zeros(0, int)
    names = [f"P{int(round(np.log2(stride)))}" for stride in np.atleast_1d(config.BACKBONE_STRIDES)]
    groups = [
        (name, scale, level == i)
        for i, (name, scale) in enumerate(zip(names, config.RPN_ANCHOR_SCALES))
    ]
    rows = []
    for name, scale, here in [*groups, ("all", "", np.ones(len(best), bool))]:
        found = best[here]
        rows.append(
            (
                name,
                scale,
                len(found),
                *(
                    [float("nan")] * 3
                    if not len(found)
                    else [
                        float(found.mean()),
                        float((found >= 0.5).mean()),
                        float((found >= 0.7).mean()),
                    ]
                ),
            )
        )
    return rows


# ---- Training examples ---------------------------------------------------------------------------


def rpn_example(dataset, config, image_id, seed=0):
    """What the RPN learns from one image.

    Returns:
        dict: image [H, W, C], class_ids, boxes, masks [H, W, N]; anchors [A, 4]; match [A] of 1,
            -1, 0; targets, the
        positive anchors moved by their deltas [P, 4]; counts of the three kinds.
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
    return {
        "image": image,
        "class_ids": class_ids,
        "boxes": boxes,
        "masks": masks,
        "anchors": anchors,
        "match": match,
        "targets": utils.apply_box_deltas(
            anchors[positive], deltas[: len(positive)] * config.RPN_BBOX_STD_DEV
        ),
        "counts": {
            "positive": len(positive),
            "negative": int((match == -1).sum()),
            "neutral": int((match == 0).sum()),
        },
    }


def roi_example(example, config, rois=None, seed=0):
    """The RoIs that train the heads on the image of an `rpn_example`, drawn 1:3 or as
    ROI_POSITIVE_RATIO says.

    Args:
        rois: [P, 4] proposals; None draws some around the objects.

    Returns:
        dict: rois [R, 4], class_ids [R] (0: negative), refined [R, 4] (positives moved by their
            targets), masks
        [R, h, w], counts.
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
    masks = (
        utils.minimize_mask(example["boxes"], example["masks"], config.MINI_MASK_SHAPE)
        if config.USE_MINI_MASK
        else example["masks"]
    )
    rois, class_ids, deltas, masks = data.build_detection_targets(
        rois, example["class_ids"], example["boxes"], masks, config, rng=rng
    )
    real = rois.any(axis=1)
    rows = np.arange(len(rois))
    refined = utils.apply_box_deltas(rois, deltas[rows, class_ids] * config.BBOX_STD_DEV)
    return {
        "rois": rois[real],
        "class_ids": class_ids[real],
        "refined": refined[real],
        "masks": masks[rows, :, :, class_ids][real],
        "counts": {
            "positive": int((class_ids > 0).sum()),
            "negative": int(real.sum() - (class_ids > 0).sum()),
        },
    }


# ---- Masks ---------------------------------------------------------------------------------------


def iou_of_masks(a, b):
    """IoU of two masks [H, W]; 1 for two empty ones."""
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def mask_chain(mask, config, side=28, detection=None):
    """An object's mask on its way through training and back, and the IoU that each step leaves.

    Args:
        mask: [H, W] bool, not empty.
        side: of the mask head's output, 28 or 56.
        detection: a `best_detection`, or None.

    Returns:
        [{"name", "small": [h, w], "pasted": [H, W] bool, "iou"}]: the object, its mini-mask, the
        target that is made of the mini-mask, the target straight from the object, and the
        prediction if there is one.
    """
    box = utils.extract_bboxes(mask[..., None])
    y1, x1, y2, x2 = box[0]
    mini = utils.minimize_mask(box, mask[..., None], config.MINI_MASK_SHAPE)[..., 0]
    # As in `DetectionTargetLayer`, of a RoI that ends with the object or a rounding before it:
    # exactly there TensorFlow's kernel, in matterport's package too, may read 0 in the last row and
    # column.
    target = np.round(
        crop_and_resize(mini[..., None].astype(float), (0, 0, 1, 1), (side, side))[..., 0]
    )
    straight = utils.minimize_mask(box, mask[..., None], (side, side))[..., 0]
    height, width = config.MINI_MASK_SHAPE
    steps = [
        ("object", mask[y1:y2, x1:x2], mask),
        (
            f"mini-mask {height} x {width}",
            mini,
            utils.expand_mask(box, mini[..., None], mask.shape)[..., 0],
        ),
        (
            f"target {side} x {side} of the mini-mask",
            target,
            utils.unmold_mask(target, box[0], mask.shape),
        ),
        (
            f"target {side} x {side} of the object",
            straight,
            utils.unmold_mask(straight, box[0], mask.shape),
        ),
    ]
    if detection is not None:
        prediction = detection["prediction"]
        steps.append(
            (
                "prediction, pasted",
                prediction,
                utils.unmold_mask(prediction, detection["predicted_box"], mask.shape),
            )
        )
    return [
        {
            "name": name,
            "small": np.asarray(small, float),
            "pasted": pasted,
            "iou": iou_of_masks(pasted, mask),
        }
        for name, small, pasted in steps
    ]


def mask_losses(masks, config, sides=(28, 56)):
    """Mean IoU that the steps of `mask_chain` leave, over masks [H, W, N]. Rows (step, IoU), for
    all sides."""
    found = {}
    for i in range(masks.shape[2]):
        for side in sides:
            for step in mask_chain(masks[..., i], config, side)[1:]:
                found.setdefault(step["name"], []).append(step["iou"])
    return [(name, float(np.mean(values))) for name, values in found.items()]


def largest(masks):
    """Index of the mask [H, W, N] with most pixels."""
    return int(np.asarray(masks).sum(axis=(0, 1)).argmax())


def best_detection(stages, mask):
    """The detection of a `Trace` that overlaps a mask [H, W] of the same frame most, or None
    without one.

    Returns:
        {"index", "iou", "prediction": [h, w], "predicted_box": whole pixels, "all_masks": [h, w,
        K], "class_id"}.
    """
    if stages.masks is None or not len(stages.boxes):
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


def softmax_and_sigmoid(detection):
    """One detection's mask if classes compete for each pixel, and if they don't (paper, table 2b).

    Args:
        detection: a `best_detection`, whose masks are sigmoids.

    Returns:
        {"sigmoid", "softmax": [h, w] probability of the class; "rivals": [h, w] the most that
        another class has}.
    """
    class_id = detection["class_id"]
    probs = np.clip(np.asarray(detection["all_masks"], float), 1e-7, 1 - 1e-7)
    logits = np.log(probs / (1 - probs))
    # The background is a class too: its logit is 0, where a sigmoid has its threshold.
    logits[..., 0] = 0
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    others = np.delete(probs, [0, class_id], axis=-1)
    return {
        "sigmoid": probs[..., class_id],
        "softmax": (powers / powers.sum(axis=-1, keepdims=True))[..., class_id],
        "rivals": others.max(axis=-1, initial=0),
    }


# ---- Pooling
# ------------------------------------------------------------------------------------------- The
# three ways of the paper's table 2c, of one box, as plain as can be: to read and to measure. The
# network's own are in `mrcnn.ops`.


def bilinear(features, y, x):
    """Values of features [h, w, C] at rows y [m] and columns x [n]: [m, n, C]; the edge repeats."""
    height, width = features.shape[:2]
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    y0, x0 = (
        np.minimum(y.astype(int), max(height - 2, 0)),
        np.minimum(x.astype(int), max(width - 2, 0)),
    )
    y1, x1 = np.minimum(y0 + 1, height - 1), np.minimum(x0 + 1, width - 1)
    dy, dx = (y - y0)[:, None, None], (x - x0)[None, :, None]
    top = features[y0][:, x0] * (1 - dx) + features[y0][:, x1] * dx
    return top * (1 - dy) + (features[y1][:, x0] * (1 - dx) + features[y1][:, x1] * dx) * dy


def roi_pool(features, box, size, reduce=np.max):
    """RoIPool (Girshick 2015): box and bins are rounded to whole cells, of each bin the largest
    value.

    Args:
        features: [h, w, C].
        box: (y1, x1, y2, x2) in cells of the map.
        size: (rows, columns) of the result.
        reduce: np.mean for what rounding alone does.
    """
    y1, x1, y2, x2 = np.floor(np.asarray(box, float) + 0.5).astype(int)
    out = np.zeros((*size, features.shape[2]))
    for i in range(size[0]):
        rows = y1 + np.array([i * (y2 - y1 + 1) // size[0], -(-(i + 1) * (y2 - y1 + 1) // size[0])])
        rows = np.clip(rows, 0, features.shape[0])
        for j in range(size[1]):
            columns = x1 + np.array(
                [j * (x2 - x1 + 1) // size[1], -(-(j + 1) * (x2 - x1 + 1) // size[1])]
            )
            columns = np.clip(columns, 0, features.shape[1])
            cells = features[rows[0] : rows[1], columns[0] : columns[1]]
            if cells.size:
                out[i, j] = reduce(cells, axis=(0, 1))
    return out


def roi_align(features, box, size, samples=2):
    """RoIAlign (He et al. 2017): nothing is rounded; the mean of samples^2 bilinear values in each
    bin.

    Args: as of `roi_pool`; the value of cell i lies in its middle, at i + .5.
    """
    y1, x1, y2, x2 = np.asarray(box, float) - 0.5
    rows, columns = (
        low + (np.arange(count * samples) + 0.5) * (high - low) / (count * samples)
        for low, high, count in ((y1, y2, size[0]), (x1, x2, size[1]))
    )
    values = bilinear(features, rows, columns)
    return values.reshape(size[0], samples, size[1], samples, -1).mean(axis=(1, 3))


def crop_and_resize(features, box, size):
    """matterport's: one bilinear value a bin, the first and the last on the box's edges.

    Args: as of `roi_pool`, but the box is normalised: 0 and 1 are the middles of the outermost
    cells.
    """
    height, width = features.shape[:2]
    return bilinear(
        features,
        np.linspace(box[0], box[2], size[0]) * (height - 1),
        np.linspace(box[1], box[3], size[1]) * (width - 1),
    )


POOLINGS = ("RoIPool", "RoIAlign", "crop_and_resize")


def pool(kind, features, box, stride, size):
    """One of `POOLINGS` of a box in pixels, on a map of that stride; RoIPool with the mean. Returns
    [*size, C]."""
    if kind == "crop_and_resize":
        shape = (features.shape[0] * stride, features.shape[1] * stride)
        return crop_and_resize(features, utils.norm_boxes(np.asarray([box]), shape)[0], size)
    box = np.asarray(box, float) / stride
    return (
        roi_pool(features, box, size, np.mean)
        if kind == "RoIPool"
        else roi_align(features, box, size)
    )


def pooling_offsets(side=512, strides=(4, 8, 16, 32), size=(7, 7), boxes=200, seed=0):
    """What rounding costs, in pixels: how far the place that a bin reads lies from the bin's
    middle.

    The map's values are the places of its cells, so that what is pooled says where it comes from.
    RoIPool takes the mean of its bins' cells here: the maximum is another matter than rounding.

    Returns:
        rows (stride, then for each of `POOLINGS` the mean distance along an axis in pixels).
    """
    rng = np.random.default_rng(seed)
    rows = []
    for stride in strides:
        places = (np.arange(side // stride) + 0.5) * stride
        features = np.stack(np.meshgrid(places, places, indexing="ij"), axis=-1)
        errors = {kind: [] for kind in POOLINGS}
        for _ in range(boxes):
            # Boxes as this level gets them, 6 to 12 cells a side, away from the edge.
            extent = rng.uniform(6 * stride, min(12 * stride, side - 4 * stride), 2)
            start = rng.uniform(stride, side - stride - extent)
            box = np.concatenate([start, start + extent])
            middles = np.stack(
                np.meshgrid(
                    *(
                        low + (np.arange(n) + 0.5) * length / n
                        for low, length, n in zip(start, extent, size)
                    ),
                    indexing="ij",
                ),
                axis=-1,
            )
            for kind in POOLINGS:
                errors[kind].append(
                    np.abs(pool(kind, features, box, stride, size) - middles).mean()
                )
        rows.append((stride, *(float(np.mean(errors[kind])) for kind in POOLINGS)))
    return rows


def pooling_masks(mask, strides=(4, 8, 16, 32), size=(28, 28)):
    """What rounding costs in IoU: a mask as a map of each stride, pooled by its box, pasted back,
    compared.

    Args:
        mask: [H, W] bool.

    Returns:
        rows (stride, IoU for each of `POOLINGS`), and {(stride, kind): pooled [*size]}.
    """
    box = utils.extract_bboxes(mask[..., None])[0]
    largest = max(strides)
    padded = np.pad(mask, [(0, -side % largest) for side in mask.shape]).astype(float)
    rows, pooled = [], {}
    for stride in strides:
        cells = padded.reshape(
            padded.shape[0] // stride, stride, padded.shape[1] // stride, stride
        ).mean(axis=(1, 3))
        for kind in POOLINGS:
            pooled[stride, kind] = pool(kind, cells[..., None], box, stride, size)[..., 0]
        rows.append(
            (
                stride,
                *(
                    iou_of_masks(utils.unmold_mask(pooled[stride, kind], box, mask.shape), mask)
                    for kind in POOLINGS
                ),
            )
        )
    return rows, pooled


# ---- Weights and activations ---------------------------------------------------------------------


def weight_statistics(model):
    """What the weights of a `MaskRCNN` look like, and what is suspicious about them.

    Returns:
        rows {"name", "part", "shape", "values" [n], "std", "largest", "verdict"}; the verdict is ""
        or says: not finite; constant, a kernel that was never set; N of M filters dead, that is all
            zero; exploding, a kernel
        whose spread is ten times that of a fresh one (sqrt(2 / inputs)).
    """
    from mrcnn import weights

    rows = []
    for layer in weights.layers_of(model.keras_model).values():
        for name, variable in weights._ordered(layer):
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


def _verdict(name, values):
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
    return "exploding" if values.std() > 10 * np.sqrt(2 / len(filters)) else ""


def channel_statistics(activation):
    """Channels of an activation [h, w, C]: share that is zero everywhere, mean and largest
    value."""
    flat = np.asarray(activation).reshape(-1, activation.shape[-1])
    return {
        "channels": flat.shape[1],
        "dead": int((flat == 0).all(axis=0).sum()),
        "mean": float(flat.mean()),
        "largest": float(np.abs(flat).max()),
        "zeros": float((flat == 0).mean()),
    }


def relu_layers(model):
    """Names of the layers that end the stages of the backbone: the last of C2.. and the pyramid's
    maps."""
    names = [layer.name for layer in model.keras_model.layers]
    last = {name[:4]: name for name in names if re.fullmatch(r"res\d\w+_out", name)}
    return [*last.values(), *(name for name in names if re.fullmatch(r"fpn_p\d", name))]


def coverage_table(coverage):
    """Rows (part of the network, weights loaded, missing, excluded, mismatched) of a
    `weights.Coverage`."""
    from mrcnn import weights

    lists = (coverage.loaded, coverage.missing, coverage.ignored, list(coverage.mismatched))
    parts = [[weights.part_of(name.split("/")[0]) for name in names] for names in lists]
    return [
        (part, *(names.count(part) for names in parts))
        for part in ("backbone", "FPN", "RPN", "heads")
    ]


def network_shapes(model, image_shape):
    """The shapes that an image has on its way through an inference network, and the network's size.

    Args:
        image_shape: (H, W, C) of the molded image.

    Returns:
        {name: shape without the batch axis}, in order: input_image; C2.. (the last map of each
        stage); fpn_p2..; and the layers of the RPN and of the heads; and {part: parameters}.
    """
    import keras

    from mrcnn import weights

    network = model.keras_model
    ends = {}
    for layer in network.layers:
        if match := re.fullmatch(r"res(\d)\w+_out", layer.name):
            ends[f"C{match.group(1)}"] = layer
    names = [f"fpn_p{i}" for i in range(2, 7)] + [
        "rpn_class",
        "rpn_bbox",
        "ROI",
        "roi_align_classifier",
        "mrcnn_class",
        "mrcnn_bbox",
        "mrcnn_detection",
        "roi_align_mask",
        "mrcnn_mask",
    ]
    layers = ends | {
        layer.name: layer for name in names for layer in network.layers if layer.name == name
    }
    outputs = {
        name: layer.output[0] if isinstance(layer.output, (list, tuple)) else layer.output
        for name, layer in layers.items()
    }
    sizes = {
        "input_image": tuple(image_shape),
        "input_image_meta": (model.config.IMAGE_META_SIZE,),
        "input_anchors": (len(model.get_anchors(image_shape)), 4),
    }
    # Nothing is computed: the shapes alone go through.
    specs = keras.Model(network.inputs, list(outputs.values())).compute_output_spec(
        [keras.KerasTensor((1, *sizes[tensor.name])) for tensor in network.inputs]
    )
    shapes = {
        "input_image": tuple(image_shape),
        **{name: tuple(spec.shape[1:]) for name, spec in zip(outputs, specs)},
    }
    parameters = {}
    for name, layer in weights.layers_of(network).items():
        part = weights.part_of(name)
        parameters[part] = parameters.get(part, 0) + layer.count_params()
    return shapes, parameters


# ---- Detections ----------------------------------------------------------------------------------


def image_scores(model, dataset, image_ids):
    """AP of each image by itself (at IoU .5, by masks or boxes), the worst image first.

    Returns:
        [{"image_id", "ap", "image", "truth", "result"}]; "truth" is as `MaskRCNN.detect`'s result.
        Images without objects, which have no AP, come last.
    """
    rows = []
    for image_id in image_ids:
        image = dataset.load_image(image_id)
        masks, ids = dataset.load_mask(image_id)
        masks, ids = masks[..., ids > 0], ids[ids > 0]
        result = model.detect([image])[0]
        truth = {
            "rois": utils.extract_bboxes(masks),
            "class_ids": ids,
            "scores": None,
            "masks": masks,
        }
        found = (
            result["masks"]
            if result["masks"] is not None
            else utils.unmold_masks(
                np.ones((len(result["rois"]), 1, 1)), result["rois"], image.shape
            )
        )
        ap = utils.compute_ap(
            truth["rois"], ids, masks, result["rois"], result["class_ids"], result["scores"], found
        )[0]
        rows.append(
            {
                "image_id": int(image_id),
                "ap": float(ap),
                "image": image,
                "truth": truth,
                "result": result,
            }
        )
    return sorted(rows, key=lambda row: (np.isnan(row["ap"]), row["ap"]))


def mask_overlaps(row):
    """[P, G] IoU of the detections and the objects of a row of `image_scores`."""
    masks = row["result"]["masks"]
    if masks is None:
        return utils.compute_overlaps(row["result"]["rois"], row["truth"]["rois"])
    return utils.compute_overlaps_masks(masks, row["truth"]["masks"])
