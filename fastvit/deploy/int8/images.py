"""The images that ranges are measured on, and the others, which the result is judged on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastvit.errors import DataError

LEAST_CALIBRATION, LEAST_VALIDATION = 16, 50
UNKNOWN = -1


@dataclass(frozen=True)
class Samples:
    """Normalized images (N, 3, H, W) and their labels (N,), `UNKNOWN` where there is none."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)


def split(samples: Sequence[tuple[Tensor, int]], calibration: int, seed: int = 0) -> tuple[Samples, Samples]:
    """Random `calibration` of the samples, but at most half of them, and all others.

    Raises:
        DataError: there are too few to say anything.
    """
    count = min(calibration, len(samples) // 2)
    if count < LEAST_CALIBRATION or len(samples) - count < LEAST_VALIDATION:
        raise DataError(
            f"{len(samples)} images are too few: {LEAST_CALIBRATION} to calibrate on and {LEAST_VALIDATION} others to "
            "validate on are the least, some hundreds of each are better"
        )
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed)).tolist()
    return _gather(samples, order[:count]), _gather(samples, order[count:])


def _gather(samples: Sequence[tuple[Tensor, int]], indices: list[int]) -> Samples:
    images, labels = zip(*(samples[index] for index in indices), strict=True)
    return Samples(torch.stack(images), torch.tensor(labels))
