"""Training examples that the input pipeline delivers in a second, with augmentation, by threads.

    python benchmarks/pipeline.py [--side 1024] [--seconds 5]

To compare with what a training step consumes: `peers.py train`. Images are pictures in memory (480
x 640, ten objects each), so that no disk takes part; the augmentation is imgaug's flip, rotation
and contrast.
"""

import argparse
import concurrent.futures
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks.numpy_routines import Photos  # noqa: E402
from mrcnn import data  # noqa: E402
from mrcnn.config import Config  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    data.import_imgaug()
    from imgaug import augmenters

    augmentation = augmenters.Sequential(
        [
            augmenters.Fliplr(0.5),
            augmenters.Affine(rotate=(-20, 20)),
            augmenters.LinearContrast((0.8, 1.2)),
        ]
    )
    config = Config(
        NUM_CLASSES=2,
        IMAGE_MIN_DIM=options.side * 25 // 32,
        IMAGE_MAX_DIM=options.side,
        IMAGES_PER_GPU=2,
    )
    for name, chosen in (("no augmentation", None), ("imgaug", augmentation)):
        batches = data.TrainingBatches(Photos(), config, augmentation=chosen)
        batches.batch(0)
        for threads in (1, 2):
            with concurrent.futures.ThreadPoolExecutor(threads) as pool:
                start = time.perf_counter()
                made = 0
                while (seconds := time.perf_counter() - start) < options.seconds:
                    made += sum(1 for _ in pool.map(batches.batch, range(made, made + 2 * threads)))
            print(
                f"{options.side}², {name}, {threads} thread(s):"
                f" {config.BATCH_SIZE * made / seconds:.1f} examples/s"
            )


if __name__ == "__main__":
    main()
