"""What this machine can do at most: operations and bytes a second, and so the least time that work can take.

The peak is the best of several shapes of matrix product, as matrices and as 1x1 convolutions, since no one shape is the
fastest in every library: on AMD's CPUs a large square product by MKL reaches half of what oneDNN's convolutions do. On
a CPU with OpenVINO, its 3x3 convolutions are tried, too: they reach a fifth more than any product. Each is timed many
times and the fastest call counts. Rows quote medians, so that their share of the limit is at most 1 except for what a
neighbour took from this measurement.
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvit.deploy.runtimes.openvino import configuration, core, precisions
from fastvit.deploy.runtimes.run import Settings
from fastvit.runtime.timing import seconds_of

REPEATS = 100
ENOUGH_SECONDS = 0.3  # for one shape
# Rows, inputs, outputs: of matrices that lie in the caches, and of 1x1 convolutions as networks have them.
SHAPES = {
    "cpu": ((512, 512, 512), (1024, 512, 512), (4096, 256, 256), (1024, 256, 1024), (784, 256, 1024), (2048,) * 3),
    "cuda": ((8192, 8192, 8192), (4096, 4096, 4096), (65536, 1024, 1024), (131072, 512, 2048), (262144, 256, 1024)),
}
CONVOLUTIONS = ((256, 14), (512, 14), (512, 28))  # channels, and pixels on a side


def peak(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """The most floating-point operations a second in `dtype`, and what reached them."""
    found: dict[str, Any] = {"flops": 0.0, "by": ""}
    for by, operations, call in _candidates(dtype, device):
        flops = operations / _fastest(call)
        if flops > found["flops"]:
            found = {"flops": flops, "by": by}
    return found


def _candidates(dtype: torch.dtype, device: torch.device) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    """What may be the fastest: in words, its floating-point operations, and a call of it."""
    for rows, inputs, outputs in SHAPES.get(device.type, SHAPES["cpu"]):
        for kind, call in _products(rows, inputs, outputs, dtype, device):
            yield f"{kind}, {rows} x {inputs} x {outputs}", 2 * rows * inputs * outputs, call
    if device.type == "cpu" and find_spec("openvino") and dtype in precisions():
        for channels, side in CONVOLUTIONS:
            by = f"3x3 convolution by OpenVINO, {channels} channels, {side} px"
            yield by, 2 * 9 * channels**2 * side**2, _convolution(channels, side, dtype)


def bandwidth(device: torch.device, cache: int) -> float:
    """Bytes a second that go from and to memory at most, by a copy and a sum of what is far larger than the cache."""
    return _copied(max(8 * cache, 2**28), device)


def cached_bandwidth(device: torch.device) -> float:
    """The same of what lies in the caches of the cores: the best of several sizes."""
    return max(_copied(size, device) for size in (2**18, 2**19, 2**20, 2**21))


def _copied(size: int, device: torch.device) -> float:
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / _fastest(lambda: target.copy_(source))
    return max(copied, source.nbytes / _fastest(source.sum))


def cache_size(device: torch.device) -> int:
    """Bytes of the last cache before memory; 0 where nothing tells."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    units = {"K": 2**10, "M": 2**20}
    return max((int(size[:-1]) * units[size[-1]] for size in sizes), default=0)


def least_seconds(operations: float, moved: float, flops: float, bytes_per_second: float) -> tuple[float, str]:
    """The time that the work takes at least (the roofline), and what binds: `compute` or `memory`."""
    by = {"compute": operations / flops, "memory": moved / bytes_per_second}
    binding = max(by, key=by.__getitem__)
    return by[binding], binding


def _products(
    rows: int, inputs: int, outputs: int, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    a, b = (torch.randn(shape, device=device).to(dtype) for shape in ((rows, inputs), (outputs, inputs)))
    yield "matrix product", lambda: a @ b.t()
    images, kernel = a.t().reshape(1, inputs, 16, rows // 16), b[:, :, None, None]
    images, kernel = (each.contiguous(memory_format=torch.channels_last) for each in (images, kernel))
    yield "1x1 convolution", lambda: F.conv2d(images, kernel)


def _convolution(channels: int, side: int, dtype: torch.dtype) -> Callable[[], Any]:
    import openvino
    from openvino import opset13

    kernel = torch.randn(channels, channels, 3, 3).numpy()
    images = opset13.parameter([1, channels, side, side], kernel.dtype)
    convolution = opset13.convolution(images, opset13.constant(kernel), [1, 1], [1, 1], [1, 1], [1, 1])
    settings = configuration(Settings(dtype), 1)
    request = core().compile_model(openvino.Model([convolution], [images]), "CPU", settings).create_infer_request()
    example = [torch.randn(1, channels, side, side).numpy()]
    return lambda: request.infer(example, share_inputs=True, share_outputs=True)


@torch.inference_mode()
def _fastest(call: Callable[[], Any]) -> float:
    """Seconds of the fastest of several calls, after one in which a GPU gets ready."""
    call()
    seconds = [seconds_of(call)]
    while len(seconds) < REPEATS and sum(seconds) < ENOUGH_SECONDS:
        seconds.append(seconds_of(call))
    return min(seconds)
