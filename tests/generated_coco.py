"""A few generated images in COCO's layout, with every kind of file and annotation that COCO-like
data have."""

import json
import pathlib

import numpy as np
from PIL import Image

# Category ids with gaps, as COCO's.
CATEGORIES = {3: "bright", 17: "dark", 90: "ring, round"}
HEIGHT, WIDTH = 72, 96


def _uncompressed(mask):
    """Runs of a mask by hand: down the columns, zeros first."""
    flat = np.concatenate([[0], mask.T.ravel().astype(int), [-1]])
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], ends - 1])).tolist()
    return {"size": list(mask.shape), "counts": runs if flat[1] == 0 else [0, *runs]}


def _compressed(mask):
    from pycocotools import mask as coco_mask

    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": code["counts"].decode()}


def _ring(y, x, radius):
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(rows - y, columns - x)
    return (distance <= radius) & (distance > radius / 2)


def _save(image, path, kind):
    picture = Image.fromarray(image)
    if kind == "gray":
        picture.convert("L").save(path)
    elif kind == "cmyk":
        picture.convert("CMYK").save(path, quality=95)
    elif kind == "palette":
        picture.quantize(64).save(path)
    elif kind == "rgba":
        picture.putalpha(128)
        picture.save(path)
    elif kind == "exif":
        # Stored turned; the camera's note says how to turn it back. The json has the upright size.
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(np.ascontiguousarray(np.rot90(image))).save(path, exif=exif, quality=95)
    elif kind == "exif raw":
        # The json has the size of the stored pixels, whatever the note says.
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.save(path, exif=exif, quality=95)
    else:
        picture.save(path, quality=95)


KINDS = {
    "rgb": ".jpg",
    "gray": ".jpg",
    "cmyk": ".jpg",
    "palette": ".png",
    "rgba": ".png",
    "exif": ".jpg",
    "exif raw": ".jpg",
    "empty": ".jpg",
}


def write(folder, subset="val", year="2017", images=None, seed=0, first=100):
    """Writes annotations/instances_<subset><year>.json and <subset><year>/*.

    Args:
        folder: where to.
        images: number of images; their kinds follow `KINDS` round and round.
        first: id of the first image.

    Returns:
        the json's contents.
    """
    folder, rng = pathlib.Path(folder), np.random.default_rng(seed)
    photos = folder / f"{subset}{year}"
    photos.mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    data = {
        "info": {},
        "licenses": [],
        "images": [],
        "annotations": [],
        "categories": [
            {"id": number, "name": name, "supercategory": "thing"}
            for number, name in CATEGORIES.items()
        ],
    }

    def annotate(image_id, category, segmentation, mask, crowd=0, area=None):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = [
            int(columns[0]),
            int(rows[0]),
            int(columns[-1] - columns[0] + 1),
            int(rows[-1] - rows[0] + 1),
        ]
        data["annotations"].append(
            {
                "id": 7 * len(data["annotations"]) + 5,
                "image_id": image_id,
                "category_id": category,
                "segmentation": segmentation,
                "iscrowd": crowd,
                "bbox": box,
                "area": float(mask.sum() if area is None else area),
            }
        )

    for i in range(len(KINDS) if images is None else images):
        kind = list(KINDS)[i % len(KINDS)]
        image_id, image = first + 3 * i, np.full((HEIGHT, WIDTH, 3), 110, np.uint8)
        name = f"{image_id:012d}{KINDS[kind]}"
        data["images"].append({"id": image_id, "file_name": name, "height": HEIGHT, "width": WIDTH})
        if kind != "empty":
            y, x = (int(v) for v in rng.integers(2, 12, 2))
            h, w = (int(v) for v in rng.integers(16, 24, 2))
            mask = np.zeros((HEIGHT, WIDTH), bool)
            mask[y : y + h, x : x + w] = True
            # Two polygons: a box and a corner far from it, one object. Their area is not the mask's
            # to the pixel.
            far = np.zeros_like(mask)
            far[60:68, 4:12] = True
            annotate(
                image_id,
                3,
                [[x, y, x + w, y, x + w, y + h, x, y + h], [4, 60, 12, 60, 12, 68, 4, 68]],
                mask | far,
                area=h * w + 64 - 0.5,
            )
            image[mask | far] = 235
            mask = np.zeros_like(mask)
            mask[8:40, 50 + y : 70 + y] = True
            annotate(image_id, 17, _uncompressed(mask), mask)
            image[mask] = 15
            mask = _ring(54, 60, 14)
            annotate(image_id, 90, _compressed(mask), mask)
            image[mask] = 190
            if i % 2 == 0:
                mask = np.zeros_like(mask)
                mask[50:, 80:] = True
                annotate(image_id, 17, _uncompressed(mask), mask, crowd=1)
                image[mask] = rng.integers(10, 40, (*image[mask].shape[:1], 1))
        _save(image, photos / name, kind)
    (folder / "annotations" / f"instances_{subset}{year}.json").write_text(json.dumps(data))
    return data
