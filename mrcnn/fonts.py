"""Letters of every script in pictures: a font that has them, or a text that can be written.

matplotlib and Pillow write with one font, which has no Chinese, and draw a box for each letter that
it lacks. Here an installed font is looked for that has it. Where there is none, a class is called
by its number and another text's letters by their codes, with one warning that says what to install.
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

# Fonts of matplotlib's that are no letters: codes of their own, and a box for each character there
# is. Of coloured pictures, matplotlib and Pillow draw nothing.
_NO_LETTERS = re.compile(r"cm[a-z]{1,2}\d+|STIX(NonUnicode|Size).*|Last Resort.*|.*Colou?r.*")
# First and last character of scripts whose letters change places or shapes beside each other.
_SHAPED = ((0x0900, 0x109F), (0x1780, 0x17FF))
# Packages of Debian and Ubuntu with fonts: of Chinese, Japanese, Korean; of signs; of the rest.
_CJK_FONTS = "fonts-noto-cjk"
_SIGN_FONTS = "fonts-symbola"
_OTHER_FONTS = "fonts-noto-core"


@functools.cache
def _codes_of_font(path: str, index: int) -> np.ndarray:
    """The sorted codes of the characters of a font file's face; none of one that can't be drawn."""
    from matplotlib.ft2font import FT2Font

    arguments: dict[str, Any] = {}
    if index:
        arguments["face_index"] = index
    try:
        font = FT2Font(path, **arguments)
        if font.scalable:
            return np.sort(np.fromiter(font.get_charmap(), np.int64))
    except (RuntimeError, OSError, TypeError, ValueError):  # damaged, or gone since
        pass
    return np.zeros(0, np.int64)


def _has_character(path: str, index: int, character: str) -> bool:
    """Whether a font file's face has a character."""
    codes = _codes_of_font(path, index)
    place = np.searchsorted(codes, ord(character))
    return bool(place < len(codes) and codes[place] == ord(character))


def _default_faces() -> list[tuple[str, int]]:
    """(path, index) of the fonts that matplotlib writes with by itself."""
    import matplotlib
    from matplotlib import font_manager

    faces = []
    for family in matplotlib.rcParams["font.family"]:
        file = font_manager.findfont(font_manager.FontProperties(family=[family]))
        faces.append((str(file), getattr(file, "face_index", 0)))
    return faces


def _rank(font: Any) -> tuple:
    """The order in which matplotlib's entries of fonts are looked through: plain ones first."""
    is_plain = font.style == "normal" and font.weight in (400, "normal", "regular", "book")
    return not is_plain, "Sans" not in font.name, font.name


def _face(font: Any) -> tuple[str, int]:
    """(path, index) of matplotlib's entry of a font."""
    return str(font.fname), getattr(font, "index", 0)


@functools.cache
def _add_new_fonts() -> None:
    """Tells matplotlib of the fonts that were installed since it has made its list of them."""
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
    """matplotlib's entry of a font that has a character, None for none; count: of its entries."""
    from matplotlib import font_manager

    for font in sorted(font_manager.fontManager.ttflist, key=_rank):
        if not _NO_LETTERS.fullmatch(font.name) and _has_character(*_face(font), character):
            return font
    return None


def _font_of(character: str) -> Any:
    """matplotlib's entry of an installed font that has a character; None for none."""
    from matplotlib import font_manager

    if _needs_shaping(character) and not _shapes_letters():
        return None
    fonts = font_manager.fontManager.ttflist
    font = _font_among(character, len(fonts))
    if font is None:
        _add_new_fonts()
        font = _font_among(character, len(fonts))
    return font


def _needs_shaping(character: str) -> bool:
    """Whether a script is written from the right, or its letters depend on their neighbours."""
    if unicodedata.bidirectional(character) in ("R", "AL"):
        return True
    return any(first <= ord(character) <= last for first, last in _SHAPED)


@functools.cache
def _shapes_letters() -> bool:
    """Whether matplotlib and Pillow, as installed, put such letters into their order and shapes."""
    import matplotlib
    from PIL import features

    return matplotlib.__version_info__ >= (3, 11) and bool(features.check("raqm"))


def _is_unseen(character: str) -> bool:
    """Whether a character is not drawn itself: a line's end, a joiner, a mark of a direction."""
    return unicodedata.category(character) in ("Cc", "Cf")


def _other_fonts(text: str) -> dict[str, Any]:
    """{character: matplotlib's entry of a font, None for none} of what its own fonts haven't.

    Without matplotlib, of all that is not ASCII.
    """
    if text.isascii():
        return {}
    others = sorted({sign for sign in text if not sign.isascii() and not _is_unseen(sign)})
    if not others:
        return {}
    try:
        faces = _default_faces()
    except ImportError:
        return dict.fromkeys(others)
    fonts = {}
    for character in others:
        is_there = any(_has_character(*face, character) for face in faces)
        if not is_there or (_needs_shaping(character) and not _shapes_letters()):
            fonts[character] = _font_of(character)
    return fonts


def composed(text: str) -> str:
    """A text with letters and accents as one, without the marks that choose a sign's colours."""
    text = unicodedata.normalize("NFC", text)
    return re.sub("[\ufe00-\ufe0f]", "", text)


def _package_of(characters: Sequence[str]) -> str:
    """What has to be installed to write characters that no font has."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return "pip install matplotlib"
    for character in characters:
        if _needs_shaping(character) and not _shapes_letters():
            return "pip install -U matplotlib pillow, and apt install libfribidi0"
    package = _OTHER_FONTS
    if any(unicodedata.category(character) == "So" for character in characters):
        package = _SIGN_FONTS
    if any(unicodedata.east_asian_width(sign) == "W" and sign.isalpha() for sign in characters):
        package = _CJK_FONTS
    return f"apt install {package}, or any font that has them (fonts.google.com/noto)"


_PACKAGES_SAID: set[str] = set()


def _missing(text: str) -> list[str]:
    """The characters of a text that no installed font can write.

    The first ones are warned of, once for each package that has to be installed.
    """
    missing = [sign for sign, font in _other_fonts(text).items() if font is None]
    if not missing:
        return []
    package = _package_of(missing)
    if package not in _PACKAGES_SAID:
        _PACKAGES_SAID.add(package)
        logger.warning(
            "No installed font can write %s of %r: in pictures a class is called by its number,"
            ' "class 7", and letters of other texts by their codes. What installs one: %s',
            " ".join(missing),
            text,
            package,
        )
    return missing


def can_write(text: str) -> bool:
    """Whether installed fonts have all letters of a text; if not, a warning says so once."""
    return not _missing(composed(text))


def legible(text: Any) -> str:
    """A text as it can be drawn: what no installed font has is written by its code, \\u4eba."""
    text = composed(str(text))
    for character in _missing(text):
        text = text.replace(character, character.encode("ascii", "backslashreplace").decode())
    return text


def set_fonts(texts: Iterable[Text]) -> None:
    """Lets texts of matplotlib that are `legible` be written in fonts that have their letters."""
    for text in texts:
        families = [font.name for font in _other_fonts(text.get_text()).values() if font]
        if families:
            own = text.get_fontfamily()
            if isinstance(own, str):
                own = [own]
            text.set_fontfamily([*own, *dict.fromkeys(families)])


def set_names(axis: Axis, names: Sequence[str], **kwargs: Any) -> None:
    """Writes names of classes, or others that are no mathematics, at an axis's places 0, 1, ..."""
    axis.set_ticks(range(len(names)), [legible(name) for name in names], **kwargs)
    labels = axis.get_ticklabels()
    for label in labels:
        label.set_parse_math(False)
    set_fonts(labels)


def set_title(ax: Axes, title: Any, size: float | None = 9) -> None:
    """Gives axes a title in any script; what stands between two $ is mathematics.

    size: in points, None for matplotlib's own.
    """
    set_fonts([ax.set_title(legible(title), fontsize=size)])


def plain(name: str) -> str:
    """A name in a title, whose $ are no mathematics."""
    return name.replace("$", r"\$")


def faces_of(text: str) -> list[tuple[str, tuple[str, int] | None]]:
    """A text that is `legible` in parts, each with the font that Pillow writes it with.

    Returns:
        list of (part, (path of the font, its index in there)), of one part where one font has all
        letters. None in place of a font: only ASCII, which Pillow's own font has.
    """
    if text.isascii():
        return [(text, None)]
    try:
        default = _default_faces()[0]
    except ImportError:
        return [(text, None)]
    faces = {sign: _face(font) for sign, font in _other_fonts(text).items() if font}
    for face in dict.fromkeys([default, *faces.values()]):
        if all(_is_unseen(sign) or _has_character(*face, sign) for sign in text):
            return [(text, face)]
    parts = []
    for face, signs in itertools.groupby(text, lambda sign: faces.get(sign, default)):
        parts.append(("".join(signs), face))
    return parts
