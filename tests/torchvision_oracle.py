"""What torchvision's own model answers to seeded weights; run by a Python that has torchvision.

python torchvision_oracle.py maskrcnn_resnet50_fpn_v2 OUT.npz
    writes the weights "w/KEY", the image and the answers
"""

import sys
import zlib

import numpy as np

# Small for outputs: activations grow along an untrained network, and saturated scores would only
# test ties.
GAINS = {
    "rpn.head.bbox_pred": 0.01,
    "cls_logits": 0.03,
    "cls_score": 0.1,
    "bbox_pred": 0.02,
    "mask_fcn_logits": 0.1,
    "kps_score": 0.1,
}


def weights(shapes):
    """{key: float32 array}: normal kernels of unit gain, norms near 1, seeded by the key."""
    found = {}
    for key, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(b"oracle " + key.encode()))
        if len(shape) > 1:
            gain = next((value for name, value in GAINS.items() if name in key), 1.2)
            value = rng.normal(0, gain / np.sqrt(np.prod(shape[1:])), shape)
        elif key.endswith(("running_var", "weight")):
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.normal(0, 0.1, shape)
        found[key] = value.astype(np.float32)
    return found


def image():
    """Bright and dark rectangles and noise, [200, 270, 3] uint8."""
    rng = np.random.default_rng(7)
    pixels = rng.integers(90, 160, (200, 270, 3))
    for _ in range(12):
        y, x, h, w = (
            rng.integers(0, 150),
            rng.integers(0, 220),
            rng.integers(10, 90),
            rng.integers(10, 90),
        )
        pixels[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    return pixels.astype(np.uint8)


def main(name, path):
    import torch
    import torchvision

    torch.set_num_threads(2)
    build = getattr(torchvision.models.detection, name)
    model = build(weights=None, weights_backbone=None, min_size=224, max_size=384).eval()
    state = model.state_dict()
    arrays = weights(
        {
            key: tuple(value.shape)
            for key, value in state.items()
            if not key.endswith("num_batches_tracked")
        }
    )
    model.load_state_dict(
        {
            key: torch.from_numpy(arrays[key]) if key in arrays else value
            for key, value in state.items()
        }
    )
    answers = {}

    def keep(module, names, pick=lambda out: out):
        def hook(_, inputs, out):
            for key, value in zip(names, pick(out)):
                answers[key] = value.detach().numpy()

        module.register_forward_hook(hook)

    keep(model.transform, ["molded"], lambda out: [out[0].tensors])
    keep(model.backbone, [f"feature{i}" for i in range(5)], lambda out: list(out.values()))
    keep(
        model.rpn.head,
        [f"objectness{i}" for i in range(5)] + [f"deltas{i}" for i in range(5)],
        lambda out: [*out[0], *out[1]],
    )
    keep(model.rpn.anchor_generator, ["anchors"])
    keep(model.rpn, ["proposals"], lambda out: out[0])
    keep(model.roi_heads.box_predictor, ["class_logits", "box_regression"])
    with torch.inference_mode():
        (found,) = model([torch.from_numpy(image()).permute(2, 0, 1) / 255.0])
    answers.update({key: value.numpy() for key, value in found.items()})
    if "masks" in answers:
        answers["masks"] = answers["masks"][:, 0] > 0.5
    np.savez(path, image=image(), **answers, **{"w/" + key: value for key, value in arrays.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
