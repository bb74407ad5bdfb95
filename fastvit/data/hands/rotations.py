"""Rotations between the forms that data, networks and meshes want."""

import roma
import torch
from torch import Tensor


def rotation_matrix(vector: Tensor) -> Tensor:
    """(..., 3, 3) from axis times angle (..., 3)."""
    return roma.rotvec_to_rotmat(vector)


def from_six(numbers: Tensor) -> Tensor:
    """(..., 3, 3) from any six numbers (..., 6), by Gram-Schmidt: a form in which rotations are continuous.

    Zhou et al., "On the Continuity of Rotation Representations in Neural Networks", CVPR 2019. The numbers are the
    first two columns of the matrix, one after the other.
    """
    columns = torch.stack([numbers[..., :3], numbers[..., 3:]], -1)
    return roma.special_gramschmidt(columns, epsilon=1e-6)


def to_six(matrix: Tensor) -> Tensor:
    """(..., 6): the numbers from which `from_six` makes this rotation (..., 3, 3)."""
    return torch.cat([matrix[..., 0], matrix[..., 1]], -1)
