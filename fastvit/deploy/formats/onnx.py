"""ONNX, for ONNX Runtime, TensorRT and OpenVINO."""

import io
import warnings
from collections.abc import Collection
from contextlib import redirect_stdout
from pathlib import Path

import torch
from torch import Tensor

from fastvit.deploy.formats.format import Format
from fastvit.deploy.network import Network
from fastvit.deploy.request import INPUT_NAME, LARGE, Request
from fastvit.deploy.runtimes.onnxruntime import onnxruntime_run
from fastvit.deploy.runtimes.run import Run, Settings
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
    depthwise = True
    sets_threads = True
    inside = "onnx_image"
    limits = LARGE

    def convert(self, request: Request, path: Path) -> None:
        path.write_bytes(onnx_of(request))

    def load(self, path: Path, settings: Settings) -> Run:
        return onnxruntime_run(str(path), settings)


def onnx_of(request: Request) -> bytes:
    """What is asked for, as ONNX. Raises ExportError if the opset is not one that torch can write."""
    opset = request.opset or DEFAULT_OPSET
    return to_onnx(request.network, request.example, dynamic=request.dynamic, names=request.outputs, opset=opset)


def to_onnx(
    network: Network,
    example: Tensor,
    *,
    dynamic: Collection[str],
    names: Collection[str] | None = None,
    opset: int = DEFAULT_OPSET,
) -> bytes:
    """A network in float32 on the CPU as ONNX, serialized, weights included.

    Args:
        example: (B, C, H, W).
        dynamic: which axes stay open, "batch", "size" or both.
        names: of the outputs.
        opset: 18 to 24.

    Raises:
        ExportError: there is no such opset.
        Exception: of torch.onnx, where it cannot write this network.
    """
    if opset not in OPSETS:
        raise ExportError(f"opset must be from {OPSETS.start} to {OPSETS.stop - 1}, not {opset}")
    axes = {0: "batch"} if "batch" in dynamic else {}
    axes |= {2: "height", 3: "width"} if "size" in dynamic else {}
    if "batch" in dynamic:  # what comes as one image can be taken for a constant one
        example = example[:1].expand(2, -1, -1, -1)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (example,),
            input_names=[INPUT_NAME],
            output_names=names and list(names),
            opset_version=opset,
            dynamic_shapes={INPUT_NAME: axes} if axes else None,
            dynamo=True,
            verbose=False,
        )
    written = program.model.opset_imports[""]
    if written != opset:
        raise ExportError(f"torch {torch.__version__} wrote opset {written} in place of {opset}: ask for {written}")
    buffer = io.BytesIO()
    program.save(buffer, external_data=False)
    return buffer.getvalue()
