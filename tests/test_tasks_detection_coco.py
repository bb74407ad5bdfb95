"""Annotation files in COCO's format: what they say becomes targets; what is wrong with them is said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coco_files import (
    add_odd_objects,
    compressed,
    content,
    open_coco,
    save_coco,
)
from fastvit.errors import DataError


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


def changed(root: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    data = content()
    change(data)
    save_coco(root, data)
    return root


def test_annotations_stay_as_they_are_and_what_is_special_is_said(root: Path):
    images = open_coco(changed(root, add_odd_objects))
    assert [each["bbox"] for each in images[2][1]] == [
        [10, 10, 0, 10],
        [85, 10, 10, 10],
        [10, 10, 10, 10],
        [70, 50, 20, 20],
    ]
    assert any(
        "2 objects are less than a pixel wide or high within their image, such as annotation 21" in notice
        for notice in images.notices
    )


def test_groups_are_wide_images_and_all_others_as_in_mmdetection(root: Path):
    def resize(data: dict[str, Any]) -> None:
        data["images"][1].update(width=59)
        data["images"][2].update(width=60)  # square

    assert open_coco(changed(root, resize), masks=False).groups.tolist() == [1, 0, 0]


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
