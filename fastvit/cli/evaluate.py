"""Evaluate a trained model, as trained and fused for inference, and compare the two.

fastvit evaluate runs/quickstart
fastvit evaluate runs/quickstart/last.pt data.root=/data/elsewhere
fastvit evaluate classification/finetune --checkpoint fastvit_t8.pth.tar
fastvit evaluate fastvit_t8.apple_in1k data.root=/data/imagenet data.image_size=320
fastvit evaluate robustness/all model.name=fastvit_t8.apple_in1k root=/data
torchrun --nproc-per-node 8 -m fastvit evaluate runs/fastvit_t8
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastvit import shipped
from fastvit.errors import RecipeError, RunError

if TYPE_CHECKING:
    from torch import nn

    from fastvit.runtime.processes import Processes
    from fastvit.training.task import Task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="folder of a run, a checkpoint of a run, a recipe, or a timm name")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in place of what the recipe says")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", type=Path, help="weights for a recipe or name: what load_checkpoint reads")
    weights.add_argument("--pretrained", action="store_true", help="weights for a recipe: the hub's")
    parser.add_argument(
        "--form", choices=("unfused", "fused", "both"), default="both", help="which to evaluate (default: both)"
    )
    parser.add_argument("--output", type=Path, help="folder of the results (default: the run's, or one in it)")


def run(arguments: argparse.Namespace) -> None:
    from fastvit.evaluation import FORMS, evaluate_forms, table
    from fastvit.runtime.processes import process_group

    recipe = shipped.find(arguments.source)
    with process_group() as processes:
        if recipe.suffix in (".yaml", ".yml") and is_of_robustness(recipe):
            evaluate_robustness(recipe, arguments, processes)
            return
        task, model, folder = find_model(recipe, arguments)
        folder = arguments.output or folder / folder_name(arguments.overrides)
        forms = FORMS if arguments.form == "both" else (arguments.form,)
        result, written, notices = evaluate_forms(task, model, folder, forms=forms, processes=processes)
    if result:
        print(table(result, forms))
        print("\nwritten:", *written, sep="\n  ")
        for line in notices:
            print(line)


def is_of_robustness(recipe: Path) -> bool:
    from fastvit.config import read_file

    return recipe.is_file() and read_file(recipe).get("task") == "robustness"


def folder_name(overrides: Sequence[str]) -> str:
    """Results by other settings than the run's own go into a folder of their own, within the run's."""
    settings = [override for override in overrides if not override.startswith("output=")]
    return re.sub(r"[^\w.=,-]+", "_", ",".join(settings))[:100]


def find_model(recipe: Path, arguments: argparse.Namespace) -> "tuple[Task, nn.Module, Path]":
    """The task, the model in eval mode with its weights, and the folder of the run."""
    from fastvit.tasks import make_task
    from fastvit.trained import open_run, recipe_for_model

    source = Path(arguments.source)
    if recipe.suffix in (".yaml", ".yml"):
        return model_of_recipe(recipe, arguments)
    if not source.exists() and "/" not in arguments.source and source.suffix != ".pt":
        recipe = recipe_for_model(arguments.source, arguments.overrides, checkpoint=arguments.checkpoint)
        task = make_task(recipe)
        return task, task.build_model().eval(), task.recipe.output
    if arguments.checkpoint or arguments.pretrained:
        raise RunError("--checkpoint and --pretrained are for recipes; a run has its own weights")
    run = open_run(source, arguments.overrides)
    return run.task, run.model, run.path.parent


def model_of_recipe(recipe: Path, arguments: argparse.Namespace) -> "tuple[Task, nn.Module, Path]":
    """As `find_model`, with weights that no run of ours has written."""
    from fastvit.tasks import load_recipe, make_task

    if not arguments.checkpoint and not arguments.pretrained:
        raise RecipeError(
            f"{arguments.source} is a recipe, which has no trained weights: add --checkpoint or --pretrained"
        )
    if (task := load_recipe(recipe, arguments.overrides).task) != "classification":
        raise RecipeError(f"{arguments.source}: for {task} there are no weights but those of runs; evaluate a run")
    start = {
        "pretrained": arguments.pretrained,
        "checkpoint": str(arguments.checkpoint) if arguments.checkpoint else None,
        "reset_head": False,
    }
    weights = [f"model.{key}={json.dumps(value)}" for key, value in start.items()]
    task = make_task(load_recipe(recipe, [*arguments.overrides, *weights]))
    return task, task.build_model().eval(), task.recipe.output


def evaluate_robustness(path: Path, arguments: argparse.Namespace, processes: "Processes") -> None:
    """Measure in all processes, and write into the recipe's output."""
    from fastvit import robustness
    from fastvit.robustness.recipe import read_robustness_recipe

    recipe = read_robustness_recipe(path, arguments.overrides)
    if arguments.checkpoint or arguments.pretrained or arguments.form != "both":
        raise RecipeError("a robustness recipe says itself which model: set model.name, model.checkpoint, model.form")
    folder, figures = arguments.output or recipe.output, []
    for figure in robustness.measure(recipe, processes):
        figures.append(figure)
        processes.on_main(lambda: robustness.write_figures(figures, folder))
    if not processes.is_main:
        return
    summary = robustness.summarize(recipe, figures, robustness.missing_sets(recipe))
    written = robustness.write(summary, figures, folder)
    print(robustness.table(summary))
    print("\nwritten:", *written, sep="\n  ")
