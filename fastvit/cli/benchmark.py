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
from fastvit.errors import RunError, require_packages

if TYPE_CHECKING:
    from fastvit.benchmark.result import Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", nargs="?", help="YAML file, the name of one of the package, `report` or `compare`")
    parser.add_argument("arguments", nargs="*", help="key=value, in place of what the suite says; or results")
    parser.add_argument("--quick", action="store_true", help="the part that the suite calls quick, into <output>_quick")
    parser.add_argument("--minutes", type=float, help="stop then; the same command goes on")
    parser.add_argument("--everything", action="store_true", help="all suites for a device")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="of --everything, by default cpu")
    parser.add_argument("--output", type=Path, help="folder of --everything: runs/benchmark/everything_<device>")


def run(arguments: argparse.Namespace) -> None:
    require_packages("measuring", "pydantic", "matplotlib", extra="benchmark")
    if arguments.minutes is not None and arguments.minutes <= 0:
        raise RunError(f"--minutes must be more than 0, not {arguments.minutes:g}")
    if arguments.everything and arguments.quick:
        raise RunError("--quick is about one suite, not about --everything")
    if arguments.everything:
        return _everything(arguments)
    if arguments.device or arguments.output:
        raise RunError("--device and --output go with --everything; a suite takes device=<name> and output=<folder>")
    if arguments.suite is None:
        raise RunError("name a suite, or --everything; `fastvit recipes` lists the suites of the package")
    if arguments.suite in ("report", "compare"):
        return {"report": _report, "compare": _compare}[arguments.suite]([Path(each) for each in arguments.arguments])

    from fastvit.benchmark.measure import measure
    from fastvit.benchmark.special import special_suite
    from fastvit.benchmark.suite import load_suite

    path = shipped.find(arguments.suite)
    if special_suite(path):
        return _special(path, arguments)
    suite = load_suite(path, arguments.arguments, quick=arguments.quick)
    return _show(measure(suite, quick=arguments.quick, minutes=arguments.minutes), suite.output)


def _special(path: Path, arguments: argparse.Namespace) -> None:
    from fastvit.benchmark.special import run_special

    if arguments.minutes:
        raise RunError("--minutes is for suites that can go on; make this one shorter with --quick")
    print(run_special(path, arguments.arguments, quick=arguments.quick), end="")


def _everything(arguments: argparse.Namespace) -> None:
    from fastvit.benchmark.everything import PARTS, everything

    device = arguments.device or "cpu"
    folder = arguments.output or Path(f"runs/benchmark/everything_{device}")
    overrides = [word for word in (arguments.suite, *arguments.arguments) if word]
    for result in everything(PARTS[device], folder, device, overrides=overrides, minutes=arguments.minutes):
        _show(result, result.suite.output)


def _report(paths: list[Path]) -> None:
    from fastvit.benchmark.result import FILE, load
    from fastvit.benchmark.special import is_special, report_special
    from fastvit.runtime.folders import require_writable

    if not paths:
        raise RunError("name the results to report: folders, or their JSON")
    for path in paths:
        file = path / FILE if path.is_dir() else path
        names = () if path.is_dir() else (path.stem, path.stem)  # of the table and the picture beside it
        require_writable(file.parent, "the folder")
        if is_special(file):
            print(report_special(file, file.parent, *names), end="")
        else:
            _show(load(file), file.parent, *names)


def _compare(paths: list[Path]) -> None:
    from fastvit.benchmark.compare import comparison
    from fastvit.benchmark.result import load

    if len(paths) != 2:
        raise RunError(f"compare two results, the earlier one first, not {len(paths)}")
    print(comparison(*map(load, paths)))


def _show(result: "Result", folder: Path, table: str = "table", picture: str = "picture") -> None:
    """Print the tables, and write them and the picture into the folder."""
    from fastvit.benchmark.report import report

    text = report(result)
    written = [folder / f"{table}.md"]
    written[0].write_text(text, encoding="utf-8")
    can_draw = find_spec("matplotlib") is not None
    if can_draw and any(row.rounds_ms for row in result.rows()):
        from fastvit.benchmark.picture import picture as draw

        written.append(folder / f"{picture}.png")
        draw(result).savefig(written[1], dpi=130)
    print(text)
    print(f"written: {', '.join(map(str, written))}{'' if can_draw else '; no picture: no matplotlib'}")
