"""A picture of predicted labels."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from fastvit.data.lettering import legible, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 10
LONGEST_NAME = 15  # letters that fit above an image


def prediction_grid(images: Tensor, predicted: list[int], true: list[int], class_names: Sequence[str]) -> "Figure":
    """Images with the predicted label above each; in red, above the true one, where they differ.

    Args:
        images: (N, 3, H, W), colors from 0 to 1.
        predicted, true: a class for each image.
    """
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    names, font = legible([shortened(name, LONGEST_NAME) for name in class_names])
    letters = FontProperties(fname=font, size=8)
    columns = min(len(images), COLUMNS)
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.2 * columns, 1.5 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid:
        axes.set_axis_off()
    for axes, image, label, truth in zip(grid, images.permute(0, 2, 3, 1).numpy(), predicted, true, strict=False):
        axes.imshow(image)
        if label == truth:
            axes.set_title(names[label], fontproperties=letters)
        else:
            axes.set_title(f"{names[label]}\nis {names[truth]}", fontproperties=letters, color="red")
    return figure
