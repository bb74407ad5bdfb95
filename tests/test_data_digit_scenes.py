"""The demo scenes: exact, held out, and a function of their seed."""

import numpy as np
import pytest
import torch
from torchvision.ops import masks_to_boxes

from fastvit.data.digit_scenes import BACKGROUND, DigitScenes
from fastvit.tasks.detection.digits import DigitObjects
from fastvit.tasks.detection.samples import TrainSamples
from fastvit.tasks.segmentation.digits import DigitLabelMaps


@pytest.fixture(scope="module")
def scenes() -> DigitScenes:
    return DigitScenes(train=False, count=60, size=96)


def test_masks_are_disjoint_visible_and_what_the_label_map_shows(scenes: DigitScenes):
    for i in range(len(scenes)):
        scene = scenes[i]
        assert scene.masks.sum(0).max() <= 1
        assert scene.masks.flatten(1).sum(1).min() >= 30
        labels = scene.label_map()
        for digit in range(10):
            assert torch.equal(labels == digit + 1, scene.masks[scene.digits == digit].any(0))
        assert torch.equal(labels == BACKGROUND, ~scene.masks.any(0))


def test_digits_are_brighter_than_what_is_around_them(scenes: DigitScenes):
    """The masks are where the digits are in the picture."""
    inside, outside = [], []
    for i in range(len(scenes)):
        pixels, mask = np.asarray(scenes[i].image).mean(-1), scenes[i].masks.any(0).numpy()
        inside.append(pixels[mask].mean())
        outside.append(pixels[~mask].mean())
    assert np.mean(inside) > np.mean(outside) + 60


def test_validation_scenes_are_a_function_of_their_index(scenes: DigitScenes):
    again = DigitScenes(train=False, count=60, size=96)
    assert scenes[7].image.tobytes() == again[7].image.tobytes() != again[8].image.tobytes()


def test_training_scenes_are_drawn_anew_from_torch_s_generator():
    training = DigitScenes(train=True, count=3, size=64)
    torch.manual_seed(3)
    first, second = training[0], training[0]
    torch.manual_seed(3)
    assert first.image.tobytes() == training[0].image.tobytes() != second.image.tobytes()


def test_nothing_held_out_is_used_in_training(scenes: DigitScenes):
    training = DigitScenes(train=True, count=1, size=96)
    assert not {scan.tobytes() for scan in training.scans} & {scan.tobytes() for scan in scenes.scans}
    widths = [(left.width, right.width) for left, right in zip(training.photos, scenes.photos, strict=True)]
    assert widths == [(426, 214)] * 2  # of 640


def test_every_digit_appears(scenes: DigitScenes):
    assert {int(digit) for i in range(len(scenes)) for digit in scenes[i].digits} == set(range(10))


def test_label_maps_and_objects_are_of_the_same_scenes(scenes: DigitScenes):
    maps, objects = (kind(train=False, count=60, size=96) for kind in (DigitLabelMaps, DigitObjects))
    scene = scenes[4]
    image, labels = maps[4]
    assert image.tobytes() == scene.image.tobytes()
    assert np.array_equal(np.asarray(labels), scene.label_map().numpy())
    _, target = TrainSamples(objects, hflip=0.0, masks=True)[4]
    assert torch.equal(target["masks"].bool(), scene.masks)
    assert torch.equal(target["labels"], scene.digits + 1)
    boxes = masks_to_boxes(scene.masks)  # whose right and bottom are the last pixels, not where those end
    assert torch.equal(target["boxes"], boxes + torch.tensor([0, 0, 1, 1]))


def test_an_index_out_of_range(scenes: DigitScenes):
    with pytest.raises(IndexError):
        scenes[60]
