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

    def rows(self, shown: Shown = Shown()) -> list[tuple[Any, ...]]:
        return [(name, f"{share:.6f}") for name, share in self.shares()]

    def to_dict(self, shown: Shown = Shown()) -> dict[str, Any]:
        return {"classes": [{"label": name, "share": round(share, 6)} for name, share in self.shares()]}

    def summary(self, shown: Shown = Shown()) -> str:
        return ", ".join(f"{name} {share:.1%}" for name, share in self.shares()[: shown.top])

    def mask(self) -> Image.Image:
        """A picture whose pixels are the labels (mode P, the palette has the colors of the classes)."""
        mask = Image.fromarray(self.labels.numpy())
        mask.putpalette([part for color in class_colors(len(self.names)) for part in color])
        return mask

    def draw(self, image: Image.Image, shown: Shown = Shown()) -> Image.Image:
        """The image under the colors of its classes, whose names stand below."""
        picture, _ = enlarged(Image.blend(image.convert("RGB"), self.mask().convert("RGB"), OPACITY))
        colors = dict(zip(self.names, class_colors(len(self.names)), strict=True))
        return with_legend(picture, [(name, colors[name]) for name, _ in self.shares()[:LEGEND_ENTRIES]])


class Prepared(NamedTuple):
    """An image (3, h, w) as a segmenter takes it, and the (height, width) that it had."""

    image: Tensor
    size: tuple[int, int]


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

    def columns(self, shown: Shown = Shown()) -> tuple[str, ...]:
        return ("label", "share")

    def prepare(self, image: Image.Image) -> Prepared:
        return Prepared(self.whole(image), (image.height, image.width))

    @torch.inference_mode()
    def predict(self, prepared: Sequence[Prepared]) -> list[LabelMap]:
        names = tuple(self.labels)
        found: list[LabelMap] = []
        for _, alike in groupby(prepared, key=lambda each: each.image.shape):
            batch, sizes = zip(*alike, strict=True)
            logits = predict(self.network, torch.stack(batch).to(self.device), self.window)
            labels = [label_maps(each[None], size)[0].cpu() for each, size in zip(logits, sizes, strict=True)]
            found += [LabelMap(names, each) for each in labels]
        return found
