"""Files that are there as a whole or not at all, and tables."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def as_whole(path: Path) -> Iterator[Path]:
    """Another path, to write to, which then becomes `path`: an error or a kill leaves what was there before."""
    temporary = path.with_name(f".{path.name}.tmp")  # in the same folder: replacing is atomic within a file system only
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file with the names of its columns in the first line. Raises OSError.

    It is UTF-8, but for the names of files that are no text: they stay as they are.
    """
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
