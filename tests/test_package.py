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

# What each part may import from the package, itself apart. Whatever is not listed is a new part: say where it belongs.
ALLOWED = {
    "allocator": set(),
    "errors": set(),
    "variants": set(),
    "timing": set(),
    "reparam": set(),
    "layers": {"reparam"},
    "weights": {"errors", "layers", "reparam", "variants"},
    "fastvit": {"layers", "reparam", "variants", "weights"},
    "deploy": {"", "allocator", "errors", "reparam", "timing", "weights"},
    "data": {"errors"},
    "training": {"", "allocator", "errors", "tasks.task"},
    "robustness": {"", "allocator", "errors", "tasks", "training"},
    "benchmark": {"", "errors", "timing", "variants", "deploy", "training", "tasks"},
    "tasks": {"errors", "data", "training", "weights", "", "variants", "deploy"},
}


def imports_of(path):
    """The modules of the package that a file imports, relative to it ("" is the package itself)."""
    inside = (PACKAGE / path.relative_to(PACKAGE)).relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            prefix = ".".join(inside[: len(inside) - node.level]) if node.level else ""
            names = [".".join(filter(None, (prefix, node.module)))]
        else:
            continue
        yield from (name.removeprefix("fastvit").removeprefix(".") for name in names if name.split(".")[0] == "fastvit")


def test_dependencies_point_one_way():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if part == "__init__":
            continue
        for name in imports_of(path):
            top = name.split(".")[0]
            if top != part and not {top, name} & ALLOWED[part]:
                wrong.append(f"{path.relative_to(ROOT)} imports fastvit.{name}")
    assert not wrong


def run(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_needs_no_extra():
    program = f"""
import sys
for name in {EXTRAS}:
    sys.modules[name] = None  # importing it raises ImportError
import fastvit, timm
timm.create_model("fastvit_t8", device="meta")
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
    assert {name.split("/")[0] for name in names} == {"fastvit", f"{wheel.name.split('-py3')[0]}.dist-info"}
    modules = {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*.py")}
    assert {name for name in names if name.startswith("fastvit/")} == modules | {"fastvit/py.typed"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
