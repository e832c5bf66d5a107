"""torchvision's Mask R-CNN, a ResNet-18 with FPN, from random weights.

    python method_torchvision.py train FOLDER ... --widths 256|64

The recipe is that of `samples/nucleus/nucleus.py --small`: crops of 256 pixels, 8 in a batch, AdamW
at .001 with a cosine, at most two of flips, turns, brightness and blur, anchors of 8 to 128 pixels,
64 RoIs an image, detections from a score of .5. --widths are the channels of FPN and heads: 256 is
what torchvision makes, 64 what our small network has.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
import torchvision
import worker
from PIL import Image as PILImage, ImageFilter
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform

CROP = 256
BATCH = 8
LEARNING_RATE = 1e-3
CLIP_NORM = 5.0
MAX_OBJECTS = 150
MIN_SCORE = 0.5


class NativeSize(GeneralizedRCNNTransform):
    """Images keep the size that they have."""

    def resize(self, image, target=None):
        return image, target


def make_model(width: int, mean: list[float], std: list[float]) -> MaskRCNN:
    """The network with random weights.

    Args:
        width: channels of FPN, RPN and mask head; the box head has 1024 features, or 4 * width
            where that is less.
        mean, std: [3] of the pixels, in 0..1.
    """
    body = torchvision.models.resnet18(norm_layer=torch.nn.BatchNorm2d)
    backbone = _resnet_fpn_extractor(body, 5)
    settings = {}
    if width != backbone.out_channels:
        narrow = torchvision.models.detection.backbone_utils.BackboneWithFPN(
            body,
            {f"layer{i}": str(i - 1) for i in range(1, 5)},
            [body.inplanes // 2 ** (3 - i) for i in range(4)],
            width,
        )
        backbone = narrow
        settings = {
            "rpn_head": RPNHead(width, 3),
            "box_head": TwoMLPHead(width * 7**2, 4 * width),
            "box_predictor": FastRCNNPredictor(4 * width, 2),
            "mask_head": MaskRCNNHeads(width, (width,) * 4, 1),
            "mask_predictor": MaskRCNNPredictor(width, width, 2),
        }
        classes = None
    else:
        classes = 2
    anchors = AnchorGenerator(tuple((side,) for side in (8, 16, 32, 64, 128)), ((0.5, 1, 2),) * 5)
    model = MaskRCNN(
        backbone,
        classes,
        rpn_anchor_generator=anchors,
        rpn_pre_nms_top_n_train=2000,
        rpn_pre_nms_top_n_test=2000,
        rpn_post_nms_top_n_train=400,
        rpn_post_nms_top_n_test=1000,
        rpn_batch_size_per_image=128,
        box_batch_size_per_image=64,
        box_score_thresh=MIN_SCORE,
        box_nms_thresh=0.3,
        box_detections_per_img=400,
        **settings,
    )
    model.transform = NativeSize(CROP, CROP, mean, std)
    return model


def crop(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple:
    """A random part of 256 x 256 pixels; a smaller image is padded with black."""
    missing = [max(0, CROP - side) for side in labels.shape]
    if any(missing):
        widths = [(0, side) for side in missing]
        image = np.pad(image, [*widths, (0, 0)])
        labels = np.pad(labels, widths)
    y, x = (rng.integers(0, side - CROP + 1) for side in labels.shape)
    return image[y : y + CROP, x : x + CROP], labels[y : y + CROP, x : x + CROP]


def augment(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple:
    """At most two of: flips, a turn, brightness, blur."""
    for number in rng.permutation(5)[: rng.integers(0, 3)]:
        if number < 2 and rng.random() < 0.5:
            image = np.flip(image, number)
            labels = np.flip(labels, number)
        elif number == 2:
            turns = rng.integers(1, 4)
            image = np.rot90(image, turns)
            labels = np.rot90(labels, turns)
        elif number == 3:
            image = np.clip(image * rng.uniform(0.8, 1.5), 0, 255).astype(np.uint8)
        elif number == 4:
            blur = ImageFilter.GaussianBlur(rng.uniform(0, 5))
            image = np.asarray(PILImage.fromarray(np.ascontiguousarray(image)).filter(blur))
    return image, labels


def example(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[object, dict]:
    """An augmented crop as torchvision takes it: image [3, H, W] in 0..1, target."""
    image, labels = augment(*crop(image, labels, rng), rng)
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255
    numbers = np.unique(labels)
    numbers = rng.permutation(numbers[numbers > 0])[:MAX_OBJECTS]
    masks = torch.from_numpy(labels == numbers[:, None, None])
    boxes = torch.zeros(0, 4)
    if len(numbers):
        boxes = torchvision.ops.masks_to_boxes(masks)
        boxes[:, 2:] += 1  # its edges lie on the last pixel
    target = {
        "boxes": boxes,
        "labels": torch.ones(len(numbers), dtype=torch.int64),
        "masks": masks.to(torch.uint8),
    }
    return pixels, target


def mean_and_std(images: list[worker.Image]) -> tuple[list[float], list[float]]:
    """Of the pixels in 0..1, each [3]: over all images, which count alike."""
    means = np.array([image.reshape(-1, 3).mean(axis=0) for _, image, _ in images]) / 255
    squares = [(image.reshape(-1, 3) / 255.0) ** 2 for _, image, _ in images[::10]]
    mean = means.mean(axis=0)
    square = np.mean([rows.mean(axis=0) for rows in squares], axis=0)
    std = np.sqrt(np.maximum(square - mean**2, 1e-2))
    return mean.tolist(), std.tolist()


def decayed(model: torch.nn.Module) -> list[dict]:
    """Groups of parameters for AdamW: kernels, and what is not decayed."""
    kernels = [values for values in model.parameters() if values.ndim > 1]
    others = [values for values in model.parameters() if values.ndim <= 1]
    return [{"params": kernels}, {"params": others, "weight_decay": 0.0}]


def train(job: worker.Job, width: int) -> dict:
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    rng = np.random.default_rng(job.seed)
    images = list(job.images("train"))
    mean, std = mean_and_std(images)
    model = make_model(width, mean, std)
    model.train()
    optimizer = torch.optim.AdamW(decayed(model), LEARNING_RATE, weight_decay=1e-4)
    steps = 0
    order: list[int] = []
    losses = []
    while job.clock.left:
        for group in optimizer.param_groups:
            group["lr"] = worker.cosine(job.clock.share, LEARNING_RATE)
        if len(order) < BATCH:
            order = rng.permutation(len(images)).tolist()
        batch = [example(*images[order.pop()][1:], rng) for _ in range(BATCH)]
        loss = sum(model(*map(list, zip(*batch))).values())
        if not torch.isfinite(loss):
            raise ValueError(f"The loss is {float(loss)} at step {steps}")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        losses.append(float(loss.detach()))
        steps += 1
    checkpoint = {"model": model.state_dict(), "mean": mean, "std": std, "width": width}
    torch.save(checkpoint, job.folder / "weights.pt")
    return {"steps": steps, "first loss": losses[0], "last loss": float(np.mean(losses[-50:]))}


def predictor(job: worker.Job) -> worker.Predictor:
    torch.set_num_threads(job.threads)
    checkpoint = torch.load(job.folder / "weights.pt", weights_only=True)
    model = make_model(checkpoint["width"], checkpoint["mean"], checkpoint["std"])
    model.load_state_dict(checkpoint["model"])
    model.eval()

    @torch.inference_mode()
    def find(image: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        masks = model([pixels])[0]["masks"][:, 0].numpy() >= 0.5
        labels = np.zeros(image.shape[:2], np.int32)
        # Best first: where two overlap the first has the pixel.
        for number, mask in enumerate(masks, 1):
            labels[mask & (labels == 0)] = number
        return labels

    return find


if __name__ == "__main__":
    width = 256
    if "--widths" in sys.argv:
        at = sys.argv.index("--widths")
        width = int(sys.argv[at + 1])
        del sys.argv[at : at + 2]
    worker.main(lambda job: train(job, width), predictor)
