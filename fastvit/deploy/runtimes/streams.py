"""The threads of a CPU, divided among the images of a batch."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import torch
from torch import Tensor

from fastvit.deploy.runtimes.run import Run

PIECE = 2  # images; more of them fit less into the caches


class Streams:
    """Computes a small batch with all threads, and a large one in pieces, several at a time.

    A thread that has an image to itself never waits for others, and what a layer leaves behind is still in the caches
    when the next one takes it: OpenVINO and ONNX Runtime compute 16 images 1.1 to 1.4 times as fast that way.

    Args:
        make: `make(streams)` gives what computes as many pieces at a time, each with threads / streams threads.
        threads: all together.
        streams: always this many. None: one for each thread where there are as many images, else one.
        whole: a batch must stay together.
    """

    def __init__(self, make: Callable[[int], Run], threads: int, streams: int | None = None, *, whole: bool = False):
        self._make, self._threads, self._streams, self._whole = make, threads, streams, whole
        self._runs: dict[int, Run] = {}
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(streams or threads, "fastvit-stream")  # starts its threads when it needs them

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        divisible = not self._whole and len(images) > 1
        streams = self._streams or (self._threads if divisible and len(images) >= self._threads else 1)
        run = self._run(streams)
        if streams == 1 or not divisible:
            return run(images)
        pieces = images.split(min(PIECE, math.ceil(len(images) / streams)))
        outputs = list(self._pool.map(run, pieces))
        return tuple(torch.cat(each) for each in zip(*outputs, strict=True))

    def _run(self, streams: int) -> Run:
        if streams not in self._runs:  # whose is ready does not wait while another is made
            with self._lock:
                if streams not in self._runs:
                    self._runs[streams] = self._make(streams)
        return self._runs[streams]
