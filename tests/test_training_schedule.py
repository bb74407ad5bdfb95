"""Learning rate and weight decay: their ends, no jumps, and the values of timm and torch."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from timm.scheduler import CosineLRScheduler
from torch.optim.lr_scheduler import MultiStepLR, PolynomialLR

from fastvit.errors import RecipeError
from fastvit.training.recipe import Recipe, ScheduleConfig
from fastvit.training.schedule import Schedule, cosine, lr_schedule, weight_decay_schedule

SCHEDULE = Schedule(peak=1e-3, start=1e-6, end=1e-5, shape=cosine, warmup_steps=20, end_step=120)


def recipe(schedule, *, batch_size=100, **optimizer):
    return Recipe(
        task="none",
        output=Path("none"),
        data={"workers": 0},
        optimizer={"lr": 1.0, **optimizer},
        schedule={"epochs": 12, "warmup_lr": 0.0, "min_lr": 0.0, **schedule},
        loop={"batch_size": batch_size},
    )


def optimizer(lr):
    return torch.optim.SGD([torch.zeros(1)], lr=lr)


def test_ends():
    assert SCHEDULE(0) == 1e-6
    assert SCHEDULE(20) == 1e-3
    assert SCHEDULE(120) == pytest.approx(1e-5)


def test_has_no_jumps():
    rates = [SCHEDULE(step) for step in range(121)]
    assert max(abs(after - before) for before, after in pairwise(rates)) < 1e-3 / 19


def test_without_warmup_starts_at_the_peak():
    assert lr_schedule(recipe({}), steps_per_epoch=3)(0) == 1.0


def test_cosine_equals_timm():
    reference = CosineLRScheduler(
        optimizer(1e-3),
        t_initial=100,
        lr_min=1e-5,
        warmup_t=20,
        warmup_lr_init=1e-6,
        warmup_prefix=True,
        t_in_epochs=False,
    )
    for step in range(120):
        reference.step_update(step)
        assert SCHEDULE(step) == pytest.approx(reference.optimizer.param_groups[0]["lr"], rel=1e-12)


@pytest.mark.parametrize(
    ("config", "reference"),
    [
        ({"shape": "polynomial", "power": 0.9, "min_lr": 0.0}, lambda sgd: PolynomialLR(sgd, 120, power=0.9)),
        ({"shape": "step", "milestones": (8, 11)}, lambda sgd: MultiStepLR(sgd, [80, 110], gamma=0.1)),
    ],
)
def test_other_shapes_equal_torch(config, reference):
    schedule = lr_schedule(recipe(config, lr=2e-4), steps_per_epoch=10)
    reference = reference(optimizer(2e-4))
    for step in range(120):
        assert schedule(step) == pytest.approx(reference.get_last_lr()[0], rel=1e-9)
        reference.optimizer.step()
        reference.step()


def test_weight_decay_is_constant_or_ends_where_the_recipe_says():
    constant = weight_decay_schedule(recipe({"epochs": 4}, weight_decay=0.05), steps_per_epoch=5)
    assert {constant(step) for step in range(21)} == {0.05}
    falling = weight_decay_schedule(
        recipe({"epochs": 4, "final_weight_decay": 0.005}, weight_decay=0.05), steps_per_epoch=5
    )
    assert falling(0) == 0.05
    assert falling(10) == pytest.approx(0.0275)  # half way, whether one comes there at once or by a resumed run
    assert falling(20) == pytest.approx(0.005)


def test_a_weight_decay_that_leads_somewhere_begins_somewhere():
    """From 0 on, nothing would be decayed at all."""
    earlier = recipe({"final_weight_decay": 0.05})  # a run that has it can still be read
    with pytest.raises(RecipeError, match=r"\(0\.05\) is where optimizer\.weight_decay ends, which is 0"):
        earlier.require_effect()
    recipe({"final_weight_decay": 0.0}).require_effect()
    recipe({"final_weight_decay": 0.05}, weight_decay=0.1).require_effect()


def test_a_warm_up_of_all_but_a_part_of_an_epoch_may_be_of_all_steps():
    schedule = lr_schedule(recipe({"epochs": 1, "warmup_epochs": 0.99, "cooldown_epochs": 1}), steps_per_epoch=10)
    assert [schedule(step) for step in (0, 5, 10, 11, 19)] == [0.0, 0.5, 1.0, 0.0, 0.0]


def test_cool_down_goes_on_at_the_end():
    schedule = lr_schedule(recipe({"cooldown_epochs": 3, "min_lr": 0.1}), steps_per_epoch=2)
    assert schedule(12 * 2 - 1) > schedule(12 * 2) == pytest.approx(0.1)
    assert schedule(15 * 2 - 1) == pytest.approx(0.1)


def test_the_peak_grows_with_the_batch_where_the_recipe_says_what_it_is_for():
    assert recipe({}, batch_size=256, lr=1e-3).peak_lr == 1e-3
    scaled = recipe({}, batch_size=256, lr=1e-3, lr_batch_size=1024)
    assert scaled.peak_lr == 2.5e-4 == lr_schedule(scaled, steps_per_epoch=2)(0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"shape": "step"}, "belong together"),
        ({"milestones": (3,)}, "belong together"),
        ({"shape": "step", "milestones": (3, 2)}, "must rise"),
        ({"shape": "step", "milestones": (3, 10)}, "less than epochs"),
    ],
)
def test_contradictions_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        ScheduleConfig(epochs=10, **config)
