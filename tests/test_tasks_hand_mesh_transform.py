"""Augmentation of hand images is geometry: image, camera and hand stay consistent."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastvit.data.normalization import Normalization
from fastvit.models.skinning import ROOT, HandModel
from fastvit.tasks.hand_mesh.recipe import HandAugmentationConfig
from fastvit.tasks.hand_mesh.sample import HandSample, project
from fastvit.tasks.hand_mesh.scenes import SyntheticHands
from fastvit.tasks.hand_mesh.synthetic import synthetic_hand
from fastvit.tasks.hand_mesh.transform import HandImages, draw, moved


def dotted(sample: HandSample) -> HandSample:
    """The sample with an image that is black, but for a white spot at each joint."""
    pixels = np.zeros((*reversed(sample.image.size), 3), dtype=np.uint8)
    columns, rows = np.floor(project(sample.joints, sample.intrinsics)).astype(int).T
    inside = (columns >= 1) & (rows >= 1) & (columns < pixels.shape[1] - 1) & (rows < pixels.shape[0] - 1)
    for column, row in zip(columns[inside], rows[inside], strict=True):
        pixels[row - 1 : row + 2, column - 1 : column + 2] = 255
    return sample._replace(image=Image.fromarray(pixels))


@pytest.fixture(scope="module")
def sample() -> HandSample:
    sample = SyntheticHands(train=False, size=9, image_size=112)[7]
    return sample._replace(intrinsics=np.array([[280.0, 0, 50], [0, 270.0, 61], [0, 0, 1]]))


@pytest.mark.parametrize(
    ("roll", "zoom", "size"), [(0, 1, 112), (0.5, 1, 112), (-2.5, 0.8, 96), (3.1, 1.2, 224), (0, 0.75, 64)]
)
def test_image_camera_and_hand_move_together(sample: HandSample, roll: float, zoom: float, size: int):
    after = moved(dotted(sample), roll=roll, zoom=zoom, size=size)
    assert after.image.size == (size, size)
    pixels = project(after.joints, after.intrinsics)
    columns, rows = np.floor(pixels).astype(int).T
    inside = ((pixels > 2) & (pixels < size - 2)).all(1)
    assert inside.sum() > 10
    assert (np.asarray(after.image)[rows[inside], columns[inside], 0] > 100).all()
    lit = np.argwhere(np.asarray(after.image)[..., 0] > 100)[:, ::-1] + 0.5
    nearest = np.linalg.norm(lit[:, None] - pixels[None], axis=2).min(1)
    assert nearest.max() < 3 * zoom * size / 112 + 1  # and nothing is lit elsewhere


def test_a_roll_keeps_the_hand_rigid_and_a_zoom_keeps_it_as_it_is(sample: HandSample):
    rolled = moved(sample, roll=0.7, zoom=1, size=112)
    np.testing.assert_allclose(rolled.joints[:, 2], sample.joints[:, 2])
    between = [np.linalg.norm(each.joints[:, None] - each.joints[None], axis=2) for each in (sample, rolled)]
    np.testing.assert_allclose(*between, atol=1e-12)
    np.testing.assert_allclose(rolled.intrinsics, sample.intrinsics)
    zoomed = moved(sample, roll=0, zoom=1.2, size=112)
    np.testing.assert_array_equal(zoomed.vertices, sample.vertices)
    assert zoomed.intrinsics[0, 0] == pytest.approx(1.2 * sample.intrinsics[0, 0])
    smaller = moved(sample, roll=0, zoom=1.2, size=56)
    point = np.array([0.02, 0.03, 0.5])
    before = project(point, sample.intrinsics) - 56  # from the middle of the image
    np.testing.assert_allclose(project(point, smaller.intrinsics) - 28, 1.2 / 2 * before)


def test_the_parameters_of_a_rolled_hand_pose_its_vertices(sample: HandSample):
    rolled = moved(sample, roll=-1.3, zoom=1.1, size=112)
    rotations, shape = torch.from_numpy(rolled.rotations)[None], torch.from_numpy(rolled.shape)[None]
    vertices, joints = HandModel(synthetic_hand())(rotations, shape)
    expected = rolled.vertices - rolled.joints[ROOT]
    np.testing.assert_allclose((vertices[0] - joints[0, ROOT]).numpy(), expected, atol=1e-6)


def test_without_augmentation_an_image_of_the_right_size_is_left_as_it_is():
    source = SyntheticHands(train=False, size=1, image_size=48)
    data = HandImages(source, Normalization((0.5,) * 3, (0.25,) * 3), image_size=48, augmentation=None)
    expected = (np.asarray(source[0].image) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(data[0]["image"].permute(1, 2, 0), expected, atol=1e-5)


def test_labels_are_relative_to_the_root_and_points_are_from_minus_one_to_one():
    source = SyntheticHands(train=False, size=1, image_size=48)
    sample = HandImages(source, Normalization((0.0,) * 3, (1.0,) * 3), image_size=32, augmentation=None)[0]
    assert not sample["joints"][ROOT].any()
    np.testing.assert_allclose(sample["joints"] + sample["root"], source[0].joints, atol=1e-6)
    np.testing.assert_allclose(sample["points"], project(source[0].joints, source[0].intrinsics) / 24 - 1, atol=1e-5)


def test_augmentation_draws_what_the_recipe_says():
    np.random.seed(0)
    drawn = [draw(HandAugmentationConfig(rotation=90, rotation_prob=0.4, scale=0.25, color=0.4)) for _ in range(4000)]
    rolls, zooms, colors = (np.array(each) for each in zip(*drawn, strict=True))
    assert (rolls != 0).mean() == pytest.approx(0.4, abs=0.03)
    assert np.abs(rolls).max() == pytest.approx(np.pi)  # twice the deviation is half a turn
    assert np.rad2deg(rolls[(rolls != 0)]).std() == pytest.approx(87, abs=5)
    assert (zooms.min(), zooms.max()) == pytest.approx((1 / 1.25, 1 / 0.75))  # METRO scales the window that is cropped
    assert (colors.min(), colors.max()) == pytest.approx((0.6, 1.4), abs=0.01)
    nothing = draw(HandAugmentationConfig(rotation=0, rotation_prob=0, scale=0, color=0))
    assert nothing[:2] == (0, 1)
    np.testing.assert_array_equal(nothing[2], 1)
