"""The kernels of `mrcnn.ops` by PyTorch, which imports this module where it is Keras's backend.

PyTorch alone is enough. Where torchvision is installed, its operators do the suppression and
RoIAlign on a GPU. Boxes are [..., (y1, x1, y2, x2)].
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from keras import ops

from mrcnn import boxes as box_math

Tensor = Any  # of PyTorch

# Boxes that are compared with each other at once.
BLOCK = 256


@functools.cache
def of_torchvision() -> Any:
    """The operators of torchvision; None where it is not installed, or made for another PyTorch."""
    try:
        import torchvision  # noqa: F401  it registers them

        operators = torch.ops.torchvision
        # A build for another PyTorch may be imported, and has none.
        _ = operators.nms, operators.roi_align
    except (ImportError, OSError, RuntimeError, AttributeError):
        return None
    return operators


def takes_torchvision(x: Tensor) -> bool:
    """Whether torchvision's operators are used on the device of x, a tensor of any shape.

    On a CPU they are slower than this module: 12 times for the suppression of 6,000 boxes, 4 times
    for RoIAlign of 1,000.
    """
    return x.device.type != "cpu" and of_torchvision() is not None


# ---- Rows ----------------------------------------------------------------------------------------


def top_k(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of the last axis, [..., k], and their places; of equal ones the first.

    `torch.topk` leaves the order of equals open, and which of them it takes.
    """
    if k == 1:
        return torch.max(x, dim=-1, keepdim=True)
    values, places = torch.sort(x, dim=-1, descending=True, stable=True)
    return values[..., :k], places[..., :k]


def sum_of_rows(table: Tensor, rows: Tensor, shares: Tensor) -> Tensor:
    """Weighted sums of rows of a table, without a copy of each row.

    Args:
        table: [rows, C] float.
        rows: [..., K] int32.
        shares: [..., K] float32, without a gradient.

    Returns:
        [..., C].
    """
    count = rows.shape[-1]
    summed = torch.nn.functional.embedding_bag(
        rows.reshape(-1, count),
        table,
        mode="sum",
        per_sample_weights=shares.reshape(-1, count).to(table.dtype),
    )
    return summed.reshape(*rows.shape[:-1], table.shape[-1])


def level_by_level(
    feature_maps: Sequence[Tensor], boxes: Tensor, levels: Tensor, images: Tensor, pool: Callable
) -> Tensor:
    """Pools the boxes of each level from its map.

    Args:
        feature_maps: list of [B, H, W, C].
        boxes: [N, 4]; levels, images: [N] int, the map and the image of each.
        pool: f(map, boxes [n, 4], images [n]) -> [n, h, w, C].

    Returns:
        [N, h, w, C].
    """
    places = []
    pooled = []
    for level, maps in enumerate(feature_maps):
        place = torch.nonzero(levels == level)[:, 0]
        places.append(place)
        pooled.append(pool(maps, boxes[place], images[place]))
    order = torch.argsort(torch.cat(places))
    return torch.cat(pooled)[order]


# ---- Convolutions --------------------------------------------------------------------------------


def as_read(kernel: Tensor) -> Tensor:
    """A kernel [h, w, in, out], laid out as convolutions of PyTorch read it fastest.

    That is out, h, w, in. Keras's `ops.conv` takes it without a copy then.
    """
    in_order = kernel.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    return in_order.permute(2, 3, 1, 0)


def state_of(variable: Any) -> tuple[Tensor, int]:
    """The tensor of a variable, and how often it was written to.

    Both are the same as before as long as no value has changed.
    """
    tensor = getattr(variable, "value", variable)
    return tensor, tensor._version


# ---- Non-maximum suppression ---------------------------------------------------------------------


def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    count: int,
    iou_threshold: float,
    valid: Tensor,
    classes: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`ops.non_max_suppression`, one image after the other; its arguments and results."""
    boxes = boxes.detach()
    greedy = _greedy
    if takes_torchvision(boxes):
        greedy = _greedy_by_torchvision
    indices = torch.zeros((len(boxes), count), dtype=torch.int32, device=boxes.device)
    kept = torch.zeros((len(boxes), count), dtype=torch.bool, device=boxes.device)
    for image in range(len(boxes)):
        rows = torch.nonzero(valid[image])[:, 0]
        _, best_first = torch.sort(scores[image, rows], descending=True, stable=True)
        rows = rows[best_first]
        of_rows = None
        if classes is not None:
            of_rows = classes[image, rows]
        rows = rows[greedy(boxes[image, rows], of_rows, count, iou_threshold)]
        indices[image, : len(rows)] = rows.to(torch.int32)
        kept[image, : len(rows)] = True
    return indices, kept


def _greedy(boxes, classes, count, iou_threshold):
    """Places of the at most `count` boxes that stay of [N, 4], which come best first.

    Block by block, so that no matrix of all pairs is made and the rest is left when enough stay.
    """
    stay = torch.zeros(0, dtype=torch.int64, device=boxes.device)
    places = torch.arange(len(boxes), device=boxes.device)
    for start in range(0, len(boxes), BLOCK):
        block = places[start : start + BLOCK]
        free = ~_overlaps(boxes, classes, block, stay, iou_threshold).any(dim=1)
        by_better = _overlaps(boxes, classes, block, block, iou_threshold).tril(-1)
        stay = torch.cat([stay, block[_that_stay(free, by_better)]])
        if len(stay) >= count:
            break
    return stay[:count]


def _greedy_by_torchvision(boxes, classes, count, iou_threshold):
    """`_greedy`, by torchvision; one class after the other."""
    # It compares float32 with float64, where all else here rounds the threshold, too.
    threshold = float(np.float32(iou_threshold))
    best_first = torch.arange(len(boxes), 0, -1, dtype=torch.float32, device=boxes.device)
    boxes = boxes.to(torch.float32)
    if classes is None:
        return of_torchvision().nms(boxes, best_first, threshold)[:count]
    stay = []
    for class_id in torch.unique(classes):
        rows = torch.nonzero(classes == class_id)[:, 0]
        stay.append(rows[of_torchvision().nms(boxes[rows], best_first[rows], threshold)])
    if not stay:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    return torch.sort(torch.cat(stay)).values[:count]


def _overlaps(boxes, classes, rows, others, iou_threshold):
    """Which boxes overlap too much: those of the places rows [n] with others [m], [n, m] bool."""
    overlap = box_math.pairwise_iou(boxes[rows], boxes[others], ops) > iou_threshold
    if classes is not None:
        overlap = overlap & (classes[rows, None] == classes[None, others])
    return overlap


def _that_stay(free, by_better):
    """Which boxes of a block stay [n].

    A box stays if none that stays beats it. Each round settles at least the boxes whose rivals are
    settled, so that what no round changes is what one box after the other gives.

    Args:
        free: [n] bool, not beaten by a box of the blocks before.
        by_better: [n, n] bool, whether the box of the column, a better one, beats that of the row.
    """
    stay = free
    while True:
        settled = free & ~(by_better & stay).any(dim=1)
        if torch.equal(settled, stay):
            return stay
        stay = settled


# ---- RoIAlign ------------------------------------------------------------------------------------


def can_align(maps: Tensor, reduce: str) -> bool:
    """Whether torchvision's RoIAlign can pool maps [B, H, W, C]: the average, in float32."""
    return reduce == "average" and maps.dtype == torch.float32 and takes_torchvision(maps)


def roi_align(
    maps: Tensor, boxes: Tensor, images: Tensor, size: Sequence[int], samples: int, aligned: bool
) -> Tensor:
    """`ops.roi_align` of one level, by torchvision.

    Args:
        maps: [B, H, W, C] float32.
        boxes: [n, 4], in cells.
        images: [n] int, the map of each.
        size, samples, aligned: as there.

    Returns:
        [n, height, width, C].
    """
    rois = torch.cat([images[:, None].to(boxes.dtype), boxes[:, [1, 0, 3, 2]]], dim=1)
    channels_first = maps.permute(0, 3, 1, 2)
    pooled = of_torchvision().roi_align(channels_first, rois, 1.0, *size, samples, aligned)
    return pooled.permute(0, 2, 3, 1)
