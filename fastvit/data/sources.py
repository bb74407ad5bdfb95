"""The datasets that a recipe can name: the embedded digits, a folder of images, or what timm reads."""

from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from timm.data import create_dataset
from torch.utils.data import Dataset, IterableDataset

from fastvit.data.digits import Digits
from fastvit.data.folder import open_folder
from fastvit.data.reading import read_image
from fastvit.errors import DataError

DIGITS_SPLITS = {"train": True, "validation": False, "val": False}
READ_BY_TIMM = ("torch", "hfds", "hfids", "tfds", "wds")  # prefixes of `timm.data.create_dataset`


def open_source(
    name: str,
    root: Path | None,
    split: str,
    *,
    training: bool,
    num_classes: int | None,
    image_size: int,
    batch_size: int,
    upright: bool = True,
) -> Any:
    """One part of a dataset: PIL images with labels, not transformed.

    Args:
        name: "digits", "folder", or a name that begins with one of `READ_BY_TIMM`, such as "torch/cifar10".
        root: folder of the data; not needed for the digits and what is downloaded.
        split: the name of the part: for a folder that of the folder in it; the digits have train and validation.
        training: whether it is to train on.
        num_classes: what the recipe says; checked where the dataset knows its classes. None: any number.
        image_size: the digits are made in this size.
        batch_size: timm's streams make their epochs of whole batches.
        upright: of image files, as `read_image` has it; timm reads streams by itself.

    Raises:
        DataError: the data is not there, or not what the recipe says.
    """
    if root is None and name.partition("/")[0] in ("folder", "torch", "wds"):
        raise DataError(f"data.root is missing: the folder of dataset {name}; say data.root=FOLDER")
    if name == "digits":
        if split not in DIGITS_SPLITS:
            raise DataError(f"the digits have no split {split}, but train and validation")
        source = Digits(train=DIGITS_SPLITS[split], image_size=image_size)
    elif name == "folder":
        source = open_folder(root, split, upright=upright)
    else:
        source = _open_with_timm(name, root, split, is_training=training, batch_size=batch_size, upright=upright)
    require_num_classes(source, num_classes, str(root or name))
    return source


class ReaderImages(Dataset):
    """The images of one of timm's readers. timm's own dataset passes over bad images, which here the recipe decides."""

    def __init__(self, reader: Any, *, upright: bool = True):
        self.reader, self.upright = reader, upright

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        file, label = self.reader[index]
        return read_image(file, upright=self.upright), label


def _open_with_timm(
    name: str, root: Path | None, split: str, *, is_training: bool, batch_size: int, upright: bool
) -> Any:
    try:
        dataset = create_dataset(
            name, root=root and str(root), split=split, is_training=is_training, batch_size=batch_size
        )
    except Exception as error:  # each of the libraries behind timm has errors of its own
        where = f" in {root}" if root else ""
        raise DataError(
            f"split {split} of dataset {name} cannot be opened{where} ({type(error).__name__}: {error})"
        ) from error
    is_stream = isinstance(dataset, IterableDataset)
    if is_stream and not is_training:
        # In validation every process reads it all and takes its part: timm's own division repeats and misses samples.
        dataset.reader.dist_rank, dataset.reader.dist_num_replicas = 0, 1
    if is_stream:
        return dataset
    if hasattr(dataset, "reader"):
        return ReaderImages(dataset.reader, upright=upright)
    if hasattr(dataset, "loader"):  # torchvision's folders of files
        dataset.loader = partial(read_image, upright=upright)
    return dataset


def require_num_classes(source: Any, num_classes: int | None, where: str) -> None:
    """Raise DataError if the classes of a source, where it knows them, are not as many as the recipe says."""
    classes = getattr(source, "classes", None)
    if num_classes is not None and classes is not None and len(classes) != num_classes:
        raise DataError(
            f"data.num_classes is {num_classes}, but there are {len(classes)} classes in {where}; "
            f"set data.num_classes to {len(classes)}"
        )
