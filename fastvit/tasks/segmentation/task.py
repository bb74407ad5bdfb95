"""The segmentation task: Semantic FPN on a classification network, trained and evaluated as the recipe says."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastvit.data.digit_scenes import CLASSES
from fastvit.data.whole_image import ResizeBox, WholeImage
from fastvit.errors import RecipeError
from fastvit.files import write_table
from fastvit.models.pyramid import FeaturePyramid
from fastvit.models.segmentation import SemanticFPN
from fastvit.tasks.backbone import build_body, synchronize_batch_norm
from fastvit.tasks.segmentation.digits import DigitLabelMaps
from fastvit.tasks.segmentation.inference import Window, label_maps, predict
from fastvit.tasks.segmentation.masks import UNLABELLED, MaskedImages, ade20k_class_names, open_ade20k, open_mask_folder
from fastvit.tasks.segmentation.metrics import Batch, SegmentationMetrics, same_sizes
from fastvit.tasks.segmentation.picture import class_colors, overlay, overlay_grid
from fastvit.tasks.segmentation.recipe import SegmentationRecipe
from fastvit.tasks.segmentation.transforms import TrainTransform, TransformedMaskedImages, ValTransform
from fastvit.training.task import Network, Part, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Segmentation(Task):
    """A class for each pixel. A batch is (images (B, 3, H, W), label maps (B, H, W)), or lists where sizes differ."""

    recipe: SegmentationRecipe
    best_metric = "miou"
    pictured = 8

    def __init__(self, recipe: SegmentationRecipe):
        super().__init__(recipe)
        self.box = ResizeBox(recipe.data.short_side, recipe.data.long_side, recipe.data.size_divisor)
        window, stride = recipe.evaluation.window, recipe.evaluation.stride
        self.window = Window(window, stride) if window else None

    @property
    def input_size(self) -> tuple[int, int, int]:
        return 3, self.recipe.data.crop_size, self.recipe.data.crop_size

    @property
    def prediction_settings(self) -> dict[str, Any]:
        return {"box": self.box._asdict(), "window": self.window and self.window._asdict()}

    def build_model(self, *, initial_weights: bool = True) -> nn.Module:
        config = self.recipe.model
        body = build_body(config, initial_weights=initial_weights)
        pyramid = FeaturePyramid(body, config.fpn_channels, output_norm=config.output_norm)
        return SemanticFPN(pyramid, self.recipe.data.num_classes, channels=config.head_channels, dropout=config.dropout)

    def open_data(self, part: Literal["train", "val"]) -> Part:
        transform = ValTransform(WholeImage(self.box, self.normalization))
        if part == "train":
            box, crop = self.box._replace(divisor=1), self.recipe.data.crop_size
            transform = TrainTransform(self.recipe.augmentation, self.normalization, box=box, crop=crop)
        return Part(TransformedMaskedImages(self._open(part), transform), tuple(self.class_names))

    @property
    def class_names(self) -> Sequence[str]:
        data = self.recipe.data
        if data.class_names:
            return data.class_names
        names: Sequence[str] | None = None
        if data.dataset == "digits":
            names = CLASSES
        if data.dataset == "ade20k":
            names = ade20k_class_names(data.root)
        return names if names and len(names) == data.num_classes else [str(label) for label in range(data.num_classes)]

    def _open(self, split: str) -> Dataset:
        data = self.recipe.data
        if data.dataset == "digits":
            return self._open_digits(split)
        images: MaskedImages
        if data.dataset == "ade20k":
            images = open_ade20k(data.root, split, data.num_classes)
        else:
            images = open_mask_folder(data.root, split, data.num_classes, zero_is_unlabelled=data.zero_is_unlabelled)
        if data.check_masks:
            images.check()
        return images

    def _open_digits(self, split: str) -> Dataset:
        data, train = self.recipe.data, split == "train"
        if data.num_classes != len(CLASSES):
            raise RecipeError(f"data.num_classes is {data.num_classes}, but the digits are {len(CLASSES)} classes")
        return DigitLabelMaps(train=train, count=data.train_scenes if train else data.val_scenes, size=data.crop_size)

    @staticmethod
    def collate(samples: list[tuple[Tensor, Tensor]]) -> Batch:
        images, labels = (list(part) for part in zip(*samples, strict=True))
        if len({image.shape for image in images}) == len({label.shape for label in labels}) == 1:
            return torch.stack(images), torch.stack(labels)
        return images, labels

    def synchronize_batch_norm(self, model: nn.Module) -> nn.Module:
        return synchronize_batch_norm(self.recipe.model, model)

    def losses(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        images, labels = batch
        total = F.cross_entropy(model(images).float(), labels.long(), ignore_index=UNLABELLED, reduction="sum")
        # By all pixels, as MMSegmentation has it: a step in several parts, or by several processes, is one in a whole.
        return {"cross_entropy": total / labels.numel()}

    def labelled(self, batch: tuple[Tensor, Tensor], class_names: Sequence[str]) -> tuple[Tensor, list[str]]:
        images, labels = batch
        colors = class_colors(len(class_names))
        pairs = zip(self.normalization.undo(images), labels, strict=True)
        return torch.stack([overlay(image, label, colors).permute(2, 0, 1) for image, label in pairs]), []

    def predict(self, model: Network, batch: Batch) -> list[Tensor]:
        """Label maps (B, H, W) in the size of the labels, of the samples that are of one size."""
        return [
            label_maps(predict(model, images, self.window), labels.shape[-2:]) for images, labels in same_sizes(batch)
        ]

    def new_metrics(self) -> SegmentationMetrics:
        return SegmentationMetrics(self.recipe.data.num_classes)

    def write_details(self, metrics: SegmentationMetrics, data: Part, folder: Path) -> list[Path]:
        path = folder / "classes.csv"
        ious = ("" if math.isnan(iou) else f"{100 * iou:.2f}" for iou in metrics.class_iou().tolist())
        rows = zip(data.class_names, metrics.confusion.sum(1).tolist(), ious, strict=True)
        write_table(path, ("class", "pixels", "iou"), rows)
        return [path]

    def draw(self, model: Network, samples: list[tuple[Tensor, Tensor]], class_names: Sequence[str]) -> "Figure":
        images, predicted = [], []
        with torch.no_grad():
            for image, labels in samples:
                predicted.append(label_maps(predict(model, image[None], self.window), labels.shape)[0])
                shown = F.interpolate(image[None], labels.shape, mode="bilinear", align_corners=False)[0]
                images.append(self.normalization.undo(shown))
        return overlay_grid(images, predicted, [labels for _, labels in samples], class_names)
