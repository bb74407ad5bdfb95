"""From pixels to what a network was trained on, on whatever device they are."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import default_collate


class Normalization(NamedTuple):
    """Mean and standard deviation of the colors (from 0 to 1) that a network was trained with."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: Tensor) -> Tensor:
        """(..., 3, H, W) in float32, from pixels in uint8; as torchvision's `ToTensor` and `Normalize`, bit for bit.

        Pixels that are float32 already, from 0 to 255, are changed in place.
        """
        mean, std = (_column(values, images.device) for values in self)
        return images.float().div_(255).sub_(mean).div_(std)

    def undo(self, images: Tensor) -> Tensor:
        """Colors from 0 to 1 of (..., 3, H, W)."""
        mean, std = (_column(values, images.device) for values in self)
        return (images * std + mean).clamp(0, 1)


@cache  # else every batch waits for a GPU to take them
@torch.inference_mode(False)  # they are kept: a tensor of inference mode would be of no use in training
def _column(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(-1, 1, 1)


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """(B, 3, H, W) of images of one size, in the memory layout that they have.

    Pillow keeps the colors of a pixel together: as they are, they make a batch in channels_last, and are only copied.
    """
    if images[0].permute(1, 2, 0).is_contiguous():
        return default_collate([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
    return default_collate(list(images))
