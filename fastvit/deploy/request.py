"""What is exported: a network made ready for a format, the shapes that it must take, and what belongs to it."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from fastvit.deploy.card import Card
from fastvit.deploy.depthwise import split_depthwise
from fastvit.deploy.float16 import require_layers
from fastvit.deploy.network import Network, flat, keys_of, made_up_names, make_network, outputs_of, watched
from fastvit.errors import ExportError

INPUT_NAME = "images"
PROBE = 256  # pixels on a side of an image that shows how much smaller the maps inside get
AXES = ("batch", "size")  # what can stay open: the number of images, their height and width


@dataclass(frozen=True)
class Limits:
    """How far an open axis reaches: (smallest, largest) batch, and side of the images in pixels."""

    batch: tuple[int, int] = (1, 128)
    side: tuple[int, int] = (64, 1024)  # and no less than two pixels of the smallest map inside


LARGE = Limits(side=(64, 4096))  # where the largest size costs nothing


@dataclass(frozen=True)
class Request:
    """One export.

    Attributes:
        original: the network as it was given, to compare with.
        network: fused, in eval mode, in float32, on the CPU.
        example: (B, C, H, W), float32, on the CPU: the shape that is exported.
        dynamic: which of `AXES` stay open.
        limits: how far those that do.
        outputs: names in the file and shapes of the tensors that the example gives.
        keys: of the dict that the model returns; None if it returns something else.
        bare: whether the model returns a tensor as it is, in no list, tuple or dict.
        card: what belongs to the network.
        opset: of ONNX; None for the format's own.
        float32: names of layers in the fused network that stay in float32 where numbers are float16.
        images: (N, C, H, W) like the example, to verify on besides made ones; None if none were given.
    """

    original: nn.Module
    network: Network
    example: Tensor
    dynamic: frozenset[str]
    limits: Limits
    outputs: dict[str, tuple[int, ...]]
    keys: tuple[str, ...] | None
    bare: bool
    card: Card
    opset: int | None
    float32: tuple[str, ...] = ()
    images: Tensor | None = None

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
    dynamic: Collection[str] = (),
    limits: Limits = Limits(),
    card: Card = Card(),  # noqa: B008 - frozen
    opset: int | None = None,
    depthwise: bool = False,
    float32: Collection[str] = (),
    images: Tensor | None = None,
) -> Request:
    """Fuse the model and check that everything fits together.

    Args:
        depthwise: write grouped convolutions as depthwise ones, see `SplitDepthwise`.

    Raises:
        ExportError: something does not fit; the message says what.
    """
    _require_shapes(example, dynamic, limits)
    if images is not None and (images.shape[1:] != example.shape[1:] or len(images) < len(example)):
        given, asked = tuple(images.shape), tuple(example.shape)
        raise ExportError(f"the images to verify on must be like the example, {asked}, and as many, not {given}")
    network = make_network(model, stacklevel=3).cpu().float()
    example = example.detach().cpu().float().contiguous()
    if "size" in dynamic:
        limits = replace(limits, side=_sides(network, example, limits))
        _require_shapes(example, dynamic, limits)
    tensors, structure = outputs_of(network, example)
    shapes = [tuple(tensor.shape) for tensor in tensors]
    labels = card.labels
    if labels is not None and (len(shapes) > 1 or len(shapes[0]) < 2 or shapes[0][1] != len(labels)):
        raise ExportError(f"there are {len(labels)} labels for an output of shape {shapes[0]}")
    if depthwise:
        split_depthwise(network)
    require_layers(network.network, float32)
    keys = keys_of(structure)
    names = made_up_names(len(shapes)) if keys is None or INPUT_NAME in keys else keys
    outputs = dict(zip(names, shapes, strict=True))
    return Request(
        original=model,
        network=network,
        example=example,
        dynamic=frozenset(dynamic),
        limits=limits,
        outputs=outputs,
        keys=keys,
        bare=structure.is_leaf(),
        card=card,
        opset=opset,
        float32=tuple(float32),
        images=images,
    )


def _sides(network: Network, example: Tensor, limits: Limits) -> tuple[int, int]:
    """How far height and width reach: up from where the smallest map inside has two pixels on a side, since
    torch.export treats a size of one as a constant."""
    low, high = limits.side
    sides: list[int] = []

    def note(name: str, module: nn.Module, inputs: Any, outputs: Any) -> None:
        maps = [each for each in flat(outputs) if isinstance(each, Tensor) and each.ndim == 4]
        sides.extend(each.shape[2] for each in maps if each.shape[2] > 1)

    with watched(network, note):
        outputs_of(network, example.new_zeros(1, example.shape[1], PROBE, PROBE))
    return max(low, 2 * PROBE // min(sides, default=PROBE)), high


def _require_shapes(example: Tensor, dynamic: Collection[str], limits: Limits) -> None:
    if unknown := set(dynamic) - set(AXES):
        raise ExportError(f"dynamic must be some of {', '.join(AXES)}, not {', '.join(sorted(unknown))}")
    if example.ndim != 4:
        raise ExportError(f"the example input must have the shape (B, C, H, W), not {tuple(example.shape)}")
    batch, _, height, width = example.shape
    low, high = limits.side
    if "size" in dynamic and not (low <= height <= high and low <= width <= high):
        raise ExportError(
            f"images are {low} to {high} pixels on a side where the size is open, as in pages of segmenters, not "
            f"{height}x{width}"
        )
    if "batch" in dynamic and batch > limits.batch[1]:
        raise ExportError(f"with an open batch, there are at most {limits.batch[1]} images, not {batch}")
