"""Measuring a suite: what is compared takes turns, round after round; what is written goes on after an interruption.

A round is a turn for each of a group: its forms, or its networks, or a network and the baseline. A machine that slows
down for a minute slows all of them, and the ratio within a round stays. Only the group is in memory. The result so far
is written every few seconds; the same command takes it up where it ended.
"""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastvit.benchmark.machine import cores, environment_of, load_now, show
from fastvit.benchmark.measurement import Failure, Measurement
from fastvit.benchmark.result import FILE, Group, Limits, Result, Row, load, save
from fastvit.benchmark.suite import MIN_SAMPLES, Form, Network, Suite
from fastvit.benchmark.workers import SETTLE_SECONDS, Worker, WorkerDied
from fastvit.config import differences
from fastvit.errors import RecipeError, RunError
from fastvit.runtime.device import best_device
from fastvit.runtime.folders import require_writable

ERRORS = "errors.txt"
Key = tuple[str, bool]  # an engine, and whether the process is the baseline's own
LIMITS: Key = ("limits", False)
Answer = Any  # what a worker says, or a Failure
SAVE_SECONDS = 5.0


def measure(suite: Suite, *, quick: bool = False, minutes: float | None = None) -> Result:
    """Measure what of a suite is not yet measured in its output folder, and write it there.

    Args:
        suite: as it is to be measured.
        quick: whether it was shortened; only noted.
        minutes: stop then, after the round that is on; the next start goes on.

    Returns:
        The result; `complete` says whether all of it is there.

    Raises:
        RunError: the folder holds a complete result, or one of another suite or machine, or cannot be written.
    """
    device = best_device().type if suite.device == "auto" else suite.device
    all_groups = list(groups(suite, device))
    end = time.monotonic() + 60 * minutes if minutes else float("inf")
    threads, load_before = suite.threads or cores(), load_now()
    machine = environment_of(device, threads)
    earlier = _earlier(suite, quick, device, machine)
    with Engines(threads, device) as engines:
        result = _start(suite, quick, machine, earlier, engines)
        result.loads.append(load_before)
        done = sum(group.done for group in result.groups)
        for number, measurements in enumerate(all_groups[done:], done + 1):
            show(f"{number} of {len(all_groups)}: {measurements[-1].network_name}, {measurements[-1].form_name}")
            if number > len(result.groups):
                result.groups.append(Group(rows=[_new_row(measurement) for measurement in measurements]))
            try:
                _measure_group(result, measurements, engines, end)
            finally:
                save(result, suite.output)
            if time.monotonic() >= end:
                break
        show()
        result.complete = len(result.groups) == len(all_groups) and result.groups[-1].done
        if result.complete:  # a neighbour may have been at work before
            result.limits = result.limits.joined(_limits(suite, engines))
        save(result, suite.output)
    return result


def groups(suite: Suite, device: str) -> Iterator[list[Measurement]]:
    """What takes turns with each other, of one batch and image size: see `Suite.take_turns`."""
    forms = [(name, form) for name, form in suite.forms.items() if device in form.on]
    if not forms:
        raise RecipeError(f"none of the forms {', '.join(suite.forms)} is measured on {device}: see their key `on`")
    if suite.take_turns == "claims" and not any(claim.fast for claim in suite.claims):
        raise RecipeError("there is no claim about two of the chosen networks: choose both, as in quick.networks")
    for batch_size, image_size in itertools.product(suite.batch_sizes, suite.image_sizes or (None,)):
        networks = {name: _at_size(network, image_size) for name, network in suite.networks.items()}
        for names, of_forms in _turns(suite, list(networks), forms):
            yield [
                Measurement(name, form_name, networks[name], form, batch_size)
                for name, (form_name, form) in itertools.product(names, of_forms)
            ]


def _turns(suite: Suite, networks: list[str], forms: list[tuple[str, Form]]) -> Iterator[tuple[list[str], list]]:
    """The networks and the forms of each group."""
    if suite.take_turns == "forms":
        yield from (([network], forms) for network in networks)
        return
    for form in forms:
        if suite.take_turns == "networks":
            yield networks, [form]
        elif suite.take_turns == "baseline":
            others = [name for name in networks if name != suite.baseline] or [suite.baseline]
            yield from ((list(dict.fromkeys((suite.baseline, name))), [form]) for name in others)
        else:
            pairs = dict.fromkeys((claim.slow, claim.fast) for claim in suite.claims if claim.fast)
            yield from ((list(pair), [form]) for pair in pairs)


def _at_size(network: Network, image_size: int | None) -> Network:
    return network.model_copy(update={"image_size": image_size}) if image_size else network


class Engines(dict[Key, Worker]):
    """A process for each engine, started when it is first needed. A baseline that stays has one of its own."""

    def __init__(self, threads: int, device: str):
        super().__init__()
        self.threads, self.device = threads, device

    def __enter__(self) -> "Engines":
        return self

    def __exit__(self, *_: Any) -> None:
        for worker in self.values():
            worker.close()

    def __missing__(self, key: Key) -> Worker:
        self[key] = Worker(self.threads, self.device)
        return self[key]

    def ask(self, key: Key, what: str, *arguments: Any, seconds: float | None = None) -> Answer:
        """What a process says. One that died, or whose GPU may be spoilt, is replaced when it is next asked."""
        try:
            answer = self[key].ask(what, *arguments, seconds=seconds)
        except WorkerDied as died:
            answer = Failure(str(died), "")
            self.pop(key).close()
        else:
            if isinstance(answer, Failure) and self.device == "cuda":  # errors of kernels stay with the process
                self.pop(key).close()
        return answer


def _measure_group(result: Result, measurements: list[Measurement], engines: Engines, end: float) -> None:
    """Build what is not known to fail, then take turns until there are enough rounds, or the time is over."""
    suite, group = result.suite, result.groups[-1]
    for key in list(engines):
        engines.ask(key, "keep", measurements)
    ready: dict[Measurement, Row] = {}
    for measurement, row in zip(measurements, group.rows, strict=True):
        if not row.error:
            seconds = 60 * suite.build_minutes
            _note(row, engines.ask(_key(measurement, suite), "build", measurement, seconds=seconds), suite.output)
        if not row.error:
            ready[measurement] = row
    whole = min((len(row.rounds_ms) for row in ready.values()), default=0)
    for row in ready.values():
        del row.rounds_ms[whole:]  # where one begins anew, all do
    saved = time.monotonic()
    while not _enough(suite, group, ready):
        _round(suite, ready, engines)
        if time.monotonic() > saved + SAVE_SECONDS:
            save(result, suite.output)
            saved = time.monotonic()
        if time.monotonic() >= end:  # after one round at least, or building alone would take all the time again
            break
    group.done = _enough(suite, group, ready)


def _round(suite: Suite, ready: dict[Measurement, Row], engines: Engines) -> None:
    """A turn for each. What fails is noted, and not ready any more; of an interrupted round nothing is kept."""
    samples: dict[Measurement, list[float]] = {}
    for measurement in list(ready):
        time.sleep(SETTLE_SECONDS)
        answer = engines.ask(_key(measurement, suite), "call", measurement, suite.calls)
        if isinstance(answer, Failure):
            _note(ready.pop(measurement), answer, suite.output)
        else:
            samples[measurement] = [float(f"{1000 * seconds:.4g}") for seconds in answer]
    for measurement, of_round in samples.items():
        ready[measurement].rounds_ms.append(of_round)


def _key(measurement: Measurement, suite: Suite) -> Key:
    """The process for a measurement."""
    return measurement.form.engine, suite.take_turns == "baseline" and measurement.network_name == suite.baseline


def _enough(suite: Suite, group: Group, ready: dict[Measurement, Row]) -> bool:
    if not ready:
        return True
    rounds = min(len(row.rounds_ms) for row in ready.values())
    long = suite.seconds is not None and group.total_seconds() >= suite.seconds
    return rounds >= suite.rounds or (long and rounds * suite.calls >= MIN_SAMPLES)


def _new_row(measurement: Measurement) -> Row:
    return Row(
        network=measurement.network_name,
        form=measurement.form_name,
        batch_size=measurement.batch_size,
        image_size=measurement.network.image_size,
    )


def _note(row: Row, answer: dict[str, Any] | Failure, folder: Path) -> None:
    if not isinstance(answer, Failure):
        facts = {k: v for k, v in answer.items() if k != "image_size"}
        if facts.get("engine") != row.facts.get("engine"):  # another is the fastest this time
            row.rounds_ms = []
        row.image_size, row.facts = answer["image_size"], facts
        return
    row.error, row.rounds_ms = answer.reason, []
    with (folder / ERRORS).open("a", encoding="utf-8") as file:  # not in the result: it names this machine's folders
        file.write(f"{row.network}, {row.form}, batch {row.batch_size}: {answer.reason}\n{answer.trace}\n")


def _start(suite: Suite, quick: bool, machine: dict[str, Any], earlier: Result | None, engines: Engines) -> Result:
    """A new result, or the one that is to go on."""
    limits = _limits(suite, engines)
    if earlier is None:
        result = Result(suite=suite, quick=quick, device=engines.device, environment=machine, limits=limits)
    else:
        result = earlier.model_copy(update={"suite": suite, "limits": earlier.limits.joined(limits)})
    save(result, suite.output)
    return result


def _limits(suite: Suite, engines: Engines) -> Limits:
    """Measured in a process of its own, whose memory and threads go with it, while no other holds memory."""
    for key in list(engines):
        engines.ask(key, "keep", [])
    dtypes = sorted({form.dtype for form in suite.forms.values() if engines.device in form.on} - {"int8"})
    answer = engines.ask(LIMITS, "limits", dtypes)
    if isinstance(answer, Failure):
        raise RunError(f"{engines.device} cannot be measured on: {answer.reason}")
    engines.pop(LIMITS).close()
    return Limits.model_validate(answer)


def _earlier(suite: Suite, quick: bool, device: str, machine: dict[str, Any]) -> Result | None:
    """The unfinished result in the suite's folder. Raises RunError for any other that is there."""
    folder = suite.output
    require_writable(folder)
    if not folder.exists() or not any(folder.iterdir()):
        return None
    another = "choose another with output=<folder>"
    if not (folder / FILE).exists():
        raise RunError(f"output {folder} holds something that is no result: {another}")
    result = load(folder / FILE)
    if result.complete:
        raise RunError(f"output {folder} already holds a complete result: {another}")
    require_same(result, suite, quick, device, machine)
    return result


def require_same(result: Result, suite: Suite, quick: bool, device: str, machine: dict[str, Any]) -> None:
    """Raises RunError where a result is not of this suite, device and machine."""
    old, new = (each.model_dump(mode="json") for each in (result.suite, suite))
    others = differences(old, new, Suite) + differences(result.environment, machine)
    others += [] if (result.quick, result.device) == (quick, device) else ["the device or --quick"]
    if others:
        raise RunError(
            f"output {suite.output} holds another result, choose another folder with output=<folder>, "
            "or with --everything by --output:\n" + "\n".join(others)
        )
