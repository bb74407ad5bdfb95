"""Train by a recipe, on one device or with a process for each of several.

fastvit train quickstart/digits
fastvit train quickstart/digits schedule.epochs=5 output=runs/short
fastvit train my_recipe.yaml --dry-run
fastvit train --resume runs/short
torchrun --nproc-per-node 8 -m fastvit train classification/fastvit_t8 data.root=/data/imagenet

`fastvit recipes` lists the recipes that come with the package.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fastvit.cli.source import tell_licence
from fastvit.errors import RecipeError, RunStopped

if TYPE_CHECKING:
    from fastvit.training.recipe import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", help="YAML file or shipped name; with --resume, the run's own by default")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in place of what the recipe says")
    parser.add_argument("--resume", type=Path, metavar="FOLDER", help="go on with the run in this folder, or from FILE")
    parser.add_argument(
        "--dry-run", action="store_true", help="show the complete recipe, parameter groups, schedule and a batch only"
    )


def run(arguments: argparse.Namespace) -> None:
    from fastvit import shipped
    from fastvit.recipes import make_task, recipe_of_all
    from fastvit.runtime.allocator import keep_freed_memory
    from fastvit.runtime.device import best_device
    from fastvit.runtime.processes import process_group
    from fastvit.trained.licence import licence_of_recipe
    from fastvit.training.dry_run import dry_run
    from fastvit.training.engine import train

    if "=" in (arguments.recipe or "") and not shipped.find(arguments.recipe).is_file():  # --resume FOLDER key=value
        arguments.overrides.insert(0, arguments.recipe)
        arguments.recipe = None
    if not arguments.recipe and not arguments.resume:
        raise RecipeError("give a recipe (`fastvit recipes` lists them), or the folder of a run to --resume")
    resume_from = checkpoint_to_resume(arguments.resume)
    with process_group() as processes:
        keep_freed_memory(best_device(processes.local_rank))  # before workers start, which inherit it
        recipe = recipe_of_all(processes, lambda: find_recipe(arguments, resume_from))
        if arguments.dry_run:
            processes.on_main(lambda: dry_run(make_task(recipe), recipe))
            return
        if processes.is_main:
            tell_licence(licence_of_recipe(recipe))
        try:
            train(make_task(recipe), recipe, resume_from=resume_from, processes=processes)
        except RunStopped as stopped:
            if processes.is_main:
                print(stopped, file=sys.stderr)
            sys.exit(128 + stopped.number)  # as a shell tells of a signal: the run is not finished


def checkpoint_to_resume(path: Path | None) -> Path | None:
    """The file to go on from: the last of a run's folder, or the one that is named."""
    from fastvit.training.run_folder import RunFolder

    return path if path is None or path.is_file() else RunFolder(path).last


def find_recipe(arguments: argparse.Namespace, resume_from: Path | None) -> "Recipe":
    """The recipe that is named, or else the one of the run to resume."""
    from fastvit.recipes import load_recipe
    from fastvit.training.checkpoint import read_resumable
    from fastvit.training.run_folder import RunFolder

    if not resume_from:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        recipe.require_effect()
        if not arguments.dry_run:
            RunFolder(recipe.output).require_unused()  # else the division of a run that lies there would be taken
        return recipe.completed()
    if any(override.startswith("output=") for override in arguments.overrides):
        raise RecipeError("output: a resumed run goes on in its own folder; move that if you want it elsewhere")
    source = arguments.recipe or read_resumable(resume_from)["recipe"]
    return load_recipe(source, [*arguments.overrides, f"output={json.dumps(str(resume_from.parent))}"]).completed()
