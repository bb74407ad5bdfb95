"""The package as a whole: what imports what, what importing costs, what each command needs."""

import ast
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fastvit
from fastvit.cli.main import ends_quietly
from fastvit.errors import EXTRAS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fastvit"
# From the ground up. A part imports from those on floors below its own, and never from one beside it.
FLOORS = (
    ("errors", "files", "precision", "shipped", "gradient_checkpointing"),
    ("reparam", "compare", "checkpoint_files"),
    ("layers",),
    ("variants", "published"),
    ("weights",),
    ("fastvit",),
    ("builtin",),
    ("the package itself",),
    ("config", "runtime", "models", "data", "pretrained", "explain"),
    ("deploy", "training"),
    ("recipes", "predictor"),
    ("trained",),
    ("tasks",),
    ("evaluation", "prediction", "model_card", "recipe_keys", "robustness"),
    ("features", "benchmark"),
    ("cli",),
    ("__main__",),
)
FLOOR = {part: number for number, floor in enumerate(FLOORS) for part in floor}


# A registry names its entries, which are on a floor above it, and imports one by its name when it is asked for that. It
# may tell a type checker where they are.
REGISTRIES = {("recipes", "tasks"), ("predictor", "tasks"), ("the package itself", "trained")}


def parts_in(names):
    """The parts of the package among modules and what is in them."""
    for name in names:
        package, _, inside = name.partition(".")
        if package == "fastvit":
            part = inside.split(".")[0]
            yield part if part in FLOOR else "the package itself"


def divided(tree):
    """What runs, and what only a type checker reads, which is taken out of it."""
    checks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    read = ast.Module([statement for check in checks for statement in check.body], [])
    for check in checks:
        check.body = []
    return tree, read


def imports_of(tree):
    """The parts of the package that a file imports, also within functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from parts_in(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"from {'.' * node.level}{node.module or ''} is relative"
            yield from parts_in(f"{node.module}.{alias.name}" for alias in node.names)


def named_in(tree):
    """The parts of the package of which a file imports a module by its name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            name = node.args[0]
            first = name.values[0] if isinstance(name, ast.JoinedStr) else name  # of f"fastvit.tasks.{task}.recipe"
            assert isinstance(first, ast.Constant), f"{ast.unparse(node)} does not tell which part it is about"
            yield from parts_in([first.value])


def test_dependencies_point_down():
    wrong, named = [], set()
    for path in PACKAGE.rglob("*.py"):
        tree, for_types = divided(ast.parse(path.read_text()))
        name = path.relative_to(PACKAGE).with_suffix("").parts[0]
        part = "the package itself" if name == "__init__" else name
        not_below = {other for other in FLOOR if FLOOR[other] >= FLOOR[part] and other != part}
        wrong += [f"{path.relative_to(ROOT)} imports {other}" for other in imports_of(tree) if other in not_below]
        named |= {(part, other) for other in (*named_in(tree), *imports_of(for_types)) if other in not_below}
    assert not wrong
    assert named == REGISTRIES


def run(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# What may be imported, and what it needs on top of those before. In one process, since each starts with torch and timm.
STEPS = (
    ((), "import timm, time; start = time.perf_counter(); import fastvit; print(time.perf_counter() - start)"),
    ((), "timm.create_model('fastvit_t8', device='meta')"),
    ((), "from fastvit.models import semantic_fpn, mask_rcnn, HandMesh, HandModel; import fastvit.deploy"),
    ((), "import fastvit.trained, fastvit.prediction, fastvit.tasks.classification.prediction"),
    (("pydantic",), "import fastvit.tasks.classification.task, fastvit.benchmark.bench, fastvit.robustness"),
    (("roma",), "import fastvit.tasks.hand_mesh.prediction"),
)
BLOCK = f"import sys; sys.modules.update(dict.fromkeys({tuple(EXTRAS)}))  # importing None raises ModuleNotFoundError\n"


def imported(steps):
    """How many seconds importing fastvit took on top of timm."""
    unblocked = ["".join(f"del sys.modules[{name!r}]; " for name in needed) + step for needed, step in steps]
    return float(run(BLOCK + "\n".join(unblocked)))


def test_importing_needs_no_other_extra_and_is_quick():
    """Less than 0.3 s on top of timm; the best of three, for other work on the machine only adds."""
    assert imported(STEPS) < 0.3 or any(imported(STEPS[:1]) < 0.3 for _ in range(2))


def test_what_lacks_an_extra_names_it():
    """Each command, by one sentence; predicting needs none for a network of timm's."""
    program = (
        BLOCK
        + """
import contextlib, io
from fastvit.cli.main import main
for command in ("train quickstart/digits", "evaluate runs/x", "evaluate quickstart/digits --random-weights",
        "export quickstart/digits --random-weights --format safetensors",
        "export resnet18 --random-weights --format onnx",
        "quantize fastvit_t8 --random-weights --format openvino", "benchmark benchmark/peers",
        "probe a b", "embed open_clip:MobileCLIP2-S0 x --output y --random-weights"):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            main(command.split())
        except SystemExit as end:
            assert end.code == 2, command
    print(said.getvalue().strip())
"""
    )
    lines = run(program).splitlines()
    extras = ("train", "train", "train", "train", "export", "openvino", "benchmark", "train", "features")
    for line, extra in zip(lines, extras, strict=True):
        assert line.endswith(f'pip install "fastvit[{extra}]"'), lines


def test_every_public_name_is_listed_and_there():
    """Also the one that is imported when it is asked for."""
    assert set(fastvit.__all__) <= set(dir(fastvit))
    assert all(hasattr(fastvit, name) for name in fastvit.__all__)
    assert not hasattr(fastvit, "load_traned")


@pytest.mark.slow
def test_a_type_checker_knows_the_names_of_the_package(tmp_path):
    """What is misspelled is an error, also of what is imported when it is asked for."""
    program = tmp_path / "program.py"
    program.write_text("import fastvit\n\nfastvit.reparametrize_model\nfastvit.load_trained('a').lables\n")
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert 'has no attribute "reparametrize_model"' in done.stdout
    assert '"Trained" has no attribute "lables"' in done.stdout


def test_every_module_of_an_extra_is_known_with_it():
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    modules = {"scikit-learn": "sklearn", "imagecorruptions-imaug": "imagecorruptions"}
    modules["open_clip_torch"] = "open_clip"
    known = {(modules.get(name, name.replace("-", "_")), extra) for extra in extras for name in packages(extras[extra])}
    assert set(EXTRAS.items()) <= known
    used = {module for module, extra in known if extra not in ("test", "docs")}
    assert used <= {*EXTRAS, "fastvit", "pillow", "tqdm"}


def packages(requirements):
    return [re.match(r"[\w-]+", requirement)[0] for requirement in requirements]


def test_help_comes_without_torch():
    """Of `fastvit` and every subcommand, with an example, by what the installed command runs."""
    program = """
import sys, contextlib, io
import fastvit_cli
from importlib.util import find_spec, module_from_spec
sys.modules["fastvit"] = module_from_spec(find_spec("fastvit"))
from fastvit.cli.main import COMMANDS
del sys.modules["fastvit"]
for name in ("", *COMMANDS):
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as printed:
        sys.argv = ["fastvit", *filter(None, [name]), "--help"]
        fastvit_cli.main()
    assert f"\\nfastvit {name or 'train quickstart/digits'}" in printed.getvalue(), name  # an example
    assert "torch" not in sys.modules, name
"""
    assert run(program) == ""


def test_a_reader_that_stops_is_no_error():
    """`fastvit recipes | head -1`, and one that does not read at all."""
    command = f"{sys.executable} -c 'import fastvit_cli; fastvit_cli.main()' recipes"
    for reader, heard in (("head -1", 1), ("true", 0)):
        done = subprocess.run(
            ["bash", "-c", f"{command} | {reader}; echo ${{PIPESTATUS[0]}} >&2"],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        assert len(done.stdout.splitlines()) == heard
        assert done.stderr.strip() in ("0", "141")  # a shell's word for SIGPIPE, and no traceback


def test_a_command_that_is_asked_to_end_cleans_up():
    before, cleaned = signal.getsignal(signal.SIGTERM), []

    def command():
        with ends_quietly():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)
            finally:
                cleaned.append(True)

    with pytest.raises(SystemExit) as end:
        command()
    assert (end.value.code, cleaned) == (143, [True])
    assert signal.getsignal(signal.SIGTERM) is before
