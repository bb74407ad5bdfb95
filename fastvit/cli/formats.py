"""What the commands that write several formats share: targets are checked first, and one failure stops no other."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastvit.errors import ExportError, UserError

if TYPE_CHECKING:
    from fastvit.deploy.formats import Format


def targets(formats: "Sequence[Format]", folder: Path, name: str, *, overwrite: bool) -> "dict[Format, Path]":
    """The file of each format.

    Raises:
        ExportError: one is there already, or the folder cannot be written.
        MissingPackage: a format needs what is not installed.
    """
    from fastvit.deploy.export import require_free
    from fastvit.runtime.folders import require_writable

    paths, folder = {}, folder.expanduser()
    for kind in formats:
        kind.require()
        paths[kind] = folder / f"{name}{kind.suffix}"
        require_free(paths[kind], kind, overwrite=overwrite)
    require_writable(folder, "--output")
    return paths


def write_each(paths: "Mapping[Format, Path]", write: "Callable[[Format, Path], str]") -> None:
    """Write one after the other, and print what `write` returns. Raises ExportError at the end if some have failed."""
    failed: dict[str, str] = {}
    for kind, path in paths.items():
        try:
            print(write(kind, path), flush=True)
        except UserError as error:
            failed[kind.name] = error.sentence()
    if failed and len(paths) > 1:
        lines = [f"{name}: {sentence}" for name, sentence in failed.items()]
        raise ExportError("\n".join([f"{len(failed)} of {len(paths)} formats were not written", *lines]))
    if failed:
        raise ExportError(*failed.values())
