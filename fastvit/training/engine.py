"""A run: epochs of training and evaluation, written down so that it can be stopped and resumed anywhere."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from fastvit.data.notices import sentences
from fastvit.errors import RunError, RunStopped
from fastvit.runtime.device import best_device, cuda_kernels
from fastvit.runtime.environment import environment
from fastvit.runtime.processes import ALONE, Processes
from fastvit.runtime.randomness import Purpose, seed_everything
from fastvit.runtime.signals import StopSignals
from fastvit.training.checkpoint import read_resumable, save_checkpoint
from fastvit.training.evaluation import evaluate
from fastvit.training.finished import changes, closing_lines, require_resumable, require_same_epoch
from fastvit.training.learner import Learner
from fastvit.training.loaders import StreamLoader, eval_loader, loader_of
from fastvit.training.log import LossMeter, Progress, Row, RunLog, describe, loss_figures, say
from fastvit.training.nonfinite import find_nonfinite, require_usable_scale
from fastvit.training.recipe import Recipe
from fastvit.training.run_folder import RunFolder
from fastvit.training.task import Task, open_train_and_val

STEPS_BETWEEN_SCALES = 20  # of float16's gradients: reading the scale waits for the device


def train(task: Task, recipe: Recipe, *, resume_from: Path | None = None, processes: Processes = ALONE) -> "Trainer":
    """Train as the recipe says.

    Args:
        resume_from: a checkpoint of the run in the recipe's output folder, to go on from.
        processes: this process among those of the run, if there are several.

    Raises:
        UserError: the recipe, the data or the output folder is not usable, or the loss diverges. Nothing is left behind
            then, or the last good checkpoint.
        RunStopped: SIGTERM or SIGINT has come. The run is saved where it stood.
    """
    folder = RunFolder(recipe.output)
    if resume_from:
        trainer = _resumed(task, recipe, folder, processes, resume_from)
        trainer.fit()
        return trainer
    processes.on_main(folder.require_unused)
    trainer = Trainer(task, recipe, folder, processes)
    processes.on_main(folder.create)
    try:
        processes.on_main(lambda: folder.describe(recipe))
        processes.on_main(lambda: task.write_split(trainer.train_data, folder.split))
        trainer.fit()
    except BaseException:
        if processes.is_main:
            folder.remove_unless_saved()  # the name is free for another try, for example once a bad image is repaired
        raise
    return trainer


def _resumed(task: Task, recipe: Recipe, folder: RunFolder, processes: Processes, path: Path) -> "Trainer":
    """A trainer that stands where the checkpoint was taken, which nobody keeps in memory from then on."""
    checkpoint = read_resumable(path)
    longer = require_resumable(checkpoint, recipe, path)
    trainer = Trainer(task, recipe, folder, processes, initial_weights=False)
    trainer.restore(checkpoint)
    processes.on_main(lambda: folder.describe(recipe))
    if longer:
        trainer.lengthen(longer)
    return trainer


@dataclass(frozen=True)
class Best:
    """The epoch whose weights are in best.pt."""

    epoch: int
    value: float


class Trainer:
    """A run in progress. All that changes is in `learner`, `step`, `losses`, `best` and `history`."""

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        folder: RunFolder,
        processes: Processes = ALONE,
        *,
        initial_weights: bool = True,
    ):
        self.task, self.recipe, self.folder, self.processes = task, recipe, folder, processes
        self.device = best_device(processes.local_rank)
        self._build_loaders()
        seed_everything(recipe.seed, Purpose.WEIGHTS)
        memory_format = torch.channels_last if recipe.loop.channels_last else torch.preserve_format
        model = task.build_model(initial_weights=initial_weights).to(self.device, memory_format=memory_format)
        task.prepare_training(self.device, self.train_data, self.batches)
        steps = self.batches.steps_per_epoch
        self.learner = Learner(task, model, recipe, device=self.device, processes=processes, steps_per_epoch=steps)
        self.total_steps = recipe.total_epochs * steps
        self.step = 0  # optimizer steps done
        self.losses = LossMeter()  # of the epoch so far
        self.best: Best | None = None
        self.history: list[Row] = []  # of whole epochs, evaluated
        self._said: set[str] = set()  # notices about the data

    def _build_loaders(self) -> None:
        self.train_data, self.val_data = open_train_and_val(self.task)
        self.batches = loader_of(self.task, self.train_data, self.processes, self.device)
        self.val_batches = eval_loader(
            self.val_data.samples,
            self.task.collate,
            batch_size=self.batches.batch_size,
            workers=self.recipe.data.workers,
            processes=self.processes,
            device=self.device,
        )

    def fit(self) -> None:
        """Train from where the run stands to its end; after each epoch evaluate and write everything down."""
        for line in (self.announcement(), *self._notices()):
            self._say(line)
        logged = self.history[-1]["step"] if self.history else 0
        log = RunLog(self.folder, self.recipe, self.task.best_metric, logged) if self.processes.is_main else None
        progress = Progress(self.total_steps, self.step, self.recipe.loop.batch_size, shown=self.processes.is_main)
        try:
            if log and self.history:
                log.write(self.history, self.best.epoch)  # a kill may have come between checkpoint and log
            loop = self.recipe.loop
            with StopSignals() as signals, cuda_kernels(tf32=loop.tf32, benchmark=loop.cudnn_benchmark):
                while len(self.history) < self.recipe.total_epochs:
                    self._fit_epoch(progress, signals, log)
        finally:
            progress.close()
            if log:
                log.close()
        metric, exportable = self.task.best_metric, self.task.exportable
        for line in closing_lines(
            self.folder, self.recipe, self.history, metric, self.best.epoch, exportable=exportable
        ):
            self._say(line)

    def _fit_epoch(self, progress: Progress, signals: StopSignals, log: RunLog | None) -> None:
        self._train_epoch(progress, signals)
        row = self._training_row(progress)
        self._save()  # an evaluation that fails or is killed does not cost the epoch
        self.history.append(row | self._evaluate())
        self.losses = LossMeter()
        self._save_if_best()
        self._save()
        for line in (describe(self.history[-1], self.recipe.total_epochs, self.task.headline), *self._notices()):
            self._say(line)
        if log:
            log.write(self.history, self.best.epoch)
        self._stop_if_asked(*self.processes.largest(signals.received))  # a scheduler may tell only one of them

    def _train_epoch(self, progress: Progress, signals: StopSignals) -> None:
        """Train to the end of the epoch in which the run stands."""
        epoch = len(self.history)
        start, steps = self.step - epoch * self.batches.steps_per_epoch, self.batches.steps_per_epoch
        self.learner.model.train()
        progress.start_epoch()
        if start == steps:
            return  # only the evaluation is missing
        micro_batches = self.task.training_batches(self.batches, epoch, start)
        for _ in range(start, steps):
            with progress.waiting_for_data():
                batches = list(islice(micro_batches, self.recipe.loop.accumulation))
            self._require_whole_step(batches, epoch)
            done = self.learner.step(self.step, batches, signal=signals.received)
            self.step += 1
            if done.losses:
                self.losses.update(done.losses)
            self._require_finite(batches)
            if self.step % STEPS_BETWEEN_SCALES == 0:
                require_usable_scale(self.learner.scaler, self.step, self._kept)
            progress.advance(self.step, self.learner.lr_at(self.step - 1), self.losses)
            within_epoch = self.step % steps != 0
            if within_epoch:
                self._stop_if_asked(done.signal)
                if self.recipe.loop.checkpoint_steps and self.step % self.recipe.loop.checkpoint_steps == 0:
                    self._save()
        self.learner.average_statistics()

    def _stop_if_asked(self, signal: int) -> None:
        if signal and self.step < self.total_steps:
            self._save()
            raise RunStopped(
                f"stopped at step {self.step} of {self.total_steps}; go on with --resume {self.folder.path}", signal
            )

    def _require_whole_step(self, batches: list[Any], epoch: int) -> None:
        if len(batches) < self.recipe.loop.accumulation:
            raise RunError(
                f"the data ended at step {self.step}, within epoch {epoch + 1} of {self.batches.steps_per_epoch} steps"
                ": the dataset has fewer samples than it says, or a stream not enough shards for data.workers"
            )

    def _require_finite(self, batches: list[Any]) -> None:
        """Stop on what would otherwise end in worthless checkpoints, or never."""
        skipped = self.learner.nonfinite_steps
        if skipped < self.recipe.loop.max_nonfinite_steps:
            return
        findings = self.processes.gather(find_nonfinite(self.learner, batches))
        first = next(filter(None, findings), "nothing when the last batch is computed again")
        raise RunError(
            f"the training loss is not finite for {skipped} steps, the last of them step {self.step} (epoch "
            f"{len(self.history) + 1}, learning rate {self.learner.lr_at(self.step - 1):g}). "
            f"Not finite first: {first}. Lower optimizer.lr or set loop.clip_grad in a new run "
            f"(a resumed one keeps its recipe); {self._kept}"
        )

    @property
    def _kept(self) -> str:
        """What a run that fails now leaves."""
        return f"{self.folder.last} is kept" if self.folder.last.exists() else "nothing was saved yet"

    def _training_row(self, progress: Progress) -> Row:
        means = self.losses.means()
        self.processes.average(list(means.values()))
        return {
            "epoch": len(self.history) + 1,
            "step": self.step,
            "lr": self.learner.lr_at(self.step - 1),
            **loss_figures(means),
            **progress.figures(self.device),
        }

    def _evaluate(self) -> Row:
        """The metrics over the validation data: of the network that counts, and one of the network in training."""
        loop, learner = self.recipe.loop, self.learner
        counted, *raw = evaluate(
            self.task,
            [learner.eval_model, learner.model] if learner.ema else [learner.model],
            self.val_batches,
            device=self.device,
            precision=loop.precision,
            channels_last=loop.channels_last,
            processes=self.processes,
        )
        row = {f"val_{name}": value for name, value in counted.report().items()}
        return row | {f"raw_{self.task.best_metric}": each.report()[self.task.best_metric] for each in raw}

    def _notices(self) -> list[str]:
        """What the data has to say, in any process, each sentence once in a run."""
        of_parts = (self.processes.union(data.notices()) for data in (self.train_data, self.val_data))
        notices = dict.fromkeys(sentence for notices in of_parts for sentence in sentences(notices))
        new = [notice for notice in notices if notice not in self._said]
        self._said.update(new)
        return new

    def _save_if_best(self) -> None:
        """Write best.pt if the last epoch is the best so far."""
        row = self.history[-1]
        value = row[f"val_{self.task.best_metric}"]
        sign = 1 if self.task.higher_is_better else -1
        if self.best is None or math.isnan(self.best.value) or sign * value > sign * self.best.value:
            self.best = Best(epoch=int(row["epoch"]), value=value)
            if self.processes.is_main:
                weights = {"state_dict": self.learner.eval_model.state_dict()}
                save_checkpoint(weights | self._description(), self.folder.best)

    def _save(self) -> None:
        """Write last.pt, from which all processes can go on; they wait until it is there.

        One that leaves before may end the main one with it, as `srun --kill-on-bad-exit=1` does.
        """
        for name, tensor in self.learner.model.state_dict().items():
            if not tensor.isfinite().all():
                raise RunError(f"{name} is not finite after step {self.step}; {self._kept}")
        statistics = self.processes.gather(self.learner.statistics())
        losses = self.losses.state()
        self.processes.average(list(losses["sums"].values()))
        of_all = {"statistics": statistics, "losses": losses}
        self.processes.on_main(
            lambda: save_checkpoint(self.state() | of_all, self.folder.last, keep=self.folder.previous)
        )

    def _description(self) -> dict[str, Any]:
        metrics = self.history[-1] if self.history else {}
        names = self.val_data.class_names
        return {
            "recipe": self.recipe.to_dict(),
            "class_names": list(names) if names else None,
            "metrics": metrics,
            "environment": environment(),
        }

    def state(self) -> dict[str, Any]:
        """All that this process needs to go on, plain, but for what is of all processes."""
        return {
            **self.learner.state(),
            "step": self.step,
            "steps_per_epoch": self.batches.steps_per_epoch,
            "best": vars(self.best) if self.best else None,
            "history": self.history,
            **self._description(),
        }

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Stand where the checkpoint was taken. Raises RunError if an epoch has another number of steps now."""
        require_same_epoch(checkpoint, self.batches.steps_per_epoch)
        of_stream = isinstance(self.batches, StreamLoader)
        for line in changes(checkpoint, self.recipe, self.processes.count, of_stream=of_stream):
            self._say(line)
        statistics = checkpoint["statistics"]
        if len(statistics) != self.processes.count:
            statistics = statistics[:1] * self.processes.count
        self.learner.restore(checkpoint, statistics[self.processes.rank])
        self.step = checkpoint["step"]
        self.losses = LossMeter.restored(checkpoint["losses"], self.device)
        self.best = Best(**checkpoint["best"]) if checkpoint["best"] else None
        self.history = checkpoint["history"]

    def lengthen(self, how: str) -> None:
        """Say and save that a finished run, which stands at its former end, is from now on one of more epochs."""
        before, after = self.history[-1]["lr"], self.learner.lr_at(self.step)
        self._say(f"{how}; the learning rate was {before:.3g} in the last step, and is {after:.3g} in the next")
        self._save()

    def announcement(self) -> str:
        """What is going to be trained, on what, in how many steps, at which rate."""
        recipe, loop, count = self.recipe, self.recipe.loop, self.processes.count
        parameters = sum(parameter.numel() for parameter in self.learner.model.parameters())
        base = recipe.optimizer.lr_batch_size
        rule = f"{recipe.optimizer.lr:g} * {loop.batch_size} / {base}" if base else "fixed: scale it if you change that"
        return (
            f"{type(self.learner.model).__name__} with {parameters:,} parameters on {self.device} in {loop.precision}\n"
            f"{len(self.train_data.samples)} training samples, {len(self.val_data.samples)} validation samples; "
            f"{self.batches.steps_per_epoch} steps per epoch, {self.total_steps} steps in all, {self.step} done\n"
            f"batch {loop.batch_size} = {count} processes x {loop.accumulation} accumulated x "
            f"{self.batches.batch_size}\n"
            f"{recipe.optimizer.name}, peak learning rate {recipe.peak_lr:g} for this batch ({rule})\n"
            f"output: {self.folder.path}"
        )

    def _say(self, line: str) -> None:
        if self.processes.is_main:
            say(line)
