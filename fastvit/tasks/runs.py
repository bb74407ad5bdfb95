"""The network that a run of `scripts/train.py` has trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from fastvit.errors import RunError
from fastvit.tasks import load_recipe, make_task
from fastvit.tasks.task import Task
from fastvit.training.checkpoint import read_checkpoint
from fastvit.training.run_folder import RunFolder


class TrainedRun(NamedTuple):
    """A task, its network in eval mode, the checkpoint that the weights are from, and the names of the classes."""

    task: Task
    model: nn.Module
    path: Path
    class_names: tuple[str, ...] | None


def open_run(source: Path, overrides: Sequence[str] = ()) -> TrainedRun:
    """The best network of a run; of a checkpoint, its moving average if there is one.

    Args:
        source: folder of a run, or a checkpoint in it.
        overrides: `key.sub=value` in place of what the run's recipe says.

    Raises:
        RunError: there is no such checkpoint, or it does not fit the overrides.
    """
    path = RunFolder(source).best if source.is_dir() else source
    checkpoint = read_checkpoint(path)
    task = make_task(load_recipe(checkpoint["recipe"], overrides))
    model = task.build_model(initial_weights=False).eval()
    try:
        model.load_state_dict(checkpoint.get("state_dict_ema", checkpoint["state_dict"]))
    except RuntimeError as error:
        raise RunError(f"the weights in {path} do not fit the model that the overrides describe") from error
    names = checkpoint.get("class_names")
    return TrainedRun(task, model, path, names and tuple(names))
