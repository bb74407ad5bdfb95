"""How much memory a training step takes, counted without a device."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import timm
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fastvit.runtime.device import autocast
from fastvit.variants import VARIANTS

BYTES_PER_PARAMETER = 16  # float32 weight and gradient, and AdamW's two averages
BYTES_PER_PARAMETER_OF_EMA = 4


def activation_bytes_per_image(build: Callable[[], nn.Module], image_size: int, precision: str) -> int:
    """What the forward pass of one more image keeps for the backward pass.

    Every storage that autograd saves counts once; temporary buffers do not count, so the real peak is higher.

    Args:
        build: makes the network, (B, 3, H, W) -> logits, on the CPU.
        image_size: pixels on a side.
        precision: a name of a torch dtype, for autocast.
    """
    small, large = (_saved_bytes(build, batch, image_size, precision) for batch in (2, 4))
    return (large - small) // 2  # casts of the weights are saved, too, but do not grow


def _saved_bytes(build: Callable[[], nn.Module], batch: int, image_size: int, precision: str) -> int:
    sizes: dict[int, int] = {}
    kept = []  # so that no storage's identity is used again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.append(storage)
        sizes[storage._cdata] = storage.nbytes()
        return tensor

    model = build().train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        images, labels = torch.empty(batch, 3, image_size, image_size), torch.zeros(batch, dtype=torch.long)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast(images.device, precision):
            nn.functional.cross_entropy(model(images), labels)
    return sum(sizes.values())


def memory_table(image_sizes: Sequence[int], precision: str, card_gib: Sequence[float]) -> Iterator[str]:
    """The lines of a table: for each variant and image size what it takes, and the largest batch on each card."""
    cards = "".join(f"{f'{gib:g} GiB':>9}" for gib in card_gib)
    yield f"{'':<14}{'size':>5}{'fixed, GiB':>12}{'MiB/image':>11}{'checkpointing':>15}   largest batch on{cards}"
    for variant in VARIANTS:
        for size in image_sizes:
            yield _row(variant, size, precision, card_gib)


def _row(variant: str, size: int, precision: str, card_gib: Sequence[float]) -> str:
    parameters = sum(parameter.numel() for parameter in timm.create_model(variant, device="meta").parameters())
    fixed = parameters * (BYTES_PER_PARAMETER + BYTES_PER_PARAMETER_OF_EMA)
    plain, checkpointed = (
        activation_bytes_per_image(partial(_build, variant, checkpointing), size, precision)
        for checkpointing in (False, True)
    )
    batches = "".join(f"{max(int((gib * 2**30 - fixed) / plain), 0):>9}" for gib in card_gib)
    images = f"{plain / 2**20:>11.0f}{checkpointed / 2**20:>15.0f}"
    return f"{variant:<14}{size:>5}{fixed / 2**30:>12.2f}{images}   {'':<16}{batches}"


def _build(variant: str, checkpointing: bool) -> nn.Module:
    model = timm.create_model(variant)
    model.set_grad_checkpointing(checkpointing)
    return model
