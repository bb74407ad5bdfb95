"""What a network says about any image: the same for all tasks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

from PIL import Image


class Prediction(Protocol):
    """What was predicted about one image, in its own pixels."""

    def rows(self) -> list[dict[str, Any]]:
        """Plain values, fit for JSON or a table: one row for each thing that was found."""

    def draw(self, image: Image.Image) -> Image.Image:
        """A picture of it on the image that it is about."""


class Predictor(ABC):
    """A network, and all that it takes to get from an image to a prediction.

    `predictor(image)` predicts about one image. To predict about many, `prepare` each where it is read, such as in a
    worker process, and `predict` many at a time.
    """

    @abstractmethod
    def prepare(self, image: Image.Image) -> Any:
        """What the network takes of an image (RGB) of any size; can be sent to another process."""

    @abstractmethod
    def predict(self, prepared: Sequence[Any]) -> list[Prediction]:
        """A prediction for each image. It does not depend on which others are predicted with it."""

    def __call__(self, image: Image.Image) -> Prediction:
        """The prediction about an image of any size."""
        (prediction,) = self.predict([self.prepare(image)])
        return prediction
