"""How good the predicted sets of labels are."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastvit.data.images import NO_LABEL
from fastvit.errors import DataError
from fastvit.training.task import Metrics

THRESHOLD = 0.5  # of the probability from which on a label counts as predicted


class MultiLabelMetrics(Metrics):
    """Mean average precision, F1 over all decisions (micro) and as a mean over the labels (macro), in percent; loss.

    F1 is of the labels with a probability of at least `THRESHOLD`. Labels that no image has count in none of the means
    over labels. Images that could not be read do not count.
    """

    def __init__(self) -> None:
        self.logits: list[Tensor] = []  # (B, classes) of each batch
        self.labels: list[Tensor] = []  # (B, classes) of 0 and 1

    def update(self, outputs: Tensor, batch: tuple[Tensor, Tensor]) -> None:
        self.logits.append(outputs.float())
        self.labels.append(batch[1])

    def merge(self, other: "MultiLabelMetrics") -> None:
        self.logits += other.logits
        self.labels += other.labels

    def report(self) -> dict[str, float]:
        logits, labels = self.readable()
        counts = count(logits, labels)
        if not counts.true.any():
            raise DataError("no validation image has a label")
        over_all = Counts(*(each.sum() for each in counts))
        return {
            "mAP": 100 * float(np.nanmean(average_precisions(logits, labels))),
            "f1_micro": 100 * over_all.f1().item(),
            "f1_macro": 100 * counts.f1()[counts.true > 0].mean().item(),
            "loss": F.binary_cross_entropy_with_logits(logits, labels).item(),
            "samples": len(labels),
        }

    def readable(self) -> tuple[Tensor, Tensor]:
        """Logits and labels of the images that could be read, (N, classes) each, in float64, on the CPU."""
        logits, labels = torch.cat(self.logits).cpu().double(), torch.cat(self.labels).cpu().double()
        known = (labels != NO_LABEL).all(1)
        if not known.any():
            raise DataError("none of the validation images can be read")
        return logits[known], labels[known]

    def same_predictions(self, other: "MultiLabelMetrics") -> int:
        own, others = (torch.cat(each.logits) >= 0 for each in (self, other))
        known = torch.cat(self.labels) != NO_LABEL
        return int(((own == others) & known).all(1).sum())


class Counts(NamedTuple):
    """How many images of each label (classes,): those that have it, those that are said to, and those of both."""

    true: Tensor
    said: Tensor
    hits: Tensor

    def f1(self) -> Tensor:
        """(classes,) float64, from 0 to 1; NaN where the label neither is nor is said to be on any image."""
        return 2 * self.hits.double() / (self.true + self.said)


def count(logits: Tensor, labels: Tensor) -> Counts:
    """Of logits and labels (N, classes) each."""
    true, said = labels == 1, logits >= 0
    return Counts(*(each.sum(0) for each in (true, said, true & said)))


def average_precisions(logits: Tensor, labels: Tensor) -> Sequence[float]:
    """(classes,), from 0 to 1; NaN where no image has the label.

    The sum over the thresholds of the precision times the gain in recall, without interpolation.

    Args:
        logits, labels: (N, classes).
    """
    from sklearn.metrics import average_precision_score

    pairs = zip(labels.T.numpy(), logits.T.numpy(), strict=True)
    return [average_precision_score(true, score) if true.any() else float("nan") for true, score in pairs]
