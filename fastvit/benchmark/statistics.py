"""From samples to figures: medians, ratios within rounds, and how sure they are."""

import itertools
import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

from fastvit.benchmark.result import Group, Result, Row

Rounds = Sequence[Sequence[float]]
Key = tuple[str, str, int, int | None]  # of a row
CONFIDENCE = 0.95
LEAST_ROUNDS = 6  # for an interval of that confidence


class Interval(NamedTuple):
    """A median, and where that of endless repetition lies with a probability of 95 % or more."""

    value: float
    low: float
    high: float


class Latency(NamedTuple):
    """Milliseconds."""

    median: float
    p10: float
    p90: float
    n: int


def latency(rounds: Rounds) -> Latency:
    """Median, first and last decile of all samples."""
    samples = sorted(itertools.chain.from_iterable(rounds))
    n = len(samples)
    return Latency(median(samples), samples[round(0.1 * (n - 1))], samples[round(0.9 * (n - 1))], n)


def paired_ratio(slow: Row, fast: Row) -> Interval:
    """How many times as fast: of the ratios of times within each round, in which both took a turn."""
    pairs = zip(slow.rounds_ms, fast.rounds_ms, strict=True)
    return median_interval([median(a) / median(b) for a, b in pairs])


def median_interval(values: Iterable[float]) -> Interval:
    """The median with the interval of its order statistics, which assumes nothing about the distribution.

    The number of values below the true median is binomial: the k-th smallest is above it as rarely as fewer than k of
    n throws of a coin are heads. With fewer than six values even the whole range is less sure than 95 %.
    """
    ordered = sorted(values)
    n = len(ordered)
    left_out, tail = 0, 0.5**n
    while tail + math.comb(n, left_out + 1) * 0.5**n <= (1 - CONFIDENCE) / 2 and left_out + 1 < n / 2:
        left_out += 1
        tail += math.comb(n, left_out) * 0.5**n
    return Interval(median(ordered), ordered[left_out], ordered[n - 1 - left_out])


def baseline_of(row: Row, group: Group, baseline: str | None) -> Row | None:
    """What `row` is compared with: the same network in the form `baseline`, or that network in the same form."""
    for other in group.rows:
        of_form = other.form == baseline and other.network == row.network
        of_network = other.network == baseline and other.form == row.form
        if (of_form or of_network) and other.rounds_ms:
            return other
    return None


class Figures(NamedTuple):
    """What is shown of a measurement."""

    row: Row
    latency: Latency | None  # None where it was not measured
    speed_up: Interval | None  # over the baseline


def figures(result: Result) -> list[Figures]:
    """Of each measurement, from the samples of all groups that it is in.

    Where each network takes turns with the baseline alone, the machine was at another speed each time: the samples of a
    round are first divided by how much slower than usual the baseline was in it.
    """
    baseline = result.suite.baseline
    usual = _usual_baseline(result) if result.suite.take_turns == "baseline" else {}
    rows: dict[Key, Row] = {}
    rounds: dict[Key, list[list[float]]] = {}
    speed_ups: dict[Key, Interval] = {}
    for group in result.groups:
        for row in group.rows:
            key = row.key
            rows.setdefault(key, row)
            if not row.rounds_ms:
                continue
            reference = baseline_of(row, group, baseline)
            if reference is not None:
                speed_ups.setdefault(key, paired_ratio(reference, row))
            in_step = reference is not None and row.network != baseline and reference.key in usual
            own = _in_step(row, reference, usual[reference.key]) if in_step else row.rounds_ms
            rounds.setdefault(key, []).extend(own)
    return [
        Figures(row, latency(rounds[key]) if key in rounds else None, speed_ups.get(key)) for key, row in rows.items()
    ]


def _usual_baseline(result: Result) -> dict[Key, float]:
    """The median of the baseline over all groups, in each form, batch and size."""
    rounds: dict[Key, list] = {}
    for row in result.rows():
        if row.network == result.suite.baseline:
            rounds.setdefault(row.key, []).extend(row.rounds_ms)
    return {key: latency(of_key).median for key, of_key in rounds.items() if of_key}


def _in_step(row: Row, baseline: Row, usual: float) -> list[list[float]]:
    return [
        [sample * usual / median(reference) for sample in samples]
        for samples, reference in zip(row.rounds_ms, baseline.rounds_ms, strict=True)
    ]
