"""Objects in any image, in its own pixels: those that the network itself finds, if it is sure."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from fastvit.data.reading import UnreadableImage
from fastvit.models import PyramidMaskRCNN, PyramidRetinaNet
from fastvit.predictor import Shown
from fastvit.recipes import load_recipe, make_task
from fastvit.tasks.detection.masks import decode_masks
from fastvit.tasks.detection.prediction import Detector, Objects
from fastvit.tasks.detection.samples import image_tensor
from fastvit.tasks.drawing import distinct_colors
from fastvit.training.evaluation import evaluate
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


def detector(network: PyramidMaskRCNN | PyramidRetinaNet) -> Detector:
    return Detector(network, device=torch.device("cpu"), preprocessing=None, labels=NAMES)


def found(by: Detector, image: Image.Image) -> Objects:
    (objects,) = by.predict([by.prepare(image)])
    return objects


@pytest.mark.parametrize("kind", ["mask_rcnn", "retinanet"])
def test_found_is_what_the_network_finds(kind: str, photo: Image.Image, request: pytest.FixtureRequest):
    """Boxes and masks in the pixels of an image of another size than the network's."""
    network = request.getfixturevalue(kind)
    image = photo.resize((170, 120))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    for _ in range(2):  # the network is as it was
        with torch.inference_mode():
            (expected,) = network([pixels])
        objects = found(detector(network), image)
        assert len(objects.boxes) > 3
        for name in ("boxes", "labels", "scores"):
            torch.testing.assert_close(getattr(objects, name), expected[name], rtol=1e-3, atol=1e-2)
        if kind == "mask_rcnn":
            assert objects.small_masks.shape[1:] == (1, 28, 28)
            assert (objects.masks() == (expected["masks"][:, 0] > 0.5)).float().mean() > 0.999
        else:
            assert objects.masks() is None
            assert "mask" not in objects.to_dict(Shown(score=0.0))["objects"][0]


def test_neighbours_of_other_sizes_do_not_matter(mask_rcnn: PyramidMaskRCNN, photo: Image.Image):
    images = [photo.resize(size) for size in ((170, 120), (90, 150), (90, 150))]
    images[2] = images[2].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    several = detector(mask_rcnn)
    for image, objects in zip(images, several.predict([several.prepare(image) for image in images]), strict=True):
        alone = found(several, image)
        assert len(alone.boxes) > 0
        torch.testing.assert_close(objects.boxes, alone.boxes, rtol=1e-3, atol=1e-2)
        assert objects.masks().shape[1:] == (image.height, image.width)
    assert several.predict([]) == []


def test_what_is_measured_does_not_depend_on_the_batch(mask_rcnn: PyramidMaskRCNN, photo: Image.Image):
    task, cpu = make_task(load_recipe("quickstart/detection_digits")), torch.device("cpu")
    images = [image_tensor(photo.resize(size)) for size in ((170, 120), (90, 150), (120, 120))]
    samples = [(image, {"image_id": number, "annotations": []}) for number, image in enumerate(images, 1)]
    whole, *parts = (task.collate(some) for some in (samples, samples[:1], samples[1:]))
    together, apart = (evaluate(task, [mask_rcnn], batches, device=cpu)[0].detections for batches in ([whole], parts))
    assert {each["image_id"] for each in together} == {1, 2, 3}
    assert together == apart


def two_objects(height: int, width: int) -> Objects:
    """A bird with a full mask, and a cat of whose box the left half is its mask."""
    masks = torch.ones(2, 1, 28, 28)
    masks[1, :, :, 14:] = 0
    boxes = torch.tensor([[10.004, 10.0, 30.0, 20.0], [40.0, 15.0, 60.0, 40.0]])
    return Objects(NAMES, (height, width), boxes, torch.tensor([3, 1]), torch.tensor([0.91236, 0.5]), masks)


def test_only_what_is_sure_is_told():
    objects = two_objects(50, 80)
    assert objects.rows(Shown(score=0.6)) == [("bird", "0.9124", "10.00", "10.00", "30.00", "20.00")]
    assert [row[0] for row in objects.rows(Shown(score=0.5))] == ["bird", "cat"]
    assert objects.summary(Shown(score=0.5)) == "bird 0.91, cat 0.50"
    assert objects.summary(Shown(score=0.95)) == "no objects"
    assert objects.to_dict(Shown(score=0.95)) == {"objects": []}
    (bird,) = objects.to_dict(Shown(score=0.6))["objects"]
    mask = bird.pop("mask")
    assert bird == {"label": "bird", "score": 0.9124, "box": [10.0, 10.0, 30.0, 20.0]}
    assert torch.equal(decode_masks([mask], 50, 80).bool(), objects.masks()[:1])
    assert len(Detector.columns(None, Shown())) == len(objects.rows(Shown())[0])


def test_masks_are_where_the_objects_are():
    """But for a pixel on each side, as edges lie between pixels."""
    bird, cat = two_objects(50, 80).masks()
    for mask, (left, top, right, bottom) in ((bird, (10, 10, 30, 20)), (cat, (40, 15, 50, 40))):
        assert mask[top + 1 : bottom - 1, left + 1 : right - 1].all()
        mask[top - 1 : bottom + 1, left - 1 : right + 1] = False
        assert not mask.any()


def test_the_picture_has_a_frame_and_a_mask_for_each_object():
    image = Image.new("RGB", (80, 50), (100, 100, 100))
    picture = two_objects(50, 80).draw(image, Shown())
    factor = 6  # to 256 pixels at least
    assert picture.size == (factor * 80, factor * 50)
    for i, (x, y) in enumerate(((12, 18), (44, 35))):
        color = np.array(distinct_colors(2)[i])
        assert np.abs(np.array(picture.getpixel((factor * x, factor * y))) - (color + 100) / 2).max() <= 1
    assert picture.getpixel((factor * 70, factor * 45)) == (100, 100, 100)
    assert picture.getpixel((factor * 60, factor * 30)) == distinct_colors(2)[1]
    assert image.getpixel((12, 18)) == (100, 100, 100)  # the image itself is as it was


def test_without_sure_objects_the_picture_is_the_image(photo: Image.Image):
    assert two_objects(427, 640).draw(photo, Shown(score=0.95)).tobytes() == photo.tobytes()


def test_an_image_of_which_resizing_leaves_nothing_is_unreadable(retinanet: PyramidRetinaNet):
    """The longer side becomes 128 pixels; one that is one pixel high then is looked at."""
    with pytest.raises(UnreadableImage, match="resized, nothing is left of 500 x 1 px"):
        detector(retinanet).prepare(Image.new("RGB", (500, 1)))
    assert found(detector(retinanet), Image.new("RGB", (128, 1))).size == (1, 128)
