"""Checkpoints of torchvision's Mask R-CNN and Keypoint R-CNN: presets and the importer.

    # the config for a checkpoint, derived from its keys
    config = torchvision_weights.config_of("maskrcnn_resnet50_fpn_v2_coco.pth")
    model = MaskRCNN("inference", config, "logs")
    model.load_weights("maskrcnn_resnet50_fpn_v2_coco.pth")

A checkpoint is a state dict: {key: array} as a dict or an `.npz`, without further packages; or a
`.pth` or `.pt` file, which needs PyTorch and is read with `torch.load(weights_only=True)`, so that
no code in it can run.

The keys don't show the epsilon of batch norm: the presets have 1e-5; the released COCO_V1 files
need 0 (BATCH_NORM_EPSILON=0).
"""

import math
import os
import re
import zipfile
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from mrcnn import files
from mrcnn.config import PaperConfig

SUFFIXES = (".pth", ".pt", ".npz")


# ---- Presets -------------------------------------------------------------------------------------


class TorchvisionConfig(PaperConfig):
    """`maskrcnn_resnet50_fpn`: 91 class ids, COCO's with their gaps, background first."""

    NAME = "torchvision"
    NUM_CLASSES = 91
    BACKBONE = "resnet50"
    STRIDE_IN_1X1 = False
    BACKBONE_PADDING = "symmetric"
    CONV_BIAS = False
    BATCH_NORM_EPSILON = 1e-5
    MEAN_PIXEL = 255 * np.array([0.485, 0.456, 0.406])
    STD_PIXEL = 255 * np.array([0.229, 0.224, 0.225])
    # torchvision's ratios are height / width.
    RPN_ANCHOR_RATIOS = [2, 1, 0.5]
    RPN_ANCHOR_ROUNDING = True
    PRE_NMS_LIMIT = 1000
    PRE_NMS_LIMIT_TRAINING = 2000
    POST_NMS_ROIS_TRAINING = 2000
    POST_NMS_ROIS_INFERENCE = 1000
    RPN_MIN_SIZE = 1e-3
    DETECTION_MIN_SIZE = 1e-2
    ROI_ALIGN_ALIGNED = False


class TorchvisionV2Config(TorchvisionConfig):
    """`maskrcnn_resnet50_fpn_v2`: batch norm in FPN and heads, convolutions in the box head."""

    BACKBONE_NORM = FPN_NORM = BOX_HEAD_CONV_NORM = MASK_HEAD_NORM = "batch"
    RPN_CONVS = 2
    BOX_HEAD_CONVS = 4
    BOX_HEAD_FCS = 1


class TorchvisionKeypointConfig(TorchvisionConfig):
    """`keypointrcnn_resnet50_fpn`: persons with 17 keypoints, no masks."""

    NUM_CLASSES = 2
    USE_MASK = False
    USE_KEYPOINTS = True


def config_of(checkpoint: Any, **settings: Any) -> TorchvisionConfig:
    """A config that fits a checkpoint, derived from its keys and shapes.

    Args:
        checkpoint: path or dict, see the module's docstring.
        settings: settings to override, such as IMAGE_MIN_DIM or BATCH_NORM_EPSILON.
    """
    arrays = read(checkpoint)
    values: dict[str, Any] = {
        "NUM_CLASSES": len(arrays["roi_heads.box_predictor.cls_score.bias"]),
    }
    preset = TorchvisionConfig
    if any(key.startswith("roi_heads.keypoint") for key in arrays):
        preset = TorchvisionKeypointConfig
        values["NUM_KEYPOINTS"] = len(arrays["roi_heads.keypoint_predictor.kps_score_lowres.bias"])
    else:
        if "backbone.fpn.inner_blocks.0.1.weight" in arrays:
            preset = TorchvisionV2Config
        values["USE_MASK"] = any(key.startswith("roi_heads.mask") for key in arrays)
    values.update(settings)
    return preset(**values)


# ---- Reading -------------------------------------------------------------------------------------


def is_checkpoint(source: Any) -> bool:
    """Whether `load_weights` treats `source` as torchvision's: a dict, or a path by its suffix."""
    return isinstance(source, Mapping) or os.fspath(source).lower().endswith(SUFFIXES)


def read(source: Any) -> dict[str, np.ndarray]:
    """{key: float array} of a checkpoint, with the keys of current torchvision models.

    Raises:
        FileNotFoundError: no such file.
        ImportError: a `.pth` file without PyTorch.
        ValueError: not a state dict, or a file that can't be read; the message names it.
    """
    arrays = _contents(source)
    name = source
    if isinstance(source, Mapping):
        name = "the dict"
    # Training scripts store the model's state dict in a dict with the optimizer's.
    for key in ("model", "state_dict"):
        if isinstance(arrays, Mapping) and isinstance(arrays.get(key), Mapping):
            arrays = arrays[key]
    if not isinstance(arrays, Mapping):
        raise ValueError(f"A checkpoint is a dict of arrays. Received: {name} with {type(arrays)}")
    state = {}
    for key, value in arrays.items():
        key = str(key).removeprefix("module.")
        if not key.endswith("num_batches_tracked"):
            state[current_key(key)] = value
    if "roi_heads.box_predictor.cls_score.bias" not in state:
        raise ValueError(
            "A checkpoint of a torchvision detection model has the key "
            "roi_heads.box_predictor.cls_score.bias. Received: "
            f"{name} with {files.several(sorted(state))}"
        )
    return {key: _float_array(name, key, value) for key, value in state.items()}


def _contents(source: Any) -> Any:
    """The contents of a dict or a file, as stored."""
    if isinstance(source, Mapping):
        return source
    path = os.fspath(source)
    if not os.path.exists(path):
        raise FileNotFoundError(f"No checkpoint at {path}")
    if not os.path.isfile(path):
        raise files.UnreadableFileError(f"{path} is no file; load_weights takes a file")
    if not os.path.getsize(path):
        raise files.UnreadableFileError(f"{path} is empty (0 bytes)")
    if path.lower().endswith(".npz"):
        return read_npz(path)
    return _read_torch(path)


def read_npz(path: str) -> dict[str, np.ndarray]:
    """The arrays of an `.npz`; pickled objects are rejected, as they could run code.

    Raises:
        mrcnn.files.UnreadableFileError: a ValueError that names the file.
    """
    arrays = {}
    with files.naming_errors(path, "a readable npz file"), zipfile.ZipFile(path) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        if not infos:
            raise files.UnreadableFileError(f"{path} holds no arrays")
        files.check_unpacked_size(path, sum(info.file_size for info in infos))
        for info in infos:
            with archive.open(info) as member:
                arrays[info.filename.removesuffix(".npy")] = _npy_array(path, info, member)
    return arrays


def _npy_array(path, info, member):
    """An array of an archive; its header is compared with its size before memory is allocated."""
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(member)
    else:
        shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(member)
    if dtype.hasobject:
        raise files.UnreadableFileError(
            f"{path} holds pickled objects in {info.filename}, which could run code and are never"
            " loaded"
        )
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or size != info.file_size - member.tell():
        raise files.UnreadableFileError(
            f"{path}: {info.filename} declares {size} bytes and holds"
            f" {info.file_size - member.tell()}"
        )
    order: Literal["C", "F"] = "C"
    if fortran_order:
        order = "F"
    return np.frombuffer(bytearray(member.read()), dtype).reshape(shape, order=order)


def _float_array(name: Any, key: str, value: Any) -> np.ndarray:
    """A PyTorch tensor, or an array, as a float array; ValueError for other dtypes."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if "bfloat16" in str(value.dtype):  # numpy lacks this dtype
            value = value.float()
        array = value.numpy()
    else:
        array = np.asarray(value)
    if array.dtype.kind != "f":
        raise ValueError(
            f"A state dict holds arrays of floats. Received: {key} of type {array.dtype} in {name}"
        )
    return array


def _read_torch(path: Any) -> Mapping:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} is a PyTorch file and PyTorch is not installed: `pip install torch`, or"
            " convert it once where it is: numpy.savez('weights.npz', **{k: v.numpy() for k, v in"
            " torch.load(path, weights_only=True).items()})"
        ) from error
    with files.naming_errors(path, "a readable PyTorch file of arrays alone"):
        return torch.load(path, map_location="cpu", weights_only=True)


def current_key(key: str) -> str:
    """The key in current torchvision models for a key of any version."""
    key = re.sub(r"(fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2", key)
    key = re.sub(r"rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1", key)
    old = re.search(r"mask_head\.mask_fcn(\d)\.", key)
    if old is None:
        return key
    return key.replace(old[0], f"mask_head.{int(old[1]) - 1}.0.")


# ---- Translating ---------------------------------------------------------------------------------

NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}

# Pattern of a module's name in the checkpoint, the layer's name in this package (the fields in
# braces are computed from the numbers in the module's name, see `_layer_of`), and how the module's
# arrays are stored.
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


def translate(
    arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
    """Converts a checkpoint's arrays to this package's names and layout.

    Args:
        arrays: {key: array} of `read`.

    Returns:
        {layer: {weight's name: array}}, and the keys without a corresponding layer.
    """
    layers: dict[str, dict[str, np.ndarray]] = {}
    unknown = []
    channels = 256
    if "backbone.fpn.layer_blocks.0.0.weight" in arrays:
        channels = len(arrays["backbone.fpn.layer_blocks.0.0.weight"])
    for key, array in arrays.items():
        match = _match(key)
        if match is None:
            unknown.append(key)
            continue
        layer, weight, kind = match
        name, converted = _convert(array, weight, kind, channels)
        layers.setdefault(layer, {})[name] = converted
    return layers, unknown


def _match(key: str) -> tuple[str, str, str] | None:
    """(layer's name here, weight's name in the checkpoint, how it is stored); None if unknown."""
    for pattern, layer, kind in MODULES:
        match = pattern.fullmatch(key)
        if match:
            *numbers, weight = match.groups()
            return _layer_of(layer, [int(number) for number in numbers]), weight, kind
    return None


def _layer_of(layer: str, numbers: list[int]) -> str:
    """A layer's name from `MODULES`, its fields filled in from the numbers in a key."""
    if not numbers:
        return layer
    first = numbers[0]
    parts: dict[str, Any] = {"level": first + 2, "next": first + 1, "half": first // 2 + 1}
    parts["second"] = ""  # the first of several layers has no number
    if first:
        parts["second"] = first + 1
    if len(numbers) > 1:
        block = chr(ord("a") + numbers[1])
        parts["stage"] = f"{first + 1}{block}"
    if len(numbers) > 2:
        parts["branch"] = "abc"[numbers[2] - 1]
    return layer.format(**parts)


def _convert(array: np.ndarray, weight: str, kind: str, channels: int) -> tuple[str, np.ndarray]:
    """The weight's name in Keras and the array with axes in Keras's order.

    Args:
        array: as in the checkpoint.
        weight: the weight's name in the checkpoint.
        kind: how the module's arrays are stored, see `MODULES`.
        channels: number of channels of a pooled RoI.
    """
    if kind == "norm":
        return NORM[weight], array
    if kind.endswith("boxes"):
        # torchvision's box deltas are (dx, dy, log dw, log dh), ours (dy, dx, log dh, log dw).
        fours = array.reshape(-1, 4, *array.shape[1:])
        array = fours[:, [1, 0, 3, 2]].reshape(array.shape)
    if weight == "bias":
        return "bias", array
    if kind.startswith("conv") or kind == "deconv":
        return "kernel", array.transpose(2, 3, 1, 0)
    if kind.startswith("fc of"):
        # Here a convolution that covers its whole input; torchvision flattens it as channels, rows,
        # columns.
        side = 1
        if kind == "fc of cells":
            side = math.isqrt(array.shape[1] // channels)
        return "kernel", array.reshape(len(array), -1, side, side).transpose(2, 3, 1, 0)
    return "kernel", array.T
