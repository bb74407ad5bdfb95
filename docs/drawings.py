"""The drawings of the page "How it works", as SVG: `python docs/drawings.py`."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

import fastvit

FOLDER = Path(__file__).parent / "pictures"
INK, CONV, NORM, OTHER, GONE = "#24292f", "#4477aa", "#ccbb44", "#ee6677", "#d0d7de"  # Tol's bright, color-blind safe
STYLE = {"svg.fonttype": "path", "svg.hashsalt": "fastvit", "font.size": 9, "font.family": "DejaVu Sans"}


def box(axes: Axes, x: float, y: float, text: str, color: str, width: float = 1.5) -> None:
    """A rounded box around (x, y) with a text."""
    patch = FancyBboxPatch(
        (x - width / 2, y - 0.2), width, 0.4, boxstyle="round,pad=0.02", facecolor=color, edgecolor="none", alpha=0.9
    )
    axes.add_patch(patch)
    axes.text(x, y, text, ha="center", va="center", color="white" if color in (CONV, OTHER) else INK)


def arrow(axes: Axes, *points: tuple[float, float]) -> None:
    """A line through the points, with a head at its end."""
    axes.plot(*zip(*points[:-1], strict=True), color=INK, linewidth=1)
    axes.add_patch(FancyArrowPatch(*points[-2:], arrowstyle="-|>", mutation_scale=8, color=INK, shrinkA=0, shrinkB=0))


def joint(axes: Axes, x: float, y: float, sign: str) -> None:
    """A small circle with a sign, where branches meet."""
    axes.add_patch(plt.Circle((x, y), 0.13, facecolor="white", edgecolor=INK, zorder=3))
    axes.text(x, y, sign, ha="center", va="center", zorder=4, color=INK)


def rep_mixer() -> Figure:
    """RepMixer in training and fused, side by side."""
    figure, (train, fused) = plt.subplots(1, 2, figsize=(8, 4.6), width_ratios=(3, 1), layout="constrained")
    columns = (-2.4, -0.7, 1.0, 2.7)
    for x, parts in zip(
        columns,
        (
            (("depthwise 3x3", CONV), ("batch norm", NORM)),
            (("depthwise 1x1", CONV), ("batch norm", NORM)),
            (("batch norm", NORM),),
            (("batch norm", NORM),),
        ),
        strict=True,
    ):
        top = 4.0
        arrow(train, (0.15, 4.7), (x, 4.7), (x, 4.25))
        for text, color in parts:
            box(train, x, top, text, color)
            top -= 0.65
        arrow(train, (x, top + 0.43), (x, 2.4), (0.15 + 0.14 * np.sign(x - 0.15), 2.4) if x != 0.15 else (0.15, 2.4))
    joint(train, 0.15, 2.4, "+")
    train.text(2.1, 2.5, "−", fontsize=12, color=INK)
    arrow(train, (0.15, 5.2), (0.15, 4.7))
    arrow(train, (0.15, 2.26), (0.15, 1.85))
    box(train, 0.15, 1.62, "layer scale γ", OTHER)
    arrow(train, (0.15, 1.4), (0.15, 1.05))
    joint(train, 0.15, 0.9, "+")
    arrow(train, (0.15, 4.95), (4.0, 4.95), (4.0, 0.9), (0.3, 0.9))
    arrow(train, (0.15, 0.76), (0.15, 0.3))
    train.text(0.15, 5.3, "x", ha="center", va="bottom", color=INK)
    train.text(-2.4, 5.3, "in training", weight="bold", va="bottom", color=INK)
    train.text(-3.1, 1.3, "x + γ · (mixer(x) − norm(x))", family="DejaVu Sans Mono", color=INK)
    arrow(fused, (0, 5.2), (0, 2.9))
    box(fused, 0, 2.65, "depthwise 3x3", CONV)
    arrow(fused, (0, 2.4), (0, 0.3))
    fused.text(0, 5.3, "x", ha="center", va="bottom", color=INK)
    fused.text(-0.9, 5.3, "fused", weight="bold", va="bottom", color=INK)
    for axes, reach in ((train, (-3.3, 4.3)), (fused, (-1.2, 1.2))):
        axes.set_xlim(*reach)
        axes.set_ylim(0.1, 5.7)
        axes.axis("off")
    return figure


def kernels() -> Figure:
    """The branches of one channel as kernels of one size, and their sum, computed by the package itself."""
    torch.manual_seed(0)
    block = fastvit.RepConv(1, 1, groups=1).eval()
    for norm in (module for module in block.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        torch.nn.init.normal_(norm.running_mean)
        torch.nn.init.uniform_(norm.running_var, 0.3, 1.5)
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    branches = branch_kernels(block)
    parts = [*branches, sum(branches)]
    titles = ("3x3 conv-BN", "1x1 conv-BN", "skip with BN", "one 3x3 convolution")
    figure, plots = plt.subplots(1, 4, figsize=(8, 2.2), layout="constrained")
    limit = max(np.abs(part).max() for part in parts)
    for axes, part, title, sign in zip(plots, parts, titles, ("", "+", "+", "="), strict=True):
        axes.imshow(part, cmap="PuOr", vmin=-limit, vmax=limit)
        for (i, j), value in np.ndenumerate(part):
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color=INK)
        axes.set_title(title, fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(-0.16, 0.5, sign, transform=axes.transAxes, fontsize=14, va="center", ha="center")
    return figure


def branch_kernels(block: fastvit.RepConv) -> list[np.ndarray]:
    """(3, 3) of each branch of a RepConv with one channel, by what each does to a single bright pixel."""
    impulse = torch.zeros(1, 1, 5, 5)
    impulse[..., 2, 2] = 1
    dark = torch.zeros(1, 1, 5, 5)
    with torch.no_grad():
        answers = [branch(impulse) - branch(dark) for branch in block.branches]
    return [answer[0, 0, 1:4, 1:4].flip(0, 1).numpy() for answer in answers]  # a convolution mirrors


def main() -> None:
    with plt.rc_context(STYLE):
        for draw in (rep_mixer, kernels):
            draw().savefig(FOLDER / f"{draw.__name__}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
