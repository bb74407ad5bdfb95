"""Any network, made ready to be exported or compiled: fused, from images to a flat tuple of tensors."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from fastvit.errors import ExportError, reason_of
from fastvit.precision import exact_float32
from fastvit.reparam import reparameterize_model

DETECTORS = {"GeneralizedRCNN", "RetinaNet"}  # of torchvision, and what derives from them


class Network(nn.Module):
    """A network with one input called `images` and a tensor or a flat tuple of tensors as its output."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs = flat(self.network(images))
        return outputs[0] if len(outputs) == 1 else outputs


def flat(outputs: Any) -> tuple[Tensor, ...]:
    """All tensors in any nesting of lists, tuples and dicts."""
    return tuple(tree_leaves(outputs))


def make_network(model: nn.Module, *, stacklevel: int = 1) -> Network:
    """The fused copy of a model, in eval mode, without gradients. `model` is left as it is.

    Args:
        stacklevel: which caller a warning about what cannot be fused points to; 1 is that of this function.

    Raises:
        ExportError: the model is a detector.
    """
    for module in model.modules():
        if DETECTORS & {base.__name__ for base in type(module).__mro__}:
            raise ExportError(
                f"{type(module).__name__} finds another number of boxes in each image, so it cannot be exported or "
                "compiled as a whole: do so with its `backbone`, which has the pyramid, and keep the rest in PyTorch"
            )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fused = reparameterize_model(model)
    for warning in caught:
        warnings.warn(warning.message, stacklevel=stacklevel + 1)
    return Network(fused).requires_grad_(False).eval()


@torch.no_grad()
def outputs_of(network: Network, images: Tensor) -> tuple[tuple[Tensor, ...], TreeSpec]:
    """What the network returns for these images, in exact float32, and how its model nests it.

    Raises:
        ExportError: it does not take such images, or returns something else than tensors.
    """
    if images.ndim != 4:
        raise ExportError(f"the example input must have the shape (B, C, H, W), not {tuple(images.shape)}")
    try:
        with exact_float32():
            outputs, structure = tree_flatten(network.network(images))
    except Exception as error:  # networks refuse in many ways
        reason = reason_of(error)
        raise ExportError(f"the network does not take images of shape {tuple(images.shape)} ({reason})") from error
    if others := {type(output).__name__ for output in outputs if not isinstance(output, Tensor)}:
        raise ExportError(f"the network returns something else than tensors: {', '.join(sorted(others))}")
    return tuple(outputs), structure


@contextmanager
def watched(network: nn.Module, look: Callable[[str, nn.Module, Any, Any], None]) -> Iterator[None]:
    """Within: `look(name, module, inputs, outputs)` after each call of each module of the network, itself included."""
    handles = [
        module.register_forward_hook(lambda module, inputs, outputs, name=name: look(name, module, inputs, outputs))
        for name, module in network.named_modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def keys_of(structure: TreeSpec) -> tuple[str, ...] | None:
    """The keys of a dict of tensors; None for outputs of any other structure."""
    positions = tree_unflatten(range(structure.num_leaves), structure)
    is_named = isinstance(positions, dict) and all(isinstance(key, str) for key in positions)
    is_flat = is_named and all(isinstance(position, int) for position in positions.values())
    return tuple(positions) if is_flat else None


def made_up_names(count: int) -> tuple[str, ...]:
    """Of outputs that have none."""
    return ("output",) if count == 1 else tuple(f"output_{i}" for i in range(count))
