"""From an image file to the input of a network that says something about each pixel."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F


@dataclass(frozen=True)
class WholeImage:
    """RGB, resized as a whole by Pillow's bilinear interpolation, scaled to [0, 1], normalized.

    Attributes:
        short, long: an image becomes as large as fits when its shorter side is at most `short` and its longer at most
            `long`, in pixels; with `short` None it keeps its size.
        divisor: then each side is rounded up to a multiple of it.
        mean, std: of each of the three colors, on the scale from 0 to 1.
    """

    short: int | None
    long: int
    divisor: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of what an image becomes."""
        factor = 1.0
        if self.short is not None:
            factor = min(self.short / min(height, width), self.long / max(height, width))
        high, wide = (max(ceil(round(side * factor) / self.divisor), 1) * self.divisor for side in (height, width))
        return high, wide

    def transform(self) -> Callable[[Image.Image], Tensor]:
        """A function from an RGB image to (3, height, width)."""

        def apply(image: Image.Image) -> Tensor:
            high, wide = self.size(image.height, image.width)
            pixels = F.pil_to_tensor(image.resize((wide, high), Image.Resampling.BILINEAR))
            return F.normalize(F.to_dtype(pixels, torch.float32, scale=True), self.mean, self.std)

        return apply
