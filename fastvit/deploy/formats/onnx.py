"""ONNX, for ONNX Runtime, TensorRT and OpenVINO."""

from pathlib import Path

import torch

from fastvit.deploy.formats.format import Format, Run
from fastvit.deploy.request import INPUT_NAME, Request
from fastvit.errors import ExportError

OPSETS = range(18, 25)  # below 18 torch writes 18 and does not say so
DEFAULT_OPSET = 20
PACKAGES = {"onnx": "onnx", "onnxscript": "onnxscript"}


class Onnx(Format):
    """One file, weights included. NCHW, which all three take; they choose their own layout inside."""

    name = "onnx"
    suffix = ".onnx"
    runtime = "ONNX Runtime"
    packages = {"onnxruntime": "onnxruntime"}  # noqa: RUF012
    converters = PACKAGES
    extra = "export"

    def convert(self, request: Request, path: Path) -> None:
        write_onnx(request, path)

    def load(self, path: Path) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda images: tuple(map(torch.from_numpy, session.run(None, {INPUT_NAME: images.numpy()})))


def write_onnx(request: Request, path: Path) -> None:
    """Write the network as ONNX; raises ExportError if the opset is not one that torch can write."""
    import onnx

    opset = request.opset or DEFAULT_OPSET
    if opset not in OPSETS:
        raise ExportError(f"opset must be from {OPSETS.start} to {OPSETS.stop - 1}, not {opset}")
    axes: dict[int, str] = {}
    if "batch" in request.dynamic:
        axes[0] = "batch"
    if "size" in request.dynamic:
        axes |= {2: "height", 3: "width"}
    torch.onnx.export(
        request.network,
        (request.example,),
        path,
        input_names=[INPUT_NAME],
        output_names=list(request.output_names),
        opset_version=opset,
        dynamic_shapes={INPUT_NAME: axes} if axes else None,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    written = next(entry.version for entry in onnx.load(path).opset_import if entry.domain == "")
    if written != opset:
        raise ExportError(f"torch {torch.__version__} wrote opset {written} in place of {opset}: ask for {written}")
