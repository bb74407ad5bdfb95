"""Images in rows, each with a few words above it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 12  # inches of the picture, if it is full
COLUMNS, OF_LARGE_IMAGES = 10, 4
LARGE = 400  # pixels on a side; of large images small things have to be seen


def captioned_grid(
    images: Tensor, captions: Sequence[str], colors: Sequence[str] | None = None, *, font: Path | None = None
) -> "Figure":
    """A picture of images.

    Args:
        images: (N, 3, H, W), colors from 0 to 1.
        captions: for each image; none at all where there is nothing to say.
        colors: of the captions; black by default.
        font: as `fastvit.data.lettering.legible` finds it.
    """
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    letters = FontProperties(fname=font, size=8)
    full = COLUMNS if max(images.shape[2:]) < LARGE else OF_LARGE_IMAGES
    columns = min(len(images), full)
    rows = -(-len(images) // columns)
    side = WIDTH / full
    tall = side * images.shape[2] / images.shape[3]
    figure = Figure(figsize=(side * columns, (tall + 0.3) * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid:
        axes.set_axis_off()
    for axes, image in zip(grid, images.permute(0, 2, 3, 1).cpu().numpy(), strict=False):
        axes.imshow(image)
    for axes, caption, color in zip(grid, captions, colors or ["black"] * len(captions), strict=False):
        axes.set_title(caption, fontproperties=letters, color=color)
    return figure
