"""What can be trained. A recipe's key `task` is a name in `TASKS`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timm import list_models
from timm.models import get_pretrained_cfg

from fastvit.errors import RecipeError, nearest
from fastvit.tasks.classification import Classification, ClassificationRecipe
from fastvit.tasks.detection import Detection, DetectionRecipe
from fastvit.tasks.hand_mesh import HandMeshRecipe, HandMeshRecovery
from fastvit.tasks.segmentation import Segmentation, SegmentationRecipe
from fastvit.tasks.task import Task
from fastvit.training.config import build_recipe, read_recipe
from fastvit.training.recipe import Recipe

TASKS: dict[str, tuple[type[Recipe], type[Task]]] = {
    "classification": (ClassificationRecipe, Classification),
    "detection": (DetectionRecipe, Detection),
    "segmentation": (SegmentationRecipe, Segmentation),
    "hand_mesh": (HandMeshRecipe, HandMeshRecovery),
}


def load_recipe(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A validated recipe from a YAML file, or from what a checkpoint carries, with overrides `key.sub=value`."""
    recipes = {name: recipe for name, (recipe, _) in TASKS.items()}
    if isinstance(source, Mapping):
        return build_recipe(source, overrides, recipes, source="the checkpoint's recipe")
    return read_recipe(source, overrides, recipes)


def recipe_for_model(name: str, overrides: Sequence[str] = (), *, checkpoint: Path | None = None) -> Recipe:
    """A recipe to evaluate a classifier of timm's on a folder of images, at the size that it was made for.

    Args:
        checkpoint: its weights; by default the hub's.

    Raises:
        RecipeError: timm knows no such model, or the overrides do not say where the images are.
    """
    model = {"name": name, "pretrained": checkpoint is None, "checkpoint": checkpoint and str(checkpoint)}
    try:
        pretrained = get_pretrained_cfg(name)
    except RuntimeError as error:
        raise RecipeError(f"there is no run, recipe or model of timm's called {name} ({error})") from error
    if pretrained is None:
        known = nearest(name, list_models())
        raise RecipeError(f"there is no run, no recipe and no model of timm's that is called {name}{known}")
    size = (pretrained.test_input_size or pretrained.input_size)[-1]
    data = {"dataset": "folder", "num_classes": pretrained.num_classes, "image_size": size}
    rest = {"augmentation": {}, "optimizer": {"lr": 1e-3}, "schedule": {"epochs": 1}, "loop": {"batch_size": 64}}
    recipe = {"task": "classification", "output": f"runs/{name}", "model": model, "data": data, **rest}
    recipes = {task: recipe_class for task, (recipe_class, _) in TASKS.items()}
    return build_recipe(recipe, overrides, recipes, source=name)


def make_task(recipe: Recipe) -> Task:
    """The task of a recipe."""
    _, task = TASKS[recipe.task]
    return task(recipe)
