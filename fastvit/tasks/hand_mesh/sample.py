"""What every hand dataset gives: an image, its camera, and the hand in it."""

from typing import NamedTuple

import numpy as np
from PIL import Image


class HandSample(NamedTuple):
    """One image of one right hand. Positions are in metres, in the camera's frame: x right, y down, z forward."""

    image: Image.Image  # RGB
    intrinsics: np.ndarray  # (3, 3), in pixels; (0, 0) is the corner of the first pixel, its center (0.5, 0.5)
    joints: np.ndarray  # (21, 3), in the order of `skinning.JOINT_ORDER`
    vertices: np.ndarray  # (V, 3)
    rotations: np.ndarray | None  # (16, 3, 3), each joint relative to its parent; None where they are not known
    shape: np.ndarray | None  # (S,); None where it is not known


def project(points: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """(..., 2), in pixels, of points (..., 3) in the camera's frame."""
    pixels = points @ intrinsics.T
    return pixels[..., :2] / pixels[..., 2:]
