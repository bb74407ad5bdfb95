"""A run that has come to its end: what it says then; and what lets a run go on, also for more epochs."""

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastvit.config import differences, merge
from fastvit.errors import RunError
from fastvit.training.log import Row
from fastvit.training.recipe import Recipe
from fastvit.training.run_folder import RunFolder

LENGTH = ("epochs", "cooldown_epochs")  # keys of the schedule that may grow when a run is finished


def closing_lines(
    folder: RunFolder, recipe: Recipe, history: Sequence[Row], metric: str, best: int, *, exportable: bool
) -> list[str]:
    """What came out, where it is, and what to type next.

    Args:
        metric: that chooses the best epoch.
        best: that epoch, counted from 1.
        exportable: whether `fastvit export` takes the network.
    """
    value, last = (row[f"val_{metric}"] for row in (history[best - 1], history[-1]))
    epochs, run = recipe.schedule.epochs, shlex.quote(folder.path.as_posix())
    next_commands = {
        f"fastvit evaluate {run}": "all measures, as trained and fused",
        f"fastvit predict photo.jpg --model {run}": "on your own pictures",
        **({f"fastvit export {run} --format onnx": "for other runtimes"} if exportable else {}),
        f"fastvit train --resume {run} schedule.epochs={2 * epochs}": f"{epochs} more epochs",
    }
    width = max(map(len, next_commands))
    return [
        f"finished: {metric} {value:.4g} in epoch {best}, the best of {len(history)} ({last:.4g} in the last)",
        f"in {folder.path}: {', '.join(path.name for path in (folder.best, folder.last, folder.log, folder.curve))}",
        "next:",
        *(f"  {command:<{width}}  # {why}" for command, why in next_commands.items()),
    ]


def require_resumable(checkpoint: Mapping[str, Any], recipe: Recipe, path: Path) -> str:
    """Refuse to go on by another recipe, unless only keys differ that are free on resuming, or it is longer.

    Returns:
        How a finished run goes on for more epochs; "" where the run goes on as it was planned.

    Raises:
        RunError: other keys differ, the run is not finished, or its schedule would become shorter.
    """
    saved = checkpoint["recipe"]
    planned = merge(recipe.to_dict(), saved)  # with the keys that there were not when the run began
    before = {key: saved["schedule"].get(key, 0) for key in LENGTH}
    after = {key: getattr(recipe.schedule, key) for key in LENGTH}
    if changed := differences(merge(planned, {"schedule": after}), recipe.to_dict(), type(recipe)):
        raise RunError(f"{path} is of another recipe; these keys differ: {'; '.join(changed)}")
    if after == before:
        return ""
    asked = ", ".join(f"schedule.{key}={after[key]}" for key in LENGTH if after[key] != before[key])
    done, whole = len(checkpoint["history"]), sum(before.values())
    if done < whole:
        raise RunError(f"{asked}: {path} has had {done} of its {whole} epochs: resume it without that to its end first")
    if any(after[key] < before[key] for key in LENGTH):
        had = f"{before['epochs']} epochs and {before['cooldown_epochs']} of cooldown"
        raise RunError(f"{asked}: {path} has had {had}: neither can become less")
    return f"finished after {done} epochs, it goes on to {recipe.total_epochs}"


def changes(checkpoint: Mapping[str, Any], recipe: Recipe, processes: int, *, of_stream: bool = False) -> list[str]:
    """Sentences about what is not as it was when the checkpoint was taken, and does not stop the run.

    Args:
        processes: how many there are now.
        of_stream: each process has a part of the images of its own.
    """
    parts = _about_parts(checkpoint, recipe, processes, of_stream=of_stream)
    return [line for line in (_about_new_keys(checkpoint["recipe"], recipe), parts) if line]


def _about_new_keys(saved: Mapping[str, Any], recipe: Recipe) -> str:
    """About the keys of a recipe that there were not when the run began; "" if nothing follows from them."""
    new = differences(saved, merge(recipe.to_dict(), saved), type(recipe))
    told = "this run began before recipes had these keys, which may change what it does from here on"
    return f"{told}: {'; '.join(new)}" if new else ""


def _about_parts(checkpoint: Mapping[str, Any], recipe: Recipe, processes: int, *, of_stream: bool) -> str:
    """About a step that is divided otherwise than before; "" if it is not."""
    before = len(checkpoint["statistics"]), checkpoint["recipe"]["loop"]["accumulation"]
    now = processes, recipe.loop.accumulation
    if now == before:
        return ""
    told = "this run had {} processes x {} accumulated batches and goes on with {} x {}".format(*before, *now)
    normalized_alike = processes == before[0] or not recipe.loop.sync_batch_norm
    if math.prod(now) == math.prod(before) and normalized_alike and not of_stream:
        return f"{told}: a step sees the same images, mixed in the same way, and ends with other bits"
    return f"{told}: which images are in a step, mixed with each other, or seen by a batch norm may not be as before"


def require_same_epoch(checkpoint: Mapping[str, Any], steps: int) -> None:
    """Raise RunError if an epoch of the run had other than so many steps: nothing would stand where it stood."""
    history = checkpoint["history"]
    before = checkpoint.get("steps_per_epoch", history[0]["step"] if history else steps)  # not in older checkpoints
    if before != steps:
        raise RunError(
            f"an epoch of this run had {before} steps and would have {steps} now: its training data, or the workers or "
            "processes that read a stream, have changed; put them back, or begin a new run from its weights "
            "(model.checkpoint)"
        )
