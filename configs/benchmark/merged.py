"""FastViT whose RepMixers train as one convolution and one affine map, to measure whether that pays.

In training, three of a RepMixer's four branches have no kernel: they are batch norms of x, or of x times a factor for
each channel. All their statistics follow from the mean and the variance of x, so that the three are one affine map of
x. The numbers, the gradients and the running statistics are those of the branches. In eval mode nothing is merged.

A suite registers `merged_t8`, ... with `registered_in: benchmark/merged.py`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from timm.models import register_model
from torch import Tensor, nn

from fastvit import LayerScale, RepMixer
from fastvit.variants import VARIANTS


class MergedRepMixer(nn.Module):
    """Trains the weights of a RepMixer."""

    def __init__(self, branches: RepMixer):
        super().__init__()
        self.branches = branches
        self.parts = _parts(branches)  # a tuple: they are children of `branches` already

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.branches(x)
        conv, conv_norm, scale, scale_norm, skip, norm, layer_scale = self.parts
        at_least_float32 = x.to(torch.promote_types(x.dtype, torch.float32))
        var, mean = torch.var_mean(at_least_float32, (0, 2, 3), correction=0)  # (C,) each
        count = x.numel() / x.shape[1]
        gamma, w = layer_scale.gamma.flatten(), scale.weight.flatten()
        a, b = _affine(scale_norm, w * mean, w * w * var, count)
        a_skip, b_skip = _affine(skip, mean, var, count)
        a_norm, b_norm = _affine(norm, mean, var, count)
        y = x * _broadcast(1 + gamma * (a * w + a_skip - a_norm), x) + _broadcast(gamma * (b + b_skip - b_norm), x)
        return y + _broadcast(gamma, x) * conv_norm(conv(x))


def _parts(branches: RepMixer) -> tuple[nn.Module, ...]:
    """Convolution, its batch norm; scale, its batch norm; those of the skip and of what is subtracted; layer scale.

    Found by what they are and where, not by name.
    """
    modules = list(branches.modules())
    norms = [module for module in modules if isinstance(module, nn.BatchNorm2d)]
    convs = sorted((m for m in modules if isinstance(m, nn.Conv2d)), key=lambda conv: -conv.kernel_size[0])
    of_convs = [next(norm for norm in norms if _beside(conv, norm, modules)) for conv in convs]
    subtracted = next(module for module in branches.norm.modules() if isinstance(module, nn.BatchNorm2d))
    skip = next(norm for norm in norms if norm is not subtracted and norm not in of_convs)
    layer_scale = next(module for module in modules if isinstance(module, LayerScale))
    return convs[0], of_convs[0], convs[1], of_convs[1], skip, subtracted, layer_scale


def _beside(conv: nn.Module, norm: nn.Module, modules: list[nn.Module]) -> bool:
    return any({conv, norm} <= set(module.children()) for module in modules)


def _affine(norm: nn.BatchNorm2d, mean: Tensor, var: Tensor, count: float) -> tuple[Tensor, Tensor]:
    """The norm as factor and shift, from the statistics of what goes into it, which it also keeps."""
    with torch.no_grad():
        norm.running_mean.lerp_(mean.to(norm.running_mean), norm.momentum)
        norm.running_var.lerp_((var * count / (count - 1)).to(norm.running_var), norm.momentum)
        norm.num_batches_tracked.add_(1)
    factor = norm.weight * torch.rsqrt(var + norm.eps)
    return factor, norm.bias - factor * mean


def _broadcast(of_channels: Tensor, x: Tensor) -> Tensor:
    return of_channels.to(x.dtype).view(1, -1, 1, 1)


def _merge(model: nn.Module) -> nn.Module:
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, RepMixer):
                setattr(module, name, MergedRepMixer(child))
    return model


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    if pretrained:
        raise ValueError(f"there are no weights of its own: use those of {variant}")
    return _merge(timm.create_model(variant, **kwargs))


for _variant in VARIANTS:
    _name = _variant.replace("fastvit", "merged")
    _entry: Callable[..., nn.Module] = partial(_create, _variant)
    _entry.__name__, _entry.__module__ = _name, __name__
    register_model(_entry)
