"""What a classifier said about each image, and what it takes for what."""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fastvit.data.images import NO_LABEL
from fastvit.tasks.classification.metrics import ClassificationMetrics
from fastvit.training.task import Part

NAMED_CLASSES = 40  # more names would not be readable beside a confusion matrix


def write_details(metrics: ClassificationMetrics, data: Part, folder: Path) -> list[Path]:
    """Write predictions.csv (every image of the validation data), classes.csv (every class) and confusion.png."""
    class_names = data.class_names
    labels, ranked, confidences = (
        torch.cat(parts).cpu() for parts in (metrics.labels, metrics.ranked, metrics.confidences)
    )
    paths = [folder / name for name in ("predictions.csv", "classes.csv", "confusion.png")]
    _write_predictions(paths[0], labels, ranked, confidences, data)
    counts = labels != NO_LABEL
    confusion = confusion_matrix(labels[counts], ranked[counts, 0], len(class_names))
    _write_classes(paths[1], confusion, class_names)
    _draw_confusion(paths[2], confusion, class_names)
    return paths


def confusion_matrix(labels: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """(classes, classes): how many images of each class (rows) were taken for each class (columns)."""
    return torch.bincount(labels * num_classes + predicted, minlength=num_classes**2).view(num_classes, num_classes)


def _write_predictions(
    path: Path,
    labels: Tensor,
    ranked: Tensor,
    confidences: Tensor,
    data: Part,
) -> None:
    class_names = data.class_names
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ("image", "label", "probability", *(f"predicted_{rank + 1}" for rank in range(ranked.shape[1])))
        )
        rows = zip(labels.tolist(), confidences.tolist(), ranked.tolist(), strict=True)
        for index, (label, confidence, best) in enumerate(rows):
            name = data.name_of(index) if data.name_of else index
            true = "" if label == NO_LABEL else class_names[label]
            writer.writerow((name, true, f"{confidence:.4f}", *(class_names[each] for each in best)))


def _write_classes(path: Path, confusion: Tensor, class_names: Sequence[str]) -> None:
    """Precision, recall and F1 of each class in percent; empty where there is nothing to divide by."""
    hits, images, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("class", "images", "recall", "precision", "f1"))
        for row in zip(class_names, hits.tolist(), images.tolist(), predicted.tolist(), strict=True):
            name, hit, of_class, as_class = row
            figures = ((hit, of_class), (hit, as_class), (2 * hit, of_class + as_class))
            writer.writerow((name, of_class, *(f"{100 * part / all_:.2f}" if all_ else "" for part, all_ in figures)))


def _draw_confusion(path: Path, confusion: Tensor, class_names: Sequence[str]) -> None:
    from matplotlib.figure import Figure

    shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    named = len(class_names) <= NAMED_CLASSES
    side = max(5.0, 0.3 * len(class_names)) if named else 10.0
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if named:
        axes.set_xticks(range(len(class_names)), class_names, rotation=90)
        axes.set_yticks(range(len(class_names)), class_names)
    figure.colorbar(picture, ax=axes, shrink=0.7, label="share of the true class")
    figure.savefig(path, dpi=120)
