"""What a long life does to it: kills, full disks, threads, forks, leaks, seeds and broken files.

    python benchmarks/torture.py [kill disk threads growth seeds mutations] [--quick]

Every part prints what it found in lines that begin with `ok` or `FAILED`; the exit code is 1 where
one failed. `--quick` takes a tenth of the numbers. The network is the tests' toy, on the CPU.

- kill: training, `evaluate` and `detect` of a folder are killed by SIGKILL again and again, in the
  middle of a step or while a file is written, and started again.
- disk: checkpoints, results and pictures are written to a disk of 1 MB that is full.
- threads: four threads detect what one does; a forked and a spawned process.
- growth: memory, threads and open files over many detections, models and calls of `train`.
- seeds: the same seed twice, and with other numbers of workers.
- mutations: files of every kind with bytes or values changed.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402

from benchmarks import timing  # noqa: E402

Outcome = tuple[bool, str]

EPOCHS = 4
STEPS = 500
RESUME_SECONDS = 4


# ---- Programs that are killed --------------------------------------------------------------------


def _toy_config(**settings: Any) -> Any:
    from toy import ToyConfig

    return ToyConfig(
        **{"SEED": 0, "STEPS_PER_EPOCH": STEPS, "RESUME_SECONDS": RESUME_SECONDS, **settings}
    )


def _toy_detector(folder: pathlib.Path) -> Any:
    """An untrained network that finds objects on any image; the same weights each time."""
    import keras

    from mrcnn import model as modellib

    keras.utils.set_random_seed(0)
    config = _toy_config(IMAGES_PER_GPU=1, IMAGE_MIN_DIM=128, IMAGE_MAX_DIM=128)
    model = modellib.MaskRCNN("inference", config, folder)
    model.keras_model.get_layer("mrcnn_class_logits").layer.bias.assign([-20.0, 0, 0])
    return model


def program_train(folder: pathlib.Path) -> None:
    """Trains, or goes on with the run in the folder; each step adds a line to steps.txt."""
    import keras
    from toy import Rectangles

    from mrcnn import model as modellib

    class Steps(keras.callbacks.Callback):
        """Notes each step: its number, the optimizer's, and the time."""

        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            step = int(self.model.optimizer.iterations.numpy())
            with open(folder / "steps.txt", "a") as file:
                file.write(f"{step} {time.time()}\n")

    config = _toy_config()
    keras.utils.set_random_seed(0)
    model = modellib.MaskRCNN("training", config, folder / "logs")
    with contextlib.suppress(FileNotFoundError):
        model.load_weights(model.find_last())
    model.train(
        Rectangles(8), None, config.LEARNING_RATE, EPOCHS, "all", custom_callbacks=[Steps()]
    )
    arrays = [np.asarray(weight) for weight in model.keras_model.weights]
    np.savez(folder / "last.npz", *arrays)


def program_evaluate(folder: pathlib.Path) -> None:
    """Evaluates 60 images with a file of the results so far."""
    from toy import Rectangles

    from mrcnn import evaluate

    dataset = Rectangles(60)
    result = evaluate.evaluate(
        _toy_detector(folder), dataset, progress=False, resume=folder / "results.jsonl"
    )
    rows = collections.Counter(row["image_id"] for row in result.detections)
    (folder / "rows.json").write_text(json.dumps(sorted(rows.items())))


def program_detect(folder: pathlib.Path) -> None:
    """Detects on a folder of pictures as the samples' command does."""
    from mrcnn import commands

    args = argparse.Namespace(inputs=[str(folder / "pictures")], output=str(folder / "out"))
    commands.detect(_toy_detector(folder), ["BG", "bright", "dark"], args)


def _count(quick: bool, few: int, many: int) -> int:
    """How often a part does something: few times with --quick."""
    if quick:
        return few
    return many


def _start(program: str, folder: pathlib.Path) -> subprocess.Popen:
    folder.mkdir(parents=True, exist_ok=True)
    log = open(folder / "log.txt", "a")  # noqa: SIM115  the process holds it
    return subprocess.Popen(
        [sys.executable, __file__, "--program", program, str(folder)], stdout=log, stderr=log
    )


def _lines(path: pathlib.Path) -> list[str]:
    if not path.exists():
        return []
    return path.read_text(errors="replace").split("\n")[:-1]


def _wait_for_writing(folder: pathlib.Path, seconds: float = 2 * RESUME_SECONDS) -> bool:
    """Waits until a checkpoint is being written in the newest run there; False after a while.

    Writing takes a millisecond: this looks again and again without a pause.
    """
    runs = sorted(folder.glob("logs/*"))
    if not runs:
        return False
    start = time.time()
    while time.time() < start + seconds:
        for name in os.listdir(runs[-1]):
            if ".part" not in name:
                continue
            with contextlib.suppress(FileNotFoundError):
                if os.path.getmtime(runs[-1] / name) >= start:
                    return True
    return False


def _kill_after(
    process: subprocess.Popen, lines: pathlib.Path, wanted: int, writing: pathlib.Path | None
) -> str:
    """Kills a process when a file has so many more lines, and perhaps while a file is written.

    Returns:
        "" where it had ended, "killed", or "killed in writing".
    """
    before = len(_lines(lines))
    while process.poll() is None:
        time.sleep(0.002)
        if len(_lines(lines)) < before + wanted:
            continue
        in_writing = writing is not None and _wait_for_writing(writing)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if in_writing:
            return "killed in writing"
        return "killed"
    return ""


def _lost_seconds(lines: list[str]) -> list[float]:
    """Seconds of training that each start did again, of lines `step time`.

    A process that is killed between the resume file and its line leaves out a step's line: then the
    step before it counts.
    """
    lost = []
    times: dict[int, float] = {}
    last_step, last_time = 0, 0.0
    for line in lines:
        words = line.split()
        step, moment = int(words[0]), float(words[1])
        if step <= last_step:
            known = max((earlier for earlier in times if earlier < step), default=min(times))
            lost.append(last_time - times[known])
        times[step] = moment
        last_step, last_time = step, moment
    return lost


def _longest_pause(lines: list[str]) -> float:
    """Seconds between two steps that follow each other, at most; a loaded machine makes it long."""
    moments = [(int(words[0]), float(words[1])) for words in map(str.split, lines)]
    pauses = [
        after[1] - before[1]
        for before, after in zip(moments, moments[1:])
        if after[0] == before[0] + 1
    ]
    return max(pauses, default=0.0)


def _run_to_the_end(program: str, folder: pathlib.Path) -> None:
    code = _start(program, folder).wait()
    if code:
        raise RuntimeError(f"{program} ended with {code}:\n{_tail(folder / 'log.txt')}")


def _tail(path: pathlib.Path) -> str:
    return path.read_text(errors="replace")[-2000:]


def _killed_training(folder: pathlib.Path, kills: int, seed: int, result: dict) -> None:
    """A run that is killed so often and then left to end; every third time while it writes."""
    draw = random.Random(seed)
    done = 0
    inside_writing = 0
    # Not more steps than it has: the last third of them is left for the end.
    most = max(1, 2 * EPOCHS * STEPS // (3 * kills))
    try:
        while done < kills:
            process = _start("train", folder)
            writing = None
            if done % 3 == 2:
                writing = folder
            wanted = draw.randint(1, 2 * most - 1)
            end = _kill_after(process, folder / "steps.txt", wanted, writing)
            if not end:
                break
            inside_writing += end == "killed in writing"
            done += 1
            time.sleep(draw.random() * 0.01)
        _run_to_the_end("train", folder)
    except Exception as error:
        result["error"] = str(error)
    lines = _lines(folder / "steps.txt")
    result.update(
        kills=done, inside=inside_writing, lost=_lost_seconds(lines), pause=_longest_pause(lines)
    )


def part_kill(folder: pathlib.Path, quick: bool) -> Iterator[Outcome]:
    """Training, evaluation and detection under SIGKILL."""
    kills = _count(quick, 6, 50)
    _run_to_the_end("train", folder / "whole")
    results: list[dict] = [{}, {}]
    runs = []
    for i, result in enumerate(results):
        run = threading.Thread(
            target=_killed_training, args=(folder / f"killed{i}", kills // 2, i, result)
        )
        run.start()
        runs.append(run)
    for run in runs:
        run.join()
    whole = np.load(folder / "whole" / "last.npz")
    for i, result in enumerate(results):
        if "error" in result:
            yield False, result["error"]
            continue
        killed = np.load(folder / f"killed{i}" / "last.npz")
        worst = max(np.abs(whole[name] - killed[name]).max() for name in whole.files)
        equal = all(np.array_equal(whole[name], killed[name]) for name in whole.files)
        left = [str(path) for path in (folder / f"killed{i}").rglob(".*part*")]
        yield (
            equal,
            f"training killed {result['kills']} times, {result['inside']} of them inside a"
            f" checkpoint's writing: weights differ by {worst:g} from the undisturbed run",
        )
        lost = max(result["lost"], default=0.0)
        yield (
            lost <= RESUME_SECONDS + max(1, result["pause"]),
            f"at most {lost:.2f} s done again (RESUME_SECONDS {RESUME_SECONDS} and a step, here up"
            f" to {result['pause']:.2f} s);"
            f" {len(left)} temporary files left",
        )
    yield from _killed_evaluation(folder, _count(quick, 3, 20))
    yield from _killed_detection(folder, _count(quick, 3, 20))


def _killed_evaluation(folder: pathlib.Path, kills: int) -> Iterator[Outcome]:
    draw = random.Random(0)
    place = folder / "evaluate"
    done = 0
    while done < kills:
        process = _start("evaluate", place)
        if not _kill_after(process, place / "results.jsonl", draw.randint(1, 3), None):
            break
        done += 1
    _run_to_the_end("evaluate", place)
    _run_to_the_end("evaluate", folder / "evaluate_whole")
    same = (place / "rows.json").read_text() == (folder / "evaluate_whole/rows.json").read_text()
    entries = [json.loads(line) for line in _lines(place / "results.jsonl")[1:]]
    names = collections.Counter(json.dumps(entry["image"]) for entry in entries)
    yield (
        same and len(names) == 60 and max(names.values()) == 1,
        f"evaluate killed {done} times: {len(names)} of 60 images, each at most"
        f" {max(names.values())} times, the detections are those of an undisturbed one: {same}",
    )


def _killed_detection(folder: pathlib.Path, kills: int) -> Iterator[Outcome]:
    from toy import Rectangles

    from mrcnn import media

    draw = random.Random(0)
    place = folder / "detect"
    dataset = Rectangles(60)
    for i in dataset.image_ids:
        media.write_image(place / "pictures" / f"a{i}.png", dataset.load_image(i))
    done = 0
    while done < kills:
        process = _start("detect", place)
        while process.poll() is None and not list((place / "out").glob("*")):
            time.sleep(0.01)
        time.sleep(draw.random())
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        done += 1
    _run_to_the_end("detect", place)
    images = json.loads((place / "out/images.json").read_text())["images"]
    files = collections.Counter(image["file_name"] for image in images)
    rows = json.loads((place / "out/results.json").read_text())
    unknown = {row["image_id"] for row in rows} - {image["id"] for image in images}
    yield (
        len(files) == 60 and max(files.values()) == 1 and not unknown,
        f"detect killed {done} times: {len(files)} of 60 images, each once, {len(rows)} rows",
    )


# ---- A full disk ---------------------------------------------------------------------------------

SMALL_DISK = """
import pathlib, resource, signal, sys
import numpy as np
sys.path[:0] = [{root!r}, {tests!r}]
folder = pathlib.Path({folder!r})
from benchmarks import torture
writer = torture.WRITERS[{name!r}]()
writer(folder)                                 # a good file first
before = {{p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}}
if {limit}:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
else:
    filler = folder / "filler"
    try:
        with open(filler, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        pass
try:
    writer(folder)
    print("no error")
except OSError as error:
    print("OSError:", str(error).replace("\\n", " ")[:200])
except Exception as error:
    print(type(error).__name__ + ":", str(error).replace("\\n", " ")[:200])
now = {{p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "filler"}}
print("intact" if now == before else "CHANGED: " + ", ".join(
    str(p) for p in sorted({{*now, *before}}) if now.get(p) != before.get(p)))
"""


def _checkpoint_writer() -> Callable:
    from mrcnn import model as modellib, weights

    model = modellib.MaskRCNN("training", _toy_config(), tempfile.mkdtemp())
    return lambda folder: weights.save(model.keras_model, folder / "mask_rcnn_toy_0001.h5")


def _resume_writer() -> Callable:
    from toy import Rectangles

    from mrcnn import model as modellib, training

    model = modellib.MaskRCNN("training", _toy_config(), tempfile.mkdtemp())
    model.compile(0.001, 0.9)

    def write(folder: pathlib.Path) -> None:
        model.log_dir = str(folder)
        run = training.Run(model, Rectangles(), None, 0.001, 1, ".*", None, None, None)
        run.save()

    return write


def _picture_writer() -> Callable:
    from mrcnn import media

    return lambda folder: media.write_image(folder / "a.png", timing.noise(256))


def _json_writer() -> Callable:
    from mrcnn import media

    return lambda folder: media.write_json(folder / "a.json", list(range(50_000)))


def _results_writer() -> Callable:
    """Evaluates with a file of results so far, other images the second time."""
    from toy import Rectangles

    from mrcnn import evaluate

    model = _toy_detector(pathlib.Path(tempfile.mkdtemp()))
    calls = []

    def write(folder: pathlib.Path) -> None:
        calls.append(1)
        count = 400
        if len(calls) == 1:
            count = 2
        result = evaluate.evaluate(model, Rectangles(count), progress=False)
        result.save(folder / "out")

    return write


WRITERS = {
    "checkpoint": _checkpoint_writer,
    "resume file": _resume_writer,
    "picture": _picture_writer,
    "json": _json_writer,
    "results of evaluate": _results_writer,
}


@contextlib.contextmanager
def _small_disk(folder: pathlib.Path) -> Iterator[bool]:
    """A tmpfs of 4 MB there; False where this user can't mount one."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def part_disk(folder: pathlib.Path, quick: bool) -> Iterator[Outcome]:
    """A full disk, and a limit on the size of files, while each kind of file is written."""
    for name in WRITERS:
        for limit in (0, 4096):
            place = folder / f"{name} {limit}".replace(" ", "_")
            with contextlib.ExitStack() as stack:
                if limit:
                    place.mkdir(parents=True)
                elif not stack.enter_context(_small_disk(place)):
                    print("       no tmpfs can be mounted here; the limit on files alone is tried")
                    continue
                script = SMALL_DISK.format(
                    root=str(ROOT),
                    tests=str(ROOT / "tests"),
                    folder=str(place),
                    name=name,
                    limit=limit,
                )
                done = subprocess.run(
                    [sys.executable, "-c", script], capture_output=True, text=True
                )
            lines = done.stdout.strip().splitlines()
            good = (
                done.returncode == 0 and lines[-2].startswith("OSError") and lines[-1] == "intact"
            )
            kind = "a full disk"
            if limit:
                kind = "a limit on files"
            text = "; ".join(lines[-2:]) or done.stderr[-500:]
            yield good, f"{name}, {kind}: {text}"


# ---- Threads and processes -----------------------------------------------------------------------


def _mixed_images(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    images = []
    for _ in range(count):
        height, width = rng.integers(40, 200, 2)
        images.append(rng.integers(0, 255, (height, width, 3)).astype(np.uint8))
    return images


def _equal(first: dict, second: dict) -> bool:
    return all(
        np.array_equal(first[name], second[name]) for name in ("rois", "class_ids", "scores")
    )


def _spawned(folder: str, queue: Any) -> None:
    model = _toy_detector(pathlib.Path(folder))
    queue.put(len(model.detect(_mixed_images(1))[0]["scores"]))


def part_threads(folder: pathlib.Path, quick: bool) -> Iterator[Outcome]:
    """Four threads at once; a forked and a spawned child."""
    import multiprocessing

    count = _count(quick, 10, 50)
    model = _toy_detector(folder)
    images = _mixed_images(count)
    expected = [model.detect([image])[0] for image in images]
    results: list[list[dict]] = [[], [], [], []]

    def work(mine: list[dict]) -> None:
        for image in images:
            mine.append(model.detect([image])[0])

    workers = [threading.Thread(target=work, args=(mine,)) for mine in results]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    different = 0
    for mine in results:
        different += sum(not _equal(a, b) for a, b in zip(mine, expected)) + count - len(mine)
    yield different == 0, f"4 threads x {count} detect: {different} differ from one thread's"

    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            count_by_child = len(model.detect(images[:1])[0]["scores"])
            text = "WRONG"
            if count_by_child == len(expected[0]["scores"]):
                text = "works"
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
        os.write(write, text.encode())
        os._exit(0)
    end = time.monotonic() + 20
    ended = 0
    while not ended and time.monotonic() < end:
        ended, _ = os.waitpid(child, os.WNOHANG)
        time.sleep(0.05)
    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.write(write, b"hangs")
    answer = os.read(read, 2000).decode()
    yield answer == "works" or "spawn" in answer, f"a forked child: {answer}"

    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_spawned, args=(str(folder), queue))
    process.start()
    count_by_child = queue.get(timeout=120)
    process.join()
    yield (
        count_by_child == len(expected[0]["scores"]),
        f"a spawned child finds {count_by_child} objects as its parent",
    )


# ---- Leaks ---------------------------------------------------------------------------------------


def _state() -> tuple[float, int, int]:
    """(MB resident, threads, open files)."""
    import gc

    gc.collect()
    return timing.resident_memory(), threading.active_count(), len(os.listdir("/proc/self/fd"))


def _flat(name: str, work: Callable[[], Any], turns: int, warm: int, megabytes: float) -> Outcome:
    """Whether memory, threads and files after `turns` calls are what they were after `warm`."""
    for _ in range(warm):
        work()
    memory, threads, opened = _state()
    for _ in range(turns - warm):
        work()
    memory_now, threads_now, opened_now = _state()
    good = memory_now - memory <= megabytes and threads_now <= threads and opened_now <= opened
    return good, (
        f"{name}, from the {warm}th to the {turns}th: memory {memory:.0f} to {memory_now:.0f} MB,"
        f" threads {threads} to {threads_now}, open files {opened} to {opened_now}"
    )


def part_growth(folder: pathlib.Path, quick: bool) -> Iterator[Outcome]:
    """Memory, threads and files over many calls."""
    from toy import Rectangles

    from mrcnn import model as modellib

    model = _toy_detector(folder)
    images = iter(_mixed_images(1000))
    yield _flat(
        "detect of mixed sizes",
        lambda: model.detect([next(images)]),
        _count(quick, 60, 500),
        _count(quick, 20, 100),
        30,
    )
    yield _flat(
        "models made, used and dropped",
        lambda: _toy_detector(folder).detect(_mixed_images(1)),
        _count(quick, 6, 30),
        _count(quick, 3, 10),
        60,
    )
    trained = modellib.MaskRCNN("training", _toy_config(STEPS_PER_EPOCH=2), folder)
    epochs = iter(range(1, 100))
    yield _flat(
        "calls of train",
        lambda: trained.train(Rectangles(), None, 0.001, next(epochs), "all"),
        _count(quick, 5, 20),
        _count(quick, 2, 5),
        60,
    )


# ---- Seeds ---------------------------------------------------------------------------------------


def _losses(folder: pathlib.Path, workers: int, steps: int) -> list[float]:
    import keras
    from toy import Rectangles

    from mrcnn import model as modellib

    class Losses(keras.callbacks.Callback):
        """The running means of the loss."""

        values: list[float] = []

        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            self.values.append(float((logs or {})["loss"]))

    config = _toy_config(WORKERS=workers, STEPS_PER_EPOCH=steps)
    keras.utils.set_random_seed(0)
    model = modellib.MaskRCNN("training", config, tempfile.mkdtemp(dir=folder))
    losses = Losses()
    losses.values = []
    model.train(Rectangles(8), None, 0.001, 1, "all", custom_callbacks=[losses])
    return losses.values


def part_seeds(folder: pathlib.Path, quick: bool) -> Iterator[Outcome]:
    """The same seed twice, and with WORKERS 0, 2 and 4."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = _count(quick, 20, 60)
    expected = _losses(folder, 2, steps)
    for workers in (2, 0, 4):
        losses = _losses(folder, workers, steps)
        worst = max(abs(a - b) for a, b in zip(losses, expected))
        yield (
            losses == expected,
            f"SEED 0, {steps} steps, WORKERS {workers}: losses differ by {worst:g} from the first"
            " run with WORKERS 2",
        )


# ---- Broken files --------------------------------------------------------------------------------


def part_mutations(folder: pathlib.Path, quick: bool) -> Iterator[Outcome]:
    """Mutated files of every kind give documented errors that name the file, fast, in 2 GB."""
    from benchmarks import broken_files

    count = _count(quick, 100, 1000)
    script = str(ROOT / "benchmarks" / "broken_files.py")
    for name in broken_files.KINDS:
        done = subprocess.run(
            [sys.executable, script, name, "--count", str(count)], capture_output=True, text=True
        )
        yield done.returncode == 0, (done.stdout.strip() or done.stderr[-500:])


# ---- The parts -----------------------------------------------------------------------------------

PARTS: dict[str, Callable[[pathlib.Path, bool], Iterator[Outcome]]] = {
    "kill": part_kill,
    "disk": part_disk,
    "threads": part_threads,
    "growth": part_growth,
    "seeds": part_seeds,
    "mutations": part_mutations,
}
PROGRAMS = {"train": program_train, "evaluate": program_evaluate, "detect": program_detect}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; none for all")
    parser.add_argument("--quick", action="store_true", help="a tenth of the numbers")
    parser.add_argument("--program", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.program:
        name, folder = options.program
        PROGRAMS[name](pathlib.Path(folder))
        return
    failed = 0
    for name in options.parts or PARTS:
        if name not in PARTS:
            parser.error(f"the parts are {', '.join(PARTS)}. Received: {name!r}")
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                for good, text in PARTS[name](pathlib.Path(folder) / name, options.quick):
                    outcome = "FAILED"
                    if good:
                        outcome = "ok"
                    print(f"{outcome:6} {name}: {text}", flush=True)
                    failed += not good
            except Exception:
                traceback.print_exc()
                failed += 1
        print(f"       {name} took {time.monotonic() - start:.0f} s", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
