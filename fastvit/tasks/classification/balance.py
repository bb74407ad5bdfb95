"""Classes of which there are many images, and classes of which there are few."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastvit.errors import RecipeError

LARGE_SKEW = 10  # times as many images


def class_counts(source: Any, num_classes: int) -> Tensor | None:
    """(classes,): how many images have each label; None where the source does not know without reading them."""
    targets = getattr(source, "targets", None)
    if targets is None:
        return None
    targets = torch.as_tensor(targets)
    return targets.sum(0).long() if targets.ndim == 2 else targets.bincount(minlength=num_classes)


def require_counts(counts: Tensor | None, dataset: str) -> None:
    """Raise RecipeError if the counts are not known, or a class has no images: there are no weights then."""
    if counts is None:
        raise RecipeError(f"loss.class_weights: dataset {dataset} does not say its labels beforehand: set it to null")
    if not counts.all():
        raise RecipeError(f"loss.class_weights: {int((counts == 0).sum())} classes have no image to train on")


def balanced(counts: Tensor) -> Tensor:
    """(classes,) weights that make each class count equally, and are 1 on average over the images."""
    return counts.sum() / (len(counts) * counts.float())


def skew_notice(counts: Tensor | None, names: Sequence[str]) -> list[str]:
    """A sentence if some class has far more images than another."""
    if counts is None or counts.max() <= LARGE_SKEW * counts.min():
        return []
    most, least = int(counts.argmax()), int(counts.argmin())
    return [
        f"the classes are skewed: {int(counts[most])} images to train on have {names[most]}, {int(counts[least])} have "
        f"{names[least]}; loss.class_weights=balanced makes each class count equally"
    ]
