"""What every task can say about a single image. Its own way of saying it is in `fastvit.tasks.<task>.prediction`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from fastvit.data.preprocessing import Preprocessing
from fastvit.training.task import Task


@dataclass(frozen=True)
class Shown:
    """How much of a prediction is told.

    Attributes:
        top: most probable classes of an image.
        score: that an object must have at least, from 0 to 1.
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
