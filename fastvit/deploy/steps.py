"""What a network computes step by step, and in which of its parts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from fastvit.deploy.runtimes.run import plain_mode
from fastvit.precision import exact_float32

Look = Callable[[Tensor, Sequence[str]], Tensor]  # a tensor, the names of the parts that compute, the outermost first


class Steps(TorchDispatchMode):
    """Runs a network and looks at every floating point tensor that goes into a step and that comes out.

    A layer norm and attention are several steps, since runtimes that have no operation for them write them out.

    Args:
        before, after: what takes the place of a tensor that goes into a step, and of one that comes out.
    """

    def __init__(self, network: nn.Module, *, before: Look, after: Look):
        super().__init__()
        self._network, self._before, self._after = network, before, after
        self._inside: list[str] = []

    @torch.no_grad()
    def run(self, images: Tensor) -> Any:
        """What the network returns for these images."""
        with plain_mode(), exact_float32(), self._named(), sdpa_kernel(SDPBackend.MATH), self:
            return self._network(images)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _WRITTEN_OUT:
            with self:
                return _WRITTEN_OUT[func](*args, **(kwargs or {}))
        if func._schema.is_mutable:  # in place: the tensor that it changes must stay itself
            result = func(*args, **(kwargs or {}))
            return result.copy_(self._look(self._after, result))
        args, kwargs = self._look(self._before, (args, kwargs or {}))
        return self._look(self._after, func(*args, **kwargs))

    def _look(self, look: Look, tensors: Any) -> Any:
        return tree_map_only(Tensor, lambda x: look(x, self._inside) if x.is_floating_point() else x, tensors)

    @contextmanager
    def _named(self) -> Iterator[None]:
        handles = []
        for name, module in self._network.named_modules():
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: self._inside.append(name)))
            handles.append(module.register_forward_hook(lambda *_: self._leave()))
        try:
            yield
        finally:
            self._inside.clear()
            for handle in handles:
                handle.remove()

    def _leave(self) -> None:
        self._inside.pop()


def _layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    axes = tuple(range(-len(shape), 0))
    mean = x.mean(axes, keepdim=True)
    centered = x - mean
    scale = ((centered * centered).mean(axes, keepdim=True) + eps).rsqrt()
    y = centered * scale
    y = y if weight is None else y * weight
    return (y if bias is None else y + bias), mean, scale


_WRITTEN_OUT: dict[Any, Callable[..., Any]] = {torch.ops.aten.native_layer_norm.default: _layer_norm}
