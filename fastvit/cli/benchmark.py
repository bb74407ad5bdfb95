"""Measure a suite of networks: tables, a picture, and JSON with every sample.

fastvit benchmark benchmark/peers --quick
fastvit benchmark benchmark/variants batch_sizes=[1,8] output=runs/benchmark/mine
fastvit benchmark report runs/benchmark/peers               # tables and picture again, from the samples
fastvit benchmark compare runs/guard/before runs/guard/now  # which rows changed by more than their noise
fastvit benchmark --everything --device cuda --minutes 9 --output runs/benchmark/gpu

The same command goes on after an interruption. `fastvit recipes` lists the suites that come with the package.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from fastvit import shipped
from fastvit.errors import RunError

if TYPE_CHECKING:
    from fastvit.benchmark.result import Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", nargs="?", help="YAML file, the name of one of the package, `report` or `compare`")
    parser.add_argument("arguments", nargs="*", help="key=value, in place of what the suite says; or results")
    parser.add_argument("--quick", action="store_true", help="the part that the suite calls quick")
    parser.add_argument("--minutes", type=float, help="stop then; the same command goes on")
    parser.add_argument("--everything", action="store_true", help="all suites for a device")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of --everything")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark"), help="folder of --everything")


def run(arguments: argparse.Namespace) -> None:
    if arguments.everything:
        overrides = [word for word in (arguments.suite, *arguments.arguments) if word]
        return _everything(arguments.device, arguments.output, overrides, arguments.minutes)
    if arguments.suite is None:
        raise RunError("name a suite, or --everything; `fastvit recipes` lists the suites of the package")
    if arguments.suite in ("report", "compare"):
        return {"report": _report, "compare": _compare}[arguments.suite]([Path(each) for each in arguments.arguments])

    from fastvit.benchmark.measure import measure
    from fastvit.benchmark.suite import load_suite

    suite = load_suite(shipped.find(arguments.suite), arguments.arguments)
    suite = suite.shortened() if arguments.quick else suite
    return _show(measure(suite, quick=arguments.quick, minutes=arguments.minutes), suite.output)


def _everything(device: str, output: Path, overrides: list[str], minutes: float | None) -> None:
    from fastvit.benchmark.everything import PARTS, everything

    for result in everything(PARTS[device], output, device, overrides=overrides, minutes=minutes):
        _show(result, result.suite.output)


def _report(paths: list[Path]) -> None:
    from fastvit.benchmark.result import load

    if not paths:
        raise RunError("name the results to report: folders, or their JSON")
    for path in paths:
        _show(load(path), path if path.is_dir() else path.parent, path.stem if path.is_file() else "")


def _compare(paths: list[Path]) -> None:
    from fastvit.benchmark.compare import comparison
    from fastvit.benchmark.result import load

    if len(paths) != 2:
        raise RunError(f"compare two results, the earlier one first, not {len(paths)}")
    print(comparison(*map(load, paths)))


def _show(result: "Result", folder: Path, stem: str = "") -> None:
    """Print the tables, and write them and the picture beside the result."""
    from fastvit.benchmark.report import report

    written = [folder / (f"{stem}.md" if stem else "table.md")]
    text = report(result)
    written[0].write_text(text, encoding="utf-8")
    if find_spec("matplotlib") and any(row.rounds_ms for row in result.rows()):
        from fastvit.benchmark.picture import picture

        written.append(folder / (f"{stem}.png" if stem else "picture.png"))
        picture(result).savefig(written[1], dpi=130)
    print(text)
    print(
        f"written: {', '.join(map(str, written))}" + ("" if find_spec("matplotlib") else "; no picture: no matplotlib")
    )
