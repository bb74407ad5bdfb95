"""ONNX Runtime, on the CPU."""

import torch
from torch import Tensor

from fastvit.deploy.runtimes.run import Run, Settings, as_float32
from fastvit.deploy.runtimes.streams import Streams
from fastvit.deploy.runtimes.turns import Turns


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
