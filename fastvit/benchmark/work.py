"""What a network has to do, counted: multiply-adds, and the memory it has to move."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def macs(model: nn.Module, size: tuple[int, int, int]) -> int:
    """Multiply-accumulates of one image in the convolutions, linear layers and matrix products of attention."""
    counter = FlopCounterMode(display=False)
    with counter:
        _run_on_meta(model, (1, *size))
    return counter.get_total_flops() // 2


def traffic(model: nn.Module, size: tuple[int, int, int], batch_size: int, dtype: torch.dtype, cache: int) -> int:
    """The least that one call moves between memory and a cache of `cache` bytes, in bytes.

    Of the weights together, and of every tensor that goes into or comes out of a convolution or a linear layer, what is
    more than the cache holds. Everything else may stay in the cache, or in registers: what a compiler puts between, and
    the products of attention, which a fused kernel never writes.
    """
    counter = _Traffic(cache, dtype.itemsize)
    with counter:
        _run_on_meta(model, (batch_size, *size))
    return counter.bytes + max(parameters(model) * dtype.itemsize - cache, 0)


class _Traffic(TorchDispatchMode):
    def __init__(self, cache: int, itemsize: int):
        super().__init__()
        self.cache, self.itemsize, self.bytes = cache, itemsize, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in _LAYERS:
            tensors = [each for each in tree_leaves((args, kwargs or {}, out)) if isinstance(each, Tensor)]
            self.bytes += sum(max(each.numel() * self.itemsize - self.cache, 0) for each in tensors)
        return out


_ATEN = torch.ops.aten
_LAYERS = (_ATEN.convolution, _ATEN.mm, _ATEN.addmm)


@torch.no_grad()
def _run_on_meta(model: nn.Module, shape: tuple[int, ...]) -> None:
    """A forward pass of shapes alone."""
    copy.deepcopy(model).to("meta").eval()(torch.empty(shape, device="meta"))
