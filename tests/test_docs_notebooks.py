"""Every Python block of docs/notebooks.md runs, in a folder with a run and photographs."""

import ast
import re
from importlib import import_module
from pathlib import Path
from pydoc import locate

import pytest

from fastvit.data.digits import Digits

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "notebooks.md").read_text()
BLOCKS = re.findall(r"^## ([^\n]+)$.*?```python\n(.*?)```", PAGE, re.M | re.S)
SLOW = ("Evaluate", "Train")


def test_all_blocks_are_found():
    assert [name for name, _ in BLOCKS] == ["One image", "Where a classifier looks", "Many files", "Evaluate", "Train"]


def test_what_the_pages_call_is_in_the_reference():
    """Where it may not change silently. Of features, too, whose files are read in notebooks."""
    reference = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    known = {name for name in re.findall(r"^\.\. auto(?:function|class):: (\S+)", reference, re.M) if locate(name)}
    for module in re.findall(r"^\.\. automodule:: (\S+)", reference, re.M):
        inside = import_module(module)
        known |= {f"{module}.{name}" for name in getattr(inside, "__all__", vars(inside))}
    called = set(re.findall(r"`(fastvit(?:\.\w+)+)", PAGE))
    for code in re.findall(r"```python\n(.*?)```", PAGE + (DOCS / "features.md").read_text(), re.S):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "fastvit":
                called |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert called > {"fastvit.prediction.predict_files", "fastvit.training.engine.train", "fastvit.deploy.export"}
    assert called - known == set()


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
