"""Suites that measure something else than networks. The key `measures` of such a suite is a module of this package.

The module has `SUITE`, the section that the file describes; `measure(suite)`, which yields plain data that grows, the
last of it complete; `table(data)`; and some have `picture(data)`. To the data come the suite and the environment.
"""

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from fastvit.benchmark.result import FILE
from fastvit.benchmark.suite import quick_output
from fastvit.config import apply_overrides, read_file, validate
from fastvit.errors import RecipeError, RunError, nearest
from fastvit.runtime.environment import environment
from fastvit.runtime.folders import require_writable

SPECIAL = ("loader", "distillation", "serving", "predict", "layers")


def special_suite(path: Path) -> str | None:
    """What a suite measures, if that is something special."""
    kind = read_file(path).get("measures") if path.is_file() else None
    if kind is not None and kind not in SPECIAL:
        raise RecipeError(f"{path}: measures must be one of {', '.join(SPECIAL)}, not {kind!r}{nearest(kind, SPECIAL)}")
    return kind


def run_special(path: Path, overrides: Sequence[str], *, quick: bool = False) -> str:
    """Measure a special suite, write result.json and table.md into its folder, and return the table.

    While it is measured, what is known so far is in result.json.part.

    Args:
        quick: with what the suite says under `quick`, into a folder of its own.

    Raises:
        UserError: the suite is wrong, or its folder holds a result already or cannot be written.
    """
    module = import_module(f"fastvit.benchmark.{special_suite(path)}")
    values = read_file(path)
    shorter = values.pop("quick", {})
    if quick:
        values |= shorter | quick_output(values)
    suite = validate(apply_overrides(values, overrides), module.SUITE, str(path))
    if (suite.output / FILE).exists():
        raise RunError(f"output {suite.output} already holds a result: choose another with output=<folder>")
    require_writable(suite.output)
    suite.output.mkdir(parents=True, exist_ok=True)
    about = {"suite": suite.model_dump(mode="json"), "environment": environment()}
    unfinished = suite.output / f"{FILE}.part"
    for found in module.measure(suite):
        unfinished.write_text(json.dumps(about | found) + "\n", encoding="utf-8")
    unfinished.replace(suite.output / FILE)
    return report_special(suite.output / FILE, suite.output)


def report_special(path: Path, folder: Path, table: str = "table", picture: str = "picture") -> str:
    """Write the table and, where there is one, the picture of a result into a folder, and return the table."""
    result = json.loads(path.read_text(encoding="utf-8"))
    module = import_module(f"fastvit.benchmark.{result['suite']['measures']}")
    text = f"# {result['suite']['title']}\n\n{module.table(result)}\n"
    (folder / f"{table}.md").write_text(text, encoding="utf-8")
    if hasattr(module, "picture") and find_spec("matplotlib"):
        module.picture(result).savefig(folder / f"{picture}.png", dpi=130)
    return text


def is_special(path: Path) -> bool:
    """Whether a file is the result of such a suite."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        return content["suite"]["measures"] in SPECIAL
    except (OSError, ValueError, KeyError, TypeError):
        return False


def cells(samples: Mapping[str, Sequence[float]], name: str, baseline: str, digits: int = 0) -> tuple[str, ...]:
    """Median, least, most, and the median over rounds of the ratio to the baseline in the same round."""
    own = samples[name]
    ratio = median(one / other for one, other in zip(own, samples[baseline], strict=True))
    return (*(f"{each:.{digits}f}" for each in (median(own), min(own), max(own))), f"{ratio:.2f}")
