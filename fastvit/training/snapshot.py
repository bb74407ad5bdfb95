"""The values that some tensors had at one time, in memory that is taken once."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor


class Snapshot:
    """Takes the values of the same tensors again and again, such as a network's buffers before every step.

    A network has hundreds of buffers, so that copying one by one would launch hundreds of kernels. All of one dtype are
    copied together.
    """

    def __init__(self, tensors: Iterable[Tensor]):
        groups: dict[torch.dtype, list[Tensor]] = defaultdict(list)
        for tensor in tensors:
            groups[tensor.dtype].append(tensor)
        self.groups = [(group, [torch.empty_like(tensor) for tensor in group]) for group in groups.values()]

    @torch.no_grad()
    def take(self) -> None:
        """Keep the values that the tensors have now."""
        for tensors, kept in self.groups:
            torch._foreach_copy_(kept, tensors)

    @torch.no_grad()
    def restore(self) -> None:
        """Give the tensors the values that were taken last."""
        for tensors, kept in self.groups:
            torch._foreach_copy_(tensors, kept)
