"""Logits of whole images, at once or in windows, and the label maps that they mean."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvit.training.task import Network

NUMBERS_AT_ONCE = 2**26  # 256 MiB


class Window(NamedTuple):
    """A square window that slides over an image."""

    size: int  # pixels on a side
    stride: int  # at most; the last window of a row ends where the image does


def predict(model: Network, images: Tensor, window: Window | None = None) -> Tensor:
    """Logits (B, classes, H, W) in float32 of images (B, 3, H, W): of whole images, or the mean over the windows."""
    return (model(images) if window is None else _sliding(model, images, window)).float()


def label_maps(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, *size) uint8: the class with the largest of the logits (B, classes, h, w), resized bilinearly.

    A few classes at a time: those of a photograph of 12 million pixels and 150 classes would take 7 GB at once.

    Args:
        size: (height, width) of the result, such as that of the original image.
    """
    labels = torch.zeros(len(logits), *size, dtype=torch.uint8, device=logits.device)
    largest = torch.full(labels.shape, -torch.inf, device=logits.device)
    at_once = max(NUMBERS_AT_ONCE // labels.numel(), 1)
    for first in range(0, logits.shape[1], at_once):
        some = F.interpolate(logits[:, first : first + at_once], size, mode="bilinear", align_corners=False)
        values, indices = some.max(1)
        labels = torch.where(values > largest, (indices + first).to(torch.uint8), labels)
        largest = torch.maximum(largest, values)
    return labels


def _sliding(model: Network, images: Tensor, window: Window) -> Tensor:
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
