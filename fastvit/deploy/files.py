"""Files that get their place as a whole, when all is well, or not at all."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from fastvit.deploy.formats.format import Format
from fastvit.deploy.request import Request
from fastvit.deploy.sidecar import sidecar_path
from fastvit.errors import ExportError, UserError, reason_of


def require_free(path: Path, kind: Format, *, overwrite: bool) -> None:
    """Raise ExportError if something is there that must not be replaced."""
    if not path.name.endswith(kind.suffix):
        raise ExportError(f"{path} must end in {kind.suffix} to be a file of {kind.name}")
    taken = [file for file in (*kind.files(path), sidecar_path(path)) if file.exists()]
    if taken and not overwrite:
        raise ExportError(
            f"{taken[0]} exists already: choose another place, or overwrite it (--overwrite; in Python overwrite=True)"
        )


def require_space(folder: Path, request: Request) -> None:
    """Raise ExportError unless the weights fit into the folder, and into the system's for temporary files."""
    needed = sum(parameter.numel() * parameter.element_size() for parameter in request.network.parameters())
    for place in (folder, Path(tempfile.gettempdir())):
        if (free := shutil.disk_usage(place).free) < needed:
            raise ExportError(
                f"the disk of {place} is full: {free / 1e6:.1f} MB are left, and the weights alone take "
                f"{needed / 1e6:.1f} MB; make room"
            )


@contextmanager
def explained(problem: str, folder: Path, request: Request) -> Iterator[None]:
    """Converters and runtimes have errors of their own: within, they become an ExportError that begins with `problem`.

    They do not always say that the disk of `folder` is full, so that is looked at first.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the system; loading a library has none
            raise
        require_space(folder, request)
        raise ExportError(f"{problem} ({type(error).__name__}: {reason_of(error)})") from error


@contextmanager
def placed_when_done(path: Path, kind: Format) -> Iterator[Path]:
    """A path in a temporary folder; what is there at the end of a block without errors moves to `path`.

    An `OSError` in the block is taken for one of writing, and becomes an ExportError.
    """
    created = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".export-", dir=path.parent))  # moving is quick within a file system
    except OSError as error:
        raise ExportError(f"cannot write into {path.parent} ({error.strerror}): choose another folder") from error
    try:
        yield folder / path.name
        _move(folder / path.name, path, kind)
    except OSError as error:
        raise ExportError(f"cannot write {path} ({error.strerror or error})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # they stay if there is something in them
            for each in created:
                each.rmdir()


def _move(draft: Path, path: Path, kind: Format) -> None:
    mode = sidecar_path(draft).stat().st_mode  # as the umask gives it; some converters write for the owner only
    files = (*kind.files(draft), sidecar_path(draft))
    for file in files:
        for each in [file, *file.rglob("*")]:
            each.chmod(mode | (mode & 0o444) >> 2 if each.is_dir() else mode)  # who may read a folder may enter it
    old = draft.with_name(".old")
    old.mkdir()
    with ExitStack() as undo:
        for file in files:
            target, before = path.with_name(file.name), old / file.name
            if target.exists():
                target.replace(before)
                undo.callback(before.replace, target)
            file.replace(target)
            undo.callback(target.replace, file)
        undo.pop_all()
