"""Write a teacher's answers to all images of a recipe, once for all students that see the same images.

fastvit teach classification/fastvit_t8_distill data.root=/data/imagenet
fastvit teach classification/fastvit_sa12_distill data.root=/data/imagenet --output /data/mixup_0.8.answers
torchrun --nproc-per-node 8 -m fastvit teach classification/fastvit_t8_distill data.root=/data/imagenet

Then train with distillation.answers=<file>. The same command goes on after an interruption.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fastvit.cli.source import tell_licence
from fastvit.errors import RecipeError, RunStopped

if TYPE_CHECKING:
    from fastvit.tasks.classification.recipe import ClassificationRecipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="YAML file or shipped name of a classification with a teacher")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in place of what the recipe says")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the answers (default: <output>.answers)")


def run(arguments: argparse.Namespace) -> None:
    from fastvit.recipes import make_task, recipe_of_all
    from fastvit.runtime.allocator import keep_freed_memory
    from fastvit.runtime.device import best_device
    from fastvit.runtime.folders import beside
    from fastvit.runtime.processes import process_group
    from fastvit.tasks.classification.teach import teach

    with process_group() as processes:
        keep_freed_memory(best_device(processes.local_rank))  # before workers start, which inherit it
        recipe = recipe_of_all(processes, lambda: find_recipe(arguments))
        processes.on_main(lambda: tell_licence(licence_of_teacher(recipe)))
        path = arguments.output or beside(recipe.output, ".answers")
        try:
            teach(make_task(recipe), path, processes=processes)
        except RunStopped as stopped:
            if processes.is_main:
                print(stopped, file=sys.stderr)
            sys.exit(128 + stopped.number)  # as a shell tells of a signal: there is more to do
        if processes.is_main:
            print(f"train with distillation.answers={path}")


def find_recipe(arguments: argparse.Namespace) -> "ClassificationRecipe":
    """The recipe that is named."""
    from fastvit.tasks import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if recipe.task != "classification":
        raise RecipeError(f"{arguments.recipe}: teachers are for classification, not for {recipe.task}")
    return recipe.completed()


def licence_of_teacher(recipe: "ClassificationRecipe") -> str:
    """Of its published weights; "" where there are none. (A recipe without a teacher is refused by `teach`.)"""
    from fastvit.tasks.network import in_words_of_recipes

    if not recipe.distillation or not recipe.distillation.teacher:
        return ""
    with in_words_of_recipes("distillation.teacher"):
        return recipe.distillation.teacher.find().licence
