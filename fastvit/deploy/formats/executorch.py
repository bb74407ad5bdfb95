"""ExecuTorch with XNNPACK, for ARM and x86 CPUs in phones and other small machines."""

from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from fastvit.deploy.formats.format import Format, export_program, run_of
from fastvit.deploy.request import Limits, Request
from fastvit.deploy.runtimes.run import Run, Settings
from fastvit.deploy.runtimes.turns import Turns


class ExecuTorch(Format):
    """A .pte file, all of whose convolutions and linear layers XNNPACK computes.

    Its memory is planned for the largest input, so what stays open reaches less far here.
    """

    name = "executorch"
    suffix = ".pte"
    runtime = "ExecuTorch"
    packages = {"executorch": "executorch"}  # noqa: RUF012
    extra = "executorch"
    limits = Limits(batch=(1, 8), side=(64, 512))

    def convert(self, request: Request, path: Path) -> None:
        write_pte(export_program(request), path)

    def load(self, path: Path, settings: Settings) -> Run:
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(path).load_method("forward")
        turns = Turns(1)

        def execute(images: Tensor) -> list[Tensor]:
            with turns:  # the runtime's own memory is written over by the next call
                return [output.clone() for output in method.execute([images])]

        return run_of(execute)


def write_pte(program: ExportedProgram, path: Path) -> None:
    """Write a program, with XNNPACK for all that it can compute."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    with torch.no_grad():
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    with path.open("wb") as file:
        lowered.write_to_file(file)
