"""What all runtimes have in common: how they are called, and how they compute."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fastvit.errors import UserError
from fastvit.precision import without_autocast

# Images (B, C, H, W) of any float dtype and memory format, on any device -> outputs, which belong to the caller.
# Any thread may call it at any time.
Run = Callable[[Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Settings:
    """How a runtime computes.

    Attributes:
        dtype: the precision.
        threads: of the CPU, all together; by default as many as torch has.
        streams: how many images or pieces of a batch are computed at a time, by threads / streams threads each; None:
            as the batch is, see `Streams`.

    Raises:
        UserError: there cannot be so many.
    """

    dtype: torch.dtype = torch.float32
    threads: int = field(default_factory=torch.get_num_threads)
    streams: int | None = None

    def __post_init__(self) -> None:
        for name, number in (("threads", self.threads), ("streams", self.streams)):
            if number is not None and number < 1:
                raise UserError(f"{name} is {number}; it must be at least 1")
        if self.streams and self.streams > self.threads:
            raise UserError(
                f"{self.streams} streams need as many threads, not {self.threads}: set threads, or fewer streams"
            )


def computed(
    run: Run, images: Tensor | np.ndarray, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> tuple[Tensor, ...]:
    """`run(images)` in `dtype`, integers as they are, on `device`; the same whatever mode the caller's thread is in.

    Raises:
        UserError: these are no images.
    """
    with plain_mode():
        outputs = run(_plain(as_tensor(images)))
        return tuple(each.to(device, dtype if each.is_floating_point() else each.dtype) for each in outputs)


def as_tensor(images: Tensor | np.ndarray) -> Tensor:
    """The same memory where torch can take it: not that of an array which runs backwards, such as a flipped image."""
    backwards = isinstance(images, np.ndarray) and any(stride < 0 for stride in images.strides)
    return torch.as_tensor(np.ascontiguousarray(images) if backwards else images)


@contextmanager
def plain_mode() -> Iterator[None]:
    """Neither gradients nor inference mode nor autocast."""
    with torch.inference_mode(False), torch.no_grad(), without_autocast():
        yield


def _plain(images: Tensor) -> Tensor:
    """The images as a tensor without history, and not one of inference mode, which torch treats as another kind."""
    if images.ndim != 4 or not images.is_floating_point() or not images.numel():
        raise UserError(
            f"images must be normalized floats of shape (B, C, H, W), not {images.dtype} of {tuple(images.shape)}"
        )
    if not images.is_inference():
        return images.detach()
    same = torch.empty(0, dtype=images.dtype, device=images.device)
    return same.set_(images.untyped_storage(), images.storage_offset(), images.shape, images.stride())


def as_float32(images: Tensor) -> np.ndarray:
    """As OpenVINO and ONNX Runtime take them: contiguous float32 in main memory; the same memory where they are so."""
    return images.to("cpu", torch.float32).contiguous().numpy()
