"""Core ML, for iPhones, iPads and Macs."""

import logging
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastvit.data.preprocessing import Preprocessing
from fastvit.deploy.formats.format import Format, Run, size_axes
from fastvit.deploy.request import INPUT_NAME, Request
from fastvit.errors import ExportError


class CoreMl(Format):
    """An ML program in float16 whose input is an RGB image of the crop's size, and which normalizes it itself.

    A classifier (with labels) returns `classLabel` and the probabilities `classLabel_probs`, any other network its
    outputs. Needs iOS 16 or macOS 13. Predictions need macOS; what is checked elsewhere is the program: see `verify`.
    """

    name = "coreml"
    suffix = ".mlpackage"
    runtime = "none here: Core ML predicts on macOS only"
    packages = {"coremltools": "coremltools"}  # noqa: RUF012
    extra = "coreml"
    axes = ("size",)
    tolerance = 0.01

    def convert(self, request: Request, path: Path) -> None:
        if request.preprocessing is None:
            raise ExportError("coreml needs the preprocessing, for its input is an image: give mean, std and the rest")
        batch, channels, height, width = request.example.shape
        if (batch, channels) != (1, 3):
            raise ExportError(
                f"coreml takes one RGB image at a time, not {batch} of {channels} channels: export batch 1"
            )
        ct = _coremltools()
        axes = {}
        if "size" in request.dynamic:
            axes = size_axes(request)
            height, width = (ct.RangeDim(*request.limits.side, default=side) for side in (height, width))
        network = PixelNetwork(request.network, request.preprocessing, classifier=request.labels is not None).eval()
        example = torch.zeros_like(request.example)
        program = torch.export.export(network, (example,), dynamic_shapes={INPUT_NAME: axes} if axes else None)
        image = ct.ImageType(INPUT_NAME, shape=(1, 3, height, width), color_layout=ct.colorlayout.RGB)
        with redirect_stderr(StringIO()):  # its progress bars
            model = ct.convert(
                program.run_decompositions({}),
                inputs=[image],
                outputs=[ct.TensorType(name) for name in request.output_names],
                convert_to="mlprogram",
                compute_precision=ct.precision.FLOAT16,
                minimum_deployment_target=ct.target.iOS16,
                classifier_config=ct.ClassifierConfig(list(request.labels)) if request.labels else None,
                skip_model_load=True,
            )
        model.save(str(path))

    def verify(self, path: Path, request: Request) -> None:
        """Check the input, the labels, and that each weight of the network is in the program, rounded to float16."""
        ct = _coremltools()
        from coremltools.converters.mil.frontend.milproto import load as milproto

        spec = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
        (image,) = spec.description.input
        _require(image.type.WhichOneof("Type") == "imageType", "its input is not an image")
        size = image.type.imageType
        _require((size.height, size.width) == tuple(request.example.shape[2:]), "its image has another size")
        _require(("imageSizeRange" in str(size)) == ("size" in request.dynamic), "its image has another range of sizes")
        weights = path / "Data" / "com.apple.CoreML" / "weights"
        program = milproto.load(spec, specification_version=spec.specificationVersion, file_weights_dir=str(weights))
        operations = program.functions["main"].operations
        constants = {
            operation.name: operation.outputs[0].val for operation in operations if operation.op_type == "const"
        }
        check_constants(constants, request.network)
        if request.labels:
            (classify,) = (operation for operation in operations if operation.op_type == "classify")
            _require(tuple(classify.classes.val) == request.labels, "its labels are not the network's")

    def load(self, path: Path) -> Run:
        raise ExportError(f"{path} can be run on macOS only, by Core ML: coremltools.models.MLModel(path).predict(...)")


class PixelNetwork(nn.Module):
    """A network on RGB images from 0 to 255; of a classifier, the probabilities."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, *, classifier: bool):
        super().__init__()
        self.network = network
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)
        self.last = nn.Softmax(dim=1) if classifier else nn.Identity()

    def forward(self, images: Tensor) -> Any:
        outputs = self.network(images * self.scale + self.shift)
        return self.last(outputs) if isinstance(outputs, Tensor) else outputs


def check_constants(constants: dict[str, Any], network: nn.Module) -> None:
    """Raise ExportError unless each parameter of the network is among a program's constants, rounded to float16."""
    contents = {np.asarray(value).tobytes() for value in constants.values() if isinstance(value, np.ndarray)}
    for name, parameter in network.named_parameters():
        expected = parameter.detach().numpy().astype(np.float16)
        constant = constants.get(f"p_network_{name.replace('.', '_')}_to_fp16")
        # Of equal constants, coremltools keeps one, under its own name.
        same = expected.tobytes() in contents if constant is None else np.array_equal(constant.flat, expected.flat)
        _require(same, f"the weights {name} are missing or others")


def _coremltools() -> ModuleType:
    logging.getLogger("coremltools").setLevel(logging.ERROR)  # it announces which torch it was tested with
    import coremltools

    return coremltools


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ExportError(f"the Core ML program is not what was exported: {problem}")
