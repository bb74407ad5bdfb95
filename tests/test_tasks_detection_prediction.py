"""Objects in any image, in its own pixels: those that the network itself finds, if it is sure."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from fastvit.models import PyramidMaskRCNN, PyramidRetinaNet
from fastvit.tasks.detection.masks import decode_masks
from fastvit.tasks.detection.prediction import Detector, Objects, sure_only
from fastvit.tasks.drawing import distinct_colors
from reference import randomize

NAMES = ("cat", "dog", "bird")
SIZES = {"short_sides": (96,), "long_side": 128, "channels": 16}


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(load_sample_images().images[0])


@pytest.fixture(scope="module")
def mask_rcnn() -> PyramidMaskRCNN:
    torch.manual_seed(0)
    body = timm.create_model("fastvit_t8", num_classes=0)
    options = {"box_channels": 32, "mask_channels": 16, "proposals": 30, "anchor_sizes": (8, 16, 32, 48, 64)}
    return randomize(PyramidMaskRCNN(body, 3, **SIZES, **options)).eval()


@pytest.fixture(scope="module")
def retinanet() -> PyramidRetinaNet:
    torch.manual_seed(0)
    network = randomize(PyramidRetinaNet(timm.create_model("fastvit_t8", num_classes=0), 3, **SIZES)).eval()
    network.detections_per_img = 20
    torch.nn.init.zeros_(network.head.classification_head.cls_logits.bias)  # scores of one half, not of a hundredth
    return network


@pytest.mark.parametrize("kind", ["mask_rcnn", "retinanet"])
def test_found_is_what_the_network_finds_with_such_a_score(
    kind: str, photo: Image.Image, request: pytest.FixtureRequest
):
    network = request.getfixturevalue(kind)
    image = photo.resize((170, 120))
    with torch.inference_mode():
        (all_found,) = network([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255])
    least_score = float(all_found["scores"].quantile(0.6))
    kept = all_found["scores"] > least_score
    assert 0 < kept.sum() < len(kept)
    objects = Detector(sure_only(network, least_score), NAMES)(image)
    torch.testing.assert_close(objects.boxes, all_found["boxes"][kept], rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(objects.scores, all_found["scores"][kept], rtol=1e-3, atol=1e-3)
    assert torch.equal(objects.labels, all_found["labels"][kept])
    if kind == "mask_rcnn":
        assert (objects.masks == (all_found["masks"][kept, 0] > 0.5)).float().mean() > 0.999
    else:
        assert objects.masks is None
        assert "mask" not in objects.rows()[0]
    assert network.training is False
    with torch.inference_mode():
        (again,) = network([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255])
    assert len(again["scores"]) == len(kept)  # the network itself is as it was


def test_neighbours_of_other_sizes_do_not_matter(mask_rcnn: PyramidMaskRCNN, photo: Image.Image):
    detector = Detector(sure_only(mask_rcnn, 0.2), NAMES)
    images = [photo.resize((170, 120)), photo.resize((90, 150)).convert("L"), photo.resize((90, 150)).convert("RGBA")]
    together = detector.predict([detector.prepare(image) for image in images])
    for image, objects in zip(images, together, strict=True):
        alone = detector(image)
        assert len(alone.boxes) > 0
        torch.testing.assert_close(objects.boxes, alone.boxes, rtol=1e-3, atol=1e-2)
        assert objects.masks.shape[1:] == (image.height, image.width)
    assert detector.predict([]) == []


def objects(height: int, width: int) -> Objects:
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, 10:20, 10:30] = masks[1, 15:40, 40:60] = True
    boxes = torch.tensor([[10.004, 10.0, 30.0, 20.0], [40.0, 15.0, 60.0, 40.0]])
    return Objects(boxes, torch.tensor([3, 1]), torch.tensor([0.91236, 0.5]), masks, NAMES)


def test_a_row_tells_the_object_in_plain_values():
    found = objects(50, 80)
    first, second = found.rows()
    mask = first.pop("mask")
    assert first == {"label": "bird", "score": 0.9124, "left": 10.0, "top": 10.0, "right": 30.0, "bottom": 20.0}
    assert second["label"] == "cat"
    assert torch.equal(decode_masks([mask], 50, 80)[0].bool(), found.masks[0])


def test_the_picture_has_a_frame_and_a_mask_for_each_object():
    image = Image.new("RGB", (80, 50), (100, 100, 100))
    picture = objects(50, 80).draw(image)
    factor = 6  # to 256 pixels at least
    assert picture.size == (factor * 80, factor * 50)
    for i, (x, y) in enumerate(((12, 18), (50, 35))):
        color = np.array(distinct_colors(2)[i])
        assert np.abs(np.array(picture.getpixel((factor * x, factor * y))) - (color + 100) / 2).max() <= 1
    assert picture.getpixel((factor * 70, factor * 45)) == (100, 100, 100)
    assert picture.getpixel((factor * 60, factor * 30)) == distinct_colors(2)[1]
    assert image.getpixel((12, 18)) == (100, 100, 100)  # the image itself is as it was


def test_without_objects_the_picture_is_the_image(photo: Image.Image):
    nothing = Objects(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0), torch.zeros(0, 427, 640).bool(), NAMES)
    assert nothing.draw(photo).tobytes() == photo.tobytes()
    assert nothing.rows() == []
