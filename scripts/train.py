"""Train by a recipe.

python scripts/train.py configs/quickstart/digits.yaml
python scripts/train.py configs/quickstart/digits.yaml schedule.epochs=5 output=runs/short
python scripts/train.py --resume runs/short
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from fastvit.errors import exit_on_user_error
from fastvit.tasks import load_recipe, make_task
from fastvit.training.checkpoint import read_checkpoint
from fastvit.training.engine import train
from fastvit.training.recipe import Recipe
from fastvit.training.run_folder import RunFolder


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    with exit_on_user_error():
        recipe = find_recipe(arguments)
        train(make_task(recipe), recipe, resume=arguments.resume is not None)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", help="YAML file; with --resume, the run's own by default")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in place of what the recipe says")
    parser.add_argument("--resume", type=Path, metavar="FOLDER", help="go on with the run in this folder")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.recipe and "=" in arguments.recipe:  # --resume FOLDER key=value
        arguments.overrides.insert(0, arguments.recipe)
        arguments.recipe = None
    if not arguments.recipe and not arguments.resume:
        parser.error("give a recipe, or the folder of a run to --resume")
    return arguments


def find_recipe(arguments: argparse.Namespace) -> Recipe:
    """The recipe that is named, or else the one of the run to resume."""
    if not arguments.resume:
        return load_recipe(arguments.recipe, arguments.overrides)
    source = arguments.recipe or read_checkpoint(RunFolder(arguments.resume).last)["recipe"]
    return load_recipe(source, [*arguments.overrides, f"output={json.dumps(str(arguments.resume))}"])


if __name__ == "__main__":
    main()
