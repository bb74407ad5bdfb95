"""A small dataset in COCO's layout: polygons, both run-length codes, a crowd, an image without objects."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_tools

from fastvit.tasks.detection.coco import CocoImages

HEIGHT, WIDTH = 60, 80
CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 90, "name": "bird"}]  # labels 2, 1, 3


def rectangle(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def polygon(left: int, top: int, right: int, bottom: int) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    flat = mask.flatten(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, len(flat)]).tolist()
    return {"size": list(mask.shape), "counts": counts if flat[0] == 0 else [0, *counts]}


def compressed(mask: np.ndarray) -> dict[str, Any]:
    code = mask_tools.encode(np.asfortranarray(mask))
    return {"size": code["size"], "counts": code["counts"].decode()}


def annotation(number: int, image: int, category: int, corners: tuple[int, ...], segmentation: Any, **other: Any):
    left, top, right, bottom = corners
    box = [left, top, right - left, bottom - top]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": 0,
        "segmentation": segmentation,
        **other,
    }


def content() -> dict[str, Any]:
    """Image 11: a cat and a dog. 12: a bird and a crowd of cats. 13: nothing."""
    cat, dog, bird, crowd = (10, 10, 30, 40), (40, 20, 70, 50), (5, 5, 45, 35), (50, 10, 75, 55)
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": WIDTH, "height": HEIGHT} for i in (11, 12, 13)],
        "categories": [dict(category) for category in CATEGORIES],
        "annotations": [
            annotation(1, 11, 3, cat, polygon(*cat)),
            annotation(2, 11, 7, dog, compressed(rectangle(*dog))),
            annotation(3, 12, 90, bird, uncompressed(rectangle(*bird))),
            annotation(4, 12, 3, crowd, uncompressed(rectangle(*crowd)), iscrowd=1),
        ],
    }


def save_coco(root: Path, data: dict[str, Any] | None = None) -> None:
    """Both splits, of the same images."""
    data = data or content()
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split in ("train2017", "val2017"):
        (root / split).mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(data))
        for image in content()["images"]:
            Image.new("RGB", (WIDTH, HEIGHT), "gray").save(root / split / image["file_name"])


def open_coco(root: Path, *, masks: bool = True) -> CocoImages:
    return CocoImages(root / "train2017", root / "annotations" / "instances_train2017.json", masks=masks)


def add_odd_objects(data: dict[str, Any]) -> None:
    """To image 13: what an evaluation by the file must count, but of which only a part of one can be learned from."""
    data["annotations"] += [
        annotation(21, 13, 3, (10, 10, 10, 20), polygon(10, 10, 11, 20)),  # no width
        annotation(22, 13, 3, (85, 10, 95, 20), polygon(85, 10, 95, 20)),  # beside the image
        annotation(23, 13, 3, (10, 10, 20, 20), [[10, 10, 20, 20]]),  # a polygon of two points
        annotation(24, 13, 3, (70, 50, 90, 70), polygon(70, 50, 90, 70)),  # partly outside
    ]
