"""Images in one folder per class, as ImageNet is laid out, with errors that say what is wrong."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import DatasetFolder, ImageFolder

from fastvit.data.images import NO_LABEL
from fastvit.data.packed import Packed
from fastvit.data.reading import is_image, is_left_out, read_image
from fastvit.errors import DataError, some

LAYOUT = "expected <root>/train/<class>/*.jpg and <root>/val/<class>/*.jpg"
VALIDATION = ("val", "validation")  # two names for one folder
SPLIT_FOLDERS = {"train", *VALIDATION, "test"}


def open_folder(
    root: Path, split: str, classes: Sequence[str] | None = None, *, training: bool = False, upright: bool = True
) -> ImageFolder:
    """The images of a split: pairs of an RGB image and the index of its class.

    What lies in the class folders and is no image, by its name, is in `ignored`.

    Args:
        split: the folder below `root`; "val" and "validation" are the same.
        classes: in the order of their indices; by default the folders that are there, sorted. One that has no images is
            in `notices`.
        training: whether it is to train on; then each class has images.
        upright: as `read_image` has it.

    Raises:
        DataError: a folder is missing, is of no class, or has no images and must have some.
    """
    folder = _split_folder(root, split)
    found = class_folders(folder, may_be_empty=classes is not None)
    names = tuple(classes or [each.name for each in found])
    if unknown := sorted({each.name for each in found} - set(names)):
        raise DataError(
            f"{folder} has folders that are none of data.classes, {some(unknown)}: remove them, or say "
            "data.classes=null"
        )
    images = _KnownClasses(str(folder), names, partial(read_image, upright=upright))
    unseen = [names[index] for index in (images.targets.bincount(minlength=len(names)) == 0).nonzero()]
    told = f"{folder} has no image of {len(unseen)} of the classes, {some(unseen)}"
    if unseen and (training or len(unseen) == len(names)):
        raise DataError(f"{told}: " + ("what has no examples cannot be learned" if training else LAYOUT))
    images.notices = (told,) if unseen else ()
    images.ignored = sorted(str(path) for path in folder.rglob("*/*") if is_left_out(path))
    return images


class _KnownClasses(ImageFolder):
    """Classes in a given order, some of which may have no folder."""

    def __init__(self, folder: str, classes: Sequence[str], loader: Callable[[str], Image.Image]):
        self.known = list(classes)
        super().__init__(folder, loader=loader, is_valid_file=is_image, allow_empty=True)
        share_files(self)

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        return self.known, {name: index for index, name in enumerate(self.known)}


def share_files(images: DatasetFolder) -> None:
    """Keep the list of files, which has 1.28 million entries for ImageNet, so that worker processes have no copies."""
    images.samples = Packed(images.samples)
    images.targets = torch.tensor(images.targets, dtype=torch.long)
    if hasattr(images, "imgs"):  # another name of the same, in torchvision's folders of images
        images.imgs = images.samples


def learned_classes(root: Path, split: str, train_split: str) -> tuple[str, ...] | None:
    """The class folders to train on, sorted, where there are some and those of another split are all among them."""
    if not (root / train_split).is_dir():
        return None
    folders = (_split_folder(root, split), root / train_split)
    own, learned = ({each.name for each in folder.iterdir() if each.is_dir()} for folder in folders)
    return tuple(sorted(learned)) if own <= learned else None


def class_folders(folder: Path, *, may_be_empty: bool = False) -> list[Path]:
    """Those in a folder, sorted. Raises DataError if there are none, or if one has no images and must have some."""
    folders = sorted(each for each in folder.iterdir() if each.is_dir())
    if not may_be_empty and (empty := [each.name for each in folders if not _has_image(each)]):
        raise DataError(f"{folder} has class folders without images: {some(empty)}; fill or remove them")
    if not folders:
        raise DataError(f"{folder} has no class folders; {LAYOUT}")
    return folders


def _split_folder(root: Path, split: str) -> Path:
    if not root.is_dir():
        raise DataError(f"data.root {root} is not a folder; {LAYOUT}; say where yours is: data.root=FOLDER")
    names = VALIDATION if split in VALIDATION else (split,)
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DataError(f"data.root {root} has no folder {names[0]}; {LAYOUT}")


def _has_image(folder: Path) -> bool:
    return any(map(is_image, folder.rglob("*")))


class LabelledImages(Sequence[tuple[Tensor, int]]):
    """All images below a folder, transformed, with the labels that their own folders give.

    Args:
        transform: from an RGB image to a tensor (3, H, W).
        classes: names of the classes; an image in a folder of another name has the label `NO_LABEL`.
    """

    def __init__(self, folder: Path, transform: Callable[[Image.Image], Tensor], classes: Sequence[str]):
        self.paths = sorted(filter(is_image, folder.rglob("*")))
        if not self.paths:
            raise DataError(f"there are no images in {folder}")
        self.transform = transform
        self.labels = {name: label for label, name in enumerate(classes)}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        path = self.paths[index]
        return self.transform(read_image(path)), self.labels.get(path.parent.name, NO_LABEL)
