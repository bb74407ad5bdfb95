"""What can go wrong in a run: numbers that are not finite, folders that are taken, data that ends too early."""

import copy
import itertools
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvit.errors import DataError, RunError
from fastvit.runtime.processes import Processes
from fastvit.training.checkpoint import read_checkpoint
from fastvit.training.engine import Trainer, train
from fastvit.training.loaders import SampleLoader
from fastvit.training.nonfinite import find_nonfinite
from fastvit.training.run_folder import RunFolder
from fastvit.training.task import Part, open_train_and_val
from small_task import (
    LOOP,
    Accuracy,
    SmallTask,
    interrupt_after,
    small_recipe,
    small_run,
)


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        ("weights", "parameter 0.weight"),
        ("batch", "the batch itself"),
        ("module", "the output of module 2"),
        ("loss", "the loss cross_entropy, of a finite output"),
    ],
)
def test_the_first_that_is_not_finite_is_found(damage: str, finding: str, tmp_path: Path, monkeypatch):
    recipe = small_recipe(tmp_path / "run")
    learner = Trainer(SmallTask(recipe), recipe, RunFolder(recipe.output)).learner
    batch = {"images": torch.rand(4, 1, 8, 8), "labels": torch.zeros(4, dtype=torch.long)}
    assert find_nonfinite(learner, [batch]) is None
    if damage == "weights":
        learner.model[0].weight.data[3] = math.nan
    elif damage == "batch":
        batch["images"][1] = math.inf
    elif damage == "module":
        learner.model[2].register_forward_hook(lambda module, inputs, output: output / 0)
    else:
        monkeypatch.setattr(F, "cross_entropy", lambda logits, labels: logits.sum() * math.nan)
    assert find_nonfinite(learner, [batch]) == finding


class InThreads(Processes):
    """Two processes that are threads. They meet at a barrier, which breaks where one of them does not come."""

    barrier: ClassVar = Barrier(2, timeout=60)  # seconds
    said: ClassVar[dict[int, tuple[int, ...]]] = {}

    def largest(self, *numbers: int) -> list[int]:
        self.said[self.rank] = numbers
        self.barrier.wait()
        largest = [max(each) for each in zip(*self.said.values(), strict=True)]
        self.barrier.wait()  # before one of them says something else
        return largest

    @classmethod
    def meet(cls, *_: Any) -> None:
        """As a hook: what a synchronized batch norm does."""
        cls.barrier.wait()


@pytest.mark.parametrize(("damage", "finding"), [("batch", "the batch itself"), ("module", "the output of module 2")])
def test_processes_that_wait_for_each_other_in_a_batch_norm_all_stop(damage: str, finding: str, tmp_path: Path):
    """What is not finite is in the first of two batches of one process only."""

    def search(rank: int) -> str | None:
        recipe = small_recipe(tmp_path / "run")
        learner = Trainer(SmallTask(recipe), recipe, RunFolder(recipe.output)).learner
        learner.processes = InThreads(rank, 2)
        learner.model[1].register_forward_hook(InThreads.meet)
        batch = {"images": torch.rand(4, 1, 8, 8), "labels": torch.zeros(4, dtype=torch.long)}
        if rank == 1 and damage == "batch":
            batch["images"][1] = math.inf
        elif rank == 1:
            learner.model[2].register_forward_hook(lambda module, inputs, output: output / 0)
        return find_nonfinite(learner, [batch, batch])

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(search, (0, 1))) == [None, finding]


def test_a_run_that_ends_before_its_first_checkpoint_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wandb = SimpleNamespace(finish=lambda: None)
    wandb.init = lambda dir, **_: (Path(dir) / "wandb").mkdir() or wandb  # where it has its own files
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    recipe = small_recipe(tmp_path / "run", log={"wandb_project": "mine"})
    with monkeypatch.context() as patch:
        interrupt_after(5, patch)
        with pytest.raises(KeyboardInterrupt):
            train(SmallTask(recipe), recipe)
    assert not recipe.output.exists()
    Trainer(SmallTask(recipe), recipe, RunFolder(recipe.output)).folder.require_unused()


class FullDisk(SmallTask):
    def write_split(self, train: Part, path: Path) -> None:
        raise OSError("No space left on device")


def test_a_run_that_cannot_write_how_its_images_are_divided_leaves_nothing(tmp_path: Path):
    recipe = small_recipe(tmp_path / "run")
    with pytest.raises(OSError, match="No space left"):
        train(FullDisk(recipe), recipe)
    assert not recipe.output.exists()


@pytest.mark.parametrize("name", ["recipe.yaml", "notes.txt"])
def test_files_in_the_output_are_nobody_s_to_delete(name: str, tmp_path: Path):
    recipe = small_recipe(tmp_path / "run")
    recipe.output.mkdir()
    (recipe.output / name).write_text("mine")
    with pytest.raises(RunError, match=f"is not empty, it holds {name}: choose another output"):
        train(SmallTask(recipe), recipe)
    assert (recipe.output / name).read_text() == "mine"


def test_two_runs_cannot_begin_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And what the first has written stays."""
    recipe = small_recipe(tmp_path / "run")
    first = RunFolder(recipe.output)
    first.create()
    first.describe(recipe)
    written = first.recipe.read_text()
    monkeypatch.setattr(RunFolder, "require_unused", lambda self: None)  # they look at the same time
    with pytest.raises(RunError, match="another run has just begun"):
        train(SmallTask(recipe), recipe)
    assert first.recipe.read_text() == written


def test_an_output_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    recipe = small_recipe(tmp_path / "file" / "run")
    with pytest.raises(RunError, match="file is not a writable folder"):
        train(SmallTask(recipe), recipe)


def diverge(after: int, monkeypatch: pytest.MonkeyPatch):
    """All losses but so many are not finite."""
    losses, calls = SmallTask.losses, itertools.count()

    def diverging(self: SmallTask, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        factor = math.nan if next(calls) >= after else 1.0
        return {name: factor * value for name, value in losses(self, model, batch).items()}

    monkeypatch.setattr(SmallTask, "losses", diverging)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    diverge(20, monkeypatch)
    message = (
        r"not finite for 5 steps, the last of them step 25 \(epoch 3, learning rate .*\)\. Not finite first: the loss"
        r".*set loop.clip_grad in a new run \(a resumed one keeps its recipe\); .*run/last.pt is kept$"
    )
    with pytest.raises(RunError, match=message):
        small_run(tmp_path / "run")
    saved = read_checkpoint(tmp_path / "run" / "last.pt")
    assert saved["step"] == 24
    assert all(tensor.isfinite().all() for tensor in saved["state_dict"].values())


def test_a_loss_that_is_never_finite_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    diverge(0, monkeypatch)
    with pytest.raises(RunError, match=r"the last of them step 5 .*; nothing was saved yet$"):
        small_run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_float16_without_finite_gradients_ends_instead_of_skipping_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The loss is finite; the gradient of a root at zero is not, however little it is scaled."""
    monkeypatch.setattr(
        SmallTask,
        "losses",
        lambda self, model, batch: {"root": (output := model(batch["images"])).sub(output.detach()).sqrt().mean()},
    )
    message = r"precision is float16, and the gradients are not finite .* before step 40 .*bfloat16.* nothing was saved"
    with pytest.raises(RunError, match=message):
        small_run(tmp_path / "run", loop={"batch_size": 10, "precision": "float16"})


def test_a_metric_that_is_not_a_number_is_the_best_until_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    values = iter((math.nan, 0.5, 0.25, math.nan))
    monkeypatch.setattr(Accuracy, "report", lambda self: {"accuracy": next(values), "samples": 540})
    trainer = small_run(tmp_path / "run", ema=None, loop={"batch_size": 600}, schedule={"epochs": 4})
    assert (trainer.best.epoch, trainer.best.value) == (2, 0.5)
    assert read_checkpoint(trainer.folder.best)["metrics"]["epoch"] == 2


def test_a_step_whose_loss_is_not_finite_leaves_no_trace(tmp_path: Path):
    recipe = small_recipe(tmp_path / "run", loop=LOOP | {"precision": "bfloat16"})
    trainer = Trainer(SmallTask(recipe), recipe, RunFolder(recipe.output))
    trainer.learner.model.train()
    good, bad = itertools.islice(trainer.batches.batches(0), 2)
    bad["images"][3, 0, 4, 4] = math.inf
    trainer.learner.step(0, [good])
    before = copy.deepcopy(trainer.learner.state())
    assert trainer.learner.step(1, [bad]).losses is None
    after = trainer.learner.state()
    for key in ("state_dict", "state_dict_ema"):
        torch.testing.assert_close(after[key], before[key], rtol=0, atol=0)
    torch.testing.assert_close(after["optimizer"]["state"], before["optimizer"]["state"], rtol=0, atol=0)
    assert trainer.learner.step(2, [good]).losses is not None


def test_the_same_classes_in_another_order_are_other_labels(tmp_path: Path):
    class Named(SmallTask):
        def open_data(self, part: str) -> Part:
            return Part([], class_names=("cat", "dog") if part == "train" else ("dog", "cat"))

    with pytest.raises(DataError, match="different classes: the same names in another order"):
        open_train_and_val(Named(small_recipe(tmp_path / "run")))


def test_data_that_ends_too_early_is_an_error_not_a_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    batches = SampleLoader.batches
    monkeypatch.setattr(SampleLoader, "batches", lambda *arguments: itertools.islice(batches(*arguments), 7))
    with pytest.raises(RunError, match="the data ended at step 7, within epoch 1 of 12 steps"):
        small_run(tmp_path / "run")
