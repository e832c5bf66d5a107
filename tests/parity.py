"""The worst difference from each recording of the original, as a table: `make parity`.

    python tests/parity.py [CASE ...]        e.g. net_small_shapes0 train functions; all by default

What is compared, and to which tolerance, is what the recordings' README says; the tests assert the
same rows. Recordings that the repository doesn't carry are looked for in the shared folder (see
`oracle`) and named where they are missing. Ends with status 1 if a difference is beyond its bound.
"""

import argparse
import collections
import importlib.util
import os
import re
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import oracle

from mrcnn import utils

Row = collections.namedtuple("Row", "case quantity worst bound")

INTERMEDIATES = (
    "rpn_class",
    "rpn_bbox",
    "res2c_out",
    "res3d_out",
    "res4f_out",
    "res5c_out",
    "fpn_p2",
    "fpn_p3",
    "fpn_p4",
    "fpn_p5",
    "fpn_p6",
)
HEADS = ("mrcnn_class_logits", "mrcnn_class", "mrcnn_bbox", "roi_align_classifier")
NETWORKS = (
    "net_small_shapes0",
    "net_small_synth",
    "net_small_fewdets",
    "net_small_nodets",
    "net_small_photo",
    "net_small_batch2",
    "net_small_pad64",
    "net_big512_photo",
)

# Settings of the recorded networks and training batches, beside those of `settings`.
SPECIAL = {
    "fewdets": dict(
        DETECTION_NMS_THRESHOLD=0.5, POST_NMS_ROIS_INFERENCE=200, DETECTION_MAX_INSTANCES=20
    ),
    "nodets": dict(DETECTION_MIN_CONFIDENCE=1.0),
    "batch2": dict(IMAGES_PER_GPU=2),
    "pad64": dict(IMAGE_RESIZE_MODE="pad64"),
}
BATCHES = {
    "A": dict(USE_RPN_ROIS=False, TRAIN_ROIS_PER_IMAGE=32),
    "A_train_bn": dict(USE_RPN_ROIS=False, TRAIN_ROIS_PER_IMAGE=32, TRAIN_BN=True),
    "B": dict(TRAIN_ROIS_PER_IMAGE=128, ROI_POSITIVE_RATIO=0.05, POST_NMS_ROIS_TRAINING=64),
}


def settings(size="small", side=128):
    """Config settings that the recorded networks of a size share."""
    if size == "small":
        return {
            "NAME": "small",
            "BACKBONE": "resnet50",
            "NUM_CLASSES": 4,
            "IMAGE_MIN_DIM": side,
            "IMAGE_MAX_DIM": side,
            "RPN_ANCHOR_SCALES": (8, 16, 32, 64, 128),
            "IMAGES_PER_GPU": 1,
        }
    return {
        "NAME": "big",
        "NUM_CLASSES": 81,
        "IMAGES_PER_GPU": 1,
        "IMAGE_MIN_DIM": side,
        "IMAGE_MAX_DIM": side,
    }


def write_weights(size, path):
    """Writes the recorded networks' weights, "small" or "big", in the released files' layout."""
    folder = (
        oracle.RECORDED if size == "small" else oracle.shared("oracle/matterport/make_h5.py").parent
    )
    spec = importlib.util.spec_from_file_location(f"make_h5_{size}", folder / "make_h5.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write(size, path)


def find(case):
    """Path of a recording, carried or shared, or None."""
    carried = oracle.RECORDED / f"{case}.npz"
    return carried if carried.exists() else oracle.find_shared(f"oracle/matterport/{case}.npz")


def read(case):
    """{key: array} of a recording."""
    with np.load(find(case)) as archive:
        return {key: archive[key] for key in archive.files}


def difference(actual, expected):
    """Largest difference over the largest recorded value."""
    actual, expected = np.asarray(actual, float), np.asarray(expected, float)
    if actual.shape != expected.shape:
        return float("inf")
    return (
        float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-12))
        if expected.size
        else 0.0
    )


# ---- Inference -----------------------------------------------------------------------------------


def recorded_images(arrays):
    return [arrays[key] for key in ("image0", "image1") if key in arrays]


def network(case, model, arrays):
    """Rows of one recorded network: molding, features, RPN, proposals, heads on the recorded
    proposals, detections.

    Args:
        model: MaskRCNN in inference mode with the recorded weights and the case's settings.
    """
    images = recorded_images(arrays)
    batch, metas, windows = model.mold_inputs(images)
    anchors = model.get_anchors(batch.shape[1:])
    pixels = np.round(batch + model.config.MEAN_PIXEL).astype(np.uint8)
    yield Row(
        case,
        "molded image, pixels that differ",
        np.mean(pixels != arrays["molded_plus_mean_uint8"]),
        0.0,
    )
    yield Row(case, "image meta", difference(metas, arrays["image_metas"]), 1e-6)
    yield Row(case, "windows", difference(windows, arrays["windows"]), 0.0)
    if "anchors" in arrays:
        yield Row(case, "anchors", difference(anchors, arrays["anchors"].reshape(-1, 4)), 1e-6)

    names = [name for name in INTERMEDIATES if name in arrays]
    maps = ["fpn_p2", "fpn_p3", "fpn_p4", "fpn_p5"]
    values = model.run_graph(
        batch, [(name, None) for name in dict.fromkeys([*names, *maps, "ROI"])], metas
    )
    for name in names:
        yield Row(case, name, difference(values[name], arrays[name]), 1e-4)
    for image, (ours, recorded) in enumerate(zip(values["ROI"], arrays["proposals"])):
        best = utils.compute_overlaps(
            ours.astype(float), recorded[recorded.any(axis=1)].astype(float)
        ).max(axis=0)
        yield Row(
            case,
            f"proposals of image {image} not found",
            np.mean(best <= 0.999),
            0.05 if "big" in case else 0.02,
        )
    yield from heads(case, model, arrays, [values[name] for name in maps], metas)
    for image, result in enumerate(model.detect(images)):
        yield from detections(case, result, arrays, image)


def heads(case, model, arrays, maps, metas):
    """Rows of the class, box and mask outputs with the recorded proposals and detections fed in."""
    import keras
    from keras import ops

    graph = model.keras_model
    names = [name for name in HEADS if name in arrays]
    pyramid = [graph.get_layer(f"fpn_p{level}").output for level in (2, 3, 4, 5)]
    rois, meta = graph.get_layer("ROI").output[0], graph.inputs[1]
    part = keras.Model([rois, meta, *pyramid], [graph.get_layer(name).output for name in names])
    inputs = [ops.convert_to_tensor(x, "float32") for x in (arrays["proposals"], metas, *maps)]
    whole = ~loses_a_sample(arrays["proposals"], maps, model.config.POOL_SIZE)
    left_out = f", {whole.size - whole.sum()} left out" if not whole.all() else ""
    for name, value in zip(names, part(inputs, training=False)):
        count = arrays[name].shape[1]  # of roi_align_classifier only the first ones are recorded
        kept = whole[:, :count]
        yield Row(
            case,
            f"{name} of the recorded proposals{left_out}",
            difference(ops.convert_to_numpy(value)[:, :count][kept], arrays[name][kept]),
            1e-3,
        )
    boxes, class_ids = arrays["detections"][..., :4], arrays["detections"][..., 4].astype(int)
    masks = ops.convert_to_numpy(
        model.keras_model.sub_models["masks"](
            [ops.convert_to_tensor(boxes), *inputs[1:]], training=False
        )
    )
    if "mrcnn_mask" in arrays:
        yield Row(
            case,
            "mrcnn_mask of the recorded detections",
            difference(masks, arrays["mrcnn_mask"]),
            1e-3,
        )
    else:
        own = np.take_along_axis(masks, class_ids[:, :, None, None, None], axis=-1)[..., 0]
        yield Row(
            case,
            "mrcnn_mask of the recorded detections",
            difference(own, arrays["mrcnn_mask_of_class"]),
            1e-3,
        )


def loses_a_sample(boxes, maps, cells):
    """Which boxes [B, N, 4] end on the image's edge and had the last of `cells` samples beyond it
    in the original, by a rounding error of its kernel, which then took 0; here it is the edge's
    value (tests/test_ops.py).
    """
    boxes, side = boxes.astype(np.float32), maps[0].shape[1]
    area = np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)
    level = np.clip(np.round(2 + np.log2(np.sqrt(np.maximum(area, 1e-12)) * 4 * side / 224)), 0, 3)
    last = (side / 2**level - 1).astype(np.float32)[..., None]
    start, step = (
        boxes[..., :2] * last,
        (boxes[..., 2:] - boxes[..., :2]) * last / np.float32(cells - 1),
    )
    return (start + np.float32(cells - 1) * step > last).any(axis=-1)


def detections(case, result, arrays, image=0):
    """Rows of what `detect` returns: each recorded detection has its match, and there is no
    other."""
    key = f"detect{image}_"
    recorded = {name: arrays[key + name] for name in ("rois", "class_ids", "scores")}
    shape = tuple(arrays[key + "masks_shape"])
    masks = (
        np.unpackbits(arrays[key + "masks_packed"])[: np.prod(shape)].reshape(shape).astype(bool)
    )
    free = set(range(len(recorded["scores"])))
    unmatched, score, box, mask = max(0, len(free) - len(result["scores"])), 0.0, 0.0, 0.0
    for i in range(len(result["scores"])):
        distances = np.abs(recorded["rois"] - result["rois"][i]).max(axis=1) if free else None
        same = [
            j
            for j in free
            if recorded["class_ids"][j] == result["class_ids"][i]
            and distances[j] <= 1
            and abs(recorded["scores"][j] - result["scores"][i]) <= 1e-3
        ]
        if not same:
            unmatched += 1
            continue
        # Boxes without area can't be told apart by their box: the mask decides.
        iou = [_iou(masks[..., j], result["masks"][..., i]) for j in same]
        j = same[int(np.argmax(iou))]
        free.remove(j)
        score = max(score, abs(float(recorded["scores"][j]) - float(result["scores"][i])))
        box, mask = max(box, distances[j]), max(mask, 1 - max(iou))
    right_form = result["masks"].shape == shape and result["masks"].dtype == bool
    yield Row(
        case,
        f"detections of image {image} without a match",
        unmatched if right_form else float("inf"),
        0,
    )
    yield Row(case, "    score", score, 1e-3)
    yield Row(case, "    box, pixels", float(box), 1.0)
    yield Row(case, "    mask, 1 - IoU", mask, 0.01)


def _iou(a, b):
    union = (a | b).sum()
    return (a & b).sum() / union if union else 1.0


# ---- Training ------------------------------------------------------------------------------------


def batch_inputs(arrays, batch):
    """The recorded inputs of a training batch, as the network takes them."""
    names = [
        "images",
        "image_metas",
        "rpn_match",
        "rpn_bbox_target",
        "gt_class_ids",
        "gt_boxes",
        "gt_masks",
    ]
    inputs = [
        arrays[f"{batch[0]}/in/{name}"] for name in names + (["rois"] if batch[0] == "A" else [])
    ]
    return [
        x.astype("uint8") if x.dtype == bool else x.astype("float32") if x.dtype == np.int64 else x
        for x in inputs
    ]


def variables_of(network):
    """{"layer/weight": variable} of all weights."""
    from mrcnn import weights

    return {
        f"{name}/{key}": variable
        for name, layer in weights.layers_of(network).items()
        for key, variable in weights.ordered_weights(layer)
    }


def losses(batch, model, arrays):
    """Rows of the five losses of a recorded training batch, and of batch A's outputs."""
    from keras import ops

    network = model.keras_model
    outputs = network(batch_inputs(arrays, batch), training=False)
    outputs = [ops.convert_to_numpy(output) for output in outputs]
    for name, loss in zip(network.loss_names, outputs[-5:]):
        yield Row(
            f"train {batch}", name, abs(float(loss) / float(arrays[f"{batch}/{name}"]) - 1), 1e-4
        )
    for position, name in enumerate(("rpn_class_logits", "rpn_bbox")):
        key = f"{batch}/{name}"
        if key in arrays:
            yield Row(f"train {batch}", name, difference(outputs[2 * position], arrays[key]), 1e-3)
    if batch == "A":
        # The RoIs are drawn in another order: each is compared with the recorded one of the same
        # box.
        rois, old = outputs[8], arrays["A/output_rois"]
        worst = collections.defaultdict(float)
        for image in range(len(rois)):
            for i, roi in enumerate(rois[image]):
                j = np.abs(old[image] - roi).max(axis=1).argmin()
                if not roi.any():
                    continue
                for position, name in (
                    (3, "mrcnn_class_logits"),
                    (5, "mrcnn_bbox"),
                    (6, "mrcnn_mask"),
                ):
                    recorded = arrays[f"A/{name}"]
                    gap = np.abs(outputs[position][image, i] - recorded[image, j]).max()
                    worst[name] = max(worst[name], gap / np.abs(recorded).max())
        for name, value in worst.items():
            yield Row("train A", name, float(value), 1e-3)


def counts(model, arrays):
    """Rows of the trainable weights and of the regularisation of each choice of layers."""
    from mrcnn import model as modellib

    for layers, regex in modellib.LAYER_CHOICES.items():
        model.set_trainable(regex, verbose=0)
        trainable = model.keras_model.trainable_weights
        if layers != "all":
            count = [len(trainable), sum(int(np.prod(w.shape)) for w in trainable)]
            recorded = arrays[f"A/trainable_count_{layers}"].tolist()
            yield Row(
                "train A",
                f"trainable tensors and parameters of {layers!r}",
                max(abs(a - b) for a, b in zip(count, recorded)),
                0,
            )
        recorded = float(arrays[f"A/regularization_{layers}"])
        yield Row(
            "train A",
            f"regularization of {layers!r}",
            abs(float(model.keras_model.regularization()) / recorded - 1),
            1e-5,
        )


def gradients(model, arrays):
    """Rows of each loss's gradient norms, and of the whole gradients that are recorded (batch
    A)."""
    import tensorflow as tf

    model.set_trainable(".*", verbose=0)
    network, inputs = model.keras_model, batch_inputs(arrays, "A")
    variables = {
        name: variable for name, variable in variables_of(network).items() if variable.trainable
    }
    names = [str(name).split(":")[0] for name in arrays["A/grad_names"]]
    yield Row(
        "train A",
        "weights with a gradient, other than recorded",
        len(set(names) ^ set(variables)),
        0,
    )
    with tf.GradientTape(persistent=True) as tape:
        outputs = network(inputs, training=False)[-5:]
        total = sum(outputs) + network.regularization()
    taken = [variables[name].value for name in names]
    for row, (loss_name, loss) in enumerate(zip(arrays["A/grad_loss_names"], outputs)):
        found = tape.gradient(loss, taken)
        norms = np.array(
            [0.0 if g is None else float(tf.norm(tf.convert_to_tensor(g))) for g in found]
        )
        expected = arrays["A/grad_norms_per_loss"][row]
        yield Row(
            "train A",
            f"zero gradients of {loss_name}, other than recorded",
            int(np.sum((norms > 1e-12) != (expected > 1e-12))),
            0,
        )
        # To .5% of each norm and of a hundredth of the largest.
        yield Row(
            "train A",
            f"gradient norms of {loss_name}",
            (np.abs(norms - expected) / (expected + 0.01 * expected.max())).max(),
            5e-3,
        )
    found = dict(zip(names, (tf.convert_to_tensor(g).numpy() for g in tape.gradient(total, taken))))
    whole = [key for key in arrays if key.startswith("A/grad/")]
    worst = max(
        (
            difference(found[key.removeprefix("A/grad/").split(":")[0]], arrays[key])
            for key in whole
        ),
        default=0.0,
    )
    yield Row("train A", f"{len(whole)} whole gradients", worst, 0.1)


# Rounding grows with every step through all layers (weights that differ by 1e-6 have gradients that
# differ by up to 9%), so the later steps of "all" are compared more loosely. Median of the way
# measured there: .02 to .06, by CPU.
STEP_BOUNDS = {"heads": [1e-3] * 4, "all": [1e-3, 1e-3, 0.02, 0.05]}


def steps(layers, model, arrays):
    """Rows of four SGD steps of batch A: the losses before each, and how the weights moved in
    three."""
    from mrcnn import model as modellib

    model.set_trainable(modellib.LAYER_CHOICES[layers], verbose=0)
    model.compile(float(arrays[f"A/steps_{layers}_lr"]), 0.9)
    network, inputs = model.keras_model, tuple(batch_inputs(arrays, "A"))
    variables, prefix = variables_of(network), f"A/steps_{layers}_final/"
    finals = {
        key: variables[key.removeprefix(prefix).split(":")[0]]
        for key in arrays
        if key.startswith(prefix)
    }
    before = {key: np.asarray(variable) for key, variable in finals.items()}
    for step, bound in enumerate(STEP_BOUNDS[layers]):
        if step == 3:
            moved = [
                np.abs(np.asarray(variable) - arrays[key]).max()
                / np.abs(arrays[key] - before[key]).max()
                for key, variable in finals.items()
            ]
            yield Row("train A", "weights compared, short of 20", max(0, 20 - len(moved)), 0)
            yield Row(
                "train A",
                f"{len(moved)} weights after 3 steps of {layers!r}, median of their way",
                float(np.median(moved)),
                0.01 if layers == "heads" else 0.1,
            )
            yield Row("train A", "    worst of their way", float(max(moved)), 0.3)
        network.reset_metrics()
        logs = network.train_on_batch(inputs, return_dict=True)
        found = np.array([float(logs[name]) for name in (*network.loss_names, "loss")])
        yield Row(
            "train A",
            f"losses at step {step} of {layers!r}",
            float(np.abs(found / arrays[f"A/steps_{layers}_losses"][step] - 1).max()),
            bound,
        )


# ---- Functions -----------------------------------------------------------------------------------


def functions(recording, skip=()):
    """Rows of the recorded calls, one for each function: the worst relative difference of its
    cases."""
    cases, arrays = oracle.load(recording)
    worst = {}
    for name, case in cases.items():
        if name in skip or "raises" in case:
            continue
        differences = [0.0]
        for key, value in oracle.outputs(case, oracle.run(case, arrays)):
            expected, value = arrays.get(key), np.asarray(value)
            if expected is None or not expected.size or "rows" in case:
                continue
            differences.append(
                float(np.mean(value != expected))
                if expected.dtype == bool
                else difference(value, expected)
            )
        function, bound = (
            case["func"],
            max(1e-3 if "graph" in case else 1e-5, case.get("rtol", 0), 1e-3),
        )
        count, before = worst.get(function, (0, 0.0))[:2]
        worst[function] = (count + 1, max(before, *differences), bound)
    for function, (count, value, bound) in worst.items():
        yield Row(recording, f"{function}, {count} calls", value, bound)


# ---- The table -----------------------------------------------------------------------------------


def all_rows(chosen=()):
    """Every row of the chosen cases, of all without a choice; a row with worst None tells what is
    not here."""
    import test_recorded

    from mrcnn import model as modellib
    from mrcnn.config import Config

    with tempfile.TemporaryDirectory() as folder:
        paths = {}

        def build(mode, values, size="small"):
            if size not in paths:
                paths[size] = os.path.join(folder, f"{size}.h5")
                write_weights(size, paths[size])
            model = modellib.MaskRCNN(mode, Config(**values), folder)
            model.load_weights(paths[size])
            return model

        for case in NETWORKS:
            if chosen and case not in chosen:
                continue
            if find(case) is None:
                yield Row(
                    case, "not here: it is in the shared folder, see tests/oracle.py", None, None
                )
                continue
            size, side, kind = re.fullmatch(r"net_(small|big)(\d*)_(\w+)", case).groups()
            values = {**settings(size, int(side or 128)), **SPECIAL.get(kind, {})}
            yield from network(case, build("inference", values, size), read(case))
        if not chosen or "train" in chosen:
            arrays = read("train")
            for batch, special in BATCHES.items():
                model = build("training", {**settings(), "IMAGES_PER_GPU": 2, **special})
                yield from losses(batch, model, arrays)
                if batch == "A":
                    yield from gradients(model, arrays)
                    yield from counts(model, arrays)
            for layers in STEP_BOUNDS:
                model = build("training", {**settings(), "IMAGES_PER_GPU": 2, **BATCHES["A"]})
                yield from steps(layers, model, arrays)
        if not chosen or "functions" in chosen:
            for recording in ("pure_nophoto", "pure", "graphs"):
                if find(recording) is None:
                    yield Row(
                        recording,
                        "not here: it is in the shared folder, see tests/oracle.py",
                        None,
                        None,
                    )
                elif recording != "pure_nophoto" or find("pure") is None:
                    yield from functions(recording, test_recorded.DEPARTURES)


def within(row):
    """Whether a row holds; what is not here is neither right nor wrong."""
    return row.worst is None or row.worst <= row.bound


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "cases", nargs="*", help=f"of {', '.join(NETWORKS)}, train, functions (default: all)"
    )
    chosen = parser.parse_args(arguments).cases
    unknown = sorted(set(chosen) - {*NETWORKS, "train", "functions"})
    if unknown:
        parser.error(
            f"a case is one of {', '.join(NETWORKS)}, train, functions. Received:"
            f" {', '.join(unknown)}"
        )
    print(f"{'case':18} {'quantity':58} {'worst':>9} {'allowed':>8}")
    failed = count = 0
    for row in all_rows(chosen):
        figures = "" if row.worst is None else f"{row.worst:9.2g} {row.bound:8.2g}"
        print(
            f"{row.case:18} {row.quantity:58} {figures}{'' if within(row) else '  TOO LARGE'}",
            flush=True,
        )
        count, failed = count + (row.worst is not None), failed + (not within(row))
    print(f"{count} comparisons, {failed} beyond what is allowed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
