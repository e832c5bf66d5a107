"""Mask R-CNN for Keras 3 and TensorFlow, with the API of matterport/Mask_RCNN."""

from typing import Any

import numpy

__version__ = "0.14.0"


def _restore_names_of_numpy(np: Any) -> None:
    """Gives numpy the names that imgaug and scripts of 2018 to 2021 ask it for, where it has none.

    imgaug 0.4.0, the last one, is imported with `np.sctypes`, which numpy 2 took out, and runs
    with `np.bool` and `np.complex`, which numpy 1.24 took out. So do masks in matterport's own
    coco.py and nucleus.py (`.astype(np.bool)`), which import this package but not imgaug before;
    that is why the names are there from here on, not from the first augmentation. The others that
    went with numpy 1.24 (`np.int`, `np.float`, `np.object`, `np.str`) are what loaders of that time
    write beside them, in one dtype or another. All were Python's own types under another name
    and are so again; a name that numpy has, such as the `np.bool` of numpy 2, is left alone.

    What numpy 2 renamed (`np.float_`, `np.Inf`) is not here: only scripts that were kept up to
    numpy 1.26 have it, and numpy's error says what to write.

    Args:
        np: the module numpy.
    """
    # hasattr would ask numpy's module-level __getattr__, which warns.
    present = vars(np)
    for python_type in (bool, int, float, complex, object, str):
        if python_type.__name__ not in present:
            setattr(np, python_type.__name__, python_type)
    if "sctypes" not in present:
        np.sctypes = {
            "int": [np.int8, np.int16, np.int32, np.int64],
            "uint": [np.uint8, np.uint16, np.uint32, np.uint64],
            "float": [np.float16, np.float32, np.float64, np.longdouble],
            "complex": [np.complex64, np.complex128, np.clongdouble],
            "others": [bool, object, bytes, str, np.void],
        }


_restore_names_of_numpy(numpy)
