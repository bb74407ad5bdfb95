"""Batches as a function of (epoch, position): the same whenever and with however many workers they are asked for."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, Subset, get_worker_info

from fastvit.errors import RecipeError
from fastvit.runtime.data_workers import CPU, worker_options
from fastvit.runtime.processes import ALONE, Processes
from fastvit.runtime.randomness import Purpose, derive_seed, seed_cpu, seeded

if TYPE_CHECKING:
    from fastvit.training.task import Part, Task

Collate = Callable[[list[Any]], Any]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How training data become batches.

    Attributes:
        batch_size: of a step, over all processes and accumulated batches.
        accumulation: batches of a process, one after the other, that make a step.
        workers: that read data; 0: this process.
        seed: of the order and of the augmentation.
        processes: this process among all.
        device: that the batches go to.
    """

    batch_size: int
    accumulation: int = 1
    workers: int
    seed: int
    processes: Processes = ALONE
    device: torch.device = CPU

    @property
    def at_a_time(self) -> int:
        """The samples of one batch of one process."""
        return self.batch_size // (self.accumulation * self.processes.count)


class EpochSampler(Sampler[tuple[int, int]]):
    """Each epoch's permutation of the samples, from any position on, as (epoch, index).

    The epoch travels with the index because workers that live on from epoch to epoch see nothing else of the sampler.

    Args:
        batch_size, processes: of each run of `batch_size * processes.count` samples this process takes its part.
        groups: of the samples, if batches are to be of one group each; see `grouped`.
    """

    def __init__(
        self, size: int, seed: int, *, batch_size: int, processes: Processes = ALONE, groups: Tensor | None = None
    ):
        self.size, self.seed, self.batch_size, self.processes = size, seed, batch_size, processes
        self.groups = groups
        self.epoch, self.start = 0, 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = self.order()
        for first in self.firsts():
            yield from ((self.epoch, index) for index in order[first : first + self.batch_size])

    def order(self) -> list[int]:
        """The samples in the order of the epoch, those of all processes."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, Purpose.ORDER, self.epoch))
        order = torch.randperm(self.size, generator=generator)
        return (order if self.groups is None else grouped(order, self.groups, self.batch_size, generator)).tolist()

    def firsts(self) -> range:
        """The position in the epoch's order of the first sample of each batch."""
        own = self.start + self.batch_size * self.processes.rank
        return range(own, self.size, self.batch_size * self.processes.count)


def grouped(order: Tensor, groups: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
    """The samples in an order in which each batch is of one group, as far as possible, the batches in random order.

    What is left of the groups, less than a batch of each, fills mixed batches, so that small groups are seen too. What
    does not fill a batch is left out: the end of the given order, so that it is another in each epoch.
    """
    order = order[: len(order) // batch_size * batch_size]
    whole, rest = [], []
    for group in groups.unique():
        members = order[groups[order] == group]
        count = len(members) // batch_size * batch_size
        whole.append(members[:count])
        rest.append(members[count:])
    batches = torch.cat([*whole, *rest]).view(-1, batch_size)
    return batches[torch.randperm(len(batches), generator=generator)].flatten()


class SeededSamples(Dataset):
    """A map-style dataset whose augmentation of a sample depends on (seed, epoch, index) only."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, position: tuple[int, int]) -> Any:
        epoch, index = position
        if get_worker_info():  # where nobody else draws: putting the states back takes a third of a millisecond
            seed_cpu(self.seed, Purpose.SAMPLE, epoch, index)
            return self.dataset[index]
        with seeded(self.seed, Purpose.SAMPLE, epoch, index):
            return self.dataset[index]


class SeededStream(IterableDataset):
    """A stream whose augmentation of a sample depends on (seed, epoch, worker, position in the worker's stream)."""

    def __init__(self, dataset: IterableDataset, seed: int, processes: Processes):
        self.dataset, self.seed, self.processes = dataset, seed, processes
        self.epoch = 0

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker = self.processes.rank * (info.num_workers if info else 1) + (info.id if info else 0)
        samples = iter(self.dataset)
        for position in count():
            with seeded(self.seed, Purpose.SAMPLE, self.epoch, worker, position):
                try:
                    sample = next(samples)
                except StopIteration:
                    return
            yield sample


class PartOfStream(IterableDataset):
    """This process's part of a stream that all read as a whole: one sample in `processes.count`."""

    def __init__(self, dataset: IterableDataset, processes: Processes):
        self.dataset, self.processes = dataset, processes

    def __iter__(self) -> Iterator[Any]:
        return islice(self.dataset, self.processes.rank, None, self.processes.count)


class SampleLoader:
    """Training batches of a map-style dataset. The last, partial step is left out: batch norm would suffer from it.

    Args:
        groups: of the samples; those of one group share the batches of a process.
    """

    def __init__(self, dataset: Dataset, collate: Collate, plan: Plan, groups: Tensor | None = None):
        self.step_size, self.batch_size = plan.batch_size, plan.at_a_time
        self.sampler = EpochSampler(
            len(dataset), plan.seed, batch_size=self.batch_size, processes=plan.processes, groups=groups
        )
        self.steps_per_epoch = len(dataset) // self.step_size
        self.loader = DataLoader(
            SeededSamples(dataset, plan.seed),
            self.batch_size,
            sampler=self.sampler,
            drop_last=True,
            collate_fn=collate,
            persistent_workers=plan.workers > 0,
            **worker_options(plan.workers, plan.device),
        )

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of an epoch from the `start`-th step on, each of `batch_size` samples."""
        self.sampler.epoch, self.sampler.start = epoch, start * self.step_size
        return iter(self.loader)

    def placed(self, epoch: int, start: int = 0) -> Iterator[tuple[int, Any]]:
        """As `batches`, each with the position of its first sample in the order of the epoch."""
        batches = self.batches(epoch, start)
        return zip(self.sampler.firsts(), batches, strict=False)  # a partial batch at the end is left out

    def samples(self, epoch: int, positions: Iterable[int]) -> Iterator[Any]:
        """Those at some positions in the order of an epoch, one by one and without workers."""
        self.sampler.epoch = epoch
        order = self.sampler.order()
        return (self.loader.dataset[epoch, order[position]] for position in positions)


class StreamLoader:
    """Training batches of a stream (timm's wds/, tfds/ and hfids/ readers), which shuffles itself by the epoch.

    With several processes, timm's readers give each its part, and that is what their length is about.
    """

    def __init__(self, dataset: IterableDataset, collate: Collate, plan: Plan):
        if plan.workers == 0:
            raise RecipeError(
                "data.workers is 0, but a stream shuffles each epoch in worker processes only: set it to 1 or more"
            )
        self.accumulation, self.batch_size = plan.accumulation, plan.at_a_time
        if reader := getattr(dataset, "reader", None):  # timm's, whose length is of the whole batches of all workers
            reader.batch_size = self.batch_size
            dataset.set_loader_cfg(num_workers=plan.workers)  # type: ignore[attr-defined]
        self.stream = SeededStream(dataset, plan.seed, plan.processes)
        self.steps_per_epoch = len(dataset) // (self.batch_size * self.accumulation)
        self.loader = DataLoader(
            self.stream,
            self.batch_size,
            drop_last=True,
            collate_fn=collate,
            generator=torch.Generator(),
            **worker_options(plan.workers, plan.device),
        )

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of an epoch from the `start`-th step on; the ones before are read and dropped."""
        self.stream.epoch = epoch
        if hasattr(self.stream.dataset, "set_epoch"):
            self.stream.dataset.set_epoch(epoch)
        self.loader.generator.manual_seed(derive_seed(self.stream.seed, Purpose.ORDER, epoch))  # the workers' own seeds
        return islice(self.loader, start * self.accumulation, self.steps_per_epoch * self.accumulation)


TrainLoader = SampleLoader | StreamLoader


def train_loader(dataset: Dataset, collate: Collate, plan: Plan, groups: Tensor | None = None) -> TrainLoader:
    """The training batches of any dataset, this process's part of them.

    Args:
        groups: as in `Part`, of a map-style dataset.

    Raises:
        RecipeError: the batch cannot be divided, or there are fewer samples than it takes.
    """
    if plan.batch_size % (plan.accumulation * plan.processes.count):
        raise RecipeError(
            f"loop.batch_size ({plan.batch_size}) must be a multiple of {plan.processes.count} processes times "
            f"loop.accumulation ({plan.accumulation})"
        )
    stream = isinstance(dataset, IterableDataset)
    batches = StreamLoader(dataset, collate, plan) if stream else SampleLoader(dataset, collate, plan, groups)
    if batches.steps_per_epoch == 0:
        raise RecipeError(
            f"loop.batch_size ({plan.batch_size}) is more than the {len(dataset)} training samples; set it to at most "
            "that"
        )
    return batches


def loader_of(task: "Task", data: "Part", processes: Processes = ALONE, device: torch.device = CPU) -> TrainLoader:
    """The training batches of a task for a device, of data that is open. Raises RecipeError as `train_loader`."""
    recipe, loop = task.recipe, task.recipe.loop
    plan = Plan(
        batch_size=loop.batch_size,
        accumulation=loop.accumulation,
        workers=recipe.data.workers,
        seed=recipe.seed,
        processes=processes,
        device=device,
    )
    return train_loader(data.samples, task.collate, plan, data.groups)


def eval_loader(
    dataset: Dataset,
    collate: Collate,
    *,
    batch_size: int,
    workers: int,
    processes: Processes = ALONE,
    device: torch.device = CPU,
) -> DataLoader:
    """Every sample exactly once, in order, the last batch as large as it comes.

    Of several processes each has a part, and none is padded; in order of rank they are the whole (not of a stream).
    """
    part = dataset
    if processes.count > 1 and isinstance(dataset, IterableDataset):
        part = PartOfStream(dataset, processes)
    elif processes.count > 1:
        part = Subset(dataset, processes.share(len(dataset)))
    return DataLoader(part, batch_size, collate_fn=collate, **worker_options(workers, device))
