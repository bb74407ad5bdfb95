"""The loop: it learns, it counts right, and a resumed run is the uninterrupted one."""

import copy
import csv
import itertools
import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.functional import to_tensor

from fastvit.data.digits import Digits
from fastvit.errors import RecipeError, RunError, RunStopped
from fastvit.runtime.processes import Processes
from fastvit.tasks import load_recipe, make_task
from fastvit.training.checkpoint import read_checkpoint
from fastvit.training.engine import Trainer, train
from fastvit.training.evaluation import evaluate
from fastvit.training.learner import Learner, Step
from fastvit.training.loaders import SampleLoader
from fastvit.training.nonfinite import find_nonfinite
from fastvit.training.recipe import Recipe
from fastvit.training.run_folder import RunFolder
from fastvit.training.task import Metrics, Part, Task

QUICKSTART = Path(__file__).parent.parent / "configs" / "quickstart" / "digits.yaml"


LOOP = {"batch_size": 100, "clip_grad": 1.0}
ONE_EPOCH = {"epochs": 1}
PLAN = {"epochs": 3, "warmup_epochs": 0.5}


class NoisyDigits(Digits):
    """Random augmentation, so that a wrong seed shows."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = super().__getitem__(index)
        return to_tensor(image)[:1] + 0.1 * torch.rand(1, 8, 8), label


class Accuracy(Metrics):
    def __init__(self) -> None:
        self.hits, self.samples = 0, 0

    def update(self, outputs: Tensor, batch: Any) -> None:
        self.hits += int((outputs.argmax(1) == batch["labels"]).sum())
        self.samples += len(outputs)

    def merge(self, other: "Accuracy") -> None:
        self.hits, self.samples = self.hits + other.hits, self.samples + other.samples

    def report(self) -> dict[str, float]:
        return {"accuracy": self.hits / self.samples, "samples": self.samples}


class SmallTask(Task):
    """Batches are dicts, there are two losses, dropout and batch norm: what other tasks will have."""

    best_metric = "accuracy"
    input_size = (1, 8, 8)

    def build_model(self, *, initial_weights: bool = True) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(1024, 10),
        )

    def open_data(self, part: str) -> Part:
        return Part(NoisyDigits(train=part == "train", image_size=8))

    def collate(self, samples: list[Any]) -> dict[str, Tensor]:
        images, labels = zip(*samples, strict=True)
        return {"images": torch.stack(images), "labels": torch.tensor(labels)}

    def losses(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = model(batch["images"])
        return {"cross_entropy": F.cross_entropy(logits, batch["labels"]), "size": 1e-3 * logits.square().mean()}

    def labelled(self, batch: dict[str, Tensor], class_names: Any) -> tuple[Tensor, list[str]]:
        return batch["images"], []

    def predict(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        assert not model.training
        return model(batch["images"])

    def new_metrics(self) -> Metrics:
        return Accuracy()

    def draw(self, model: nn.Module, samples: list[Any], class_names: None):
        raise NotImplementedError


def small_recipe(output: Path, **changes: Any) -> Recipe:
    return Recipe(
        **{
            "task": "small",
            "output": output,
            "data": {"workers": 0},
            "optimizer": {"lr": 3e-3, "weight_decay": 0.05},
            "schedule": PLAN,
            "ema": {"decay": 0.9},
            "loop": LOOP,
            **changes,
        }
    )


def small_run(output: Path, **changes: Any) -> Trainer:
    recipe = small_recipe(output, **changes)
    return train(SmallTask(recipe), recipe)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    return small_run(tmp_path_factory.mktemp("runs") / "small")


def interrupt_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a kill would: at once, and nothing is saved."""
    step = Learner.step

    def interrupted(self: Learner, number: int, *arguments: Any, **options: Any) -> Step:
        if number == steps:
            raise KeyboardInterrupt
        return step(self, number, *arguments, **options)

    monkeypatch.setattr(Learner, "step", interrupted)


def assert_same_run(actual: Trainer, expected: Trainer) -> None:
    """All weights, averages, optimizer states and results, bit for bit; only the speed may differ."""
    for key in ("state_dict", "state_dict_ema", "optimizer", "scaler", "step", "best"):
        torch.testing.assert_close(actual.state()[key], expected.state()[key], rtol=0, atol=0, msg=key)
    assert results(actual) == results(expected)


def results(trainer: Trainer) -> list[dict[str, float]]:
    speed = ("images_per_second", "data_wait", "memory_gib")
    return [{name: value for name, value in row.items() if name not in speed} for row in trainer.history]


def test_it_learns(finished: Trainer):
    losses = [row["train_loss"] for row in finished.history]
    assert losses == sorted(losses, reverse=True)
    assert finished.history[-1]["val_accuracy"] > 0.9


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


def test_best_holds_the_evaluated_weights_of_the_best_epoch(finished: Trainer):
    best = read_checkpoint(finished.folder.best)
    assert best["metrics"]["val_accuracy"] == max(row["val_accuracy"] for row in finished.history)
    assert best["recipe"] == finished.recipe.to_dict()
    model = SmallTask(finished.recipe).build_model()
    model.load_state_dict(best["state_dict"])
    if finished.best.epoch == 3:  # then they are the moving average at the end
        torch.testing.assert_close(best["state_dict"], finished.learner.ema.module.state_dict(), rtol=0, atol=0)


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


def test_a_run_that_ends_before_its_first_checkpoint_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = small_recipe(tmp_path / "run")
    with monkeypatch.context() as patch:
        interrupt_after(5, patch)
        with pytest.raises(KeyboardInterrupt):
            train(SmallTask(recipe), recipe)
    assert not recipe.output.exists()
    Trainer(SmallTask(recipe), recipe, RunFolder(recipe.output)).folder.require_unused()


@pytest.mark.parametrize("name", ["recipe.yaml", "notes.txt"])
def test_files_in_the_output_are_nobody_s_to_delete(name: str, tmp_path: Path):
    recipe = small_recipe(tmp_path / "run")
    recipe.output.mkdir()
    (recipe.output / name).write_text("mine")
    with pytest.raises(RunError, match=f"is not empty, it holds {name}: choose another output"):
        train(SmallTask(recipe), recipe)
    assert (recipe.output / name).read_text() == "mine"


def test_two_runs_cannot_begin_in_one_folder(tmp_path: Path):
    recipe = small_recipe(tmp_path / "run")
    first, second = RunFolder(recipe.output), RunFolder(recipe.output)
    first.require_unused()
    second.require_unused()
    first.create(recipe)
    with pytest.raises(RunError, match="another run has just begun"):
        second.create(recipe)


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
        r".*run/last.pt is kept$"
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


def test_data_that_ends_too_early_is_an_error_not_a_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    batches = SampleLoader.batches
    monkeypatch.setattr(SampleLoader, "batches", lambda *arguments: itertools.islice(batches(*arguments), 7))
    with pytest.raises(RunError, match="the data ended at step 7, within epoch 1 of 12 steps"):
        small_run(tmp_path / "run")
