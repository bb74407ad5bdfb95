"""Measuring latency so that a comparison holds on a noisy machine."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def interleaved_latency(
    functions: Mapping[str, Callable[[], Any]], *, rounds: int = 30, warmup: int = 5
) -> dict[str, list[float]]:
    """Time several functions in turn, A B C A B C ..., so that a drift of the machine's speed hits all alike.

    Args:
        functions: what to time, by name; called without arguments.
        rounds: measured calls of each function.
        warmup: calls of each function before that, not measured.

    Returns:
        The seconds of each measured call, by name, in the order of measuring. Quote the median.
    """
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for i in range(warmup + rounds):
        for name, function in functions.items():
            seconds = seconds_of(function)
            if i >= warmup:
                samples[name].append(seconds)
    return samples


def seconds_of(function: Callable[[], Any], device: torch.device | None = None) -> float:
    """How long one call takes, from start to finished result: the CUDA or MPS queue is drained before and after.

    Args:
        device: of several GPUs the one that computes; by default the current one.
    """
    of_cuda = device if device is not None and device.type == "cuda" else None
    _synchronize(of_cuda)
    start = time.perf_counter()
    function()
    _synchronize(of_cuda)
    return time.perf_counter() - start


def _synchronize(cuda_device: torch.device | None) -> None:
    if torch.cuda.is_initialized():  # a network on the CPU must not start a GPU
        torch.cuda.synchronize(cuda_device)
    elif torch.backends.mps.is_available():
        torch.mps.synchronize()
