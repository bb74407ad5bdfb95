"""The learning rate as a pure function of the step, so that resuming anywhere is exact."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class WarmupCosine:
    """Linear warm-up from `warmup_lr` to `lr`, then half a cosine down to `min_lr`, step by step.

    The cosine begins where the warm-up ends (timm: `warmup_prefix=True`), so that the curve is continuous.
    """

    lr: float
    warmup_lr: float
    min_lr: float
    warmup_steps: int
    total_steps: int

    def __call__(self, step: int) -> float:
        """The learning rate of a step, counted from 0; `min_lr` is reached at `total_steps`."""
        if step < self.warmup_steps:
            return self.warmup_lr + (self.lr - self.warmup_lr) * step / self.warmup_steps
        progress = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return self.min_lr + 0.5 * (self.lr - self.min_lr) * (1 + math.cos(math.pi * progress))
