"""Networks around a backbone, for use in programs of your own. They need torch, torchvision and timm only."""

from fastvit.models.detection import PyramidMaskRCNN, PyramidRetinaNet, mask_rcnn, retinanet
from fastvit.models.hand_mesh import HandMesh
from fastvit.models.pyramid import FeaturePyramid
from fastvit.models.segmentation import SemanticFPN, semantic_fpn
from fastvit.models.skinning import HandArrays, HandModel

__all__ = [
    "FeaturePyramid",
    "HandArrays",
    "HandMesh",
    "HandModel",
    "PyramidMaskRCNN",
    "PyramidRetinaNet",
    "SemanticFPN",
    "mask_rcnn",
    "retinanet",
    "semantic_fpn",
]
