"""The hand in a photograph of any size: where training would see it, and where it is."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fastvit.data.preprocessing import Preprocessing
from fastvit.models.hand_mesh import project as project_weakly
from fastvit.predictor import Shown
from fastvit.tasks.hand_mesh.picture import in_pixels, overlay
from fastvit.tasks.hand_mesh.prediction import Hand, HandPredictor, prepare
from fastvit.tasks.hand_mesh.scenes import SyntheticHands
from fastvit.tasks.hand_mesh.synthetic import synthetic_hand
from fastvit.tasks.hand_mesh.transform import HandImages, fit
from hands import posed_hands

SIZE = 64
PREPROCESSING = Preprocessing(SIZE, SIZE, None, None, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
FACES = synthetic_hand().faces


class Network:
    """In place of a trained one: a hand in the lower left of whatever it sees."""

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        assert images.shape == (1, 3, SIZE, SIZE)
        hand = {name: value[:1] for name, value in posed_hands(1).items()}
        return {**hand, "camera": torch.tensor([[4.0, -0.2, 0.3]])}


def predict_hand(image: Image.Image) -> Hand:
    known = {"preprocessing": PREPROCESSING, "labels": None, "settings": {"faces": FACES.tolist()}}
    predictor = HandPredictor(Network(), device=torch.device("cpu"), **known)
    (hand,) = predictor.predict([predictor.prepare(image)])
    return hand


def test_an_image_is_prepared_as_training_sees_it():
    scenes = SyntheticHands(train=False, size=1, image_size=SIZE)
    expected = HandImages(scenes, PREPROCESSING.normalization, image_size=SIZE, augmentation=None)[0]["image"]
    torch.testing.assert_close(prepare(scenes[0].image, PREPROCESSING), expected)


@pytest.mark.parametrize("size", [(300, 200), (200, 333), (64, 64), (1, 1), (3000, 40)])
def test_joints_are_where_the_camera_has_them_whatever_the_photograph_s_size(size: tuple[int, int]):
    hand = predict_hand(Image.new("RGB", size, "gray"))
    in_square = project_weakly(torch.tensor(hand.joints)[None], torch.tensor(hand.camera)[None])[0].numpy()
    seen = (in_square + 1) * SIZE / 2  # in pixels of what the network sees
    back = np.concatenate([hand.points, np.ones((21, 1))], 1) @ fit(size, SIZE).T
    np.testing.assert_allclose(back[:, :2], seen, atol=1e-3)
    assert json.loads(json.dumps(hand.to_dict(Shown())))["points"] == hand.points.tolist()


def test_the_picture_is_the_photograph_but_for_the_hand():
    rng = np.random.default_rng(0)
    colors = rng.integers(256, size=(150, 220, 3), dtype=np.uint8)
    photograph = Image.fromarray(colors)
    hand = predict_hand(photograph)
    picture = hand.draw(photograph, Shown())
    np.testing.assert_array_equal(photograph, colors)  # the picture is another one
    changed = (np.asarray(picture) != colors).any(-1)
    assert changed.mean() > 0.03
    rows, columns = np.nonzero(changed)
    pixels = in_pixels(hand.vertices, hand.camera, photograph.size)
    assert columns.min() >= pixels[:, 0].min() - 1
    assert columns.max() <= pixels[:, 0].max() + 1
    assert rows.min() >= pixels[:, 1].min() - 1
    assert rows.max() <= pixels[:, 1].max() + 1


def test_a_large_photograph_is_averaged_and_not_sampled():
    """Of noise in ten times as many pixels on a side a tenth is left, in each direction."""
    noise = np.random.default_rng(0).integers(256, size=(640, 640, 3), dtype=np.uint8)
    seen = prepare(Image.fromarray(noise), Preprocessing(SIZE, SIZE, None, None, (0, 0, 0), (1, 1, 1)))
    assert (255 * seen).std() == pytest.approx(noise.std() / 10, rel=0.1)


def test_a_picture_is_no_larger_than_people_look_at():
    photograph = Image.new("RGB", (4000, 3000))
    hand = predict_hand(photograph)
    picture = hand.draw(photograph, Shown())
    assert picture.size == (1024, 768)
    vertices, camera = hand.vertices, hand.camera
    covered = np.asarray(picture).any(-1).mean()
    small = np.asarray(overlay(Image.new("RGB", (400, 300)), vertices, camera, FACES)).any(-1).mean()
    assert covered == pytest.approx(small, rel=0.1)
