"""Every Python block of docs/notebooks.md runs, in a folder with a run and photographs."""

import re
from pathlib import Path

import pytest

from fastvit.data.digits import Digits

PAGE = (Path(__file__).parents[1] / "docs" / "notebooks.md").read_text()
BLOCKS = re.findall(r"^## ([^\n]+)$.*?```python\n(.*?)```", PAGE, re.M | re.S)
SLOW = ("Evaluate", "Train")


def test_all_blocks_are_found():
    assert [name for name, _ in BLOCKS] == ["One image", "Where a classifier looks", "Many files", "Evaluate", "Train"]


@pytest.mark.parametrize(
    "code", [pytest.param(code, id=name, marks=pytest.mark.slow if name in SLOW else ()) for name, code in BLOCKS]
)
def test_block(code: str, random_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("runs", "photos"):
        Path(folder).mkdir()
    Path("runs/quickstart").symlink_to(random_run)
    image, _ = Digits(train=False, image_size=64)[0]
    image.save("photo.jpg")
    image.save("photos/digit.png")
    exec(compile(code, "docs/notebooks.md", "exec"), {})
