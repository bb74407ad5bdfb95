"""One pass through validation data."""

import torch
from torch import nn
from torch.utils.data import DataLoader

from fastvit.runtime.device import autocast, to_device
from fastvit.runtime.processes import ALONE, Processes
from fastvit.training.task import Metrics, Task


@torch.no_grad()
def evaluate(
    task: Task,
    model: nn.Module,
    batches: DataLoader,
    *,
    device: torch.device,
    precision: str = "float32",
    channels_last: bool = False,
    processes: Processes = ALONE,
) -> Metrics:
    """The task's metrics of a model over all batches, in all processes. Leaves the model in eval mode."""
    model.eval()
    metrics = task.new_metrics()
    for batch in batches:
        with autocast(device, precision):
            metrics.update(model, to_device(batch, device, channels_last=channels_last))
    if processes.count > 1:
        metrics, *others = processes.gather(metrics)
        for other in others:
            metrics.merge(other)
    return metrics
