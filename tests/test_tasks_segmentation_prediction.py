"""Predictions about any image, in its own pixels, and as evaluation sees them."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from fastvit import reparameterize_model
from fastvit.data.digit_scenes import CLASSES
from fastvit.data.whole_image import WholeImage
from fastvit.predictor import Shown
from fastvit.tasks import load_recipe, make_task
from fastvit.tasks.segmentation.picture import OPACITY, class_colors
from fastvit.tasks.segmentation.prediction import LabelMap, Segmenter
from fastvit.tasks.segmentation.task import Segmentation
from fastvit.tasks.segmentation.transforms import ValTransform
from reference import randomize

DEMO = Path(__file__).parents[1] / "configs" / "quickstart" / "segmentation_digits.yaml"


@pytest.fixture(scope="module")
def task() -> Segmentation:
    return make_task(load_recipe(DEMO))


@pytest.fixture(scope="module")
def segmenter(task: Segmentation) -> Segmenter:
    torch.manual_seed(0)
    network = reparameterize_model(randomize(task.build_model()))
    settings = {"preprocessing": task.preprocessing, "labels": CLASSES, "settings": task.prediction_settings}
    return Segmenter(network, device=torch.device("cpu"), **settings)


def predicted(segmenter: Segmenter, image: Image.Image) -> LabelMap:
    (prediction,) = segmenter.predict([segmenter.prepare(image)])
    return prediction


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(load_sample_images().images[0])


@pytest.mark.parametrize("size", [(120, 50), (33, 90), (64, 64), (300, 40), (9, 7)], ids=str)
def test_any_image_has_labels_in_its_own_pixels(segmenter: Segmenter, photo: Image.Image, size: tuple[int, int]):
    image = photo.resize(size)
    prediction = predicted(segmenter, image)
    assert prediction.labels.shape == (size[1], size[0])
    assert min(prediction.draw(image, Shown()).size) >= 256  # to be looked at


def test_it_is_told_as_shares_of_the_pixels():
    labels = torch.tensor([[0, 0, 0, 4], [2, 2, 0, 0]], dtype=torch.uint8)
    prediction = LabelMap(CLASSES, labels)
    assert prediction.rows(Shown()) == [("background", "0.625000"), ("1", "0.250000"), ("3", "0.125000")]
    assert prediction.to_dict(Shown())["classes"][2] == {"label": "3", "share": 0.125}
    assert prediction.summary(Shown(top=2)) == "background 62.5%, 1 25.0%"


def test_it_is_what_evaluation_predicts(task: Segmentation, segmenter: Segmenter, photo: Image.Image):
    image = photo.resize((150, 100))
    pixels, labels = ValTransform(WholeImage(task.box, task.normalization))(image, Image.new("L", image.size))
    (expected,) = task.predict(segmenter.network, (pixels[None], labels[None]))
    assert torch.equal(predicted(segmenter, image).labels, expected[0])
    assert len(expected.unique()) > 1


def test_neighbours_do_not_matter(segmenter: Segmenter, photo: Image.Image):
    images = [photo.resize(size) for size in ((96, 64), (64, 96), (64, 96), (96, 64))]
    images[2] = images[2].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    prepared = [pickle.loads(pickle.dumps(segmenter.prepare(image))) for image in images]  # as from a worker
    for image, prediction in zip(images, segmenter.predict(prepared), strict=True):
        alone = predicted(segmenter, image).labels
        assert (prediction.labels == alone).float().mean() > 0.999  # a sum in another order may change a pixel
    assert segmenter.predict([]) == []


def test_the_mask_is_a_file_to_work_with(tmp_path: Path):
    labels = torch.randint(11, (20, 30), dtype=torch.uint8)
    LabelMap(CLASSES, labels).mask().save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as read:
        assert np.array_equal(np.asarray(read), labels)
        assert read.convert("RGB").getpixel((4, 7)) == class_colors(11)[labels[7, 4]]


def test_the_picture_is_the_image_under_the_colors_of_its_classes_with_their_names_below(photo: Image.Image):
    labels = torch.zeros(photo.height, photo.width, dtype=torch.uint8)
    labels[:, 300:] = 4
    picture = LabelMap(CLASSES, labels).draw(photo, Shown())
    assert picture.width == photo.width
    assert picture.height > photo.height
    for x, label in ((100, 0), (500, 4)):
        expected = (1 - OPACITY) * np.array(photo.getpixel((x, 50))) + OPACITY * np.array(class_colors(11)[label])
        assert np.abs(np.array(picture.getpixel((x, 50))) - expected).max() <= 1
    legend = {color for _, color in picture.crop((0, photo.height, *picture.size)).getcolors(10_000)}
    assert {class_colors(11)[0], class_colors(11)[4]} <= legend
    assert class_colors(11)[7] not in legend
