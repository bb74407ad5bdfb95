"""The fifteen corruptions of ImageNet-C (Hendrycks and Dietterich, ICLR 2019): their errors, and making them."""

from collections.abc import Mapping
from statistics import mean

import numpy as np
from PIL import Image

from fastvit.errors import DataError

# AlexNet's mean error over the five severities, which others are measured by (the same paper's published evaluation).
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
CORRUPTIONS = tuple(ALEXNET_ERRORS)
SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST_IMAGE = 32  # pixels on a side, that the corruptions are defined for


def corruption_errors(top1: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """The corruption error of each corruption in percent: the mean error over severities, by AlexNet's.

    Args:
        top1: percent, by corruption and severity; of all severities.
    """
    return {
        name: 100 * mean(1 - percent / 100 for percent in by_severity.values()) / ALEXNET_ERRORS[name]
        for name, by_severity in top1.items()
    }


def corrupt(image: Image.Image, corruption: str, severity: int) -> Image.Image:
    """An RGB image with a corruption, drawn from numpy's global random state.

    Args:
        severity: 1 to 5.

    Raises:
        DataError: the image is too small for what the corruptions do.
    """
    from imagecorruptions import corrupt as make

    if min(image.size) < SMALLEST_IMAGE:
        raise DataError(f"an image of {image.size[0]}x{image.size[1]} px is too small to corrupt: 32 px at least")
    # These two draw from generators of their own, unless they are told a seed.
    seed = {"seed": np.random.randint(2**31)} if corruption in ("impulse_noise", "glass_blur") else {}
    return Image.fromarray(make(np.asarray(image), corruption_name=corruption, severity=severity, **seed))
