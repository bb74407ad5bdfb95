"""Accuracy, agreement, error, size and speed of one network in several precisions."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from fastvit.compare import relative_error
from fastvit.data.images import NO_LABEL
from fastvit.deploy.formats.format import Format
from fastvit.deploy.int8.images import Samples
from fastvit.deploy.network import flat
from fastvit.deploy.request import Request
from fastvit.deploy.runtimes.run import Run, Settings, computed
from fastvit.deploy.sidecar import size_in_bytes
from fastvit.runtime.timing import interleaved_latency


@dataclass(frozen=True)
class Measured:
    """One precision on the validation images.

    Attributes:
        top1: percent of the images with a label; None if there is none.
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


@dataclass(frozen=True)
class Comparison:
    """Several precisions on the same images: float32, bfloat16, int8."""

    rows: tuple[Measured, ...]
    images: int
    labelled: int
    unreadable: int

    def to_dict(self) -> dict[str, Any]:
        counts = {"validation_images": self.images, "labelled": self.labelled, "unreadable": self.unreadable}
        return counts | {row.name: asdict(row) for row in self.rows}


def compare_precisions(kind: Format, request: Request, draft: Path, validation: Samples) -> Comparison:
    """float32, bfloat16 and the quantised file `draft`; each image is read once.

    float32 runs in the same runtime. bfloat16 does where the runtime has it; else PyTorch computes it.
    """
    with TemporaryDirectory() as folder:
        full = Path(folder) / f"float32{kind.suffix}"
        kind.convert(request, full)
        runs = {"float32": kind.load(full, Settings()), "int8": kind.load(draft, Settings())}
        sizes = {"float32": size_in_bytes(kind.files(full)), "int8": size_in_bytes(kind.files(draft))}
        latency = dict(runs)
        if torch.bfloat16 in kind.dtypes():
            runs["bfloat16"] = latency["bfloat16"] = kind.load(full, Settings(torch.bfloat16))
            sizes["bfloat16"] = sizes["float32"]
        else:
            runs["bfloat16"] = _in_bfloat16(request.network)
            sizes["bfloat16"] = sizes["float32"] // 2
        logits, labels = logits_of(runs, validation)
        milliseconds = _latency(latency, request.example)
    labelled = labels != NO_LABEL
    rows = tuple(
        Measured(
            name=name,
            runtime=kind.runtime if name in latency else "PyTorch",
            top1=_percent((logits[name].argmax(1) == labels)[labelled]) if labelled.any() else None,
            agreement=_percent(logits[name].argmax(1) == logits["float32"].argmax(1)),
            relative_error=relative_error(logits[name], logits["float32"]),
            bytes=sizes[name],
            latency_ms=milliseconds.get(name),
            speed_up=milliseconds["float32"] / milliseconds[name] if name in latency else None,
        )
        for name in ("float32", "bfloat16", "int8")
    )
    return Comparison(rows, len(labels), int(labelled.sum()), validation.unreadable)


def logits_of(runs: Mapping[str, Run], samples: Iterable[tuple[Tensor, int]]) -> tuple[dict[str, Tensor], Tensor]:
    """(N, classes) of each, and the labels (N,); one image at a time, as the quantised networks take them."""
    logits: dict[str, list[Tensor]] = {name: [] for name in runs}
    labels = []
    for image, label in samples:
        labels.append(label)
        for name, run in runs.items():
            logits[name].append(computed(run, image, torch.float32)[0])
    return {name: torch.cat(each) for name, each in logits.items()}, torch.tensor(labels)


def as_run(network: nn.Module) -> Run:
    """A network as a function that returns a tuple."""
    return lambda images: flat(network(images))


def _in_bfloat16(network: nn.Module) -> Run:
    half = copy.deepcopy(network).to(torch.bfloat16, memory_format=torch.channels_last)
    return as_run(lambda images: half(images.to(torch.bfloat16, memory_format=torch.channels_last)))


def _latency(runs: Mapping[str, Run], image: Tensor) -> dict[str, float]:
    seconds = interleaved_latency({name: partial(computed, run, image, torch.float32) for name, run in runs.items()})
    return {name: 1000 * median(times) for name, times in seconds.items()}


def _percent(hits: Tensor) -> float:
    return 100 * int(hits.sum()) / len(hits)
