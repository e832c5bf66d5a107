"""Results and models in the formats of other programs, and tracking of objects in videos.

    detections = neighbours.to_supervision(model.detect([image])[0], class_names)
    sahi.predict.get_sliced_prediction(image, neighbours.sahi_model(model, class_names))
    sample["predictions"] = neighbours.to_fiftyone(result, class_names)
    annotated = neighbours.from_fiftyone(fiftyone.load_dataset("photos"))       # to train on
    predictions = neighbours.LabelStudio(model, class_names, config).predict(tasks)
    track_ids = tracker.update(result)              # tracker = neighbours.Tracker(rate)

supervision, SAHI, FiftyOne and trackers are imported only by the functions that need them: `pip
install "mask-rcnn-keras3[neighbours]"`, for FiftyOne `"mask-rcnn-keras3[fiftyone]"`, for the
tracker alone `"mask-rcnn-keras3[tracking]"`. Label Studio's predictions are plain dicts.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import logging
import math
import os
import xml.etree.ElementTree
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mrcnn import files, masks as mask_math, utils, visualize

if TYPE_CHECKING:
    from mrcnn.annotations import AnnotatedImage, Annotations, Region

logger = logging.getLogger(__name__)


def _package(name: str, extra: str = "neighbours") -> Any:
    """Imports a package; the ImportError without it has the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f'this needs {name}: pip install {name}, or "mask-rcnn-keras3[{extra}]" ({error})'
        ) from error


def _dense(masks: Any) -> np.ndarray:
    """A result's masks of any form as [H, W, N] bool."""
    if isinstance(masks, list):
        if not masks:
            return np.zeros((0, 0, 0), bool)
        return mask_math.decode_rle(masks, *masks[0]["size"])
    return np.asarray(masks).astype(bool, copy=False)


def _image_shape(result: dict, image_shape: Sequence[int] | None) -> tuple[int, int]:
    """(height, width) of a result's image, from its masks or from `image_shape`.

    Raises:
        ValueError: neither has it, or they differ.
    """
    masks = result["masks"]
    mask_shape = None
    if isinstance(masks, list):
        if masks:
            mask_shape = masks[0]["size"]
    elif masks is not None and len(np.asarray(result["class_ids"])):
        mask_shape = masks.shape[:2]
    if mask_shape is not None:
        mask_shape = (int(mask_shape[0]), int(mask_shape[1]))
    if image_shape is None:
        if mask_shape is None:
            raise ValueError(
                "a result without masks does not tell the size of its image: image_shape=(height,"
                " width) does"
            )
        return mask_shape
    given_shape = (int(image_shape[0]), int(image_shape[1]))
    if mask_shape not in (None, given_shape):
        raise ValueError(f"image_shape is that of the masks, {mask_shape}. Received: {given_shape}")
    return given_shape


def to_supervision(result: dict, class_names: Sequence[str]) -> Any:
    """Converts a result of `MaskRCNN.detect` to `supervision.Detections`.

    Args:
        result: with masks of any form, or None.
        class_names: by class id, background first.

    Returns:
        `supervision.Detections`: xyxy [N, 4] float32, mask [N, H, W] bool (None if the result has
        none), confidence, class_id, and data["class_name"].

    Raises:
        ImportError: supervision is not installed.
    """
    supervision = _package("supervision")
    class_ids = np.asarray(result["class_ids"], int)
    if not len(class_ids):
        return supervision.Detections.empty()
    names = [visualize.class_name(class_names, class_id) for class_id in class_ids.tolist()]
    mask = None
    if result["masks"] is not None:
        mask = np.ascontiguousarray(np.moveaxis(_dense(result["masks"]), -1, 0))
    return supervision.Detections(
        xyxy=np.asarray(result["rois"], np.float32)[:, [1, 0, 3, 2]],
        mask=mask,
        confidence=np.asarray(result["scores"], np.float32),
        class_id=class_ids,
        data={"class_name": np.array(names)},
    )


# ---- FiftyOne ------------------------------------------------------------------------------------


def to_fiftyone(
    result: dict,
    class_names: Sequence[str],
    image_shape: Sequence[int] | None = None,
) -> Any:
    """Converts a result of `MaskRCNN.detect` to `fiftyone.Detections`, for a field of a sample.

    Args:
        result: with masks of any form, or None.
        class_names: by class id, background first.
        image_shape: (H, W, ...) of the image; not needed if the result has masks.

    Returns:
        `fiftyone.Detections`: for each object label, bounding_box [x, y, width, height] relative to
        the image's sides, confidence, mask [h, w] bool inside the box (None without masks). A box
        is extended if its mask reaches beyond it.

    Raises:
        ImportError: fiftyone is not installed.
        ValueError: the size of the image is unknown.
    """
    fiftyone = _package("fiftyone", "fiftyone")
    count = len(np.asarray(result["class_ids"]))
    if not count:
        return fiftyone.Detections(detections=[])
    height, width = _image_shape(result, image_shape)
    crops: Iterable = [None] * count
    if result["masks"] is not None:
        crops = mask_math.crops_of(result["masks"])
    detections = []
    for i, crop in enumerate(crops):
        box = np.asarray(result["rois"])[i].tolist()
        mask = None
        if crop is not None:
            box, mask = _in_box(box, *crop)
        top, relative_height = _shares(box[0], box[2], height)
        left, relative_width = _shares(box[1], box[3], width)
        detections.append(
            fiftyone.Detection(
                label=visualize.class_name(class_names, int(result["class_ids"][i])),
                bounding_box=[left, top, relative_width, relative_height],
                mask=mask,
                confidence=float(result["scores"][i]),
            )
        )
    return fiftyone.Detections(detections=detections)


def _shares(start: float, stop: float, side: int) -> tuple[float, float]:
    """The start and the length of a box along an axis, relative to the side of the image.

    FiftyOne multiplies by the side and truncates: 29 / 60 * 60 may be 28.999, a pixel too small.
    Values are rounded up accordingly.
    """
    begin = start / side
    if int(side * begin) < start:
        begin = math.nextafter(begin, 2)
    length = stop / side - begin
    while int(side * (begin + length)) < int(stop):
        length = math.nextafter(length, 2)
    return begin, length


def _in_box(
    box: Sequence[float], crop_box: Sequence[int], crop: np.ndarray
) -> tuple[list[int], np.ndarray]:
    """The smallest box of whole pixels around an object's box and its mask, and the mask in it."""
    y1, x1 = np.floor(box[:2]).astype(int).tolist()
    y2, x2 = np.ceil(box[2:]).astype(int).tolist()
    if crop.size:
        y1 = min(y1, crop_box[0])
        x1 = min(x1, crop_box[1])
        y2 = max(y2, crop_box[2])
        x2 = max(x2, crop_box[3])
    mask = np.zeros((y2 - y1, x2 - x1), bool)
    top = crop_box[0] - y1
    left = crop_box[1] - x1
    if crop.size:
        mask[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return [y1, x1, y2, x2], mask


def from_fiftyone(
    samples: Any,
    field: str = "ground_truth",
    keep_empty: bool = False,
) -> Annotations:
    """Reads objects of FiftyOne, for `annotations.AnnotatedDataset` and `convert.write`.

    Args:
        samples: a dataset, a view or a list of samples whose files are images.
        field: name of a field of `fiftyone.Detections`, with masks or only boxes, or of
            `fiftyone.Polylines`.
        keep_empty: include images whose field has no objects, as background.

    Returns:
        `annotations.Annotations`. Samples without a value in the field count as not annotated and
        are left out; samples and objects that can't be read are in its `problems`.

    Raises:
        annotations.AnnotationError: there is nothing that can be used.
    """
    from mrcnn import annotations

    name = str(getattr(samples, "name", None) or "FiftyOne")
    images = []
    problems = []
    unannotated = 0
    for sample in samples:
        try:
            labels = sample[field]
        except (KeyError, AttributeError) as error:
            raise annotations.AnnotationError(
                f"{name}: expected samples with the field {field!r}. Received: {sample.filepath}"
                f" with {', '.join(sample.field_names)}"
            ) from error
        if labels is None:
            unannotated += 1
            continue
        try:
            image, object_problems = _image_of_sample(sample.filepath, labels)
        except ValueError as error:
            problems.append(f"{name}: {sample.filepath}: {error}")
            continue
        problems += [f"{name}: {sample.filepath}, {text}" for text in object_problems]
        if image.regions or (keep_empty and not object_problems):
            images.append(image)
    if problems:
        logger.warning(
            "%s: %d samples or objects are left out: %s",
            name,
            len(problems),
            files.several(problems),
        )
    if not images:
        raise annotations.AnnotationError(
            f"{name}: expected samples with objects in the field {field!r}. Received:"
            f" {unannotated} samples without it, {len(problems)} problems"
        )
    classes = sorted({region.name for image in images for region in image.regions})
    return annotations.Annotations(name, images, classes, problems)


def _image_of_sample(path: str, labels: Any) -> tuple[AnnotatedImage, list[str]]:
    """The image of a sample with its objects, and the problems of objects that can't be read.

    Raises:
        ValueError: the file is no image, or the field has another type.
    """
    from mrcnn import annotations

    try:
        height, width = utils.image_sizes(path)[0]
    except (OSError, ValueError) as error:
        raise ValueError(f"expected an image that can be read. Received: {error}") from error
    items = getattr(labels, "detections", None)
    read_item: Callable = _region_of_detection
    if items is None:
        items = getattr(labels, "polylines", None)
        read_item = _region_of_polyline
    if items is None:
        raise ValueError(
            f"expected Detections or Polylines in the field. Received: {type(labels).__name__}"
        )
    image = annotations.AnnotatedImage(os.path.basename(path), path, height, width, [])
    problems = []
    for index, item in enumerate(items):
        try:
            image.regions.append(read_item(item, height, width, index))
        except (ValueError, TypeError, OSError) as error:
            problems.append(f"object {index}: {error}")
    return image, problems


def _label_of(item: Any) -> str:
    """The class of an object of FiftyOne; ValueError without one."""
    if not isinstance(item.label, str) or not item.label:
        raise ValueError(f"expected a label. Received: {item.label!r}")
    return item.label


def _region_of_detection(item: Any, height: int, width: int, number: int) -> Region:
    """A `fiftyone.Detection` as a region: its mask, or its box; number: id of the region."""
    from mrcnn import annotations

    left, top, relative_width, relative_height = (float(value) for value in item.bounding_box)
    shape: Any = annotations.Rectangle(
        left * width,
        top * height,
        (left + relative_width) * width,
        (top + relative_height) * height,
    )
    if item.mask is not None or getattr(item, "mask_path", None):
        mask = item.mask
        if mask is None:
            mask = item.get_mask()
        pixels = np.asarray(mask) != 0
        x1 = round(left * width)
        x2 = round((left + relative_width) * width)
        y1 = round(top * height)
        y2 = round((top + relative_height) * height)
        pixels = _resized(pixels, y2 - y1, x2 - x1)
        shape = annotations.Bitmap(pixels, x1, y1)
    if not shape.has_pixels(height, width):
        raise ValueError(f"expected a pixel in the image. Received: {item.bounding_box}")
    is_crowd = bool(item.get_attribute_value("iscrowd", False))
    return annotations.Region(_label_of(item), shape, is_crowd, number)


def _resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask [h, w] resized to the size of its box by nearest neighbour."""
    if pixels.ndim != 2 or not pixels.size or height < 1 or width < 1:
        raise ValueError(f"expected a mask of two axes in its box. Received: {pixels.shape}")
    rows = (np.arange(height) * 2 + 1) * pixels.shape[0] // (2 * height)
    columns = (np.arange(width) * 2 + 1) * pixels.shape[1] // (2 * width)
    return pixels[rows[:, None], columns]


def _region_of_polyline(item: Any, height: int, width: int, number: int) -> Region:
    """A `fiftyone.Polyline` as a region, a filled polygon; number: id of the region."""
    from mrcnn import annotations

    parts = [[(x * width, y * height) for x, y in part] for part in item.points]
    parts = [part for part in parts if len(part) > 2]
    if not parts:
        raise ValueError("expected an outline of at least 3 points. Received: none")
    shape = annotations.Polygons(parts, exact=True)
    if not shape.has_pixels(height, width):
        raise ValueError("expected a pixel in the image. Received: an outline without")
    return annotations.Region(_label_of(item), shape, False, number)


# ---- Label Studio --------------------------------------------------------------------------------

# Tags of a labeling config, and the keys of the list of classes in their regions.
_DRAWN = {
    "BrushLabels": "brushlabels",
    "PolygonLabels": "polygonlabels",
    "RectangleLabels": "rectanglelabels",
}


def to_label_studio(
    result: dict,
    class_names: Sequence[str],
    image_shape: Sequence[int] | None = None,
    kind: str | None = None,
    from_name: str = "label",
    to_name: str = "image",
    tolerance: float = 1.0,
    model_version: str | None = None,
) -> dict[str, Any]:
    """Converts a result of `MaskRCNN.detect` to a prediction in Label Studio's format.

    Args:
        result: with masks of any form, or None.
        class_names: by class id, background first; the same as the labels in Label Studio.
        image_shape: (H, W, ...) of the image; not needed if the result has masks.
        kind: "brushlabels" for masks, "polygonlabels" for their outlines, "rectanglelabels" for
            boxes; None for masks if there are any, else boxes.
        from_name, to_name: names of the tags of labels and image in the labeling config.
        tolerance: for polygons, the largest deviation of an outline from its mask in pixels; 0 for
            an exact outline. Parts and holes of a mask are joined in a single outline.
        model_version: shown beside the predictions.

    Returns:
        {"result": list of regions, "score": mean of their scores, "model_version"}. Masks without a
        pixel are left out.

    Raises:
        ValueError: another kind, missing masks, or an image of unknown size.
    """
    if kind is None:
        kind = "rectanglelabels"
        if result["masks"] is not None:
            kind = "brushlabels"
    if kind not in _DRAWN.values():
        raise ValueError(f"kind is one of {', '.join(_DRAWN.values())}. Received: {kind!r}")
    if kind != "rectanglelabels" and result["masks"] is None:
        raise ValueError(f"{kind} need masks. Received: a result without; 'rectanglelabels' don't")
    count = len(np.asarray(result["class_ids"]))
    regions: list[dict[str, Any]] = []
    if count:
        size = _image_shape(result, image_shape)
        for i, value in _values(result, kind, size, tolerance):
            name = visualize.class_name(class_names, int(result["class_ids"][i]))
            regions.append(
                {
                    "id": f"mrcnn-{i + 1}",
                    "type": kind,
                    "from_name": from_name,
                    "to_name": to_name,
                    "original_height": size[0],
                    "original_width": size[1],
                    "image_rotation": 0,
                    "value": {**value, kind: [name]},
                    "score": float(result["scores"][i]),
                }
            )
    prediction: dict[str, Any] = {"result": regions, "score": 0.0}
    if regions:
        prediction["score"] = float(np.mean([region["score"] for region in regions]))
    if model_version is not None:
        prediction["model_version"] = model_version
    return prediction


def _values(
    result: dict, kind: str, size: tuple[int, int], tolerance: float
) -> Iterator[tuple[int, dict]]:
    """(index, shape in Label Studio's format) of each object that has one."""
    from mrcnn import convert

    height, width = size
    if kind == "rectanglelabels":
        for i, (y1, x1, y2, x2) in enumerate(np.asarray(result["rois"], float).tolist()):
            yield (
                i,
                {
                    "x": 100 * x1 / width,
                    "y": 100 * y1 / height,
                    "width": 100 * (x2 - x1) / width,
                    "height": 100 * (y2 - y1) / height,
                    "rotation": 0,
                },
            )
        return
    for i, ((top, left, _, _), crop) in enumerate(mask_math.crops_of(result["masks"])):
        if not crop.any():
            continue
        if kind == "brushlabels":
            mask = np.zeros(size, bool)
            mask[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
            yield i, {"format": "rle", "rle": mask_math.pack_brush(mask)}
        else:
            outline = convert.outline(crop, tolerance)
            points = [[100 * (x + left) / width, 100 * (y + top) / height] for x, y in outline]
            yield i, {"points": points, "closed": True}


@dataclasses.dataclass
class _Control:
    """A tag of a labeling config with labels.

    Attributes:
        name: its name.
        to_name: name of the tag of its image.
        kind: one of the values of `_DRAWN`.
        labels: {class: alias, which regions have, or else the class}; empty if each task has its
            own labels.
        field: key of the image's address in a task's data.
    """

    name: str
    to_name: str
    kind: str
    labels: dict[str, str]
    field: str


def _control_of(label_config: str, has_masks: bool) -> _Control:
    """The tag of a labeling config for which predictions are made.

    Raises:
        ValueError: invalid XML, or no such tag.
    """
    try:
        tree = xml.etree.ElementTree.fromstring(label_config)
    except xml.etree.ElementTree.ParseError as error:
        raise ValueError(
            f"label_config is Label Studio's, in XML. Received: {files.short(label_config)}"
            f" ({error})"
        ) from error
    tags = list(tree.iter())
    images = {tag.get("name"): tag for tag in tags if tag.tag.lower() == "image"}
    allowed = ["RectangleLabels"]
    if has_masks:
        allowed = list(_DRAWN)
    for kind in allowed:
        for tag in tags:
            if tag.tag.lower() != kind.lower() or tag.get("toName") not in images:
                continue
            labels = {}
            for label in tag.iter("Label"):
                name = str(label.get("value"))
                labels[name] = label.get("alias") or name
            address = images[tag.get("toName")].get("value") or ""
            return _Control(
                str(tag.get("name")),
                str(tag.get("toName")),
                _DRAWN[kind],
                labels,
                address.lstrip("$").strip("{} "),
            )
    raise ValueError(
        f"label_config has {' or '.join(allowed)} with an Image. Received:"
        f" {', '.join(dict.fromkeys(tag.tag for tag in tags))}"
    )


class LabelStudio:
    """Predictions for tasks of Label Studio, in an ML backend or for an import.

    Regions are masks, outlines or boxes depending on whether the labeling config has BrushLabels,
    PolygonLabels or RectangleLabels. Classes without a label in the config are left out.

    Args:
        model: `MaskRCNN` in inference mode, or an exported one.
        class_names: by class id, background first; one that is missing is called "class 7".
        label_config: the labeling config of the project, in XML.
        tolerance: of outlines, see `to_label_studio`.
        model_version: shown beside the predictions.

    Raises:
        ValueError: a config without a suitable tag, or without a label of the model's classes.
    """

    def __init__(
        self,
        model: Any,
        class_names: Sequence[str],
        label_config: str,
        tolerance: float = 1.0,
        model_version: str = "mrcnn",
    ):
        self.model = model
        count = model.config.NUM_CLASSES
        self.class_names = [visualize.class_name(class_names, i) for i in range(count)]
        self.tolerance = tolerance
        self.model_version = model_version
        has_masks = getattr(model.config, "USE_MASK", True)
        self._control = _control_of(label_config, has_masks)
        unknown = sorted(set(self._control.labels) - set(self.class_names[1:]))
        if unknown and len(unknown) == len(self._control.labels):
            raise ValueError(
                "label_config has labels of the model's classes,"
                f" {files.several(self.class_names[1:], 20)}. Received: {', '.join(unknown)}"
            )
        if unknown:
            logger.warning(
                "Label Studio has labels of which the model knows no class: %s",
                files.several(unknown),
            )

    def predict(
        self, tasks: Sequence[dict], path_of: Callable[[str], str] | None = None
    ) -> list[dict[str, Any]]:
        """Predicts tasks.

        Args:
            tasks: dicts with "data", as sent by Label Studio.
            path_of: f(address) -> path of the image's file, such as a backend's `get_local_path`;
                None if the addresses are paths.

        Returns:
            a prediction for each task, see `to_label_studio`.

        Raises:
            ValueError: a task without an image, or an image that can't be read.
        """
        predictions = []
        for task in tasks:
            image = self._load(task, path_of)
            (result,) = self.model.detect([image], masks="rle")
            labels = self._control.labels
            predictions.append(
                to_label_studio(
                    self._labelled(result),
                    [labels.get(name, name) for name in self.class_names],
                    image.shape,
                    self._control.kind,
                    self._control.name,
                    self._control.to_name,
                    self.tolerance,
                    self.model_version,
                )
            )
        return predictions

    def _load(self, task: dict, path_of: Callable[[str], str] | None) -> np.ndarray:
        """The image of a task, [H, W, 3] uint8, with EXIF rotation, as browsers show it."""
        field = self._control.field
        data = task.get("data")
        if not isinstance(data, dict) or not isinstance(data.get(field), str):
            raise ValueError(
                f"a task has its image's address in data[{field!r}]. Received: {files.short(data)}"
            )
        path = data[field]
        if path_of is not None:
            path = path_of(path)
        return utils.read_image(path)

    def _labelled(self, result: dict) -> dict:
        """A result without the objects whose class has no label in the labeling config."""
        labels = self._control.labels
        if not labels:
            return result
        class_ids = np.asarray(result["class_ids"]).tolist()
        is_kept = np.array([self.class_names[i] in labels for i in class_ids], bool)
        arrays = {
            name: np.asarray(result[name])[is_kept] for name in ("rois", "class_ids", "scores")
        }
        masks = result["masks"]
        if masks is not None:
            masks = [mask for mask, keep in zip(masks, is_kept) if keep]
        return {**arrays, "masks": masks}


# ---- SAHI ----------------------------------------------------------------------------------------


def sahi_model(model: Any, class_names: Sequence[str], confidence_threshold: float = 0.3) -> Any:
    """Wraps a model in SAHI's `DetectionModel`, for its sliced prediction.

    For large images `detect(tile=)` needs no other package, and merges masks where SAHI merges
    boxes.

    Args:
        model: has `detect(images)`, such as `MaskRCNN` or `runtime.Model`.
        class_names: by class id, background first. SAHI's category ids are the class ids.
        confidence_threshold: detections with a lower score are left out. If it is below .1, SAHI
            drops parts of an object instead of merging them.

    Raises:
        ImportError: sahi is not installed.
    """
    base = _package("sahi.models.base")
    prediction = _package("sahi.prediction")
    contours = _package("sahi.utils.cv")

    class SahiModel(base.DetectionModel):  # type: ignore[name-defined]
        """See `sahi_model`."""

        def load_model(self) -> None:
            self.set_model(model)

        def set_model(self, model: Any, **kwargs: Any) -> None:
            self.model = model

        def perform_inference(self, image: np.ndarray) -> None:
            self._images = [image]
            self._original_predictions = self.model.detect([image])

        def perform_batch_inference(self, images: list[np.ndarray]) -> None:
            self._images = list(images)
            self._original_predictions = self.model.detect(self._images)

        @property
        def num_categories(self) -> int:
            return len(self.category_mapping)

        @property
        def category_names(self) -> list[str]:
            return list(self.category_mapping.values())

        @property
        def has_mask(self) -> bool:
            return getattr(self.model.config, "USE_MASK", True)

        def _create_object_prediction_list_from_original_predictions(
            self, shift_amount_list: Any = None, full_shape_list: Any = None
        ) -> None:
            count = len(self._images)
            shifts = _pair_per_image(shift_amount_list, [0, 0], count)
            sizes = [list(image.shape[:2]) for image in self._images]
            shapes = sizes
            if full_shape_list is not None:
                shapes = _pair_per_image(full_shape_list, sizes[0], count)
            self._object_prediction_list_per_image = [
                self._predictions(*arguments)
                for arguments in zip(self._original_predictions, sizes, shifts, shapes)
            ]

        def _predictions(
            self, result: dict, size: list[int], shift: list[int], full_shape: list[int]
        ) -> list:
            """The predictions for one image, as SAHI's `ObjectPrediction`."""
            masks = None
            if result["masks"] is not None:
                masks = _dense(result["masks"])
            predictions = []
            for i, (y1, x1, y2, x2) in enumerate(np.asarray(result["rois"]).tolist()):
                score = float(result["scores"][i])
                if score < self.confidence_threshold:
                    continue
                class_id = int(result["class_ids"][i])
                segmentation = None
                if masks is not None:
                    segmentation = contours.get_coco_segmentation_from_bool_mask(masks[..., i])
                predictions.append(
                    prediction.ObjectPrediction(
                        bbox=[x1, y1, x2, y2],
                        category_id=class_id,
                        category_name=visualize.class_name(class_names, class_id),
                        segmentation=segmentation or None,
                        score=score,
                        shift_amount=shift,
                        full_shape=full_shape,
                    )
                )
            return predictions

    names = {str(i): name for i, name in enumerate(class_names) if i}
    return SahiModel(model=model, confidence_threshold=confidence_threshold, category_mapping=names)


def _pair_per_image(values: Any, default: list, count: int) -> list[list]:
    """A list of `count` pairs, from one pair for all images, a list of pairs, or None."""
    if values is None:
        return [list(default)] * count
    if not isinstance(values[0], (list, tuple, np.ndarray)):
        values = [values]
    if len(values) == 1:
        return [list(values[0])] * count
    return [list(value) for value in values]


# ---- Tracking ------------------------------------------------------------------------------------


class Tracker:
    """Tracks the objects of a video: each keeps its track id from frame to frame.

    Uses ByteTrack (arXiv 2110.06864) of the package `trackers`: boxes are matched with the
    predicted positions of those of earlier frames, whatever their class; masks follow their boxes.
    An object that is not detected for a second loses its id. Use a new tracker for each video.

    Args:
        rate: frames per second.

    Raises:
        ImportError: trackers is not installed.
    """

    # Detections with at least this score start tracks, and are matched before the others.
    LEAST_SCORE = 0.5

    def __init__(self, rate: float = 30.0):
        trackers = _package("trackers", "tracking")
        self._supervision = _package("supervision", "tracking")
        self._tracker = trackers.ByteTrackTracker(
            frame_rate=float(rate),
            minimum_consecutive_frames=1,
            track_activation_threshold=self.LEAST_SCORE,
            high_conf_det_threshold=self.LEAST_SCORE,
        )
        self._track_ids: dict[int, int] = {}  # {the tracker's own id: track id}

    def copy(self) -> Tracker:
        """A tracker with the same tracks, whose updates don't change this one."""
        copied = copy.copy(self)
        copied._tracker = copy.deepcopy(self._tracker)
        copied._track_ids = dict(self._track_ids)
        return copied

    def update(self, result: dict) -> np.ndarray:
        """The track ids of the objects of the next frame.

        Args:
            result: of `MaskRCNN.detect`, with masks of any form.

        Returns:
            [N] int32, from 1; 0 for an object that is detected for the first time, which gets its
            id in the next frame if it is detected again.
        """
        boxes = np.asarray(result["rois"], np.float32).reshape(-1, 4)
        detections = self._supervision.Detections(
            xyxy=boxes[:, [1, 0, 3, 2]],
            confidence=np.asarray(result["scores"], np.float32),
            class_id=np.asarray(result["class_ids"], int),
            # The tracker returns them in another order.
            data={"place": np.arange(len(boxes))},
        )
        track_ids = np.zeros(len(boxes), np.int32)
        if not len(boxes):
            self._tracker.update(detections)
            return track_ids
        tracked = self._tracker.update(detections)
        for index, own_id in sorted(
            zip(tracked.data["place"].tolist(), tracked.tracker_id.tolist())
        ):
            if own_id >= 0:
                track_ids[index] = self._track_ids.setdefault(own_id, len(self._track_ids) + 1)
        return track_ids
