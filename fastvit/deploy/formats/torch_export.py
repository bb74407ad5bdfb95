"""The program of `torch.export`: for PyTorch without this package, and for what compiles such programs."""

from pathlib import Path

import torch

from fastvit.deploy.formats.format import Format, export_program, run_of
from fastvit.deploy.request import LARGE, Request
from fastvit.deploy.runtimes.run import Run, Settings


class TorchExport(Format):
    """An `ExportedProgram`, saved by `torch.export.save`."""

    name = "torch_export"
    suffix = ".exported.pt2"
    runtime = "PyTorch"
    limits = LARGE

    def convert(self, request: Request, path: Path) -> None:
        torch.export.save(export_program(request), path)

    def load(self, path: Path, settings: Settings) -> Run:
        return run_of(torch.export.load(path).module())
