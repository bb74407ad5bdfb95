"""Detection, and instance segmentation: boxes and masks of objects. Needs the extra `detection`."""

from fastvit.tasks.detection.model import PyramidMaskRCNN, PyramidRetinaNet, mask_rcnn, retinanet
from fastvit.tasks.detection.recipe import DetectionRecipe
from fastvit.tasks.detection.task import Detection

__all__ = ["Detection", "DetectionRecipe", "PyramidMaskRCNN", "PyramidRetinaNet", "mask_rcnn", "retinanet"]
