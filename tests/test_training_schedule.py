"""The learning rate: its ends, no jumps, and timm's values."""

from itertools import pairwise

import pytest
import torch
from timm.scheduler import CosineLRScheduler

from fastvit.training.schedule import WarmupCosine

SCHEDULE = WarmupCosine(lr=1e-3, warmup_lr=1e-6, min_lr=1e-5, warmup_steps=20, total_steps=120)


def test_ends():
    assert SCHEDULE(0) == 1e-6
    assert SCHEDULE(20) == 1e-3
    assert SCHEDULE(120) == pytest.approx(1e-5)


def test_has_no_jumps():
    rates = [SCHEDULE(step) for step in range(121)]
    assert max(abs(after - before) for before, after in pairwise(rates)) < 1e-3 / 19


def test_without_warmup_starts_at_the_peak():
    assert WarmupCosine(lr=1.0, warmup_lr=0.0, min_lr=0.0, warmup_steps=0, total_steps=10)(0) == 1.0


def test_equals_timm():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1e-3)
    reference = CosineLRScheduler(
        optimizer, t_initial=100, lr_min=1e-5, warmup_t=20, warmup_lr_init=1e-6, warmup_prefix=True, t_in_epochs=False
    )
    for step in range(120):
        reference.step_update(step)
        assert SCHEDULE(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
