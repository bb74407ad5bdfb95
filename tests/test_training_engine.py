"""The loop: it learns, it counts right, and a resumed run is the uninterrupted one."""

import copy
import csv
import itertools
import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from fastvit.data.notices import LeftOut
from fastvit.errors import RecipeError, RunError, RunStopped
from fastvit.runtime.processes import Processes
from fastvit.tasks import load_recipe, make_task
from fastvit.training.checkpoint import read_checkpoint
from fastvit.training.engine import Trainer, train
from fastvit.training.evaluation import evaluate
from fastvit.training.learner import Learner
from fastvit.training.loaders import loader_of
from fastvit.training.log import RunLog
from fastvit.training.run_folder import RunFolder
from small_task import (
    LOOP,
    ONE_EPOCH,
    PLAN,
    SmallTask,
    assert_same_run,
    interrupt_after,
    small_recipe,
    small_run,
)

QUICKSTART = Path(__file__).parent.parent / "configs" / "quickstart" / "digits.yaml"


@pytest.fixture(scope="module")
def averages() -> list[dict[str, Tensor]]:
    """The moving average of the weights that each epoch of `finished` evaluated."""
    return []


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, averages: list[dict[str, Tensor]]) -> Trainer:
    evaluate_epoch = Trainer._evaluate

    def remember(self: Trainer) -> dict[str, float]:
        averages.append(copy.deepcopy(self.learner.ema.module.state_dict()))
        return evaluate_epoch(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_evaluate", remember)
        return small_run(tmp_path_factory.mktemp("runs") / "small")


def test_it_learns(finished: Trainer):
    losses = [row["train_loss"] for row in finished.history]
    assert losses == sorted(losses, reverse=True)
    assert finished.history[-1]["val_accuracy"] > 0.9


def test_saving_does_not_count_as_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On a clock that saving a checkpoint puts forward by a day."""
    days, save = itertools.count(1), Trainer._save
    passed = [0.0]

    def slowly(self: Trainer) -> None:
        passed[0] = 86400.0 * next(days)
        save(self)

    monkeypatch.setattr(Trainer, "_save", slowly)
    monkeypatch.setattr("fastvit.training.log.time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0]))
    trainer = small_run(tmp_path / "run", schedule=ONE_EPOCH)
    assert trainer.history[0]["images_per_second"] > 1


class Heard(Processes):
    """With another process that has something to say."""

    def gather(self, value: Any) -> list[Any]:
        return [value, ["a: 1", LeftOut("bad", "2.png"), "b: 1"]]


def test_what_any_process_says_about_the_data_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = small_recipe(tmp_path / "run")
    trainer = Trainer(SmallTask(recipe), recipe, RunFolder(recipe.output))
    trainer.processes = Heard()
    trainer.val_data = replace(trainer.val_data, notices=lambda: ["a: 1", LeftOut("bad", "1.png"), "c: 1"])
    of_train = ["a: 1", "b: 1", "bad: 1, such as 2.png"]  # the other process says the same of both
    assert trainer._notices() == [*of_train, "c: 1", "bad: 2, such as 1.png, 2.png"]
    assert trainer._notices() == []


def test_every_validation_sample_counts_once(finished: Trainer):
    assert {row["val_samples"] for row in finished.history} == {540}  # batches of 100


def test_losses_are_logged_by_name_and_add_up(finished: Trainer):
    row = finished.history[-1]
    assert row["train_loss"] == pytest.approx(row["train_cross_entropy"] + row["train_size"])


def test_the_losses_of_an_epoch_are_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    losses, calls = SmallTask.losses, itertools.count()

    def numbered(self: SmallTask, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"epoch": 0 * sum(losses(self, model, batch).values()) + next(calls) // 12}

    monkeypatch.setattr(SmallTask, "losses", numbered)
    trainer = small_run(tmp_path / "run", schedule={"epochs": 2})
    assert [row["train_loss"] for row in trainer.history] == [0, 1]


def test_the_folder_tells_how_it_went(finished: Trainer):
    folder = finished.folder
    with folder.log.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["step"] for row in rows] == ["12", "24", "36"]  # 1257 // 100 steps an epoch
    assert json.loads(folder.environment.read_text())["torch"] == torch.__version__
    assert folder.curve.stat().st_size > 1000
    assert any(folder.tensorboard.iterdir())


def test_an_epoch_that_a_kill_has_kept_from_the_log_is_told_once_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe = small_recipe(tmp_path / "run", schedule=ONE_EPOCH, loop={"batch_size": 600})

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "write", interrupted)  # the checkpoint is written
        with pytest.raises(KeyboardInterrupt):
            train(SmallTask(recipe), recipe)
    for _ in range(2):
        folder = train(SmallTask(recipe), recipe, resume_from=recipe.output / "last.pt").folder
        events = EventAccumulator(str(folder.tensorboard)).Reload()
        assert [event.step for event in events.Scalars("val/accuracy")] == [2]
        assert len(folder.log.read_text().splitlines()) == 2


def test_best_holds_the_evaluated_weights_of_the_best_epoch(finished: Trainer, averages: list[dict[str, Tensor]]):
    best = read_checkpoint(finished.folder.best)
    assert best["metrics"]["val_accuracy"] == max(row["val_accuracy"] for row in finished.history)
    assert best["recipe"] == finished.recipe.to_dict()
    model = SmallTask(finished.recipe).build_model()
    model.load_state_dict(best["state_dict"])
    assert len(averages) == 3
    assert best["metrics"]["epoch"] == finished.best.epoch
    torch.testing.assert_close(best["state_dict"], averages[finished.best.epoch - 1], rtol=0, atol=0)


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    finished: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe = small_recipe(tmp_path / "run", loop=LOOP | {"checkpoint_steps": 5})
    with monkeypatch.context() as patch:
        interrupt_after(18, patch)  # saved after step 15, and the epoch before after step 12
        with pytest.raises(KeyboardInterrupt):
            train(SmallTask(recipe), recipe)
    torch.rand(7)  # random states are not what makes it equal
    resumed = train(SmallTask(recipe), recipe, resume_from=recipe.output / "last.pt")
    assert_same_run(resumed, finished)


@pytest.mark.parametrize(("before", "rank", "now"), [(2, 0, 1), (1, 1, 2)])
def test_with_another_number_of_processes_each_goes_on_with_what_the_first_has_seen(
    before: int, rank: int, now: int, finished: Trainer, capsys: pytest.CaptureFixture
):
    checkpoint = read_checkpoint(finished.folder.last)
    (own,) = checkpoint["statistics"]
    first = [[statistic + 1 for statistic in each] for each in own]
    trainer = Trainer(SmallTask(finished.recipe), finished.recipe, finished.folder)
    trainer.processes = Processes(rank, now)
    trainer.restore(checkpoint | {"statistics": [first, own][:before]})
    torch.testing.assert_close(trainer.learner.statistics(), first, rtol=0, atol=0)
    assert trainer.step == finished.step
    said = f"this run had {before} processes x 1 accumulated batches and goes on with {now} x 1: which images are in a"
    assert (said in capsys.readouterr().out) == (rank == 0)


def test_a_checkpoint_is_of_all_processes_and_none_leaves_before_it_is_there(tmp_path: Path):
    recipe = small_recipe(tmp_path / "run")
    trainer = Trainer(SmallTask(recipe), recipe, RunFolder(recipe.output))
    trainer.folder.path.mkdir()
    trainer.losses.update({"loss": torch.tensor(1.0)})
    waited = []

    class Two(Processes):
        """With another one, whose loss is 5."""

        def gather(self, value: Any) -> list[Any]:
            return [value, value]

        def average(self, tensors: list[Tensor]) -> None:
            for tensor in tensors:
                tensor += 2

        def on_main(self, action: Callable[[], Any]) -> None:
            if self.is_main:
                action()
            waited.append((self.rank, trainer.folder.last.exists()))

    for rank in (1, 0):
        trainer.processes = Two(rank, 2)
        trainer._save()
    assert waited == [(1, False), (0, True)]
    assert read_checkpoint(trainer.folder.last)["losses"] == {"sums": {"loss": 3.0}, "steps": 1}
    assert trainer.losses.state() == {"sums": {"loss": 1.0}, "steps": 1}


def test_one_message_for_each_step_tells_the_processes_of_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whichever process gets it, all stop after the same step."""
    messages = []

    def largest(self: Processes, *numbers: int) -> list[int]:
        messages.append(numbers)
        return [numbers[0], signal.SIGTERM] if len(messages) == 7 else list(numbers)

    monkeypatch.setattr(Processes, "largest", largest)
    with pytest.raises(RunStopped, match="stopped at step 7 of 36") as caught:
        small_run(tmp_path / "run")
    assert caught.value.number == signal.SIGTERM
    assert messages == [(False, 0)] * 7
    assert read_checkpoint(tmp_path / "run" / "last.pt")["step"] == 7


def test_kernels_are_chosen_by_the_recipe_while_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By default as timm's and Apple's scripts do."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32)
    seen = []

    def look(self: Learner, *arguments: Any, **options: Any) -> None:
        seen.append((cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32))
        raise KeyboardInterrupt

    monkeypatch.setattr(Learner, "step", look)
    for loop in ({}, {"tf32": False}, {"cudnn_benchmark": False}):
        with pytest.raises(KeyboardInterrupt):
            small_run(tmp_path / "run", loop=LOOP | loop)
    assert seen == [(True, True, True), (True, False, False), (False, True, True)]
    assert (cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32) == before


def test_the_batches_are_made_for_the_device_that_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked, engine = [], "fastvit.training.engine"
    for name in ("loader_of", "eval_loader"):
        make = getattr(sys.modules[engine], name)
        monkeypatch.setattr(
            f"{engine}.{name}", lambda *some, make=make, **more: asked.append((some, more)) or make(*some, **more)
        )
    recipe = small_recipe(tmp_path / "run")
    trainer = Trainer(SmallTask(recipe), recipe, RunFolder(recipe.output))
    assert any(each is trainer.device for each in asked[0][0])
    assert asked[1][1]["device"] is trainer.device
    on_gpu = loader_of(trainer.task, trainer.train_data, Processes(), torch.device("cuda"))
    assert on_gpu.loader.pin_memory


def test_a_folder_that_holds_a_run_is_refused_and_left_alone(finished: Trainer):
    before = {path: path.stat().st_mtime_ns for path in finished.folder.path.rglob("*")}
    with pytest.raises(RunError, match="already holds a run: continue it with --resume"):
        train(SmallTask(finished.recipe), finished.recipe)
    assert {path: path.stat().st_mtime_ns for path in finished.folder.path.rglob("*")} == before


def test_another_recipe_is_refused_by_the_names_of_its_keys(finished: Trainer):
    recipe = small_recipe(finished.folder.path, schedule=PLAN | {"min_lr": 1e-6}, data={"workers": 1})
    with pytest.raises(RunError, match=r"another recipe; these keys differ: schedule.min_lr: 1e-05 -> 1e-06$"):
        train(SmallTask(recipe), recipe, resume_from=recipe.output / "last.pt")


def test_without_a_moving_average_the_model_itself_is_evaluated(tmp_path: Path):
    trainer = small_run(tmp_path / "run", ema=None, schedule=ONE_EPOCH)
    assert trainer.learner.eval_model is trainer.learner.model
    assert "state_dict_ema" not in read_checkpoint(trainer.folder.last)


def test_bfloat16_and_channels_last_run(tmp_path: Path):
    loop = {"batch_size": 100, "precision": "bfloat16", "channels_last": True}
    trainer = small_run(tmp_path / "run", loop=loop, schedule=ONE_EPOCH, optimizer={"lr": 1e-2})
    assert trainer.history[-1]["val_accuracy"] > 0.7
    assert next(trainer.learner.model.parameters()).dtype == torch.float32


class DenseTask(SmallTask):
    """Without batch norm and dropout, so that a batch is the sum of its parts."""

    def build_model(self, *, initial_weights: bool = True) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))


def test_accumulated_batches_make_the_step_of_the_whole_batch(tmp_path: Path):
    whole, parts = (
        small_recipe(tmp_path / name, loop=LOOP | {"accumulation": n}, schedule=ONE_EPOCH)
        for name, n in (("a", 1), ("b", 4))
    )
    whole, parts = train(DenseTask(whole), whole), train(DenseTask(parts), parts)
    assert parts.batches.batch_size == 25
    torch.testing.assert_close(parts.learner.model.state_dict(), whole.learner.model.state_dict(), rtol=1e-4, atol=1e-5)
    assert parts.history[-1]["train_loss"] == pytest.approx(whole.history[-1]["train_loss"], rel=1e-4)


@pytest.mark.parametrize(
    "loop",
    [
        pytest.param({"precision": "float16"}, id="float16"),
        pytest.param({"compile": True, "precision": "float32"}, id="compile", marks=pytest.mark.slow),
        pytest.param({"compile": True, "accumulation": 2, "precision": "bfloat16"}, id="all", marks=pytest.mark.slow),
    ],
)
def test_other_ways_to_compute_learn_as_well(loop: dict[str, Any], finished: Trainer, tmp_path: Path):
    trainer = small_run(tmp_path / "run", loop=LOOP | loop)
    assert trainer.history[-1]["train_loss"] == pytest.approx(finished.history[-1]["train_loss"], rel=0.1)
    assert list(trainer.learner.model.state_dict()) == list(finished.learner.model.state_dict())  # no wrapper's prefix
    if loop["precision"] == "float16":
        scaler = read_checkpoint(trainer.folder.last)["scaler"]
        assert scaler == trainer.learner.scaler.state_dict()
        assert 0 < scaler["_growth_tracker"] <= 36


def test_gradient_checkpointing_changes_nothing_but_memory(tmp_path: Path):
    finals = []
    for name, on in (("a", False), ("b", True)):
        overrides = (f"output={tmp_path / name}", f"loop.grad_checkpointing={json.dumps(on)}", "loop.batch_size=8")
        recipe = load_recipe(QUICKSTART, overrides)
        trainer = Trainer(make_task(recipe), recipe, RunFolder(recipe.output))
        assert all(stage.grad_checkpointing == on for stage in trainer.learner.model.stages)
        trainer.learner.model.train()
        batches = itertools.islice(trainer.batches.batches(0), 2)
        finals.append([trainer.learner.step(step, [batch]).losses for step, batch in enumerate(batches)])
    torch.testing.assert_close(finals[1], finals[0])


def test_gradient_checkpointing_of_a_network_that_cannot(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"loop\.grad_checkpointing: Sequential cannot do it"):
        small_run(tmp_path / "run", loop=LOOP | {"grad_checkpointing": True})


def test_the_moving_average_counts_and_the_network_itself_is_evaluated_too(finished: Trainer):
    averaged, raw = finished.learner.ema.module, finished.learner.model
    torch.manual_seed(0)  # of the noise in the images
    row = finished._evaluate()
    assert row["val_samples"] == 540
    for model, accuracy in ((averaged, row["val_accuracy"]), (raw, row["raw_accuracy"])):
        torch.manual_seed(0)
        (alone,) = evaluate(finished.task, [model], finished.val_batches, device=finished.device)
        assert alone.report()["accuracy"] == accuracy
    assert row["val_accuracy"] != row["raw_accuracy"]
