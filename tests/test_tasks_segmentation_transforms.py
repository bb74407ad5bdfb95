"""Transforms keep image and mask together, and give validation images the size that they are said to have."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastvit.data.normalization import Normalization
from fastvit.data.whole_image import ResizeBox, WholeImage
from fastvit.tasks.segmentation.masks import UNLABELLED
from fastvit.tasks.segmentation.recipe import SegmentationAugmentationConfig
from fastvit.tasks.segmentation.transforms import TrainTransform, ValTransform

PLAIN = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
ANY_SIZE = ResizeBox(None, 2048)


def position_coded(width: int, height: int) -> tuple[Image.Image, Image.Image]:
    """An image whose red is x and whose green is y, and the label x // 40 + 3 * (y // 40)."""
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    image = Image.fromarray(np.stack([x, y, np.zeros_like(x)], -1))
    return image, Image.fromarray((x // 40 + 3 * (y // 40)).astype(np.uint8))


def train_transform(
    crop: int, *, box: ResizeBox = ANY_SIZE, colors: Normalization = PLAIN, **changes
) -> TrainTransform:
    nothing = {"scale": (1.0, 1.0), "hflip": 0.0, "photometric": False, "max_class_share": 1.0}
    return TrainTransform(SegmentationAugmentationConfig(**(nothing | changes)), colors, box=box, crop=crop)


def test_crops_take_the_same_part_of_image_and_mask():
    transform = train_transform(64, hflip=0.5)
    corners = set()
    for _ in range(40):
        image, labels = transform(*position_coded(120, 100))
        x, y = (255 * image[:2]).round().long()
        assert image.shape == (3, 64, 64)
        assert torch.equal(labels.long(), x // 40 + 3 * (y // 40))
        corners.add((int(x[0, 0]), int(y[0, 0]), int(x[0, -1])))
    assert {left < right for left, _, right in corners} == {True, False}  # some are mirrored
    assert len({top for _, top, _ in corners}) > 5


@pytest.mark.parametrize("photometric", [True, False])
def test_colors_change_where_the_recipe_says_so(photometric: bool):
    image = Image.new("RGB", (64, 64), (180, 90, 60))
    transform = train_transform(64, photometric=photometric)
    seen = {tuple(transform(image, Image.new("L", image.size))[0][:, 5, 5].tolist()) for _ in range(40)}
    assert (len(seen) > 20) == photometric


def test_what_a_crop_does_not_fill_has_no_label_and_the_mean_color():
    transform = train_transform(64, colors=Normalization((0.5, 0.5, 0.5), (0.1, 0.1, 0.1)), photometric=True)
    image, labels = transform(*position_coded(50, 40))
    assert (labels[40:] == UNLABELLED).all()
    assert (labels[:, 50:] == UNLABELLED).all()
    assert (labels[:40, :50] != UNLABELLED).all()
    assert (image[:, 40:] == 0).all()


def test_the_random_scale_stays_in_its_range_and_keeps_the_ratio():
    transform = train_transform(400, box=ResizeBox(50, 1000), scale=(0.5, 2.0))
    heights = []
    for _ in range(30):
        labelled = transform(*position_coded(200, 100))[1] != UNLABELLED
        height, width = int(labelled.any(1).sum()), int(labelled.any(0).sum())
        assert abs(width - 2 * height) <= 1
        heights.append(height)
    assert 25 <= min(heights) < 40
    assert 80 < max(heights) <= 100


@pytest.mark.parametrize(
    ("size", "expected"), [((640, 480), (683, 512)), ((3000, 500), (2048, 341)), ((100, 200), (512, 1024))]
)
def test_the_box_bounds_both_sides(size: tuple[int, int], expected: tuple[int, int]):
    assert ResizeBox(512, 2048)(size) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((683, 512), (704, 512)),  # 683 is between 21 and 22 times 32
        ((500, 375), (704, 512)),  # 375 becomes 512, 500 becomes 682.7; 704 is the next multiple
        ((640, 480), (704, 512)),
        ((2000, 300), (2048, 320)),  # the longer side is at its bound: 2000 becomes 2048, 300 becomes 307.2
        ((512, 512), (512, 512)),  # multiples stay
    ],
)
def test_validation_images_are_aligned_as_by_align_resize(size: tuple[int, int], expected: tuple[int, int]):
    """Worked out by hand: keep the ratio within (2048, 512), then round both sides up to multiples of 32."""
    assert ResizeBox(512, 2048, divisor=32)(size) == expected


def test_a_crop_of_one_class_is_drawn_again():
    labels = np.zeros((64, 160), dtype=np.uint8)
    labels[:, 120:] = 1
    image, mask = Image.new("RGB", (160, 64)), Image.fromarray(labels)

    def balanced(share: float) -> int:
        torch.manual_seed(0)
        transform = train_transform(64, max_class_share=share)
        return sum(bool(transform(image, mask)[1].float().mean() > 0.25) for _ in range(40))

    assert balanced(1.0) <= 20  # a quarter of the places
    assert balanced(0.75) >= 30


def test_validation_keeps_the_mask_as_it_is():
    image, labels = ValTransform(WholeImage(ResizeBox(50, 2048), PLAIN))(*position_coded(120, 100))
    assert (tuple(image.shape), tuple(labels.shape)) == ((3, 50, 60), (100, 120))
