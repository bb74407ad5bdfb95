"""What can be trained. A recipe's key `task` is a name in `TASKS`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastvit.tasks.classification import Classification, ClassificationRecipe
from fastvit.tasks.task import Task
from fastvit.training.config import build_recipe, read_recipe
from fastvit.training.recipe import Recipe

TASKS: dict[str, tuple[type[Recipe], type[Task]]] = {
    "classification": (ClassificationRecipe, Classification),
}


def load_recipe(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A validated recipe from a YAML file, or from what a checkpoint carries, with overrides `key.sub=value`."""
    recipes = {name: recipe for name, (recipe, _) in TASKS.items()}
    if isinstance(source, Mapping):
        return build_recipe(source, overrides, recipes, source="the checkpoint's recipe")
    return read_recipe(source, overrides, recipes)


def make_task(recipe: Recipe) -> Task:
    """The task of a recipe."""
    _, task = TASKS[recipe.task]
    return task(recipe)
