"""Image classification: one label per image."""

from fastvit.tasks.classification.recipe import ClassificationRecipe as RECIPE
from fastvit.tasks.classification.task import Classification as TASK

__all__ = ["RECIPE", "TASK"]
