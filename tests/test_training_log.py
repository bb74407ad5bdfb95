"""What a run tells of itself."""

import csv
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fastvit.errors import MissingPackage
from fastvit.tasks import load_recipe
from fastvit.training.log import LossMeter, Progress, RunLog, curves, describe, loss_figures
from fastvit.training.run_folder import RunFolder

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart" / "digits.yaml"
ROW = {"epoch": 1, "step": 10, "train_loss": 0.5, "val_top1": 80.0}


def test_losses_are_means_over_the_steps_and_add_up():
    meter = LossMeter()
    for value in (1.0, 2.0, 6.0):
        meter.update({"box": torch.tensor(value), "mask": torch.tensor(1.0)})
    assert loss_figures(meter.means()) == {"train_loss": 4.0, "train_box": 3.0, "train_mask": 1.0}


def test_a_meter_goes_on_where_it_was():
    whole, first = LossMeter(), LossMeter()
    values = torch.rand(10)
    for value in values:
        whole.update({"loss": value})
    for value in values[:4]:
        first.update({"loss": value})
    second = LossMeter.restored(first.state(), torch.device("cpu"))
    for value in values[4:]:
        second.update({"loss": value})
    assert torch.equal(second.means()["loss"], whole.means()["loss"])


def test_the_line_about_an_epoch_tells_the_headline_and_fits_a_terminal():
    """Of detection, which has five terms of the loss and twelve figures; log.csv has them all."""
    terms = dict.fromkeys(("loss", "loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness"), 0.123456)
    figures = {f"{kind}_{name}": 38.91234 for kind in ("box", "mask") for name in ("ap", "ap50", "ap75", "ap_small")}
    row = {"epoch": 11, "step": 81312, "lr": 2.5e-06, **{f"train_{name}": value for name, value in terms.items()}}
    row |= {"images_per_second": 123.4, "data_wait": 0.01, **{f"val_{name}": ap for name, ap in figures.items()}}
    line = describe(row | {"val_samples": 5000}, 12, ("box_ap", "mask_ap"))
    assert line == "epoch 11/12  lr 2.5e-06  train_loss 0.1235  val_box_ap 38.91  val_mask_ap 38.91  123 images/s"
    assert len(line) <= 100
    assert "raw_box_ap 12" in describe(row | {"raw_box_ap": 12.0}, 12, ("box_ap", "mask_ap"))
    assert "val_mask_ap75 38.91" in describe(row, 12)


def test_the_best_epoch_is_marked_in_the_curves():
    history = [ROW | {"epoch": epoch, "val_top1": top1} for epoch, top1 in ((1, 50.0), (2, 81.25), (3, 75.0))]
    for axes in curves(history, "top1", 2).axes:
        mark = axes.lines[-1]
        assert list(mark.get_xdata()) == [2, 2]
        assert mark.get_label() == "best: epoch 2, top1 81.25"


def test_the_table_has_what_any_epoch_has(tmp_path):
    """Of a run that began on a GPU, and goes on without one."""
    log = RunLog(RunFolder(tmp_path), load_recipe(QUICKSTART), "top1", 0)
    log.write_files([ROW | {"memory_gib": 1.5}, ROW | {"epoch": 2}], 1)
    log.close()
    with (tmp_path / "log.csv").open() as file:
        assert [(row["epoch"], row["memory_gib"]) for row in csv.DictReader(file)] == [("1", "1.5"), ("2", "")]


def test_without_a_step_there_is_no_loss():
    assert math.isnan(loss_figures(LossMeter().means())["train_loss"])


def test_waiting_for_data_is_a_share_of_the_time(monkeypatch):
    now = iter(range(100))  # each look at the clock is a second later than the one before
    monkeypatch.setattr("fastvit.training.log.time", SimpleNamespace(monotonic=lambda: float(next(now))))
    progress = Progress(10, 0, 8, shown=False)  # looks twice, the epoch begins at 1
    with progress.waiting_for_data():  # 2 to 3
        pass
    progress.advance(1, 0.1, LossMeter())
    assert progress.figures(torch.device("cpu")) == {"images_per_second": 8 / 3, "data_wait": 1 / 3}  # read at 4


class FakeWandb(SimpleNamespace):
    """Takes note of what is asked of Weights & Biases."""

    def __init__(self):
        super().__init__(started=[], logged=[], finished=0, step=0)

    def init(self, **settings):
        self.started.append(settings)
        return self

    def log(self, row, step):
        self.logged.append((row, step))
        self.step = step + 1  # where a resumed run stands

    def finish(self):
        self.finished += 1


def wandb_recipe(tmp_path):
    return load_recipe(QUICKSTART, [f"output={tmp_path}", "log.wandb_project=digits"])


def test_weights_and_biases_get_the_recipe_and_every_row_and_a_resumed_run_is_the_same_one(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    recipe = wandb_recipe(tmp_path)
    for _ in range(2):
        log = RunLog(RunFolder(tmp_path), recipe, "top1", 0)
        log.write([ROW], 1)
        log.close()
    assert fake.logged == [(ROW, 10)]  # which a resumed run tells again, in case a kill has kept it
    assert fake.finished == 2
    first, second = fake.started
    assert first["project"] == "digits"
    assert first["config"] == recipe.to_dict()
    assert first["id"] == second["id"]
    assert first["resume"] == "allow"


def test_without_weights_and_biases_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingPackage, match=r'needs wandb: pip install "fastvit\[wandb\]"'):
        RunLog(RunFolder(tmp_path), wandb_recipe(tmp_path), "top1", 0)
