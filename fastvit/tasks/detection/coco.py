"""Images with objects, from annotation files in COCO's format ("instances"), with errors that say what is wrong."""

import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset

from fastvit.data.packed import Packed
from fastvit.data.reading import annotated_size, read_annotated
from fastvit.errors import DataError, some
from fastvit.tasks.detection.masks import run_lengths

LAYOUT = (
    "expected COCO's layout: <root>/train2017/*.jpg and <root>/annotations/instances_train2017.json, the same for val"
)
SMALLEST_SIDE = 1.0  # pixels, of a box to learn from
ADVICE = "repair it, or remove it and its annotations"  # about a file that cannot be read

Annotation = dict[str, Any]  # COCO's keys: bbox [x, y, w, h], category_id, area, iscrowd, and segmentation if any


class CocoImages(Dataset):
    """RGB images, each with its annotations.

    Labels (`category_id` in what `__getitem__` returns) are 1 to the number of categories, in the order of the file's
    category ids, whatever those are. All else is as annotated, because evaluation follows the file; `learnable` tells
    what to learn from. An image without objects stays, as background.

    Args:
        folder: of the images.
        file: the annotations.
        masks: whether to read the objects' masks; each object must then have one.

    Attributes:
        classes: names of the categories; label i is `classes[i - 1]`.
        category_ids: those of the file, in the same order.
        groups: (N,), 1 for images that are wider than high, else 0, for batches of like images.
        notices: what is special about the file, in sentences.

    Raises:
        DataError: files are missing or not as they should be.
    """

    def __init__(self, folder: Path, file: Path, *, masks: bool):
        self.folder, self.file, self.masks = folder, file, masks
        self.notices: list[str] = []
        content = _read(file)
        labels = self._map_categories(content["categories"])
        images = self._checked_images(content["images"])
        self.groups = torch.tensor([int(image["width"] > image["height"]) for image in images])
        self.images = Packed(images)
        self._annotations = Packed(self._by_image(images, content["annotations"], labels))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, list[Annotation]]:
        """The image, and its annotations; a `segmentation` is in COCO's compressed run-length encoding."""
        entry = self.images[index]
        image = read_annotated(self.folder / entry["file_name"], (entry["width"], entry["height"]), advice=ADVICE)
        self._require_size(entry, image.size)
        annotations = self._annotations[index]
        if self.masks:
            for annotation in annotations:
                annotation["segmentation"] = run_lengths(annotation["segmentation"], image.height, image.width)
        return image, annotations

    def check(self) -> None:
        """Read the header of every image.

        Raises:
            DataError: an image cannot be read, or has another size than the annotations say, which name it.
        """
        with ThreadPoolExecutor() as threads:
            for _ in threads.map(self._check_image, self.images):
                pass

    def _check_image(self, entry: Mapping[str, Any]) -> None:
        size = (entry["width"], entry["height"])
        self._require_size(entry, annotated_size(self.folder / entry["file_name"], size, advice=ADVICE))

    def _require_size(self, entry: Mapping[str, Any], size: tuple[int, int]) -> None:
        if size != (entry["width"], entry["height"]):
            raise DataError(
                f"image {self.folder / entry['file_name']} is {size[0]}x{size[1]} pixels, but {self.file} says "
                f"{entry['width']}x{entry['height']}: boxes and masks would not fit; correct one of them"
            )

    def _map_categories(self, categories: Sequence[Mapping[str, Any]]) -> dict[int, int]:
        """From the file's category ids to labels from 1."""
        names = {category["id"]: category["name"] for category in categories}
        if len(names) < len(categories) or not names:
            raise DataError(f"{self.file} has {'a category id twice' if names else 'no categories'}")
        ids = sorted(names)
        self.category_ids = tuple(ids)
        self.classes = tuple(names[each] for each in ids)
        if ids != list(range(1, len(ids) + 1)):
            self.notices.append(
                f"{self.file}: the category ids {ids[0]} to {ids[-1]} become the labels 1 to {len(ids)}, in their order"
            )
        return {category: label for label, category in enumerate(ids, 1)}

    def _checked_images(self, images: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        if not images:
            raise DataError(f"{self.file} has no images; {LAYOUT}")
        if not self.folder.is_dir():
            raise DataError(f"{self.folder} is not a folder; {LAYOUT}")
        if len({image["id"] for image in images}) < len(images):
            raise DataError(f"{self.file} has an image id twice")
        missing = [image["file_name"] for image in images if not (self.folder / image["file_name"]).is_file()]
        if missing:
            raise DataError(f"{self.folder} lacks images that {self.file} names: {some(missing, 3)}")
        return images

    def _by_image(
        self,
        images: Sequence[Mapping[str, Any]],
        annotations: Sequence[Mapping[str, Any]],
        labels: Mapping[int, int],
    ) -> list[list[Annotation]]:
        """The annotations of each image, with labels."""
        of_image: dict[Any, list[Annotation]] = {image["id"]: [] for image in images}
        sizes = {image["id"]: (image["width"], image["height"]) for image in images}
        tiny = []
        for annotation in annotations:
            self._require_sound(annotation, sizes, labels)
            box = [float(value) for value in annotation["bbox"]]
            entry = {
                "bbox": box,
                "category_id": labels[annotation["category_id"]],
                "area": annotation.get("area", box[2] * box[3]),
                "iscrowd": annotation.get("iscrowd", 0),
            }
            if self.masks:
                entry["segmentation"] = annotation["segmentation"]
            of_image[annotation["image_id"]].append(entry)
            if is_tiny(clipped(box, *sizes[annotation["image_id"]])):
                tiny.append(annotation["id"])
        if tiny:
            self.notices.append(
                f"{self.file}: {len(tiny)} objects are less than a pixel wide or high within their image, such as "
                f"annotation {tiny[0]}: they count in evaluation, but nothing is learned from them"
            )
        if empty := sum(not each for each in of_image.values()):
            self.notices.append(f"{self.file}: {empty} of {len(of_image)} images have no objects and are background")
        return list(of_image.values())

    def _require_sound(
        self, annotation: Mapping[str, Any], sizes: Mapping[Any, tuple[int, int]], labels: Mapping[int, int]
    ) -> None:
        where = f"{self.file}: annotation {annotation.get('id')}"
        if annotation.get("image_id") not in sizes:
            raise DataError(f"{where} is of image {annotation.get('image_id')}, which is not among the file's images")
        if annotation.get("category_id") not in labels:
            raise DataError(
                f"{where} is of category {annotation.get('category_id')}, which is not among the file's categories"
            )
        box = annotation.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(math.isfinite(value) for value in box):
            raise DataError(f"{where} has the bbox {box}: expected four numbers, [x, y, width, height]")
        if not self.masks:
            return
        segmentation = annotation.get("segmentation")
        if not segmentation:
            raise DataError(f"{where} has no segmentation, which Mask R-CNN needs; set model.detector=retinanet")
        width, height = sizes[annotation["image_id"]]
        if isinstance(segmentation, dict) and list(segmentation["size"]) != [height, width]:
            raise DataError(
                f"{self.file}: the mask of annotation {annotation.get('id')} is {segmentation['size'][1]}x"
                f"{segmentation['size'][0]} pixels, but its image is {width}x{height}: they must be of one size"
            )


def is_tiny(box: Sequence[float]) -> bool:
    """Whether a box [x, y, width, height] is too small to learn from."""
    return min(box[2:]) < SMALLEST_SIDE


def clipped(box: Sequence[float], width: int, height: int) -> list[float]:
    """The part of a box [x, y, width, height] that is within an image of this size."""
    left, top = (min(max(float(box[i]), 0.0), side) for i, side in enumerate((width, height)))
    right, bottom = (min(max(float(box[i] + box[i + 2]), 0.0), side) for i, side in enumerate((width, height)))
    return [left, top, right - left, bottom - top]


def _read(file: Path) -> dict[str, Any]:
    """The three lists of an annotation file, whose entries have at least the keys that everything hangs on."""
    if not file.is_file():
        raise DataError(f"there is no annotation file {file}; {LAYOUT}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is not JSON ({error})") from error
    keys = {"images": ("id", "file_name", "width", "height"), "categories": ("id", "name"), "annotations": ("id",)}
    for name, wanted in keys.items():
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise DataError(f"{file} has no list of {name}: it is not an annotation file in COCO's format")
        for position, entry in enumerate(entries):
            if lacking := [key for key in wanted if key not in entry]:
                raise DataError(f"{file}: number {position} of {name} has no {lacking[0]}")
    return content
