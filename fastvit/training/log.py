"""What a run tells: on the console while it runs; as a table, curves and TensorBoard scalars for afterwards."""

import csv
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta

from torch import Tensor
from tqdm import tqdm

from fastvit.training.run_folder import RunFolder

Row = dict[str, float]  # an epoch: its number, steps so far, learning rate, losses, speed, metrics

STEPS_BETWEEN_READINGS = 10  # reading a loss waits for the device
SECONDS_BETWEEN_LINES = 30.0  # where no progress bar can be drawn


def say(line: str) -> None:
    """Print, above the progress bar if there is one."""
    tqdm.write(line)


def describe(row: Row, epochs: int) -> str:
    """An epoch in one line."""
    apart = ("epoch", "step", "images_per_second", "val_samples")
    figures = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name not in apart)
    return f"epoch {row['epoch']:.0f}/{epochs}  {figures}  {row['images_per_second']:.0f} images/s"


class LossMeter:
    """Mean of each named loss over some steps, summed on the device without waiting for it."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor | float] = {}
        self.steps = 0

    def update(self, losses: Mapping[str, Tensor]) -> None:
        self.steps += 1
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + loss.detach()

    def means(self) -> dict[str, float]:
        """`train_loss`, which is the sum of all; and each by its name if there are several."""
        means = {f"train_{name}": float(total) / self.steps for name, total in self.sums.items()}
        total = {"train_loss": sum(means.values())}
        return total | means if len(means) > 1 else total


class Progress:
    """A progress bar over all steps of the run, or a line now and then where there is no terminal."""

    def __init__(self, total_steps: int, step: int, batch_size: int):
        self.total_steps, self.batch_size = total_steps, batch_size
        on_terminal = sys.stderr.isatty()
        self.bar = tqdm(total=total_steps, initial=step, unit="step", dynamic_ncols=True, disable=not on_terminal)
        self.last_line = time.monotonic()
        self.start_epoch()

    def start_epoch(self) -> None:
        """Start the clock of the images per second."""
        self.epoch_start, self.epoch_steps = time.monotonic(), 0

    @property
    def images_per_second(self) -> float:
        """Over the epoch so far."""
        return self.epoch_steps * self.batch_size / (time.monotonic() - self.epoch_start)

    def advance(self, step: int, lr: float, losses: LossMeter) -> None:
        """One more step is done, which makes `step` of them."""
        self.epoch_steps += 1
        self.bar.update()
        if self.bar.disable:
            if time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
                self.last_line = time.monotonic()
                seconds_left = round((self.total_steps - step) * self.batch_size / self.images_per_second)
                figures = self._figures(lr, losses)
                say(f"step {step}/{self.total_steps}  {figures}  {timedelta(seconds=seconds_left)} left")
        elif step % STEPS_BETWEEN_READINGS == 0:
            self.bar.set_postfix_str(self._figures(lr, losses))  # the bar itself tells the time left

    def close(self) -> None:
        self.bar.close()

    def _figures(self, lr: float, losses: LossMeter) -> str:
        return f"loss {losses.means()['train_loss']:.4f}  lr {lr:.2e}  {self.images_per_second:.0f} images/s"


class RunLog:
    """The files that tell how a run went. All but TensorBoard's are written anew from the whole history each time."""

    def __init__(self, folder: RunFolder, best_metric: str, step: int):
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self.folder, self.best_metric = folder, best_metric
        self.tensorboard = SummaryWriter(str(folder.tensorboard), purge_step=step + 1)

    def write(self, history: Sequence[Row]) -> None:
        """Write the history, whose last epoch is new."""
        row = history[-1]
        with self.folder.log.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(row), lineterminator="\n")
            writer.writeheader()
            writer.writerows(history)
        for name, value in row.items():
            self.tensorboard.add_scalar(name.replace("_", "/", 1), value, int(row["step"]))
        self._draw_curves(history)

    def close(self) -> None:
        self.tensorboard.close()

    def _draw_curves(self, history: Sequence[Row]) -> None:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        epochs = [row["epoch"] for row in history]
        metric = f"val_{self.best_metric}"
        figure = Figure(figsize=(10, 4), layout="constrained")
        for axes, names in zip(figure.subplots(1, 2), (("train_loss", "val_loss"), (metric,)), strict=True):
            for name in names:
                if name in history[-1]:
                    axes.plot(epochs, [row[name] for row in history], marker=".", label=name.replace("_", " "))
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(alpha=0.3)
            axes.legend()
        figure.savefig(self.folder.curve, dpi=120)
