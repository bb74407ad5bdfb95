"""Corruption errors by hand, and corruptions that are made on the fly."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from timm.data import create_transform

from fastvit.errors import DataError
from fastvit.robustness.corruptions import ALEXNET_ERRORS, CORRUPTIONS, corrupt, corruption_errors
from fastvit.robustness.own_images import CorruptedReader
from fastvit.runtime.randomness import Purpose, seeded


def test_alexnet_has_a_mean_corruption_error_of_100():
    top1 = {name: dict.fromkeys(range(1, 6), 100 * (1 - error)) for name, error in ALEXNET_ERRORS.items()}
    assert corruption_errors(top1) == pytest.approx(dict.fromkeys(CORRUPTIONS, 100.0))


def test_corruption_error_by_hand():
    errors = corruption_errors({"fog": {1: 90.0, 3: 50.0}})  # mean error 0.3
    assert errors == {"fog": pytest.approx(100 * 0.3 / 0.819324)}


SLOW = ("glass_blur",)  # compiles itself first


@pytest.mark.parametrize(
    "corruption", [pytest.param(each, marks=pytest.mark.slow if each in SLOW else ()) for each in CORRUPTIONS]
)
def test_each_corruption_damages_more_with_its_severity_and_is_drawn_again(corruption):
    pytest.importorskip("imagecorruptions")
    image = Image.fromarray(load_sample_image("china.jpg")).crop((100, 100, 356, 356)).resize((64, 64))
    transform = create_transform(64, crop_pct=1.0, mean=(0, 0, 0), std=(1, 1, 1))
    read = CorruptedReader([(image, 7)], transform, seed=0)
    clean, label = read((0, None, 0))
    assert label == 7
    damages = []
    for severity in (1, 5):
        first, again = (read((0, corruption, severity))[0] for _ in range(2))
        assert torch.equal(first, again)
        damages.append(float((first - clean).square().mean()))
    assert 0 < damages[0] < damages[1]


def test_seeds_draw_other_noise():
    pytest.importorskip("imagecorruptions")
    image = Image.new("RGB", (32, 32), (100, 100, 100))
    drawn = []
    for seed in (0, 1):
        with seeded(seed, Purpose.SAMPLE, 0):
            drawn.append(np.asarray(corrupt(image, "gaussian_noise", 3)))
    assert not np.array_equal(*drawn)


def test_images_that_are_too_small_are_refused():
    pytest.importorskip("imagecorruptions")
    with pytest.raises(DataError, match="16x40 px is too small to corrupt: 32 px at least"):
        corrupt(Image.new("RGB", (16, 40)), "fog", 1)
