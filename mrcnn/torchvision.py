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
    "translate",
]
