"""Batches depend on the seed, the epoch and the position, and on nothing else."""

import random
from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, default_collate

from fastvit.errors import RecipeError
from fastvit.runtime.processes import Processes
from fastvit.runtime.randomness import Purpose, derive_seed, seeded
from fastvit.training.loaders import EpochSampler, Plan, eval_loader, train_loader


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), torch.rand(1).item()


class Noise(Dataset):
    """Samples of an index and random numbers of all three generators."""

    def __len__(self) -> int:
        return 23

    def __getitem__(self, index: int) -> tuple[int, tuple[float, float, float]]:
        return index, draw()


class NoiseStream(IterableDataset):
    def __len__(self) -> int:
        return 23

    def __iter__(self):
        return (Noise()[index] for index in range(len(self)))


def batches(
    dataset: Dataset, epoch: int, start: int = 0, *, workers: int | None = None, **options: int
) -> list[torch.Tensor]:
    if workers is None:
        workers = int(isinstance(dataset, IterableDataset))
    loader = train_loader(dataset, default_collate, Plan(workers=workers, **{"batch_size": 4, "seed": 0, **options}))
    return [torch.stack((indices, *noise)) for indices, noise in loader.batches(epoch, start)]


def test_every_epoch_and_every_seed_has_a_permutation_of_its_own():
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        sampler = EpochSampler(100, seed=seed, batch_size=4)
        sampler.epoch = epoch
        orders.append(tuple(index for _, index in sampler))
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(100))}
    assert len(set(orders)) == 3


@pytest.mark.parametrize("dataset", [Noise(), NoiseStream()], ids=["samples", "stream"])
def test_an_epoch_resumed_in_the_middle_gives_the_rest(dataset: Dataset):
    whole, rest = batches(dataset, epoch=1), batches(dataset, epoch=1, start=2)
    assert len(whole) == 5  # the partial batch is left out
    torch.testing.assert_close(rest, whole[2:], rtol=0, atol=0)
    halves = {"batch_size": 8, "accumulation": 2}  # then a step is two batches
    whole, rest = batches(dataset, epoch=1, **halves), batches(dataset, epoch=1, start=1, **halves)
    torch.testing.assert_close(rest[:2], whole[2:4], rtol=0, atol=0)


def test_single_samples_are_those_of_the_batches_of_all_processes():
    whole = torch.cat(batches(Noise(), 1), dim=1)
    loader = train_loader(Noise(), default_collate, Plan(batch_size=4, workers=0, seed=0, processes=Processes(1, 2)))
    for position, (index, noise) in zip((17, 0), loader.samples(1, (17, 0)), strict=True):
        assert torch.equal(torch.tensor([index, *noise], dtype=torch.float64), whole[:, position])


def test_augmentation_does_not_depend_on_the_number_of_workers():
    torch.testing.assert_close(batches(Noise(), 1, workers=2), batches(Noise(), 1), rtol=0, atol=0)


@pytest.mark.parametrize("dataset", [Noise(), NoiseStream()], ids=["samples", "stream"])
def test_augmentation_differs_between_samples_epochs_and_seeds(dataset: Dataset):
    noise = [batches(dataset, 0), batches(dataset, 1), batches(dataset, 0, seed=1)]
    values = torch.cat([batch[1:].flatten() for run in noise for batch in run])
    assert len(values.unique()) == len(values)


def test_workers_that_live_on_see_the_new_epoch():
    loader = train_loader(Noise(), default_collate, Plan(batch_size=4, workers=1, seed=0))
    epochs = [torch.cat([indices for indices, _ in loader.batches(epoch)]) for epoch in (0, 1)]
    assert not torch.equal(*epochs)


def test_seeded_leaves_the_generators_as_they_were():
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    with seeded(0, Purpose.SAMPLE, 1, 2):
        draw()
    assert random.getstate() == states[0]
    np.testing.assert_equal(np.random.get_state(), states[1])
    assert torch.equal(torch.get_rng_state(), states[2])


def test_seeds_differ_by_every_part():
    positions = [(0, Purpose.STEP, 1), (1, Purpose.STEP, 1), (0, Purpose.ORDER, 1), (0, Purpose.STEP, 2)]
    assert len({derive_seed(*position) for position in positions}) == len(positions)


def test_evaluation_sees_every_sample_once_and_in_order():
    loader = eval_loader(Noise(), default_collate, batch_size=4, workers=2)
    assert torch.cat([indices for indices, _ in loader]).tolist() == list(range(23))


def test_a_batch_larger_than_the_data_is_an_error():
    with pytest.raises(RecipeError, match=r"loop.batch_size \(24\) is more than the 23 training samples"):
        train_loader(Noise(), default_collate, Plan(batch_size=24, workers=0, seed=0))


def test_a_stream_without_workers_is_an_error():
    with pytest.raises(RecipeError, match=r"data\.workers is 0, but a stream"):
        train_loader(NoiseStream(), default_collate, Plan(batch_size=4, workers=0, seed=0))


def parts(dataset: Dataset, count: int, **options: int) -> list[list[int]]:
    """The indices that each of several processes sees."""
    plans = [Plan(processes=Processes(rank, count), workers=0, seed=0, **options) for rank in range(count)]
    loaders = [train_loader(dataset, default_collate, plan) for plan in plans]
    return [[index for indices, _ in loader.batches(epoch=0) for index in indices.tolist()] for loader in loaders]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_steps_of_several_processes_are_those_of_one(accumulation: int):
    """Each step is of the same samples, however many processes and parts it has."""
    (whole,) = parts(Noise(), 1, batch_size=8)
    first, second = parts(Noise(), 2, batch_size=8, accumulation=accumulation)
    for step in range(2):
        together = first[4 * step : 4 * step + 4] + second[4 * step : 4 * step + 4]
        assert sorted(together) == sorted(whole[8 * step : 8 * step + 8])


def test_a_batch_that_cannot_be_divided_is_an_error():
    with pytest.raises(RecipeError, match=r"batch_size \(8\) must be a multiple of 3 processes times .* \(2\)"):
        parts(Noise(), 3, batch_size=8, accumulation=2)


@pytest.mark.parametrize("dataset", [Noise(), NoiseStream()], ids=["samples", "stream"])
def test_several_processes_evaluate_every_sample_once(dataset: Dataset):
    loaders = [
        eval_loader(dataset, default_collate, batch_size=4, workers=0, processes=Processes(rank, 3))
        for rank in range(3)
    ]
    seen = [torch.cat([indices for indices, _ in loader]).tolist() for loader in loaders]
    assert sorted(chain(*seen)) == list(range(23))
    if isinstance(dataset, Noise):
        assert list(chain(*seen)) == list(range(23))  # in order of rank, so that merged metrics are in order


def test_batches_are_of_one_group_as_in_mmdetection_and_no_group_is_left_out():
    """Of 103 samples 3 are in a group that fills no batch: they come in mixed batches, as often as all others."""
    groups = torch.tensor([0] * 70 + [1] * 30 + [2] * 3)
    samplers = [EpochSampler(103, seed=0, batch_size=4, processes=Processes(rank, 2), groups=groups) for rank in (0, 1)]
    seen, mixed, first_groups = Counter(), 0, set()
    for epoch in range(200):
        indices = []
        for sampler in samplers:
            sampler.epoch, sampler.start = epoch, 0
            order = [index for _, index in sampler]
            mixed += sum(len(groups[order[first : first + 4]].unique()) > 1 for first in range(0, len(order), 4))
            first_groups.add(int(groups[order[0]]))
            indices += order
        assert len(indices) == len(set(indices)) == 100  # 25 batches; 3 samples fill no other
        seen.update(indices)
    assert mixed <= 2 * 200  # in each epoch at most as many as there are other groups
    assert {0, 1} <= first_groups  # the groups do not come one after the other
    for group in range(3):
        members = (groups == group).nonzero().flatten().tolist()
        assert sum(seen[index] for index in members) / len(members) == pytest.approx(200 * 100 / 103, rel=0.03)


def test_groups_change_neither_the_number_of_steps_nor_resuming():
    groups = torch.tensor([i % 3 == 0 for i in range(23)]).int()
    plan = Plan(batch_size=4, workers=0, seed=0)
    loaders = [train_loader(Noise(), default_collate, plan, each) for each in (None, groups)]
    assert loaders[0].steps_per_epoch == loaders[1].steps_per_epoch == 5
    whole, rest = ([indices.tolist() for indices, _ in loaders[1].batches(2, start)] for start in (0, 2))
    assert rest == whole[2:]
    assert sum(len({int(groups[index]) for index in batch}) > 1 for batch in whole) <= 1


@pytest.mark.parametrize("name", ["cpu", "mps", "cuda"])
@pytest.mark.parametrize("dataset", [Noise(), NoiseStream()], ids=["samples", "stream"])
def test_memory_is_pinned_for_the_gpu_that_the_batches_go_to(dataset: Dataset, name: str, monkeypatch):
    """For what computes elsewhere it would start the GPU, which takes seconds and hundreds of megabytes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    device = torch.device(name)
    train = train_loader(dataset, default_collate, Plan(batch_size=4, workers=1, seed=0, device=device)).loader
    for loader in (train, eval_loader(dataset, default_collate, batch_size=4, workers=1, device=device)):
        assert loader.pin_memory == (name == "cuda")
