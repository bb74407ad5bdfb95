"""Photometric distortion is MMSegmentation's: its formula in OpenCV's uint8 HSV, and how often and how far."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from fastvit.tasks.segmentation.photometric import Distortion


def formula(pixels: np.ndarray, distortion: Distortion) -> np.ndarray:
    """What MMSegmentation does with such a draw, on (H, W, 3) uint8 RGB; hue counts in steps of two degrees."""

    def converted(values: np.ndarray, factor: float, added: float = 0.0) -> np.ndarray:
        return np.clip(values.astype(np.float32) * factor + added, 0, 255).astype(np.uint8)

    pixels = converted(pixels, 1.0, distortion.brightness)
    if distortion.contrast_first:
        pixels = converted(pixels, distortion.contrast)
    if distortion.saturation != 1:
        hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = converted(hsv[..., 1], distortion.saturation)
        pixels = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if distortion.hue:
        hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + round(distortion.hue / 2)) % 180
        pixels = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return pixels if distortion.contrast_first else converted(pixels, distortion.contrast)


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    """A palace under the sky, and a red flower, 320x213."""
    return [photo[::2, ::2].copy() for photo in load_sample_images().images]


@pytest.mark.parametrize(
    "distortion",
    [
        Distortion(brightness=-31.7),
        Distortion(brightness=25.2, contrast=1.46, contrast_first=False),
        Distortion(contrast=0.52),
        Distortion(saturation=0.55),
        Distortion(saturation=1.5),
        Distortion(hue=34.0),
        Distortion(hue=-36.0),
        Distortion(20.0, 1.3, 1.4, -20.0, True),
        Distortion(20.0, 1.3, 1.4, -20.0, False),
    ],
    ids=str,
)
def test_colors_are_those_of_the_formula(photos: list[np.ndarray], distortion: Distortion):
    """But for the rounding of hue and saturation to bytes, which is another in Pillow."""
    for pixels in photos:
        ours = np.asarray(distortion(Image.fromarray(pixels))).astype(float)
        theirs = formula(pixels, distortion).astype(float)
        assert np.abs(ours.mean((0, 1)) - theirs.mean((0, 1))).max() < 1
        assert np.abs(ours - theirs).mean() < (1.5 if distortion.saturation != 1 or distortion.hue else 0.01)
        assert np.abs(theirs - pixels).mean() > 3  # it does something


def test_no_change_is_exact(photos: list[np.ndarray]):
    for pixels in photos:
        assert np.array_equal(np.asarray(Distortion()(Image.fromarray(pixels))), pixels)


def test_draws_are_as_often_and_as_far_as_mmsegmentation_s():
    draws = [Distortion.draw() for _ in range(4000)]
    for name, low, high, none in (
        ("brightness", -32, 32, 0),
        ("contrast", 0.5, 1.5, 1),
        ("saturation", 0.5, 1.5, 1),
        ("hue", -36, 34, 0),  # whole steps of two degrees, the last of which is not drawn
    ):
        values = np.array([getattr(draw, name) for draw in draws])
        drawn = values[values != none]
        assert len(drawn) / len(values) == pytest.approx(0.5, abs=0.03)
        assert low <= drawn.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < drawn.max() <= high
        assert drawn.std() == pytest.approx((high - low) / 12**0.5, rel=0.05)
    assert np.mean([draw.contrast_first for draw in draws]) == pytest.approx(0.5, abs=0.03)
    assert {draw.hue % 2 for draw in draws} == {0}


def test_draws_come_from_torch_s_generator():
    torch.manual_seed(4)
    first = [Distortion.draw() for _ in range(5)]
    torch.manual_seed(4)
    assert first == [Distortion.draw() for _ in range(5)]
    assert len(set(first)) > 1
