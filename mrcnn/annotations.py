"""Reads annotations in any format: VIA, LabelMe, Label Studio, CVAT, COCO, YOLO, mask files, ...

    annotations = read("photos/via_region_data.json")
    dataset = AnnotatedDataset()
    dataset.load("balloon", annotations)
    dataset.prepare()

A file in none of the formats raises `AnnotationError`. A single file of many, an image or a region
that can't be used is left out, listed in `Annotations.problems` and logged once, with the file, the
image, the region, and what was expected and received.

Points are (x, y) in pixels of the image as it is displayed, with its EXIF rotation applied, unless
the file gives the size of the stored pixels. Keras and TensorFlow are not imported.

This module detects the format of a file or folder. Each family of formats has a module of its own:
`via`, `labelme`, `label_studio`, `labelbox`, `scalabel`, `datumaro_json`, `youtube_vis`,
`createml`, `open_images`, `cvat`, `yolo`, `mask_files`, `coded_pngs`, `mots_text`; they share
`reading` and `outlines`.
"""

import collections
import csv
import io
import itertools
import logging
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mrcnn import coco, files, utils
from mrcnn.coded_pngs import ade20k_in, layout_in, read_coded_pngs
from mrcnn.createml import is_createml, read_createml
from mrcnn.cvat import (
    cvat_files_in,
    has_shapes,
    is_of_one_image_xml,
    is_of_video,
    read_cvat_xml,
    read_image_xmls,
    xml_files_in,
)
from mrcnn.datumaro_json import is_datumaro, read_datumaro
from mrcnn.detections import are_detections, as_annotations, check_rows, index_of
from mrcnn.label_studio import is_label_studio, read_tasks
from mrcnn.labelbox import is_labelbox, read_labelbox
from mrcnn.labelme import (
    classes_of_meta,
    is_eiseg,
    is_isat,
    is_qupath,
    is_segment_anything,
    is_supervisely,
    is_supervisely_meta,
    is_v7,
    labelme_key,
    read_labelme_jsons,
)
from mrcnn.mask_files import (
    CITYSCAPES_CLASSES,
    SOFT_SHARE,
    SOFT_VALUES,
    VOC_CLASSES,
    cityscapes_in,
    mask_sets,
    read_cityscapes,
    read_masks,
    semantic_hint,
)
from mrcnn.mots_text import mots_videos_in, read_mots_text
from mrcnn.open_images import is_open_images, open_images_in, read_open_images
from mrcnn.outlines import (
    FARTHEST_LINE,
    MOST_STEPS,
    Bitmap,
    CocoSegmentation,
    Crop,
    Ellipse,
    EvenOdd,
    PixelOutline,
    Polygons,
    Rectangle,
    Rings,
    Shape,
    Union,
    crop_of,
)
from mrcnn.reading import (
    BACKGROUNDS,
    LINES_SUFFIXES,
    OTHER_SUFFIXES,
    AnnotatedImage,
    AnnotationError,
    Annotations,
    EmbeddedImage,
    Entry,
    Reader,
    Region,
    all_entries,
    class_names_of,
    given_size,
    is_inside,
    json_files_in,
    load_json,
    printable,
    problem_lines,
    values_of,
)
from mrcnn.scalabel import is_scalabel, read_scalabel
from mrcnn.via import is_via3, load_csv, read_via_content
from mrcnn.yolo import YAML_SUFFIXES, is_yolo, read_yolo, yolo_subset
from mrcnn.youtube_vis import is_youtube_vis, read_youtube_vis

logger = logging.getLogger(__name__)

__all__ = [
    "AnnotatedDataset",
    "AnnotatedImage",
    "AnnotationError",
    "Annotations",
    "Bitmap",
    "CITYSCAPES_CLASSES",
    "CocoSegmentation",
    "Crop",
    "Ellipse",
    "EmbeddedImage",
    "EvenOdd",
    "FARTHEST_LINE",
    "FORMATS",
    "MOST_STEPS",
    "PixelOutline",
    "Polygons",
    "Rectangle",
    "Region",
    "Rings",
    "SOFT_SHARE",
    "SOFT_VALUES",
    "Shape",
    "Union",
    "VOC_CLASSES",
    "YAML_SUFFIXES",
    "crop_of",
    "dataset_of",
    "is_yolo",
    "read",
    "read_cityscapes",
    "read_coco",
    "read_cvat",
    "read_label_studio",
    "read_labelme",
    "read_masks",
    "read_via",
    "read_yolo",
    "reads_as_yolo",
    "yolo_subset",
]


FORMATS = (
    "annotations in a format that docs/custom_dataset.md lists, such as COCO's, VIA's or LabelMe's"
    " json, YOLO's labels or mask files"
)


# ---- The dataset ---------------------------------------------------------------------------------


class AnnotatedDataset(utils.Dataset):
    """A `Dataset` of annotations in any of the formats, from one source or several.

    `AnnotatedDataset.of("balloon", annotations)` gives a prepared dataset of a single source.
    """

    @classmethod
    def of(
        cls,
        source: str,
        annotations: Annotations,
        classes: Iterable[str] | None = None,
    ) -> "AnnotatedDataset":
        """A prepared dataset of one source; the arguments are those of `load`."""
        dataset = cls()
        dataset.load(source, annotations, classes)
        dataset.prepare()
        return dataset

    def load(
        self,
        source: str,
        annotations: Annotations,
        classes: Iterable[str] | None = None,
    ) -> None:
        """Adds classes and images; call `prepare` afterwards.

        Args:
            source: name of the data, without a dot.
            annotations: `Annotations`, see `read`.
            classes: names in the order of their ids 1, 2, ...; None for those of `annotations`.
                Pass the training set's classes for the validation set.

        Raises:
            AnnotationError: a region has a class that is not among `classes`.
        """
        if classes is None:
            classes = annotations.classes
        classes = list(classes)
        _check_classes(annotations, classes)
        for class_id, name in enumerate(classes, 1):
            self.add_class(source, class_id, name)
        for image in annotations.images:
            self.add_image(
                source,
                image.name,
                image.path,
                width=image.width,
                height=image.height,
                annotation=image,
                names=classes,
            )

    def load_image(self, image_id: int) -> np.ndarray:
        """[H, W, 3] uint8, with its EXIF rotation applied unless the stored pixels are annotated.

        Raises:
            ValueError: the file can no longer be read, or its size has changed.
        """
        info = self.image_info[image_id]
        if "annotation" not in info:
            return super().load_image(image_id)
        annotated = info["annotation"]
        if annotated.embedded:
            image = self._embedded_image(image_id)
        else:
            image = super().load_image(image_id)
        where = f"{info['path']} (annotated as {annotated.name!r})"
        utils.check_image_size(image, (info["height"], info["width"]), where)
        return image

    def _embedded_image(self, image_id: int) -> np.ndarray:
        """An image that is embedded in the json; ValueError if it can no longer be read."""
        info = self.image_info[image_id]
        try:
            return info["annotation"].embedded.read(size=(info["height"], info["width"]))
        except (OSError, TypeError, AttributeError, KeyError, ValueError, SyntaxError) as error:
            raise ValueError(
                f"Image {image_id} can't be read from {info['path']}: {error}"
            ) from error

    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """masks [H, W, N] bool; class_ids [N] int32, negative for crowds."""
        info = self.image_info[image_id]
        if "annotation" not in info:
            return super().load_mask(image_id)
        class_ids = []
        for region in info["annotation"].regions:
            source_id = info["names"].index(region.name) + 1
            class_id = self.map_source_class_id(f"{info['source']}.{source_id}")
            if region.crowd:
                class_id = -class_id
            class_ids.append(class_id)
        return info["annotation"].masks(), np.array(class_ids, np.int32)


def _check_classes(annotated: Annotations, classes: Sequence[str]) -> None:
    """AnnotationError if a region has a class that is not among `classes`."""
    unknown = sorted(class_names_of(annotated.images) - set(classes))
    if unknown:
        raise AnnotationError(
            f"{annotated.path}: the classes are {', '.join(classes)}. Received: regions of "
            f"the class {', '.join(map(repr, unknown))}"
        )


def dataset_of(annotated: Annotations, classes: Iterable[str] | None = None) -> Any:
    """A prepared `Dataset` of annotations; of COCO's json with its ids, areas and boxes.

    With these an evaluation gives the figures of pycocotools on that json.

    Args:
        annotated: see `read`.
        classes: as for `AnnotatedDataset.load`.

    Raises:
        AnnotationError: a region has a class that is not among `classes`.
    """
    categories = {category["name"]: category["id"] for category in annotated.categories}
    is_coco = bool(categories) and all(
        image.extra is not None
        and all(isinstance(region.shape, CocoSegmentation) for region in image.regions)
        for image in annotated.images
    )
    if classes is not None:
        # A model has one class of a name; masks alone tell objects of two such categories.
        is_coco = is_coco and len(categories) == len(annotated.categories)
        classes = list(classes)
        _check_classes(annotated, classes)
    if not is_coco:
        return AnnotatedDataset.of("mrcnn", annotated, classes)
    dataset = coco.CocoDataset()
    numbered = [(category["id"], category["name"]) for category in annotated.categories]
    if classes is not None:
        unused = itertools.count(max(categories.values()) + 1)
        numbered = []
        for name in classes:
            if name in categories:
                numbered.append((categories[name], name))
            else:  # a class of the model that the json lacks
                numbered.append((next(unused), name))
    for category_id, name in numbered:
        dataset.add_class("coco", category_id, name)
    for category in annotated.categories:
        dataset.keypoint_names = tuple(category.get("keypoints") or dataset.keypoint_names)
    for image in annotated.images:
        dataset.add_image(
            "coco",
            image.extra["id"],  # type: ignore[index]
            image.path,
            width=image.width,
            height=image.height,
            annotations=[region.shape.annotation for region in image.regions],  # type: ignore
            json=annotated.path,
        )
    dataset.prepare()
    return dataset


# ---- Any format ----------------------------------------------------------------------------------


def read(
    path: Any,
    images: Any = None,
    attribute: str | None = None,
    label: str | None = None,
    keep_empty: bool = False,
    need_files: bool = True,
    crowds: str = "auto",
    root: Any = None,
) -> Annotations:
    """Reads annotations in any of the formats, which is detected from the content.

    An image without a file under the annotated name is looked up by its base name where that is
    unambiguous (see `files.find_images`), with a warning. An image that is annotated in several
    places gets the regions of all of them.

    Args:
        path: a json file of VIA, COCO or Label Studio, or LabelMe's of one image; or a folder with
            one of the first two, or any number of the last two. The files lie in the folder or, if
            it has none itself, in its sub-folders, up to 3 levels deep; LabelMe's may lie in both.
            A folder without json may have CVAT's xml of one task or several, see `read_cvat`;
            YOLO's labels, see `read_yolo`; mask files, see `read_masks`; an XML for each image, the
            old LabelMe's or Pascal VOC's; or be Cityscapes' folder, see `read_cityscapes`; Open
            Images' csv of masks, see `open_images.read_open_images`; or the PNGs of MOTS, KITTI,
            ADE20K or BDD100K, see `coded_pngs`. A json may also be Labelbox's, Scalabel's,
            Datumaro's, YouTube-VIS' or CreateML's.
        images: folder that the file names of the images are relative to; None for the json's own
            folder, or for <name>/ beside annotations/instances_<name>.json.
        attribute: VIA: the region attribute that holds the class; None takes the only one there is.
            Without any attribute every region has the class "object".
        label: VIA, Label Studio, Segment Anything and mask files: the class of every region,
            whatever its attributes or colours.
        keep_empty: also returns images without regions, as background.
        need_files: False also returns images whose files are missing, where the annotations give
            their size, so that they can be converted.
        crowds: COCO: how annotations with iscrowd 1 are read, see `coco.read_annotations`.
        root: the folder of the dataset that a json file belongs to; images that are not beside the
            file are searched for in it. None for the folders beside the file alone.

    Returns:
        `Annotations`.

    Raises:
        AnnotationError: the file does not exist, has another format, or has no usable image.
    """
    return _read_any(path, images, attribute, label, keep_empty, None, need_files, crowds, root)


def _images_of_coco(path: str) -> str | None:
    """The folder of the images of a json in COCO's own folder layout; None for another layout.

    For annotations/instances_val2017.json it is val2017/ or images/val2017/ beside annotations/.
    """
    folder, name = os.path.split(os.path.abspath(path))
    stem, suffix = os.path.splitext(name)
    if os.path.basename(folder) != "annotations" or suffix.lower() != ".json":
        return None
    root = os.path.dirname(folder)
    subset = stem.rpartition("_")[2]
    for candidate in (os.path.join(root, subset), os.path.join(root, "images", subset)):
        if os.path.isdir(candidate):
            return candidate
    return None


def _read_any(
    path: Any,
    images: Any = None,
    attribute: str | None = None,
    label: str | None = None,
    keep_empty: bool = False,
    expected: str | None = None,
    need_files: bool = True,
    crowds: str = "auto",
    root: Any = None,
) -> Annotations:
    """Reads a file or a folder; with `expected`, only that format."""
    path = os.fspath(path)
    if path.lower().endswith(YAML_SUFFIXES):
        return read_yolo(path, images, keep_empty)
    if path.lower().endswith(".xml"):
        _warn_of_via_settings(path, attribute, label)
        if is_of_one_image_xml(path):
            return read_image_xmls(path, [path], images, keep_empty, need_files)
        return read_cvat(path, images, keep_empty, need_files)
    if expected is None and is_open_images(path):
        _warn_of_via_settings(path, attribute, label)
        return read_open_images(path, [path], images, need_files)
    if not os.path.isdir(path):
        if images is None:
            images = _images_of_coco(path)
        return _read_file(
            path, images, attribute, label, keep_empty, expected, root, need_files, crowds
        )
    if expected is None and cityscapes_in(path):
        _warn_of_via_settings(path, attribute, label)
        return read_cityscapes(path, keep_empty)
    if expected is None:
        layout = layout_in(path)
        if layout is not None:
            _warn_of_via_settings(path, attribute, label)
            return read_coded_pngs(layout, keep_empty)
        videos = mots_videos_in(path)
        if videos:
            _warn_of_via_settings(path, attribute, label)
            return read_mots_text(path, videos, keep_empty)
    folder = _Folder(path, expected)
    folder.dataset_files = _without_other_kinds(folder.dataset_files)
    subsets = _subsets(folder.dataset_files, path)
    if folder.formats == {"scalabel"} and len(folder.dataset_files) > 1:
        subsets = folder.dataset_files  # Scalabel may have a json for each video
    if subsets:
        folder.warn_of_unread()
        parts = [(file, images or _images_of_coco(file)) for file in subsets]
        return _read_together(path, parts, attribute, label, keep_empty, need_files, crowds)
    if len(folder.dataset_files) > 1:
        raise AnnotationError(
            f"{path}: expected one VIA or COCO json in the folder, or one for each subset, with"
            " 'train' in a name or folder; name the file. Received: "
            + ", ".join(os.path.relpath(file, path) for file in folder.dataset_files)
        )
    if folder.dataset_files:
        folder.warn_of_unread()
        return _read_file(
            folder.dataset_files[0],
            images or _images_of_coco(folder.dataset_files[0]),
            attribute,
            label,
            keep_empty,
            root=path,
            need_files=need_files,
            crowds=crowds,
        )
    if folder.task_jsons and not folder.labelme_jsons:
        _warn_of_via_settings(path, attribute, None)
        return read_tasks(path, folder.task_jsons, images, label, keep_empty, need_files)
    if not folder.labelme_jsons and expected is None:
        cvat_files = cvat_files_in(path, below=False)
        if not cvat_files and is_yolo(path):
            _warn_of_via_settings(path, attribute, label)
            return read_yolo(path, images, keep_empty)
        csv_files = open_images_in(path)
        if csv_files:
            _warn_of_via_settings(path, attribute, label)
            return read_open_images(path, csv_files, images, need_files)
        layout = ade20k_in(path)
        if layout is not None:
            _warn_of_via_settings(path, attribute, label)
            return read_coded_pngs(layout, keep_empty)
        image_xmls = [file for file in xml_files_in(path) if is_of_one_image_xml(file)]
        if not cvat_files and not has_shapes(image_xmls) and mask_sets(path)[0]:
            _warn_of_via_settings(path, attribute, None)
            return read_masks(path, label, keep_empty)
        cvat_files = cvat_files or cvat_files_in(path, below=True)
        if cvat_files:
            _warn_of_via_settings(path, attribute, label)
            return _read_cvat_files(path, cvat_files, images, keep_empty, need_files)
        if image_xmls:
            _warn_of_via_settings(path, attribute, label)
            return read_image_xmls(path, image_xmls, images, keep_empty, need_files)
        damaged = cvat_files_in(path, False, damaged_alone=True)
        damaged = damaged or cvat_files_in(path, True, damaged_alone=True)
        if damaged:
            return _read_cvat_files(path, damaged, images, keep_empty, need_files)
    if not folder.labelme_jsons:
        received = f"a folder with {folder.count} json files, none of these{_xml_hint(path)}"
        received += semantic_hint(path) + _archive_hint(path) + _csv_hint(path) + _numpy_hint(path)
        raise AnnotationError(
            f"{path}: expected {FORMATS}. Received: {received}{problem_lines(folder.problems())}"
        )
    _warn_of_settings_of_labelme(path, folder.labelme_jsons, attribute, label)
    for file in folder.task_jsons:
        folder.unusable[file] = "expected a labelme json as the others. Received: Label Studio's"
    return read_labelme_jsons(
        path,
        folder.labelme_jsons,
        images,
        keep_empty,
        folder.unusable,
        need_files,
        folder.classes,
        label,
    )


def _without_other_kinds(dataset_files: list[str]) -> list[str]:
    """The files without those of keypoints, captions and the like, if some are of instances.

    COCO's own annotations, Datumaro's and BDD100K's have a file for each kind.
    """
    stems = {file: os.path.splitext(os.path.basename(file))[0].lower() for file in dataset_files}
    of_instances = [file for file, stem in stems.items() if stem.startswith("ins_seg")]
    if of_instances:
        return of_instances
    if not any("instances" in stem for stem in stems.values()):
        return dataset_files
    return [
        file for file, stem in stems.items() if not any(kind in stem for kind in coco.OTHER_KINDS)
    ]


def _subsets(dataset_files: list[str], path: str) -> list[str]:
    """The files of a folder if they are the subsets of one dataset; empty otherwise.

    The name or folder of each file names its subset, and one is the training set: Roboflow's
    train/, valid/ and test/, COCO's own annotations/.
    """
    if len(dataset_files) < 2:
        return []
    paths = [pathlib.Path(file) for file in dataset_files]
    if not all(coco.says_a_subset(file, path) for file in paths):
        return []
    if not any(coco.says_a_subset(file, path, "train") for file in paths):
        return []
    return list(map(str, paths))


def _read_together(
    path: str,
    parts: Sequence[tuple[str, Any]],
    attribute: str | None,
    label: str | None,
    keep_empty: bool,
    need_files: bool,
    crowds: str,
) -> Annotations:
    """The images of several files as one; AnnotationError if none can be used.

    Images are named by their paths in the folder, since each subset may have an a.jpg.

    Args:
        path: the folder.
        parts: a pair (json or CVAT's xml file, folder of its images or None) for each file.
        attribute, label, keep_empty, need_files, crowds: see `read`.
    """
    subsets: list[Annotations] = []
    problems: list[str] = []
    names = [os.path.relpath(file, path) for file, _ in parts]
    logger.warning("%s: %d files are read together: %s", path, len(parts), files.several(names, 10))
    for file, images in parts:
        try:
            if file.lower().endswith(".xml"):
                part = read_cvat_xml(file, images, keep_empty, need_files, path)
            else:
                part = _read_file(
                    file, images, attribute, label, keep_empty, None, path, need_files, crowds
                )
        except AnnotationError as error:
            if len(parts) == 1:
                raise
            logger.warning("%s; left out", error)
            problems.append(str(error))
            continue
        for image in part.images:
            image.name = _name_in(path, file, image)
        subsets.append(part)
        problems += part.problems
    if not subsets:
        raise AnnotationError(
            f"{path}: expected images with regions. Received: {len(parts)} files without"
            f"{problem_lines(problems)}"
        )
    reader = Reader(path, None, keep_empty)
    images = reader.merged([image for part in subsets for image in part.images])
    reader.log_problems()
    classes = list(dict.fromkeys(name for part in subsets for name in part.classes))
    categories = subsets[0].categories
    if any(part.categories != categories for part in subsets):
        categories = []
    return Annotations(path, images, classes, [*problems, *reader.problems], categories)


def _name_in(path: str, file: str, image: AnnotatedImage) -> str:
    """The name of an image of one file, distinct from those of the folder's other files."""
    if image.path and not image.embedded and is_inside(image.path, path):
        return os.path.relpath(image.path, path)
    stem = os.path.splitext(os.path.relpath(file, path))[0]
    return f"{stem}/{image.name}"


def _xml_hint(path: str) -> str:
    """The end of an error message about a folder that has annotations in XML; "" without."""
    xml_files = [os.path.relpath(file, path) for file in xml_files_in(path)]
    if not xml_files:
        return ""
    return (
        f"; {len(xml_files)} XML files, none of them CVAT's or of an image"
        f" ({files.several(xml_files, 2)}): export COCO's json in their place"
    )


def _archive_hint(path: str) -> str:
    """The end of an error message about a folder with archives in it; "" without."""
    endings = (".zip", ".tar", ".tgz", ".tar.gz", ".gz", ".7z", ".rar", ".tar.bz2", ".tar.xz")
    archives = [name for name in sorted(os.listdir(path)) if name.lower().endswith(endings)]
    if not archives:
        return ""
    return f"; what is packed is to be unpacked first: {files.several(archives, 2)}"


def _csv_hint(path: str) -> str:
    """The end of an error message about a folder with csv files in it; "" without.

    Run lengths, as of Kaggle, have no order of pixels that a file tells: Airbus' go down the
    columns, Sartorius' along the rows.
    """
    hints = []
    for file in _csv_files(path)[:2]:
        try:
            columns = next(csv.reader(io.StringIO(files.read_text(file))), [])
        except (ValueError, csv.Error):
            continue
        hint = f"{os.path.basename(file)} with the columns {files.short(columns)}"
        if any(column in _RUN_LENGTH_COLUMNS for column in columns):
            hint += ", run lengths, of which no file says whether they go down or along: write"
            hint += " COCO's json or mask files of them"
        hints.append(hint)
    if not hints:
        return ""
    return f"; csv files, of which VIA 2's and Open Images' are read: {'; '.join(hints)}"


# Columns of run lengths in Kaggle's competitions.
_RUN_LENGTH_COLUMNS = ("EncodedPixels", "annotation", "rle", "encoding", "segmentation", "rle_mask")


def _numpy_hint(path: str) -> str:
    """The end of an error message about a folder with arrays of numpy in it; "" without."""
    arrays = [name for name in sorted(os.listdir(path)) if name.lower().endswith((".npy", ".npz"))]
    if not arrays:
        return ""
    return (
        "; arrays of numpy, of which none is read; label images are PNGs or TIFFs (Cellpose:"
        f" --save_png or --save_tif): {files.several(arrays, 2)}"
    )


def _warn_of_via_settings(path: str, attribute: str | None, label: str | None) -> None:
    """Warns that `attribute` and `label` have no effect: other formats name the class."""
    for name, value in (("attribute", attribute), ("label", label)):
        if value is not None:
            logger.warning("%s: %s=%r is for VIA alone and changes nothing here", path, name, value)


def _warn_of_settings_of_labelme(
    path: str, loaded: dict[str, Any], attribute: str | None, label: str | None
) -> None:
    """Warns that settings have no effect; of jsons of one image SA-1B's alone take a `label`."""
    if any(map(is_segment_anything, loaded.values())):
        label = None
    _warn_of_via_settings(path, attribute, label)


# ---- The json files of a folder ------------------------------------------------------------------


class _Folder:
    """The json files of a folder, or of its sub-folders if it has no annotations itself.

    Args:
        path: the folder.
        expected: the only format to read, None for any.

    Attributes:
        count: number of files.
        dataset_files: paths of files that hold all images each: VIA's, COCO's, those of `_LISTS`.
        formats: the formats of these.
        labelme_jsons: {path: content} of LabelMe's files of one image, without embedded images.
        task_jsons: {path: content} of Label Studio's files.
        unusable: {path: why it has no annotations}.
        damaged: paths of the unusable files that are not valid json.
        classes: names of the classes in Supervisely's meta.json, in its order.
    """

    def __init__(self, path: str, expected: str | None):
        self.path = path
        self.expected = expected
        self.count = 0
        self.dataset_files: list[str] = []
        self.formats: set[str] = set()
        self.labelme_jsons: dict[str, Any] = {}
        self.task_jsons: dict[str, Any] = {}
        self.unusable: dict[str, str] = {}
        self.damaged: list[str] = []
        self.classes: list[str] = []
        for file in json_files_in(path, below=False):
            self._add(file)
        if not self.has_annotations():
            for file in json_files_in(path, below=True):
                self._add(file)
        elif self.labelme_jsons and not self.dataset_files and not self.task_jsons:
            self._add_from_subfolders()
        if not self.has_annotations() and expected in (None, "via"):
            self.dataset_files = [file for file in _csv_files(path) if _is_via_csv(file)]

    def _add(self, file: str) -> None:
        """Loads a file and adds it to the files of its format."""
        self.count += 1
        try:
            data = load_json(file)
        except AnnotationError as error:
            self.unusable[file] = str(error).removeprefix(f"{file}: ")
            if not file.lower().endswith(LINES_SUFFIXES):
                self.damaged.append(file)
            return
        name = _format_of(data)
        if is_supervisely_meta(data):
            self.classes += classes_of_meta(data)
        elif name is None and file.lower().endswith(OTHER_SUFFIXES):
            self.count -= 1
        elif name is None:
            self.unusable[file] = f"expected annotations. Received: {_description_of(data)}"
        elif self.expected not in (None, name, _without_version(name)):
            self.unusable[file] = f"expected a {self.expected} json. Received: a {name} one"
        elif _is_empty(data, name):
            self.unusable[file] = (
                f"expected images with regions. Received: a {name} json without any"
            )
        elif name == "labelme":
            self._add_labelme(file, data)
        elif name == "labelstudio":
            self.task_jsons[file] = data
        else:
            self.dataset_files.append(file)
            self.formats.add(name)

    def _add_from_subfolders(self) -> None:
        """Adds LabelMe's jsons in sub-folders to those of the folder, since LabelMe opens both.

        Sub-folders of subsets, such as val/, are separate datasets and are left out, and so are
        copies of a json of the folder.
        """
        own_keys = {labelme_key(data) for data in self.labelme_jsons.values()}
        in_subsets = []
        copies = []
        for file in json_files_in(self.path, below=True):
            relative = os.path.relpath(file, self.path)
            try:
                data = load_json(file)
            except AnnotationError:
                continue
            if _format_of(data) != "labelme":
                continue
            if coco.says_a_subset(pathlib.Path(os.path.dirname(file), "x"), self.path):
                in_subsets.append(relative)
            elif labelme_key(data) in own_keys:
                copies.append(relative)
            else:
                self.count += 1
                self._add_labelme(file, data)
        for left_out, reason in (
            (in_subsets, "in sub-folders of subsets are not read with the others"),
            (copies, "in sub-folders are copies of those of the folder and left out"),
        ):
            if left_out:
                logger.warning(
                    "%s: %d json files %s: %s",
                    self.path,
                    len(left_out),
                    reason,
                    files.several(left_out),
                )

    def _add_labelme(self, file: str, data: Any) -> None:
        """Adds the json of one image, without its embedded image."""
        # The images of a whole folder don't fit in memory, least of all in base64.
        if isinstance(data, dict) and data.get("imageData"):
            data["imageData"] = True
        self.labelme_jsons[file] = data

    def has_annotations(self) -> bool:
        """Whether there are files in any of the formats."""
        return bool(self.dataset_files or self.labelme_jsons or self.task_jsons)

    def problems(self) -> list[str]:
        """A message for each unusable file."""
        return [
            f"{os.path.relpath(file, self.path)}: {reason}"
            for file, reason in self.unusable.items()
        ]

    def warn_of_unread(self) -> None:
        """Warns of the json files that are not read beside those that hold all images."""
        unread = [*self.damaged, *self.labelme_jsons, *self.task_jsons]
        names = [os.path.relpath(file, self.path) for file in unread]
        if names:
            logger.warning(
                "%s: of the folder only %s is read. Beside it are %d json files that are damaged,"
                " LabelMe's or Label Studio's: %s",
                self.path,
                files.several(os.path.relpath(file, self.path) for file in self.dataset_files),
                len(names),
                files.several(names),
            )


# ---- Detecting the format ------------------------------------------------------------------------


def _csv_files(path: str) -> list[str]:
    """The csv files directly in a folder, sorted."""
    files_in = [os.path.join(path, name) for name in sorted(os.listdir(path))]
    return [file for file in files_in if file.lower().endswith(".csv") and os.path.isfile(file)]


def _is_via_csv(path: str) -> bool:
    """Whether a csv file is VIA's."""
    try:
        return bool(load_csv(path))
    except AnnotationError:
        return False


# Json formats of many images each that a function reads with a `Reader`.
_LISTS = {
    "datumaro": is_datumaro,
    "labelbox": is_labelbox,
    "scalabel": is_scalabel,
    "youtube_vis": is_youtube_vis,
    "createml": is_createml,
}
_READERS = {
    "datumaro": read_datumaro,
    "labelbox": read_labelbox,
    "scalabel": read_scalabel,
    "youtube_vis": read_youtube_vis,
    "createml": read_createml,
}


def _format_of(data: Any) -> str | None:
    """The format of a json: via, via3, labelme, labelstudio, coco, one of `_LISTS`, or None."""
    entries = values_of(data)
    if isinstance(data, dict):
        if isinstance(data.get("shapes"), list) or {"shapes", "imagePath"} <= set(data):
            return "labelme"
        if is_isat(data) or is_supervisely(data) or is_v7(data):
            return "labelme"
        if "images" in data and "annotations" in data:
            return "coco"
        if "_via_img_metadata" in data:
            return "via"
        if is_via3(data):
            return "via3"
    if is_eiseg(data) or is_qupath(data) or is_segment_anything(data):
        return "labelme"
    for name, is_format in _LISTS.items():
        if is_format(data):
            return name
    if is_label_studio(data):
        return "labelstudio"
    if any(isinstance(entry, dict) and {"filename", "regions"} <= set(entry) for entry in entries):
        return "via"
    return None


def _without_version(name: str) -> str:
    """A format as `expected` names it: VIA's versions are one."""
    if name == "via3":
        return "via"
    return name


def _is_empty(data: Any, name: str) -> bool:
    """Whether a VIA or COCO json has no images, as a project saved before any was added."""
    if name == "coco":
        return not data["images"]
    if name == "via3":
        return not data["metadata"]
    return name == "via" and isinstance(data, dict) and data.get("_via_img_metadata") == {}


# Json formats that are not read: the keys that identify one, and its description.
_FOREIGN_FORMATS = (
    (
        {"image_id", "category_id", "score"},
        "COCO's results, detections, without images.json beside them",
    ),
    ({"image", "annotations"}, "a json of CreateML, without an object's box"),
    (
        {"annotation"},
        "ADE20K's own json; its Scene Parsing instances, annotations_instance/, are read",
    ),
    ({"classes", "tags"}, "Supervisely's meta.json, without a json of an image"),
    (
        {"objects", "imgHeight"},
        "a json of Cityscapes, of which gtFine/..._instanceIds.png are read",
    ),
    ({"samples"}, "FiftyOne's own json; export COCODetectionDataset there"),
    ({"metadata", "instances"}, "SuperAnnotate's own json; export COCO there"),
    ({"export_format_version", "images"}, "Hasty's own json; export COCO there"),
    ({"videos", "annotations"}, "a json of videos (YouTube-VIS) without the names of their frames"),
    ({"videos", "categories"}, "a json of videos (YouTube-VIS) without annotations"),
    (
        {"type", "features"},
        "GeoJSON whose places are none of an image: not QuPath's, or with a crs",
    ),
)


# Json formats that are read: their names, and keys by which they are known, of the json or its
# first entry.
_KEYS = (
    ("COCO's", ("images", "annotations", "categories")),
    ("LabelMe's", ("shapes", "imagePath")),
    ("VIA's project", ("_via_img_metadata", "_via_settings")),
    ("VIA's annotations", ("filename", "regions")),
    ("VIA 3's project", ("project", "file", "metadata", "view")),
    ("Label Studio's", ("data", "annotations")),
    ("ISAT's", ("info", "objects")),
    ("Supervisely's", ("size", "objects")),
    ("V7's", ("item", "annotations")),
    ("QuPath's", ("type", "features")),
    ("Segment Anything's", ("image", "annotations")),
    ("Datumaro's", ("categories", "items")),
    ("Labelbox's", ("data_row", "projects")),
    ("YouTube-VIS'", ("videos", "annotations", "categories")),
    ("Scalabel's", ("name", "labels")),
)


def _description_of(data: Any) -> str:
    """A short description of a json's content, with the formats that are nearest to it."""
    first = data
    if isinstance(data, list) and data:
        first = data[0]
    if isinstance(first, dict):
        for names, description in _FOREIGN_FORMATS:
            if names <= set(first):
                return description
    description = f"a {type(data).__name__}"
    if isinstance(data, dict):
        description = f"an object with {files.short(list(data)[:6])}"
    elif isinstance(first, dict):
        description += f" of objects with {files.short(list(first)[:6])}"
    return description + _nearest_formats(data)


def _nearest_formats(data: Any) -> str:
    """The formats with the most keys in common with a json, as the end of a sentence; "" for none.

    At least half of a format's keys must be there, in upper or lower case.
    """
    keys: set[str] = set()
    for value in (data, *itertools.islice(values_of(data), 1)):
        if isinstance(value, dict):
            keys.update(key.lower() for key in itertools.islice(value, 100))
    shares = {}
    for name, names in _KEYS:
        shares[name] = sum(key in keys for key in names) / len(names)
    most = max(shares.values())
    if most < 0.5:
        return ""
    nearest = []
    for name, names in _KEYS:
        if shares[name] == most:
            nearest.append(f"{name} json has {', '.join(map(repr, names))}")
    return f"; {'; '.join(nearest[:2])}"


def _read_file(
    path: Any,
    images: Any = None,
    attribute: str | None = None,
    label: str | None = None,
    keep_empty: bool = False,
    expected: str | None = None,
    root: Any = None,
    need_files: bool = True,
    crowds: str = "auto",
) -> Annotations:
    """Reads one file; AnnotationError if its format is not the expected one.

    root: the folder in which the file was searched for.
    """
    path = os.fspath(path)
    data: Any
    if path.lower().endswith(".csv"):
        data = load_csv(path)
    else:
        data = load_json(path)
    name = _format_of(data)
    if expected in (None, "coco") and are_detections(data):
        index = index_of(path)
        if index is not None:
            return _read_detections(
                Reader(path, images, keep_empty, root, need_files), data, index, images
            )
    if expected and name and expected != _without_version(name):
        raise AnnotationError(f"{path}: expected a {expected} json. Received: a {name} one")
    if name == "via":
        if not path.lower().endswith(".csv"):
            data = load_json(path, all_entries)
        return read_via_content(Reader(path, images, keep_empty, root), data, attribute, label)
    if name == "via3":
        return read_via_content(Reader(path, images, keep_empty, root), data, attribute, label)
    if name == "coco":
        _warn_of_via_settings(path, attribute, label)
        return _read_coco(Reader(path, images, keep_empty, root, need_files), crowds)
    if name in _READERS:
        _warn_of_via_settings(path, attribute, label)
        return _READERS[name](Reader(path, images, keep_empty, root, need_files), data)
    if name == "labelme":
        _warn_of_settings_of_labelme(path, {path: data}, attribute, label)
        return read_labelme_jsons(
            path, {path: data}, images, keep_empty, None, need_files, label=label
        )
    if name == "labelstudio":
        _warn_of_via_settings(path, attribute, None)
        return read_tasks(path, {path: data}, images, label, keep_empty, need_files)
    if isinstance(data, dict) and {"project", "file", "metadata"} <= set(data):
        raise AnnotationError(
            f"{path}: expected {FORMATS}. Received: a part of a project of VIA 3; export it as"
            " COCO's json there"
        )
    raise AnnotationError(f"{path}: expected {FORMATS}. Received: {_description_of(data)}")


# ---- One format ----------------------------------------------------------------------------------


def read_via(
    path: Any,
    images: Any = None,
    attribute: str | None = None,
    label: str | None = None,
    keep_empty: bool = False,
) -> Annotations:
    """Reads a VIA json, exported annotations or a project, or VIA 2's csv; see `read`.

    Polygons, rectangles, circles and ellipses become regions; a polyline is closed to a polygon; a
    point is reported and left out.
    """
    return _read_any(path, images, attribute, label, keep_empty, expected="via")


def read_labelme(
    path: Any,
    images: Any = None,
    keep_empty: bool = False,
) -> Annotations:
    """Reads LabelMe's json of one image, or those of a folder; see `read`.

    Polygons, rectangles, circles and masks become regions; a line strip is closed to a polygon.
    Points and lines are reported and left out, and so are shapes labelled __ignore__ or
    _background_, as in LabelMe's own converters. Shapes with the same label and the same group_id
    are the parts of one object. An image without a file is taken from the json's imageData.

    Also read are files in the same layout, such as X-AnyLabeling's; ISAT's and EISeg's json;
    Supervisely's exported projects, with meta.json, and ann/<image>.json and img/ in each dataset;
    V7's json (Darwin 2.0); and QuPath's GeoJSON in pixels, <image>.geojson.
    """
    return _read_any(path, images, keep_empty=keep_empty, expected="labelme")


def read_coco(
    path: Any,
    images: Any = None,
    keep_empty: bool = False,
) -> Annotations:
    """Reads an `instances_*.json` in COCO's layout; see `read`. Crowds are kept.

    Categories with the same name become one class: Roboflow repeats a name for the root category.
    """
    return _read_any(path, images, keep_empty=keep_empty, expected="coco")


def _read_detections(
    reader: Reader, rows: list[dict], index: dict, images: Any = None
) -> Annotations:
    """Reads COCO's results as annotations, such as a file that `mrcnn detect` wrote.

    Beside the file lie painted copies of the images, which are not taken: the images are those in
    the folder `images`, or those at the paths in `index`.

    Args:
        reader: of the file.
        rows: its content.
        index: see `detections.index_of`.
        images: see `read`.
    """
    check_rows(rows, reader.path)
    logger.warning("%s: %d detections are read as annotated objects", reader.path, len(rows))
    reader.folders = []
    if images is not None:
        reader.folders = [os.fspath(images)]
    known = []
    frames = set()
    for image in index["images"]:
        if isinstance(image, dict) and "frame" in image:
            place = f"image {image.get('file_name')!r}, frame {image['frame']}"
            reader.problem(place, "expected an image's file. Received: a frame of a video")
            frames.add(image.get("id"))
        else:
            known.append(image)
    rows = [row for row in rows if row["image_id"] not in frames]
    content = as_annotations(rows, {**index, "images": known})
    return _read_coco(reader, "keep", content, images is None)


def _read_coco(
    reader: Reader, crowds: str, content: dict | None = None, by_path: bool = False
) -> Annotations:
    """Reads the json of a reader.

    Args:
        reader: of the json.
        crowds: as for `read`.
        content: of the json; None to read it.
        by_path: the names of images are paths from the current folder, or from the root.
    """
    try:
        data = coco.read_annotations(reader.path, crowds, content)
    except ValueError as error:
        raise AnnotationError(str(error)) from error
    detections = os.path.join(reader.own_folder, "results.json")
    if not data.anns and os.path.isfile(detections):
        logger.warning(
            "%s: it has images without objects; the detections in %s are not read as such, unless"
            " this file is named",
            reader.path,
            detections,
        )
    reader.read_problems = [printable(text) for text in data.problems]
    reader.duplicates_are_reported = True
    names = _coco_names(reader.path, data)
    for image_id, image in data.imgs.items():
        items = data.imgToAnns.get(image_id, [])
        regions = []
        for item in items:
            name = names[item["category_id"]]
            crowd = bool(item["iscrowd"])
            regions.append(Region(name, CocoSegmentation(item), crowd, item["id"]))
        size = given_size(image.get("height"), image.get("width"))
        entry = Entry(image["file_name"], regions, size, coco.other_names(image), extra=image)
        if by_path and os.path.isfile(entry.name):
            entry.file = entry.name
        reader.add(entry, annotated=bool(items) or image_id in data.incomplete)
    annotated = reader.finish(
        list(dict.fromkeys(names[category_id] for category_id in sorted(names)))
    )
    annotated.categories = [data.cats[category_id] for category_id in sorted(names)]
    return annotated


def _coco_names(path: str, data: Any) -> dict[Any, str]:
    """{category id: name}; of categories with the same name, only those that have annotations.

    A background without annotations, as labelme2coco writes it, is left out with a warning.

    data: pycocotools.coco.COCO.
    """
    used = {item["category_id"] for item in data.anns.values()}
    names = {}
    for category_id, category in data.cats.items():
        name = category["name"]
        if name.lower() in BACKGROUNDS and category_id not in used:
            logger.warning(
                "%s: the category %s (%s) has no annotations and is left out: what no object covers"
                " is background without it",
                path,
                category_id,
                name,
            )
        else:
            names[category_id] = name
    counts = collections.Counter(names.values())
    repeated = [name for name, count in counts.items() if count > 1]
    if not repeated:
        return names
    unused = [name for name in repeated if not any(names[number] == name for number in used)]
    if unused:
        raise AnnotationError(
            f"{path}: expected each category's name once. Received:"
            f" {files.several(map(repr, unused))} twice"
        )
    kept = {
        category_id: name
        for category_id, name in names.items()
        if category_id in used or name not in repeated
    }
    joined = [name for name in repeated if list(kept.values()).count(name) > 1]
    if joined:
        logger.warning(
            "%s: categories of one name are one class: %s",
            path,
            files.several(map(repr, joined)),
        )
    return kept


def read_label_studio(
    path: Any,
    images: Any = None,
    label: str | None = None,
    keep_empty: bool = False,
) -> Annotations:
    """Reads Label Studio's own export, JSON or JSON-MIN, or a folder of its tasks; see `read`.

    Polygons, rectangles, ellipses and brush masks become regions; other shapes are reported and
    left out. If a task has several annotations, the one marked as ground truth is read, otherwise
    the newest; predictions are not read. A task that nobody has annotated is not background: it is
    left out.
    """
    return _read_any(path, images, None, label, keep_empty, expected="labelstudio")


def read_cvat(
    path: Any, images: Any = None, keep_empty: bool = False, need_files: bool = True
) -> Annotations:
    """Reads an annotations.xml of CVAT's own formats for images and for videos; see `read`.

    Polygons, boxes, ellipses and masks become regions; a polyline is closed to a polygon; other
    shapes are reported and left out. Shapes with the same label and the same group_id are the parts
    of one object, as in CVAT's COCO exports. Each frame of a video is an image, with the file
    frame_000012.png (or .jpg) as CVAT writes it; a track's shape is an object of its frame unless
    it is `outside`.

    Raises:
        AnnotationError: the file does not exist, is another xml (Pascal VOC's), or has no usable
            image.
    """
    return read_cvat_xml(os.fspath(path), images, keep_empty, need_files)


def _read_cvat_files(
    path: str, cvat_files: list[str], images: Any, keep_empty: bool, need_files: bool
) -> Annotations:
    """Reads CVAT's tasks in a folder as one dataset.

    AnnotationError if a folder has several videos, since their frames have the same names.
    """
    if len(cvat_files) == 1:
        return read_cvat_xml(cvat_files[0], images, keep_empty, need_files, path)
    videos = [file for file in cvat_files if is_of_video(file)]
    if len({os.path.dirname(file) for file in videos}) < len(videos):
        raise AnnotationError(
            f"{path}: expected the xml of one video in a folder, for their frames have the same"
            f" names; name the file. Received: {files.several(videos)}"
        )
    parts = [(file, images) for file in cvat_files]
    return _read_together(path, parts, None, None, keep_empty, need_files, "auto")


def reads_as_yolo(path: str) -> bool:
    """Whether `read` reads a folder as YOLO's: it has labels, and no json annotations."""
    if not is_yolo(path):
        return False
    folder = _Folder(path, None)
    return not folder.dataset_files and not folder.labelme_jsons
