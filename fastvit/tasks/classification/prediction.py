"""What a classifier says about single images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from fastvit.data.lettering import legible, pillow_font, shortened
from fastvit.data.preprocessing import Preprocessing
from fastvit.errors import RunError
from fastvit.explain import grad_cam, heated
from fastvit.predictor import Prediction, Predictor, Shown
from fastvit.tasks.drawing import ENLARGED_SIDE

PICTURE_HEIGHT, BARS_WIDTH, LINE = 256, 320, 36  # pixels of the picture of a prediction
LONGEST_NAME = 36  # letters of a class beside a bar


@dataclass(frozen=True)
class Classes(Prediction):
    """The classes of an image.

    Attributes:
        names: of all classes.
        probabilities: (classes,), which sum to 1.
    """

    names: tuple[str, ...]
    probabilities: Tensor

    def best(self, count: int = 5) -> list[tuple[str, float]]:
        """The most probable classes with their probabilities, the first first."""
        values, indices = self.probabilities.topk(min(count, len(self.names)))
        return [(self.names[index], value) for index, value in zip(indices.tolist(), values.tolist(), strict=True)]

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.best(1)[0][0]

    def rows(self, shown: Shown = Shown()) -> list[tuple[Any, ...]]:
        return [tuple(value for name, probability in self.best(shown.top) for value in (name, f"{probability:.6f}"))]

    def to_dict(self, shown: Shown = Shown()) -> dict[str, Any]:
        best = self.best(shown.top)
        return {"labels": [name for name, _ in best], "probabilities": [round(each, 6) for _, each in best]}

    def summary(self, shown: Shown = Shown()) -> str:
        return ", ".join(f"{name} {probability:.2%}" for name, probability in self.best(shown.top))

    def draw(self, image: Image.Image, shown: Shown = Shown()) -> Image.Image:
        """The image, and beside it its most probable classes as bars."""
        best = self.best(shown.top)
        height = max(PICTURE_HEIGHT, LINE * len(best) + 8)
        scale = min(height / image.height, ENLARGED_SIDE / image.width)
        image = image.resize((max(1, int(scale * image.width)), max(1, round(scale * image.height))))
        picture = Image.new("RGB", (image.width + BARS_WIDTH, height), "white")
        picture.paste(image)
        pen = ImageDraw.Draw(picture)
        names = [name for name, _ in best]
        names, font = legible(names, [self.names.index(name) for name in names])
        for line, (name, (_, probability)) in enumerate(zip(names, best, strict=True)):
            left, top = image.width + 10, 6 + line * LINE
            text = f"{shortened(name, LONGEST_NAME)}  {probability:.1%}"
            pen.text((left, top), text, fill="black", font=pillow_font(font, 14))
            pen.rectangle((left, top + 20, left + probability * (BARS_WIDTH - 20), top + 28), fill="steelblue")
        return picture


class Classifier(Predictor):
    """The probabilities of all classes, of images that are resized and cropped as in validation."""

    preprocessing: Preprocessing
    labels: tuple[str, ...]
    prediction = Classes

    def columns(self, shown: Shown = Shown()) -> tuple[str, ...]:
        more = range(2, min(shown.top, len(self.labels)) + 1)
        return ("label", "probability", *(f"{name}_{i}" for i in more for name in ("label", "probability")))

    def prepare(self, image: Image.Image) -> Tensor:
        return self.preprocessing.crop(image)

    @torch.inference_mode()
    def predict(self, prepared: Sequence[Tensor]) -> list[Classes]:
        crops = torch.stack(tuple(prepared)).to(self.device, memory_format=torch.channels_last)
        logits = self.network(self.preprocessing.normalize(crops))
        return [self.prediction(self.labels, each) for each in self.probabilities(logits.float()).cpu()]

    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, classes), from the network's outputs."""
        return logits.softmax(dim=1)

    def explain(self, image: Image.Image) -> Image.Image:
        crop = self.prepare(image)
        (heat,) = grad_cam(self.network, self.preprocessing.normalize(crop[None].to(self.device)))
        return to_pil_image(heated(crop / 255, heat.cpu()))


class ImageClassifier(Classifier):
    """The same by an exported file with its preprocessing inside."""

    def prepare(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image)

    def explain(self, image: Image.Image) -> Image.Image:
        raise RunError("an exported file has no gradients: name the run that it is from")

    def predict(self, prepared: Sequence[np.ndarray]) -> list[Classes]:
        return [self.prediction(self.labels, self.network(image)) for image in prepared]
