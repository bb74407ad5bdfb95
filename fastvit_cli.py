"""The command `fastvit`. Help comes at once: torch and timm are imported only when there is something to do."""

import sys
from importlib.util import find_spec, module_from_spec


def main() -> None:
    """Parse the command line, then import the package, then do what was asked."""
    spec = find_spec("fastvit")
    package = sys.modules["fastvit"] = module_from_spec(spec)  # known, but not run: its parts can be imported
    from fastvit.cli.main import parse, run

    command = parse(sys.argv[1:])
    spec.loader.exec_module(package)
    run(command)
