"""ONNX Runtime: its own kernels on the CPU, TensorRT's on an NVIDIA GPU."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastvit.deploy.runtimes.run import Run, Settings, as_float32
from fastvit.deploy.runtimes.streams import Streams
from fastvit.deploy.runtimes.turns import Turns

TENSORRT = "TensorrtExecutionProvider"


def has_tensorrt() -> bool:
    """Whether the installed ONNX Runtime can call TensorRT."""
    import onnxruntime

    return TENSORRT in onnxruntime.get_available_providers()


def onnxruntime_run(model: bytes | str, settings: Settings) -> Run:
    """An ONNX model, or the path of one, as a function of images on the CPU, in float32."""
    first = Session(model, settings, settings.streams or 1)

    def make(streams: int) -> Run:
        return first if streams == first.streams else Session(model, settings, streams)

    return Streams(make, settings.threads, settings.streams, whole=not first.open_batch)


class Session:
    """A model that computes `streams` calls at a time; further calls wait for their turn."""

    def __init__(self, model: bytes | str, settings: Settings, streams: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, settings.threads // streams)
        options.add_session_config_entry("session.force_spinning_stop", "1")  # idle threads leave the cores to others
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        (self._input,) = self._session.get_inputs()
        self._turns = Turns(streams)
        self.streams = streams
        self.open_batch = isinstance(self._input.shape[0], str)

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        with self._turns:
            outputs = self._session.run(None, {self._input.name: as_float32(images)})
        return tuple(map(torch.from_numpy, outputs))


class TensorRtSession:
    """A model computed by TensorRT, with images and outputs on the GPU; one call at a time. Not run by us so far.

    Args:
        model: ONNX.
        dtype: float32, float16 or bfloat16.
        device: the GPU.

    Raises:
        RuntimeError: ONNX Runtime could not start TensorRT, and would compute elsewhere.
    """

    def __init__(self, model: bytes, dtype: torch.dtype, device: torch.device):
        import onnxruntime

        self._device = torch.device(device.type, device.index or 0)
        options = {"device_id": self._device.index}
        if dtype in (torch.float16, torch.bfloat16):
            options["trt_fp16_enable" if dtype == torch.float16 else "trt_bf16_enable"] = True
        self._session: Any = onnxruntime.InferenceSession(model, providers=[(TENSORRT, options)])
        if self._session.get_providers()[0] != TENSORRT:
            raise RuntimeError(f"ONNX Runtime started {self._session.get_providers()[0]} in place of TensorRT")
        self._session.disable_fallback()
        (self._input,) = self._session.get_inputs()
        self._turns = Turns(1)

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        images = images.to(self._device, torch.float32).contiguous()
        where = (self._device.type, self._device.index)
        with self._turns:
            binding = self._session.io_binding()
            binding.bind_input(self._input.name, *where, np.float32, list(images.shape), images.data_ptr())
            for output in self._session.get_outputs():
                binding.bind_output(output.name, *where)
            torch.cuda.current_stream(self._device).synchronize()  # ONNX Runtime computes in a stream of its own
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            return tuple(torch.from_dlpack(output).clone() for output in binding.get_outputs())
