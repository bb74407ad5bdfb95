"""Learning from a teacher (paper section 4.1, after DeiT, arXiv 2012.12877)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvit.errors import RecipeError, UserError
from fastvit.tasks.classification.recipe import ClassificationRecipe, DistillationConfig


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


def build_teacher(recipe: ClassificationRecipe, *, mean: Sequence[float], std: Sequence[float]) -> Teacher:
    """The recipe's teacher.

    Args:
        mean, std: of the student's images.

    Raises:
        RecipeError: there are no such weights, or they are for other classes.
    """
    config, classes = recipe.distillation.teacher, recipe.data.num_classes
    try:
        trained = config.find(num_classes=classes if config.checkpoint else None)
        model = trained.module
    except UserError as error:
        raise RecipeError(f"distillation.teacher: {error}") from error
    if trained.does != "classification":
        raise RecipeError(f"distillation.teacher: {config.name} is no classifier")
    if len(trained.labels) != classes:
        raise RecipeError(
            f"distillation.teacher: {config.name} knows {len(trained.labels)} classes, the data has {classes}: train a "
            "teacher on the data, and name its run"
        )
    own = trained.preprocessing
    mean, std, own_mean, own_std = (torch.tensor(values) for values in (mean, std, own.mean, own.std))
    return Teacher(model, scale=std / own_std, shift=(mean - own_mean) / own_std)


def distillation_loss(config: DistillationConfig, logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """How far a student's answers (B, classes) are from its teacher's.

    Hard: cross entropy with the teacher's most probable class. Soft: Kullback-Leibler divergence at a temperature,
    times its square, so that the gradients keep their size (arXiv 1503.02531).
    """
    if config.kind == "hard":
        return F.cross_entropy(logits, teacher_logits.argmax(1))
    student, teacher = (F.log_softmax(each / config.temperature, dim=1) for each in (logits, teacher_logits))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * config.temperature**2
