"""The program of `torch.export`: for PyTorch without this package, and for what compiles such programs."""

from pathlib import Path

import torch

from fastvit.deploy.formats.format import Format, Run, export_program
from fastvit.deploy.request import Request


class TorchExport(Format):
    """An `ExportedProgram`, saved by `torch.export.save`."""

    name = "torch_export"
    suffix = ".exported.pt2"
    runtime = "PyTorch"

    def convert(self, request: Request, path: Path) -> None:
        torch.export.save(export_program(request), path)

    def load(self, path: Path) -> Run:
        module = torch.export.load(path).module()

        @torch.no_grad()
        def run(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            outputs = module(images)
            return outputs if isinstance(outputs, tuple) else (outputs,)

        return run
