"""Boxes, anchors, masks, image sizes, datasets, matching and average precision, in numpy.

Boxes are `(y1, x1, y2, x2)` everywhere. Pixel boxes exclude y2 and x2, so that height is y2 - y1;
normalised boxes run from 0 to 1 with the convention of `norm_boxes`. Masks of one image are
`[height, width, instances]`. Public names, arguments and results are those of matterport's
`mrcnn/utils.py`; its faults that are corrected here are listed in `tests/test_utils.py`.

Keras and TensorFlow are imported only inside the two functions that work on tensors.
"""

import contextlib
import itertools
import logging
import math
import numbers
import operator
import os
import random
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from mrcnn import files
from mrcnn.boxes import (  # noqa: F401  names that existing code imports from here
    BoxBlocks,
    apply_box_deltas,
    box_refinement,
    compute_iou,
    compute_overlaps,
    deltas_between,
    denorm_boxes,
    extract_bboxes,
    non_max_suppression,
    norm_boxes,
)
from mrcnn.config import RESIZE_MODES
from mrcnn.files import show_progress  # noqa: F401
from mrcnn.masks import (  # noqa: F401  names that existing code imports from here
    ONE_GO,
    LabelMaps,
    as_dense,
    bilinear_samples,
    compute_overlaps_masks,
    expand_mask,
    minimize_mask,
    mold_mask,
    pad_masks,
    unmold_crop,
    unmold_mask,
    unmold_masks,
)

logger = logging.getLogger(__name__)

# The released COCO weights: ResNet-101, 81 classes.
COCO_MODEL_URL = "https://github.com/matterport/Mask_RCNN/releases/download/v2.0/mask_rcnn_coco.h5"


# ---- Boxes (the arithmetic is in `mrcnn.boxes`) --------------------------------------------------


def box_refinement_graph(box: Any, gt_box: Any) -> Any:
    """`box_refinement` for tensors of any Keras backend."""
    from keras import ops

    return deltas_between(ops.cast(box, "float32"), ops.cast(gt_box, "float32"), ops)


def trim_zeros(x: np.ndarray) -> np.ndarray:
    """Rows of `x` [N, M] that are not all zero: zero rows pad tables of fixed length."""
    x = np.asarray(x)
    return x[(x != 0).any(axis=1)]


# ---- Anchors -------------------------------------------------------------------------------------


def generate_anchors(
    scales: float | Sequence[float],
    ratios: Sequence[float],
    shape: Sequence[int],
    feature_stride: float | Sequence[float],
    anchor_stride: int,
    whole: bool = False,
) -> np.ndarray:
    """Anchors of one level, in pixels of the image.

    Args:
        scales: side of the square anchor in pixels, a number or several.
        ratios: width / height of the anchors, which keep the square's area.
        shape: (height, width) of the feature map.
        feature_stride: pixels between cells of the feature map, a number or (vertical, horizontal).
        anchor_stride: 1 for anchors at each cell, 2 at every second one.
        whole: round half sides to whole pixels, half to even (RPN_ANCHOR_ROUNDING).

    Returns:
        [anchors, (y1, x1, y2, x2)] float64, ordered by row, column, ratio, scale. The first is
        centred on pixel (0, 0), as trained weights expect. Anchors may extend beyond the image.
    """
    root = np.sqrt(np.repeat(np.asarray(ratios, np.float64).ravel(), np.size(scales)))
    side = np.tile(np.asarray(scales, np.float64).ravel(), np.size(ratios))
    half = 0.5 * np.stack([side / root, side * root], axis=-1)  # [A, (h, w)]
    if whole:
        half = np.round(half)
    step_y, step_x = np.broadcast_to(feature_stride, 2)
    y = np.arange(0, shape[0], anchor_stride) * step_y
    x = np.arange(0, shape[1], anchor_stride) * step_x
    grid = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)
    center = grid[:, :, None]  # [rows, columns, 1, 2]
    return np.concatenate([center - half, center + half], axis=-1).reshape(-1, 4)


def generate_pyramid_anchors(
    scales: Sequence,
    ratios: Sequence[float],
    feature_shapes: np.ndarray | Sequence,
    feature_strides: Sequence,
    anchor_stride: int,
    image_shape: Sequence[int] | None = None,
) -> np.ndarray:
    """Anchors of all levels: `generate_anchors` of each level, concatenated.

    Args:
        scales: for each level, a side in pixels or a tuple of several.
        feature_shapes: [levels, (height, width)].
        feature_strides: pixels between cells, one for each level.
        image_shape: (height, width, ...), for RPN_ANCHOR_ROUNDING: half sides are rounded and
            strides are whole quotients of image and map sizes; None for feature_strides.

    Returns:
        [anchors, (y1, x1, y2, x2)] float64, pixels.

    Raises:
        ValueError: different numbers of scales, maps and strides.
    """
    if not len(scales) == len(feature_shapes) == len(feature_strides):
        raise ValueError(
            "Expected as many anchor scales as feature maps and strides. Received: "
            f"{len(scales)} scales, {len(feature_shapes)} maps, {len(feature_strides)} strides"
        )
    whole = image_shape is not None
    anchors = []
    for scale, shape, stride in zip(scales, feature_shapes, feature_strides):
        if image_shape is not None:
            stride = (image_shape[0] // shape[0], image_shape[1] // shape[1])
        anchors.append(generate_anchors(scale, ratios, shape, stride, anchor_stride, whole))
    return np.concatenate(anchors)


# ---- Values of images ----------------------------------------------------------------------------


# Factor by which values may exceed a range, as resampling and sharpening make them; they are
# clipped.
OVERSHOOT = 1.1


def value_range(image: np.ndarray) -> tuple[float, float]:
    """The range of an image's values: those that become 0 and 255.

    The only rule for images that are not uint8. `Dataset.load_image`, `read_image`, detection,
    training, drawing and the writers of pictures and videos all follow it:

    - uint8: 0..255; bool: False..True.
    - Floats up to 2: 0..1 (values above 1, as from resampling and noise, are clipped).
    - Values up to 255 of any dtype: 0..255.
    - Larger values: the fewest of 10, 12, 14, 16 ... bits that hold the largest one. In steps of
      two bits the frames of one camera share a range unless they differ by more than that; to
      ensure it, pass the range: `as_bytes(image, (0, 4095))`, or `Dataset.value_range`.
    - Negative values beyond an overshoot (a quarter of the largest): -1..1 for floats within it;
      otherwise from the smallest value on, with a width of a power of two.
    - Floats and signed integers may exceed a range by a tenth (overshoot); NaN and infinite values
      are ignored.

    Args:
        image: [...] of numbers, without an alpha channel.

    Returns:
        (low, high).

    Raises:
        ValueError: not an array of numbers.
    """
    image = np.asarray(image)
    kind = image.dtype.kind
    if kind == "b":
        return 0.0, 1.0
    if image.dtype == np.uint8:
        return 0.0, 255.0
    if kind not in "uif":
        raise ValueError(f"An image is an array of numbers. Received: dtype {image.dtype}")
    low, high = _finite_limits(image)
    if low < 0 and low < -high / 4:
        if kind == "f" and low >= -OVERSHOOT and high <= OVERSHOOT:
            return -1.0, 1.0
        return low, low + 2.0 ** math.ceil(math.log2(max(high - low, 1e-12) / OVERSHOOT))
    if kind == "f" and 0 < high <= 2:
        return 0.0, 1.0
    slack = OVERSHOOT
    if kind == "u":
        slack = 1.0
    bits = 8
    while high > slack * (2**bits - 1):
        bits += 2
    return 0.0, 2.0**bits - 1


def as_numbers(values: np.ndarray) -> np.ndarray:
    """An array of objects that are numbers, as from a table of pandas, as an array of numbers.

    Others, and arrays with any object that is no number, are returned as they are.
    """
    if values.dtype != object or not all(
        isinstance(value, (numbers.Real, np.bool_)) for value in values.flat
    ):
        return values
    return np.array(values.tolist()).reshape(values.shape)


def _finite_limits(image):
    """The smallest and the largest finite value of an array; 0 and 0 without any."""
    if not image.size:
        return 0.0, 0.0
    low = float(image.min())
    high = float(image.max())
    if math.isfinite(low) and math.isfinite(high):
        return low, high
    finite = np.isfinite(image)
    if not finite.any():
        return 0.0, 0.0
    low = float(image.min(where=finite, initial=np.inf))
    high = float(image.max(where=finite, initial=-np.inf))
    return low, high


def as_bytes(
    image: np.ndarray, limits: tuple[float, float] | None = None, gamma: float = 1.0
) -> np.ndarray:
    """A uint8 copy of an image of any type and range of values.

    uint8 is copied unchanged where no limits are given. Values of 0..255 of another dtype are
    truncated to whole numbers, those of other ranges rounded; values outside the range are clipped,
    NaN becomes 0.

    Args:
        image: [...] of numbers.
        limits: (low, high) that become 0 and 255; None for those of `value_range`.
        gamma: exponent applied to values scaled to 0..1.

    Returns:
        [...] uint8.

    Raises:
        ValueError: limits whose low is not below high.
    """
    image = pixels_of(image)
    if limits is None:
        if image.dtype == np.uint8 and gamma == 1:
            return image.copy()
        limits = value_range(image)
    low, high = limits
    if not high > low:
        raise ValueError(f"A range is (low, high) with low below high. Received: {limits}")
    if image.dtype in (np.uint8, np.uint16):
        # A lookup table avoids floats, which would take four times the image's memory.
        return _bytes_of(np.arange(np.iinfo(image.dtype).max + 1), low, high, gamma)[image]
    image = np.atleast_1d(image)
    out = np.empty(image.shape, np.uint8)
    rows = max(1, 2**20 // max(image[:1].size, 1))  # converted at a time, to save memory
    for start in range(0, len(image), rows):
        out[start : start + rows] = _bytes_of(image[start : start + rows], low, high, gamma)
    return out


def stretched(image: np.ndarray, percentiles: Sequence[float], gamma: float = 1.0) -> np.ndarray:
    """An image with its contrast stretched: two percentiles of its values become 0 and 255.

    All channels share the range, so that colours keep their hue. Values outside are clipped, NaN
    and infinite ones ignored. Where both percentiles are equal, the range is that of `value_range`.

    Args:
        image: [...] of numbers.
        percentiles: (low, high) within 0..100, by numpy's method "inverted_cdf": the smallest
            value that this percentage of the values don't exceed.
        gamma: see `as_bytes`.

    Returns:
        [...] uint8.
    """
    image = np.asarray(image)
    low, high = values_at(image, percentiles)
    if low < high:
        return as_bytes(image, (low, high), gamma)
    return as_bytes(image, gamma=gamma)


def values_at(image: np.ndarray, percentiles: Sequence[float]) -> tuple[float, float]:
    """The values of an image at two percentiles, see `stretched`; 0 and 0 without any values."""
    if image.dtype == np.uint8:
        counts = np.zeros(256, np.int64)
        pixels = image.ravel()
        for start in range(0, len(pixels), 2**22):  # bincount takes 8 bytes a pixel
            counts += np.bincount(pixels[start : start + 2**22], minlength=256)
        ranks = np.ceil(np.asarray(percentiles) / 100 * image.size).clip(1)
        low, high = np.searchsorted(counts.cumsum(), ranks).tolist()
        return low, high
    values = image
    if image.dtype.kind == "f":
        values = image[np.isfinite(image)]
    if not values.size:
        return 0, 0
    low, high = np.percentile(values, percentiles, method="inverted_cdf").tolist()
    return low, high


def _bytes_of(values, low, high, gamma=1.0):
    """`as_bytes` of a part of an image."""
    kind: Any = np.float64
    if values.dtype in (np.float16, np.float32):
        kind = np.float32
    values = values.astype(kind)
    if (low, high) != (0, 255):
        values -= kind(low)
        values *= kind(255 / (high - low))
        if gamma == 1:
            np.rint(values, out=values)
    np.fmax(values, 0, out=values)  # makes NaN 0, too
    np.fmin(values, 255, out=values)
    if gamma != 1:
        values /= 255
        values **= kind(gamma)
        values *= 255
        np.rint(values, out=values)
    return values.astype(np.uint8)


def as_rgb(image: np.ndarray, limits: tuple[float, float] | None = None) -> np.ndarray:
    """A copy of any image for display or writing: [H, W, 3] uint8.

    Args:
        image: [H, W] or [H, W, C]; one or two channels are gray (and alpha), of more channels the
            first three are RGB.
        limits: see `as_bytes`.

    Raises:
        ValueError: not an image, or one whose channels are not its last axis.
    """
    given = image
    image = pixels_of(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or 0 in image.shape:
        received = str(image.shape)
        if image.ndim == 0:  # None, or a path: `read_image` reads one
            received = files.short(given)
        raise ValueError(
            f"An image is [H, W] or [H, W, C] with at least one pixel. Received: {received}"
        )
    if has_channels_first(image.shape):
        raise ValueError(
            f"An image is [H, W, C], the channels last. Received: {image.shape}; "
            "np.moveaxis(image, 0, -1) puts them there"
        )
    if image.shape[2] < 3:
        rgb = np.empty((*image.shape[:2], 3), np.uint8)
        rgb[:] = as_bytes(image[..., :1], limits)
        return rgb
    return as_bytes(image[..., :3], limits)


def has_channels_first(shape: Sequence[int]) -> bool:
    """Whether the shape of an array looks like (C, H, W) instead of (H, W, C)."""
    return len(shape) == 3 and shape[0] in (1, 3, 4) and min(shape[1:]) > 4


# ---- Image files ---------------------------------------------------------------------------------

# Images with more pixels are refused. Reading 300 million pixels takes 2 GB; a small file can claim
# far more.
MAX_PIXELS = 300_000_000

# An image with more than _TRUSTED_PIXELS has at most _PIXELS_PER_BYTE pixels for each byte of its
# file; a header that claims more is damaged. Photographs have far fewer, images of a single colour
# a tenth of it.
_TRUSTED_PIXELS = 50_000_000
_PIXELS_PER_BYTE = 10_000

# Number of pixels that are decoded at a time.
STRIP_PIXELS = 2**22

# The first four bytes of a TIFF or BigTIFF, in either byte order.
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# For each raw mode of 16-bit colours, of which Pillow reads one byte, the mode for the other byte.
_OTHER_BYTE = {
    "LA;16B": "RGBA",  # all four bytes of a pixel, see `_lower_bytes`
    "RGB;16B": "RGB;16L",
    "RGB;16L": "RGB;16B",
    "RGBA;16B": "RGBA;16L",
    "RGBA;16L": "RGBA;16B",
    "RGBX;16B": "RGBX;16L",
    "RGBX;16L": "RGBX;16B",
}

# TIFF's numbers of the compressions of faxes, which programs use for black on white.
_FAX = (2, 3, 4)
# And of those with losses: JPEG's three forms, WebP.
_LOSSY = (6, 7, 34892, 50001)
# Values of 8 bits that compression makes of black are at most this, of white as far below 255.
CHANGED_BY_LOSSES = 16
# Of the pixels that equal their neighbours, but for compression, this share are black or white in a
# picture of two values.
_TWO_VALUES_SHARE = 0.98
# And of the pixels of neither value at most this share have neighbours all equal to them: JPEG's
# compression leaves hardly any; objects of other numbers have more.
_AREAS_SHARE = 0.05
# The operation for each orientation in EXIF data, and the orientations of the inverse operations
# that differ.
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: np.rot90(image),
}
_INVERSE_TURNS = {6: 8, 8: 6}


# Hint in messages where height and width of an image and its masks are swapped.
TURNED_HINT = (
    "They lie on their side: load_image turns a photograph as its camera noted (EXIF), and "
    "skimage.io.imread, with which a loader may have measured it, does not. Give "
    "add_image(..., height=, width=) of the pixels that were annotated, or measure with "
    "mrcnn.utils.read_image"
)


def read_image(
    path: str | os.PathLike,
    rotate: bool = True,
    size: tuple[int, int] | None = None,
    limits: tuple[float, float] | None = None,
    all_bands: bool = False,
) -> np.ndarray:
    """Reads an image file of any format that Pillow, tifffile or OpenCV supports.

    Gray, palette and CMYK images become RGB and transparency is dropped; of several pages or frames
    the first is read, with a warning. Values of 16 bits and floats are scaled to 0..255 by the rule
    of `value_range`.

    Args:
        path: the file.
        rotate: apply the EXIF orientation; False returns the pixels as stored.
        size: (height, width) that its annotations were made for. If this is the size of the stored
            pixels but not of the rotated ones, the image is not rotated.
        limits: (low, high) that become 0 and 255; None for those of `value_range`.
        all_bands: keep all bands of an image of more than four, with its dtype and values, which
            may have units of their own. Otherwise the first three are taken as red, green and
            blue, with a warning.

    Returns:
        [H, W, 3] uint8, RGB.

    Raises:
        OSError, ValueError: there is no such file, it is not a (complete) image, or has more than
            MAX_PIXELS. The message names the file.
    """
    with _naming_image(path):
        return _read_image(path, rotate, size, limits, all_bands)


@contextlib.contextmanager
def _naming_image(path):
    """Converts errors of reading a damaged image into an OSError or ValueError that names it."""
    try:
        yield
    except (FileNotFoundError, MemoryError):
        raise
    except OSError as error:
        raise OSError(_unreadable(path, error)) from error
    except TooManyPixels as error:
        raise TooManyPixels(_unreadable(path, error)) from error
    except Exception as error:  # Pillow and tifffile raise almost anything for a damaged file
        raise ValueError(_unreadable(path, error)) from error


def read_mask(path: str | os.PathLike) -> np.ndarray:
    """Mask [H, W] bool of the pixels that are not black, from a file that `read_image` reads.

    Transparent pixels are False, whatever their colour. In a JPEG, whose compression leaves gray
    pixels around an object, pixels brighter than half of the brightest are True; so in files of
    black and white with such traces that were saved in another format. Gray files of 8 bits, the
    usual masks, are read without conversion to RGB. Of a TIFF in which 0 is white, as tifffile
    writes bool and ImageJ inverted masks, the pixels that are not 0 are True; but what a fax
    encoded is as it looks.

    Raises:
        OSError, ValueError: as `read_image`.
    """
    gray = None
    numbers = None
    lossy = False
    try:
        _check_is_file(path)
        gray, lossy = _with_pillow(path, _gray_values)
    except (OSError, ValueError, TypeError, AttributeError, SyntaxError, EOFError):
        pass  # `read_image` may succeed, or raises the right error
    if gray is None:
        gray, numbers = _gray_and_numbers(path)
    if lossy:
        return gray > max(gray.max(initial=0) / 2, CHANGED_BY_LOSSES)
    if has_traces(gray):
        is_white = black_and_white(gray)
        if is_white is not None:
            return is_white
    if numbers is not None:
        return numbers != 0
    return gray != 0


def _gray_and_numbers(path):
    """The brightest band [H, W] uint8 of an image, and its whole numbers of more than 8 bits.

    In both 0 is what a TIFF stores as 0. Without such numbers, which lose small ones as uint8, the
    second is None.
    """
    with _naming_image(path):
        values = _turned_values(path, True, None, False)
        gray = _as_image(values, path, None, False).max(axis=-1)
    numbers = None
    is_deep = values.ndim == 2 and values.dtype.itemsize > 1
    if is_deep and values.min(initial=0) >= 0 and (values == np.floor(values)).all():
        numbers = values
    if values.dtype.kind not in "bu" or not begins_as_tiff(path):
        return gray, numbers
    bits = _bits_where_zero_is_white(path)
    if bits is None:
        return gray, numbers
    if numbers is not None:
        numbers = 2**bits - 1 - numbers
    return 255 - gray, numbers


def has_traces(values: np.ndarray) -> bool:
    """Whether an image has dark or bright specks, as compression leaves and smoothing not.

    values: [H, W] or [H, W, bands] uint8.
    """
    gray = np.atleast_3d(values)[..., 0]
    darkest = (gray > 0) & (gray <= CHANGED_BY_LOSSES)
    brightest = (gray < 255) & (gray >= 255 - CHANGED_BY_LOSSES)
    if not darkest.any() or not brightest.any():
        return False
    from scipy import ndimage

    least = ndimage.minimum_filter(gray, 3, mode="nearest")
    most = ndimage.maximum_filter(gray, 3, mode="nearest")
    return bool(((gray == most) & darkest).any() and ((gray == least) & brightest).any())


def black_and_white(values: np.ndarray) -> np.ndarray | None:
    """Where a picture of black and white, whose edges compression made gray, is white.

    Args:
        values: [H, W] or [H, W, bands] uint8.

    Returns:
        [H, W] bool; None for a picture with areas of other values, such as the numbers of objects.
    """
    from scipy import ndimage

    bands = np.atleast_3d(values)[..., :3].astype(np.int64)
    if np.ptp(bands, axis=-1).max(initial=0) > 2 * CHANGED_BY_LOSSES:
        return None
    gray = bands[..., 0]
    if not gray.any():
        return np.zeros(gray.shape, bool)
    least = ndimage.minimum_filter(gray, 3, mode="nearest")
    most = ndimage.maximum_filter(gray, 3, mode="nearest")
    is_flat = most - least <= CHANGED_BY_LOSSES
    black = is_flat & (gray <= CHANGED_BY_LOSSES)
    white = is_flat & (gray >= 255 - CHANGED_BY_LOSSES)
    share = np.count_nonzero(black | white) / max(np.count_nonzero(is_flat), 1)
    if not black.any() or not white.any() or share < _TWO_VALUES_SHARE:
        return None
    other = (gray != _most_frequent(gray[black])) & (gray != _most_frequent(gray[white]))
    areas = np.count_nonzero(other & (least == most))
    if areas > _AREAS_SHARE * np.count_nonzero(other):
        return None
    return gray >= 128


def _most_frequent(values):
    return np.bincount(values).argmax()


def shows_zero_white(image: Any) -> bool:
    """Whether a Pillow image is a TIFF that stores white as 0 and is no fax."""
    tags = getattr(image, "tag_v2", {})
    return tags.get(262) == 0 and tags.get(259) not in _FAX


def _bits_where_zero_is_white(path):
    """The bits of a value in a TIFF that stores white as 0 and is no fax; None for another one."""
    tifffile = _tifffile_for(path)
    if tifffile is None:
        return _with_pillow(path, _white_bits_of_pillow)
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            if int(page.photometric) == 0 and int(page.compression) not in _FAX:
                return int(page.bitspersample)
    except Exception:  # any error of tifffile for a damaged file, which Pillow has read
        return _with_pillow(path, _white_bits_of_pillow)
    return None


def _white_bits_of_pillow(image, path):
    """`_bits_where_zero_is_white` of a Pillow image."""
    if not shows_zero_white(image):
        return None
    return int(np.max(image.tag_v2.get(258, 1)))


def _gray_values(image, path):
    """Values [H, W] of a Pillow image, None where `read_image` is needed, and whether it is lossy.

    There are values for images that are not rotated and are gray of up to 8 bits, or transparent.
    """
    lossy = is_lossy(image, path)
    has_alpha = image.mode in ("LA", "RGBA", "PA")
    if image.mode in ("L", "P", "RGB"):
        has_alpha = "transparency" in image.info
    if (image.mode not in ("L", "1") and not has_alpha) or image.format == "TIFF":
        return None, lossy
    if has_alpha and _lower_bytes(image, path) is not None:  # 16 bits
        return None, lossy
    image.load()
    if _orientation(image, path) != 1:
        return None, lossy
    if has_alpha:
        values = np.asarray(image.convert("RGBA"))
        return np.where(values[..., 3] == 0, 0, values[..., :3].max(axis=-1)), lossy
    return np.asarray(image), lossy


def is_lossy(image: Any, path: str | os.PathLike) -> bool:
    """Whether a Pillow image, opened from a path, was compressed with losses."""
    if image.format == "WEBP":
        with open(path, "rb") as file:
            return b"VP8 " in file.read(64 * 1024)  # the name of a lossy picture's chunk
    if image.format == "TIFF":
        return image.tag_v2.get(259) in _LOSSY
    return image.format in ("JPEG", "MPO")


def _unreadable(path, error):
    """Text of the error of an unreadable image, with its name, which Pillow's seldom have."""
    text = str(error) or type(error).__name__
    if not isinstance(path, (str, os.PathLike)) or os.fspath(path) in text:
        return text
    return f"{path} can't be read as an image: {text}"


def _read_image(path, rotate, size, limits, all_bands):
    """`read_image`, with the original errors of the libraries."""
    values = _turned_values(path, rotate, size, all_bands)
    return _as_image(values, path, limits, all_bands)


def _turned_values(path, rotate, size, all_bands):
    """The values of an image file, rotated as EXIF says; see `read_image`."""
    values, orientation = _read_values(path, all_bands)
    stored = values.shape[:2]
    swaps_sides = orientation >= 5
    if size is not None and swaps_sides and stored[0] != stored[1]:
        rotate = rotate and tuple(size) != stored
    if rotate and orientation in _TURNS:
        values = _TURNS[orientation](values)
    return values


def _as_image(values, path, limits, all_bands):
    """The image of a file's values; see `read_image`."""
    if values.ndim == 3 and values.shape[2] > 4:
        if all_bands:
            return np.ascontiguousarray(values)
        _warn_of_bands(values.shape[2], path)
    if values.dtype == np.uint8 and values.shape[2:] == (3,) and limits is None:
        return np.ascontiguousarray(values)
    return np.ascontiguousarray(as_rgb(values, limits))


def check_image_size(image: np.ndarray, size: tuple[int, int], where: str) -> None:
    """Raises a ValueError for an image of another size than its annotations.

    Args:
        image: [H, W, ...].
        size: (height, width) of the annotations.
        where: names the image's file and its annotations in the error.
    """
    received = image.shape[:2]
    if received == tuple(size):
        return
    hint = ""
    if received == tuple(size)[::-1]:
        hint = f". {TURNED_HINT}"
    raise ValueError(
        f"{where} is {size[0]} x {size[1]} pixels there. "
        f"Received: {received[0]} x {received[1]}{hint}"
    )


def image_sizes(path: str | os.PathLike | BinaryIO) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of an image file after rotation and as stored, without decoding pixels.

    They differ where the EXIF orientation swaps height and width.

    Args:
        path: path of the file, or an open file.

    Raises:
        as `read_image`.
    """
    with _naming_image(path):
        return _image_sizes(path)


def _image_sizes(path):
    """`image_sizes`, with the original errors of the libraries."""
    _check_is_file(path)
    layout = None
    tifffile = None
    if begins_as_tiff(path):
        tifffile = _tifffile_for(path)
    if tifffile is not None:
        try:
            with tifffile.TiffFile(path) as file:
                layout = _layout_of_tiff(file)
        except Exception:  # any error of tifffile for a damaged file: Pillow will report it
            layout = None
    if layout is not None:
        stored = layout.size
        _check_pixels(stored[1], stored[0], path)
        orientation = layout.orientation
    else:
        stored, orientation = _with_pillow(path, _stored_size)
    if orientation >= 5:
        return stored[::-1], stored
    return stored, stored


def _stored_size(image, path):
    """(height, width) of a Pillow image as stored, and its orientation, 1 to 8."""
    width, height = image.size
    orientation = _orientation(image, path)
    if image.format == "TIFF" and orientation >= 5:
        return (width, height), orientation  # Pillow has rotated it
    return (height, width), orientation


def _read_values(path, all_bands=False):
    """The values of an image file as stored, and its orientation, 1 to 8.

    Pixels without data are black, but for images of more than four bands with `all_bands`.

    Returns:
        [H, W], [H, W, 3] or [H, W, bands], of any dtype.
    """
    _check_is_file(path)
    if isinstance(path, (str, os.PathLike)) and begins_as_tiff(path):
        values, orientation = _read_tiff(path, all_bands)
        if values is not None:
            return values, orientation
    return _with_pillow(path, _stored_values)


def fits_rgb(path: str | os.PathLike | BinaryIO) -> bool:
    """Whether `read_image` keeps all bands and bits of an image file.

    Args:
        path: path of the file, or an open file.

    Returns:
        False for values of more than 8 bits and for more than four bands (a fourth one is taken as
        transparency).

    Raises:
        as `read_image`.
    """
    if str(path).lower().endswith((".jpg", ".jpeg")):
        return True  # without decoding it
    with _naming_image(path):
        values, _ = _read_values(path)
    return values.dtype in (np.uint8, bool) and (values.ndim == 2 or values.shape[2] <= 4)


def _check_is_file(path):
    """Raises a ValueError for a path that is not a file: reading a pipe would block."""
    if isinstance(path, (str, os.PathLike)) and os.path.exists(path) and not os.path.isfile(path):
        raise ValueError("expected a file. Received: a folder, a pipe or a device")


_PAGES_WARNED: set[str] = set()


def warn_of_pages(count: int, unit: str, path: Any) -> None:
    """Warns, once for "pages" and "frames", that only the first image of a file is read."""
    if count < 2 or unit in _PAGES_WARNED:
        return
    _PAGES_WARNED.add(unit)
    if not isinstance(path, (str, os.PathLike)):
        path = "an image"  # read from bytes
    logger.warning("%s has %d %s: of such files the first is read", path, count, unit)


_BANDS_WARNED: set[int] = set()


def _warn_of_bands(count, path):
    """Warns, once for each number of bands, that the first three are read as RGB."""
    if count in _BANDS_WARNED:
        return
    _BANDS_WARNED.add(count)
    logger.warning(
        "%s has %d bands: of such images the first three are taken for red, green and blue",
        path,
        count,
    )


def read_pillow(image: Any) -> np.ndarray:
    """The pixels [H, W, 3] uint8 of a Pillow image of any mode, as from `read_image`."""
    return as_rgb(_values_of(image))


# Modes of Pillow's images whose values are those of pixels: not places in a palette, other colours.
_MODES_OF_VALUES = ("1", "L", "RGB", "RGBA", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def pixels_of(image: Any) -> np.ndarray:
    """An image as an array [H, W] or [H, W, C]: arrays as they are, Pillow's images by their mode.

    Of a Pillow image with a palette, or in other colours such as CMYK, RGB is returned: as an array
    it would be places in the palette.
    """
    if hasattr(image, "getbands") and image.mode not in _MODES_OF_VALUES:
        return np.array(_as_mode_rgb(image))
    return np.asarray(image)


class TooManyPixels(ValueError):
    """An image file whose header claims more than MAX_PIXELS."""


def _check_pixels(width, height, path):
    """Raises a ValueError for an image above MAX_PIXELS, or larger than its file can hold."""
    if isinstance(path, (str, os.PathLike)):
        stored = os.path.getsize(path)
        if width * height > max(_TRUSTED_PIXELS, _PIXELS_PER_BYTE * stored):
            raise ValueError(
                f"expected {width} x {height} pixels, as the file claims to have. Received:"
                f" {stored} bytes, which can't hold them: it is damaged, or made to fill the memory"
            )
    if width * height > MAX_PIXELS:
        raise TooManyPixels(
            f"expected at most {MAX_PIXELS:,} pixels (mrcnn.utils.MAX_PIXELS). "
            f"Received: {width} x {height}"
        )


def begins_as_tiff(path: str | os.PathLike | BinaryIO) -> bool:
    """Whether a file, given by its path or open, has the signature of a TIFF."""
    if isinstance(path, (str, os.PathLike)):
        with open(path, "rb") as file:
            return file.read(4) in _TIFF_SIGNATURES
    path.seek(0)
    signature = path.read(4)
    path.seek(0)
    return signature in _TIFF_SIGNATURES


class _Tiff(NamedTuple):
    """The image in a TIFF that Pillow can't read, truncates to 8 bits or takes for several pages.

    Attributes:
        source: tifffile's page or series of pages.
        axis: axis of the bands in it, 0 or -1; None without one.
        size: (height, width) as stored.
        orientation: 1 to 8.
        white_is_zero: the value of black where values are inverted (MINISWHITE); otherwise None.
        nodata: see `nodata_of`.
    """

    source: Any
    axis: int | None
    size: tuple[int, int]
    orientation: int
    white_is_zero: int | None
    nodata: Any


def _layout_of_tiff(file):
    """The `_Tiff` of an open file; None where Pillow reads it without loss."""
    page = file.pages[0]
    kind = getattr(page.photometric, "name", "")
    bits = page.bitspersample
    source = page
    channels = []
    if len(file.pages) > 1:
        channels = channels_of_stack(file.series[0])
    if len(file.pages) > 1 and pages_are_bands(file.series[0]):
        source = file.series[0]
    elif channels and page.samplesperpixel == 1:
        source = _Channels([file.series[0].pages[number] for number in channels])
    elif not _is_for_tifffile(kind, bits, page.samplesperpixel) and page.dtype != np.int8:
        return None  # Pillow takes int8 for uint8
    axis = _axis_of_bands(source)
    size = source.shape[:2]
    if axis == 0:
        size = source.shape[1:]
    orientation = int(page.tags.valueof("Orientation", 1))
    white_is_zero = None
    if kind == "MINISWHITE":
        white_is_zero = 2**bits - 1
    return _Tiff(source, axis, tuple(size), orientation, white_is_zero, nodata_of(page))


def nodata_of(page: Any) -> Any:
    """The value of pixels without data in a page of tifffile, as GDAL writes it; None for none.

    None also where it is NaN, which `value_range` leaves out anyway, and for bytes, all of whose
    values have their place in 0..255.
    """
    text = page.tags.valueof(42113)
    is_known = text is not None and page.dtype is not None
    if not is_known or page.dtype.kind not in "iuf" or page.dtype.itemsize < 2:
        return None
    try:
        number = float(str(text).strip("\0 "))
    except ValueError:
        return None
    if page.dtype.kind == "f":
        with np.errstate(over="ignore"):
            value = np.array(number).astype(page.dtype)[()]
        if np.isnan(value):
            return None
        return value
    limits = np.iinfo(page.dtype)
    if not number.is_integer() or not limits.min <= number <= limits.max:
        return None
    return page.dtype.type(int(number))


def _with_black_nodata(values, nodata):
    """Values whose pixels without data are the darkest, so that they have no part in the range."""
    missing = values == nodata
    if not missing.any():
        return values
    kept = values[~missing]
    darkest = 0
    if kept.size:
        darkest = min(0, _finite_limits(kept)[0])
    return np.where(missing, values.dtype.type(darkest), values)


def _read_tiff(path, all_bands):
    """Reads a TIFF that is not left to Pillow, see `_layout_of_tiff`.

    Returns:
        values [H, W] or [H, W, bands] as stored, and the orientation; (None, 1) for a file that is
        left to Pillow or can't be read.
    """
    tifffile = _tifffile_for(path)
    if tifffile is None:
        return None, 1
    values = None
    try:
        with tifffile.TiffFile(path) as file:
            layout = _layout_of_tiff(file)
            warn_of_pages(_images_in_tiff(file, layout), "pages", path)
            if layout is None:
                return None, 1
            if math.prod(layout.size) <= MAX_PIXELS:
                values = _values_of_tiff(layout, path)
    except Exception:  # any error of tifffile for a damaged file: Pillow will report it
        return None, 1
    height, width = layout.size
    _check_pixels(width, height, path)
    if values is None or values.shape[:2] != layout.size:
        return None, 1
    keeps_values = all_bands and values.ndim == 3 and values.shape[2] > 4
    if layout.nodata is not None and not keeps_values:
        values = _with_black_nodata(values, layout.nodata)
    if layout.white_is_zero is not None and values.dtype.kind == "u":
        values = layout.white_is_zero - values
    return values, layout.orientation


def _images_in_tiff(file, layout):
    """Number of images in an open TIFF; layout: `_layout_of_tiff` of it."""
    of_one = 1
    if (
        layout is not None
        and layout.source is file.series[0]
        or layout is not None
        and isinstance(layout.source, _Channels)
    ):
        of_one = len(layout.source.pages)
    return images_in_tiff(file, of_one)


def images_in_tiff(file: Any, of_one: int) -> int:
    """Number of images of the first one's size in an open tifffile.TiffFile: pages, z, time.

    Args:
        of_one: number of pages that make up one image, as its bands.
    """
    if len(file.pages) < 2:
        return 1
    first = file.series[0]
    count = 0
    for series in file.series:
        if series.shape == first.shape and series.dtype == first.dtype:
            count += len(series.pages)
    return count // of_one


def _tifffile_for(path):
    """The module tifffile; None where it isn't installed and Pillow reads this TIFF without loss.

    Raises:
        ValueError: Pillow would lose bits, bands or pages.
    """
    try:
        import tifffile
    except ImportError as error:
        if not _with_pillow(path, _is_plain_tiff):
            raise ValueError(
                f"{path} is a TIFF that tifffile reads: pip install tifffile"
            ) from error
        return None
    return tifffile


def _is_plain_tiff(image, path):
    """Whether a Pillow image is a TIFF of one page that `_is_for_tifffile` leaves to Pillow."""
    tags = image.tag_v2
    kind = _PHOTOMETRIC.get(tags.get(262), "")
    bits = max(np.atleast_1d(tags.get(258, 1)))
    return image.n_frames == 1 and not _is_for_tifffile(kind, bits, tags.get(277, 1))


# tifffile's names of the values of TIFF tag 262.
_PHOTOMETRIC = {0: "MINISWHITE", 1: "MINISBLACK", 2: "RGB", 32844: "LOGL", 32845: "LOGLUV"}


def _is_for_tifffile(kind, bits, bands):
    """Whether Pillow can't read a TIFF of this photometric kind, or only with loss of bits."""
    if kind in ("MINISBLACK", "MINISWHITE"):
        return bits > 8 or bands > 1
    if kind == "RGB":
        return bits > 8 or bands > 4
    return kind in ("LOGL", "LOGLUV")


def pages_are_bands(series: Any) -> bool:
    """Whether the pages of a TIFF are the bands or rows of one image, instead of several images.

    They are where the file declares it, and where an array [H, W, bands] or [3, H, W] was written
    without naming its axes.
    """
    if series.ndim != 3:
        return False
    if series.axes == "CYX":
        return True
    if series.axes != "QYX":
        return False
    first, middle, last = series.shape
    return first in (3, 4) or last <= min(16, first, middle)


def channels_of_stack(series: Any) -> list[int]:
    """Indices of the pages of a TIFF's series that are the channels of its first image.

    In a stack, such as a microscope's over z and time, this is the first image with all its
    channels. Empty for a series without channels, or with too few pages for them.
    """
    if "C" not in series.axes[:-2] or series.axes[-2:] != "YX":
        return []
    axis = series.axes.index("C")
    step = math.prod(series.shape[axis + 1 : -2])  # number of pages from a channel to the next
    numbers = [number * step for number in range(series.shape[axis])]
    if len(numbers) < 2 or numbers[-1] >= len(series.pages):
        return []
    return numbers


class _Channels:
    """Pages of a TIFF as the bands of one image, with the interface of a tifffile series."""

    def __init__(self, pages):
        self.pages = pages
        self.axes = "CYX"
        self.shape = (len(pages), *pages[0].shape)
        self.ndim = 3

    def asarray(self):
        """[bands, H, W]."""
        return np.stack([page.asarray() for page in self.pages])


def _axis_of_bands(source):
    """Axis of the bands in a page or a series of pages, 0 or -1; None for a single band."""
    if source.ndim == 2:
        return None
    if source.axes[-1] == "S" or (source.axes[0] == "Q" and source.shape[0] not in (3, 4)):
        return -1
    return 0


def _values_of_tiff(layout, path):
    """The values [H, W] or [H, W, bands] of a `_Tiff`; None if it can't be read."""
    try:
        values = layout.source.asarray()
    except Exception:  # a compression that tifffile reads only with imagecodecs
        return _read_with_opencv(path)
    if layout.axis == 0:
        values = np.moveaxis(values, 0, -1)
        if layout.source.axes == "CYX":
            return with_third_channel(values)
    return values


def with_third_channel(values: np.ndarray) -> np.ndarray:
    """Values [H, W, 2] of two channels without alpha as red and green; others as they are."""
    if values.shape[-1] != 2:
        return values
    return np.concatenate([values, np.zeros_like(values[..., :1])], axis=-1)


def _read_with_opencv(path):
    """An image's values as OpenCV reads them, RGB; None without it, or if it can't read them."""
    try:
        import cv2
    except ImportError:
        return None
    try:
        values = cv2.imread(os.fspath(path), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    if values is not None and values.ndim == 3 and values.shape[2] in (3, 4):
        values = values[..., [2, 1, 0]]
    return values


def _with_pillow(path, function):
    """function(image, path) for a Pillow image that is not decoded yet."""
    from PIL import Image

    try:
        with _opened(path) as image:
            return function(image, path)
    except Image.DecompressionBombError:
        pass
    except (OSError, ValueError, SyntaxError, AttributeError, TypeError):
        raise
    except Exception as error:  # Pillow raises errors of any type for damaged files
        raise ValueError(f"{type(error).__name__}: {error}") from error
    # Pillow's own limit is lower. It is global, and other threads may be reading.
    with _PILLOW_LIMIT:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = MAX_PIXELS
        try:
            with _opened(path) as image:
                return function(image, path)
        except Image.DecompressionBombError as error:
            raise TooManyPixels(
                f"expected at most {MAX_PIXELS:,} pixels (mrcnn.utils.MAX_PIXELS). "
                f"Received: {error}"
            ) from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit


_PILLOW_LIMIT = threading.RLock()
_PILLOW = re.compile(r"PIL\.")


@contextlib.contextmanager
def _opened(path):
    """A Pillow image that is not decoded yet, without warnings, of at most MAX_PIXELS."""
    _ignore_warnings_of_pillow()
    with _open_of_any_kind(path) as image:
        _check_pixels(image.width, image.height, path)
        if image.format == "TIFF":
            tags = image.tag_v2
            check_is_no_preview(tags.get(254), 330 in tags, image.width, image.height)
        yield image


def check_is_no_preview(kind: int | None, has_others: bool, width: int, height: int) -> None:
    """ValueError for the first image of a camera's raw file (DNG, NEF, ARW), a preview.

    Args:
        kind: its tag NewSubfileType, whose first bit says that it is a smaller version.
        has_others: whether it has the tag SubIFDs, under which the image itself lies.
        width, height: its sides.
    """
    if has_others and int(kind or 0) & 1:
        raise ValueError(f"It is {files.RAW}. Received: its preview of {height} x {width} pixels")


def _open_of_any_kind(path):
    """Opens a file with Pillow; HEIC, the format of iPhones, where pillow-heif is installed."""
    from PIL import Image

    try:
        return Image.open(path)
    except Image.UnidentifiedImageError as error:
        kind = ""
        if isinstance(path, (str, os.PathLike)):
            kind = files.what_it_is(path)
        if kind.startswith("a HEIC"):
            with contextlib.suppress(ImportError):
                import pillow_heif

                pillow_heif.register_heif_opener()
                return Image.open(path)
        if not kind:
            raise
        if kind in ("a JPEG", "a PNG"):
            kind += " whose beginning is cut off or damaged"
        raise Image.UnidentifiedImageError(f"{error}. It is {kind}") from error


def _ignore_warnings_of_pillow():
    """Silences Pillow's warnings of large images and invalid metadata, which can still be read.

    The filters are permanent, since `warnings.catch_warnings` is not thread-safe: threads that read
    would restore each other's filters.
    """
    from PIL import Image

    required = [("ignore", None, Image.DecompressionBombWarning), ("ignore", None, UserWarning)]
    present = [entry[:3] for entry in warnings.filters if entry[3] is None or entry[3] == _PILLOW]
    if all(entry in present for entry in required):
        return
    with _PILLOW_LIMIT:
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


# Pillow's names of the formats with animations.
ANIMATED = ("GIF", "PNG", "WEBP")


def animation_info(path: str | os.PathLike) -> tuple[int, float] | None:
    """Number of frames of an animated GIF, WebP or PNG, and their average rate.

    Returns:
        (frames, frames per second); None for a file of one frame or another format.

    Raises:
        as `read_image`.
    """
    with _naming_image(path):
        return _with_pillow(path, _frames_and_rate)


def _frames_and_rate(image, path):
    """`animation_info` of a Pillow image."""
    if image.format not in ANIMATED:
        return None
    milliseconds = 0.0
    frames = 0
    with contextlib.suppress(Exception):  # any error of Pillow at the end
        while image.is_animated:
            image.seek(frames)
            if image.format == "WEBP":  # whose duration is known once decoded
                image.load()
            frames += 1
            # 100 ms without a duration, as in browsers.
            milliseconds += image.info.get("duration") or 100
    if frames < 2:
        return None
    return frames, 1000 * frames / milliseconds


def animation_frames(path: str | os.PathLike) -> Iterator[np.ndarray]:
    """Yields the frames of an animated GIF, WebP or PNG, [H, W, 3] uint8 RGB.

    Raises:
        as `read_image`, for the first frame. A later one that can't be read ends the iteration.
    """
    with _naming_image(path), _opened(path) as image:
        for number in itertools.count():
            try:
                image.seek(number)
                values = np.array(_as_mode_rgb(image))
            except Exception:  # any error of Pillow, also at the end
                if not number:
                    raise
                return
            yield values


def _stored_values(image, path):
    """Values of a Pillow image as stored, and its orientation, 1 to 8."""
    if image.format in ANIMATED and "frames" not in _PAGES_WARNED:
        animation = _frames_and_rate(image, path)
        if animation is not None:
            image.seek(0)
            warn_of_pages(animation[0], "frames", path)
    lower = _lower_bytes(image, path)
    is_tiff = image.format == "TIFF"
    if is_tiff:
        orientation = _orientation(image, path)  # loading rotates the image and drops the tag
        image.load()
    else:
        image.load()
        orientation = _orientation(image, path)
    values = _values_of(image)
    if lower is not None:
        values = values.astype(np.uint16) * 256 + lower
    if is_tiff and orientation in _TURNS:
        values = _TURNS[_INVERSE_TURNS.get(orientation, orientation)](values)
    return values, orientation


def _orientation(image, path):
    """The orientation in the EXIF data, 1 to 8; 1 where it can't be read."""
    try:
        orientation = int(image.getexif().get(0x0112, 1))
    except Exception as error:  # any error of Pillow for damaged EXIF data
        logger.warning("%s: the camera's rotation can't be read and is left out: %s", path, error)
        return 1
    if orientation in _TURNS:
        return orientation
    return 1


def _lower_bytes(image, path):
    """The lower bytes of 16-bit colours, of which Pillow reads only the higher bytes.

    Returns:
        [H, W, 3] or [H, W, 1] uint8; None where Pillow reads all bits of the values.
    """
    from PIL import Image

    if not isinstance(path, (str, os.PathLike)):
        return None
    tiles = []
    for tile in image.tile:
        raw_mode = tile.args
        if isinstance(tile.args, tuple):
            raw_mode = tile.args[0]
        if str(raw_mode).endswith(";16N"):
            raw_mode = raw_mode[:-1] + sys.byteorder[0].upper()
        args: Any = _OTHER_BYTE.get(raw_mode)
        if args is None:
            return None
        if isinstance(tile.args, tuple):
            args = (args, *tile.args[1:])
        tiles.append(tile._replace(args=args))
    if not tiles:
        return None
    is_gray = tiles[0].args == "RGBA"
    with Image.open(path) as reopened:
        reopened.tile = tiles
        try:
            reopened.load()
        except ValueError:  # a raw mode that this version of Pillow lacks
            return None
        if is_gray:
            return np.asarray(reopened)[..., 1:2]
        return _values_of(reopened)


def _values_of(image):
    """A Pillow image as [H, W, 3] uint8, or [H, W] of its own dtype with more than 8 bits."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return np.asarray(image)
    width, height = image.size
    rows = max(1, STRIP_PIXELS // width)
    if height <= rows:
        return np.array(_as_mode_rgb(image))
    # In strips, to avoid copies of a huge photograph.
    values = np.empty((height, width, 3), np.uint8)
    for start in range(0, height, rows):
        strip = image.crop((0, start, width, min(start + rows, height)))
        values[start : start + rows] = _as_mode_rgb(strip)
    return values


def _as_mode_rgb(image):
    """A Pillow image in mode RGB, converted where necessary."""
    if image.mode == "RGB":
        return image
    return image.convert("RGB")


# ---- Datasets ------------------------------------------------------------------------------------


class _Missing:
    """Placeholder of an instance attribute of a dataset that is not set yet.

    Reading it raises an AttributeError with the reason; the instance's own attribute hides it.
    """

    def __init__(self, reason: str):
        self.reason = reason

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        reason = self.reason
        if instance is None:
            reason = f"belongs to an instance: call {owner.__name__}() first"
        raise AttributeError(f"{owner.__name__}.{self.name} {reason}")


_PREPARED = "is there after prepare(): call it after the last add_class or add_image"
_CONSTRUCTED = "is missing: its __init__ calls super().__init__() first"


class _KeptValues:
    """A cache of values that are valid while their sources are unchanged.

    A value is kept the second time that it is put, so that values used once take no memory. Once
    the limit is reached, nothing is added and nothing evicted: in passes over a dataset, evicted
    values would be the next ones needed.
    """

    def __init__(self):
        self._entries: dict[Any, tuple[Any, Any]] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple:
        return _KeptValues, ()  # copies of a dataset, also in other processes, start empty

    def get(self, key: Any, stamp: Any) -> Any:
        """The value of a key, if it was put with an equal stamp; otherwise None."""
        stored_stamp, value = self._entries.get(key, (None, None))
        if stored_stamp == stamp:
            return value
        return None

    def put(self, key: Any, stamp: Any, value: Any, limit: float) -> None:
        """Keeps a value with `nbytes` the second time, if `limit` bytes are not exceeded."""
        with self._lock:
            stored_stamp, stored = self._entries.get(key, (None, None))
            if stored is not None:
                self._bytes -= stored.nbytes
            kept = None
            if stored_stamp == stamp and self._bytes + value.nbytes <= limit:
                kept = value
                self._bytes += value.nbytes
            self._entries[key] = (stamp, kept)


# A file younger than this may be written again without a change of its times.
_YOUNG_SECONDS = 2


def _stamp(path):
    """Inode, size and times of a file, which change with it; None for one just written."""
    status = os.stat(path)
    written = max(status.st_mtime_ns, status.st_ctime_ns)
    if time.time_ns() - written < _YOUNG_SECONDS * 10**9:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class Dataset:
    """A registry of classes and images.

    Subclass it: call `add_class` and `add_image` while loading, override `load_mask` (and
    `load_image` where images are not files), then call `prepare`.

        class CatsAndDogs(Dataset):
            def load_cats(self):
                self.add_class("pets", 1, "cat")
                self.add_image("pets", image_id="7", path="7.jpg")

            def load_mask(self, image_id):
                ...

    Several sources can share a dataset. A class belongs to the source that it was added for, and
    the class loss leaves out the classes of other sources.

    Attributes:
        image_info: a dict for each image: id, source, path, and other arguments of `add_image`.
        class_info: a dict for each class: source, id (the source's own), name. Background is first.
        After `prepare`:
        num_classes, class_ids [num_classes], class_names: from `class_info`, names up to a comma.
        num_images, image_ids [num_images]: from `image_info`.
        class_from_source_map, image_from_source_map: {"source.id": index}.
        sources: names, "" for background first.
        source_class_ids: {source: class ids}, background in each.
        value_range: (darkest, brightest) value of image files of more than 8 bits, such as (0,
            4095) for a camera of 12 bits; None applies the rule of `mrcnn.utils.value_range` to
            each image. `add_image(..., value_range=)` sets it for one image.
        training_order: image ids in the order in which training takes them, the same in each epoch;
            None for a random order of all, another one in each epoch.
        cache_megabytes: size of the cache of images and masks that are read repeatedly and whose
            files are unchanged, see `cached_read`; 0 for none.
    """

    value_range: tuple[float, float] | None = None
    training_order: Sequence[int] | np.ndarray | None = None
    cache_megabytes: float = 512

    image_info: Any = _Missing(_CONSTRUCTED)
    class_info: Any = _Missing(_CONSTRUCTED)
    source_class_ids: Any = _Missing(_CONSTRUCTED)
    _image_ids: Any = _Missing(_CONSTRUCTED)

    num_classes: Any = _Missing(_PREPARED)
    class_ids: Any = _Missing(_PREPARED)
    class_names: Any = _Missing(_PREPARED)
    num_images: Any = _Missing(_PREPARED)
    class_from_source_map: Any = _Missing(_PREPARED)
    image_from_source_map: Any = _Missing(_PREPARED)
    sources: Any = _Missing(_PREPARED)

    _warned_no_masks = False

    def __init__(self, class_map: Any = None):
        self._image_ids = np.arange(0)
        self.image_info = []
        self.class_info = [{"source": "", "id": 0, "name": "BG"}]
        self.source_class_ids = {}

    def __repr__(self) -> str:
        # Works also where a subclass's __init__ doesn't call this class's.
        images = len(self.__dict__.get("image_info", ()))
        classes = len(self.__dict__.get("class_info", ())[1:])
        return f"{type(self).__name__}({images} images, {classes} classes)"

    def add_class(self, source: str, class_id: Any, class_name: str) -> None:
        """Registers a class.

        Args:
            source: name of the data source, without a dot: dots separate source and id.
            class_id: its id in the source; the model's id is its index in `class_info`, see
                `map_source_class_id`.
            class_name: its name for display. Adding the same class again changes nothing.

        Raises:
            ValueError: a source or a name that is not a string, a dot in the source, an id that is
                neither a number nor a string, or an existing id with another name.
        Warns:
            UserWarning: a name that the source has under another id, or a background class, which
                each dataset has already, as class 0.
        """
        if not isinstance(source, str) or "." in source:
            raise ValueError(f"A source's name has no dot and is text. Received: {source!r}")
        if not isinstance(class_name, str):
            raise ValueError(
                "The arguments are add_class(source, class_id, class_name), the name a text."
                f" Received: {source!r}, {class_id!r}, {class_name!r}"
            )
        is_number_or_text = np.isscalar(class_id)
        if not is_number_or_text:
            raise ValueError(f"A class's id is a number or a text. Received: {class_id!r}")
        for info in self.class_info:
            if info["source"] != source:
                continue
            # Classes are looked up as "source.id": 1 and "1" are the same.
            if info["id"] == class_id or str(info["id"]) == str(class_id):
                if info["name"] != class_name:
                    raise ValueError(
                        f"Class {class_id} of source {source!r} is already named "
                        f"{info['name']!r}. Received: {class_name!r}"
                    )
                return
            if info["name"] == class_name:
                warnings.warn(
                    f"Source {source!r} has {class_name!r} twice, as class {info['id']} and as"
                    f" {class_id}: they are two classes of the model",
                    stacklevel=2,
                )
        if str(class_id) == "0" and class_name.strip("_").lower() in ("bg", "background"):
            warnings.warn(
                f"Each dataset has its background already: class 0 of source {source!r},"
                f" {class_name!r}, is class {len(self.class_info)} of the model",
                stacklevel=2,
            )
        self.class_info.append({"source": source, "id": class_id, "name": class_name})

    def add_image(
        self, source: str, image_id: Any, path: str | os.PathLike | None, **kwargs: Any
    ) -> None:
        """Registers an image.

        Args:
            source: name of the data source.
            image_id: its id in the source, of any type; the other methods' id is its index in
                `image_info`.
            path: path of the file, or None if `load_image` needs none.
            **kwargs: further entries of its dict in `image_info`, for use by `load_mask`. Two have
                a meaning in training (not in matterport): `mixing_group`, see COPY_PASTE in
                config.py; `repeat_factor`, how often an epoch has the image, 1 where it is absent;
                more for kinds of images that are rare (as LVIS, arXiv 1908.03195, repeats images
                of rare classes).
        """
        self.image_info.append({"id": image_id, "source": source, "path": path, **kwargs})

    def image_reference(self, image_id: int) -> Any:
        """Reference of the image: its path, or in an override a link or an id of the source.

        Raises:
            ValueError: an image_id that is not an index of `image_info`.
        """
        return self._info(image_id).get("path") or ""

    def _info(self, image_id: Any) -> dict[str, Any]:
        """`image_info` of an image; raises a ValueError for an id that is not in `image_ids`."""
        try:
            return self.image_info[operator.index(image_id)]
        except (TypeError, IndexError):
            raise ValueError(
                f"image_id is a whole number below {len(self.image_info)}, the place in image_info,"
                f" and not the id that add_image was given. Received: {image_id!r}"
            ) from None

    def prepare(self, class_map: Any = None) -> None:
        """Numbers classes and images; call it after the last `add_class` or `add_image`."""
        self.num_classes = len(self.class_info)
        self.class_ids = np.arange(self.num_classes)
        self.class_names = [info["name"].split(",")[0] for info in self.class_info]
        self.num_images = len(self.image_info)
        self._image_ids = np.arange(self.num_images)
        self.class_from_source_map = _index_by_source(self.class_info)
        self.image_from_source_map = _index_by_source(self.image_info)
        self.sources = list(dict.fromkeys(info["source"] for info in self.class_info))
        self.source_class_ids = {source: [0] for source in self.sources}
        for class_id, info in enumerate(self.class_info[1:], start=1):
            self.source_class_ids[info["source"]].append(class_id)

    def map_source_class_id(self, source_class_id: str) -> int:
        """The model's class id of "source.id", such as "coco.17".

        Raises:
            KeyError: no such class.
        """
        try:
            return self.class_from_source_map[source_class_id]
        except (KeyError, TypeError):
            allowed = ", ".join(list(self.class_from_source_map)[1:21])
            raise KeyError(
                f"A class is asked for as 'source.id', one of {allowed or 'none'}."
                f" Received: {source_class_id!r}"
            ) from None

    def get_source_class_id(self, class_id: int, source: str) -> Any:
        """The source's own id of the model's class.

        Raises:
            ValueError: no such class, or one of another source.
        """
        try:
            number = operator.index(class_id)
            if number < 0:
                raise IndexError
            info = self.class_info[number]
        except (TypeError, IndexError):
            raise ValueError(
                f"class_id is the model's number of a class, below {len(self.class_info)}, of a"
                f" crowd without its sign. Received: {class_id!r}"
            ) from None
        if info["source"] != source:
            raise ValueError(
                f"Class {class_id} ({info['name']}) belongs to source {info['source']!r}. "
                f"Received: {source!r}"
            )
        return info["id"]

    @property
    def image_ids(self) -> np.ndarray:
        """Ids that the other methods take, [num_images] int; empty before `prepare`."""
        if len(self._image_ids) == 0 and self.image_info:
            warnings.warn(
                f"{type(self).__name__}.image_ids is empty although there are"
                f" {len(self.image_info)} images: call prepare() first",
                stacklevel=2,
            )
        return self._image_ids

    def source_image_link(self, image_id: int) -> Any:
        """The image's path or URL."""
        return self._info(image_id).get("path")

    def load_image(self, image_id: int) -> np.ndarray:
        """Reads an image from its file.

        Gray, palette and CMYK images become RGB and transparency is dropped. Values of 16 bits and
        floats are scaled to 0..255, from `value_range` in the image's info, else from
        `Dataset.value_range`, else from the range of `mrcnn.utils.value_range`.

        The EXIF orientation is applied, unless `height` and `width` in the image's info are those
        of the stored pixels and not of the rotated ones: then the annotations were made with a
        program that ignores it, such as `skimage.io.imread`.

        Returns:
            [H, W, 3] uint8, RGB; for more than four bands [H, W, bands] as stored in the file,
            since they may have units of their own.

        Raises:
            ValueError: the file can't be read as an image, or the image has no path.
            FileNotFoundError: there is no such file.
        """
        info = self._info(image_id)
        path = info.get("path")
        if path is None:
            raise ValueError(
                f"Image {image_id} has the path None: give add_image one, or override load_image"
                f" in {type(self).__name__}"
            )
        limits = info.get("value_range")
        if limits is None:
            limits = self.value_range
        size = _size_in(info)

        def read() -> np.ndarray:
            return _read_image(path, True, size, limits, all_bands=True)

        try:
            if not isinstance(path, (str, os.PathLike)):
                return read()
            key = ("image", os.fspath(path), f"{size} {limits}")
            return self.cached_read(key, [path], read).copy()
        except FileNotFoundError as error:
            raise FileNotFoundError(f"Image {image_id}: no file {path}") from error
        except (OSError, TypeError, AttributeError, ValueError, SyntaxError) as error:
            raise ValueError(f"Image {image_id} can't be read from {path}: {error}") from error

    def cached_read(self, key: Any, paths: Sequence, read: Callable[[], Any]) -> Any:
        """The value of a function that reads files, cached while these are unchanged.

        Args:
            key: see `cached_value`.
            paths: the files that `read` reads.
            read: see `make` of `cached_value`.

        Raises:
            OSError: there is no such file; and any error of `read`.
        """
        stamps = [_stamp(path) for path in paths]
        if None in stamps:
            return read()
        return self.cached_value(key, stamps, read)

    def cached_value(self, key: Any, stamp: Any, make: Callable[[], Any]) -> Any:
        """The value of a function, cached while its sources are unchanged.

        It is kept in memory from the second call on, within `cache_megabytes`.

        Args:
            key: hashable, identifies the value.
            stamp: state of all sources; the cached value is used while it is equal.
            make: f() -> the value, an object with `nbytes` that callers must not edit.
        """
        limit = self.cache_megabytes * 2**20
        if limit <= 0:
            return make()
        kept = self.__dict__.setdefault("_kept_values", _KeptValues())
        value = kept.get(key, stamp)
        if value is None:
            value = make()
            kept.put(key, stamp, value, limit)
        return value

    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Masks of an image's objects; override it. This one returns none and logs it once.

        Returns:
            masks: [H, W, instances] bool.
            class_ids: [instances] int32; negative for crowds.
        """
        info = self._info(image_id)
        if not self._warned_no_masks:
            self._warned_no_masks = True
            reason = "has no load_mask"
            if type(self).load_mask is not Dataset.load_mask:
                reason = "leaves some images to the load_mask of Dataset"
            logger.warning(
                "%s %s: image %s of source %r, and others like it, have no objects",
                type(self).__name__,
                reason,
                image_id,
                info["source"],
            )
        if "height" in info and "width" in info:
            height = info["height"]
            width = info["width"]
        else:
            height, width = self.load_image(image_id).shape[:2]
        return np.zeros((height, width, 0), bool), np.zeros(0, np.int32)

    def load_keypoints(self, image_id: int) -> np.ndarray:
        """Keypoints of an image's objects, in the order of `load_mask`; override it.

        Not in matterport's package.

        Returns:
            [instances, K, (y, x, visibility)] in pixels; visibility 0 for a point that is not
            labelled, 1 for a hidden one, 2 for a visible one (see `mrcnn.keypoints`).

        Raises:
            NotImplementedError: always, here.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no load_keypoints, which USE_KEYPOINTS needs"
        )


def _size_in(info):
    """(height, width) from the info of an image; None where it has no such numbers."""
    try:
        return int(info["height"]), int(info["width"])
    except (KeyError, TypeError, ValueError):
        return None


def _index_by_source(infos):
    """{"source.id": index} of classes or images."""
    return {f"{info['source']}.{info['id']}": index for index, info in enumerate(infos)}


# ---- Resizing ------------------------------------------------------------------------------------


def _resize_bilinear(image, height, width, crop=None):
    """`resize(..., preserve_range=True)`, truncated to the image's dtype, several times faster.

    Sums are taken in scipy's order, in float64, so that values such as 99.99999 are truncated to
    the same integers.

    Args:
        crop: (y, x, height, width) of the part of the result to compute; None for all of it.
    """
    channels = math.prod(image.shape[2:])
    rows = bilinear_samples(image.shape[0], height)
    columns = bilinear_samples(image.shape[1], width)
    if crop is not None:
        y, x, height, width = crop
        rows = rows.part(y, height)
        columns = columns.part(x, width)
    columns = _interleaved(columns, channels)
    pixels = image.reshape(image.shape[0], -1)
    darkest = image.min()
    brightest = image.max()
    out = np.empty((height, width) + image.shape[2:], image.dtype)
    flat = out.reshape(height, -1)
    step = 8  # a few rows at a time stay in the cache
    total = np.empty((step, flat.shape[1]))
    part = np.empty((step, flat.shape[1]))
    for start in range(0, height, step):
        block = slice(start, min(start + step, height))
        above = pixels[rows.low[block]] * rows.low_weight[block, None]
        below = pixels[rows.high[block]] * rows.high_weight[block, None]
        total = total[: len(above)]
        part = part[: len(above)]
        np.take(above, columns.low, axis=1, out=total, mode="clip")
        total *= columns.low_weight
        _add_weighted(total, above, columns.high, columns.high_weight, part)
        _add_weighted(total, below, columns.low, columns.low_weight, part)
        _add_weighted(total, below, columns.high, columns.high_weight, part)
        # Zeros outside darken the border, but not below the image's own values.
        flat[block] = np.clip(total, darkest, brightest, out=total)
    return out


def _interleaved(samples, channels):
    """Samples for rows [width * channels], so that each operation runs over long rows."""
    channel = np.arange(channels)
    return samples._replace(
        low=(samples.low[:, None] * channels + channel).ravel(),
        high=(samples.high[:, None] * channels + channel).ravel(),
        low_weight=np.repeat(samples.low_weight, channels),
        high_weight=np.repeat(samples.high_weight, channels),
    )


def _add_weighted(total, rows, columns, weights, part):
    """Adds weighted columns of `rows` to `total`; `part` is a buffer."""
    np.take(rows, columns, axis=1, out=part, mode="clip")
    part *= weights
    total += part


def resize(
    image: np.ndarray,
    output_shape: Sequence[int],
    order: int = 1,
    mode: str = "constant",
    cval: float = 0,
    clip: bool = True,
    preserve_range: bool = False,
    anti_aliasing: bool = False,
    anti_aliasing_sigma: Any = None,
) -> np.ndarray:
    """`skimage.transform.resize` with matterport's defaults.

    They are bilinear interpolation, zeros outside, no antialiasing. A boolean image is taken as 0
    and 1, since scikit-image refuses to interpolate it.

    Args:
        image: [H, W] or [H, W, C].
        output_shape: (height, width), or with the channels.
        order, mode, cval, clip, preserve_range, anti_aliasing, anti_aliasing_sigma: see
            scikit-image.

    Returns:
        [*output_shape] float.
    """
    from skimage.transform import resize as skimage_resize

    image = np.asarray(image)
    if image.dtype == bool and order != 0:
        image = image.astype(np.float64)
    return skimage_resize(
        image,
        output_shape,
        order=order,
        mode=mode,
        cval=cval,
        clip=clip,
        preserve_range=preserve_range,
        anti_aliasing=anti_aliasing,
        anti_aliasing_sigma=anti_aliasing_sigma,
    )


def _resize_exactly(image, height, width, crop=None):
    """Bilinear interpolation with half-pixel centres and repeated edges.

    Args:
        crop: see `_resize_bilinear`.

    Returns:
        float32, or rounded to the image's integer dtype.
    """
    y, x, rows, columns = crop or (0, 0, height, width)
    out = _interpolated(image, 0, height, slice(y, y + rows))
    out = _interpolated(out, 1, width, slice(x, x + columns))
    if np.issubdtype(image.dtype, np.floating):
        return out
    return np.round(out).astype(image.dtype)


def _interpolated(image, axis, n_out, part):
    """An image interpolated along an axis: `part`, a slice, of `n_out` samples, float32."""
    n_in = image.shape[axis]
    position = np.clip((np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5, 0, n_in - 1)
    position = position[part]
    low = position.astype(np.int64)
    high = np.minimum(low + 1, n_in - 1)
    weight = (position - low).astype(np.float32)
    weight = weight.reshape((-1,) + (1,) * (image.ndim - 1 - axis))
    # Only the samples become float32, not the whole of a huge photograph.
    first = image.take(low, axis=axis).astype(np.float32, copy=False)
    second = image.take(high, axis=axis).astype(np.float32, copy=False)
    return first + weight * (second - first)


def resize_image(
    image: np.ndarray,
    min_dim: int | None = None,
    max_dim: int | None = None,
    min_scale: float | None = None,
    mode: str = "square",
    rng: Any = None,
    exact: bool = False,
) -> tuple[np.ndarray, tuple, float, list, tuple | None]:
    """Resizes an image, keeping its aspect ratio, and pads or crops it.

    Images are scaled up so that the shorter side is at least min_dim, and scaled down only in the
    modes that say so. Interpolation is bilinear, with zeros outside and no antialiasing; values are
    truncated to the image's dtype. Padding is 0.

    Args:
        image: [H, W, C] or [H, W].
        min_dim: minimum of the shorter side in pixels; None for no bound.
        max_dim: maximum of the longer side in pixels; None for no bound.
        min_scale: scale at least by this factor, even beyond min_dim; None or 0 for no bound.
        mode: scaling, and padding or cropping after it:
            none: neither.
            square: scaled down where the longer side exceeds max_dim; padded on all sides to
                [max_dim, max_dim], or to a square of the longer side without max_dim.
            pad64: padded on all sides to multiples of 64, which min_dim must be. max_dim is not
                used.
            crop: a random square of side min_dim. max_dim is not used.
            shorter: the shorter side becomes min_dim, scaling down too, except where the longer one
                would exceed max_dim (Mask R-CNN, section 3.1); padded at right and bottom to
                multiples of 32.
        rng: `numpy.random.Generator` or `random.Random` for the crop; None for the module
            `random`.
        exact: repeat edges instead of zeros, round values instead of truncating them (floats:
            neither), and truncate sides to whole pixels instead of rounding them (FLOAT_RESIZE).

    Returns:
        image: the resized image.
        window: (y1, x1, y2, x2) of the scaled image inside the padding, pixels.
        scale: new size / old size.
        padding: [(top, bottom), (left, right), (0, 0)].
        crop: (y1, x1, height, width) of the crop in the scaled image, or None.

    Raises:
        ValueError: not an image, an unknown mode, or a missing or indivisible min_dim in a mode
            that needs it.
    """
    image = pixels_of(image)
    _check_resizing(image, min_dim, mode)
    height, width = image.shape[:2]
    if mode == "none":
        return image, (0, 0, height, width), 1, [(0, 0), (0, 0), (0, 0)], None
    scale = _scale(height, width, min_dim, max_dim, min_scale, mode, exact)
    if scale != 1:
        # At least one row of pixels, also for a very elongated image.
        height = max(1, _whole(height * scale, exact))
        width = max(1, _whole(width * scale, exact))
    crop = None
    if mode == "crop":
        side: Any = min_dim  # checked above
        y = _draw(rng, height - side)
        x = _draw(rng, width - side)
        crop = (y, x, side, side)
    if scale != 1 and exact:
        image = _resize_exactly(image, height, width, crop)
    elif scale != 1:
        image = _resize_bilinear(image, height, width, crop)
    elif crop is not None:
        image = image[y : y + side, x : x + side]
    if crop is not None:
        return image, (0, 0, side, side), scale, [(0, 0), (0, 0), (0, 0)], crop
    padding = _padding(height, width, max_dim, mode)
    (top, bottom), (left, right), _ = padding
    if top or bottom or left or right:
        image = np.pad(image, padding[: image.ndim])
    return image, (top, left, top + height, left + width), scale, padding, None


def resized(image: np.ndarray, height: int, width: int, exact: bool = False) -> np.ndarray:
    """An image [H, W, ...] resized as by `resize_image`, of the same dtype."""
    if (height, width) == image.shape[:2]:
        return image
    if exact:
        return _resize_exactly(image, height, width)
    return _resize_bilinear(image, height, width)


def resized_size(
    shape: Sequence[int],
    min_dim: int | None = None,
    max_dim: int | None = None,
    min_scale: float | None = None,
    mode: str = "square",
    exact: bool = False,
) -> tuple[float, int, int]:
    """Scale, height and width after `resize_image` of an image of shape (H, W, ...)."""
    height, width = shape[:2]
    if mode == "none":
        return 1, height, width
    scale = _scale(height, width, min_dim, max_dim, min_scale, mode, exact)
    if mode == "crop":
        side: Any = min_dim
        return scale, side, side
    height = max(1, _whole(height * scale, exact))
    width = max(1, _whole(width * scale, exact))
    (top, bottom), (left, right), _ = _padding(height, width, max_dim, mode)
    return scale, top + height + bottom, left + width + right


def _check_resizing(image, min_dim, mode):
    """Raises a ValueError for invalid arguments of `resize_image`."""
    if image.ndim not in (2, 3) or 0 in image.shape[:2]:
        raise ValueError(f"Expected an image of shape [H, W, C] or [H, W]. Received: {image.shape}")
    if mode not in RESIZE_MODES:
        raise ValueError(f"Mode is one of {', '.join(RESIZE_MODES)}. Received: {mode!r}")
    if mode == "pad64" and min_dim and min_dim % 64:
        raise ValueError(f"Mode pad64 needs a min_dim that divides by 64. Received: {min_dim}")
    if mode in ("crop", "shorter") and not min_dim:
        raise ValueError(f"Mode {mode} needs min_dim. Received: {min_dim}")


def _scale(height, width, min_dim, max_dim, min_scale, mode, exact):
    """New size / old size of an image, for the arguments of `resize_image`."""
    shorter = min(height, width)
    longer = max(height, width)
    scale = 1
    if min_dim:
        scale = min_dim / shorter
        if mode != "shorter":
            scale = max(1, scale)
    if min_scale:
        scale = max(scale, min_scale)
    if max_dim and mode in ("square", "shorter"):
        scaled = longer * scale
        if not exact:
            scaled = round(scaled)
        if scaled > max_dim:
            scale = max_dim / longer
    return scale


def _padding(height, width, max_dim, mode):
    """[(top, bottom), (left, right), (0, 0)] of a scaled image."""
    if mode == "square":
        new_height = max_dim or max(height, width)
        new_width = new_height
    else:
        stride = 32
        if mode == "pad64":
            stride = 64
        new_height = -height // stride * -stride
        new_width = -width // stride * -stride
    extra_rows = new_height - height
    extra_columns = new_width - width
    if mode == "shorter":
        return [(0, extra_rows), (0, extra_columns), (0, 0)]
    top = extra_rows // 2
    left = extra_columns // 2
    return [(top, extra_rows - top), (left, extra_columns - left), (0, 0)]


def _whole(side, exact):
    if exact:
        return math.floor(side)
    return round(side)


def _draw(rng, largest):
    """A random integer from 0 to `largest`, inclusive."""
    if hasattr(rng, "integers"):
        return int(rng.integers(0, largest, endpoint=True))
    return (rng or random).randint(0, largest)


def resize_mask(
    mask: Any,
    scale: float,
    padding: Sequence,
    crop: Sequence[int] | None = None,
    exact: bool = False,
) -> Any:
    """Resizes masks as `resize_image` resized their image, by nearest neighbour.

    Samples are aligned at the corners (as by `scipy.ndimage.zoom`), so that masks are offset from
    the image by up to half a pixel, as in the training of matterport's weights.

    Args:
        mask: [H, W, N], or `mrcnn.masks.LabelMaps`.
        scale, padding, crop: as returned by `resize_image`.
        exact: as passed to it; True aligns the masks with the image.

    Returns:
        [new H, new W, N] of the mask's dtype, or label maps of that size.
    """
    if isinstance(mask, LabelMaps):
        labels = mask.maps.transpose(1, 2, 0)
        labels = _resize_together(labels, scale, padding, crop, exact)
        return mask.with_maps(labels.transpose(2, 0, 1))
    mask = np.asarray(mask)
    is_contiguous_by_object = mask.ndim == 3 and mask.strides[2] >= mask[..., :1].nbytes
    if is_contiguous_by_object and mask.size:
        return _resize_each(mask, scale, padding, crop, exact)
    return _resize_together(mask, scale, padding, crop, exact)


def _resize_together(mask, scale, padding, crop, exact):
    """`resize_mask` of all masks as one array."""
    rows = None  # indices of the rows to take; None for all
    if scale != 1:
        rows = _nearest(mask.shape[0], scale, exact)
        columns = _nearest(mask.shape[1], scale, exact)
        if crop is not None:
            y, x, height, width = crop
            rows = rows[y : y + height]
            columns = columns[x : x + width]
        mask = mask.take(columns, axis=1)
    elif crop is not None:
        y, x, height, width = crop
        mask = mask[y : y + height, x : x + width]
    if crop is not None or not np.any(padding):
        if rows is None:
            return mask
        return mask[rows]
    if rows is None:
        rows = slice(None)
        height = mask.shape[0]
    else:
        height = len(rows)
    (top, bottom), (left, right) = padding[:2]
    width = mask.shape[1]
    shape = (top + height + bottom, left + width + right, *mask.shape[2:])
    out = np.zeros(shape, mask.dtype)
    out[top : top + height, left : left + width] = mask[rows]
    return out


def _resize_each(mask, scale, padding, crop, exact):
    """`resize_mask` of masks that are contiguous in memory one by one, as the result's are.

    Only each mask's box is written: for many small masks, most of the memory is never touched.
    """
    height, width, count = mask.shape
    rows = np.arange(height)
    columns = np.arange(width)
    if scale != 1:
        rows = _nearest(height, scale, exact)
        columns = _nearest(width, scale, exact)
    (top, bottom), (left, right) = padding[:2]
    if crop is not None:
        y, x, crop_height, crop_width = crop
        rows = rows[y : y + crop_height]
        columns = columns[x : x + crop_width]
        top = bottom = left = right = 0
    shape = (count, left + len(columns) + right, top + len(rows) + bottom)
    out = np.zeros(shape, mask.dtype)
    for target, plane in zip(out, mask.transpose(2, 1, 0)):  # [width, height]
        x1, x2 = _span_of(plane.any(axis=1))
        y1, y2 = _span_of(plane[x1:x2].any(axis=0))
        first_column, last_column = np.searchsorted(columns, (x1, x2))
        first_row, last_row = np.searchsorted(rows, (y1, y2))
        part = plane[columns[first_column:last_column]][:, rows[first_row:last_row]]
        target[
            left + first_column : left + last_column,
            top + first_row : top + last_row,
        ] = part
    return out.transpose(2, 1, 0)


def _span_of(filled):
    """Index of the first true value, and one past the last; 0 and 0 for none."""
    indices = np.flatnonzero(filled)
    if not indices.size:
        return 0, 0
    return indices[0], indices[-1] + 1


def _nearest(side, scale, exact):
    """Indices of the rows or columns, of `side` ones, that a scaled mask consists of."""
    new_side = max(1, _whole(side * scale, exact))
    if exact:
        positions = (np.arange(new_side) + 0.5) * (side / new_side)
    else:
        positions = np.linspace(0, side - 1, new_side) + 0.5
    return positions.astype(np.int64)


# ---- Matching and average precision --------------------------------------------------------------


def _is_instance(boxes: np.ndarray) -> np.ndarray:
    """Mask [N] bool of the rows of boxes [N, 4] that are not all zero, which is padding."""
    return (boxes != 0).any(axis=1)


def _masks_of(masks: Any, keep: np.ndarray, kind: str) -> np.ndarray:
    """Masks [H, W, n] of the rows to keep.

    Args:
        masks: [H, W, N], padded like the boxes, or [H, W, n] without padding; or another form that
            `mrcnn.masks.as_dense` takes.
        keep: [N] bool.
        kind: "gt" or "pred", for the error.
    """
    masks = as_dense(masks)
    if masks.shape[-1] == len(keep):
        if keep.all():
            return masks
        return masks[..., keep]
    if masks.shape[-1] != keep.sum():
        raise ValueError(
            f"Expected a mask for each of {len(keep)} boxes in {kind}_masks."
            f" Received: {masks.shape[-1]}"
        )
    return masks


def _boxes_of(boxes: Any, kind: str) -> np.ndarray:
    """Boxes [N, 4] as an array; raises a ValueError for another shape."""
    boxes = np.asarray(boxes)
    if not boxes.size:
        return np.zeros((0, 4))
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{kind}_boxes are [N, (y1, x1, y2, x2)]. Received: shape {boxes.shape}")
    return boxes


def _values_of_rows(values: Any, keep: np.ndarray, name: str) -> np.ndarray:
    """Class ids or scores [n] of the boxes to keep.

    Args:
        values: [N], or longer because of padding.
        keep: [N] bool.
        name: name of the values, for errors.

    Raises:
        ValueError: fewer values than boxes, values that are not numbers or NaN, or class ids that
            are not whole, such as scores passed in their place.
    """
    values = as_numbers(np.ravel(values))
    if len(values) < len(keep):
        raise ValueError(f"Expected {name} of {len(keep)} boxes. Received: {len(values)}")
    values = values[: len(keep)][keep]
    is_number = values.dtype.kind in "buif" or not values.size
    if not is_number or np.isnan(values).any():
        raise ValueError(f"{name} are numbers. Received: {files.short(values.tolist())}")
    if name.endswith("class_ids") and np.any(values != np.floor(values)):
        raise ValueError(f"{name} are whole numbers. Received: {files.short(values.tolist())}")
    return values


class _Candidates(NamedTuple):
    """Objects and predictions of one image, the best prediction first.

    Attributes:
        gt_class_ids: [N] int.
        class_ids, scores: [P] of the predictions.
        overlaps: [P, N] IoU of masks.
    """

    gt_class_ids: np.ndarray
    class_ids: np.ndarray
    scores: np.ndarray
    overlaps: np.ndarray


def _candidates(
    gt_boxes: np.ndarray,
    gt_class_ids: np.ndarray,
    gt_masks: np.ndarray,
    pred_boxes: np.ndarray,
    pred_class_ids: np.ndarray,
    pred_scores: np.ndarray,
    pred_masks: np.ndarray,
) -> _Candidates:
    """The `_Candidates` of the arguments of `compute_matches`, without padding."""
    keep = _is_instance(_boxes_of(gt_boxes, "gt"))
    gt_masks = _masks_of(gt_masks, keep, "gt")
    gt_class_ids = _values_of_rows(gt_class_ids, keep, "gt_class_ids")
    keep = _is_instance(_boxes_of(pred_boxes, "pred"))
    pred_masks = _masks_of(pred_masks, keep, "pred")
    class_ids = _values_of_rows(pred_class_ids, keep, "pred_class_ids")
    scores = _values_of_rows(pred_scores, keep, "pred_scores")
    order = np.argsort(-scores, kind="stable")
    overlaps = compute_overlaps_masks(pred_masks, gt_masks)
    return _Candidates(gt_class_ids, class_ids[order], scores[order], overlaps[order])


def _match(
    candidates: _Candidates, iou_threshold: float, score_threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Greedy matching: each prediction takes the unmatched object of its class with highest IoU.

    Returns:
        gt_match [N], pred_match [P], see `compute_matches`.
    """
    gt_class_ids, class_ids, scores, overlaps = candidates
    gt_match = np.full(len(gt_class_ids), -1.0)
    pred_match = np.full(len(class_ids), -1.0)
    if not len(gt_class_ids):
        return gt_match, pred_match
    fits = overlaps >= iou_threshold
    fits &= class_ids[:, None] == gt_class_ids
    fits &= (scores >= score_threshold)[:, None]
    for i in np.flatnonzero(fits.any(axis=1)):
        free = fits[i] & (gt_match < 0)
        if free.any():
            j = np.where(free, overlaps[i], -1).argmax()
            gt_match[j] = i
            pred_match[i] = j
    return gt_match, pred_match


def compute_matches(
    gt_boxes: np.ndarray,
    gt_class_ids: np.ndarray,
    gt_masks: np.ndarray,
    pred_boxes: np.ndarray,
    pred_class_ids: np.ndarray,
    pred_scores: np.ndarray,
    pred_masks: np.ndarray,
    iou_threshold: float = 0.5,
    score_threshold: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matches the predictions of one image with its ground truth, by the IoU of masks.

    Rows whose box is all zero are padding and ignored, at any position.

    Args:
        gt_boxes, pred_boxes: [N, (y1, x1, y2, x2)], [P, 4].
        gt_class_ids, pred_class_ids: [N], [P] int.
        gt_masks, pred_masks: [H, W, N], [H, W, P]; or another form of `detect`'s masks, such as
            run-length encodings.
        pred_scores: [P].
        iou_threshold: minimum IoU of a match.
        score_threshold: predictions with a lower score are not matched.

    Returns:
        gt_match: [N] float, index of the matched prediction, sorted by score; -1 for none.
        pred_match: [P] float, index of the object matched by each prediction, predictions sorted
            by score; -1 for none.
        overlaps: [P, N] IoU, predictions sorted by score.

    Raises:
        ValueError: different numbers of boxes, class ids, scores and masks, masks of different
            sizes, class ids that are not whole, a score that is NaN.
    """
    candidates = _candidates(
        gt_boxes,
        gt_class_ids,
        gt_masks,
        pred_boxes,
        pred_class_ids,
        pred_scores,
        pred_masks,
    )
    gt_match, pred_match = _match(candidates, iou_threshold, score_threshold)
    return gt_match, pred_match, candidates.overlaps


def _average_precision(
    pred_match: np.ndarray, gt_count: int
) -> tuple[float, np.ndarray, np.ndarray]:
    """AP, precisions, recalls [P + 2] of one image's matches, the predictions sorted by score."""
    hits = np.cumsum(pred_match > -1)
    precisions = hits / np.arange(1, len(hits) + 1)
    recalls = np.full(len(hits), np.nan)
    if gt_count:
        recalls = hits / gt_count
    precisions = np.concatenate([[0.0], precisions, [0.0]])
    recalls = np.concatenate([[0.0], recalls, [1.0]])
    # The envelope: precision never rises with recall.
    precisions = np.maximum.accumulate(precisions[::-1])[::-1]
    ap = np.nan
    if gt_count:
        ap = np.sum(np.diff(recalls) * precisions[1:])
    return ap, precisions, recalls


def compute_ap(
    gt_boxes: np.ndarray,
    gt_class_ids: np.ndarray,
    gt_masks: np.ndarray,
    pred_boxes: np.ndarray,
    pred_class_ids: np.ndarray,
    pred_scores: np.ndarray,
    pred_masks: np.ndarray,
    iou_threshold: float = 0.5,
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Average precision of one image at one IoU threshold, classes together (VOC 2010's area).

    It is the area under the precision envelope of this image's predictions, matched by the IoU of
    masks within each class but ranked together. It is not COCO's AP, which ranks the predictions of
    all images for each class, averages over classes, 101 recalls and ten IoUs, and ignores crowds.
    The mean over images (called mAP in matterport's samples) can differ much from COCO's, which
    `mrcnn.evaluate` computes.

    Args:
        as `compute_matches`.

    Returns:
        ap: float. NaN for an image without ground truth, which has no recall and so no AP: exclude
            it from means (`np.nanmean`).
        precisions: [P + 2], made non-increasing; the last is 0.
        recalls: [P + 2], from 0 to 1; between them NaN without ground truth.
        overlaps: [P, N] IoU of predictions sorted by score and ground truth.
    """
    gt_match, pred_match, overlaps = compute_matches(
        gt_boxes,
        gt_class_ids,
        gt_masks,
        pred_boxes,
        pred_class_ids,
        pred_scores,
        pred_masks,
        iou_threshold,
    )
    ap, precisions, recalls = _average_precision(pred_match, len(gt_match))
    return ap, precisions, recalls, overlaps


def compute_ap_range(
    gt_box: np.ndarray,
    gt_class_id: np.ndarray,
    gt_mask: np.ndarray,
    pred_box: np.ndarray,
    pred_class_id: np.ndarray,
    pred_score: np.ndarray,
    pred_mask: np.ndarray,
    iou_thresholds: Any = None,
    verbose: int = 1,
) -> float:
    """Mean of `compute_ap` over IoU thresholds.

    Args:
        gt_box, gt_class_id, gt_mask, pred_box, pred_class_id, pred_score, pred_mask: see
            `compute_matches`.
        iou_thresholds: a sequence or array; None for .5, .55, ... .95.
        verbose: 1 logs each threshold's AP at level INFO.

    Returns:
        float; NaN without ground truth.

    Raises:
        ValueError: no threshold.
    """
    if iou_thresholds is None:
        iou_thresholds = np.arange(0.5, 1.0, 0.05)
    thresholds = np.asarray(iou_thresholds).ravel()
    if not thresholds.size:
        raise ValueError("Expected at least one IoU threshold. Received: none")
    candidates = _candidates(
        gt_box,
        gt_class_id,
        gt_mask,
        pred_box,
        pred_class_id,
        pred_score,
        pred_mask,
    )
    aps = []
    for threshold in thresholds:
        gt_match, pred_match = _match(candidates, threshold, score_threshold=0.0)
        ap, _, _ = _average_precision(pred_match, len(gt_match))
        aps.append(ap)
        if verbose:
            logger.info("AP @%.2f: %.3f", threshold, ap)
    mean: Any = np.mean(aps)
    if verbose:
        logger.info("AP @%.2f-%.2f: %.3f", thresholds.min(), thresholds.max(), mean)
    return mean


def compute_recall(
    pred_boxes: np.ndarray, gt_boxes: np.ndarray, iou: float
) -> tuple[float, np.ndarray]:
    """Share of ground-truth boxes that are the best match, at `iou` or more, of a predicted box.

    Args:
        pred_boxes: [P, (y1, x1, y2, x2)].
        gt_boxes: [N, 4] in the same frame.
        iou: minimum IoU, from 0 to 1.

    Returns:
        recall: float, NaN without ground truth.
        positive_ids: [K] int, indices of the predicted boxes with such a match.
    """
    overlaps = compute_overlaps(pred_boxes, gt_boxes)  # [P, N]
    gt_count = overlaps.shape[1]
    if not gt_count:
        return np.nan, np.zeros(0, np.int64)
    positive_ids = np.flatnonzero(overlaps.max(axis=1) >= iou)
    recalled = set(overlaps[positive_ids].argmax(axis=1))
    return len(recalled) / gt_count, positive_ids


# ---- For existing code ---------------------------------------------------------------------------


def batch_slice(
    inputs: Any,
    graph_fn: Callable,
    batch_size: int,
    names: Sequence[str] | None = None,
) -> Any:
    """Applies a function of single images to a batch of static size and stacks the results.

    The layers of this package don't use it: they work on whole batches.

    Args:
        inputs: a tensor or a list of tensors, batch first.
        graph_fn: f(slice of each input) -> a tensor or several.
        batch_size: number of images.
        names: not used: only TensorFlow's tensors have names.

    Returns:
        A tensor, or a list where graph_fn returns several, batch first.
    """
    from keras import ops

    if not isinstance(inputs, (list, tuple)):
        inputs = [inputs]
    results = []
    for i in range(batch_size):
        result = graph_fn(*[x[i] for x in inputs])
        if not isinstance(result, (list, tuple)):
            result = [result]
        results.append(result)
    outputs = [ops.stack(parts, axis=0) for parts in zip(*results)]
    if len(outputs) == 1:
        return outputs[0]
    return outputs


def download_trained_weights(coco_model_path: str | os.PathLike, verbose: int = 1) -> None:
    """Downloads the released COCO weights, 245 MB (matterport: utils.download_trained_weights).

    Args:
        coco_model_path: path of the file, written atomically.
        verbose: 1 shows a progress bar.

    Raises:
        OSError: the download fails; the message names the URL and where to put the file.
    """
    progress = None
    if verbose:
        print(f"Downloading {COCO_MODEL_URL} to {coco_model_path}", file=sys.stderr)
        progress = files.progress_bar
    try:
        files.download(COCO_MODEL_URL, coco_model_path, progress=progress)
    except OSError as error:
        if error.errno in files.DISK_FULL:
            raise
        raise OSError(
            f"{COCO_MODEL_URL} can't be downloaded ({error}); put the file at {coco_model_path}"
        ) from error
