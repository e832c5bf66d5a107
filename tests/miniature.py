"""Generated miniature datasets in the layouts of the samples: photographs of coins and leaves with
VIA, LabelMe or COCO json, balloons, nuclei.

    python tests/miniature.py photos
        a folder for docs/custom_dataset.md: 60 photographs and photos/via.json
"""

import json
import math
import pathlib
import sys

import numpy as np
from PIL import Image

CLASSES = ("coin", "leaf")
COLORS = {
    "coin": (235, 190, 60),
    "leaf": (50, 170, 60),
    "balloon": (220, 40, 60),
    "kite": (60, 90, 220),
}


def ellipse(x, y, radius_x, radius_y, angle):
    """The shape of an object as VIA's dict."""
    return {"name": "ellipse", "cx": x, "cy": y, "rx": radius_x, "ry": radius_y, "theta": angle}


def outline(shape, points=24):
    """[points, (x, y)] around an ellipse or circle."""
    turn, angle = np.arange(points) * 2 * math.pi / points, shape.get("theta", 0.0)
    along = shape.get("rx", shape.get("r")) * np.cos(turn)
    across = shape.get("ry", shape.get("r")) * np.sin(turn)
    return np.stack(
        [
            shape["cx"] + along * math.cos(angle) - across * math.sin(angle),
            shape["cy"] + along * math.sin(angle) + across * math.cos(angle),
        ],
        axis=1,
    )


def pixels(shape, side):
    """[side, side] bool, by the inequality."""
    dy, dx = np.mgrid[:side, :side] - np.array([shape["cy"], shape["cx"]]).reshape(2, 1, 1)
    angle = shape.get("theta", 0.0)
    along = (dx * math.cos(angle) + dy * math.sin(angle)) / shape.get("rx", shape.get("r"))
    across = (dy * math.cos(angle) - dx * math.sin(angle)) / shape.get("ry", shape.get("r"))
    return along**2 + across**2 <= 1


def scene(rng, side, names, most=3):
    """A picture [side, side, 3] uint8 and [(name, VIA's shape)] of 1 to `most` objects that lie
    apart."""
    image = np.full((side, side, 3), rng.integers(60, 200), np.float32)
    image += rng.normal(0, 12, (side, side, 3)) + np.linspace(-20, 20, side)[:, None, None]
    objects, wanted = [], rng.integers(1, most + 1)
    for _ in range(40):
        if len(objects) == wanted:
            break
        name, radius = names[rng.integers(len(names))], side * rng.uniform(0.12, 0.22)
        x, y = (round(float(v), 1) for v in rng.uniform(radius, side - 1 - radius, 2))
        if any(math.hypot(x - o["cx"], y - o["cy"]) < 2 * radius + side * 0.05 for _, o in objects):
            continue
        if name in ("leaf", "kite"):
            shape = ellipse(x, y, radius, radius * 0.55, float(rng.uniform(-1.5, 1.5)))
        else:
            shape = {"name": "circle", "cx": x, "cy": y, "r": radius}
        image[pixels(shape, side)] = np.array(COLORS[name]) + rng.normal(0, 10, 3)
        objects.append((name, shape))
    return np.clip(image, 0, 255).astype(np.uint8), objects


# ---- Folders -------------------------------------------------------------------------------------


def via_entry(file, objects, attribute, version):
    """One image of a VIA json."""
    regions = [
        {"shape_attributes": shape, "region_attributes": {attribute: name} if attribute else {}}
        for name, shape in objects
    ]
    return {
        "filename": file.name,
        "size": file.stat().st_size,
        "file_attributes": {},
        "regions": dict(enumerate(regions)) if version == 1 else regions,
    }


def regions(data, name):
    """The regions of one image of a VIA json."""
    (entry,) = (entry for entry in data.values() if entry["filename"] == name)
    return (
        list(entry["regions"].values()) if isinstance(entry["regions"], dict) else entry["regions"]
    )


def labelme_file(file, objects, side):
    """LabelMe's json of one image; its points lie between pixels."""
    shapes = [
        {
            "label": name,
            "points": (outline(shape) + 0.5).tolist(),
            "group_id": None,
            "shape_type": "polygon",
            "flags": {},
        }
        for name, shape in objects
    ]
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": file.name,
        "imageData": None,
        "imageHeight": side,
        "imageWidth": side,
    }


def photographs(folder, count=60, side=128, layout="via", names=CLASSES, attribute="type", seed=0):
    """Makes `count` photographs with annotations in one layout: via, labelme or coco.

    Returns:
        path of the json, or the folder for LabelMe.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    via, coco = (
        {},
        {
            "images": [],
            "annotations": [],
            "categories": [{"id": 10 * (i + 1), "name": name} for i, name in enumerate(names)],
        },
    )
    for number in range(count):
        image, objects = scene(rng, side, names)
        file = folder / f"{number:03}.jpg"
        Image.fromarray(image).save(file, quality=92)
        via[f"{file.name}{file.stat().st_size}"] = via_entry(file, objects, attribute, 2)
        coco["images"].append({"id": number, "file_name": file.name, "height": side, "width": side})
        for name, shape in objects:
            coco["annotations"].append(
                {
                    "id": len(coco["annotations"]) + 1,
                    "image_id": number,
                    "iscrowd": 0,
                    "category_id": 10 * (names.index(name) + 1),
                    "segmentation": [(outline(shape) + 0.5).ravel().tolist()],
                }
            )
        if layout == "labelme":
            file.with_suffix(".json").write_text(json.dumps(labelme_file(file, objects, side)))
    if layout == "labelme":
        return folder
    path = folder / f"{layout}.json"
    path.write_text(json.dumps(via if layout == "via" else coco))
    return path


def balloons(folder, count=(6, 3), side=128, names=("balloon",), attribute=None, version=1, seed=0):
    """Makes train/ and val/ with via_region_data.json, as the balloon sample reads them."""
    for part, number in zip(("train", "val"), count):
        path = photographs(
            pathlib.Path(folder) / part, number, side, names=names, attribute=attribute, seed=seed
        )
        data = json.loads(path.read_text())
        if version == 1:
            for entry in data.values():
                entry["regions"] = {str(i): region for i, region in enumerate(entry["regions"])}
        path.rename(path.with_name("via_region_data.json")).write_text(json.dumps(data))
        seed += 1
    return pathlib.Path(folder)


def nuclei(folder, count=4, side=96, most=12, subset="stage1_train", seed=0):
    """Makes images of small bright cells, gray and coloured in turn, with a mask file for each, as
    the nucleus sample reads them. Returns the ids."""
    rng, ids = np.random.default_rng(seed), []
    for number in range(count):
        image = rng.normal(20, 4, (side, side))
        masks, taken = [], np.zeros((side, side), bool)
        for _ in range(most):
            radius = rng.uniform(4, 8)
            shape = ellipse(*rng.uniform(0, side, 2), radius, radius * 0.8, rng.uniform(0, 3))
            mask = pixels(shape, side) & ~taken
            if mask.sum() > 12:
                taken |= pixels({**shape, "rx": radius + 2, "ry": radius + 2}, side)
                masks.append(mask)
                image[mask] = rng.uniform(110, 220)
        ids.append(f"{seed:02}{number:062x}")
        target = pathlib.Path(folder) / subset / ids[-1]
        (target / "images").mkdir(parents=True)
        gray = np.clip(image, 0, 255).astype(np.uint8)
        colored = np.stack(
            [255 - gray // 2, 255 - gray, 255 - gray // 3, np.full_like(gray, 255)], axis=-1
        )
        Image.fromarray(colored if number % 2 else gray).save(target / "images" / f"{ids[-1]}.png")
        if subset == "stage1_train":
            (target / "masks").mkdir()
            for i, mask in enumerate(masks):
                Image.fromarray(mask.astype(np.uint8) * 255).save(target / "masks" / f"{i:03}.png")
    return ids


if __name__ == "__main__":
    print(photographs(sys.argv[1] if len(sys.argv) > 1 else "photos"))
