"""Every code block of the README, and of docs/start.md, runs. Those that install or train at length are run by .ci/run,
word for word. The README is short, and its figures are measured ones."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import timm
import timm.models.fastvit as builtin
import torch
from PIL import Image
from timm.layers import LayerNorm2d
from torch import nn

from fastvit.cli.main import main
from fastvit.layers import LayerScale
from reference import ENCODERS, golden_shapes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
START = (ROOT / "docs" / "start.md").read_text()
MOBILECLIP = (ROOT / "docs" / "mobileclip.md").read_text()
BLOCKS = re.findall(r"(?:<!-- (\w+) -->\n)?```(\w+)\n(.*?)```", README + START, re.DOTALL)
PYTHON = [code for _, language, code in BLOCKS if language == "python"]
SHELL = {mark: code for mark, language, code in BLOCKS if language == "bash"}


def test_no_block_escapes():
    assert {language for _, language, _ in BLOCKS} == {"python", "bash", "text"}
    assert set(SHELL) == {"quickstart", "test", "finetune", "export"}
    ci = (ROOT / ".ci" / "run").read_text()
    assert "for block in quickstart test; do" in ci


def block(code: str):
    """Engines are compiled for the one that takes them all."""
    marks = [pytest.mark.slow] if "compile_for_inference" in code else []
    return pytest.param(code, marks=marks, id=code.strip().splitlines()[-1][:40])


@pytest.mark.parametrize("code", list(map(block, PYTHON)))
def test_python(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})


def test_fine_tuning(tmp_path, monkeypatch):
    """The commands as printed, on generated folders, with overrides that make them short and offline."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for label, color in enumerate(("red", "green", "blue")):
            folder = tmp_path / "my_images" / split / color
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 80, (40, 50, 3), dtype=np.uint8)
                pixels[..., label] += 170
                Image.fromarray(pixels).save(folder / f"{i}.jpg")
    monkeypatch.chdir(tmp_path)
    offline = ["model.name=fastvit_t8", "model.pretrained=false", "data.workers=0", "data.image_size=64"]
    short = ["schedule.epochs=1", "schedule.warmup_epochs=0", "loop.batch_size=4", "loop.precision=float32"]
    for line in SHELL["finetune"].splitlines():
        program, *arguments = shlex.split(line)
        assert program == "fastvit"
        main([*arguments, *(offline + short if arguments[0] == "train" else [])])
    assert {"best.pt", "last.pt", "curve.png", "evaluation.json", "predictions.png"} <= {
        path.name for path in (tmp_path / "runs" / "finetune").iterdir()
    }


def test_exporting(tmp_path, monkeypatch):
    """The commands as printed, on a run without training and a folder of digits."""
    import torch

    from fastvit.data.digits import Digits
    from fastvit.tasks import load_recipe, make_task

    recipe = load_recipe(ROOT / "configs" / "quickstart" / "digits.yaml")
    model = make_task(recipe).build_model()
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    checkpoint = {"state_dict": model.state_dict(), "recipe": recipe.to_dict()}
    torch.save(checkpoint, tmp_path / "runs" / "quickstart" / "best.pt")
    (tmp_path / "photos").mkdir()
    Digits(train=False, image_size=48)[0][0].save(tmp_path / "photos" / "digit.png")
    monkeypatch.chdir(tmp_path)
    for line in SHELL["export"].splitlines():
        main(shlex.split(line)[1:])
    assert (tmp_path / "exports" / "quickstart.onnx.json").exists()
    assert (tmp_path / "predictions.csv").read_text().startswith("image,label,probability")
    assert (tmp_path / "pictures" / "digit.png").exists()


def test_every_path_in_the_tree_exists():
    (tree,) = (code for _, language, code in BLOCKS if language == "text" and "reparam.py" in code)
    folder = ROOT
    for line in tree.splitlines():
        name = line.split()[0]
        if line.startswith("  "):
            assert (folder / name).exists(), line
        else:
            folder = ROOT / name
            assert folder.is_dir(), line


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/start.md"])
def test_every_file_named_exists(page):
    """In links and in code; the site's build follows the links of docs/ itself."""
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(([\w/.]+)[)#]", text) + re.findall(r'src="([^"]+)"', text)
    named = re.findall(r"`((?:configs|docs|fastvit|scripts|tests)/[\w/.]*)`", text)
    missing = [name for name in links if not (ROOT / page).parent.joinpath(name).exists()]
    missing += [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_it_is_short():
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize(
    ("page", "section", "least"),
    [("README.md", "Beside timm's own FastViT", 9), ("docs/how_it_works.md", "Where the time goes", 6)],
)
def test_figures_are_those_of_the_benchmarks(page, section, least):
    (table,) = re.findall(rf"## {section}\n(.*?)\nMeasured ", (ROOT / page).read_text(), re.DOTALL)
    figures = set(re.findall(r"\b\d\.\d\d\b", table))
    assert len(figures) >= least
    measured = re.findall(r"^\| times as fast\b.*", (ROOT / "docs/benchmarks.md").read_text(), re.MULTILINE)
    assert figures <= set(re.findall(r"\d+\.\d+", "".join(measured)))


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("fastvit_t8", 10),
        pytest.param("fastvit_sa12", 14, marks=pytest.mark.slow),
        pytest.param("fastvit_ma36", 42, marks=pytest.mark.slow),
    ],
)
def test_as_many_batch_norms_are_left_as_it_says(name, left):
    """By timm's own pass on timm's own network."""
    (row,) = re.findall(r"batch norms left after fusing.*", README)
    assert str(left) in row
    with torch.device("meta"):
        theirs = timm.utils.reparameterize_model(getattr(builtin, name)())
        fused = timm.create_model(name, fused=True)
    assert [sum(isinstance(each, nn.BatchNorm2d) for each in form.modules()) for form in (theirs, fused)] == [left, 0]


@pytest.mark.parametrize(
    "name", ["fastvit_mci0", "fastvithd", *(pytest.param(each, marks=pytest.mark.slow) for each in ENCODERS[1:-1])]
)
def test_what_encoders_give_is_as_long_as_the_tables_say(name):
    with torch.device("meta"):
        model, image = timm.create_model(name).eval(), torch.zeros(1, 3, 64, 64)
        output = model(image).shape[1]
        model.reset_classifier(0)
        features = model(image).shape[1]
    for page in (README, MOBILECLIP):
        assert re.findall(rf"^\| `{name}` \| .* \| (\d+, \d+)\b", page, re.M) == [f"{features}, {output}"]


NORMS = (nn.BatchNorm2d, (LayerScale, builtin.LayerScale2d), LayerNorm2d)


@pytest.mark.parametrize(
    "name", ["fastvit_mci0", *(pytest.param(each, marks=pytest.mark.slow) for each in ENCODERS[1:])]
)
def test_as_much_is_left_of_encoders_as_the_table_says(name):
    """Batch norms, layer scales and layer norms, by timm's own pass on timm's own network, and by ours."""
    title = {"fastvithd": "FastViTHD"}.get(name, name.replace("fastvit_mci", "MCi"))
    rows = re.findall(r"^\| (MCi[^|]*) \| (\d+), (\d+), (\d+) \| (\d+), (\d+), (\d+) \|$", MOBILECLIP, re.MULTILINE)
    ((_, *stated),) = (row for row in rows if title in row[0].split(", "))
    with torch.device("meta"):  # timm has no FastViTHD, whose blocks are those of MCi3
        theirs = timm.utils.reparameterize_model(getattr(builtin, name.replace("vithd", "vit_mci3"))())
        fused = timm.create_model(name, fused=True)
    found = [sum(isinstance(each, kind) for each in form.modules()) for form in (theirs, fused) for kind in NORMS]
    assert list(map(int, stated)) == found
    if name in ("fastvit_mci0", "fastvithd"):  # of which there is a list of what Apple's pass leaves
        left = golden_shapes(name.replace("fastvit_", "mobileclip_"), "fused")
        batch_norms = {each.removesuffix(".running_mean") for each in left if each.endswith(".running_mean")}
        layer_scales = {each for each in left if "layer_scale" in each}
        norms = {each.removesuffix(".weight") for each in left if each.endswith("norm.weight")}
        assert [len(batch_norms), len(layer_scales), len(norms - batch_norms)] == found[:3]
