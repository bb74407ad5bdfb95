"""Every Python block of docs/dense.md runs; what needs a library that we do not depend on, where it is installed."""

import re
from pathlib import Path

import pytest

DOCS = (Path(__file__).parents[1] / "docs" / "dense.md").read_text()
BLOCKS = re.findall(r"(?:<!-- (\w+) -->\n)?```python\n(.*?)```", DOCS, re.DOTALL)
LIBRARIES = {"smp": "segmentation_models_pytorch", "transformers": "transformers"}


def test_both_libraries_are_shown():
    assert {mark for mark, _ in BLOCKS} == {"", *LIBRARIES}


CASES = [
    pytest.param(mark, code, id=mark or f"block{i}", marks=() if mark else pytest.mark.slow)
    for i, (mark, code) in enumerate(BLOCKS)
]


@pytest.mark.parametrize(("mark", "code"), CASES)
def test_block(mark: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if mark:
        pytest.importorskip(LIBRARIES[mark])
    if ".onnx" in code:
        pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code, "docs/dense.md", "exec"), names)
    if mark:  # it fuses there, too
        model, fused = names["model"], names["fused"]
        assert sum(p.numel() for p in fused.parameters()) < sum(p.numel() for p in model.parameters())
