"""What can be trained. A recipe's key `task` is a name in `TASKS`, and the package of that name is all of the task."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from fastvit import shipped
from fastvit.config import apply_overrides, read_file, validate
from fastvit.errors import RecipeError, nearest
from fastvit.training.recipe import Recipe
from fastvit.training.task import Task

TASKS = ("classification", "detection", "segmentation", "hand_mesh")


def load_recipe(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A validated recipe.

    Args:
        source: a YAML file, the name of one that comes with the package, or the plain data that a checkpoint carries.
        overrides: `key.sub=value` each, the value in YAML.

    Raises:
        RecipeError: one line for every problem.
    """
    if isinstance(source, Mapping):
        return build_recipe(source, overrides, source="the checkpoint's recipe")
    path = shipped.find(source)
    if not path.is_file():
        known = nearest(str(source), shipped.names())
        raise RecipeError(f"there is no recipe {source}{known} (`fastvit recipes` lists those of the package)")
    return build_recipe(read_file(path), overrides, source=str(path))


def build_recipe(data: Mapping[str, Any], overrides: Sequence[str], *, source: str) -> Recipe:
    """As `load_recipe`, from plain data; `source` names it in errors."""
    data = apply_overrides(data, overrides)
    task = data.get("task")
    if task not in TASKS:
        raise RecipeError(f"{source}: task must be one of {', '.join(TASKS)}, not {task!r}")
    return validate(data, import_module(f"fastvit.tasks.{task}").RECIPE, source)


def make_task(recipe: Recipe) -> Task:
    """The task of a recipe."""
    return import_module(f"fastvit.tasks.{recipe.task}").TASK(recipe)
