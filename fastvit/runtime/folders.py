"""Whether a folder can be written to, known before the work."""

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
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise RunError(
            f"{name} {folder} cannot be written: {existing} is not a writable folder ({error.strerror})"
        ) from error
