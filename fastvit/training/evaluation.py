"""One pass through validation data."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from fastvit.runtime.device import BatchMover, autocast, cuda_kernels
from fastvit.runtime.processes import ALONE, Processes
from fastvit.training.task import Metrics, Network, Task


@torch.no_grad()
def evaluate(
    task: Task,
    models: Sequence[Network],
    batches: Iterable[Any],
    *,
    device: torch.device,
    precision: str = "float32",
    channels_last: bool = False,
    processes: Processes = ALONE,
) -> list[Metrics]:
    """The task's metrics of each model in one pass over all batches, in all processes. Leaves them in eval mode.

    A GPU computes as the task's recipe says, but tries cuDNN's algorithms only where images are of one size.
    """
    for model in models:
        if isinstance(model, nn.Module):
            model.eval()
    metrics = [task.new_metrics() for _ in models]
    to_device, loop = BatchMover(device, channels_last=channels_last), task.recipe.loop
    with cuda_kernels(tf32=loop.tf32, benchmark=loop.cudnn_benchmark and not task.val_sizes_differ):
        for batch in map(to_device, batches):
            with autocast(device, precision):
                for model, measured in zip(models, metrics, strict=True):
                    measured.update(task.predict(model, batch), batch)
    if processes.count > 1:
        metrics, *others = processes.gather(metrics)
        for other in others:
            for own, theirs in zip(metrics, other, strict=True):
                own.merge(theirs)
    return metrics
