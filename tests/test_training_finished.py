"""A finished run says what came out and what to type next, and goes on for more epochs."""

import json
import shlex
import shutil
import weakref
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest
from torch.utils.data import ConcatDataset, Subset

from fastvit.cli.main import parse
from fastvit.errors import RunError
from fastvit.training.checkpoint import read_checkpoint, read_resumable, save_checkpoint
from fastvit.training.engine import Trainer, train
from fastvit.training.finished import changes, closing_lines, require_same_epoch
from fastvit.training.recipe import Recipe
from fastvit.training.run_folder import RunFolder
from fastvit.training.schedule import lr_schedule
from fastvit.training.task import Part
from small_task import (
    LOOP,
    PLAN,
    NoisyDigits,
    SmallTask,
    assert_same_run,
    interrupt_after,
    results,
    small_recipe,
    small_run,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    return small_run(tmp_path_factory.mktemp("runs") / "small")


def lengthened(finished: Trainer, folder: Path, **schedule: Any) -> Trainer:
    """A copy of a run, resumed with another schedule."""
    if not folder.exists():
        shutil.copytree(finished.folder.path, folder)
    recipe = small_recipe(folder, schedule=PLAN | schedule)
    return train(SmallTask(recipe), recipe, resume_from=folder / "last.pt")


def own_recipe(folder: Path) -> Recipe:
    """As `--resume` finds it where none is named."""
    return Recipe.model_validate_json(json.dumps(read_checkpoint(folder / "last.pt")["recipe"]))


def test_more_epochs_follow_the_longer_schedule(
    finished: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """And a lengthened run that is interrupted ends with the same bits as one that is not."""
    whole = lengthened(finished, tmp_path / "whole", epochs=5)
    rates = lr_schedule(whole.recipe, 12)
    old, new = finished.history[-1]["lr"], rates(36)
    assert new > 50 * old
    said = f"goes on to 5; the learning rate was {old:.3g} in the last step, and is {new:.3g} in the next"
    assert said in capsys.readouterr().out
    assert results(whole)[:3] == results(finished)
    assert [row["lr"] for row in whole.history[3:]] == [rates(47), rates(59)]
    assert whole.best.value == max(row["val_accuracy"] for row in whole.history)

    with monkeypatch.context() as patch:
        interrupt_after(40, patch)  # before the first new epoch is saved
        with pytest.raises(KeyboardInterrupt):
            lengthened(finished, tmp_path / "cut", epochs=5)
    recipe = own_recipe(tmp_path / "cut")
    assert_same_run(train(SmallTask(recipe), recipe, resume_from=tmp_path / "cut" / "last.pt"), whole)


def test_cooldown_goes_on_at_the_final_rate_and_no_schedule_becomes_shorter(finished: Trainer, tmp_path: Path):
    cooled = lengthened(finished, tmp_path / "run", cooldown_epochs=1)
    assert cooled.history[3]["lr"] == 1e-5  # where the cosine ends
    for schedule, key in (({"epochs": 2, "cooldown_epochs": 1}, "epochs=2"), ({"epochs": 9}, "epochs=9, .*epochs=0")):
        with pytest.raises(RunError, match=rf"^schedule.{key}: .* has had 3 epochs and 1 of cooldown: neither"):
            lengthened(finished, tmp_path / "run", **schedule)


def test_a_run_that_is_not_finished_becomes_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        interrupt_after(15, patch)
        with pytest.raises(KeyboardInterrupt):
            small_run(tmp_path / "run")
    with pytest.raises(RunError, match=r"schedule.epochs=5: .*last.pt has had 1 of its 3 epochs: resume it without"):
        lengthened(None, tmp_path / "run", epochs=5)


def test_a_run_goes_on_with_other_parts_of_a_step(
    finished: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Half the devices and twice the accumulation see the same images; what differs else is said."""
    shutil.copytree(finished.folder.path, tmp_path / "run")
    recipe = small_recipe(tmp_path / "run", schedule=PLAN | {"epochs": 4}, loop=LOOP | {"accumulation": 2})
    trainer = train(SmallTask(recipe), recipe, resume_from=tmp_path / "run" / "last.pt")
    assert (trainer.step, trainer.batches.batch_size) == (48, 50)
    told = "this run had 1 processes x 1 accumulated batches and goes on with 1 x 2: which images are in a step"
    assert told in capsys.readouterr().out
    of_eight = {"recipe": finished.recipe.to_dict(), "statistics": [None] * 8}
    (told,) = changes(of_eight, recipe, 4)
    assert "goes on with 4 x 2: a step sees the same images, mixed in the same way" in told
    assert changes(of_eight, finished.recipe, 8) == []
    of_all = small_recipe(tmp_path / "run", loop=LOOP | {"accumulation": 2, "sync_batch_norm": True})
    (told,) = changes(of_eight | {"recipe": of_all.to_dict() | {"loop": finished.recipe.to_dict()["loop"]}}, of_all, 4)
    assert "seen by a batch norm may not be as before" in told  # it sees those of four processes at a time
    (told,) = changes(of_eight, recipe, 4, of_stream=True)
    assert "which images are in a step" in told


def test_a_resumed_run_does_not_keep_the_checkpoint_in_memory(finished: Trainer, monkeypatch: pytest.MonkeyPatch):
    tensors, left = [], []

    def remember(path: Path) -> dict[str, Any]:
        checkpoint = read_resumable(path)
        tensors.append(weakref.ref(checkpoint["state_dict"]["0.weight"]))
        return checkpoint

    monkeypatch.setattr("fastvit.training.engine.read_resumable", remember)
    monkeypatch.setattr(Trainer, "fit", lambda self: left.extend(tensor() for tensor in tensors))
    train(SmallTask(finished.recipe), finished.recipe, resume_from=finished.folder.last)
    assert left == [None]


class MoreDigits(SmallTask):
    """To whose training data somebody has added a hundred images."""

    def open_data(self, part: str) -> Part:
        samples = super().open_data(part).samples
        return Part(ConcatDataset([samples, Subset(NoisyDigits(train=True, image_size=8), range(100))]))


def test_a_run_goes_on_only_where_an_epoch_has_as_many_steps(finished: Trainer, tmp_path: Path):
    """Else it would stand elsewhere in its epoch, and its schedule would be another."""
    recipe = small_recipe(finished.folder.path, schedule=PLAN | {"epochs": 5})
    assert read_checkpoint(finished.folder.last)["steps_per_epoch"] == 12
    message = "an epoch of this run had 12 steps and would have 13 now: its training data, .*; put them back, or begin"
    with pytest.raises(RunError, match=message):
        train(MoreDigits(recipe), recipe, resume_from=finished.folder.last)


@pytest.mark.parametrize(
    "checkpoint",
    [
        {"history": [], "steps_per_epoch": 12},
        {"history": [{"step": 12}, {"step": 24}]},  # of a time when checkpoints did not say it
    ],
)
def test_the_steps_of_an_epoch_are_in_every_checkpoint(checkpoint: dict[str, Any]):
    require_same_epoch(checkpoint, 12)
    with pytest.raises(RunError, match="had 12 steps and would have 11 now"):
        require_same_epoch(checkpoint, 11)
    require_same_epoch({"history": []}, 11)  # nobody knows


def test_keys_that_recipes_got_later_stop_no_run_and_are_told(
    finished: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    checkpoint = read_checkpoint(finished.folder.last)
    del checkpoint["recipe"]["loop"]["tf32"], checkpoint["recipe"]["loop"]["compile"], checkpoint["recipe"]["log"]
    save_checkpoint(checkpoint, tmp_path / "last.pt")
    recipe = small_recipe(tmp_path, loop=LOOP | {"tf32": False})  # as the run was computed
    assert train(SmallTask(recipe), recipe, resume_from=tmp_path / "last.pt").step == 36
    told = capsys.readouterr().out
    assert "which may change what it does from here on: loop.compile: None -> False; loop.tf32: None -> False\n" in told
    recipe = small_recipe(tmp_path, loop=LOOP | {"clip_grad": 2.0})
    with pytest.raises(RunError, match=r"another recipe; these keys differ: loop.clip_grad: 1.0 -> 2.0$"):
        train(SmallTask(recipe), recipe, resume_from=tmp_path / "last.pt")


def test_the_last_lines_tell_what_came_out_and_what_to_type_next(finished: Trainer):
    history = [{"val_accuracy": value} for value in (0.5, 0.75, 0.625)]
    said = partial(closing_lines, finished.folder, finished.recipe, history, "accuracy", 2)
    first, second, _, *commands = said(exportable=True)
    assert first == "finished: accuracy 0.75 in epoch 2, the best of 3 (0.625 in the last)"
    assert second == f"in {finished.folder.path}: best.pt, last.pt, log.csv, curve.png"
    for line in commands:
        arguments = parse(shlex.split(line, comments=True)[1:])  # as the shell and the command would read it
        assert str(finished.folder.path) in (str(value) for value in vars(arguments).values())
    assert sum(" export " in line for line in commands) == 1
    assert not any(" export " in line for line in said(exportable=False))


def test_a_path_of_windows_is_typed_as_every_shell_takes_it(finished: Trainer):
    folder = RunFolder(PureWindowsPath(r"C:\runs\mine"))
    said = closing_lines(folder, finished.recipe, [{"val_accuracy": 0.5}], "accuracy", 1, exportable=True)
    assert any(line.startswith("  fastvit evaluate C:/runs/mine  ") for line in said)
