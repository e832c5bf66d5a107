"""What hundreds of objects in an image cost beside few, with the small network of the nuclei.

    python benchmarks/dense.py [step] [detect] [--repeats 7]
    python benchmarks/dense.py data [--dataset ../shared/data/dsb2018] [--epochs 3]

step: a training step (crops of 256, batches of 8) with 200 objects an image beside one with 10, the
network's part and the making of the batch each for itself. detect: 400 nuclei on 1024² with
masks="rle" beside 100 with dense masks.

data: examples of the nucleus sample, augmented, by epoch, and of one image with 375 nuclei, in
seconds of the processor, all threads of the process together.

Else images are drawn, in memory. Weights are random, and a random network finds nothing: in
`detect` the whole network runs, its suppression included, but the detections that the mask head and
the pasting then get are given: 400 or 100 boxes of nuclei. What is compared runs in turn in one
process; ratios are medians of the rounds' ratios, by seconds of the processor and by the clock.
Fails where a goal is missed.
"""

import argparse
import concurrent.futures
import functools
import itertools
import os
import pathlib
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from benchmarks import timing  # noqa: E402
from benchmarks.numpy_routines import ellipses, soft_masks  # noqa: E402
from mrcnn import boxes as box_math, commands, data, masks, media, utils  # noqa: E402
from mrcnn.config import Config  # noqa: E402
from samples.nucleus import nucleus  # noqa: E402

SHARED = pathlib.Path(os.environ.get("MRCNN_SHARED", ROOT.parent / "shared"))

# Most that the costly side of a comparison may take, as a multiple of the other.
STEP_GOAL = 1.15
DETECT_GOAL = 1.3

SIDE = 1024
MANY = 200
FEW = 10
# Rows that a batch has for objects, whatever the number that an image has.
ROWS = (200, 400)


# ---- Images --------------------------------------------------------------------------------------


def nuclei_boxes(rng: np.random.Generator, count: int, side: int) -> np.ndarray:
    """[count, 4] int boxes of nuclei side by side, in random cells of a square grid."""
    cells = int(np.ceil(np.sqrt(count)))
    cell = side // cells
    chosen = rng.permutation(cells * cells)[:count]
    size = rng.integers(cell // 2, cell, (count, 2))
    corner = np.stack([chosen // cells, chosen % cells], axis=1) * cell
    corner = corner + (rng.random((count, 2)) * (cell - size)).astype(int)
    return np.concatenate([corner, corner + size], axis=1)


class Nuclei(utils.Dataset):
    """Dark images of noise with brighter ellipses, so many on each.

    Args:
        objects: nuclei on an image.
        side: of the square images.
        count: images.
    """

    def __init__(self, objects: int, side: int, count: int = 8):
        super().__init__()
        self.add_class("nucleus", 1, "nucleus")
        self.content = []
        for i in range(count):
            rng = np.random.default_rng([objects, i])
            # Nuclei keep their size: few of them are not larger.
            boxes = nuclei_boxes(rng, max(objects, MANY), side)[:objects]
            masks = ellipses(boxes, (side, side))
            image = rng.integers(0, 60, (side, side, 3)).astype(np.uint8)
            image[masks.any(axis=-1)] += 120
            self.content.append((image, masks))
            self.add_image("nucleus", i, path=None)
        self.prepare()

    def load_image(self, image_id: int) -> np.ndarray:
        return self.content[image_id][0].copy()

    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        masks = self.content[image_id][1]
        return masks.copy(), np.ones(masks.shape[-1], np.int32)


# ---- A training step -----------------------------------------------------------------------------


def step() -> dict[str, Callable]:
    """Functions by name, "step 200/400" of 200 objects in 400 rows; and "batch ..." that makes it.

    The learning rate is 0, so that all steps are of the same weights.
    """
    from mrcnn import model as modellib, training

    config = nucleus.NucleusSmallConfig()
    model = modellib.MaskRCNN("training", config, tempfile.mkdtemp())
    model.set_trainable(".*")
    model.compile(0.0, 0.0)
    functions: dict[str, Callable] = {}
    for rows in ROWS:
        for objects in (FEW, MANY):
            of_rows = nucleus.NucleusSmallConfig(MAX_GT_INSTANCES=rows)
            batches = data.TrainingBatches(Nuclei(objects, config.IMAGE_MIN_DIM), of_rows)
            (inputs,) = training.BatchStream(batches, workers=0).take()
            counts = np.count_nonzero(inputs[4], axis=1).tolist()
            if counts != [objects] * config.BATCH_SIZE:
                raise ValueError(f"Expected {objects} objects an image. Received: {counts}")
            name = f"{objects}/{rows}"
            functions["batch " + name] = functools.partial(batches.batch, 0)
            functions["step " + name] = _network_step(model.keras_model, inputs)
    return functions


def _network_step(network: Any, inputs: Sequence[np.ndarray]) -> Callable[[], Any]:
    """f() that trains a compiled network by one step, traced once for every number of rows."""
    import tensorflow as tf

    signature = []
    for tensor, array in zip(network.inputs, inputs):
        signature.append(tf.TensorSpec(tensor.shape, array.dtype))
    endless = tf.data.Dataset.from_generator(
        lambda: itertools.repeat((inputs,)), output_signature=(tuple(signature),)
    )
    iterator = iter(endless)
    network.make_train_function()
    return lambda: network.train_function(iterator)


def report_step(costs: Mapping[str, Sequence[timing.Cost]]) -> bool:
    """Prints the table; whether the goal is reached with both numbers of rows."""
    rows = []
    reached = True
    for count in ROWS:
        many, few = f"{MANY}/{count}", f"{FEW}/{count}"
        both = {name: _sums(costs["step " + name], costs["batch " + name]) for name in (many, few)}
        title = f"{MANY} objects beside {FEW}, MAX_GT_INSTANCES = {count}"
        parts = {
            "the network": (costs["step " + many], costs["step " + few]),
            "the batch": (costs["batch " + many], costs["batch " + few]),
            "both": (both[many], both[few]),
        }
        for part, (dense, sparse) in parts.items():
            rows.append(_row(f"{title}: {part}", dense, sparse))
        reached &= timing.ratio(*parts["both"]).cpu <= STEP_GOAL
    print(_table(rows))
    return reached


def _sums(first: Sequence[timing.Cost], second: Sequence[timing.Cost]) -> list[timing.Cost]:
    """The costs of two functions together in each round."""
    return [timing.Cost(a.wall + b.wall, a.cpu + b.cpu) for a, b in zip(first, second)]


# ---- A detection ---------------------------------------------------------------------------------


def detections(count: int, config: Config) -> np.ndarray:
    """[1, DETECTION_MAX_INSTANCES, 6] of the first `count` nuclei of a drawn image of 1024²."""
    boxes = nuclei_boxes(np.random.default_rng(0), config.DETECTION_MAX_INSTANCES, SIDE)[:count]
    rows = np.zeros((1, config.DETECTION_MAX_INSTANCES, 6), np.float32)
    rows[0, :count, :4] = box_math.norm_boxes(boxes, (SIDE, SIDE), config.BOX_FRAME)
    rows[0, :count, 4] = 1
    rows[0, :count, 5] = np.linspace(1, 0.5, count)
    return rows


def detect() -> dict[str, Callable]:
    """Functions by name: "detect ..." and "unmold ..." of "400 rle", "100 dense" and the like.

    What a mask head says is noise here; "unmold" has blobs, as a trained one gives them.
    """
    from mrcnn import inference, model as modellib

    config = nucleus.NucleusSmallInferenceConfig(TEST_FLIP=False, IMAGE_MIN_SCALE=1.0)
    model = modellib.MaskRCNN("inference", config, tempfile.mkdtemp())
    image = timing.noise(SIDE)
    run_network = model.detector.infer_boxes

    def detect_of(rows, form):
        def infer_boxes(molded, metas, anchors):
            _, maps, metas = run_network(molded, metas, anchors)
            return rows, maps, metas

        def run():
            model.detector.infer_boxes = infer_boxes
            result = model.detect([image], masks=form)[0]
            if len(result["rois"]) != np.count_nonzero(rows[..., 4]):
                raise ValueError(f"{len(result['rois'])} detections are not those that were given")

        return run

    def unmold_of(rows, form):
        soft = soft_masks(np.random.default_rng(1), rows.shape[1])
        frames = (image.shape, (SIDE, SIDE, 3), (0, 0, SIDE, SIDE), config)
        return lambda: inference.unmold(rows[0], soft, *frames, form)

    functions: dict[str, Callable] = {}
    for count, form in ((400, "rle"), (100, "dense")):
        functions[f"detect {count} {form}"] = detect_of(detections(count, config), form)
        functions[f"unmold {count} {form}"] = unmold_of(detections(count, config), form)
    return functions


def report_detect(costs: Mapping[str, Sequence[timing.Cost]]) -> bool:
    """Prints the table; whether the goal is reached."""
    rows = []
    for work in ("detect", "unmold"):
        pair = (costs[f"{work} 400 rle"], costs[f"{work} 100 dense"])
        rows.append(_row(f'{work}, 400 nuclei at 1024², masks="rle", beside 100 dense', *pair))
    print(_table(rows))
    return timing.ratio(costs["detect 400 rle"], costs["detect 100 dense"]).cpu <= DETECT_GOAL


# ---- The command ---------------------------------------------------------------------------------


def _row(name: str, costs: Sequence[timing.Cost], base: Sequence[timing.Cost]) -> list[str]:
    cost = timing.median(costs)
    base_cost = timing.median(base)
    times = timing.ratio(costs, base)
    seconds = [f"{1e3 * cost.cpu:.0f}", f"{1e3 * base_cost.cpu:.0f}"]
    return [name, *seconds, f"{times.cpu:.2f}×", f"{times.wall:.2f}×"]


def _table(rows: Sequence[Sequence[str]]) -> str:
    header = ["work", "CPU ms", "beside", "ratio by CPU", "by the clock"]
    return timing.table(header, rows)


# ---- Data ----------------------------------------------------------------------------------------


def measure_data(options: argparse.Namespace) -> None:
    """Training examples: all of a dataset by epoch, and those of one crowded image."""
    dataset = nucleus.prepared_subset(options.dataset, "train")
    config = nucleus.NucleusSmallConfig()
    batches = data.TrainingBatches(
        dataset, config, augmentation=nucleus.small_augmentation(), seed=0, jitter=True
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
            dataset = nucleus.prepared_subset(folder, subset)
            for _ in range(3):
                seconds, megabytes, objects = _cost(dataset, config)
                figures.append(f"{seconds:.3f} s, {megabytes:.0f} MB")
            print(
                f"{side}², {count} nuclei, {source}, {name} ({objects} objects),"
                f" times 1, 2, 3: {'; '.join(figures)}"
            )


def _cost(dataset: Any, config: Any) -> tuple[float, float, int]:
    """Seconds, peak MB beyond what is held before, and objects of an augmented example."""
    settings = {"augmentation": nucleus.small_augmentation(), "use_mini_mask": True}
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


PARTS: dict[str, tuple[Callable, Callable, float]] = {
    "step": (step, report_step, STEP_GOAL),
    "detect": (detect, report_detect, DETECT_GOAL),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", help=f"data, {', '.join(PARTS)}; none for all")
    parser.add_argument("--dataset", type=pathlib.Path, default=SHARED / "data" / "dsb2018")
    parser.add_argument("--epochs", type=int, default=3, help="of `data`")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--warmup", type=int, default=2)
    options = parser.parse_args()
    unknown = set(options.parts) - {"data", *PARTS}
    if unknown:
        parser.error(f"a part is one of data, {', '.join(PARTS)}. Received: {', '.join(unknown)}")
    commands.prefer_onednn()  # as `nucleus.py --small` does
    missed = []
    parts = options.parts or ["data", *PARTS]
    if "data" in parts:
        measure_data(options)
    for name in parts:
        if name == "data":
            continue
        functions, report, goal = PARTS[name]
        if not report(timing.rounds(functions(), options.repeats, options.warmup)):
            missed.append(f"{name}: more than {goal}×")
    if missed:
        raise SystemExit("missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
