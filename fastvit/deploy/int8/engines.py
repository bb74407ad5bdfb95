"""int8 in each runtime, by its own tool. Layers are named as in the network that is exported."""

import ast
import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from fastvit.deploy.formats import get_format
from fastvit.deploy.formats.executorch import write_pte
from fastvit.deploy.formats.format import export_program
from fastvit.deploy.formats.onnx import onnx_of
from fastvit.deploy.request import INPUT_NAME, Request
from fastvit.deploy.runtimes.openvino import read_onnx
from fastvit.errors import require_packages
from fastvit.runtime.environment import version_of


class Quantizer(ABC):
    """One tool. Weights are int8 for each output channel, activations for each tensor.

    Attributes:
        format: name of the format that it writes.
        method: in words.
        packages: as of a `Format`; what it needs besides those.
    """

    format: str
    method: str
    packages: dict[str, str] = {}  # noqa: RUF012 - a constant of each class

    @abstractmethod
    def quantize(self, request: Request, images: Tensor, in_float: Collection[str], path: Path) -> None:
        """Write the network to `path`.

        Args:
            images: (N, C, H, W) to measure ranges on.
            in_float: names of the layers of `request.network` that are left as they are.
        """

    def require(self) -> None:
        require_packages(f"int8 for {self.format}", *self.packages.values(), extra=get_format(self.format).extra)

    def versions(self) -> dict[str, str]:
        return {name: version_of(name, module) for name, module in self.packages.items()}


class Nncf(Quantizer):
    """NNCF for OpenVINO."""

    format = "openvino"
    method = "NNCF post-training quantisation"
    packages = {"nncf": "nncf"}  # noqa: RUF012

    def quantize(self, request: Request, images: Tensor, in_float: Collection[str], path: Path) -> None:
        import nncf
        import openvino

        nncf.set_log_level(logging.ERROR)
        content = onnx_of(request)
        model = read_onnx(content)
        nodes = {name: node for node, name in weighted_nodes(content).items()}
        ignored = nncf.IgnoredScope(names=_openvino_names(model, {nodes[name]: name for name in in_float}))
        batches = [batch.numpy() for batch in images.split(len(request.example))]
        # Its own choice of ranges, the mean over the images, has a larger error.
        ranges = nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX
        quantized = nncf.quantize(
            model,
            nncf.Dataset(batches),
            subset_size=len(batches),
            ignored_scope=ignored,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                weights_range_estimator_params=ranges, activations_range_estimator_params=ranges
            ),
        )
        openvino.save_model(quantized, path, compress_to_fp16=False)


class OnnxRuntimeQdq(Quantizer):
    """ONNX Runtime's own quantisation, which writes the pairs of QuantizeLinear and DequantizeLinear around layers."""

    format = "onnx"
    method = "ONNX Runtime QDQ, activations uint8, weights int8"

    def quantize(self, request: Request, images: Tensor, in_float: Collection[str], path: Path) -> None:
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.batches = iter(images.split(len(request.example)))

            def get_next(self) -> dict[str, Any] | None:
                batch = next(self.batches, None)
                return None if batch is None else {INPUT_NAME: batch.numpy()}

        with TemporaryDirectory() as folder:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(onnx.load_from_string(onnx_of(request)), prepared)
            nodes = weighted_nodes(prepared.read_bytes())
            quantize_static(
                prepared,
                path,
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["Conv", "Gemm"],
                nodes_to_exclude=[node for node, name in nodes.items() if name in in_float],
            )


class XnnpackPt2e(Quantizer):
    """PyTorch 2 export quantisation with XNNPACK's rules, for ExecuTorch."""

    format = "executorch"
    method = "PT2E with XNNPACKQuantizer"
    packages = {"torchao": "torchao"}  # noqa: RUF012

    def quantize(self, request: Request, images: Tensor, in_float: Collection[str], path: Path) -> None:
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
        quantizer.set_filter_function(lambda node: not _layers_of(node) & set(in_float))
        program = export_program(request)
        prepared = prepare_pt2e(program.module(), quantizer)
        with torch.no_grad():
            for batch in images.split(len(request.example)):
                prepared(batch)
        quantized = convert_pt2e(prepared)
        write_pte(torch.export.export(quantized, (request.example,)), path)


def weighted_nodes(content: bytes) -> dict[str, str]:
    """The nodes of an ONNX model with weights of a layer -> the name of the layer."""
    import onnx

    graph = onnx.load_from_string(content).graph
    constants = {each.name for each in graph.initializer}
    layers: dict[str, str] = {}
    for node in graph.node:
        for name in constants.intersection(node.input):
            if node.op_type in ("Conv", "Gemm") and name.endswith(".weight"):
                layers[node.name] = name.removesuffix(".weight")
            elif node.op_type == "MatMul" and (scopes := _scopes(node)):
                # Of a linear layer over tokens the weight is transposed, and has lost its name.
                layers[node.name] = scopes[-2]
    return layers


def _scopes(node: Any) -> list[str]:
    """The modules that a node of ONNX is from, the innermost and the operation last; [] where it does not say."""
    said = {each.key: each.value for each in node.metadata_props}
    return ast.literal_eval(said.get("pkg.torch.onnx.name_scopes", "[]"))


def _openvino_names(model: Any, layers: dict[str, str]) -> list[str]:
    """The operations of an OpenVINO model that nodes of ONNX, given with their layers, became."""
    names = []
    for operation in model.get_ordered_ops():
        if operation.get_type_name() not in ("Convolution", "GroupConvolution", "MatMul"):
            continue
        name = operation.get_friendly_name()
        sources = set(_constants_above(operation.input_value(1).get_node()))
        if name.partition("/")[0] in layers or sources & {f"{layer}.weight" for layer in layers.values()}:
            names.append(name)
    assert len(names) == len(layers)
    return names


def _constants_above(node: Any) -> Iterator[str]:
    if node.get_type_name() == "Constant":
        yield node.get_friendly_name()
    elif node.get_type_name() in ("Convert", "Reshape", "Transpose"):
        yield from _constants_above(node.input_value(0).get_node())


def _layers_of(node: Node) -> set[str]:
    """The modules that a node of an exported program is from."""
    return {path for path, _ in node.meta.get("nn_module_stack", {}).values()}
