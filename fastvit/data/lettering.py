"""Names of classes in pictures: in a font that has their letters, and short enough for their place."""

import sys
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import ImageFont

FOLDERS = {
    "linux": ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts"),
    "darwin": ("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    "win32": ("C:/Windows/Fonts",),
}
ABSENT = "\uffff"  # is no character: a font draws for it what it draws for all that it does not have


def legible(names: Sequence[str], numbers: Sequence[int] | None = None) -> tuple[list[str], Path | None]:
    """The names as they can be drawn, and the font for it; None for the usual one.

    A name with letters that no installed font has, such as Chinese ones, is replaced by its number.

    Args:
        numbers: of the names, where they are not all names in order.
    """
    letters = [frozenset(name) for name in names]
    best, most = None, -1
    for font in _fonts():
        known = sum(_has(font, each) for each in letters)
        if known > most:
            best, most = font, known
        if known == len(names):
            break
    numbered = zip(names, range(len(names)) if numbers is None else numbers, strict=True)
    drawn = [name if _has(best, frozenset(name)) else f"class {number}" for name, number in numbered]
    return drawn, None if best == _usual_font() else best


def shortened(name: str, width: int) -> str:
    """At most `width` characters of it: its beginning and its end, in which names of classes differ."""
    if len(name) <= width:
        return name
    end = width // 3
    return f"{name[: width - end - 1]}…{name[len(name) - end :]}"


def pillow_font(path: Path | None, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font for Pillow, `size` pixels high."""
    path = path or _usual_font()
    return ImageFont.truetype(str(path), size) if path else ImageFont.load_default(size)


def _fonts() -> Iterator[Path | None]:
    yield _usual_font()
    for folder in FOLDERS.get(sys.platform, ()):
        files = Path(folder).expanduser().rglob("*")
        yield from sorted(path for path in files if path.suffix.lower() in (".ttf", ".otf", ".ttc"))


@cache
def _usual_font() -> Path | None:
    """That of matplotlib, which has most alphabets; where it is not installed, Pillow's own (None)."""
    spec = find_spec("matplotlib")
    return Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf" if spec and spec.origin else None


@cache
def _has(path: Path | None, letters: frozenset[str]) -> bool:
    try:
        font = ImageFont.truetype(str(path), 16) if path else ImageFont.load_default(16)
    except OSError:
        return False
    absent = font.getmask(ABSENT)
    return all(letter.isspace() or not _same(font.getmask(letter), absent) for letter in letters)


def _same(one: Any, other: Any) -> bool:
    """Whether two of Pillow's masks are alike."""
    return one.size == other.size and bytes(one) == bytes(other)
