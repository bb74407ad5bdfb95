"""What the training loop asks of a task. Everything else about training is the same for all tasks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fastvit.training.recipe import Recipe


class Datasets(NamedTuple):
    """The two parts of a task's data."""

    train: Dataset  # map-style, or an `IterableDataset` with a length
    val: Dataset


class Metrics(ABC):
    """What is measured over one pass through the validation data."""

    @abstractmethod
    def update(self, model: nn.Module, batch: Any) -> None:
        """Take a batch into account, on the device where it is; no waiting for the device.

        What it keeps must be picklable: with several processes, each measures its part of the data.
        """

    @abstractmethod
    def merge(self, other: "Metrics") -> None:
        """Take in what `other`, of the same class, measured on the samples that follow; all tensors are on the CPU."""

    @abstractmethod
    def report(self) -> dict[str, float]:
        """The figures over all batches so far, by name; `samples`, how many they are about, is one of them."""

    def same_predictions(self, other: "Metrics") -> int | None:
        """On how many samples these predictions equal those of `other`; None where "equal" means nothing."""
        return None


class Task(ABC):
    """One thing to learn: the model, the data, the loss, the metrics.

    A task gets its recipe when it is made and does no work before it is asked to. Errors of the user (`UserError`)
    come from `build_datasets` and `build_model`, which run before anything is written.
    """

    best_metric: str  # the name in `Metrics.report()` that chooses the best epoch
    higher_is_better: bool = True
    class_names: Sequence[str] | None = None  # where there are classes: known once the datasets are built

    def __init__(self, recipe: "Recipe"):
        self.recipe = recipe

    @abstractmethod
    def build_model(self, *, initial_weights: bool = True) -> nn.Module:
        """The network in train form, on the CPU.

        Args:
            initial_weights: read the weights that the recipe starts from; False where a checkpoint follows.
        """

    @abstractmethod
    def build_datasets(self) -> Datasets:
        """The data. The engine seeds the augmentation, so that a sample is the same whoever asks for it."""

    @property
    @abstractmethod
    def input_size(self) -> tuple[int, int, int]:
        """(channels, height, width) of a typical image, to measure speed and fusion error with."""

    def collate(self, samples: list[Any]) -> Any:
        """A batch from samples: any nesting of tuples, lists and dicts of tensors."""
        return default_collate(samples)

    def prepare_training(self, device: torch.device) -> None:  # noqa: B027 - most tasks have nothing to prepare
        """Load what only training needs, such as a teacher; called once, after `build_model`."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The named terms of the loss of a training batch; the engine minimises their sum, and logs each."""

    @abstractmethod
    def inputs(self, batch: Any) -> Tensor:
        """(B, 3, H, W): the images of a training batch as the network sees them, their colors from 0 to 1."""

    @abstractmethod
    def new_metrics(self) -> Metrics:
        """Metrics of nothing yet."""

    def comparable(self, model: nn.Module) -> nn.Module:
        """The part of the network whose outputs change smoothly with its weights, to measure the fusion error with.

        All of it, unless its outputs are lists of detections, say; but all that fusing changes must be in it.
        """
        return model

    @abstractmethod
    def draw(self, model: nn.Module, samples: list[Any]) -> "Figure":
        """A picture of the model's predictions on validation samples. The model is in eval mode, on the CPU."""

    def write_details(self, metrics: Metrics, folder: Path) -> list[Path]:
        """Write what there is to know beyond the report, such as single predictions, over all validation data.

        Returns:
            The files.
        """
        return []

    def notices(self) -> list[str]:
        """What the user should know about the data after an epoch, such as files that were skipped."""
        return []
