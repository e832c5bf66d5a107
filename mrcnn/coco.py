"""Data in COCO's format: reading and checking `instances_*.json`, masks, downloads, a `Dataset` of
it.

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

import numpy as np

from mrcnn import utils, weights
from mrcnn.masks import decode, to_rle

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
        "https://dl.dropboxusercontent.com/s/s3tw5zcg7395368/instances_valminusminival2014.json.zip?dl=1"
    ),
}

# From this size on reading a json takes a second or more.
LARGE_MEGABYTES = 20
OFFICIAL_IMAGES = {"train2014": 82_783, "val2014": 40_504, "train2017": 118_287, "val2017": 5_000}


# ------------------------------------------------------------------------------------------------
#  Reading and checking
# ------------------------------------------------------------------------------------------------


def _some(items, limit=5):
    """The first few of a list as text."""
    items = list(items)
    return ", ".join(map(str, items[:limit])) + (
        f" and {len(items) - limit} more" if len(items) > limit else ""
    )


def read_annotations(path):
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
    megabytes, start = path.stat().st_size / 1e6, time.monotonic()
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


def _say(text, megabytes):
    """Logs what is done; of a file that takes seconds it is seen without any setting of `logging`
    too."""
    if megabytes < LARGE_MEGABYTES or logger.isEnabledFor(logging.INFO):
        logger.info("%s", text)
    else:
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _no_collection():
    """No garbage collection while millions of objects are made, none of them garbage: a third of
    the time."""
    collect = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collect:
            gc.enable()


def _others(path):
    """What lies where a json was looked for, for the message that it isn't there."""
    if not path.parent.is_dir():
        return f": there is no folder {path.parent}"
    found = sorted(each.name for each in path.parent.glob("*.json"))
    return f". {path.parent} has {_some(found, 10) if found else 'no json file'}"


def _parse(path):
    try:
        with open(path, "rb") as file:
            data = json.loads(file.read())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no valid json (cut off or damaged?): {error}") from error
    wanted = ("images", "annotations", "categories")
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in wanted):
        has = (
            f"an object with {_some(data)}"
            if isinstance(data, dict)
            else f"a {type(data).__name__}"
        )
        raise ValueError(
            f"{path} has no lists {', '.join(wanted)}, as an instances_*.json has. Received: {has}"
        )
    for key in wanted:
        bad = next(
            (i for i, item in enumerate(data[key]) if type(item) is not dict or "id" not in item),
            None,
        )
        if bad is not None:
            raise ValueError(
                f"{path}: each of {key} has an id. Received: {data[key][bad]!r} at place {bad}"
            )
    return data


def _index(coco, path):
    """What `COCO.createIndex` makes, of the annotations that can be used."""
    data = coco.dataset
    for key, fields in (("images", ("file_name", "height", "width")), ("categories", ("name",))):
        known = {item["id"]: item for item in data[key]}
        if len(known) < len(data[key]):
            counts, twice = set(), []
            for item in data[key]:
                (twice.append if item["id"] in counts else counts.add)(item["id"])
            raise ValueError(f"{path}: ids of {key} occur more than once: {_some(twice)}")
        for field in fields:
            lacking = [item["id"] for item in data[key] if field not in item]
            if lacking:
                raise ValueError(
                    f"{path}: {key} have a {field}. Received: none for id {_some(lacking)}"
                )
        setattr(coco, "imgs" if key == "images" else "cats", known)
    problems = {
        "belong to an image that is not in the file": [],
        "belong to a category that is not in the file": [],
        "have no segmentation": [],
        "have a polygon of less than 3 points or an odd count of numbers": [],
        "have an id that another one has": [],
    }
    no_image, no_category, no_shape, bad_shape, twice = problems.values()
    images, categories, annotations = coco.imgs, coco.cats, {}
    by_image, by_category = coco.imgToAnns, coco.catToImgs
    for annotation in data["annotations"]:
        number, image_id, category_id = (
            annotation["id"],
            annotation.get("image_id"),
            annotation.get("category_id"),
        )
        if image_id not in images:
            no_image.append(f"{number} (image {image_id})")
            continue
        if category_id not in categories:
            no_category.append(f"{number} (category {category_id})")
            continue
        shape = annotation.get("segmentation")
        if not shape:
            no_shape.append(f"{number} (image {image_id})")
            continue
        if type(shape) is list:
            for polygon in shape:
                size = len(polygon) if type(polygon) is list else 0
                if size < 6 or size % 2:
                    bad_shape.append(f"{number} (image {image_id})")
                    shape = [
                        each
                        for each in shape
                        if type(each) is list and len(each) >= 6 and not len(each) % 2
                    ]
                    annotation["segmentation"] = shape
                    break
            if not shape:
                continue
        if number in annotations:
            twice.append(number)
            continue
        annotation.setdefault("iscrowd", 0)
        annotations[number] = annotation
        by_image[image_id].append(annotation)
        by_category[category_id].append(image_id)
    coco.anns = annotations
    if len(annotations) < len(data["annotations"]):
        data["annotations"] = list(annotations.values())
    for text, ids in problems.items():
        if ids:
            logger.warning(
                "%s: %d annotations %s and %s left out: %s",
                path,
                len(ids),
                text,
                "those polygons are" if ids is bad_shape else "are",
                _some(ids),
            )


# ------------------------------------------------------------------------------------------------
#  Downloads
# ------------------------------------------------------------------------------------------------


def _fetch(url, folder, name):
    """Downloads a zip, taking up what is left of an earlier try, and unpacks one entry of it into
    `folder`.

    The entry, a file or a folder, is unpacked beside its place and then moved there: it is complete
    or absent.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / pathlib.PurePosixPath(url.split("?")[0]).name
    if not archive.exists():
        print(f"Downloading {url} to {archive}", file=sys.stderr)
        try:
            weights.download(url, archive, progress=weights.progress_bar)
        except OSError as error:
            raise OSError(f"{url} can't be downloaded: {error}") from error
    print(f"Unpacking {archive}", file=sys.stderr)
    unpacked = folder / f".{archive.stem}.unpacking"
    shutil.rmtree(unpacked, ignore_errors=True)  # of a run that was killed
    try:
        with zipfile.ZipFile(archive) as file:
            members, start = file.infolist(), time.monotonic()
            for done, member in enumerate(members, 1):
                file.extract(member, unpacked)
                utils.show_progress("unpacking", done, len(members), time.monotonic() - start)
        if not (unpacked / name).exists():
            raise ValueError(
                f"{url} has an entry {name}. Received: {_some(sorted(os.listdir(unpacked)))}"
            )
        source, target = unpacked / name, folder / name
        if target.is_dir() and source.is_dir():  # what another program has left is filled up
            for each in source.iterdir():
                os.replace(each, target / each.name)
        else:
            os.replace(source, target)
    except (zipfile.BadZipFile, EOFError) as error:
        archive.unlink()
        raise ValueError(
            f"{url} is no whole zip file and was removed, run again: {error}"
        ) from error
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    archive.unlink()


def download(folder, subset, year=DEFAULT_YEAR):
    """Downloads the official annotations and images of a subset, as far as they are missing.

    An interrupted download goes on where it stopped; only complete files and folders are put in
    place.

    Args:
        folder: the data's folder.
        subset: train, val, minival, valminusminival.
        year: 2014 or 2017.
    """
    folder, year = pathlib.Path(folder), str(year)
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
    name = f"{'val' if subset in PARTS_2014 else subset}{year}"
    have = set(os.listdir(folder / name)) if (folder / name).is_dir() else set()
    # Only where the folder holds fewer files than the official set does the json need to be asked.
    if (
        len(have) < OFFICIAL_IMAGES[name]
        and not {image["file_name"] for image in _parse(path)["images"]} <= have
    ):
        _fetch(f"{ADDRESS}/zips/{name}.zip", folder, name)


def _equal_subset(subset, year):
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
    """Images with annotations in COCO's format; `load_coco` and `load_json` may be called several
    times.

    In `image_info` each image has, besides id, source and path: width, height, annotations (the
    json's own dicts, which `mrcnn.evaluate` takes as the truth).
    """

    # Names of the keypoints, of the last category that has some: a person's in COCO's
    # person_keypoints_*.json.
    keypoint_names = ()

    def load_coco(
        self,
        dataset_dir,
        subset,
        year=DEFAULT_YEAR,
        class_ids=None,
        class_map=None,
        return_coco=False,
        auto_download=False,
        keep_empty=False,
        kind="instances",
    ):
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
        images = f"{'val' if subset in PARTS_2014 else subset}{year}"
        # Some keep the images one folder deeper.
        images = next(
            (each for each in (folder / images, folder / "images" / images) if each.is_dir()),
            folder / images,
        )
        return self.load_json(
            folder / "annotations" / f"{kind}_{subset}{year}.json",
            images,
            "coco",
            class_ids=class_ids,
            keep_empty=keep_empty,
            return_coco=return_coco,
        )

    def load_json(
        self, path, images, source="json", class_ids=None, keep_empty=False, return_coco=False
    ):
        """Adds the images of any json in COCO's format.

        Args:
            path: the json.
            images: folder that its file names start from.
            source: name of the source in the dataset.
            class_ids, keep_empty, return_coco: see `load_coco`.
        """
        path, folder = pathlib.Path(path), pathlib.Path(images)
        coco = read_annotations(path)
        unknown = set(class_ids or ()) - set(coco.cats)
        if unknown:
            raise ValueError(
                f"class_ids are ids of categories of {path}: {_some(sorted(coco.cats), 20)}. "
                f"Received: {_some(sorted(unknown))}"
            )
        chosen = sorted(class_ids or coco.cats)
        for class_id in chosen:
            self.add_class(source, class_id, coco.cats[class_id]["name"])
            self.keypoint_names = tuple(coco.cats[class_id].get("keypoints", self.keypoint_names))
        missing = []
        with _no_collection():
            self._add_images(coco, folder, path, source, set(chosen), keep_empty, missing)
        if missing:
            logger.warning(
                "%s: %d images are not in %s and are left out: %s",
                path,
                len(missing),
                folder,
                _some(missing),
            )
        return coco if return_coco else None

    def _add_images(self, coco, folder, path, source, chosen, keep_empty, missing):
        every, exists = len(chosen) == len(coco.cats), _exists_in(folder)
        if not any(exists(image["file_name"]) for image in coco.imgs.values()):
            # Annotations are of use by themselves, and reading an image will say that it isn't
            # there.
            logger.warning(
                "%s: %s; only the annotations can be used, not the %d images",
                path,
                (
                    f"none of its images is in {folder}"
                    if folder.is_dir()
                    else f"there is no folder {folder}"
                ),
                len(coco.imgs),
            )
            exists = bool
        folder, path = str(folder), str(path)
        for image_id, image in coco.imgs.items():
            annotations = coco.imgToAnns.get(image_id, [])
            if not every:
                annotations = [each for each in annotations if each["category_id"] in chosen]
            if not annotations and not keep_empty:
                continue
            name = image["file_name"]
            if exists(name):
                self.add_image(
                    source,
                    image_id,
                    os.path.join(folder, name),
                    width=image["width"],
                    height=image["height"],
                    annotations=annotations,
                    json=path,
                )
            else:
                missing.append(f"{image_id} ({name})")

    def auto_download(self, dataDir, dataType, dataYear):
        """Downloads what is missing of a subset (matterport: auto_download); see
        `coco.download`."""
        download(dataDir, dataType, dataYear)

    def image_reference(self, image_id):
        """The image's page on COCO's site; of other sources what the base class says."""
        info = self.image_info[image_id]
        return (
            f"https://cocodataset.org/#explore?id={info['id']}"
            if info["source"] == "coco"
            else super().image_reference(image_id)
        )

    def _where(self, image_id):
        info = self.image_info[image_id]
        return f"{info['path']} (id {info['id']} in {info['json']})"

    def load_image(self, image_id):
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
        if image.shape[:2] != size:
            stored = utils.read_image(info["path"], rotate=False)
            if stored.shape[:2] != size:
                raise ValueError(
                    f"{self._where(image_id)} is {size[0]} x {size[1]} pixels there. "
                    f"Received: {image.shape[0]} x {image.shape[1]}"
                )
            return stored
        return image

    def load_mask(self, image_id):
        """Masks of the image's annotations, those without a pixel left out.

        Returns:
            masks: [H, W, N] bool.
            class_ids: [N] int32, negative for crowds.
        """
        info = self.image_info[image_id]
        if "json" not in info:
            return super().load_mask(image_id)
        annotations = info["annotations"]
        try:
            masks = decode(annotations, info["height"], info["width"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"The annotations of {self._where(image_id)} can't be read: {error}"
            ) from error
        class_ids = np.array(
            [
                self.map_source_class_id(f"{info['source']}.{each['category_id']}")
                * (-1 if each["iscrowd"] else 1)
                for each in annotations
            ],
            np.int32,
        )
        keep = masks.any(axis=(0, 1))
        return (masks, class_ids) if keep.all() else (masks[..., keep], class_ids[keep])

    def load_keypoints(self, image_id):
        """Keypoints of the same annotations, zeros for those without.

        Returns:
            [N, K, (y, x, visibility)] float64.
        """
        info = self.image_info[image_id]
        if "json" not in info:
            return super().load_keypoints(image_id)
        count, found = len(self.keypoint_names), []
        for each in info["annotations"]:
            values = each.get("keypoints") or [0] * 3 * count
            if not count or len(values) != 3 * count:
                raise ValueError(
                    f"{self._where(image_id)}: keypoints are x, y, visibility of the {count} that"
                    f" the categories name. Received: {len(values)} numbers in annotation"
                    f" {each['id']}"
                )
            found.append(np.reshape(np.asarray(values, float), (count, 3))[:, [1, 0, 2]])
        found = np.array(found).reshape(-1, count, 3)
        if len(found) == self.load_mask(image_id)[0].shape[2]:
            return found
        return found[decode(info["annotations"], info["height"], info["width"]).any(axis=(0, 1))]

    def annToRLE(self, ann, height, width):
        """An annotation's compressed run-length encoding (matterport: annToRLE)."""
        return to_rle(ann, height, width)

    def annToMask(self, ann, height, width):
        """An annotation's mask, [height, width] uint8 of 0 and 1 (matterport: annToMask)."""
        return decode([ann], height, width)[..., 0].view(np.uint8)


def _exists_in(folder):
    """A function that tells whether a file name is in a folder, from one listing of it."""
    names = set(os.listdir(folder)) if folder.is_dir() else set()

    def exists(name):
        return (
            name in names
            or ("/" in name or "\\" in name)
            and os.path.exists(os.path.join(folder, name))
        )

    return exists
