"""Images a second of a folder: `detect` image by image, and `detect_many`.

    python benchmarks/folder.py [--side 512] [--images 12] [--batch 1 2] [--masks rle]

`detect_many` reads ahead and pastes masks behind. Writes JPEG files of 480 x 640 pixels of smooth
noise to a temporary folder; random weights, every threshold open, 20 detections an image. The ways
run in turn, so that the machine's moods hit all alike. Prints images/s and the share of all cores
that were busy.
"""

import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import timing  # noqa: E402
from benchmarks.numpy_routines import Photos  # noqa: E402
from mrcnn import media  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--masks", default="dense", choices=("dense", "lazy", "rle"))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    from mrcnn import model as modellib

    with tempfile.TemporaryDirectory() as folder:
        photos = Photos(options.images)
        paths = []
        for i in photos.image_ids:
            paths.append(os.path.join(folder, f"{i:03d}.jpg"))
            media.write_image(paths[-1], photos.load_image(i))

        def model(batch: int) -> modellib.MaskRCNN:
            return modellib.MaskRCNN(
                "inference",
                timing.network_config(
                    options.backbone,
                    options.side,
                    IMAGES_PER_GPU=batch,
                    DETECTION_NMS_THRESHOLD=1.0,
                    DETECTION_MAX_INSTANCES=20,
                ),
                folder,
            )

        models = {batch: model(batch) for batch in options.batch}
        first = models[options.batch[0]]
        ways = {
            "detect, image by image": lambda: [
                first.detect([media.read_image(path)], masks=options.masks) for path in paths
            ]
        }
        for batch, network in models.items():
            ways[f"detect_many, batch {batch}"] = lambda network=network: list(
                network.detect_many(paths, media.read_image, options.masks)
            )
        seconds = {name: [] for name in ways}
        busy = {name: [] for name in ways}
        for turn in range(1 + options.repeats):  # the first one compiles
            for name, run in ways.items():
                wall_start = time.perf_counter()
                cpu_start = time.process_time()
                run()
                wall = time.perf_counter() - wall_start
                cpu = time.process_time() - cpu_start
                if turn:
                    seconds[name].append(wall)
                    busy[name].append(cpu / wall / os.cpu_count())
    first = statistics.median(seconds["detect, image by image"])
    rows = [
        [
            name,
            f"{options.images / statistics.median(seconds[name]):.2f}",
            f"{statistics.median(busy[name]):.0%}",
            f"{first / statistics.median(seconds[name]):.2f}×",
        ]
        for name in ways
    ]
    print(
        f"{options.backbone} {options.side}², masks {options.masks}, peak"
        f" {timing.peak_memory():.2f} GB\n"
    )
    print(timing.table(["way", "images/s", "cores busy", "ratio"], rows))


if __name__ == "__main__":
    main()
