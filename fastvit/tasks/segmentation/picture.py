"""Pictures of label maps over images."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastvit.tasks.segmentation.masks import UNLABELLED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OPACITY = 0.6  # of the colors
LEGEND_ENTRIES = 24


def class_colors(num_classes: int) -> Tensor:
    """(classes, 3) from 0 to 1, far apart in hue for classes that are near in number; the first is dark."""
    from matplotlib.colors import hsv_to_rgb

    index = torch.arange(num_classes, dtype=torch.float64)
    hue = (index * 0.618034) % 1  # the golden ratio spreads any number of them
    brightness = torch.where(index % 2 == 0, 1.0, 0.75)
    colors = torch.from_numpy(hsv_to_rgb(torch.stack([hue, torch.full_like(hue, 0.85), brightness], 1).numpy()))
    colors[0] = 0.15
    return colors.float()


def overlay(image: Tensor, labels: Tensor, colors: Tensor) -> Tensor:
    """(H, W, 3): the image under the colors of its labels; where there is no label, the image alone.

    Args:
        image: (3, H, W), colors from 0 to 1.
        labels: (H, W).
    """
    image = image.permute(1, 2, 0)
    labelled = (labels != UNLABELLED)[..., None]
    paint = colors[labels.long().clamp(max=len(colors) - 1)]
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
    patches = [Patch(color=colors[label].numpy(), label=names[label]) for label in shown]
    figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize=8)
    return figure
