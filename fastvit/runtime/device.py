"""Where to compute, and how to get a batch there."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only


def best_device(local_rank: int = 0) -> torch.device:
    """A CUDA device (of several, the one of this process), else Apple's GPU, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", local_rank)
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


class BatchMover:
    """Gets batches to a device; to a GPU by a stream of its own, beside what is computed there.

    It need not be asked in advance: the processor is ahead of a GPU, so that it asks for the copy of a batch while the
    backward pass of the one before is still to be computed.

    Args:
        channels_last: the memory layout of images, whatever layout they come in.
    """

    def __init__(self, device: torch.device, *, channels_last: bool = False):
        self.device, self.channels_last = device, channels_last
        self.stream = copy_stream(device) if device.type == "cuda" else None

    def __call__(self, batch: Any) -> Any:
        """The batch on the device, ready for the current stream."""
        if self.stream is None:
            return to_device(batch, self.device, channels_last=self.channels_last)
        with torch.cuda.stream(self.stream):
            batch = to_device(batch, self.device, channels_last=self.channels_last)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self.stream)
        for tensor in tensors_of(batch):
            tensor.record_stream(current)  # its memory is not given to the next copy before the computation is done
        return batch


@cache
def copy_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of the copies to a device, one for all who ask: freed memory is taken again by its stream alone."""
    return torch.cuda.Stream(device)


def tensors_of(batch: Any) -> list[Tensor]:
    """The tensors in any nesting of tuples, lists and dicts."""
    return [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]


def to_device(batch: Any, device: torch.device, *, channels_last: bool = False) -> Any:
    """Any nesting of tuples, lists and dicts with its tensors on the device, images in one memory layout."""
    of_images = torch.channels_last if channels_last else torch.contiguous_format
    non_blocking = device.type == "cuda"  # to Apple's GPU it may read what has taken the batch's memory meanwhile

    def move(tensor: Tensor) -> Tensor:
        memory_format = of_images if tensor.ndim == 4 else torch.preserve_format
        return tensor.to(device, non_blocking=non_blocking, memory_format=memory_format)

    return tree_map_only(Tensor, move, batch)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Mixed precision in `precision`, a name of a torch dtype; nothing for float32."""
    dtype = getattr(torch, precision)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


@contextmanager
def cuda_kernels(*, tf32: bool, benchmark: bool) -> Iterator[None]:
    """Within: how NVIDIA's GPUs compute; nothing on other devices.

    torch's older names are used on purpose: where a newer one (`fp32_precision`) is set, reading an older one raises,
    and `torch.compile` reads them (torch 2.14).

    Args:
        tf32: float32 convolutions and matrix products in TF32, which has 10 bits of mantissa, on Ampere and later.
        benchmark: cuDNN tries its algorithms on the first batch of each size, and takes the fastest.
    """
    flags = ((torch.backends.cuda.matmul, "allow_tf32"), (torch.backends.cudnn, "allow_tf32"))
    flags += ((torch.backends.cudnn, "benchmark"),)
    before = [getattr(module, name) for module, name in flags]
    try:
        for (module, name), value in zip(flags, (tf32, tf32, benchmark), strict=True):
            setattr(module, name, value)
        yield
    finally:
        for (module, name), value in zip(flags, before, strict=True):
            setattr(module, name, value)


def read_later(number: Tensor) -> Callable[[], float]:
    """A function that gives the number (0-d), which waits only for what was asked of the device before this call."""
    if number.device.type != "cuda":
        return number.item
    copy = torch.empty((), dtype=number.dtype, pin_memory=True)
    copy.copy_(number, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(number.device))  # which may not be the current device

    def read() -> float:
        copied.synchronize()
        return copy.item()

    return read
