"""torchvision's checkpoints: the recordings, torchvision itself where it is installed, keys, files
and refusals."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import oracle
import pytest

from mrcnn import torchvision, utils
from mrcnn.config import Config
from mrcnn.model import MaskRCNN

TESTS = os.path.dirname(os.path.abspath(__file__))
SWAP = [1, 0, 3, 2]  # x1, y1, x2, y2 to y1, x1, y2, x2


def close(actual, expected, tolerance=1e-3):
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


def to_last(x):
    """NCHW to NHWC."""
    return np.moveaxis(x, 1, -1)


def recording(name):
    """The recorded arrays and the state dict of their model."""
    path = oracle.shared(f"oracle/torchvision/{name}.npz")
    spec = importlib.util.spec_from_file_location(
        "weights_recipe", path.parent / "weights_recipe.py"
    )
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    with np.load(path) as archive:
        return dict(archive), recipe.state_dict(name)


def build(state, folder, **settings):
    model = MaskRCNN(
        "inference", torchvision.config_of(state, IMAGES_PER_GPU=1, **settings), folder
    )
    coverage = model.load_weights(state)
    assert not coverage.missing and not coverage.unused and not coverage.mismatched
    return model


def check_first_stage(model, image, expected):
    """Molding, anchors, features (every step-th channel), RPN outputs, proposals as sets.

    Args:
        expected: {"molded", "anchors", "features": [5], "objectness": [5], "deltas": [5],
            "proposals"} as torchvision lays them out.
    """
    molded, metas, _ = model.mold_inputs([image])
    close(molded, to_last(expected["molded"]), 1e-4)
    normal = model.get_anchors(molded.shape[1:])
    np.testing.assert_array_equal(model.anchors[:, SWAP], expected["anchors"])
    levels = ["fpn_p2", "fpn_p3", "fpn_p4", "fpn_p5"]
    if model.config.FPN_NORM:
        levels = [name + "_bn" for name in levels]
    names = [*levels, "fpn_p6", "rpn_class_logits", "rpn_bbox", "ROI"]
    values = model.run_graph([image], [(name, None) for name in names])
    for name, feature in zip(names, expected["features"]):
        close(values[name][..., :: values[name].shape[-1] // feature.shape[1]], to_last(feature))
    close(
        values["rpn_class_logits"][..., 1],
        np.concatenate([to_last(x).reshape(1, -1) for x in expected["objectness"]], axis=1),
    )
    close(
        values["rpn_bbox"],
        np.concatenate([to_last(x).reshape(1, -1, 4) for x in expected["deltas"]], axis=1)[
            ..., SWAP
        ],
    )
    proposals = utils.denorm_boxes(values["ROI"][0], molded.shape[1:], "edges", whole=False).astype(
        float
    )
    recorded = expected["proposals"][:, SWAP].astype(float)
    assert (np.abs(recorded[:, None] - proposals).max(axis=2).min(axis=1) < 0.02).mean() >= 0.98
    # The layer of the training graph makes the same anchors.
    from mrcnn.model import PyramidAnchors

    config = model.config
    layer = PyramidAnchors(
        config.RPN_ANCHOR_SCALES,
        config.RPN_ANCHOR_RATIOS,
        config.BACKBONE_STRIDES,
        1,
        config.BOX_FRAME,
        config.RPN_ANCHOR_ROUNDING,
    )
    anchors = layer([molded.astype("float32"), *(values[name] for name in names[:5])])
    np.testing.assert_allclose(np.asarray(anchors)[0], normal, atol=1e-6)


def check_second_stage(model, image, expected):
    """Class and box outputs of the recorded proposals."""
    molded, metas, _ = model.mold_inputs([image])
    rois = utils.norm_boxes(expected["proposals"][:, SWAP], molded.shape[1:], "edges")[None]
    count = model.config.POST_NMS_ROIS_INFERENCE
    found, rois = rois.shape[1], np.pad(rois, [(0, 0), (0, count - rois.shape[1]), (0, 0)])
    network = model.keras_model
    stage = keras.Model(
        [network.get_layer("ROI").output[0], *network.inputs[:2]],
        [
            network.get_layer(name).output
            for name in ("roi_align_classifier", "mrcnn_class_logits", "mrcnn_bbox")
        ],
    )
    pooled, logits, deltas = (
        np.asarray(x)[0, :found]
        for x in stage([rois, molded, metas.astype("float32")], training=False)
    )
    if "box_pool_slice" in expected:
        close(pooled[::10, :, :, ::16], to_last(expected["box_pool_slice"]))
    close(logits, expected["class_logits"])
    close(deltas, expected["box_regression"].reshape(*logits.shape, 4)[..., SWAP])


def check_detections(model, image, expected):
    """The same detections: each recorded one has its own here, and its mask and points agree."""
    result = model.detect([image])[0]
    boxes = expected["boxes"][:, SWAP]
    assert len(result["scores"]) == len(boxes) and result["rois"].dtype == np.float32
    free = set(range(len(boxes)))
    for i in range(len(boxes)):
        same = [
            j
            for j in free
            if expected["labels"][i] == result["class_ids"][j]
            and abs(expected["scores"][i] - result["scores"][j]) <= 1e-3
            and np.abs(boxes[i] - result["rois"][j]).max() <= 0.05
        ]
        assert same, f"no detection is like number {i}"
        j = min(same, key=lambda j: np.abs(boxes[i] - result["rois"][j]).max())
        free.remove(j)
        if "masks" in expected:
            both = (expected["masks"][i] & result["masks"][..., j]).sum()
            either = (expected["masks"][i] | result["masks"][..., j]).sum()
            assert both >= 0.99 * either
        if "keypoints" in expected:
            assert (
                np.abs(expected["keypoints"][i][:, [1, 0]] - result["keypoints"][j, :, :2]).max()
                <= 0.5
            )
            close(result["keypoints"][j, :, 2], expected["keypoints_scores"][i])


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn"])
def test_recordings(name, tmp_path):
    if name.startswith("keypoint") and not hasattr(Config, "USE_KEYPOINTS"):
        pytest.skip("this version has no keypoint head")
    arrays, state = recording(name)
    expected = {
        **arrays,
        "features": [arrays[f"feat_{i}_slice"] for i in (0, 1, 2, 3, "pool")],
        "objectness": [arrays[f"rpn_obj{i}"] for i in range(5)],
        "deltas": [arrays[f"rpn_delta{i}"] for i in range(5)],
    }
    if "masks_packed" in arrays:
        width = arrays["image"].shape[1]
        expected["masks"] = np.unpackbits(arrays["masks_packed"], axis=-1)[..., :width].astype(bool)
    model = build(state, tmp_path, IMAGE_MIN_DIM=256, IMAGE_MAX_DIM=426)
    check_first_stage(model, arrays["image"], expected)
    check_second_stage(model, arrays["image"], expected)
    check_detections(model, arrays["image"], expected)


def python_with_torchvision():
    """A Python that has torchvision: $TORCHVISION_PYTHON or this one; or the test is skipped."""
    if os.environ.get("TORCHVISION_PYTHON"):
        return os.environ["TORCHVISION_PYTHON"]
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed: set TORCHVISION_PYTHON to a Python that has it")
    return sys.executable


@pytest.mark.heavy
@pytest.mark.parametrize(
    "name",
    [
        "maskrcnn_resnet50_fpn_v2",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("maskrcnn_resnet50_fpn",)),
    ],
)
def test_torchvision_itself(name, tmp_path):
    """The same weights and image in torchvision and here, every stage."""
    path = tmp_path / "answers.npz"
    subprocess.run(
        [python_with_torchvision(), os.path.join(TESTS, "torchvision_oracle.py"), name, path],
        check=True,
    )
    with np.load(path) as archive:
        arrays = dict(archive)
    state = {key[2:]: value for key, value in arrays.items() if key.startswith("w/")}
    expected = {
        **arrays,
        **{
            kind: [arrays[f"{kind[:-1] if kind == 'features' else kind}{i}"] for i in range(5)]
            for kind in ("features", "objectness", "deltas")
        },
    }
    model = build(state, tmp_path, IMAGE_MIN_DIM=224, IMAGE_MAX_DIM=384)
    check_first_stage(model, arrays["image"], expected)
    check_second_stage(model, arrays["image"], expected)
    check_detections(model, arrays["image"], expected)


# ---- Files and keys ------------------------------------------------------------------------------


def small_state(**arrays):
    return {
        "roi_heads.box_predictor.cls_score.bias": np.zeros(5, "float32"),
        "roi_heads.box_predictor.cls_score.weight": np.arange(20, dtype="float32").reshape(5, 4),
        **arrays,
    }


def test_older_keys():
    older = {
        "backbone.fpn.inner_blocks.3.weight": "backbone.fpn.inner_blocks.3.0.weight",
        "backbone.fpn.layer_blocks.0.bias": "backbone.fpn.layer_blocks.0.0.bias",
        "rpn.head.conv.weight": "rpn.head.conv.0.0.weight",
        "roi_heads.mask_head.mask_fcn1.weight": "roi_heads.mask_head.0.0.weight",
        "roi_heads.mask_head.mask_fcn4.bias": "roi_heads.mask_head.3.0.bias",
    }
    for key, expected in older.items():
        assert torchvision.current_key(key) == expected
        assert torchvision.current_key(expected) == expected


def test_layouts():
    """Kernels, a layer that reads cells, and boxes, each against its definition."""
    rng = np.random.default_rng(0)
    state = small_state(
        **{
            "backbone.body.layer2.1.conv3.weight": rng.normal(size=(8, 4, 3, 2)),
            "backbone.body.layer2.1.bn3.running_var": np.ones(8),
            "backbone.fpn.layer_blocks.0.0.weight": rng.normal(size=(2, 2, 3, 3)),
            "roi_heads.box_head.fc6.weight": rng.normal(size=(5, 18)),
            "rpn.head.bbox_pred.weight": np.arange(8.0).reshape(8, 1, 1, 1),
        }
    )
    found, unknown = torchvision.translate(torchvision.read(state))
    assert not unknown
    np.testing.assert_array_equal(
        found["res3b_branch2c"]["kernel"][1, 0, 3],
        state["backbone.body.layer2.1.conv3.weight"][:, 3, 1, 0],
    )
    assert list(found["bn3b_branch2c"]) == ["moving_variance"]
    cells = rng.normal(size=(2, 3, 3))
    np.testing.assert_allclose(
        np.tensordot(cells.transpose(1, 2, 0), found["mrcnn_class_conv1"]["kernel"], 3),
        state["roi_heads.box_head.fc6.weight"] @ cells.ravel(),
    )
    assert found["rpn_bbox_pred"]["kernel"].ravel().tolist() == [1, 0, 3, 2, 5, 4, 7, 6]


def test_unknown_keys_and_other_files_are_refused(tmp_path):
    found, unknown = torchvision.translate(
        torchvision.read(small_state(**{"roi_heads.other.weight": np.ones(1)}))
    )
    assert unknown == ["roi_heads.other.weight"]
    with pytest.raises(ValueError, match="cls_score.bias"):
        torchvision.read({"layer1.0.conv1.weight": np.ones(3)})
    with pytest.raises(FileNotFoundError, match="nowhere.npz"):
        torchvision.read(tmp_path / "nowhere.npz")


def test_npz_and_nested_dicts(tmp_path):
    state = small_state()
    np.savez(tmp_path / "weights.npz", **state)
    for source in (
        tmp_path / "weights.npz",
        {"model": state, "epoch": 3},
        {"module." + key: value for key, value in state.items()},
    ):
        found = torchvision.read(source)
        assert set(found) == set(state) and torchvision.is_checkpoint(source)


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed")
def test_pth_without_torch_says_what_to_do(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"PK")
    with pytest.raises(ImportError, match=r"pip install torch.*savez"):
        torchvision.read(tmp_path / "weights.pth")


def test_pth_is_never_unpickled(tmp_path):
    """A file that would run code is refused; a plain one, of the zip and of the older format, is
    read."""
    code = f"""
import os, sys, torch
sys.path.insert(0, {os.path.dirname(TESTS)!r})
from mrcnn import torchvision
state = {{"roi_heads.box_predictor.cls_score.bias": torch.ones(3)}}
for zipped in (True, False):
    torch.save(state, "plain.pth", _use_new_zipfile_serialization=zipped)
    assert torchvision.read("plain.pth")["roi_heads.box_predictor.cls_score.bias"].tolist() == [1, 1, 1]
class Bad:
    def __reduce__(self):
        return os.mkdir, ("harm",)
torch.save({{"x": Bad()}}, "bad.pth")
try:
    torchvision.read("bad.pth")
except Exception as error:
    print(type(error).__name__)
assert not os.path.exists("harm")
"""
    done = subprocess.run(
        [python_with_torchvision(), "-c", code],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "UnpicklingError" in done.stdout
