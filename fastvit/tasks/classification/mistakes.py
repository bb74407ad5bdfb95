"""The wrong answers of which a classifier was surest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
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


@dataclass(frozen=True)
class Mistake:
    """A wrong answer.

    Attributes:
        index: the position of the image in the data.
        said: the class that the answer is about.
        probability: of that class.
        true: what is true, as a position among the names of the picture.
    """

    index: int
    said: int
    probability: float
    true: int


def surest_mistakes(metrics: ClassificationMetrics, count: int = SHOWN) -> list[Mistake]:
    """The wrong predictions, the surest first."""
    labels, ranked, confidences = (torch.cat(parts) for parts in (metrics.labels, metrics.ranked, metrics.confidences))
    wrong = (labels != NO_LABEL) & (ranked[:, 0] != labels)
    order = confidences.where(wrong, -1).argsort(descending=True, stable=True)[: min(count, int(wrong.sum()))]
    columns = (order, ranked[order, 0], confidences[order], labels[order])
    return [Mistake(*each) for each in zip(*(column.tolist() for column in columns), strict=True)]


def draw_mistakes(
    mistakes: Sequence[Mistake],
    names: Sequence[str],
    data: Part,
    normalization: Normalization,
    *,
    explain_with: nn.Module | None,
) -> "Figure | None":
    """A picture of them; None if there are none, or if the data is a stream, whose images are gone by then.

    Args:
        names: of what may be true; the classes first.
        explain_with: the network, to show the places that speak for what it said.
    """
    if not mistakes or isinstance(data.samples, IterableDataset):
        return None
    images = torch.stack([data.samples[each.index][0] for each in mistakes])
    said = [each.said for each in mistakes]
    pictures = normalization.undo(images)
    hot = None
    if explain_with is not None:
        device = next(explain_with.parameters()).device
        hot = heated(pictures, grad_cam(explain_with, images.to(device), said).cpu())
    probabilities, true = [each.probability for each in mistakes], [each.true for each in mistakes]
    return mistake_grid(pictures, said, probabilities, true, names, heated=hot)
