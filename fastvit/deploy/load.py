"""An exported network as a function of images, in its own runtime, guarded by what its sidecar says."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastvit.data.reading import HANDED, as_rgb
from fastvit.deploy.card import Card
from fastvit.deploy.formats import get_format
from fastvit.deploy.formats.image_input import ImageInput, ImageRun
from fastvit.deploy.runtimes.run import Run, Settings, as_tensor, computed
from fastvit.deploy.sidecar import Sidecar, read_sidecar
from fastvit.errors import ExportError


class Exported:
    """A loaded network.

    Call it with images (B, C, H, W), normalized: a tensor or an array in any float dtype and memory format, on any
    device. It returns what the network did, a tensor, or a tuple or a dict of tensors, on the CPU, in the dtype that it
    was loaded for; the same whatever mode the caller's thread is in. Several threads may call it at a time. Images of a
    shape that was not exported are refused with an ExportError.

    Attributes:
        engine: the name of what computes.
        dtype, device: of the outputs.
        sidecar: the JSON file beside it.
        card: what belongs to the network.
    """

    device = torch.device("cpu")

    def __init__(self, run: Run, sidecar: Sidecar, engine: str, dtype: torch.dtype = torch.float32):
        self._run, self.sidecar, self.engine, self.dtype = run, sidecar, engine, dtype
        self.card = Card.from_dict(sidecar)

    def __call__(self, images: Tensor | np.ndarray) -> Tensor | tuple[Tensor, ...] | dict[str, Tensor]:
        images = as_tensor(images)
        if images.ndim == 4:  # `computed` refuses anything else
            self._require_shape(images)
        outputs = computed(self._run, images, self.dtype)
        if keys := self.sidecar.get("keys"):
            return dict(zip(keys, outputs, strict=True))
        return outputs[0] if self.sidecar.get("bare", len(outputs) == 1) else outputs

    def _require_shape(self, images: Tensor) -> None:
        for name, size in zip(("batch", "channels", "height", "width"), images.shape, strict=True):
            low, high = self.sidecar["input"][name]
            if not low <= size <= high:
                allowed = f"{low}" if low == high else f"{low} to {high}"
                axis = name if name == "batch" else "size"
                can_open = low == high and name != "channels" and axis in get_format(self.sidecar["format"]).axes
                fix = f"export it with an open {axis}" if can_open else "export it for that"
                raise ExportError(f"the network was exported for {name} {allowed}, not {size}: {fix}")


class ExportedForImages:
    """A loaded classifier with its preprocessing inside.

    Call it with an image of any size, Pillow's or RGB in uint8 (H, W, 3); it returns the probabilities (classes,).
    Several threads may call it at a time.

    Attributes:
        engine, sidecar, card: as those of `Exported`.
    """

    def __init__(self, run: ImageRun, sidecar: Sidecar, engine: str):
        self._run, self.sidecar, self.engine = run, sidecar, engine
        self.card = Card.from_dict(sidecar)

    def __call__(self, image: Image.Image | np.ndarray) -> Tensor:
        if isinstance(image, Image.Image):
            image = as_rgb(image, upright=True, name=HANDED)
        pixels = np.ascontiguousarray(image)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise ExportError(f"an image must be RGB, uint8 (H, W, 3), not {pixels.dtype} of {pixels.shape}")
        return torch.from_numpy(self._run(pixels))


def load(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    threads: int | None = None,
    streams: int | None = None,
) -> Exported | ExportedForImages:
    """Load what `export` or the quantisation wrote.

    Args:
        path: the file.
        dtype: to compute in, and of the outputs; other than float32 for OpenVINO only, on CPUs that have it.
        threads, streams: of ONNX Runtime and OpenVINO, as in `compile_for_inference`; of LiteRT, threads alone.

    Raises:
        UserError: a file or a package is missing, a file is not what was written, or its runtime cannot compute so.
    """
    path = Path(path).expanduser()
    sidecar = read_sidecar(path)
    kind = get_format(sidecar["format"])
    kind.require_runtime()
    settings = Settings(dtype, torch.get_num_threads() if threads is None else threads, streams)
    kind.require_settings(settings)
    if isinstance(kind, ImageInput):
        return ExportedForImages(kind.run_on_images(path, settings), sidecar, kind.runtime)
    return Exported(kind.load(path, settings), sidecar, kind.runtime, dtype)
