"""torchvision's Mask R-CNN and RetinaNet on the stages of a classification network.

Both take a list of images (3, H, W) of any sizes, colors from 0 to 1, which they normalise and resize themselves. In
train mode they also take targets and return their losses; in eval mode they return a dict for each image: boxes (N, 4),
labels (N,) from 1, scores (N,), and with Mask R-CNN masks (N, 1, H, W) from 0 to 1.

Under autocast the backbone and the pyramid compute in half precision, and all that follows in float32: a bfloat16 has
eight bits, which place an edge at 800 pixels to within four.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from fastvit.models.pyramid import FeaturePyramid, OnPyramid

ASPECT_RATIOS = (0.5, 1.0, 2.0)  # of anchors, height over width
LEVELS = 5  # of the pyramid, with the coarser ones that the detectors add


class Float32Levels(FeaturePyramid):
    """A pyramid whose levels are float32 under autocast too, since anchors take their type from them."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return OrderedDict((name, level.float()) for name, level in super().forward(images).items())


class InFloat32(nn.Module):
    """To be mixed in before a head: it computes in float32 under the caller's autocast too."""

    def forward(self, *inputs: Any) -> Any:
        with torch.autocast(next(self.parameters()).device.type, enabled=False):
            return super().forward(*inputs)


class Float32RPNHead(InFloat32, RPNHead): ...


class Float32BoxHead(InFloat32, TwoMLPHead): ...


class Float32BoxPredictor(InFloat32, FastRCNNPredictor): ...


class Float32MaskHead(InFloat32, MaskRCNNHeads): ...


class Float32MaskPredictor(InFloat32, MaskRCNNPredictor): ...


class Float32RetinaNetHead(InFloat32, RetinaNetHead): ...


class PyramidMaskRCNN(OnPyramid, MaskRCNN):
    """Mask R-CNN (arXiv 1703.06870) with the heads of the original: torchvision's "v1", MMDetection's.

    Args:
        body: a network of timm's; see `FeaturePyramid`, which gets `channels` and `output_norm`.
        num_classes: without the background. Labels are 1 to `num_classes`.
        short_sides: pixels. In training an image is resized to one of them at random, in eval mode to the last.
        long_side: pixels, at most.
        anchor_sizes: pixels, for each of the five levels.
        box_channels, mask_channels: of the two heads.
        proposals: regions to look at, in eval mode; twice as many are proposed in training.
        rois: regions of each image that the heads learn from.
    """

    def __init__(
        self,
        body: nn.Module,
        num_classes: int,
        *,
        short_sides: Sequence[int] = (800,),
        long_side: int = 1333,
        channels: int = 256,
        output_norm: bool = True,
        anchor_sizes: Sequence[int] = (32, 64, 128, 256, 512),
        box_channels: int = 1024,
        mask_channels: int = 256,
        proposals: int = 1000,
        rois: int = 512,
    ):
        colors = resolve_model_data_config(body)
        super().__init__(
            Float32Levels(body, channels, output_norm=output_norm, extra_blocks=LastLevelMaxPool()),
            min_size=tuple(short_sides),
            max_size=long_side,
            image_mean=list(colors["mean"]),
            image_std=list(colors["std"]),
            rpn_anchor_generator=AnchorGenerator(tuple((size,) for size in anchor_sizes), (ASPECT_RATIOS,) * LEVELS),
            rpn_head=Float32RPNHead(channels, len(ASPECT_RATIOS)),
            rpn_pre_nms_top_n_train=2 * proposals,
            rpn_post_nms_top_n_train=2 * proposals,
            rpn_pre_nms_top_n_test=proposals,
            rpn_post_nms_top_n_test=proposals,
            box_batch_size_per_image=rois,
            box_head=Float32BoxHead(channels * 7**2, box_channels),
            box_predictor=Float32BoxPredictor(box_channels, num_classes + 1),
            mask_head=Float32MaskHead(channels, (mask_channels,) * 4, dilation=1),
            mask_predictor=Float32MaskPredictor(mask_channels, mask_channels, num_classes + 1),
        )


class PyramidRetinaNet(OnPyramid, RetinaNet):
    """RetinaNet (arXiv 1708.02002) on the last three stages and two coarser levels.

    Arguments are as of `PyramidMaskRCNN`; anchors have two more sizes between those of a level and the next.
    """

    def __init__(
        self,
        body: nn.Module,
        num_classes: int,
        *,
        short_sides: Sequence[int] = (800,),
        long_side: int = 1333,
        channels: int = 256,
        output_norm: bool = True,
        anchor_sizes: Sequence[int] = (32, 64, 128, 256, 512),
    ):
        colors = resolve_model_data_config(body)
        sizes = tuple(tuple(int(size * 2 ** (i / 3)) for i in range(3)) for size in anchor_sizes)
        anchors = AnchorGenerator(sizes, (ASPECT_RATIOS,) * LEVELS)
        super().__init__(
            Float32Levels(
                body,
                channels,
                levels=(1, 2, 3),
                output_norm=output_norm,
                extra_blocks=LastLevelP6P7(channels, channels),
            ),
            num_classes + 1,
            min_size=tuple(short_sides),
            max_size=long_side,
            image_mean=list(colors["mean"]),
            image_std=list(colors["std"]),
            anchor_generator=anchors,
            head=Float32RetinaNetHead(channels, anchors.num_anchors_per_location()[0], num_classes + 1),
            detections_per_img=100,  # as MMDetection; torchvision's own are 300
        )


def mask_rcnn(name: str = "fastvit_sa12", *, num_classes: int, pretrained: bool = False) -> PyramidMaskRCNN:
    """The paper's detector on a network of timm's; `pretrained`: with the hub's weights of the network."""
    return PyramidMaskRCNN(timm.create_model(name, pretrained=pretrained, num_classes=0), num_classes)


def retinanet(name: str = "fastvit_sa12", *, num_classes: int, pretrained: bool = False) -> PyramidRetinaNet:
    """RetinaNet on a network of timm's; `pretrained`: with the hub's weights of the network."""
    return PyramidRetinaNet(timm.create_model(name, pretrained=pretrained, num_classes=0), num_classes)
