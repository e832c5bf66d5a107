"""Time to load a json of the size of COCO's training set, beside pycocotools.

    python benchmarks/coco_json.py

Generates 118,000 images (empty files) and 860,000 annotations with polygons as long as COCO's, then
loads the json alternately with `pycocotools.coco.COCO` and with `mrcnn.coco.CocoDataset`, each time
in a new process. Needs 1 GB in the temporary folder and 4 GB of memory.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]

PEER = """
import sys, time, contextlib, io
from pycocotools.coco import COCO
start = time.perf_counter()
with contextlib.redirect_stdout(io.StringIO()):
    coco = COCO(sys.argv[1])
print(time.perf_counter() - start, len(coco.imgs), len(coco.anns))
"""
OURS = """
import sys, time, logging
logging.basicConfig(level=logging.INFO, format="    %(message)s")
from mrcnn.coco import CocoDataset
import pycocotools.coco
start = time.perf_counter()
dataset = CocoDataset()
dataset.load_json(sys.argv[1], sys.argv[2], keep_empty=True)
dataset.prepare()
objects = sum(len(info["annotations"]) for info in dataset.image_info)
print(time.perf_counter() - start, dataset.num_images, objects)
"""


def write_json(path: pathlib.Path, images: int, annotations: int, seed: int = 0) -> None:
    """Writes annotations in COCO's format, spread over the images as in COCO (most have few)."""
    rng = np.random.default_rng(seed)
    # A pool of polygons: 43 numbers on average, the bytes of an annotation are then COCO's 520.
    pool = []
    for _ in range(5000):
        polygon = np.round(rng.uniform(0, 640, 2 * int(rng.geometric(1 / 20) + 3)), 2).tolist()
        pool.append(json.dumps([polygon]))
    owners = (images * rng.beta(0.6, 1.2, annotations)).astype(int)
    with open(path, "w") as file:
        file.write('{"info": {}, "licenses": [], "images": [')
        file.write(
            ", ".join(
                f'{{"license": 3, "file_name": "{i:012d}.jpg", "coco_url":'
                f' "http://images.cocodataset.org/train2017/{i:012d}.jpg", "height": 480, "width":'
                f' 640, "date_captured": "2013-11-14 11:18:45", "id": {i}}}'
                for i in range(images)
            )
        )
        file.write('], "annotations": [')
        for i, (owner, shape, category) in enumerate(
            zip(
                owners.tolist(),
                rng.integers(0, len(pool), annotations).tolist(),
                rng.integers(1, 81, annotations).tolist(),
            )
        ):
            if i:
                file.write(", ")
            file.write(
                f'{{"segmentation": {pool[shape]}, "area": 702.1057499999998, "iscrowd": 0,'
                f' "image_id": {owner}, "bbox": [473.07, 395.93, 38.65, 28.67], "category_id":'
                f' {category}, "id": {i + 1}}}'
            )
        file.write(
            '], "categories": '
            + json.dumps([{"id": i, "name": f"category {i}"} for i in range(1, 81)])
            + "}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--annotations", type=int, default=860_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "instances.json"
        photos = pathlib.Path(folder) / "photos"
        start = time.perf_counter()
        write_json(path, args.images, args.annotations)
        photos.mkdir()
        for i in range(args.images):
            (photos / f"{i:012d}.jpg").touch()
        print(
            f"{args.images:,} images, {args.annotations:,} annotations,"
            f" {path.stat().st_size / 1e6:.0f} MB, generated in {time.perf_counter() - start:.0f} s"
        )
        seconds = {"pycocotools": [], "CocoDataset": []}
        for _ in range(args.rounds):
            for name, code in (("pycocotools", PEER), ("CocoDataset", OURS)):
                done = subprocess.run(
                    [sys.executable, "-c", code, str(path), str(photos)],
                    cwd=ROOT,
                    check=True,
                    text=True,
                    stdout=subprocess.PIPE,
                )
                took, images, annotations = done.stdout.split()
                assert (int(images), int(annotations)) == (
                    args.images,
                    args.annotations,
                ), done.stdout
                seconds[name].append(float(took))
                print(f"{name:12} {float(took):6.2f} s")
    peer, ours = (statistics.median(seconds[name]) for name in ("pycocotools", "CocoDataset"))
    print(
        f"median: pycocotools {peer:.2f} s, CocoDataset {ours:.2f} s, ratio {ours / peer:.2f}"
        " (goal: at most 1.20)"
    )


if __name__ == "__main__":
    main()
