"""Checkpoints: tensors and plain containers only, written completely or not at all."""

import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from fastvit.errors import RunError, reason_of
from fastvit.files import as_whole


def save_checkpoint(checkpoint: dict[str, Any], path: Path, *, keep: Path | None = None) -> None:
    """Write a checkpoint. If that fails or is killed halfway, the file that was there before is still whole.

    Args:
        keep: where that file goes; by default it is replaced.

    Raises:
        RunError: it cannot be written, for example because the disk is full.
    """
    try:
        with as_whole(path) as unfinished:
            with unfinished.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())  # on the disk before the name points to it
            if keep and path.exists():
                path.replace(keep)
    except (OSError, RuntimeError) as error:  # torch turns some of the former into the latter
        reason = reason_of(error)
        raise RunError(f"{path} cannot be written ({reason}); the one before it is whole: make room") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of a run, onto the CPU, without running code from it.

    Raises:
        RunError: there is none, it is damaged, or `fastvit train` did not write it.
    """
    if not path.is_file():
        raise RunError(f"there is no checkpoint {path}; name a file, or a folder that fastvit train has written")
    try:
        _require_intact(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types here, each meaning that the file is not what it should be
        raise RunError(f"{path} cannot be read as a checkpoint ({reason_of(error)})") from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "recipe"} <= checkpoint.keys():
        raise RunError(f"{path} was not written by fastvit train: it carries no recipe")
    return checkpoint


def read_resumable(path: Path) -> dict[str, Any]:
    """As `read_checkpoint`, for one that a run can go on from.

    Raises:
        RunError: as there; the message names the checkpoint before, if that one is whole.
    """
    previous = path.with_name("previous.pt")
    try:
        checkpoint = read_checkpoint(path)
    except RunError as error:
        if path == previous or not previous.is_file():
            raise
        step = read_resumable(previous)["step"]
        raise RunError(
            f"{error}; the one before it is whole: go on from step {step} with --resume {previous}"
        ) from error
    if "optimizer" not in checkpoint:
        raise RunError(f"{path} holds weights only; resume from last.pt or previous.pt")
    return checkpoint


def _require_intact(path: Path) -> None:
    """torch.load does not look at the checksums that torch.save writes."""
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"{damaged} is damaged")
