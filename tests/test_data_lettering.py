"""Names of classes that can be read in pictures."""

import io

import matplotlib
import pytest
import torch

from fastvit.data import lettering
from fastvit.data.grid import captioned_grid
from fastvit.data.lettering import legible, pillow_font, shortened
from fastvit.tasks.classification.details import draw_confusion
from fastvit.tasks.detection.picture import detection_grid
from fastvit.tasks.segmentation.picture import overlay_grid


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


IMAGE = torch.zeros(3, 64, 64)
OBJECTS = [{"boxes": torch.tensor([[5.0, 30.0, 40.0, 50.0], [5.0, 55.0, 40.0, 60.0]]), "labels": torch.tensor([1, 2])}]
MAPS = [torch.arange(64 * 64).view(64, 64) % 2]


@pytest.mark.parametrize(
    "draw",
    [
        lambda names: captioned_grid(torch.stack([IMAGE, IMAGE]), names),
        lambda names: draw_confusion(torch.eye(2).long(), names),
        lambda names: detection_grid([IMAGE], OBJECTS, OBJECTS, names),
        lambda names: overlay_grid([IMAGE], MAPS, MAPS, names),
    ],
    ids=["grid", "confusion", "detection", "segmentation"],
)
def test_dollars_in_names_are_no_mathematics(draw):
    names = ("cost_$_or_$", "$10 - $20")  # matplotlib cannot read the first, and leaves the dollars of the second out
    with matplotlib.rc_context({"text.parse_math": False}):
        expected = rendered(draw(names))
    assert rendered(draw(names)) == expected


def rendered(figure) -> bytes:
    with io.BytesIO() as file:
        figure.savefig(file, format="raw", dpi=40)
        return file.getvalue()
