"""A teacher's answers, written once: training from them is training with the teacher."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tqdm import tqdm

from fastvit.errors import RunError, RunStopped
from fastvit.runtime.processes import ALONE, Processes
from fastvit.runtime.randomness import Purpose, seed_everything
from fastvit.runtime.signals import StopSignals
from fastvit.tasks import load_recipe, make_task
from fastvit.tasks.classification.answers import Epoch
from fastvit.tasks.classification.distillation import spread, stored_targets
from fastvit.tasks.classification.teach import Recording, teach
from fastvit.training.engine import Trainer, train
from fastvit.training.learner import Learner
from fastvit.training.loaders import loader_of
from teaching import EPOCHS, recipe_of, start_training, taught

CPU = torch.device("cpu")


@pytest.fixture
def recipe(digits_and_teacher: Path, tmp_path: Path):
    """A function from overrides to a recipe with a live teacher."""
    return partial(recipe_of, digits_and_teacher, tmp_path / "run")


def run(recipe, name: str) -> Trainer:
    recipe = load_recipe(recipe.to_dict(), [f"output={recipe.output.with_name(name)}"])
    return train(make_task(recipe), recipe)


def assert_same_end(actual: Trainer, expected: Trainer) -> None:
    for key in ("state_dict", "state_dict_ema", "optimizer"):
        torch.testing.assert_close(actual.state()[key], expected.state()[key], rtol=0, atol=0, msg=key)
    losses = [[row[name] for name in row if name.startswith("train_")] for row in actual.history]
    assert losses == [[row[name] for name in row if name.startswith("train_")] for row in expected.history]


def test_training_from_stored_answers_is_training_with_the_teacher(recipe, tmp_path: Path):
    """Bit for bit, with mixing, erasing, accumulation, and an interruption in the middle of an epoch."""
    live = recipe("loop.accumulation=2")
    expected = run(live, "live")
    teach(make_task(live), tmp_path / "answers")
    stored = taught(recipe, tmp_path / "answers", "loop.accumulation=2", "loop.checkpoint_steps=1")

    step = Learner.step

    def interrupted(self: Learner, number: int, *arguments, **options):
        if number == 4:
            raise KeyboardInterrupt
        return step(self, number, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(stored, "run")
    resumed = train(make_task(stored), stored, resume_from=stored.output / "last.pt")
    assert_same_end(resumed, expected)
    other = run(recipe("loop.accumulation=2", "distillation.alpha=0.4"), "other")
    with pytest.raises(AssertionError):
        assert_same_end(other, expected)


def record(task, epoch: int, *, count: int = 1) -> Epoch:
    """An epoch of answers by several processes, one after the other."""
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Processes, "largest", lambda self, *numbers: list(numbers))
        patch.setattr(Processes, "gather", lambda self, value: said.append(value) or [value])
        patch.setattr(Recording, "_joined", lambda self, parts: None)
        for rank in range(count):
            recording = recording_of(task, Processes(rank, count))
            recording._epoch(epoch, StopSignals(), tqdm(disable=True))
    return recording._joined(said)


def recording_of(task, processes: Processes = ALONE) -> Recording:
    return Recording(task, loader_of(task, task.open_data("train"), processes), processes)


def test_processes_and_accumulated_parts_see_the_same_images(recipe):
    one = record(make_task(recipe("loop.accumulation=2")), 1)
    two = record(make_task(recipe()), 1, count=2)
    assert np.array_equal(one.answers, two.answers)
    assert one.digests == two.digests
    assert len(np.unique(one.answers["classes"])) > 1  # else any order would do
    whole = record(make_task(recipe()), 1)
    assert not np.array_equal(one.answers, whole.answers)  # other pairs are mixed
    assert one.digests == whole.digests  # of the same images


def test_a_recording_goes_on_after_the_last_whole_epoch(recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, task = tmp_path / "answers", make_task(recipe())
    whole = teach(task, tmp_path / "whole")
    epoch = Recording._epoch

    def stopped(self: Recording, number: int, *arguments):
        if number == 1:
            raise KeyboardInterrupt
        return epoch(self, number, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Recording, "_epoch", stopped)
        with pytest.raises(KeyboardInterrupt):
            teach(task, path)
    with path.open("ab") as file:
        file.write(b"half a record")  # a kill while writing
    assert teach(task, path).epochs == EPOCHS
    assert path.read_bytes() == whole.path.read_bytes()
    assert len(path.read_bytes()) == whole.size_with(EPOCHS)
    longer = teach(make_task(recipe("schedule.epochs=3")), path)
    assert longer.epochs == 3
    assert path.read_bytes().startswith(whole.path.read_bytes())


def test_a_signal_ends_a_recording_with_the_step(recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Processes, "largest", lambda self, *numbers: [15])
    with pytest.raises(RunStopped, match="stopped in epoch 1; the same command goes on"):
        teach(make_task(recipe()), tmp_path / "answers")


# ---- soft answers ----------------------------------------------------------------------------------------------------


def test_soft_answers_are_within_their_rounding(recipe, tmp_path: Path):
    """All ten classes are kept: half precision is all that is lost, one part in 2048."""
    soft = ("distillation.kind=soft", "distillation.temperature=2.0")
    task = make_task(recipe(*soft))
    file = teach(task, tmp_path / "answers")
    loader = recording_of(task).loader
    student = make_task(taught(recipe, file.path, *soft))
    student.prepare_training(CPU, student.open_data("train"), loader)
    teacher = task.build_teacher(CPU)
    for step, (images, labels, stored) in enumerate(student.training_batches(loader, 0, 0)):
        seed_everything(student.recipe.seed, Purpose.STEP, step, 0)
        seen, _ = student.augment(images, labels)
        expected = F.softmax(teacher(seen) / 2, dim=1)
        targets = stored_targets(student.recipe.distillation, stored, 10)
        torch.testing.assert_close(targets, expected, rtol=1.5 / 2048, atol=1e-7)
    assert step == 2


def test_what_is_not_stored_is_spread_evenly():
    probabilities = torch.softmax(3 * torch.randn(5, 100), dim=1)
    largest, classes = probabilities.topk(10)
    whole = spread(classes, largest, 100)
    torch.testing.assert_close(whole.sum(1), torch.ones(5))
    torch.testing.assert_close(whole.gather(1, classes), largest)
    others = whole.scatter(1, classes, torch.nan)
    rest = (1 - largest.sum(1)) / 90
    for row, expected in zip(others, rest, strict=True):
        torch.testing.assert_close(row[~row.isnan()], expected.expand(90))


def test_soft_answers_serve_for_hard_ones(recipe, tmp_path: Path):
    hard = record(make_task(recipe()), 0)
    soft = record(make_task(recipe("distillation.kind=soft")), 0)
    assert np.array_equal(soft.answers["classes"][:, :1], hard.answers["classes"])
    path = teach(make_task(recipe("distillation.kind=soft")), tmp_path / "answers").path
    start_training(taught(recipe, path))
    hard_path = teach(make_task(recipe()), tmp_path / "hard").path
    with pytest.raises(RunError, match=r"these differ: distillation\.kind: hard -> soft"):
        start_training(taught(recipe, hard_path, "distillation.kind=soft"))
