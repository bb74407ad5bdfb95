"""How much each layer suffers from int8, by quantising one at a time in PyTorch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fastvit.compare import relative_error

LAYERS = (nn.Conv2d, nn.Linear)


@torch.no_grad()
def layer_errors(network: nn.Module, images: Tensor) -> dict[str, float]:
    """The relative L2 error of the network's output when one layer alone computes in int8; the worst layer first.

    Weights are symmetric for each output channel, inputs asymmetric for the whole tensor with the range that they have
    on these images: what all engines here do.

    Args:
        network: fused, in eval mode, in float32.
        images: (N, C, H, W).
    """
    expected = network(images)
    errors = {}
    for name, layer in network.named_modules():
        if isinstance(layer, LAYERS):
            with _in_int8(layer):
                errors[name] = relative_error(network(images), expected)
    return dict(sorted(errors.items(), key=lambda item: -item[1]))


@contextmanager
def _in_int8(layer: nn.Module) -> Iterator[None]:
    weight = layer.weight.data
    with layer.register_forward_pre_hook(lambda _, inputs: (quantize_tensor(inputs[0]),)):
        layer.weight.data = quantize_channels(weight)
        try:
            yield
        finally:
            layer.weight.data = weight


def quantize_tensor(x: Tensor) -> Tensor:
    """Rounded to 256 levels from the smallest to the largest value, zero among them."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = ((high - low) / 255).clamp(min=torch.finfo(x.dtype).tiny)
    zero_point = (-low / scale).round()
    return ((x / scale + zero_point).round().clamp(0, 255) - zero_point) * scale


def quantize_channels(weight: Tensor) -> Tensor:
    """Rounded to the 255 levels of symmetric int8 for each output channel."""
    scale = (weight.flatten(1).abs().amax(1) / 127).clamp(min=torch.finfo(weight.dtype).tiny)
    scale = scale.view(-1, *[1] * (weight.ndim - 1))
    return (weight / scale).round().clamp(-127, 127) * scale
