"""The wrong answers about single labels of which a network was surest."""

import torch

from fastvit.data.images import NO_LABEL
from fastvit.tasks.classification.mistakes import SHOWN, Mistake
from fastvit.tasks.multi_label.metrics import MultiLabelMetrics

TRUTHS = ("not there", "there")  # after the names of the labels


def surest_mistakes(metrics: MultiLabelMetrics, count: int = SHOWN) -> list[Mistake]:
    """Labels that were seen in an image that does not have them, or not seen in one that has; the surest first."""
    logits, labels = torch.cat(metrics.logits).cpu(), torch.cat(metrics.labels).cpu().long()
    wrong = (labels != NO_LABEL) & ((logits >= 0) != (labels == 1))
    order = logits.abs().where(wrong, -1).flatten().argsort(descending=True, stable=True)
    count, classes = min(count, int(wrong.sum())), labels.shape[1]
    places = [divmod(place, classes) for place in order[:count].tolist()]
    return [Mistake(i, k, logits[i, k].sigmoid().item(), classes + int(labels[i, k])) for i, k in places]
