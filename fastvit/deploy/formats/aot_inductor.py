"""AOTInductor: the network compiled to machine code ahead of time, for this kind of CPU."""

from pathlib import Path

import torch
import torch._inductor as inductor

from fastvit.deploy.formats.format import Format, export_program, run_of
from fastvit.deploy.request import Request
from fastvit.deploy.runtimes.run import Run, Settings
from fastvit.runtime.compiler import require_compiler


class AotInductor(Format):
    """A package that runs without Python code of ours and without a compiler.

    A bare package checks nothing: another memory format, dtype or size gives wrong numbers without a warning. Use
    `fastvit.deploy.load`, which brings the images into the exported form or refuses them.
    """

    name = "aot_inductor"
    suffix = ".pt2"
    runtime = "AOTInductor"
    depthwise = True

    def require(self) -> None:
        require_compiler("aot_inductor")

    def convert(self, request: Request, path: Path) -> None:
        # Freezing packs the weights, which pays off for one fixed shape only.
        options: dict[str, bool] = {} if request.dynamic else {"freezing": True}
        # Of use to those who set AOTI_RUNTIME_CHECK_INPUTS: with an open batch it would refuse a single image. Before
        # torch 2.15 there is not much of it to switch off.
        bounds = ("check_lowerbound", "check_upperbound")
        options |= {f"aot_inductor.{name}": False for name in bounds if hasattr(inductor.config.aot_inductor, name)}
        with torch.no_grad():
            inductor.aoti_compile_and_package(export_program(request), package_path=str(path), inductor_configs=options)

    def load(self, path: Path, settings: Settings) -> Run:
        return run_of(inductor.aoti_load_package(str(path)))
