"""What can compute a network: each engine makes a function of images from it."""

import copy
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from threading import Lock

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec

from fastvit.compare import relative_error
from fastvit.deploy.depthwise import split_depthwise
from fastvit.deploy.float16 import keep_in_float32
from fastvit.deploy.formats.onnx import PACKAGES, to_onnx
from fastvit.deploy.network import Network, outputs_of
from fastvit.deploy.runtimes.inductor import Compiled, computes_in_tf32
from fastvit.deploy.runtimes.onnxruntime import TensorRtSession, has_tensorrt, onnxruntime_run
from fastvit.deploy.runtimes.openvino import openvino_run, precisions, read_onnx
from fastvit.deploy.runtimes.run import Run, Settings
from fastvit.errors import EngineError, ExportError, require_packages
from fastvit.runtime.compiler import require_compiler

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
        float32: names of the network's layers that stay in float32.
    """

    network: Network
    example: Tensor
    expected: tuple[Tensor, ...]
    structure: TreeSpec
    settings: Settings
    float32: tuple[str, ...] = ()

    @cached_property
    def onnx(self) -> bytes:
        """The network as ONNX in float32, for any number of images of the example's size."""
        return self._to_onnx("batch")

    def onnx_of_any_size(self) -> bytes:
        """The same for any size; torch.onnx also writes such a thing for networks that take one size alone."""
        return self._to_onnx("batch", "size")

    def _to_onnx(self, *dynamic: str) -> bytes:
        network = copy.deepcopy(self.network).cpu().float()
        split_depthwise(network)
        return to_onnx(network, self.example[:1].cpu().float(), dynamic=dynamic)


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
        keep_in_float32(network.network, subject.float32)
        dtype = subject.settings.dtype
        return Compiled(network.to(dtype=dtype, memory_format=torch.channels_last), dtype, TOLERANCE[_name(dtype)])

    def precision(self, subject: Subject) -> str:
        return "tf32" if computes_in_tf32(subject.example.to(subject.settings.dtype)) else super().precision(subject)


class _ByOnnx(Engine):
    """Engines that read ONNX."""

    def require(self, subject: Subject) -> None:
        super().require(subject)
        if subject.float32:
            raise EngineError(f"{self.name} cannot keep layers in float32: leave out float32, or take engine torch")

    def build(self, subject: Subject) -> Run:
        return _Sizes(self, subject)

    @abstractmethod
    def read(self, model: bytes, subject: Subject) -> Run:
        """What computes a model as the subject's settings say."""

    def trials(self, subject: Subject) -> list[tuple[int, ...]]:
        return [(3, *subject.example.shape[1:])]


class _Sizes:
    """A network made ready for images of the example's size, and for those of any other when the first one comes."""

    _making = Lock()  # one at a time: torch.onnx has settings of the whole process

    def __init__(self, engine: _ByOnnx, subject: Subject):
        self._engine, self._size = engine, subject.example.shape[1:]
        self._of_this_size = engine.read(subject.onnx, subject)
        self._of_any_size: Run | None = None
        self._subject: Subject | None = replace(subject)  # until it is needed no more; without the ONNX that it keeps

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        if images.shape[1:] == self._size:
            return self._of_this_size(images)
        if self._subject and images.shape[1] == self._size[0]:
            self._make_for_any_size(images[:1])
        if self._of_any_size is None:
            made, given = ("x".join(map(str, size)) for size in (self._size, images.shape[1:]))
            raise EngineError(f"the network was made ready for images of {made}, not {given}")
        return self._of_any_size(images)

    def _make_for_any_size(self, images: Tensor) -> None:
        with self._making:
            if self._subject:  # no other thread has been here
                with suppress(ExportError):  # the network itself does not take this size
                    self._of_any_size, self._subject = self._made(self._subject, images), None

    def _made(self, subject: Subject, images: Tensor) -> Run | None:
        """None where what torch.onnx writes is for one size alone. Raises ExportError where the network is."""
        expected, _ = outputs_of(subject.network, images.to(subject.example))
        try:
            run = self._engine.read(subject.onnx_of_any_size(), subject)
            error = relative_error(run(images), expected)
        except Exception:  # torch.onnx and the engines have errors of their own
            return None
        return run if error <= TOLERANCE[self._engine.precision(subject)] else None


class OpenVino(_ByOnnx):
    """OpenVINO on the CPU."""

    name = "openvino"

    def require(self, subject: Subject) -> None:
        super().require(subject)
        require_packages(self.name, "openvino", *PACKAGES.values(), extra="openvino")
        self._require_dtype(subject, *precisions())

    def read(self, model: bytes, subject: Subject) -> Run:
        return openvino_run(read_onnx(model), subject.settings)


class OnnxRuntime(_ByOnnx):
    """ONNX Runtime on the CPU, in float32."""

    name = "onnxruntime"

    def require(self, subject: Subject) -> None:
        super().require(subject)
        require_packages(self.name, "onnxruntime", *PACKAGES.values(), extra="export")
        self._require_dtype(subject, torch.float32)

    def read(self, model: bytes, subject: Subject) -> Run:
        return onnxruntime_run(model, subject.settings)


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

    def read(self, model: bytes, subject: Subject) -> Run:
        return TensorRtSession(model, subject.settings.dtype, subject.example.device)

    def precision(self, subject: Subject) -> str:
        return "tf32" if subject.settings.dtype == torch.float32 else super().precision(subject)  # TensorRT's default


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


ENGINES: dict[str, Engine] = {each.name: each for each in (Torch(), OpenVino(), OnnxRuntime(), TensorRt())}
