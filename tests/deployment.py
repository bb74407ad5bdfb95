"""What the tests of deployment share: a small trained-looking network, and what belongs to it."""

import pytest
import torch
from torch import nn

from fastvit import FastViT
from fastvit.deploy import FORMATS, Card, Preprocessing
from photographs import photographs
from reference import randomize, tell_apart

LABELS = tuple("abcdefg")
PREPROCESSING = Preprocessing(64, 64, 0.9, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CARD = Card(PREPROCESSING, LABELS)


def small_network() -> nn.Module:
    """All kinds of blocks, far from their initialisation."""
    torch.manual_seed(0)
    return randomize(FastViT((1, 1, 1), (32, 32, 64), 2, (False, False, True), num_classes=len(LABELS)))


def discerning_network() -> nn.Module:
    """The same, but its answers differ between pictures."""
    pictures = torch.stack([PREPROCESSING.transform()(image) for image in photographs().values()])
    return tell_apart(small_network(), pictures)


def need(name: str) -> None:
    """Skip the test if the packages of a format are not installed."""
    for module in (*FORMATS[name].packages.values(), *FORMATS[name].converters.values()):
        pytest.importorskip(module)
