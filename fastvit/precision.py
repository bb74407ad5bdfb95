"""float32 that is float32."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

DEVICES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def exact_float32() -> Iterator[None]:
    """float32 numbers are multiplied as such, on all devices: not in TF32, as GPUs do by default, nor in bfloat16.

    Neither is there autocast. The other settings are those of the process. torch has two interfaces to them, an old and
    a new one, and parts of torch raise an error where the two disagree. What the user has set through either is the
    same afterwards.
    """
    torch_backends: Any = torch.backends  # whose types torch does not state
    cuda, cudnn, mkldnn = torch_backends.cuda, torch_backends.cudnn, torch_backends.mkldnn
    backends = (cuda.matmul, mkldnn.matmul, cudnn.conv, cudnn.rnn, mkldnn.conv)
    before = [backend.fp32_precision for backend in backends]
    old_names = "medium" if before[1] == "bf16" else "high" if before[0] == "tf32" else "highest"
    try:
        torch.set_float32_matmul_precision("highest")
        cudnn.allow_tf32 = False
        mkldnn.conv.fp32_precision = "ieee"
        with without_autocast():
            yield
    finally:
        torch.set_float32_matmul_precision(old_names)
        cudnn.allow_tf32 = "tf32" in before[2:4]
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


@contextmanager
def without_autocast() -> Iterator[None]:
    """Within, no device is under autocast."""
    with ExitStack() as stack:
        for device in DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
