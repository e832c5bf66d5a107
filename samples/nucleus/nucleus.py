"""Finds the nuclei of cells: the data and the submission file of Kaggle's Data Science Bowl 2018.

    python samples/nucleus/nucleus.py demo
        trains the small network on the images beside this file, evaluates, draws
    python samples/nucleus/nucleus.py train --dataset=bowl --subset=train --weights=imagenet
    python samples/nucleus/nucleus.py train --dataset=bowl --subset=train --weights=last
        go on
    python samples/nucleus/nucleus.py train --dataset=bowl --subset=train --small
        a small network from random weights, for two CPU cores
    python samples/nucleus/nucleus.py evaluate --dataset=bowl --subset=val --weights=last
        the bowl's metric by kind of image, COCO's figures
    python samples/nucleus/nucleus.py detect --dataset=bowl --subset=stage1_test --weights=last
        submit.csv, pictures

--dataset is the bowl's folder with stage1_train/ and stage1_test/; in these each image has a
folder, <id>/images/<id>.png and, to train on, <id>/masks/*.png, one file for each nucleus. Or it is
a folder with COCO's json: instances_<subset>.json, there or in annotations/, and the images in
<subset>/. Say --small to all three commands, or to none; it needs no --weights to train. `demo` is
small by itself; killed and started again it goes on.
"""

from __future__ import annotations

import argparse
import datetime
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT_DIR = str(pathlib.Path(__file__).resolve().parents[2])  # the project's folder
sys.path.insert(0, ROOT_DIR)

from mrcnn import augmentation as aug, coco, commands, files, media, utils  # noqa: E402
from mrcnn.config import Config, SmallConfig  # noqa: E402
from mrcnn.masks import LabelMaps  # noqa: E402

if TYPE_CHECKING:
    from mrcnn.evaluate import Evaluation
    from mrcnn.model import MaskRCNN

COCO_WEIGHTS_PATH = str(commands.COCO_WEIGHTS)
DEFAULT_LOGS_DIR = os.path.join(ROOT_DIR, "logs")
RESULTS_DIR = os.path.join(ROOT_DIR, "results", "nucleus")

# The images of stage1_train that published results were validated on.
VAL_IMAGE_IDS = [
    "0c2550a23b8a0f29a7575de8c61690d3c31bc897dd5ba66caec201d201a278c2",
    "92f31f591929a30e4309ab75185c96ff4314ce0a7ead2ed2c2171897ad1da0c7",
    "1e488c42eb1a54a3e8412b1f12cde530f950f238d71078f2ede6a85a02168e1f",
    "c901794d1a421d52e5734500c0a2a8ca84651fb93b19cec2f411855e70cae339",
    "8e507d58f4c27cd2a82bee79fe27b069befd62a46fdaed20970a95a2ba819c7b",
    "60cb718759bff13f81c4055a7679e81326f78b6a193a2d856546097c949b20ff",
    "da5f98f2b8a64eee735a398de48ed42cd31bf17a6063db46a9e0783ac13cd844",
    "9ebcfaf2322932d464f15b5662cae4d669b2d785b8299556d73fffcae8365d32",
    "1b44d22643830cd4f23c9deadb0bd499fb392fb2cd9526d81547d93077d983df",
    "97126a9791f0c1176e4563ad679a301dac27c59011f579e808bbd6e9f4cd1034",
    "e81c758e1ca177b0942ecad62cf8d321ffc315376135bcbed3df932a6e5b40c0",
    "f29fd9c52e04403cd2c7d43b6fe2479292e53b2f61969d25256d2d2aca7c6a81",
    "0ea221716cf13710214dcd331a61cea48308c3940df1d28cfc7fd817c83714e1",
    "3ab9cab6212fabd723a2c5a1949c2ded19980398b56e6080978e796f45cbbc90",
    "ebc18868864ad075548cc1784f4f9a237bb98335f9645ee727dac8332a3e3716",
    "bb61fc17daf8bdd4e16fdcf50137a8d7762bec486ede9249d92e511fcb693676",
    "e1bcb583985325d0ef5f3ef52957d0371c96d4af767b13e48102bca9d5351a9b",
    "947c0d94c8213ac7aaa41c4efc95d854246550298259cf1bb489654d0e969050",
    "cbca32daaae36a872a11da4eaff65d1068ff3f154eedc9d3fc0c214a4e5d32bd",
    "f4c4db3df4ff0de90f44b027fc2e28c16bf7e5c75ea75b0a9762bbb7ac86e7a3",
    "4193474b2f1c72f735b13633b219d9cabdd43c21d9c2bb4dfc4809f104ba4c06",
    "f73e37957c74f554be132986f38b6f1d75339f636dfe2b681a0cf3f88d2733af",
    "a4c44fc5f5bf213e2be6091ccaed49d8bf039d78f6fbd9c4d7b7428cfcb2eda4",
    "cab4875269f44a701c5e58190a1d2f6fcb577ea79d842522dcab20ccb39b7ad2",
    "8ecdb93582b2d5270457b36651b62776256ade3aaa2d7432ae65c14f07432d49",
]
SMALL_EPOCHS = 48
RARE_REPEAT_FACTOR = 2  # of the small network: stained and bright images are a fifth of all
DATA_DIR = os.path.join(ROOT_DIR, "samples", "nucleus", "data")  # 64 and 24 images of the bowl
DEMO_DIR = "nuclei"
DEMO_EPOCHS = 8
DEMO_STEPS = 25  # of an epoch
SUBSETS = ("train", "val", "stage1_train", "stage1_test", "stage2_test")


class NucleusConfig(Config):
    """Many small objects: images scaled up twice, crops of 512 pixels, anchors from 8 pixels."""

    NAME = "nucleus"
    IMAGES_PER_GPU = 6
    NUM_CLASSES = 1 + 1
    STEPS_PER_EPOCH = (657 - len(VAL_IMAGE_IDS)) // IMAGES_PER_GPU
    VALIDATION_STEPS = max(1, len(VAL_IMAGE_IDS) // IMAGES_PER_GPU)
    # With one class a score below .5 means background anyway.
    DETECTION_MIN_CONFIDENCE = 0
    BACKBONE = "resnet50"
    IMAGE_RESIZE_MODE = "crop"
    IMAGE_MIN_DIM = IMAGE_MAX_DIM = 512
    IMAGE_MIN_SCALE = 2.0
    RPN_ANCHOR_SCALES = (8, 16, 32, 64, 128)
    # Nuclei lie close together: more proposals may overlap, and more of everything is kept.
    RPN_NMS_THRESHOLD = 0.9
    POST_NMS_ROIS_TRAINING = 1000
    POST_NMS_ROIS_INFERENCE = 2000
    RPN_TRAIN_ANCHORS_PER_IMAGE = 64
    TRAIN_ROIS_PER_IMAGE = 128
    MAX_GT_INSTANCES = 200
    DETECTION_MAX_INSTANCES = 400
    # Most images are dark.
    MEAN_PIXEL = np.array([43.53, 39.56, 48.22])
    MINI_MASK_SHAPE = (56, 56)


class NucleusInferenceConfig(NucleusConfig):
    """Whole images, one at a time."""

    GPU_COUNT = 1
    IMAGES_PER_GPU = 1
    IMAGE_RESIZE_MODE = "pad64"
    RPN_NMS_THRESHOLD = 0.7


class NucleusSmallConfig(SmallConfig):
    """A small network, trained from random weights on two CPU cores."""

    NAME = "nucleus"
    NUM_CLASSES = 1 + 1
    # Half of the nuclei cover less than 17 x 17 pixels: a narrow ResNet, finest map at stride 2.
    BACKBONE_WIDTH = 24
    BACKBONE_POOL = False
    BACKBONE_STRIDES = (2, 4, 8, 16, 32)
    TOP_DOWN_PYRAMID_SIZE = 32
    RPN_CHANNELS = 32
    RPN_ANCHOR_SCALES = (6, 12, 24, 48, 96)
    MASK_HEAD_CHANNELS = 32
    ROI_POSITIVE_RATIO = 0.5
    IMAGE_RESIZE_MODE = "crop"
    IMAGE_MIN_DIM = IMAGE_MAX_DIM = 256
    IMAGE_MIN_SCALE = 1.0
    SCALE_JITTER = (0.75, 1.5)
    # The exposure differs from image to image.
    IMAGE_PERCENTILES = (1, 99.8)
    IMAGE_GAMMA = 0.5
    RPN_NMS_THRESHOLD = 0.8
    RPN_TRAIN_ANCHORS_PER_IMAGE = 128
    PRE_NMS_LIMIT = 2000
    POST_NMS_ROIS_TRAINING = 400
    POST_NMS_ROIS_INFERENCE = 1000
    TRAIN_ROIS_PER_IMAGE = 64
    MAX_GT_INSTANCES = 150
    DETECTION_MAX_INSTANCES = 400
    DETECTION_MIN_CONFIDENCE = 0
    # Boxes of neighbours overlap, their masks don't.
    DETECTION_NMS_THRESHOLD = 0.5
    DETECTION_MASK_OVERLAP = 0.6
    MEAN_PIXEL = NucleusConfig.MEAN_PIXEL
    MINI_MASK_SHAPE = (28, 28)
    LEARNING_RATE = 1e-3
    STEPS_PER_EPOCH = 66  # 530 images
    VALIDATION_STEPS = 0


class NucleusSmallInferenceConfig(NucleusSmallConfig):
    """Whole images, one at a time, each in eight views that vote; TEST_FLIP = False for one."""

    IMAGES_PER_GPU = 1
    IMAGE_RESIZE_MODE = "pad64"
    # Of 1, 1.25 and 1.5, all in SCALE_JITTER's range, the best on the validation images.
    IMAGE_MIN_SCALE = 1.25
    RPN_NMS_THRESHOLD = 0.7
    TEST_FLIP = "turns"
    TEST_BOX_VOTE = 0.5
    # A view that takes an object for background, if barely, has a vote too.
    DETECTION_ALL_CLASSES = True
    DETECTION_MIN_CONFIDENCE = 0.5


class NucleusDataset(coco.CocoDataset):
    """The bowl's folders, one for each image with a mask file for each nucleus, or COCO's json.

    Gray and transparent files become RGB.
    """

    def load_nucleus(self, dataset_dir: str | os.PathLike, subset: str) -> None:
        """Adds a subset; call `prepare` afterwards.

        Args:
            dataset_dir: the folder of all subsets.
            subset: a folder of it, "stage1_train", "stage1_test" or "stage2_test"; or "val", those
                of stage1_train in VAL_IMAGE_IDS (every 25th image where none of these is there); or
                "train", the others. With COCO's json any <subset> of instances_<subset>.json.
        """
        json = _coco_json(dataset_dir, subset)
        if json is not None:
            images = os.path.join(dataset_dir, subset)
            if not os.path.isdir(images):
                images = os.fspath(dataset_dir)
            first = len(self.image_info)
            content = self.load_json(json, images, "nucleus", keep_empty=True, return_coco=True)
            self._mix_within_kinds(content, self.image_info[first:])
            return
        if subset not in SUBSETS:
            raise ValueError(f"The subset is one of {', '.join(SUBSETS)}. Received: {subset!r}")
        stage = subset
        if subset in ("train", "val"):
            stage = "stage1_train"
        folder = os.path.join(dataset_dir, stage)
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"No folder {folder} with a folder for each image")
        folders = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
        ids = sorted(name for name in folders if not name.startswith("."))
        if subset in ("train", "val"):
            held_out = set(VAL_IMAGE_IDS).intersection(ids) or set(ids[::25])
            ids = [name for name in ids if (name in held_out) == (subset == "val")]
        if not ids:
            raise ValueError(
                f"Subset {subset!r} needs folders of images, <id>/images/<id>.png. Received: none"
                f" in {folder}"
            )
        self.add_class("nucleus", 1, "nucleus")
        for name in ids:
            path = os.path.join(folder, name, "images", name + ".png")
            self.add_image("nucleus", name, path, **_size_of_masks(path))

    def _mix_within_kinds(self, content: Any, infos: Sequence[dict]) -> None:
        """Gives images of a json with a "kind" that as `mixing_group`: COPY_PASTE and MOSAIC mix
        within it."""
        for info in infos:
            kind = content.imgs[info["id"]].get("kind")
            if kind is None:
                continue
            if not isinstance(kind, str):
                raise ValueError(
                    f"The kind of an image is a text. Received: {kind!r} of image {info['id']} in"
                    f" {info['json']}"
                )
            info["mixing_group"] = kind

    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """masks [H, W, N] bool, class_ids [N] int32 of 1.

        Test images, which have no folder masks/, have no objects.

        Raises:
            ValueError: a file that is no image, or has another size than the first.
        """
        if self._is_of_coco(image_id):
            return super().load_mask(image_id)
        maps, class_ids = self.load_label_maps(image_id)
        return np.asarray(maps), class_ids

    def load_label_maps(self, image_id: int) -> tuple[LabelMaps, np.ndarray]:
        """The same as `load_mask`, in little memory, which training takes."""
        if self._is_of_coco(image_id):
            return super().load_label_maps(image_id)
        image_path = self.image_info[image_id]["path"]
        paths = _mask_paths(image_path)
        if paths:
            key = ("masks", image_path)
            maps = self.cached_read(key, paths, lambda: _read_masks(paths))
        else:
            maps = LabelMaps.of_crops([], self.load_image(image_id).shape)
        return maps, np.ones(len(paths), np.int32)

    def _is_of_coco(self, image_id: int) -> bool:
        """Whether an image is of a json, or of another source than the bowl."""
        info = self.image_info[image_id]
        return info["source"] != "nucleus" or "json" in info

    def image_reference(self, image_id: int) -> str:
        """The id that the bowl gave the image."""
        if self._is_of_coco(image_id):
            return super().image_reference(image_id)
        return self.image_info[image_id]["id"]


def _coco_json(dataset_dir: str | os.PathLike, subset: str) -> str | None:
    """Path of a subset's json in COCO's format, None where there is none."""
    for folder in (dataset_dir, os.path.join(dataset_dir, "annotations")):
        path = os.path.join(folder, f"instances_{subset}.json")
        if os.path.isfile(path):
            return path
    return None


def _mask_paths(image_path: str) -> list[str]:
    """The mask files of an image of the bowl, sorted; none where it has no folder masks/."""
    folder = os.path.join(os.path.dirname(os.path.dirname(image_path)), "masks")
    if not os.path.isdir(folder):
        return []
    names = sorted(name for name in os.listdir(folder) if name.endswith(".png"))
    return [os.path.join(folder, name) for name in names if not name.startswith(".")]


def _size_of_masks(image_path: str) -> dict[str, int]:
    """{"height", "width"} of an image's masks; none without a mask that can be read.

    By these `load_image` leaves a photograph as it is stored where its masks are of the stored
    pixels, though the camera noted that it is to be turned.
    """
    for path in _mask_paths(image_path):
        try:
            height, width = utils.image_sizes(path)[0]
        except (OSError, ValueError):  # said where it is read
            continue
        return {"height": height, "width": width}
    return {}


def _read_masks(paths: Sequence[str]) -> LabelMaps:
    """The masks of files, one object each; only one file at a time is in memory as a whole."""
    crops = []
    shapes = []
    for path in paths:
        mask = _read_mask(path)
        shapes.append(mask.shape)
        if mask.shape != shapes[0]:
            raise ValueError(
                f"The masks of an image have one size, here {shapes[0]}. "
                f"Received: {mask.shape} in {path}"
            )
        y1, x1, y2, x2 = box = utils.extract_bboxes(mask[..., None])[0].tolist()
        crops.append((box, mask[y1:y2, x1:x2].copy()))
    return LabelMaps.of_crops(crops, shapes[0])


def _read_mask(path: str) -> np.ndarray:
    """[H, W] bool: what is not black."""
    try:
        return utils.read_mask(path)
    except (OSError, ValueError, TypeError, SyntaxError) as error:
        raise ValueError(f"The mask {path} can't be read: {error}") from error


# ---- Submission ----------------------------------------------------------------------------------


def rle_encode(mask: np.ndarray) -> str:
    """Run lengths of a mask [H, W] as a text.

    Returns:
        "start length start length ...", columns first, counted from 1.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"A mask is [height, width]. Received: {mask.shape}")
    column = np.concatenate([[False], mask.T.ravel() != 0, [False]])
    starts, ends = np.flatnonzero(np.diff(column.astype(np.int8))).reshape(-1, 2).T
    return " ".join(f"{start + 1} {end - start}" for start, end in zip(starts, ends))


def rle_decode(rle: str, shape: Sequence[int]) -> np.ndarray:
    """The inverse of `rle_encode`: mask [H, W] bool of a shape (H, W)."""
    numbers = [int(text) for text in rle.split()]
    mask = np.zeros(shape[0] * shape[1], bool)
    if len(numbers) % 2:
        raise ValueError(
            f"Run lengths are pairs of start and length. Received: {len(numbers)} numbers"
        )
    for start, length in zip(numbers[::2], numbers[1::2]):
        if start < 1 or length < 1 or start - 1 + length > mask.size:
            raise ValueError(
                f"Runs lie in 1..{mask.size} for the shape {tuple(shape)}. Received: {start}"
                f" {length}"
            )
        mask[start - 1 : start - 1 + length] = True
    return mask.reshape(shape[1], shape[0]).T


def mask_to_rle(image_id: str, mask: np.ndarray, scores: np.ndarray) -> str:
    """The lines of an image in a submission, "id, runs", best first.

    A pixel belongs to one object: where masks overlap, to that of the highest score (of equal
    scores to the first). Objects that have no pixel left have no line; an image without objects has
    one without runs.

    Args:
        image_id: the image's id.
        mask: [H, W, N]; scores: [N].
    """
    mask = np.asarray(mask) != 0
    scores = np.asarray(scores)
    if mask.ndim != 3 or mask.shape[-1] != len(scores):
        raise ValueError(
            f"Masks are [height, width, N] with N scores. Received: {mask.shape} and {len(scores)}"
            " scores"
        )
    taken = np.zeros(mask.shape[:2], bool)
    lines = []
    for i in np.argsort(-scores, kind="stable"):
        free = mask[..., i] & ~taken
        taken |= free
        if free.any():
            lines.append(f"{image_id}, {rle_encode(free)}")
    return "\n".join(lines) or f"{image_id},"


def detect(
    model: MaskRCNN,
    dataset_dir: str | os.PathLike,
    subset: str,
    results: str | os.PathLike = RESULTS_DIR,
) -> str:
    """Writes submit.csv and a picture of each image into a new folder submit_<date>T<time>.

    An image that can't be read is named, and is in submit.csv without an object.

    Args:
        model: `MaskRCNN` in inference mode.
        dataset_dir, subset: see `load_nucleus`.
        results: folder of that folder.

    Returns:
        path of submit.csv, which is complete or absent.

    Raises:
        ValueError: no image can be read.
    """
    return _detect(model, prepared_subset(dataset_dir, subset), results)


def _detect(model: MaskRCNN, dataset: NucleusDataset, results: str | os.PathLike) -> str:
    """`detect` on a dataset."""
    folder = os.path.join(results, f"submit_{datetime.datetime.now():%Y%m%dT%H%M%S}")
    lines = ["ImageId,EncodedPixels"]
    unreadable = 0
    for image_id in dataset.image_ids:
        name = dataset.image_info[image_id]["id"]
        try:
            image = dataset.load_image(image_id)
        except (ValueError, OSError, MemoryError) as error:
            unreadable += 1
            if unreadable == dataset.num_images:
                raise ValueError(f"none of the {unreadable} images can be read: {error}") from error
            print(f"{error}; it gets no object in submit.csv", file=sys.stderr)
            lines.append(f"{name},")
            continue
        result = model.detect([image])[0]
        lines.append(mask_to_rle(name, result["masks"], result["scores"]))
        media.write_image(os.path.join(folder, f"{name}.png"), outlined(image, result["masks"]))
    path = os.path.join(folder, "submit.csv")
    with files.atomic(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    print("Saved to", folder)
    return path


def outlined(image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """A copy of an image [H, W, 3] with a line along the rim of each mask [H, W, N].

    Names would hide small objects.
    """
    from mrcnn import visualize

    picture = image.copy()
    for i, color in enumerate(visualize.random_colors(masks.shape[-1])):
        mask = masks[..., i]
        padded = np.pad(mask, 1)
        above = padded[:-2, 1:-1]
        below = padded[2:, 1:-1]
        left = padded[1:-1, :-2]
        right = padded[1:-1, 2:]
        inner = mask & above & below & left & right
        picture[mask & ~inner] = np.array(color) * 255
    return picture


# ---- Commands ------------------------------------------------------------------------------------


def augmentation() -> aug.SomeOf:
    """At most two of: flips, turns by right angles, brightness, blur."""
    return aug.SomeOf(
        (0, 2),
        [
            aug.Flip(horizontal=0.5),
            aug.Flip(horizontal=0.0, vertical=0.5),
            aug.Turn((90, 180, 270)),
            aug.Brightness(0.8, 1.5),
            aug.Blur(0.0, 5.0),
        ],
    )


def small_augmentation() -> aug.Chain:
    """Flips and turns always, and now and then other exposures, colours, focus and grain.

    The small network sees each image dozens of times. Exposures are made equal first: many images
    have a tenth of the gray levels only.
    """
    return aug.Chain(
        [
            aug.Stretch(*NucleusSmallConfig.IMAGE_PERCENTILES),
            aug.Flip(horizontal=0.5, vertical=0.5),
            aug.Turn(),
            aug.Sometimes(0.5, aug.Gamma(0.7, 1.4)),
            aug.Sometimes(0.3, aug.Channels(gain=(0.8, 1.1), shift=(-8.0, 8.0))),
            aug.Sometimes(0.2, aug.Blur(0.3, 1.5)),
            aug.Sometimes(0.2, aug.Noise(0.0, 3.0)),
        ]
    )


def train(
    model: MaskRCNN,
    dataset_dir: str | os.PathLike,
    subset: str,
    args: argparse.Namespace | None = None,
) -> None:
    """Heads to epoch 20, then all layers to 40, or to --epochs of `args`. Validates on "val".

    The small network trains all layers throughout: its weights are random.
    """
    _train(model, _sets(model.config, dataset_dir, subset), args)


def _sets(
    config: Config, dataset_dir: str | os.PathLike, subset: str
) -> tuple[NucleusDataset, NucleusDataset | None]:
    """The subset to train on, and "val" where the config validates."""
    train_set = prepared_subset(dataset_dir, subset)
    if isinstance(config, SmallConfig):
        repeat_rare_kinds(train_set)
    if not config.VALIDATION_STEPS:
        return train_set, None
    return train_set, prepared_subset(dataset_dir, "val")


def repeat_rare_kinds(dataset: NucleusDataset) -> None:
    """Lets an epoch have each image that is not of fluorescence RARE_REPEAT_FACTOR times."""
    from samples.nucleus import bowl

    for image_id in dataset.image_ids:
        try:
            kind = bowl.kind_of(dataset.load_image(image_id))
        except (OSError, ValueError):  # the check before training names it
            continue
        if kind != "fluorescence":
            dataset.image_info[image_id]["repeat_factor"] = RARE_REPEAT_FACTOR


def _train(
    model: MaskRCNN,
    sets: tuple[NucleusDataset, NucleusDataset | None],
    args: argparse.Namespace | None,
) -> None:
    """`train` on a training and a validation set."""
    train_set, val_set = sets
    stages = [(20, "heads", 1.0), (40, "all", 1.0)]
    changed = augmentation()
    if isinstance(model.config, SmallConfig):
        stages = [(SMALL_EPOCHS, "all", 1.0)]
        changed = small_augmentation()
    commands.train(model, train_set, val_set, stages, args, augmentation=changed)


def evaluate(
    model: MaskRCNN, dataset_dir: str | os.PathLike, subset: str, args: argparse.Namespace
) -> Evaluation:
    """Prints COCO's figures, and by kind of image the bowl's metric and errors; see bowl.json.

    nuclei.png has some images with what was found, beside the truth.
    """
    result, _ = _evaluate(model, prepared_subset(dataset_dir, subset), args)
    return result


def _evaluate(
    model: MaskRCNN, dataset: NucleusDataset, args: argparse.Namespace
) -> tuple[Evaluation, dict[str, dict[str, Any]]]:
    """`evaluate` of a dataset. Returns COCO's and the bowl's figures."""
    from samples.nucleus import bowl, drawing

    result = commands.evaluate(model, dataset, args, report=False)
    figures = bowl.evaluate(result, dataset)
    commands.write_report(model, result, dataset, args, bowl.report_tables(figures))
    path = media.write_json(os.path.join(args.output, "bowl.json"), figures)
    picture = os.path.join(args.output, "nuclei.png")
    examples = bowl.examples(list(bowl.labelled(result, dataset)))
    with files.atomic(picture) as temporary:
        drawing.draw_beside(examples, dataset).savefig(temporary)
    print(f"{path}\n{picture}\n\n{bowl.table(figures)}\n\n{bowl.error_table(figures)}")
    return result, figures


def demo(args: argparse.Namespace) -> None:
    """Trains the small network from random weights, or goes on; evaluates and draws.

    Args:
        args: of `main`: dataset, logs, output, epochs, seed, restart, set, limit.
    """
    from samples.nucleus import bowl

    train_set = prepared_subset(args.dataset, "train")
    val_set = prepared_subset(args.dataset, "val")
    config = NucleusSmallConfig(SEED=args.seed, STEPS_PER_EPOCH=DEMO_STEPS)
    config = commands.configure(config, args)
    seconds = commands.train_on(config, lambda: train_set, val_set, args, small_augmentation())
    args.weights = "last"
    used = commands.configure(NucleusSmallInferenceConfig(), args)
    model = commands.load_model("inference", commands.inference_config(used), args)
    _, figures = _evaluate(model, val_set, args)
    print(f"\n{bowl.headline(figures)}, trained in {seconds:.0f} s")


def prepared_subset(dataset_dir: str | os.PathLike, subset: str) -> NucleusDataset:
    """A `NucleusDataset` with one subset, ready for use.

    Args:
        dataset_dir, subset: see `NucleusDataset.load_nucleus`.
    """
    dataset = NucleusDataset()
    dataset.load_nucleus(dataset_dir, subset)
    dataset.prepare()
    return dataset


def _with_random_weights(arguments: Sequence[str] | None) -> list[str]:
    """The command line, with --weights=none where the small network is to be trained."""
    if arguments is None:
        arguments = sys.argv[1:]
    given = any(argument.startswith(("--weights", "--model")) for argument in arguments)
    if "train" in arguments and "--small" in arguments and not given:
        return [*arguments, "--weights=none"]
    return list(arguments)


def _parser(is_demo: bool) -> argparse.ArgumentParser:
    """The parser of all commands; the defaults of `demo` are its own."""
    names = ("demo", "train", "evaluate", "detect", "batch")
    made = commands.parser(__doc__, names, DEFAULT_LOGS_DIR, inputs=None)
    made.add_argument(
        "--subset",
        help=f"one of {', '.join(SUBSETS)}, or what an instances_<subset>.json is named for",
    )
    made.add_argument(
        "--small", action="store_true", help="a network for two CPU cores, from random weights"
    )
    commands.add_run_options(made)
    made.set_defaults(output=RESULTS_DIR)
    if is_demo:
        made.set_defaults(
            output=DEMO_DIR,
            logs=os.path.join(DEMO_DIR, "logs"),
            dataset=DATA_DIR,
            epochs=DEMO_EPOCHS,
            weights="last",
        )
    return made


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the program with a usage message where options don't fit the command."""
    if args.command == "demo":
        if args.subset:
            parser.error("demo trains on the subset train and evaluates on val; it has no --subset")
        return
    if args.command == "batch":
        return
    if args.restart:
        parser.error("--restart is of demo; a training with --weights=none is a new run")
    if args.seed:
        parser.error(f"--seed is of demo; {args.command} has --set SEED={args.seed}")
    if not args.subset:
        parser.error(f"{args.command} needs --subset")
    if args.subset not in SUBSETS and _coco_json(args.dataset or "", args.subset) is None:
        parser.error(
            f"argument --subset: invalid choice: {args.subset!r} (choose from {', '.join(SUBSETS)},"
            " or what an instances_<subset>.json of the folder is named for)"
        )
    if not args.dataset:
        parser.error(f"{args.command} needs --dataset")


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = _with_random_weights(arguments)
    parser = _parser(is_demo="demo" in arguments)
    args = commands.parse(parser, arguments)
    _check(parser, args)
    commands.check_paths(args)
    trained, used = NucleusConfig, NucleusInferenceConfig
    if args.small or args.command == "demo":
        commands.prefer_onednn()
        trained, used = NucleusSmallConfig, NucleusSmallInferenceConfig
    if args.command == "demo":
        demo(args)
        return
    if args.command == "train":
        config = commands.configure(trained(), args)
        sets = _sets(config, args.dataset, args.subset)
        _train(commands.load_model("training", config, args), sets, args)
        return
    config = commands.configure(used(), args)
    if args.command == "batch":
        commands.batch(config, ["BG", "nucleus"], args)
        return
    dataset = prepared_subset(args.dataset, args.subset)  # what is wrong with it is said before
    model = commands.load_model("inference", config, args)
    if args.command == "evaluate":
        _evaluate(model, dataset, args)
    else:
        _detect(model, dataset, args.output)


if __name__ == "__main__":
    commands.run(main)
