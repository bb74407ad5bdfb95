"""Masks in COCO's run-length encoding, from and to tensors, by pycocotools."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

RunLengths = dict[str, Any]  # COCO's keys: size [height, width], counts


def run_lengths(segmentation: Any, height: int, width: int) -> RunLengths:
    """COCO's compressed run-length encoding of polygons, of uncompressed run lengths, or of itself."""
    from pycocotools import mask as mask_tools

    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]  # three points
        if not polygons:
            return mask_tools.encode(np.zeros((height, width), dtype=np.uint8, order="F"))
        return mask_tools.merge(mask_tools.frPyObjects(polygons, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_tools.frPyObjects(segmentation, height, width)
    return segmentation


def decode_masks(codes: list[RunLengths], height: int, width: int) -> Tensor:
    """(N, height, width) uint8 of N compressed run-length encodings."""
    from pycocotools import mask as mask_tools

    if not codes:
        return torch.zeros(0, height, width, dtype=torch.uint8)
    masks = mask_tools.decode(codes)  # (H, W, N)
    return torch.from_numpy(np.ascontiguousarray(masks.transpose(2, 0, 1)))


def encode_masks(masks: Tensor) -> list[RunLengths]:
    """COCO's compressed run-length encoding of each of (N, H, W) bool, on the CPU."""
    from pycocotools import mask as mask_tools

    if not len(masks):
        return []
    return mask_tools.encode(np.asfortranarray(masks.permute(1, 2, 0).numpy().astype(np.uint8)))
