"""A feature pyramid on the four stages of a classification network: the backbone of a detector or segmenter."""

import re
from collections import OrderedDict
from typing import Any

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from fastvit.reparam import Affine, Reparameterizable

STRIDES = (4, 8, 16, 32)  # of the four stages


class FeaturePyramid(nn.Module):
    """The stages of a classification network with a feature pyramid network (arXiv 1612.03144) on top.

    `forward` takes images (B, 3, H, W) and returns an ordered dict of (B, channels, h, w), the finest level first: "0",
    "1", ... and what `extra_blocks` adds. This is what torchvision's detectors expect of a backbone.

    Args:
        body: a network of timm's with stages of strides 4, 8, 16 and 32. It is taken over, and what the stages do not
            need is removed from it, so that each parameter has a gradient.
        channels: of each level.
        levels: which of the four stages to use.
        output_norm: a batch norm on the output of each stage, in front of the pyramid.
        extra_blocks: torchvision's, for coarser levels.

    Raises ValueError if the network has no such stages.
    """

    def __init__(
        self,
        body: nn.Module,
        channels: int = 256,
        *,
        levels: tuple[int, ...] = (0, 1, 2, 3),
        output_norm: bool = True,
        extra_blocks: ExtraFPNBlock | None = None,
    ):
        super().__init__()
        info = stages_of(body)
        indices, widths = zip(*(info[STRIDES[level]] for level in levels), strict=True)
        body.prune_intermediate_layers(list(indices), prune_head=True)
        self.body, self.indices, self.out_channels = body, list(indices), channels
        self.fpn = FeaturePyramidNetwork(list(widths), channels, extra_blocks)
        if output_norm:
            for lateral in self.fpn.inner_blocks:
                lateral[0] = NormedConv(lateral[0])

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.body.forward_intermediates(images, indices=self.indices, intermediates_only=True)
        return self.fpn(OrderedDict((str(i), feature) for i, feature in enumerate(features)))


def stages_of(body: nn.Module) -> dict[int, tuple[int, int]]:
    """The index and the channels of each stage of a network of timm's, by its stride.

    Raises ValueError if it does not have those that `FeaturePyramid` needs.
    """
    info = {each["reduction"]: (i, each["num_chs"]) for i, each in enumerate(getattr(body, "feature_info", ()))}
    if not set(STRIDES) <= info.keys():
        raise ValueError(f"{type(body).__name__} has stages of strides {sorted(info)}, but needs {list(STRIDES)}")
    if not hasattr(body, "prune_intermediate_layers"):
        raise ValueError(f"{type(body).__name__} does not tell the outputs of its stages")
    return info


class NormedConv(Reparameterizable):
    """Batch norm, then a given 1x1 convolution."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.norm = nn.BatchNorm2d(conv.in_channels)
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x))

    def equivalent(self) -> Affine:
        return Affine.of(self.norm).then(self.conv)


class OnPyramid:
    """What the training loop asks of a network, for one whose `backbone` is a `FeaturePyramid`: to be mixed in."""

    backbone: FeaturePyramid

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The layers of the body for layer-wise learning rates; the pyramid and the head are the last layer."""
        groups = self.backbone.body.group_matcher(coarse=coarse)
        return {name: _under("backbone.body.", spec) for name, spec in groups.items()}

    def no_weight_decay(self) -> set[str]:
        """What the body exempts from weight decay."""
        exempt = getattr(self.backbone.body, "no_weight_decay", set)
        return {f"backbone.body.{name}" for name in exempt()}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the activations of the body again in the backward pass."""
        self.backbone.body.set_grad_checkpointing(enable)


def _under(prefix: str, spec: Any) -> Any:
    """timm's patterns for the names of parameters, with a prefix before the names."""
    if isinstance(spec, str):
        return f"^{re.escape(prefix)}{spec.removeprefix('^')}"
    return spec and [(_under(prefix, pattern), suffix) for pattern, suffix in spec]
