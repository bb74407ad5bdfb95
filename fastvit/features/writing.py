"""Embeddings of all parts: read by worker processes, computed here, each part written when it is complete."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastvit.data.reading import UnreadableImage
from fastvit.errors import DataError, RunError
from fastvit.features.embedder import Embedder
from fastvit.features.files import Embeddings, part_files, read_about, require_same_model, write_embeddings
from fastvit.features.images import Entry, Part
from fastvit.runtime.data_workers import worker_options


class Batch(NamedTuple):
    """Some images of a part.

    Attributes:
        part: its index.
        is_last: whether the part is complete with it.
        names, labels, crops: of those that can be read; (B, 3, H, W) uint8, None without any.
        unreadable: names of the others, with the reason.
    """

    part: int
    is_last: bool
    names: list[str]
    labels: list[str]
    crops: Tensor | None
    unreadable: list[str]


class Batches(Dataset):
    """Reads batches in any process. An index is what of a batch is known before."""

    def __init__(self, parts: Sequence[Part], prepare: Callable[[Image.Image], Tensor]):
        self.parts, self.prepare = parts, prepare

    def __getitem__(self, index: tuple[int, bool, list[Entry]]) -> Batch:
        number, is_last, entries = index
        names, labels, crops, unreadable = [], [], [], []
        for entry in entries:
            try:
                image, label = self.parts[number].read(entry)
                crop = self.prepare(image)
            except UnreadableImage as error:
                unreadable.append(f"{entry.name} ({error.reason})")
                continue
            names.append(entry.name)
            labels.append(label)
            crops.append(crop)
        return Batch(number, is_last, names, labels, torch.stack(crops) if crops else None, unreadable)

    def indices(self, size: int) -> Iterator[tuple[int, bool, list[Entry]]]:
        """Part, whether it ends here, and entries of all batches. No batch is of two parts, and each part has one."""
        for number, part in enumerate(self.parts):
            batch: list[Entry] = []
            for entry in part.entries():
                if len(batch) == size:
                    yield number, False, batch
                    batch = []
                batch.append(entry)
            yield number, True, batch


def embed_parts(
    parts: Sequence[Part],
    paths: Sequence[Path],
    embedder: Embedder,
    abouts: Sequence[dict[str, Any]],
    *,
    batch_size: int,
    workers: int,
    then: Callable[[int, list[str]], None] = lambda images, unreadable: None,
) -> None:
    """Write each part to its path.

    Args:
        abouts: what the file of each part says about itself; the unreadable images are added.
        then: told after each batch of how many images there are embeddings, and which cannot be read.

    Raises:
        UserError: a shard cannot be read, or a file not be written; the parts before are whole.
    """
    batches = Batches(parts, embedder.prepare)
    indices: Any = batches.indices(batch_size)
    loader = DataLoader(batches, batch_size=None, sampler=indices, collate_fn=_as_it_is, **worker_options(workers))
    rows: list[tuple[Batch, np.ndarray]] = []
    for batch in loader:
        nothing = np.empty((0, embedder.width), np.float32)
        rows.append((batch._replace(crops=None), nothing if batch.crops is None else embedder(batch.crops)))
        then(len(batch.names), batch.unreadable)
        if batch.is_last:
            _write(rows, paths, abouts)
            rows = []


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _write(rows: Sequence[tuple[Batch, np.ndarray]], paths: Sequence[Path], abouts: Sequence[dict[str, Any]]) -> None:
    number = rows[0][0].part
    names, labels = ([each for batch, _ in rows for each in getattr(batch, name)] for name in ("names", "labels"))
    about = abouts[number] | {"unreadable": [name for batch, _ in rows for name in batch.unreadable]}
    vectors = np.concatenate([vectors for _, vectors in rows])
    write_embeddings(Embeddings(np.array(names, str), np.array(labels, str), vectors, about), paths[number])


def parts_left(paths: Sequence[Path], abouts: Sequence[dict[str, Any]], folder: Path) -> list[int]:
    """The indices of the parts that are not written yet.

    Raises:
        UserError: what is there is of another model, or of other images.
    """
    advice = "name another --output, or remove what is in this one"
    there = part_files(folder) if folder.exists() else []
    expected = dict(zip(paths, abouts, strict=True))
    for path in there:
        if path not in expected:
            raise RunError(f"{path} is a part of other images, or cut in another way: {advice}")
        found, about = read_about(path), expected[path]
        try:
            require_same_model(about["model"], found["model"], "what is to be written", str(path))
        except DataError as error:
            raise RunError(f"{error}: {advice}") from error
        if found["images"] != about["images"]:
            raise RunError(f"{path} is of images that have changed since: remove it, or name another --output")
    return [index for index, path in enumerate(paths) if path not in there]
