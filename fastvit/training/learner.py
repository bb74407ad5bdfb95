"""What learns, and one step of it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastvit.errors import RecipeError
from fastvit.runtime.compiler import require_compiler
from fastvit.runtime.device import BatchMover, autocast, read_later
from fastvit.runtime.processes import ALONE, Processes, batch_norm_statistics
from fastvit.runtime.randomness import Purpose, seed_everything
from fastvit.training.optimizer import build_optimizer, set_rates
from fastvit.training.recipe import Recipe
from fastvit.training.schedule import lr_schedule, weight_decay_schedule
from fastvit.training.snapshot import Snapshot
from fastvit.training.task import Task


class Step(NamedTuple):
    """What came of one optimizer step.

    Attributes:
        losses: the mean of each named loss in this process; None where the loss was not finite in some process. Then
            the step was skipped everywhere, and left no trace but in `Learner.nonfinite_steps`.
        signal: the largest that the processes gave.
    """

    losses: dict[str, Tensor] | None
    signal: int


class Learner:
    """A network in training, its moving average, its optimizer and gradient scaler.

    Args:
        model: on its device. With several processes, each builds the same one.
        steps_per_epoch: for the schedules.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        recipe: Recipe,
        *,
        device: torch.device,
        processes: Processes = ALONE,
        steps_per_epoch: int,
    ):
        self.task, self.recipe, self.device, self.processes = task, recipe, device, processes
        if recipe.loop.compile and device.type == "cpu":
            require_compiler("loop.compile=true")
        if recipe.loop.sync_batch_norm and processes.count > 1:
            if device.type != "cuda":
                raise RecipeError("loop.sync_batch_norm: torch has it for GPUs only; set it to false")
            model = task.synchronize_batch_norm(model)
        if recipe.loop.grad_checkpointing:
            _checkpoint_gradients(model)
        self.model = model
        ema = recipe.ema
        self.ema = ModelEmaV3(model, decay=ema.decay, use_warmup=ema.warmup) if ema else None
        self.optimizer = build_optimizer(model, recipe)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.loop.precision == "float16")
        self.to_device = BatchMover(device, channels_last=recipe.loop.channels_last)
        self.network = self._wrapped()
        self.lr_at = lr_schedule(recipe, steps_per_epoch)
        self.weight_decay_at = weight_decay_schedule(recipe, steps_per_epoch)
        self.buffers = Snapshot(model.buffers())
        self.nonfinite_steps = 0  # in a row

    def _wrapped(self) -> nn.Module:
        """The network as the loss calls it, with the same parameters."""
        network = self.model
        if self.processes.count > 1:
            # Each process keeps batch norm statistics of its own between `average_statistics`.
            network = DistributedDataParallel(network, broadcast_buffers=False, gradient_as_bucket_view=True)
        return torch.compile(network) if self.recipe.loop.compile else network

    @property
    def eval_model(self) -> nn.Module:
        """The network that counts: the moving average if there is one. Never compiled (pytorch#108863)."""
        return self.ema.module if self.ema else self.model

    def step(self, step: int, batches: Iterable[Any], *, signal: int = 0) -> Step:
        """One optimizer step on the batches that this process accumulates.

        Args:
            signal: what this process has to tell the others; told together with whether its loss is finite.
        """
        set_rates(self.optimizer, self.lr_at(step), self.weight_decay_at(step))
        self.buffers.take()
        self.optimizer.zero_grad()
        means, finite = self._accumulate_gradients(step, batches)
        skip, signal = self.processes.largest(not finite, signal)
        if skip:
            self.nonfinite_steps += 1
            self.buffers.restore()  # batch norm has seen what was not finite
            return Step(None, signal)
        self.nonfinite_steps = 0
        self._update_parameters()
        if self.ema:
            self.ema.update(self.model, step=step + 1)
        return Step(means, signal)

    def _accumulate_gradients(self, step: int, batches: Iterable[Any]) -> tuple[dict[str, Tensor], bool]:
        """The mean of each loss over the batches, and whether all were finite; the gradients are those of the means."""
        loop = self.recipe.loop
        means: dict[str, Tensor] = {}
        totals = []
        for index, batch in enumerate(batches):
            batch = self.to_device(batch)
            seed_everything(self.recipe.seed, Purpose.STEP, step, self.processes.part(index))
            with self._synchronized(index == loop.accumulation - 1):
                with autocast(self.device, loop.precision):
                    losses = self.task.losses(self.network, batch)
                mean = sum(losses.values()) / loop.accumulation
                totals.append(read_later(mean.detach()))  # asked for before the backward pass, so that nothing waits
                self.scaler.scale(mean).backward()
            for name, loss in losses.items():
                means[name] = means.get(name, 0.0) + loss.detach() / loop.accumulation
        return means, all(math.isfinite(total()) for total in totals)

    def _synchronized(self, last: bool) -> AbstractContextManager[None]:
        """Gradients go to the other processes once for a step, with its last batch."""
        if last or self.processes.count == 1:
            return nullcontext()
        # torch.compile wraps the network, but hands attributes through.
        return self.network.no_sync()

    def _update_parameters(self) -> None:
        if self.recipe.loop.clip_grad:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.loop.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def average_statistics(self) -> None:
        """Make the batch norm statistics of all processes their mean, also those of the moving average."""
        for statistics in self.statistics():
            self.processes.average(statistics)

    def state(self) -> dict[str, Any]:
        """All that changes, plain; the batch norm statistics are those of this process."""
        return {
            "state_dict": self.model.state_dict(),
            **({"state_dict_ema": self.ema.module.state_dict()} if self.ema else {}),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def statistics(self) -> list[list[Tensor]]:
        """The batch norm statistics of this process: of the network, and of its moving average if there is one."""
        return [batch_norm_statistics(model) for model in (self.model, self.ema and self.ema.module) if model]

    def restore(self, state: Mapping[str, Any], statistics: Sequence[Sequence[Tensor]]) -> None:
        """Stand where `state` and `statistics` were taken."""
        self.model.load_state_dict(state["state_dict"])
        if self.ema:
            self.ema.module.load_state_dict(state["state_dict_ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        for own, saved in zip(self.statistics(), statistics, strict=True):
            for buffer, value in zip(own, saved, strict=True):
                buffer.copy_(value)


def _checkpoint_gradients(model: nn.Module) -> None:
    if not hasattr(model, "set_grad_checkpointing"):
        raise RecipeError(f"loop.grad_checkpointing: {type(model).__name__} cannot do it; set it to false")
    model.set_grad_checkpointing()
