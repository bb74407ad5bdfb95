"""AOTInductor: the network compiled to machine code ahead of time, for this kind of CPU."""

import shutil
from pathlib import Path

import torch
from torch import Tensor

from fastvit.deploy.formats.format import Format, Run, export_program
from fastvit.deploy.request import Request
from fastvit.errors import ExportError


class AotInductor(Format):
    """A package that runs without Python code of ours and without a compiler.

    A bare package checks nothing: another memory format, dtype or size gives wrong numbers without a word. Use
    `fastvit.deploy.load`, which brings the images into the exported form or refuses them.
    """

    name = "aot_inductor"
    suffix = ".pt2"
    runtime = "AOTInductor"

    def require(self) -> None:
        if not any(shutil.which(compiler) for compiler in ("g++", "clang++", "c++", "cl")):
            raise ExportError("aot_inductor needs a C++ compiler such as g++ to build: install one")

    def convert(self, request: Request, path: Path) -> None:
        # Freezing packs the weights, which pays off for one fixed shape only.
        options: dict[str, bool] = {} if request.dynamic else {"freezing": True}
        # Of use to those who set AOTI_RUNTIME_CHECK_INPUTS: with an open batch it would refuse a single image.
        options |= {"aot_inductor.check_lowerbound": False, "aot_inductor.check_upperbound": False}
        with torch.no_grad():
            torch._inductor.aoti_compile_and_package(
                export_program(request), package_path=str(path), inductor_configs=options
            )

    def load(self, path: Path) -> Run:
        package = torch._inductor.aoti_load_package(str(path))

        @torch.no_grad()
        def run(images: Tensor) -> tuple[Tensor, ...]:
            outputs = package(images)
            return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)

        return run
