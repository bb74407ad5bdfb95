"""How far the outputs of two models are from each other."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from fastvit.precision import exact_float32


@torch.no_grad()
def fusion_error(model: nn.Module, fused: nn.Module, input_size: tuple[int, int, int] = (3, 256, 256)) -> float:
    """Relative L2 difference of the eval-mode outputs of two models on the same two random images.

    Args:
        model, fused: models with equal outputs: a tensor, or a list, tuple or dict of tensors. Neither is changed.
        input_size: (channels, height, width) of the images.

    Returns:
        ``|fused(x) - model(x)| / |model(x)|``, computed in float64. Both models run in exact float32, also where the
        caller is under autocast.
    """
    parameter = next(model.parameters())
    x = torch.randn(2, *input_size, generator=torch.Generator().manual_seed(0)).to(parameter)
    with exact_float32():
        expected, actual = (copy.deepcopy(each).eval()(x) for each in (model, fused))
    return relative_error(actual, expected)


def largest(errors: Sequence[float]) -> float:
    """NaN if one of them is: Python's `max` takes 1e-6 for the larger of 1e-6 and NaN."""
    return float(np.max(errors))


def relative_error(actual: Any, expected: Any) -> float:
    """|actual - expected| / |expected| over all tensors in two equally nested outputs, computed in float64."""
    a, e = (torch.cat([t.flatten().cpu().double() for t in tree_leaves(output)]) for output in (actual, expected))
    return float((a - e).norm() / e.norm())
