"""Detection and training beside torchvision's Mask R-CNN of the same size, in turn.

    python benchmarks/peers.py detect [--side 1024] [--backbone resnet50] [--detections 100]
    python benchmarks/peers.py train [--side 512] [--batch 2]

Each runs in a process of its own. --torchvision PYTHON names an interpreter that has torchvision;
--before FOLDER another checkout of this project, whose own peers.py runs. Without them mrcnn runs
alone.

Detection goes from a uint8 image to masks of full size, with 1000 proposals and as many detections
as asked for; a training step is forward, backward and SGD on all layers, with fixed batch norm, ten
objects an image and ready inputs. Weights are random: only the amount of work counts, and the
worker says how many detections there were. Prints median seconds, peak memory and the ratio. Both
take a GPU where they see one, with TensorFloat-32 in convolutions and products of matrices; the
memory is then the GPU's. --policy mixed_bfloat16 is autocast for torchvision.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]


# ---- Workers: each returns f() -> a number to report, and f() -> bytes of memory at most ---------

Worker = tuple[Callable[[], float], Callable[[], float]]


def scene(side: int, objects: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A uint8 image of noise, boxes [N, (y1, x1, y2, x2)] and their filled masks [N, H, W]."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 255, (side, side, 3)).astype(np.uint8)
    size = rng.integers(side // 16, side // 3, (objects, 2))
    corner = (rng.random((objects, 2)) * (side - size)).astype(int)
    masks = np.zeros((objects, side, side), bool)
    for mask, (y, x), (h, w) in zip(masks, corner, size):
        mask[y : y + h, x : x + w] = True
    return image, np.concatenate([corner, corner + size], axis=1), masks


def mrcnn_worker(options: argparse.Namespace) -> Worker:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # the two workers share a GPU
    import tempfile

    import keras
    import tensorflow as tf

    from mrcnn import data, model as modellib, utils
    from mrcnn.config import Config

    keras.mixed_precision.set_global_policy(options.policy)

    def peak_of_gpu() -> float:
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]

    memory: Callable[[], float] = peak_of_process
    if tf.config.list_physical_devices("GPU"):
        memory = peak_of_gpu
    sizes = dict(RPN_CHANNELS=256, TRAIN_ROIS_PER_IMAGE=512, ROI_POSITIVE_RATIO=0.25)
    if options.matterport:
        sizes = dict(RPN_CHANNELS=512, TRAIN_ROIS_PER_IMAGE=200, ROI_POSITIVE_RATIO=0.33)
    config = Config(
        NAME="peers",
        NUM_CLASSES=91,
        BACKBONE=options.backbone,
        IMAGE_MIN_DIM=options.side,
        IMAGE_MAX_DIM=options.side,
        IMAGES_PER_GPU=options.batch,
        DETECTION_MIN_CONFIDENCE=0.0,
        DETECTION_NMS_THRESHOLD=1.0,
        DETECTION_MAX_INSTANCES=options.detections,
        RPN_NMS_THRESHOLD=options.rpn_nms,
        **sizes,
    )
    folder = tempfile.mkdtemp()
    if options.work == "detect":
        model = modellib.MaskRCNN("inference", config, folder)
        images = [scene(options.side, seed=i)[0] for i in range(options.batch)]
        return lambda: sum(len(result["scores"]) for result in model.detect(images)), memory

    class Scenes(utils.Dataset):
        def load_image(self, image_id):
            return scene(options.side, seed=image_id)[0]

        def load_mask(self, image_id):
            masks = scene(options.side, seed=image_id)[2].transpose(1, 2, 0)
            return masks, np.arange(1, masks.shape[2] + 1, dtype=np.int32)

    dataset = Scenes()
    for i in range(1, 91):
        dataset.add_class("peers", i, str(i))
    for i in range(options.batch):
        dataset.add_image("peers", i, path=None)
    dataset.prepare()
    model = modellib.MaskRCNN("training", config, folder)
    model.set_trainable(".*", verbose=0)
    model.compile(1e-5, 0.9)
    inputs, _, _ = data.TrainingBatches(dataset, config, shuffle=False).batch(0)
    inputs = [_for_network(values) for values in inputs]

    def step() -> float:
        losses = model.keras_model.train_on_batch(inputs, return_dict=True)
        return float(np.asarray(losses["loss"]))

    return step, memory


def _for_network(values: np.ndarray) -> np.ndarray:
    """An input with a type that `train_on_batch` takes as it is."""
    if values.dtype == bool:
        return values.astype("uint8")
    if values.dtype == np.float64:
        return values.astype("float32")
    return values


def torchvision_worker(options: argparse.Namespace) -> Worker:
    import torch
    import torchvision
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor

    torch.manual_seed(0)
    # TensorFlow's own choice.
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    device = torch.device("cpu")
    memory: Callable[[], float] = peak_of_process
    if torch.cuda.is_available():
        device = torch.device("cuda")
        memory = torch.cuda.max_memory_allocated
    autocast = torch.autocast(
        device.type,
        getattr(torch, options.policy.removeprefix("mixed_")),
        enabled=options.policy != "float32",
    )
    body = getattr(torchvision.models, options.backbone)(
        norm_layer=torchvision.ops.FrozenBatchNorm2d
    )
    model = MaskRCNN(
        _resnet_fpn_extractor(body, 5),
        num_classes=91,
        min_size=options.side,
        max_size=options.side,
        box_score_thresh=0.0,
        box_nms_thresh=1.0,
        box_detections_per_img=options.detections,
        rpn_nms_thresh=options.rpn_nms,
    )
    for module in model.modules():  # random weights don't blow up in 16 to 33 blocks
        if isinstance(module, torchvision.ops.FrozenBatchNorm2d):
            module.weight.fill_(0.5)
    model.to(device)
    scenes = [scene(options.side, seed=i) for i in range(options.batch)]
    tensors = [torch.from_numpy(image).permute(2, 0, 1) for image, _, _ in scenes]

    def on_device() -> list:
        return [image.to(device).float() / 255 for image in tensors]

    if options.work == "detect":
        model.eval()

        def detect() -> float:
            with torch.inference_mode(), autocast:
                results = model(on_device())
                masks = [(result["masks"][:, 0] >= 0.5).cpu().numpy() for result in results]
            return sum(len(mask) for mask in masks)

        return detect, memory
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9)
    targets = [
        {
            "boxes": torch.from_numpy(boxes[:, [1, 0, 3, 2]].astype("float32")),
            "labels": torch.arange(1, len(boxes) + 1),
            "masks": torch.from_numpy(masks.astype("uint8")),
        }
        for _, boxes, masks in scenes
    ]

    def step() -> float:
        moved = []
        for target in targets:
            moved.append({name: value.to(device) for name, value in target.items()})
        with autocast:
            loss = sum(model(on_device(), moved).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step, memory


def peak_of_process() -> float:
    """Peak resident memory of this process, bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


WORKERS = {"mrcnn": mrcnn_worker, "torchvision": torchvision_worker}


def work(options: argparse.Namespace) -> None:
    """Runs once for each line that comes in; answers with seconds, the number and peak GiB."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer
    run, memory = WORKERS[options.worker](options)
    for _ in sys.stdin:
        start = time.perf_counter()
        number = run()
        seconds = time.perf_counter() - start
        print(seconds, number, memory() / 2**30, file=answers, flush=True)


# ---- The one that asks ---------------------------------------------------------------------------

DEFAULTS = {"detect": (1024, 1), "train": (512, 2)}  # side, batch


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work", choices=("detect", "train"))
    parser.add_argument("--side", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--backbone", default="resnet50", choices=("resnet50", "resnet101"))
    parser.add_argument("--detections", type=int, default=100)
    parser.add_argument(
        "--rpn-nms",
        type=float,
        default=0.7,
        help="threshold between proposals; 1 keeps 1000 of any weights",
    )
    parser.add_argument(
        "--policy", default="float32", choices=("float32", "mixed_bfloat16", "mixed_float16")
    )
    parser.add_argument(
        "--matterport", action="store_true", help="mrcnn with the original's wider RPN and 200 RoIs"
    )
    parser.add_argument("--torchvision", help="an interpreter that has torchvision")
    parser.add_argument("--before", metavar="FOLDER", help="another checkout, to compare with")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    side, batch = DEFAULTS[options.work]
    options.side = options.side or side
    options.batch = options.batch or batch
    return options


def start(
    options: argparse.Namespace, name: str, python: str, root: pathlib.Path = ROOT
) -> subprocess.Popen:
    """Starts a worker of the checkout `root` with the options of this process."""
    script = str(root / "benchmarks" / "peers.py")
    arguments = [python, script, options.work, "--worker", name]
    for option in ("side", "batch", "backbone", "detections", "rpn_nms", "policy"):
        arguments += ["--" + option.replace("_", "-"), str(getattr(options, option))]
    if options.matterport:
        arguments.append("--matterport")
    return subprocess.Popen(
        arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )


def ask(name: str, worker: Any) -> list[float]:
    """One run of a worker: [seconds, number, peak GiB]."""
    print("run", file=worker.stdin, flush=True)
    answer = [float(text) for text in worker.stdout.readline().split()]
    if not answer:
        sys.exit(f"{name} ended without an answer, see above")
    print(name, answer, file=sys.stderr, flush=True)
    return answer


def main() -> None:
    options = parse()
    if options.worker:
        work(options)
        return
    workers = {"mrcnn": start(options, "mrcnn", sys.executable)}
    if options.before:
        before = pathlib.Path(options.before).resolve()
        workers["before"] = start(options, "mrcnn", sys.executable, before)
    if options.torchvision:
        workers["torchvision"] = start(options, "torchvision", options.torchvision)
    answers: dict[str, list[list[float]]] = {name: [] for name in workers}
    for _ in range(options.repeats + 1):
        for name, worker in workers.items():
            answers[name].append(ask(name, worker))
    for worker in workers.values():
        worker.communicate()
    title = (
        f"{options.work} {options.backbone} {options.side}² batch {options.batch} {options.policy}"
    )
    medians = {}
    for name, rows in answers.items():
        # The first run compiles.
        medians[name] = statistics.median(seconds for seconds, _, _ in rows[1:])
        _, number, peak = rows[-1]
        report = f"loss {number:.4g}"
        if options.work == "detect":
            report = f"{number:.0f} detections"
        print(f"{title}: {name} {medians[name]:.3f} s, peak {peak:.2f} GiB, {report}")
    for name, median in medians.items():
        if name != "mrcnn":
            print(f"{title}: {median / medians['mrcnn']:.2f} times {name}")


if __name__ == "__main__":
    main()
