"""What the tests of checkpoints share."""

import timm
import torch

from reference import small


def fresh(name="fastvit_sa12", **kwargs):
    """One block in each stage, unless another name is given."""
    size = small(name) if name == "fastvit_sa12" else {}
    return timm.create_model(name, **{"num_classes": 5, **size, **kwargs}).eval()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
