"""A picture of predicted labels."""

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 10


def prediction_grid(images: Tensor, predicted: list[str], true: list[str]) -> "Figure":
    """Images with the predicted label above each; in red, followed by the true one, where they differ.

    Args:
        images: (N, 3, H, W), colors from 0 to 1.
        predicted, true: a label for each image.
    """
    from matplotlib.figure import Figure

    columns = min(len(images), COLUMNS)
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.2 * columns, 1.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid:
        axes.set_axis_off()
    for axes, image, label, truth in zip(grid, images.permute(0, 2, 3, 1).numpy(), predicted, true, strict=False):
        axes.imshow(image)
        if label == truth:
            axes.set_title(label, fontsize=9)
        else:
            axes.set_title(f"{label}, is {truth}", fontsize=9, color="red")
    return figure
