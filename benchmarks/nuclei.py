"""Finding nuclei: this package beside what a user would take instead, each trained from nothing.

    python benchmarks/nuclei.py --minutes 60 --output results/nuclei
    python benchmarks/nuclei.py --methods ours,stardist --minutes 60 --output results/nuclei

The same images (Data Science Bowl 2018), the same cores, the same minutes of training, the same
metric: the bowl's, `samples/nucleus/bowl.py`, at an IoU of .5 and as mean over .5 to .95, by kind
of image. Each method is a program in `nuclei_methods/` (its recipe is said there), which runs in an
environment of its own; that is made on first use under --cache, from the package index. A method
that can't be installed or fails is left out, with the reason.

What is finished is kept in a folder of the method's name under --output, and another run goes on
behind it; --again does methods anew. Writes nuclei.md, the table; nuclei.json, all figures;
nuclei.png, some images with each method's outlines: green where an object has an IoU above .5 with
a nucleus, else red.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from samples.nucleus import bowl, nucleus  # noqa: E402

DATASET = ROOT.parent / "shared" / "data" / "dsb2018"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
SUBSETS = ("train", "val")
GIB = 2**30
# What a method may need beside the minutes, to measure or to choose thresholds, in seconds.
SPARE = 3600


@dataclasses.dataclass(frozen=True)
class Environment:
    """Packages that go together.

    Attributes:
        packages: what pip is to install, with versions.
        gib: of disk that it takes.
    """

    packages: tuple[str, ...]
    gib: float


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to find nuclei.

    Attributes:
        title: its name in the table.
        script: its program in nuclei_methods/, with options.
        environment: one of ENVIRONMENTS; None for the interpreter that runs this.
    """

    title: str
    script: tuple[str, ...]
    environment: str | None = None


ENVIRONMENTS = {
    "torch": Environment(("torch==2.14.1", "torchvision==0.29.1", "cellpose==3.1.1.2"), 7),
    "stardist": Environment(
        ("stardist==0.9.1", "csbdeep==0.8.1", "tensorflow-cpu==2.15.1", "numpy<2"), 2
    ),
    "classical": Environment(("scikit-image==0.26.0",), 0.5),
}
METHODS = {
    "ours": Method("this package, `--small`", ("method_ours.py",)),
    "torchvision": Method(
        "torchvision's Mask R-CNN, ResNet-18 FPN", ("method_torchvision.py",), "torch"
    ),
    "torchvision-64": Method(
        "the same, as narrow as ours", ("method_torchvision.py", "--widths", "64"), "torch"
    ),
    "stardist": Method("StarDist", ("method_stardist.py",), "stardist"),
    "cellpose": Method("Cellpose 3", ("method_cellpose.py",), "torch"),
    "classical": Method(
        "scikit-image: Otsu, distance, watershed", ("method_classical.py",), "classical"
    ),
}


class LeftOutError(Exception):
    """Why a method has no figures."""


# ---- Environments --------------------------------------------------------------------------------


def interpreter(name: str | None, cache: pathlib.Path) -> pathlib.Path:
    """The Python of an environment, which is made where it is not there yet.

    Raises:
        LeftOutError: it can't be made.
    """
    if name is None:
        return pathlib.Path(sys.executable)
    environment = ENVIRONMENTS[name]
    folder = cache / name
    python = folder / "bin" / "python"
    installed = folder / "installed.txt"
    wanted = "\n".join(environment.packages)
    if installed.is_file() and installed.read_text() == wanted:
        return python
    print(f"Installing {', '.join(environment.packages)} into {folder}", flush=True)
    if not python.exists():
        cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache).free / GIB
        if free < environment.gib:
            raise LeftOutError(
                f"its packages take about {environment.gib} GiB, and {cache} has {free:.1f}"
            )
        _say(subprocess.run([sys.executable, "-m", "venv", str(folder)], **_CAPTURED))
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _say(subprocess.run([*pip, *environment.packages], **_CAPTURED))
    installed.write_text(wanted)
    return python


_CAPTURED = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}


def _say(ended: subprocess.CompletedProcess) -> None:
    """Raises LeftOutError with the errors of a command that failed."""
    if not ended.returncode:
        return
    lines = [line for line in ended.stdout.splitlines() if "ERROR" in line]
    reason = lines or ended.stdout.splitlines()[-3:]
    raise LeftOutError(f"its packages can't be installed: {' '.join(reason)[:500]}")


# ---- Data ----------------------------------------------------------------------------------------


@dataclasses.dataclass
class Truth:
    """A validation image with its nuclei.

    Attributes:
        image: [H, W, 3] uint8; labels: [H, W] int32, see `bowl.label_image`; kind: one of
            `bowl.KINDS`.
    """

    image: np.ndarray
    labels: np.ndarray
    kind: str


def write_data(dataset_dir: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes folder/<subset>/<id>.npz with image and labels, for programs that lack mrcnn."""
    for subset in SUBSETS:
        complete = folder / subset / "complete"
        if complete.is_file():
            source = complete.read_text()
            if source != str(dataset_dir):
                raise ValueError(f"{folder} has images of {source}. Received: {dataset_dir}")
            continue
        dataset = nucleus.NucleusDataset()
        dataset.load_nucleus(dataset_dir, subset)
        dataset.prepare()
        (folder / subset).mkdir(parents=True, exist_ok=True)
        for image_id in dataset.image_ids:
            image = dataset.load_image(image_id)
            masks, _ = dataset.load_mask(image_id)
            labels = bowl.label_image(np.moveaxis(masks, -1, 0), image.shape[:2])
            name = f"{image_id:05d}.npz"
            np.savez_compressed(
                folder / subset / name, image=image, labels=labels.astype(np.uint16)
            )
        complete.write_text(str(dataset_dir))


def read_truth(folder: pathlib.Path) -> dict[str, Truth]:
    """The validation images by name."""
    truth = {}
    for path in sorted((folder / "val").glob("*.npz")):
        with np.load(path) as file:
            image = file["image"]
            truth[path.stem] = Truth(image, file["labels"].astype(np.int32), bowl.kind_of(image))
    return truth


# ---- Running -------------------------------------------------------------------------------------


def run(name: str, options: argparse.Namespace) -> None:
    """Trains a method and lets it predict, as far as that is not done yet.

    Raises:
        LeftOutError: it can't be installed, or failed.
        ValueError: what is there was made with other options.
    """
    method = METHODS[name]
    folder = options.output / name
    check_job(folder, options)
    if (folder / "train.json").is_file() and (folder / "predict.json").is_file():
        print(f"{name}: finished before", flush=True)
        return
    python = interpreter(method.environment, options.cache)
    for command in ("train", "predict"):
        if not (folder / f"{command}.json").is_file():
            print(f"{name}: {command}", flush=True)
            _run_program(python, method, command, folder, options)


def check_job(folder: pathlib.Path, options: argparse.Namespace) -> None:
    """Notes what a method's folder is made with; raises ValueError if that was something else."""
    job = {
        "minutes": options.minutes,
        "seed": options.seed,
        "threads": options.threads,
        "dataset": str(options.dataset),
    }
    path = folder / "job.json"
    if path.is_file():
        before = json.loads(path.read_text())
        if before != job:
            raise ValueError(
                f"{folder} has results of {before}. Received: {job}. --again {folder.name} does"
                " them anew; another --output keeps both"
            )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(job))


def _run_program(
    python: pathlib.Path,
    method: Method,
    command: str,
    folder: pathlib.Path,
    options: argparse.Namespace,
) -> None:
    """Runs a method's program; raises LeftOutError with its last lines if it fails."""
    script, *more = method.script
    arguments = [str(python), str(ROOT / "benchmarks" / "nuclei_methods" / script), command]
    arguments += [str(folder), *more, f"--data={options.output / 'data'}"]
    arguments += [f"--dataset={options.dataset}", f"--minutes={options.minutes}"]
    arguments += [f"--threads={options.threads}", f"--seed={options.seed}"]
    log = folder / f"{command}.txt"
    with open(log, "w") as file:
        started = time.time()
        process = subprocess.Popen(
            [*arguments, f"--started={started}"],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=bounded(options.threads),
        )
        try:
            code = process.wait(options.minutes * 60 + SPARE)
        except subprocess.TimeoutExpired as error:
            raise LeftOutError(f"{command} was not over {SPARE} s after its time") from error
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if code:
        lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
        raise LeftOutError(f"{command} ended with {code}: {lines[-1][:300]} (see {log})")


def bounded(threads: int) -> dict[str, str]:
    """The environment of a program that computes with so many threads."""
    names = (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "NUMBA_NUM_THREADS",
        "TF_NUM_INTRAOP_THREADS",
        "TF_NUM_INTEROP_THREADS",
    )
    # A program that finds this package's path would take its environment's numpy for another one.
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return {**inherited, **dict.fromkeys(names, str(threads)), "CUDA_VISIBLE_DEVICES": ""}


def stay_on_cores(number: int) -> None:
    """Keeps this process and those that it starts on so many cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:number])


# ---- Figures -------------------------------------------------------------------------------------


def read_labels(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """A method's label images by name."""
    with np.load(folder / "labels.npz") as file:
        return {name: file[name] for name in file.files}


def score(truth: Mapping[str, Truth], labels: Mapping[str, np.ndarray]) -> dict:
    """The bowl's metric over all images and by kind, see `bowl.evaluate`.

    Raises:
        ValueError: images are missing, or are of another size.
    """
    missing = sorted(set(truth) - set(labels))
    if missing:
        raise ValueError(
            f"Each of the {len(truth)} images needs labels. Received: none of {missing[:5]}"
        )
    rows = []
    for name, image in truth.items():
        predicted = labels[name]
        errors = bowl.errors(image.labels, predicted)
        rows.append((image.kind, errors, bowl.scores(image.labels, predicted)))
    return bowl.by_kind(rows)


def figures_of(folder: pathlib.Path, truth: Mapping[str, Truth]) -> dict:
    """All figures of a finished method: its reports, and "scores" of `score`."""
    trained = json.loads((folder / "train.json").read_text())
    predicted = json.loads((folder / "predict.json").read_text())
    return {"train": trained, "predict": predicted, "scores": score(truth, read_labels(folder))}


def table(figures: Mapping[str, dict], left_out: Mapping[str, str]) -> str:
    """The figures as a table in Markdown, the best mean score first.

    Args:
        figures: {method: of `figures_of`}.
        left_out: {method: why it has none}.
    """
    kinds = [kind for kind in bowl.KINDS if any(kind in row["scores"] for row in figures.values())]
    heads = ["method", "at .5", "mean .5 to .95", *(f"{kind}: .5, mean" for kind in kinds)]
    heads += ["training, min", "of CPU", "steps", "s an image", "peak GiB: training, after"]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for name in sorted(figures, key=lambda name: -figures[name]["scores"]["all"]["score"]):
        lines.append(f"| {' | '.join(_cells(METHODS[name].title, figures[name], kinds))} |")
    for name, reason in left_out.items():
        lines.append(f"\n{METHODS[name].title}: left out, {reason}")
    return "\n".join(lines) + "\n"


def _cells(title: str, row: dict, kinds: Iterable[str]) -> list[str]:
    """A line of the table."""
    every = row["scores"]["all"]
    trained = row["train"]
    cells = [title, f"{every['score at .5']:.3f}", f"{every['score']:.3f}"]
    for kind in kinds:
        of_kind = row["scores"].get(kind)
        text = ""
        if of_kind:
            text = f"{of_kind['score at .5']:.3f}, {of_kind['score']:.3f}"
        cells.append(text)
    cells += [f"{trained['minutes']:.1f}", f"{trained['cpu_minutes']:.1f}"]
    cells.append(str(trained.get("steps", "")))
    cells.append(f"{statistics.mean(row['predict']['seconds'].values()):.2f}")
    peaks = [trained["peak_bytes"], row["predict"]["peak_bytes"]]
    cells.append(", ".join(f"{peak / GIB:.2f}" for peak in peaks))
    return cells


# ---- Picture -------------------------------------------------------------------------------------

SIDE = 256  # pixels of an image that are shown at most
GREEN = (60, 220, 60)
RED = (255, 60, 60)
YELLOW = (255, 210, 0)


def rims(labels: np.ndarray) -> np.ndarray:
    """[H, W] bool: pixels of objects that have a neighbour of another one, or of none."""
    padded = np.pad(labels, 1)
    rim = np.zeros(labels.shape, bool)
    for neighbour in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        rim |= neighbour != labels
    return rim & (labels > 0)


def painted(image: np.ndarray, labels: np.ndarray, truth: np.ndarray | None) -> np.ndarray:
    """A copy of an image [H, W, 3] with outlines: yellow without truth, else right or wrong."""
    picture = image.copy()
    rim = rims(labels)
    if truth is None:
        picture[rim] = YELLOW
        return picture
    _, objects, iou = bowl.overlaps(truth, labels)
    right = np.isin(labels, objects[iou > bowl.THRESHOLDS[0]])
    picture[rim & right] = GREEN
    picture[rim & ~right] = RED
    return picture


def shown(truth: Mapping[str, Truth]) -> list[str]:
    """Of each kind the image with the median number of nuclei; and the one with most of all."""
    counts = {name: int(image.labels.max()) for name, image in truth.items()}
    names = []
    for kind in bowl.KINDS:
        of_kind = sorted((counts[name], name) for name in truth if truth[name].kind == kind)
        if of_kind:
            names.append(of_kind[len(of_kind) // 2][1])
    most = max(counts, key=lambda name: counts[name])
    if most not in names:
        names.append(most)
    return names


def draw(
    path: pathlib.Path, truth: Mapping[str, Truth], methods: Mapping[str, Mapping[str, np.ndarray]]
) -> None:
    """Writes a picture: a row for each of `shown`, the truth and each method's outlines.

    Args:
        methods: {method: {image's name: labels [H, W]}}.
    """
    from matplotlib import figure

    names = shown(truth)
    columns = 1 + len(methods)
    sheet = figure.Figure((2.6 * columns, 2.8 * len(names)), layout="constrained")
    axes = sheet.subplots(len(names), columns, squeeze=False)
    for row, name in zip(axes, names):
        image = truth[name]
        top, left = [max(0, (side - SIDE) // 2) for side in image.labels.shape]
        part = np.s_[top : top + SIDE, left : left + SIDE]
        row[0].imshow(painted(image.image, image.labels, None)[part])
        row[0].set_title(f"truth, {image.kind}", fontsize=8)
        for ax, (method, labels) in zip(row[1:], methods.items()):
            predicted = labels[name]
            ax.imshow(painted(image.image, predicted, image.labels)[part])
            mean = bowl.scores(image.labels, predicted).mean()
            ax.set_title(f"{method} {mean:.2f}", fontsize=8)
    for ax in axes.flat:
        ax.set_axis_off()
    sheet.savefig(path, dpi=110)


# ---- The one that asks ---------------------------------------------------------------------------


def names_of(text: str) -> list[str]:
    """Methods from a list with commas."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"of {', '.join(METHODS)}. Received: {text!r}")
    return names


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60, help="of training, each")
    parser.add_argument("--methods", type=names_of, default=list(METHODS), metavar="A,B")
    parser.add_argument("--again", type=names_of, default=[], metavar="A,B", help="do these anew")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "results" / "nuclei")
    parser.add_argument(
        "--dataset", type=pathlib.Path, default=DATASET, help="with subsets train and val"
    )
    parser.add_argument(
        "--cache",
        type=pathlib.Path,
        default=CACHE / "mrcnn-nuclei",
        help="folder of the environments (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, default=2, help="and cores (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.minutes <= 0:
        parser.error(f"--minutes is above 0. Received: {options.minutes}")
    if options.threads < 1:
        parser.error(f"--threads is 1 or more. Received: {options.threads}")
    for name in ("output", "dataset", "cache"):
        setattr(options, name, getattr(options, name).resolve())
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    stay_on_cores(options.threads)
    for name in options.again:
        shutil.rmtree(options.output / name, ignore_errors=True)
    write_data(options.dataset, options.output / "data")
    truth = read_truth(options.output / "data")
    figures = {}
    left_out = {}
    for name in options.methods:
        try:
            run(name, options)
            figures[name] = figures_of(options.output / name, truth)
        except LeftOutError as reason:
            left_out[name] = str(reason)
            print(f"{name}: left out, {reason}", flush=True)
    if not figures:
        sys.exit("error: no method has figures")
    text = table(figures, left_out)
    (options.output / "nuclei.md").write_text(text)
    report = {"figures": figures, "left out": left_out}
    (options.output / "nuclei.json").write_text(json.dumps(report, indent=1))
    draw(
        options.output / "nuclei.png",
        truth,
        {name: read_labels(options.output / name) for name in figures},
    )
    print(f"\n{text}\n{options.output / 'nuclei.png'}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
