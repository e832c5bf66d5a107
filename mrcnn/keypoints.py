"""Keypoints of objects, such as the joints of a person: names, mirror images, decoding.

The keypoints of an image are [N, K, (y, x, visibility)] in pixels, in the order of the image's
masks. COCO's integer coordinates are used unchanged, so that (y, x) means the pixel image[y, x].
Visibility is 0 for a point that is not labelled, 1 for a labelled point that is hidden, 2 for a
visible one; as in COCO's metric and in Detectron, all labelled points count as visible.

numpy only.
"""

from collections.abc import Iterable, Sequence

import numpy as np

COCO_NAMES = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)

# Limbs, as pairs of indices into the names.
COCO_SKELETON = (
    (15, 13),
    (13, 11),
    (16, 14),
    (14, 12),
    (11, 12),
    (5, 11),
    (6, 12),
    (5, 6),
    (5, 7),
    (6, 8),
    (7, 9),
    (8, 10),
    (1, 2),
    (0, 1),
    (0, 2),
    (1, 3),
    (2, 4),
    (3, 5),
    (4, 6),
)


def left_right_pairs(names: Iterable[str]) -> tuple[tuple[int, int], ...]:
    """Pairs of indices (left, right) of names that differ only in "left" and "right"."""
    names = list(names)
    pairs = []
    for i, name in enumerate(names):
        opposite = name.replace("left", "right")
        if "left" in name and opposite in names:
            pairs.append((i, names.index(opposite)))
    return tuple(pairs)


def swap(keypoints: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Swaps the two keypoints of each pair; keypoints: [..., K, 3]."""
    order = np.arange(keypoints.shape[-2])
    for left, right in pairs:
        order[left] = right
        order[right] = left
    return keypoints[..., order, :]


def mirror(keypoints: np.ndarray, width: int, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Keypoints [..., K, 3] of the mirror image of a given width, left and right swapped."""
    keypoints = swap(keypoints, pairs).copy()
    labelled = keypoints[..., 2] > 0
    keypoints[..., 1] = np.where(labelled, width - 1 - keypoints[..., 1], 0)
    return keypoints


def hide_outside(keypoints: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Keypoints [..., K, 3], with zeros for those not labelled or outside an image [H, W, ...]."""
    positions = keypoints[..., :2]
    inside = ((positions > -1) & (positions < shape[:2])).all(axis=-1)
    labelled = keypoints[..., 2] > 0
    return np.where((inside & labelled)[..., None], keypoints, 0)


def resize_matrix(size: int, new_size: int, a: float = -0.75) -> np.ndarray:
    """A matrix that resizes an axis by bicubic interpolation: half-pixel centres, clamped edges.

    Args:
        size, new_size: lengths of the axis.
        a: parameter of the cubic kernel (Keys 1981): -.75 in PyTorch and OpenCV, -.5 in TensorFlow.

    Returns:
        [new_size, size] float32.
    """
    source = (np.arange(new_size) + 0.5) * (size / new_size) - 0.5
    first = np.floor(source).astype(int)
    rows = np.arange(new_size)
    matrix = np.zeros((new_size, size), np.float32)
    for tap in (-1, 0, 1, 2):
        columns = np.clip(first + tap, 0, size - 1)
        distance = np.abs(source - (first + tap))
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = a * (((distance - 5) * distance + 8) * distance - 4)
        weights = np.where(distance <= 1, near, far)
        np.add.at(matrix, (rows, columns), weights)
    return matrix


def decode(maps: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Keypoints of score maps: the position of the maximum of each map, resized to its box.

    If several pixels have the maximum, the first one in row order is used.

    Args:
        maps: [N, h, w, K] logits.
        boxes: [N, (y1, x1, y2, x2)] in pixels, not rounded; y2, x2 lie outside.

    Returns:
        [N, K, (y, x, score)] float32 in the boxes' frame; the score is the logit at the maximum.
    """
    count, map_height, map_width, keypoints = maps.shape
    decoded = np.zeros((count, keypoints, 3), np.float32)
    for i, (y1, x1, y2, x2) in enumerate(np.asarray(boxes, np.float64)):
        height = max(y2 - y1, 1.0)
        width = max(x2 - x1, 1.0)
        rows = int(np.ceil(height))
        columns = int(np.ceil(width))
        vertical = resize_matrix(map_height, rows)
        horizontal = resize_matrix(map_width, columns)
        by_keypoint = maps[i].transpose(2, 0, 1).astype(np.float32)  # [K, h, w]
        scores = vertical @ by_keypoint @ horizontal.T  # [K, rows, columns]
        scores = scores.reshape(keypoints, -1)
        best = scores.argmax(axis=1)
        decoded[i, :, 0] = (best // columns + 0.5) * (height / rows) + y1
        decoded[i, :, 1] = (best % columns + 0.5) * (width / columns) + x1
        decoded[i, :, 2] = scores[np.arange(keypoints), best]
    return decoded
