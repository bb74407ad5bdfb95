"""Logits of whole images, and of windows."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastvit.models import semantic_fpn
from fastvit.tasks.segmentation import inference
from fastvit.tasks.segmentation.inference import Window, label_maps, predict


class Mean(nn.Module):
    """Of each window the mean, as the logits of two classes everywhere in it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :2].mean((2, 3), keepdim=True).expand(-1, -1, *images.shape[-2:])


def test_windows_are_averaged_where_they_overlap():
    images = torch.randn(2, 3, 10, 7)
    logits = predict(Mean(), images, Window(4, 3))
    tops, lefts = (0, 3, 6), (0, 3)
    for y, x in ((0, 0), (3, 3), (5, 6), (9, 0)):
        covering = [
            images[:, :2, top : top + 4, left : left + 4].mean((2, 3))
            for top in tops
            for left in lefts
            if top <= y < top + 4 and left <= x < left + 4
        ]
        torch.testing.assert_close(logits[..., y, x], torch.stack(covering).mean(0))


def test_one_window_is_the_whole_image():
    model = semantic_fpn("fastvit_t8", num_classes=5).eval()
    image = torch.randn(1, 3, 64, 80)
    torch.testing.assert_close(predict(model, image, Window(96, 32)), model(image))


@pytest.mark.parametrize("at_once", [1, 3 * 2 * 30 * 20, 2**26], ids=["one class", "three classes", "all classes"])
def test_labels_are_of_the_logits_in_the_size_of_the_original(monkeypatch: pytest.MonkeyPatch, at_once: int):
    monkeypatch.setattr(inference, "NUMBERS_AT_ONCE", at_once)
    logits = torch.randn(2, 7, 12, 8)
    logits[:, 5] = logits[:, 2]  # of equal ones the first
    resized = F.interpolate(logits, (30, 20), mode="bilinear", align_corners=False)
    labels = label_maps(logits, (30, 20))
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.long(), resized.argmax(1))
