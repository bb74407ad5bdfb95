"""A finished run says what came out and what to type next, and goes on for more epochs."""

import json
import shlex
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fastvit.cli.main import parse
from fastvit.errors import RunError
from fastvit.training.checkpoint import read_checkpoint
from fastvit.training.engine import Trainer, train
from fastvit.training.finished import closing_lines
from fastvit.training.recipe import Recipe
from fastvit.training.schedule import lr_schedule
from small_task import PLAN, SmallTask, assert_same_run, interrupt_after, results, small_recipe, small_run


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
