"""The intermediate results of every stage of one image; matterport's `run_graph` and `ancestor`.

    stages = model.trace(image)
    stages.proposals                # [P, (y1, x1, y2, x2)] in pixels
    stages.masks                    # [D, 28, 28], output of the mask head

`trace` needs no names of tensors; `run_graph` takes those of matterport's notebooks.
"""

import dataclasses
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from mrcnn import boxes as box_math, data, masks as mask_math, ops as kernels, utils


@dataclasses.dataclass
class Trace:
    """The result of each stage of the network for one image, in numpy.

    All boxes are (y1, x1, y2, x2) float32 in pixels of `image`; y2, x2 lie outside the box. A level
    is the base-2 logarithm of a feature map's stride: P2 has stride 4. Of A anchors, the T with the
    best scores are refined; P proposals, K classes, D detections.

    Attributes:
        image: [H, W, C] uint8, the molded image with its padding, before mean subtraction.
        window: (y1, x1, y2, x2) of the original image in it.
        anchors: [A, 4].
        anchor_levels: [A] int.
        rpn_scores: [A], probability of an object.
        rpn_deltas: [A, (dy, dx, log dh, log dw)], output of the RPN, in units of RPN_BBOX_STD_DEV.
        top: [T] int, indices of the refined anchors, best first.
        refined, clipped: [T, 4], these anchors with their deltas applied; then clipped to the
            image.
        nms_kept: [P] int, indices into `top` of the boxes kept by non-maximum suppression.
        proposals: [P, 4].
        proposal_scores: [P].
        roi_levels: [P] int, the level from which the box head pools.
        probs: [P, K], class probabilities.
        deltas: [P, K, 4], output of the box head.
        class_ids, scores: [P], the best class of each proposal and its probability.
        refined_rois: [P, 4], proposals with the deltas of their best class applied, clipped to the
            window.
        kept: [D] int, index of the proposal of each detection, best detection first.
        boxes: [D, 4].
        detected_ids: [D] int.
        detection_scores: [D].
        masks: [D, h, w], probabilities of the detected class; None for a model without masks.
        all_masks: [D, h, w, K]; None likewise.
        pasted: [H, W, D] bool, `masks` in the molded image; None likewise.
        result: the detections in pixels of the original image, as of `MaskRCNN.detect`.
        activations: {layer name: array without the batch axis} of the requested layers.
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

    def __repr__(self) -> str:
        counts = ", ".join(f"{stage}: {count}" for stage, count in self.counts())
        return f"Trace({counts})"

    def counts(self) -> list[tuple[str, int]]:
        """[(stage, number of boxes)] from anchors to detections."""
        return [
            ("anchors", len(self.anchors)),
            ("best anchors", len(self.top)),
            ("after non-maximum suppression", len(self.proposals)),
            ("best class is an object", int((self.class_ids > 0).sum())),
            ("detections", len(self.boxes)),
        ]


def to_pixels(boxes: np.ndarray, shape: Sequence[int], frame: str = "centers") -> np.ndarray:
    """Converts normalised boxes [..., 4] to pixels, float32, not rounded."""
    return box_math.denorm_boxes(boxes, shape, frame, whole=False)


@kernels.without_gradients()
def trace(model: Any, image: np.ndarray, activations: Sequence[str] = ()) -> Trace:
    """Runs the network on one image and returns the results of all stages, a `Trace`.

    Args:
        model: `MaskRCNN` in inference mode.
        image: [H, W, C] or [H, W], as for `MaskRCNN.detect`.
        activations: names of layers whose outputs are returned too, such as "res4f_out", "fpn_p3".
    """
    model.check_mode("inference", "trace")
    config = model.config
    molded, metas, windows = model.mold_inputs([image])
    shape = molded.shape[1:]
    window = np.asarray(windows[0])
    values = _layer_values(model, molded, metas, activations)

    def in_pixels(boxes):
        return to_pixels(boxes, shape, config.BOX_FRAME)

    anchors = in_pixels(model.get_anchors(shape))
    rpn_scores = values["rpn_class"][:, -1]
    proposals = _stages_of(model, "ROI", values)
    is_proposal = proposals["valid"]
    nms_kept = proposals["rpn_non_max_suppression"][is_proposal]
    top = proposals["pre_nms_indices"]
    boxes = proposals["refined_anchors_clipped"][nms_kept]
    # At most one detection per proposal, of its best class, whatever DETECTION_ALL_CLASSES is.
    heads = _stages_of(model, "mrcnn_detection", values)
    is_detection = heads["detections"][:, 4] > 0
    detections = heads["detections"][is_detection]
    masks, all_masks, pasted = _masks(config, values, detections, in_pixels, shape)
    unmolded = model.unmold_detections(heads["detections"], masks, np.shape(image), shape, window)
    return Trace(
        image=_before_mean_subtraction(molded[0], config),
        window=window,
        anchors=anchors,
        anchor_levels=_anchor_levels(config, shape, len(anchors)),
        rpn_scores=rpn_scores,
        rpn_deltas=values["rpn_bbox"],
        top=top,
        refined=in_pixels(proposals["refined_anchors"]),
        clipped=in_pixels(proposals["refined_anchors_clipped"]),
        nms_kept=nms_kept,
        proposals=in_pixels(boxes),
        proposal_scores=rpn_scores[top][nms_kept],
        roi_levels=_roi_levels(model.keras_model, config, boxes, shape),
        probs=values["mrcnn_class"][is_proposal],
        deltas=values["mrcnn_bbox"][is_proposal],
        class_ids=heads["class_ids"][is_proposal],
        scores=heads["scores"][is_proposal],
        refined_rois=in_pixels(heads["refined_rois"][is_proposal]),
        kept=heads["kept"][is_detection],
        boxes=in_pixels(detections[:, :4]),
        detected_ids=detections[:, 4].astype(np.int32),
        detection_scores=detections[:, 5],
        masks=masks,
        all_masks=all_masks,
        pasted=pasted,
        result=dict(zip(("rois", "class_ids", "scores", "masks"), unmolded)),
        activations={name: values[name] for name in activations},
    )


def _layer_values(model, molded, metas, activations):
    """{layer name: output without the batch axis}, and {(layer name, i): input i} of two layers."""
    names = ["rpn_class", "rpn_bbox", "mrcnn_class", "mrcnn_bbox", *activations]
    if model.config.USE_MASK:
        names.append("mrcnn_mask")
    requested = [(name, None) for name in names]
    for name in ("ROI", "mrcnn_detection"):
        for i, tensor in enumerate(model.keras_model.get_layer(name).input):
            requested.append(((name, i), tensor))
    values = run_graph(model, molded, requested, metas)
    return {name: value[0] for name, value in values.items()}


def _stages_of(model, name, values):
    """{step: array without the batch axis} of the steps inside a layer, computed by its inputs."""
    layer = model.keras_model.get_layer(name)
    inputs = [ops.convert_to_tensor(values[name, i][None]) for i in range(len(layer.input))]
    return {step: ops.convert_to_numpy(x)[0] for step, x in layer.stages(inputs).items()}


def _before_mean_subtraction(molded, config):
    """The molded image before mean subtraction, uint8."""
    pixels = molded * config.STD_PIXEL + config.MEAN_PIXEL
    if np.max(config.MEAN_PIXEL) > 1:
        return utils.as_bytes(np.round(pixels), (0, 255))
    return utils.as_bytes(pixels, (0, 1))


def _masks(config, values, detections, in_pixels, shape):
    """`masks`, `all_masks` and `pasted` of a `Trace`; None, None, None without masks."""
    if not config.USE_MASK:
        return None, None, None
    count = len(detections)
    all_masks = values["mrcnn_mask"][:count]
    if all_masks.shape[-1] > 1:
        masks = all_masks[np.arange(count), :, :, detections[:, 4].astype(np.int32)]
    else:
        masks = all_masks[..., 0]  # a class-agnostic head has a single mask
    boxes = in_pixels(detections[:, :4])
    is_padded = config.MASK_PASTE == "padded"
    if not is_padded:
        boxes = np.around(boxes).astype(int)
    return masks, all_masks, mask_math.unmold_masks(masks, boxes, shape, padded=is_padded)


def _anchor_levels(config, shape, count):
    """The level of each anchor, [A] int; count: A."""
    cells = []
    for size in data.compute_backbone_shapes(config, shape):
        cells.append(int(np.prod(-(-np.asarray(size) // config.RPN_ANCHOR_STRIDE))))
    anchors_per_cell = count // sum(cells)
    levels = np.round(np.log2(np.atleast_1d(config.BACKBONE_STRIDES))).astype(int)
    return np.repeat(levels, np.multiply(cells, anchors_per_cell))


def _roi_levels(network, config, proposals, shape):
    """The level from which each normalised proposal is pooled, [P] int."""
    layer = network.get_layer("roi_align_classifier")
    if len(layer.input) == 3:
        stride = np.atleast_1d(config.BACKBONE_STRIDES)[0]
        return np.full(len(proposals), int(np.round(np.log2(stride))))
    boxes = ops.convert_to_tensor(proposals[None])
    levels = layer.levels(boxes, ops.convert_to_tensor([shape]), layer.level)
    return np.asarray(ops.convert_to_numpy(levels))[0]


# ---- matterport's run_graph ----------------------------------------------------------------------

STAGES = (
    "pre_nms_anchors",
    "refined_anchors_clipped",
    "refined_anchors",
    "rpn_non_max_suppression",
)


def find_tensor(model: Any, name: str) -> Any:
    """A tensor for `run_graph` by its name in matterport's notebooks; None if there is none.

    Args:
        name: of a layer, also as TensorFlow 1 named its tensors ("mrcnn_class/Reshape:0"); or one
            of `STAGES` after "ROI/"; "ROI/rpn_non_max_suppression:0" is [N] int32 of the first
            image.
    """
    stage = re.match(rf"/?ROI/({'|'.join(STAGES)})\b", name)
    if stage:
        return model.detector.proposal_stage(stage.group(1))
    layers = {layer.name: layer for layer in model.keras_model.layers}
    for part in name.strip("/").split(":")[0].split("/"):
        if part in layers:
            return _first(layers[part].output)
    return None


def _first(output):
    """The first output of a layer: the boxes of the layer ROI, whose second is a validity mask."""
    if isinstance(output, (list, tuple)):
        return output[0]
    return output


@kernels.without_gradients()
def run_graph(
    model: Any,
    images: Any,
    outputs: Sequence[tuple],
    image_metas: np.ndarray | None = None,
) -> OrderedDict:
    """Runs images through parts of the inference graph; see `MaskRCNN.run_graph`."""
    model.check_mode("inference", "run_graph")
    tensors = []
    for name, tensor in outputs:
        if tensor is None:
            tensor = find_tensor(model, name)
        if tensor is None:
            raise ValueError(f"No layer of the graph has the name that was received: {name!r}")
        tensors.append(_first(tensor))
    if image_metas is None:
        images, image_metas, _ = model.mold_inputs(images)
    images = np.asarray(images)
    data.tell_of_unmolded(images, model.config, "run_graph")
    anchors = model.get_anchors(images.shape[1:])
    anchors = np.broadcast_to(anchors, (len(images), *anchors.shape))
    inputs = [ops.convert_to_tensor(x, "float32") for x in (images, image_metas, anchors)]
    arrays = model.detector.graph(tensors)(inputs, training=False)
    if len(tensors) == 1 and not isinstance(arrays, (list, tuple)):
        arrays = [arrays]  # Keras makes no list of a single output
    return OrderedDict(
        (name, ops.convert_to_numpy(array)) for (name, _), array in zip(outputs, arrays)
    )
