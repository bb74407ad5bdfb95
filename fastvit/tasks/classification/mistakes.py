"""The images about which a classifier was most surely wrong."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from fastvit.data.images import NO_LABEL
from fastvit.data.normalization import Normalization
from fastvit.explain import grad_cam, heated
from fastvit.tasks.classification.metrics import ClassificationMetrics
from fastvit.tasks.classification.picture import mistake_grid
from fastvit.training.task import Part

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 30


def most_confident_mistakes(metrics: ClassificationMetrics, count: int = SHOWN) -> list[int]:
    """The positions of the wrong predictions in the data, the surest first."""
    labels, ranked, confidences = (torch.cat(parts) for parts in (metrics.labels, metrics.ranked, metrics.confidences))
    wrong = (labels != NO_LABEL) & (ranked[:, 0] != labels)
    order = confidences.where(wrong, -1).argsort(descending=True, stable=True)
    return order[: min(count, int(wrong.sum()))].tolist()


def draw_mistakes(
    metrics: ClassificationMetrics, data: Part, normalization: Normalization, *, explain_with: nn.Module | None
) -> "Figure | None":
    """A picture of them; None if there are none, or if the data is a stream, whose images are gone by then."""
    chosen = most_confident_mistakes(metrics)
    if not chosen or isinstance(data.samples, IterableDataset):
        return None
    images = torch.stack([data.samples[index][0] for index in chosen])
    labels, ranked, confidences = (
        torch.cat(parts)[chosen].tolist() for parts in (metrics.labels, metrics.ranked, metrics.confidences)
    )
    predicted = [best for best, *_ in ranked]
    pictures = normalization.undo(images)
    hot = None if explain_with is None else heated_by(explain_with, images, predicted, pictures)
    return mistake_grid(pictures, predicted, confidences, labels, data.class_names, heated=hot)


def heated_by(network: nn.Module, images: Tensor, classes: list[int], pictures: Tensor) -> Tensor:
    """The pictures of images under the places that speak for these classes: (N, 3, H, W), colors from 0 to 1."""
    device = next(network.parameters()).device
    return heated(pictures, grad_cam(network, images.to(device), classes).cpu())
