"""The kernels of `mrcnn.ops` for PyTorch, imported where PyTorch is Keras's backend.

PyTorch alone is enough. Where torchvision is installed, suppression and RoIAlign on a GPU use its
operators. Boxes are [..., (y1, x1, y2, x2)].
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from keras import ops

from mrcnn import boxes as box_math

Tensor = Any  # of PyTorch

# How many boxes are compared with all kept ones at once.
BLOCK = 256


@functools.cache
def of_torchvision() -> Any:
    """torchvision's operators; None where it is not installed, or built for another PyTorch."""
    try:
        import torchvision  # noqa: F401  registers the operators

        operators = torch.ops.torchvision
        # A build for another PyTorch can be imported, but may have registered no operators.
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
    """The k largest values of the last axis and their indices, both [..., k]; of equals the first.

    `torch.topk` does not define which of equal values it returns, or their order.
    """
    if k == 1:
        return torch.max(x, dim=-1, keepdim=True)
    values, indices = torch.sort(x, dim=-1, descending=True, stable=True)
    return values[..., :k], indices[..., :k]


def sum_of_rows(table: Tensor, rows: Tensor, shares: Tensor) -> Tensor:
    """Weighted sums of rows of a table, without copies of the rows.

    Args:
        table: [rows, C] float.
        rows: [..., K] int32, the rows of each sum.
        shares: [..., K] float32, their weights; without a gradient.

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
        boxes: [N, 4].
        levels, images: [N] int, the map and the image of each box.
        pool: f(map, boxes [n, 4], images [n]) -> [n, h, w, C].

    Returns:
        [N, h, w, C].
    """
    indices = []
    pooled = []
    for level, maps in enumerate(feature_maps):
        of_level = torch.nonzero(levels == level)[:, 0]
        indices.append(of_level)
        pooled.append(pool(maps, boxes[of_level], images[of_level]))
    order = torch.argsort(torch.cat(indices))
    return torch.cat(pooled)[order]


# ---- Convolutions --------------------------------------------------------------------------------


def as_read(kernel: Tensor) -> Tensor:
    """A kernel [h, w, in, out] in the memory layout that PyTorch's convolutions read fastest.

    The layout is out, h, w, in (channels_last), which Keras's `ops.conv` passes on without a copy.
    """
    channels_last = kernel.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    return channels_last.permute(2, 3, 1, 0)


def state_of(variable: Any) -> tuple[Tensor, int]:
    """The tensor of a variable and its version counter; neither changes unless values may have."""
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
        row_classes = None
        if classes is not None:
            row_classes = classes[image, rows]
        rows = rows[greedy(boxes[image, rows], row_classes, count, iou_threshold)]
        indices[image, : len(rows)] = rows.to(torch.int32)
        kept[image, : len(rows)] = True
    return indices, kept


def _greedy(boxes, classes, count, iou_threshold):
    """Indices of the boxes that are kept, at most `count`, of boxes [N, 4] in descending score.

    It works block by block, so that it needs no matrix of all pairs, and stops at `count`.
    """
    kept = torch.zeros(0, dtype=torch.int64, device=boxes.device)
    indices = torch.arange(len(boxes), device=boxes.device)
    for start in range(0, len(boxes), BLOCK):
        block = indices[start : start + BLOCK]
        candidates = ~_overlaps(boxes, classes, block, kept, iou_threshold).any(dim=1)
        by_better = _overlaps(boxes, classes, block, block, iou_threshold).tril(-1)
        kept = torch.cat([kept, block[_kept_of_block(candidates, by_better)]])
        if len(kept) >= count:
            break
    return kept[:count]


def _greedy_by_torchvision(boxes, classes, count, iou_threshold):
    """`_greedy` by torchvision, one class after the other."""
    # torchvision compares with the threshold in float64, all other code here in float32.
    threshold = float(np.float32(iou_threshold))
    ranks = torch.arange(len(boxes), 0, -1, dtype=torch.float32, device=boxes.device)
    boxes = boxes.to(torch.float32)
    if classes is None:
        return of_torchvision().nms(boxes, ranks, threshold)[:count]
    kept = []
    for class_id in torch.unique(classes):
        rows = torch.nonzero(classes == class_id)[:, 0]
        kept.append(rows[of_torchvision().nms(boxes[rows], ranks[rows], threshold)])
    if not kept:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    return torch.sort(torch.cat(kept)).values[:count]


def _overlaps(boxes, classes, rows, others, iou_threshold):
    """[n, m] bool: whether boxes of the indices rows [n] would suppress those of others [m].

    That is, their IoU is above the threshold and their classes are equal.
    """
    overlap = box_math.pairwise_iou(boxes[rows], boxes[others], ops) > iou_threshold
    if classes is not None:
        overlap = overlap & (classes[rows, None] == classes[None, others])
    return overlap


def _kept_of_block(candidates, by_better):
    """[n] bool: which boxes of a block are kept.

    A box is kept if no kept box suppresses it. The iteration decides at least the boxes whose
    better boxes are all decided, so that its fixed point is the result of the greedy loop.

    Args:
        candidates: [n] bool, not suppressed by a box of an earlier block.
        by_better: [n, n] bool, whether the box of the column, a better one, overlaps that of the
            row too much.
    """
    kept = candidates
    while True:
        next_kept = candidates & ~(by_better & kept).any(dim=1)
        if torch.equal(next_kept, kept):
            return kept
        kept = next_kept


# ---- RoIAlign ------------------------------------------------------------------------------------


def can_align(maps: Tensor, reduce: str) -> bool:
    """Whether torchvision's RoIAlign can pool maps [B, H, W, C]: the average, in float32."""
    return reduce == "average" and maps.dtype == torch.float32 and takes_torchvision(maps)


def roi_align(
    maps: Tensor, boxes: Tensor, images: Tensor, size: Sequence[int], samples: int, aligned: bool
) -> Tensor:
    """`ops.roi_align` for one level, by torchvision.

    Args:
        maps: [B, H, W, C] float32.
        boxes: [n, 4], in cells.
        images: [n] int, the image of each box.
        size, samples, aligned: see `ops.roi_align`.

    Returns:
        [n, height, width, C].
    """
    rois = torch.cat([images[:, None].to(boxes.dtype), boxes[:, [1, 0, 3, 2]]], dim=1)
    channels_first = maps.permute(0, 3, 1, 2)
    pooled = of_torchvision().roi_align(channels_first, rois, 1.0, *size, samples, aligned)
    return pooled.permute(0, 2, 3, 1)
