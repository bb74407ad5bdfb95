"""The documentation: the site builds, its tutorials run, and what "How it works" says about the code is true."""

import importlib.util
import inspect
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import fastvit
from browser import served
from fastvit import RepMixer
from fastvit.cli.main import main
from fastvit.data.preprocessing import Preprocessing
from fastvit.recipes import load_recipe, make_task
from photographs import photographs

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"(?:<!-- (\S+) -->\n)?```(\w+)\n(.*?)```", re.DOTALL)


def blocks(page):
    """(mark, language, code) of each block of a page."""
    return BLOCK.findall((DOCS / page).read_text())


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """An empty folder to work in, and no window for pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    return tmp_path


def test_how_it_works(alone):
    """Its program runs; what it quotes of RepMixer is all of these methods."""
    (_, _, program), (path, _, quoted) = blocks("how_it_works.md")
    exec(compile(program, "how_it_works.md", "exec"), {})
    assert Path(inspect.getfile(RepMixer)) == ROOT / path
    methods = (textwrap.dedent(inspect.getsource(each)) for each in (RepMixer.forward, RepMixer.equivalent))
    assert "\n\n".join(methods).split() == quoted.split()


def test_the_operations_that_it_tells_are_those_of_the_network():
    spec = importlib.util.spec_from_file_location("drawings", DOCS / "drawings.py")
    drawings = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawings)
    trained, published, fused = (of_form.total() for of_form in drawings.count_operations("fastvit_t8").values())
    said = f"{trained} operations in training form, {published} fused as published, {fused} fused completely"
    assert said in (DOCS / "how_it_works.md").read_text()


PHOTOGRAPHS = ("as it is", "portrait", "panorama", "smaller than the crop", "one row")


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("side", "crop_pct"), [(64, 0.9), (33, 0.95), (32, 1.0)])
def test_images_are_prepared_as_deployment_says(interpolation, side, crop_pct, alone):
    """By Pillow and NumPy alone, what the network was validated with, which is timm's transform."""
    ((*_, code),) = (block for block in blocks("deploy.md") if block[0] == "preprocessing")
    preprocessing = Preprocessing(side, side, crop_pct, interpolation, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    Path("quickstart.onnx.json").write_text(json.dumps({"preprocessing": preprocessing.to_dict()}))
    for name in PHOTOGRAPHS:
        photographs()[name].save("photo.jpg", "PNG")  # as it is, whatever it is called
        names = {"Image": Image, "Path": Path, "json": json, "math": math, "np": np}
        exec(compile(code, "deploy.md", "exec"), names)
        expected = preprocessing.transform()(photographs()[name])[None].numpy()
        np.testing.assert_allclose(names["images"], expected, rtol=0, atol=1e-6, err_msg=name)


def test_a_network_of_one_s_own_is_made_as_recipes_says(alone):
    """Known to timm by its file, built by its recipe, and fused."""
    for mark, _, code in blocks("recipes.md"):
        if mark.startswith("my_"):
            (alone / mark).write_text(code)
    model = make_task(load_recipe("my_recipe.yaml")).build_model().eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert fastvit.fusion_error(model, fastvit.reparameterize_model(model), input_size=(3, 32, 32)) < 1e-5


def test_one_version_everywhere():
    """Of the package, where pyproject.toml takes it from; of the citation; and of the newest changes."""
    version = fastvit.__version__
    assert 'path = "fastvit/__init__.py"' in (ROOT / "pyproject.toml").read_text()
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == version


@pytest.mark.slow
def test_a_network_is_added_as_contributing_says(tmp_path):
    """In a copy of the package, which gets the row: created by timm, with features, fused."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    ((path, row),) = re.findall(r"<!-- (fastvit/\S+) -->\n *```python\n {3}(.*\n) *```", text)
    shutil.copytree(ROOT / "fastvit", tmp_path / "fastvit", ignore=shutil.ignore_patterns("__pycache__"))
    source = (tmp_path / path).read_text()
    (tmp_path / path).write_text(source.replace("VARIANTS = {\n", "VARIANTS = {\n" + row))
    program = """
import timm, torch, fastvit
model = timm.create_model("fastvit_t4", num_classes=3)
assert fastvit.fusion_error(model, fastvit.reparameterize_model(model), input_size=(3, 64, 64)) < 1e-5
assert len(timm.create_model("fastvit_t4", features_only=True)(torch.zeros(1, 3, 64, 64))) == 4
print(fastvit.__file__, sum(p.numel() for p in timm.create_model("fastvit_t4").parameters()))
"""
    command = [sys.executable, "-c", program]  # which looks for packages in the folder that it is run in
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    file, parameters = done.stdout.split()
    assert file.startswith(str(tmp_path))
    said = re.search(r"([\d.]+) M parameters", row)[1]
    assert f"{int(parameters) / 1e6:.1f}" == said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "makes"),
    [
        ("finetune", ("mistakes.png", "runs/my_digits/curve.png", "runs/my_digits/confusion.png")),
        ("own_network", ("kernels.png", "small_net.onnx")),
        ("web", ("exports/digits.web/index.html", "exports/digits.web/example-6.png")),
    ],
)
def test_tutorial(page, makes, alone, capsys):
    """Every block, in one session, as printed; and the pictures that the page shows are those that it makes."""
    names = {"__name__": "__main__"}
    for mark, language, code in blocks(f"tutorials/{page}.md"):
        if language == "python":
            exec(compile(code, page, "exec"), names)
        elif language == "yaml":
            (alone / mark).write_text(code)
        elif language == "bash":
            for line in code.splitlines():
                run(line)
        else:
            assert language == "text"
    assert all((alone / name).is_file() for name in makes)
    claims = {
        "finetune": r"(\d|1\d|2\d|3\d) of 160 images are taken for something else\n",  # fewer than 40: it has learned
        "own_network": r"9\d\.\d% of the held-out digits are right\n",
        "web": r"\[\('1', .*\n\[\('1', ",  # run and page say the same of the first example
    }
    assert re.search(claims[page], capsys.readouterr().out)


def run(line):
    """A command of a tutorial. A page that is served is looked at."""
    program, command, *arguments = shlex.split(line)
    if (program, command) == ("pip", "install"):
        return
    assert program == "fastvit"
    if command == "serve":
        with served(Path(*arguments)) as address, urlopen(address) as answer:
            assert b"</html>" in answer.read()
    else:
        main([command, *arguments])


@pytest.mark.slow
def test_the_site_builds_and_its_reference_is_complete(tmp_path):
    """Warnings are errors: a page in no table of contents, a link that leads nowhere, a docstring that is no text."""
    pytest.importorskip("sphinx", reason='the site needs pip install -e ".[docs]"')
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "-q", "-b", "html", str(DOCS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reference = "".join(page.read_text() for page in (tmp_path / "api").glob("*.html"))
    entries = set(re.findall(r'<dt [^>]*id="([\w.]+)"', reference))
    modules = ("fastvit", *(f"fastvit.{name}" for name in ("models", "deploy", "trained", "predictor", "errors")))
    expected = {f"{module}.{name}" for module in modules for name in importlib.import_module(module).__all__}
    assert expected <= entries
    assert not entries & {"fastvit.errors.nearest", "fastvit.predictor.find_predictor"}, "may change"
    assert "fastvit.html#fastvit.reparameterize_model" in (tmp_path / "how_it_works.html").read_text()
