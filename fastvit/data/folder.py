"""Images in one folder per class, as ImageNet is laid out, with errors that say what is wrong."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder

from fastvit.data.images import NO_LABEL
from fastvit.data.reading import is_image, is_left_out, read_image
from fastvit.errors import DataError, some

LAYOUT = "expected <root>/train/<class>/*.jpg and <root>/val/<class>/*.jpg"
VALIDATION = ("val", "validation")  # two names for one folder
SPLIT_FOLDERS = {"train", *VALIDATION, "test"}


def open_folder(root: Path, split: str, *, upright: bool = True) -> ImageFolder:
    """The images of a split: pairs of an RGB image and the index of its class by sorted names.

    What lies in the class folders and is no image, by its name, is in `ignored`.

    Args:
        split: the folder below `root`; "val" and "validation" are the same.
        upright: as `read_image` has it.

    Raises:
        DataError: a folder is missing, or a class has no images.
    """
    folder = _split_folder(root, split)
    class_folders(folder)
    images = ImageFolder(str(folder), loader=partial(read_image, upright=upright), is_valid_file=is_image)
    images.ignored = sorted(str(path) for path in folder.rglob("*/*") if is_left_out(path))
    return images


def class_folders(folder: Path) -> list[Path]:
    """Those in a folder, sorted. Raises DataError if there are none, or if one has no images."""
    folders = sorted(each for each in folder.iterdir() if each.is_dir())
    if empty := [each.name for each in folders if not _has_image(each)]:
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
