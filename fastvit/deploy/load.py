"""An exported network as a function of images, in its own runtime, guarded by what its sidecar says."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastvit.deploy.formats import get_format
from fastvit.deploy.formats.format import Run
from fastvit.deploy.sidecar import Sidecar, read_sidecar
from fastvit.errors import ExportError


class Exported:
    """A loaded network.

    Call it with images (B, C, H, W), a tensor or an array in any float dtype and memory format, on any device. It
    returns what the network did: a tensor, or a tuple of tensors, in float32 on the CPU. Images of a shape that was not
    exported are refused with an ExportError.

    Attributes:
        sidecar: the JSON file beside it.
    """

    def __init__(self, run: Run, sidecar: Sidecar):
        self.run, self.sidecar = run, sidecar

    def __call__(self, images: Tensor | np.ndarray) -> Tensor | tuple[Tensor, ...]:
        images = torch.as_tensor(images)
        self._require_shape(images)
        outputs = self.run(images.detach().cpu().float().contiguous())
        return outputs[0] if len(outputs) == 1 else outputs

    def _require_shape(self, images: Tensor) -> None:
        if images.ndim != 4 or not images.is_floating_point():
            raise ExportError(
                f"images must be normalized floats of shape (B, C, H, W), not {images.dtype} of {tuple(images.shape)}"
            )
        for name, size in zip(("batch", "channels", "height", "width"), images.shape, strict=True):
            low, high = self.sidecar["input"][name]
            if not low <= size <= high:
                allowed = f"{low}" if low == high else f"{low} to {high}"
                raise ExportError(f"the network was exported for {name} {allowed}, not {size}: export it for that")


def load(path: str | Path) -> Callable[[Tensor | np.ndarray], Tensor | tuple[Tensor, ...]]:
    """Load what `export` or the quantisation wrote.

    Raises:
        ExportError: a file or a package is missing, or a file is not what was written.
    """
    path = Path(path)
    sidecar = read_sidecar(path)
    kind = get_format(sidecar["format"])
    kind.require_runtime()
    return Exported(kind.load(path), sidecar)
