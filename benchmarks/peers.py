"""Detection and training beside torchvision's Mask R-CNN of the same size: two processes that run
in turn.

    python benchmarks/peers.py detect [--side 1024] [--backbone resnet50] [--detections 100]
    [--batch 1] python benchmarks/peers.py train [--side 512] [--batch 2]
    options: --torchvision PYTHON (an interpreter that has it; without it mrcnn runs alone),
    --repeats 5

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

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]


# ---- Workers: each returns f() -> a number to report ---------------------------------------------


def scene(side, objects=10, seed=0):
    """A uint8 image of noise, boxes [N, (y1, x1, y2, x2)] in it and their filled masks [N, H,
    W]."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 255, (side, side, 3)).astype(np.uint8)
    size = rng.integers(side // 16, side // 3, (objects, 2))
    corner = (rng.random((objects, 2)) * (side - size)).astype(int)
    masks = np.zeros((objects, side, side), bool)
    for mask, (y, x), (h, w) in zip(masks, corner, size):
        mask[y : y + h, x : x + w] = True
    return image, np.concatenate([corner, corner + size], axis=1), masks


def mrcnn_worker(options):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # the two workers share a GPU
    import tempfile

    import keras
    import tensorflow as tf

    from mrcnn import data, model as modellib, utils
    from mrcnn.config import Config

    keras.mixed_precision.set_global_policy(options.policy)
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    memory = (
        (lambda: tf.config.experimental.get_memory_info("GPU:0")["peak"])
        if on_gpu
        else peak_of_process
    )
    sizes = (
        dict(RPN_CHANNELS=512, TRAIN_ROIS_PER_IMAGE=200, ROI_POSITIVE_RATIO=0.33)
        if options.matterport
        else dict(RPN_CHANNELS=256, TRAIN_ROIS_PER_IMAGE=512, ROI_POSITIVE_RATIO=0.25)
    )
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
    inputs = [
        (
            x.astype("uint8")
            if x.dtype == bool
            else x.astype("float32")
            if x.dtype == np.float64
            else x
        )
        for x in inputs
    ]
    return (
        lambda: float(
            np.asarray(model.keras_model.train_on_batch(inputs, return_dict=True)["loss"])
        ),
        memory,
    )


def torchvision_worker(options):
    import torch
    import torchvision
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor

    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = (
        True  # TensorFlow's own choice
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    memory = torch.cuda.max_memory_allocated if device.type == "cuda" else peak_of_process
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
    if options.work == "detect":
        model.eval()

        def detect():
            with torch.inference_mode(), autocast:
                results = model([image.to(device).float() / 255 for image in tensors])
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

    def step():
        on_device = [
            {name: value.to(device) for name, value in target.items()} for target in targets
        ]
        with autocast:
            loss = sum(
                model([image.to(device).float() / 255 for image in tensors], on_device).values()
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step, memory


def peak_of_process():
    """Peak resident memory of this process, bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def work(options):
    """Runs once for each line that comes in; answers with seconds, the number and peak GiB."""
    answers, sys.stdout = sys.stdout, sys.stderr
    run, memory = {"mrcnn": mrcnn_worker, "torchvision": torchvision_worker}[options.worker](
        options
    )
    for _ in sys.stdin:
        start = time.perf_counter()
        number = run()
        seconds = time.perf_counter() - start
        print(seconds, number, memory() / 2**30, file=answers, flush=True)


# ---- The one that asks ---------------------------------------------------------------------------


def main():
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
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.side = options.side or (1024 if options.work == "detect" else 512)
    options.batch = options.batch or (1 if options.work == "detect" else 2)
    if options.worker:
        return work(options)
    pythons = {"mrcnn": sys.executable}
    if options.torchvision:
        pythons["torchvision"] = options.torchvision
    arguments = [
        __file__,
        options.work,
        "--side",
        str(options.side),
        "--batch",
        str(options.batch),
        "--backbone",
        options.backbone,
        "--detections",
        str(options.detections),
        "--rpn-nms",
        str(options.rpn_nms),
        "--policy",
        options.policy,
    ]
    arguments += ["--matterport"] if options.matterport else []
    workers = {
        name: subprocess.Popen(
            [python, *arguments, "--worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, python in pythons.items()
    }
    seconds, last = {name: [] for name in workers}, {}
    for turn in range(options.repeats + 1):
        for name, worker in workers.items():
            print("run", file=worker.stdin, flush=True)
            answer = [float(x) for x in worker.stdout.readline().split()]
            if not answer:
                sys.exit(f"{name} ended without an answer, see above")
            last[name] = answer
            if turn:  # the first one compiles
                seconds[name].append(answer[0])
            print(name, answer, file=sys.stderr, flush=True)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    what = (
        f"{options.work} {options.backbone} {options.side}² batch {options.batch} {options.policy}"
    )
    for name, median in medians.items():
        number = (
            f"{last[name][1]:.0f} detections"
            if options.work == "detect"
            else f"loss {last[name][1]:.4g}"
        )
        print(f"{what}: {name} {median:.3f} s, peak {last[name][2]:.2f} GiB, {number}")
    if len(medians) == 2:
        print(f"{what}: {medians['torchvision'] / medians['mrcnn']:.2f} times torchvision")


if __name__ == "__main__":
    main()
