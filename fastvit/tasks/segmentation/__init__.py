"""Semantic segmentation: a class for each pixel."""

from fastvit.tasks.segmentation.recipe import SegmentationRecipe as RECIPE
from fastvit.tasks.segmentation.task import Segmentation as TASK

__all__ = ["RECIPE", "TASK"]
