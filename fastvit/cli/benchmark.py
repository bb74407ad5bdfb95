"""Measure a suite of networks: table, JSON with every sample, picture.

fastvit benchmark benchmark/peers --quick
fastvit benchmark benchmark/variants batch_sizes=[1,8,256] output=runs/benchmark/gpu

`fastvit recipes` lists the suites that come with the package.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from fastvit import shipped
from fastvit.errors import RunError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", help="YAML file, or the name of one that comes with the package")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in place of what the suite says")
    parser.add_argument("--quick", action="store_true", help="the part that the suite calls quick")


def run(arguments: argparse.Namespace) -> None:
    from fastvit.benchmark.measure import measure
    from fastvit.benchmark.picture import picture
    from fastvit.benchmark.report import report
    from fastvit.benchmark.special import run_special, special_suite
    from fastvit.benchmark.suite import load_suite

    path = shipped.find(arguments.suite)
    if special_suite(path):
        print(run_special(path, arguments.overrides, quick=arguments.quick))
        return
    suite = load_suite(path, arguments.overrides)
    if arguments.quick:
        suite = suite.shortened()
    require_unused(suite.output)
    result = measure(suite, quick=arguments.quick, keep=lambda so_far: write_json(suite.output, so_far))
    write_json(suite.output, result)
    text = report(suite, result)
    (suite.output / "table.md").write_text(text, encoding="utf-8")
    if any("n" in row for row in result["rows"]):
        picture(suite, result).savefig(suite.output / "picture.png", dpi=130)
    print(text)
    print(f"written: {', '.join(str(suite.output / name) for name in ('table.md', 'result.json', 'picture.png'))}")


def require_unused(folder: Path) -> None:
    """Refuse to overwrite an earlier result, before an hour is spent on a new one."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise RunError(f"output {folder} cannot be written: {existing} is not a writable folder")
    if folder.exists() and any(folder.iterdir()):
        raise RunError(f"output {folder} already holds a result: choose another with output=<folder>")


def write_json(folder: Path, result: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
