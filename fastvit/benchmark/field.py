"""A panel of accuracy over latency that can be read: the front named, families told apart without color, no clutter."""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from fastvit.benchmark.labels import Box, Name, place
from fastvit.benchmark.statistics import Figures
from fastvit.benchmark.suite import Suite

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

OURS = "FastViT"
OUR_COLOR = "#D55E00"
# The rest of Wong's palette that is seen on white, and markers, so that a family is told by either.
GREY = "#999999"
LOOKS = tuple(product("os^DvPX", ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#666666")))


class Point(NamedTuple):
    ms: float
    top1: float
    name: str
    family: str
    kind: str  # plain, distilled or zero_shot
    front: bool  # nothing is both faster and better: of the plain ones, or of all

    @property
    def important(self) -> bool:
        return self.front or self.family == OURS

    @property
    def size(self) -> float:
        """Of its mark."""
        return 12 if self.family == OURS else 7 if self.front else 4


Looks = dict[str, tuple[str, str]]  # marker and color of each family


def pareto(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of points (cost, value), those that none beats in both: by rising cost, and so by rising value."""
    front: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or value > front[-1][1]:
            front.append((cost, value))
    return front


def draw_field(axes: "Axes", points: Sequence[Point], kinds: Sequence[str], looks: Looks) -> None:
    """Points and fronts: of the first kind, and of all together, such as plain ones with distilled ones."""
    fronts = {"-": [p for p in points if p.kind == kinds[0]], "--": points if len(kinds) > 1 else []}
    for style, of in fronts.items():
        front = pareto((p.ms, p.top1) for p in of)
        axes.step(
            [ms for ms, _ in front], [top1 for _, top1 in front], style, where="post", lw=0.9, color=GREY, zorder=1
        )
    for pair in _by_name(points).values():
        axes.plot([p.ms for p in pair], [p.top1 for p in pair], lw=0.7, color=looks[pair[0].family][1], zorder=2)
    for point in points:
        marker, color = looks[point.family]
        face = "white" if point.kind == "distilled" else color
        alpha = 1 if point.important else 0.75
        axes.plot(point.ms, point.top1, marker, ms=point.size, mfc=face, mec=color, mew=1.1, alpha=alpha, zorder=3)
    _scale(axes)


def field_points(shown: Sequence[Figures], suite: Suite, kinds: Sequence[str]) -> list[Point]:
    """A point for each published accuracy of these kinds."""
    found = []
    for row, latency, _ in shown:
        network = suite.networks[row.network]
        for kind in kinds:
            if top1 := getattr(network.top1, kind):
                found.append((latency.median, top1, row.network, network.family, kind))
    fronts = [pareto((ms, top1) for ms, top1, *_, kind in found if kind in of) for of in (kinds[:1], kinds)]
    return [Point(*each, front=any(each[:2] in front for front in fronts)) for each in found]


def looks_of(suite: Suite) -> Looks:
    """Marker and color of each family."""
    families = dict.fromkeys(network.family for network in suite.networks.values() if network.family != OURS)
    return {OURS: ("*", OUR_COLOR)} | dict(zip(families, LOOKS, strict=False))


def field_legend(figure: "Figure", looks: Looks, columns: int) -> None:
    """The families, and what distinguishes the marks."""
    from matplotlib.lines import Line2D

    def mark(label: str, marker: str, color: str, face: str, size: float = 6) -> Line2D:
        return Line2D([], [], ls="", marker=marker, ms=size, mfc=face, mec=color, label=label)

    handles = [mark(name, *look, look[1], 9 if name == OURS else 6) for name, look in looks.items() if name]
    grey = "#444444"
    handles += [
        mark("trained on ImageNet-1k alone", "o", grey, grey),
        mark("distilled from a teacher", "o", grey, "white"),
        Line2D([], [], color=GREY, lw=0.9, label="front without teachers"),
        Line2D([], [], color=GREY, lw=0.9, ls="--", label="front of all"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def name_points(axes: "Axes", points: Sequence[Point]) -> None:
    """Write names where they cover nothing, the important ones first, with a hair to a point that is not near.

    The layout must be final: positions are computed in pixels.
    """
    scale = axes.get_figure().dpi / 72
    marks = []
    for point in points:
        x, y = axes.transData.transform((point.ms, point.top1))
        half = point.size * scale / 2
        marks.append(Box(x - half, y - half, x + half, y + half))
    named = [max(of_name, key=lambda p: p.front) for of_name in _by_name(points).values()]
    named.sort(key=lambda p: (not p.front, p.family != OURS, -p.top1))
    texts = [_text(axes, point) for point in named]
    names = [_name(axes, point, text, scale) for point, text in zip(named, texts, strict=True)]
    bounds = Box(*axes.get_window_extent().extents)
    for point, text, name, box in zip(named, texts, names, place(names, marks, bounds), strict=True):
        if box is None:
            text.remove()
            continue
        text.set_position(axes.transData.inverted().transform((box.left + scale, box.bottom)))
        _hair(axes, point, name, box, scale)


def _text(axes: "Axes", point: Point) -> "Text":
    from matplotlib.patheffects import withStroke

    color = OUR_COLOR if point.family == OURS else "#111111" if point.front else "#666666"
    weight = "bold" if point.family == OURS else "normal"
    size = 8 if point.important else 6
    text = axes.text(0, 0, point.name, fontsize=size, color=color, weight=weight, va="bottom", zorder=4)
    text.set_path_effects([withStroke(linewidth=2, foreground="white")])  # lines pass behind
    return text


def _name(axes: "Axes", point: Point, text: "Text", scale: float) -> Name:
    extent = text.get_window_extent()
    x, y = axes.transData.transform((point.ms, point.top1))
    reach = (point.size / 2 + (90 if point.important else 22)) * scale
    return Name(x, y, extent.width + 2 * scale, extent.height, reach)


def _by_name(points: Sequence[Point]) -> dict[str, list[Point]]:
    named: dict[str, list[Point]] = {}
    for point in points:
        named.setdefault(point.name, []).append(point)
    return named


def _hair(axes: "Axes", point: Point, name: Name, box: Box, scale: float) -> None:
    nearest = (min(max(name.x, box.left), box.right), min(max(name.y, box.bottom), box.top))
    if abs(nearest[0] - name.x) + abs(nearest[1] - name.y) > 9 * scale:
        x, y = axes.transData.inverted().transform(nearest)
        axes.plot([point.ms, x], [point.top1, y], lw=0.5, color=GREY, zorder=2)


def _scale(axes: "Axes") -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(which="major", lw=0.4, color="#DDDDDD", zorder=0)
    axes.margins(0.06, 0.07)
    axes.set_xlabel("ms, here")
    axes.set_ylabel("ImageNet top-1, %, published")
    axes.spines[["top", "right"]].set_visible(False)
