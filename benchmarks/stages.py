"""Where the time of a detection goes, stage by stage, and what share of the arithmetic peak each
stage runs at.

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

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402

from benchmarks import timing  # noqa: E402
from mrcnn.config import Config  # noqa: E402


def prefixes(network):
    """{stage: the network from its inputs to the outputs of that stage, batch norm folded}."""
    import keras

    from mrcnn import rewrite

    def output(*names):
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
    needed, before = {}, []
    for name, outputs in stages.items():
        # Without the feature maps a later stage's network would leave out a part of an earlier one.
        inputs = network.inputs[:1] if name in ("backbone", "FPN", "RPN") else network.inputs
        needed[name] = rewrite.fold_batch_norm(keras.Model(inputs, [*before, *outputs]))
        before = stages["FPN"] if name != "backbone" else outputs
    return needed


def floating_point_operations(function):
    """Floating point operations of a concrete function of static shapes, as TensorFlow counts
    them."""
    import tensorflow as tf

    options = tf.compat.v1.profiler.ProfileOptionBuilder(
        tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    )
    return tf.compat.v1.profiler.profile(
        function.graph, options=options.with_empty_output().build()
    ).total_float_ops


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--backbone", default="resnet50", choices=("resnet50", "resnet101"))
    parser.add_argument("--detections", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    import tensorflow as tf

    from mrcnn import inference, model as modellib, rewrite

    config = Config(
        NAME="stages",
        NUM_CLASSES=81,
        BACKBONE=options.backbone,
        IMAGE_MIN_DIM=options.side,
        IMAGE_MAX_DIM=options.side,
        IMAGES_PER_GPU=1,
        DETECTION_MIN_CONFIDENCE=0.0,
        DETECTION_NMS_THRESHOLD=1.0,
        DETECTION_MAX_INSTANCES=options.detections,
        RPN_NMS_THRESHOLD=1.0,
    )
    model = modellib.MaskRCNN("inference", config, tempfile.mkdtemp())
    image = (
        np.random.default_rng(0).integers(0, 255, (options.side, options.side, 3)).astype(np.uint8)
    )
    molded, metas, windows = model.mold_inputs([image])
    anchors = model.get_anchors(molded.shape[1:])
    args = [tf.convert_to_tensor(x, "float32") for x in (molded, metas, anchors[None])]

    def compile_(network, values):
        function = tf.function(
            lambda *x: network(list(x), training=False),
            input_signature=[tf.TensorSpec(x.shape, x.dtype) for x in values],
        ).get_concrete_function()
        return lambda: function(*values), floating_point_operations(function)

    runs, work = {"molding": lambda: model.mold_inputs([image])}, {}
    for name, network in prefixes(model.keras_model.sub_models["boxes"]).items():
        runs[name], work[name] = compile_(network, args[: len(network.inputs)])
    detections, masks, _ = parts = inference.infer(model, molded, metas, anchors)
    rows = min(inference.HEAD_GROUP, detections.shape[1])
    rng = np.random.default_rng(0)
    maps = [
        tf.constant(
            rng.normal(size=(1, -(-options.side // stride), -(-options.side // stride), 256)),
            "float32",
        )
        for stride in config.BACKBONE_STRIDES[:4]
    ]
    heads = [tf.constant(detections[:, :rows, :4]), args[1], *maps]
    runs["masks"], work["masks"] = compile_(
        rewrite.fold_batch_norm(rewrite.of_detected_class(model.keras_model.sub_models["masks"])),
        [*heads, tf.constant(detections[:, :rows, 4], "int32")],
    )
    runs["unmolding"] = lambda: inference.result(
        parts, 0, image.shape, molded.shape[1:], windows[0], config
    )
    runs["detect"] = lambda: model.detect([image])
    matrix = tf.random.normal((2048, 2048))
    runs["peak"] = lambda: tf.matmul(matrix, matrix).numpy()
    seconds = timing.alternate(runs, options.repeats)

    peak = 2 * 2048**3 / seconds.pop("peak")
    whole, groups = seconds.pop("detect"), detections.shape[1] / rows
    lines, before, done = [], 0.0, 0
    for name, value in seconds.items():
        operations = work.get(name, 0)
        if name in work and name != "masks":
            value, before, operations, done = value - before, value, operations - done, operations
        elif name == "masks":
            value, operations = groups * value, groups * operations
        share = f"{operations / value / peak:.0%}" if operations > 1e9 else ""
        lines.append(
            [
                name,
                f"{1e3 * value:.0f}",
                f"{value / whole:.0%}",
                f"{operations / 1e9:.1f}" if operations > 1e9 else "",
                share,
            ]
        )
    print(
        f"{options.backbone} {options.side}², {detections.shape[1]} detections: detect {whole:.2f}"
        f" s; a product of matrices runs at {peak / 1e9:.0f} GFLOP/s\n"
    )
    print(timing.table(["stage", "ms", "of detect", "GFLOP", "of the peak"], lines))


if __name__ == "__main__":
    main()
