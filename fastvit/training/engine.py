"""The training loop, the same for all tasks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from fastvit.errors import RunError
from fastvit.tasks.task import Task
from fastvit.training.checkpoint import read_checkpoint, save_checkpoint
from fastvit.training.config import differences
from fastvit.training.device import autocast, best_device, to_device
from fastvit.training.environment import environment
from fastvit.training.evaluation import evaluate
from fastvit.training.loaders import eval_loader, train_loader
from fastvit.training.log import LossMeter, Progress, Row, RunLog, describe, say
from fastvit.training.randomness import Purpose, seed_everything
from fastvit.training.recipe import OptimizerConfig, Recipe
from fastvit.training.run_folder import RunFolder
from fastvit.training.schedule import lr_schedule


def train(task: Task, recipe: Recipe, *, resume: bool = False) -> "Trainer":
    """Train as the recipe says, from the start or from the last checkpoint in its output folder.

    Raises:
        UserError: the recipe, the data or the output folder is not usable, or the loss diverges. Nothing is left behind
            then, or the checkpoints of the epochs before.
    """
    folder = RunFolder(recipe.output)
    if resume:
        checkpoint = read_checkpoint(folder.last)
        require_same_recipe(checkpoint["recipe"], recipe, folder)
        trainer = Trainer(task, recipe, folder, initial_weights=False)
        trainer.restore(checkpoint)
        folder.describe(recipe)
        trainer.fit()
        return trainer
    folder.require_unused()
    trainer = Trainer(task, recipe, folder)
    folder.create(recipe)
    try:
        trainer.fit()
    except BaseException:
        folder.remove_unless_saved()  # an unreadable image in the first epoch, say: the output is free to try again
        raise
    return trainer


def require_same_recipe(saved: Mapping[str, Any], recipe: Recipe, folder: RunFolder) -> None:
    """Refuse to go on with a run by another recipe, unless only keys differ that cannot change the result."""
    if changed := differences(saved, recipe.to_dict(), type(recipe)):
        raise RunError(f"{folder.last} is of another recipe; these keys differ: {'; '.join(changed)}")


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """timm's optimizer of that name, with weight decay on what has more than one dimension."""
    own = {"betas": config.betas, "eps": config.eps}
    given = {name: value for name, value in own.items() if value is not None}
    return create_optimizer_v2(model, config.name, lr=config.lr, weight_decay=config.weight_decay, **given)


@dataclass(frozen=True)
class Best:
    """The epoch whose weights are in best.pt."""

    epoch: int
    value: float


class Trainer:
    """A run in progress. All that changes is in `model`, `ema`, `optimizer`, `step`, `best` and `history`."""

    def __init__(self, task: Task, recipe: Recipe, folder: RunFolder, *, initial_weights: bool = True):
        self.task, self.recipe, self.folder = task, recipe, folder
        self.device = best_device()
        self._build_loaders()
        self._build_model(initial_weights)
        self.total_steps = recipe.schedule.epochs * self.batches.steps_per_epoch
        self.lr_at = lr_schedule(recipe.schedule, recipe.optimizer.lr, self.batches.steps_per_epoch)
        self.step = 0  # optimizer steps done
        self.best: Best | None = None
        self.history: list[Row] = []

    def _build_loaders(self) -> None:
        data, loop = self.task.build_datasets(), self.recipe.loop
        options = {"batch_size": loop.batch_size, "workers": self.recipe.data.workers}
        self.batches = train_loader(data.train, self.task.collate, seed=self.recipe.seed, **options)
        self.val_batches = eval_loader(data.val, self.task.collate, **options)

    def _build_model(self, initial_weights: bool) -> None:
        seed_everything(self.recipe.seed, Purpose.WEIGHTS)
        memory_format = torch.channels_last if self.recipe.loop.channels_last else torch.preserve_format
        self.model = self.task.build_model(initial_weights=initial_weights)
        self.model.to(self.device, memory_format=memory_format)
        ema = self.recipe.ema
        self.ema = ModelEmaV3(self.model, decay=ema.decay, use_warmup=ema.warmup) if ema else None
        self.optimizer = build_optimizer(self.model, self.recipe.optimizer)

    @property
    def eval_model(self) -> nn.Module:
        """The network that counts: the moving average if there is one. Never compiled (pytorch#108863)."""
        return self.ema.module if self.ema else self.model

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return self.lr_at(max(self.step - 1, 0))

    def fit(self) -> None:
        """Train from where the run stands to its end; after each epoch evaluate and write everything down."""
        say(self._announcement())
        log = RunLog(self.folder, self.task.best_metric, self.step)
        progress = Progress(self.total_steps, self.step, self.recipe.loop.batch_size)
        try:
            while self.step < self.total_steps:
                self.history.append(self._train_epoch(progress) | self._evaluate())
                for line in (describe(self.history[-1], self.recipe.schedule.epochs), *self.task.notices()):
                    say(line)
                self._save()
                log.write(self.history)
        finally:
            progress.close()
            log.close()

    def _announcement(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        loop, steps = self.recipe.loop, self.batches.steps_per_epoch
        return (
            f"{type(self.model).__name__} with {parameters:,} parameters on {self.device} in {loop.precision}\n"
            f"{len(self.val_batches.dataset)} validation samples; {steps} steps per epoch of batch {loop.batch_size}, "
            f"{self.total_steps} steps in all, {self.step} done\n"
            f"{self.recipe.optimizer.name}, peak learning rate {self.recipe.optimizer.lr:g}\n"
            f"output: {self.folder.path}"
        )

    def _train_epoch(self, progress: Progress) -> Row:
        """Train to the end of the epoch in which the run stands."""
        epoch, start = divmod(self.step, self.batches.steps_per_epoch)
        losses = LossMeter()
        self.model.train()
        progress.start_epoch()
        for batch in self.batches.batches(epoch, start):
            losses.update(self._train_step(to_device(batch, self.device, channels_last=self.recipe.loop.channels_last)))
            progress.advance(self.step, self.lr, losses)
        means = losses.means()  # waits for the device, so the speed is read after it
        self._require_sound_epoch(epoch, means)
        return {
            "epoch": epoch + 1,
            "step": self.step,
            "lr": self.lr,
            **means,
            "images_per_second": progress.images_per_second,
        }

    def _require_sound_epoch(self, epoch: int, losses: Mapping[str, float]) -> None:
        """Stop on what would otherwise end in worthless checkpoints, or never."""
        steps = self.batches.steps_per_epoch
        if self.step != (epoch + 1) * steps:
            raise RunError(
                f"the data ended at step {self.step}, within epoch {epoch + 1} of {steps} steps: "
                "a stream must give each worker whole batches; set data.workers=0"
            )
        if not all(math.isfinite(loss) for loss in losses.values()):
            raise RunError(
                f"the training loss is not finite in epoch {epoch + 1} (learning rate {self.lr:g}): lower optimizer.lr "
                "or set loop.clip_grad; the checkpoints are those of the epochs before"
            )

    def _train_step(self, batch: Any) -> dict[str, Tensor]:
        """One optimizer step; the losses of the batch."""
        seed_everything(self.recipe.seed, Purpose.STEP, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr_at(self.step) * group.get("lr_scale", 1.0)  # timm's key for layer-wise decay
        with autocast(self.device, self.recipe.loop.precision):
            losses = self.task.losses(self.model, batch)
        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        if self.recipe.loop.clip_grad:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.loop.clip_grad)
        self.optimizer.step()
        self.step += 1
        if self.ema:
            self.ema.update(self.model, step=self.step)
        return losses

    def _evaluate(self) -> Row:
        """The metrics of the network that counts, over the validation data."""
        loop = self.recipe.loop
        metrics = evaluate(
            self.task,
            self.eval_model,
            self.val_batches,
            device=self.device,
            precision=loop.precision,
            channels_last=loop.channels_last,
        )
        return {f"val_{name}": value for name, value in metrics.report().items()}

    def _save(self) -> None:
        """Write last.pt, and best.pt if this epoch is the best so far."""
        row = self.history[-1]
        value = row[f"val_{self.task.best_metric}"]
        sign = 1 if self.task.higher_is_better else -1
        is_best = self.best is None or sign * value > sign * self.best.value
        if is_best:
            self.best = Best(epoch=int(row["epoch"]), value=value)
            save_checkpoint({"state_dict": self.eval_model.state_dict(), **self._description()}, self.folder.best)
        save_checkpoint(self.state(), self.folder.last)

    def _description(self) -> dict[str, Any]:
        metrics = self.history[-1] if self.history else {}
        return {"recipe": self.recipe.to_dict(), "metrics": metrics, "environment": environment()}

    def state(self) -> dict[str, Any]:
        """All that a run needs to go on, plain."""
        return {
            "state_dict": self.model.state_dict(),
            **({"state_dict_ema": self.ema.module.state_dict()} if self.ema else {}),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "best": vars(self.best) if self.best else None,
            "history": self.history,
            **self._description(),
        }

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Stand where `state` was taken."""
        self.model.load_state_dict(checkpoint["state_dict"])
        if self.ema:
            self.ema.module.load_state_dict(checkpoint["state_dict_ema"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.step = checkpoint["step"]
        self.best = Best(**checkpoint["best"]) if checkpoint["best"] else None
        self.history = checkpoint["history"]
