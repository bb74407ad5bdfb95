"""What a run tells: on the console while it runs; as a table, curves and TensorBoard scalars for afterwards."""

import hashlib
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from fastvit.errors import MissingPackage
from fastvit.files import write_table
from fastvit.training.recipe import Recipe
from fastvit.training.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, float]  # an epoch: its number, steps so far, learning rate, losses, speed, metrics

STEPS_BETWEEN_READINGS = 10  # reading a loss waits for the device
SECONDS_BETWEEN_LINES = 30.0  # where no progress bar can be drawn


def say(line: str) -> None:
    """Print, above the progress bar if there is one."""
    tqdm.write(line)


def describe(row: Row, epochs: int, headline: Sequence[str] = ()) -> str:
    """An epoch in one line, without the terms of the loss.

    Args:
        headline: the metrics to tell; all if it is empty.
    """
    measured = [name for name in row if name.startswith(("val_", "raw_")) and name != "val_samples"]
    told = [name for name in measured if not headline or name.partition("_")[2] in headline]
    figures = "  ".join(f"{name} {row[name]:.4g}" for name in ("lr", "train_loss", *told))
    return f"epoch {row['epoch']:.0f}/{epochs}  {figures}  {row['images_per_second']:.0f} images/s"


class LossMeter:
    """Mean of each named loss over some steps, summed on the device without waiting for it."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = 0

    def update(self, losses: Mapping[str, Tensor]) -> None:
        self.steps += 1
        for name, loss in losses.items():
            self.sums[name] = self.sums[name] + loss if name in self.sums else loss.detach()

    def means(self) -> dict[str, Tensor]:
        """Of each loss, on the device; nothing if there was no step."""
        return {name: total / self.steps for name, total in self.sums.items()}

    def state(self) -> dict[str, Any]:
        """What `restored` takes, which later steps do not change."""
        return {"sums": {name: total.clone() for name, total in self.sums.items()}, "steps": self.steps}

    @classmethod
    def restored(cls, state: Mapping[str, Any], device: torch.device) -> "LossMeter":
        meter = cls()
        meter.sums = {name: total.to(device) for name, total in state["sums"].items()}
        meter.steps = state["steps"]
        return meter


def loss_figures(means: Mapping[str, Tensor]) -> dict[str, float]:
    """`train_loss`, which is the sum of all; and each by its name if there are several. Waits for the device."""
    figures = {f"train_{name}": float(mean) for name, mean in means.items()}
    total = {"train_loss": sum(figures.values()) if figures else math.nan}
    return total | figures if len(figures) > 1 else total


class Progress:
    """A progress bar over all steps of the run, or a line now and then where there is no terminal.

    Args:
        shown: whether this process is the one that shows it.
    """

    def __init__(self, total_steps: int, step: int, batch_size: int, *, shown: bool):
        self.total_steps, self.batch_size, self.shown = total_steps, batch_size, shown
        off = not shown or not sys.stderr.isatty()
        self.bar = tqdm(total=total_steps, initial=step, unit="step", dynamic_ncols=True, disable=off)
        self.last_line = time.monotonic()
        self.start_epoch()

    def start_epoch(self) -> None:
        """Start the clocks."""
        self.epoch_start, self.epoch_steps, self.seconds_waited = time.monotonic(), 0, 0.0

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Within: the time counts as waiting for data."""
        start = time.monotonic()
        yield
        self.seconds_waited += time.monotonic() - start

    def figures(self, device: torch.device) -> dict[str, float]:
        """Of the epoch so far: images per second in all processes, and the part of the time spent waiting for data.

        On a GPU also the most memory, in GiB, that this process has had allocated since it began, in evaluations too.
        """
        elapsed = max(time.monotonic() - self.epoch_start, 1e-9)  # nothing, if only the evaluation was missing
        memory = {"memory_gib": torch.cuda.max_memory_allocated(device) / 2**30} if device.type == "cuda" else {}
        return {
            "images_per_second": self.epoch_steps * self.batch_size / elapsed,
            "data_wait": self.seconds_waited / elapsed,
            **memory,
        }

    def advance(self, step: int, lr: float, losses: LossMeter) -> None:
        """One more step is done, which makes `step` of them."""
        self.epoch_steps += 1
        self.bar.update()
        if self.shown and self.bar.disable:
            if time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
                self.last_line = time.monotonic()
                per_step = (self.last_line - self.epoch_start) / self.epoch_steps
                left = timedelta(seconds=round((self.total_steps - step) * per_step))
                say(f"step {step}/{self.total_steps}  {self._state(lr, losses)}  {left} left")
        elif self.shown and step % STEPS_BETWEEN_READINGS == 0:
            self.bar.set_postfix_str(self._state(lr, losses))  # the bar itself tells the time left

    def close(self) -> None:
        self.bar.close()

    def _state(self, lr: float, losses: LossMeter) -> str:
        elapsed = time.monotonic() - self.epoch_start
        speed, wait = self.epoch_steps * self.batch_size / elapsed, self.seconds_waited / elapsed
        loss = loss_figures(losses.means())["train_loss"]
        return f"loss {loss:.4f}  lr {lr:.2e}  {speed:.0f} images/s  {wait:.0%} waiting for data"


class RunLog:
    """The files that tell how a run went. All but TensorBoard's are written again from the whole history each time.

    Args:
        step: from which on TensorBoard is to forget what a former part of the run has told it.
    """

    def __init__(self, folder: RunFolder, recipe: Recipe, best_metric: str, step: int):
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self.folder, self.best_metric = folder, best_metric
        self.wandb = _start_wandb(folder, recipe) if recipe.log.wandb_project else None
        self.tensorboard = SummaryWriter(str(folder.tensorboard), purge_step=step)

    def write(self, history: Sequence[Row], best_epoch: int) -> None:
        """Write the history, whose last epoch is new, or the one with which a resumed run begins."""
        row = history[-1]
        self.write_files(history, best_epoch)
        for name, value in row.items():
            self.tensorboard.add_scalar(name.replace("_", "/", 1), value, int(row["step"]))
        if self.wandb and row["step"] >= self.wandb.step:  # of a resumed run: what it does not have yet
            self.wandb.log(row, step=int(row["step"]))

    def write_files(self, history: Sequence[Row], best_epoch: int) -> None:
        """log.csv and curve.png."""
        columns = list(dict.fromkeys(name for row in history for name in row))  # on a GPU there is one more
        rows = ([row.get(name, "") for name in columns] for row in history)
        write_table(self.folder.log, columns, rows)
        curves(history, self.best_metric, best_epoch).savefig(self.folder.curve, dpi=120)

    def close(self) -> None:
        self.tensorboard.close()
        if self.wandb:
            self.wandb.finish()


def curves(history: Sequence[Row], metric: str, best_epoch: int) -> "Figure":
    """Losses and the metric over the epochs, with the best epoch marked."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, names in zip(figure.subplots(1, 2), (("train_loss", "val_loss"), (f"val_{metric}",)), strict=True):
        for name in names:
            if name in history[-1]:
                axes.plot(epochs, [row[name] for row in history], marker=".", label=name.replace("_", " "))
        value = history[best_epoch - 1][f"val_{metric}"]
        axes.axvline(best_epoch, color="black", linestyle=":", label=f"best: epoch {best_epoch}, {metric} {value:.4g}")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def _start_wandb(folder: RunFolder, recipe: Recipe) -> Any:
    """A run of Weights & Biases that goes on where the folder's former one ended."""
    try:
        import wandb
    except ImportError as error:
        raise MissingPackage("log.wandb_project", "wandb", extra="wandb") from error
    name = folder.path.absolute()
    identity = hashlib.sha256(str(name).encode()).hexdigest()[:16]
    return wandb.init(
        project=recipe.log.wandb_project,
        name=name.name,
        id=identity,
        resume="allow",
        dir=str(folder.path),
        config=recipe.to_dict(),
    )
