"""Which labels single images have."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastvit.data.listing import SEPARATOR
from fastvit.predictor import Shown
from fastvit.tasks.classification.prediction import Classes, Classifier, ImageClassifier


@dataclass(frozen=True)
class Labels(Classes):
    """The labels of an image. Each probability, of (classes,), is for itself: they do not sum to 1."""

    def above(self, score: float) -> list[str]:
        """The labels that have at least this probability, the most probable first."""
        return [name for name, probability in self.best(len(self.names)) if probability >= score]

    def rows(self, shown: Shown = Shown()) -> list[tuple[Any, ...]]:
        return [(SEPARATOR.join(self.above(shown.score)), *row) for row in super().rows(shown)]

    def to_dict(self, shown: Shown = Shown()) -> dict[str, Any]:
        best = super().to_dict(shown)
        return {"labels": self.above(shown.score), "best": best["labels"], "probabilities": best["probabilities"]}

    def summary(self, shown: Shown = Shown()) -> str:
        there = self.above(shown.score)
        best = super().summary(shown)
        return f"{', '.join(there) if there else 'no label'} ({best})"


class SeveralLabels(Classifier):
    """The probability of each label, of images that are resized and cropped as in validation."""

    prediction = Labels

    def columns(self, shown: Shown = Shown()) -> tuple[str, ...]:
        return ("labels", *super().columns(shown))

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()


class ImageSeveralLabels(ImageClassifier, SeveralLabels):
    """The same by an exported file with its preprocessing inside."""
