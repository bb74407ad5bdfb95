"""Colors are normalized as torchvision does, and back."""

import pytest
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision.transforms import Normalize

from fastvit.data.normalization import Normalization, stack_images

IMAGENET = Normalization(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
PIXELS = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).repeat(3, 1, 1)  # every value of every color


def test_it_is_torchvision_s_bit_for_bit():
    expected = Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)(PIXELS / 255)
    assert torch.equal(IMAGENET(PIXELS), expected)
    assert torch.equal(IMAGENET(PIXELS.expand(2, 3, 16, 16)), expected.expand(2, 3, 16, 16))
    torch.testing.assert_close(IMAGENET.undo(expected), PIXELS / 255)


def test_what_was_normalized_in_inference_mode_does_not_spoil_training():
    """The constants are kept from call to call."""
    other = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    with torch.inference_mode():
        other(PIXELS)
    weight = torch.ones(3, 1, 1, requires_grad=True)
    (other(PIXELS) * weight).sum().backward()
    other.undo(weight).sum().backward()


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_images_are_stacked_in_the_layout_that_they_have(memory_format):
    images = torch.randint(256, (4, 3, 6, 5), dtype=torch.uint8).to(memory_format=memory_format)
    stacked = stack_images(list(images))
    assert torch.equal(stacked, images)
    assert stacked.is_contiguous(memory_format=memory_format)
