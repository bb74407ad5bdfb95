"""What the tests of deployment share: a small trained-looking network, its labels and preprocessing."""

import pytest
import torch
from torch import nn

from fastvit import FastViT
from fastvit.deploy import FORMATS, Preprocessing
from reference import randomize

LABELS = tuple("abcdefg")
PREPROCESSING = Preprocessing(64, 64, 0.9, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def small_network() -> nn.Module:
    """All kinds of blocks, far from their initialisation."""
    torch.manual_seed(0)
    return randomize(FastViT((1, 1, 1), (32, 32, 64), 2, (False, False, True), num_classes=len(LABELS)))


def need(name: str) -> None:
    """Skip the test if the packages of a format are not installed."""
    for module in (*FORMATS[name].packages.values(), *FORMATS[name].converters.values()):
        pytest.importorskip(module)
