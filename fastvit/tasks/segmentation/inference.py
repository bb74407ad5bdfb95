"""Logits for whole images, at once or in windows."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Window(NamedTuple):
    """A square window that slides over an image."""

    size: int  # pixels on a side
    stride: int  # at most; the last window of a row ends where the image does


def predict(model: nn.Module, images: Tensor, size: tuple[int, int], window: Window | None = None) -> Tensor:
    """Logits (B, classes, *size) of images (B, 3, H, W): of the whole image, or the mean over the windows.

    Args:
        size: (height, width) of the result, such as that of the original image; bilinear.
    """
    logits = model(images) if window is None else _sliding(model, images, window)
    return F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)


def _sliding(model: nn.Module, images: Tensor, window: Window) -> Tensor:
    height, width = images.shape[-2:]
    counts = images.new_zeros(height, width)
    total = torch.zeros(())
    for top in _starts(height, window):
        for left in _starts(width, window):
            area = (..., slice(top, top + window.size), slice(left, left + window.size))
            logits = model(images[area]).float()
            if not total.ndim:
                total = logits.new_zeros(*logits.shape[:2], height, width)
            total[area] += logits
            counts[area] += 1
    return total / counts


def _starts(length: int, window: Window) -> list[int]:
    """Where windows begin that cover `length` pixels."""
    last = max(length - window.size, 0)
    return [*range(0, last, window.stride), last]
