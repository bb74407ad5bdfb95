"""OpenVINO, on the CPU."""

import io
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastvit.deploy.runtimes.run import Run, Settings, as_float32
from fastvit.deploy.runtimes.streams import Streams
from fastvit.deploy.runtimes.turns import Turns

if TYPE_CHECKING:
    import openvino

PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
MOST_SHAPES = 4


@cache
def core() -> "openvino.Core":
    """The only one of the process, which is never destroyed.

    Each core gives the calling thread a stack for signals; destroyed, it gives back the one before (OpenVINO 2026.4).
    If that one is gone by then, the next signal, such as the end of a child process, ends this process with SIGSEGV.
    """
    import openvino

    return openvino.Core()


def read_onnx(content: bytes) -> "openvino.Model":
    """An ONNX model as one of OpenVINO's, without operations on constants, which are half of it: shapes of biases."""
    from openvino.passes import ConstantFolding, Manager

    model = core().read_model(io.BytesIO(content))
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(model)
    return model


def precisions() -> set[torch.dtype]:
    """What OpenVINO computes in on this CPU."""
    known = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    names = {torch.float32: "FP32", torch.bfloat16: "BF16", torch.float16: "FP16"}
    return {dtype for dtype, name in names.items() if name in known}


def configuration(settings: Settings, streams: int) -> dict[str, str | int]:
    """The settings in OpenVINO's words."""
    return {
        "INFERENCE_PRECISION_HINT": PRECISIONS[settings.dtype],
        "INFERENCE_NUM_THREADS": settings.threads,
        "NUM_STREAMS": streams,
    }


def openvino_run(model: Any, settings: Settings) -> Run:
    """A model of OpenVINO as a function of images.

    Args:
        model: `openvino.Model` with one input; its axes may be open.
        settings: its dtype is one of `precisions()`.
    """
    closed = not model.input(0).partial_shape[0].is_dynamic
    return Streams(lambda streams: Requests(model, settings, streams), settings.threads, settings.streams, whole=closed)


class Requests:
    """A model that computes `streams` calls at a time, each by a request of its own; further calls wait for their turn.

    The first `MOST_SHAPES` shapes of images are compiled as such. One more model, compiled for any shape, computes all
    others: a little slower, but no time is spent on compiling again.
    """

    def __init__(self, model: Any, settings: Settings, streams: int):
        self._model, self._streams = model, streams
        self._config = configuration(settings, streams)
        self._idle: dict[tuple[int, ...] | None, list[Any]] = {}
        self._lock, self._turns = Lock(), Turns(streams)

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        idle = self._requests(tuple(images.shape))
        with self._turns:
            request = idle.pop()
            try:
                request.infer([as_float32(images)], share_inputs=True, share_outputs=True)
                return tuple(torch.from_numpy(output.data).clone() for output in request.output_tensors)
            finally:
                idle.append(request)

    def _requests(self, shape: tuple[int, ...]) -> list[Any]:
        if shape in self._idle:  # whose size is ready does not wait while another is compiled
            return self._idle[shape]
        with self._lock:
            if shape in self._idle:
                return self._idle[shape]
            key = shape if len(self._idle) < MOST_SHAPES else None
            if key not in self._idle:
                self._idle[key] = self._compile(key)
            return self._idle[key]

    def _compile(self, shape: tuple[int, ...] | None) -> list[Any]:
        model = self._model
        if shape and model.is_dynamic():
            model = model.clone()
            model.reshape(list(shape))
        compiled = core().compile_model(model, "CPU", self._config)
        return [compiled.create_infer_request() for _ in range(self._streams)]
