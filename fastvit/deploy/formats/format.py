"""What every format can do: be converted to, and be loaded in its own runtime."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from fastvit.compare import largest
from fastvit.deploy.comparison import compare
from fastvit.deploy.network import flat
from fastvit.deploy.request import INPUT_NAME, Limits, Request
from fastvit.deploy.runtimes.run import Run, Settings
from fastvit.errors import ExportError, require_packages
from fastvit.runtime.environment import version_of


class Format(ABC):
    """A file format of networks.

    Attributes:
        name: on the command line.
        suffix: of its files. An exported network is one file or folder, and those beside it with `companions`.
        runtime: what loads it.
        packages: what running needs besides torch, by distribution name -> module.
        converters: what converting needs on top of that.
        extra: of fastvit that installs them.
        axes: those that can stay open.
        opened: those that are always open.
        limits: how far open axes reach.
        tolerance: largest relative L2 difference of the outputs from the eager network's.
        depthwise: whether its runtime is faster with grouped convolutions written as depthwise ones.
        float16: whether its numbers are, except in layers that are named.
        sets_threads: whether its runtime can be told how many threads and streams to take.
        inside: the name of the format whose files have the preprocessing inside; None if there is none.
    """

    name: str
    suffix: str
    runtime: str
    companions: tuple[str, ...] = ()
    packages: dict[str, str] = {}  # noqa: RUF012 - a constant of each class
    converters: dict[str, str] = {}  # noqa: RUF012
    extra: str | None = None
    axes: tuple[str, ...] = ("batch", "size")
    opened: tuple[str, ...] = ()
    limits: Limits = Limits()
    tolerance: float = 1e-4
    depthwise: bool = False
    float16: bool = False
    sets_threads: bool = False
    inside: str | None = None

    @abstractmethod
    def convert(self, request: Request, path: Path) -> None:
        """Write `path` and its companions. May raise anything."""

    @abstractmethod
    def load(self, path: Path, settings: Settings) -> Run:
        """The file in its own runtime. What it is called with has a shape that was exported."""

    def verify(self, path: Path, request: Request) -> Run:
        """What is compared with the eager network."""
        return self.load(path, Settings())

    def check_network(self, request: Request) -> dict[str, Any]:
        """What is found out before the long work of converting. Raises ExportError if the result could not be right."""
        return {}

    def check(self, path: Path, request: Request) -> dict[str, Any]:
        """Compare with the network that was given, on each shape that `request` lists. Returns what was found.

        Raises ExportError if it differs.
        """
        errors = compare(self.verify(path, request), request)
        worst = largest([each["relative_error"] for each in errors])
        if not worst <= self.tolerance:
            raise ExportError(
                f"what {self.runtime} computes from the {self.name} file differs from the network by {worst:.1e} "
                f"(relative L2), more than {self.tolerance:g}: nothing was written"
            )
        return {"runtime": self.runtime, "tolerance": self.tolerance, "outputs": errors}

    def interface(self, request: Request) -> dict[str, Any]:
        """What the file takes and returns, for the JSON file beside it."""
        return {
            "input": {"name": INPUT_NAME, "dtype": "float32", "layout": "NCHW", **request.ranges()},
            "example": list(request.example.shape),
            "outputs": {name: list(shape) for name, shape in request.outputs.items()},
            "keys": request.keys and list(request.keys),
            "bare": request.bare,
        }

    def require(self) -> None:
        """Raises MissingPackage, which names the extra, if something is missing that converting needs."""
        require_packages(self.name, *self.converters.values(), *self.packages.values(), extra=self.extra or "")

    def require_runtime(self) -> None:
        """As `require`, for running."""
        require_packages(f"running {self.name}", *self.packages.values(), extra=self.extra or "")

    def dtypes(self) -> Collection[torch.dtype]:
        """What its runtime can compute in, here."""
        return (torch.float32,)

    def require_settings(self, settings: Settings) -> None:
        """Raises ExportError if the runtime cannot compute so."""
        if settings.dtype not in self.dtypes():
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in self.dtypes())
            raise ExportError(f"{self.runtime} computes {self.name} files in {known} here, not in {settings.dtype}")
        if not self.sets_threads and settings != Settings(settings.dtype):
            raise ExportError(f"{self.runtime} decides on its threads itself: leave out threads and streams")

    def versions(self) -> dict[str, str]:
        packages = self.converters | self.packages
        return {"torch": torch.__version__, **{name: version_of(name, module) for name, module in packages.items()}}

    def files(self, path: Path) -> list[Path]:
        """What belongs to the exported network `path`."""
        return [path, *(path.with_suffix(suffix) for suffix in self.companions)]

    def fixed(self, path: Path) -> list[Path]:
        """What must stay as it is written; of a folder, others of its files are the user's to edit."""
        return self.files(path)


def run_of(function: Callable[[Tensor], Any]) -> Run:
    """A function of contiguous float32 images on the CPU as a `Run`."""
    return lambda images: flat(function(images.to("cpu", torch.float32).contiguous()))


def export_program(request: Request) -> ExportedProgram:
    """The network as `torch.export` sees it."""
    example, dynamic = request.example, None
    if request.dynamic:
        axes: dict[int, Dim] = {}
        if "batch" in request.dynamic:
            # An example of 1 fixes the batch. ExecuTorch takes one of the largest batch for a fixed one too, and after
            # one of 2 it fails from 16 images on, whatever the largest is.
            batch = min(16, request.limits.batch[1] // 2)
            example = example[:1].expand(batch, -1, -1, -1).contiguous()
            axes[0] = _dim("batch", request.limits.batch)
        if "size" in request.dynamic:
            axes |= size_axes(request)
        dynamic = {INPUT_NAME: axes}
    return torch.export.export(request.network, (example,), dynamic_shapes=dynamic)


def size_axes(request: Request) -> dict[int, Dim]:
    """Height and width as open axes of (B, C, H, W)."""
    return {axis: _dim(name, request.limits.side) for axis, name in ((2, "height"), (3, "width"))}


def _dim(name: str, limits: tuple[int, int]) -> Dim:
    return Dim(name, min=limits[0], max=limits[1])
