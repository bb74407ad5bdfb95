"""The result of a suite as text for people: Markdown, aligned for a terminal."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from statistics import geometric_mean

from fastvit.benchmark.claims import Checked, checked_claims
from fastvit.benchmark.field import OURS, field_points, pareto
from fastvit.benchmark.limits import least_seconds
from fastvit.benchmark.machine import hardware, known_problems
from fastvit.benchmark.result import Group, Result, Row
from fastvit.benchmark.statistics import LEAST_ROUNDS, Figures, figures, paired_ratio
from fastvit.benchmark.suite import Accuracy, Suite

TOGETHER = 10  # networks in a line of a field
BUSY = 0.3  # threads of others for each of ours, before the run, from which on they disturb it

Line = Sequence[str]


def report(result: Result) -> str:
    """What was measured on what; medians side by side, or a field; means and claims; every row; what was not."""
    shown = figures(result)
    blocks = [f"# {result.suite.title}", "\n".join(f"- {line}" for line in conditions(result))]
    overview = fields if result.suite.picture == "accuracy" else side_by_side
    blocks += [markdown(lines) for lines in overview(result, shown)]
    if result.suite.take_turns == "forms":
        blocks += [markdown(lines) for lines in mean_speed_ups(result)]
    if result.suite.claims:
        blocks.append(markdown(claims_table(list(checked_claims(result)), result)))
    if any(each.latency for each in shown):
        blocks.append(markdown(table(result, shown)))
    blocks.append("\n".join(f"- {line}" for line in failures(shown)))
    return "\n\n".join(filter(None, blocks)) + "\n"


def conditions(result: Result) -> Iterator[str]:
    """What the numbers depend on."""
    machine, suite = result.environment, result.suite
    where = hardware(result.device, machine)
    yield f"{result.device}: {where}, {machine['threads']} threads, {machine['platform']}"
    names = ("fastvit", "python", "torch", "timm", "onnxruntime", "openvino", "driver", "cuda", "cudnn")
    yield ", ".join(f"{name} {machine[name]}" for name in names if name in machine)
    yield from (f"WARNING: {problem}" for problem in known_problems(machine))
    at_most = f"at most {suite.rounds}" if suite.seconds else str(suite.rounds)
    yield (
        f"{at_most} rounds of {suite.calls} calls in turn, short ones after one that is not counted; "
        "the same random images for all; random weights; inference mode but for training steps"
    )
    if suite.take_turns == "baseline":
        yield f"each network took turns with {suite.baseline}; its times are as if that had always had its median speed"
    limits = result.limits
    peaks = ", ".join(f"{name} {peak.flops / 1e9:.0f} GFLOP/s ({peak.by})" for name, peak in limits.peak.items())
    yield (
        f"the machine at most: {peaks}; memory {limits.bandwidth / 1e9:.0f} GB/s, behind {limits.cache / 2**20:.0f} MiB"
    )
    yield from (f"top-1 published by {name}: {where}" for name, where in suite.sources.items())
    loads = ", ".join(str(load) for load in result.loads)
    yield f"load before each start: {loads}{' (quick)' if result.quick else ''}"
    if not result.complete:
        yield "NOT COMPLETE: the same command goes on"
    if max(load or 0 for load in result.loads) > BUSY * int(machine["threads"]):
        yield "THE MACHINE WAS BUSY: these times are rough, and only ratios within a round mean something"


def side_by_side(result: Result, shown: Iterable[Figures]) -> Iterator[list[Line]]:
    """Median milliseconds, a table for each batch, the networks one under the other; where all have several image
    sizes, those one under the other.

    The last line, where forms take turns, is how many times as fast as the baseline: geometric means, as below it.
    """
    if len(result.suite.image_sizes) > 1:
        yield from _size_by_size(result, shown)
        return
    forms = [name for name, form in result.suite.forms.items() if result.device in form.on]
    tables: dict[tuple, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for each in shown:
        size = each.row.image_size if result.suite.image_sizes else None
        tables[each.row.batch_size, size][each.row.network][each.row.form] = _milliseconds(each)
    for (batch_size, size), rows in tables.items():
        head = f"ms, batch {batch_size}" + (f", {size} px" if size else "")
        lines: list[Line] = [(head, *forms)]
        lines += [(name, *(cells.get(form, "") for form in forms)) for name, cells in rows.items()]
        baseline = result.suite.baseline
        if result.suite.take_turns == "forms" and baseline and not size:
            groups = [group for group in result.groups if group.rows[0].batch_size == batch_size]
            lines.append(("times as fast", *(_mean_ratio(form, baseline, groups) for form in forms)))
        yield lines


def _size_by_size(result: Result, shown: Iterable[Figures]) -> Iterator[list[Line]]:
    """A table for each batch and form: a line for each image size, with all networks and ratios to the baseline."""
    suite = result.suite
    tables: dict[tuple[int, str], dict[int | None, dict[str, Figures]]] = defaultdict(lambda: defaultdict(dict))
    for each in shown:
        tables[each.row.batch_size, each.row.form][each.row.image_size][each.row.network] = each
    others = [name for name in suite.networks if suite.baseline and name != suite.baseline]
    for (batch_size, form), sizes in tables.items():
        ratios = [f"{name}: x {suite.baseline}" for name in others]
        lines: list[Line] = [(f"ms, batch {batch_size}, {form}", *suite.networks, *ratios)]
        for size, found in sizes.items():
            ms = [_milliseconds(found[name]) if name in found else "" for name in suite.networks]
            speed_ups = [found[name].speed_up if name in found else None for name in others]
            lines.append((f"{size} px", *ms, *(f"{each.value:.2f}" if each else "" for each in speed_ups)))
        yield lines


def _milliseconds(shown: Figures) -> str:
    if not shown.latency:
        return "-"
    return f"{shown.latency.median:.3g}" if shown.latency.median < 1000 else f"{shown.latency.median:.0f}"


def mean_speed_ups(result: Result) -> Iterator[list[Line]]:
    """How many times as fast each form is as each other: geometric means over the networks of the ratios in rounds."""
    by_batch: dict[int, list[Group]] = defaultdict(list)
    for group in result.groups:
        by_batch[group.rows[0].batch_size].append(group)
    for batch_size, groups in by_batch.items():
        measured = {row.form for group in groups for row in group.rows if row.rounds_ms}
        forms = [row.form for row in groups[0].rows if row.form in measured]
        lines = [(f"times as fast, batch {batch_size}, as:", *forms, "networks")]
        for fast in forms:
            networks = max(len(_rows_of(fast, slow, groups)) for slow in forms)
            lines.append((fast, *(_mean_ratio(fast, slow, groups) for slow in forms), str(networks)))
        if forms:
            yield lines


def claims_table(claims: Sequence[Checked], result: Result) -> list[Line]:
    """A line for each claim: the paper's ratio on each of its devices, and of each form the ratio here and verdicts."""
    ways = list(dict.fromkeys((each.form, each.batch_size) for each in claims if each.form))
    devices = list(dict.fromkeys(each.device for each in claims))
    several = len({batch_size for _, batch_size in ways}) > 1
    heads = [f"{form}, batch {batch_size}" if several else form for form, batch_size in ways]
    verdicts = [f"beside the {device}" for device in devices]
    lines: list[Line] = [("claim", "top-1", "in", *devices, *(x for h in heads for x in (f"here, {h}", *verdicts)))]
    by_claim: dict[tuple[str, str], list[Checked]] = defaultdict(list)
    for each in claims:
        by_claim[each.claim.text or f"{each.claim.fast} to {each.claim.slow}", each.claim.where].append(each)
    for (name, where), of_claim in by_claim.items():
        published = {each.device: f"{each.published:.2f}" for each in of_claim}
        cells = [cell for way in ways for cell in _here(way, of_claim, devices)]
        told = _both(of_claim[0].claim.fast, of_claim[0].claim.slow, result)
        lines.append((name, told, where, *(published.get(device, "") for device in devices), *cells))
    return lines


def _here(way: tuple[str, int], of_claim: Iterable[Checked], devices: Iterable[str]) -> list[str]:
    """The ratio of a form with its interval, and the verdict beside each device's."""
    found = {each.device: each for each in of_claim if (each.form, each.batch_size) in (way, ("", 0))}
    here = next((each.here for each in found.values()), None)
    ratio = f"{here.value:.2f} ({here.low:.2f}-{here.high:.2f})" if here else ""
    return [ratio, *(found[device].verdict if device in found else "" for device in devices)]


def fields(result: Result, shown: Iterable[Figures]) -> Iterator[list[Line]]:
    """All networks by rising time with their accuracies, and those that none beats in both: a table for each way."""
    suite = result.suite
    by_way: dict[tuple[int, str], list[Figures]] = defaultdict(list)
    for each in shown:
        if each.latency:
            by_way[each.row.batch_size, each.row.form].append(each)
    for (batch_size, form), rows in by_way.items():
        rows.sort(key=lambda each: each.latency.median)
        zero_shot = [each for each in rows if suite.networks[each.row.network].top1.zero_shot]
        classifiers = [each for each in rows if each not in zero_shot]
        lines: list[Line] = [(f"ms, batch {batch_size}, {form}", "networks (top-1; after a slash: distilled)")]
        for first in range(0, len(classifiers), TOGETHER):
            some = classifiers[first : first + TOGETHER]
            lines.append((f"{_milliseconds(some[0])} to {_milliseconds(some[-1])}", _told(some, suite)))
        if zero_shot:
            lines.append(("zero-shot", _told(zero_shot, suite)))
        for whose, kinds in (("without teachers", ("plain",)), ("of all", ("plain", "distilled"))):
            points = field_points(rows, suite, kinds)
            front = pareto((point.ms, point.top1) for point in points)
            names = [f"{point.name} {point.top1:.1f}" for point in sorted(points) if point[:2] in front]
            lines.append((f"front {whose}", ", ".join(names)))
        yield lines


def _told(some: Iterable[Figures], suite: Suite) -> str:
    """Each with its milliseconds and its accuracies; ours stand out."""
    told = []
    for each in some:
        network = suite.networks[each.row.network]
        alone, distilled = network.top1.plain or network.top1.zero_shot, network.top1.distilled
        accuracy = (f"{alone:.1f}" if alone else "") + (f"/{distilled:.1f}" if distilled else "")
        name = f"**{each.row.network}**" if network.family == OURS else each.row.network
        told.append(f"{name} {_milliseconds(each)} ({accuracy})")
    return ", ".join(told)


def table(result: Result, shown: Iterable[Figures]) -> list[Line]:
    """A header and a line for each measurement; columns that are empty in all lines are left out."""
    lines = [_cells(each, result) for each in shown if each.latency]
    heads = [head for head in lines[0] if any(line[head] for line in lines)]
    return [heads, *([line[head] for head in heads] for line in lines)]


def _cells(shown: Figures, result: Result) -> dict[str, str]:
    """What a line says, by column."""
    (row, latency, speed_up), facts = shown, shown.row.facts
    network = result.suite.networks[row.network]
    return {
        "network": row.network,
        "form": row.form,
        "batch": str(row.batch_size),
        "engine": facts.get("engine", ""),
        "px": str(row.image_size),
        "n": str(latency.n),
        "ms": f"{latency.median:.2f}",
        "p10-p90": f"{latency.p10:.2f}-{latency.p90:.2f}",
        "img/s": f"{1000 * row.batch_size / latency.median:.1f}",
        "params M": f"{facts['parameters'] / 1e6:.2f}",
        "GMACs": f"{facts['macs'] / 1e9:.2f}",
        "BN": str(facts.get("batch_norms", "")),
        "MiB": _mebibytes(facts.get("peak_memory")),
        "MiB counted": _mebibytes(facts.get("counted_memory")),
        "of limit": share_of_limit(row, latency.median, result),
        f"x {result.suite.baseline}": f"{speed_up.value:.2f}" if speed_up else "",
        "95 %": f"{speed_up.low:.2f}-{speed_up.high:.2f}" if speed_up and len(row.rounds_ms) >= LEAST_ROUNDS else "",
        "top-1": _accuracies(network.top1),
        "published by": network.source,
    }


def _mebibytes(count: int | None) -> str:
    return f"{count / 2**20:.0f}" if count is not None else ""


def share_of_limit(row: Row, median_ms: float, result: Result) -> str:
    """The least time that the work can take on this machine, over the median; and what binds, if it is the memory."""
    dtype = result.suite.forms[row.form].dtype
    if "traffic" not in row.facts or dtype not in result.limits.peak:
        return ""
    operations = 2 * row.facts["macs"] * row.batch_size
    limits = result.limits
    least, binding = least_seconds(operations, row.facts["traffic"], limits.peak[dtype].flops, limits.bandwidth)
    return f"{1000 * least / median_ms:.0%}{' memory' if binding == 'memory' else ''}"


def failures(shown: Iterable[Figures]) -> Iterator[str]:
    """What was not measured, and why; equal reasons together."""
    who: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for row, _, _ in shown:
        if row.error:
            who[row.form, row.error][row.network] = None
    for (form, error), networks in who.items():
        yield f"not measured: {form}: {error} ({', '.join(networks)})"


def markdown(lines: Sequence[Line]) -> str:
    """A table whose columns line up."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    rows = [f"| {row} |" for row in rows]
    return "\n".join([rows[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *rows[1:]])


def _mean_ratio(fast: str, slow: str, groups: Iterable[Group]) -> str:
    """How many times as fast one form is as the other; empty where no network was measured in both."""
    rows = _rows_of(fast, slow, groups)
    return f"{geometric_mean(paired_ratio(s, f).value for s, f in rows):.2f}" if rows else ""


def _rows_of(fast: str, slow: str, groups: Iterable[Group]) -> list[tuple[Row, Row]]:
    """The rows of two forms of each network, slow first, where both were measured."""
    found = []
    for group in groups:
        by_form = {row.form: row for row in group.rows if row.rounds_ms}
        if fast in by_form and slow in by_form:
            found.append((by_form[slow], by_form[fast]))
    return found


def _accuracies(top1: Accuracy) -> str:
    named = {"": top1.plain, " distilled": top1.distilled, " zero-shot": top1.zero_shot}
    return ", ".join(f"{value:g}{name}" for name, value in named.items() if value)


def _both(fast: str | None, slow: str | None, result: Result) -> str:
    networks = result.suite.networks
    both = [_accuracies(networks[name].top1) if name in networks else "" for name in (fast, slow)]
    return " / ".join(both) if all(both) else ""
