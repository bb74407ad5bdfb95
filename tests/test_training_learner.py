"""One step: the book's formulas, with the rates of that step; and all that it changes can be put back."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvit.errors import EngineError, RecipeError
from fastvit.runtime.processes import Processes
from fastvit.training.learner import Learner
from fastvit.training.recipe import Recipe
from fastvit.training.schedule import lr_schedule, weight_decay_schedule

STEPS_PER_EPOCH = 4


class Drawing:
    """What the learner asks of a task; remembers one random number of each batch."""

    def __init__(self) -> None:
        self.drawn: list[float] = []

    def losses(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        self.drawn.append(torch.rand(()).item())
        inputs, labels = batch
        return {"cross_entropy": F.cross_entropy(model(inputs), labels)}


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).train()


def learner(model: nn.Module, **changes: Any) -> Learner:
    settings: dict[str, Any] = {
        "task": "none",
        "output": Path("none"),
        "data": {"workers": 0},
        "optimizer": {"lr": 1e-2, "weight_decay": 0.1},
        "schedule": {"epochs": 3, "warmup_epochs": 0.5, "final_weight_decay": 0.3},
        "ema": {"decay": 0.9},
        "loop": {"batch_size": 16},
    }
    recipe = Recipe(**(settings | changes))
    return Learner(Drawing(), model, recipe, device=torch.device("cpu"), steps_per_epoch=STEPS_PER_EPOCH)


def batch(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(16, 6, generator=generator), torch.randint(3, (16,), generator=generator)


def test_a_step_is_by_the_book():
    """Against torch's AdamW: rate and decay of this step, no decay of what has one dimension, the average as timm's."""
    ours, model = learner(network()), network()
    decayed, others = ([p for p in model.parameters() if (p.ndim > 1) == matrix] for matrix in (True, False))
    reference = torch.optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}])
    lr_at, decay_at = (rule(ours.recipe, STEPS_PER_EPOCH) for rule in (lr_schedule, weight_decay_schedule))
    average: list[Tensor] = []
    for step in range(6):
        ours.step(step, [batch(step)])
        for group in reference.param_groups:
            group["lr"] = lr_at(step)
        reference.param_groups[0]["weight_decay"] = decay_at(step)
        reference.zero_grad()
        Drawing().losses(model, batch(step))["cross_entropy"].backward()
        reference.step()
        now = [parameter.detach().clone() for parameter in model.parameters()]
        average = [0.9 * a + 0.1 * p for a, p in zip(average, now, strict=True)] if average else now
    torch.testing.assert_close(list(ours.model.parameters()), list(model.parameters()))
    torch.testing.assert_close(list(ours.ema.module.parameters()), average, check_dtype=True)


def test_what_is_random_depends_on_the_step_and_the_part(monkeypatch: pytest.MonkeyPatch):
    """Two processes draw what one does that accumulates two batches."""

    def draws(count: int, *, seed: int = 0) -> list[list[float]]:
        numbers = []
        for rank in range(count):
            one = learner(network(), loop={"batch_size": 16, "accumulation": 2 // count}, seed=seed)
            one.processes = Processes(rank, count)
            for step in (0, 1):
                one.step(step, [batch(0)] * (2 // count))
            numbers.append(one.task.drawn)
        return numbers

    monkeypatch.setattr(Processes, "largest", lambda self, *numbers: list(numbers))
    (alone,) = draws(1)
    assert len(set(alone)) == 4
    first, second = draws(2)
    assert [first[0], second[0], first[1], second[1]] == alone
    assert not set(draws(1, seed=1)[0]) & set(alone)


def test_all_comes_back():
    """Weights, average, optimizer, gradient scale; and the statistics of this process, which the file has apart."""
    half = {"batch_size": 16, "precision": "float16"}
    trained, new = learner(network(), loop=half), learner(network(seed=1), loop=half)
    for step in range(5):
        trained.step(step, [batch(step)])
    own = [[statistic + 1 for statistic in statistics] for statistics in trained.statistics()]
    new.restore(trained.state(), own)
    assert trained.state()["scaler"]["_growth_tracker"] == 5
    assert new.state()["scaler"] == trained.state()["scaler"]
    torch.testing.assert_close(new.state()["optimizer"], trained.state()["optimizer"], rtol=0, atol=0)
    torch.testing.assert_close(new.statistics(), own, rtol=0, atol=0)
    for restored, model in ((new.model, trained.model), (new.ema.module, trained.ema.module)):
        torch.testing.assert_close(list(restored.parameters()), list(model.parameters()), rtol=0, atol=0)


def test_clipped_is_the_gradient_not_its_scaled_copy():
    """AdamW would not tell."""
    moved = {}
    for precision in ("float32", "float16"):
        one = learner(
            network(),
            optimizer={"name": "sgd", "lr": 1.0, "weight_decay": 0.0},
            schedule={"epochs": 3},
            loop={"batch_size": 16, "clip_grad": 0.01, "precision": precision},
        )
        before = nn.utils.parameters_to_vector(one.model.parameters()).detach().clone()
        one.step(0, [batch(0)])
        moved[precision] = (nn.utils.parameters_to_vector(one.model.parameters()) - before).norm()
    torch.testing.assert_close(moved["float16"], moved["float32"], rtol=0.01, atol=0)


def test_synchronized_batch_norm_is_refused_where_torch_has_none():
    one = learner(network(), loop={"batch_size": 16, "sync_batch_norm": True})  # nothing to synchronize: as it is
    with pytest.raises(RecipeError, match=r"^loop\.sync_batch_norm: torch has it for GPUs only; set it to false$"):
        Learner(
            Drawing(),
            network(),
            one.recipe,
            device=torch.device("cpu"),
            processes=Processes(0, 2),
            steps_per_epoch=STEPS_PER_EPOCH,
        )


def test_compiling_for_a_cpu_without_a_compiler_is_refused_at_once(monkeypatch: pytest.MonkeyPatch):
    """Not at the first step. torch asks CXX which one to take."""
    loop = {"batch_size": 16, "compile": True}
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", {"own-g++": "/usr/bin/own-g++"}.get)
    learner(network())
    with pytest.raises(EngineError, match=r"^loop\.compile=true needs a C\+\+ compiler such as g\+\+: install one$"):
        learner(network(), loop=loop)
    monkeypatch.setenv("CXX", "own-g++ -O1")
    learner(network(), loop=loop)
    monkeypatch.setattr("shutil.which", {"g++": "/usr/bin/g++", "clang++": "/usr/bin/clang++"}.get)
    with pytest.raises(EngineError, match=r"such as .*, and CXX names own-g\+\+, which is not there: install one$"):
        learner(network(), loop=loop)
