"""Accuracy, agreement, error, size and speed of one network in several precisions."""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from fastvit.deploy.formats.format import Format, Run
from fastvit.deploy.formats.openvino import OpenVino, load_openvino
from fastvit.deploy.int8.images import UNKNOWN, Samples
from fastvit.deploy.request import Request
from fastvit.deploy.sidecar import size_in_bytes
from fastvit.reparam import relative_error
from fastvit.runtime.timing import interleaved_latency


@dataclass(frozen=True)
class Measured:
    """One precision on the validation images.

    Attributes:
        top1: percent; None without labels.
        agreement: percent of the images with the same class as in float32.
        relative_error: of the logits, L2, against float32.
        speed_up: latency of float32 over that of this one, of one image; medians measured in turn. None where another
            runtime computes.
        bytes: of the files.
    """

    name: str
    runtime: str
    top1: float | None
    agreement: float
    relative_error: float
    bytes: int
    latency_ms: float | None
    speed_up: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare_precisions(kind: Format, request: Request, draft: Path, validation: Samples) -> list[Measured]:
    """float32, bfloat16 and the quantised file `draft`, in this order.

    float32 runs in the same runtime. bfloat16 does in OpenVINO; for the others, which have none, PyTorch computes it.
    """
    with TemporaryDirectory() as folder:
        full = Path(folder) / f"float32{kind.suffix}"
        kind.convert(request, full)
        runs: dict[str, Run] = {"float32": kind.load(full)}
        in_openvino = isinstance(kind, OpenVino)
        runs["bfloat16"] = load_openvino(full, "bf16") if in_openvino else _in_bfloat16(request.network)
        runs["int8"] = kind.load(draft)
        sizes = {"float32": size_in_bytes(kind.files(full)), "int8": size_in_bytes(kind.files(draft))}
        sizes["bfloat16"] = sizes["float32"] if in_openvino else sizes["float32"] // 2
        timed = [name for name in runs if in_openvino or name != "bfloat16"]
        latency = _latency({name: runs[name] for name in timed}, validation.images[:1])
        logits = {name: logits_of(run, validation) for name, run in runs.items()}
    return [
        Measured(
            name=name,
            runtime=kind.runtime if name in timed else "PyTorch",
            top1=_top1(logits[name], validation.labels),
            agreement=_percent(logits[name].argmax(1) == logits["float32"].argmax(1)),
            relative_error=relative_error(logits[name], logits["float32"]),
            bytes=sizes[name],
            latency_ms=latency.get(name),
            speed_up=latency["float32"] / latency[name] if name in timed else None,
        )
        for name in runs
    ]


def logits_of(run: Run, samples: Samples) -> Tensor:
    """(N, classes), one image at a time, as the quantised networks take them."""
    return torch.cat([run(image[None].contiguous())[0].float() for image in samples.images])


def as_run(network: nn.Module) -> Run:
    """A network with one output as a function that returns a tuple."""

    @torch.no_grad()
    def run(images: Tensor) -> tuple[Tensor, ...]:
        return (network(images),)

    return run


def _in_bfloat16(network: nn.Module) -> Run:
    half: Callable[[Tensor], Tensor] = copy.deepcopy(network).to(torch.bfloat16, memory_format=torch.channels_last)
    return as_run(lambda images: half(images.to(torch.bfloat16, memory_format=torch.channels_last)))


def _latency(runs: dict[str, Run], image: Tensor) -> dict[str, float]:
    image = image.contiguous()
    seconds = interleaved_latency({name: lambda run=run: run(image) for name, run in runs.items()})
    return {name: 1000 * median(times) for name, times in seconds.items()}


def _top1(logits: Tensor, labels: Tensor) -> float | None:
    return None if (labels == UNKNOWN).any() else _percent(logits.argmax(1) == labels)


def _percent(hits: Tensor) -> float:
    return 100 * int(hits.sum()) / len(hits)
