import time

import pytest
import torch

from fastvit.runtime.timing import interleaved_latency, seconds_of


def test_functions_are_called_in_turn_and_the_warmup_is_not_measured():
    calls = []
    samples = interleaved_latency({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warmup=2)
    assert "".join(calls) == "ab" * 5
    assert {name: len(times) for name, times in samples.items()} == {"a": 3, "b": 3}


def test_measures_seconds():
    samples = interleaved_latency({"sleep": lambda: time.sleep(0.02)}, rounds=3, warmup=0)
    assert min(samples["sleep"]) == pytest.approx(0.02, abs=0.01)


def test_what_computes_on_the_cpu_starts_no_gpu(monkeypatch):
    """That takes seconds and hundreds of megabytes of the GPU."""
    started = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", started.append)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    seconds_of(lambda: None)
    assert started == []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    seconds_of(lambda: None)
    assert started == [None, None]  # the current one


def test_of_several_gpus_the_one_that_computes_is_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    for name in ("cuda:1", "cpu"):
        seconds_of(lambda: None, torch.device(name))
    assert waited == [torch.device("cuda:1")] * 2 + [None] * 2
