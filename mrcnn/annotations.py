"""Annotations of VIA, LabelMe, Label Studio, CVAT, COCO, YOLO, mask files and others: regions.

    annotations = read("photos/via_region_data.json")
    dataset = AnnotatedDataset()
    dataset.load("balloon", annotations)
    dataset.prepare()

A file that is no such file raises `AnnotationError`. What is wrong with a single file of many, an
image or a region is left out, listed in `Annotations.problems` and logged once, with file, image,
region, what was expected and received.

Points are (x, y) in pixels of the image as it is shown, a camera's rotation (EXIF) applied, unless
the file says that it was annotated at the size of the stored pixels. numpy only.
"""

import collections
import logging
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mrcnn import coco, files, utils
from mrcnn.cvat import (
    cvat_files_in,
    has_shapes,
    is_of_one_image_xml,
    read_cvat_xml,
    read_image_xmls,
    xml_files_in,
    xml_root,
)
from mrcnn.label_studio import is_label_studio, read_tasks
from mrcnn.labelme import (
    classes_of_meta,
    is_eiseg,
    is_isat,
    is_qupath,
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
    semantic_in,
)
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
from mrcnn.via import is_via3, load_csv, read_via_content
from mrcnn.yolo import YAML_SUFFIXES, is_yolo, read_yolo, yolo_subset

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
    "a VIA 1.x or 2.x json (project or annotations) or csv, a project of VIA 3, LabelMe's, ISAT's,"
    " Supervisely's, V7's or QuPath's json files, COCO's instances json, Label Studio's json,"
    " CVAT's xml, YOLO's labels with their data.yaml, a folder of mask files, Cityscapes' gtFine/,"
    " the old LabelMe's or Pascal VOC's xml"
)


class AnnotatedDataset(utils.Dataset):
    """A `Dataset` of annotations in any of the formats, of one source or several.

    `AnnotatedDataset.of("balloon", annotations)` is one of a single source, prepared.
    """

    @classmethod
    def of(
        cls,
        source: str,
        annotations: Annotations,
        classes: Iterable[str] | None = None,
    ) -> "AnnotatedDataset":
        """A prepared dataset of one source; arguments as for `load`."""
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
                Give the training set's to the validation set.

        Raises:
            AnnotationError: a region of another class.
        """
        if classes is None:
            classes = annotations.classes
        classes = list(classes)
        unknown = sorted(class_names_of(annotations.images) - set(classes))
        if unknown:
            raise AnnotationError(
                f"{annotations.path}: the classes are {', '.join(classes)}. Received: regions of "
                f"the class {', '.join(map(repr, unknown))}"
            )
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
        """[H, W, 3] uint8, turned as the camera noted unless the stored pixels are annotated.

        Raises:
            ValueError: a file that can't be read any more, or is of another size than it was.
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
        """An image that the json holds; ValueError if it can't be read any more."""
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
            own_id = info["names"].index(region.name) + 1
            class_id = self.map_source_class_id(f"{info['source']}.{own_id}")
            if region.crowd:
                class_id = -class_id
            class_ids.append(class_id)
        return info["annotation"].masks(), np.array(class_ids, np.int32)


# ---- Any format ----------------------------------------------------------------------------------


def read(
    path: Any,
    images: Any = None,
    attribute: str | None = None,
    label: str | None = None,
    keep_empty: bool = False,
    need_files: bool = True,
    crowds: str = "auto",
) -> Annotations:
    """Reads annotations of any of the formats, which is told by the content.

    An image whose file is not there under the annotated name is found by its base name where that
    is clear (see `files.find_images`), with a warning. An image that is annotated in several
    places has the regions of all of them.

    Args:
        path: a json file of VIA, COCO, Label Studio, or LabelMe for one image; or a folder with
            one of the first two, or any number of the last two, in it or, if it has none itself, in
            its sub-folders, up to 3 within each other; of LabelMe in both. Without any json also
            CVAT's xml, of one task or several, see `read_cvat`, YOLO's labels, see `read_yolo`,
            mask files, see `read_masks`, and an XML for each image, the old LabelMe's or Pascal
            VOC's; or Cityscapes' folder, see `read_cityscapes`.
        images: folder that the file names of the images start from; None for the json's own folder,
            or for <name>/ beside annotations/instances_<name>.json.
        attribute: VIA: the region attribute that holds the class; None takes the only one there is.
            Without any attribute every region is of the class "object".
        label: VIA, Label Studio and mask files: name of every region's class, whatever its
            attributes or colours.
        keep_empty: also images without regions, as background.
        need_files: False takes images whose files are not there too, where the annotations say
            their size: to convert them.
        crowds: COCO: what becomes of annotations with iscrowd 1, see `coco.read_annotations`.

    Returns:
        `Annotations`.

    Raises:
        AnnotationError: no such file, another format, or no image that can be used.
    """
    return _read_any(path, images, attribute, label, keep_empty, None, need_files, crowds)


def _images_of_coco(path: str) -> str | None:
    """The folder of the images of a json in COCO's own layout; None for another.

    Of annotations/instances_val2017.json it is val2017/ or images/val2017/ beside annotations/.
    """
    folder, name = os.path.split(os.path.abspath(path))
    stem, suffix = os.path.splitext(name)
    if os.path.basename(folder) != "annotations" or suffix.lower() != ".json":
        return None
    root = os.path.dirname(folder)
    subset = stem.rpartition("_")[2]
    for place in (os.path.join(root, subset), os.path.join(root, "images", subset)):
        if os.path.isdir(place):
            return place
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
) -> Annotations:
    """Reads a file or a folder, of the expected format if one is named."""
    path = os.fspath(path)
    if path.lower().endswith(YAML_SUFFIXES):
        return read_yolo(path, images, keep_empty)
    if path.lower().endswith(".xml"):
        _warn_of_via_settings(path, attribute, label)
        if is_of_one_image_xml(path):
            return read_image_xmls(path, [path], images, keep_empty, need_files)
        return read_cvat(path, images, keep_empty, need_files)
    if not os.path.isdir(path):
        if images is None:
            images = _images_of_coco(path)
        return _read_file(
            path, images, attribute, label, keep_empty, expected, None, need_files, crowds
        )
    if expected is None and cityscapes_in(path):
        _warn_of_via_settings(path, attribute, label)
        return read_cityscapes(path, keep_empty)
    folder = _Folder(path, expected)
    folder.whole = _without_other_kinds(folder.whole)
    subsets = _subsets(folder.whole, path)
    if subsets:
        folder.warn_of_others()
        parts = [(file, images or _images_of_coco(file)) for file in subsets]
        return _read_together(path, parts, attribute, label, keep_empty, need_files, crowds)
    if len(folder.whole) > 1:
        raise AnnotationError(
            f"{path}: expected one VIA or COCO json in the folder, or one for each subset, with"
            " 'train' in a name or folder; name the file. Received: "
            + ", ".join(os.path.relpath(file, path) for file in folder.whole)
        )
    if folder.whole:
        folder.warn_of_others()
        return _read_file(
            folder.whole[0],
            images or _images_of_coco(folder.whole[0]),
            attribute,
            label,
            keep_empty,
            root=path,
            need_files=need_files,
            crowds=crowds,
        )
    if folder.tasks and not folder.single:
        _warn_of_via_settings(path, attribute, None)
        return read_tasks(path, folder.tasks, images, label, keep_empty, need_files)
    if not folder.single and expected is None:
        cvat = cvat_files_in(path, below=False)
        if not cvat and is_yolo(path):
            _warn_of_via_settings(path, attribute, label)
            return read_yolo(path, images, keep_empty)
        of_images = [file for file in xml_files_in(path) if is_of_one_image_xml(file)]
        if not cvat and not has_shapes(of_images) and mask_sets(path)[0]:
            _warn_of_via_settings(path, attribute, None)
            return read_masks(path, label, keep_empty)
        cvat = cvat or cvat_files_in(path, below=True)
        if cvat:
            _warn_of_via_settings(path, attribute, label)
            return _read_cvat_files(path, cvat, images, keep_empty, need_files)
        if of_images:
            _warn_of_via_settings(path, attribute, label)
            return read_image_xmls(path, of_images, images, keep_empty, need_files)
    if not folder.single:
        received = f"a folder with {folder.count} json files, none of these{_xml_in(path)}"
        received += semantic_in(path)
        raise AnnotationError(
            f"{path}: expected {FORMATS}. Received: {received}{problem_lines(folder.problems())}"
        )
    _warn_of_via_settings(path, attribute, label)
    for file in folder.tasks:
        folder.useless[file] = "expected a labelme json as the others. Received: Label Studio's"
    return read_labelme_jsons(
        path, folder.single, images, keep_empty, folder.useless, need_files, folder.classes
    )


def _without_other_kinds(whole: list[str]) -> list[str]:
    """The files of a folder without those of keypoints, captions and the like, where there are
    such of instances: COCO's own annotations, Datumaro's."""
    stems = {file: os.path.splitext(os.path.basename(file))[0].lower() for file in whole}
    if not any("instances" in stem for stem in stems.values()):
        return whole
    return [
        file for file, stem in stems.items() if not any(kind in stem for kind in coco.OTHER_KINDS)
    ]


def _subsets(whole: list[str], path: str) -> list[str]:
    """Those of several files of a folder that are its subsets; none where they are something else.

    Each says in its name or folder which subset it is, and one is that to train on: Roboflow's
    train/, valid/ and test/, COCO's own annotations/.
    """
    if len(whole) < 2:
        return []
    plain = [pathlib.Path(file) for file in whole]
    if not all(coco.says_a_subset(file, path) for file in plain):
        return []
    if not any(coco.says_a_subset(file, path, "train") for file in plain):
        return []
    return list(map(str, plain))


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

    Images are named by their paths in the folder, as a.jpg may be in each of its subsets.

    Args:
        path: the folder.
        parts: (file, folder of its images or None) of each: json, or CVAT's xml.
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
    images = reader._merged([image for part in subsets for image in part.images])
    reader._log_problems()
    classes = list(dict.fromkeys(name for part in subsets for name in part.classes))
    categories = subsets[0].categories
    if any(part.categories != categories for part in subsets):
        categories = []
    return Annotations(path, images, classes, [*problems, *reader.problems], categories)


def _name_in(path: str, file: str, image: AnnotatedImage) -> str:
    """The name of an image of a file among those of the other files of a folder."""
    if image.path and not image.embedded and is_inside(image.path, path):
        return os.path.relpath(image.path, path)
    stem = os.path.splitext(os.path.relpath(file, path))[0]
    return f"{stem}/{image.name}"


def _xml_in(path: str) -> str:
    """What a message adds where a folder has annotations in XML."""
    xml_files = [os.path.relpath(file, path) for file in xml_files_in(path)]
    if not xml_files:
        return ""
    return (
        f"; {len(xml_files)} XML files, none of them CVAT's or of an image"
        f" ({files.several(xml_files, 2)}): export COCO's json in their place"
    )


def _warn_of_via_settings(path: str, attribute: str | None, label: str | None) -> None:
    """Says that `attribute` and `label` change nothing: other formats name the class themselves."""
    for name, value in (("attribute", attribute), ("label", label)):
        if value is not None:
            logger.warning("%s: %s=%r is for VIA alone and changes nothing here", path, name, value)


class _Folder:
    """The json files of a folder, or of its sub-folders if it has no annotations itself.

    Attributes:
        count: how many files there are.
        whole: paths of those of VIA or COCO, which hold all images.
        single: {path: content} of LabelMe's, without the images in them.
        tasks: {path: content} of Label Studio's.
        useless: {path: why it is no annotation}.
        damaged: paths of those among them that are no json.
        classes: names that a meta.json of Supervisely has, in its order.
    """

    def __init__(self, path: str, expected: str | None):
        self.path = path
        self.expected = expected
        self.count = 0
        self.whole: list[str] = []
        self.single: dict[str, Any] = {}
        self.tasks: dict[str, Any] = {}
        self.useless: dict[str, str] = {}
        self.damaged: list[str] = []
        self.classes: list[str] = []
        for file in json_files_in(path, below=False):
            self._sort(file)
        if not self.has_annotations():
            for file in json_files_in(path, below=True):
                self._sort(file)
        elif self.single and not self.whole and not self.tasks:
            self._add_from_below()
        if not self.has_annotations() and expected in (None, "via"):
            self.whole = [file for file in _csv_files(path) if _is_via_csv(file)]

    def _sort(self, file: str) -> None:
        """Loads a file and puts it where it belongs."""
        self.count += 1
        try:
            data = load_json(file)
        except AnnotationError as error:
            self.useless[file] = str(error).removeprefix(f"{file}: ")
            self.damaged.append(file)
            return
        name = _format_of(data)
        if is_supervisely_meta(data):
            self.classes += classes_of_meta(data)
        elif name is None and file.lower().endswith(".geojson"):
            self.count -= 1  # what is no annotation of an image may lie anywhere
        elif name is None:
            self.useless[file] = f"expected annotations. Received: {_content(data)}"
        elif self.expected not in (None, name, _kind_of(name)):
            self.useless[file] = f"expected a {self.expected} json. Received: a {name} one"
        elif _is_empty(data, name):
            self.useless[file] = (
                f"expected images with regions. Received: a {name} json without any"
            )
        elif name == "labelme":
            self._keep_single(file, data)
        elif name == "labelstudio":
            self.tasks[file] = data
        else:
            self.whole.append(file)

    def _add_from_below(self) -> None:
        """Adds LabelMe's jsons in sub-folders to those of the folder, as LabelMe opens both.

        Sub-folders of subsets, such as val/, are sets of their own, and copies of a json of the
        folder are none.
        """
        known = {labelme_key(data) for data in self.single.values()}
        own_sets = []
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
                own_sets.append(relative)
            elif labelme_key(data) in known:
                copies.append(relative)
            else:
                self.count += 1
                self._keep_single(file, data)
        for left_out, reason in (
            (own_sets, "in sub-folders of subsets are not read with the others"),
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

    def _keep_single(self, file: str, data: Any) -> None:
        """Keeps the json of one image, without the image."""
        # A folder of photographs doesn't fit in memory, least of all as text.
        if isinstance(data, dict) and data.get("imageData"):
            data["imageData"] = True
        self.single[file] = data

    def has_annotations(self) -> bool:
        """Whether there are files of any of the formats."""
        return bool(self.whole or self.single or self.tasks)

    def problems(self) -> list[str]:
        """A text for each file that is no annotation."""
        return [
            f"{os.path.relpath(file, self.path)}: {reason}" for file, reason in self.useless.items()
        ]

    def warn_of_others(self) -> None:
        """Says what is not read beside the one file that holds all images."""
        beside = [*self.damaged, *self.single, *self.tasks]
        others = [os.path.relpath(file, self.path) for file in beside]
        if others:
            logger.warning(
                "%s: of the folder only %s is read. Beside it are %d json files that are damaged,"
                " LabelMe's or Label Studio's: %s",
                self.path,
                files.several(os.path.relpath(file, self.path) for file in self.whole),
                len(others),
                files.several(others),
            )


def _csv_files(path: str) -> list[str]:
    """The csv files that lie in a folder, sorted."""
    files_in = [os.path.join(path, name) for name in sorted(os.listdir(path))]
    return [file for file in files_in if file.lower().endswith(".csv") and os.path.isfile(file)]


def _is_via_csv(path: str) -> bool:
    """Whether a csv is one of VIA."""
    try:
        return bool(load_csv(path))
    except AnnotationError:
        return False


def _format_of(data: Any) -> str | None:
    """via, via3, labelme, labelstudio or coco; None for another content."""
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
    if is_eiseg(data) or is_qupath(data):
        return "labelme"
    if is_label_studio(data):
        return "labelstudio"
    if any(isinstance(entry, dict) and "filename" in entry for entry in values_of(data)):
        return "via"
    return None


def _kind_of(name: str) -> str:
    """The reader of a format: VIA's versions have one."""
    if name == "via3":
        return "via"
    return name


def _is_empty(data: Any, name: str) -> bool:
    """Whether a VIA or COCO json has no image, as a project that was saved before any was added."""
    if name == "coco":
        return not data["images"]
    if name == "via3":
        return not data["metadata"]
    return name == "via" and isinstance(data, dict) and data.get("_via_img_metadata") == {}


# What tells jsons of other programs, all the names of one, and what they are.
_FOREIGN = (
    ({"image_id", "category_id", "score"}, "COCO's results, detections without their images"),
    ({"image", "annotations"}, "a json of CreateML or of Segment Anything's data"),
    ({"Labeled Data"}, "Labelbox's own json; export COCO there"),
    ({"data_row"}, "Labelbox's own json; export COCO there"),
    ({"name", "labels"}, "a json of BDD100K or Scalabel; convert it to COCO"),
    ({"classes", "tags"}, "Supervisely's meta.json, without a json of an image"),
    (
        {"objects", "imgHeight"},
        "a json of Cityscapes, of which gtFine/..._instanceIds.png are read",
    ),
    ({"items", "categories"}, "Datumaro's own json; convert it to COCO"),
    ({"samples"}, "FiftyOne's own json; export COCODetectionDataset there"),
    (
        {"type", "features"},
        "GeoJSON whose places are none of an image: not QuPath's, or with a crs",
    ),
)


def _content(data: Any) -> str:
    """What a json holds, in a few words."""
    first = data
    if isinstance(data, list) and data:
        first = data[0]
    if isinstance(first, dict):
        for names, kind in _FOREIGN:
            if names <= set(first):
                return kind
    if isinstance(data, dict):
        return f"an object with {files.short(list(data)[:6])}"
    return f"a {type(data).__name__}"


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
    """Reads one file; AnnotationError if it is of another format than the expected one.

    root: the folder in which it was looked for.
    """
    path = os.fspath(path)
    if path.lower().endswith(".csv"):
        data = load_csv(path)
    else:
        data = load_json(path)
    name = _format_of(data)
    if expected and name and expected != _kind_of(name):
        raise AnnotationError(f"{path}: expected a {expected} json. Received: a {name} one")
    if name == "via":
        if not path.lower().endswith(".csv"):
            data = load_json(path, all_entries)
        return read_via_content(Reader(path, images, keep_empty, root), data, attribute, label)
    if name == "via3":
        return read_via_content(Reader(path, images, keep_empty, root), data, attribute, label)
    if name in ("coco", "labelme"):
        _warn_of_via_settings(path, attribute, label)
    if name == "coco":
        return _read_coco(Reader(path, images, keep_empty, root, need_files), crowds)
    if name == "labelme":
        return read_labelme_jsons(path, {path: data}, images, keep_empty, None, need_files)
    if name == "labelstudio":
        _warn_of_via_settings(path, attribute, None)
        return read_tasks(path, {path: data}, images, label, keep_empty, need_files)
    if isinstance(data, dict) and {"project", "file", "metadata"} <= set(data):
        raise AnnotationError(
            f"{path}: expected {FORMATS}. Received: a part of a project of VIA 3; export it as"
            " COCO's json there"
        )
    raise AnnotationError(f"{path}: expected {FORMATS}. Received: {_content(data)}")


# ---- One format ----------------------------------------------------------------------------------


def read_via(
    path: Any,
    images: Any = None,
    attribute: str | None = None,
    label: str | None = None,
    keep_empty: bool = False,
) -> Annotations:
    """Reads a VIA json, exported annotations or a project, or VIA 2's csv; see `read`.

    Polygons, rectangles, circles and ellipses are regions, a polyline is closed to a polygon; a
    point is reported and left out.
    """
    return _read_any(path, images, attribute, label, keep_empty, expected="via")


def read_labelme(
    path: Any,
    images: Any = None,
    keep_empty: bool = False,
) -> Annotations:
    """Reads LabelMe's json of one image, or those of a folder; see `read`.

    Polygons, rectangles, circles and masks are regions, a line strip is closed to a polygon; points
    and lines are reported and left out, and so is what is labelled __ignore__ or _background_, as
    LabelMe's own converters do. Shapes with one label and one group_id are the parts of one object.
    An image without a file is taken from the json's imageData.

    Files of programs that write the same layout, such as X-AnyLabeling, ISAT's, EISeg's and
    Supervisely's are read too. The last are those of a project as it is exported: meta.json, and in
    each data set ann/<image>.json and img/. So are V7's json (Darwin 2.0), and QuPath's GeoJSON in
    pixels, <image>.geojson.
    """
    return _read_any(path, images, keep_empty=keep_empty, expected="labelme")


def read_coco(
    path: Any,
    images: Any = None,
    keep_empty: bool = False,
) -> Annotations:
    """Reads an `instances_*.json` in COCO's layout; see `read`. Crowds are kept as such.

    Categories of one name, as Roboflow writes for the root of its categories, are one class.
    """
    return _read_any(path, images, keep_empty=keep_empty, expected="coco")


def _read_coco(reader: Reader, crowds: str) -> Annotations:
    try:
        data = coco.read_annotations(reader.path, crowds)
    except ValueError as error:
        raise AnnotationError(str(error)) from error
    reader.read_problems = [printable(text) for text in data.problems]
    reader.twins_are_said = True
    names = _coco_names(reader.path, data)
    for image_id, image in data.imgs.items():
        items = data.imgToAnns.get(image_id, [])
        regions = []
        for item in items:
            name = names[item["category_id"]]
            crowd = bool(item["iscrowd"])
            regions.append(Region(name, CocoSegmentation(item), crowd, item["id"]))
        size = given_size(image.get("height"), image.get("width"))
        reader.add(Entry(image["file_name"], regions, size, extra=image), annotated=bool(items))
    annotated = reader.finish(
        list(dict.fromkeys(names[category_id] for category_id in sorted(names)))
    )
    annotated.categories = [data.cats[category_id] for category_id in sorted(names)]
    return annotated


def _coco_names(path: str, data: Any) -> dict[Any, str]:
    """{category id: name}, of several with one name those that have annotations.

    data: pycocotools.coco.COCO.
    """
    names = {category_id: category["name"] for category_id, category in data.cats.items()}
    counts = collections.Counter(names.values())
    twice = [name for name, count in counts.items() if count > 1]
    if not twice:
        return names
    used = {item["category_id"] for item in data.anns.values()}
    unused = [name for name in twice if not any(names[number] == name for number in used)]
    if unused:
        raise AnnotationError(
            f"{path}: expected each category's name once. Received:"
            f" {files.several(map(repr, unused))} twice"
        )
    kept = {
        category_id: name
        for category_id, name in names.items()
        if category_id in used or name not in twice
    }
    joined = [name for name in twice if list(kept.values()).count(name) > 1]
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

    Polygons, rectangles, ellipses and brush masks are regions; other shapes are reported and left
    out. Of several annotations of a task the one that is marked as ground truth is read, else the
    newest; predictions are not. A task that nobody has annotated is no background: it is left out.
    """
    return _read_any(path, images, None, label, keep_empty, expected="labelstudio")


def read_cvat(
    path: Any, images: Any = None, keep_empty: bool = False, need_files: bool = True
) -> Annotations:
    """Reads an annotations.xml of CVAT's own formats for images and for videos; see `read`.

    Polygons, boxes, ellipses and masks are regions, a polyline is closed to a polygon; other shapes
    are reported and left out. Shapes with one label and one group_id are the parts of one object,
    as in CVAT's exports as COCO. Of a video each frame is an image, the file frame_000012.png (or
    .jpg) as CVAT writes it; a track's shape is an object of its frame unless it is `outside`.

    Raises:
        AnnotationError: no such file, another xml (of Pascal VOC), or nothing that can be used.
    """
    return read_cvat_xml(os.fspath(path), images, keep_empty, need_files)


def _read_cvat_files(
    path: str, cvat_files: list[str], images: Any, keep_empty: bool, need_files: bool
) -> Annotations:
    """Reads the tasks of CVAT in a folder as one.

    AnnotationError where several are videos of one folder, whose frames have the same names.
    """
    if len(cvat_files) == 1:
        return read_cvat_xml(cvat_files[0], images, keep_empty, need_files, path)
    videos = [file for file in cvat_files if xml_root(file).find("track") is not None]
    if len({os.path.dirname(file) for file in videos}) < len(videos):
        raise AnnotationError(
            f"{path}: expected the xml of one video in a folder, for their frames have the same"
            f" names; name the file. Received: {files.several(videos)}"
        )
    parts = [(file, images) for file in cvat_files]
    return _read_together(path, parts, None, None, keep_empty, need_files, "auto")


def reads_as_yolo(path: str) -> bool:
    """Whether `read` takes a folder for YOLO's: it has labels, and no json of annotations."""
    if not is_yolo(path):
        return False
    folder = _Folder(path, None)
    return not folder.whole and not folder.single
