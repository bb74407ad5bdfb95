"""From an image file to a network's input: what an exported file has to state to give the same answers elsewhere."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor
from torchvision.transforms import Compose, InterpolationMode
from torchvision.transforms.v2 import functional as F
from torchvision.transforms.v2.functional import pil_to_tensor

from fastvit.data.normalization import Normalization
from fastvit.data.reading import too_far_from_square

CENTER, SQUASH = "center", "squash"
CROP_MODES = (CENTER, "border", SQUASH)  # of timm


@dataclass(frozen=True)
class Preprocessing:
    """RGB, resized so that the crop is `crop_pct` of it, cropped in the middle, scaled to [0, 1], normalized.

    This is `crop_mode` "center", in which what is beside the crop is not seen. Two others show the whole image, if
    `crop_pct` is 1: "border" resizes the longer side and fills the rest with the color `mean`; "squash" resizes both
    sides, whatever shape that gives.

    Photographs are upright before that, as `fastvit.data.reading.read_image` makes them.

    Attributes:
        height, width: of the crop, which is the network's input, in pixels.
        crop_pct: side of the crop over that of the resized image; a square image is resized to height / crop_pct. None
            for a network whose task resizes in a way of its own (segmentation, hands): bring images to its size so.
        interpolation: of the resizing: bilinear, bicubic or nearest, with antialiasing (Pillow's); None with crop_pct.
        mean, std: of each of the three colors, on the scale from 0 to 1.
        crop_mode: one of `CROP_MODES`; of no meaning where crop_pct is None.
    """

    height: int
    width: int
    crop_pct: float | None
    interpolation: str | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_mode: str = CENTER

    def __post_init__(self) -> None:
        if self.crop_mode not in CROP_MODES:
            raise ValueError(f"crop_mode must be one of {', '.join(CROP_MODES)}, not {self.crop_mode}")

    @classmethod
    def of_timm(cls, pretrained_cfg: Mapping[str, Any]) -> "Preprocessing":
        """As a network of timm's was evaluated by its authors."""
        config = resolve_data_config(pretrained_cfg=dict(pretrained_cfg), use_test_size=True)
        _, height, width = config["input_size"]
        mean, std = tuple(config["mean"]), tuple(config["std"])  # lists, where they come from a file
        return cls(height, width, config["crop_pct"], config["interpolation"], mean, std, config["crop_mode"])

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})

    @property
    def normalization(self) -> Normalization:
        """Its last step, for images on any device."""
        return Normalization(self.mean, self.std)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def transform(self) -> Compose:
        """A function from an RGB image to (3, height, width); timm's validation transform.

        It raises UnreadableImage where an image is so far from square that, resized, it has more pixels than Pillow's
        limit, or none.

        Raises ValueError where resizing is the task's.
        """
        if self.crop_pct is None or self.interpolation is None:
            raise ValueError("these images are resized in their task's own way: only mean and std are stated")
        timms = create_transform(
            (3, self.height, self.width),
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
        )
        return Compose([self._sound, *timms.transforms])

    def crop(self, image: Image.Image) -> Tensor:
        """The same up to the crop, five times as fast: from an RGB image to (3, height, width) uint8.

        torch resizes 8-bit images in the arithmetic of Pillow. A color differs from `transform`'s by two of 255 levels
        at most, and by 0.02 levels on average. Where torch has other rules (nearest), or timm (crops that are not
        square, or not of the center), `transform`'s own steps are taken. Raises UnreadableImage as that does.
        """
        sound, resize, crop, *_ = self.transform().transforms
        image = sound(image)
        is_plain = self.height == self.width and self.crop_mode == CENTER
        if not is_plain or self.interpolation not in ("bilinear", "bicubic"):
            return pil_to_tensor(crop(resize(image)))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # channels last in memory, which is quick
        mode = InterpolationMode(self.interpolation)
        resized = F.resize(pixels, [resize.size], mode, antialias=True)
        return F.center_crop(resized, [self.height, self.width])

    def _sound(self, image: Image.Image) -> Image.Image:
        if self.crop_mode == SQUASH:
            return image
        height, width = (math.floor(side / self.crop_pct) for side in (self.height, self.width))
        scales = height / image.height, width / image.width
        scale = max(scales) if self.crop_mode == CENTER else min(scales)
        width, height = round(scale * image.width), round(scale * image.height)
        if not 0 < width * height <= (Image.MAX_IMAGE_PIXELS or math.inf):
            raise too_far_from_square(f"{image.width} x {image.height} px become {width} x {height}")
        return image

    def normalize(self, crops: Tensor) -> Tensor:
        """What the network takes, (B, 3, height, width) float32, from such crops."""
        return self.normalization(crops)
