"""Grouped convolutions with several outputs for each channel, written as depthwise ones, which runtimes are fast at."""

import torch
from torch import Tensor, nn


class SplitDepthwise(nn.Module):
    """A grouped convolution with `n` outputs for each input channel, as `n` depthwise convolutions.

    The same numbers. oneDNN and ONNX Runtime have fast kernels for one output a channel, and slow ones for several:
    four of T8's 52 convolutions took a sixth of its time in float32 and more than a third in bfloat16.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        channels, outputs = conv.in_channels, conv.out_channels // conv.in_channels
        self.convs = nn.ModuleList(_every(conv, outputs, first) for first in range(outputs))
        self.register_buffer("order", torch.arange(conv.out_channels).view(outputs, channels).t().flatten())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([conv(x) for conv in self.convs], dim=1)[:, self.order]  # the outputs of a channel together


def split_depthwise(model: nn.Module) -> None:
    """Replace every plain `nn.Conv2d` in `model` that `SplitDepthwise` is for, in place."""
    for name, module in model.named_children():
        if type(module) is not nn.Conv2d:
            split_depthwise(module)
        elif 1 < module.groups == module.in_channels < module.out_channels and not module._forward_hooks:
            setattr(model, name, SplitDepthwise(module).to(module.weight.device).train(module.training))


def _every(conv: nn.Conv2d, step: int, first: int) -> nn.Conv2d:
    """The convolution to each `step`-th output."""
    part = nn.Conv2d(
        conv.in_channels,
        conv.in_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        groups=conv.groups,
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
        device="meta",
    )
    for name, parameter in conv.named_parameters():
        setattr(part, name, nn.Parameter(parameter.detach()[first::step].clone(), parameter.requires_grad))
    return part
