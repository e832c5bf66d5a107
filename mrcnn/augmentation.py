"""Augmentation in numpy: flips, rotations, colours, noise; scale jitter, copy-paste, mosaic.

Two kinds:

- Augmentations of a single image are objects to pass as `augmentation=` of `MaskRCNN.train`:

        from mrcnn import augmentation as aug

        some = aug.SomeOf((0, 2), [aug.Flip(0.5, 0.5), aug.Turn(), aug.Brightness(), aug.Blur()])
        model.train(train_set, val_set, learning_rate, epochs, "all", augmentation=some)

  Each is a function f(image, masks, keypoints=None, *, rng=None, flip_pairs=()), which can also be
  called directly. `Chain`, `SomeOf` and `Sometimes` also accept your own functions (`call`).

- Augmentations that need the size of the result or other images are enabled by settings,
  SCALE_JITTER, COPY_PASTE and MOSAIC; the functions are `place`, `copy_paste` and `mosaic`.

Masks stay exact: a mask has the pixels that show its object, and objects without a pixel are
dropped. Images are [H, W, C] of any number of channels and any numeric dtype, masks [H, W, N] bool
(the objects also accept `mrcnn.masks.LabelMaps`, and return them), class ids [N], below zero for
crowds; keypoints [N, K, (y, x, visibility)] (`mrcnn.keypoints`). Inputs are never edited; views of
them may be returned.
"""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mrcnn import keypoints as joints, utils
from mrcnn.boxes import extract_bboxes
from mrcnn.masks import LabelMaps

# A function f(image, masks), which may take further arguments, see `call`.
Augmentation = Callable[..., tuple]


# ---- Calling functions ---------------------------------------------------------------------------

# Keyword arguments that a function gets if it has a parameter of that name.
BY_NAME = ("rng", "flip_pairs")


def call(
    function: Augmentation,
    image: np.ndarray,
    masks: np.ndarray,
    points: np.ndarray | None = None,
    *,
    rng: np.random.Generator,
    flip_pairs: Sequence[tuple[int, int]] = (),
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Calls an augmentation function with the arguments that it takes.

    Args:
        function: f(image, masks) -> (image, masks), with keypoints f(image, masks, keypoints) ->
            (image, masks, keypoints). A parameter named `rng` gets the example's numpy Generator,
            one named `flip_pairs` the pairs of left and right keypoints (KEYPOINT_FLIP_PAIRS). Only
            a function that draws from `rng` is reproducible by SEED, with any number of WORKERS.
        image, masks: see the module.
        points: keypoints [N, K, 3] or None.
        rng, flip_pairs: passed if the function takes them.

    Returns:
        image, masks and keypoints; the last is None if none were given or returned.

    Raises:
        ValueError: there are keypoints, and the third parameter is `rng` or `flip_pairs`; or the
            function returned something else.
    """
    positional = [image, masks]
    if points is not None:
        positional.append(points)
    available = {"rng": rng, "flip_pairs": flip_pairs}
    keywords = {name: available[name] for name in _accepted_names(function, len(positional))}
    result = function(*positional, **keywords)
    if not isinstance(result, (tuple, list)) or len(result) < 2:
        raise ValueError(
            "An augmentation function returns (image, masks), with USE_KEYPOINTS (image, masks,"
            f" keypoints). Received: {type(result).__name__} from {function!r}"
        )
    new_image, new_masks, *rest = result
    new_points = None
    if rest:
        new_points = rest[0]
    return new_image, new_masks, new_points


def _accepted_names(function: Augmentation, count: int) -> list[str]:
    """Those of `BY_NAME` that a function takes, beside `count` positional arguments."""
    try:
        parameters = inspect.signature(function).parameters
    except (ValueError, TypeError):  # some functions written in C have no signature
        return []
    positional = [
        parameter.name
        for parameter in parameters.values()
        if parameter.kind != parameter.KEYWORD_ONLY
    ]
    misplaced = set(positional[:count]).intersection(BY_NAME)
    if misplaced:
        raise ValueError(
            "With USE_KEYPOINTS an augmentation function takes the keypoints after image and"
            f" masks: f(image, masks, keypoints, rng). Received: {function!r} with parameters"
            f" {', '.join(parameters)}"
        )
    already_bound: dict = {}
    if isinstance(function, functools.partial):
        already_bound = function.keywords
    return [name for name in BY_NAME if name in parameters and name not in already_bound]


def takes_label_maps(augmentation: Any) -> bool:
    """Whether an augmentation accepts `mrcnn.masks.LabelMaps`, as all of this module do."""
    return isinstance(augmentation, _Step) and type(augmentation).__module__ == __name__


class _Sample(NamedTuple):
    """An image with its objects; points is None without keypoints."""

    image: np.ndarray
    masks: Any
    points: np.ndarray | None
    flip_pairs: Sequence[tuple[int, int]]


class _Step:
    """An augmentation; a subclass has `_apply(sample, rng)` or `_change(image, rng)`."""

    def __call__(
        self,
        image: np.ndarray,
        masks: Any,
        keypoints: np.ndarray | None = None,
        *,
        rng: np.random.Generator | None = None,
        flip_pairs: Sequence[tuple[int, int]] = (),
    ) -> tuple[Any, ...]:
        """The augmented image, masks and, if they were given, keypoints.

        Args:
            image: [H, W, C].
            masks: [H, W, N] or `LabelMaps`.
            keypoints: [N, K, 3] or None.
            rng: numpy Generator; None for a new one.
            flip_pairs: pairs of left and right keypoints, which a flip swaps.
        """
        if rng is None:
            rng = np.random.default_rng()
        new = self._apply(_Sample(image, masks, keypoints, flip_pairs), rng)
        if keypoints is None:
            return new.image, new.masks
        return new.image, new.masks, new.points

    def _apply(self, sample: _Sample, rng: np.random.Generator) -> _Sample:
        """The augmented sample."""
        return sample._replace(image=self._change(sample.image, rng))

    def _change(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The augmented image; for augmentations that leave masks and keypoints unchanged."""
        raise NotImplementedError(f"{type(self).__name__} has neither _apply nor _change")

    def __repr__(self) -> str:
        settings = [f"{name}={value!r}" for name, value in vars(self).items()]
        return f"{type(self).__name__}({', '.join(settings)})"


def _probability(name: str, value: Any) -> float:
    """The value as a probability; ValueError, with the name of the argument, for another one."""
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name} is a probability of 0..1. Received: {value!r}")
    return float(value)


def _span(name: str, value: Any, least: float = -math.inf) -> tuple[float, float]:
    """(low, high) of a range, from a pair or from one number for both; ValueError otherwise."""
    pair = value
    if _is_number(value):
        pair = (value, value)
    is_pair = isinstance(pair, (Sequence, np.ndarray)) and len(pair) == 2
    if not is_pair or not all(map(_is_number, pair)) or not least <= pair[0] <= pair[1]:
        bound = ""
        if math.isfinite(least):
            bound = f" of at least {least:g}"
        raise ValueError(f"{name} is (low, high), numbers{bound}. Received: {value!r}")
    return float(pair[0]), float(pair[1])


def _is_number(value: Any) -> bool:
    """Whether a value is a finite real number, and no bool."""
    is_real = isinstance(value, (int, float, np.integer, np.floating))
    return is_real and not isinstance(value, bool) and math.isfinite(value)


def _checked_steps(steps: Sequence[Augmentation]) -> list[Augmentation]:
    """Augmentations as a list; ValueError for one of imgaug or one that is not callable."""
    for step in steps:
        if hasattr(step, "augment_images"):
            raise ValueError(
                "Augmentations of imgaug stand by themselves, as `augmentation=`, or in imgaug's"
                f" own Sequential. Received: {step!r}"
            )
        if not callable(step):
            raise ValueError(f"An augmentation is a function. Received: {step!r}")
    return list(steps)


def _run(step: Augmentation, sample: _Sample, rng: np.random.Generator) -> _Sample:
    """Applies one augmentation, of this module or a user's function, to a sample."""
    image, masks, points, flip_pairs = sample
    if not takes_label_maps(step):
        masks = np.asarray(masks)
    new_image, new_masks, new_points = call(
        step, image, masks, points, rng=rng, flip_pairs=flip_pairs
    )
    if points is not None and new_points is None:
        raise ValueError(
            "With USE_KEYPOINTS an augmentation function returns (image, masks, keypoints)."
            f" Received: no keypoints from {step!r}"
        )
    return _Sample(new_image, new_masks, new_points, flip_pairs)


class Chain(_Step):
    """Applies augmentations in sequence.

    Args:
        steps: objects of this module or functions, see `call`.
    """

    def __init__(self, steps: Sequence[Augmentation]):
        self.steps = _checked_steps(steps)

    def _apply(self, sample, rng):
        for step in self.steps:
            sample = _run(step, sample, rng)
        return sample


class SomeOf(_Step):
    """Applies a random subset of augmentations, in the given order.

    Args:
        count: size of the subset, a number or (low, high), high included.
        steps: see `Chain`.
    """

    def __init__(self, count: Any, steps: Sequence[Augmentation]):
        self.steps = _checked_steps(steps)
        low, high = _span("count of SomeOf", count, 0)
        if not low.is_integer() or not high.is_integer() or high > len(self.steps):
            raise ValueError(
                f"count of SomeOf is whole numbers up to {len(self.steps)}, that of its"
                f" augmentations. Received: {count!r}"
            )
        self.count = (int(low), int(high))

    def _apply(self, sample, rng):
        count = rng.integers(*self.count, endpoint=True)
        for i in np.sort(rng.permutation(len(self.steps))[:count]):
            sample = _run(self.steps[i], sample, rng)
        return sample


class Sometimes(_Step):
    """Applies an augmentation with a probability."""

    def __init__(self, probability: float, step: Augmentation):
        self.probability = _probability("probability of Sometimes", probability)
        (self.step,) = _checked_steps([step])

    def _apply(self, sample, rng):
        if rng.random() < self.probability:
            return _run(self.step, sample, rng)
        return sample


# ---- Flips and rotations by right angles, without interpolation ----------------------------------


class Flip(_Step):
    """Flips horizontally and vertically, with a probability for each.

    Each flip swaps left and right keypoints.
    """

    def __init__(self, horizontal: float = 0.5, vertical: float = 0.0):
        self.horizontal = _probability("horizontal of Flip", horizontal)
        self.vertical = _probability("vertical of Flip", vertical)

    def _apply(self, sample, rng):
        draws = rng.random(2)
        if draws[0] < self.horizontal:
            sample = _mirror(sample, axis=1)
        if draws[1] < self.vertical:
            sample = _mirror(sample, axis=0)
        return sample


def _mirror(sample: _Sample, axis: int) -> _Sample:
    """A flipped sample, of views: axis 1 for horizontally, 0 for vertically."""
    image, masks, points, flip_pairs = sample
    if points is not None:
        flipped = points.copy()
        labelled = points[..., 2] > 0
        mirrored = image.shape[axis] - 1 - points[..., axis]
        flipped[..., axis] = np.where(labelled, mirrored, 0)
        points = joints.swap(flipped, flip_pairs)
    if isinstance(masks, LabelMaps):
        masks = masks.with_maps(np.flip(masks.maps, axis + 1))
    else:
        masks = np.flip(masks, axis)
    return _Sample(np.flip(image, axis), masks, points, flip_pairs)


class Turn(_Step):
    """Rotates counterclockwise by a multiple of 90 degrees.

    An image that is not square keeps its size: it is rotated by 180 degrees or not at all.

    Args:
        angles: multiples of 90 degrees, one of which is drawn.
    """

    def __init__(self, angles: Sequence[int] = (0, 90, 180, 270)):
        angles = tuple(angles)
        if not angles or not all(_is_number(angle) and angle % 90 == 0 for angle in angles):
            raise ValueError(f"angles of Turn are multiples of 90. Received: {angles!r}")
        self.angles = angles

    def _apply(self, sample, rng):
        height, width = sample.image.shape[:2]
        count = int(self.angles[rng.integers(len(self.angles))]) // 90 % 4
        if height != width:
            count = count // 2 * 2
        return _rotated(sample, count)


def _rotated(sample: _Sample, count: int) -> _Sample:
    """A sample rotated counterclockwise by `count` right angles, of views."""
    image, masks, points, flip_pairs = sample
    for _ in range(count % 4):
        if points is not None:
            y, x, visibility = np.moveaxis(points, -1, 0)
            new_y = np.where(visibility > 0, image.shape[1] - 1 - x, 0)
            points = np.stack([new_y, y, visibility], axis=-1)
        image = np.rot90(image)
    if isinstance(masks, LabelMaps):
        masks = masks.with_maps(np.rot90(masks.maps, count, axes=(1, 2)))
    else:
        masks = np.rot90(masks, count)
    return _Sample(image, masks, points, flip_pairs)


# ---- Colours, blur, noise: masks are unchanged ---------------------------------------------------


def _as_dtype(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Converts values to a dtype: rounded and clipped for integers, at least .5 for bool."""
    if values.dtype == dtype:
        return values
    if dtype.kind == "b":
        return values >= 0.5
    if dtype.kind in "ui":
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return values.astype(dtype)


def _finite(image: np.ndarray) -> np.ndarray:
    """The finite values of an image; a single 0 if there are none."""
    if image.dtype.kind != "f":
        return image
    values = image[np.isfinite(image)]
    if not values.size:
        return np.zeros(1, image.dtype)
    return values


def _pixel_by_pixel(
    image: np.ndarray,
    function: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Applies a function to an image's values, for uint8 by a lookup table; keeps the dtype."""
    if image.dtype == np.uint8:
        table = _as_dtype(function(np.arange(256, dtype=np.float32)), image.dtype)
        return table[image]
    return _as_dtype(function(image.astype(np.float32)), image.dtype)


class _OfOneNumber(_Step):
    """Base class of augmentations with one number, drawn uniformly from low to high."""

    LEAST = -math.inf

    def __init__(self, low: float, high: float):
        self.low, self.high = _span(f"low, high of {type(self).__name__}", (low, high), self.LEAST)

    def _draw(self, rng: np.random.Generator) -> float:
        """A number from low to high."""
        return float(rng.uniform(self.low, self.high))


class Stretch(_Step):
    """Stretches the contrast between two percentiles to uint8, see `mrcnn.utils.stretched`.

    If exposures differ, put it before augmentations whose ranges are in gray levels.
    """

    def __init__(self, low: float = 1.0, high: float = 99.8):
        self.percentiles = _span("percentiles of Stretch", (low, high), 0)
        if not low < high <= 100:
            raise ValueError(
                "The percentiles of Stretch are rising numbers of 0..100. Received:"
                f" {(low, high)!r}"
            )

    def _change(self, image, rng):
        return utils.stretched(image, self.percentiles)


class Brightness(_OfOneNumber):
    """Multiplies values by a factor drawn from low..high."""

    LEAST = 0

    def __init__(self, low: float = 0.8, high: float = 1.25):
        super().__init__(low, high)

    def _change(self, image, rng):
        factor = self._draw(rng)
        return _pixel_by_pixel(image, lambda values: values * factor)


class Contrast(_OfOneNumber):
    """Multiplies the deviation from the image's mean by a factor drawn from low..high."""

    LEAST = 0

    def __init__(self, low: float = 0.8, high: float = 1.25):
        super().__init__(low, high)

    def _change(self, image, rng):
        factor = self._draw(rng)
        mean = _finite(image).mean()
        return _pixel_by_pixel(image, lambda values: mean + (values - mean) * factor)


class Gamma(_OfOneNumber):
    """Gamma correction with an exponent drawn from low..high.

    Values are scaled to 0..1 by 0..255 for uint8, else by the image's smallest and largest value.
    """

    LEAST = 0

    def __init__(self, low: float = 0.7, high: float = 1.4):
        super().__init__(low, high)

    def _change(self, image, rng):
        exponent = self._draw(rng)
        darkest = 0.0
        brightest = 255.0
        if image.dtype != np.uint8:
            values = _finite(image)
            darkest = float(values.min())
            brightest = float(values.max())
        size = brightest - darkest
        if size == 0:
            return image.copy()
        return _pixel_by_pixel(
            image, lambda values: darkest + size * ((values - darkest) / size) ** exponent
        )


class Blur(_OfOneNumber):
    """Gaussian blur with a standard deviation drawn from low..high pixels; edges are repeated."""

    LEAST = 0

    def __init__(self, low: float = 0.0, high: float = 2.0):
        super().__init__(low, high)

    def _change(self, image, rng):
        return blurred(image, self._draw(rng))


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """An image [H, W, C] blurred by a Gaussian of `sigma` pixels, truncated at 3 sigma."""
    radius = math.ceil(3 * sigma)
    if sigma < 0.2:  # the neighbours' weight is below 1e-5
        return image.copy()
    taps = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    taps /= taps[0] + 2 * taps[1:].sum()
    values = image.astype(np.float32)
    for axis in (0, 1):
        values = _smoothed(values, axis, taps.astype(np.float32))
    return _as_dtype(values, image.dtype)


def _smoothed(values: np.ndarray, axis: int, taps: np.ndarray) -> np.ndarray:
    """Values filtered along an axis by a symmetric filter; taps: from its centre outwards."""
    radius = len(taps) - 1
    widths = [(0, 0)] * values.ndim
    widths[axis] = (radius, radius)
    padded = np.moveaxis(np.pad(values, widths, mode="edge"), axis, 0)
    size = values.shape[axis]
    out = np.empty_like(values)
    total = np.moveaxis(out, axis, 0)
    np.multiply(padded[radius : radius + size], taps[0], out=total)
    pair = np.empty_like(total)
    for i in range(1, radius + 1):
        before = padded[radius - i : radius - i + size]
        after = padded[radius + i : radius + i + size]
        np.add(before, after, out=pair)
        pair *= taps[i]
        total += pair
    return out


class Noise(_OfOneNumber):
    """Gaussian noise with a standard deviation drawn from low..high, in units of the image.

    Args:
        per_channel: draw noise for each channel; False: gray stays gray.
    """

    LEAST = 0

    def __init__(self, low: float = 0.0, high: float = 10.0, per_channel: bool = False):
        super().__init__(low, high)
        self.per_channel = per_channel

    def _change(self, image, rng):
        sigma = np.float32(self._draw(rng))
        shape = image.shape
        if not self.per_channel:
            shape = (*shape[:2], 1)
        noise = rng.standard_normal(shape, np.float32)
        noise *= sigma
        return _as_dtype(image + noise, image.dtype)


class Channels(_Step):
    """Multiplies each channel by a factor of its own and adds a shift.

    Args:
        gain: (low, high) of the factors.
        shift: (low, high) of the shifts, in units of the image.
    """

    def __init__(self, gain: Any = (0.9, 1.1), shift: Any = (-10.0, 10.0)):
        self.gain = _span("gain of Channels", gain, 0)
        self.shift = _span("shift of Channels", shift)

    def _change(self, image, rng):
        channels = image.shape[2]
        gains = rng.uniform(*self.gain, channels)
        shifts = rng.uniform(*self.shift, channels)
        new = np.empty(image.shape, image.dtype)
        for i in range(channels):
            new[..., i] = _linear(image[..., i], gains[i], shifts[i])
        return new


def _linear(image: np.ndarray, gain: float, shift: float) -> np.ndarray:
    """Values times `gain` plus `shift`, in the image's dtype."""
    return _pixel_by_pixel(image, lambda values: values * gain + shift)


# Absorption of red, green and blue by hematoxylin, eosin and DAB (Ruifrok & Johnston, 2001).
_STAINS = np.array([(0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)])


class Stain(_Step):
    """Changes the stains of a tissue section ("HED" augmentation of Tellez et al. 2018).

    The optical density of each pixel is decomposed into hematoxylin, eosin and DAB; each is
    multiplied by a factor and shifted.

    Args:
        factor: (low, high) of the factors.
        shift: (low, high) of the shifts, in optical density (natural logarithm).
    """

    def __init__(self, factor: Any = (0.9, 1.1), shift: Any = (-0.05, 0.05)):
        self.factor = _span("factor of Stain", factor, 0)
        self.shift = _span("shift of Stain", shift)

    def _change(self, image, rng):
        if image.dtype != np.uint8 or image.shape[2:] != (3,):
            raise ValueError(
                f"Stain takes images [height, width, 3] of bytes. Received: {image.dtype}"
                f" {image.shape}"
            )
        factors = rng.uniform(*self.factor, 3)
        shifts = rng.uniform(*self.shift, 3)
        colours = _STAINS / np.linalg.norm(_STAINS, axis=1, keepdims=True)
        change = np.linalg.inv(colours) @ (factors[:, None] * colours)
        densities = -np.log((np.arange(256) + 1) / 256)
        density = densities.astype(np.float32)[image]
        density = density @ change.astype(np.float32) + (shifts @ colours).astype(np.float32)
        return _as_dtype(256 * np.exp(-density) - 1, image.dtype)


# ---- Scale jitter --------------------------------------------------------------------------------


class Placed(NamedTuple):
    """The result of `place`.

    Attributes:
        image: [height, width, C].
        masks: [height, width, N] bool, or `LabelMaps`; masks of objects outside have no pixel.
        points: keypoints [N, K, 3], zero if not labelled or outside; None without.
        window: (y1, x1, y2, x2) of the old image in the new one, in pixels.
    """

    image: np.ndarray
    masks: Any
    points: np.ndarray | None
    window: tuple[int, int, int, int]


def place(
    image: np.ndarray,
    masks: Any,
    shape: Sequence[int],
    rng: np.random.Generator,
    scale: float = 1.0,
    points: np.ndarray | None = None,
    fill: Any = 0,
) -> Placed:
    """Scales an image, and crops or pads it to a size, at a random position.

    With scales drawn from .1 to 2 times the usual one this is the large-scale jitter of Simple
    Copy-Paste (arXiv 2012.07177), see SCALE_JITTER. The image is interpolated bilinearly with
    repeated edges and without antialiasing, as for detection; masks by nearest neighbour, aligned
    with the image. Only the visible part is computed. At scale 1 pixels are copied.

    Args:
        image: [H, W, C].
        masks: [H, W, N], or `mrcnn.masks.LabelMaps`, for which label maps are returned.
        shape: (height, width, ...) of the result.
        rng: numpy Generator of the position.
        scale: factor of the size.
        points: keypoints [N, K, 3] or None.
        fill: value of the padding, a number or one for each channel.

    Returns:
        `Placed`.

    Raises:
        ValueError: masks of another size than the image, a scale that is not positive.
    """
    _check_masks(image, masks)
    if not _is_number(scale) or scale <= 0:
        raise ValueError(f"A scale is a positive number. Received: {scale!r}")
    rows = _axis(image.shape[0], shape[0], scale, rng)
    columns = _axis(image.shape[1], shape[1], scale, rng)
    window = (rows.start, columns.start, rows.end, columns.end)
    inside = (slice(rows.start, rows.end), slice(columns.start, columns.end))
    new_image = np.empty((shape[0], shape[1], *image.shape[2:]), image.dtype)
    new_image[...] = _as_dtype(np.asarray(fill), image.dtype)
    new_image[inside] = _as_dtype(_sampled(_sampled(image, 0, rows), 1, columns), image.dtype)
    new_masks: Any
    if isinstance(masks, LabelMaps):
        new_masks = masks.with_maps(_nearest_labels(masks.maps, rows, columns, shape))
    else:
        new_masks = _nearest_masks(masks, rows, columns, shape)
    if points is not None:
        points = _moved_points(points, rows, columns, shape)
    return Placed(new_image, new_masks, points, window)


class _Axis(NamedTuple):
    """The position of a scaled image along one axis of the new one.

    Attributes:
        start, end: the pixels of the new image that it covers, without `end`.
        positions: [end - start] float64, their coordinates in the old image; 0 is the centre of its
            first pixel.
        scale: new size / old size.
        origin: index of the scaled image's first pixel in the new image; below 0 if it is cropped.
    """

    start: int
    end: int
    positions: np.ndarray
    scale: float
    origin: int


def _axis(old_size: int, size: int, scale: float, rng: np.random.Generator) -> _Axis:
    """The `_Axis` of `old_size` pixels that are scaled, at a random position in `size` pixels."""
    scaled_size = max(1, round(old_size * scale))
    margin = size - scaled_size
    origin = int(rng.integers(min(margin, 0), max(margin, 0), endpoint=True))
    start = max(origin, 0)
    end = min(origin + scaled_size, size)
    step = old_size / scaled_size
    positions = (np.arange(start, end) - origin + 0.5) * step - 0.5
    return _Axis(start, end, positions, scaled_size / old_size, origin)


def _sampled(image: np.ndarray, axis_index: int, axis: _Axis) -> np.ndarray:
    """An image interpolated linearly at the positions of `axis`, which is its axis `axis_index`.

    Returns:
        float32, or of the image's dtype if all positions are whole pixels.
    """
    positions = np.clip(axis.positions, 0, image.shape[axis_index] - 1)
    low = positions.astype(np.int64)
    if np.array_equal(low, positions):
        return image.take(low, axis=axis_index)
    high = np.minimum(low + 1, image.shape[axis_index] - 1)
    shape = [1] * image.ndim
    shape[axis_index] = -1
    weight = (positions - low).astype(np.float32).reshape(shape)
    first = image.take(low, axis=axis_index).astype(np.float32, copy=False)
    second = image.take(high, axis=axis_index).astype(np.float32, copy=False)
    second -= first
    second *= weight
    second += first
    return second


def _nearest(axis: _Axis) -> np.ndarray:
    """Indices of the old image's pixels nearest to the positions of one axis, ascending."""
    return np.floor(axis.positions + 0.5).astype(np.int64)


def _nearest_labels(
    maps: np.ndarray, rows: _Axis, columns: _Axis, shape: Sequence[int]
) -> np.ndarray:
    """Maps [K, H, W] resampled by nearest neighbour, 0 outside: [K, height, width]."""
    out = np.zeros((len(maps), shape[0], shape[1]), maps.dtype)
    inside = out[:, rows.start : rows.end, columns.start : columns.end]
    inside[...] = maps[:, _nearest(rows)[:, None], _nearest(columns)]
    return out


def _nearest_masks(
    masks: np.ndarray, rows: _Axis, columns: _Axis, shape: Sequence[int]
) -> np.ndarray:
    """Masks [H, W, N] resampled by nearest neighbour: [height, width, N] bool.

    The result is a view of [N, height, width] of which only the boxes are written, so that the
    system allocates little memory for many small masks.
    """
    count = masks.shape[2]
    out = np.zeros((count, shape[0], shape[1]), bool)
    y = _nearest(rows)
    x = _nearest(columns)
    for i, (y1, x1, y2, x2) in enumerate(extract_bboxes(masks)):
        top, bottom = np.searchsorted(y, (y1, y2))
        left, right = np.searchsorted(x, (x1, x2))
        if top == bottom or left == right:
            continue
        box = masks[y1:y2, x1:x2, i]
        part = box[y[top:bottom] - y1][:, x[left:right] - x1]
        target = out[i, rows.start + top : rows.start + bottom]
        target[:, columns.start + left : columns.start + right] = part
    return out.transpose(1, 2, 0)


def _moved_points(
    points: np.ndarray, rows: _Axis, columns: _Axis, shape: Sequence[int]
) -> np.ndarray:
    """Keypoints [N, K, 3] of the old image in the new one; zero if not labelled or outside."""
    positions = points[..., :2] * (rows.scale, columns.scale) + (rows.origin, columns.origin)
    return joints.hide_outside(np.concatenate([positions, points[..., 2:]], axis=-1), shape)


def _check_masks(image: np.ndarray, masks: np.ndarray) -> None:
    """ValueError for an image and masks of other shapes than [H, W, C] and [H, W, N]."""
    if np.ndim(image) != 3 or np.ndim(masks) != 3 or masks.shape[:2] != image.shape[:2]:
        raise ValueError(
            "Augmentation takes images [height, width, channels] and masks [height, width,"
            f" objects] of one size. Received: {np.shape(image)} and {np.shape(masks)}"
        )


def scale_jitter(
    image: np.ndarray,
    masks: np.ndarray,
    rng: np.random.Generator,
    scales: Sequence[float] = (0.1, 2.0),
    points: np.ndarray | None = None,
) -> tuple[Any, ...]:
    """Large-scale jitter of one image, which keeps its size (arXiv 2012.07177); see `place`.

    Args:
        scales: (low, high) of the scale, which is drawn uniformly.

    Returns:
        image, masks [H, W, N] and, if they were given, keypoints. Objects outside have no pixel.
    """
    low, high = _span("scales", scales)
    placed = place(image, masks, image.shape, rng, rng.uniform(low, high), points)
    if points is None:
        return placed.image, placed.masks
    return placed.image, placed.masks, placed.points


# ---- Copy-paste ----------------------------------------------------------------------------------


class _Crop(NamedTuple):
    """A mask cropped to its box, [h, w] bool; place: the slices of the box in the image."""

    place: tuple[slice, slice]
    mask: np.ndarray


def copy_paste(
    image: np.ndarray,
    masks: np.ndarray,
    class_ids: np.ndarray,
    other_image: np.ndarray,
    other_masks: np.ndarray,
    other_class_ids: np.ndarray,
    rng: np.random.Generator,
    *,
    limit: int | None = None,
    scales: Sequence[float] = (1.0, 1.0),
    flip_share: float = 0.0,
    flip_pairs: Sequence[tuple[int, int]] = (),
    points: np.ndarray | None = None,
    other_points: np.ndarray | None = None,
) -> tuple[np.ndarray, ...]:
    """Pastes objects of another image over this one (Simple Copy-Paste, arXiv 2012.07177).

    A random subset of the other image's objects is pasted, at least one if there are any; no
    crowds. Pixels are copied without blending, which made no difference in the paper. Covered
    pixels are removed from the masks below, crowds included, and objects that are completely
    covered are left out; covered keypoints become labelled but not visible.

    Args:
        image, other_image: [H, W, C], with the same number of channels. If its size differs, the
            other image is cropped or padded to this one's, at a random position.
        masks, other_masks: [H, W, N] bool.
        class_ids, other_class_ids: [N].
        rng: numpy Generator.
        limit: the largest number of objects that the result may have by pasting; None for no limit.
        scales: (low, high) of the other image's scale; see `place`.
        flip_share: probability of flipping the other image horizontally.
        flip_pairs: pairs of left and right keypoints, which the flip swaps.
        points, other_points: keypoints [N, K, 3] of both, or None.

    Returns:
        image, masks [H, W, M] bool, class_ids [M] and, if they were given, keypoints. The objects
        of this image come first, in their order.

    Raises:
        ValueError: channels, sizes or numbers of objects that don't match.
    """
    _check_objects(image, masks, class_ids, points)
    _check_objects(other_image, other_masks, other_class_ids, other_points)
    _check_alike([image, other_image], [points, other_points])
    low, high = _span("scales", scales)
    other = _Sample(other_image, other_masks, other_points, flip_pairs)
    if rng.random() < _probability("flip_share", flip_share):
        other = _mirror(other, axis=1)
    if (low, high) != (1, 1) or other.image.shape[:2] != image.shape[:2]:
        placed = place(
            other.image, other.masks, image.shape, rng, rng.uniform(low, high), other.points
        )
        other = _Sample(placed.image, placed.masks, placed.points, flip_pairs)
    crops = _crops(masks)
    max_count = len(other_class_ids)
    if limit is not None:
        max_count = limit - sum(crop.mask.size > 0 for crop in crops)
    other_crops = _crops(other.masks)
    rows = _objects_to_paste(other_crops, other_class_ids, max_count, rng)
    ids = [_as_ids(class_ids), _as_ids(other_class_ids)[rows]]
    return _pasted(image, crops, ids, points, other, [other_crops[i] for i in rows], rows)


def _pasted(
    image: np.ndarray,
    crops: Sequence[_Crop],
    ids: Sequence[np.ndarray],
    points: np.ndarray | None,
    other: _Sample,
    pasted: Sequence[_Crop],
    rows: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """The result of `copy_paste` for selected objects.

    Args:
        image: [H, W, C].
        crops: the masks of the image's objects.
        ids: class ids of `crops` and of `pasted`.
        points: keypoints of the image, or None.
        other: the other image, of the same size.
        pasted: the masks of its objects that are pasted.
        rows: [n], indices of these among its objects.
    """
    covered = np.zeros(image.shape[:2], bool)
    for crop in pasted:
        covered[crop.place] |= crop.mask
    uncovered = [_uncovered(crop, covered) for crop in crops]
    kept = [i for i, crop in enumerate(uncovered) if crop.mask.any()]
    new_masks = _stacked([*[uncovered[i] for i in kept], *pasted], image.shape)
    new_ids = np.concatenate([ids[0][kept], ids[1]])
    new_image = np.where(covered[..., None], other.image, image)
    if points is None or other.points is None:
        return new_image, new_masks, new_ids
    new_points = np.concatenate([_covered_points(points[kept], covered), other.points[rows]])
    return new_image, new_masks, new_ids, new_points


def _crops(masks: np.ndarray, y: int = 0, x: int = 0) -> list[_Crop]:
    """The crops of masks [H, W, N]; y, x: position of their corner in the image."""
    crops = []
    for i, (y1, x1, y2, x2) in enumerate(extract_bboxes(masks).tolist()):
        where = (slice(y + y1, y + y2), slice(x + x1, x + x2))
        crops.append(_Crop(where, masks[y1:y2, x1:x2, i].astype(bool, copy=False)))
    return crops


def _uncovered(crop: _Crop, covered: np.ndarray) -> _Crop:
    """A crop without the pixels of a mask [H, W]."""
    return _Crop(crop.place, crop.mask & ~covered[crop.place])


def _stacked(crops: Sequence[_Crop], shape: Sequence[int]) -> np.ndarray:
    """The masks of crops, [H, W, N] bool, a view of [N, H, W]."""
    masks = np.zeros((len(crops), *shape[:2]), bool)
    for mask, crop in zip(masks, crops):
        mask[crop.place] = crop.mask
    return masks.transpose(1, 2, 0)


def _as_ids(class_ids: Any) -> np.ndarray:
    """Class ids as an array; of int32 if it is empty, where numpy's default is float."""
    ids = np.asarray(class_ids)
    if ids.size == 0:
        return np.zeros(0, np.int32)
    return ids


def _objects_to_paste(
    crops: Sequence[_Crop], class_ids: np.ndarray, max_count: int, rng: np.random.Generator
) -> np.ndarray:
    """Ascending indices of the objects to paste, which have pixels and are no crowds.

    max_count: the largest number of them.
    """
    has_pixels = np.array([crop.mask.size > 0 for crop in crops], bool)
    rows = np.flatnonzero(has_pixels & (np.asarray(class_ids) > 0))
    if not len(rows):
        return rows
    count = int(rng.integers(1, len(rows), endpoint=True))
    count = min(count, max(max_count, 0))
    return np.sort(rng.choice(rows, count, replace=False))


def _covered_points(points: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Keypoints [N, K, 3] with those at covered pixels [H, W] labelled but not visible (1)."""
    pixels = np.rint(points[..., :2]).astype(np.int64)
    limits = np.array(covered.shape) - 1
    y, x = np.moveaxis(np.clip(pixels, 0, limits), -1, 0)
    is_inside = (pixels >= 0).all(axis=-1) & (pixels <= limits).all(axis=-1)
    new = points.copy()
    new[..., 2][covered[y, x] & is_inside & (points[..., 2] == 2)] = 1
    return new


def _check_objects(
    image: np.ndarray, masks: np.ndarray, class_ids: Any, points: np.ndarray | None
) -> None:
    """ValueError for masks, class ids or keypoints that don't match each other or the image."""
    _check_masks(image, masks)
    if np.shape(class_ids) != (masks.shape[2],):
        raise ValueError(
            f"Each mask has a class id. Received: {masks.shape[2]} masks and class ids of shape"
            f" {np.shape(class_ids)}"
        )
    if points is not None and (np.ndim(points) != 3 or len(points) != masks.shape[2]):
        raise ValueError(
            f"Each mask has keypoints [K, 3]. Received: {masks.shape[2]} masks and keypoints of"
            f" shape {np.shape(points)}"
        )


def _check_alike(images: Sequence[np.ndarray], points: Sequence[np.ndarray | None]) -> None:
    """ValueError for images with different channels, or of which only some have keypoints."""
    channels = [image.shape[2] for image in images]
    if len(set(channels)) > 1:
        raise ValueError(f"Images that are mixed have the same channels. Received: {channels}")
    if len({image_points is None for image_points in points}) > 1:
        raise ValueError("Either all images that are mixed have keypoints, or none. Received: some")


# ---- Mosaic --------------------------------------------------------------------------------------


def mosaic(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    class_ids: Sequence[np.ndarray],
    rng: np.random.Generator,
    *,
    shape: Sequence[int] | None = None,
    points: Sequence[np.ndarray | None] | None = None,
    fill: Any = 0,
) -> tuple[np.ndarray, ...]:
    """Combines crops of four images: top left, top right, bottom left, bottom right.

    The point where they meet is drawn from the middle half of each side. Crops have random
    positions and scale 1; an image smaller than its part is padded.

    Args:
        images: four [H, W, C], of any sizes.
        masks: four [H, W, N] bool.
        class_ids: four [N].
        rng: numpy Generator.
        shape: (height, width) of the mosaic; None for the first image's.
        points: keypoints, four [N, K, 3], or None.
        fill: value of the padding, a number or one for each channel.

    Returns:
        image [*shape, C], masks [*shape, M] bool, class_ids [M] and, if they were given, keypoints
        of the objects that have a pixel in their crop, image by image.

    Raises:
        ValueError: other than four images; channels or numbers of objects that don't match.
    """
    all_points: Sequence[np.ndarray | None] = [None] * len(images)
    if points is not None:
        all_points = points
    counts = [len(images), len(masks), len(class_ids), len(all_points)]
    if set(counts) != {4}:
        raise ValueError(f"A mosaic has 4 images with their masks and ids. Received: {counts}")
    for example in zip(images, masks, class_ids, all_points):
        _check_objects(*example)
    _check_alike(images, all_points)
    if shape is None:
        shape = images[0].shape
    parts = []
    boxes = _quarters(shape, rng)
    for box, image, image_masks, image_points in zip(boxes, images, masks, all_points):
        size = box[2:] - box[:2]
        parts.append(place(image, image_masks, size, rng, points=image_points, fill=fill))
    return _joined(parts, boxes, class_ids, shape)


def _quarters(shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """The boxes [4, (y1, x1, y2, x2)] of the parts of a mosaic."""
    height, width = shape[:2]
    y = int(rng.integers(height // 4, height - height // 4, endpoint=True))
    x = int(rng.integers(width // 4, width - width // 4, endpoint=True))
    top = [(0, 0, y, x), (0, x, y, width)]
    bottom = [(y, 0, height, x), (y, x, height, width)]
    return np.array(top + bottom)


def _joined(
    parts: Sequence[Placed],
    boxes: np.ndarray,
    class_ids: Sequence[np.ndarray],
    shape: Sequence[int],
) -> tuple[np.ndarray, ...]:
    """The mosaic of four parts in their boxes, see `mosaic`."""
    dtype = np.result_type(*[part.image for part in parts])
    image = np.zeros((shape[0], shape[1], parts[0].image.shape[2]), dtype)
    crops = []
    ids = []
    points = []
    for part, part_ids, (y1, x1, y2, x2) in zip(parts, class_ids, boxes.tolist()):
        image[y1:y2, x1:x2] = part.image
        part_crops = _crops(part.masks, y1, x1)
        rows = [i for i, crop in enumerate(part_crops) if crop.mask.size]
        crops += [part_crops[i] for i in rows]
        ids.append(_as_ids(part_ids)[rows])
        if part.points is not None:
            labelled = part.points[rows, :, 2:] > 0
            points.append(np.where(labelled, part.points[rows] + (y1, x1, 0), 0))
    masks = _stacked(crops, shape)
    if points:
        return image, masks, np.concatenate(ids), np.concatenate(points)
    return image, masks, np.concatenate(ids)
