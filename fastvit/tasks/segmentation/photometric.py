"""Random colors of training images, as MMSegmentation's `PhotoMetricDistortion` makes them."""

from typing import NamedTuple

import torch
from PIL import Image

BRIGHTNESS = 32.0  # the most that is added or taken away, of 255
FACTORS = (0.5, 1.5)  # of contrast, and of saturation
HUE_STEPS = 18  # of two degrees, which is how OpenCV counts hue in a byte
HUE_CIRCLE = 255  # Pillow's


class Distortion(NamedTuple):
    """A change of the colors of an image; by default none.

    Attributes:
        brightness: is added to all colors, of 255.
        contrast: factor of all colors, so that a higher contrast is brighter too.
        saturation: factor of the saturation in HSV.
        hue: degrees that are added to the hue in HSV.
        contrast_first: the contrast is changed before saturation and hue, else after them.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    contrast_first: bool = True

    @classmethod
    def draw(cls) -> "Distortion":
        """One at random, from torch's generator: each change with probability 1/2, the order with probability 1/2."""
        return cls(
            brightness=_uniform(-BRIGHTNESS, BRIGHTNESS) if _heads() else 0.0,
            contrast=_uniform(*FACTORS) if _heads() else 1.0,
            saturation=_uniform(*FACTORS) if _heads() else 1.0,
            hue=2.0 * int(torch.randint(-HUE_STEPS, HUE_STEPS, ())) if _heads() else 0.0,
            contrast_first=_heads(),
        )

    def __call__(self, image: Image.Image) -> Image.Image:
        """The image (RGB) in other colors, each step cut off to whole numbers from 0 to 255."""
        image = image.point(lambda value: int(value + self.brightness))
        if self.contrast_first:
            return self._saturated_and_turned(self._contrasted(image))
        return self._contrasted(self._saturated_and_turned(image))

    def _contrasted(self, image: Image.Image) -> Image.Image:
        return image.point(lambda value: int(value * self.contrast))

    def _saturated_and_turned(self, image: Image.Image) -> Image.Image:
        if self.saturation == 1 and self.hue == 0:
            return image  # the way to HSV and back is not quite exact
        turn = round(self.hue / 360 * HUE_CIRCLE)
        hue = [(value + turn) % HUE_CIRCLE for value in range(256)]
        saturation = [int(value * self.saturation) for value in range(256)]
        return image.convert("HSV").point([*hue, *saturation, *range(256)]).convert("RGB")


def _heads() -> bool:
    return bool(torch.rand(()) < 0.5)


def _uniform(low: float, high: float) -> float:
    return float(torch.empty(()).uniform_(low, high))
