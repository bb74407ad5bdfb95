"""How much memory a training step takes, counted without a device."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fastvit.training.device import autocast

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
