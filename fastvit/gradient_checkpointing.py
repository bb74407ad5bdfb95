"""Less memory for the training of blocks in a row: the backward pass computes again what is inside each of them."""

from contextlib import nullcontext

import torch
from timm.models import checkpoint_seq
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpointed(blocks: nn.Sequential, x: Tensor) -> Tensor:
    """blocks(x), of which only what enters each block is kept. Running statistics count the batch once."""
    if torch.compiler.is_compiling():  # a graph updates them once, whatever it computes twice
        return checkpoint_seq(blocks, x)
    for block in blocks:
        contexts = nullcontext(), _StatisticsStay(block)  # of the forward pass, and of computing it again
        x = checkpoint(block, x, use_reentrant=False, context_fn=lambda contexts=contexts: contexts)
    return x


class _StatisticsStay:
    """A context in which the batch norms of a block compute the same, and leave their running statistics as they are.

    Without running statistics they would keep other tensors for the backward pass than the first time, which torch
    refuses. So they take 1 of what they have and 0 of the batch.
    """

    def __init__(self, block: nn.Module):
        self.block = block

    def __enter__(self) -> None:
        norms = [module for module in self.block.modules() if isinstance(module, _BatchNorm)]
        self.before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
        for norm, _, batches in self.before:
            norm.momentum = 0.0
            norm.num_batches_tracked = None if batches is None else batches.clone()

    def __exit__(self, *_: object) -> None:
        for norm, momentum, batches in self.before:
            norm.momentum, norm.num_batches_tracked = momentum, batches
