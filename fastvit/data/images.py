"""From any source of images and labels to tensors and labels, with a policy for images that cannot be read."""

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from fastvit.data.notices import LeftOut, Notice, sentences
from fastvit.data.reading import UnreadableImage, as_rgb
from fastvit.errors import DataError

NO_LABEL = -1  # of an image that could not be read; metrics leave it out


class ImageSource(Protocol):
    """Pairs of an image and its label (or labels) by index. Reading may fail with `UnreadableImage` or an OSError."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image.Image, int]: ...


class TransformedImages(Dataset):
    """Images of a source, transformed.

    Args:
        source: images and labels.
        transform: from an RGB image to a tensor (3, H, W).
        on_bad_image: what to do about an image that cannot be read. "error": a `DataError` that names it. "skip": in
            training the next readable image takes its place, so that batches stay full; in validation it gets the
            label `no_label`, so that no other image counts twice.
        training: whether this is training data.
        no_label: stands for the label of an image that cannot be read.
    """

    def __init__(
        self,
        source: ImageSource,
        transform: Callable[[Image.Image], Tensor],
        *,
        on_bad_image: Literal["error", "skip"],
        training: bool,
        no_label: int | Tensor = NO_LABEL,
    ):
        self.source, self.transform, self.no_label = source, transform, no_label
        self.on_bad_image, self.training = on_bad_image, training
        # Shared with the worker processes, which are the ones to find out.
        self._unreadable = torch.zeros(len(source), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        for offset in range(len(self)):
            position = (index + offset) % len(self)
            try:
                image, label = self.source[position]
                return self.transform(as_rgb(image, upright=False)), label
            except UnreadableImage as error:
                self._on_bad_image(position, error.reason)
            except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # of what others read with Pillow
                self._on_bad_image(position, str(error))
            if not self.training:
                return self.transform(Image.new("RGB", (64, 64))), self.no_label
        raise DataError("none of the training images can be read")

    def notices(self) -> list[Notice]:
        """What the source says, files that are no images by their names, and images that could not be read."""
        names = getattr(self.source, "ignored", [])  # the same ones in all processes
        ignored = sentences(LeftOut("files that are not taken for images, by their names", name) for name in names)
        unread = [LeftOut("images that could not be read and are left out", name) for name in self.skipped()]
        return [*getattr(self.source, "notices", ()), *ignored, *unread]

    def skipped(self) -> list[str]:
        """The images that could not be read so far."""
        return [self.name(int(index)) for index in self._unreadable.nonzero()]

    def _on_bad_image(self, index: int, reason: str) -> None:
        if self.on_bad_image == "error":
            raise DataError(
                f"image {self.name(index)} cannot be read ({reason}); repair or remove it, "
                "or leave such images out with data.on_bad_image: skip"
            )
        self._unreadable[index] = True

    def name(self, index: int) -> str:
        """The file of an image, where the source knows it."""
        samples = getattr(self.source, "samples", None)  # torchvision's image folders know their files
        return str(samples[index][0]) if samples else f"number {index} of {type(self.source).__name__}"
