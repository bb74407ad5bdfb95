"""Suites that measure something else than networks. The key `measures` of such a suite is a module of this package.

The module has `SUITE`, the section that the file describes; `measure(suite)`, which yields plain data that grows, the
last of it complete; `table(data)`; and some have `picture(data)`.
"""

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from fastvit.config import apply_overrides, read_file, validate
from fastvit.errors import RecipeError, RunError, nearest

SPECIAL = ("loader", "distillation", "serving", "predict", "layers")


def special_suite(path: Path) -> str | None:
    """What a suite measures, if that is something special."""
    kind = read_file(path).get("measures") if path.is_file() else None
    if kind is not None and kind not in SPECIAL:
        raise RecipeError(f"{path}: measures must be one of {', '.join(SPECIAL)}, not {kind!r}{nearest(kind, SPECIAL)}")
    return kind


def run_special(path: Path, overrides: Sequence[str], *, quick: bool = False) -> str:
    """Measure a special suite, write result.json as it grows and then table.md into its folder, and return the table.

    Args:
        quick: with what the suite says under `quick`.

    Raises:
        UserError: the suite is wrong, or its folder holds a result already or cannot be written.
    """
    module = import_module(f"fastvit.benchmark.{special_suite(path)}")
    values = read_file(path)
    shorter = values.pop("quick", {})
    suite = validate(apply_overrides(values | (shorter if quick else {}), overrides), module.SUITE, str(path))
    if (suite.output / "result.json").exists():
        raise RunError(f"output {suite.output} already holds a result: choose another with output=<folder>")
    try:
        suite.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"output {suite.output} cannot be written ({error.strerror})") from error
    for result in module.measure(suite):
        (suite.output / "result.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
    text = f"# {suite.title}\n\n{module.table(result)}\n"
    (suite.output / "table.md").write_text(text, encoding="utf-8")
    if hasattr(module, "picture") and find_spec("matplotlib"):
        module.picture(result).savefig(suite.output / "picture.png", dpi=130)
    return text


def paired_ratio(samples: Mapping[str, Sequence[float]], name: str, baseline: str) -> float:
    """The median over rounds of one measurement over another of the same round."""
    return median(one / other for one, other in zip(samples[name], samples[baseline], strict=True))
