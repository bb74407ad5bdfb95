"""Demo data for dense prediction: real handwritten digits on real photographs, with exact masks and boxes.

Composed on the fly from what comes with scikit-learn: no files. Digits and parts of the photographs that are used for
validation are not used for training.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from fastvit.data.digits import Digits

BACKGROUND = 0  # in label maps; digit d is d + 1
CLASSES = ("background", *Digits.classes)


@dataclass(frozen=True)
class Scene:
    """A picture with digits.

    Attributes:
        image: RGB.
        digits: (N,), from 0 to 9.
        masks: (N, H, W) bool: the visible part of each digit, never empty.
    """

    image: Image.Image
    digits: Tensor
    masks: Tensor

    def label_map(self) -> Tensor:
        """(H, W) uint8: `BACKGROUND`, or the digit there plus one."""
        labels = torch.zeros(self.masks.shape[1:], dtype=torch.uint8)
        for digit, mask in zip(self.digits, self.masks, strict=True):
            labels[mask] = int(digit) + 1
        return labels


class DigitScenes(Dataset):
    """Scenes of 2 or 3 digits in many sizes, rotations and colors.

    Args:
        train: drawn from torch's random generator, new each time, from the training digits and the left two thirds of
            each photograph. Else the scene depends on its index only, from held-out digits and the right third of each.
        count: scenes in an epoch.
        size: pixels on a side.
    """

    def __init__(self, *, train: bool, count: int, size: int):
        from sklearn.datasets import load_sample_images

        self.train, self.count, self.size = train, count, size
        digits = Digits(train=train, image_size=8)
        self.scans = [image.convert("L") for image in digits.images]
        self.labels = digits.labels
        photos = [Image.fromarray(photo) for photo in load_sample_images().images]  # 640x427: a palace, a flower
        self.photos = [
            photo.crop((0, 0, photo.width * 2 // 3, photo.height))
            if train
            else photo.crop((photo.width * 2 // 3, 0, photo.width, photo.height))
            for photo in photos
        ]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Scene:
        if not 0 <= index < self.count:
            raise IndexError(index)
        seed = int(torch.randint(2**62, ())) if self.train else (0, index)  # documented figures are of (0, index)
        return self._compose(np.random.default_rng(seed))

    def _compose(self, rng: np.random.Generator) -> Scene:
        pixels = np.asarray(self._background(rng), dtype=np.float32).copy()  # (H, W, 3)
        owner = np.full(pixels.shape[:2], -1)  # which digit is on top
        digits = []
        for _ in range(rng.integers(2, 4)):
            chosen = rng.integers(len(self.scans))
            ink = self._place(self.scans[chosen], owner, rng)  # (H, W), from 0 to 1
            if ink is None:
                continue
            color = rng.uniform(190, 255, 3)
            pixels += ink[..., None] * (color - pixels)
            owner[ink > 0.5] = len(digits)
            digits.append(self.labels[chosen])
        masks = torch.from_numpy(owner == np.arange(len(digits))[:, None, None])  # (N, H, W)
        image = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
        return Scene(image, torch.tensor(digits), masks)

    def _background(self, rng: np.random.Generator) -> Image.Image:
        """A square part of a photograph, darkened so that bright digits stand out from the sky, too."""
        photo = self.photos[rng.integers(len(self.photos))]
        side = int(rng.integers(96, 200))
        left, top = rng.integers(photo.width - side + 1), rng.integers(photo.height - side + 1)
        part = photo.resize((self.size, self.size), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
        return part.point(lambda value: value * 0.6)

    def _place(self, scan: Image.Image, owner: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        """The ink of a digit somewhere in the scene, hiding at most a tenth of another or itself; None: no room."""
        areas = np.bincount(owner[owner >= 0])
        for _ in range(10):
            side = int(self.size * rng.uniform(0.4, 0.6))
            digit = scan.resize((side, side), Image.Resampling.BICUBIC)
            digit = digit.rotate(rng.uniform(-10, 10), Image.Resampling.BILINEAR)
            left, top = rng.integers(self.size - side + 1, size=2)
            ink = np.zeros(owner.shape, dtype=np.float32)
            ink[top : top + side, left : left + side] = np.asarray(digit, dtype=np.float32) / 255
            solid = ink > 0.5
            if solid.any() and (owner[solid] >= 0).sum() <= 0.1 * min([solid.sum(), *areas]):
                return ink
        return None
