"""Pictures of datasets, pooling and masks against references (tests/pictures); of stages, that they
hold what they say."""

import importlib.util
import pathlib

import numpy as np
import pictures
import pytest
from toy import Rectangles, ToyConfig

from mrcnn import figures, inspection, model as modellib, visualize

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def shapes():
    spec = importlib.util.spec_from_file_location(
        "shapes", ROOT / "samples" / "shapes" / "shapes.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ShapesDataset(12), module.ShapesConfig()


DRAWINGS = {
    "examples": lambda dataset, config, example: figures.draw_examples(
        dataset, dataset.image_ids[:4]
    ),
    "mini_masks": lambda dataset, config, example: figures.draw_mini_masks(example, config),
    "resizing": lambda dataset, config, example: figures.draw_resizing(
        dataset.load_image(0)[:80], config
    ),
    "classes": lambda dataset, config, example: figures.plot_classes(
        inspection.survey(dataset, config)
    ),
    "sizes": lambda dataset, config, example: figures.plot_sizes(
        inspection.survey(dataset, config), config
    ),
    "anchors": lambda dataset, config, example: figures.draw_anchors(example["image"], config),
    "rpn_targets": lambda dataset, config, example: figures.draw_rpn_targets(example),
    "roi_targets": lambda dataset, config, example: figures.draw_roi_targets(
        example, inspection.roi_example(example, config), dataset.class_names
    ),
    "poolings": lambda dataset, config, example: figures.draw_poolings(
        example["image"], example["boxes"][0]
    ),
    "pooling_offsets": lambda dataset, config, example: figures.plot_pooling_offsets(
        inspection.pooling_offsets(boxes=30)
    ),
    "pooling_masks": lambda dataset, config, example: figures.draw_pooling_masks(
        *inspection.pooling_masks(example["masks"][..., 0]), example["masks"][..., 0]
    ),
    "mask_chain": lambda dataset, config, example: figures.draw_mask_chain(
        inspection.mask_chain(example["masks"][..., 0], config), example["masks"][..., 0]
    ),
    "history": lambda dataset, config, example: figures.plot_history(
        {"loss": [3, 2, 1.5], "val_loss": [3, 2.5, 2]}
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("name", DRAWINGS)
def test_picture(name, shapes):
    dataset, config = shapes
    pictures.check(
        name, DRAWINGS[name](dataset, config, inspection.rpn_example(dataset, config, 2))
    )


def test_a_wrong_picture_is_noticed():
    """The comparison itself: a missing box, another colour, a shifted mask; and not a rounding of
    the edges."""
    image = np.full((90, 120, 3), 90, np.uint8)
    mask = np.zeros((90, 120, 1), bool)
    mask[20:70, 30:80] = True

    def drawn(box=(20, 30, 70, 80), colors=((1.0, 0, 0),), shift=0):
        ax = visualize.new_figure((3.2, 2.4), dpi=50)[1][0]
        result = {
            "rois": np.array([box]),
            "class_ids": np.array([1]),
            "masks": np.roll(mask, shift, axis=1),
        }
        return pictures.thumbnail(
            visualize.draw_detections(ax, image, result, ["BG", "cat"], colors=list(colors)).figure
        )

    reference = drawn()
    pictures.compare(drawn(), reference)
    pictures.compare(drawn(box=(20, 30, 70, 80.3)), reference)
    for wrong in (drawn(colors=((0, 0, 1.0),)), drawn(shift=12), drawn(box=(0, 0, 90, 120))):
        with pytest.raises(AssertionError):
            pictures.compare(wrong, reference)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "settings", [{}, {"USE_MASK": False}, {"DETECTION_MIN_CONFIDENCE": 1.0}], ids=str
)
def test_stages(settings, tmp_path):
    """Of an untrained network, one without masks, and one that detects nothing."""
    from matplotlib.figure import Figure

    model = modellib.MaskRCNN("inference", ToyConfig(**settings), tmp_path)
    stages = model.trace(Rectangles().load_image(1), ["fpn_p2"])
    names = ["BG", "bright", "dark"]
    drawn = [
        figures.draw_scores(stages, model.config),
        figures.draw_proposals(stages),
        figures.draw_levels(stages),
        figures.draw_heads(stages, names),
        figures.draw_masks(stages, names),
        figures.draw_heads(stages, None),
        figures.draw_masks(stages, {1: "bright"}),
        figures.draw_activations(stages.activations),
        figures.draw_softmax(inspection.best_detection(stages, np.ones((64, 64), bool))),
    ]
    for figure in drawn:
        assert isinstance(figure, Figure)
        figure.savefig(tmp_path / "x.png")
    assert f"{len(stages.proposals)} proposals" in drawn[1].axes[3].get_title()
    assert (
        len(drawn[0].axes) == 6
        and f"{len(stages.boxes)} detections" in drawn[3].axes[2].get_title()
    )
    texts = [text.get_text() for text in drawn[4].axes[0].texts]
    assert (texts == ["nothing was detected: train longer"]) == (len(stages.boxes) == 0)
    shapes, parameters = inspection.network_shapes(model, stages.image.shape)
    figures.draw_network(shapes, parameters).savefig(tmp_path / "x.png")
    rows = inspection.weight_statistics(model)
    figures.plot_weights(rows).savefig(tmp_path / "x.png")
    figures.plot_spreads(rows).savefig(tmp_path / "x.png")


def test_keypoints_are_drawn_in_every_picture_of_objects():
    """Of ground truth those that are labelled, of detections all: 3 and 17 points here."""
    from mrcnn.utils import Dataset

    class Person(Dataset):
        def load_image(self, image_id):
            return np.full((60, 60, 3), 90, np.uint8)

        def load_mask(self, image_id):
            masks = np.zeros((60, 60, 1), bool)
            masks[10:50, 10:50] = True
            return masks, np.ones(1, np.int32)

        def load_keypoints(self, image_id):
            points = np.zeros((1, 17, 3))
            points[0, :3] = [(20, 20, 2), (30, 30, 1), (40, 40, 2)]
            return points

    dataset = Person()
    dataset.add_class("person", 1, "person")
    dataset.add_image("person", 0, None)
    dataset.prepare()
    truth = inspection.true_objects(dataset, 0)
    result = {**truth, "scores": np.array([0.9])}
    unsure = {**truth, "scores": np.array([0.1])}
    row = {
        "image_id": 0,
        "ap": 1.0,
        "image": dataset.load_image(0),
        "truth": truth,
        "result": result,
    }

    def points_of(figure):
        from matplotlib.collections import PathCollection

        return [
            sum(len(part.get_offsets()) for part in ax.findobj(PathCollection))
            for ax in figure.axes
        ]

    names = dataset.class_names
    assert points_of(figures.draw_examples(dataset, [0], cols=1)) == [3]
    assert points_of(figures.draw_comparison([row], names)) == [3, 17]
    images = [row["image"]] * 2
    assert points_of(figures.draw_results(images, [result, unsure], names, 2)) == [17, 0]


@pytest.mark.parametrize("values", ["fractions", "deep", "gray"])
def test_images_of_any_range_and_classes_without_names(values):
    """Pictures of datasets whose load_image gives something else than RGB in bytes."""

    class Other(Rectangles):
        def load_image(self, image_id):
            image = super().load_image(image_id)
            return {
                "fractions": image / 255,
                "deep": image.astype(np.uint16) * 257,
                "gray": image[..., 0],
            }[values]

    config = ToyConfig()
    dataset = Other()
    names = dataset.class_names
    expected = Rectangles().load_image(1)
    if values == "gray":
        expected = expected[..., :1].repeat(3, axis=2)
    example = inspection.rpn_example(dataset, config, 1)
    np.testing.assert_array_equal(example["image"], expected)
    dataset.class_names = names[:1]
    examples = figures.draw_examples(dataset, [1])
    assert [text.get_text() for text in examples.axes[0].texts] == ["class 1", "class 2"]
    assert np.asarray(examples.axes[0].images[0].get_array()).mean() > 80
    image = dataset.load_image(1)
    rois = inspection.roi_example(example, config)
    for figure in (
        figures.draw_resizing(image, config),
        figures.draw_anchors(image, config),
        figures.draw_poolings(image, (5, 5, 30, 40)),
        figures.draw_mini_masks(example, config),
        figures.draw_rpn_targets(example),
        figures.draw_roi_targets(example, rois, None),
    ):
        picture = figure.axes[0].images[0].get_array()
        assert 40 < np.asarray(picture)[..., :3].mean() < 256
    truth = inspection.true_objects(dataset, 1)
    result = {**truth, "scores": np.array([0.9, 0.4])}
    row = {"image_id": 1, "ap": 0.5, "image": image, "truth": truth, "result": result}
    figures.draw_comparison([row], names[:1])
    figures.draw_results([image], [result], {2: "dark"})
