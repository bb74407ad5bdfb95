"""Core ML, for iPhones, iPads and Macs."""

import logging
from collections.abc import Collection
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.transforms.functional import pil_to_tensor

from fastvit.data.preprocessing import Preprocessing
from fastvit.deploy.comparison import pictures
from fastvit.deploy.float16 import ADVICE, float16_error, is_part_of
from fastvit.deploy.formats.format import Format, size_axes
from fastvit.deploy.request import INPUT_NAME, Request
from fastvit.deploy.runtimes.run import Run, Settings
from fastvit.errors import ExportError

MARK = 32  # a "debug handle": no other is used here


class CoreMl(Format):
    """An ML program in float16 whose input is an RGB image of the crop's size, and which normalizes it itself.

    A classifier (with labels, one for an image) returns `classLabel` and the probabilities `classLabel_probs`, any
    other network its outputs. Needs iOS 16 or macOS 13. Predictions need macOS; what is checked elsewhere is the
    program: see `check`.
    """

    name = "coreml"
    suffix = ".mlpackage"
    runtime = "none here: Core ML predicts on macOS only"
    packages = {"coremltools": "coremltools"}  # noqa: RUF012
    extra = "coreml"
    axes = ("size",)
    tolerance = 0.01
    float16 = True
    inside = "coreml"

    def check_network(self, request: Request) -> dict[str, Any]:
        """Whether float16 is enough, step by step, on the given images or made pictures."""
        self._require_image(request)
        error = float16_error(pixel_network(request), pixels(request), in_pixel_network(request.float32))
        if not error <= self.tolerance:
            raise ExportError(
                f"in float16 the network differs from itself in float32 by {error:.1e} (relative L2) on pictures, more "
                f"than {self.tolerance:g}: {ADVICE}"
            )
        return {"float16_error": error, "float32": list(request.float32)}

    def convert(self, request: Request, path: Path) -> None:
        height, width = request.example.shape[2:]
        ct = _coremltools()
        axes = {}
        if "size" in request.dynamic:
            axes = size_axes(request)
            height, width = (ct.RangeDim(*request.limits.side, default=side) for side in (height, width))
        labels = _single_labels(request)
        dynamic = {INPUT_NAME: axes} if axes else None
        program = torch.export.export(
            pixel_network(request), (torch.zeros_like(request.example),), dynamic_shapes=dynamic
        )
        program = program.run_decompositions({})
        mark(program, in_pixel_network(request.float32))
        image = ct.ImageType(INPUT_NAME, shape=(1, 3, height, width), color_layout=ct.colorlayout.RGB)
        with redirect_stderr(StringIO()):  # its progress bars
            model = ct.convert(
                program,
                inputs=[image],
                outputs=[ct.TensorType(name) for name in request.outputs],
                convert_to="mlprogram",
                compute_precision=ct.transform.FP16ComputePrecision(op_selector=lambda op: not is_marked(op)),
                minimum_deployment_target=ct.target.iOS16,
                classifier_config=ct.ClassifierConfig(list(labels)) if labels else None,
                skip_model_load=True,
            )
        model.save(str(path))

    def _require_image(self, request: Request) -> None:
        if request.card.preprocessing is None:
            raise ExportError("coreml needs the preprocessing, as its input is an image: give mean, std and the rest")
        batch, channels, *_ = request.example.shape
        if (batch, channels) != (1, 3):
            raise ExportError(
                f"coreml takes one RGB image at a time, not {batch} of {channels} channels: export batch 1"
            )

    def check(self, path: Path, request: Request) -> dict[str, Any]:
        """Whether the input, the labels, and each weight of the network, rounded to float16, are in the program."""
        ct = _coremltools()
        from coremltools.converters.mil.frontend.milproto import load as milproto
        from coremltools.converters.mil.mil import types

        spec = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
        (image,) = spec.description.input
        _require(image.type.WhichOneof("Type") == "imageType", "its input is not an image")
        size = image.type.imageType
        _require((size.height, size.width) == tuple(request.example.shape[2:]), "its image has another size")
        _require(("imageSizeRange" in str(size)) == ("size" in request.dynamic), "its image has another range of sizes")
        folder = path / "Data" / "com.apple.CoreML" / "weights"
        program = milproto.load(spec, specification_version=spec.specificationVersion, file_weights_dir=str(folder))
        operations = program.functions["main"].operations
        constants = {
            operation.name: operation.outputs[0].val for operation in operations if operation.op_type == "const"
        }
        weights = expected_weights(request.network, request.example)
        layers = {f"network.{name}" for name in request.float32}
        check_constants(constants, weights, {name for name in weights if is_part_of(name, layers)})
        norms = [name for name, part in request.network.named_modules() if isinstance(part, nn.LayerNorm)]
        found = [each for each in operations if each.op_type == "layer_norm" and each.outputs[0].dtype is types.fp32]
        expected = sum(is_part_of(name, layers) for name in norms)
        _require(len(found) >= expected, f"{len(found)} of its layer norms are in float32, and {expected} should be")
        if labels := _single_labels(request):
            (classify,) = (operation for operation in operations if operation.op_type == "classify")
            _require(tuple(classify.classes.val) == labels, "its labels are not the network's")
        return {
            "runtime": self.runtime,
            "checked": "structure and constants of the program; its outputs were not run",
        }

    def load(self, path: Path, settings: Settings) -> Run:
        raise ExportError(f"{path} can be run on macOS only, by Core ML: coremltools.models.MLModel(path).predict(...)")


def _single_labels(request: Request) -> tuple[str, ...] | None:
    """The labels of which an image has one: Core ML's classifiers have no several."""
    card = request.card
    return card.labels if card.classifies and not card.several_labels else None


def mark(program: ExportedProgram, names: Collection[str]) -> None:
    """Leave a sign, which coremltools passes on to its operations, on all that these modules compute."""
    for node in program.graph.nodes:
        stack = node.meta.get("nn_module_stack") or {}
        if any(is_part_of(path, names) for path, _ in stack.values()):
            node.meta["debug_handle"] = MARK


def is_marked(operation: Any) -> bool:
    from coremltools.converters.mil.mil.scope import ScopeSource

    return MARK in operation.scopes.get(ScopeSource.EXIR_DEBUG_HANDLE, ())


def pixel_network(request: Request) -> "PixelNetwork":
    card = request.card
    return PixelNetwork(request.network, card.preprocessing, classifier=_single_labels(request) is not None).eval()


def in_pixel_network(layers: Collection[str]) -> set[str]:
    """The names there of layers of the fused network."""
    return {f"network.network.{layer}" for layer in layers}


def pixels(request: Request) -> Tensor:
    """What to verify on, from 0 to 255: the images that were given, or else made pictures."""
    stated = request.card.preprocessing
    if request.images is not None:
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (stated.mean, stated.std))
        return (255 * (request.images * std + mean)).round()
    size = (request.example.shape[3], request.example.shape[2])
    return torch.stack([pil_to_tensor(picture.resize(size)) for picture in pictures(request)]).float()


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


@torch.no_grad()
def expected_weights(network: nn.Module, example: Tensor) -> dict[str, np.ndarray]:
    """The parameters of a network by name; with each convolution the batch norm after it, which coremltools folds."""
    program = torch.export.export(network, (example,))
    names = program.graph_signature.inputs_to_parameters | program.graph_signature.inputs_to_buffers
    weights = dict(network.named_parameters())

    def tensor(node: Node | None) -> Tensor | None:
        return None if node is None else program.state_dict[names[node.name]]

    for norm in program.graph.find_nodes(op="call_function", target=torch.ops.aten.batch_norm.default):
        conv, gamma, beta, mean, variance, _, _, epsilon = norm.args[:8]
        if conv.target is not torch.ops.aten.conv2d.default or len(conv.users) > 1:
            continue
        kernel, bias = conv.args[1], (*conv.args, None)[2]
        tensors = {node: tensor(node) for node in (kernel, bias, mean, variance, gamma, beta)}
        folded = fuse_conv_bn_weights(
            tensors[kernel], tensors[bias], tensors[mean], tensors[variance], epsilon, tensors[gamma], tensors[beta]
        )
        for node in filter(None, (kernel, bias, gamma, beta)):
            weights.pop(names[node.name])
        weights |= dict(zip((names[kernel.name], f"{names[kernel.name]} (its bias)"), folded, strict=True))
    return {name: weight.numpy() for name, weight in weights.items()}


def check_constants(constants: dict[str, Any], weights: dict[str, np.ndarray], exact: Collection[str]) -> None:
    """Raise ExportError unless each of the weights is among a program's constants: rounded to float16, or `exact`."""
    arrays = [value for value in constants.values() if isinstance(value, np.ndarray)]
    for name, weight in weights.items():
        is_same, dtype, suffix = (_is_equal, np.float32, "") if name in exact else (_is_rounded, np.float16, "_to_fp16")
        # What is folded gets another name. And of equal constants, coremltools keeps one, under its own name.
        constant = constants.get(f"p_network_{name.replace('.', '_')}{suffix}")
        among = [each for each in arrays if each.size == weight.size] if constant is None else [constant]
        found = any(each.dtype == dtype and is_same(each, weight) for each in among)
        _require(found, f"the weights {name} are missing or others")


def _is_equal(constant: np.ndarray, weight: np.ndarray) -> bool:
    return np.array_equal(constant.ravel(), weight.ravel())


def _is_rounded(constant: np.ndarray, weight: np.ndarray) -> bool:
    """Whether it is the weight in float16. coremltools rounds tiny numbers up to the smallest one, numpy to zero."""
    smallest = np.finfo(np.float16).smallest_subnormal
    difference = np.abs(constant.astype(np.float32).ravel() - weight.ravel())
    return bool(np.all(difference <= np.maximum(2.0**-11 * 1.01 * np.abs(weight.ravel()), smallest)))


def _coremltools() -> ModuleType:
    logging.getLogger("coremltools").setLevel(logging.ERROR)  # it announces which torch it was tested with
    import coremltools

    return coremltools


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ExportError(f"the Core ML program is not what was exported: {problem}")
