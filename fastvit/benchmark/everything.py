"""All suites of a device one after the other, the most important first, within a time."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fastvit import shipped
from fastvit.benchmark.measure import measure, require_same
from fastvit.benchmark.result import FILE, Result, load
from fastvit.benchmark.suite import BUILD_MINUTES, Suite, load_suite
from fastvit.runtime.environment import environment


class Part(NamedTuple):
    """A suite that comes with the package, or a part of it."""

    name: str  # of its folder
    suite: str
    overrides: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()  # all, if none are named
    forms: tuple[str, ...] = ()  # with the baseline


AS_TIMMS = ("batch_sizes=[1,8,256]", "baseline=timm fp16")
GRAPHS = ("CUDA graph fp16",)
BUILDS = 3  # of a compiled group at most: two, and one of them again where the process ended with the other
SMALL_MIDDLE_LARGE = ("T8", "SA12", "MA36")
STEPS = ("ours bf16", "timm compiled bf16", "ours compiled bf16")
PARTS = {
    # About 30 minutes on one GPU of a data centre. Compiling takes a third of that, so that it is left to few networks.
    "cuda": (
        Part("variants", "variants", AS_TIMMS, (), ("fused fp16", "CUDA graph fp16", "CUDA graph bf16")),
        Part("training", "training", ("batch_sizes=[64]", "baseline=timm bf16"), SMALL_MIDDLE_LARGE, STEPS),
        Part("claims", "claims", ("batch_sizes=[8]",), (), GRAPHS),
        Part("dense", "dense"),
        Part("repmixer", "repmixer", ("batch_sizes=[64]",), (), ("eager bf16",)),
        Part("backbones", "backbones", (), (), GRAPHS),
        Part("resolution", "resolution", (), (), ("eager fp16",)),
        Part("encoders", "encoders"),
        Part("hand_mesh", "hand_mesh"),
        Part("compiled", "variants", AS_TIMMS, ("T8",), ("CUDA graph fp16", "compiled fp16", "compiled bf16")),
        # One network after the other at batch 1, then at 256, then at 8.
        Part("peers", "peers", ("batch_sizes=[1,256,8]", "rounds=10", "calls=1", "seconds=2"), (), GRAPHS),
        Part("compiled_larger", "variants", AS_TIMMS, ("SA12", "MA36"), ("CUDA graph fp16", "compiled fp16")),
        Part("repmixer_compiled", "repmixer", ("batch_sizes=[64]",), ("T8 merged",), ("compiled bf16",)),
    ),
    # Some hours.
    "cpu": tuple(
        Part(name, name)
        for name in ("deploy", "variants", "claims", "peers", "training", "ablation", "backbones", "hand_mesh")
    ),
}


def everything(
    parts: Sequence[Part], folder: Path, device: str, *, overrides: Sequence[str] = (), minutes: float | None = None
) -> Iterator[Result]:
    """Measure part after part into folders of their own in `folder`; what is complete there is not measured again.

    Args:
        parts: such as `PARTS["cuda"]`.
        folder: of one machine and one choice of overrides: a part of another one in it is an error.
        device: of all parts.
        overrides: of every suite.
        minutes: stop then; the same call goes on. All `BUILDS` of a group fit, or are given up: else a call that is
            ended from outside soon after would never get beyond them.
    """
    end = time.monotonic() + 60 * minutes if minutes else float("inf")
    limit = [f"build_minutes={min(BUILD_MINUTES, minutes / BUILDS)}"] if minutes else []
    suites = [_suite(part, folder, device, [*limit, *overrides]) for part in parts]  # a mistake comes before the work
    complete = {suite.output: found for suite in suites if (found := _complete(suite, device))}
    for suite in suites:
        if time.monotonic() >= end:
            return
        if suite.output in complete:
            yield complete[suite.output]
        else:
            yield measure(suite, minutes=(end - time.monotonic()) / 60 if minutes else None)


def _complete(suite: Suite, device: str) -> Result | None:
    """What is already there. Raises RunError where that is of another suite or machine."""
    found = load(suite.output) if (suite.output / FILE).exists() else None
    if found is None or not found.complete:
        return None
    here = environment()  # of it the hardware alone: newer software does not make what is complete another machine's
    require_same(found, suite, False, device, found.environment | {name: here[name] for name in ("cpu", "gpu")})
    return found.model_copy(update={"suite": suite})  # the folder may have moved


def _suite(part: Part, folder: Path, device: str, overrides: Sequence[str]) -> Suite:
    own = [f"output={folder / part.name}", f"device={device}"]
    suite = load_suite(shipped.find(f"benchmark/{part.suite}"), [*part.overrides, *overrides, *own])
    return suite.only(part.networks, part.forms)
