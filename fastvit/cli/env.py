"""Print versions, hardware and which extras are installed: what a report of a bug needs.

fastvit env
"""

import argparse
import re
from importlib.metadata import requires


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(arguments: argparse.Namespace) -> None:
    from fastvit.runtime.environment import environment, installed

    extras = extra_packages()
    packages = sorted({package for names in extras.values() for package in names})
    rows = {**environment(), **{package: installed(package) or "missing" for package in packages}}
    for extra, names in extras.items():
        missing = [name for name in names if not installed(name)]
        rows[f"[{extra}]"] = f"lacks {', '.join(missing)}" if missing else "complete"
    width = max(map(len, rows))
    print("\n".join(f"{name:<{width}}  {value}" for name, value in rows.items()))


def extra_packages() -> dict[str, list[str]]:
    """The packages of each extra, by the metadata of the installed package."""
    extras: dict[str, list[str]] = {}
    for requirement in requires("fastvit") or ():
        if of_extra := re.match(r"([\w.-]+).*extra == ['\"](\w+)['\"]", requirement):
            extras.setdefault(of_extra[2], []).append(of_extra[1])
    return extras
