"""Looking inside: every stage of one image in numpy; matterport's `run_graph` and `ancestor`.

    stages = model.trace(image)
    stages.proposals                # [P, (y1, x1, y2, x2)] in pixels
    stages.masks                    # [D, 28, 28] as the mask head gives them

`trace` needs no names of tensors; `run_graph` takes those that notebooks of 2018 ask for.
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

    def __repr__(self) -> str:
        counts = ", ".join(f"{stage}: {count}" for stage, count in self.counts())
        return f"Trace({counts})"

    def counts(self) -> list[tuple[str, int]]:
        """[(stage, how many)] from anchors to detections."""
        return [
            ("anchors", len(self.anchors)),
            ("best anchors", len(self.top)),
            ("after non-maximum suppression", len(self.proposals)),
            ("best class is an object", int((self.class_ids > 0).sum())),
            ("detections", len(self.boxes)),
        ]


def to_pixels(boxes: np.ndarray, shape: Sequence[int], frame: str = "centers") -> np.ndarray:
    """Normalised boxes in pixels, not rounded. [..., 4] float32."""
    return box_math.denorm_boxes(boxes, shape, frame, whole=False)


@kernels.without_gradients()
def trace(model: Any, image: np.ndarray, activations: Sequence[str] = ()) -> Trace:
    """All stages of one image.

    Args:
        model: `MaskRCNN` in inference mode.
        image: [H, W, C] or [H, W], as for `MaskRCNN.detect`.
        activations: names of layers whose outputs are wanted too, such as "res4f_out" or "fpn_p3".
    """
    model.check_mode("inference", "trace")
    config = model.config
    molded, metas, windows = model.mold_inputs([image])
    shape = molded.shape[1:]
    window = np.asarray(windows[0])
    values = _values(model, molded, metas, activations)

    def in_pixels(boxes):
        return to_pixels(boxes, shape, config.BOX_FRAME)

    anchors = in_pixels(model.get_anchors(shape))
    rpn_scores = values["rpn_class"][:, -1]
    proposals = _stages_of(model, "ROI", values)
    is_proposal = proposals["valid"]
    nms_kept = proposals["rpn_non_max_suppression"][is_proposal]
    top = proposals["pre_nms_indices"]
    boxes = proposals["refined_anchors_clipped"][nms_kept]
    # One detection for each proposal, of its best class, whatever DETECTION_ALL_CLASSES asks for.
    heads = _stages_of(model, "mrcnn_detection", values)
    is_detection = heads["detections"][:, 4] > 0
    detections = heads["detections"][is_detection]
    masks, all_masks, pasted = _masks(config, values, detections, in_pixels, shape)
    unmolded = model.unmold_detections(heads["detections"], masks, np.shape(image), shape, window)
    return Trace(
        image=_as_seen(molded[0], config),
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


def _values(model, molded, metas, activations):
    """{layer's name: array without the batch axis}, and (layer's name, i) of a stage's inputs."""
    names = ["rpn_class", "rpn_bbox", "mrcnn_class", "mrcnn_bbox", *activations]
    if model.config.USE_MASK:
        names.append("mrcnn_mask")
    wanted = [(name, None) for name in names]
    for name in ("ROI", "mrcnn_detection"):
        for i, tensor in enumerate(model.keras_model.get_layer(name).input):
            wanted.append(((name, i), tensor))
    values = run_graph(model, molded, wanted, metas)
    return {name: value[0] for name, value in values.items()}


def _stages_of(model, name, values):
    """The steps inside a layer, from the inputs that it had: {step: array of the one image}."""
    layer = model.keras_model.get_layer(name)
    inputs = [ops.convert_to_tensor(values[name, i][None]) for i in range(len(layer.input))]
    return {step: ops.convert_to_numpy(x)[0] for step, x in layer.stages(inputs).items()}


def _as_seen(molded, config):
    """The molded image before the mean was subtracted, uint8."""
    pixels = molded * config.STD_PIXEL + config.MEAN_PIXEL
    if np.max(config.MEAN_PIXEL) > 1:
        return utils.as_bytes(np.round(pixels), (0, 255))
    return utils.as_bytes(pixels, (0, 1))


def _masks(config, values, detections, in_pixels, shape):
    """Masks of the detected classes, of all classes, and pasted; None, None, None without masks."""
    if not config.USE_MASK:
        return None, None, None
    count = len(detections)
    all_masks = values["mrcnn_mask"][:count]
    if all_masks.shape[-1] > 1:
        masks = all_masks[np.arange(count), :, :, detections[:, 4].astype(np.int32)]
    else:
        masks = all_masks[..., 0]  # a head that is blind to the class has one mask for all
    boxes = in_pixels(detections[:, :4])
    padded = config.MASK_PASTE == "padded"
    if not padded:
        boxes = np.around(boxes).astype(int)
    return masks, all_masks, mask_math.unmold_masks(masks, boxes, shape, padded=padded)


def _anchor_levels(config, shape, count):
    """[A] int: the level of each anchor."""
    cells = []
    for size in data.compute_backbone_shapes(config, shape):
        cells.append(int(np.prod(-(-np.asarray(size) // config.RPN_ANCHOR_STRIDE))))
    per_cell = count // sum(cells)
    levels = np.round(np.log2(np.atleast_1d(config.BACKBONE_STRIDES))).astype(int)
    return np.repeat(levels, np.multiply(cells, per_cell))


def _roi_levels(network, config, proposals, shape):
    """[P] int: the level that each proposal (normalised) is read from; all one of a single map."""
    layer = network.get_layer("roi_align_classifier")
    if len(layer.input) == 3:
        stride = np.atleast_1d(config.BACKBONE_STRIDES)[0]
        return np.full(len(proposals), int(np.round(np.log2(stride))))
    boxes = ops.convert_to_tensor(proposals[None])
    levels = layer.levels(boxes, ops.convert_to_tensor([shape]), layer.level)
    return np.asarray(ops.convert_to_numpy(levels))[0]


# ---- matterport's way ----------------------------------------------------------------------------

STAGES = (
    "pre_nms_anchors",
    "refined_anchors_clipped",
    "refined_anchors",
    "rpn_non_max_suppression",
)


def find_tensor(model: Any, name: str) -> Any:
    """A tensor for `run_graph` by the name that notebooks of 2018 ask for, or None.

    Args:
        name: a layer's, in TensorFlow 1 spellings too ("mrcnn_class/Reshape:0"); or one of `STAGES`
            after "ROI/", of which "ROI/rpn_non_max_suppression:0" is [N] int32 of the first image.
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
    """The layer ROI also says which rows are proposals: the boxes come first."""
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
    return OrderedDict(
        (name, ops.convert_to_numpy(array)) for (name, _), array in zip(outputs, arrays)
    )
