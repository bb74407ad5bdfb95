"""CUDA graphs: all kernels of a call recorded once, and launched together."""

from collections.abc import Callable
from typing import Any

import torch

WARM_UP_CALLS = 3  # on a stream of their own, as recording asks for


def captured(call: Callable[[], Any]) -> Callable[[], Any]:
    """A call that replays what `call` does on the GPU, on the same inputs, without launching each kernel again."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_CALLS):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = call()

    def replay() -> Any:
        graph.replay()
        return output

    return replay
