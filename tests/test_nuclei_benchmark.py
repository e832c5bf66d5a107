"""benchmarks/nuclei.py: its scores, table, picture and command line, without an environment."""

import json
import pathlib
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
sys.path.insert(0, str(ROOT / "benchmarks" / "nuclei_methods"))

import nuclei  # noqa: E402
import worker  # noqa: E402


def labels(*boxes, shape=(20, 40)):
    image = np.zeros(shape, np.int32)
    for number, (y1, x1, y2, x2) in enumerate(boxes, 1):
        image[y1:y2, x1:x2] = number
    return image


@pytest.fixture
def truth():
    """A dark image with two nuclei, a bright one with one."""
    dark = np.zeros((20, 40, 3), np.uint8)
    return {
        "a": nuclei.Truth(dark, labels((0, 0, 10, 10), (0, 20, 10, 30)), "fluorescence"),
        "b": nuclei.Truth(dark + 200, labels((5, 5, 15, 15)), "bright"),
    }


@pytest.fixture
def found():
    """In a: one exactly, one with an IoU of .6, one of nothing; in b: an IoU of .8."""
    return {
        "a": labels((0, 0, 10, 10), (0, 20, 6, 30), (15, 0, 20, 5)),
        "b": labels((5, 5, 13, 15)),
    }


def test_scores_of_a_method(truth, found):
    """By hand: a has 2/3 up to an IoU of .55, then 1/4; b has 1 up to .75, then 0."""
    figures = nuclei.score(truth, found)
    dark = (2 * 2 / 3 + 8 / 4) / 10
    assert figures["fluorescence"]["score at .5"] == pytest.approx(2 / 3)
    assert figures["fluorescence"]["score"] == pytest.approx(dark)
    assert figures["bright"]["score"] == pytest.approx(0.6)
    assert figures["all"]["score"] == pytest.approx((dark + 0.6) / 2)
    assert figures["all"]["nuclei"] == 3
    assert "stained" not in figures
    with pytest.raises(ValueError, match=r"none of \['b'\]"):
        nuclei.score(truth, {"a": found["a"]})


def finished(folder, found, seconds):
    """Writes what a method's program leaves behind."""
    folder.mkdir(parents=True)
    np.savez_compressed(folder / "labels.npz", **found)
    trained = {"minutes": 60.04, "cpu_minutes": 118, "peak_bytes": 2 * 2**30, "steps": 1234}
    predicted = {"seconds": dict.fromkeys(found, seconds), "peak_bytes": 2**29}
    (folder / "train.json").write_text(json.dumps(trained))
    (folder / "predict.json").write_text(json.dumps(predicted))
    return folder


def test_table_has_the_best_first_and_says_who_is_left_out(truth, found, tmp_path):
    exact = {name: image.labels for name, image in truth.items()}
    figures = {
        "classical": nuclei.figures_of(finished(tmp_path / "one", found, 0.25), truth),
        "ours": nuclei.figures_of(finished(tmp_path / "two", exact, 0.5), truth),
    }
    lines = nuclei.table(figures, {"stardist": "no disk"}).splitlines()
    assert lines[2].split(" | ") == [
        "| this package, `--small`",
        *("1.000", "1.000", "1.000, 1.000", "1.000, 1.000"),
        *("60.0", "118.0", "1234", "0.50", "2.00, 0.50 |"),
    ]
    assert lines[3].startswith(
        "| scikit-image: Otsu, distance, watershed | 0.833 | 0.467 | 0.667, 0.333 | 1.000, 0.600"
    )
    assert lines[-1] == "StarDist: left out, no disk"
    assert len({line.count("|") for line in lines[:4]}) == 1


def test_outlines_say_what_is_right(truth, found):
    """The nucleus with an IoU of .6 is right, the object of nothing wrong; the inside stays."""
    picture = nuclei.painted(truth["a"].image, found["a"], truth["a"].labels)
    assert tuple(picture[0, 20]) == nuclei.GREEN
    assert tuple(picture[15, 0]) == nuclei.RED
    assert not picture[3, 25].any()
    assert tuple(nuclei.painted(truth["a"].image, found["a"], None)[15, 0]) == nuclei.YELLOW
    touching = labels((0, 0, 10, 5), (0, 5, 10, 10))
    assert nuclei.rims(touching)[5].nonzero()[0].tolist() == [0, 4, 5, 9]


def test_picture_shows_each_kind(truth, found, tmp_path):
    assert nuclei.shown(truth) == ["a", "b"]
    nuclei.draw(tmp_path / "nuclei.png", truth, {"ours": found})
    with Image.open(tmp_path / "nuclei.png") as picture:
        pixels = np.asarray(picture)[..., :3]
    for color in (nuclei.GREEN, nuclei.RED, nuclei.YELLOW):
        assert (pixels == color).all(axis=-1).any()


def test_finished_methods_are_not_run_again(truth, found, tmp_path, monkeypatch):
    """Nor mixed with those of other options; --again and the table see the same folder."""
    options = nuclei.parse(["--minutes", "5", "--output", str(tmp_path), "--methods", "classical"])
    programs = []
    monkeypatch.setattr(nuclei, "interpreter", lambda name, cache: pathlib.Path(sys.executable))
    monkeypatch.setattr(nuclei, "_run_program", lambda *rest: programs.append(rest[2]))
    nuclei.run("classical", options)
    assert programs == ["train", "predict"]
    (tmp_path / "classical" / "train.json").write_text("{}")
    nuclei.run("classical", options)
    assert programs == ["train", "predict", "predict"]
    (tmp_path / "classical" / "predict.json").write_text("{}")
    nuclei.run("classical", options)
    assert len(programs) == 3
    options.minutes = 6.0
    with pytest.raises(ValueError, match=r"'minutes': 5.0.*Received: .*'minutes': 6.0.*--again"):
        nuclei.run("classical", options)


def test_methods_that_fail_are_left_out_with_the_reason(tmp_path):
    options = nuclei.parse(["--output", str(tmp_path), "--minutes", "0.01"])
    program = tmp_path / "program.py"
    program.write_text("import sys\nprint('one')\nsys.exit('no such thing')")
    method = nuclei.Method("broken", (str(program),))
    with pytest.raises(nuclei.LeftOutError, match="train ended with 1: no such thing"):
        nuclei._run_program(sys.executable, method, "train", tmp_path, options)
    ended = subprocess.CompletedProcess([], 1, "WARNING: a\nERROR: no matching version\nb")
    with pytest.raises(nuclei.LeftOutError, match="can't be installed: ERROR: no matching"):
        nuclei._say(ended)


def test_command_line(capsys):
    assert nuclei.parse(["--methods", "ours, stardist"]).methods == ["ours", "stardist"]
    for arguments, message in (
        (["--methods", "sam"], "of ours, torchvision.*Received: 'sam'"),
        (["--minutes", "0"], "--minutes is above 0. Received: 0"),
        (["--threads", "0"], "--threads is 1 or more. Received: 0"),
    ):
        with pytest.raises(SystemExit):
            nuclei.parse(arguments)
        assert re.search(message, capsys.readouterr().err)


def test_data_for_other_programs(tmp_path):
    """Images and labels as the dataset has them; those of another dataset are refused."""
    source = tmp_path / "source"
    for subset in nuclei.SUBSETS:
        folder = source / subset
        folder.mkdir(parents=True)
        Image.fromarray(np.full((20, 40), 7, np.uint8)).save(folder / "x.png")
        annotation = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 100}
        annotation |= {"bbox": [5, 3, 10, 10], "segmentation": [[5, 3, 15, 3, 15, 13, 5, 13]]}
        content = {
            "images": [{"id": 1, "file_name": "x.png", "height": 20, "width": 40}],
            "annotations": [annotation],
            "categories": [{"id": 1, "name": "nucleus"}],
        }
        (source / f"instances_{subset}.json").write_text(json.dumps(content))
    nuclei.write_data(source, tmp_path / "data")
    truth = nuclei.read_truth(tmp_path / "data")
    [image] = truth.values()
    np.testing.assert_array_equal(image.labels, labels((3, 5, 13, 15)))
    assert image.image.shape == (20, 40, 3)
    assert image.kind == "fluorescence"
    with pytest.raises(ValueError, match="has images of .*source. Received: .*elsewhere"):
        nuclei.write_data(tmp_path / "elsewhere", tmp_path / "data")
    job = worker.Job(tmp_path, tmp_path / "data", source, worker.Clock(0, 1), 2, 0)
    [(name, pixels, found)] = job.images("train")
    assert pixels.shape == (20, 40, 3)
    assert found.max() == 1
    worker.predict(job, lambda job: lambda image: image[..., 0] > 200)
    assert not nuclei.read_labels(tmp_path)[name].any()
    assert json.loads((tmp_path / "predict.json").read_text())["peak_bytes"] > 1e6


def test_the_learning_rate_follows_the_time():
    assert worker.cosine(0.0, 1e-3) == 0
    assert worker.cosine(0.5, 1e-3) == pytest.approx(5e-4)
    assert worker.cosine(1.0, 1e-3) == pytest.approx(0, abs=1e-12)
    assert worker.cosine(0.01, 1.0, warmup=0.02) == pytest.approx(0.5, abs=1e-3)
    clock = worker.Clock(started=0, minutes=1)
    assert clock.share == 1
    assert clock.left == 0


def test_what_takes_longer_is_ended():
    with pytest.raises(worker.TimeIsUpError), worker.at_most(0.05):
        time.sleep(10)
    with worker.at_most(0.05):
        pass
    time.sleep(0.1)  # nothing is left that would ring


# ---- Ablations -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ablations():
    sys.path.insert(0, str(ROOT))
    from benchmarks import nuclei_ablations

    return nuclei_ablations


def test_settings_of_the_ablations_fit(ablations):
    for settings, _ in ablations.TRAINED.values():
        ablations.nucleus.NucleusSmallConfig(**settings).validate()
    for settings, _ in ablations.TESTED.values():
        ablations.nucleus.NucleusSmallInferenceConfig(**settings).validate()


def test_table_of_the_ablations(ablations):
    runs = [
        {"at .5": 0.75, "mean": 0.5, "fluorescence": 0.8, "cpu_minutes": 9.0},
        {"at .5": 0.77, "mean": 0.5, "fluorescence": 0.8, "cpu_minutes": 11.0},
    ]
    lines = ablations.table({"giou": runs}).splitlines()
    assert len(lines) == 3
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells[0] == "giou" and cells[-1] == "10.0"
    assert cells[2:7] == [".760 ± .010", ".500 ± .000", ".800 ± .000", "–", "–"]


def test_ablations_are_not_made_again(ablations, tmp_path, capsys):
    """Every run's file is there: nothing is trained."""
    figures = {"at .5": 0.5, "mean": 0.25, "cpu_minutes": 1.0}
    for seed in ablations.SEEDS:
        (tmp_path / f"scale_jitter-{seed}-7.json").write_text(json.dumps(figures))
    ablations.main(["--only", "scale jitter", "--steps", "7", "--folder", str(tmp_path)])
    assert "| scale jitter | " in capsys.readouterr().out
