"""Names of classes that can be read in pictures."""

import pytest

from fastvit.data import lettering
from fastvit.data.lettering import legible, pillow_font, shortened


def test_alphabets_that_a_font_has_are_drawn_and_others_are_numbered():
    private = chr(0xE123)  # for private use: no font of a system has it
    names, font = legible(["cat", "Straße", "Кошка", f"x{private}", "two words"])
    assert names == ["cat", "Straße", "Кошка", "class 3", "two words"]
    assert pillow_font(font, 20).getlength("Кошка") > 20


def test_without_matplotlib_s_font_there_is_another(monkeypatch):
    monkeypatch.setattr(lettering, "_usual_font", lambda: None)
    names, font = legible(["cat", "dog"])
    assert names == ["cat", "dog"]
    assert font is None
    assert pillow_font(font, 20).getlength("cat") > 10


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("tench", "tench"),
        ("exactly_ten", "exactly_ten"),
        ("n01440764_tench_tinca", "n01440…nca"),
    ],
)
def test_long_names_keep_their_beginning_and_their_end(name, short):
    assert shortened(name, max(len(short), 10)) == short
