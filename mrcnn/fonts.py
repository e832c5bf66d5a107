"""Text of every script in pictures: chooses fonts that have its characters, or escapes them.

matplotlib and Pillow write with one font, which has no Chinese, and draw a box for each character
that it lacks. This module looks for an installed font that has it. Where there is none, a class is
called by its number and characters of other texts are escaped, with one warning that says what to
install.
"""

from __future__ import annotations

import functools
import itertools
import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.text import Text

# Fonts that have a code without its character: matplotlib's mathematical ones use codes of their
# own, a last resort font has boxes, and of colour fonts matplotlib and Pillow draw nothing.
_UNSUITABLE = re.compile(r"cm[a-z]{1,2}\d+|STIX(NonUnicode|Size).*|Last Resort.*|.*Colou?r.*")
# First and last code points of scripts that need complex layout: Devanagari to Myanmar, and Khmer.
_COMPLEX_SCRIPTS = ((0x0900, 0x109F), (0x1780, 0x17FF))
# Packages of Debian and Ubuntu with fonts of Chinese, Japanese and Korean, of symbols, of others.
_CJK_FONTS = "fonts-noto-cjk"
_SYMBOL_FONTS = "fonts-symbola"
_OTHER_FONTS = "fonts-noto-core"


@functools.cache
def _codes_of_font(path: str, index: int) -> np.ndarray:
    """[N] int64, sorted: the code points that a face of a font file has; [0] if it can't be drawn.

    Args:
        path: of the font file.
        index: of the face in a collection of fonts.
    """
    from matplotlib.ft2font import FT2Font

    arguments: dict[str, Any] = {}
    if index:
        arguments["face_index"] = index
    try:
        font = FT2Font(path, **arguments)
        if font.scalable:
            return np.sort(np.fromiter(font.get_charmap(), np.int64))
    except (RuntimeError, OSError, TypeError, ValueError):  # damaged, or removed since
        pass
    return np.zeros(0, np.int64)


def _has_character(path: str, index: int, character: str) -> bool:
    """Whether a face of a font file has a character; arguments as of `_codes_of_font`."""
    codes = _codes_of_font(path, index)
    i = np.searchsorted(codes, ord(character))
    return bool(i < len(codes) and codes[i] == ord(character))


def _default_faces() -> list[tuple[str, int]]:
    """(path, index) of the fonts of matplotlib's setting font.family."""
    import matplotlib
    from matplotlib import font_manager

    faces = []
    for family in matplotlib.rcParams["font.family"]:
        file = font_manager.findfont(font_manager.FontProperties(family=[family]))
        faces.append((str(file), getattr(file, "face_index", 0)))
    return faces


def _rank(font: Any) -> tuple:
    """Sort key of matplotlib's font entries: regular weights, then sans serif, then by name."""
    is_plain = font.style == "normal" and font.weight in (400, "normal", "regular", "book")
    return not is_plain, "Sans" not in font.name, font.name


def _face(font: Any) -> tuple[str, int]:
    """(path, index) of matplotlib's font entry."""
    return str(font.fname), getattr(font, "index", 0)


@functools.cache
def _add_new_fonts() -> None:
    """Adds the fonts to matplotlib's list that were installed after it was made."""
    from matplotlib import font_manager

    known = {font.fname for font in font_manager.fontManager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known:
            try:
                font_manager.fontManager.addfont(path)
            except Exception as error:  # of a damaged font matplotlib raises anything
                logger.debug("%s can't be used: %s", path, error)


@functools.lru_cache(maxsize=10_000)
def _font_among(character: str, count: int) -> Any:
    """matplotlib's font entry that has a character; None for none.

    Args:
        character: one.
        count: the length of matplotlib's list. It is part of the cache's key, so that fonts which
            are added later are looked through.
    """
    from matplotlib import font_manager

    for font in sorted(font_manager.fontManager.ttflist, key=_rank):
        if not _UNSUITABLE.fullmatch(font.name) and _has_character(*_face(font), character):
            return font
    return None


def _font_of(character: str) -> Any:
    """matplotlib's entry of an installed font that has a character; None for none."""
    from matplotlib import font_manager

    if _needs_shaping(character) and not _has_complex_layout():
        return None
    fonts = font_manager.fontManager.ttflist
    font = _font_among(character, len(fonts))
    if font is None:
        _add_new_fonts()
        font = _font_among(character, len(fonts))
    return font


def _needs_shaping(character: str) -> bool:
    """Whether a character's script runs from right to left, or its glyphs depend on neighbours."""
    if unicodedata.bidirectional(character) in ("R", "AL"):
        return True
    return any(first <= ord(character) <= last for first, last in _COMPLEX_SCRIPTS)


@functools.cache
def _has_complex_layout() -> bool:
    """Whether matplotlib and Pillow, as installed, order and shape such characters."""
    import matplotlib
    from PIL import features

    return matplotlib.__version_info__ >= (3, 11) and bool(features.check("raqm"))


def _is_invisible(character: str) -> bool:
    """Whether a character has no glyph: a line feed, a joiner, a mark of direction."""
    return unicodedata.category(character) in ("Cc", "Cf")


def _other_fonts(text: str) -> dict[str, Any]:
    """Which other fonts are needed for the characters that matplotlib's default fonts lack.

    Returns:
        {character: matplotlib's font entry, None where no installed font has it}. Without
        matplotlib, {character: None} of all that are not ASCII.
    """
    if text.isascii():
        return {}
    visible = sorted({c for c in text if not c.isascii() and not _is_invisible(c)})
    if not visible:
        return {}
    try:
        faces = _default_faces()
    except ImportError:
        return dict.fromkeys(visible)
    fonts = {}
    for character in visible:
        by_default = any(_has_character(*face, character) for face in faces)
        if not by_default or (_needs_shaping(character) and not _has_complex_layout()):
            fonts[character] = _font_of(character)
    return fonts


def composed(text: str) -> str:
    """A text in Unicode's normal form C, without variation selectors, which no font draws."""
    text = unicodedata.normalize("NFC", text)
    return re.sub("[\ufe00-\ufe0f]", "", text)


def _package_of(characters: Sequence[str]) -> str:
    """What to install for characters that no installed font has, as the warning names it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return "pip install matplotlib"
    for character in characters:
        if _needs_shaping(character) and not _has_complex_layout():
            return "pip install -U matplotlib pillow, and apt install libfribidi0"
    package = _OTHER_FONTS
    if any(unicodedata.category(character) == "So" for character in characters):
        package = _SYMBOL_FONTS
    if any(unicodedata.east_asian_width(c) == "W" and c.isalpha() for c in characters):
        package = _CJK_FONTS
    return f"apt install {package}, or any font that has them (fonts.google.com/noto)"


_SUGGESTED_PACKAGES: set[str] = set()


def _missing(text: str) -> list[str]:
    """The characters of a text that no installed font has.

    Warns once for each package that is to be installed.
    """
    missing = [character for character, font in _other_fonts(text).items() if font is None]
    if not missing:
        return []
    package = _package_of(missing)
    if package not in _SUGGESTED_PACKAGES:
        _SUGGESTED_PACKAGES.add(package)
        logger.warning(
            "No installed font can write %s of %r: in pictures a class is called by its number,"
            ' "class 7", and letters of other texts by their codes. What installs one: %s',
            " ".join(missing),
            text,
            package,
        )
    return missing


def can_write(text: str) -> bool:
    """Whether installed fonts have all characters of a text; warns once where they don't."""
    return not _missing(composed(text))


def legible(text: Any) -> str:
    """A text as it can be drawn: characters that no installed font has are escaped, as \\u4eba."""
    text = composed(str(text))
    for character in _missing(text):
        text = text.replace(character, character.encode("ascii", "backslashreplace").decode())
    return text


def set_fonts(texts: Iterable[Text]) -> None:
    """Adds fonts with the needed characters to texts of matplotlib, which are `legible`."""
    for text in texts:
        families = [font.name for font in _other_fonts(text.get_text()).values() if font]
        if families:
            own = text.get_fontfamily()
            if isinstance(own, str):
                own = [own]
            text.set_fontfamily([*own, *dict.fromkeys(families)])


def set_names(axis: Axis, names: Sequence[str], **kwargs: Any) -> None:
    """Labels an axis's ticks 0, 1, ... with names of any script, in which $ is no mathematics.

    kwargs: of `matplotlib.axis.Axis.set_ticks`.
    """
    axis.set_ticks(range(len(names)), [legible(name) for name in names], **kwargs)
    labels = axis.get_ticklabels()
    for label in labels:
        label.set_parse_math(False)
    set_fonts(labels)


def set_title(ax: Axes, title: Any, size: float | None = 9) -> None:
    """Gives axes a title of any script; text between two $ is mathematics, see `plain`.

    size: in points, None for matplotlib's own.
    """
    set_fonts([ax.set_title(legible(title), fontsize=size)])


def plain(name: str) -> str:
    """A name for use in a title: its $ are escaped."""
    return name.replace("$", r"\$")


def faces_of(text: str) -> list[tuple[str, tuple[str, int] | None]]:
    """Splits a text, which is `legible`, into parts that Pillow can write with one font each.

    Returns:
        list of (part, (path of the font file, index of the face)); one part where one font has all
        characters. (part, None) where it is ASCII, or matplotlib is missing: Pillow's own font.
    """
    if text.isascii():
        return [(text, None)]
    try:
        default = _default_faces()[0]
    except ImportError:
        return [(text, None)]
    faces = {character: _face(font) for character, font in _other_fonts(text).items() if font}
    for face in dict.fromkeys([default, *faces.values()]):
        if all(_is_invisible(c) or _has_character(*face, c) for c in text):
            return [(text, face)]
    parts = []
    for face, characters in itertools.groupby(text, lambda c: faces.get(c, default)):
        parts.append(("".join(characters), face))
    return parts
