"""Semantic FPN (Kirillov et al., arXiv 1901.02446): a feature pyramid, and one small head on the sum of its levels."""

import timm
import torch.nn.functional as F
from torch import Tensor, nn

from fastvit.layers import ConvBN
from fastvit.models.pyramid import FeaturePyramid, OnPyramid


class SemanticFPN(OnPyramid, nn.Module):
    """A class for each pixel. Takes images (B, 3, H, W) of any size from 32x32 up, returns logits (B, classes, H, W).

    Level i of the pyramid goes through max(1, i) times [3x3 convolution, batch norm, ReLU, and twice the size], so that
    all have stride 4; then come their sum, dropout and a 1x1 convolution, as in MMSegmentation's FPNHead, with which
    the paper's Table 9 was made. All of it but ReLU and resizing fuses.

    Args:
        backbone: with four levels.
        channels: of the head.
        dropout: of whole channels, before the last convolution.
    """

    def __init__(self, backbone: FeaturePyramid, num_classes: int, *, channels: int = 128, dropout: float = 0.1):
        super().__init__()
        self.backbone = backbone
        self.scale_heads = nn.ModuleList(
            _scale_head(backbone.out_channels, channels, doublings=level) for level in range(4)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        x, *coarser = (head(x) for head, x in zip(self.scale_heads, self.backbone(images).values(), strict=True))
        for y in coarser:  # (B, channels, H / 4, W / 4), except for odd sizes
            x = x + _resize(y, x.shape[-2:])
        return _resize(self.classifier(self.dropout(x)), images.shape[-2:])


def semantic_fpn(
    name: str = "fastvit_sa12", *, num_classes: int, pretrained: bool = False, drop_path_rate: float = 0.0
) -> SemanticFPN:
    """The paper's segmenter on a network of timm's, for images normalised as that network was trained.

    Args:
        pretrained: with the hub's weights of the network (not of the segmenter: none were published).
    """
    body = timm.create_model(name, pretrained=pretrained, num_classes=0, drop_path_rate=drop_path_rate)
    return SemanticFPN(FeaturePyramid(body), num_classes)


def _scale_head(in_channels: int, channels: int, doublings: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(max(1, doublings)):
        layers += [ConvBN(in_channels, channels, 3), nn.ReLU()]
        if doublings:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
        in_channels = channels
    return nn.Sequential(*layers)


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)
