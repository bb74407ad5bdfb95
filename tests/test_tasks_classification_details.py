"""What is written about each image and each class, and the picture of what is taken for what."""

import csv
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from fastvit.data.images import NO_LABEL
from fastvit.tasks.classification.details import draw_confusion, write_details
from fastvit.tasks.classification.metrics import ClassificationMetrics
from fastvit.training.task import Part


def test_the_table_of_classes_by_hand(tmp_path: Path):
    """Of three classes one is never predicted, and a fourth has no images."""
    measured = ClassificationMetrics()
    labels, predicted = torch.tensor([0, 0, 1, 1, 1, NO_LABEL]), torch.tensor([0, 1, 1, 1, 1, 0])
    measured.update(nn.functional.one_hot(predicted, 4).float(), (None, labels))
    names = ("猫" * 40, "dog", "of a name that is far too long for its place", "none")
    files = write_details(measured, Part([], names), tmp_path)
    with files[1].open(encoding="utf-8") as file:
        rows = [row[1:] for row in csv.reader(file)]
    assert rows == [
        ["images", "recall", "precision", "f1"],
        ["2", "50.00", "100.00", "66.67"],
        ["3", "100.00", "75.00", "85.71"],
        ["0", "", "", ""],
        ["0", "", "", ""],
    ]
    with Image.open(files[2]) as picture:
        assert picture.format == "PNG"


def test_a_process_without_images_takes_nothing_away():
    """Of more processes than images: the first ones have none."""
    none, all_of_them = ClassificationMetrics(), ClassificationMetrics()
    all_of_them.update(torch.randn(4, 10), (None, torch.arange(4)))
    expected = all_of_them.report()
    assert "top5" in expected
    none.merge(all_of_them)
    assert none.report() == expected


def test_a_confusion_matrix_shows_counts_and_names_where_they_can_be_read():
    """Of each true class (from top to bottom) how many were taken for which; the nothings are left out."""
    confusion = torch.tensor([[1, 2, 0], [0, 30, 0], [4, 0, 0]])
    names = ("cat", "dog", "a name that is far too long for its place")
    axes, _ = draw_confusion(confusion, names).axes
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (0, 0): "1",
        (1, 0): "2",
        (1, 1): "30",
        (0, 2): "4",
    }
    assert axes.yaxis_inverted()  # row 0 is the top
    assert [axes.get_xlabel(), axes.get_ylabel()] == ["predicted", "true"]
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert shown[:2] == ["cat", "dog"]
    assert len(shown[2]) <= 24
    many, _ = draw_confusion(torch.eye(21).long(), tuple("abcdefghijklmnopqrstu")).axes
    assert (len(many.texts), len(many.get_yticklabels())) == (0, 21)
    more, _ = draw_confusion(torch.eye(41).long(), tuple(map(str, range(41)))).axes
    assert not {"40", "39"} <= {label.get_text() for label in more.get_yticklabels()}
