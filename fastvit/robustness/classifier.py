"""The classifier of a robustness recipe, and what it makes of an image."""

import torch
from timm.data import MaybeToTensor, create_transform, resolve_data_config
from torch import nn
from torchvision.transforms import CenterCrop, Compose

from fastvit import reparameterize_model
from fastvit.errors import RecipeError
from fastvit.robustness.recipe import RobustnessRecipe, SetConfig
from fastvit.runtime.allocator import keep_freed_memory
from fastvit.tasks.classification.task import Classification
from fastvit.tasks.network import NetworkConfig, build_network
from fastvit.trained import open_run


class Classifier:
    """The recipe's model on a device, and how its images are prepared."""

    def __init__(self, recipe: RobustnessRecipe, device: torch.device):
        source = recipe.model
        self.task: Classification | None = None
        if source.run:
            task, model, path, _ = open_run(source.run)
            if not isinstance(task, Classification):
                raise RecipeError(f"model.run: {path} is of task {task.recipe.task}, not of a classifier")
            self.task = task
            self.image_size, self.input = task.recipe.data.image_size, task.input
        else:
            config = NetworkConfig(name=source.name, pretrained=source.checkpoint is None, checkpoint=source.checkpoint)
            model = build_network(config, initial_weights=True)
            self.input = resolve_data_config(pretrained_cfg=model.pretrained_cfg)
            self.image_size = self.input["input_size"][-1]
        self.num_classes = model.num_classes
        self.device = device
        keep_freed_memory(device)
        model.eval()
        memory_format = torch.channels_last if recipe.channels_last else torch.preserve_format
        fused = reparameterize_model(model) if source.form == "fused" else model
        self.model: nn.Module = fused.to(device, memory_format=memory_format)

    def geometry(self, config: SetConfig) -> tuple[int, float | None]:
        """Image size, and the side of the crop over that of the image; None for the latter if nothing is resized."""
        crop_pct = config.crop_pct or self.input["crop_pct"]
        return config.image_size or self.image_size, crop_pct if config.resize else None

    def transform(self, config: SetConfig) -> Compose:
        """From an image to a tensor, as timm evaluates, or with the center cropped only."""
        size, crop_pct = self.geometry(config)
        names = ("interpolation", "mean", "std")
        transform = create_transform(size, crop_pct=crop_pct, **{name: self.input[name] for name in names})
        return transform if config.resize else Compose([CenterCrop(size), *halves(transform)[1].transforms])


def halves(transform: Compose) -> tuple[Compose, Compose]:
    """timm's evaluation transform as resizing and cropping, and from the crop to the tensor."""
    steps = transform.transforms
    split = next(index for index, step in enumerate(steps) if isinstance(step, MaybeToTensor))
    return Compose(steps[:split]), Compose(steps[split:])
