"""What was said about each image, and how well each label is found."""

import math
from pathlib import Path

import torch

from fastvit.data.images import NO_LABEL
from fastvit.data.listing import SEPARATOR
from fastvit.files import write_table
from fastvit.tasks.multi_label.metrics import MultiLabelMetrics, average_precisions, count
from fastvit.training.task import Part


def write_details(metrics: MultiLabelMetrics, data: Part, folder: Path) -> list[Path]:
    """Write predictions.csv (every image, with the probability of every label) and classes.csv (every label)."""
    paths = [folder / "predictions.csv", folder / "classes.csv"]
    _write_predictions(paths[0], metrics, data)
    _write_classes(paths[1], metrics, data.class_names)
    return paths


def _write_predictions(path: Path, metrics: MultiLabelMetrics, data: Part) -> None:
    names, logits, labels = data.class_names, torch.cat(metrics.logits).cpu(), torch.cat(metrics.labels).cpu()
    rows = (
        (
            data.name_of(index) if data.name_of else index,
            "" if NO_LABEL in true else joined(true, names),
            joined(said >= 0, names),
            *(f"{probability:.4f}" for probability in said.sigmoid().tolist()),
        )
        for index, (said, true) in enumerate(zip(logits, labels, strict=True))
    )
    write_table(path, ("image", "labels", "predicted", *names), rows)


def joined(which: torch.Tensor, names: tuple[str, ...]) -> str:
    """The labels that are there, as a table has them."""
    return SEPARATOR.join(names[index] for index in which.nonzero().flatten().tolist())


def _write_classes(path: Path, metrics: MultiLabelMetrics, names: tuple[str, ...]) -> None:
    """In percent; empty where there is nothing to divide by."""
    logits, labels = metrics.readable()
    counts = count(logits, labels)
    hits = counts.hits.double()
    scores = (each.tolist() for each in (hits / counts.true, hits / counts.said, counts.f1()))
    columns = (names, counts.true.tolist(), average_precisions(logits, labels), *scores)
    rows = (
        (name, images, *("" if math.isnan(each) else f"{100 * each:.2f}" for each in figures))
        for name, images, *figures in zip(*columns, strict=True)
    )
    write_table(path, ("class", "images", "average_precision", "recall", "precision", "f1"), rows)
