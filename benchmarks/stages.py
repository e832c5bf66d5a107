"""Where the time of a detection goes, and what share of the arithmetic peak each stage runs at.

    python benchmarks/stages.py [--side 1024] [--backbone resnet50] [--detections 100] [--repeats 5]

The compiled network is cut behind each stage; a stage's time is that of the network up to it less
that up to the one before, all run in turn. The peak is that of a product of two float32 matrices of
2048² here. Random weights, every threshold open; the RPN of 512 channels is the original's.
"""

import argparse
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402

from benchmarks import timing  # noqa: E402


def prefixes(network: Any) -> dict[str, Any]:
    """{stage: the network from its inputs to the outputs of that stage, batch norm folded}."""
    import keras

    from mrcnn import rewrite

    def output(*names: str) -> list:
        return [network.get_layer(name).output for name in names]

    levels = [f"fpn_p{i}" for i in range(2, 7)]
    stages = {
        "backbone": output(
            "res2c_out",
            "res3d_out",
            network.get_layer("fpn_c4p4").input._keras_history.operation.name,
            "res5c_out",
        ),
        "FPN": output(*levels),
        "RPN": output("rpn_class", "rpn_bbox"),
        "proposals": output("ROI"),
        "RoIAlign, box head": output("mrcnn_class", "mrcnn_bbox"),
        "detection layer": output("mrcnn_detection"),
    }
    networks = {}
    maps: list = []
    for name, outputs in stages.items():
        inputs = network.inputs
        if name in ("backbone", "FPN", "RPN"):
            inputs = inputs[:1]
        # Without the feature maps a later stage's network would leave out a part of an earlier one.
        networks[name] = rewrite.fold_batch_norm(keras.Model(inputs, [*maps, *outputs]))
        maps = stages["FPN"]
        if name == "backbone":
            maps = outputs
    return networks


def floating_point_operations(function: Any) -> int:
    """Floating point operations of a concrete function of static shapes, by TensorFlow's count."""
    import tensorflow as tf

    profiler = tf.compat.v1.profiler
    builder = profiler.ProfileOptionBuilder(profiler.ProfileOptionBuilder.float_operation())
    options = builder.with_empty_output().build()
    return profiler.profile(function.graph, options=options).total_float_ops


def compiled(network: Any, values: Sequence) -> tuple[Callable[[], Any], int]:
    """A function that runs a compiled network on values, and its floating point operations."""
    import tensorflow as tf

    def call(*inputs: Any) -> Any:
        return network(list(inputs), training=False)

    signature = [tf.TensorSpec(value.shape, value.dtype) for value in values]
    function = tf.function(call, input_signature=signature).get_concrete_function()
    return lambda: function(*values), floating_point_operations(function)


def stage_table(
    seconds: Mapping[str, float], work: Mapping[str, int], whole: float, peak: float, groups: float
) -> str:
    """The table of the stages.

    Args:
        seconds: {stage: seconds}, those of the network's stages from its inputs.
        work: {stage: floating point operations}, the same.
        whole: seconds of `detect`.
        peak: floating point operations in a second of a product of matrices.
        groups: how often the mask head runs.
    """
    rows = []
    seconds_before = 0.0
    work_before = 0
    for name, value in seconds.items():
        operations: float = work.get(name, 0)
        if name == "masks":
            value = groups * value
            operations = groups * operations
        elif name in work:
            stage_seconds = value - seconds_before
            stage_work = operations - work_before
            seconds_before = value
            work_before = work[name]
            value = stage_seconds
            operations = stage_work
        row = [name, f"{1e3 * value:.0f}", f"{value / whole:.0%}"]
        if operations > 1e9:
            row += [f"{operations / 1e9:.1f}", f"{operations / value / peak:.0%}"]
        else:
            row += ["", ""]
        rows.append(row)
    return timing.table(["stage", "ms", "of detect", "GFLOP", "of the peak"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--backbone", default="resnet50", choices=("resnet50", "resnet101"))
    parser.add_argument("--detections", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    import tensorflow as tf

    from mrcnn import inference, model as modellib, rewrite

    config = timing.network_config(
        options.backbone,
        options.side,
        DETECTION_NMS_THRESHOLD=1.0,
        DETECTION_MAX_INSTANCES=options.detections,
        RPN_NMS_THRESHOLD=1.0,
    )
    model = modellib.MaskRCNN("inference", config, tempfile.mkdtemp())
    image = timing.noise(options.side)
    molded, metas, windows = model.mold_inputs([image])
    anchors = model.get_anchors(molded.shape[1:])
    args = [tf.convert_to_tensor(x, "float32") for x in (molded, metas, anchors[None])]

    runs: dict[str, Callable] = {"molding": lambda: model.mold_inputs([image])}
    work = {}
    for name, network in prefixes(model.keras_model.sub_models["boxes"]).items():
        runs[name], work[name] = compiled(network, args[: len(network.inputs)])
    parts = model.detector.infer(molded, metas, anchors)
    detections = parts[0]
    rows = min(inference.HEAD_GROUP, detections.shape[1])
    rng = np.random.default_rng(0)
    maps = []
    for stride in config.BACKBONE_STRIDES[:4]:
        cells = -(-options.side // stride)
        maps.append(tf.constant(rng.normal(size=(1, cells, cells, 256)), "float32"))
    boxes = tf.constant(detections[:, :rows, :4])
    class_ids = tf.constant(detections[:, :rows, 4], "int32")
    mask_model = rewrite.fold_batch_norm(
        rewrite.of_detected_class(model.keras_model.sub_models["masks"])
    )
    runs["masks"], work["masks"] = compiled(mask_model, [boxes, args[1], *maps, class_ids])
    runs["unmolding"] = lambda: inference.result(
        parts, 0, image.shape, molded.shape[1:], windows[0], config
    )
    runs["detect"] = lambda: model.detect([image])
    matrix = tf.random.normal((2048, 2048))
    runs["peak"] = lambda: tf.matmul(matrix, matrix).numpy()
    seconds = timing.alternate(runs, options.repeats)
    peak = 2 * 2048**3 / seconds.pop("peak")
    whole = seconds.pop("detect")
    groups = detections.shape[1] / rows
    print(
        f"{options.backbone} {options.side}², {detections.shape[1]} detections: detect {whole:.2f}"
        f" s; a product of matrices runs at {peak / 1e9:.0f} GFLOP/s\n"
    )
    print(stage_table(seconds, work, whole, peak, groups))


if __name__ == "__main__":
    main()
