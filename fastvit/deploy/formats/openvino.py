"""OpenVINO's intermediate representation, for Intel and AMD CPUs, Intel GPUs and NPUs."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from fastvit.deploy.formats.format import Format, Run
from fastvit.deploy.formats.onnx import PACKAGES, write_onnx
from fastvit.deploy.request import Request


class OpenVino(Format):
    """An .xml file and the weights in a .bin file beside it, both in float32. Converted by way of ONNX."""

    name = "openvino"
    suffix = ".xml"
    runtime = "OpenVINO"
    companions = (".bin",)
    packages = {"openvino": "openvino"}  # noqa: RUF012
    converters = PACKAGES
    extra = "openvino"

    def convert(self, request: Request, path: Path) -> None:
        import openvino

        with TemporaryDirectory() as folder:
            source = Path(folder) / "network.onnx"
            write_onnx(request, source)
            model = openvino.convert_model(source)
            openvino.save_model(model, path, compress_to_fp16=False)  # by default it would halve the weights

    def load(self, path: Path) -> Run:
        return load_openvino(path, "f32")


def load_openvino(path: Path, precision: str) -> Run:
    """On the CPU, computing in `precision`: f32 or bf16. OpenVINO's own choice would depend on the CPU."""
    import openvino

    config = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(path, "CPU", config)
    outputs = range(len(compiled.outputs))

    def run(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        results = compiled([images.numpy()])
        return tuple(torch.from_numpy(results[i].copy()) for i in outputs)

    return run
