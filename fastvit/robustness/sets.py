"""The sets of images, with labels that are right whatever the order of their folders."""

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from timm.data import ImageNetInfo, RealLabelsImagenet
from torch import Tensor

from fastvit.data.reading import is_image, read_image
from fastvit.errors import DataError
from fastvit.robustness.recipe import SetConfig

NUM_CLASSES = 1000  # of ImageNet-1k

Labelled = tuple[Path, int | tuple[int, ...]]  # an image file, and its class or all classes that are right


class Images(Protocol):
    """The images of a part, as what a reader of the same set takes: nothing is read before it is asked for."""

    def check(self) -> None:
        """Raise `DataError` if folders are missing or too many; quick."""

    def samples(self) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Part:
    """Images that one figure is about.

    Attributes:
        corruption, severity: None and 0 where the images are as they were taken.
        classes: indices of the only classes that count, in the order of the labels; None for all.
    """

    corruption: str | None
    severity: int
    images: Images
    classes: Tensor | None = None


class FileReader:
    """From an image file and its label to (3, H, W) and a number, or (1000,) true for each class that is right."""

    def __init__(self, transform: Callable[[Image.Image], Tensor]):
        self.transform = transform

    def __call__(self, sample: Labelled) -> tuple[Tensor, int | Tensor]:
        path, label = sample
        image = self.transform(read_image(path, upright=False))  # published figures are of images as they are stored
        if isinstance(label, int):
            return image, label
        right = torch.zeros(NUM_CLASSES, dtype=torch.bool)
        right[list(label)] = True
        return image, right


def parts_of(config: SetConfig, folder: Path) -> list[Part]:
    """The parts of a set in one of ImageNet's standard layouts."""
    if config.kind == "imagenet_c":
        return [
            Part(corruption, severity, ClassFolders(folder / corruption / str(severity), class_indices()))
            for corruption in config.corruptions
            for severity in config.severities
        ]
    if config.kind == "imagenet_real":
        return [Part(None, 0, RealLabels(folder))]
    if config.kind == "imagenet_v2":
        return [Part(None, 0, ClassFolders(folder, {str(index): index for index in range(NUM_CLASSES)}))]
    if config.kind in ("imagenet_a", "imagenet_r"):
        names, classes = subset_of_imagenet(config.kind)
        return [Part(None, 0, ClassFolders(folder, {name: label for label, name in enumerate(names)}), classes)]
    return [Part(None, 0, ClassFolders(folder, class_indices()))]


@cache
def class_indices() -> dict[str, int]:
    """The index of each WordNet identifier of ImageNet-1k."""
    return {name: index for index, name in enumerate(ImageNetInfo("imagenet-1k").label_names())}


def subset_of_imagenet(kind: str) -> tuple[list[str], Tensor]:
    """The 200 classes of "imagenet_a" or "imagenet_r": WordNet identifiers, and indices among the 1000."""
    names = pkgutil.get_data("timm.data", f"_info/{kind}_synsets.txt").decode().split()
    indices = [class_indices()[name] for name in names]
    return names, torch.tensor(indices)


class ClassFolders:
    """The images below a folder for each class, labelled by the folders' names.

    Args:
        labels: by the name of the folder; all must be there, and no other.
    """

    def __init__(self, folder: Path, labels: Mapping[str, int]):
        self.folder, self.labels = folder, labels

    def check(self) -> None:
        _require_folder(self.folder)
        found = {path.name for path in self.folder.iterdir() if path.is_dir()}
        missing, unknown = sorted(self.labels.keys() - found), sorted(found - self.labels.keys())
        if missing or unknown:
            problems = [
                f"{len(names)} {what}, such as {names[0]}"
                for names, what in ((missing, "missing"), (unknown, "that do not belong there"))
                if names
            ]
            raise DataError(
                f"{self.folder} must have {len(self.labels)} class folders: there are {', and '.join(problems)}"
            )
        for name in sorted(found):
            if not any(map(is_image, (self.folder / name).rglob("*"))):
                raise DataError(f"{self.folder / name} has no images")

    def samples(self) -> list[Labelled]:
        return [(path, self.labels[name]) for name in sorted(self.labels) for path in _images(self.folder / name)]


class RealLabels:
    """ImageNet's validation images, in class folders or in none, that have labels in "Are we done with ImageNet?"."""

    def __init__(self, folder: Path):
        self.folder = folder

    def check(self) -> None:
        _require_folder(self.folder)
        self.samples()

    def samples(self) -> list[Labelled]:
        paths = {path.name: path for path in _images(self.folder)}
        names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 50001)]
        missing = [name for name in names if name not in paths]
        if missing:
            raise DataError(
                f"{self.folder} must hold the 50000 validation images: {len(missing)} missing, such as {missing[0]}"
            )
        real = RealLabelsImagenet(names).real_labels
        return [(paths[name], tuple(real[name])) for name in names if real[name]]  # 3163 images have none


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")


def _images(folder: Path) -> list[Path]:
    return sorted(filter(is_image, folder.rglob("*")))
