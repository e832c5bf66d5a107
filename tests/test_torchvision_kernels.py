"""torchvision's operators against this package's own, where PyTorch is Keras's backend.

    KERAS_BACKEND=torch python -m pytest --noconftest tests/test_torchvision_kernels.py

in an environment with torchvision and without TensorFlow, which no target of the Makefile makes:
the index has torchvision for PyTorch's CUDA build alone. Its operators are for GPUs; here they run on
the CPU.
"""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "torch":
    pytest.skip("runs with KERAS_BACKEND=torch", allow_module_level=True)
pytest.importorskip("torchvision", reason="torchvision is not installed")

import torch  # noqa: E402

from mrcnn import ops, torch_kernels  # noqa: E402

RNG = np.random.default_rng(0)


@pytest.fixture
def computed(monkeypatch):
    """A function that computes something by this package's own kernels and by torchvision."""

    def compute(function, *args, **options):
        results = []
        for takes in (False, True):
            monkeypatch.setattr(torch_kernels, "takes_torchvision", lambda x: takes)  # noqa: B023
            results.append(function(*args, **options))
        return results

    return compute


def random_boxes(count, extent=1.0):
    corners = RNG.uniform(0, extent, (count, 2, 2)).astype("float32")
    return torch.tensor(np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=-1))


def test_torchvision_is_for_gpus():
    assert torch_kernels.of_torchvision() is not None
    assert not torch_kernels.takes_torchvision(torch.zeros(1))
    assert torch_kernels.takes_torchvision(torch.zeros(1, device="meta"))


@pytest.mark.parametrize("classes", [0, 1, 5])
@pytest.mark.parametrize("count", [5, 400])
def test_the_same_boxes_stay(computed, classes, count):
    """Also of equal scores, of equal boxes, and where a box is not valid."""
    boxes = torch.stack([random_boxes(300), random_boxes(300)])
    boxes[0, 100:120] = boxes[0, :20]
    scores = torch.tensor(RNG.integers(0, 40, (2, 300)) / 40).to(torch.float32)
    valid = torch.tensor(RNG.random((2, 300)) < 0.8)
    valid[1, 3:] = False
    of_boxes = None
    if classes:
        of_boxes = torch.tensor(RNG.integers(0, classes, (2, 300)))
    given = (boxes, scores, count, 0.3, valid, of_boxes)
    expected, found = computed(torch_kernels.non_max_suppression, *given)
    assert expected[1].sum() > 6
    for ours, theirs in zip(expected, found, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_box_as_far_as_the_threshold_stays(computed):
    """Of an IoU of .3 in float32 both stay, as with TensorFlow's kernel."""
    boxes = torch.tensor([[[0, 0, 1.0, 10], [0, 7, 1, 10], [5, 5, 6, 6]]])
    scores = torch.tensor([[0.9, 0.8, 0.7]])
    valid = torch.ones((1, 3), dtype=torch.bool)
    given = (boxes, scores, 3, 0.3, valid, None)
    expected, found = computed(torch_kernels.non_max_suppression, *given)
    assert expected[0].tolist() == found[0].tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("samples", [0, 1, 2])
def test_the_same_values_and_gradients(computed, samples, aligned):
    """Boxes inside, across the edges and outside, on two levels of two images."""

    def pool():
        generator = torch.Generator().manual_seed(1)
        maps = [torch.rand((2, side, side + 3, 4), generator=generator) for side in (16, 8)]
        maps = [m.requires_grad_() for m in maps]
        boxes = torch.rand((2, 30, 2, 2), generator=generator) * 22 - 3
        boxes = torch.cat([boxes.min(dim=2).values, boxes.max(dim=2).values], dim=-1)
        levels = torch.randint(0, 2, (2, 30), generator=generator, dtype=torch.int32)
        pooled = ops.roi_align(maps, boxes, levels, (3, 5), samples, aligned)
        (pooled**2).sum().backward()
        return [pooled.detach(), *[m.grad for m in maps]]

    for ours, theirs in zip(*computed(pool), strict=True):
        assert ours.abs().max() > 0.5
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
