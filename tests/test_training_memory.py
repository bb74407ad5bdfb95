"""Memory counted by hand."""

import torch
from torch import nn

from fastvit.training.memory import activation_bytes_per_image

LABEL = 8  # bytes


class TwoSquares(nn.Module):
    """Each square keeps its input, which the other one does not share; the mean keeps nothing."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        x = x * self.scale  # keeps x, 3 * 32 * 32 numbers for an image
        return (x.square() + 0).square().mean((2, 3))  # keeps two of that size


def test_every_saved_activation_counts_once():
    one = 3 * 32 * 32 * 4
    logits = 3 * 4  # log-softmax keeps its output
    assert activation_bytes_per_image(TwoSquares, 32, "float32") == 3 * one + logits + LABEL


def test_in_half_precision_what_is_computed_in_it_takes_half():
    def build():
        return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(8 * 16 * 16, 4))

    full, half = (activation_bytes_per_image(build, 16, precision) for precision in ("float32", "bfloat16"))
    pixels = 16 * 16
    assert full == pixels * (3 + 8 + 8) * 4 + 4 * 4 + LABEL
    assert half == pixels * (3 + 8 + 8) * 2 + 4 * 4 + LABEL  # log-softmax stays in float32
