"""Measuring a classifier on all sets of a robustness recipe."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from fastvit.errors import DataError, RecipeError, require_packages
from fastvit.robustness.classifier import Classifier
from fastvit.robustness.own_images import CorruptedReader, corrupted_parts, validation_images
from fastvit.robustness.recipe import RobustnessRecipe, SetConfig
from fastvit.robustness.sets import NUM_CLASSES, FileReader, Part, parts_of
from fastvit.runtime.data_workers import worker_options
from fastvit.runtime.device import autocast, best_device, to_device
from fastvit.runtime.processes import ALONE, Processes

Reader = Callable[[Any], tuple[Tensor, int | Tensor]]  # from a sample of a part to an image and its label


@dataclass(frozen=True)
class Figure:
    """One measured figure, and how its images were made."""

    set: str
    corruption: str | None
    severity: int
    image_size: int
    crop_pct: float | None  # None where nothing was resized
    top1: float  # percent
    samples: int


class ReadSamples(Dataset):
    """Whatever is asked for, read by the reader of its set: workers need no list of the images, and live on."""

    def __init__(self, readers: Mapping[str, Reader]):
        self.readers = readers

    def __getitem__(self, sample: tuple[str, Any]) -> tuple[Tensor, int | Tensor]:
        name, place = sample
        return self.readers[name](place)


class PartBatches(Sampler[list[tuple[str, Any]]]):
    """This process's share of one part after the other: `open` one, then iterate."""

    def __init__(self, batch_size: int, processes: Processes):
        self.batch_size, self.processes = batch_size, processes
        self.own: list[tuple[str, Any]] = []

    def open(self, name: str, part: Part) -> None:
        samples = part.images.samples()
        self.own = [(name, samples[index]) for index in self.processes.share(len(samples))]

    def __len__(self) -> int:
        return -(-len(self.own) // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[str, Any]]]:
        for start in range(0, len(self.own), self.batch_size):
            yield self.own[start : start + self.batch_size]


class Meter:
    """Measures one part after the other, with the same workers for all.

    Args:
        readers: of each set by its name.
    """

    def __init__(
        self, recipe: RobustnessRecipe, model: Classifier, readers: Mapping[str, Reader], processes: Processes
    ):
        self.recipe, self.classifier, self.processes = recipe, model, processes
        self.batches = PartBatches(recipe.batch_size, processes)
        self.loader = DataLoader(
            ReadSamples(readers),
            batch_sampler=self.batches,
            persistent_workers=recipe.workers > 0,
            **worker_options(recipe.workers, model.device),
        )

    @torch.inference_mode()
    def accuracy(self, name: str, part: Part) -> tuple[float, int]:
        """Top-1 in percent, and of how many images, over all processes; all of them call this."""
        device = self.classifier.device
        self.batches.open(name, part)
        hits, samples = torch.zeros((), dtype=torch.int64, device=device), 0
        shown = f"{part.corruption} {part.severity}" if part.corruption else name
        for batch in tqdm(self.loader, desc=shown, leave=False, disable=None if self.processes.is_main else True):
            images, labels = to_device(batch, device, channels_last=self.recipe.channels_last)
            with autocast(device, self.recipe.precision):
                logits = self.classifier.model(images)
            if part.classes is not None:
                logits = logits[:, part.classes.to(device)]
            predicted = logits.argmax(1)
            right = labels.gather(1, predicted[:, None]) if labels.ndim == 2 else predicted == labels
            hits, samples = hits + right.sum(), samples + len(images)
        hits, samples = (sum(each) for each in zip(*self.processes.gather((int(hits), samples)), strict=True))
        return 100 * hits / samples, samples


def missing_sets(recipe: RobustnessRecipe) -> list[str]:
    """The names of the sets that have no folder.

    Raises:
        DataError: there are some, and the recipe does not allow it, or none is left.
    """
    missing = [name for name, each in recipe.sets.items() if each.folder and not recipe.path(each).is_dir()]
    if missing and not (recipe.skip_missing and len(missing) < len(recipe.sets)):
        folder = recipe.path(recipe.sets[missing[0]])
        raise DataError(
            f"{folder} is not a folder: there are no images for {missing[0]}; say where the sets are: root=FOLDER"
        )
    return missing


def measure(recipe: RobustnessRecipe, processes: Processes = ALONE) -> Iterator[Figure]:
    """Every figure of the recipe that can be measured, as it is measured, in all processes.

    Raises:
        UserError: the model or a set cannot be used. All that is quick to check is checked before the first figure.
    """
    missing = missing_sets(recipe)
    present = {name: each for name, each in recipe.sets.items() if name not in missing}
    if any(each.kind == "corrupted_validation" for each in present.values()):
        require_packages("making corruptions", "imagecorruptions", extra="corruptions")
    classifier = Classifier(recipe, best_device(processes.local_rank))
    opened = {name: _open_set(classifier, recipe, name, config) for name, config in present.items()}
    parts = [(name, part) for name, (_, parts) in opened.items() for part in parts]
    processes.on_main(lambda: _check(parts))
    meter = Meter(recipe, classifier, {name: reader for name, (reader, _) in opened.items()}, processes)
    for name, part in parts:
        geometry = classifier.geometry(present[name])
        yield Figure(name, part.corruption, part.severity, *geometry, *meter.accuracy(name, part))


def _check(parts: Sequence[tuple[str, Part]]) -> None:
    for _, part in parts:
        part.images.check()


def _open_set(
    classifier: Classifier, recipe: RobustnessRecipe, name: str, config: SetConfig
) -> tuple[Reader, list[Part]]:
    transform = classifier.transform(config)
    if config.kind == "corrupted_validation":
        source = validation_images(classifier.task)
        return CorruptedReader(source, transform, recipe.seed), corrupted_parts(source, config)
    if classifier.num_classes != NUM_CLASSES:
        raise RecipeError(f"{name} is about ImageNet's {NUM_CLASSES} classes, the model knows {classifier.num_classes}")
    return FileReader(transform), parts_of(config, recipe.path(config))
