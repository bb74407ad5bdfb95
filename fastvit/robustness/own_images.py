"""The validation images of a run, corrupted as they are read."""

from dataclasses import dataclass

from torch import Tensor
from torchvision.transforms import Compose

from fastvit.data.images import ImageSource
from fastvit.data.reading import as_rgb
from fastvit.errors import RecipeError
from fastvit.robustness.classifier import halves
from fastvit.robustness.corruptions import corrupt
from fastvit.robustness.recipe import SetConfig
from fastvit.robustness.sets import Part
from fastvit.runtime.randomness import Purpose, seeded
from fastvit.tasks.classification.task import Classification


def validation_images(task: Classification) -> ImageSource:
    """Images and labels, as they are before the task transforms them. Raises RecipeError if they are a stream."""
    source = getattr(task.open_data("val").samples, "source", None)
    if source is None:
        raise RecipeError("corrupted_validation needs images that can be asked for one by one; the run's are a stream")
    return source


def corrupted_parts(source: ImageSource, config: SetConfig) -> list[Part]:
    """The images as they are, then with each corruption in each severity."""
    kinds = [(None, 0), *((each, severity) for each in config.corruptions for severity in config.severities)]
    return [Part(*kind, Corrupted(len(source), *kind)) for kind in kinds]


@dataclass(frozen=True)
class Corrupted:
    """All images of a source with one corruption: as numbers, for `CorruptedReader`."""

    count: int
    corruption: str | None
    severity: int

    def check(self) -> None:
        pass

    def samples(self) -> list[tuple[int, str | None, int]]:
        return [(index, self.corruption, self.severity) for index in range(self.count)]


class CorruptedReader:
    """Images of a source, resized and cropped, then corrupted, as ImageNet-C was made; the same whenever asked for."""

    def __init__(self, source: ImageSource, transform: Compose, seed: int):
        self.source, self.seed = source, seed
        self.crop, self.to_tensor = halves(transform)

    def __call__(self, sample: tuple[int, str | None, int]) -> tuple[Tensor, int]:
        index, corruption, severity = sample
        image, label = self.source[index]
        image = self.crop(as_rgb(image, upright=False))
        if corruption:
            with seeded(self.seed, Purpose.SAMPLE, index):
                image = corrupt(image, corruption, severity)
        return self.to_tensor(image), label
