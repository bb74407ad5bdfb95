"""What is exported: a network made ready for all formats, the shapes that it must take, and what belongs to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fastvit.data.preprocessing import Preprocessing
from fastvit.errors import ExportError
from fastvit.reparam import reparameterize_model

INPUT_NAME = "images"
AXES = ("batch", "size")  # what can stay open: the number of images, their height and width


@dataclass(frozen=True)
class Limits:
    """How far an open axis reaches: (smallest, largest) batch, and side of the images in pixels."""

    batch: tuple[int, int] = (1, 128)
    side: tuple[int, int] = (64, 1024)  # torch.export asks for more than 32


class Network(nn.Module):
    """A network with one input called `images` and a tensor or a flat tuple of tensors as its output."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs = tree_leaves(self.network(images))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


@dataclass(frozen=True)
class Request:
    """One export.

    Attributes:
        network: fused, in eval mode, in float32, on the CPU.
        example: (B, C, H, W), float32, on the CPU: the shape that is exported.
        dynamic: which of `AXES` stay open.
        limits: how far those that do.
        output_names: one for each tensor of the output.
        preprocessing: what its images go through before; None if unknown.
        labels: names of the classes, in the order of the output; None for what is no classifier.
        opset: of ONNX; None for the format's own.
        architecture: {"name": ..., "options": ...} that `timm.create_model` builds it from; None if it is not timm's.
    """

    network: Network
    example: Tensor
    dynamic: frozenset[str]
    limits: Limits
    output_names: tuple[str, ...]
    preprocessing: Preprocessing | None
    labels: tuple[str, ...] | None
    opset: int | None
    architecture: Mapping[str, Any] | None

    def ranges(self) -> dict[str, tuple[int, int]]:
        """Smallest and largest batch, channels, height and width that the exported file takes."""
        batch, channels, height, width = self.example.shape
        return {
            "batch": self.limits.batch if "batch" in self.dynamic else (batch, batch),
            "channels": (channels, channels),
            "height": self.limits.side if "size" in self.dynamic else (height, height),
            "width": self.limits.side if "size" in self.dynamic else (width, width),
        }

    def shapes(self) -> list[tuple[int, int, int, int]]:
        """Input shapes to verify: the exported one and, if an axis is open, two others."""
        shape = tuple(self.example.shape)
        if not self.dynamic:
            return [shape]
        batch, channels, height, width = shape
        low, high = self.limits.side
        others = [
            (3, channels, min(height + 32, high), min(width + 96, high)),
            (7, channels, max(height // 2, low), max(width // 2 + 32, low)),
        ]
        open_batch, open_size = (axis in self.dynamic for axis in AXES)
        return [
            shape,
            *(
                (other[0] if open_batch else batch, channels, *(other[2:] if open_size else shape[2:]))
                for other in others
            ),
        ]


def make_request(
    model: nn.Module,
    example: Tensor,
    *,
    dynamic: Sequence[str],
    limits: Limits,
    preprocessing: Preprocessing | None,
    labels: Sequence[str] | None,
    opset: int | None,
    architecture: Mapping[str, Any] | None,
) -> Request:
    """Fuse the model and check that everything fits together.

    Raises:
        ExportError: it does not; the message says what.
    """
    if unknown := set(dynamic) - set(AXES):
        raise ExportError(f"dynamic must be some of {', '.join(AXES)}, not {', '.join(sorted(unknown))}")
    if example.ndim != 4:
        raise ExportError(f"the example input must have the shape (B, C, H, W), not {tuple(example.shape)}")
    batch, _, height, width = example.shape
    low, high = limits.side
    if "size" in dynamic and not (low <= height <= high and low <= width <= high):
        raise ExportError(f"with an open size, images are {low} to {high} pixels on a side, not {height}x{width}")
    if "batch" in dynamic and batch > limits.batch[1]:
        raise ExportError(f"with an open batch, there are at most {limits.batch[1]} images, not {batch}")
    network = Network(reparameterize_model(model).cpu().float()).eval().requires_grad_(False)
    example = example.detach().cpu().float().contiguous()
    outputs = _outputs(network, example)
    if labels is not None and (len(outputs) > 1 or outputs[0].ndim < 2 or outputs[0].shape[1] != len(labels)):
        raise ExportError(f"there are {len(labels)} labels for an output of shape {tuple(outputs[0].shape)}")
    names = ("output",) if len(outputs) == 1 else tuple(f"output_{i}" for i in range(len(outputs)))
    labels = tuple(labels) if labels else None
    return Request(network, example, frozenset(dynamic), limits, names, preprocessing, labels, opset, architecture)


@torch.no_grad()
def _outputs(network: Network, example: Tensor) -> list[Tensor]:
    try:
        outputs = tree_leaves(network(example))
    except RuntimeError as error:
        raise ExportError(
            f"the network does not take images of shape {tuple(example.shape)} ({str(error).splitlines()[0]})"
        ) from error
    return [output for output in outputs if isinstance(output, Tensor)]
