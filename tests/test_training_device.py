"""Batches of any nesting get to the device."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from fastvit.precision import exact_float32
from fastvit.runtime.device import BatchMover, autocast, copy_stream, cuda_kernels, read_later, tensors_of, to_device

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

    monkeypatch.setattr("fastvit.runtime.device.copy_stream", lambda device: Stream("copies"))
    monkeypatch.setattr(torch.cuda, "stream", Within)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("computation"))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: asked.append(f"kept for {stream.name}"))
    move = BatchMover(torch.device("cuda"))
    monkeypatch.setattr(move, "device", CPU)
    move((torch.zeros(2, 3, 4, 4), {"labels": torch.zeros(2)}))
    assert asked == ["in copies", "out of copies", "computation waits for copies", *["kept for computation"] * 2]


def test_all_copies_to_a_gpu_share_a_stream(monkeypatch):
    """torch keeps freed memory for the stream that had it: with one for each evaluation, gigabytes are lost."""
    opened = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: opened.append(str(device)))
    copy_stream.cache_clear()
    for name in ("cuda:0", "cuda:1", "cuda:0"):
        BatchMover(torch.device(name))
    copy_stream.cache_clear()
    assert opened == ["cuda:0", "cuda:1"]


@pytest.mark.parametrize(("name", "goes_on"), [("cuda", True), ("mps", False)])
def test_the_program_goes_on_during_a_copy_to_cuda_alone(name, goes_on, monkeypatch):
    """What is copied to Apple's GPU may be read after its memory was given to others (pytorch#189690)."""
    asked = []
    monkeypatch.setattr(Tensor, "to", lambda self, device, **how: asked.append((device.type, how["non_blocking"])))
    to_device((torch.zeros(1, 3, 4, 4), torch.zeros(2)), torch.device(name))
    assert asked == [(name, goes_on)] * 2


def test_a_number_is_read_when_its_own_gpu_is_ready(monkeypatch):
    """Also of a GPU that is not the current one."""
    recorded = []
    copy = SimpleNamespace(copy_=lambda number, non_blocking: None, item=lambda: 3.0)
    event = SimpleNamespace(record=recorded.append, synchronize=lambda: None)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: copy)
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    assert read_later(SimpleNamespace(device=torch.device("cuda:1"), dtype=torch.float32))() == 3.0
    assert recorded == ["the stream of cuda:1"]


def test_exact_float32_within_tf32_leaves_it_as_it_was():
    """Metrics are exact in the middle of an evaluation. torch has two interfaces, which must not fall out."""
    backends = torch.backends
    before = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32
    for tf32 in (True, False):
        with cuda_kernels(tf32=tf32, benchmark=False):
            with exact_float32():
                assert not backends.cuda.matmul.allow_tf32
                assert not backends.cudnn.allow_tf32
            assert backends.cuda.matmul.allow_tf32 == backends.cudnn.allow_tf32 == tf32
    assert (backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32) == before


def test_autocast_is_off_in_float32():
    x = torch.ones(2, 2)
    with autocast(CPU, "float32"):
        assert (x @ x).dtype == torch.float32
    with autocast(CPU, "bfloat16"):
        assert (x @ x).dtype == torch.bfloat16
