"""Where to write; whether that can be done and there is room, known before the work."""

import shutil
import tempfile
from pathlib import Path

from fastvit.errors import RunError


def require_writable(folder: Path, name: str = "output") -> None:
    """Try to write where `folder` is or would be made, and leave nothing there.

    Args:
        name: what a user calls the folder: a key or an option.

    Raises:
        RunError: it cannot be written.
    """
    existing = _existing(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise RunError(
            f"{name} {folder} cannot be written: {existing} is not a writable folder ({error.strerror})"
        ) from error


def require_new_file(path: Path, *, overwrite: bool) -> None:
    """Raise RunError where a file, a command's --output, cannot be written, or is there and must not be replaced."""
    if not path.exists():
        require_writable(path.parent, "--output")
    elif not overwrite and not path.is_dir():
        raise RunError(f"{path} exists already: name another, or say --overwrite")
    else:
        try:
            path.open("ab").close()  # changes nothing
        except OSError as error:
            raise RunError(f"--output {path} cannot be written ({error.strerror}): name another file") from error


def beside(output: Path, suffix: str) -> Path:
    """A place beside a run's folder, called as that with a suffix."""
    output = output.absolute()  # "." has no name of its own
    return output.with_name(f"{output.name}{suffix}")


def require_room(folder: Path, size: int) -> None:
    """Raise RunError where the disk of a folder, which need not be there yet, has less room than `size` bytes."""
    existing = _existing(folder)
    free = shutil.disk_usage(existing).free
    if free < size:
        raise RunError(
            f"{existing} has room for {free:,} bytes, but {size:,} are needed: make room, or write elsewhere"
        )


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
