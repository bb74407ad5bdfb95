"""Measure a suite of networks: table, JSON with every sample, picture.

python scripts/benchmark.py configs/benchmark/peers.yaml --quick
python scripts/benchmark.py configs/benchmark/variants.yaml batch_sizes=[1,8,256] output=runs/benchmark/gpu
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastvit.benchmark.measure import measure
from fastvit.benchmark.picture import picture
from fastvit.benchmark.report import report
from fastvit.benchmark.suite import load_suite
from fastvit.errors import RunError, exit_on_user_error


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    with exit_on_user_error():
        suite = load_suite(arguments.suite, arguments.overrides)
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


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path, help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in place of what the suite says")
    parser.add_argument("--quick", action="store_true", help="the part that the suite calls quick")
    return parser.parse_intermixed_args(argv)


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


if __name__ == "__main__":
    main()
