"""OpenVINO's intermediate representation, for Intel and AMD CPUs, Intel GPUs and NPUs."""

from collections.abc import Collection
from pathlib import Path

import torch

from fastvit.deploy.formats.format import Format
from fastvit.deploy.formats.onnx import PACKAGES, onnx_of
from fastvit.deploy.request import LARGE, Request
from fastvit.deploy.runtimes.openvino import core, openvino_run, precisions, read_onnx
from fastvit.deploy.runtimes.run import Run, Settings


class OpenVino(Format):
    """An .xml file and the weights in a .bin file beside it, both in float32. Converted by way of ONNX."""

    name = "openvino"
    suffix = ".xml"
    runtime = "OpenVINO"
    companions = (".bin",)
    packages = {"openvino": "openvino"}  # noqa: RUF012
    converters = PACKAGES
    extra = "openvino"
    depthwise = True
    sets_threads = True
    inside = "openvino_image"
    limits = LARGE

    def convert(self, request: Request, path: Path) -> None:
        import openvino

        model = read_onnx(onnx_of(request))
        openvino.save_model(model, path, compress_to_fp16=False)  # by default it would halve the weights

    def load(self, path: Path, settings: Settings) -> Run:
        return openvino_run(core().read_model(path), settings)

    def dtypes(self) -> Collection[torch.dtype]:
        return precisions()
