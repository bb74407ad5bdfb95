"""How well the predicted label maps fit."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fastvit.errors import DataError
from fastvit.tasks.segmentation.masks import UNLABELLED
from fastvit.training.task import Metrics

Batch = tuple[Tensor | list[Tensor], Tensor | list[Tensor]]  # images and label maps, each one tensor if of one size


class SegmentationMetrics(Metrics):
    """Mean intersection over union, mean and pixel accuracy in percent, over all pixels with a label.

    Each is of all images together, not a mean over images. A class that is neither in the labels nor predicted does not
    count in the mean IoU, one that is not in the labels not in the mean accuracy.
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.long)  # [label, prediction]: pixels
        self.samples = 0

    def update(self, outputs: list[Tensor], batch: Batch) -> None:
        for predicted, (_, labels) in zip(outputs, same_sizes(batch), strict=True):
            counts = labels != UNLABELLED
            pairs = labels[counts].long() * self.num_classes + predicted[counts].long()
            confusion = torch.bincount(pairs, minlength=self.num_classes**2).view(self.num_classes, -1)
            self.confusion = self.confusion.to(confusion.device) + confusion
            self.samples += len(labels)

    def merge(self, other: "SegmentationMetrics") -> None:
        self.confusion = self.confusion.cpu() + other.confusion
        self.samples += other.samples

    def class_iou(self) -> Tensor:
        """(classes,) float64 from 0 to 1; nan for a class that is neither in the labels nor predicted."""
        confusion = self.confusion.cpu().double()
        hits = confusion.diagonal()
        return hits / (confusion.sum(0) + confusion.sum(1) - hits)

    def report(self) -> dict[str, float]:
        confusion = self.confusion.cpu().double()
        if not confusion.any():
            raise DataError("no pixel of the validation masks has a label")
        hits = confusion.diagonal()
        return {
            "miou": 100 * self.class_iou().nanmean().item(),
            "mean_accuracy": 100 * (hits / confusion.sum(1)).nanmean().item(),
            "pixel_accuracy": 100 * (hits.sum() / confusion.sum()).item(),
            "samples": self.samples,
        }


def same_sizes(batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    """The batch if it is one tensor each, else each of its samples as a batch of one."""
    images, labels = batch
    if isinstance(images, Tensor) and isinstance(labels, Tensor):
        yield images, labels
    else:
        yield from ((image[None], label[None]) for image, label in zip(images, labels, strict=True))
