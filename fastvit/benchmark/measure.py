"""Measuring a suite: everything that is compared takes turns, round after round."""

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from statistics import median
from typing import Any

from fastvit.benchmark.suite import Network, Suite
from fastvit.benchmark.workers import SETTLE_SECONDS, Failure, Measurement, Worker, WorkerDied
from fastvit.errors import RecipeError
from fastvit.runtime.device import best_device
from fastvit.runtime.environment import environment

Row = dict[str, Any]


def measure(suite: Suite, *, quick: bool, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure a suite and return everything about it, ready for JSON.

    Args:
        suite: as it is to be measured.
        quick: whether it was shortened; only noted.
        keep: called with the result so far after each group, so that an interrupted run leaves what it has.
    """
    device = best_device().type if suite.device == "auto" else suite.device
    threads = suite.threads or _cores()
    engines = Engines(threads, device)
    result: dict[str, Any] = {
        "title": suite.title,
        "quick": quick,
        "weights": "random",
        "device": device,
        "environment": environment() | {"threads": threads},
        "load_before": _load(),
        "suite": suite.model_dump(mode="json"),
        "rows": [],
    }
    try:
        result["environment"] |= engines["eager"].versions()
        result["peak_flops"] = _peaks(suite, device, engines["eager"])
        for group in groups(suite, device):
            result["rows"] += _measure_group(suite, group, engines)
            keep(result)
    finally:
        engines.close()
    for row in result["rows"]:
        add_ratio(row, result["rows"], suite.baseline)
    result["load_after"] = _load()
    return result


def groups(suite: Suite, device: str) -> Iterator[list[Measurement]]:
    """What takes turns with each other, of one batch and image size: a network's forms, or the networks in a form."""
    forms = [(name, form) for name, form in suite.forms.items() if device in form.on]
    if not forms:
        raise RecipeError(f"none of the forms {', '.join(suite.forms)} is measured on {device}: see their key `on`")
    for batch_size, image_size in itertools.product(suite.batch_sizes, suite.image_sizes or (None,)):
        networks = [(name, _at_size(network, image_size)) for name, network in suite.networks.items()]
        constants = networks if suite.take_turns == "forms" else forms
        for constant in constants:
            yield [
                Measurement(name, form_name, network, form, batch_size)
                for (name, network), (form_name, form) in itertools.product(networks, forms)
                if constant[0] in (name, form_name)
            ]


def _at_size(network: Network, image_size: int | None) -> Network:
    return network.model_copy(update={"image_size": image_size}) if image_size else network


class Engines(dict[str, Worker]):
    """A process for each engine, started when it is first needed."""

    def __init__(self, threads: int, device: str):
        super().__init__()
        self._start = lambda: Worker(threads, device)

    def __missing__(self, engine: str) -> Worker:
        self[engine] = self._start()
        return self[engine]

    def build(self, measurement: Measurement, built: Iterable[Measurement]) -> dict[str, Any] | Failure:
        """`Worker.build`. Where that kills the process, a new one gets what the dead one had of `built`."""
        engine = measurement.form.engine
        try:
            return self[engine].build(measurement)
        except WorkerDied as died:
            self.pop(engine).close()
            for lost in built:
                if lost.form.engine == engine:
                    self[engine].build(lost)
            return Failure(str(died), "")

    def close(self) -> None:
        for worker in self.values():
            worker.close()


def _measure_group(suite: Suite, group: list[Measurement], engines: Engines) -> list[Row]:
    rows: dict[Measurement, Row] = {}
    for measurement in group:
        _show(f"building {measurement.network_name}, {measurement.form_name}, batch {measurement.batch_size}")
        built = [earlier for earlier, row in rows.items() if "error" not in row]
        rows[measurement] = _new_row(measurement, engines.build(measurement, built))
    ready = [measurement for measurement, row in rows.items() if "error" not in row]
    for i in range(suite.rounds):
        _show(f"batch {group[0].batch_size}, {group[0].network_name}: round {i + 1} of {suite.rounds}")
        for measurement in ready:
            time.sleep(SETTLE_SECONDS)
            seconds = engines[measurement.form.engine].call(measurement, suite.calls)
            if isinstance(seconds, Failure):
                raise RuntimeError(seconds.trace)
            rows[measurement]["rounds_ms"].append([1000 * each for each in seconds])
    for worker in engines.values():
        worker.forget()
    for measurement in ready:
        add_statistics(rows[measurement])
    return list(rows.values())


def _new_row(measurement: Measurement, facts: dict[str, Any] | Failure) -> Row:
    row: Row = {
        "network": measurement.network_name,
        "form": measurement.form_name,
        "batch_size": measurement.batch_size,
        "image_size": measurement.network.image_size,
    }
    if isinstance(facts, Failure):
        return row | {"error": facts.reason, "trace": facts.trace}
    return row | facts | {"dtype": measurement.form.dtype, "train": measurement.form.train, "rounds_ms": []}


def add_statistics(row: Row) -> None:
    """Median, first and last decile, and images a second, from the samples."""
    samples = sorted(itertools.chain.from_iterable(row["rounds_ms"]))
    n = len(samples)
    row |= {
        "n": n,
        "median_ms": median(samples),
        "p10_ms": samples[round(0.1 * (n - 1))],
        "p90_ms": samples[round(0.9 * (n - 1))],
        "images_per_second": 1000 * row["batch_size"] / median(samples),
    }


def add_ratio(row: Row, rows: list[Row], baseline: str | None) -> None:
    """How many times as fast as the baseline: the median over the rounds of the ratio in one round.

    The baseline is the same network in the form of that name, or the network of that name in the same form.
    """
    same = ("batch_size", "image_size")
    for other in rows:
        of_form = other["form"] == baseline and other["network"] == row["network"]
        of_network = other["network"] == baseline and other["form"] == row["form"]
        if (of_form or of_network) and all(other[key] == row[key] for key in same) and "n" in row and "n" in other:
            row["speed_up"] = paired_ratio(other, row)


def paired_ratio(slow: Row, fast: Row) -> float:
    """The median over rounds of time of `slow` over time of `fast`."""
    pairs = zip(slow["rounds_ms"], fast["rounds_ms"], strict=True)
    return median(median(a) / median(b) for a, b in pairs)


def _peaks(suite: Suite, device: str, worker: Worker) -> dict[str, float]:
    dtypes = {form.dtype for form in suite.forms.values() if device in form.on} - {"int8"}
    peaks = {dtype: worker.peak(dtype) for dtype in sorted(dtypes)}
    return {dtype: peak for dtype, peak in peaks.items() if not isinstance(peak, Failure)}


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _load() -> float | None:
    """How many processes want to run, over the last minute: well above 0 before a run, others are at work."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _show(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
