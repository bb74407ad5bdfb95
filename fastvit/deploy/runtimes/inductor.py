"""PyTorch's own compiler, without `torch.compile` around it."""

import sys
from collections.abc import Callable, Mapping
from threading import Lock, RLock
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor.codecache import PyCodeCache
from torch.export import Dim

from fastvit.compare import relative_error
from fastvit.deploy.float16 import ADVICE
from fastvit.deploy.network import flat
from fastvit.deploy.runtimes.cuda_graphs import CudaGraphs
from fastvit.deploy.runtimes.run import Run, plain_mode
from fastvit.deploy.runtimes.turns import Turns
from fastvit.precision import exact_float32

OPTIONS: dict[str, dict[str, Any]] = {
    "cpu": {"freezing": True},  # packs the weights once, in the layout of oneDNN's kernels
    "cuda": {"freezing": True, "max_autotune": True, "coordinate_descent_tuning": True},
}

_compiling = RLock()  # inductor's settings and caches are those of the process


class Compiled:
    """A network compiled for its device when a size of images first comes: for a single one, and for any larger batch.

    On a GPU the kernels of each batch are recorded and replayed as one CUDA graph.

    Args:
        network: images -> a tensor or a tuple of tensors; in eval mode, in channels_last, in the dtype to compute in.
        dtype: of the images that it takes.
        tolerance: largest relative L2 difference of each program's outputs from the network's own. Both are computed
            without TF32; where the process allows that, what runs is the same program compiled again with it.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype, tolerance: float):
        self._network, self._dtype, self._tolerance = network, dtype, tolerance
        self._programs: dict[Any, Run] = {}
        self._lock = Lock()
        # Each caller has threads of its own, which slow each other. One call more at a time than there are threads was
        # the fastest with 4 and with 16 clients (docs/log.md). On a GPU they take turns anyhow.
        self._turns = Turns(torch.get_num_threads() + 1)

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        images = images.to(next(self._network.parameters()).device, self._dtype)
        images = images.contiguous(memory_format=torch.channels_last)
        key = (images.shape[1:], len(images) > 1)
        if key not in self._programs:  # whose size is ready does not wait while another is compiled
            with self._lock:
                if key not in self._programs:
                    self._programs[key] = self._compile(images)
        with self._turns:
            return self._programs[key](images)

    def _compile(self, images: Tensor) -> Run:
        with _compiling, exact_float32():
            expected = flat(self._network(images))  # first: where it does not take them, it says so
            if self._dtype == torch.float16 and not all(each.isfinite().all() for each in expected):
                raise RuntimeError(f"the network's numbers become too large in float16: {ADVICE}")
            program = self._program(images)
            error = relative_error(program(images), expected)
        if not error <= self._tolerance:
            raise RuntimeError(f"what torch compiled differs from the network by {error:.1e} (relative L2)")
        return self._program(images) if computes_in_tf32(images) else program

    def _program(self, images: Tensor) -> Run:
        program = compile_program(self._network, images, OPTIONS.get(images.device.type, {}))
        run: Run = lambda images: flat(program(images))  # noqa: E731
        return CudaGraphs(run, images.device) if images.device.type == "cuda" else run


def computes_in_tf32(images: Tensor) -> bool:
    """Whether torch may round the factors of products to 10 bits: of convolutions that is its default on GPUs."""
    of: Any = torch.backends  # whose types torch does not state
    backends = (of.cudnn.conv, of.cuda.matmul)
    allowed = any(backend.fp32_precision == "tf32" for backend in backends)
    return images.device.type == "cuda" and images.dtype == torch.float32 and allowed


def compile_program(network: nn.Module, images: Tensor, options: Mapping[str, Any]) -> Callable[[Tensor], Any]:
    """Compile a network for images of this size: for this batch if it is of one, else for any batch from two on.

    `torch.compile` is not used, because of its guards: they are checked in every call; where the caller's thread is in
    another mode or has another number of threads, they compile again; and of its option `freezing` it sees only
    half. It also refuses the ninth network of a process. A graph captured by `torch.export` has none of that. What is
    used of torch's private interfaces for it is all here, run with torch 2.11 and 2.14:

    - `torch._inductor.compile(graph, inputs, options)`, which compiles a graph that was captured in another way;
    - `PyCodeCache.modules`, where inductor keeps every module that it has generated, and with it the frozen weights,
      as long as the process lives. Taken out of it, they go when the program goes.
    """
    batch = ({0: Dim("batch", min=2)},) if len(images) > 1 else None
    with _compiling, plain_mode():
        exported = torch.export.export(network, (images,), dynamic_shapes=batch)
        (name,) = exported.graph_signature.user_inputs
        (node,) = (node for node in exported.graph.nodes if node.name == name)
        generated = len(PyCodeCache.modules)
        program = torch._inductor.compile(exported.module(check_guards=False), [node.meta["val"]], dict(options))
        for module in PyCodeCache.modules[generated:]:
            sys.modules.pop(module.__name__, None)
        del PyCodeCache.modules[generated:]
    return program
