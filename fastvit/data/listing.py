"""Images one by one with their labels: from a table, or from folders of classes that are not divided into parts."""

import csv
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from fastvit.data.folder import LAYOUT, SPLIT_FOLDERS, VALIDATION, class_folders
from fastvit.data.packed import Packed
from fastvit.data.reading import is_image, is_left_out, read_image
from fastvit.errors import DataError, nearest, some
from fastvit.files import as_whole, write_table

SEPARATOR = "|"  # between the labels of an image, in the column `labels`
ALL = "all"  # the name of all images, however they are divided


@dataclass(frozen=True)
class Row:
    """An image.

    Attributes:
        path: as the list names it.
        labels: its classes.
        split: what it is for: "train", "validation", "test" or a name of the user's; None if the list does not say.
    """

    path: str
    labels: tuple[str, ...]
    split: str | None = None


@dataclass(frozen=True)
class Listing:
    """A list of images.

    Attributes:
        source: the table or the folder, to name it in messages.
        folder: where the paths begin.
        rows: an image each.
        column: of the labels: "label" or "labels", of which an image may have several or none.
        ignored: files in the folder that are no images by their names.
        notices: what the user should know about the list.
    """

    source: Path
    folder: Path
    rows: tuple[Row, ...]
    column: str
    ignored: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """All labels, sorted."""
        return tuple(sorted({label for row in self.rows for label in row.labels}))

    @property
    def is_divided(self) -> bool:
        return any(row.split for row in self.rows)

    def part(self, split: str) -> tuple[Row, ...]:
        """The images of a split. Raises DataError if there are none."""
        if split == ALL:
            return self.rows
        rows = tuple(row for row in self.rows if row.split == one_name(split))
        if not rows:
            counts = Counter(row.split for row in self.rows if row.split)
            there = ", ".join(f"{name} ({count})" for name, count in counts.items())
            raise DataError(f"{self.source} has no images of the split {split}, but of {there}{nearest(split, counts)}")
        return rows

    def write(self, path: Path) -> None:
        """As a table with the column split, written completely or not at all."""
        rows = ((row.path, SEPARATOR.join(row.labels), row.split or "") for row in self.rows)
        with as_whole(path) as unfinished:
            write_table(unfinished, ("path", self.column, "split"), rows)


def one_name(split: str) -> str:
    """Validation has two names, "val" and "validation"."""
    return "validation" if split in VALIDATION else split


# ---- where lists come from -------------------------------------------------------------------------------------------


def list_folder(root: Path) -> Listing:
    """The images in <root>/<class>/, all files below included. Raises DataError if there are not two classes."""
    folders = class_folders(root)
    if len(folders) < 2:
        names = some([folder.name for folder in folders])
        raise DataError(f"{root} has one class folder only, {names}; {LAYOUT}, or <root>/<class>/*.jpg to be divided")
    files = [(folder, path) for folder in folders for path in sorted(folder.rglob("*"))]
    rows = tuple(Row(path.relative_to(root).as_posix(), (folder.name,)) for folder, path in files if is_image(path))
    return Listing(root, root, rows, "label", tuple(str(path) for _, path in files if is_left_out(path)))


def is_undivided(root: Path | None) -> bool:
    """Whether a folder has class folders, but no train, val or test."""
    if root is None or not root.is_dir():
        return False
    names = {path.name for path in root.iterdir() if path.is_dir()}
    return bool(names) and not names & SPLIT_FOLDERS


def read_table(path: Path, root: Path | None, column: str) -> Listing:
    """The images of a CSV file with the columns path, label or labels, and perhaps split.

    Args:
        root: where the paths begin; by default the folder of the table.
        column: the one of the labels that is asked for: "label" or "labels".

    Raises:
        DataError: the table cannot be read, is of the other kind, or names files that are not there, files twice, or
            files without a label.
    """
    rows = tuple(_rows(path, column))
    folder = root or path.parent
    if not rows:
        raise DataError(f"{path} names no images")
    problems = {
        "more than once": [name for name, count in Counter(row.path for row in rows).items() if count > 1],
        "without a label": [row.path for row in rows if column == "label" and not row.labels],
        f"that are not there, in {folder}": [row.path for row in rows if not (folder / row.path).is_file()],
    }
    for what, names in problems.items():
        if names:
            raise DataError(f"{path} names {len(names)} images {what}: {some(names)}")
    return Listing(path, folder, rows, column)


def _rows(path: Path, column: str) -> Iterator[Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            _require_columns(path, reader.fieldnames or (), column)
            for row in reader:
                said, split = (row[column] or "").strip(), (row.get("split") or "").strip()
                labels = said.split(SEPARATOR) if column == "labels" else [said]
                stripped = dict.fromkeys(label.strip() for label in labels if label.strip())
                yield Row((row["path"] or "").strip(), tuple(stripped), one_name(split) or None)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the table {path} cannot be read ({error})") from error


def _require_columns(path: Path, columns: Collection[str], column: str) -> None:
    other, task = ("labels", "multi_label") if column == "label" else ("label", "classification")
    if column not in columns and other in columns:
        many = "several labels an image" if other == "labels" else "one label an image"
        raise DataError(f"{path} has the column {other}, {many}: train with task={task}, or name the column {column}")
    if missing := [name for name in ("path", column) if name not in columns]:
        found = ", ".join(columns) or "none"
        raise DataError(
            f"{path} lacks the column {' and '.join(missing)}, and has {found}: the first line names the columns, "
            f"path,{column} and perhaps split"
        )


# ---- as data to learn from -------------------------------------------------------------------------------------------


class ListedImages(Dataset):
    """Images of a list, with their labels.

    Args:
        listing: they are of this list.
        rows: which of its images.
        targets: (N,) classes, or (N, classes) of 0 and 1.
        upright: as `read_image` has it.
    """

    def __init__(
        self, listing: Listing, rows: Sequence[Row], targets: Tensor, classes: Sequence[str], *, upright: bool
    ):
        self.listing, self.classes, self.upright = listing, tuple(classes), upright
        self.ignored, self.notices = listing.ignored, listing.notices
        self.targets, self.samples = targets, Packed((str(listing.folder / row.path),) for row in rows)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int | Tensor]:
        target = self.targets[index]
        return read_image(self.samples[index][0], upright=self.upright), target if target.ndim else int(target)


def open_listing(listing: Listing, split: str, classes: Sequence[str] | None, *, upright: bool) -> ListedImages:
    """One part of a list.

    Args:
        classes: in the order of the labels; by default all that are in the list, sorted.

    Raises:
        DataError: there are no images of the split, some of other classes, or classes that no image has.
    """
    rows, known = listing.part(split), classes or listing.classes
    _require_known(listing, known)
    seen = {label for row in rows for label in row.labels}
    if unseen := [name for name in known if name not in seen]:
        told = f"{listing.source}: no image of the split {split} has {len(unseen)} of the labels, {some(unseen)}"
        if one_name(split) == "train":
            raise DataError(f"{told}: what has no examples cannot be learned")
        listing = replace(listing, notices=(*listing.notices, told))
    place = {name: index for index, name in enumerate(known)}
    if listing.column == "label":
        targets = torch.tensor([place[row.labels[0]] for row in rows])
    else:
        targets = torch.zeros(len(rows), len(known))
        for target, row in zip(targets, rows, strict=True):
            target[[place[label] for label in row.labels]] = 1
    return ListedImages(listing, rows, targets, known, upright=upright)


def _require_known(listing: Listing, classes: Iterable[str]) -> None:
    unknown = Counter(label for row in listing.rows for label in row.labels)
    for name in classes:
        unknown.pop(name, None)
    if unknown:
        names = [f"{name} ({count} images)" for name, count in unknown.items()]
        raise DataError(f"{listing.source} has {len(names)} labels that are not in data.classes: {some(names)}")
