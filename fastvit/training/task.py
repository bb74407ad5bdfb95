"""What the training loop asks of a task. Everything else about training is the same for all tasks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from timm.models import get_pretrained_cfg
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from fastvit.data.normalization import Normalization
from fastvit.data.notices import Notice
from fastvit.data.preprocessing import CENTER, Preprocessing
from fastvit.errors import DataError, some

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fastvit.training.loaders import TrainLoader
    from fastvit.training.recipe import Recipe

Network = Callable[..., Any]  # a module, or an exported file as a function


@dataclass(frozen=True)
class Part:
    """The data to train on, or the data to validate on.

    Attributes:
        samples: map-style, or an `IterableDataset` with a length; samples are ready for `Task.collate`.
        class_names: in the order of the labels; None where there are no classes.
        name_of: the name of a sample, such as its file, by its index; None where samples have no names.
        notices: what the user should know about the data so far, such as files that were skipped.
        groups: (N,), the group of each sample; those of one group are to share training batches, such as images of like
            shape, which then need little padding. None where any may share one.
        class_counts: (classes,), how many samples have each label; None where that is not known without reading them.
    """

    samples: Dataset
    class_names: tuple[str, ...] | None = None
    name_of: Callable[[int], str] | None = None
    notices: Callable[[], list[Notice]] = list  # which makes an empty one
    groups: Tensor | None = None
    class_counts: Tensor | None = None


class Metrics(ABC):
    """What is measured over one pass through the validation data."""

    @abstractmethod
    def update(self, outputs: Any, batch: Any) -> None:
        """Take in what `Task.predict` said about a batch, on the device where it is; no waiting for the device.

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
    come from `open_data` and `build_model`, which run before anything is written.
    """

    best_metric: str  # the name in `Metrics.report()` that chooses the best epoch
    higher_is_better: bool = True
    headline: tuple[str, ...] = ()  # the metrics that the line about an epoch tells; all if it is empty
    exportable: bool = True  # whether `fastvit export` takes the network
    val_sizes_differ: bool = False  # of its images, so that cuDNN would try its algorithms again and again
    pictured: int = 50  # how many samples a picture of predictions shows, at most

    def __init__(self, recipe: "Recipe"):
        self.recipe = recipe

    @abstractmethod
    def build_model(self, *, initial_weights: bool = True) -> nn.Module:
        """The network in train form, on the CPU.

        Args:
            initial_weights: read the weights that the recipe starts from; False where a checkpoint follows.
        """

    @abstractmethod
    def open_data(self, part: Literal["train", "val"]) -> Part:
        """The data. The engine seeds the augmentation, so that a sample is the same whoever asks for it."""

    @property
    @abstractmethod
    def input_size(self) -> tuple[int, int, int]:
        """(channels, height, width) of a typical image, to measure speed and fusion error with."""

    @property
    def preprocessing(self) -> Preprocessing:
        """What a validation image goes through; of a task that resizes in a way of its own, mean and std only."""
        recipe: Any = self.recipe  # every task's own kind has a model
        config = get_pretrained_cfg(recipe.model.name).to_dict()
        _, height, width = self.input_size
        of_timm = Preprocessing.of_timm(config)
        return replace(of_timm, height=height, width=width, crop_pct=None, interpolation=None, crop_mode=CENTER)

    @cached_property
    def normalization(self) -> Normalization:
        """Of the colors of all images, in training too."""
        return self.preprocessing.normalization

    @property
    def class_names(self) -> Sequence[str] | None:
        """Names of the classes, where they are known without reading images or labels."""
        return None

    @property
    def prediction_settings(self) -> dict[str, Any]:
        """What prediction needs besides the network, `preprocessing` and the labels, ready for JSON."""
        return {}

    def write_split(self, train: Part, path: Path) -> None:  # noqa: B027 - most data are divided already
        """Write down which samples are for what, where the task itself has divided them; into a new run's folder."""

    @staticmethod  # where workers are not forked it is pickled for each of them, a method with the whole task
    def collate(samples: list[Any]) -> Any:
        """A batch from samples: any nesting of tuples, lists and dicts of tensors."""
        return default_collate(samples)

    def prepare_training(  # noqa: B027 - most need nothing
        self, device: torch.device, data: Part, loader: "TrainLoader"
    ) -> None:
        """Load what only training needs, such as a teacher; called once, after `build_model`.

        Args:
            data: to train on, as `open_data` gave it.
            loader: of their batches.
        """

    def training_batches(self, loader: "TrainLoader", epoch: int, start: int) -> Iterator[Any]:
        """The batches of an epoch from the `start`-th step on, with what a task adds that is in no sample."""
        return loader.batches(epoch, start)

    def synchronize_batch_norm(self, model: nn.Module) -> nn.Module:
        """The model with batch norms whose statistics are those of all processes, as `loop.sync_batch_norm` asks."""
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)

    @abstractmethod
    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The named terms of the loss of a training batch; the engine minimises their sum, and logs each."""

    @abstractmethod
    def labelled(self, batch: Any, class_names: Sequence[str] | None) -> tuple[Tensor, list[str]]:
        """A training batch, to look at before a run.

        Returns:
            (B, 3, H, W): the images as the network sees them, colors from 0 to 1, with what is to be learned drawn into
            them where that has a place; and a few words about each, or no words at all.
        """

    def predict(self, model: Network, batch: Any) -> Any:
        """What the model, in eval mode, says about a validation batch."""
        images, *_ = batch
        return model(images)

    @abstractmethod
    def new_metrics(self) -> Metrics:
        """Metrics of nothing yet."""

    def comparable(self, model: nn.Module) -> nn.Module:
        """The part of the network whose outputs change smoothly with its weights, to measure the fusion error with.

        All of it, unless its outputs are of another kind, such as lists of detections; but all that fusing changes must
        be in it.
        """
        return model

    @abstractmethod
    def draw(self, model: Network, samples: list[Any], class_names: Sequence[str] | None) -> "Figure":
        """A picture of the model's predictions on validation samples. The model is in eval mode, on the CPU."""

    def draw_mistakes(self, metrics: Metrics, data: Part, *, explain_with: nn.Module | None) -> "Figure | None":
        """A picture of the samples on which predictions were most surely wrong; None where there is nothing to show.

        Args:
            metrics: of all validation data.
            explain_with: the network, to show where it has looked; None where that is not asked for.
        """
        return None

    def write_details(self, metrics: Metrics, data: Part, folder: Path) -> list[Path]:
        """Write what there is to know beyond the report, such as single predictions, over all validation data.

        Returns:
            The files.
        """
        return []


def open_train_and_val(task: Task) -> tuple[Part, Part]:
    """Both parts of the data. Raises DataError if they have different classes, as labels are positions among them."""
    train, val = task.open_data("train"), task.open_data("val")
    if train.class_names is not None and val.class_names is not None:
        only_train, only_val = (
            sorted(set(one.class_names) - set(other.class_names)) for one, other in ((train, val), (val, train))
        )
        where = [f"only to train on: {some(only_train)}"] if only_train else []
        where += [f"only to validate on: {some(only_val)}"] if only_val else []
        if not where and train.class_names != val.class_names:
            where = ["the same names in another order, which the labels follow"]
        if where:
            raise DataError(f"training and validation data have different classes: {'; '.join(where)}")
    return train, val
