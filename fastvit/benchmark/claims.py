"""What the paper says about speed, beside the same here, with a plain verdict."""

from collections.abc import Iterator
from typing import NamedTuple

from fastvit.benchmark.result import Result, Row
from fastvit.benchmark.statistics import Interval, paired_ratio
from fastvit.benchmark.suite import Claim

LEVEL = 0.05  # a published ratio that is nearer to 1 claims no difference
ALIKE = 0.25  # a ratio here within this of the published one is of the same size


class Checked(NamedTuple):
    """A claim beside what was measured in one form at one batch size."""

    claim: Claim
    device: str  # of the paper
    published: float
    form: str
    batch_size: int
    here: Interval | None
    verdict: str


def checked_claims(result: Result) -> Iterator[Checked]:
    """Every claim of the suite, for every device it was published for."""
    measured = _measured(result)
    for claim in result.suite.claims:
        for device in claim.published:
            published = claim.ratio(device)
            if claim.not_measured:
                yield Checked(claim, device, published, "", 0, None, f"not measured: {claim.not_measured}")
            for (slow, fast, form, batch_size), (slow_row, fast_row) in measured.items():
                if (slow, fast) == (claim.slow, claim.fast):
                    here, verdict = _judged(published, slow_row, fast_row)
                    yield Checked(claim, device, published, form, batch_size, here, verdict)


def verdict(published: float, here: Interval) -> str:
    """Whether a ratio of times, and its size, come out as published."""
    if abs(published - 1) <= LEVEL:
        if abs(here.value - 1) <= 2 * LEVEL:
            return "holds: level here too"
        return "no: faster here" if here.value > 1 else "no: slower here"
    if published < 1:
        return verdict(1 / published, Interval(1 / here.value, 1 / here.high, 1 / here.low))
    if here.high < 1:
        return "no: the other way round"
    if here.low <= 1:
        return "no difference here"
    if here.value < (1 - ALIKE) * published:
        return "right direction, smaller"
    if here.value > (1 + ALIKE) * published:
        return "right direction, larger"
    return "holds"


def _measured(result: Result) -> dict[tuple[str, str, str, int], tuple[Row, Row]]:
    """Slow and fast rows that took turns with each other."""
    pairs = {}
    for group in result.groups:
        for slow in group.rows:
            for fast in group.rows:
                if slow.network != fast.network and slow.form == fast.form:
                    pairs.setdefault((slow.network, fast.network, slow.form, slow.batch_size), (slow, fast))
    return pairs


def _judged(published: float, slow: Row, fast: Row) -> tuple[Interval | None, str]:
    for row in (fast, slow):
        if row.error:
            return None, f"not measured: {row.network}: {row.error}"
    if not (fast.rounds_ms and slow.rounds_ms):
        return None, "not measured yet"
    here = paired_ratio(slow, fast)
    return here, verdict(published, here)
