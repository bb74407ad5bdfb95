import pytest
import torch
from torch import nn

from fastvit import (
    PatchEmbed,
    fusion_error,
)


def test_fusion_error_is_the_relative_l2_difference():
    class Twice(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(factor))

        def forward(self, x):
            return {"a": [self.factor * x, x.sum() * self.factor], "b": (x * self.factor,)}

    assert fusion_error(Twice(2.0), Twice(2.5), (3, 8, 8)) == pytest.approx(0.25, rel=1e-6)
    block = nn.Sequential(PatchEmbed(3, 6), nn.Dropout(0.5)).train()
    assert fusion_error(block, block, (3, 32, 32)) == 0.0, "compared in eval mode"
    assert block.training
