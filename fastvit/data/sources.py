"""The datasets that a recipe can name: the embedded digits, a folder of images, or what timm reads."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from timm.data import create_dataset
from timm.data.readers.targets import has_field
from torch.utils.data import Dataset, IterableDataset
from torchvision.datasets import DatasetFolder

from fastvit.data.digits import Digits
from fastvit.data.folder import open_folder, share_files
from fastvit.data.reading import read_image
from fastvit.errors import DataError

DIGITS_SPLITS = {"train": True, "validation": False, "val": False}
READ_BY_TIMM = ("torch", "hfds", "hfids", "tfds", "wds")  # prefixes of `timm.data.create_dataset`
WITH_COLUMNS = ("hfds", "hfids", "tfds")  # of them
DEFAULT_COLUMNS = {"image_column": "image", "label_column": "label"}  # timm's


def open_source(
    name: str,
    root: Path | None,
    split: str,
    *,
    training: bool,
    num_classes: int | None,
    image_size: int,
    upright: bool = True,
    classes: Sequence[str] | None = None,
    columns: tuple[str | None, str | None] = (None, None),
) -> Any:
    """One part of a dataset: PIL images with labels, not transformed.

    Args:
        name: "digits", "folder", or a name that begins with one of `READ_BY_TIMM`, such as "torch/cifar10".
        root: folder of the data; not needed for the digits and what is downloaded.
        split: the name of the part: for a folder that of the folder in it; the digits have train and validation.
        training: whether it is to train on.
        num_classes: what the recipe says; checked where the dataset knows its classes. None: any number.
        image_size: the digits are made in this size.
        upright: of image files, as `read_image` has it; timm reads streams by itself.
        classes: of a folder, as `open_folder` has it.
        columns: those of the images and of the labels, of what has columns; by default "image" and "label".

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
        source = open_folder(root, split, classes, training=training, upright=upright)
    else:
        source = _open_with_timm(name, root, split, is_training=training, upright=upright, columns=columns)
    require_num_classes(source, num_classes, str(root or name), some_may_lack=name == "folder" and not training)
    return source


class ReaderImages(Dataset):
    """The images of one of timm's readers. timm's own dataset passes over bad images, which here the recipe decides."""

    def __init__(self, reader: Any, *, upright: bool = True):
        self.reader, self.upright = reader, upright
        _name_classes(self, reader)

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        file, label = self.reader[index]
        return read_image(file, upright=self.upright), label


def has_columns(name: str) -> bool:
    """Whether each sample of a dataset is a row with named columns."""
    return name.partition("/")[0] in WITH_COLUMNS


def _require_columns(reader: Any, name: str, columns: tuple[str | None, str | None]) -> None:
    """Raise DataError if a column is not there, which timm finds out with the first sample, in a worker."""
    table = getattr(reader, "dataset", None)  # of hfds
    features = dict((reader.builder.info if table is None else table).features or {})
    if table is not None and table.data.column(reader.image_key).null_count == len(table):
        del features[reader.image_key]  # timm adds an empty one where it is missing
    for key, column in zip(DEFAULT_COLUMNS, columns, strict=True):
        column = column or DEFAULT_COLUMNS[key]
        if features and not has_field(features, column):
            raise DataError(
                f"dataset {name} has no column {column}, but {', '.join(features)}: set data.{key} to one "
                f"(of fastvit embed --{key.replace('_', '-')})"
            )


def _name_classes(dataset: Any, reader: Any) -> None:
    """Give a dataset the attribute `classes`, if its reader has names for all."""
    if names := getattr(reader, "class_to_idx", None):
        dataset.classes = sorted(names, key=names.get)


def _open_with_timm(
    name: str,
    root: Path | None,
    split: str,
    *,
    is_training: bool,
    upright: bool,
    columns: tuple[str | None, str | None],
) -> Any:
    keys = dict(zip(("input_key", "target_key"), columns, strict=True))  # timm has its own default where one is None
    try:
        dataset = create_dataset(name, root=root and str(root), split=split, is_training=is_training, **keys)
    except Exception as error:  # each of the libraries behind timm has errors of its own
        where = f" in {root}" if root else ""
        raise DataError(
            f"split {split} of dataset {name} cannot be opened{where} ({type(error).__name__}: {error})"
        ) from error
    if has_columns(name):
        _require_columns(dataset.reader, name, columns)
    is_stream = isinstance(dataset, IterableDataset)
    if is_stream and not is_training:
        # In validation every process reads it all and takes its part: timm's own division repeats and misses samples.
        dataset.reader.dist_rank, dataset.reader.dist_num_replicas = 0, 1
    if is_stream:
        _name_classes(dataset, dataset.reader)
        return dataset
    if hasattr(dataset, "reader"):
        return ReaderImages(dataset.reader, upright=upright)
    if hasattr(dataset, "loader"):  # torchvision's images in files
        dataset.loader = partial(read_image, upright=upright)
    if isinstance(dataset, DatasetFolder):
        share_files(dataset)
    if hasattr(dataset, "wnids"):  # ImageNet, of which torchvision has all names of a class in a tuple
        dataset.classes = one_name_each(dataset.classes, dataset.wnids)
    return dataset


def one_name_each(classes: Sequence[Sequence[str]], numbers: Sequence[str]) -> list[str]:
    """A name for each of ImageNet's classes, from all that it has; two are called crane, and have their number, too."""
    names = [", ".join(each) for each in classes]
    count = Counter(names)
    return [f"{name} ({number})" if count[name] > 1 else name for name, number in zip(names, numbers, strict=True)]


HINT = ", or data.classes to all names in order, if some have no image here"


def require_num_classes(source: Any, num_classes: int | None, where: str, *, some_may_lack: bool) -> None:
    """Raise DataError if the classes of a source, where it knows them, are not as many as the recipe says."""
    classes = getattr(source, "classes", None)
    if num_classes is not None and classes is not None and len(classes) != num_classes:
        hint = HINT if some_may_lack and len(classes) < num_classes else ""
        raise DataError(
            f"data.num_classes is {num_classes}, but there are {len(classes)} classes in {where}; "
            f"set data.num_classes to {len(classes)}{hint}"
        )
