"""Two results of the same suite, before and after a change: which rows differ by more than their noise."""

from collections.abc import Iterator, Sequence
from statistics import median
from typing import NamedTuple

from fastvit.benchmark.machine import hardware
from fastvit.benchmark.report import markdown
from fastvit.benchmark.result import Result, Row
from fastvit.benchmark.statistics import Figures, Interval, figures, median_interval
from fastvit.errors import RunError

SAME, YARDSTICK = "same", "yardstick"  # its own times say how fast the machine was, with its torch
AT_LEAST = 0.05  # a smaller change is not reported: processes differ by that much from start to start


class Change(NamedTuple):
    """One row, before and now."""

    row: Row
    before_ms: float
    now_ms: float
    time: Interval  # now over before; relative to the baseline, where there is one
    verdict: str


def changes(before: Result, now: Result) -> list[Change]:
    """The rows that both results have, in the order of `now`. Raises RunError if there is none."""
    old = {each.row.key: each for each in figures(before) if each.latency}
    pairs = [(old[each.row.key], each) for each in figures(now) if each.latency and each.row.key in old]
    if not pairs:
        raise RunError("the two results have no row in common: compare two of the same suite")
    baseline = now.suite.baseline if now.suite.baseline == before.suite.baseline else None
    return [_change(*pair, baseline) for pair in pairs]


def comparison(before: Result, now: Result) -> str:
    """What differs between the two, then a table with a verdict for each row, and a summary."""
    found = changes(before, now)
    changed = [f"{c.row.network}, {c.row.form}: {c.verdict}" for c in found if c.verdict not in (SAME, YARDSTICK)]
    summary = "; ".join(changed) if changed else f"nothing changed by more than its noise and {AT_LEAST:.0%}"
    return "\n\n".join(["\n".join(_differences(before, now)), markdown(_table(found, now)), summary]) + "\n"


def _change(old: Figures, new: Figures, baseline: str | None) -> Change:
    if baseline in (new.row.network, new.row.form):
        time, verdict = _quotient(_per_round(new.row), _per_round(old.row)), YARDSTICK
    elif baseline and old.speed_up and new.speed_up:
        time = _quotient(old.speed_up, new.speed_up)
        verdict = _verdict(time)
    else:
        time = _quotient(_per_round(new.row), _per_round(old.row))
        verdict = _verdict(time)
    return Change(new.row, old.latency.median, new.latency.median, time, verdict)


def _verdict(time: Interval) -> str:
    if time.low > 1 and time.value > 1 + AT_LEAST:
        return f"slower by {time.value - 1:.0%}"
    if time.high < 1 and time.value < 1 - AT_LEAST:
        return f"faster by {1 - time.value:.0%}"
    return SAME


def _per_round(row: Row) -> Interval:
    return median_interval(median(samples) for samples in row.rounds_ms)


def _quotient(above: Interval, below: Interval) -> Interval:
    """Where it lies if both are anywhere in their intervals."""
    return Interval(above.value / below.value, above.low / below.high, above.high / below.low)


def _table(found: Sequence[Change], now: Result) -> list[tuple[str, ...]]:
    baseline = now.suite.baseline
    time = f"time over before, relative to {baseline}" if baseline else "time over before"
    lines = [("network", "form", "batch", "px", "ms before", "ms now", time, "95 %", "verdict")]
    for row, before_ms, now_ms, ratio, verdict in found:
        line = (row.network, row.form, str(row.batch_size), str(row.image_size), f"{before_ms:.2f}", f"{now_ms:.2f}")
        lines.append((*line, f"{ratio.value:.2f}", f"{ratio.low:.2f}-{ratio.high:.2f}", verdict))
    return lines


def _differences(before: Result, now: Result) -> Iterator[str]:
    machines = [f"{result.device}, {hardware(result.device, result.environment)}" for result in (before, now)]
    for name, result, machine in zip(("before", "now"), (before, now), machines, strict=True):
        yield f"{name}: {result.suite.title}, {machine}, load {result.loads}"
    if machines[0] != machines[1]:
        yield "WARNING: two machines: the times differ for that reason"
    keys = before.environment.keys() | now.environment.keys()
    pairs = {key: (before.environment.get(key), now.environment.get(key)) for key in sorted(keys)}
    yield from (f"{key}: {old} -> {new}" for key, (old, new) in pairs.items() if old != new)
