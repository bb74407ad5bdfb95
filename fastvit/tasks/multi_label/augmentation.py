"""Mixing of images with several labels."""

import torch
from timm.data import Mixup
from torch import Tensor

from fastvit.tasks.classification.augmentation import BatchAugmentation


class SeveralLabelsAugmentation(BatchAugmentation):
    """As of one label an image; where images are mixed, so are their labels, (B, classes) of 0 and 1."""

    def mix(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """timm tells how much of each image is in each, if the label of an image is its place in the batch."""
        config, count = self.config, len(images)
        mixup = Mixup(
            mixup_alpha=config.mixup,
            cutmix_alpha=config.cutmix,
            prob=config.mixup_prob,
            switch_prob=config.mixup_switch_prob,
            label_smoothing=0.0,
            num_classes=count,
        )
        images, shares = mixup(images, torch.arange(count, device=images.device))  # shares: (B, B)
        return images, shares.to(labels.dtype) @ labels
