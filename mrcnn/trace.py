"""Looking inside: every stage of one image as plain numpy, and matterport's `run_graph` and
`ancestor`.

    stages = model.trace(image)
    stages.proposals                # [P, (y1, x1, y2, x2)] in pixels
    stages.masks                    # [D, 28, 28] as the mask head gives them

`trace` needs no names of tensors; `run_graph` takes those that notebooks of 2018 ask for.
"""

import dataclasses
import re
from collections import OrderedDict

import keras
import numpy as np
from keras import layers as KL, ops

from mrcnn import data, utils


@dataclasses.dataclass
class Trace:
    """What became of one image, stage by stage, in numpy.

    All boxes are (y1, x1, y2, x2) float32 in pixels of `image`; y2, x2 lie outside the box. A level
    is the base-2 logarithm of a map's stride: P2 has stride 4. A anchors, T best of them, P
    proposals, K classes, D detections.

    Attributes:
        image: [H, W, C] as the network saw it, padding included, before the mean was subtracted;
            uint8.
        window: (y1, x1, y2, x2) of the original image in it.
        anchors: [A, 4]; anchor_levels: [A] int.
        rpn_scores: [A] probability of an object; rpn_deltas: [A, (dy, dx, log dh, log dw)] as the
            RPN gives them, divided by RPN_BBOX_STD_DEV.
        top: [T] int, the anchors that are refined, best first.
        refined, clipped: [T, 4], those anchors moved by their deltas; then cut at the image's edge.
        nms_kept: [P] int into `top`, what non-maximum suppression left.
        proposals: [P, 4]; proposal_scores: [P]; roi_levels: [P] int, the map that the box head
            reads.
        probs: [P, K] class probabilities; deltas: [P, K, 4] as the box head gives them.
        class_ids, scores: [P] the best class of each proposal and its probability.
        refined_rois: [P, 4] proposals moved by the deltas of their best class and cut at the
            window.
        kept: [D] int, the proposal that each detection comes from, best detection first.
        boxes: [D, 4]; detected_ids: [D] int; detection_scores: [D].
        masks: [D, h, w] of the detected class, probabilities; all_masks: [D, h, w, K]; pasted: [H,
            W, D] bool. None for a model without masks.
        result: the detections in the original image's pixels, as `MaskRCNN.detect` gives them.
        activations: {layer's name: array without the batch axis} of the layers that were asked for.
    """

    image: np.ndarray
    window: np.ndarray
    anchors: np.ndarray
    anchor_levels: np.ndarray
    rpn_scores: np.ndarray
    rpn_deltas: np.ndarray
    top: np.ndarray
    refined: np.ndarray
    clipped: np.ndarray
    nms_kept: np.ndarray
    proposals: np.ndarray
    proposal_scores: np.ndarray
    roi_levels: np.ndarray
    probs: np.ndarray
    deltas: np.ndarray
    class_ids: np.ndarray
    scores: np.ndarray
    refined_rois: np.ndarray
    kept: np.ndarray
    boxes: np.ndarray
    detected_ids: np.ndarray
    detection_scores: np.ndarray
    masks: np.ndarray | None
    all_masks: np.ndarray | None
    pasted: np.ndarray | None
    result: dict
    activations: dict

    def counts(self):
        """[(stage, how many)] from anchors to detections."""
        return [
            ("anchors", len(self.anchors)),
            ("best anchors", len(self.top)),
            ("after non-maximum suppression", len(self.proposals)),
            ("best class is an object", int((self.class_ids > 0).sum())),
            ("detections", len(self.boxes)),
        ]


def to_pixels(boxes, shape, frame="centers"):
    """Normalised boxes in pixels, not rounded. [..., 4] float32."""
    return utils.denorm_boxes(boxes, shape, frame, whole=False)


def trace(model, image, activations=()):
    """All stages of one image.

    Args:
        model: `MaskRCNN` in inference mode.
        image: [H, W, C] or [H, W], as for `MaskRCNN.detect`.
        activations: names of layers whose outputs are wanted too, such as "res4f_out" or "fpn_p3".

    Returns:
        Trace.
    """
    config, network = model.config, model.keras_model
    molded, metas, windows = model.mold_inputs([image])
    shape, window = molded.shape[1:], np.asarray(windows[0])
    anchors = model.get_anchors(shape)
    names = ["rpn_class", "rpn_bbox", "mrcnn_class", "mrcnn_bbox", "mrcnn_detection"]
    names += ["mrcnn_mask"] if config.USE_MASK else []
    roi, frame = network.get_layer("ROI"), config.BOX_FRAME
    fed = [(f"ROI input {i}", tensor) for i, tensor in enumerate(roi.input)]
    values = run_graph(
        model, molded, [*((name, None) for name in [*names, *activations]), *fed], metas
    )
    rpn_class, rpn_bbox = values["rpn_class"], values["rpn_bbox"]

    stages = {
        name: ops.convert_to_numpy(x)[0]
        for name, x in roi.stages([ops.convert_to_tensor(values[name]) for name, _ in fed]).items()
    }
    valid = stages["valid"]
    kept = stages["rpn_non_max_suppression"][valid]
    proposals = stages["refined_anchors_clipped"][kept]
    top = _rows_of(stages["pre_nms_anchors"], anchors)
    rpn_scores = rpn_class[0, :, -1]
    anchor_levels = _anchor_levels(config, shape, len(anchors))

    probs, deltas = values["mrcnn_class"][0, valid], values["mrcnn_bbox"][0, valid]
    class_ids = probs.argmax(axis=1)
    normal_window = utils.norm_boxes(window, shape, frame)
    refined_rois = _refine(config, proposals, deltas, class_ids, normal_window)
    detections = values["mrcnn_detection"][0]
    detections = detections[detections[:, 4] > 0]
    detected_ids, detection_scores = detections[:, 4].astype(np.int32), detections[:, 5]
    boxes = to_pixels(detections[:, :4], shape, frame)
    masks = all_masks = pasted = None
    if config.USE_MASK:
        all_masks = values["mrcnn_mask"][0, : len(detections)]
        # A head that is blind to the class has one mask for all.
        masks = (
            all_masks[np.arange(len(detections)), :, :, detected_ids]
            if all_masks.shape[-1] > 1
            else all_masks[..., 0]
        )
        padded = config.MASK_PASTE == "padded"
        pasted = utils.unmold_masks(
            masks, boxes if padded else np.around(boxes).astype(int), shape, padded=padded
        )
    found = model.unmold_detections(
        values["mrcnn_detection"][0], masks, np.shape(image), shape, window
    )
    return Trace(
        image=np.clip(np.round(molded[0] * config.STD_PIXEL + config.MEAN_PIXEL), 0, 255).astype(
            np.uint8
        ),
        window=window,
        anchors=to_pixels(anchors, shape, frame),
        anchor_levels=anchor_levels,
        rpn_scores=rpn_scores,
        rpn_deltas=rpn_bbox[0],
        top=top,
        refined=to_pixels(stages["refined_anchors"], shape, frame),
        clipped=to_pixels(stages["refined_anchors_clipped"], shape, frame),
        nms_kept=kept,
        proposals=to_pixels(proposals, shape, frame),
        proposal_scores=rpn_scores[top][kept],
        roi_levels=_roi_levels(network, config, proposals, shape),
        probs=probs,
        deltas=deltas,
        class_ids=class_ids,
        scores=probs.max(axis=1, initial=0),
        refined_rois=to_pixels(refined_rois, shape, frame),
        kept=_sources(config, detections, proposals, probs, deltas, normal_window),
        boxes=boxes,
        detected_ids=detected_ids,
        detection_scores=detection_scores,
        masks=masks,
        all_masks=all_masks,
        pasted=pasted,
        result=dict(zip(("rois", "class_ids", "scores", "masks"), found)),
        activations={name: values[name][0] for name in activations},
    )


def _rows_of(rows, table):
    """For each row the index of the equal row of a table [A, 4]."""
    index = {row.tobytes(): i for i, row in enumerate(np.ascontiguousarray(table))}
    return np.array([index[row.tobytes()] for row in np.ascontiguousarray(rows)], int)


def _anchor_levels(config, shape, count):
    strides = np.atleast_1d(config.BACKBONE_STRIDES)
    cells = [
        int(np.prod(-(-np.asarray(size) // config.RPN_ANCHOR_STRIDE)))
        for size in data.compute_backbone_shapes(config, shape)
    ]
    per_cell = count // sum(cells)
    return np.repeat(np.round(np.log2(strides)).astype(int), np.multiply(cells, per_cell))


def _roi_levels(network, config, proposals, shape):
    """[P] int: the level that each proposal (normalised) is read from; all one where there is one
    map."""
    layer = network.get_layer("roi_align_classifier")
    if len(layer.input) == 3:
        return np.full(
            len(proposals), int(np.round(np.log2(np.atleast_1d(config.BACKBONE_STRIDES)[0])))
        )
    return np.asarray(
        ops.convert_to_numpy(
            layer.levels(
                ops.convert_to_tensor(proposals[None]), ops.convert_to_tensor([shape]), layer.level
            )
        )
    )[0]


def _refine(config, rois, deltas, class_ids, window):
    """RoIs [P, 4] normalised, moved by the deltas [P, K, 4] of the given classes and cut at the
    window."""
    # Deltas that are the same for every class have one entry.
    own = deltas[np.arange(len(rois)), class_ids if deltas.shape[1] > 1 else 0]
    boxes = utils._apply_deltas(
        rois, own * np.asarray(config.BBOX_STD_DEV, np.float32), np, config.BBOX_LOG_SIZE_LIMIT
    )
    return np.clip(boxes, np.tile(window[:2], 2), np.tile(window[2:], 2)).astype(np.float32)


def _sources(config, detections, rois, probs, deltas, window):
    """[D] int: the RoI that each detection comes from, the one whose box and score for that class
    are equal."""
    found = np.zeros(len(detections), int)
    for i, (*box, class_id, score) in enumerate(detections):
        class_id = int(class_id)
        boxes = _refine(config, rois, deltas, np.full(len(rois), class_id), window)
        found[i] = (np.abs(boxes - box).max(axis=1) + np.abs(probs[:, class_id] - score)).argmin()
    return found


# ---- matterport's way ----------------------------------------------------------------------------

STAGES = "pre_nms_anchors", "refined_anchors_clipped", "refined_anchors", "rpn_non_max_suppression"


def find_tensor(model, name):
    """A tensor for `run_graph` by the name that notebooks of 2018 ask for, or None.

    Args:
        name: a layer's, in TensorFlow 1 spellings too ("mrcnn_class/Reshape:0"); or one of `STAGES`
            after "ROI/", of which "ROI/rpn_non_max_suppression:0" is [N] int32 of the first image.
    """
    stage = re.match(rf"/?ROI/({'|'.join(STAGES)})\b", name)
    if stage:
        return _proposal_stage(model, stage.group(1))
    for part in name.strip("/").split(":")[0].split("/"):
        for layer in model.keras_model.layers:
            if layer.name == part:
                return layer.output[0] if isinstance(layer.output, (list, tuple)) else layer.output
    return None


def _proposal_stage(model, name):
    """The tensor of a step inside the layer ROI; made once, so that `run_graph` knows it again."""
    roi = model.keras_model.get_layer("ROI")
    if name not in model._stages:
        pick = KL.Lambda(lambda inputs: roi.stages(inputs)[name])
        model._stages[name] = (
            pick(roi.input)[0] if name == "rpn_non_max_suppression" else pick(roi.input)
        )
    return model._stages[name]


def run_graph(model, images, outputs, image_metas=None):
    """Runs images through parts of the inference graph; see `MaskRCNN.run_graph`."""
    model._check_inference("run_graph")
    tensors = []
    for name, tensor in outputs:
        tensor = find_tensor(model, name) if tensor is None else tensor
        if tensor is None:
            raise ValueError(f"No layer of the graph has the name that was received: {name!r}")
        # The layer ROI also says which rows are proposals: the boxes come first.
        tensors.append(tensor[0] if isinstance(tensor, (list, tuple)) else tensor)
    if image_metas is None:
        images, image_metas, _ = model.mold_inputs(images)
    images = np.asarray(images)
    anchors = model.get_anchors(images.shape[1:])
    key = ("graph", *(id(tensor) for tensor in tensors))
    with model._lock:
        graph = model._functions.pop(key, None) or keras.Model(model.keras_model.inputs, tensors)
        model._functions[key] = graph
        while len(model._functions) > 16:
            model._functions.popitem(last=False)
    inputs = [
        ops.convert_to_tensor(x, "float32")
        for x in (images, image_metas, np.broadcast_to(anchors, (len(images), *anchors.shape)))
    ]
    arrays = graph(inputs, training=False)
    return OrderedDict((name, ops.convert_to_numpy(x)) for (name, _), x in zip(outputs, arrays))
