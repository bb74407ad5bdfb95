"""The classification task: timm's networks, transforms, mixing and losses, put together as the recipe says."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from timm.data import create_transform, resolve_data_config
from timm.models import get_pretrained_cfg
from torch import Tensor, nn
from torch.utils.data import IterableDataset, default_collate

from fastvit.data.images import NO_LABEL, TransformedImages
from fastvit.data.normalization import stack_images
from fastvit.data.preprocessing import Preprocessing
from fastvit.errors import RecipeError
from fastvit.tasks.classification.augmentation import BatchAugmentation
from fastvit.tasks.classification.balance import balanced, class_counts, require_counts, skew_notice
from fastvit.tasks.classification.details import write_details
from fastvit.tasks.classification.distillation import (
    Teacher,
    answers_of,
    build_teacher,
    distillation_loss,
    stored_targets,
)
from fastvit.tasks.classification.metrics import ClassificationMetrics
from fastvit.tasks.classification.mistakes import draw_mistakes, surest_mistakes
from fastvit.tasks.classification.picture import label_words, prediction_grid
from fastvit.tasks.classification.recipe import ClassificationRecipe
from fastvit.tasks.classification.stored import StoredAnswers
from fastvit.tasks.network import build_network, freeze_stages
from fastvit.training.loaders import TrainLoader
from fastvit.training.task import Network, Part, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_INPUT = ("crop_pct", "crop_mode", "interpolation", "mean", "std")


class Classification(Task):
    """One label per image. A batch is (images (B, 3, H, W), labels (B,)).

    Images to train on are pixels, in uint8, and are normalized on the device; images to validate on are normalized.
    Stored answers of a teacher come third.
    """

    recipe: ClassificationRecipe
    best_metric = "top1"

    def __init__(self, recipe: ClassificationRecipe):
        super().__init__(recipe)
        if not recipe.data.num_classes:
            raise RecipeError("data.num_classes is missing: give it, or let the recipe's completed() count the classes")
        # Crop, interpolation, mean and standard deviation: the recipe's, or those of the model's pretraining.
        self.input = resolve_data_config(
            {name: getattr(recipe.data, name) for name in _INPUT},
            pretrained_cfg=get_pretrained_cfg(recipe.model.name).to_dict(),
        )
        self.augment = BatchAugmentation(recipe, self.normalization)
        self.class_weights: Tensor | None = None  # (classes,), once training is prepared, if the recipe asks

    @property
    def input_size(self) -> tuple[int, int, int]:
        return 3, self.recipe.data.image_size, self.recipe.data.image_size

    @property
    def preprocessing(self) -> Preprocessing:
        _, height, width = self.input_size
        return Preprocessing(height, width, **{name: self.input[name] for name in _INPUT})

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
        source = self.recipe.open_images(training=training)
        names = tuple(getattr(source, "classes", map(str, range(data.num_classes))))
        transform = self._train_transform() if training else self.preprocessing.transform()
        counts = class_counts(source, len(names)) if training else None
        if training and self.recipe.loss.class_weights:
            require_counts(counts, data.dataset)
        skew = [] if self.recipe.loss.class_weights else skew_notice(counts, names)
        if isinstance(source, IterableDataset):
            source.transform = transform  # type: ignore[attr-defined]  # timm reads and transforms streams itself
            return Part(source, names, class_counts=counts)
        images = TransformedImages(
            source, transform, on_bad_image=data.on_bad_image, training=training, no_label=self.no_label
        )
        return Part(images, names, images.name, lambda: [*skew, *images.notices()], class_counts=counts)

    @property
    def no_label(self) -> int | Tensor:
        """Stands for the label of an image that cannot be read."""
        return NO_LABEL

    def weights_of(self, counts: Tensor, images: int) -> Tensor:
        """(classes,): what an error costs, by how many of the images have each label."""
        return balanced(counts)

    def write_split(self, train: Part, path: Path) -> None:
        if listing := getattr(getattr(train.samples, "source", None), "listing", None):
            listing.write(path)

    @staticmethod
    def collate(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        images, labels = zip(*samples, strict=True)
        return stack_images(images), default_collate(labels)

    def prepare_training(self, device: torch.device, data: Part, loader: TrainLoader) -> None:
        if self.recipe.loss.class_weights:
            self.class_weights = self.weights_of(data.class_counts, len(data.samples)).to(device)
        distillation = self.recipe.distillation
        if distillation and distillation.answers:
            self.stored = StoredAnswers(self, loader, device)
        elif distillation:
            self.teacher = self.build_teacher(device)

    def build_teacher(self, device: torch.device) -> Teacher:
        """The recipe's teacher, as it is run in training."""
        memory_format = torch.channels_last if self.recipe.loop.channels_last else torch.preserve_format
        return build_teacher(self.recipe, self.normalization).to(device, memory_format=memory_format)

    def training_batches(self, loader: TrainLoader, epoch: int, start: int) -> Iterator[Any]:
        distillation = self.recipe.distillation
        if distillation and distillation.answers:
            return self.stored.beside(loader, epoch, start)
        return loader.batches(epoch, start)

    def losses(self, model: nn.Module, batch: tuple[Any, ...]) -> dict[str, Tensor]:
        images, labels, *stored = batch
        images, labels = self.augment(images, labels)
        logits = model(images).float()
        loss = self.label_loss(logits, labels)
        if not (distillation := self.recipe.distillation):
            return {"cross_entropy": loss}
        if stored:
            targets = stored_targets(distillation, stored[0], self.recipe.data.num_classes)
        else:
            targets = answers_of(distillation, self.teacher(images))
        hint = distillation_loss(distillation, logits, targets)
        return {"cross_entropy": (1 - distillation.alpha) * loss, "distillation": distillation.alpha * hint}

    def label_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """A mean over the images, also where classes have weights: a step in several parts is then as one in a whole.

        (For labels that are classes, torch would divide by the sum of their weights.)
        """
        smoothing = self.recipe.augmentation.smoothing if labels.ndim == 1 else 0.0  # mixed labels are smooth already
        if self.class_weights is not None and labels.ndim == 1:
            labels = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        return F.cross_entropy(logits, labels, self.class_weights, label_smoothing=smoothing)

    def labelled(self, batch: tuple[Any, ...], class_names: Sequence[str]) -> tuple[Tensor, list[str]]:
        images, labels, *_ = batch
        images, labels = self.augment(images, labels)
        return self.normalization.undo(images), label_words(labels, class_names)

    def new_metrics(self) -> ClassificationMetrics:
        return ClassificationMetrics()

    def draw(self, model: Network, samples: list[tuple[Tensor, int]], class_names: Sequence[str]) -> "Figure":
        samples = [(image, label) for image, label in samples if label != NO_LABEL]
        images = torch.stack([image for image, _ in samples])
        with torch.no_grad():
            predicted = model(images).argmax(1).tolist()
        true = [label for _, label in samples]
        return prediction_grid(self.normalization.undo(images), predicted, true, class_names)

    def draw_mistakes(
        self, metrics: ClassificationMetrics, data: Part, *, explain_with: nn.Module | None
    ) -> "Figure | None":
        mistakes = surest_mistakes(metrics)
        return draw_mistakes(mistakes, data.class_names, data, self.normalization, explain_with=explain_with)

    def write_details(self, metrics: ClassificationMetrics, data: Part, folder: Path) -> list[Path]:
        return write_details(metrics, data, folder)

    def _train_transform(self) -> Callable[..., Tensor]:
        """From an image to pixels in uint8; what follows is done to the whole batch."""
        size = self.recipe.data.image_size
        return create_transform(size, is_training=True, use_prefetcher=True, **self.transform_options)

    @property
    def transform_options(self) -> dict[str, Any]:
        """What the recipe says about training images one by one, by timm's names."""
        augmentation = self.recipe.augmentation
        return {
            "scale": augmentation.scale,
            "ratio": augmentation.ratio,
            "hflip": augmentation.hflip,
            "vflip": augmentation.vflip,
            "color_jitter": augmentation.color_jitter or None,
            "auto_augment": augmentation.auto_augment,
            "interpolation": self.input["interpolation"],
            "mean": self.input["mean"],  # the color of what a rotation leaves empty
        }
