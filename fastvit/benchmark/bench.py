"""What a measuring process does when asked: build, call, forget; and tell what the machine can do."""

import ctypes
import gc
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastvit.benchmark import limits
from fastvit.benchmark.engines import Call, prepare
from fastvit.benchmark.measurement import Measurement
from fastvit.benchmark.networks import build, counted_part, input_size, task_of
from fastvit.benchmark.steps import training_step
from fastvit.benchmark.suite import Form
from fastvit.benchmark.work import macs, parameters, traffic
from fastvit.runtime.device import cuda_kernels
from fastvit.runtime.timing import seconds_of
from fastvit.training.memory import activation_bytes_per_image

WARM_UP_CALLS = 3
LONG_CALL = 0.25  # seconds; to bring the weights back into the caches takes no such time

Kernels = Callable[[], AbstractContextManager[None]]  # within: how a GPU computes


class Bench:
    """The state of a measuring process: what it has built. Its methods are what `Worker.ask` asks for by name."""

    def __init__(self, device: torch.device):
        self.device = device
        torch.backends.cudnn.benchmark = True  # on a GPU, the fastest algorithm for each shape, where no recipe says
        self.built: dict[Measurement, tuple[Call, dict[str, Any], Kernels]] = {}

    def build(self, measurement: Measurement) -> dict[str, Any]:
        """Get ready to call it, unless it is already. Returns what is known of it: parameters, MACs, memory, ..."""
        if measurement not in self.built:
            kernels = _kernels(measurement)
            with kernels():
                self.built[measurement] = (*self._build(measurement), kernels)
        return self.built[measurement][1]

    def call(self, measurement: Measurement, calls: int) -> list[float]:
        """The seconds of `calls` calls, after one that brings its weights back into the caches, if calls are short.

        Builds it first, if it is not.
        """
        self.build(measurement)  # again, where the process that had it is gone
        call, _, kernels = self.built[measurement]
        with kernels():
            first = seconds_of(call)
            counted = [first] if first > LONG_CALL else []
            return counted + [seconds_of(call) for _ in range(calls - len(counted))]

    def keep(self, measurements: Collection[Measurement]) -> None:
        """Free everything that was built, except for these."""
        if not self.built.keys() <= set(measurements):
            self.built = {each: what for each, what in self.built.items() if each in measurements}
            torch.compiler.reset()
        gc.collect()
        _give_back(self.device)

    def limits(self, dtypes: Collection[str]) -> dict[str, Any]:
        """What the machine can do at most: `peak` by dtype, `bandwidth`, and the size of its `cache`."""
        cache = limits.cache_size(self.device)
        peaks = {dtype: limits.peak(getattr(torch, dtype), self.device) for dtype in dtypes}
        return {"peak": peaks, "bandwidth": limits.bandwidth(self.device, cache), "cache": cache}

    def _build(self, measurement: Measurement) -> tuple[Call, dict[str, Any]]:
        size = input_size(measurement.network)
        model = build(measurement.network, measurement.form)
        facts = self._facts(measurement, model, size)
        images = torch.randn(measurement.batch_size, *size, generator=torch.Generator().manual_seed(0))
        call = self._prepared(measurement, model, images)
        if measurement.form.engine == "fastest":
            facts["engine"] = call.func.engine
        for _ in range(WARM_UP_CALLS):
            call()
        if _shows_memory(measurement.form, self.device) and (taken := _taken_by(call, self.device)) is not None:
            weights = 0 if measurement.form.train else facts["parameters"] * _item_size(measurement.form.dtype)
            facts["peak_memory"] = weights + taken
        return call, facts

    def _prepared(self, measurement: Measurement, model: nn.Module, images: Tensor) -> Call:
        form = measurement.form
        if form.train:
            return training_step(measurement.network, form, model, images, self.device)
        return prepare(model, form, images, self.device)

    def _facts(self, measurement: Measurement, model: nn.Module, size: tuple[int, int, int]) -> dict[str, Any]:
        part, form = counted_part(measurement.network, model), measurement.form
        facts: dict[str, Any] = {"image_size": size[1], "parameters": parameters(model), "macs": macs(part, size)}
        if form.train and form.engine == "eager" and not measurement.network.recipe:
            kept = activation_bytes_per_image(lambda: build(measurement.network, form), size[1], form.dtype)
            facts["counted_memory"] = kept * measurement.batch_size
        if not form.train:
            facts["batch_norms"] = sum(isinstance(module, _BatchNorm) for module in model.modules())
            if form.dtype != "int8":
                cache = limits.cache_size(self.device)
                facts["traffic"] = traffic(part, size, measurement.batch_size, getattr(torch, form.dtype), cache)
        return facts


def _kernels(measurement: Measurement) -> Kernels:
    """As the recipe says; training steps without one as recipes say by default, and other calls as torch has it."""
    if measurement.network.recipe:
        loop = task_of(measurement.network).recipe.loop
        return partial(cuda_kernels, tf32=loop.tf32, benchmark=loop.cudnn_benchmark)
    return partial(cuda_kernels, tf32=True, benchmark=True) if measurement.form.train else nullcontext


def _item_size(dtype: str) -> int:
    return getattr(torch, dtype).itemsize


def _shows_memory(form: Form, device: torch.device) -> bool:
    """Not where a call's memory is kept for the next: by other engines, and by CUDA graphs, which `compiled` makes."""
    if form.train or (form.engine == "eager" and not form.cuda_graph):
        return True
    return form.engine == "compiled" and device.type == "cpu"


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
    _give_back(device)
    reset.write_text("5")  # the peak starts from here
    before = _kilobytes("VmRSS")
    call()
    return 1024 * (_kilobytes("VmHWM") - before)


def _give_back(device: torch.device) -> None:
    """Return freed memory to the system."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif hasattr(ctypes.CDLL(None), "malloc_trim"):  # glibc keeps what was freed
        ctypes.CDLL(None).malloc_trim(0)


def _kilobytes(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1])
