"""Computing blocks a second time changes the memory that they take, and nothing else."""

import copy

import pytest
import torch
from timm.layers import convert_sync_batchnorm
from torch import nn

from checkpoints import equal
from fastvit import AttentionBlock, RepMixerBlock
from fastvit.gradient_checkpointing import checkpointed
from reference import randomize


def results(blocks, run, x, steps=2):
    """Gradients, running statistics and counts of batches after some steps."""
    blocks = copy.deepcopy(blocks)
    momenta = [getattr(module, "momentum", None) for module in blocks.modules()]
    for _ in range(steps):
        run(blocks, x).square().sum().backward()
    assert momenta == [getattr(module, "momentum", None) for module in blocks.modules()]
    return {name: p.grad for name, p in blocks.named_parameters()} | dict(blocks.named_buffers())


BLOCKS = {
    "in train mode": lambda: nn.Sequential(RepMixerBlock(32), AttentionBlock(32)),
    "stochastic depth": lambda: nn.Sequential(RepMixerBlock(32, drop_path=0.5), RepMixerBlock(32, drop_path=0.5)),
    "synchronized": lambda: convert_sync_batchnorm(nn.Sequential(RepMixerBlock(32))),
    "frozen statistics": lambda: nn.Sequential(RepMixerBlock(32), RepMixerBlock(32).eval()),
    "without statistics": lambda: nn.Sequential(nn.BatchNorm2d(32, track_running_stats=False), RepMixerBlock(32)),
    "averages of all batches": lambda: nn.Sequential(nn.BatchNorm2d(32, momentum=None), RepMixerBlock(32)),
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_gradients_and_statistics_are_the_same(kind):
    blocks, x = BLOCKS[kind]().double(), torch.randn(4, 32, 4, 4).double()
    torch.manual_seed(0)
    plain = results(blocks, lambda blocks, x: blocks(x), x)
    torch.manual_seed(0)
    assert equal(results(blocks, checkpointed, x), plain)


def test_a_graph_that_is_kept_can_be_gone_through_twice():
    blocks = randomize(nn.Sequential(RepMixerBlock(8))).train()
    loss = checkpointed(blocks, torch.randn(2, 8, 4, 4)).square().sum()
    first, second = (torch.autograd.grad(loss, list(blocks.parameters()), retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, first, second))


@pytest.mark.slow
def test_compiled():
    blocks, x = randomize(nn.Sequential(RepMixerBlock(8))), torch.randn(2, 8, 8, 8)
    compiled = torch.compile(checkpointed, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(results(blocks, compiled, x), results(blocks, lambda blocks, x: blocks(x), x))
