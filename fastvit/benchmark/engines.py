"""From a network to something that computes one batch when it is called, by engine."""

import io
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from fastvit.benchmark.suite import Form
from fastvit.deploy import compile_for_inference
from fastvit.deploy.int8.engines import Nncf
from fastvit.deploy.request import Limits, make_request

Call = Callable[[], Any]


def prepare(model: nn.Module, form: Form, images: Tensor, device: torch.device) -> Call:
    """A call without arguments that runs `model` on `images`, (B, 3, H, W) in float32 on the CPU, as the form says.

    The batch is where the engine wants it, and in its dtype and layout, before the first call: what is timed is the
    network.

    Raises:
        ImportError: the engine is not installed.
    """
    return {"eager": _eager, "compiled": _compiled, "onnxruntime": _onnxruntime, "openvino": _openvino}[form.engine](
        model, form, images, device
    )


def _eager(model: nn.Module, form: Form, images: Tensor, device: torch.device) -> Call:
    model, images = _placed(model, form, device), _placed(images, form, device)

    def call() -> Any:
        with torch.inference_mode():
            return model(images)

    return call


def _compiled(model: nn.Module, form: Form, images: Tensor, device: torch.device) -> Call:
    images = _placed(images, form, device)
    infer = compile_for_inference(model.to(device), images.float(), getattr(torch, form.dtype))
    return lambda: infer(images)


def _onnxruntime(model: nn.Module, form: Form, images: Tensor, device: torch.device) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.force_spinning_stop", "1")  # idle threads leave the cores to the others
    session = onnxruntime.InferenceSession(_onnx(model, images), options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: images.numpy()}
    return lambda: session.run(None, inputs)


def _openvino(model: nn.Module, form: Form, images: Tensor, device: torch.device) -> Call:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "NUM_STREAMS": 1}
    if form.dtype == "int8":  # what stays in float is computed in the precision that OpenVINO chooses
        network = _int8(model, images, core)
    else:
        network = core.read_model(io.BytesIO(_onnx(model, images)))
        settings["INFERENCE_PRECISION_HINT"] = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[form.dtype]
    compiled = core.compile_model(network, "CPU", settings)
    request, batch = compiled.create_infer_request(), images.numpy()
    return lambda: request.infer({0: batch}, share_inputs=True, share_outputs=True)


def _int8(model: nn.Module, images: Tensor, core: Any) -> Any:
    """All layers quantized, with the ranges of these images: good for timing only."""
    request = make_request(
        model, images, dynamic=(), limits=Limits(), preprocessing=None, labels=None, opset=None, architecture=None
    )
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.xml"
        Nncf().quantize(request, images, (), path)
        return core.read_model(path.read_bytes(), path.with_suffix(".bin").read_bytes())


def _placed(what: Any, form: Form, device: torch.device) -> Any:
    memory_format = torch.channels_last if form.channels_last else torch.contiguous_format
    return what.to(device=device, dtype=getattr(torch, form.dtype), memory_format=memory_format)


def _onnx(model: nn.Module, images: Tensor) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model, (images,), dynamo=True, verbose=False)
    program.save(buffer, external_data=False)
    return buffer.getvalue()
