"""What can compute a network: each engine makes a function of images from it."""

import copy
import io
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec

from fastvit.deploy.depthwise import split_depthwise
from fastvit.deploy.formats.onnx import PACKAGES, OnnxModel, to_onnx
from fastvit.deploy.network import Network, outputs_of
from fastvit.deploy.runtimes.inductor import Compiled, computes_in_tf32, require_compiler
from fastvit.deploy.runtimes.onnxruntime import TensorRtSession, has_tensorrt, onnxruntime_run
from fastvit.deploy.runtimes.openvino import openvino_run, precisions
from fastvit.deploy.runtimes.run import Run, Settings
from fastvit.errors import EngineError, ExportError, require_packages

# Largest relative L2 difference of an engine's outputs from those of the network in its own precision.
# tf32: float32 whose products have factors of 10 bits, as GPUs compute them by default; up to 5e-4 was simulated.
TOLERANCE = {"float64": 1e-8, "float32": 1e-4, "tf32": 5e-3, "float16": 0.05, "bfloat16": 0.05}


@dataclass(frozen=True)
class Subject:
    """What is to be computed.

    Attributes:
        network: fused, on its device, in its own precision.
        example: (B, C, H, W), on that device, in that precision.
        expected: what the network returns for the example.
        structure: how the model nests it.
        settings: how to compute.
    """

    network: Network
    example: Tensor
    expected: tuple[Tensor, ...]
    structure: TreeSpec
    settings: Settings

    @cached_property
    def onnx(self) -> OnnxModel:
        """The network as ONNX in float32, for any batch and, if it can be written so, for any size of images."""
        network = copy.deepcopy(self.network).cpu().float()
        split_depthwise(network)
        example = self.example[:1].cpu().float()
        if self.other_size:  # torch.onnx would also write an open size for a network that takes one alone
            with suppress(Exception):  # of torch.onnx, whatever it stumbles over
                return to_onnx(network, example, dynamic=("batch", "size"))
        return to_onnx(network, example, dynamic=("batch",))

    @cached_property
    def other_size(self) -> tuple[int, int] | None:
        """Another height and width that the network takes; None if it does not."""
        height, width = (side + extra for side, extra in zip(self.example.shape[2:], (32, 64), strict=True))
        try:
            outputs_of(self.network, self.example.new_zeros(1, self.example.shape[1], height, width))
        except ExportError:
            return None
        return height, width


class Engine(ABC):
    """One way to compute a network.

    Attributes:
        name: to ask for it by.
        devices: the types of device that it computes on.
    """

    name: str
    devices: tuple[str, ...] = ("cpu",)

    def require(self, subject: Subject) -> None:
        """Raises UserError if this engine is not installed, or cannot compute this network as asked."""
        if subject.example.device.type not in self.devices:
            raise EngineError(f"{self.name} computes on {' or '.join(self.devices)}: move the network there")

    @abstractmethod
    def build(self, subject: Subject) -> Run:
        """Make it ready. May raise anything."""

    def precision(self, subject: Subject) -> str:
        """How it multiplies: a key of `TOLERANCE`."""
        return _name(subject.settings.dtype)

    def trials(self, subject: Subject) -> list[tuple[int, ...]]:
        """Shapes of images to try besides the example's, since they are computed by what is already built."""
        return []

    def _require_dtype(self, subject: Subject, *dtypes: torch.dtype) -> None:
        if subject.settings.dtype not in dtypes:
            known = ", ".join(map(_name, dtypes))
            raise EngineError(
                f"{self.name} computes in {known} on this machine, not in {_name(subject.settings.dtype)}"
            )


class Torch(Engine):
    """PyTorch's own compiler. The CPU's threads are those of the process; other sizes of images are compiled."""

    name = "torch"
    devices = ("cpu", "cuda", "mps")

    def require(self, subject: Subject) -> None:
        super().require(subject)
        if subject.example.device.type != "cpu":
            return
        require_compiler(self.name)
        if subject.settings.threads != torch.get_num_threads():
            raise EngineError("torch has its threads for the whole process: set them by torch.set_num_threads(...)")
        if subject.settings.streams not in (None, 1):
            raise EngineError("torch gives each call all threads: leave out streams")

    def build(self, subject: Subject) -> Run:
        network = copy.deepcopy(subject.network)
        if subject.example.device.type == "cpu":
            split_depthwise(network)
        dtype = subject.settings.dtype
        return Compiled(network.to(dtype=dtype, memory_format=torch.channels_last), TOLERANCE[_name(dtype)])

    def precision(self, subject: Subject) -> str:
        return "tf32" if computes_in_tf32(subject.example.to(subject.settings.dtype)) else super().precision(subject)


class _ByOnnx(Engine):
    """Engines that read ONNX."""

    def build(self, subject: Subject) -> Run:
        run, expected = self.read(subject), subject.example.shape
        any_size = "size" in subject.onnx.dynamic

        def checked(images: Tensor) -> tuple[Tensor, ...]:
            if images.shape[1] != expected[1]:
                raise EngineError(f"the network takes {expected[1]} channels, not {images.shape[1]}")
            if not any_size and images.shape[2:] != expected[2:]:
                made, given = ("x".join(map(str, shape[2:])) for shape in (expected, images.shape))
                raise EngineError(f"the network was made for images of {made} pixels, not {given}")
            return run(images)

        return checked

    @abstractmethod
    def read(self, subject: Subject) -> Run:
        """What computes `subject.onnx`."""

    def trials(self, subject: Subject) -> list[tuple[int, ...]]:
        size = subject.other_size if "size" in subject.onnx.dynamic else None
        return [(3, subject.example.shape[1], *(size or subject.example.shape[2:]))]


class OpenVino(_ByOnnx):
    """OpenVINO on the CPU."""

    name = "openvino"

    def require(self, subject: Subject) -> None:
        super().require(subject)
        require_packages(self.name, "openvino", *PACKAGES.values(), extra="openvino")
        self._require_dtype(subject, *precisions())

    def read(self, subject: Subject) -> Run:
        import openvino

        return openvino_run(openvino.Core().read_model(io.BytesIO(subject.onnx.content)), subject.settings)


class OnnxRuntime(_ByOnnx):
    """ONNX Runtime on the CPU, in float32."""

    name = "onnxruntime"

    def require(self, subject: Subject) -> None:
        super().require(subject)
        require_packages(self.name, "onnxruntime", *PACKAGES.values(), extra="export")
        self._require_dtype(subject, torch.float32)

    def read(self, subject: Subject) -> Run:
        return onnxruntime_run(subject.onnx.content, subject.settings)


class TensorRt(_ByOnnx):
    """TensorRT by way of ONNX Runtime, on an NVIDIA GPU. Not run by us so far."""

    name = "tensorrt"
    devices = ("cuda",)

    def require(self, subject: Subject) -> None:
        super().require(subject)
        require_packages(self.name, "onnxruntime", *PACKAGES.values(), extra="export")
        self._require_dtype(subject, torch.float32, torch.float16, torch.bfloat16)
        if not has_tensorrt():
            raise EngineError("tensorrt needs ONNX Runtime for GPUs and TensorRT: pip install onnxruntime-gpu tensorrt")

    def read(self, subject: Subject) -> Run:
        return TensorRtSession(subject.onnx.content, subject.settings.dtype, subject.example.device)

    def precision(self, subject: Subject) -> str:
        return "tf32" if subject.settings.dtype == torch.float32 else super().precision(subject)  # TensorRT's default


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


ENGINES: dict[str, Engine] = {each.name: each for each in (Torch(), OpenVino(), OnnxRuntime(), TensorRt())}
