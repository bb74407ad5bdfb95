"""What docs/deploy.md shows in Python runs, on files of a run, and gives the network's answers."""

import importlib
import re
import shutil
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

import fastvit
from deployment import CARD, need, small_network
from launch import script

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[1] / "docs" / "deploy.md").read_text()
INSIDE, LOAD, ELSEWHERE, _, FLOAT16 = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
WAYS = dict(re.match(r"# ([\w.]+( ML)?).*?\n(?s:(.*))", part).group(1, 3) for part in ELSEWHERE.split("\n\n"))
# Of each way: our format, what it imports, and whether a Mac or an environment of its own is needed.
FORMATS = {
    "ONNX": ("onnx", ["onnxruntime"]),
    "OpenVINO": ("openvino", ["openvino"]),
    "torch.export": ("torch_export", []),
    "AOTInductor": ("aot_inductor", ["torch._inductor"]),
    "ExecuTorch": ("executorch", ["executorch.runtime"]),
    "LiteRT": ("litert", ["ai_edge_litert.interpreter"]),
    "safetensors": ("safetensors", []),
}


def test_every_way_but_core_ml_s_is_tried():
    assert set(WAYS) == {*FORMATS, "Core ML"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def exported(run, name, *options):
    """A file in the working folder, as the page calls it."""
    script("export")([str(run), "--format", name, "--output", ".", *options])
    for path in Path().glob("digits.*"):
        path.rename(path.name.replace("digits", "quickstart", 1))


def names_for(code, images):
    """What the page has imported, or has at hand."""
    modules = {module: importlib.import_module(module) for module in re.findall(r"\b(numpy|PIL\.Image)\b", code)}
    roots = {module.partition(".")[0]: importlib.import_module(module.partition(".")[0]) for module in modules}
    return {**roots, "torch": torch, "timm": timm, "fastvit": fastvit, "images": images}


@pytest.mark.parametrize("way", FORMATS)
def test_another_runtime_gives_the_answers_of_the_run(way, random_run, here):
    name, modules = FORMATS[way]
    need(name)
    exported(random_run, name)
    images = torch.randn(1, 3, 32, 32)
    names = names_for(WAYS[way], images)
    names |= {module.partition(".")[0]: importlib.import_module(module.partition(".")[0]) for module in modules}
    for module in modules:
        importlib.import_module(module)
    exec(compile(WAYS[way], "docs/deploy.md", "exec"), names)
    logits = names["logits"] if "logits" in names else names["network"].eval()(images)
    with torch.no_grad():
        expected = fastvit.load_trained(random_run).module(images)
    torch.testing.assert_close(torch.as_tensor(logits).detach(), expected, rtol=1e-3, atol=1e-4)


def test_load(random_run, here):
    need("onnx")
    exported(random_run, "onnx")
    Path("exports").mkdir()
    for path in Path().glob("quickstart.*"):
        shutil.move(path, "exports")
    names = {"images": torch.randn(1, 3, 32, 32)}
    exec(compile(LOAD, "docs/deploy.md", "exec"), names)
    with torch.no_grad():
        expected = fastvit.load_trained(random_run).module(names["images"])
    torch.testing.assert_close(names["logits"], expected, rtol=1e-3, atol=1e-4)


def test_preprocessing_inside(random_run, here):
    need("onnx")
    exported(random_run, "onnx", "--preprocessing", "inside")
    photograph = Image.radial_gradient("L").convert("RGB").resize((120, 90))
    photograph.save("photo.jpg", quality=100)
    names = names_for(INSIDE, None) | {"onnxruntime": importlib.import_module("onnxruntime")}
    exec(compile(INSIDE, "docs/deploy.md", "exec"), names)
    with Image.open("photo.jpg") as opened:
        expected = fastvit.load_trained(random_run)(opened).probabilities
    assert abs(torch.as_tensor(names["probabilities"]) - expected).max() < 0.02  # resized by torch's faster kernels


def test_float16(here, capsys):
    need("coreml")
    names = {"model": small_network(), "images": torch.randn(2, 3, 64, 64), "card": CARD}
    exec(compile(FLOAT16, "docs/deploy.md", "exec"), names)
    assert Path("network.mlpackage").is_dir()
    assert len(capsys.readouterr().out.splitlines()) >= 5
