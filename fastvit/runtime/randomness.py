"""Randomness as a function of what is being drawn.

Nothing random depends on what was drawn before, only on the recipe's seed, the purpose, and a position (an epoch, a
step, a sample). So there are no random states to save, a resumed run draws what the uninterrupted one would have
drawn, and the number of data workers changes nothing.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """What a seed is for, so that no two uses share one."""

    WEIGHTS = 0  # initial weights
    ORDER = 1  # order of the samples of an epoch
    SAMPLE = 2  # augmentation of one sample
    STEP = 3  # mixing, dropout and drop path of one step


def derive_seed(seed: int, purpose: Purpose, *position: int) -> int:
    """A 64-bit seed that depends on all arguments (each from 0 to 2**32 - 1)."""
    return int(np.random.SeedSequence((seed, purpose, *position)).generate_state(1, np.uint64)[0])


def seed_everything(seed: int, purpose: Purpose, *position: int) -> None:
    """Seed Python, numpy and torch (all devices)."""
    derived = derive_seed(seed, purpose, *position)
    random.seed(derived)
    np.random.seed(derived % 2**32)
    torch.manual_seed(derived)


def seed_cpu(seed: int, purpose: Purpose, *position: int) -> None:
    """Seed Python, numpy and torch (CPU)."""
    derived = derive_seed(seed, purpose, *position)
    random.seed(derived)
    np.random.seed(derived % 2**32)
    torch.default_generator.manual_seed(derived)  # torch.manual_seed would also seed the accelerators


@contextmanager
def seeded(seed: int, purpose: Purpose, *position: int) -> Iterator[None]:
    """Within: Python, numpy and torch (CPU) seeded. Afterwards: their states as they were before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_cpu(seed, purpose, *position)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
