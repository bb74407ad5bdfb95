"""The package as a whole: what imports what, what importing costs, what the wheel holds."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fastvit"
EXTRAS = (
    "pydantic",
    "tensorboard",
    "matplotlib",
    "sklearn",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "webdataset",
    "datasets",
    "wandb",
    "imagecorruptions",
    "pycocotools",
    "roma",
    "body_models",
    "openvino",
    "nncf",
    "coremltools",
    "executorch",
    "torchao",
)

# From the ground up. A part imports from those on floors below its own, and never from one beside it.
FLOORS = (
    ("errors", "reparam", "variants", "shipped"),
    ("layers",),
    ("weights",),
    ("fastvit",),
    ("the package itself",),
    ("config", "runtime", "models", "data"),
    ("deploy", "training"),
    ("predictor",),
    ("tasks",),
    ("trained",),
    ("evaluation", "prediction", "robustness", "benchmark"),
    ("cli",),
    ("__main__",),
)
FLOOR = {part: number for number, floor in enumerate(FLOORS) for part in floor}


def imports_of(path):
    """The parts of the package that a file imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, inside = name.partition(".")
            if package == "fastvit":
                part = inside.split(".")[0]
                yield part if part in FLOOR else "the package itself"


def test_dependencies_point_down():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).with_suffix("").parts[0]
        own = FLOOR["the package itself" if part == "__init__" else part]
        wrong += [
            f"{path.relative_to(ROOT)} imports {other}"
            for other in imports_of(path)
            if FLOOR[other] >= own and other != part
        ]
    assert not wrong


def run(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("needed", "statement"),
    [
        ((), "import fastvit, timm; timm.create_model('fastvit_t8', device='meta')"),
        ((), "from fastvit.models import semantic_fpn, mask_rcnn, HandMesh, HandModel; import fastvit.deploy"),
        (("pydantic",), "import fastvit.tasks.classification, fastvit.benchmark.measure, fastvit.robustness"),
        (("pydantic", "roma"), "import fastvit.tasks.hand_mesh.inference"),
    ],
)
def test_importing_needs_no_other_extra(needed, statement):
    blocked = [name for name in EXTRAS if name not in needed]
    program = f"import sys; sys.modules.update(dict.fromkeys({blocked}))  # importing None raises ImportError"
    assert run(f"{program}\n{statement}") == ""


def test_help_comes_without_torch():
    """Every subcommand, by what the installed command runs."""
    program = """
import sys, contextlib, io
from unittest.mock import patch
import fastvit_cli
from importlib.util import find_spec, module_from_spec
sys.modules["fastvit"] = module_from_spec(find_spec("fastvit"))
from fastvit.cli.main import COMMANDS
del sys.modules["fastvit"]
for name in COMMANDS:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as printed:
        sys.argv = ["fastvit", name, "--help"]
        fastvit_cli.main()
    assert f"\\nfastvit {name}" in printed.getvalue(), name  # an example
    assert "torch" not in sys.modules, name
"""
    assert run(program) == ""


def test_importing_is_quick():
    """Less than 0.3 s on top of timm; the best of three, for other work on the machine only adds."""
    program = "import timm, time; start = time.perf_counter(); import fastvit; print(time.perf_counter() - start)"
    assert min(float(run(program)) for _ in range(3)) < 0.3


@pytest.mark.slow
def test_the_wheel_holds_the_package_only(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("fastvit-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {"fastvit", "fastvit_cli.py", f"{wheel.name.split('-py3')[0]}.dist-info"}
    assert {name.split("/")[0] for name in names} == tops
    modules = {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*.py")}
    recipes = {f"fastvit/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.*") if path.suffix != ".pyc"}
    assert {name for name in names if name.startswith("fastvit/")} == modules | recipes | {"fastvit/py.typed"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
