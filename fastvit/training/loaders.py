"""Batches as a function of (epoch, position): the same whenever and with however many workers they are asked for."""

from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, get_worker_info

from fastvit.errors import RecipeError
from fastvit.training.randomness import Purpose, derive_seed, seeded

Collate = Callable[[list[Any]], Any]


class EpochSampler(Sampler[tuple[int, int]]):
    """Each epoch's permutation of the samples, from any position on, as (epoch, index).

    The epoch travels with the index because workers that live on from epoch to epoch see nothing else of the sampler.
    """

    def __init__(self, size: int, seed: int):
        self.size, self.seed = size, seed
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        return self.size - self.start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, Purpose.ORDER, self.epoch))
        order = torch.randperm(self.size, generator=generator).tolist()
        return iter([(self.epoch, index) for index in order[self.start :]])


class SeededSamples(Dataset):
    """A map-style dataset whose augmentation of a sample depends on (seed, epoch, index) only."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, position: tuple[int, int]) -> Any:
        epoch, index = position
        with seeded(self.seed, Purpose.SAMPLE, epoch, index):
            return self.dataset[index]


class SeededStream(IterableDataset):
    """A stream whose augmentation of a sample depends on (seed, epoch, worker, position in the worker's stream)."""

    def __init__(self, dataset: IterableDataset, seed: int):
        self.dataset, self.seed = dataset, seed
        self.epoch = 0

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info().id if get_worker_info() else 0
        samples = iter(self.dataset)
        for position in count():
            with seeded(self.seed, Purpose.SAMPLE, self.epoch, worker, position):
                try:
                    sample = next(samples)
                except StopIteration:
                    return
            yield sample


class SampleLoader:
    """Training batches of a map-style dataset. The last, partial batch is left out: batch norm would suffer from it."""

    def __init__(self, dataset: Dataset, collate: Collate, *, batch_size: int, workers: int, seed: int):
        self.sampler = EpochSampler(len(dataset), seed)
        self.batch_size = batch_size
        self.steps_per_epoch = len(dataset) // batch_size
        self.loader = DataLoader(
            SeededSamples(dataset, seed),
            batch_size,
            sampler=self.sampler,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=collate,
        )

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of an epoch from the `start`-th on."""
        self.sampler.epoch, self.sampler.start = epoch, start * self.batch_size
        return iter(self.loader)


class StreamLoader:
    """Training batches of a stream (timm's wds/, tfds/ and hfids/ readers), which shuffles itself by the epoch."""

    def __init__(self, dataset: IterableDataset, collate: Collate, *, batch_size: int, workers: int, seed: int):
        self.stream = SeededStream(dataset, seed)
        self.steps_per_epoch = len(dataset) // batch_size
        self.loader = DataLoader(
            self.stream,
            batch_size,
            drop_last=True,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            collate_fn=collate,
            generator=torch.Generator(),
        )

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of an epoch from the `start`-th on; the ones before are read and dropped."""
        self.stream.epoch = epoch
        if hasattr(self.stream.dataset, "set_epoch"):
            self.stream.dataset.set_epoch(epoch)
        self.loader.generator.manual_seed(derive_seed(self.stream.seed, Purpose.ORDER, epoch))  # the workers' own seeds
        return islice(self.loader, start, self.steps_per_epoch)


def train_loader(
    dataset: Dataset, collate: Collate, *, batch_size: int, workers: int, seed: int
) -> SampleLoader | StreamLoader:
    """The training batches of any dataset."""
    loader = StreamLoader if isinstance(dataset, IterableDataset) else SampleLoader
    batches = loader(dataset, collate, batch_size=batch_size, workers=workers, seed=seed)
    if batches.steps_per_epoch == 0:
        raise RecipeError(
            f"loop.batch_size ({batch_size}) is more than the {len(dataset)} training samples; set it to at most that"
        )
    return batches


def eval_loader(dataset: Dataset, collate: Collate, *, batch_size: int, workers: int) -> DataLoader:
    """Every sample exactly once, in order, the last batch as large as it comes."""
    return DataLoader(
        dataset, batch_size, num_workers=workers, pin_memory=torch.cuda.is_available(), collate_fn=collate
    )
