"""The label map of any image, and a picture of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from fastvit.tasks.drawing import enlarged, with_legend
from fastvit.tasks.predictor import Predictor
from fastvit.tasks.segmentation.inference import Window, label_maps, predict
from fastvit.tasks.segmentation.picture import LEGEND_ENTRIES, OPACITY, class_colors
from fastvit.tasks.segmentation.transforms import Normalization, ResizeBox
from fastvit.training.task import Network


@dataclass(frozen=True)
class LabelMap:
    """Which class is where.

    Attributes:
        labels: (H, W) uint8, on the CPU.
        class_names: in the order of the labels.
    """

    labels: Tensor
    class_names: tuple[str, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Each class that is there, and its share of the pixels, the largest first."""
        pixels = self.labels.flatten().bincount()
        shares = [(count / self.labels.numel(), label) for label, count in enumerate(pixels.tolist()) if count]
        ordered = sorted(shares, key=lambda pair: -pair[0])
        return [{"label": self.class_names[label], "share": round(share, 6)} for share, label in ordered]

    def mask(self) -> Image.Image:
        """A picture whose pixels are the labels (mode P, the palette has the colors of the classes)."""
        mask = Image.fromarray(self.labels.numpy())
        mask.putpalette([part for color in class_colors(len(self.class_names)) for part in color])
        return mask

    def draw(self, image: Image.Image) -> Image.Image:
        """The image under the colors of its classes, whose names stand below."""
        picture, _ = enlarged(Image.blend(image.convert("RGB"), self.mask().convert("RGB"), OPACITY))
        colors = dict(zip(self.class_names, class_colors(len(self.class_names)), strict=True))
        return with_legend(picture, [(row["label"], colors[row["label"]]) for row in self.rows()[:LEGEND_ENTRIES]])


class Prepared(NamedTuple):
    """An image (3, h, w) as a segmenter takes it, and the (height, width) that it had."""

    image: Tensor
    size: tuple[int, int]


@dataclass(frozen=True)
class Segmenter(Predictor):
    """Label maps by a network that takes images (B, 3, h, w) and returns logits (B, classes, h, w).

    Attributes:
        network: in eval mode, on the device.
        normalization, box: of images, as in validation.
        class_names: in the order of the logits.
        window: slides over the image, if there is one.
        device: where the network is.
    """

    network: Network
    normalization: Normalization
    box: ResizeBox
    class_names: tuple[str, ...]
    window: Window | None = None
    device: torch.device | str = "cpu"

    def prepare(self, image: Image.Image) -> Prepared:
        return Prepared(self.normalization(self.box.resize(image.convert("RGB"))), (image.height, image.width))

    @torch.inference_mode()
    def predict(self, prepared: Sequence[Prepared]) -> list[LabelMap]:
        found = []
        for _, group in groupby(prepared, key=lambda each: each.image.shape):
            images, sizes = zip(*group, strict=True)
            logits = predict(self.network, torch.stack(images).to(self.device), self.window)
            found += [label_maps(each[None], size)[0].cpu() for each, size in zip(logits, sizes, strict=True)]
        return [LabelMap(labels, self.class_names) for labels in found]
