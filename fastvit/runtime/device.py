"""Where to compute, and how to get a batch there."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def best_device(local_rank: int = 0) -> torch.device:
    """A CUDA device (of several, the one of this process), else Apple's GPU, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", local_rank)
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def to_device(batch: Any, device: torch.device, *, channels_last: bool = False) -> Any:
    """Any nesting of tuples, lists and dicts with its tensors on the device, images channels last if asked."""
    if isinstance(batch, Tensor):
        if channels_last and batch.ndim == 4:
            return batch.to(device, non_blocking=True, memory_format=torch.channels_last)
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device, channels_last=channels_last) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(value, device, channels_last=channels_last) for value in batch)
    return batch


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Mixed precision in `precision`, a name of a torch dtype; nothing for float32."""
    dtype = getattr(torch, precision)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def read_later(number: Tensor) -> Callable[[], float]:
    """A function that gives the number (0-d), which waits only for what was asked of the device before this call."""
    if number.device.type != "cuda":
        return number.item
    copy = torch.empty((), dtype=number.dtype, pin_memory=True)
    copy.copy_(number, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def read() -> float:
        copied.synchronize()
        return copy.item()

    return read
