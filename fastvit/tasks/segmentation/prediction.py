"""What a segmenter says about single images."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from fastvit.data.preprocessing import Preprocessing
from fastvit.data.whole_image import ResizeBox, WholeImage
from fastvit.predictor import Prediction, Predictor, Shown
from fastvit.tasks.drawing import enlarged, with_legend
from fastvit.tasks.segmentation.inference import Window, label_maps, predict
from fastvit.tasks.segmentation.picture import LEGEND_ENTRIES, OPACITY, class_colors
from fastvit.training.task import Network


@dataclass(frozen=True)
class LabelMap(Prediction):
    """Which class is where.

    Attributes:
        names: of all classes.
        labels: (H, W) uint8, positions in `names`, on the CPU.
    """

    names: tuple[str, ...]
    labels: Tensor

    def shares(self) -> list[tuple[str, float]]:
        """The classes that are there with their share of the pixels, the largest first."""
        counts = self.labels.flatten().bincount(minlength=len(self.names)) / self.labels.numel()
        there = [pair for pair in zip(self.names, counts.tolist(), strict=True) if pair[1]]
        return sorted(there, key=lambda pair: -pair[1])

    def rows(self, shown: Shown) -> list[tuple[Any, ...]]:
        return [(name, f"{share:.6f}") for name, share in self.shares()]

    def to_dict(self, shown: Shown) -> dict[str, Any]:
        return {"classes": [{"label": name, "share": round(share, 6)} for name, share in self.shares()]}

    def summary(self, shown: Shown) -> str:
        return ", ".join(f"{name} {share:.1%}" for name, share in self.shares()[: shown.top])

    def mask(self) -> Image.Image:
        """A picture whose pixels are the labels (mode P, the palette has the colors of the classes)."""
        mask = Image.fromarray(self.labels.numpy())
        mask.putpalette([part for color in class_colors(len(self.names)) for part in color])
        return mask

    def draw(self, image: Image.Image, shown: Shown) -> Image.Image:
        """The image under the colors of its classes, whose names stand below."""
        picture, _ = enlarged(Image.blend(image.convert("RGB"), self.mask().convert("RGB"), OPACITY))
        colors = dict(zip(self.names, class_colors(len(self.names)), strict=True))
        return with_legend(picture, [(name, colors[name]) for name, _ in self.shares()[:LEGEND_ENTRIES]])


class Prepared(NamedTuple):
    """An image (3, h, w) as a segmenter takes it, and the (height, width) that it had."""

    image: Tensor
    size: tuple[int, int]


@torch.inference_mode()
def segment(
    network: Network, images: Sequence[Prepared], *, window: Window | None = None, device: torch.device | str = "cpu"
) -> list[Tensor]:
    """The labels (H, W) uint8 of each image in its own pixels, on the CPU.

    Args:
        network: in eval mode on the device: images (B, 3, h, w) -> logits (B, classes, h, w).
        window: slides over each image, if there is one.
    """
    found = []
    for _, alike in groupby(images, key=lambda each: each.image.shape):
        batch, sizes = zip(*alike, strict=True)
        logits = predict(network, torch.stack(batch).to(device), window)
        found += [label_maps(each[None], size)[0].cpu() for each, size in zip(logits, sizes, strict=True)]
    return found


class Segmenter(Predictor):
    """Label maps, by the size and the windows of validation, which the settings are about."""

    preprocessing: Preprocessing
    labels: tuple[str, ...]

    @cached_property
    def whole(self) -> WholeImage:
        return WholeImage(ResizeBox(**self.settings["box"]), self.preprocessing.normalization)

    @cached_property
    def window(self) -> Window | None:
        window = self.settings["window"]
        return window and Window(**window)

    def columns(self, shown: Shown) -> tuple[str, ...]:
        return ("label", "share")

    def prepare(self, image: Image.Image) -> Prepared:
        return Prepared(self.whole(image), (image.height, image.width))

    def predict(self, prepared: Sequence[Prepared]) -> list[LabelMap]:
        found = segment(self.network, prepared, window=self.window, device=self.device)
        return [LabelMap(tuple(self.labels), labels) for labels in found]
