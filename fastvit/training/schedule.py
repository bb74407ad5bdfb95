"""Learning rate and weight decay as pure functions of the step, so that resuming anywhere is exact.

`progress` runs from 0, where the warm-up ends, to 1, where the training ends.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from fastvit.training.recipe import ScheduleConfig

Shape = Callable[[float], float]  # from progress to the part of the way down that is left, from 1 to 0


def cosine(progress: float) -> float:
    """Half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def polynomial(progress: float, power: float) -> float:
    """`(1 - progress) ** power`."""
    return (1 - progress) ** power


def constant(progress: float) -> float:
    """No way down."""
    return 1.0


@dataclass(frozen=True)
class Schedule:
    """A straight warm-up from `start` to `peak`, then down to `end` in some shape; lower by steps at milestones.

    The descent begins where the warm-up ends, so that the curve is continuous.
    """

    peak: float
    end: float
    shape: Shape
    total_steps: int
    start: float = 0.0
    warmup_steps: int = 0
    milestones: tuple[int, ...] = ()  # steps from which on the value is a tenth of what it was

    def __call__(self, step: int) -> float:
        """The value for a step, counted from 0; `end` is reached at `total_steps`."""
        if step < self.warmup_steps:
            return self.start + (self.peak - self.start) * step / self.warmup_steps
        progress = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        value = self.end + (self.peak - self.end) * self.shape(progress)
        return value * 0.1 ** sum(step >= milestone for milestone in self.milestones)


def lr_schedule(config: ScheduleConfig, lr: float, steps_per_epoch: int) -> Schedule:
    """The learning rate for every optimizer step of a run."""
    shapes = {"cosine": cosine, "polynomial": lambda progress: polynomial(progress, config.power), "step": constant}
    return Schedule(
        peak=lr,
        end=config.min_lr,
        shape=shapes[config.shape],
        total_steps=config.epochs * steps_per_epoch,
        start=config.warmup_lr,
        warmup_steps=round(config.warmup_epochs * steps_per_epoch),
        milestones=tuple(round(epoch * steps_per_epoch) for epoch in config.milestones),
    )


def weight_decay_schedule(config: ScheduleConfig, weight_decay: float, steps_per_epoch: int) -> Schedule:
    """The weight decay for every optimizer step of a run: constant, or along a cosine to its final value."""
    final = config.final_weight_decay
    return Schedule(
        peak=weight_decay,
        end=weight_decay if final is None else final,
        shape=cosine,
        total_steps=config.epochs * steps_per_epoch,
    )
