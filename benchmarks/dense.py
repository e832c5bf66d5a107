"""What hundreds of objects on an image cost.

    python benchmarks/dense.py data [--dataset ../shared/data/dsb2018] [--epochs 3]
        examples of the nucleus sample, augmented, by epoch, and of one image with 375 nuclei

Seconds are of the processor, all threads of the process together, and so hardly those of what else
runs; where a rate is by the clock it says so.
"""

import argparse
import concurrent.futures
import os
import pathlib
import sys
import tempfile
import time
import tracemalloc
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from mrcnn import data, masks, media  # noqa: E402
from samples.nucleus import nucleus  # noqa: E402

SHARED = pathlib.Path(os.environ.get("MRCNN_SHARED", ROOT.parent / "shared"))


# ---- Data ----------------------------------------------------------------------------------------


def measure_data(options: argparse.Namespace) -> None:
    """Training examples: all of a dataset by epoch, and those of one crowded image."""
    dataset = nucleus._prepared(options.dataset, "train")
    config = nucleus.NucleusSmallConfig()
    batches = data.TrainingBatches(
        dataset, config, augmentation=nucleus.augmentation(), seed=0, jitter=True
    )
    start = time.process_time()
    data.check_dataset(dataset, config)
    seconds = time.process_time() - start
    print(f"{len(dataset.image_ids)} images of {options.dataset}")
    print(f"check_dataset: {seconds / len(dataset.image_ids):.4f} s an image")
    for epoch in range(options.epochs):
        start = time.process_time()
        for step in range(epoch * len(batches), (epoch + 1) * len(batches)):
            batches.batch(step)
        seconds = time.process_time() - start
        count = len(batches) * config.BATCH_SIZE
        print(f"epoch {epoch + 1}: {seconds / count:.4f} s an example, augmented")
    for threads in (1, 2):
        first = (options.epochs + threads) * len(batches)
        rate = _examples_a_second(batches, threads, first)
        print(f"{threads} thread(s): {rate:.0f} examples/s by the clock")
    with tempfile.TemporaryDirectory() as folder:
        _measure_crowded(pathlib.Path(folder))


def _examples_a_second(batches: data.TrainingBatches, threads: int, first: int) -> float:
    """Examples that threads make in a second of an epoch that begins with batch `first`."""
    steps = range(first, first + len(batches))
    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(batches.batch, steps):
            pass
    return len(batches) * batches.batch_size / (time.perf_counter() - start)


def _measure_crowded(folder: pathlib.Path, side: int = 1024, count: int = 375) -> None:
    """Examples of an image, from COCO's json and from the bowl's folders, whole and as a crop."""
    picture, nuclei = draw_nuclei(side, count)
    _write_json(folder, picture, nuclei)
    _write_bowl(folder, picture, nuclei)
    whole = {"IMAGE_RESIZE_MODE": "square", "IMAGE_MIN_DIM": side, "IMAGE_MAX_DIM": side}
    forms = {"whole": whole, "crop": {}}
    for subset, source in (("json", "COCO's json"), ("stage1_train", "the bowl's folders")):
        for name, settings in forms.items():
            config = nucleus.NucleusSmallConfig(MAX_GT_INSTANCES=count, **settings)
            figures = []
            dataset = nucleus._prepared(folder, subset)
            for _ in range(3):
                seconds, megabytes, objects = _cost(dataset, config)
                figures.append(f"{seconds:.3f} s, {megabytes:.0f} MB")
            print(
                f"{side}², {count} nuclei, {source}, {name} ({objects} objects),"
                f" times 1, 2, 3: {'; '.join(figures)}"
            )


def _cost(dataset: Any, config: Any) -> tuple[float, float, int]:
    """Seconds, peak MB beyond what is held before, and objects of an augmented example."""
    settings = {"augmentation": nucleus.augmentation(), "use_mini_mask": True}
    start = time.process_time()
    data.load_image_gt(dataset, config, 0, rng=np.random.default_rng(0), **settings)
    seconds = time.process_time() - start
    tracemalloc.start()
    *_, boxes, _ = data.load_image_gt(dataset, config, 0, rng=np.random.default_rng(0), **settings)
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return seconds, peak, len(boxes)


def draw_nuclei(side: int, count: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """An image [side, side, 3] uint8 and masks [side, side] bool of discs in a grid, some in touch.

    The discs have radii of 8 to 26 pixels at a side of 1024 and 375 of them.
    """
    rng = np.random.default_rng(0)
    cells = int(np.ceil(np.sqrt(count)))
    cell = side / cells
    rows, columns = np.mgrid[:side, :side]
    nuclei = []
    for k in range(count):
        middle = (np.array(divmod(k, cells)) + rng.uniform(0.4, 0.6, 2)) * cell
        radius = cell * rng.uniform(0.15, 0.5)
        y, x = middle
        nuclei.append((rows - y) ** 2 + (columns - x) ** 2 <= radius**2)
    picture = rng.integers(0, 40, (side, side, 3)).astype(np.uint8)
    for mask in nuclei:
        picture[mask] += np.uint8(150)
    return picture, nuclei


def _write_json(folder: pathlib.Path, picture: np.ndarray, nuclei: list[np.ndarray]) -> None:
    """instances_json.json and json/crowded.png."""
    height, width = picture.shape[:2]
    media.write_image(folder / "json" / "crowded.png", picture)
    annotations = []
    for number, mask in enumerate(nuclei, 1):
        code = masks.encode(mask[..., None])[0]
        annotations.append(
            {
                "id": number,
                "image_id": 1,
                "category_id": 1,
                "iscrowd": 0,
                "segmentation": code,
            }
        )
    content = {
        "images": [{"id": 1, "file_name": "crowded.png", "height": height, "width": width}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "nucleus"}],
    }
    media.write_json(folder / "instances_json.json", content)


def _write_bowl(folder: pathlib.Path, picture: np.ndarray, nuclei: list[np.ndarray]) -> None:
    """stage1_train/crowded/ with images/ and masks/."""
    from PIL import Image

    own = folder / "stage1_train" / "crowded"
    media.write_image(own / "images" / "crowded.png", picture)
    (own / "masks").mkdir()
    for number, mask in enumerate(nuclei):
        Image.fromarray(mask.astype(np.uint8) * 255).save(own / "masks" / f"{number:04}.png")


PARTS = {"data": measure_data}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--dataset", type=pathlib.Path, default=SHARED / "data" / "dsb2018")
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    PARTS[options.part](options)


if __name__ == "__main__":
    main()
