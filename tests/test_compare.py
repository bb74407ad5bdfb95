import pytest
import torch
from torch import nn

from fastvit import (
    PatchEmbed,
    RepMixer,
    fusion_error,
)
from fastvit.compare import without_tf32


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


def test_models_are_compared_without_tf32():
    """On CUDA it is torch's default for convolutions, and its rounding would hide an error of the fusing."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [backend.fp32_precision for backend in backends]

    class Spy(RepMixer):
        def forward(self, x):
            assert [backend.fp32_precision for backend in backends] == ["ieee", "ieee"]
            return super().forward(x)

    spy = Spy(8)
    assert fusion_error(spy, spy, (8, 8, 8)) == 0
    with pytest.raises(RuntimeError, match="stop"), without_tf32():
        raise RuntimeError("stop")
    assert [backend.fp32_precision for backend in backends] == before
