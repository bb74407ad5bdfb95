"""The classifier of a robustness recipe, and what it makes of an image."""

from dataclasses import replace

import torch
from timm.data import MaybeToTensor
from torch import nn
from torchvision.transforms import CenterCrop, Compose

from fastvit import reparameterize_model
from fastvit.errors import RecipeError
from fastvit.robustness.recipe import RobustnessRecipe, SetConfig
from fastvit.tasks.network import in_words_of_recipes


class Classifier:
    """The recipe's model on a device, and how its images are prepared."""

    def __init__(self, recipe: RobustnessRecipe, device: torch.device):
        with in_words_of_recipes("model"):
            trained = recipe.model.find()
            model = trained.network
        if trained.does != "classification" or trained.preprocessing is None:
            raise RecipeError(f"model.name: {recipe.model.name} is no classifier of images")
        if trained.task is None and any(each.kind == "corrupted_validation" for each in recipe.sets.values()):
            raise RecipeError("corrupted_validation is about the validation images of a run: set model.name to one")
        self.task, self.preprocessing = trained.task, trained.preprocessing
        self.num_classes = len(trained.labels)
        if isinstance(model, nn.Module):
            if trained.is_fused and recipe.model.form != "fused":
                raise RecipeError(f"model.form: the weights of {recipe.model.name} are fused; set it to fused")
            memory_format = torch.channels_last if recipe.channels_last else torch.preserve_format
            fused = reparameterize_model(model) if recipe.model.form == "fused" else model
            model = fused.to(device, memory_format=memory_format)
        else:
            device = torch.device("cpu")  # where exported files are at home
        self.model, self.device = model, device

    def geometry(self, config: SetConfig) -> tuple[int, float | None]:
        """Image size, and the side of the crop over that of the image; None for the latter if nothing is resized."""
        crop_pct = config.crop_pct or self.preprocessing.crop_pct
        return config.image_size or self.preprocessing.height, crop_pct if config.resize else None

    def transform(self, config: SetConfig) -> Compose:
        """From an image to a tensor, as timm evaluates, or with the center cropped only."""
        size, crop_pct = self.geometry(config)
        own = replace(self.preprocessing, height=size, width=size, crop_pct=crop_pct or 1.0).transform()
        return own if config.resize else Compose([CenterCrop(size), *halves(own)[1].transforms])


def halves(transform: Compose) -> tuple[Compose, Compose]:
    """timm's evaluation transform as resizing and cropping, and from the crop to the tensor."""
    steps = transform.transforms
    split = next(index for index, step in enumerate(steps) if isinstance(step, MaybeToTensor))
    return Compose(steps[:split]), Compose(steps[split:])
