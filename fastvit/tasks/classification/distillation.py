"""Learning from a teacher (paper section 4.1, after DeiT, arXiv 2012.12877)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvit.data.normalization import Normalization
from fastvit.deploy.sidecar import sha256
from fastvit.errors import RecipeError
from fastvit.pretrained import LOCAL
from fastvit.tasks.classification.recipe import ClassificationRecipe, DistillationConfig
from fastvit.tasks.network import NamedNetwork, in_words_of_recipes
from fastvit.trained import Kind, kind_of


class Teacher(nn.Module):
    """A trained classifier that gives logits for images normalized as the student's; in eval mode, without gradients.

    Args:
        model: (B, 3, H, W) -> (B, classes).
        scale, shift: three each; from the student's normalization to the teacher's.
    """

    def __init__(self, model: nn.Module, scale: Tensor, shift: Tensor):
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.register_buffer("scale", scale.view(3, 1, 1))
        self.register_buffer("shift", shift.view(3, 1, 1))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.model(images * self.scale + self.shift).float()


def build_teacher(recipe: ClassificationRecipe, normalization: Normalization) -> Teacher:
    """The recipe's teacher.

    Args:
        normalization: of the student's images.

    Raises:
        RecipeError: there are no such weights, or they are for other classes.
    """
    config, classes = recipe.distillation.teacher, recipe.data.num_classes
    with in_words_of_recipes("distillation.teacher"):
        says_itself = kind_of(config.name) is not Kind.TIMM or not config.checkpoint
        trained = config.find(num_classes=None if says_itself else classes)
        model = trained.module
    if trained.does != "classification":
        raise RecipeError(f"distillation.teacher: {config.name} is no classifier")
    if len(trained.labels) != classes:
        raise RecipeError(
            f"distillation.teacher: {config.name} knows {len(trained.labels)} classes, the data has {classes}: train a "
            "teacher on the data, and name its run"
        )
    own = trained.preprocessing
    mean, std, own_mean, own_std = (torch.tensor(values) for values in (*normalization, own.mean, own.std))
    return Teacher(model, scale=std / own_std, shift=(mean - own_mean) / own_std)


def describe_teacher(config: NamedNetwork) -> dict[str, Any]:
    """Which network with which weights: two teachers with the same description give the same answers.

    Raises:
        RecipeError: its files cannot be read.
    """
    try:
        weights = f"sha256 {sha256(config.weights)}" if config.weights else "of the hub"
    except OSError as error:
        raise RecipeError(f"distillation.teacher: {config.weights} cannot be read ({error.strerror})") from error
    described: dict[str, Any] = {"distillation.teacher.name": config.name, "distillation.teacher's weights": weights}
    if config.name.startswith(LOCAL):  # what its images go through stands in another file of the folder
        with in_words_of_recipes("distillation.teacher"):
            colors = config.find().preprocessing.normalization
        described["distillation.teacher's mean and std"] = [list(each) for each in colors]
    return described


def answers_of(config: DistillationConfig, logits: Tensor) -> Tensor:
    """What a teacher with these logits (B, classes) has students learn: classes (B,), or their probabilities."""
    return logits.argmax(1) if config.kind == "hard" else F.softmax(logits / config.temperature, dim=1)


def stored_targets(config: DistillationConfig, stored: Sequence[Tensor], num_classes: int) -> Tensor:
    """As `answers_of` a teacher, from what is stored of them.

    Args:
        stored: the most probable classes (B, k) and, of soft answers, their probabilities (B, k).
    """
    classes, *probabilities = stored
    return classes[:, 0] if config.kind == "hard" else spread(classes, probabilities[0], num_classes)


def spread(classes: Tensor, probabilities: Tensor, num_classes: int) -> Tensor:
    """The probabilities of all classes (B, num_classes), from the largest few (B, k), which may be rounded.

    What these leave is spread evenly over the other classes.

    Args:
        classes: (B, k), those of `probabilities`.
    """
    total = probabilities.sum(1, keepdim=True)
    others = num_classes - classes.shape[1]
    if not others:
        return torch.zeros_like(probabilities).scatter_(1, classes, probabilities / total)
    probabilities = probabilities / total.clamp(min=1)
    rest = (1 - probabilities.sum(1, keepdim=True)).clamp(min=0) / others
    return rest.repeat(1, num_classes).scatter_(1, classes, probabilities)


def distillation_loss(config: DistillationConfig, logits: Tensor, answers: Tensor) -> Tensor:
    """How far a student's logits (B, classes) are from its teacher's answers, as `answers_of` gives them.

    Hard: cross entropy with the teacher's most probable class. Soft: Kullback-Leibler divergence at a temperature,
    times its square, so that the gradients keep their size (arXiv 1503.02531); a sum over the classes, and a mean over
    the images.
    """
    if config.kind == "hard":
        return F.cross_entropy(logits, answers)
    student = F.log_softmax(logits / config.temperature, dim=1)
    return F.kl_div(student, answers, reduction="batchmean") * config.temperature**2
