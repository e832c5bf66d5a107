"""Data in COCO's format: reading and checking `instances_*.json`, downloads, a `Dataset` of it.

    dataset = CocoDataset()
    # official: coco/annotations, coco/val2017
    dataset.load_coco("coco", "val", "2017")
    dataset.load_json("mine/labels.json", "mine/photos")           # any other place
    dataset.prepare()

What is wrong with a file is said once, with the file's name and the ids; broken parts are left out
with a warning, and a file that can't be used is an error. Keras and TensorFlow are not imported.
"""

import contextlib
import gc
import json
import logging
import os
import pathlib
import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from mrcnn import files, utils
from mrcnn.masks import decode, decode_rle, to_rle

logger = logging.getLogger(__name__)

DEFAULT_YEAR = "2014"
# Where the official data lie. The two parts of the 2014 validation set that papers of that time
# used are not among COCO's own files.
ADDRESS = "http://images.cocodataset.org"
PARTS_2014 = {
    "minival": (
        "https://dl.dropboxusercontent.com/s/o43o90bna78omob/instances_minival2014.json.zip?dl=1"
    ),
    "valminusminival": (
        "https://dl.dropboxusercontent.com/s/s3tw5zcg7395368/"
        "instances_valminusminival2014.json.zip?dl=1"
    ),
}

# From this size on reading a json takes a second or more.
LARGE_MEGABYTES = 20
OFFICIAL_IMAGES = {"train2014": 82_783, "val2014": 40_504, "train2017": 118_287, "val2017": 5_000}

# What annotations are left out for.
NO_IMAGE = "belong to an image that is not in the file"
NO_CATEGORY = "belong to a category that is not in the file"
NO_SHAPE = "have no segmentation"
BAD_POLYGON = "have a polygon of less than 3 points or an odd count of numbers"
SAME_ID = "have an id that another one has"
PROBLEMS = (NO_IMAGE, NO_CATEGORY, NO_SHAPE, BAD_POLYGON, SAME_ID)


# ------------------------------------------------------------------------------------------------
#  Reading and checking
# ------------------------------------------------------------------------------------------------


def _some(items: Iterable, limit: int = 5) -> str:
    """The first few of a list as text."""
    items = list(items)
    text = ", ".join(map(str, items[:limit]))
    if len(items) > limit:
        text += f" and {len(items) - limit} more"
    return text


def read_annotations(path: Any) -> Any:
    """Reads and checks a json of annotations.

    Broken annotations are left out, each kind with one warning that names the file and the ids: of
    an image or a category that isn't there, without a segmentation, polygons of less than 3 points.

    Args:
        path: a json in the format of COCO's `instances_*.json`.

    Returns:
        pycocotools.coco.COCO.

    Raises:
        FileNotFoundError: no such file. ValueError: no json, another format, an image id that
            occurs twice.
    """
    from pycocotools.coco import COCO

    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No annotations at {path}{_others(path)}")
    megabytes = path.stat().st_size / 1e6
    start = time.monotonic()
    _say(f"Reading {path}, {megabytes:.1f} MB", megabytes)
    with _no_collection():
        coco = COCO()
        coco.dataset = _parse(path)
        _index(coco, path)
    _say(
        f"{len(coco.imgs)} images, {len(coco.anns)} annotations, {len(coco.cats)} categories in "
        f"{time.monotonic() - start:.1f} s",
        megabytes,
    )
    return coco


def _say(text: str, megabytes: float) -> None:
    """Logs what is done; prints it where a large file takes seconds and INFO is not logged."""
    if megabytes < LARGE_MEGABYTES or logger.isEnabledFor(logging.INFO):
        logger.info("%s", text)
    else:
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection while millions of objects are made: that takes a third of the time."""
    collect = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collect:
            gc.enable()


def _others(path: pathlib.Path) -> str:
    """What lies where a json was looked for, for the message that it isn't there."""
    if not path.parent.is_dir():
        return f": there is no folder {path.parent}"
    names = sorted(file.name for file in path.parent.glob("*.json"))
    if not names:
        return f". {path.parent} has no json file"
    return f". {path.parent} has {_some(names, 10)}"


def _parse(path: pathlib.Path) -> dict:
    """The json, which has lists of dicts with ids, as an instances json has them."""
    try:
        with open(path, "rb") as file:
            data = json.loads(file.read())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no valid json (cut off or damaged?): {error}") from error
    wanted = ("images", "annotations", "categories")
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in wanted):
        received = f"a {type(data).__name__}"
        if isinstance(data, dict):
            received = f"an object with {_some(data)}"
        raise ValueError(
            f"{path} has no lists {', '.join(wanted)}, as an instances_*.json has. "
            f"Received: {received}"
        )
    for key in wanted:
        for place, item in enumerate(data[key]):
            if type(item) is not dict or "id" not in item:
                raise ValueError(
                    f"{path}: each of {key} has an id. Received: {item!r} at place {place}"
                )
    return data


def _index(coco: Any, path: pathlib.Path) -> None:
    """What `COCO.createIndex` makes, of the annotations that can be used."""
    data = coco.dataset
    coco.imgs = _by_id(data, "images", ("file_name", "height", "width"), path)
    coco.cats = _by_id(data, "categories", ("name",), path)
    broken: dict[str, list] = {problem: [] for problem in PROBLEMS}
    usable: dict[Any, dict] = {}
    for annotation in data["annotations"]:
        number = annotation["id"]
        image_id = annotation.get("image_id")
        category_id = annotation.get("category_id")
        if image_id not in coco.imgs:
            broken[NO_IMAGE].append(f"{number} (image {image_id})")
            continue
        if category_id not in coco.cats:
            broken[NO_CATEGORY].append(f"{number} (category {category_id})")
            continue
        if not annotation.get("segmentation"):
            broken[NO_SHAPE].append(f"{number} (image {image_id})")
            continue
        if _drop_bad_polygons(annotation):
            broken[BAD_POLYGON].append(f"{number} (image {image_id})")
            if not annotation["segmentation"]:
                continue
        if number in usable:
            broken[SAME_ID].append(number)
            continue
        annotation.setdefault("iscrowd", 0)
        usable[number] = annotation
        coco.imgToAnns[image_id].append(annotation)
        coco.catToImgs[category_id].append(image_id)
    coco.anns = usable
    if len(usable) < len(data["annotations"]):
        data["annotations"] = list(usable.values())
    _warn_of(broken, path)


def _by_id(data: dict, key: str, fields: tuple[str, ...], path: pathlib.Path) -> dict:
    """{id: item} of data[key]; ValueError if an id occurs twice or a field is missing."""
    items = {item["id"]: item for item in data[key]}
    if len(items) < len(data[key]):
        seen = set()
        twice = []
        for item in data[key]:
            if item["id"] in seen:
                twice.append(item["id"])
            seen.add(item["id"])
        raise ValueError(f"{path}: ids of {key} occur more than once: {_some(twice)}")
    for field in fields:
        lacking = [item["id"] for item in data[key] if field not in item]
        if lacking:
            raise ValueError(
                f"{path}: {key} have a {field}. Received: none for id {_some(lacking)}"
            )
    return items


def _drop_bad_polygons(annotation: dict) -> bool:
    """Takes polygons that enclose nothing out of an annotation; whether there were any."""
    shape = annotation["segmentation"]
    if type(shape) is not list or all(map(_is_polygon, shape)):
        return False
    annotation["segmentation"] = [polygon for polygon in shape if _is_polygon(polygon)]
    return True


def _is_polygon(polygon: Any) -> bool:
    return type(polygon) is list and len(polygon) >= 6 and len(polygon) % 2 == 0


def _warn_of(broken: dict[str, list], path: pathlib.Path) -> None:
    """One warning for each problem that annotations have."""
    for problem, numbers in broken.items():
        if not numbers:
            continue
        left_out = "are"
        if problem == BAD_POLYGON:
            left_out = "those polygons are"
        logger.warning(
            "%s: %d annotations %s and %s left out: %s",
            path,
            len(numbers),
            problem,
            left_out,
            _some(numbers),
        )


# ------------------------------------------------------------------------------------------------
#  Downloads
# ------------------------------------------------------------------------------------------------


def _fetch(url: str, folder: Any, name: str) -> None:
    """Downloads a zip, taking up an earlier try, and unpacks one entry of it into `folder`.

    The entry, a file or a folder, is unpacked beside its place and then moved there: it is complete
    or absent.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / pathlib.PurePosixPath(url.split("?")[0]).name
    if not archive.exists():
        print(f"Downloading {url} to {archive}", file=sys.stderr)
        try:
            files.download(url, archive, progress=files.progress_bar)
        except OSError as error:
            raise OSError(f"{url} can't be downloaded: {error}") from error
    print(f"Unpacking {archive}", file=sys.stderr)
    unpacked = folder / f".{archive.stem}.unpacking"
    shutil.rmtree(unpacked, ignore_errors=True)  # of a run that was killed
    try:
        _unpack(archive, unpacked)
        if not (unpacked / name).exists():
            raise ValueError(
                f"{url} has an entry {name}. Received: {_some(sorted(os.listdir(unpacked)))}"
            )
        _move(unpacked / name, folder / name)
    except (zipfile.BadZipFile, EOFError) as error:
        archive.unlink()
        raise ValueError(
            f"{url} is no whole zip file and was removed, run again: {error}"
        ) from error
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    archive.unlink()


def _unpack(archive: pathlib.Path, folder: pathlib.Path) -> None:
    """Unpacks a zip, with a bar."""
    start = time.monotonic()
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        for done, member in enumerate(members, 1):
            file.extract(member, folder)
            utils.show_progress("unpacking", done, len(members), time.monotonic() - start)


def _move(source: pathlib.Path, target: pathlib.Path) -> None:
    """Moves a file or folder; a folder that another program has left is filled up."""
    if not (target.is_dir() and source.is_dir()):
        os.replace(source, target)
        return
    for item in source.iterdir():
        os.replace(item, target / item.name)


def download(folder: Any, subset: str, year: str | int = DEFAULT_YEAR) -> None:
    """Downloads the official annotations and images of a subset, as far as they are missing.

    An interrupted download goes on where it stopped; only complete files and folders are put in
    place.

    Args:
        folder: the data's folder.
        subset: train, val, minival, valminusminival.
        year: 2014 or 2017.
    """
    folder = pathlib.Path(folder)
    year = str(year)
    if year not in ("2014", "2017") or subset not in ("train", "val", *PARTS_2014):
        raise ValueError(
            "COCO offers train and val of 2014 and 2017, minival and valminusminival of 2014. "
            f"Received: {subset!r}, {year!r}"
        )
    subset = _equal_subset(subset, year)
    path = folder / "annotations" / f"instances_{subset}{year}.json"
    if not path.exists() and subset in PARTS_2014:
        _fetch(PARTS_2014[subset], path.parent, path.name)
    elif not path.exists():
        _fetch(f"{ADDRESS}/annotations/annotations_trainval{year}.zip", folder, "annotations")
    images = _images_of(subset, year)
    if not _is_complete(folder / images, path):
        _fetch(f"{ADDRESS}/zips/{images}.zip", folder, images)


def _is_complete(images: pathlib.Path, annotations: pathlib.Path) -> bool:
    """Whether a folder has all images of an official set, or all those of a json."""
    names = _names_in(images)
    # Only where the folder holds fewer files than the official set does the json need to be asked.
    if len(names) >= OFFICIAL_IMAGES[images.name]:
        return True
    return {image["file_name"] for image in _parse(annotations)["images"]} <= names


def _names_in(folder: pathlib.Path) -> set[str]:
    """Names of what is in a folder; none where there is no folder."""
    if not folder.is_dir():
        return set()
    return set(os.listdir(folder))


def _images_of(subset: str, year: str) -> str:
    """Name of the folder that has a subset's images."""
    if subset in PARTS_2014:
        subset = "val"
    return f"{subset}{year}"


def _equal_subset(subset: str, year: str) -> str:
    """The name under which a subset has a file: 2017's validation set is the minival of 2014."""
    if year == "2017" and subset == "minival":
        return "val"
    if year == "2017" and subset == "valminusminival":
        raise ValueError(
            "valminusminival is a part of 2014's validation set; the training set of 2017 contains"
            " it. Received: 'valminusminival' of 2017"
        )
    return subset


# ------------------------------------------------------------------------------------------------
#  The dataset
# ------------------------------------------------------------------------------------------------


class CocoDataset(utils.Dataset):
    """Images with annotations in COCO's format.

    `load_coco` and `load_json` may be called several times.

    In `image_info` each image has, besides id, source and path: width, height, annotations (the
    json's own dicts, which `mrcnn.evaluate` takes as the truth).
    """

    # Names of the keypoints, of the last category that has some: a person's in COCO's
    # person_keypoints_*.json.
    keypoint_names: tuple[str, ...] = ()

    def load_coco(
        self,
        dataset_dir: Any,
        subset: str,
        year: str | int = DEFAULT_YEAR,
        class_ids: Iterable[int] | None = None,
        class_map: Any = None,
        return_coco: bool = False,
        auto_download: bool = False,
        keep_empty: bool = False,
        kind: str = "instances",
    ) -> Any:
        """Adds a subset that lies in COCO's own layout (matterport: load_coco).

        Args:
            dataset_dir: folder with annotations/instances_<subset><year>.json and
                <subset><year>/*.jpg; those of minival and valminusminival are in val<year>.
            subset: train, val, minival, valminusminival, or what stands in the names of your own
                files.
            year: as it stands in the names; minival of 2017 is val of 2017.
            class_ids: category ids of the json to use; None for all.
            class_map: not used (nor is it by the original).
            return_coco: return the pycocotools COCO object.
            auto_download: download what is missing first.
            keep_empty: add the images without annotations too: evaluations need them.
            kind: first part of the json's name; "person_keypoints" for `load_keypoints`.

        Images that are not in the folder are left out with a warning; where there is none at all,
        they are kept, since annotations can be looked at without them.

        Raises:
            FileNotFoundError: no such json. ValueError: a json that can't be used.
        """
        year = str(year)
        if auto_download:
            self.auto_download(dataset_dir, subset, year)
        subset = _equal_subset(subset, year)
        folder = pathlib.Path(dataset_dir)
        images = folder / _images_of(subset, year)
        deeper = folder / "images" / images.name  # where some keep them
        if deeper.is_dir() and not images.is_dir():
            images = deeper
        return self.load_json(
            folder / "annotations" / f"{kind}_{subset}{year}.json",
            images,
            "coco",
            class_ids=class_ids,
            keep_empty=keep_empty,
            return_coco=return_coco,
        )

    def load_json(
        self,
        path: Any,
        images: Any,
        source: str = "json",
        class_ids: Iterable[int] | None = None,
        keep_empty: bool = False,
        return_coco: bool = False,
    ) -> Any:
        """Adds the images of any json in COCO's format.

        Args:
            path: the json.
            images: folder that its file names start from.
            source: name of the source in the dataset.
            class_ids, keep_empty, return_coco: see `load_coco`.
        """
        path = pathlib.Path(path)
        folder = pathlib.Path(images)
        coco = read_annotations(path)
        chosen = _chosen(class_ids, coco, path)
        for class_id in chosen:
            self.add_class(source, class_id, coco.cats[class_id]["name"])
            self.keypoint_names = tuple(coco.cats[class_id].get("keypoints", self.keypoint_names))
        with _no_collection():
            missing = self._add_images(coco, folder, path, source, set(chosen), keep_empty)
        if missing:
            logger.warning(
                "%s: %d images are not in %s and are left out: %s",
                path,
                len(missing),
                folder,
                _some(missing),
            )
        if return_coco:
            return coco
        return None

    def _add_images(
        self,
        coco: Any,
        folder: pathlib.Path,
        path: pathlib.Path,
        source: str,
        chosen: set[int],
        keep_empty: bool,
    ) -> list[str]:
        """Adds the images that exist and have annotations; the ids and names of missing ones."""
        exists = _exists_in(folder)
        if not any(exists(image["file_name"]) for image in coco.imgs.values()):
            # Annotations are of use by themselves, and reading an image will say that it isn't
            # there.
            reason = f"there is no folder {folder}"
            if folder.is_dir():
                reason = f"none of its images is in {folder}"
            logger.warning(
                "%s: %s; only the annotations can be used, not the %d images",
                path,
                reason,
                len(coco.imgs),
            )
            exists = bool
        missing = []
        all_classes = len(chosen) == len(coco.cats)
        for image_id, image in coco.imgs.items():
            annotations = coco.imgToAnns.get(image_id, [])
            if not all_classes:
                annotations = [item for item in annotations if item["category_id"] in chosen]
            if not annotations and not keep_empty:
                continue
            name = image["file_name"]
            if not exists(name):
                missing.append(f"{image_id} ({name})")
                continue
            self.add_image(
                source,
                image_id,
                os.path.join(folder, name),
                width=image["width"],
                height=image["height"],
                annotations=annotations,
                json=str(path),
            )
        return missing

    def auto_download(self, dataDir: Any, dataType: str, dataYear: str | int) -> None:
        """Downloads what is missing of a subset (matterport: auto_download); see `download`."""
        download(dataDir, dataType, dataYear)

    def image_reference(self, image_id: int) -> str:
        """The image's page on COCO's site; of other sources what the base class says."""
        info = self.image_info[image_id]
        if info["source"] != "coco":
            return super().image_reference(image_id)
        return f"https://cocodataset.org/#explore?id={info['id']}"

    def _where(self, image_id: int) -> str:
        """An image's file, id and json, for messages."""
        info = self.image_info[image_id]
        return f"{info['path']} (id {info['id']} in {info['json']})"

    def load_image(self, image_id: int) -> np.ndarray:
        """[H, W, 3] uint8 of the size that the json gives.

        A camera's rotation (EXIF) is followed unless the json's size is that of the stored pixels.

        Raises:
            ValueError: a file that can't be read, or of another size; names file, id and json.
        """
        info = self.image_info[image_id]
        if "json" not in info:
            return super().load_image(image_id)
        try:
            image = super().load_image(image_id)
        except ValueError as error:
            raise ValueError(f"{self._where(image_id)}: {error}") from error
        size = (info["height"], info["width"])
        if image.shape[:2] == size:
            return image
        stored = utils.read_image(info["path"], rotate=False)
        if stored.shape[:2] != size:
            raise ValueError(
                f"{self._where(image_id)} is {size[0]} x {size[1]} pixels there. "
                f"Received: {image.shape[0]} x {image.shape[1]}"
            )
        return stored

    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Masks of the image's annotations, those without a pixel left out.

        Returns:
            masks: [H, W, N] bool.
            class_ids: [N] int32, negative for crowds.
        """
        info = self.image_info[image_id]
        if "json" not in info:
            return super().load_mask(image_id)
        annotations = info["annotations"]
        codes = self._codes(image_id)
        ids = [self._class_id(info["source"], item) for item, code in zip(annotations, codes) if code]
        masks = decode_rle([code for code in codes if code], info["height"], info["width"])
        return masks, np.array(ids, np.int32)

    def _codes(self, image_id: int) -> list[dict | None]:
        """The compressed encoding of each annotation's mask; None for one without a pixel."""
        from pycocotools import mask as coco_mask

        info = self.image_info[image_id]
        codes: list[dict | None] = []
        for annotation in info["annotations"]:
            try:
                code = to_rle(annotation, info["height"], info["width"])
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(
                    f"The annotations of {self._where(image_id)} can't be read: {error}"
                ) from error
            if not coco_mask.area(code):
                code = None
            codes.append(code)
        return codes

    def _class_id(self, source: str, annotation: dict) -> int:
        """The dataset's class id of an annotation, negative for a crowd."""
        class_id = self.map_source_class_id(f"{source}.{annotation['category_id']}")
        if annotation["iscrowd"]:
            return -class_id
        return class_id

    def load_keypoints(self, image_id: int) -> np.ndarray:
        """Keypoints of the same annotations, zeros for those without.

        Returns:
            [N, K, (y, x, visibility)] float64.
        """
        info = self.image_info[image_id]
        if "json" not in info:
            return super().load_keypoints(image_id)
        annotations = info["annotations"]
        points = np.zeros((len(annotations), len(self.keypoint_names), 3))
        for row, annotation in zip(points, annotations):
            row[:] = self._points(annotation, image_id)
        keep = [code is not None for code in self._codes(image_id)]
        return points[keep]

    def _points(self, annotation: dict, image_id: int) -> np.ndarray:
        """[K, (y, x, visibility)] of an annotation."""
        count = len(self.keypoint_names)
        values = annotation.get("keypoints") or [0] * 3 * count
        if not count or len(values) != 3 * count:
            raise ValueError(
                f"{self._where(image_id)}: keypoints are x, y, visibility of the {count} that"
                f" the categories name. Received: {len(values)} numbers in annotation"
                f" {annotation['id']}"
            )
        return np.reshape(np.asarray(values, float), (count, 3))[:, [1, 0, 2]]

    def annToRLE(self, ann: dict, height: int, width: int) -> dict:
        """An annotation's compressed run-length encoding (matterport: annToRLE)."""
        return to_rle(ann, height, width)

    def annToMask(self, ann: dict, height: int, width: int) -> np.ndarray:
        """An annotation's mask, [height, width] uint8 of 0 and 1 (matterport: annToMask)."""
        return decode([ann], height, width)[..., 0].view(np.uint8)


def _chosen(class_ids: Iterable[int] | None, coco: Any, path: pathlib.Path) -> list[int]:
    """The ids of the categories to use, sorted; ValueError for one that the json hasn't."""
    chosen = sorted(class_ids or coco.cats)
    unknown = sorted(set(chosen) - set(coco.cats))
    if unknown:
        raise ValueError(
            f"class_ids are ids of categories of {path}: {_some(sorted(coco.cats), 20)}. "
            f"Received: {_some(unknown)}"
        )
    return chosen


def _exists_in(folder: pathlib.Path) -> Callable[[str], bool]:
    """A function that tells whether a file name is in a folder, from one listing of it."""
    names = _names_in(folder)

    def exists(name: str) -> bool:
        if name in names:
            return True
        in_a_folder = "/" in name or "\\" in name
        return in_a_folder and os.path.exists(os.path.join(folder, name))

    return exists
