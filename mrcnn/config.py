"""The settings of a model: subclass `Config`, override what differs, pass it to `MaskRCNN`.

    class NucleusConfig(Config):
        NAME = "nucleus"
        NUM_CLASSES = 1 + 1        # background and nucleus
        IMAGES_PER_GPU = 6

    config = NucleusConfig(LEARNING_RATE=0.002)      # or for this instance alone

Each setting below has its default, with its unit and its reason in a comment. The names and
defaults are those of matterport's package, unless the comment says "not in matterport". `validate`
checks the settings against each other; `MaskRCNN` calls it when a model is built.
"""

import argparse
import contextlib
import copy
import difflib
import inspect
import math
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mrcnn import files

RESIZE_MODES = ("none", "square", "pad64", "crop", "shorter")
BODIES = ("fpn", "c4")
BACKBONES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
)
NORMS = (None, "batch", "frozen", "group")
LOSS_NAMES = (
    "rpn_class_loss",
    "rpn_bbox_loss",
    "mrcnn_class_loss",
    "mrcnn_bbox_loss",
    "mrcnn_mask_loss",
)
KEYPOINT_LOSS = "mrcnn_keypoint_loss"
OPTIMIZERS = ("sgd", "adam", "adamw")
BOX_FRAMES = ("centers", "edges")
ROI_POOLINGS = ("crop_and_resize", "align", "pool")
SCHEDULES = ("constant", "cosine", "step")
WEIGHT_DECAYS = ("mean", "sum")
BBOX_LOSSES = ("smooth_l1", "giou")
TEST_FLIPS = (False, True, "both", "turns")


class Config:
    """Settings of one model. Keyword arguments override settings of this instance.

    A subclass may assign settings in an `__init__` of its own, before or after
    `super().__init__()`.

    Raises:
        TypeError: a keyword argument is not a setting (a similar name is suggested).
    Warns:
        UserWarning: an attribute of a subclass is not a setting, but has a similar name (other
            attributes are the user's own and are left alone); a BATCH_SIZE, IMAGE_SHAPE or
            IMAGE_META_SIZE that a class body, or an `__init__` before `super().__init__()`, sets to
            another value than follows from the settings: as in matterport's package, it is
            computed.
    """

    # ---- The run -------------------------------------------------------------------------------
    # Name of the experiment; part of the names of the log folder and the checkpoints.
    NAME: str | None = None

    # Number of devices that share a batch, and of images on each. The batch size is GPU_COUNT *
    # IMAGES_PER_GPU.
    GPU_COUNT = 1
    IMAGES_PER_GPU = 2

    # Training steps in an epoch; independent of the size of the dataset. An epoch ends with a
    # checkpoint, so small numbers mean frequent checkpoints. A quotient such as 115 / 2 is rounded
    # up, as in Keras 2; so is VALIDATION_STEPS.
    STEPS_PER_EPOCH = 1000

    # Validation batches at the end of an epoch. More make the losses more exact, but take longer.
    VALIDATION_STEPS = 50

    # Threads that load and augment images ahead of training (not in matterport). 0: none.
    WORKERS = 2

    # How many images are read and checked before training, spread over the dataset; None for all, 0
    # for none (not in matterport).
    CHECK_IMAGES: int | None = None

    # Kernels of TensorFlow or PyTorch for NMS and RoI pooling: None to use them where the backend
    # has them, False for the portable ones, which XLA needs (not in matterport).
    FUSED_KERNELS: bool | None = None

    # Compile the training step and detection by XLA, once for each batch shape: None only where the
    # backend needs it, which is JAX; True under TensorFlow as well, on one device, with the
    # portable kernels. Results are equal to 1e-4 (not in matterport).
    JIT_COMPILE: bool | None = None

    # Seed of the order of images, of augmentation and of new weights (not in matterport).
    # None: every run differs.
    SEED: int | None = None

    # A killed run loses at most this many seconds of training when it is resumed, or four times as
    # many as writing its state takes, if those are more (not in matterport).
    RESUME_SECONDS = 30

    # ---- Body: ResNet and FPN --------------------------------------------------------------------
    # "fpn": the pyramid P2..P6; or "c4": one map at stride 16, with the ResNet's fifth stage as the
    # head of each RoI (not in matterport; paper, section 3 and table 2a: mask AP 30.3 with R50-C4,
    # 33.6 with R50-FPN). With "c4" BACKBONE_STRIDES is [16], MASK_SHAPE [14, 14], RPN_ANCHOR_SCALES
    # [(32, 64, 128, 256, 512)].
    BODY = "fpn"

    # A name from `config.BACKBONES` or a function f(image, stage5=, train_bn=) that returns the
    # five maps C1..C5; a function also needs COMPUTE_BACKBONE_SHAPE.
    BACKBONE: str | Callable = "resnet101"

    # Channels of the ResNet's first stage; the later ones have 2, 4 and 8 times as many, and the
    # outputs of bottlenecks 4 times those (not in matterport). 64 in the paper; fewer for small
    # data or a CPU.
    BACKBONE_WIDTH = 64

    # Max pooling before the first stage, as in the paper. False, for objects of few pixels: all
    # maps have half the stride, and BACKBONE_STRIDES is [2, 4, 8, 16, 32] (not in matterport).
    BACKBONE_POOL = True

    # f(image_shape) -> [5, (height, width)] of P2..P6; only for a callable BACKBONE.
    COMPUTE_BACKBONE_SHAPE: Callable | None = None

    # True: a bottleneck's stride is that of its first 1x1 convolution, as in the ResNet paper and
    # matterport's files; False: of its 3x3 convolution, as in torchvision's files and in ResNeXt
    # (not in matterport).
    STRIDE_IN_1X1 = True

    # Padding of 3x3 windows with stride 2: "same", TensorFlow's, which pads more at the lower
    # right; or "symmetric", one pixel on each side, as in Caffe and PyTorch (not in matterport).
    BACKBONE_PADDING = "same"

    # Norm after the convolutions of the backbone and of the FPN (not in matterport): "batch", batch
    # norm, see TRAIN_BN; "frozen", batch norm whose gamma and beta are fixed too, as in the paper;
    # "group", group norm of 32 groups (Wu & He 2018); None, no norm.
    BACKBONE_NORM: str | None = "batch"
    FPN_NORM: str | None = None

    # Convolutions have a bias even before a norm, where it is redundant: matterport's weight files
    # have these biases, others don't (not in matterport).
    CONV_BIAS = True

    # Strides of P2..P6 in pixels of the input.
    BACKBONE_STRIDES: Sequence[int] = [4, 8, 16, 32, 64]

    # Channels of each map of the pyramid.
    TOP_DOWN_PYRAMID_SIZE = 256

    # Mode of batch norm: None trains it; False keeps its statistics fixed (for the small batches of
    # detection with pre-trained weights); True uses training mode even in inference.
    TRAIN_BN: bool | None = False

    # Added to the variance by batch norm (not in matterport). 1e-5 in PyTorch; 0 in torchvision's
    # released COCO_V1.
    BATCH_NORM_EPSILON = 1e-3

    # Weight of the old statistics in batch norm's moving averages (not in matterport).
    BATCH_NORM_MOMENTUM = 0.99

    # ---- Input -----------------------------------------------------------------------------------
    # How images are resized:
    #   none     not at all; sides must be divisible by 64
    #   square   scaled to IMAGE_MIN_DIM, at most IMAGE_MAX_DIM, padded to a square of that side;
    #            where IMAGE_MIN_DIM is larger, the longer edge of every image becomes IMAGE_MAX_DIM
    #   pad64    scaled to IMAGE_MIN_DIM, padded to multiples of 64
    #   crop     scaled to IMAGE_MIN_DIM, then a random square of that side; training only
    #   shorter  the paper's: the shorter edge becomes IMAGE_MIN_DIM unless the longer one would
    #            exceed IMAGE_MAX_DIM, padded to multiples of 32 (not in matterport)
    IMAGE_RESIZE_MODE = "square"
    IMAGE_MIN_DIM = 800
    IMAGE_MAX_DIM = 1024

    # Scale jitter: training draws the shorter edge of each image from these, in pixels, in place of
    # IMAGE_MIN_DIM (paper, appendix B: 640 to 800); () for none (not in matterport).
    IMAGE_MIN_DIM_CHOICES: Sequence[int] = ()

    # Probability that a training image is mirrored, .5 in the paper, in addition to `augmentation`
    # (not in matterport).
    HORIZONTAL_FLIP = 0.0

    # Large-scale jitter: training multiplies the scale of each image by a uniform random factor in
    # (low, high), such as (.1, 2) (Simple Copy-Paste, arXiv 2012.07177), then crops or pads it, at
    # a random position, to the size that it would have without jitter; () for none (not in
    # matterport).
    SCALE_JITTER: Sequence[float] = ()

    # Probability that objects of another image, with their masks, are pasted onto a training image
    # (arXiv 2012.07177); and that it is a mosaic of crops of four images. The other images are from
    # a source that labels the same classes, and of the same `mixing_group` where `add_image` was
    # given one (tissue of one stain, say); they have scale jitter and flips of their own
    # (mrcnn/augmentation.py; not in matterport).
    COPY_PASTE = 0.0
    MOSAIC = 0.0

    # Images are scaled by at least this factor, even beyond IMAGE_MIN_DIM; 0 for no bound.
    IMAGE_MIN_SCALE = 0

    # 3 for RGB, 1 for gray, 4 for RGB-D and so on; MEAN_PIXEL needs as many values. Pre-trained
    # first layers fit 3 channels only. With 1, gray files that are read as RGB are accepted, too.
    IMAGE_CHANNEL_COUNT = 3

    # Subtracted from every pixel, in RGB order. It also determines the range of values that the
    # network takes: with means of 0..255, as here, gray and colour images in another range
    # (fractions of 0..1, bool, 10 to 16 bits) are converted to 0..255 in training and detection, by
    # the rule of `mrcnn.utils.value_range`; with other means images are taken as they are.
    MEAN_PIXEL = np.array([123.7, 116.8, 103.9])

    # (low, high): the contrast of each image is stretched so that these percentiles of its values
    # become 0 and 255, and values beyond them are clipped; for microscopy and other images without
    # a fixed exposure, such as (1, 99.8). () leaves images as they are (not in matterport).
    IMAGE_PERCENTILES: Sequence[float] = ()

    # Gamma correction: the stretched values, as fractions of 255, are raised to this power. Below 1
    # it makes dim objects visible beside bright ones; .5, the square root, suits photon noise (not
    # in matterport). Needs IMAGE_PERCENTILES.
    IMAGE_GAMMA = 1.0

    # Pixels are then divided by these, one value for all channels or one for each (not in
    # matterport).
    STD_PIXEL = np.array([1.0])

    # False: images are resized in their own dtype, with values truncated, zeros outside the image
    # and sides rounded, and padded with black. True: means are subtracted and pixels divided first;
    # then images are resized in floating point with repeated edges and sides rounded down, and
    # padded with 0, which is the mean (not in matterport; as in torchvision).
    FLOAT_RESIZE = False

    # The meaning of 0 and 1 in normalised boxes (not in matterport): "centers", the centres of the
    # outermost pixels, so that y2, x2 are shifted by one pixel and divided by h - 1, w - 1; or
    # "edges", the edges of the image, as in the paper's code and torchvision.
    BOX_FRAME = "centers"

    # ---- Classes and objects -------------------------------------------------------------------
    # Classes, including the background.
    NUM_CLASSES = 1

    # False leaves out the mask branch: Faster R-CNN, boxes alone (not in matterport).
    USE_MASK = True

    # The most objects of an image that training uses; of more, a random choice.
    MAX_GT_INSTANCES = 100

    # Train on masks cropped to their box and resized to MINI_MASK_SHAPE (height, width): saves most
    # of the memory, loses some detail of large objects.
    USE_MINI_MASK = True
    MINI_MASK_SHAPE = (56, 56)

    # ---- Region proposal network -----------------------------------------------------------------
    # Sides of the square anchors in pixels, one for each level from P2 on, or a tuple of several;
    # anchors have the same area at each of the RPN_ANCHOR_RATIOS (width / height).
    RPN_ANCHOR_SCALES: Sequence = (32, 64, 128, 256, 512)
    RPN_ANCHOR_RATIOS: Sequence[float] = [0.5, 1, 2]

    # 1: anchors at every cell of a map; 2: at every other cell.
    RPN_ANCHOR_STRIDE = 1

    # True: half sides of anchors are rounded to whole pixels, and strides are the integer quotients
    # of image and map sizes, as in torchvision (not in matterport).
    RPN_ANCHOR_ROUNDING = False

    # Width and number of the RPN's shared 3x3 convolutions (not in matterport, where they are 512
    # and 1).
    RPN_CHANNELS = 512
    RPN_CONVS = 1

    # "softmax" over two logits, or "sigmoid" of one, as in the paper's code (not in matterport).
    RPN_SCORE = "softmax"

    # Sampled anchors of an image, which have a loss; at most half of them are positive.
    RPN_TRAIN_ANCHORS_PER_IMAGE = 256

    # An anchor is positive if its IoU with an object is at least RPN_POSITIVE_IOU, or the highest
    # that this object has; it is negative below RPN_NEGATIVE_IOU. Others have no loss (Faster
    # R-CNN, section 3.1.2; constants in matterport).
    RPN_POSITIVE_IOU = 0.7
    RPN_NEGATIVE_IOU = 0.3

    # Proposals: the best PRE_NMS_LIMIT anchors, then non-maximum suppression at the IoU
    # RPN_NMS_THRESHOLD, then the best POST_NMS_ROIS of the rest. A higher threshold keeps more
    # proposals.
    PRE_NMS_LIMIT = 6000
    RPN_NMS_THRESHOLD = 0.7
    POST_NMS_ROIS_TRAINING = 2000
    POST_NMS_ROIS_INFERENCE = 1000

    # PRE_NMS_LIMIT in training, None for the same. PRE_NMS_PER_LEVEL: the limit applies to each
    # level, not to all together. RPN_NMS_PER_LEVEL: only proposals of the same level suppress each
    # other (needs PRE_NMS_PER_LEVEL). Both as in the paper's code: 2000 in training, 1000 otherwise
    # (not in matterport).
    PRE_NMS_LIMIT_TRAINING: int | None = None
    PRE_NMS_PER_LEVEL = False
    RPN_NMS_PER_LEVEL = False

    # Proposals with a side below this, in pixels, are removed (not in matterport).
    RPN_MIN_SIZE = 0.0

    # Proposals are clipped to the image without its padding (not in matterport).
    RPN_CLIP_TO_WINDOW = False

    # Box deltas (dy, dx, log dh, log dw) are divided by these, in the RPN and in the box head.
    RPN_BBOX_STD_DEV = np.array([0.1, 0.1, 0.2, 0.2])
    BBOX_STD_DEV = np.array([0.1, 0.1, 0.2, 0.2])

    # Log sizes are clipped to this before exp, which could overflow otherwise; None: no bound
    # (not in matterport).
    BBOX_LOG_SIZE_LIMIT: float | None = math.log(1000 / 16)

    # ---- Heads -----------------------------------------------------------------------------------
    # Number of RoIs of an image that train the heads, and the fraction of positive ones. .33 is two
    # negatives to a positive; .25 is the paper's 1:3.
    TRAIN_ROIS_PER_IMAGE = 200
    ROI_POSITIVE_RATIO = 0.33

    # A RoI is positive if its IoU with an object is at least this, otherwise negative (paper,
    # section 3.1; a constant in matterport).
    ROI_POSITIVE_IOU = 0.5

    # A RoI or an anchor with at least this IoU with a crowd is not negative, since the crowd may
    # have objects there (a constant in matterport).
    CROWD_IOU = 0.001

    # True: negatives fill all rows without positives, as in Fast R-CNN; False: they keep the ratio
    # to the actual positives, and the rest is padding. ROI_ADD_GT: the objects' own boxes are
    # proposals too, as in the paper's code (both not in matterport).
    ROI_FILL_NEGATIVES = False
    ROI_ADD_GT = False

    # False: the RoIs of the heads are an input (`input_roi`), not the RPN's proposals.
    USE_RPN_ROIS = True

    # True: padding rows among the RoIs of an image count as background in the class loss, as in
    # matterport's package; False: they are left out (not in matterport).
    CLASS_LOSS_ON_PADDING = True

    # How RoIs are pooled from the maps (not in matterport; paper, section 3 and table 2c: mask AP
    # 26.9 with RoIPool, 30.2 with RoIAlign and max, 30.3 with RoIAlign and average):
    #   crop_and_resize  one bilinear sample for each cell, the first and last on the RoI's edges
    #   align            RoIAlign: ROI_ALIGN_SAMPLES^2 bilinear samples inside each cell
    #   pool             RoIPool (Fast R-CNN): the maximum of each cell, with RoI and cells rounded
    #                    to whole cells of the map
    ROI_POOLING = "crop_and_resize"

    # Samples of RoIAlign along each side of a cell, 2 for the paper's four; 0: as many as the cell
    # has pixels of the map (slow). Their "average" or "max". ALIGNED False: all samples lie half a
    # pixel of the map too far to the lower right, and RoIs are at least a pixel wide, as in the
    # first implementations and torchvision.
    ROI_ALIGN_SAMPLES = 2
    ROI_ALIGN_REDUCE = "average"
    ROI_ALIGN_ALIGNED = True

    # The level of an RoI of side s, 4 + log2(s / 224): "round" to the nearest, or "floor" as in the
    # FPN paper (not in matterport).
    ROI_LEVEL = "round"

    # Side of the pooled RoIs in cells: POOL_SIZE for class and box, MASK_POOL_SIZE for masks.
    POOL_SIZE = 7
    MASK_POOL_SIZE = 14

    # (height, width) of a predicted mask, twice MASK_POOL_SIZE: [28, 28], or [56, 56] with 28.
    MASK_SHAPE: Sequence[int] = [28, 28]

    # Width of the fully connected layers of the box head, and their number (2 in matterport).
    FPN_CLASSIF_FC_LAYERS_SIZE = 1024
    BOX_HEAD_FCS = 2

    # Number of 3x3 convolutions before them, their width and norm, and the norm of the fully
    # connected layers: 0 and None in the paper; 4 with one fully connected layer in the GroupNorm
    # paper (not in matterport, where there are no convolutions, and batch norm after the fully
    # connected layers). For norms see BACKBONE_NORM.
    BOX_HEAD_CONVS = 0
    BOX_HEAD_CHANNELS = 256
    BOX_HEAD_CONV_NORM: str | None = None
    BOX_HEAD_NORM: str | None = "batch"

    # With BODY "c4": the stride of the head's first block. 1 with POOL_SIZE = MASK_POOL_SIZE = 7 as
    # in the paper's figure 4, or 2 with 14 as in its code (not in matterport).
    C4_HEAD_STRIDE = 1

    # One box, or one mask, for all classes instead of one for each (not in matterport; paper,
    # section 4.1 and table 2: mask AP 29.7 class-agnostic, 30.3 class-specific, R50-C4).
    CLASS_AGNOSTIC_BOXES = False
    CLASS_AGNOSTIC_MASKS = False

    # "sigmoid": the masks of the classes are independent, with the binary loss; "softmax": classes
    # and background compete for a pixel, with the multinomial loss (not in matterport; paper, table
    # 2b: mask AP 30.3 against 24.8, R50-C4).
    MASK_ACTIVATION = "sigmoid"

    # "fcn": MASK_HEAD_CONVS 3x3 convolutions and a transposed one; or "mlp": two fully connected
    # layers of MASK_MLP_SIZE and one that predicts all pixels (not in matterport; paper, table 2e:
    # mask AP 33.6 against 31.5, R50-FPN).
    MASK_HEAD = "fcn"
    MASK_HEAD_CONVS = 4
    MASK_MLP_SIZE = 1024

    # Norm of the mask head's 3x3 convolutions, see BACKBONE_NORM; None in the paper (not in
    # matterport).
    MASK_HEAD_NORM: str | None = "batch"

    # Training runs the mask head on the rows that can be positive, not on all RoIs; only those have
    # a loss. None: where batch norm is fixed (TRAIN_BN = False), so that the losses are the same;
    # True: also with trained batch norm, whose statistics are then those of the positive rows (not
    # in matterport).
    MASK_HEAD_ON_POSITIVES: bool | None = None

    # Width of the mask head's 3x3 convolutions and its transposed one (not in matterport).
    MASK_HEAD_CHANNELS = 256

    # ---- Keypoints (not in matterport) -----------------------------------------------------------
    # True adds the keypoint branch (paper, section 5): the dataset then has `load_keypoints`.
    USE_KEYPOINTS = False

    # Number of keypoints of an object, 17 for COCO's persons; and the pairs of left and right ones,
    # which mirroring swaps.
    NUM_KEYPOINTS = 17
    KEYPOINT_FLIP_PAIRS: Sequence = (
        (1, 2),
        (3, 4),
        (5, 6),
        (7, 8),
        (9, 10),
        (11, 12),
        (13, 14),
        (15, 16),
    )

    # Side of the pooled RoIs in cells (predicted maps are four times as large: 56 x 56), number of
    # the 3x3 convolutions and their width.
    KEYPOINT_POOL_SIZE = 14
    KEYPOINT_HEAD_CONVS = 8
    KEYPOINT_HEAD_CHANNELS = 512

    # ---- Detection -------------------------------------------------------------------------------
    # The most detections of an image; the least score; and the IoU above which the better one of
    # two detections of one class suppresses the other.
    DETECTION_MAX_INSTANCES = 100
    DETECTION_MIN_CONFIDENCE = 0.7
    DETECTION_NMS_THRESHOLD = 0.3

    # Fraction of an object's mask that better objects of its class may cover; one that is covered
    # more is a duplicate and removed. Boxes of oblique neighbours overlap even if their
    # masks don't: with .5 here, DETECTION_NMS_THRESHOLD can be higher. 1 for no bound (not in
    # matterport).
    DETECTION_MASK_OVERLAP = 1.0

    # True: a RoI yields a detection for each class with a sufficient score, as in the paper's code;
    # False: for its best class alone (not in matterport).
    DETECTION_ALL_CLASSES = False

    # Detections with a side below this, in pixels of the molded image, are removed (not in
    # matterport).
    DETECTION_MIN_SIZE = 0.0

    # True: `detect` returns boxes rounded to whole pixels (int32); False: exact ones (float32; not
    # in matterport).
    ROUND_DETECTIONS = True

    # How masks are pasted into the image (not in matterport): "box", resized to the box, 0 outside;
    # "padded", with a border of one pixel of 0, to a box that is larger by this border, as in the
    # paper's code and torchvision.
    MASK_PASTE = "box"

    # Test-time augmentation (paper, appendix B; not in matterport): `detect` runs on several views
    # of each image, with these shorter edges and flips; their boxes are merged, masks and keypoint
    # maps averaged (mrcnn/tta.py). () for IMAGE_MIN_DIM alone. IMAGE_MAX_DIM grows in proportion.
    # TEST_FLIP True: also mirrored left to right; "both": also upside down and both, 4 views;
    # "turns": also rotated by right angles, 8 views, for images without an up direction, as from a
    # microscope or a satellite.
    TEST_SCALES: Sequence[int] = ()
    TEST_FLIP: bool | str = False

    # Box voting over these views: each remaining box becomes the mean of the views' own best boxes
    # with at least this IoU with it, weighted by their scores, and its score the mean over all
    # views, with 0 for a view without such a box. Boxes of a view vote from half of
    # DETECTION_MIN_CONFIDENCE on. None: the box and the score of the view with the highest score,
    # as in the paper's code (not in matterport).
    TEST_BOX_VOTE: float | None = None

    # ---- Training --------------------------------------------------------------------------------
    # The paper's rate is .02 with batches of 16 images; with smaller ones it makes the weights
    # diverge.
    LEARNING_RATE = 0.001
    LEARNING_MOMENTUM = 0.9

    # One of `config.OPTIMIZERS`, or a function f(learning_rate) -> keras optimizer, without
    # clipping of its own (not in matterport, where it is "sgd").
    OPTIMIZER: str | Callable = "sgd"

    # The learning rate over the run: "constant"; "cosine", which reaches zero at the last step; or
    # "step", multiplied by LEARNING_RATE_FACTOR at each of LEARNING_RATE_STEPS, counted from the
    # beginning of `train`. All begin with WARMUP_STEPS of linear warm-up from a thousandth of the
    # rate (not in matterport). The paper's schedule, at 16 images a step: 160,000 steps with a drop
    # at 120,000; 1,000 steps of warm-up in its code.
    LEARNING_RATE_SCHEDULE = "constant"
    LEARNING_RATE_STEPS: Sequence[int] = ()
    LEARNING_RATE_FACTOR = 0.1
    WARMUP_STEPS = 0

    # L2 on every weight but those of norms. With "adamw" it is the optimizer's decoupled weight
    # decay instead, without biases.
    WEIGHT_DECAY = 0.0001

    # "mean", matterport's: WEIGHT_DECAY times the mean square of each weight array, which has
    # almost no effect; or "sum": half of WEIGHT_DECAY times the sum of squares, the weight decay of
    # SGD elsewhere and in the paper (not in matterport).
    WEIGHT_DECAY_KIND = "mean"

    # False: no weight decay of biases (not in matterport).
    WEIGHT_DECAY_ON_BIASES = True

    # Momentum of an exponential moving average of the weights: the weight of the old average in a
    # step, such as .999. The averages are then validated, saved and left in the model; None or 0:
    # no averages (not in matterport).
    EMA_MOMENTUM: float | None = None

    # Weights of the losses in their sum; 1 for a loss that is missing, such as
    # "mrcnn_keypoint_loss".
    LOSS_WEIGHTS = dict.fromkeys(LOSS_NAMES, 1.0)

    # Loss of the boxes of the box head and of the RPN (not in matterport): "smooth_l1" of the
    # deltas, divided by their ..._STD_DEV, mean of the four; or "giou", 1 - generalised IoU of the
    # decoded box and the object's, from 0 to 2 (Rezatofighi et al. 2019, arXiv 1902.09630). Both
    # are means over the positives; LOSS_WEIGHTS balances them.
    BBOX_LOSS = "smooth_l1"
    RPN_BBOX_LOSS = "smooth_l1"

    # Bound on the global norm of the gradients; None or 0: no bound.
    GRADIENT_CLIP_NORM: float | None = 5.0

    def __new__(cls, *arguments: Any, **settings: Any) -> "Config":
        """Makes an instance with copies of the mutable values, before any `__init__` edits one.

        Edits of an instance then never change the class.
        """
        config = super().__new__(cls)
        for name in setting_names() - set(_DERIVED):
            value = getattr(cls, name)
            if isinstance(value, (list, dict, np.ndarray)):
                setattr(config, name, copy.deepcopy(value))
            # A function in a class body would become a method of the instance.
            elif name in _FUNCTIONS and _is_plain_function(inspect.getattr_static(cls, name)):
                setattr(config, name, value)
        for name in _DERIVED:
            written = inspect.getattr_static(cls, name)
            if not isinstance(written, property):
                setattr(cls, name, _WrittenOver(_COMPUTED[name], written))
        return config

    def __init__(self, **settings: Any):
        known = setting_names()
        for name, value in settings.items():
            if name not in known and not hasattr(type(self), name):
                raise TypeError(
                    f"{type(self).__name__} has no setting {name}{_suggest(name, known, 0.6)}"
                    f" (Received: {name}={value!r})"
                )
        warn_of_misspelt(type(self).__name__, dir(type(self)), stacklevel=2)
        written = {name: self.__dict__.pop(f"_{name}", None) for name in sorted(_DERIVED)}
        for name, value in settings.items():
            setattr(self, name, value)
        for name, value in written.items():
            if value is None:
                value = getattr(inspect.getattr_static(self, name), "written", None)
            if name not in settings:
                self._warn_of_derived(name, value)

    def _warn_of_derived(self, name: str, written: Any) -> None:
        """Warns that a computed value was set to another value by hand."""
        if written is None or np.array_equal(written, getattr(self, name)):
            return
        warnings.warn(
            f"{type(self).__name__}.{name} = {written!r} is not used: it is {_DERIVED[name]}, here"
            f" {getattr(self, name)}. Change those, or assign to {name} after Config.__init__",
            stacklevel=3,
        )

    def takes_fused_kernels(self) -> bool | None:
        """FUSED_KERNELS for the layers: False with JIT_COMPILE, since XLA can't compile them."""
        if self.JIT_COMPILE:
            return False
        return self.FUSED_KERNELS

    # ---- Derived values: they follow the settings until they are assigned to -------------------
    @property
    def BATCH_SIZE(self) -> int:
        """Images in a batch over all devices."""
        if "_BATCH_SIZE" in self.__dict__:
            return self._BATCH_SIZE
        with self._naming("IMAGES_PER_GPU", "GPU_COUNT"):
            return self.IMAGES_PER_GPU * self.GPU_COUNT

    @BATCH_SIZE.setter
    def BATCH_SIZE(self, value: int) -> None:
        self._BATCH_SIZE = value

    @property
    def IMAGE_SHAPE(self) -> Any:
        """[height, width, channels] of the input, int array; an upper bound if sizes vary."""
        if "_IMAGE_SHAPE" in self.__dict__:
            return self._IMAGE_SHAPE
        with self._naming(
            "IMAGE_MIN_DIM", "IMAGE_MAX_DIM", "IMAGE_CHANNEL_COUNT", "IMAGE_RESIZE_MODE"
        ):
            side = self.IMAGE_MAX_DIM
            if self.IMAGE_RESIZE_MODE == "crop":
                side = self.IMAGE_MIN_DIM
            return np.array([side, side, self.IMAGE_CHANNEL_COUNT])

    @IMAGE_SHAPE.setter
    def IMAGE_SHAPE(self, value: Any) -> None:
        self._IMAGE_SHAPE = value

    @property
    def IMAGE_META_SIZE(self) -> int:
        """Length of an image's meta vector: id 1, two shapes 3 + 3, window 4, scale 1, classes."""
        if "_IMAGE_META_SIZE" in self.__dict__:
            return self._IMAGE_META_SIZE
        with self._naming("NUM_CLASSES"):
            return 1 + 3 + 3 + 4 + 1 + self.NUM_CLASSES

    @IMAGE_META_SIZE.setter
    def IMAGE_META_SIZE(self, value: int) -> None:
        self._IMAGE_META_SIZE = value

    @contextlib.contextmanager
    def _naming(self, *names: str) -> Iterator[None]:
        """Turns a TypeError or ValueError of the block into one that names these settings."""
        try:
            yield
        except (TypeError, ValueError) as error:
            values = ", ".join(files.short(getattr(self, name)) for name in names)
            raise ValueError(
                f"{type(self).__name__} can't compute with {', '.join(names)}: numbers are whole,"
                f" not lists, text or None. Received: {values}"
            ) from error

    # ---- Reading ---------------------------------------------------------------------------------
    def to_dict(self) -> dict[str, Any]:
        """{name: value} of all upper-case attributes, including the user's own, sorted by name."""
        return {
            name: getattr(self, name)
            for name in sorted(dir(self))
            if name.isupper() and not name.startswith("_")
        }

    def display(self) -> None:
        """Prints every setting with its value."""
        print("\nConfigurations:")
        for name, value in self.to_dict().items():
            print(f"{name:30} {getattr(value, '__name__', value)}")
        print()

    def override(self, assignments: Iterable[str]) -> None:
        """Sets settings by `NAME=value` strings of a command line; values are Python literals.

        true and false may be written in any case.

        Raises:
            ValueError: no `=`, an unknown name, or a value of another type than the setting's.
        """
        known = set(self.to_dict()) - set(_DERIVED)
        for text in assignments:
            name, equals, value = text.partition("=")
            name = name.strip()
            if equals and name in _DERIVED:
                raise ValueError(
                    f"{name} can't be set: it is {_DERIVED[name]}. Received: {files.short(text)}"
                )
            if not equals or name not in known:
                raise ValueError(
                    f"Expected SETTING=value with a setting of {type(self).__name__}"
                    f"{_suggest(name, known, 0.6) or '.'} Received: {files.short(text)}"
                )
            old = getattr(self, name)
            new = _parsed(value.strip(), old)
            may_be_none = name in _KINDS and _KINDS[name].fits(None)
            if name == "TEST_FLIP":  # its values are of two types
                if not _KINDS[name].fits(new):
                    raise ValueError(_problem_of_kind(name, new))
            elif not _fits(new, old) and not (new is None and may_be_none):
                raise ValueError(
                    f"{name} takes a value of type {type(old).__name__}, such as {old!r}. "
                    f"Received: {files.short(value)}"
                )
            if isinstance(old, np.ndarray):
                new = _as_array(name, new)
            setattr(self, name, new)

    # ---- Checking --------------------------------------------------------------------------------
    def validate(self) -> None:
        """Checks the settings one by one and against each other.

        Numpy scalars become Python numbers, fractional numbers of steps are rounded up, and False
        becomes 0 where both mean none.

        Raises:
            ValueError: names every setting that is wrong, what is allowed and what it is.
        """
        warn_of_misspelt(type(self).__name__, self.__dict__, stacklevel=2)
        self._normalise()
        problems = list(self._kind_problems()) or list(self._problems())
        if problems:
            between = "\n  "
            if len(problems) == 1:
                between = " "
            text = between + "\n  ".join(problems)
            raise ValueError(f"{type(self).__name__} can't be used:{text}")

    def _normalise(self) -> None:
        """Converts values to plain numbers, which layers and files can store; see `validate`."""
        for name in setting_names() - set(_DERIVED):
            value = getattr(self, name)
            plain = value
            if isinstance(value, (np.generic, np.ndarray)) and np.ndim(value) == 0:
                plain = value.item()
            if name in _STEPS and isinstance(plain, float) and math.isfinite(plain):
                plain = math.ceil(plain)
            if name in _FALSE_IS_0 and plain is False:
                plain = 0
            if name == "DETECTION_MIN_CONFIDENCE" and plain is None:
                plain = 0.0  # no bound, as in matterport's package
            if plain is not value:
                setattr(self, name, plain)

    def _kind_problems(self) -> Iterator[str]:
        """Problems of single settings; the other checks need settings without these."""
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if not kind.fits(value):
                yield _problem_of_kind(name, value)

    def _problems(self) -> Iterator[str]:
        """Problems of settings that don't fit together."""
        yield from self._derived_problems()
        if self.RPN_NEGATIVE_IOU > self.RPN_POSITIVE_IOU:
            yield (
                "RPN_NEGATIVE_IOU is at most RPN_POSITIVE_IOU. Received: "
                f"{self.RPN_NEGATIVE_IOU!r} and {self.RPN_POSITIVE_IOU!r}"
            )
        yield from self._image_size_problems()
        yield from self._scale_problems()
        yield from self._pixel_problems()
        yield from self._backbone_problems()
        yield from self._proposal_problems()
        yield from self._head_problems()
        yield from self._loss_problems()
        yield from self._learning_rate_problems()
        if self.JIT_COMPILE and self.FUSED_KERNELS:
            yield "JIT_COMPILE takes the portable kernels. Received: FUSED_KERNELS = True"
        for name, allowed in _CHOICES.items():
            yield from self._choice_problems(name, allowed)
        for name, allowed in (("BACKBONE", BACKBONES), ("OPTIMIZER", OPTIMIZERS)):
            if not callable(getattr(self, name)):
                yield from self._choice_problems(name, allowed, "a function or ")

    def _derived_problems(self) -> Iterator[str]:
        """Problems of computed values that were assigned to."""
        if not _is_count(self.BATCH_SIZE, 1):
            yield f"BATCH_SIZE is a whole number from 1. Received: {self.BATCH_SIZE!r}"
        shape = self.__dict__.get("_IMAGE_SHAPE")
        if shape is not None and not _values("", _is_natural, (3,)).fits(shape):
            yield f"IMAGE_SHAPE is (height, width, channels). Received: {files.short(shape)}"
        size = 12 + self.NUM_CLASSES
        if not np.array_equal(self.IMAGE_META_SIZE, size):
            yield (
                f"IMAGE_META_SIZE is 12 + NUM_CLASSES, here {size}. Received:"
                f" {self.IMAGE_META_SIZE!r}"
            )

    def _choice_problems(self, name: str, allowed: tuple, also: str = "") -> Iterator[str]:
        """The problem of a setting that has none of the allowed values.

        also: words before these values in the text.
        """
        value = getattr(self, name)
        if value not in allowed:
            yield f"{name} is {also}one of {', '.join(map(str, allowed))}. Received: {value!r}"

    def _image_size_problems(self) -> Iterator[str]:
        mode = self.IMAGE_RESIZE_MODE
        sides = (self.IMAGE_MIN_DIM, self.IMAGE_MAX_DIM)
        stride = max(self.BACKBONE_STRIDES)
        if mode in _SIDE_OF_MODE:
            name = _SIDE_OF_MODE[mode]
            side = getattr(self, name)
            if not side or side % stride:
                yield (
                    f"{name} divides by {stride}, the largest of BACKBONE_STRIDES, with "
                    f"IMAGE_RESIZE_MODE {mode!r}: for example {stride * 4} or {stride * 16}. "
                    f"Received: {side!r}"
                )
        if mode == "shorter" and not all(sides):
            yield (
                "IMAGE_RESIZE_MODE 'shorter' needs IMAGE_MIN_DIM and IMAGE_MAX_DIM. Received:"
                f" {sides}"
            )

    def _scale_problems(self) -> Iterator[str]:
        """Problems of scale jitter and of the scales of test-time augmentation."""
        mode = self.IMAGE_RESIZE_MODE
        sides = (self.IMAGE_MIN_DIM, self.IMAGE_MAX_DIM)
        for name in ("IMAGE_MIN_DIM_CHOICES", "TEST_SCALES"):
            values = getattr(self, name)
            if len(values) and mode == "none":
                yield (
                    f"{name} needs an IMAGE_RESIZE_MODE that resizes. Received: {values!r} with"
                    " 'none'"
                )
            elif mode == "pad64" and any(value % 64 for value in values):
                yield f"{name} divide by 64 with IMAGE_RESIZE_MODE 'pad64'. Received: {values!r}"
        if len(self.SCALE_JITTER) and mode == "none":
            yield (
                "SCALE_JITTER needs an IMAGE_RESIZE_MODE that resizes. Received:"
                f" {self.SCALE_JITTER!r} with 'none'"
            )
        if len(self.SCALE_JITTER) and len(self.IMAGE_MIN_DIM_CHOICES):
            yield (
                "SCALE_JITTER and IMAGE_MIN_DIM_CHOICES are two ways to draw a scale: one of them"
                f" is (). Received: {self.SCALE_JITTER!r} and {self.IMAGE_MIN_DIM_CHOICES!r}"
            )
        choices = self.IMAGE_MIN_DIM_CHOICES
        bounded = mode in ("square", "shorter") and all(sides)
        if bounded and max(choices, default=0) > sides[1]:
            yield (
                f"IMAGE_MIN_DIM_CHOICES are at most IMAGE_MAX_DIM = {sides[1]}. Received:"
                f" {choices!r}"
            )
        if len(self.TEST_SCALES) and not all(sides):
            yield f"TEST_SCALES needs IMAGE_MIN_DIM and IMAGE_MAX_DIM. Received: {sides}"
        elif len(self.TEST_SCALES) and bounded and sides[0] > sides[1]:
            yield (
                "TEST_SCALES needs an IMAGE_MIN_DIM of at most IMAGE_MAX_DIM. Received:"
                f" {sides[0]} and {sides[1]}"
            )

    def _pixel_problems(self) -> Iterator[str]:
        channels = self.IMAGE_CHANNEL_COUNT
        if np.size(self.MEAN_PIXEL) not in (1, channels):
            yield (
                f"MEAN_PIXEL has a value for each of IMAGE_CHANNEL_COUNT = {channels} channels. "
                f"Received: {np.size(self.MEAN_PIXEL)} values"
            )
        if np.size(self.STD_PIXEL) not in (1, channels):
            yield (
                "STD_PIXEL has one positive value or one for each of IMAGE_CHANNEL_COUNT = "
                f"{channels} channels. Received: {self.STD_PIXEL!r}"
            )
        if len(self.IMAGE_PERCENTILES) and 0 < np.max(self.MEAN_PIXEL) <= 1:
            yield (
                "IMAGE_PERCENTILES makes values of 0..255, which a MEAN_PIXEL of fractions does not"
                f" fit. Received: {self.MEAN_PIXEL!r}"
            )
        if self.IMAGE_GAMMA != 1 and not len(self.IMAGE_PERCENTILES):
            yield (
                f"IMAGE_GAMMA is 1 where IMAGE_PERCENTILES is (). Received: {self.IMAGE_GAMMA!r}"
            )
        if self.DETECTION_MASK_OVERLAP < 1 and not self.USE_MASK:
            yield (
                "DETECTION_MASK_OVERLAP is 1 without masks, USE_MASK = False. Received:"
                f" {self.DETECTION_MASK_OVERLAP!r}"
            )
        if self.USE_MINI_MASK and self.MINI_MASK_SHAPE is None:
            yield "MINI_MASK_SHAPE is (height, width) with USE_MINI_MASK. Received: None"

    def _backbone_problems(self) -> Iterator[str]:
        if callable(self.BACKBONE) and self.COMPUTE_BACKBONE_SHAPE is None:
            yield (
                "COMPUTE_BACKBONE_SHAPE is a function of the image's shape when BACKBONE is a "
                "function. Received: None"
            )
        if self.BODY == "c4":
            yield from self._c4_problems()
        elif len(self.BACKBONE_STRIDES) != 5:
            yield (
                f"BACKBONE_STRIDES has the 5 strides of P2..P6. Received: {self.BACKBONE_STRIDES!r}"
            )
        elif not callable(self.BACKBONE):
            yield from self._resnet_problems()

    def _resnet_problems(self) -> Iterator[str]:
        """Problems of a ResNet with FPN."""
        strides = [2, 4, 8, 16, 32]
        if not self.BACKBONE_POOL and list(self.BACKBONE_STRIDES) != strides:
            yield (
                f"BACKBONE_STRIDES is {strides} with BACKBONE_POOL = False. Received:"
                f" {self.BACKBONE_STRIDES!r}"
            )
        if self.BACKBONE_NORM == "group" and self.BACKBONE_WIDTH % 32:
            yield (
                "BACKBONE_WIDTH divides by the 32 groups of BACKBONE_NORM = 'group'. Received:"
                f" {self.BACKBONE_WIDTH!r}"
            )
        if "resnext" in str(self.BACKBONE) and self.BACKBONE_WIDTH % 16:
            yield (
                f"BACKBONE_WIDTH divides by 16 with {self.BACKBONE}, whose groups share it."
                f" Received: {self.BACKBONE_WIDTH!r}"
            )

    def _c4_problems(self) -> Iterator[str]:
        if callable(self.BACKBONE):
            yield (
                "BODY 'c4' takes a BACKBONE by name: its fifth stage is the head. Received: a"
                " function"
            )
        if not self.BACKBONE_POOL:
            yield "BACKBONE_POOL is True with BODY 'c4', whose map has stride 16. Received: False"
        if len(self.BACKBONE_STRIDES) != 1:
            yield (
                "BACKBONE_STRIDES is [16] with BODY 'c4', which has one map. Received:"
                f" {self.BACKBONE_STRIDES!r}"
            )

    def _proposal_problems(self) -> Iterator[str]:
        if len(self.RPN_ANCHOR_SCALES) != len(self.BACKBONE_STRIDES):
            yield (
                f"RPN_ANCHOR_SCALES has one scale for each of the {len(self.BACKBONE_STRIDES)} "
                f"BACKBONE_STRIDES. Received: {self.RPN_ANCHOR_SCALES!r}"
            )
        counts = {np.size(scales) for scales in self.RPN_ANCHOR_SCALES}
        if len(counts) > 1:
            yield (
                "RPN_ANCHOR_SCALES has as many scales for each level. Received:"
                f" {self.RPN_ANCHOR_SCALES!r}"
            )
        if self.RPN_NMS_PER_LEVEL and not self.PRE_NMS_PER_LEVEL:
            yield "RPN_NMS_PER_LEVEL needs PRE_NMS_PER_LEVEL. Received: True and False"

    def _head_problems(self) -> Iterator[str]:
        side = self._mask_side()
        if self.USE_MASK and list(self.MASK_SHAPE) != [side, side]:
            yield (
                f"MASK_SHAPE is twice MASK_POOL_SIZE, here [{side}, {side}]: the mask head doubles "
                f"the pooled size. Received: {self.MASK_SHAPE!r} with MASK_POOL_SIZE "
                f"{self.MASK_POOL_SIZE}"
            )
        if self.USE_KEYPOINTS:
            yield from self._keypoint_problems()

    def _mask_side(self) -> int:
        """The side of predicted masks in pixels."""
        cells = self.MASK_POOL_SIZE
        if self.BODY == "c4":  # its head has a stride; an odd side is rounded up
            cells = -(-cells // self.C4_HEAD_STRIDE)
        return 2 * cells

    def _keypoint_problems(self) -> Iterator[str]:
        for pair in self.KEYPOINT_FLIP_PAIRS:
            exist = all(i < self.NUM_KEYPOINTS for i in pair)
            if len(set(pair)) != 2 or not exist:
                yield (
                    f"KEYPOINT_FLIP_PAIRS has pairs of keypoints 0..{self.NUM_KEYPOINTS - 1}"
                    f" (NUM_KEYPOINTS - 1), () for none. Received: {pair!r}"
                )

    def _loss_problems(self) -> Iterator[str]:
        names = (*LOSS_NAMES, KEYPOINT_LOSS)
        unknown = set(self.LOSS_WEIGHTS) - set(names)
        if unknown:
            yield f"LOSS_WEIGHTS has weights for {', '.join(names)}. Received: {sorted(unknown)}"
        if self.EMA_MOMENTUM and callable(self.OPTIMIZER):
            yield (
                "EMA_MOMENTUM is None with an OPTIMIZER of your own, which takes `use_ema` itself."
                f" Received: {self.EMA_MOMENTUM!r}"
            )

    def _learning_rate_problems(self) -> Iterator[str]:
        steps = list(self.LEARNING_RATE_STEPS)
        if steps != sorted(set(steps)):
            yield (
                "LEARNING_RATE_STEPS are rising numbers of steps. Received:"
                f" {self.LEARNING_RATE_STEPS!r}"
            )
        if self.LEARNING_RATE_SCHEDULE == "step" and not steps:
            yield "LEARNING_RATE_SCHEDULE 'step' needs LEARNING_RATE_STEPS. Received: ()"


class PaperConfig(Config):
    """Mask R-CNN with FPN as in the paper (arXiv 1703.06870v3).

    Settings that the paper does not give are those of its authors' code.

    Training is that of the paper's section 3.1: 16 images a batch, 2 on each of 8 devices. With a
    smaller batch reduce the learning rate in proportion. BACKBONE may also be "resnext101_64x4d" or
    "resnext101_32x8d" (with STRIDE_IN_1X1 = False).
    """

    # Section 3.1: shorter edge of 800 pixels; the longer one's bound is from the authors' code.
    IMAGE_RESIZE_MODE = "shorter"
    IMAGE_MIN_DIM = 800
    IMAGE_MAX_DIM = 1333
    FLOAT_RESIZE = True
    BOX_FRAME = "edges"

    # Section 3, network architecture: pre-trained batch norm is fixed; no norm elsewhere.
    BACKBONE_NORM = "frozen"
    BOX_HEAD_NORM: str | None = None
    MASK_HEAD_NORM: str | None = None
    BATCH_NORM_EPSILON = 1e-5

    # Table 2c: RoIAlign with the average of four samples; the authors' later code is aligned.
    ROI_POOLING = "align"
    ROI_LEVEL = "floor"

    # Faster R-CNN and FPN: sigmoid, deltas that are not divided, limits for each level.
    RPN_SCORE = "sigmoid"
    RPN_CHANNELS = 256
    RPN_BBOX_STD_DEV = np.array([1.0, 1.0, 1.0, 1.0])
    PRE_NMS_PER_LEVEL = True
    RPN_NMS_PER_LEVEL = True
    RPN_CLIP_TO_WINDOW = True
    PRE_NMS_LIMIT = 1000
    PRE_NMS_LIMIT_TRAINING = 2000
    POST_NMS_ROIS_TRAINING = 1000
    POST_NMS_ROIS_INFERENCE = 1000

    # Section 3.1, training: 512 RoIs with FPN, one positive to three negatives; L_cls is without
    # padding.
    TRAIN_ROIS_PER_IMAGE = 512
    ROI_POSITIVE_RATIO = 0.25
    ROI_FILL_NEGATIVES = True
    ROI_ADD_GT = True
    CLASS_LOSS_ON_PADDING = False

    # Section 3.1, inference: the best 100 of all classes after suppression in each.
    DETECTION_ALL_CLASSES = True
    DETECTION_MIN_CONFIDENCE = 0.05
    DETECTION_NMS_THRESHOLD = 0.5
    ROUND_DETECTIONS = False
    MASK_PASTE = "padded"

    # Section 3.1, training: 160,000 steps of 16 images, a tenth of the rate from 120,000 on;
    # horizontal flips, one scale. Appendix B has longer schedules: LEARNING_RATE_STEPS = (120_000,
    # 160_000) of 180,000 steps, and with scale jitter, IMAGE_MIN_DIM_CHOICES = range(640, 801, 32),
    # (200_000, 240_000) of 260,000. From the authors' code: the warm-up, and no decay of norms and
    # biases. Section 5, keypoints: USE_KEYPOINTS, jitter of 640 to 800 pixels, (60_000, 80_000) of
    # 90,000.
    LEARNING_RATE = 0.02
    LEARNING_RATE_SCHEDULE = "step"
    LEARNING_RATE_STEPS = (120_000,)
    WARMUP_STEPS = 1000
    WEIGHT_DECAY_KIND = "sum"
    WEIGHT_DECAY_ON_BIASES = False
    HORIZONTAL_FLIP = 0.5
    GRADIENT_CLIP_NORM = None


class PaperC4Config(PaperConfig):
    """The paper's C4 body: one map at stride 16, with the fifth stage as the head of each RoI.

    There are 15 anchors in each cell.
    """

    # Section 3, network architecture, and figure 4, left.
    BODY = "c4"
    BACKBONE = "resnet50"
    BACKBONE_STRIDES = [16]
    RPN_ANCHOR_SCALES = [(32, 64, 128, 256, 512)]
    POOL_SIZE = MASK_POOL_SIZE = 7
    C4_HEAD_STRIDE = 1
    MASK_SHAPE = [14, 14]
    MASK_HEAD_CONVS = 0
    RPN_CHANNELS = 1024

    # One level: section 3.1, inference, 300 proposals; training, 64 RoIs.
    PRE_NMS_PER_LEVEL = False
    RPN_NMS_PER_LEVEL = False
    PRE_NMS_LIMIT = 6000
    PRE_NMS_LIMIT_TRAINING = 12000
    POST_NMS_ROIS_TRAINING = 2000
    POST_NMS_ROIS_INFERENCE = 300
    TRAIN_ROIS_PER_IMAGE = 64


_CHOICES = {
    "IMAGE_RESIZE_MODE": RESIZE_MODES,
    "LEARNING_RATE_SCHEDULE": SCHEDULES,
    "WEIGHT_DECAY_KIND": WEIGHT_DECAYS,
    "BODY": BODIES,
    "BACKBONE_NORM": NORMS,
    "FPN_NORM": NORMS,
    "BOX_HEAD_CONV_NORM": NORMS,
    "BOX_HEAD_NORM": NORMS,
    "MASK_HEAD_NORM": NORMS,
    "BACKBONE_PADDING": ("same", "symmetric"),
    "RPN_SCORE": ("softmax", "sigmoid"),
    "MASK_ACTIVATION": ("sigmoid", "softmax"),
    "MASK_HEAD": ("fcn", "mlp"),
    "MASK_PASTE": ("box", "padded"),
    "BOX_FRAME": BOX_FRAMES,
    "ROI_POOLING": ROI_POOLINGS,
    "ROI_ALIGN_REDUCE": ("average", "max"),
    "ROI_LEVEL": ("round", "floor"),
    "BBOX_LOSS": BBOX_LOSSES,
    "RPN_BBOX_LOSS": BBOX_LOSSES,
}
# {resize mode: setting that must be divisible by the largest stride}
_SIDE_OF_MODE = {"square": "IMAGE_MAX_DIM", "pad64": "IMAGE_MIN_DIM", "crop": "IMAGE_MIN_DIM"}
# {computed value: its formula}
_DERIVED = {
    "BATCH_SIZE": "IMAGES_PER_GPU * GPU_COUNT",
    "IMAGE_SHAPE": "[IMAGE_MAX_DIM (IMAGE_MIN_DIM in mode crop) twice, IMAGE_CHANNEL_COUNT]",
    "IMAGE_META_SIZE": "12 + NUM_CLASSES",
}
_COMPUTED = {name: vars(Config)[name] for name in _DERIVED}
# Settings that may be functions.
_FUNCTIONS = ("BACKBONE", "COMPUTE_BACKBONE_SHAPE", "OPTIMIZER")
# Settings that have no effect on detections.
NOT_DETECTING = ("IMAGES_PER_GPU", "GPU_COUNT", "BATCH_SIZE", "WORKERS")
# Settings in which False means 0.
_FALSE_IS_0 = (
    "IMAGE_MIN_DIM",
    "IMAGE_MAX_DIM",
    "IMAGE_MIN_SCALE",
    "GRADIENT_CLIP_NORM",
    "EMA_MOMENTUM",
)
# Settings whose fractions are rounded up.
_STEPS = ("STEPS_PER_EPOCH", "VALIDATION_STEPS")


def setting_names() -> set[str]:
    """The names of the settings that `Config` itself defines."""
    return {name for name in vars(Config) if name.isupper() and name[0] != "_"}


def changed_settings(config: Any) -> dict[str, Any]:
    """{setting: value} of the values that differ from `Config`'s; arrays and tuples as lists."""
    changed = {}
    for name in sorted(setting_names() - {"BATCH_SIZE", "IMAGE_SHAPE", "IMAGE_META_SIZE"}):
        value = getattr(config, name)
        if not np.array_equal(plain_setting(value), plain_setting(getattr(Config, name))):
            changed[name] = plain_setting(value)
    return changed


def plain_setting(value: Any) -> Any:
    """A setting's value as one that JSON can hold."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, (tuple, list)):
        return [plain_setting(part) for part in value]
    return value


def setting_text(value: Any) -> str:
    """A setting's value as text, which differs if values do; for a function, its name and code."""
    if isinstance(value, np.ndarray):
        return str(value.tolist())
    code = getattr(value, "__code__", None)
    if code is not None:
        return f"{value.__name__} {code.co_code.hex()} {code.co_names}"
    return str(getattr(value, "__name__", value))


def has_several_views(config: Config) -> bool:
    """Whether the config has test-time augmentation."""
    return len(config.TEST_SCALES) > 0 or bool(config.TEST_FLIP)


def as_config(config: Any) -> Config:
    """Converts an object with settings to a `Config`.

    Args:
        config: a `Config`; a subclass of it, which is called; or any other object with settings as
            attributes: a class of settings that does not derive from `Config`, a module, a
            SimpleNamespace. In a dict and an argparse.Namespace names may be in lower case.
            Missing settings have their defaults.

    Returns:
        the same object if it is a `Config`, else a new one.

    Raises:
        ValueError: the object has no settings, or is a subclass that can't be called without
            arguments.
    """
    if isinstance(config, Config):
        return config
    if isinstance(config, type) and issubclass(config, Config):
        try:
            return config()
        except TypeError as error:
            raise ValueError(
                f"config is an instance of Config. Received: the class {config.__name__}, which"
                f" can't be called without arguments: {error}"
            ) from error
    settings = _settings_in(config)
    if not setting_names() & set(settings):
        raise ValueError(
            "config is a Config, or an object with settings such as NUM_CLASSES. Received:"
            f" {files.short(config)}"
        )
    name = getattr(config, "__name__", type(config).__name__)
    return type(name, (Config,), settings)()


def _settings_in(source: Any) -> dict[str, Any]:
    """{upper-case name: value} of an object that is no `Config`."""
    if isinstance(source, Mapping):
        values = {str(name): value for name, value in source.items()}
    else:
        values = {name: getattr(source, name) for name in dir(source) if _may_be_setting(name)}
    known = setting_names()
    if isinstance(source, (Mapping, argparse.Namespace, types.SimpleNamespace)):
        for name in [name for name in values if name.upper() in known]:
            values.setdefault(name.upper(), values[name])
    return {name: value for name, value in values.items() if name.isupper() and name[0] != "_"}


def _may_be_setting(name: str) -> bool:
    """Whether an attribute's name is in upper case, or a setting's name in lower case."""
    return not name.startswith("_") and (name.isupper() or name.upper() in setting_names())


def _parsed(text: str, old: Any) -> Any:
    """The value of a text that is a Python literal, otherwise the text itself.

    old: the setting's present value.
    """
    import ast

    if isinstance(old, bool) and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    # A list as a dict's key raises TypeError; deeply nested brackets raise one of the last two.
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _as_array(name: str, value: Any) -> np.ndarray:
    """A setting's value as an array; ValueError, which names the setting, for ragged rows."""
    try:
        return np.array(value)
    except ValueError as error:
        raise ValueError(
            f"{name} is an array of numbers. Received: {files.short(value)}"
        ) from error


def _suggest(name: str, known: set[str], cutoff: float = 0.85) -> str:
    """A text that suggests the setting with the most similar name; "" where none is similar.

    Args:
        name: the misspelt name.
        known: names of settings.
        cutoff: the least similarity, from 0 to 1.
    """
    # IMAGE_META_SIZE is never set by hand.
    candidates = sorted(known - {"IMAGE_META_SIZE"})
    close = difflib.get_close_matches(name.upper(), candidates, n=1, cutoff=cutoff)
    if not close:
        close = _longer_names(name.upper(), candidates)
    if len(close) != 1 or close[0] == name:
        return ""
    return f"; did you mean {close[0]}?"


def _longer_names(name: str, candidates: Sequence[str]) -> list[str]:
    """Candidates with all words of a name of two or more words, in singular or plural."""
    words = {word.rstrip("S") for word in name.split("_")}
    if len(words) < 2:
        return []
    return [
        candidate
        for candidate in candidates
        if words <= {word.rstrip("S") for word in candidate.split("_")}
    ]


def warn_of_misspelt(owner: str, names: Iterable[str], stacklevel: int) -> None:
    """Warns of names that are similar to a setting's name.

    Args:
        owner: name of the class of settings.
        names: of its attributes. Upper-case ones are compared with all settings; of others only
            lower-case names of settings with several words are reported.
        stacklevel: as in `warnings.warn`, for the caller of this function.
    """
    known = setting_names()
    for name in names:
        if name.startswith("_") or name in known:
            continue
        in_lower_case = "_" in name and name.upper() in known
        if not name.isupper() and not in_lower_case:
            continue
        close = _suggest(name, known)
        if close:
            warnings.warn(
                f"{owner}.{name} is not a setting of Config{close}", stacklevel=stacklevel + 1
            )


def _is_count(value: Any, least: int) -> bool:
    """Whether a value is an integer of Python or numpy, and at least `least`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        return False
    return bool(value >= least)


def _is_number(value: Any) -> bool:
    """Whether a value is a number of Python or numpy other than NaN."""
    if isinstance(value, (bool, np.bool_)):
        return False
    if not isinstance(value, (int, float, np.integer, np.floating)):
        return False
    return not math.isnan(value)


def _fits(new: Any, old: Any) -> bool:
    """Whether a new value has the type of the setting's present one."""
    if _is_number(old):
        if isinstance(old, int) and isinstance(new, float):
            return False
        return _is_number(new)
    if isinstance(old, (bool, str, dict)):
        return isinstance(new, type(old))
    return True


def _is_plain_function(value: Any) -> bool:
    """Whether a value is a function without a first parameter `self`."""
    if not inspect.isfunction(value):
        return False
    return next(iter(inspect.signature(value).parameters), "") != "self"


class _WrittenOver(property):
    """A computed value that a class body has set; instances compute it nevertheless."""

    def __init__(self, derived: property, written: Any):
        super().__init__(derived.fget, derived.fset, doc=derived.__doc__)
        self.written = written

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self.written  # the value in the class body
        return super().__get__(instance, owner)


# ---- Allowed values of each setting --------------------------------------------------------------


class _Kind(NamedTuple):
    """The values that a setting allows.

    Attributes:
        words: text of the error between the setting's name and the value that was received.
        fits: f(value) -> whether the value is allowed.
    """

    words: str
    fits: Callable[[Any], bool]


def _problem_of_kind(name: str, value: Any) -> str:
    """The problem of a setting whose value is not of its kind, as a text."""
    return f"{name} {_KINDS[name].words}. Received: {files.short(value)}"


def _count(least: int) -> _Kind:
    """Integers from `least` on."""
    return _Kind(f"is a whole number from {least}", lambda value: _is_count(value, least))


def _above(least: float) -> _Kind:
    """Finite numbers above `least`."""
    return _Kind(f"is above {least}", lambda value: _is_number(value) and least < value < math.inf)


def _at_least(least: float) -> _Kind:
    """Finite numbers from `least` on."""
    return _Kind(
        f"is a number of at least {least}",
        lambda value: _is_number(value) and least <= value < math.inf,
    )


def _number_that(words: str, fits: Callable[[float], bool]) -> _Kind:
    """Numbers that fit."""
    return _Kind(words, lambda value: _is_number(value) and fits(value))


def _one_of(*allowed: Any) -> _Kind:
    """One of several scalars, or a scalar of another type that is equal to one."""
    words = " or ".join([", ".join(map(str, allowed[:-1])), str(allowed[-1])])
    return _Kind(
        f"is {words}", lambda value: (value is None or np.isscalar(value)) and value in allowed
    )


def _or_none(kind: _Kind) -> _Kind:
    """The values of a kind, and None."""
    words = f"{kind.words}, or is None"
    if kind.words.startswith("is "):
        words = f"is None or {kind.words[3:]}"
    return _Kind(words, lambda value: value is None or kind.fits(value))


def _values(words: str, fits: Callable[[Any], bool], lengths: Sequence[int] = ()) -> _Kind:
    """Lists, tuples and arrays whose elements all fit; lengths: the allowed ones, () for all."""

    def all_fit(value: Any) -> bool:
        if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, np.ndarray)):
            return False
        if isinstance(value, np.ndarray) and value.ndim == 0:
            return False
        if lengths and len(value) not in lengths:
            return False
        return all(fits(element) for element in value)

    return _Kind(words, all_fit)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and 0 < value < math.inf


def _is_natural(value: Any) -> bool:
    return _is_count(value, 1)


_SCALES_OF_LEVEL = _values("", _is_positive)
_PAIR = _values("", lambda value: _is_count(value, 0), (2,))


def _are_scales(value: Any) -> bool:
    """Whether a value is one scale of a level, or a sequence of scales."""
    return _is_positive(value) or (_SCALES_OF_LEVEL.fits(value) and len(value) > 0)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and abs(value) < math.inf


def _are_pixel_values(value: Any) -> bool:
    """Whether a value is a number, or a list or an array of numbers."""
    return _is_finite(value) or _values("", _is_finite).fits(value)


def _are_positive_pixel_values(value: Any) -> bool:
    return _are_pixel_values(value) and bool(np.all(np.greater(value, 0)))


def _are_percentiles(value: Any) -> bool:
    """Whether a value is two increasing percentiles, or empty."""
    if not _values("", _is_finite, (0, 2)).fits(value):
        return False
    return all(0 <= number <= 100 for number in value) and list(value) == sorted(set(value))


def _are_factors(value: Any) -> bool:
    """Whether a value is (low, high), or empty."""
    if not _values("", _is_positive, (0, 2)).fits(value):
        return False
    return list(value) == sorted(value)


def _are_weights(value: Any) -> bool:
    return isinstance(value, dict) and all(_at_least(0).fits(weight) for weight in value.values())


_UP_TO_1 = _number_that("lies in 0..1", lambda value: 0 <= value <= 1)
_IOU = _number_that("lies in 0..1, 0 excluded", lambda value: 0 < value <= 1)
_BELOW_1 = _number_that("lies in 0..1, 1 excluded", lambda value: 0 <= value < 1)
_FLAG = _one_of(True, False)
_MAYBE_FLAG = _one_of(None, True, False)
_SIDE = _Kind(
    "is a whole number of pixels, or None", lambda value: value is None or _is_count(value, 0)
)
_SIDES = _values("has whole numbers of pixels", _is_natural)
_SHAPE = _values("is (height, width)", _is_natural, (2,))
_FOUR = _values("has 4 positive values", _is_positive, (4,))
_FUNCTION = _Kind("is None or a function", lambda value: value is None or callable(value))

_NAME = _Kind(
    "is text without a slash, as a part of file names, or None",
    lambda value: value is None or (isinstance(value, str) and not set(value) & set("/\\\0")),
)
_TEXT = _Kind("is text, or None", lambda value: value is None or isinstance(value, str))
_TEXT_OR_FUNCTION = _Kind(
    "is a name or a function", lambda value: isinstance(value, str) or callable(value)
)

_KINDS: dict[str, _Kind] = {
    "NAME": _NAME,
    **dict.fromkeys(_CHOICES, _TEXT),
    **dict.fromkeys(("BACKBONE", "OPTIMIZER"), _TEXT_OR_FUNCTION),
    "SEED": _or_none(_count(0)),
    "CHECK_IMAGES": _or_none(_count(0)),
    "RESUME_SECONDS": _at_least(0),
    "COMPUTE_BACKBONE_SHAPE": _FUNCTION,
    "IMAGE_MIN_DIM": _SIDE,
    "IMAGE_MAX_DIM": _SIDE,
    "IMAGE_MIN_SCALE": _or_none(_at_least(0)),
    "IMAGE_MIN_DIM_CHOICES": _SIDES,
    "TEST_SCALES": _SIDES,
    "TEST_FLIP": _one_of(*TEST_FLIPS),
    "TEST_BOX_VOTE": _or_none(_IOU),
    "IMAGE_PERCENTILES": _Kind("is (low, high), rising numbers of 0..100, or ()", _are_percentiles),
    "IMAGE_GAMMA": _above(0),
    "MEAN_PIXEL": _Kind("has numbers, one for each channel", _are_pixel_values),
    "STD_PIXEL": _Kind("has positive numbers", _are_positive_pixel_values),
    "MINI_MASK_SHAPE": _or_none(_SHAPE),
    "MASK_SHAPE": _SHAPE,
    "BACKBONE_STRIDES": _Kind(
        "has whole numbers of pixels, one for each level",
        lambda value: _SIDES.fits(value) and len(value) > 0,
    ),
    "RPN_ANCHOR_SCALES": _values("has sides in pixels, one or several for each level", _are_scales),
    "RPN_ANCHOR_RATIOS": _Kind(
        "has positive numbers, width / height",
        lambda value: _values("", _is_positive).fits(value) and len(value) > 0,
    ),
    "RPN_ANCHOR_STRIDE": _one_of(1, 2),
    "C4_HEAD_STRIDE": _one_of(1, 2),
    "RPN_BBOX_STD_DEV": _FOUR,
    "BBOX_STD_DEV": _FOUR,
    "BBOX_LOG_SIZE_LIMIT": _or_none(_above(0)),
    "RPN_MIN_SIZE": _at_least(0),
    "DETECTION_MIN_SIZE": _at_least(0),
    "PRE_NMS_LIMIT_TRAINING": _or_none(_count(1)),
    "KEYPOINT_FLIP_PAIRS": _values("has pairs of keypoints", _PAIR.fits),
    "BATCH_NORM_EPSILON": _at_least(0),
    "BATCH_NORM_MOMENTUM": _BELOW_1,
    "LEARNING_RATE": _above(0),
    "LEARNING_MOMENTUM": _UP_TO_1,
    "LEARNING_RATE_STEPS": _values("are rising numbers of steps", _is_natural),
    "LEARNING_RATE_FACTOR": _above(0),
    "WEIGHT_DECAY": _at_least(0),
    "EMA_MOMENTUM": _or_none(_BELOW_1),
    "LOSS_WEIGHTS": _Kind("is a dict of a number of at least 0 for each loss", _are_weights),
    "GRADIENT_CLIP_NORM": _or_none(_at_least(0)),
    "DETECTION_MIN_CONFIDENCE": _UP_TO_1,
    "SCALE_JITTER": _Kind("is (low, high), rising positive factors, or ()", _are_factors),
    **dict.fromkeys(("RPN_NMS_THRESHOLD", "DETECTION_NMS_THRESHOLD", "HORIZONTAL_FLIP"), _UP_TO_1),
    **dict.fromkeys(("COPY_PASTE", "MOSAIC"), _UP_TO_1),
    **dict.fromkeys(
        (
            "RPN_POSITIVE_IOU",
            "RPN_NEGATIVE_IOU",
            "ROI_POSITIVE_IOU",
            "DETECTION_MASK_OVERLAP",
            "CROWD_IOU",
            "ROI_POSITIVE_RATIO",
        ),
        _IOU,
    ),
    **dict.fromkeys(
        ("FUSED_KERNELS", "JIT_COMPILE", "TRAIN_BN", "MASK_HEAD_ON_POSITIVES"), _MAYBE_FLAG
    ),
    **dict.fromkeys(
        (
            "WORKERS",
            "BOX_HEAD_CONVS",
            "BOX_HEAD_FCS",
            "MASK_HEAD_CONVS",
            "WARMUP_STEPS",
            "VALIDATION_STEPS",
            "ROI_ALIGN_SAMPLES",
        ),
        _count(0),
    ),
}
# Other settings are flags where the default is True or False, counts where it is an integer.
for _name in sorted(setting_names() - set(_DERIVED) - set(_KINDS)):
    if isinstance(getattr(Config, _name), bool):
        _KINDS[_name] = _FLAG
    elif isinstance(getattr(Config, _name), int):
        _KINDS[_name] = _count(1)


class SmallConfig(Config):
    """A network that learns from random weights in minutes on two CPU cores (not in matterport).

    For objects of 16 to 128 pixels on images of 128. Subclass it like `Config`; it is a starting
    point without a GPU or pre-trained weights.
    """

    BACKBONE = "resnet18"
    IMAGES_PER_GPU = 8
    IMAGE_MIN_DIM = IMAGE_MAX_DIM = 128
    RPN_ANCHOR_SCALES = (8, 16, 32, 64, 128)
    RPN_CHANNELS = 64
    TOP_DOWN_PYRAMID_SIZE = 64
    FPN_CLASSIF_FC_LAYERS_SIZE = 256
    MASK_HEAD_CHANNELS = 64
    MASK_HEAD_ON_POSITIVES = True
    # Training from scratch needs the statistics of its batches, with fast moving averages.
    TRAIN_BN = None
    BATCH_NORM_MOMENTUM = 0.95
    POST_NMS_ROIS_TRAINING = 200
    POST_NMS_ROIS_INFERENCE = 200
    PRE_NMS_LIMIT = 1000
    TRAIN_ROIS_PER_IMAGE = 32
    ROI_POSITIVE_RATIO = 0.25
    CLASS_LOSS_ON_PADDING = False
    OPTIMIZER = "adamw"
    LEARNING_RATE_SCHEDULE = "cosine"
    WARMUP_STEPS = 50
