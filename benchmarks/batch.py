"""Batches: memory over many tiny images, and images a second beside `detect_many`.

    python benchmarks/batch.py memory [--images 100000] [--kind table] [--ray]
        a stand-in for a model; resident memory of the processes as the images are done
    python benchmarks/batch.py speed [--backbone resnet50] [--side 512] [--images 60]
        a network of random weights; `detect_many` on the same files and a batch, in turn

`memory` needs pyarrow, and Ray for --ray; `speed` TensorFlow as well. The images of `memory` are
8 x 8 pixels, as bytes of one Parquet file, or as so many files.
"""

import argparse
import io
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
# Actors of Ray find the stand-in there too.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])

import numpy as np  # noqa: E402

from mrcnn import batch, media, places, pool  # noqa: E402

ROWS = 20  # of the table


# ---- Memory --------------------------------------------------------------------------------------


def png(number):
    """The bytes of a tiny image with one object."""
    from PIL import Image

    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[1:4, 2:7, number % 3] = 100 + number % 100
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def write_images(folder, count, kind):
    """Writes the images; returns the source."""
    contents = [png(number) for number in range(300)]
    folder.mkdir()
    if kind == "files":
        for number in range(count):
            (folder / f"{number:07d}.png").write_bytes(contents[number % 300])
        return folder
    pa = places.import_pyarrow()
    parquet = places.import_pyarrow("pyarrow.parquet")
    schema = pa.schema([("image", pa.binary()), ("path", pa.string())])
    with parquet.ParquetWriter(folder / "images.parquet", schema) as writer:
        for start in range(0, count, 1000):
            numbers = range(start, min(start + 1000, count))
            columns = {
                "image": [contents[number % 300] for number in numbers],
                "path": [f"{number:07d}.png" for number in numbers],
            }
            writer.write_table(pa.table(columns, schema=schema))
    return folder / "images.parquet"


def resident(pid="self"):
    """Megabytes of a process that are in memory."""
    pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def of_actors():
    """Megabytes of the largest actor of Ray on this machine, 0 without one."""
    sizes = [0.0]
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_text().startswith("ray::Worker"):
                sizes.append(resident(path.parent.name))
        except OSError:
            continue
    return max(sizes)


def memory(options):
    from stand_in import Recipe

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        source = write_images(folder / "images", options.images, options.kind)
        rows = []
        start = time.perf_counter()

        def note(_, done, total, __):
            if not rows or done * ROWS >= total * len(rows) or done == total:
                rows.append((done, resident(), of_actors(), time.perf_counter() - start))

        batch.files.show_progress = note
        ray = None
        if options.ray:
            ray = pool.Ray(workers=(2, 2), cpus=1)
        cpu = time.process_time()
        print(f"before: {resident():.0f} MB", flush=True)
        summary = batch.run(Recipe(), [source], folder / "out", ray=ray, title="counted")
        cpu = time.process_time() - cpu
        seen = set()
        for image, _, error in batch.results(folder / "out"):
            assert error is None
            seen.add(image)
        assert len(seen) == options.images, "an image is missing"
    print("| images | this process, MB | largest actor, MB | seconds |\n| --- | --- | --- | --- |")
    for done, here, actor, seconds in rows:
        print(f"| {done} | {here:.0f} | {actor:.0f} | {seconds:.0f} |")
    print(summary)
    print(f"{1e3 * cpu / options.images:.2f} ms of this process's CPU an image; each is there once")


# ---- Speed ---------------------------------------------------------------------------------------


def speed(options):
    from benchmarks import timing
    from benchmarks.numpy_routines import Photos
    from mrcnn import model as modellib

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        photos = Photos(options.images)
        paths = []
        for i in photos.image_ids:
            paths.append(folder / "photos" / f"{i:03d}.jpg")
            media.write_image(paths[-1], photos.load_image(i))
        model = modellib.MaskRCNN(
            "inference",
            timing.network_config(
                options.backbone,
                options.side,
                IMAGES_PER_GPU=1,
                DETECTION_NMS_THRESHOLD=1.0,
                DETECTION_MAX_INSTANCES=20,
            ),
            folder,
        )

        def many():
            return len(list(model.detect_many(paths, media.read_image, masks="rle")))

        def parts():
            shutil.rmtree(folder / "out", ignore_errors=True)
            return batch.run(model, [folder / "photos"], folder / "out", identity={}).images

        measure({"detect_many": many, "batch": parts}, options)


def measure(ways, options):
    """Runs ways in turn, in both orders, and prints images a second."""
    from benchmarks import timing

    seconds = {name: [] for name in ways}
    cpus = {name: [] for name in ways}
    for turn in range(1 + options.repeats):  # the first one compiles
        order = list(ways)
        if turn % 2:
            order.reverse()
        for name in order:
            start = time.perf_counter()
            cpu = time.process_time()
            assert ways[name]() == options.images
            if turn:
                seconds[name].append(time.perf_counter() - start)
                cpus[name].append(time.process_time() - cpu)
    middle = statistics.median
    rows = []
    for name in ways:
        ratios = [a / b for a, b in zip(seconds["detect_many"], seconds[name])]
        rows.append(
            [
                name,
                f"{options.images / middle(seconds[name]):.2f}",
                f"{middle(cpus[name]) / options.images:.3f}",
                f"{middle(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
            ]
        )
    head = ["way", "images/s", "CPU seconds an image", "speed beside detect_many (all repeats)"]
    print(timing.table(head, rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("memory")
    command.set_defaults(run=memory)
    command.add_argument("--images", type=int, default=100_000)
    command.add_argument("--kind", choices=("table", "files"), default="table")
    command.add_argument("--ray", action="store_true")
    command = commands.add_parser("speed")
    command.set_defaults(run=speed)
    command.add_argument("--backbone", default="resnet50")
    command.add_argument("--side", type=int, default=512)
    command.add_argument("--images", type=int, default=60)
    command.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
