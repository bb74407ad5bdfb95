"""Batches of any nesting get to the device."""

import torch

from fastvit.runtime.device import autocast, to_device

CPU = torch.device("cpu")


def test_a_batch_keeps_its_nesting():
    batch = ([torch.zeros(2)], {"boxes": (torch.ones(1), "name", 3)})
    assert to_device(batch, CPU) == batch


def test_only_images_are_made_channels_last():
    images, labels = to_device((torch.zeros(2, 3, 4, 4), torch.zeros(2)), CPU, channels_last=True)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.shape == (2,)


def test_autocast_is_off_in_float32():
    x = torch.ones(2, 2)
    with autocast(CPU, "float32"):
        assert (x @ x).dtype == torch.float32
    with autocast(CPU, "bfloat16"):
        assert (x @ x).dtype == torch.bfloat16
