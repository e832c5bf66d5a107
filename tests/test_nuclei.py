"""The nucleus sample on COCO's json, the bowl's metric, and its figures by kind of image."""

import concurrent.futures
import importlib.util
import json
import pathlib
import shutil
import sys

import numpy as np
import oracle
import pytest
from PIL import Image

from mrcnn import data, evaluate, masks

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "samples" / "nucleus"


def load(name):
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bowl():
    return load("bowl")


@pytest.fixture(scope="module")
def nucleus():
    return load("nucleus")


def labels(*boxes, shape=(20, 40)):
    image = np.zeros(shape, np.int32)
    for number, (y1, x1, y2, x2) in enumerate(boxes, 1):
        image[y1:y2, x1:x2] = number
    return image


def test_scores_by_hand(bowl):
    """Two nuclei: one found exactly, one with an IoU of .6, one object of nothing."""
    truth = labels((0, 0, 10, 10), (0, 20, 10, 30))
    predicted = labels((0, 0, 10, 10), (0, 20, 6, 30), (15, 0, 20, 5))
    np.testing.assert_allclose(bowl.scores(truth, predicted), [2 / 3, 2 / 3] + [1 / 4] * 8)
    assert bowl.scores(truth, truth).tolist() == [1] * 10
    assert bowl.scores(truth * 0, truth * 0).tolist() == [1] * 10
    assert bowl.scores(truth, truth * 0).tolist() == [0] * 10
    assert bowl.scores(truth * 0, predicted).tolist() == [0] * 10
    with pytest.raises(ValueError, match=r"one shape. Received: \(20, 40\) and \(20, 39\)"):
        bowl.scores(truth, predicted[:, 1:])


def test_an_iou_of_exactly_one_half_is_not_found(bowl):
    """Nor is it twice: a nucleus in two equal halves is one miss and two false objects."""
    truth = labels((0, 0, 10, 10))
    halves = labels((0, 0, 5, 10), (5, 0, 10, 10))
    assert bowl.scores(truth, halves).tolist() == [0] * 10
    assert bowl.scores(truth, labels((0, 0, 5, 10))).tolist() == [0] * 10


def test_a_pixel_belongs_to_the_first(bowl):
    masks = np.zeros((2, 4, 6), bool)
    masks[0, :, :4] = True
    masks[1, :, 2:] = True
    expected = np.array([[1, 1, 1, 1, 2, 2]] * 4)
    np.testing.assert_array_equal(bowl.label_image(masks, (4, 6)), expected)
    # One without a pixel left is no object.
    scores = bowl.scores(expected, bowl.label_image([*masks, masks[0]], (4, 6)))
    assert scores.tolist() == [1] * 10


# Two rows of nuclei: 1 and 2 touch, 3 is wide, 4 stands alone.
NUCLEI = ((0, 0, 10, 10), (0, 10, 10, 20), (12, 0, 18, 12), (12, 24, 18, 34))


@pytest.mark.parametrize(
    "objects, expected",
    [
        # Each by itself.
        (NUCLEI, {"found": [1, 2, 3, 4]}),
        ((), {"missed": [1, 2, 3, 4]}),
        # One over 1 and 2, with an IoU of .5 with both; 3 in halves; one where there is nothing.
        (
            ((0, 0, 10, 20), (12, 0, 18, 6), (12, 6, 18, 12), (0, 30, 4, 34)),
            {
                "merged": [1, 2],
                "split": [3],
                "missed": [4],
                "false": [4],
                "merging": [1],
                "pieces": [2, 3],
            },
        ),
        # It fits nucleus 1 well (100 of 160 pixels), and covers .6 of 2: that one alone is merged.
        (((0, 0, 10, 16),), {"found": [1], "merged": [2], "missed": [3, 4], "merging": [1]}),
        # Half of 2 is not most of it.
        (((0, 0, 10, 15),), {"found": [1], "missed": [2, 3, 4]}),
        # A third of 3, and a quarter: together 42 of 72 pixels; without the quarter 24, not most.
        (
            ((12, 0, 18, 4), (12, 6, 18, 9)),
            {"split": [3], "missed": [1, 2, 4], "pieces": [1, 2]},
        ),
        (((12, 0, 18, 4), (12, 6, 18, 8)), {"missed": [1, 2, 3, 4], "false": [1, 2]}),
        # A second piece beside one that is good enough is false.
        (((12, 0, 18, 8), (12, 8, 18, 12)), {"found": [3], "missed": [1, 2, 4], "false": [2]}),
        # Pieces lie mostly in their nucleus: the second does not (24 of its 60 pixels).
        (((12, 0, 18, 6), (12, 8, 18, 18)), {"missed": [1, 2, 3, 4], "false": [1, 2]}),
    ],
    ids=[
        "found",
        "nothing",
        "each kind",
        "found and merged",
        "half",
        "split in part",
        "too little",
        "second piece",
        "sticks out",
    ],
)
def test_errors_by_hand(bowl, objects, expected):
    truth = labels(*NUCLEI)
    predicted = labels(*objects)
    errors = bowl.errors(truth, predicted)
    found = {name: numbers.tolist() for name, numbers in errors._asdict().items() if len(numbers)}
    assert found == expected
    # The numbers are those of the metric.
    assert errors.nuclei == 4
    hits = len(errors.found)
    assert bowl.scores(truth, predicted)[0] == hits / (4 + len(objects) - hits)


def test_errors_of_nothing_and_of_gaps_in_the_numbers(bowl):
    empty = labels()
    assert all(len(numbers) == 0 for numbers in bowl.errors(empty, empty))
    assert bowl.errors(empty, labels(*NUCLEI)).false.tolist() == [1, 2, 3, 4]
    apart = labels(*NUCLEI) * 5
    apart[apart == 10] = 0
    errors = bowl.errors(apart, labels(*NUCLEI))
    assert errors.found.tolist() == [5, 15, 20] and errors.false.tolist() == [2]
    assert not len(errors.missed)
    with pytest.raises(ValueError, match="one shape"):
        bowl.errors(apart, empty[:5])


def test_count_interval_by_hand(bowl):
    """Of nine images the errors are -.4, -.3 ... .4 of (counted + 1); .8 takes all of them."""
    counted = [9] * 9
    true = [5, 6, 7, 8, 9, 10, 11, 12, 13]
    assert bowl.count_interval(counted, true, 19) == pytest.approx((11, 27))
    assert bowl.count_interval(counted[::-1], true[::-1], 0) == pytest.approx((0, 0.4))
    # Of 19 images .8 leaves one out at each end, and .9 none.
    more = [0, *true, *true, 99]
    assert bowl.count_interval([9] * 20, more, 19) == pytest.approx((11, 27))
    low, high = bowl.count_interval([9] * 20, more, 19, share=0.9)
    assert (low, high) == pytest.approx((19 - 18, 19 + 180))
    with pytest.raises(ValueError, match=r"0.8 needs 9 images .*Received: 8"):
        bowl.count_interval(counted[1:], true[1:], 19)
    with pytest.raises(ValueError, match="between 0 and 1. Received: 1"):
        bowl.count_interval(counted, true, 19, share=1)
    with pytest.raises(ValueError, match="9 counted and 8 true"):
        bowl.count_interval(counted, true[1:], 19)


def test_intervals_hold_the_promised_share(bowl):
    """Of 4000 draws of a new image and 24 known ones, at least .8 and, as k is whole, at most 1 -
    (2 k - 1) / 25 and a bit; with a counter that misses a third."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(4000):
        true = rng.integers(1, 100, 25)
        counted = rng.binomial(true, 0.67)
        low, high = bowl.count_interval(counted[1:], true[1:], counted[0])
        inside += low <= true[0] <= high
    assert 0.8 < inside / 4000 < 0.9


def test_kinds(bowl):
    gray = np.full((8, 8, 3), 30, np.uint8)
    pink = np.array([230, 180, 220], np.uint8) + np.zeros((8, 8, 3), np.uint8)
    assert [bowl.kind_of(x) for x in (gray, 255 - gray, pink)] == [
        "fluorescence",
        "bright",
        "stained",
    ]


@pytest.fixture
def coco_folder(tmp_path):
    """A dark image with two nuclei, a pink one with one, a dark one without any."""

    images, annotations = [], []
    (tmp_path / "odd").mkdir()
    colors = [(20, 20, 20), (230, 180, 220), (20, 20, 20)]
    for number, color in enumerate(colors, 1):
        picture = np.zeros((30, 40, 3), np.uint8) + np.array(color, np.uint8)
        name = f"{number}.png"
        images.append({"id": number, "file_name": name, "width": 40, "height": 30})
        for left in (2, 20)[: [2, 1, 0][number - 1]]:
            mask = np.zeros((30, 40), np.uint8)
            mask[5:15, left : left + 10] = 1
            picture[mask > 0] = 120
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 4,
                    "iscrowd": 0,
                    "area": 100,
                    "bbox": [left, 5, 10, 10],
                    "segmentation": {
                        "size": [30, 40],
                        "counts": masks.encode(mask[..., None])[0]["counts"],
                    },
                }
            )
        Image.fromarray(picture).save(tmp_path / "odd" / name)
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 4, "name": "nucleus"}],
    }
    for annotation in annotations:
        counts = annotation["segmentation"]["counts"]
        if isinstance(counts, bytes):
            annotation["segmentation"]["counts"] = counts.decode()
    (tmp_path / "instances_odd.json").write_text(json.dumps(content))
    return tmp_path


def test_reads_coco(nucleus, coco_folder):
    dataset = nucleus.NucleusDataset()
    dataset.load_nucleus(coco_folder, "odd")
    dataset.prepare()
    assert dataset.class_names == ["BG", "nucleus"]
    assert [len(dataset.load_mask(i)[1]) for i in dataset.image_ids] == [2, 1, 0]
    masks, class_ids = dataset.load_mask(0)
    assert masks[5:15, 2:12, 0].all() and masks.sum() == 200 and class_ids.tolist() == [1, 1]
    assert dataset.load_image(1).shape == (30, 40, 3)


def test_figures_by_kind(nucleus, bowl, coco_folder):
    """All found but one of the dark image's two, which an object of low score would have been."""
    dataset = nucleus.NucleusDataset()
    dataset.load_nucleus(coco_folder, "odd")
    dataset.prepare()
    rows = []
    for i in dataset.image_ids:
        info = dataset.image_info[i]
        for place, item in enumerate(info["annotations"]):
            score = 0.4 if place == 1 else 0.9
            row = {key: item[key] for key in ("image_id", "category_id", "bbox", "segmentation")}
            rows.append({**row, "score": score})
    truth = evaluate.ground_truth(dataset, dataset.image_ids)
    result = evaluate.evaluate_detections(dataset, rows, dataset.image_ids, truth=truth)
    figures = bowl.evaluate(result, dataset)
    assert set(figures) == {"all", "fluorescence", "stained"}
    assert figures["fluorescence"]["score"] == 0.75  # of .5 and, without objects, 1
    assert figures["stained"]["score"] == 1
    assert figures["all"]["score at .5"] == pytest.approx(2.5 / 3)
    assert figures["all"]["images"] == 3 and figures["all"]["nuclei"] == 3
    assert bowl.evaluate(result, dataset, min_score=0.3)["all"]["score"] == 1
    result.unreadable = [(1, "truncated")]
    figures_without = bowl.evaluate(result, dataset)
    assert "stained" not in figures_without and figures_without["all"] == figures["all"]
    text = bowl.table(figures)
    assert "fluorescence" in text and "0.750" in text
    assert [figures["all"][name] for name in bowl.ERRORS] == [2, 1, 0, 0, 0]
    lines = [line.split() for line in bowl.error_table(figures).splitlines()]
    assert lines[0] == ["nuclei", "found", "missed", "merged", "split", "false"]
    assert lines[2] == ["fluorescence", "2", "1", "1", "0", "0", "0"]
    assert bowl.headline(figures).endswith("mean of .5 to .95 0.833, on 3 images with 3 nuclei")


def test_real_images(nucleus, bowl):
    """The counts and kinds of the shared README."""
    dataset = nucleus.NucleusDataset()
    folder = oracle.shared("data/dsb2018")
    dataset.load_nucleus(folder, "val")
    dataset.prepare()
    kinds = [bowl.kind_of(dataset.load_image(i)) for i in dataset.image_ids]
    assert [kinds.count(kind) for kind in bowl.KINDS] == [60, 7, 1]
    assert sum(len(info["annotations"]) for info in dataset.image_info) == 3374
    content = json.loads((folder / "instances_val.json").read_text())
    by_name = {image["file_name"]: image["kind"] for image in content["images"]}
    names = [pathlib.Path(info["path"]).name for info in dataset.image_info]
    assert kinds == [by_name[name] for name in names]


@pytest.fixture
def pictured(bowl, nucleus):
    """The drawing module, the validation images, and what stands for detections on twelve: of each
    image one object over its first two nuclei, one of half of the third, one of nothing."""
    from samples.nucleus import bowl as packaged, drawing

    dataset = nucleus.prepared_subset(nucleus.DATA_DIR, "val")
    images = []
    for image_id in dataset.image_ids[:12]:
        masks, _ = dataset.load_mask(image_id)
        truth = packaged.label_image(np.moveaxis(masks, -1, 0), masks.shape[:2])
        predicted = truth.copy()
        predicted[truth == 2] = 1
        predicted[(truth == 3) & (np.arange(truth.shape[1]) % 3 > 0)] = 0
        rows, columns = np.nonzero(truth == 0)
        predicted[rows[0], columns[0]] = truth.max() + 1
        kind = packaged.kind_of(dataset.load_image(image_id))
        images.append(packaged.Labelled(int(image_id), kind, truth, predicted))
    return drawing, dataset, images


def shown_texts(figure):
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


@pytest.mark.long
def test_pictures_of_errors(pictured):
    """Titles and bars say what the errors are; an image without detections is drawn as well."""
    drawing, dataset, images = pictured
    with_errors = [image for image in images if len(image.errors.merged) and image.nuclei > 3]
    assert with_errors and all(image.errors.false.size for image in images)
    texts = shown_texts(drawing.draw_beside(images[:2], dataset))
    assert f"image {images[0].image_id}, {images[0].kind}: {images[0].nuclei} nuclei" == texts[0]
    assert texts[2].startswith(f"{images[0].counted} detected, score 0.")
    blank = [
        type(image)(image.image_id, image.kind, image.truth, image.truth * 0) for image in images
    ]
    assert shown_texts(drawing.draw_beside(blank[:1], dataset))[1].startswith("0 detected")
    texts = shown_texts(drawing.draw_errors(images, dataset))
    assert texts.count("merged") == 5 and texts.count("false") == 5 and "split: none" in texts
    assert shown_texts(drawing.draw_errors(blank, dataset)) == [
        *["missed"] * 5,
        "merged: none",
        "split: none",
        "false: none",
    ]
    by_kind = drawing.plot_errors(images).axes[0]
    kinds = [label.get_text().split("\n")[0] for label in by_kind.get_xticklabels()]
    of_kind = [image for image in images if image.kind == kinds[0]]
    found = sum(len(image.errors.found) for image in of_kind)
    assert by_kind.patches[0].get_height() == found / sum(image.nuclei for image in of_kind)


def test_pictures_of_counts(pictured, bowl):
    drawing, _, images = pictured
    ax = drawing.plot_counts(images).axes[0]
    assert (ax.get_xlabel(), len(ax.collections)) == ("counted", 12)
    rows = [line.split() for line in bowl.count_table(images).splitlines()]
    true = sum(image.nuclei for image in images)
    counted = sum(image.counted for image in images)
    assert rows[1][:4] == ["all", "12", str(true), str(counted)]
    off = np.mean([abs(image.nuclei - image.counted) for image in images])
    assert rows[1][4] == f"{off:.1f}" and rows[1][-2:] == ["of", "12"]


def test_examples_are_of_each_kind(bowl):
    """Of each kind the median by score, then the densest of the others; the worst are the worst."""

    def image(number, kind, found, nuclei):
        truth = labels(*[(0, 4 * i, 4, 4 * i + 4) for i in range(nuclei)])
        return bowl.Labelled(number, kind, truth, truth * (truth <= found))

    images = [
        image(0, "fluorescence", 0, 4),
        image(1, "fluorescence", 2, 4),
        image(2, "fluorescence", 4, 4),
        image(3, "stained", 1, 9),
        image(4, "fluorescence", 5, 6),
        image(5, "fluorescence", 1, 8),
    ]
    assert [each.image_id for each in bowl.examples(images)] == [1, 3, 5, 4]
    assert [each.image_id for each in bowl.worst(images, 3)] == [0, 3, 5]
    assert (images[4].nuclei, images[4].counted) == (6, 5)


@pytest.mark.long
def test_survey_and_pictures_of_data(nucleus):
    """Diameters and shares by hand; every kind, and each augmentation, has its picture."""
    from mrcnn import augmentation
    from samples.nucleus import drawing

    dataset = nucleus.prepared_subset(nucleus.DATA_DIR, "train")
    found = drawing.survey(dataset)
    assert [len(found.of_kind(kind)) for kind in drawing.KIND_COLORS] == [56, 7, 1]
    assert sum(map(len, found.diameters)) == 1704
    masks, _ = dataset.load_mask(3)
    areas = masks.sum(axis=(0, 1))
    np.testing.assert_allclose(np.sort(found.diameters[3]), np.sort(2 * np.sqrt(areas / np.pi)))
    assert found.shares[3] == pytest.approx(masks.any(axis=-1).mean())
    assert found.table().splitlines()[3].split()[:3] == ["bright", "1", "55"]
    assert [found.kinds[i] for i in found.typical()] == list(drawing.KIND_COLORS)
    dense = found.densest("stained", 4)
    assert [found.kinds[i] for i in dense] == ["stained"] * 4
    counts = [len(found.diameters[i]) for i in dense]
    assert counts == sorted(counts, reverse=True)
    titles = shown_texts(drawing.draw_kinds(dataset, found, columns=2))
    assert len(titles) == 5 and titles[-1] == "bright, 55 nuclei"
    steps = {"Turn": augmentation.Turn([90]), "own": lambda image, masks: (image, masks[..., :1])}
    figure = drawing.draw_augmentations(dataset, found.typical()[:2], steps)
    assert shown_texts(figure) == ["before", "Turn", "own"] * 2
    assert shown_texts(drawing.draw_mixing(dataset, dense[:3]))[-2:] == ["COPY_PASTE", "MOSAIC"]
    assert len(drawing.plot_sizes(found).axes) == 3


def test_images_mix_within_their_kind(nucleus, tmp_path, coco_folder):
    dataset = nucleus.prepared_subset(nucleus.DATA_DIR, "train")
    groups = [info["mixing_group"] for info in dataset.image_info]
    assert [groups.count(kind) for kind in ("fluorescence", "stained", "bright")] == [56, 7, 1]
    stained = groups.index("stained")
    partners = data._partners(dataset, stained)
    assert {groups[i] for i in partners} == {"stained"} and len(partners) == 7
    # Without a kind they mix with all; one that is no text is an error.
    assert "mixing_group" not in nucleus.prepared_subset(coco_folder, "odd").image_info[0]
    path = coco_folder / "instances_odd.json"
    content = json.loads(path.read_text())
    content["images"][1]["kind"] = 3
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is a text. Received: 3 of image 2 in .*odd.json"):
        nucleus.prepared_subset(coco_folder, "odd")


@pytest.mark.long
def test_rare_kinds_are_repeated_for_the_small_network(nucleus, tmp_path):
    """In COCO's json; an image that can't be read is left to the check that names it."""
    folder = tmp_path / "nuclei"
    shutil.copytree(nucleus.DATA_DIR, folder)
    dataset = nucleus.prepared_subset(folder, "train")
    broken = pathlib.Path(dataset.image_info[0]["path"])
    broken.write_bytes(b"no image")
    train_set, val_set = nucleus._sets(nucleus.NucleusSmallConfig(), folder, "train")
    assert val_set is None
    infos = train_set.image_info
    kinds = [info["mixing_group"] for info in infos]
    factors = [info.get("repeat_factor", 1) for info in infos]
    assert factors == [1 if kind == "fluorescence" else 2 for kind in kinds] and sum(factors) == 72
    train_set, _ = nucleus._sets(nucleus.NucleusConfig(), folder, "train")
    assert not any("repeat_factor" in info for info in train_set.image_info)


@pytest.mark.long
def test_demo(nucleus, bowl, tmp_path, monkeypatch, capsys):
    """Its settings, the files it writes and its last line, with a model that stands for the real
    one; a second call does not train again."""
    from mrcnn import commands

    trained = []

    def train_on(config, make_dataset, val_set, args, augmentation):
        trained.append((config, make_dataset().num_images, val_set.num_images, args.epochs))
        return 12.3

    def evaluate_none(model, dataset, args, report=True):
        truth = evaluate.ground_truth(dataset, dataset.image_ids)
        return evaluate.evaluate_detections(dataset, [], dataset.image_ids, truth=truth)

    modes = []
    monkeypatch.setattr(commands, "train_on", train_on)
    monkeypatch.setattr(commands, "load_model", lambda *given: modes.append(given))
    monkeypatch.setattr(commands, "evaluate", evaluate_none)
    monkeypatch.chdir(tmp_path)
    nucleus.main(["demo", "--seed=4", "--set", "LEARNING_RATE=0.01"])
    ((config, images, unseen, epochs),) = trained
    assert (images, unseen, epochs) == (64, 24, nucleus.DEMO_EPOCHS)
    assert (config.SEED, config.STEPS_PER_EPOCH, config.LEARNING_RATE) == (
        4,
        nucleus.DEMO_STEPS,
        0.01,
    )
    ((mode, used, args),) = modes
    assert (mode, used.BATCH_SIZE, used.IMAGE_RESIZE_MODE) == ("inference", 1, "pad64")
    assert (args.weights, args.logs) == ("last", "nuclei/logs")
    lines = capsys.readouterr().out.strip().splitlines()
    assert "nuclei/nuclei.png" in lines
    assert lines[-1:] == [
        "bowl's metric at IoU .5 0.000, mean of .5 to .95 0.000, on 24 images with 673 nuclei,"
        " trained in 12 s",
    ]
    figures = json.loads((tmp_path / "nuclei" / "bowl.json").read_text())
    assert figures["all"]["missed"] == 673
    with Image.open(tmp_path / "nuclei" / "nuclei.png") as picture:
        assert min(picture.size) > 400


def test_losses_of_a_run_that_is_taken_up(tmp_path):
    """An epoch that is done again replaces what was written of it; what is no loss is left out."""
    from mrcnn import commands

    path = tmp_path / "losses.json"
    for epoch, loss in [(0, 3.0), (1, 2.0), (1, 1.5), (2, 1.0)]:
        logs = {"loss": np.float32(loss), "rpn_class_loss": loss / 2, "learning_rate": 0.1}
        commands._write_losses(path, epoch, logs)
    assert json.loads(path.read_text()) == {
        "loss": [3.0, 1.5, 1.0],
        "rpn_class_loss": [1.5, 0.75, 0.5],
    }


def test_command_line(nucleus, coco_folder, capsys):
    with pytest.raises(SystemExit):
        nucleus.main(["evaluate", f"--dataset={coco_folder}", "--subset=other"])
    said = capsys.readouterr().err
    assert "invalid choice: 'other'" in said and "instances_<subset>.json" in said
    for wrong, message in [
        (["demo", "--subset=val"], "it has no --subset"),
        (["evaluate", "--restart", "--subset=val"], "--restart is of demo"),
        (["evaluate", "--seed=3", "--subset=val"], "has --set SEED=3"),
    ]:
        with pytest.raises(SystemExit):
            nucleus.main(wrong)
        assert message in capsys.readouterr().err
    arguments = ["train", "--small", "--dataset=x"]
    assert nucleus._with_random_weights(arguments)[-1] == "--weights=none"
    assert nucleus._with_random_weights([*arguments, "--weights=last"])[-1] == "--weights=last"
    assert nucleus._with_random_weights(["train"]) == ["train"]


def test_training_takes_label_maps(nucleus, coco_folder):
    """The same masks as load_mask; an edited annotation counts at once; so does a subclass's own
    load_mask."""
    dataset = nucleus.NucleusDataset()
    dataset.load_nucleus(coco_folder, "odd")
    dataset.prepare()
    for _ in range(3):
        maps, class_ids = dataset.load_label_maps(0)
        expected, expected_ids = dataset.load_mask(0)
        np.testing.assert_array_equal(maps, expected)
        assert class_ids.tolist() == expected_ids.tolist() == [1, 1]
    annotations = dataset.image_info[0]["annotations"]
    annotations[1]["segmentation"] = {"size": [30, 40], "counts": [1200]}
    assert dataset.load_label_maps(0)[1].tolist() == [1]
    annotations[0]["segmentation"] = masks.encode(np.ones((30, 40, 1), bool))[0]
    assert np.asarray(dataset.load_label_maps(0)[0]).all()

    class Turned(nucleus.NucleusDataset):
        def load_mask(self, image_id):
            found, class_ids = super().load_mask(image_id)
            return ~found, class_ids

    config = nucleus.NucleusSmallConfig(IMAGE_RESIZE_MODE="pad64", IMAGE_MIN_DIM=0)
    own = Turned()
    own.load_nucleus(coco_folder, "odd")
    own.prepare()
    for image_id in (0, 1):
        given = np.asarray(data.load_image_gt(own, config, image_id)[4])
        y, x = 17, 12  # where the padding ends
        np.testing.assert_array_equal(given[y : y + 30, x : x + 40], own.load_mask(image_id)[0])


@pytest.mark.long
def test_batches_of_threads_are_those_of_one(nucleus):
    """With masks and images that are kept after their second reading, and the augmentation."""
    folder = pathlib.Path(nucleus.__file__).parent / "data"
    config = nucleus.NucleusSmallConfig(IMAGES_PER_GPU=4)

    def batches():
        dataset = nucleus.NucleusDataset()
        dataset.load_nucleus(folder, "val")
        dataset.prepare()
        return data.TrainingBatches(dataset, config, augmentation=nucleus.augmentation(), seed=3)

    steps = range(14)  # 24 images, twice and a bit
    one = batches()
    expected = [one.batch(step)[0] for step in steps]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(batches().batch, steps))
    for (inputs, _, _), others in zip(found, expected):
        for array, other in zip(inputs, others, strict=True):
            np.testing.assert_array_equal(array, other)


def test_hidden_files_are_no_masks(nucleus, tmp_path):
    """A zip that was packed on a Mac leaves a ._1.png beside each 1.png."""
    for name in ("images/x.png", "masks/1.png", "masks/._1.png", "masks/notes.txt"):
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(b"")
    found = nucleus._mask_paths(str(tmp_path / "x" / "images" / "x.png"))
    assert found == [str(tmp_path / "x" / "masks" / "1.png")]


@pytest.mark.parametrize("turned", (False, True))
def test_masks_of_a_turned_photograph(nucleus, tmp_path, turned):
    """Masks of the stored pixels, though the camera noted a turn, are of the image as it is stored;
    those of the image as it is shown are of the turned one."""
    image = np.zeros((30, 20, 3), np.uint8)
    image[3:9, 2:6] = 255
    mask = image[..., 0]
    if turned:
        mask = np.rot90(mask, -1)
    note = Image.Exif()
    note[0x0112] = 6
    for name, pixels, exif in (("images/x.png", image, note), ("masks/1.png", mask, Image.Exif())):
        path = tmp_path / "stage1_train" / "x" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, exif=exif)
    dataset = nucleus.NucleusDataset()
    dataset.load_nucleus(tmp_path, "stage1_train")
    dataset.prepare()
    found, class_ids = dataset.load_mask(0)
    np.testing.assert_array_equal(found[..., 0], mask > 0)
    np.testing.assert_array_equal(dataset.load_image(0)[..., 0], mask)
    assert class_ids.tolist() == [1]
