"""LiteRT (TensorFlow Lite), for Android: its CPUs, and its GPUs by LiteRT's delegates."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastvit.deploy.formats.format import Format
from fastvit.deploy.network import Network, flat, made_up_names
from fastvit.deploy.request import INPUT_NAME, Request
from fastvit.deploy.runtimes.run import Run, Settings, as_float32
from fastvit.deploy.runtimes.turns import Turns
from fastvit.errors import ExportError


class LiteRt(Format):
    """A .tflite file whose images are (B, H, W, C), as Android's libraries have them, normalized.

    Its outputs are sorted by their names, which are made up so that they keep their order.

    What converts, litert-torch, needs torch below 2.15; running does not.
    """

    name = "litert"
    suffix = ".tflite"
    runtime = "LiteRT"
    packages = {"ai-edge-litert": "ai_edge_litert"}  # noqa: RUF012
    converters = {"litert-torch": "litert_torch"}  # noqa: RUF012
    extra = "litert"
    axes = ()
    sets_threads = True

    def convert(self, request: Request, path: Path) -> None:
        import litert_torch

        network = ChannelsLast(request.network, made_up_names(len(request.outputs))).eval()
        images = request.example.permute(0, 2, 3, 1).contiguous()
        litert_torch.config.show_progress = False
        litert_torch.convert(network, sample_kwargs={INPUT_NAME: images}).export(str(path))

    def interface(self, request: Request) -> dict[str, Any]:
        taken = super().interface(request)
        batch, channels, height, width = taken["example"]
        taken["input"]["layout"] = "NHWC"
        shapes = taken["outputs"].values()
        taken["outputs"] = dict(zip(made_up_names(len(shapes)), shapes, strict=True))
        return taken | {"example": [batch, height, width, channels]}

    def require_settings(self, settings: Settings) -> None:
        super().require_settings(settings)
        if settings.streams:
            raise ExportError(f"{self.runtime} computes one call at a time: leave out streams")

    def load(self, path: Path, settings: Settings) -> Run:
        return litert_run(path, settings)


class ChannelsLast(nn.Module):
    """A network on images (B, H, W, C), whose outputs have names in the file."""

    def __init__(self, network: Network, names: Collection[str]):
        super().__init__()
        self.network, self.names = network, tuple(names)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.names, flat(self.network(images.permute(0, 3, 1, 2))), strict=True))


def litert_run(path: Path, settings: Settings) -> Run:
    """On the CPU, one call at a time."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=settings.threads)
    signature = interpreter.get_signature_runner()
    (image_name,) = signature.get_input_details()
    names = sorted(signature.get_output_details())  # a network has fewer than ten
    turns = Turns(1)

    def run(images: Tensor) -> tuple[Tensor, ...]:
        with turns:
            outputs = signature(**{image_name: as_float32(images.permute(0, 2, 3, 1))})
            return tuple(torch.from_numpy(outputs[name].copy()) for name in names)

    return run
