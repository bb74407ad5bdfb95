"""A network as a fast function of images: compiled by the engine that is the fastest for it here."""

import time
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_unflatten

from fastvit.compare import largest
from fastvit.deploy.comparison import output_error
from fastvit.deploy.engines import ENGINES, TOLERANCE, Engine, Subject
from fastvit.deploy.float16 import ADVICE, require_layers
from fastvit.deploy.network import make_network, outputs_of
from fastvit.deploy.runtimes.run import Run, Settings, computed, plain_mode
from fastvit.errors import EngineError, UserError, nearest, reason_of
from fastvit.runtime.timing import seconds_of

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
TIMING_SECONDS = 0.5
LEAST_ROUNDS, MOST_ROUNDS = 3, 20
SETTLE_SECONDS = 0.01  # the threads of some engines spin for some milliseconds after their work


@dataclass(frozen=True)
class Measured:
    """One engine, tried on the example.

    Attributes:
        engine: its name.
        milliseconds: of a call with the example, the median; None where it was not compared with others.
        error: relative L2 difference of the outputs from the network's in its own precision; None where it failed.
        problem: why it cannot be used, in a sentence; None where it can.
    """

    engine: str
    milliseconds: float | None = None
    error: float | None = None
    problem: str | None = None

    def __str__(self) -> str:
        if self.problem:
            return f"{self.engine}: {self.problem}"
        time = "" if self.milliseconds is None else f"{self.milliseconds:.2f} ms, "
        return f"{self.engine}: {time}error {self.error:.1e}"


class Inference:
    """A network as a function of images (B, C, H, W), normalized, in any float dtype and memory format, on any device.

    It takes any number of images and, where the engine can, any size. It returns what the network does in eval mode,
    its tensors in `dtype` on `device`, without gradients, whatever mode the caller's thread is in. Several threads may
    call it at a time.

    Attributes:
        engine: the name of what computes.
        report: the engines that were tried.
        precision: how it multiplies: the name of its dtype; "tf32" on GPUs where torch or TensorRT may do so.
        dtype, device: of the outputs.
    """

    def __init__(self, run: Run, subject: Subject, engine: Engine):
        self._run, self._structure = run, subject.structure
        self.engine, self.precision = engine.name, engine.precision(subject)
        self.report: tuple[Measured, ...] = ()
        self.dtype, self.device = subject.settings.dtype, subject.example.device

    def __call__(self, images: Tensor | np.ndarray) -> Any:
        return tree_unflatten(computed(self._run, images, self.dtype, self.device), self._structure)

    def __repr__(self) -> str:
        return "\n".join([f"Inference by {self.engine} in {self.precision} on {self.device}", *map(str, self.report)])


def compile_for_inference(
    model: nn.Module,
    example_input: Tensor,
    dtype: torch.dtype | None = None,
    engine: str = "auto",
    *,
    threads: int | None = None,
    streams: int | None = None,
    float32: Collection[str] = (),
) -> Inference:
    """The network fused, cast, and made ready by an engine, whose outputs are compared with the network's.

    Args:
        model: any network with one input, images; fused or not; it is left as it is. Its device is computed on.
        example_input: (B, C, H, W): the batch to be fast for, and to compare and to time engines on. For float16, real
            images: noise makes activations of another size.
        dtype: to compute in, and of the outputs; by default that of the model. Folding is done before casting.
        engine: `torch`, which needs a C++ compiler on a CPU, and on an NVIDIA GPU gcc or clang; `openvino` or
            `onnxruntime`, each with its extra; or `tensorrt` on a GPU, which nobody has run so far. `auto` makes all
            that are installed and able to do it ready, which takes a minute where torch has to compile, times them in
            turn on the example, and keeps the fastest.
        threads: of the CPU; by default as many as torch has.
        streams: of openvino and onnxruntime: how many images or calls are computed at a time, with threads / streams
            threads each. By default one image gets all threads, and a batch is divided among them.
        float32: names of layers, in the fused network, that stay in float32 in another dtype; of engine torch alone.
            See `overflowing_layers`.

    Other sizes of images: torch compiles each when it first comes; openvino and onnxruntime are made ready for all of
    them when the first one comes. That takes seconds, and minutes where padding depends on the size
    (`tf_efficientnet_b0`).

    On a CPU, torch takes the memory of its intermediate results from the system again in each call, unless
    `fastvit.runtime.allocator.keep_freed_memory` was called before: in batches of 16 images of 256 px that makes T8 and
    SA12 1.1 to 1.8 times as slow. It is not called here, because it is a setting of the whole process.

    Raises:
        UserError: the engine is not installed or cannot do it, or an argument is wrong.
        RuntimeError: the outputs of no engine are those of the network.
    """
    network = make_network(model, stacklevel=2)
    parameter = next(network.parameters())
    settings = Settings(dtype or parameter.dtype, torch.get_num_threads() if threads is None else threads, streams)
    if settings.dtype not in DTYPES:
        raise EngineError(f"dtype must be one of {', '.join(map(str, DTYPES))}, not {settings.dtype}")
    example = torch.as_tensor(example_input).detach().to(parameter)
    require_layers(network.network, float32)
    subject = Subject(network, example, *outputs_of(network, example), settings, tuple(float32))
    return _fastest(subject) if engine == "auto" else _make(_find(engine), subject)


def _find(name: str) -> Engine:
    if name not in ENGINES:
        known = ("auto", *ENGINES)
        raise EngineError(f"there is no engine {name!r}, but {', '.join(known)}{nearest(name, known)}")
    return ENGINES[name]


def _make(engine: Engine, subject: Subject) -> Inference:
    """Build and verify; raises what the engine raises, and RuntimeError where its outputs are wrong."""
    engine.require(subject)
    with plain_mode():
        run = engine.build(subject)
    inference = Inference(run, subject, engine)
    errors = [output_error(inference(subject.example), subject.expected)]
    for shape in engine.trials(subject):
        images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(subject.example)
        errors.append(output_error(inference(images), outputs_of(subject.network, images)[0]))
    error = largest(errors)
    if not error <= TOLERANCE[inference.precision]:
        raise RuntimeError(
            f"what {engine.name} computes differs from the network by {error:.1e} (relative L2), more than "
            f"{TOLERANCE[inference.precision]:g} in {inference.precision}: {_advice(inference)}"
        )
    inference.report = (Measured(engine.name, error=error),)
    return inference


def _advice(inference: Inference) -> str:
    if inference.precision == "float16":
        return ADVICE
    return "choose another engine, or use the network as reparameterize_model(model) gives it, and report this"


def _fastest(subject: Subject) -> Inference:
    """Of all engines that can compute it; the others are released."""
    made: dict[str, Inference] = {}
    report: dict[str, Measured] = {}
    for name, engine in ENGINES.items():
        if subject.example.device.type not in engine.devices:
            continue
        try:
            made[name] = _make(engine, subject)
            (report[name],) = made[name].report
        except Exception as error:  # engines have errors of their own
            reason = reason_of(error)
            report[name] = Measured(name, problem=reason)
            if not isinstance(error, UserError):
                warnings.warn(f"engine {name} is left out, because it failed: {reason}", stacklevel=3)
    if not made:
        raise EngineError(f"no engine can compute this network here; {'; '.join(map(str, report.values()))}")
    if len(made) > 1:
        for name, seconds in _seconds(made, subject.example).items():
            report[name] = replace(report[name], milliseconds=1000 * seconds)
    best = made[min(made, key=lambda name: report[name].milliseconds or 0)]
    best.report = tuple(report.values())
    return best


def _seconds(inferences: Mapping[str, Inference], images: Tensor) -> dict[str, float]:
    """The median time of a call of each, measured in turn; a turn starts with a call that is not counted."""
    samples: dict[str, list[float]] = {name: [] for name in inferences}
    end = time.perf_counter() + TIMING_SECONDS
    for i in range(MOST_ROUNDS):
        if i >= LEAST_ROUNDS and time.perf_counter() > end:
            break
        for name, inference in inferences.items():
            time.sleep(SETTLE_SECONDS)
            inference(images)
            samples[name].append(seconds_of(lambda inference=inference: inference(images), images.device))
    return {name: median(each) for name, each in samples.items()}
