"""The JSON file beside each exported network: what it takes and returns, what it was made from and checked with."""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastvit.deploy.formats import get_format
from fastvit.errors import ExportError

Sidecar = dict[str, Any]
LIST_OF_NUMBERS = re.compile(r"\[\n\s+([\d.eE+-]+(?:,\n\s+[\d.eE+-]+)*)\n\s+\]")  # is written in one line


def sidecar_path(path: Path) -> Path:
    """fastvit_t8.onnx -> fastvit_t8.onnx.json."""
    return path.with_name(f"{path.name}.json")


def write_sidecar(sidecar: Sidecar, path: Path) -> None:
    text = json.dumps(sidecar, indent=2, ensure_ascii=False)
    text = LIST_OF_NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)
    sidecar_path(path).write_text(f"{text}\n", encoding="utf-8")


def read_sidecar(path: Path) -> Sidecar:
    """What is said about the exported network `path`, whose files must be the ones that it is about.

    All of them may have been renamed together: what the files are called, `path` says.

    Raises:
        ExportError: a file is missing, was not written by `fastvit.deploy.export`, or has changed.
    """
    if not path.exists():
        raise ExportError(f"there is no exported network {path}")
    beside = sidecar_path(path)
    try:
        sidecar = json.loads(beside.read_text(encoding="utf-8"))
        files = get_format(sidecar["format"]).fixed(path)
        expected = dict(zip(files, sidecar["files"].values(), strict=True))
    except FileNotFoundError as error:
        raise ExportError(f"{beside} is missing, which says what {path.name} takes: copy it along") from error
    except ExportError as error:
        raise ExportError(f"{beside}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{beside} was not written by this version of fastvit's export: export it again") from error
    for file, digest in expected.items():
        if not file.exists():
            raise ExportError(f"{file} is missing, which belongs to {path.name}: copy it along")
        if sha256(file) != digest:
            raise ExportError(f"{file} is not the file that {beside.name} is about: export it again")
    return sidecar


def sha256(path: Path) -> str:
    """Of a file; of a folder, over the names and contents of all files in it."""
    digest = hashlib.sha256()
    for file in contents(path):
        if path.is_dir():
            digest.update(str(file.relative_to(path).as_posix()).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def size_in_bytes(paths: Iterable[Path]) -> int:
    return sum(file.stat().st_size for path in paths for file in contents(path))


def contents(path: Path) -> list[Path]:
    """A file, or all files in a folder."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
