"""A training step as a call without arguments: forward, losses, backward, and SGD with momentum, on a made-up batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastvit.benchmark.networks import task_of
from fastvit.benchmark.suite import Form, Network
from fastvit.errors import RecipeError
from fastvit.runtime.device import autocast, to_device

OBJECTS = 8  # in an image, for detectors


def training_step(network: Network, form: Form, model: nn.Module, images: Tensor, device: torch.device) -> Callable:
    """One step of `model` on `images` (B, 3, H, W), in float32 or by autocast, as the form says.

    A recipe's losses are those of its task; any other network is trained as a classifier.
    """
    layout = torch.channels_last if form.channels_last else torch.contiguous_format
    model = model.to(device=device, memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    run = torch.compile(model) if form.engine == "compiled" else model
    losses, batch = _losses(network, images)
    batch = to_device(batch, device, channels_last=form.channels_last)

    def step() -> None:
        with autocast(device, form.dtype):
            loss = losses(run, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _losses(network: Network, images: Tensor) -> tuple[Callable[[nn.Module, Any], Tensor], Any]:
    """A function of model and batch that gives the loss, and a batch of these images."""
    if not network.recipe:
        return _cross_entropy, (images, torch.zeros(len(images), dtype=torch.long))
    task = task_of(network)
    makers = {"classification": _classes, "segmentation": _label_maps, "detection": _objects}
    if task.recipe.task not in makers:
        raise RecipeError(f"{network.recipe}: training steps of {task.recipe.task} cannot be timed on made-up data")
    batch = makers[task.recipe.task](images, task.recipe.data.num_classes)
    return lambda model, batch: sum(task.losses(model, batch).values()), batch


def _cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, labels = batch
    return nn.functional.cross_entropy(model(images).float(), labels)


def _classes(images: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    return images, torch.arange(len(images)) % num_classes


def _label_maps(images: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    return images, torch.randint(num_classes, (len(images), *images.shape[2:]))


def _objects(images: Tensor, num_classes: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Boxes of a fifth of the image on a side, all over it, with full masks."""
    height, width = images.shape[2:]
    side = torch.tensor([width, height]) / 5
    corners = torch.rand(OBJECTS, 2) * 4 * side
    boxes = torch.cat([corners, corners + side], 1)
    masks = torch.zeros(OBJECTS, height, width, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.round().int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    target = {"boxes": boxes, "labels": 1 + torch.arange(OBJECTS) % num_classes, "masks": masks}
    return list(images.sigmoid()), [target] * len(images)
