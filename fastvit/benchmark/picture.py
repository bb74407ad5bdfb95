"""The result of a suite as a picture."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from fastvit.benchmark.measure import Row
from fastvit.benchmark.suite import Suite

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def picture(suite: Suite, result: dict[str, Any]) -> "Figure":
    """A panel for each batch size and, for accuracy and sizes, each form."""
    from matplotlib.figure import Figure

    draw, by_form = {"bars": (_bars, False), "accuracy": (_accuracy, True), "sizes": (_sizes, True)}[suite.picture]
    rows = [row for row in result["rows"] if "n" in row]
    panels = dict.fromkeys((row["batch_size"], row["form"] if by_form else None) for row in rows)
    height = 6 if by_form else 3 + 0.16 * len(rows) / len(panels)
    figure = Figure(figsize=(7.5 * len(panels), height), layout="constrained")
    for axes, (batch, form) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axes, suite, [row for row in rows if row["batch_size"] == batch and form in (None, row["form"])])
        axes.set_title(", ".join(filter(None, (form, f"batch {batch}"))))
    machine = result["environment"]
    hardware = machine["cpu"] if result["device"] == "cpu" else machine["gpu"]
    figure.suptitle(f"{suite.title}\n{hardware}, threads: {machine['threads']}, torch {machine['torch']}", fontsize=9)
    return figure


def pareto(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of points (cost, value), those that none beats in both: by rising cost, and so by rising value."""
    front: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or value > front[-1][1]:
            front.append((cost, value))
    return front


def _bars(axes: "Axes", suite: Suite, rows: list[Row]) -> None:
    """Median latencies with their deciles: the networks one under the other, a color for each form."""
    colors = _colors(suite.forms)
    for i, row in enumerate(rows):
        spread = [[row["median_ms"] - row["p10_ms"]], [row["p90_ms"] - row["median_ms"]]]
        axes.barh(i, row["median_ms"], xerr=spread, color=colors(row["form"]), error_kw={"lw": 0.8})
    axes.set_yticks(range(len(rows)), [f"{row['network']}, {row['form']}" for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("ms")


def _accuracy(axes: "Axes", suite: Suite, rows: list[Row]) -> None:
    """Published top-1 over measured latency (the paper's figure 1), and the Pareto front."""
    points = [(row["median_ms"], suite.networks[row["network"]], row["network"]) for row in rows]
    points = [(ms, network.top1, network.family, name) for ms, network, name in points if network.top1]
    colors = _colors(dict.fromkeys(family for _, _, family, _ in points))
    for ms, top1, family, name in points:
        ours = family == "FastViT"
        axes.plot(ms, top1, "*" if ours else "o", ms=12 if ours else 5, color="crimson" if ours else colors(family))
        axes.annotate(name, (ms, top1), fontsize=6, xytext=(4, -9) if ours else (3, 3), textcoords="offset points")
    front = pareto((ms, top1) for ms, top1, _, _ in points)
    axes.step(*zip(*front, strict=True), "--", where="post", lw=0.8, color="gray")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("ms (here)")
    axes.set_ylabel("ImageNet top-1, % (published)")


def _sizes(axes: "Axes", suite: Suite, rows: list[Row]) -> None:
    """Latency over the image size (the paper's figure 3), with the ratio to the baseline at each point."""
    for name in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == name]
        axes.plot([row["image_size"] for row in mine], [row["median_ms"] for row in mine], "o-", label=name)
        for row in mine:
            if "speed_up" in row and name != suite.baseline:
                at = (row["image_size"], row["median_ms"])
                axes.annotate(f"{row['speed_up']:.2f}x", at, fontsize=7, xytext=(3, -9), textcoords="offset points")
    axes.set_yscale("log")
    axes.set_xlabel("image size, px")
    axes.set_ylabel("ms")
    axes.legend()


def _colors(names: Iterable[str]) -> Callable[[str], Any]:
    from matplotlib import colormaps

    order = list(names)
    return lambda name: colormaps["tab20"](order.index(name) % 20)
