"""From an image and COCO annotations to what detectors learn from, and to what their evaluation needs."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.ops import box_convert
from torchvision.transforms.v2 import functional as F

from fastvit.tasks.detection.coco import Annotation, clipped, is_tiny
from fastvit.tasks.detection.masks import decode_masks


class TrainSamples(Dataset):
    """An image (3, H, W), colors from 0 to 1, and torchvision's target: boxes (N, 4) as corners, labels (N,), masks.

    Of the annotations it takes those that are `learnable`.

    Args:
        source: images with annotations, such as `CocoImages`.
        hflip: probability of mirroring.
        masks: whether targets have masks (N, H, W), uint8.
    """

    def __init__(self, source: Dataset, *, hflip: float, masks: bool):
        self.source, self.hflip, self.masks = source, hflip, masks

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        picture, annotations = self.source[index]
        objects = learnable(annotations, *picture.size)
        image = image_tensor(picture)
        target = target_of(objects, image.shape[1:], masks=self.masks)
        if torch.rand(()) < self.hflip:
            image, target = _mirrored(image, target)
        return image, target


class ValSamples(Dataset):
    """An image (3, H, W), colors from 0 to 1, and its annotations with the number of the image."""

    def __init__(self, source: Dataset):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        picture, annotations = self.source[index]
        return image_tensor(picture), {"image_id": index + 1, "annotations": annotations}


def learnable(annotations: Sequence[Annotation], width: int, height: int) -> list[Annotation]:
    """What a detector can learn from: boxes within the image, at least a pixel wide and high.

    Crowds are left out, because they mark where many objects are and are none themselves; so are masks without a pixel.

    Args:
        annotations: of an image of this size; a `segmentation` in COCO's compressed run-length encoding.
    """
    objects = [{**each, "bbox": clipped(each["bbox"], width, height)} for each in annotations if not each["iscrowd"]]
    return [each for each in objects if not is_tiny(each["bbox"]) and not _is_empty(each)]


def target_of(annotations: Sequence[Annotation], size: tuple[int, int], *, masks: bool) -> dict[str, Tensor]:
    """torchvision's target: boxes (N, 4) as corners, labels (N,), and masks (N, *size), uint8.

    Args:
        size: (height, width) of the image.
        masks: whether there are masks; each object must then have one.
    """
    boxes = torch.tensor([each["bbox"] for each in annotations], dtype=torch.float32).reshape(-1, 4)
    target = {
        "boxes": box_convert(boxes, "xywh", "xyxy"),
        "labels": torch.tensor([each["category_id"] for each in annotations], dtype=torch.long),
    }
    if masks:
        target["masks"] = decode_masks([each["segmentation"] for each in annotations], *size)
    return target


def image_tensor(image: Image.Image) -> Tensor:
    """(3, H, W), colors from 0 to 1."""
    return F.to_dtype(F.pil_to_tensor(image), torch.float32, scale=True)


def _mirrored(image: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    left, top, right, bottom = target["boxes"].unbind(1)
    width = image.shape[-1]
    mirrored = {**target, "boxes": torch.stack([width - right, top, width - left, bottom], 1)}
    if "masks" in target:
        mirrored["masks"] = target["masks"].flip(-1)
    return image.flip(-1), mirrored


def _is_empty(annotation: Annotation) -> bool:
    from pycocotools import mask as mask_tools

    return "segmentation" in annotation and not mask_tools.area(annotation["segmentation"])
