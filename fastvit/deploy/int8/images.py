"""The images that ranges are measured on, and others, which the result is judged on."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from fastvit.errors import DataError

LEAST_CALIBRATION, LEAST_VALIDATION = 16, 50
MOST_VALIDATION = 2000


class Samples:
    """Some samples of a dataset, read when they are needed and not kept. Those that cannot be read are left out.

    Args:
        source: pairs of a normalized image (3, H, W) and its label, `fastvit.data.images.NO_LABEL` where there is none;
            by index, or an `IterableDataset`.
        indices: which of them, in ascending order; by default all.

    Attributes:
        unreadable: how many could not be read the last time.
    """

    def __init__(self, source: Any, indices: Sequence[int] | None = None):
        self.source = source
        self.indices = range(len(source)) if indices is None else indices
        self.unreadable = 0

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        """Pairs of an image (1, 3, H, W) and its label."""
        self.unreadable = 0
        for image, label in self._read():
            yield image[None].contiguous(), int(label)

    def images(self) -> Tensor:
        """All of them: (N, 3, H, W)."""
        images = [image for image, _ in self]
        if not images:
            raise DataError("none of the images to calibrate on can be read")
        return torch.cat(images)

    def _read(self) -> Iterable[tuple[Tensor, int]]:
        if isinstance(self.source, IterableDataset):
            wanted = set(self.indices)
            yield from (sample for index, sample in enumerate(self.source) if index in wanted)
            return
        for index in self.indices:
            try:
                yield self.source[index]
            except DataError:  # an image that cannot be read
                self.unreadable += 1


def split(source: Any, calibration: int, validation: int = MOST_VALIDATION) -> tuple[Samples, Samples]:
    """Images to calibrate on, at most half of all, and others to validate on, at most `validation`.

    Of few images, fewer are calibrated on, so that there are enough to validate on.

    Both are drawn evenly over the dataset: one from each of as many equal parts of its order. Where it is sorted by
    classes, as a folder is, all classes are there in proportion.

    Args:
        source: as of `Samples`, with a length.

    Raises:
        DataError: there are too few to say anything.
    """
    if calibration < LEAST_CALIBRATION:
        raise DataError(f"{calibration} images to calibrate on are too few: {LEAST_CALIBRATION} are the least")
    total = len(source)
    count = min(calibration, total // 2, total - LEAST_VALIDATION)
    if count < LEAST_CALIBRATION or min(total - count, validation) < LEAST_VALIDATION:
        raise DataError(
            f"{total} images are too few: {LEAST_CALIBRATION} to calibrate on and {LEAST_VALIDATION} others to "
            "validate on are the least, some hundreds of each are better"
        )
    generator = torch.Generator().manual_seed(0)
    drawn = _one_of_each_part(range(total), min(count + validation, total), generator)
    to_calibrate = _one_of_each_part(drawn, count, generator)
    others = set(to_calibrate)
    return Samples(source, to_calibrate), Samples(source, [index for index in drawn if index not in others])


def _one_of_each_part(items: Sequence[int], parts: int, generator: torch.Generator) -> list[int]:
    """A random one of each of `parts` equal parts; all of them where there are as many parts as items."""
    edges = [len(items) * part // parts for part in range(parts + 1)]
    return [items[int(torch.randint(low, high, (), generator=generator))] for low, high in pairwise(edges)]
