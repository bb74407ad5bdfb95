"""The objects in any image, and a picture of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from fastvit.models.detection import PyramidMaskRCNN, PyramidRetinaNet
from fastvit.reparam import reparameterize_model
from fastvit.tasks.detection.masks import encode_masks
from fastvit.tasks.detection.metrics import CONFIDENT
from fastvit.tasks.drawing import distinct_colors, draw_boxes, enlarged
from fastvit.tasks.predictor import Predictor

SIDES = ("left", "top", "right", "bottom")
OPAQUENESS = 128  # of masks on the image, of 255


@dataclass(frozen=True)
class Objects:
    """What was found in an image, the surest first; all on the CPU.

    Attributes:
        boxes: (N, 4), left, top, right and bottom in pixels of the image.
        labels: (N,), from 1.
        scores: (N,), from 0 to 1.
        masks: (N, H, W) bool, in the size of the image; None by a detector of boxes only.
        class_names: of the labels from 1 on.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: Tensor | None
    class_names: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Of the classes of the objects."""
        return [self.class_names[label - 1] for label in self.labels.tolist()]

    def rows(self) -> list[dict[str, Any]]:
        """Each object: its label, score and box, and its mask in COCO's run-length encoding if it has one."""
        parts = zip(self.names, self.scores.tolist(), self.boxes.tolist(), strict=True)
        rows: list[dict[str, Any]] = [
            {"label": name, "score": round(score, 4)} | dict(zip(SIDES, (round(side, 2) for side in box), strict=True))
            for name, score, box in parts
        ]
        if self.masks is not None:
            for row, code in zip(rows, encode_masks(self.masks), strict=True):
                row["mask"] = {"size": code["size"], "counts": code["counts"].decode()}
        return rows

    def draw(self, image: Image.Image) -> Image.Image:
        """The image with a frame around each object, its class and score, and under the color of its mask."""
        picture, colors = image.convert("RGB"), distinct_colors(len(self.boxes))
        if self.masks is not None:
            for mask, color in zip(self.masks, colors, strict=True):
                picture.paste(color, mask=Image.fromarray(OPAQUENESS * mask.byte().numpy()))
        picture, factor = enlarged(picture)
        texts = [f"{name} {score:.2f}" for name, score in zip(self.names, self.scores.tolist(), strict=True)]
        draw_boxes(picture, (factor * self.boxes).tolist(), texts, colors)
        return picture


@dataclass(frozen=True)
class Detector(Predictor):
    """Objects by a network as `sure_only` makes it.

    Attributes:
        network: takes images of any sizes, as torchvision's detectors do.
        class_names: of the labels from 1 on.
        device: where the network is.
    """

    network: nn.Module
    class_names: tuple[str, ...]
    device: torch.device | str = "cpu"

    def prepare(self, image: Image.Image) -> Tensor:
        return F.pil_to_tensor(image.convert("RGB"))  # (3, H, W) uint8: the network resizes and normalises

    @torch.inference_mode()
    def predict(self, prepared: Sequence[Tensor]) -> list[Objects]:
        found = []
        # Images of other sizes would be padded to one, which changes features near the edges.
        for _, images in groupby(prepared, key=lambda image: image.shape):
            found += self.network([image.to(self.device) / 255 for image in images])
        return [self._objects(each) for each in found]

    def _objects(self, found: dict[str, Tensor]) -> Objects:
        masks = (found["masks"][:, 0] > 0.5).cpu() if "masks" in found else None
        boxes, labels, scores = (found[name].cpu() for name in ("boxes", "labels", "scores"))
        return Objects(boxes, labels, scores, masks, self.class_names)


def sure_only(detector: PyramidMaskRCNN | PyramidRetinaNet, least_score: float = CONFIDENT) -> nn.Module:
    """A fused copy in eval mode that finds only what has a higher score than this: the same objects and masks.

    Masks in the size of the image are then made for those alone. A hundred of 12 million pixels would take 5 GB.
    """
    copy = reparameterize_model(detector)
    scorer = copy.roi_heads if isinstance(copy, PyramidMaskRCNN) else copy
    scorer.score_thresh = least_score
    return copy
