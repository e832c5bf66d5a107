"""Checkpoints of torchvision's Mask R-CNN and Keypoint R-CNN: presets that build their graph, and
the importer.

    # what it needs, read off its keys
    config = torchvision.config_of("maskrcnn_resnet50_fpn_v2_coco.pth")
    model = MaskRCNN("inference", config, "logs")
    model.load_weights("maskrcnn_resnet50_fpn_v2_coco.pth")

A checkpoint is a state dict: {key: array} as a dict or an `.npz`, which need nothing else; or a
`.pth` or `.pt` file, which needs PyTorch and is read with `torch.load(weights_only=True)`, so that
no code in it can run.

Keys can't tell the epsilon of batch norm: it is 1e-5, but 0 in the released COCO_V1 files
(BATCH_NORM_EPSILON=0).
"""

import math
import os
import re
from collections.abc import Mapping

import numpy as np

from mrcnn.config import PaperConfig

SUFFIXES = (".pth", ".pt", ".npz")


# ---- Presets -------------------------------------------------------------------------------------


class TorchvisionConfig(PaperConfig):
    """`maskrcnn_resnet50_fpn`: 91 COCO class ids with gaps, the background first."""

    NAME = "torchvision"
    NUM_CLASSES = 91
    BACKBONE = "resnet50"
    STRIDE_IN_1X1 = False
    BACKBONE_PADDING = "symmetric"
    CONV_BIAS = False
    BATCH_NORM_EPSILON = 1e-5
    MEAN_PIXEL = 255 * np.array([0.485, 0.456, 0.406])
    STD_PIXEL = 255 * np.array([0.229, 0.224, 0.225])
    # Its ratios are heights by widths.
    RPN_ANCHOR_RATIOS = [2, 1, 0.5]
    RPN_ANCHOR_ROUNDING = True
    PRE_NMS_LIMIT, PRE_NMS_LIMIT_TRAINING = 1000, 2000
    POST_NMS_ROIS_TRAINING, POST_NMS_ROIS_INFERENCE = 2000, 1000
    RPN_MIN_SIZE = 1e-3
    DETECTION_MIN_SIZE = 1e-2
    ROI_ALIGN_ALIGNED = False


class TorchvisionV2Config(TorchvisionConfig):
    """`maskrcnn_resnet50_fpn_v2`: batch norm in the pyramid and heads, two RPN convolutions, a
    convolutional box head."""

    BACKBONE_NORM = FPN_NORM = BOX_HEAD_CONV_NORM = MASK_HEAD_NORM = "batch"
    RPN_CONVS = 2
    BOX_HEAD_CONVS, BOX_HEAD_FCS = 4, 1


class TorchvisionKeypointConfig(TorchvisionConfig):
    """`keypointrcnn_resnet50_fpn`: persons and their 17 points, no masks."""

    NUM_CLASSES = 2
    USE_MASK = False
    USE_KEYPOINTS = True


def config_of(checkpoint, **settings):
    """A config under which a checkpoint fits, found by its keys and shapes.

    Args:
        checkpoint: see the module.
        settings: to override, such as IMAGE_MIN_DIM or BATCH_NORM_EPSILON.
    """
    arrays = read(checkpoint)
    found = {"NUM_CLASSES": len(arrays["roi_heads.box_predictor.cls_score.bias"])}
    if any(key.startswith("roi_heads.keypoint") for key in arrays):
        preset = TorchvisionKeypointConfig
        found["NUM_KEYPOINTS"] = len(arrays["roi_heads.keypoint_predictor.kps_score_lowres.bias"])
    else:
        preset = (
            TorchvisionV2Config
            if "backbone.fpn.inner_blocks.0.1.weight" in arrays
            else TorchvisionConfig
        )
        found["USE_MASK"] = any(key.startswith("roi_heads.mask") for key in arrays)
    return preset(**{**found, **settings})


# ---- Reading -------------------------------------------------------------------------------------


def is_checkpoint(source):
    """Whether `load_weights` has a torchvision checkpoint before it: a dict, or a file by its
    ending."""
    return isinstance(source, Mapping) or os.fspath(source).lower().endswith(SUFFIXES)


def read(source):
    """{key: float array} of a checkpoint, under the keys of current models.

    Raises:
        FileNotFoundError: no such file.
        ImportError: a `.pth` file without PyTorch.
        ValueError: not a state dict.
    """
    if isinstance(source, Mapping):
        arrays = source
    elif not os.path.exists(source):
        raise FileNotFoundError(f"No checkpoint at {source}")
    elif os.fspath(source).lower().endswith(".npz"):
        with np.load(source, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    else:
        arrays = _read_torch(source)
    # Training scripts store the state dict beside the optimizer's.
    for key in ("model", "state_dict"):
        if isinstance(arrays.get(key), Mapping):
            arrays = arrays[key]
    found = {}
    for key, value in arrays.items():
        key = key.removeprefix("module.")
        if key.endswith("num_batches_tracked"):
            continue
        value = value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
        if value.dtype.kind != "f":
            raise ValueError(
                f"A state dict holds arrays of floats. Received: {key} of type {value.dtype}"
            )
        found[current_key(key)] = value
    if "roi_heads.box_predictor.cls_score.bias" not in found:
        name = "the dict" if isinstance(source, Mapping) else source
        raise ValueError(
            "A checkpoint of a torchvision detection model has the key "
            f"roi_heads.box_predictor.cls_score.bias. Received: {name} with {sorted(found)[:5]} ..."
        )
    return found


def _read_torch(path):
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} is a PyTorch file and PyTorch is not installed: `pip install torch`, or"
            " convert it once where it is: numpy.savez('weights.npz', **{k: v.numpy() for k, v in"
            " torch.load(path, weights_only=True).items()})"
        ) from error
    return torch.load(path, map_location="cpu", weights_only=True)


def current_key(key):
    """The key of today's models for one of an older file's."""
    key = re.sub(r"(fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2", key)
    key = re.sub(r"rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1", key)
    return re.sub(
        r"mask_head\.mask_fcn(\d)\.", lambda match: f"mask_head.{int(match[1]) - 1}.0.", key
    )


# ---- Translating ---------------------------------------------------------------------------------

NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}

# Pattern of a module's name in the checkpoint, the layer here ("{0}" is the first group), and how
# it is stored.
MODULES = [
    (re.compile(pattern + r"\.(weight|bias|running_mean|running_var)"), layer, kind)
    for pattern, layer, kind in (
        (r"backbone\.body\.conv1", "conv1", "conv"),
        (r"backbone\.body\.bn1", "bn_conv1", "norm"),
        (r"backbone\.body\.layer(\d)\.(\d+)\.conv(\d)", "res{stage}_branch2{branch}", "conv"),
        (r"backbone\.body\.layer(\d)\.(\d+)\.bn(\d)", "bn{stage}_branch2{branch}", "norm"),
        (r"backbone\.body\.layer(\d)\.(\d+)\.downsample\.0", "res{stage}_branch1", "conv"),
        (r"backbone\.body\.layer(\d)\.(\d+)\.downsample\.1", "bn{stage}_branch1", "norm"),
        (r"backbone\.fpn\.inner_blocks\.(\d)\.0", "fpn_c{level}p{level}", "conv"),
        (r"backbone\.fpn\.inner_blocks\.(\d)\.1", "fpn_c{level}p{level}_bn", "norm"),
        (r"backbone\.fpn\.layer_blocks\.(\d)\.0", "fpn_p{level}", "conv"),
        (r"backbone\.fpn\.layer_blocks\.(\d)\.1", "fpn_p{level}_bn", "norm"),
        (r"rpn\.head\.conv\.(\d)\.0", "rpn_conv_shared{second}", "conv"),
        (r"rpn\.head\.cls_logits", "rpn_class_raw", "conv"),
        (r"rpn\.head\.bbox_pred", "rpn_bbox_pred", "conv boxes"),
        (r"roi_heads\.box_head\.(\d)\.0", "mrcnn_box_conv{next}", "conv"),
        (r"roi_heads\.box_head\.(\d)\.1", "mrcnn_box_bn{next}", "norm"),
        (r"roi_heads\.box_head\.(?:fc6|5)", "mrcnn_class_conv1", "fc of cells"),
        (r"roi_heads\.box_head\.fc7", "mrcnn_class_conv2", "fc of one cell"),
        (r"roi_heads\.box_predictor\.cls_score", "mrcnn_class_logits", "fc"),
        (r"roi_heads\.box_predictor\.bbox_pred", "mrcnn_bbox_fc", "fc boxes"),
        (r"roi_heads\.mask_head\.(\d)\.0", "mrcnn_mask_conv{next}", "conv"),
        (r"roi_heads\.mask_head\.(\d)\.1", "mrcnn_mask_bn{next}", "norm"),
        (r"roi_heads\.mask_predictor\.conv5_mask", "mrcnn_mask_deconv", "deconv"),
        (r"roi_heads\.mask_predictor\.mask_fcn_logits", "mrcnn_mask", "conv"),
        (r"roi_heads\.keypoint_head\.(\d+)", "mrcnn_keypoint_conv{half}", "conv"),
        (r"roi_heads\.keypoint_predictor\.kps_score_lowres", "mrcnn_keypoint_deconv", "deconv"),
    )
]


def translate(arrays):
    """A checkpoint's arrays under this package's names and in its layout.

    Args:
        arrays: {key: array} of `read`.

    Returns:
        {layer: {weight's name: array}}, and the keys that no layer is known for.
    """
    found, unknown = {}, []
    # Cells of the box head's input, a square.
    pyramid = arrays.get("backbone.fpn.layer_blocks.0.0.weight")
    channels = 256 if pyramid is None else len(pyramid)
    for key, array in arrays.items():
        for pattern, layer, kind in MODULES:
            match = pattern.fullmatch(key)
            if match:
                *numbers, weight = match.groups()
                found.setdefault(layer.format(**_names(numbers)), {}).update(
                    [_convert(array, weight, kind, channels)]
                )
                break
        else:
            unknown.append(key)
    return found, unknown


def _names(numbers):
    """What a layer's name may be made of, from the numbers in a key."""
    if not numbers:
        return {}
    n = [int(number) for number in numbers]
    names = {
        "level": n[0] + 2,
        "next": n[0] + 1,
        "half": n[0] // 2 + 1,
        "second": n[0] + 1 if n[0] else "",
    }
    if len(n) > 1:
        names["stage"] = f"{n[0] + 1}{chr(ord('a') + n[1])}"
    if len(n) > 2:
        names["branch"] = "abc"[n[2] - 1]
    return names


def _convert(array, weight, kind, channels):
    """(weight's name, array): axes in Keras's order; y before x. channels: of a pooled RoI."""
    if kind == "norm":
        return NORM[weight], array
    if kind.endswith("boxes"):
        # Outputs come in fours (dx, dy, log dw, log dh), here (dy, dx, log dh, log dw).
        fours = array.reshape(-1, 4, *array.shape[1:])
        array = fours[:, [1, 0, 3, 2]].reshape(array.shape)
    if weight == "bias":
        return "bias", array
    if kind.startswith("conv") or kind == "deconv":
        return "kernel", array.transpose(2, 3, 1, 0)
    if kind.startswith("fc of"):
        # A convolution here that covers its input; there the input was laid out channel, row,
        # column.
        side = math.isqrt(array.shape[1] // channels) if kind == "fc of cells" else 1
        return "kernel", array.reshape(len(array), -1, side, side).transpose(2, 3, 1, 0)
    return "kernel", array.T
