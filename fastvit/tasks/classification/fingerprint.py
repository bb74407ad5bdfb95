"""What the images of a training run depend on, so that a teacher's answers are used for no other ones.

The decoding and augmentation of an image depend on (seed, epoch, position), the mixing and erasing of a batch on (seed,
step, part of the step), and both on the keys of the recipe that are listed here. What libraries and devices make of
these is compared by digests: of the mixing and erasing of some test images, once; of a few images of each epoch.
"""

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL
import timm
import torch
import torchvision
from torch import Tensor

from fastvit.errors import RecipeError
from fastvit.runtime.randomness import Purpose, seed_everything
from fastvit.tasks.classification.recipe import ClassificationRecipe
from fastvit.training.loaders import SampleLoader, StreamLoader, TrainLoader

if TYPE_CHECKING:
    from fastvit.tasks.classification.task import Classification

# Keys of data that change no image; the files in `root` are seen, its path is not. Colors have a line of their own.
NOT_SEEN = ("workers", "root", "table", "val_split", "crop_pct", "crop_mode", "mean", "std")
TEST_IMAGES, TEST_STEPS = 8, 16


def fingerprint(task: "Classification", loader: SampleLoader, device: torch.device) -> dict[str, Any]:
    """Plain values by key, flat. Two runs with equal ones see the same images, if their files are the same."""
    recipe = task.recipe.to_dict()
    data, augmentation = recipe["data"], recipe["augmentation"]
    if not task.recipe.is_list:
        data["classes"] = None  # the names of class folders, which are not always in the recipe
    values = {
        "seed": recipe["seed"],
        "loop.batch_size": recipe["loop"]["batch_size"],
        **{f"data.{key}": value for key, value in data.items() if key not in NOT_SEEN},
        **{f"augmentation.{key}": value for key, value in augmentation.items() if key != "smoothing"},
        "data.interpolation": task.input["interpolation"],  # where the recipe leaves it to the model
        "mean and std of the colors": [list(each) for each in task.normalization],
        "training images": loader.sampler.size,
        "mixing and erasing by the libraries and the device": _test_digest(task, device),
    }
    if task.augment.is_random:  # by the images that are mixed with each other at a time
        values["loop.batch_size / (processes * loop.accumulation)"] = loader.batch_size
    return values


def made_with() -> dict[str, str]:
    """Versions of what makes images."""
    libraries = (PIL, torchvision, timm, torch, np)
    return {library.__name__: str(library.__version__) for library in libraries}


def require_repeatable(recipe: ClassificationRecipe, loader: TrainLoader) -> None:
    """Raise RecipeError where nothing makes sure that another run sees the same images."""
    if isinstance(loader, StreamLoader):
        raise RecipeError(
            f"data.dataset {recipe.data.dataset} is a stream, whose order depends on the workers, so that it cannot be "
            "repeated: stored answers of a teacher need a folder, torch/ or hfds/"
        )


def digest(image: Tensor) -> bytes:
    """Of the numbers in a tensor, whatever its memory layout: 8 bytes."""
    return hashlib.blake2b(image.contiguous().cpu().numpy().tobytes(), digest_size=8).digest()


def _test_digest(task: "Classification", device: torch.device) -> str:
    """Of what mixing and erasing make of test images."""
    size = task.input_size
    images = torch.arange(TEST_IMAGES * size[0] * size[1] * size[2], device=device).view(TEST_IMAGES, *size) % 251
    labels = torch.arange(TEST_IMAGES, device=device) % task.recipe.data.num_classes
    seen = []
    for step in range(TEST_STEPS):
        seed_everything(task.recipe.seed, Purpose.STEP, step, 0)
        seen.append(digest(task.augment(images.byte(), labels)[0]))
    return hashlib.blake2b(b"".join(seen), digest_size=8).hexdigest()
