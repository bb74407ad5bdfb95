"""Semantic segmentation: a class for each pixel."""

from fastvit.tasks.segmentation.model import SemanticFPN, semantic_fpn
from fastvit.tasks.segmentation.recipe import SegmentationRecipe
from fastvit.tasks.segmentation.task import Segmentation

__all__ = ["Segmentation", "SegmentationRecipe", "SemanticFPN", "semantic_fpn"]
