"""The processes that measure: what they build and call, what they know of the machine, and how they end."""

import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from fastvit.benchmark import bench, limits, machine
from fastvit.benchmark.bench import Bench
from fastvit.benchmark.measurement import Failure, Measurement
from fastvit.benchmark.suite import Form, Network
from fastvit.benchmark.workers import Worker
from fastvit.deploy import ENGINES
from fastvit.errors import RunError


@pytest.fixture(scope="module")
def worker():
    worker = Worker(1, "cpu")
    yield worker
    worker.close()


def measurement(name: str = "fastvit_t8", **form) -> Measurement:
    batch = 1 if form.get("dtype") == "int8" else 2
    return Measurement(name, "form", Network(name=name, image_size=64), Form(**form), batch)


@pytest.mark.slow
def test_a_worker_measures_and_goes_on_after_a_failure(worker: Worker):
    asked = measurement()
    facts = worker.ask("build", asked)
    assert facts["image_size"] == 64
    times = worker.ask("call", asked, 3)
    assert len(times) == 3
    assert all(1e-4 < seconds < 10 for seconds in times)
    failure = worker.ask("build", measurement("resnet18", builtin=True))
    assert isinstance(failure, Failure)
    assert "resnet18 is none" in failure.reason
    assert len(worker.ask("call", asked, 1)) == 1
    worker.ask("keep", [])
    assert len(worker.ask("call", asked, 1)) == 1  # built again, as in a process that takes the place of a dead one


@pytest.mark.slow
def test_a_waiting_worker_leaves_the_processor_to_others(worker: Worker):
    worker.ask("build", measurement())
    worker.ask("call", measurement(), 1)
    stat = Path(f"/proc/{worker._process.pid}/stat")
    if not stat.exists():
        pytest.skip("no /proc")
    time.sleep(0.1)
    before = sum(int(ticks) for ticks in stat.read_text().split()[13:15])
    time.sleep(0.5)
    assert sum(int(ticks) for ticks in stat.read_text().split()[13:15]) - before <= 2  # of 50


def test_a_dead_worker_is_a_sentence():
    dying = Worker(1, "cpu")
    with pytest.raises(RunError, match=r"not ready after 0 minutes"):
        dying.ask("build", measurement(), seconds=0)
    with pytest.raises(RunError, match=r"a measuring process died \(SIGKILL\) in keep: if memory ran out"):
        dying.ask("keep", [])
    dying.close()


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"dtype": "bfloat16"},
        {"train": True, "fuse": False},
        pytest.param({"engine": "onnxruntime", "on": ("cpu",)}, marks=pytest.mark.slow),
        pytest.param({"engine": "openvino", "dtype": "int8", "on": ("cpu",)}, marks=pytest.mark.slow),
        pytest.param({"engine": "fastest"}, marks=pytest.mark.slow),
    ],
)
def test_every_form_is_built_and_called(form: dict, monkeypatch):
    if form.get("engine") == "openvino":
        pytest.importorskip("nncf")
    monkeypatch.setattr(bench, "_taken_by", lambda call, device: 10**7)
    process, asked = Bench(torch.device("cpu")), measurement("resnet18", **form)
    facts = process.build(asked)
    assert facts["parameters"] > 1e7
    assert facts["macs"] == pytest.approx(1.82e9 * (64 / 224) ** 2, rel=0.02)
    assert ("counted_memory" in facts) == bool(form.get("train"))
    assert ("traffic" in facts) == (form.get("dtype") != "int8" and not form.get("train"))
    if not form.get("engine"):
        weights = 0 if form.get("train") else facts["parameters"] * (2 if form else 4)
        assert facts["peak_memory"] == weights + 10**7
    assert facts.get("engine") in (ENGINES if form.get("engine") == "fastest" else (None,))
    assert len(process.call(asked, 2)) == 2
    assert process.build(asked) is facts  # once


def test_the_memory_of_a_call_is_what_it_takes_at_its_peak():
    """32 MiB are written, then given back."""
    taken = bench._taken_by(lambda: torch.ones(2**23).sum(), torch.device("cpu"))
    assert taken is None or 30 * 2**20 < taken < 40 * 2**20


@pytest.mark.parametrize(
    ("network", "train", "expected"),
    [
        ({"recipe": Path("quickstart/detection_digits.yaml")}, True, (True, False)),
        ({"recipe": Path("quickstart/detection_digits.yaml")}, False, (True, False)),
        ({"name": "fastvit_t8"}, True, (True, True)),
        ({"name": "fastvit_t8"}, False, (False, True)),
    ],
)
def test_a_gpu_computes_what_is_measured_as_the_recipe_says(network, train, expected, monkeypatch):
    """(TF32, cuDNN tries its algorithms), as in training; without a recipe the defaults of recipes, and of torch."""
    seen, backends = [], torch.backends
    monkeypatch.setattr(backends.cudnn, "benchmark", False)  # the process of a bench has its own
    monkeypatch.setattr(bench, "build", lambda network, form: None)
    monkeypatch.setattr(bench, "input_size", lambda network: (3, 8, 8))
    monkeypatch.setattr(bench, "_taken_by", lambda call, device: None)
    monkeypatch.setattr(Bench, "_facts", lambda self, measurement, model, size: {})
    look = lambda: seen.append((backends.cuda.matmul.allow_tf32, backends.cudnn.benchmark))  # noqa: E731
    monkeypatch.setattr(Bench, "_prepared", lambda self, measurement, model, images: look)
    process = Bench(torch.device("cpu"))
    process.call(Measurement("network", "form", Network(**network), Form(train=train, fuse=not train), 1), 2)
    assert len(seen) == bench.WARM_UP_CALLS + 3
    assert set(seen) == {expected}


# ---- the machine -----------------------------------------------------------------------------------------------------


def test_a_gpu_is_described_with_what_makes_it_slow(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92301)
    found = machine.environment_of("cuda", 2)
    assert found["cudnn"] == "9.23.1"
    assert {"driver", "cuda", "gpu", "threads"} <= found.keys()
    assert "cuDNN 9.23.1 can be five times as slow" in machine.known_problems(found)[0]
    assert not machine.known_problems({"cudnn": "9.24.0"})
    assert not machine.known_problems(machine.environment_of("cpu", 2))


def test_the_first_call_counts_for_no_limit(monkeypatch):
    """On a GPU kernels are chosen in it, and it may take longer than all others together."""
    seconds = iter([0.5, 0.1, 0.2])
    monkeypatch.setattr(limits, "seconds_of", lambda call: call())
    assert limits._fastest(lambda: next(seconds)) == 0.1


def test_limits_are_those_of_the_fastest_shape(monkeypatch):
    monkeypatch.setitem(limits.SHAPES, "cpu", ((64, 64, 64), (256, 256, 256)))
    monkeypatch.setattr(limits, "ENOUGH_SECONDS", 0.01)
    monkeypatch.setattr(limits, "CONVOLUTIONS", ())
    product = limits.peak(torch.float32, torch.device("cpu"))
    assert product["flops"] > 1e9
    assert "product, 256" in product["by"] or "convolution, 256" in product["by"]
    if find_spec("openvino"):  # counted right, it is of the same order
        monkeypatch.setattr(limits, "CONVOLUTIONS", ((256, 14),))
        monkeypatch.setitem(limits.SHAPES, "cpu", ())
        convolution = limits.peak(torch.float32, torch.device("cpu"))
        assert convolution["by"] == "3x3 convolution by OpenVINO, 256 channels, 14 px"
        assert 0.1 < convolution["flops"] / product["flops"] < 10
    assert limits.bandwidth(torch.device("cpu"), 2**20) > 1e8
    assert limits.least_seconds(1e9, 1e6, flops=1e9, bytes_per_second=1e9) == (1.0, "compute")
    assert limits.least_seconds(1e6, 1e9, flops=1e9, bytes_per_second=1e9) == (1.0, "memory")
