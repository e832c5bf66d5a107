"""The names of `mrcnn.torchvision_weights`, for `from mrcnn import torchvision`."""

from mrcnn.torchvision_weights import (
    MODULES,
    NORM,
    SUFFIXES,
    TorchvisionConfig,
    TorchvisionKeypointConfig,
    TorchvisionV2Config,
    config_of,
    current_key,
    is_checkpoint,
    read,
    read_npz,
    translate,
)

__all__ = [
    "MODULES",
    "NORM",
    "SUFFIXES",
    "TorchvisionConfig",
    "TorchvisionKeypointConfig",
    "TorchvisionV2Config",
    "config_of",
    "current_key",
    "is_checkpoint",
    "read",
    "read_npz",
    "translate",
]
