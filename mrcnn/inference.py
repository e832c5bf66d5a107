"""Detection as it is run: molding, the compiled network, results in the frame of the image, whole
folders.

`MaskRCNN.detect` and its relatives are thin methods over this module. The network is that of
`mrcnn.model` as `mrcnn.folding` rewrites it, and compiled once for every size of image. The mask
head runs on rows that hold a detection only, a group at a time.
"""

import collections
import concurrent.futures

import keras
import numpy as np
from keras import ops

from mrcnn import data, folding, keypoints, utils
from mrcnn.masks import Masks, run_lengths  # noqa: F401  `run_lengths` for existing code

# Forms of the masks of a result; see `unmold`.
MASK_FORMS = ("dense", "lazy", "rle")

# Rows that the mask head and the keypoint head take at once: larger groups are no faster and hold
# more memory.
HEAD_GROUP = 25


# ---- Molding and unmolding -----------------------------------------------------------------------


def mold(image, config, where, min_dim=None):
    """Resizes and normalises one image.

    Args:
        image: [H, W] or [H, W, C], uint8 or float.
        where: names the image in errors.
        min_dim: see `data.mold_with_size`.

    Returns:
        molded [h, w, C] float32, its meta, its window (y1, x1, y2, x2) in pixels.
    """
    image = data.with_channels(np.asarray(image), config, where)
    if config.IMAGE_RESIZE_MODE == "crop":
        raise ValueError(
            "IMAGE_RESIZE_MODE 'crop' takes a random part of an image and is for training; "
            "detection needs 'square', 'pad64', 'shorter' or 'none'. Received: 'crop'"
        )
    molded, window, scale = data.mold_with_size(image, config, min_dim)
    stride = max(config.BACKBONE_STRIDES)
    if config.IMAGE_RESIZE_MODE == "none" and any(side % stride for side in molded.shape[:2]):
        raise ValueError(
            f"With IMAGE_RESIZE_MODE 'none' the sides of an image divide by {stride}, the largest "
            f"of BACKBONE_STRIDES. Received: {where} of shape {image.shape}"
        )
    meta = data.compose_image_meta(
        0, image.shape, molded.shape, window, scale, np.zeros([config.NUM_CLASSES], dtype=np.int32)
    )
    return molded, meta, window


def unmold(detections, masks, original_shape, shape, window, config, form="dense"):
    """Detections of one image in the frame of the original.

    Args:
        detections: [N, (y1, x1, y2, x2, class_id, score)], boxes normalised, zero rows at the end.
        masks: [N, h, w, classes], or [N, h, w] of the detected classes, or None.
        original_shape, shape: (H, W, ...) before and after molding.
        window: (y1, x1, y2, x2) of the image in the molded one, in pixels.
        form: "dense", bool [H, W, n]; "lazy", a `Masks`; "rle", a list of COCO's run-length
            encodings, made without a mask of the whole image.

    Returns:
        boxes [n, 4] int32 in pixels (float32 without ROUND_DETECTIONS), class_ids [n] int32, scores
        [n] float32, masks (None for None). Boxes without area are left out.
    """
    if form not in MASK_FORMS:
        raise ValueError(f"masks is one of {', '.join(MASK_FORMS)}. Received: {form!r}")
    keep, boxes, exact = _unmold_boxes(detections, original_shape, shape, window, config)
    class_ids, scores = detections[keep, 4].astype(np.int32), detections[keep, 5]
    if masks is None:
        return boxes, class_ids, scores, None
    masks = masks[keep]
    if masks.ndim == 4:
        masks = masks[np.arange(len(keep)), :, :, class_ids]
    masks, places = (
        utils.pad_masks(masks, exact)
        if config.MASK_PASTE == "padded"
        else (masks, np.around(boxes).astype(int))
    )
    lazy = Masks(masks, places, original_shape[:2])
    return (
        boxes,
        class_ids,
        scores,
        {"dense": np.asarray, "lazy": lambda m: m, "rle": Masks.rle}[form](lazy),
    )


def _unmold_boxes(detections, original_shape, shape, window, config):
    """Rows of detections with an area in the original image, their boxes there [n, 4], and these
    not rounded."""
    n = int(np.argmin(np.append(detections[:, 4] > 0, False)))
    wy1, wx1, wy2, wx2 = utils.norm_boxes(window, shape[:2], config.BOX_FRAME)
    shift, scale = np.array([wy1, wx1, wy1, wx1]), np.array([wy2 - wy1, wx2 - wx1] * 2)
    exact = utils.denorm_boxes(
        (detections[:n, :4] - shift) / scale, original_shape[:2], config.BOX_FRAME, whole=False
    )
    boxes = np.around(exact).astype(np.int32) if config.ROUND_DETECTIONS else exact
    keep = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
    return keep, boxes[keep], exact[keep]


def unmold_keypoints(detections, maps, original_shape, shape, window, config):
    """Keypoints [n, K, (y, x, score)] of the rows that `unmold` keeps, in the original image,
    float32.

    Args:
        maps: [N, h, w, K] logits; the others as `unmold`.
    """
    keep, *_ = _unmold_boxes(detections, original_shape, shape, window, config)
    # Neither these boxes nor the points are rounded.
    boxes = utils.denorm_boxes(detections[keep, :4], shape[:2], config.BOX_FRAME, whole=False)
    found = keypoints.decode(maps[keep], boxes)
    window = np.asarray(window, np.float64)
    scale = np.asarray(original_shape[:2]) / (window[2:] - window[:2])
    found[..., :2] = (found[..., :2] - window[:2]) * scale
    return found


def result(parts, row, original_shape, shape, window, config, form="dense"):
    """The dict of image number `row` of a batch, see `MaskRCNN.detect`; parts: what `infer`
    returns."""
    detections, masks, points = (None if part is None else part[row] for part in parts)
    frames = original_shape, shape, window, config
    found = dict(
        zip(("rois", "class_ids", "scores", "masks"), unmold(detections, masks, *frames, form))
    )
    if points is not None:
        found["keypoints"] = unmold_keypoints(detections, points, *frames)
    return found


# ---- The network ---------------------------------------------------------------------------------


def infer(model, images, metas, anchors):
    """Runs the network.

    Args:
        model: `MaskRCNN` in inference mode.
        images: [B, h, w, C] float32, molded.
        metas: [B, meta].
        anchors: [A, 4] normalised.

    Returns:
        detections [B, R, 6], masks [B, n, h, w] of the detected classes and keypoints' maps [B, n,
        h, w, K]; None in the place of what the model has no head for.
    """
    args = [
        ops.convert_to_tensor(x, "float32")
        for x in (images, metas, np.broadcast_to(anchors, (len(images), *anchors.shape)))
    ]
    boxes = compiled(model, "boxes")
    heads = [
        name
        for name, head in (("masks", model._mask_model), ("keypoints", model._keypoint_model))
        if head is not None
    ]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        # The first time, TensorFlow prepares and runs the one while Python traces the others.
        for name in heads:
            if name not in model._functions:
                pool.submit(compiled, model, name)
        detections, *maps = boxes(*args)
    detections = ops.convert_to_numpy(detections)
    count = int((detections[..., 4] > 0).sum(axis=1).max(initial=0))

    def groups(name):
        """The head's outputs of the rows with a detection, a group at a time."""
        for start in range(0, count, HEAD_GROUP):
            rows = detections[:, start : min(start + HEAD_GROUP, count)]
            class_ids = [ops.convert_to_tensor(rows[..., 4], "int32")] if name == "masks" else []
            yield ops.convert_to_numpy(
                compiled(model, name)(
                    ops.convert_to_tensor(rows[..., :4]), args[1], *maps, *class_ids
                )
            )

    masks = points = None
    if model._mask_model is not None:
        none = np.zeros((len(images), 0, *model.config.MASK_SHAPE), "float32")
        masks = np.concatenate([none, *groups("masks")], axis=1)
    if model._keypoint_model is not None:
        none = np.zeros((len(images), 0, *model._keypoint_model.output.shape[2:]), "float32")
        points = np.concatenate([none, *groups("keypoints")], axis=1)
    return detections, masks, points


def compiled(model, name):
    """One compiled function for every size; batch, height, width and rows are free in it.

    Args:
        name: "boxes", images [B, h, w, C], metas and anchors [B, A, 4] to detections and feature
            maps; "masks", boxes [B, N, 4], metas, feature maps and class ids [B, N] int32 to masks
            [B, N, h, w]; "keypoints", the same without class ids to [B, N, h, w, K].
    """
    with model._lock:
        function = model._functions.pop(name, None)
        if function is None:
            function = _compile(
                {
                    "boxes": lambda: model._box_model,
                    "masks": lambda: folding.of_detected_class(model._mask_model),
                    "keypoints": lambda: model._keypoint_model,
                }[name]()
            )
        model._functions[name] = function
        while len(model._functions) > 16:
            model._functions.popitem(last=False)
    return function


def _compile(network):
    if keras.backend.backend() != "tensorflow":
        return lambda *args: network(list(args), training=False)
    import tensorflow as tf

    folded = folding.fold_batch_norm(network)
    signature = [tf.TensorSpec(x.shape, x.dtype) for x in folded.inputs]
    function = tf.function(
        lambda *args: folded(list(args), training=False), input_signature=signature, autograph=False
    )
    function.get_concrete_function()
    return function


# ---- Detection -----------------------------------------------------------------------------------


def detect(model, images, masks="dense"):
    """See `MaskRCNN.detect`. Images of one molded size run together, BATCH_SIZE at a time."""
    molded = [mold(image, model.config, f"image {i}") for i, image in enumerate(images)]
    groups = collections.OrderedDict()
    for i, (image, _, _) in enumerate(molded):
        groups.setdefault(image.shape, []).append(i)
    results = [None] * len(images)
    for shape, members in groups.items():
        anchors = model.get_anchors(shape)
        for start in range(0, len(members), model.config.BATCH_SIZE):
            chunk = members[start : start + model.config.BATCH_SIZE]
            parts = infer(
                model,
                np.stack([molded[i][0] for i in chunk]),
                np.stack([molded[i][1] for i in chunk]),
                anchors,
            )
            for row, i in enumerate(chunk):
                results[i] = result(
                    parts, row, np.shape(images[i]), shape, molded[i][2], model.config, masks
                )
    return results


def detect_many(model, items, load=None, masks="dense"):
    """See `MaskRCNN.detect_many`: reading and molding run ahead and unmolding behind, beside the
    network."""
    batch = model.config.BATCH_SIZE

    def prepare(number, item):
        image = item if load is None else load(item)
        return np.shape(image), *mold(image, model.config, f"image {number}")

    numbered, waiting, done = enumerate(items), collections.deque(), collections.deque()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:

        def refill():
            while len(waiting) < 2 * batch and (item := next(numbered, None)) is not None:
                waiting.append(pool.submit(prepare, *item))

        refill()
        while waiting:
            chunk = [waiting.popleft().result()]
            shape = chunk[0][1].shape
            while waiting and len(chunk) < batch and waiting[0].result()[1].shape == shape:
                chunk.append(waiting.popleft().result())
            refill()
            parts = infer(
                model,
                np.stack([c[1] for c in chunk]),
                np.stack([c[2] for c in chunk]),
                model.get_anchors(shape),
            )
            for row, (original, _, _, window) in enumerate(chunk):
                done.append(
                    pool.submit(result, parts, row, original, shape, window, model.config, masks)
                )
            while len(done) > 2 * batch:
                yield done.popleft().result()
        while done:
            yield done.popleft().result()
