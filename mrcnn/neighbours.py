"""Results and models as other programs take them, and objects numbered over the frames of a video.

    detections = neighbours.to_supervision(model.detect([image])[0], class_names)
    sahi.predict.get_sliced_prediction(image, neighbours.sahi_model(model, class_names))
    numbers = tracker.update(result)                # tracker = neighbours.Tracker(rate)

The packages, supervision, SAHI and trackers, are imported by what needs them: `pip install
"mask-rcnn-keras3[neighbours]"`, for the tracker alone `"mask-rcnn-keras3[tracking]"`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mrcnn import masks as mask_math, visualize


def _package(name: str, extra: str = "neighbours") -> Any:
    """A package of others, or ImportError that says how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f'this needs {name}: pip install {name}, or "mask-rcnn-keras3[{extra}]" ({error})'
        ) from error


def _dense(masks: Any) -> np.ndarray:
    """[H, W, N] bool of a result's masks of any form."""
    if isinstance(masks, list):
        if not masks:
            return np.zeros((0, 0, 0), bool)
        return mask_math.decode_rle(masks, *masks[0]["size"])
    return np.asarray(masks).astype(bool, copy=False)


def to_supervision(result: dict, class_names: Sequence[str]) -> Any:
    """A result of `MaskRCNN.detect` as `supervision.Detections`.

    Args:
        result: with masks of any form, or None.
        class_names: by class id, background first.

    Returns:
        `supervision.Detections`: xyxy [N, 4] float32, mask [N, H, W] bool (None where the result
        has none), confidence, class_id, and data["class_name"].

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


def sahi_model(model: Any, class_names: Sequence[str], confidence_threshold: float = 0.3) -> Any:
    """A model as SAHI's `DetectionModel`, for its sliced prediction.

    For large images `detect(tile=)` needs no other package, and joins masks where SAHI joins boxes.

    Args:
        model: has `detect(images)`: a `MaskRCNN`, a `runtime.Model`.
        class_names: by class id, background first. The ids of SAHI's categories are the class ids.
        confidence_threshold: detections below are left out. Below .1 SAHI drops the parts of an
            object where it would join them.

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
            shifts = _each(shift_amount_list, [0, 0], count)
            own = [list(image.shape[:2]) for image in self._images]
            shapes = own
            if full_shape_list is not None:
                shapes = _each(full_shape_list, own[0], count)
            self._object_prediction_list_per_image = [
                self._predictions(*given)
                for given in zip(self._original_predictions, own, shifts, shapes)
            ]

        def _predictions(
            self, result: dict, size: list[int], shift: list[int], full_shape: list[int]
        ) -> list:
            """SAHI's predictions of one image."""
            masks = None
            if result["masks"] is not None:
                masks = _dense(result["masks"])
            found = []
            for i, (y1, x1, y2, x2) in enumerate(np.asarray(result["rois"]).tolist()):
                score = float(result["scores"][i])
                if score < self.confidence_threshold:
                    continue
                class_id = int(result["class_ids"][i])
                segmentation = None
                if masks is not None:
                    segmentation = contours.get_coco_segmentation_from_bool_mask(masks[..., i])
                found.append(
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
            return found

    names = {str(i): name for i, name in enumerate(class_names) if i}
    return SahiModel(model=model, confidence_threshold=confidence_threshold, category_mapping=names)


def _each(values: Any, default: list, count: int) -> list[list]:
    """A pair for each image, of one pair for all or a list of pairs."""
    if values is None:
        return [list(default)] * count
    if not isinstance(values[0], (list, tuple, np.ndarray)):
        values = [values]
    if len(values) == 1:
        return [list(values[0])] * count
    return [list(value) for value in values]


class Tracker:
    """Numbers the objects of a video, which keep their numbers from frame to frame.

    By ByteTrack (arXiv 2110.06864) of the package `trackers`: boxes are compared with where those
    of the frames before would have moved to, whatever their class; masks go with their boxes. An
    object that is not seen for a second loses its number. One tracker for each video.

    Args:
        rate: frames per second.

    Raises:
        ImportError: trackers is not installed.
    """

    # Scores from which on a detection begins a track, and goes before those below.
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
        self._numbers: dict[int, int] = {}  # by the tracker's own ids

    def update(self, result: dict) -> np.ndarray:
        """The numbers of the objects of the next frame.

        Args:
            result: of `MaskRCNN.detect`, with masks of any form.

        Returns:
            [N] int32, from 1 on; 0 for an object that is seen for the first time, which gets its
            number in the next frame if it is there too.
        """
        boxes = np.asarray(result["rois"], np.float32).reshape(-1, 4)
        found = self._supervision.Detections(
            xyxy=boxes[:, [1, 0, 3, 2]],
            confidence=np.asarray(result["scores"], np.float32),
            class_id=np.asarray(result["class_ids"], int),
            # The tracker gives them back in another order.
            data={"place": np.arange(len(boxes))},
        )
        numbers = np.zeros(len(boxes), np.int32)
        if not len(boxes):
            self._tracker.update(found)
            return numbers
        tracked = self._tracker.update(found)
        for place, number in sorted(
            zip(tracked.data["place"].tolist(), tracked.tracker_id.tolist())
        ):
            if number >= 0:
                numbers[place] = self._numbers.setdefault(number, len(self._numbers) + 1)
        return numbers
