"""Reads files with random damage: only documented errors that name the file, none slow, none large.

    python benchmarks/broken_files.py [KIND ...] [--count 1000] [--seed 0] [--keep FOLDER]

Each kind has a small good file of its own. Half of the damaged json files have bytes changed (see
tests/mutations.py), the other half values: null, NaN, 1e12, text, lists and objects in the place of
others, keys and entries that are gone or there twice. An error is documented where it is a
ValueError or an OSError whose text names the file. Prints a line for each kind; files that failed
go to FOLDER with the traceback, and the exit code is 1.
"""

import argparse
import collections
import contextlib
import copy
import json
import logging
import os
import pathlib
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402

SECONDS = 10
GIGABYTES = 2.0

Read = Callable[[pathlib.Path], Any]

# What stands in the place of another value. JSON's own NaN and Infinity are what Python writes.
STRANGE = (
    None,
    True,
    -1,
    0,
    0.5,
    1e12,
    -1e300,
    2**70,
    float("nan"),
    float("inf"),
    "",
    "x",
    "0",
    "../../etc/passwd",
    "é\x00",
    [],
    {},
    [[]],
    [None],
    {"a": 1},
)


# ---- Damage to values ----------------------------------------------------------------------------


def _places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every value inside, as keys and indices."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield (*path, key)
        yield from _places(inner, (*path, key))


def change_values(text: str, rng: np.random.Generator) -> str:
    """A json text with 1 to 4 of its values changed, removed or doubled."""
    data = json.loads(text)
    for _ in range(int(rng.integers(1, 5))):
        places = list(_places(data))
        if not places:
            break
        # As likely near the top as far down, where most of the values are.
        depth = int(rng.integers(1, max(map(len, places)) + 1))
        places = [place for place in places if len(place) == depth] or places
        *path, key = places[int(rng.integers(len(places)))]
        parent = data
        for step in path:
            parent = parent[step]
        action = int(rng.integers(5))
        if action < 3:
            parent[key] = copy.deepcopy(STRANGE[int(rng.integers(len(STRANGE)))])
        elif action == 3:
            del parent[key]
        elif isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        else:
            parent[f"{key} "] = copy.deepcopy(parent[key])
    return json.dumps(data)


# ---- Kinds: a good file, and what is read of it --------------------------------------------------


def _use(dataset: Any) -> None:
    """Reads every image and mask of a prepared dataset."""
    for image_id in dataset.image_ids:
        dataset.load_image(image_id)
        dataset.load_mask(image_id)


def _read_any(path: pathlib.Path) -> None:
    from mrcnn import annotations

    _use(annotations.AnnotatedDataset.of("mutated", annotations.read(path)))


def _read_coco(path: pathlib.Path) -> None:
    from mrcnn import coco

    dataset = coco.CocoDataset()
    dataset.load_json(path, path.parent)
    dataset.prepare()
    _use(dataset)


def coco_kind(folder: pathlib.Path) -> tuple[pathlib.Path, Read]:
    """Polygons and run lengths of both forms, by the reader of the COCO sample."""
    import generated_coco

    generated_coco.write(folder / "made", images=4)
    text = (folder / "made/annotations/instances_val2017.json").read_text()
    for photo in (folder / "made/val2017").iterdir():
        photo.rename(folder / photo.name)
    (folder / "coco.json").write_text(text)
    return folder / "coco.json", _read_coco


def coco_any_kind(folder: pathlib.Path) -> tuple[pathlib.Path, Read]:
    """The same file by `annotations.read`."""
    return coco_kind(folder)[0], _read_any


def via_kind(folder: pathlib.Path) -> tuple[pathlib.Path, Read]:
    """VIA 2: ellipses and circles."""
    import miniature

    return miniature.photographs(folder, 3, 64), _read_any


def labelme_kind(folder: pathlib.Path) -> tuple[pathlib.Path, Read]:
    """One file of LabelMe."""
    import miniature

    miniature.photographs(folder, 1, 64, "labelme")
    return folder / "000.json", _read_any


def h5_kind(folder: pathlib.Path) -> tuple[pathlib.Path, Read]:
    """The original's `.h5`, of the toy network."""
    from toy import ToyConfig

    from mrcnn import model as modellib, weights

    model = modellib.MaskRCNN("inference", ToyConfig(), folder)
    weights.save(model.keras_model, folder / "weights.h5")
    return folder / "weights.h5", lambda path: model.load_weights(str(path), by_name=True)


def npz_kind(folder: pathlib.Path) -> tuple[pathlib.Path, Read]:
    """Arrays with a few of the keys of torchvision's checkpoints."""
    from mrcnn import torchvision_weights

    rng = np.random.default_rng(0)
    arrays = {
        "roi_heads.box_predictor.cls_score.bias": rng.random(3, "float32"),
        "roi_heads.box_predictor.cls_score.weight": rng.random((3, 8), "float32"),
        "backbone.body.conv1.weight": rng.random((4, 3, 7, 7), "float32"),
    }
    np.savez(folder / "weights.npz", **arrays)
    return folder / "weights.npz", lambda path: torchvision_weights.read(str(path))


def _picture_kind(suffix: str, mode: str = "RGB") -> Callable:
    def kind(folder: pathlib.Path) -> tuple[pathlib.Path, Read]:
        from PIL import Image

        from mrcnn import media, utils

        rng = np.random.default_rng(0)
        smooth = rng.random((6, 8, 3)).repeat(8, axis=0).repeat(8, axis=1)
        image = Image.fromarray((smooth * 255).astype(np.uint8))
        if mode == "I;16":
            image = Image.fromarray((smooth[..., 0] * 4095).astype(np.uint16))
        elif mode != "RGB":
            image = image.convert(mode)
        path = folder / f"picture{suffix}"
        image.save(path)

        def read(path: pathlib.Path) -> None:
            utils.read_image(path)
            media.read_image(path)

        return path, read

    return kind


KINDS: dict[str, Callable[[pathlib.Path], tuple[pathlib.Path, Read]]] = {
    "coco": coco_kind,
    "coco by annotations.read": coco_any_kind,
    "via": via_kind,
    "labelme": labelme_kind,
    "h5": h5_kind,
    "npz": npz_kind,
    "jpg": _picture_kind(".jpg"),
    "png": _picture_kind(".png"),
    "png of 16 bits": _picture_kind(".png", "I;16"),
    "tif": _picture_kind(".tif"),
    "gif": _picture_kind(".gif", "P"),
    "bmp": _picture_kind(".bmp"),
    "webp": _picture_kind(".webp"),
}


# ---- Reading ------------------------------------------------------------------------------------


class Slow(BaseException):
    """Reading took longer than is allowed."""


def _too_slow(signum: int, frame: Any) -> None:
    raise Slow


def _outcome(read: Read, path: pathlib.Path, folder: pathlib.Path) -> str:
    """ "read", "refused", or what is wrong: "slow", "unnamed ...", "undocumented ..."."""
    signal.alarm(SECONDS)
    try:
        read(path)
    except (ValueError, OSError) as error:
        names = [path.name, *(other.name for other in folder.glob("*.[jp]*g"))]
        if any(name in str(error) for name in names):
            return "refused"
        return f"unnamed {type(error).__name__}"
    except Slow:
        return "slow"
    except Exception as error:
        return f"undocumented {type(error).__name__}"
    finally:
        signal.alarm(0)
    return "read"


def run(name: str, count: int, seed: int, keep: pathlib.Path | None) -> bool:
    """Reads so many damaged files of a kind; whether all was well."""
    import mutations

    outcomes: collections.Counter = collections.Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        path, read = KINDS[name](folder)
        good = path.read_bytes()
        read(path)
        for i in range(count):
            rng = np.random.default_rng([seed, i])
            if path.suffix == ".json" and i % 2:
                data = change_values(good.decode(), rng).encode()
            else:
                data = mutations.mutate(good, rng)
            path.write_bytes(data)
            start = time.monotonic()
            outcome = _outcome(read, path, folder)
            slowest = max(slowest, time.monotonic() - start)
            outcomes[outcome] += 1
            if outcome not in ("read", "refused") and keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                kept = keep / f"{name.replace(' ', '_')}_{i}_{outcome.replace(' ', '_')}"
                kept.with_suffix(path.suffix).write_bytes(data)
                with contextlib.suppress(BaseException):
                    read(path)
                if outcome != "slow":
                    try:
                        read(path)
                    except Exception:
                        kept.with_suffix(".txt").write_text(traceback.format_exc())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    well = set(outcomes) <= {"read", "refused"} and peak < GIGABYTES
    counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))
    print(f"{name}: {counts}; slowest {slowest:.1f} s, at most {peak:.1f} GB", flush=True)
    return well


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kinds", nargs="*", help=f"of {', '.join(KINDS)}; none for all")
    parser.add_argument("--count", type=int, default=1000, help="files of each (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=pathlib.Path, help="folder for the files that failed")
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, _too_slow)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    well = [run(name, options.count, options.seed, options.keep) for name in options.kinds or KINDS]
    sys.exit(not all(well))


if __name__ == "__main__":
    main()
