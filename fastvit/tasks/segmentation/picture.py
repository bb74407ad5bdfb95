"""Pictures of label maps over images."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastvit.tasks.drawing import DARK, Color, distinct_colors
from fastvit.tasks.segmentation.masks import UNLABELLED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OPACITY = 0.6  # of the colors
LEGEND_ENTRIES = 24


def class_colors(num_classes: int) -> list[Color]:
    """A color for each class; the first, which is often the background, is dark."""
    return [DARK, *distinct_colors(num_classes)[1:]]


def overlay(image: Tensor, labels: Tensor, colors: Sequence[Color]) -> Tensor:
    """(H, W, 3): the image under the colors of its labels; where there is no label, the image alone.

    Args:
        image: (3, H, W), colors from 0 to 1.
        labels: (H, W).
    """
    image = image.permute(1, 2, 0)
    labelled = (labels != UNLABELLED)[..., None]
    paint = torch.tensor(colors)[labels.long().clamp(max=len(colors) - 1)] / 255
    return torch.where(labelled, (1 - OPACITY) * image + OPACITY * paint, image)


def overlay_grid(
    images: Sequence[Tensor], predicted: Sequence[Tensor], true: Sequence[Tensor], names: Sequence[str]
) -> "Figure":
    """A row for each image: itself, the true labels, the predicted ones; below, what the colors mean."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colors = class_colors(len(names))
    figure = Figure(figsize=(8, 2.6 * len(images) + 1), layout="constrained")
    grid = figure.subplots(len(images), 3, squeeze=False)
    for axes, title in zip(grid[0], ("image", "true", "predicted"), strict=True):
        axes.set_title(title)
    for row, image, prediction, truth in zip(grid, images, predicted, true, strict=True):
        pictures = (image.permute(1, 2, 0), overlay(image, truth, colors), overlay(image, prediction, colors))
        for axes, picture in zip(row, pictures, strict=True):
            axes.imshow(picture.numpy())
            axes.set_axis_off()
    seen = torch.cat([labels.flatten().long() for labels in (*predicted, *true)])
    frequent = torch.bincount(seen[seen != UNLABELLED], minlength=len(names)).argsort(descending=True)
    shown = sorted(label for label in frequent[:LEGEND_ENTRIES].tolist() if (seen == label).any())
    patches = [Patch(color=[part / 255 for part in colors[label]], label=names[label]) for label in shown]
    legend = figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize=8)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure
