"""The sets of images, with labels that are right whatever the order of their folders."""

import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from timm.data import ImageNetInfo, RealLabelsImagenet
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from fastvit.errors import DataError
from fastvit.robustness.recipe import SetConfig

Transform = Callable[[Image.Image], Tensor]
NUM_CLASSES = 1000  # of ImageNet-1k


@dataclass(frozen=True)
class Part:
    """Images that one figure is about.

    Args:
        corruption, severity: None and 0 where the images are as they were taken.
        images: pairs of a tensor (3, H, W) and a label: a number, or (classes,) true for each right class.
        classes: indices of the only classes that count, in the order of the labels; None for all.
    """

    corruption: str | None
    severity: int
    images: Dataset
    classes: Tensor | None = None


class ListedImages(Dataset):
    """Image files with labels."""

    def __init__(self, samples: Sequence[tuple[Path, int | Tensor]], transform: Transform):
        self.samples, self.transform = samples, transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        path, label = self.samples[index]
        try:
            with Image.open(path) as image:
                return self.transform(image.convert("RGB")), label
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"image {path} cannot be read ({error})") from error


def parts_of(config: SetConfig, folder: Path, transform: Transform) -> Iterator[Part]:
    """The parts of a set in one of ImageNet's standard layouts.

    Raises:
        DataError: class folders are missing or too many, or a folder has no images.
    """
    if config.kind == "imagenet_c":
        for corruption in config.corruptions:
            for severity in config.severities:
                samples = _in_class_folders(folder / corruption / str(severity), imagenet_classes())
                yield Part(corruption, severity, ListedImages(samples, transform))
        return
    classes = None
    if config.kind == "imagenet_v2":
        samples = _in_class_folders(folder, {str(index): index for index in range(NUM_CLASSES)})
    elif config.kind == "imagenet_real":
        samples = _with_real_labels(folder)
    elif config.kind in ("imagenet_a", "imagenet_r"):
        names, classes = subset_of_imagenet(config.kind)
        samples = _in_class_folders(folder, {name: label for label, name in enumerate(names)})
    else:
        samples = _in_class_folders(folder, imagenet_classes())
    yield Part(None, 0, ListedImages(samples, transform), classes)


@cache
def imagenet_classes() -> dict[str, int]:
    """The index of each WordNet identifier of ImageNet-1k."""
    return {name: index for index, name in enumerate(ImageNetInfo("imagenet-1k").label_names())}


def subset_of_imagenet(kind: str) -> tuple[list[str], Tensor]:
    """The 200 classes of "imagenet_a" or "imagenet_r": WordNet identifiers, and indices among the 1000."""
    names = pkgutil.get_data("timm.data", f"_info/{kind}_synsets.txt").decode().split()
    indices = [imagenet_classes()[name] for name in names]
    return names, torch.tensor(indices)


def _in_class_folders(folder: Path, labels: dict[str, int]) -> list[tuple[Path, int]]:
    """The images below a folder for each class, labelled by the folders' names."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    found = {path.name for path in folder.iterdir() if path.is_dir()}
    missing, unknown = sorted(labels.keys() - found), sorted(found - labels.keys())
    if missing or unknown:
        problems = [
            f"{len(names)} {what}, such as {names[0]}"
            for names, what in ((missing, "missing"), (unknown, "that do not belong there"))
            if names
        ]
        raise DataError(f"{folder} must have {len(labels)} class folders: there are {', and '.join(problems)}")
    samples = [(path, labels[name]) for name in sorted(found) for path in _images(folder / name)]
    empty = labels.keys() - {path.relative_to(folder).parts[0] for path, _ in samples}
    if empty:
        raise DataError(f"{folder / min(empty)} has no images")
    return samples


def _with_real_labels(folder: Path) -> list[tuple[Path, Tensor]]:
    """ImageNet's validation images, in class folders or in none, that have labels in "Are we done with ImageNet?"."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    paths = {path.name: path for path in _images(folder)}
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 50001)]
    missing = [name for name in names if name not in paths]
    if missing:
        raise DataError(f"{folder} must hold the 50000 validation images: {len(missing)} missing, such as {missing[0]}")
    real = RealLabelsImagenet(names).real_labels
    samples = []
    for name in names:
        if real[name]:  # 3163 images have none
            label = torch.zeros(NUM_CLASSES, dtype=torch.bool)
            label[real[name]] = True
            samples.append((paths[name], label))
    return samples


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS)
