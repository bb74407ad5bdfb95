"""Detection, and instance segmentation: boxes and masks of objects. Needs the extra `detection`."""

from fastvit.tasks.detection.recipe import DetectionRecipe as RECIPE
from fastvit.tasks.detection.task import Detection as TASK

__all__ = ["RECIPE", "TASK"]
