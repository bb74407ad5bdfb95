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
    return task.predictor(reparameterize_model(randomize(task.build_model())), CLASSES)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(load_sample_images().images[0])


@pytest.mark.parametrize(
    ("mode", "size"), [("RGB", (120, 50)), ("L", (33, 90)), ("RGBA", (64, 64)), ("P", (300, 40)), ("1", (9, 7))]
)
def test_any_image_has_labels_in_its_own_pixels(
    segmenter: Segmenter, photo: Image.Image, mode: str, size: tuple[int, int]
):
    image = photo.resize(size).convert(mode)
    prediction = segmenter(image)
    assert prediction.labels.shape == (size[1], size[0])
    rows = prediction.rows()
    assert sum(row["share"] for row in rows) == pytest.approx(1, abs=1e-5)
    assert [row["share"] for row in rows] == sorted((row["share"] for row in rows), reverse=True)
    share = (prediction.labels == CLASSES.index(rows[0]["label"])).float().mean().item()
    assert rows[0]["share"] == pytest.approx(share, abs=1e-6)
    assert min(prediction.draw(image).size) >= 256  # to be looked at


def test_it_is_what_evaluation_predicts(task: Segmentation, segmenter: Segmenter, photo: Image.Image):
    image = photo.resize((150, 100))
    pixels, labels = ValTransform(task.normalization, task.box)(image, Image.new("L", image.size))
    (expected,) = task.predict(segmenter.network, (pixels[None], labels[None]))
    assert torch.equal(segmenter(image).labels, expected[0])
    assert len(expected.unique()) > 1


def test_neighbours_do_not_matter(segmenter: Segmenter, photo: Image.Image):
    images = [photo.resize(size) for size in ((96, 64), (64, 96), (64, 96), (96, 64))]
    images[2] = images[2].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    prepared = [pickle.loads(pickle.dumps(segmenter.prepare(image))) for image in images]  # as from a worker
    for image, prediction in zip(images, segmenter.predict(prepared), strict=True):
        alone = segmenter(image).labels
        assert (prediction.labels == alone).float().mean() > 0.999  # a sum in another order may change a pixel
    assert segmenter.predict([]) == []


def test_the_mask_is_a_file_to_work_with(tmp_path: Path):
    labels = torch.randint(11, (20, 30), dtype=torch.uint8)
    LabelMap(labels, CLASSES).mask().save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as read:
        assert np.array_equal(np.asarray(read), labels)
        assert read.convert("RGB").getpixel((4, 7)) == class_colors(11)[labels[7, 4]]


def test_the_picture_is_the_image_under_the_colors_of_its_classes_with_their_names_below(photo: Image.Image):
    labels = torch.zeros(photo.height, photo.width, dtype=torch.uint8)
    labels[:, 300:] = 4
    picture = LabelMap(labels, CLASSES).draw(photo)
    assert picture.width == photo.width
    assert picture.height > photo.height
    for x, label in ((100, 0), (500, 4)):
        expected = (1 - OPACITY) * np.array(photo.getpixel((x, 50))) + OPACITY * np.array(class_colors(11)[label])
        assert np.abs(np.array(picture.getpixel((x, 50))) - expected).max() <= 1
    legend = {color for _, color in picture.crop((0, photo.height, *picture.size)).getcolors(10_000)}
    assert {class_colors(11)[0], class_colors(11)[4]} <= legend
    assert class_colors(11)[7] not in legend
