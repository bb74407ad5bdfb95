"""The result of a suite as a picture."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fastvit.benchmark.field import draw_field, field_legend, field_points, looks_of, name_points
from fastvit.benchmark.machine import hardware
from fastvit.benchmark.result import Result
from fastvit.benchmark.statistics import Figures, figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Wong's palette (Nature Methods 8, 441): told apart with any color vision.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")


def picture(result: Result) -> "Figure":
    """A panel for each batch size and, for accuracy and sizes, each form."""
    return {"bars": _bars, "accuracy": _accuracy, "sizes": _sizes}[result.suite.picture](result)


def _new_figure(result: Result, **options: Any) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained", **options)
    machine = result.environment
    below = f"{hardware(result.device, machine)}, threads: {machine['threads']}, torch {machine['torch']}"
    figure.suptitle(f"{result.suite.title}\n{below}", fontsize=10)
    return figure


def _measured(result: Result) -> list[Figures]:
    return [each for each in figures(result) if each.latency]


def _bars(result: Result) -> "Figure":
    """Median latencies with their deciles: the networks one under the other, a color for each form."""
    shown = _measured(result)
    batches = list(dict.fromkeys(each.row.batch_size for each in shown))
    color = dict(zip(result.suite.forms, COLORS * len(result.suite.forms), strict=False))
    height = 1.5 + 0.16 * len(shown) / len(batches)
    figure = _new_figure(result, figsize=(7.5 * len(batches), height))
    for axes, batch_size in zip(_row(figure, len(batches)), batches, strict=True):
        of_batch = [each for each in shown if each.row.batch_size == batch_size]
        for i, (row, latency, _) in enumerate(of_batch):
            spread = [[latency.median - latency.p10], [latency.p90 - latency.median]]
            axes.barh(i, latency.median, xerr=spread, color=color[row.form], error_kw={"lw": 0.8, "ecolor": "#666666"})
        names = [f"{each.row.network}, {each.row.form}" for each in of_batch]
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.set_ylim(len(names) - 0.3, -0.7)
        axes.set_title(f"batch {batch_size}")
        axes.set_xlabel("ms")
    return figure


def _accuracy(result: Result) -> "Figure":
    """Published top-1 over measured latency (the paper's figure 1): a panel for each batch size and form.

    Zero-shot accuracies are another measure: in small panels below, on a scale of their own.
    """
    shown = _measured(result)
    ways = list(dict.fromkeys((each.row.batch_size, each.row.form) for each in shown))
    zero_shot = any(result.suite.networks[each.row.network].top1.zero_shot for each in shown)
    figure = _new_figure(result, figsize=(11, 6.2 * len(ways) + 2.4 * zero_shot + 1.4))
    grid = figure.add_gridspec(len(ways) + zero_shot, len(ways), height_ratios=[6.2] * len(ways) + [2.4] * zero_shot)
    looks, panels = looks_of(result.suite), []
    for i, (batch_size, form) in enumerate(ways):
        rows = [each for each in shown if (each.row.batch_size, each.row.form) == (batch_size, form)]
        for place, kinds in ((grid[i, :], ("plain", "distilled")), (grid[-1, i], ("zero_shot",)))[: 1 + zero_shot]:
            axes, points = figure.add_subplot(place), field_points(rows, result.suite, kinds)
            draw_field(axes, points, kinds, looks)
            small = kinds == ("zero_shot",)
            axes.set_title(f"{'zero-shot: ' * small}{form}, batch {batch_size}", fontsize=9 if small else 11)
            panels.append((axes, points))
    field_legend(figure, looks, columns=7)
    figure.draw_without_rendering()  # the layout is made
    figure.set_layout_engine("none")  # and kept: names are placed in pixels
    for axes, points in panels:
        name_points(axes, points)
    return figure


def _sizes(result: Result) -> "Figure":
    """Latency over the image size (the paper's figure 3), with the ratio to the baseline at each point."""
    shown = _measured(result)
    panels = list(dict.fromkeys((each.row.form, each.row.batch_size) for each in shown))
    figure = _new_figure(result, figsize=(7.5 * len(panels), 6))
    for axes, (form, batch_size) in zip(_row(figure, len(panels)), panels, strict=True):
        rows = [each for each in shown if (each.row.form, each.row.batch_size) == (form, batch_size)]
        for name, color in zip(dict.fromkeys(each.row.network for each in rows), COLORS, strict=False):
            _over_sizes(axes, [each for each in rows if each.row.network == name], color, result.suite.baseline)
        axes.set_yscale("log")
        axes.set_title(f"{form}, batch {batch_size}")
        axes.set_xlabel("image size, px")
        axes.set_ylabel("ms")
        axes.legend()
    return figure


def _over_sizes(axes: "Axes", rows: Sequence[Figures], color: str, baseline: str | None) -> None:
    name = rows[0].row.network
    points = [(each.row.image_size, each.latency.median) for each in rows]
    axes.plot(*zip(*points, strict=True), "o-", label=name, color=color)
    for each, at in zip(rows, points, strict=True):
        if each.speed_up and name != baseline:
            text = f"{each.speed_up.value:.2f}x"
            axes.annotate(text, at, fontsize=7, xytext=(3, -9), textcoords="offset points")


def _row(figure: "Figure", count: int) -> Iterable["Axes"]:
    return figure.subplots(1, count, squeeze=False)[0]
