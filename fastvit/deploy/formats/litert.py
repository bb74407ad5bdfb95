"""LiteRT (TensorFlow Lite), for Android: its CPUs, and its GPUs by LiteRT's delegates."""

from pathlib import Path
from threading import Lock

import torch
from torch import Tensor, nn

from fastvit.deploy.formats.format import Format
from fastvit.deploy.request import INPUT_NAME, Request
from fastvit.deploy.runtimes.run import Run, Settings, as_float32


class LiteRt(Format):
    """A .tflite file whose images are (B, H, W, C), as Android's libraries have them, normalized.

    What converts, litert-torch, wants torch below 2.15; running needs no such.
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
        network = ChannelsLast(request.network).eval()
        images = request.example.permute(0, 2, 3, 1).contiguous()
        import litert_torch

        litert_torch.config.show_progress = False
        litert_torch.convert(network, sample_kwargs={INPUT_NAME: images}).export(str(path))

    def load(self, path: Path, settings: Settings) -> Run:
        return litert_run(path, settings)


class ChannelsLast(nn.Module):
    """A network on images (B, H, W, C)."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.network(images.permute(0, 3, 1, 2))


def litert_run(path: Path, settings: Settings) -> Run:
    """On the CPU, one call at a time."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=settings.threads)
    signature = interpreter.get_signature_runner()
    (image_name,) = signature.get_input_details()
    busy = Lock()

    def run(images: Tensor) -> tuple[Tensor, ...]:
        with busy:
            outputs = signature(**{image_name: as_float32(images.permute(0, 2, 3, 1))})
            return tuple(torch.from_numpy(outputs[f"output_{i}"].copy()) for i in range(len(outputs)))

    return run
