"""What the commands that write several formats share: targets are checked first, and one failure stops no other."""

from collections.abc import Callable, Sequence
from pathlib import Path

from fastvit.errors import ExportError, UserError


def targets(formats: Sequence[str], folder: Path, name: str, *, overwrite: bool) -> dict[str, Path]:
    """The file of each format.

    Raises:
        ExportError: one is there already, or the folder cannot be written.
        MissingPackage: a format needs what is not installed.
    """
    from fastvit.deploy.export import require_free
    from fastvit.deploy.formats import get_format
    from fastvit.runtime.folders import require_writable

    paths = {}
    for each in formats:
        kind = get_format(each)
        kind.require()
        paths[each] = folder / f"{name}{kind.suffix}"
        require_free(paths[each], kind, overwrite=overwrite)
    require_writable(folder, "--output")
    return paths


def write_each(paths: dict[str, Path], write: Callable[[str, Path], str]) -> None:
    """Write one after the other, and print what `write` returns. Raises ExportError at the end if some have failed."""
    failed: dict[str, str] = {}
    for name, path in paths.items():
        try:
            print(write(name, path), flush=True)
        except UserError as error:
            failed[name] = error.sentence()
    if failed and len(paths) > 1:
        lines = [f"{name}: {sentence}" for name, sentence in failed.items()]
        raise ExportError("\n".join([f"{len(failed)} of {len(paths)} formats were not written", *lines]))
    if failed:
        raise ExportError(*failed.values())
