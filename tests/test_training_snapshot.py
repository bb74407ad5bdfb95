"""All buffers of a network are kept at once, and put back."""

import timm
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fastvit  # noqa: F401 - registers the models
from fastvit.training.snapshot import Snapshot


class Calls(TorchDispatchMode):
    """Counts what torch is asked to compute."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def test_values_come_back_whatever_happened_since():
    model = timm.create_model("fastvit_t8", num_classes=10).train()
    snapshot = Snapshot(model.buffers())
    for _ in range(2):
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        snapshot.take()
        model(torch.randn(2, 3, 32, 32))
        changed = [name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])]
        assert len(changed) == len(before) > 200
        snapshot.restore()
        torch.testing.assert_close(dict(model.named_buffers()), before, rtol=0, atol=0)
        model(torch.randn(2, 3, 32, 32))


def test_one_call_for_each_dtype():
    model = timm.create_model("fastvit_t8", num_classes=10)
    snapshot = Snapshot(model.buffers())
    with Calls() as calls:
        snapshot.take()
        snapshot.restore()
    assert calls.count == 2 * 2  # statistics are float32, their counters int64
