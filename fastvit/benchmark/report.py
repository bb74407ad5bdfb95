"""The result of a suite as text for people."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from statistics import geometric_mean
from typing import Any

from fastvit.benchmark.measure import Row, paired_ratio
from fastvit.benchmark.suite import Suite

BUSY = 0.3  # running processes for each thread, before the run, from which on other work disturbs it

COLUMNS = (
    "network",
    "form",
    "batch",
    "px",
    "median ms",
    "p10-p90",
    "img/s",
    "params M",
    "GMACs",
    "peak MiB",
    "of peak",
)


def report(suite: Suite, result: dict[str, Any]) -> str:
    """What was measured on what, the table, the means and the claims; Markdown, aligned for a terminal."""
    blocks = [f"# {suite.title}", "\n".join(conditions(result)), markdown(table(suite, result))]
    means = list(mean_speed_ups(result["rows"])) if suite.take_turns == "forms" else []
    claims = list(claim_rows(suite, result["rows"]))
    if means:
        head = ("form", "batch", "px", f"geometric mean speed-up over {suite.baseline}", "networks")
        blocks.append(markdown([head, *means]))
    if claims:
        head = ("claim", "form", "batch", "published", "on", "here", "top-1 fast / slow")
        blocks.append(markdown([head, *claims]))
    failures: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)  # networks by form and error
    for row in result["rows"]:
        if "error" in row:
            failures[row["form"], row["error"]][row["network"]] = None
    if failures:
        lines = (f"not measured: {form}: {error} ({', '.join(who)})" for (form, error), who in failures.items())
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def conditions(result: dict[str, Any]) -> Iterator[str]:
    """What the numbers depend on."""
    machine, suite = result["environment"], result["suite"]
    hardware = machine["cpu"] if result["device"] == "cpu" else machine["gpu"]
    yield f"{result['device']}: {hardware}, {machine['threads']} threads, {machine['platform']}"
    names = ("fastvit", "python", "torch", "timm", "onnxruntime", "openvino")
    yield ", ".join(f"{name} {machine[name]}" for name in names)
    yield (
        f"{suite['rounds']} rounds of {suite['calls']} calls in turn, each turn after one call that is not counted; "
        "the same random images for all; random weights; inference mode but for training steps"
    )
    peaks = ", ".join(f"{name} {peak / 1e9:.0f} GFLOP/s" for name, peak in result["peak_flops"].items())
    yield f"peak of a large matrix product here: {peaks}"
    yield f"load of the machine before: {result['load_before']}{' (quick)' if result['quick'] else ''}"
    if (result["load_before"] or 0) > BUSY * machine["threads"]:
        yield "THE MACHINE WAS BUSY: these times are rough, and only ratios within a round mean something"


def table(suite: Suite, result: dict[str, Any]) -> list[tuple[str, ...]]:
    """A header and a row for each measurement."""
    extra = (f"x {suite.baseline}",) if suite.baseline else ()
    accuracy = ("top-1",) if any(network.top1 for network in suite.networks.values()) else ()
    lines = [COLUMNS + extra + accuracy]
    for row in result["rows"]:
        if "n" not in row:
            continue
        line = (
            row["network"],
            row["form"],
            str(row["batch_size"]),
            str(row["image_size"]),
            f"{row['median_ms']:.2f}",
            f"{row['p10_ms']:.2f}-{row['p90_ms']:.2f}",
            f"{row['images_per_second']:.1f}",
            f"{row['parameters'] / 1e6:.2f}",
            f"{row['macs'] / 1e9:.2f}",
            f"{row['peak_memory'] / 2**20:.0f}" if "peak_memory" in row else "",
            _share_of_peak(row, result["peak_flops"]),
        )
        line += (f"{row['speed_up']:.2f}" if "speed_up" in row else "",) if extra else ()
        line += (f"{suite.networks[row['network']].top1 or ''}",) if accuracy else ()
        lines.append(line)
    return lines


def mean_speed_ups(rows: list[Row]) -> Iterator[tuple[str, ...]]:
    """The geometric mean over the networks of each form's speed-up."""
    with_ratio = [row for row in rows if "speed_up" in row]
    sizes = {row["image_size"] for row in with_ratio}
    for form, batch in dict.fromkeys((row["form"], row["batch_size"]) for row in with_ratio):
        ratios = [row["speed_up"] for row in with_ratio if (row["form"], row["batch_size"]) == (form, batch)]
        px = str(*sizes) if len(sizes) == 1 else "all"
        yield form, str(batch), px, f"{geometric_mean(ratios):.2f}", f"{len(ratios)}"


def claim_rows(suite: Suite, rows: list[Row]) -> Iterator[tuple[str, ...]]:
    """Each published ratio beside the one measured here, in every form."""
    measured = {(row["network"], row["form"], row["batch_size"]): row for row in rows if "n" in row}
    for claim in suite.claims:
        for (network, form, batch), fast in measured.items():
            slow = measured.get((claim.slow, form, batch))
            if network != claim.fast or slow is None:
                continue
            accuracy = " / ".join(str(suite.networks[name].top1 or "?") for name in (claim.fast, claim.slow))
            here = f"{paired_ratio(slow, fast):.2f}"
            yield claim.text, form, str(batch), f"{claim.published:.2f}", claim.published_on, here, accuracy


def markdown(lines: Iterable[tuple[str, ...]]) -> str:
    """A table whose columns line up."""
    lines = list(lines)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    rows = [f"| {row} |" for row in rows]
    return "\n".join([rows[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *rows[1:]])


def _share_of_peak(row: Row, peaks: dict[str, float]) -> str:
    """Multiply-adds a second over what a large matrix product reaches in the same dtype; not for training steps."""
    if row["train"] or row["dtype"] not in peaks:
        return ""
    return f"{2 * row['macs'] * row['images_per_second'] / peaks[row['dtype']]:.0%}"
