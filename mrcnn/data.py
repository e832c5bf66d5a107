"""Training examples from a dataset's images: molding, image meta, targets, batches.

Keras and TensorFlow are not imported.

Boxes are (y1, x1, y2, x2) in pixels of the molded image; y2, x2 lie outside the box. Class ids
below zero are crowds: groups of objects that are neither a target nor background.
"""

import collections
import concurrent.futures
import contextlib
import contextvars
import copy
import logging
import math
import numbers
import os
import random
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from mrcnn import augmentation as augmenting, boxes as box_math, files, keypoints, utils
from mrcnn.config import Config, as_config
from mrcnn.masks import LabelMaps, compact

# numpy's Generator, its older RandomState, or the module numpy.random.
Random = Any
# Masks of one image. Label maps take less memory and time, unless many masks overlap.
Masks = LabelMaps | np.ndarray

logger = logging.getLogger(__name__)


class DatasetError(ValueError):
    """A dataset that can't be trained on; the message lists every problem."""


# ---- Images passed by a caller -------------------------------------------------------------------


def images_in(images: Any, name: str) -> list[np.ndarray]:
    """The images passed to a method, as a list of arrays.

    Args:
        images: a sequence or another iterable of images, or an array or tensor [N, H, W, C].
        name: name of the method, for errors.

    Raises:
        ValueError: one image, a path or another value that is not a list of images.
    """
    check_is_list(images, name)
    return [as_array(image, f"image {i}") for i, image in enumerate(images)]


def check_is_list(images: Any, name: str) -> None:
    """Raises a ValueError unless `images` is a list of images: for one image, a path etc."""
    expected = f"{name}() takes a list of images, or an array [N, H, W, C]."
    shape = getattr(images, "shape", None)
    if isinstance(images, (str, os.PathLike)):
        raise ValueError(
            f"{expected} Received: the path {os.fspath(images)!r}; read it first: "
            f"{name}([mrcnn.utils.read_image(path)])"
        )
    if shape is not None and len(shape) != 4 and not _is_column(images):
        # As a list, a single image would be hundreds of images: its rows.
        raise ValueError(
            f"{expected} Received: one array of shape {tuple(shape)}; for one image: "
            f"{name}([image]), for several: {name}(list(images))"
        )
    if hasattr(images, "getbands"):  # Pillow's
        raise ValueError(f"{expected} Received: one image; {name}([image])")
    if isinstance(images, (dict, set)) or not isinstance(images, Iterable):
        raise ValueError(f"{expected} Received: {files.short(images)} ({type(images).__name__})")


def _is_column(images):
    """Whether an array is a list of images of different sizes, or empty."""
    is_of_objects = getattr(images, "dtype", None) == np.dtype(object)
    return len(images.shape) == 1 and (is_of_objects or not images.shape[0])


def as_array(image: Any, where: str) -> np.ndarray:
    """An image as an array [H, W] or [H, W, C], see `utils.pixels_of`.

    Raises:
        ValueError: a path, None, a row of an image, or another value.
    """
    if isinstance(image, (str, os.PathLike)):
        raise ValueError(
            f"An image is an array. Received: {where} is the path {os.fspath(image)!r}; "
            "mrcnn.utils.read_image(path) reads it, and detect_many(paths, "
            "mrcnn.utils.read_image) many of them"
        )
    if image is None:
        raise ValueError(
            f"An image is an array. Received: {where} is None, which cv2.imread gives for a file "
            "that it can't read"
        )
    try:
        array = utils.pixels_of(image)
    except (ValueError, TypeError) as error:
        raise ValueError(f"An image is an array. Received: {where}: {error}") from error
    if array.ndim == 1 or (array.ndim == 2 and array.shape[1] in (3, 4)):
        raise ValueError(
            f"An image is [H, W, C] or [H, W]. Received: {where} of shape {array.shape}, which is "
            "a row of an image; for one image: detect([image])"
        )
    return array


def check_items(items: Any, load: Callable | None) -> None:
    """Raises a ValueError for `items` that `detect_many` can't iterate over as images."""
    if load is None or isinstance(items, (str, os.PathLike)):
        check_is_list(items, "detect_many")
    elif not isinstance(items, Iterable):
        raise ValueError(
            f"detect_many() takes an iterable and what loads an image of it. "
            f"Received: {files.short(items)} ({type(items).__name__})"
        )


def loaded(number: int, item: Any, load: Callable | None) -> tuple[np.ndarray, str]:
    """An image [H, W, C] or [H, W] of `detect_many`, and its name in errors.

    Args:
        number: its index among the items.
        item: the image, or an argument of `load`.
        load: f(item) -> image; None where the item is the image.
    """
    image = item
    where = f"image {number}"
    if load is not None:
        if isinstance(item, (str, os.PathLike)):
            where = f"image {number} ({os.fspath(item)})"
        image = load(item)
    return as_array(image, where), where


def of_one_size(waiting: collections.deque, most: int, shape_of: Callable = np.shape) -> list:
    """Takes the next prepared images of one size from the queue of `detect_many`.

    Args:
        waiting: futures of prepared images in order, at least one.
        most: maximum number of images.
        shape_of: f(prepared image) -> its shape.

    Raises:
        the error of preparing the first image. An image with an error that is not the first ends
        the batch and stays in the queue.
    """
    chunk = [waiting.popleft().result()]
    while waiting and len(chunk) < most:
        following = waiting[0]
        if following.exception() or shape_of(following.result()) != shape_of(chunk[0]):
            break
        chunk.append(waiting.popleft().result())
    return chunk


# ---- Image meta and molding ----------------------------------------------------------------------


def compose_image_meta(
    image_id: int,
    original_image_shape: Sequence[int],
    image_shape: Sequence[int],
    window: Sequence[float],
    scale: float,
    active_class_ids: Any,
) -> np.ndarray:
    """The data of an image that the network needs, as a vector (matterport: compose_image_meta).

    Args:
        image_id: int.
        original_image_shape, image_shape: (H, W, C) before and after molding.
        window: (y1, x1, y2, x2) of the image inside the padding, pixels.
        scale: factor from the original to the molded image.
        active_class_ids: [classes], 1 for classes that the image's source labels, otherwise 0.
    """
    return np.array(
        [image_id, *original_image_shape, *image_shape, *window, scale, *active_class_ids]
    )


# Columns of the parts of an image meta.
META: dict[str, Any] = {
    "image_id": 0,
    "original_image_shape": slice(1, 4),
    "image_shape": slice(4, 7),
    "window": slice(7, 11),
    "scale": 11,
    "active_class_ids": slice(12, None),
}


def parse_image_meta(meta: np.ndarray) -> dict[str, np.ndarray]:
    """The parts of metas [B, 12 + classes] by name (matterport: parse_image_meta)."""
    parts = {name: meta[:, columns].astype(np.int32) for name, columns in META.items()}
    parts["scale"] = meta[:, META["scale"]].astype(np.float32)
    return parts


def mold_image(images: np.ndarray, config: Config) -> np.ndarray:
    """Pixels minus MEAN_PIXEL, divided by STD_PIXEL (matterport: mold_image).

    Args:
        images: [..., H, W, C].

    Returns:
        float32 array of the same shape.
    """
    config = as_config(config)
    # Over flattened rows: with channels as the last axis, inner loops would have 3 elements.
    images = np.ascontiguousarray(images)
    rows = images.reshape(*images.shape[:-2], -1)
    mean = _row_of(config.MEAN_PIXEL, images.shape)
    std = _row_of(config.STD_PIXEL, images.shape)
    molded = np.empty(rows.shape, np.float32)
    np.subtract(rows, mean, out=molded, casting="same_kind")
    if np.any(std != 1):
        molded /= std.astype(np.float32)
    return molded.reshape(images.shape)


def _row_of(pixel: Any, shape: Sequence[int]) -> np.ndarray:
    """A pixel's values, one for each channel or one for all, repeated to a row: [W * C] float64."""
    width, channels = shape[-2:]
    values = np.broadcast_to(np.asarray(pixel, np.float64), (channels,))
    return np.tile(values, width)


def unmold_image(normalized_images: np.ndarray, config: Config) -> np.ndarray:
    """Inverse of `mold_image`, clipped and cut off to uint8 (matterport: unmold_image).

    As in matterport's package, values of float32 may come back lower by 1.

    Args:
        normalized_images: [..., H, W, C].
    """
    config = as_config(config)
    values = np.asarray(normalized_images) * config.STD_PIXEL + config.MEAN_PIXEL
    return np.clip(values, 0, 255).astype(np.uint8)


def mold_with_size(
    image: np.ndarray,
    config: Config,
    min_dim: int | None = None,
) -> tuple[np.ndarray, Any, float]:
    """Resizes and molds an image for detection.

    Args:
        image: [H, W, C].
        min_dim: replaces IMAGE_MIN_DIM; IMAGE_MAX_DIM is scaled by the same factor.

    Returns:
        molded [h, w, C] float32, window (y1, x1, y2, x2) in its pixels, scale.
    """
    max_dim = config.IMAGE_MAX_DIM
    if min_dim is not None and min_dim != config.IMAGE_MIN_DIM:
        max_dim = round(max_dim * min_dim / config.IMAGE_MIN_DIM)
        if config.IMAGE_RESIZE_MODE == "square":
            stride = max(config.BACKBONE_STRIDES)
            max_dim = -(-max_dim // stride) * stride
    size: dict[str, Any] = {
        "min_dim": min_dim or config.IMAGE_MIN_DIM,
        "max_dim": max_dim,
        "min_scale": config.IMAGE_MIN_SCALE,
        "mode": config.IMAGE_RESIZE_MODE,
    }
    if config.FLOAT_RESIZE:
        molded = mold_image(image, config)
        resized, window, scale, _, _ = utils.resize_image(molded, exact=True, **size)
        return resized, window, scale
    resized, window, scale, _, _ = utils.resize_image(image, **size)
    return mold_image(resized, config), window, scale


def check_sides(shape: Sequence[int], config: Config, where: str) -> None:
    """Raises a ValueError for a shape (H, W, ...) that doesn't fit IMAGE_RESIZE_MODE "none".

    Args:
        where: names the image in the error.
    """
    stride = max(config.BACKBONE_STRIDES)
    if config.IMAGE_RESIZE_MODE == "none" and any(side % stride for side in shape[:2]):
        raise ValueError(
            f"With IMAGE_RESIZE_MODE 'none' the sides of an image divide by {stride}, the largest "
            f"of BACKBONE_STRIDES. Received: {where} of shape {tuple(shape)}"
        )


def compute_anchors(config: Config, image_shape: Sequence[int]) -> np.ndarray:
    """Anchors [A, (y1, x1, y2, x2)] of a molded image, in pixels, float64."""
    config = as_config(config)
    rounding_shape = None
    if config.RPN_ANCHOR_ROUNDING:
        rounding_shape = image_shape
    return utils.generate_pyramid_anchors(
        config.RPN_ANCHOR_SCALES,
        config.RPN_ANCHOR_RATIOS,
        compute_backbone_shapes(config, image_shape),
        config.BACKBONE_STRIDES,
        config.RPN_ANCHOR_STRIDE,
        rounding_shape,
    )


def compute_backbone_shapes(config: Config, image_shape: Sequence[int]) -> np.ndarray:
    """[5, (height, width)] of P2..P6 for an image (matterport: compute_backbone_shapes)."""
    config = as_config(config)
    if callable(config.BACKBONE):
        shapes_of: Any = config.COMPUTE_BACKBONE_SHAPE
        return np.asarray(shapes_of(image_shape))
    height, width = image_shape[:2]
    shapes = []
    for stride in config.BACKBONE_STRIDES:
        shapes.append([math.ceil(height / stride), math.ceil(width / stride)])
    return np.array(shapes)


def with_channels(
    image: np.ndarray,
    config: Config,
    where: str,
) -> np.ndarray:
    """An image with the number of channels that the network takes.

    Args:
        image: [H, W] or [H, W, C].
        where: names the image in the error.

    Returns:
        [H, W, IMAGE_CHANNEL_COUNT]. For 3 channels, gray is repeated and the alpha of RGBA dropped;
        for 1, the first of three equal channels is taken, as for a gray file that was read as RGB.

    Raises:
        ValueError: an image of another shape.
    """
    wanted = config.IMAGE_CHANNEL_COUNT
    shaped = image
    if image.ndim == 2:
        shaped = image[..., None]
    if shaped.ndim == 3 and shaped.size:
        if shaped.shape[2] == wanted:
            return shaped
        if wanted == 3 and shaped.shape[2] == 1:
            return np.repeat(shaped, 3, axis=2)
        if wanted == 3 and shaped.shape[2] == 4:
            return shaped[..., :3]
        if wanted == 1 and shaped.shape[2] == 3 and np.all(shaped == shaped[..., :1]):
            return shaped[..., :1]
    hint = ""
    if wanted == 1 and shaped.ndim == 3 and shaped.shape[2] == 3:
        hint = ", in colours: np.mean(image, axis=-1), or another gray"
    if utils.has_channels_first(image.shape):
        hint = "; the channels stand last: np.moveaxis(image, 0, -1)"
    elif image.ndim == 4 and len(image) == 1:
        hint = "; an image has no batch axis: image[0]"
    raise ValueError(
        f"An image is [height, width, {wanted}] (IMAGE_CHANNEL_COUNT). "
        f"Received: {where} of shape {image.shape}{hint}"
    )


def takes_bands(config: Any) -> bool:
    """Whether a network takes all bands of a file, see `all_bands` of `utils.read_image`.

    config: a `Config`, or the config of a stand-in, which may lack IMAGE_CHANNEL_COUNT.
    """
    return getattr(config, "IMAGE_CHANNEL_COUNT", 3) > 4


def as_network_input(image: np.ndarray, config: Config, where: str) -> np.ndarray:
    """An image with the channels and in the range of values that the network takes.

    The range follows from MEAN_PIXEL. Where it is for values of 0..255 (the largest mean is above 1
    and at most 255), gray images and images of three channels in another range, such as 0..1, bool
    or 12 bits, are scaled to 0..255 by the rule of `mrcnn.utils.value_range`. uint8, and values of
    0..255 of any dtype, are unchanged, as are all images with other means or numbers of channels,
    which may have units of their own. With IMAGE_PERCENTILES any image becomes uint8, by its own
    percentiles and IMAGE_GAMMA (`mrcnn.utils.stretched`).

    An image that `mold_image` made becomes what it was made of, with a warning: tutorials pass such
    ones to `detect`, which in matterport's package subtracts the mean a second time.

    Args:
        image: [H, W] or [H, W, C].
        where: names the image in messages.

    Returns:
        [H, W, IMAGE_CHANNEL_COUNT].

    Raises:
        ValueError: a wrong number of channels, or values that are not numbers.
    """
    image = with_channels(image, config, where)
    if image.dtype.kind not in "buif":
        raise ValueError(
            f"An image is an array of numbers. Received: {where} of dtype {image.dtype}"
        )
    range_of_whole = _RANGE_OF_WHOLE.get()
    if range_of_whole is None:
        if _is_molded(image[:1], config) and _is_molded(image, config):
            _warn_of_molded(where)
            pixels = np.rint(image * config.STD_PIXEL + config.MEAN_PIXEL)
            image = pixels.astype(np.uint8)  # all in 0..255, see `_is_molded`
        limits = range_of(image, config)
    else:
        (limits,) = range_of_whole
    if limits is None:
        return image
    gamma = 1.0
    if len(config.IMAGE_PERCENTILES):
        gamma = config.IMAGE_GAMMA
    else:
        _log_range(where, image.dtype, limits, _is_finite(image))
    return utils.as_bytes(image, limits, gamma)


def range_of(image: np.ndarray, config: Config) -> tuple[float, float] | None:
    """The values that `as_network_input` maps to 0 and 255; None where it changes no values.

    Args:
        image: [...] of numbers.
    """
    if len(config.IMAGE_PERCENTILES):
        low, high = utils.values_at(image, config.IMAGE_PERCENTILES)
        if low < high:
            return low, high
        if image.dtype == np.uint8:
            return 0, 255
        return utils.value_range(image)
    if image.dtype == np.uint8:
        return None
    largest_mean = np.max(config.MEAN_PIXEL)
    if config.IMAGE_CHANNEL_COUNT not in (1, 3) or not 1 < largest_mean <= 255:
        return None
    limits = utils.value_range(image)
    if limits == (0, 255) and _is_finite(image):
        return None
    return limits


def _is_finite(image: np.ndarray) -> bool:
    """Whether all values are finite."""
    return image.dtype.kind != "f" or bool(np.isfinite(image.min() + image.max()))


# (`range_of` the whole image,) while its parts are processed, see `parts_of`; None otherwise.
_RANGE_OF_WHOLE: contextvars.ContextVar[tuple | None] = contextvars.ContextVar(
    "range_of_whole", default=None
)


@contextlib.contextmanager
def parts_of(image: np.ndarray, config: Config) -> Iterator[None]:
    """A context in which this thread's `as_network_input` takes images as parts of this one.

    Their values are scaled by the range of the whole, so that dark parts stay dark.

    Args:
        image: the whole, [H, W, C], or a sample of its values.
    """
    token = _RANGE_OF_WHOLE.set((range_of(image, config),))
    try:
        yield
    finally:
        _RANGE_OF_WHOLE.reset(token)


_RANGES_LOGGED: set[tuple] = set()


def _log_range(where: str, dtype: np.dtype, limits: tuple[float, float], finite: bool) -> None:
    """Logs once for each kind of image how its values are scaled; a warning for unusual values."""
    kind = (dtype, limits[0] < 0, finite)
    if kind in _RANGES_LOGGED:
        return
    _RANGES_LOGGED.add(kind)
    low, high = limits
    text = f"{where}: values ({dtype}) of {low:g}..{high:g} become 0..255, as MEAN_PIXEL expects"
    if not finite:
        logger.warning("%s; NaN and infinite values are in it", text)
    elif low < 0:
        logger.warning("%s; an image is given as it is, not with its mean subtracted", text)
    else:
        logger.info("%s", text)


# Distance from a whole number up to which a value counts as one, for the rounding of float32.
_NEARLY_WHOLE = 0.01


def _is_molded(image: np.ndarray, config: Config) -> bool:
    """Whether `mold_image` made an image [H, W, C]: with its mean it is whole, in 0..255.

    False where that is true without the mean, too, as with a mean of whole numbers, and for a mean
    of fractions, whose images are fractions, too.
    """
    is_float = image.dtype in (np.float32, np.float64)
    if not is_float or not image.size or np.max(config.MEAN_PIXEL) <= 1:
        return False
    pixels = image * config.STD_PIXEL + config.MEAN_PIXEL
    if not np.all(np.abs(pixels - 127.5) < 128):  # False for NaN
        return False
    if not np.all(np.abs(pixels - np.rint(pixels)) < _NEARLY_WHOLE):
        return False
    return bool(np.any(np.abs(image - np.rint(image)) > _NEARLY_WHOLE))


_MOLDED_WARNED: list[str] = []


def _warn_of_molded(where: str) -> None:
    """Warns once of an image that was molded before."""
    if not _MOLDED_WARNED:
        _MOLDED_WARNED.append(where)
        logger.warning(
            "%s is molded, its mean subtracted: the mean is added again. Give images as they are",
            where,
        )


_UNMOLDED_WARNED: set[str] = set()


def tell_of_unmolded(images: np.ndarray, config: Config, name: str) -> None:
    """Warns once for each method that it received integers instead of molded images.

    The network accepts them and detects less: notebooks of 2018 pass images of `load_image_gt`.

    Args:
        name: name of the method.
    """
    is_molded = np.asarray(images).dtype.kind == "f"
    changes_values = np.any(config.MEAN_PIXEL) or np.any(np.asarray(config.STD_PIXEL) != 1)
    if is_molded or not changes_values or name in _UNMOLDED_WARNED:
        return
    _UNMOLDED_WARNED.add(name)
    logger.warning(
        "%s() takes molded images, with MEAN_PIXEL subtracted: mold_image(image, config), or what"
        " mold_inputs returns. Received: %s, which is taken as it is",
        name,
        np.asarray(images).dtype,
    )


# Minimum score of detections whose number `tell_of_limit` warns of.
SURE_SCORE = 0.5
_LIMITS_WARNED: set[int] = set()


def tell_of_limit(scores: np.ndarray, limit: int) -> None:
    """Warns once that an image has the maximum number of detections with high scores.

    Args:
        scores: [N], scores of its detections.
        limit: DETECTION_MAX_INSTANCES.
    """
    if len(scores) < limit or limit in _LIMITS_WARNED or scores.min(initial=1) < SURE_SCORE:
        return
    _LIMITS_WARNED.add(limit)
    logger.warning(
        "an image has %d detections, as many as DETECTION_MAX_INSTANCES allows, with scores from"
        " %.2f: there may be more. The same goes for other images, and tiles",
        limit,
        scores.min(),
    )


# ---- Augmentation --------------------------------------------------------------------------------


def import_imgaug() -> Any:
    """imgaug, imported without warnings; `mrcnn/__init__.py` has the names of numpy it needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import imgaug
    return imgaug


def check_augmentation(augmentation: Any) -> None:
    """Raises a ValueError for what `apply_augmentation` can't use; None is valid."""
    is_class = isinstance(augmentation, type)
    takes_images = callable(augmentation) or hasattr(augmentation, "augment_images")
    if augmentation is None or (takes_images and not is_class):
        return
    hint = ""
    if is_class:
        hint = f"; an object of this class does, {augmentation.__name__}(...)"
    elif isinstance(augmentation, (list, tuple)):
        hint = "; imgaug.augmenters.Sequential(list) makes one augmenter of a list of imgaug's"
    raise ValueError(
        "augmentation is an imgaug augmenter or a function f(image, masks), such as those of"
        f" mrcnn.augmentation. Received: {augmentation!r:.200}{hint}"
    )


def apply_augmentation(
    augmentation: Any,
    image: np.ndarray,
    masks: Any,
    rng: np.random.Generator,
    points: np.ndarray | None = None,
    flip_pairs: Sequence[tuple[int, int]] = (),
) -> tuple[Any, ...]:
    """Applies an augmentation of any library to an image, its masks and keypoints.

    Args:
        augmentation: an imgaug augmenter (a copy seeded from `rng` is used; geometric operations
            apply to image and masks, others to the image only), an object of
            `mrcnn.augmentation`, or any function f(image, masks) -> (image, masks), with keypoints
            f(image, masks, keypoints) -> (image, masks, keypoints). A parameter named `rng`
            receives `rng` (`mrcnn.augmentation.call`).
        image: [H, W, C].
        masks: [H, W, N] bool, or `mrcnn.masks.LabelMaps`, which imgaug's own augmenters and those
            of `mrcnn.augmentation` transform without conversion.
        rng: numpy Generator.
        points: keypoints [N, K, (y, x, visibility)] or None.
        flip_pairs: pairs of keypoints that are swapped where an imgaug augmenter mirrors the image;
            functions swap them themselves.

    Returns:
        image, masks of the type that was passed, and keypoints if they were passed; visibility is
        0 outside the image.

    Raises:
        ValueError: not an augmentation, or a result of another size.
    """
    check_augmentation(augmentation)
    if hasattr(augmentation, "augment_images"):
        input_masks = masks
        if not isinstance(masks, LabelMaps) and _moves_labels(augmentation):
            input_masks = compact(np.asarray(masks))
        elif isinstance(masks, LabelMaps) and not _moves_labels(augmentation):
            input_masks = np.asarray(masks)
        new_image, new_masks, new_points = _augment_with_imgaug(
            augmentation, image, input_masks, rng, points, flip_pairs
        )
    else:
        input_masks = masks
        if not augmenting.takes_label_maps(augmentation):
            input_masks = np.asarray(masks)
        new_image, new_masks, new_points = augmenting.call(
            augmentation, image, input_masks, points, rng=rng, flip_pairs=flip_pairs
        )
    if new_image.shape != image.shape or new_masks.shape != masks.shape:
        raise ValueError(
            f"Augmentation keeps the size of image {image.shape} and masks {masks.shape}. "
            f"Received: {new_image.shape} and {new_masks.shape}"
        )
    new_masks = _as_type_of(masks, new_masks)
    if points is None:
        return new_image, new_masks
    if np.shape(new_points) != points.shape:
        raise ValueError(
            f"Augmentation keeps the shape of keypoints {points.shape}. Received:"
            f" {np.shape(new_points)}"
        )
    visible_points = keypoints.hide_outside(np.asarray(new_points), image.shape)
    return new_image, new_masks, visible_points


def _as_type_of(original: Any, masks: Any) -> Any:
    """Masks of the type of the original ones: `LabelMaps`, or [H, W, N] bool."""
    if not isinstance(original, LabelMaps):
        return np.asarray(masks).astype(bool, copy=False)
    if isinstance(masks, LabelMaps):
        return masks
    return LabelMaps.of_masks(masks)


# imgaug's augmenters that read or mix the values of segmentation maps: these get bool maps.
_READ_VALUES = ("AssertLambda", "AssertShape", "KeepSizeByResize", "Lambda")
# Modules of its other augmenters, which leave maps unchanged or move their pixels.
_MOVE_PIXELS = (
    "arithmetic",
    "artistic",
    "blur",
    "color",
    "contrast",
    "convolutional",
    "edges",
    "flip",
    "geometric",
    "imgcorruptlike",
    "meta",
    "pillike",
    "pooling",
    "segmentation",
    "size",
    "weather",
)


def _moves_labels(augmentation: Any) -> bool:
    """Whether an imgaug augmenter transforms label maps as it does a map of each object.

    False for classes that are not imgaug's, for which this is unknown.
    """
    for augmenter in [augmentation, *augmentation.get_all_children(flat=True)]:
        kind = type(augmenter)
        package, _, module = kind.__module__.rpartition(".")
        if package != "imgaug.augmenters" or module not in _MOVE_PIXELS:
            return False
        if kind.__name__ in _READ_VALUES:
            return False
    return True


def _augment_with_imgaug(
    augmentation: Any,
    image: np.ndarray,
    masks: Any,
    rng: np.random.Generator,
    points: np.ndarray | None,
    flip_pairs: Sequence[tuple[int, int]],
) -> tuple[np.ndarray, Any, Any]:
    """Image, masks and keypoints (or None) transformed by a seeded copy of an augmenter."""
    import_imgaug()
    from imgaug.augmentables.segmaps import SegmentationMapsOnImage

    augmenter = copy.deepcopy(augmentation)
    augmenter.seed_(int(rng.integers(2**31)), deterministic_too=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # imgaug is unmaintained and raises DeprecationWarnings
        inputs = {"image": _as_imgaug_input(image)}
        if masks.shape[-1]:
            maps = masks
            if isinstance(masks, LabelMaps):
                maps = masks.maps.transpose(1, 2, 0).astype(np.int32)
            inputs["segmentation_maps"] = SegmentationMapsOnImage(maps, image.shape)
        if points is not None:
            inputs["keypoints"] = _imgaug_points(points, image.shape)
        results = augmenter(**inputs)
        if len(inputs) == 1:  # imgaug returns a single result without a list
            results = [results]
        augmented = dict(zip(inputs, results))
    new_masks = masks
    if masks.shape[-1]:
        new_maps = augmented["segmentation_maps"].arr
        new_masks = new_maps > 0
        if isinstance(masks, LabelMaps):
            labels = new_maps.transpose(2, 0, 1).astype(masks.maps.dtype, order="C")
            new_masks = masks.with_maps(labels)
    new_points = None
    if points is not None:
        new_points = _points_of_imgaug(augmented["keypoints"], points, flip_pairs)
    return augmented["image"].astype(image.dtype, copy=False), new_masks, new_points


def _as_imgaug_input(image: np.ndarray) -> np.ndarray:
    """An image with values of 0..255 as uint8, other images unchanged.

    For other dtypes imgaug assumes values in the dtype's own range: it inverts floats to negative
    values, raises their contrast to thousands, and refuses most integers.
    """
    low = image.min(initial=0)
    high = image.max(initial=0)
    if image.dtype == np.uint8 or not (low >= 0 and high <= 255):
        return image
    if image.dtype.kind in "ui":
        return image.astype(np.uint8)
    # Values of 0..1, and channels that may have units of their own, are unchanged.
    if image.dtype.kind == "f" and image.shape[2] in (1, 3) and high > 2:
        return np.rint(image).astype(np.uint8)
    return image


# Points whose orientation shows whether the image was mirrored; (y, x) as fractions of its size.
_MARKERS = np.array([(0.4, 0.4), (0.4, 0.6), (0.6, 0.4)])


def _imgaug_points(points: np.ndarray, shape: Sequence[int]) -> Any:
    """Keypoints and the markers in imgaug's frame, where the centre of a pixel is at .5."""
    from imgaug.augmentables.kps import Keypoint, KeypointsOnImage

    markers = _MARKERS * shape[:2]
    positions = np.concatenate([points[..., :2].reshape(-1, 2), markers]) + 0.5
    return KeypointsOnImage([Keypoint(x=x, y=y) for y, x in positions], shape)


def _points_of_imgaug(
    moved: Any,
    points: np.ndarray,
    flip_pairs: Sequence[tuple[int, int]],
) -> np.ndarray:
    """Keypoints [N, K, 3] at their new positions, with flip_pairs swapped if it mirrored."""
    positions = np.array([(point.y, point.x) for point in moved.keypoints]) - 0.5
    origin, right, down = positions[-3:]
    new = points.astype(np.float64)
    new[..., :2] = positions[:-3].reshape(new[..., :2].shape)
    mirrored = np.linalg.det([down - origin, right - origin]) < 0
    if mirrored:
        return keypoints.swap(new, flip_pairs)
    return new


# ---- One example ---------------------------------------------------------------------------------


def _where(dataset: utils.Dataset, image_id: int) -> str:
    """Name of an image in messages."""
    info = dataset.image_info[image_id]
    if info.get("path"):
        return f"image {image_id} ({info['path']})"
    return f"image {image_id} (source {info.get('source')!r}, id {info.get('id')!r})"


def _raise_unreadable(subject: str, error: Exception) -> NoReturn:
    """Raises a DatasetError for an image or masks (`subject`) that could not be loaded."""
    raise DatasetError(f"{subject} can't be read: {type(error).__name__}: {error}") from error


def _check_prepared(dataset: Any, name: str = "the dataset") -> None:
    """Raises a DatasetError unless `dataset` is a prepared `Dataset`.

    Args:
        name: its name in the error.
    """
    needed = ("image_info", "load_image", "load_mask", "prepare")
    if isinstance(dataset, type) or any(not hasattr(dataset, attribute) for attribute in needed):
        raise DatasetError(
            f"{name} is a Dataset, such as an instance of a subclass of mrcnn.utils.Dataset."
            f" Received: {dataset!r}"
        )
    if not hasattr(dataset, "num_classes"):
        raise DatasetError(
            f"{name} is not prepared: call prepare() after adding classes and images"
        )


def _load(
    dataset: utils.Dataset,
    config: Config,
    image_id: int,
) -> tuple[np.ndarray, Masks, np.ndarray, np.ndarray | None]:
    """Loads and checks an image of a dataset with its objects.

    Objects of class 0 without a pixel are left out: so datasets of 2018 return that there is none.

    Returns:
        image [H, W, C], masks of N objects, class_ids [N] int32, keypoints [N, K, 3] float (None
        without USE_KEYPOINTS).
    """
    _check_prepared(dataset)
    count = len(dataset.image_info)
    if not isinstance(image_id, (int, np.integer)) or not 0 <= image_id < count:
        raise DatasetError(f"image ids are whole numbers in 0..{count - 1}. Received: {image_id!r}")
    where = _where(dataset, image_id)
    try:
        image = dataset.load_image(image_id)
        if image is not None:
            image = utils.pixels_of(image)
    except Exception as error:
        _raise_unreadable(where, error)
    if image is None:
        raise DatasetError(
            f"an image is an array of numbers. Received: None for {where}, which load_image returns"
            " without a return, and cv2.imread for a file that it can't read"
        )
    if image.dtype.kind not in "buif":
        raise DatasetError(f"an image is an array of numbers. Received: {image.dtype} for {where}")
    image = as_network_input(image, config, where)
    masks, class_ids = _load_masks(dataset, image_id, image.shape, where)
    points = None
    if config.USE_KEYPOINTS:
        points = _load_keypoints(dataset, config, image_id, len(class_ids))
    is_nothing = class_ids == 0
    if is_nothing.any():
        is_nothing &= ~_with_pixels(masks)
    if is_nothing.any():
        masks = masks[..., ~is_nothing]
        class_ids = class_ids[~is_nothing]
        if points is not None:
            points = points[~is_nothing]
    try:
        class_ids = _checked_class_ids(class_ids, config, where)
    except DatasetError as error:
        hint = _hint_of_source(class_ids, dataset, image_id)
        raise DatasetError(f"{error}{hint}") from None
    return image, masks, class_ids, points


def _hint_of_source(class_ids: np.ndarray, dataset: utils.Dataset, image_id: int) -> str:
    """Hint for errors of class ids that are those of the image's source."""
    source = dataset.image_info[image_id]["source"]
    for class_id in class_ids.tolist():
        name = f"{source}.{class_id}"
        number = getattr(dataset, "class_from_source_map", {}).get(name)
        if number not in (None, class_id):
            return f"; in load_mask dataset.map_source_class_id({name!r}) gives {number}"
    return ""


def _load_masks(
    dataset: utils.Dataset, image_id: int, image_shape: Sequence[int], where: str
) -> tuple[Masks, np.ndarray]:
    """Loads masks of an image, in its size, and class ids [N], numbers of any dtype."""
    load: Any = dataset.load_mask
    if _has_label_maps(dataset):
        load = dataset.load_label_maps  # type: ignore[attr-defined]
    try:
        loaded = load(image_id)
    except Exception as error:
        _raise_unreadable(f"the masks of {where}", error)
    if not isinstance(loaded, (tuple, list)) or len(loaded) != 2:
        raise DatasetError(
            f"{load.__name__} returns masks [height, width, objects] and class ids [objects]. "
            f"Received: {_described(loaded)} for {where}"
        )
    masks = loaded[0]
    if isinstance(masks, LabelMaps):
        _check_shape_of_masks(masks.shape, image_shape, where)
    else:
        masks = compact(_checked_masks(dataset, masks, image_shape, where))
    class_ids = utils.as_numbers(_as_array(loaded[1], "class ids", where))
    if class_ids.size == 0 or (class_ids.ndim == 0 and class_ids.item() is None):
        class_ids = np.zeros(0, np.int32)
    _check_kind_of_class_ids(class_ids, where)
    if len(class_ids) != masks.shape[2]:
        raise DatasetError(
            f"each mask has a class id. Received: {masks.shape[2]} masks and {len(class_ids)} "
            f"class ids for {where}"
        )
    return masks, class_ids


def _has_label_maps(dataset: utils.Dataset) -> bool:
    """Whether a dataset has a `load_label_maps` that is equivalent to its `load_mask`.

    It is not where a subclass or an instance overrides `load_mask` only.
    """
    if "load_mask" in vars(dataset):
        return False
    for kind in type(dataset).__mro__:
        if "load_label_maps" in vars(kind):
            return True
        if "load_mask" in vars(kind):
            return False
    return False


def _described(value: Any) -> str:
    """Description of a value of a wrong type in an error."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    if isinstance(value, (tuple, list)):
        kinds = ", ".join(type(part).__name__ for part in value[:5])
        return f"a {type(value).__name__} of {len(value)} ({kinds})"
    return f"{value!r:.100}"


def _as_array(values: Any, name: str, where: str) -> np.ndarray:
    """The masks or class ids that `load_mask` returned, as an array.

    Args:
        values: masks or class ids.
        name: "masks" or "class ids", for the error.
        where: names the image in the error.

    Raises:
        DatasetError: parts have different shapes.
    """
    try:
        return np.asarray(values)
    except (ValueError, TypeError) as error:
        raise DatasetError(
            f"{name} are one array. Received: {_described(values)} for {where}: {error}"
        ) from error


def _checked_masks(
    dataset: utils.Dataset, values: Any, image_shape: Sequence[int], where: str
) -> np.ndarray:
    """Masks [H, W, N] bool; raises a DatasetError for another shape, size or dtype."""
    masks = _as_array(values, "masks", where)
    height, width = image_shape[:2]
    if masks.size == 0 and (masks.ndim != 3 or masks.shape[2] == 0):
        return np.zeros((height, width, 0), bool)
    _check_shape_of_masks(masks.shape, image_shape, where)
    if masks.dtype.kind not in "buif":
        raise DatasetError(f"masks are bool or 0 and 1. Received: {masks.dtype} for {where}")
    if masks.dtype.kind == "f":
        _check_float_masks(dataset, masks, where)
    elif masks.dtype.kind in "ui":
        _check_integer_masks(dataset, masks, where)
    return masks.astype(bool, copy=False)


def _check_shape_of_masks(shape: tuple[int, ...], image_shape: Sequence[int], where: str) -> None:
    """Raises a DatasetError for masks of another shape than [H, W, N] of the image's size."""
    height, width = image_shape[:2]
    if len(shape) == 3 and shape[:2] == (height, width):
        return
    hint = ""
    if len(shape) == 3 and shape[1:] == (height, width):
        hint = "; the objects come last: np.stack(masks, axis=-1) or np.moveaxis(masks, 0, -1)"
    elif len(shape) == 3 and shape[:2] == (width, height):
        hint = f"; height and width are swapped. {utils.TURNED_HINT}"
    elif shape == (height, width):
        hint = "; a single mask is masks[..., None]"
    elif len(shape) == 1:
        hint = "; load_mask returns the masks first, then the class ids"
    raise DatasetError(
        f"masks are [height, width, objects] with the image's {(height, width)}. "
        f"Received: {shape} for {where}{hint}"
    )


# Datasets with float masks that were warned of: one warning is enough.
_warned_of_floats: weakref.WeakSet = weakref.WeakSet()


def _check_float_masks(dataset: utils.Dataset, masks: np.ndarray, where: str) -> None:
    """Raises a DatasetError for NaN or negative masks; warns of values between 0 and 1."""
    low = masks.min()
    if not low >= 0:  # also for NaN
        raise DatasetError(
            f"masks are bool or 0 and 1. Received: values such as {low:g} for {where}"
        )
    high = masks.max()
    if dataset not in _warned_of_floats and np.any((masks > 0) & (masks < high)):
        _warned_of_floats.add(dataset)
        logger.warning(
            "the masks of %s are floats between 0 and 1: every pixel above 0 counts as the"
            " object's. load_mask may return masks > .5. The same goes for other images",
            where,
        )


# Datasets of which the integer masks of one image were checked.
_checked_integers: weakref.WeakSet = weakref.WeakSet()


def _check_integer_masks(dataset: utils.Dataset, masks: np.ndarray, where: str) -> None:
    """Warns of masks with more than one value other than 0 in an object, as in a JPEG.

    Only the first image of a dataset is checked, since it takes as long as a part of reading it.
    """
    if dataset in _checked_integers:
        return
    _checked_integers.add(dataset)
    for i in range(masks.shape[2]):
        mask = masks[:, :, i]
        values = np.unique(mask[mask != 0])
        if len(values) > 1:
            logger.warning(
                "the masks of %s have %d values besides 0, from %d to %d in object %d: every pixel"
                " that is not 0 counts as the object's, of a JPEG some of the background too."
                " load_mask may return masks > 127. The same goes for other images",
                where,
                len(values),
                values[0],
                values[-1],
                i,
            )
            return


def _check_kind_of_class_ids(class_ids: np.ndarray, where: str) -> None:
    """Raises a DatasetError for class ids that are not a list of numbers."""
    hint = ""
    if class_ids.ndim == 2 and 1 in class_ids.shape:
        hint = f"; of shape {class_ids.shape}: take class_ids.ravel()"
    elif class_ids.ndim == 0:
        hint = "; one object is [class_id]"
    elif class_ids.dtype.kind in "US":
        hint = "; the id of a name is its place in dataset.class_names"
    if class_ids.ndim != 1 or class_ids.dtype.kind not in "buif":
        raise DatasetError(
            "class ids are one whole number for each mask, [objects]. "
            f"Received: {class_ids.tolist()!r:.200} for {where}{hint}"
        )


def _checked_class_ids(
    class_ids: np.ndarray,
    config: Config,
    where: str,
) -> np.ndarray:
    """Class ids as int32; raises a DatasetError for ids that are not a class's or a crowd's."""
    if class_ids.size and not np.all(class_ids == np.floor(class_ids)):
        raise DatasetError(
            f"class ids are whole numbers. Received: {class_ids.tolist()} for {where}"
        )
    magnitudes = np.abs(class_ids.astype(np.float64))
    unknown = class_ids[(magnitudes >= config.NUM_CLASSES) | (magnitudes == 0)]
    if unknown.size:
        raise DatasetError(
            f"class ids lie in 1..{config.NUM_CLASSES - 1} (NUM_CLASSES - 1; negative for crowds). "
            f"Received: {sorted(set(unknown.tolist()))} for {where}"
        )
    return class_ids.astype(np.int32)


def _load_keypoints(
    dataset: utils.Dataset,
    config: Config,
    image_id: int,
    count: int,
) -> np.ndarray:
    """Loads and checks keypoints of an image with `count` objects, [N, K, 3] float64."""
    where = _where(dataset, image_id)
    try:
        points = np.asarray(dataset.load_keypoints(image_id), np.float64)
    except Exception as error:
        _raise_unreadable(f"the keypoints of {where}", error)
    if count == 0 and points.size == 0:
        return np.zeros((0, config.NUM_KEYPOINTS, 3))
    shape = (count, config.NUM_KEYPOINTS, 3)
    if points.shape != shape:
        raise DatasetError(
            "keypoints are [objects, NUM_KEYPOINTS, (y, x, visibility)], here "
            f"{shape}. Received: {points.shape} for {where}"
        )
    if not np.isfinite(points).all() or not np.isin(points[..., 2], (0, 1, 2)).all():
        raise DatasetError(
            "the visibility of a keypoint is 0, 1 or 2, and its place a number. Received: others"
            f" for {where}"
        )
    return points


def _mirror(
    image: np.ndarray,
    masks: Masks,
    points: np.ndarray | None,
    config: Config,
) -> tuple[np.ndarray, Masks, np.ndarray | None]:
    """Image, masks and keypoints [N, K, 3] (or None), flipped horizontally."""
    if points is not None:
        points = keypoints.mirror(points, image.shape[1], config.KEYPOINT_FLIP_PAIRS)
    mirrored_image = np.ascontiguousarray(image[:, ::-1])
    mirrored: Masks
    if isinstance(masks, LabelMaps):
        mirrored = masks.with_maps(np.ascontiguousarray(masks.maps[:, :, ::-1]))
    else:
        mirrored = np.ascontiguousarray(masks[:, ::-1])
    return mirrored_image, mirrored, points


def load_image_gt(
    dataset: utils.Dataset,
    config: Config,
    image_id: int,
    augment: Any = False,
    augmentation: Any = None,
    use_mini_mask: bool = False,
    *,
    rng: np.random.Generator | None = None,
    jitter: bool = False,
    partners: Sequence[int] | np.ndarray | None = None,
) -> tuple[np.ndarray, ...]:
    """Image and ground truth of one example (matterport: load_image_gt).

    Args:
        dataset: prepared `Dataset`.
        augment: the original's deprecated flag: a horizontal flip with probability .5. An
            augmentation at this position, as in the TF2 fork, is accepted, too.
        augmentation: see `apply_augmentation`.
        use_mini_mask: crop masks to their boxes and resize them to MINI_MASK_SHAPE.
        rng: numpy Generator; None uses the `random` module, as the original does.
        jitter: apply the random changes of training: shorter edge from IMAGE_MIN_DIM_CHOICES or
            scale from SCALE_JITTER, and HORIZONTAL_FLIP, MOSAIC and COPY_PASTE with these
            probabilities.
        partners: ids of images to mix in; None for all whose source labels the same classes.

    Returns:
        image: [H, W, C], not molded.
        image_meta: see `compose_image_meta`.
        class_ids: [N] int32.
        boxes: [N, 4] int32.
        masks: [H, W, N] bool, or [h, w, N] with use_mini_mask. Objects without a pixel are left
            out.
        keypoints: [N, K, (y, x, visibility)] float64; only with USE_KEYPOINTS, otherwise five
            values are returned.

    Raises:
        DatasetError: the image or its annotations are invalid; the message names both.
    """
    config = as_config(config)
    if augmentation is None and (callable(augment) or hasattr(augment, "augment_images")):
        augmentation = augment
        augment = False
    if jitter and _draws(config):
        rng = _generator(rng)
    view = _view(dataset, config, image_id, rng, jitter)
    if jitter and (config.MOSAIC or config.COPY_PASTE):
        view = _mixed(view, dataset, config, image_id, _generator(rng), partners)
    image, masks, class_ids, points, *rest = view
    original_shape, window, scale = rest
    if augment:
        logger.warning("load_image_gt(augment=True) is outdated; use augmentation")
        if _coin(rng):
            image, masks, points = _mirror(image, masks, points, config)
    if augmentation is not None:
        rng = _generator(rng)
        try:
            image, masks, *rest = apply_augmentation(
                augmentation, image, masks, rng, points, config.KEYPOINT_FLIP_PAIRS
            )
        except Exception as error:  # an error of the user's code keeps its type
            error.add_note(f"in the augmentation of {_where(dataset, image_id)}")
            raise
        points = None
        if rest:
            points = rest[0]
    boxes = _boxes_of(masks)
    has_pixels = boxes[:, 2] > 0
    if not has_pixels.all():
        masks = masks[..., has_pixels]
        class_ids = class_ids[has_pixels]
        boxes = boxes[has_pixels]
        if points is not None:
            points = points[has_pixels]
    if use_mini_mask:
        arrays = utils.minimize_mask(boxes, masks, config.MINI_MASK_SHAPE)
    else:
        arrays = np.asarray(masks)
    active = _active_classes(dataset, image_id)
    meta = compose_image_meta(image_id, original_shape, image.shape, window, scale, active)
    if points is None:
        return image, meta, class_ids, boxes, arrays
    return image, meta, class_ids, boxes, arrays, points


def _with_pixels(masks):
    """[N] bool, True for masks, of either type, that have a pixel."""
    if isinstance(masks, LabelMaps):
        return masks.has_pixels
    return masks.any(axis=(0, 1))


def _boxes_of(masks):
    """Tight boxes [N, 4] of masks of either type."""
    if isinstance(masks, LabelMaps):
        return masks.boxes()
    return utils.extract_bboxes(masks)


class _View(NamedTuple):
    """A resized image and its objects; points is None without keypoints."""

    image: np.ndarray
    masks: Masks
    class_ids: np.ndarray
    points: np.ndarray | None
    original_shape: tuple[int, ...]
    window: Any
    scale: float


def _draws(config: Config) -> bool:
    """Whether settings make training examples random."""
    is_jittered = len(config.IMAGE_MIN_DIM_CHOICES) or len(config.SCALE_JITTER)
    return bool(is_jittered or config.HORIZONTAL_FLIP or config.MOSAIC or config.COPY_PASTE)


def _view(
    dataset: utils.Dataset,
    config: Config,
    image_id: int,
    rng: np.random.Generator | None,
    jitter: bool,
) -> _View:
    """One image of a dataset, resized; with jitter, randomly flipped and scaled."""
    image, masks, class_ids, points = _load(dataset, config, image_id)
    original_shape = image.shape
    _warn_of_empty_masks(masks, _where(dataset, image_id))
    min_dim = config.IMAGE_MIN_DIM
    factor = None
    if jitter and rng is not None:
        if len(config.IMAGE_MIN_DIM_CHOICES):
            min_dim = int(rng.choice(config.IMAGE_MIN_DIM_CHOICES))
        # With IMAGE_MIN_DIM_CHOICES always draw, so that runs of earlier versions stay the same.
        may_flip = config.HORIZONTAL_FLIP or len(config.IMAGE_MIN_DIM_CHOICES)
        if may_flip and rng.random() < config.HORIZONTAL_FLIP:
            image, masks, points = _mirror(image, masks, points, config)
        if len(config.SCALE_JITTER):
            low, high = config.SCALE_JITTER
            factor = float(rng.uniform(low, high))
    if factor is None or rng is None:
        resized = _resize(image, masks, points, config, min_dim, rng)
    else:
        resized = _resize_jittered(image, masks, points, config, factor, rng)
    image, masks, points, window, scale = resized
    return _View(image, masks, class_ids, points, original_shape, window, scale)


def _resize_jittered(
    image: np.ndarray,
    masks: Masks,
    points: np.ndarray | None,
    config: Config,
    factor: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, Masks, np.ndarray | None, Any, float]:
    """`_resize` to the same size with the scale times a factor, randomly cropped or padded."""
    scale, *size = utils.resized_size(
        image.shape,
        min_dim=config.IMAGE_MIN_DIM,
        min_scale=config.IMAGE_MIN_SCALE,
        max_dim=config.IMAGE_MAX_DIM,
        mode=config.IMAGE_RESIZE_MODE,
        exact=config.FLOAT_RESIZE,
    )
    placed = augmenting.place(image, masks, size, rng, scale * factor, points)
    return (*placed, scale * factor)


def _generator(rng: np.random.Generator | None) -> np.random.Generator:
    """rng, or for None a generator seeded by the `random` module."""
    if rng is not None:
        return rng
    return np.random.default_rng(random.getrandbits(64))


def _coin(rng: np.random.Generator | None) -> bool:
    """True with probability .5, from the `random` module if rng is None."""
    if rng is None:
        return bool(random.randint(0, 1))
    return bool(rng.integers(2))


def _warn_of_empty_masks(masks: Masks, where: str) -> None:
    """Warns, at the caller of `load_image_gt`, of masks without a pixel."""
    has_pixels = _with_pixels(masks)
    if not has_pixels.all():
        warnings.warn(
            f"objects {np.flatnonzero(~has_pixels).tolist()} of {where} have an empty mask"
            " and are left out",
            stacklevel=4,
        )


def _resize(
    image: np.ndarray,
    masks: Masks,
    points: np.ndarray | None,
    config: Config,
    min_dim: int,
    rng: np.random.Generator | None,
) -> tuple[np.ndarray, Masks, np.ndarray | None, Any, float]:
    """Image, masks and keypoints (or None), resized; the window and the scale."""
    image, window, scale, padding, crop = utils.resize_image(
        image,
        min_dim=min_dim,
        min_scale=config.IMAGE_MIN_SCALE,
        max_dim=config.IMAGE_MAX_DIM,
        mode=config.IMAGE_RESIZE_MODE,
        rng=rng,
        exact=config.FLOAT_RESIZE,
    )
    masks = utils.resize_mask(masks, scale, padding, crop, exact=config.FLOAT_RESIZE)
    if points is not None:
        # Position of the new origin in the scaled image.
        if crop is not None:
            origin = np.array(crop[:2])
        else:
            origin = -np.array([padding[0][0], padding[1][0]])
        positions = points[..., :2] * scale - origin
        visibility = points[..., 2:]
        points = np.concatenate([positions, visibility], axis=-1)
        points = keypoints.hide_outside(points, image.shape)
    return image, masks, points, window, scale


# ---- Examples of several images ------------------------------------------------------------------


def _mixed(
    view: _View,
    dataset: utils.Dataset,
    config: Config,
    image_id: int,
    rng: np.random.Generator,
    partners: Sequence[int] | np.ndarray | None,
) -> _View:
    """Applies MOSAIC and COPY_PASTE with random images among the partners."""
    if partners is None:
        partners = _partners(dataset, image_id)
    others = np.asarray(partners)
    others = others[others != image_id]

    def draw(count: int) -> Iterator[_View]:
        # Without repetition where there are enough images.
        for partner in rng.choice(others, count, replace=count > len(others)).tolist():
            _check_partner(dataset, image_id, partner)
            yield _view(dataset, config, partner, rng, jitter=True)

    if config.MOSAIC and rng.random() < config.MOSAIC and len(others):
        view = _mosaic([view, *draw(3)], config, rng)
    if config.COPY_PASTE and rng.random() < config.COPY_PASTE and len(others):
        (other,) = draw(1)
        view = _copy_paste(view, other, config, rng)
    return view


def _mosaic(views: Sequence[_View], config: Config, rng: np.random.Generator) -> _View:
    """Crops of four views, without their padding, in the size of the first."""
    unpadded = [_without_padding(view) for view in views]
    points = None
    if config.USE_KEYPOINTS:
        points = [view.points for view in unpadded]
    image, masks, class_ids, *rest = augmenting.mosaic(
        [view.image for view in unpadded],
        [np.asarray(view.masks) for view in unpadded],
        [view.class_ids for view in unpadded],
        rng,
        shape=views[0].image.shape,
        points=points,
        fill=_padding_value(config),
    )
    window = (0, 0, *image.shape[:2])
    new_points = None
    if rest:
        new_points = rest[0]
    first = views[0]
    labels = LabelMaps.of_masks(masks)
    return _View(image, labels, class_ids, new_points, first.original_shape, window, first.scale)


def _without_padding(view: _View) -> _View:
    y1, x1, y2, x2 = view.window
    points = view.points
    if points is not None:
        labelled = points[..., 2:] > 0
        points = np.where(labelled, points - (y1, x1, 0), 0)
    image = view.image[y1:y2, x1:x2]
    masks = view.masks
    if isinstance(masks, LabelMaps):
        masks = masks.with_maps(masks.maps[:, y1:y2, x1:x2])
    else:
        masks = masks[y1:y2, x1:x2]
    return view._replace(image=image, masks=masks, points=points)


def _padding_value(config: Config) -> Any:
    """The pixel value that equals padding after molding."""
    if config.FLOAT_RESIZE:
        return config.MEAN_PIXEL
    return 0


def _copy_paste(view: _View, other: _View, config: Config, rng: np.random.Generator) -> _View:
    """Pastes objects of another view into this one, up to MAX_GT_INSTANCES in all.

    The window is extended to objects in the padding.
    """
    image = view.image
    if config.FLOAT_RESIZE:
        image = _with_mean_around(image, view.window, config)
    image, masks, class_ids, *rest = augmenting.copy_paste(
        image,
        np.asarray(view.masks),
        view.class_ids,
        other.image,
        np.asarray(other.masks),
        other.class_ids,
        rng,
        limit=config.MAX_GT_INSTANCES,
        points=view.points,
        other_points=other.points,
    )
    labels = LabelMaps.of_masks(masks)
    window = view.window
    if tuple(window) != (0, 0, *image.shape[:2]) and len(class_ids):
        boxes = labels.boxes()
        top_left = np.minimum(window[:2], boxes[:, :2].min(axis=0))
        bottom_right = np.maximum(window[2:], boxes[:, 2:].max(axis=0))
        window = (*top_left.tolist(), *bottom_right.tolist())
    points = None
    if rest:
        points = rest[0]
    return view._replace(
        image=image, masks=labels, class_ids=class_ids, points=points, window=window
    )


def _with_mean_around(image: np.ndarray, window: Any, config: Config) -> np.ndarray:
    """An image with MEAN_PIXEL as padding, rounded for integer dtypes."""
    y1, x1, y2, x2 = window
    new = np.empty_like(image)
    mean = np.broadcast_to(config.MEAN_PIXEL, image.shape[2:])
    if image.dtype.kind in "iu":
        mean = np.rint(mean)
    new[...] = mean.astype(image.dtype)
    new[y1:y2, x1:x2] = image[y1:y2, x1:x2]
    return new


def _partners(dataset: utils.Dataset, image_id: int, excluded: Collection[str] = ()) -> np.ndarray:
    """Ids of the images that may be mixed into an image.

    Their sources label the same classes, and their "mixing_group" in `image_info`, if any, is the
    same.

    Args:
        excluded: sources whose images are left out.
    """
    labelled = set(_labelled(dataset, image_id))
    sources = {
        source
        for source, class_ids in dataset.source_class_ids.items()
        if source not in excluded and set(class_ids) == labelled
    }
    group = dataset.image_info[image_id].get("mixing_group")
    partners = []
    for other in dataset.image_ids:
        info = dataset.image_info[other]
        if info["source"] in sources and info.get("mixing_group") == group:
            partners.append(int(other))
    return np.array(partners, int)


def _with_repeats(dataset: utils.Dataset) -> np.ndarray:
    """The image ids of an epoch, each as often as its "repeat_factor" in `image_info` says.

    Raises:
        DatasetError: a factor that is no whole number from 1 on.
    """
    ids = np.asarray(dataset.image_ids)
    if not any("repeat_factor" in info for info in dataset.image_info):
        return ids
    factors = []
    for image_id in ids:
        factor = dataset.image_info[image_id].get("repeat_factor", 1)
        if isinstance(factor, bool) or not isinstance(factor, numbers.Integral) or factor < 1:
            raise DatasetError(
                "the repeat_factor of an image, how often an epoch of training has it, is a whole"
                f" number from 1 on. Received: {factor!r} of {_where(dataset, image_id)}"
            )
        factors.append(int(factor))
    return np.repeat(ids, factors)


def _labelled(dataset: utils.Dataset, image_id: int) -> list[int]:
    """Class ids that an image's source labels, sorted."""
    return np.flatnonzero(_active_classes(dataset, image_id)).tolist()


def _check_partner(dataset: utils.Dataset, image_id: int, partner: int) -> None:
    """Raises a DatasetError for images whose sources label different classes."""
    own = _labelled(dataset, image_id)
    others = _labelled(dataset, partner)
    if own != others:
        raise DatasetError(
            "COPY_PASTE and MOSAIC mix images whose sources label the same classes. Received:"
            f" {_where(dataset, image_id)} with classes {own} and {_where(dataset, partner)} with"
            f" {others}"
        )


def _active_classes(dataset: utils.Dataset, image_id: int) -> np.ndarray:
    """[classes] int32, 1 for classes that the image's source labels, otherwise 0."""
    active = np.zeros([dataset.num_classes], dtype=np.int32)
    source = dataset.image_info[image_id]["source"]
    if source not in dataset.source_class_ids:
        raise DatasetError(_without_class(dataset, source, [image_id]))
    active[dataset.source_class_ids[source]] = 1
    return active


def _without_class(dataset: utils.Dataset, source: Any, image_ids: Sequence[int]) -> str:
    """Text of the error for images whose source has no class."""
    return (
        f"{len(image_ids)} images such as {_where(dataset, image_ids[0])} are of the source"
        f" {source!r}, and no class is: add_class({source!r}, ...). Sources with classes are"
        f" {', '.join(repr(name) for name in dataset.source_class_ids if name)}"
    )


# ---- Targets -------------------------------------------------------------------------------------


def build_rpn_targets(
    image_shape: Any,
    anchors: Any,
    gt_class_ids: np.ndarray,
    gt_boxes: np.ndarray,
    config: Config,
    *,
    rng: Random = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and deltas of sampled anchors (Ren et al. 2015; matterport: build_rpn_targets).

    Anchors are negative with an IoU below RPN_NEGATIVE_IOU to every object and below CROWD_IOU to
    every crowd; positive from RPN_POSITIVE_IOU on, and where they have an object's highest IoU.
    RPN_TRAIN_ANCHORS_PER_IMAGE of these are sampled, at most half of them positive.

    Args:
        image_shape: not used.
        anchors: [A, 4] in pixels, or `utils.BoxBlocks` of them, to be reused for other images.
        gt_class_ids: [N] int; gt_boxes: [N, 4].
        rng: numpy Generator or RandomState; None for numpy's global one.

    Returns:
        rpn_match: [A] int32, 1 positive, -1 negative, 0 neutral.
        rpn_bbox: [RPN_TRAIN_ANCHORS_PER_IMAGE, 4], (dy, dx, log dh, log dw) / RPN_BBOX_STD_DEV of
            the positive anchors in the order of the anchors, then zeros.
    """
    config = as_config(config)
    if rng is None:
        # RandomState is slow at choosing a few of many without replacement.
        rng = np.random.default_rng(np.random.randint(2**31))
    size = config.RPN_TRAIN_ANCHORS_PER_IMAGE
    blocks = anchors
    if not isinstance(anchors, utils.BoxBlocks):
        blocks = utils.BoxBlocks(np.asarray(anchors, np.float64))
    gt_boxes = np.asarray(gt_boxes, np.float64).reshape(-1, 4)
    is_crowd = np.asarray(gt_class_ids) < 0
    objects = gt_boxes[~is_crowd]
    match = _match_anchors(blocks, objects, gt_boxes[is_crowd], config)
    _subsample(match, 1, size // 2, rng)
    _subsample(match, -1, size - np.count_nonzero(match == 1), rng)
    deltas = np.zeros((size, 4))
    rows = np.flatnonzero(match == 1)
    if len(rows):
        positive = blocks.boxes(rows)
        best = utils.compute_overlaps(positive, objects).argmax(axis=1)
        shifts = box_math.deltas_between(positive, objects[best])
        deltas[: len(rows)] = shifts / config.RPN_BBOX_STD_DEV
    return match, deltas


def _match_anchors(
    blocks: utils.BoxBlocks,
    objects: np.ndarray,
    crowds: np.ndarray,
    config: Config,
) -> np.ndarray:
    """[A] int32, 1 for positive anchors, -1 for negative ones, 0 for the others; not sampled."""
    match = np.full(blocks.area.size, -1, np.int32)
    for _, near, iou in blocks.overlaps(crowds):
        match[_anchors_where(near, iou >= config.CROWD_IOU)] = 0
    best, neutral, positive = _fitting_anchors(blocks, objects, config.RPN_NEGATIVE_IOU, config)
    # The best anchor of an object may have any IoU.
    unmatched = objects[best < config.RPN_NEGATIVE_IOU]
    _, _, low_iou_positive = _fitting_anchors(blocks, unmatched, 0, config)
    match[neutral] = 0
    match[positive] = 1
    match[low_iou_positive] = 1
    return match[: blocks.count]


def _fitting_anchors(
    blocks: utils.BoxBlocks,
    objects: np.ndarray,
    least_iou: float,
    config: Config,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of neutral and positive anchors for objects [N, 4].

    Args:
        least_iou: objects without an anchor of this IoU get no positive one.

    Returns:
        best: [N] IoU of each object's best anchor; values below `least_iou` may be too low.
        neutral, positive: indices of anchors of at least RPN_NEGATIVE_IOU, and of positive ones.
    """
    best = np.zeros(len(objects))
    neutral = [np.zeros(0, np.int64)]
    positive = [np.zeros(0, np.int64)]
    for rows, near, iou in blocks.overlaps(objects, least_iou):
        np.maximum.at(best, rows, iou.max(axis=1))
        best_iou = best[rows]
        positive_iou = np.minimum(best_iou, config.RPN_POSITIVE_IOU)
        positive_iou[(best_iou == 0) | (best_iou < least_iou)] = np.inf
        neutral.append(_anchors_where(near, iou >= config.RPN_NEGATIVE_IOU))
        positive.append(_anchors_where(near, iou >= positive_iou[:, None]))
    return best, np.concatenate(neutral), np.concatenate(positive)


def _anchors_where(blocks: np.ndarray, fits: np.ndarray) -> np.ndarray:
    """Indices of the anchors in blocks [P] where `fits` [P, SIZE] is True."""
    pairs, offsets = np.nonzero(fits)
    return blocks[pairs] * utils.BoxBlocks.SIZE + offsets


def _subsample(
    match: np.ndarray,
    value: int,
    limit: int,
    rng: Random,
) -> None:
    """Keeps `limit` random anchors of those whose match is `value`; makes the others neutral."""
    rows = np.flatnonzero(match == value)
    if len(rows) > limit:
        keep = rng.choice(rows, limit, replace=False)
        match[rows] = 0
        match[keep] = value


def build_detection_targets(
    rpn_rois: np.ndarray,
    gt_class_ids: np.ndarray,
    gt_boxes: np.ndarray,
    gt_masks: np.ndarray,
    config: Config,
    *,
    rng: Random = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Targets of the heads in numpy, for inspection (matterport: build_detection_targets).

    The rule is that of `model.DetectionTargetLayer`.

    Args:
        rpn_rois: [P, 4] in pixels; gt_class_ids: [N]; gt_boxes: [N, 4]; gt_masks: [H, W, N] or
            mini-masks.

    Returns:
        rois [R, 4], class_ids [R] int32, deltas [R, classes, 4] and masks [R, h, w, classes], which
        are zero but for the object's class; positives first, zero rows at the end.
    """
    config = as_config(config)
    if rng is None:
        rng = np.random
    size = config.TRAIN_ROIS_PER_IMAGE
    rpn_rois = np.asarray(rpn_rois)
    gt_boxes = np.asarray(gt_boxes)
    gt_class_ids = np.asarray(gt_class_ids)
    if config.ROI_ADD_GT and len(gt_boxes):
        rpn_rois = np.concatenate([rpn_rois, gt_boxes[gt_class_ids > 0]])
    positive, negative, best = _match_rois(rpn_rois, gt_class_ids, gt_boxes, config)
    positive, negative = _draw_rois(positive, negative, config, rng)
    rows = np.concatenate([positive, negative]).astype(int)

    rois = np.zeros((size, 4), rpn_rois.dtype)
    rois[: len(rows)] = rpn_rois[rows]
    class_ids = np.zeros(size, np.int32)
    deltas = np.zeros((size, config.NUM_CLASSES, 4), np.float32)
    masks = np.zeros((size, *config.MASK_SHAPE, config.NUM_CLASSES), np.float32)
    for i, row in enumerate(positive):
        instance = best[row]
        class_id = gt_class_ids[instance]
        class_ids[i] = class_id
        roi = rpn_rois[row].astype(np.float64)
        box = gt_boxes[instance]
        shift = box_math.deltas_between(roi[None], box[None].astype(np.float64))[0]
        deltas[i, class_id] = shift / config.BBOX_STD_DEV
        mask = gt_masks[..., instance]
        if config.USE_MINI_MASK:
            mask = _whole_mask(mask, box, roi)
        y1, x1, y2, x2 = (int(edge) for edge in np.round(roi))
        crop = mask[y1:y2, x1:x2]
        if crop.size:
            resized = utils.resize(crop.astype(float), tuple(config.MASK_SHAPE))
            masks[i, :, :, class_id] = np.round(resized)
    return rois, class_ids, deltas, masks


def _match_rois(
    rois: np.ndarray,
    gt_class_ids: np.ndarray,
    gt_boxes: np.ndarray,
    config: Config,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of positive and of negative RoIs, and of each RoI's best object [P]."""
    iou = np.zeros((len(rois), 0))
    best = np.zeros(len(rois), int)
    if len(gt_boxes):
        iou = utils.compute_overlaps(rois, gt_boxes)
    object_iou = np.where(gt_class_ids > 0, iou, 0)
    if len(gt_boxes):
        best = object_iou.argmax(axis=1)
    best_iou = object_iou.max(axis=1, initial=0)
    crowd_iou = np.where(gt_class_ids < 0, iou, 0).max(axis=1, initial=0)
    valid = rois.any(axis=1)
    is_positive = best_iou >= config.ROI_POSITIVE_IOU
    is_negative = (best_iou < config.ROI_POSITIVE_IOU) & (crowd_iou < config.CROWD_IOU)
    return np.flatnonzero(valid & is_positive), np.flatnonzero(valid & is_negative), best


def _draw_rois(
    positive: np.ndarray,
    negative: np.ndarray,
    config: Config,
    rng: Random,
) -> tuple[np.ndarray, np.ndarray]:
    """Random subsets of positive and negative RoIs in the ratio of the config."""
    size = config.TRAIN_ROIS_PER_IMAGE
    ratio = config.ROI_POSITIVE_RATIO
    quota = int(size * ratio)
    positive = rng.permutation(positive)[:quota]
    if config.ROI_FILL_NEGATIVES:
        negative_quota = size - len(positive)
    elif len(positive):
        negative_quota = int(len(positive) / ratio) - len(positive)
    else:
        negative_quota = size - quota
    return positive, rng.permutation(negative)[:negative_quota]


def _whole_mask(
    mini_mask: np.ndarray,
    box: np.ndarray,
    roi: np.ndarray,
) -> np.ndarray:
    """A mini-mask pasted into the part of the image up to its box and a RoI, bool."""
    whole = np.zeros(np.maximum(box[2:], np.ceil(roi[2:]).astype(int)), bool)
    y1, x1, y2, x2 = (int(edge) for edge in box)
    whole[y1:y2, x1:x2] = utils.resize(mini_mask.astype(float), (y2 - y1, x2 - x1)) >= 0.5
    return whole


def generate_random_rois(
    image_shape: Sequence[int],
    count: int,
    gt_class_ids: Any,
    gt_boxes: np.ndarray,
    *,
    rng: Random = None,
) -> np.ndarray:
    """RoIs to train the heads without an RPN (matterport: generate_random_rois).

    90% are near objects, the others anywhere.

    Returns:
        [count, 4] int32 in pixels, inside the image, at least one pixel wide and high.
    """
    if rng is None:
        rng = np.random
    height, width = image_shape[:2]
    per_box = 0
    if len(gt_boxes):
        per_box = int(0.9 * count / len(gt_boxes))
    areas = []
    for y1, x1, y2, x2 in np.asarray(gt_boxes).reshape(-1, 4):
        h = y2 - y1
        w = x2 - x1
        area = (max(y1 - h, 0), max(x1 - w, 0), min(y2 + h, height), min(x2 + w, width))
        areas += [area] * per_box
    areas += [(0, 0, height, width)] * (count - len(areas))
    low = np.array(areas)[:, :2]
    high = np.array(areas)[:, 2:]
    if hasattr(rng, "random_sample"):
        shares = rng.random_sample((count, 2, 2))
    else:
        shares = rng.random((count, 2, 2))
    corners = low[:, None] + shares * (high - low)[:, None]
    first = np.minimum(np.floor(corners.min(axis=1)).astype(np.int32), high - 1)
    last = np.maximum(np.ceil(corners.max(axis=1)).astype(np.int32), first + 1)
    return np.concatenate([first, last], axis=1).astype(np.int32)


# ---- Batches -------------------------------------------------------------------------------------


class _Example(NamedTuple):
    """The result of `load_image_gt` for an image; keypoints None without USE_KEYPOINTS."""

    image: np.ndarray
    meta: np.ndarray
    class_ids: np.ndarray
    boxes: np.ndarray
    masks: np.ndarray
    keypoints: np.ndarray | None = None


def _sources_of(dataset: Any, names: str | Collection[str] | None) -> set[str]:
    """The set of `no_augmentation_sources`; warns of those without an image.

    Args:
        names: names of sources, or one name.
    """
    if names is None:
        return set()
    if isinstance(names, str):
        names = [names]
    requested = set(names)
    present = {info["source"] for info in getattr(dataset, "image_info", ())}
    if missing := sorted(map(str, requested - present)):
        logger.warning(
            "no_augmentation_sources: no image is of %s; the images' sources are %s",
            ", ".join(map(repr, missing)),
            ", ".join(map(repr, sorted(map(str, present)))) or "none",
        )
    return requested


class TrainingBatches:
    """Batches of an endless run over a dataset, by step; the same for the same seed.

    Each epoch has each image once, in an order of its own; epochs need not end with a batch. Each
    example has its own generator, seeded by (seed, index of the example), so that threads can make
    batches in any order.

    Args:
        dataset, config: as for `load_image_gt`.
        shuffle: False keeps the dataset's order; True takes its `training_order`, if it has one.
        augment, augmentation, jitter: see `load_image_gt`.
        no_augmentation_sources: sources, or one, whose images are neither augmented nor mixed into
            others.
        seed: int.
        batch_size: None for the config's.
        random_rois: number of random RoIs per image to add to the inputs, 0 for none.
        detection_targets: with random_rois, return their targets as well.
        needs_objects: raise a DatasetError after an epoch without any object.
        repeats: whether an epoch has images as often as their "repeat_factor" says; validation has
            each once.
        share: (i, n) for the i-th of n shares of a batch n times as large, for training on n
            machines, which together see each image once in an epoch.
    """

    def __init__(
        self,
        dataset: utils.Dataset,
        config: Config,
        *,
        shuffle: bool = True,
        augment: bool = False,
        augmentation: Any = None,
        no_augmentation_sources: str | Collection[str] | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        random_rois: int = 0,
        detection_targets: bool = False,
        jitter: bool = False,
        needs_objects: bool = False,
        repeats: bool = True,
        share: tuple[int, int] = (0, 1),
    ):
        self.dataset = dataset
        self.share = share
        self.config = config = as_config(config)
        self.shuffle = shuffle
        self.seed = seed
        self.augment = augment
        self.augmentation = augmentation
        self.jitter = jitter
        self.no_augmentation_sources = _sources_of(dataset, no_augmentation_sources)
        self.batch_size = batch_size or config.BATCH_SIZE
        self.random_rois = random_rois
        self.detection_targets = detection_targets
        self._warned_too_many = False
        # {(source, mixing group): ids of the images that may be mixed into its images}.
        self._partners: dict[tuple[Any, Any], np.ndarray] = {}
        self._anchors: dict[tuple[int, ...], utils.BoxBlocks] = {}
        # Images without objects so far; None once there was an object, or where none is needed.
        self._without_objects: set[int] | None = None
        if needs_objects:
            self._without_objects = set()
        _check_prepared(dataset)
        if len(dataset.image_ids) == 0:
            raise DatasetError("a dataset to train on has images. Received: one without")
        self._epoch_ids = np.asarray(dataset.image_ids)
        if repeats:
            self._epoch_ids = _with_repeats(dataset)
            order = getattr(dataset, "training_order", None)
            if shuffle and order is not None:
                self._epoch_ids = np.asarray(order)
                self.shuffle = False

    def __len__(self) -> int:
        """Number of batches of an epoch; the last one may extend into the next epoch."""
        return math.ceil(len(self._epoch_ids) / (self.batch_size * self.share[1]))

    def image_ids(self, step: int) -> list[int]:
        """The image ids of a batch, in order."""
        return [self._image_id(number) for number in self._numbers(step)]

    def _numbers(self, step: int) -> range:
        """Indices of a batch's examples in the run."""
        share, shares = self.share
        start = (step * shares + share) * self.batch_size
        return range(start, start + self.batch_size)

    def _image_id(self, number: int) -> int:
        """The image id of an example, by its index in the run."""
        ids = self._epoch_ids
        epoch, index = divmod(number, len(ids))
        if self.shuffle:
            ids = np.random.default_rng([self.seed, 1, epoch]).permutation(ids)
        return int(ids[index])

    def anchors(self, shape: Sequence[int]) -> utils.BoxBlocks:
        """Anchors of a molded image, [A, 4] in pixels, as `utils.BoxBlocks`."""
        key = tuple(shape[:2])
        if key not in self._anchors:
            if len(self._anchors) > 8:
                self._anchors.clear()
            self._anchors[key] = utils.BoxBlocks(compute_anchors(self.config, shape))
        return self._anchors[key]

    def batch(self, step: int) -> tuple[list[np.ndarray], list[int], list[np.ndarray]]:
        """The inputs of a training step.

        Returns:
            inputs: images [B, H, W, C] float32 molded, metas [B, meta] float64, rpn_match [B, A, 1]
                int32, rpn_bbox [B, n, 4], class_ids [B, G] int32, boxes [B, G, 4] int32, with
                USE_MASK masks [B, h, w, G] bool; with USE_KEYPOINTS keypoints [B, G, K, 3] float32;
                with random_rois rois [B, R, 4] int32.
            image_ids: list.
            targets: arrays of `build_detection_targets` with detection_targets, otherwise [].
        """
        rngs = [np.random.default_rng([self.seed, 2, number]) for number in self._numbers(step)]
        ids = self.image_ids(step)
        examples = [self._example(image_id, rng) for image_id, rng in zip(ids, rngs)]
        # Images of different sizes are padded on the right and at the bottom to the largest.
        shape = np.max([example.image.shape for example in examples], axis=0)
        inputs = self._empty_inputs(shape, len(examples[0].meta))
        all_rois = []
        all_targets = []
        for i, (example, rng) in enumerate(zip(examples, rngs)):
            self._fill(inputs, i, example, rng)
            if not self.random_rois:
                continue
            labels = (example.class_ids, example.boxes)
            rois = generate_random_rois(shape, self.random_rois, *labels, rng=rng)
            all_rois.append(rois)
            if self.detection_targets:
                targets = build_detection_targets(
                    rois, *labels, example.masks, self.config, rng=rng
                )
                all_targets.append(targets)
        inputs["images"] = self._mold(inputs["images"], inputs["metas"])
        if all_rois:
            inputs["rois"] = np.stack(all_rois)
        return list(inputs.values()), ids, [np.stack(part) for part in zip(*all_targets)]

    def _empty_inputs(self, shape: Sequence[int], meta_length: int) -> dict[str, np.ndarray]:
        """The inputs of a batch by name, as zeros, without RoIs, in the order of `batch`."""
        config = self.config
        count = self.batch_size
        limit = config.MAX_GT_INSTANCES
        anchor_count = self.anchors(shape).count
        inputs: dict[str, np.ndarray] = {
            "images": np.zeros((count, *shape), np.float32),
            "metas": np.zeros((count, meta_length), np.float64),
            "rpn_match": np.zeros((count, anchor_count, 1), np.int32),
            "rpn_bbox": np.zeros((count, config.RPN_TRAIN_ANCHORS_PER_IMAGE, 4)),
            "class_ids": np.zeros((count, limit), np.int32),
            "boxes": np.zeros((count, limit, 4), np.int32),
        }
        if config.USE_MASK:
            mask_shape = tuple(shape[:2])
            if config.USE_MINI_MASK:
                mask_shape = tuple(config.MINI_MASK_SHAPE)
            inputs["masks"] = np.zeros((count, *mask_shape, limit), bool)
        if config.USE_KEYPOINTS:
            inputs["keypoints"] = np.zeros((count, limit, config.NUM_KEYPOINTS, 3), np.float32)
        return inputs

    def _fill(
        self,
        inputs: dict[str, np.ndarray],
        i: int,
        example: _Example,
        rng: np.random.Generator,
    ) -> None:
        """Writes an example and its RPN targets into row i of a batch."""
        shape = inputs["images"].shape[1:]
        height, width = example.image.shape[:2]
        count = len(example.class_ids)
        inputs["images"][i, :height, :width] = example.image
        inputs["metas"][i] = example.meta
        inputs["metas"][i, META["image_shape"]][:2] = shape[:2]
        match, deltas = build_rpn_targets(
            shape, self.anchors(shape), example.class_ids, example.boxes, self.config, rng=rng
        )
        inputs["rpn_match"][i, :, 0] = match
        inputs["rpn_bbox"][i] = deltas
        inputs["class_ids"][i, :count] = example.class_ids
        inputs["boxes"][i, :count] = example.boxes
        if "masks" in inputs:
            mask_height, mask_width = example.masks.shape[:2]
            inputs["masks"][i, :mask_height, :mask_width, :count] = example.masks
        if "keypoints" in inputs:
            inputs["keypoints"][i, :count] = example.keypoints

    def _mold(self, images: np.ndarray, metas: np.ndarray) -> np.ndarray:
        """Molded images of a batch, float32; with FLOAT_RESIZE padding is 0 after molding."""
        molded = mold_image(images, self.config).astype(np.float32)
        if self.config.FLOAT_RESIZE:
            for image, meta in zip(molded, metas):
                y1, x1, y2, x2 = meta[META["window"]].astype(int)
                image[:y1] = 0
                image[y2:] = 0
                image[:, :x1] = 0
                image[:, x2:] = 0
        return molded

    def pair(self, step: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """`batch` in the structure that the original yields.

        Returns:
            inputs, and [] or [rois' class ids [B, R, 1], deltas, masks].
        """
        inputs, _, targets = self.batch(step)
        if not targets:
            return inputs, []
        rois, class_ids, deltas, masks = targets
        return [*inputs, rois], [class_ids[..., None], deltas, masks]

    def _example(self, image_id: int, rng: np.random.Generator) -> _Example:
        """An image and its objects, at most MAX_GT_INSTANCES of them."""
        is_excluded = self.dataset.image_info[image_id]["source"] in self.no_augmentation_sources
        augmentation = self.augmentation
        if is_excluded:
            augmentation = None
        loaded = load_image_gt(
            self.dataset,
            self.config,
            image_id,
            augment=self.augment and not is_excluded,
            augmentation=augmentation,
            use_mini_mask=self.config.USE_MINI_MASK,
            rng=rng,
            jitter=self.jitter and not is_excluded,
            partners=self._partners_of(image_id),
        )
        example = _Example(*loaded)
        check_sides(example.image.shape, self.config, _where(self.dataset, image_id))
        if self._without_objects is not None:
            self._look_for_objects(image_id, example.class_ids)
        count = len(example.class_ids)
        limit = self.config.MAX_GT_INSTANCES
        if count <= limit:
            return example
        if not self._warned_too_many:
            self._warned_too_many = True
            logger.warning(
                "the example of %s has %d objects; a random %d of them are used"
                " (MAX_GT_INSTANCES). The same goes for other images with more",
                _where(self.dataset, image_id),
                count,
                limit,
            )
        keep = rng.choice(count, limit, replace=False)
        points = example.keypoints
        if points is not None:
            points = points[keep]
        return _Example(
            example.image,
            example.meta,
            example.class_ids[keep],
            example.boxes[keep],
            example.masks[..., keep],
            points,
        )

    def _partners_of(self, image_id: int) -> np.ndarray | None:
        """Images that may be mixed into an image; None without MOSAIC and COPY_PASTE."""
        if not self.jitter or not (self.config.MOSAIC or self.config.COPY_PASTE):
            return None
        info = self.dataset.image_info[image_id]
        key = (info["source"], info.get("mixing_group"))
        if key not in self._partners:
            self._partners[key] = _partners(self.dataset, image_id, self.no_augmentation_sources)
        return self._partners[key]

    def _look_for_objects(self, image_id: int, class_ids: np.ndarray) -> None:
        """Raises a DatasetError if no image of the dataset has an object.

        Args:
            class_ids: of the example; a crop or an augmentation may have removed its objects.
        """
        has_objects = bool((class_ids > 0).any())
        if not has_objects:
            _, masks, class_ids, _ = _load(self.dataset, self.config, image_id)
            has_objects = _has_objects(masks, class_ids)
        if has_objects:
            self._without_objects = None
            return
        without_objects = self._without_objects
        if without_objects is not None:
            without_objects.add(image_id)
            if len(without_objects) == len(self.dataset.image_ids):
                raise DatasetError(_nothing_to_learn(self.dataset, len(without_objects)))


def _has_objects(masks: Masks, class_ids: np.ndarray) -> bool:
    """Whether an image has an object that has pixels and is not a crowd."""
    return bool(_with_pixels(masks)[class_ids > 0].any())


def _nothing_to_learn(dataset: utils.Dataset, count: int) -> str:
    """Text of the error for a dataset of `count` images without any object."""
    return (
        f"none of the {count} images, from {_where(dataset, dataset.image_ids[0])} on, has an"
        " object to learn from: one with a class id above 0 (crowds, iscrowd: 1, have ids below 0)"
        " and a mask that is not empty"
    )


def data_generator(
    dataset: utils.Dataset,
    config: Config,
    shuffle: bool = True,
    augment: bool = False,
    augmentation: Any = None,
    random_rois: int = 0,
    batch_size: int = 1,
    detection_targets: bool = False,
    no_augmentation_sources: str | Collection[str] | None = None,
    seed: int | None = None,
) -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
    """Endless `(inputs, outputs)` as in the original (matterport: data_generator).

    See `TrainingBatches.batch`.

    Yields:
        inputs, and [] or with detection_targets [rois' class ids [B, R, 1], deltas, masks].
    """
    config = as_config(config)
    if seed is None:
        seed = config.SEED
    if seed is None:
        seed = int(np.random.randint(2**31))
    batches = TrainingBatches(
        dataset,
        config,
        shuffle=shuffle,
        augment=augment,
        augmentation=augmentation,
        no_augmentation_sources=no_augmentation_sources,
        seed=seed,
        batch_size=batch_size,
        random_rois=random_rois,
        detection_targets=detection_targets,
    )
    step = 0
    while True:
        yield batches.pair(step)
        step += 1


# ---- Checking ------------------------------------------------------------------------------------


def check_dataset(
    dataset: utils.Dataset,
    config: Config,
    name: str = "the dataset",
    needs_objects: bool = True,
) -> None:
    """Reads every image and mask before training starts.

    With CHECK_IMAGES, only this number, spread over the dataset.

    Args:
        name: the dataset's name in errors.
        needs_objects: raise an error if no image has an object; otherwise warn.

    Raises:
        DatasetError: lists every problem with the image's id and path: unreadable images, masks of
            another size, class ids out of range; no images, no classes, no objects, no class of an
            image's source, or a number of classes other than NUM_CLASSES.
    """
    _check_prepared(dataset, name)
    added = len(dataset.image_info) - dataset.num_images
    if added > 0:
        logger.warning(
            "%s: %d images that were added after prepare() are not used; call it after them",
            name,
            added,
        )
    problems = []
    if dataset.num_classes < 2:
        problems.append("no classes: call add_class() before prepare()")
    elif dataset.num_classes != config.NUM_CLASSES:
        problems.append(
            f"NUM_CLASSES is {config.NUM_CLASSES}, the dataset has {dataset.num_classes} with the "
            f"background: {', '.join(map(str, dataset.class_names[:20]))}"
        )
    if len(dataset.image_ids) == 0:
        problems.append("no images: call add_image() before prepare()")
    if dataset.num_classes >= 2:
        problems += _source_problems(dataset)
    if not problems:
        check = _Check(dataset, config)
        problems = list(check.problems())
        if not problems and check.read == len(dataset.image_ids) and not check.found_object:
            text = _nothing_to_learn(dataset, check.read)
            if needs_objects:
                problems.append(text)
            else:
                logger.warning("%s: %s", name, text)
    if problems:
        raise DatasetError(
            f"{name} has {len(problems)} problem(s), training does not start:\n  "
            + "\n  ".join(problems)
        )


def _source_problems(dataset: utils.Dataset) -> Iterator[str]:
    """Yields the problems of images whose source has no class."""
    by_source: dict[Any, list[int]] = {}
    for image_id in dataset.image_ids:
        source = dataset.image_info[image_id]["source"]
        if source not in dataset.source_class_ids:
            by_source.setdefault(source, []).append(int(image_id))
    for source, image_ids in by_source.items():
        yield _without_class(dataset, source, image_ids)


class _Check:
    """Reads the images of a dataset that CHECK_IMAGES selects.

    Attributes:
        read: number of images read.
        found_object: whether one of them has an object.
    """

    def __init__(self, dataset: utils.Dataset, config: Config):
        self.dataset = dataset
        self.config = config
        self.read = 0
        self.found_object = False

    def problems(self) -> Iterator[str]:
        """Yields the problems of the images, as texts."""
        image_ids = np.asarray(self.dataset.image_ids)
        total = len(image_ids)
        limit = self.config.CHECK_IMAGES
        if limit is not None and limit < total:
            indices = np.linspace(0, total - 1, limit).astype(int)
            image_ids = image_ids[indices]
            total = len(image_ids)
        start = time.monotonic()
        is_silent = not sys.stderr.isatty()  # the progress bar needs a terminal
        with concurrent.futures.ThreadPoolExecutor(max(self.config.WORKERS, 1)) as pool:
            for done, text in enumerate(pool.map(self._problem, image_ids), 1):
                self.read = done
                seconds = time.monotonic() - start
                # Short checks need no progress bar.
                if seconds > 2 and is_silent:
                    is_silent = False
                    print(f"checking {total} images ...", file=sys.stderr, flush=True)
                if seconds > 2 and (done % 20 == 0 or done == total):
                    utils.show_progress("checking", done, total, seconds)
                if text:
                    yield text

    def _problem(self, image_id: int) -> str | None:
        try:
            image, masks, class_ids, _ = _load(self.dataset, self.config, image_id)
            check_sides(image.shape, self.config, _where(self.dataset, image_id))
            if not self.found_object and _has_objects(masks, class_ids):
                self.found_object = True
        except ValueError as error:
            return str(error)
        return None
