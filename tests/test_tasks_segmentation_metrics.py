"""Mean IoU and accuracies are those of sets of pixels, over all images together."""

import numpy as np
import pytest
import torch

from fastvit.errors import DataError
from fastvit.tasks.segmentation.masks import UNLABELLED
from fastvit.tasks.segmentation.metrics import SegmentationMetrics


def by_hand(labels: list[np.ndarray], predictions: list[np.ndarray], num_classes: int) -> dict[str, float]:
    """Mean IoU and accuracies, class by class over sets of pixels."""
    truth = {(i, *p): c for i, image in enumerate(labels) for p, c in np.ndenumerate(image) if c != UNLABELLED}
    guess = {(i, *p): c for i, image in enumerate(predictions) for p, c in np.ndenumerate(image) if (i, *p) in truth}
    ious, accuracies = [], []
    for label in range(num_classes):
        true, predicted = ({p for p, c in pixels.items() if c == label} for pixels in (truth, guess))
        if true | predicted:
            ious.append(len(true & predicted) / len(true | predicted))
        if true:
            accuracies.append(len(true & predicted) / len(true))
    right = sum(guess[p] == c for p, c in truth.items()) / len(truth)
    return {"miou": 100 * np.mean(ious), "mean_accuracy": 100 * np.mean(accuracies), "pixel_accuracy": 100 * right}


def uneven_batches():
    """Two batches: one of equal sizes, one of different ones; class 4 is nowhere, class 3 only predicted."""
    generator = torch.Generator().manual_seed(1)

    def sample(*shape: int):
        labels = torch.randint(3, shape, generator=generator).to(torch.uint8)
        labels[torch.rand(shape, generator=generator) < 0.2] = UNLABELLED
        logits = torch.randn(5, *shape, generator=generator)
        logits[4] = -100
        return logits, labels

    logits, labels = zip(sample(6, 7), sample(6, 7), strict=True)
    return [(torch.stack(logits), torch.stack(labels)), tuple(map(list, zip(sample(5, 9), sample(8, 4), strict=True)))]


def label_maps(batch):
    """The most probable class of each pixel, where a batch holds logits; one tensor if of one size."""
    logits, _ = batch
    return [logits.argmax(1)] if isinstance(logits, torch.Tensor) else [each[None].argmax(1) for each in logits]


def test_metrics_equal_brute_force_over_batches_of_different_sizes():
    metrics, labels, predictions = SegmentationMetrics(5), [], []
    for batch in uneven_batches():
        metrics.update(label_maps(batch), batch)
        labels += [each.numpy() for each in batch[1]]
        predictions += [each.argmax(0).numpy() for each in batch[0]]
    report = metrics.report()
    assert report.pop("samples") == 4
    assert report == pytest.approx(by_hand(labels, predictions, 5))
    assert metrics.class_iou()[4].isnan()
    assert metrics.class_iou()[3] == 0


def test_metrics_merge_into_those_of_all_samples():
    whole, parts = SegmentationMetrics(5), [SegmentationMetrics(5), SegmentationMetrics(5)]
    for part, batch in zip(parts, uneven_batches(), strict=True):
        part.update(label_maps(batch), batch)
        whole.update(label_maps(batch), batch)
    parts[0].merge(parts[1])
    assert parts[0].report() == whole.report()


def test_no_label_at_all_is_an_error():
    with pytest.raises(DataError, match="no pixel of the validation masks has a label"):
        SegmentationMetrics(5).report()
