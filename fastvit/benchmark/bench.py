"""What a measuring process does when asked: build, call, forget."""

import ctypes
import gc
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from fastvit.benchmark.engines import Call, prepare
from fastvit.benchmark.networks import build, input_size, macs, parameters
from fastvit.benchmark.workers import Measurement
from fastvit.runtime.timing import seconds_of

ENGINES = ("onnx", "onnxruntime", "openvino")
WARM_UP_CALLS = 3


class Bench:
    """The state of a measuring process: what it has built. Its methods are those of `Worker`."""

    def __init__(self, device: torch.device):
        self.device = device
        self.built: dict[Measurement, Call] = {}

    def build(self, measurement: Measurement) -> dict[str, Any]:
        size = input_size(measurement.network)
        model = build(measurement.network, measurement.form)
        facts = {"image_size": size[1], "parameters": parameters(model), "macs": macs(model, size)}
        weights = facts["parameters"] * getattr(torch, measurement.form.dtype).itemsize
        images = torch.randn(measurement.batch_size, *size, generator=torch.Generator().manual_seed(0))
        call = prepare(model, measurement.form, images, self.device)
        for _ in range(WARM_UP_CALLS):
            call()
        self.built[measurement] = call
        # Other engines keep the memory of a call for the next, in arenas of their own.
        if measurement.form.engine in ("eager", "compiled") and (taken := _taken_by(call, self.device)) is not None:
            facts["peak_memory"] = weights + taken
        return facts

    def call(self, measurement: Measurement, calls: int) -> list[float]:
        call = self.built[measurement]
        call()
        return [seconds_of(call) for _ in range(calls)]

    def forget(self) -> None:
        self.built.clear()
        torch.compiler.reset()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def peak(self, dtype: str) -> float:
        size = 8192 if self.device.type == "cuda" else 2048
        a, b = (torch.randn(size, size, device=self.device).to(getattr(torch, dtype)) for _ in range(2))
        with torch.inference_mode():
            seconds = [seconds_of(lambda: a @ b) for _ in range(12)]
        return 2 * size**3 / min(seconds)

    def versions(self) -> dict[str, str]:
        found = {}
        for name in ENGINES:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = "not installed"
        return found


def _taken_by(call: Call, device: torch.device) -> int | None:
    """Bytes that one call takes at its peak, beyond what lies there between calls; None where nothing tells."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    reset = Path("/proc/self/clear_refs")
    if device.type != "cpu" or not reset.exists():
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # give back what glibc keeps of earlier calls
    reset.write_text("5")  # the peak starts anew
    before = _kilobytes("VmRSS")
    call()
    return 1024 * (_kilobytes("VmHWM") - before)


def _kilobytes(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1])
