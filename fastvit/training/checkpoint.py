"""Checkpoints: tensors and plain containers only, written completely or not at all."""

import os
from pathlib import Path
from typing import Any

import torch

from fastvit.errors import RunError


def save_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint. If that fails or is killed halfway, the file that was there before is still whole."""
    temporary = path.with_name(f".{path.name}.tmp")  # in the same folder: replacing is atomic within a file system only
    try:
        with temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())  # on the disk before the name points to it
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of a run, onto the CPU, without running code from it.

    Raises:
        RunError: there is none, it is damaged, or `scripts/train.py` did not write it.
    """
    if not path.is_file():
        raise RunError(f"there is no checkpoint {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types here, each meaning that the file is not what it should be
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"{path} cannot be read as a checkpoint ({reason})") from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "recipe"} <= checkpoint.keys():
        raise RunError(f"{path} was not written by scripts/train.py: it carries no recipe")
    return checkpoint
