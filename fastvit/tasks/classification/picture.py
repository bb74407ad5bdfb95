"""Pictures of images with their labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastvit.data.grid import captioned_grid
from fastvit.data.lettering import legible, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST_NAME = 15  # letters that fit above an image


def prediction_grid(images: Tensor, predicted: list[int], true: list[int], class_names: Sequence[str]) -> "Figure":
    """Images with the predicted label above each; in red, above the true one, where they differ.

    Args:
        images: (N, 3, H, W), colors from 0 to 1.
        predicted, true: a class for each image.
    """
    names, font = _short(class_names)
    pairs = list(zip(predicted, true, strict=True))
    captions = [names[label] if label == truth else f"{names[label]}\nis {names[truth]}" for label, truth in pairs]
    colors = ["black" if label == truth else "red" for label, truth in pairs]
    return captioned_grid(images, captions, colors, font=font)


def mistake_grid(
    images: Tensor,
    predicted: list[int],
    confidences: list[float],
    true: list[int],
    class_names: Sequence[str],
    *,
    heated: Tensor | None = None,
) -> "Figure":
    """Images with the wrong label above each, how sure it was, and the true one.

    Args:
        images: (N, 3, H, W), colors from 0 to 1.
        predicted, true: a class for each image.
        confidences: probability of the predicted class.
        heated: the same images under the places that spoke for the predicted class; each is drawn beside its image.
    """
    names, font = _short(class_names)
    captions = [
        f"{names[label]} {confidence:.0%}\nis {names[truth]}"
        for label, confidence, truth in zip(predicted, confidences, true, strict=True)
    ]
    if heated is not None:
        images = torch.stack([images, heated], dim=1).flatten(0, 1)
        captions = [caption for each in captions for caption in (each, "")]
    return captioned_grid(images, captions, font=font)


def label_words(labels: Tensor, class_names: Sequence[str]) -> list[str]:
    """What each image of a training batch is labelled with: a class, or its largest shares in a mixture.

    Args:
        labels: (N,) classes, or (N, classes) shares that sum to 1.
    """
    names, _ = _short(class_names)
    if labels.ndim == 1:
        return [names[label] for label in labels.tolist()]
    shares, classes = labels.float().topk(min(2, labels.shape[1]))
    return [
        "\n".join(f"{names[label]} {share:.0%}" for share, label in zip(*pair, strict=True) if share >= 0.05)
        for pair in zip(shares.tolist(), classes.tolist(), strict=True)
    ]


def _short(class_names: Sequence[str]) -> tuple[list[str], Path | None]:
    return legible([shortened(name, LONGEST_NAME) for name in class_names])
