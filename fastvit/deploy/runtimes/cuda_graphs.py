"""CUDA graphs: the kernels of a call, recorded once and replayed together."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastvit.deploy.runtimes.run import Run
from fastvit.deploy.runtimes.turns import Turns

MOST_GRAPHS = 16  # each keeps the memory of a call


@dataclass(frozen=True)
class Recorded:
    """A graph, which reads its images from one place and writes its outputs to others."""

    graph: torch.cuda.CUDAGraph
    images: Tensor
    outputs: tuple[Tensor, ...]


class CudaGraphs:
    """Replays a graph for each shape of images. Calls of several threads take turns. Not run by us so far.

    Args:
        run: what to record; it has to compute the same for the same shape, without waiting for the GPU.
        device: where it computes.
    """

    def __init__(self, run: Run, device: torch.device):
        self._run = run
        self._graphs: dict[torch.Size, Recorded] = {}
        self._turns = Turns(1)
        self._stream = torch.cuda.Stream(device)

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """A graph has one place for its images: all calls go through one stream, one after the other."""
        caller = torch.cuda.current_stream(images.device)
        with self._turns, torch.cuda.stream(self._stream):
            self._stream.wait_stream(caller)
            if images.shape not in self._graphs and len(self._graphs) < MOST_GRAPHS:
                self._graphs[images.shape] = self._record(images)
            outputs = self._replay(images) if images.shape in self._graphs else self._run(images)
            caller.wait_stream(self._stream)
            for tensor in (images, *outputs):
                tensor.record_stream(caller if tensor is not images else self._stream)
        return outputs

    def _replay(self, images: Tensor) -> tuple[Tensor, ...]:
        recorded = self._graphs[images.shape]
        recorded.images.copy_(images)
        recorded.graph.replay()
        return tuple(output.clone() for output in recorded.outputs)

    def _record(self, images: Tensor) -> Recorded:
        images = images.clone(memory_format=torch.preserve_format)
        for _ in range(3):  # kernels are chosen in the first calls
            self._run(images)
        graph = torch.cuda.CUDAGraph()
        # Other threads may take memory of the GPU meanwhile, which in the stricter mode ends the recording.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            outputs = self._run(images)
        return Recorded(graph, images, tuple(outputs))
