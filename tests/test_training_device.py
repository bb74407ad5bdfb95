"""Batches of any nesting get to the device."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from fastvit.runtime.device import BatchMover, autocast, tensors_of

CPU, META = torch.device("cpu"), torch.device("meta")


class Sized(NamedTuple):
    images: Tensor
    size: Any


def test_a_batch_keeps_its_nesting():
    batch = ([torch.zeros(2)], {"boxes": (torch.ones(1), "name", 3)}, Sized(torch.zeros(1), None))
    moved = BatchMover(CPU)(batch)
    assert moved == batch
    assert isinstance(moved[2], Sized)


def test_every_tensor_of_a_batch_gets_to_the_device():
    images, boxes = torch.zeros(1, 3, 4, 4), torch.ones(2)
    moved = BatchMover(META)(([boxes, boxes, 3], {"boxes": (boxes, "name")}, Sized(images, None)))
    assert [each.device for each in tensors_of(moved)] == [META] * 4


@pytest.mark.parametrize("wanted", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("given", [torch.channels_last, torch.contiguous_format])
def test_images_get_the_memory_layout_that_is_asked_for(given, wanted):
    batch = {"images": torch.rand(2, 3, 4, 4).to(memory_format=given), "labels": torch.arange(2)}
    moved = BatchMover(CPU, channels_last=wanted is torch.channels_last)(batch)
    assert moved["images"].is_contiguous(memory_format=wanted)
    assert torch.equal(moved["images"], batch["images"])
    assert torch.equal(moved["labels"], batch["labels"])


def test_a_gpu_s_copies_are_asked_of_a_stream_of_their_own(monkeypatch):
    """Without a GPU: what is asked of torch, in which order. The computation waits for the copy; memory for both."""
    asked = []

    class Stream:
        def __init__(self, name):
            self.name = name

        def wait_stream(self, other):
            asked.append(f"{self.name} waits for {other.name}")

    class Within:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            asked.append(f"in {self.stream.name}")

        def __exit__(self, *_):
            asked.append(f"out of {self.stream.name}")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("copies"))
    monkeypatch.setattr(torch.cuda, "stream", Within)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("computation"))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: asked.append(f"kept for {stream.name}"))
    move = BatchMover(torch.device("cuda"))
    monkeypatch.setattr(move, "device", CPU)
    move((torch.zeros(2, 3, 4, 4), {"labels": torch.zeros(2)}))
    assert asked == ["in copies", "out of copies", "computation waits for copies", *["kept for computation"] * 2]


def test_autocast_is_off_in_float32():
    x = torch.ones(2, 2)
    with autocast(CPU, "float32"):
        assert (x @ x).dtype == torch.float32
    with autocast(CPU, "bfloat16"):
        assert (x @ x).dtype == torch.bfloat16
