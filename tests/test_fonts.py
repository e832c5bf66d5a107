"""Letters that no usual font has: with fonts made here, whose letters are whole squares."""

import sys

import numpy as np
import pytest
from matplotlib import font_manager

from mrcnn import evaluate, figures, fonts, inspection, media, utils, visualize

WALKER = "行人"
CART = "गाड़ी"
NAMES = ["BG", WALKER, "Fußgänger", CART, "price $5 and $6"]


def make_font(path, name, letters):
    """Writes a font in which each letter is a square as wide and high as the line."""
    builder = pytest.importorskip("fontTools.fontBuilder").FontBuilder(1000, isTTF=True)
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    for place, corner in enumerate(((0, 0), (0, 800), (900, 800), (900, 0))):
        (pen.lineTo if place else pen.moveTo)(corner)
    pen.closePath()
    square = pen.glyph()
    glyphs = {".notdef": TTGlyphPen(None).glyph()}
    codes = {}
    for letter in letters:
        codes[ord(letter)] = f"g{ord(letter):x}"
        glyphs[codes[ord(letter)]] = square
    builder.setupGlyphOrder(list(glyphs))
    builder.setupCharacterMap(codes)
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": name, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, sTypoDescender=-200)
    builder.setupPost()
    builder.save(path)


@pytest.fixture
def usual_fonts(monkeypatch):
    """Only the fonts that matplotlib brings, whatever this machine has; a function adds others."""
    usual = [font for font in font_manager.fontManager.ttflist if "mpl-data" in str(font.fname)]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", usual)
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    monkeypatch.setattr(fonts, "_SUGGESTED_PACKAGES", set())
    caches = (fonts._font_among, fonts._add_new_fonts)
    for cache in caches:
        cache.cache_clear()
    yield font_manager.fontManager.addfont
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def square_font(usual_fonts, tmp_path):
    """A font that has one class's name is installed."""
    make_font(tmp_path / "square.ttf", "Squares", WALKER)
    usual_fonts(tmp_path / "square.ttf")
    return str(tmp_path / "square.ttf")


def painted(text):
    """A picture with one label, [H, W], 0 where nothing is written."""
    result = {
        "rois": np.array([[60, 10, 90, 40]]),
        "class_ids": np.array([1]),
        "scores": None,
        "masks": None,
    }
    image = np.zeros((100, 400, 3), np.uint8)
    return media.paint(image, result, ["BG", text], boxes=False)[..., 0]


def drawn(ax):
    """What matplotlib makes of axes' figure: each missing letter would be a warning, an error."""
    canvas = ax.figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def test_without_a_font_classes_are_called_by_their_numbers(usual_fonts, caplog):
    """In every picture alike, with one warning that says what to install."""
    texts = visualize.label_texts([1, 2, 4, -1], NAMES, [0.9, 0.8, 0.7, 0.6])
    assert texts == [
        "class 1: 0.90",
        "Fußgänger 0.80",
        "price $5 and $6: 0.70",
        "class 1 (crowd) 0.60",
    ]
    assert visualize.drawn_name([*NAMES[:2], "人"], 2) == "class 2"
    assert len(caplog.messages) == 1 and "人 行 of '行人'" in caplog.text
    assert "apt install fonts-noto-cjk" in caplog.text
    assert visualize.class_name(NAMES, 1) == WALKER  # which results and GeoJSON have
    np.testing.assert_array_equal(painted(WALKER), painted("class 1"))
    assert visualize.label_texts([3], NAMES) == ["class 3"]
    assert len(caplog.messages) == 2 and "fonts-noto-core" in caplog.messages[1]


def test_without_a_font_other_texts_have_codes(usual_fonts):
    ax = visualize.display_instances(
        np.zeros((40, 60, 3), np.uint8),
        np.array([[5, 5, 20, 20]]),
        None,
        np.array([1]),
        NAMES,
        captions=[f"{WALKER} é"],
        title=WALKER,
        ax=visualize.new_figure((2, 2))[1][0],
    )
    assert [label.get_text() for label in ax.artists + ax.texts] == ["\\u884c\\u4eba é"]
    assert ax.get_title() == "\\u884c\\u4eba"
    drawn(ax)


def test_a_font_that_is_installed_is_found(square_font, caplog):
    """Pillow writes the squares; matplotlib, too, and its own letters with its own font."""
    picture = painted(WALKER)
    rows, columns = np.nonzero(picture > 200)
    height = np.ptp(rows) + 1
    assert 0.8 < len(rows) / (2 * height * height * 0.9 / 0.8) < 1.2  # two full squares
    ax = visualize.plot_overlaps([1, 3], [1], [0.5], np.zeros((1, 2)), NAMES)
    label = ax.get_yticklabels()[0]
    assert label.get_text() == "行人 (0.50)" and label.get_fontfamily()[-1] == "Squares"
    assert [label.get_text() for label in ax.get_xticklabels()] == [WALKER, "class 3"]
    drawn(ax)
    assert len(caplog.messages) == 1 and "of 'गाड़ी'" in caplog.text


def test_fonts_installed_since_matplotlib_made_its_list(usual_fonts, tmp_path, monkeypatch):
    make_font(tmp_path / "square.ttf", "Squares", WALKER)
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    paths = [str(tmp_path / "broken.ttf"), str(tmp_path / "square.ttf")]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: paths)
    assert visualize.drawn_name(NAMES, 1) == WALKER


def test_pillows_parts(square_font, usual_fonts, tmp_path):
    """One font where one has all; else each letter in one that has it."""
    own = fonts._default_faces()[0]
    assert fonts.faces_of("cat 0.90") == [("cat 0.90", None)]
    assert fonts.faces_of("Fußgänger") == [("Fußgänger", own)]
    assert fonts.faces_of(WALKER) == [(WALKER, (square_font, 0))]
    assert fonts.faces_of(f"a {WALKER} é") == [
        ("a ", own),
        (WALKER, (square_font, 0)),
        (" é", own),
    ]
    mixed = painted(f"a {WALKER} é\n!")
    left = np.flatnonzero((mixed > 200).any(axis=0))
    assert len(left) and left[-1] - left[0] > 35


def test_accents_are_written(usual_fonts):
    """Pillow's own font has ASCII and little more; é, è and я were the same box."""
    pictures = {letter: painted(letter).tobytes() for letter in "éèяñ€→"}
    assert len(set(pictures.values())) == 6
    assert painted("e\u0301").tobytes() == pictures["é"]  # as macOS spells the names of files
    assert fonts.legible("→\ufe0f") == "→"


def test_without_matplotlib(usual_fonts, monkeypatch, caplog):
    """An exported model runs without it: Pillow's own font has ASCII alone."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert fonts.faces_of(fonts.legible("é")) == [("\\xe9", None)]
    assert visualize.label_texts([2, 4], NAMES) == ["class 2", "price $5 and $6"]
    assert "pip install matplotlib" in caplog.text and len(caplog.messages) == 1


@pytest.mark.long
def test_dollars_are_no_mathematics(usual_fonts):
    """Two of them in a name made the part between them a formula."""
    name = "a $x^$ b"
    image = np.zeros((40, 60, 3), np.uint8)
    boxes = np.array([[5, 5, 20, 20]])
    ids = np.array([1])
    _, (ax,) = visualize.new_figure((2, 2))
    drawn(visualize.display_instances(image, boxes, None, ids, ["BG", name], ax=ax))
    drawn(visualize.plot_overlaps(ids, ids, [0.5], np.ones((1, 1)), ["BG", name]))
    figure = visualize.display_top_masks(image, np.ones((40, 60, 1), bool), ids, ["BG", name])
    drawn(figure.axes[0])


class Two(utils.Dataset):
    """An image with an object of each of two classes."""

    def load_mask(self, image_id):
        mask = np.zeros((20, 30, 2), bool)
        mask[2:9, 3:9, 0] = mask[12:18, 13:19, 1] = True
        return mask, np.array([1, 2], np.int32)

    def load_image(self, image_id):
        return np.zeros((20, 30, 3), np.uint8)


@pytest.mark.long
def test_every_figure_of_classes(usual_fonts):
    """The confusion, the curves and the counts of classes: the number where there is no font."""
    dataset = Two()
    for class_id, name in enumerate((WALKER, "é"), 1):
        dataset.add_class("x", class_id, name)
    dataset.add_image("x", 0, None, height=20, width=30)
    dataset.prepare()
    result = evaluate.evaluate_detections(dataset, [])
    ax = result.plot_confusion()
    assert [label.get_text() for label in ax.get_xticklabels()] == ["background", "class 1", "é"]
    drawn(ax)
    ax = result.plot_precision_recall("bbox", WALKER)
    assert ax.get_title() == "boxes, class 1"
    drawn(ax)
    nothing = np.zeros(0, int)
    survey = inspection.Survey(
        np.zeros((0, 4)), nothing, nothing, nothing, 0, [(20, 30)], np.zeros(1, int), (64, 64),
        ["BG", WALKER, "é"],
    )  # fmt: skip
    ax = figures.plot_classes(survey).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["é", "class 1"]
    drawn(ax)
