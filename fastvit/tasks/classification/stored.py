"""A teacher's stored answers, beside the training batches that they are about."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fastvit.config import differences
from fastvit.errors import RunError
from fastvit.tasks.classification.answers import AnswersFile, Header
from fastvit.tasks.classification.distillation import describe_teacher
from fastvit.tasks.classification.fingerprint import digest, fingerprint, made_with, require_repeatable

if TYPE_CHECKING:
    from fastvit.tasks.classification.task import Classification
    from fastvit.training.loaders import SampleLoader, TrainLoader

Batch = tuple[Tensor, Tensor]


class StoredAnswers:
    """The answers of a file, given to the batches of a run that sees the images that were answered.

    Raises:
        RunError: the file is of other images, of another teacher, of fewer epochs, or of other answers than the recipe
            asks for.
    """

    def __init__(self, task: "Classification", loader: "TrainLoader", device: torch.device):
        self.config = task.recipe.distillation
        self.file = AnswersFile(self.config.answers)
        require_repeatable(task.recipe, loader)
        self._require_answers_to(fingerprint(task, loader, device), task.recipe.total_epochs)

    def _require_answers_to(self, images: dict[str, Any], epochs: int) -> None:
        header, config, path = self.file.header, self.config, self.file.path
        recorded, own = dict(header.images), dict(images)
        if config.teacher:
            recorded |= header.teacher
            own |= header.known_of(describe_teacher(config.teacher))
        if config.kind == "soft":
            recorded |= {"distillation.kind": header.kind, "distillation.temperature": header.temperature}
            own |= {"distillation.kind": config.kind, "distillation.temperature": config.temperature}
        if different := differences(recorded, own):
            raise RunError(f"{path} has answers for another recipe; these differ: {'; '.join(different)}")
        if self.file.epochs < epochs:
            end = " and is truncated in the next" if self.file.is_truncated else ""
            raise RunError(
                f"{path} has answers to {self.file.epochs} epochs{end}, but the recipe is of {epochs}: run `fastvit "
                "teach` again with as many, and it adds those that are missing"
            )

    def beside(self, loader: "SampleLoader", epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor, Any]]:
        """The batches of an epoch from a step on: images, labels, and answers as `stored_targets` takes them.

        Raises:
            RunError: an image is not what it was when it was answered.
        """
        stored = self.file.read(epoch)
        for first, (images, labels) in loader.placed(epoch, start):
            for position, image in checked_images(self.file.header, first, images):
                if digest(image) != stored.digests[self.file.header.checked.index(position)]:
                    raise RunError(other_images(self.file, epoch))
            yield images, labels, _to_tensors(stored.answers[first : first + len(images)])


def other_images(file: AnswersFile, epoch: int) -> str:
    """A sentence: the images of an epoch are not those that were answered, and why."""
    versions = "; ".join(differences(file.header.made_with, made_with()))
    cause = f"made with other versions ({versions})" if versions else "the files in data.root are others"
    return (
        f"the images of epoch {epoch + 1} are not those that {file.path} has answers to, although the recipe is the "
        f"same: {cause}"
    )


def checked_images(header: Header, first: int, images: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Those of a batch whose digests are kept, with their positions in the epoch; the first image is at `first`."""
    for position in header.checked:
        if first <= position < first + len(images):
            yield position, images[position - first]


def _to_tensors(answers: np.ndarray) -> tuple[Tensor, ...]:
    classes = torch.from_numpy(answers["classes"].astype(np.int64))  # (B, k)
    if "probabilities" not in answers.dtype.names:
        return (classes,)
    return classes, torch.from_numpy(answers["probabilities"].astype(np.float32))
