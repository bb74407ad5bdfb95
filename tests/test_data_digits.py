"""The embedded digits."""

from collections import Counter

import numpy as np

from fastvit.data.digits import Digits


def test_the_split_is_fixed_stratified_and_without_overlap():
    train, val = Digits(train=True, image_size=8), Digits(train=False, image_size=8)
    assert (len(train), len(val)) == (1257, 540)
    assert set(Counter(val.labels).values()) <= {52, 53, 54, 55}
    assert not {image.tobytes() for image in train.images} & {image.tobytes() for image in val.images}
    assert val.labels[:8] == Digits(train=False, image_size=8).labels[:8]


def test_images_are_rgb_of_the_size_asked_for():
    image, label = Digits(train=True, image_size=32)[0]
    assert (image.mode, image.size) == ("RGB", (32, 32))
    assert 0 <= label < 10
    assert np.asarray(image).max() > 200
