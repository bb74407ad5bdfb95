"""The drawings of the documentation, into docs/pictures.

python docs/drawings.py                              # all that need no trained network
python docs/drawings.py runs/detection_digits        # and what a detector of the demo sees
"""

import sys
from collections import Counter
from itertools import takewhile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import timm
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastvit

DOCS = Path(__file__).parent
INK, PALE = "#24292f", "#f0f2f5"
CONV, NORM, SCALE, OTHER = "#9dbfe0", "#e6d98a", "#f2a6b0", "#d0d7de"  # dark text is readable on each
FORMS = {  # columns of the benchmarks' table, as the picture calls them, and their colors
    "timm": ("timm, fused by timm", "#c3c9d1"),
    "fused": ("fastvit, fused", "#9dbfe0"),
    "fastest": ("fastvit, fastest engine", "#4477aa"),
    "fastest bf16": ("fastvit, fastest engine, bf16", "#1f4168"),
}
STYLE = {"svg.fonttype": "path", "svg.hashsalt": "fastvit", "font.size": 9, "font.family": "DejaVu Sans"}


def box(axes: Axes, x: float, y: float, text: str, color: str) -> None:
    """A rounded box around (x, y) with a text."""
    axes.add_patch(
        FancyBboxPatch((x - 0.8, y - 0.22), 1.6, 0.44, boxstyle="round,pad=0,rounding_size=0.08", fc=color, ec="none")
    )
    axes.text(x, y, text, ha="center", va="center", color=INK)


def panel(axes: Axes, left: float, right: float, bottom: float, top: float, text: str) -> None:
    """A pale ground under what belongs together, with its name."""
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom), right - left, top - bottom, boxstyle="round,pad=0,rounding_size=0.12", fc=PALE, ec="none"
        )
    )
    axes.text(left + 0.12, bottom + 0.12, text, va="bottom", color="#57606a", style="italic")


def arrow(axes: Axes, *points: tuple[float, float]) -> None:
    """A line through the points, with a head at its end."""
    axes.plot(*zip(*points, strict=True), color=INK, linewidth=1, solid_capstyle="butt", zorder=2)
    axes.add_patch(
        FancyArrowPatch(*points[-2:], arrowstyle="-|>", mutation_scale=8, color=INK, shrinkA=0, shrinkB=0, zorder=2)
    )


def joint(axes: Axes, x: float, y: float, sign: str) -> None:
    """A small circle with a sign, where branches meet."""
    axes.add_patch(plt.Circle((x, y), 0.15, facecolor="white", edgecolor=INK, zorder=3))
    axes.text(x, y - 0.01, sign, ha="center", va="center", zorder=4, color=INK)


def rep_mixer() -> Figure:
    """RepMixer in training and fused, side by side."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    left, trunk, right, norm, skip = 1.0, 3.0, 5.0, 7.2, 8.7
    bus, plus, minus, scaled, end = 6.5, 4.3, 3.4, 2.6, 1.7
    panel(axes, 0.05, 5.95, 3.85, 6.3, "mixer: a RepConv")
    panel(axes, 6.3, 8.1, 3.85, 6.3, "norm")
    axes.plot((left, skip), (bus, bus), color=INK, linewidth=1)
    arrow(axes, (trunk, 7.0), (trunk, 6.07))
    for x in (left, right, norm):
        arrow(axes, (x, bus), (x, 6.07))
    for x, kernel in ((left, "3x3"), (trunk, "1x1")):
        box(axes, x, 5.85, f"depthwise {kernel}", CONV)
        arrow(axes, (x, 5.63), (x, 5.32))
        box(axes, x, 5.1, "batch norm", NORM)
    box(axes, right, 5.85, "batch norm", NORM)
    box(axes, norm, 5.85, "batch norm", NORM)
    arrow(axes, (left, 4.88), (left, plus), (trunk - 0.15, plus))
    arrow(axes, (trunk, 4.88), (trunk, plus + 0.15))
    arrow(axes, (right, 5.63), (right, plus), (trunk + 0.15, plus))
    joint(axes, trunk, plus, "+")
    arrow(axes, (trunk, plus - 0.15), (trunk, minus + 0.15))
    arrow(axes, (norm, 5.63), (norm, minus), (trunk + 0.15, minus))
    joint(axes, trunk, minus, "−")
    arrow(axes, (trunk, minus - 0.15), (trunk, scaled + 0.22))
    box(axes, trunk, scaled, "layer scale γ", SCALE)
    arrow(axes, (trunk, scaled - 0.22), (trunk, end + 0.15))
    arrow(axes, (skip, bus), (skip, end), (trunk + 0.15, end))
    joint(axes, trunk, end, "+")
    arrow(axes, (trunk, end - 0.15), (trunk, 1.1))
    single = 11.3
    arrow(axes, (single, 7.0), (single, 4.32))
    box(axes, single, 4.1, "depthwise 3x3", CONV)
    arrow(axes, (single, 3.88), (single, 1.1))
    for x, title, formula in (
        (trunk, "in training", "x + γ · (mixer(x) − norm(x))"),
        (single, "fused", "conv(x)"),
    ):
        axes.text(x, 7.55, title, ha="center", weight="bold", color=INK, fontsize=11)
        axes.text(x, 7.08, "x", ha="center", va="bottom", color=INK, style="italic")
        axes.text(x, 0.95, formula, ha="center", va="top", color=INK, family="DejaVu Sans Mono")
    axes.set_xlim(0, 12.5)
    axes.set_ylim(0.5, 7.9)
    axes.set_aspect("equal")
    axes.axis("off")
    return figure


def kernels() -> Figure:
    """The branches of one channel as kernels of one size, and their sum, computed by the package itself."""
    torch.manual_seed(7)
    block = fastvit.RepConv(1, 1, groups=1).eval()
    for norm in (module for module in block.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
        nn.init.uniform_(norm.weight, 0.5, 1.0)
    fused = block.fuse().weight.detach().numpy()[0, 0]
    parts = [*branch_kernels(block), fused]
    np.testing.assert_allclose(sum(parts[:-1]), fused, atol=1e-6)
    titles = ("3x3 conv, batch norm", "1x1 conv, batch norm", "batch norm (skip)", "one 3x3 convolution")
    figure, plots = plt.subplots(1, 4, figsize=(8, 2.1), layout="constrained")
    limit = 2 * max(np.abs(part).max() for part in parts)  # pale enough for dark numbers
    for axes, part, title, sign in zip(plots, parts, titles, ("", "+", "+", "="), strict=True):
        axes.imshow(part, cmap="PuOr", vmin=-limit, vmax=limit)
        for (row, column), value in np.ndenumerate(part):
            text = f"{value:.2f}".replace("-", "−") if value else "0"
            axes.text(column, row, text, ha="center", va="center", color=INK if value else "#8c959f")
        axes.set_title(title, fontsize=9, color=INK)
        axes.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
        axes.spines[:].set_color(OTHER)
        axes.text(-0.14, 0.5, sign, transform=axes.transAxes, fontsize=14, va="center", ha="center", color=INK)
    return figure


def branch_kernels(block: fastvit.RepConv) -> list[np.ndarray]:
    """(3, 3) of each branch of a RepConv with one channel, by what each does to a single bright pixel."""
    impulse = torch.zeros(1, 1, 5, 5)
    impulse[..., 2, 2] = 1
    with torch.no_grad():
        answers = [
            branch(impulse) - branch(torch.zeros_like(impulse))  # without the bias
            for branch in (*block.conv_kxk, block.conv_scale, block.identity)
        ]
    return [answer[0, 0, 1:4, 1:4].flip(0, 1).numpy() for answer in answers]  # a convolution mirrors


KIND_OF = {
    **dict.fromkeys(("conv2d", "linear", "scaled_dot_product_attention"), "convolutions"),
    **dict.fromkeys(("add", "sub", "mul"), "sums, scales"),
    "batch_norm": "batch norms",
    "gelu": "GELU",
}


class Operations(TorchDispatchMode):
    """Count what torch is asked to compute, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if kind := KIND_OF.get(operation.name().removeprefix("aten::").partition(".")[0]):
            self.counts[kind] += 1
        return operation(*args, **(kwargs or {}))


def count_operations(name: str) -> dict[str, Counter[str]]:
    """What one image takes in each form of a network, by kind."""
    with torch.device("meta"), torch.inference_mode():
        trained = timm.create_model(name).eval()
        forms = {
            "in training": trained,
            "fused as published": timm.create_model(name, inference_mode=True).eval(),
            "fused completely": fastvit.reparameterize_model(trained),
        }
        image = torch.empty(1, 3, 256, 256)
        return {form: counted(network, image) for form, network in forms.items()}


def counted(network: nn.Module, image: Tensor) -> Counter[str]:
    with Operations() as operations:
        network(image)
    return operations.counts


def operations() -> Figure:
    """How many operations an image takes in FastViT-T8, before and after."""
    counts = count_operations("fastvit_t8")
    colors = {"convolutions": CONV, "batch norms": NORM, "sums, scales": SCALE, "GELU": OTHER}
    figure, axes = plt.subplots(figsize=(8, 1.9), layout="constrained")
    for row, of_form in enumerate(counts.values()):
        start = 0
        for kind, color in colors.items():
            number = of_form[kind]
            axes.barh(row, number, left=start, color=color, height=0.62, label=kind if row == 0 else None)
            if number:
                axes.text(start + number / 2, row, str(number), ha="center", va="center", color=INK)
            start += number
        axes.text(start + 3, row, str(start), va="center", weight="bold", color=INK)
    axes.set_yticks(range(len(counts)), list(counts))
    axes.tick_params(left=False, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.invert_yaxis()
    axes.set_xlim(0, 255)
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    return figure


def speed() -> Figure:
    """Milliseconds of each network in four forms: the first table of its section of the benchmarks."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in first_table("## From timm's network")]
    header, networks = rows[0], [row for row in rows[2:] if not row[0].startswith("times")]
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for i, (form, (label, color)) in enumerate(FORMS.items()):
        times = [float(row[header.index(form)]) for row in networks]
        axes.bar(np.arange(len(networks)) + 0.2 * (i - 1.5), times, 0.2, color=color, label=label)
    axes.set_xticks(range(len(networks)), [row[0] for row in networks])
    axes.set_ylabel("ms for one image, 2 CPU cores")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(bottom=False)
    axes.legend(frameon=False)
    return figure


def first_table(heading: str) -> list[str]:
    """The lines of the first table under a heading of the benchmarks."""
    lines = (DOCS / "benchmarks.md").read_text().partition(heading)[2].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    return list(takewhile(lambda line: line.startswith("|"), lines[start:]))


def predictions(run: str) -> Figure:
    """What a trained detector sees in held-out scenes."""
    from fastvit.data.digit_scenes import DigitScenes
    from fastvit.predictor import Shown

    detector = fastvit.load_trained(run)
    scenes = DigitScenes(train=False, count=200, size=64)
    figure, plots = plt.subplots(2, 3, figsize=(6, 4), layout="constrained")
    for axes, index in zip(plots.flat, range(6), strict=True):
        image = scenes[index].image
        axes.imshow(detector(image).draw(image, Shown(score=0.7)))
        axes.axis("off")
    return figure


def main() -> None:
    with plt.rc_context(STYLE):
        for draw in (rep_mixer, kernels, operations, speed):
            metadata = {"Date": None, "Creator": None}
            figure = draw()
            figure.savefig(DOCS / "pictures" / f"{draw.__name__}.svg", metadata=metadata)
        for run in sys.argv[1:]:
            predictions(run).savefig(DOCS / "pictures" / "predictions.png", dpi=150)


if __name__ == "__main__":
    main()
