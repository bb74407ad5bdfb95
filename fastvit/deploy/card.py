"""What belongs to a trained network, and travels with it wherever it goes."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from fastvit.data.preprocessing import Preprocessing


@dataclass(frozen=True)
class Card:
    """All that a file of weights does not say.

    Attributes:
        preprocessing: what images go through before; None if unknown. Predicting on image files and Core ML need it.
        labels: names of the classes, in the order of the output; None where there are none.
        weights: where they come from, in words.
        architecture: {"name": ..., "options": ...}: `timm.create_model(name, **options)` is the unfused network. None:
            timm does not build it.
        task: what it was trained for; None if unknown. Of "multi_label" an image has several of the labels.
        licence: of published weights that these are or were made from, as timm calls it; "" where nothing is said.
        settings: what prediction needs besides the network, the preprocessing and the labels; None if nothing.
        recipe: what a network that is no classifier was trained by, to evaluate it by; None if unknown.
    """

    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] | None = None
    weights: str = "not stated"
    architecture: Mapping[str, Any] | None = None
    task: str | None = None
    licence: str = ""
    settings: Mapping[str, Any] | None = None
    recipe: Mapping[str, Any] | None = None

    @property
    def classifies(self) -> bool:
        """Whether the labels are of whole images, and not of pixels."""
        return self.labels is not None and self.task != "segmentation"

    @property
    def several_labels(self) -> bool:
        """Whether each label has a probability of its own; else they sum to 1."""
        return self.task == "multi_label"

    def probabilities(self) -> nn.Module:
        """From outputs (B, classes) to probabilities."""
        return nn.Sigmoid() if self.several_labels else nn.Softmax(dim=1)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        said["labels"] = self.labels and list(self.labels)
        said["preprocessing"] = self.preprocessing and self.preprocessing.to_dict()
        return said

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Card":
        """Of the JSON file beside an exported network; what else is in there does not matter."""
        said = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        preprocessing, labels = values["preprocessing"], values["labels"]
        said["preprocessing"] = preprocessing and Preprocessing.from_dict(preprocessing)
        said["labels"] = labels and tuple(labels)
        return cls(**said)
