"""What is done to a whole training batch, on the device: normalization, mixing of pairs, random erasing, in this order.

timm's loader, by which the published networks were trained, has the same order, but mixes pixels in uint8, rounded, on
the processor. Everything random comes from generators that the engine seeds by the step.
"""

from typing import Any

from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from fastvit.data.normalization import Normalization
from fastvit.errors import RecipeError
from fastvit.tasks.classification.recipe import ClassificationRecipe


class BatchAugmentation:
    """From pixels and labels to what the network sees, and what it is to say.

    Args:
        mixing: options of timm's `Mixup`, beside what the recipe says.
    """

    def __init__(self, recipe: ClassificationRecipe, normalization: Normalization, **mixing: Any):
        self.config, self.normalization = recipe.augmentation, normalization
        self.mixup = build_mixup(recipe, **mixing) if self.config.mixes else None

    @property
    def is_random(self) -> bool:
        """Whether anything but the normalization is done, which depends on the step."""
        return self.mixup is not None or self.config.reprob > 0

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Normalized images, and labels: those given, or (B, classes) mixed like the images and smooth.

        Args:
            images: (B, 3, H, W) in uint8.
            labels: (B,), or (B, classes) of several labels an image.

        Raises:
            RecipeError: there is an image without another to mix it with.
        """
        images = self.normalization(images)
        if self.mixup:
            if len(images) % 2:
                raise RecipeError(f"mixup and cutmix need pairs, but each process has {len(images)} images at a time")
            images, labels = self.mixup(images, labels)
        if self.config.reprob:
            images = self._eraser(images)(images)
        return images, labels

    def _eraser(self, images: Tensor) -> RandomErasing:
        config = self.config
        return RandomErasing(config.reprob, mode=config.remode, max_count=config.recount, device=images.device)


def build_mixup(recipe: ClassificationRecipe, kind: type[Mixup] = Mixup, **options: Any) -> Mixup:
    """timm's mixup and cutmix as a recipe says, of one of timm's kinds; `options` replace what the recipe says."""
    augmentation = recipe.augmentation
    said = {
        "mixup_alpha": augmentation.mixup,
        "cutmix_alpha": augmentation.cutmix,
        "prob": augmentation.mixup_prob,
        "switch_prob": augmentation.mixup_switch_prob,
        "label_smoothing": augmentation.smoothing,
        "num_classes": recipe.data.num_classes,
    }
    return kind(**(said | options))
