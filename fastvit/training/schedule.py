"""Learning rate and weight decay as pure functions of the step, so that resuming anywhere is exact."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from fastvit.training.recipe import Recipe, ScheduleConfig

Shape = Callable[[float], float]  # what is left of the way down, from 1 to 0, by the progress on it, from 0 to 1


def cosine(progress: float) -> float:
    """Half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Schedule:
    """A straight warm-up from `start` to `peak`, then down to `end` in some shape; lower by steps at milestones.

    The descent begins where the warm-up ends, so that the curve is continuous, and ends at `end_step`.
    """

    peak: float
    end: float
    shape: Shape
    end_step: int
    start: float = 0.0
    warmup_steps: int = 0
    milestones: tuple[int, ...] = ()  # steps from which on the value is a tenth of what it was

    def __call__(self, step: int) -> float:
        """The value for a step, counted from 0."""
        if step < self.warmup_steps:
            return self.start + (self.peak - self.start) * step / self.warmup_steps
        descent = max(self.end_step - self.warmup_steps, 1)  # a warm-up of parts of epochs may be all but the whole
        progress = min((step - self.warmup_steps) / descent, 1.0)
        value = self.end + (self.peak - self.end) * self.shape(progress)
        return value * 0.1 ** sum(step >= milestone for milestone in self.milestones)


def lr_schedule(recipe: Recipe, steps_per_epoch: int) -> Schedule:
    """The learning rate for every optimizer step of a run."""
    config = recipe.schedule
    return Schedule(
        peak=recipe.peak_lr,
        end=config.min_lr,
        shape=_shape(config),
        end_step=config.epochs * steps_per_epoch,
        start=config.warmup_lr,
        warmup_steps=round(config.warmup_epochs * steps_per_epoch),
        milestones=tuple(round(epoch * steps_per_epoch) for epoch in config.milestones),
    )


def weight_decay_schedule(recipe: Recipe, steps_per_epoch: int) -> Schedule:
    """The weight decay for every optimizer step of a run: constant, or along a cosine to its final value."""
    start, end = recipe.optimizer.weight_decay, recipe.schedule.final_weight_decay
    return Schedule(
        peak=start,
        end=start if end is None else end,
        shape=cosine,
        end_step=recipe.schedule.epochs * steps_per_epoch,
    )


def _shape(config: ScheduleConfig) -> Shape:
    if config.shape == "cosine":
        return cosine
    if config.shape == "polynomial":
        return lambda progress: (1 - progress) ** config.power
    return lambda progress: 1.0  # step: only the milestones
