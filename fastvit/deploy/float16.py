"""A network whose numbers are float16: what it computes, and which of its layers have to stay in float32.

float16 ends at 65504. A layer norm squares what it normalizes: where a runtime writes that out in float16, it overflows
from 256 on and gives zeros, without an error.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastvit.compare import relative_error
from fastvit.deploy.network import flat, make_network, watched
from fastvit.deploy.runtimes.run import plain_mode
from fastvit.deploy.steps import Steps
from fastvit.errors import ExportError, nearest
from fastvit.precision import exact_float32

LARGEST = torch.finfo(torch.float16).max
ADVICE = "keep layers in float32 (float32=fastvit.deploy.overflowing_layers(model, images)), or use bfloat16 or float32"


class Float32(nn.Module):
    """A part that computes in float32 within a network of another dtype, which its input and its output have."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x.float()).to(x.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)  # `half()` does nothing here


def require_layers(network: nn.Module, names: Collection[str]) -> None:
    """Raise ExportError unless a fused network has a layer of each name."""
    known = [name for name, _ in network.named_modules() if name]
    for name in names:
        if name not in known:
            raise ExportError(f"the fused network has no layer {name!r} to keep in float32{nearest(name, known)}")


def keep_in_float32(network: nn.Module, names: Collection[str]) -> None:
    """Make the layers of these names `Float32`, in place."""
    for name in names:
        if not is_part_of(name, set(names) - {name}):
            network.set_submodule(name, Float32(network.get_submodule(name)))


def is_part_of(name: str, others: Collection[str]) -> bool:
    """Whether a module is one of the others, or somewhere inside."""
    return any(f"{name}.".startswith(f"{other}.") for other in others)


class InFloat16:
    """A network whose images, weights, and results of each step are rounded to float16.

    Sums within a step, such as those of a convolution, are those of float32.

    Args:
        network: fused, in eval mode, in float32.
        applies: whether to round in a part: its name. By default everywhere.

    Attributes:
        overflow: the parts that computed when a number first became infinite, the outermost first; empty: none did.
    """

    def __init__(self, network: nn.Module, applies: Callable[[str], bool] = lambda name: True):
        self._applies, self._steps = applies, Steps(network, before=self._rounded, after=self._rounded)
        self.overflow: tuple[str, ...] = ()

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        self.overflow = ()
        return flat(self._steps.run(images))

    def _rounded(self, tensor: Tensor, inside: Sequence[str]) -> Tensor:
        if not inside or not self._applies(inside[-1]):
            return tensor
        rounded = tensor.half().to(tensor.dtype)
        if torch.equal(rounded, tensor):
            return tensor  # itself, since the step may be one that changes it
        if not self.overflow and bool((rounded.isinf() & tensor.isfinite()).any()):
            self.overflow = tuple(inside)
        return rounded


def float16_error(network: nn.Module, images: Tensor, float32: Collection[str] = ()) -> float:
    """The relative L2 error of a network's outputs in float16, step by step, against float32.

    Args:
        network: fused, in eval mode, in float32.
        images: (N, C, H, W), normalized: real ones, whose activations are as large as they will be.
        float32: names of its layers that stay in float32.
    """
    in_float16 = InFloat16(network, lambda name: not is_part_of(name, float32))
    return relative_error(in_float16(images), _exact(network, images))


def overflowing_layers(model: nn.Module, images: Tensor) -> tuple[str, ...]:
    """The smallest layers that have to be in float32 so that no step overflows in float16 on these images.

    Args:
        model: as for `export`, fused or not; it is left as it is.
        images: (N, C, H, W), normalized: real ones, whose activations are as large as they will be.

    Returns:
        Names in the fused network, for `float32` of `export` and `compile_for_inference`.

    Raises:
        ExportError: numbers too large for float16 pass from part to part, so that no layer is enough.
    """
    network, found = make_network(model, stacklevel=2).network.float(), ()
    largest = _largest_outputs(network, images)
    while where := _first_overflow(network, images, found):
        # Of the layers around it, the innermost that gives something smaller again.
        fitting = [name for name in where if name and largest[name] <= LARGEST]
        if not fitting:
            raise ExportError(
                f"{where[-1] or 'the network'} gives numbers of up to {largest[where[-1]]:.0f}, and so does all around "
                "it, but float16 ends at 65504: use bfloat16 or float32"
            )
        found = (*(name for name in found if not is_part_of(name, fitting[-1:])), fitting[-1])
    return found


def _first_overflow(network: nn.Module, images: Tensor, float32: Collection[str]) -> tuple[str, ...]:
    in_float16 = InFloat16(network, lambda name: not is_part_of(name, float32))
    in_float16(images)
    return in_float16.overflow


def _exact(network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    with plain_mode(), exact_float32():
        return flat(network(images))


def _largest_outputs(network: nn.Module, images: Tensor) -> dict[str, float]:
    """The largest absolute number that each module gives, in float32."""
    largest: dict[str, float] = {}

    def note(name: str, module: nn.Module, inputs: Any, outputs: Any) -> None:
        largest[name] = max(largest.get(name, 0.0), *(each.abs().max().item() for each in flat(outputs)))

    with watched(network, note):
        _exact(network, images)
    return largest
