"""Where in a network numbers stop being finite, and when float16 has too little room for them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastvit.errors import RunError
from fastvit.runtime.device import autocast, tensors_of
from fastvit.training.learner import Learner

LOWEST_SCALE = 2.0**-20  # of float16's gradients: it begins at 2**16, and 36 skipped steps in a row lead there


def require_usable_scale(scaler: torch.amp.GradScaler, step: int, kept: str) -> None:
    """Raise RunError where float16's gradients are never finite, although the loss is: every step is skipped then.

    Args:
        scaler: it halves its scale with each step that it skips.
        step: steps so far.
        kept: what the run leaves, in words.
    """
    scale = scaler.get_scale()
    if scale < LOWEST_SCALE:
        raise RunError(
            f"loop.precision is float16, and the gradients are not finite although the loss is: their scale is down to "
            f"{scale:.0e}, and the steps before step {step} changed nothing. Set loop.precision=bfloat16 in a new run "
            f"(a resumed one keeps its recipe); {kept}"
        )


def find_nonfinite(learner: Learner, batches: Sequence[Any]) -> str | None:
    """What is not finite first when the batches go through the network: a parameter, a batch, or a module's output.

    None if nothing is in this process. All processes call this, with as many batches, and stop at the first that any of
    them finds: a synchronized batch norm waits for those that do not come. The network's batch norm statistics are not
    to be used afterwards.
    """
    for name, parameter in learner.model.named_parameters():
        if not parameter.isfinite().all():
            return f"parameter {name}"
    modules: list[str] = []  # whose outputs are not finite
    hooks = [
        module.register_forward_hook(_hook(name or type(module).__name__, modules))
        for name, module in learner.model.named_modules()
        if not any(module.children())  # of nested modules the innermost is first
    ]
    try:
        for batch in batches:
            batch = learner.to_device(batch)
            finding = None if _is_finite(batch) else "the batch itself"
            if any(learner.processes.largest(finding is not None)):
                return finding
            with torch.no_grad(), autocast(learner.device, learner.recipe.loop.precision):
                losses = learner.task.losses(learner.model, batch)
            finding = _first(modules, losses)
            if any(learner.processes.largest(finding is not None)):
                return finding
    finally:
        for hook in hooks:
            hook.remove()
    return None


def _first(modules: Sequence[str], losses: Mapping[str, Tensor]) -> str | None:
    if modules:
        return f"the output of module {modules[0]}"
    for name, loss in losses.items():
        if not loss.isfinite():
            return f"the loss {name}, of a finite output"
    return None


def _hook(name: str, found: list[str]) -> Any:
    def look(module: nn.Module, inputs: Any, outputs: Any) -> None:
        if not _is_finite(outputs):
            found.append(name)

    return look


def _is_finite(value: Any) -> bool:
    return all(tensor.isfinite().all() for tensor in tensors_of(value))
