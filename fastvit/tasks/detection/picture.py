"""Pictures of boxes and masks over images."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchvision.utils import draw_segmentation_masks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def detection_grid(
    images: Sequence[Tensor],
    predicted: Sequence[dict[str, Tensor]],
    true: Sequence[dict[str, Tensor]],
    names: Sequence[str],
) -> "Figure":
    """For each image two pictures, the true and the predicted objects.

    Args:
        images: (3, H, W) each, colors from 0 to 1.
        predicted, true: boxes (N, 4) as corners and labels (N,) from 1 on of each image; scores (N,) and masks
            (N, H, W), where there are any.
        names: of the labels from 1 on.
    """
    from matplotlib.figure import Figure

    columns = 2
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(6.4 * columns, 3.2 * rows), layout="constrained")
    grid = figure.subplots(rows, 2 * columns, squeeze=False).flatten()
    for axes in grid:
        axes.set_axis_off()
    for i, (image, prediction, truth) in enumerate(zip(images, predicted, true, strict=True)):
        for axes, objects, title in zip(
            grid[2 * i : 2 * i + 2], (truth, prediction), ("true", "predicted"), strict=True
        ):
            _draw(axes, image, objects, names)
            axes.set_title(title, fontsize=8)
    return figure


def _draw(axes: "Axes", image: Tensor, objects: dict[str, Tensor], names: Sequence[str]) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    palette = [colormaps["tab10"](i)[:3] for i in range(10)]
    colors = [palette[i % len(palette)] for i in range(len(objects["boxes"]))]
    picture = (255 * image).byte()
    if "masks" in objects and len(colors):
        bytes_of_color = [tuple(round(255 * part) for part in color) for color in colors]
        picture = draw_segmentation_masks(picture, objects["masks"].bool(), alpha=0.5, colors=bytes_of_color)
    axes.imshow(picture.permute(1, 2, 0).numpy())
    scores = objects.get("scores", torch.ones(len(colors)))
    for color, box, label, score in zip(colors, objects["boxes"], objects["labels"], scores, strict=True):
        left, top, right, bottom = box.tolist()
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=color, linewidth=1.5))
        text = names[int(label) - 1] + (f" {score:.2f}" if "scores" in objects else "")
        axes.text(left, top, text, fontsize=7, color="white", backgroundcolor=color, va="bottom", parse_math=False)
