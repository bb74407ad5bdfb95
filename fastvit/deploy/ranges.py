"""How large the numbers in a network are on given images, and what float16 makes of each of its layers."""

import copy
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastvit.compare import relative_error
from fastvit.deploy.float16 import LARGEST, InFloat16
from fastvit.deploy.network import flat, make_network, watched
from fastvit.deploy.steps import Steps

SMALLEST = torch.finfo(torch.float16).smallest_normal


@dataclass(frozen=True)
class Range:
    """One part of a fused network, on some images. Its own steps are meant, not those of the parts inside it.

    Attributes:
        name, kind: of the module, and of its class.
        largest: the largest absolute number that a step gives; in a layer norm that is a square.
        overflow: the share of the numbers that float16 makes infinite.
        subnormal: the share that is below 6e-5 and not 0, of which float16 keeps fewer than 11 bits.
        subnormal_weights: the same of its weights.
        error: relative L2 error of its outputs when it computes in float16 what it is given in float32, against
            float64; None for what has other parts inside.
        effect: relative L2 error of the network's outputs when this part alone computes in float16.
    """

    name: str
    kind: str
    largest: float
    overflow: float
    subnormal: float
    subnormal_weights: float
    error: float | None
    effect: float

    def __str__(self) -> str:
        error = "       " if self.error is None else f"{self.error:.1e}"
        shares = f"{self.overflow:8.2%} {self.subnormal:8.2%} {self.subnormal_weights:8.2%}"
        return f"{self.largest:10.4g} {shares} {error} {self.effect:.1e}  {self.name} ({self.kind})"


@torch.no_grad()
def measure_ranges(model: nn.Module, images: Tensor) -> list[Range]:
    """Every part of the fused network that computes something, in the order in which they do.

    The network runs once for each of them.

    Args:
        model: as for `export`, fused or not; it is left as it is.
        images: (N, C, H, W), normalized: real ones, whose activations are as large as they will be.
    """
    network = make_network(model, stacklevel=2).network.float()
    seen: dict[str, _Seen] = {}

    def watch(tensor: Tensor, inside: Sequence[str]) -> Tensor:
        seen.setdefault(inside[-1], _Seen()).add(tensor)
        return tensor

    expected = flat(Steps(network, before=lambda tensor, _: tensor, after=watch).run(images))
    errors = _errors(network, images)
    ranges = []
    for name, found in seen.items():
        part = network.get_submodule(name)
        effect = relative_error(InFloat16(network, lambda other, name=name: other == name)(images), expected)
        weights = _Seen()
        for parameter in part.parameters(recurse=False):
            weights.add(parameter)
        kind, error = type(part).__name__, errors.get(name)
        ranges.append(
            Range(name, kind, found.largest, found.overflow, found.subnormal, weights.subnormal, error, effect)
        )
    return ranges


class _Seen:
    """Counts of the numbers in some tensors."""

    def __init__(self) -> None:
        self.largest, self._all, self._over, self._under = 0.0, 0, 0, 0

    def add(self, tensor: Tensor) -> None:
        size = tensor.abs()
        self.largest = max(self.largest, size.max().item())
        self._all += size.numel()
        self._over += int((size > LARGEST).sum())
        self._under += int(((size < SMALLEST) & (size > 0)).sum())

    @property
    def overflow(self) -> float:
        return self._over / max(1, self._all)

    @property
    def subnormal(self) -> float:
        return self._under / max(1, self._all)


def _errors(network: nn.Module, images: Tensor) -> dict[str, float]:
    """The error of each module without parts, in float16 against float64, given what it is given in float32."""
    errors: dict[str, float] = {}

    def compare(name: str, layer: nn.Module, inputs: Any, outputs: Any) -> None:
        if list(layer.children()) or isinstance(layer, nn.Identity):
            return
        x, alone = inputs[0], copy.copy(layer)
        alone._forward_hooks = OrderedDict()
        exact = copy.deepcopy(alone).double()
        errors[name] = relative_error(InFloat16(alone)(x), flat(exact(x.double())))

    with watched(network, compare):
        network(images)
    return errors
