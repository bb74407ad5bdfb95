"""Train by a recipe, on one device or with a process for each of several.

python scripts/train.py configs/quickstart/digits.yaml
python scripts/train.py configs/quickstart/digits.yaml schedule.epochs=5 output=runs/short
python scripts/train.py configs/quickstart/digits.yaml --dry-run
python scripts/train.py --resume runs/short
torchrun --nproc-per-node 8 scripts/train.py configs/classification/fastvit_t8.yaml data.root=/data/imagenet
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from fastvit.errors import RecipeError, RunStopped, exit_on_user_error
from fastvit.tasks import load_recipe, make_task
from fastvit.training.checkpoint import read_resumable
from fastvit.training.distributed import process_group
from fastvit.training.dry_run import dry_run
from fastvit.training.engine import train
from fastvit.training.recipe import Recipe
from fastvit.training.run_folder import RunFolder


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    resume_from = checkpoint_to_resume(arguments.resume)
    with exit_on_user_error(), process_group() as processes:
        recipe = processes.on_main(lambda: find_recipe(arguments, resume_from))
        if arguments.dry_run:
            processes.on_main(lambda: dry_run(make_task(recipe), recipe))
            return
        try:
            train(make_task(recipe), recipe, resume_from=resume_from, processes=processes)
        except RunStopped as stopped:
            if processes.is_main:
                print(stopped, file=sys.stderr)
            sys.exit(128 + stopped.number)  # as a shell tells of a signal: the run is not finished


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", help="YAML file; with --resume, the run's own by default")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in place of what the recipe says")
    parser.add_argument("--resume", type=Path, metavar="FOLDER", help="go on with the run in this folder, or from FILE")
    parser.add_argument(
        "--dry-run", action="store_true", help="show the complete recipe, parameter groups, schedule and a batch only"
    )
    arguments = parser.parse_intermixed_args(argv)
    if arguments.recipe and "=" in arguments.recipe:  # --resume FOLDER key=value
        arguments.overrides.insert(0, arguments.recipe)
        arguments.recipe = None
    if not arguments.recipe and not arguments.resume:
        parser.error("give a recipe, or the folder of a run to --resume")
    return arguments


def checkpoint_to_resume(path: Path | None) -> Path | None:
    """The file to go on from: the last of a run's folder, or the one that is named."""
    return path if path is None or path.is_file() else RunFolder(path).last


def find_recipe(arguments: argparse.Namespace, resume_from: Path | None) -> Recipe:
    """The recipe that is named, or else the one of the run to resume."""
    if not resume_from:
        return load_recipe(arguments.recipe, arguments.overrides)
    if any(override.startswith("output=") for override in arguments.overrides):
        raise RecipeError("output: a resumed run goes on in its own folder; move that if you want it elsewhere")
    source = arguments.recipe or read_resumable(resume_from)["recipe"]
    return load_recipe(source, [*arguments.overrides, f"output={json.dumps(str(resume_from.parent))}"])


if __name__ == "__main__":
    main()
