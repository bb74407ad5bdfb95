"""From the name of a recipe to its task. A recipe's key `task` is a name in `TASKS`; the room of that name is the task.

A room is found when it is asked for: this file knows the names only, and needs pydantic (extra `train`) only to read.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvit import shipped
from fastvit.errors import RecipeError, nearest

if TYPE_CHECKING:
    from fastvit.runtime.processes import Processes
    from fastvit.training.recipe import Recipe
    from fastvit.training.task import Task

TASKS = {  # the recipe's class in `fastvit.tasks.<name>.recipe`, and the task's in `fastvit.tasks.<name>.task`
    "classification": ("ClassificationRecipe", "Classification"),
    "multi_label": ("MultiLabelRecipe", "MultiLabel"),
    "detection": ("DetectionRecipe", "Detection"),
    "segmentation": ("SegmentationRecipe", "Segmentation"),
    "hand_mesh": ("HandMeshRecipe", "HandMeshRecovery"),
}


def load_recipe(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> "Recipe":
    """A validated recipe.

    Args:
        source: a YAML file, the name of one that comes with the package, or the plain data that a checkpoint carries.
        overrides: `key.sub=value` each, the value in YAML.

    Raises:
        RecipeError: one line for every problem.
    """
    from fastvit.config import read_file

    if isinstance(source, Mapping):
        return build_recipe(source, overrides, source="the checkpoint's recipe")
    path = shipped.find(source)
    if not path.is_file():
        known = nearest(str(source), shipped.names())
        raise RecipeError(f"there is no recipe {source}{known} (`fastvit recipes` lists those of the package)")
    return build_recipe(read_file(path), overrides, source=str(path))


def build_recipe(data: Mapping[str, Any], overrides: Sequence[str], *, source: str) -> "Recipe":
    """As `load_recipe`, from plain data; `source` names it in errors."""
    from fastvit.config import apply_overrides, validate

    data = apply_overrides(data, overrides)
    task = data.get("task")
    if task not in TASKS:
        raise RecipeError(f"{source}: task must be one of {', '.join(TASKS)}, not {task!r}")
    return validate(data, recipe_class(task), source)


def recipe_of_all(processes: "Processes", find: Callable[[], "Recipe"]) -> "Recipe":
    """What `find` gives in the main process, for all of them.

    Each process validates it for itself: this also runs the file in which a network is registered (`registered_in`).

    Raises:
        RecipeError: as `build_recipe`; for example because a machine lacks a file that the main process has.
    """
    plain = processes.on_main(lambda: find().to_dict())
    return build_recipe(plain, (), source=f"process {processes.rank}")


def recipe_class(task: str) -> "type[Recipe]":
    """What validates the recipes of a task that is in `TASKS`."""
    name, _ = TASKS[task]
    return getattr(import_module(f"fastvit.tasks.{task}.recipe"), name)


def make_task(recipe: "Recipe") -> "Task":
    """The task of a recipe."""
    _, task_class = TASKS[recipe.task]
    return getattr(import_module(f"fastvit.tasks.{recipe.task}.task"), task_class)(recipe)
