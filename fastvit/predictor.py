"""What every task can say about a single image; how each says it is in its own room."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from PIL import Image

from fastvit.data.preprocessing import Preprocessing
from fastvit.errors import RunError
from fastvit.training.task import Task

# Of exported files with their preprocessing inside.
IMAGE_CLASSIFICATION = "classification of images as they are"
IMAGE_MULTI_LABEL = "multi_label of images as they are"

CLASSIFIERS = ("classification", "multi_label")

PREDICTORS = {  # module in `fastvit.tasks`, and class
    "classification": ("classification.prediction", "Classifier"),
    IMAGE_CLASSIFICATION: ("classification.prediction", "ImageClassifier"),
    "multi_label": ("multi_label.prediction", "SeveralLabels"),
    IMAGE_MULTI_LABEL: ("multi_label.prediction", "ImageSeveralLabels"),
    "segmentation": ("segmentation.prediction", "Segmenter"),
    "detection": ("detection.prediction", "Detector"),
    "hand_mesh": ("hand_mesh.predictor", "HandPredictor"),
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
    def rows(self, shown: Shown) -> list[tuple[Any, ...]]:
        """Lines of a table with `Predictor.columns`: one for the image, or one for each object in it."""

    @abstractmethod
    def to_dict(self, shown: Shown) -> dict[str, Any]:
        """The same, ready for JSON."""

    @abstractmethod
    def summary(self, shown: Shown) -> str:
        """The same for people, in one line."""

    def mask(self) -> Image.Image | None:
        """A picture of the image's size whose pixels are classes, where that is what is predicted."""
        return None

    @abstractmethod
    def draw(self, image: Image.Image, shown: Shown) -> Image.Image:
        """A picture of it: the image with what was predicted."""


class Predictor(ABC):
    """From images to predictions, with one network.

    Args:
        network: in eval mode, on `device`; or an exported file as a function of images on the CPU.
        device: where the network takes its images.
        preprocessing: what images go through; None if it is not known.
        labels: names of the classes, where there are any.
        task: of a run or a recipe, whose settings may matter; else None.
    """

    def __init__(
        self,
        network: Callable[..., Any],
        *,
        device: torch.device,
        preprocessing: Preprocessing | None,
        labels: Sequence[str] | None,
        task: Task | None = None,
    ):
        self.network, self.device = network, device
        self.preprocessing, self.labels, self.task = preprocessing, labels, task

    @abstractmethod
    def columns(self, shown: Shown) -> tuple[str, ...]:
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


def find_predictor(
    task: str | None, preprocessing: Preprocessing | None, labels: Sequence[str] | None, settings: Task | None
) -> type[Predictor]:
    """The predictor of a task. Raises RunError, whose subject is the network, if there is none, or it needs more."""
    if task is None:
        raise RunError("gives features, which say nothing about an image by themselves: fastvit embed writes them")
    if task not in PREDICTORS:
        raise RunError(f"is for {task}, for which single images cannot be predicted: use fastvit evaluate")
    needed = {"preprocessing": preprocessing, "labels": labels}
    if missing := [name for name, value in needed.items() if value is None and task in CLASSIFIERS]:
        raise RunError(f"was exported without {' and '.join(missing)}: it cannot name what is in an image")
    if task not in (*CLASSIFIERS, IMAGE_CLASSIFICATION, IMAGE_MULTI_LABEL) and settings is None:
        raise RunError(f"is an exported file for {task}, which does not say its settings: name the run that it is from")
    module, name = PREDICTORS[task]
    return getattr(import_module(f"fastvit.tasks.{module}"), name)
