"""A trained network is called with a picture, and says how to make one of what is none."""

import numpy as np
import pytest
import torch

from fastvit.trained import load_trained


@pytest.fixture(scope="module")
def trained(random_run):
    return load_trained(random_run, image_size=64)


def test_one_side_is_that_of_a_square(trained):
    assert (trained.preprocessing.height, trained.preprocessing.width) == (64, 64)


@pytest.mark.parametrize("given", ["photo.jpg", np.zeros((32, 32, 3), np.uint8), torch.zeros(3, 32, 32)], ids=type)
def test_what_is_no_picture(given, trained):
    sentence = (
        rf"^it takes a PIL image, not a {type(given).__name__}: fastvit\.data\.reading\.read_image\(path\) makes one"
    )
    for call in (trained, trained.explain):
        with pytest.raises(TypeError, match=sentence):
            call(given)
