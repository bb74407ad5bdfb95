"""The classification task: timm's networks, transforms, mixing and losses, put together as the recipe says."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from timm.data import Mixup, create_transform, resolve_data_config
from timm.models import get_pretrained_cfg
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from fastvit.data.images import NO_LABEL, TransformedImages
from fastvit.data.sources import open_source
from fastvit.errors import RecipeError
from fastvit.tasks.classification.details import write_details
from fastvit.tasks.classification.distillation import build_teacher, distillation_loss
from fastvit.tasks.classification.metrics import ClassificationMetrics
from fastvit.tasks.classification.picture import prediction_grid
from fastvit.tasks.classification.recipe import ClassificationRecipe
from fastvit.tasks.network import build_network, freeze_stages
from fastvit.training.task import Network, Part, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Classification(Task):
    """One label per image. A batch is (images (B, 3, H, W), labels (B,))."""

    recipe: ClassificationRecipe
    best_metric = "top1"

    def __init__(self, recipe: ClassificationRecipe):
        super().__init__(recipe)
        self.mix = _mixup(recipe) if recipe.augmentation.mixes else None
        # Mean, standard deviation, crop and interpolation: the recipe's, or those of the model's pretraining.
        self.input = resolve_data_config(
            {"crop_pct": recipe.data.crop_pct, "interpolation": recipe.data.interpolation},
            pretrained_cfg=get_pretrained_cfg(recipe.model.name).to_dict(),
        )

    @property
    def input_size(self) -> tuple[int, int, int]:
        return 3, self.recipe.data.image_size, self.recipe.data.image_size

    def build_model(self, *, initial_weights: bool = True) -> nn.Module:
        config = self.recipe.model
        model = build_network(
            config,
            initial_weights=initial_weights,
            reset_head=config.reset_head,
            num_classes=self.recipe.data.num_classes,
            drop_rate=config.drop_rate,
        )
        if config.frozen_stages:
            freeze_stages(model, config.frozen_stages)
        return model

    def open_data(self, part: Literal["train", "val"]) -> Part:
        data, training = self.recipe.data, part == "train"
        source = open_source(
            data.dataset,
            data.root,
            data.train_split if training else data.val_split,
            training=training,
            num_classes=data.num_classes,
            image_size=data.image_size,
            batch_size=self.recipe.loop.batch_size,
        )
        names = tuple(getattr(source, "classes", map(str, range(data.num_classes))))
        transform = self._train_transform() if training else self._val_transform()
        if isinstance(source, IterableDataset):
            source.transform = transform  # timm's streams read and transform by themselves
            return Part(source, names)
        images = TransformedImages(source, transform, on_bad_image=data.on_bad_image, training=training)
        return Part(images, names, images.name, images.notices)

    def prepare_training(self, device: torch.device) -> None:
        if self.recipe.distillation:
            self.teacher = build_teacher(self.recipe, mean=self.input["mean"], std=self.input["std"]).to(device)
            if self.recipe.loop.channels_last:
                self.teacher.to(memory_format=torch.channels_last)

    def losses(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        images, labels = batch
        smoothing = self.recipe.augmentation.smoothing
        if self.mix:
            if len(images) % 2:
                raise RecipeError(f"mixup and cutmix need pairs, but each process has {len(images)} images at a time")
            images, labels = self.mix(images, labels)  # labels: (B, classes), already smooth
            smoothing = 0.0
        logits = model(images).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        if not self.recipe.distillation:
            return {"cross_entropy": loss}
        alpha = self.recipe.distillation.alpha
        hint = distillation_loss(self.recipe.distillation, logits, self.teacher(images))
        return {"cross_entropy": (1 - alpha) * loss, "distillation": alpha * hint}

    def inputs(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        return self._colors(self.mix(images, labels)[0] if self.mix else images)

    def _colors(self, images: Tensor) -> Tensor:
        """Undo the normalization."""
        mean, std = (torch.tensor(self.input[name]).view(3, 1, 1) for name in ("mean", "std"))
        return (images * std + mean).clamp(0, 1)

    def new_metrics(self) -> ClassificationMetrics:
        return ClassificationMetrics()

    def draw(self, model: Network, samples: list[tuple[Tensor, int]], class_names: Sequence[str]) -> "Figure":
        samples = [(image, label) for image, label in samples if label != NO_LABEL]
        images = torch.stack([image for image, _ in samples])
        with torch.no_grad():
            predicted = model(images).argmax(1).tolist()
        return prediction_grid(
            self._colors(images),
            predicted=[class_names[label] for label in predicted],
            true=[class_names[label] for _, label in samples],
        )

    def write_details(self, metrics: ClassificationMetrics, data: Part, folder: Path) -> list[Path]:
        return write_details(metrics, data, folder)

    def _train_transform(self) -> Callable[..., Tensor]:
        augmentation = self.recipe.augmentation
        return create_transform(
            self.recipe.data.image_size,
            is_training=True,
            scale=augmentation.scale,
            ratio=augmentation.ratio,
            hflip=augmentation.hflip,
            vflip=augmentation.vflip,
            color_jitter=augmentation.color_jitter or None,
            auto_augment=augmentation.auto_augment,
            re_prob=augmentation.reprob,
            re_mode=augmentation.remode,
            re_count=augmentation.recount,
            interpolation=self.input["interpolation"],
            mean=self.input["mean"],
            std=self.input["std"],
        )

    def _val_transform(self) -> Callable[..., Tensor]:
        return create_transform(
            self.recipe.data.image_size,
            crop_pct=self.input["crop_pct"],
            interpolation=self.input["interpolation"],
            mean=self.input["mean"],
            std=self.input["std"],
        )


def _mixup(recipe: ClassificationRecipe) -> Mixup:
    augmentation = recipe.augmentation
    return Mixup(
        mixup_alpha=augmentation.mixup,
        cutmix_alpha=augmentation.cutmix,
        prob=augmentation.mixup_prob,
        switch_prob=augmentation.mixup_switch_prob,
        label_smoothing=augmentation.smoothing,
        num_classes=recipe.data.num_classes,
    )
