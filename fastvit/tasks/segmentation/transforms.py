"""From an image and its mask to tensors: what MMSegmentation does for ADE20K, with torchvision's operations."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from fastvit.data.normalization import Normalization
from fastvit.data.whole_image import ResizeBox, WholeImage
from fastvit.tasks.segmentation.masks import UNLABELLED
from fastvit.tasks.segmentation.photometric import Distortion
from fastvit.tasks.segmentation.recipe import SegmentationAugmentationConfig

CROP_ATTEMPTS = 10


class TrainTransform:
    """Random scale, crop, mirror image and colors. Everything random comes from torch's generator.

    Args:
        config: a crop is drawn up to ten times, until no class fills more than its `max_class_share`; colors are drawn
            by `Distortion`.
        box: the size before scaling.
        crop: pixels on a side of the result; what the image does not fill is zero (the mean color), and unlabelled.
    """

    def __init__(
        self, config: SegmentationAugmentationConfig, normalization: Normalization, *, box: ResizeBox, crop: int
    ):
        self.config, self.normalization, self.box, self.crop = config, normalization, box, crop

    def __call__(self, image: Image.Image, mask: Image.Image) -> tuple[Tensor, Tensor]:
        size = self.box(image.size, float(torch.empty(()).uniform_(*self.config.scale)))
        image, mask = _resized(image, mask, size)
        corner = self._choose_corner(np.asarray(mask))
        area = (*corner, min(corner[0] + self.crop, size[0]), min(corner[1] + self.crop, size[1]))
        image, mask = image.crop(area), mask.crop(area)
        if torch.rand(()) < self.config.hflip:
            image, mask = F.horizontal_flip(image), F.horizontal_flip(mask)
        if self.config.photometric:
            image = Distortion.draw()(image)
        padding = (0, self.crop - image.width, 0, self.crop - image.height)
        pixels = self.normalization(F.pil_to_tensor(image))
        return pad(pixels, padding), pad(_to_tensor(mask), padding, value=UNLABELLED)

    def _choose_corner(self, labels: np.ndarray) -> tuple[int, int]:
        """(left, top) of the crop."""
        for _ in range(CROP_ATTEMPTS):
            top, left = (int(torch.randint(max(side - self.crop, 0) + 1, ())) for side in labels.shape)
            if self.config.max_class_share == 1:
                break
            counts = np.bincount(labels[top : top + self.crop, left : left + self.crop].ravel(), minlength=256)
            counts = counts[:UNLABELLED]
            if np.count_nonzero(counts) > 1 and counts.max() < self.config.max_class_share * counts.sum():
                break
        return left, top


class ValTransform:
    """The image in its box; the mask as it is, because predictions are compared at the size of the original."""

    def __init__(self, whole: WholeImage):
        self.whole = whole

    def __call__(self, image: Image.Image, mask: Image.Image) -> tuple[Tensor, Tensor]:
        return self.whole(image), _to_tensor(mask)


class TransformedMaskedImages(Dataset):
    """The pairs of a source, such as `MaskedImages`, transformed: (3, H, W) and labels (H, W) in uint8."""

    def __init__(self, source: Dataset, transform: TrainTransform | ValTransform):
        self.source, self.transform = source, transform

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(*self.source[index])


def _resized(image: Image.Image, mask: Image.Image, size: tuple[int, int]) -> tuple[Image.Image, Image.Image]:
    if image.size == size:
        return image, mask
    return image.resize(size, Image.Resampling.BILINEAR), mask.resize(size, Image.Resampling.NEAREST)


def _to_tensor(mask: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(mask))  # (H, W), uint8
