"""What a classifier said about each image, and which classes it confuses."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastvit.data.images import NO_LABEL
from fastvit.data.lettering import legible, shortened
from fastvit.errors import require_packages
from fastvit.files import write_table
from fastvit.tasks.classification.metrics import ClassificationMetrics
from fastvit.training.task import Part

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED_CLASSES = 40  # more names would not be readable beside a confusion matrix
COUNTED_CLASSES = 20  # with more, there are no numbers in the cells
LONGEST_NAME = 24  # letters beside it


def write_details(metrics: ClassificationMetrics, data: Part, folder: Path) -> list[Path]:
    """Write predictions.csv (every image of the validation data), classes.csv (every class) and confusion.png."""
    require_packages("the table of classes", "sklearn", extra="train")
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    class_names = data.class_names
    labels, ranked, confidences = (
        torch.cat(parts).cpu() for parts in (metrics.labels, metrics.ranked, metrics.confidences)
    )
    paths = [folder / name for name in ("predictions.csv", "classes.csv", "confusion.png")]
    _write_predictions(paths[0], labels, ranked, confidences, data)
    counts = labels != NO_LABEL
    true, predicted = labels[counts].numpy(), ranked[counts, 0].numpy()
    all_classes = range(len(class_names))
    scores = precision_recall_fscore_support(true, predicted, labels=all_classes, zero_division=math.nan)
    _write_classes(paths[1], scores, class_names)
    confusion = torch.from_numpy(confusion_matrix(true, predicted, labels=all_classes))
    draw_confusion(confusion, class_names).savefig(paths[2], dpi=120)
    return paths


def _write_predictions(
    path: Path,
    labels: Tensor,
    ranked: Tensor,
    confidences: Tensor,
    data: Part,
) -> None:
    names = data.class_names
    columns = ("image", "label", "probability", *(f"predicted_{rank + 1}" for rank in range(ranked.shape[1])))
    said = zip(labels.tolist(), confidences.tolist(), ranked.tolist(), strict=True)
    rows = (
        (
            data.name_of(index) if data.name_of else index,
            "" if label == NO_LABEL else names[label],
            f"{confidence:.4f}",
            *(names[each] for each in best),
        )
        for index, (label, confidence, best) in enumerate(said)
    )
    write_table(path, columns, rows)


def _write_classes(path: Path, scores: Sequence[Sequence[float]], class_names: Sequence[str]) -> None:
    """Scores as scikit-learn gives them, in percent; empty where there is nothing to divide by."""
    rows = (
        (name, images, *("" if math.isnan(each) else f"{100 * each:.2f}" for each in (recall, precision, f1)))
        for name, precision, recall, f1, images in zip(class_names, *scores, strict=True)
    )
    write_table(path, ("class", "images", "recall", "precision", "f1"), rows)


def draw_confusion(confusion: Tensor, class_names: Sequence[str]) -> "Figure":
    """A picture of how many images of each class (rows) were taken for each class (columns).

    Args:
        confusion: (classes, classes), images.
    """
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    count = len(class_names)
    side = max(5.0, 0.3 * count) if count <= NAMED_CLASSES else 10.0
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if count <= NAMED_CLASSES:
        names, font = legible([shortened(name, LONGEST_NAME) for name in class_names])
        letters = FontProperties(fname=font)
        axes.set_xticks(range(count), names, rotation=90, fontproperties=letters, parse_math=False)
        axes.set_yticks(range(count), names, fontproperties=letters, parse_math=False)
    if count <= COUNTED_CLASSES:
        for row, column in confusion.nonzero().tolist():
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, int(confusion[row, column]), ha="center", va="center", fontsize=7, color=color)
    figure.colorbar(picture, ax=axes, shrink=0.7, label="share of the true class")
    return figure
