"""From a network to something that computes one batch when it is called, by the functions that users call."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from fastvit.benchmark.suite import Form
from fastvit.deploy import FORMATS, compile_for_inference
from fastvit.deploy.int8 import QUANTIZERS
from fastvit.deploy.network import flat
from fastvit.deploy.request import make_request
from fastvit.deploy.runtimes.cuda_graphs import CudaGraphs
from fastvit.deploy.runtimes.run import computed, make_settings
from fastvit.errors import EngineError

Call = Callable[[], Any]
ENGINES = {"compiled": "torch", "fastest": "auto"}  # those whose names in suites are others than in the package


def prepare(model: nn.Module, form: Form, images: Tensor, device: torch.device) -> Call:
    """A call without arguments that runs `model` on `images`, (B, 3, H, W) in float32 on the CPU, as the form says.

    The batch is on the device before the first call: for PyTorch in the form's dtype and layout, for other engines in
    float32 and NCHW, which they take. What is timed is the network.

    Raises:
        UserError: the engine is not installed.
    """
    if form.cuda_graph:
        return _replayed(model, form, images, device)
    if form.engine == "eager":
        return _eager(model, form, images, device)
    if form.dtype == "int8":
        return _int8(model, images)
    engine = ENGINES.get(form.engine, form.engine)
    infer = compile_for_inference(model.to(device), images, getattr(torch, form.dtype), engine)
    images = _placed(images, form, device) if infer.engine == "torch" else images.to(device)
    return partial(infer, images)


def _eager(model: nn.Module, form: Form, images: Tensor, device: torch.device) -> Call:
    model, images = _placed(model, form, device), _placed(images, form, device)

    def call() -> Any:
        with torch.inference_mode():
            return model(images)

    return call


def _replayed(model: nn.Module, form: Form, images: Tensor, device: torch.device) -> Call:
    """As engine torch does it: images are copied to where the graph reads, outputs from where it writes."""
    model, images = _placed(model, form, device).requires_grad_(False), _placed(images, form, device)
    return partial(CudaGraphs(lambda images: flat(model(images)), device), images)


def _int8(model: nn.Module, images: Tensor) -> Call:
    """All layers quantized, with the ranges of this image: good for timing only."""
    kind = FORMATS["openvino"]
    if len(images) > 1:  # OpenVINO 2026.4 fails to compile such (ConvertWeightCompressedConv1x1ToMatmul)
        raise EngineError("int8 networks take one image at a time, as fastvit quantize makes them")
    request = make_request(model, images, depthwise=kind.depthwise)
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"network{kind.suffix}"
        QUANTIZERS[kind.name].quantize(request, images, (), path)
        run = kind.load(path, make_settings())
        computed(run, images, torch.float32)  # what it reads of the file, it reads by now
    return lambda: computed(run, images, torch.float32)


def _placed(what: Any, form: Form, device: torch.device) -> Any:
    memory_format = torch.channels_last if form.channels_last else torch.contiguous_format
    return what.to(device=device, dtype=getattr(torch, form.dtype), memory_format=memory_format)
