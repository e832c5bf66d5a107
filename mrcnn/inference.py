"""Detection: molding, the compiled network, unmolding to the image's coordinates.

`MaskRCNN.detect` and similar methods call this module. A `Detector` runs the network of
`mrcnn.model` in the faster form of `mrcnn.rewrite`, compiled once for all sizes of images. The mask
head runs only on the rows that hold a detection, in groups.
"""

import collections
import concurrent.futures
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers as KL, ops

from mrcnn import (
    boxes as box_math,
    data,
    keypoints,
    masks as mask_math,
    ops as kernels,
    rewrite,
)
from mrcnn.config import Config
from mrcnn.data import as_array, check_items, images_in, loaded
from mrcnn.masks import (  # noqa: F401  names that existing code imports from here
    FORMS as MASK_FORMS,
    Masks,
    run_lengths,
)

# How many rows the mask head and the keypoint head run on at once: larger groups are no faster and
# use more memory.
HEAD_GROUP = 25

# How many sizes of anchors, and how many graphs of `run_graph`, are cached.
KEPT_SIZES = 8
KEPT_GRAPHS = 16


# ---- Molding and unmolding -----------------------------------------------------------------------


class Molded(NamedTuple):
    """An image in the form of the network's inputs.

    Attributes:
        image: [h, w, C] float32, resized and normalised.
        meta: see `data.compose_image_meta`.
        window: (y1, x1, y2, x2) of the original image in `image`, in pixels.
    """

    image: np.ndarray
    meta: np.ndarray
    window: tuple


def mold(image: np.ndarray, config: Config, where: str, min_dim: int | None = None) -> Molded:
    """Resizes and normalises one image.

    Args:
        image: [H, W] or [H, W, C]; dtypes and ranges: see `data.as_network_input`.
        config: see `data.mold_with_size`.
        where: the image's name in errors.
        min_dim: see `data.mold_with_size`.

    Raises:
        ValueError: no image that the network takes; IMAGE_RESIZE_MODE is "crop".
    """
    image = data.as_network_input(as_array(image, where), config, where)
    if config.IMAGE_RESIZE_MODE == "crop":
        raise ValueError(
            "IMAGE_RESIZE_MODE 'crop' takes a random part of an image and is for training; "
            "detection needs 'square', 'pad64', 'shorter' or 'none'. Received: 'crop'"
        )
    data.check_sides(image.shape, config, where)
    molded, window, scale = data.mold_with_size(image, config, min_dim)
    no_classes = np.zeros([config.NUM_CLASSES], dtype=np.int32)
    meta = data.compose_image_meta(0, image.shape, molded.shape, window, scale, no_classes)
    return Molded(molded, meta, window)


def unmold(
    detections: np.ndarray,
    masks: np.ndarray | None,
    original_shape: Sequence[int],
    shape: Sequence[int],
    window: Sequence[int],
    config: Config,
    form: str = "dense",
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
    """Converts the detections of one image to the coordinates of the original image.

    Args:
        detections: [N, (y1, x1, y2, x2, class_id, score)], boxes normalised, zero rows at the end.
        masks: [N, h, w, classes], or [N, h, w] of the detected classes, or None.
        original_shape, shape: (H, W, ...) before and after molding.
        window: (y1, x1, y2, x2) of the original image in the molded one, in pixels.
        config: see BOX_FRAME, MASK_PASTE, ROUND_DETECTIONS, DETECTION_MASK_OVERLAP.
        form: "dense", bool [H, W, n]; "lazy", a `masks.Masks`; "rle", a list of COCO's run-length
            encodings, computed without masks of the whole image.

    Returns:
        boxes [n, 4] int32 in pixels (float32 without ROUND_DETECTIONS), class_ids [n] int32, scores
        [n] float32, masks (None for None). Boxes without area and detections that
        DETECTION_MASK_OVERLAP removes are left out.
    """
    return _unmold(detections, masks, original_shape, shape, window, config, form)[1:]


def _unmold(detections, masks, original_shape, shape, window, config, form):
    """`unmold`, whose values follow the rows [n] of `detections` that they belong to."""
    mask_math.check_form(form)
    rows, boxes, exact_boxes = _unmold_boxes(detections, original_shape, shape, window, config)
    class_ids = detections[rows, 4].astype(np.int32)
    scores = detections[rows, 5]
    if masks is None:
        return rows, boxes, class_ids, scores, None
    masks = masks[rows]
    if masks.ndim == 4:
        masks = masks[np.arange(len(rows)), :, :, class_ids]
    lazy = mask_math.placed(masks, boxes, exact_boxes, original_shape, config.MASK_PASTE, "lazy")
    if config.DETECTION_MASK_OVERLAP < 1:
        kept = lazy.uncovered(class_ids, config.DETECTION_MASK_OVERLAP)
        lazy = lazy.only(kept)
        rows, boxes, class_ids, scores = (
            values[kept] for values in (rows, boxes, class_ids, scores)
        )
    return rows, boxes, class_ids, scores, mask_math.in_form(lazy, form)


def _unmold_boxes(detections, original_shape, shape, window, config):
    """The detections whose box has an area in the original image.

    Returns:
        rows: [n] int, of `detections`.
        boxes: [n, 4] in pixels of the original image.
        exact_boxes: [n, 4], the same without rounding.
    """
    count = int(np.argmin(np.append(detections[:, 4] > 0, False)))
    frame = config.BOX_FRAME
    window = box_math.norm_boxes(window, shape[:2], frame)
    boxes = box_math.in_window(detections[:count, :4], window)
    exact_boxes = box_math.denorm_boxes(boxes, original_shape[:2], frame, whole=False)
    rows, boxes = box_math.visible(exact_boxes, config.ROUND_DETECTIONS)
    return rows, boxes, exact_boxes[rows]


def unmold_keypoints(
    detections: np.ndarray,
    maps: np.ndarray,
    original_shape: Sequence[int],
    shape: Sequence[int],
    window: Sequence[int],
    config: Config,
) -> np.ndarray:
    """The keypoints of one image's detections, of those whose box has an area.

    Args:
        maps: [N, h, w, K] logits of the keypoint head.
        detections, original_shape, shape, window, config: see `unmold`.

    Returns:
        [n, K, (y, x, score)] float32, in pixels of the original image.
    """
    frames = (original_shape, shape, window, config)
    rows, *_ = _unmold_boxes(detections, *frames)
    return _unmold_keypoints(rows, detections, maps, *frames)


def _unmold_keypoints(rows, detections, maps, original_shape, shape, window, config):
    """`unmold_keypoints` for some rows of the detections."""
    # Keypoints are not rounded, so the boxes must not be either.
    boxes = box_math.denorm_boxes(detections[rows, :4], shape[:2], config.BOX_FRAME, whole=False)
    points = keypoints.decode(maps[rows], boxes)
    corners = np.asarray(window, np.float64)
    scale = np.asarray(original_shape[:2]) / (corners[2:] - corners[:2])
    points[..., :2] = (points[..., :2] - corners[:2]) * scale
    return points


class Outputs(NamedTuple):
    """The outputs of the network for a batch; None for a head that the model lacks.

    Attributes:
        detections: [B, R, (y1, x1, y2, x2, class_id, score)], boxes normalised.
        masks: [B, n, h, w] of the detected classes.
        keypoints: [B, n, h, w, K] logits.
    """

    detections: np.ndarray
    masks: np.ndarray | None
    keypoints: np.ndarray | None

    def of_image(self, row: int) -> "Outputs":
        """The outputs for one image, without the batch axis."""
        masks = points = None
        if self.masks is not None:
            masks = self.masks[row]
        if self.keypoints is not None:
            points = self.keypoints[row]
        return Outputs(self.detections[row], masks, points)


def result(
    outputs: Outputs,
    row: int,
    original_shape: Sequence[int],
    shape: Sequence[int],
    window: Sequence[int],
    config: Config,
    form: str = "dense",
) -> dict:
    """The result of image number `row` of a batch, a dict as `MaskRCNN.detect` returns it.

    Other arguments: see `unmold`.
    """
    image = outputs.of_image(row)
    is_detection = image.detections[:, 4] > 0
    data.tell_of_limit(image.detections[is_detection, 5], config.DETECTION_MAX_INSTANCES)
    frames = (original_shape, shape, window, config)
    rows, *values = _unmold(image.detections, image.masks, *frames, form)
    fields = dict(zip(("rois", "class_ids", "scores", "masks"), values))
    if image.keypoints is not None:
        fields["keypoints"] = _unmold_keypoints(rows, image.detections, image.keypoints, *frames)
    return fields


# ---- Anchors -------------------------------------------------------------------------------------


class Latest:
    """A thread-safe cache of the `limit` most recently used values, by key."""

    def __init__(self, limit: int):
        self.limit = limit
        self._values: collections.OrderedDict = collections.OrderedDict()
        self._lock = threading.RLock()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The value of a key, which is make() where it is missing; drops the oldest values."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            else:
                self._values[key] = make()
            while len(self._values) > self.limit:
                self._values.popitem(last=False)
            return self._values[key]

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator:
        return iter(list(self._values))

    def clear(self) -> None:
        """Removes all values."""
        with self._lock:
            self._values.clear()


class AnchorTable:
    """A cache of anchors by the size of the molded image.

    Args:
        config: see its settings of anchors and strides, and BOX_FRAME.
    """

    def __init__(self, config: Config):
        self.config = config
        self.sizes = Latest(KEPT_SIZES)

    def of(self, image_shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """The anchors [A, 4] of a molded image: in pixels, float64, and normalised, float32."""
        size = tuple(int(side) for side in image_shape[:2])
        return self.sizes.get(size, lambda: self._make(size))

    def _make(self, size):
        pixels = data.compute_anchors(self.config, size)
        return pixels, box_math.norm_boxes(pixels, size, self.config.BOX_FRAME)


# ---- The network ---------------------------------------------------------------------------------


def _compiled_by_jax(network):
    """f(*inputs) -> outputs of a network with its current weights; compiled for each input size."""
    import jax

    @jax.jit
    def run(trainable, non_trainable, inputs):
        outputs, _ = network.stateless_call(trainable, non_trainable, inputs, training=False)
        return outputs

    def function(*inputs):
        trainable = [variable.value for variable in network.trainable_variables]
        non_trainable = [variable.value for variable in network.non_trainable_variables]
        return run(trainable, non_trainable, list(inputs))

    return function


class Detector:
    """Runs an inference network; owns its compiled functions and the caches.

    Args:
        network: `training.Network` with sub_models "boxes" (images, metas and anchors to detections
            and feature maps) and, for each head that it has, "masks" and "keypoints" (boxes, metas
            and feature maps to the head's output).
        config: the `Config` that the network was built with.
        get_anchors: f(shape of a molded image) -> [A, 4] normalised.
    """

    def __init__(self, network: Any, config: Config, get_anchors: Callable):
        self.network = network
        self.config = config
        self.get_anchors = get_anchors
        self.functions = Latest(len(network.sub_models))
        self.graphs = Latest(KEPT_GRAPHS)
        self._stages: dict = {}

    @kernels.outside_graphs()
    def function(self, name: str) -> Callable:
        """The compiled function of a sub-model, for any batch size, height, width and row count.

        Args:
            name: "boxes": images [B, h, w, C], metas and anchors [B, A, 4] to detections and
                feature maps; "masks": boxes [B, N, 4], metas, feature maps and class ids [B, N]
                int32 to masks [B, N, h, w]; "keypoints": the same without class ids to [B, N, h, w,
                K].
        """
        return self.functions.get(name, lambda: self._compile(name))

    def _compile(self, name):
        network = self.network.sub_models[name]
        if name == "masks":
            network = rewrite.of_detected_class(network)
        if keras.backend.backend() == "jax":
            return _compiled_by_jax(network)
        folded = rewrite.fold_batch_norm(network)
        if keras.backend.backend() != "tensorflow":
            return lambda *args: folded(list(args), training=False)
        import tensorflow as tf

        signature = [tf.TensorSpec(x.shape, x.dtype) for x in folded.inputs]
        function = tf.function(
            lambda *args: folded(list(args), training=False),
            input_signature=signature,
            autograph=False,
            jit_compile=kernels.compiles(self.config.JIT_COMPILE),
        )
        function.get_concrete_function()
        return function

    def infer(self, images: np.ndarray, metas: np.ndarray, anchors: np.ndarray) -> Outputs:
        """Runs the network.

        Args:
            images: [B, h, w, C] float32, molded.
            metas: [B, IMAGE_META_SIZE].
            anchors: [A, 4] normalised.
        """
        detections, maps, metas = self.infer_boxes(images, metas, anchors)
        count = int((detections[..., 4] > 0).sum(axis=1).max(initial=0))
        masks = points = None
        if "masks" in self.network.sub_models:
            empty = np.zeros((len(images), 0, *self.config.MASK_SHAPE), "float32")
            groups = self.head_in_groups("masks", detections[:, :count], metas, maps)
            masks = np.concatenate([empty, *groups], axis=1)
        if "keypoints" in self.network.sub_models:
            map_shape = self.network.sub_models["keypoints"].output.shape[2:]
            empty = np.zeros((len(images), 0, *map_shape), "float32")
            groups = self.head_in_groups("keypoints", detections[:, :count], metas, maps)
            points = np.concatenate([empty, *groups], axis=1)
        return Outputs(detections, masks, points)

    @kernels.outside_graphs()
    @kernels.without_gradients()
    def infer_boxes(
        self, images: np.ndarray, metas: np.ndarray, anchors: np.ndarray
    ) -> tuple[np.ndarray, list, Any]:
        """Runs the part of the network up to the boxes.

        Returns:
            detections [B, R, 6] as a numpy array; the feature maps and the metas as tensors, for
            `infer_head`.
        """
        batch_anchors = np.broadcast_to(anchors, (len(images), *anchors.shape))
        images, metas, batch_anchors = (
            ops.convert_to_tensor(x, "float32") for x in (images, metas, batch_anchors)
        )
        function = self.function("boxes")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            # In the first call the heads are traced in Python while TensorFlow optimises and runs
            # the graph of the boxes.
            for name in self.network.sub_models:
                if name not in self.functions:
                    pool.submit(self.function, name)
            detections, *maps = function(images, metas, batch_anchors)
        return ops.convert_to_numpy(detections), maps, metas

    def head_in_groups(
        self, name: str, detections: np.ndarray, metas: Any, maps: list
    ) -> Iterator[np.ndarray]:
        """A head's outputs for the rows [B, n, 6], HEAD_GROUP of them at a time; see `infer_head`.

        Yields:
            [B, rows, ...] of each group; the last may have fewer rows.
        """
        is_compiled = kernels.compiles(self.config.JIT_COMPILE)
        for start in range(0, detections.shape[1], HEAD_GROUP):
            rows = detections[:, start : start + HEAD_GROUP]
            count = rows.shape[1]
            if is_compiled:
                # XLA would compile the head again for each number of rows.
                rows = np.pad(rows, [(0, 0), (0, HEAD_GROUP - count), (0, 0)])
            class_ids = None
            if name == "masks":
                class_ids = rows[..., 4]
            outputs = self.infer_head(name, rows[..., :4], metas, maps, class_ids)
            yield outputs[:, :count]

    @kernels.outside_graphs()
    @kernels.without_gradients()
    def infer_head(
        self,
        name: str,
        boxes: np.ndarray,
        metas: Any,
        maps: list,
        class_ids: np.ndarray | None = None,
    ) -> np.ndarray:
        """Runs a head on boxes.

        Args:
            name: "masks" or "keypoints".
            boxes: [B, N, 4] normalised.
            metas, maps: as `infer_boxes` returned them.
            class_ids: [B, N], for "masks" alone.

        Returns:
            masks [B, N, h, w], or keypoint logits [B, N, h, w, K].
        """
        args = [ops.convert_to_tensor(boxes, "float32"), metas, *maps]
        if class_ids is not None:
            args.append(ops.convert_to_tensor(class_ids, "int32"))
        return ops.convert_to_numpy(self.function(name)(*args))

    # ---- Images ------------------------------------------------------------------------------

    def detect(self, images: Sequence[np.ndarray], masks: str = "dense") -> list[dict]:
        """See `MaskRCNN.detect`. Images of equal molded size form batches of BATCH_SIZE."""
        images = images_in(images, "detect")
        molded = [mold(image, self.config, f"image {i}") for i, image in enumerate(images)]
        groups: dict[tuple, list[int]] = {}
        for i, prepared in enumerate(molded):
            groups.setdefault(prepared.image.shape, []).append(i)
        results: list[dict] = [{}] * len(images)
        for members in groups.values():
            for start in range(0, len(members), self.config.BATCH_SIZE):
                chunk = members[start : start + self.config.BATCH_SIZE]
                outputs = self._infer_molded([molded[i] for i in chunk])
                for row, i in enumerate(chunk):
                    results[i] = self._result(outputs, row, np.shape(images[i]), molded[i], masks)
        return results

    def _infer_molded(self, molded):
        """Runs the network on a list of `Molded` images of equal size."""
        images = np.stack([part.image for part in molded])
        metas = np.stack([part.meta for part in molded])
        return self.infer(images, metas, self.get_anchors(images.shape[1:]))

    def _result(self, outputs, row, original_shape, molded, masks):
        shape = molded.image.shape
        return result(outputs, row, original_shape, shape, molded.window, self.config, masks)

    def detect_many(
        self, items: Iterable, load: Callable | None = None, masks: str = "dense"
    ) -> Iterator[dict]:
        """See `MaskRCNN.detect_many`. Wrong arguments raise here, not at the first result."""
        check_items(items, load)
        return self._detect_each(items, load, masks)

    def _detect_each(self, items, load, masks):
        """Yields the results of `detect_many`.

        Two threads read and mold the next images and unmold the last ones while the network runs.
        """
        batch_size = self.config.BATCH_SIZE

        def prepare(number, item):
            image, where = loaded(number, item, load)
            return image.shape, mold(image, self.config, where)

        def shape_of(prepared):
            return prepared[1].image.shape

        numbered = enumerate(items)
        waiting: collections.deque = collections.deque()
        done: collections.deque = collections.deque()
        with concurrent.futures.ThreadPoolExecutor(2) as pool:

            def refill():
                while len(waiting) < 2 * batch_size:
                    item = next(numbered, None)
                    if item is None:
                        return
                    waiting.append(pool.submit(prepare, *item))

            refill()
            while waiting and not waiting[0].exception():
                chunk = data.of_one_size(waiting, batch_size, shape_of)
                refill()
                outputs = self._infer_molded([molded for _, molded in chunk])
                for row, (original_shape, molded) in enumerate(chunk):
                    done.append(
                        pool.submit(self._result, outputs, row, original_shape, molded, masks)
                    )
                while len(done) > 2 * batch_size:
                    yield done.popleft().result()
            while done:
                yield done.popleft().result()
            if waiting:  # raises an image's error after the results of the images before it
                waiting.popleft().result()

    # ---- Parts of the graph ------------------------------------------------------------------

    def graph(self, tensors: Sequence) -> Any:
        """A model from the network's inputs to these tensors, cached by the tensors."""
        key = tuple(id(tensor) for tensor in tensors)
        return self.graphs.get(key, lambda: keras.Model(self.network.inputs, list(tensors)))

    def proposal_stage(self, name: str) -> Any:
        """A tensor from inside the layer ROI, created once so that `graph` finds it in its cache.

        Args:
            name: a key of `model.ProposalLayer.stages`; for "rpn_non_max_suppression" the tensor is
                that of the first image.
        """
        if name not in self._stages:
            roi = self.network.get_layer("ROI")
            # Keras does not track `roi` in the lambda, which is no loss: it has no variables.
            tensor = KL.Lambda(lambda inputs: roi.stages(inputs)[name])(roi.input)
            if name == "rpn_non_max_suppression":
                tensor = tensor[0]
            self._stages[name] = tensor
        return self._stages[name]
