"""The demo of detection: scenes of digits with their boxes and masks."""

import torch
from PIL import Image
from torchvision.ops import box_convert, masks_to_boxes

from fastvit.data.digit_scenes import DigitScenes
from fastvit.data.digits import Digits
from fastvit.tasks.detection.coco import Annotation
from fastvit.tasks.detection.masks import encode_masks


class DigitObjects(DigitScenes):
    """Pairs of an image and its digits as COCO annotations; label d + 1 is digit d."""

    classes = Digits.classes
    groups = None  # all are square
    notices = ()

    def __getitem__(self, index: int) -> tuple[Image.Image, list[Annotation]]:
        scene = super().__getitem__(index)
        boxes = box_convert(masks_to_boxes(scene.masks) + torch.tensor([0, 0, 1, 1]), "xyxy", "xywh").tolist()
        parts = zip(scene.digits.tolist(), boxes, encode_masks(scene.masks), strict=True)
        return scene.image, [
            {"category_id": digit + 1, "bbox": box, "area": int(mask.sum()), "iscrowd": 0, "segmentation": code}
            for (digit, box, code), mask in zip(parts, scene.masks, strict=True)
        ]
