"""What a detector says about single images."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.v2 import functional as F

from fastvit.data.reading import too_far_from_square
from fastvit.models.detection import PyramidMaskRCNN, PyramidRetinaNet
from fastvit.predictor import Prediction, Predictor, Shown
from fastvit.reparam import reparameterize_model
from fastvit.tasks.detection.masks import encode_masks
from fastvit.tasks.drawing import distinct_colors, draw_boxes, enlarged

SIDES = ("left", "top", "right", "bottom")
OPAQUENESS = 128  # of masks on the image, of 255


@dataclass(frozen=True)
class Objects(Prediction):
    """What was found in an image, the surest first; all on the CPU.

    Attributes:
        names: of all classes; label i is `names[i - 1]`.
        size: (height, width) of the image.
        boxes: (N, 4), left, top, right and bottom in pixels.
        labels: (N,), from 1.
        scores: (N,), from 0 to 1.
        small_masks: (N, 1, 28, 28), from 0 to 1 within each box; None by a detector of boxes only.
    """

    names: tuple[str, ...]
    size: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    scores: Tensor
    small_masks: Tensor | None = None

    def sure(self, score: float) -> "Objects":
        """Those with at least this score."""
        kept = self.scores >= score
        masks = None if self.small_masks is None else self.small_masks[kept]
        return Objects(self.names, self.size, self.boxes[kept], self.labels[kept], self.scores[kept], masks)

    def masks(self) -> Tensor | None:
        """(N, H, W) bool: where the objects are in the image."""
        if self.small_masks is None:
            return None
        parts = zip(self.small_masks.split(1), self.boxes.split(1), strict=True)  # one at a time takes a fifth of it
        masks = [paste_masks_in_image(mask, box, self.size)[:, 0] > 0.5 for mask, box in parts]
        return torch.cat([torch.zeros(0, *self.size, dtype=torch.bool), *masks])

    def rows(self, shown: Shown = Shown()) -> list[tuple[Any, ...]]:
        sure = self.sure(shown.score)
        return [
            (name, f"{score:.4f}", *(f"{side:.2f}" for side in box))
            for name, score, box in zip(sure.classes(), sure.scores.tolist(), sure.boxes.tolist(), strict=True)
        ]

    def to_dict(self, shown: Shown = Shown()) -> dict[str, Any]:
        """Masks are in COCO's compressed run-length encoding."""
        sure = self.sure(shown.score)
        objects: list[dict[str, Any]] = [
            {"label": name, "score": round(score, 4), "box": [round(side, 2) for side in box]}
            for name, score, box in zip(sure.classes(), sure.scores.tolist(), sure.boxes.tolist(), strict=True)
        ]
        if (masks := sure.masks()) is not None:
            for each, code in zip(objects, encode_masks(masks), strict=True):
                each["mask"] = {"size": code["size"], "counts": code["counts"].decode()}
        return {"objects": objects}

    def summary(self, shown: Shown = Shown()) -> str:
        return ", ".join(self.sure(shown.score)._texts()) or "no objects"

    def draw(self, image: Image.Image, shown: Shown = Shown()) -> Image.Image:
        """The image with a frame around each object, its class and score, and under the color of its mask."""
        sure = self.sure(shown.score)
        picture, colors = image.convert("RGB"), distinct_colors(len(sure.boxes))
        if (masks := sure.masks()) is not None:
            for mask, color in zip(masks, colors, strict=True):
                picture.paste(color, mask=Image.fromarray(OPAQUENESS * mask.byte().numpy()))
        picture, factor = enlarged(picture)
        draw_boxes(picture, (factor * sure.boxes).tolist(), sure._texts(), colors)
        return picture

    def classes(self) -> list[str]:
        """The class of each object."""
        return [self.names[label - 1] for label in self.labels.tolist()]

    def _texts(self) -> list[str]:
        return [f"{name} {score:.2f}" for name, score in zip(self.classes(), self.scores.tolist(), strict=True)]


class SmallMasks(GeneralizedRCNNTransform):
    """As torchvision's, but masks stay as the head gives them.

    A hundred in the size of an image of 12 million pixels take 5 GB, and most of them belong to unsure objects.
    """

    def postprocess(self, result: list[dict[str, Tensor]], *sizes: Any) -> list[dict[str, Tensor]]:
        masks = [each.pop("masks", None) for each in result]
        for each, small in zip(super().postprocess(result, *sizes), masks, strict=True):
            if small is not None:
                each["masks"] = small
        return result


class Detector(Predictor):
    """Objects, by a copy of the network."""

    network: PyramidMaskRCNN | PyramidRetinaNet
    labels: tuple[str, ...]

    @cached_property
    def finder(self) -> nn.Module:
        """The copy that is asked: fused, in eval mode, with masks of 28x28 pixels within each box."""
        fused = reparameterize_model(self.network)
        own = fused.transform
        fused.transform = SmallMasks(own.min_size, own.max_size, own.image_mean, own.image_std).eval()
        return fused

    def columns(self, shown: Shown = Shown()) -> tuple[str, ...]:
        return ("label", "score", *SIDES)

    def prepare(self, image: Image.Image) -> Tensor:
        """(3, H, W) uint8, which the network resizes and normalises. Raises UnreadableImage if that leaves nothing."""
        box = self.network.transform
        scale = min(box.min_size[-1] / min(image.size), box.max_size / max(image.size))
        if scale * min(image.size) < 1:
            raise too_far_from_square(f"resized, nothing is left of {image.width} x {image.height} px")
        return F.pil_to_tensor(image)

    @torch.inference_mode()
    def predict(self, prepared: Sequence[Tensor]) -> list[Objects]:
        found = []
        # Images of different sizes would be padded to one, which changes features near the edges.
        for _, alike in groupby(prepared, key=lambda image: image.shape):
            found += self.finder([image.to(self.device) / 255 for image in alike])
        names = tuple(self.labels)
        on_cpu = [{name: value.cpu() for name, value in each.items()} for each in found]
        return [
            Objects(names, tuple(image.shape[1:]), each["boxes"], each["labels"], each["scores"], each.get("masks"))
            for image, each in zip(prepared, on_cpu, strict=True)
        ]
