"""From an image and COCO annotations to what detectors learn from, and to what their evaluation needs."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.ops import box_convert
from torchvision.transforms.v2 import functional as F

from fastvit.tasks.detection.coco import Annotation


class TrainSamples(Dataset):
    """An image (3, H, W), colors from 0 to 1, and torchvision's target: boxes (N, 4) as corners, labels (N,), masks.

    Crowds are left out: they mark where many objects are, and are none themselves.

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
        objects = [annotation for annotation in annotations if not annotation["iscrowd"]]
        image = image_tensor(picture)
        boxes = torch.tensor([each["bbox"] for each in objects], dtype=torch.float32).reshape(-1, 4)
        target = {
            "boxes": box_convert(boxes, "xywh", "xyxy"),
            "labels": torch.tensor([each["category_id"] for each in objects], dtype=torch.long),
        }
        if self.masks:
            target["masks"] = decode_masks(objects, *image.shape[1:])
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


def image_tensor(image: Image.Image) -> Tensor:
    """(3, H, W), colors from 0 to 1."""
    return F.to_dtype(F.pil_to_tensor(image), torch.float32, scale=True)


def decode_masks(annotations: list[Annotation], height: int, width: int) -> Tensor:
    """(N, height, width) uint8 of annotations with run-length encoded masks."""
    from pycocotools import mask as mask_tools

    if not annotations:
        return torch.zeros(0, height, width, dtype=torch.uint8)
    masks = mask_tools.decode([each["segmentation"] for each in annotations])  # (H, W, N)
    return torch.from_numpy(np.ascontiguousarray(masks.transpose(2, 0, 1)))


def encode_masks(masks: Tensor) -> list[dict[str, Any]]:
    """COCO's run-length encoding of each of (N, H, W) bool, on the CPU."""
    from pycocotools import mask as mask_tools

    if not len(masks):
        return []
    return mask_tools.encode(np.asfortranarray(masks.permute(1, 2, 0).numpy().astype(np.uint8)))


def _mirrored(image: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    left, top, right, bottom = target["boxes"].unbind(1)
    width = image.shape[-1]
    mirrored = {**target, "boxes": torch.stack([width - right, top, width - left, bottom], 1)}
    if "masks" in target:
        mirrored["masks"] = target["masks"].flip(-1)
    return image.flip(-1), mirrored
