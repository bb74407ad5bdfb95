"""From an image file to the input of a network that says something about each pixel."""

import math
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from fastvit.data.normalization import Normalization


class ResizeBox(NamedTuple):
    """The size of images: as large as fits when the shorter side is at most `short` and the longer at most `long`.

    With `short` None images keep their own size. Then each side is rounded up to a multiple of `divisor`: the stages of
    a network halve the size with a rounding of their own, which shifts features of an image whose sides do not divide.
    """

    short: int | None
    long: int
    divisor: int = 1

    def __call__(self, size: tuple[int, int], factor: float = 1.0) -> tuple[int, int]:
        """(width, height) of an image of `size` (width, height) in the box, all multiplied by `factor`."""
        if self.short is not None:
            factor *= min(self.short / min(size), self.long / max(size))
        width, height = (max(math.ceil(round(side * factor) / self.divisor), 1) * self.divisor for side in size)
        return width, height

    def resize(self, image: Image.Image) -> Image.Image:
        """The image in the box."""
        return image.resize(self(image.size), Image.Resampling.BILINEAR)


class WholeImage(NamedTuple):
    """An RGB image in its box, scaled to [0, 1], normalized: `Preprocessing` for images that are not cropped."""

    box: ResizeBox
    normalization: Normalization

    @property
    def mean(self) -> tuple[float, float, float]:
        return self.normalization.mean

    @property
    def std(self) -> tuple[float, float, float]:
        return self.normalization.std

    def __call__(self, image: Image.Image) -> Tensor:
        """(3, height, width), from an RGB image."""
        return self.normalization(pil_to_tensor(self.box.resize(image)))

    def transform(self) -> Callable[[Image.Image], Tensor]:
        """Itself: as that of `Preprocessing`, a function from an RGB image to (3, height, width)."""
        return self
