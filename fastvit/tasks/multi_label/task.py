"""The task of several labels an image: a classifier with an answer for each label, yes or no."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvit.data.images import NO_LABEL
from fastvit.tasks.classification.augmentation import BatchAugmentation
from fastvit.tasks.classification.mistakes import draw_mistakes
from fastvit.tasks.classification.picture import prediction_grid
from fastvit.tasks.classification.task import Classification
from fastvit.tasks.multi_label.details import joined, write_details
from fastvit.tasks.multi_label.metrics import MultiLabelMetrics
from fastvit.tasks.multi_label.mistakes import TRUTHS, surest_mistakes
from fastvit.tasks.multi_label.recipe import MultiLabelRecipe
from fastvit.training.task import Network, Part

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class MultiLabel(Classification):
    """Several labels an image, or none. A batch is (images (B, 3, H, W), labels (B, classes) of 0 and 1)."""

    recipe: MultiLabelRecipe
    best_metric = "mAP"

    def __init__(self, recipe: MultiLabelRecipe):
        super().__init__(recipe)
        # The loss smooths the labels, mixed or not.
        self.augment = BatchAugmentation(recipe, self.normalization, multi_label=True, label_smoothing=0.0)

    @property
    def no_label(self) -> Tensor:
        return torch.full((self.recipe.data.num_classes,), float(NO_LABEL))

    def weights_of(self, counts: Tensor, images: int) -> Tensor:
        """(classes,): what makes the images that have a label count as much as those that do not have it."""
        return (images - counts).clamp(min=1) / counts.float()

    def losses(self, model: nn.Module, batch: tuple[Any, ...]) -> dict[str, Tensor]:
        images, labels = self.augment(*batch)
        return {"binary_cross_entropy": self.label_loss(model(images).float(), labels)}

    def label_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Binary cross entropy, a mean over images and labels. Smoothing moves each answer towards "I do not know"."""
        smoothing = self.recipe.augmentation.smoothing
        labels = labels * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=self.class_weights)

    def labelled(self, batch: tuple[Any, ...], class_names: Sequence[str]) -> tuple[Tensor, list[str]]:
        images, labels = self.augment(*batch)
        return self.normalization.undo(images), [joined(each > 0.05, tuple(class_names)) for each in labels]

    def new_metrics(self) -> MultiLabelMetrics:
        return MultiLabelMetrics()

    def draw(self, model: Network, samples: list[tuple[Tensor, Tensor]], class_names: Sequence[str]) -> "Figure":
        samples = [(image, labels) for image, labels in samples if NO_LABEL not in labels]
        images = torch.stack([image for image, _ in samples])
        with torch.no_grad():
            predicted = [joined(each >= 0, tuple(class_names)) or "none" for each in model(images)]
        true = [joined(labels, tuple(class_names)) or "none" for _, labels in samples]
        sets = sorted({*predicted, *true})
        said, is_true = ([sets.index(each) for each in labels] for labels in (predicted, true))
        return prediction_grid(self.normalization.undo(images), said, is_true, sets)

    def draw_mistakes(
        self, metrics: MultiLabelMetrics, data: Part, *, explain_with: nn.Module | None
    ) -> "Figure | None":
        names = (*data.class_names, *TRUTHS)
        return draw_mistakes(surest_mistakes(metrics), names, data, self.normalization, explain_with=explain_with)

    def write_details(self, metrics: MultiLabelMetrics, data: Part, folder: Path) -> list[Path]:
        return write_details(metrics, data, folder)
