"""Where images come from, in parts: WebDataset's shards, or as many files or images of a dataset at a time."""

import hashlib
import io
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from torch.utils.data import IterableDataset

from fastvit.data.reading import IMAGE_SUFFIXES, UnreadableImage, as_rgb, is_image, read_image
from fastvit.data.sources import READ_BY_TIMM, has_columns, open_source
from fastvit.errors import DataError, some
from fastvit.prediction import common_folder, find_images

SHARD = ".tar"
TRIED = 1000  # images at most, before it is said that none can be read


class Entry(NamedTuple):
    """An image: its name, its class in words ("" if it is not known yet), and where it is in its part."""

    name: str
    label: str
    place: Any


class Part(ABC):
    """The images that become one file.

    Attributes:
        name: of that file, without a suffix.
    """

    name: str

    @abstractmethod
    def fingerprint(self) -> str:
        """Another one if these are other images; quickly found."""

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """The images in order. Raises DataError if they cannot be listed."""

    @abstractmethod
    def read(self, entry: Entry) -> tuple[Image.Image, str]:
        """An RGB image and its class. Raises UnreadableImage."""


@dataclass(frozen=True)
class Files(Part):
    """Image files. The class of one in a folder below a named one is that folder."""

    name: str
    files: tuple[tuple[str, str], ...]  # paths and classes

    def fingerprint(self) -> str:
        said = "\n".join(f"{path}\t{label}" for path, label in self.files)
        return hashlib.sha256(said.encode(errors="surrogateescape")).hexdigest()  # a file name may be no text

    def entries(self) -> Iterator[Entry]:
        return (Entry(path, label, path) for path, label in self.files)

    def read(self, entry: Entry) -> tuple[Image.Image, str]:
        return read_image(entry.place), entry.label


@dataclass(frozen=True)
class Shard(Part):
    """A tar file of WebDataset's: `key.jpg`, and its class in `key.cls` where there is one."""

    name: str
    path: Path

    def fingerprint(self) -> str:
        return f"{self.path.name}, {self.path.stat().st_size} bytes"

    def entries(self) -> Iterator[Entry]:
        images: dict[str, tarfile.TarInfo] = {}
        labels: dict[str, str] = {}
        try:
            with tarfile.open(self.path, "r:") as archive:
                for member in archive:
                    key, _, suffix = member.name.rpartition(".")
                    if is_image(member.name):
                        images[key] = member
                    elif suffix == "cls" and (file := archive.extractfile(member)):
                        labels[key] = file.read().decode().strip()
                archive.fileobj.seek(archive.offset)
                if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes that for an end
                    raise tarfile.ReadError("it ends without the mark of an end")
        except (tarfile.TarError, OSError, UnicodeDecodeError) as error:
            raise DataError(f"shard {self.path} cannot be read ({error}): it must be a whole tar file") from error
        for key, member in images.items():
            place = (member.offset_data, member.size)
            yield Entry(f"{self.path.name}/{member.name}", labels.get(key, ""), place)

    def read(self, entry: Entry) -> tuple[Image.Image, str]:
        offset, size = entry.place
        with self.path.open("rb") as file:
            file.seek(offset)
            return read_image(io.BytesIO(file.read(size))), entry.label


@dataclass(frozen=True)
class Samples(Part):
    """Some images of a dataset of pairs of an image and its class."""

    name: str
    title: str  # of the dataset
    source: Any
    indices: range

    def fingerprint(self) -> str:
        return f"{self.title}, {self.indices.start} to {self.indices.stop} of {len(self.source)}"

    def entries(self) -> Iterator[Entry]:
        return (Entry(f"{self.title}/{index}", "", index) for index in self.indices)

    def read(self, entry: Entry) -> tuple[Image.Image, str]:
        image, label = self.source[entry.place]
        names = getattr(self.source, "classes", None)
        known = names and label in range(len(names))  # else there is none: -1 in the test splits of Hugging Face
        return as_rgb(image, upright=False), str(names[label] if known else label)


def find_parts(
    names: Sequence[str],
    *,
    size: int,
    split: str | None = None,
    root: Path | None = None,
    columns: tuple[str | None, str | None] = (None, None),
    image_size: int = 256,
) -> list[Part]:
    """The images that a user names, cut into parts.

    Args:
        names: images, folders of images or shards, shards, and patterns; or one dataset that a recipe can name.
        size: images in a part; a shard is one by itself.
        split, root, columns: of a dataset; the columns of images and labels, where it has any.
        image_size: the digits are made in this size.

    Raises:
        DataError: there are none, or none of the first ones can be read.
    """
    if any(map(_is_dataset, names)):
        parts: list[Part] = _of_dataset(names, split, root, columns, size=size, image_size=image_size)
    elif split or root or any(columns):
        raise DataError(f"--split and --root are for datasets, as are columns, and {names[0]} is none: leave them out")
    else:
        paths = find_images(names, (*IMAGE_SUFFIXES, SHARD))
        shards = [path for path in paths if path.suffix.lower() == SHARD]
        parts = [*_of_shards(shards), *_of_files([path for path in paths if path.suffix.lower() != SHARD], names, size)]
    _require_readable(parts)
    return parts


def _of_dataset(
    names: Sequence[str],
    split: str | None,
    root: Path | None,
    columns: tuple[str | None, str | None],
    *,
    size: int,
    image_size: int,
) -> list[Part]:
    title = names[0]
    if len(names) > 1 or not split:
        raise DataError(f"a dataset is embedded alone, and one split at a time: {title} --split train, for example")
    if root is None and title.partition("/")[0] in ("torch", "wds"):
        raise DataError(f"--root is missing: the folder of dataset {title}")
    if any(columns) and not has_columns(title):
        raise DataError(f"--image-column and --label-column: dataset {title} has no columns, leave them out")
    how = {"training": False, "num_classes": None, "image_size": image_size, "upright": True, "columns": columns}
    source = open_source(title, root, split, **how)
    if isinstance(source, IterableDataset):
        raise DataError(f"{title} is read as a stream: name its shards, that is its {SHARD} files, instead")
    ranges = _ranges(len(source), size)
    return [
        Samples(_numbered(split, i, len(ranges)), f"{title}/{split}", source, each) for i, each in enumerate(ranges)
    ]


def _of_shards(paths: Sequence[Path]) -> list[Part]:
    """Named by their paths below the folder that all are in."""
    if not paths:
        return []
    top = common_folder(paths)
    names = ["-".join(path.absolute().relative_to(top).with_suffix("").parts) for path in paths]
    if len(set(names)) < len(names):
        raise DataError("two of the shards would become files of one name: embed them one after the other")
    return [Shard(name, path) for name, path in zip(names, paths, strict=True)]


def _of_files(paths: Sequence[Path], names: Sequence[str], size: int) -> list[Part]:
    folders = [folder for name in names if (folder := Path(name).expanduser()).is_dir()]

    def label(path: Path) -> str:
        below = next((path.relative_to(folder).parts for folder in folders if path.is_relative_to(folder)), ())
        return below[0] if len(below) > 1 else ""

    files = [(path.as_posix(), label(path)) for path in paths]
    ranges = _ranges(len(files), size)
    return [
        Files(_numbered("images", i, len(ranges)), tuple(files[each.start : each.stop]))
        for i, each in enumerate(ranges)
    ]


def _ranges(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _numbered(name: str, index: int, count: int) -> str:
    return f"{name}-{index:05d}-of-{count:05d}"


def _require_readable(parts: Sequence[Part]) -> None:
    """Before the long work: that one of the first images can be read."""
    reasons = []
    for part, entry in islice(((each, entry) for each in parts for entry in each.entries()), TRIED):
        try:
            part.read(entry)
            return
        except UnreadableImage as error:
            reasons.append(f"{entry.name} ({error.reason})")
    if not reasons:
        raise DataError(f"there are no images in {some([part.name for part in parts])}")
    raise DataError(f"none of the images can be read: {some(reasons, 3)}")


def _is_dataset(name: str) -> bool:
    """Whether it is one that a recipe can name, such as `digits` or `torch/cifar10`, and not a file."""
    return (name == "digits" or name.partition("/")[0] in READ_BY_TIMM) and not Path(name).exists()
