"""Predictions in the camera's frame, and the file that the FreiHAND challenge takes."""

import json
from pathlib import Path

import torch
from torch import Tensor


def root_position(camera: Tensor, intrinsics: Tensor, image_size: int) -> Tensor:
    """(B, 3), in metres: where the root of a hand is, by a weak-perspective camera and the true one.

    The depth is the one at which the true camera has the other's scale; exact for a hand that is far away.

    Args:
        camera: (B, 3), scale and shift, as `HandMesh` gives them.
        intrinsics: (B, 3, 3), in pixels of the image that the network saw.
        image_size: pixels on a side of that image.
    """
    focal = intrinsics.diagonal(dim1=1, dim2=2)[:, :2]  # (B, 2)
    depth = focal.mean(1, keepdim=True) * 2 / (camera[:, :1] * image_size)
    pixels = (camera[:, 1:] + 1) * image_size / 2
    return torch.cat([(pixels - intrinsics[:, :2, 2]) * depth / focal, depth], 1)


def write_predictions(path: Path, joints: Tensor, vertices: Tensor) -> None:
    """Write what the challenge and its own evaluation read, [joints, vertices], each a list over images.

    Args:
        joints, vertices: (N, 21, 3) and (N, V, 3), in metres in the camera's frame.
    """
    # A nanometre is enough, and half the size of the file.
    rounded = [torch.round(each.double(), decimals=9).tolist() for each in (joints, vertices)]
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(json.dumps(rounded), encoding="utf-8")
    unfinished.replace(path)
