"""The picture of the surest mistakes, and the words about a training batch."""

import torch
from torch.utils.data import IterableDataset

from fastvit.data.images import NO_LABEL
from fastvit.data.normalization import Normalization
from fastvit.tasks.classification.metrics import ClassificationMetrics
from fastvit.tasks.classification.mistakes import Mistake, draw_mistakes, surest_mistakes
from fastvit.tasks.classification.picture import label_words
from fastvit.training.task import Part

NAMES = ("cat", "dog", "cow")
AS_THEY_ARE = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
PROBABILITIES = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.9, 0.05, 0.05], [0.2, 0.2, 0.6], [0.99, 0.005, 0.005]]
LABELS = [1, 1, 2, 0, NO_LABEL]  # wrong with 0.7, right, wrong with 0.9, wrong with 0.6, unknown


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


def metrics(labels=LABELS):
    measured = ClassificationMetrics()
    for start, end in ((0, 2), (2, 5)):  # in two batches
        logits = torch.tensor(PROBABILITIES[start:end]).log()
        measured.update(logits, (None, torch.tensor(labels[start:end])))
    return measured


def test_the_surest_mistakes_come_first_and_unknown_labels_are_none():
    sure, likely, unsure = surest_mistakes(metrics())
    assert [each.index for each in (sure, likely, unsure)] == [2, 0, 3]
    assert sure == Mistake(index=2, said=0, probability=sure.probability, true=2)
    assert abs(sure.probability - 0.9) < 1e-6
    assert surest_mistakes(metrics(), 2) == [sure, likely]


def test_their_picture_says_what_was_taken_for_what():
    images = torch.rand(5, 3, 8, 8)
    data = Part(list(zip(images, LABELS, strict=True)), NAMES)
    figure = draw_mistakes(surest_mistakes(metrics()), NAMES, data, AS_THEY_ARE, explain_with=None)
    assert [axes.get_title() for axes in figure.axes] == ["cat 90%\nis cow", "cat 70%\nis dog", "cow 60%\nis cat"]
    for axes, index in zip(figure.axes, (2, 0, 3), strict=True):
        torch.testing.assert_close(torch.as_tensor(axes.images[0].get_array().data), images[index].permute(1, 2, 0))


def test_without_mistakes_and_of_streams_there_is_none():
    none, some = surest_mistakes(metrics([0, 1, 0, 2, NO_LABEL])), surest_mistakes(metrics())
    assert draw_mistakes(none, NAMES, Part([], NAMES), AS_THEY_ARE, explain_with=None) is None
    assert draw_mistakes(some, NAMES, Part(Stream(), NAMES), AS_THEY_ARE, explain_with=None) is None


def test_words_about_a_label():
    assert label_words(torch.tensor([2, 0]), NAMES) == ["cow", "cat"]
    mixed = torch.tensor([[0.3, 0.7, 0.0], [0.02, 0.02, 0.96]])
    assert label_words(mixed, NAMES) == ["dog 70%\ncat 30%", "cow 96%"]
