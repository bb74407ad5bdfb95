"""The wheel alone, in an empty folder: no clone, no more packages than a command needs."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from fastvit.data.digits import Digits
from fastvit.errors import EXTRAS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fastvit"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    (path,) = folder.glob("fastvit-*.whl")
    return path


def test_it_holds_the_package_only(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {"fastvit", "fastvit_cli.py", f"{wheel.name.split('-py3')[0]}.dist-info"}
    assert {name.split("/")[0] for name in names} == tops
    kinds = ("py", "html", "css", "js")
    modules = {str(path.relative_to(ROOT)) for kind in kinds for path in PACKAGE.rglob(f"*.{kind}")}
    recipes = {f"fastvit/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.*") if path.suffix != ".pyc"}
    assert {name for name in names if name.startswith("fastvit/")} == modules | recipes | {"fastvit/py.typed"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.fixture(scope="module")
def place(wheel, tmp_path_factory):
    """An environment with the wheel and, of the packages that are installed here, all others; and an empty folder."""
    folder = tmp_path_factory.mktemp("place")
    venv.create(folder / "venv")
    python = folder / "venv" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(install, check=True)
    (own,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # After the environment's own packages; the .pth files in there, such as that of an editable fastvit, do not count.
    (own / "others.pth").write_text(sysconfig.get_paths()["purelib"])
    (folder / "empty").mkdir()
    return folder


def run(place, *command):
    """What a command of the environment prints, in the empty folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    program = [str(place / "venv" / "bin" / command[0]), *command[1:]]
    done = subprocess.run(program, cwd=place / "empty", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_main_job_from_the_wheel(place):
    assert run(place, "python", "-c", "import fastvit; print(fastvit.__file__)").startswith(str(place))
    assert "quickstart/digits " in run(place, "fastvit", "recipes")
    run(place, "fastvit", "train", "quickstart/digits", "schedule.epochs=2", "schedule.warmup_epochs=1")
    assert "epoch 2 of 2" in run(place, "fastvit", "evaluate", "runs/quickstart")
    assert "relative error" in run(place, "fastvit", "export", "runs/quickstart", "--format", "onnx", "safetensors")
    (place / "empty" / "photos").mkdir()
    for index in range(5):
        Digits(train=False, image_size=32)[index][0].save(place / "empty" / "photos" / f"{index}.png")
    of_run = run(place, "fastvit", "predict", "photos", "--model", "runs/quickstart", "--top", "1")
    for name, needed in (("quickstart.onnx", "onnxruntime"), ("quickstart.safetensors", "")):
        assert labels(predict_with(place, needed, f"exports/{name}")) == labels(of_run)


def predict_with(place, needed, model):
    """By an exported file, with all modules of extras missing but the one that is needed."""
    missing = tuple(name for name in EXTRAS if name != needed)
    program = f"""
import sys
sys.modules.update(dict.fromkeys({missing}))  # importing None raises ModuleNotFoundError
sys.argv = ["fastvit", "predict", "photos", "--model", {model!r}, "--top", "1", "--pictures", {model + "-pictures"!r}]
import fastvit_cli
fastvit_cli.main()
"""
    return run(place, "python", "-c", program)


def labels(printed):
    """Of each image the most probable class."""
    found = [line.split(": ")[1].split()[0] for line in printed.splitlines() if line.startswith("photos/")]
    assert len(found) == 5
    return found
