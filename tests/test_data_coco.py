"""Annotation files in COCO's format: what they say becomes targets; what is wrong with them is said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2

from coco_files import HEIGHT, WIDTH, annotation, compressed, content, polygon, rectangle, save_coco
from fastvit.errors import DataError
from fastvit.tasks.detection.coco import CocoImages
from fastvit.tasks.detection.samples import TrainSamples, ValSamples, decode_masks, encode_masks


def open_coco(root: Path, *, masks: bool = True) -> CocoImages:
    return CocoImages(root / "train2017", root / "annotations" / "instances_train2017.json", masks=masks)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    save_coco(tmp_path)
    return tmp_path


def test_labels_follow_the_order_of_the_category_ids(root: Path):
    images = open_coco(root)
    assert images.classes == ("cat", "dog", "bird")
    labels = [[each["category_id"] for each in annotations] for _, annotations in (images[i] for i in range(3))]
    assert labels == [[1, 2], [3, 1], []]
    assert any("the category ids 3 to 90 become the labels 1 to 3" in notice for notice in images.notices)


def test_targets_are_torchvision_s_but_for_crowds_and_labels(root: Path):
    """torchvision's own reading of the same files, with v2's wrapper."""
    theirs = wrap_dataset_for_transforms_v2(
        CocoDetection(root / "train2017", root / "annotations" / "instances_train2017.json"),
        target_keys=("boxes", "labels", "masks", "iscrowd"),
    )
    ours = TrainSamples(open_coco(root), hflip=0.0, masks=True)
    to_label = {3: 1, 7: 2, 90: 3}
    for i in range(2):
        image, expected = theirs[i]
        pixels, target = ours[i]
        kept = [j for j, crowd in enumerate(expected["iscrowd"]) if not crowd]
        torch.testing.assert_close(target["boxes"], expected["boxes"][kept].as_subclass(torch.Tensor).float())
        assert target["labels"].tolist() == [to_label[int(expected["labels"][j])] for j in kept]
        assert torch.equal(target["masks"], expected["masks"][kept].as_subclass(torch.Tensor))
        torch.testing.assert_close(pixels, torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255)


def test_an_image_without_objects_is_background(root: Path):
    images = open_coco(root)
    _, target = TrainSamples(images, hflip=1.0, masks=True)[2]
    assert {name: tuple(value.shape) for name, value in target.items()} == {
        "boxes": (0, 4),
        "labels": (0,),
        "masks": (0, HEIGHT, WIDTH),
    }
    assert any("1 of 3 images have no objects" in notice for notice in images.notices)


def test_mirroring_moves_boxes_and_masks_with_the_image(root: Path):
    plain, mirrored = (TrainSamples(open_coco(root), hflip=p, masks=True)[0] for p in (0.0, 1.0))
    assert torch.equal(mirrored[0], plain[0].flip(-1))
    for mask, box in zip(mirrored[1]["masks"], mirrored[1]["boxes"], strict=True):
        rows, columns = mask.nonzero().unbind(1)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert not torch.equal(mirrored[1]["boxes"], plain[1]["boxes"])


def test_validation_samples_keep_crowds_and_carry_their_annotations(root: Path):
    _, target = ValSamples(open_coco(root))[1]
    assert target["image_id"] == 2
    assert [each["iscrowd"] for each in target["annotations"]] == [0, 1]
    masks = decode_masks(target["annotations"], HEIGHT, WIDTH)
    assert np.array_equal(masks[1].numpy(), rectangle(50, 10, 75, 55))


def test_masks_survive_coding():
    masks = torch.rand(3, 20, 30) > 0.5
    coded = [{"segmentation": code} for code in encode_masks(masks)]
    assert torch.equal(decode_masks(coded, 20, 30).bool(), masks)
    assert encode_masks(masks[:0]) == []


def changed(root: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    data = content()
    change(data)
    save_coco(root, data)
    return root


def test_degenerate_objects_are_left_out_and_counted(root: Path):
    def add(data: dict[str, Any]) -> None:
        data["annotations"] += [
            annotation(21, 13, 3, (10, 10, 10, 20), polygon(10, 10, 11, 20)),  # no width
            annotation(22, 13, 3, (85, 10, 95, 20), polygon(85, 10, 95, 20)),  # beside the image
            annotation(23, 13, 3, (10, 10, 20, 20), [[10, 10, 20, 20]]),  # two points
            annotation(24, 13, 3, (70, 50, 90, 70), polygon(70, 50, 90, 70)),  # partly outside
        ]

    images = open_coco(changed(root, add))
    assert any(
        "3 objects are less than a pixel wide or high and are left out, such as annotation 21" in n
        for n in images.notices
    )
    (kept,) = images[2][1]
    assert kept["bbox"] == [70, 50, 10, 10]
    assert len(open_coco(root, masks=False)[2][1]) == 2  # without masks, nobody asks for the polygon


def replace(part: str, index: int, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data[part][index].update(values)


def remove(part: str, index: int, key: str) -> Callable[[dict[str, Any]], None]:
    return lambda data: data[part][index].pop(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(images=[]), r"instances_train2017\.json has no images"),
        (lambda data: data.pop("images"), "has no list of images: it is not an annotation file"),
        (lambda data: data.update(categories=[]), "has no categories"),
        (lambda data: data["categories"].append({"id": 3, "name": "fox"}), "has a category id twice"),
        (lambda data: data["images"].append(data["images"][0]), "has an image id twice"),
        (replace("images", 0, file_name="gone.jpg"), r"train2017 lacks images that .* names: gone\.jpg"),
        (remove("images", 1, "width"), "number 1 of images has no width"),
        (replace("annotations", 2, image_id=99), "annotation 3 is of image 99, which is not among"),
        (replace("annotations", 2, category_id=8), "annotation 3 is of category 8, which is not among"),
        (replace("annotations", 0, bbox=[1, 2, 3]), r"annotation 1 has the bbox \[1, 2, 3\]: expected four numbers"),
        (replace("annotations", 0, segmentation=[]), "annotation 1 has no segmentation, which Mask R-CNN needs"),
        (
            replace("annotations", 1, segmentation=compressed(np.ones((50, 80), dtype=np.uint8))),
            "the mask of annotation 2 is 80x50 pixels, but its image is 80x60",
        ),
    ],
)
def test_what_is_wrong_with_the_file_is_said(root: Path, change: Callable[[dict[str, Any]], None], message: str):
    with pytest.raises(DataError, match=message):
        open_coco(changed(root, change))


def test_boxes_alone_need_no_segmentation(root: Path):
    images = open_coco(changed(root, remove("annotations", 0, "segmentation")), masks=False)
    assert set(images[0][1][0]) == {"bbox", "category_id", "area", "iscrowd"}


@pytest.mark.parametrize("checked", [True, False])
def test_an_image_of_another_size_than_the_file_says(root: Path, checked: bool):
    Image.new("RGB", (70, 60)).save(root / "train2017" / "12.jpg")
    images = open_coco(root)
    with pytest.raises(DataError, match=r"12\.jpg is 70x60 pixels, but .*\.json says 80x60"):
        images.check() if checked else images[1]


def test_an_image_that_cannot_be_read(root: Path):
    (root / "train2017" / "12.jpg").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"12\.jpg cannot be read"):
        open_coco(root).check()


@pytest.mark.parametrize(
    ("text", "message"), [("{", r"is not JSON"), ("[]", "has no list of images"), (None, "there is no annotation file")]
)
def test_a_file_that_is_none(root: Path, text: str | None, message: str):
    path = root / "annotations" / "instances_train2017.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(DataError, match=message):
        open_coco(root)


def test_a_missing_folder_of_images(root: Path):
    (root / "train2017").rename(root / "elsewhere")
    with pytest.raises(DataError, match="train2017 is not a folder; expected COCO's layout"):
        open_coco(root)
