"""Embeddings in files: .npz, or Parquet where pyarrow is installed. A file is there as a whole or not at all."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from fastvit.errors import DataError, RunError, require_packages
from fastvit.files import as_whole

SUFFIXES = (".npz", ".parquet")
LIST = "parts.json"  # names of the files that a folder is going to have
KEY = b"fastvit"  # in Parquet's metadata


@dataclass(frozen=True)
class Embeddings:
    """Rows of numbers, one for an image.

    Attributes:
        names: (N,), of the images.
        labels: (N,), their classes in words; "" where they are unknown.
        vectors: (N, D), float32.
        about: "model": what must be the same for two embeddings to be compared; "images": a fingerprint of them;
            "unreadable": those that are left out; and where it all comes from.
    """

    names: np.ndarray
    labels: np.ndarray
    vectors: np.ndarray
    about: dict[str, Any]

    def normalized(self) -> np.ndarray:
        """(N, D), each row of length 1."""
        return self.vectors / np.maximum(np.linalg.norm(self.vectors, axis=1, keepdims=True), 1e-12)


def write_embeddings(embeddings: Embeddings, path: Path) -> None:
    """As a whole or not at all. Raises RunError."""
    try:
        with as_whole(path) as unfinished, unfinished.open("wb") as file:
            if path.suffix == ".parquet":
                _write_parquet(embeddings, file)
            else:
                columns = {"names": embeddings.names, "labels": embeddings.labels, "embeddings": embeddings.vectors}
                np.savez(file, about=np.array(json.dumps(embeddings.about)), **columns)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written ({error.strerror or error}); the files before it are whole"
        ) from error


def read_about(path: Path) -> dict[str, Any]:
    """What a file says about itself, without the rest. Raises UserError."""
    if path.suffix == ".parquet":
        require_packages(f"reading {path}", "pyarrow", extra="features")
        import pyarrow.parquet

        with _explained(path):
            return json.loads(pyarrow.parquet.read_schema(path).metadata[KEY])
    with _explained(path), np.load(path) as arrays:
        return json.loads(str(arrays["about"]))


def read_embeddings(*paths: str | Path) -> Embeddings:
    """All embeddings in files and folders that `fastvit embed` wrote, in order.

    Raises:
        DataError: there are none, parts are missing, or they are of different models.
    """
    files = [file for path in paths for file in _files(Path(path))]
    abouts = [read_about(file) for file in files]
    for file, about in zip(files[1:], abouts[1:], strict=True):
        require_same_model(about["model"], abouts[0]["model"], str(file), str(files[0]))
    parts = [_read(file) for file in files]
    about = {key: value for key, value in abouts[0].items() if key != "images"}
    about["unreadable"] = [name for each in abouts for name in each["unreadable"]]
    names, labels, vectors = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Embeddings(names, labels, vectors, about)


def require_same_model(one: dict[str, Any], other: dict[str, Any], name: str, other_name: str) -> None:
    """Raise DataError where embeddings cannot be compared: other weights, other layer, other preprocessing."""
    if different := [
        f"{key} ({_short(one[key])}, {_short(other.get(key))})" for key in one if one[key] != other.get(key)
    ]:
        raise DataError(
            f"embeddings of different models are not compared: {name} and {other_name} differ in {', '.join(different)}"
        )


def _files(path: Path) -> list[Path]:
    """Of a folder, all its parts, which must be complete."""
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"there are no embeddings {path}: write them with fastvit embed")
        return [path]
    files = part_files(path)
    if not files:
        raise DataError(f"there are no embeddings in {path}: write them with fastvit embed")
    listed = path / LIST
    parts = json.loads(listed.read_text(encoding="utf-8")) if listed.exists() else []
    if missing := set(parts) - {file.name for file in files}:
        raise DataError(
            f"{path} lacks {len(missing)} of {len(parts)} parts: run the same fastvit embed again for the others"
        )
    return files


def write_list(paths: Sequence[Path]) -> None:
    """Write beside the parts which there are to be, so that a killed job is not taken for a finished one."""
    names = [path.name for path in paths]
    paths[0].with_name(LIST).write_text(json.dumps(names, indent=0), encoding="utf-8")


def part_files(folder: Path) -> list[Path]:
    """The finished parts in a folder."""
    return sorted(file for file in folder.glob("*") if file.suffix in SUFFIXES)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if path.suffix != ".parquet":
        with _explained(path), np.load(path) as arrays:
            return arrays["names"], arrays["labels"], arrays["embeddings"]
    import pyarrow.parquet

    with _explained(path):
        table = pyarrow.parquet.read_table(path)
    vectors = table["embedding"].combine_chunks()
    rows = vectors.flatten().to_numpy().reshape(len(table), vectors.type.list_size)
    return np.array(table["name"].to_pylist(), str), np.array(table["label"].to_pylist(), str), rows


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, BadZipFile) as error:  # pyarrow's are ValueErrors
        raise DataError(f"{path} is no file of embeddings that fastvit embed wrote, or it is damaged") from error


def _write_parquet(embeddings: Embeddings, file: Any) -> None:
    import pyarrow
    import pyarrow.parquet

    width = embeddings.vectors.shape[1]
    vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(embeddings.vectors.ravel()), width)
    columns = {"name": embeddings.names.tolist(), "label": embeddings.labels.tolist()}
    types = {name: pyarrow.array(map(_as_text, values), pyarrow.string()) for name, values in columns.items()}
    table = pyarrow.table({**types, "embedding": vectors}).replace_schema_metadata({KEY: json.dumps(embeddings.about)})
    pyarrow.parquet.write_table(table, file)


def _as_text(name: str) -> str:
    """A file name that is no text with its odd bytes escaped: Parquet's strings are UTF-8."""
    return name.encode(errors="backslashreplace").decode()


def _short(value: Any) -> str:
    return str(value)[:12] if isinstance(value, str) else json.dumps(value)
