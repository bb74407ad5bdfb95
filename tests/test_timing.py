import time

import pytest

from fastvit.runtime.timing import interleaved_latency


def test_functions_are_called_in_turn_and_the_warmup_is_not_measured():
    calls = []
    samples = interleaved_latency({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warmup=2)
    assert "".join(calls) == "ab" * 5
    assert {name: len(times) for name, times in samples.items()} == {"a": 3, "b": 3}


def test_measures_seconds():
    samples = interleaved_latency({"sleep": lambda: time.sleep(0.02)}, rounds=3, warmup=0)
    assert min(samples["sleep"]) == pytest.approx(0.02, abs=0.01)
