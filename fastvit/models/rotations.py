"""Rotations between the forms that data, networks and meshes want."""

import torch
import torch.nn.functional as F
from torch import Tensor


def rotation_matrix(vector: Tensor) -> Tensor:
    """(..., 3, 3) from axis times angle (..., 3): the exponential of the cross product with it (Rodrigues)."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    return torch.linalg.matrix_exp(cross)


def from_six(numbers: Tensor) -> Tensor:
    """(..., 3, 3) from any six numbers (..., 6), by Gram-Schmidt: a form in which rotations are continuous.

    Zhou et al., "On the Continuity of Rotation Representations in Neural Networks", CVPR 2019. The numbers are the
    first two columns of the matrix, one after the other.
    """
    first = F.normalize(numbers[..., :3], dim=-1, eps=1e-6)
    second = numbers[..., 3:] - (first * numbers[..., 3:]).sum(-1, keepdim=True) * first
    second = F.normalize(second, dim=-1, eps=1e-6)
    return torch.stack([first, second, torch.linalg.cross(first, second)], -1)


def to_six(matrix: Tensor) -> Tensor:
    """(..., 6): the numbers from which `from_six` makes this rotation (..., 3, 3)."""
    return torch.cat([matrix[..., 0], matrix[..., 1]], -1)
