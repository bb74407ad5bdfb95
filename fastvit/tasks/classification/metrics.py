"""How good the predicted labels are."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvit.data.images import NO_LABEL
from fastvit.errors import DataError
from fastvit.training.task import Metrics


class ClassificationMetrics(Metrics):
    """Top-1 and top-5 in percent (top-5 from six classes on), mean cross entropy, number of images.

    Images without a label, which could not be read, do not count.
    """

    def __init__(self) -> None:
        self.labels: list[Tensor] = []  # (B,) of each batch
        self.ranked: list[Tensor] = []  # (B, 5): the most probable classes, the first first; fewer if there are fewer
        self.confidences: list[Tensor] = []  # (B,): probability of the first
        self.losses: list[Tensor] = []  # (B,)
        self.num_classes = 0

    def update(self, outputs: Tensor, batch: tuple[Tensor, Tensor]) -> None:
        _, labels = batch
        logits = outputs.float()
        self.num_classes = logits.shape[1]
        self.labels.append(labels)
        self.ranked.append(logits.topk(min(5, self.num_classes)).indices)
        self.confidences.append(logits.softmax(1).amax(1))
        self.losses.append(F.cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="none"))

    def merge(self, other: "ClassificationMetrics") -> None:
        self.labels += other.labels
        self.ranked += other.ranked
        self.confidences += other.confidences
        self.losses += other.losses
        self.num_classes = max(self.num_classes, other.num_classes)  # none where there was no batch

    def report(self) -> dict[str, float]:
        labels, ranked, losses = torch.cat(self.labels), torch.cat(self.ranked), torch.cat(self.losses)
        counts = labels != NO_LABEL
        if not counts.any():
            raise DataError("none of the validation images can be read")
        hits = ranked[counts] == labels[counts, None]  # (N, 5)
        report = {"top1": _percent(hits[:, 0])}
        if self.num_classes > 5:
            report["top5"] = _percent(hits.any(1))
        return {**report, "loss": losses[counts].cpu().double().mean().item(), "samples": len(hits)}

    def same_predictions(self, other: "ClassificationMetrics") -> int:
        same = torch.cat(self.ranked)[:, 0] == torch.cat(other.ranked)[:, 0]
        return int((same & (torch.cat(self.labels) != NO_LABEL)).sum())


def _percent(hits: Tensor) -> float:
    return 100 * int(hits.sum()) / len(hits) if len(hits) else 0.0
