"""Image classification: one label per image."""

from fastvit.tasks.classification.recipe import ClassificationRecipe
from fastvit.tasks.classification.task import Classification

__all__ = ["Classification", "ClassificationRecipe"]
