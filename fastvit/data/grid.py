"""Images in rows, each with a few words above it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 12  # inches of the picture, if it is full
COLUMNS, OF_LARGE_IMAGES = 10, 4
WORDS = 0.35  # inches above an image: two lines
LARGE = 400  # pixels on a side; larger pictures are drawn larger, so that small things can be seen


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
    wide = WIDTH / full
    tall = wide * images.shape[2] / images.shape[3] + WORDS
    figure = Figure(figsize=(wide * columns, tall * rows))
    captions, colors = captions or [""] * len(images), colors or ["black"] * len(images)
    pictures = images.permute(0, 2, 3, 1).cpu().numpy()
    for place, (image, caption, color) in enumerate(zip(pictures, captions, colors, strict=True)):
        row, column = divmod(place, columns)
        # Their places are known: matplotlib's own layout would take longer than all else.
        axes = figure.add_axes(
            (column / columns, 1 - (row + 1) / rows, 0.97 / columns, (1 - WORDS / tall) / rows),
            xticks=(),
            yticks=(),
            frame_on=False,
        )
        axes.imshow(image)
        axes.set_title(caption, fontproperties=letters, color=color, pad=2, parse_math=False)
    return figure
