"""What every task can say about a single image; how each says it is in its own room."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from PIL import Image

from fastvit.data.preprocessing import Preprocessing
from fastvit.errors import RunError

__all__ = ["Prediction", "Predictor", "Shown"]

# Of exported files with their preprocessing inside.
IMAGE_CLASSIFICATION = "classification of images as they are"
IMAGE_MULTI_LABEL = "multi_label of images as they are"

CLASSIFIERS = ("classification", "multi_label")

PREDICTORS = {  # module in `fastvit.tasks`, class, and what it cannot do without
    "classification": ("classification.prediction", "Classifier", ("preprocessing", "labels")),
    IMAGE_CLASSIFICATION: ("classification.prediction", "ImageClassifier", ("labels",)),
    "multi_label": ("multi_label.prediction", "SeveralLabels", ("preprocessing", "labels")),
    IMAGE_MULTI_LABEL: ("multi_label.prediction", "ImageSeveralLabels", ("labels",)),
    "segmentation": ("segmentation.prediction", "Segmenter", ("preprocessing", "labels", "settings")),
    "detection": ("detection.prediction", "Detector", ("labels",)),
    "hand_mesh": ("hand_mesh.prediction", "HandPredictor", ("preprocessing", "settings")),
}


@dataclass(frozen=True)
class Shown:
    """How much of a prediction is told.

    Attributes:
        top: most probable classes of an image.
        score: that an object, or one of several labels, must have at least, from 0 to 1.
    """

    top: int = 5
    score: float = 0.5


class Prediction(ABC):
    """What a network says about one image, in that image's own pixels."""

    @abstractmethod
    def rows(self, shown: Shown = Shown()) -> list[tuple[Any, ...]]:
        """Lines of a table with `Predictor.columns`: one for the image, or one for each object in it."""

    @abstractmethod
    def to_dict(self, shown: Shown = Shown()) -> dict[str, Any]:
        """The same, ready for JSON."""

    @abstractmethod
    def summary(self, shown: Shown = Shown()) -> str:
        """The same for people, in one line."""

    def mask(self) -> Image.Image | None:
        """A picture of the image's size whose pixels are classes, where that is what is predicted."""
        return None

    @abstractmethod
    def draw(self, image: Image.Image, shown: Shown = Shown()) -> Image.Image:
        """A picture of it: the image with what was predicted."""


class Predictor(ABC):
    """From images to predictions, with one network.

    Args:
        network: in eval mode, on `device`; or an exported file as a function of images on the CPU.
        device: where the network takes its images.
        preprocessing: what images go through; None if it is not known.
        labels: names of the classes, where there are any.
        settings: what the task says besides, as `Task.prediction_settings`.
    """

    def __init__(
        self,
        network: Callable[..., Any],
        *,
        device: torch.device,
        preprocessing: Preprocessing | None,
        labels: Sequence[str] | None,
        settings: Mapping[str, Any] | None = None,
    ):
        self.network, self.device = network, device
        self.preprocessing, self.labels, self.settings = preprocessing, labels, settings or {}

    @abstractmethod
    def columns(self, shown: Shown = Shown()) -> tuple[str, ...]:
        """Of a table of predictions, after the one for the image."""

    @abstractmethod
    def prepare(self, image: Image.Image) -> Any:
        """An RGB image made ready for a batch, on the CPU. Several threads do this at once."""

    @abstractmethod
    def predict(self, prepared: Sequence[Any]) -> list[Prediction]:
        """What the network says about a batch of them."""

    def explain(self, image: Image.Image) -> Image.Image:
        """The part of an RGB image that the network sees, colored where it speaks for the most probable class.

        Raises RunError where there is no such picture.
        """
        raise RunError("only what a classifier says can be explained")


def find_predictor(task: str | None, known: Mapping[str, Any]) -> type[Predictor]:
    """The predictor of a task.

    Args:
        known: preprocessing, labels and settings of a network, as the predictor takes them; None or empty if unknown.

    Raises:
        RunError: there is no predictor, or it needs to know more. The subject of the sentence is the network.
    """
    if task is None:
        raise RunError("gives features, which say nothing about an image by themselves: fastvit embed writes them")
    if task not in PREDICTORS:
        raise RunError(f"is for {task}, for which single images cannot be predicted: use fastvit evaluate")
    module, name, needed = PREDICTORS[task]
    if missing := [each for each in needed if not known[each]]:
        raise RunError(f"was exported without {', '.join(missing)}, which prediction needs: export it again")
    return getattr(import_module(f"fastvit.tasks.{module}"), name)
