"""What training on the digits shows, over three seeds. The figures are printed: pytest -m slow -s."""

from pathlib import Path
from statistics import mean

import pytest
import timm.models.fastvit
from torch import nn

from fastvit.tasks import load_recipe, make_task
from fastvit.tasks.classification.task import Classification
from fastvit.training.engine import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart" / "digits.yaml"
SEEDS = (0, 1, 2)


class WithTimmsNetwork(Classification):
    """The same task with the FastViT that is built into timm."""

    def build_model(self, *, initial_weights: bool = True) -> nn.Module:
        return timm.models.fastvit.fastvit_t8(num_classes=10)


def top1(task_class, output, *overrides):
    """Percent of the held-out digits after the last epoch."""
    recipe = load_recipe(QUICKSTART, [f"output={output}", *overrides])
    task = task_class(recipe) if task_class else make_task(recipe)
    return train(task, recipe).history[-1]["val_top1"]


def test_our_network_learns_what_timm_s_does(tmp_path):
    ours = [top1(None, tmp_path / f"ours{seed}", f"seed={seed}") for seed in SEEDS]
    theirs = [
        top1(WithTimmsNetwork, tmp_path / f"timm{seed}", f"seed={seed}", "loop.channels_last=false") for seed in SEEDS
    ]
    print(f"\ntop-1 of seeds {SEEDS}: ours {ours}, timm's network {theirs}")
    assert abs(mean(ours) - mean(theirs)) < 1.0  # five images of 540; seeds differ by as much


def test_distillation_from_a_larger_teacher(tmp_path):
    """Whether it helps is printed, not asserted: a few hundred steps on an easy task do not show it reliably."""
    teacher = top1(None, tmp_path / "teacher", "model.name=fastvit_sa12", "augmentation.smoothing=0")
    checkpoint = tmp_path / "teacher" / "best.pt"
    distillation = f"distillation={{teacher: {{name: fastvit_sa12, checkpoint: {checkpoint}}}}}"
    short = ("schedule.epochs=6", "schedule.warmup_epochs=1")
    alone = [top1(None, tmp_path / f"alone{seed}", f"seed={seed}", *short) for seed in SEEDS]
    taught = [top1(None, tmp_path / f"taught{seed}", f"seed={seed}", *short, distillation) for seed in SEEDS]
    print(f"\ntop-1: teacher {teacher:.2f}; students of seeds {SEEDS}: alone {alone}, taught {taught}")
    assert teacher > 98
    assert min(alone + taught) > 80
